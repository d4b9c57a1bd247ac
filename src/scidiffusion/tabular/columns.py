"""One column between its two forms: the pandas series and plain numbers or codes.

Numbers are float64 with NaN for missing: integers and times are counted from the smallest value
observed, so that a large offset (an id, nanoseconds since 1970) costs no precision. Codes are
int64 indices into the observed levels, -1 for missing. Both ways are exact and lose no dtype.
"""

from __future__ import annotations

import datetime
import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.errors import DataError
from scidiffusion.tabular import dates
from scidiffusion.tabular.arrow import with_arrow, without_arrow
from scidiffusion.tabular.schema import ColumnKind, ColumnSchema, make_dtype

__all__ = [
    "codes_from_series",
    "look_up",
    "number_from_value",
    "numbers_from_series",
    "round_numbers",
    "series_from_codes",
    "series_from_numbers",
    "series_from_ticks",
    "series_from_values",
    "snap_numbers",
    "ticks_from_series",
]

_MARKERS = {"nan": np.nan, "None": None, "NA": pd.NA}


def numbers_from_series(series: pd.Series, column: ColumnSchema) -> NDArray[np.float64]:
    """Values of a numerical column, a date or a duration as numbers.

    Args:
        series: The values; the dtype may differ from the schema's where it holds the same values.
        column: The column's schema.

    Returns:
        Shape (n,), NaN where missing: floats as they are, integers and times less
        ``column.minimum``, times in ``column.unit``.

    Raises:
        DataError: If the values are of another kind.
    """
    series = without_arrow(series)
    missing = series.isna().to_numpy()
    numbers = np.full(len(series), np.nan)
    present = series[~missing]
    if len(present) == 0:
        return numbers
    if column.kind is ColumnKind.NUMERICAL:
        numbers[~missing] = _plain_numbers(present, column)
    else:
        # Differences of 64-bit counts, taken before anything is rounded to a float.
        ticks = ticks_from_series(present, column)
        numbers[~missing] = (ticks - _int(column.minimum)).astype(np.float64)
    return numbers


def _int(value: float | int | None) -> int:
    assert value is not None
    return int(value)


def _counts(column: ColumnSchema) -> bool:
    """Whether a numerical column is stored as integers, which are counted from the minimum."""
    return isinstance(column.minimum, int) and not isinstance(column.minimum, bool)


def _plain_numbers(present: pd.Series, column: ColumnSchema) -> NDArray[np.float64]:
    if not _is_numeric(present):
        raise DataError(
            f"column {column.name!r} must hold numbers as in the table the schema is of, "
            f"not {present.dtype} values such as {present.iloc[0]!r:.40}"
        )
    if _counts(column) and present.dtype == object:
        return np.array([v - _int(column.minimum) for v in present], dtype=np.float64)
    if _counts(column) and present.dtype.kind in "iu":
        # Unsigned wrap-around gives the exact difference even where a signed one overflows.
        offset = np.uint64(_int(column.minimum) % 2**64)
        values = present.to_numpy(np.uint64 if present.dtype.kind == "u" else np.int64)
        difference = (values.astype(np.uint64) - offset).astype(np.float64)
        return np.where(values < _int(column.minimum), -1.0, difference)
    values = present.to_numpy(np.float64)
    return values - _int(column.minimum) if _counts(column) else values


def _is_numeric(present: pd.Series) -> bool:
    if present.dtype == object:
        inferred = pd.api.types.infer_dtype(present)
        return inferred in ("integer", "floating", "mixed-integer-float")
    return present.dtype.kind in "iuf" and pd.api.types.is_numeric_dtype(present.dtype)


def ticks_from_series(present: pd.Series, column: ColumnSchema) -> NDArray[np.int64]:
    """Dates or durations as counts of the column's unit, exact where a float is not.

    Args:
        present: The values, none missing, not backed by pyarrow.
        column: The column's schema.

    Returns:
        Counts since 1970-01-01, of local time where the schema says so, or of durations since
        zero; shape (n,).

    Raises:
        DataError: If the values are of another kind.
    """
    if column.python_type == "date":
        if not all(isinstance(value, datetime.date) for value in present):
            raise DataError(f"column {column.name!r} must hold datetime.date objects")
        return np.array(present.to_list(), dtype="datetime64[D]").astype(np.int64)
    if column.date_format is not None:
        parsed = dates.parse_dates(present, column.date_format)
        if parsed is None:
            raise DataError(
                f"column {column.name!r} must hold dates written as {column.date_format!r}"
            )
        present = parsed
    letter = "m" if column.kind is ColumnKind.TIMEDELTA else "M"
    base = getattr(present.dtype, "base", present.dtype)
    zone = getattr(present.dtype, "tz", None)
    if base.kind != letter or (zone is None) != (column.timezone is None):
        zoned = ", utc=True" if column.timezone else ""
        convert = "to_timedelta(...)" if letter == "m" else f"to_datetime(...{zoned})"
        raise DataError(
            f"column {column.name!r} has the dtype {present.dtype}, and {column.dtype} in "
            f"training; convert it, e.g. with pd.{convert}"
        )
    if zone is not None:
        present = present.dt.tz_convert(column.timezone if column.wall_time else "UTC")
        present = present.dt.tz_localize(None)
    return present.to_numpy().astype(f"{letter}8[{column.unit}]").astype(np.int64)


