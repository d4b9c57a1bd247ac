"""Exact posterior steps: a walk of any number of steps ends in the law of the data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from scidiffusion.adversarial import PosteriorSteps
from scidiffusion.core import (
    DiscreteSchedule,
    GaussianProcess,
    KeyedNoise,
    LinearVP,
    MultinomialProcess,
    VESchedule,
)
from scidiffusion.errors import ConfigError
from scidiffusion.samplers import DDIM, Ancestral, DPMSolverPP, sample
from scidiffusion.testing import GaussianMixtureOracle, assert_same_distribution

F64 = torch.float64
ROWS = 8000


def walk(oracle, sampler, steps, seed=0):
    """Draw (ROWS, d) with an oracle in the denoiser's place."""
    like = torch.empty(ROWS, oracle.dimension, dtype=F64)
    return sample(
        oracle.process, oracle, like, sampler=sampler, steps=steps, noise=KeyedNoise(seed)
    )


@pytest.fixture(scope="module")
def prince():
    return GaussianMixtureOracle.prince(GaussianProcess(LinearVP()))


@pytest.fixture(scope="module")
def floor(prince):
    return max(prince.wasserstein_1(prince.sample(ROWS, KeyedNoise(seed))[0]) for seed in range(5))


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
def test_drawn_clean_data_make_any_number_of_steps_exact(prince, floor, steps):
    drawn = walk(prince, PosteriorSteps(), steps)
    assert_same_distribution(drawn, prince.sample(ROWS, KeyedNoise(7))[0])
    assert prince.wasserstein_1(drawn) < 2 * floor


@pytest.mark.parametrize("sampler", [DDIM(), DPMSolverPP(), Ancestral()])
def test_the_exact_mean_does_not(prince, floor, sampler):
    # That all of them are right in the limit is the samplers' own test.
    assert prince.wasserstein_1(walk(prince, sampler, 4)) > 10 * floor


def test_two_dimensions_and_a_schedule_that_explodes():
    oracle = GaussianMixtureOracle(
        [0.7, 0.3],
        [[-1.0, 2.0], [2.0, 0.0]],
        torch.tensor([[[0.5, 0.4], [0.4, 0.6]], [[0.1, 0.0], [0.0, 0.02]]], dtype=F64),
        GaussianProcess(VESchedule()),
    )
    drawn = walk(oracle, PosteriorSteps(), 3)
    assert_same_distribution(drawn, oracle.sample(ROWS, KeyedNoise(7))[0])


def test_a_step_from_known_clean_data_is_the_posterior():
    """Mean and variance by Bayes' rule for two Gaussians: q(z_s | x) q(z_t | z_s)."""
    process = GaussianProcess(DiscreteSchedule.linear(20))
    t, s = (torch.tensor(value, dtype=F64) for value in (0.5, 0.2))

    class Known:
        def __init__(self):
            self.process = process

        def draw_clean(self, z, t, noise):
            return torch.full_like(z, 0.8)

    grid = torch.stack([t, s, torch.zeros((), dtype=F64)])
    states = []
    sample(
        process, Known(), torch.empty(20_000, 1, dtype=F64), sampler=PosteriorSteps(), grid=grid,
        z=torch.full((20_000, 1), -0.3, dtype=F64),
        callback=lambda index, time, z: states.append(z),
    )  # fmt: skip
    prior, move = process.schedule.marginal(s), process.schedule.transition(t, s)
    precision = 1 / float(prior.var) + float(move.scale) ** 2 / float(move.var)
    mean = (
        float(prior.scale) * 0.8 / float(prior.var) + float(move.scale) * -0.3 / float(move.var)
    ) / precision
    law = stats.norm(mean, precision**-0.5)
    assert stats.kstest(states[1][:, 0].numpy(), law.cdf).pvalue > 1e-3
    # The last step lands on the clean data themselves.
    assert torch.equal(states[2], torch.full_like(states[2], 0.8))


@pytest.mark.parametrize("time", [0.02, 0.3, 0.9])
def test_draws_of_the_oracle_have_its_mean_and_variance(prince, time):
    z, t = torch.tensor([[-1.0], [0.4]], dtype=F64), torch.tensor(time, dtype=F64)
    told = prince(z, t)
    for row, x0, var in zip(z, told.x0, told.x0_var, strict=True):
        drawn = prince.draw_clean(row.expand(ROWS, 1), t, KeyedNoise(3)).numpy()
        assert drawn.mean() == pytest.approx(float(x0), abs=4 * math.sqrt(float(var) / ROWS))
        assert drawn.var() == pytest.approx(float(var), rel=0.15)


def test_the_joint_law_of_clean_and_noisy_is_that_of_the_forward_process(prince):
    x, _ = prince.sample(ROWS, KeyedNoise(1))
    t = torch.rand(ROWS, dtype=F64, generator=torch.Generator().manual_seed(0))
    z = prince.process.q_sample(x, t, KeyedNoise(2)).z
    again = prince.draw_clean(z, t, KeyedNoise(3))
    assert_same_distribution(torch.cat([again, z], 1), torch.cat([x, z], 1))
    assert np.corrcoef(again[:, 0].numpy(), x[:, 0].numpy())[0, 1] < 0.95


def test_only_gaussian_processes_are_walked():
    process = MultinomialProcess(DiscreteSchedule.linear(20), 3)
    with pytest.raises(ConfigError, match="PosteriorSteps is not defined"):
        sample(process, None, torch.zeros(2, dtype=torch.long), sampler=PosteriorSteps(), steps=4)
