r"""DDIM (Song, Meng & Ermon 2021, eq. 12): the same marginals with less noise, or none.

    z_s = scale_s x0 + sqrt(std_s^2 - eta^2 v) eps + eta sqrt(v) noise,   v = posterior variance

eta = 0 is the deterministic method (Euler's rule for the probability-flow ODE in u = z / scale
over sigma = std / scale), eta = 1 has the variance of the ancestral posterior.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from scidiffusion.core.denoiser import Condition, Denoiser
from scidiffusion.core.gaussian import GaussianProcess
from scidiffusion.core.prediction import Prediction, match
from scidiffusion.core.rng import Noise
from scidiffusion.core.schedules import Spacing
from scidiffusion.errors import ConfigError
from scidiffusion.samplers.base import Carry, SinglePrediction

PARALLEL = 1e-6
"""Sine of an angle below which two rows count as parallel."""


@dataclass(frozen=True)
class DDIM(SinglePrediction):
    """DDIM; see the module.

    Args:
        eta: Noise of each step as a share of the ancestral posterior's: 0 to 1.

    Raises:
        ConfigError: if `eta` lies outside [0, 1].
    """

    eta: float = 0.0
    order = 1
    spacing = Spacing.UNIFORM

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"eta must lie in [0, 1], got {self.eta}")

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """Whether any noise is drawn: eta > 0."""
        return self.eta > 0

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
        earlier, later = process.schedule.marginal(s), process.schedule.marginal(t)
        posterior_var = process.schedule.transition(t, s).var * earlier.var / later.var
        var = self.eta**2 * posterior_var
        direction = (earlier.var - var).clamp(min=0).sqrt()
        z = (
            match(earlier.scale, carry.z) * prediction.x0
            + match(direction, carry.z) * prediction.eps
        )
        if self.eta > 0 and s > 0:
            z = z + match(var.sqrt(), z) * process.draw(z, noise)
        return Carry(z)


@torch.no_grad()
def ddim_encode(
    process: GaussianProcess,
    denoiser: Denoiser,
    x: Tensor,
    *,
    steps: int,
    cond: Condition = None,
    spacing: Spacing | str = Spacing.UNIFORM,
) -> Tensor:
    """Run deterministic DDIM backwards: the latent z_1 whose DDIM sample is (nearly) x.

    Song, Meng & Ermon 2021, section 5.4. The first step, from the data, has no network evaluation
    of its own and uses the prediction of the grid's first noisy time.

    Args:
        process: Gaussian process.
        denoiser: Denoiser.
        x: (B, ...) data.
        steps: Number of steps; the round trip's error falls as 1 / steps.
        cond: Condition of each row.
        spacing: Spacing of the grid.

    Returns:
        (B, ...) state at t = 1.
    """
    times = process.schedule.grid(steps, spacing).flip(0)
    z = x
    for s, t in pairwise(times):
        prediction = denoiser(z, s if s > 0 else t, cond)
        there = process.schedule.marginal(t)
        x0 = prediction.x0 if s > 0 else z
        z = match(there.scale, z) * x0 + match(there.std, z) * prediction.eps
    return z


def spherical_blend(first: Tensor, second: Tensor, share: float) -> Tensor:
    r"""Blend latents on the sphere, row by row.

    Shoemake 1985; Song, Meng & Ermon 2021, section 5.3:

        (sin((1 - share) w) first + sin(share w) second) / sin(w),   w the angle between the two

    The blend of two draws of N(0, I) is about as long as they are; their mean is shorter.

    Args:
        first: (B, ...) latents, as of `ddim_encode`.
        second: Latents of the same shape.
        share: Share of the second, in [0, 1] for what lies between.

    Returns:
        (B, ...) latents; of parallel rows, or rows of zeros, what lies on the line between them.
    """
    one, two = first.flatten(1), second.flatten(1)
    angle = torch.arccos(torch.cosine_similarity(one, two, dim=1).clamp(-1, 1))
    whole = angle.sin()
    alike = whole < PARALLEL

    def weight(part: float) -> Tensor:
        bent = (part * angle).sin() / whole.masked_fill(alike, 1)
        return match(torch.where(alike, part, bent), first)

    return weight(1 - share) * first + weight(share) * second
