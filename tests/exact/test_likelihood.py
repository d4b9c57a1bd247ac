"""The probability-flow likelihood against the exact density."""

from __future__ import annotations

import math

import pytest
import torch

from scidiffusion.core import (
    CentredGaussianProcess,
    CosineVP,
    DiscreteSchedule,
    EDMSchedule,
    GaussianProcess,
    KeyedNoise,
    LinearVP,
    MultinomialProcess,
    VESchedule,
    ode_log_prob,
    remove_mean,
)
from scidiffusion.errors import ConfigError
from scidiffusion.testing.mixtures import GaussianMixtureOracle

F64 = torch.float64


def errors(schedule, steps, count=21):
    """|ODE log p - exact log p| over the .001 to .999 quantiles of the notebooks' mixture."""
    oracle = GaussianMixtureOracle.prince(GaussianProcess(schedule))
    x = oracle.quantiles(torch.linspace(0.001, 0.999, count, dtype=F64))[:, None]
    return (ode_log_prob(oracle, x, steps=steps) - oracle.log_prob(x)).abs()


@pytest.mark.parametrize(
    ("schedule", "steps", "largest", "mean"),
    [
        (LinearVP(), 60, 5e-3, 1e-3),
        (CosineVP(), 100, 1e-3, 2e-4),
        (VESchedule(), 60, 1e-2, 3e-3),
        (EDMSchedule(), 60, 1e-2, 2e-3),
    ],
)
def test_log_p_of_the_mixture_is_right_everywhere(schedule, steps, largest, mean):
    # What remains is the prior's mismatch and the last step to the data, not the solver.
    error = errors(schedule, steps)
    assert float(error.max()) < largest
    assert float(error.mean()) < mean


@pytest.mark.parametrize("family", [DiscreteSchedule.linear, DiscreteSchedule.cosine])
def test_discrete_schedules_come_close_on_their_own_nodes(family):
    # Heun's rule on 200 of 1000 nodes; a cosine schedule ends with one enormous step.
    error = errors(family(1000), 200, count=11)
    assert float(error.max()) < 0.02
    assert float(error.mean()) < 2e-3


def test_the_density_integrates_to_one():
    oracle = GaussianMixtureOracle.prince(GaussianProcess(CosineVP()))
    x = torch.linspace(-4, 4, 401, dtype=F64)[:, None]
    density = ode_log_prob(oracle, x, steps=60).exp()
    assert float(torch.trapezoid(density, x[:, 0])) == pytest.approx(1, abs=2e-3)


def test_a_gaussian_is_exact_up_to_the_prior():
    # Fourth order: a sixteenth of the error for half the step, down to the signal left at t = 1.
    oracle = GaussianMixtureOracle([1.0], [0.0], [0.5], GaussianProcess(CosineVP()))
    x = torch.linspace(-2, 2, 5, dtype=F64)[:, None]
    exact = oracle.log_prob(x)
    error = [float((ode_log_prob(oracle, x, steps=n) - exact).abs().max()) for n in (40, 80)]
    assert math.log2(error[0] / error[1]) > 3.5
    assert error[1] < 1e-3


CORRELATED = [[[1.0, 0.8], [0.8, 1.0]], [[0.3, -0.1], [-0.1, 0.2]]]


def correlated(schedule=None):
    process = GaussianProcess(schedule or CosineVP())
    return GaussianMixtureOracle([0.6, 0.4], [[0.5, -1.0], [-1.0, 1.0]], CORRELATED, process)


@pytest.mark.parametrize("schedule", [CosineVP(), LinearVP(), EDMSchedule()])
def test_two_correlated_dimensions_with_the_exact_trace(schedule):
    oracle = correlated(schedule)
    x = oracle.sample(60)[0]
    error = (ode_log_prob(oracle, x, steps=70, trace="exact") - oracle.log_prob(x)).abs()
    assert float(error.max()) < 1e-2


