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
from torch import nn

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
from scidiffusion.images.conditioning import ConditionedNetwork, ImageConditions
from scidiffusion.images.dit import GridTransformer
from scidiffusion.images.given import ConditionedLoss
from scidiffusion.images.unet import UNet

LOG_SNR_MIN = -10.0
SMALLEST_GRID = 4
MOST_LEVELS = 4
ATTENDED_CELLS = 1024
"""Cells up to which the lowest level attends where nothing is chosen: the cost is their square."""
PARAMETERIZATIONS = (Parameterization.V, Parameterization.EPS, Parameterization.X0)
HYBRID_WEIGHT = 0.001
NETWORKS = ("unet", "dit")
SHARED = ("width", "heads", "dropout")
OWN = {"unet": ("multipliers", "blocks", "attention"), "dit": ("patch_size", "depth")}
"""Options of every network, and those of each alone."""
EMBEDDING = 4
"""Numbers of the embedding, and of a token of the transformer, for each channel of `width`."""


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


def with_levels(options: Mapping[str, Any], grid: Sequence[int]) -> dict[str, Any]:
    """Return options of a `UNet`; multipliers and attention that are None chosen by the grid."""
    multipliers, attention = options["multipliers"], options["attention"]
    if multipliers is None:
        multipliers = default_multipliers(grid)
    if attention is None:
        attention = default_attention(grid, len(multipliers))
    return {**options, "multipliers": multipliers, "attention": attention}


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
    conditions: ImageConditions,
    *,
    seed: int,
    parameterization: str,
    learned_variance: bool,
    network: str,
    sizes: Mapping[str, Any],
) -> NetworkDenoiser:
    """Return an untrained denoiser.

    Args:
        codec: Shape of the images.
        conditions: What they are conditioned on.
        seed: Seed of the first weights.
        parameterization: "v", "eps" or "x0".
        learned_variance: Whether the reverse variance is an output of the network.
        network: "unet" or "dit".
        sizes: Options of the networks; those of the other one do not count. Multipliers and
            attention may be None: chosen by the grid.

    Raises:
        ConfigError: if an option is impossible.
    """
    process = build_process(parameterization, learned_variance, codec)
    if network not in NETWORKS:
        raise ConfigError(f"network must be 'unet' or 'dit', got {network!r}")
    chosen = {name: sizes[name] for name in (*SHARED, *OWN[network])}
    width = int(check_positive(chosen.pop("width"), "width") or 0)
    channels, grid = codec.shape[0], codec.shape[1:]
    outputs = channels * (2 if learned_variance else 1)
    dim, make = EMBEDDING * width, _unet if network == "unet" else _dit
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        added, reader, shown = conditions.specifications(dim, chosen["heads"])
        told = {"conditions": added, "context_dim": None if reader is None else dim}
        built = make(grid, channels + shown, outputs, width, chosen | told)
    if not conditions.plain:
        built = ConditionedNetwork(built, reader)
    return NetworkDenoiser(built, process, learned_variance=learned_variance, channel_dim=1)


def _unet(
    grid: Sequence[int], channels: int, outputs: int, width: int, options: dict[str, Any]
) -> nn.Module:
    return UNet(
        len(grid),
        channels,
        outputs,
        width=width,
        embed_dim=EMBEDDING * width,
        **with_levels(options, grid),
    )


def _dit(
    grid: Sequence[int], channels: int, outputs: int, width: int, options: dict[str, Any]
) -> nn.Module:
    return GridTransformer(len(grid), channels, outputs, dim=EMBEDDING * width, **options)


def build_objective(
    denoiser: NetworkDenoiser, codec: ImageCodec, conditions: ImageConditions, dropout: float
) -> Objective:
    """Return the mean squared error of what the network predicts, plus the bound if variances are.

    The bound's weight is Nichol & Dhariwal's .001 of nats per value: they average over values.

    Args:
        denoiser: What is trained.
        codec: Shape of the images.
        conditions: What they are conditioned on.
        dropout: Share of images shown without label and caption, where a given image stays: the
            training drops a label that is alone by itself.
    """
    target = denoiser.process.parameterization  # type: ignore[attr-defined]
    objective: Objective = SimpleLoss(target)
    if denoiser.learned_variance:
        values = int(torch.Size(codec.shape).numel())
        objective = HybridLoss(HYBRID_WEIGHT / values, target=target)
    if conditions.plain:
        return objective
    return ConditionedLoss(
        objective,
        dropout=dropout,
        given_noise=conditions.noise,
        factors=() if conditions.given is None else conditions.given.factors,
    )
