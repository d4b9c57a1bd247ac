"""The circle: wrapped normal, its process, its posterior, its score matching loss."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

from scidiffusion.core.manifold_objectives import ScoreMatchingLoss
from scidiffusion.core.prediction import ScorePrediction
from scidiffusion.core.rng import KeyedNoise
from scidiffusion.core.schedules import CosineVP, DiscreteSchedule, VESchedule
from scidiffusion.core.torus import (
    TorusProcess,
    WrappedNormal,
    wrap,
    wrapped_normal_log_prob,
    wrapped_normal_score,
)
from scidiffusion.errors import ConfigError
from scidiffusion.testing.manifold_oracles import WrappedMixtureOracle

F64 = torch.float64
VARIANCES = [1e-6, 1e-4, 0.03, 0.5, 3.0, math.pi - 1e-9, math.pi + 1e-9, 5.0, 20.0, 500.0]


def circle(count: int) -> torch.Tensor:
    """Nodes of the (spectrally accurate) trapezoidal rule on the circle."""
    return -math.pi + 2 * math.pi * torch.arange(count, dtype=F64) / count


def mean_on_circle(value: torch.Tensor) -> torch.Tensor:
    """Integral over the circle of values at `circle` nodes (last dimension)."""
    return 2 * math.pi * value.mean(-1)


def images(angle, var, count=200):
    """Reference: the sum over images with far more terms than the code keeps."""
    turns = 2 * math.pi * torch.arange(-count, count + 1, dtype=F64)
    exponents = -((angle[..., None] + turns) ** 2) / (2 * var)
    return torch.logsumexp(exponents, -1) - 0.5 * math.log(2 * math.pi * var)


def ancestral(oracle, like, steps, noise):
    process = oracle.process
    z = process.prior(like, noise.at(0))
    grid = process.schedule.grid(steps, "log_snr")
    for step, (t, s) in enumerate(pairwise(grid), 1):
        z = process.reverse(oracle(z, t), t, s).sample(noise.at(step))
    return z


def circular_std(angle):
    return float((-2 * torch.log(torch.exp(1j * angle).mean().abs())).sqrt())


def test_wrap_ends_in_the_half_open_interval_and_keeps_the_angle():
    angle = torch.tensor(
        [-math.pi, math.pi, 0.0, 1e-300, 7.0, -7.0, 1e4, math.nextafter(math.pi, 0)], dtype=F64
    )
    for dtype in (torch.float64, torch.float32):
        wrapped = wrap(angle.to(dtype))
        assert bool(((wrapped >= -math.pi) & (wrapped < math.pi)).all())
    torch.testing.assert_close(wrap(angle).cos(), angle.cos(), rtol=0, atol=1e-11)
    inside = torch.linspace(-3.1, 3.1, 57, dtype=F64)
    assert torch.equal(wrap(inside), inside)


@pytest.mark.parametrize("var", VARIANCES)
def test_density_is_the_sum_over_images_and_integrates_to_one(var):
    nodes = circle(20_000)
    log_prob = wrapped_normal_log_prob(nodes, var)
    assert float(mean_on_circle(log_prob.exp())) == pytest.approx(1, abs=1e-10)
    few = nodes[::50]
    reference = images(few, var)
    torch.testing.assert_close(log_prob[::50], reference, rtol=1e-13, atol=1e-12)


@pytest.mark.parametrize("var", VARIANCES)
def test_score_is_the_gradient_of_the_log_density(var):
    angle = circle(400)[1:].requires_grad_(True)
    for density in (wrapped_normal_log_prob, images):
        (gradient,) = torch.autograd.grad(density(angle, var).sum(), angle)
        score = wrapped_normal_score(angle.detach(), var)
        scale = max(1.0, math.pi / var)
        torch.testing.assert_close(score / scale, gradient / scale, rtol=0, atol=1e-12)


def test_gradients_stay_finite_across_the_switch_of_expansions():
    var = torch.tensor([1e-8, 1.0, math.pi, 50.0], dtype=F64, requires_grad=True)
    angle = torch.tensor([3.0, -3.0, 1.0, 2.0], dtype=F64, requires_grad=True)
    (wrapped_normal_log_prob(angle, var) + wrapped_normal_score(angle, var)).sum().backward()
    assert bool(torch.isfinite(angle.grad).all())
    assert bool(torch.isfinite(var.grad).all())


def test_schedules_that_scale_the_data_are_refused():
    for schedule in (DiscreteSchedule.linear(10), CosineVP()):
        with pytest.raises(ConfigError, match="scale 1"):
            TorusProcess(schedule)
    with pytest.raises(ConfigError, match="variance"):
        TorusProcess(variance="learned")


@pytest.mark.parametrize("t", [0.1, 0.4, 0.7, 1.0])
def test_iterated_chain_has_the_moments_of_the_kernel(t):
    process, n, chain_steps = TorusProcess(), 20_000, 7
    x = torch.full((n,), 2.5, dtype=F64)
    times = torch.linspace(0, t, chain_steps + 1, dtype=F64)
    z = x
    for step in range(chain_steps):
        noise = KeyedNoise(3).at(step)
        z = process.forward_step(z, times[step], times[step + 1], noise)
    direct = process.q_sample(x, times[-1], KeyedNoise(4))
    torch.testing.assert_close(wrap(x + direct.eps), direct.z)
    var = float(process.schedule.marginal(t).var)
    for sample in (z, direct.z):
        for n_th in (1, 2):
            expected = math.exp(-(n_th**2) * var / 2)
            error = math.sqrt(0.5 / n)  # the sd of a cosine is at most sqrt(1/2)
            assert float((n_th * (sample - x)).cos().mean()) == pytest.approx(
                expected, abs=4.5 * error
            )
            assert float((n_th * (sample - x)).sin().mean()) == pytest.approx(0, abs=4.5 * error)


@pytest.mark.parametrize(("s", "t"), [(0.4, 0.5), (0.5, 0.9), (0.8, 1.0), (0.95, 1.0)])
@pytest.mark.parametrize("z_t", [0.4, 2.9, -2.2])
def test_posterior_is_bayes_on_a_grid(s, t, z_t):
    process, grid = TorusProcess(), circle(2048)
    rows = torch.ones(len(grid), dtype=F64)
    x, z, s, t = 0.8 * rows, z_t * rows, torch.tensor(s), torch.tensor(t)
    posterior = process.posterior(x, z, t, s)
    joint = process.kernel(x, s).log_prob(grid) + WrappedNormal(
        grid, process.step_var(t, s, x)
    ).log_prob(z)
    bayes = joint - torch.log(mean_on_circle(joint.exp()))
    log_prob = posterior.log_prob(grid)
    torch.testing.assert_close(log_prob, bayes, rtol=0, atol=1e-8)
    means, weights = posterior.windings()
    spread = posterior.component_var
    mixture = (weights[0] * wrapped_normal_log_prob(grid[:, None] - means[0], spread).exp()).sum(1)
    torch.testing.assert_close(mixture, log_prob.exp(), rtol=0, atol=1e-10)
    best = grid[log_prob.argmax()]
    assert float(wrap(posterior.mode[0] - best).abs()) <= 2 * math.pi / len(grid)


@pytest.mark.parametrize(("s", "t", "z_t"), [(0.6, 0.8, 2.0), (0.8, 1.0, -2.4), (0.9, 1.0, 3.0)])
def test_posterior_samples_follow_the_density(s, t, z_t):
    n, process = 20_000, TorusProcess()
    x, z = torch.full((n,), 0.7, dtype=F64), torch.full((n,), z_t, dtype=F64)
    posterior = process.posterior(x, z, torch.tensor(t), torch.tensor(s))
    grid = circle(n)
    cdf = posterior.log_prob(grid).exp().cumsum(0)
    cdf = torch.cat([torch.zeros(1, dtype=F64), cdf / cdf[-1]])
    edges = torch.cat([grid, torch.tensor([math.pi], dtype=F64)]) - math.pi / n
    sample = posterior.sample(KeyedNoise(8)).sort().values

    def at(a):
        return np.interp(a, edges, cdf)

    assert stats.kstest(sample.numpy(), at).pvalue > 1e-3


def test_posterior_at_the_data_is_the_data():
    process = TorusProcess()
    x, z = torch.tensor([1.0, -3.0], dtype=F64), torch.tensor([2.0, 3.0], dtype=F64)
    posterior = process.posterior(x, z, torch.tensor(0.5), torch.tensor(0.0))
    torch.testing.assert_close(posterior.sample(KeyedNoise(0)), x, rtol=0, atol=1e-12)
    torch.testing.assert_close(posterior.mode, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("time", [0.02, 0.4, 0.8, 1.0])
def test_outputs_are_read_in_units_of_the_score(time):
    process, t = TorusProcess(), torch.tensor(time, dtype=F64)
    z, var = circle(4096), process.schedule.marginal(t).var
    unit = process.predict(torch.ones(1, dtype=F64), z[:1], t).score
    density = wrapped_normal_log_prob(z, var).exp()
    square = (wrapped_normal_score(z, var) / unit) ** 2
    assert float((density * square).mean() * 2 * math.pi) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("variance", ["beta", "posterior"])
@pytest.mark.parametrize(("s", "t"), [(0.05, 0.06), (0.3, 0.5), (0.8, 1.0), (0.97, 1.0)])
def test_divergence_is_the_integral(variance, s, t):
    process, grid = TorusProcess(variance=variance), circle(4096)
    x = torch.tensor([0.8, 0.8, -3.1], dtype=F64)
    s, t = torch.tensor(s, dtype=F64), torch.tensor(t, dtype=F64)
    std = process.schedule.marginal(t).std
    z = wrap(x + std * torch.tensor([0.5, -1.7, 1.0], dtype=F64))
    prediction = process.predict(torch.tensor([0.3, 0.9, -1.2], dtype=F64), z, t)
    kl = process.divergence(x, z, prediction, t, s)
    assert bool((kl >= 0).all())
    for row in range(3):
        log_q = process.posterior(x[[row]], z[[row]], t, s).log_density(grid[None])[0]
        mean = process.reverse_mean(prediction, t, s)[row]
        log_p = wrapped_normal_log_prob(grid - mean, process.reverse_var(t, s, z))
        expected = float(mean_on_circle(log_q.exp() * (log_q - log_p)))
        assert float(kl[row]) == pytest.approx(expected, abs=1e-6)
    # Several angles a row add up; a row at the data does not disturb the others.
    both = process.divergence(
        x.expand(2, 3),
        z.expand(2, 3),
        ScorePrediction(z.expand(2, 3), prediction.score.expand(2, 3)),
        t.expand(2),
        torch.stack([s, torch.zeros_like(s)]),
    )
    assert float(both[0]) == pytest.approx(float(kl.sum()), abs=1e-9)
    assert bool(torch.isfinite(both).all())


@pytest.mark.parametrize("sigma_max", [0.5, 1.5, math.pi, 6.0])
def test_prior_divergence_is_the_integral(sigma_max):
    process, grid = TorusProcess(VESchedule(0.01, sigma_max)), circle(4096)
    var = float(process.schedule.marginal(1.0).var)
    log_prob = images(grid, var)
    expected = float(mean_on_circle(log_prob.exp() * (log_prob + math.log(2 * math.pi))))
    kl = process.prior_divergence(torch.zeros(4, 3, dtype=F64))
    torch.testing.assert_close(kl, torch.full((4,), 3 * expected, dtype=F64), rtol=0, atol=1e-11)


def test_default_schedule_ends_at_the_uniform_prior():
    process = TorusProcess()
    assert float(process.prior_divergence(torch.zeros(1, dtype=F64))) < 1e-4
    sample = process.prior(torch.empty(20_000, dtype=F64), KeyedNoise(1))
    assert stats.kstest(sample.numpy(), stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-3


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_last_step_carries_no_noise(variance):
    oracle = WrappedMixtureOracle([1, 2], [-1.0, 2.0], [0.3, 0.2], TorusProcess(variance=variance))
    t, s = torch.tensor([0.2, 0.2, 0.4]), torch.tensor([0.0, 0.0, 0.1])
    z = torch.tensor([-0.9, 3.0, 1.0], dtype=F64)
    step = oracle.process.reverse(oracle(z, t), t, s)
    first, second = step.sample(KeyedNoise(0)), step.sample(KeyedNoise(1))
    assert torch.equal(first[:2], second[:2])
    assert first[2] != second[2]
    tweedie = wrap(z + oracle.process.schedule.marginal(t).var * oracle(z, t).score)
    torch.testing.assert_close(first[:2], tweedie[:2], rtol=0, atol=1e-12)


def test_reconstruction_is_a_density_around_the_denoised_angle():
    process = TorusProcess()
    t, grid = torch.tensor(0.3, dtype=F64), circle(4096)
    z = torch.full_like(grid, 3.0)
    prediction = process.predict(torch.full_like(grid, 0.4), z, t)
    log_prob = process.reconstruction(grid, prediction, t)
    assert float(mean_on_circle(log_prob.exp())) == pytest.approx(1, abs=1e-10)
    peak = wrap(z[0] + 0.4 * process.schedule.marginal(t).std)
    assert float((grid[log_prob.argmax()] - peak).abs()) < 2 * math.pi / 4096


@pytest.mark.parametrize("t", [0.0, 0.3, 0.8, 1.0])
def test_oracle_is_the_convolution_of_the_data_with_the_kernel(t):
    oracle = WrappedMixtureOracle([1, 3], [-1.0, 2.8], [0.4, 0.6], TorusProcess())
    grid = circle(512)
    if t:
        clean = oracle.log_prob(grid).exp()
        var = float(oracle.process.schedule.marginal(t).var)
        kernel = images(grid[:, None] - grid, var, 20).exp()
        expected = mean_on_circle(kernel * clean)
        torch.testing.assert_close(oracle.log_prob(grid, t).exp(), expected, rtol=0, atol=1e-10)
    leaf = grid.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(oracle.log_prob(leaf, t).sum(), leaf)
    score = oracle(grid, torch.tensor(t, dtype=F64)).score
    torch.testing.assert_close(score, gradient, rtol=1e-10, atol=1e-10)


def test_oracle_of_several_angles_keeps_their_dependence():
    oracle = WrappedMixtureOracle([1, 1], [[-1.0, 2.0], [2.0, -1.0]], [0.3, 0.3], TorusProcess())
    sample = oracle.sample(4000, KeyedNoise(0))
    assert sample.shape == (4000, 2)
    crossed = (sample[:, 0] > 0.5) == (sample[:, 1] > 0.5)
    assert float(crossed.double().mean()) < 0.01
    z = sample[:5].clone().requires_grad_(True)
    t = torch.linspace(0.1, 0.9, 5, dtype=F64)
    (gradient,) = torch.autograd.grad(oracle.log_prob(z, t).sum(), z)
    torch.testing.assert_close(oracle(z.detach(), t).score, gradient, rtol=1e-9, atol=1e-9)
    with pytest.raises(ConfigError, match="equally many"):
        WrappedMixtureOracle([1, 1], [0.0], [0.1, 0.1], TorusProcess())


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_ancestral_sampling_with_the_oracle_recovers_the_mixture(variance):
    process = TorusProcess(variance=variance)
    oracle = WrappedMixtureOracle([0.3, 0.7], [-1.0, 2.0], [0.3, 0.2], process)
    z = ancestral(oracle, torch.empty(5000, dtype=F64), 100, KeyedNoise(2))
    first = wrap(z + 1.0).abs() < wrap(z - 2.0).abs()
    assert float(first.double().mean()) == pytest.approx(0.3, abs=0.03)
    assert circular_std(z[first]) == pytest.approx(0.3, abs=0.03)
    assert circular_std(z[~first]) == pytest.approx(0.2, abs=0.02)


def test_score_matching_loss_is_one_for_no_score_and_least_for_the_exact_one():
    oracle = WrappedMixtureOracle([0.3, 0.7], [-1.0, 2.0], [0.3, 0.2], TorusProcess())
    x, loss = oracle.sample(4000, KeyedNoise(0)), ScoreMatchingLoss()

    def mean_loss(factor, t):
        def denoiser(z, t, cond=None):
            return ScorePrediction(z, factor * oracle(z, t).score)

        denoiser.process = oracle.process
        times = torch.full((len(x),), t, dtype=F64)
        return float(loss(denoiser, x, KeyedNoise(1), t=times).mean())

    for t in (0.2, 0.6, 1.0):
        losses = [mean_loss(factor, t) for factor in (0.0, 0.9, 1.0, 1.1)]
        assert losses[0] == pytest.approx(1, abs=0.1)
        assert losses[2] == min(losses)


@pytest.mark.parametrize("t", [0.1, 0.6, 1.0])
def test_expected_square_of_the_score_is_the_integral(t):
    process, grid = TorusProcess(), circle(8192)
    var = process.schedule.marginal(t).var
    square = wrapped_normal_score(grid, var) ** 2
    expected = mean_on_circle(wrapped_normal_log_prob(grid, var).exp() * square)
    torch.testing.assert_close(process.expected_square(var), expected, rtol=1e-10, atol=0)


def test_loss_refuses_other_processes():
    from scidiffusion.core.gaussian import GaussianProcess

    def denoiser(z, t, cond=None):
        return ScorePrediction(z, z)

    denoiser.process = GaussianProcess(VESchedule())
    with pytest.raises(ConfigError, match="TorusProcess"):
        ScoreMatchingLoss()(denoiser, torch.zeros(3, 2), KeyedNoise(0))


def test_times_of_rows_and_devices(device):
    process = TorusProcess()
    x = torch.linspace(-3, 3, 12, device=device).reshape(4, 3)
    t = torch.linspace(0.3, 1.0, 4, dtype=F64, device=device)
    s = t - 0.25
    corrupted = process.q_sample(x, t, KeyedNoise(0))
    prediction = process.predict(torch.ones_like(x), corrupted.z, t)
    outputs = {
        "prior": process.prior(x, KeyedNoise(0)),
        "z": corrupted.z,
        "step": process.forward_step(x, s, t, KeyedNoise(0)),
        "posterior": process.posterior(x, corrupted.z, t, s).sample(KeyedNoise(0)),
        "mode": process.posterior(x, corrupted.z, t, s).mode,
        "reverse": process.reverse(prediction, t, s).sample(KeyedNoise(0)),
    }
    for value in outputs.values():
        assert value.shape == x.shape
        assert value.dtype == x.dtype
        assert value.device.type == device.type
        assert bool(((value >= -math.pi) & (value < math.pi)).all())
    assert process.divergence(x, corrupted.z, prediction, t, s).shape == (4,)
    assert process.vlb_term(x, corrupted.z, prediction, t, s).device.type == device.type
    # A row's result is the same with a time of its own and with a common scalar time on the CPU.
    scalar = process.q_sample(x, t[2].cpu(), KeyedNoise(0)).z
    torch.testing.assert_close(scalar[2], corrupted.z[2])
    torch.testing.assert_close(
        process.divergence(x, corrupted.z, prediction, t[2].cpu(), s[2].cpu()).isfinite(),
        torch.ones(4, dtype=torch.bool, device=device),
    )
