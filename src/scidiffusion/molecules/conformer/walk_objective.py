r"""Lower the energy of where walks end: training through the whole walk.

A denoiser that is right in the mean of squares may still leave kcal/mol in bonds and angles, which
are stiff. So the walk from a start is taken as it is in use, without noise and in as many steps,
and what it costs that its end x is not at t, some steps of GFN2-xTB below, is the loss:

    q = (x - t)^T H (x - t) / 2        in kcal/mol,        loss = S log(1 + q / S)

with H the second derivatives of MMFF94 about t, made positive. x is turned onto t first: energies
do not know orientations. t is near x, so that the quadratic holds; the logarithm keeps the few
that are far from deciding. The loss of `ConformerLoss` on ensembles is added, so that the denoiser
stays one of the data at every noise level.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scidiffusion.core.centred import remove_mean
from scidiffusion.core.rng import KeyedNoise, Noise
from scidiffusion.molecules.conformer.bank import Bundle, ConformerBank
from scidiffusion.molecules.conformer.bundle_loss import BundleLoss
from scidiffusion.molecules.conformer.denoiser import ConformerDenoiser
from scidiffusion.molecules.conformer.objective import ConformerLoss
from scidiffusion.molecules.conformer.refine import STEPS, walk
from scidiffusion.molecules.superposition import turned_onto

SOFTENED = 5.0
"""Energy S, in kcal/mol, beyond which the loss grows as a logarithm."""


class WalkLoss(BundleLoss):
    """See the module.

    Args:
        bank: Walks: starts, and what is below the ends of walks from them, with Hessians.
        kept, held: As of `BundleLoss`.
        ensembles: The loss on ensembles; it says at which level walks begin.
        energy_weight: Weight of the energy beside a weight of 1 of the ensembles.
        steps: Steps of a walk.
    """

    def __init__(
        self,
        bank: ConformerBank,
        kept: Tensor,
        held: Tensor,
        *,
        ensembles: ConformerLoss,
        energy_weight: float = 1.7,
        steps: int = STEPS,
    ) -> None:
        super().__init__(bank, kept, held)
        self.ensembles, self.energy_weight, self.steps = ensembles, energy_weight, steps

    def bundle(self, denoiser: ConformerDenoiser, row: int, noise: Noise) -> Tensor:
        """Return the loss of walks around that of a row, and of ensembles anywhere."""
        energy = self.energies(denoiser, self.draw(row, noise))
        softened = SOFTENED * torch.log1p(energy / SOFTENED)
        kept, held = map(len, self.ensembles.parts)
        # Where no ensemble is held out, held-out walks stand beside a training one.
        first, count = (kept, held) if row >= len(self.parts[0]) and held else (0, kept)
        unit = float(noise.uniform(torch.empty(1)))
        other = first + min(int(unit * count), count - 1)
        return self.energy_weight * softened.mean() + self.ensembles.bundle(denoiser, other, noise)

    def energies(self, denoiser: ConformerDenoiser, bundle: Bundle) -> Tensor:
        """Return what is left above the goals of walks, (B,) kcal/mol."""
        mask = bundle.graph.mask
        bound = denoiser.at_level(self.ensembles.sigma_start, mask)
        z = remove_mean(bundle.start, mask)
        # The walk draws nothing: dpmpp_2m is deterministic.
        found = walk(bound, bundle.graph, z, self.steps, KeyedNoise(0), differentiable=True)
        # Turning the goal the other way would need its Hessian turned.
        apart = turned_onto(found, bundle.minimum, mask) - bundle.minimum
        # A mirror image of the goal has the mirror image of its Hessian.
        mirror = torch.where(bundle.mirrored[:, None], apart.new_tensor([1.0, 1.0, -1.0]), 1.0)
        apart = apart * mirror[:, None]
        rows = []
        for index, (molecule, row) in enumerate(zip(bundle.molecules, bundle.rows, strict=True)):
            assert molecule.hessians is not None
            flat = apart[index, : molecule.graph.size].flatten()
            rows.append(flat @ (molecule.hessians[row].to(flat) @ flat) / 2)
        return torch.stack(rows)
