r"""Predictor-corrector sampling (Song et al. 2021, algorithm 1): a step, then Langevin dynamics.

After the predictor's step to time s the corrector runs a few steps of

    z <- z + e score(z, s) + sqrt(2 e) noise,      e = 2 (snr std_s)^2,

which leave q(z_s) nearly invariant and so repair what the predictor did wrong. Song et al. set e
from the norms of score and noise averaged over the batch; the expected ratio of these norms is
std_s, and using it keeps every row independent of the batch it is drawn in.

What e leaves wrong, a variance off by e / 2, does not shrink with the step: only the last nodes,
where std_s is small, repair it. Hence the weak order 1/2, although at a hundred steps the error is
below the predictor's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from scidiffusion.core.denoiser import Condition, Denoiser
from scidiffusion.core.gaussian import GaussianProcess
from scidiffusion.core.prediction import match
from scidiffusion.core.process import Process
from scidiffusion.core.rng import Noise
from scidiffusion.core.schedules import Spacing
from scidiffusion.errors import ConfigError
from scidiffusion.samplers.base import Carry, Sampler
from scidiffusion.samplers.reverse_sde import EulerMaruyama


@dataclass(frozen=True)
class PredictorCorrector(Sampler):
    """Predictor-corrector; see the module.

    Args:
        predictor: Any one-step sampler.
        corrector_steps: Langevin steps after each predictor step but the last.
        snr: Signal-to-noise ratio r of a Langevin step.

    Raises:
        ConfigError: if an option is out of range or the predictor is a multistep method.
    """

    predictor: Sampler = field(default_factory=EulerMaruyama)
    corrector_steps: int = 1
    snr: float = 0.16
    order = 0.5
    stochastic = True
    spacing = Spacing.UNIFORM

    def __post_init__(self) -> None:
        if self.corrector_steps < 1 or not self.snr > 0:
            raise ConfigError(
                f"need corrector_steps >= 1 and snr > 0, got {self.corrector_steps}, {self.snr}"
            )
        if self.predictor.multistep:
            raise ConfigError(
                f"{self.predictor!r} remembers its last step, which the corrector makes untrue; "
                "use a one-step predictor"
            )

    def check(self, process: Process) -> None:
        """Raise ConfigError also where the predictor would."""
        super().check(process)
        self.predictor.check(process)

    def step(
        self,
        process: GaussianProcess,
        denoiser: Denoiser,
        carry: Carry,
        t: Tensor,
        s: Tensor,
        noise: Noise,
        cond: Condition = None,
    ) -> Carry:
        """See the module, and `Sampler.step`."""
        z = self.predictor.step(process, denoiser, Carry(carry.z), t, s, noise, cond).z
        if s <= 0:
            return Carry(z)
        size = 2 * (self.snr * process.schedule.marginal(s).std) ** 2
        for index in range(self.corrector_steps):
            fresh = process.draw(z, noise.child(f"corrector{index}"))
            z = z + match(size, z) * denoiser(z, s, cond).score
            z = z + match(torch.sqrt(2 * size), z) * fresh
        return Carry(z)
