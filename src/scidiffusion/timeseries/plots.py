"""Pictures of forecasts: fans, consecutive fans, filled gaps, calibration.

Every function returns a matplotlib figure of its own, opens no window, touches none of pyplot's
state, and writes a file where `path` is given. Bands are the quantiles of
`scidiffusion.timeseries.scores.sample_quantiles`, so that what is seen is what is scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from scidiffusion._files import write_atomic
from scidiffusion.errors import ConfigError, DataError, OutputError
from scidiffusion.timeseries.scores import pit_histogram, sample_quantiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["MAX_PANELS", "plot_backtest", "plot_fan", "plot_imputation", "plot_pit"]

Array = NDArray[np.float64]

MAX_PANELS = 9
"""Series of which a picture has a panel at most."""
INK = "#333333"
FORECAST = "#d1541f"
PAST = "#4c6a8c"


def plot_fan(
    past: pd.DataFrame | ArrayLike,
    samples: ArrayLike,
    index: pd.Index,
    names: Sequence[str],
    actual: pd.DataFrame | ArrayLike | None = None,
    levels: Sequence[float] = (0.5, 0.9),
    history: int | None = None,
    *,
    title: str | None = None,
    path: str | PathLike[str] | None = None,
) -> Figure:
    """Draw a forecast as a fan: the past, the median, and central intervals, one panel a series.

    Args:
        past: (T, D) observed values, NaN where missing: a frame with their times as its index, or
            an array of the steps just before `index`, which then needs a frequency.
        samples: (S, H, D) sample paths.
        index: (H,) times of the forecast: periods, dates or numbers.
        names: (D,) names of the series.
        actual: (H, D) what came to be, if known.
        levels: Probabilities of the intervals, in (0, 1).
        history: Steps of the past that are shown; default three times the horizon.
        title: Heading of the picture.
        path: Where to save it; the suffix gives the format (png, svg, pdf).

    Returns:
        The figure. It has the first `MAX_PANELS` series, and says how many there are beside them.

    Raises:
        DataError: if the arrays do not fit together.
        ConfigError: if a level or `history` is impossible.
        OutputError: if the file cannot be written.
    """
    paths = _paths(samples, index, names)
    horizon, dim = paths.shape[1:]
    before, times = _past(past, index, dim)
    shown = 3 * horizon if history is None else history
    if shown < 0:
        raise ConfigError(f"history must be 0 steps or more, got {shown}")
    first = max(len(before) - shown, 0)
    before, times = before[first:], times[first:]
    truth = None if actual is None else _matrix(actual, (horizon, dim), "actual")
    ahead = _positions(index)
    figure, panels = _panels(names, title, columns=3)
    for series, axes in enumerate(panels):
        axes.plot(times, before[:, series], color=PAST, linewidth=1.2, label="observed")
        # The fan opens at the last observed value, so that one step ahead has an extent as well.
        joined = len(before) > 0 and bool(np.isfinite(before[-1, series]))
        origin = (times[-1:], before[-1:, series]) if joined else None
        _draw_fan(axes, ahead, paths[:, :, series], levels, origin)
        if truth is not None:
            after, values = ahead, truth[:, series]
            if origin is not None:
                after, values = np.append(origin[0], ahead), np.append(origin[1], values)
            axes.plot(after, values, color=INK, linewidth=1.2, label="came to be")
    return _finish(figure, path, legend=panels[0])


def plot_backtest(
    windows: Sequence[tuple[pd.Index, ArrayLike]],
    actual: pd.DataFrame,
    levels: Sequence[float] = (0.5, 0.9),
    *,
    title: str | None = None,
    path: str | PathLike[str] | None = None,
) -> Figure:
    """Draw several forecasts of a backtest over the series as it came to be.

    Args:
        windows: Of each forecast its (H,) times and its (S, H, D) sample paths.
        actual: (T, D) observed values with their times as index and their names as columns.
        levels: Probabilities of the intervals, in (0, 1).
        title: Heading of the picture.
        path: Where to save it; the suffix gives the format.

    Returns:
        The figure: a wide panel for each of the first `MAX_PANELS` series. A dotted line marks
        where each forecast was made.

    Raises:
        DataError: if there is no window, or the arrays do not fit together.
        ConfigError: if a level is impossible.
        OutputError: if the file cannot be written.
    """
    if not windows:
        raise DataError("there is no forecast to draw: windows is empty")
    names = [str(name) for name in actual.columns]
    fans = [(_positions(index), _paths(samples, index, names)) for index, samples in windows]
    truth = _matrix(actual, actual.shape, "actual")
    times = _positions(actual.index)
    figure, panels = _panels(names, title, columns=1)
    for series, axes in enumerate(panels):
        axes.plot(times, truth[:, series], color=INK, linewidth=1.0, label="observed", zorder=3)
        for ahead, paths in fans:
            axes.axvline(ahead[0], color="#999999", linewidth=0.6, linestyle=":")
            _draw_fan(axes, ahead, paths[:, :, series], levels, None)
    return _finish(figure, path, legend=panels[0])


def plot_imputation(
    index: pd.Index,
    observed: ArrayLike,
    samples: ArrayLike,
    names: Sequence[str],
    levels: Sequence[float] = (0.5, 0.9),
    *,
    title: str | None = None,
    path: str | PathLike[str] | None = None,
) -> Figure:
    """Draw series with their gaps filled: bands that begin and end at the observed values.

    Args:
        index: (T,) times.
        observed: (T, D) values, NaN where missing.
        samples: (S, T, D) completed paths; only what is missing in `observed` is looked at.
        names: (D,) names of the series.
        levels: Probabilities of the intervals, in (0, 1).
        title: Heading of the picture.
        path: Where to save it; the suffix gives the format.

    Returns:
        The figure: a wide panel for each of the first `MAX_PANELS` series.

    Raises:
        DataError: if the arrays do not fit together.
        ConfigError: if a level is impossible.
        OutputError: if the file cannot be written.
    """
    truth = _matrix(observed, (len(index), len(names)), "observed")
    complete = np.asarray(samples, dtype=np.float64)
    if complete.ndim == 3 and complete.shape[1:] == truth.shape:
        complete = np.where(np.isnan(truth), complete, truth)
    paths = _paths(complete, index, names)
    times = _positions(index)
    figure, panels = _panels(names, title, columns=1)
    for series, axes in enumerate(panels):
        missing = np.isnan(truth[:, series])
        if missing.any():
            # With its observed neighbours, so that a gap of one step is seen.
            beside = np.convolve(missing, np.ones(3), mode="same") > 0
            _draw_fan(axes, times, paths[:, :, series], levels, None, where=beside)
        axes.plot(times, truth[:, series], color=PAST, linewidth=1.2, marker=".", markersize=2.5)
        axes.lines[-1].set_label("observed")
        axes.set_title(f"{missing.mean():.1%} missing", fontsize=8, loc="right", color="#777777")
    return _finish(figure, path, legend=max(panels, key=lambda axes: len(axes.collections)))


def plot_pit(
    values: ArrayLike,
    bins: int = 10,
    *,
    independent: int | None = None,
    title: str | None = None,
    path: str | PathLike[str] | None = None,
) -> Figure:
    """Draw the histogram of PIT values with the band in which chance alone would leave it.

    Args:
        values: PIT values of any shape (`scidiffusion.timeseries.scores.pit_values`), NaN left
            out.
        bins: Number of bins.
        independent: Number of values that the band takes as independent of each other; default
            all. Values of one window depend on each other, so that their band is too narrow:
            the number of windows gives one that is on the safe side.
        title: Heading of the picture.
        path: Where to save it; the suffix gives the format.

    Returns:
        The figure. Each bar of a calibrated forecast lies within the band with probability 95 %
        or a little more, by the quantiles of the binomial law.

    Raises:
        DataError: if there is no value, or one lies outside [0, 1].
        ConfigError: if a number is below 1.
        OutputError: if the file cannot be written.
    """
    from matplotlib.figure import Figure
    from scipy.stats import binom

    shares = pit_histogram(values, bins)
    count = int((~np.isnan(np.asarray(values, dtype=np.float64))).sum())
    trials = count if independent is None else independent
    if trials < 1:
        raise ConfigError(f"independent must be 1 or more, got {trials}")
    lower, upper = binom.ppf([0.025, 0.975], trials, 1 / bins) / trials
    figure = Figure(figsize=(5, 3.2), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    chance = f"95 % of chance, {trials} values"
    axes.axhspan(lower, upper, color="#777777", alpha=0.3, linewidth=0, zorder=3, label=chance)
    axes.axhline(1 / bins, color=INK, linewidth=0.8, zorder=3)
    axes.stairs(shares, np.linspace(0, 1, bins + 1), fill=True, color="#8fa8c4")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.15 * max(float(shares.max()), float(upper)))
    axes.set_xlabel("PIT of the observations", fontsize=9, color=INK)
    axes.set_ylabel("share", fontsize=9, color=INK)
    _plain(axes)
    if title:
        figure.suptitle(title, fontsize=11, color=INK)
    return _finish(figure, path, legend=axes)


def _draw_fan(
    axes: Axes,
    times: NDArray[Any],
    paths: Array,
    levels: Sequence[float],
    origin: tuple[NDArray[Any], Array] | None,
    *,
    where: NDArray[np.bool_] | None = None,
) -> None:
    """Intervals, the widest first, and the median of (S, H) paths of one series."""
    if not all(0 < level < 1 for level in levels):
        raise ConfigError(f"the levels of intervals must lie in (0, 1), got {tuple(levels)}")

    def quantile(level: float) -> Array:
        # Rounded as in `coverage`: (1 - 0.9) / 2 is a little less than 0.05.
        values = sample_quantiles(paths[None], [round(level, 12)])[0, 0]
        return values if origin is None else np.append(origin[1], values)

    at = times if origin is None else np.append(origin[0], times)
    for place, level in enumerate(sorted(levels, reverse=True)):
        axes.fill_between(
            at,
            quantile((1 - level) / 2),
            quantile((1 + level) / 2),
            where=None if where is None else where.tolist(),
            color=FORECAST,
            alpha=0.18 + 0.14 * place / max(len(levels) - 1, 1),
            linewidth=0,
            label=f"{level:.0%} interval",
        )
    median = quantile(0.5)
    if where is not None:
        median = np.where(where, median, np.nan)
    # A single step has no line to be seen.
    marker = "o" if len(at) == 1 else None
    axes.plot(
        at, median, color=FORECAST, linewidth=1.4, marker=marker, markersize=3, label="median"
    )


def _paths(samples: ArrayLike, index: pd.Index, names: Sequence[str]) -> Array:
    paths = np.asarray(samples, dtype=np.float64)
    wanted = (len(index), len(names))
    if paths.ndim != 3 or paths.shape[1:] != wanted or 0 in paths.shape:
        raise DataError(
            f"samples must be (S, {wanted[0]} steps of the index, {wanted[1]} names), "
            f"got {paths.shape}"
        )
    if not np.isfinite(paths).all():
        raise DataError("samples hold values that are not finite, which cannot be drawn")
    return paths


def _matrix(values: pd.DataFrame | ArrayLike, shape: tuple[int, ...], what: str) -> Array:
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.shape != shape or 0 in shape:
        raise DataError(f"{what} must be (steps, series) = {shape}, got {matrix.shape}")
    return matrix


def _past(past: pd.DataFrame | ArrayLike, index: pd.Index, dim: int) -> tuple[Array, NDArray[Any]]:
    """Return (T, D) past values and their places on the axis."""
    values = np.asarray(past, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != dim:
        raise DataError(f"the past must be (steps, {dim} series), got {values.shape}")
    if isinstance(past, pd.DataFrame):
        return values, _positions(past.index)
    length = len(values)
    if isinstance(index, pd.PeriodIndex):
        return values, _positions(pd.period_range(end=index[0] - 1, periods=length))
    if isinstance(index, pd.DatetimeIndex):
        freq = index.freq or (pd.infer_freq(index) if len(index) > 2 else None)
        if freq is None:
            raise DataError(
                "the times of the forecast have no frequency to count the past back by; give the "
                "past as a DataFrame with its own times"
            )
        return values, _positions(pd.date_range(end=index[0], periods=length + 1, freq=freq)[:-1])
    step = index[1] - index[0] if len(index) > 1 else 1
    return values, np.asarray(index[0] + step * np.arange(-length, 0))


def _positions(index: pd.Index) -> NDArray[Any]:
    """Return times as matplotlib understands them without pandas' converters."""
    if isinstance(index, pd.PeriodIndex):
        index = index.to_timestamp()
    if isinstance(index, pd.DatetimeIndex):
        return np.asarray(index.tz_localize(None).to_numpy())
    return np.asarray(index)


