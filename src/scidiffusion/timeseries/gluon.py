"""The method behind the interfaces of GluonTS: estimator, predictor, sample forecasts.

`DiffusionEstimator` is a `PyTorchLightningEstimator`: `train` returns a `PyTorchPredictor` whose
`predict` yields `SampleForecast`s, and everything of GluonTS that takes those works. Where the own
loop of GluonTS would do harm it is replaced, in `train_model`: checkpoints chosen by a noisy
diffusion loss (here a held-out loss under fixed noise, of averaged weights), checkpoints in the
working folder (here none unless asked for), `trainer_kwargs` emptied in passing (here copied),
instances drawn by a Poisson sampler that idles on one long series (here windows by index).

This module imports GluonTS; the package imports it at first use.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from gluonts.core.component import validated
from gluonts.dataset.common import Dataset
from gluonts.dataset.field_names import FieldName
from gluonts.model.forecast import SampleForecast
from gluonts.torch.model.estimator import PyTorchLightningEstimator, TrainOutput
from gluonts.torch.model.predictor import PyTorchPredictor
from gluonts.transform import Chain, Transformation
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from scidiffusion._files import write_atomic
from scidiffusion.durations import seconds
from scidiffusion.errors import ConfigError, ModelFileError
from scidiffusion.estimator import check_seed
from scidiffusion.timeseries.entries import series_of
from scidiffusion.timeseries.fitting import fit_series, make_model
from scidiffusion.timeseries.frequency import normalise_freq, quiet_business_days
from scidiffusion.timeseries.model import SeriesModel
from scidiffusion.timeseries.series import Series, SeriesSet

WEIGHTS = "prediction-net.safetensors"


class SeriesNetwork(nn.Module):
    """A fitted method as a module that GluonTS can serialise.

    Args:
        method: Name of the method.
        prediction_length: Steps H of a forecast.
        freq: Normalised frequency.
        options: Options of the method.
        config: JSON part of the model's state.
        counts: Number of dynamic, past, static real and static class features that are read.
        num_samples: Paths of a forecast unless told otherwise.
    """

    @validated()
    def __init__(
        self,
        method: str,
        prediction_length: int,
        freq: str,
        options: dict[str, Any],
        config: dict[str, Any],
        counts: list[int],
        num_samples: int = 100,
    ) -> None:
        super().__init__()
        self.model: SeriesModel = make_model(method, prediction_length, freq, options)
        self.model.restore(config, None)
        self.denoiser: nn.Module = self.model.denoiser
        self.freq, self.counts, self.num_samples = freq, tuple(counts), num_samples

    def forward(self, items: Sequence[Series], **options: Any) -> list[np.ndarray]:
        """Draw paths; see `SeriesModel.forecast`."""
        return self.model.forecast(items, **options)


class DiffusionPredictor(PyTorchPredictor):
    """Joint sample paths of series; made by `DiffusionEstimator`, serialised without pickle."""

    def predict(
        self,
        dataset: Dataset,
        num_samples: int | None = None,
        num_steps: int | None = None,
        random_state: int | None = None,
        wishes: Any = None,
    ) -> Iterator[SampleForecast]:
        """Forecast the steps after every entry.

        Args:
            dataset: Entries; covariates known in advance reach over the horizon.
            num_samples: Paths; default that of the estimator.
            num_steps: Network evaluations of a forecast; default that of the method.
            random_state: Seed; default is drawn from torch's global generator.
            wishes: Guidance of every entry, a `scidiffusion.timeseries.Wishes`.

        Yields:
            One forecast an entry, its samples (S, H), or (S, H, D) for several series.

        Raises:
            DataError: if an entry does not fit the model; the message names it.
        """
        network: SeriesNetwork = self.prediction_net
        if random_state is None:
            random_state = int(torch.randint(2**62, ()))
        options: dict[str, Any] = {
            "num_samples": network.num_samples if num_samples is None else num_samples,
            "num_steps": num_steps,
            "seed": check_seed(random_state),
        }
        if wishes is not None:
            options["wishes"] = wishes
        done, waiting = 0, []
        for entry in self.input_transform.apply(dataset, is_train=False):
            waiting.append(entry)
            if len(waiting) == self.batch_size:
                yield from self._forecast(waiting, done, options)
                done, waiting = done + len(waiting), []
        yield from self._forecast(waiting, done, options)

    def _forecast(
        self, entries: list[dict[str, Any]], first: int, options: dict[str, Any]
    ) -> Iterator[SampleForecast]:
        network: SeriesNetwork = self.prediction_net
        items = [
            series_of(entry, network.freq, network.counts, number)
            for number, entry in enumerate(entries, start=first)
        ]
        drawn = network(items, first=first, **options) if items else []
        for entry, item, samples in zip(entries, items, drawn, strict=True):
            one = np.ndim(entry[FieldName.TARGET]) == 1
            with quiet_business_days():
                start = item.start + item.length
            yield SampleForecast(
                # Not in single precision, as GluonTS has it: a level of 1e9 would drown the rest.
                samples=samples[..., 0] if one else samples,
                start_date=start,
                item_id=entry.get(FieldName.ITEM_ID),
                info=entry.get("info"),
            )

    def to(self, device: str | torch.device) -> DiffusionPredictor:
        """Move the network to a device; see `PyTorchPredictor.to`."""
        super().to(device)
        self.prediction_net.model.to(str(self.device))
        return self

    def serialize(self, path: Path) -> None:
        """Write the predictor to a folder: GluonTS's JSON, and the weights as safetensors."""
        super(PyTorchPredictor, self).serialize(path)
        tensors = {
            name: value.detach().cpu().contiguous()
            for name, value in self.prediction_net.denoiser.state_dict().items()
        }
        write_atomic(Path(path) / WEIGHTS, save_tensors(tensors))

    @classmethod
    def deserialize(
        cls, path: Path, device: str | torch.device | None = None
    ) -> DiffusionPredictor:
        """Read what `serialize` wrote.

        Raises:
            ModelFileError: if the weights are missing or damaged.
        """
        predictor = super(PyTorchPredictor, cls).deserialize(path)
        try:
            tensors = load_tensors((Path(path) / WEIGHTS).read_bytes())
            predictor.prediction_net.denoiser.load_state_dict(tensors)
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ModelFileError(
                f"the weights in {path} are missing or damaged ({error!r:.120}); restore the "
                "folder from a copy, or train and serialise again"
            ) from error
        predictor.to(device if device is not None else predictor.device)
        return predictor


