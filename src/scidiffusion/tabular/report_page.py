"""The report as HTML: one function a section, and the frame that makes them one file.

Every text that comes from a table goes through `escape`, and the content policy of the page allows
no request and no script but the page's own, named by its hash: a second fence.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html import escape
from importlib import resources
from itertools import groupby

import numpy as np

from scidiffusion._version import __version__
from scidiffusion.tabular.contrasts import ColumnContrast, PairContrast
from scidiffusion.tabular.findings import Findings, Tone, verdict
from scidiffusion.tabular.report_charts import marginal_chart, percent
from scidiffusion.tabular.report_judge import copies_section, judge_section, notes_section
from scidiffusion.tabular.report_maps import heat_map
from scidiffusion.tabular.report_parts import cell, facts_line, joint_of, name_of, section
from scidiffusion.tabular.report_scores import score_rows

__all__ = ["render_page"]

MAX_CARDS = 36
MAX_LISTED_PAIRS = 12
DRAWN_PAIRS = 3
SECTIONS = {
    "scores": "Scores",
    "columns": "Columns",
    "pairs": "Pairs",
    "judge": "Judge",
    "copies": "Copies",
    "notes": "Notes",
}
TONES = {Tone.GOOD: "✓ good", Tone.FAIR: "◐ fair", Tone.POOR: "✕ poor"}


def render_page(findings: Findings, title: str) -> str:
    """The whole page.

    Args:
        findings: What it shows.
        title: Its heading.

    Returns:
        HTML, free of characters that HTML does not allow.
    """
    style, script = (
        resources.files("scidiffusion.tabular").joinpath(f"report.{kind}").read_text("utf-8")
        for kind in ("css", "js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    links = "".join(f'<a href="#{key}">{name}</a>' for key, name in SECTIONS.items())
    sections = (
        _head(findings, title),
        _scores(findings),
        _columns(findings),
        _pairs(findings),
        judge_section(findings),
        copies_section(findings),
        notes_section(findings),
    )
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<a class="skip" href="#scores">Skip to the scores</a>
<nav class="top" aria-label="Sections"><div class="wrap">{links}{_LEGEND}</div></nav>
<main class="wrap">
{"".join(sections)}
</main>
<footer><div class="wrap">Made by scidiffusion {escape(__version__)}, seed
{findings.tables.seed}. This file is complete: it loads nothing.</div></footer>
<script>{script}</script>
</body>
</html>
"""
    return _FORBIDDEN.sub("\ufffd", page)


# What may stand neither in HTML nor in UTF-8: control characters and lone surrogates.
_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

_LEGEND = (
    '<span class="legend" aria-hidden="true"><span><svg viewBox="0 0 22 12">'
    '<rect class="real" x="1" y="2" width="20" height="9"/></svg>real</span>'
    '<span><svg viewBox="0 0 22 12"><path class="synth" d="M1 9h7v-5h7v4h6"/></svg>synthetic'
    "</span></span>"
)


def _head(findings: Findings, title: str) -> str:
    tables, rows = findings.tables, findings.score.rows
    tone, sentence = verdict(findings)
    kinds = sorted(str(column.kind) for column in tables.schema)
    counts = ", ".join(f"{len(list(group))} {kind}" for kind, group in groupby(kinds))
    held = "not seen by the generator" if tables.unseen else "held aside from the real table"
    facts = [
        ("Real rows", f"{rows['train']:,}", "compared with"),
        ("Other real rows", f"{rows['test']:,}", held),
        ("Synthetic rows", f"{rows['synthetic']:,}", "judged"),
        ("Columns", f"{len(tables.schema):,}", counts),
    ]
    listed = "".join(
        f"<div><dt>{what}</dt><dd>{value}<small>{escape(note)}</small></dd></div>"
        for what, value, note in facts
    )
    left_out = ""
    if tables.left_out:
        some = list(tables.left_out.items())[:8]
        names = "; ".join(f"{name_of(name)} ({escape(why)})" for name, why in some)
        more = f"; and {len(tables.left_out) - 8} more" if len(tables.left_out) > 8 else ""
        left_out = f'<p class="note">Not compared: {names}{more}.</p>'
    return (
        f'<p class="eyebrow">Real against synthetic</p><h1>{escape(title)}</h1>'
        f'<dl class="facts">{listed}</dl>'
        f'<div class="card verdict {tone}" role="note"><span class="tag">{TONES[tone]}</span>'
        f"<p>{escape(sentence)}</p></div>{left_out}"
    )


