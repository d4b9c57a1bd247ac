"""A column of a table as levels or numbers, checked against its schema.

Both codecs read and write columns through here, so that one set of errors serves every method.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.errors import DataError
from scidiffusion.tabular.columns import (
    codes_from_series,
    numbers_from_series,
    series_from_numbers,
    snap_numbers,
)
from scidiffusion.tabular.schema import ColumnKind, ColumnSchema, TableSchema, python_value

__all__ = ["check_columns", "overlay", "read_levels", "read_numbers", "step_of", "write_numbers"]


def check_columns(table: pd.DataFrame, schema: TableSchema) -> None:
    """Check that a table has the columns of a schema, in any order, and no others.

    Args:
        table: The table.
        schema: The schema.

    Raises:
        DataError: If not; the message names the columns.
    """
    if not isinstance(table, pd.DataFrame):
        raise DataError(f"a table must be a pandas DataFrame, not {type(table).__name__}")
    absent = [name for name in schema.names if name not in table.columns]
    extra = [name for name in table.columns if name not in schema]
    if absent or extra or len(table.columns) != len(schema):
        parts = [f"lacks {', '.join(map(repr, absent[:5]))}"] * bool(absent)
        parts += [f"has the unknown {', '.join(map(repr, extra[:5]))}"] * bool(extra)
        raise DataError(
            "the table's columns are not those of the schema: it "
            + (" and ".join(parts) or "has a column twice")
        )


def read_levels(
    values: pd.Series, column: ColumnSchema, *, missing: bool | None = None
) -> NDArray[np.int64]:
    """Levels of a categorical or boolean column.

    Args:
        values: The column's values.
        column: Its schema.
        missing: Whether values may be missing; None is what the schema says.

    Returns:
        (n,) index into `column.categories`, -1 where missing.

    Raises:
        DataError: If a level is unknown, or missing where it must not be.
    """
    levels = codes_from_series(values, column)
    _check_missing(levels < 0, column, missing)
    return levels


def read_numbers(
    values: pd.Series, column: ColumnSchema, *, missing: bool | None = None
) -> NDArray[np.float64]:
    """Numbers of a numerical column, dates or durations.

    Args:
        values: The column's values.
        column: Its schema.
        missing: Whether values may be missing; None is what the schema says.

    Returns:
        (n,) in the units of `columns.numbers_from_series`, NaN where missing.

    Raises:
        DataError: If a value is infinite, not whole where the column's dtype is, of another kind,
            or missing where it must not be.
    """
    numbers = numbers_from_series(values, column)
    if np.isinf(numbers).any():
        raise DataError(f"column {column.name!r} holds infinite values; replace them")
    if column.kind is ColumnKind.NUMERICAL and isinstance(column.minimum, int):
        broken = ~np.isnan(numbers) & (numbers != np.rint(numbers))
        if broken.any():
            value = python_value(values.iloc[int(broken.argmax())])
            raise DataError(
                f"column {column.name!r} holds {value!r}, but whole numbers in training; round "
                "it, or drop those rows"
            )
    _check_missing(np.isnan(numbers), column, missing)
    return numbers


def write_numbers(numbers: NDArray[np.float64], column: ColumnSchema) -> pd.Series:
    """Numbers as a column of the schema's format; NaN is missing.

    Args:
        numbers: (n,), any; rounded to the format and kept in the observed range.
        column: The column's schema.
    """
    return series_from_numbers(snap_numbers(numbers, column), column)


def overlay(drawn: pd.Series, known: NDArray[np.bool_], values: pd.Series) -> pd.Series:
    """A column with known values put over drawn ones, to the last digit, in the drawn dtype.

    Args:
        drawn: The column; of a pandas categorical, known levels that it lacks are added.
        known: (n,) where a value is known.
        values: (n,) the known values; elsewhere they are not looked at.

    Raises:
        DataError: If the drawn dtype cannot hold a known value.
    """
    if not known.any():
        return drawn
    result, given = drawn.copy(), values[known]
    if isinstance(drawn.dtype, pd.CategoricalDtype):
        given = given.astype(object)
        result = result.cat.add_categories(sorted(set(given) - set(drawn.cat.categories)))
        result[known] = given.to_numpy()
        return result
    kept: Any = None
    try:
        with np.errstate(over="ignore"):
            kept = given.astype(drawn.dtype)
    except (TypeError, ValueError, OverflowError):
        lost = given.notna().to_numpy()
    else:
        lost = _lost(given, kept)
    if lost.any():
        value = python_value(given.iloc[int(lost.argmax())])
        raise DataError(
            f"column {drawn.name!r} holds {value!r}, which the dtype of training, {drawn.dtype}, "
            "cannot hold; drop those rows, or fit on a wider dtype"
        )
    result[known] = kept.to_numpy()
    return result


def _lost(given: pd.Series, kept: pd.Series) -> NDArray[np.bool_]:
    """Where a value is another one after a cast to a dtype that holds fewer."""
    kind = getattr(kept.dtype, "kind", "O")
    if kind == "f":
        return np.isinf(kept.to_numpy(np.float64, na_value=np.nan))
    if kind in "iumM":
        same = given.to_numpy(object) == kept.to_numpy(object)
        return ~np.asarray(same, dtype=bool) & given.notna().to_numpy()
    return np.zeros(len(given), dtype=bool)


def step_of(column: ColumnSchema) -> float:
    """Distance of two numbers that a column can write, in the units of `read_numbers`; 0 is any.

    Args:
        column: The schema of a column of numbers, dates or durations.
    """
    if column.kind is not ColumnKind.NUMERICAL or column.integer:
        return 1.0
    return 0.0 if column.decimals is None else 10.0**-column.decimals


def _check_missing(gaps: NDArray[np.bool_], column: ColumnSchema, allowed: bool | None) -> None:
    if gaps.any() and not (column.missing if allowed is None else allowed):
        raise DataError(
            f"column {column.name!r} has missing values in {int(gaps.sum())} row(s), "
            "but had none in training; drop or fill those rows"
        )
