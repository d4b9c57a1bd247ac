"""Any table seen through a schema: numbers and codes, whatever a generator may have put there.

Scores and plots compare tables that need not be valid: a level nobody knows, a number written as
text, a date that is none. A view keeps such cells, as a code of their own or as missing, and
counts them, where the codec would refuse the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.errors import DataError
from scidiffusion.tabular.columns import look_up, numbers_from_series
from scidiffusion.tabular.schema import ColumnKind, ColumnSchema, TableSchema

__all__ = ["TableView"]


@dataclass(frozen=True)
class TableView:
    """Numbers and codes of a table.

    Args:
        schema: The schema it is seen through.
        numbers: Shape (n, d_num), float64, NaN where missing; counted from the smallest observed
            value where the column holds integers, dates or durations.
        codes: Shape (n, d_cat), int64: the levels in the schema's order, then missing, then
            unknown.
        invalid: Shape (n, d), one column a column of the table: cells that the training table
            could not have held.
    """

    schema: TableSchema
    numbers: NDArray[np.float64]
    codes: NDArray[np.int64]
    invalid: NDArray[np.bool_]

    @classmethod
    def of(cls, table: pd.DataFrame, schema: TableSchema, name: str = "table") -> Self:
        """See a table through a schema.

        Args:
            table: Any table with the schema's columns, in any order.
            schema: The schema.
            name: What to call the table in an error.

        Returns:
            The view.

        Raises:
            DataError: If a column is absent, or there are no rows.
        """
        absent = [column for column in schema.names if column not in table.columns]
        if absent:
            raise DataError(f"the {name} lacks the column(s) {', '.join(map(repr, absent[:5]))}")
        if len(table) == 0:
            raise DataError(f"the {name} has no rows")
        numbers, codes, invalid = [], [], []
        for column in schema:
            if column.kind.is_discrete:
                values, wrong = _codes(table[column.name], column)
                codes.append(values)
            else:
                found, wrong = _numbers(table[column.name], column)
                numbers.append(found)
            invalid.append(wrong)
        n = len(table)
        return cls(
            schema,
            np.stack(numbers, axis=1) if numbers else np.empty((n, 0)),
            np.stack(codes, axis=1) if codes else np.empty((n, 0), dtype=np.int64),
            np.stack(invalid, axis=1),
        )

    def __len__(self) -> int:
        return len(self.invalid)

    @property
    def numerical(self) -> list[ColumnSchema]:
        """The columns behind ``numbers``."""
        return [column for column in self.schema if not column.kind.is_discrete]

    @property
    def discrete(self) -> list[ColumnSchema]:
        """The columns behind ``codes``."""
        return [column for column in self.schema if column.kind.is_discrete]

    @property
    def cardinalities(self) -> list[int]:
        """Number of codes of each discrete column, missing and unknown included."""
        return [len(column.categories) + 2 for column in self.discrete]

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> TableView:
        """The view of some rows.

        Args:
            rows: Indices or a mask.
        """
        return TableView(self.schema, self.numbers[rows], self.codes[rows], self.invalid[rows])

    def sample(self, n: int, rng: np.random.Generator) -> TableView:
        """At most n rows drawn without replacement.

        Args:
            n: How many.
            rng: Source of randomness.
        """
        return self if n >= len(self) else self.take(rng.permutation(len(self))[:n])

    def shuffled(self, rng: np.random.Generator) -> TableView:
        """The same columns without any dependence: each one permuted on its own.

        Args:
            rng: Source of randomness.
        """
        return TableView(
            self.schema,
            rng.permuted(self.numbers, axis=0),
            rng.permuted(self.codes, axis=0),
            rng.permuted(self.invalid, axis=0),
        )


def _codes(series: pd.Series, column: ColumnSchema) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    codes = look_up(series, column)
    missing = series.isna().to_numpy()
    levels = len(column.categories)
    unknown = (codes < 0) & ~missing
    codes[missing], codes[unknown] = levels, levels + 1
    return codes, unknown | (missing & (not column.missing))


def _numbers(
    series: pd.Series, column: ColumnSchema
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    try:
        numbers = numbers_from_series(series, column)
        unreadable = np.zeros(len(series), dtype=bool)
    except DataError:
        numbers = numbers_from_series(_coerced(series, column), _plain(column))
        unreadable = np.isnan(numbers) & series.notna().to_numpy()
    numbers = np.where(np.isinf(numbers), np.nan, numbers)
    assert column.minimum is not None
    assert column.maximum is not None
    counted = isinstance(column.minimum, int)
    low = 0.0 if counted else float(column.minimum)
    high = float(column.maximum - column.minimum) if counted else float(column.maximum)
    slack = 1e-9 * max(abs(low), abs(high), 1e-300)
    missing = np.isnan(numbers)
    wrong = unreadable | (missing & (not column.missing))
    wrong |= (numbers < low - slack) | (numbers > high + slack)
    if counted or column.integer:
        wrong |= ~missing & (numbers != np.rint(numbers))
    return numbers, wrong


def _plain(column: ColumnSchema) -> ColumnSchema:
    """The column's schema for values that came as a numpy dtype instead of text or objects."""
    return ColumnSchema(
        name=column.name,
        kind=column.kind,
        dtype="",
        minimum=column.minimum,
        maximum=column.maximum,
        unit=column.unit,
        timezone=column.timezone,
        wall_time=column.wall_time,
    )


def _coerced(series: pd.Series, column: ColumnSchema) -> pd.Series:
    """Whatever of the values can be read as the column's kind, the rest missing."""
    values = series.astype(object)
    if column.kind is ColumnKind.NUMERICAL:
        return pd.to_numeric(values, errors="coerce").astype(np.float64)
    if column.kind is ColumnKind.TIMEDELTA:
        return pd.to_timedelta(values, errors="coerce")
    zoned = pd.to_datetime(values, errors="coerce", utc=True, format="mixed")
    if column.timezone is None:
        return zoned.dt.tz_localize(None)
    return zoned.dt.tz_convert(column.timezone)
