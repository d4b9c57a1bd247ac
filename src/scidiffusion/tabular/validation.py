"""Checks on what a user hands in, each with one error that names the column and the way out.

All of them run before anything is computed: a table that cannot be learned, a condition that
cannot be met or a count that makes no sense fails at once and not after minutes of training.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping

import numpy as np
import pandas as pd

from scidiffusion.errors import ConfigError, DataError, SchemaError, ScidiffusionWarning
from scidiffusion.tabular.identifiers import identifier_reason
from scidiffusion.tabular.inference import check_overrides, infer_column
from scidiffusion.tabular.schema import (
    ColumnKind,
    ColumnSchema,
    TableSchema,
    python_value,
)

__all__ = ["validate_count", "validate_table"]

MIN_ROWS = 10
# Differences of larger numbers overflow.
LARGEST = 1e300


def validate_table(
    table: pd.DataFrame, overrides: Mapping[str, ColumnKind | str] | None = None
) -> TableSchema:
    """Check that a table can be learned.

    Text in which nearly every value is new, and whole numbers that count or name rows, describe
    nothing: such columns become identifiers, whose values are made up instead of learned, and a
    warning names them all.

    Args:
        table: The training table.
        overrides: Column name -> kind, as for :func:`scidiffusion.tabular.inference.infer_schema`.

    Returns:
        The table's schema, which the checks need anyway.

    Raises:
        DataError: If it is no DataFrame or has no columns, fewer than 10 rows, column names that
            are not text or not unique; or if a column is empty, constant or infinite, holds a
            mixture of types or a type that is not supported, or if all are identifiers.
        SchemaError: If an override names no column, or a kind the column cannot have.
    """
    _check_frame(table)
    kinds = check_overrides(list(table.columns), overrides)
    schemas = []
    found: dict[str, tuple[ColumnKind, str]] = {}
    empty: list[str] = []
    constant: dict[str, object] = {}
    for name in table.columns:
        series = table[name]
        present = int(series.notna().sum())
        if present == 0:
            empty.append(name)
            continue
        schema = infer_column(series, kinds.get(name))
        _check_finite(schema)
        distinct = int(series.nunique())
        if distinct == 1 and present == len(series):
            constant[name] = python_value(series.iloc[0])
            continue
        reason = None if name in kinds else identifier_reason(series, schema, distinct)
        if reason is not None:
            found[name] = _meant(series, schema), reason
            schema = infer_column(series, ColumnKind.IDENTIFIER)
        schemas.append(schema)
    _check_informative(empty, constant)
    if not any(schema.kind.is_modelled for schema in schemas):
        raise DataError(
            f"every column names the rows and none describes them ({', '.join(table.columns[:5])})"
            "; override the kind of those to learn, e.g. as 'categorical'"
        )
    if found:
        _warn_identifiers(found)
    return TableSchema(tuple(schemas))


def _meant(series: pd.Series, schema: ColumnSchema) -> ColumnKind:
    """The kind to learn a column as that is taken for an identifier: text may be dates."""
    if schema.kind is not ColumnKind.CATEGORICAL:
        return schema.kind
    try:
        return infer_column(series.dropna().head(100), ColumnKind.DATETIME).kind
    except SchemaError:
        return schema.kind


def _check_informative(empty: list[str], constant: Mapping[str, object]) -> None:
    """Refuse columns without information, all at once: a wide table has many of them."""
    if empty:
        columns, has = ("column", "has") if len(empty) == 1 else ("columns", "have")
        raise DataError(
            f"{columns} {_listed(empty)} {has} only missing values; drop "
            f"{_drop([*empty, *constant])}"
        )
    if constant:
        name, value = next(iter(constant.items()))
        which = f"column {name!r} is constant ({value!r:.40} in every row)"
        if len(constant) > 1:
            which = f"columns {_listed(list(constant))} are constant ({value!r:.40} in {name!r})"
        raise DataError(
            f"{which}; drop {_drop(list(constant))}, and add what is constant to the synthetic "
            "table afterwards"
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(map(repr, names[:10])) + more


def _drop(names: list[str]) -> str:
    if len(names) > 10:
        return "them: df.loc[:, df.nunique(dropna=False) > 1]"
    which = repr(names[0]) if len(names) == 1 else repr(names)
    return f"{'it' if len(names) == 1 else 'them'}: df.drop(columns={which})"


def _warn_identifiers(found: Mapping[str, tuple[ColumnKind, str]]) -> None:
    listed = ", ".join(f"{name!r} ({reason})" for name, (_, reason) in found.items())
    name, (kind, _) = next(iter(found.items()))
    warnings.warn(
        f"taken for identifiers or free text, and made up instead of learned: {listed}; to learn "
        f"one, override its kind: {{{name!r}: {str(kind)!r}}}; if they are identifiers, say so: "
        f"{{{name!r}: 'identifier'}}",
        ScidiffusionWarning,
        stacklevel=3,
    )


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
