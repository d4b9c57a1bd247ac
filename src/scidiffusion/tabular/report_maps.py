"""The report's maps: dependence of all pairs, and the joint distribution of two columns.

Shades are opacities of one of two colours, and cells of one shade are one path: a map of hundreds
of cells takes a few thousand characters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from scidiffusion.tabular.joints import Axis, Joint
from scidiffusion.tabular.marginals import shorten
from scidiffusion.tabular.report_charts import number, svg_of, text_at, tick_text, time_tick
from scidiffusion.tabular.schema import ColumnKind, ColumnSchema

__all__ = ["heat_map", "joint_chart"]

# The style sheet has as many classes of shades.
STEPS = 12


def heat_map(
    matrix: NDArray[np.float64], names: Sequence[str], limit: float, label: str, key: str
) -> str:
    """A matrix of signed values, one path for every shade.

    Args:
        matrix: Shape (d, d).
        names: Its rows and columns.
        limit: The absolute value of the deepest shade.
        label: What it shows, for screen readers.
        key: Which of the page's matrices holds the values to show when pointed at.

    Returns:
        The chart.
    """
    d = len(names)
    side = 300.0
    cell = side / d
    size = min(10.5, max(6.0, 0.86 * cell))
    cut = 16 if size > 8 else 18
    # Room for the longest name, and for those of a wide face.
    gap = min(12 + 0.6 * size * max(min(len(name), cut) for name in names), 100.0)
    parts = [
        f'<g transform="translate({gap:g} {gap:g}) scale({cell:.4g})">'
        f'<rect class="zero" width="{d}" height="{d}"/>'
    ]
    parts += _shades(matrix, limit)
    parts.append("</g>")
    for k, name in enumerate(names):
        at = gap + (k + 0.5) * cell
        style = f'class="m" font-size="{size:.3g}"'
        text = escape(shorten(name, cut))
        parts.append(
            f'<text {style} x="{gap - 5:g}" y="{number(at + size * 0.35)}" '
            f'text-anchor="end">{text}</text>'
            f'<text {style} transform="translate({number(at + size * 0.35)} {gap - 5:g}) '
            f'rotate(-90)">{text}</text>'
        )
    parts.append(
        f'<rect class="hit" data-map="{key}" x="{gap:g}" y="{gap:g}" width="{side:g}" '
        f'height="{side:g}"/>'
    )
    return svg_of(gap + side + 2, gap + side + 2, label, parts, "map")


def _shades(matrix: NDArray[np.float64], limit: float) -> list[str]:
    """Cells of the same shade in one path: ``n`` of negative values, ``p`` of positive ones."""
    shade = np.rint(np.clip(matrix / max(limit, 1e-12), -1, 1) * STEPS).astype(int)
    paths = []
    for value in np.unique(shade[shade != 0]):
        places = zip(*np.nonzero(shade == value), strict=True)
        cells = "".join(f"M{x} {y}h1v1h-1z" for y, x in places)
        sign = "n" if value < 0 else "p"
        paths.append(f'<path class="{sign} s{abs(value)}" d="{cells}"/>')
    return paths


def joint_chart(joint: Joint) -> str:
    """The joint distribution of two columns: real, synthetic, and what is more or less of it.

    Args:
        joint: The shares.

    Returns:
        Three panels, the first column on the horizontal axis.
    """
    across, up = joint.axes
    # The root shows thin places; one scale for both tables.
    highest = math.sqrt(max(float(joint.real.max()), float(joint.synthetic.max()), 1e-12))
    difference = joint.synthetic - joint.real
    deepest = max(float(np.abs(difference).max()), 0.05 * highest**2)
    turned = across.edges is None and len(across) > 3
    left, side, gap, top = (
        (62.0 if up.column.kind is ColumnKind.NUMERICAL else 92.0),
        138.0,
        14.0,
        18.0,
    )
    foot = 86.0 if turned else 32.0
    parts = []
    for place, text in _axis_labels(up, 13):
        y = top + side - place * side
        nudge = 3.5 if up.edges is None else 8.0 if place > 0.9 else -1.0
        parts.append(text_at(left - 5, y + nudge, text, "t", "end"))
    name = escape(shorten(up.column.name, 22))
    turn = f'transform="translate(9 {top + side / 2:g}) rotate(-90)"'
    parts.append(f'<text class="t name" text-anchor="middle" {turn}>{name}</text>')
    panels = (
        ("real", np.sqrt(joint.real), highest, "of-real"),
        ("synthetic", np.sqrt(joint.synthetic), highest, "of-synth"),
        ("synthetic − real", difference, deepest, "of-both"),
    )
    for index, (caption, matrix, limit, kind) in enumerate(panels):
        x = left + index * (side + gap)
        parts.append(text_at(x, 11, caption))
        parts.append(
            f'<g class="{kind}" transform="translate({x:g} {top:g}) '
            f'scale({side / len(across):.5g} {side / len(up):.5g})">'
            f'<rect class="zero" width="{len(across)}" height="{len(up)}"/>'
        )
        parts += [*_shades(np.flipud(matrix.T), limit), "</g>"]
        for place, text in _axis_labels(across, 10):
            at = x + place * side
            if turned:
                where = f'transform="translate({number(at - 3)} {top + side + 5:g}) rotate(90)"'
                parts.append(f'<text class="t" {where}>{escape(text)}</text>')
                continue
            ends = across.edges is not None
            anchor = "start" if ends and place < 0.1 else "end" if ends and place > 0.9 else ""
            parts.append(text_at(at, top + side + 13, text, "t", anchor or "middle"))
    middle = left + 1.5 * side + gap
    name = shorten(across.column.name, 40)
    parts.append(text_at(middle, top + side + foot - 4, name, "t name", "middle"))
    label = f"Joint distribution of {across.column.name} and {up.column.name}"
    return svg_of(left + 3 * side + 2 * gap + 1, top + side + foot, label, parts, "joint")


def _axis_labels(axis: Axis, length: int) -> list[tuple[float, str]]:
    """Places in [0, 1] and text: every level, or both ends of numbers and where they lack."""
    if axis.edges is None:
        return [((k + 0.5) / len(axis), shorten(x, length)) for k, x in enumerate(axis.labels)]
    bins = len(axis.edges) - 1
    ends = [(0.0, float(axis.edges[0])), (bins / len(axis), float(axis.edges[-1]))]
    span = ends[1][1] - ends[0][1]
    return [(place, _end_text(edge, span, axis.column)) for place, edge in ends]


def _end_text(edge: float, span: float, column: ColumnSchema) -> str:
    if column.kind is not ColumnKind.NUMERICAL:
        return time_tick(edge, span, column)
    if column.integer:
        return tick_text(math.ceil(edge))
    return tick_text(float(f"{edge:.3g}"))
