r"""What the denoiser of torsions learns: the score of wrapped normals about the angles of minima.

    loss = sum_r |s_r - grad log q(z_r | x_r)|^2 / (R E |grad log q|^2)

(Jing et al. 2022, eq. 3; a score of zero has an expected loss of 1 at every noise level.) The
angles x are those of a minimum, the template is the force-field geometry that the optimisation
began with: this is what is at hand when conformers are made.
"""

from __future__ import annotations

from torch import Tensor

from scidiffusion.core.objectives import UniformTime
from scidiffusion.core.rng import Noise
from scidiffusion.core.torus import wrap
from scidiffusion.molecules.conformer.bank import ConformerBank
from scidiffusion.molecules.conformer.bundle_loss import BundleLoss
from scidiffusion.molecules.torsional.denoiser import Template, TorsionDenoiser
from scidiffusion.molecules.torsional.turning import Torsions


class TorsionLoss(BundleLoss):
    """See the module; the molecules have turnable bonds. Arguments: those of `BundleLoss`."""

    def __init__(self, bank: ConformerBank, kept: Tensor, held: Tensor) -> None:
        super().__init__(bank, kept, held)
        self.times = UniformTime()

    def bundle(self, denoiser: TorsionDenoiser, row: int, noise: Noise) -> Tensor:
        """Return the loss of molecules around that of a row."""
        bundle = self.draw(row, noise)
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
