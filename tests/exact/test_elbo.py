"""The ELBO: its weights, its bound, and the cases in which it is the likelihood itself."""

from __future__ import annotations

import itertools
import math
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from scidiffusion.core import (
    AbsorbingProcess,
    CategoricalPrediction,
    CosineVP,
    DiscreteSchedule,
    EDMSchedule,
    GaussianProcess,
    KeyedNoise,
    LinearVP,
    MultinomialProcess,
    Noise,
    ProductProcess,
    VESchedule,
    check_terminal,
    elbo,
    elbo_eps_weight,
)
from scidiffusion.errors import ConfigError, ScidiffusionWarning
from scidiffusion.testing.mixtures import GaussianMixtureOracle

F64 = torch.float64


def at(value):
    return torch.tensor(value, dtype=F64)


class Cubature(Noise):
    """Normal "noise" at the points +-sqrt(d) e_i: their mean integrates quadratics exactly.

    Rows come in groups of 2 d, one point a row.
    """

    def normal(self, like):
        d = like.shape[1]
        points = math.sqrt(d) * torch.cat([torch.eye(d), -torch.eye(d)]).to(like)
        return points.repeat(len(like) // (2 * d), 1)

    def uniform(self, like):
        return torch.full_like(like, 0.37)

    def child(self, name):
        return self

    def at(self, step):
        return self


def normal_log_prob(x, mean, var):
    return torch.distributions.Normal(at(mean), at(var).sqrt()).log_prob(x).sum(1)


# The weights


@pytest.mark.parametrize("family", [DiscreteSchedule.linear, DiscreteSchedule.cosine])
def test_eps_weights_are_the_gaussian_kl_at_every_step(family):
    schedule = family(1000)
    process = GaussianProcess(schedule)
    t = torch.arange(2, 1001, dtype=F64) / 1000
    s = t - 1 / 1000
    x, eps, eps_hat = torch.randn(3, 999, 3, dtype=F64)
    marginal = schedule.marginal(t)
    z = marginal.scale[:, None] * x + marginal.std[:, None] * eps
    kl = process.divergence(x, z, process.prediction(z, t, eps=eps_hat), t, s)
    weighted = elbo_eps_weight(schedule, t, s) * ((eps - eps_hat) ** 2).sum(1)
    assert torch.allclose(weighted, kl, rtol=1e-10, atol=0)


def test_eps_weight_is_the_formula_of_the_literature():
    # beta^2 / ((1 - alpha_bar)(1 - beta) 2 sigma^2), Prince 2023, eq. 18.39.
    schedule = DiscreteSchedule.linear(20)
    t = torch.arange(2, 21, dtype=F64) / 20
    beta, alpha_bar = schedule.betas[1:], schedule.alpha_bar[2:]
    for sigma_2 in (beta, 0.3 * beta, at(0.05)):
        expected = beta**2 / ((1 - alpha_bar) * (1 - beta) * 2 * sigma_2)
        found = elbo_eps_weight(schedule, t, t - 0.05, sigma_2)
        assert torch.allclose(found, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("schedule", [LinearVP(), CosineVP(), VESchedule(), EDMSchedule()])
@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_eps_weights_hold_for_any_pair_of_times_and_variance(schedule, variance):
    process = GaussianProcess(schedule, variance=variance)
    x, eps, eps_hat = torch.randn(3, 4, 3, dtype=F64)
    for t, s in ((0.9, 0.85), (0.8, 0.4), (1.0, 0.3)):
        t, s = at(t), at(s)
        z = schedule.marginal(t).scale * x + schedule.marginal(t).std * eps

        def kl(value, z=z, t=t, s=s):
            return process.divergence(x, z, process.prediction(z, t, eps=value), t, s)

        sigma_2 = process.reverse_variance(process.prediction(z, t, eps=eps), t, s)
        weighted = elbo_eps_weight(schedule, t, s, sigma_2) * ((eps - eps_hat) ** 2).sum(1)
        assert torch.allclose(weighted, kl(eps_hat) - kl(eps), rtol=1e-8, atol=1e-12)


# Equality for Gaussian data


def gaussian_exactness(oracle, x, mean, var, log_prob, **options):
    """ELBO(x) - (log p(x) - E_{q(z_1 | x)} log q(z_1) / prior(z_1)), row by row."""
    d = x.shape[1]
    rows = x.repeat_interleave(2 * d, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScidiffusionWarning)
        bound = elbo(oracle, rows, noise=Cubature(), **options)
    schedule = oracle.process.schedule
    last = schedule.marginal(1.0)
    z = last.scale * rows + last.std * Cubature().normal(rows)
    ratio = normal_log_prob(
        z, (last.scale * at(mean)).tolist(), (last.scale**2 * at(var) + last.var).tolist()
    )
    ratio = ratio - normal_log_prob(z, [0.0] * d, [schedule.prior_std**2] * d)
    return (bound.total - ratio.mul(-1)).reshape(-1, 2 * d).mean(1) - log_prob


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [
        (DiscreteSchedule.linear(20), None),
        (DiscreteSchedule.cosine(20), 7),
        (DiscreteSchedule([0.01511] * 100), None),
        (DiscreteSchedule.linear(1), None),
        (LinearVP(), 30),
        (CosineVP(), 1),
        (VESchedule(), 25),
        (EDMSchedule(), 25),
        (EDMSchedule(), 3),
    ],
)
def test_gaussian_data_with_optimal_variance_has_no_gap(schedule, steps):
    # log p(x) - ELBO(x) is what the prior misses of q(z_1), for every x and any grid.
    mean, var = [0.4, -1.5], [1.7, 0.09]
    process = GaussianProcess(schedule, variance="optimal")
    oracle = GaussianMixtureOracle([1.0], [mean], at([var]), process)
    x = torch.tensor([[0.4, -1.5], [2.0, -1.0], [-3.0, -2.5]], dtype=F64)
    gap = gaussian_exactness(oracle, x, mean, var, normal_log_prob(x, mean, var), steps=steps)
    assert float(gap.abs().max()) < 1e-9


def test_gaussian_data_on_an_uneven_grid_of_times():
    process = GaussianProcess(LinearVP(), variance="optimal")
    oracle = GaussianMixtureOracle([1.0], [[0.3]], at([[0.5]]), process)
    x = torch.tensor([[0.0], [1.4]], dtype=F64)
    exact = normal_log_prob(x, [0.3], [0.5])
    grid = at([1.0, 0.7, 0.69, 0.2, 0.01, 0.0])
    assert float(gaussian_exactness(oracle, x, [0.3], [0.5], exact, grid=grid).abs().max()) < 1e-9


def test_expected_elbo_of_gaussian_data_is_log_p_minus_the_terminal_kl():
    # The notebooks' schedule, where the prior misses most: .218 of the signal is left.
    schedule, mean, var = DiscreteSchedule([0.01511] * 100), 0.5, 0.36
    oracle = GaussianMixtureOracle(
        [1.0], [mean], [var], GaussianProcess(schedule, variance="optimal")
    )
    # Everything is quadratic in x: two points integrate over the data exactly.
    x = (mean + math.sqrt(var) * at([[1.0], [-1.0]])).repeat_interleave(2, 0)
    with pytest.warns(ScidiffusionWarning):
        bound = elbo(oracle, x, noise=Cubature()).total.mean()
    entropy = 0.5 * math.log(2 * math.pi * math.e * var)
    scale, noise = (float(c) for c in (schedule.alpha_bar[-1].sqrt(), schedule.marginal(1.0).var))
    last_mean, last_var = scale * mean, scale**2 * var + noise
    terminal = 0.5 * (last_var + last_mean**2 - 1 - math.log(last_var))
    assert float(bound) == pytest.approx(-entropy - terminal, abs=1e-9)
    assert terminal > 0.02


def test_a_condition_reaches_every_term():
    process = GaussianProcess(DiscreteSchedule.linear(20), variance="optimal")
    oracle = GaussianMixtureOracle.prince(process)
    x = torch.tensor([[1.2], [1.2]], dtype=F64)
    for label, (mean, std) in enumerate([(1.5, 0.3), (-0.216, 0.15), (0.45, 0.525)]):
        bound = elbo(oracle, x, noise=Cubature(), cond=torch.full((2,), label))
        exact = normal_log_prob(x[:1], [mean], [std**2])
        assert float(bound.total.mean()) == pytest.approx(float(exact), abs=1e-6)


# The bound for mixtures


class Lattice(Cubature):
    """Normal "noise" of a golden-ratio lattice: with sorted data it integrates over (x, eps)."""

    def normal(self, like):
        row = torch.arange(len(like), dtype=F64) + 0.5
        golden = (1 + math.sqrt(5)) / 2
        return torch.special.ndtri((row * golden) % 1.0)[:, None].to(like)


def mixture_elbo(schedule, variance, n=2000, **options):
    """E ELBO of the notebooks' mixture, without Monte Carlo error; E log p is -1.000 nats."""
    oracle = GaussianMixtureOracle.prince(GaussianProcess(schedule, variance=variance))
    x = oracle.quantiles((torch.arange(n, dtype=F64) + 0.5) / n)[:, None]
    return float(elbo(oracle, x, noise=Lattice(), **options).total.mean())


@pytest.mark.parametrize(
    ("nodes", "variance", "figure", "tolerance"),
    [
        (20, "beta", -1.229, 0.02),
        (20, "posterior", -4.76, 0.15),
        (100, "beta", -1.074, 0.02),
        (100, "posterior", -2.13, 0.05),
    ],
)
def test_the_elbo_with_the_exact_score_is_a_known_distance_below_log_p(
    nodes, variance, figure, tolerance
):
    # The figures are an independent implementation's, +-.007, .06, .006 and .02.
    bound = mixture_elbo(DiscreteSchedule.linear(nodes), variance)
    assert bound < -1.01
    assert bound == pytest.approx(figure, abs=tolerance)


def test_log_p_of_the_mixture_is_minus_one():
    oracle = GaussianMixtureOracle.prince(GaussianProcess(LinearVP()))
    x = torch.linspace(-4, 4, 20_001, dtype=F64)[:, None]
    log_p = oracle.log_prob(x)
    entropy = -torch.trapezoid(log_p.exp() * log_p, x[:, 0])
    assert float(entropy) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [(DiscreteSchedule.cosine(50), 10), (LinearVP(), 20), (VESchedule(), 20), (EDMSchedule(), 20)],
)
def test_optimal_variance_gives_the_best_bound(schedule, steps):
    beta, posterior, optimal = (
        mixture_elbo(schedule, variance, n=1000, steps=steps)
        for variance in ("beta", "posterior", "optimal")
    )
    assert max(beta, posterior) < optimal < -1.0


