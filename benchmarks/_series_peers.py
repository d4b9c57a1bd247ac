"""The forecasters of the benchmark, and the process in which one of them runs.

    python _series_peers.py JOB.json

A model is a function `(data, seed, budget, num_samples, **options) -> Run`. `Run.samples` are
(N, S, H, D), in the order of the windows; the costs of fitting and of predicting are counted
apart, without the time that imports take. Univariate models run on each series of multivariate
data, so their samples know nothing of how the series move together.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from _series_data import (
    LEVELS,
    Array,
    BenchmarkData,
    hide_cells,
    load_dataset,
    made_data,
    score_filled,
)
from peers import worker

from scidiffusion.timeseries.frequency import to_offset_alias
from scidiffusion.timeseries.series import Series, SeriesSet


@dataclass
class Run:
    """What a model did.

    Args:
        samples: (N, S, H, D).
        costs: fit_seconds, fit_cpu_seconds, predict_seconds, predict_cpu_seconds.
        evaluations: Evaluations of a network, one after the other, that one forecast takes.
        parameters: Trained numbers of the network.
        notes: What else the record should say.
    """

    samples: Array
    costs: dict[str, float]
    evaluations: int = 0
    parameters: int = 0
    notes: dict[str, Any] = field(default_factory=dict)


class Clock:
    """Adds up wall and CPU seconds, of this process and those it starts, by what was done."""

    def __init__(self) -> None:
        names = ("fit", "predict")
        self.costs = {f"{name}{unit}": 0.0 for name in names for unit in _UNITS}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count what is done inside towards `name`."""
        begin = time.perf_counter(), worker._cpu_seconds()
        yield
        for unit, first, last in zip(
            _UNITS, begin, (time.perf_counter(), worker._cpu_seconds()), strict=True
        ):
            self.costs[name + unit] += last - first


_UNITS = ("_seconds", "_cpu_seconds")


def _by_window(samples: Array, data: BenchmarkData) -> Array:
    """(N D, S, H) of the series one by one -> (N, S, H, D)."""
    dim = data.observed.shape[2]
    return samples.reshape(-1, dim, *samples.shape[1:]).transpose(0, 2, 3, 1)


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
        **options: Any,
    ) -> Run:
        if not covariates:
            data = _without_covariates(data)
        clock = Clock()
        with clock("fit"):
            model = _fit_ours(data, method, budget, seed, options)
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


# ----------------------------------------------------------------------- GluonTS


def _gluonts(build: Callable[..., Any], *, covariates: bool = False) -> Callable[..., Run]:
    """An estimator of gluonts.torch with its own defaults, trained for the budget.

    Args:
        build: `(data, trainer_kwargs, num_samples) -> estimator`.
        covariates: Whether it is given those known in advance.
    """

    def run(data: BenchmarkData, seed: int, budget: float, num_samples: int) -> Run:
        from scidiffusion._lazy import require

        require("gluonts.torch", "timeseries")
        import torch
        from lightning.pytorch import seed_everything
        from lightning.pytorch.callbacks import Timer

        if covariates and not len(data.train[0].known):
            raise ValueError(f"{data.name} has no covariates that are known in advance")
        seed_everything(seed, verbose=False)
        clock = Clock()
        with tempfile.TemporaryDirectory() as folder:
            # GluonTS takes the callbacks out of this dictionary: it is never used twice.
            trainer = {
                "max_epochs": -1,
                "callbacks": [Timer(timedelta(seconds=budget), interval="step", verbose=False)],
                "default_root_dir": folder,
                "logger": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
            }
            estimator = build(data, trainer, num_samples)
            train = _entries(list(data.train), covariates=covariates)
            with clock("fit"):
                predictor = estimator.train(train)
        torch.manual_seed(seed)
        with clock("predict"):
            test = _entries(data.test, covariates=covariates, ahead=data.horizon)
            rng = np.random.default_rng(seed)
            drawn = [_drawn(f, num_samples, rng) for f in predictor.predict(test)]
        network = predictor.prediction_net
        return Run(
            _by_window(np.stack(drawn), data),
            clock.costs,
            # A recurrent network runs once a step, the others once for the horizon.
            data.horizon if "DeepAR" in type(estimator).__name__ else 1,
            sum(weights.numel() for weights in network.parameters()),
        )

    return run


def _entries(items: list[Series], *, covariates: bool, ahead: int = 0) -> list[dict[str, Any]]:
    """The series one by one, as GluonTS takes them."""
    dim = items[0].dim
    entries = []
    for item in items:
        for row in range(dim):
            entry = {
                "target": item.target[row].astype(np.float32),
                "start": item.start,
                "item_id": f"{item.item_id}/{item.names[row]}",
                "feat_static_cat": [int(item.static_cat[0]) if len(item.static_cat) else row],
            }
            if covariates:
                known = item.known[:, : item.length + ahead]
                entry["feat_dynamic_real"] = known.astype(np.float32)
            entries.append(entry)
    return entries


