"""Networks as denoisers: what they are fed, how their output is read, preconditioning."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scidiffusion.core import (
    CosineVP,
    Denoiser,
    DiscreteSchedule,
    EDMSchedule,
    GaussianProcess,
    LinearVP,
    MultinomialProcess,
    NetworkDenoiser,
    PreconditionedDenoiser,
    ProductProcess,
    VESchedule,
    drop_condition,
)
from scidiffusion.errors import ConditionError, ConfigError
from scidiffusion.testing.mixtures import GaussianMixtureOracle

F64 = torch.float64


def at(value):
    return torch.tensor(value, dtype=F64)


class Spy(nn.Module):
    """Returns a fixed function of its input and remembers what it was called with."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.seen = ()

    def forward(self, z, time, cond):
        self.seen = z, time, cond
        return self.function(z)


# NetworkDenoiser


@pytest.mark.parametrize("kind", ["eps", "x0", "v", "score"])
def test_output_is_read_in_the_parameterisation_of_the_process(kind):
    process = GaussianProcess(LinearVP(), parameterization=kind)
    network = Spy(torch.sin)
    denoiser = NetworkDenoiser(network, process)
    z, cond = torch.randn(4, 3), torch.arange(4)
    prediction = denoiser(z, at(0.3), cond)
    assert torch.equal(getattr(prediction, kind), torch.sin(z))
    assert prediction.log_var_fraction is None
    assert network.seen[0] is z
    assert network.seen[2] is cond
    assert isinstance(denoiser, Denoiser)


@pytest.mark.parametrize("t", [at(0.25), torch.tensor(0.25), at([0.25] * 4)])
def test_the_network_sees_one_single_precision_time_a_row(t, device):
    network = Spy(torch.sin)
    denoiser = NetworkDenoiser(network, GaussianProcess(DiscreteSchedule.linear(20)))
    denoiser(torch.randn(4, 3, device=device), t)
    time = network.seen[1]
    assert time.shape == (4,)
    assert time.dtype == torch.float32
    assert time.device.type == device.type
    assert time.tolist() == [0.25] * 4


def test_coefficients_keep_the_precision_of_the_time():
    # Time is rounded for the network only: alpha_bar stays that of the double-precision time.
    process, t = GaussianProcess(LinearVP()), at([0.1, 0.7])
    prediction = NetworkDenoiser(Spy(torch.sin), process)(torch.randn(2, 1), t)
    assert torch.equal(prediction.marginal.scale, LinearVP().marginal(t).scale)


@pytest.mark.parametrize("channel_dim", [-1, 1])
def test_a_learned_variance_is_the_second_half_of_the_channels(channel_dim):
    process = GaussianProcess(DiscreteSchedule.linear(20), variance="learned")
    network = Spy(lambda z: torch.cat([torch.sin(z), torch.cos(z)], channel_dim))
    denoiser = NetworkDenoiser(network, process, learned_variance=True, channel_dim=channel_dim)
    z = torch.randn(4, 3, 5)
    prediction = denoiser(z, at(0.5))
    assert torch.equal(prediction.eps, torch.sin(z))
    assert torch.allclose(prediction.log_var_fraction, (torch.cos(z) + 1) / 2)
    var = process.reverse(prediction, at(0.5), at(0.25)).var
    beta = process.schedule.transition(0.5, 0.25).var
    tilde = beta * process.schedule.marginal(0.25).var / process.schedule.marginal(0.5).var
    assert bool(((var >= tilde * (1 - 1e-5)) & (var <= beta * (1 + 1e-5))).all())


def test_learned_variance_and_the_process_must_agree():
    learned = GaussianProcess(LinearVP(), variance="learned")
    fixed = GaussianProcess(LinearVP())
    categories = MultinomialProcess(DiscreteSchedule.linear(20), 3)
    for process, option in ((learned, False), (fixed, True), (categories, True)):
        with pytest.raises(ConfigError, match="learned_variance"):
            NetworkDenoiser(Spy(torch.sin), process, learned_variance=option)


def test_a_product_is_read_part_by_part():
    schedule = DiscreteSchedule.linear(20)
    process = ProductProcess(
        {"num": GaussianProcess(schedule), "cat": MultinomialProcess(schedule, (2, 4))}
    )
    logits = torch.randn(5, 2, 4)
    network = Spy(lambda z: {"num": torch.sin(z["num"]), "cat": logits})
    z = {"num": torch.randn(5, 3), "cat": torch.zeros(5, 2).long()}
    prediction = NetworkDenoiser(network, process)(z, at(0.5))
    assert torch.equal(prediction["num"].eps, torch.sin(z["num"]))
    p0 = prediction["cat"].p0
    assert torch.allclose(p0[:, 1], logits[:, 1].softmax(-1))
    assert torch.allclose(p0[:, 0, :2], logits[:, 0, :2].softmax(-1))
    assert bool((p0[:, 0, 2:] == 0).all())
    assert network.seen[1].shape == (5,)


def test_parameters_are_those_of_the_network():
    network = nn.Linear(3, 3)
    network.forward = lambda z, t, c: nn.Linear.forward(network, z)
    denoiser = NetworkDenoiser(network, GaussianProcess(LinearVP()))
    assert set(denoiser.state_dict()) == {"network.weight", "network.bias"}
    denoiser(torch.randn(2, 3), at(0.5)).x0.sum().backward()
    assert float(network.weight.grad.abs().sum()) > 0


