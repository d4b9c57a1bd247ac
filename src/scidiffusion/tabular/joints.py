"""Two columns of two tables counted over the same cells, and cells and counts as text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.tabular.columns import series_from_numbers
from scidiffusion.tabular.marginals import bin_edges, compact, level_groups, shown_numbers
from scidiffusion.tabular.schema import ColumnKind, ColumnSchema
from scidiffusion.tabular.views import TableView

__all__ = ["Axis", "Joint", "bin_text", "column_values", "joint_shares", "shown_cell", "time_text"]

JOINT_BINS = 22
JOINT_LEVELS = 10


def column_values(
    view: TableView, column: ColumnSchema
) -> NDArray[np.float64] | NDArray[np.int64]:
    """Numbers or codes of one column.

    Args:
        view: The table.
        column: One of its columns.
    """
    if column.kind.is_discrete:
        return view.codes[:, view.discrete.index(column)]
    return view.numbers[:, view.numerical.index(column)]


def time_text(count: float, column: ColumnSchema) -> str:
    """A date or duration as text.

    Args:
        count: As a view holds it.
        column: A column of dates or durations.
    """
    assert column.minimum is not None
    assert column.maximum is not None
    inside = np.clip(np.rint(count), 0, float(column.maximum - column.minimum))
    value = series_from_numbers(np.array([inside]), column).iloc[0]
    return str(value).removesuffix(" 00:00:00").removeprefix("0 days ")


@dataclass(frozen=True)
class Axis:
    """One axis of a joint distribution.

    Args:
        column: The column.
        labels: What each cell holds: a range, a level, ``missing``.
        edges: Of numbers the edges of the bins; one cell more than these is of missing values.
    """

    column: ColumnSchema
    labels: tuple[str, ...]
    edges: NDArray[np.float64] | None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Joint:
    """The joint distribution of two columns in two tables.

    Args:
        axes: The bins of the first and the second column.
        real: Share of the rows in every cell; shape (len of the first axis, of the second).
        synthetic: The same of the synthetic table.
    """

    axes: tuple[Axis, Axis]
    real: NDArray[np.float64]
    synthetic: NDArray[np.float64]


def joint_shares(real: TableView, synthetic: TableView, first: str, second: str) -> Joint:
    """Count two columns of two tables over the same cells.

    Args:
        real: The real table.
        synthetic: The synthetic table.
        first: A column.
        second: Another one.

    Returns:
        The shares: numbers in at most 22 bins and one of the missing, the ten most frequent
        levels.
    """
    axes, places = [], []
    for name in (first, second):
        axis, place = _axis((real, synthetic), real.schema[name])
        axes.append(axis)
        places.append(place)
    shares = []
    for side in (0, 1):
        cells = places[0][side] * len(axes[1]) + places[1][side]
        counts = np.bincount(cells, minlength=len(axes[0]) * len(axes[1]))
        shares.append(counts.reshape(len(axes[0]), len(axes[1])) / len(cells))
    return Joint((axes[0], axes[1]), shares[0], shares[1])


def _axis(
    views: tuple[TableView, TableView], column: ColumnSchema
) -> tuple[Axis, list[NDArray[np.int64]]]:
    sides = [column_values(view, column) for view in views]
    if column.kind.is_discrete:
        codes = [np.asarray(x, dtype=np.int64) for x in sides]
        labels, bar = level_groups(codes, column, JOINT_LEVELS)
        return Axis(column, tuple(labels), None), [bar[x] for x in codes]
    numbers = [shown_numbers(np.asarray(x, dtype=np.float64), column) for x in sides]
    # Small tables in few cells: of one row each they would show nothing but chance.
    most = int(np.clip(0.4 * np.sqrt(min(len(x) for x in sides)), 6, JOINT_BINS))
    edges, _ = bin_edges(numbers[0][np.isfinite(numbers[0])], column, most)
    bins = len(edges) - 1
    places = [
        np.where(
            np.isnan(x),
            bins,
            np.clip(np.searchsorted(edges, np.nan_to_num(x), side="right") - 1, 0, bins - 1),
        )
        for x in numbers
    ]
    labels = [bin_text(edges[k], edges[k + 1], column) for k in range(bins)]
    if any(np.isnan(x).any() for x in numbers):
        labels.append("missing")
    return Axis(column, tuple(labels), edges), places


def bin_text(low: float, high: float, column: ColumnSchema) -> str:
    """What a bin holds.

    Args:
        low: Its lower edge.
        high: Its upper edge.
        column: The column it is of.
    """
    if column.kind is not ColumnKind.NUMERICAL:
        ends = time_text(np.ceil(low), column), time_text(np.ceil(high) - 1, column)
    elif column.integer and np.ceil(low) < high:
        ends = compact(np.ceil(low)), compact(np.ceil(high) - 1)
    else:
        ends = f"{low:.4g}", f"{high:.4g}"
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} – {ends[1]}"


def shown_cell(value: object) -> str:
    """One cell of a table as a report shows it.

    Args:
        value: Any value.
    """
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return "missing"
    if isinstance(value, float | np.floating):
        return compact(float(value))
    return str(value).removesuffix(" 00:00:00")
