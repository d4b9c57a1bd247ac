"""Training objectives: weights and targets by definition; the ELBO loss sums to the ELBO."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from scidiffusion.core import (
    AbsorbingProcess,
    CentredGaussianProcess,
    DiscreteSchedule,
    EDMLoss,
    EDMSchedule,
    ELBOLoss,
    GaussianProcess,
    HybridLoss,
    KeyedNoise,
    LinearVP,
    LogNormalSigma,
    MinSNRLoss,
    MultinomialProcess,
    NetworkDenoiser,
    Noise,
    Parameterization,
    ProductLoss,
    ProductProcess,
    SimpleLoss,
    UniformTime,
    VESchedule,
    elbo,
    remove_mean,
)
from scidiffusion.errors import ConfigError
from scidiffusion.testing.mixtures import GaussianMixtureOracle

F64 = torch.float64
SCHEDULES = {
    "linear": DiscreteSchedule.linear(20),
    "vp": LinearVP(),
    "ve": VESchedule(),
    "edm": EDMSchedule(),
}
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())


def at(value):
    return torch.tensor(value, dtype=F64)


class Fixed(Noise):
    """The same numbers at every time, step and stream."""

    def normal(self, like):
        return KeyedNoise(5).normal(like)

    def uniform(self, like):
        return KeyedNoise(5).uniform(like)

    def child(self, name):
        return self

    def at(self, step):
        return self


class FromState:
    """A deterministic denoiser of any process: outputs are smooth functions of the state."""

    def __init__(self, process, extra=None):
        self.process, self.extra = process, extra

    def output(self, process, z):
        if isinstance(process, ProductProcess):
            return {name: self.output(part, z[name]) for name, part in process.parts.items()}
        if isinstance(process, GaussianProcess):
            return torch.sin(3 * z)
        return torch.cos(z[..., None] + 2 * torch.arange(process.max_classes, dtype=F64))

    def __call__(self, z, t, cond=None):
        return self.process.predict(self.output(self.process, z), z, t)


def rows(n=8, seed=1):
    return KeyedNoise(seed).normal(torch.empty(n, 3, dtype=F64))


def times(schedule, n=8):
    if schedule.num_nodes is None:
        return torch.linspace(schedule.t_min, 1, n, dtype=F64)
    return torch.linspace(1, schedule.num_nodes, n, dtype=F64).round() / schedule.num_nodes


# Targets and weights


@each_schedule
@pytest.mark.parametrize("target", list(Parameterization))
def test_simple_loss_is_the_mean_squared_error_of_its_target(schedule, target):
    process = GaussianProcess(schedule)
    denoiser, x, t = FromState(process), rows(), times(schedule)
    loss = SimpleLoss(target)(denoiser, x, Fixed(), t=t)
    marginal, eps = schedule.marginal(t), Fixed().normal(x)
    scale, std = marginal.scale[:, None], marginal.std[:, None]
    z = scale * x + std * eps
    truth = {"eps": eps, "x0": x, "v": scale * eps - std * x, "score": -eps / std}[target]
    expected = ((denoiser(z, t).target(target) - truth) ** 2).mean(1)
    assert loss.shape == (8,)
    assert torch.allclose(loss, expected, rtol=1e-9, atol=0)


@each_schedule
def test_simple_loss_of_the_truth_is_zero(schedule):
    process, x, t = GaussianProcess(schedule), rows(), times(schedule)

    class Knows:
        def __call__(self, z, t, cond=None):
            return process.prediction(z, t, x0=x)

    Knows.process = process
    for target in Parameterization:
        scale = {"score": float((1 / schedule.marginal(t).var).max())}.get(target, 1e4)
        assert float(SimpleLoss(target)(Knows(), x, Fixed(), t=t).max()) < 1e-24 * scale


@each_schedule
@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_is_the_x0_error_times_the_capped_snr(schedule, gamma):
    process = GaussianProcess(schedule)
    denoiser, x, t = FromState(process), rows(), times(schedule)
    loss = MinSNRLoss(gamma)(denoiser, x, Fixed(), t=t)
    z, marginal = process.q_sample(x, t, Fixed()).z, schedule.marginal(t)
    snr = marginal.scale**2 / marginal.std**2
    expected = snr.clamp(max=gamma) * ((denoiser(z, t).x0 - x) ** 2).mean(1)
    assert torch.allclose(loss, expected, rtol=1e-8, atol=0)


@each_schedule
def test_edm_weight_is_that_of_karras(schedule):
    process, sd = GaussianProcess(schedule), 0.5
    denoiser, x, t = FromState(process), rows(), times(schedule)
    loss = EDMLoss(sd)(denoiser, x, Fixed(), t=t)
    z, marginal = process.q_sample(x, t, Fixed()).z, schedule.marginal(t)
    sigma = marginal.std / marginal.scale
    expected = (sigma**2 + sd**2) / (sigma * sd) ** 2 * ((denoiser(z, t).x0 - x) ** 2).mean(1)
    assert torch.allclose(loss, expected, rtol=1e-8, atol=0)
    sds = torch.tensor([0.5, 1.0, 2.0])
    per_column = EDMLoss(sds)(denoiser, x, Fixed(), t=t)
    weight = (sigma[:, None] ** 2 + sds**2) / (sigma[:, None] * sds) ** 2
    expected = (weight * (denoiser(z, t).x0 - x) ** 2).mean(1)
    assert torch.allclose(per_column, expected, rtol=1e-6, atol=0)


def test_points_without_centre_of_mass_average_over_their_freedom():
    process = CentredGaussianProcess(LinearVP())
    x = remove_mean(KeyedNoise(0).normal(torch.empty(4000, 5, 3, dtype=F64)))

    class Zero:
        def __call__(self, z, t, cond=None):
            return process.prediction(z, t, eps=torch.zeros_like(z))

    Zero.process = process
    assert float(SimpleLoss()(Zero(), x, KeyedNoise(1)).mean()) == pytest.approx(1, abs=0.02)


# The ELBO loss


@pytest.mark.parametrize("variance", ["beta", "posterior"])
@pytest.mark.parametrize("bin_width", [None, 2 / 255])
def test_elbo_loss_averages_to_the_elbo_of_gaussian_data(variance, bin_width):
    process = GaussianProcess(DiscreteSchedule.linear(20), variance=variance, bin_width=bin_width)
    check_average(FromState(process), rows().clamp(-1, 1))


@pytest.mark.parametrize("kind", [MultinomialProcess, AbsorbingProcess])
def test_elbo_loss_averages_to_the_elbo_of_categories(kind):
    x = torch.tensor([[0, 4], [1, 2], [1, 0]])
    check_average(FromState(kind(DiscreteSchedule.cosine(20), (2, 5))), x)


def test_elbo_loss_averages_to_the_elbo_of_a_product_and_of_points():
    schedule = DiscreteSchedule.cosine(20)
    process = ProductProcess(
        {
            "num": GaussianProcess(DiscreteSchedule.linear(20)),
            "cat": MultinomialProcess(schedule, 4),
            "xyz": CentredGaussianProcess(schedule, variance="beta"),
        }
    )
    x = {
        "num": rows(6),
        "cat": torch.arange(12).reshape(6, 2) % 4,
        "xyz": remove_mean(rows(30).reshape(6, 5, 3)),
    }
    check_average(FromState(process), x)


def check_average(denoiser, x):
    """The mean over all t of the loss is minus the ELBO without its prior term, L_0 included."""
    bound = elbo(denoiser, x, noise=Fixed())
    n = len(bound.total)
    terms = [
        ELBOLoss()(denoiser, x, Fixed(), t=torch.full((n,), k / 20, dtype=F64))
        for k in range(1, 21)
    ]
    average = torch.stack(terms).mean(0)
    expected = -(bound.total + bound.prior)
    assert torch.allclose(average, expected, rtol=1e-10, atol=1e-10)
    # One batch with all times, rows with s = 0 and s > 0 side by side.
    first = terms[0]
    assert torch.allclose(first, -20 * bound.reconstruction, rtol=1e-10, atol=1e-10)


def test_elbo_loss_is_unbiased_under_random_times():
    process = GaussianProcess(DiscreteSchedule.linear(20), variance="beta")
    oracle, n = GaussianMixtureOracle.prince(process), 40_000
    x = torch.full((n, 1), 0.3, dtype=F64)
    loss = ELBOLoss()(oracle, x, KeyedNoise(3))
    bound = elbo(oracle, x[:4000], noise=KeyedNoise(4))
    expected = -(bound.total + bound.prior)
    error = math.hypot(float(loss.std()) / math.sqrt(n), float(expected.std()) / math.sqrt(4000))
    assert abs(float(loss.mean() - expected.mean())) < 4 * error


@pytest.mark.parametrize("schedule", [LinearVP(), VESchedule(), EDMSchedule()])
def test_elbo_loss_of_a_continuous_schedule_is_that_of_its_chain(schedule):
    # Gaussian data with optimal variance: sums over any chain, shifted or not, agree to the noise
    # that the chain leaves at its ends.
    process = GaussianProcess(schedule, variance="optimal")
    oracle, n = GaussianMixtureOracle([1.0], [0.2], [0.8], process), 40_000
    x = oracle.sample(n)[0]
    loss = ELBOLoss(100)(oracle, x, KeyedNoise(3))
    assert bool(loss.isfinite().all())
    bound = elbo(oracle, x[:2000], noise=KeyedNoise(4), steps=100)
    expected = -(bound.total + bound.prior)
    error = math.hypot(float(loss.std()) / math.sqrt(n), float(expected.std()) / math.sqrt(2000))
    assert abs(float(loss.mean() - expected.mean())) < 4 * error + 0.02


def test_elbo_loss_of_fewer_steps_needs_a_divisor():
    denoiser = FromState(GaussianProcess(DiscreteSchedule.linear(20), variance="beta"))
    t = torch.arange(1, 21, dtype=F64) / 20
    x = rows(20)
    loss = ELBOLoss(5)(denoiser, x, Fixed(), t=t)
    process, z = denoiser.process, denoiser.process.q_sample(x, t, Fixed()).z
    s = (t - 0.2).clamp(min=0)
    s = (s * 20).round() / 20
    expected = 5 * process.vlb_term(x, z, denoiser(z, t), t, s)
    assert torch.allclose(loss, expected, rtol=1e-10, atol=1e-12)
    with pytest.raises(ConfigError, match="divide"):
        ELBOLoss(7)(denoiser, x, Fixed())
    with pytest.raises(ConfigError):
        ELBOLoss(0)


def test_gradients_of_mixed_rows_are_finite():
    schedule = DiscreteSchedule.linear(20)
    process = ProductProcess(
        {
            "num": GaussianProcess(schedule),
            "cat": MultinomialProcess(schedule, (2, 5)),
            "mask": AbsorbingProcess(schedule, 3),
        }
    )
    x = {"num": rows(20), "cat": torch.zeros(20, 2).long(), "mask": torch.ones(20, 1).long()}
    t = torch.arange(1, 21, dtype=F64) / 20
    for dtype in (torch.float32, F64):
        x["num"] = x["num"].to(dtype)
        z = process.q_sample(x, t, KeyedNoise(0)).z
        shapes = {"num": (3,), "cat": (2, 5), "mask": (1, 3)}
        output = {
            n: torch.randn(20, *s, dtype=dtype).requires_grad_(True) for n, s in shapes.items()
        }
        prediction = process.predict(output, z, t)
        total = process.vlb_term(x, z, prediction, t, t - 1 / 20).sum()
        for gradient in torch.autograd.grad(total, list(output.values())):
            assert bool(gradient.isfinite().all())


class TwoHeads(nn.Module):
    """A network with a mean and a variance head that share nothing."""

    def __init__(self):
        super().__init__()
        self.mean, self.fraction = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, z, t, cond=None):
        return torch.cat([self.mean(z), torch.tanh(self.fraction(z))], -1)


def test_hybrid_loss_leaves_the_mean_to_the_simple_loss():
    process = GaussianProcess(DiscreteSchedule.linear(20), variance="learned")
    denoiser = NetworkDenoiser(TwoHeads().double(), process, learned_variance=True)
    x, t = rows(20), torch.arange(1, 21, dtype=F64) / 20

    def gradients(objective):
        denoiser.zero_grad()
        objective(denoiser, x, Fixed(), t=t).sum().backward()
        heads = denoiser.network.mean, denoiser.network.fraction
        return [
            torch.zeros(1) if p.grad is None else p.grad.clone()
            for h in heads
            for p in h.parameters()
        ]

    hybrid, simple, full = (gradients(o) for o in (HybridLoss(0.01), SimpleLoss(), ELBOLoss()))
    for mean, alone in zip(hybrid[:2], simple[:2], strict=True):
        assert torch.allclose(mean, alone, rtol=1e-12, atol=0)
    for fraction, vlb in zip(hybrid[2:], full[2:], strict=True):
        assert torch.allclose(fraction, 0.01 * vlb, rtol=1e-10, atol=1e-14)
        assert float(fraction.abs().max()) > 0
    # The ELBO by itself would move the mean.
    assert float(full[0].abs().max()) > 0
    value = HybridLoss(0.01)(denoiser, x, Fixed(), t=t)
    parts = SimpleLoss()(denoiser, x, Fixed(), t=t), ELBOLoss()(denoiser, x, Fixed(), t=t)
    assert torch.allclose(value, parts[0] + 0.01 * parts[1], rtol=1e-12, atol=0)


def test_product_loss_is_the_weighted_sum_at_one_time():
    schedule = DiscreteSchedule.linear(20)
    parts = {
        "num": GaussianProcess(schedule),
        "cat": MultinomialProcess(schedule, (2, 5)),
    }
    denoiser = FromState(ProductProcess(parts))
    x = {"num": rows(6), "cat": torch.tensor([[0, 4], [1, 1]] * 3)}
    objectives, t = {"num": SimpleLoss(), "cat": ELBOLoss()}, times(schedule, 6)
    single = {
        name: objectives[name](FromState(part), x[name], Fixed(), t=t)
        for name, part in parts.items()
    }
    plain = ProductLoss(objectives)(denoiser, x, Fixed(), t=t)
    assert torch.allclose(plain, single["num"] + single["cat"], rtol=1e-10, atol=0)
    weighted = ProductLoss(objectives, {"cat": 0.25})(denoiser, x, Fixed(), t=t)
    assert torch.allclose(weighted, single["num"] + 0.25 * single["cat"], rtol=1e-10, atol=0)
    assert ProductLoss(objectives)(denoiser, x, KeyedNoise(0)).shape == (6,)


# Times


@pytest.mark.parametrize("batch", [20, 60])
def test_uniform_times_are_stratified_over_the_nodes(batch):
    schedule = DiscreteSchedule.linear(20)
    for seed in range(20):
        t = UniformTime()(schedule, torch.empty(batch, 2), KeyedNoise(seed))
        nodes = schedule.node(t)
        assert torch.bincount(nodes, minlength=21).tolist() == [0] + [batch // 20] * 20


def test_uniform_times_are_uniform_for_every_row():
    schedule, like = DiscreteSchedule.linear(20), torch.empty(7, 1)
    draws = torch.stack([UniformTime()(schedule, like, KeyedNoise(0).at(i)) for i in range(4000)])
    for row in (0, 3, 6):
        counts = torch.bincount(schedule.node(draws[:, row]), minlength=21)[1:]
        assert stats.chisquare(counts.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("schedule", [LinearVP(), EDMSchedule()])
def test_continuous_uniform_times_fill_the_interval_evenly(schedule):
    t = UniformTime()(schedule, torch.empty(64, 1), KeyedNoise(1))
    assert t.dtype == F64
    assert schedule.t_min <= float(t.min())
    assert float(t.max()) <= 1
    gaps = t.sort().values.diff() * 64 / (1 - schedule.t_min)
    assert torch.allclose(gaps, torch.ones(63, dtype=F64), rtol=1e-9)
    one = [
        float(UniformTime()(schedule, torch.empty(3, 1), KeyedNoise(0).at(i))[1])
        for i in range(2000)
    ]
    uniform = stats.uniform(schedule.t_min, 1 - schedule.t_min)
    assert stats.kstest(one, uniform.cdf).pvalue > 1e-3


def test_lognormal_sigma_has_the_law_of_karras():
    schedule, n = EDMSchedule(), 20_000
    t = LogNormalSigma()(schedule, torch.empty(n, 2), KeyedNoise(0))
    log_sigma = schedule.marginal(t).sigma.log()
    assert stats.kstest(log_sigma.numpy(), "norm", args=(-1.2, 1.2)).pvalue > 1e-3
    wide = LogNormalSigma(0.0, 30.0)(schedule, torch.empty(500, 2), KeyedNoise(0))
    assert float(wide.min()) == pytest.approx(schedule.t_min, rel=1e-12)
    assert float(wide.max()) == 1
    nodes = LogNormalSigma()(DiscreteSchedule.linear(20), torch.empty(500, 2), KeyedNoise(0))
    assert set(np.round(nodes.numpy() * 20)) <= set(range(1, 21))


def test_times_and_noise_are_independent():
    process, x = GaussianProcess(LinearVP()), torch.zeros(20_000, 1, dtype=F64)
    seen = {}

    class Record:
        def __call__(self, z, t, cond=None):
            seen["t"], seen["eps"] = t, z[:, 0] / process.schedule.marginal(t).std
            return process.prediction(z, t, eps=z)

    Record.process = process
    SimpleLoss(times=LogNormalSigma())(Record(), x, KeyedNoise(0))
    correlation = np.corrcoef(seen["t"], seen["eps"])[0, 1]
    assert abs(correlation) < 4 / math.sqrt(20_000)


def test_conditions_and_devices_pass_through(device):
    oracle = GaussianMixtureOracle.prince(GaussianProcess(DiscreteSchedule.linear(20))).to(device)
    x, label = oracle.sample(50)
    for objective in (SimpleLoss(), ELBOLoss(), MinSNRLoss(), EDMLoss()):
        t = torch.full((50,), 0.5, dtype=F64, device=device)
        with_label = objective(oracle, x, KeyedNoise(0), cond=label, t=t)
        without = objective(oracle, x, KeyedNoise(0), t=t)
        assert with_label.shape == (50,)
        assert with_label.device == x.device
        assert not torch.equal(with_label, without)
        assert bool(objective(oracle, x, KeyedNoise(0)).isfinite().all())


# Options


def test_options_are_checked():
    schedule = DiscreteSchedule.linear(20)
    categories = FromState(MultinomialProcess(schedule, 3))
    for objective in (SimpleLoss(), MinSNRLoss(), EDMLoss()):
        with pytest.raises(ConfigError, match="ELBOLoss"):
            objective(categories, torch.zeros(3, 1).long(), KeyedNoise(0))
    with pytest.raises(ConfigError, match="ProductProcess"):
        ProductLoss({"a": SimpleLoss()})(FromState(GaussianProcess(schedule)), rows(), Fixed())
    with pytest.raises(ConfigError, match=r"do not exist.*'b'"):
        ProductLoss({"a": SimpleLoss()}, {"b": 2.0})
    product = FromState(ProductProcess({n: GaussianProcess(schedule) for n in ("a", "b")}))
    with pytest.raises(ConfigError, match="same names"):
        ProductLoss({"a": SimpleLoss()})(product, {"a": rows(), "b": rows()}, Fixed())
    for build in (
        lambda: SimpleLoss("noise"),
        lambda: MinSNRLoss(0.0),
        lambda: EDMLoss(0.0),
        lambda: EDMLoss(torch.tensor([1.0, -1.0])),
        lambda: LogNormalSigma(std=0.0),
    ):
        with pytest.raises(ConfigError):
            build()
