"""What a private fit may know of a column without looking: ranges and levels, checked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from scidiffusion.errors import ConfigError
from scidiffusion.tabular.schema import ColumnKind, ColumnSchema, Level

__all__ = ["public_levels", "public_range", "representable"]

_NANOSECONDS = {
    "D": 86_400 * 10**9,
    "h": 3600 * 10**9,
    "m": 60 * 10**9,
    "s": 10**9,
    "ms": 10**6,
    "us": 10**3,
    "ns": 1,
}


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
