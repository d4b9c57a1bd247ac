"""What a table looks like: one frozen record a column, kept as JSON beside a model.

The schema is everything needed to give a table back as it was: the kind of every column (how it is
modelled), and its format (dtype, whole numbers, decimals, range, levels, time zone, date format,
how missing values are marked). It holds values of a column only where these are its levels.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self, TypeAlias

import numpy as np
import pandas as pd

from scidiffusion.errors import SchemaError
from scidiffusion.tabular import dates

__all__ = ["ColumnKind", "ColumnSchema", "Level", "TableSchema"]

Level: TypeAlias = str | int | float | bool

SCHEMA_VERSION = 2


class ColumnKind(StrEnum):
    """How a column is modelled."""

    NUMERICAL = "numerical"
    CATEGORICAL = "categorical"
    BOOLEAN = "boolean"
    DATETIME = "datetime"
    TIMEDELTA = "timedelta"
    IDENTIFIER = "identifier"

    @property
    def is_discrete(self) -> bool:
        """Whether the values are levels without distances (categorical or boolean)."""
        return self in (ColumnKind.CATEGORICAL, ColumnKind.BOOLEAN)

    @property
    def is_modelled(self) -> bool:
        """Whether the values are learned; an identifier's are made up, see `identifiers`."""
        return self is not ColumnKind.IDENTIFIER


