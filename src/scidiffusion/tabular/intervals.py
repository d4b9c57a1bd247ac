"""Confidence intervals and tests of the few figures a copy report needs.

All of them hold for small tables: Wilson's interval and the exact binomial and hypergeometric
tails for shares, DeLong's variance for an area under a curve. A share of *rows pointed at* needs
more: several synthetic rows point at one real row, so that they count for less than their number.
If training and held-out rows are exchangeable, the weight a_j of real row j (sum 1) falls to
the training rows by a draw of n_T of n labels without replacement, and

    share = sum_{j in train} a_j,   E = n_T / n,   Var = n_T n_H / (n - 1) (mean a_j^2 - 1 / n^2)

exactly, whatever the tables; `effective_count` is the number of independent rows with that
variance.

References:
    Wilson 1927; DeLong, DeLong & Clarke-Pearson 1988; Newcombe 1998, method 10.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc
from scipy.stats import norm, rankdata

__all__ = ["auc_with_error", "binomial_tail", "difference", "effective_count", "wilson"]


def wilson(share: float, count: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share.

    Args:
        share: The observed share, in [0, 1].
        count: Number of independent trials; need not be whole.
        confidence: Coverage.

    Returns:
        Lower and upper end.

    Example:
        >>> tuple(round(end, 3) for end in wilson(0.5, 100))
        (0.404, 0.596)
    """
    if count <= 0:
        return 0.0, 1.0
    z = float(norm.ppf(0.5 + confidence / 2))
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    spread = share * (1 - share) / count + z * z / (4 * count * count)
    half = z / (1 + z * z / count) * math.sqrt(spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def difference(
    share: float, count: float, other: float, other_count: float, confidence: float = 0.95
) -> tuple[float, float]:
    """Newcombe's interval of the difference of two independent shares.

    Args:
        share: The first share.
        count: Its trials.
        other: The second share.
        other_count: Its trials.
        confidence: Coverage.

    Returns:
        Lower and upper end of ``share - other``.
    """
    low, high = wilson(share, count, confidence)
    other_low, other_high = wilson(other, other_count, confidence)
    gap = share - other
    return (
        gap - math.hypot(share - low, other_high - other),
        gap + math.hypot(high - share, other - other_low),
    )


def binomial_tail(share: float, count: float, chance: float) -> float:
    """Chance of at least the observed share under another one: P(X >= share * count).

    Args:
        share: The observed share.
        count: Number of trials; need not be whole.
        chance: The share under the null hypothesis.

    Returns:
        The p-value, by the incomplete beta function.

    Example:
        >>> round(binomial_tail(1.0, 3, 0.5), 4)
        0.125
    """
    successes = share * count
    if successes <= 0:
        return 1.0
    return float(betainc(successes, count - successes + 1, chance))


def effective_count(weights: NDArray[np.float64], train: NDArray[np.bool_], total: float) -> float:
    """Number of independent rows with the variance of a share of rows pointed at; see the module.

    Args:
        weights: Weight of every real row, >= 0.
        train: Which of them are training rows.
        total: Number of rows that point; the result is at most this.
    """
    n, n_train = len(weights), int(train.sum())
    ideal = n_train / n
    a = weights / weights.sum()
    variance = n_train * (n - n_train) / (n - 1) * (float(np.mean(a * a)) - 1 / n**2)
    return total if variance <= 0 else min(total, ideal * (1 - ideal) / variance)


def auc_with_error(
    positive: NDArray[np.float64], negative: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Area under the ROC curve with its standard errors.

    Args:
        positive: Scores of the rows that should score higher.
        negative: Scores of the others.

    Returns:
        The area; DeLong's standard error; the standard error if both have the same law
        (Mann-Whitney, ties accounted for).
    """
    m, n = len(positive), len(negative)
    ranks = rankdata(np.concatenate([positive, negative]))
    above = (ranks[:m] - rankdata(positive)) / n
    below = 1 - (ranks[m:] - rankdata(negative)) / m
    area = float(above.mean())
    error = math.sqrt(float(np.var(above, ddof=1)) / m + float(np.var(below, ddof=1)) / n)
    _, ties = np.unique(ranks, return_counts=True)
    ties = ties.astype(np.float64)
    total = m + n
    tied = float(np.sum(ties**3 - ties)) / (total * (total - 1))
    return area, error, math.sqrt(max((total + 1 - tied) / (12 * m * n), 0.0))
