"""What every process, and every sampler on every process it supports, promises."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from scidiffusion.core import (
    AbsorbingProcess,
    CategoricalProcess,
    CentredGaussianProcess,
    Denoiser,
    DiscreteSchedule,
    EDMSchedule,
    GaussianProcess,
    KeyedNoise,
    LinearVP,
    MultinomialProcess,
    Process,
    ProductProcess,
    SO3Process,
    TorusProcess,
    VESchedule,
    remove_mean,
)
from scidiffusion.core.process import batch_size, map_state
from scidiffusion.samplers import (
    DDIM,
    Ancestral,
    DPMSolverPP,
    EulerMaruyama,
    Heun,
    PartwiseSampler,
    PredictorCorrector,
    sample,
)
from scidiffusion.testing import assert_batch_independent

F64 = torch.float64


@dataclass
class Case:
    """A process, clean data for it, and a stand-in for a network."""

    process: Process
    data: Any
    """Maps (n, dtype) to clean rows on the CPU."""
    output: Any
    """Maps a state to a raw network output, row by row."""

    def rows(self, n, device="cpu", dtype=F64):
        return map_state(lambda v: v.to(device), self.data(n, dtype))

    def denoiser(self):
        return Toy(self)


class Toy:
    """A denoiser whose answer is a fixed function of the state, each row alone."""

    def __init__(self, case):
        self.process, self.case = case.process, case

    def __call__(self, z, t, cond=None):
        return self.process.predict(self.case.output(z), z, t)


def normal_rows(*shape):
    def data(n, dtype):
        return KeyedNoise(11).normal(torch.empty(n, *shape, dtype=dtype))

    return data


def class_rows(*counts):
    def data(n, dtype):
        uniform = KeyedNoise(12).uniform(torch.empty(n, len(counts), dtype=F64))
        return (uniform * torch.tensor(counts)).long()

    return data


def logits(count):
    def output(z):
        return 0.3 * torch.arange(count, device=z.device) - 0.4 * z[..., None].to(torch.float32)

    return output


def angles(n, dtype):
    return 2 * math.pi * KeyedNoise(13).uniform(torch.empty(n, 2, dtype=dtype)) - math.pi


def rotations(n, dtype):
    process = SO3Process()
    return process.prior(torch.empty(n, 3, 3, dtype=dtype), KeyedNoise(14))


def shrink(z):
    return 0.3 * z - 0.1


def gaussian_case(schedule, **options):
    return Case(GaussianProcess(schedule, **options), normal_rows(3), shrink)


def product_case():
    schedule = DiscreteSchedule.linear(40)
    parts = {
        "number": Case(GaussianProcess(schedule), normal_rows(2), shrink),
        "class": Case(MultinomialProcess(schedule, [3, 5]), class_rows(3, 5), logits(5)),
        "inner": None,
    }
    inner = ProductProcess({"x": GaussianProcess(schedule), "k": AbsorbingProcess(schedule, 4)})
    parts["inner"] = Case(
        inner,
        lambda n, dtype: {"x": normal_rows(1)(n, dtype), "k": class_rows(4)(n, dtype)},
        lambda z: {"x": shrink(z["x"]), "k": logits(4)(z["k"])},
    )
    return Case(
        ProductProcess({name: case.process for name, case in parts.items()}),
        lambda n, dtype: {name: case.data(n, dtype) for name, case in parts.items()},
        lambda z: {name: case.output(z[name]) for name, case in parts.items()},
    )


CASES = {
    "gaussian": lambda: gaussian_case(DiscreteSchedule.linear(40)),
    "gaussian-v-beta": lambda: gaussian_case(LinearVP(), parameterization="v", variance="beta"),
    "gaussian-x0-edm": lambda: gaussian_case(EDMSchedule(0.002, 20.0), parameterization="x0"),
    "gaussian-score-ve": lambda: gaussian_case(VESchedule(0.01, 20.0), parameterization="score"),
    "centred": lambda: Case(
        CentredGaussianProcess(LinearVP()),
        lambda n, dtype: remove_mean(normal_rows(4, 3)(n, dtype)),
        shrink,
    ),
    "multinomial": lambda: Case(
        MultinomialProcess(DiscreteSchedule.linear(40), [3, 5]), class_rows(3, 5), logits(5)
    ),
    "absorbing": lambda: Case(
        AbsorbingProcess(DiscreteSchedule.linear(40), [3, 5]), class_rows(3, 5), logits(5)
    ),
    "torus": lambda: Case(TorusProcess(), angles, torch.sin),
    "so3": lambda: Case(SO3Process(), rotations, lambda z: 0.5 * (z[..., 0] - z[..., 1])),
    "product": product_case,
}
every_case = pytest.mark.parametrize("name", CASES)
CATEGORICAL = {"multinomial", "absorbing", "product"}
"""Spaces whose last step is a draw of the class."""


@functools.cache
def case_of(name):
    return CASES[name]()


def two_times(case, device="cpu"):
    """(s, t) in the middle of the process, as 0-dimensional tensors."""
    grid = case.process.schedule.grid(4, "uniform").to(device)
    return grid[2], grid[1]


def same_kind(a, b):
    """Equal structure, shapes, dtypes and devices."""

    def check(x, y):
        assert x.shape == y.shape
        assert x.dtype == y.dtype
        assert x.device.type == y.device.type

    map_state(check, a, b)
    return True


def equal(a, b):
    flags = []
    map_state(lambda x, y: flags.append(torch.equal(x, y)), a, b)
    return all(flags)


def close(a, b, atol=1e-6):
    """Equal up to rounding; batched linear algebra may differ in the last bits."""
    map_state(lambda x, y: torch.testing.assert_close(x, y, rtol=1e-5, atol=atol), a, b)


def cut(state, start, stop):
    return map_state(lambda v: v[start:stop], state)


def on_space(case, name, z):
    """Whether a state lies in the space of its process."""
    if isinstance(case.process, CentredGaussianProcess):
        return float(z.mean(1).abs().max()) < 1e-5 * max(1.0, float(z.abs().max()))
    if name == "so3":
        unit = z @ z.mT - torch.eye(3, dtype=z.dtype, device=z.device)
        return float(unit.abs().max()) < 1e-5 and bool((torch.linalg.det(z) > 0.99).all())
    if name == "torus":
        return bool((z.abs() <= math.pi + 1e-6).all())
    if isinstance(case.process, CategoricalProcess):
        limit = torch.tensor(case.process.num_classes, device=z.device)
        masked = z == getattr(case.process, "mask", -1)
        return bool(((z >= 0) & ((z < limit) | masked)).all())
    flags = []
    map_state(lambda v: flags.append(bool(torch.isfinite(v.to(F64)).all())), z)
    return all(flags)


def subclasses(kind):
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


def test_no_process_is_forgotten():
    public = {
        c
        for c in subclasses(Process)
        if c.__module__.startswith("scidiffusion.core")
        and not getattr(c, "__abstractmethods__", None)
    }
    assert public == {type(case_of(name).process) for name in CASES}


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_states_keep_shape_dtype_and_device(name, dtype, device):
    case = case_of(name)
    process, noise = case.process, KeyedNoise(1)
    x = case.rows(5, device, dtype)
    s, t = two_times(case, device)
    z = process.q_sample(x, t, noise).z
    prediction = case.denoiser()(z, t)
    states = {
        "prior": process.prior(x, noise),
        "q_sample": z,
        "forward_step": process.forward_step(z, s, t, noise),
        "reverse": process.reverse(prediction, t, s).sample(noise),
        "reverse mode": process.reverse(prediction, t, s).mode,
        "posterior": process.posterior(x, z, t, s).sample(noise),
        "to data": process.reverse(prediction, t, torch.zeros_like(t)).sample(noise),
    }
    for what, state in states.items():
        assert same_kind(state, x), what
        assert on_space(case, name, state), what


@every_case
def test_terms_of_the_elbo_are_one_number_a_row(name):
    case = case_of(name)
    process = case.process
    x = case.rows(6)
    s, t = two_times(case)
    z = process.q_sample(x, t, KeyedNoise(1)).z
    prediction = case.denoiser()(z, t)
    terms = {
        "prior": process.prior_divergence(x),
        "reconstruction": process.reconstruction(x, prediction, t),
    }
    if name != "so3":
        terms["divergence"] = process.divergence(x, z, prediction, t, s)
        assert bool((terms["divergence"] >= -1e-6).all())
        both = process.vlb_term(x, z, prediction, t, s)
        torch.testing.assert_close(both, terms["divergence"])
        to_data = process.vlb_term(x, z, prediction, t, torch.zeros_like(t))
        torch.testing.assert_close(to_data, -terms["reconstruction"])
    for what, term in terms.items():
        assert term.shape == (6,), what
        assert bool(term.isfinite().all()), what
    assert bool((terms["prior"] >= -1e-9).all())


@every_case
def test_a_time_a_row_is_the_same_as_one_time(name):
    case = case_of(name)
    process, noise = case.process, KeyedNoise(2)
    x = case.rows(6)
    s, t = two_times(case)
    rows_s, rows_t = s.expand(6).clone(), t.expand(6).clone()
    z = process.q_sample(x, t, noise).z
    close(z, process.q_sample(x, rows_t, noise).z)
    close(process.forward_step(z, s, t, noise), process.forward_step(z, rows_s, rows_t, noise))
    one, many = (case.denoiser()(z, time) for time in (t, rows_t))
    close(
        process.reverse(one, t, s).sample(noise),
        process.reverse(many, rows_t, rows_s).sample(noise),
    )
    close(
        process.posterior(x, z, t, s).sample(noise),
        process.posterior(x, z, rows_t, rows_s).sample(noise),
    )
    close(process.reconstruction(x, one, t), process.reconstruction(x, many, rows_t), 1e-4)
    if name != "so3":
        close(
            process.divergence(x, z, one, t, s),
            process.divergence(x, z, many, rows_t, rows_s),
            1e-4,
        )


@every_case
def test_rows_of_different_times_do_not_mix(name):
    """Each row of a batch of times is what it is alone."""
    case = case_of(name)
    process = case.process
    times = process.schedule.grid(4, "uniform")[:-1].flip(0)
    x = case.rows(4)
    together = process.q_sample(x, times, KeyedNoise(3)).z
    for row, t in enumerate(times):
        alone = process.q_sample(cut(x, row, row + 1), t, KeyedNoise(3, start=row)).z
        close(cut(together, row, row + 1), alone)


@every_case
def test_noise_is_the_only_source_of_chance(name):
    case = case_of(name)
    process = case.process
    x = case.rows(40)
    s, t = two_times(case)
    z = process.q_sample(x, t, KeyedNoise(1)).z
    reverse = process.reverse(case.denoiser()(z, t), t, s)
    draws = [
        lambda noise: process.q_sample(x, s, noise).z,
        lambda noise: process.forward_step(x, torch.zeros_like(s), s, noise),
        lambda noise: process.posterior(x, z, t, s).sample(noise),
        reverse.sample,
    ]
    if name != "absorbing":  # its prior is all but certain: everything masked
        draws.append(lambda noise: process.prior(x, noise))
    for draw in draws:
        assert equal(draw(KeyedNoise(1)), draw(KeyedNoise(1)))
        assert not equal(draw(KeyedNoise(1)), draw(KeyedNoise(2)))


@every_case
def test_the_step_to_the_data_adds_no_noise(name):
    case = case_of(name)
    process = case.process
    x = case.rows(40)
    _, t = two_times(case)
    zero = torch.zeros_like(t)
    z = process.q_sample(x, t, KeyedNoise(1)).z
    reverse = process.reverse(case.denoiser()(z, t), t, zero)
    same = equal(reverse.sample(KeyedNoise(1)), reverse.sample(KeyedNoise(2)))
    assert same is (name not in CATEGORICAL)
    if same:
        close(reverse.sample(KeyedNoise(1)), reverse.mode)
    # At t = 0 the kernel is the data itself.
    close(process.q_sample(x, zero, KeyedNoise(1)).z, x, 1e-12)


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_draws_do_not_depend_on_the_batch_size(name, dtype, device):
    case = case_of(name)
    process = case.process
    n = 70
    x = case.rows(n, device, dtype)
    s, t = two_times(case, device)
    z = process.q_sample(x, t, KeyedNoise(5)).z

    def by_rows(function):
        def run(count, size):
            parts = [
                function(cut(x, a, a + size), cut(z, a, a + size), KeyedNoise(5, start=a))
                for a in range(0, count, size)
            ]
            return map_state(lambda *values: torch.cat(values).cpu(), *parts)

        return run

    for function in (
        lambda x, z, noise: process.prior(x, noise),
        lambda x, z, noise: process.q_sample(x, t, noise).z,
        lambda x, z, noise: process.forward_step(z, s, t, noise),
    ):
        assert_batch_independent(by_rows(function), n, [7, 64])


@every_case
def test_repr_names_the_class_and_the_schedule(name):
    process = case_of(name).process
    assert type(process).__name__ in repr(process)
    assert repr(process.schedule) in repr(process)


@every_case
def test_predictions_are_finite_in_the_terms_of_the_process(name, device):
    case = case_of(name)
    x = case.rows(5, device)
    for t in case.process.schedule.grid(3, "uniform").to(device)[:-1]:
        z = case.process.q_sample(x, t, KeyedNoise(1)).z
        drawn = case.process.reverse(case.denoiser()(z, t), t, torch.zeros_like(t))
        assert on_space(case, name, drawn.sample(KeyedNoise(2)))


# --- samplers --------------------------------------------------------------------------------

SAMPLERS = {
    "ancestral": Ancestral(),
    "ddim": DDIM(),
    "ddim-eta": DDIM(eta=0.8),
    "dpmpp-2m": DPMSolverPP(),
    "dpmpp-1": DPMSolverPP(solver_order=1),
    "dpmpp-sde": DPMSolverPP(sde=True),
    "heun": Heun(),
    "heun-churn": Heun(churn=0.2),
    "euler-maruyama": EulerMaruyama(),
    "predictor-corrector": PredictorCorrector(),
    "partwise": PartwiseSampler(),
    "partwise-ddim": PartwiseSampler({"number": DDIM()}),
}


def pairs():
    for name in CASES:
        process = CASES[name]().process
        for method, sampler in SAMPLERS.items():
            churned = isinstance(sampler, Heun) and sampler.churn > 0
            if sampler.supports(process) and not (churned and process.schedule.num_nodes):
                yield name, method


every_pair = pytest.mark.parametrize(("name", "method"), list(pairs()))


@every_pair
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_every_sampler_runs_on_every_process_it_supports(name, method, dtype, device):
    case, sampler = case_of(name), SAMPLERS[method]
    like = case.rows(9, device, dtype)
    denoiser = case.denoiser()
    assert isinstance(denoiser, Denoiser)
    z = sample(case.process, denoiser, like, sampler=sampler, steps=5, noise=KeyedNoise(3))
    assert same_kind(z, like)
    assert on_space(case, name, z)
    assert batch_size(z) == 9


@every_pair
def test_samples_do_not_depend_on_the_batch_size(name, method, device):
    case, sampler = case_of(name), SAMPLERS[method]

    def draw(n, size):
        parts = [
            sample(
                case.process,
                case.denoiser(),
                case.rows(min(size, n - start), device),
                sampler=sampler,
                steps=4,
                noise=KeyedNoise(3, start=start),
            )
            for start in range(0, n, size)
        ]
        return map_state(lambda *values: torch.cat(values).cpu(), *parts)

    assert_batch_independent(draw, 130, [7, 64])


@every_pair
def test_samples_are_distinct_rows(name, method):
    """Rows share neither noise nor anything else."""
    case = case_of(name)
    z = sample(case.process, case.denoiser(), case.rows(50), sampler=SAMPLERS[method], steps=3)
    flat = []
    map_state(lambda v: flat.append(v.flatten(1).to(F64)), z)
    assert len(torch.cat(flat, 1).unique(dim=0)) > 5


@pytest.mark.parametrize("method", SAMPLERS)
def test_samplers_show_their_options_and_compare_by_them(method):
    sampler = SAMPLERS[method]
    assert type(sampler).__name__ in repr(sampler)
    assert type(sampler)(**vars(sampler)) == sampler
    with pytest.raises(AttributeError):
        sampler.eta = 0.5


@pytest.mark.parametrize("method", SAMPLERS)
def test_samplers_declare_what_they_are(method):
    sampler = SAMPLERS[method]
    assert 0 < sampler.order <= 2
    assert isinstance(sampler.stochastic, bool)
    assert isinstance(sampler.multistep, bool)
    assert sampler.spacing in ("uniform", "log_snr", "karras")
