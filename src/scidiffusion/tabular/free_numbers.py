"""Numbers that no training value has, without keeping the training values.

The numbers of the training values fall into some of many equal *cells*; new numbers come only from
cells that hold none. So a new number is never a copy, and what is stored is neither a value nor a
hash of one, which anybody could test guesses with, but where training values are *not*, in at most
a quarter of the range: whoever reads it knows hardly more about the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from scidiffusion.tabular.permutations import LARGEST_DOMAIN, key_of, permuted

__all__ = ["FreeCells", "NumberPattern", "plenty"]

MAX_CELLS = 4096
_FINEST = 2**22
# The kept cells are at most one part in so many.
_HIDDEN = 4
# Cells are taken from all over the range, so that new values do not all begin alike.
_SPREAD = 256


def plenty(n: int) -> int:
    """How many values a pattern should have to offer: room for samples of any size.

    Args:
        n: Number of training values.
    """
    return max(256 * n, 2**24)


@dataclass(frozen=True)
class FreeCells:
    """Part of the numbers 0 ... size - 1: some cells of equal width.

    Args:
        width: Numbers a cell.
        cells: Which cells, ascending.
    """

    width: int
    cells: tuple[int, ...]

    @property
    def capacity(self) -> int:
        """How many numbers the cells hold."""
        return self.width * len(self.cells)

    @classmethod
    def find(cls, taken: NDArray[np.uint64], size: int, wanted: int, key: int) -> Self:
        """Find cells without any of the taken numbers, as wide as possible.

        Args:
            taken: Numbers below `size`.
            size: Numbers there are, in [0, 2**62].
            wanted: How many numbers would be enough.
            key: Chooses among free cells.

        Returns:
            The cells; possibly none.
        """
        if len(taken) == 0 and size > 0:
            return cls(size, (0,))
        taken = np.unique(taken)
        best, count = cls(1, ()), min(64, size)
        while 0 < count <= min(size, _FINEST):
            width = size // count
            used = np.unique(taken // np.uint64(width))
            free = count - int(np.count_nonzero(used < np.uint64(count)))
            most = min(free, MAX_CELLS, size // (_HIDDEN * width))
            if most * width > best.capacity:
                unused = np.setdiff1d(np.arange(count, dtype=np.uint64), used)
                needed = min(most, max(_SPREAD, -(-wanted // width)))
                chosen = np.random.default_rng(key).permutation(len(unused))[:needed]
                best = cls(width, tuple(int(cell) for cell in np.sort(unused[chosen])))
            if best.capacity >= wanted or count == size:
                break
            count = min(4 * count, size)
        return best

    def numbers(self, places: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """The numbers at places 0 ... capacity - 1 of the cells.

        Args:
            places: Any shape.
        """
        cells = np.array(self.cells, dtype=np.uint64)
        width = np.uint64(self.width)
        return cells[(places // width).astype(np.int64)] * width + places % width

    def draw(self, rows: NDArray[np.uint64], key: int, offset: int) -> NDArray[np.uint64]:
        """The numbers of rows, a different one each.

        Args:
            rows: Row numbers below the capacity.
            key: Chooses the permutation.
            offset: Where in it row 0 begins.
        """
        # The sum stays below 2**63.
        shifted = (rows + np.uint64(offset % self.capacity)) % np.uint64(self.capacity)
        return self.numbers(permuted(shifted, self.capacity, key))


@dataclass(frozen=True)
class NumberPattern:
    """Whole numbers of the same size as the training values, or the next ones above them.

    Args:
        low: What is added to the numbers of the cells.
        free: The cells.
        above: From where on numbers follow once the cells are used up.
    """

    low: int
    free: FreeCells
    above: int

    @classmethod
    def fit(cls, values: Sequence[int], limits: tuple[int, int], key: int) -> Self:
        """Learn the range.

        Args:
            values: The training values, at least one.
            limits: The smallest and the largest number that the column's dtype can hold.
            key: Chooses among free cells.

        Returns:
            The pattern: free numbers above the largest value where the values are dense, as in
            1, 2, 3, ..., free numbers of as many digits where they are not.
        """
        low, high, n = min(values), max(values), len(values)
        least, most = limits
        digits = len(str(abs(high)))
        # Ends that many tables could have, and not those of this one.
        if low > 0 and len(str(low)) == digits:
            first = 10 ** (digits - 1)
        else:
            first = max(least, 1 - 10 ** len(str(-low))) if low < 0 else 0
        last = min(most, 10**digits - 1 if high > 0 else 0)
        if high - low + 1 > 2 * n:
            size = min(last - first + 1, LARGEST_DOMAIN)
            numbers = (value - first for value in values)
            taken = np.array([number for number in numbers if number < size], dtype=np.uint64)
            free = FreeCells.find(taken, size, plenty(n), key)
            if free.capacity >= 2 * n:
                return cls(first, free, last + 1)
        start = high + 1
        if last - start < 3 * n:
            last = min(most, 10 ** (max(digits, 1) + 1) - 1)
        if last - start >= 3 * n:
            start += key % n
        size = min(max(last - start + 1, 0), LARGEST_DOMAIN)
        return cls(start, FreeCells(size, (0,) if size else ()), max(start, last + 1))

    def draw(self, rows: NDArray[np.uint64], key: int, seed: int) -> list[int]:
        """The numbers of rows.

        Args:
            rows: Row numbers.
            key: The generator's key.
            seed: The sample's seed.
        """
        capacity = self.free.capacity
        within = rows < np.uint64(capacity)
        # As Python integers: the range may be that of uint64.
        numbers = [self.above + int(row) - capacity for row in rows]
        if within.any():
            drawn = self.free.draw(rows[within], key, key_of(key, seed))
            for place, number in zip(np.flatnonzero(within), drawn.tolist(), strict=True):
                numbers[place] = self.low + number
        return numbers

    def to_json(self) -> dict[str, Any]:
        """The pattern as a JSON object."""
        cells = {"width": self.free.width, "cells": list(self.free.cells)}
        return {"low": self.low, "above": self.above, **cells}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote.

        Args:
            record: The JSON object.
        """
        free = FreeCells(int(record["width"]), tuple(record["cells"]))
        return cls(int(record["low"]), free, int(record["above"]))
