r"""Classifier guidance (Dhariwal & Nichol 2021, section 4).

    score(z | y) = score(z) + scale grad_z log p(y | z_t),     eps = eps - scale std grad log p(y |
    z_t)

The classifier must know noisy states: one trained on clean data gives gradients without meaning at
high noise. With the exact p(y | z_t) and scale 1 the result is the exact conditional score.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from scidiffusion.core.denoiser import Condition, Denoiser
from scidiffusion.core.gaussian import GaussianProcess
from scidiffusion.core.prediction import Parameterization, Prediction
from scidiffusion.core.process import Process
from scidiffusion.errors import ConfigError

LogProb = Callable[[Tensor, Tensor, Condition], Tensor]


def check_signal(process: Process, what: str) -> None:
    """Raise ConfigError for zero terminal SNR: a shift of eps says nothing of x0 at t = 1."""
    if process.schedule.terminal_snr == 0:
        raise ConfigError(
            f"{what} needs some signal at t = 1, where x0 is found from eps; use a schedule "
            "without zero terminal SNR, or classifier-free guidance"
        )


class ClassifierGuidance:
    """A denoiser steered by the gradient of a log-probability.

    Args:
        denoiser: An unconditional denoiser of a Gaussian process (it is called without condition).
        log_prob: Called as log_prob(z, t, cond) -> (B,) log p(cond | z_t), differentiable in z.
        scale: Guidance scale.

    Raises:
        ConfigError: if the process is not Gaussian or leaves no signal at t = 1, or if the scale
            or the gradient is not finite.
    """

    def __init__(self, denoiser: Denoiser, log_prob: LogProb, scale: float = 1.0) -> None:
        if not math.isfinite(scale):
            raise ConfigError(f"the guidance scale must be a finite number, got {scale}")
        if not isinstance(denoiser.process, GaussianProcess):
            raise ConfigError(
                f"classifier guidance needs a Gaussian process, not {denoiser.process!r}"
            )
        check_signal(denoiser.process, "classifier guidance")
        self.denoiser = denoiser
        self.process = denoiser.process
        self.log_prob = log_prob
        self.scale = float(scale)

    def __call__(self, z: Tensor, t: Tensor, cond: Condition = None) -> Prediction:
        """Predict under guidance."""
        prediction: Prediction = self.denoiser(z, t)
        if self.scale == 0:
            return prediction
        with torch.enable_grad():
            z = z.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self.log_prob(z, t, cond).sum(), z)
        if not bool(torch.isfinite(gradient).all()):
            raise ConfigError(
                f"the classifier's gradient is not finite at t = {t}; is it trained on "
                "noisy states?"
            )
        eps = prediction.eps - self.scale * prediction.std * self.process.project(gradient)
        return prediction.with_value(eps, Parameterization.EPS)