# PreconditionedDenoiser (Karras et al. 2022, eq. 7 and table 1)

SCHEDULES = [EDMSchedule(), VESchedule(), LinearVP(), CosineVP(), DiscreteSchedule.linear(20)]


def times(schedule, n):
    if schedule.num_nodes is None:
        return torch.linspace(schedule.t_min, 1, n, dtype=F64)
    return torch.linspace(1, schedule.num_nodes, n, dtype=F64).round() / schedule.num_nodes


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_preconditioning_is_equation_7(schedule):
    sd, t = 0.5, times(schedule, 6)
    network = Spy(torch.sin)
    denoiser = PreconditionedDenoiser(network, GaussianProcess(schedule), sd)
    marginal = schedule.marginal(t)
    z = torch.randn(6, 3, dtype=F64) * marginal.std[:, None]
    found = denoiser(z, t)
    sigma, u = (marginal.std / marginal.scale)[:, None], z / marginal.scale[:, None]
    root = (sigma**2 + sd**2).sqrt()
    expected = sd**2 / root**2 * u + sigma * sd / root * torch.sin(u / root)
    assert torch.allclose(found.x0, expected, rtol=1e-12, atol=1e-14)
    assert torch.allclose(network.seen[0], u / root, rtol=1e-12)
    noise_level = (sigma[:, 0].log() / 4).float()
    assert torch.allclose(network.seen[1], noise_level, rtol=1e-6)
    assert network.seen[1].dtype == torch.float32


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_input_and_target_of_the_network_have_unit_variance(schedule):
    # E (c_in u)^2 = 1 and E F*^2 = 1 at every level, F* = (x - c_skip u) / c_out, x ~ N(0, sd^2).
    sd, n = 0.5, 40_000
    process, generator = GaussianProcess(schedule), torch.Generator().manual_seed(0)
    x = sd * torch.randn(n, 1, dtype=F64, generator=generator)
    eps = torch.randn(n, 1, dtype=F64, generator=generator)
    network = Spy(torch.zeros_like)
    denoiser = PreconditionedDenoiser(network, process, sd)
    ones = PreconditionedDenoiser(Spy(torch.ones_like), process, sd)
    for t in times(schedule, 4):
        marginal = schedule.marginal(t)
        z = marginal.scale * x + marginal.std * eps
        skip = denoiser(z, t).x0
        target = (x - skip) / (ones(z, t).x0 - skip)
        assert float(network.seen[0].var()) == pytest.approx(1, abs=0.03)
        assert float(target.var()) == pytest.approx(1, abs=0.03)


def test_a_zero_network_is_exact_for_gaussian_data():
    # c_skip u is E[x | z] of N(0, sd^2): what remains to learn is how data are not Gaussian.
    sd = torch.tensor([0.5, 2.0])
    process = GaussianProcess(EDMSchedule())
    denoiser = PreconditionedDenoiser(Spy(torch.zeros_like), process, sd)
    oracle = GaussianMixtureOracle([1.0], [[0.0, 0.0]], (sd**2)[None], process)
    z, t = torch.randn(8, 2, dtype=F64), torch.linspace(0.3, 1, 8, dtype=F64)
    assert torch.allclose(denoiser(z, t).x0, oracle(z, t).x0, rtol=1e-9, atol=1e-12)


def test_sigma_data_is_saved_with_the_module():
    process = GaussianProcess(EDMSchedule())
    one, other = (PreconditionedDenoiser(Spy(torch.sin), process, sd) for sd in (0.5, 2.0))
    other.load_state_dict(one.state_dict())
    assert float(other.sigma_data) == 0.5


def test_preconditioning_checks_its_options():
    with pytest.raises(ConfigError, match="Gaussian"):
        PreconditionedDenoiser(
            Spy(torch.sin), MultinomialProcess(DiscreteSchedule.linear(20), 3), 1.0
        )
    for sd in (0.0, -1.0, torch.tensor([1.0, 0.0])):
        with pytest.raises(ConfigError, match="sigma_data"):
            PreconditionedDenoiser(Spy(torch.sin), GaussianProcess(EDMSchedule()), sd)


def test_preconditioning_needs_some_signal():
    schedule = DiscreteSchedule.linear(20).with_zero_terminal_snr()
    process = GaussianProcess(schedule, parameterization="v")
    with pytest.raises(ConfigError, match="zero terminal SNR"):
        PreconditionedDenoiser(Spy(torch.sin), process)


# Conditions


def test_dropped_conditions_carry_the_mark_of_their_kind():
    integers, reals = torch.tensor([3, 0, 1]), torch.randn(3, 2)
    assert drop_condition(None) is None
    assert drop_condition(integers).tolist() == [-1, -1, -1]
    assert bool(drop_condition(reals).isnan().all())
    keep = torch.tensor([True, False, True])
    assert drop_condition(integers, keep).tolist() == [3, -1, 1]
    both = drop_condition({"label": integers, "value": {"x": reals}}, keep)
    assert both["label"].tolist() == [3, -1, 1]
    assert torch.equal(both["value"]["x"][keep], reals[keep])
    assert bool(both["value"]["x"][~keep].isnan().all())
    assert integers.tolist() == [3, 0, 1]


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_conditions_without_room_for_the_mark_are_refused(dtype):
    with pytest.raises(ConditionError, match="int64"):
        drop_condition(torch.ones(3, dtype=dtype))
