"""One page that says how good a synthetic table is: for a reader with a browser and no library.

The page is one file. Style, script and charts are in it, its content policy forbids every
request, no value of a table reaches it unescaped, and no script runs but its own. It has no date:
the same tables and the same seed give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike

import pandas as pd

from scidiffusion._files import check_writable_file, write_atomic
from scidiffusion.tabular.findings import find
from scidiffusion.tabular.metrics import TableScore
from scidiffusion.tabular.report_page import render_page
from scidiffusion.tabular.schema import ColumnKind

__all__ = ["write_report"]


def write_report(
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    path: str | PathLike[str],
    *,
    holdout: pd.DataFrame | None = None,
    target: str | None = None,
    columns: Mapping[str, ColumnKind | str] | None = None,
    seed: int = 0,
    title: str | None = None,
) -> TableScore:
    """Write a report on a synthetic table as one self-contained HTML page.

    It holds a verdict, the score table with its floors, every column's distribution, the
    dependence of pairs, what a judge used to tell synthetic rows from real ones, and a copy
    report. Of a wide table the columns and pairs that differ most are drawn, and all are listed.

    Args:
        real: The table the generator was trained on.
        synthetic: The table to judge, with the same columns in any order.
        path: The page; missing folders are made.
        holdout: Real rows the generator has not seen. Without them a fifth of the real rows is
            held aside for the floors, and copying cannot be judged.
        target: Column to predict for the usefulness of the table; None leaves it out.
        columns: Column -> kind, where the inferred kind of a column is not meant; as in
            :class:`~scidiffusion.tabular.TabularDiffusion`.
        seed: Seed of everything drawn: the same seed gives the same page.
        title: Heading of the page.

    Returns:
        The scores, which are also on the page.

    Raises:
        DataError: If a table is empty, has other columns than the real one, or a column that
            cannot be read as one of a table, such as a nested one.
        SchemaError: If ``columns`` or ``target`` names no column that can be compared.
        ConfigError: If the seed is not a number from 0.
        OutputError: If the page cannot be written.
    """
    check_writable_file(path)
    findings = find(real, synthetic, holdout=holdout, target=target, columns=columns, seed=seed)
    page = render_page(findings, title or "Synthetic table report")
    write_atomic(path, page.encode())
    return findings.score
