"""One picture of a synthetic table: every marginal and every pair against the real one.

Marginals lie on top of each other, the real ones filled, the synthetic ones drawn as a line.
Dependence stands in three maps: real, synthetic, and their difference on a scale of its own,
because that is where what was lost shows.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.errors import OutputError
from scidiffusion.tabular.columns import series_from_numbers
from scidiffusion.tabular.dependence import association_matrix, shape_errors
from scidiffusion.tabular.marginals import (
    bin_edges,
    bin_shares,
    compact,
    level_shares,
    shorten,
    shown_numbers,
)
from scidiffusion.tabular.schema import ColumnKind, ColumnSchema, TableSchema
from scidiffusion.tabular.views import TableView

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_comparison"]

REAL_COLOUR = "#8fa8c4"
SYNTHETIC_COLOUR = "#d1541f"
INK = "#333333"
MAX_MAP_COLUMNS = 30
MAX_ROWS = 50_000


def plot_comparison(
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    schema: TableSchema,
    path: str | PathLike[str] | None = None,
    *,
    title: str | None = None,
    max_columns: int = 12,
) -> Figure:
    """Draw the marginals and the pairwise dependence of two tables.

    Args:
        real: The real table.
        synthetic: The synthetic table.
        schema: The schema of the real table.
        path: Where to save the picture; its suffix gives the format (png, svg, pdf).
        title: Heading of the picture.
        max_columns: How many marginals to draw; of a wider table those that differ most.

    Returns:
        The figure; no window is opened and no display is needed.

    Raises:
        DataError: If a table lacks a column or rows.
        OutputError: If the picture cannot be written.
    """
    from matplotlib.figure import Figure

    rng = np.random.default_rng(0)
    views = (
        TableView.of(real, schema, "real table").sample(MAX_ROWS, rng),
        TableView.of(synthetic, schema, "synthetic table").sample(MAX_ROWS, rng),
    )
    errors = shape_errors(*views)
    worst = sorted(errors, key=lambda name: -errors[name])[:max_columns]
    shown = [column for column in schema if column.name in worst]

    # As many columns of panels as leave the last row full, if three or four do.
    per_row = min(len(shown), 3 if len(shown) in (5, 6, 9) else 4)
    rows = -(-len(shown) // per_row)
    figure = Figure(figsize=(13, 2.35 * rows + 5.6), layout="constrained", facecolor="white")
    upper, lower = _two_parts(figure, [2.35 * rows + 0.5, 5.1])
    grid = upper.add_gridspec(rows, per_row)
    for index, column in enumerate(shown):
        axes = upper.add_subplot(grid[divmod(index, per_row)])
        _plot_marginal(axes, views, column, errors[column.name])
    some = "" if len(shown) == len(schema) else f" (the {len(shown)} that differ most)"
    upper.suptitle(
        (f"{title}\n" if title else "") + f"Marginals of {len(schema)} columns{some}",
        fontsize=12,
        color=INK,
    )
    _add_legend(upper)
    _plot_maps(lower, views)
    if path is not None:
        try:
            figure.savefig(path, dpi=130)
        except (OSError, ValueError) as error:
            raise OutputError(f"the picture cannot be written to {path}: {error}") from error
    return figure


def _two_parts(figure: Figure, heights: list[float]) -> Any:
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=0.08, h_pad=0.06)
    return figure.subfigures(2, 1, height_ratios=heights)


def _add_legend(figure: Any) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    figure.legend(
        handles=[
            Patch(color=REAL_COLOUR, label="real"),
            Line2D([], [], color=SYNTHETIC_COLOUR, linewidth=1.8, label="synthetic"),
        ],
        loc="upper right",
        frameon=False,
        fontsize=10,
        ncols=2,
    )


def _plot_marginal(
    axes: Axes, views: tuple[TableView, TableView], column: ColumnSchema, error: float
) -> None:
    """One column's two distributions, with the distance between them in the title."""
    if column.kind.is_discrete:
        index = views[0].discrete.index(column)
        _plot_levels(axes, [view.codes[:, index] for view in views], column)
    else:
        index = views[0].numerical.index(column)
        _plot_numbers(axes, [view.numbers[:, index] for view in views], column)
    axes.set_title(shorten(column.name, 28), fontsize=9.5, loc="left", color=INK, weight="bold")
    axes.set_title(f"error {100 * error:.1f} %", fontsize=8, loc="right", color="#777777")
    axes.tick_params(labelsize=8, colors="#555555", length=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#bbbbbb")


def _plot_numbers(axes: Axes, numbers: list[NDArray[np.float64]], column: ColumnSchema) -> None:
    known = [shown_numbers(x[np.isfinite(x)], column) for x in numbers]
    edges, logarithmic = bin_edges(known[0], column)
    shares = [bin_shares(x, edges) for x in known]
    axes.stairs(shares[0], edges, fill=True, color=REAL_COLOUR)
    axes.stairs(shares[1], edges, color=SYNTHETIC_COLOUR, linewidth=1.5)
    notes = []
    highest = max(float(share.max()) for share in shares) or 1.0
    if highest > 0.5:
        # Beside one value that takes most rows, nothing else would be seen.
        axes.set_yscale("function", functions=(np.sqrt, np.square))
        notes.append("root scale")
    axes.set_ylim(0, 1.12 * highest)
    axes.set_yticks([])
    if logarithmic:
        axes.set_xscale("log")
        notes.append("log axis")
    axes.set_xlim(edges[0], edges[-1])
    _label_numbers(axes, edges, column, logarithmic=logarithmic)
    if column.missing:
        gone = [1 - len(some) / len(x) for some, x in zip(known, numbers, strict=True)]
        notes.append(f"missing {gone[0]:.1%} | {gone[1]:.1%}")
    style: dict[str, Any] = {"ha": "right", "va": "top", "fontsize": 7.5, "color": "#777777"}
    axes.text(0.98, 0.96, "\n".join(notes), transform=axes.transAxes, **style)


def _label_numbers(
    axes: Axes, edges: NDArray[np.float64], column: ColumnSchema, *, logarithmic: bool
) -> None:
    """Ticks as a reader expects them: few, short, dates as dates."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    assert column.minimum is not None
    assert column.maximum is not None
    if column.kind is not ColumnKind.NUMERICAL:
        span = float(column.maximum - column.minimum)
        at = np.clip(np.rint(np.linspace(edges[0], edges[-1], 7)[[1, 3, 5]]), 0, span)
        values = series_from_numbers(at, column)
        axes.set_xticks(
            at, [shorten(str(value).removesuffix(" 00:00:00"), 19) for value in values]
        )
        return
    few = LogLocator(numticks=5) if logarithmic else MaxNLocator(5, integer=column.integer)
    axes.xaxis.set_major_locator(few)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _plot_levels(axes: Axes, codes: list[NDArray[np.int64]], column: ColumnSchema) -> None:
    labels, shares = level_shares(codes, column)
    place = np.arange(len(labels))
    axes.barh(place, shares[0], height=0.72, color=REAL_COLOUR)
    axes.vlines(shares[1], place - 0.4, place + 0.4, color=SYNTHETIC_COLOUR, linewidth=2.2)
    axes.set_yticks(place, [shorten(label, 16) for label in labels])
    axes.set_ylim(max(len(labels), 3) - 0.4, -0.6)
    axes.set_xlim(0, 1.08 * float(shares.max()))
    axes.xaxis.set_major_locator(_few_ticks())
    axes.xaxis.set_major_formatter(_percent())


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4, min_n_ticks=2)


def _percent() -> Any:
    from matplotlib.ticker import PercentFormatter

    return PercentFormatter(1.0, decimals=None)


def _plot_maps(figure: Any, views: tuple[TableView, TableView]) -> None:
    """Dependence: real, synthetic, difference."""
    matrices = [association_matrix(view, MAX_MAP_COLUMNS) for view in views]
    names = [shorten(name, 16) for name in views[0].schema.names[:MAX_MAP_COLUMNS]]
    difference = matrices[1] - matrices[0]
    off = ~np.eye(len(names), dtype=bool)
    mean = float(np.abs(difference[off]).mean()) if off.any() else 0.0
    largest = max(0.1, float(np.abs(difference).max()))
    some = "" if len(names) == len(views[0].schema) else f" (the first {len(names)} columns)"
    figure.suptitle(
        f"Dependence of pairs: correlation, correlation ratio, Cramér's V{some}",
        fontsize=12,
        color=INK,
    )
    left, middle, right = figure.subplots(1, 3)
    drawings = (
        (left, matrices[0], "real", 1.0),
        (middle, matrices[1], "synthetic", 1.0),
        (right, difference, f"synthetic − real, {mean:.3f} on average", largest),
    )
    size = float(np.clip(130 / len(names), 4.5, 8))
    for axes, matrix, label, limit in drawings:
        image = axes.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes.set_title(label, fontsize=10, color=INK)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
        axes.set_yticks(range(len(names)), names if axes is left else [], fontsize=size)
        axes.tick_params(length=0, colors="#555555")
        for spine in axes.spines.values():
            spine.set_visible(False)
        if axes is not left:
            bar = figure.colorbar(image, ax=axes, shrink=0.75, pad=0.02)
            bar.outline.set_visible(False)
            bar.ax.tick_params(labelsize=7.5, length=0, colors="#555555")
