"""Attacks on a synthetic table: what it tells of the rows it was trained on.

Every attack is carried out twice, on training rows and on held-out rows of the same population. A
generator that has learned the population, and no row of it by heart, serves both equally well:
what an attack gains on training rows over held-out ones is what membership alone gave away. All
attackers see the whole synthetic table and know the records they ask about, the strongest case.
Singling out has a module of its own, :mod:`scidiffusion.tabular.singling_out`.

References:
    Giomi, Boenisch, Wehmeyer & Tasnadi 2023 (Anonymeter: inference);
    van Breugel, Sun, Qian & van der Schaar 2023 (DOMIAS: distance against local density).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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
    "attribute_inference",
    "closeness",
    "membership_scores",
    "true_positive_rate",
]

NEIGHBOURS = 10
MOST_SECRETS = 50
TOLERANCE = 0.05


class Closeness(NamedTuple):
    """Which real rows the synthetic ones are nearest to.

    Attributes:
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

    Attributes:
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


class Guesses(NamedTuple):
    """Success of guessing the cells of real rows.

    Attributes:
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
                    level = secret - d_num
                    right[rows, place] = answers.codes[guess, level] == table.codes[rows, level]
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
