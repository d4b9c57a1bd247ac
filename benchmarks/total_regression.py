"""How well can the total of all series be forecast by regression on its own past?

    python benchmarks/total_regression.py --data-dir DIR --dataset gefcom2012_load

Point forecasts of the sum of all series over the horizon: a ridge regression of the horizon on the
two days and the two same weekdays before it, and boosted trees on lags and calendar, both fitted
to every origin of the training part. With `--samples`, the file that `timeseries.py
--save-samples` wrote, the median of a model's summed paths is scored in the same way. Scored is
the sum of absolute errors over the sum of values (ND): no probabilistic forecast has a mean
quantile loss far below its own median's, so this says how much is left to gain.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from _scoring import require_xgboost
from _series_data import load_dataset
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV

RESULTS = Path(__file__).resolve().parent / "results"
Array = NDArray[np.float64]
PENALTIES = np.logspace(-3, 4, 15)
TREES = {
    "n_estimators": 300,
    "max_depth": 4,
    "learning_rate": 0.05,
    "subsample": 0.5,
    "colsample_bytree": 0.7,
    "objective": "reg:absoluteerror",
    "n_jobs": 1,
    "random_state": 0,
}


def nd(forecast: Array, observed: Array) -> float:
    """Sum of absolute errors over the sum of absolute values."""
    return float(np.abs(forecast - observed).sum() / np.abs(observed).sum())


def ridge(total: Array, origins: Array, tests: Array, day: int, horizon: int) -> Array:
    """Forecasts (W, H) by ridge regression, all numbers in standard deviations of the total."""
    mean, scale = total[: origins.max() + horizon].mean(), total[: origins.max() + horizon].std()
    level = (total - mean) / scale

    def past(origin: int) -> Array:
        return np.concatenate(
            [level[origin - lag : origin - lag + day] for lag in (day, 2 * day, 7 * day, 14 * day)]
        )

    model = RidgeCV(PENALTIES).fit(
        np.stack([past(o) for o in origins]), np.stack([level[o : o + horizon] for o in origins])
    )
    found: Array = model.predict(np.stack([past(o) for o in tests])) * scale + mean
    return found


def trees(total: Array, origins: Array, tests: Array, day: int, horizon: int) -> Array:
    """Forecasts (W, H) by boosted trees, step by step, as multiples of the last day's mean."""

    def features(origin: int) -> Array:
        steps, last = np.arange(horizon), total[origin - day : origin]
        level = last.mean()
        lags = [total[origin + steps - lag] / level for lag in (day, 2 * day, 7 * day, 14 * day)]
        week = total[origin - 7 * day : origin].mean() / level
        before = total[origin - 2 * day : origin - day].mean() / level
        told = [last[-1] / level, before, week]
        clock = [steps, (origin + steps) % day, (origin + steps) // day % 7]
        return np.stack([*clock, *lags, *(np.full(horizon, value) for value in told)], 1)

    def levels(wanted: Array) -> Array:
        return np.array([total[o - day : o].mean() for o in wanted])[:, None]

    model = require_xgboost().XGBRegressor(**TREES)
    ratio = np.stack([total[o : o + horizon] for o in origins]) / levels(origins)
    model.fit(np.concatenate([features(o) for o in origins]), ratio.ravel())
    found: Array = model.predict(np.concatenate([features(o) for o in tests]))
    return found.reshape(len(tests), horizon) * levels(tests)


def main() -> None:
    """Print and write the figures of one data set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--dataset", default="gefcom2012_load")
    parser.add_argument("--samples", type=Path, nargs="*", default=[], help="paths of models")
    options = parser.parse_args()
    data = load_dataset(options.data_dir, options.dataset)
    if data.univariate:
        raise SystemExit(f"{data.name} has no total: its series are forecast one by one")
    observed = data.observed.sum(2)
    windows = data.test
    train = data.train[0].target.sum(0)
    total = np.concatenate([windows[-1].target.sum(0), observed[-1]])
    day, horizon = data.season, data.horizon
    tests = np.array([item.length for item in windows])
    origins = np.arange(14 * day, len(train) - horizon + 1)
    figures = {
        "same hours of the day before": nd(
            np.stack([total[o - day : o - day + horizon] for o in tests]), observed
        ),
        "ridge regression": nd(ridge(total, origins, tests, day, horizon), observed),
        "boosted trees": nd(trees(total, origins, tests, day, horizon), observed),
    }
    for file in options.samples:
        with np.load(file) as arrays:
            paths = arrays["samples"].sum(-1)
        figures[f"median of {file.stem}"] = nd(np.median(paths, 1), observed)
    for name, value in figures.items():
        print(f"{data.name}, {name:30s} ND of the total {value:.4f}")
    out = RESULTS / f"total_regression_{data.name}.json"
    out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
