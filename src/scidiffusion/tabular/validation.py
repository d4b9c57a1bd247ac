"""Checks on what a user hands in, each with one error that names the column and the way out.

All of them run before anything is computed: a table that cannot be learned, a condition that
cannot be met or a count that makes no sense fails at once and not after minutes of training.
"""

from __future__ import annotations

import difflib
import math
import numbers
import operator
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from scidiffusion.errors import ConditionError, ConfigError, DataError
from scidiffusion.tabular import columns, dates
from scidiffusion.tabular.inference import check_overrides, infer_column
from scidiffusion.tabular.schema import (
    ColumnKind,
    ColumnSchema,
    TableSchema,
    python_value,
    unknown_column,
)

__all__ = ["parse_conditions", "validate_conditions", "validate_count", "validate_table"]

MIN_ROWS = 10
# Text in which nearly every value is new names rows and does not describe them.
IDENTIFIER_SHARE = 0.95
IDENTIFIER_ROWS = 100
# Differences of larger numbers overflow.
LARGEST = 1e300


def validate_table(
    table: pd.DataFrame, overrides: Mapping[str, ColumnKind | str] | None = None
) -> TableSchema:
    """Check that a table can be learned.

    Args:
        table: The training table.
        overrides: Column name -> kind, as for :func:`scidiffusion.tabular.inference.infer_schema`.

    Returns:
        The table's schema, which the checks need anyway.

    Raises:
        DataError: If it is no DataFrame or has no columns, fewer than 10 rows, column names that
            are not text or not unique; or if a column is empty, constant or infinite, holds an
            identifier, a mixture of types, or a type that is not supported.
        SchemaError: If an override names no column, or a kind the column cannot have.
    """
    _check_frame(table)
    kinds = check_overrides(list(table.columns), overrides)
    schemas = []
    for name in table.columns:
        series = table[name]
        present = int(series.notna().sum())
        if present == 0:
            raise DataError(
                f"column {name!r} has only missing values; drop it: df.drop(columns={name!r})"
            )
        schema = infer_column(series, kinds.get(name))
        _check_finite(schema)
        distinct = int(series.nunique())
        if distinct == 1 and present == len(series):
            raise DataError(
                f"column {name!r} is constant ({python_value(series.iloc[0])!r:.40} in every "
                f"row); drop it: df.drop(columns={name!r}), and add it to the synthetic table "
                "afterwards"
            )
        if schema.kind is ColumnKind.CATEGORICAL and name not in kinds:
            _check_identifier(name, distinct, present)
        schemas.append(schema)
    return TableSchema(tuple(schemas))


def _check_frame(table: object) -> None:
    if not isinstance(table, pd.DataFrame):
        raise DataError(
            f"a table must be a pandas DataFrame, not {type(table).__name__}; "
            "make one with pd.DataFrame(...) or pd.read_csv(...)"
        )
    if table.columns.nlevels > 1:
        raise DataError(
            "the table has column names of several levels (MultiIndex); flatten them: "
            "df.columns = ['_'.join(map(str, name)) for name in df.columns]"
        )
    if table.shape[1] == 0:
        raise DataError("the table has no columns; nothing can be learned from it")
    for name in table.columns:
        if not isinstance(name, str):
            raise DataError(
                f"column name {name!r} is {type(name).__name__}, not text; rename the columns: "
                "df.columns = df.columns.astype(str)"
            )
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise DataError(f"column name {twice[0]!r} occurs more than once; rename or drop one")
    if len(table) < MIN_ROWS:
        raise DataError(
            f"the table has {len(table)} row(s); at least {MIN_ROWS} are needed to learn from"
        )


def _check_finite(schema: ColumnSchema) -> None:
    values = schema.categories or (schema.minimum, schema.maximum)
    if any(isinstance(value, float) and abs(value) > LARGEST for value in values):
        column = f"df[{schema.name!r}]"
        raise DataError(
            f"column {schema.name!r} holds infinite values (or beyond {LARGEST:g}); make them "
            f"missing, {column} = {column}.replace([np.inf, -np.inf], np.nan), or drop those rows"
        )


def _check_identifier(name: str, distinct: int, present: int) -> None:
    unique = distinct == present > 1
    if unique or (present >= IDENTIFIER_ROWS and distinct >= IDENTIFIER_SHARE * present):
        raise DataError(
            f"column {name!r} looks like an identifier or free text ({distinct} different values "
            f"in {present} rows), and a synthetic copy would repeat real ones; drop it: "
            f"df.drop(columns={name!r}), or override its kind as 'categorical' to learn its "
            "values as levels"
        )


