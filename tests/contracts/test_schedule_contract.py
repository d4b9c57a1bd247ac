"""What every noise schedule promises."""

from __future__ import annotations

import pytest
import torch

from scidiffusion.core import (
    CosineVP,
    DiscreteSchedule,
    EDMSchedule,
    GaussianProcess,
    LinearVP,
    NoiseSchedule,
    Spacing,
    VESchedule,
    VPSchedule,
)
from scidiffusion.errors import ConfigError

F64 = torch.float64

SCHEDULES = [
    DiscreteSchedule.linear(1000),
    DiscreteSchedule.linear(20),
    DiscreteSchedule.cosine(1000),
    DiscreteSchedule.cosine(30),
    DiscreteSchedule.sigmoid(100),
    DiscreteSchedule.absorbing(50),
    DiscreteSchedule.linear(100).with_zero_terminal_snr(),
    DiscreteSchedule([0.3, 0.5, 0.9]),
    LinearVP(),
    CosineVP(),
    VESchedule(),
    EDMSchedule(),
]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


def subclasses(kind):
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


def test_no_schedule_is_forgotten():
    public = {
        c
        for c in subclasses(NoiseSchedule)
        if c.__module__.startswith("scidiffusion.")
        and not c.__name__.startswith("_")
        and not getattr(c, "__abstractmethods__", None)
    }
    assert public == {type(schedule) for schedule in SCHEDULES}


def times(schedule, count=60):
    """Nodes of a discrete schedule, any times of a continuous one; from 0 to 1."""
    nodes = schedule.num_nodes
    if nodes is None:
        return torch.linspace(0, 1, count, dtype=F64)
    index = torch.linspace(0, nodes, min(count, nodes + 1), dtype=F64).round().unique()
    return index / nodes


@every_schedule
def test_it_starts_at_the_data(schedule):
    start = schedule.marginal(0.0)
    assert float(start.scale) == 1
    assert float(start.std) == 0
    assert float(schedule.log_snr(0.0)) == float("inf")


@every_schedule
def test_noise_only_grows(schedule):
    marginal = schedule.marginal(times(schedule))
    assert bool((marginal.log_snr.diff() < 0).all())
    assert bool((marginal.scale.diff() <= 0).all())
    assert bool((marginal.std.diff() > 0).all())
    if isinstance(schedule, VPSchedule):
        torch.testing.assert_close(
            marginal.alpha_bar + marginal.var, torch.ones_like(marginal.var), rtol=0, atol=1e-14
        )
    # The prior is what is left at the end, or hardly different.
    last = schedule.marginal(1.0)
    assert float(last.std) == pytest.approx(schedule.prior_std, rel=0.03)
    assert schedule.terminal_snr == pytest.approx(float(last.alpha_bar) / schedule.prior_std**2)


@every_schedule
def test_marginal_properties_agree_with_one_another(schedule):
    marginal = schedule.marginal(times(schedule)[1:])
    kept = marginal.scale > 0
    torch.testing.assert_close(marginal.var, marginal.std**2)
    torch.testing.assert_close(marginal.alpha_bar, marginal.scale**2)
    torch.testing.assert_close(marginal.sigma[kept], (marginal.std / marginal.scale)[kept])
    torch.testing.assert_close(marginal.log_snr[kept], -2 * marginal.sigma[kept].log())


