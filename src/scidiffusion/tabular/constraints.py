"""Constraints on a table, between the user's rows and those that are modelled.

.. code-block:: text

    user's table --forward--> modelled table --model--> modelled rows --inverse--> user's rows

Nothing is rejected and nothing repaired: what breaks a constraint has no counterpart among the
modelled rows. An inequality is modelled as a column and a gap of at least zero
(:mod:`scidiffusion.tabular.gaps`), fixed combinations as one categorical column
(:mod:`scidiffusion.tabular.combinations`), a formula not at all
(:mod:`scidiffusion.tabular.computed`). A unique key alone is a matter of several rows: whoever
samples asks for `duplicates` and draws these again.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.errors import (
    ConditionError,
    ConfigError,
    DataError,
    ModelFileError,
    ScidiffusionWarning,
)
from scidiffusion.persistence import check_version
from scidiffusion.tabular import checks, conditions
from scidiffusion.tabular.assembly import fit_steps, modelled_schema, step_from_json
from scidiffusion.tabular.combinations import CombinationStep
from scidiffusion.tabular.computed import FormulaStep
from scidiffusion.tabular.conditions import Condition, Equal
from scidiffusion.tabular.inference import infer_column
from scidiffusion.tabular.rulers import Ruler
from scidiffusion.tabular.rules import (
    Constraint,
    FixedCombinations,
    Formula,
    Inequality,
    Unique,
    plan,
    rule_from_json,
    rule_to_json,
)
from scidiffusion.tabular.schema import ColumnSchema, TableSchema, unknown_column
from scidiffusion.tabular.steps import Step, by_itself

__all__ = [
    "Constraint",
    "ConstraintSet",
    "FixedCombinations",
    "Formula",
    "Inequality",
    "Unique",
]

VERSION = 1


class ConstraintSet:
    """Some constraints, and what they make of one table.

    Args:
        constraints: `Inequality`, `FixedCombinations`, `Formula` and `Unique`, in any order; none
            changes nothing.

    Attributes:
        constraints: The constraints, without repetition.
        schema_: Schema of the user's table, of its valid rows.
        modelled_schema_: Schema of the modelled table. Identifiers pass through.

    Raises:
        ConfigError: If one is no constraint, or they contradict each other.

    Example:
        >>> from scidiffusion.tabular.inference import infer_schema
        >>> table = pd.DataFrame({"low": [1, 2, 3], "high": [5, 2, 9]})
        >>> rules = ConstraintSet([Inequality("low", "high")]).fit(table, infer_schema(table))
        >>> rules.forward(table)
           low  high - low
        0    1           4
        1    2           0
        2    3           6
        >>> rules.inverse(rules.forward(table)).equals(table)
        True
    """

    schema_: TableSchema
    modelled_schema_: TableSchema

    def __init__(self, constraints: Iterable[Constraint] = ()) -> None:
        if isinstance(constraints, Inequality | FixedCombinations | Formula | Unique):
            constraints = (constraints,)
        if not isinstance(constraints, Iterable):
            raise ConfigError(f"constraints must be a list of rules, got {constraints!r:.60}")
        rules = tuple(dict.fromkeys(constraints))
        for rule in rules:
            if not isinstance(rule, Inequality | FixedCombinations | Formula | Unique):
                raise ConfigError(
                    "constraints are Inequality, FixedCombinations, Formula or Unique, got "
                    f"{rule!r:.60}"
                )
        self.constraints: tuple[Constraint, ...] = rules
        self._plan = plan(rules)
        self._steps: tuple[Step, ...] = ()
        self._compared: dict[str, ColumnSchema] = {}

    def __len__(self) -> int:
        return len(self.constraints)

    def __repr__(self) -> str:
        return f"ConstraintSet([{', '.join(map(str, self.constraints))}])"

    @property
    def derived(self) -> frozenset[str]:
        """The columns of the user's table that the modelled table does not have."""
        return frozenset(name for step in self._steps for name in step.outputs)

    @property
    def steps(self) -> tuple[Step, ...]:
        """How columns are changed, in the order of `inverse`."""
        return self._steps

    # ------------------------------------------------------------------ fitting

    def fit(self, table: pd.DataFrame, schema: TableSchema) -> Self:
        """Learn what the constraints need of a table.

        Args:
            table: The training table. Rows that violate a constraint are left out.
            schema: Its schema.

        Returns:
            The set itself.

        Raises:
            ConfigError: If a constraint names a column that the table does not have, or one that
                it cannot speak of.
            DataError: If no row is valid, or too few are to learn a column from.
        """
        for rule in self.constraints:
            for name in rule.names:
                if name not in schema:
                    raise ConfigError(f"constraint '{rule}': {unknown_column(name, schema.names)}")
        self.schema_, self._steps = schema, ()
        self._compared = self._comparable(table, schema)
        kept, valid = schema, table
        bad, _ = self._bad_rows(table)
        if bad.any():
            valid = table[~bad]
            kept = TableSchema(tuple(_inferred(valid[c.name], c) for c in schema))
            self._compared = self._comparable(valid, kept)
        self.schema_ = kept
        self._steps = fit_steps(self._plan, valid, kept)
        self.modelled_schema_ = modelled_schema(self.schema_, self._steps)
        return self

    def _comparable(self, table: pd.DataFrame, schema: TableSchema) -> dict[str, ColumnSchema]:
        """The schemas of the columns that are compared or computed: as numbers, not as levels."""
        found: dict[str, ColumnSchema] = {}
        for rule in self.constraints:
            if isinstance(rule, Inequality):
                found |= {name: by_itself(table, schema[name]) for name in rule.names}
                Ruler.of([found[name] for name in rule.names])
            elif isinstance(rule, Formula):
                step = FormulaStep.fit(rule.column, rule.parsed, table, schema, set(schema.names))
                found[rule.column] = step.column
        return found

    # ---------------------------------------------------------- there and back

    def forward(self, table: pd.DataFrame) -> pd.DataFrame:
        """The modelled table.

        Args:
            table: Rows of the user's table, identifiers or not. Those that violate a constraint
                are left out, with a warning that counts them.

        Returns:
            The valid rows, with their index; columns of `modelled_schema_`.

        Raises:
            DataError: If no row is valid.
        """
        self._check_fitted()
        if not self.constraints:
            return table
        bad, listed = self._bad_rows(table)
        if bad.any():
            warnings.warn(
                f"{int(bad.sum())} of {len(table)} rows violate a constraint and are left out: "
                f"{listed}",
                ScidiffusionWarning,
                stacklevel=2,
            )
            table = table[~bad]
        return self.transform(table)

    def transform(self, table: pd.DataFrame) -> pd.DataFrame:
        """The modelled columns of rows that keep the constraints.

        Args:
            table: Rows of the user's table; keys may repeat.

        Returns:
            All of them, with their index; columns of `modelled_schema_`.
        """
        made: dict[str, pd.Series] = {}
        for step in self._steps:
            made |= step.forward(table)
        names = [name for name in self.modelled_schema_.names if name in made or name in table]
        return pd.DataFrame(
            {name: made[name] if name in made else table[name] for name in names},
            columns=names,
            index=table.index,
        )

    def inverse(self, modelled: pd.DataFrame) -> pd.DataFrame:
        """The user's table.

        Args:
            modelled: Rows of the modelled table, in the formats of `modelled_schema_`.
                Identifiers may be among them or not.

        Returns:
            The rows, with their index and in the user's order of columns. They satisfy every
            constraint but `Unique`.
        """
        self._check_fitted()
        if not self.constraints:
            return modelled
        derived = self.derived
        done: dict[str, pd.Series] = {
            name: modelled[name]
            for name in self.schema_.names
            if name not in derived and name in modelled
        }
        for step in self._steps:
            done |= step.inverse(done, modelled)
        names = [name for name in self.schema_.names if name in done]
        return pd.DataFrame({name: done[name] for name in names}, index=modelled.index)

    # ----------------------------------------------------------------- checking

    def check(self, table: pd.DataFrame) -> pd.DataFrame:
        """Which rows violate which constraint.

        Args:
            table: Rows of the user's table.

        Returns:
            Booleans, one column a constraint, named as it is printed; True where it is violated.
            A comparison with a missing value is not. Of rows with the same unique key all but the
            first violate it.
        """
        self._check_fitted()
        found = {}
        for rule in self.constraints:
            names = [name for name in rule.names if name not in table]
            # The identifiers of a table may still be to come.
            bad = np.zeros(len(table), dtype=bool) if names else self._violations(rule, table)
            found[str(rule)] = bad
        return pd.DataFrame(found, index=table.index, dtype=bool)

    def _bad_rows(self, table: pd.DataFrame) -> tuple[NDArray[np.bool_], str]:
        """Rows that violate a constraint, and how many violate which; not all of them."""
        counts = self.check(table)
        bad = np.logical_or.reduce(counts.to_numpy(bool), axis=1)
        found = ((name, int(column.sum())) for name, column in counts.items())
        listed = ", ".join(f"'{name}' by {count}" for name, count in found if count)
        if bad.any() and bad.all():
            raise DataError(f"every row of the table violates a constraint ({listed}); check them")
        return bad, listed

    def _violations(self, rule: Constraint, table: pd.DataFrame) -> NDArray[np.bool_]:
        if isinstance(rule, Unique):
            return checks.repeated(table, rule)
        if isinstance(rule, Inequality):
            return checks.breaks_order(table, rule, self._compared)
        if isinstance(rule, Formula):
            return checks.breaks_formula(table, rule, self._compared)
        for step in self._steps:
            if isinstance(step, CombinationStep) and step.outputs == rule.columns:
                return step.codes(table) < 0
        return np.zeros(len(table), dtype=bool)

    def duplicates(self, table: pd.DataFrame) -> NDArray[np.bool_]:
        """Rows to draw again: the key of a `Unique` is that of an earlier row.

        Args:
            table: Sampled rows, in order.

        Returns:
            Shape (n,); a row that is to be drawn again takes no key from later ones.
        """
        bad = np.zeros(len(table), dtype=bool)
        for rule in self.constraints:
            if isinstance(rule, Unique) and all(name in table for name in rule.columns):
                rows = np.flatnonzero(~bad)
                bad[rows] = checks.repeated(table.iloc[rows], rule)
        return bad

    def check_count(self, n: int, given: Mapping[str, Condition] | None = None) -> None:
        """Check that so many rows can have unique keys.

        Args:
            n: Number of rows to sample.
            given: Modelled column -> canonical condition.

        Raises:
            ConfigError: If there are fewer keys than rows.
        """
        self._check_fitted()
        for rule in self.constraints:
            if not isinstance(rule, Unique):
                continue
            columns = [self.schema_[name] for name in rule.columns]
            asked = [(given or {}).get(name) for name in rule.columns]
            # A key with a missing part is nobody's.
            lost = [one is None or conditions.allows_missing(one) for one in asked]
            if any(column.missing and gone for column, gone in zip(columns, lost, strict=True)):
                continue
            keys = math.prod(map(checks.number_of_values, columns, asked))
            if keys < n:
                raise ConfigError(
                    f"{n} rows cannot have different values of {', '.join(rule.columns)}: there "
                    f"are {int(keys)}{' under these conditions' if any(asked) else ''}; sample "
                    "fewer, or drop the Unique"
                )

    # --------------------------------------------------------------- conditions

    def conditions(self, asked: Mapping[str, Any] | None) -> dict[str, Condition]:
        """Conditions on the modelled table that mean those on the user's.

        Args:
            asked: As of :func:`scidiffusion.tabular.conditions.parse`, on the user's columns.

        Returns:
            Modelled column -> canonical condition.

        Raises:
            ConditionError: If a condition is impossible, contradicts another one and a constraint,
                or is on a column that can only be conditioned on with others.
        """
        self._check_fitted()
        for name in asked or ():
            if name in self.schema_ and not self.schema_[name].kind.is_modelled:
                raise ConditionError(
                    f"condition on {name!r}: it is an identifier, whose values are made up for "
                    "every row; condition on another column, or overwrite it after sampling"
                )
        given = conditions.parse(self.schema_, asked)
        for rule in self.constraints:
            if isinstance(rule, Inequality) and all(name in given for name in rule.names):
                checks.check_order(rule, self._compared, given)
        known = {name: one.value for name, one in given.items() if isinstance(one, Equal)}
        result: dict[str, Condition] = {
            name: one for name, one in given.items() if name not in self.derived
        }
        for step in self._steps:
            result |= step.condition(given, known)
        return result

    # -------------------------------------------------------------- persistence

    def to_json(self) -> dict[str, Any]:
        """The constraints, and what was learned, as a JSON object."""
        record: dict[str, Any] = {
            "version": VERSION,
            "constraints": [rule_to_json(rule) for rule in self.constraints],
        }
        if hasattr(self, "modelled_schema_"):
            record["schema"] = self.schema_.to_dict()
            record["compared"] = [column.to_dict() for column in self._compared.values()]
            record["steps"] = [step.to_json() for step in self._steps]
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote.

        Args:
            record: The JSON object.

        Raises:
            ModelFileError: If it is none, or of a newer version.
        """
        check_version(record, VERSION, "the constraints")
        try:
            rules = cls([rule_from_json(rule) for rule in record["constraints"]])
            if "steps" in record:
                rules.schema_ = TableSchema.from_dict(record["schema"])
                compared = map(ColumnSchema.from_dict, record["compared"])
                rules._compared = {column.name: column for column in compared}
                rules._steps = tuple(map(step_from_json, record["steps"]))
                rules.modelled_schema_ = modelled_schema(rules.schema_, rules._steps)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ModelFileError(
                f"the constraints of a model cannot be read: {error!r:.200}"
            ) from error
        return rules

    def _check_fitted(self) -> None:
        if not hasattr(self, "schema_"):
            raise DataError("the constraints are not fitted; call fit(table, schema) first")


def _inferred(series: pd.Series, column: ColumnSchema) -> ColumnSchema:
    try:
        return infer_column(series, column.kind)
    except DataError as error:
        raise DataError(f"without the rows that violate a constraint: {error}") from error
