"""The commands `scidiffusion tabular ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scidiffusion.cli import report as reports
from scidiffusion.cli.common import (
    check_table_path,
    friendly_errors,
    read_table,
    resumable,
    write_chunks,
    write_table,
)
from scidiffusion.errors import ConfigError

tabular = typer.Typer(no_args_is_help=True)

TrainFile = Annotated[
    Path, typer.Argument(metavar="TRAIN.csv", help="Table to learn (or Parquet).")
]
ModelFolder = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of the model.")]
Seed = Annotated[int | None, typer.Option(help="Seed; the same seed gives the same result.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


@tabular.command()
@friendly_errors
def fit(
    train: TrainFile,
    model: ModelFolder,
    target: Annotated[str | None, typer.Option(help="Column to predict, if there is one.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Training time: seconds, or 90s, 2min, 1h30m.")
    ] = None,
    categorical: Annotated[
        list[str] | None, typer.Option(help="Column to treat as categories; repeatable.")
    ] = None,
    numerical: Annotated[
        list[str] | None, typer.Option(help="Column to treat as numbers; repeatable.")
    ] = None,
    constraint: Annotated[
        list[str] | None,
        typer.Option(
            help="Rule of every row: 'start <= end', 'total = price + tax', "
            "'combinations: city, country' or 'unique: ward, bed'; repeatable."
        ),
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(help="Train with differential privacy of this epsilon (extra privacy)."),
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="Its delta; default one tenth of 1 / rows.")
    ] = None,
    public: Annotated[
        list[str] | None,
        typer.Option(
            help="With --epsilon, what is known of a column without looking: 'age=0..120' or "
            "'sex=F,M'; repeatable."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted fit stopped.")
    ] = False,
    max_steps: Annotated[int | None, typer.Option(help="Training steps at most.")] = None,
    method: Annotated[str, typer.Option(help="auto, masked or ddpm.")] = "auto",
    rows: Annotated[
        int | None,
        typer.Option(help="Learn a random part of so many rows, for files larger than memory."),
    ] = None,
    seed: Seed = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Learn a table and write the model.

    An interrupted fit leaves a checkpoint in the folder MODEL.checkpoint; the same command with
    --resume goes on from there.
    """
    from scidiffusion.persistence import check_writable
    from scidiffusion.tabular import TabularDiffusion
    from scidiffusion.tabular.public import public_texts
    from scidiffusion.tabular.rule_texts import parse_rules
    from scidiffusion.training import DPBudget

    check_writable(model)
    kinds = dict.fromkeys(categorical or [], "categorical")
    kinds |= dict.fromkeys(numerical or [], "numerical")
    options = {} if max_steps is None else {"max_steps": max_steps}
    if delta is not None and epsilon is None:
        raise ConfigError("--delta goes with --epsilon; give both, or neither")
    estimator = TabularDiffusion(
        method=method,
        privacy=None if epsilon is None else DPBudget(epsilon, delta),
        target=target,
        columns=kinds or None,
        constraints=parse_rules(constraint or []) or None,
        budget=budget,
        # A resumed run must have the seed of the run it resumes: without --seed it is 0.
        random_state=0 if seed is None else seed,
        device=device,
        progress=not quiet,
        **options,  # type: ignore[arg-type]
    )
    table = read_table(train, rows=rows, seed=0 if seed is None else seed)
    if public:
        estimator.set_params(public=public_texts(public, table))
    with resumable(model) as checkpoint:
        estimator.fit(table, checkpoint_dir=checkpoint, resume=resume)
        estimator.save(model)
    result = estimator.training_
    typer.echo(
        f"Learned {len(table):,} rows x {table.shape[1]} columns of {train} in "
        f"{result.seconds:.0f} s ({result.steps:,} steps, stopped by {result.stopped_by}); "
        f"the model is in {model}."
    )
    if estimator.privacy_spent_ is not None:
        spent = estimator.privacy_spent_
        typer.echo(
            f"Differential privacy: epsilon {spent['epsilon']:.3g}, delta {spent['delta']:.2g}."
        )
    if estimator.copy_report_ is not None:
        typer.echo(estimator.copy_report_.verdict)


@tabular.command()
@friendly_errors
def sample(
    model: ModelFolder,
    out: Annotated[Path, typer.Argument(metavar="OUT.csv", help="Table to write (or Parquet).")],
    n: Annotated[
        int | None, typer.Option("-n", help="Number of rows; default that of the training table.")
    ] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(
            help="What every row shall have: column=value, column=a,b, column=low..high or "
            "column>=low; nothing after the = is missing; repeatable."
        ),
    ] = None,
    balance: Annotated[
        str | None, typer.Option(help="Column whose levels shall be equally frequent.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Number of sampling steps.")] = None,
    seed: Seed = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Draw new rows from a model and write them, however many: part by part."""
    from scidiffusion.tabular import TabularDiffusion
    from scidiffusion.tabular.condition_texts import parse_texts
    from scidiffusion.tabular.validation import validate_count

    check_table_path(out)
    if n is not None:
        validate_count(n)
    estimator = TabularDiffusion.load(model, device=device).set_params(progress=not quiet)
    parts = estimator.sample_chunks(
        n,
        conditions=parse_texts(estimator.schema_, condition or []),
        balance=balance,
        steps=steps,
        random_state=seed,
    )
    rows = write_chunks(parts, out)
    typer.echo(f"Wrote {rows:,} rows x {len(estimator.schema_)} columns to {out}.")


@tabular.command()
@friendly_errors
def impute(
    model: ModelFolder,
    table: Annotated[Path, typer.Argument(metavar="GAPS.csv", help="Table to complete.")],
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT.csv", help="Table to write; with --draws OUT_1.csv, ..."),
    ],
    draws: Annotated[
        int | None, typer.Option(help="Number of completed tables, for multiple imputation.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Number of sampling steps.")] = None,
    seed: Seed = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Fill the missing values of a table with draws given the rest of their row."""
    from scidiffusion.tabular import TabularDiffusion

    outs = [out]
    if draws is not None:
        outs = [out.with_name(f"{out.stem}_{number + 1}{out.suffix}") for number in range(draws)]
    for path in outs:
        check_table_path(path)
    estimator = TabularDiffusion.load(model, device=device).set_params(progress=not quiet)
    gaps = read_table(table)
    filled = estimator.impute(gaps, draws=draws, steps=steps, random_state=seed)
    for path, completed in zip(outs, [filled] if draws is None else filled, strict=True):
        write_table(completed, path)
    cells = int(gaps.isna().to_numpy().sum())
    typer.echo(
        f"Filled {cells:,} missing values of {len(gaps):,} rows; wrote "
        f"{outs[0] if len(outs) == 1 else f'{outs[0]} to {outs[-1]}'}."
    )


tabular.command()(reports.score)
tabular.command()(reports.report)