def _scores(findings: Findings) -> str:
    lead = (
        "Each figure stands between two floors computed the same way: other real rows in place of "
        "the synthetic ones, the best any generator can reach, and the real columns shuffled "
        "separately, which keeps every column and loses what ties them together."
    )
    table = (
        '<div class="card"><table class="scores"><thead><tr><th scope="col">Figure</th>'
        '<th scope="col">worse ← → better</th><th scope="col" class="num">Synthetic</th>'
        '<th scope="col" class="num">Real rows</th><th scope="col" class="num">Independent '
        f"columns</th></tr></thead><tbody>{score_rows(findings.score, findings.tables)}</tbody>"
        "</table></div>"
    )
    key = (
        '<p class="note">Orange diamond: the synthetic table. Blue bar: other real rows. Dashed: '
        "independent columns. The right end is perfect.</p>"
    )
    return section("scores", lead, table, key)


def _columns(findings: Findings) -> str:
    contrasts = findings.columns
    worst = sorted(contrasts, key=lambda contrast: -contrast.excess)
    drawn = worst[:MAX_CARDS]
    views = (findings.real, findings.synthetic)
    places = {contrast.name: place for place, contrast in enumerate(contrasts)}
    cards = "".join(
        f'<article class="card column" data-name="{escape(contrast.name)}" '
        f'data-place="{places[contrast.name]}" data-excess="{contrast.excess:.5f}"><header>'
        f'<h3>{name_of(contrast.name)}<small class="kind">{contrast.column.kind}</small></h3>'
        f"{_tag(contrast)}</header>"
        f"{marginal_chart(views, contrast)}{facts_line(contrast)}</article>"
        for contrast in drawn
    )
    lead = (
        "Every column's distribution, real filled and synthetic drawn over it. The error is the "
        "Kolmogorov-Smirnov distance of numbers and times, the total variation distance of levels;"
        " beside it, what other real rows show by chance."
    )
    some = ""
    if len(drawn) < len(contrasts):
        some = (
            f'<p class="note">The {len(drawn)} of {len(contrasts)} columns that differ most are '
            "drawn; the table below lists all.</p>"
        )
    tools = (
        '<div class="tools"><select id="column-order" aria-label="Order of the columns">'
        '<option value="worst">those that differ most first</option>'
        '<option value="table">in the order of the table</option></select>'
        '<input id="column-filter" type="search" placeholder="Filter by name" '
        'aria-label="Filter columns by name"></div>'
    )
    by_error = sorted(contrasts, key=lambda contrast: -contrast.error)
    rows = "".join(_column_row(contrast) for contrast in by_error)
    open_if_wide = " open" if some else ""
    listed = (
        f"<details{open_if_wide}><summary>All {len(contrasts)} columns as a table</summary>"
        '<div class="card tall"><table class="sortable" id="column-table"><thead><tr>'
        '<th scope="col">Column</th><th scope="col">Kind</th>'
        '<th scope="col" class="num" aria-sort="descending">Error</th>'
        '<th scope="col" class="num">Real rows</th>'
        '<th scope="col" class="num">Missing, real</th><th scope="col" class="num">synthetic</th>'
        '<th scope="col" class="num">Distinct, real</th><th scope="col" class="num">synthetic'
        f"</th></tr></thead><tbody>{rows}</tbody></table></div></details>"
    )
    return section(
        "columns", lead, tools, f'<div class="grid" id="column-cards">{cards}</div>', some, listed
    )


def _tag(contrast: ColumnContrast) -> str:
    tone, mark = Tone.POOR, "✕"
    if contrast.excess < 0.02:
        tone, mark = Tone.GOOD, "✓"
    elif contrast.excess < 0.08:
        tone, mark = Tone.FAIR, "◐"
    says = f"error {percent(contrast.error)}; other real rows {percent(contrast.floor)}"
    return (
        f'<span class="tag {tone}" title="{says}">{mark} {percent(contrast.error)}'
        f'<span class="muted">({percent(contrast.floor)})</span></span>'
    )


