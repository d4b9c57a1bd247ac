"""How strongly two columns depend on each other, for every mix of kinds, and how tables differ.

Numbers: Pearson's correlation. Levels: Cramér's V. A number and a level: the correlation ratio,
the root of the share of the number's variance that the level explains. All three are 0 without
dependence and 1 (or -1) when one column determines the other.

*Shape* and *trend* compare two tables column by column and pair by pair, as SDMetrics defines
them: the Kolmogorov-Smirnov statistic for numbers, total variation for levels; half the difference
of the correlations for two numbers, total variation of the joint table (numbers in ten bins of
equal width over the real range) for every other pair.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scidiffusion.tabular.views import TableView

__all__ = ["association_matrix", "pair_errors", "shape_errors", "trend_error"]

TREND_BINS = 10
# Beyond these, pairs and rows are drawn at random: wide or long tables still score in seconds.
MAX_PAIRS = 2000
MAX_ROWS = 50_000


def association_matrix(view: TableView, limit: int | None = None) -> NDArray[np.float64]:
    """Dependence of every pair of columns.

    Args:
        view: The table.
        limit: Only of the first so many columns.

    Returns:
        Symmetric matrix of shape (d, d) in the schema's order, ones on the diagonal: Pearson's
        correlation in [-1, 1], Cramér's V or the correlation ratio in [0, 1]; 0 where undefined.
    """
    columns = _columns(view)[:limit]
    result = np.eye(len(columns))
    for i, j in itertools.combinations(range(len(columns)), 2):
        first, second = columns[i], columns[j]
        if first.dtype.kind == "f" and second.dtype.kind == "f":
            value = _pearson(first, second)
        elif first.dtype.kind == "f":
            value = _correlation_ratio(second, first)
        elif second.dtype.kind == "f":
            value = _correlation_ratio(first, second)
        else:
            value = _cramers_v(first, second)
        result[i, j] = result[j, i] = value
    return result


def _columns(view: TableView) -> list[NDArray[Any]]:
    """The columns in the schema's order: floats are numbers, integers are codes."""
    numbers, codes = iter(view.numbers.T), iter(view.codes.T)
    return [next(codes if column.kind.is_discrete else numbers) for column in view.schema]


