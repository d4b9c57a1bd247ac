"""The commands `scidiffusion forecast ...`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scidiffusion._files import check_writable_file, write_atomic
from scidiffusion.cli.common import (
    check_table_path,
    friendly_errors,
    read_table,
    resumable,
    write_table,
)
from scidiffusion.errors import InputError, OutputError, ScidiffusionWarning

if TYPE_CHECKING:
    import pandas as pd

    from scidiffusion.timeseries import DiffusionForecaster

forecast = typer.Typer(no_args_is_help=True)

DataFile = Annotated[
    Path,
    typer.Argument(metavar="DATA.csv", help="Series, wide or long: CSV or Parquet."),
]
ModelFolder = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of the model.")]
Horizon = Annotated[
    int, typer.Option("--horizon", "-H", help="Steps of a forecast (prediction_length).")
]
Time = Annotated[str | None, typer.Option(help="Column of times; default: found.")]
Id = Annotated[str | None, typer.Option("--id", help="Column that names the series.")]
Target = Annotated[
    list[str] | None, typer.Option(help="Column of values; repeatable; default: all others.")
]
Known = Annotated[
    list[str] | None,
    typer.Option(help="Covariate known in advance, also over the horizon; repeatable."),
]
Past = Annotated[list[str] | None, typer.Option(help="Covariate of the past; repeatable.")]
Static = Annotated[
    list[str] | None,
    typer.Option(
        help="Column of a long table that does not change within a series (its size, its kind): "
        "a number or a class; repeatable. predict, plot and impute read it from their DATA."
    ),
]
Freq = Annotated[str | None, typer.Option(help="Frequency (h, D, M, ...); default: found.")]
Budget = Annotated[str | None, typer.Option(help="Training time: seconds, or 90s, 2min, 1h30m.")]
Method = Annotated[str, typer.Option(help="window or timegrad.")]
Samples = Annotated[int | None, typer.Option("--samples", "-n", help="Paths of a forecast.")]
Steps = Annotated[int | None, typer.Option(help="Network evaluations of a forecast.")]
Seed = Annotated[int | None, typer.Option(help="Seed; the same seed gives the same result.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
FutureFile = Annotated[
    Path | None, typer.Option(help="Covariates known over the horizon, if not in DATA.")
]


@forecast.command()
@friendly_errors
def fit(
    data: DataFile,
    model: ModelFolder,
    horizon: Horizon,
    time: Time = None,
    item_id: Id = None,
    target: Target = None,
    known: Known = None,
    past: Past = None,
    static: Static = None,
    freq: Freq = None,
    budget: Budget = "5min",
    max_steps: Annotated[int | None, typer.Option(help="Training steps at most.")] = None,
    method: Method = "window",
    joint: Annotated[
        bool | None, typer.Option("--joint/--separate", help="Forecast the series jointly or not.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted fit stopped.")
    ] = False,
    seed: Seed = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Learn series and write the model.

    An interrupted fit leaves a checkpoint in the folder MODEL.checkpoint; the same command with
    --resume goes on from there.
    """
    from scidiffusion.persistence import check_writable

    check_writable(model)
    forecaster = _forecaster(
        horizon,
        target=target,
        known=known,
        past=past,
        max_steps=max_steps,
        time=time,
        item_id=item_id,
        freq=freq,
        budget=budget,
        method=method,
        multivariate=joint,
        # A resumed run must have the seed of the run it resumes: without --seed it is 0.
        random_state=0 if seed is None else seed,
        device=device,
        progress=not quiet,
    )
    frame = read_table(data)
    with resumable(model) as checkpoint, _notices():
        forecaster.fit(frame, static=static or None, checkpoint_dir=checkpoint, resume=resume)
        forecaster.save(model)
    result = forecaster.training_
    typer.echo(
        f"Learned {data} (freq {forecaster.freq_}) in {result.seconds:.0f} s "
        f"({result.steps:,} steps, stopped by {result.stopped_by}); the model is in {model}."
    )