def validate_count(n: object, name: str = "n") -> int:
    """Check a number of rows to make.

    Args:
        n: The number; 0 is allowed.
        name: What to call it in the error.

    Returns:
        It as an int.

    Raises:
        ConfigError: If it is not a whole number, or negative.
    """
    try:
        if isinstance(n, bool | np.bool_):
            raise TypeError
        count = operator.index(n)  # type: ignore[arg-type]
    except TypeError as error:
        raise ConfigError(f"{name} must be a whole number of rows, got {n!r}") from error
    if count < 0:
        raise ConfigError(f"{name} must not be negative, got {count}")
    return count


def validate_conditions(schema: TableSchema, conditions: Mapping[str, Any]) -> dict[str, Any]:
    """Check that conditions name columns and values that can occur.

    Args:
        schema: The table's schema.
        conditions: Column -> the one value it shall have; None (or NaN) for missing.

    Returns:
        The same with values in their canonical Python type: a level, an int or float, a
        ``pd.Timestamp`` or ``pd.Timedelta``, or None.

    Raises:
        ConditionError: If a column is unknown, a level was never seen, a number or a time is
            outside the observed range, finer than the column's format, or of another type.
    """
    if not isinstance(conditions, Mapping):
        raise ConditionError(
            f"conditions must be a dict of column -> value, not {type(conditions).__name__}"
        )
    checked: dict[str, Any] = {}
    for name, value in conditions.items():
        if name not in schema:
            raise ConditionError(f"condition: {unknown_column(name, schema.names)}")
        checked[name] = _check_value(schema[name], value)
    return checked


def _check_value(column: ColumnSchema, value: Any) -> Any:
    if isinstance(value, list | tuple | set | dict | np.ndarray | pd.Series):
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


def _check_number(column: ColumnSchema, value: Any) -> int | float:
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise ConditionError(
            f"condition on {column.name!r} must be a number, got {value!r} "
            f"({type(value).__name__})"
        )
    number = float(value)
    if column.integer and number != math.floor(number):
        raise ConditionError(
            f"condition on {column.name!r} must be a whole number, as all its values are; "
            f"got {value!r}"
        )
    whole: Any = value
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
            f"[{column.minimum}, {column.maximum}]"
        )
    return exact


def _check_time(column: ColumnSchema, value: Any) -> pd.Timestamp | pd.Timedelta:
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
        zoned = time.tz_localize(column.timezone) if time.tz is None else time
        time = zoned.tz_convert(column.timezone)
    number = columns.number_from_value(time, column)
    if not number.is_integer():
        raise ConditionError(
            f"condition on {column.name!r} must be a whole number of its unit "
            f"({column.unit}), as all its values are; got {value!r}"
        )
    assert column.minimum is not None
    assert column.maximum is not None
    span = float(column.maximum - column.minimum)
    if not 0 <= number <= span:
        ends = columns.series_from_numbers(np.array([0.0, span]), column)
        raise ConditionError(
            f"condition on {column.name!r}: {value!r} is outside the observed range "
            f"[{ends.iloc[0]}, {ends.iloc[1]}]"
        )
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


def parse_conditions(schema: TableSchema, texts: Iterable[str]) -> dict[str, Any]:
    """Read conditions written as ``column=value``, as on a command line.

    Args:
        schema: The table's schema.
        texts: One text a condition; nothing after the ``=`` means missing.

    Returns:
        Column -> value, checked by :func:`validate_conditions`.

    Raises:
        ConditionError: If a text has no ``=``, or the condition is not possible.
    """
    conditions: dict[str, Any] = {}
    for text in texts:
        # A column's name may hold "=" itself: the longest name that exists wins.
        splits = [index for index, sign in enumerate(text) if sign == "="]
        if not splits:
            raise ConditionError(f"a condition reads column=value, got {text!r}")
        known = [index for index in splits if text[:index] in schema]
        split = known[-1] if known else splits[0]
        name, value = text[:split], text[split + 1 :]
        if name not in schema:
            raise ConditionError(f"condition: {unknown_column(name, schema.names)}")
        if name in conditions:
            raise ConditionError(f"there are two conditions on column {name!r}; give one")
        conditions[name] = _read_text(schema[name], value)
    return validate_conditions(schema, conditions)


def _read_text(column: ColumnSchema, text: str) -> Any:
    if column.kind.is_discrete:
        spellings = {str(level): level for level in column.categories}
        if column.kind is ColumnKind.BOOLEAN:
            spellings |= {str(level).lower(): level for level in column.categories}
        if text in spellings:
            return spellings[text]
    if text == "" and column.missing:
        return None
    if column.kind is ColumnKind.NUMERICAL:
        for kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
    return text