def test_more_steps_tighten_the_bound():
    bounds = [mixture_elbo(LinearVP(), "optimal", n=1000, steps=n) for n in (5, 15, 45)]
    assert bounds == sorted(bounds)
    assert -1.1 < bounds[-1] < -1.0


# The terminal term


def test_a_schedule_that_does_not_reach_the_prior_warns():
    schedule = DiscreteSchedule([0.01511] * 100)
    assert schedule.terminal_snr == pytest.approx(0.218, abs=5e-4)
    oracle = GaussianMixtureOracle.prince(GaussianProcess(schedule, variance="beta"))
    x, _ = oracle.sample(4000)
    with pytest.warns(ScidiffusionWarning, match=r"0\.143 nats per variable.*0\.218") as record:
        bound = elbo(oracle, x)
    assert Path(record[0].filename) == Path(__file__)
    assert float(bound.prior.mean()) == pytest.approx(0.143, abs=2e-3)
    with pytest.warns(ScidiffusionWarning) as record:
        mismatch = check_terminal(oracle.process, x)
    assert mismatch == pytest.approx(float(bound.prior.mean()), rel=1e-12)
    assert Path(record[0].filename) == Path(__file__)


@pytest.mark.parametrize(
    "schedule",
    [
        DiscreteSchedule.linear(20),
        DiscreteSchedule.linear(1000),
        DiscreteSchedule.cosine(1000),
        DiscreteSchedule.sigmoid(100),
        LinearVP(),
        CosineVP(),
        VESchedule(),
        EDMSchedule(),
    ],
)
def test_a_schedule_that_reaches_the_prior_is_silent(schedule):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mismatch = check_terminal(GaussianProcess(schedule), torch.randn(500, 2, dtype=F64))
    assert 0 <= mismatch < 1e-3


