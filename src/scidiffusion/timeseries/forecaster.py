"""Forecasts from pandas frames: `fit`, `predict`, `plot`, `impute`, `sample`, `backtest`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.errors import InputError
from scidiffusion.estimator import check_seed
from scidiffusion.progress import progress_bar
from scidiffusion.timeseries.backtest import Backtest, run_backtest, split_backtest
from scidiffusion.timeseries.forecasts import QUANTILES, Forecast, ForecastSet, check_levels
from scidiffusion.timeseries.frame_estimator import Guidance
from scidiffusion.timeseries.frame_windows import WindowEstimator, frame_of
from scidiffusion.timeseries.frames import read_like
from scidiffusion.timeseries.frequency import quiet_business_days
from scidiffusion.timeseries.series import Series, SeriesSet
from scidiffusion.timeseries.statics import StaticSource

__all__ = ["QUANTILES", "DiffusionForecaster"]


class DiffusionForecaster(WindowEstimator):
    """Learn series and draw their joint future, their gaps, or new ones.

    A frame is *wide* (a DatetimeIndex and one column a series) or *long* (a column that names the
    series, one with times, one with values); see `scidiffusion.timeseries.frames.read_frame`.
    Values may be missing. The series of a wide frame are forecast jointly.

    Args:
        prediction_length: Steps H of a forecast.
        freq: Frequency ("h", "D", "M", ...); None reads it off the time stamps.
        target: Column or columns of values; None takes all that are nothing else.
        time: Column of times; None takes the index or the column of dates.
        item_id: Column that names the series of a long frame.
        known: Columns known in advance (weather forecasts, holidays), also over the horizon.
        past: Columns known up to now only.
        multivariate: Whether series are forecast jointly; None: those of a wide frame are, up to
            64 of them.
        method: "window" (about ten network evaluations a forecast) or "timegrad".
        budget: Time to train the network at most, to which the choices before and after it add
            some seconds: seconds or a text such as "2min"; None is no limit.
        num_samples: Paths of a forecast.
        num_steps: Network evaluations of a forecast; None is the method's default.
        options: Further options of the method by name; see
            `scidiffusion.timeseries.window_model.WindowModel`.
        device: "auto", "cpu" or "cuda".
        random_state: Seed of everything random; None takes a fresh one.
        progress: Show progress bars.

    Attributes:
        seed_: The seed that was used.
        freq_: The frequency.
        layout_: How the training frame was read.
        series_: Names of the training series.
        model_: The fitted method.
        training_: `scidiffusion.training.TrainResult` of the fit; None after `load`.

    A fitted forecaster keeps the training series, or some of them where they are more than two
    million numbers, for `sample` and `plot` without a frame; `save` writes them with the model.

    Example:
        >>> import numpy as np, pandas as pd
        >>> index = pd.date_range("2024-01-01", periods=200, freq="D")
        >>> frame = pd.DataFrame({"visits": np.sin(np.arange(200) / 7 * 2 * np.pi)}, index=index)
        >>> options = {"max_steps": 5, "width": 16, "heads": 1}
        >>> model = DiffusionForecaster(7, options=options, progress=False, random_state=0)
        >>> model.fit(frame).predict(frame).shape
        (7, 5)
    """

    def __init__(
        self,
        prediction_length: int = 24,
        *,
        freq: str | None = None,
        target: Hashable | Sequence[Hashable] = None,
        time: str | None = None,
        item_id: str | None = None,
        known: Hashable | Sequence[Hashable] = (),
        past: Hashable | Sequence[Hashable] = (),
        multivariate: bool | None = None,
        method: Literal["window", "timegrad"] | str = "window",
        budget: float | str | None = None,
        num_samples: int = 100,
        num_steps: int | None = None,
        options: Mapping[str, Any] | None = None,
        device: str = "auto",
        random_state: int | None = None,
        progress: bool = True,
    ) -> None:
        self.prediction_length = prediction_length
        self.freq = freq
        self.target = target
        self.time = time
        self.item_id = item_id
        self.known = known
        self.past = past
        self.multivariate = multivariate
        self.method = method
        self.budget = budget
        self.num_samples = num_samples
        self.num_steps = num_steps
        self.options = options
        self.device = device
        self.random_state = random_state
        self.progress = progress

    def fit(
        self,
        X: pd.DataFrame | pd.Series,
        y: Any = None,
        *,
        static: StaticSource = None,
        checkpoint_dir: str | Path | None = None,
        resume: bool = False,
    ) -> Self:
        """Learn the series of a frame.

        Args:
            X: Wide or long frame; see the class.
            y: Not used; it is here for scikit-learn.
            static: What does not change about a series (numbers, texts): a frame indexed by
                series, or names of columns of a long X that say the same in all its rows.
            checkpoint_dir: Folder for a checkpoint of the training, written every minute.
            resume: Go on from the checkpoint that is there.

        Raises:
            DataError: if the frame cannot be used; the message names series and time.
            ConfigError: if an option is impossible.
        """
        # Options first: a frame may take long to read.
        self._check_options()
        seed = check_seed(self.random_state)
        series, layout = self._read(X, static)
        self._fit_series(series, layout, seed, checkpoint_dir, resume)
        return self

    # -- forecasts -------------------------------------------------------------------------------

    def forecast(
        self,
        X: pd.DataFrame | pd.Series | None = None,
        *,
        future: pd.DataFrame | None = None,
        static: pd.DataFrame | None = None,
        num_samples: int | None = None,
        num_steps: int | None = None,
        guidance: Guidance | None = None,
        random_state: int | None = None,
    ) -> ForecastSet:
        """Draw joint paths of what comes after the last value of each series.

        Args:
            X: Frame up to now, laid out as in `fit`; series that `fit` did not see are forecast
                too, with a warning. None is the training data.
            future: Frame of the covariates known in advance over the horizon, where X does not
                hold them itself.
            static: Frame as of `fit`, where that had it and X does not hold these columns.
            num_samples: Paths; default that of the constructor.
            num_steps: Network evaluations.
            guidance: `Wishes` (known values, totals, bounds, a target quantile) for every series,
                or by series.
            random_state: Seed; default is the next of the forecaster's own stream.

        Raises:
            NotFittedError: before `fit`.
            DataError: if the frame does not fit the model.
            ConditionError: if the guidance does not.
        """
        self._check_fitted()
        options = self._draws(num_samples, num_steps)
        series, layout = self._series_of(
            X, future=future, static=static, horizon=self.prediction_length
        )
        items = list(series)
        wishes = self._wishes(items, guidance)
        if wishes is not None:
            options["wishes"] = wishes
        with (
            quiet_business_days(),
            progress_bar(len(items), enabled=self.progress, unit="series") as advance,
        ):
            drawn = self.model_.forecast(
                items, seed=self._next_seed(random_state), progress=advance, **options
            )
            return ForecastSet(
                [
                    Forecast(item.item_id, item.names, item.start + item.length, paths)
                    for item, paths in zip(items, drawn, strict=True)
                ],
                layout,
            )

    def predict(
        self,
        X: pd.DataFrame | pd.Series | None = None,
        *,
        quantiles: Sequence[float] | None = QUANTILES,
        **options: Any,
    ) -> pd.DataFrame:
        """Forecast, as a frame laid out like X.

        Args:
            X: Frame up to now; None is the training data.
            quantiles: Levels in [0, 1] that are returned; None returns the paths themselves.
            options: As of `forecast`.

        Returns:
            See `ForecastSet.to_frame` and `ForecastSet.samples_frame`.

        Raises:
            InputError: if a level is impossible.
        """
        levels = None if quantiles is None else check_levels(quantiles)
        forecasts = self.forecast(X, **options)
        return forecasts.samples_frame() if levels is None else forecasts.to_frame(levels)

    def plot(
        self,
        X: pd.DataFrame | pd.Series | None = None,
        forecasts: ForecastSet | None = None,
        *,
        series: str | None = None,
        levels: Sequence[float] = (0.5, 0.9),
        actual: pd.DataFrame | pd.Series | None = None,
        path: str | Path | None = None,
        **options: Any,
    ) -> Any:
        """Draw fan charts of forecasts after the recent past.

        Args:
            X: Frame up to now; None is the training data.
            forecasts: What `forecast` returned for it; None forecasts here.
            series: Which series; default is the first of a long frame, all of a joint one.
            levels: Shares of the paths that the bands hold.
            actual: Frame of what came, laid out like X, where it is known.
            path: File to write (.png, .pdf, .svg).
            options: As of `forecast`.

        Returns:
            A matplotlib figure.

        Raises:
            InputError: if there is no such series.
        """
        from scidiffusion.timeseries.plots import plot_fan

        self._check_fitted()
        future, static = options.get("future"), options.get("static")
        pasts = self._memory
        if X is not None:
            pasts, _ = read_like(X, self.layout_, future=future, static=static)
        item, rows = _chosen(pasts, series)
        past = pasts[item]
        named = {}
        if actual is not None:
            came, _ = read_like(actual, self.layout_, static=static)
            named = {other.item_id: other for other in came}
        if forecasts is None:
            forecasts = self.forecast(X, **options)
        drawn = {forecast.item_id: forecast for forecast in forecasts}.get(past.item_id)
        if drawn is None:
            raise InputError(f"the forecasts have no series {past.item_id!r}: they are of others")
        truth = None
        if past.item_id in named:
            truth = _aligned(named[past.item_id], drawn)[:, rows]
        history = max(4 * self.prediction_length, 20)
        with quiet_business_days():
            return plot_fan(
                frame_of(past).iloc[-history:, rows],
                drawn.samples[:, :, rows],
                drawn.index,
                [past.names[row] for row in rows],
                actual=truth,
                levels=tuple(levels),
                history=history,
                path=path,
            )

    # -- backtest --------------------------------------------------------------------------------

    def backtest(
        self,
        X: pd.DataFrame | pd.Series,
        windows: int = 5,
        *,
        static: StaticSource = None,
        num_samples: int | None = None,
        num_steps: int | None = None,
        random_state: int | None = None,
        show: bool = True,
    ) -> Backtest:
        """Fit on X without its last horizons, forecast them from their origins, and score.

        This forecaster stays as it is: what is scored is a copy that has seen nothing of the
        windows. It is fitted once, on what precedes the first of them.

        Args:
            X: Frame of the whole history.
            windows: Number of windows of H steps at the end.
            static: As of `fit`.
            num_samples: Paths.
            num_steps: Network evaluations.
            random_state: Seed; default that of the constructor.
            show: Print the scores beside those of the floors.

        Raises:
            DataError: if a series is too short; the message says how long it must be.
        """
        self._check_options()
        options = self._draws(num_samples, num_steps)
        seed = check_seed(self.random_state if random_state is None else random_state)
        series, layout = self._read(X, static)
        before, pasts, observed = split_backtest(series, self.prediction_length, windows)
        copy = type(self)(**self.get_params(deep=False))
        copy._fit_series(before, layout, seed)
        with (
            quiet_business_days(),
            progress_bar(len(pasts), enabled=self.progress, unit="windows") as advance,
        ):
            result = run_backtest(
                copy.model_, pasts, observed, windows, seed=seed, progress=advance, **options
            )
        if show:
            result.show()
        return result


def _chosen(items: SeriesSet, series: Any) -> tuple[int, list[int]]:
    """Return the item of a series, and which of its rows are meant; default all of the first.

    Raises:
        InputError: if there is none of the name.
    """
    if series is None:
        return 0, list(range(items.dim))
    name = str(series)
    names = [item.item_id for item in items]
    if name in names:
        return names.index(name), list(range(items.dim))
    for place, item in enumerate(items):
        if name in item.names:
            return place, [item.names.index(name)]
    known = names if len(names) > 1 else items[0].names
    raise InputError(f"there is no series {name!r}; there are {', '.join(known[:8])}")


def _aligned(item: Series, forecast: Forecast) -> NDArray[np.float64]:
    """Values of the item over the steps of the forecast, (H, D), NaN where there are none."""
    values: NDArray[np.float64] = frame_of(item).reindex(forecast.index).to_numpy()
    return values
