"""Exponential smoothing with its form chosen for each series, and what it falls back to."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from _series_data import Array, BenchmarkData, carried
from _series_runs import Clock, Run, by_window


def auto_ets(data: BenchmarkData, seed: int, budget: float, num_samples: int) -> Run:
    """Exponential smoothing, chosen by its AIC, for every series of every window.

    statsforecast's AutoETS where it is installed, else statsmodels's ETSModel over trend, season
    and damping. The budget is shared out evenly: a series whose share is spent tries no further
    candidate. What fails is replaced by the seasonal naive forecast with Gaussian errors, and
    counted in the notes.
    """
    try:
        import statsforecast  # noqa: F401

        fit, package = _statsforecast_ets, "statsforecast"
    except ModuleNotFoundError:
        from scidiffusion._lazy import require

        require("statsmodels.tsa.exponential_smoothing.ets", "report")
        fit, package = _statsmodels_ets, "statsmodels"
    rows = [row for series in data.test for row in series.target]
    rng = np.random.default_rng(seed)
    clock, failures, drawn = Clock(), [], []
    for row in rows:
        history = carried(row)[-max(HISTORY, 10 * data.season) :]
        number = int(rng.integers(2**31))
        try:
            with clock("fit"):
                simulate = fit(history, data.season, budget / len(rows))
            with clock("predict"):
                paths = simulate(data.horizon, num_samples, number)
            if not np.isfinite(paths).all():
                raise ValueError("the sample paths are not finite")
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}"[:200])
            with clock("predict"):
                paths = seasonal_naive(history, data.season, data.horizon, num_samples, number)
        drawn.append(paths)
    notes: dict[str, Any] = {"by": package, "failures": len(failures), "fits": len(rows)}
    if failures:
        notes["first_failure"] = failures[0]
    return Run(by_window(np.stack(drawn), data), clock.costs, notes=notes)


HISTORY = 1000
"""Steps that exponential smoothing looks back: it forgets sooner, and costs grow with them."""

Simulate = Callable[[int, int, int], Array]


def _statsforecast_ets(history: Array, season: int, budget: float) -> Simulate:
    from statsforecast.models import AutoETS

    model = AutoETS(season_length=season).fit(history)
    return lambda horizon, count, seed: np.asarray(model.simulate(horizon, count, seed=seed))


def _statsmodels_ets(history: Array, season: int, budget: float) -> Simulate:
    from statsmodels.tsa.exponential_smoothing.ets import ETSModel

    seasonal = season > 1 and len(history) >= 2 * season + 5
    kinds: list[str | None] = [None, "add"] if seasonal else [None]
    if seasonal and history.min() > 0:
        kinds.append("mul")
    begin, best, reason = time.perf_counter(), None, "no candidate was tried"
    # The seasonal ones first: a budget that ends early has tried what matters most.
    for kind in reversed(kinds):
        for trend, damped in ((None, False), ("add", True), ("add", False)):
            if best is not None and time.perf_counter() - begin > budget:
                break
            model = ETSModel(
                history,
                error="mul" if kind == "mul" else "add",
                trend=trend,
                damped_trend=damped,
                seasonal=kind,
                seasonal_periods=season if kind else None,
                initialization_method="heuristic" if len(history) >= 10 else "estimated",
            )
            try:
                found = model.fit(disp=False, maxiter=200)
            except (ValueError, np.linalg.LinAlgError) as error:
                reason = str(error)
                continue
            if np.isfinite(found.aic) and (best is None or found.aic < best.aic):
                best = found
    if best is None:
        raise ValueError(reason)
    chosen = best

    def simulate(horizon: int, count: int, seed: int) -> Array:
        # Errors of our own: the argument for the seed has changed its name between versions.
        normal = np.random.default_rng(seed).normal(size=(horizon, count))
        errors = normal * np.sqrt(chosen.scale)
        paths = chosen.simulate(horizon, anchor="end", repetitions=count, random_errors=errors)
        return np.asarray(paths).reshape(horizon, count).T

    return simulate


def seasonal_naive(history: Array, season: int, horizon: int, count: int, seed: int) -> Array:
    """(S, H) last season repeated, with Gaussian errors whose variance grows by the season."""
    ahead = np.arange(horizon)
    errors = history[season:] - history[:-season]
    scale = np.sqrt(np.square(errors).mean()) if len(errors) else 0.0
    spread = scale * np.sqrt(ahead // season + 1)
    noise = np.random.default_rng(seed).normal(size=(count, horizon))
    return history[len(history) - season + ahead % season] + spread * noise
