"""The Gaussian process: kernel, posterior, reverse step and decoder against first principles."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from scipy import stats

from scidiffusion.core import (
    DiscreteSchedule,
    EDMSchedule,
    GaussianProcess,
    KeyedNoise,
    LinearVP,
    ReverseVariance,
    VESchedule,
    discretized_gaussian_log_prob,
)
from scidiffusion.core.gaussian import Gaussian
from scidiffusion.errors import ConfigError

F64 = torch.float64
SCHEDULES = {
    "linear": DiscreteSchedule.linear(20),
    "cosine": DiscreteSchedule.cosine(20),
    "vp": LinearVP(),
    "ve": VESchedule(),
    "edm": EDMSchedule(0.002, 80.0, 3.0),
}
VARIANCES = list(ReverseVariance)


def each(schedules=SCHEDULES):
    return pytest.mark.parametrize("schedule", schedules.values(), ids=schedules.keys())


def at(value):
    return torch.tensor(value, dtype=F64)


# The kernel is the iterated chain


@pytest.mark.parametrize("family", [DiscreteSchedule.linear, DiscreteSchedule.cosine])
def test_kernel_is_the_composition_of_all_steps(family):
    schedule = family(1000)
    process, x = GaussianProcess(schedule), torch.tensor([[0.7, -2.0]], dtype=F64)
    mean, var = x.clone(), torch.zeros((), dtype=F64)
    for k in range(1, 1001):
        beta = schedule.betas[k - 1]
        mean, var = (1 - beta).sqrt() * mean, (1 - beta) * var + beta
        kernel = process.kernel(x, at(k / 1000))
        assert float((kernel.mean - mean).abs().max()) < 1e-12
        assert float((kernel.var - var).abs().max()) < 1e-12


def test_kernel_is_the_iterated_chain_by_simulation():
    schedule, n = DiscreteSchedule.linear(100), 20_000
    process, noise = GaussianProcess(schedule), KeyedNoise(0)
    x = torch.full((n, 1), 1.3, dtype=F64)
    z = x
    for k in range(1, 101):
        t, s = at(k / 100), at((k - 1) / 100)
        z = process.forward_step(z, s, t, noise.at(k))
        kernel = process.kernel(x[:1], t)
        mean_error = (z.mean(0) - kernel.mean[0]) / (kernel.var / n).sqrt()
        var_error = (z.var(0) - kernel.var) / (kernel.var * math.sqrt(2 / n))
        assert float(mean_error.abs().max()) < 4
        assert float(var_error.abs().max()) < 4
    standard = (z - kernel.mean) / kernel.var.sqrt()
    assert stats.kstest(standard.flatten().numpy(), "norm").pvalue > 1e-3


@each()
def test_q_sample_and_long_forward_steps_have_the_law_of_the_kernel(schedule, device):
    n, process = 20_000, GaussianProcess(schedule)
    x = torch.tensor([1.3], dtype=F64, device=device).expand(n, 1)
    corrupted = process.q_sample(x, at(0.75), KeyedNoise(1))
    marginal = schedule.marginal(0.75)
    assert torch.equal(
        corrupted.z, marginal.scale.to(F64) * x + marginal.std.to(F64) * corrupted.eps
    )
    middle = process.q_sample(x, at(0.25), KeyedNoise(2)).z
    stepped = process.forward_step(middle, at(0.25), at(0.75), KeyedNoise(3))
    kernel = process.kernel(x, at(0.75))
    for z in (corrupted.z, stepped):
        standard = ((z - kernel.mean) / kernel.var.sqrt())[:, 0]
        assert stats.kstest(standard.cpu().numpy(), "norm").pvalue > 1e-3
    assert abs(float(corrupted.eps.mean())) < 4 / math.sqrt(n)


@each()
def test_forward_step_of_no_length_changes_nothing(schedule):
    z = torch.randn(5, 2, dtype=F64)
    assert torch.equal(
        GaussianProcess(schedule).forward_step(z, at(0.5), at(0.5), KeyedNoise()), z
    )


def test_rows_may_have_different_times(device):
    process = GaussianProcess(DiscreteSchedule.linear(20))
    x, z = torch.randn(2, 4, 3, dtype=F64, device=device)
    t = torch.tensor([0.05, 0.3, 0.75, 1.0], dtype=F64, device=device)
    s = torch.tensor([0.0, 0.25, 0.05, 0.95], dtype=F64, device=device)
    prediction = process.prediction(z, t, eps=x)
    batched = {
        "q_sample": process.q_sample(x, t, KeyedNoise(0)).z,
        "forward": process.forward_step(z, s, t, KeyedNoise(0)),
        "mean": process.reverse(prediction, t, s).mean,
        "sample": process.reverse(prediction, t, s).sample(KeyedNoise(0)),
        "vlb": process.vlb_term(x, z, prediction, t, s),
    }
    for i in range(4):
        row, noise = slice(i, i + 1), KeyedNoise(0, start=i)
        one = process.prediction(z[row], t[i], eps=x[row])
        single = {
            "q_sample": process.q_sample(x[row], t[i], noise).z,
            "forward": process.forward_step(z[row], s[i], t[i], noise),
            "mean": process.reverse(one, t[i], s[i]).mean,
            "sample": process.reverse(one, t[i], s[i]).sample(noise),
            "vlb": process.vlb_term(x[row], z[row], one, t[i], s[i]),
        }
        for name, value in single.items():
            assert torch.allclose(batched[name][row], value, rtol=1e-12, atol=1e-14), name


# The posterior is Bayes' rule


@each()
@pytest.mark.parametrize(
    ("s", "t"), [(0.05, 0.1), (0.45, 0.5), (0.1, 0.8), (0.95, 1.0), (0.5, 1.0)]
)
def test_posterior_is_bayes_rule_on_a_grid(schedule, s, t):
    process = GaussianProcess(schedule)
    x = at([[0.8]])
    z = process.q_sample(x, at(t), KeyedNoise(3)).z
    posterior = process.posterior(x, z, at(t), at(s))
    grid = (
        posterior.mean + posterior.var.sqrt() * torch.linspace(-12, 12, 6001, dtype=F64)[:, None]
    )
    kernel, step = schedule.marginal(s), schedule.transition(t, s)
    prior = Gaussian(kernel.scale * x, kernel.var).log_prob(grid)
    likelihood = Gaussian(step.scale * grid, step.var).log_prob(z.expand_as(grid))
    log_joint = prior + likelihood
    density = (log_joint - log_joint.max()).exp()
    density = density / torch.trapezoid(density, grid[:, 0])
    expected = posterior.log_prob(grid).exp()
    assert float((density - expected).abs().max() / expected.max()) < 1e-10


def test_posterior_is_the_formula_of_the_slides():
    schedule = DiscreteSchedule.linear(1000)
    process = GaussianProcess(schedule)
    x, z = torch.randn(2, 50, 3, dtype=F64)
    for k in (2, 3, 10, 500, 999, 1000):
        beta, bar, before = schedule.betas[k - 1], *schedule.alpha_bar[[k, k - 1]]
        mean = ((1 - before) * (1 - beta).sqrt() * z + before.sqrt() * beta * x) / (1 - bar)
        var = beta * (1 - before) / (1 - bar)
        posterior = process.posterior(x, z, at(k / 1000), at((k - 1) / 1000))
        # 1 - alpha_bar of the formula as printed loses four digits at the first nodes.
        tolerance = 1e-12 if k > 100 else 1e-11
        assert float((posterior.mean - mean).abs().max()) < tolerance
        assert float(posterior.var / var - 1) == pytest.approx(0, abs=1e-11)


def test_reverse_mean_is_that_of_algorithm_18_2():
    schedule = DiscreteSchedule.linear(1000)
    process = GaussianProcess(schedule)
    z, eps = torch.randn(2, 50, 3, dtype=F64)
    for k in (1, 2, 10, 500, 999, 1000):
        beta, marginal = schedule.betas[k - 1], schedule.marginal(k / 1000)
        expected = (z - beta / marginal.std * eps) / (1 - beta).sqrt()
        t, s = at(k / 1000), at((k - 1) / 1000)
        reverse = process.reverse(process.prediction(z, t, eps=eps), t, s)
        assert float((reverse.mean - expected).abs().max()) < 1e-12


@each()
def test_chain_rule_of_the_posterior(schedule):
    # q(z_u | z_t, x) is q(z_u | z_s, x) averaged over q(z_s | z_t, x), for u < s < t.
    process = GaussianProcess(schedule)
    x, z = torch.randn(2, 6, 2, dtype=F64)
    t, s, u = at(0.9), at(0.5), at(0.2)
    outer = process.posterior(x, z, t, s)
    inner = process.posterior(x, outer.mean, s, u)
    slope = process.posterior(x, outer.mean + 1, s, u).mean - inner.mean
    direct = process.posterior(x, z, t, u)
    assert torch.allclose(inner.mean, direct.mean, rtol=1e-10, atol=1e-12)
    assert torch.allclose(
        inner.var + slope.mean() ** 2 * outer.var, direct.var, rtol=1e-8, atol=1e-15
    )


# The reverse step


def prediction_of(process, t, rows=3, **known):
    z = torch.randn(rows, 2, dtype=F64)
    prediction = process.prediction(z, t, eps=torch.randn(rows, 2, dtype=F64))
    return type(prediction)(
        prediction.z, prediction.marginal, prediction.value, prediction.parameterization, **known
    )


def test_fixed_variances():
    schedule = DiscreteSchedule.linear(20)
    for k in range(2, 21):
        t, s = at(k / 20), at((k - 1) / 20)
        beta = float(schedule.betas[k - 1])
        tilde = beta * float(schedule.marginal(s).var / schedule.marginal(t).var)
        for variance, expected in (("beta", beta), ("posterior", tilde)):
            process = GaussianProcess(schedule, variance=variance)
            reverse = process.reverse(prediction_of(process, t), t, s)
            assert float(reverse.var) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_learned_range_is_geometric_between_beta_tilde_and_beta(fraction):
    schedule = DiscreteSchedule.linear(20)
    process = GaussianProcess(schedule, variance="learned")
    for k, j in ((2, 1), (10, 9), (20, 5)):
        t, s = at(k / 20), at(j / 20)
        beta = schedule.transition(t, s).var
        tilde = beta * schedule.marginal(s).var / schedule.marginal(t).var
        v = torch.full((3, 2), fraction, dtype=F64)
        var = process.reverse(prediction_of(process, t, log_var_fraction=v), t, s).var
        expected = beta**fraction * tilde ** (1 - fraction)
        assert var.shape == (3, 2)
        assert float((var / expected - 1).abs().max()) < 1e-12


def test_learned_range_is_finite_at_the_data():
    schedule = DiscreteSchedule.linear(20)
    process, t = GaussianProcess(schedule, variance="learned"), at(1 / 20)
    v = torch.tensor([[0.0, 1.0]], dtype=F64).expand(3, 2)
    var = process.decoder(prediction_of(process, t, log_var_fraction=v), t).var
    beta = float(schedule.betas[0])
    assert torch.allclose(var, at([0.5 * beta, beta]).expand(3, 2), rtol=1e-12, atol=0)


@each()
@pytest.mark.parametrize(("s", "t"), [(0.45, 0.5), (0.1, 0.8), (0.5, 1.0)])
def test_optimal_variance_is_the_conditional_variance_of_gaussian_data(schedule, s, t):
    # For x ~ N(mu, v) the pair (z_s, z_t) is jointly Gaussian: condition it directly.
    mu, v = 0.4, 1.7
    process = GaussianProcess(schedule, variance="optimal")
    first, last, step = schedule.marginal(s), schedule.marginal(t), schedule.transition(t, s)
    var_s, var_t = first.scale**2 * v + first.var, last.scale**2 * v + last.var
    z = torch.randn(4, 1, dtype=F64) * var_t.sqrt()
    expected_mean = first.scale * mu + step.scale * var_s / var_t * (z - last.scale * mu)
    expected_var = var_s - (step.scale * var_s) ** 2 / var_t
    x0 = mu + last.scale * v / var_t * (z - last.scale * mu)
    prediction = process.prediction(z, at(t), x0=x0)
    prediction = type(prediction)(
        z, prediction.marginal, x0, prediction.parameterization, x0_var=v * last.var / var_t
    )
    reverse = process.reverse(prediction, at(t), at(s))
    assert torch.allclose(reverse.mean, expected_mean, rtol=1e-10, atol=1e-12)
    assert float(reverse.var / expected_var) == pytest.approx(1, abs=1e-10)


def known(variance):
    extra = {"log_var_fraction": torch.full((3, 2), 0.5, dtype=F64)}
    return extra if variance == "learned" else {"x0_var": at(0.3)} if variance == "optimal" else {}


@each()
@pytest.mark.parametrize("variance", VARIANCES)
def test_the_last_step_is_noise_free(schedule, variance):
    process, t = GaussianProcess(schedule, variance=variance), at(0.05)
    prediction = prediction_of(process, t, **known(variance))
    reverse = process.reverse(prediction, t, at(0.0))
    assert bool((reverse.var == 0).all())
    assert torch.equal(reverse.sample(KeyedNoise(0)), reverse.sample(KeyedNoise(1)))
    assert torch.allclose(reverse.mean, prediction.x0, rtol=1e-13, atol=1e-13)
    before = process.reverse(prediction_of(process, at(0.1), **known(variance)), at(0.1), t)
    assert bool((before.var > 0).all())
    assert not torch.equal(before.sample(KeyedNoise(0)), before.sample(KeyedNoise(1)))


@pytest.mark.parametrize("variance", VARIANCES)
def test_rows_at_the_data_are_noise_free_beside_rows_that_are_not(variance):
    process = GaussianProcess(DiscreteSchedule.linear(20), variance=variance)
    t, s = at([0.05, 0.1, 0.5]), at([0.0, 0.05, 0.0])
    reverse = process.reverse(prediction_of(process, t, **known(variance)), t, s)
    still = (reverse.sample(KeyedNoise(0)) == reverse.sample(KeyedNoise(1))).all(1)
    assert still.tolist() == [True, False, True]


@each()
def test_nothing_is_clipped(schedule):
    process, z = GaussianProcess(schedule), torch.zeros(2, 3, dtype=F64)
    x0 = torch.tensor([[-1e3, 1e3, 5.0], [-1.5, 1.5, 0.0]], dtype=F64)
    prediction = process.prediction(z, at(0.5), x0=x0)
    assert torch.equal(prediction.x0, x0)
    assert torch.allclose(process.reverse(prediction, at(0.5), at(0.0)).mean, x0, rtol=1e-14)
    half = process.reverse(prediction, at(0.5), at(0.25)).mean
    assert torch.allclose(half, process.posterior(x0, z, at(0.5), at(0.25)).mean, rtol=1e-14)


@pytest.mark.parametrize(
    ("variance", "way_out"), [("learned", "learned_variance"), ("optimal", "AnalyticVariance")]
)
def test_a_missing_variance_names_the_way_out(variance, way_out):
    process = GaussianProcess(LinearVP(), variance=variance)
    with pytest.raises(ConfigError, match=way_out):
        process.reverse(prediction_of(process, at(0.5)), at(0.5), at(0.25))


# The terms of the ELBO


@each()
@pytest.mark.parametrize("variance", VARIANCES)
def test_divergence_is_the_kl_of_two_normals(schedule, variance):
    process = GaussianProcess(schedule, variance=variance)
    t, s = at(0.8), at(0.45)
    prediction = prediction_of(process, t, **known(variance))
    x = torch.randn(3, 2, dtype=F64)
    posterior = process.posterior(x, prediction.z, t, s)
    reverse = process.reverse(prediction, t, s)
    p, q = (
        torch.distributions.Normal(d.mean, d.var.sqrt().expand_as(d.mean))
        for d in (reverse, posterior)
    )
    expected = torch.distributions.kl_divergence(q, p).sum(1)
    found = process.divergence(x, prediction.z, prediction, t, s)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)


@each()
@pytest.mark.parametrize("variance", VARIANCES)
def test_divergence_and_its_gradient_are_finite_at_the_data(schedule, variance):
    process = GaussianProcess(schedule, variance=variance)
    t, s = at([0.05, 0.8, 0.05]), at([0.0, 0.45, 0.0])
    x, z = torch.randn(2, 3, 2, dtype=F64)
    raw = torch.randn(3, 2, dtype=F64, requires_grad=True)
    extra = known(variance)
    extra = {name: value.clone().requires_grad_(True) for name, value in extra.items()}
    base = process.prediction(z, t, eps=raw)
    prediction = type(base)(z, base.marginal, raw, base.parameterization, **extra)
    term = process.vlb_term(x, z, prediction, t, s)
    assert bool(term.isfinite().all())
    for gradient in torch.autograd.grad(term.sum(), [raw, *extra.values()]):
        assert bool(gradient.isfinite().all())
    # Every row is the term it stands for.
    for i in range(3):
        row = type(base)(
            z[i : i + 1],
            process.schedule.marginal(t[i]),
            raw[i : i + 1],
            base.parameterization,
            **{n: v[i : i + 1] if v.ndim else v for n, v in extra.items()},
        )
        inputs = x[i : i + 1], z[i : i + 1], row
        expected = (
            -process.reconstruction(inputs[0], row, t[i])
            if float(s[i]) == 0
            else process.divergence(*inputs, t[i], s[i])
        )
        assert float(term[i].detach()) == pytest.approx(float(expected.detach()), rel=1e-10)


@each()
def test_prior_divergence_is_the_kl_to_the_prior(schedule):
    process, x = GaussianProcess(schedule), torch.randn(5, 3, dtype=F64)
    kernel = process.kernel(x, at(1.0))
    q = torch.distributions.Normal(kernel.mean, kernel.var.sqrt())
    p = torch.distributions.Normal(at(0.0), at(schedule.prior_std))
    expected = torch.distributions.kl_divergence(q, p).sum(1)
    assert torch.allclose(process.prior_divergence(x), expected, rtol=1e-9, atol=1e-12)


@each()
def test_prior_has_the_standard_deviation_of_the_schedule(schedule):
    prior = GaussianProcess(schedule).prior(torch.empty(20_000, 1, dtype=F64), KeyedNoise(0))
    pvalue = stats.kstest(prior[:, 0].numpy(), "norm", args=(0, schedule.prior_std)).pvalue
    assert pvalue > 1e-3


def test_reconstruction_is_a_log_density():
    schedule = DiscreteSchedule.linear(20)
    x = torch.randn(3, 2, dtype=F64)
    for variance in ("beta", "posterior"):
        process = GaussianProcess(schedule, variance=variance)
        prediction = prediction_of(process, at(1 / 20))
        std = float(schedule.betas[0]) ** 0.5
        expected = torch.distributions.Normal(prediction.x0, std).log_prob(x).sum(1)
        found = process.reconstruction(x, prediction, at(1 / 20))
        assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)


# The discretised decoder (Ho et al. 2020, eq. 13)


@pytest.mark.parametrize("std", [1e-3, 0.01, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("mean", [0.0, 0.501, -1.0, 1.0, 1.7, -30.0, 30.0])
def test_discretised_decoder_sums_to_one(mean, std):
    bins = torch.arange(256, dtype=F64) * (2 / 255) - 1
    log_prob = discretized_gaussian_log_prob(bins, at(mean), at(std**2), 2 / 255)
    assert bool(log_prob.isfinite().all())
    assert float(log_prob.exp().sum()) == pytest.approx(1, abs=1e-8)
    single = discretized_gaussian_log_prob(
        bins.float(), at(mean).float(), at(std**2).float(), 2 / 255
    )
    assert float(single.exp().sum()) == pytest.approx(1, abs=2e-5)


def test_discretised_decoder_is_a_difference_of_distribution_functions():
    bins = torch.arange(256, dtype=F64) * (2 / 255) - 1
    normal = stats.norm(0.2, 0.3)
    expected = normal.cdf(bins + 1 / 255) - normal.cdf(bins - 1 / 255)
    expected[0], expected[-1] = normal.cdf(bins[0] + 1 / 255), normal.sf(bins[-1] - 1 / 255)
    found = discretized_gaussian_log_prob(bins, at(0.2), at(0.09), 2 / 255).exp()
    assert abs(found.numpy() - expected).max() < 1e-13
    # Far in the tail, where a difference of probabilities is 0, the logarithm is still right.
    far = discretized_gaussian_log_prob(at([0.5]), at(-0.5), at(0.01**2), 2 / 255)
    expected = stats.norm(-0.5, 0.01).logsf(0.5 - 1 / 255)
    assert float(far) == pytest.approx(expected, rel=1e-9)


def test_gradients_of_the_discretised_decoder_are_finite():
    bins = torch.arange(256, dtype=F64) * (2 / 255) - 1
    for mean in (-30.0, -1.0, 0.3, 30.0):
        parameters = [at(mean).requires_grad_(True), at(0.01).requires_grad_(True)]
        total = discretized_gaussian_log_prob(bins, *parameters, 2 / 255).sum()
        for gradient in torch.autograd.grad(total, parameters):
            assert bool(gradient.isfinite())


def test_reconstruction_of_discretised_data_is_a_log_probability():
    process = GaussianProcess(DiscreteSchedule.linear(20), bin_width=2 / 255)
    prediction = prediction_of(process, at(1 / 20))
    x = torch.tensor([[-1.0, 1.0], [1 / 255, -3 / 255], [1.0, 1.0]], dtype=F64)
    found = process.reconstruction(x, prediction, at(1 / 20))
    assert bool((found < 0).all())
    var = process.decoder(prediction, at(1 / 20)).var
    expected = discretized_gaussian_log_prob(x, prediction.x0, var, 2 / 255).sum(1)
    assert torch.equal(found, expected)


# Options, devices


def test_options_are_checked_at_construction():
    for options, message in (
        ({"variance": "fixed"}, "'beta', 'posterior', 'learned', 'optimal'"),
        ({"parameterization": "noise"}, "'eps', 'x0', 'v', 'score'"),
        ({"bin_width": 0.0}, "bin_width"),
        ({"bin_width": -1.0}, "bin_width"),
    ):
        with pytest.raises(ConfigError, match=message):
            GaussianProcess(LinearVP(), **options)


def test_zero_terminal_snr_steps_from_pure_noise():
    schedule = DiscreteSchedule.linear(20).with_zero_terminal_snr()
    process = GaussianProcess(schedule, parameterization="v")
    z, v = torch.randn(2, 4, 2, dtype=F64)
    reverse = process.reverse(process.predict(v, z, at(1.0)), at(1.0), at(0.95))
    before = schedule.marginal(0.95)
    assert torch.allclose(reverse.mean, -before.scale * v, rtol=1e-12, atol=1e-15)
    assert float(reverse.var) == pytest.approx(float(before.var), rel=1e-12)


@pytest.mark.parametrize("where", ["meta", "cuda"])
def test_a_scalar_time_on_the_cpu_serves_a_state_anywhere(where):
    # The meta device computes nothing but refuses, as CUDA does, to mix devices.
    if where == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    process = GaussianProcess(DiscreteSchedule.linear(20))
    x = torch.zeros(4, 3, device=where)
    t, s = at(0.5), at(0.25)
    z = process.q_sample(x, t, KeyedNoise(0)).z
    prediction = process.prediction(z, t, eps=z)
    values = [
        z,
        process.prior(x, KeyedNoise(0)),
        process.forward_step(z, s, t, KeyedNoise(0)),
        process.reverse(prediction, t, s).sample(KeyedNoise(0)),
        process.reverse(prediction, t, at(0.0)).sample(KeyedNoise(0)),
        process.reverse(prediction, t, s).log_prob(x),
        process.divergence(x, z, prediction, t, s),
        process.reconstruction(x, prediction, t),
        process.prior_divergence(x),
        process.vlb_term(x, z, prediction, t, s),
    ]
    assert {value.device.type for value in values} == {where}
    assert {value.dtype for value in values} == {torch.float32}


def test_grids_of_times_chain_from_noise_to_data():
    # Ancestral steps with the exact x0 of one point land on that point whatever the noise.
    schedule = DiscreteSchedule.cosine(20)
    process, x = GaussianProcess(schedule), torch.tensor([[0.3, -2.0]], dtype=F64)
    z = process.prior(x, KeyedNoise(0))
    for step, (t, s) in enumerate(pairwise(schedule.grid(7)), start=1):
        z = process.reverse(process.prediction(z, t, x0=x), t, s).sample(KeyedNoise(0).at(step))
    assert torch.allclose(z, x, rtol=0, atol=1e-12)
