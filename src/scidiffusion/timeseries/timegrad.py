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
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scidiffusion.core.denoiser import NetworkDenoiser
from scidiffusion.core.gaussian import GaussianProcess
from scidiffusion.core.rng import KeyedNoise
from scidiffusion.core.schedules import DiscreteSchedule, check_steps
from scidiffusion.errors import ConfigError
from scidiffusion.samplers import count_evaluations, make_sampler
from scidiffusion.timeseries.bank import SeriesBank
from scidiffusion.timeseries.frequency import seasons
from scidiffusion.timeseries.model import SeriesModel, positive
from scidiffusion.timeseries.series import Series, SeriesSet
from scidiffusion.timeseries.splits import WindowRows
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
            positive(name, options[name])
        if options["location"] not in (None, *LOCATIONS):
            raise ConfigError(
                f"location must be None, 'item' or 'window', got {options['location']!r}"
            )
        # A step of T nodes is as long as 100 / T of the paper's; the last node is equally noisy.
        betas = torch.linspace(1e-4, 0.1, options["num_nodes"], dtype=torch.float64)
        schedule = DiscreteSchedule(1 - (1 - betas) ** (100 / options["num_nodes"]))
        self.process = GaussianProcess(schedule, variance=options["variance"])
        self._grid(None)

    # -- fitting ---------------------------------------------------------------------------------

    def _plan(self, typical: int) -> None:
        """Choose context and lags; see `SeriesModel._plan`."""
        context = self.options["context_length"] or max(self.horizon, LEAST_CONTEXT)
        self.context = self.shortest = min(int(context), typical)
        periods = seasons(self.freq)
        if len(periods) == 1:
            periods = (periods[0], 2 * periods[0])
        self.lags: tuple[int, ...] = (1, *(lag for lag in periods if lag < typical))

    def _measure(self, bank: SeriesBank, rows: WindowRows, seed: int) -> None:
        """Choose what values are measured from; see `SeriesModel._measure`."""
        wanders = level_wanders(bank, rows.pick(LOCATION_WINDOWS, seed), self.context)
        self.location: str = self.options["location"] or ("window" if wanders else "item")

    def _objective(
        self, bank: SeriesBank, rows: WindowRows, held: WindowRows, seed: int
    ) -> TimeGradLoss:
        """See `SeriesModel._objective`; nothing has a closed form."""
        return TimeGradLoss(bank, self.back, self.context, self.location, self.options["draws"])

    @property
    def back(self) -> int:
        """Steps before the origin that a window holds."""
        return self.context + self.lags[-1]

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
        num_samples, items = positive("num_samples", num_samples), list(items)
        grid = self._grid(num_steps)
        self.check_items(items)
        total, size = len(items) * num_samples, BLOCK_ROWS
        if self.device.type != "cpu":
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
        device, owner = self.device, owner.to(self.device)
        zero = torch.zeros(1, dtype=torch.long, device=device)
        histories, levels, spreads = [], [], []
        # One at a time, so that no other item's company matters.
        for item in items:
            bank = self.bank_of(SeriesSet([item], self.freq)).to(device)
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
        """See `SeriesModel.evaluations`: H times those of one step."""
        sampler = make_sampler(self.options["sampler"])
        return self.horizon * count_evaluations(self.process, sampler, self._grid(num_steps))

    # -- persistence -----------------------------------------------------------------------------

    def _choices(self) -> dict[str, Any]:
        """See `SeriesModel._choices`."""
        return {"context": self.context, "lags": list(self.lags), "location": self.location}

    def _choose(self, choices: Mapping[str, Any]) -> None:
        """See `SeriesModel._choose`."""
        self.context, self.lags = choices["context"], tuple(choices["lags"])
        self.location = choices["location"]
