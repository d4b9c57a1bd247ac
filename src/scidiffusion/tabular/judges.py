"""Judges of a synthetic table: a classifier, a model trained on it, and a search for copies.

Each judge is a gradient-boosted tree ensemble or a distance, on raw columns, levels as levels:
strong enough to see what a plot does not show, with fixed settings and no tuning.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from scidiffusion.tabular.schema import ColumnSchema
from scidiffusion.tabular.views import TableView

__all__ = [
    "classifier_two_sample_score",
    "comparable_numbers",
    "copy_share",
    "is_classification",
    "ml_efficacy",
    "nearest_share",
]

# Fewer, larger steps than scikit-learn's defaults: as sharp on tables, in two thirds of the time.
TREES: dict[str, Any] = {"max_iter": 60, "learning_rate": 0.15, "early_stopping": False}
# The trees take at most this many levels of a column; rarer ones are one level together.
MAX_LEVELS = 250
# Multiplications per distance search: about a second.
DISTANCE_WORK = 600_000_000


def _one_thread() -> threadpool_limits:
    # The judged tables are small: threads gain nothing, and on a busy machine they wait in a spin.
    return threadpool_limits(limits=1, user_api="openmp")


def classifier_two_sample_score(
    real: TableView, synthetic: TableView, *, rows: int, rng: np.random.Generator
) -> float:
    """How well a classifier fails to tell synthetic rows from real ones.

    Args:
        real: Real rows.
        synthetic: Synthetic rows.
        rows: At most this many of each are used, always as many of the one as of the other.
        rng: Draws rows and folds.

    Returns:
        ``2 (1 - max(AUC, 1/2))`` of a three-fold cross-validated judge: 1 if it does no better
        than chance, 0 if it is always right.
    """
    rows = min(rows, len(real), len(synthetic))
    if rows < 6:
        return float("nan")
    features, discrete = _features(real.sample(rows, rng), synthetic.sample(rows, rng))
    labels = np.repeat([0, 1], rows)
    seed = int(rng.integers(2**31))
    areas = []
    for train, test in StratifiedKFold(3, shuffle=True, random_state=seed).split(features, labels):
        judge = HistGradientBoostingClassifier(
            categorical_features=discrete, random_state=seed, **TREES
        )
        with _one_thread():
            judge.fit(features[train], labels[train])
            score = judge.predict_proba(features[test])[:, 1]
        areas.append(roc_auc_score(labels[test], score))
    return float(2 * (1 - max(np.mean(areas), 0.5)))


def _features(
    *views: TableView, drop: str | None = None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The rows of several views below each other, and which columns are levels."""
    blocks = []
    numerical = [c.name != drop for c in views[0].numerical]
    blocks.append(np.concatenate([view.numbers for view in views])[:, numerical])
    discrete = [c.name != drop for c in views[0].discrete]
    codes = np.concatenate([view.codes for view in views])[:, discrete]
    for index in range(codes.shape[1]):
        levels, inverse, counts = np.unique(
            codes[:, index], return_inverse=True, return_counts=True
        )
        rank = np.empty(len(levels), dtype=np.int64)
        rank[np.argsort(-counts, kind="stable")] = np.arange(len(levels))
        codes[:, index] = np.minimum(rank, MAX_LEVELS)[inverse]
    blocks.append(codes.astype(np.float64))
    mask = np.repeat([False, True], [blocks[0].shape[1], codes.shape[1]])
    return np.concatenate(blocks, axis=1), mask


def is_classification(column: ColumnSchema, view: TableView) -> bool:
    """Whether predicting a column is a classification: levels, or numbers of two values.

    Args:
        column: The target.
        view: The real table.
    """
    if column.kind.is_discrete:
        return True
    values = view.numbers[:, view.numerical.index(column)]
    return len(np.unique(values[np.isfinite(values)])) <= 2


def _target(view: TableView, column: ColumnSchema) -> NDArray[np.float64]:
    """Target values, NaN where missing or unknown."""
    if not column.kind.is_discrete:
        return view.numbers[:, view.numerical.index(column)]
    codes = view.codes[:, view.discrete.index(column)]
    return np.where(codes < len(column.categories), codes, np.nan)


