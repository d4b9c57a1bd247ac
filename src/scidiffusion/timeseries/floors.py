r"""Forecasts without a model, beside which every figure of a model is printed.

All draw sample paths (S, H, D) from the past of one item alone:

- `gaussian_walk`: the last value and Gaussian steps, y_{T+h} = y_{T+h-1} + e, e ~ N(0, C), with C
  the second moment of the last steps. Hard to beat for prices.
- `seasonal_naive_gaussian`: the last season and Gaussian steps from season to season,
  y_{T+h} = y_{T+h-m} + e, so that the standard deviation grows with the root of the number of
  seasons ahead (Hyndman & Athanasopoulos, "Forecasting: principles and practice", 5.5).
- `seasonal_block_bootstrap`: the same recursion with past seasonal differences in place of
  Gaussian ones, drawn in blocks of consecutive steps of all series together (Kuensch 1989).

Moments are taken about zero, for none of these forecasts has a drift to take off. Differences with
a missing end are left out, and a missing last value is replaced by the last observed one of the
same phase, with a spread that has grown for as long; by the last of the series where its phase was
never observed. A series of which no difference is known gets no spread.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from scidiffusion.errors import ConfigError, DataError
from scidiffusion.timeseries.series import Series

__all__ = [
    "FLOORS",
    "gaussian_walk",
    "seasonal_block_bootstrap",
    "seasonal_naive_gaussian",
]

Array = NDArray[np.float64]

FEWEST_STARTS = 20
"""How many places to start a block are wanted."""


def gaussian_walk(
    series: Series,
    horizon: int,
    num_samples: int,
    *,
    season: int = 1,
    seed: int = 0,
    window: int = 500,
) -> Array:
    """Multivariate Gaussian random walk from the last value.

    Args:
        series: The past of one item, (D, T).
        horizon: Steps H ahead.
        num_samples: Paths S.
        season: Not used; all floors take it.
        seed: Seed of the paths.
        window: The covariance is that of so many last steps: volatility changes.

    Returns:
        (S, H, D) paths, of covariance h C at step h.

    Raises:
        ConfigError: if a count is below 1.
        DataError: if a series has no observed value.
    """
    values = _checked(series, horizon, num_samples, season)
    if window < 1:
        raise ConfigError(f"window must be 1 step or more, got {window}")
    last, age = _carried(values, 1)
    root = _moment_root(np.diff(values, axis=0)[-window:])
    rng = np.random.default_rng(seed)
    origin = np.broadcast_to(last[0], (num_samples, values.shape[1])).copy()
    # A series whose last steps are missing has walked on unseen since its last observed value,
    # together with those that were unseen at the same time.
    for seen, unseen in pairwise(np.unique(np.append(0.0, age[0]))):
        move = rng.standard_normal((num_samples, len(root))) @ root
        origin += np.sqrt(unseen - seen) * move * (age[0] >= unseen)
    steps = rng.standard_normal((num_samples, horizon, len(root))) @ root
    return np.asarray(origin[:, None] + np.cumsum(steps, axis=1))


def seasonal_naive_gaussian(
    series: Series, horizon: int, num_samples: int, *, season: int, seed: int = 0
) -> Array:
    """Repeat the last season, with Gaussian errors that grow from season to season.

    Args:
        series: The past of one item, (D, T).
        horizon: Steps H ahead.
        num_samples: Paths S.
        season: Steps m of a season; 1 is used where a series has fewer than two seasonal
            differences.
        seed: Seed of the paths.

    Returns:
        (S, H, D) paths, of covariance k C at a step in the k-th season ahead, C being the second
        moment of all seasonal differences; within a season errors are independent.

    Raises:
        ConfigError: if a count is below 1.
        DataError: if a series has no observed value.
    """
    values = _checked(series, horizon, num_samples, season)
    lag = _usable_season(values, season)
    root = _moment_root(values[lag:] - values[:-lag])
    rng = np.random.default_rng(seed)
    seasons = -(-horizon // lag)
    errors = rng.standard_normal((num_samples, seasons * lag, len(root))) @ root
    return _walk_in_seasons(values, errors, lag)[:, :horizon]


def seasonal_block_bootstrap(
    series: Series, horizon: int, num_samples: int, *, season: int, seed: int = 0
) -> Array:
    """Repeat the last season, with errors cut in blocks out of the past.

    A block holds the seasonal differences of all series at consecutive steps: what belongs
    together across series and in time stays together. Blocks are as long as the horizon, and
    begin at the phase at which the forecast does, so that quiet hours stay quiet. Where the past
    leaves fewer than 20 places to start, they are shortened by whole seasons; where even one
    season leaves too few, they begin at any phase, and are shortened further, to half the past at
    least. Blocks without a gap are taken alone if they are 20; otherwise gaps are filled with
    differences of the same series and phase, drawn at random.

    Args:
        series: The past of one item, (D, T).
        horizon: Steps H ahead.
        num_samples: Paths S.
        season: Steps m of a season; 1 is used where a series has fewer than two seasonal
            differences.
        seed: Seed of the paths.

    Returns:
        (S, H, D) paths.

    Raises:
        ConfigError: if a count is below 1.
        DataError: if a series has no observed value.
    """
    values = _checked(series, horizon, num_samples, season)
    lag = _usable_season(values, season)
    differences = values[lag:] - values[:-lag]
    seasons = -(-horizon // lag)
    rng = np.random.default_rng(seed)
    starts, length = _block_starts(len(differences), lag, seasons)
    gaps = np.append(0, np.cumsum(np.isnan(differences).any(axis=1)))
    whole = starts[gaps[starts + length] == gaps[starts]]
    if len(whole) >= min(FEWEST_STARTS, len(starts)) > 0:
        starts = whole
    filled = _filled(differences, lag, rng)
    blocks = -(-seasons * lag // length)
    errors = np.zeros((num_samples, seasons * lag, values.shape[1]))
    if len(starts):
        first = rng.choice(starts, size=(num_samples, blocks))
        index = (first[..., None] + np.arange(length)).reshape(num_samples, -1)
        errors = filled[index[:, : seasons * lag]]
    return _walk_in_seasons(values, errors, lag)[:, :horizon]


FLOORS: dict[str, Callable[..., Array]] = {
    "gaussian_walk": gaussian_walk,
    "seasonal_naive_gaussian": seasonal_naive_gaussian,
    "seasonal_block_bootstrap": seasonal_block_bootstrap,
}
"""Name -> f(series, horizon, num_samples, *, season, seed) -> (S, H, D) paths."""


def _checked(series: Series, horizon: int, num_samples: int, season: int) -> Array:
    """Return the past as (T, D), from the first step of which anything is known."""
    for name, count in (("horizon", horizon), ("num_samples", num_samples), ("season", season)):
        if count < 1:
            raise ConfigError(f"{name} must be 1 or more, got {count}")
    known = np.isfinite(series.target)
    for name, row in zip(series.names, known, strict=True):
        if not row.any():
            raise DataError(
                f"series {series.item_id!r}: {name} has no observed value before the forecast; "
                "leave it out, or forecast from a later time"
            )
    return series.target[:, int(known.any(axis=0).argmax()) :].T


def _usable_season(values: Array, season: int) -> int:
    """Return the season, or 1 where a series of (T, D) has fewer than two seasonal differences."""
    if season >= len(values):
        return 1
    count = np.isfinite(values[season:] - values[:-season]).sum(axis=0)
    return season if int(count.min()) > 1 else 1


def _carried(values: Array, lag: int) -> tuple[Array, Array]:
    """Return the last season's values, carried over gaps, and how many seasons old they are.

    Args:
        values: (T, D), each column with an observed value; T >= lag.
        lag: Steps of a season.

    Returns:
        (lag, D) values and their ages: 0 where the last season was observed.
    """
    length, dim = values.shape
    seasons = -(-length // lag)
    padded = np.full((seasons * lag, dim), np.nan)
    padded[-length:] = values
    folded = padded.reshape(seasons, lag, dim)[::-1]
    known = np.isfinite(folded)
    age = known.argmax(axis=0)
    last = np.take_along_axis(folded, age[None], axis=0)[0]
    # Of a phase that was never observed: the last value of the series.
    back = np.isfinite(values)[::-1].argmax(axis=0)
    newest = values[length - 1 - back, np.arange(dim)]
    never = ~known.any(axis=0)
    return (
        np.where(never, newest, last),
        np.where(never, back // lag, age).astype(np.float64),
    )


def _filled(differences: Array, lag: int, rng: np.random.Generator) -> Array:
    """Return (N, D) differences with gaps filled by others of the same series, drawn at random.

    Of the same phase where there is one; 0 where the series has none.
    """
    filled = differences.copy()
    phase = np.arange(len(filled)) % lag
    for column in np.flatnonzero(np.isnan(filled).any(axis=0)):
        values = differences[:, column]
        known = np.isfinite(values)
        for gap in np.unique(phase[~known]):
            here = phase == gap
            choice = values[here & known] if (here & known).any() else values[known]
            where = here & ~known
            filled[where, column] = rng.choice(choice, where.sum()) if len(choice) else 0.0
    return filled


def _moment_root(differences: Array) -> Array:
    """Return R (K, D) such that R^T R is the second moment of (N, D) differences.

    Of those that are missing only the others of the same step count: each series has its own
    mean square, and the product of two is scaled by the geometric mean of their numbers, which
    keeps the matrix positive semi-definite.
    """
    count = np.isfinite(differences).sum(axis=0)
    scaled = np.nan_to_num(differences, nan=0.0) / np.sqrt(np.maximum(count, 1))
    if len(scaled) <= scaled.shape[1]:
        return scaled
    return np.asarray(np.linalg.qr(scaled, mode="r"))


def _walk_in_seasons(values: Array, errors: Array, lag: int) -> Array:
    """Add up (S, k lag, D) errors from season to season, from the last observed season on."""
    base, age = _carried(values, lag)
    folded = errors.reshape(len(errors), -1, lag, values.shape[1]).copy()
    # An older value has had as many more seasons to move away.
    folded[:, 0] *= np.sqrt(1 + age)
    return (base + np.cumsum(folded, axis=1)).reshape(errors.shape)


def _block_starts(length: int, lag: int, seasons: int) -> tuple[NDArray[np.int64], int]:
    """Return where blocks may start in `length` differences, and how long they are.

    The forecast begins at the step after the last difference: a start of the same phase lies a
    whole number of seasons before it.
    """
    most = length // lag - (FEWEST_STARTS - 1)
    block = lag * max(min(seasons, most), 1)
    aligned = np.arange(length - block, -1, -lag)
    if len(aligned) >= FEWEST_STARTS:
        return aligned, block
    block = min(lag, max(length - FEWEST_STARTS + 1, length // 2, 1))
    return np.arange(length - block + 1), block
