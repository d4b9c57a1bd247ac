r"""Counts, frequencies, ranges and quantiles with differential privacy.

Everything is read off histograms with noise. One row more or less changes one count of a histogram
by 1, and so, of h histograms together, h counts by 1: the L1 sensitivity is h and the L2
sensitivity sqrt(h). Either of two kinds of noise makes all h of them (epsilon, delta)-private:

    geometric    P(k) proportional to exp(-epsilon / h |k|), delta = 0     (Ghosh et al. 2009)
    Gaussian     standard deviation sqrt(h) / ratio(epsilon, delta)        (Balle & Wang 2018)

and `CountNoise.share` takes the smaller. What is made of noisy counts costs nothing more. A list
of levels that is not public is made by leaving out every count that a single row could have
brought about, which fails with probability delta' more a histogram.

Gaussian noise is drawn as a float and rounded to whole counts; it is not hardened against
attacks on the last bits of a generator's floats (Mironov 2012).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from scidiffusion.errors import ConfigError, DataError
from scidiffusion.training.accounting import gaussian_ratio

__all__ = [
    "CountNoise",
    "private_categories",
    "private_frequencies",
    "private_masses",
    "private_quantiles",
    "private_range",
]

EXPONENTS = 64
"""`private_range` knows numbers of absolute value 2**-64 to 2**64, and zero."""
DEPTH = 8
"""Levels of halving of a range, of at most a factor of two around the numbers: 256 parts."""


@dataclass(frozen=True)
class CountNoise:
    """Noise of counts.

    Args:
        scale: Standard deviation of a Gaussian, or ``epsilon / h`` of a geometric law.
        gaussian: Which of the two.
    """

    scale: float
    gaussian: bool

    @classmethod
    def share(
        cls, histograms: int, epsilon: float, delta: float = 0.0, *, coarse: int = 0
    ) -> Self:
        """The smaller noise that makes some histograms of the same rows private together.

        Args:
            histograms: Their number h, >= 1; a row is counted at most once in each.
            epsilon: Privacy loss of all of them, > 0.
            delta: In [0, 1); 0 leaves geometric noise.
            coarse: Further histograms, which get `coarser` noise and cost less: as much as a half
                of a histogram under geometric noise, as a quarter under Gaussian.

        Raises:
            ConfigError: if a number is out of range.
        """
        if histograms < 1 or coarse < 0 or not epsilon > 0 or not 0 <= delta < 1:
            raise ConfigError(
                "noise of counts needs histograms >= 1, epsilon > 0 and delta in [0, 1), got "
                f"{histograms}, {epsilon} and {delta}"
            )
        geometric = cls(epsilon / (histograms + coarse / 2), False)
        if delta == 0:
            return geometric
        size = math.sqrt(histograms + coarse / 4)
        gaussian = cls(size / gaussian_ratio(epsilon, delta), True)
        return min(geometric, gaussian, key=lambda noise: noise.std)

    @property
    def coarser(self) -> CountNoise:
        """Noise of about twice the size, for what needs less precision."""
        return CountNoise(self.scale * 2 if self.gaussian else self.scale / 2, self.gaussian)

    @property
    def std(self) -> float:
        """Standard deviation, in rows."""
        if self.gaussian:
            return self.scale
        return math.sqrt(0.5) / math.sinh(self.scale / 2)

    def add(self, counts: ArrayLike, rng: np.random.Generator) -> NDArray[np.float64]:
        """Counts with noise, whole numbers that may be negative.

        Args:
            counts: Any shape.
            rng: Source of randomness; as secret as the data.
        """
        exact = np.asarray(counts, dtype=np.float64)
        if self.gaussian:
            return np.rint(exact + self.scale * rng.standard_normal(exact.shape))
        # The difference of two geometric numbers is two-sided geometric.
        stop = -math.expm1(-self.scale)
        up, down = rng.geometric(stop, exact.shape), rng.geometric(stop, exact.shape)
        return exact + up - down

    def exceeded(self, probability: float) -> float:
        """A number of rows that noise alone reaches with at most a given probability.

        Args:
            probability: In (0, 1/2).
        """
        if self.gaussian:
            return float(self.scale * norm.isf(probability)) + 0.5
        # P(noise >= k) = exp(-scale k) / (1 + exp(-scale)).
        return math.ceil(-math.log(probability * (1 + math.exp(-self.scale))) / self.scale)


def private_frequencies(
    codes: NDArray[np.int64], count: int, noise: CountNoise, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Frequencies of known levels: one histogram.

    Args:
        codes: Shape (n,), levels 0 .. count - 1; others are not counted.
        count: Number of levels, public.
        noise: Noise of the counts.
        rng: Source of randomness.

    Returns:
        Shape (count,), >= 0, of sum 1; uniform if no count is above zero.
    """
    known = codes[(codes >= 0) & (codes < count)]
    noisy = np.maximum(noise.add(np.bincount(known, minlength=count), rng), 0.0)
    total = noisy.sum()
    return noisy / total if total > 0 else np.full(count, 1 / count)


