r"""An E(3)-equivariant network of tensor products, behind the interface of `ConformerNetwork`.

Atoms carry features h of O(3) irreps up to l = 2. A layer sends along every edge

    m_ij = (h_j (x) Y(r_ij)) weighted by w(d_ij, pair_ij),      h_i <- gate(A h_i + B sum_j m_ij)

with spherical harmonics Y of the direction and a tensor product (x) whose path weights an MLP
makes of invariants (Thomas et al. 2018; Batzner et al. 2022, NequIP). Reflections act as they do
on molecules: whether a stereocentre has the hand that was asked for is a scalar, which mirroring
the positions changes, and mirroring the molecule with them does not.

Edges join atoms up to three bonds or `CUTOFF` apart. The tensor products are those of e3nn (Geiger
and Smidt 2022), which need no compiled extension but are slow on a CPU: `docs/benchmarks.md` says
how slow. `ConformerDiffusion(network="e3nn")` uses it; `pip install "scidiffusion[e3nn]"`.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from scidiffusion import _lazy
from scidiffusion.core.centred import remove_mean
from scidiffusion.molecules.conformer.graph import (
    ATOM_FEATURES,
    PAIR_FEATURES,
    MolGraph,
    signed_volume,
)
from scidiffusion.molecules.features import LEVEL_FEATURES, noise_features

CUTOFF = 5.0
"""Distance, in Angstrom, up to which atoms see each other however far apart in the graph."""
NEAR_HOPS = 3
HARMONICS = "1x0e + 1x1o + 1x2e"


@dataclass(frozen=True)
class TensorSize:
    """Sizes of the network.

    Args:
        scalars: Scalars of an atom, even; a quarter as many pseudoscalars.
        vectors: Vectors of an atom, and as many axial vectors.
        tensors: Tensors (l = 2) of an atom.
        pair_width: Width of the MLP of an edge.
        layers: Layers.
        radial: Functions of the distance.
    """

    scalars: int = 64
    vectors: int = 16
    tensors: int = 8
    pair_width: int = 64
    layers: int = 4
    radial: int = 16


class TensorNetwork(nn.Module):
    """Displacements of atoms from noisy positions; see the module.

    Args:
        size: Sizes.

    Raises:
        MissingExtraError: if e3nn is not installed.
    """

    def __init__(self, size: TensorSize) -> None:
        super().__init__()
        _lazy.require("e3nn", "e3nn")
        from e3nn import o3

        self.size = size
        self.noise = nn.Sequential(
            nn.Linear(LEVEL_FEATURES, size.scalars),
            nn.SiLU(),
            nn.Linear(size.scalars, size.scalars),
        )
        self.atoms = nn.Linear(ATOM_FEATURES + 1, size.scalars)
        self.edges = nn.Sequential(
            nn.Linear(PAIR_FEATURES + size.radial + 2, size.pair_width), nn.SiLU()
        )
        self.harmonics = o3.Irreps(HARMONICS)
        hidden = o3.Irreps(
            f"{size.scalars}x0e + {size.scalars // 4}x0o + {size.vectors}x1o + {size.vectors}x1e"
            f" + {size.tensors}x2e"
        )
        first = o3.Irreps(f"{size.scalars}x0e")
        widths = [first] + [hidden] * size.layers
        self.layers = nn.ModuleList(
            TensorLayer(before, self.harmonics, after, size.pair_width)
            for before, after in itertools.pairwise(widths)
        )
        self.answer = o3.Linear(hidden, "1x1o")
        self.push = nn.Linear(size.pair_width, 1)
        # Displacements begin at next to nothing.
        nn.init.zeros_(self.push.weight)
        nn.init.zeros_(self.push.bias)
        with torch.no_grad():
            self.answer.weight.mul_(1e-2)

    def forward(self, z: Tensor, sigma: Tensor, graph: MolGraph) -> Tensor:
        """Return displacements; see `ConformerNetwork.forward`."""
        # Tensor products lose their symmetry to bfloat16, and gain no speed.
        with torch.autocast(z.device.type, enabled=False):
            return self._displacements(z, sigma, graph)

    def _displacements(self, z: Tensor, sigma: Tensor, graph: MolGraph) -> Tensor:
        from e3nn import o3

        rows, count = z.shape[:2]
        mask = graph.mask.expand(rows, -1)
        row, one, other = self._edges(z, sigma, graph)
        difference = z[row, one] - z[row, other]
        distance = difference.square().sum(-1).add(1e-8).sqrt()
        shape = o3.spherical_harmonics(
            self.harmonics, difference, normalize=True, normalization="component"
        )
        many = graph.pairs.shape[0] > 1
        known = graph.pairs[row if many else torch.zeros_like(row), one, other]
        e = self.edges(torch.cat([known, self._distances(distance, known)], -1))
        handed = signed_volume(z, graph)
        atoms = torch.cat([graph.atoms.expand(rows, -1, -1), handed[..., None]], -1)
        h = self.atoms(atoms) + self.noise(noise_features(sigma))[:, None]
        h = h.flatten(0, 1)
        source, target = row * count + other, row * count + one
        # Sums over neighbours are kept of the size of one.
        degree = torch.zeros(rows * count, device=z.device).to(h)
        degree = degree.index_add(0, target, torch.ones_like(distance)).clamp(min=1.0).rsqrt()
        for layer in self.layers:
            h = layer(h, source, target, shape, e, degree)
        pushes = self.push(e) * difference / (CUTOFF**2 + sigma[row, None] ** 2).sqrt()
        moved = self.answer(h).index_add(0, target, pushes * degree[target, None])
        return remove_mean(moved.reshape(rows, count, 3), mask)

    def _edges(self, z: Tensor, sigma: Tensor, graph: MolGraph) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, atoms and neighbours of the edges, (E,) each."""
        reach = (CUTOFF**2 + sigma.square()).sqrt()[:, None, None]
        near = (torch.cdist(z, z) < reach) | (graph.hops <= NEAR_HOPS)
        real = graph.mask[:, :, None] & graph.mask[:, None]
        apart = ~torch.eye(graph.size, dtype=torch.bool, device=z.device)
        row, one, other = torch.nonzero(near & real & apart, as_tuple=True)
        return row, one, other

    def _distances(self, distance: Tensor, known: Tensor) -> Tensor:
        place = torch.log1p(distance)
        centres = torch.linspace(0.0, math.log1p(20.0), self.size.radial, device=distance.device)
        bumps = torch.exp(-0.5 * ((place[:, None] - centres) / (centres[1] - centres[0])) ** 2)
        radii = known[:, -3]
        stretch = torch.where(radii > 0, distance - radii, 0.0).clamp(-1.0, 1.0)
        return torch.cat([bumps, place[:, None], 4.0 * stretch[:, None]], -1)


