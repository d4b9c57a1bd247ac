"""Schedules against the papers' closed forms, computed independently in high precision."""

from __future__ import annotations

import math
from decimal import Decimal, getcontext
from fractions import Fraction

import numpy as np
import pytest
import torch

from scidiffusion.core import (
    CosineVP,
    DiscreteSchedule,
    EDMSchedule,
    GaussianProcess,
    LinearVP,
    Spacing,
    VESchedule,
)
from scidiffusion.errors import ConfigError

F64 = torch.float64
getcontext().prec = 50

DISCRETE = {
    "linear 1000": DiscreteSchedule.linear(1000),
    "linear 20": DiscreteSchedule.linear(20),
    "cosine 100": DiscreteSchedule.cosine(100),
    "sigmoid 37": DiscreteSchedule.sigmoid(37),
    "absorbing 20": DiscreteSchedule.absorbing(20),
    "zero snr 20": DiscreteSchedule.linear(20).with_zero_terminal_snr(),
}
VP = {**DISCRETE, "linear vp": LinearVP(), "cosine vp": CosineVP()}
EXPLODING = {"ve": VESchedule(), "edm": EDMSchedule(), "edm rho 3": EDMSchedule(0.01, 10.0, 3.0)}
CONTINUOUS = {"linear vp": VP["linear vp"], "cosine vp": VP["cosine vp"], **EXPLODING}
ALL = {**VP, **EXPLODING}


def each(schedules):
    return pytest.mark.parametrize("schedule", schedules.values(), ids=schedules.keys())


def times_of(schedule, count=41):
    """Increasing times in [0, 1] at which the schedule is defined, 0 and 1 included."""
    nodes = schedule.num_nodes
    if nodes is None:
        return torch.linspace(0, 1, count, dtype=F64)
    return torch.arange(nodes + 1, dtype=F64) / nodes


def decimal_alpha_bar(betas):
    """Cumulative product of 1 - beta in fifty digits."""
    product, result = Decimal(1), []
    for beta in betas:
        product *= 1 - Decimal(beta)
        result.append(product)
    return result


# Golden values


def test_linear_is_that_of_ho_2020():
    schedule = DiscreteSchedule.linear(1000)
    assert float(schedule.betas[0]) == pytest.approx(1e-4, rel=1e-15)
    assert float(schedule.betas[-1]) == pytest.approx(0.02, rel=1e-15)
    step = (Fraction(2, 100) - Fraction(1, 10_000)) / 999
    betas = [Fraction(1, 10_000) + k * step for k in range(1000)]
    exact = decimal_alpha_bar(
        [Decimal(beta.numerator) / Decimal(beta.denominator) for beta in betas]
    )
    relative = schedule.alpha_bar[1:].numpy() / np.array([float(v) for v in exact]) - 1
    assert np.abs(relative).max() < 1e-13
    assert float(schedule.alpha_bar[-1]) == pytest.approx(4.0358e-5, rel=1e-4)


def test_one_minus_alpha_bar_is_exact_near_the_data():
    schedule = DiscreteSchedule.linear(1000)
    exact = [float(1 - v) for v in decimal_alpha_bar([float(b) for b in schedule.betas])]
    t = torch.arange(1, 1001, dtype=F64) / 1000
    relative = (schedule.marginal(t).var.numpy() / np.array(exact) - 1)[:50]
    assert np.abs(relative).max() < 1e-14
    # The trap: the same by a cumulative product in single precision is off in the fourth digit.
    single = 1 - torch.cumprod(1 - schedule.betas.float(), 0)
    assert abs(float(single[0]) / exact[0] - 1) > 1e-5


@pytest.mark.parametrize("t", [1e-12, 1e-9, 1e-6, 1e-3, 0.1])
def test_continuous_noise_is_exact_near_the_data(t):
    time = Decimal(t)
    integral = Decimal(LinearVP().beta_min) * time + Decimal("0.5") * time**2 * (
        Decimal(LinearVP().beta_max) - Decimal(LinearVP().beta_min)
    )
    linear = 1 - (-integral).exp()
    assert float(LinearVP().marginal(t).var) == pytest.approx(float(linear), rel=1e-14)
    # 1 - cos^2 = sin^2 loses nothing in extended precision.
    end = np.arctan(np.exp(np.longdouble(7.5)))
    cosine = np.sin(np.longdouble(t) * end) ** 2
    assert float(CosineVP().marginal(t).var) == pytest.approx(float(cosine), rel=1e-13)
    rate = 2 * (Decimal(50) / Decimal("0.01")).ln() * time
    exploding = Decimal("0.01") ** 2 * (rate.exp() - 1)
    assert float(VESchedule().marginal(t).var) == pytest.approx(float(exploding), rel=1e-13)


