"""Rows by share: how many of a sample have each level of a column."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from scidiffusion.errors import ConditionError
from scidiffusion.tabular.columns import look_up, series_from_codes
from scidiffusion.tabular.conditions import Condition
from scidiffusion.tabular.schema import ColumnSchema, TableSchema, unknown_column

__all__ = ["spread"]


def spread(
    schema: TableSchema,
    balance: str | Mapping[str, Mapping[Any, float]],
    conditions: Mapping[str, Condition],
    n: int,
    seed: int,
) -> dict[str, pd.Series]:
    """Give the rows of a sample levels in exact shares, in a random order.

    Args:
        schema: The table's schema.
        balance: A column whose levels shall be equally frequent, or {column: {level: weight}}.
        conditions: The sample's other conditions, which must not name the column.
        n: Number of rows.
        seed: Seed of the order.

    Returns:
        {column: its values}: counts differ from weight times n by less than one.

    Raises:
        ConditionError: if the column is unknown, has no levels or is conditioned on as well, or
            a level or a weight is impossible.
    """
    if isinstance(balance, str):
        name, weights = balance, None
    elif isinstance(balance, Mapping) and len(balance) == 1:
        name, weights = next(iter(balance.items()))
    else:
        raise ConditionError(
            "balance must be a column's name or {column: {level: weight}}, "
            f"got {balance!r:.80}"
        )
    if name not in schema:
        raise ConditionError(f"balance: {unknown_column(name, schema.names)}")
    column = schema[name]
    if not column.kind.is_discrete:
        raise ConditionError(
            f"balance: column {name!r} is {column.kind} and has no levels; fit with "
            f"columns={{{name!r}: 'categorical'}}, or condition on ranges of it"
        )
    if name in conditions:
        raise ConditionError(
            f"balance: column {name!r} is also a condition; leave out one of them"
        )
    shares = _shares(column, weights)
    exact = shares * n
    counts = np.floor(exact + 1e-9).astype(int)
    # Largest remainders first.
    for place in np.argsort(-(exact - counts), kind="stable")[: n - counts.sum()]:
        counts[place] += 1
    codes = np.repeat(np.arange(len(shares)), counts)
    np.random.default_rng([seed, 0x62616C]).shuffle(codes)
    return {name: series_from_codes(codes, column)}


def _shares(column: ColumnSchema, weights: Any) -> np.ndarray:
    count = len(column.categories)
    if weights is None:
        return np.full(count, 1 / count)
    if not isinstance(weights, Mapping) or not weights:
        raise ConditionError(f"balance: give {column.name!r} a dict of level -> weight")
    levels = pd.Series(list(weights), dtype=object)
    codes = look_up(levels, column)
    if (codes < 0).any():
        unknown = levels[codes < 0].iloc[0]
        raise ConditionError(f"balance: column {column.name!r} has no level {unknown!r}")
    real = all(isinstance(weight, Real) for weight in weights.values())
    values = np.array(list(weights.values()) if real else [math.nan], dtype=np.float64)
    if not (np.isfinite(values).all() and (values >= 0).all() and values.sum() > 0):
        raise ConditionError(
            f"balance: the weights of {column.name!r} must be numbers >= 0, not all 0"
        )
    shares = np.zeros(count)
    shares[codes] = values / values.sum()
    return shares
