"""Forecasts from pandas frames: `fit`, `predict`, `plot`, `impute`, `sample`, `backtest`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from torch import Tensor

from scidiffusion.errors import ConditionError, InputError
from scidiffusion.estimator import GenerativeEstimator, check_count, check_seed
from scidiffusion.persistence import SavedModel
from scidiffusion.progress import sampling_progress
from scidiffusion.timeseries.backtest import Backtest, run_backtest, split_backtest
from scidiffusion.timeseries.fitting import check_training, fit_series, make_model
from scidiffusion.timeseries.forecasts import Forecast, ForecastSet
from scidiffusion.timeseries.frames import read_frame, read_like
from scidiffusion.timeseries.frequency import normalise_freq
from scidiffusion.timeseries.layout import FrameLayout
from scidiffusion.timeseries.series import Series, SeriesSet
from scidiffusion.timeseries.wishes import Wishes

Guidance = Wishes | Mapping[str, Wishes]
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class DiffusionForecaster(GenerativeEstimator):
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
        multivariate: Whether series are forecast jointly; None: those of a wide frame are.
        method: "window" (about ten network evaluations a forecast) or "timegrad".
        budget: Training time at most: seconds or a text such as "2min"; None is no limit.
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
        model_: The fitted method.
        training_: `scidiffusion.training.TrainResult` of the fit.

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
        target: str | Sequence[str] | None = None,
        time: str | None = None,
        item_id: str | None = None,
        known: Sequence[str] = (),
        past: Sequence[str] = (),
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

    # -- fitting ---------------------------------------------------------------------------------

    def fit(
        self,
        X: pd.DataFrame | pd.Series,
        y: Any = None,
        *,
        static: pd.DataFrame | None = None,
        checkpoint_dir: str | Path | None = None,
        resume: bool = False,
    ) -> Self:
        """Learn the series of a frame.

        Args:
            X: Wide or long frame; see the class.
            y: Not used; it is here for scikit-learn.
            static: Frame indexed by series of what does not change (numbers, texts).
            checkpoint_dir: Folder for a checkpoint of the training, written every minute.
            resume: Go on from the checkpoint that is there.

        Raises:
            DataError: if the frame cannot be used; the message names series and time.
            ConfigError: if an option is impossible.
        """
        # Options first: a frame may take long to read.
        make_model(self.method, self.prediction_length, self.freq or "D", self._options())
        series, layout = self._read(X, static)
        seed = check_seed(self.random_state)
        self._fit_series(series, seed, checkpoint_dir, resume)
        self.layout_ = layout
        return self

    def _read(
        self, X: pd.DataFrame | pd.Series, static: pd.DataFrame | None
    ) -> tuple[SeriesSet, FrameLayout]:
        return read_frame(
            X,
            target=self.target,
            time=self.time,
            item_id=self.item_id,
            known=self.known,
            past=self.past,
            static=static,
            freq=self.freq,
            multivariate=self.multivariate,
        )

    def _options(self) -> dict[str, Any]:
        return {**(self.options or {}), "device": self.device}

    def _fit_series(
        self, series: SeriesSet, seed: int, checkpoint_dir: str | Path | None, resume: bool
    ) -> None:
        check_training(series, self.prediction_length)
        self.model_ = fit_series(
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
        self.freq_ = series.freq
        self.training_ = self.model_.result
        self.seed_, self._calls = seed, 0

    # -- forecasts -------------------------------------------------------------------------------

    def forecast(
        self,
        X: pd.DataFrame | pd.Series,
        *,
        future: pd.DataFrame | None = None,
        num_samples: int | None = None,
        num_steps: int | None = None,
        guidance: Guidance | None = None,
        random_state: int | None = None,
    ) -> ForecastSet:
        """Draw joint paths of what comes after the last value of each series.

        Args:
            X: Frame up to now, laid out as in `fit`; series that `fit` did not see are welcome.
            future: Frame of the covariates known in advance over the horizon, where X does not
                hold them itself.
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
        series = read_like(X, self.layout_, future=future, horizon=self.prediction_length)
        items = list(series)
        options: dict[str, Any] = {}
        wishes = self._wishes(items, guidance)
        if wishes is not None:
            options["wishes"] = wishes
        with sampling_progress(len(items), enabled=self.progress, unit="series") as advance:
            drawn = self.model_.forecast(
                items,
                num_samples=self.num_samples if num_samples is None else num_samples,
                num_steps=self.num_steps if num_steps is None else num_steps,
                seed=self._next_seed(random_state),
                progress=advance,
                **options,
            )
        return ForecastSet(
            [
                Forecast(item.item_id, item.names, item.start + item.length, paths)
                for item, paths in zip(items, drawn, strict=True)
            ],
            self.layout_,
        )

    def predict(
        self,
        X: pd.DataFrame | pd.Series,
        *,
        quantiles: Sequence[float] | None = QUANTILES,
        **options: Any,
    ) -> pd.DataFrame:
        """Forecast, as a frame laid out like X.

        Args:
            X: Frame up to now.
            quantiles: Levels that are returned; None returns the paths themselves.
            options: As of `forecast`.
        """
        forecasts = self.forecast(X, **options)
        if quantiles is None:
            return forecasts.samples_frame()
        return forecasts.to_frame(quantiles=tuple(quantiles))

    def plot(
        self,
        X: pd.DataFrame | pd.Series,
        forecasts: ForecastSet | None = None,
        *,
        series: str | None = None,
        levels: Sequence[float] = (0.5, 0.9),
        actual: pd.DataFrame | None = None,
        path: str | Path | None = None,
        **options: Any,
    ) -> Any:
        """Draw fan charts of forecasts after the recent past.

        Args:
            X: Frame up to now.
            forecasts: What `forecast` returned; None forecasts here.
            series: Which item of a long frame; default the first.
            levels: Shares of the paths that the bands hold.
            actual: Frame of what came, laid out like X, where it is known.
            path: File to write (.png, .pdf, .svg).
            options: As of `forecast`.

        Returns:
            A matplotlib figure.
        """
        from scidiffusion.timeseries.plots import plot_fan

        self._check_fitted()
        if forecasts is None:
            forecasts = self.forecast(X, **options)
        place = _place([item.item_id for item in forecasts], series)
        chosen = forecasts[place]
        past = list(read_like(X, self.layout_, future=options.get("future")))[place]
        history = min(past.length, max(4 * self.prediction_length, 20))
        truth = None
        if actual is not None:
            came = {item.item_id: item for item in read_like(actual, self.layout_)}
            if chosen.item_id in came:
                truth = _aligned(came[chosen.item_id], chosen)
        return plot_fan(
            _frame_of(past)[-history:],
            chosen.samples,
            chosen.index,
            list(chosen.names),
            actual=truth,
            levels=tuple(levels),
            path=path,
        )

    # -- gaps, new series, densities -------------------------------------------------------------

    def impute(
        self,
        X: pd.DataFrame | pd.Series,
        *,
        num_samples: int | None = None,
        num_steps: int | None = None,
        draw: int | None = None,
        random_state: int | None = None,
    ) -> pd.DataFrame:
        """Fill missing values, inside and at the ends of the series.

        Args:
            X: Frame with gaps.
            num_samples: Paths that the filling is computed from.
            num_steps: Network evaluations.
            draw: Number of the path that is filled in; None fills in the median of the paths.
            random_state: Seed.

        Returns:
            A frame laid out like X, observed values unchanged.
        """
        paths, series = self.impute_samples(
            X, num_samples=num_samples, num_steps=num_steps, random_state=random_state
        )
        filled = []
        for item, drawn in zip(series, paths, strict=True):
            if draw is not None and not 0 <= draw < len(drawn):
                raise InputError(f"draw must be one of the {len(drawn)} paths, got {draw}")
            values = np.median(drawn, axis=0) if draw is None else drawn[draw]
            filled.append(Forecast(item.item_id, item.names, item.start, values[None]))
        return ForecastSet(filled, self.layout_).mean_frame()

    def impute_samples(
        self,
        X: pd.DataFrame | pd.Series,
        *,
        num_samples: int | None = None,
        num_steps: int | None = None,
        random_state: int | None = None,
    ) -> tuple[list[Any], SeriesSet]:
        """Draw the gaps of X: one (S, T, D) array an item, and the items.

        Raises:
            ConfigError: if the method cannot fill gaps.
        """
        self._check_fitted()
        model = self._window_model("impute")
        series = read_like(X, self.layout_)
        with sampling_progress(len(series), enabled=self.progress, unit="series") as advance:
            paths = model.impute(
                list(series),
                self.num_samples if num_samples is None else num_samples,
                self._next_seed(random_state),
                num_steps=self.num_steps if num_steps is None else num_steps,
                progress=advance,
            )
        return paths, series

    def sample(  # type: ignore[override]
        self, n: int, X: pd.DataFrame | pd.Series, *, random_state: int | None = None
    ) -> list[pd.DataFrame]:
        """Draw n new windows, at the dates and the level of random windows of X, unseen otherwise.

        Args:
            n: Number of windows.
            X: Frame whose calendar, covariates and levels are used.
            random_state: Seed.

        Returns:
            n wide frames of context and horizon together.
        """
        from scidiffusion.timeseries.gaps import generate_windows

        self._check_fitted()
        model = self._window_model("sample")
        drawn = generate_windows(
            model,
            read_like(X, self.layout_),
            check_count(n),
            num_steps=self.num_steps,
            seed=self._next_seed(random_state),
        )
        return [_frame_of(item) for item in drawn]

    def score_samples(
        self,
        X: pd.DataFrame | pd.Series,
        *,
        method: Literal["ode", "elbo"] = "ode",
        steps: int = 20,
        random_state: int | None = None,
    ) -> pd.Series:
        """Log-density (nats) of the last H steps of each series given what comes before.

        Low is unusual: an anomaly score.

        Args:
            X: Frame that ends with the steps in question.
            method: "ode", or "elbo" for the lower bound.
            steps: Of the solver or of the bound's chain.
            random_state: Seed of probes and noise.
        """
        from scidiffusion.timeseries.density import log_prob

        self._check_fitted()
        series = read_like(X, self.layout_)
        seed = self.seed_ if random_state is None else check_seed(random_state)
        values = log_prob(
            self._window_model("score_samples"),
            list(series),
            method=method,
            steps=steps,
            seed=seed,
        )
        return pd.Series(values, index=[item.item_id for item in series], name="log_density")

    def _window_model(self, what: str) -> Any:
        from scidiffusion.timeseries.window_model import WindowModel

        if not isinstance(self.model_, WindowModel):
            raise InputError(f"{what} needs method='window'; this model is {self.method!r}")
        return self.model_

    # -- backtest --------------------------------------------------------------------------------

    def backtest(
        self,
        X: pd.DataFrame | pd.Series,
        windows: int = 5,
        *,
        static: pd.DataFrame | None = None,
        num_samples: int | None = None,
        num_steps: int | None = None,
        random_state: int | None = None,
        show: bool = True,
    ) -> Backtest:
        """Fit on X without its last horizons, forecast them from their origins, and score.

        This forecaster stays as it is: what is scored is a copy that has seen nothing of the
        windows.

        Args:
            X: Frame of the whole history.
            windows: Number of windows of H steps at the end.
            static: As of `fit`.
            num_samples: Paths.
            num_steps: Network evaluations.
            random_state: Seed; default that of the constructor.
            show: Print the scores beside those of the floors.
        """
        series, layout = self._read(X, static)
        before, pasts, observed = split_backtest(series, self.prediction_length, windows)
        copy = type(self)(**self.get_params(deep=False))
        seed = check_seed(self.random_state if random_state is None else random_state)
        copy._fit_series(before, seed, None, False)
        with sampling_progress(len(pasts), enabled=self.progress, unit="windows") as advance:
            result = run_backtest(
                copy.model_,
                pasts,
                observed,
                windows,
                num_samples=self.num_samples if num_samples is None else num_samples,
                num_steps=self.num_steps if num_steps is None else num_steps,
                seed=seed,
                progress=advance,
            )
        if show:
            from rich.console import Console

            Console().print(result.render())
        return result

    # -- persistence -----------------------------------------------------------------------------

    def _state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, dict[str, Any]]]:
        config, tensors = self.model_.state()
        about = {
            "seed": self.seed_,
            "calls": self._calls,
            "freq": self.freq_,
            "model": config,
            "options": dict(self.model_.options),
        }
        return about, tensors, {"layout.json": self.layout_.to_json()}

    def _restore(self, saved: SavedModel) -> None:
        config = saved.config
        options = {**config["options"], "device": self.device}
        model = make_model(self.method, self.prediction_length, config["freq"], options)
        model.restore(config["model"], saved.tensors)
        self.model_, self.freq_ = model, normalise_freq(config["freq"])
        self.layout_ = FrameLayout.from_json(saved.extra["layout.json"])
        self.training_ = None
        self.seed_, self._calls = int(config["seed"]), int(config["calls"])

    def _wishes(
        self, items: Sequence[Series], guidance: Guidance | None
    ) -> list[Wishes | None] | None:
        if guidance is None:
            return None
        self._window_model("guidance")
        if isinstance(guidance, Wishes):
            return [guidance] * len(items)
        unknown = sorted(set(guidance) - {item.item_id for item in items})
        if unknown:
            raise ConditionError(
                f"guidance names the series {unknown[0]!r}, which X does not have"
            )
        return [guidance.get(item.item_id) for item in items]


def _place(names: Sequence[str], series: str | None) -> int:
    if series is None:
        return 0
    if series not in names:
        raise InputError(f"there is no series {series!r}; there are {', '.join(names[:8])}")
    return list(names).index(series)


def _frame_of(item: Series) -> pd.DataFrame:
    return pd.DataFrame(item.target.T, index=item.index, columns=list(item.names))


def _aligned(item: Series, forecast: Forecast) -> np.ndarray:
    """Values of the item over the steps of the forecast, (H, D), NaN where there are none."""
    frame = _frame_of(item)
    values: np.ndarray = frame.reindex(forecast.index).to_numpy()
    return values
