"""What every sampler owes its caller: a clean last step, resumption, purity, clear refusals."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from scidiffusion.core import (
    AbsorbingProcess,
    CentredGaussianProcess,
    DiscreteSchedule,
    GaussianProcess,
    KeyedNoise,
    LinearVP,
    MultinomialProcess,
    Noise,
    ProductProcess,
)
from scidiffusion.core.prediction import Parameterization, Prediction
from scidiffusion.errors import ConfigError
from scidiffusion.samplers import (
    DDIM,
    SAMPLERS,
    Ancestral,
    AngularAB2,
    DPMSolverPP,
    EulerMaruyama,
    Heun,
    PartwiseSampler,
    PredictorCorrector,
    make_sampler,
    sample,
    trajectory,
)
from scidiffusion.testing import GaussianMixtureOracle

F64 = torch.float64

CONTINUOUS = [
    Ancestral(),
    AngularAB2(),
    DDIM(),
    DDIM(eta=0.7),
    DDIM(eta=1.0),
    DPMSolverPP(),
    DPMSolverPP(solver_order=1),
    DPMSolverPP(sde=True),
    DPMSolverPP(solver_order=1, sde=True),
    Heun(),
    Heun(churn=0.2),
    EulerMaruyama(),
    PredictorCorrector(),
    PredictorCorrector(predictor=Ancestral(), corrector_steps=2),
    PredictorCorrector(predictor=Heun()),
]
every_sampler = pytest.mark.parametrize("sampler", CONTINUOUS, ids=repr)


def plane(schedule=None, **options):
    """Two correlated components in two dimensions."""
    process = GaussianProcess(schedule or LinearVP(), **options)
    covariances = torch.tensor([[[1.0, 0.5], [0.5, 0.6]], [[0.3, -0.1], [-0.1, 0.2]]], dtype=F64)
    oracle = GaussianMixtureOracle([0.4, 0.6], [[1.0, -1.0], [-1.0, 0.5]], covariances, process)
    return process, oracle, torch.empty(30, 2, dtype=F64)


class OtherAt(Noise):
    """Noise that differs from another at one step of the loop only."""

    def __init__(self, base, step, other_seed):
        self.base, self.step, self.other = base, step, KeyedNoise(other_seed)

    def normal(self, like):
        return self.base.normal(like)

    def uniform(self, like):
        return self.base.uniform(like)

    def child(self, name):
        return OtherAt(self.base.child(name), self.step, 77)

    def at(self, step):
        return self.other.at(step) if step == self.step else self.base.at(step)


@pytest.mark.parametrize("variance", ["posterior", "beta", "optimal"])
@every_sampler
def test_the_last_step_draws_no_noise(sampler, variance):
    process, oracle, like = plane(variance=variance)
    grid = process.schedule.grid(6, sampler.spacing)

    def run(noise):
        return sample(process, oracle, like, sampler=sampler, grid=grid, noise=noise)

    plain = run(KeyedNoise(1))
    assert torch.equal(plain, run(OtherAt(KeyedNoise(1), 6, 2)))
    # The same change one step earlier shows, unless the method draws nothing at all.
    earlier = run(OtherAt(KeyedNoise(1), 5, 2))
    assert torch.equal(plain, earlier) is not sampler.stochastic


@every_sampler
def test_a_run_resumes_at_any_step(sampler):
    process, oracle, like = plane()
    noise = KeyedNoise(4)
    grid = process.schedule.grid(7, sampler.spacing)
    whole, states, _ = trajectory(process, oracle, like, sampler=sampler, grid=grid, noise=noise)
    for stop in (1, 4):
        carry = sampler.init(process.prior(like, noise.child("prior")))
        for index in range(1, stop + 1):
            carry = sampler.step(
                process, oracle, carry, grid[index - 1], grid[index], noise.at(index)
            )
        assert torch.equal(carry.z, states[stop])
        # A new process object, a new sampler: the carry, the times and the key are all there is.
        fresh, again, _ = plane()
        for index in range(stop + 1, 8):
            carry = type(sampler)(**vars(sampler)).step(
                fresh, again, carry, grid[index - 1], grid[index], noise.at(index)
            )
        assert torch.equal(carry.z, whole)


@every_sampler
def test_one_object_serves_many_threads(sampler):
    process, oracle, like = plane()
    arguments = [(seed, 3 + seed % 4) for seed in range(16)]

    def run(seed_and_steps):
        seed, steps = seed_and_steps
        return sample(process, oracle, like, sampler=sampler, steps=steps, noise=KeyedNoise(seed))

    serial = [run(each) for each in arguments]
    with ThreadPoolExecutor(8) as pool:
        threaded = list(pool.map(run, arguments))
    assert all(torch.equal(a, b) for a, b in zip(serial, threaded, strict=True))
    assert not torch.equal(serial[0], serial[4])


@every_sampler
def test_the_trajectory_is_the_run(sampler):
    process, oracle, like = plane()
    seen = []
    kept = sample(
        process,
        oracle,
        like,
        sampler=sampler,
        steps=5,
        callback=lambda index, t, z: seen.append((index, float(t), z)),
    )
    result, states, times = trajectory(process, oracle, like, sampler=sampler, steps=5)
    assert torch.equal(kept, result)
    assert torch.equal(states[-1], result)
    assert torch.equal(times, process.schedule.grid(5, sampler.spacing))
    assert [index for index, _, _ in seen] == list(range(6))
    assert [t for _, t, _ in seen] == times.tolist()
    assert all(torch.equal(a[2], b) for a, b in zip(seen, states, strict=True))
    assert torch.equal(states[0], process.prior(like, KeyedNoise(0).child("prior")))


@every_sampler
def test_samples_need_no_gradient_and_leave_the_start_alone(sampler):
    process, oracle, like = plane()
    start = torch.randn(30, 2, dtype=F64, requires_grad=True)
    before = start.detach().clone()
    z = sample(process, oracle, like, sampler=sampler, steps=4, z=start)
    assert not z.requires_grad
    assert torch.equal(start.detach(), before)


@every_sampler
def test_the_seed_decides(sampler):
    process, oracle, like = plane()
    a, b, c = (
        sample(process, oracle, like, sampler=sampler, steps=4, noise=KeyedNoise(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


# --- what fits what --------------------------------------------------------------------------


def processes():
    schedule = DiscreteSchedule.linear(50)
    gaussian = GaussianProcess(schedule)
    return {
        "gaussian": gaussian,
        "centred": CentredGaussianProcess(schedule),
        "multinomial": MultinomialProcess(schedule, 3),
        "absorbing": AbsorbingProcess(schedule, 3),
        "product": ProductProcess({"a": gaussian, "b": MultinomialProcess(schedule, 3)}),
        "gaussians": ProductProcess({"a": gaussian, "b": gaussian}),
    }


@pytest.mark.parametrize("space", processes())
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_refuses_a_space_it_is_not_defined_for(name, space):
    sampler, process = make_sampler(name), processes()[space]
    fits = name == "ancestral" or space in ("gaussian", "centred")
    assert sampler.supports(process) is fits
    if fits:
        sampler.check(process)
        return
    with pytest.raises(ConfigError, match=rf"{type(sampler).__name__} is not defined .*Ancestral"):
        sample(process, None, None, sampler=sampler, steps=3)


def test_registry():
    assert isinstance(make_sampler("dpmpp_sde"), DPMSolverPP)
    sampler = DDIM(eta=0.3)
    assert make_sampler(sampler) is sampler
    with pytest.raises(ConfigError, match=r"one of ancestral, angular_ab2, ddim.*'dpm'"):
        make_sampler("dpm")


@pytest.mark.parametrize(
    "sampler",
    [EulerMaruyama(), Heun(), PredictorCorrector(), PredictorCorrector(predictor=Heun())],
    ids=repr,
)
def test_methods_that_need_a_signal_refuse_zero_terminal_snr(sampler):
    schedule = DiscreteSchedule.linear(50).with_zero_terminal_snr()
    process, oracle, like = plane(schedule, parameterization="v")
    with pytest.raises(ConfigError, match=r"zero terminal SNR"):
        sample(process, oracle, like, sampler=sampler, steps=5)


def test_churn_refuses_a_discrete_schedule():
    process, oracle, like = plane(DiscreteSchedule.linear(50))
    with pytest.raises(ConfigError, match=r"churn.*continuous"):
        sample(process, oracle, like, sampler=Heun(churn=0.1), steps=5)
    assert bool(sample(process, oracle, like, sampler=Heun(), steps=5).isfinite().all())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DDIM(eta=1.5), "eta"),
        (lambda: DDIM(eta=-0.1), "eta"),
        (lambda: DDIM(eta=float("nan")), "eta"),
        (lambda: DPMSolverPP(solver_order=3), "solver_order"),
        (lambda: Heun(churn=0.5), "churn"),
        (lambda: Heun(churn=-0.1), "churn"),
        (lambda: PredictorCorrector(corrector_steps=0), "corrector_steps"),
        (lambda: PredictorCorrector(snr=0), "snr"),
        (lambda: PredictorCorrector(predictor=DPMSolverPP()), "one-step"),
    ],
)
def test_impossible_options(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    "grid",
    [[1.0, 0.5], [0.9, 0.0], [1.0, 0.2, 0.5, 0.0], [1.0, 0.5, 0.5, 0.0], [1.0], [[1.0, 0.0]]],
)
def test_unusable_grids(grid):
    process, oracle, like = plane()
    with pytest.raises(ConfigError, match="grid"):
        sample(process, oracle, like, sampler=DDIM(), grid=torch.tensor(grid, dtype=F64))


@pytest.mark.parametrize("options", [{"steps": 0}, {"steps": -3}, {"steps": 2.5}, {"steps": True}])
def test_unusable_steps(options):
    process, oracle, like = plane()
    with pytest.raises(ConfigError, match="steps"):
        sample(process, oracle, like, sampler=DDIM(), **options)


def test_unknown_spacing_and_more_steps_than_nodes():
    process, oracle, like = plane(DiscreteSchedule.linear(20))
    with pytest.raises(ConfigError, match="spacing must be one of 'uniform'"):
        sample(process, oracle, like, sampler=DDIM(), steps=3, spacing="quadratic")
    with pytest.raises(ConfigError, match="exceeds the 20 nodes"):
        sample(process, oracle, like, sampler=DDIM(), steps=21)


@every_sampler
def test_defaults_of_the_loop(sampler):
    """No steps: every node of a discrete schedule, 50 of a continuous one."""
    for schedule, steps in ((DiscreteSchedule.linear(9), 9), (LinearVP(), 50)):
        if isinstance(sampler, Heun) and sampler.churn and schedule.num_nodes:
            continue
        process, oracle, like = plane(schedule)
        _, states, _ = trajectory(process, oracle, like, sampler=sampler)
        assert len(states) == steps + 1


# --- parts -----------------------------------------------------------------------------------


def independent_parts():
    schedule = DiscreteSchedule.linear(30)
    parts = {"a": GaussianProcess(schedule), "b": GaussianProcess(schedule)}
    oracles = {
        "a": GaussianMixtureOracle.prince(parts["a"]),
        "b": GaussianMixtureOracle([1.0], [[1.0, 2.0]], [[0.2, 0.4]], parts["b"]),
    }
    like = {"a": torch.empty(20, 1, dtype=F64), "b": torch.empty(20, 2, dtype=F64)}
    return ProductProcess(parts), oracles, like


class Side:
    """Independent parts: every one is denoised by its own oracle."""

    def __init__(self, process, oracles):
        self.process, self.oracles = process, oracles

    def __call__(self, z, t, cond=None):
        return {name: oracle(z[name], t) for name, oracle in self.oracles.items()}


@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"a": DPMSolverPP(), "b": DDIM()},
        {"a": DPMSolverPP(sde=True)},
        {"a": EulerMaruyama(), "b": DDIM(eta=0.5)},
    ],
    ids=str,
)
def test_independent_parts_are_sampled_as_if_alone(rules):
    process, oracles, like = independent_parts()
    noise = KeyedNoise(8)
    sampler = PartwiseSampler(rules)
    together = sample(
        process, Side(process, oracles), like, sampler=sampler, steps=10, noise=noise
    )
    start = process.prior(like, noise.child("prior"))
    for name, part in process.parts.items():
        alone = sample(
            part,
            oracles[name],
            like[name],
            sampler=rules.get(name, Ancestral()),
            grid=process.schedule.grid(10, sampler.spacing),
            noise=noise.child(name),
            z=start[name],
        )
        assert torch.equal(alone, together[name])
    if not rules:
        plain = sample(
            process, Side(process, oracles), like, sampler=Ancestral(), steps=10, noise=noise
        )
        assert all(torch.equal(plain[name], together[name]) for name in plain)


def test_parts_of_parts():
    process, oracles, like = independent_parts()
    outer = ProductProcess({"inner": process})

    class Nested(Side):
        def __call__(self, z, t, cond=None):
            return {"inner": super().__call__(z["inner"], t)}

    rules = PartwiseSampler({"a": DPMSolverPP(), "b": DDIM()})
    deep = sample(
        outer,
        Nested(outer, oracles),
        {"inner": like},
        sampler=PartwiseSampler({"inner": rules}),
        steps=10,
        z={"inner": process.prior(like, KeyedNoise(3))},
    )
    flat = sample(
        process,
        Side(process, oracles),
        like,
        sampler=rules,
        steps=10,
        z=process.prior(like, KeyedNoise(3)),
    )
    assert all(torch.equal(deep["inner"][name], flat[name]) for name in flat)


def test_partwise_remembers_a_history_a_part_and_resumes():
    process, oracles, like = independent_parts()
    denoiser, noise = Side(process, oracles), KeyedNoise(8)
    sampler = PartwiseSampler({"a": DPMSolverPP(), "b": DPMSolverPP(sde=True)})
    assert sampler.multistep
    grid = process.schedule.grid(10, sampler.spacing)
    whole = sample(process, denoiser, like, sampler=sampler, grid=grid, noise=noise)
    carry = sampler.init(process.prior(like, noise.child("prior")))
    for index, (t, s) in enumerate(itertools.pairwise(grid), start=1):
        carry = sampler.step(process, denoiser, carry, t, s, noise.at(index))
    assert all(torch.equal(whole[name], carry.z[name]) for name in whole)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"c": DDIM()}, r"no part 'c' in \['a', 'b'\]"),
        ({"a": Heun()}, "Heun evaluates the denoiser"),
    ],
)
def test_partwise_refuses_rules_that_do_not_fit(rules, message):
    process, oracles, like = independent_parts()
    with pytest.raises(ConfigError, match=message):
        sample(process, Side(process, oracles), like, sampler=PartwiseSampler(rules), steps=3)


def test_partwise_refuses_processes_that_do_not_fit():
    with pytest.raises(ConfigError, match="needs a ProductProcess"):
        PartwiseSampler().check(GaussianProcess(LinearVP()))
    mixed = ProductProcess({"a": MultinomialProcess(DiscreteSchedule.linear(5), 3)})
    assert not PartwiseSampler({"a": DDIM()}).supports(mixed)
    with pytest.raises(ConfigError, match="DDIM is not defined for MultinomialProcess"):
        PartwiseSampler({"a": DDIM()}).check(mixed)


def test_a_walk_may_begin_where_data_were_noised_only_so_far():
    process = GaussianProcess(LinearVP())
    oracle = GaussianMixtureOracle.prince(process)
    time = torch.tensor(0.35, dtype=torch.float64)
    x, _ = oracle.sample(4000, KeyedNoise(1))
    z = process.q_sample(x, time, KeyedNoise(2)).z
    grid = torch.linspace(0.35, 0, 41, dtype=torch.float64)
    back = sample(process, oracle, z, sampler=DPMSolverPP(), grid=grid, noise=KeyedNoise(3), z=z)
    levels = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    truth = oracle.quantiles(levels)
    assert float((back[:, 0].sort().values - truth).abs().mean()) < 0.05
    # What was noised a little comes back near to what it was; what was drawn anew does not.
    fresh = sample(process, oracle, z, sampler=DPMSolverPP(), steps=40, noise=KeyedNoise(3))
    assert float((back - x).abs().mean()) < 0.8 * float((fresh - x).abs().mean())
    with pytest.raises(ConfigError, match="begins with 1"):
        sample(process, oracle, z, sampler=DPMSolverPP(), grid=grid)


def test_derivatives_go_through_a_whole_walk_where_asked_for():
    process = GaussianProcess(LinearVP())

    class Scaled(torch.nn.Module):
        """Predicts that the data are a multiple of one place: so does every walk end."""

        def __init__(self) -> None:
            super().__init__()
            self.factor = torch.nn.Parameter(torch.tensor(2.0, dtype=F64))
            self.place = torch.linspace(-1, 1, 3, dtype=F64).expand(4, 3)

        def forward(self, z, t, cond=None):
            marginal = process.schedule.marginal(t.expand(z.shape[0]))
            return Prediction(z, marginal, self.factor * self.place, Parameterization.X0)

    denoiser, like = Scaled(), torch.empty(4, 3, dtype=F64)
    for sampler in (DDIM(), DPMSolverPP(), Heun()):
        options = {"sampler": sampler, "steps": 4}
        plain = sample(process, denoiser, like, **options)
        assert not plain.requires_grad
        traced = sample(process, denoiser, like, **options, differentiable=True)
        torch.testing.assert_close(traced.detach(), plain)
        (slope,) = torch.autograd.grad((traced * denoiser.place).sum(), denoiser.factor)
        torch.testing.assert_close(slope, denoiser.place.square().sum())
        with torch.no_grad():
            assert not sample(
                process, denoiser, like, **options, differentiable=True
            ).requires_grad
