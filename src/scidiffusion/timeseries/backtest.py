"""Backtests: forecasts from past origins, scored beside the floors.

The last `windows` horizons of every item are forecast, each from its own origin, by one model that
has seen nothing of them. The scores stand beside those of forecasters that need no training, since
a figure alone says nothing: on many series a random walk is hard to beat.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.errors import DataError, InputError
from scidiffusion.timeseries.floors import FLOORS
from scidiffusion.timeseries.frequency import quiet_business_days, seasons
from scidiffusion.timeseries.model import SeriesModel
from scidiffusion.timeseries.scores import (
    ForecastScores,
    pit_values,
    render_scores,
    score_forecasts,
)
from scidiffusion.timeseries.series import Series, SeriesSet

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Backtest", "run_backtest", "split_backtest"]

OURS = "diffusion"
SHORT = {
    "gaussian_walk": "walk",
    "seasonal_naive_gaussian": "seasonal",
    "seasonal_block_bootstrap": "bootstrap",
}
"""What the floors are called where four columns must fit on a terminal."""


@dataclass(frozen=True)
class Backtest:
    """Forecasts from past origins and their scores.

    Args:
        scores: Name of the forecaster -> its scores; "diffusion" and the floors.
        samples: (N, S, H, D) paths of the diffusion, item by item, oldest origin first.
        observed: (N, H, D) what came.
        pasts: The N series up to their origins.
        windows: Number of origins an item.
        horizon: Steps H.
    """

    scores: dict[str, ForecastScores]
    samples: NDArray[np.float64]
    observed: NDArray[np.float64]
    pasts: tuple[Series, ...]
    windows: int
    horizon: int

    def to_frame(self) -> pd.DataFrame:
        """Return one row a forecaster, one column a score; "pit" holds lists."""
        names = list(self.scores)
        return pd.DataFrame([row.as_dict() for row in self.scores.values()], index=names)

    def to_json(self) -> str:
        """Return the scores as JSON; a figure that is not defined is null."""
        return json.dumps(
            {name: row.as_dict() for name, row in self.scores.items()}, indent=1, allow_nan=False
        )

    def render(self) -> Table:
        """Return the scores as a table for the terminal, 80 columns wide."""
        title = f"Backtest: {self.windows} windows of {self.horizon} steps"
        items = len(self.pasts) // self.windows
        if items > 1:
            title += f", {items} series"
        return render_scores(
            {SHORT.get(name, name): scores for name, scores in self.scores.items()}, title=title
        )

    def show(self) -> None:
        """Print the scores."""
        from rich.console import Console

        Console().print(self.render())

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=80, file=StringIO())
        console.print(self.render())
        return console.file.getvalue()  # type: ignore[attr-defined]

    def pit(self, seed: int = 0) -> NDArray[np.float64]:
        """(N, H, D) probability integral transforms, uniform for calibrated forecasts."""
        return pit_values(self.observed, self.samples, seed=seed)

    def plot(self, item: int = 0, *, path: str | Path | None = None) -> Any:
        """Draw the forecasts of one item over what came; see `plots.plot_backtest`.

        Args:
            item: Number of the item.
            path: Where to save the picture.

        Raises:
            InputError: if there is no such item.
        """
        with quiet_business_days():
            return self._plot(item, path)

    def _plot(self, item: int, path: str | Path | None) -> Any:
        from scidiffusion.timeseries.plots import plot_backtest

        items = len(self.pasts) // self.windows
        if not 0 <= item < items:
            raise InputError(f"item must be 0 to {items - 1}, the number of a series; got {item}")
        last = self.pasts[(item + 1) * self.windows - 1]
        target = np.concatenate(
            [last.target, self.observed[(item + 1) * self.windows - 1].T], axis=1
        )
        index = pd.period_range(last.start, periods=target.shape[1], freq=last.start.freq)
        shown = min(target.shape[1], (self.windows + 3) * self.horizon)
        actual = pd.DataFrame(target.T, index=index, columns=list(last.names))[-shown:]
        parts = []
        for number in range(item * self.windows, (item + 1) * self.windows):
            past = self.pasts[number]
            start = past.start + past.length
            steps = pd.period_range(start, periods=self.horizon, freq=start.freq)
            parts.append((steps, self.samples[number]))
        return plot_backtest(parts, actual, path=path)

    def plot_pit(self, *, path: str | Path | None = None) -> Any:
        """Draw the histogram of `pit`; see `plots.plot_pit`."""
        from scidiffusion.timeseries.plots import plot_pit

        return plot_pit(self.pit(), path=path)


def split_backtest(
    series: SeriesSet, horizon: int, windows: int
) -> tuple[SeriesSet, list[Series], NDArray[np.float64]]:
    """Cut off what is to be forecast.

    Args:
        series: The items.
        horizon: Steps H of a window.
        windows: Number of windows, one after another at the end.

    Returns:
        The series before the first window; the pasts of all windows, item by item, oldest first;
        what came, (N, H, D).

    Raises:
        InputError: if `windows` is not a positive integer.
        DataError: if an item is too short (the message says how long it must be), has no value
            before the windows, or none has any in them.
    """
    if isinstance(windows, bool) or not isinstance(windows, int | np.integer) or windows < 1:
        raise InputError(f"windows must be an integer >= 1, got {windows!r}")
    windows = int(windows)
    needed = (windows + 1) * horizon + 1
    for item in series:
        if item.length < needed:
            raise DataError(
                f"series {item.item_id!r} has {item.length} steps, but a backtest of {windows} "
                f"windows of {horizon} steps needs at least {needed}; ask for fewer windows, or "
                "leave the series out"
            )
        origin = item.length - windows * horizon
        unseen = ~np.isfinite(item.target[:, :origin]).any(axis=1)
        if unseen.any():
            raise DataError(
                f"series {item.names[int(np.argmax(unseen))]!r} has no value in the {origin} "
                "steps before the first window; ask for fewer windows, or leave the series out"
            )
    if not any(np.isfinite(item.target[:, -windows * horizon :]).any() for item in series):
        raise DataError(
            f"the last {windows} x {horizon} steps hold no value: there is nothing to compare "
            "forecasts with; leave these rows out"
        )
    before = SeriesSet([item.cut(item.length - windows * horizon) for item in series], series.freq)
    pasts, observed = [], []
    for item in series:
        for window in range(windows, 0, -1):
            origin = item.length - window * horizon
            pasts.append(item.cut(origin))
            observed.append(item.target[:, origin : origin + horizon].T)
    return before, pasts, np.stack(observed)


def run_backtest(
    model: SeriesModel,
    pasts: Sequence[Series],
    observed: NDArray[np.float64],
    windows: int,
    *,
    num_samples: int = 100,
    num_steps: int | None = None,
    seed: int = 0,
    floors: Sequence[str] = tuple(FLOORS),
    progress: Callable[[int], None] | None = None,
) -> Backtest:
    """Forecast from every past and score, beside the floors.

    Args:
        model: Fitted on nothing of `observed`.
        pasts: N series up to their origins.
        observed: (N, H, D).
        windows: Number of origins an item.
        num_samples: Paths a forecast.
        num_steps: Network evaluations.
        seed: Seed.
        floors: Names of `FLOORS`.
        progress: Called with the number of forecasts done.

    Returns:
        Forecasts and scores; MASE is in units of the first season of the frequency.
    """
    horizon = observed.shape[1]
    periods = seasons(model.freq)
    season = periods[0] if periods else 1
    samples = np.stack(
        model.forecast(
            pasts, num_samples=num_samples, num_steps=num_steps, seed=seed, progress=progress
        )
    )
    train = [past.target for past in pasts]
    last = np.stack([_last(past.target) for past in pasts])

    def score(paths: NDArray[np.float64], *, paired: bool = False) -> ForecastScores:
        return score_forecasts(
            observed, paths, last=last, train=train, season=season, seed=seed, paired=paired
        )

    scores = {OURS: score(samples, paired=bool(model.options.get("antithetic")))}
    for name in floors:
        paths = [
            FLOORS[name](past, horizon, num_samples, season=season, seed=seed + number)
            for number, past in enumerate(pasts)
        ]
        scores[name] = score(np.stack(paths))
    return Backtest(scores, samples, observed, tuple(pasts), windows, horizon)


def _last(target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Last observed value of each series, (D,); NaN where there is none."""
    return np.array(
        [row[np.isfinite(row)][-1] if np.isfinite(row).any() else np.nan for row in target]
    )
