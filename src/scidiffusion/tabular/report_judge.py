"""The report's sections on what gives the synthetic rows away, and on copies of real rows."""

from __future__ import annotations

from html import escape

import numpy as np

from scidiffusion.tabular.findings import TELLING_AREA, Findings
from scidiffusion.tabular.joints import shown_cell
from scidiffusion.tabular.report_charts import distance_chart, marginal_chart, percent
from scidiffusion.tabular.report_parts import TITLES, facts_line, joint_of, name_of, section

__all__ = ["copies_section", "judge_section", "notes_section"]

MAX_BARS = 12
MAX_SHOWN_CELLS = 7


def judge_section(findings: Findings) -> str:
    """What the judge relied on.

    Args:
        findings: What was found.
    """
    told = findings.telltales
    if told is None:
        return section("judge", "The tables have too few rows to train a judge on.")
    lead = (
        "A gradient-boosted judge learned to tell synthetic rows from real ones, "
        f"{told.rows:,} of each. On rows it had not seen its area under the ROC curve is "
        f"<b>{told.area:.3f}</b>; 0.5 is guessing. "
    )
    if told.area < TELLING_AREA:
        lead += "That is chance, or nearly: what follows is mostly noise."
    else:
        lead += "A column’s bar is how much of it is lost when that column is shuffled."
    top = [tell for tell in told.columns[:MAX_BARS] if tell.importance > 0] or [told.columns[0]]
    highest = max(top[0].importance, 1e-9)
    bars = "".join(
        f'<tr><th scope="row">{name_of(tell.column)}</th><td><span class="rail-box">'
        f'<span class="bar" style="width:{100 * max(tell.importance, 0) / highest:.1f}%"></span>'
        f'</span></td><td class="num">{max(tell.importance, 0):.3f}</td><td class="num">'
        f"{'' if tell.alone is None else f'{tell.alone:.3f}'}</td></tr>"
        for tell in top
    )
    table = (
        '<div class="card"><h3>What the judge relied on</h3><table class="bars"><thead><tr>'
        '<th scope="col">Column</th><th scope="col"></th><th scope="col" class="num">Area lost'
        '</th><th scope="col" class="num">Alone</th></tr></thead>'
        f"<tbody>{bars}</tbody></table>"
        '<p class="note">Alone: the area of a judge that sees this column only. A column that '
        "matters but is near 0.5 alone gives itself away only beside others.</p></div>"
    )
    by_name = {contrast.name: contrast for contrast in findings.columns}
    first = by_name[top[0].column]
    chart = marginal_chart((findings.real, findings.synthetic), first)
    heading = f"<h3>The most telling column: {name_of(first.name)}</h3>"
    pictures = f"<div>{heading}{chart}{facts_line(first)}</div>"
    if told.pairs:
        pair = told.pairs[0]
        one, two = pair.columns
        pictures += (
            f"<div><h3>The most telling pair: {name_of(one)} × {name_of(two)}</h3>"
            f'{joint_of(findings, one, two)}<p class="note">A judge of '
            f"these two only: {pair.area:.3f}; of the one {pair.alone[0]:.3f}, of the other "
            f"{pair.alone[1]:.3f}.</p></div>"
        )
    return section(
        "judge",
        lead,
        f'<div class="halves">{table}<div class="card stack">{pictures}</div></div>',
        _surest(findings),
    )


def _surest(findings: Findings) -> str:
    told = findings.telltales
    if told is None or told.area < TELLING_AREA:
        return ""
    names = [tell.column for tell in told.columns[:MAX_SHOWN_CELLS]]
    rows = findings.tables.synthetic.iloc[list(told.surest)]
    head = "".join(f'<th scope="col">{name_of(name)}</th>' for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(shown_cell(value)[:60])}</td>" for value in row) + "</tr>"
        for row in rows[names].itertuples(index=False, name=None)
    )
    return (
        '<div class="card gap"><h3>Synthetic rows that looked least real</h3>'
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div></div>"
    )


