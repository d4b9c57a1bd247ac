"""One value of one column, as a user may write it, checked and made canonical.

A canonical value is what the column's own table would hold: a level, an int or a float, a
``pd.Timestamp`` or ``pd.Timedelta`` in the column's time zone, or None for missing. Reading
(is it of the right type?) and checking (could the column have it?) are apart, since the end of a
range may lie where no value can.
"""

from __future__ import annotations

import difflib
import math
import numbers
from typing import Any

import numpy as np
import pandas as pd

from scidiffusion.errors import ConditionError
from scidiffusion.tabular import columns, dates
from scidiffusion.tabular.schema import ColumnKind, ColumnSchema, python_value

__all__ = ["check_value", "observed_range", "read_number", "read_time", "value_from_number"]

_COLLECTIONS = (list, tuple, set, frozenset, dict, slice, np.ndarray, pd.Series, pd.Index)


def check_value(column: ColumnSchema, value: Any) -> Any:
    """Check that a column can have a value.

    Args:
        column: The column's schema.
        value: The value; None, NaN, NaT or NA for missing.

    Returns:
        It in its canonical Python type, None for missing.

    Raises:
        ConditionError: If it is no single value, of another type, a level never seen, a number or
            time outside the observed range or finer than the column's format, or missing where
            nothing was.
    """
    if isinstance(value, _COLLECTIONS):
        raise ConditionError(
            f"condition on {column.name!r} must be a single value, got {value!r:.60}"
        )
    if pd.isna(value):
        if not column.missing:
            raise ConditionError(
                f"condition on {column.name!r}: no value was missing in training, so none can be "
                "asked to be"
            )
        return None
    if column.kind.is_discrete:
        return _check_level(column, python_value(value))
    if column.kind is ColumnKind.NUMERICAL:
        return _check_number(column, value)
    return _check_time(column, value)


def _check_level(column: ColumnSchema, value: Any) -> Any:
    for level in column.categories:
        # True == 1 in Python, but not in a table.
        if level == value and isinstance(level, bool) == isinstance(value, bool):
            return level
    texts = [str(level) for level in column.categories]
    near = difflib.get_close_matches(str(value), texts, n=3, cutoff=0.6)
    shown = ", ".join(repr(level) for level in column.categories[:10])
    more = f", ... ({len(texts)} in all)" if len(texts) > 10 else ""
    guess = f"; did you mean {', '.join(map(repr, near))}?" if near and more else ""
    raise ConditionError(
        f"condition on {column.name!r}: the value {value!r} was never seen in training; "
        f"the known values are {shown}{more}{guess}"
    )


