"""How good a synthetic table is: one figure a question, each beside what could be reached.

A figure alone says little. Every one stands beside two floors computed the same way: *real vs
real*, held-out rows in place of synthetic ones, the best any generator can reach; and *independent
columns*, the training columns shuffled separately, which has every marginal and no dependence.

- shape error, trend error: marginals and pairwise dependence, in percent; 0 is best.
- C2ST: ``2 (1 - AUC)`` of a gradient-boosted judge that tells synthetic rows from real ones; 1 is
  best. It sees whatever the other figures miss.
- ML efficacy: a model trained on the table, scored on real test rows (AUC or R2).
- nearer to train: share of rows nearer to a training row than to a test row; above its ideal, the
  generator has learned rows by heart.
- exact copies of training rows, in percent; no more than held-out rows have.
- invalid values: cells the training table could not have held; 0 is best.
"""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scidiffusion._lazy import require
from scidiffusion.errors import DataError, SchemaError
from scidiffusion.tabular import judges
from scidiffusion.tabular.dependence import shape_errors, trend_error
from scidiffusion.tabular.schema import TableSchema, unknown_column
from scidiffusion.tabular.views import TableView

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Figures", "TableScore", "quality_report", "render_score_table", "score_table"]


@dataclass(frozen=True)
class Figures:
    """The figures of one table; None where a figure does not apply.

    Args:
        shape_error: Mean error of the marginals, percent.
        trend_error: Mean error of the pairwise dependences, percent.
        c2st: Score of the classifier two-sample test, in [0, 1].
        ml_efficacy: AUC or R2 on real test rows of a model trained on the table.
        dcr_share: Share of rows nearer to a training row than to a test row.
        copies: Rows that are exact copies of training rows, percent.
        invalid: Cells the training table could not have held.
    """

    shape_error: float | None = None
    trend_error: float | None = None
    c2st: float | None = None
    ml_efficacy: float | None = None
    dcr_share: float | None = None
    copies: float | None = None
    invalid: int | None = None


@dataclass(frozen=True)
class TableScore:
    """The score of a synthetic table with its floors.

    Args:
        synthetic: Figures of the synthetic table.
        real: The same of held-out real rows: the best that can be reached. Of ``ml_efficacy`` the
            figure after training on the real table; of ``dcr_share`` the ideal.
        independent: The same of the training columns, each shuffled on its own.
        target: The column predicted for ``ml_efficacy``.
        efficacy_metric: ``"AUC"`` or ``"R2"``.
        shape_errors: Error of every column's marginal in percent, the worst first.
        rows: Number of rows of each table.
        seed: The seed of everything drawn.
    """

    synthetic: Figures
    real: Figures
    independent: Figures
    target: str | None
    efficacy_metric: str | None
    shape_errors: dict[str, float]
    rows: dict[str, int]
    seed: int

    def to_frame(self) -> pd.DataFrame:
        """One row a figure: the synthetic table, the two floors, and which way is better."""
        records = {
            field.name: {
                "synthetic": getattr(self.synthetic, field.name),
                "real vs real": getattr(self.real, field.name),
                "independent columns": getattr(self.independent, field.name),
                "better": _BETTER[field.name],
            }
            for field in dataclasses.fields(Figures)
        }
        return pd.DataFrame.from_dict(records, orient="index")

    def to_dict(self) -> dict[str, Any]:
        """The score as a JSON object."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """The score as indented JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)


_BETTER = {
    "shape_error": "lower",
    "trend_error": "lower",
    "c2st": "higher",
    "ml_efficacy": "higher",
    "dcr_share": "near real",
    "copies": "near real",
    "invalid": "lower",
}


