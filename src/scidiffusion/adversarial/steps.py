r"""Steps of any size: draw clean data from p(x | z_t), then z_s from the exact posterior.

    p(z_s | z_t) = integral of p(x | z_t) q(z_s | z_t, x) dx        (Xiao et al. 2022, section 3.2)

A Gaussian reverse kernel puts the mean of x in the place of the integral, which is right for
steps that are small only: over a large step p(z_s | z_t) has as many modes as x has. With draws
from the true p(x | z_t) every step is exact, and so is the walk, whatever the number of steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from scidiffusion.core.gaussian import GaussianProcess
from scidiffusion.core.process import Process
from scidiffusion.core.rng import Noise
from scidiffusion.core.schedules import Spacing
from scidiffusion.samplers import Sampler
from scidiffusion.samplers.base import Carry


class CleanDrawer(Protocol):
    """Anything that draws clean data given a noisy state."""

    process: Process

    def draw_clean(self, z: Tensor, t: Tensor, noise: Noise) -> Tensor:
        """Draw x ~ p(x | z_t), of the shape of `z`; `t` is a scalar or (B,)."""
        ...


@dataclass(frozen=True)
class PosteriorSteps(Sampler):
    """Walk with a `CleanDrawer` in the denoiser's place; see the module.

    For `scidiffusion.samplers.sample`, whose `denoiser` is then the drawer. It takes no condition.
    """

    order = 1
    stochastic = True
    spacing = Spacing.UNIFORM

    def supports(self, process: Process) -> bool:
        """Gaussian processes, whose q(z_s | z_t, x) is known."""
        return isinstance(process, GaussianProcess)

    def step(
        self,
        process: GaussianProcess,
        denoiser: Any,
        carry: Carry,
        t: Tensor,
        s: Tensor,
        noise: Noise,
        cond: Any = None,
    ) -> Carry:
        """x ~ p(x | z_t), z_s ~ q(z_s | z_t, x); see `Sampler.step`."""
        x = denoiser.draw_clean(carry.z, t, noise.child("clean"))
        return Carry(process.posterior(x, carry.z, t, s).sample(noise))
