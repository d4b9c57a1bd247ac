"""Calibration, all figures of one forecaster, and a table of several beside each other.

A figure alone says little: print it beside those of `scidiffusion.timeseries.floors`. Losses are
defined in `scidiffusion.timeseries.scoring_rules`, whose functions are found here as well; here
are the figures that are best at a value of their own: coverage at its level, PIT values uniform.

References:
    Gneiting, Balabdaoui & Raftery, "Probabilistic forecasts, calibration and sharpness", 2007.
    Czado, Gneiting & Held, "Predictive model assessment for count data", 2009 (randomised PIT).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scidiffusion.errors import ConfigError, DataError
from scidiffusion.timeseries.scoring_rules import (
    NINE_LEVELS,
    NINETEEN_LEVELS,
    checked_joint_pair,
    checked_pair,
    crps,
    crps_sum,
    energy_score,
    fair_crps,
    mase,
    normalised_deviation,
    nrmse,
    sample_quantiles,
    seasonal_scale,
    variogram_score,
    weighted_quantile_loss,
)

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "NINETEEN_LEVELS",
    "NINE_LEVELS",
    "ForecastScores",
    "coverage",
    "coverage_sum",
    "crps",
    "crps_sum",
    "energy_score",
    "fair_crps",
    "mase",
    "normalised_deviation",
    "nrmse",
    "pit_histogram",
    "pit_values",
    "render_scores",
    "sample_quantiles",
    "score_forecasts",
    "seasonal_scale",
    "variogram_score",
    "weighted_quantile_loss",
]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ForecastScores:
    """The figures of one forecaster; None where a figure does not apply or is not defined.

    Args:
        windows: Number of windows N.
        num_samples: Sample paths a window S.
        crps: Mean weighted quantile loss at levels 0.05, ..., 0.95.
        crps_nine: The same at levels 0.1, ..., 0.9.
        nd: Absolute error of the median over the sum of |observed|.
        nrmse: Root mean square error of the mean over the mean of |observed|.
        coverage_50: Share of the observations in the central 50 % interval.
        coverage_90: Share of the observations in the central 90 % interval.
        pit: Shares of the PIT values in ten bins; 0.1 each is best.
        fair_crps: Unbiased CRPS in the unit of the data; needs two samples.
        mase: Error of the median in units of the seasonal naive one; needs `train`.
        crps_sum: `crps` of the sum over the series; this and all below of several series only.
        crps_sum_nine: `crps_nine` of the sum.
        nd_sum: `nd` of the sum.
        coverage_90_sum: `coverage_90` of the sum.
        energy_score: Energy score in units of the training series' standard deviations; needs
            `train`.
        variogram_score: Variogram score of the moves since the last observed value in units of
            the standard deviation of training increments; needs `train` and `last`.
    """

    windows: int
    num_samples: int
    crps: float | None
    crps_nine: float | None
    nd: float | None
    nrmse: float | None
    coverage_50: float | None
    coverage_90: float | None
    pit: tuple[float, ...]
    fair_crps: float | None = None
    mase: float | None = None
    crps_sum: float | None = None
    crps_sum_nine: float | None = None
    nd_sum: float | None = None
    coverage_90_sum: float | None = None
    energy_score: float | None = None
    variogram_score: float | None = None

    @property
    def pit_distance(self) -> float:
        """Total variation distance of the PIT histogram from the uniform one, in [0, 1]."""
        return 0.5 * sum(abs(share - 1 / len(self.pit)) for share in self.pit)

    def as_dict(self) -> dict[str, Any]:
        """The figures as a JSON object, in the order above."""
        return dataclasses.asdict(self) | {"pit": list(self.pit)}

    def to_json(self) -> str:
        """The figures as indented JSON text."""
        return json.dumps(self.as_dict(), indent=2, allow_nan=False)


def score_forecasts(
    observed: ArrayLike,
    samples: ArrayLike,
    *,
    last: ArrayLike | None = None,
    train: Sequence[ArrayLike] | None = None,
    season: int = 1,
    seed: int = 0,
    paired: bool = False,
) -> ForecastScores:
    """Compute every figure of one forecaster.

    Args:
        observed: (N, H, D) what came to be; NaN is left out.
        samples: (N, S, H, D) sample paths.
        last: (N, D) last observed value before each window; without it no variogram score.
        train: The (D, T) series before the windows, one an item, for MASE and for the units of
            the energy and variogram scores. Window n is of item n modulo their number.
        season: Steps of a season, for MASE.
        seed: Seed of the randomised PIT values.
        paired: Whether samples 2k and 2k + 1 come from opposite noise; see `fair_crps_cells`.

    Returns:
        The figures.

    Raises:
        DataError: if the arrays do not fit together, or nothing was observed.
        ConfigError: if the season is below 1.
    """
    truth, paths = checked_joint_pair(observed, samples)
    if not np.isfinite(truth).any():
        raise DataError("every observation is missing: there is nothing to score")
    windows, count, _, dim = paths.shape
    levels = NINETEEN_LEVELS
    quantiles = sample_quantiles(paths, levels)
    losses = weighted_quantile_loss(truth, quantiles, levels)
    figures: dict[str, float] = {
        "crps": float(losses.mean()),
        "crps_nine": float(losses[1::2].mean()),
        "nd": float(losses[levels.index(0.5)]),
        "nrmse": nrmse(truth, paths),
        "coverage_50": _share_between(truth, quantiles, 0.25, 0.75),
        "coverage_90": _share_between(truth, quantiles, 0.05, 0.95),
    }
    if count > (2 if paired else 1):
        figures["fair_crps"] = fair_crps(truth, paths, paired=paired)
    if train is not None:
        figures["mase"] = mase(truth, paths, train, season)
    if dim > 1:
        total = truth.sum(axis=-1)
        of_sum = sample_quantiles(paths.sum(axis=-1), levels)
        losses = weighted_quantile_loss(total, of_sum, levels)
        figures["crps_sum"] = float(losses.mean())
        figures["crps_sum_nine"] = float(losses[1::2].mean())
        figures["nd_sum"] = float(losses[levels.index(0.5)])
        figures["coverage_90_sum"] = _share_between(total, of_sum, 0.05, 0.95)
    if dim > 1 and train is not None:
        items = [np.asarray(item, dtype=np.float64) for item in train]
        which = np.arange(windows) % len(items)
        deviation = np.stack([_deviation(item) for item in items])[which]
        figures["energy_score"] = energy_score(truth, paths, scale=deviation)
        if last is not None:
            moves = np.stack([_deviation(np.diff(item)) for item in items])[which]
            figures["variogram_score"] = variogram_score(truth, paths, last=last, scale=moves)
    known: dict[str, Any] = {
        name: value if math.isfinite(value) else None for name, value in figures.items()
    }
    pit = pit_histogram(pit_values(truth, paths, seed=seed))
    return ForecastScores(
        windows=windows, num_samples=count, pit=tuple(float(share) for share in pit), **known
    )


def _share_between(truth: Array, quantiles: Array, lower: float, upper: float) -> float:
    low, high = (quantiles[:, NINETEEN_LEVELS.index(level)] for level in (lower, upper))
    return _share_within(truth, low, high)


def _share_within(truth: Array, lower: Array, upper: Array) -> float:
    inside = ((truth >= lower) & (truth <= upper))[np.isfinite(truth)]
    return float(inside.mean()) if inside.size else math.nan


def _deviation(values: Array) -> Array:
    """Standard deviation of each row of (D, T); 1 where it is 0 or nothing is known."""
    count = np.maximum(np.isfinite(values).sum(axis=1), 1)
    mean = np.nansum(values, axis=1) / count
    square = np.nansum(np.square(values - mean[:, None]), axis=1) / count
    return np.where(square > 0, np.sqrt(square), 1.0)


def coverage(observed: ArrayLike, samples: ArrayLike, level: float) -> float:
    """Share of the observations within the central interval, its ends included.

    The ends are samples (`sample_quantiles`), so that an exact forecast of S samples reaches
    (j - i) / (S + 1), i and j being their places in order: 0.881 for S = 100 and level 0.9.

    Args:
        observed: (N, H, D) observations, NaN where missing.
        samples: (N, S, H, D) sample paths.
        level: Probability of the interval, in (0, 1).

    Returns:
        The share, in [0, 1]; the level itself is best, as far as S allows.

    Raises:
        ConfigError: if the level lies outside (0, 1).
    """
    if not 0 < level < 1:
        raise ConfigError(f"the level of an interval must lie in (0, 1), got {level}")
    truth, paths = checked_pair(observed, samples)
    # Rounded because (1 - 0.9) / 2 is a little less than 0.05, and may hit another sample.
    ends = [round((1 - level) / 2, 12), round((1 + level) / 2, 12)]
    lower, upper = np.moveaxis(sample_quantiles(paths, ends), 1, 0)
    return _share_within(truth, lower, upper)


def coverage_sum(observed: ArrayLike, samples: ArrayLike, level: float) -> float:
    """`coverage` of the sum over the series, which is right only if their dependence is.

    Args:
        observed: (N, H, D) observations; a step with a missing one is left out.
        samples: (N, S, H, D) sample paths.
        level: Probability of the interval, in (0, 1).
    """
    truth, paths = checked_joint_pair(observed, samples)
    return coverage(truth.sum(axis=-1), paths.sum(axis=-1), level)


def pit_values(observed: ArrayLike, samples: ArrayLike, *, seed: int = 0) -> Array:
    """Randomised probability integral transform (r + V (t + 1)) / (S + 1).

    Of S samples r lie below the observation and t are equal to it; V is uniform on (0, 1). If the
    observation is drawn from the law of the samples, the value is exactly uniform on (0, 1) for
    any S, also where values repeat (Czado et al. 2009).

    Args:
        observed: (N, H, D) observations.
        samples: (N, S, H, D) sample paths.
        seed: Seed of V.

    Returns:
        (N, H, D) values in [0, 1), NaN where the observation is missing. Those of one window
        depend on each other.
    """
    truth, paths = checked_pair(observed, samples)
    below = np.stack([(x < y).sum(axis=0) for x, y in zip(paths, truth, strict=True)])
    equal = np.stack([(x == y).sum(axis=0) for x, y in zip(paths, truth, strict=True)])
    chance = np.random.default_rng(seed).random(truth.shape)
    values = (below + chance * (equal + 1)) / (paths.shape[1] + 1)
    return np.where(np.isfinite(truth), values, np.nan)


def pit_histogram(values: ArrayLike, bins: int = 10) -> Array:
    """Shares of PIT values in equal bins of [0, 1]; 1 / bins each if the forecast is calibrated.

    High at both ends: too narrow; high in the middle: too wide; slanted: off to one side.

    Args:
        values: PIT values of any shape, NaN left out.
        bins: Number of bins, >= 1.

    Returns:
        (bins,) shares that sum to 1.

    Raises:
        ConfigError: if there is no bin.
        DataError: if there is no value, or one lies outside [0, 1].
    """
    if bins < 1:
        raise ConfigError(f"a histogram needs one bin at least, got {bins}")
    known = np.asarray(values, dtype=np.float64).ravel()
    known = known[~np.isnan(known)]
    if not known.size:
        raise DataError("there is no PIT value: every observation is missing")
    if known.min() < 0 or known.max() > 1:
        raise DataError(
            f"PIT values lie in [0, 1], but these reach from {known.min():g} to {known.max():g}"
        )
    counts, _ = np.histogram(known, bins=bins, range=(0.0, 1.0))
    return counts / known.size


# Short enough for four forecasters on a terminal of 80 columns.
_ROWS = {
    "crps": ("CRPS .05-.95", "low"),
    "crps_nine": ("CRPS .1-.9", "low"),
    "fair_crps": ("CRPS, data unit", "low"),
    "nd": ("ND", "low"),
    "nrmse": ("NRMSE", "low"),
    "mase": ("MASE", "low"),
    "crps_sum": ("CRPS-sum .05-.95", "low"),
    "crps_sum_nine": ("CRPS-sum .1-.9", "low"),
    "nd_sum": ("ND-sum", "low"),
    "energy_score": ("energy score", "low"),
    "variogram_score": ("variogram score", "low"),
    "coverage_50": ("coverage 50 %", "50 %"),
    "coverage_90": ("coverage 90 %", "90 %"),
    "coverage_90_sum": ("coverage 90 % sum", "90 %"),
    "pit_distance": ("PIT distance", "low"),
}


def render_scores(rows: Mapping[str, ForecastScores], title: str = "Forecast") -> Table:
    """The figures of several forecasters as a table for the terminal.

    Args:
        rows: Name -> figures, one column each: the model first, then the floors.
        title: The table's title.

    Returns:
        A Rich table, to be printed by a `rich.console.Console`; 80 columns wide for four
        forecasters of names of up to ten letters. CRPS is the mean weighted quantile loss over
        the levels that are named, PIT distance that from the uniform law. A figure that none has
        is left out; the best of each line is bold.

    Raises:
        DataError: if there is nothing to show.
    """
    from rich.table import Table
    from rich.text import Text

    if not rows:
        raise DataError("there are no scores to show")
    shapes = sorted({(scores.windows, scores.num_samples) for scores in rows.values()})
    said = ", ".join(f"{windows} windows × {count} samples" for windows, count in shapes)
    table = Table(title=title, caption=said, title_style="bold")
    table.add_column("figure")
    for name in rows:
        table.add_column(name, justify="right", overflow="fold")
    table.add_column("best")
    for name, (label, better) in _ROWS.items():
        values = [getattr(scores, name) for scores in rows.values()]
        losses = [_loss(value, better) for value in values]
        if all(value is None for value in values):
            continue
        cells = [
            Text(
                "-" if value is None else _shown(value, better),
                style="bold" if loss == min(losses) and len(rows) > 1 else "",
            )
            for value, loss in zip(values, losses, strict=True)
        ]
        table.add_row(label, *cells, better)
    bars = [Text(_bars(scores.pit)) for scores in rows.values()]
    table.add_row("PIT histogram", *bars, "flat")
    return table


def _loss(value: float | None, better: str) -> float:
    if value is None:
        return math.inf
    return value if better == "low" else abs(value - float(better.removesuffix(" %")) / 100)


def _shown(value: float, better: str) -> str:
    return f"{value:.4g}" if better == "low" else f"{100 * value:.1f} %"


def _bars(shares: Sequence[float]) -> str:
    """Shares as bars of eighths; full height is twice the uniform share, or the highest."""
    top = max(*shares, 2 / len(shares))
    return "".join("▁▂▃▄▅▆▇█"[min(int(8 * share / top), 7)] for share in shares)
