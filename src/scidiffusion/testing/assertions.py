r"""Assertions about what diffusion code must satisfy, each with its figures in the message.

They speak of plain functions and tensors, so they fit other people's samplers, networks and
densities as well. Statistical ones state the significance of their test: a correct function fails
with that probability, and with a fixed seed either always or never.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scidiffusion.errors import InputError

F64 = torch.float64


def empirical_order(errors_by_steps: Mapping[int, float]) -> float:
    """Order of convergence: minus the slope of log(error) against log(steps), by least squares.

    Args:
        errors_by_steps: Number of steps -> error (positive), at least two.

    Returns:
        The order p of error ~ steps^-p.

    Raises:
        InputError: for fewer than two entries, or an error that is not positive and finite.

    Example:
        >>> round(empirical_order({10: 0.5, 20: 0.125, 40: 0.03125}), 6)
        2.0
    """
    if len(errors_by_steps) < 2:
        raise InputError("an order needs the errors at two or more numbers of steps")
    if not all(math.isfinite(error) and error > 0 for error in errors_by_steps.values()):
        raise InputError(f"errors must be positive and finite, got {_figures(errors_by_steps)}")
    steps = np.log(np.array(list(errors_by_steps), dtype=np.float64))
    errors = np.log(np.array(list(errors_by_steps.values()), dtype=np.float64))
    steps -= steps.mean()
    return -float((steps * errors).sum() / (steps**2).sum())


def assert_order(
    errors_by_steps: Mapping[int, float],
    expected: float,
    tolerance: float = 0.1,
    *,
    at_least: bool = False,
) -> float:
    """Assert that errors fall as steps^-expected.

    Args:
        errors_by_steps: Number of steps -> error.
        expected: The order.
        tolerance: Largest deviation of the observed order.
        at_least: Accept any higher order as well.

    Returns:
        The observed order.

    Raises:
        AssertionError: if the observed order is another.

    Example:
        >>> round(assert_order({10: 0.1, 20: 0.051, 40: 0.0252}, expected=1), 2)
        0.99
    """
    order = empirical_order(errors_by_steps)
    low = expected - tolerance
    high = math.inf if at_least else expected + tolerance
    if not low <= order <= high:
        raise AssertionError(
            f"order {order:.3f} is outside [{low:.3f}, {high:.3f}]; "
            f"errors by steps: {_figures(errors_by_steps)}"
        )
    return order


def assert_equivariant(
    function: Callable[[Any], Any],
    transform: Callable[[Any], Any],
    x: Any,
    *,
    output_transform: Callable[[Any], Any] | None = None,
    atol: float = 1e-5,
    rtol: float = 1e-5,
) -> None:
    """Assert function(transform(x)) = output_transform(function(x)).

    Args:
        function: Function of a tensor, or of a dict of tensors.
        transform: What acts on the input (a rotation, a permutation, a shift).
        x: Input.
        output_transform: What must then act on the output; default the same `transform`.
        atol: Absolute tolerance.
        rtol: Relative tolerance.

    Raises:
        AssertionError: with the largest difference, if the two sides differ.

    Example:
        >>> x = torch.tensor([1.0, 2.0])
        >>> assert_equivariant(torch.sin, torch.neg, x)
        >>> assert_equivariant(lambda v: v**2, torch.neg, x, output_transform=lambda v: v)
    """
    expected = (transform if output_transform is None else output_transform)(function(x))
    _assert_close(function(transform(x)), expected, atol, rtol, "not equivariant")


def assert_invariant(
    function: Callable[[Any], Any],
    transform: Callable[[Any], Any],
    x: Any,
    *,
    atol: float = 1e-5,
    rtol: float = 1e-5,
) -> None:
    """Assert function(transform(x)) = function(x).

    Args:
        function: Function of a tensor, or of a dict of tensors.
        transform: What acts on the input.
        x: Input.
        atol: Absolute tolerance.
        rtol: Relative tolerance.

    Raises:
        AssertionError: with the largest difference, if the two sides differ.

    Example:
        >>> assert_invariant(torch.sum, lambda v: v.flip(0), torch.tensor([1.0, 2.0, 4.0]))
    """
    _assert_close(function(transform(x)), function(x), atol, rtol, "not invariant")


def assert_round_trip(
    forward: Callable[[Any], Any],
    backward: Callable[[Any], Any],
    x: Any,
    *,
    atol: float = 1e-12,
    rtol: float = 0.0,
) -> None:
    """Assert backward(forward(x)) = x.

    Args:
        forward: Any function.
        backward: Its inverse.
        x: Input: a tensor, or a dict of tensors.
        atol: Absolute tolerance.
        rtol: Relative tolerance.

    Raises:
        AssertionError: with the largest difference.

    Example:
        >>> assert_round_trip(torch.exp, torch.log, torch.tensor([0.5, 2.0]), atol=1e-6)
    """
    _assert_close(backward(forward(x)), x, atol, rtol, "the round trip does not return")


def assert_density_integrates_to_one(
    log_prob: Callable[[Tensor], Tensor],
    low: float | Sequence[float],
    high: float | Sequence[float],
    *,
    points: int = 2000,
    volume: Callable[[Tensor], Tensor] | None = None,
    atol: float = 1e-3,
) -> float:
    """Assert that exp(log_prob) integrates to 1 over a box, by the midpoint rule.

    Args:
        log_prob: Maps (n, d) float64 points to (n,) log-densities.
        low: Lower corner, a number or d of them; the box must hold nearly all of the mass.
        high: Upper corner.
        points: Points along each dimension.
        volume: Maps (n, d) points to (n,) volume elements, where the density is with respect to
            another measure than dx: (1 - cos w) / pi for the angle w in [0, pi] of a density on
            SO(3) with respect to the uniform distribution, say.
        atol: Largest deviation from 1.

    Returns:
        The integral.

    Raises:
        AssertionError: if the integral is not 1.

    Example:
        >>> normal = torch.distributions.Normal(0.0, 1.0)
        >>> total = assert_density_integrates_to_one(lambda x: normal.log_prob(x[:, 0]), -9, 9)
    """
    lows, highs = np.atleast_1d(np.asarray(low, float)), np.atleast_1d(np.asarray(high, float))
    if lows.shape != highs.shape or not bool((lows < highs).all()):
        raise InputError(f"low and high must be the corners of a box, got {low} and {high}")
    widths = (highs - lows) / points
    axes = [
        torch.arange(points, dtype=F64).add(0.5).mul(width).add(start)
        for start, width in zip(lows.tolist(), widths.tolist(), strict=True)
    ]
    grid = torch.cartesian_prod(*axes).reshape(-1, len(axes))
    density = log_prob(grid).detach().to(F64).exp()
    if density.shape != grid.shape[:1]:
        raise InputError(
            f"log_prob must map {tuple(grid.shape)} points to ({len(grid)},) log-densities, "
            f"it returned {tuple(density.shape)}"
        )
    if volume is not None:
        density = density * volume(grid)
    total = float(density.sum() * float(np.prod(widths)))
    if not abs(total - 1) <= atol:
        raise AssertionError(f"the density integrates to {total:.6g}, not to 1 within {atol:g}")
    return total


def wasserstein_1(a: Tensor, b: Tensor) -> float:
    """Wasserstein-1 distance between two one-dimensional samples, of any two sizes.

    Args:
        a: (n,) or (n, 1) values.
        b: (m,) or (m, 1) values.

    Returns:
        The area between the two empirical distribution functions, in the units of the values.

    Example:
        >>> wasserstein_1(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0]))
        2.0
    """
    a, b = (_column(value).sort().values for value in (a, b))
    support = torch.cat([a, b]).sort().values
    inside = support[:-1].contiguous()
    gap = torch.searchsorted(a, inside, right=True).to(F64) / len(a)
    gap = gap - torch.searchsorted(b, inside, right=True).to(F64) / len(b)
    return float((gap.abs() * support.diff()).sum())


def assert_same_distribution(
    samples: Tensor,
    reference: Tensor | Callable[[np.ndarray], np.ndarray],
    *,
    significance: float = 1e-3,
    method: str = "ks",
    permutations: int = 1999,
    seed: int = 0,
) -> float:
    """Assert that samples come from a distribution, by a test of the stated significance.

    Args:
        samples: (n,) or (n, d) independent draws.
        reference: Draws from the distribution, (m,) or (m, d); or, for one dimension, its
            cumulative distribution function.
        significance: Probability that correct samples fail.
        method: "ks" (Kolmogorov-Smirnov) or "wasserstein" (permutation test of the Wasserstein-1
            distance in standard deviations, which weighs tails and shifts more; needs draws as
            the reference). In d > 1 dimensions the test is of every coordinate and of 2 d random
            projections; its significance is that of all together.
        permutations: Number of permutations of the Wasserstein test.
        seed: Of permutations and projections.

    Returns:
        The p-value.

    Raises:
        AssertionError: if the p-value is below `significance`.
        InputError: if the arguments do not fit each other.

    Example:
        >>> a, b = torch.linspace(0, 1, 500), torch.linspace(0, 1, 300)
        >>> assert_same_distribution(a, b) > 0.9
        True
    """
    if method not in ("ks", "wasserstein"):
        raise InputError(f"method must be 'ks' or 'wasserstein', got {method!r}")
    if method == "wasserstein" and 1 / (permutations + 1) >= significance:
        raise InputError(
            f"{permutations} permutations cannot give a p-value below {significance}; take more"
        )
    first = _matrix(samples)
    if callable(reference):
        if first.shape[1] != 1 or method != "ks":
            raise InputError("a distribution function serves the KS test in one dimension only")
        where, statistic, p_value = _ks([("values", first[:, 0], reference)])
        size = "its distribution function"
    else:
        second = _matrix(reference)
        pairs = _projections(first, second, seed)
        where, statistic, p_value = (
            _ks(pairs) if method == "ks" else _permutation(pairs, permutations, seed)
        )
        size = f"{len(second)} draws"
    if p_value < significance:
        raise AssertionError(
            f"not the same distribution: {method} statistic {statistic:.4g} of the {where}, "
            f"p = {p_value:.2g} < {significance:g} ({len(first)} samples against {size})"
        )
    return p_value


def assert_batch_independent(
    sample_function: Callable[[int, int], Any], n: int, batch_sizes: Iterable[int]
) -> None:
    """Assert that samples do not depend on the batch size: every bit is equal.

    Args:
        sample_function: Called as sample_function(n, batch_size); returns n samples, a tensor, an
            array, a data frame or a dict of such. It must use the same seed in every call.
        n: Number of samples.
        batch_sizes: Batch sizes to compare with one batch of all `n`.

    Raises:
        AssertionError: naming the batch size, the number of unequal values and the largest
            difference.

    Example:
        >>> from scidiffusion.core import KeyedNoise
        >>> def draw(n, batch_size):
        ...     return torch.cat(
        ...         [
        ...             KeyedNoise(0, start).normal(torch.empty(min(batch_size, n - start)))
        ...             for start in range(0, n, batch_size)
        ...         ]
        ...     )
        >>> assert_batch_independent(draw, 100, batch_sizes=[7, 64])
    """
    whole = sample_function(n, n)
    for size in batch_sizes:
        for name, one, other in _leaves(sample_function(n, size), whole):
            if _bit_equal(one, other):
                continue
            one, other = (
                np.asarray(v.cpu() if isinstance(v, Tensor) else v) for v in (one, other)
            )
            if one.shape != other.shape or one.dtype != other.dtype:
                detail = f"{one.dtype} {one.shape} against {other.dtype} {other.shape}"
            else:
                unequal = one != other
                detail = f"{int(unequal.sum())} of {one.size} values differ"
                if one.dtype.kind in "fiu":
                    largest = np.abs(one[unequal].astype(float) - other[unequal].astype(float))
                    detail += f", by up to {largest.max() if largest.size else math.nan:.3g}"
            raise AssertionError(
                f"batches of {size} and of {n} give other samples{name}: {detail}"
            )


def _figures(errors_by_steps: Mapping[int, float]) -> str:
    return ", ".join(f"{steps}: {error:.3g}" for steps, error in errors_by_steps.items())


def _leaves(one: Any, other: Any, name: str = "") -> Iterable[tuple[str, Any, Any]]:
    """Yield (path, leaf, leaf) of two equal structures of dicts."""
    if not isinstance(other, Mapping):
        yield name, one, other
        return
    if not isinstance(one, Mapping) or one.keys() != other.keys():
        raise AssertionError(f"different structure{name}: {one!r} against {other!r}")
    for key in other:
        yield from _leaves(one[key], other[key], f"{name}[{key!r}]")


def _assert_close(actual: Any, expected: Any, atol: float, rtol: float, complaint: str) -> None:
    for name, one, other in _leaves(actual, expected):
        one, other = torch.as_tensor(one).detach(), torch.as_tensor(other).detach()
        if one.shape != other.shape:
            raise AssertionError(
                f"{complaint}{name}: shapes {tuple(one.shape)} and {tuple(other.shape)}"
            )
        one, other = one.to(F64), other.to(F64)
        if not torch.allclose(one, other, rtol=rtol, atol=atol):
            difference = (one - other).abs()
            raise AssertionError(
                f"{complaint}{name}: largest difference {float(difference.max()):.3g} among "
                f"values up to {float(other.abs().max()):.3g} (atol {atol:g}, rtol {rtol:g})"
            )


def _bit_equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        # NaN stands for absent values and equals itself here.
        same = one.dtype == other.dtype and one.shape == other.shape
        return same and bool(((one == other) | (one.isnan() & other.isnan())).all())
    if hasattr(one, "equals"):
        return bool(one.equals(other))
    one, other = np.asarray(one), np.asarray(other)
    floating = one.dtype.kind in "fc"
    return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=floating)


def _column(value: Tensor) -> Tensor:
    value = torch.as_tensor(value).detach().to(F64)
    if value.ndim == 2 and value.shape[1] == 1:
        value = value[:, 0]
    if value.ndim != 1 or len(value) == 0:
        raise InputError(f"need a one-dimensional, non-empty sample, got {tuple(value.shape)}")
    return value


def _matrix(value: Tensor) -> np.ndarray:
    matrix = torch.as_tensor(value).detach().to("cpu", F64)
    matrix = matrix[:, None] if matrix.ndim == 1 else matrix.flatten(1)
    if not bool(torch.isfinite(matrix).all()):
        raise AssertionError("the samples are not finite")
    return matrix.numpy()


def _projections(
    first: np.ndarray, second: np.ndarray, seed: int
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    d = first.shape[1]
    if second.shape[1] != d:
        raise InputError(f"samples have {d} columns, the reference has {second.shape[1]}")
    if d == 1:
        return [("values", first[:, 0], second[:, 0])]
    # Columns of very different spread would hide each other in a projection.
    spread = second.std(0) + first.std(0)
    directions = np.random.default_rng(seed).standard_normal((2 * d, d)) / np.where(
        spread > 0, spread, 1.0
    )
    named = [(f"column {index}", axis) for index, axis in enumerate(np.eye(d))]
    named += [(f"projection {index}", axis) for index, axis in enumerate(directions)]
    return [(name, first @ axis, second @ axis) for name, axis in named]


def _ks(pairs: list[tuple[str, np.ndarray, Any]]) -> tuple[str, float, float]:
    """Name and statistic of the most significant pair, and its p-value after Bonferroni."""
    from scipy import stats

    worst = ("", 0.0, math.inf)
    for name, one, other in pairs:
        result = stats.kstest(one, other) if callable(other) else stats.ks_2samp(one, other)
        if result.pvalue < worst[2]:
            worst = (name, float(result.statistic), float(result.pvalue))
    return worst[0], worst[1], min(1.0, worst[2] * len(pairs))


def _permutation(
    pairs: list[tuple[str, np.ndarray, np.ndarray]], permutations: int, seed: int
) -> tuple[str, float, float]:
    """Permutation test of the largest W1, in standard deviations, over all pairs at once."""
    n, m = len(pairs[0][1]), len(pairs[0][2])
    pooled = np.stack([np.concatenate([one, other]) for _, one, other in pairs], 1)
    order = np.argsort(pooled, 0, kind="stable")
    gaps = np.diff(np.take_along_axis(pooled, order, 0), axis=0)
    spread = pooled.std(0)
    gaps /= np.where(spread > 0, spread, 1.0)
    sides = np.repeat([1 / n, -1 / m], [n, m])
    rng = np.random.default_rng(seed)

    def distances(sides: np.ndarray) -> np.ndarray:
        return (np.abs(np.cumsum(sides[order], 0)[:-1]) * gaps).sum(0)

    observed = distances(sides)
    # Rounding must not make a tie look like a smaller distance.
    bar = observed.max() * (1 - 1e-12)
    beyond = sum(distances(rng.permutation(sides)).max() >= bar for _ in range(permutations))
    largest = int(observed.argmax())
    return pairs[largest][0], float(observed[largest]), (1 + beyond) / (1 + permutations)
