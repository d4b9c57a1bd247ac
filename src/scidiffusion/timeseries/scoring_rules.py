r"""Figures of probabilistic forecasts from sample paths, by the definitions of the literature.

N windows of H steps and D series: observations are (N, H, D), sample paths (N, S, H, D). With
f_q the q-quantile of the paths, the definitions of GluonTS's evaluators are

    wQL_q = 2 sum |(y - f_q) (1[y <= f_q] - q)| / sum |y|,      CRPS = mean_q wQL_q,
    ND    = sum |y - f_0.5| / sum |y|,    NRMSE = sqrt(mean (y - mean)^2) / mean |y|,

sums and means over all windows, steps and series at once. Observations that are NaN are left out;
figures of several series together leave out the whole step. A figure of which nothing is left, or
whose denominator is 0, is NaN. Lower is better.

CRPS of the sum over the series (CRPS-sum) says next to nothing about dependence; the energy and
the variogram score do, the latter more than the former.

References:
    Gneiting & Raftery, "Strictly proper scoring rules, prediction, and estimation", 2007.
    Scheuerer & Hamill, "Variogram-based proper scoring rules", 2015, eq. 5.
    Salinas et al., "High-dimensional multivariate forecasting", NeurIPS 2019 (CRPS-sum).
    Hyndman & Koehler, "Another look at measures of forecast accuracy", 2006 (MASE).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scidiffusion.errors import ConfigError, DataError

__all__ = [
    "NINETEEN_LEVELS",
    "NINE_LEVELS",
    "checked_joint_pair",
    "checked_pair",
    "crps",
    "crps_sum",
    "energy_score",
    "fair_crps",
    "fair_crps_cells",
    "mase",
    "normalised_deviation",
    "nrmse",
    "sample_quantiles",
    "seasonal_scale",
    "variogram_score",
    "weighted_quantile_loss",
]

Array = NDArray[np.float64]

NINETEEN_LEVELS = tuple(k / 20 for k in range(1, 20))
"""Levels 0.05, 0.10, ..., 0.95 of CRPS, as TimeGrad's figures have them."""
NINE_LEVELS = tuple(k / 10 for k in range(1, 10))
"""Levels 0.1, 0.2, ..., 0.9 of CRPS, GluonTS's default, as TSDiff's figures have them."""


def checked_pair(observed: ArrayLike, samples: ArrayLike) -> tuple[Array, Array]:
    """Return observations and samples as arrays of doubles that fit together.

    Args:
        observed: (N, ...) observations; NaN is a missing one.
        samples: (N, S, ...) sample paths, finite.

    Raises:
        DataError: if the shapes do not fit, or an observation is infinite, or a sample not finite.
    """
    truth = np.asarray(observed, dtype=np.float64)
    paths = np.asarray(samples, dtype=np.float64)
    fits = truth.ndim >= 1 and paths.ndim == truth.ndim + 1
    if not fits or paths.shape[:1] + paths.shape[2:] != truth.shape or 0 in paths.shape:
        raise DataError(
            f"observed {truth.shape} and samples {paths.shape} do not fit together: they must be "
            "(N, H, D) and (N, S, H, D), none of them 0"
        )
    if np.isinf(truth).any():
        place = tuple(int(k) for k in np.argwhere(np.isinf(truth))[0])
        raise DataError(f"observed is infinite at {place}; a missing observation is NaN")
    if not np.isfinite(paths).all():
        place = tuple(int(k) for k in np.argwhere(~np.isfinite(paths))[0])
        raise DataError(
            f"samples are not finite at (window, sample, step, series) = {place}: the forecaster "
            "has diverged there, and no figure would mean anything"
        )
    return truth, paths


def checked_joint_pair(observed: ArrayLike, samples: ArrayLike) -> tuple[Array, Array]:
    """As `checked_pair`, of observations (N, H, D).

    Raises:
        DataError: also if the observations have other than three axes.
    """
    truth, paths = checked_pair(observed, samples)
    if truth.ndim != 3:
        raise DataError(f"observed must be (windows, steps, series), got shape {truth.shape}")
    return truth, paths


