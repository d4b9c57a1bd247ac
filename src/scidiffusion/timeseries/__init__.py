"""Probabilistic forecasts, gap filling and generation of series, univariate and multivariate.

`DiffusionForecaster` takes and returns pandas frames; `DiffusionEstimator` is the same behind the
interfaces of GluonTS. Both fit one of the methods of `scidiffusion.timeseries.fitting`:

    window     one diffusion of the whole horizon, in about ten network evaluations
    timegrad   Rasul et al. 2021: step by step, each step a diffusion of its own

Names load at first use: importing this package imports neither Lightning nor GluonTS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scidiffusion import _lazy

if TYPE_CHECKING:
    from scidiffusion.timeseries.entries import group_series as group_series
    from scidiffusion.timeseries.fitting import fit_series as fit_series
    from scidiffusion.timeseries.floors import FLOORS as FLOORS
    from scidiffusion.timeseries.forecaster import DiffusionForecaster as DiffusionForecaster
    from scidiffusion.timeseries.forecasts import Forecast as Forecast
    from scidiffusion.timeseries.forecasts import ForecastSet as ForecastSet
    from scidiffusion.timeseries.gluon import DiffusionEstimator as DiffusionEstimator
    from scidiffusion.timeseries.gluon import DiffusionPredictor as DiffusionPredictor
    from scidiffusion.timeseries.scores import ForecastScores as ForecastScores
    from scidiffusion.timeseries.scores import score_forecasts as score_forecasts
    from scidiffusion.timeseries.series import Series as Series
    from scidiffusion.timeseries.series import SeriesSet as SeriesSet
    from scidiffusion.timeseries.wishes import Wishes as Wishes
else:
    _load, __dir__ = _lazy.attach(
        __name__,
        names={
            "DiffusionEstimator": "scidiffusion.timeseries.gluon",
            "DiffusionForecaster": "scidiffusion.timeseries.forecaster",
            "DiffusionPredictor": "scidiffusion.timeseries.gluon",
            "FLOORS": "scidiffusion.timeseries.floors",
            "Forecast": "scidiffusion.timeseries.forecasts",
            "ForecastScores": "scidiffusion.timeseries.scores",
            "ForecastSet": "scidiffusion.timeseries.forecasts",
            "Series": "scidiffusion.timeseries.series",
            "SeriesSet": "scidiffusion.timeseries.series",
            "Wishes": "scidiffusion.timeseries.wishes",
            "fit_series": "scidiffusion.timeseries.fitting",
            "group_series": "scidiffusion.timeseries.entries",
            "score_forecasts": "scidiffusion.timeseries.scores",
        },
    )

    def __getattr__(name: str) -> object:
        # What derives from GluonTS's classes says what to install, not which import failed.
        if name in {"DiffusionEstimator", "DiffusionPredictor"}:
            _lazy.require("gluonts", "timeseries")
        return _load(name)


__all__ = [
    "FLOORS",
    "DiffusionEstimator",
    "DiffusionForecaster",
    "DiffusionPredictor",
    "Forecast",
    "ForecastScores",
    "ForecastSet",
    "Series",
    "SeriesSet",
    "Wishes",
    "fit_series",
    "group_series",
    "score_forecasts",
]