@every_schedule
def test_transitions_compose(schedule):
    """From 0 to s and on to t is from 0 to t; so are any three times."""
    every = times(schedule, 12)
    for i, j in ((2, 3), (1, -1), (-2, -1), (0, 3), (1, -2)):
        s, t = every[i], every[j]
        step = schedule.transition(t, s)
        early, late = schedule.marginal(s), schedule.marginal(t)
        torch.testing.assert_close(step.scale * early.scale, late.scale, rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(
            step.scale**2 * early.var + step.var, late.var, rtol=1e-11, atol=1e-15
        )
    middle, first, last = every[2], every[1], every[3]
    whole = schedule.transition(last, first)
    parts = schedule.transition(middle, first), schedule.transition(last, middle)
    torch.testing.assert_close(whole.scale, parts[0].scale * parts[1].scale, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        whole.var, parts[1].scale ** 2 * parts[0].var + parts[1].var, rtol=1e-11, atol=1e-15
    )


@every_schedule
def test_no_time_passes_from_t_to_t(schedule):
    t = times(schedule)[3]
    step = schedule.transition(t, t)
    assert float(step.scale) == 1
    assert float(step.var) == 0


@every_schedule
def test_the_sde_is_the_limit_of_its_transitions(schedule):
    """exp of the integrated drift is the scale; the integrated diffusion adds up."""
    if schedule.terminal_snr == 0:
        pytest.skip("the drift is infinite at the end")
    every = times(schedule, 12)
    drift, diffusion = schedule.sde_increment(every[1:], every[:-1])
    scale = schedule.transition(every[1:], every[:-1]).scale
    torch.testing.assert_close(drift.exp(), scale, rtol=1e-12, atol=0)
    assert bool((diffusion > 0).all())
    whole = schedule.sde_increment(every[-1], every[0])
    torch.testing.assert_close(drift.sum(), whole[0], rtol=1e-11, atol=1e-15)
    torch.testing.assert_close(diffusion.sum(), whole[1], rtol=1e-11, atol=1e-15)
    if schedule.num_nodes is None:
        t = torch.tensor(0.4, dtype=F64)
        s = t - 1e-7
        _, small = schedule.sde_increment(t, s)
        torch.testing.assert_close(small, schedule.transition(t, s).var, rtol=1e-5, atol=0)


@every_schedule
def test_time_is_a_function_of_the_log_snr(schedule):
    t = times(schedule)[1:]
    t = t[torch.isfinite(schedule.log_snr(t))]
    found = schedule.t_of_log_snr(schedule.log_snr(t))
    torch.testing.assert_close(found, t, rtol=0, atol=1e-9)
    assert found.dtype == F64
    assert schedule.t_of_log_snr(float(schedule.log_snr(t[0]))).shape == ()


@every_schedule
@pytest.mark.parametrize("spacing", Spacing)
@pytest.mark.parametrize("steps", [1, 2, 3, 17, 200])
def test_grids(schedule, spacing, steps):
    if schedule.num_nodes is not None and steps > schedule.num_nodes:
        with pytest.raises(ConfigError, match=f"steps = {steps} exceeds"):
            schedule.grid(steps, spacing)
        return
    grid = schedule.grid(steps, spacing)
    assert grid.shape == (steps + 1,)
    assert grid.dtype == F64
    assert float(grid[0]) == 1
    assert float(grid[-1]) == 0
    assert bool((grid.diff() < 0).all())
    assert torch.equal(grid, schedule.grid(steps, str(spacing)))
    schedule.marginal(grid)  # every time of it can be used
    if schedule.num_nodes == steps:
        assert torch.equal(grid.flip(0), torch.arange(steps + 1, dtype=F64) / steps)


@pytest.mark.parametrize(
    ("schedule", "tolerance"),
    [
        (LinearVP(), 1e-6),
        (CosineVP(), 1e-6),
        (VESchedule(), 1e-6),
        (EDMSchedule(), 1e-6),
        (DiscreteSchedule.linear(1000), 0.4),  # to the nearest node
    ],
    ids=repr,
)
def test_grids_are_even_in_what_they_say(schedule, tolerance):
    def unevenness(values):
        gaps = values.diff()
        return float((gaps.max() - gaps.min()) / gaps.mean().abs())

    assert unevenness(schedule.grid(10, "uniform")[:-1]) <= tolerance
    assert unevenness(schedule.log_snr(schedule.grid(10, "log_snr")[:-1])) < tolerance
    sigma = schedule.marginal(schedule.grid(10, "karras")[:-1]).sigma
    assert unevenness(sigma ** (1 / 7)) < tolerance
    sigma = schedule.marginal(schedule.grid(10, "karras", rho=3.0)[:-1]).sigma
    assert unevenness(sigma ** (1 / 3)) < tolerance


@every_schedule
@pytest.mark.parametrize("steps", [0, -1, 2.0, True, "3", None])
def test_steps_must_be_a_positive_integer(schedule, steps):
    with pytest.raises(ConfigError, match="integer >= 1"):
        schedule.grid(steps)


@every_schedule
def test_spacing_must_be_known(schedule):
    with pytest.raises(ConfigError, match="'uniform', 'log_snr', 'karras'"):
        schedule.grid(2, "even")


@every_schedule
def test_coefficients_are_double_and_stay_where_the_times_are(schedule, device):
    t = times(schedule, 8).to(device)
    s = torch.zeros_like(t)
    marginal, step = schedule.marginal(t), schedule.transition(t, s)
    for value in (
        marginal.scale,
        marginal.std,
        marginal.log_snr,
        step.scale,
        step.var,
        *schedule.sde_increment(t, s),
        schedule.t_of_log_snr(marginal.log_snr[1:-1]),
    ):
        assert value.dtype == F64
        assert value.device.type == device.type
    on_cpu = schedule.marginal(t.cpu())
    torch.testing.assert_close(marginal.scale.cpu(), on_cpu.scale, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(marginal.std.cpu(), on_cpu.std, rtol=1e-13, atol=1e-15)


@every_schedule
def test_times_of_any_shape_and_type(schedule):
    value = float(times(schedule)[2])
    scalar = schedule.marginal(value)
    assert scalar.scale.shape == ()
    grid = torch.full((2, 3), value, dtype=F64)
    assert torch.equal(schedule.marginal(grid).std, scalar.std.expand(2, 3))
    single = schedule.marginal(torch.tensor(value, dtype=torch.float32))
    assert single.std.dtype == F64


@every_schedule
def test_repr_names_the_class_and_shows_in_the_process(schedule):
    assert repr(schedule).startswith(type(schedule).__name__)
    assert repr(schedule) in repr(GaussianProcess(schedule, parameterization="v"))


@pytest.mark.parametrize("nodes", [20, 1000])
def test_a_discrete_schedule_knows_its_nodes_only(nodes):
    schedule = DiscreteSchedule.linear(nodes)
    for t in (0.5 / nodes, 1 + 1 / nodes, -1 / nodes):
        with pytest.raises(ConfigError, match="not a node"):
            schedule.marginal(t)
