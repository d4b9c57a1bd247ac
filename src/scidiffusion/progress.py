"""A progress bar for sampling, on standard error, with the time that is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def sampling_progress(
    total: int, *, enabled: bool, unit: str = "rows"
) -> Iterator[Callable[[int], None] | None]:
    """Show how many rows are done.

    Args:
        total: Number of rows in all.
        enabled: False shows nothing.
        unit: What is counted.

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
        TextColumn("sampling"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task("", total=total)

        def advance(done: int) -> None:
            bar.update(task, completed=done)

        yield advance
