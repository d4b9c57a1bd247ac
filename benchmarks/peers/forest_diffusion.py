"""ForestDiffusion: flow matching with XGBoost, one model a noise level and class.

Its defaults, 50 noise levels and 100 noisy copies of every row, take hours on tables of tens of
thousands of rows. A trial with few trees measures the cost; then as many copies are taken as fit
the budget, and fewer noise levels where not even one copy does.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from ForestDiffusion import ForestDiffusionModel
from numpy.typing import NDArray

if TYPE_CHECKING:
    from worker import Job

LEVELS, COPIES, TREES = 50, 100, 100
FEWEST_LEVELS = 5
TRIAL_TREES, TRIAL_LEVELS = 5, 2


class Encoding:
    """Between a table and the array of numbers that ForestDiffusion takes.

    Args:
        train: The training rows.
        job: The job.
    """

    def __init__(self, train: pd.DataFrame, job: Job) -> None:
        self.names = list(job.kinds)
        self.dates = set(job.of_kind("datetime"))
        self.levels: dict[str, list[Any]] = {}
        for name in job.of_kind("categorical"):
            self.levels[name] = list(pd.factorize(train[name], use_na_sentinel=False)[1])
        # A binary target gives models of their own to the rows of each class.
        self.label = job.target if job.task == "binclass" else None
        features = [name for name in self.names if name != self.label]
        # It mistakes the one-hot columns of variable 11 for some of variable 1: keep the
        # categorical ones within the first ten, or else behind them.
        discrete = [name for name in features if name in self.levels]
        others = [name for name in features if name not in self.levels]
        features = discrete + others if len(discrete) <= 10 else others + discrete
        sizes = {index: len(self.levels.get(name, ())) for index, name in enumerate(features)}
        whole = {*job.integers, *self.dates}
        self.features = features
        self.options = {
            "cat_indexes": [index for index, size in sizes.items() if size > 2],
            "bin_indexes": [index for index, size in sizes.items() if 0 < size <= 2],
            "int_indexes": [i for i, name in enumerate(features) if name in whole],
        }

    def encode(self, table: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[Any] | None]:
        """Features and label codes."""
        columns = {}
        for name in self.names:
            series = table[name]
            if name in self.levels:
                codes = pd.Categorical(series, categories=_present(self.levels[name])).codes
                columns[name] = np.where(codes < 0, len(_present(self.levels[name])), codes)
            elif name in self.dates:
                days = (pd.to_datetime(series) - pd.Timestamp(0)).dt.days
                columns[name] = days.to_numpy(float)
            else:
                columns[name] = series.to_numpy(float)
        features = np.column_stack([columns[name] for name in self.features]).astype(float)
        return features, None if self.label is None else columns[self.label]

    def decode(self, array: NDArray[np.float64]) -> pd.DataFrame:
        """The table of generated rows, the label last."""
        names = [*self.features, *([] if self.label is None else [self.label])]
        columns: dict[str, Any] = {}
        for name, values in zip(names, array.T, strict=True):
            if name in self.levels:
                levels = np.array([*_present(self.levels[name]), None], dtype=object)
                columns[name] = levels[np.rint(values).astype(int)]
            elif name in self.dates:
                columns[name] = pd.Timestamp(0) + pd.to_timedelta(np.rint(values), unit="D")
            else:
                columns[name] = values
        return pd.DataFrame(columns)[self.names]


def _present(levels: list[Any]) -> list[Any]:
    return [level for level in levels if not pd.isna(level)]


def _model(train: pd.DataFrame, job: Job, **options: Any) -> tuple[Any, Encoding]:
    encoding = Encoding(train, job)
    features, label = encoding.encode(train)
    model = ForestDiffusionModel(
        features,
        label_y=label,
        **encoding.options,
        n_jobs=job.threads,
        gpu_hist=job.device == "cuda",
        seed=job.seed,
        **options,
    )
    return model, encoding


def prepare(train: pd.DataFrame, job: Job) -> None:
    """Choose the number of noisy copies, and of noise levels."""
    costs = []
    for copies in (1, 4):
        begin = time.perf_counter()
        _model(train, job, n_t=TRIAL_LEVELS, duplicate_K=copies, n_estimators=TRIAL_TREES)
        seconds = (time.perf_counter() - begin) / TRIAL_LEVELS
        costs.append(seconds * TREES / TRIAL_TREES)
    each = max((costs[1] - costs[0]) / 3, 1e-6)
    fixed = max(costs[0] - each, 0.0)
    levels = int(np.clip(job.budget / (fixed + each), FEWEST_LEVELS, LEVELS))
    copies = int(np.clip((job.budget / levels - fixed) / each, 1, COPIES))
    job.settings = {"n_t": levels, "duplicate_K": copies} | job.settings


def fit(train: pd.DataFrame, job: Job) -> Any:
    """Fit with the settings chosen."""
    return _model(train, job, **job.settings)


def sample(model: Any, rows: int, job: Job) -> pd.DataFrame:
    """Draw rows."""
    forest, encoding = model
    return encoding.decode(forest.generate(batch_size=rows))