def number_from_value(value: Any, column: ColumnSchema) -> float:
    """One checked value of a column of numbers, dates or durations as its number.

    Args:
        value: An int or float, a ``pd.Timestamp`` or ``pd.Timedelta`` (zoned as the column is), or
            None for missing.
        column: The column's schema.

    Returns:
        As of :func:`numbers_from_series`; of a time finer than the column's unit with a fraction.
    """
    if value is None:
        return math.nan
    if column.kind is ColumnKind.NUMERICAL:
        return float(value - _int(column.minimum) if _counts(column) else value)
    if column.kind is ColumnKind.DATETIME:
        if value.tz is not None:
            value = value.tz_convert(column.timezone if column.wall_time else "UTC")
            value = value.tz_localize(None)
        value = value - pd.Timestamp(0).as_unit(value.unit)
    # Whole and rest apart: a float holds no nanoseconds since 1970.
    unit = pd.Timedelta(np.timedelta64(1, column.unit))  # type: ignore[call-overload]
    whole, rest = divmod(value, unit)
    return float(whole - _int(column.minimum) + rest / unit)


def round_numbers(numbers: NDArray[np.float64], column: ColumnSchema) -> NDArray[np.float64]:
    """Round numbers to the column's format.

    Args:
        numbers: As of :func:`numbers_from_series`; NaN stays NaN.
        column: The column's schema.

    Returns:
        New array of the same shape: whole where the column counts, of its decimals otherwise.
    """
    if column.kind is not ColumnKind.NUMERICAL or _counts(column):
        return np.rint(numbers)
    if column.decimals is None:
        return numbers.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = np.round(numbers, column.decimals)
    # + 0.0 turns -0.0 into 0.0.
    return np.where(np.isfinite(rounded), rounded, numbers) + 0.0


def snap_numbers(numbers: NDArray[np.float64], column: ColumnSchema) -> NDArray[np.float64]:
    """Round numbers to the column's format and keep them in its observed range.

    Args:
        numbers: As of :func:`numbers_from_series`; NaN stays NaN.
        column: The column's schema.

    Returns:
        New array of the same shape.
    """
    assert column.minimum is not None
    assert column.maximum is not None
    low, high = column.minimum, column.maximum
    if column.kind is not ColumnKind.NUMERICAL or _counts(column):
        low, high = 0.0, float(high - low)
    # Last, so that rounding never leaves the range.
    return np.clip(round_numbers(numbers, column), low, high) + 0.0


def series_from_numbers(numbers: NDArray[np.float64], column: ColumnSchema) -> pd.Series:
    """The inverse of :func:`numbers_from_series`, with the dtype of the schema.

    Args:
        numbers: Shape (n,), as :func:`snap_numbers` gives them; NaN is missing.
        column: The column's schema.

    Returns:
        The column.
    """
    missing = np.isnan(numbers)
    numbers = np.where(missing, 0.0, numbers)
    if column.kind is not ColumnKind.NUMERICAL:
        ticks = np.rint(numbers).astype(np.int64) + _int(column.minimum)
        return series_from_ticks(ticks, missing, column)
    return with_arrow(_restore_numbers(numbers, missing, column), column.arrow)


def _restore_numbers(
    numbers: NDArray[np.float64], missing: NDArray[np.bool_], column: ColumnSchema
) -> pd.Series:
    if not _counts(column):
        values: NDArray[Any] = numbers
    else:
        low, span = _int(column.minimum), _int(column.maximum) - _int(column.minimum)
        # The span may round up to 2**64 as a float, so the top is set, not converted.
        top = numbers >= float(span)
        offsets = np.where(top, 0.0, numbers).astype(np.uint64)
        offsets[top] = span
        wrapped = offsets + np.uint64(low % 2**64)
        values = wrapped.astype(np.int64) if low < 0 or low + span < 2**63 else wrapped
    return series_from_values(values, missing, column)


def series_from_values(
    values: NDArray[Any], missing: NDArray[np.bool_], column: ColumnSchema
) -> pd.Series:
    """A series of the schema's dtype, but for pyarrow, missing where the mask says so.

    Args:
        values: Shape (n,), anything where missing.
        missing: Mask of shape (n,).
        column: The column's schema, not of dtype ``category``.

    Returns:
        The column.
    """
    if column.dtype == "object":
        objects = values.astype(object)
        objects[missing] = _MARKERS[column.missing_marker]
        return pd.Series(objects, dtype=object, name=column.name)
    dtype = make_dtype(column.dtype)
    if isinstance(dtype, np.dtype):
        if missing.any():
            values = np.where(missing, np.nan, values)
        return pd.Series(values.astype(dtype), name=column.name)
    series = pd.Series(pd.array(values, dtype=dtype), name=column.name)
    if missing.any():
        series[missing] = dtype.na_value
    return series


