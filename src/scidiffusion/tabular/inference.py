"""Inferring a table's schema: the kind and the format of every column, from its values alone.

The rules are those a data scientist would apply by hand. Kinds follow types, not counts: integers
with five values are still numbers, digits in text are still text; whoever means otherwise says so
with an override. Formats are the strictest that reproduce every value.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.errors import DataError, SchemaError
from scidiffusion.tabular import dates
from scidiffusion.tabular.arrow import arrow_type, without_arrow
from scidiffusion.tabular.schema import (
    ColumnKind,
    ColumnSchema,
    TableSchema,
    dtype_name,
    python_value,
    unknown_column,
)

__all__ = ["check_overrides", "infer_column", "infer_schema"]

MAX_DECIMALS = 10


def infer_schema(
    table: pd.DataFrame, overrides: Mapping[str, ColumnKind | str] | None = None
) -> TableSchema:
    """Infer the kind and the format of every column.

    Text, objects and pandas categories are categorical; booleans are boolean; numbers are
    numerical however few values they take (numbers in text are text). Text is a date if one strict
    ISO format prints every value. An override changes the kind where the values allow it: numbers,
    dates as text and booleans to ``categorical``, text in any one date format to ``datetime``,
    text and whole numbers to ``identifier``. Columns backed by pyarrow are read as the same
    values without it.

    Args:
        table: The training table; see :func:`scidiffusion.tabular.validation.validate_table` for
            what a table to train on must satisfy.
        overrides: Column name -> kind.

    Returns:
        The schema, columns in the table's order.

    Raises:
        DataError: If a column's dtype or its mixture of types is not supported.
        SchemaError: If an override names no column, or a kind the column cannot have.

    Example:
        >>> schema = infer_schema(pd.DataFrame({"age": [31, 64], "city": ["Bonn", "Bath"]}))
        >>> {column.name: str(column.kind) for column in schema}
        {'age': 'numerical', 'city': 'categorical'}
    """
    kinds = check_overrides(list(table.columns), overrides)
    return TableSchema(tuple(infer_column(table[name], kinds.get(name)) for name in table.columns))


def check_overrides(
    names: Sequence[str], overrides: Mapping[str, ColumnKind | str] | None
) -> dict[str, ColumnKind]:
    """Check that overrides name columns and kinds.

    Args:
        names: The table's columns.
        overrides: Column name -> kind.

    Returns:
        The same with kinds as :class:`ColumnKind`.

    Raises:
        SchemaError: If a column or a kind does not exist.
    """
    kinds: dict[str, ColumnKind] = {}
    for name, kind in (overrides or {}).items():
        if name not in names:
            raise SchemaError(f"schema override: {unknown_column(name, names)}")
        try:
            kinds[name] = ColumnKind(kind)
        except ValueError as error:
            raise SchemaError(
                f"schema override: column {name!r} cannot be {kind!r}; "
                f"the kinds are {', '.join(ColumnKind)}"
            ) from error
    return kinds


def infer_column(series: pd.Series, override: ColumnKind | None = None) -> ColumnSchema:
    """Infer the kind and the format of one column.

    Args:
        series: The column, with at least one value that is not missing.
        override: The kind to give it.

    Returns:
        Its schema.

    Raises:
        DataError: If its dtype or its mixture of types is not supported.
        SchemaError: If it cannot be of the kind asked for.
    """
    name = str(series.name)
    arrow = arrow_type(series)
    series = without_arrow(series)
    present = series[series.notna()]
    if len(present) == 0:
        raise DataError(f"column {name!r} has only missing values; drop it")
    common: dict[str, Any] = {
        "name": name,
        "dtype": dtype_name(series.dtype),
        "missing": len(present) < len(series),
        "missing_marker": _missing_marker(series),
        "arrow": arrow,
    }
    natural, python_type, date_format = _natural_kind(
        present, guess=override is ColumnKind.DATETIME
    )
    common["python_type"] = python_type
    kind = natural if override is None else override
    if kind is ColumnKind.IDENTIFIER:
        return _identifier(present, natural, common)
    if kind is ColumnKind.CATEGORICAL and date_format is not None:
        natural = ColumnKind.CATEGORICAL
    if kind is not natural and (kind is not ColumnKind.CATEGORICAL or not _has_levels(natural)):
        raise SchemaError(
            f"schema override: column {name!r} ({series.dtype}) is {natural} and cannot be {kind};"
            f" {_conversion_hint(name, kind)}"
        )
    if kind.is_discrete:
        return ColumnSchema(kind=kind, **common, **_levels(present))
    if kind is ColumnKind.NUMERICAL:
        return ColumnSchema(kind=kind, **common, **_number_format(present, python_type))
    if date_format is not None:
        parsed = dates.parse_dates(present, date_format)
        assert parsed is not None
        present = parsed
    return ColumnSchema(
        kind=kind, **common, date_format=date_format, **_time_format(present, python_type)
    )


def _identifier(present: pd.Series, natural: ColumnKind, common: dict[str, Any]) -> ColumnSchema:
    """The schema of text or whole numbers that name rows: their format, and none of them."""
    whole = natural is ColumnKind.NUMERICAL and _number_format(present, common["python_type"])
    levels = present.dtype.categories if isinstance(present.dtype, pd.CategoricalDtype) else None
    text = levels is None or pd.api.types.infer_dtype(levels, skipna=True) == "string"
    if natural is ColumnKind.CATEGORICAL and text:
        return ColumnSchema(kind=ColumnKind.IDENTIFIER, **common)
    if not (whole and whole["integer"]):
        raise SchemaError(
            f"schema override: column {common['name']!r} ({present.dtype}) cannot be an "
            "identifier, which is text or whole numbers; "
            + _conversion_hint(common["name"], ColumnKind.IDENTIFIER)
        )
    return ColumnSchema(kind=ColumnKind.IDENTIFIER, integer=True, **common)


def _has_levels(natural: ColumnKind) -> bool:
    return natural.is_discrete or natural is ColumnKind.NUMERICAL


def _conversion_hint(name: str, kind: ColumnKind) -> str:
    column = f"df[{name!r}]"
    hints = {
        ColumnKind.NUMERICAL: f"convert it first: {column} = pd.to_numeric({column})",
        ColumnKind.DATETIME: f"convert it first: {column} = pd.to_datetime({column})",
        ColumnKind.TIMEDELTA: f"convert it first: {column} = pd.to_timedelta({column})",
        ColumnKind.BOOLEAN: f"convert it first: {column} = {column}.astype('boolean')",
        ColumnKind.CATEGORICAL: f"convert it first: {column} = {column}.astype(str)",
        ColumnKind.IDENTIFIER: f"convert it first: {column} = {column}.astype(str)",
    }
    return hints[kind]


def _missing_marker(series: pd.Series) -> str:
    if series.dtype != object or not series.isna().any():
        return "nan"
    first = series[series.isna()].iloc[0]
    return "None" if first is None else "NA" if first is pd.NA else "nan"


def _natural_kind(present: pd.Series, *, guess: bool) -> tuple[ColumnKind, str | None, str | None]:
    """Kind, element type (object columns) and date format (text) that the values suggest."""
    dtype, name = present.dtype, present.name
    if isinstance(dtype, pd.CategoricalDtype):
        inferred = pd.api.types.infer_dtype(dtype.categories, skipna=True)
        if inferred not in ("string", "integer", "floating", "boolean", "empty"):
            raise DataError(
                f"column {name!r} is a pandas categorical whose levels are {inferred} values, "
                f"which are not supported; convert it: df[{name!r}].astype(str)"
            )
        return ColumnKind.CATEGORICAL, None, None
    if isinstance(dtype, pd.StringDtype):
        return _text_kind(present, None, guess=guess)
    if isinstance(dtype, pd.DatetimeTZDtype) or (
        isinstance(dtype, np.dtype) and dtype.kind == "M"
    ):
        return ColumnKind.DATETIME, None, None
    if isinstance(dtype, np.dtype) and dtype.kind == "m":
        return ColumnKind.TIMEDELTA, None, None
    if pd.api.types.is_object_dtype(dtype):
        return _object_kind(present, guess=guess)
    supported = isinstance(dtype, np.dtype) or dtype_name(dtype).lower() in _NULLABLE
    if supported and pd.api.types.is_bool_dtype(dtype):
        return ColumnKind.BOOLEAN, None, None
    if supported and pd.api.types.is_numeric_dtype(dtype) and dtype.kind in "iuf":
        return ColumnKind.NUMERICAL, None, None
    if isinstance(dtype, pd.ArrowDtype):
        raise DataError(_unknown_arrow(str(name), str(dtype.pyarrow_dtype)))
    raise DataError(
        f"column {name!r} has the dtype {dtype}, which is not supported; convert it to numbers, "
        "text, booleans, categories or dates, or drop it"
    )


def _unknown_arrow(name: str, arrow: str) -> str:
    """Message for a type of Arrow's that is not learned."""
    column = f"df[{name!r}]"
    if arrow.startswith(_NESTED):
        return (
            f"column {name!r} holds nested values ({arrow:.60}), which are not supported; drop "
            f"it, or turn its parts into columns first"
        )
    hint = "convert it to numbers, text, booleans, categories or dates, or drop it"
    if arrow.startswith("decimal"):
        hint = f"convert it: {column} = {column}.astype('float64')"
    elif arrow.startswith("dictionary"):
        hint = f"convert it: {column} = {column}.astype(str).astype('category')"
    return f"column {name!r} has the Arrow type {arrow:.60}, which is not supported; {hint}"


