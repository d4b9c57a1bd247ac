"""What a method of forecasting is: series in, sample paths out.

The estimators know frames, GluonTS and files; a method knows `Series`. What all methods share is
here: what is read of the training series, the windows, the training, the checks of what is
forecast, persistence. A new method is one subclass, which chooses its windows, builds a denoiser
and draws, and one entry in `scidiffusion.timeseries.fitting.METHODS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from scidiffusion.core.objectives import Objective
from scidiffusion.errors import ConfigError, DataError
from scidiffusion.estimator import check_positive, resolve_device
from scidiffusion.timeseries.bank import SeriesBank, Standards
from scidiffusion.timeseries.frequency import calendar_cycles, calendar_features
from scidiffusion.timeseries.series import Series, SeriesSet
from scidiffusion.timeseries.splits import WindowRows, latest_windows, split_windows

VALIDATION_WINDOWS = 256
"""Held-out windows that judge a training."""
LOOKED_AT = 1024
"""Training windows that are looked at for observed values."""


class SeriesModel(ABC):
    """A method.

    Args:
        prediction_length: Steps H of a forecast.
        freq: Frequency of the series, normalised.
        options: Options of the method that differ from `defaults`.

    Attributes:
        denoiser: What is trained; after `fit` or `restore`.
        result: What the training did, a `scidiffusion.training.TrainResult`; after `fit`.
        dim: Number of series D of an item.
        zone: Steps of a window from its origin on; H, or more where a method draws in whole parts.
        shortest: Steps before an origin at least in training, where items have as many to spare.
        cycles: Which cycles of the calendar are told.
        covariates: Number of covariates: known in advance, of the past, static reals.
        classes: Number of levels of each static class.

    Raises:
        ConfigError: if an option is unknown or impossible, or H is not a positive integer.
    """

    name: ClassVar[str]
    defaults: ClassVar[dict[str, Any]]
    shortest: int

    def __init__(
        self, prediction_length: int, freq: str, options: Mapping[str, Any] | None = None
    ) -> None:
        self.horizon = self.zone = positive("prediction_length", prediction_length)
        unknown = sorted(set(options or {}) - set(self.defaults))
        if unknown:
            raise ConfigError(
                f"method={self.name!r} has no option {unknown[0]!r}; it has "
                f"{', '.join(self.defaults)}"
            )
        self.freq = freq
        self.options: dict[str, Any] = {**self.defaults, **(options or {})}
        fraction = self.options["validation_fraction"]
        if not 0 <= fraction <= 0.5:
            raise ConfigError(f"validation_fraction must lie in [0, 0.5], got {fraction}")
        check_positive(self.options["context_length"], "context_length")
        self.denoiser: Any = None
        self.result: Any = None

    # -- what a method chooses -------------------------------------------------------------------

    @abstractmethod
    def _plan(self, typical: int) -> None:
        """Choose windows, and `shortest`, for series of `typical` steps before a horizon."""

    def _measure(self, bank: SeriesBank, rows: WindowRows, seed: int) -> None:
        """Choose from the data what the network's size depends on."""
        return

    @abstractmethod
    def _build(self, seed: int) -> None:
        """Make `denoiser`, untrained."""

    @abstractmethod
    def _objective(
        self, bank: SeriesBank, rows: WindowRows, held: WindowRows, seed: int
    ) -> Objective:
        """Fit what has a closed form and return what is minimised."""

    @property
    def _batch_size(self) -> int:
        return int(self.options["batch_size"])

    def _finish(self, bank: SeriesBank, judges: WindowRows, seed: int) -> None:
        """Do what is to be done once the network is trained."""
        return

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
    ) -> Self:
        """Learn from the series; returns self.

        Args:
            series: Training series.
            budget: Seconds of training at most.
            seed: Seed of everything random.
            progress: Show a progress bar.
            checkpoint_dir: Folder for a checkpoint; None writes none.
            resume: Go on from the checkpoint that is there.
            trainer_kwargs: Further arguments of Lightning's `Trainer`.
            validation: Series whose last horizons decide when to stop; None holds out a part of
                the training series.
            start: State of the denoiser to start from.

        Raises:
            DataError: if every series is too short, or no horizon holds an observed value.
        """
        from scidiffusion.training import TrainConfig, train

        options, device = self.options, resolve_device(self.options["device"])
        self._read(series)
        both = series if validation is None else SeriesSet([*series, *validation], series.freq)
        bank = self.bank_of(both)
        rows, held = self.windows_of(bank, len(series), seed)
        some = rows.pick(LOOKED_AT, seed)
        if not bool(bank.windows(some.item, some.end, 0, self.zone).observed.any()):
            raise DataError("the series hold no observed value in any training horizon")
        self._measure(bank, rows, seed)
        self._build(seed)
        if start is not None:
            self.denoiser.load_state_dict(dict(start))
        objective = self._objective(bank, rows, held, seed)
        bank.to(device)
        judges = held.pick(VALIDATION_WINDOWS, seed)
        self.result = train(
            self.denoiser,
            objective,
            rows.state(),
            validation=(judges.state(), None),
            config=TrainConfig(
                max_steps=options["max_steps"],
                batch_size=self._batch_size,
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
            ),
            checkpoint_dir=checkpoint_dir,
            resume=resume,
            trainer_kwargs=trainer_kwargs,
        )
        self.denoiser.to(device)
        self._finish(bank, judges, seed)
        return self

    def _read(self, series: SeriesSet) -> None:
        """Take over what the series are like, and plan."""
        self.dim = series.dim
        lengths = sorted(item.length for item in series)
        # A cycle seen less than twice tells where in the data one is, not where in the cycle.
        cycles = calendar_cycles(self.freq).values()
        self.cycles = [bool(2 * steps <= lengths[-1]) for steps in cycles]
        self.standards = Standards.of(series)
        first = series[0]
        self.covariates = (len(first.known), len(first.past), len(first.static_real))
        levels = np.stack([item.static_cat for item in series])
        self.classes = tuple(int(level) + 1 for level in levels.max(0)) if levels.size else ()
        self._plan(max(lengths[len(lengths) // 4] - self.zone, 1))

    def bank_of(self, items: SeriesSet) -> SeriesBank:
        """Return a bank of series like those that were trained on."""
        return SeriesBank(items, self.standards, self._calendar, self.zone)

    def _calendar(self, index: pd.PeriodIndex) -> NDArray[np.float32]:
        return calendar_features(index)[np.repeat(np.array(self.cycles, dtype=bool), 2)]

    def windows_of(self, bank: SeriesBank, items: int, seed: int) -> tuple[WindowRows, WindowRows]:
        """Return the windows to train on, and those held out or of the items beyond `items`."""
        apart = items < len(bank)
        fraction = 0.0 if apart else self.options["validation_fraction"]
        rows, held = split_windows(bank.length[:items], self.zone, self.shortest, fraction, seed)
        if apart:
            held = latest_windows(bank.length, range(items, len(bank)), self.zone)
        return rows, held

    # -- use -------------------------------------------------------------------------------------

    @abstractmethod
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
        """Draw joint paths of the H steps after each item.

        Args:
            items: Series up to the origin, with known covariates over the horizon.
            num_samples: Paths S an item.
            num_steps: Network evaluations, where the method has a choice.
            seed: Seed; item i of the call has noise of its own, whatever else is forecast.
            first: Number of the first item in a longer run that is cut in parts.
            progress: Called with the number of items done.
            wishes: Guidance, where the method has any.

        Returns:
            One (S, H, D) array an item.
        """

    @abstractmethod
    def evaluations(self, num_steps: int | None = None) -> int:
        """Serial network evaluations of one forecast."""

    @property
    def num_parameters(self) -> int:
        """Number of trained parameters."""
        return sum(weight.numel() for weight in self.denoiser.parameters())

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return torch.device(next(self.denoiser.parameters()).device)

    def to(self, device: str) -> Self:
        """Move the model to a device; returns self."""
        self.options["device"] = device
        self.denoiser.to(resolve_device(device))
        return self

    def check_items(self, items: Sequence[Series]) -> None:
        """Raise DataError for an item that the model cannot forecast from."""
        for item in items:
            if item.dim != self.dim:
                raise DataError(
                    f"series {item.item_id!r} has {item.dim} series, but the model was fitted on "
                    f"items of {self.dim}"
                )
            names = ("known", "past", "static_real", "static_cat")
            for name, count in zip(names, (*self.covariates, len(self.classes)), strict=True):
                have = len(getattr(item, name))
                if have != count:
                    what = "static classes" if name == "static_cat" else f"{name} covariates"
                    raise DataError(
                        f"series {item.item_id!r} has {have} {what}, but the model was fitted "
                        f"with {count}"
                    )
            if item.known.size and item.known.shape[1] < item.length + self.horizon:
                raise DataError(
                    f"series {item.item_id!r}: the covariates known in advance end at "
                    f"{item.start + item.known.shape[1] - 1}, but they must reach "
                    f"{item.start + item.length + self.horizon - 1}, prediction_length = "
                    f"{self.horizon} steps after the last value"
                )
            bad = np.argwhere(~np.isfinite(item.known[:, : item.length + self.horizon]))
            if len(bad):
                row, step = (int(place) for place in bad[0])
                raise DataError(
                    f"series {item.item_id!r}: covariate {row}, known in advance, is missing at "
                    f"{item.start + step}; fill it"
                )
            observed = np.isfinite(item.target).any(axis=1)
            if not observed.all():
                raise DataError(
                    f"series {item.item_id!r}: {item.names[int(np.argmin(observed))]} has no "
                    "observed value to forecast from"
                )

    # -- persistence -----------------------------------------------------------------------------

    @abstractmethod
    def _choices(self) -> dict[str, Any]:
        """Return what `_plan` and `_measure` chose, as JSON: names of attributes and values."""

    @abstractmethod
    def _choose(self, choices: Mapping[str, Any]) -> None:
        """Take over what `_choices` returned."""

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return what a fitted model needs: JSON and tensors."""
        names = ("known", "past", "static_real")
        config = {
            "dim": self.dim,
            "cycles": self.cycles,
            "covariates": list(self.covariates),
            "classes": list(self.classes),
            "standards": {name: getattr(self.standards, name).tolist() for name in names},
            "choices": self._choices(),
        }
        return config, dict(self.denoiser.state_dict())

    def restore(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor] | None) -> None:
        """Take over what `state` returned; without tensors the denoiser is left untrained."""
        self.dim, self.cycles = config["dim"], list(config["cycles"])
        known, past, static_real = config["covariates"]
        self.covariates = (known, past, static_real)
        self.classes = tuple(config["classes"])
        standards = {
            name: np.array(value, dtype=np.float64).reshape(-1, 2)
            for name, value in config["standards"].items()
        }
        self.standards = Standards(**standards)
        self._choose(config["choices"])
        self._build(0)
        if tensors is not None:
            self.denoiser.load_state_dict(dict(tensors))
        self.denoiser.eval().to(resolve_device(self.options["device"]))


def positive(name: str, value: Any) -> int:
    """Return a number that must be given as an int.

    Raises:
        ConfigError: if it is not an integer >= 1.
    """
    number = check_positive(value, name)
    if number is None:
        raise ConfigError(f"{name} must be an integer >= 1, got None")
    return number
