"""Rows of a table put on the time axes of their series.

What `scidiffusion.timeseries.frames` has found out (which column is what, which stamps stand for
which period) is used here to lay the values on a grid of steps, one a series.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.errors import DataError
from scidiffusion.timeseries.columns import Table, check_columns, groups_of, numbers
from scidiffusion.timeseries.frequency import periods_of, quiet_business_days, split_freq
from scidiffusion.timeseries.layout import JOINT, FrameLayout
from scidiffusion.timeseries.series import Series, SeriesSet
from scidiffusion.timeseries.stamps import Stamps, infer_freq
from scidiffusion.timeseries.statics import NOTHING, Static, static_values

__all__ = ["Ahead", "assemble", "read_future"]

Array = NDArray[np.float64]
LONG_RUN = 10
"""Steps of one longer spacing in a row after which a series is of two frequencies."""
MIN_SHARE = 0.02
"""Share of steps that must have a row: fewer are a frequency that does not fit."""
EVERY = ""
"""Name of the covariates that are of all series."""


@dataclass(frozen=True)
class Ahead:
    """Covariates of one series over its future.

    Args:
        ordinals: (N,) periods, counted in single steps.
        values: Column -> (N,).
    """

    ordinals: NDArray[np.int64]
    values: Mapping[str, Array]


@dataclass(frozen=True)
class _Grid:
    """Values of one series on its time axis.

    Args:
        first: Ordinal of the first step.
        values: Column -> (T,).
    """

    first: int
    values: Mapping[str, Array]

    def stack(self, names: tuple[str, ...]) -> Array:
        """Return columns as rows, (number, T)."""
        length = len(next(iter(self.values.values())))
        return np.stack([self.values[n] for n in names]) if names else np.empty((0, length))


def assemble(
    table: Table,
    groups: Mapping[str, NDArray[np.int64]],
    layout: FrameLayout,
    *,
    ahead: Mapping[str, Ahead] | None = None,
    static: pd.DataFrame | None = None,
    whole: bool = False,
) -> SeriesSet:
    """Make the series of a table.

    Args:
        table: The table.
        groups: Series -> its rows.
        layout: What its columns are.
        ahead: Covariates known in advance, by series.
        static: Frame of what does not change.
        whole: Keep steps before the first and after the last value.

    Raises:
        DataError: if rows do not fit the frequency, values are infinite or missing altogether, or
            a covariate known in advance has a gap; the message names series and time.
    """
    columns = (*layout.targets, *layout.known, *layout.past)
    values = {name: numbers(table.frame[name], name) for name in columns}
    _check_finite(table, values, groups, layout)
    ordinals = {
        name: layout.stamps.periods(table.stamps[rows], layout.freq, name).asi8
        for name, rows in groups.items()
    }
    _check_spacing(table, groups, ordinals, layout)
    grids = {
        name: _grid(
            ordinals[name],
            {column: value[rows] for column, value in values.items()},
            split_freq(layout.freq)[0],
            (ahead or {}).get(name, (ahead or {}).get(EVERY)),
        )
        for name, rows in groups.items()
    }
    if layout.long and layout.joint:
        grids = {JOINT: _joined(grids, layout)}
        layout = _renamed(layout)
    separate = not layout.long and not layout.joint
    names = list(layout.targets) if separate else list(grids)
    properties = static_values(static, layout, [] if layout.joint else names)
    items = []
    for name, grid in grids.items():
        target = grid.stack(layout.targets)
        _check_observed(target, name, layout)
        known, past = grid.stack(layout.known), grid.stack(layout.past)
        # Steps behind the last value are the future where anything is known of it.
        length = target.shape[1]
        if layout.known and not whole:
            length = int(np.flatnonzero(np.isfinite(target).any(axis=0))[-1]) + 1
        parts = (
            [(column, (column,), target[row : row + 1]) for row, column in enumerate(names)]
            if separate
            else [(name, layout.targets, target)]
        )
        for item, series, rows in parts:
            begin = 0 if whole else int(np.isfinite(rows).any(axis=0).argmax())
            period = periods_of(np.array([grid.first + begin * _step(layout)]), layout.freq)[0]
            _check_known(known[:, begin:length], item, period, layout)
            items.append(
                _item(
                    rows[:, begin:length],
                    known[:, begin:],
                    past[:, begin:length],
                    period,
                    item,
                    series,
                    properties.get(item, NOTHING),
                )
            )
    return SeriesSet(items, layout.freq)


def read_future(table: Table, layout: FrameLayout) -> dict[str, Ahead]:
    """Read the covariates known in advance, by series.

    Args:
        table: Times and known columns; without the column that names the series it is of all.
        layout: Of the frame that it continues.

    Raises:
        DataError: if no such covariates were fitted, or a column is missing.
    """
    if not layout.known:
        raise DataError("future= holds covariates, but the model was fitted without known=")
    check_columns(table, layout.known)
    item_id = layout.item_id if layout.item_id in table.columns else None
    groups, _ = groups_of(table, item_id, EVERY)
    values = {name: numbers(table.frame[name], name) for name in layout.known}
    _check_finite(table, values, groups, layout)
    return {
        name: Ahead(
            layout.stamps.periods(table.stamps[rows], layout.freq, name or "future").asi8,
            {column: value[rows] for column, value in values.items()},
        )
        for name, rows in groups.items()
    }


def _step(layout: FrameLayout) -> int:
    return split_freq(layout.freq)[0]


def _renamed(layout: FrameLayout) -> FrameLayout:
    """Return a layout whose columns of values are the series of the only item."""
    return replace(layout, targets=layout.series)


def _item(
    target: Array,
    known: Array,
    past: Array,
    first: pd.Period,
    name: str,
    names: tuple[str, ...],
    static: Static,
) -> Series:
    with quiet_business_days():
        return Series(target, first, name, names, known, past, *static)


def _grid(
    ordinals: NDArray[np.int64],
    values: Mapping[str, Array],
    step: int,
    ahead: Ahead | None,
) -> _Grid:
    """Lay rows on the axis from the first of them to the last, or to the last known ahead."""
    first, last = int(ordinals.min()), int(ordinals.max())
    beyond = last if ahead is None else max(last, int(ahead.ordinals.max()))
    length = (beyond - first) // step + 1
    place = (ordinals - first) // step
    lines = {}
    for column, value in values.items():
        line = np.full(length, np.nan)
        line[place] = value
        if ahead is not None and column in ahead.values:
            # What the frame itself says of its own rows stands.
            at = (ahead.ordinals - first) // step
            use = (at >= 0) & ((ahead.ordinals - first) % step == 0)
            use[use] &= np.isnan(line[at[use]])
            line[at[use]] = ahead.values[column][use]
        lines[column] = line
    return _Grid(first, lines)


def _joined(grids: Mapping[str, _Grid], layout: FrameLayout) -> _Grid:
    """Align the series of a long frame, missing where one has no row."""
    step, column = _step(layout), layout.targets[0]
    first = min(grid.first for grid in grids.values())
    last = max(grid.first + step * (len(grid.values[column]) - 1) for grid in grids.values())
    lines = {}
    for name, grid in grids.items():
        if (grid.first - first) % step:
            raise DataError(
                f"series {name!r} lies between the steps of the others; of steps of "
                f"{layout.freq!r} all must begin at the same times to be forecast jointly"
            )
        line = np.full((last - first) // step + 1, np.nan)
        begin = (grid.first - first) // step
        line[begin : begin + len(grid.values[column])] = grid.values[column]
        lines[name] = line
    return _Grid(first, lines)


# -- checks --------------------------------------------------------------------------------------


def _check_finite(
    table: Table,
    values: Mapping[str, Array],
    groups: Mapping[str, NDArray[np.int64]],
    layout: FrameLayout,
) -> None:
    for column, value in values.items():
        infinite = np.flatnonzero(np.isinf(value))
        if len(infinite):
            row = int(infinite[0])
            owner = next(name for name, rows in groups.items() if row in rows)
            where = f" of series {owner!r}" if layout.long and owner else ""
            raise DataError(
                f"the column {column!r}{where} is infinite at {table.stamps[row]}; replace the "
                "value, or make it missing (NaN)"
            )


def _check_spacing(
    table: Table,
    groups: Mapping[str, NDArray[np.int64]],
    ordinals: Mapping[str, NDArray[np.int64]],
    layout: FrameLayout,
) -> None:
    """Raise DataError where rows have another frequency than the layout."""
    step, closest, rows, steps = _step(layout), np.inf, 0, 0
    worst = max(ordinals, key=lambda name: len(ordinals[name]))
    coarse = False
    for name, found in ordinals.items():
        ordered = np.sort(found)
        gaps = np.diff(ordered) // step
        rows, steps = rows + len(found), steps + int(gaps.sum()) + 1
        closest = min(closest, int(gaps.min()) if len(gaps) else np.inf)
        run = _longest_run(gaps)
        if run == (0, len(gaps)):
            worst, coarse = name, True
            break
        if run is not None:
            begin, end = (_stamp_at(table.stamps, groups[name], found, ordered[k]) for k in run)
            raise DataError(
                f"series {name!r} has a row every {gaps[run[0]]} steps of {layout.freq!r} from "
                f"{begin} to {end}, and others elsewhere: it has two frequencies; resample one "
                "part, or leave it out"
            )
    coarse |= len(ordinals[worst]) >= 4 and closest > 1
    if coarse or rows < MIN_SHARE * steps:
        chosen = table.stamps[groups[worst]]
        try:
            hint = f"freq={infer_freq(chosen, worst)!r}"
        except DataError:
            hint = "the frequency of the data"
        raise DataError(
            f"series {worst!r} has {len(chosen)} rows from {chosen.min()} to {chosen.max()}, "
            f"which do not fit the frequency {layout.freq!r}; give {hint}, or resample"
        )


def _longest_run(gaps: NDArray[np.int64]) -> tuple[int, int] | None:
    """Ends of the first run of `LONG_RUN` equal gaps of more than a step, as row numbers."""
    if len(gaps) < LONG_RUN:
        return None
    bounds = np.flatnonzero(np.diff(gaps)) + 1
    starts, ends = np.append(0, bounds), np.append(bounds, len(gaps))
    long = (ends - starts >= LONG_RUN) & (gaps[starts] > 1)
    if not long.any():
        return None
    chosen = int(np.argmax(long))
    return int(starts[chosen]), int(ends[chosen])


def _stamp_at(
    stamps: Stamps,
    rows: NDArray[np.int64],
    ordinals: NDArray[np.int64],
    ordinal: int,
) -> object:
    return stamps[rows[int(np.flatnonzero(ordinals == ordinal)[0])]]


def _check_observed(target: Array, name: str, layout: FrameLayout) -> None:
    empty = ~np.isfinite(target).any(axis=1)
    if empty.any():
        series = layout.targets[int(np.argmax(empty))]
        if layout.long and not layout.joint:
            series = name if len(layout.targets) == 1 else f"{name}/{series}"
        raise DataError(
            f"series {series!r} has no value at all: every one is missing; leave the series out"
        )


def _check_known(known: Array, name: str, first: pd.Period, layout: FrameLayout) -> None:
    missing = np.argwhere(~np.isfinite(known).T)
    if len(missing):
        step, row = (int(place) for place in missing[0])
        with quiet_business_days():
            index = pd.period_range(first + step, periods=1, freq=first.freq)
        stamp = layout.stamps.stamps(index)[0]
        raise DataError(
            f"series {name!r}: the covariate {layout.known[row]!r} is missing at {stamp}; fill "
            "it, or give it in past= instead of known="
        )
