"""Results: joint sample paths, and the frames that users get of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.errors import InputError
from scidiffusion.timeseries.frequency import quiet_business_days

if TYPE_CHECKING:
    from scidiffusion.timeseries.layout import FrameLayout

__all__ = ["QUANTILES", "Forecast", "ForecastSet", "check_levels"]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Levels that are returned unless others are asked for."""


@dataclass(frozen=True)
class Forecast:
    """Sample paths of one item.

    Args:
        item_id: Name of the item.
        names: Names of its D series.
        start: Period of the first step.
        samples: (S, H, D) paths in the unit of the data.
    """

    item_id: str
    names: tuple[str, ...]
    start: pd.Period
    samples: NDArray[np.float64]

    @property
    def index(self) -> pd.PeriodIndex:
        """Periods of the H steps."""
        with quiet_business_days():
            return pd.period_range(self.start, periods=self.samples.shape[1], freq=self.start.freq)

    @property
    def mean(self) -> NDArray[np.float64]:
        """(H, D) mean of the paths."""
        return np.asarray(self.samples.mean(axis=0))

    @property
    def median(self) -> NDArray[np.float64]:
        """(H, D) median of the paths."""
        return np.asarray(np.median(self.samples, axis=0))

    def quantile(self, q: float) -> NDArray[np.float64]:
        """(H, D) quantile of the paths in each step.

        Args:
            q: Level in [0, 1].

        Raises:
            InputError: if q lies outside [0, 1].
        """
        (level,) = check_levels([q])
        return np.asarray(np.quantile(self.samples, level, axis=0))

    def sum_over_series(self) -> Forecast:
        """Return the paths of the sum of the series: their quantiles do not add up."""
        total = self.samples.sum(axis=2, keepdims=True)
        return Forecast(self.item_id, ("sum",), self.start, total)


class ForecastSet(Sequence[Forecast]):
    """Forecasts of several items, and how the frame that they came from was laid out.

    Args:
        forecasts: The forecasts, at least one.
        layout: Of the frame.

    Raises:
        InputError: if there is no forecast.
    """

    def __init__(self, forecasts: Sequence[Forecast], layout: FrameLayout) -> None:
        self.forecasts, self.layout = tuple(forecasts), layout
        if not self.forecasts:
            raise InputError("there is no forecast: the set is empty")

    def __len__(self) -> int:
        return len(self.forecasts)

    @overload
    def __getitem__(self, index: int) -> Forecast: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Forecast]: ...
    def __getitem__(self, index: int | slice) -> Forecast | Sequence[Forecast]:
        return self.forecasts[index]

    def __iter__(self) -> Iterator[Forecast]:
        return iter(self.forecasts)

    def __repr__(self) -> str:
        paths, steps = self.forecasts[0].samples.shape[:2]
        items = "1 item" if len(self) == 1 else f"{len(self)} items"
        return f"ForecastSet({items}, {paths} paths of {steps} steps)"

    def to_frame(self, quantiles: Sequence[float] = QUANTILES) -> pd.DataFrame:
        """Return quantiles in the layout that was given.

        Args:
            quantiles: Levels in [0, 1].

        Returns:
            Long: columns of series, time and one named "0.05" a level; of several columns of
            values "price/0.05". Wide: an index of times, and columns (series, level); with one
            series the levels alone.

        Raises:
            InputError: if a level lies outside [0, 1] or occurs twice.
        """
        levels = check_levels(quantiles)
        tables = [
            np.moveaxis(np.quantile(forecast.samples, levels, axis=0), 0, -1) for forecast in self
        ]
        return self.layout.arrange(
            self._indexes(), self._names(), tables, [format(level, "g") for level in levels]
        )

    def mean_frame(self) -> pd.DataFrame:
        """Return means of the paths, laid out like the values of the frame that was given."""
        tables = [forecast.mean[..., None] for forecast in self]
        return self.layout.arrange(self._indexes(), self._names(), tables)

    def samples_frame(self) -> pd.DataFrame:
        """Return all paths, one below the other.

        Returns:
            Like `mean_frame`, once a path. Wide: an index of (sample, time). Long: with a column
            "sample". The same number is the same joint draw in all series of an item.
        """
        tables = [np.moveaxis(forecast.samples, 0, -1) for forecast in self]
        return self.layout.arrange(self._indexes(), self._names(), tables, draws=True)

    def _indexes(self) -> list[pd.PeriodIndex]:
        return [item.index for item in self]

    def _names(self) -> list[tuple[str, tuple[str, ...]]]:
        return [(item.item_id, item.names) for item in self]


def check_levels(quantiles: Sequence[float]) -> tuple[float, ...]:
    """Return levels as floats.

    Raises:
        InputError: if there is none, or one lies outside [0, 1] or occurs twice.
    """
    try:
        levels = tuple(float(level) for level in quantiles)
    except (TypeError, ValueError):
        raise InputError(
            f"quantiles must be levels in [0, 1], such as [0.1, 0.5, 0.9]; got {quantiles!r}"
        ) from None
    if not levels or len({format(level, "g") for level in levels}) < len(levels):
        raise InputError(f"quantiles must be different levels, at least one; got {quantiles!r}")
    for level in levels:
        if not 0 <= level <= 1:
            raise InputError(f"a quantile level must lie in [0, 1], got {level}")
    return levels
