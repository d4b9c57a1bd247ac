"""The measured optimal variance against the closed form of Gaussian data."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from scidiffusion.core import (
    AnalyticVariance,
    CentredGaussianProcess,
    DiscreteSchedule,
    EDMSchedule,
    GaussianProcess,
    KeyedNoise,
    LinearVP,
    MultinomialProcess,
    elbo,
    remove_mean,
)
from scidiffusion.errors import ConfigError
from scidiffusion.testing.mixtures import GaussianMixtureOracle

F64 = torch.float64
V = 0.49


def at(value):
    return torch.tensor(value, dtype=F64)


def gaussian(schedule, n=20_000, **options):
    process = GaussianProcess(schedule, variance="optimal")
    oracle = GaussianMixtureOracle([1.0], [0.2], [V], process)
    return AnalyticVariance(oracle, oracle.sample(n)[0], **options)


def true_var(schedule, t):
    marginal = schedule.marginal(t)
    return V * marginal.var / (marginal.scale**2 * V + marginal.var)


def prior_step_variance(schedule, t, s):
    """Var[z_s | z_t] of the Gaussian data, from their joint distribution."""
    step, before = schedule.transition(t, s), schedule.marginal(s)
    var_s, var_t = (m.scale**2 * V + m.var for m in (before, schedule.marginal(t)))
    return var_s - (step.scale * var_s) ** 2 / var_t


@pytest.mark.parametrize("schedule", [DiscreteSchedule.linear(20), LinearVP(), EDMSchedule()])
def test_the_remaining_uncertainty_of_gaussian_data_is_recovered(schedule):
    measured, n = gaussian(schedule, levels=20), 20_000
    assert len(measured.fraction) == 20
    times = schedule.t_of_log_snr(measured.log_snr)
    marginal = schedule.marginal(times)
    exact = true_var(schedule, times) / marginal.sigma**2
    # The mean square of n normal errors of variance `exact`, less what ||eps||^2 explains.
    error = exact * ((1 - exact**2) * 2 / n).sqrt()
    assert bool(((measured.fraction - exact).abs() <= 4 * error + 1e-3 * exact).all())
    # ... and so is Var[x | z], however far the noise drowns the data.
    var = torch.stack([measured(torch.zeros(1, 1, dtype=F64), t).x0_var for t in times])
    assert torch.allclose(var, true_var(schedule, times), rtol=0.05, atol=0)


def test_the_reverse_variance_is_the_optimal_one():
    schedule = DiscreteSchedule.linear(20)
    measured = gaussian(schedule)
    z = torch.randn(3, 1, dtype=F64)
    for k in range(2, 21):
        t, s = at(k / 20), at((k - 1) / 20)
        exact = prior_step_variance(schedule, t, s)
        found = measured.process.reverse(measured(z, t), t, s).var
        assert torch.allclose(found, exact.expand_as(found), rtol=0.04, atol=0)


@pytest.mark.parametrize("schedule", [DiscreteSchedule.linear(20), DiscreteSchedule.cosine(10)])
def test_the_optimal_variance_has_the_best_likelihood(schedule):
    oracle = GaussianMixtureOracle.prince(GaussianProcess(schedule, variance="optimal"))
    measured = AnalyticVariance(oracle, oracle.sample(5000, KeyedNoise(3))[0])
    x = oracle.sample(4000)[0]
    bounds = {"optimal": elbo(measured, x).total}
    for variance in ("beta", "posterior"):
        other = GaussianMixtureOracle.prince(GaussianProcess(schedule, variance=variance))
        bounds[variance] = elbo(other, x).total
    for variance in ("beta", "posterior"):
        gain = bounds["optimal"] - bounds[variance]
        error = float(gain.std()) / math.sqrt(4000)
        assert float(gain.mean()) > (-2 if variance == "beta" else 4) * error
    assert float((bounds["optimal"] - oracle.log_prob(x)).mean()) < 0


def test_a_thousand_rows_do_at_every_noise_level():
    # An absolute error would be multiplied by 1 / (1 - beta) = 1000 in the first reverse step.
    schedule = DiscreteSchedule.linear(20)
    measured = gaussian(schedule, 1000)
    for k in range(2, 21):
        t, s = at(k / 20), at((k - 1) / 20)
        exact = prior_step_variance(schedule, t, s)
        found = measured.process.reverse(measured(torch.zeros(1, 1, dtype=F64), t), t, s).var
        assert float(found) == pytest.approx(float(exact), rel=0.15)


def test_an_inexact_mean_is_given_the_variance_that_is_best_for_it():
    process = GaussianProcess(DiscreteSchedule.linear(20), variance="optimal")
    oracle = GaussianMixtureOracle([1.0], [0.0], [V], process)
    x = oracle.sample(20_000)[0]

    class Shrunk:
        def __call__(self, z, t, cond=None):
            return process.prediction(z, t, eps=0.7 * oracle(z, t).eps)

    Shrunk.process = process
    measured = AnalyticVariance(Shrunk(), x)
    best = elbo(measured, x[:4000]).total.mean()
    for factor in (0.8, 1.25):

        class Scaled:
            def __call__(self, z, t, cond=None, factor=factor):
                prediction = measured(z, t)
                return replace(prediction, x0_var=factor * prediction.x0_var)

        Scaled.process = process
        assert float(elbo(Scaled(), x[:4000]).total.mean()) < float(best)


def test_one_variance_serves_all_dimensions():
    # Bao et al.: the best isotropic variance is the mean over the dimensions.
    process = GaussianProcess(LinearVP(), variance="optimal")
    oracle = GaussianMixtureOracle([1.0], [[0.0, 0.0]], [[0.1, 2.0]], process)
    measured = AnalyticVariance(oracle, oracle.sample(20_000)[0], levels=50)
    t = at(0.3)
    z = torch.randn(2, 2, dtype=F64)
    expected = oracle(z, t).x0_var.mean()
    assert float(measured(z, t).x0_var) == pytest.approx(float(expected), rel=0.05)


def test_between_levels_it_is_interpolated_and_beyond_them_constant():
    schedule = LinearVP()
    fine, coarse = gaussian(schedule, 5000, levels=200), gaussian(schedule, 5000, levels=30)
    z = torch.zeros(1, 1, dtype=F64)
    for t in (0.02, 0.1, 0.37, 0.8):
        exact = float(true_var(schedule, at(t)))
        for measured in (fine, coarse):
            assert float(measured(z, at(t)).x0_var) == pytest.approx(exact, rel=0.1)
    beyond = fine(z, at(1e-5)).x0_var / schedule.marginal(1e-5).sigma ** 2
    assert float(beyond) == pytest.approx(float(fine.fraction[0]), rel=1e-9)
    rows = fine(torch.zeros(3, 1, dtype=F64), at([0.1, 0.5, 0.9])).x0_var
    assert rows.shape == (3, 1)
    for i, t in enumerate((0.1, 0.5, 0.9)):
        assert float(rows[i]) == pytest.approx(float(fine(z, at(t)).x0_var), rel=1e-12)


def test_a_single_level_is_enough_to_run():
    measured = gaussian(DiscreteSchedule.linear(20), 500, levels=1)
    assert bool(measured(torch.zeros(2, 1, dtype=F64), at(0.5)).x0_var.isfinite().all())


def test_the_prediction_is_otherwise_that_of_the_denoiser():
    measured = gaussian(DiscreteSchedule.linear(20), 500)
    z, t = torch.randn(4, 1, dtype=F64), at(0.5)
    assert torch.equal(measured(z, t).eps, measured.denoiser(z, t).eps)
    single = measured(z.float(), t)
    assert single.x0_var.dtype == torch.float32
    again = gaussian(DiscreteSchedule.linear(20), 500)
    assert torch.equal(measured.fraction, again.fraction)


def test_the_table_is_saved_with_the_module():
    measured = gaussian(DiscreteSchedule.linear(20), 500)
    state = measured.state_dict()
    assert set(state) == {"log_snr", "fraction"}
    other = gaussian(DiscreteSchedule.linear(20), 500, noise=KeyedNoise(9))
    assert not torch.equal(other.fraction, measured.fraction)
    other.load_state_dict(state)
    assert torch.equal(other.fraction, measured.fraction)


def test_points_count_their_degrees_of_freedom():
    process = CentredGaussianProcess(DiscreteSchedule.linear(20), variance="optimal")

    class Isotropic:
        def __call__(self, z, t, cond=None):
            marginal = process.schedule.marginal(t)
            total = marginal.scale**2 * V + marginal.var
            return process.prediction(z, t, x0=marginal.scale * V / total * z)

    Isotropic.process = process
    x = math.sqrt(V) * remove_mean(KeyedNoise(0).normal(torch.empty(4000, 4, 3, dtype=F64)))
    measured = AnalyticVariance(Isotropic(), x)
    t = at(0.1)
    found = measured(x[:1], t).x0_var
    assert float(found) == pytest.approx(float(true_var(process.schedule, t)), rel=0.05)


def test_it_works_on_the_device_of_the_data(device):
    oracle = GaussianMixtureOracle.prince(
        GaussianProcess(DiscreteSchedule.linear(20), variance="optimal")
    ).to(device)
    x = oracle.sample(200)[0]
    measured = AnalyticVariance(oracle, x)
    bound = elbo(measured, x)
    assert bound.total.device == x.device
    assert bool(bound.total.isfinite().all())


def test_what_cannot_be_measured_is_refused():
    class Categories:
        process = MultinomialProcess(DiscreteSchedule.linear(20), 3)

    with pytest.raises(ConfigError, match="Gaussian"):
        AnalyticVariance(Categories(), torch.zeros(3, 1))
    schedule = DiscreteSchedule.linear(20).with_zero_terminal_snr()
    process = GaussianProcess(schedule, parameterization="v", variance="optimal")
    with pytest.raises(ConfigError, match="zero terminal SNR"):
        AnalyticVariance(GaussianMixtureOracle.prince(process), torch.zeros(3, 1, dtype=F64))
