"""Columns that name rows: found, not learned, and made up anew.

A customer number says nothing about the customer; learned, it would be copied. Such a column is
left out of the model, and every sampled row gets a value of the same pattern that no training row
has and no other row of the sample: a function of the model, the seed and the row's number alone.
:mod:`scidiffusion.tabular.free_numbers` says what is stored, and why no training value is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from scidiffusion.errors import ConfigError, DataError, ModelFileError, SchemaError
from scidiffusion.persistence import check_version
from scidiffusion.tabular.arrow import with_arrow, without_arrow
from scidiffusion.tabular.columns import series_from_values
from scidiffusion.tabular.free_numbers import NumberPattern
from scidiffusion.tabular.patterns import TextPattern
from scidiffusion.tabular.permutations import key_of, uniform
from scidiffusion.tabular.schema import ColumnKind, ColumnSchema

__all__ = ["IdentifierGenerator", "identifier_reason"]

VERSION = 1
# Text in which nearly every value is new names rows and does not describe them.
TEXT_SHARE = 0.95
ROWS = 100
# Whole numbers count rows if hardly one of their range is left out, and are random if they are
# spread evenly over all numbers of so many digits.
DENSITY = 1.1
RANDOM_DIGITS = 7
_YEARS = (1000, 2500)
_NAME = re.compile(
    r"(?i:(?:^|[\W_])(?:id|ids|uid|uuid|guid|key|ssn|isbn|iban|imei|serial)(?:$|[\W_\d]))"
    r"|(?<=[a-z])I[Dd]$"
)


def identifier_reason(series: pd.Series, schema: ColumnSchema, distinct: int) -> str | None:
    """Why a column is taken for an identifier.

    Args:
        series: The column.
        schema: Its schema, if it were learned.
        distinct: Number of different values.

    Returns:
        Half a sentence; None if the column describes the rows. Text is an identifier if no value
        repeats, or (from 100 rows on) fewer than one in twenty does. Whole numbers are one if none
        of at least 100 repeats, and they count (1, 2, 3, ... in any order, years excepted), are
        spread evenly over all numbers of seven or more digits, or the column's name says so
        (`id`, `customer_id`, `uuid`, ...).
    """
    present = int(series.notna().sum())
    if schema.kind is ColumnKind.CATEGORICAL:
        text = all(isinstance(level, str) for level in schema.categories[:1])
        if not text or present < 2:
            return None
        if distinct == present or (present >= ROWS and distinct >= TEXT_SHARE * present):
            return f"{distinct} different texts in {present} rows"
        return None
    whole = schema.kind is ColumnKind.NUMERICAL and schema.integer
    if not whole or distinct < present or present < ROWS:
        return None
    assert schema.minimum is not None
    assert schema.maximum is not None
    low, high = int(schema.minimum), int(schema.maximum)
    years = low >= _YEARS[0] and high <= _YEARS[1]
    if high - low + 1 <= DENSITY * present and not years:
        return f"whole numbers that count {present} rows"
    if _NAME.search(schema.name):
        return f"{present} different whole numbers in {present} rows"
    if _is_random(series, low, high):
        return f"{present} random whole numbers of {len(str(low))} digits"
    return None


def _is_random(series: pd.Series, low: int, high: int) -> bool:
    digits = len(str(high))
    if low <= 0 or len(str(low)) != digits or digits < RANDOM_DIGITS:
        return False
    values = without_arrow(series).dropna().to_numpy(np.float64)
    n, first, last = len(values), 10.0 ** (digits - 1), 10.0**digits
    # Kolmogorov's distance to the uniform distribution; a sixth of them is further than this.
    ranks = (np.sort(values) - first) / (last - first)
    distance = np.abs(ranks - (np.arange(n) + 0.5) / n).max()
    return bool(distance <= 1.12 / np.sqrt(n))


@dataclass(frozen=True)
class IdentifierGenerator:
    """Makes values of one column up.

    Args:
        column: The column's schema, of kind ``identifier``.
        pattern: What the values look like.
        missing: Share of missing values.
        key: Secret of the fit: which values come in which order.

    Example:
        >>> codes = pd.Series([f"A-{k:06d}" for k in range(0, 90_000, 7)], name="code")
        >>> column = ColumnSchema(name="code", kind="identifier", dtype="object")
        >>> made_up = IdentifierGenerator.fit(codes, column).generate(range(1000), seed=1)
        >>> bool(made_up.str.fullmatch("A-[0-9]{6}").all()), bool(made_up.isin(codes).any())
        (True, False)
    """

    column: ColumnSchema
    pattern: TextPattern | NumberPattern
    missing: float
    key: int

    @classmethod
    def fit(cls, series: pd.Series, column: ColumnSchema, *, seed: int = 0) -> Self:
        """Learn what the values look like.

        Args:
            series: The training values.
            column: Their schema, of kind ``identifier``.
            seed: Of the order of the values.

        Returns:
            The generator.

        Raises:
            SchemaError: If the column is of another kind.
            DataError: If all values are missing.
        """
        if column.kind.is_modelled:
            raise SchemaError(f"column {column.name!r} is {column.kind}, not an identifier")
        series = without_arrow(series)
        present = series[series.notna()]
        if len(present) == 0:
            raise DataError(f"column {column.name!r} has only missing values; drop it")
        key = key_of("identifier", seed, column.name)
        share = 1 - len(present) / len(series)
        values = set(present.astype(object).to_list())
        pattern: TextPattern | NumberPattern
        if column.integer:
            numbers = sorted(int(value) for value in values)
            pattern = NumberPattern.fit(numbers, _limits(column), key)
        else:
            pattern = TextPattern.fit(sorted(str(value) for value in values), key)
        return cls(column, pattern, share, key)

    def generate(self, rows: ArrayLike, *, seed: int, present: bool = False) -> pd.Series:
        """Make values up.

        Args:
            rows: Row numbers of the sample, 0 for its first row; whole numbers >= 0.
            seed: Of the sample.
            present: Leave none missing.

        Returns:
            One value a row, with the dtype of the training column. A row's value depends on its
            number and the seed alone; different numbers have different values. Samples of other
            seeds have other values unless the pattern has few to offer.

        Raises:
            ConfigError: If a row number is negative.
            DataError: If the column's dtype has no number left.
        """
        numbers = np.asarray(rows, dtype=np.int64).ravel()
        if (numbers < 0).any():
            raise ConfigError("row numbers must not be negative")
        places = numbers.astype(np.uint64)
        missing = uniform(places, key_of(self.key, seed, "missing")) < self.missing
        missing &= not present
        values = np.empty(len(places), dtype=object)
        values[:] = self.pattern.draw(places, self.key, seed)
        if self.column.integer:
            self._check_numbers(values)
        if self.column.dtype == "category":
            values[missing] = None
            return pd.Series(pd.Categorical(values), name=self.column.name)
        if self.column.integer and self.column.dtype != "object":
            values = values.astype(np.uint64 if _limits(self.column)[1] >= 2**63 else np.int64)
        return with_arrow(series_from_values(values, missing, self.column), self.column.arrow)

    def _check_numbers(self, values: np.ndarray) -> None:
        largest = _limits(self.column)[1]
        if any(value > largest for value in values):
            raise DataError(
                f"column {self.column.name!r}: {self.column.dtype} has no {len(values)} numbers "
                "left that no training row has; fit on it as a wider integer, or sample less"
            )

    def to_json(self) -> dict[str, Any]:
        """The generator as a JSON object, without any training value."""
        return {
            "version": VERSION,
            "column": self.column.to_dict(),
            "pattern": self.pattern.to_json(),
            "missing": self.missing,
            "key": self.key,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote.

        Args:
            record: The JSON object.

        Raises:
            ModelFileError: If it is none, or of a newer version.
        """
        check_version(record, VERSION, "a name pattern")
        try:
            column = ColumnSchema.from_dict(record["column"])
            kind = NumberPattern if column.integer else TextPattern
            pattern = kind.from_json(record["pattern"])
            return cls(column, pattern, float(record["missing"]), int(record["key"]))
        except (KeyError, TypeError, ValueError, SchemaError) as error:
            raise ModelFileError(f"the identifiers of a model cannot be read: {error}") from error


def _limits(column: ColumnSchema) -> tuple[int, int]:
    """The smallest and the largest whole number that a column can hold exactly."""
    name = column.dtype.lower()
    if "int" in name or name == "object":
        limits = np.iinfo("int64" if name == "object" else name)
        return int(limits.min), int(limits.max)
    exact = 2 ** (np.finfo(name).nmant + 1)
    return -exact, exact