def sample_quantiles(samples: ArrayLike, levels: Sequence[float]) -> Array:
    """Quantiles of samples as GluonTS takes them: the order statistic of index round((S-1) q).

    Args:
        samples: (N, S, ...) sample paths.
        levels: Q levels in [0, 1].

    Returns:
        (N, Q, ...) quantiles.

    Raises:
        ConfigError: if a level lies outside [0, 1].
    """
    wanted = np.asarray(levels, dtype=np.float64)
    if wanted.ndim != 1 or not ((wanted >= 0) & (wanted <= 1)).all():
        raise ConfigError(f"quantile levels must lie in [0, 1], got {levels}")
    paths = np.asarray(samples, dtype=np.float64)
    place = np.round((paths.shape[1] - 1) * wanted).astype(np.int64)
    # Window by window: sorting all at once would take a second copy of the samples.
    return np.stack([np.sort(window, axis=0)[place] for window in paths])


def weighted_quantile_loss(
    observed: ArrayLike, forecasts: ArrayLike, levels: Sequence[float]
) -> Array:
    """Quantile loss of every level in units of the sum of |observed|; see the module.

    Args:
        observed: (N, ...) observations, NaN where missing.
        forecasts: (N, Q, ...) quantile forecasts.
        levels: Their Q levels.

    Returns:
        (Q,) losses, >= 0.

    Raises:
        DataError: if the shapes do not fit.
    """
    truth, quantiles = checked_pair(observed, forecasts)
    if quantiles.shape[1] != len(levels):
        raise DataError(f"{quantiles.shape[1]} quantile forecasts for {len(levels)} levels")
    seen = np.isfinite(truth)
    y = truth[seen]
    total = np.abs(y).sum()
    losses = []
    for place, level in enumerate(levels):
        forecast = quantiles[:, place][seen]
        losses.append(2 * np.abs((y - forecast) * ((y <= forecast) - level)).sum())
    return np.array([_ratio(loss, total) for loss in losses])


def crps(
    observed: ArrayLike, samples: ArrayLike, levels: Sequence[float] = NINETEEN_LEVELS
) -> float:
    """Mean weighted quantile loss, the "CRPS" of the forecasting literature.

    Args:
        observed: (N, H, D) observations, NaN where missing.
        samples: (N, S, H, D) sample paths.
        levels: Quantile levels that are averaged; `NINE_LEVELS` are the other usual ones.

    Raises:
        DataError: if the arrays do not fit.
    """
    truth, paths = checked_pair(observed, samples)
    quantiles = sample_quantiles(paths, levels)
    return float(weighted_quantile_loss(truth, quantiles, levels).mean())


def crps_sum(
    observed: ArrayLike, samples: ArrayLike, levels: Sequence[float] = NINETEEN_LEVELS
) -> float:
    """`crps` of the sum over the series; a step of which any series is missing is left out.

    Args:
        observed: (N, H, D) observations, NaN where missing.
        samples: (N, S, H, D) sample paths.
        levels: Quantile levels that are averaged.
    """
    truth, paths = checked_joint_pair(observed, samples)
    return crps(truth.sum(axis=-1), paths.sum(axis=-1), levels)


def normalised_deviation(observed: ArrayLike, samples: ArrayLike) -> float:
    """ND: absolute error of the median in units of the sum of |observed|.

    Args:
        observed: (N, H, D) observations, NaN where missing.
        samples: (N, S, H, D) sample paths.
    """
    truth, paths = checked_pair(observed, samples)
    return float(weighted_quantile_loss(truth, sample_quantiles(paths, [0.5]), [0.5])[0])


def nrmse(observed: ArrayLike, samples: ArrayLike) -> float:
    """Root mean square error of the mean in units of the mean of |observed|.

    Args:
        observed: (N, H, D) observations, NaN where missing.
        samples: (N, S, H, D) sample paths.
    """
    truth, paths = checked_pair(observed, samples)
    seen = np.isfinite(truth)
    error = (truth - paths.mean(axis=1))[seen]
    if not error.size:
        return math.nan
    return _ratio(np.sqrt(np.square(error).mean()), np.abs(truth[seen]).mean())


