"""Where two tables differ: every column, every pair, each against what real rows show by chance.

A distance between two samples is never zero. The same distance between training rows and other
real rows is its *floor*; what lies above it, the *excess*, ranks columns and pairs, or columns of
many levels would always be the worst.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scidiffusion.tabular.dependence import association_matrix, pair_errors, shape_errors
from scidiffusion.tabular.joints import column_values, time_text
from scidiffusion.tabular.marginals import shown_numbers
from scidiffusion.tabular.schema import ColumnKind, ColumnSchema, TableSchema
from scidiffusion.tabular.views import TableView

__all__ = [
    "ColumnContrast",
    "PairContrast",
    "PairContrasts",
    "contrast_columns",
    "contrast_pairs",
    "narrow",
]

# Pairs are compared among at most so many columns, and drawn in maps among at most so many.
MAX_COLUMNS = 60
MAX_MAP_COLUMNS = 28
MAX_ROWS = 20_000
SCREENED_ROWS = 4000


@dataclass(frozen=True)
class ColumnContrast:
    """One column in the real and the synthetic table.

    Args:
        column: Its schema.
        error: Distance of its distribution from the real one, in [0, 1].
        floor: The same of other real rows.
        missing: Share of missing values, real and synthetic.
        distinct: Number of different values, real and synthetic.
        facts: Further facts as text: (what, real, synthetic).
    """

    column: ColumnSchema
    error: float
    floor: float
    missing: tuple[float, float]
    distinct: tuple[int, int]
    facts: tuple[tuple[str, str, str], ...]

    @property
    def name(self) -> str:
        """The column's name."""
        return self.column.name

    @property
    def excess(self) -> float:
        """Distance beyond the floor."""
        return self.error - self.floor


def contrast_columns(
    train: TableView, test: TableView, synthetic: TableView
) -> list[ColumnContrast]:
    """Compare every column.

    Args:
        train: The real table.
        test: Other real rows, for the floors.
        synthetic: The synthetic table.

    Returns:
        One record a column, in the table's order.
    """
    errors, floors = shape_errors(train, synthetic), shape_errors(train, test)
    records = []
    for column in train.schema:
        sides = [column_values(view, column) for view in (train, synthetic)]
        missing = [float(_is_missing(x, column).mean()) for x in sides]
        known = [x[~_is_missing(x, column)] for x in sides]
        records.append(
            ColumnContrast(
                column=column,
                error=errors[column.name],
                floor=floors[column.name],
                missing=(missing[0], missing[1]),
                distinct=(len(np.unique(known[0])), len(np.unique(known[1]))),
                facts=tuple(_facts(known, column)),
            )
        )
    return records


def _is_missing(
    values: NDArray[np.float64] | NDArray[np.int64], column: ColumnSchema
) -> NDArray[np.bool_]:
    return values == len(column.categories) if column.kind.is_discrete else np.isnan(values)


def _facts(
    known: list[NDArray[np.float64] | NDArray[np.int64]], column: ColumnSchema
) -> list[tuple[str, str, str]]:
    if column.kind.is_discrete:
        return []
    if column.kind is not ColumnKind.NUMERICAL:
        texts = [time_text(float(np.median(x)), column) if len(x) else "–" for x in known]
        return [("median", texts[0], texts[1])]
    shown = [shown_numbers(np.asarray(x, dtype=np.float64), column) for x in known]
    facts = []
    for what, of in (("mean", np.mean), ("std", np.std)):
        texts = [_digits(float(of(x))) if len(x) else "–" for x in shown]
        facts.append((what, texts[0], texts[1]))
    return facts


def _digits(value: float) -> str:
    return f"{value:,.0f}" if 10_000 <= abs(value) < 1e9 else f"{value:.4g}"


@dataclass(frozen=True)
class PairContrast:
    """One pair of columns in the real and the synthetic table.

    Args:
        names: The two columns.
        error: Distance of their dependence from the real one, in [0, 1].
        floor: The same of other real rows.
        real: Their association in the real table, see
            :func:`scidiffusion.tabular.dependence.association_matrix`.
        synthetic: In the synthetic one.
    """

    names: tuple[str, str]
    error: float
    floor: float
    real: float
    synthetic: float

    @property
    def excess(self) -> float:
        """Distance beyond the floor."""
        return self.error - self.floor


