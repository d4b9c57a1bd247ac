"""Between the user's table and the modelled one.

    user's table --modelled--> modelled table --(codec, model)--> modelled rows --finish--> user's

Constraints are a change of columns that makes them hold by construction; identifiers are left out
and made up anew. Every method gets both for free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd

from scidiffusion.errors import ConditionError, DataError, ModelFileError, SchemaError
from scidiffusion.tabular.columns import (
    number_from_value,
    series_from_codes,
    series_from_numbers,
)
from scidiffusion.tabular.conditions import Condition
from scidiffusion.tabular.identifiers import IdentifierGenerator
from scidiffusion.tabular.schema import ColumnSchema, TableSchema, unknown_column

__all__ = ["TableFront"]


class TableFront:
    """See the module.

    Args:
        schema: The user's table.
        model_schema: The modelled columns.
        identifiers: Makers of the columns that are made up.

    Attributes:
        schema, model_schema: As given.
    """

    def __init__(
        self,
        schema: TableSchema,
        model_schema: TableSchema,
        identifiers: Mapping[str, IdentifierGenerator],
    ) -> None:
        self.schema, self.model_schema = schema, model_schema
        self.identifiers = dict(identifiers)

    @classmethod
    def fit(
        cls,
        table: pd.DataFrame,
        schema: TableSchema,
        constraints: Sequence[Any] | None,
        *,
        kinds: Mapping[str, str],
        seed: int,
    ) -> Self:
        """Learn what is not modelled.

        Args:
            table: The training table.
            schema: Its schema.
            constraints: Rules that rows keep.
            kinds: Overrides of the columns' kinds.
            seed: Seed of the identifiers.
        """
        makers = {
            column.name: IdentifierGenerator.fit(table[column.name], column, seed=seed)
            for column in schema.identifiers
        }
        return cls(schema, schema.modelled, makers)

    def modelled(self, table: pd.DataFrame, *, gaps: bool = False) -> pd.DataFrame:
        """Return the modelled columns of a table; with `gaps`, any value may be missing.

        Raises:
            DataError: if the table is none, or lacks a column.
        """
        self._check(table)
        return table[self.model_schema.names].reset_index(drop=True)

    def complete_columns(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return a table with the columns that it lacks, all missing.

        Raises:
            DataError: if it has an unknown column.
        """
        if not isinstance(table, pd.DataFrame):
            raise DataError(f"a table must be a pandas DataFrame, not {type(table).__name__}")
        for name in table.columns:
            if name not in self.schema:
                raise DataError(unknown_column(name, self.schema.names))
        return table.reindex(columns=self.schema.names)

    def conditions(self, asked: Mapping[str, Condition]) -> dict[str, Condition]:
        """Translate conditions on the user's columns to the modelled ones.

        Raises:
            ConditionError: if one cannot be.
        """
        for name in asked:
            if name in self.identifiers:
                raise ConditionError(
                    f"condition on {name!r}: identifiers are made up, not drawn; set the column "
                    "after sampling"
                )
        return dict(asked)

    def given(self, fixed: Mapping[str, Any], n: int) -> pd.DataFrame:
        """Return n rows of modelled columns that have one canonical value each."""
        columns = {name: _constant(self.model_schema[name], fixed[name], n) for name in fixed}
        return pd.DataFrame(columns, index=range(n))

    def finish(self, rows: pd.DataFrame, seed: int) -> pd.DataFrame:
        """Turn modelled rows into rows of the user's table."""
        columns = {name: rows[name] for name in self.model_schema.names}
        for name, maker in self.identifiers.items():
            columns[name] = maker.generate(np.arange(len(rows)), seed=seed)
        return pd.DataFrame({name: columns[name] for name in self.schema.names})

    def keep_known(self, table: pd.DataFrame, filled: pd.DataFrame) -> pd.DataFrame:
        """Return `filled` with every value that `table` has, and its index."""
        result = filled.set_axis(table.index, axis=0)
        for name in self.schema.names:
            known = table[name].notna().to_numpy()
            result[name] = result[name].where(~known, table[name])
        return result

    def to_json(self) -> dict[str, Any]:
        """The front as a JSON object."""
        return {
            "schema": self.schema.to_dict(),
            "model_schema": self.model_schema.to_dict(),
            "identifiers": {name: m.to_json() for name, m in self.identifiers.items()},
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ModelFileError: if it is none.
        """
        try:
            return cls(
                TableSchema.from_dict(record["schema"]),
                TableSchema.from_dict(record["model_schema"]),
                {
                    name: IdentifierGenerator.from_json(maker)
                    for name, maker in record["identifiers"].items()
                },
            )
        except (KeyError, TypeError, AttributeError, SchemaError) as error:
            raise ModelFileError(
                f"the columns of the saved model cannot be read: {error}"
            ) from error

    def _check(self, table: Any) -> None:
        if not isinstance(table, pd.DataFrame):
            raise DataError(f"a table must be a pandas DataFrame, not {type(table).__name__}")
        for name in self.schema.names:
            if name not in table.columns:
                raise DataError(f"the table lacks the column {name!r}")
        for name in table.columns:
            if name not in self.schema:
                raise DataError(f"the table has an unknown column; {unknown_column(name, self.schema.names)}")


def _constant(column: ColumnSchema, value: Any, n: int) -> pd.Series:
    """A column with one canonical value in every row."""
    if column.kind.is_discrete:
        code = -1 if value is None else column.categories.index(value)
        return series_from_codes(np.full(n, code), column)
    number = np.nan if value is None else number_from_value(value, column)
    return series_from_numbers(np.full(n, number), column)