class DiffusionEstimator(PyTorchLightningEstimator):
    """Train a diffusion forecaster on a GluonTS dataset.

    Args:
        freq: Frequency, any alias ("H", "h", "ME", "M", "B", "30min", ...).
        prediction_length: Steps H of a forecast.
        method: "window" (the whole horizon at once, about ten network evaluations) or "timegrad"
            (Rasul et al. 2021, step by step).
        budget: Time to train the network at most, to which the choices before and after it add
            some seconds: seconds or a text such as "5min"; None is no limit.
        num_feat_dynamic_real: Rows of `feat_dynamic_real` to use, known over the horizon.
        num_past_feat_dynamic_real: Rows of `past_feat_dynamic_real` to use.
        num_feat_static_real: Entries of `feat_static_real` to use.
        num_feat_static_cat: Entries of `feat_static_cat` to use.
        num_parallel_samples: Paths of a forecast unless `predict` is told otherwise.
        batch_size: Entries that are predicted together.
        options: Further options of the method by name (`context_length`, `num_steps`, `width`,
            `max_steps`, ...); see `scidiffusion.timeseries.window_model.WindowModel`.
        random_state: Seed of the training; None draws one from torch's global generator.
        progress: Show a progress bar.
        trainer_kwargs: Further arguments of Lightning's `Trainer` (callbacks, logger, ...).

    Raises:
        ConfigError: if an option is impossible; before any work is done.
    """

    @validated()
    def __init__(
        self,
        freq: str,
        prediction_length: int,
        method: str = "window",
        budget: Any = None,
        num_feat_dynamic_real: int = 0,
        num_past_feat_dynamic_real: int = 0,
        num_feat_static_real: int = 0,
        num_feat_static_cat: int = 0,
        num_parallel_samples: int = 100,
        batch_size: int = 32,
        options: dict[str, Any] | None = None,
        random_state: int | None = None,
        progress: bool = False,
        trainer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(trainer_kwargs=dict(trainer_kwargs or {}))
        self.freq = normalise_freq(freq)
        self.prediction_length, self.method = prediction_length, method
        self.budget = None if budget is None else seconds(budget)
        self.counts = (
            num_feat_dynamic_real,
            num_past_feat_dynamic_real,
            num_feat_static_real,
            num_feat_static_cat,
        )
        self.num_samples, self.batch_size = num_parallel_samples, batch_size
        self.options = dict(options or {})
        self.random_state = None if random_state is None else check_seed(random_state)
        self.progress = progress
        make_model(method, prediction_length, self.freq, self.options)

    def create_transformation(self) -> Transformation:
        """Nothing: entries are read by `scidiffusion.timeseries.entries.series_of`."""
        # GluonTS cannot serialise its own Identity.
        return Chain([])

    def train_model(
        self,
        training_data: Dataset,
        validation_data: Dataset | None = None,
        from_predictor: PyTorchPredictor | None = None,
        shuffle_buffer_length: int | None = None,
        cache_data: bool = False,
        ckpt_path: str | None = None,
        **kwargs: Any,
    ) -> TrainOutput:
        """Train and return network and predictor; see the module for what is not GluonTS's.

        Args:
            training_data: Entries to learn from.
            validation_data: Entries whose last horizons decide when to stop; default is a part of
                the training data that is then not trained on.
            from_predictor: Start from the weights of this predictor.
            shuffle_buffer_length: Without effect: all windows are shuffled.
            cache_data: Without effect: the data is in memory.
            ckpt_path: Folder of a checkpoint, from which an interrupted training goes on.
            kwargs: None.

        Raises:
            DataError: if an entry cannot be used; the message names it.
        """
        if kwargs:
            raise ConfigError(f"train has no argument {sorted(kwargs)[0]!r}")
        transformation = self.create_transformation()
        series = self._series(transformation.apply(training_data, is_train=True))
        validation = None
        if validation_data is not None:
            validation = self._series(transformation.apply(validation_data, is_train=True))
        seed = self.random_state
        if seed is None:
            seed = int(torch.randint(2**62, ()))
        keeper = _KeepTrainer()
        given = dict(self.trainer_kwargs)
        given["callbacks"] = [*(given.get("callbacks") or []), keeper]
        model = fit_series(
            series,
            self.prediction_length,
            method=self.method,
            options=self.options,
            validation=validation,
            start=None if from_predictor is None else from_predictor.network.denoiser.state_dict(),
            budget=self.budget,
            seed=seed,
            progress=self.progress,
            checkpoint_dir=ckpt_path,
            resume=ckpt_path is not None,
            trainer_kwargs=given,
        )
        config, tensors = model.state()
        network = SeriesNetwork(
            method=self.method,
            prediction_length=self.prediction_length,
            freq=self.freq,
            options=_plain(model.options),
            config=_plain(config),
            counts=list(self.counts),
            num_samples=self.num_samples,
        )
        network.denoiser.load_state_dict(tensors)
        return TrainOutput(
            transformation=transformation,
            trained_net=network,
            trainer=keeper.trainer,
            predictor=self.create_predictor(transformation, network),
        )

    def create_predictor(
        self, transformation: Transformation, module: SeriesNetwork
    ) -> DiffusionPredictor:
        """Return the predictor of a trained network."""
        predictor = DiffusionPredictor(
            input_names=[],
            prediction_net=module,
            batch_size=self.batch_size,
            prediction_length=self.prediction_length,
            input_transform=transformation,
            device=self.options.get("device", "auto"),
        )
        return predictor.to(predictor.device)

    def _series(self, entries: Iterable[dict[str, Any]]) -> SeriesSet:
        items = [
            series_of(entry, self.freq, self.counts, number)
            for number, entry in enumerate(entries)
        ]
        return SeriesSet(items, self.freq)


class _KeepTrainer(pl.Callback):
    """Remembers the trainer, for `TrainOutput`."""

    trainer: pl.Trainer | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.trainer = trainer


def _plain(value: Any) -> Any:
    """Return JSON-like values: GluonTS's encoder and pydantic copy what they are given."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


__all__ = ["DiffusionEstimator", "DiffusionPredictor"]
