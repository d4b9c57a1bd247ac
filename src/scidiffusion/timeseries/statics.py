"""What does not change about a series: numbers and classes.

They come from a frame of their own, indexed by series, or stand in columns of the long frame, the
same in every row of a series.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.errors import DataError
from scidiffusion.timeseries.columns import Table, check_columns, listed, names_of
from scidiffusion.timeseries.layout import FrameLayout

Static: TypeAlias = tuple[NDArray[np.float64], NDArray[np.int64]]
"""Numbers (R,) and class codes (C,) of one series."""
NOTHING: Static = (np.empty(0), np.empty(0, dtype=np.int64))


StaticSource: TypeAlias = pd.DataFrame | str | Sequence[str] | None
"""A frame indexed by series, names of columns of the long frame, or nothing."""


def static_names(static: StaticSource) -> list[str]:
    """Return the columns that hold static values; none where a frame of their own does.

    Raises:
        DataError: if it is neither.
    """
    if static is None or isinstance(static, pd.DataFrame):
        return []
    if not isinstance(static, str | list | tuple):
        raise DataError(
            "static must be a frame with one row a series, indexed by its name, or names of "
            f"columns of a long frame; got {type(static).__name__}"
        )
    return names_of(static)


def static_of(table: Table, names: Sequence[str], item_id: str | None) -> pd.DataFrame:
    """Return columns of a long table as a frame indexed by series.

    Rows where a value is missing have no say: those of the future often hold covariates alone.

    Args:
        table: The table.
        names: Its columns that do not change.
        item_id: Column that names the series.

    Raises:
        DataError: if a column is missing, the table is wide, or a value changes within a series;
            the message names series and column.
    """
    check_columns(table, names)
    if item_id is None:
        raise DataError(
            f"the static column {names[0]!r} needs a long frame, of one row a series and time: "
            "name the column of the series with item_id="
        )
    grouped = table.frame[names].groupby(table.frame[item_id], sort=False)
    changing = grouped.nunique() > 1
    for column in names:
        if changing[column].any():
            name = changing.index[changing[column]][0]
            rows = table.frame.loc[table.frame[item_id] == name, column].dropna()
            one, other = rows.unique()[:2]
            raise DataError(
                f"series {str(name)!r}: the static column {column!r} changes from {one} to "
                f"{other}; what changes over time is known in advance (known=) or not (past=)"
            )
    return grouped.first()


def read_static(static: pd.DataFrame, layout: FrameLayout) -> FrameLayout:
    """Return the layout with the columns of `static` and the levels of its classes.

    Columns of numbers are numbers; text, truth values and categories are classes.

    Args:
        static: One row a series, indexed by its name.
        layout: Of the frame of the series.

    Raises:
        DataError: if `static` is no frame, names a series twice, or the series are one item, of
            which a property could teach nothing.
    """
    if layout.joint:
        raise DataError(
            "static tells series apart, but these are forecast jointly, as one; leave static out, "
            "or set multivariate=False"
        )
    table = _named(static)
    real, cat = [], {}
    for name in table:
        column = table[name]
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            real.append(str(name))
        else:
            cat[str(name)] = tuple(str(level) for level in pd.unique(column.dropna()))
    return replace(layout, static_real=tuple(real), static_cat=cat)


def static_values(
    static: pd.DataFrame | None, layout: FrameLayout, names: Iterable[str]
) -> dict[str, Static]:
    """Return numbers and class codes by series; the code of a class that is new or missing is -1.

    Args:
        static: As of `read_static`; None where the layout has no static columns.
        layout: With the columns and classes of the fitted frame.
        names: Series that are wanted.

    Raises:
        DataError: if the model was fitted with static columns and they are not all given for all
            series, or a number is missing; the message names series and column.
    """
    levels = {
        name: {level: code for code, level in enumerate(known)}
        for name, known in (layout.static_cat or {}).items()
    }
    wanted = [*layout.static_real, *levels]
    if not wanted:
        if static is not None:
            raise DataError("the model was fitted without static columns; leave static out")
        return dict.fromkeys(names, NOTHING)
    if static is None:
        raise DataError(
            f"the model was fitted with the static columns {listed(wanted)}; give static= here, "
            "too, or a frame that has these columns"
        )
    table = _named(static)
    missing = [name for name in wanted if name not in table]
    if missing:
        raise DataError(f"static has no column {missing[0]!r}; it has {listed(table.columns)}")
    result = {}
    for name in names:
        if name not in table.index:
            raise DataError(f"series {name!r} has no row in static; add one, indexed by its name")
        row = table.loc[name]
        real = np.array([_number(row[column], name, column) for column in layout.static_real])
        codes = [codes.get(str(row[column]), -1) for column, codes in levels.items()]
        result[name] = (real, np.array(codes, dtype=np.int64))
    return result


def _named(static: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with rows and columns called by text."""
    if not isinstance(static, pd.DataFrame):
        raise DataError("static must be a frame with one row a series, indexed by its name")
    table = static.set_axis([str(name) for name in static.index], axis=0)
    table = table.set_axis([str(name) for name in static.columns], axis=1)
    for axis, what in ((table.index, "rows"), (table.columns, "columns")):
        if axis.has_duplicates:
            twice = axis[axis.duplicated()][0]
            raise DataError(f"static has two {what} called {twice!r}; keep one of them")
    return table


def _number(value: object, name: str, column: str) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise DataError(
            f"series {name!r}: the static column {column!r} must be a finite number, got {value}; "
            "fill it, or leave the column out"
        )
    return number
