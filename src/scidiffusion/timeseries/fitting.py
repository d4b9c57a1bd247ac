"""From series to a fitted method, in one call; what the estimators share."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from scidiffusion.durations import seconds
from scidiffusion.errors import ConfigError, DataError
from scidiffusion.timeseries.frequency import normalise_freq
from scidiffusion.timeseries.model import SeriesModel
from scidiffusion.timeseries.series import SeriesSet

METHODS = {
    "window": "scidiffusion.timeseries.window_model:WindowModel",
    "timegrad": "scidiffusion.timeseries.timegrad:TimeGradModel",
}
"""Name -> where the class of the method is."""


def method_class(method: str) -> type[SeriesModel]:
    """Return the class of a method.

    Raises:
        ConfigError: if there is none of the name.
    """
    if method not in METHODS:
        raise ConfigError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    module, name = METHODS[method].split(":")
    found: type[SeriesModel] = getattr(importlib.import_module(module), name)
    return found


def make_model(
    method: str, prediction_length: int, freq: str, options: Mapping[str, Any] | None = None
) -> SeriesModel:
    """Return an untrained model of a method.

    Raises:
        ConfigError: if the method, an option, the frequency or the horizon is impossible.
    """
    return method_class(method)(prediction_length, normalise_freq(freq), options)


def fit_series(
    series: SeriesSet,
    prediction_length: int,
    *,
    method: str = "window",
    budget: float | str | None = None,
    options: Mapping[str, Any] | None = None,
    **fitting: Any,
) -> SeriesModel:
    """Fit a method on series.

    Args:
        series: Training series.
        prediction_length: Steps H of a forecast.
        method: "window" or "timegrad".
        budget: Training time at most: seconds or a text such as "5min".
        options: Options of the method.
        fitting: Further arguments of `SeriesModel.fit`: the seed, progress, checkpoints, ...

    Raises:
        ConfigError: if an option is impossible.
        DataError: if no series is long enough, or none of its values is observed.
    """
    model = make_model(method, prediction_length, series.freq, options)
    check_training(series, model.horizon)
    return model.fit(series, budget=None if budget is None else seconds(budget), **fitting)


def check_training(series: SeriesSet, horizon: int) -> None:
    """Raise DataError for series that nothing can be learned from."""
    longest = max(series, key=lambda item: item.length)
    if longest.length <= horizon:
        raise DataError(
            f"the longest series, {longest.item_id!r}, has {longest.length} steps; fitting with "
            f"prediction_length = {horizon} needs at least {horizon + 1}, better "
            f"{3 * horizon} or more"
        )
    for item in series:
        observed = np.isfinite(item.target).any(axis=1)
        if not observed.all():
            name = item.names[int(np.argmin(observed))]
            raise DataError(f"series {item.item_id!r}: {name} has no observed value; leave it out")
        bad = np.argwhere(~np.isfinite(item.known[:, : item.length]))
        if len(bad):
            row, step = (int(place) for place in bad[0])
            raise DataError(
                f"series {item.item_id!r}: covariate {row}, known in advance, is missing at "
                f"{item.start + step}; fill it, or give it as a covariate of the past"
            )
