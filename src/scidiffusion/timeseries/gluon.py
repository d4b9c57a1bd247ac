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
import pandas as pd
import torch
from gluonts.core.component import validated
from gluonts.dataset.common import Dataset
from gluonts.dataset.field_names import FieldName
from gluonts.model.forecast import SampleForecast
from gluonts.torch.model.estimator import PyTorchLightningEstimator, TrainOutput
from gluonts.torch.model.predictor import PyTorchPredictor
from gluonts.transform import Chain, Identity, Transformation
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from scidiffusion._files import write_atomic
from scidiffusion.durations import seconds
from scidiffusion.errors import ConfigError, DataError, ModelFileError
from scidiffusion.estimator import check_seed
from scidiffusion.timeseries.fitting import check_training, make_model
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
            "num_samples": num_samples or network.num_samples,
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
        budget: Training time at most: seconds or a text such as "5min"; None is no limit.
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
        """Targets as numbers; everything else is read by `series_of`."""
        return Chain([Identity()])

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
        model = make_model(self.method, self.prediction_length, self.freq, self.options)
        check_training(series, model.horizon)
        keeper = _KeepTrainer()
        given = dict(self.trainer_kwargs)
        given["callbacks"] = [*(given.get("callbacks") or []), keeper]
        model.fit(
            series,
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


def series_of(entry: dict[str, Any], freq: str, counts: Sequence[int], number: int = 0) -> Series:
    """Turn an entry of a GluonTS dataset into a `Series`.

    Args:
        entry: Has `target` and `start`, and features where `counts` asks for them.
        freq: Normalised frequency that it must have.
        counts: Rows of dynamic, past, static real and static class features to read.
        number: Place of the entry, for messages where it has no `item_id`.

    Raises:
        DataError: if a field is missing, short, or of another frequency; the message names entry
            and field.
    """
    name = str(entry.get(FieldName.ITEM_ID, number))
    start = entry[FieldName.START]
    with quiet_business_days():
        if not isinstance(start, pd.Period):
            start = pd.Period(start, freq=freq)
        if normalise_freq(start.freqstr) != freq:
            raise DataError(
                f"entry {name!r} has the frequency {start.freqstr!r}, but the estimator {freq!r}; "
                "resample the data, or give its own freq"
            )
        # The same periods under one spelling: GluonTS keeps whatever the file said.
        start = pd.Period(start.to_timestamp(), freq=freq)
    fields = ("feat_dynamic_real", "past_feat_dynamic_real", "feat_static_real", "feat_static_cat")
    found: list[np.ndarray] = []
    for field, count in zip(fields, counts, strict=True):
        value = np.asarray(entry[field], dtype=np.float64) if count and field in entry else None
        if count and (value is None or len(value) < count):
            have = 0 if value is None else len(value)
            raise DataError(f"entry {name!r} has {have} rows of {field}, but {count} are used")
        found.append(np.empty(0) if value is None else value[:count])
    return Series(
        np.atleast_2d(np.asarray(entry[FieldName.TARGET], dtype=np.float64)),
        start,
        item_id=name,
        known=found[0],
        past=found[1],
        static_real=found[2],
        static_cat=found[3].astype(np.int64),
    )


def group_series(dataset: Iterable[dict[str, Any]], windows: int = 1) -> list[dict[str, Any]]:
    """Join univariate entries into multivariate ones, missing where a series has no value.

    GluonTS's `MultivariateGrouper` fills what does not line up with the mean or 0; here it is NaN,
    which the forecaster takes for what it is.

    Args:
        dataset: Entries, in a test set window by window, every window with all series.
        windows: Number of windows.

    Returns:
        One entry a window, its target (D, T).

    Raises:
        DataError: if the entries do not divide into windows, or frequencies or grids differ.
    """
    entries = list(dataset)
    if not entries or len(entries) % windows:
        raise DataError(f"{len(entries)} entries do not divide into {windows} windows")
    size = len(entries) // windows
    grouped = []
    for first in range(0, len(entries), size):
        part = entries[first : first + size]
        if len({entry[FieldName.START].freqstr for entry in part}) > 1:
            raise DataError("the entries of a window have different frequencies")
        with quiet_business_days():
            start = min(entry[FieldName.START] for entry in part)
            # Differences are counted in single steps, also of a multiple such as "2h".
            steps = [divmod((entry[FieldName.START] - start).n, start.freq.n) for entry in part]
        if any(rest for _, rest in steps):
            raise DataError(
                f"the entries of a window do not start on one grid of {start.freqstr!r} steps"
            )
        offsets = [offset for offset, _ in steps]
        ends = [
            offset + len(entry[FieldName.TARGET])
            for offset, entry in zip(offsets, part, strict=True)
        ]
        target = np.full((size, max(ends)), np.nan)
        for row, (offset, entry) in enumerate(zip(offsets, part, strict=True)):
            target[row, offset : ends[row]] = entry[FieldName.TARGET]
        grouped.append({FieldName.TARGET: target, FieldName.START: start})
    return grouped


def _plain(value: Any) -> Any:
    """Return JSON-like values: GluonTS's encoder and pydantic copy what they are given."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


__all__ = ["DiffusionEstimator", "DiffusionPredictor", "group_series", "series_of"]
