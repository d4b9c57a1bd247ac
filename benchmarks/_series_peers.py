"""The forecasters of the benchmark, and the process in which one of them runs.

    python _series_peers.py JOB.json

A model is a function `(data, seed, budget, num_samples, **options) -> Run`. `Run.samples` are
(N, S, H, D), in the order of the windows; the costs of fitting and of predicting are counted
apart, without the time that imports take. Univariate models run on each series of multivariate
data, so their samples know nothing of how the series move together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from _running import work
from _series_data import (
    Array,
    BenchmarkData,
    before_test,
    carried,
    hide_cells,
    load_dataset,
    made_data,
    score_filled,
)
from _series_ets import auto_ets
from _series_gluonts import deepar, gluonts, patchtst, simple_feedforward, tft
from _series_runs import Clock, Run
from peers import worker

from scidiffusion.timeseries.series import Series, SeriesSet

# -------------------------------------------------------------------------- ours


def _unnamed(item: Series) -> Series:
    """The series without the class that is its number: DeepAR learns one vector of it a series."""
    return replace(item, static_cat=np.empty(0, dtype=np.int64))


def _fit_ours(
    data: BenchmarkData, method: str, budget: float, seed: int, options: dict[str, Any]
) -> Any:
    from scidiffusion.timeseries.fitting import fit_series

    return fit_series(
        SeriesSet([_unnamed(item) for item in data.train], data.train.freq),
        prediction_length=data.horizon,
        method=method,
        budget=budget,
        seed=seed,
        options=options,
        progress=False,
    )


def _ours(method: str, *, covariates: bool = True) -> Callable[..., Run]:
    """This library's forecaster, "window" or "timegrad"."""

    def run(
        data: BenchmarkData,
        seed: int,
        budget: float,
        num_samples: int,
        num_steps: int | None = None,
        trust: float | None = None,
        **options: Any,
    ) -> Run:
        if not covariates:
            data = _without_covariates(data)
        clock = Clock()
        with clock("fit"):
            model = _fit_ours(data, method, budget, seed, options)
        if trust is not None:
            model.denoiser.shrinkage.fill_(trust)
        with clock("predict"):
            forecasts = model.forecast(
                [_unnamed(item) for item in data.test],
                num_samples=num_samples,
                num_steps=num_steps,
                seed=seed,
            )
        return Run(
            np.stack([np.asarray(forecast, dtype=np.float64) for forecast in forecasts]),
            clock.costs,
            int(model.evaluations(num_steps)),
            int(model.num_parameters),
            {"steps": int(model.result.steps)},
        )

    return run


def _without_covariates(data: BenchmarkData) -> BenchmarkData:
    def bare(item: Series) -> Series:
        return replace(item, known=np.empty((0, 0)))

    if not any(len(item.known) for item in data.train):
        raise SystemExit(f"{data.name} has no covariates to leave out")
    train = SeriesSet([bare(item) for item in data.train], data.train.freq)
    return replace(data, train=train, test=[bare(item) for item in data.test])


# ------------------------------------------------------------------------ floors


def _floor(name: str) -> Callable[..., Run]:
    """A forecast without a network, of `scidiffusion.timeseries.floors`."""

    def run(data: BenchmarkData, seed: int, budget: float, num_samples: int) -> Run:
        from scidiffusion.timeseries.floors import FLOORS

        clock = Clock()
        seeds = np.random.default_rng(seed).integers(2**31, size=len(data.test))
        with clock("predict"):
            samples = [
                FLOORS[name](
                    series, data.horizon, num_samples, season=data.season, seed=int(number)
                )
                for series, number in zip(data.test, seeds, strict=True)
            ]
        return Run(np.stack([np.asarray(drawn) for drawn in samples]), clock.costs)

    return run


# -------------------------------------------------------------------- imputation


def interpolate(item: Series, season: int = 1) -> Array:
    """(1, T, D) with the gaps of each phase of the season on straight lines.

    Args:
        item: Series with NaN where cells are missing.
        season: 1 joins neighbours in time; a phase without a value falls back to that.
    """
    filled = np.stack([carried(row) for row in item.target])
    for row, out in zip(item.target, filled, strict=True):
        for phase in range(season if season > 1 else 0):
            part = row[phase::season]
            if np.isfinite(part).any():
                out[phase::season] = carried(part)
    return filled.T[None]


