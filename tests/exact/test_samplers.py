"""Samplers against closed forms: orders, laws and distances on exact oracles.

Two devices make most of this free of Monte Carlo noise. On Gaussian data every sampler is an
affine map of its start and its noise, so feeding it unit impulses (`Impulses`) reads off the exact
law of its output. On a one-dimensional mixture a sampler with one draw a step is a Markov kernel,
which `exact_output` applies to a density on a grid.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch

from scidiffusion.core import (
    CosineVP,
    DiscreteSchedule,
    EDMSchedule,
    GaussianProcess,
    KeyedNoise,
    LinearVP,
    Noise,
    VESchedule,
)
from scidiffusion.samplers import (
    DDIM,
    Ancestral,
    Carry,
    DPMSolverPP,
    EulerMaruyama,
    Heun,
    PredictorCorrector,
    ddim_encode,
    sample,
    spherical_blend,
)
from scidiffusion.testing import (
    GaussianMixtureOracle,
    assert_order,
    assert_round_trip,
    assert_same_distribution,
    empirical_order,
)

F64 = torch.float64
MEAN, VAR = 1.0, 0.25


def quantile_points(n):
    """The midpoints of n equally probable cells of N(0, 1): a start without sampling error."""
    return torch.special.ndtri((torch.arange(n, dtype=F64) + 0.5) / n)[:, None]


def gaussian_data(schedule, **options):
    process = GaussianProcess(schedule, **options)
    return process, GaussianMixtureOracle([1.0], [MEAN], [VAR], process)


def prince(schedule, **options):
    process = GaussianProcess(schedule, **options)
    return process, GaussianMixtureOracle.prince(process)


def run(process, denoiser, sampler, grid, z, noise=None):
    """The loop of `sample` over any decreasing times, not only from 1 to 0."""
    noise = KeyedNoise(0) if noise is None else noise
    carry = sampler.init(z)
    for index, (t, s) in enumerate(itertools.pairwise(grid), start=1):
        carry = sampler.step(process, denoiser, carry, t, s, noise.at(index))
    return carry.z


# --- orders of the deterministic methods -----------------------------------------------------


def flow_map(schedule, z, t, s):
    """The probability-flow map from t to s of N(MEAN, VAR): it keeps the standardised value."""
    later, earlier = schedule.marginal(t), schedule.marginal(s)
    spread = ((earlier.scale**2 * VAR + earlier.var) / (later.scale**2 * VAR + later.var)).sqrt()
    return earlier.scale * MEAN + spread * (z - later.scale * MEAN)


@pytest.mark.parametrize("schedule", [LinearVP(), CosineVP(), VESchedule(0.01, 20.0)], ids=repr)
@pytest.mark.parametrize(
    ("sampler", "expected", "tolerance", "at_least"),
    [
        (DDIM(), 1, 0.1, False),
        (DPMSolverPP(solver_order=1), 1, 0.1, False),
        (DPMSolverPP(), 1.6, 0.0, True),
        (Heun(), 2, 0.15, False),
    ],
    ids=repr,
)
def test_order_of_the_flow_map(schedule, sampler, expected, tolerance, at_least):
    process, oracle = gaussian_data(schedule)
    start = schedule.prior_std * quantile_points(32)
    end = torch.tensor(0.05, dtype=F64)
    exact = flow_map(schedule, start, 1.0, end)
    log_snr = [float(schedule.log_snr(t)) for t in (1.0, end)]
    errors = {}
    for steps in (40, 80, 160):
        grid = schedule.t_of_log_snr(torch.linspace(*log_snr, steps + 1, dtype=F64))
        errors[steps] = float((run(process, oracle, sampler, grid, start) - exact).abs().max())
    order = assert_order(errors, expected, tolerance, at_least=at_least)
    assert order == pytest.approx(sampler.order, abs=0.4)


def test_ddim_and_first_order_dpm_solver_are_one_method():
    process, oracle = prince(LinearVP())
    start = quantile_points(50)
    grid = process.schedule.grid(20, "log_snr")
    one, other = (run(process, oracle, s, grid, start) for s in (DDIM(), DPMSolverPP(1)))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


# --- laws on Gaussian data -------------------------------------------------------------------


class Impulses(Noise):
    """Row 2 + k of every batch is given a one in the k-th draw of the run, and zeros elsewhere."""

    def __init__(self):
        self.count = 0

    def normal(self, like):
        out = torch.zeros_like(like)
        out[2 + self.count] = 1
        self.count += 1
        return out

    def uniform(self, like):
        raise AssertionError("a Gaussian sampler has no use for uniform numbers")

    def child(self, name):
        return self

    def at(self, step):
        return self


def output_moments(process, oracle, sampler, grid, draws_per_step):
    """Mean and variance of the output for Gaussian data, started from the exact q(z_1)."""
    rows = 2 + draws_per_step * (len(grid) - 1)
    z = torch.zeros(rows, 1, dtype=F64)
    z[1] = 1
    out = sample(process, oracle, z, sampler=sampler, grid=grid, noise=Impulses(), z=z)[:, 0]
    offset, gain, response = out[0], out[1] - out[0], out[2:] - out[0]
    first = process.schedule.marginal(1.0)
    mean = offset + gain * first.scale * MEAN
    var = gain**2 * (first.scale**2 * VAR + first.var) + (response**2).sum()
    return float(mean), float(var)


def variance_errors(process, oracle, sampler, steps, spacing="log_snr", draws_per_step=1):
    errors = {}
    for n in steps:
        grid = process.schedule.grid(n, spacing)
        mean, var = output_moments(process, oracle, sampler, grid, draws_per_step)
        assert abs(mean - MEAN) <= max(abs(var - VAR), 1e-12)
        errors[n] = abs(var - VAR)
    return errors


@pytest.mark.parametrize(
    "schedule",
    [LinearVP(), CosineVP(), EDMSchedule(0.002, 20.0), VESchedule(0.01, 20.0)],
    ids=repr,
)
@pytest.mark.parametrize(
    ("sampler", "variance"),
    [
        (Ancestral(), "posterior"),
        (Ancestral(), "beta"),
        (DDIM(eta=1.0), "posterior"),
        (DDIM(eta=0.5), "posterior"),
        (EulerMaruyama(), "posterior"),
        (DPMSolverPP(solver_order=1, sde=True), "posterior"),
    ],
    ids=lambda v: v if isinstance(v, str) else repr(v),
)
def test_weak_order_one_of_the_stochastic_samplers(schedule, sampler, variance):
    assert sampler.stochastic
    process, oracle = gaussian_data(schedule, variance=variance)
    errors = variance_errors(process, oracle, sampler, (40, 80, 160))
    assert_order(errors, sampler.order, 0.15)


@pytest.mark.parametrize("schedule", [CosineVP(), EDMSchedule(0.002, 20.0)], ids=repr)
def test_two_step_sde_solver_is_at_least_of_its_declared_order(schedule):
    process, oracle = gaussian_data(schedule)
    sampler = DPMSolverPP(sde=True)
    errors = variance_errors(process, oracle, sampler, (40, 80, 160))
    assert_order(errors, sampler.order, 0.15, at_least=True)
    # The extrapolation pays: it is far closer than the one-step form.
    one_step = variance_errors(process, oracle, DPMSolverPP(1, sde=True), (40,))
    assert errors[40] < 0.2 * one_step[40]


@pytest.mark.parametrize("schedule", [VESchedule(0.01, 20.0), EDMSchedule(0.002, 20.0)], ids=repr)
@pytest.mark.parametrize("total", [2.0, 8.0])
def test_heun_with_churn_keeps_the_law_and_the_order(schedule, total):
    """A total churn spread over the steps, as Karras et al. have it, keeps order 2."""
    process, oracle = gaussian_data(schedule)
    errors = {}
    for steps in (40, 80, 160):
        churned = Heun(churn=total / steps)
        assert churned.stochastic
        errors |= variance_errors(process, oracle, churned, (steps,))
    assert_order(errors, 2, 0.15)
    # Noise of another size than what the level was raised by gives another law.
    wrong = variance_errors(process, oracle, Heun(churn=total / 160, churn_noise=1.1), (160,))
    assert wrong[160] > 10 * errors[160]


def test_heun_with_a_fixed_churn_is_of_its_declared_order():
    process, oracle = gaussian_data(EDMSchedule(0.002, 20.0))
    sampler = Heun(churn=0.3)
    assert_order(variance_errors(process, oracle, sampler, (80, 160, 320)), sampler.order, 0.25)
    # Between the bounds of noise level nothing is churned.
    quiet = Heun(churn=0.3, churn_sigma_min=1e3)
    grid = process.schedule.grid(10)
    start = 20 * quantile_points(8)
    assert torch.equal(
        run(process, oracle, quiet, grid, start), run(process, oracle, Heun(), grid, start)
    )


def test_predictor_corrector_improves_on_its_predictor_and_has_its_declared_order():
    process, oracle = gaussian_data(LinearVP())
    sampler = PredictorCorrector()
    plain = variance_errors(process, oracle, EulerMaruyama(), (80,), "uniform")
    assert variance_errors(process, oracle, sampler, (80,), "uniform", 2)[80] < 0.8 * plain[80]
    errors = variance_errors(process, oracle, sampler, (300, 600), "uniform", 2)
    assert_order(errors, sampler.order, 0.2)


def test_the_corrector_is_langevin_dynamics_at_the_noise_level_it_corrects():
    process, oracle = prince(LinearVP())
    t, s = torch.tensor(0.5, dtype=F64), torch.tensor(0.3, dtype=F64)
    z, noise, snr = quantile_points(30), KeyedNoise(6), 0.2
    predicted = EulerMaruyama().step(process, oracle, Carry(z), t, s, noise).z
    size = 2 * (snr * process.schedule.marginal(s).std) ** 2
    fresh = noise.child("corrector0").normal(z)
    expected = predicted + size * oracle(predicted, s).score + (2 * size).sqrt() * fresh
    sampler = PredictorCorrector(snr=snr)
    found = sampler.step(process, oracle, Carry(z), t, s, noise).z
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    # It draws numbers of its own: those of the predictor would correlate the two.
    assert not torch.equal(fresh, noise.normal(z))


def test_predictor_corrector_corrects_more_with_more_steps():
    """Langevin steps at a large snr undo a predictor that does nothing at all."""

    class Scale(DDIM):
        """Only rescale z: a useless predictor."""

        def update(self, process, prediction, carry, t, s, noise):
            ratio = process.schedule.marginal(s).scale / process.schedule.marginal(t).scale
            return Carry(ratio * carry.z) if s > 0 else Carry(prediction.x0)

    process, oracle = gaussian_data(LinearVP())
    errors = [
        variance_errors(
            process, oracle, PredictorCorrector(Scale(), count), (40,), "uniform", count
        )[40]
        for count in (1, 4, 16)
    ]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


@pytest.mark.parametrize("steps", [3, 10, 50])
@pytest.mark.parametrize("schedule", [LinearVP(), CosineVP(), VESchedule(0.01, 20.0)], ids=repr)
def test_ancestral_sampling_with_the_optimal_variance_is_exact_on_gaussian_data(schedule, steps):
    """Every kernel is then the true one; what the noise-free last step leaves out is known."""
    process, oracle = gaussian_data(schedule, variance="optimal")
    grid = schedule.grid(steps)
    mean, var = output_moments(process, oracle, Ancestral(), grid, 1)
    sigma2 = float(schedule.marginal(grid[-2]).sigma ** 2)
    left_out = VAR * sigma2 / (VAR + sigma2)
    assert mean == pytest.approx(MEAN, abs=1e-12)
    assert var == pytest.approx(VAR - left_out, abs=1e-12)


# --- distance to Prince's mixture ------------------------------------------------------------


class Constant(Noise):
    """The same number in every draw."""

    def __init__(self, value):
        self.value = value

    def normal(self, like):
        return torch.full_like(like, self.value)

    uniform = normal

    def child(self, name):
        return self

    def at(self, step):
        return self


@dataclasses.dataclass
class Output:
    """A discrete law: values in increasing order and their probabilities."""

    values: torch.Tensor
    probs: torch.Tensor

    def wasserstein_1(self, oracle):
        middle = self.probs.cumsum(0) - 0.5 * self.probs
        target = oracle.quantiles(middle.clamp(1e-12, 1 - 1e-12))
        return float((self.probs * (self.values - target).abs()).sum())

    @property
    def std(self):
        mean = (self.probs * self.values).sum()
        return float((self.probs * (self.values - mean) ** 2).sum().sqrt())

    def cdf(self, x):
        cumulative = torch.cat([torch.zeros(1, dtype=F64), self.probs.cumsum(0)])
        inside = torch.searchsorted(self.values, torch.as_tensor(x), right=True)
        return cumulative[inside].numpy()


def exact_output(process, denoiser, sampler, grid, reach=5.5, nodes=441):
    """The law of the output from N(0, 1), for a sampler that draws once a step: no sampling."""
    x = torch.linspace(-reach, reach, nodes, dtype=F64)[:, None]
    width = float(x[1, 0] - x[0, 0])
    probs = width * torch.exp(-0.5 * x[:, 0] ** 2) / math.sqrt(2 * math.pi)
    for t, s in itertools.pairwise(grid):
        mean, up = (
            sampler.step(process, denoiser, Carry(x), t, s, Constant(value)).z[:, 0]
            for value in (0.0, 1.0)
        )
        std = up - mean
        if s > 0:
            kernel = torch.exp(-0.5 * ((x[:, 0] - mean[:, None]) / std[:, None]) ** 2)
            probs = probs @ (width / math.sqrt(2 * math.pi) / std[:, None] * kernel)
    assert torch.equal(std, torch.zeros_like(std)), "the last step draws no noise"
    assert float(probs.sum()) == pytest.approx(1, abs=1e-5)
    order = mean.argsort()
    return Output(mean[order], probs[order] / probs.sum())


# Network evaluations -> largest Wasserstein-1 distance, from a run of an independent prototype.
BOUNDS = {
    "ddim": {20: 0.095, 50: 0.037, 200: 0.0092},
    "dpmpp_2m": {20: 0.0125, 50: 0.0018, 200: 0.0008},
    "heun": {20: 0.0575, 50: 0.0088, 200: 0.0008},
    "ancestral": {20: 0.043, 50: 0.022, 200: 0.008},
}


@pytest.mark.parametrize("evaluations", [20, 50, 200])
@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "heun"])
def test_distance_by_evaluations_of_the_deterministic_samplers(name, evaluations):
    process, oracle = prince(LinearVP())
    start = quantile_points(2000)
    if name == "heun":
        # Two evaluations a step. Equal steps in t down to t_min: the last one, which is Euler's,
        # must be short.
        steps = torch.linspace(1, process.schedule.t_min, evaluations // 2, dtype=F64)
        sampler, grid = Heun(), torch.cat([steps, torch.zeros(1, dtype=F64)])
    else:
        sampler = DDIM() if name == "ddim" else DPMSolverPP()
        grid = process.schedule.grid(evaluations, sampler.spacing)
    calls = []

    def counted(z, t, cond=None):
        calls.append(float(t))
        return oracle(z, t, cond)

    z = sample(process, counted, start, sampler=sampler, grid=grid, z=start)
    assert len(calls) <= evaluations
    distance = oracle.wasserstein_1(z)
    assert distance <= BOUNDS[name][evaluations] + 5e-5
    # The bound says something: half as many evaluations do not meet it.
    coarse = torch.cat([grid[:-1:2], grid[-1:]])
    z = sample(process, oracle, start, sampler=sampler, grid=coarse, z=start)
    assert oracle.wasserstein_1(z) > BOUNDS[name][evaluations] or distance < 1.2 * 0.0008


@pytest.mark.parametrize("evaluations", [20, 50, 200])
def test_distance_by_evaluations_of_the_ancestral_sampler(evaluations):
    process, oracle = prince(LinearVP(), variance="beta")
    grid = process.schedule.grid(evaluations, Ancestral.spacing)
    output = exact_output(process, oracle, Ancestral(), grid)
    assert output.wasserstein_1(oracle) <= BOUNDS["ancestral"][evaluations]


@pytest.mark.parametrize("sampler", [Ancestral(), EulerMaruyama(), DDIM(eta=1.0)], ids=repr)
def test_drawn_samples_follow_the_exact_law_of_the_sampler(sampler):
    """`sample` with real noise agrees with the Markov kernels, and not yet with the data."""
    process, oracle = prince(LinearVP(), variance="posterior")
    grid = process.schedule.grid(6, "uniform")
    like = torch.empty(4000, 1, dtype=F64)
    z = sample(process, oracle, like, sampler=sampler, grid=grid, noise=KeyedNoise(3))
    output = exact_output(process, oracle, sampler, grid, reach=9.0, nodes=601)
    assert_same_distribution(z, output.cdf)
    data, _ = oracle.sample(4000, KeyedNoise(4))
    with pytest.raises(AssertionError, match="not the same distribution"):
        assert_same_distribution(z, data)


def test_ddim_with_eta_one_is_ancestral_sampling_with_the_posterior_variance():
    process, oracle = prince(DiscreteSchedule.linear(20), variance="posterior")
    grid = process.schedule.grid(20, "uniform")
    z = quantile_points(40)
    noise = KeyedNoise(5)
    for index, (t, s) in enumerate(itertools.pairwise(grid)):
        ancestral = process.reverse(oracle(z, t), t, s)
        means = [
            DDIM(eta=1.0).step(process, oracle, Carry(z), t, s, Constant(value)).z
            for value in (0.0, 1.0)
        ]
        torch.testing.assert_close(means[0], ancestral.mean, rtol=0, atol=1e-12)
        std = ancestral.var.sqrt().expand_as(z)
        torch.testing.assert_close(means[1] - means[0], std, rtol=0, atol=1e-12)
        drawn = [
            sampler.step(process, oracle, Carry(z), t, s, noise.at(index)).z
            for sampler in (Ancestral(), DDIM(eta=1.0))
        ]
        torch.testing.assert_close(*drawn, rtol=0, atol=1e-12)
        z = drawn[0]


# --- slips that must show --------------------------------------------------------------------


class Altered:
    """A denoiser whose answer is changed on the way."""

    def __init__(self, oracle, change):
        self.process, self.oracle, self.change = oracle.process, oracle, change

    def __call__(self, z, t, cond=None):
        return self.change(self.oracle, z, t)


def one_node_late(oracle, z, t):
    process = oracle.process
    late = (t + 1 / process.schedule.num_nodes).clamp(max=1.0)
    return process.prediction(z, t, eps=oracle(z, late).eps)


def clipped(oracle, z, t):
    return oracle.process.prediction(z, t, x0=oracle(z, t).x0.clamp(-1, 1))


def test_an_off_by_one_slip_shows_at_twenty_nodes():
    process, oracle = prince(DiscreteSchedule.linear(20), variance="beta")
    slipped = Altered(oracle, one_node_late)
    start = quantile_points(2000)
    right, wrong = (
        oracle.wasserstein_1(sample(process, d, start, sampler=DDIM(), z=start))
        for d in (oracle, slipped)
    )
    assert right < 0.08 < 0.2 < wrong
    grid = process.schedule.grid(20, "uniform")
    right, wrong = (
        exact_output(process, d, Ancestral(), grid).wasserstein_1(oracle)
        for d in (oracle, slipped)
    )
    assert right < 0.065 < 0.14 < wrong


def test_a_thousand_nodes_would_hide_the_slip():
    process, oracle = prince(DiscreteSchedule.linear(1000))
    start = quantile_points(500)
    right, wrong = (
        oracle.wasserstein_1(sample(process, d, start, sampler=DDIM(), steps=50, z=start))
        for d in (oracle, Altered(oracle, one_node_late))
    )
    assert wrong < 1.2 * right


@pytest.mark.parametrize("sampler", [Ancestral(), DDIM(), DPMSolverPP(), Heun()], ids=repr)
def test_nothing_is_clipped(sampler):
    """39 % of the mixture lies outside [-1, 1]: clipping loses nearly half of its spread."""
    process, oracle = prince(DiscreteSchedule.linear(1000), variance="beta")
    start = quantile_points(2000)
    target = float(oracle.quantiles((torch.arange(2000, dtype=F64) + 0.5) / 2000).std())
    assert target == pytest.approx(1.083, abs=1e-3)

    def spread(denoiser):
        if sampler.stochastic:
            return exact_output(
                process, denoiser, sampler, process.schedule.grid(100, "uniform")
            ).std
        steps = 50 if isinstance(sampler, Heun) else 100
        return float(sample(process, denoiser, start, sampler=sampler, steps=steps, z=start).std())

    assert spread(oracle) == pytest.approx(target, abs=0.015)
    assert spread(Altered(oracle, clipped)) < 0.75
    if sampler.stochastic:
        assert spread(Altered(oracle, clipped)) == pytest.approx(0.585, abs=0.01)


def test_the_reverse_sde_runs_with_the_sign_of_time_running_down():
    """With f and the score exchanged in sign, as some lecture notes have it, samples explode."""

    class Flipped(EulerMaruyama):
        def update(self, process, prediction, carry, t, s, noise):
            right = super().update(process, prediction, carry, t, s, Constant(0.0)).z
            mean = 2 * carry.z - right
            _, diffusion = process.schedule.sde_increment(t, s)
            return Carry(mean + diffusion.sqrt() * process.draw(mean, noise) * (s > 0))

    process, oracle = prince(LinearVP())
    grid = process.schedule.grid(100, "uniform")
    assert exact_output(process, oracle, EulerMaruyama(), grid).wasserstein_1(oracle) < 0.017
    like = torch.empty(200, 1, dtype=F64)
    z = sample(process, oracle, like, sampler=Flipped(), grid=grid)
    assert float(z.std()) > 100


class Path(Noise):
    """Normalised increments of one given path of the noise."""

    def __init__(self, increments, step=0):
        self.increments, self.step = increments, step

    def normal(self, like):
        return self.increments[self.step - 1]

    def uniform(self, like):
        raise AssertionError("no uniform numbers here")

    def child(self, name):
        return self

    def at(self, step):
        return Path(self.increments, step)


def test_euler_maruyama_strong_order():
    """Paths, not only laws, converge: coarse and fine runs share one Brownian motion.

    The noise of the reverse SDE is additive, which raises the strong order from 1/2 to 1.
    """
    process, oracle = gaussian_data(LinearVP())
    finest, rows = 1024, 256
    grid = torch.linspace(1, 0.25, finest + 1, dtype=F64)
    variances = process.schedule.sde_increment(grid[:-1], grid[1:])[1]
    generator = torch.Generator().manual_seed(0)
    unit = torch.randn(finest, rows, 1, dtype=F64, generator=generator)
    increments = unit * variances.sqrt()[:, None, None]
    start = torch.randn(rows, 1, dtype=F64, generator=generator)

    def end(every):
        total = increments.reshape(-1, every, rows, 1).sum(1)
        scale = variances.reshape(-1, every).sum(1).sqrt()[:, None, None]
        noise = Path(total / scale)
        return run(process, oracle, EulerMaruyama(), grid[::every], start, noise)

    reference = end(1)
    errors = {
        finest // every: float((end(every) - reference).abs().mean()) for every in (32, 64, 128)
    }
    assert_order(errors, 1, 0.15)


# --- the deterministic encoder ---------------------------------------------------------------


def test_ddim_is_inverted_by_its_encoder():
    process, oracle = gaussian_data(CosineVP())
    x = MEAN + VAR**0.5 * quantile_points(20)
    errors = {}
    for steps in (50, 100, 1300):
        latent = ddim_encode(process, oracle, x, steps=steps)
        decode = sample(process, oracle, x, sampler=DDIM(), steps=steps, z=latent)
        errors[steps] = float((decode - x).abs().mean())
    assert_order(errors, 1, 0.1)
    assert errors[1300] <= 1e-3
    # The latent of the data is standard normal noise.
    torch.testing.assert_close(latent, quantile_points(20), rtol=0, atol=0.01)


def test_ddim_encoder_round_trip_on_a_discrete_schedule():
    process, oracle = gaussian_data(DiscreteSchedule.linear(200))
    x = MEAN + VAR**0.5 * quantile_points(20)

    def encode(v):
        return ddim_encode(process, oracle, v, steps=200)

    def decode(v):
        return sample(process, oracle, v, sampler=DDIM(), z=v)

    assert_round_trip(encode, decode, x, atol=0.03)
    with pytest.raises(AssertionError):
        assert_round_trip(encode, lambda v: decode(-v), x, atol=0.03)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_latents_are_blended_on_the_sphere(share):
    one = torch.tensor([[3.0, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]], dtype=F64)
    two = torch.tensor([[0.0, 0, 3], [0, 0, 1], [2, 2, 0], [1, 0, 0]], dtype=F64)
    turned = share * math.pi / 2
    blend = spherical_blend(one, two, share)
    expected = torch.tensor([math.cos(turned), math.sin(turned)], dtype=F64)
    torch.testing.assert_close(blend[0, [0, 2]], 3 * expected)
    torch.testing.assert_close(blend[1, [1, 2]], expected)
    # Of parallel rows the line; likewise of zeros, which have no direction.
    torch.testing.assert_close(blend[2], (1 + share) * one[2])
    assert bool(blend.isfinite().all())


def test_the_blend_of_noise_is_as_long_as_noise():
    draws = KeyedNoise(0).normal(torch.empty(50, 2, 20, 20, dtype=F64))
    one, two = draws[:25], draws[25:]
    assert float(spherical_blend(one, two, 0.5).std()) == pytest.approx(1, abs=0.02)
    assert float(((one + two) / 2).std()) == pytest.approx(0.5**0.5, abs=0.02)


# --- zero terminal SNR -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampler",
    [DDIM(), DDIM(eta=1.0), DPMSolverPP(), DPMSolverPP(1), DPMSolverPP(sde=True), Ancestral()],
    ids=repr,
)
def test_zero_terminal_snr_with_v_prediction(sampler):
    schedule = DiscreteSchedule.linear(1000).with_zero_terminal_snr()
    assert schedule.terminal_snr == 0
    process, oracle = gaussian_data(schedule, parameterization="v")
    grid = schedule.grid(200, sampler.spacing)
    mean, var = output_moments(process, oracle, sampler, grid, 1)
    assert mean == pytest.approx(MEAN, abs=1e-9)
    assert var == pytest.approx(VAR, abs=0.025)
    if isinstance(sampler, DPMSolverPP) and sampler.solver_order == 2:
        assert var == pytest.approx(VAR, abs=1e-3)


@pytest.mark.parametrize("sampler", [DDIM(), DPMSolverPP(), Ancestral()], ids=repr)
def test_zero_terminal_snr_on_the_mixture(sampler):
    schedule = DiscreteSchedule.cosine(500).with_zero_terminal_snr()
    process, oracle = prince(schedule, parameterization="v", variance="beta")
    start = quantile_points(1000)
    z = sample(process, oracle, start, sampler=sampler, steps=100, z=start)
    assert oracle.wasserstein_1(z) < (0.06 if sampler.stochastic else 0.02)


def test_the_order_of_two_runs_is_what_their_ratio_says():
    """The order helper agrees with the ratio of errors it is computed from."""
    process, oracle = gaussian_data(CosineVP())
    errors = variance_errors(process, oracle, DPMSolverPP(), (40, 80))
    assert empirical_order(errors) == pytest.approx(math.log2(errors[40] / errors[80]), abs=1e-9)
