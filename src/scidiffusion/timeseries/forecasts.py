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

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Forecast:
    """Sample paths of one item.

    Args:
        item_id: Name of the item.
        names: Names of its D series.
        start: Period of the first step.
        samples: (S, H, D) paths.
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

        Raises:
            InputError: if q lies outside [0, 1].
        """
        if not 0 <= q <= 1:
            raise InputError(f"a quantile level must lie in [0, 1], got {q}")
        return np.asarray(np.quantile(self.samples, q, axis=0))

    def sum_over_series(self) -> Forecast:
        """Return the paths of the sum of the series: quantiles of it do not add up."""
        total = self.samples.sum(axis=2, keepdims=True)
        return Forecast(self.item_id, ("sum",), self.start, total)


class ForecastSet(Sequence[Forecast]):
    """Forecasts of several items, and how the frame they came from was laid out.

    Args:
        forecasts: The forecasts.
        layout: Of the frame.
    """

    def __init__(self, forecasts: Sequence[Forecast], layout: FrameLayout) -> None:
        self.forecasts, self.layout = tuple(forecasts), layout

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
        return f"ForecastSet({len(self)} items, {paths} paths of {steps} steps)"

    def to_frame(self, quantiles: Sequence[float] = QUANTILES) -> pd.DataFrame:
        """Quantiles in the layout that was given.

        Args:
            quantiles: Levels in [0, 1].

        Returns:
            Long: columns of series, time and one named "0.05" a level. Wide: an index of times,
            and columns (series, level); with one series the levels alone.
        """
        levels = [format(level, "g") for level in quantiles]
        tables = [
            np.stack([forecast.quantile(level) for level in quantiles], axis=-1)
            for forecast in self
        ]
        return self.layout.arrange([item.index for item in self], self._names(), tables, levels)

    def mean_frame(self) -> pd.DataFrame:
        """Means of the paths, laid out exactly like the frame that was given."""
        tables = [forecast.mean[..., None] for forecast in self]
        return self.layout.arrange([item.index for item in self], self._names(), tables, None)

    def samples_frame(self) -> pd.DataFrame:
        """All paths: like `mean_frame`, once a path, with a column or index level "sample"."""
        count = len(self[0].samples)
        frames = []
        for number in range(count):
            tables = [forecast.samples[number][..., None] for forecast in self]
            frames.append(
                self.layout.arrange([item.index for item in self], self._names(), tables, None)
            )
        if self.layout.long:
            parts = [frame.assign(sample=number) for number, frame in enumerate(frames)]
            return pd.concat(parts, ignore_index=True)
        return pd.concat(frames, keys=range(count), names=["sample", self.layout.index_name])

    def _names(self) -> list[tuple[str, tuple[str, ...]]]:
        return [(item.item_id, item.names) for item in self]
