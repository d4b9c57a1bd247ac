"""What a forecaster of the benchmark returns, and the clock it is measured by."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from _series_data import Array, BenchmarkData
from peers import worker


@dataclass
class Run:
    """What a model did.

    Args:
        samples: (N, S, H, D).
        costs: fit_seconds, fit_cpu_seconds, predict_seconds, predict_cpu_seconds.
        evaluations: Evaluations of a network, one after the other, that one forecast takes.
        parameters: Trained numbers of the network.
        notes: What else the record should say.
    """

    samples: Array
    costs: dict[str, float]
    evaluations: int = 0
    parameters: int = 0
    notes: dict[str, Any] = field(default_factory=dict)


class Clock:
    """Adds up wall and CPU seconds, of this process and those it starts, by what was done."""

    def __init__(self) -> None:
        names = ("fit", "predict")
        self.costs = {f"{name}{unit}": 0.0 for name in names for unit in _UNITS}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count what is done inside towards `name`."""
        begin = time.perf_counter(), worker._cpu_seconds()
        yield
        for unit, first, last in zip(
            _UNITS, begin, (time.perf_counter(), worker._cpu_seconds()), strict=True
        ):
            self.costs[name + unit] += last - first


_UNITS = ("_seconds", "_cpu_seconds")


def by_window(samples: Array, data: BenchmarkData) -> Array:
    """(N D, S, H) of the series one by one -> (N, S, H, D)."""
    dim = data.observed.shape[2]
    return samples.reshape(-1, dim, *samples.shape[1:]).transpose(0, 2, 3, 1)
