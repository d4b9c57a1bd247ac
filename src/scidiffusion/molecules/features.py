"""What both networks of molecules are told of noise levels and distances."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEVEL_FEATURES = 32


def noise_features(sigma: Tensor) -> Tensor:
    """Sines and cosines of log(sigma) / 4, (B, LEVEL_FEATURES), of levels (B,) in Angstrom."""
    place = 0.25 * sigma.clamp(min=1e-4).log()
    octaves = torch.linspace(-1, 3, LEVEL_FEATURES // 2, device=sigma.device)
    angle = place[:, None] * math.pi * 2.0**octaves
    return torch.cat([angle.sin(), angle.cos()], -1)


def pair_distances(position: Tensor) -> Tensor:
    """(B, N, N) distances of positions (B, N, 3), with a gradient where two coincide."""
    difference = position[:, :, None] - position[:, None]
    return difference.square().sum(-1).add(1e-8).sqrt()
