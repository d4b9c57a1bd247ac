"""Attacks on a synthetic table: what it tells of the rows it was trained on.

Every attack is carried out twice, on training rows and on held-out rows of the same population. A
generator that has learned the population, and no row of it by heart, serves both equally well:
what an attack gains on training rows over held-out ones is what membership alone gave away. All
attackers see the whole synthetic table and know the records they ask about, the strongest case.

References:
    Giomi, Boenisch, Wehmeyer & Tasnadi 2023 (Anonymeter: singling out, inference);
    van Breugel, Sun, Qian & van der Schaar 2023 (DOMIAS: distance against local density).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scidiffusion.tabular.judges import comparable_numbers
from scidiffusion.tabular.neighbours import (
    EQUAL,
    Points,
    affordable_rows,
    blocks,
    distances,
    k_nearest,
    nearest_counts,
)
from scidiffusion.tabular.views import TableView

__all__ = [
    "Closeness",
    "Guesses",
    "MembershipScores",
    "SingledOut",
    "attribute_inference",
    "closeness",
    "membership_scores",
    "singling_out",
    "true_positive_rate",
]

NEIGHBOURS = 10
MOST_ATTRIBUTES = 6
MOST_SECRETS = 50
TOLERANCE = 0.05


class Closeness(NamedTuple):
    """Which real rows the synthetic ones are nearest to.

    Args:
        weights: How often each real row is the nearest, those equally near sharing; (n,).
        train: Which real rows are training rows, (n,).
        to_train: Distance of each synthetic row to the nearest training row.
        to_holdout: Distance of each to the nearest held-out row.
    """

    weights: NDArray[np.float64]
    train: NDArray[np.bool_]
    to_train: NDArray[np.float64]
    to_holdout: NDArray[np.float64]


def closeness(
    train: Points, holdout: Points, synthetic: Points, rng: np.random.Generator
) -> tuple[Closeness, Closeness]:
    """Look up the nearest real row of synthetic rows.

    Args:
        train: Training rows.
        holdout: Held-out rows.
        synthetic: Synthetic rows; a sample is looked up.
        rng: Draws it.

    Returns:
        The search among all real rows, and among as many training as held-out rows.
    """
    real = _stack([train, holdout])
    is_train = np.arange(len(real)) < len(train)
    queries = _sample(synthetic, affordable_rows(len(real), real.width), rng)
    balanced = np.zeros(len(real), dtype=bool)
    each = min(len(train), len(holdout))
    balanced[rng.permutation(len(train))[:each]] = True
    balanced[len(train) + rng.permutation(len(holdout))[:each]] = True
    everything = np.ones(len(real), dtype=bool)
    masks = [everything, balanced, balanced & is_train, balanced & ~is_train]
    found = nearest_counts(queries, real, masks)
    (whole, _), (even, _), (_, to_train), (_, to_holdout) = found
    part = Closeness(even[balanced], is_train[balanced], to_train, to_holdout)
    return Closeness(whole, is_train, to_train, to_holdout), part


class MembershipScores(NamedTuple):
    """Scores of real rows, higher where the attacker believes in a training row.

    Args:
        train: Scores of training rows.
        holdout: Scores of held-out rows.
    """

    train: NDArray[np.float64]
    holdout: NDArray[np.float64]


def membership_scores(
    train: Points, holdout: Points, synthetic: Points, rng: np.random.Generator
) -> dict[str, MembershipScores]:
    """Guess who was a training row by the distance to the synthetic rows.

    Args:
        train: Training rows; a sample is attacked.
        holdout: Held-out rows; likewise.
        synthetic: Synthetic rows.
        rng: Draws the samples.

    Returns:
        ``distance``: minus the distance to the nearest synthetic row; ``density``: minus its ratio
        to that of the tenth nearest, which finds the row that is copied where rows are
        rare.
    """
    most = affordable_rows(len(synthetic), synthetic.width, most=6000)
    n_holdout = min(len(holdout), most // 2)
    holdout = _sample(holdout, n_holdout, rng)
    train = _sample(train, most - n_holdout, rng)
    k = min(NEIGHBOURS, len(synthetic))
    near = k_nearest(_stack([train, holdout]), synthetic, k)
    # A row that is as near to many is a common one, not a copied one: 0 / 0 is 1.
    scores = {"distance": -near[:, 0], "density": -(near[:, 0] + EQUAL) / (near[:, -1] + EQUAL)}
    return {
        name: MembershipScores(score[: len(train)], score[len(train) :])
        for name, score in scores.items()
    }


def true_positive_rate(
    scores: MembershipScores, false_positive_rate: float, rng: np.random.Generator
) -> float:
    """Share of training rows found at a given share of false alarms.

    The threshold lies between two held-out rows such that fresh rows pass it with exactly the
    given chance, ``rank / (n + 1)``; ties are broken by lot.

    Args:
        scores: Scores of both groups.
        false_positive_rate: Accepted false alarms, in (0, 1).
        rng: Breaks ties.
    """
    m, n = len(scores.train), len(scores.holdout)
    pooled = np.concatenate([scores.train, scores.holdout])
    order = np.lexsort((rng.random(m + n), -pooled))
    held_out = order >= m
    # Training rows above the first, second, ... held-out row; none is above the zeroth.
    above = np.concatenate([[0], np.cumsum(~held_out)[held_out], [m]])
    return float(np.interp(false_positive_rate * (n + 1), np.arange(n + 2), above / m))


class Condition(NamedTuple):
    """One comparison of a predicate.

    Args:
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