def _panels(names: Sequence[str], title: str | None, columns: int) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each of the first series, named, with dates as dates."""
    # A figure of its own, not pyplot's: no global state, no window, safe in threads.
    from matplotlib.figure import Figure

    count = min(len(names), MAX_PANELS)
    across = min(columns, count)
    down = -(-count // across)
    width, height = (4.2 * across, 2.5) if columns > 1 else (10.0, 2.2)
    figure = Figure(
        figsize=(max(width, 6.0), height * down + 0.6), layout="constrained", facecolor="white"
    )
    panels = [figure.add_subplot(down, across, place + 1) for place in range(count)]
    for axes, name in zip(panels, names, strict=False):
        axes.set_title(name, fontsize=9.5, loc="left", color=INK, weight="bold", parse_math=False)
        _plain(axes)
    left_out = len(names) - count
    some = f"the first {count} of {len(names)} series; {left_out} are not shown"
    lines = [line for line in (title, some if left_out else None) if line]
    if lines:
        figure.suptitle("\n".join(lines), fontsize=11, color=INK)
    return figure, panels


def _plain(axes: Axes) -> None:
    axes.tick_params(colors="#555555", labelsize=8, length=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#bbbbbb")


def _finish(figure: Figure, path: str | PathLike[str] | None, *, legend: Axes) -> Figure:
    """Add the legend of one panel below all, shorten dates, and save."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    for axes in figure.axes:
        if isinstance(axes.xaxis.get_major_locator(), AutoDateLocator):
            locator = AutoDateLocator(minticks=3, maxticks=7)
            axes.xaxis.set_major_locator(locator)
            axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    entries = dict(
        reversed(pair) for pair in zip(*legend.get_legend_handles_labels(), strict=True)
    )
    if entries:
        figure.legend(
            list(entries.values()),
            list(entries),
            loc="outside lower center",
            ncols=len(entries),
            frameon=False,
            fontsize=8.5,
        )
    if path is not None:
        try:
            write_atomic(path, lambda target: figure.savefig(target, dpi=150))
        except ValueError as error:
            raise OutputError(f"the picture cannot be written to {path}: {error}") from error
    return figure
