"""One column's distribution in two tables, as bins or bars that a reader can compare.

Both tables are counted over the same bins or levels: bins of equal width over most of the real
values (even in the logarithm where one order of magnitude hides the next), or the levels that
either table has most often, and the rest together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scidiffusion.tabular.schema import ColumnKind, ColumnSchema

__all__ = [
    "bin_edges",
    "bin_shares",
    "compact",
    "level_groups",
    "level_shares",
    "shorten",
    "shown_numbers",
]

BINS = 40
MAX_LEVELS = 8


def shown_numbers(numbers: NDArray[np.float64], column: ColumnSchema) -> NDArray[np.float64]:
    """Numbers as the column shows them; dates and durations stay counts.

    Args:
        numbers: As a :class:`~scidiffusion.tabular.views.TableView` holds them.
        column: The column.
    """
    if column.kind is ColumnKind.NUMERICAL and isinstance(column.minimum, int):
        return numbers + column.minimum
    return numbers


def bin_edges(
    values: NDArray[np.float64], column: ColumnSchema, bins: int = BINS
) -> tuple[NDArray[np.float64], bool]:
    """Bins for most of the real values, and whether they are even in the logarithm.

    What lies beyond the outermost edges is meant to be counted in the outermost bins.

    Args:
        values: The real values as :func:`shown_numbers` gives them, none missing.
        column: The column.
        bins: How many bins at most.

    Returns:
        Increasing edges, and whether the axis is logarithmic.
    """
    distinct = np.unique(values)
    if len(distinct) < 2:
        centre = float(distinct[0]) if len(distinct) else 0.0
        return np.array([centre - 0.5, centre + 0.5]), False
    whole = column.integer or column.kind is not ColumnKind.NUMERICAL
    if whole and distinct[-1] - distinct[0] < bins:
        return np.arange(distinct[0] - 0.5, distinct[-1] + 1.0), False
    low, middle, high = np.quantile(values, [0.002, 0.5, 0.998])
    if column.kind is ColumnKind.NUMERICAL and low > 0 and high > 50 * low and high > 8 * middle:
        return np.geomspace(low, high, bins + 1), True
    if high - low <= 0.05 * (distinct[-1] - distinct[0]):
        low, high = distinct[0], distinct[-1]
    width = (high - low) / bins
    if whole:
        # Bins of equally many whole numbers, or their counts would show stripes.
        width = max(1.0, np.ceil(width))
        low = np.floor(low) - 0.5
    count = max(int(np.ceil((high - low) / width)), 1)
    return low + width * np.arange(count + 1), False


def bin_shares(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the values in every bin, the outermost bins open to the outside.

    Args:
        values: Numbers, none missing.
        edges: Increasing edges.

    Returns:
        One share a bin; they sum to 1, or are all 0 without values.
    """
    inside = np.clip(values, edges[0], edges[-1])
    return np.histogram(inside, edges)[0] / max(len(values), 1)


def level_shares(
    codes: Sequence[NDArray[np.int64]], column: ColumnSchema, limit: int = MAX_LEVELS
) -> tuple[list[str], NDArray[np.float64]]:
    """Shares of a column's most frequent levels in several tables, sorted by the first table.

    Args:
        codes: Every table's codes as a :class:`~scidiffusion.tabular.views.TableView` holds them.
        column: A discrete column.
        limit: How many bars at most; the last one is then all other levels together.

    Returns:
        The labels, and the shares of shape (tables, labels).
    """
    labels, bar = level_groups(codes, column, limit)
    counts = np.stack([np.bincount(bar[x], minlength=len(labels)) for x in codes])
    return labels, counts / [[len(x)] for x in codes]


def level_groups(
    codes: Sequence[NDArray[np.int64]], column: ColumnSchema, limit: int = MAX_LEVELS
) -> tuple[list[str], NDArray[np.int64]]:
    """The bars of :func:`level_shares`, and the bar of every code.

    Args:
        codes: Every table's codes.
        column: A discrete column.
        limit: How many bars at most.

    Returns:
        The labels, and the place of each code's bar.
    """
    names = [*(str(level) for level in column.categories), "missing", "unknown"]
    counts = np.stack([np.bincount(x, minlength=len(names)) for x in codes])
    order = np.argsort(-counts[0], kind="stable")
    order = order[counts[:, order].max(axis=0) > 0]
    if len(order) > limit:
        # A level that one of the tables has often is shown, whichever it is.
        often = (counts / counts.sum(axis=1, keepdims=True)).max(axis=0)[order]
        shown = np.zeros(len(order), dtype=bool)
        shown[np.argsort(-often, kind="stable")[: limit - 1]] = True
        order = np.concatenate([order[shown], order[~shown]])
    bar = np.zeros(len(names), dtype=np.int64)
    bar[order] = np.minimum(np.arange(len(order)), limit - 1)
    if len(order) <= limit:
        return [names[k] for k in order], bar
    labels = [names[k] for k in order[: limit - 1]]
    return [*labels, f"{len(order) - limit + 1} others"], bar


def compact(value: float) -> str:
    """A number in few characters.

    Args:
        value: The number.
    """
    for size, suffix in ((1e9, "G"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:.4g}{suffix}"
    return f"{value:.6g}"


def shorten(text: str, length: int) -> str:
    """A text cut to a length, with an ellipsis where something is lost.

    Args:
        text: The text.
        length: How many characters at most.
    """
    return text if len(text) <= length else text[: length - 1] + "…"