def test_data_on_a_large_scale_are_not_forgotten():
    with pytest.warns(ScidiffusionWarning, match="scale the data"):
        check_terminal(GaussianProcess(LinearVP()), 1e3 * torch.randn(50, 2))


# Categorical data


class ExactCategorical:
    """Marginals p(x_d | z_t) of a known joint distribution over all variables, by enumeration."""

    def __init__(self, process, joint):
        self.process = process
        self.joint = torch.as_tensor(joint, dtype=F64)
        classes = [range(k) for k in self.joint.shape]
        self.values = torch.tensor(list(itertools.product(*classes)))

    def log_joint(self, z, t):
        """log p(x) q(z_t | x) for every row of z and value of x."""
        kernel = self.process.kernel(self.values, t).probs
        per_variable = [kernel[:, d][:, z[:, d]] for d in range(z.shape[1])]
        return (self.joint.flatten()[:, None] * torch.stack(per_variable).prod(0)).log()

    def __call__(self, z, t, cond=None):
        posterior = torch.softmax(self.log_joint(z, t), 0)
        marginals = [
            torch.stack([posterior[self.values[:, d] == k].sum(0) for k in range(size)], 1)
            for d, size in enumerate(self.joint.shape)
        ]
        return CategoricalPrediction(z, torch.stack(marginals, 1).log())


