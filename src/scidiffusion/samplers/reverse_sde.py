r"""Euler-Maruyama on the reverse-time SDE (Anderson 1982; Song et al. 2021, eq. 6).

Forward dz = f z dt + g dw; backwards, over a step from t to s < t,

    z_s = z_t - F z_t + G score(z_t, t) + sqrt(G) noise,    F = int_s^t f,  G = int_s^t g^2.

The signs are those of time running down: lecture notes that write the reverse SDE with the sign of
f and of the score exchanged are right for negative dt only.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from scidiffusion.core.gaussian import GaussianProcess
from scidiffusion.core.prediction import Prediction, match
from scidiffusion.core.process import Process
from scidiffusion.core.rng import Noise
from scidiffusion.core.schedules import Spacing
from scidiffusion.errors import ConfigError
from scidiffusion.samplers.base import Carry, SinglePrediction


@dataclass(frozen=True)
class EulerMaruyama(SinglePrediction):
    """Euler-Maruyama; weak order 1. The step to t = 0 draws no noise."""

    order = 1
    stochastic = True
    spacing = Spacing.UNIFORM

    def check(self, process: Process) -> None:
        """Raise ConfigError also for a schedule whose drift is infinite at t = 1."""
        super().check(process)
        if process.schedule.terminal_snr == 0:
            raise ConfigError(
                "the reverse SDE has an infinite drift where no signal is left at t = 1; use "
                "DDIM, DPMSolverPP or Ancestral with a schedule of zero terminal SNR"
            )

    def update(
        self,
        process: GaussianProcess,
        prediction: Prediction,
        carry: Carry,
        t: Tensor,
        s: Tensor,
        noise: Noise,
    ) -> Carry:
        """See the module, and `SinglePrediction.update`."""
        z = carry.z
        drift, diffusion = process.schedule.sde_increment(t, s)
        mean = z - match(drift, z) * z + match(diffusion, z) * prediction.score
        if s <= 0:
            return Carry(mean)
        return Carry(mean + match(diffusion.sqrt(), z) * process.draw(z, noise))
