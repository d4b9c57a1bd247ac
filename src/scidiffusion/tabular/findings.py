"""Everything a report says about a synthetic table, computed, and its verdict in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.tabular.comparison import (
    ComparedTables,
    align_tables,
    check_target,
    score_aligned,
)
from scidiffusion.tabular.contrasts import (
    ColumnContrast,
    PairContrasts,
    contrast_columns,
    contrast_pairs,
)
from scidiffusion.tabular.metrics import TableScore
from scidiffusion.tabular.neighbours import RowSpace, affordable_rows, k_nearest
from scidiffusion.tabular.privacy import copy_report
from scidiffusion.tabular.schema import ColumnKind
from scidiffusion.tabular.telltales import Telltales, find_telltales
from scidiffusion.tabular.views import TableView

if TYPE_CHECKING:
    from scidiffusion.tabular.privacy import CopyReport

__all__ = ["Findings", "Tone", "find", "verdict"]

COPY_REPORT_ROWS = 10
# A judge whose area is below this has found nothing that fresh real rows might not show.
TELLING_AREA = 0.53
# Several times what fresh rows would have: the nearest real row is too near.
SUSPICIOUS = 0.2


class Tone(StrEnum):
    """How good a verdict is."""

    GOOD = "good"
    FAIR = "fair"
    POOR = "poor"


@dataclass(frozen=True)
class Distances:
    """Distances to the nearest training row.

    Args:
        synthetic: Of synthetic rows.
        fresh: Of other real rows.
    """

    synthetic: NDArray[np.float64]
    fresh: NDArray[np.float64]

    @property
    def suspicious(self) -> float:
        """Share of synthetic rows nearer to a training row than all but 5 % of fresh rows."""
        near = np.quantile(self.fresh, 0.05)
        return float((self.synthetic < near - 1e-9).mean()) if len(self.fresh) >= 100 else 0.0


@dataclass(frozen=True)
class Findings:
    """What a report shows.

    Args:
        tables: The tables compared.
        real: The real table through the schema.
        synthetic: The synthetic one.
        score: Figures and floors.
        columns: Every column, in the table's order.
        pairs: Pairs of columns; None for a table of one column.
        telltales: What the judge used; None for tables too small for one.
        distances: Distances to the nearest training row.
        copies: The copy report; None without rows the generator has not seen.
    """

    tables: ComparedTables
    real: TableView
    synthetic: TableView
    score: TableScore
    columns: list[ColumnContrast]
    pairs: PairContrasts | None
    telltales: Telltales | None
    distances: Distances
    copies: CopyReport | None


def find(
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    *,
    holdout: pd.DataFrame | None = None,
    target: str | None = None,
    columns: Mapping[str, ColumnKind | str] | None = None,
    seed: int = 0,
) -> Findings:
    """Compare a synthetic table with the real one in every way a report shows.

    Args:
        real: The table the generator was trained on.
        synthetic: The table to judge.
        holdout: Real rows the generator has not seen.
        target: Column to predict for the usefulness of the table; None leaves it out.
        columns: Column -> kind, where the inferred kind is not meant.
        seed: Seed of everything drawn.

    Returns:
        The findings.

    Raises:
        DataError: As for :func:`scidiffusion.tabular.comparison.align_tables`.
        SchemaError: As there, or if the target is not a column that is compared.
    """
    if isinstance(real, pd.DataFrame):
        check_target(target, list(real.columns))
    tables = align_tables(real, synthetic, holdout=holdout, columns=columns, seed=seed)
    score = score_aligned(tables, target)
    train, test, fake = (tables.view(name) for name in ("train", "test", "synthetic"))
    draw = [np.random.default_rng([seed, place]) for place in range(3)]
    return Findings(
        tables=tables,
        real=train,
        synthetic=fake,
        score=score,
        columns=contrast_columns(train, test, fake),
        pairs=contrast_pairs(train, test, fake, draw[0]),
        telltales=find_telltales(train, fake, rng=draw[1], rows=min(tables.judge_rows, 3000)),
        distances=_distances(train, test, fake, draw[2]),
        copies=_copies(tables),
    )


def _distances(
    train: TableView, test: TableView, synthetic: TableView, rng: np.random.Generator
) -> Distances:
    space = RowSpace.of(train, test)
    base = space.points(train)
    rows = affordable_rows(len(base), base.width, most=2000)
    fresh, fake = (
        k_nearest(space.points(view.sample(rows, rng)), base, 1)[:, 0]
        for view in (test, synthetic)
    )
    return Distances(synthetic=fake, fresh=fresh)


def _copies(tables: ComparedTables) -> CopyReport | None:
    fewest = min(len(table) for table in (tables.train, tables.test, tables.synthetic))
    if not tables.unseen or fewest < COPY_REPORT_ROWS:
        return None
    names = tables.schema.names
    return copy_report(
        tables.train[names],
        tables.synthetic[names],
        tables.test[names],
        columns=tables.schema,
        seed=tables.seed,
    )


def verdict(findings: Findings) -> tuple[Tone, str]:
    """The report in one sentence: nearness to real rows, the weakest spot, copies.

    Args:
        findings: What was found.

    Returns:
        How good it is altogether, and the sentence.
    """
    tone, nearness = _nearness(findings.score)
    weak = _weakest(findings)
    copies_tone, copies = _copying(findings)
    worst = max((tone, copies_tone), key=list(Tone).index)
    return worst, f"{nearness}; {weak}; {copies}."


def _nearness(score: TableScore) -> tuple[Tone, str]:
    value, best = score.synthetic.c2st, score.real.c2st
    if value is None:
        return Tone.FAIR, "There are too few rows for a judge to tell synthetic from real"
    figures = f" (C2ST {value:.2f}" + (f", real rows {best:.2f})" if best is not None else ")")
    for least, tone, text in (
        (0.9, Tone.GOOD, "The synthetic rows can hardly be told from real ones"),
        (0.8, Tone.GOOD, "The synthetic rows are close to real ones"),
        (0.5, Tone.FAIR, "The synthetic rows resemble real ones, yet a judge tells them apart"),
    ):
        if value >= least:
            return tone, text + figures
    return Tone.POOR, "The synthetic rows are easily told from real ones" + figures


def _weakest(findings: Findings) -> str:
    told = findings.telltales
    if told is not None and told.area >= TELLING_AREA and told.columns[0].importance > 0:
        best = told.pairs[0] if told.pairs else None
        if best is not None and best.gain > 0.02:
            first, second = best.columns
            return f"{first} beside {second} gives most away"
        return f"{told.columns[0].column} gives most away"
    worst = max(findings.columns, key=lambda contrast: contrast.excess)
    if worst.excess > 0.02:
        return f"{worst.name} differs most (by {100 * worst.error:.1f} %)"
    return "no column stands out"


def _copying(findings: Findings) -> tuple[Tone, str]:
    report = findings.copies
    if report is not None:
        if report.passed:
            return Tone.GOOD, "no sign of copied training rows"
        figure = report.figures[report.alarms[0]]
        tone = Tone.POOR if figure.risk >= 0.1 else Tone.FAIR
        return tone, f"training rows leak into it ({figure.label}: {figure.value:.3f}, " + (
            f"{figure.ideal:.3f} if it had learned none by heart)"
        )
    value, floor = findings.score.synthetic.copies or 0.0, findings.score.real.copies or 0.0
    if value > 2 * floor + 1:
        return Tone.POOR, f"{value:.1f} % of its rows are exact copies of real ones"
    near = findings.distances.suspicious
    if near > SUSPICIOUS:
        return Tone.FAIR, (
            f"{100 * near:.0f} % of its rows lie nearer to a real row than all but 5 % of other "
            "real rows do, so it may have learned some by heart"
        )
    return Tone.GOOD, "whether it copies cannot be judged without rows it has not seen"
