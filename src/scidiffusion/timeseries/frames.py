"""pandas frames -> `SeriesSet`.

Two layouts are understood. *Wide*: times in the index or a column, one column a series. *Long*: a
column that names the series, a column of times, one or more columns of values. Stamps become
periods; missing rows become missing values; rows after the last value are the future where
covariates are known in advance. Everything that cannot be right is one error that names series
and time.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.errors import DataError, ScidiffusionWarning
from scidiffusion.timeseries.assembly import assemble, read_future
from scidiffusion.timeseries.columns import (
    Table,
    check_columns,
    find_id,
    groups_of,
    listed,
    names_of,
    read_table,
)
from scidiffusion.timeseries.frequency import normalise_freq, quiet_business_days
from scidiffusion.timeseries.layout import JOINT, FrameLayout
from scidiffusion.timeseries.series import SeriesSet
from scidiffusion.timeseries.stamps import StampStyle, infer_freq
from scidiffusion.timeseries.statics import StaticSource, read_static, static_names, static_of

__all__ = ["FrameLayout", "read_frame", "read_like", "warn_unknown"]

MAX_JOINT = 64
"""Columns of a wide frame that are forecast jointly unless told otherwise."""
ENOUGH = 10
"""Stamps of a series whose frequency is believed."""


def read_frame(
    data: pd.DataFrame | pd.Series,
    *,
    target: Hashable | Sequence[Hashable] = None,
    time: str | None = None,
    item_id: str | None = None,
    known: Hashable | Sequence[Hashable] = (),
    past: Hashable | Sequence[Hashable] = (),
    static: StaticSource = None,
    freq: str | None = None,
    multivariate: bool | None = None,
) -> tuple[SeriesSet, FrameLayout]:
    """Read a frame; see the module.

    Args:
        data: Wide or long, or one series.
        target: Column or columns of values; None takes those that are nothing else.
        time: Column of times; None takes the index or the column of dates.
        item_id: Column of the series' names; None takes one that is called so.
        known: Columns known in advance.
        past: Columns known up to now only.
        static: What does not change: a frame indexed by series, or columns of a long frame.
        freq: Frequency; None reads it off the stamps.
        multivariate: Whether the series are one item; None: those of a wide frame are, up to
            `MAX_JOINT`.

    Returns:
        The series and the layout.

    Raises:
        DataError: if the frame cannot be read so; the message names series and time.
    """
    table = read_table(data, time)
    item_id = find_id(table, item_id)
    knowns, pasts = names_of(known), names_of(past)
    statics = static_names(static)
    targets = _targets(table, target, {item_id, *knowns, *pasts, *statics})
    _check_roles(table, item_id, targets, knowns, pasts, statics)
    long = item_id is not None
    if multivariate is None:
        joint = not long and 1 < len(targets) <= MAX_JOINT
    else:
        joint = bool(multivariate) and (long or len(targets) > 1)
    if long:
        _check_long(len(targets), multivariate, bool(knowns or pasts))
    groups, labels = groups_of(table, item_id, JOINT)
    with quiet_business_days():
        freq = normalise_freq(freq) if freq is not None else _common_freq(table, groups)
    layout = FrameLayout(
        freq=freq,
        long=long,
        joint=joint,
        time=table.time,
        index_name=table.index_name,
        item_id=item_id,
        targets=tuple(targets),
        chosen=target is not None,
        series=(tuple(groups) if long else tuple(targets)) if joint else (),
        known=tuple(knowns),
        past=tuple(pasts),
        stamps=StampStyle.of(table.stamps, freq),
        labels=labels if long else table.labels,
    )
    about = static if isinstance(static, pd.DataFrame) else None
    if statics:
        about = static_of(table, statics, item_id)
    if about is not None:
        layout = read_static(about, layout)
    return assemble(table, groups, layout, static=about), layout


def read_like(
    data: pd.DataFrame | pd.Series,
    layout: FrameLayout,
    *,
    future: pd.DataFrame | None = None,
    static: pd.DataFrame | None = None,
    horizon: int = 0,
    whole: bool = False,
) -> tuple[SeriesSet, FrameLayout]:
    """Read a frame laid out as the one that was fitted.

    Args:
        data: The frame.
        layout: Of the fitted frame.
        future: Frame of the known columns after the last value; without the column that names
            the series it is of all of them.
        static: Frame of what does not change; None takes the columns of `data` that do.
        horizon: Steps after the last value over which the known columns must reach.
        whole: Keep steps before the first and after the last value, to be filled.

    Returns:
        The series, and the layout of this frame, which differs in stamps and labels.

    Raises:
        DataError: if columns are missing, or a covariate does not reach over the horizon.
    """
    table = _table_like(data, layout)
    if layout.item_id is not None:
        check_columns(table, [layout.item_id])
    check_columns(table, [*layout.known, *layout.past])
    groups, labels = groups_of(table, layout.item_id, JOINT)
    layout = replace(
        layout,
        time=table.time,
        index_name=table.index_name,
        stamps=_style_like(table, layout),
        labels=labels if layout.long else table.labels,
    )
    if layout.long or layout.joint:
        check_columns(table, layout.targets)
    else:
        layout = replace(layout, targets=_wide_targets(table, layout))
    if layout.joint:
        groups = _joint_groups(table, groups, layout)
    ahead = None
    if future is not None:
        ahead = read_future(_table_like(future, layout), layout)
    wanted = [*layout.static_real, *(layout.static_cat or {})]
    if static is None and wanted and all(name in table.frame for name in wanted):
        static = static_of(table, wanted, layout.item_id)
    series = assemble(table, groups, layout, ahead=ahead, static=static, whole=whole)
    if horizon and layout.known:
        for item in series:
            _check_horizon(item.item_id, item.known, item.length, item.start, layout, horizon)
    return series, layout


def warn_unknown(names: Sequence[str], fitted: Collection[str], *, stacklevel: int = 3) -> None:
    """Warn once of series that the model has not seen: they are forecast like any other."""
    seen = set(fitted)
    new = [name for name in names if name not in seen]
    if new:
        warnings.warn(
            f"{len(new)} of {len(names)} series were not in the training data ({listed(new)}); "
            "what the model learned of the others is applied to their own past",
            ScidiffusionWarning,
            stacklevel=stacklevel,
        )


# -- columns -------------------------------------------------------------------------------------


def _targets(
    table: Table, target: Hashable | Sequence[Hashable], others: set[str | None]
) -> list[str]:
    if target is None:
        names = [name for name in table.columns if name not in others]
    else:
        names = names_of(target)
        check_columns(table, names)
    if not names:
        raise DataError("the frame has no column of values; name one with target=")
    return names


def _check_roles(
    table: Table,
    item_id: str | None,
    targets: Sequence[str],
    known: Sequence[str],
    past: Sequence[str],
    static: Sequence[str],
) -> None:
    """Raise DataError for a column that is missing or that two options name."""
    check_columns(table, [*known, *past, *static])
    roles = {"item_id": [item_id], "target": targets, "known": known, "past": past}
    roles["static"] = static
    said: dict[str, str] = {}
    for role, names in roles.items():
        for name in names:
            if name is None:
                continue
            if name in said:
                raise DataError(
                    f"the column {name!r} is named by {said[name]}= and {role}=; it can be one "
                    "thing alone"
                )
            said[name] = role


def _check_long(values: int, multivariate: bool | None, covariates: bool) -> None:
    if multivariate is False and values > 1:
        raise DataError(
            f"a long frame with {values} columns of values is one item a series, these columns "
            "jointly; leave multivariate out, or bring the values into one column (pandas.melt)"
        )
    if multivariate and values > 1:
        raise DataError(
            "a long frame with several columns of values is multivariate already, one item a "
            "series; leave multivariate out"
        )
    if multivariate and covariates:
        raise DataError(
            "covariates of a long frame belong to single series, and these are forecast jointly; "
            "use a wide frame, or multivariate=False"
        )


def _table_like(data: pd.DataFrame | pd.Series, layout: FrameLayout) -> Table:
    """Read a frame whose times may lie in the column or in the index."""
    time = layout.time
    dated = isinstance(getattr(data, "index", None), pd.DatetimeIndex | pd.PeriodIndex)
    if isinstance(data, pd.Series) or (dated and time not in [str(n) for n in data.columns]):
        time = None
    table = read_table(data, time, layout.targets[0])
    if isinstance(data, pd.Series) and layout.chosen and len(layout.targets) == 1:
        # A series on its own is what was asked for, whatever it is called.
        frame = table.frame.set_axis([layout.targets[0]], axis=1)
        return replace(table, frame=frame, labels={layout.targets[0]: data.name})
    return table


def _style_like(table: Table, layout: FrameLayout) -> StampStyle:
    """Style of the stamps of a frame like the fitted one.

    Raises:
        DataError: if one has a time zone and the other has none.
    """
    style = StampStyle.of(table.stamps, layout.freq, layout.stamps)
    periods = "period" in (style.anchor, layout.stamps.anchor)
    if not periods and (style.timezone is None) != (layout.stamps.timezone is None):
        ours, theirs = (
            f"the time zone {zone}" if zone else "no time zone"
            for zone in (layout.stamps.timezone, style.timezone)
        )
        raise DataError(
            f"the fitted frame has {ours}, but this one, from {table.stamps[0]} on, has {theirs}; "
            "convert it with tz_localize or tz_convert"
        )
    if style.timezone is not None and not periods:
        # What a period is must be as it was: counted in UTC, or by local clocks.
        return replace(style, utc=layout.stamps.utc)
    return style


def _wide_targets(table: Table, layout: FrameLayout) -> tuple[str, ...]:
    if not layout.chosen:
        others = {*layout.known, *layout.past}
        names = [name for name in table.columns if name not in others]
    else:
        names = [name for name in layout.targets if name in table.frame]
    if not names:
        raise DataError(
            f"the frame has none of the columns of values {listed(layout.targets)}; it has "
            f"{listed(table.labels)}"
        )
    return tuple(names)


def _joint_groups(
    table: Table, groups: Mapping[str, NDArray[np.int64]], layout: FrameLayout
) -> dict[str, NDArray[np.int64]]:
    """Return the groups of the series that are forecast jointly; warn of others.

    Raises:
        DataError: if one of the series is missing.
    """
    if not layout.long:
        others = {*layout.targets, *layout.known, *layout.past}
        left_out = [] if layout.chosen else [n for n in table.columns if n not in others]
        kept = dict(groups)
    else:
        missing = [name for name in layout.series if name not in groups]
        if missing:
            raise DataError(
                f"the model forecasts {len(layout.series)} series jointly, and {missing[0]!r} is "
                "missing from the frame; give all, or fit with multivariate=False"
            )
        left_out = [name for name in groups if name not in layout.series]
        kept = {name: groups[name] for name in layout.series}
    if left_out:
        warnings.warn(
            f"the model forecasts {len(layout.series)} series jointly and has not learned "
            f"{listed(left_out)}: left out. With multivariate=False it would take new series",
            ScidiffusionWarning,
            stacklevel=5,
        )
    return kept


# -- times ---------------------------------------------------------------------------------------


def _common_freq(table: Table, groups: Mapping[str, NDArray[np.int64]]) -> str:
    """Read the one frequency off the stamps of all series.

    Series of a few stamps do not count where others have more: with a gap between every two of
    them they would look coarser than they are.

    Raises:
        DataError: if there are two, or none can be told.
    """
    stamps = table.stamps
    for name, rows in groups.items():
        chosen = stamps[rows]
        if chosen.has_duplicates:
            twice = chosen[chosen.duplicated()][0]
            raise DataError(
                f"series {name!r} has two rows at {twice}; keep one of them, or name the column "
                "that tells the series apart with item_id="
            )
    longest = max(len(rows) for rows in groups.values())
    found: dict[str, str] = {}
    for name, rows in groups.items():
        if len(rows) >= min(ENOUGH, longest):
            found[name] = infer_freq(stamps[rows], name)
    counts = Counter(found.values())
    usual = counts.most_common(1)[0][0]
    other = next((name for name, freq in found.items() if freq != usual), None)
    if other is not None:
        one = next(name for name, freq in found.items() if freq == usual)
        raise DataError(
            f"series {one!r} has the frequency {usual!r}, but {other!r}, from "
            f"{stamps[groups[other]].min()} on, has {found[other]!r}; resample one of them, or "
            "fit them apart"
        )
    return usual


def _check_horizon(
    name: str,
    known: NDArray[np.float64],
    length: int,
    start: pd.Period,
    layout: FrameLayout,
    horizon: int,
) -> None:
    """Raise DataError if covariates known in advance end before the horizon does."""
    whole = np.full((len(known), horizon), np.nan)
    ahead = known[:, length : length + horizon]
    whole[:, : ahead.shape[1]] = ahead
    bad = np.argwhere(~np.isfinite(whole).T)
    if not len(bad):
        return
    step, row = (int(place) for place in bad[0])
    with quiet_business_days():
        index = pd.period_range(start + length, periods=horizon, freq=start.freq)
    stamps = layout.stamps.stamps(index)
    raise DataError(
        f"series {name!r}: the covariate {layout.known[row]!r} is missing at {stamps[step]}; it "
        f"must be known for {horizon} steps after the last value, to {stamps[-1]}: append these "
        "rows, or give future="
    )
