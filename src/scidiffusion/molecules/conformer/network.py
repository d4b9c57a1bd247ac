r"""An SE(3)-equivariant network on all pairs of a molecule's atoms.

Every atom carries scalars h and vectors v, every pair scalars e, which begin as features of the
graph, distances and the noise level. A layer does

    u_ij = silu(e_ij + A h_i + B h_j),          e_ij <- e_ij + W u_ij,
    h_i  <- h_i + O sum_j w_ij u_ij,
    v_i  <- v_i + sum_j w_ij (a_ij r_ij + b_ij v_j),        (a, b)_ij linear in u_ij,

and then mixes h and v of each atom, with cross products of vectors: these are what lets mirror
images differ. r_ij is the unit vector from j to i, w_ij a weight that falls off with distance, so
that what was learned on small molecules holds in large ones. The answer is a displacement,
sum_c v_ic + sum_j w_ij g_ij (z_i - z_j): rotations of the input rotate it, renumbering renumbers
it, translations do not change it.

The pairs are dense: all conformers of a molecule have the same size, and a product of matrices is
faster on a CPU than gathering along edges.

References:
    Schütt et al. 2021 (PaiNN: scalars and vectors); Karras et al. 2022 (preconditioning);
    Satorras et al. 2021 (EGNN: the pairwise displacements).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from scidiffusion.core.centred import remove_mean
from scidiffusion.molecules.conformer.graph import (
    ATOM_FEATURES,
    PAIR_FEATURES,
    MolGraph,
    neighbour_vectors,
    signed_volume,
)
from scidiffusion.molecules.features import LEVEL_FEATURES, noise_features

REACH = 3.0
"""Length, in Angstrom, over which the weight of a pair falls off."""


@dataclass(frozen=True)
class NetworkSize:
    """Sizes of the network.

    Args:
        width: Scalars of an atom.
        pair_width: Scalars of a pair.
        vectors: Vectors of an atom.
        layers: Layers.
        radial: Functions of the distance.
    """

    width: int = 128
    pair_width: int = 64
    vectors: int = 16
    layers: int = 6
    radial: int = 32


@dataclass(frozen=True)
class Messages:
    """What the layers leave.

    Args:
        atoms: (B, N, width) scalars of atoms.
        vectors: (B, N, 3, vectors) vectors of atoms.
        pairs: (B, N, N, pair_width) scalars of pairs.
        difference: (B, N, N, 3) positions z_i - z_j in Angstrom.
        weight: (B, N, N) weight of each pair in sums.
    """

    atoms: Tensor
    vectors: Tensor
    pairs: Tensor
    difference: Tensor
    weight: Tensor


class Trunk(nn.Module):
    """Features and layers; what is read off them is up to the network, see `Messages`.

    Args:
        size: Sizes.
    """

    def __init__(self, size: NetworkSize) -> None:
        super().__init__()
        self.size = size
        width, pair = size.width, size.pair_width
        self.atoms = nn.Linear(ATOM_FEATURES + 1, width)
        self.noise = nn.Sequential(
            nn.Linear(LEVEL_FEATURES, width), nn.SiLU(), nn.Linear(width, width + pair)
        )
        self.pairs = nn.Linear(PAIR_FEATURES, pair)
        self.radial = nn.Linear(size.radial + 2, pair, bias=False)
        self.handed = nn.Linear(1, size.vectors, bias=False)
        self.layers = nn.ModuleList(Layer(size) for _ in range(size.layers))

    def messages(self, z: Tensor, level: Tensor, reach: Tensor, graph: MolGraph) -> Messages:
        """Run the layers.

        Args:
            z: (B, N, 3) positions in Angstrom, padding 0.
            level: (B,) noise level.
            reach: (B,) length, in Angstrom, over which atoms see each other.
            graph: Of B molecules, or one that all share.
        """
        difference = z[:, :, None] - z[:, None]
        distance = difference.square().sum(-1).add(1e-8).sqrt()
        unit = difference / distance[..., None]
        weight = self._weight(distance, reach, graph)
        noise = self.noise(noise_features(level)).split(
            [self.size.width, self.size.pair_width], -1
        )
        handed = signed_volume(z, graph)
        atoms = graph.atoms.expand(z.shape[0], -1, -1)
        h = self.atoms(torch.cat([atoms, handed[..., None]], -1)) + noise[0][:, None]
        e = self.pairs(graph.pairs) + self.radial(self._distances(distance, graph))
        e = e + noise[1][:, None, None]
        v = self._normals(z, graph)[..., None] * self.handed.weight[:, 0]
        for layer in self.layers:
            h, v, e = layer(h, v, e, unit, weight)
        return Messages(h, v, e, difference, weight)

    def _distances(self, distance: Tensor, graph: MolGraph) -> Tensor:
        """Functions of the distance: smooth bumps, and the stretch of a bond.

        Bumps are evenly spaced in log(1 + d), close together where bonds and angles are.
        """
        place = torch.log1p(distance)
        centres = torch.linspace(0.0, math.log1p(20.0), self.size.radial, device=distance.device)
        step = centres[1] - centres[0]
        bumps = torch.exp(-0.5 * ((place[..., None] - centres) / step) ** 2)
        radii = graph.pairs[..., -3]
        stretch = torch.where(radii > 0, distance - radii, 0.0).clamp(-1.0, 1.0)
        return torch.cat([bumps, place[..., None], 4.0 * stretch[..., None]], -1)

    def _weight(self, distance: Tensor, reach: Tensor, graph: MolGraph) -> Tensor:
        """Weight of each pair in sums, (B, N, N): near in space, or near in the graph."""
        near = torch.exp(-0.5 * (distance / reach[:, None, None]).square())
        near = near + torch.exp(-0.5 * graph.hops)
        real = graph.mask[:, :, None] & graph.mask[:, None]
        apart = ~torch.eye(graph.size, dtype=torch.bool, device=distance.device)
        near = near * (real & apart)
        # Sums over a crowd are kept of the size of sums over a neighbourhood.
        return near / near.sum(-1, keepdim=True).add(1.0).sqrt()

    def _normals(self, z: Tensor, graph: MolGraph) -> Tensor:
        """(B, N, 3) the direction that makes each stereocentre more right-handed; else 0."""
        legs = neighbour_vectors(z, graph)
        first, second, third = legs.unbind(2)
        normal = torch.linalg.cross(first, second) + torch.linalg.cross(second, third)
        normal = normal + torch.linalg.cross(third, first)
        return torch.where(graph.chiral[..., None], normal, 0.0)


class ConformerNetwork(Trunk):
    """Displacements of atoms from noisy positions; see the module.

    Args:
        size: Sizes.
    """

    def __init__(self, size: NetworkSize) -> None:
        super().__init__(size)
        self.push = nn.Linear(size.pair_width, 1)
        self.pull = nn.Linear(size.vectors, 1, bias=False)
        # Displacements begin at nothing.
        nn.init.zeros_(self.push.weight)
        nn.init.zeros_(self.push.bias)
        nn.init.normal_(self.pull.weight, std=1e-3)

    def forward(self, z: Tensor, sigma: Tensor, graph: MolGraph) -> Tensor:
        """Return displacements.

        Args:
            z: (B, N, 3) positions in Angstrom, padding 0.
            sigma: (B,) noise level in Angstrom.
            graph: Of B molecules, or one that all share.

        Returns:
            (B, N, 3) with zero mean over the atoms, of the order of 1.
        """
        reach = (REACH**2 + sigma.square()).sqrt()
        found = self.messages(z, sigma, reach, graph)
        pushes = self.push(found.pairs)[..., 0] * found.weight
        moved = torch.einsum("bij,bijd->bid", pushes, found.difference) / reach[:, None, None]
        moved = moved + self.pull(found.vectors)[..., 0]
        return remove_mean(moved, graph.mask.expand(z.shape[0], -1))


class Layer(nn.Module):
    """One round of messages; see the module."""

    def __init__(self, size: NetworkSize) -> None:
        super().__init__()
        width, pair, vectors = size.width, size.pair_width, size.vectors
        self.norm = nn.LayerNorm(width)
        self.ends = nn.Linear(width, 2 * pair, bias=False)
        self.pair = nn.Linear(pair, pair)
        self.gather = nn.Linear(pair, width)
        self.weights = nn.Linear(pair, 2 * vectors)
        self.mix_vectors = nn.Linear(vectors, 2 * vectors, bias=False)
        self.norm_mixed = nn.LayerNorm(width)
        self.mix = nn.Sequential(
            nn.Linear(width + 2 * vectors, 2 * width),
            nn.SiLU(),
            nn.Linear(2 * width, width + 2 * vectors),
        )
        self.cross = nn.Linear(2 * vectors, vectors, bias=False)

    def forward(
        self, h: Tensor, v: Tensor, e: Tensor, unit: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return h (B, N, width), v (B, N, 3, vectors) and e (B, N, N, pair_width), updated."""
        one, other = self.ends(self.norm(h)).chunk(2, -1)
        u = functional.silu(e + one[:, :, None] + other[:, None])
        e = e + self.pair(u)
        rows, count, channels = u.shape[0], u.shape[1], u.shape[-1]
        # sum_j w_ij u_ij as a product of matrices, one an atom.
        flat = weight.reshape(rows * count, 1, count)
        h = h + self.gather(
            (flat @ u.reshape(rows * count, count, channels)).reshape(rows, count, channels)
        )
        direct, carried = (self.weights(u) * weight[..., None]).chunk(2, -1)
        v = v + torch.einsum("bijd,bijc->bidc", unit, direct)
        v = v + torch.einsum("bijc,bjdc->bidc", carried, v) / 4
        v = v / (1.0 + v.square().sum(2).mean(-1)).sqrt()[:, :, None, None]
        left, right = self.mix_vectors(v).chunk(2, -1)
        length = left.square().sum(2).add(1e-6).sqrt()
        angle = (left * right).sum(2)
        update, gate = self.mix(torch.cat([self.norm_mixed(h), length, angle], -1)).split(
            [h.shape[-1], 2 * v.shape[-1]], -1
        )
        both = torch.cat([left, torch.linalg.cross(left, right, dim=2)], -1)
        v = v + self.cross(both * gate[:, :, None])
        return h + update, v, e
