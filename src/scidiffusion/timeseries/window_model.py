"""The method "window": one diffusion of the whole horizon, in the frame of a Gaussian floor.

Fitting chooses what has a closed form (the naive forecast, the ridge, covariances), then trains
the network, then chooses on held-out windows how far its correction is trusted. Drawing is in
`scidiffusion.timeseries.drawing`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scidiffusion.core.schedules import check_steps
from scidiffusion.errors import ConfigError
from scidiffusion.estimator import native_bf16, resolve_device
from scidiffusion.samplers import count_evaluations, make_sampler
from scidiffusion.timeseries.bank import SeriesBank, Window
from scidiffusion.timeseries.denoiser import WindowDenoiser, window_process
from scidiffusion.timeseries.features import Layout
from scidiffusion.timeseries.floor import ForecastFloor, LagPlan
from scidiffusion.timeseries.frequency import seasons
from scidiffusion.timeseries.kriging import KrigingFloor
from scidiffusion.timeseries.model import SeriesModel
from scidiffusion.timeseries.network import NetworkSize, WindowNetwork
from scidiffusion.timeseries.objective import WindowLoss
from scidiffusion.timeseries.series import Series
from scidiffusion.timeseries.splits import WindowRows

MAX_PATCH = 64
MAX_CONTEXT_TOKENS = 16
LOOK_BACK = 200
"""Steps before the origin that are looked at at least, where there are as many."""
FULL_RANK = 64
LOW_RANK = 16
FLOOR_CELLS = 16_000_000
"""Cells of the windows that the floor is fitted on, about: with fewer it varies with the seed."""


class WindowModel(SeriesModel):
    """Forecasts, gap filling, generation and densities of windows; see the module.

    Options:
        context_length: Steps before the origin that the network sees; None chooses two horizons or
            the longest season, whichever is longer.
        seasons: Periods in steps; None takes those of the frequency.
        width, encoder_blocks, blocks, heads, dropout: Sizes of the network.
        batch_size: Windows a training step; None is 32, or 64 where not all series of an item are
            seen at once.
        draws: Noise levels a window.
        max_steps, lr, weight_decay, ema_decay, patience, validate_every: Of the training.
        log_sigma: Mean and standard deviation of log(std / scale) in training.
        gap_share: Share of training for cells hidden anywhere, which `impute` and `generate` need.
        validation_fraction: Share that is held out, in [0, 0.5].
        num_steps: Network evaluations of a forecast.
        sampler: Name of the sampler.
        antithetic: Whether paths are drawn in pairs from opposite noise, which makes their means
            and quantiles more precise; False draws them independently.
        max_series: Series of an item that are seen together: more are thinned out at random in
            training, which keeps the network from learning items by heart, and seen in groups
            when drawing.
        precision: "auto", "float32" or "bf16".
        device: "auto", "cpu" or "cuda".
    """

    name = "window"
    defaults: ClassVar[dict[str, Any]] = {
        "context_length": None,
        "seasons": None,
        "width": 64,
        "encoder_blocks": 2,
        "blocks": 3,
        "heads": 4,
        "dropout": 0.2,
        "batch_size": None,
        "draws": 4,
        "max_steps": 8000,
        "lr": 1e-3,
        "weight_decay": 1e-2,
        "ema_decay": 0.995,
        "patience": 10,
        "validate_every": 100,
        "log_sigma": (0.0, 1.5),
        "gap_share": 0.15,
        "validation_fraction": 0.1,
        "num_steps": 10,
        "sampler": "angular_ab2",
        "antithetic": True,
        "max_series": 8,
        "precision": "auto",
        "device": "auto",
    }

    def __init__(
        self, prediction_length: int, freq: str, options: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(prediction_length, freq, options)
        options = self.options
        if not 0 <= options["gap_share"] < 1:
            raise ConfigError(f"gap_share must lie in [0, 1), got {options['gap_share']}")
        if options["precision"] not in ("auto", "float32", "bf16"):
            raise ConfigError(
                f"precision must be 'auto', 'float32' or 'bf16', got {options['precision']!r}"
            )
        self.seasons = _checked_seasons(options["seasons"], freq)
        make_sampler(options["sampler"])
        self.trust: dict[float, float] = {}
        self.gap_trust: dict[float, float] = {}
        # The horizon in whole patches; what is beyond `horizon` is drawn and thrown away.
        patches = -(-self.horizon // MAX_PATCH)
        self.patch = -(-self.horizon // patches)
        self.zone = self.patch * patches

    # -- fitting ---------------------------------------------------------------------------------

    def _plan(self, typical: int) -> None:
        """Choose lags, context and look-back; see `SeriesModel._plan`."""
        self.lags = LagPlan.of(self.seasons, typical)
        context = self.options["context_length"]
        if context is None:
            context = min(max(2 * self.horizon, *self.lags.seasons, 1), typical)
        tokens = max(1, min(-(-int(context) // self.patch), MAX_CONTEXT_TOKENS))
        self.context = self.patch * tokens
        self.memory = max(self.context, self.lags.back)
        # A level is known as well as there is history to average.
        self.back = max(self.memory, min(LOOK_BACK, typical))
        # Short series are used from a third of their length on: lags may be absent.
        self.shortest = max(min(max(self.lags.back, self.horizon), typical // 3), 1)

    @property
    def _batch_size(self) -> int:
        chosen = 32 if self.dim <= self.options["max_series"] else 64
        return int(self.options["batch_size"] or chosen)

    def _build(self, seed: int) -> None:
        options = self.options
        known, past, static_real = self.covariates
        layout = Layout(self.lags, 2 * sum(self.cycles), known, past)
        size = NetworkSize(
            patch=self.patch,
            tokens=(self.context + self.zone) // self.patch,
            series=self.dim if self.dim > 1 else 0,
            classes=self.classes,
            static_real=static_real,
            multivariate=self.dim > 1,
            width=options["width"],
            encoder_blocks=options["encoder_blocks"],
            blocks=options["blocks"],
            heads=options["heads"],
            dropout=options["dropout"],
        )
        bf16 = options["precision"] == "bf16" or (
            options["precision"] == "auto" and native_bf16(resolve_device(options["device"]))
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = WindowNetwork(layout, size, bf16=bf16)
        rank = self.dim if self.dim <= FULL_RANK else LOW_RANK
        floor = ForecastFloor(self.dim, self.zone, self.lags, rank, self.memory)
        kriging = KrigingFloor(self.context + self.zone)
        self.denoiser = WindowDenoiser(
            network, floor, kriging, self.context, options["max_series"]
        )

    def _objective(
        self, bank: SeriesBank, rows: WindowRows, held: WindowRows, seed: int
    ) -> WindowLoss:
        """Fit the floors; see `SeriesModel._objective`."""
        options = self.options
        count = max(64, min(4096, FLOOR_CELLS // (self.dim * (self.back + self.zone))))
        chosen, judge = rows.pick(count, seed), held.pick(count, seed)
        train = self.window(bank, chosen.item, chosen.end)
        self.denoiser.floor.fit(train, self.window(bank, judge.item, judge.end))
        if options["gap_share"]:
            whole = bank.windows(chosen.item, chosen.end, self.context, self.zone)
            self.denoiser.kriging.fit(whole)
        return WindowLoss(
            bank,
            self.back,
            draws=options["draws"],
            log_sigma=tuple(options["log_sigma"]),
            gap_share=options["gap_share"],
            max_series=options["max_series"],
        )

    def _finish(self, bank: SeriesBank, judges: WindowRows, seed: int) -> None:
        """Choose how far the network is trusted."""
        from scidiffusion.timeseries.trust import choose_shrinkage

        choose_shrinkage(self, bank, judges, seed)

    def window(self, bank: SeriesBank, item: Tensor, end: Tensor) -> Window:
        """Cut windows for forecasts."""
        return bank.windows(item, end, self.back, self.zone)

    # -- use -------------------------------------------------------------------------------------

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
        """See `SeriesModel.forecast`; the only wish is `wishes`, a `Wishes` or one an item."""
        from scidiffusion.timeseries.drawing import draw_forecasts

        return draw_forecasts(
            self,
            items,
            num_samples=num_samples,
            num_steps=num_steps,
            seed=seed,
            first=first,
            progress=progress,
            **wishes,
        )

    def impute(
        self,
        items: Sequence[Series],
        num_samples: int = 100,
        seed: int = 0,
        *,
        num_steps: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[NDArray[np.float64]]:
        """Fill missing cells; see `scidiffusion.timeseries.gaps.fill_gaps`."""
        from scidiffusion.timeseries.gaps import fill_gaps

        return fill_gaps(
            self, items, num_samples=num_samples, num_steps=num_steps, seed=seed, progress=progress
        )

    def evaluations(self, num_steps: int | None = None) -> int:
        """See `SeriesModel.evaluations`."""
        sampler, process = make_sampler(self.options["sampler"]), window_process()
        steps = check_steps(int(self.options["num_steps"] if num_steps is None else num_steps))
        return count_evaluations(process, sampler, process.schedule.grid(steps, sampler.spacing))

    # -- persistence -----------------------------------------------------------------------------

    def _choices(self) -> dict[str, Any]:
        """See `SeriesModel._choices`."""
        return {
            "seasons": list(self.lags.seasons),
            "counts": list(self.lags.counts),
            "context": self.context,
            "memory": self.memory,
            "back": self.back,
        }

    def _choose(self, choices: Mapping[str, Any]) -> None:
        """See `SeriesModel._choose`."""
        self.lags = LagPlan(tuple(choices["seasons"]), tuple(choices["counts"]))
        self.context, self.memory = choices["context"], choices["memory"]
        self.back = choices["back"]


def _checked_seasons(periods: Any, freq: str) -> tuple[int, ...]:
    """Return periods in steps, increasing; None is those of the frequency.

    Raises:
        ConfigError: if one is not an integer of at least 2.
    """
    if periods is None:
        return seasons(freq)
    if not isinstance(periods, list | tuple):
        raise ConfigError(f"seasons must be a list of steps such as [24, 168], got {periods!r}")
    for period in periods:
        if isinstance(period, bool) or not isinstance(period, int) or period < 2:
            raise ConfigError(
                "seasons must be integers >= 2, steps after which the series repeat; got "
                f"{period!r} in {periods!r}"
            )
    return tuple(sorted(periods))