@pytest.mark.parametrize("nodes", [20, 100, 1000, 4000])
def test_cosine_is_that_of_nichol_and_dhariwal_2021(nodes):
    schedule = DiscreteSchedule.cosine(nodes)
    time = np.arange(nodes + 1, dtype=np.longdouble) / nodes
    f = np.cos((time + np.longdouble(8) / 1000) / (np.longdouble(1008) / 1000) * np.pi / 2) ** 2
    closed = (f / f[0]).astype(float)
    betas = 1 - closed[1:] / closed[:-1]
    capped = betas > 0.999
    assert capped.sum() == 1
    assert capped[-1]
    assert np.abs(schedule.alpha_bar[:-1].numpy() / closed[:-1] - 1).max() < 1e-9
    assert float(schedule.betas[-1]) == 0.999
    assert float(schedule.betas.max()) <= 0.999
    # The cap holds alpha_bar_T at a thousandth of its neighbour, instead of 0.
    assert float(schedule.alpha_bar[-1]) == pytest.approx(1e-3 * closed[-2], rel=1e-9)


@pytest.mark.parametrize(
    ("start", "end", "temperature"), [(-3, 3, 1.0), (0, 3, 0.3), (-3, 3, 0.5)]
)
def test_sigmoid_is_that_of_jabri_2022(start, end, temperature):
    schedule = DiscreteSchedule.sigmoid(50, start, end, temperature)

    def sigmoid(value):
        return 1 / (1 + np.exp(-np.longdouble(value)))

    time = np.arange(51) / np.longdouble(50)
    low, high = sigmoid(start / temperature), sigmoid(end / temperature)
    closed = (high - sigmoid((time * (end - start) + start) / temperature)) / (high - low)
    relative = schedule.alpha_bar.numpy()[:-1] / closed[:-1].astype(float) - 1
    assert np.abs(relative).max() < 1e-11
    assert float(schedule.betas[-1]) == 0.999
    assert float(schedule.betas[:-1].max()) < 0.999


def test_absorbing_masks_the_same_share_at_every_node():
    alpha_bar = DiscreteSchedule.absorbing(50).alpha_bar
    assert float((alpha_bar - (1 - torch.arange(51, dtype=F64) / 50)).abs().max()) < 1e-14
    assert float(alpha_bar[-1]) == 0


@pytest.mark.parametrize(
    ("family", "tolerance"),
    [
        (DiscreteSchedule.linear, 0.01),
        (DiscreteSchedule.cosine, 1e-6),
        (DiscreteSchedule.sigmoid, 1e-6),
    ],
)
def test_alpha_bar_is_a_function_of_t_and_not_of_the_number_of_nodes(family, tolerance):
    t = torch.arange(20, dtype=F64) / 20
    fine = family(1000).marginal(t).alpha_bar
    assert float((family(100).marginal(t).alpha_bar - fine).abs().max()) < tolerance
    assert family(100).terminal_snr < 1e-4
    assert family(1000).terminal_snr < 1e-4


def test_a_constant_probability_sums_as_a_geometric_series():
    # 1 - alpha_bar_T = p sum_k (1 - p)^k = p (1 - (1 - p)^T) / p, which tends to 1.
    for p in (0.01511, 0.2):
        for nodes in (1, 7, 100, 2000):
            schedule = DiscreteSchedule([p] * nodes)
            series = p * (1 - (1 - p) ** nodes) / p
            assert float(schedule.marginal(1.0).var) == pytest.approx(series, abs=1e-12)
    limit = DiscreteSchedule([0.01511] * 5000).marginal(1.0)
    assert float(limit.alpha_bar) < 1e-30
    assert float(limit.var) == 1.0
    # The notebooks' hundred steps of .01511 stop at .218.
    assert DiscreteSchedule([0.01511] * 100).terminal_snr == pytest.approx(0.218, abs=5e-4)


# What every schedule has in common


