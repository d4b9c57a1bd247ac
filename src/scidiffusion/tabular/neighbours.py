"""Nearest rows of mixed tables: one distance, searched in blocks of bounded memory.

    d(a, b) = sum over numbers |a - b| / range  +  2 per level that differs
              + 1 per number that only one of the two rows lacks,

the L1 distance of scaled numbers and one-hot levels; ranges and the stand-in of a missing number
(the median) are those of all real rows together. Equal rows have distance 0, and rows equally near
share what is counted of a nearest row: then a table of few distinct rows has no favourites.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from scidiffusion.tabular.views import TableView

__all__ = ["WORK", "Points", "RowSpace", "affordable_rows", "k_nearest", "nearest_counts"]

WORK = 600_000_000
"""Subtractions one search may take: about a second."""
BLOCK = 1_000_000
"""Distances held at once."""
EQUAL = 1e-9
"""Distances closer than this are equal."""


@dataclass(frozen=True)
class Points:
    """Rows as a `RowSpace` sees them.

    Args:
        numbers: Shape (n, d_num + number of columns with missing values), scaled, none missing.
        codes: Shape (n, d_cat), the levels' codes.
    """

    numbers: NDArray[np.float64]
    codes: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Points:
        """Some of the rows."""
        return Points(self.numbers[rows], self.codes[rows])

    @property
    def width(self) -> int:
        """Number of terms of a distance."""
        return self.numbers.shape[1] + self.codes.shape[1]


@dataclass(frozen=True)
class RowSpace:
    """Units of the distance.

    Args:
        low: Smallest value of each number.
        span: Range of each number; 1 where it is constant.
        middle: What stands for a missing value.
        flagged: Numbers that are missing in some row.
    """

    low: NDArray[np.float64]
    span: NDArray[np.float64]
    middle: NDArray[np.float64]
    flagged: NDArray[np.bool_]

    @classmethod
    def of(cls, *views: TableView) -> Self:
        """The space of several real tables; none of them counts more than the others.

        Args:
            views: The tables, under one schema.
        """
        numbers = np.concatenate([view.numbers for view in views])
        missing = np.isnan(numbers)
        low, span, middle = np.zeros((3, numbers.shape[1]))
        for index, column in enumerate(numbers.T):
            present = column[~missing[:, index]]
            if len(present):
                low[index], middle[index] = present.min(), np.median(present)
                span[index] = present.max() - low[index]
        return cls(low, np.where(span > 0, span, 1.0), middle, missing.any(axis=0))

    def points(self, view: TableView) -> Points:
        """See a table in this space.

        Args:
            view: Any table under the schema.
        """
        missing = np.isnan(view.numbers)
        scaled = (np.where(missing, self.middle, view.numbers) - self.low) / self.span
        flags = missing[:, self.flagged].astype(np.float64)
        return Points(np.concatenate([scaled, flags], axis=1), view.codes.astype(np.float64))


def affordable_rows(base_rows: int, width: int, least: int = 200, most: int = 3000) -> int:
    """How many rows one search through a table may look up.

    Args:
        base_rows: Rows of the table.
        width: Terms of a distance.
        least: At least this many.
        most: At most this many.
    """
    return int(np.clip(WORK // max(base_rows * width, 1), least, most))


def distances(queries: Points, base: Points) -> NDArray[np.float64]:
    """All distances.

    Args:
        queries: q rows.
        base: b rows.

    Returns:
        Shape (q, b).
    """
    parts = []
    if queries.numbers.shape[1]:
        parts.append(cdist(queries.numbers, base.numbers, "cityblock"))
    if queries.codes.shape[1]:
        parts.append(cdist(queries.codes, base.codes, "hamming"))
        parts[-1] *= 2 * queries.codes.shape[1]
    if len(parts) == 2:
        parts[0] += parts[1]
    return parts[0]


def blocks(queries: int, base: int) -> Iterator[slice]:
    """Cut queries into blocks whose distances to the base fit into memory."""
    step = max(1, BLOCK // max(base, 1))
    for start in range(0, queries, step):
        yield slice(start, start + step)


def nearest_counts(
    queries: Points, base: Points, groups: Sequence[NDArray[np.bool_]]
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """How often each row of a table is the nearest one, within groups of its rows.

    Args:
        queries: The rows whose nearest row is looked up.
        base: b rows.
        groups: Masks of shape (b,), each a table to search on its own.

    Returns:
        For each group the counts, shape (b,), of sum ``len(queries)``: rows equally near share;
        and the distance of every query to the group's nearest row.
    """
    counts = [np.zeros(len(base)) for _ in groups]
    nearest = [np.empty(len(queries)) for _ in groups]
    for rows in blocks(len(queries), len(base)):
        block = distances(queries.take(rows), base)
        for group, count, near in zip(groups, counts, nearest, strict=True):
            inside = block if group.all() else block[:, group]
            least = inside.min(axis=1)
            tied = (inside <= least[:, None] + EQUAL).astype(np.float64)
            count[group] += (tied / tied.sum(axis=1, keepdims=True)).sum(axis=0)
            near[rows] = least
    return list(zip(counts, nearest, strict=True))


def k_nearest(queries: Points, base: Points, k: int) -> NDArray[np.float64]:
    """Distances to the k nearest rows of a table, the nearest first.

    Args:
        queries: q rows.
        base: At least k rows.
        k: How many.

    Returns:
        Shape (q, k).
    """
    found = np.empty((len(queries), k))
    for rows in blocks(len(queries), len(base)):
        block = distances(queries.take(rows), base)
        found[rows] = np.sort(np.partition(block, k - 1, axis=1)[:, :k], axis=1)
    return found
