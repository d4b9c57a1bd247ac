"""Forecasters of GluonTS, at its defaults, trained until the budget is spent.

Univariate models run on each series of multivariate data, so their samples know nothing of how the
series move together.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
from _series_data import LEVELS, Array, BenchmarkData
from _series_runs import Clock, Run, by_window

from scidiffusion.timeseries.frequency import to_offset_alias
from scidiffusion.timeseries.series import Series


def gluonts(build: Callable[..., Any], *, covariates: bool = False) -> Callable[..., Run]:
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
            by_window(np.stack(drawn), data),
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


def deepar(covariates: bool) -> Callable[..., Any]:
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


def patchtst(data: BenchmarkData, trainer: dict[str, Any], num_samples: int) -> Any:
    from gluonts.torch import PatchTSTEstimator

    return PatchTSTEstimator(prediction_length=data.horizon, patch_len=16, trainer_kwargs=trainer)


def tft(data: BenchmarkData, trainer: dict[str, Any], num_samples: int) -> Any:
    from gluonts.torch import TemporalFusionTransformerEstimator

    return TemporalFusionTransformerEstimator(
        freq=to_offset_alias(data.freq),
        prediction_length=data.horizon,
        quantiles=[round(float(level), 2) for level in LEVELS],
        trainer_kwargs=trainer,
    )


def simple_feedforward(data: BenchmarkData, trainer: dict[str, Any], num_samples: int) -> Any:
    from gluonts.torch import SimpleFeedForwardEstimator

    return SimpleFeedForwardEstimator(prediction_length=data.horizon, trainer_kwargs=trainer)
