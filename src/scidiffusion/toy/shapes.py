r"""Point clouds of solids, how clouds are compared, and an equivariant network on clouds.

Two clouds are as far apart as their points are from the nearest ones of the other,

    chamfer(a, b) = mean_i min_j |a_i - b_j|^2 + mean_j min_i |a_i - b_j|^2,

and a set of clouds is judged by two figures beside a reference set: *coverage*, the share of the
references that are the nearest one of some cloud, and the *minimum matching distance*, the mean
distance of the references to their nearest cloud. Neither has an absolute scale: compare with what
a fresh set of true clouds gets.

References:
    Achlioptas et al. 2018, "Learning representations and generative models for 3D point clouds",
    section 2; Villar et al. 2021, "Scalars are universal" (the network).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from scidiffusion.core import KeyedNoise, remove_mean
from scidiffusion.core.rotations import uniform_rotation
from scidiffusion.errors import ConfigError, DataError
from scidiffusion.estimator import check_seed
from scidiffusion.nn import ResidualMLP

F64 = torch.float64
KINDS = ("sphere", "torus", "box")


class SolidClouds(NamedTuple):
    """Points on the surfaces of solids."""

    points: Tensor
    """(B, N, 3), each cloud centred."""
    kind: Tensor
    """(B,) index into `KINDS`."""


def solid_clouds(n: int, points: int = 64, *, random_state: int | None = 0) -> SolidClouds:
    """Draw points uniformly from the surfaces of solids of random kind, size and orientation.

    Spheres have radii in [1.2, 1.6], tori (ring radius, tube radius) in [1.3, 1.6] x [.3, .5],
    boxes edges in [2.4, 3.2] x [1.6, 2.2] x [.6, 1.2]; the three kinds are equally probable.

    Args:
        n: Number of clouds.
        points: Points of a cloud, >= 2.
        random_state: Seed.

    Returns:
        Clouds, float64.

    Raises:
        ConfigError: if `points` is below 2.
    """
    if points < 2:
        raise ConfigError(f"a cloud needs two or more points, got {points}")
    noise = KeyedNoise(check_seed(random_state))
    like = torch.empty(n, points, dtype=F64)
    kind = (noise.child("kind").uniform(like[:, 0]) * len(KINDS)).long()
    size = noise.child("size").uniform(like.new_empty(n, 3))
    directions = noise.child("sphere").normal(like.new_empty(n, points, 3))
    sphere = (1.2 + 0.4 * size[:, :1, None]) * nn.functional.normalize(directions, dim=-1)
    torus = _torus(1.3 + 0.3 * size[:, :1], 0.3 + 0.2 * size[:, 1:2], noise.child("torus"), like)
    low, span = like.new_tensor([2.4, 1.6, 0.6]), like.new_tensor([0.8, 0.6, 0.6])
    box = _box(0.5 * (low + span * size), noise.child("box"), like)
    upright = torch.stack([sphere, torus, box], 1)[torch.arange(n), kind]
    turn = uniform_rotation(like.new_empty(n, 3, 3), noise.child("turn"))
    return SolidClouds(remove_mean(upright @ turn.mT), kind)


def _torus(ring: Tensor, tube: Tensor, noise: KeyedNoise, like: Tensor) -> Tensor:
    """Uniform by area: the angle about the tube has a density in proportion to ring + tube cos."""
    around = 2 * math.pi * noise.child("around").uniform(like)
    target = 2 * math.pi * noise.child("about").uniform(like)
    # Kepler's equation a + e sin a = target, by its contraction.
    about = target
    for _ in range(60):
        about = target - tube / ring * torch.sin(about)
    out = ring + tube * torch.cos(about)
    return torch.stack(
        [out * torch.cos(around), out * torch.sin(around), tube * torch.sin(about)], -1
    )


def _box(half: Tensor, noise: KeyedNoise, like: Tensor) -> Tensor:
    """Uniform by area: a face is drawn by its area, then a point of it."""
    area = half.prod(-1, keepdim=True) / half
    share = noise.child("face").uniform(like)
    cumulative = (area.cumsum(-1) / area.sum(-1, keepdim=True))[:, None, :2]
    face = (share[..., None] > cumulative).sum(-1)
    place = 2 * noise.child("place").uniform(like.new_empty(*like.shape, 3)) - 1
    on_face = nn.functional.one_hot(face, 3).bool()
    return torch.where(on_face, torch.where(place < 0, -1.0, 1.0), place) * half[:, None]


def principal_pose(points: Tensor) -> Tensor:
    """Turn centred clouds so that their second moments are diagonal, the largest first.

    Which way each axis points remains open, which does not matter for bodies with the mirror
    planes of a sphere, a torus or a box.

    Args:
        points: (B, N, 3).
    """
    moments = points.mT @ points / points.shape[1]
    axes = torch.linalg.eigh(moments).eigenvectors.flip(-1)
    return points @ axes


def chamfer_distances(first: Tensor, second: Tensor) -> Tensor:
    """Chamfer distance of every cloud of one set to every cloud of another; see the module.

    Args:
        first: (A, N, 3).
        second: (B, M, 3).

    Returns:
        (A, B), in the square of the units of the points; symmetric in the sets.

    Raises:
        DataError: if the shapes do not fit or a set is empty.
    """
    if first.ndim != 3 or second.ndim != 3 or first.shape[2] != second.shape[2]:
        raise DataError(
            f"clouds must be (A, N, d) and (B, M, d), got {tuple(first.shape)} and "
            f"{tuple(second.shape)}"
        )
    if not first.numel() or not second.numel():
        raise DataError("there is no distance to an empty set of clouds")
    rows = []
    for one in first:
        square = torch.cdist(one.expand(len(second), -1, -1), second) ** 2
        rows.append(square.amin(2).mean(1) + square.amin(1).mean(1))
    return torch.stack(rows)


def coverage(distances: Tensor) -> float:
    """Share of the references that are the nearest reference of at least one cloud.

    Args:
        distances: (clouds, references), as of `chamfer_distances`.

    Returns:
        In (0, 1]; few distinct clouds cover little, however good each of them is.
    """
    return len(distances.argmin(1).unique()) / distances.shape[1]


def minimum_matching_distance(distances: Tensor) -> float:
    """Mean distance of the references to their nearest cloud.

    Args:
        distances: (clouds, references), as of `chamfer_distances`.
    """
    return float(distances.amin(0).mean())


class MomentNetwork(nn.Module):
    """An equivariant network on centred clouds whose cost is linear in the number of points.

    With the second moments M of a cloud, divided by their mean eigenvalue, the vectors x, M x and
    M^2 x turn with it, and the numbers x M^k x and tr M^k do not. A perceptron of these numbers
    makes features of every point, their mean over the points is a feature of the cloud, and a
    second perceptron answers with the three coefficients of x, M x and M^2 x. The result commutes
    with rotations, reflections and permutations; where the moments are distinct, every function of
    a point that does so and keeps the mirror planes of M can be written so (Villar et al. 2021).

    Args:
        width: Width of the perceptrons.
        blocks: Residual blocks of each.
        pooled: Features of the cloud.
    """

    def __init__(self, width: int = 64, blocks: int = 1, pooled: int = 16) -> None:
        super().__init__()
        self.first = ResidualMLP(8, pooled, width=width, blocks=blocks, zero_init_output=False)
        self.second = ResidualMLP(8 + pooled, 3, width=width, blocks=blocks)

    def forward(self, z: Tensor, time: Tensor, cond: None = None) -> Tensor:
        """Answer for clouds (B, N, 3) at times (B,), with (B, N, 3)."""
        rows, points = z.shape[:2]
        moments = z.mT @ z / points
        size = moments.diagonal(dim1=1, dim2=2).mean(1)[:, None, None].clamp(min=1e-12)
        moments = moments / size
        once = z @ moments
        twice = once @ moments
        pairs = ((z, z), (z, once), (once, once), (once, twice), (twice, twice))
        local = torch.stack([(one * other).sum(-1) for one, other in pairs], -1)
        square = moments @ moments
        traces = torch.stack(
            [size[:, 0, 0], *((m * moments).sum((1, 2)) for m in (moments, square))]
        )
        seen = torch.cat([local, traces.T[:, None].expand(-1, points, -1)], -1)
        seen = torch.log(seen + 0.1)
        per_point = time.repeat_interleave(points)
        features = self.first(seen.flatten(0, 1), per_point).reshape(rows, points, -1)
        cloud = features.mean(1, keepdim=True).expand(-1, points, -1)
        answer = self.second(torch.cat([seen, cloud], -1).flatten(0, 1), per_point)
        one, two, three = answer.reshape(rows, points, 3, 1).unbind(2)
        return one * z + two * once + three * twice