def copies_section(findings: Findings) -> str:
    """Distances to real rows, and the copy report where there is one.

    Args:
        findings: What was found.
    """
    report, distances = findings.copies, findings.distances
    fresh = "held-out rows" if findings.tables.unseen else "other real rows"
    chart = distance_chart(distances.synthetic, distances.fresh, fresh)
    same = [float((x <= 1e-9).mean()) for x in (distances.synthetic, distances.fresh)]
    picture = (
        '<div class="card distances"><h3>Distance to the nearest training row</h3>'
        f'{chart}<p class="facts-line"><span>median <b>{np.median(distances.fresh):.3g}</b> → '
        f"<i>{np.median(distances.synthetic):.3g}</i></span><span>identical "
        f"<b>{percent(same[1])}</b> → <i>{percent(same[0])}</i></span></p>"
        f'<p class="note">Filled: {fresh}. Line: synthetic rows. A generator that copies is '
        "nearer to the training rows than unseen rows are: its line lies to the left.</p></div>"
    )
    if report is None:
        why = (
            "there are too few rows for one"
            if findings.tables.unseen
            else "it needs rows the generator has not seen (a holdout table), and the rows held "
            "aside here are a part of the real table"
        )
        lead = f"No copy report: {why}. What can be said without:"
        copies = findings.score.synthetic.copies or 0.0
        text = (
            '<div class="card"><h3>Exact copies</h3><p>'
            f"<b>{copies:.2f} %</b> of the synthetic rows are exact copies of real ones; among "
            f"other real rows {findings.score.real.copies or 0.0:.2f} % are.</p></div>"
        )
        return section("copies", lead, f'<div class="halves">{picture}{text}</div>')
    alarms = report.alarms
    rows = "".join(
        f'<tr><th scope="row">{escape(figure.label)}</th><td class="num">{figure.value:.3f}'
        f'</td><td class="num wide-only">{figure.low:.3f} – {figure.high:.3f}</td>'
        f'<td class="num">{figure.ideal:.3f}</td><td class="num">{_risk(figure.risk)}</td><td>'
        + (
            '<span class="tag poor">✕ leak</span>'
            if name in alarms
            else '<span class="tag good">✓ as fresh</span>'
        )
        + "</td></tr>"
        for name, figure in report.figures.items()
    )
    table = (
        '<div class="card"><h3>Attacks on the training rows</h3><div class="scroll"><table><thead>'
        '<tr><th scope="col">Figure</th><th scope="col" class="num">Value</th>'
        f'<th scope="col" class="num wide-only">{100 * report.confidence:g} % interval</th>'
        '<th scope="col" class="num">Fresh rows</th><th scope="col" class="num">Risk</th>'
        f'<th scope="col">Finding</th></tr></thead><tbody>{rows}</tbody></table></div>'
        '<p class="note">Fresh rows: what rows of the same population would give that the '
        "generator never saw. Risk: from 0 (fresh rows) to 100 % (a copy of the training table). "
        "Attacks that were carried out say nothing about others: a proof of privacy is "
        "differential privacy in training.</p></div>"
    )
    parts = f'<div class="halves uneven">{table}{picture}</div>'
    return section("copies", escape(report.verdict), parts)


def _risk(risk: float) -> str:
    return f"{100 * max(risk, 0.0):.1f} %"


def notes_section(findings: Findings) -> str:
    """How the figures were computed.

    Args:
        findings: What was found.
    """
    tables = findings.tables
    held = (
        "The rows for the floors are a table of their own, which the generator has not seen."
        if tables.unseen
        else "No holdout was given: a fifth of the real rows, drawn with the seed, was held aside "
        "for the floors and for the examination of models. The generator may have seen them, so "
        "models trained on its rows may look slightly too good on them."
    )
    notes = (
        held,
        f"Judges are gradient-boosted trees on at most {tables.judge_rows:,} rows of each table, "
        "with fixed settings; C2ST is 2 (1 − AUC), in three-fold cross-validation.",
        "Distances between rows: numbers in units of the real range, 2 for a level that differs.",
        "Bins cover the middle 99.6 % of the real values; what lies outside is counted in the "
        "outermost ones. “root scale” marks charts whose heights are square roots.",
        "Real rows appear on this page only counted, never singly; names of levels are those of "
        "the real table. Rows shown are synthetic, and real ones only where they are copies.",
    )
    listed = "".join(f"<li>{note}</li>" for note in notes)
    return (
        '<section id="notes" aria-labelledby="notes-title"><h2 id="notes-title">'
        f'{TITLES["notes"]}</h2><ul class="note">{listed}</ul></section>'
    )
