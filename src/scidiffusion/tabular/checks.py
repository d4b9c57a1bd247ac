"""Which rows break a constraint, and which conditions do.

Comparisons are those of the modelling: in steps of the finest column, so that 0.1 + 0.2 is not
above 0.3, and a missing value breaks nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.errors import ConditionError
from scidiffusion.tabular import conditions
from scidiffusion.tabular.computed import FormulaStep
from scidiffusion.tabular.conditions import Condition, Equal
from scidiffusion.tabular.rulers import Ruler
from scidiffusion.tabular.rules import Formula, Inequality, Unique
from scidiffusion.tabular.schema import ColumnSchema

__all__ = ["breaks_formula", "breaks_order", "check_order", "number_of_values", "repeated"]


def breaks_order(
    table: pd.DataFrame, rule: Inequality, columns: Mapping[str, ColumnSchema]
) -> NDArray[np.bool_]:
    """Rows in which an inequality does not hold.

    Args:
        table: Rows with the columns of the rule.
        rule: The constraint.
        columns: The schemas of the columns.

    Returns:
        Shape (n,).
    """
    schemas = [columns[name] for name in rule.names]
    ruler = Ruler.of(schemas)
    (low, no_low), (high, no_high) = (ruler.read(table[c.name], c) for c in schemas)
    return ~no_low & ~no_high & ((low >= high) if rule.strict else (low > high))


def breaks_formula(
    table: pd.DataFrame, rule: Formula, columns: Mapping[str, ColumnSchema]
) -> NDArray[np.bool_]:
    """Rows in which a column is not what its formula gives.

    Args:
        table: Rows with the columns of the rule.
        rule: The constraint.
        columns: The schemas of the columns.

    Returns:
        Shape (n,).
    """
    return FormulaStep(columns[rule.column], rule.parsed, 0.0, None).violations(table)


def repeated(table: pd.DataFrame, rule: Unique) -> NDArray[np.bool_]:
    """Rows whose unique key an earlier row has; a key with a missing part is nobody's.

    Args:
        table: Rows with the columns of the rule.
        rule: The constraint.

    Returns:
        Shape (n,).
    """
    key = table[list(rule.columns)]
    whole = key.notna().all(axis=1).to_numpy()
    return key.duplicated(keep="first").to_numpy() & whole


def number_of_values(column: ColumnSchema, condition: Condition | None = None) -> float:
    """How many values a column can have, infinity if they cannot be counted.

    Args:
        column: Its schema.
        condition: A canonical condition on it.
    """
    if column.kind.is_discrete:
        if condition is None:
            return len(column.categories)
        return len(conditions.codes(column, condition))
    if not column.kind.is_modelled or column.minimum is None or column.maximum is None:
        return math.inf
    if isinstance(condition, Equal):
        return 1
    if not column.integer and column.unit is None and column.decimals is None:
        return math.inf
    # Dates and durations are counted in their unit.
    scale = 1.0 if column.integer or column.unit is not None else 10.0 ** (column.decimals or 0)
    spans = np.array([[column.minimum, column.maximum]], dtype=object)
    if condition is not None:
        spans = conditions.intervals(column, condition)
    return sum(round((high - low) * scale) + 1 for low, high in spans)


def check_order(
    rule: Inequality, columns: Mapping[str, ColumnSchema], given: Mapping[str, Condition]
) -> None:
    """Check that conditions on both sides of an inequality leave room for it.

    Args:
        rule: The constraint.
        columns: The schemas of the columns.
        given: Column -> canonical condition, on both columns.

    Raises:
        ConditionError: If not.
    """
    schemas = [columns[name] for name in rule.names]
    ruler = Ruler.of(schemas)
    ends = []
    for column in schemas:
        condition = given[column.name]
        if conditions.allows_missing(condition):
            return
        span = np.array(conditions.numbers_interval(column, condition))
        ends.append(ruler.read_numbers(span, column))
    least, most = ends[0][0], ends[1][1]
    if least > most or (rule.strict and least == most):
        raise ConditionError(
            f"the conditions on {rule.low!r} and {rule.high!r} contradict the constraint "
            f"'{rule}'; change one of them"
        )
