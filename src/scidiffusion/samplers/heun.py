r"""Heun's second-order method with churn (Karras et al. 2022, algorithms 1 and 2).

In u = z / scale and sigma = std / scale the probability-flow ODE of every Gaussian process is
du / dsigma = eps, a straight line wherever the denoiser's answer is constant. Each step may first
raise the noise level by a factor 1 + churn, with fresh noise, which corrects earlier errors.
"""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Heun(Sampler):
    """Heun's method: two evaluations a step, one in the last; see the module.

    Args:
        churn: Relative rise of the noise level before each step but the last (gamma of the
            paper); 0 is the deterministic method. Needs a continuous schedule.
        churn_sigma_min: Churn only at noise levels above this.
        churn_sigma_max: Churn only at noise levels below this.
        churn_noise: Standard deviation of the added noise (S_noise).

    Raises:
        ConfigError: if `churn` lies outside [0, sqrt(2) - 1].
    """

    churn: float = 0.0
    churn_sigma_min: float = 0.0
    churn_sigma_max: float = float("inf")
    churn_noise: float = 1.0
    spacing = Spacing.KARRAS

    def __post_init__(self) -> None:
        if not 0 <= self.churn <= 2**0.5 - 1:
            raise ConfigError(f"churn must lie in [0, sqrt(2) - 1], got {self.churn}")

    @property
    def order(self) -> float:  # type: ignore[override]
        """2 for the ODE, 1 (weak) with churn."""
        return 1 if self.churn else 2

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """Whether noise is drawn."""
        return self.churn > 0

    def check(self, process: Process) -> None:
        """Raise ConfigError also for a schedule without terminal signal, or churn on nodes."""
        super().check(process)
        if process.schedule.terminal_snr == 0:
            raise ConfigError(
                "Heun's method needs some signal at t = 1 (sigma must be finite); use DDIM, "
                "DPMSolverPP or Ancestral with a schedule of zero terminal SNR"
            )
        if self.churn and process.schedule.num_nodes is not None:
            raise ConfigError(
                "churn raises the noise level to one between nodes; use a continuous schedule, "
                "or churn=0"
            )

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
        schedule, z = process.schedule, carry.z
        later, earlier = schedule.marginal(t), schedule.marginal(s)
        u, sigma = z / match(later.scale, z), later.sigma
        # The last step draws no noise, like that of every sampler.
        churned = self.churn > 0 and bool(s > 0)
        if churned and self.churn_sigma_min <= sigma <= self.churn_sigma_max:
            # Nothing is noisier than t = 1.
            raised = torch.minimum(sigma * (1 + self.churn), schedule.marginal(1.0).sigma)
            added = (raised**2 - sigma**2).clamp(min=0).sqrt() * self.churn_noise
            u = u + match(added, u) * process.draw(u, noise)
            sigma, t = raised, schedule.t_of_log_snr(-2 * raised.log()).clamp(max=1.0)
            later = schedule.marginal(t)
        h = match(earlier.sigma - sigma, u)
        slope = denoiser(match(later.scale, u) * u, t, cond).eps
        end = u + h * slope
        if s > 0:
            end_slope = denoiser(match(earlier.scale, end) * end, s, cond).eps
            end = u + h * 0.5 * (slope + end_slope)
        return Carry(match(earlier.scale, end) * end)