def _pearson(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    both = np.isfinite(x) & np.isfinite(y)
    if both.sum() < 2:
        return 0.0
    x, y = x[both] - x[both].mean(), y[both] - y[both].mean()
    # Sums and not `@`: for vectors this short the threads of a BLAS cost more than they give.
    scale = float(np.sqrt((x * x).sum()) * np.sqrt((y * y).sum()))
    return float(np.clip((x * y).sum() / scale, -1.0, 1.0)) if scale > 0 else 0.0


def _correlation_ratio(codes: NDArray[np.int64], numbers: NDArray[np.float64]) -> float:
    known = np.isfinite(numbers)
    codes, numbers = codes[known], numbers[known]
    if len(numbers) < 2:
        return 0.0
    centred = numbers - numbers.mean()
    total = float((centred * centred).sum())
    counts = np.bincount(codes)
    sums = np.bincount(codes, weights=centred)
    between = float((sums[counts > 0] ** 2 / counts[counts > 0]).sum())
    return float(np.sqrt(min(between / total, 1.0))) if total > 0 else 0.0


def _cramers_v(x: NDArray[np.int64], y: NDArray[np.int64]) -> float:
    columns = int(y.max()) + 1
    cells, joint = _counted(x * columns + y)
    _, row_counts = _counted(x)
    _, column_counts = _counted(y)
    smaller = min(len(row_counts), len(column_counts)) - 1
    if smaller < 1:
        return 0.0
    expected = np.bincount(x)[cells // columns] * (np.bincount(y)[cells % columns] / len(x))
    # Sum over all cells of (n - e)^2 / e equals the sum of n^2 / e over the filled ones, less n.
    chi2 = float((joint**2 / expected).sum()) - len(x)
    return float(np.sqrt(min(max(chi2, 0.0) / (len(x) * smaller), 1.0)))


def _counted(codes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct codes and how often each occurs."""
    if int(codes.max()) > 4 * len(codes):
        return np.unique(codes, return_counts=True)
    counts = np.bincount(codes)
    return np.flatnonzero(counts), counts[counts > 0]


def shape_errors(real: TableView, synthetic: TableView) -> dict[str, float]:
    """Distance of every column's distribution from the real one.

    Args:
        real: The real table.
        synthetic: The table to judge.

    Returns:
        Column -> value in [0, 1]: the Kolmogorov-Smirnov statistic of the present numbers (1 if
        only one of the tables has any), the total variation distance of the levels.
    """
    errors: dict[str, float] = {}
    for column, x, y in zip(real.schema, _columns(real), _columns(synthetic), strict=True):
        if x.dtype.kind == "f":
            errors[column.name] = _ks(x[np.isfinite(x)], y[np.isfinite(y)])
        else:
            errors[column.name] = _total_variation(x, y)
    return errors


def _ks(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    if len(x) == 0 or len(y) == 0:
        return float(len(x) != len(y))
    x, y = np.sort(x), np.sort(y)
    both = np.concatenate([x, y])
    difference = np.searchsorted(x, both, "right") / len(x)
    difference -= np.searchsorted(y, both, "right") / len(y)
    return float(np.abs(difference).max())


def _total_variation(x: NDArray[np.int64], y: NDArray[np.int64]) -> float:
    size = int(max(x.max(), y.max())) + 1
    if size > 4 * (len(x) + len(y)):
        _, both = np.unique(np.concatenate([x, y]), return_inverse=True)
        x, y, size = both[: len(x)], both[len(x) :], int(both.max()) + 1
    p = np.bincount(x, minlength=size) / len(x)
    q = np.bincount(y, minlength=size) / len(y)
    return float(np.abs(p - q).sum() / 2)


def trend_error(real: TableView, synthetic: TableView, rng: np.random.Generator) -> float:
    """Mean distance of the pairwise dependences from the real ones.

    Args:
        real: The real table.
        synthetic: The table to judge.
        rng: Draws rows and pairs where there are more than 50,000 or 2,000.

    Returns:
        Value in [0, 1]; 0 for a table of one column.
    """
    real, synthetic = real.sample(MAX_ROWS, rng), synthetic.sample(MAX_ROWS, rng)
    pairs = list(itertools.combinations(range(len(real.schema)), 2))
    if len(pairs) > MAX_PAIRS:
        pairs = [pairs[k] for k in rng.choice(len(pairs), MAX_PAIRS, replace=False)]
    errors = pair_errors(real, synthetic, pairs)
    return float(np.mean(errors)) if len(errors) else 0.0


def pair_errors(
    real: TableView, synthetic: TableView, pairs: Sequence[tuple[int, int]]
) -> NDArray[np.float64]:
    """Distance of single pairs' dependence from the real one.

    Args:
        real: The real table.
        synthetic: The table to judge.
        pairs: Places of two columns in the schema.

    Returns:
        Shape (len(pairs),), in [0, 1]: half the difference of the correlations of two numbers,
        the total variation distance of the joint table of any other pair.
    """
    columns_real, columns_synthetic = _columns(real), _columns(synthetic)
    bins: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
    for index in {index for pair in pairs for index in pair}:
        x, y = columns_real[index], columns_synthetic[index]
        bins[index] = _binned(x, y) if x.dtype.kind == "f" else (x, y)
    errors = np.empty(len(pairs))
    for place, (i, j) in enumerate(pairs):
        if columns_real[i].dtype.kind == "f" and columns_real[j].dtype.kind == "f":
            before = _pearson(columns_real[i], columns_real[j])
            after = _pearson(columns_synthetic[i], columns_synthetic[j])
            errors[place] = abs(before - after) / 2
        else:
            size = int(max(bins[j][0].max(), bins[j][1].max())) + 1
            joint = [bins[i][side] * size + bins[j][side] for side in (0, 1)]
            errors[place] = _total_variation(*joint)
    return errors


def _binned(
    real: NDArray[np.float64], synthetic: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Codes of equal bins over the real range, missing as one bin more."""
    known = real[np.isfinite(real)]
    if len(known) == 0:
        edges = np.empty(0)
    else:
        edges = np.linspace(known.min(), known.max(), TREND_BINS + 1)[1:-1]
    return tuple(  # type: ignore[return-value]
        np.where(np.isfinite(x), np.searchsorted(edges, x, side="right"), TREND_BINS)
        for x in (real, synthetic)
    )