_NESTED = ("list", "large_list", "fixed_size_list", "struct", "map")
_NULLABLE = {"boolean"} | {
    f"{kind}{bits}"
    for kind, widths in (("int", "8 16 32 64"), ("uint", "8 16 32 64"), ("float", "32 64"))
    for bits in widths.split()
}


def _text_kind(
    present: pd.Series, python_type: str | None, *, guess: bool
) -> tuple[ColumnKind, str | None, str | None]:
    if not guess and not dates.looks_like_date(str(present.iloc[0])):
        return ColumnKind.CATEGORICAL, python_type, None
    date_format = dates.detect_format(pd.Series(present.unique(), dtype=object), guess=guess)
    kind = ColumnKind.CATEGORICAL if date_format is None else ColumnKind.DATETIME
    return kind, python_type, date_format


def _object_kind(present: pd.Series, *, guess: bool) -> tuple[ColumnKind, str | None, str | None]:
    """The kind of an object column, by the types of its elements."""
    name = present.name
    inferred = pd.api.types.infer_dtype(present, skipna=True)
    if inferred == "string":
        return _text_kind(present, "str", guess=guess)
    if inferred == "boolean":
        return ColumnKind.BOOLEAN, "bool", None
    if inferred in ("integer", "floating", "mixed-integer-float"):
        whole = inferred == "integer"
        return ColumnKind.NUMERICAL, "int" if whole else "float", None
    types = {type(value): value for value in reversed(present.to_list())}
    if set(types) == {datetime.date}:
        return ColumnKind.DATETIME, "date", None
    if len(types) > 1:
        shown = " and ".join(
            f"{kind.__name__} ({value!r:.40})" for kind, value in list(types.items())[-2:]
        )
        raise DataError(
            f"column {name!r} mixes types: {shown}; make them one, e.g. "
            f"df[{name!r}] = df[{name!r}].map(str, na_action='ignore')"
        )
    kind = next(iter(types))
    hint = {
        "datetime": f"df[{name!r}] = pd.to_datetime(df[{name!r}], utc=True)",
        "Timestamp": f"df[{name!r}] = pd.to_datetime(df[{name!r}], utc=True)",
        "timedelta": f"df[{name!r}] = pd.to_timedelta(df[{name!r}])",
        "Timedelta": f"df[{name!r}] = pd.to_timedelta(df[{name!r}])",
        "Decimal": f"df[{name!r}] = df[{name!r}].astype(float)",
        **dict.fromkeys(
            ("list", "tuple", "set", "dict", "ndarray"),
            f"nested values must become columns of their own first, or df.drop(columns={name!r})",
        ),
    }.get(kind.__name__, f"drop it, or df[{name!r}] = df[{name!r}].map(str, na_action='ignore')")
    raise DataError(
        f"column {name!r} holds objects of type {kind.__name__}, which are not supported; {hint}"
    )