@each(ALL)
def test_node_zero_is_the_data_exactly(schedule):
    marginal = schedule.marginal(0.0)
    assert float(marginal.scale) == 1
    assert float(marginal.std) == 0
    assert float(marginal.log_snr) == math.inf


@each(ALL)
def test_signal_falls_and_noise_rises(schedule):
    marginal = schedule.marginal(times_of(schedule))
    assert bool((marginal.scale.diff() <= 0).all())
    assert bool((marginal.std.diff() > 0).all())
    assert bool((marginal.log_snr.diff()[1:] < 0).all())
    assert marginal.scale.dtype == marginal.std.dtype == F64


@each(VP)
def test_variance_is_preserved(schedule):
    marginal = schedule.marginal(times_of(schedule))
    assert float((marginal.scale**2 + marginal.std**2 - 1).abs().max()) < 1e-15
    assert schedule.prior_std == 1


@each(ALL)
def test_transitions_compose(schedule):
    times = times_of(schedule)
    generator = np.random.default_rng(0)
    triples = np.sort([generator.choice(len(times), 3, replace=False) for _ in range(200)], 1)
    u, s, t = (times[torch.from_numpy(column)] for column in triples.T)
    later, earlier, whole = (
        schedule.transition(t, s),
        schedule.transition(s, u),
        schedule.transition(t, u),
    )
    composed = later.var + later.scale**2 * earlier.var
    assert float((later.scale * earlier.scale - whole.scale).abs().max()) < 1e-12
    assert float(((composed - whole.var) / whole.var).abs().max()) < 1e-12


@each(ALL)
def test_transition_from_the_data_is_the_marginal(schedule):
    times = times_of(schedule)
    step, marginal = schedule.transition(times, torch.zeros_like(times)), schedule.marginal(times)
    assert float((step.scale - marginal.scale).abs().max()) < 1e-15
    assert torch.allclose(step.var, marginal.var, rtol=1e-13, atol=0)


@each(ALL)
def test_derived_coefficients(schedule):
    marginal = schedule.marginal(times_of(schedule)[1:])
    assert torch.equal(marginal.alpha_bar, marginal.scale**2)
    assert torch.equal(marginal.sigma, marginal.std / marginal.scale)
    finite = marginal.scale > 0
    expected = -2 * marginal.sigma[finite].log()
    assert torch.allclose(marginal.log_snr[finite], expected, rtol=1e-12, atol=1e-12)
    ratio = float(schedule.marginal(1.0).alpha_bar) / schedule.prior_std**2
    assert schedule.terminal_snr == pytest.approx(ratio, rel=1e-12)


@each(CONTINUOUS)
def test_prior_is_the_terminal_noise(schedule):
    assert schedule.prior_std == pytest.approx(float(schedule.marginal(1.0).std), rel=1e-3)


@each(ALL)
def test_time_is_recovered_from_the_log_snr(schedule):
    times = times_of(schedule)
    times = times[times >= schedule.t_min * (1 - 1e-12)]
    found = schedule.t_of_log_snr(schedule.log_snr(times))
    finite = torch.isfinite(schedule.log_snr(times))
    assert float((found - times)[finite].abs().max()) < 1e-12


@each(ALL)
def test_calls_accept_numbers_tensors_and_single_precision(schedule):
    node = float(times_of(schedule)[-3])
    reference = float(schedule.marginal(node).scale)
    for value in (torch.tensor(node, dtype=F64), torch.tensor([[node]], dtype=F64)):
        assert float(schedule.marginal(value).scale) == reference
        assert schedule.marginal(value).scale.shape == value.shape
    single = schedule.marginal(torch.tensor(node, dtype=torch.float32)).scale
    assert single.dtype == F64
    assert float(single) == pytest.approx(reference, rel=1e-6)


def test_coefficients_live_where_the_times_do(device):
    t = torch.tensor([0.25, 0.5], dtype=F64, device=device)
    for schedule in (DiscreteSchedule.linear(20), LinearVP(), VESchedule(), EDMSchedule()):
        marginal = schedule.marginal(t)
        assert marginal.scale.device.type == marginal.std.device.type == device.type
        found = schedule.t_of_log_snr(marginal.log_snr)
        assert torch.allclose(found, t, rtol=0, atol=1e-12)


# The SDE behind each schedule


