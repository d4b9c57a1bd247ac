"""From options to an untrained denoiser of images.

The process is Gaussian with a cosine schedule that ends at log-SNR -10: at a thousand values an
image a share of 2e-5 of the signal's variance says next to nothing of it. v, the default, is
scale eps - std x0 (Salimans & Ho 2022): with the network's zero at the start the model is the
Gaussian prior.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from scidiffusion.conditions import ConditionCodec
from scidiffusion.core import (
    CosineVP,
    GaussianProcess,
    HybridLoss,
    NetworkDenoiser,
    Objective,
    Parameterization,
    SimpleLoss,
)
from scidiffusion.core.schedules import check_option
from scidiffusion.errors import ConfigError
from scidiffusion.estimator import check_positive
from scidiffusion.images.codec import ImageCodec
from scidiffusion.images.unet import UNet

LOG_SNR_MIN = -10.0
SMALLEST_GRID = 4
MOST_LEVELS = 4
ATTENDED_CELLS = 1024
"""Cells up to which the lowest level attends where nothing is chosen: the cost is their square."""
PARAMETERIZATIONS = (Parameterization.V, Parameterization.EPS, Parameterization.X0)
HYBRID_WEIGHT = 0.001


def grid_sizes(shape: Sequence[int], levels: int) -> list[tuple[int, ...]]:
    """Return the sizes of the grid at each level: halved, rounded up."""
    sizes = [tuple(shape)]
    for _ in range(levels - 1):
        sizes.append(tuple(-(-size // 2) for size in sizes[-1]))
    return sizes


def default_multipliers(shape: Sequence[int]) -> tuple[int, ...]:
    """Return 1 for the full grid and 2 for each halving down to about 4 cells a side."""
    halvings = 0
    while halvings + 1 < MOST_LEVELS and max(grid_sizes(shape, halvings + 1)[-1]) > SMALLEST_GRID:
        halvings += 1
    return (1, *[2] * halvings)


def default_attention(shape: Sequence[int], levels: int) -> tuple[int, ...]:
    """Return the lowest level, if it has few enough cells."""
    cells = 1
    for size in grid_sizes(shape, levels)[-1]:
        cells *= size
    return (levels - 1,) if cells <= ATTENDED_CELLS else ()


def build_process(
    parameterization: str, learned_variance: bool, codec: ImageCodec
) -> GaussianProcess:
    """Return the process of images; see the module.

    Raises:
        ConfigError: if `parameterization` is none of "v", "eps", "x0".
    """
    chosen = check_option(Parameterization, parameterization, "parameterization")
    if chosen not in PARAMETERIZATIONS:
        raise ConfigError(f"parameterization must be 'v', 'eps' or 'x0', got {parameterization!r}")
    return GaussianProcess(
        CosineVP(LOG_SNR_MIN),
        variance="learned" if learned_variance else "posterior",
        parameterization=chosen,
        bin_width=codec.bin_width,
    )


def build_denoiser(
    codec: ImageCodec,
    conditions: ConditionCodec | None,
    *,
    seed: int,
    parameterization: str,
    learned_variance: bool,
    sizes: Mapping[str, Any],
) -> NetworkDenoiser:
    """Return an untrained denoiser.

    Args:
        codec: Shape of the images.
        conditions: What they are conditioned on.
        seed: Seed of the first weights.
        parameterization: "v", "eps" or "x0".
        learned_variance: Whether the reverse variance is an output of the network.
        sizes: Options of the `UNet`; multipliers and attention may be None: chosen by the grid.

    Raises:
        ConfigError: if an option is impossible.
    """
    process = build_process(parameterization, learned_variance, codec)
    channels, grid = codec.shape[0], codec.shape[1:]
    sizes = dict(sizes)
    if sizes["multipliers"] is None:
        sizes["multipliers"] = default_multipliers(grid)
    if sizes["attention"] is None:
        sizes["attention"] = default_attention(grid, len(sizes["multipliers"]))
    check_positive(sizes["width"], "width")
    embed_dim = 4 * sizes["width"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet(
            len(grid),
            channels,
            channels * (2 if learned_variance else 1),
            conditions=None if conditions is None else conditions.embedding(embed_dim),
            embed_dim=embed_dim,
            **sizes,
        )
    return NetworkDenoiser(network, process, learned_variance=learned_variance, channel_dim=1)


def build_objective(denoiser: NetworkDenoiser, codec: ImageCodec) -> Objective:
    """Return the mean squared error of what the network predicts, plus the bound if variances are.

    The bound's weight is Nichol & Dhariwal's .001 of nats per value: they average over values.
    """
    target = denoiser.process.parameterization  # type: ignore[attr-defined]
    if not denoiser.learned_variance:
        return SimpleLoss(target)
    values = int(torch.Size(codec.shape).numel())
    return HybridLoss(HYBRID_WEIGHT / values, target=target)
