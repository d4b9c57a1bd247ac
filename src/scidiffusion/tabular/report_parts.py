"""Pieces of HTML that the sections of the report share."""

from __future__ import annotations

from html import escape

from scidiffusion.tabular.contrasts import ColumnContrast
from scidiffusion.tabular.findings import Findings
from scidiffusion.tabular.joints import joint_shares
from scidiffusion.tabular.report_charts import percent
from scidiffusion.tabular.report_maps import joint_chart

__all__ = ["cell", "facts_line", "joint_of", "name_of", "section"]

TITLES = {
    "scores": "Scores and what can be reached",
    "columns": "Columns",
    "pairs": "Dependence between columns",
    "judge": "What gives it away",
    "copies": "Copies of real rows",
    "notes": "How this was computed",
}


def name_of(text: str) -> str:
    """A column's name, kept apart from the direction of the text around it.

    Args:
        text: The name, as it is.
    """
    return f'<span class="name">{escape(text)}</span>'


def section(key: str, lead: str, *parts: str) -> str:
    """A section with its heading.

    Args:
        key: Its anchor, of ``TITLES``.
        lead: HTML below the heading.
        parts: HTML of what follows.
    """
    return (
        f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">'
        f'{TITLES[key]}</h2><p class="lead">{lead}</p>{"".join(parts)}</section>'
    )


def facts_line(contrast: ColumnContrast) -> str:
    """A few figures of one column, real and synthetic.

    Args:
        contrast: The column.
    """
    facts = list(contrast.facts)
    if contrast.column.kind.is_discrete:
        real, fake = contrast.distinct
        facts.append(("levels", f"{real:,}", f"{fake:,}"))
    if any(contrast.missing):
        facts.append(("missing", percent(contrast.missing[0]), percent(contrast.missing[1])))
    shown = "".join(
        f"<span>{what} <b>{escape(real)}</b> → <i>{escape(fake)}</i></span>"
        for what, real, fake in facts
    )
    return f'<p class="facts-line">{shown}</p>'


def cell(text: str, value: float) -> str:
    """A cell of a table that can be sorted.

    Args:
        text: What it shows.
        value: What it is sorted by.
    """
    return f'<td class="num" data-v="{value:.6g}">{text}</td>'


def joint_of(findings: Findings, first: str, second: str) -> str:
    """The chart of two columns' joint distribution.

    Args:
        findings: The tables.
        first: A column.
        second: Another one.
    """
    chart = joint_chart(joint_shares(findings.real, findings.synthetic, first, second))
    return f'<div class="scroll"><div class="joint-box">{chart}</div></div>'
