"""What all constraints have in common: columns of the user's table that others stand in for.

A step replaces its `outputs` by columns to model (`forward`), and makes them again from those and
from `inputs`, other columns of the user's table that are finished by then (`inverse`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.errors import ConfigError, DataError, SchemaError
from scidiffusion.tabular.arrow import without_arrow
from scidiffusion.tabular.conditions import Condition
from scidiffusion.tabular.inference import infer_column
from scidiffusion.tabular.schema import ColumnKind, ColumnSchema

__all__ = ["Step", "alone", "by_itself", "fresh_name"]


class Step(ABC):
    """One change of columns, there and back."""

    @property
    @abstractmethod
    def inputs(self) -> tuple[str, ...]:
        """Columns of the user's table that `inverse` needs."""

    @property
    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """Columns of the user's table that `inverse` makes, and that are not modelled."""

    @property
    @abstractmethod
    def modelled(self) -> tuple[ColumnSchema, ...]:
        """The columns that are modelled in their place."""

    @abstractmethod
    def forward(self, table: pd.DataFrame) -> dict[str, pd.Series]:
        """Make the modelled columns from valid rows of the user's table."""

    @abstractmethod
    def inverse(
        self, done: Mapping[str, pd.Series], modelled: pd.DataFrame
    ) -> dict[str, pd.Series]:
        """Make the user's columns from modelled rows and the columns made so far."""

    @abstractmethod
    def condition(
        self, asked: Mapping[str, Condition], known: dict[str, Any]
    ) -> dict[str, Condition]:
        """Translate conditions on the outputs; may add to the known values."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the step as a JSON object."""


def fresh_name(name: str, taken: set[str]) -> str:
    """A name that no column has, and which from now on is taken.

    Args:
        name: The name wanted.
        taken: The names that are not free; changed.
    """
    while name in taken:
        name += "'"
    taken.add(name)
    return name


def by_itself(table: pd.DataFrame, column: ColumnSchema) -> ColumnSchema:
    """The schema of a column that is computed: of numbers, even if these were to be levels.

    Args:
        table: The training table.
        column: The column's schema in the user's table.

    Raises:
        ConfigError: If it holds no numbers, dates or durations.
    """
    if column.kind is ColumnKind.CATEGORICAL:
        try:
            natural = infer_column(table[column.name])
        except (DataError, SchemaError):
            natural = column
        if not natural.kind.is_discrete:
            return natural
    if column.kind.is_discrete or not column.kind.is_modelled:
        raise ConfigError(
            f"column {column.name!r} is {column.kind}, and a constraint cannot compute it from "
            "others: that needs numbers, dates or durations"
        )
    return column


def alone(series: pd.Series, where: NDArray[np.bool_], name: str) -> pd.Series:
    """The values of a column in some rows, missing in all others.

    Args:
        series: The column.
        where: The rows to keep.
        name: Its name there.
    """
    plain = without_arrow(series)
    if isinstance(plain.dtype, np.dtype) and plain.dtype.kind in "iu":
        nullable = plain.dtype.name.replace("int", "Int").replace("uI", "UI")
        plain = plain.astype(nullable)  # type: ignore[call-overload]
    return plain.where(where).rename(name)
