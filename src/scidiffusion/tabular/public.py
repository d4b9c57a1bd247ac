"""What a private fit may know of a column without looking: ranges and levels, checked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from scidiffusion.errors import ConfigError
from scidiffusion.tabular.schema import ColumnKind, ColumnSchema, Level, unknown_column

__all__ = ["public_levels", "public_range", "public_texts", "representable"]

_NANOSECONDS = {
    "D": 86_400 * 10**9,
    "h": 3600 * 10**9,
    "m": 60 * 10**9,
    "s": 10**9,
    "ms": 10**6,
    "us": 10**3,
    "ns": 1,
}


def public_texts(texts: Iterable[str], table: pd.DataFrame) -> dict[str, Any]:
    """Public ranges and levels written as text, the way a command line gives them.

    Args:
        texts: ``age=0..120`` is a range with both ends, ``sex=F,M`` the levels of a column.
        table: The table; levels of a column of numbers are numbers.

    Returns:
        Column -> (low, high) or a list of levels, as the option `public` takes them.

    Raises:
        ConfigError: If a text reads neither way, or names no column, or one that is given twice.
    """
    public: dict[str, Any] = {}
    for text in texts:
        name, sign, rest = (part.strip() for part in text.partition("="))
        if not sign or not rest:
            raise ConfigError(f"public reads column=low..high or column=a,b, got {text!r}")
        if name not in table.columns:
            raise ConfigError(f"public: {unknown_column(name, list(table.columns))}")
        if name in public:
            raise ConfigError(f"public: column {name!r} is given twice")
        numeric = pd.api.types.is_numeric_dtype(table[name])
        ends = rest.split("..")
        values: list[Any] = [
            part.strip() for part in (ends if len(ends) == 2 else rest.split(","))
        ]
        if numeric and not pd.api.types.is_bool_dtype(table[name]):
            try:
                values = [int(v) if v.lstrip("+-").isdigit() else float(v) for v in values]
            except ValueError:
                raise ConfigError(f"public: column {name!r} holds numbers, got {text!r}") from None
        public[name] = tuple(values) if len(ends) == 2 else values
    return public


def public_levels(public: Any, column: ColumnSchema) -> tuple[Level, ...]:
    """Levels of a column that a caller says are public.

    Args:
        public: What the caller gave.
        column: The column's schema.

    Raises:
        ConfigError: If it is no list of levels, or one is of another type than the column's.
    """
    listed = isinstance(public, Iterable) and not isinstance(public, str | bytes)
    levels: tuple[Level, ...] = tuple(dict.fromkeys(public)) if listed else ()
    if not levels:
        raise ConfigError(
            f"privacy: give the public levels of column {column.name!r} as a list, not {public!r}"
        )
    text = isinstance(column.categories[0], str)
    for level in levels:
        if isinstance(level, str) != text:
            raise ConfigError(
                f"privacy: column {column.name!r} holds {'text' if text else 'no text'}, so "
                f"{level!r} cannot be one of its public levels"
            )
    return levels


def public_range(public: Any, column: ColumnSchema) -> tuple[float, float]:
    """The ends of a range that a caller says is public, in the column's units.

    Args:
        public: What the caller gave.
        column: The schema of a column of numbers, dates or durations.

    Raises:
        ConfigError: If it is no pair of the column's values, or not finite.
    """
    try:
        low, high = (_own_number(end, column) for end in public)
    except (TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"privacy: give the public range of column {column.name!r} as (low, high) of its own "
            f"values, not {public!r:.80}"
        ) from error
    return low, high


def _own_number(value: Any, column: ColumnSchema) -> float:
    """A public bound as a number of the column's units."""
    if column.kind is ColumnKind.NUMERICAL:
        number = float(value)
    else:
        kind = pd.Timestamp if column.kind is ColumnKind.DATETIME else pd.Timedelta
        moment: Any = kind(value)
        if column.kind is ColumnKind.DATETIME and moment.tzinfo is not None:
            moment = moment.tz_localize(None) if column.wall_time else moment.tz_convert(None)
        number = float(moment.as_unit("ns").value / _NANOSECONDS[str(column.unit)])
    if not np.isfinite(number):
        raise ConfigError(f"privacy: the bounds of column {column.name!r} must be finite")
    return number


def representable(low: float, high: float, column: ColumnSchema) -> tuple[float, float]:
    """A range cut to what the column's dtype can hold.

    Args:
        low: Its low end, in the column's units.
        high: Its high end.
        column: The column's schema.

    Raises:
        ConfigError: If the ends are in the wrong order.
    """
    if low > high:
        raise ConfigError(f"privacy: the bounds of column {column.name!r} are in the wrong order")
    least, most = -np.inf, np.inf
    if column.kind is not ColumnKind.NUMERICAL:
        # Nanoseconds in 64 bits: the years 1677 to 2262.
        most = 2.0**63 / _NANOSECONDS[str(column.unit)] * (1 - 1e-9)
        least = -most
    elif column.dtype != "object":
        name = column.dtype.lower()
        if name.startswith(("int", "uint")):
            info = np.iinfo(name)
            least, most = float(info.min), float(info.max) * (1 - 1e-15)
        elif name.startswith("float"):
            most = float(np.finfo(name).max)
            least = -most
    return float(np.clip(low, least, most)), float(np.clip(high, least, most))
