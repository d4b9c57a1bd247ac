"""`make demo`: a table, a series and a molecule in; a synthetic copy, a forecast, conformers out.

The table is `randhie` of statsmodels: the RAND health insurance experiment, 20,190 person-years,
mixed counts, shares and indicators. A fifth of it is held out; the model never sees that part, and
every score is printed between its floors: an independent-columns copy below, real rows above.

The series is `co2` of statsmodels: weekly carbon dioxide at Mauna Loa from 1958 to 2001, with 59
weeks missing. The last two years are forecast from two origins by a model that has seen nothing
of them, and scored beside forecasters that need no training.

The molecule is aspirin, from its SMILES; the conformers need no training, the weights ship.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pandas as pd
import typer

from scidiffusion._files import write_atomic
from scidiffusion._lazy import require
from scidiffusion.cli.common import friendly_errors, write_table

if TYPE_CHECKING:
    from rich.console import Console

TARGET = "hlthg"
# Numbers with a handful of levels, of which most people share a few: better learned as categories.
CATEGORIES = ("lncoins", "physlm")
WEEKS = 52
ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


def load_randhie() -> pd.DataFrame:
    """Return the RAND health insurance table that ships in statsmodels.

    The 0/1 columns become booleans. Raises MissingExtraError if statsmodels is not installed.
    """
    datasets = require("statsmodels.api", "report").datasets
    table: pd.DataFrame = datasets.randhie.load_pandas().data
    for name in table.columns:
        if set(table[name].unique()) == {0, 1}:
            table[name] = table[name].astype(bool)
    return table


def load_co2() -> pd.DataFrame:
    """Return weekly carbon dioxide at Mauna Loa, which ships in statsmodels, with its gaps.

    Raises MissingExtraError if statsmodels is not installed.
    """
    datasets = require("statsmodels.api", "report").datasets
    series: pd.DataFrame = datasets.co2.load_pandas().data
    return series


@friendly_errors
def main(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("demo_output"),
    budget: Annotated[str, typer.Option(help="Training time of the table.")] = "90s",
    forecast_budget: Annotated[str, typer.Option(help="Training time of the forecast.")] = "30s",
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
) -> None:
    """Fit `randhie` and `co2`, make aspirin's conformers; write results, pictures and scores."""
    from rich.console import Console

    console = Console()
    copy_table(console, out, budget, seed)
    forecast_series(console, out, forecast_budget, seed)
    make_conformers(console, out, seed)


def copy_table(console: Console, out: Path, budget: str, seed: int) -> None:
    """Fit `randhie`, write a synthetic copy, a picture and the scores."""
    from scidiffusion.tabular import TabularDiffusion
    from scidiffusion.tabular.metrics import render_score_table, score_table
    from scidiffusion.tabular.plots import plot_comparison

    table = load_randhie().sample(frac=1, random_state=seed).reset_index(drop=True)
    held_out = len(table) // 5
    train, test = table[held_out:].reset_index(drop=True), table[:held_out].reset_index(drop=True)
    console.print(
        f"[bold]randhie[/bold] (statsmodels): {len(train):,} rows to learn, {len(test):,} held "
        f"out, {table.shape[1]} columns"
    )
    start = time.perf_counter()
    model = TabularDiffusion(
        budget=budget, columns=dict.fromkeys(CATEGORIES, "categorical"), random_state=seed
    ).fit(train)
    fitted = time.perf_counter()
    synthetic = model.sample(len(train), random_state=seed)
    console.print(
        f"fitted in {fitted - start:.0f} s, sampled {len(synthetic):,} rows in "
        f"{time.perf_counter() - fitted:.0f} s"
    )
    model.save(out / "model")
    write_table(synthetic, out / "synthetic.csv")
    score = score_table(train, test, synthetic, model.schema_, target=TARGET, seed=seed)
    write_atomic(out / "scores.json", (score.to_json() + "\n").encode())
    plot_comparison(train, synthetic, model.schema_, path=out / "comparison.png")
    console.print(render_score_table(score, title="randhie: synthetic against real"))
    given = model.sample(5, conditions={TARGET: False, "physlm": 1.0}, random_state=seed)
    console.print("Five people with a physical limitation and not in good health:")
    console.print(given.to_string(index=False))
    console.print(
        f"Written: {out / 'synthetic.csv'}, {out / 'comparison.png'}, {out / 'scores.json'}, "
        f"{out / 'model'}"
    )


def forecast_series(console: Console, out: Path, budget: str, seed: int) -> None:
    """Forecast the last years of `co2`, write the scores and fan charts."""
    from scidiffusion.timeseries import DiffusionForecaster

    series = load_co2()
    missing = int(series.isna().sum().iloc[0])
    console.print(
        f"[bold]co2[/bold] (statsmodels): {len(series):,} weeks, {missing} of them "
        f"missing; {WEEKS} weeks are forecast from each of 2 origins"
    )
    model = DiffusionForecaster(WEEKS, budget=budget, random_state=seed)
    result = model.backtest(series, windows=2, show=False)
    console.print(result.render())
    write_atomic(out / "forecast_scores.json", (result.to_json() + "\n").encode())
    result.plot(path=out / "forecast_backtest.png")
    start = time.perf_counter()
    model.fit(series)
    fitted = time.perf_counter()
    forecasts = model.forecast(series, random_state=seed)
    console.print(
        f"fitted on all weeks in {fitted - start:.0f} s, drew {model.num_samples} paths in "
        f"{time.perf_counter() - fitted:.1f} s"
    )
    write_table(forecasts.to_frame().rename_axis("week").reset_index(), out / "forecast.csv")
    model.plot(series, forecasts, path=out / "forecast.png")
    model.save(out / "forecast_model")
    console.print(
        f"Written: {out / 'forecast.png'}, {out / 'forecast.csv'}, {out / 'forecast_scores.json'}"
    )


def make_conformers(console: Console, out: Path, seed: int) -> None:
    """Make conformers of aspirin, write them as SDF, as a picture and as a page to turn them."""
    from scidiffusion.molecules import (
        conformers,
        draw_conformers,
        figures,
        validity,
        write_html,
        write_sdf,
    )

    start = time.perf_counter()
    aspirin = conformers(ASPIRIN, n=20, seed=seed, prune=0.2)
    seconds = time.perf_counter() - start
    known, good = figures(aspirin), validity(aspirin)
    console.print(
        f"[bold]aspirin[/bold] ({ASPIRIN}): {len(known)} different conformers of 20 in "
        f"{seconds:.1f} s, {int(good.ok.sum())} pass every check; the lowest three hold "
        f"{sum(one.weight or 0.0 for one in known[:3]):.0%} of the ensemble at 298 K"
    )
    write_sdf(out / "aspirin.sdf", [aspirin])
    draw_conformers(aspirin, out / "aspirin.png")
    write_html(out / "aspirin.html", [aspirin])
    console.print(f"Written: {out / 'aspirin.sdf'}, {out / 'aspirin.png'}, {out / 'aspirin.html'}")


if __name__ == "__main__":
    typer.run(main)
