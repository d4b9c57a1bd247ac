r"""The method "timegrad": step by step, a diffusion of the values given a recurrent state.

Rasul et al. 2021 on this library's core: T = 100 noise levels with betas linear from 1e-4 to 0.1,
a network that predicts the noise, ancestral sampling with the posterior variance. A forecast of H
steps draws a step, feeds it back, and goes on: H times T serial evaluations of the network. Where
the paper's code differs from its intention this follows the intention: missing cells are left out
of the loss, every frequency and any number of paths will do, and one series as well.

Network, units and loss are in `scidiffusion.timeseries.timegrad_network`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from scidiffusion.core.denoiser import NetworkDenoiser
from scidiffusion.core.gaussian import GaussianProcess
from scidiffusion.core.prediction import Prediction
from scidiffusion.core.rng import KeyedNoise
from scidiffusion.core.schedules import DiscreteSchedule, check_steps
from scidiffusion.errors import ConfigError, DataError
from scidiffusion.estimator import resolve_device
from scidiffusion.samplers import make_sampler, sample
from scidiffusion.timeseries.bank import SeriesBank, Standards, single
from scidiffusion.timeseries.drawing import check_items
from scidiffusion.timeseries.frequency import calendar_cycles, calendar_features, seasons
from scidiffusion.timeseries.model import SeriesModel, check_samples
from scidiffusion.timeseries.series import Series, SeriesSet
from scidiffusion.timeseries.splits import WindowRows, latest_windows, split_windows
from scidiffusion.timeseries.timegrad_network import (
    LOCATIONS,
    History,
    TimeGradLoss,
    TimeGradNetwork,
    level_wanders,
    roll_out,
    scale_window,
)

__all__ = ["TimeGradModel"]

LEAST_CONTEXT = 24
"""Steps of context that are chosen at least, where the series have as many."""
VALIDATION_WINDOWS = 256
LOCATION_WINDOWS = 1024
BLOCK_ROWS = 512
"""Paths that a CPU draws at once."""


class TimeGradModel(SeriesModel):
    """Forecasts by an autoregressive diffusion; see the module.

    Options:
        context_length: Steps before the origin that the LSTM runs over; None chooses the horizon
            or 24, whichever is longer.
        location: What values are measured from, "item" or "window" (see
            `scidiffusion.timeseries.timegrad_network`); None chooses "window" where the level of
            the series wanders.
        hidden, layers: Size of the LSTM.
        width, blocks: Size of the denoiser.
        dropout: Probability of dropping a feature.
        num_nodes: Noise levels T.
        variance: Variance of a denoising step, "posterior" (the paper's) or "beta".
        batch_size, draws: Windows a training step, and noise levels a step of a window.
        max_steps, lr, weight_decay, ema_decay, patience, validate_every: Of the training.
        validation_fraction: Share that is held out, in [0, 0.5].
        num_steps: Denoising steps a step of the horizon; None is all T.
        sampler: Name of the sampler.
        device: "auto", "cpu" or "cuda".

    Raises:
        ConfigError: if an option is unknown or impossible.
    """

    name = "timegrad"
    defaults: ClassVar[dict[str, Any]] = {
        "context_length": None,
        "location": None,
        "hidden": 64,
        "layers": 2,
        "width": 128,
        "blocks": 2,
        "dropout": 0.1,
        "num_nodes": 100,
        "variance": "posterior",
        "batch_size": 64,
        "draws": 4,
        "max_steps": 4000,
        "lr": 1e-3,
        "weight_decay": 0.0,
        "ema_decay": 0.995,
        "patience": 10,
        "validate_every": 100,
        "validation_fraction": 0.1,
        "num_steps": None,
        "sampler": "ancestral",
        "device": "auto",
    }

    def __init__(
        self, prediction_length: int, freq: str, options: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(prediction_length, freq, options)
        options = self.options
        for name in ("hidden", "layers", "width", "blocks", "num_nodes", "draws"):
            _positive(name, options[name])
        if options["context_length"] is not None:
            _positive("context_length", options["context_length"])
        if options["location"] not in (None, *LOCATIONS):
            raise ConfigError(
                f"location must be None, 'item' or 'window', got {options['location']!r}"
            )
        if not 0 <= options["validation_fraction"] <= 0.5:
            raise ConfigError(
                f"validation_fraction must lie in [0, 0.5], got {options['validation_fraction']}"
            )
        # A step of T nodes is as long as 100 / T of the paper's; the last node is equally noisy.
        betas = torch.linspace(1e-4, 0.1, options["num_nodes"], dtype=torch.float64)
        schedule = DiscreteSchedule(1 - (1 - betas) ** (100 / options["num_nodes"]))
        self.process = GaussianProcess(schedule, variance=options["variance"])
        self._grid(None)

    # -- fitting ---------------------------------------------------------------------------------

    def fit(
        self,
        series: SeriesSet,
        *,
        budget: float | None = None,
        seed: int = 0,
        progress: bool = False,
        checkpoint_dir: str | Path | None = None,
        resume: bool = False,
        trainer_kwargs: Mapping[str, Any] | None = None,
        validation: SeriesSet | None = None,
        start: Mapping[str, Tensor] | None = None,
    ) -> TimeGradModel:
        """See `SeriesModel.fit`.

        Raises:
            DataError: if every series is too short, or no horizon holds an observed value.
        """
        from scidiffusion.training import TrainConfig, train

        options = self.options
        self._plan(series)
        both = series if validation is None else SeriesSet([*series, *validation], series.freq)
        bank = self._bank_of(both)
        rows, held = self._windows_of(bank, len(series), seed)
        judges = held.pick(VALIDATION_WINDOWS, seed)
        some = rows.pick(LOCATION_WINDOWS, seed)
        ahead = bank.windows(some.item, some.end, 0, self.horizon)
        if not bool(ahead.observed.any()):
            raise DataError("the series hold no observed value in any training horizon")
        wanders = level_wanders(bank, some, self.context)
        self.location: str = options["location"] or ("window" if wanders else "item")
        self._build(seed)
        if start is not None:
            self.denoiser.load_state_dict(dict(start))
        device = resolve_device(options["device"])
        bank.to(device)
        config = TrainConfig(
            max_steps=options["max_steps"],
            batch_size=options["batch_size"],
            lr=options["lr"],
            weight_decay=options["weight_decay"],
            ema_decay=options["ema_decay"],
            patience=options["patience"],
            validate_every=options["validate_every"],
            validation_draws=VALIDATION_WINDOWS,
            anneal=0.25,
            budget=budget,
            seed=seed,
            accelerator="gpu" if device.type == "cuda" else "cpu",
            progress=progress,
        )
        self.result = train(
            self.denoiser,
            TimeGradLoss(bank, self.back, self.context, self.location, options["draws"]),
            rows.state(),
            validation=(judges.state(), None),
            config=config,
            checkpoint_dir=checkpoint_dir,
            resume=resume,
            trainer_kwargs=trainer_kwargs,
        )
        self.denoiser.to(device)
        return self

    def _plan(self, series: SeriesSet) -> None:
        """Choose context, lags and calendar for the series."""
        self.dim = series.dim
        lengths = sorted(item.length for item in series)
        typical = max(lengths[len(lengths) // 4] - self.horizon, 1)
        context = self.options["context_length"] or max(self.horizon, LEAST_CONTEXT)
        self.context = min(int(context), typical)
        periods = seasons(self.freq)
        if len(periods) == 1:
            periods = (periods[0], 2 * periods[0])
        self.lags: tuple[int, ...] = (1, *(lag for lag in periods if lag < typical))
        # A cycle seen less than twice tells where in the data one is, not where in the cycle.
        self.cycles = [
            bool(2 * steps <= lengths[-1]) for steps in calendar_cycles(self.freq).values()
        ]
        self.standards = Standards.of(series)
        first = series[0]
        self.covariates = (len(first.known), len(first.past), len(first.static_real))
        levels = np.stack([item.static_cat for item in series])
        self.classes = tuple(int(level) + 1 for level in levels.max(0)) if levels.size else ()

    def _bank_of(self, items: SeriesSet) -> SeriesBank:
        return SeriesBank(items, self.standards, self._calendar, self.horizon)

    def _windows_of(
        self, bank: SeriesBank, training: int, seed: int
    ) -> tuple[WindowRows, WindowRows]:
        """Windows to train on, and those held out or of the items from `training` on."""
        fraction = self.options["validation_fraction"] if training == len(bank) else 0.0
        rows, held = split_windows(
            bank.length[:training], self.horizon, self.context, fraction, seed
        )
        if training < len(bank):
            held = latest_windows(bank.length, range(training, len(bank)), self.horizon)
        return rows, held

    @property
    def back(self) -> int:
        """Steps before the origin that a window holds."""
        return self.context + self.lags[-1]

    def _calendar(self, index: pd.PeriodIndex) -> NDArray[np.float32]:
        return calendar_features(index)[np.repeat(np.array(self.cycles, dtype=bool), 2)]

    def _build(self, seed: int) -> None:
        options = self.options
        known, past, static_real = self.covariates
        shared = 2 * sum(self.cycles) + known + 2 * past + static_real
        if self.location == "item":
            shared += self.dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = TimeGradNetwork(
                self.dim,
                self.lags,
                shared,
                self.classes,
                hidden=options["hidden"],
                layers=options["layers"],
                width=options["width"],
                blocks=options["blocks"],
                dropout=options["dropout"],
            )
        self.denoiser = NetworkDenoiser(network, self.process)
        self.denoiser.eval()

    # -- forecasting -----------------------------------------------------------------------------

    @torch.no_grad()
    def forecast(
        self,
        items: Sequence[Series],
        *,
        num_samples: int = 100,
        num_steps: int | None = None,
        seed: int = 0,
        first: int = 0,
        progress: Callable[[int], None] | None = None,
        **wishes: Any,
    ) -> list[NDArray[np.float64]]:
        """See `SeriesModel.forecast`; there is no guidance.

        Raises:
            ConfigError: if there are wishes, or `num_steps` exceeds the noise levels.
            DataError: if an item does not fit the model.
        """
        if any(wish is not None for wish in wishes.values()):
            raise ConfigError(
                f"method='timegrad' has no guidance ({', '.join(wishes)}); use method='window'"
            )
        num_samples, grid, items = check_samples(num_samples), self._grid(num_steps), list(items)
        check_items(self, items)  # type: ignore[arg-type]
        total, size = len(items) * num_samples, BLOCK_ROWS
        if self._device.type != "cpu":
            size = max(BLOCK_ROWS, 100 * BLOCK_ROWS // self.dim)
        paths = np.empty((total, self.horizon, self.dim))
        for start in range(0, total, size):
            # Every block has the same shape: float32 may round otherwise in another.
            owner = np.minimum(np.arange(start, start + size), total - 1) // num_samples
            noise = KeyedNoise(seed, start=first * num_samples + start, stream=("timegrad",))
            block = items[owner[0] : owner[-1] + 1]
            drawn = self._draw(block, torch.from_numpy(owner - owner[0]), grid, noise)
            paths[start : start + size] = drawn[: total - start]
            if progress is not None:
                progress(min(start + size, total) // num_samples)
        return list(paths.reshape(len(items), num_samples, self.horizon, self.dim))

    def _draw(
        self, items: list[Series], owner: Tensor, grid: Tensor, noise: KeyedNoise
    ) -> NDArray[np.float64]:
        """Draw one path a row, (R, H, D) in the data's units; `owner` (R,) is its item."""
        device, owner = self._device, owner.to(self._device)
        zero = torch.zeros(1, dtype=torch.long, device=device)
        histories, levels, spreads = [], [], []
        # One at a time, so that no other item's company matters.
        for item in items:
            bank = self._bank_of(single(item, self.freq)).to(device)
            window = bank.windows(zero, bank.length, self.back, self.horizon)
            scaled = scale_window(window, self.context, self.location)
            histories.append(History.read(self.denoiser.network, scaled, self.back, self.context))
            levels.append(bank.level)
            spreads.append(bank.spread)
        history = History.join(histories)
        sampler = make_sampler(self.options["sampler"])
        drawn = roll_out(self.denoiser, history, owner, self.horizon, sampler, grid, noise)
        value = drawn.double() * history.scaled.scale[owner] + history.scaled.location[owner]
        level, spread = torch.cat(levels)[owner, :, None], torch.cat(spreads)[owner, :, None]
        result: NDArray[np.float64] = (value * spread + level).transpose(1, 2).cpu().numpy()
        return result

    def _grid(self, num_steps: int | None) -> Tensor:
        """Times of the denoising of one step."""
        nodes = self.process.schedule.num_nodes or 1
        steps = self.options["num_steps"] if num_steps is None else num_steps
        steps = nodes if steps is None else check_steps(steps)
        if steps > nodes:
            raise ConfigError(
                f"num_steps must be at most num_nodes = {nodes}, the noise levels of the model; "
                f"got {steps}"
            )
        return self.process.schedule.grid(steps, make_sampler(self.options["sampler"]).spacing)

    def evaluations(self, num_steps: int | None = None) -> int:
        """See `SeriesModel.evaluations`: H times those of one step, which are counted."""
        calls = 0

        def count(z: Tensor, t: Tensor, cond: Any = None) -> Prediction:
            nonlocal calls
            calls += 1
            return self.process.prediction(z, t, eps=torch.zeros_like(z))

        sampler, grid = make_sampler(self.options["sampler"]), self._grid(num_steps)
        dry: Any = count
        sample(self.process, dry, torch.empty(1, 1), sampler=sampler, grid=grid)
        return self.horizon * calls

    @property
    def num_parameters(self) -> int:
        """See `SeriesModel.num_parameters`."""
        return sum(weight.numel() for weight in self.denoiser.parameters())

    @property
    def _device(self) -> torch.device:
        return torch.device(next(self.denoiser.parameters()).device)

    # -- persistence -----------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See `SeriesModel.state`."""
        names = ("known", "past", "static_real")
        config = {
            "dim": self.dim,
            "context": self.context,
            "lags": list(self.lags),
            "cycles": self.cycles,
            "location": self.location,
            "covariates": list(self.covariates),
            "classes": list(self.classes),
            "standards": {name: getattr(self.standards, name).tolist() for name in names},
        }
        return config, dict(self.denoiser.state_dict())

    def restore(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor] | None) -> None:
        """See `SeriesModel.restore`."""
        self.dim, self.context = config["dim"], config["context"]
        self.location, self.cycles = config["location"], list(config["cycles"])
        self.lags, self.classes = tuple(config["lags"]), tuple(config["classes"])
        known, past, static_real = config["covariates"]
        self.covariates = (known, past, static_real)
        standards = {
            name: np.array(value, dtype=np.float64).reshape(-1, 2)
            for name, value in config["standards"].items()
        }
        self.standards = Standards(**standards)
        self._build(0)
        if tensors is not None:
            self.denoiser.load_state_dict(dict(tensors))
        self.denoiser.eval().to(resolve_device(self.options["device"]))


def _positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ConfigError(f"{name} must be an integer >= 1, got {value!r}")
