r"""A column that is never below others, modelled as its gap above them.

With p_1, p_2, ... the columns that x must not fall below, the model learns

.. math:: g = x - \max_i p_i \ge 0

in place of x, the greatest taken over those that are not missing, and x = max_i p_i + g comes
back. Rounding x to its own format never takes it below; what gives where both cannot be kept:

- x is kept within its observed range as long as max_i p_i is; where max_i p_i is above that range,
  x becomes missing, as it was in every such row of the training table;
- where every p_i is missing there is no gap, and x is learned by itself, in a second column that
  is missing everywhere else. It exists only if the training table had such rows.

Upside down (`sign` -1 on the ruler) the same holds for a column that is never above others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.errors import ConditionError
from scidiffusion.tabular import columns, conditions
from scidiffusion.tabular.conditions import Between, Condition, Equal, OneOf
from scidiffusion.tabular.inference import infer_column
from scidiffusion.tabular.rulers import Ruler
from scidiffusion.tabular.schema import ColumnKind, ColumnSchema, TableSchema
from scidiffusion.tabular.steps import Step, alone, by_itself, fresh_name

__all__ = ["Bound", "GapStep"]

_NO_FLOOR = -(2**62)


@dataclass(frozen=True)
class Bound:
    """A column that another must not fall below.

    Args:
        name: The column.
        strict: Whether equal is too low.
    """

    name: str
    strict: bool


@dataclass(frozen=True)
class GapStep(Step):
    """One column modelled as its gap above others; see the module.

    Args:
        column: Its schema in the user's table.
        bounds: The columns it must not fall below.
        others: Their schemas.
        ruler: The scale of all of them.
        low: Least observed value, on the ruler.
        high: Greatest observed value, on the ruler.
        middle: Gap for a row that may not be without one.
        typical: Value, on the ruler, for a row that may not be without one.
        gap: Schema of the gap; None where it is the same in every row.
        rest: Schema of the values where all bounds are missing; None if there were none.
    """

    column: ColumnSchema
    bounds: tuple[Bound, ...]
    others: tuple[ColumnSchema, ...]
    ruler: Ruler
    low: float
    high: float
    middle: float
    typical: float
    gap: ColumnSchema | None
    rest: ColumnSchema | None

    @classmethod
    def fit(
        cls,
        name: str,
        bounds: tuple[Bound, ...],
        sign: int,
        table: pd.DataFrame,
        schema: TableSchema,
        taken: set[str],
    ) -> Self:
        """Learn the gap's format and the column's range.

        Args:
            name: The column.
            bounds: The columns it must not fall below (with sign -1, be above).
            sign: 1, or -1.
            table: The training table, of valid rows.
            schema: Its schema.
            taken: Names that the new columns must not have; theirs are added.

        Raises:
            ConfigError: If the columns cannot be compared.
        """
        column = by_itself(table, schema[name])
        others = tuple(by_itself(table, schema[bound.name]) for bound in bounds)
        ruler = Ruler.of([column, *others], sign)
        step = cls(column, bounds, others, ruler, 0, 0, 0, 0, None, None)
        values, missing = ruler.read(table[name], column)
        floor, unbounded = step._floor(table)
        gaps = np.maximum(values - floor, 0)
        known = ~missing & ~unbounded
        gap = rest = None
        if known.any() and not (known.all() and np.ptp(gaps) == 0):
            greatest = " and ".join(bound.name for bound in bounds)
            sides = (name, greatest) if sign > 0 else (greatest, name)
            label = fresh_name(f"{sides[0]} - {sides[1]}", taken)
            gap = infer_column(_gap_series(gaps, ~known, label))
        if (~missing & unbounded).any():
            label = fresh_name(f"{name} alone", taken)
            rest = infer_column(alone(table[name], unbounded, label), column.kind)
        present = values[~missing] if len(values) > missing.sum() else np.zeros(1, values.dtype)
        found = gaps[known] if known.any() else np.zeros(1, gaps.dtype)
        typical, middle = (np.sort(some)[len(some) // 2].item() for some in (present, found))
        low, high = present.min().item(), present.max().item()
        return cls(column, bounds, others, ruler, low, high, middle, typical, gap, rest)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The bounds."""
        return tuple(bound.name for bound in self.bounds)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The column."""
        return (self.column.name,)

    @property
    def modelled(self) -> tuple[ColumnSchema, ...]:
        """The gap, and the values without one."""
        return tuple(column for column in (self.gap, self.rest) if column is not None)

    def _floor(
        self, table: Mapping[str, pd.Series] | pd.DataFrame
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """The least value allowed in every row (with no step: the greatest bound), or none."""
        floors, gone = [], []
        for bound, column in zip(self.bounds, self.others, strict=True):
            values, missing = self.ruler.read(table[bound.name], column)
            step = 1 if bound.strict and self.ruler.is_exact else 0
            floors.append(np.where(missing, _NO_FLOOR, values + step))
            gone.append(missing)
        return np.max(floors, axis=0), np.all(gone, axis=0)

    def _strict(self, table: Mapping[str, pd.Series], floor: NDArray[Any]) -> NDArray[np.bool_]:
        """Floats: where the floor itself is not allowed."""
        strict = np.zeros(len(floor), dtype=bool)
        for bound, column in zip(self.bounds, self.others, strict=True):
            if bound.strict and not self.ruler.is_exact:
                values, missing = self.ruler.read(table[bound.name], column)
                strict |= ~missing & (values == floor)
        return strict

    def forward(self, table: pd.DataFrame) -> dict[str, pd.Series]:
        """The gap, and the values without one.

        Args:
            table: Valid rows of the user's table.
        """
        values, missing = self.ruler.read(table[self.column.name], self.column)
        floor, unbounded = self._floor(table)
        new: dict[str, pd.Series] = {}
        if self.gap is not None:
            gaps = np.maximum(values - floor, 0)
            series = _gap_series(gaps, missing | unbounded, self.gap.name, self.gap.dtype)
            new[self.gap.name] = series.set_axis(table.index)
        if self.rest is not None:
            new[self.rest.name] = alone(table[self.column.name], unbounded, self.rest.name)
        return new

    def inverse(
        self, done: Mapping[str, pd.Series], modelled: pd.DataFrame
    ) -> dict[str, pd.Series]:
        """The column.

        Args:
            done: The user's columns so far, the bounds among them.
            modelled: Modelled rows.
        """
        floor, unbounded = self._floor(done)
        missing = np.zeros(len(floor), dtype=bool)
        gaps: NDArray[Any] = np.full(len(floor), self.middle).astype(floor.dtype)
        if self.gap is not None:
            series = modelled[self.gap.name]
            found, gone = Ruler(decimals=0).read(series, self.gap), series.isna().to_numpy()
            if not self.ruler.is_exact:
                found = Ruler().read(series, self.gap)
            gaps = np.where(gone, gaps, found[0])
            missing = gone & self.column.missing
        values = np.where(unbounded, 0, floor + np.maximum(gaps, 0))
        if self.rest is not None:
            other, gone = self.ruler.read(modelled[self.rest.name], self.rest)
            values = np.where(unbounded, other, values)
            missing = np.where(unbounded, gone, missing)
        else:
            missing |= unbounded
        lost = unbounded & missing & (not self.column.missing)
        values, missing = np.where(lost, self.typical, values), missing & ~lost
        values = np.clip(values, self.low, self.high).astype(floor.dtype)
        strict = self._strict(done, floor)
        series, reached = self.ruler.write(values, floor, strict, missing, self.column)
        beyond = ~missing & (reached > self.high)
        if self.column.missing and beyond.any():
            series, _ = self.ruler.write(values, floor, strict, missing | beyond, self.column)
        return {self.column.name: series.set_axis(modelled.index)}

    # -------------------------------------------------------------- conditions

    def condition(
        self, asked: Mapping[str, Condition], known: dict[str, Any]
    ) -> dict[str, Condition]:
        """Conditions on the gap that mean those on the column.

        Args:
            asked: Column of the user's table -> canonical condition.
            known: Column -> the one value it has in every row, None for missing.

        Raises:
            ConditionError: If the bounds are not known, or so close or so far apart were no two
                values seen.
        """
        name = self.column.name
        wanted = asked.get(name)
        if wanted is None:
            return {}
        if wanted == Equal(None) and self.gap is not None and self.gap.missing:
            return {column.name: Equal(None) for column in self.modelled}
        if not all(bound.name in known for bound in self.bounds):
            raise ConditionError(self._needs_bounds(known))
        row = {
            bound.name: _one_value(known[bound.name], column)
            for bound, column in zip(self.bounds, self.others, strict=True)
        }
        floor, unbounded = self._floor(row)
        if unbounded[0]:
            if self.rest is None:
                raise ConditionError(
                    f"condition on {name!r}: it was missing in every training row in which "
                    f"{self._names()} is; condition on fewer columns"
                )
            return conditions.parse(TableSchema((self.rest,)), {self.rest.name: wanted})
        spans = conditions.intervals(self.column, wanted)
        numbers = self.ruler.read_numbers(spans.ravel(), self.column).reshape(spans.shape)
        # Backwards, the low end of a range is its high one.
        gaps = np.sort(numbers, axis=1) - floor[0]
        points = gaps[gaps[:, 1] >= 0]
        points[:, 0] = np.maximum(points[:, 0], 0)
        return self._on_gap(points, wanted)

    def _on_gap(self, points: NDArray[Any], wanted: Condition) -> dict[str, Condition]:
        missing = conditions.allows_missing(wanted)
        name = self.column.name
        if self.gap is None:
            if ((points[:, 0] <= self.middle) & (points[:, 1] >= self.middle)).any():
                return {}
            raise ConditionError(
                f"condition on {name!r}: its distance from {self._names()} was the same in every "
                "training row, and is another one under these conditions; change one of them"
            )
        first, last = self.gap.minimum, self.gap.maximum
        assert first is not None
        assert last is not None
        points = points[(points[:, 1] >= first) & (points[:, 0] <= last)]
        if len(points) == 0 and not missing:
            raise ConditionError(
                f"condition on {name!r}: no training row has it as close to {self._names()}, or "
                "as far from it, as under these conditions; change one of them"
            )
        lows, highs = np.clip(points, first, last).T.tolist()
        if isinstance(wanted, Between):
            condition: Condition = Between(lows[0], highs[0])
        else:
            condition = OneOf((*lows, *([None] * missing)))
        return conditions.parse(TableSchema((self.gap,)), {self.gap.name: condition})

    def _names(self) -> str:
        return " and ".join(repr(bound.name) for bound in self.bounds)

    def _needs_bounds(self, known: Mapping[str, Any]) -> str:
        absent = [repr(bound.name) for bound in self.bounds if bound.name not in known]
        name = self.column.name
        sides = ("low", "high") if self.ruler.sign > 0 else ("high", "low")
        text = (
            f"condition on {name!r}: a constraint models it as its distance from {self._names()}, "
            f"so give one value of {' and '.join(absent)} too"
        )
        if len(self.bounds) == 1:
            text += (
                f"; or fit with keep={sides[1]!r} in the inequality of {self._names()} and "
                f"{name!r}, which models {name!r} itself"
            )
        return text

    # -------------------------------------------------------------- persistence

    def to_json(self) -> dict[str, Any]:
        """The step as a JSON object."""
        return {
            "step": "gap",
            "column": self.column.to_dict(),
            "bounds": [[bound.name, bound.strict] for bound in self.bounds],
            "others": [column.to_dict() for column in self.others],
            "sign": self.ruler.sign,
            "range": [self.low, self.high],
            "typical": [self.middle, self.typical],
            "gap": None if self.gap is None else self.gap.to_dict(),
            "rest": None if self.rest is None else self.rest.to_dict(),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote.

        Args:
            record: The JSON object.
        """
        column = ColumnSchema.from_dict(record["column"])
        others = tuple(ColumnSchema.from_dict(other) for other in record["others"])
        gap, rest = (
            None if record[key] is None else ColumnSchema.from_dict(record[key])
            for key in ("gap", "rest")
        )
        low, high = record["range"]
        middle, typical = record["typical"]
        bounds = tuple(Bound(str(name), bool(strict)) for name, strict in record["bounds"])
        ruler = Ruler.of([column, *others], int(record["sign"]))
        return cls(column, bounds, others, ruler, low, high, middle, typical, gap, rest)


def _gap_series(
    gaps: NDArray[Any], missing: NDArray[np.bool_], name: str, dtype: str | None = None
) -> pd.Series:
    if gaps.dtype.kind == "f":
        return pd.Series(np.where(missing, np.nan, gaps), name=name)
    if missing.any() or dtype == "Int64":
        return pd.Series(pd.arrays.IntegerArray(gaps, missing), name=name)
    return pd.Series(gaps, name=name)


def _one_value(value: Any, column: ColumnSchema) -> pd.Series:
    """A column of one canonical value."""
    if column.kind is ColumnKind.NUMERICAL and isinstance(column.minimum, int):
        dtype = "Int64"
        return pd.Series([pd.NA if value is None else int(value)], dtype=dtype)
    number = columns.number_from_value(value, column)
    return columns.series_from_numbers(np.array([number]), column)
