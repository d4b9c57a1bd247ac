r"""One column as a code and, where the code says so, a number.

    level | bucket of rare levels             columns of levels
    atom | somewhere between the atoms        columns of numbers, dates and durations
    missing                                   either, the last code

A number that many rows share (a zero, a cap, each of a handful of values) is an *atom*, a code of
its own; the others are "continuous" and enter as the normal score of their rank among the
continuous ones. An atom has such a score too, for the network to see where it lies, but is never
read from it.

Beyond `MAX_CODES` levels the rarest ones share buckets: a bucket is drawn by the network, the
level in it by frequency. Memory stays bounded however many levels there are, and levels of a few
rows each are not learned by heart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from scidiffusion.errors import ModelFileError
from scidiffusion.tabular.quantiles import NormalScores

__all__ = ["LevelBook", "NumberBook"]

MAX_CODES = 1024
"""Codes of a column of levels at most."""
MAX_ATOMS = 96
"""A column of at most this many distinct numbers, each well filled, has atoms only."""
ROWS_PER_ATOM = 20
ATOM_SHARE = 1 / 64
"""Elsewhere a number is an atom from this share of the rows on."""
LEAST_ATOM = 12
MAX_KNOTS = 2000
SCORE_LIMIT = 3.5
"""Scores of atoms outside the range of the continuous numbers."""


@dataclass(frozen=True)
class LevelBook:
    """Levels 0..L-1 as codes 0..K-1.

    Args:
        code_of_level: (L,) code of every level.
        frequency: (L,) share of every level among the rows of its code, in [0, 1].
    """

    code_of_level: NDArray[np.int64]
    frequency: NDArray[np.float64]

    @classmethod
    def fit(cls, levels: NDArray[np.int64], count: int, max_codes: int = MAX_CODES) -> Self:
        """Give codes to levels.

        Args:
            levels: (n,) levels of the rows, -1 where missing.
            count: Number of levels L.
            max_codes: Codes at most.
        """
        rows = np.bincount(levels[levels >= 0], minlength=count).astype(np.float64)
        code_of_level = np.arange(count)
        if count > max_codes:
            own = max_codes * 3 // 4
            order = np.argsort(-rows, kind="stable")
            frequent = np.sort(order[:own])
            code_of_level[frequent] = np.arange(own)
            # Neighbours in the levels' own order share a bucket: sorted text has families.
            rest = np.sort(order[own:])
            filled = np.cumsum(rows[rest] + 1e-9)
            bucket = np.floor(filled / filled[-1] * (max_codes - own) * (1 - 1e-12))
            _, bucket = np.unique(bucket, return_inverse=True)
            code_of_level[rest] = own + bucket
        total = np.bincount(code_of_level, weights=rows)
        size = np.bincount(code_of_level)
        # A level without rows (its frequency is asked of all levels) shares its code evenly.
        full = total[code_of_level] > 0
        share = np.where(full, rows / np.where(full, total[code_of_level], 1.0), 0.0)
        return cls(code_of_level, np.where(full, share, 1.0 / size[code_of_level]))

    @property
    def codes(self) -> int:
        """Number of codes K, without missing."""
        return int(self.code_of_level.max()) + 1

    def encode(self, levels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Codes of levels; missing (-1) is K."""
        return np.where(levels < 0, self.codes, self.code_of_level[levels])

    def decode(self, codes: NDArray[np.int64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """Levels of codes, -1 for missing.

        Args:
            codes: (n,).
            uniform: (n,) in [0, 1): chooses the level in a bucket.
        """
        order = np.argsort(self.code_of_level, kind="stable")
        ends = np.cumsum(self.frequency[order])
        # Each code's frequencies add up to 1, so code c owns (c, c + 1].
        place = np.searchsorted(ends, codes + np.clip(uniform, 0, 1 - 1e-9), side="right")
        first = np.searchsorted(self.code_of_level[order], codes, side="left")
        last = np.searchsorted(self.code_of_level[order], codes, side="right") - 1
        levels = order[np.clip(place, first, np.maximum(last, first)).clip(max=len(order) - 1)]
        return np.where(codes >= self.codes, -1, levels)

    def log_frequency(self, levels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Log-probability of levels given their codes; 0 for missing."""
        with np.errstate(divide="ignore"):
            return np.where(levels < 0, 0.0, np.log(self.frequency[levels]))

    def allowed(self, levels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Share of each code that a set of levels makes up, (K + 1,); -1 is missing."""
        chosen = levels[levels >= 0]
        shares = np.bincount(
            self.code_of_level[chosen], weights=self.frequency[chosen], minlength=self.codes + 1
        )
        allowed: NDArray[np.float64] = shares.astype(np.float64)
        allowed[self.codes] = float((levels < 0).any())
        return allowed

    def restricted(self, levels: NDArray[np.int64]) -> LevelBook:
        """The book whose codes decode to a set of levels only, where they hold one of it."""
        chosen = np.zeros(len(self.frequency), dtype=bool)
        chosen[levels[levels >= 0]] = True
        kept = np.where(chosen, self.frequency, 0.0)
        total = np.bincount(self.code_of_level, weights=kept)[self.code_of_level]
        share = np.where(total > 0, kept / np.where(total > 0, total, 1.0), self.frequency)
        return LevelBook(self.code_of_level, share)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The book as named arrays."""
        return {"code_of_level": self.code_of_level, "frequency": self.frequency}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Read what `arrays` gave.

        Raises:
            ModelFileError: if an array is missing.
        """
        try:
            return cls(
                np.asarray(arrays["code_of_level"], dtype=np.int64),
                np.asarray(arrays["frequency"], dtype=np.float64),
            )
        except KeyError as error:
            raise ModelFileError(f"the codes of a column lack the array {error}") from error


@dataclass(frozen=True)
class NumberBook:
    """Numbers as codes (atoms, then "continuous" if there is such) and normal scores.

    Args:
        atoms: Numbers with a code of their own, increasing; (a,).
        atom_scores: Where they lie among the continuous numbers, as normal scores; (a,).
        scores: Map of the continuous numbers; None where all numbers are atoms.
    """

    atoms: NDArray[np.float64]
    atom_scores: NDArray[np.float64]
    scores: NormalScores | None

    @classmethod
    def fit(cls, numbers: NDArray[np.float64]) -> Self:
        """Choose the atoms and fit the map.

        Args:
            numbers: (n,) finite, n >= 1.
        """
        distinct, counts = np.unique(numbers, return_counts=True)
        rows = len(numbers)
        if len(distinct) <= min(MAX_ATOMS, max(2, rows // ROWS_PER_ATOM)):
            heavy = np.ones(len(distinct), dtype=bool)
        else:
            heavy = counts >= max(LEAST_ATOM, ATOM_SHARE * rows)
        atoms = distinct[heavy]
        if heavy.all():
            middle = (np.cumsum(counts) - counts / 2) / rows
            return cls(atoms, ndtri(middle), None)
        rest = numbers[~np.isin(numbers, atoms)]
        scores = NormalScores.fit(rest, MAX_KNOTS)
        placed = np.clip(scores.encode(atoms), -SCORE_LIMIT, SCORE_LIMIT) if len(atoms) else atoms
        return cls(atoms, placed, scores)

    @property
    def codes(self) -> int:
        """Number of codes, without missing."""
        return len(self.atoms) + (self.scores is not None)

    @property
    def continuous(self) -> int:
        """The code of continuous numbers, -1 if there is none."""
        return len(self.atoms) if self.scores is not None else -1

    def encode(
        self, numbers: NDArray[np.float64], uniform: NDArray[np.float64] | float = 0.5
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Codes and normal scores of numbers; NaN is missing, its score 0.

        Args:
            numbers: (n,); beyond the atoms where there are only atoms, the nearest atom.
            uniform: Where in the interval of a shared value its rows are put.
        """
        missing = np.isnan(numbers)
        filled = np.where(missing, 0.0, numbers)
        codes = np.full(len(numbers), len(self.atoms), dtype=np.int64)
        values = np.zeros(len(numbers))
        if len(self.atoms):
            near = np.clip(np.searchsorted(self.atoms, filled), 0, len(self.atoms) - 1)
            if self.scores is None:
                below = np.maximum(near - 1, 0)
                closer = np.abs(self.atoms[below] - filled) < np.abs(self.atoms[near] - filled)
                near = np.where(closer, below, near)
            hit = (self.atoms[near] == filled) | (self.scores is None)
            codes[hit], values[hit] = near[hit], self.atom_scores[near[hit]]
        if self.scores is not None:
            rest = ~missing & (codes == len(self.atoms))
            within = uniform if np.isscalar(uniform) else np.asarray(uniform)[rest]
            values[rest] = self.scores.encode(numbers[rest], within)  # type: ignore[arg-type]
        codes[missing], values[missing] = self.codes, 0.0
        return codes, values

    def decode(self, codes: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Numbers of codes and scores, NaN for missing."""
        numbers = np.full(len(codes), np.nan)
        atom = codes < len(self.atoms)
        numbers[atom] = self.atoms[codes[atom]]
        if self.scores is not None:
            rest = codes == len(self.atoms)
            numbers[rest] = self.scores.decode(values[rest].astype(np.float64))
        return numbers

    def restrict(
        self, intervals: NDArray[np.float64], step: float, weights: NDArray[np.float64]
    ) -> NDArray[np.float64] | None:
        """Which codes and scores are numbers within intervals.

        Args:
            intervals: (k, 2) closed, disjoint and increasing, of numbers as the column writes
                them.
            step: Distance of two numbers that the column can write, 0 for any.
            weights: (codes,) set in place: 1 for the codes that are allowed.

        Returns:
            (k', 2) intervals of scores under the continuous code, None if it allows none.
        """
        low, high = intervals[:, :1], intervals[:, 1:]
        weights[: len(self.atoms)] = ((self.atoms >= low) & (self.atoms <= high)).any(0)
        if self.scores is None or not len(intervals):
            return None
        # Everything that is rounded to a number of the interval counts as in it.
        half = step / 2 if step else 1e-9 * np.maximum(np.abs(intervals), 1e-9)
        wide = intervals + np.array([-1.0, 1.0]) * half
        span = [self.scores.encode(wide[:, end], float(end)) for end in (0, 1)]
        scores = np.stack(span, axis=1)
        scores = scores[scores[:, 1] > scores[:, 0]]
        weights[len(self.atoms)] = float(len(scores) > 0)
        return scores if len(scores) else None

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The book as named arrays."""
        arrays: dict[str, NDArray[Any]] = {"atoms": self.atoms, "atom_scores": self.atom_scores}
        if self.scores is not None:
            arrays |= {f"scores.{name}": array for name, array in self.scores.arrays().items()}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Read what `arrays` gave.

        Raises:
            ModelFileError: if an array is missing.
        """
        prefix = "scores."
        parts = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        try:
            return cls(
                np.asarray(arrays["atoms"], dtype=np.float64),
                np.asarray(arrays["atom_scores"], dtype=np.float64),
                NormalScores.from_arrays(parts) if parts else None,
            )
        except KeyError as error:
            raise ModelFileError(f"the codes of a column lack the array {error}") from error
