"""Pairs of values that never occur together, so that conditions on both can be refused.

A network gives everything some probability: it would draw rows of a kind that does not exist. Here
every column has some codes (its frequent levels, intervals of equal probability, missing), and two
codes of different columns are a zero if no training row has both, although chance alone (their
frequencies multiplied) would give twenty: exp(-20) is the probability of that.

Only zeros are kept, no counts: what they tell holds of the population and of no row.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.errors import ConditionError, ModelFileError, ScidiffusionWarning
from scidiffusion.tabular import conditions
from scidiffusion.tabular.columns import codes_from_series, numbers_from_series
from scidiffusion.tabular.conditions import Condition
from scidiffusion.tabular.schema import ColumnSchema, TableSchema

__all__ = ["Zeros"]

LEAST_EXPECTED = 20.0
MOST_CODES = 64
INTERVALS = 16
MOST_WORK = 2e8
"""Rows times columns squared: of wider tables the first columns are looked at."""


@dataclass(frozen=True)
class _Codes:
    """The codes of one column; the last one is for missing values.

    Args:
        levels: Levels that have a code, as indices into the column's categories.
        edges: Inner ends of intervals of numbers.
    """

    levels: NDArray[np.int64]
    edges: NDArray[np.float64]

    @classmethod
    def fit(cls, series: pd.Series, column: ColumnSchema) -> Self:
        none = np.empty(0)
        if column.kind.is_discrete:
            found = codes_from_series(series, column)
            counts = np.bincount(found[found >= 0], minlength=len(column.categories))
            frequent = np.argsort(-counts, kind="stable")[:MOST_CODES]
            return cls(np.sort(frequent[counts[frequent] >= LEAST_EXPECTED]), none)
        numbers = numbers_from_series(series, column)
        inner = np.linspace(0, 1, INTERVALS + 1)[1:-1]
        return cls(none.astype(np.int64), np.unique(np.nanquantile(numbers, inner)))

    def __len__(self) -> int:
        return (len(self.levels) or len(self.edges) + 1) + 1

    def encode(self, series: pd.Series, column: ColumnSchema) -> NDArray[np.int64]:
        """The code of every value, -1 for a level without one."""
        missing = len(self) - 1
        if column.kind.is_discrete:
            table = np.full(len(column.categories) + 1, -1)
            table[self.levels], table[-1] = np.arange(len(self.levels)), missing
            return table[codes_from_series(series, column)]
        numbers = numbers_from_series(series, column)
        return np.where(np.isnan(numbers), missing, np.searchsorted(self.edges, numbers, "right"))

    def allowed(self, column: ColumnSchema, condition: Condition) -> NDArray[np.int64] | None:
        """The codes that meet a condition, in part at least; None if a value has no code."""
        missing = [len(self) - 1] * conditions.allows_missing(condition)
        if column.kind.is_discrete:
            wanted = conditions.codes(column, condition)
            wanted = wanted[wanted >= 0]
            if not np.isin(wanted, self.levels).all():
                return None
            return np.array([*np.searchsorted(self.levels, wanted), *missing], dtype=np.int64)
        found = set(missing)
        for low, high in conditions.intervals(column, condition):
            first, last = np.searchsorted(self.edges, (low, high), "right")
            found |= set(range(first, last + 1))
        return np.array(sorted(found), dtype=np.int64)


class Zeros:
    """The zeros of a table; see the module.

    Args:
        schema: The modelled columns.
        codes: Column -> its codes.
        pairs: Two columns, in the schema's order -> their zeros, (k, 2) codes.
    """

    def __init__(
        self,
        schema: TableSchema,
        codes: Mapping[str, _Codes],
        pairs: Mapping[tuple[str, str], NDArray[np.int64]],
    ) -> None:
        self.schema, self.codes, self.pairs = schema, dict(codes), dict(pairs)

    @classmethod
    def fit(cls, table: pd.DataFrame, schema: TableSchema) -> Self:
        """Find the zeros.

        Args:
            table: The modelled training table.
            schema: Its schema.
        """
        columns = list(schema)[: int(np.sqrt(MOST_WORK / max(len(table), 1)))]
        codes = {column.name: _Codes.fit(table[column.name], column) for column in columns}
        encoded = {c.name: codes[c.name].encode(table[c.name], c) for c in columns}
        pairs = {}
        for one, other in itertools.combinations(codes, 2):
            sizes = len(codes[one]), len(codes[other])
            both = (encoded[one] >= 0) & (encoded[other] >= 0)
            joint = encoded[one][both] * sizes[1] + encoded[other][both]
            seen = np.bincount(joint, minlength=sizes[0] * sizes[1]).reshape(sizes)
            expected = np.outer(seen.sum(1), seen.sum(0)) / max(len(table), 1)
            zeros = np.argwhere((seen == 0) & (expected >= LEAST_EXPECTED))
            if len(zeros):
                pairs[one, other] = zeros
        used = {name for pair in pairs for name in pair}
        return cls(schema, {name: codes[name] for name in codes if name in used}, pairs)

    def check(self, asked: Mapping[str, Condition]) -> None:
        """Refuse conditions on levels that no row can meet, and warn of such ones on numbers.

        Args:
            asked: Column -> canonical condition.

        Raises:
            ConditionError: If every pair of codes that meets two conditions is a zero.
        """
        for (one, other), zeros in self.pairs.items():
            if one not in asked or other not in asked:
                continue
            left = self.codes[one].allowed(self.schema[one], asked[one])
            right = self.codes[other].allowed(self.schema[other], asked[other])
            if left is None or right is None:
                continue
            found = np.isin(zeros[:, 0], left) & np.isin(zeros[:, 1], right)
            if found.sum() < len(left) * len(right):
                continue
            text = f"conditions on {one!r} and {other!r}: each is possible, but no training row "
            if self.schema[one].kind.is_discrete and self.schema[other].kind.is_discrete:
                raise ConditionError(
                    f"{text}meets both, although chance alone would give many; change or drop one"
                )
            warnings.warn(
                f"{text}is near both; what is drawn is a guess beyond the data",
                ScidiffusionWarning,
                stacklevel=5,
            )

    def to_json(self) -> dict[str, Any]:
        """The zeros as a JSON object."""
        return {
            "codes": {
                name: {"levels": own.levels.tolist(), "edges": own.edges.tolist()}
                for name, own in self.codes.items()
            },
            "pairs": [[*pair, zeros.tolist()] for pair, zeros in self.pairs.items()],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any] | None, schema: TableSchema) -> Self:
        """Read what `to_json` wrote.

        Args:
            record: The JSON object; None, of an older model, has no zeros.
            schema: The modelled columns.

        Raises:
            ModelFileError: If it is none.
        """
        if record is None:
            return cls(schema, {}, {})
        try:
            codes = {
                name: _Codes(
                    np.array(own["levels"], dtype=np.int64),
                    np.array(own["edges"], dtype=np.float64),
                )
                for name, own in record["codes"].items()
            }
            pairs = {
                (one, other): np.array(zeros, dtype=np.int64).reshape(-1, 2)
                for one, other, zeros in record["pairs"]
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelFileError(f"the zeros of a model cannot be read: {error!r:.200}") from error
        return cls(schema, codes, pairs)