@dataclass(frozen=True, kw_only=True)
class ColumnSchema:
    """Kind and format of one column.

    Args:
        name: The column's name.
        kind: How it is modelled.
        dtype: Name of the pandas dtype to restore, e.g. ``"Int64"`` or ``"category"``.
        python_type: Type of the elements of an object column: ``str int float bool date``.
        integer: Numerical: every observed value is whole.
        decimals: Numerical: the fewest decimals, at most 10, that write every observed value;
            None if 10 do not.
        minimum: Smallest observed value; of dates and durations the count of ``unit`` (since
            1970-01-01 for dates).
        maximum: Largest observed value, like ``minimum``.
        categories: Categorical and boolean: the levels observed, sorted or in the dtype's order.
        missing: Whether values were missing.
        missing_marker: What stood for a missing value: ``nan``, ``None`` or ``NA``.
        levels: Dtype ``category``: every level of the dtype, used or not.
        levels_dtype: Dtype ``category``: dtype of the levels.
        ordered: Dtype ``category``: whether the levels are ordered.
        unit: Dates and durations: coarsest exact unit (``D h m s ms us ns``, ``m`` a minute).
        timezone: Time zone of zoned dates.
        wall_time: Zoned dates are counted in local time (whole days there) and not in UTC.
        date_format: Dates kept as text: their format, see :mod:`scidiffusion.tabular.dates`.
        arrow: Arrow type of a pyarrow-backed column, e.g. ``"int64"``; ``dtype`` is then that of
            the same values without pyarrow.

    Raises:
        SchemaError: If the fields contradict each other.
    """

    name: str
    kind: ColumnKind
    dtype: str
    python_type: str | None = None
    integer: bool = False
    decimals: int | None = None
    minimum: float | int | None = None
    maximum: float | int | None = None
    categories: tuple[Level, ...] = ()
    missing: bool = False
    missing_marker: str = "nan"
    levels: tuple[Level, ...] = ()
    levels_dtype: str | None = None
    ordered: bool = False
    unit: str | None = None
    timezone: str | None = None
    wall_time: bool = False
    date_format: str | None = None
    arrow: str | None = None

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "kind", ColumnKind(self.kind))
        except ValueError as error:
            raise SchemaError(
                f"column {self.name!r} has the unknown kind {str(self.kind)!r}; "
                f"the kinds are {', '.join(ColumnKind)}"
            ) from error
        for field in ("categories", "levels"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        if self.kind.is_discrete:
            if not self.categories:
                raise SchemaError(f"column {self.name!r} is {self.kind} but lists no categories")
            return
        if not self.kind.is_modelled:
            return
        if self.minimum is None or self.maximum is None or self.minimum > self.maximum:
            raise SchemaError(
                f"column {self.name!r} is {self.kind} and needs minimum <= maximum, "
                f"got {self.minimum} and {self.maximum}"
            )
        if self.kind is not ColumnKind.NUMERICAL and self.unit not in dates.UNITS:
            raise SchemaError(
                f"column {self.name!r} is {self.kind} and needs a unit out of "
                f"{', '.join(dates.UNITS)}, got {self.unit!r}"
            )

    def to_dict(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as JSON values."""
        record: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                record[field.name] = list(value) if isinstance(value, tuple) else value
        record["kind"] = self.kind.value
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote.

        Args:
            record: One column's fields.

        Raises:
            SchemaError: If a field is unknown, missing or contradictory.
        """
        try:
            return cls(**record)
        except TypeError as error:
            raise SchemaError(
                f"the schema of column {record.get('name')!r} cannot be read: {error}"
            ) from error


@dataclass(frozen=True)
class TableSchema:
    """The columns of a table, in order.

    Args:
        columns: One record a column.

    Raises:
        SchemaError: If there is no column, or a name occurs twice.
    """

    columns: tuple[ColumnSchema, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))
        if not self.columns:
            raise SchemaError("a table schema needs at least one column")
        if len(set(self.names)) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise SchemaError(f"column {twice!r} occurs twice in the schema")

    @property
    def names(self) -> list[str]:
        """Column names in order."""
        return [column.name for column in self.columns]

    @property
    def modelled(self) -> TableSchema:
        """The columns that a model learns: all but the identifiers.

        Raises:
            SchemaError: If there is none.
        """
        columns = tuple(column for column in self.columns if column.kind.is_modelled)
        return self if len(columns) == len(self.columns) else TableSchema(columns)

    @property
    def identifiers(self) -> tuple[ColumnSchema, ...]:
        """The columns whose values are made up."""
        return tuple(column for column in self.columns if not column.kind.is_modelled)

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        return {column.name: place for place, column in enumerate(self.columns)}

    def __iter__(self) -> Iterator[ColumnSchema]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __getitem__(self, name: str) -> ColumnSchema:
        if name not in self._places:
            raise SchemaError(unknown_column(name, self.names))
        return self.columns[self._places[name]]

    def to_dict(self) -> dict[str, Any]:
        """The schema as a JSON object."""
        return {"version": SCHEMA_VERSION, "columns": [c.to_dict() for c in self.columns]}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote.

        Args:
            record: The JSON object.

        Raises:
            SchemaError: If it is not a schema, or one of a newer version.
        """
        version, columns = record.get("version"), record.get("columns")
        if not isinstance(version, int) or not isinstance(columns, Sequence):
            raise SchemaError("not a table schema: 'version' or 'columns' is missing")
        if version > SCHEMA_VERSION:
            raise SchemaError(
                f"the table schema has version {version}, this scidiffusion reads up to "
                f"{SCHEMA_VERSION}: upgrade scidiffusion"
            )
        return cls(tuple(ColumnSchema.from_dict(column) for column in columns))


def unknown_column(name: object, names: Sequence[str]) -> str:
    """Message for a column that does not exist, with the names that resemble it.

    Args:
        name: What was asked for.
        names: The columns there are.
    """
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    if near:
        return f"there is no column {name!r}; did you mean {', '.join(map(repr, near))}?"
    shown = ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")
    return f"there is no column {name!r}; the columns are {shown}"


def dtype_name(dtype: Any) -> str:
    """Name of a pandas dtype from which :func:`make_dtype` gives the same dtype again.

    Args:
        dtype: Any dtype but a categorical with its levels, which is ``"category"``.
    """
    if isinstance(dtype, pd.StringDtype):
        # Two families of string dtypes share one name in pandas: with pd.NA and with NaN.
        family = "string" if dtype.na_value is pd.NA else "str"
        return f"{family}[{dtype.storage}]"
    return str(dtype)


def make_dtype(name: str) -> Any:
    """The pandas dtype of a name given by :func:`dtype_name`.

    Args:
        name: The name, not ``"category"``.

    Raises:
        SchemaError: If pandas does not know it.
    """
    try:
        if name.startswith("str["):
            return pd.StringDtype(name[4:-1], na_value=np.nan)
        return pd.api.types.pandas_dtype(name)
    except (TypeError, ImportError) as error:
        raise SchemaError(f"pandas cannot make the dtype {name!r}: {error}") from error


def python_value(value: Any) -> Any:
    """A numpy scalar as the Python value it stands for, anything else as it is.

    Args:
        value: One element of a column.
    """
    if isinstance(value, np.generic):
        value = value.item()
    return str(value) if isinstance(value, str) else value