def _levels(present: pd.Series) -> dict[str, Any]:
    """Observed levels, sorted or in the dtype's order, and those of a categorical dtype."""
    if isinstance(present.dtype, pd.CategoricalDtype):
        index = present.dtype.categories
        used = np.zeros(len(index), dtype=bool)
        used[np.unique(present.cat.codes)] = True
        levels = [python_value(value) for value in index]
        return {
            "categories": tuple(level for level, seen in zip(levels, used, strict=True) if seen),
            "levels": tuple(levels),
            "levels_dtype": dtype_name(index.dtype),
            "ordered": bool(present.dtype.ordered),
        }
    distinct = set(present.to_list())
    return {"categories": tuple(sorted({python_value(value) for value in distinct}))}


def _number_format(present: pd.Series, python_type: str | None) -> dict[str, Any]:
    """Range, wholeness and decimals of numbers."""
    if python_type == "int" or present.dtype.kind in "iu":
        low, high = int(present.min()), int(present.max())
        if low < -(2**63) or high >= 2**64:
            raise DataError(
                f"column {present.name!r} holds integers beyond 64 bits (down to {low}, up to "
                f"{high}); make it text or floats, or drop it"
            )
        return {"integer": True, "decimals": 0, "minimum": low, "maximum": high}
    values = present.to_numpy(np.float64)
    single = dtype_name(present.dtype).lower() in ("float16", "float32")
    decimals = _count_decimals(values, np.dtype(str(present.dtype).lower()) if single else None)
    return {
        "integer": decimals == 0,
        "decimals": decimals,
        "minimum": float(values.min()),
        "maximum": float(values.max()),
    }


