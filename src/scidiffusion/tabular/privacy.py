"""Copy report: does a synthetic table give away the rows it was trained on?

Every figure asks the same of training rows and of held-out rows, which the generator has never
seen, and all are read on one scale: the *risk*

    (value - ideal) / (1 - ideal),

0 for a generator that is as near to any other row of the population as to its training rows, 1 for
a copy of the training table. The ideal is what fresh rows would give, exactly, whatever the tables
and their sizes, so that a figure above it beyond chance is a leak and not a matter of taste.

It measures the attacks that are carried out, on average over rows. It is no proof of privacy: that
is differential privacy, a property of the training and not of a table.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from scidiffusion.errors import ConfigError, DataError, ScidiffusionWarning
from scidiffusion.tabular import attacks as attack
from scidiffusion.tabular import copy_figures as figures_of
from scidiffusion.tabular.copy_figures import CopyFigure
from scidiffusion.tabular.inference import infer_schema
from scidiffusion.tabular.judges import copy_share
from scidiffusion.tabular.neighbours import RowSpace
from scidiffusion.tabular.schema import ColumnKind, TableSchema
from scidiffusion.tabular.singling_out import singling_out
from scidiffusion.tabular.views import TableView

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["CopyFigure", "CopyReport", "copy_report"]

FEWEST_ROWS = 10
ALARM = 0.01


@dataclass(frozen=True)
class CopyReport:
    """Figures of copying, each beside what fresh rows would give.

    Args:
        figures: By name: ``dcr``, ``dcr_balanced``, ``copies``, ``membership_distance``,
            ``membership_density``, ``membership_tpr``, ``singling_out``, ``singling_out_joint``,
            ``attribute_inference``. One that the table does not allow, such as predicates over
            several columns of a single one, is left out.
        distances: Median distance of synthetic rows to the nearest training row and to the
            nearest of as many held-out rows.
        singled_out: By figure the share of predicates that match exactly one training row
            (``main``) and exactly one of as many held-out rows (``control``).
        guessed: Column -> share of its cells guessed of training rows (``main``) and of held-out
            rows (``control``).
        rows: Number of rows of the three tables.
        used: Number of rows used of each, where a table was thinned.
        confidence: Coverage of the intervals.
        seed: Seed of everything drawn.
    """

    figures: dict[str, CopyFigure]
    distances: dict[str, float]
    singled_out: dict[str, dict[str, float]]
    guessed: dict[str, dict[str, float]]
    rows: dict[str, int]
    used: dict[str, int]
    confidence: float
    seed: int

    @property
    def alarms(self) -> list[str]:
        """Names of the figures that are worse than chance explains, the worst risk first.

        All together raise a false alarm in at most one of a hundred honest tables.
        """
        level = ALARM / max(len(self.figures), 1)
        found = [name for name, figure in self.figures.items() if figure.p_value < level]
        return sorted(found, key=lambda name: -self.figures[name].risk)

    @property
    def passed(self) -> bool:
        """Whether no figure is worse than chance explains."""
        return not self.alarms

    @property
    def verdict(self) -> str:
        """The report in one sentence."""
        against = f"against {self.rows['holdout']:,} held-out rows"
        if self.passed:
            return (
                f"No sign of copying: {against}, all {len(self.figures)} figures are what rows "
                "that the generator never saw would give."
            )
        worst = self.figures[self.alarms[0]]
        others = len(self.alarms) - 1
        more = f" and {others} more figure{'s' if others > 1 else ''}" if others else ""
        return (
            f"Training rows leak: {against}, {worst.label} ({_number(worst.value)}, ideal "
            f"{_number(worst.ideal)}, risk {100 * worst.risk:.0f} %){more} cannot be chance."
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a figure: value, interval, ideal, risk, p-value, count, alarm."""
        records = {
            name: {
                "figure": figure.label,
                "value": figure.value,
                "low": figure.low,
                "high": figure.high,
                "ideal": figure.ideal,
                "risk": figure.risk,
                "p_value": figure.p_value,
                "count": figure.count,
                "alarm": name in self.alarms,
            }
            for name, figure in self.figures.items()
        }
        return pd.DataFrame.from_dict(records, orient="index")

    def to_dict(self) -> dict[str, Any]:
        """The report as a JSON object, with risks and verdict."""
        plain = dataclasses.asdict(self)
        for name, figure in self.figures.items():
            plain["figures"][name] |= {"risk": figure.risk, "alarm": name in self.alarms}
        return {"verdict": self.verdict, "passed": self.passed, **plain}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_dict` gave."""
        fields = {field.name: record[field.name] for field in dataclasses.fields(cls)}
        names = {field.name for field in dataclasses.fields(CopyFigure)}
        figures = {
            name: CopyFigure(**{key: value for key, value in figure.items() if key in names})
            for name, figure in fields.pop("figures").items()
        }
        return cls(figures=figures, **fields)

    def to_json(self) -> str:
        """The report as indented JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)

    def render(self, title: str = "Copies of training rows") -> Table:
        """The report as a table for the terminal.

        Args:
            title: The table's title.

        Returns:
            A Rich table, to be printed by a ``rich.console.Console``.
        """
        from rich.table import Table

        table = Table(title=title, caption=self.verdict, title_style="bold")
        table.add_column("figure")
        table.add_column("value", justify="right", style="bold")
        table.add_column(f"{100 * self.confidence:g} % interval", justify="right")
        table.add_column("fresh rows", justify="right")
        table.add_column("risk, %", justify="right")
        alarms = self.alarms
        for name, figure in self.figures.items():
            table.add_row(
                figure.label,
                _number(figure.value),
                f"{_number(figure.low)} to {_number(figure.high)}",
                _number(figure.ideal),
                f"{100 * figure.risk:.1f}",
                style="red" if name in alarms else None,
            )
        return table


def _number(value: float) -> str:
    return f"{value:.3f}"


def copy_report(
    train: pd.DataFrame,
    synthetic: pd.DataFrame,
    holdout: pd.DataFrame | None,
    *,
    columns: TableSchema | Mapping[str, ColumnKind | str] | None = None,
    seed: int = 0,
    attacks: int = 1000,
    max_rows: int = 50_000,
    confidence: float = 0.95,
) -> CopyReport:
    """Look for training rows in a synthetic table.

    Args:
        train: The rows the generator was trained on.
        synthetic: The table to judge, with the same columns.
        holdout: Real rows of the same population that the generator has not seen.
        columns: Kinds of columns that are not what they look like, or a schema to take all kinds
            from.
        seed: Seed of everything drawn.
        attacks: Predicates of each singling-out attack.
        max_rows: A larger table is thinned to this many rows at random, except to look for exact
            copies. Distances are searched for up to 3,000 of these rows, fewer where rows are many
            or wide; figures say how many.
        confidence: Coverage of the intervals, in (0, 1).

    Returns:
        The report.

    Raises:
        DataError: If there is no holdout, a table lacks a column or has fewer than 10 rows.
        ConfigError: If an option is out of range.
    """
    if holdout is None:
        raise DataError(
            "a copy report needs real rows that the generator has not seen: hold some aside "
            "before fitting, such as a random tenth of the table, and pass them as holdout"
        )
    for name, least, value in (("attacks", 1, attacks), ("max_rows", FEWEST_ROWS, max_rows)):
        if isinstance(value, bool) or value != int(value) or value < least:
            raise ConfigError(f"{name} must be an integer >= {least}, got {value!r}")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must lie between 0 and 1, got {confidence!r}")
    tables = {"train": train, "synthetic": synthetic, "holdout": holdout}
    whole = _views(tables, columns)
    rng = {
        name: np.random.default_rng([seed, index])
        for index, name in enumerate(
            ("rows", "dcr", "membership", "tpr", "singles", "joint", "guesses")
        )
    }
    figures = {"copies": figures_of.copies(whole, confidence)}
    views = {name: view.sample(int(max_rows), rng["rows"]) for name, view in whole.items()}
    space = RowSpace.of(views["train"], views["holdout"])
    points = {name: space.points(view) for name, view in views.items()}
    known = points["train"], points["holdout"], points["synthetic"]

    searches = attack.closeness(*known, rng["dcr"])
    labels = {
        "dcr": "nearer to a training row",
        "dcr_balanced": "nearer to a training row, as many held out",
    }
    for (name, label), found in zip(labels.items(), searches, strict=True):
        figures[name] = figures_of.pointed_at(label, found.weights, found.train, confidence)
    scores = attack.membership_scores(*known, rng["membership"])
    for name, pair in scores.items():
        figures[f"membership_{name}"] = figures_of.area(
            f"membership by {name}, AUC", pair, confidence
        )
    figures["membership_tpr"] = figures_of.found(scores["density"], rng["tpr"], confidence)

    labels = {
        "singling_out": "singled out by one column",
        "singling_out_joint": "singled out by several columns",
    }
    singled_out = {}
    for name, label in labels.items():
        joint = name.endswith("joint")
        singled = singling_out(
            views["train"],
            views["holdout"],
            views["synthetic"],
            attacks=int(attacks),
            several=joint,
            rng=rng["joint" if joint else "singles"],
        )
        singled_out[name] = {"main": singled.main, "control": singled.control}
        if singled.weights.any():
            figures[name] = figures_of.pointed_at(
                label, singled.weights, singled.train, confidence
            )
    guesses = None
    if len(whole["train"].schema) > 1:
        guesses = attack.attribute_inference(
            (views["train"], points["train"]),
            (views["holdout"], points["holdout"]),
            (views["synthetic"], points["synthetic"]),
            rng["guesses"],
        )
        figures["attribute_inference"] = figures_of.guessed(guesses, confidence)
    return CopyReport(
        figures=figures,
        distances={
            "to_train": float(np.median(searches[1].to_train)),
            "to_holdout": float(np.median(searches[1].to_holdout)),
        },
        singled_out=singled_out,
        guessed={}
        if guesses is None
        else {
            name: {"main": float(main), "control": float(control)}
            for name, main, control in zip(
                guesses.columns,
                guesses.train.mean(axis=0),
                guesses.holdout.mean(axis=0),
                strict=True,
            )
        },
        rows={name: len(view) for name, view in whole.items()},
        used={name: len(view) for name, view in views.items()},
        confidence=confidence,
        seed=seed,
    )


def _views(
    tables: Mapping[str, pd.DataFrame],
    columns: TableSchema | Mapping[str, ColumnKind | str] | None,
) -> dict[str, TableView]:
    """See the tables through the schema of all real rows: it must not favour the training rows."""
    names = {"train": "training table", "synthetic": "synthetic table", "holdout": "holdout"}
    for key, table in tables.items():
        if not isinstance(table, pd.DataFrame):
            raise DataError(f"the {names[key]} must be a DataFrame, got {type(table).__name__}")
        if len(table) < FEWEST_ROWS:
            raise DataError(
                f"the {names[key]} has {len(table)} row(s); a copy report needs {FEWEST_ROWS}"
            )
    train = tables["train"]
    absent = [name for name in train.columns if name not in tables["holdout"].columns]
    if absent:
        raise DataError(f"the holdout lacks the column(s) {', '.join(map(repr, absent[:5]))}")
    kinds = {c.name: c.kind for c in columns} if isinstance(columns, TableSchema) else columns
    # An identifier is looked up like a level: it must not be copied either.
    kinds = {
        name: ColumnKind.CATEGORICAL if kind == ColumnKind.IDENTIFIER else kind
        for name, kind in (kinds or {}).items()
    }
    with warnings.catch_warnings():
        # Pandas announces another dtype for a part without values; the schema asks the values.
        warnings.simplefilter("ignore", FutureWarning)
        real = pd.concat([train, tables["holdout"][list(train.columns)]], ignore_index=True)
    schema = infer_schema(real, kinds)
    views = {key: TableView.of(table, schema, names[key]) for key, table in tables.items()}
    order = np.random.default_rng(0).permutation(len(train))
    halves = [views["train"].take(part) for part in np.array_split(order, 2)]
    if copy_share(views["train"], views["holdout"]) > 0.5 + copy_share(*halves):
        warnings.warn(
            "most held-out rows are training rows too; the report says nothing unless the "
            "generator has not seen them",
            ScidiffusionWarning,
            stacklevel=3,
        )
    return views
