"""pandas frames -> `SeriesSet`.

Two layouts are understood. *Wide*: times in the index or a column, one column a series. *Long*: a
column that names the series, a column of times, one or more columns of values. Stamps become
periods; missing rows become missing values; rows after the last value that hold covariates known
in advance are the future. Everything that cannot be right is one error that names series and time.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.errors import DataError, ScidiffusionWarning
from scidiffusion.timeseries.frequency import (
    infer_freq,
    normalise_freq,
    quiet_business_days,
    split_freq,
)
from scidiffusion.timeseries.layout import JOINT, FrameLayout
from scidiffusion.timeseries.series import Series, SeriesSet
from scidiffusion.timeseries.statics import read_static, static_of

__all__ = ["FrameLayout", "read_frame", "read_like"]

TIME_NAMES = ("time", "timestamp", "date", "datetime", "ds")
ID_NAMES = ("item_id", "unique_id", "series_id", "id", "series")
MAX_JOINT = 64
"""Columns of a wide frame that are forecast jointly unless told otherwise."""
MIN_SHARE = 0.1
"""Share of steps that must have a row: fewer are a frequency that does not fit."""


def read_frame(
    frame: pd.DataFrame | pd.Series,
    *,
    target: str | Sequence[str] | None = None,
    time: str | None = None,
    item_id: str | None = None,
    known: Sequence[str] = (),
    past: Sequence[str] = (),
    static: pd.DataFrame | None = None,
    freq: str | None = None,
    multivariate: bool | None = None,
    future: pd.DataFrame | None = None,
) -> tuple[SeriesSet, FrameLayout]:
    """Read a frame; see the module.

    Args:
        frame: Wide or long.
        target: Column or columns of values; None takes those that are nothing else.
        time: Column of times; None takes the index or the column of dates.
        item_id: Column of the series' names; None takes one that is called so.
        known: Columns known in advance.
        past: Columns known up to now only.
        static: Frame of what does not change, indexed by series.
        freq: Frequency; None reads it off the stamps.
        multivariate: Whether the series are one item; None: those of a wide frame are.
        future: Frame of the known columns after the last value.

    Returns:
        The series and the layout.

    Raises:
        DataError: if the frame cannot be read so; the message names series and time.
    """
    frame, stamps, time = _with_times(frame, time)
    item_id = _find_id(frame, item_id)
    targets = _targets(frame, target, {item_id, *known, *past})
    _check_columns(frame, [*known, *past])
    long = item_id is not None
    joint = (not long and len(targets) <= MAX_JOINT) if multivariate is None else multivariate
    if long and joint and len(targets) > 1:
        raise DataError(
            "a long frame with several columns of values is multivariate already, one item a "
            "series; leave multivariate out"
        )
    groups = _groups(frame, item_id)
    found: dict[str, str] = {}
    if freq is None:
        for name, rows in groups.items():
            found[name] = infer_freq(_sorted_unique(stamps[rows], name), name)
        if len(set(found.values())) > 1:
            first, other = (
                next(n for n in found if found[n] == f)
                for f in list(dict.fromkeys(found.values()))[:2]
            )
            raise DataError(
                f"series {first!r} has the frequency {found[first]!r}, but {other!r} has "
                f"{found[other]!r}; resample one of them, or fit them apart"
            )
        freq = next(iter(found.values()))
    layout = FrameLayout(
        freq=normalise_freq(freq),
        long=long,
        joint=bool(joint),
        time=time,
        index_name=frame.index.name if time is None else time,
        item_id=item_id,
        targets=tuple(targets),
        series=(),
        known=tuple(known),
        past=tuple(past),
        stamps="start",
        timezone=str(stamps.tz) if isinstance(stamps, pd.DatetimeIndex) and stamps.tz else None,
    )
    layout = _replace(layout, stamps=_stamp_style(stamps, layout))
    if joint:
        layout = _replace(layout, series=tuple(groups) if long else tuple(targets))
    if static is not None:
        layout = read_static(static, layout)
    return _assemble(frame, stamps, groups, layout, static, future), layout


def read_like(
    frame: pd.DataFrame | pd.Series,
    layout: FrameLayout,
    *,
    future: pd.DataFrame | None = None,
    static: pd.DataFrame | None = None,
    horizon: int = 0,
) -> SeriesSet:
    """Read a frame laid out as the one that was fitted.

    Args:
        frame: The frame.
        layout: Of the fitted frame.
        future: Frame of the known columns after the last value.
        static: Frame of what does not change.
        horizon: Steps after the last value over which the known columns must reach.

    Raises:
        DataError: if columns are missing, or a covariate does not reach over the horizon.
    """
    if isinstance(frame, pd.Series):
        frame = frame.to_frame(layout.targets[0])
    frame, stamps, _ = _with_times(frame, layout.time)
    if layout.item_id is not None and layout.item_id not in frame:
        raise DataError(f"the frame has no column {layout.item_id!r}, which names the series")
    _check_columns(frame, [*layout.known, *layout.past])
    if layout.long or layout.joint:
        _check_columns(frame, layout.targets)
    groups = _groups(frame, layout.item_id)
    if layout.joint and layout.long:
        missing = [name for name in layout.series if name not in groups]
        if missing:
            raise DataError(
                f"the model forecasts {len(layout.series)} series jointly, and {missing[0]!r} is "
                "missing from the frame"
            )
    if not layout.long and not layout.joint:
        others = {*layout.known, *layout.past}
        layout = _replace(layout, targets=tuple(c for c in map(str, frame) if c not in others))
    series = _assemble(frame, stamps, groups, layout, static, future)
    if horizon and layout.known:
        for item in series:
            _check_horizon(item, layout, horizon)
    return series


def _check_horizon(item: Series, layout: FrameLayout, horizon: int) -> None:
    needed = item.length + horizon
    ahead = item.known[:, item.length : needed]
    whole = np.full((len(item.known), horizon), np.nan)
    whole[:, : ahead.shape[1]] = ahead
    bad = np.argwhere(~np.isfinite(whole).T)
    if len(bad):
        step, row = (int(place) for place in bad[0])
        raise DataError(
            f"series {item.item_id!r}: the covariate {layout.known[row]!r} is missing at "
            f"{item.start + item.length + step}; it must be known for {horizon} steps after the "
            f"last value, to {item.start + needed - 1}: append these rows, or give future="
        )


# -- times and columns ---------------------------------------------------------------------------


def _with_times(
    frame: pd.DataFrame | pd.Series, time: str | None
) -> tuple[pd.DataFrame, pd.DatetimeIndex | pd.PeriodIndex, str | None]:
    """Return the frame with text column names, its stamps, and the column they are in."""
    if isinstance(frame, pd.Series):
        frame = frame.to_frame(str(frame.name or "value"))
    if not isinstance(frame, pd.DataFrame):
        raise DataError(f"the data must be a pandas frame, got {type(frame).__name__}")
    if len(frame) == 0 or frame.shape[1] == 0:
        raise DataError("the frame is empty: it has no rows or no columns")
    frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
    repeated = frame.columns[frame.columns.duplicated()]
    if len(repeated):
        raise DataError(f"the frame has two columns called {repeated[0]!r}; rename one")
    if time is None and isinstance(frame.index, pd.DatetimeIndex | pd.PeriodIndex):
        return frame, frame.index, None
    if time is None:
        dated = [n for n in frame if pd.api.types.is_datetime64_any_dtype(frame[n])]
        named = [n for n in frame if n.lower() in TIME_NAMES]
        candidates = dated or named
        if len(candidates) != 1:
            raise DataError(
                "the frame has no time axis: give it a DatetimeIndex, or name the column of times "
                "with time="
            )
        time = candidates[0]
    if time not in frame:
        raise DataError(f"the frame has no column {time!r} of times; it has {_some(frame)}")
    values = frame[time]
    if isinstance(values.dtype, pd.PeriodDtype):
        stamps: Any = pd.PeriodIndex(values)
    elif pd.api.types.is_numeric_dtype(values):
        raise DataError(
            f"the column {time!r} holds numbers, not times; convert it with pandas.to_datetime"
        )
    else:
        try:
            stamps = pd.DatetimeIndex(pd.to_datetime(values))
        except (ValueError, TypeError) as error:
            raise DataError(f"the column {time!r} cannot be read as times: {error}") from error
    if stamps.isna().any():
        row = int(np.argmax(stamps.isna()))
        raise DataError(f"the column {time!r} has no time in row {row}; drop that row")
    return frame.drop(columns=time), stamps, time


def _find_id(frame: pd.DataFrame, item_id: str | None) -> str | None:
    if item_id is not None:
        _check_columns(frame, [item_id])
        return item_id
    named = [name for name in frame if name.lower() in ID_NAMES]
    return named[0] if named else None


def _targets(
    frame: pd.DataFrame, target: str | Sequence[str] | None, others: set[str | None]
) -> list[str]:
    if target is None:
        names = [name for name in frame if name not in others]
    else:
        names = [target] if isinstance(target, str) else [str(name) for name in target]
        _check_columns(frame, names)
    if not names:
        raise DataError("the frame has no column of values; name one with target=")
    return names


def _check_columns(frame: pd.DataFrame, names: Sequence[str]) -> None:
    for name in names:
        if name not in frame:
            raise DataError(f"the frame has no column {name!r}; it has {_some(frame)}")


def _some(frame: pd.DataFrame) -> str:
    names = [str(name) for name in frame.columns]
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


def _groups(frame: pd.DataFrame, item_id: str | None) -> dict[str, NDArray[np.int64]]:
    """Name of each series -> its rows; one group of all rows in a wide frame."""
    if item_id is None:
        return {JOINT: np.arange(len(frame))}
    if frame[item_id].isna().any():
        row = int(np.argmax(frame[item_id].isna()))
        raise DataError(f"the column {item_id!r} names no series in row {row}")
    rows = frame.groupby(item_id, sort=False).indices
    return {str(name): np.asarray(index) for name, index in rows.items()}


def _sorted_unique(stamps: Any, name: str) -> Any:
    if stamps.has_duplicates:
        twice = stamps[stamps.duplicated()][0]
        raise DataError(
            f"series {name!r} has two rows at {twice}; keep one of them, or name the column that "
            "tells the series apart with item_id="
        )
    return stamps.sort_values()


def _periods(stamps: Any, layout: FrameLayout, name: str) -> pd.PeriodIndex:
    """Return the periods of stamps.

    Raises:
        DataError: if two stamps fall into one period.
    """
    with quiet_business_days():
        if isinstance(stamps, pd.PeriodIndex):
            if normalise_freq(stamps.freqstr) != layout.freq:
                raise DataError(
                    f"series {name!r} has periods of {stamps.freqstr!r}, but the frequency is "
                    f"{layout.freq!r}; convert them with asfreq"
                )
            periods = pd.PeriodIndex.from_ordinals(stamps.asi8, freq=layout.freq)
        else:
            if (stamps.tz is None) != (layout.timezone is None):
                raise DataError(
                    f"series {name!r}: its stamps have {'no' if stamps.tz is None else 'a'} time "
                    f"zone, those of the fitted frame {'one' if stamps.tz is None else 'none'}"
                )
            if stamps.tz is not None:
                stamps = stamps.tz_convert("UTC" if layout.utc else layout.timezone)
                stamps = stamps.tz_localize(None)
            periods = stamps.to_period(layout.freq)
    if periods.has_duplicates:
        twice = periods[periods.duplicated()][0]
        raise DataError(
            f"series {name!r} has two rows in the period {twice} of freq={layout.freq!r}; "
            "aggregate them, or give a finer freq"
        )
    return periods


def _stamp_style(stamps: Any, layout: FrameLayout) -> str:
    if isinstance(stamps, pd.PeriodIndex):
        return "period"
    if stamps.tz is not None:
        stamps = stamps.tz_convert("UTC" if layout.utc else layout.timezone).tz_localize(None)
    with quiet_business_days():
        periods = stamps.to_period(layout.freq)
        shift = stamps - periods.to_timestamp(how="start")
        if (shift == pd.Timedelta(0)).all():
            return "start"
        if (stamps == periods.to_timestamp(how="end").normalize()).all():
            return "end"
    # Days of the month and the like: the most frequent distance stands for all.
    return (
        "end"
        if layout.freq[0] in "MQY" and shift.nunique() > 1
        else str(shift.value_counts().idxmax())
    )


# -- values --------------------------------------------------------------------------------------


def _assemble(
    frame: pd.DataFrame,
    stamps: Any,
    groups: dict[str, NDArray[np.int64]],
    layout: FrameLayout,
    static: pd.DataFrame | None,
    future: pd.DataFrame | None,
) -> SeriesSet:
    numbers = {
        name: _numbers(frame[name], name)
        for name in (*layout.targets, *layout.known, *layout.past)
    }
    ahead = _future_rows(future, layout) if future is not None else {}
    items = []
    joined: list[tuple[pd.PeriodIndex, NDArray[np.float64]]] = []
    for name, rows in groups.items():
        if layout.joint and layout.long and name not in layout.series:
            continue
        periods = _periods(stamps[rows], layout, name)
        extra = ahead.get(name) if layout.long else ahead.get(JOINT)
        first = periods.min()
        last = periods.max() if extra is None else max(periods.max(), extra[0].max())
        step = split_freq(layout.freq)[0]
        length = (last - first).n // step + 1
        place = (periods.asi8 - first.ordinal) // step
        if len(rows) < MIN_SHARE * ((periods.max() - first).n // step + 1):
            raise DataError(
                f"series {name!r} has {len(rows)} rows for {length} steps of freq="
                f"{layout.freq!r} from {first} to {last}; give the freq of the data"
            )
        values = {}
        for column, value in numbers.items():
            line = np.full(length, np.nan)
            line[place] = value[rows]
            values[column] = line
        if extra is not None:
            at = (extra[0].asi8 - first.ordinal) // step
            for column, value in extra[1].items():
                values[column][at] = value
        target = np.stack([values[column] for column in layout.targets])
        known = np.stack([values[c] for c in layout.known]) if layout.known else np.empty((0, 0))
        past = np.stack([values[c] for c in layout.past]) if layout.past else np.empty((0, 0))
        if layout.joint and layout.long:
            joined.append((pd.period_range(first, periods=length, freq=first.freq), target[0]))
            if layout.known or layout.past:
                raise DataError(
                    "covariates of a long frame belong to single series; use a wide frame, or "
                    "multivariate=False"
                )
            continue
        if not layout.long and not layout.joint:
            for row, column in enumerate(layout.targets):
                items.append(_item(target[row : row + 1], first, column, (column,), known, past,
                                   layout, static))  # fmt: skip
        else:
            names = layout.targets
            items.append(_item(target, first, name, names, known, past, layout, static))
    if joined:
        items = [_joint(joined, layout, static)]
    return SeriesSet(items, layout.freq)


def _item(
    target: NDArray[np.float64],
    first: pd.Period,
    name: str,
    names: Sequence[str],
    known: NDArray[np.float64],
    past: NDArray[np.float64],
    layout: FrameLayout,
    static: pd.DataFrame | None,
) -> Series:
    """Make an item; trailing rows without any value are its future where covariates fill them."""
    length = target.shape[1]
    if layout.known:
        seen = np.flatnonzero(np.isfinite(target).any(axis=0))
        length = int(seen[-1]) + 1 if len(seen) else length
        missing = np.argwhere(~np.isfinite(known[:, :length]).T)
        if len(missing):
            step, row = (int(place) for place in missing[0])
            raise DataError(
                f"series {name!r}: the covariate {layout.known[row]!r} is missing at "
                f"{first + step}; fill it, or give it in past= instead of known="
            )
    real, cat = static_of(static, layout, name)
    item = Series(
        target[:, :length], first, name, tuple(names), known, past[:, :length], real, cat
    )
    empty = ~np.isfinite(item.target).any(axis=1)
    if empty.any():
        raise DataError(
            f"series {item.names[int(np.argmax(empty))]!r} of {name!r} has no value at all; "
            "leave it out"
        )
    return item


def _joint(
    parts: Sequence[tuple[pd.PeriodIndex, NDArray[np.float64]]],
    layout: FrameLayout,
    static: pd.DataFrame | None,
) -> Series:
    """Align series into one item, missing where one has no row."""
    step = split_freq(layout.freq)[0]
    first = min(index[0] for index, _ in parts)
    last = max(index[-1] for index, _ in parts)
    target = np.full((len(parts), (last - first).n // step + 1), np.nan)
    for row, (index, values) in enumerate(parts):
        start = (index[0] - first).n // step
        target[row, start : start + len(values)] = values
    empty = np.empty((0, 0))
    return _item(target, first, JOINT, layout.series, empty, empty, layout, static)


def _future_rows(
    future: pd.DataFrame, layout: FrameLayout
) -> dict[str, tuple[pd.PeriodIndex, dict[str, NDArray[np.float64]]]]:
    """Known columns after the last value, by series."""
    if not layout.known:
        raise DataError("future= holds covariates, but none were named with known=")
    frame, stamps, _ = _with_times(future, layout.time)
    _check_columns(frame, layout.known)
    numbers = {name: _numbers(frame[name], name) for name in layout.known}
    groups = _groups(frame, layout.item_id if layout.item_id in frame else None)
    result = {}
    for name, rows in groups.items():
        periods = _periods(stamps[rows], layout, name)
        result[name] = (periods, {column: value[rows] for column, value in numbers.items()})
    return result


def _numbers(column: pd.Series, name: str) -> NDArray[np.float64]:
    """Values of a column as float64, missing as NaN."""
    if pd.api.types.is_bool_dtype(column):
        return np.asarray(column.astype(float))
    if not pd.api.types.is_numeric_dtype(column):
        try:
            column = pd.to_numeric(column)
        except (ValueError, TypeError):
            raise DataError(
                f"the column {name!r} holds {column.dropna().iloc[0]!r}, not numbers; encode it "
                "(1 for a holiday, 0 for none), or name the columns of values with target="
            ) from None
    values = np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
    infinite = np.flatnonzero(np.isinf(values))
    if len(infinite):
        raise DataError(
            f"the column {name!r} is infinite in row {int(infinite[0])} "
            f"(index {column.index[infinite[0]]}); replace the value, or make it missing"
        )
    return values


def warn_unknown(items: Sequence[str], fitted: Sequence[str]) -> None:
    """Warn of series that the model has not seen: they are forecast like any other."""
    new = [name for name in items if name not in set(fitted)]
    if new:
        warnings.warn(
            f"{len(new)} series were not in the training data, the first is {new[0]!r}; they are "
            "forecast from their own past",
            ScidiffusionWarning,
            stacklevel=3,
        )


def _replace(layout: FrameLayout, **changes: Any) -> FrameLayout:
    from dataclasses import replace

    return replace(layout, **changes)
