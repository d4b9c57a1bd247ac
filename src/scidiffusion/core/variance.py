r"""The optimal reverse variance of a trained denoiser (Analytic-DPM, Bao et al. 2022, theorem 1).

The best isotropic Gaussian p(z_s | z_t) has the variance

    sigma*^2 = beta tilde + (scale_s var_{t|s} / std_t^2)^2 Var[x | z_t],
    Var[x | z_t] = (std_t / scale_t)^2 E ||eps - eps_hat||^2 / d,

where the expectation is over the data and their noisy states: it is estimated once a noise level,
clamped to [0, (std_t / scale_t)^2], and interpolated in log-SNR. For an exact denoiser that is
1 - E ||eps_hat||^2 / d, the form of the paper; this one is right for an inexact mean too, and its
error is a share of the result, where (std_t / scale_t)^2 would magnify an absolute error.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from scidiffusion.core.denoiser import Condition, Denoiser
from scidiffusion.core.distributions import sum_rows
from scidiffusion.core.gaussian import GaussianProcess
from scidiffusion.core.prediction import Prediction, match
from scidiffusion.core.rng import KeyedNoise, Noise
from scidiffusion.core.schedules import as_time
from scidiffusion.errors import ConfigError


class AnalyticVariance(nn.Module):
    """A denoiser that also knows Var[x | z_t], for processes with variance="optimal".

    Args:
        denoiser: The denoiser; its process must be Gaussian.
        x: (B, ...) data to estimate on; a thousand rows do.
        levels: Number of noise levels of the table; a discrete schedule with fewer nodes uses all.
        noise: Source of noise; default `KeyedNoise(0)`.
        cond: Condition of each row of `x`.

    Raises:
        ConfigError: if the process is not Gaussian or its schedule has zero terminal SNR.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        x: Tensor,
        *,
        levels: int = 100,
        noise: Noise | None = None,
        cond: Condition = None,
    ) -> None:
        super().__init__()
        process = denoiser.process
        if not isinstance(process, GaussianProcess):
            raise ConfigError(f"AnalyticVariance needs a Gaussian process, not {process!r}")
        self.denoiser = denoiser
        self.process = process
        schedule = process.schedule
        if schedule.terminal_snr == 0:
            raise ConfigError(
                "AnalyticVariance measures Var[x | z] in units of (std / scale)^2, which is "
                "infinite with zero terminal SNR; use variance='beta' or 'posterior'"
            )
        times = schedule.grid(min(levels, schedule.num_nodes or levels))[:-1].flip(0)
        source = (noise or KeyedNoise(0)).child("analytic variance")
        remaining = []
        with torch.no_grad():
            for index, t in enumerate(times):
                corrupted = process.q_sample(x, t, source.at(index))
                error = corrupted.eps - denoiser(corrupted.z, t, cond).eps
                freedom = process.dimension(x).clamp(min=1)
                share = float((sum_rows(error**2) / freedom).mean())
                # E ||eps||^2 / d is 1: a control variate, whose best weight for Gaussian errors
                # is share^2. It removes nearly all sampling error where nothing is predicted.
                excess = float((sum_rows(corrupted.eps**2) / freedom).mean()) - 1
                remaining.append(share - share**2 * excess)
        # Fraction of sigma^2 that remains uncertain, by increasing noise.
        self.log_snr: Tensor
        self.fraction: Tensor
        self.register_buffer("log_snr", schedule.log_snr(times))
        fraction = torch.tensor(remaining, dtype=torch.float64)
        self.register_buffer("fraction", fraction.clamp(min=0.0, max=1.0))

    def forward(self, z: Tensor, t: Tensor, cond: Condition = None) -> Prediction:
        """Predict, with `x0_var` filled in."""
        prediction: Prediction = self.denoiser(z, t, cond)
        marginal = self.process.schedule.marginal(as_time(t).to(self.log_snr.device))
        var = marginal.sigma**2 * _interpolate(marginal.log_snr, self.log_snr, self.fraction)
        return replace(prediction, x0_var=match(var, z))


def _interpolate(x: Tensor, decreasing: Tensor, values: Tensor) -> Tensor:
    """Linear interpolation on a decreasing axis, constant outside."""
    nodes, values = decreasing.flip(0), values.flip(0)
    x = x.clamp(min=nodes[0], max=nodes[-1])
    if len(nodes) == 1:
        return values[0].expand_as(x)
    right = torch.searchsorted(nodes, x.contiguous()).clamp(min=1, max=len(nodes) - 1)
    weight = (x - nodes[right - 1]) / (nodes[right] - nodes[right - 1])
    return torch.lerp(values[right - 1], values[right], weight)
