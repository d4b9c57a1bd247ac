"""How far the network's correction of the floor is trusted: a number chosen on held-out windows.

For each of a few factors on the correction, paths are drawn from the origins of held-out windows
and scored by the CRPS of every series and, with several series, of their sum, in shares of the
floor's own. The best factor is kept; 0 is the floor itself, which is therefore never lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scidiffusion.core.rng import KeyedNoise
from scidiffusion.timeseries.drawing import walk
from scidiffusion.timeseries.splits import WindowRows

if TYPE_CHECKING:
    from scidiffusion.timeseries.bank import SeriesBank
    from scidiffusion.timeseries.window_model import WindowModel

FACTORS = (0.0, 0.25, 0.5, 0.75, 1.0)
WINDOWS, PATHS = 64, 32
BLOCK = 8


@torch.no_grad()
def choose_shrinkage(model: WindowModel, bank: SeriesBank, held: WindowRows, seed: int) -> None:
    """Set `model.denoiser.shrinkage` to the best of `FACTORS`."""
    rows = held.pick(WINDOWS, seed + 1)
    item, end = rows.item.to(bank.device), rows.end.to(bank.device)
    model.denoiser.eval()
    losses = {factor: torch.zeros(2, dtype=torch.float64) for factor in FACTORS}
    for start in range(0, len(item), BLOCK):
        part = slice(start, start + BLOCK)
        window = model.window(bank, item[part], end[part])
        context = model.denoiser.forecast_context(window)
        truth = window.value[..., window.back :].double()
        seen = window.observed[..., window.back :]
        spread = bank.spread[item[part]][:, :, None]
        noise = KeyedNoise(seed, start=start * PATHS, stream=("trust",))
        for factor in FACTORS:
            model.denoiser.shrinkage.fill_(factor)
            paths = context.frame.value(
                walk(model, context, num_samples=PATHS, num_steps=None, noise=noise)
            ).double()
            error = crps(truth * spread, paths * spread[:, None]) * seen
            total = torch.zeros((), dtype=torch.float64)
            if model.dim > 1:
                whole = seen.all(1)
                total = crps((truth * spread).sum(1), (paths * spread[:, None]).sum(2)) * whole
            losses[factor] += torch.stack([error.sum().cpu(), total.sum().cpu()])
    floor = losses[0.0].clamp(min=1e-300)
    relative = {factor: float((loss / floor).mean()) for factor, loss in losses.items()}
    if model.dim == 1:
        relative = {factor: float(loss[0] / floor[0]) for factor, loss in losses.items()}
    model.trust = relative
    model.denoiser.shrinkage.fill_(min(relative, key=relative.__getitem__))


def crps(truth: Tensor, paths: Tensor) -> Tensor:
    """Return the fair CRPS of paths (B, S, ...) about truth (B, ...) (Ferro 2014, eq. 8)."""
    count = paths.shape[1]
    ordered = paths.sort(1).values
    rank = torch.arange(1, count + 1, device=paths.device, dtype=paths.dtype)
    weight = (2 * rank - count - 1).view(1, count, *([1] * (paths.ndim - 2)))
    spread = (weight * ordered).sum(1) * 2 / (count * (count - 1))
    return (paths - truth[:, None]).abs().mean(1) - 0.5 * spread
