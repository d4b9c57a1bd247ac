"""A progress bar for counted work, on standard error, with the time that is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(
    total: int, *, enabled: bool, unit: str = "rows", task: str = "sampling"
) -> Iterator[Callable[[int], None] | None]:
    """Show how many rows, or other units, are done.

    Args:
        total: Number of rows in all.
        enabled: False shows nothing.
        unit: What is counted.
        task: What is done.

    Yields:
        A function of the number done so far, or None if nothing is shown.
    """
    if not enabled:
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn(task),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        counted = bar.add_task("", total=total)

        def advance(done: int) -> None:
            bar.update(counted, completed=done)

        yield advance
