r"""What the denoiser of torsions learns: the score of wrapped normals about the angles of minima.

    loss = sum_r |s_r - grad log q(z_r | x_r)|^2 / (R E |grad log q|^2)

(Jing et al. 2022, eq. 3; a score of zero has an expected loss of 1 at every noise level.) The
angles x are those of a minimum, the template is the force-field geometry that the optimisation
began with: this is what is at hand when conformers are made.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scidiffusion.core.objectives import Objective, UniformTime
from scidiffusion.core.rng import Noise
from scidiffusion.core.torus import wrap
from scidiffusion.molecules.conformer.bank import ConformerBank
from scidiffusion.molecules.torsional.denoiser import Template, TorsionDenoiser
from scidiffusion.molecules.torsional.turning import Torsions


class TorsionLoss(Objective):
    """See the module.

    Args:
        bank: The molecules, each with turnable bonds.
        kept: Numbers of the molecules that are trained on; row i of the data is `kept[i]`.
        held: Numbers of those held out; row len(kept) + i is `held[i]`.
    """

    def __init__(self, bank: ConformerBank, kept: Tensor, held: Tensor) -> None:
        self.parts = bank.part(kept), bank.part(held)
        self.times = UniformTime()

    def __call__(
        self, denoiser: Any, x: Any, noise: Noise, cond: Any = None, t: Tensor | None = None
    ) -> Tensor:
        """Return the loss of every row, (B,): the mean over the bundle that it stands for."""
        return torch.stack([self.bundle(denoiser, int(row), noise) for row in x.flatten()])

    def bundle(self, denoiser: TorsionDenoiser, row: int, noise: Noise) -> Tensor:
        """Return the loss of molecules around that of a row."""
        training = row < len(self.parts[0])
        bank = self.parts[0] if training else self.parts[1]
        bundle = bank.bundle(row if training else row - len(self.parts[0]), noise)
        torsions = Torsions.batch([molecule.torsions for molecule in bundle.molecules])
        process = denoiser.process
        x = torsions.angles(bundle.minimum)
        t = self.times(process.schedule, x, noise)
        var = process.var(t, x).to(x.dtype)
        eps = var.sqrt() * noise.normal(x)
        template = Template(bundle.graph, torsions, bundle.start)
        predicted = denoiser(wrap(x + eps), t, template).score
        error = (predicted - process.score_of(eps, var)) ** 2 / process.expected_square(var)
        return (error * torsions.real).sum() / torsions.real.sum()