def private_categories(
    values: Sequence[Hashable] | pd.Series,
    noise: CountNoise,
    delta: float,
    rng: np.random.Generator,
) -> dict[Hashable, float]:
    """Levels that many rows have, with noisy counts: one histogram over unknown levels.

    A level is named only if its noisy count exceeds what one row and noise reach with probability
    delta: a level that a single row brought along is named with no more than that probability
    (Korolova et al. 2009).

    Args:
        values: One value a row; missing ones are left out.
        noise: Noise of the counts.
        delta: Probability of naming a level that one row brought, in (0, 1/2); it adds to the
            delta of the noise.
        rng: Source of randomness.

    Returns:
        Level -> noisy count, most frequent first.
    """
    counts = pd.Series(values).dropna().value_counts(sort=False)
    # In an order that does not depend on the rows' order.
    levels = sorted(counts.index.tolist(), key=repr)
    exact = np.array([counts[level] for level in levels], dtype=np.float64)
    noisy = noise.add(exact, rng)
    least = 1 + noise.exceeded(delta)
    kept = [(level, float(c)) for level, c in zip(levels, noisy, strict=True) if c > least]
    return dict(sorted(kept, key=lambda item: -item[1]))


def private_range(
    values: NDArray[np.float64], noise: CountNoise, rng: np.random.Generator
) -> tuple[float, float]:
    """A range with nearly all numbers in it, to a factor of two: one histogram.

    Numbers are counted by sign and power of two; the range is that of the counts above the noise.

    Args:
        values: Shape (n,), finite.
        noise: Noise of the counts.
        rng: Source of randomness.

    Returns:
        Low and high end.

    Raises:
        DataError: if no count is above the noise.
    """
    size = np.abs(values)
    exponent = np.clip(np.floor(np.log2(np.maximum(size, 1e-300))), -EXPONENTS, EXPONENTS - 1)
    place = np.where(size < 2.0**-EXPONENTS, 0, np.sign(values) * (exponent + EXPONENTS + 1))
    bins = 4 * EXPONENTS + 1
    counts = np.bincount(place.astype(np.int64) + 2 * EXPONENTS, minlength=bins)
    noisy = noise.add(counts, rng)
    found = np.flatnonzero(noisy > noise.exceeded(0.01 / bins)) - 2 * EXPONENTS
    if not len(found):
        raise DataError("no range of numbers stands out of the noise of privacy")

    def edge(position: int, upper: bool) -> float:
        if position == 0:
            return 0.0
        inner = abs(position) - EXPONENTS - 1
        return math.copysign(2.0 ** (inner + (upper == (position > 0))), position)

    return edge(int(found[0]), False), edge(int(found[-1]), True)


def private_masses(
    values: NDArray[np.float64],
    low: float,
    high: float,
    noise: CountNoise,
    rng: np.random.Generator,
    depth: int = DEPTH,
) -> NDArray[np.float64]:
    """Shares of the 2**depth equal parts of a range: ``depth`` histograms.

    The range is halved again and again; each part's rows are divided as the noisy counts of its
    halves say, evenly where both are within the noise. However fine the division, the share of a
    large part has the noise of a few counts, where a plain histogram adds up that of many (Hay et
    al. 2010).

    Args:
        values: Shape (n,), finite; those outside count at the ends.
        low: Low end of the range, public or private already.
        high: High end, > low.
        noise: Noise of the counts.
        rng: Source of randomness.
        depth: How often to halve, >= 1.

    Returns:
        Shape (2**depth,), >= 0, of sum 1.
    """
    if not low < high:
        raise ConfigError(f"a range needs low < high, got {low} and {high}")
    leaves = 2**depth
    # Halved first: the range of floats may be wider than the largest of them.
    place = (values / 2 - low / 2) / (high / 2 - low / 2) * leaves
    counts = np.bincount(np.clip(place, 0, leaves - 1).astype(np.int64), minlength=leaves)
    masses = np.ones(1)
    for level in range(1, depth + 1):
        exact = counts.reshape(2**level, -1).sum(axis=1)
        halves = np.maximum(noise.add(exact, rng), 0.0).reshape(-1, 2)
        faint = halves.max(axis=1) < 2 * noise.std
        halves[faint] = 1.0
        masses = (masses[:, None] * halves / halves.sum(axis=1, keepdims=True)).ravel()
    return masses


def private_quantiles(
    values: NDArray[np.float64],
    low: float,
    high: float,
    probabilities: ArrayLike,
    noise: CountNoise,
    rng: np.random.Generator,
    depth: int = DEPTH,
) -> NDArray[np.float64]:
    """Quantiles of numbers of a known range: ``depth`` histograms, however many quantiles.

    Args:
        values: Shape (n,), finite; those outside count at the ends.
        low: Low end of the range, public or private already.
        high: High end, > low.
        probabilities: In [0, 1], any shape.
        noise: Noise of the counts.
        rng: Source of randomness.
        depth: The range is known to ``2**-depth`` of itself.

    Returns:
        The quantiles, non-decreasing in the probabilities, within the range.
    """
    masses = private_masses(values, low, high, noise, rng, depth)
    return masses_quantiles(masses, low, high, np.asarray(probabilities, dtype=np.float64))


def masses_quantiles(
    masses: NDArray[np.float64], low: float, high: float, probabilities: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Quantiles of a law that is uniform in each of equal parts of a range."""
    ends = np.cumsum(masses)
    first = int((masses > 0).argmax())
    place = np.searchsorted(ends, probabilities * ends[-1], side="left")
    place = np.clip(place, first, np.flatnonzero(masses)[-1])
    within = (probabilities * ends[-1] - (ends - masses)[place]) / masses[place]
    return low + (high - low) * (place + np.clip(within, 0.0, 1.0)) / len(masses)