def fair_crps(observed: ArrayLike, samples: ArrayLike, *, paired: bool = False) -> float:
    """Unbiased estimate of the CRPS in the unit of the data, E|X - y| - E|X - X'| / 2.

    Its expectation does not depend on the number of samples (Ferro 2014, eq. 7).

    Args:
        observed: (N, H, D) observations, NaN where missing.
        samples: (N, S, H, D) sample paths, S >= 2.
        paired: See `fair_crps_cells`.

    Returns:
        The mean over all observations; below 0 at times, by chance.

    Raises:
        DataError: if there are too few samples.
    """
    truth, paths = checked_pair(observed, samples)
    scores = fair_crps_cells(truth, paths, paired=paired)
    seen = np.isfinite(truth)
    return float(scores[seen].mean()) if seen.any() else math.nan


def fair_crps_cells(truth: Array, paths: Array, *, paired: bool = False) -> Array:
    """`fair_crps` of every cell (N, ...), of paths (N, S, ...).

    Args:
        truth: (N, ...) observations.
        paths: (N, S, ...) sample paths.
        paired: Whether paths 2k and 2k + 1 come from opposite noise. They lie farther apart than
            independent ones, and are not compared with each other.

    Raises:
        DataError: if there is no pair of independent paths.
    """
    count, partners = paths.shape[1], paths.shape[1] // 2 if paired else 0
    pairs = count * (count - 1) / 2 - partners
    if pairs < 1:
        raise DataError(
            f"fair_crps needs two independent samples a window at least, got {count}"
            + (" from opposite noise" if paired else "")
        )
    # Sorted, the distances of all pairs add up to a weighted sum of S terms.
    weights = 2 * np.arange(1, count + 1) - count - 1.0
    scores = np.empty_like(truth)
    for window, (y, x) in enumerate(zip(truth, paths, strict=True)):
        distance = np.tensordot(weights, np.sort(x, axis=0), axes=1)
        twice = 2 * partners
        distance = distance - np.abs(x[0:twice:2] - x[1:twice:2]).sum(axis=0)
        scores[window] = np.abs(x - y).mean(axis=0) - 0.5 * distance / pairs
    return scores


def energy_score(
    observed: ArrayLike, samples: ArrayLike, *, scale: ArrayLike | None = None
) -> float:
    """Energy score E||X - y|| - E||X - X'|| / 2 over the series of one step, the mean over steps.

    X' runs through all samples, X itself included; with one series it is the CRPS of the
    empirical distribution of the samples.

    Args:
        observed: (N, H, D) observations; a step with a missing one is left out.
        samples: (N, S, H, D) sample paths.
        scale: (D,) or (N, D) unit of each series, such as its standard deviation; default 1.
    """
    truth, paths = checked_joint_pair(observed, samples)
    windows, _, _, dim = paths.shape
    unit = _unit(scale, windows, dim)
    scores = []
    for window, step in np.argwhere(np.isfinite(truth).all(axis=-1)):
        x, y = paths[window, :, step] / unit[window], truth[window, step] / unit[window]
        scores.append(np.sqrt(np.square(x - y).sum(axis=1)).mean() - 0.5 * _mean_distance(x))
    return float(np.mean(scores)) if scores else math.nan


def _mean_distance(points: Array) -> float:
    """Mean Euclidean distance of all S^2 pairs of (S, D) points."""
    centred = points - points.mean(axis=0)
    gram = centred @ centred.T
    norm = np.diagonal(gram)
    square = norm[:, None] + norm - 2 * gram
    np.fill_diagonal(square, 0.0)
    return float(np.sqrt(np.maximum(square, 0.0)).mean())


