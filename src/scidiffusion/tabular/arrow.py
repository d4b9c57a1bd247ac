"""Columns backed by pyarrow, read as the same values without it and given back with it.

``pd.read_parquet(..., dtype_backend="pyarrow")`` gives every column an Arrow type. For each type
that a table to learn can have, pandas has one of its own with the same values; the schema keeps
both names, and everything between works on the second.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from scidiffusion._lazy import require

__all__ = ["arrow_type", "with_arrow", "without_arrow"]

_SAME = {
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "float": "float32",
    "double": "float64",
    "bool": "bool",
    "string": "string",
    "large_string": "string",
    "date32[day]": "object",
}
_TIME = re.compile(r"(timestamp|duration)\[(s|ms|us|ns)(?:, tz=(.+))?\]")


def arrow_type(series: pd.Series) -> str | None:
    """The Arrow type of a column that :func:`without_arrow` can read, None for any other column.

    Args:
        series: Any column.
    """
    if not isinstance(series.dtype, pd.ArrowDtype):
        return None
    name = str(series.dtype.pyarrow_dtype)
    return name if name in _SAME or _TIME.fullmatch(name) else None


def without_arrow(series: pd.Series) -> pd.Series:
    """The same values under a dtype of pandas or numpy.

    Args:
        series: Any column; what is not of a known Arrow type stays as it is.

    Returns:
        Whole numbers and booleans as ``Int64`` and the like where some are missing and as numpy's
        otherwise, floats as numpy's with NaN for missing, text as ``string``, days as objects.
    """
    name = arrow_type(series)
    if name is None:
        return series
    time = _TIME.fullmatch(name)
    if time is not None:
        letter = "datetime64" if time[1] == "timestamp" else "timedelta64"
        zone = f", {time[3]}" if time[3] else ""
        return series.astype(f"{letter}[{time[2]}{zone}]")  # type: ignore[call-overload]
    same = _SAME[name]
    if same == "string":
        return series.astype(pd.StringDtype("python"))
    if same == "object":
        days = series.astype(object)
        return days.where(days.notna(), None)
    if same.startswith("float"):
        numbers = series.to_numpy(dtype=same, na_value=np.nan)
        return pd.Series(numbers, index=series.index, name=series.name)
    if series.isna().any():
        nullable = {"bool": "boolean"}.get(same, same.replace("int", "Int").replace("uI", "UI"))
        return series.astype(nullable)  # type: ignore[call-overload]
    return series.astype(same)  # type: ignore[call-overload]


def with_arrow(series: pd.Series, arrow: str | None) -> pd.Series:
    """The inverse of :func:`without_arrow`.

    Args:
        series: The values.
        arrow: The Arrow type; None leaves them as they are.

    Raises:
        MissingExtraError: If pyarrow is not installed.
    """
    if arrow is None:
        return series
    pa = require("pyarrow", "parquet")
    if arrow == "string":
        # pandas has a dtype of its own under that name.
        return series.astype(pd.ArrowDtype(pa.string()))
    return series.astype(pd.ArrowDtype.construct_from_string(f"{arrow}[pyarrow]"))
