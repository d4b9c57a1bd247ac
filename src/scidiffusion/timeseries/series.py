"""What a forecaster is given: aligned series with what is known beside them.

A `Series` is one *item*: D series on one time axis that are forecast together (D = 1 is the
univariate case), their missing values as NaN, and covariates. A `SeriesSet` is any number of items
of one frequency. Both are plain containers; where they come from (pandas frames, GluonTS entries)
is the business of `scidiffusion.timeseries.frames` and `scidiffusion.timeseries.gluonts`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.errors import DataError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """One item: D aligned series of T steps.

    Args:
        target: (D, T) values; NaN is a missing one.
        start: Period of the first step.
        item_id: Name of the item, for messages and results.
        names: Names of the D series; default "0", "1", ...
        known: (K, >= T) covariates known in advance (weather forecasts, holidays, prices), which
            reach to the end of the horizon when forecasting.
        past: (P, T) covariates known up to now only.
        static_real: (R,) real properties of the item.
        static_cat: (C,) classes of the item, integers >= 0.

    Raises:
        DataError: if shapes do not fit together, or a value is infinite.
    """

    target: Array
    start: pd.Period
    item_id: str = "0"
    names: tuple[str, ...] = ()
    known: Array = field(default_factory=lambda: np.empty((0, 0)))
    past: Array = field(default_factory=lambda: np.empty((0, 0)))
    static_real: Array = field(default_factory=lambda: np.empty(0))
    static_cat: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def __post_init__(self) -> None:
        target = np.atleast_2d(np.asarray(self.target, dtype=np.float64))
        if target.ndim != 2 or target.shape[0] < 1:
            raise DataError(f"series {self.item_id!r}: the target must be (D, T) numbers")
        object.__setattr__(self, "target", target)
        names = self.names or tuple(str(index) for index in range(target.shape[0]))
        if len(names) != target.shape[0]:
            raise DataError(
                f"series {self.item_id!r}: {len(names)} names for {target.shape[0]} series"
            )
        object.__setattr__(self, "names", tuple(str(name) for name in names))
        for name in ("known", "past"):
            value = np.asarray(getattr(self, name), dtype=np.float64)
            if value.size == 0:
                value = np.empty((0, self.length))
            if value.ndim != 2 or value.shape[1] < self.length:
                raise DataError(
                    f"series {self.item_id!r}: the {name} covariates must be (number, at least "
                    f"{self.length} steps), got {value.shape}"
                )
            object.__setattr__(self, name, value)
        real = np.asarray(self.static_real, dtype=np.float64).reshape(-1)
        object.__setattr__(self, "static_real", real)
        cat = np.asarray(self.static_cat).reshape(-1).astype(np.int64)
        object.__setattr__(self, "static_cat", cat)
        for name in ("target", "known", "past"):
            value = getattr(self, name)
            infinite = np.argwhere(np.isinf(value))
            if len(infinite):
                row, step = (int(place) for place in infinite[0])
                label = self.names[row] if name == "target" else f"{name} covariate {row}"
                raise DataError(
                    f"series {self.item_id!r}: {label} is infinite at {self.start + step}; "
                    "replace the value, or make it NaN (missing)"
                )
        if not np.isfinite(real).all():
            raise DataError(f"series {self.item_id!r}: static_real must be finite, got {real}")

    @property
    def length(self) -> int:
        """Number of steps T of the target."""
        return int(self.target.shape[1])

    @property
    def dim(self) -> int:
        """Number of series D."""
        return int(self.target.shape[0])

    @property
    def index(self) -> pd.PeriodIndex:
        """Periods of the target."""
        return pd.period_range(self.start, periods=self.length, freq=self.start.freq)

    def cut(self, length: int) -> Series:
        """Return the first `length` steps; covariates known in advance stay whole."""
        return replace(self, target=self.target[:, :length], past=self.past[:, :length])

    def tail(self, length: int) -> Series:
        """Return the last `length` steps of the target, and all that follows of `known`."""
        first = max(self.length - length, 0)
        with warnings.catch_warnings():
            # Periods of business days are deprecated, and there is nothing else to count them by.
            warnings.filterwarnings("ignore", r"Period(Dtype\[B\]| with BDay)", FutureWarning)
            start = self.start + first
        return replace(
            self,
            target=self.target[:, first:],
            start=start,
            known=self.known[:, first:],
            past=self.past[:, first:],
        )


@dataclass(frozen=True)
class SeriesSet:
    """Items of one frequency and of one number of series and covariates.

    Args:
        items: The items, at least one.
        freq: Their frequency, as `scidiffusion.timeseries.frequency` normalises it.

    Raises:
        DataError: if there are no items, or one differs from the first.
    """

    items: tuple[Series, ...]
    freq: str

    def __init__(self, items: Sequence[Series], freq: str) -> None:
        object.__setattr__(self, "items", tuple(items))
        object.__setattr__(self, "freq", freq)
        if not self.items:
            raise DataError("there are no series: the data is empty")
        first = self.items[0]
        for item in self.items[1:]:
            for what in ("target", "known", "past", "static_real", "static_cat"):
                ours, theirs = len(getattr(item, what)), len(getattr(first, what))
                if ours != theirs:
                    raise DataError(
                        f"series {item.item_id!r} has {ours} {what} rows, but "
                        f"{first.item_id!r} has {theirs}; every item must have the same"
                    )

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Series]:
        return iter(self.items)

    def __getitem__(self, index: int) -> Series:
        return self.items[index]

    @property
    def dim(self) -> int:
        """Number of series D of an item."""
        return self.items[0].dim

    @property
    def steps(self) -> int:
        """Number of steps of all items together."""
        return sum(item.length for item in self.items)