def enumerated_elbo(denoiser, states, grid):
    """ELBO of every value of x, with every expectation an explicit sum over all z."""
    process, values = denoiser.process, denoiser.values
    total = -process.prior_divergence(values)
    reachable = torch.tensor(list(itertools.product(range(states), repeat=values.shape[1])))
    row = torch.arange(len(values)).repeat_interleave(len(reachable))
    x, z = values[row], reachable.repeat(len(values), 1)
    for t, s in pairwise(grid):
        probs = process.kernel(x, t).probs.gather(-1, z[..., None])[..., 0].prod(1)
        some = probs > 0
        term = process.vlb_term(x[some], z[some], denoiser(z[some], t), t, s)
        total = total.index_add(0, row[some], probs[some] * term, alpha=-1)
    return total


@pytest.mark.parametrize("schedule", [DiscreteSchedule.cosine(8), DiscreteSchedule([0.1] * 8)])
@pytest.mark.parametrize("kind", [MultinomialProcess, AbsorbingProcess])
def test_one_categorical_variable_with_the_exact_posterior_has_no_gap(schedule, kind):
    # The reverse kernel is then the true reverse of the chain, so that
    # ELBO(x) = log p(x) - E_{q(z_1 | x)} log q(z_1) / prior(z_1) for every x.
    p = at([0.55, 0.3, 0.15])
    process = kind(schedule, 3)
    denoiser = ExactCategorical(process, p)
    states = 3 if kind is MultinomialProcess else 4
    bound = enumerated_elbo(denoiser, states, schedule.grid(8, "uniform"))
    kernel = process.kernel(torch.arange(3), at(1.0)).probs
    marginal = (p[:, None] * kernel).sum(0)
    left = schedule.terminal_snr
    if kind is MultinomialProcess:
        prior = torch.full((3,), 1 / 3, dtype=F64)
    else:
        prior = at([left / 3] * 3 + [1 - left])
    missed = (kernel * (marginal / prior).log()).sum(1)
    assert torch.allclose(bound, p.log() - missed, rtol=0, atol=1e-10)
    entropy = -float((p * p.log()).sum())
    terminal = float((marginal * (marginal / prior).log()).sum())
    assert float((p * bound).sum()) == pytest.approx(-entropy - terminal, abs=1e-10)


@pytest.mark.parametrize("kind", [MultinomialProcess, AbsorbingProcess])
def test_two_dependent_variables_lose_to_the_factorised_step_and_less_with_more_steps(kind):
    joint = at([[0.45, 0.05], [0.05, 0.45]])
    entropy = -float((joint * joint.log()).sum())
    gaps = []
    for nodes in (2, 6, 18):
        process = kind(DiscreteSchedule.absorbing(nodes), 2)
        denoiser = ExactCategorical(process, joint)
        grid = process.schedule.grid(nodes, "uniform")
        bound = enumerated_elbo(denoiser, 2 if kind is MultinomialProcess else 3, grid)
        gaps.append(float((joint.flatten() * bound).sum()) + entropy)
    assert gaps == sorted(gaps)
    assert gaps[0] < -0.01
    assert -0.1 < gaps[-1] < 0


