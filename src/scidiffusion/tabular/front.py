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
from numpy.typing import NDArray

from scidiffusion.errors import ConditionError, DataError, ModelFileError
from scidiffusion.tabular.columns import (
    number_from_value,
    series_from_codes,
    series_from_numbers,
)
from scidiffusion.tabular.conditions import Condition
from scidiffusion.tabular.constraints import Constraint, ConstraintSet, Unique
from scidiffusion.tabular.identifiers import IdentifierGenerator
from scidiffusion.tabular.reading import overlay
from scidiffusion.tabular.reconcile import modelled_gaps, reconcile
from scidiffusion.tabular.schema import ColumnSchema, TableSchema, unknown_column
from scidiffusion.tabular.zeros import Zeros

__all__ = ["TableFront"]


class TableFront:
    """See the module.

    Args:
        rules: The fitted constraints.
        identifiers: Makers of the columns that are made up.
        zeros: Values of modelled columns that never occur together.

    Attributes:
        schema: The user's table.
        model_schema: The modelled columns.
    """

    def __init__(
        self,
        rules: ConstraintSet,
        identifiers: Mapping[str, IdentifierGenerator],
        zeros: Zeros | None = None,
    ) -> None:
        self.rules, self.identifiers = rules, dict(identifiers)
        self.schema = rules.schema_
        self.model_schema = rules.modelled_schema_.modelled
        self.zeros = zeros or Zeros(self.model_schema, {}, {})

    @classmethod
    def fit(
        cls,
        table: pd.DataFrame,
        schema: TableSchema,
        constraints: Sequence[Constraint] | None,
        *,
        seed: int,
    ) -> tuple[Self, pd.DataFrame]:
        """Learn what is not modelled.

        Args:
            table: The training table.
            schema: Its schema.
            constraints: Rules that rows keep.
            seed: Seed of the identifiers.

        Returns:
            The front, and the modelled table: without the rows that break a constraint, which a
            warning counts; its index is the rows' position in `table`.
        """
        rules = ConstraintSet(constraints or ()).fit(table, schema)
        makers = {
            column.name: IdentifierGenerator.fit(table[column.name], column, seed=seed)
            for column in rules.schema_.identifiers
        }
        schema = rules.modelled_schema_.modelled
        modelled = rules.forward(table.reset_index(drop=True))[schema.names]
        return cls(rules, makers, Zeros.fit(modelled, schema)), modelled

    def modelled(self, table: pd.DataFrame, *, gaps: bool = False) -> pd.DataFrame:
        """Return the modelled columns of a table.

        Args:
            table: Rows of the user's columns that break no constraint, except that keys may
                repeat.
            gaps: Any value may be missing and any row may break a constraint: what stands for the
                columns of a broken one is then missing.

        Raises:
            DataError: if the table is none, or its columns are not those of training; identifiers
                may be left out.
        """
        self._check(table, [name for name in self.schema.names if name not in self.identifiers])
        table, names = table.reset_index(drop=True), self.model_schema.names
        made = modelled_gaps(self.rules, table) if gaps else self.rules.transform(table)
        return made[names]

    def reconciled(
        self, rows: pd.DataFrame, table: pd.DataFrame, *, last: bool, seed: int
    ) -> pd.DataFrame:
        """Modelled rows that agree with what is known of columns that a constraint derives.

        Args:
            rows: Drawn rows.
            table: The same rows of the user's table, with gaps.
            last: Whether this is the last round; see :mod:`scidiffusion.tabular.reconcile`.
            seed: Seed of choices in the last round.
        """
        return reconcile(self.rules, rows, table, last=last, seed=seed) if self.rules else rows

    @property
    def has_unique(self) -> bool:
        """Whether rows must have different keys."""
        return bool(self.unique_columns)

    @property
    def unique_columns(self) -> list[str]:
        """The columns of the unique keys."""
        keys = [rule.columns for rule in self.rules.constraints if isinstance(rule, Unique)]
        return list(dict.fromkeys(name for columns in keys for name in columns))

    def duplicates(self, table: pd.DataFrame) -> NDArray[np.bool_]:
        """Which rows have a key that an earlier row has."""
        return self.rules.duplicates(table)

    def check_count(self, n: int, given: Mapping[str, Condition]) -> None:
        """Raise ConfigError if there are fewer unique keys under conditions than rows."""
        self.rules.check_count(n, given)

    def violations(self, table: pd.DataFrame) -> NDArray[np.bool_]:
        """Which rows break a constraint other than a unique key.

        Raises:
            DataError: if the table is none, or its columns are not those of training; identifiers
                may be left out.
        """
        self._check(table, [name for name in self.schema.names if name not in self.identifiers])
        if not len(self.rules):
            return np.zeros(len(table), dtype=bool)
        found = self.rules.check(table)
        unique = [str(rule) for rule in self.rules.constraints if isinstance(rule, Unique)]
        return np.asarray(found.drop(columns=unique).to_numpy(bool).any(axis=1), dtype=bool)

    def complete_columns(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return a table with the columns that it lacks, all missing.

        Raises:
            DataError: if it has an unknown column, or one twice.
        """
        self._check(table, ())
        return table.reindex(columns=self.schema.names)

    def check_balance(self, balance: Any) -> None:
        """Raise ConditionError if rows shall be balanced by a column that is not drawn itself."""
        names = balance if isinstance(balance, Mapping) else (balance,)
        for name in filter(lambda name: isinstance(name, str), names):
            if name in self.identifiers:
                raise ConditionError(
                    f"balance: column {name!r} is an identifier, whose values are made up for "
                    "every row; balance another column"
                )
            if name in self.rules.derived:
                raise ConditionError(
                    f"balance: column {name!r} follows from a constraint and is not drawn itself; "
                    f"sample each of its values with conditions={{{name!r}: ...}} instead"
                )

    def conditions(self, asked: Mapping[str, Any] | None) -> dict[str, Condition]:
        """Check conditions on the user's columns and translate them to the modelled ones.

        Raises:
            ConditionError: if one is impossible, or contradicts another or a constraint.
        """
        given = self.rules.conditions(asked)
        self.zeros.check(given)
        return given

    def given(self, fixed: Mapping[str, Any], n: int) -> pd.DataFrame:
        """Return n rows of modelled columns that have one canonical value each."""
        columns = {name: _constant(self.model_schema[name], fixed[name], n) for name in fixed}
        return pd.DataFrame(columns, index=range(n))

    def with_identifiers_of(self, table: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
        """Return `table` with the made-up columns of `other`."""
        return table.assign(**{name: other[name] for name in self.identifiers})

    def finish(
        self, rows: pd.DataFrame, seed: int, *, start: int = 0, present: bool = False
    ) -> pd.DataFrame:
        """Turn modelled rows into rows of the user's table.

        Args:
            rows: Modelled rows.
            seed: Seed of the identifiers.
            start: Number of the first row in the whole sample.
            present: Make no identifier missing.
        """
        table = self.rules.inverse(rows)
        columns = {str(name): table[name] for name in table}
        for name, maker in self.identifiers.items():
            numbers = np.arange(start, start + len(rows))
            columns[name] = maker.generate(numbers, seed=seed, present=present)
        return pd.DataFrame({name: columns[name] for name in self.schema.names})

    def keep_known(self, table: pd.DataFrame, filled: pd.DataFrame) -> pd.DataFrame:
        """Return `filled` with every value that `table` has, and its index."""
        columns = {
            name: overlay(
                filled[name], table[name].notna().to_numpy(), table[name].reset_index(drop=True)
            )
            for name in self.schema.names
        }
        for name in self.identifiers:
            if isinstance(columns[name].dtype, pd.CategoricalDtype):
                columns[name] = columns[name].cat.remove_unused_categories()
        return pd.DataFrame(columns).set_axis(table.index, axis=0)

    def to_json(self) -> dict[str, Any]:
        """The front as a JSON object."""
        makers = {name: maker.to_json() for name, maker in self.identifiers.items()}
        return {
            "constraints": self.rules.to_json(),
            "identifiers": makers,
            "zeros": self.zeros.to_json(),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ModelFileError: if it is none.
        """
        try:
            rules, makers = record["constraints"], dict(record["identifiers"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(
                f"the columns of the saved model cannot be read: {error}"
            ) from error
        identifiers = {
            name: IdentifierGenerator.from_json(maker) for name, maker in makers.items()
        }
        fitted = ConstraintSet.from_json(rules)
        zeros = Zeros.from_json(record.get("zeros"), fitted.modelled_schema_.modelled)
        return cls(fitted, identifiers, zeros)

    def _check(self, table: Any, needed: Sequence[str]) -> None:
        if not isinstance(table, pd.DataFrame):
            raise DataError(f"a table must be a pandas DataFrame, not {type(table).__name__}")
        for name in needed:
            if name not in table.columns:
                raise DataError(f"the table lacks the column {name!r}")
        for name in table.columns:
            if name not in self.schema:
                raise DataError(
                    f"the table has an unknown column; {unknown_column(name, self.schema.names)}"
                )
        if not table.columns.is_unique:
            twice = table.columns[table.columns.duplicated()][0]
            raise DataError(f"column {twice!r} occurs more than once; rename or drop one")


def _constant(column: ColumnSchema, value: Any, n: int) -> pd.Series:
    """A column with one canonical value in every row."""
    if column.kind.is_discrete:
        code = -1 if value is None else column.categories.index(value)
        return series_from_codes(np.full(n, code), column)
    number = np.nan if value is None else number_from_value(value, column)
    return series_from_numbers(np.full(n, number), column)
