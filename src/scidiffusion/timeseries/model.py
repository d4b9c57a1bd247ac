"""What a method of forecasting is: series in, sample paths out.

The estimators know frames, GluonTS and files; a method knows `Series`. A new method is one
subclass and one entry in `scidiffusion.timeseries.fitting.METHODS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scidiffusion.errors import ConfigError, InputError
from scidiffusion.estimator import resolve_device
from scidiffusion.timeseries.series import Series, SeriesSet


class SeriesModel(ABC):
    """A method.

    Args:
        prediction_length: Steps H of a forecast.
        freq: Frequency of the series, normalised.
        options: Options of the method that differ from `defaults`.

    Attributes:
        denoiser: What is trained; after `fit` or `restore`.
        result: What the training did, a `scidiffusion.training.TrainResult`; after `fit`.

    Raises:
        ConfigError: if an option is unknown, or H is not a positive integer.
    """

    name: ClassVar[str]
    defaults: ClassVar[dict[str, Any]]

    def __init__(
        self, prediction_length: int, freq: str, options: Mapping[str, Any] | None = None
    ) -> None:
        if (
            isinstance(prediction_length, bool)
            or not isinstance(prediction_length, int | np.integer)
            or prediction_length < 1
        ):
            raise ConfigError(
                f"prediction_length must be an integer >= 1, got {prediction_length!r}"
            )
        unknown = sorted(set(options or {}) - set(self.defaults))
        if unknown:
            raise ConfigError(
                f"method={self.name!r} has no option {unknown[0]!r}; it has "
                f"{', '.join(self.defaults)}"
            )
        self.horizon, self.freq = int(prediction_length), freq
        self.options: dict[str, Any] = {**self.defaults, **(options or {})}
        self.denoiser: Any = None
        self.result: Any = None

    @abstractmethod
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
    ) -> SeriesModel:
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
        """

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
    @abstractmethod
    def num_parameters(self) -> int:
        """Number of trained parameters."""

    @abstractmethod
    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return what a fitted model needs: JSON and tensors."""

    @abstractmethod
    def restore(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor] | None) -> None:
        """Take over what `state` returned; without tensors the denoiser is left untrained."""

    def to(self, device: str) -> SeriesModel:
        """Move the model to a device; returns self."""
        self.options["device"] = device
        self.denoiser.to(resolve_device(device))
        return self


def check_samples(num_samples: Any) -> int:
    """Return a number of paths as an int.

    Raises:
        InputError: if it is not an integer >= 1.
    """
    if (
        isinstance(num_samples, bool)
        or not isinstance(num_samples, int | np.integer)
        or num_samples < 1
    ):
        raise InputError(f"num_samples must be an integer >= 1, got {num_samples!r}")
    return int(num_samples)