def series_from_ticks(
    ticks: NDArray[np.int64], missing: NDArray[np.bool_], column: ColumnSchema
) -> pd.Series:
    """The inverse of :func:`ticks_from_series`, with the dtype of the schema.

    Args:
        ticks: Shape (n,), anything where missing.
        missing: Mask of shape (n,).
        column: The schema of a column of dates or durations.

    Returns:
        The column.
    """
    return with_arrow(_restore_times(ticks, missing, column), column.arrow)


def _restore_times(
    ticks: NDArray[np.int64], missing: NDArray[np.bool_], column: ColumnSchema
) -> pd.Series:
    if column.kind is ColumnKind.TIMEDELTA:
        spans = ticks.astype(f"m8[{column.unit}]").astype(column.dtype)
        spans[missing] = np.timedelta64("NaT")
        return pd.Series(spans, name=column.name)
    times = ticks.astype(f"M8[{column.unit}]")
    if column.dtype == "object" or column.date_format is not None:
        if column.date_format is None:
            objects = times.astype("M8[D]").astype(object)
        else:
            objects = dates.format_dates(times.astype("M8[ns]"), column.date_format)
        return series_from_values(objects, missing, column)
    if column.timezone is None:
        times = times.astype(column.dtype)
        times[missing] = np.datetime64("NaT")
        return pd.Series(times, name=column.name)
    dtype = make_dtype(column.dtype)
    index = pd.DatetimeIndex(times.astype(dtype.base))
    if column.wall_time:
        # A local time that the clock shows twice or skips is read as the later one.
        standard = np.zeros(len(index), dtype=bool)
        index = index.tz_localize(dtype.tz, ambiguous=standard, nonexistent="shift_forward")
    else:
        index = index.tz_localize("UTC").tz_convert(dtype.tz)
    series = pd.Series(index, name=column.name).astype(dtype)
    series[missing] = pd.NaT
    return series


def codes_from_series(series: pd.Series, column: ColumnSchema) -> NDArray[np.int64]:
    """Values of a categorical or boolean column as codes.

    Args:
        series: The values.
        column: The column's schema.

    Returns:
        Index into ``column.categories``, -1 where missing; shape (n,).

    Raises:
        DataError: If a value is not one of the categories.
    """
    series = without_arrow(series)
    missing = series.isna().to_numpy()
    if isinstance(series.dtype, pd.CategoricalDtype):
        levels = look_up(pd.Series(series.dtype.categories, dtype=object), column)
        codes = np.append(levels, -1)[series.cat.codes.to_numpy()]
    else:
        codes = look_up(series, column)
    codes = np.where(missing, -1, codes).astype(np.int64)
    unseen = ~missing & (codes < 0)
    if unseen.any():
        values = series[unseen].unique()
        shown = ", ".join(repr(value) for value in list(values)[:3])
        raise DataError(
            f"column {column.name!r} holds {len(values)} level(s) that the schema does not know, "
            f"such as {shown}; drop those rows, or fit on a table that has them"
        )
    return codes


def look_up(series: pd.Series, column: ColumnSchema) -> NDArray[np.int64]:
    """Index of every value in the column's categories, -1 where it is none of them.

    Args:
        series: Hashable values.
        column: A categorical or boolean column.

    Returns:
        Shape (n,).
    """
    # A dict and not a pandas index, for which "" and a null character are the same text.
    places = {level: place for place, level in enumerate(column.categories)}
    values = without_arrow(series).to_numpy(object).tolist()
    return np.fromiter((places.get(value, -1) for value in values), np.int64, len(values))


def series_from_codes(codes: NDArray[np.int64], column: ColumnSchema) -> pd.Series:
    """The inverse of :func:`codes_from_series`, with the dtype of the schema.

    Args:
        codes: Index into ``column.categories``, -1 for missing; shape (n,).
        column: The column's schema.

    Returns:
        The column.
    """
    missing = codes < 0
    if column.dtype == "category":
        levels = pd.Index(list(column.levels), dtype=make_dtype(column.levels_dtype or "object"))
        dtype = pd.CategoricalDtype(levels, ordered=column.ordered)
        places = {level: place for place, level in enumerate(column.levels)}
        positions = np.array([places[level] for level in column.categories])
        mapped = np.where(missing, -1, positions[codes])
        return pd.Series(pd.Categorical.from_codes(mapped, dtype=dtype), name=column.name)
    levels_array = np.empty(len(column.categories), dtype=object)
    levels_array[:] = column.categories
    if column.dtype != "object" and isinstance(make_dtype(column.dtype), np.dtype):
        levels_array = np.array(column.categories)
    series = series_from_values(levels_array[np.where(missing, 0, codes)], missing, column)
    return with_arrow(series, column.arrow)