def _drawn(forecast: Any, count: int, rng: np.random.Generator) -> Array:
    """(S, H) samples of a forecast of GluonTS, of whatever kind."""
    if hasattr(forecast, "samples"):
        return np.asarray(forecast.samples, dtype=np.float64)
    if hasattr(forecast, "to_sample_forecast"):
        return np.asarray(forecast.to_sample_forecast(count).samples, dtype=np.float64)
    quantiles = np.stack([forecast.quantile(f"{level:.2f}") for level in LEVELS])
    return from_quantiles(quantiles, LEVELS, count, rng)


def from_quantiles(quantiles: Array, levels: Array, count: int, rng: np.random.Generator) -> Array:
    """Samples of each step by its inverse distribution function; the steps are independent.

    Args:
        quantiles: (levels, H), sorted here: quantile networks may cross.
        levels: Increasing probabilities.
        count: Number of samples S. Their probabilities are spread evenly, so that the samples'
            quantiles are the given ones; only their order is random.
        rng: Orders them.

    Returns:
        (S, H); beyond the outermost levels the outermost slopes go on.
    """
    ordered = np.sort(np.asarray(quantiles, dtype=np.float64), axis=0)
    wanted = (np.arange(count) + 0.5) / count
    left = np.clip(np.searchsorted(levels, wanted) - 1, 0, len(levels) - 2)
    part = ((wanted - levels[left]) / (levels[left + 1] - levels[left]))[:, None]
    return rng.permuted(ordered[left] * (1 - part) + ordered[left + 1] * part, axis=0)


def _deepar(covariates: bool) -> Callable[..., Any]:
    def build(data: BenchmarkData, trainer: dict[str, Any], num_samples: int) -> Any:
        from gluonts.torch import DeepAREstimator

        return DeepAREstimator(
            freq=to_offset_alias(data.freq),
            prediction_length=data.horizon,
            num_feat_dynamic_real=len(data.train[0].known) if covariates else 0,
            num_feat_static_cat=1,
            cardinality=[len(data.train_rows)],
            num_parallel_samples=num_samples,
            trainer_kwargs=trainer,
        )

    return build


def _patchtst(data: BenchmarkData, trainer: dict[str, Any], num_samples: int) -> Any:
    from gluonts.torch import PatchTSTEstimator

    return PatchTSTEstimator(prediction_length=data.horizon, patch_len=16, trainer_kwargs=trainer)


def _tft(data: BenchmarkData, trainer: dict[str, Any], num_samples: int) -> Any:
    from gluonts.torch import TemporalFusionTransformerEstimator

    return TemporalFusionTransformerEstimator(
        freq=to_offset_alias(data.freq),
        prediction_length=data.horizon,
        quantiles=[round(float(level), 2) for level in LEVELS],
        trainer_kwargs=trainer,
    )


def _simple_feedforward(data: BenchmarkData, trainer: dict[str, Any], num_samples: int) -> Any:
    from gluonts.torch import SimpleFeedForwardEstimator

    return SimpleFeedForwardEstimator(prediction_length=data.horizon, trainer_kwargs=trainer)


# ---------------------------------------------------------- exponential smoothing


def auto_ets(data: BenchmarkData, seed: int, budget: float, num_samples: int) -> Run:
    """Exponential smoothing, chosen by its AIC, for every series of every window.

    statsforecast's AutoETS where it is installed, else statsmodels's ETSModel over trend, season
    and damping. The budget is shared out evenly: a series whose share is spent tries no further
    candidate. What fails is replaced by the seasonal naive forecast with Gaussian errors, and
    counted in the notes.
    """
    try:
        import statsforecast  # noqa: F401

        fit, package = _statsforecast_ets, "statsforecast"
    except ModuleNotFoundError:
        from scidiffusion._lazy import require

        require("statsmodels.tsa.exponential_smoothing.ets", "report")
        fit, package = _statsmodels_ets, "statsmodels"
    rows = [row for series in data.test for row in series.target]
    rng = np.random.default_rng(seed)
    clock, failures, drawn = Clock(), [], []
    for row in rows:
        history = _filled(row)[-max(HISTORY, 10 * data.season) :]
        number = int(rng.integers(2**31))
        try:
            with clock("fit"):
                simulate = fit(history, data.season, budget / len(rows))
            with clock("predict"):
                paths = simulate(data.horizon, num_samples, number)
            if not np.isfinite(paths).all():
                raise ValueError("the sample paths are not finite")
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}"[:200])
            with clock("predict"):
                paths = seasonal_naive(history, data.season, data.horizon, num_samples, number)
        drawn.append(paths)
    notes: dict[str, Any] = {"by": package, "failures": len(failures), "fits": len(rows)}
    if failures:
        notes["first_failure"] = failures[0]
    return Run(_by_window(np.stack(drawn), data), clock.costs, notes=notes)


