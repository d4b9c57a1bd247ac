r"""A monotone map from any distribution of numbers to the standard normal, spikes included.

With :math:`F` the distribution function of the training values, a value is encoded as

.. math:: z = \Phi^{-1}\big(\tfrac12 (F(x^-) + F(x))\big),

the normal score of its mid-rank, and decoded by the generalised inverse of :math:`F`. Values that
carry real mass (*atoms*: the levels of a column of few values, a spike at zero, a cap) own an
interval of probability each, so that everything decoded from the interval is exactly that value
and nothing is invented between an atom and its neighbours. In between, :math:`F` is piecewise
linear through at most ``max_knots`` mid-ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from scidiffusion.errors import ModelFileError

__all__ = ["NormalScores"]

# A column whose values are shared by this many rows on average is a column of levels.
ROWS_PER_LEVEL = 4
MAX_LEVELS = 4096
# A single value is an atom from this share of the rows on (and from 5 rows).
ATOM_SHARE = 0.002
# Probabilities stay this far from 0 and 1, i.e. |z| < 5.2.
TAIL = 1e-7


@dataclass(frozen=True)
class NormalScores:
    """The fitted map, as arrays.

    Args:
        atoms: Values with an interval of their own, increasing; shape (a,).
        edges: The intervals of probability, shape (a, 2), disjoint and increasing.
        values: Knots of the continuous rest, non-decreasing; shape (k,).
        ranks: Their probabilities, non-decreasing; shape (k,).
        inner: Knots at mid-ranks; the others only close a run beside an atom; shape (k,).
    """

    atoms: NDArray[np.float64]
    edges: NDArray[np.float64]
    values: NDArray[np.float64]
    ranks: NDArray[np.float64]
    inner: NDArray[np.bool_]

    @classmethod
    def fit(cls, numbers: NDArray[np.float64], max_knots: int = 1000) -> Self:
        """Fit the map to observed numbers.

        Args:
            numbers: Shape (n,), finite, n >= 1.
            max_knots: How many knots the continuous part may have, about.

        Returns:
            The map.
        """
        distinct, counts = np.unique(numbers, return_counts=True)
        cumulative = np.concatenate([[0.0], np.cumsum(counts)]) / len(numbers)
        if len(distinct) <= MAX_LEVELS and len(numbers) >= ROWS_PER_LEVEL * len(distinct):
            heavy = np.ones(len(distinct), dtype=bool)
        else:
            heavy = counts >= max(5.0, ATOM_SHARE * len(numbers))
        middle = (cumulative[:-1] + cumulative[1:]) / 2
        keep, start, stop = _choose_knots(heavy, middle, max_knots)
        # Every run is closed on both sides by a copy of its end value, so that the half rank
        # between the end's mid-rank and the neighbouring atom decodes to the end value.
        order = np.concatenate([start, keep, stop])
        ranks = np.concatenate([cumulative[start], middle[keep], cumulative[stop + 1]])
        inner = np.repeat([False, True, False], [len(start), len(keep), len(stop)])
        sorting = np.lexsort([ranks, order])
        return cls(
            atoms=distinct[heavy],
            edges=np.stack([cumulative[:-1][heavy], cumulative[1:][heavy]], axis=1),
            values=distinct[order][sorting],
            ranks=ranks[sorting],
            inner=inner[sorting],
        )

    def encode(
        self, numbers: NDArray[np.float64], within: NDArray[np.float64] | float = 0.5
    ) -> NDArray[np.float64]:
        """Normal scores of numbers.

        Args:
            numbers: Finite, shape (n,). Beyond the fitted range they get the score of its end;
                between an atom and its neighbour, that of the border.
            within: Where in an atom's interval its rows are put, in [0, 1]; the middle, or
                uniform draws of shape (n,) to make the scores exactly normal.

        Returns:
            Scores of shape (n,).
        """
        ranks = np.empty(len(numbers))
        hit = np.zeros(len(numbers), dtype=bool)
        if len(self.atoms):
            index = np.searchsorted(self.atoms, numbers)
            near = np.minimum(index, len(self.atoms) - 1)
            hit = self.atoms[near] == numbers
            low, high = self.edges[near].T
            ranks = low + np.asarray(within) * (high - low)
        if not hit.all():
            if len(self.values):
                ranks[~hit] = np.interp(
                    numbers[~hit], self.values[self.inner], self.ranks[self.inner]
                )
            if len(self.atoms):
                # A value that is no atom lies between two of them, and so does its rank.
                borders = np.concatenate([[0.0], self.edges.ravel(), [1.0]])
                gap = index[~hit]
                known = ranks[~hit] if len(self.values) else borders[2 * gap + 1]
                ranks[~hit] = np.clip(known, borders[2 * gap], borders[2 * gap + 1])
        return ndtri(np.clip(ranks, TAIL, 1 - TAIL))

    def decode(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Numbers of normal scores: the generalised inverse of the distribution function.

        Args:
            scores: Shape (n,), finite.

        Returns:
            Numbers of shape (n,), in the fitted range; in an atom's interval exactly the atom.
        """
        ranks = ndtr(scores)
        numbers = np.empty(len(ranks))
        hit = np.zeros(len(ranks), dtype=bool)
        if len(self.atoms):
            index = np.maximum(np.searchsorted(self.edges[:, 0], ranks, side="right") - 1, 0)
            hit = (ranks >= self.edges[index, 0]) & (ranks < self.edges[index, 1])
            # The extremes 0 and 1 belong to the first and the last atom where these reach them,
            # and so does everything where there is no continuous part.
            hit |= (len(self.values) == 0) | (ranks >= self.edges[-1, 1]) & self._ends_in_atom
            numbers = self.atoms[index]
        if not hit.all():
            numbers[~hit] = np.interp(ranks[~hit], self.ranks, self.values)
        return numbers

    @property
    def _ends_in_atom(self) -> bool:
        return len(self.values) == 0 or bool(self.atoms[-1] > self.values[-1])

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The map as named arrays, for :meth:`from_arrays`."""
        return {
            "atoms": self.atoms,
            "edges": self.edges,
            "values": self.values,
            "ranks": self.ranks,
            "inner": self.inner,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """Read what :meth:`arrays` gave.

        Args:
            arrays: The five arrays by name.

        Raises:
            ModelFileError: If one is missing or their shapes contradict each other.
        """
        try:
            atoms, edges, values, ranks = (
                np.asarray(arrays[name], dtype=np.float64)
                for name in ("atoms", "edges", "values", "ranks")
            )
            inner = np.asarray(arrays["inner"], dtype=bool)
        except KeyError as error:
            raise ModelFileError(f"the quantile table lacks the array {error}") from error
        fits = edges.shape == (*atoms.shape, 2) and values.shape == ranks.shape == inner.shape
        if not fits or atoms.ndim != 1 or values.ndim != 1 or len(atoms) + len(values) == 0:
            raise ModelFileError("the arrays of a quantile table do not fit each other")
        return cls(atoms, edges, values, ranks, inner)


def _choose_knots(
    heavy: NDArray[np.bool_], middle: NDArray[np.float64], max_knots: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Indices of the knots, and of the first and the last value of every run between atoms."""
    light = np.flatnonzero(~heavy)
    if len(light) == 0:
        return light, light, light
    breaks = np.flatnonzero(np.diff(light) > 1)
    start = light[np.concatenate([[0], breaks + 1])]
    stop = light[np.concatenate([breaks, [len(light) - 1]])]
    keep = light
    if len(light) > max_knots:
        # Most knots evenly in rank, for the bulk; the rest evenly in normal score, for the tails.
        low, high = middle[light[0]], middle[light[-1]]
        tails = np.linspace(ndtri(low), ndtri(high), max_knots // 4)
        targets = np.concatenate([np.linspace(low, high, max_knots - len(tails)), ndtr(tails)])
        nearest = np.clip(np.searchsorted(middle[light], targets), 0, len(light) - 1)
        keep = np.unique(np.concatenate([light[nearest], start, stop]))
    return keep, start, stop
