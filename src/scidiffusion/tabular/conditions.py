"""Conditions on columns: one value, a set of values, or a range.

Whatever way a condition is written, :func:`parse` brings it to one of three forms that mean the
same for every column: `Equal`, `OneOf` in the column's own order, or a `Between` whose ends are
closed, lie in the observed range and are values the column can have ("> 4.99" of a price is
"5.00 to the dearest"). Conditions that exclude nothing vanish, those that exclude everything are
errors, and two that mean the same compare equal. Sampling then needs numbers and codes only:
:func:`intervals` and :func:`codes`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.errors import ConditionError, DataError
from scidiffusion.tabular import columns
from scidiffusion.tabular.ranges import closed_range, ends, levels_in_range
from scidiffusion.tabular.schema import (
    ColumnKind,
    ColumnSchema,
    TableSchema,
    python_value,
    unknown_column,
)
from scidiffusion.tabular.values import check_value, value_from_number

__all__ = [
    "Between",
    "Condition",
    "Equal",
    "OneOf",
    "allows_missing",
    "codes",
    "from_dict",
    "intervals",
    "numbers_interval",
    "parse",
    "satisfied",
    "to_dict",
]


@dataclass(frozen=True)
class Equal:
    """The column has one value.

    Args:
        value: The value; None (or NaN) for missing.
    """

    value: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", _plain(self.value))


@dataclass(frozen=True)
class OneOf:
    """The column has one of several values.

    Args:
        values: The values; None (or NaN) among them for missing.
    """

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(_plain(value) for value in self.values))


@dataclass(frozen=True)
class Between:
    """The column has a value in a range, and is not missing.

    Args:
        low: The low end: a number, a date, a duration, a level of an ordered column, or text that
            names a date or a duration; None is open.
        high: The high end. A date written as text ends where the period it names ends: a time in
            the afternoon of 31 December is within ``high="2020-12-31"``.
        include_low: Whether the low end belongs to the range.
        include_high: Whether the high end belongs to the range.
    """

    low: Any = None
    high: Any = None
    include_low: bool = True
    include_high: bool = True


Condition: TypeAlias = Equal | OneOf | Between

_SETS = (list, tuple, set, frozenset, range, np.ndarray, pd.Series, pd.Index)


def _plain(value: Any) -> Any:
    """A scalar without numpy's types, and None for whatever means missing."""
    value = python_value(value)
    return None if pd.api.types.is_scalar(value) and pd.isna(value) else value


def to_dict(condition: Condition) -> dict[str, Any]:
    """A condition as a JSON object.

    Args:
        condition: The condition.

    Returns:
        ``{"equal": value}``, ``{"one_of": [...]}`` or ``{"between": [low, high]}``, the last with
        ``include_low`` or ``include_high`` where an end is left out. Dates and durations are
        ``{"timestamp": text, "zone": name}`` and ``{"timedelta": text}``.
    """
    if isinstance(condition, Equal):
        return {"equal": _to_json(condition.value)}
    if isinstance(condition, OneOf):
        return {"one_of": [_to_json(value) for value in condition.values]}
    record: dict[str, Any] = {"between": [_to_json(condition.low), _to_json(condition.high)]}
    flags = {"include_low": condition.include_low, "include_high": condition.include_high}
    return record | {name: flag for name, flag in flags.items() if not flag}


def from_dict(record: Mapping[str, Any]) -> Condition:
    """Read what :func:`to_dict` wrote.

    Args:
        record: The JSON object.

    Raises:
        ConditionError: If it is no condition.
    """
    try:
        if "equal" in record:
            return Equal(_from_json(record["equal"]))
        if "one_of" in record:
            return OneOf(tuple(_from_json(value) for value in record["one_of"]))
        low, high = (_from_json(value) for value in record["between"])
        flags = {name: bool(record.get(name, True)) for name in ("include_low", "include_high")}
        return Between(low, high, **flags)
    except (KeyError, TypeError, ValueError) as error:
        raise ConditionError(f"not a condition: {record!r:.80}") from error


def _to_json(value: Any) -> Any:
    if isinstance(value, pd.Timestamp):
        if value.tz is None:
            return {"timestamp": value.isoformat()}
        return {"timestamp": value.tz_convert("UTC").isoformat(), "zone": str(value.tz)}
    return {"timedelta": value.isoformat()} if isinstance(value, pd.Timedelta) else value


