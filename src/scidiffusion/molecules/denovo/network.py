r"""An E(3)-equivariant network on all pairs of the atoms of a molecule.

Every atom carries scalars h and vectors v, every ordered pair scalars e, which begin as what the
noisy types, the noisy distances, the noise level and the conditions say. A layer does

    u_ij = silu(e_ij + A h_i + B h_j + C d_ij),     d_ij = (v_i . r_ij, v_j . r_ij) a channel,
    t_ij = sum_k a_ik * b_kj,                       (a, b)_ij linear in u_ij,
    e_ij <- e_ij + W u_ij + T t_ij,
    h_i  <- h_i + O sum_j w_ij u_ij + M mean_k h_k,
    v_i  <- v_i + sum_j w_ij (f_ij r_ij + g_ij v_j),        (f, g)_ij linear in u_ij,

and then mixes h and v of each atom through lengths and scalar products. r_ij is the unit vector
from j to i, w_ij a weight that falls off with distance; t_ij lets a pair see every triangle that
it is a side of, which is where angles and rings are told apart.

The answer for the positions is sum_c v_ic + sum_j w_ij p_ij (x_i - x_j). Turning or mirroring the
input turns or mirrors it, renumbering renumbers it, translating does not change it: mirror images
are equally likely, as in the data, whose molecules are written down in either hand by chance.

References:
    Satorras et al. 2021 (EGNN); Schütt et al. 2021 (PaiNN: scalars and vectors); Jumper et al.
    2021, algorithm 11 (triangles); Hoogeboom et al. 2022 (EDM).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from scidiffusion.molecules.features import LEVEL_FEATURES, noise_features

REACH = 3.0
"""Length, in Angstrom, over which the weight of a pair falls off."""
ORDERS = 4
"""Classes of a bond: none, single, double, triple."""


@dataclass(frozen=True)
class NetworkSize:
    """Sizes of the network.

    Args:
        width: Scalars of an atom.
        pair_width: Scalars of a pair.
        vectors: Vectors of an atom.
        triangles: Products of a pair summed over its triangles; 0 leaves them out.
        layers: Layers.
        radial: Functions of the distance.
    """

    width: int = 192
    pair_width: int = 64
    vectors: int = 16
    triangles: int = 16
    layers: int = 6
    radial: int = 32


@dataclass(frozen=True)
class Geometry:
    """What all layers share of the noisy positions.

    Args:
        unit: (B, 3, N, N) unit vectors from j to i.
        weight: (B, N, N) weights of the pairs in sums over j; 0 for padding and i = j.
        share: (B, N, 1) one over the number of atoms; 0 for padding.
    """

    unit: Tensor
    weight: Tensor
    share: Tensor


class PairNetwork(nn.Module):
    """Displacements, type logits and bond logits from noisy atoms; see the module.

    Args:
        types: Number of types K.
        labels: Number of labels L.
        size: Sizes.
    """

    def __init__(self, types: int, labels: int, size: NetworkSize) -> None:
        super().__init__()
        self.size, self.types_count, self.labels = size, types, labels
        width, pair = size.width, size.pair_width
        told = LEVEL_FEATURES + 3 * types + 2 * labels + 1
        self.atoms = nn.Linear(types, width)
        self.level = nn.Sequential(nn.Linear(told, width), nn.SiLU())
        self.level_atoms = nn.Linear(width, width)
        self.level_pairs = nn.Linear(width, pair)
        self.ends = nn.Linear(types, 2 * pair, bias=False)
        self.radial = nn.Linear(size.radial + 2, pair)
        self.layers = nn.ModuleList(Layer(size) for _ in range(size.layers))
        self.push = nn.Linear(pair, 1)
        self.pull = nn.Linear(size.vectors, 1, bias=False)
        self.types = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, types))
        self.bonds = nn.Linear(pair, ORDERS)
        # Displacements begin at nothing.
        nn.init.zeros_(self.push.weight)
        nn.init.zeros_(self.push.bias)
        nn.init.normal_(self.pull.weight, std=1e-3)

    def forward(
        self, x: Tensor, types: Tensor, sigma: Tensor, conditions: Tensor, mask: Tensor
    ) -> dict[str, Tensor]:
        """Return what the denoiser makes predictions of.

        Args:
            x: (B, N, 3) noisy positions in Angstrom, padding 0.
            types: (B, N, K) what the noisy types alone say of each, probabilities.
            sigma: (B,) noise level in Angstrom.
            conditions: (B, 3 K + 2 L + 1) what is known of each molecule as a whole.
            mask: (B, N) which atoms are real.

        Returns:
            "positions", displacements (B, N, 3) of the order of 1; "types", logits (B, N, K) of
            what is known from everything but the type's own noisy value; "bonds", logits of the
            bond orders (B, N, N, 4).
        """
        difference = x[:, :, None] - x[:, None]
        distance = difference.square().sum(-1).add(1e-8).sqrt()
        geometry = _geometry(difference, distance, sigma, mask)
        told = [noise_features(sigma), conditions]
        level = self.level(torch.cat(told, -1))
        h = self.atoms(types) + self.level_atoms(level)[:, None]
        one, other = self.ends(types).chunk(2, -1)
        e = self.radial(self._distances(distance, sigma)) + self.level_pairs(level)[:, None, None]
        e = e + one[:, :, None] + other[:, None]
        v = h.new_zeros(*h.shape[:2], 3, self.size.vectors)
        for layer in self.layers:
            h, v, e = layer(h, v, e, geometry)
        push = self.push(e)[..., 0] * geometry.weight
        spread = (REACH**2 + sigma.square()).sqrt()[:, None, None]
        pushed = x * push.sum(2, keepdim=True) - push @ x
        moved = pushed / spread + self.pull(v)[..., 0]
        bonds = self.bonds(e)
        return {
            "positions": moved * mask[..., None],
            "types": self.types(h),
            "bonds": bonds + bonds.transpose(1, 2),
        }

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile the layers, once for all sizes of molecules: the rest is little of the work."""
        for layer in self.layers:
            layer.compile(*args, **{"dynamic": True, **options})

    def release(self) -> None:
        """Undo `compile`."""
        for layer in self.layers:
            layer._compiled_call_impl = None

    def _distances(self, distance: Tensor, sigma: Tensor) -> Tensor:
        """Functions of the distance: bumps evenly spaced in log(.3 + d), dense where bonds are."""
        low, high = math.log(0.3), math.log(60.0)
        place = torch.log(0.3 + distance)
        centres = torch.linspace(low, high, self.size.radial, device=distance.device)
        bumps = torch.exp(-0.5 * ((place[..., None] - centres) / (centres[1] - centres[0])) ** 2)
        scaled = distance / (REACH**2 + sigma**2).sqrt()[:, None, None]
        return torch.cat([bumps, place[..., None], scaled[..., None]], -1)