HISTORY = 1000
"""Steps that exponential smoothing looks back: it forgets sooner, and costs grow with them."""

Simulate = Callable[[int, int, int], Array]


def _statsforecast_ets(history: Array, season: int, budget: float) -> Simulate:
    from statsforecast.models import AutoETS

    model = AutoETS(season_length=season).fit(history)
    return lambda horizon, count, seed: np.asarray(model.simulate(horizon, count, seed=seed))


def _statsmodels_ets(history: Array, season: int, budget: float) -> Simulate:
    from statsmodels.tsa.exponential_smoothing.ets import ETSModel

    seasonal = season > 1 and len(history) >= 2 * season + 5
    kinds: list[str | None] = [None, "add"] if seasonal else [None]
    if seasonal and history.min() > 0:
        kinds.append("mul")
    begin, best, reason = time.perf_counter(), None, "no candidate was tried"
    # The seasonal ones first: a budget that ends early has tried what matters most.
    for kind in reversed(kinds):
        for trend, damped in ((None, False), ("add", True), ("add", False)):
            if best is not None and time.perf_counter() - begin > budget:
                break
            model = ETSModel(
                history,
                error="mul" if kind == "mul" else "add",
                trend=trend,
                damped_trend=damped,
                seasonal=kind,
                seasonal_periods=season if kind else None,
                initialization_method="heuristic" if len(history) >= 10 else "estimated",
            )
            try:
                found = model.fit(disp=False, maxiter=200)
            except (ValueError, np.linalg.LinAlgError) as error:
                reason = str(error)
                continue
            if np.isfinite(found.aic) and (best is None or found.aic < best.aic):
                best = found
    if best is None:
        raise ValueError(reason)
    chosen = best

    def simulate(horizon: int, count: int, seed: int) -> Array:
        # Errors of our own: the argument for the seed has changed its name between versions.
        normal = np.random.default_rng(seed).normal(size=(horizon, count))
        errors = normal * np.sqrt(chosen.scale)
        paths = chosen.simulate(horizon, anchor="end", repetitions=count, random_errors=errors)
        return np.asarray(paths).reshape(horizon, count).T

    return simulate


def seasonal_naive(history: Array, season: int, horizon: int, count: int, seed: int) -> Array:
    """(S, H) last season repeated, with Gaussian errors whose variance grows by the season."""
    ahead = np.arange(horizon)
    errors = history[season:] - history[:-season]
    scale = np.sqrt(np.square(errors).mean()) if len(errors) else 0.0
    spread = scale * np.sqrt(ahead // season + 1)
    noise = np.random.default_rng(seed).normal(size=(count, horizon))
    return history[len(history) - season + ahead % season] + spread * noise


# -------------------------------------------------------------------- imputation


def interpolate(item: Series, season: int = 1) -> Array:
    """(1, T, D) with the gaps of each phase of the season on straight lines.

    Args:
        item: Series with NaN where cells are missing.
        season: 1 joins neighbours in time; a phase without a value falls back to that.
    """
    filled = np.stack([_filled(row) for row in item.target])
    for row, out in zip(item.target, filled, strict=True):
        for phase in range(season if season > 1 else 0):
            part = row[phase::season]
            if np.isfinite(part).any():
                out[phase::season] = _filled(part)
    return filled.T[None]


def _filled(row: Array) -> Array:
    """Missing values on straight lines between their neighbours; the ends go on level."""
    given = np.flatnonzero(np.isfinite(row))
    if not len(given):
        return np.zeros_like(row)
    return np.interp(np.arange(len(row)), given, row[given])


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
    "deepar": Model("DeepAR (GluonTS)", _gluonts(_deepar(False)), "series"),
    "deepar-covariates": Model(
        "DeepAR with covariates (GluonTS)", _gluonts(_deepar(True), covariates=True), "series"
    ),
    "patchtst": Model("PatchTST (GluonTS)", _gluonts(_patchtst), "none"),
    "tft": Model("TFT (GluonTS)", _gluonts(_tft), "none"),
    "simple-feedforward": Model("feed-forward (GluonTS)", _gluonts(_simple_feedforward), "none"),
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
    return load_dataset(
        None if folder is None else Path(folder), source["name"], source["setting"]
    )


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


def main() -> None:
    """Do the job of the command line; its record, or the reason for none, lies beside `out`."""
    job = Job(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    warnings.simplefilter("ignore")
    try:
        record = perform(job)
    except (Exception, SystemExit) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        record = {"failed": reason[:300]}
        # The whole story is for whoever looks into the log.
        traceback.print_exc()
    Path(job.out).with_suffix(".json").write_text(json.dumps(record), encoding="utf-8")


if __name__ == "__main__":
    main()
