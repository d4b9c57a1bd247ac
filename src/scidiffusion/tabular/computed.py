"""A column that is a formula of others: not modelled, but computed when these are finished.

What is computed is the formula of the rounded values, rounded to the column's own format, so the
result holds for the table that is handed out. It is missing where an input is, or where it is not
finite; if the training table had values there, these are learned in a column of their own.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.errors import ConditionError, ConfigError, ScidiffusionWarning
from scidiffusion.tabular import conditions
from scidiffusion.tabular.arrow import with_arrow
from scidiffusion.tabular.columns import round_numbers, series_from_values
from scidiffusion.tabular.conditions import Condition, Equal
from scidiffusion.tabular.formulas import Expression, numbers_of
from scidiffusion.tabular.inference import infer_column
from scidiffusion.tabular.schema import ColumnKind, ColumnSchema, TableSchema
from scidiffusion.tabular.steps import Step, alone, by_itself, fresh_name

__all__ = ["FormulaStep"]


@dataclass(frozen=True)
class FormulaStep(Step):
    """One column computed from others; see the module.

    Args:
        column: Its schema in the user's table.
        expression: The formula.
        typical: Value for a row that may not be without one.
        rest: Schema of the values where the formula has none; None if there were none.
    """

    column: ColumnSchema
    expression: Expression
    typical: float
    rest: ColumnSchema | None

    @classmethod
    def fit(
        cls,
        name: str,
        expression: Expression,
        table: pd.DataFrame,
        schema: TableSchema,
        taken: set[str],
    ) -> Self:
        """Learn the column's format.

        Args:
            name: The column.
            expression: Its formula.
            table: The training table, of valid rows.
            schema: Its schema.
            taken: Names that the new columns must not have; theirs are added.

        Raises:
            ConfigError: If a column is none of numbers.
        """
        column = by_itself(table, schema[name])
        if column.kind is not ColumnKind.NUMERICAL:
            raise ConfigError(
                f"column {name!r} is {column.kind}, and a formula gives numbers; for dates, use "
                "an Inequality"
            )
        for other in expression.names:
            if not schema[other].kind.is_modelled:
                raise ConfigError(
                    f"the formula of column {name!r} needs column {other!r}, which is an "
                    "identifier, made up for every row; override its kind"
                )
        computed = expression({other: numbers_of(table[other]) for other in expression.names})
        observed = numbers_of(table[name])
        rest = None
        lost = np.isnan(computed) & ~np.isnan(observed)
        if lost.any():
            label = fresh_name(f"{name} alone", taken)
            rest = infer_column(alone(table[name], lost, label), column.kind)
        present = np.sort(observed[~np.isnan(observed)])
        return cls(column, expression, present[len(present) // 2].item(), rest)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns of the formula."""
        return self.expression.names

    @property
    def outputs(self) -> tuple[str, ...]:
        """The column."""
        return (self.column.name,)

    @property
    def modelled(self) -> tuple[ColumnSchema, ...]:
        """The values where the formula has none."""
        return () if self.rest is None else (self.rest,)

    def _computed(self, table: Mapping[str, pd.Series] | pd.DataFrame) -> NDArray[np.float64]:
        return self.expression({name: numbers_of(table[name]) for name in self.inputs})

    def forward(self, table: pd.DataFrame) -> dict[str, pd.Series]:
        """The values where the formula has none.

        Args:
            table: Valid rows of the user's table.
        """
        if self.rest is None:
            return {}
        lost = np.isnan(self._computed(table))
        return {self.rest.name: alone(table[self.column.name], lost, self.rest.name)}

    def inverse(
        self, done: Mapping[str, pd.Series], modelled: pd.DataFrame
    ) -> dict[str, pd.Series]:
        """The column.

        Args:
            done: The user's columns so far, those of the formula among them.
            modelled: Modelled rows.
        """
        values = self._computed(done)
        missing = np.isnan(values)
        if self.rest is not None:
            values = np.where(missing, numbers_of(modelled[self.rest.name]), values)
            missing = np.isnan(values)
        if not self.column.missing:
            values, missing = np.where(missing, self.typical, values), np.zeros_like(missing)
        series = self._restore(values, missing)
        return {self.column.name: series.set_axis(modelled.index)}

    def _restore(self, values: NDArray[np.float64], missing: NDArray[np.bool_]) -> pd.Series:
        """A column of the schema's format; of a wider dtype where that is too narrow."""
        column = self.column
        values = np.where(missing, 0.0, values)
        if not isinstance(column.minimum, int):
            rounded = round_numbers(values, column)
            return with_arrow(series_from_values(rounded, missing, column), column.arrow)
        whole = np.rint(values)
        name = column.dtype.lower()
        limits = np.iinfo(name if name != "object" else "int64")
        low, high = whole.min(initial=0), whole.max(initial=0)
        if low < limits.min or high > limits.max:
            warnings.warn(
                f"column {column.name!r}: its formula gives {low if low < limits.min else high:g},"
                f" which {column.dtype} cannot hold; the column is float64",
                ScidiffusionWarning,
                stacklevel=2,
            )
            return pd.Series(np.where(missing, np.nan, whole), name=column.name)
        kind = np.uint64 if limits.max >= 2**63 else np.int64
        series = series_from_values(whole.astype(kind), missing, column)
        return with_arrow(series, column.arrow)

    def violations(self, table: pd.DataFrame) -> NDArray[np.bool_]:
        """Rows in which the column is not what the formula gives.

        Args:
            table: Rows of the user's table.

        Returns:
            Shape (n,). The value may be that of the formula rounded in either direction where it
            lies in the middle; where one of both is missing there is nothing to compare.
        """
        computed, observed = self._computed(table), numbers_of(table[self.column.name])
        size = np.maximum(np.abs(computed), np.abs(observed))
        slack = 1e-9 * size if self.column.decimals is None else 1e-12 * size
        if self.column.decimals is not None:
            slack += 0.5 * 10.0**-self.column.decimals * (1 + 1e-6)
        if self.column.dtype.lower() in ("float16", "float32"):
            slack += 1e-6 * size
        with np.errstate(invalid="ignore"):
            return np.abs(computed - observed) > slack

    def condition(
        self, asked: Mapping[str, Condition], known: dict[str, Any]
    ) -> dict[str, Condition]:
        """Check a condition on the column against the known inputs.

        Args:
            asked: Column of the user's table -> canonical condition.
            known: Column -> the one value it has in every row, None for missing; the column's own
                is added where the inputs are known.

        Raises:
            ConditionError: If the inputs are not known, or give another value.
        """
        name = self.column.name
        value: Any = None
        fixed = all(known.get(other) is not None for other in self.inputs)
        if fixed:
            row = {other: np.array([float(known[other])]) for other in self.inputs}
            value = float(self.expression(row)[0])
            value = None if np.isnan(value) else value
        if value is not None:
            made = self._restore(np.array([value]), np.zeros(1, dtype=bool))
            known[name] = int(made[0]) if isinstance(self.column.minimum, int) else float(made[0])
        if name not in asked:
            return {}
        if value is None:
            names = ", ".join(map(repr, self.inputs))
            raise ConditionError(
                f"condition on {name!r}: it is computed as {self.expression.text!r} and not drawn;"
                f" condition on {names} instead, or fit without this formula"
            )
        if not self._meets(known[name], asked[name]):
            raise ConditionError(
                f"condition on {name!r}: the conditions on {', '.join(map(repr, self.inputs))} "
                f"make it {known[name]!r}; change one of them"
            )
        return {}

    def _meets(self, value: float, asked: Condition) -> bool:
        if isinstance(asked, Equal) and asked.value is None:
            return False
        number = value - self.column.minimum if isinstance(self.column.minimum, int) else value
        spans = conditions.intervals(self.column, asked)
        slack = 4 * np.spacing(abs(number))
        return bool(((spans[:, 0] - slack <= number) & (number <= spans[:, 1] + slack)).any())

    def to_json(self) -> dict[str, Any]:
        """The step as a JSON object."""
        return {
            "step": "formula",
            "column": self.column.to_dict(),
            "formula": self.expression.text,
            "typical": self.typical,
            "rest": None if self.rest is None else self.rest.to_dict(),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote.

        Args:
            record: The JSON object.
        """
        rest = record["rest"]
        return cls(
            ColumnSchema.from_dict(record["column"]),
            Expression(str(record["formula"])),
            float(record["typical"]),
            None if rest is None else ColumnSchema.from_dict(rest),
        )