def _geometry(difference: Tensor, distance: Tensor, sigma: Tensor, mask: Tensor) -> Geometry:
    reach = (REACH**2 + sigma**2)[:, None, None]
    real = mask[:, :, None] & mask[:, None]
    apart = ~torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    weight = torch.exp(-0.5 * distance.square() / reach) * (real & apart)
    # Sums over a crowd are kept of the size of sums over a neighbourhood.
    weight = weight / weight.sum(-1, keepdim=True).add(1.0).sqrt()
    unit = (difference / distance[..., None]).permute(0, 3, 1, 2).contiguous()
    share = mask / mask.sum(1, keepdim=True)
    return Geometry(unit, weight, share[..., None].to(distance.dtype))


class Layer(nn.Module):
    """One round of messages; see the module."""

    def __init__(self, size: NetworkSize) -> None:
        super().__init__()
        width, pair, vectors, triangles = size.width, size.pair_width, size.vectors, size.triangles
        self.norm = nn.LayerNorm(width)
        self.ends = nn.Linear(width, 2 * pair, bias=False)
        self.angles = nn.Linear(vectors, 2 * pair, bias=False)
        self.pair = nn.Linear(pair, pair)
        self.sides = nn.Linear(pair, 2 * triangles) if triangles else None
        self.close = nn.Linear(triangles, pair, bias=False) if triangles else None
        self.gather = nn.Linear(pair, width)
        # What the molecule as a whole lacks, or has too much of, every atom must know.
        self.whole = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.whole.weight)
        self.weights = nn.Linear(pair, 2 * vectors)
        self.mix_vectors = nn.Linear(vectors, 2 * vectors, bias=False)
        self.norm_mixed = nn.LayerNorm(width)
        self.mix = nn.Sequential(
            nn.Linear(width + 2 * vectors, 2 * width),
            nn.SiLU(),
            nn.Linear(2 * width, width + vectors),
        )
        self.cross = nn.Linear(vectors, vectors, bias=False)

    def forward(
        self, h: Tensor, v: Tensor, e: Tensor, geometry: Geometry
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return h (B, N, width), v (B, N, 3, vectors) and e (B, N, N, pair_width), updated."""
        rows, count, pair = e.shape[0], e.shape[1], e.shape[-1]
        normed = self.norm(h)
        one, other = self.ends(normed).chunk(2, -1)
        u = e + one[:, :, None] + other[:, None] + self._seen(v, geometry.unit)
        u = functional.silu(u)
        e = e + self.pair(u)
        if self.sides is not None and self.close is not None:
            left, right = (self.sides(u) * geometry.weight[..., None]).chunk(2, -1)
            third = left.permute(0, 3, 1, 2) @ right.permute(0, 3, 1, 2)
            e = e + self.close(third.permute(0, 2, 3, 1))
        # sum_j w_ij u_ij as a product of matrices, one an atom.
        flat = geometry.weight.reshape(rows * count, 1, count)
        summed = (flat @ u.reshape(rows * count, count, pair)).reshape(rows, count, pair)
        h = h + self.gather(summed) + self.whole((normed * geometry.share).sum(1, keepdim=True))
        direct, carried = (self.weights(u) * geometry.weight[..., None]).chunk(2, -1)
        v = v + torch.einsum("bdij,bijc->bidc", geometry.unit, direct)
        v = v + torch.einsum("bijc,bjdc->bidc", carried, v) / 4
        v = v / (1.0 + v.square().sum(2).mean(-1)).sqrt()[:, :, None, None]
        first, second = self.mix_vectors(v).chunk(2, -1)
        length = first.square().sum(2).add(1e-6).sqrt()
        angle = (first * second).sum(2)
        update, gate = self.mix(torch.cat([self.norm_mixed(h), length, angle], -1)).split(
            [h.shape[-1], v.shape[-1]], -1
        )
        v = v + self.cross(first * gate[:, :, None])
        return h + update, v, e

    def _seen(self, v: Tensor, unit: Tensor) -> Tensor:
        """(B, N, N, pair_width) how the vectors of both ends lie to the line between them."""
        ours, theirs = self.angles(v).chunk(2, -1)
        return torch.einsum("bdij,bidc->bijc", unit, ours) + torch.einsum(
            "bdij,bjdc->bijc", unit, theirs
        )