def _column_row(contrast: ColumnContrast) -> str:
    cells = [cell(percent(value), value) for value in (contrast.error, contrast.floor)]
    cells += [cell(percent(value), value) for value in contrast.missing]
    cells += [cell(f"{value:,}", value) for value in contrast.distinct]
    return (
        f'<tr data-name="{escape(contrast.name)}"><th scope="row">{name_of(contrast.name)}</th>'
        f"<td>{contrast.column.kind}</td>{''.join(cells)}</tr>"
    )


def _pairs(findings: Findings) -> str:
    pairs = findings.pairs
    lead = (
        "How strongly two columns depend on each other: correlation of numbers, Cramér’s V of "
        "levels, the correlation ratio of a level and a number. 0 is none; 1, or −1, is that one "
        "determines the other."
    )
    if pairs is None:
        return section("pairs", "A table of one column has no pairs.")
    difference = pairs.synthetic - pairs.real
    limit = max(0.1, float(np.abs(difference).max()))
    off = ~np.eye(len(pairs.names), dtype=bool)
    mean = float(np.abs(difference[off]).mean())
    maps = "".join(
        f"<figure><figcaption>{caption}</figcaption>"
        f"{heat_map(matrix, pairs.names, scale, f'Dependence of pairs: {key}', key)}</figure>"
        for key, matrix, scale, caption in (
            ("real", pairs.real, 1.0, "real"),
            ("synthetic", pairs.synthetic, 1.0, "synthetic"),
            ("difference", difference, limit, "synthetic − real"),
        )
    )
    data = {
        "names": pairs.names,
        "real": np.round(pairs.real, 3).tolist(),
        "synthetic": np.round(pairs.synthetic, 3).tolist(),
        "difference": np.round(difference, 3).tolist(),
    }
    stored = json.dumps(data).replace("<", "\\u003c")
    some = ""
    if len(pairs.names) < pairs.all_columns:
        some = (
            f'<p class="note">The maps show the {len(pairs.names)} columns whose dependences '
            f"differ most, of {pairs.all_columns}; pairs are compared among "
            f"{'all' if pairs.columns == pairs.all_columns else pairs.columns} columns.</p>"
        )
    scale = (
        '<p class="scale"><span>−</span><i></i><span>+</span><span>deepest shade: 1 of the tables,'
        f" {limit:.2f} of the difference, which is {mean:.3f} on average</span></p>"
    )
    rows = "".join(_pair_row(pair) for pair in pairs.pairs[:MAX_LISTED_PAIRS])
    table = (
        '<div class="card"><h3>Pairs that differ most</h3><div class="scroll">'
        '<table class="sortable"><thead><tr class="group"><td></td><th scope="colgroup" '
        'colspan="2" class="num">Distance from real</th><th scope="colgroup" colspan="2" '
        'class="num">Dependence</th></tr><tr><th scope="col">Pair</th>'
        '<th scope="col" class="num">synth.</th><th scope="col" class="num">floor</th>'
        '<th scope="col" class="num">real</th>'
        f'<th scope="col" class="num">synth.</th></tr></thead><tbody>{rows}</tbody></table>'
        '</div><p class="note">Distance: half the difference of two correlations, otherwise the '
        "total variation distance of the joint distribution. Floor: that of other real rows. The "
        "order is by what lies above the floor.</p></div>"
    )
    panels = "".join(
        f'<div class="card"><h3>{name_of(first)} × {name_of(second)}</h3>'
        f"{joint_of(findings, first, second)}</div>"
        for first, second in (pair.names for pair in pairs.pairs[:DRAWN_PAIRS])
    )
    return section(
        "pairs",
        lead,
        f'<div class="card"><div class="maps">{maps}</div>{scale}</div>{some}',
        f'<script type="application/json" id="maps-data">{stored}</script>',
        f'<div class="halves gap">{table}<div class="stack">{panels}</div></div>',
    )


def _pair_row(pair: PairContrast) -> str:
    first, second = (name_of(name) for name in pair.names)
    cells = [cell(percent(value), value) for value in (pair.error, pair.floor)]
    cells += [cell(f"{value:z.2f}", value) for value in (pair.real, pair.synthetic)]
    return f'<tr><th scope="row">{first} × {second}</th>{"".join(cells)}</tr>'
