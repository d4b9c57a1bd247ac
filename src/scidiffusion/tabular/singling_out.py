"""Singling out: predicates read off the synthetic table that hold for one real row alone.

"A man of 47 in Bonn with income above 90,000" is a predicate; whoever reads it off a synthetic
table and finds that it holds for exactly one person has singled that person out. Some predicates
do so by luck, of any rows of the population: those that single out *training* rows more often
than their share of all real rows tell of copying.

References:
    Giomi, Boenisch, Wehmeyer & Tasnadi 2023 (Anonymeter); Cohen & Nissim 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scidiffusion.tabular.judges import comparable_numbers
from scidiffusion.tabular.views import TableView

__all__ = ["SingledOut", "singling_out"]

MOST_ATTRIBUTES = 6


class Condition(NamedTuple):
    """One comparison of a predicate.

    Attributes:
        column: Position among the numbers, or, after these, among the codes.
        relation: ``==``, ``<=``, ``>=`` or ``missing``.
        value: What to compare with.
    """

    column: int
    relation: str
    value: float


@dataclass(frozen=True)
class SingledOut:
    """What predicates read off the synthetic table do to real ones.

    Args:
        weights: How many predicates match this real row and no other one, (n,).
        train: Which real rows are training rows, (n,).
        attacks: Number of predicates.
        main: Share of them that match exactly one of a number of training rows.
        control: Share that match exactly one of the same number of held-out rows.
    """

    weights: NDArray[np.float64]
    train: NDArray[np.bool_]
    attacks: int
    main: float
    control: float


def singling_out(
    train: TableView,
    holdout: TableView,
    synthetic: TableView,
    *,
    attacks: int,
    several: bool,
    rng: np.random.Generator,
) -> SingledOut:
    """Single out real rows by predicates that hold for one synthetic row alone.

    Args:
        train: Training rows.
        holdout: Held-out rows.
        synthetic: Synthetic rows.
        attacks: Number of predicates at most.
        several: Predicates over two to six columns, each an equality of levels or a bound of a
            number on the far side of the median; else over one: a value that occurs once, or the
            extremes.
        rng: Draws the predicates.

    Returns:
        The rows singled out.
    """
    fake = _cells(synthetic)
    levels = np.array([len(column.categories) for column in synthetic.discrete])
    draw = _joint_predicates if several else _single_predicates
    predicates = draw(fake, synthetic.numbers.shape[1], levels, attacks, rng)
    real = [np.concatenate(pair) for pair in zip(_cells(train), _cells(holdout), strict=True)]
    n, n_train = len(train) + len(holdout), len(train)
    each = min(n_train, n - n_train)
    thinned = np.zeros(n, dtype=bool)
    thinned[rng.permutation(n_train)[:each]] = True
    thinned[n_train + rng.permutation(n - n_train)[:each]] = True
    weights, main, control = np.zeros(n), 0, 0
    for predicate in predicates:
        hits = _matches(real, predicate)
        if len(hits) == 1:
            weights[hits[0]] += 1
        hits = hits[thinned[hits]]
        in_train = int((hits < n_train).sum())
        main += in_train == 1
        control += len(hits) - in_train == 1
    count = max(len(predicates), 1)
    return SingledOut(
        weights, np.arange(n) < n_train, len(predicates), main / count, control / count
    )


def _cells(view: TableView) -> list[NDArray[np.float64]]:
    """The columns, numbers first; each number as the table would write it."""
    return [*comparable_numbers(view).T, *view.codes.T.astype(np.float64)]


def _matches(cells: Sequence[NDArray[np.float64]], predicate: Sequence[Condition]) -> NDArray:
    rows: NDArray[np.intp] | None = None
    for column, relation, value in predicate:
        values = cells[column] if rows is None else cells[column][rows]
        if relation == "==":
            holds = values == value
        elif relation == "<=":
            holds = values <= value
        elif relation == ">=":
            holds = values >= value
        else:
            holds = np.isnan(values)
        found = np.flatnonzero(holds)
        rows = found if rows is None else rows[found]
    return np.empty(0, dtype=np.intp) if rows is None else rows


def _single_predicates(
    cells: Sequence[NDArray[np.float64]],
    numbers: int,
    levels: NDArray[np.int64],
    attacks: int,
    rng: np.random.Generator,
) -> list[list[Condition]]:
    found: list[Condition] = []
    for index, column in enumerate(cells):
        values, counts = np.unique(column[~np.isnan(column)], return_counts=True)
        if index >= numbers:
            # The level nobody knows matches nobody.
            counts[values > levels[index - numbers]] = 0
        once = values[counts == 1]
        once = once[rng.permutation(len(once))[:attacks]]
        found += [Condition(index, "==", float(value)) for value in once]
        if index < numbers and len(values):
            found.append(Condition(index, "<=", float(values[0])))
            found.append(Condition(index, ">=", float(values[-1])))
        if np.isnan(column).sum() == 1:
            found.append(Condition(index, "missing", np.nan))
    chosen = rng.permutation(len(found))[:attacks]
    return [[found[index]] for index in chosen]


def _joint_predicates(
    cells: Sequence[NDArray[np.float64]],
    numbers: int,
    levels: NDArray[np.int64],
    attacks: int,
    rng: np.random.Generator,
) -> list[list[Condition]]:
    if len(cells) < 2:
        return []
    middle = [
        np.median(column[~np.isnan(column)]) if not np.isnan(column).all() else np.nan
        for column in cells[:numbers]
    ]
    found: list[list[Condition]] = []
    seen: set[tuple[Condition, ...]] = set()
    for _ in range(4 * attacks):
        if len(found) == attacks:
            break
        row = int(rng.integers(len(cells[0])))
        size = int(rng.integers(2, min(MOST_ATTRIBUTES, len(cells)) + 1))
        predicate = []
        for index in np.sort(rng.permutation(len(cells))[:size]).tolist():
            value = float(cells[index][row])
            if index >= numbers:
                predicate.append(Condition(index, "==", value))
            elif np.isnan(value):
                # As a number to compare with, NaN would make equal predicates differ.
                predicate.append(Condition(index, "missing", 0.0))
            else:
                relation = ">=" if value > middle[index] else "<="
                predicate.append(Condition(index, relation, value))
        if tuple(predicate) not in seen and len(_matches(cells, predicate)) == 1:
            seen.add(tuple(predicate))
            found.append(predicate)
    return found
