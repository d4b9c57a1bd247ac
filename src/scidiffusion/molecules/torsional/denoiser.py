r"""The denoiser of torsions: scores on the torus, read off the geometry that the angles give.

The state is the angle of every turnable bond; the rest of the geometry, the template, is a
condition. The network is that of conformers (`scidiffusion.molecules.conformer.network`) up to its
last line. For the bond b-c with unit vector u from b to c it answers

    s_bc = f(h_b, h_c, e_bc, u . v_b, u . v_c, u . (v_b x v_c)) + f(with b and c exchanged),

a number that rotations leave alone, and for which it does not matter from which end a bond is
looked at: nor does it for a dihedral angle. The output is read as std_t times the score.

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
from scidiffusion.molecules.torsional.turning import Torsions


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
        width = 2 * size.width + size.pair_width + 3 * size.vectors
        last = nn.Linear(size.width, 1)
        self.score = nn.Sequential(nn.Linear(width, size.width), nn.SiLU(), last)
        # Scores begin at nothing.
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(
        self, position: Tensor, std: Tensor, graph: MolGraph, torsions: Torsions
    ) -> Tensor:
        """Return std times the score.

        Args:
            position: (B, N, 3) in Angstrom, padding 0.
            std: (B,) noise level in radians.
            graph: Of B molecules, or one that all share.
            torsions: Their turnable bonds.

        Returns:
            (B, R), of the order of 1; 0 for padding.
        """
        found = self.messages(position, std, torch.full_like(std, REACH), graph)
        rows = torch.arange(position.shape[0], device=position.device)[:, None]
        ends = torsions.atoms.expand(position.shape[0], -1, -1)
        begin, end = ends[..., 1], ends[..., 2]
        axis = nn.functional.normalize(position[rows, end] - position[rows, begin], dim=-1)
        total = torch.zeros_like(axis[..., 0])
        for one, other, way in ((begin, end, axis), (end, begin, -axis)):
            left, right = found.vectors[rows, one], found.vectors[rows, other]
            features = [
                found.atoms[rows, one],
                found.atoms[rows, other],
                found.pairs[rows, one, other],
                (way[..., None] * left).sum(2),
                (way[..., None] * right).sum(2),
                (way[..., None] * torch.linalg.cross(left, right, dim=2)).sum(2),
            ]
            total = total + self.score(torch.cat(features, -1))[..., 0]
        return torch.where(torsions.real, total, 0.0)


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
