"""The oracle itself, against numerical integration, derivatives and an independent library."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from scidiffusion.core import (
    CosineVP,
    Denoiser,
    DiscreteSchedule,
    EDMSchedule,
    GaussianProcess,
    KeyedNoise,
    LinearVP,
    Parameterization,
    VESchedule,
)
from scidiffusion.errors import ConfigError
from scidiffusion.testing.mixtures import GaussianMixtureOracle

F64 = torch.float64
WEIGHTS = [0.5, 0.2, 0.3]
MEANS = torch.tensor([[0.5, -1.0], [-1.0, 1.0], [0.0, 0.3]], dtype=F64)
COVARIANCES = torch.tensor(
    [[[1.0, 0.8], [0.8, 1.0]], [[0.3, -0.1], [-0.1, 0.2]], [[0.05, 0.0], [0.0, 2.0]]], dtype=F64
)
SCHEDULES = {
    "linear": DiscreteSchedule.linear(20),
    "vp": LinearVP(),
    "ve": VESchedule(),
    "edm": EDMSchedule(),
    "zero snr": DiscreteSchedule.linear(20).with_zero_terminal_snr(),
}
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())


def at(value):
    return torch.tensor(value, dtype=F64)


def planar(schedule):
    process = GaussianProcess(schedule, parameterization=Parameterization.V)
    return GaussianMixtureOracle(WEIGHTS, MEANS, COVARIANCES, process)


def noisy(oracle, t, n=40):
    x, label = oracle.sample(n)
    return oracle.process.q_sample(x, t, KeyedNoise(1)).z, label


def reference(oracle, z, t):
    """Component log-densities w_k N(z; scale mu_k, scale^2 Sigma_k + std^2 I), by torch."""
    marginal = oracle.process.schedule.marginal(t)
    covariance = marginal.scale**2 * COVARIANCES + marginal.var * torch.eye(2, dtype=F64)
    normal = torch.distributions.MultivariateNormal(marginal.scale * MEANS, covariance)
    return normal.log_prob(z[:, None]) + at(WEIGHTS).log(), covariance


@each_schedule
@pytest.mark.parametrize("t", [0.25, 0.6, 1.0])
def test_density_and_classes_are_those_of_the_noisy_mixture(schedule, t):
    oracle = planar(schedule)
    z, label = noisy(oracle, at(t))
    log_q, _ = reference(oracle, z, t)
    assert torch.allclose(oracle.log_prob(z, t), log_q.logsumexp(1), rtol=1e-10, atol=1e-10)
    expected = log_q.log_softmax(1)
    for k in range(3):
        assert torch.allclose(oracle.log_class(z, t, k), expected[:, k], rtol=1e-8, atol=1e-10)
    by_row = expected.gather(1, label[:, None])[:, 0]
    assert torch.allclose(oracle.log_class(z, t, label), by_row, rtol=1e-8, atol=1e-10)


@each_schedule
@pytest.mark.parametrize("t", [0.25, 0.6, 1.0])
def test_score_is_the_gradient_of_the_log_density(schedule, t):
    oracle = planar(schedule)
    z = noisy(oracle, at(t))[0].requires_grad_(True)
    (score,) = torch.autograd.grad(oracle.log_prob(z, t).sum(), z)
    found = oracle(z.detach(), at(t))
    assert torch.allclose(found.score, score, rtol=1e-9, atol=1e-10)
    assert torch.allclose(found.eps, -schedule.marginal(t).std * score, rtol=1e-9, atol=1e-10)


@each_schedule
@pytest.mark.parametrize("t", [0.05, 0.6, 1.0])
def test_mean_and_variance_of_the_clean_data(schedule, t):
    # E[x | z] and Var[x | z] from each component's Gaussian conditional, by explicit inverses.
    oracle = planar(schedule)
    z, _ = noisy(oracle, at(t))
    log_q, covariance = reference(oracle, z, t)
    scale = schedule.marginal(t).scale
    gain = scale * COVARIANCES @ torch.linalg.inv(covariance)
    mean = MEANS + torch.einsum("kij,bkj->bki", gain, z[:, None] - scale * MEANS)
    within = (COVARIANCES - gain @ (scale * COVARIANCES)).diagonal(dim1=1, dim2=2)
    share = log_q.softmax(1)[..., None]
    x0 = (share * mean).sum(1)
    second = (share * (within + mean**2)).sum(1)
    found = oracle(z, at(t))
    assert torch.allclose(found.x0, x0, rtol=1e-8, atol=1e-9)
    assert torch.allclose(found.x0_var, second - x0**2, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    "schedule", [LinearVP(), VESchedule(), EDMSchedule(), DiscreteSchedule.linear(20)]
)
def test_tweedie_of_second_order(schedule):
    # Var[x | z] = (std^2 / scale) d E[x | z] / dz = std^2 / scale^2 (1 + std^2 d score / dz).
    oracle = GaussianMixtureOracle.prince(GaussianProcess(schedule))
    t = at(0.5)
    z = noisy(oracle, t)[0]
    marginal, h = schedule.marginal(t), 1e-5 * float(schedule.marginal(t).std)
    slope = (oracle(z + h, t).x0 - oracle(z - h, t).x0) / (2 * h)
    assert torch.allclose(
        oracle(z, t).x0_var, marginal.var / marginal.scale * slope, rtol=1e-5, atol=1e-8
    )
    slope = (oracle(z + h, t).score - oracle(z - h, t).score) / (2 * h)
    expected = marginal.var / marginal.scale**2 * (1 + marginal.var * slope)
    assert torch.allclose(oracle(z, t).x0_var, expected, rtol=1e-4, atol=1e-6)


def test_posterior_moments_by_numerical_integration():
    oracle = GaussianMixtureOracle.prince(GaussianProcess(LinearVP()))
    x = torch.linspace(-6, 6, 20_001, dtype=F64)
    for t in (0.1, 0.4, 0.9):
        marginal = LinearVP().marginal(t)
        for z in (-1.5, 0.2, 2.0):
            kernel = -((z - marginal.scale * x) ** 2) / (2 * marginal.var)
            weight = (oracle.log_prob(x[:, None]) + kernel).exp()
            weight = weight / torch.trapezoid(weight, x)
            mean = torch.trapezoid(weight * x, x)
            var = torch.trapezoid(weight * (x - mean) ** 2, x)
            found = oracle(at([[z]]), at(t))
            assert float(found.x0) == pytest.approx(float(mean), abs=1e-8)
            assert float(found.x0_var) == pytest.approx(float(var), abs=1e-8)


@pytest.mark.parametrize("t", [0.0, 0.25, 1.0])
def test_the_noisy_density_integrates_to_one(t):
    oracle = GaussianMixtureOracle.prince(GaussianProcess(DiscreteSchedule.linear(20)))
    z = torch.linspace(-9, 9, 20_001, dtype=F64)
    density = oracle.log_prob(z[:, None], t).exp()
    assert float(torch.trapezoid(density, z)) == pytest.approx(1, abs=1e-10)


def test_the_data_approach_the_standard_normal_monotonically():
    oracle = GaussianMixtureOracle.prince(GaussianProcess(DiscreteSchedule.linear(20)))
    z = torch.linspace(-9, 9, 8001, dtype=F64)
    normal = torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    distance = [
        float(torch.trapezoid((oracle.log_prob(z[:, None], k / 20).exp() - normal).abs(), z)) / 2
        for k in range(21)
    ]
    assert distance == sorted(distance, reverse=True)
    assert distance[0] > 0.3
    assert distance[-1] < 1e-4


@each_schedule
def test_conditions_select_a_component(schedule):
    oracle = planar(schedule)
    t = at(0.5)
    z, _ = noisy(oracle, t)
    unconditional = oracle(z, t)
    assert torch.equal(oracle(z, t, torch.full((40,), -1)).x0, unconditional.x0)
    for k in range(3):
        alone = GaussianMixtureOracle(
            [1.0], MEANS[k : k + 1], COVARIANCES[k : k + 1], oracle.process
        )
        expected = alone(z, t)
        found = oracle(z, t, torch.full((40,), k))
        assert torch.allclose(found.x0, expected.x0, rtol=1e-10, atol=1e-12)
        assert torch.allclose(found.x0_var, expected.x0_var, rtol=1e-10, atol=1e-12)
    # Bayes' rule of scores: conditional = unconditional + grad log p(k | z).
    z = z.requires_grad_(True)
    (gradient,) = torch.autograd.grad(oracle.log_class(z, t, 1).sum(), z)
    conditional = oracle(z.detach(), t, torch.ones(40, dtype=torch.long)).score
    assert torch.allclose(conditional, unconditional.score + gradient, rtol=1e-7, atol=1e-9)
    mixed = torch.tensor([0, -1, 2]).repeat(14)[:40]
    rows = oracle(z.detach(), t, mixed).x0
    assert torch.allclose(rows[1], unconditional.x0[1], rtol=1e-12)
    assert torch.allclose(rows[0], oracle(z.detach(), t, torch.zeros(40).long()).x0[0], rtol=1e-12)


@pytest.mark.parametrize("schedule", [CosineVP(), VESchedule(), EDMSchedule()])
def test_both_ends_are_exact(schedule):
    # Beside the data eps must not drown in x0, nor x0 in eps at the other end.
    oracle = GaussianMixtureOracle([1.0], [0.3], [0.5], GaussianProcess(schedule))
    for t in (schedule.t_min, 1.0):
        marginal = schedule.marginal(t)
        x, eps = at([[1.1], [-0.7]]), at([[0.4], [-1.3]])
        z = marginal.scale * x + marginal.std * eps
        total = marginal.scale**2 * 0.5 + marginal.var
        residual = marginal.scale * (x - 0.3) + marginal.std * eps
        found = oracle(z, at(t))
        assert torch.allclose(found.eps, marginal.std / total * residual, rtol=0, atol=1e-13)
        assert torch.allclose(
            found.x0, 0.3 + marginal.scale * 0.5 / total * residual, rtol=0, atol=1e-13
        )


def test_zero_terminal_snr_knows_only_the_mean():
    oracle = planar(SCHEDULES["zero snr"])
    found = oracle(torch.randn(5, 2, dtype=F64), at(1.0))
    mean = (at(WEIGHTS)[:, None] * MEANS).sum(0)
    assert torch.allclose(found.x0, mean.expand(5, 2), rtol=1e-12)
    spread = at(WEIGHTS)[:, None] * (COVARIANCES.diagonal(dim1=1, dim2=2) + (MEANS - mean) ** 2)
    assert torch.allclose(found.x0_var, spread.sum(0).expand(5, 2), rtol=1e-12)


def test_times_may_differ_by_row(device):
    oracle = planar(LinearVP()).to(device)
    z, t = torch.randn(6, 2, dtype=F64, device=device), torch.linspace(0.1, 1, 6, device=device)
    whole = oracle(z, t)
    for i in range(6):
        one = oracle(z[i : i + 1], t[i])
        for name in ("x0", "eps", "score", "x0_var"):
            expected = getattr(one, name)
            assert torch.allclose(
                getattr(whole, name)[i : i + 1], expected, rtol=1e-10, atol=1e-12
            )
        assert torch.allclose(oracle.log_prob(z, t)[i], oracle.log_prob(z[i : i + 1], t[i])[0])


def test_samples_have_the_law_of_the_mixture():
    oracle, n = planar(LinearVP()), 20_000
    x, label = oracle.sample(n)
    assert x.dtype == F64
    assert stats.chisquare(torch.bincount(label).numpy(), n * np.array(WEIGHTS)).pvalue > 1e-3
    for k in range(3):
        root = torch.linalg.cholesky(COVARIANCES[k])
        white = torch.linalg.solve_triangular(root, (x[label == k] - MEANS[k]).T, upper=False)
        for row in white:
            assert stats.kstest(row.numpy(), "norm").pvalue > 1e-3
        assert abs(np.corrcoef(white)[0, 1]) < 4.5 / math.sqrt(white.shape[1])
    assert torch.equal(oracle.sample(n)[0], x)
    assert not torch.equal(oracle.sample(n, KeyedNoise(1))[0], x)


def test_prince_is_the_mixture_of_the_notebooks():
    oracle = GaussianMixtureOracle.prince(GaussianProcess(LinearVP()))
    assert oracle.means[:, 0].tolist() == [1.5, -0.216, 0.45, -1.875]
    assert oracle.covariances[:, 0, 0].sqrt().tolist() == pytest.approx([0.3, 0.15, 0.525, 0.075])
    assert oracle.weights.tolist() == pytest.approx([0.2, 0.3, 0.35, 0.15])
    x = torch.linspace(-6, 6, 20_001, dtype=F64)
    density = oracle.log_prob(x[:, None]).exp()
    mean = float(torch.trapezoid(density * x, x))
    assert math.sqrt(float(torch.trapezoid(density * (x - mean) ** 2, x))) == pytest.approx(
        1.083, abs=1e-3
    )
    outside = float(torch.trapezoid(density * (x.abs() > 1), x))
    assert outside == pytest.approx(0.39, abs=0.01)


def test_quantiles_invert_the_distribution_function():
    oracle = GaussianMixtureOracle.prince(GaussianProcess(LinearVP()))
    p = torch.tensor([1e-6, 0.001, 0.1, 0.5, 0.77, 0.999, 1 - 1e-6], dtype=F64)
    x = oracle.quantiles(p)
    below = sum(
        w * stats.norm(m, s).cdf(x.numpy())
        for w, m, s in zip(
            [0.2, 0.3, 0.35, 0.15],
            [1.5, -0.216, 0.45, -1.875],
            [0.3, 0.15, 0.525, 0.075],
            strict=True,
        )
    )
    assert np.abs(below - p.numpy()).max() < 1e-12
    with pytest.raises(ConfigError, match="one-dimensional"):
        planar(LinearVP()).quantiles(p)


def test_wasserstein_distance():
    oracle = GaussianMixtureOracle.prince(GaussianProcess(LinearVP()))
    perfect = oracle.quantiles((torch.arange(2000, dtype=F64) + 0.5) / 2000)[:, None]
    assert oracle.wasserstein_1(perfect) < 1e-12
    assert oracle.wasserstein_1(perfect.flip(0)) < 1e-12
    assert oracle.wasserstein_1(perfect + 0.3) == pytest.approx(0.3, abs=1e-12)
    other = torch.randn(2000, 1, dtype=F64)
    independent = stats.wasserstein_distance(other[:, 0].numpy(), perfect[:, 0].numpy())
    assert oracle.wasserstein_1(other) == pytest.approx(independent, rel=1e-9)
    assert 0.005 < oracle.wasserstein_1(oracle.sample(2000)[0]) < 0.06


def test_covariances_in_every_shape():
    process, z = GaussianProcess(LinearVP()), torch.randn(4, 2, dtype=F64)
    means = [[0.0, 1.0], [1.0, -1.0]]
    isotropic = GaussianMixtureOracle([1, 1], means, [0.5, 2.0], process)
    diagonal = GaussianMixtureOracle([2, 2], means, [[0.5, 0.5], [2.0, 2.0]], process)
    full = GaussianMixtureOracle(
        [0.5, 0.5], means, torch.stack([0.5 * torch.eye(2), 2 * torch.eye(2)]), process
    )
    for oracle in (diagonal, full):
        assert torch.allclose(oracle.log_prob(z, 0.3), isotropic.log_prob(z, 0.3), rtol=1e-12)
        found, expected = oracle(z, at(0.3)), isotropic(z, at(0.3))
        assert torch.allclose(found.x0, expected.x0, rtol=1e-12)
        assert torch.allclose(found.x0_var, expected.x0_var, rtol=1e-12)


def test_it_is_a_denoiser_in_the_precision_of_the_state(device):
    oracle = planar(DiscreteSchedule.linear(20)).to(device)
    assert isinstance(oracle, Denoiser)
    assert oracle.means.device.type == device.type
    for dtype in (torch.float32, F64):
        z = torch.randn(3, 2, dtype=dtype, device=device)
        found = oracle(z, at(0.5))
        for name in ("x0", "eps", "v", "score", "x0_var"):
            assert getattr(found, name).dtype == dtype
            assert getattr(found, name).device == z.device


@pytest.mark.parametrize(
    ("weights", "means", "covariances"),
    [
        ([1.0], [0.0, 1.0], [1.0, 1.0]),
        ([0.5, 0.5], [0.0, 1.0], [1.0]),
        ([0.5, -0.5], [0.0, 1.0], [1.0, 1.0]),
        ([0.5, 0.5], [0.0, 1.0], [1.0, 0.0]),
        ([1.0], [[0.0, 0.0]], [[[1.0, 2.0], [2.0, 1.0]]]),
        ([1.0], [[0.0, 0.0]], [[1.0, 1.0, 1.0]]),
    ],
)
def test_impossible_mixtures_are_refused(weights, means, covariances):
    with pytest.raises(ConfigError, match=r"weights|positive definite"):
        GaussianMixtureOracle(weights, means, covariances, GaussianProcess(LinearVP()))
