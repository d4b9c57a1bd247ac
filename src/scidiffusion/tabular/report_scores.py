"""The score table of the report: every figure in words, and where it lies between its floors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from scidiffusion.tabular.comparison import ComparedTables
from scidiffusion.tabular.metrics import Figures, TableScore
from scidiffusion.tabular.report_charts import percent, score_track

__all__ = ["score_rows"]


@dataclass(frozen=True)
class _Row:
    """One figure in words.

    Args:
        title: What it is called; ``{metric}`` and ``{target}`` are filled in.
        says: What it means.
        form: How a value is written.
        badness: Distance from perfect of (value, value of real rows).
        scale: The badness at the left end, if no value is worse.
    """

    title: str
    says: str
    form: str
    badness: Callable[[float, float], float]
    scale: float


_ROWS = {
    "shape_error": _Row(
        "Columns", "mean error of their distributions", "{:.2f} %", lambda v, _: v, 10.0
    ),
    "trend_error": _Row(
        "Pairs", "mean error of the dependence of two columns", "{:.2f} %", lambda v, _: v, 10.0
    ),
    "c2st": _Row(
        "Indistinguishable (C2ST)",
        "a judge trained to tell synthetic from real fails: 1 always, 0 never",
        "{:.3f}",
        lambda v, _: 1 - v,
        1.0,
    ),
    "ml_efficacy": _Row(
        "Useful: {metric} of {target}",
        "of a model trained on the table, on real rows",
        "{:.3f}",
        lambda v, best: max(best - v, 0.0),
        0.3,
    ),
    "dcr_share": _Row(
        "Nearer to training rows",
        "share of rows nearer to a training row than to an unseen one; above that of real rows, "
        "rows were learned by heart",
        "{:.3f}",
        lambda v, ideal: abs(v - ideal),
        0.2,
    ),
    "copies": _Row(
        "Exact copies",
        "rows that are a real row; no more than other real rows have",
        "{:.2f} %",
        lambda v, floor: max(v - floor, 0.0),
        5.0,
    ),
    "invalid": _Row(
        "Invalid values",
        "cells the real table could not have held: new levels, out of range, "
        "missing where none is",
        "{:,}",
        lambda v, _: v,
        0.02,
    ),
}


def score_rows(score: TableScore, tables: ComparedTables) -> str:
    """The rows of the score table.

    Args:
        score: The figures.
        tables: The tables they are of.

    Returns:
        HTML table rows, those without a figure left out.
    """
    return "".join(
        _row(score, tables, field.name)
        for field in dataclasses.fields(Figures)
        if getattr(score.synthetic, field.name) is not None
    )


def _row(score: TableScore, tables: ComparedTables, name: str) -> str:
    row = _ROWS[name]
    value, best, worst = (
        getattr(part, name) for part in (score.synthetic, score.real, score.independent)
    )
    title = row.title.format(metric=score.efficacy_metric, target=score.target)
    shown = ["–" if figure is None else row.form.format(figure) for figure in (value, best, worst)]
    if name == "invalid":
        value, best, worst, shown = _invalid_shares(score, tables)
    ideal = value if best is None else best
    marks = [("floor-worst", worst), ("floor-best", best), ("mark", value)]
    away = [(kind, row.badness(x, ideal)) for kind, x in marks if x is not None]
    longest = max(row.scale, *(far for _, far in away))
    label = f"{title}: synthetic {shown[0]}, real rows {shown[1]}, independent columns {shown[2]}"
    track = score_track([(kind, 1 - far / longest) for kind, far in away], label)
    return (
        f'<tr><th scope="row">{escape(title)}<small>{row.says}</small></th>'
        f'<td class="place">{track}</td>'
        f'<td class="num big" data-label="synthetic">{shown[0]}</td>'
        f'<td class="num" data-label="real rows">{shown[1]}</td>'
        f'<td class="num muted" data-label="independent">{shown[2]}</td></tr>'
    )


def _invalid_shares(
    score: TableScore, tables: ComparedTables
) -> tuple[float, float, float, list[str]]:
    """Shares of the cells, which tables of different lengths can be compared by, and as text."""
    counts = [part.invalid or 0 for part in (score.synthetic, score.real, score.independent)]
    rows = [len(table) for table in (tables.synthetic, tables.test, tables.train)]
    shares = [count / (n * len(tables.schema)) for count, n in zip(counts, rows, strict=True)]
    shown = [
        f"{count:,} ({percent(share)})" if count else "0"
        for count, share in zip(counts, shares, strict=True)
    ]
    return shares[0], shares[1], shares[2], shown