def _from_json(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    if "timedelta" in value:
        return pd.Timedelta(value["timedelta"])
    time = pd.Timestamp(value["timestamp"])
    return time.tz_convert(value["zone"]) if "zone" in value else time


# --------------------------------------------------------------------- parsing


def parse(schema: TableSchema, conditions: Mapping[str, Any] | None) -> dict[str, Condition]:
    """Check conditions and bring them to their canonical form.

    Args:
        schema: The table's schema.
        conditions: Column -> condition: a `Condition`; a single value or None for missing; a list,
            tuple, set, array, Index or Series as a set of values; ``slice(low, high)``, both ends
            included as in ``df.loc``, or ``pd.Interval`` as a range. Canonical ones stay as they
            are.

    Returns:
        Column -> canonical condition, without those that exclude no value. Values are levels, ints
        or floats, ``pd.Timestamp``, ``pd.Timedelta`` or None; a range is closed.

    Raises:
        ConditionError: If a column is unknown or an identifier; a value was never seen or is of
            another type; a set is empty; a range has its ends exchanged, is outside the observed
            range or between two values, or is asked of levels without an order.
    """
    if conditions is None:
        return {}
    if not isinstance(conditions, Mapping):
        raise ConditionError(
            "conditions must be a dict of column -> value, set or range, "
            f"not {type(conditions).__name__}"
        )
    parsed: dict[str, Condition] = {}
    for name, asked in conditions.items():
        if name not in schema:
            raise ConditionError(f"condition: {unknown_column(name, schema.names)}")
        column = schema[name]
        if not column.kind.is_modelled:
            raise ConditionError(
                f"condition on {name!r}: it is an identifier, whose values are made up for every "
                "row; condition on another column, or overwrite it after sampling"
            )
        condition = _canonical(column, _as_condition(column, asked))
        if not _excludes_nothing(column, condition):
            parsed[name] = condition
    return parsed


def _as_condition(column: ColumnSchema, asked: Any) -> Condition:
    """The condition that a user's spelling means."""
    if isinstance(asked, Equal | OneOf | Between):
        return asked
    if isinstance(asked, np.ndarray) and asked.ndim == 0:
        return Equal(asked.item())
    if isinstance(asked, slice):
        if asked.step is not None:
            raise ConditionError(
                f"condition on {column.name!r}: a range is slice(low, high), without a step"
            )
        return Between(asked.start, asked.stop)
    if isinstance(asked, pd.Interval):
        return Between(asked.left, asked.right, asked.closed_left, asked.closed_right)
    if isinstance(asked, (*_SETS, pd.api.extensions.ExtensionArray)):
        return OneOf(tuple(asked))
    if isinstance(asked, Mapping):
        raise ConditionError(
            f"condition on {column.name!r} must be a value, a list of values, slice(low, high) or "
            f"Between(low, high), not a {type(asked).__name__}"
        )
    return Equal(asked)


def _canonical(column: ColumnSchema, condition: Condition) -> Condition:
    if isinstance(condition, Equal):
        return Equal(check_value(column, condition.value))
    if isinstance(condition, Between):
        span = (condition.low, condition.high, condition.include_low, condition.include_high)
        if column.kind.is_discrete:
            return _set_of_codes(column, levels_in_range(column, *span))
        low, high = (value_from_number(end, column) for end in closed_range(column, *span))
        return Equal(low) if low == high else Between(low, high)
    if not condition.values:
        raise ConditionError(
            f"condition on {column.name!r}: the set is empty, so no row could meet it"
        )
    values = [check_value(column, value) for value in condition.values]
    if column.kind.is_discrete:
        return _set_of_codes(column, _codes_of(column, values))
    found = {columns.number_from_value(value, column) for value in values if value is not None}
    numbers = np.array(sorted(found))
    steps = column.kind is not ColumnKind.NUMERICAL or column.integer
    if None not in values and len(numbers) > 1 and steps and np.all(np.diff(numbers) == 1):
        return Between(*(value_from_number(float(end), column) for end in numbers[[0, -1]]))
    ordered = [value_from_number(float(number), column) for number in numbers]
    ordered += [None] if None in values else []
    return Equal(ordered[0]) if len(ordered) == 1 else OneOf(tuple(ordered))


def _codes_of(column: ColumnSchema, values: Iterable[Any]) -> list[int]:
    """Codes of canonical levels, sorted, with the one of missing, -1, last."""
    places = {level: place for place, level in enumerate(column.categories)}
    found = {-1 if value is None else places[value] for value in values}
    return sorted(found - {-1}) + [-1] * (-1 in found)


def _set_of_codes(column: ColumnSchema, chosen: list[int]) -> Condition:
    values = [None if code < 0 else column.categories[code] for code in chosen]
    return Equal(values[0]) if len(values) == 1 else OneOf(tuple(values))


def _excludes_nothing(column: ColumnSchema, condition: Condition) -> bool:
    if column.kind.is_discrete:
        return len(codes(column, condition)) == len(column.categories) + column.missing
    if column.missing or not isinstance(condition, Between):
        return False
    return numbers_interval(column, condition) == ends(column)


# ------------------------------------------------------------- numbers and codes


def allows_missing(condition: Condition) -> bool:
    """Whether a missing value meets a condition.

    Args:
        condition: The condition.
    """
    if isinstance(condition, Between):
        return False
    return None in ((condition.value,) if isinstance(condition, Equal) else condition.values)


def intervals(column: ColumnSchema, condition: Condition) -> NDArray[np.float64]:
    """The numbers that meet a condition, as closed intervals.

    Args:
        column: The schema of a column of numbers, dates or durations.
        condition: A canonical condition on it.

    Returns:
        Shape (k, 2): low and high ends in the units of
        :func:`scidiffusion.tabular.columns.number_from_value`, ascending; single values have both
        ends equal. No row where only a missing value meets the condition.
    """
    if isinstance(condition, Between):
        first, last = ends(column)
        low, high = (
            end if value is None else columns.number_from_value(value, column)
            for value, end in ((condition.low, first), (condition.high, last))
        )
        return np.array([[low, high]])
    values = (condition.value,) if isinstance(condition, Equal) else condition.values
    points = [columns.number_from_value(value, column) for value in values if value is not None]
    return np.repeat(np.sort(np.array(points, dtype=np.float64))[:, None], 2, axis=1)


def numbers_interval(column: ColumnSchema, condition: Condition) -> tuple[float, float]:
    """The smallest interval that holds every number meeting a condition.

    Args:
        column: The schema of a column of numbers, dates or durations.
        condition: A canonical condition on it.

    Returns:
        Its closed ends, as of :func:`intervals`, which are all of it unless the condition is a
        set; ``(nan, nan)`` where only a missing value meets the condition.
    """
    parts = intervals(column, condition)
    return (float(parts[0, 0]), float(parts[-1, 1])) if len(parts) else (math.nan, math.nan)


def codes(column: ColumnSchema, condition: Condition) -> NDArray[np.int64]:
    """The codes of the levels that meet a condition.

    Args:
        column: A categorical or boolean column's schema.
        condition: A canonical condition on it.

    Returns:
        Indices into ``column.categories``, ascending, and -1, for missing, last if it is allowed.
    """
    assert not isinstance(condition, Between)
    values = (condition.value,) if isinstance(condition, Equal) else condition.values
    return np.array(_codes_of(column, values), dtype=np.int64)


def satisfied(
    schema: TableSchema, table: pd.DataFrame, conditions: Mapping[str, Any]
) -> NDArray[np.bool_]:
    """Which rows of a table meet conditions.

    Args:
        schema: The schema of the table the conditions speak of.
        table: Rows with at least the columns of the conditions, in the formats of the schema.
        conditions: As of :func:`parse`.

    Returns:
        Shape (len(table),); True where all conditions are met.

    Raises:
        ConditionError: If a condition is impossible.
        DataError: If a column is missing from the table, or of another kind.
    """
    met = np.ones(len(table), dtype=bool)
    for name, condition in parse(schema, conditions).items():
        if name not in table.columns:
            raise DataError(f"conditions: {unknown_column(name, list(table.columns))}")
        column, series = schema[name], table[name]
        missing = series.isna().to_numpy()
        if column.kind.is_discrete:
            found = columns.look_up(series.astype(object), column)
            allowed = codes(column, condition)
            within = np.isin(found, allowed[allowed >= 0])
        else:
            numbers = columns.numbers_from_series(series, column)
            # A sum such as 0.1 + 0.2 is some units in the last place away from its decimal.
            slack = 4 * np.spacing(np.abs(numbers)) if column.decimals else 0.0
            parts = intervals(column, condition)
            within = np.zeros(len(table), dtype=bool)
            for low, high in parts:
                within |= (numbers >= low - slack) & (numbers <= high + slack)
        met &= np.where(missing, allows_missing(condition), within)
    return met
