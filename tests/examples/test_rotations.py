"""Orientations: the exact law of the angle to a fixed rotation, and what sampling makes of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from scidiffusion.core import KeyedNoise, SO3Process
from scidiffusion.core.rotations import exp_so3, geodesic_distance, uniform_rotation
from scidiffusion.core.so3 import igso3_angle_density
from scidiffusion.errors import ConfigError
from scidiffusion.samplers import Ancestral, sample
from scidiffusion.testing import IGSO3MixtureOracle, assert_same_distribution

F64 = torch.float64


def turn(angle, axis=(0.0, 0.0, 1.0)):
    return exp_so3(angle * torch.tensor(axis, dtype=F64))


def oracle(sigmas=(0.2, 0.35), angles=(0.7, 2.4)):
    centres = torch.stack([turn(angles[0]), turn(angles[1], (0.6, 0.0, 0.8))])
    return IGSO3MixtureOracle([0.7, 0.3], centres, sigmas, SO3Process())


def cdf(mixture, reference, t=0.0):
    nodes = torch.linspace(0, math.pi, 4001, dtype=F64)
    density = mixture.angle_density(nodes, reference, t)
    total = torch.cat([torch.zeros(1, dtype=F64), (density[1:] + density[:-1]).cumsum(0)])
    return lambda a: np.interp(a, nodes, total / total[-1])


@pytest.mark.parametrize("t", [0.0, 0.4, 1.0])
def test_density_of_the_angle_is_a_density(t):
    nodes = torch.linspace(0, math.pi, 2001, dtype=F64)
    density = oracle().angle_density(nodes, torch.eye(3), t)
    assert float(density.min()) > -1e-10
    assert float(torch.trapezoid(density, nodes)) == pytest.approx(1, abs=1e-9)


def test_at_its_own_centre_it_is_the_density_of_the_kernel():
    mixture = IGSO3MixtureOracle([1.0], turn(1.1)[None], [0.3], SO3Process())
    nodes = torch.linspace(0, math.pi, 400, dtype=F64)
    ours = mixture.angle_density(nodes, turn(1.1))
    torch.testing.assert_close(ours, igso3_angle_density(nodes, 0.3), rtol=0, atol=1e-11)


def test_it_is_the_average_of_the_density_over_the_axis():
    mixture, reference = oracle((0.6, 0.9)), turn(0.4, (0.0, 1.0, 0.0))
    cosine, weight = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(80))
    azimuth = 2 * math.pi * torch.arange(80, dtype=F64) / 80
    grid = torch.cartesian_prod(cosine, azimuth)
    sine = (1 - grid[:, 0] ** 2).sqrt()
    axes = torch.stack([sine * grid[:, 1].cos(), sine * grid[:, 1].sin(), grid[:, 0]], -1)
    for a in (0.3, 1.5, 3.0):
        density = mixture.log_prob(reference @ exp_so3(a * axes)).exp()
        mean = (weight.repeat_interleave(80) * density).sum() / 160
        expected = (1 - math.cos(a)) / math.pi * float(mean)
        ours = mixture.angle_density(torch.tensor([a]), reference)
        assert float(ours) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("t", [0.0, 0.5])
def test_noised_draws_follow_it(t):
    mixture, reference = oracle(), turn(0.7)
    x = mixture.sample(4000, KeyedNoise(1))
    z = mixture.process.q_sample(x, torch.tensor(t, dtype=F64), KeyedNoise(2)).z if t else x
    assert_same_distribution(geodesic_distance(reference, z), cdf(mixture, reference, t))
    with pytest.raises(AssertionError):
        assert_same_distribution(geodesic_distance(reference, z), cdf(mixture, reference, t + 0.3))


def test_sampling_with_the_exact_score_ends_in_it():
    mixture = oracle()
    drawn = sample(
        mixture.process,
        mixture,
        torch.empty(1500, 3, 3, dtype=F64),
        sampler=Ancestral(),
        steps=100,
        spacing="log_snr",
        noise=KeyedNoise(3),
    )
    for reference in (turn(0.7), turn(3.0, (1.0, 0.0, 0.0))):
        angle = geodesic_distance(reference, drawn)
        assert_same_distribution(angle, cdf(mixture, reference))
    uniform = uniform_rotation(drawn, KeyedNoise(4))
    with pytest.raises(AssertionError):
        assert_same_distribution(geodesic_distance(turn(0.7), uniform), cdf(mixture, turn(0.7)))


def test_states_of_several_rotations_have_no_one_angle():
    pair = IGSO3MixtureOracle([1.0], turn(1.0).expand(1, 2, 3, 3), [0.3], SO3Process())
    with pytest.raises(ConfigError, match="one rotation"):
        pair.angle_density(torch.tensor([1.0]), torch.eye(3))