@dataclass(frozen=True)
class PairContrasts:
    """The pairs of a table.

    Args:
        pairs: The pairs compared, those with the largest excess first.
        names: The columns of the maps, in the table's order.
        real: Associations of these columns in the real table.
        synthetic: In the synthetic one.
        columns: How many columns the pairs are of.
        all_columns: How many the table has.
    """

    pairs: tuple[PairContrast, ...]
    names: tuple[str, ...]
    real: NDArray[np.float64]
    synthetic: NDArray[np.float64]
    columns: int
    all_columns: int


def contrast_pairs(
    train: TableView, test: TableView, synthetic: TableView, rng: np.random.Generator
) -> PairContrasts | None:
    """Compare the dependence of pairs.

    Of a table of more than 60 columns only those 60 are taken whose correlations (levels counted
    by their place) differ most, found by a quick comparison of all.

    Args:
        train: The real table.
        test: Other real rows, for the floors.
        synthetic: The synthetic table.
        rng: Draws rows of long tables.

    Returns:
        The pairs; None for a table of one column.
    """
    total = len(train.schema)
    if total < 2:
        return None
    views = [view.sample(MAX_ROWS, rng) for view in (train, test, synthetic)]
    if total > MAX_COLUMNS:
        quick = [_correlations(views[k].sample(SCREENED_ROWS, rng)) for k in (0, 2)]
        apart = np.abs(quick[0] - quick[1])
        chosen = np.sort(np.argsort(-_typical_peak(apart), kind="stable")[:MAX_COLUMNS])
        views = [narrow(view, [train.schema.names[k] for k in chosen]) for view in views]
    names = views[0].schema.names
    places = list(itertools.combinations(range(len(names)), 2))
    errors = pair_errors(views[0], views[2], places)
    floors = pair_errors(views[0], views[1], places)
    maps = [association_matrix(view) for view in (views[0], views[2])]
    pairs = [
        PairContrast(
            (names[i], names[j]),
            float(error),
            float(floor),
            float(maps[0][i, j]),
            float(maps[1][i, j]),
        )
        for (i, j), error, floor in zip(places, errors, floors, strict=True)
    ]
    shown = np.arange(len(names))
    if len(names) > MAX_MAP_COLUMNS:
        apart = np.abs(maps[0] - maps[1])
        shown = np.sort(np.argsort(-_typical_peak(apart), kind="stable")[:MAX_MAP_COLUMNS])
    return PairContrasts(
        pairs=tuple(sorted(pairs, key=lambda pair: -pair.excess)),
        names=tuple(names[k] for k in shown),
        real=maps[0][np.ix_(shown, shown)],
        synthetic=maps[1][np.ix_(shown, shown)],
        columns=len(names),
        all_columns=total,
    )


def _typical_peak(apart: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much a column's dependences differ: the mean of its three largest differences."""
    return np.sort(apart, axis=1)[:, -3:].mean(axis=1)


def _correlations(view: TableView) -> NDArray[np.float64]:
    """Correlation of all columns at once, in the schema's order, levels as their places."""
    columns = np.empty((len(view), len(view.schema)))
    for place, column in enumerate(view.schema):
        values = column_values(view, column).astype(np.float64)
        known = values[np.isfinite(values)]
        columns[:, place] = np.where(
            np.isfinite(values), values, known.mean() if len(known) else 0.0
        )
    columns -= columns.mean(axis=0)
    scale = np.sqrt((columns**2).mean(axis=0))
    columns /= np.where(scale > 0, scale, 1.0)
    return columns.T @ columns / len(columns)


def narrow(view: TableView, names: list[str]) -> TableView:
    """A view of some columns.

    Args:
        view: The view.
        names: Their names, in the schema's order.
    """
    return TableView(
        TableSchema(tuple(column for column in view.schema if column.name in names)),
        view.numbers[:, [column.name in names for column in view.numerical]],
        view.codes[:, [column.name in names for column in view.discrete]],
        view.invalid[:, [column.name in names for column in view.schema]],
    )
