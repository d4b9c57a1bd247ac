"""Processes that share work on molecules, each with one thread."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

Mapper = Callable[..., Iterator[Any]]


@contextmanager
def mapper(
    workers: int, begin: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()
) -> Iterator[Mapper]:
    """Give a `map` over a number of processes; with one worker the plain `map`.

    Args:
        workers: Number of processes.
        begin: Called in every process first; not with one worker.
        arguments: What it is called with.
    """
    if workers == 1:
        yield map
        return
    # Forking a process that has threads (torch) can hang the child.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin, initargs=(begin, arguments)
    ) as pool:
        yield pool.map


def _begin(begin: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    import torch

    torch.set_num_threads(1)
    if begin is not None:
        begin(*arguments)
