"""Every figure of docs/errata.md, measured again: what the slip does, and what is right."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from scidiffusion.core import (
    DiscreteSchedule,
    GaussianProcess,
    KeyedNoise,
    LinearVP,
    NoiseSchedule,
    Parameterization,
    Prediction,
    elbo,
)
from scidiffusion.errors import ScidiffusionWarning
from scidiffusion.guidance import ClassifierFreeGuidance
from scidiffusion.samplers import DDIM, Ancestral, EulerMaruyama, sample
from scidiffusion.testing import GaussianMixtureOracle

F64 = torch.float64
N = 2000
LEVELS = (torch.arange(N, dtype=F64) + 0.5) / N
LIKE = torch.empty(N, 1, dtype=F64)
START = torch.special.ndtri(LEVELS)[:, None]  # quantiles of N(0, 1): no sampling error
NOTEBOOK = DiscreteSchedule([0.01511] * 100)


def oracle(schedule: NoiseSchedule, **options: Any) -> GaussianMixtureOracle:
    return GaussianMixtureOracle.prince(GaussianProcess(schedule, **options))


EXACT = oracle(DiscreteSchedule.linear(100))
TRUTH = EXACT.quantiles(LEVELS)


def w1(x: Tensor) -> float:
    return float((x[:, 0].sort().values - TRUTH).abs().mean())


def ddim(model: Any, **options: Any) -> Tensor:
    return sample(model.process, model, LIKE, sampler=DDIM(), z=START, **options)


# --- L_T dropped


def test_the_prior_term_of_the_notebook_schedule_is_large() -> None:
    process = oracle(NOTEBOOK).process
    assert float(process.prior_divergence(TRUTH[:, None]).mean()) == pytest.approx(0.143, abs=5e-4)
    with pytest.warns(ScidiffusionWarning, match="terminal distribution is not the prior"):
        elbo(oracle(NOTEBOOK), TRUTH[::200, None])


@pytest.mark.filterwarnings("ignore::scidiffusion.errors.ScidiffusionWarning")
def test_without_the_prior_term_the_bound_is_no_bound() -> None:
    # Standard normal data and the optimal variance: the bound is log p itself, so that leaving L_T
    # out lifts it above.
    process = GaussianProcess(NOTEBOOK, variance="optimal")
    model = GaussianMixtureOracle([1.0], [0.0], [1.0], process)
    bound = elbo(model, START, steps=20, draws=5)
    log_p = float(model.log_prob(START).mean())
    assert float(bound.total.mean()) == pytest.approx(log_p, abs=0.02)
    assert float((bound.total + bound.prior).mean()) == pytest.approx(log_p + 0.123, abs=0.02)


# --- A schedule that does not end in noise


def test_notebook_schedule_keeps_a_fifth_of_the_signal() -> None:
    assert pytest.approx(0.218, abs=5e-4) == NOTEBOOK.terminal_snr
    assert w1(ddim(oracle(NOTEBOOK))) == pytest.approx(0.061, abs=1e-3)
    assert w1(ddim(EXACT)) == pytest.approx(0.014, abs=1e-3)


def test_notebook_schedule_biases_conditional_samples() -> None:
    label = torch.full((N,), 2)  # the component with mean .45 and standard deviation .525
    biased, right = (ddim(m, cond=label) for m in (oracle(NOTEBOOK), EXACT))
    assert float(biased.mean()) == pytest.approx(0.335, abs=1e-3)
    assert float(right.mean()) == pytest.approx(0.449, abs=1e-3)


# --- The bar lost; noise at the last step


def algorithm_2(model: GaussianMixtureOracle, lost_bar: bool, last_noise: bool) -> Tensor:
    """Ho et al. 2020, algorithm 2 with sigma^2 = beta: right, or as some notes print it."""
    schedule = model.process.schedule
    assert isinstance(schedule, DiscreteSchedule)
    generator = torch.Generator().manual_seed(0)
    count, nodes = 500, len(schedule.betas)
    z = torch.randn(count, 1, dtype=F64, generator=generator)
    for k in range(nodes, 0, -1):
        beta, alpha_bar = schedule.betas[k - 1], schedule.alpha_bar[k]
        denominator = beta.sqrt() if lost_bar else (1 - alpha_bar).sqrt()
        eps = model(z, torch.tensor(k / nodes, dtype=F64)).eps
        z = (z - beta / denominator * eps) / (1 - beta).sqrt()
        if k > 1 or last_noise:
            z = z + beta.sqrt() * torch.randn(z.shape, dtype=F64, generator=generator)
    return z


@pytest.mark.parametrize(("nodes", "sd"), [(100, 0.52), (1000, 0.16)])
def test_the_lost_bar_shrinks_the_samples(nodes: int, sd: float) -> None:
    model = oracle(DiscreteSchedule.linear(nodes), variance="beta")
    lost = algorithm_2(model, lost_bar=True, last_noise=True)
    assert float(lost.std()) == pytest.approx(sd, abs=0.03)
    if nodes == 100:
        right = algorithm_2(model, lost_bar=False, last_noise=False)
        assert float(right.std()) == pytest.approx(float(TRUTH.std()), abs=0.08)


def test_noise_at_the_last_step_doubles_the_width_of_the_narrow_component() -> None:
    model = oracle(NOTEBOOK, variance="beta")
    narrow = [
        float(x[x < -1.4].std()) for x in (algorithm_2(model, False, on) for on in (False, True))
    ]
    assert narrow[0] == pytest.approx(0.06, abs=0.02)
    assert narrow[1] == pytest.approx(0.14, abs=0.02)


def test_the_last_step_of_ours_draws_no_noise() -> None:
    model = oracle(NOTEBOOK, variance="beta")
    t, s = torch.tensor(0.01, dtype=F64), torch.tensor(0.0, dtype=F64)
    first, second = (
        Ancestral().step(model.process, model, Ancestral().init(START), t, s, KeyedNoise(seed)).z
        for seed in (0, 1)
    )
    assert torch.equal(first, second)


# --- The reverse SDE's sign; the Wiener increment


def reverse_sde(steps: int, sign: float, spread: Callable[[Tensor], Tensor]) -> Tensor:
    """Euler-Maruyama with a sign and an increment to get wrong."""
    model = oracle(LinearVP())
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(500, 1, dtype=F64, generator=generator)
    grid = model.process.schedule.grid(steps, "uniform")
    for t, s in pairwise(grid):
        drift, diffusion = model.process.schedule.sde_increment(t, s)
        z = z - sign * (drift * z - diffusion * model(z, t).score)
        if s > 0:
            z = z + spread(diffusion) * torch.randn(z.shape, dtype=F64, generator=generator)
    return z


def test_the_reverse_sde_with_the_wrong_sign_explodes() -> None:
    assert float(reverse_sde(100, -1, torch.sqrt).std()) == pytest.approx(600, rel=0.1)
    assert float(reverse_sde(100, 1, torch.sqrt).std()) == pytest.approx(1.083, abs=0.08)
    model = oracle(LinearVP())
    ours = sample(model.process, model, LIKE, sampler=EulerMaruyama(), steps=100)
    assert w1(ours) < 0.06


def test_an_increment_with_standard_deviation_dt_vanishes() -> None:
    generator = torch.Generator().manual_seed(0)
    for steps, wrong in ((100, 0.1), (1000, 0.0316)):
        normal = torch.randn(steps, N, dtype=F64, generator=generator)
        assert float((normal / math.sqrt(steps)).sum(0).std()) == pytest.approx(1, abs=0.05)
        assert float((normal / steps).sum(0).std()) == pytest.approx(wrong, rel=0.05)
    assert float(reverse_sde(100, 1, lambda v: v).std()) == pytest.approx(0.24, abs=0.03)


# --- Clipping to [-1, 1]


class Clipped:
    """The default of several libraries: x0 clamped to the range of 8-bit images."""

    def __init__(self, model: GaussianMixtureOracle) -> None:
        self.model, self.process = model, model.process

    def __call__(self, z: Tensor, t: Tensor, cond: Any = None) -> Prediction:
        prediction = self.model(z, t, cond)
        return prediction.with_value(prediction.x0.clamp(-1, 1), Parameterization.X0)


def test_clipping_to_the_range_of_images_ruins_standardised_data() -> None:
    assert float((TRUTH.abs() > 1).double().mean()) == pytest.approx(0.393, abs=2e-3)
    model = oracle(DiscreteSchedule.linear(100), variance="beta")
    clipped = sample(model.process, Clipped(model), LIKE, sampler=Ancestral())
    assert float(clipped.std()) == pytest.approx(0.59, abs=0.02)
    assert w1(clipped) == pytest.approx(0.34, abs=0.03)
    ours = sample(model.process, model, LIKE, sampler=Ancestral())
    assert float(ours.std()) == pytest.approx(1.083, abs=0.05)


# --- Off by one


def slipped_ddim(num_nodes: int, steps: int, model_slip: int, coefficient_slip: int) -> Tensor:
    schedule = DiscreteSchedule.linear(num_nodes)
    model = oracle(schedule)
    alpha_bar = torch.cat([schedule.alpha_bar, schedule.alpha_bar[-1:] * (1 - schedule.betas[-1])])
    z = START
    nodes = (schedule.grid(steps, "uniform") * num_nodes).round().int().tolist()
    for later, earlier in pairwise(nodes):
        k = max(later + model_slip, 1)
        eps = model(z, torch.tensor(k / num_nodes, dtype=F64)).eps
        a_t, a_s = alpha_bar[later + coefficient_slip], alpha_bar[earlier + coefficient_slip]
        z = a_s.sqrt() * (z - (1 - a_t).sqrt() * eps) / a_t.sqrt() + (1 - a_s).sqrt() * eps
    return z


@pytest.mark.parametrize(
    ("nodes", "steps", "right", "one", "two"),
    [
        (20, 20, (0.076, 1.002), (0.092, 1.164), (0.261, 1.318)),
        (100, 20, (0.068, 1.010), (0.043, 1.040), (0.026, 1.068)),
        (1000, 20, (0.068, 1.011), (0.065, 1.014), (0.062, 1.017)),
    ],
)
def test_off_by_one(
    nodes: int,
    steps: int,
    right: tuple[float, float],
    one: tuple[float, float],
    two: tuple[float, float],
) -> None:
    for slips, expected in (((0, 0), right), ((0, 1), one), ((-1, 1), two)):
        z = slipped_ddim(nodes, steps, *slips)
        assert (w1(z), float(z.std())) == pytest.approx(expected, abs=2e-3), slips


def test_without_a_slip_it_is_our_ddim() -> None:
    model = oracle(DiscreteSchedule.linear(20))
    assert torch.allclose(slipped_ddim(20, 20, 0, 0), ddim(model), rtol=0, atol=1e-10)


# --- Two meanings of alpha


def test_reading_one_alpha_as_the_other() -> None:
    schedule = DiscreteSchedule.linear(1000)
    k = 500
    step = 1 - float(schedule.betas[k - 1])
    product = float(schedule.alpha_bar[k])
    assert step == pytest.approx(0.98995, abs=1e-5)
    assert product == pytest.approx(0.0786, abs=1e-4)


# --- s against w


@pytest.mark.parametrize(
    ("scale", "mean", "sd"), [(1, 0.449, 0.511), (2, 0.567, 0.217), (3, 0.594, 0.077)]
)
def test_guidance_scale_and_w(scale: float, mean: float, sd: float) -> None:
    label = torch.full((N,), 2)
    x = ddim(ClassifierFreeGuidance(EXACT, scale), cond=label)
    assert float(x.mean()) == pytest.approx(mean, abs=2e-3)
    assert float(x.std()) == pytest.approx(sd, abs=3e-3)
    by_w = ClassifierFreeGuidance.from_ho_salimans(EXACT, w=scale - 1)
    t = torch.tensor(0.5, dtype=F64)
    conditional, unconditional = EXACT(START, t, label).eps, EXACT(START, t).eps
    expected = (1 + by_w.scale - 1) * conditional - (by_w.scale - 1) * unconditional
    assert torch.allclose(by_w(START, t, label).eps, expected, rtol=0, atol=1e-12)
    assert by_w.scale == scale


# --- Tables in single precision


def test_single_precision_tables_lose_the_first_node() -> None:
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=F64)
    single = 1 - torch.cumprod(1 - betas.float(), 0)
    relative = (single.double() / -torch.expm1(torch.log1p(-betas).cumsum(0)) - 1).abs()
    assert float(relative[0]) == pytest.approx(1.7e-4, abs=1e-5)
    assert bool((torch.cumprod(1 - betas.float(), 0)[:8].bfloat16() == 1).all())
    ours = DiscreteSchedule(betas).marginal(torch.tensor(1e-3)).var
    assert float(ours) == pytest.approx(1e-4, rel=1e-12)


# --- Regressing on draws


def test_regressing_on_draws_is_noisier_than_on_means() -> None:
    process = oracle(NOTEBOOK, variance="beta").process
    model = oracle(NOTEBOOK, variance="beta")
    x, _ = model.sample(20_000)
    t, s = torch.tensor(0.5, dtype=F64), torch.tensor(0.49, dtype=F64)
    z = process.q_sample(x, t, KeyedNoise(1)).z
    best = process.reverse(model(z, t), t, s).mean
    target = process.posterior(x, z, t, s)
    assert float((target.mean - best).var()) == pytest.approx(2.2e-4, rel=0.1)
    assert float((target.sample(KeyedNoise(2)) - best).var()) == pytest.approx(1.5e-2, rel=0.1)
