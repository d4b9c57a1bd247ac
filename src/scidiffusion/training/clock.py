"""Wall clock of a run that may have been interrupted."""

from __future__ import annotations

import time


class Clock:
    """Seconds of training, over all the parts of an interrupted run.

    Args:
        before: Seconds that earlier parts took.
    """

    def __init__(self, before: float = 0.0) -> None:
        self._before = before
        self._started: float | None = None

    def start(self) -> None:
        """Start, unless it runs."""
        if self._started is None:
            self._started = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds so far."""
        since = 0.0 if self._started is None else time.monotonic() - self._started
        return self._before + since
