"""What stands behind a forecaster of frames: options, fitting, memory, files.

`scidiffusion.timeseries.forecaster.DiffusionForecaster` is what can be asked of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from scidiffusion.durations import seconds
from scidiffusion.errors import ConditionError, ConfigError, InputError
from scidiffusion.estimator import (
    GenerativeEstimator,
    check_positive,
    resolve_device,
)
from scidiffusion.persistence import SavedModel
from scidiffusion.timeseries import memory
from scidiffusion.timeseries.fitting import fit_series, make_model
from scidiffusion.timeseries.frames import read_frame, read_like, warn_unknown
from scidiffusion.timeseries.frequency import normalise_freq, quiet_business_days
from scidiffusion.timeseries.layout import FrameLayout
from scidiffusion.timeseries.model import SeriesModel, positive
from scidiffusion.timeseries.series import Series, SeriesSet
from scidiffusion.timeseries.statics import StaticSource
from scidiffusion.timeseries.wishes import Wishes

__all__ = ["FrameEstimator", "Guidance"]

Guidance = Wishes | Mapping[Any, Wishes]


class FrameEstimator(GenerativeEstimator):
    """Reads frames, fits a method on their series, remembers these, saves and loads.

    A subclass has the constructor; its arguments are attributes of the same names.

    Attributes:
        seed_: The seed that was used.
        freq_: The frequency.
        layout_: How the training frame was read.
        series_: Names of the training series.
        model_: The fitted method.
        training_: `scidiffusion.training.TrainResult` of the fit; None after `load`.
    """

    prediction_length: int
    freq: str | None
    target: Any
    time: str | None
    item_id: str | None
    known: Any
    past: Any
    multivariate: bool | None
    method: str
    budget: float | str | None
    num_samples: int
    num_steps: int | None
    options: Mapping[str, Any] | None
    device: str
    random_state: int | None
    progress: bool

    # -- fitting ---------------------------------------------------------------------------------

    def _check_options(self) -> None:
        """Raise ConfigError for an option that is impossible: before a frame is read."""
        if self.options is not None and not isinstance(self.options, Mapping):
            raise ConfigError(
                f"options must be a dictionary of the method's options, got {self.options!r}"
            )
        resolve_device(self.device)
        make_model(self.method, self.prediction_length, self.freq or "D", self._options())
        if self.budget is not None:
            seconds(self.budget)
        self._draws(None, None)

    def _draws(self, num_samples: int | None, num_steps: int | None) -> dict[str, Any]:
        """Return the number of paths and of network evaluations of a call, checked."""
        return {
            "num_samples": positive(
                "num_samples", self.num_samples if num_samples is None else num_samples
            ),
            "num_steps": check_positive(
                self.num_steps if num_steps is None else num_steps, "num_steps"
            ),
        }

    def _options(self) -> dict[str, Any]:
        return {**(self.options or {}), "device": self.device}

    def _read(
        self, data: pd.DataFrame | pd.Series, static: StaticSource
    ) -> tuple[SeriesSet, FrameLayout]:
        return read_frame(
            data,
            target=self.target,
            time=self.time,
            item_id=self.item_id,
            known=self.known,
            past=self.past,
            static=static,
            freq=self.freq,
            multivariate=self.multivariate,
        )

    def _fit_series(
        self,
        series: SeriesSet,
        layout: FrameLayout,
        seed: int,
        checkpoint_dir: str | Path | None = None,
        resume: bool = False,
    ) -> None:
        with quiet_business_days():
            model = fit_series(
                series,
                self.prediction_length,
                method=self.method,
                budget=self.budget,
                seed=seed,
                options=self._options(),
                progress=self.progress,
                checkpoint_dir=checkpoint_dir,
                resume=resume,
            )
        self.model_: SeriesModel = model
        self.freq_, self.layout_ = series.freq, layout
        self.series_ = tuple(item.item_id for item in series)
        self.training_ = model.result
        self.seed_, self._calls = seed, 0
        self._memory = memory.keep(series, seed)

    # -- reading what is asked about -------------------------------------------------------------

    def _series_of(
        self, data: pd.DataFrame | pd.Series | None, **options: Any
    ) -> tuple[SeriesSet, FrameLayout]:
        """Read a frame like the fitted one; warn of new series. None is what is remembered."""
        if data is None:
            if any(options.get(name) is not None for name in ("future", "static")):
                raise InputError("future= and static= go with a frame; give X, too")
            return self._memory, self.layout_
        series, layout = read_like(data, self.layout_, **options)
        if not layout.joint:
            # Of the caller of the public method.
            warn_unknown([item.item_id for item in series], self.series_, stacklevel=4)
        return series, layout

    def _window_model(self, what: str) -> Any:
        """Return the fitted method, which must be one of whole windows."""
        from scidiffusion.timeseries.window_model import WindowModel

        if not isinstance(self.model_, WindowModel):
            raise ConfigError(f"{what} needs method='window'; this model is {self.method!r}")
        return self.model_

    def _wishes(
        self, items: Sequence[Series], guidance: Guidance | None
    ) -> list[Wishes | None] | None:
        """Return one wish an item, or None if there is none at all."""
        if guidance is None:
            return None
        self._window_model("guidance")
        if isinstance(guidance, Wishes):
            return [guidance] * len(items)
        named = {str(name): wish for name, wish in guidance.items()}
        unknown = sorted(set(named) - {item.item_id for item in items})
        if unknown:
            raise ConditionError(
                f"guidance names the series {unknown[0]!r}, which X does not have; it has "
                f"{', '.join(item.item_id for item in items[:8])}"
            )
        return [named.get(item.item_id) for item in items]

    # -- persistence -----------------------------------------------------------------------------

    def _state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, dict[str, Any]]]:
        config, tensors = self.model_.state()
        kept, kept_tensors = memory.state(self._memory)
        about = {
            "seed": self.seed_,
            "calls": self._calls,
            "freq": self.freq_,
            "model": config,
            "options": dict(self.model_.options),
        }
        extra = {
            "layout.json": self.layout_.to_json(),
            "series.json": {"fitted": list(self.series_), "memory": kept},
        }
        return about, {**tensors, **kept_tensors}, extra

    def _restore(self, saved: SavedModel) -> None:
        config, about = saved.config, saved.extra["series.json"]
        options = {**config["options"], "device": self.device}
        model = make_model(self.method, self.prediction_length, config["freq"], options)
        self._memory, tensors = memory.restore(about["memory"], saved.tensors)
        model.restore(config["model"], tensors)
        self.model_, self.freq_ = model, normalise_freq(config["freq"])
        self.layout_ = FrameLayout.from_json(saved.extra["layout.json"])
        self.series_ = tuple(about["fitted"])
        self.training_ = None
        self.seed_, self._calls = int(config["seed"]), int(config["calls"])
