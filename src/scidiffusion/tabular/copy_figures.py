"""The figures of a copy report: a value, what fresh rows would give, an interval, a p-value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, fisher_exact, norm

from scidiffusion.tabular import attacks as attack
from scidiffusion.tabular.intervals import (
    auc_with_error,
    binomial_tail,
    difference,
    effective_count,
    wilson,
)
from scidiffusion.tabular.judges import copy_share
from scidiffusion.tabular.views import TableView

__all__ = ["CopyFigure", "area", "copies", "found", "guessed", "pointed_at"]

FALSE_POSITIVE_RATE = 0.01


@dataclass(frozen=True)
class CopyFigure:
    """One figure of a copy report.

    Args:
        label: What it is, in words.
        value: Its value, in [0, 1]; higher is worse.
        ideal: What fresh rows would give.
        low: Lower end of the confidence interval; where the ideal is itself measured on held-out
            rows, its error is part of the interval.
        high: Upper end.
        p_value: Chance that fresh rows give at least this value.
        count: Rows, or attacks, that it is measured on.
    """

    label: str
    value: float
    ideal: float
    low: float
    high: float
    p_value: float
    count: int

    @property
    def risk(self) -> float:
        """The value on the scale from fresh rows (0) to a copy (1); below 0 by chance."""
        return self.on_scale(self.value)

    def on_scale(self, value: float) -> float:
        """Put a value, such as an end of the interval, on the scale of `risk`."""
        return (value - self.ideal) / (1 - self.ideal) if self.ideal < 1 else 0.0


def copies(views: Mapping[str, TableView], confidence: float) -> CopyFigure:
    """Exact copies of training rows, among synthetic rows and among held-out ones.

    Args:
        views: ``train``, ``synthetic`` and ``holdout``.
        confidence: Coverage of the interval.
    """
    fake, held_out = len(views["synthetic"]), len(views["holdout"])
    value = copy_share(views["train"], views["synthetic"])
    ideal = copy_share(views["train"], views["holdout"])
    low, high = difference(value, fake, ideal, held_out, confidence)
    counts = [[round(share * n), round((1 - share) * n)] for share, n in
              ((value, fake), (ideal, held_out))]  # fmt: skip
    p_value = float(fisher_exact(counts, alternative="greater").pvalue)
    low, high = _shares(ideal + low, ideal + high)
    return CopyFigure("exact copies of training rows", value, ideal, low, high, p_value, fake)


def pointed_at(
    label: str, weights: NDArray[np.float64], train: NDArray[np.bool_], confidence: float
) -> CopyFigure:
    """Share of the rows pointed at that are training rows.

    Args:
        label: The figure in words.
        weights: How often each real row is pointed at, not all 0; (n,).
        train: Which of them are training rows, (n,).
        confidence: Coverage of the interval.
    """
    value, ideal = float(weights[train].sum() / weights.sum()), float(train.mean())
    count = effective_count(weights, train, float(weights.sum()))
    low, high = wilson(min(value, 1.0), count, confidence)
    p_value = binomial_tail(min(value, 1.0), count, ideal)
    return CopyFigure(label, value, ideal, low, high, p_value, round(float(weights.sum())))


def area(label: str, scores: attack.MembershipScores, confidence: float) -> CopyFigure:
    """Area under the ROC curve of a guess at membership.

    Args:
        label: The figure in words.
        scores: Scores of training and held-out rows.
        confidence: Coverage of the interval.
    """
    area, error, null_error = auc_with_error(*scores)
    half = float(norm.ppf(0.5 + confidence / 2)) * error
    p_value = float(norm.sf((area - 0.5) / null_error)) if null_error else 1.0
    count = len(scores.train) + len(scores.holdout)
    return CopyFigure(label, area, 0.5, *_shares(area - half, area + half), p_value, count)


def found(
    scores: attack.MembershipScores, rng: np.random.Generator, confidence: float
) -> CopyFigure:
    """Training rows found at one per cent of false alarms.

    Args:
        scores: Scores of training and held-out rows.
        rng: Breaks ties.
        confidence: Coverage of the interval.
    """
    rate = FALSE_POSITIVE_RATE
    value = attack.true_positive_rate(scores, rate, rng)
    m, n = len(scores.train), len(scores.holdout)
    # The threshold is a held-out row: it is drawn, too.
    count = 1 / (1 / m + 1 / n)
    rank = rate * (count + 1)
    p_value = float(beta.sf(value, rank, count + 1 - rank))
    label = f"training rows found at {100 * rate:g} % false alarms"
    return CopyFigure(label, value, rate, *wilson(value, count, confidence), p_value, m + n)


def guessed(guesses: attack.Guesses, confidence: float) -> CopyFigure:
    """Cells guessed, of training rows against held-out ones; the rows are what is drawn.

    Args:
        guesses: What was guessed.
        confidence: Coverage of the interval.
    """
    main, control = guesses.train.mean(axis=1), guesses.holdout.mean(axis=1)
    value, ideal = float(main.mean()), float(control.mean())
    error = math.sqrt(main.var(ddof=1) / len(main) + control.var(ddof=1) / len(control))
    half = float(norm.ppf(0.5 + confidence / 2)) * error
    p_value = float(norm.sf((value - ideal) / error)) if error else float(value <= ideal)
    low, high = _shares(value - half, value + half)
    count = len(main) + len(control)
    return CopyFigure("cells guessed from the others", value, ideal, low, high, p_value, count)


def _shares(low: float, high: float) -> tuple[float, float]:
    return max(0.0, low), min(1.0, high)