@pytest.mark.parametrize("kind", [MultinomialProcess, AbsorbingProcess])
def test_the_estimate_is_unbiased_for_categorical_data(kind):
    n = 2000
    process = kind(DiscreteSchedule([0.1] * 8), 3)
    denoiser = ExactCategorical(process, at([0.55, 0.3, 0.15]))
    exact = enumerated_elbo(
        denoiser, 3 if kind is MultinomialProcess else 4, process.schedule.grid(8, "uniform")
    )
    with pytest.warns(ScidiffusionWarning):
        bound = elbo(denoiser, torch.ones(n, 1, dtype=torch.long)).total
    error = float(bound.std()) / math.sqrt(n)
    assert abs(float(bound.mean()) - float(exact[1])) < 4 * error


# Products, shapes, options


class FromState:
    """A deterministic denoiser of any process: outputs are smooth functions of the state."""

    def __init__(self, process):
        self.process = process

    def output(self, process, z):
        if isinstance(process, ProductProcess):
            return {name: self.output(part, z[name]) for name, part in process.parts.items()}
        if isinstance(process, GaussianProcess):
            return torch.sin(3 * z)
        classes = torch.arange(process.max_classes, dtype=F64)
        return torch.cos(z[..., None] + 2 * classes)

    def __call__(self, z, t, cond=None):
        return self.process.predict(self.output(self.process, z), z, t)


def test_the_elbo_of_a_product_is_the_sum_over_its_parts():
    parts = {
        "num": GaussianProcess(DiscreteSchedule.linear(20), variance="beta"),
        "cat": MultinomialProcess(DiscreteSchedule.cosine(20), (2, 5)),
        "mask": AbsorbingProcess(DiscreteSchedule.absorbing(20), 3),
    }
    x = {
        "num": torch.randn(6, 3, dtype=F64),
        "cat": torch.tensor([[0, 4], [1, 0]] * 3),
        "mask": torch.tensor([[0], [2]] * 3),
    }
    whole = elbo(FromState(ProductProcess(parts)), x, noise=Cubature())
    single = {n: elbo(FromState(p), x[n], noise=Cubature()) for n, p in parts.items()}
    for name in ("prior", "divergences", "reconstruction", "total"):
        expected = sum(getattr(part, name) for part in single.values())
        assert torch.allclose(getattr(whole, name), expected, rtol=1e-11, atol=1e-12)


def test_terms_add_up(device):
    oracle = GaussianMixtureOracle.prince(GaussianProcess(DiscreteSchedule.linear(20))).to(device)
    x = oracle.sample(5)[0]
    bound = elbo(oracle, x)
    assert bound.grid.tolist() == pytest.approx(np.linspace(1, 0, 21).tolist())
    assert bound.divergences.shape == (5, 19)
    assert bool((bound.divergences >= 0).all())
    assert bool((bound.prior >= 0).all())
    total = bound.reconstruction - bound.divergences.sum(1) - bound.prior
    assert torch.equal(bound.total, total)
    assert bound.total.device == x.device
    assert "total=" in repr(bound)
    assert torch.equal(elbo(oracle, x).total, bound.total)


def test_rows_do_not_depend_on_the_batch():
    oracle = GaussianMixtureOracle.prince(GaussianProcess(DiscreteSchedule.linear(20)))
    x = oracle.sample(20)[0]
    whole = elbo(oracle, x, noise=KeyedNoise(2)).total
    part = elbo(oracle, x[7:14], noise=KeyedNoise(2, start=7)).total
    assert torch.allclose(whole[7:14], part, rtol=1e-12, atol=0)


def test_draws_are_averaged():
    process = GaussianProcess(DiscreteSchedule.linear(5), variance="beta")
    oracle, x = GaussianMixtureOracle.prince(process), torch.full((400, 1), 0.3, dtype=F64)
    one, many = elbo(oracle, x), elbo(oracle, x, draws=8)
    assert float(many.total.var() / one.total.var()) == pytest.approx(1 / 8, rel=0.5)
    error = float(one.total.std()) / 20
    assert abs(float(one.total.mean() - many.total.mean())) < 4.5 * error


def test_options_are_checked():
    oracle = GaussianMixtureOracle.prince(GaussianProcess(LinearVP()))
    x = torch.zeros(2, 1, dtype=F64)
    for options in (
        {"steps": 0},
        {"steps": -3},
        {"draws": 0},
        {"grid": at([0.9, 0.0])},
        {"grid": at([1.0, 0.1])},
        {"grid": at([1.0, 0.5, 0.5, 0.0])},
        {"grid": at([1.0])},
    ):
        with pytest.raises(ConfigError):
            elbo(oracle, x, **options)