def score_table(
    real_train: pd.DataFrame,
    real_test: pd.DataFrame | None,
    synthetic: pd.DataFrame,
    schema: TableSchema,
    *,
    target: str | None = None,
    seed: int = 0,
    judge_rows: int = 5000,
) -> TableScore:
    """Score a synthetic table against the real one.

    Args:
        real_train: The table the generator was trained on.
        real_test: Real rows it has not seen. Without them the training rows are split in halves
            for the floors and a quarter of them stands in for the test rows of ``ml_efficacy``;
            ``dcr_share`` and the floor of ``copies`` are left out.
        synthetic: The table to judge, with the same columns.
        schema: The schema of the training table.
        target: The column to predict for ``ml_efficacy``; None leaves it out.
        seed: Seed of every draw and judge.
        judge_rows: Rows a gradient-boosted judge is trained on at most.

    Returns:
        The figures, each beside its floors.

    Raises:
        DataError: If a table lacks a column or rows.
        SchemaError: If the target is not a column of the schema.
    """
    if target is not None and target not in schema:
        raise SchemaError(f"target: {unknown_column(target, schema.names)}")
    rng = np.random.default_rng(seed)
    train = TableView.of(real_train, schema, "real training table")
    fake = TableView.of(synthetic, schema, "synthetic table")
    test = None if real_test is None else TableView.of(real_test, schema, "real test table")
    if len(train) < 8:
        raise DataError(f"the real training table has {len(train)} row(s); 8 are needed to score")
    shuffled = train.shuffled(rng)

    order = rng.permutation(len(train))
    if test is None:
        halves = train.take(order[: len(order) // 2]), train.take(order[len(order) // 2 :])
        quarter = len(order) // 4
        exam, lesson = train.take(order[:quarter]), train.take(order[quarter:])
    else:
        halves = train, test
        exam, lesson = test, train
    column = None if target is None else schema[target]
    classify = column is not None and judges.is_classification(column, train)

    def figures(base: TableView, other: TableView, taught: TableView) -> Figures:
        c2st = judges.classifier_two_sample_score(base, other, rows=judge_rows, rng=rng)
        efficacy = math.nan
        if column is not None:
            efficacy = judges.ml_efficacy(
                taught, exam, column, classify=classify, rows=judge_rows, rng=rng
            )
        return Figures(
            shape_error=100 * float(np.mean(list(shape_errors(base, other).values()))),
            trend_error=100 * trend_error(base, other, rng),
            c2st=c2st if math.isfinite(c2st) else None,
            ml_efficacy=efficacy if math.isfinite(efficacy) else None,
            invalid=int(other.invalid.sum()),
        )

    def with_privacy(plain: Figures, other: TableView) -> Figures:
        nearer = None if test is None else judges.nearest_share(train, test, other, rng)
        return dataclasses.replace(
            plain, dcr_share=nearer, copies=100 * judges.copy_share(train, other)
        )

    real = figures(*halves, lesson)
    if test is not None:
        ideal = len(train) / (len(train) + len(test))
        copies = 100 * judges.copy_share(train, test)
        real = dataclasses.replace(real, dcr_share=ideal, copies=copies)
    errors = {name: 100 * error for name, error in shape_errors(train, fake).items()}
    rows = {"train": len(train), "synthetic": len(fake)}
    return TableScore(
        synthetic=with_privacy(figures(train, fake, fake), fake),
        real=real,
        independent=with_privacy(figures(train, shuffled, shuffled), shuffled),
        target=target,
        efficacy_metric=None if column is None else "AUC" if classify else "R2",
        shape_errors=dict(sorted(errors.items(), key=lambda item: -item[1])),
        rows=rows if test is None else rows | {"test": len(test)},
        seed=seed,
    )


def quality_report(
    real: pd.DataFrame, synthetic: pd.DataFrame, schema: TableSchema, *, weak_pairs: bool = True
) -> tuple[float, float]:
    """Shape and trend error by SDMetrics' own QualityReport, to compare with other reports.

    With ``weak_pairs`` they are those of :func:`score_table` up to the binning: recent versions of
    SDMetrics bin each of two tables over its own range, here both over the real one.

    Args:
        real: The real table.
        synthetic: The table to judge.
        schema: The schema of the real table.
        weak_pairs: Average the trend over every pair of columns, as published figures do, and not
            only over those that clearly depend on each other, the default of recent versions of
            SDMetrics: the two differ by much.

    Returns:
        ``(shape_error, trend_error)`` in percent.

    Raises:
        MissingExtraError: If SDMetrics is not installed (extra ``report``).
    """
    tables = [_plain_frame(TableView.of(table, schema)) for table in (real, synthetic)]
    kinds = {
        column.name: {"sdtype": "categorical" if column.kind.is_discrete else "numerical"}
        for column in schema
    }
    with warnings.catch_warnings():
        # Recent versions have moved the report, and say so where all versions have it.
        warnings.simplefilter("ignore", FutureWarning)
        report = require("sdmetrics.reports.single_table", "report").QualityReport()
        if weak_pairs:
            report.real_correlation_threshold = report.real_association_threshold = 0
        report.generate(*tables, {"columns": kinds}, verbose=False)
    scores = report.get_properties().set_index("Property")["Score"]
    errors = 100 * (1 - scores)
    return float(errors["Column Shapes"]), float(errors["Column Pair Trends"])


def _plain_frame(view: TableView) -> pd.DataFrame:
    """Numbers as floats and levels as text."""
    numbers = dict(zip([c.name for c in view.numerical], view.numbers.T, strict=True))
    codes = dict(zip([c.name for c in view.discrete], view.codes.T.astype(str), strict=True))
    return pd.DataFrame({**numbers, **codes})[view.schema.names]


def render_score_table(score: TableScore, title: str = "Synthetic table") -> Table:
    """The score as a table for the terminal.

    Args:
        score: The score.
        title: The table's title.

    Returns:
        A Rich table, to be printed by a ``rich.console.Console``.
    """
    from rich.table import Table

    table = Table(
        title=title,
        caption="real vs real: held-out real rows, the best that can be reached; "
        "independent columns: every marginal, no dependence"
        + (
            f"; {score.efficacy_metric}: of a model trained on the table, on real test rows"
            if score.efficacy_metric
            else ""
        ),
        title_style="bold",
    )
    table.add_column("figure")
    table.add_column("synthetic", justify="right", style="bold")
    table.add_column("real vs real", justify="right")
    table.add_column("independent\ncolumns", justify="right", style="dim")
    table.add_column("better")
    efficacy = f"{score.efficacy_metric} of {score.target}"
    rows = {
        "shape_error": ("shape error, %", "{:.2f}"),
        "trend_error": ("trend error, %", "{:.2f}"),
        "c2st": ("C2ST score", "{:.3f}"),
        "ml_efficacy": (efficacy, "{:.3f}"),
        "dcr_share": ("nearer to train, share", "{:.3f}"),
        "copies": ("exact copies, %", "{:.2f}"),
        "invalid": ("invalid values", "{:d}"),
    }
    for name, (label, form) in rows.items():
        values = [getattr(part, name) for part in (score.synthetic, score.real, score.independent)]
        if values[0] is None:
            continue
        shown = ["-" if value is None else form.format(value) for value in values]
        table.add_row(label, *shown, _BETTER[name])
    return table
