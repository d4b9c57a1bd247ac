"""The method "window": one diffusion of the whole horizon, in the frame of a Gaussian floor.

Fitting chooses what has a closed form (the naive forecast, the ridge, covariances), then trains
the network, then chooses on held-out windows how far its correction is trusted. Drawing is in
`scidiffusion.timeseries.drawing`.
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

from scidiffusion.errors import ConfigError, DataError
from scidiffusion.estimator import native_bf16, resolve_device
from scidiffusion.samplers import make_sampler
from scidiffusion.timeseries.bank import SeriesBank, Standards, Window
from scidiffusion.timeseries.denoiser import WindowDenoiser
from scidiffusion.timeseries.features import Layout
from scidiffusion.timeseries.floor import ForecastFloor, LagPlan
from scidiffusion.timeseries.frequency import calendar_cycles, calendar_features, seasons
from scidiffusion.timeseries.kriging import KrigingFloor
from scidiffusion.timeseries.model import SeriesModel
from scidiffusion.timeseries.network import NetworkSize, WindowNetwork, count_parameters
from scidiffusion.timeseries.objective import WindowLoss
from scidiffusion.timeseries.series import Series, SeriesSet
from scidiffusion.timeseries.splits import WindowRows, latest_windows, split_windows

MAX_PATCH = 64
MAX_CONTEXT_TOKENS = 16
LOOK_BACK = 200
"""Steps before the origin that are looked at at least, where there are as many."""
FULL_RANK = 64
LOW_RANK = 16
FLOOR_CELLS = 2_000_000
VALIDATION_WINDOWS = 256


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
        if not 0 <= self.options["gap_share"] < 1:
            raise ConfigError(f"gap_share must lie in [0, 1), got {self.options['gap_share']}")
        if self.options["precision"] not in ("auto", "float32", "bf16"):
            raise ConfigError(
                f"precision must be 'auto', 'float32' or 'bf16', got {self.options['precision']!r}"
            )
        make_sampler(self.options["sampler"])
        self.trust: dict[float, float] = {}
        self.gap_trust: dict[float, float] = {}
        # The horizon in whole patches; what is beyond `horizon` is drawn and thrown away.
        patches = -(-self.horizon // MAX_PATCH)
        self.patch = -(-self.horizon // patches)
        self.zone = self.patch * patches

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
    ) -> WindowModel:
        """See `SeriesModel.fit`."""
        from scidiffusion.timeseries.trust import choose_shrinkage
        from scidiffusion.training import TrainConfig, train

        options = self.options
        self._plan(series)
        both = series if validation is None else SeriesSet([*series, *validation], series.freq)
        bank = self.bank_of(both)
        rows, held = self.windows_of(bank, len(series), seed)
        self._build(seed)
        if start is not None:
            self.denoiser.load_state_dict(dict(start))
        self._fit_floors(bank, rows, held, seed)
        objective = WindowLoss(
            bank,
            self.back,
            draws=options["draws"],
            log_sigma=tuple(options["log_sigma"]),
            gap_share=options["gap_share"],
            max_series=options["max_series"],
        )
        device = resolve_device(options["device"])
        bank.to(device)
        config = TrainConfig(
            max_steps=options["max_steps"],
            batch_size=options["batch_size"] or (32 if self.dim <= options["max_series"] else 64),
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
        judges = held.pick(VALIDATION_WINDOWS, seed)
        self.result = train(
            self.denoiser,
            objective,
            rows.state(),
            validation=(judges.state(), None),
            config=config,
            checkpoint_dir=checkpoint_dir,
            resume=resume,
            trainer_kwargs=trainer_kwargs,
        )
        self.denoiser.to(device)
        choose_shrinkage(self, bank, judges, seed)
        return self

    def _plan(self, series: SeriesSet) -> None:
        """Choose lags, context and channels for the series."""
        options = self.options
        self.dim = series.dim
        lengths = sorted(item.length for item in series)
        typical = max(lengths[len(lengths) // 4] - self.zone, 1)
        periods = options["seasons"]
        periods = seasons(self.freq) if periods is None else tuple(sorted(periods))
        if any(isinstance(m, bool) or int(m) != m or m < 2 for m in periods):
            raise ConfigError(f"seasons must be integers >= 2 (steps), got {periods}")
        self.lags = LagPlan.of(tuple(int(period) for period in periods), typical)
        context = options["context_length"]
        if context is None:
            context = min(max(2 * self.horizon, *self.lags.seasons, 1), typical)
        elif isinstance(context, bool) or int(context) != context or context < 1:
            raise ConfigError(f"context_length must be an integer >= 1, got {context!r}")
        tokens = max(1, min(-(-int(context) // self.patch), MAX_CONTEXT_TOKENS))
        self.context = self.patch * tokens
        self.memory = max(self.context, self.lags.back)
        # A level is known as well as there is history to average.
        self.back = max(self.memory, min(LOOK_BACK, typical))
        # A cycle seen less than twice tells where in the data one is, not where in the cycle.
        self.cycles = [
            bool(2 * steps <= lengths[-1]) for steps in calendar_cycles(self.freq).values()
        ]
        self.standards = Standards.of(series)
        first = series[0]
        self.covariates = (len(first.known), len(first.past), len(first.static_real))
        levels = np.stack([item.static_cat for item in series])
        self.classes = tuple(int(level) + 1 for level in levels.max(0)) if levels.size else ()

    def bank_of(self, items: SeriesSet) -> SeriesBank:
        """Return a bank of series like those that were trained on."""
        return SeriesBank(items, self.standards, self._calendar, self.zone)

    def _calendar(self, index: pd.PeriodIndex) -> NDArray[np.float32]:
        rows = calendar_features(index)
        return rows[np.repeat(np.array(self.cycles, dtype=bool), 2)]

    def windows_of(self, bank: SeriesBank, items: int, seed: int) -> tuple[WindowRows, WindowRows]:
        """Return the windows to train on, and those held out or of the items beyond `items`."""
        # Short series are used from a third of their length on: lags may be absent.
        typical = int(bank.length[:items].double().quantile(0.25)) - self.zone
        shortest = max(min(max(self.lags.back, self.horizon), typical // 3), 1)
        fraction = self.options["validation_fraction"]
        if not 0 <= fraction <= 0.5:
            raise ConfigError(f"validation_fraction must lie in [0, 0.5], got {fraction}")
        if items == len(bank):
            return split_windows(bank.length, self.zone, shortest, fraction, seed)
        rows, _ = split_windows(bank.length[:items], self.zone, shortest, 0.0, seed)
        return rows, latest_windows(bank.length, range(items, len(bank)), self.zone)

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

    def _fit_floors(self, bank: SeriesBank, rows: WindowRows, held: WindowRows, seed: int) -> None:
        count = max(64, min(4096, FLOOR_CELLS // (self.dim * (self.back + self.zone))))
        chosen = rows.pick(count, seed)
        train = self.window(bank, chosen.item, chosen.end)
        if not bool(train.observed[..., train.back :].any()):
            raise DataError("the series hold no observed value in any training horizon")
        judge = held.pick(count, seed)
        self.denoiser.floor.fit(train, self.window(bank, judge.item, judge.end))
        if self.options["gap_share"]:
            whole = bank.windows(chosen.item, chosen.end, self.context, self.zone)
            self.denoiser.kriging.fit(whole)

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
        return int(num_steps or self.options["num_steps"])

    @property
    def num_parameters(self) -> int:
        """See `SeriesModel.num_parameters`."""
        return count_parameters(self.denoiser)

    # -- persistence -----------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See `SeriesModel.state`."""
        config = {
            "dim": self.dim,
            "seasons": list(self.lags.seasons),
            "counts": list(self.lags.counts),
            "context": self.context,
            "memory": self.memory,
            "back": self.back,
            "cycles": self.cycles,
            "covariates": list(self.covariates),
            "classes": list(self.classes),
            "standards": {
                name: getattr(self.standards, name).tolist()
                for name in ("known", "past", "static_real")
            },
        }
        return config, dict(self.denoiser.state_dict())

    def restore(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor] | None) -> None:
        """See `SeriesModel.restore`."""
        self.dim, self.context = config["dim"], config["context"]
        self.lags = LagPlan(tuple(config["seasons"]), tuple(config["counts"]))
        self.memory, self.back = config["memory"], config["back"]
        self.cycles = list(config["cycles"])
        known, past, static_real = config["covariates"]
        self.covariates = (known, past, static_real)
        self.classes = tuple(config["classes"])
        self.standards = Standards(
            **{
                name: np.array(value, dtype=np.float64).reshape(-1, 2)
                for name, value in config["standards"].items()
            }
        )
        self._build(0)
        if tensors is not None:
            self.denoiser.load_state_dict(dict(tensors))
        self.denoiser.eval().to(resolve_device(self.options["device"]))