class Guesses(NamedTuple):
    """Success of guessing the cells of real rows.

    Args:
        columns: Names of the columns guessed.
        train: Shape (rows, columns), whether the cell of a training row was guessed.
        holdout: The same of held-out rows.
    """

    columns: list[str]
    train: NDArray[np.bool_]
    holdout: NDArray[np.bool_]


def attribute_inference(
    train: tuple[TableView, Points],
    holdout: tuple[TableView, Points],
    synthetic: tuple[TableView, Points],
    rng: np.random.Generator,
) -> Guesses:
    """Guess each cell from all others of its row, by the synthetic row nearest in the others.

    A level is guessed if it is the same, a number if it is within 5 % of the span of the middle 90
    % of real values.

    Args:
        train: Training rows and their points; a sample is attacked.
        holdout: Held-out rows, likewise.
        synthetic: Synthetic rows.
        rng: Draws samples, and columns where there are more than 50.

    Returns:
        What was guessed.
    """
    view, base = synthetic
    # Of rows equally near the first is taken: it must be anyone's.
    order = rng.permutation(len(base))
    base, answers = base.take(order), view.take(order)
    d_num = view.numbers.shape[1]
    names = [column.name for column in [*view.numerical, *view.discrete]]
    secrets = np.sort(rng.permutation(len(names))[:MOST_SECRETS]).tolist()
    most = affordable_rows(len(base), base.width + 3 * len(secrets), most=2000)
    n_holdout = min(len(holdout[0]), most // 2)
    targets = []
    for (table, points), rows in ((train, most - n_holdout), (holdout, n_holdout)):
        chosen = rng.permutation(len(table))[:rows]
        targets.append((table.take(chosen), points.take(chosen)))
    pooled = np.concatenate([train[0].numbers, holdout[0].numbers])
    slack = np.array([TOLERANCE * _middle_span(column) + EQUAL for column in pooled.T])
    flagged = np.flatnonzero(np.isnan(pooled).any(axis=0)).tolist()

    def attack(table: TableView, points: Points) -> NDArray[np.bool_]:
        right = np.zeros((len(table), len(secrets)), dtype=bool)
        for rows in blocks(len(table), len(base)):
            part = points.take(rows)
            whole = distances(part, base)
            for place, secret in enumerate(secrets):
                guess = np.argmin(whole - _share_of(part, base, secret, d_num, flagged), axis=1)
                if secret < d_num:
                    told, truth = answers.numbers[guess, secret], table.numbers[rows, secret]
                    hit = np.abs(told - truth) <= slack[secret]
                    right[rows, place] = hit | (np.isnan(told) & np.isnan(truth))
                else:
                    told, truth = answers.codes[guess, secret - d_num], table.codes[rows]
                    right[rows, place] = told == truth[:, secret - d_num]
        return right

    return Guesses([names[s] for s in secrets], *(attack(*target) for target in targets))


def _share_of(
    part: Points, base: Points, secret: int, d_num: int, flagged: list[int]
) -> NDArray[np.float64]:
    """What one column adds to all distances."""
    if secret >= d_num:
        codes = part.codes[:, secret - d_num, None], base.codes[None, :, secret - d_num]
        return 2.0 * (codes[0] != codes[1])
    share = np.abs(part.numbers[:, secret, None] - base.numbers[None, :, secret])
    if secret in flagged:
        flag = d_num + flagged.index(secret)
        share += np.abs(part.numbers[:, flag, None] - base.numbers[None, :, flag])
    return share


def _middle_span(values: NDArray[np.float64]) -> float:
    present = values[~np.isnan(values)]
    if not len(present):
        return 0.0
    low, high = np.quantile(present, [0.05, 0.95])
    return float(high - low)


def _sample(points: Points, rows: int, rng: np.random.Generator) -> Points:
    return points if rows >= len(points) else points.take(rng.permutation(len(points))[:rows])


def _stack(parts: Sequence[Points]) -> Points:
    return Points(
        np.concatenate([part.numbers for part in parts]),
        np.concatenate([part.codes for part in parts]),
    )