def read_number(column: ColumnSchema, value: Any) -> float | int:
    """Check that a value is a number.

    Args:
        column: A numerical column's schema.
        value: The value.

    Returns:
        It as an int, where it is one, or a float.

    Raises:
        ConditionError: If it is not, or NaN.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise ConditionError(
            f"condition on {column.name!r} must be a number, got {value!r} "
            f"({type(value).__name__})"
        )
    if isinstance(value, numbers.Integral) and abs(int(value)) < 2**1000:
        return int(value)
    if isinstance(value, numbers.Integral) or math.isnan(value):
        raise ConditionError(f"condition on {column.name!r} must be a number, got {value!r}")
    return float(value)


def _check_number(column: ColumnSchema, value: Any) -> int | float:
    whole: Any = read_number(column, value)
    number = float(whole)
    if column.integer and not number.is_integer():
        raise ConditionError(
            f"condition on {column.name!r} must be a whole number, as all its values are; "
            f"got {value!r}"
        )
    exact: int | float = int(whole) if isinstance(column.minimum, int) else number
    if column.dtype.lower() in ("float16", "float32"):
        exact = float(np.dtype(column.dtype.lower()).type(number))
    elif column.decimals is not None and not math.isclose(
        round(number, column.decimals), number, rel_tol=1e-12
    ):
        raise ConditionError(
            f"condition on {column.name!r} must have at most {column.decimals} decimal(s), as "
            f"all its values do; got {value!r}"
        )
    assert column.minimum is not None
    assert column.maximum is not None
    if not column.minimum <= exact <= column.maximum:
        raise ConditionError(
            f"condition on {column.name!r}: {value!r} is outside the observed range "
            f"{observed_range(column)}"
        )
    return exact


def read_time(column: ColumnSchema, value: Any) -> pd.Timestamp | pd.Timedelta:
    """Check that a value is a date or, for a column of durations, a duration.

    Args:
        column: The column's schema.
        value: Text, a date or a duration of any library, no number.

    Returns:
        A ``pd.Timestamp`` in the column's time zone, or a ``pd.Timedelta``.

    Raises:
        ConditionError: If it is not, or has a time zone where the column has none.
    """
    spans = column.kind is ColumnKind.TIMEDELTA
    time: Any = None
    if not isinstance(value, numbers.Number):
        time = _parse_time(column, value)
    if time is None or pd.isna(time):
        raise ConditionError(
            f"condition on {column.name!r} must be a {'duration' if spans else 'date'}, "
            f"got {value!r}"
        )
    if not spans and column.timezone is None and time.tz is not None:
        raise ConditionError(
            f"condition on {column.name!r} must be a date without a time zone, got {value!r}"
        )
    if not spans and column.timezone is not None:
        if time.tz is None:
            # A local time that the clock shows twice or skips is read as the later one.
            time = time.tz_localize(column.timezone, ambiguous=False, nonexistent="shift_forward")
        time = time.tz_convert(column.timezone)
    return time


def _parse_time(column: ColumnSchema, value: Any) -> Any:
    try:
        if column.kind is ColumnKind.TIMEDELTA:
            return pd.Timedelta(value)
        if isinstance(value, str) and column.date_format is not None:
            parsed = dates.parse_dates(pd.Series([value]), column.date_format)
            if parsed is not None:
                return parsed.iloc[0]
        return pd.Timestamp(value)
    except (ValueError, TypeError):
        return None


def _check_time(column: ColumnSchema, value: Any) -> pd.Timestamp | pd.Timedelta:
    time = read_time(column, value)
    number = columns.number_from_value(time, column)
    if not number.is_integer():
        raise ConditionError(
            f"condition on {column.name!r} must be a whole number of its unit "
            f"({column.unit}), as all its values are; got {value!r}"
        )
    assert column.minimum is not None
    assert column.maximum is not None
    if not 0 <= number <= float(column.maximum - column.minimum):
        raise ConditionError(
            f"condition on {column.name!r}: {value!r} is outside the observed range "
            f"{observed_range(column)}"
        )
    return time


def observed_range(column: ColumnSchema) -> str:
    """The observed range of a column of numbers, dates or durations, for a message.

    Args:
        column: The column's schema.
    """
    assert column.minimum is not None
    assert column.maximum is not None
    if column.kind is ColumnKind.NUMERICAL:
        return f"[{column.minimum}, {column.maximum}]"
    span = float(column.maximum - column.minimum)
    ends = columns.series_from_numbers(np.array([0.0, span]), column)
    return f"[{ends.iloc[0]}, {ends.iloc[1]}]"


def value_from_number(number: float, column: ColumnSchema) -> Any:
    """The inverse of :func:`scidiffusion.tabular.columns.number_from_value`.

    Args:
        number: A number in the observed range, in the column's format; NaN is missing.
        column: The schema of a column of numbers, dates or durations.

    Returns:
        The canonical value: an int or float, ``pd.Timestamp``, ``pd.Timedelta``, or None.
    """
    if math.isnan(number):
        return None
    if column.kind is ColumnKind.NUMERICAL:
        if isinstance(column.minimum, int):
            return int(number) + column.minimum
        return float(number)
    assert column.minimum is not None
    assert column.unit is not None
    ticks = round(number) + int(column.minimum)
    if column.kind is ColumnKind.TIMEDELTA:
        return pd.Timedelta(np.timedelta64(ticks, column.unit))  # type: ignore[call-overload]
    time = pd.Timestamp(np.datetime64(ticks, column.unit))  # type: ignore[call-overload]
    if column.timezone is None:
        return time
    if column.wall_time:
        return time.tz_localize(column.timezone, ambiguous=False, nonexistent="shift_forward")
    return time.tz_localize("UTC").tz_convert(column.timezone)
