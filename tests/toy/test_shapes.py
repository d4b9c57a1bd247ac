"""Clouds of solids, distances between clouds, and the network of moments."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from scidiffusion.core import (
    CentredGaussianProcess,
    KeyedNoise,
    LinearVP,
    NetworkDenoiser,
)
from scidiffusion.core.rotations import uniform_rotation
from scidiffusion.errors import ConfigError, DataError
from scidiffusion.samplers import DDIM, Ancestral, sample
from scidiffusion.testing import assert_equivariant
from scidiffusion.toy import shapes
from scidiffusion.toy.shapes import (
    MomentNetwork,
    chamfer_distances,
    coverage,
    minimum_matching_distance,
    principal_pose,
    solid_clouds,
)

F64 = torch.float64


def of_kind(name, points=2000, n=40):
    clouds = solid_clouds(n, points)
    return principal_pose(clouds.points[clouds.kind == shapes.KINDS.index(name)])


def test_spheres_have_one_radius_and_uniform_directions():
    clouds = of_kind("sphere")
    radius = clouds.norm(dim=-1)
    # The centre of mass of 2000 points is off by up to a few hundredths.
    assert float(radius.std(1).max()) < 0.04
    assert float(radius.mean(1).min()) > 1.17
    assert float(radius.mean(1).max()) < 1.63
    height = clouds[0, :, 0] / radius[0]
    # Archimedes: a coordinate of a uniform direction is uniform.
    assert stats.kstest(height.numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3


def test_points_of_a_torus_lie_on_it_and_have_its_area():
    like, ring, tube = torch.empty(1, 10_000, dtype=F64), 1.5, 0.5
    points = shapes._torus(
        torch.full((1, 1), ring, dtype=F64),
        torch.full((1, 1), tube, dtype=F64),
        KeyedNoise(1),
        like,
    )[0]
    out = points[:, :2].norm(dim=-1)
    on = (out - ring) ** 2 + points[:, 2] ** 2
    torch.testing.assert_close(on, torch.full_like(on, tube**2), rtol=1e-9, atol=0)
    # By area E cos(angle about the tube) = tube / (2 ring), where by angle it would be 0.
    cosine = (out - ring) / tube
    assert float(cosine.mean()) == pytest.approx(tube / (2 * ring), abs=4 / math.sqrt(20_000))


def test_points_of_a_box_lie_on_its_faces_by_their_areas():
    half = torch.tensor([[1.5, 1.0, 0.4]], dtype=F64)
    points = shapes._box(half, KeyedNoise(2), torch.empty(1, 10_000, dtype=F64))[0]
    at_face = points.abs() >= half - 1e-12
    assert bool((at_face.sum(1) == 1).all())
    assert bool((points.abs() <= half + 1e-12).all())
    area = half.prod() / half[0]
    expected = area / area.sum()
    found = at_face.double().mean(0)
    torch.testing.assert_close(found, expected, rtol=0, atol=4 * 0.5 / 100)


def test_kinds_are_equally_probable_and_clouds_are_centred_and_turned():
    clouds = solid_clouds(3000, 12)
    share = clouds.kind.bincount(minlength=3) / 3000
    assert float((share - 1 / 3).abs().max()) < 4 * math.sqrt(2 / 9 / 3000)
    assert float(clouds.points.mean(1).abs().max()) < 1e-12
    direction = torch.nn.functional.normalize(clouds.points[:, 0], dim=-1)
    assert stats.kstest(direction[:, 2].numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3


def test_chamfer_distance_is_its_definition():
    generator = np.random.default_rng(0)
    first, second = (
        torch.from_numpy(generator.normal(size=(k, n, 3))) for k, n in ((3, 7), (2, 5))
    )
    found = chamfer_distances(first, second)
    assert found.shape == (3, 2)
    for i, a in enumerate(first.numpy()):
        for j, b in enumerate(second.numpy()):
            square = ((a[:, None] - b[None]) ** 2).sum(-1)
            expected = square.min(1).mean() + square.min(0).mean()
            assert float(found[i, j]) == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(chamfer_distances(second, first), found.T)
    itself = chamfer_distances(first, first[:, torch.randperm(7)])
    assert float(itself.diagonal().max()) < 1e-12


def test_coverage_and_matching_distance_of_known_sets():
    distances = torch.tensor([[0.1, 2.0, 3.0], [0.2, 5.0, 4.0], [7.0, 0.5, 0.9]])
    assert coverage(distances) == pytest.approx(2 / 3)
    assert minimum_matching_distance(distances) == pytest.approx((0.1 + 0.5 + 0.9) / 3)
    # A set covers itself; one cloud, however good, covers one.
    clouds = solid_clouds(6, 20).points
    assert coverage(chamfer_distances(clouds, clouds)) == 1
    assert coverage(chamfer_distances(clouds[:1].expand(6, -1, -1), clouds)) == pytest.approx(
        1 / 6
    )


def test_the_principal_pose_is_the_same_however_a_cloud_is_turned():
    points = solid_clouds(20, 40).points
    turn = uniform_rotation(torch.empty(20, 3, 3, dtype=F64), KeyedNoise(8))
    here, there = principal_pose(points), principal_pose(points @ turn.mT)
    torch.testing.assert_close(here.abs(), there.abs())
    moments = here.mT @ here / 40
    off = moments - torch.diag_embed(moments.diagonal(dim1=1, dim2=2))
    assert float(off.abs().max()) < 1e-12
    assert bool((moments.diagonal(dim1=1, dim2=2).diff(dim=1) <= 0).all())


def network(std=0.4):
    torch.manual_seed(0)
    net = MomentNetwork(width=16).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return net


def test_the_network_commutes_with_rotations_reflections_and_permutations():
    net, points = network(), solid_clouds(4, 20).points
    time = torch.full((4,), 0.3, dtype=F64)
    turn = uniform_rotation(torch.empty(1, 3, 3, dtype=F64), KeyedNoise(8))[0]
    order = torch.randperm(20)
    for act in (lambda x: x @ turn.mT, lambda x: -x, lambda x: x[:, order]):
        assert_equivariant(lambda x: net(x, time), act, points, atol=1e-9)
    # It is no scaling: points of one cloud are treated according to where they are.
    ratio = (net(points, time) / points)[0, :, 0]
    assert float(ratio.std().detach()) > 1e-3


def test_samples_are_centred_and_turn_with_their_noise():
    process = CentredGaussianProcess(LinearVP())
    denoiser = NetworkDenoiser(network(0.05), process)
    like = torch.empty(3, 10, 3, dtype=F64)
    start = process.prior(like, KeyedNoise(1))
    turn = uniform_rotation(torch.empty(1, 3, 3, dtype=F64), KeyedNoise(8))[0]
    torch.testing.assert_close(start.mean(1), torch.zeros(3, 3, dtype=F64))

    def walk(z):
        return sample(process, denoiser, like, sampler=DDIM(), steps=4, z=z)

    here = walk(start)
    torch.testing.assert_close(walk(start @ turn.mT), here @ turn.mT, rtol=1e-6, atol=1e-6)
    drawn = sample(process, denoiser, like, sampler=Ancestral(), steps=4)
    assert float((drawn.mean(1) / drawn.abs().amax()).abs().max()) < 1e-9


def test_bad_input():
    with pytest.raises(ConfigError, match="two or more points"):
        solid_clouds(3, 1)
    with pytest.raises(DataError, match="clouds must be"):
        chamfer_distances(torch.zeros(2, 3, 3), torch.zeros(3, 3))
    with pytest.raises(DataError, match="empty set"):
        chamfer_distances(torch.zeros(0, 3, 3), torch.zeros(1, 3, 3))
