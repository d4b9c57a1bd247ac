r"""The denoiser of conformers: positions in Angstrom under variance-exploding noise.

    z = x0 + sigma eps,        x0_hat = c_skip z + c_out F(z, sigma, graph)

with c_skip and c_out of Karras et al. 2022 (eq. 7) and a network F that sees positions in Angstrom
at every noise level, because lengths of bonds mean what they mean.

A walk may begin at any noise level: `at_level` gives the same denoiser on a schedule that begins
there, for positions that are right but for noise of that size (truncated diffusion).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from scidiffusion.core.centred import CentredGaussianProcess
from scidiffusion.core.denoiser import edm_scales
from scidiffusion.core.prediction import Parameterization, Prediction, match
from scidiffusion.core.schedules import EDMSchedule, as_time
from scidiffusion.molecules.conformer.graph import MolGraph
from scidiffusion.molecules.conformer.network import ConformerNetwork

if TYPE_CHECKING:
    from scidiffusion.molecules.conformer.tensor_network import TensorNetwork

SIGMA_MIN = 0.002
SIGMA_MAX = 20.0
"""Noise level, in Angstrom, at which a molecule of 100 heavy atoms is forgotten."""
SIGMA_DATA = 2.0
"""Standard deviation, in Angstrom, of the atoms of a molecule about its centre."""
RHO = 5.0


def conformer_process(
    sigma_max: float = SIGMA_MAX, mask: Tensor | None = None
) -> CentredGaussianProcess:
    """Return the process whose walk begins at the noise level `sigma_max`, in Angstrom."""
    schedule = EDMSchedule(SIGMA_MIN, sigma_max, RHO)
    return CentredGaussianProcess(schedule, parameterization=Parameterization.X0, mask=mask)


class ConformerDenoiser(nn.Module):
    """Predict clean positions of the molecules that `cond`, a `MolGraph`, describes.

    Args:
        network: The network F: displacements (B, N, 3) of positions (B, N, 3) at levels (B,).
        process: Process; its schedule says which noise level a time is.
    """

    def __init__(
        self,
        network: ConformerNetwork | TensorNetwork,
        process: CentredGaussianProcess | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.process = process or conformer_process()

    def at_level(self, sigma_max: float, mask: Tensor | None = None) -> ConformerDenoiser:
        """Return this denoiser on a walk that begins at noise level `sigma_max`."""
        return ConformerDenoiser(self.network, conformer_process(sigma_max, mask))

    def forward(self, z: Tensor, t: Tensor, cond: Any = None) -> Prediction:
        """Predict x0; z is (B, N, 3) in Angstrom, centred."""
        graph: MolGraph = cond
        marginal = self.process.schedule.marginal(as_time(t).to(z.device).expand(z.shape[0]))
        sigma = match(marginal.sigma, z)
        skip, out = edm_scales(sigma, SIGMA_DATA)
        x0 = skip * z + out * self.network(z, sigma[:, 0, 0], graph).to(z.dtype)
        return Prediction(z, marginal, x0, Parameterization.X0)