@each(CONTINUOUS)
@pytest.mark.parametrize(("s", "t"), [(0.0, 0.3), (0.2, 0.6), (0.5, 1.0)])
def test_sde_increments_integrate_to_the_transition(schedule, s, t):
    # dz = f z dt + g dw from z_s: scale = exp(int f), var = int exp(2 int_r^t f) g^2(r) dr.
    # Finer towards t, where beta(t) of a cosine is steep.
    grid = s + (t - s) * (1 - torch.linspace(1, 0, 20_001, dtype=F64) ** 3)
    drift, diffusion = schedule.sde_increment(grid[1:], grid[:-1])
    to_end = drift.flip(0).cumsum(0).flip(0)
    middle = to_end - 0.5 * drift
    step = schedule.transition(t, s)
    assert math.exp(float(drift.sum())) == pytest.approx(float(step.scale), rel=1e-12)
    variance = float((torch.exp(2 * middle) * diffusion).sum())
    assert variance == pytest.approx(float(step.var), rel=1e-5)
    whole = schedule.sde_increment(t, s)
    assert float(whole[0]) == pytest.approx(float(drift.sum()), rel=1e-10, abs=1e-14)
    assert float(whole[1]) == pytest.approx(float(diffusion.sum()), rel=1e-10)


@each(DISCRETE)
def test_vp_sde_has_drift_of_minus_half_beta(schedule):
    nodes = times_of(schedule)[:-1]
    drift, diffusion = schedule.sde_increment(nodes[1:], nodes[:-1])
    assert torch.equal(drift, -0.5 * diffusion)
    scale = schedule.transition(nodes[1:], nodes[:-1]).scale
    assert torch.allclose(drift.exp(), scale, rtol=1e-13, atol=0)


def test_linear_vp_follows_beta_of_t():
    schedule, h = LinearVP(0.1, 20.0), 1e-5
    for t in (0.1, 0.5, 0.9):
        increment = schedule.sde_increment(t + h, t - h)[1] / (2 * h)
        assert float(increment) == pytest.approx(0.1 + t * 19.9, rel=1e-8)


def test_ve_variance_is_that_of_the_sde_started_at_the_data():
    # Song et al. 2021, eq. 30: g^2 = d sigma^2 / dt with sigma = sigma_min (max / min)^t.
    schedule = VESchedule(0.01, 50.0)
    for t in (0.01, 0.3, 1.0):
        geometric = 0.01**2 * ((5000.0) ** (2 * t) - 1)
        assert float(schedule.marginal(t).var) == pytest.approx(geometric, rel=1e-12)
    h, t = 1e-6, 0.4
    rate = float(schedule.sde_increment(t + h, t - h)[1]) / (2 * h)
    assert rate == pytest.approx(2 * math.log(5000) * 0.01**2 * 5000 ** (2 * t), rel=1e-8)
    assert schedule.prior_std == pytest.approx(50, rel=1e-6)


def test_cosine_vp_ends_at_its_log_snr():
    for end in (-15.0, -6.0):
        schedule = CosineVP(end)
        assert float(schedule.log_snr(1.0)) == pytest.approx(end, abs=1e-10)
        assert float(schedule.log_snr(0.5)) == pytest.approx(
            -2 * math.log(math.tan(0.5 * math.atan(math.exp(-0.5 * end)))), rel=1e-12
        )


# Grids


@each(ALL)
@pytest.mark.parametrize("spacing", list(Spacing))
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 19, 20])
def test_grids_fall_strictly_from_noise_to_data(schedule, spacing, steps):
    grid = schedule.grid(steps, spacing)
    assert grid.shape == (steps + 1,)
    assert grid.dtype == F64
    assert float(grid[0]) == 1
    assert float(grid[-1]) == 0
    assert bool((grid.diff() < 0).all())
    schedule.marginal(grid)  # every time is one at which the schedule is defined


@pytest.mark.parametrize("name", ["linear 20", "sigmoid 37", "absorbing 20", "zero snr 20"])
@pytest.mark.parametrize("spacing", list(Spacing))
def test_every_number_of_steps_snaps_to_distinct_nodes(name, spacing):
    schedule = DISCRETE[name]
    for steps in range(1, schedule.num_nodes + 1):
        nodes = schedule.node(schedule.grid(steps, spacing)).tolist()
        assert nodes[0] == schedule.num_nodes
        assert nodes[-1] == 0
        assert len(set(nodes)) == steps + 1
        assert nodes == sorted(nodes, reverse=True)
    assert nodes == list(range(schedule.num_nodes, -1, -1))
    with pytest.raises(ConfigError, match="exceeds"):
        schedule.grid(schedule.num_nodes + 1, spacing)