class TensorLayer(nn.Module):
    """One round of messages; see the module.

    Args:
        before: Irreps of the atoms.
        harmonics: Irreps of the directions.
        after: Irreps of the atoms afterwards.
        pair_width: Width of the invariants of an edge.
    """

    def __init__(self, before: Any, harmonics: Any, after: Any, pair_width: int) -> None:
        super().__init__()
        from e3nn import nn as gates
        from e3nn import o3

        middle: list[Any] = []
        paths: list[Any] = []
        for index, (copies, kind) in enumerate(before):
            for number, (_, along) in enumerate(harmonics):
                for made in kind * along:
                    if made in after:
                        paths.append((index, number, len(middle), "uvu", True))
                        middle.append((copies, made))
        irreps = o3.Irreps(middle)
        self.product = o3.TensorProduct(
            before, harmonics, irreps, paths, shared_weights=False, internal_weights=False
        )
        self.weights = nn.Linear(pair_width, self.product.weight_numel)
        scalars = o3.Irreps([(copies, kind) for copies, kind in after if kind.l == 0])
        others = o3.Irreps([(copies, kind) for copies, kind in after if kind.l > 0])
        self.gate = gates.Gate(
            scalars,
            [functional.silu if kind.p == 1 else torch.tanh for _, kind in scalars],
            o3.Irreps([(others.num_irreps, "0e")]),
            [torch.sigmoid],
            others,
        )
        self.gathered = o3.Linear(irreps.simplify(), self.gate.irreps_in)
        self.own = o3.Linear(before, self.gate.irreps_in)
        self.same = before == after

    def forward(
        self,
        h: Tensor,
        source: Tensor,
        target: Tensor,
        shape: Tensor,
        e: Tensor,
        degree: Tensor,
    ) -> Tensor:
        """Return the features of atoms (B N, ...) after messages along edges."""
        message = self.product(h[source], shape, self.weights(e))
        total = message.new_zeros(len(h), message.shape[1]).index_add(0, target, message)
        update = self.gate(self.own(h) + self.gathered(total * degree[:, None]))
        return h + update if self.same else update