def _count_decimals(values: NDArray[np.float64], narrow: np.dtype[Any] | None) -> int | None:
    """The fewest decimals, at most 10, that reproduce every value up to its last bits."""
    with np.errstate(over="ignore", invalid="ignore"):
        # A few values rule out most candidates, so that the whole column is rounded once or twice.
        probe = values[:: max(1, len(values) // 256)]
        for decimals in range(MAX_DECIMALS + 1):
            if _written_by(probe, decimals, narrow) and _written_by(values, decimals, narrow):
                return decimals
    return None


def _written_by(values: NDArray[np.float64], decimals: int, narrow: np.dtype[Any] | None) -> bool:
    rounded = np.round(values, decimals)
    if narrow is not None:
        return bool((rounded.astype(narrow) == values.astype(narrow)).all())
    # Sums such as 0.1 + 0.2 are a few units in the last place away from the decimal they mean.
    return bool((np.abs(rounded - values) <= 4 * np.spacing(np.abs(values))).all())


def _time_format(present: pd.Series, python_type: str | None) -> dict[str, Any]:
    """Unit, zone and range of dates and durations."""
    if python_type == "date":
        ticks, unit = np.array(present.to_list(), dtype="datetime64[D]").astype(np.int64), "D"
        return {"unit": unit, "minimum": int(ticks.min()), "maximum": int(ticks.max())}
    zone = getattr(present.dtype, "tz", None)
    counts = present if zone is None else present.dt.tz_convert("UTC").dt.tz_localize(None)
    base = np.datetime_data(counts.to_numpy().dtype)[0]
    ticks = counts.to_numpy().astype(np.int64)
    unit = dates.coarsest_unit(ticks, base)
    wall = False
    if zone is not None:
        local = present.dt.tz_localize(None).to_numpy().astype(np.int64)
        local_unit = dates.coarsest_unit(local, base)
        if dates.UNITS.index(local_unit) < dates.UNITS.index(unit):
            ticks, unit, wall = local, local_unit, True
    ticks = ticks // dates.unit_ratio(unit, base)
    return {
        "unit": unit,
        "minimum": int(ticks.min()),
        "maximum": int(ticks.max()),
        "timezone": None if zone is None else str(zone),
        "wall_time": wall,
    }
