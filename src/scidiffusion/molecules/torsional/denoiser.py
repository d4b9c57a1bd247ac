r"""The denoiser of torsions: scores on the torus, read off the geometry that the angles give.

The state is the angle of every turnable bond; the rest of the geometry, the template, is a
condition. The network is that of conformers (`scidiffusion.molecules.conformer.network`) up to its
last line, which for the bond b-c is a Fourier series in every dihedral about it, as torsional
energies are:

    s_bc = mean_{a,d} sum_{k=1..6} ( p_k sin(k phi_abcd) + q_k cos(k phi_abcd) ),
    (p, q) = f(h_a, h_b, h_c, h_d, e_ad, e_bc) + f(the same from the other end),

a number that rotations leave alone, and for which it does not matter from which end a bond is
looked at: nor does it for a dihedral angle. Sines alone would do where left and right are alike.
The output is read as the score in its own units.

References:
    Jing et al. 2022, "Torsional diffusion for molecular conformer generation", section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scidiffusion.core.manifold import ManifoldProcess
from scidiffusion.core.prediction import ScorePrediction
from scidiffusion.core.schedules import as_time
from scidiffusion.core.torus import TorusProcess
from scidiffusion.molecules.conformer.graph import MolGraph
from scidiffusion.molecules.conformer.network import REACH, NetworkSize, Trunk
from scidiffusion.molecules.torsional.turning import MOST, Torsions

HARMONICS = 6


@dataclass(frozen=True)
class Template:
    """What angles are angles of.

    Args:
        graph: Of B molecules, or of one that all share.
        torsions: Their turnable bonds.
        position: (B, N, 3) a geometry in Angstrom whose bonds are turned.
    """

    graph: MolGraph
    torsions: Torsions
    position: Tensor

    def at(self, angle: Tensor) -> Tensor:
        """Positions (B, N, 3), centred, whose dihedral angles are `angle`, (B, R)."""
        by = angle - self.torsions.angles(self.position)
        turned = self.torsions.turned(self.position, by)
        mask = self.graph.mask[..., None]
        return (turned - (turned * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)) * mask


class TorsionNetwork(Trunk):
    """One number a turnable bond; see the module.

    Args:
        size: Sizes.
    """

    def __init__(self, size: NetworkSize) -> None:
        super().__init__(size)
        last = nn.Linear(size.width, 2 * HARMONICS)
        told = 4 * size.width + 2 * size.pair_width
        self.series = nn.Sequential(nn.Linear(told, size.width), nn.SiLU(), last)
        # Scores begin at nothing.
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(
        self, position: Tensor, std: Tensor, graph: MolGraph, torsions: Torsions
    ) -> Tensor:
        """Return the score in its own units, see `ManifoldProcess.predict`.

        Args:
            position: (B, N, 3) in Angstrom, padding 0.
            std: (B,) noise level in radians.
            graph: Of B molecules, or one that all share.
            torsions: Their turnable bonds.

        Returns:
            (B, R), of the order of 1; 0 for padding.
        """
        found = self.messages(position, std, torch.full_like(std, REACH), graph)
        rows, shape = position.shape[0], (position.shape[0], len(torsions), MOST, MOST)
        ends, sides = (one.expand(rows, *one.shape[1:]) for one in (torsions.ends, torsions.sides))
        a, d = sides[:, :, 0, :, None].expand(shape), sides[:, :, 1, None].expand(shape)
        b, c = (ends[:, :, end, None, None].expand(shape) for end in (0, 1))
        row = torch.arange(rows, device=position.device)[:, None, None, None]
        h, e = found.atoms, found.pairs
        told = [
            torch.cat([h[row, w], h[row, x], h[row, y], h[row, z], e[row, w, z], e[row, x, y]], -1)
            for w, x, y, z in ((a, b, c, d), (d, c, b, a))
        ]
        sines, cosines = (self.series(told[0]) + self.series(told[1])).chunk(2, -1)
        angle = torsions.around(position)[..., None] * self.orders
        terms = (sines * angle.sin() + cosines * angle.cos()).sum(-1)
        there = torsions.there[:, :, 0, :, None] & torsions.there[:, :, 1, None]
        total = (terms * there).sum((2, 3)) / there.sum((2, 3)).clamp(min=1)
        return torch.where(torsions.real, total, 0.0)

    @property
    def orders(self) -> Tensor:
        """(6,) 1 to 6."""
        return torch.arange(1, HARMONICS + 1, device=self.atoms.weight.device)


class TorsionDenoiser(nn.Module):
    """Scores of angles (B, R); the condition is a `Template`.

    Args:
        network: The network.
        process: Diffusion of angles.
    """

    def __init__(self, network: TorsionNetwork, process: ManifoldProcess | None = None) -> None:
        super().__init__()
        self.network = network
        self.process = process or TorusProcess()

    def forward(self, z: Tensor, t: Tensor, cond: Any = None) -> ScorePrediction:
        """Predict the score of angles z (B, R) in radians."""
        template: Template = cond
        time = as_time(t).to(z.device).expand(z.shape[0])
        std = self.process.schedule.marginal(time).std.to(z.dtype)
        output = self.network(template.at(z), std, template.graph, template.torsions)
        return self.process.predict(output.to(z.dtype), z, time)
