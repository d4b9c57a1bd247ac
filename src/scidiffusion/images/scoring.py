"""The ELBO of images, block by block."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scidiffusion.core import KeyedNoise, NetworkDenoiser, elbo
from scidiffusion.core.denoiser import Condition
from scidiffusion.images.conditioning import rows_of


def bounds(
    denoiser: NetworkDenoiser,
    data: Tensor,
    cond: Condition,
    *,
    steps: int,
    draws: int,
    seed: int,
    block: int,
    device: torch.device,
) -> NDArray[np.float64]:
    """Return a lower bound of the log-likelihood of scaled images, (N,), in nats.

    Args:
        denoiser: A fitted denoiser.
        data: (N, C, ...) scaled images.
        cond: Their conditions.
        steps: Steps of the chain.
        draws: Draws to average over.
        seed: Seed of the noise.
        block: Images at once.
        device: Where it is computed.
    """
    n, grid = len(data), denoiser.process.schedule.grid(steps)
    noise, parts = KeyedNoise(seed), []
    for start in range(0, n, block):
        # Whole blocks, as in drawing: a bound does not depend on the rows beside it.
        index = torch.arange(start, start + block).clamp(max=n - 1)
        bound = elbo(
            denoiser,
            data[index].to(device),
            grid=grid,
            noise=noise.rows(start),
            cond=rows_of(cond, index, device),
            draws=draws,
        )
        parts.append(bound.total.double().cpu().numpy())
    return np.concatenate([*parts, np.empty(0)])[:n]