def test_hutchinson_is_unbiased_in_log_p():
    oracle, n = correlated(), 400
    x = torch.tensor([[0.6, -0.4]], dtype=F64)
    exact = float(ode_log_prob(oracle, x, steps=12, trace="exact"))
    estimate = ode_log_prob(oracle, x.expand(n, 2), steps=12, trace="hutchinson")
    error = float(estimate.std()) / math.sqrt(n)
    assert error > 0
    assert abs(float(estimate.mean()) - exact) < 4 * error
    more = ode_log_prob(oracle, x.expand(n, 2), steps=12, trace="hutchinson", probes=4)
    assert float(more.var() / estimate.var()) == pytest.approx(0.25, rel=0.4)
    assert abs(float(more.mean()) - exact) < 4 * float(more.std()) / math.sqrt(n)


def test_hutchinson_is_exact_where_the_jacobian_is_diagonal():
    # Twenty independent dimensions: "auto" switches to probes, and +-1 probes see the diagonal.
    d = 20
    oracle = GaussianMixtureOracle(
        [1.0], [[0.1] * d], torch.linspace(0.2, 2, d)[None], GaussianProcess(CosineVP())
    )
    x = oracle.sample(5)[0]
    error = (ode_log_prob(oracle, x, steps=60) - oracle.log_prob(x)).abs()
    assert float(error.max()) < 1e-2


def test_the_estimate_is_a_function_of_the_seed_and_the_row():
    oracle = correlated()
    x = oracle.sample(20)[0]

    def run(x, noise):
        return ode_log_prob(oracle, x, steps=5, trace="hutchinson", noise=noise)

    whole = run(x, KeyedNoise(1))
    assert torch.equal(whole, run(x, KeyedNoise(1)))
    assert torch.allclose(whole[7:14], run(x[7:14], KeyedNoise(1, start=7)), rtol=1e-12)
    assert not torch.equal(whole, run(x, KeyedNoise(2)))


def test_a_condition_gives_the_conditional_density():
    oracle = correlated()
    x, label = oracle.sample(30)
    component = torch.distributions.MultivariateNormal(
        oracle.means[label], torch.as_tensor(CORRELATED, dtype=F64)[label]
    )
    found = ode_log_prob(oracle, x, steps=60, cond=label)
    assert float((found - component.log_prob(x)).abs().max()) < 1e-2


def test_points_with_zero_centre_of_mass_have_a_density_on_their_subspace():
    process, v = CentredGaussianProcess(CosineVP()), 0.7

    class Isotropic:
        def __call__(self, z, t, cond=None):
            marginal = process.schedule.marginal(t)
            total = marginal.scale**2 * v + marginal.var
            return process.prediction(z, t, x0=marginal.scale * v / total * z)

    Isotropic.process = process
    x = remove_mean(KeyedNoise(0).normal(torch.empty(6, 4, 3, dtype=F64)))
    exact = process.gaussian(torch.zeros_like(x), torch.tensor(v, dtype=F64)).log_prob(x)
    assert torch.allclose(ode_log_prob(Isotropic(), x, steps=60), exact, rtol=0, atol=5e-3)


def test_single_precision_is_good_to_two_digits(device):
    oracle = GaussianMixtureOracle.prince(GaussianProcess(CosineVP())).to(device)
    x = oracle.sample(30)[0].float()
    found = ode_log_prob(oracle, x, steps=80)
    assert found.dtype == torch.float32
    assert found.device == x.device
    assert float((found - oracle.log_prob(x.double())).abs().max()) < 1e-2


def test_no_graph_is_left_behind():
    found = ode_log_prob(correlated(), torch.zeros(2, 2, dtype=F64), steps=2)
    assert not found.requires_grad
    with torch.no_grad():
        assert torch.equal(
            ode_log_prob(correlated(), torch.zeros(2, 2, dtype=F64), steps=2), found
        )


def test_options_are_checked():
    oracle, x = correlated(), torch.zeros(2, 2, dtype=F64)
    for options in ({"steps": 0}, {"probes": 0}, {"trace": "trapezoid"}):
        with pytest.raises(ConfigError):
            ode_log_prob(oracle, x, **options)

    class Categories:
        process = MultinomialProcess(DiscreteSchedule.linear(20), 3)

    with pytest.raises(ConfigError, match="Gaussian"):
        ode_log_prob(Categories(), x)
    schedule = DiscreteSchedule.linear(20).with_zero_terminal_snr()
    process = GaussianProcess(schedule, parameterization="v")
    with pytest.raises(ConfigError, match="zero terminal SNR"):
        ode_log_prob(GaussianMixtureOracle.prince(process), x[:, :1])
