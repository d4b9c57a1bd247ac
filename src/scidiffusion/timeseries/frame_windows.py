"""Gaps, new windows and densities of frames: what else the method of whole windows answers.

Each is asked of a frame laid out like the fitted one; forecasts are in
`scidiffusion.timeseries.forecaster`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.errors import InputError
from scidiffusion.estimator import check_count, check_positive, check_seed
from scidiffusion.progress import progress_bar
from scidiffusion.timeseries.forecasts import Forecast, ForecastSet
from scidiffusion.timeseries.frame_estimator import FrameEstimator
from scidiffusion.timeseries.frequency import quiet_business_days
from scidiffusion.timeseries.layout import FrameLayout
from scidiffusion.timeseries.series import Series, SeriesSet

__all__ = ["WindowEstimator", "frame_of"]


class WindowEstimator(FrameEstimator):
    """Fills gaps, draws new windows and weighs observed ones; see the module."""

    def impute(
        self,
        X: pd.DataFrame | pd.Series,
        *,
        static: pd.DataFrame | None = None,
        num_samples: int | None = None,
        num_steps: int | None = None,
        draw: int | None = None,
        random_state: int | None = None,
    ) -> pd.DataFrame:
        """Fill missing values, inside and at the ends of the series, and missing rows.

        Args:
            X: Frame with gaps.
            static: As of `fit`, where that had it.
            num_samples: Paths that the filling is computed from.
            num_steps: Network evaluations.
            draw: Number of the path that is filled in; None fills in the median of the paths.
            random_state: Seed.

        Returns:
            The columns of values of X, a row a step in order of time, observed values unchanged.

        Raises:
            InputError: if there is no such path.
        """
        count = self._draws(num_samples, num_steps)["num_samples"]
        if draw is not None and check_count(draw, "draw") >= count:
            raise InputError(f"draw must be one of the paths, 0 to {count - 1}; got {draw}")
        paths, series, layout = self._impute(X, static, num_samples, num_steps, random_state)
        filled = [
            Forecast(
                item.item_id,
                item.names,
                item.start,
                (np.median(drawn, axis=0) if draw is None else drawn[draw])[None],
            )
            for item, drawn in zip(series, paths, strict=True)
        ]
        return ForecastSet(filled, layout).mean_frame()

    def impute_samples(
        self,
        X: pd.DataFrame | pd.Series,
        *,
        static: pd.DataFrame | None = None,
        num_samples: int | None = None,
        num_steps: int | None = None,
        random_state: int | None = None,
    ) -> tuple[list[NDArray[np.float64]], SeriesSet]:
        """Draw the gaps of X: one (S, T, D) array an item, and the items.

        Raises:
            ConfigError: if the method cannot fill gaps.
            DataError: if the frame does not fit the model.
        """
        return self._impute(X, static, num_samples, num_steps, random_state)[:2]

    def _impute(
        self,
        data: pd.DataFrame | pd.Series,
        static: pd.DataFrame | None,
        num_samples: int | None,
        num_steps: int | None,
        random_state: int | None,
    ) -> tuple[list[NDArray[np.float64]], SeriesSet, FrameLayout]:
        self._check_fitted()
        model = self._window_model("impute")
        options = self._draws(num_samples, num_steps)
        series, layout = self._series_of(data, static=static, whole=True)
        with (
            quiet_business_days(),
            progress_bar(len(series), enabled=self.progress, unit="series") as advance,
        ):
            paths = model.impute(
                list(series), seed=self._next_seed(random_state), progress=advance, **options
            )
        return paths, series, layout

    def sample(
        self,
        n: int = 1,
        X: pd.DataFrame | pd.Series | None = None,
        *,
        static: pd.DataFrame | None = None,
        num_steps: int | None = None,
        random_state: int | None = None,
    ) -> list[pd.DataFrame]:
        """Draw n new windows, at the dates and the level of random windows, unseen otherwise.

        Args:
            n: Number of windows.
            X: Frame whose calendar, covariates and levels are used; None is the training data.
            static: As of `fit`, where that had it.
            num_steps: Network evaluations.
            random_state: Seed.

        Returns:
            n wide frames of context and horizon together, a column a series.

        Raises:
            ConfigError: if the method cannot do so.
            DataError: if every series is shorter than a window.
        """
        from scidiffusion.timeseries.gaps import generate_windows

        self._check_fitted()
        model = self._window_model("sample")
        steps = self._draws(None, num_steps)["num_steps"]
        series, layout = self._series_of(X, static=static)
        with quiet_business_days():
            drawn = generate_windows(
                model, series, check_count(n), num_steps=steps, seed=self._next_seed(random_state)
            )
            return [
                frame_of(item).set_axis(layout.stamps.stamps(item.index), axis=0) for item in drawn
            ]

    def score_samples(
        self,
        X: pd.DataFrame | pd.Series,
        *,
        static: pd.DataFrame | None = None,
        method: Literal["ode", "elbo"] = "ode",
        steps: int = 20,
        random_state: int | None = None,
    ) -> pd.Series:
        """Log-density (nats) of the last H steps of each series given what comes before.

        Low is unusual: an anomaly score.

        Args:
            X: Frame that ends with the steps in question.
            static: As of `fit`, where that had it.
            method: "ode", or "elbo" for the lower bound.
            steps: Of the solver or of the bound's chain.
            random_state: Seed of probes and noise; default that of the fit.

        Raises:
            DataError: if a value of the last H steps is missing.
        """
        from scidiffusion.timeseries.density import log_prob

        self._check_fitted()
        model = self._window_model("score_samples")
        check_positive(steps, "steps")
        series, layout = self._series_of(X, static=static)
        seed = self.seed_ if random_state is None else check_seed(random_state)
        with quiet_business_days():
            values = log_prob(model, list(series), method=method, steps=steps, seed=seed)
        names = [layout.label(item.item_id) for item in series]
        return pd.Series(values, index=names, name="log_density")


def frame_of(item: Series) -> pd.DataFrame:
    """Return the targets of an item as a wide frame with an index of periods."""
    return pd.DataFrame(item.target.T, index=item.index, columns=list(item.names))
