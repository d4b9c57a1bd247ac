"""Columns of which only some combinations occur, modelled as one column of combinations.

A city lies in one country. Learned column by column, a model will sooner or later move it; learned
as one categorical column whose levels are the combinations seen, it cannot. Combinations are
numbered in lexical order, whatever the order of the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.errors import ConditionError, ConfigError
from scidiffusion.tabular import conditions
from scidiffusion.tabular.columns import (
    codes_from_series,
    look_up,
    numbers_from_series,
    round_numbers,
    series_from_codes,
    series_from_numbers,
)
from scidiffusion.tabular.conditions import Condition, Equal, OneOf
from scidiffusion.tabular.schema import ColumnKind, ColumnSchema, TableSchema
from scidiffusion.tabular.steps import Step, fresh_name
from scidiffusion.tabular.values import value_from_number

__all__ = ["CombinationStep"]

_UNSEEN = -2


@dataclass(frozen=True, eq=False)
class CombinationStep(Step):
    """Some columns modelled as one; see the module.

    Args:
        columns: Their schemas in the user's table.
        numbers: For each column its distinct numbers, ascending; empty for levels.
        places: The combinations, shape (k, number of columns), in lexical order: index into a
            column's numbers or categories, -1 for missing.
        name: Name of the modelled column.
    """

    columns: tuple[ColumnSchema, ...]
    numbers: tuple[NDArray[np.float64], ...]
    places: NDArray[np.int64]
    name: str

    @classmethod
    def fit(
        cls, names: Sequence[str], table: pd.DataFrame, schema: TableSchema, taken: set[str]
    ) -> Self:
        """Learn the combinations.

        Args:
            names: The columns.
            table: The training table.
            schema: Its schema.
            taken: Names that the new column must not have; its own is added.

        Raises:
            ConfigError: If a column is an identifier.
        """
        columns = tuple(schema[name] for name in names)
        for column in columns:
            if not column.kind.is_modelled:
                raise ConfigError(
                    f"column {column.name!r} is an identifier, made up for every row, and cannot "
                    "be part of fixed combinations; override its kind, or leave it out"
                )
        numbers, places = [], []
        for column in columns:
            if column.kind.is_discrete:
                numbers.append(np.empty(0))
                places.append(codes_from_series(table[column.name], column))
                continue
            values = round_numbers(numbers_from_series(table[column.name], column), column)
            numbers.append(np.unique(values[~np.isnan(values)]))
            places.append(_place(values, numbers[-1]))
        rows = np.stack(places, axis=1)
        _, first = np.unique(_keys(rows), return_index=True)
        name = fresh_name(" & ".join(names), taken)
        return cls(columns, tuple(numbers), rows[first], name)

    @property
    def inputs(self) -> tuple[str, ...]:
        """None."""
        return ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """The columns."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def modelled(self) -> tuple[ColumnSchema, ...]:
        """The column of combinations; none where there is only one."""
        if len(self.places) == 1:
            return ()
        levels = tuple(range(len(self.places)))
        column = ColumnSchema(
            name=self.name, kind=ColumnKind.CATEGORICAL, dtype="int64", categories=levels
        )
        return (column,)

    def codes(self, table: pd.DataFrame) -> NDArray[np.int64]:
        """Which combination every row has, -1 if none that was seen.

        Args:
            table: Rows of the user's table.
        """
        keys = _keys(np.concatenate([self.places, self.places_of(table)]))
        seen, mine = keys[: len(self.places)], keys[len(self.places) :]
        order = np.argsort(seen)
        index = np.minimum(np.searchsorted(seen[order], mine), len(seen) - 1)
        return np.where(seen[order][index] == mine, order[index], -1)

    def places_of(self, table: pd.DataFrame) -> NDArray[np.int64]:
        """The rows in the form of `places`, -2 where a value was never seen.

        Args:
            table: Rows of the user's table.
        """
        places = []
        for column, numbers in zip(self.columns, self.numbers, strict=True):
            series = table[column.name]
            if not column.kind.is_discrete:
                values = round_numbers(numbers_from_series(series, column), column)
                places.append(_place(values, numbers))
                continue
            found = look_up(series.astype(object), column)
            unseen = (found < 0) & series.notna().to_numpy()
            places.append(np.where(unseen, _UNSEEN, found))
        return np.stack(places, axis=1)

    def forward(self, table: pd.DataFrame) -> dict[str, pd.Series]:
        """The column of combinations.

        Args:
            table: Valid rows of the user's table.
        """
        if not self.modelled:
            return {}
        return {self.name: pd.Series(self.codes(table), index=table.index, name=self.name)}

    def inverse(
        self, done: Mapping[str, pd.Series], modelled: pd.DataFrame
    ) -> dict[str, pd.Series]:
        """The columns.

        Args:
            done: Not needed.
            modelled: Modelled rows.
        """
        codes = np.zeros(len(modelled), dtype=np.int64)
        if self.modelled:
            codes = modelled[self.name].to_numpy(np.int64)
        made = {}
        for index, (column, numbers) in enumerate(zip(self.columns, self.numbers, strict=True)):
            places = self.places[codes, index]
            if column.kind.is_discrete:
                series = series_from_codes(places, column)
            else:
                series = series_from_numbers(np.append(numbers, np.nan)[places], column)
            made[column.name] = series.set_axis(modelled.index)
        return made

    def condition(
        self, asked: Mapping[str, Condition], known: dict[str, Any]
    ) -> dict[str, Condition]:
        """The combinations that meet the conditions on the columns.

        Args:
            asked: Column of the user's table -> canonical condition.
            known: Column -> the one value it has in every row, None for missing; columns that have
                one value in all combinations left are added.

        Raises:
            ConditionError: If no combination seen meets them.
        """
        wanted = [column.name for column in self.columns if column.name in asked]
        if not wanted:
            return {}
        met = np.ones(len(self.places), dtype=bool)
        for index, (column, numbers) in enumerate(zip(self.columns, self.numbers, strict=True)):
            if column.name not in asked:
                continue
            condition, places = asked[column.name], self.places[:, index]
            if column.kind.is_discrete:
                met &= np.isin(places, conditions.codes(column, condition))
                continue
            spans = conditions.intervals(column, condition)
            slack = 4 * np.spacing(np.abs(numbers))
            inside = np.zeros(len(numbers) + 1, dtype=bool)
            for low, high in spans:
                inside[:-1] |= (numbers >= low - slack) & (numbers <= high + slack)
            inside[-1] = conditions.allows_missing(condition)
            met &= inside[places]
        codes = np.flatnonzero(met)
        if len(codes) == 0:
            raise ConditionError(
                f"conditions on {', '.join(map(repr, wanted))}: no combination of "
                f"{', '.join(repr(column.name) for column in self.columns)} seen in training "
                "meets them; change one"
            )
        for index, column in enumerate(self.columns):
            left = np.unique(self.places[codes, index])
            if len(left) == 1:
                known[column.name] = self._value(int(left[0]), index)
        if not self.modelled or len(codes) == len(self.places):
            return {}
        values = tuple(codes.tolist())
        return {self.name: Equal(values[0]) if len(values) == 1 else OneOf(values)}

    def _value(self, place: int, index: int) -> Any:
        column = self.columns[index]
        if place < 0:
            return None
        if column.kind.is_discrete:
            return column.categories[place]
        return value_from_number(float(self.numbers[index][place]), column)

    def to_json(self) -> dict[str, Any]:
        """The step as a JSON object."""
        return {
            "step": "combinations",
            "columns": [column.to_dict() for column in self.columns],
            "numbers": [numbers.tolist() for numbers in self.numbers],
            "places": self.places.T.tolist(),
            "name": self.name,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote.

        Args:
            record: The JSON object.
        """
        return cls(
            tuple(ColumnSchema.from_dict(column) for column in record["columns"]),
            tuple(np.array(numbers, dtype=np.float64) for numbers in record["numbers"]),
            np.array(record["places"], dtype=np.int64).T,
            str(record["name"]),
        )


def _place(values: NDArray[np.float64], numbers: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index of values among distinct numbers, -1 if missing, -2 if not among them."""
    if len(numbers) == 0:
        return np.where(np.isnan(values), -1, _UNSEEN)
    index = np.minimum(np.searchsorted(numbers, values), len(numbers) - 1)
    return np.where(np.isnan(values), -1, np.where(numbers[index] == values, index, _UNSEEN))


def _keys(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for every row, equal for equal rows and in their lexical order."""
    keys = np.zeros(len(rows), dtype=np.int64)
    for place in rows.T:
        radix = int(place.max(initial=0)) - _UNSEEN + 1
        if (int(keys.max(initial=0)) + 1) * radix >= 2**62:
            keys = np.unique(keys, return_inverse=True)[1].astype(np.int64)
        keys = keys * radix + (place - _UNSEEN)
    return keys
