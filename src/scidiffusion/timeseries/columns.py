"""Which column of a frame is what: times, names of series, values.

Column labels are text here, whatever they are in the frame; `Table.labels` leads back.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.errors import DataError
from scidiffusion.timeseries.stamps import Stamps

__all__ = ["Table", "check_columns", "find_id", "groups_of", "names_of", "numbers", "read_table"]

TIME_NAMES = ("time", "timestamp", "date", "datetime", "ds")
ID_NAMES = ("item_id", "unique_id", "series_id", "id", "series")
SHOWN = 8
"""Names that a message lists at most."""


@dataclass(frozen=True)
class Table:
    """A frame with its times taken out.

    Args:
        frame: The other columns, called by text, rows as they were.
        stamps: Time of each row.
        time: Name of the column that held the times; None where it was the index.
        index_name: Name of the times, or None.
        labels: Text -> the column's own label.
    """

    frame: pd.DataFrame
    stamps: Stamps
    time: str | None
    index_name: str | None
    labels: Mapping[str, Any]

    @property
    def columns(self) -> list[str]:
        """Names of the columns but that of times."""
        return [str(name) for name in self.frame.columns]


def read_table(data: pd.DataFrame | pd.Series, time: str | None, name: str = "value") -> Table:
    """Find the times of a frame.

    Args:
        data: Times are in the index, in one level of two (the other names the series), or in a
            column.
        time: Name of the column; None takes the index, or the column of dates.
        name: What the values of a series without a name are called.

    Raises:
        DataError: if it is no frame, is empty, has two columns of one name, or no times.
    """
    if isinstance(data, pd.Series):
        data = data.to_frame(name if data.name is None else data.name)
    if not isinstance(data, pd.DataFrame):
        raise DataError(
            f"the data must be a pandas DataFrame or Series, got {type(data).__name__}"
        )
    if isinstance(data.index, pd.MultiIndex):
        data = _without_levels(data)
    if len(data) == 0 or data.shape[1] == 0:
        raise DataError("the frame is empty: it has no rows or no columns")
    labels = {str(label): label for label in data.columns}
    if len(labels) < data.shape[1]:
        names = pd.Index([str(label) for label in data.columns])
        twice = names[names.duplicated()][0]
        raise DataError(f"the frame has two columns called {twice!r}; rename one")
    frame = data.set_axis(list(labels), axis=1)
    if time is None and isinstance(frame.index, pd.DatetimeIndex | pd.PeriodIndex):
        found = frame.index.name
        stamps: Stamps = frame.index
        _check_stamps(stamps, "index")
        return Table(frame, stamps, None, None if found is None else str(found), labels)
    if time is None:
        time = _find_time(frame)
    elif time not in frame:
        raise DataError(f"the frame has no column {time!r} of times; it has {listed(labels)}")
    stamps = _stamps(frame[time], time)
    _check_stamps(stamps, f"column {time!r}")
    return Table(frame.drop(columns=time), stamps, time, time, labels)


def _without_levels(data: pd.DataFrame) -> pd.DataFrame:
    """Make the two levels of an index, series and times, columns."""
    dated = [
        isinstance(level, pd.DatetimeIndex | pd.PeriodIndex)
        for level in data.index.levels  # type: ignore[attr-defined]
    ]
    if len(dated) != 2 or sum(dated) != 1:
        raise DataError(
            "an index of several levels must have two, the name of the series and the time; use "
            "reset_index, and name the columns with item_id= and time="
        )
    defaults = ["time" if is_time else "item_id" for is_time in dated]
    names = [
        default if name is None else str(name)
        for name, default in zip(data.index.names, defaults, strict=True)
    ]
    taken = [name for name in names if name in data.columns]
    if taken:
        raise DataError(
            f"the frame has a column and an index level called {taken[0]!r}; rename one"
        )
    return data.rename_axis(index=names).reset_index()


def _check_stamps(stamps: Stamps, where: str) -> None:
    if stamps.isna().any():
        row = int(np.argmax(stamps.isna()))
        raise DataError(f"the {where} has no time in row {row}; drop that row")


def _find_time(frame: pd.DataFrame) -> str:
    names = [str(name) for name in frame.columns]
    dated = [
        name
        for name in names
        if pd.api.types.is_datetime64_any_dtype(frame[name])
        or isinstance(frame[name].dtype, pd.PeriodDtype)
    ]
    candidates = dated or [name for name in names if name.lower() in TIME_NAMES]
    if not candidates and _reads_as_times(frame[names[0]]):
        candidates = names[:1]
    if len(candidates) == 1:
        return candidates[0]
    found = f"the columns {listed(candidates)} may all be times" if candidates else "it has none"
    raise DataError(
        f"the frame needs one time axis, and {found}: give it a DatetimeIndex, or name the column "
        "of times with time="
    )


def _reads_as_times(column: pd.Series) -> bool:
    """Whether a column of text holds times, as the first of a file written from an index does."""
    if pd.api.types.is_numeric_dtype(column) or not len(column):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return bool(pd.to_datetime(column, utc=True).notna().all())
    except (ValueError, TypeError):
        return False


def _stamps(column: pd.Series, name: str) -> Stamps:
    if isinstance(column.dtype, pd.PeriodDtype):
        return pd.PeriodIndex(column)
    if pd.api.types.is_numeric_dtype(column):
        raise DataError(
            f"the column {name!r} holds numbers, not times; convert it with pandas.to_datetime"
        )
    if not pd.api.types.is_datetime64_any_dtype(column):
        column = column.astype(object)
    try:
        with warnings.catch_warnings():
            # Stamps of summer and winter differ in their offset: they are counted in UTC.
            warnings.filterwarnings("ignore", ".*mixed time zones", FutureWarning)
            times = pd.to_datetime(column)
        if times.dtype == object:
            times = pd.to_datetime(column, utc=True)
        return pd.DatetimeIndex(times)
    except (ValueError, TypeError) as error:
        reason = str(error).split(". ")[0].splitlines()[0]
        raise DataError(f"the column {name!r} cannot be read as times: {reason}") from error


def find_id(table: Table, item_id: str | None) -> str | None:
    """Return the column that names the series: the given one, or one that is called so."""
    if item_id is not None:
        check_columns(table, [item_id])
        return item_id
    for name in table.columns:
        # A column of measurements may be called "series".
        if name.lower() in ID_NAMES and not pd.api.types.is_float_dtype(table.frame[name]):
            return name
    return None


def groups_of(
    table: Table, item_id: str | None, single: str
) -> tuple[dict[str, NDArray[np.int64]], dict[str, Any]]:
    """Return the rows of each series, and its label.

    Args:
        table: The table.
        item_id: Column that names the series; None puts all rows together.
        single: What these are called then.

    Raises:
        DataError: if a row names no series, or two names differ in their type alone.
    """
    if item_id is None:
        return {single: np.arange(len(table.frame))}, {}
    column = table.frame[item_id]
    if column.isna().any():
        row = int(np.argmax(column.isna()))
        raise DataError(f"the column {item_id!r} names no series in row {row}; fill it")
    codes, unique = pd.factorize(column)
    order = np.argsort(codes, kind="stable")
    rows = np.split(order, np.cumsum(np.bincount(codes, minlength=len(unique)))[:-1])
    labels = {str(label): label for label in unique}
    if len(labels) < len(unique):
        names = pd.Index([str(label) for label in unique])
        raise DataError(
            f"the column {item_id!r} holds {names[names.duplicated()][0]!r} as a number and as a "
            "text; convert it to one type"
        )
    return dict(zip(labels, rows, strict=True)), labels


def names_of(names: Hashable | Iterable[Hashable]) -> list[str]:
    """Return an option of one column or several as a list of text."""
    if isinstance(names, str) or not isinstance(names, Iterable):
        return [str(names)]
    return [str(name) for name in names]


def check_columns(table: Table, names: Sequence[str]) -> None:
    """Raise DataError for a name that is no column."""
    for name in names:
        if name == table.time:
            raise DataError(f"the column {name!r} holds the times, and cannot be anything else")
        if name not in table.frame:
            raise DataError(f"the frame has no column {name!r}; it has {listed(table.labels)}")


def listed(names: Iterable[Any]) -> str:
    """Return the first names in one line."""
    every = [str(name) for name in names]
    return ", ".join(every[:SHOWN]) + (", ..." if len(every) > SHOWN else "")


def numbers(column: pd.Series, name: str) -> NDArray[np.float64]:
    """Return the values of a column as float64, missing ones as NaN; true is 1, false 0.

    Raises:
        DataError: if it holds anything but numbers; the message shows the first of these.
    """
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    timed = pd.api.types.is_datetime64_any_dtype(column) or column.dtype.kind in "mc"
    if not timed and not pd.api.types.is_numeric_dtype(column):
        parsed = pd.to_numeric(column.astype(object), errors="coerce")
        wrong = column[parsed.isna() & column.notna()]
        if not len(wrong):
            column = parsed
        else:
            timed = True
            column = wrong
    if timed:
        raise DataError(
            f"the column {name!r} holds {column.dropna().iloc[0]!r}, which is no number; encode "
            "it (1 for a holiday, 0 for none), name the columns of values with target=, or the "
            "one that names the series with item_id="
        )
    return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