@forecast.command()
@friendly_errors
def predict(
    model: ModelFolder,
    data: DataFile,
    out: Annotated[Path, typer.Argument(metavar="OUT.csv", help="Forecasts (or Parquet).")],
    future: FutureFile = None,
    quantile: Annotated[
        list[float] | None, typer.Option(help="Level to write; repeatable.")
    ] = None,
    paths: Annotated[bool, typer.Option("--paths", help="Write the paths themselves.")] = False,
    samples: Samples = None,
    steps: Steps = None,
    lower: Annotated[
        float | None, typer.Option(help="No value lies below (0 for counts).")
    ] = None,
    upper: Annotated[float | None, typer.Option(help="No value lies above.")] = None,
    seed: Seed = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Forecast what comes after the data."""
    from scidiffusion.timeseries import Wishes
    from scidiffusion.timeseries.forecaster import QUANTILES

    check_table_path(out)
    if paths and quantile:
        raise InputError("give --quantile, or --paths for the paths themselves, but not both")
    forecaster = _load(model, device, quiet)
    options: dict[str, Any] = {}
    if lower is not None or upper is not None:
        options["guidance"] = Wishes(lower=lower, upper=upper)
    frame, ahead = read_table(data), None if future is None else read_table(future)
    with _notices():
        result = forecaster.predict(
            frame,
            future=ahead,
            quantiles=None if paths else (quantile or QUANTILES),
            num_samples=samples,
            num_steps=steps,
            random_state=seed,
            **options,
        )
    write_table(_flat(result), out)
    typer.echo(f"Wrote {len(result):,} rows to {out}.")


@forecast.command()
@friendly_errors
def backtest(
    data: DataFile,
    horizon: Horizon,
    windows: Annotated[int, typer.Option("--windows", "-w", help="Windows at the end.")] = 5,
    time: Time = None,
    item_id: Id = None,
    target: Target = None,
    known: Known = None,
    past: Past = None,
    static: Static = None,
    freq: Freq = None,
    budget: Budget = "5min",
    max_steps: Annotated[int | None, typer.Option(help="Training steps at most.")] = None,
    method: Method = "window",
    joint: Annotated[
        bool | None, typer.Option("--joint/--separate", help="Forecast the series jointly or not.")
    ] = None,
    samples: Samples = None,
    steps: Steps = None,
    out: Annotated[Path | None, typer.Option(help="Scores as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Picture of the first series.")] = None,
    seed: Seed = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Fit without the last horizons, forecast them, and score beside the floors."""
    if out is not None:
        check_writable_file(out)
    if plot is not None:
        _check_picture(plot)
    forecaster = _forecaster(
        horizon,
        target=target,
        known=known,
        past=past,
        max_steps=max_steps,
        time=time,
        item_id=item_id,
        freq=freq,
        budget=budget,
        method=method,
        multivariate=joint,
        random_state=seed,
        device=device,
        progress=not quiet,
    )
    frame = read_table(data)
    with _notices():
        result = forecaster.backtest(
            frame,
            windows,
            static=static or None,
            num_samples=samples,
            num_steps=steps,
            show=False,
        )
    result.show()
    if out is not None:
        write_atomic(out, (result.to_json() + "\n").encode())
    if plot is not None:
        result.plot(path=plot)


@forecast.command()
@friendly_errors
def impute(
    model: ModelFolder,
    data: DataFile,
    out: Annotated[Path, typer.Argument(metavar="OUT.csv", help="Filled series (or Parquet).")],
    draw: Annotated[
        int | None, typer.Option(help="Fill in this path instead of the median of the paths.")
    ] = None,
    samples: Samples = None,
    steps: Steps = None,
    seed: Seed = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Fill the missing values of series."""
    check_table_path(out)
    forecaster = _load(model, device, quiet)
    frame = read_table(data)
    with _notices():
        filled = forecaster.impute(
            frame, num_samples=samples, num_steps=steps, draw=draw, random_state=seed
        )
    write_table(_flat(filled), out)
    typer.echo(f"Wrote {len(filled):,} rows to {out}.")


@forecast.command()
@friendly_errors
def plot(
    model: ModelFolder,
    data: DataFile,
    out: Annotated[Path, typer.Argument(metavar="OUT.png", help="Picture (png, pdf, svg).")],
    future: FutureFile = None,
    series: Annotated[
        str | None, typer.Option(help="Series; default: the first of a long table, all of a wide.")
    ] = None,
    samples: Samples = None,
    steps: Steps = None,
    seed: Seed = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Draw a fan chart of the forecast."""
    _check_picture(out)
    forecaster = _load(model, device, quiet)
    frame, ahead = read_table(data), None if future is None else read_table(future)
    with _notices():
        forecaster.plot(
            frame,
            series=series,
            path=out,
            future=ahead,
            num_samples=samples,
            num_steps=steps,
            random_state=seed,
        )
    typer.echo(f"Drew {out}.")


def _check_picture(path: Path) -> None:
    """Raise OutputError unless a picture can be written at `path`, before work is spent."""
    if path.suffix not in (".png", ".pdf", ".svg"):
        raise OutputError(f"cannot draw {path}: the name must end in .png, .pdf or .svg")
    check_writable_file(path)


@contextmanager
def _notices() -> Iterator[None]:
    """Show the library's warnings as one line each, without the code that they come from."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
            if issubclass(category, ScidiffusionWarning):
                typer.secho(f"Warning: {message}", fg=typer.colors.YELLOW, err=True)
            else:
                usual(message, category, *place)

        warnings.showwarning = show  # type: ignore[assignment]
        yield


def _load(model: Path, device: str, quiet: bool) -> DiffusionForecaster:
    from scidiffusion.timeseries import DiffusionForecaster

    forecaster: DiffusionForecaster = DiffusionForecaster.load(model, device=device)
    return forecaster.set_params(progress=not quiet)


def _forecaster(
    horizon: int,
    *,
    target: list[str] | None,
    known: list[str] | None,
    past: list[str] | None,
    max_steps: int | None,
    **options: Any,
) -> DiffusionForecaster:
    """Return a forecaster of options as the command line has them."""
    from scidiffusion.timeseries import DiffusionForecaster

    return DiffusionForecaster(
        horizon,
        target=target or None,
        known=known or (),
        past=past or (),
        options=None if max_steps is None else {"max_steps": max_steps},
        **options,
    )


def _flat(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame whose index and columns are plain, as a file has them."""
    import pandas as pd

    several = isinstance(frame.columns, pd.MultiIndex)
    names = ["/".join(map(str, name)) if several else str(name) for name in frame.columns]
    frame = frame.set_axis(names, axis=1)
    if isinstance(frame.index, pd.RangeIndex) and frame.index.name is None:
        return frame
    return frame.rename_axis([name or "time" for name in frame.index.names]).reset_index()
