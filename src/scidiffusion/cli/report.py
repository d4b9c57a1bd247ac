"""The commands `scidiffusion tabular score` and `scidiffusion tabular report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scidiffusion._files import check_writable_file, write_atomic
from scidiffusion.cli.common import friendly_errors, read_table

RealFile = Annotated[
    Path, typer.Argument(metavar="REAL.csv", help="Table the generator learned (or Parquet).")
]
SyntheticFile = Annotated[
    Path, typer.Argument(metavar="SYNTH.csv", help="Table to judge (or Parquet).")
]
Holdout = Annotated[
    Path | None,
    typer.Option(
        metavar="TEST.csv",
        help="Real rows the generator has not seen; without them a fifth of REAL is held aside "
        "and copying cannot be judged.",
    ),
]
Target = Annotated[
    str | None, typer.Option(help="Column to predict: are models trained on the table useful?")
]
Categorical = Annotated[
    list[str] | None, typer.Option(help="Column to treat as categories; repeatable.")
]
Numerical = Annotated[
    list[str] | None, typer.Option(help="Column to treat as numbers; repeatable.")
]
Seed = Annotated[int, typer.Option(help="Seed; the same seed gives the same result.")]


@friendly_errors
def score(
    real: RealFile,
    synthetic: SyntheticFile,
    holdout: Holdout = None,
    target: Target = None,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="OUT.json", help="Write the scores as JSON.")
    ] = None,
    categorical: Categorical = None,
    numerical: Numerical = None,
    seed: Seed = 0,
) -> None:
    """Score a synthetic table beside what can be reached.

    Every figure stands between that of other real rows, the best any generator can reach, and that
    of the real columns shuffled separately.
    """
    from rich.console import Console

    from scidiffusion.tabular.comparison import score_synthetic
    from scidiffusion.tabular.metrics import render_score_table

    if json is not None:
        check_writable_file(json)
    result = score_synthetic(
        read_table(real),
        read_table(synthetic),
        holdout=None if holdout is None else read_table(holdout),
        target=target,
        columns=_kinds(categorical, numerical),
        seed=seed,
    )
    Console().print(render_score_table(result, title=f"{synthetic.name} against {real.name}"))
    if holdout is None:
        _say_what_is_held_aside(result.rows, seed)
    if json is not None:
        write_atomic(json, (result.to_json() + "\n").encode())
        typer.echo(f"The scores are in {json}.")


@friendly_errors
def report(
    real: RealFile,
    synthetic: SyntheticFile,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="OUT.html", help="Page to write.")
    ] = Path("report.html"),
    holdout: Holdout = None,
    target: Target = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
    categorical: Categorical = None,
    numerical: Numerical = None,
    seed: Seed = 0,
) -> None:
    """Write a report on a synthetic table: one HTML page that needs nothing else.

    A verdict, the scores with their floors, every column, pairs, what gives the synthetic rows
    away, and copies of real ones.
    """
    from scidiffusion.tabular.report import write_report

    check_writable_file(out)
    result = write_report(
        read_table(real),
        read_table(synthetic),
        out,
        holdout=None if holdout is None else read_table(holdout),
        target=target,
        columns=_kinds(categorical, numerical),
        seed=seed,
        title=title or f"{synthetic.name} against {real.name}",
    )
    if holdout is None:
        _say_what_is_held_aside(result.rows, seed)
    typer.echo(f"The report is in {out}.")


def _kinds(categorical: list[str] | None, numerical: list[str] | None) -> dict[str, str] | None:
    kinds = dict.fromkeys(categorical or [], "categorical")
    return kinds | dict.fromkeys(numerical or [], "numerical") or None


def _say_what_is_held_aside(rows: dict[str, int], seed: int) -> None:
    typer.echo(
        f"No --holdout: {rows['test']:,} of the {rows['train'] + rows['test']:,} real rows, drawn "
        f"with seed {seed}, were held aside for the floors; copying cannot be judged with them."
    )
