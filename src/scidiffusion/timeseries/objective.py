r"""What the denoiser of windows is trained to do.

A row of the training data is the name of a window, (item, end). Its loss is the mean over observed
cells and a few noise levels of ((v - v*) / sd)^2, in units of the floor's standard deviation: a
network that adds nothing has loss 1 where the floor is calibrated. (It is the x0 error weighted as
in Karras et al. 2022, eq. 8.) The encoder's work is shared by all noise levels of a window.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from scidiffusion.core.denoiser import Condition
from scidiffusion.core.objectives import Objective
from scidiffusion.core.process import State
from scidiffusion.core.rng import Noise
from scidiffusion.timeseries.bank import SeriesBank
from scidiffusion.timeseries.denoiser import Context, WindowDenoiser
from scidiffusion.timeseries.masks import random_mask

CLIP = 8.0
"""Residuals beyond so many standard deviations of the floor teach as if they lay there."""
GAP_THINNING = 4
"""Gaps go into every fourth window of a batch: it has about as many cells as four horizons."""


class WindowLoss(Objective):
    """Mean squared error of the network's unit target; see the module.

    Args:
        bank: The series.
        back: Steps before the origin of a window.
        draws: Noise levels a window.
        log_sigma: Mean and standard deviation of log sigma.
        gap_share: Share of training batches in which random cells of whole windows are hidden
            instead of the horizon.
        max_series: Series of an item that are seen together; more are thinned out at random.
    """

    def __init__(
        self,
        bank: SeriesBank,
        back: int,
        *,
        draws: int = 4,
        log_sigma: tuple[float, float] = (0.0, 1.5),
        gap_share: float = 0.0,
        max_series: int,
    ) -> None:
        self.bank, self.back, self.draws, self.log_sigma = bank, back, draws, log_sigma
        self.gap_share, self.max_series = gap_share, max_series

    def __call__(
        self,
        denoiser: WindowDenoiser,
        x: State,
        noise: Noise,
        cond: Condition = None,
        t: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of every window, (B,); see `Objective`."""
        item, end = x["item"], x["end"]
        if denoiser.training and self.gap_share:
            coin = noise.child("kind").uniform(torch.empty(1, device=item.device))
            if float(coin) < self.gap_share:
                return self.gaps(denoiser, item[::GAP_THINNING], end[::GAP_THINNING], noise)
        series = self._series(noise, item.device)
        window = self.bank.windows(item, end, self.back, self.bank.horizon, series)
        context = denoiser.forecast_context(window)
        target = window.value[..., self.back :]
        return self.error(denoiser, context, target, window.observed[..., self.back :], noise)

    def gaps(self, denoiser: WindowDenoiser, item: Tensor, end: Tensor, noise: Noise) -> Tensor:
        """Return the loss of windows with random cells hidden, (B,)."""
        series, horizon = self._series(noise, item.device), self.bank.horizon
        back = denoiser.kriging.length - horizon
        window = self.bank.windows(item, end, back, horizon, series)
        value = window.value
        hidden = random_mask(
            (value.shape[0], value.shape[1], value.shape[2]), horizon, noise.child("mask"), value
        )
        context = denoiser.gap_context(window, hidden)
        return self.error(denoiser, context, value, window.observed & hidden, noise)

    def error(
        self,
        denoiser: WindowDenoiser,
        context: Context,
        target: Tensor,
        seen: Tensor,
        noise: Noise,
    ) -> Tensor:
        """Return (B,), the loss of windows whose cells (B, D, Z) are known where `seen`."""
        frame = context.frame
        rows, draws = target.shape[0], self.draws
        residual = torch.where(seen, frame.residual(target), 0.0)
        residual = residual.clamp(-CLIP * frame.std, CLIP * frame.std)[:, None]
        sigma = self._sigma(rows, noise.child("sigma"), target)
        scale = torch.rsqrt(1 + sigma**2)[:, :, None, None]
        std = sigma[:, :, None, None] * scale
        like = target.new_empty(rows, draws * frame.law_dim, target.shape[-1])
        eps = frame.noise(noise.normal(like).unflatten(1, (draws, -1)))
        z = torch.where(seen[:, None], scale * residual + std * eps, 0.0)
        context = replace(context, seen=seen)
        v = denoiser.velocity(z, sigma, context)
        error = ((v - (scale * eps - std * residual)) / frame.std[:, None]) ** 2
        counted = seen[:, None].to(error.dtype)
        count = counted.sum((2, 3)).clamp(min=1)
        return ((error * counted).sum((2, 3)) / count).mean(1)

    def _sigma(self, rows: int, noise: Noise, like: Tensor) -> Tensor:
        """(B, draws) noise levels; the draws of a window are stratified."""
        uniform = noise.uniform(like.new_empty(rows, self.draws))
        strata = torch.arange(self.draws, device=like.device)
        level = torch.special.ndtri(((uniform + strata) / self.draws).clamp(1e-4, 1 - 1e-4))
        mean, std = self.log_sigma
        return torch.exp(mean + std * level)

    def _series(self, noise: Noise, device: torch.device) -> Tensor | None:
        if self.bank.dim <= self.max_series:
            return None
        draw = noise.child("series").uniform(torch.empty(self.bank.dim, device=device))
        return draw.argsort()[: self.max_series]
