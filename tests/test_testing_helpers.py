"""The public test helpers: each accepts what is right and can fail on what is not."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import scidiffusion.testing as testing
from scidiffusion.errors import InputError
from scidiffusion.testing import (
    assert_batch_independent,
    assert_density_integrates_to_one,
    assert_equivariant,
    assert_invariant,
    assert_order,
    assert_round_trip,
    assert_same_distribution,
    empirical_order,
    wasserstein_1,
)

F64 = torch.float64


def test_every_public_name_exists_and_is_documented():
    for name in testing.__all__:
        assert getattr(testing, name).__doc__


def test_all_names_are_listed():
    assert set(testing.__all__) <= set(dir(testing))
    with pytest.raises(AttributeError):
        _ = testing.no_such_helper


# --- order -----------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [0.5, 1, 2, 3.7])
def test_order_of_a_power_law(order):
    errors = {n: 3 * n**-order for n in (5, 10, 20, 80)}
    assert empirical_order(errors) == pytest.approx(order, abs=1e-12)
    assert assert_order(errors, order, 1e-9) == pytest.approx(order, abs=1e-12)


def test_order_fails_with_the_figures():
    errors = {10: 0.1, 20: 0.05}
    with pytest.raises(
        AssertionError, match=r"order 1\.000 is outside \[1\.850, 2\.150\].*10: 0\.1"
    ):
        assert_order(errors, 2, 0.15)
    with pytest.raises(AssertionError, match=r"order 1\.000"):
        assert_order(errors, 0.5, 0.15)
    assert_order(errors, 0.5, 0.15, at_least=True)
    with pytest.raises(AssertionError, match="inf"):
        assert_order(errors, 1.5, 0.15, at_least=True)


@pytest.mark.parametrize("errors", [{10: 0.1}, {10: 0.1, 20: 0.0}, {10: 0.1, 20: math.nan}])
def test_order_refuses_useless_errors(errors):
    with pytest.raises(InputError):
        empirical_order(errors)


# --- equivariance, invariance, round trips ---------------------------------------------------


def rotation(angle):
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s], [s, c]], dtype=F64)


def test_equivariance():
    x = torch.randn(5, 2, dtype=F64)
    turn = rotation(0.3)
    assert_equivariant(lambda v: v * v.norm(dim=1, keepdim=True), lambda v: v @ turn, x)
    with pytest.raises(AssertionError, match=r"not equivariant: largest difference \d"):
        assert_equivariant(lambda v: v**2, lambda v: v @ turn, x)
    with pytest.raises(AssertionError, match="not equivariant"):
        assert_equivariant(lambda v: v + 1e-3, lambda v: v @ turn, x)
    # The output may transform in another way, or be a dict.
    assert_equivariant(lambda v: v**2, torch.neg, x, output_transform=lambda v: v)
    assert_equivariant(
        lambda state: {"a": 2 * state["a"]},
        lambda state: {name: -value for name, value in state.items()},
        {"a": x},
    )
    with pytest.raises(AssertionError, match=r"\['a'\]"):
        assert_equivariant(lambda v: {"a": v + 1}, lambda v: 2 * v if torch.is_tensor(v) else v, x)


def test_invariance():
    x = torch.randn(5, 3, dtype=F64)
    flip = lambda v: v.flip(1)  # noqa: E731
    assert_invariant(lambda v: v.sum(1), flip, x)
    with pytest.raises(AssertionError, match="not invariant"):
        assert_invariant(lambda v: v[:, 0], flip, x)
    with pytest.raises(AssertionError, match="shapes"):
        assert_invariant(lambda v: v, lambda v: v[:2], x)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_do_not_pass(bad):
    x = torch.ones(3, dtype=F64)
    with pytest.raises(AssertionError):
        assert_round_trip(lambda v: v, lambda v: v * bad, x)


def test_round_trip():
    x = torch.linspace(0.1, 2, 7, dtype=F64)
    assert_round_trip(torch.exp, torch.log, x, atol=1e-12)
    with pytest.raises(AssertionError, match="does not return: largest difference 1e-06"):
        assert_round_trip(torch.exp, lambda v: torch.log(v) + 1e-6, x, atol=1e-9)
    with pytest.raises(AssertionError, match="different structure"):
        assert_round_trip(lambda v: {"a": v}, lambda v: v, {"b": x})


# --- densities -------------------------------------------------------------------------------


def test_density_in_one_and_two_dimensions():
    normal = torch.distributions.Normal(torch.zeros((), dtype=F64), 1.0)
    total = assert_density_integrates_to_one(lambda x: normal.log_prob(x[:, 0]), -9, 9)
    assert total == pytest.approx(1, abs=1e-12)
    assert_density_integrates_to_one(
        lambda x: normal.log_prob(x).sum(1), [-8, -7], [8, 9], points=200, atol=1e-9
    )
    with pytest.raises(AssertionError, match=r"integrates to 1\.1"):
        assert_density_integrates_to_one(lambda x: normal.log_prob(x[:, 0]) + math.log(1.1), -9, 9)
    with pytest.raises(AssertionError, match=r"integrates to 0\.5"):
        assert_density_integrates_to_one(lambda x: normal.log_prob(x[:, 0]), 0, 9)
    with pytest.raises(AssertionError, match="nan"):
        assert_density_integrates_to_one(lambda x: x[:, 0] * math.nan, 0, 1)


def test_density_with_respect_to_another_measure():
    """The uniform density on SO(3) is 1 with respect to Haar's measure, in the angle's chart."""
    haar = lambda x: (1 - torch.cos(x[:, 0])) / math.pi  # noqa: E731
    uniform = lambda x: torch.zeros(len(x), dtype=F64)  # noqa: E731
    assert_density_integrates_to_one(uniform, 0, math.pi, volume=haar, atol=1e-6)
    with pytest.raises(AssertionError, match=r"integrates to 3\.14"):
        assert_density_integrates_to_one(uniform, 0, math.pi)


def test_density_refuses_what_is_no_box_or_no_density():
    with pytest.raises(InputError, match="box"):
        assert_density_integrates_to_one(lambda x: x[:, 0], 1, 0)
    with pytest.raises(InputError, match="box"):
        assert_density_integrates_to_one(lambda x: x[:, 0], [0, 0], 1)
    with pytest.raises(InputError, match="log-densities"):
        assert_density_integrates_to_one(lambda x: x, 0, 1)


# --- distributions ---------------------------------------------------------------------------


def test_wasserstein_agrees_with_scipy_and_with_closed_forms():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(200), rng.exponential(size=77)
    mine = wasserstein_1(torch.from_numpy(a), torch.from_numpy(b)[:, None])
    assert mine == pytest.approx(stats.wasserstein_distance(a, b), abs=1e-12)
    assert wasserstein_1(torch.from_numpy(a), torch.from_numpy(a + 3)) == pytest.approx(3)
    assert wasserstein_1(torch.from_numpy(a), torch.from_numpy(a).flip(0)) == 0
    with pytest.raises(InputError, match="one-dimensional"):
        wasserstein_1(torch.zeros(3, 2), torch.zeros(3))
    with pytest.raises(InputError, match="non-empty"):
        wasserstein_1(torch.zeros(0), torch.zeros(3))


def draws(n, d, seed):
    return torch.randn(n, d, dtype=F64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("method", ["ks", "wasserstein"])
@pytest.mark.parametrize("d", [1, 3])
def test_same_distribution(method, d):
    a, b = draws(500, d, 0), draws(400, d, 1)
    p_value = assert_same_distribution(a, b, method=method)
    assert 1e-3 < p_value <= 1
    assert assert_same_distribution(a, b, method=method) == p_value
    with pytest.raises(AssertionError, match=rf"{method} statistic .*p = .* < 0\.02"):
        assert_same_distribution(a, b + 0.4, method=method, significance=0.02)


def test_same_distribution_against_a_distribution_function():
    a = draws(500, 1, 0)
    assert_same_distribution(a, stats.norm.cdf)
    with pytest.raises(AssertionError, match="distribution function"):
        assert_same_distribution(a, stats.norm(scale=1.5).cdf)


def test_same_distribution_sees_dependence_that_no_column_shows():
    a = draws(1500, 2, 0)
    b = draws(1500, 2, 1)
    b = torch.stack([b[:, 0], 0.8 * b[:, 0] + 0.6 * b[:, 1]], 1)
    for column in range(2):
        assert_same_distribution(a[:, column], b[:, column])
    with pytest.raises(AssertionError, match="projection"):
        assert_same_distribution(a, b)


def test_correct_samples_fail_as_often_as_stated():
    failures = {"ks": 0, "wasserstein": 0}
    for seed in range(200):
        for method in failures:
            try:
                assert_same_distribution(
                    draws(60, 1, 2 * seed),
                    draws(50, 1, 2 * seed + 1),
                    method=method,
                    significance=0.1,
                    permutations=99,
                )
            except AssertionError:
                failures[method] += 1
    # 20 expected, standard deviation 4.2.
    assert all(5 <= count <= 35 for count in failures.values()), failures


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        (torch.zeros(3), torch.zeros(3), {"method": "t-test"}, "method"),
        (torch.zeros(3, 2), torch.zeros(3, 1), {}, "columns"),
        (torch.zeros(3, 2), stats.norm.cdf, {}, "one dimension"),
        (
            torch.zeros(3),
            torch.zeros(3),
            {"method": "wasserstein", "permutations": 99, "significance": 1e-3},
            "permutations",
        ),
    ],
)
def test_same_distribution_refuses(a, b, options, message):
    with pytest.raises(InputError, match=message):
        assert_same_distribution(a, b, **options)


def test_samples_with_nan_are_not_from_any_distribution():
    with pytest.raises(AssertionError, match="not finite"):
        assert_same_distribution(torch.tensor([0.0, math.nan]), draws(10, 1, 0))


# --- batches ---------------------------------------------------------------------------------


def in_batches(function):
    """Cut a function of (start, count) into batches."""

    def sample(n, batch_size):
        parts = [function(start, min(batch_size, n - start)) for start in range(0, n, batch_size)]
        if isinstance(parts[0], dict):
            return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return torch.cat(parts)

    return sample


def test_batch_independence():
    assert_batch_independent(in_batches(lambda start, n: torch.arange(start, start + n)), 20, [7])
    assert_batch_independent(
        in_batches(lambda start, n: {"a": torch.full((n,), math.nan)}), 20, [7, 64]
    )
    with pytest.raises(AssertionError, match=r"batches of 7 and of 20 .* 13 of 20 values differ"):
        assert_batch_independent(in_batches(lambda start, n: torch.arange(n)), 20, [20, 7])
    # One bit is enough.
    nudge = in_batches(lambda start, n: torch.ones(n, dtype=F64) + (1e-15 if n == 7 else 0.0))
    assert_batch_independent(nudge, 20, [5, 20])
    with pytest.raises(AssertionError, match=r"by up to 1\.\d+e-15"):
        assert_batch_independent(nudge, 20, [7])
    with pytest.raises(AssertionError, match=r"\['a'\].*float64 .* against .*float32"):
        assert_batch_independent(
            lambda n, size: {"a": torch.ones(n, dtype=F64 if size < n else torch.float32)}, 9, [4]
        )


def test_batch_independence_of_data_frames_and_arrays():
    frame = pd.DataFrame({"a": [1.0, math.nan], "b": ["x", None]})
    assert_batch_independent(lambda n, size: frame.copy(), 2, [1])
    with pytest.raises(AssertionError, match="batches of 1 and of 2"):
        assert_batch_independent(lambda n, size: frame.assign(a=float(size)), 2, [1])
    assert_batch_independent(lambda n, size: np.array(["a", "b"]), 2, [1])
    with pytest.raises(AssertionError, match="1 of 2 values differ"):
        assert_batch_independent(lambda n, size: np.array(["a", str(size)]), 2, [1])
