"""The charts of the report, as inline SVG whose colours are classes of the page's style sheet.

A chart knows shapes and words and no colour: light, dark and print differ in the style sheet
alone. Real values are filled, synthetic ones are lines or ticks: no chart relies on colour. Every
chart has a title for screen readers, and every bar one that shows when pointed at.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from scidiffusion.tabular.contrasts import ColumnContrast
from scidiffusion.tabular.dates import unit_ratio
from scidiffusion.tabular.joints import bin_text, column_values, time_text
from scidiffusion.tabular.marginals import (
    BINS,
    bin_edges,
    bin_shares,
    compact,
    level_shares,
    shorten,
    shown_numbers,
)
from scidiffusion.tabular.schema import ColumnKind, ColumnSchema
from scidiffusion.tabular.views import TableView

__all__ = [
    "distance_chart",
    "marginal_chart",
    "number",
    "percent",
    "score_track",
    "svg_of",
    "text_at",
    "tick_text",
    "time_tick",
]

WIDTH = 320
LEVEL_LABEL = 17


def number(value: float) -> str:
    """A coordinate in as few characters as a tenth of a pixel needs.

    Args:
        value: The coordinate.
    """
    return f"{value:.1f}".removesuffix(".0")


def percent(share: float) -> str:
    """A share as a percentage with the digits it deserves.

    Args:
        share: In [0, 1].
    """
    value = 100 * share
    if 0 < value < 0.05:
        return "<0.1 %"
    return f"{value:.0f} %" if value >= 99.95 or value == 0 else f"{value:.1f} %"


def tick_text(value: float) -> str:
    """A number on an axis: thousands apart, but not those of a year.

    Args:
        value: The number.
    """
    if 10_000 <= abs(value) < 1e6 and value == round(value):
        return f"{value:,.0f}"
    return compact(value)


def svg_of(width: float, height: float, label: str, parts: Iterable[str], kind: str = "") -> str:
    """A chart of its parts.

    Args:
        width: In the chart's own units; the page scales it.
        height: The same.
        label: What it shows, for screen readers.
        parts: SVG elements.
        kind: Its class in the style sheet.
    """
    return (
        f'<svg class="chart {kind}" viewBox="0 0 {number(width)} {number(height)}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def text_at(x: float, y: float, text: str, kind: str = "t", anchor: str = "start") -> str:
    """A text in a chart, escaped.

    Args:
        x: Its place.
        y: Its baseline.
        text: The text.
        kind: Its class in the style sheet.
        anchor: Which part of it lies at the place: ``start``, ``middle`` or ``end``.
    """
    where = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text class="{kind}" x="{number(x)}" y="{number(y)}"{where}>{escape(text)}</text>'


def marginal_chart(views: tuple[TableView, TableView], contrast: ColumnContrast) -> str:
    """One column's two distributions.

    Args:
        views: The real and the synthetic table.
        contrast: The column.

    Returns:
        A histogram of numbers and times, bars of levels.
    """
    column = contrast.column
    sides = [column_values(view, column) for view in views]
    label = f"Distribution of {column.name}, real and synthetic; error {percent(contrast.error)}"
    if column.kind.is_discrete:
        codes = [np.asarray(x, dtype=np.int64) for x in sides]
        labels, shares = level_shares(codes, column)
        return level_bars(labels, shares, label)
    known = [
        shown_numbers(x[np.isfinite(x)], column)
        for x in (np.asarray(side, dtype=np.float64) for side in sides)
    ]
    fewest = min(len(x) for x in known)
    edges, logarithmic = bin_edges(known[0], column, int(np.clip(np.sqrt(fewest), 8, BINS)))
    shares = np.stack([bin_shares(x, edges) for x in known])
    names = [bin_text(low, high, column) for low, high in itertools.pairwise(edges)]
    scale = np.log10(edges) if logarithmic else edges
    return histogram(scale, shares, names, _ticks(edges, column, logarithmic), label)


def histogram(
    edges: NDArray[np.float64],
    shares: NDArray[np.float64],
    names: Sequence[str],
    ticks: Sequence[tuple[float, str]],
    label: str,
    words: tuple[str, str] = ("real", "synthetic"),
) -> str:
    """Two histograms over the same bins: the first filled, the second a line.

    Args:
        edges: Edges of the bins on the axis.
        shares: Shape (2, bins).
        names: What each bin holds, as text.
        ticks: Places on the axis and their text.
        label: What the chart shows, for screen readers.
        words: What the two tables are called.

    Returns:
        The chart.
    """
    height, top, bottom, left, right = 148.0, 12.0, 124.0, 4.0, WIDTH - 4.0
    x = left + (edges - edges[0]) / (edges[-1] - edges[0]) * (right - left)
    highest = max(float(shares.max()), 1e-12)
    # Beside one value that takes most rows, nothing else would be seen.
    rooted = highest > 0.5 and shares.shape[1] > 3
    heights = np.sqrt(shares / highest) if rooted else shares / highest
    y = bottom - heights * (bottom - top)
    parts = [f'<path class="real" d="{_steps(x, y[0], bottom)}Z"/>']
    parts.append(f'<path class="synth" d="{_steps(x, y[1], bottom)}"/>')
    parts.append(f'<path class="axis" d="M{number(left)} {bottom:g}H{number(right)}"/>')
    for k, name in enumerate(names):
        says = f"{name}: {words[0]} {percent(shares[0][k])}, {words[1]} {percent(shares[1][k])}"
        parts.append(
            f'<rect class="hit" x="{number(x[k])}" y="{top:g}" '
            f'width="{number(max(x[k + 1] - x[k], 0.1))}" height="{bottom - top:g}">'
            f"<title>{escape(says)}</title></rect>"
        )
    for place, text in ticks:
        at = left + (place - edges[0]) / (edges[-1] - edges[0]) * (right - left)
        anchor = "start" if at < 24 else "end" if at > WIDTH - 24 else "middle"
        parts.append(f'<path class="axis" d="M{number(at)} {bottom:g}v4"/>')
        parts.append(text_at(at, bottom + 17, text, "t", anchor))
    if rooted:
        parts.append(text_at(right, top + 2, "root scale", "t note", "end"))
    return svg_of(WIDTH, height, label, parts, "histogram")


def _steps(x: NDArray[np.float64], y: NDArray[np.float64], bottom: float) -> str:
    path = [f"M{number(x[0])} {number(bottom)}"]
    for k, height in enumerate(y):
        path.append(f"V{number(height)}H{number(x[k + 1])}")
    return "".join(path) + f"V{number(bottom)}"


def _ticks(
    edges: NDArray[np.float64], column: ColumnSchema, logarithmic: bool
) -> list[tuple[float, str]]:
    """A few round places on the axis, or a few dates."""
    low, high = float(edges[0]), float(edges[-1])
    if column.kind is not ColumnKind.NUMERICAL:
        assert column.minimum is not None
        assert column.maximum is not None
        span = float(column.maximum - column.minimum)
        at = np.unique(np.clip(np.rint(np.linspace(low, high, 7)[[1, 3, 5]]), 0, span))
        return [(float(t), time_tick(float(t), high - low, column)) for t in at]
    if logarithmic:
        decades = np.arange(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
        some = decades[:: max(1, math.ceil(len(decades) / 5))]
        if len(some):
            return [(float(k), tick_text(10.0**k)) for k in some]
        return [(math.log10(v), f"{v:.3g}") for v in (low, high)]
    if len(edges) == 2 and low + 1 == high:
        return [((low + high) / 2, tick_text((low + high) / 2))]
    step = _round_step((high - low) / 4.5)
    if column.integer:
        step = max(math.ceil(step), 1)
    at = np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step
    return [(float(t), tick_text(float(f"{t:.10g}"))) for t in at]


def time_tick(count: float, span: float, column: ColumnSchema) -> str:
    """A date on an axis, without its time where the axis covers many days.

    Args:
        count: The date, as a view holds it.
        span: Length of the axis.
        column: The column.
    """
    text = time_text(count, column)
    assert column.unit is not None
    days = span / unit_ratio("D", column.unit)
    if column.kind is ColumnKind.DATETIME and days >= 5:
        text = text[:10]
    return shorten(text, 16)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(k * power for k in (1, 2, 2.5, 5, 10) if k * power >= rough * 0.999)


def level_bars(labels: Sequence[str], shares: NDArray[np.float64], label: str) -> str:
    """Levels as bars: the real share filled, the synthetic one a tick.

    Args:
        labels: The levels.
        shares: Shape (2, levels).
        label: What the chart shows, for screen readers.

    Returns:
        The chart; its height grows with the levels.
    """
    left, right, row, top = 116.0, WIDTH - 86.0, 17.0, 4.0
    highest = max(float(shares.max()), 1e-12)
    parts = []
    for k, name in enumerate(labels):
        y = top + k * row
        real, fake = (left + share / highest * (right - left) for share in shares[:, k])
        says = f"{name}: real {percent(shares[0, k])}, synthetic {percent(shares[1, k])}"
        parts.append(f"<g><title>{escape(says)}</title>")
        parts.append(f'<rect class="hit" x="0" y="{y:g}" width="{WIDTH}" height="{row:g}"/>')
        parts.append(text_at(left - 7, y + 12.5, _middle_cut(name, LEVEL_LABEL), "t", "end"))
        parts.append(
            f'<rect class="real" x="{left:g}" y="{y + 3:g}" '
            f'width="{number(max(real - left, 0.5))}" height="11"/>'
        )
        parts.append(f'<path class="synth thick" d="M{number(fake)} {y + 0.5:g}v16"/>')
        far = max(real, fake)
        before, after = (percent(share) for share in shares[:, k])
        parts.append(
            f'<text class="t" x="{number(far + 7)}" y="{y + 12.5:g}"><tspan class="was">'
            f'{escape(before.removesuffix(" %"))}</tspan> → <tspan class="is">{escape(after)}'
            "</tspan></text>"
        )
        parts.append("</g>")
    return svg_of(WIDTH, top + len(labels) * row + 4, label, parts, "levels")


def _middle_cut(text: str, length: int) -> str:
    """A text cut in its middle: names of levels often differ at their ends."""
    if len(text) <= length:
        return text
    return f"{text[: length - 7].rstrip()}…{text[-6:].lstrip()}"


def score_track(positions: Sequence[tuple[str, float]], label: str) -> str:
    """Where a figure lies between the worst and the best that was measured.

    Args:
        positions: (class of the mark, place in [0, 1]); 1 is best. Drawn in this order.
        label: What it shows, for screen readers.

    Returns:
        The chart.
    """
    left, right, middle = 8.0, 172.0, 11.0
    marks = {
        "floor-worst": "M{x} 3v16",
        "floor-best": "M{x} 2v18",
        "mark": "M{x} 5l6 6l-6 6l-6-6z",
    }
    parts = [f'<path class="rail" d="M{left:g} {middle:g}H{right:g}"/>']
    for kind, place in positions:
        x = left + min(max(place, 0.0), 1.0) * (right - left)
        parts.append(f'<path class="{kind}" d="{marks[kind].format(x=number(x))}"/>')
    return svg_of(180, 22, label, parts, "track")


def distance_chart(
    synthetic: NDArray[np.float64], fresh: NDArray[np.float64], fresh_name: str
) -> str:
    """Distances to the nearest training row, of synthetic and of other real rows.

    Args:
        synthetic: One distance a row.
        fresh: The same of other real rows.
        fresh_name: What these are called.

    Returns:
        The chart, copies (distance 0) in the first bin of their own.
    """
    high = float(np.quantile(np.concatenate([synthetic, fresh]), 0.995))
    high = high if high > 0 else 1.0
    bins = 32
    edges = np.concatenate([[-high / bins, 1e-9 * high], np.linspace(0, high, bins + 1)[1:]])
    shares = np.stack([bin_shares(x, edges) for x in (fresh, synthetic)])
    names = [f"{low:.2g} – {up:.2g}" for low, up in itertools.pairwise(edges)]
    names[0] = "identical"
    step = _round_step(high / 5)
    ticks = [(-high / bins / 2, "0")]
    ticks += [(k * step, f"{k * step:.3g}") for k in range(1, int(high / step) + 1)]
    label = f"Distances to the nearest training row of synthetic rows and of {fresh_name}"
    return histogram(edges, shares, names, ticks, label, (fresh_name, "synthetic"))