def impute(
    data: BenchmarkData,
    model: str,
    seed: int,
    budget: float,
    num_samples: int,
    shares: list[float],
    history: int,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Fit once, fill in at every share of hidden cells, score.

    Args:
        data: The data set.
        model: One of `IMPUTERS`.
        seed: Of the fit, the hidden cells and the draws.
        budget: Seconds of training.
        num_samples: Draws of a model that draws.
        shares: Shares of the observed cells of the held-back windows to hide.
        history: Steps handed over with each window.
        options: Of the model.
    """
    clock, fitted = Clock(), None
    if model == "ours":
        with clock("fit"):
            fitted = _fit_ours(data, "window", budget, seed, dict(options))
    figures: dict[str, Any] = {}
    for share in shares:
        items, hidden = hide_cells(data, share, seed=seed, history=history)
        with clock("predict"):
            if fitted is not None:
                filled = fitted.impute([_unnamed(item) for item in items], num_samples, seed)
            else:
                season = data.season if model == "seasonal" else 1
                filled = [interpolate(item, season) for item in items]
        figures[f"{share:g}"] = score_filled(data, items, hidden, filled)
    parameters = 0 if fitted is None else int(fitted.num_parameters)
    return {"shares": figures, "parameters": parameters} | clock.costs


# ---------------------------------------------------------------- the process


@dataclass(frozen=True)
class Model:
    """A forecaster.

    Args:
        label: As tables name it.
        run: The function.
        joint: Whether its samples are paths of all series together ("all"), of each series
            alone ("series"), or neither ("none").
    """

    label: str
    run: Callable[..., Run]
    joint: str = "all"


MODELS = {
    "ours": Model("scidiffusion", _ours("window")),
    "ours-bare": Model("scidiffusion, no covariates", _ours("window", covariates=False), "all"),
    "timegrad": Model("TimeGrad (scidiffusion)", _ours("timegrad")),
    "deepar": Model("DeepAR (GluonTS)", gluonts(deepar(False)), "series"),
    "deepar-covariates": Model(
        "DeepAR with covariates (GluonTS)", gluonts(deepar(True), covariates=True), "series"
    ),
    "patchtst": Model("PatchTST (GluonTS)", gluonts(patchtst), "none"),
    "tft": Model("TFT (GluonTS)", gluonts(tft), "none"),
    "simple-feedforward": Model("feed-forward (GluonTS)", gluonts(simple_feedforward), "none"),
    "auto-ets": Model("AutoETS", auto_ets, "series"),
    "gaussian_walk": Model("Gaussian walk", _floor("gaussian_walk")),
    "seasonal_naive_gaussian": Model("seasonal naive", _floor("seasonal_naive_gaussian")),
    "seasonal_block_bootstrap": Model("block bootstrap", _floor("seasonal_block_bootstrap")),
}

IMPUTERS = {
    "ours": "scidiffusion",
    "linear": "linear interpolation",
    "seasonal": "interpolation of the same phase",
}


@dataclass
class Job:
    """One fit and what is done with it.

    Args:
        task: "forecast" or "imputation".
        model: One of `MODELS`, or of `IMPUTERS`.
        data: Arguments of `load_dataset`, or of `made_data` with "made": true.
        out: npz file of the samples; the record goes beside it, as .json.
        seed: Seed of everything random.
        budget: Seconds of training.
        num_samples: Samples S a forecast.
        options: Of the model.
        shares: Of imputation.
        history: Of imputation.
    """

    task: str
    model: str
    data: dict[str, Any]
    out: str
    seed: int = 0
    budget: float = 60.0
    num_samples: int = 100
    options: dict[str, Any] = field(default_factory=dict)
    shares: list[float] = field(default_factory=list)
    history: int = 0


def read(source: dict[str, Any]) -> BenchmarkData:
    """The data of a job."""
    if source.get("made"):
        return made_data(source["series"], source["horizon"])
    folder = source.get("folder")
    data = load_dataset(
        None if folder is None else Path(folder), source["name"], source["setting"]
    )
    return before_test(data, source["before"]) if source.get("before") else data


def perform(job: Job) -> dict[str, Any]:
    """Do a job, write its samples, return its record."""
    data = read(job.data)
    if job.task == "imputation":
        record = impute(
            data,
            job.model,
            job.seed,
            job.budget,
            job.num_samples,
            job.shares,
            job.history,
            job.options,
        )
        return record | {"peak_mib": worker._peak_mib()}
    model = MODELS[job.model]
    done = model.run(data, job.seed, job.budget, job.num_samples, **job.options)
    peak = worker._peak_mib()
    np.savez(job.out, samples=done.samples.astype(np.float32))
    record = {"evaluations": done.evaluations, "parameters": done.parameters, "peak_mib": peak}
    return record | done.costs | ({"notes": done.notes} if done.notes else {})


if __name__ == "__main__":
    work(Job, perform)