@each(ALL)
def test_uniform_grid_is_uniform(schedule):
    steps = 10 if schedule.t_min <= 0.1 else 4
    grid = schedule.grid(steps, "uniform")
    exact = torch.linspace(1, 0, steps + 1, dtype=F64)
    tolerance = 1e-15 if schedule.num_nodes is None else 0.5 / schedule.num_nodes + 1e-12
    assert float((grid - exact).abs().max()) <= tolerance


@each(CONTINUOUS)
@pytest.mark.parametrize("spacing", list(Spacing))
def test_no_grid_visits_noise_below_the_smallest(schedule, spacing):
    grid = schedule.grid(2000, spacing)
    assert bool((grid.diff() < 0).all())
    assert float(grid[-2]) == pytest.approx(schedule.t_min, rel=1e-9)


@each(CONTINUOUS)
def test_log_snr_grid_is_uniform_in_log_snr(schedule):
    grid = schedule.grid(30, "log_snr")
    gaps = schedule.log_snr(grid[:-1]).diff()
    assert float((gaps / gaps.mean() - 1).abs().max()) < 1e-9
    assert float(grid[-2]) == pytest.approx(schedule.t_min, rel=1e-9)


@each(CONTINUOUS)
@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
def test_karras_grid_is_equation_5(schedule, rho):
    n = 18
    sigma = schedule.marginal(schedule.grid(n, "karras", rho=rho)[:-1]).sigma
    high = float(schedule.marginal(1.0).sigma)
    low = float(schedule.marginal(schedule.t_min).sigma)
    i = np.arange(n)
    expected = (high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    assert np.abs(sigma.numpy() / expected - 1).max() < 1e-9


def test_edm_time_makes_the_karras_grid_uniform():
    schedule = EDMSchedule(0.002, 80.0, 7.0)
    assert schedule.t_min == pytest.approx((0.002 / 80) ** (1 / 7), rel=1e-15)
    assert float(schedule.sigma(schedule.t_min)) == pytest.approx(0.002, rel=1e-12)
    uniform = torch.linspace(1, schedule.t_min, 18, dtype=F64)
    for spacing in ("karras", "uniform"):
        assert torch.allclose(schedule.grid(18, spacing)[:-1], uniform, rtol=1e-12, atol=0)
    t = torch.tensor([0.3, 0.7], dtype=F64)
    assert torch.allclose(schedule.sigma(t), 80 * t**7, rtol=1e-14, atol=0)


def test_a_discrete_log_snr_grid_takes_the_nearest_node():
    schedule = DiscreteSchedule.linear(1000)
    log_snr = schedule.log_snr(torch.arange(1, 1001, dtype=F64) / 1000)
    targets = torch.linspace(float(log_snr[-1]), float(log_snr[0]), 12, dtype=F64)
    nearest = (log_snr[None] - targets[:, None]).abs().argmin(1) + 1
    assert schedule.node(schedule.grid(12, "log_snr"))[:-1].tolist() == nearest.tolist()


# One node too many or too few, at T = 20 where it shows


def test_node_k_holds_the_product_of_the_first_k_betas():
    schedule = DiscreteSchedule.linear(20)
    betas = [float(b) for b in schedule.betas]
    assert len(betas) == schedule.num_nodes == 20
    grid = schedule.grid(20)
    for k in range(1, 21):
        t, s = k / 20, (k - 1) / 20
        product = math.prod(1 - beta for beta in betas[:k])
        assert float(schedule.marginal(t).alpha_bar) == pytest.approx(product, rel=1e-12)
        assert float(schedule.alpha_bar[k]) == pytest.approx(product, rel=1e-12)
        step = schedule.transition(t, s)
        assert float(step.var) == pytest.approx(betas[k - 1], rel=1e-12)
        assert float(step.scale) == pytest.approx(math.sqrt(1 - betas[k - 1]), rel=1e-12)
        assert float(grid[20 - k]) == pytest.approx(t, abs=1e-15)
        assert int(schedule.node(t)) == k
    assert schedule.t_min == 1 / 20


@pytest.mark.parametrize("t", [0.501, 0.5 + 1e-4, 1.05, -0.05, 0.025])
def test_a_time_between_nodes_is_refused(t):
    schedule = DiscreteSchedule.linear(20)
    for call in (schedule.marginal, schedule.node, schedule.log_snr):
        with pytest.raises(ConfigError, match="not a node"):
            call(t)
    with pytest.raises(ConfigError, match="not a node"):
        schedule.marginal(torch.tensor([0.5, t]))


def test_nodes_in_single_precision_are_still_nodes():
    schedule = DiscreteSchedule.linear(1000)
    t = (torch.arange(1001) / 1000).float()
    assert schedule.node(t).tolist() == list(range(1001))


# Zero terminal SNR


@pytest.mark.parametrize("family", [DiscreteSchedule.linear, DiscreteSchedule.cosine])
def test_zero_terminal_snr_is_algorithm_1_of_lin_2024(family):
    before, after = family(50), family(50).with_zero_terminal_snr()
    root = np.sqrt(before.alpha_bar[1:].numpy())
    expected = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    assert float(after.alpha_bar[-1]) == 0
    assert after.terminal_snr == 0
    assert np.abs(after.alpha_bar[1:].numpy() - expected).max() < 1e-12
    assert float(after.alpha_bar[1]) == pytest.approx(float(before.alpha_bar[1]), rel=1e-12)
    assert float(after.marginal(1.0).std) == 1


@pytest.mark.parametrize(
    "schedule",
    [DiscreteSchedule.linear(50).with_zero_terminal_snr(), DiscreteSchedule.absorbing(50)],
)
def test_zero_terminal_snr_refuses_eps_and_accepts_v(schedule):
    for kind in ("eps", "score"):
        with pytest.raises(ConfigError, match="zero terminal SNR"):
            GaussianProcess(schedule, parameterization=kind)
    for kind in ("v", "x0"):
        assert GaussianProcess(schedule, parameterization=kind).parameterization == kind


@each(ALL)
def test_eps_is_refused_exactly_where_no_signal_is_left(schedule):
    if schedule.terminal_snr > 0:
        assert GaussianProcess(schedule).schedule is schedule
    else:
        with pytest.raises(ConfigError):
            GaussianProcess(schedule)


# Bad options


@pytest.mark.parametrize(
    "betas",
    [
        [],
        [0.0, 0.1],
        [-0.1],
        [0.5, 1.0, 0.5],
        [1.1],
        [math.nan],
        [math.inf],
        [[0.1, 0.2]],
    ],
)
def test_betas_out_of_range_are_refused(betas):
    with pytest.raises(ConfigError, match="beta"):
        DiscreteSchedule(betas)


def test_betas_are_copied():
    betas = torch.full((5,), 0.1, dtype=F64)
    schedule = DiscreteSchedule(betas)
    betas.fill_(0.9)
    assert float(schedule.alpha_bar[1]) == pytest.approx(0.9)


@pytest.mark.parametrize("steps", [0, -1, 2.5, True, None, "10"])
def test_a_number_of_steps_must_be_a_positive_integer(steps):
    for family in (
        DiscreteSchedule.linear,
        DiscreteSchedule.cosine,
        DiscreteSchedule.sigmoid,
        DiscreteSchedule.absorbing,
        LinearVP().grid,
        DiscreteSchedule.linear(20).grid,
    ):
        with pytest.raises(ConfigError, match="steps"):
            family(steps)


def test_an_unknown_spacing_names_the_choices():
    with pytest.raises(ConfigError, match=r"'uniform', 'log_snr', 'karras'.*'cosine'"):
        LinearVP().grid(10, "cosine")


@pytest.mark.parametrize(
    "build",
    [
        lambda: LinearVP(0.0, 20.0),
        lambda: LinearVP(2.0, 1.0),
        lambda: CosineVP(0.0),
        lambda: CosineVP(-100.0),
        lambda: VESchedule(1.0, 1.0),
        lambda: VESchedule(0.0, 1.0),
        lambda: EDMSchedule(0.0, 80.0),
        lambda: EDMSchedule(0.002, 80.0, rho=0.5),
        lambda: EDMSchedule(3.0, 2.0),
    ],
)
def test_impossible_parameters_are_refused(build):
    with pytest.raises(ConfigError, match=r"must lie|need"):
        build()