def variogram_score(
    observed: ArrayLike,
    samples: ArrayLike,
    *,
    last: ArrayLike | None = None,
    scale: ArrayLike | None = None,
    power: float = 0.5,
    max_series: int = 50,
) -> float:
    """Variogram score of the dependence between series, at each step, the mean over steps.

    The mean over all D^2 pairs (i, j) of (|y_i - y_j|^p - E|X_i - X_j|^p)^2. Of levels of unlike
    size it would see the levels alone: give `last` and `scale` to judge the moves.

    Args:
        observed: (N, H, D) observations; a step with a missing one is left out.
        samples: (N, S, H, D) sample paths.
        last: (N, D) last value before each window; the moves since then are scored. Where it is
            NaN the window is left out. Default 0.
        scale: (D,) or (N, D) unit of each series; default 1.
        power: The power p, > 0.
        max_series: Only the first of the series are scored, for their pairs are many.

    Raises:
        ConfigError: if an option is not positive.
        DataError: if the arrays do not fit.
    """
    if power <= 0 or max_series < 1:
        raise ConfigError(f"power and max_series must be positive, got {power} and {max_series}")
    truth, paths = checked_joint_pair(observed, samples)
    windows, _, _, dim = paths.shape
    shown = min(dim, max_series)
    unit = _unit(scale, windows, dim)[:, :shown]
    origin = np.zeros((windows, dim)) if last is None else np.asarray(last, dtype=np.float64)
    if origin.shape != (windows, dim):
        raise DataError(f"last must be (N, D) = {(windows, dim)}, got {origin.shape}")
    moves = (truth[..., :shown] - origin[:, None, :shown]) / unit[:, None]
    one, other = np.triu_indices(shown, 1)
    scores = []
    for window, step in np.argwhere(np.isfinite(moves).all(axis=-1)):
        y = moves[window, step]
        x = (paths[window, :, step, :shown] - origin[window, :shown]) / unit[window]
        expected = (np.abs(x[:, one] - x[:, other]) ** power).mean(axis=0)
        error = np.abs(y[one] - y[other]) ** power - expected
        scores.append(2 * np.square(error).sum() / shown**2)
    return float(np.mean(scores)) if scores else math.nan


def seasonal_scale(train: ArrayLike, season: int = 1) -> Array:
    """Mean absolute seasonal difference of each series, the unit of MASE.

    Args:
        train: (D, T) values before the windows, NaN where missing.
        season: Steps of a season; 1 is used where the series is no longer than a season.

    Returns:
        (D,) scales; NaN where it is 0 or there are no two values to compare.

    Raises:
        ConfigError: if the season is below 1.
        DataError: if `train` is not (D, T).
    """
    if season < 1:
        raise ConfigError(f"season must be 1 step or more, got {season}")
    values = np.asarray(train, dtype=np.float64)
    if values.ndim != 2:
        raise DataError(f"the training series must be (D, T), got shape {values.shape}")
    lag = season if season < values.shape[1] else 1
    moves = np.abs(values[:, lag:] - values[:, :-lag])
    count = np.isfinite(moves).sum(axis=1)
    scale = np.nansum(moves, axis=1) / np.maximum(count, 1)
    return np.where((count > 0) & (scale > 0), scale, np.nan)


def mase(
    observed: ArrayLike, samples: ArrayLike, train: Sequence[ArrayLike], season: int = 1
) -> float:
    """Mean absolute error of the median in units of the seasonal naive forecast's error.

    Args:
        observed: (N, H, D) observations, NaN where missing.
        samples: (N, S, H, D) sample paths.
        train: The (D, T) series before the windows, one an item: window n is of item n modulo
            their number, the order of GluonTS's test sets.
        season: Steps of a season.

    Returns:
        The mean over windows and series; a series with scale NaN (constant) is left out.

    Raises:
        DataError: if `train` does not fit.
    """
    truth, paths = checked_joint_pair(observed, samples)
    windows, _, dim = truth.shape
    scales = [seasonal_scale(item, season) for item in train]
    if not scales or windows % len(scales) or any(len(scale) != dim for scale in scales):
        raise DataError(
            f"train must hold arrays of {dim} series each, as many as divide the {windows} "
            f"windows; got {len(scales)} of {sorted({len(scale) for scale in scales})} series"
        )
    unit = np.stack(scales)[np.arange(windows) % len(scales)]
    error = np.abs(truth - sample_quantiles(paths, [0.5])[:, 0])
    count = np.isfinite(error).sum(axis=1)
    ratios = np.nansum(error, axis=1) / np.maximum(count, 1) / unit
    known = (count > 0) & np.isfinite(unit)
    return float(ratios[known].mean()) if known.any() else math.nan


def _unit(scale: ArrayLike | None, windows: int, dim: int) -> Array:
    unit = np.ones(dim) if scale is None else np.asarray(scale, dtype=np.float64)
    if unit.shape not in {(dim,), (windows, dim)} or not (np.isfinite(unit) & (unit > 0)).all():
        raise DataError(f"scale must be {dim} positive numbers, for each window or for all")
    return np.broadcast_to(unit, (windows, dim))


def _ratio(value: float, unit: float) -> float:
    return float(value / unit) if unit > 0 else math.nan
