"""Rotations: the matrices, IGSO(3), its process, its posterior, its score matching loss."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

from scidiffusion.core.igso3 import SWITCH, igso3_slope_ratio, sample_igso3_angle
from scidiffusion.core.manifold import NoClosedFormError
from scidiffusion.core.manifold_objectives import ScoreMatchingLoss
from scidiffusion.core.prediction import ScorePrediction
from scidiffusion.core.rng import KeyedNoise
from scidiffusion.core.schedules import DiscreteSchedule, VESchedule
from scidiffusion.core.so3 import (
    IGSO3,
    SO3Posterior,
    SO3Process,
    exp_so3,
    geodesic_distance,
    hat,
    igso3_angle_density,
    igso3_log_prob,
    igso3_score,
    log_so3,
    uniform_rotation,
    vee,
)
from scidiffusion.errors import ConfigError
from scidiffusion.testing.manifold_oracles import IGSO3MixtureOracle

F64 = torch.float64
SIGMAS = [1e-3, 0.03, 0.2, 0.7, 1.2, math.sqrt(SWITCH), 2.0, 3.0, 10.0]


def rotations(count, seed=0):
    return uniform_rotation(torch.empty(count, 3, 3, dtype=F64), KeyedNoise(seed))


def vectors(count, length, seed=0):
    direction = KeyedNoise(seed).normal(torch.empty(count, 3, dtype=F64))
    return length * direction / direction.norm(dim=-1, keepdim=True)


def half_circle(count, width=math.pi):
    """Nodes and trapezoidal weights on [0, width]."""
    nodes = torch.linspace(0, width, count + 1, dtype=F64)
    weights = torch.full_like(nodes, width / count)
    weights[[0, -1]] /= 2
    return nodes, weights


def images(angle, var, count=40):
    """Reference: IGSO(3) by the plain image sum, away from 0."""
    turns = torch.arange(-count, count + 1, dtype=F64)
    place = angle[..., None] - 2 * math.pi * turns
    terms = (-1.0) ** turns.abs() * place * torch.exp(-(place**2) / (2 * var))
    return (
        math.sqrt(2 * math.pi) * var**-1.5 * math.exp(var / 8) * terms.sum(-1) / (angle / 2).sin()
    )


def characters(angle, var, degree=400):
    """Reference: IGSO(3) by the plain character sum, away from 0."""
    order = torch.arange(degree + 1, dtype=F64)
    terms = (2 * order + 1) * torch.exp(-0.5 * order * (order + 1) * var)
    return (terms * torch.sin((order + 0.5) * angle[..., None])).sum(-1) / (angle / 2).sin()


def test_hat_vee_and_the_cross_product():
    v, w = vectors(5, 1.3), vectors(5, 0.4, seed=1)
    torch.testing.assert_close((hat(v) @ w[..., None])[..., 0], torch.linalg.cross(v, w))
    assert torch.equal(vee(hat(v)), v)


@pytest.mark.parametrize(
    "length", [0.0, 1e-12, 1e-6, 1e-3, 0.03, 0.0317, 1.0, 3.0, math.pi - 1e-3, math.pi - 1e-8]
)
def test_exp_and_log_are_inverse(length):
    v = vectors(200, length)
    rotation = exp_so3(v)
    eye = torch.eye(3, dtype=F64).expand(200, 3, 3)
    torch.testing.assert_close(rotation @ rotation.mT, eye, rtol=0, atol=1e-14)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(200, dtype=F64))
    torch.testing.assert_close(rotation, torch.linalg.matrix_exp(hat(v)), rtol=0, atol=1e-13)
    torch.testing.assert_close(log_so3(rotation), v, rtol=1e-12, atol=1e-10)


def test_log_at_half_a_turn_and_of_random_rotations():
    half_turn = exp_so3(vectors(50, math.pi))
    vector = log_so3(half_turn)
    torch.testing.assert_close(vector.norm(dim=-1), torch.full((50,), math.pi, dtype=F64))
    torch.testing.assert_close(exp_so3(vector), half_turn, rtol=0, atol=1e-10)
    some = rotations(500)
    torch.testing.assert_close(exp_so3(log_so3(some)), some, rtol=0, atol=1e-12)
    assert float(log_so3(some).norm(dim=-1).max()) <= math.pi


@pytest.mark.parametrize("length", [0.0, 1e-9, 0.0316, 0.0317, 2.0])
def test_exp_and_log_have_the_gradients_of_a_matrix_exponential(length):
    v = vectors(4, length).requires_grad_(True)
    probe = vectors(12, 1.0, seed=3).reshape(4, 3, 3)
    (ours,) = torch.autograd.grad((exp_so3(v) * probe).sum(), v)
    (reference,) = torch.autograd.grad((torch.linalg.matrix_exp(hat(v)) * probe).sum(), v)
    torch.testing.assert_close(ours, reference, rtol=1e-11, atol=1e-11)
    (identity,) = torch.autograd.grad(log_so3(exp_so3(v)).sum(), v)
    torch.testing.assert_close(identity, torch.ones_like(v), rtol=0, atol=1e-9)


def test_uniform_rotations_are_haar():
    sample = rotations(20_000)
    angle = geodesic_distance(torch.eye(3, dtype=F64), sample)

    def cdf(a):
        return (a - np.sin(a)) / math.pi

    assert stats.kstest(angle.numpy(), cdf).pvalue > 1e-3
    # The matrix elements are orthogonal with E R_ij R_kl = 1[i = k] 1[j = l] / 3.
    flat = sample.flatten(1)
    covariance = flat.T @ flat / len(flat)
    torch.testing.assert_close(covariance, torch.eye(9, dtype=F64) / 3, rtol=0, atol=0.015)
    assert float(torch.linalg.det(sample).sub(1).abs().max()) < 1e-12


@pytest.mark.parametrize("sigma", SIGMAS)
def test_angle_density_integrates_to_one(sigma):
    angle, weight = half_circle(2000, min(math.pi, 9.5 * sigma))
    assert float((weight * igso3_angle_density(angle, sigma)).sum()) == pytest.approx(1, abs=1e-11)


@pytest.mark.parametrize("sigma", [0.5, 1.0, math.sqrt(SWITCH), 2.0, 3.0])
def test_density_is_both_sums(sigma):
    angle, ours = half_circle(300)[0][5:], None
    ours = igso3_log_prob(angle, sigma)
    for reference in (images, characters):
        expected = reference(angle, sigma**2).log()
        # The plain sums themselves cancel where the density is small.
        close = expected > -20
        torch.testing.assert_close(ours[close], expected[close], rtol=1e-9, atol=1e-9)


def test_the_two_expansions_agree_where_they_change_places():
    angle = half_circle(500)[0]
    for function in (igso3_log_prob, igso3_slope_ratio):
        below, above = (function(angle, math.sqrt(SWITCH + shift)) for shift in (-1e-14, 1e-14))
        torch.testing.assert_close(below, above, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sigma", [1e-3, 0.01])
def test_small_sigma_is_a_gaussian_rotation_vector(sigma):
    vector = vectors(100, 1.0) * torch.linspace(0, 4 * sigma, 100, dtype=F64)[:, None]
    gaussian = -(vector**2).sum(-1) / (2 * sigma**2) - 1.5 * math.log(2 * math.pi * sigma**2)
    # At the identity the Haar measure is d^3 v / (8 pi^2).
    ours = igso3_log_prob(vector.norm(dim=-1), sigma) - math.log(8 * math.pi**2)
    torch.testing.assert_close(ours, gaussian, rtol=0, atol=2 * sigma**2)
    score = igso3_score(vector, sigma)
    torch.testing.assert_close(score, -vector / sigma**2, rtol=2 * sigma**2, atol=1e-9)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_moments_of_the_characters_make_a_semigroup(sigma):
    angle, weight = half_circle(2000, min(math.pi, 9.5 * sigma))
    mass = weight * igso3_angle_density(angle, sigma)
    for degree in (1, 2, 3):
        orders = torch.arange(1, degree + 1, dtype=F64)
        character = 1 + 2 * torch.cos(orders * angle[:, None]).sum(-1)
        expected = (2 * degree + 1) * math.exp(-0.5 * degree * (degree + 1) * sigma**2)
        assert float((mass * character).sum()) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("sigma", [0.05, 0.5, 1.7, 1.8, 3.0])
def test_score_is_the_gradient_of_the_log_density_along_body_rotations(sigma):
    mean = rotations(60, seed=1)
    z = mean @ exp_so3(vectors(60, 1.0) * torch.linspace(0.01, 3.1, 60, dtype=F64)[:, None])
    turn = torch.zeros(60, 3, dtype=F64, requires_grad=True)
    log_prob = igso3_log_prob(geodesic_distance(mean, z @ exp_so3(turn)), sigma)
    (gradient,) = torch.autograd.grad(log_prob.sum(), turn)
    score = igso3_score(log_so3(mean.mT @ z), sigma)
    scale = max(1.0, 3 / sigma**2)
    torch.testing.assert_close(score / scale, gradient / scale, rtol=0, atol=1e-9)
    at_mean = igso3_score(torch.zeros(2, 3, dtype=F64), sigma)
    assert torch.equal(at_mean, torch.zeros(2, 3, dtype=F64))


@pytest.mark.parametrize("sigma", [0.004, 0.3, 1.0, 2.5])
def test_sampled_angles_follow_the_density(sigma):
    uniform = KeyedNoise(5).uniform(torch.empty(20_000, dtype=F64))
    sample = sample_igso3_angle(uniform, torch.tensor(sigma)).numpy()
    angle, _ = half_circle(4000, min(math.pi, 9.5 * sigma))
    density = igso3_angle_density(angle, sigma)
    cdf = torch.cat([torch.zeros(1, dtype=F64), (density[1:] + density[:-1]).cumsum(0)])

    def at(a):
        return np.interp(a, angle, cdf / cdf[-1])

    assert stats.kstest(sample, at).pvalue > 1e-3
    # One sigma a row, and one a number, give what a common one does.
    rows = sample_igso3_angle(uniform[:6].reshape(3, 2), torch.full((3, 1), sigma))
    each = sample_igso3_angle(uniform[:6].reshape(3, 2), torch.full((3, 2), sigma))
    common = sample_igso3_angle(uniform[:6].reshape(3, 2), torch.tensor(sigma))
    torch.testing.assert_close(rows, common, rtol=0, atol=1e-12)
    torch.testing.assert_close(each, common, rtol=0, atol=1e-12)


def test_kernel_is_invariant_and_scores_turn_with_the_frame():
    process, t = SO3Process(), torch.tensor(0.6)
    x, z, g = rotations(20, 1), rotations(20, 2), rotations(20, 3)
    log_prob, score = process.kernel(x, t).log_prob(z), process.kernel_score(x, z, t)
    for left, right in ((g, torch.eye(3, dtype=F64)), (torch.eye(3, dtype=F64), g)):
        moved_x, moved_z = left @ x @ right, left @ z @ right
        torch.testing.assert_close(process.kernel(moved_x, t).log_prob(moved_z), log_prob)
        expected = (right.mT @ score[..., None])[..., 0] if right is g else score
        torch.testing.assert_close(process.kernel_score(moved_x, moved_z, t), expected)
    # Symmetric: the score at x of the kernel around z points the opposite way.
    torch.testing.assert_close(process.kernel(z, t).log_prob(x), log_prob)


def test_noise_rotates_with_the_data():
    process, t = SO3Process(), torch.tensor(0.5)
    x, g = rotations(20, 1), rotations(20, 3)
    moved = process.q_sample(g @ x, t, KeyedNoise(0))
    still = process.q_sample(x, t, KeyedNoise(0))
    torch.testing.assert_close(moved.z, g @ still.z)
    torch.testing.assert_close(moved.eps, still.eps)
    torch.testing.assert_close(x @ exp_so3(still.eps), still.z)


@pytest.mark.parametrize("t", [0.2, 0.5, 0.8, 1.0])
def test_iterated_chain_has_the_moments_of_the_kernel(t):
    process, n, chain_steps = SO3Process(), 8000, 5
    x = rotations(1).expand(n, 3, 3)
    times = torch.linspace(0, t, chain_steps + 1, dtype=F64)
    z = x
    for step in range(chain_steps):
        z = process.forward_step(z, times[step], times[step + 1], KeyedNoise(3).at(step))
    direct = process.q_sample(x, times[-1], KeyedNoise(4)).z
    var = float(process.schedule.marginal(t).var)
    for sample in (z, direct):
        relative = x.mT @ sample
        # E R = exp(-v) I, and the second character decays as exp(-3 v).
        expected = math.exp(-var) * torch.eye(3, dtype=F64)
        error = 4.5 / math.sqrt(3 * n)
        torch.testing.assert_close(relative.mean(0), expected, rtol=0, atol=error)
        angle = geodesic_distance(x, sample)
        second = 1 + 2 * torch.cos(angle) + 2 * torch.cos(2 * angle)
        assert float(second.mean()) == pytest.approx(5 * math.exp(-3 * var), abs=4.5 / n**0.5)


def posterior_grid(distance, var_s, var_step, counts=(300, 200)):
    """Density of (u, c) of the posterior at a pair `distance` apart, with quadrature weights."""
    width = min(math.pi, distance + 9 * math.sqrt(var_s))
    angle, weight_u = half_circle(counts[0], width)
    node, weight_c = np.polynomial.legendre.leggauss(counts[1])
    cosine, weight_c = torch.from_numpy(node), torch.from_numpy(weight_c)
    grid = torch.cartesian_prod(angle, cosine)
    sine = (1 - grid[:, 1] ** 2).sqrt()
    vector = grid[:, :1] * torch.stack([sine, torch.zeros_like(sine), grid[:, 1]], -1)
    points = exp_so3(vector)
    x = torch.eye(3, dtype=F64).expand_as(points)
    z = exp_so3(torch.tensor([0.0, 0.0, distance], dtype=F64)).expand_as(points)
    posterior = SO3Posterior(
        x, z, torch.tensor(var_s, dtype=F64), torch.tensor(var_step, dtype=F64)
    )
    haar = (1 - torch.cos(grid[:, 0])) / math.pi / 2
    weight = haar * torch.cartesian_prod(weight_u, weight_c).prod(1)
    return posterior, points, weight * posterior.log_prob(points).exp()


PAIRS = [
    (1.0, 0.3, 0.2),
    (3.1, 0.3, 0.6),
    (2.0, 4.0, 1.5),
    (0.5, 0.02, 0.05),
    (3.0, 1.0, 5.0),
    (1e-9, 0.4, 0.3),
]


@pytest.mark.parametrize(("distance", "var_s", "var_step"), PAIRS)
def test_posterior_density_integrates_to_one_and_its_samples_follow_it(distance, var_s, var_step):
    posterior, points, mass = posterior_grid(distance, var_s, var_step)
    assert float(mass.sum()) == pytest.approx(1, abs=1e-6)
    n = 1500
    drawn = SO3Posterior(
        posterior.x[:1].expand(n, 3, 3),
        posterior.z[:1].expand(n, 3, 3),
        posterior.var_s,
        posterior.var_step,
    ).sample(KeyedNoise(9))

    def features(r):
        u = geodesic_distance(posterior.x[0], r)
        w = geodesic_distance(posterior.z[0], r)
        return torch.stack([u, w, u * w, u**2, w**2, r[:, 2, 2], r[:, 0, 0] + r[:, 1, 1]], -1)

    on_grid, on_sample = features(points), features(drawn)
    expected = (mass[:, None] * on_grid).sum(0)
    spread = ((mass[:, None] * on_grid**2).sum(0) - expected**2).clamp(min=0).sqrt()
    deviation = (on_sample.mean(0) - expected).abs() / (spread / math.sqrt(n) + 1e-6)
    assert float(deviation.max()) < 4.5
    # The azimuth is uniform: nothing points across the geodesic.
    across = log_so3(drawn)[:, :2]
    assert float((across.mean(0).abs() / across.std(0)).max()) * math.sqrt(n) < 4.5


@pytest.mark.parametrize(("distance", "var_s", "var_step"), PAIRS)
def test_mode_of_the_posterior_is_the_best_point(distance, var_s, var_step):
    posterior, points, _ = posterior_grid(distance, var_s, var_step, (200, 100))
    best = posterior.log_prob(points).max()
    at_mode = posterior.log_prob(posterior.mode)[0]
    assert float(at_mode) >= float(best) - 1e-12
    assert float(at_mode) == pytest.approx(float(best), abs=0.01)


def test_posterior_after_the_kernel_gives_back_the_earlier_kernel():
    process, n = SO3Process(), 1500
    s, t = torch.tensor(0.6, dtype=F64), torch.tensor(0.7, dtype=F64)
    x = rotations(1).expand(n, 3, 3)
    z = process.q_sample(x, t, KeyedNoise(1)).z
    earlier = process.posterior(x, z, t, s).sample(KeyedNoise(2))
    angle = geodesic_distance(x, earlier)
    grid, _ = half_circle(2000)
    density = igso3_angle_density(grid, process.schedule.marginal(s).std)
    cdf = torch.cat([torch.zeros(1, dtype=F64), (density[1:] + density[:-1]).cumsum(0)])

    def at(a):
        return np.interp(a, grid, cdf / cdf[-1])

    assert stats.kstest(angle.numpy(), at).pvalue > 1e-3
    step = geodesic_distance(earlier, z)
    var = float(process.schedule.transition(t, s).var)
    error = 4.5 / math.sqrt(n)
    assert float((1 + 2 * step.cos()).mean()) == pytest.approx(3 * math.exp(-var), abs=error)


def test_posterior_at_the_data_is_the_data():
    process, x, z = SO3Process(), rotations(3, 1), rotations(3, 2)
    posterior = process.posterior(x, z, torch.tensor(0.5), torch.tensor(0.0))
    torch.testing.assert_close(posterior.sample(KeyedNoise(0)), x, rtol=0, atol=1e-12)
    torch.testing.assert_close(posterior.mode, x, rtol=0, atol=1e-10)


def test_what_has_no_closed_form_says_so():
    process, x = SO3Process(), rotations(2)
    t, s = torch.tensor(0.5), torch.tensor(0.4)
    prediction = process.predict(torch.zeros(2, 3, dtype=F64), x, t)
    with pytest.raises(NoClosedFormError, match="ScoreMatchingLoss"):
        process.divergence(x, x, prediction, t, s)
    with pytest.raises(ConfigError, match="scale 1"):
        SO3Process(DiscreteSchedule.linear(10))


@pytest.mark.parametrize("sigma_max", [0.5, 1.5, 2.0, math.pi])
def test_prior_divergence_is_the_integral(sigma_max):
    process = SO3Process(VESchedule(0.01, sigma_max))
    sigma = float(process.schedule.marginal(1.0).std)
    angle, weight = half_circle(3000)
    density = igso3_angle_density(angle, sigma)
    expected = float((weight * density * igso3_log_prob(angle, sigma)).sum())
    kl = process.prior_divergence(torch.empty(3, 5, 3, 3, dtype=F64))
    torch.testing.assert_close(kl, torch.full((3,), 5 * expected, dtype=F64), rtol=0, atol=1e-11)
    if sigma_max == math.pi:
        # 9 exp(-2 v) / 2 is the leading term of the divergence from the uniform distribution.
        assert expected == pytest.approx(4.5 * math.exp(-2 * sigma**2), rel=0.01)


def test_reconstruction_is_the_density_of_the_step_to_the_data():
    process, x, z = SO3Process(), rotations(4, 1), rotations(4, 2)
    t = torch.tensor(0.4, dtype=F64)
    std = process.schedule.marginal(t).std
    prediction = process.predict(vectors(4, 0.7), z, t)
    log_prob = process.reconstruction(x, prediction, t)
    mean = z @ exp_so3(std**2 * prediction.score)
    torch.testing.assert_close(log_prob, IGSO3(mean, std).log_prob(x))


def test_outputs_are_read_in_units_of_the_score():
    process = SO3Process()
    x = rotations(1).expand(4000, 3, 3)
    noise = KeyedNoise(0)
    for time in (0.05, 0.5, 0.95):
        t = torch.full((4000,), time, dtype=F64)
        z = process.q_sample(x, t, noise).z
        unit = process.predict(torch.ones(4000, 3, dtype=F64), z, t).score[0, 0]
        score = process.kernel_score(x, z, t)
        assert float((score / unit).square().mean()) == pytest.approx(1.0, abs=0.08)


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_last_step_carries_no_noise(variance):
    oracle = IGSO3MixtureOracle([1, 2], rotations(2), [0.3, 0.2], SO3Process(variance=variance))
    t, s = torch.tensor([0.2, 0.2, 0.4]), torch.tensor([0.0, 0.0, 0.1])
    z = rotations(3, seed=7)
    step = oracle.process.reverse(oracle(z, t), t, s)
    first, second = step.sample(KeyedNoise(0)), step.sample(KeyedNoise(1))
    assert torch.equal(first[:2], second[:2])
    assert not torch.equal(first[2], second[2])
    var = oracle.process.schedule.marginal(t).var[:, None]
    tweedie = z @ exp_so3(var * oracle(z, t).score)
    torch.testing.assert_close(first[:2], tweedie[:2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("t", [0.0, 0.4, 0.8, 1.0])
def test_score_of_the_oracle_is_the_gradient_of_its_log_density(t):
    oracle = IGSO3MixtureOracle([1, 3, 2], rotations(3), [0.8, 0.9, 0.7], SO3Process())
    z = rotations(40, seed=2)
    turn = torch.zeros(40, 3, dtype=F64, requires_grad=True)
    (gradient,) = torch.autograd.grad(oracle.log_prob(z @ exp_so3(turn), t).sum(), turn)
    score = oracle(z, torch.tensor(t, dtype=F64)).score
    torch.testing.assert_close(score, gradient, rtol=1e-9, atol=1e-9)
    # Mean of the density over the Haar measure is 1.
    values = oracle.log_prob(rotations(20_000, seed=4), t).exp()
    assert float(values.mean()) == pytest.approx(1, abs=4.5 * float(values.std()) / 20_000**0.5)


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_ancestral_sampling_with_the_oracle_recovers_the_mixture(variance):
    process = SO3Process(variance=variance)
    centres = rotations(2, seed=5)
    assert float(geodesic_distance(centres[0], centres[1])) > 2
    oracle = IGSO3MixtureOracle([0.3, 0.7], centres, [0.3, 0.2], process)
    noise = KeyedNoise(2)
    z = process.prior(torch.empty(3000, 3, 3, dtype=F64), noise.at(0))
    for step, (t, s) in enumerate(pairwise(process.schedule.grid(100, "uniform")), 1):
        z = process.reverse(oracle(z, t), t, s).sample(noise.at(step))
    eye = torch.eye(3, dtype=F64).expand_as(z)
    torch.testing.assert_close(z.mT @ z, eye, rtol=0, atol=1e-11)
    vector = log_so3(centres.mT[:, None] @ z)
    nearest = vector.norm(dim=-1).argmin(0)
    assert float((nearest == 0).double().mean()) == pytest.approx(0.3, abs=0.035)
    for component, sigma in enumerate((0.3, 0.2)):
        spread = float((vector[component][nearest == component] ** 2).mean().sqrt())
        assert spread == pytest.approx(sigma, rel=0.08)


def test_score_matching_loss_is_one_for_no_score_and_least_for_the_exact_one():
    centres = rotations(4, seed=5).reshape(2, 2, 3, 3)
    oracle = IGSO3MixtureOracle([0.3, 0.7], centres, [0.3, 0.2], SO3Process())
    x, loss = oracle.sample(1500, KeyedNoise(0)), ScoreMatchingLoss()
    assert x.shape == (1500, 2, 3, 3)

    def mean_loss(factor, t):
        def denoiser(z, t, cond=None):
            return ScorePrediction(z, factor * oracle(z, t).score)

        denoiser.process = oracle.process
        times = torch.full((len(x),), t, dtype=F64)
        return float(loss(denoiser, x, KeyedNoise(1), t=times).mean())

    for t in (0.2, 0.6, 0.8):
        losses = [mean_loss(factor, t) for factor in (0.0, 0.9, 1.0, 1.1)]
        assert losses[0] == pytest.approx(1, abs=0.1)
        assert losses[2] == min(losses)


@pytest.mark.parametrize("t", [0.1, 0.6, 1.0])
def test_expected_square_of_the_score_is_the_integral(t):
    process = SO3Process()
    sigma = process.schedule.marginal(t).std
    angle, weight = half_circle(6000)
    square = (angle * igso3_slope_ratio(angle, sigma)) ** 2
    expected = (weight * igso3_angle_density(angle, sigma) * square).sum()
    torch.testing.assert_close(process.expected_square(sigma**2), expected, rtol=1e-9, atol=0)


def test_times_of_rows_and_devices(device):
    process = SO3Process()
    x = uniform_rotation(torch.empty(4, 2, 3, 3, device=device), KeyedNoise(3))
    t = torch.linspace(0.3, 1.0, 4, dtype=F64, device=device)
    s = t - 0.25
    corrupted = process.q_sample(x, t, KeyedNoise(0))
    assert corrupted.eps.shape == (4, 2, 3)
    prediction = process.predict(torch.ones_like(corrupted.eps), corrupted.z, t)
    assert prediction.score.dtype == x.dtype
    posterior = process.posterior(x, corrupted.z, t, s)
    outputs = {
        "prior": process.prior(x, KeyedNoise(0)),
        "z": corrupted.z,
        "step": process.forward_step(x, s, t, KeyedNoise(0)),
        "posterior": posterior.sample(KeyedNoise(0)),
        "mode": posterior.mode,
        "reverse": process.reverse(prediction, t, s).sample(KeyedNoise(0)),
    }
    eye = torch.eye(3, device=device).expand_as(x)
    for value in outputs.values():
        assert value.shape == x.shape
        assert value.dtype == x.dtype
        assert value.device.type == device.type
        torch.testing.assert_close(value.mT @ value, eye, rtol=0, atol=1e-5)
    assert posterior.log_prob(x).shape == (4,)
    assert process.reconstruction(x, prediction, t).device.type == device.type
    scalar = process.q_sample(x, t[2].cpu(), KeyedNoise(0)).z
    torch.testing.assert_close(scalar[2], corrupted.z[2])
