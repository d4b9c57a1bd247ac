"""From planned constraints to fitted steps, and to the schema of the modelled table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from scidiffusion.errors import ConfigError
from scidiffusion.tabular.combinations import CombinationStep
from scidiffusion.tabular.computed import FormulaStep
from scidiffusion.tabular.gaps import GapStep
from scidiffusion.tabular.rules import Formula, Planned, PlannedGap
from scidiffusion.tabular.schema import ColumnSchema, TableSchema
from scidiffusion.tabular.steps import Step

__all__ = ["fit_steps", "modelled_schema", "step_from_json"]

_STEPS: dict[str, Any] = {
    "gap": GapStep,
    "combinations": CombinationStep,
    "formula": FormulaStep,
}


def fit_steps(
    planned: Sequence[Planned], table: pd.DataFrame, schema: TableSchema
) -> tuple[Step, ...]:
    """Learn what every step needs.

    Args:
        planned: What :func:`scidiffusion.tabular.rules.plan` gives.
        table: The training table, of valid rows.
        schema: Its schema.

    Returns:
        The steps, in the same order.

    Raises:
        ConfigError: If a constraint speaks of a column that it cannot speak of.
    """
    taken = set(schema.names)
    steps: list[Step] = []
    for item in planned:
        if isinstance(item, PlannedGap):
            steps.append(GapStep.fit(item.column, item.bounds, item.sign, table, schema, taken))
        elif isinstance(item, Formula):
            steps.append(FormulaStep.fit(item.column, item.parsed, table, schema, taken))
        else:
            steps.append(CombinationStep.fit(item.columns, table, schema, taken))
    return tuple(steps)


def step_from_json(record: Mapping[str, Any]) -> Step:
    """Read what a step's `to_json` wrote.

    Args:
        record: The JSON object.
    """
    step: Step = _STEPS[record["step"]].from_json(record)
    return step


def modelled_schema(schema: TableSchema, steps: Sequence[Step]) -> TableSchema:
    """The schema of the modelled table.

    Args:
        schema: That of the user's table.
        steps: The fitted steps.

    Returns:
        The modelled columns, where those of the user's table were that they stand in for.

    Raises:
        ConfigError: If none is left that can be learned.
    """
    makers = {name: step for step in steps for name in step.outputs}
    columns: dict[str, ColumnSchema] = {}
    for column in schema:
        step = makers.get(column.name)
        for one in (column,) if step is None else step.modelled:
            columns[one.name] = one
    if not any(column.kind.is_modelled for column in columns.values()):
        raise ConfigError(
            "the constraints leave nothing to learn: every column is an identifier, constant or "
            "computed from others; drop one"
        )
    return TableSchema(tuple(columns.values()))