def ml_efficacy(
    train: TableView,
    test: TableView,
    target: ColumnSchema,
    *,
    classify: bool,
    rows: int,
    rng: np.random.Generator,
) -> float:
    """What a model learns from a table, measured on real rows.

    Args:
        train: Rows to train on, synthetic or real.
        test: Real rows to predict.
        target: The column to predict.
        classify: Whether it is a class, see :func:`is_classification`.
        rows: At most this many rows are trained on.
        rng: Draws them.

    Returns:
        Area under the ROC curve (mean over the classes, one against the rest), or R2; NaN if the
        test rows hold a single class.
    """
    train = train.sample(rows, rng)
    y_train, y_test = _target(train, target), _target(test, target)
    features, discrete = _features(train, test, drop=target.name)
    x_train, x_test = features[: len(train)], features[len(train) :]
    known_train, known_test = np.isfinite(y_train), np.isfinite(y_test)
    x_train, y_train = x_train[known_train], y_train[known_train]
    x_test, y_test = x_test[known_test], y_test[known_test]
    options: dict[str, Any] = {
        "categorical_features": discrete,
        "random_state": int(rng.integers(2**31)),
        **TREES,
    }
    if not classify:
        if len(y_train) < 2 or len(y_test) < 2:
            return float("nan")
        regressor = HistGradientBoostingRegressor(**options)
        with _one_thread():
            predicted = regressor.fit(x_train, y_train).predict(x_test)
        return float(r2_score(y_test, predicted))
    classes = [k for k in np.unique(y_test) if 0 < (y_test == k).sum() < len(y_test)]
    if not classes:
        return float("nan")
    if len(np.unique(y_train)) < 2:
        return 0.5
    model = HistGradientBoostingClassifier(**options)
    with _one_thread():
        probabilities = model.fit(x_train, y_train).predict_proba(x_test)
    if len(classes) == 2:
        # Of two classes one curve says all.
        classes = classes[1:]
    areas = []
    for k in classes:
        found = np.flatnonzero(model.classes_ == k)
        score = probabilities[:, found[0]] if len(found) else np.zeros(len(x_test))
        areas.append(roc_auc_score(y_test == k, score))
    return float(np.mean(areas))


def nearest_share(
    train: TableView, test: TableView, synthetic: TableView, rng: np.random.Generator
) -> float:
    """Share of synthetic rows whose nearest real row is a training row and not a test row.

    Distances are L1: numbers in units of the training range (missing at the median), two for a
    level that differs. Rows equally near to both count half.

    Args:
        train: Every training row, for a copied row to be found.
        test: Every test row.
        synthetic: Synthetic rows, a sample of which is looked up.
        rng: Draws the sample.

    Returns:
        The share; a generator that does not copy gives ``len(train) / (len(train) + len(test))``.
    """
    width = synthetic.invalid.shape[1]
    affordable = DISTANCE_WORK // ((len(train) + len(test)) * width)
    synthetic = synthetic.sample(int(np.clip(affordable, 200, 2000)), rng)
    low, high = _range(train.numbers)
    span = np.where(high > low, high - low, 1.0)
    middle = np.array([np.median(x[np.isfinite(x)]) for x in train.numbers.T])
    near = []
    scaled = [
        (np.where(np.isfinite(v.numbers), v.numbers, middle) - low) / span
        for v in (train, test, synthetic)
    ]
    for start in range(0, len(synthetic), 100):
        rows = slice(start, start + 100)
        distances = []
        for view, numbers in zip((train, test), scaled[:2], strict=True):
            distance = np.zeros((len(scaled[2][rows]), len(view)))
            if numbers.shape[1]:
                distance += cdist(scaled[2][rows], numbers, "cityblock")
            if view.codes.shape[1]:
                differ = cdist(synthetic.codes[rows], view.codes, "hamming")
                distance += 2 * view.codes.shape[1] * differ
            distances.append(distance.min(axis=1))
        near.append(np.where(distances[0] < distances[1], 1.0, 0.0))
        near[-1][np.isclose(distances[0], distances[1], rtol=0, atol=1e-9)] = 0.5
    return float(np.concatenate(near).mean())


def _range(numbers: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    filled = np.where(np.isfinite(numbers), numbers, np.inf)
    low = filled.min(axis=0)
    return low, np.where(np.isfinite(numbers), numbers, -np.inf).max(axis=0)


def copy_share(train: TableView, other: TableView) -> float:
    """Share of rows that are exact copies of a training row.

    Args:
        train: Training rows.
        other: Rows to look up; numbers without a fixed number of decimals are compared to a
            millionth of the column's range.

    Returns:
        Share in [0, 1].
    """
    known = _row_keys(train)
    return float(np.isin(_row_keys(other), known).mean())


def comparable_numbers(view: TableView) -> NDArray[np.float64]:
    """Numbers that are equal exactly where the table would write them the same.

    Args:
        view: Any table.

    Returns:
        Shape (n, d_num): rounded to the column's decimals; a column without a fixed number of them
        is counted in millionths of its range. NaN where missing.
    """
    numbers = view.numbers.copy()
    for index, column in enumerate(view.numerical):
        assert column.minimum is not None
        assert column.maximum is not None
        if column.decimals is None and isinstance(column.minimum, float):
            span = max(column.maximum - column.minimum, 1e-300)
            numbers[:, index] = np.rint((numbers[:, index] - column.minimum) / span * 1e6)
        else:
            numbers[:, index] = np.round(numbers[:, index], column.decimals or 0)
    # No negative zero: it equals zero, but its hash is another.
    return numbers + 0.0


def _row_keys(view: TableView) -> NDArray[np.uint64]:
    columns = [*comparable_numbers(view).T, *view.codes.T]
    hashes = pd.util.hash_pandas_object(pd.DataFrame(dict(enumerate(columns))), index=False)
    return np.asarray(hashes, dtype=np.uint64)
