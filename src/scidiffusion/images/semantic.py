r"""The semantic code of an image: a small network that looks at it, inside the denoiser.

    code = E(x) = W pool(silu(norm(h_L(... h_1(x))))),     eps or v = F(z_t, t, code),

with h the residual blocks of the way down of a U-Net, halved alike, the lowest grid averaged to at
most 4 cells a side, and W linear onto the numbers of the code. E is a part of F's condition, so
that one loss trains both: what E tells is whatever helps to take noise from x (the "semantic
encoder" of Preechakul et al. 2022). F adds an embedding of the code to that of time, in every
block; the paper scales channels by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from scidiffusion.core import NetworkDenoiser
from scidiffusion.errors import ConditionError, ConfigError
from scidiffusion.estimator import check_positive
from scidiffusion.images.building import (
    EMBEDDING,
    SMALLEST_GRID,
    build_process,
    grid_sizes,
    with_levels,
)
from scidiffusion.images.codec import ImageCodec
from scidiffusion.images.unet import (
    GridAttention,
    Level,
    ResidualBlock,
    UNet,
    convolution,
    normed,
)
from scidiffusion.nn.conditioning import VectorCondition

POOLS = {
    1: functional.adaptive_avg_pool1d,
    2: functional.adaptive_avg_pool2d,
    3: functional.adaptive_avg_pool3d,
}


class SemanticEncoder(nn.Module):
    """Images to codes; see the module. A code does not depend on the images beside it.

    Args:
        shape: Channels and sizes of the grid, (C, ...).
        code_dim: Numbers of a code.
        width: Channels of the first level.
        multipliers: Channels of each level as a multiple of `width`.
        blocks: Residual blocks a level.
        attention: Levels with self-attention, 0 the full resolution.
        heads: Heads of every attention.
        dropout: Probability of dropping a feature inside a block, in [0, 1).
    """

    def __init__(
        self,
        shape: Sequence[int],
        code_dim: int,
        *,
        width: int,
        multipliers: Sequence[int],
        blocks: int,
        attention: Sequence[int],
        heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        dims, current = len(shape) - 1, width
        self.input = convolution(dims, shape[0], width)
        self.levels, self.shrink = nn.ModuleList(), nn.ModuleList()
        for number, multiplier in enumerate(multipliers):
            size = width * multiplier
            # There is no time here: the blocks' embedding is one zero, of which a bias is left.
            parts = [
                ResidualBlock(dims, size if index else current, size, 1, dropout)
                for index in range(blocks)
            ]
            attended = blocks if number in attention else 0
            self.levels.append(Level(parts, [GridAttention(size, heads) for _ in range(attended)]))
            current = size
            if number + 1 < len(multipliers):
                self.shrink.append(convolution(dims, size, size, stride=2))
        lowest = grid_sizes(shape[1:], len(multipliers))[-1]
        self.cells = tuple(min(size, SMALLEST_GRID) for size in lowest)
        self.norm = normed(current)
        self.output = nn.Linear(current * int(torch.Size(self.cells).numel()), code_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map scaled images (B, C, ...) to codes (B, code_dim)."""
        nothing = x.new_zeros(1, 1)
        x = self.input(x)
        for number, level in enumerate(cast("list[Level]", self.levels)):
            for index in range(len(level)):
                x = level.step(index, x, nothing)
            if number < len(self.shrink):
                x = self.shrink[number](x)
        x = functional.silu(self.norm(x))
        if x.shape[2:] != self.cells:
            pool: Any = POOLS[x.ndim - 2]
            x = pool(x, self.cells)
        return self.output(x.flatten(1))


class SemanticCondition(nn.Module):
    """What embeds the condition of a denoiser: an image, by its code, or a code.

    Args:
        encoder: Images to codes.
        code_dim: Numbers of a code.
        dim: Size of the embedding.
    """

    def __init__(self, encoder: SemanticEncoder, code_dim: int, dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.code = VectorCondition(code_dim, dim)

    def forward(self, value: Tensor | None) -> Tensor:
        """Embed as (B, dim); None, absent everywhere, gives (1, dim).

        Args:
            value: Scaled images (B, C, ...) or codes (B, code_dim); a row's is absent at NaN.

        Raises:
            ConditionError: if it is neither.
        """
        if value is None or value.ndim == 2:
            return self.code(value)
        if value.ndim < 2:
            raise ConditionError(
                f"the condition must be images (B, C, ...) or codes (B, {self.code.in_dim}), got "
                f"{tuple(value.shape)}"
            )
        absent = value.flatten(1).isnan().any(1, keepdim=True)
        seen = self.encoder(value.nan_to_num())
        return self.code(seen.masked_fill(absent, torch.nan))


def build_autoencoder(
    codec: ImageCodec,
    code_dim: int,
    *,
    seed: int,
    parameterization: str,
    sizes: Mapping[str, Any],
) -> NetworkDenoiser:
    """Return an untrained denoiser that sees the semantic code of the image.

    Args:
        codec: Shape of the images.
        code_dim: Numbers of a code.
        seed: Seed of the first weights.
        parameterization: "v", "eps" or "x0".
        sizes: Options of the `UNet` and of the `SemanticEncoder`, which is of the same sizes;
            multipliers and attention may be None: chosen by the grid.

    Raises:
        ConfigError: if an option is impossible.
    """
    process = build_process(parameterization, False, codec)
    grid = codec.shape[1:]
    for name, size in (("code_dim", code_dim), ("width", sizes["width"])):
        if check_positive(size, name) is None:
            raise ConfigError(f"{name} must be an integer >= 1, got None")
    sizes = with_levels(sizes, grid)
    embed_dim = EMBEDDING * sizes["width"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # The U-Net first: it says what is wrong with sizes.
        network = UNet(len(grid), codec.shape[0], embed_dim=embed_dim, **sizes)
        encoder = SemanticEncoder(codec.shape, code_dim, **sizes)
        network.modulator.cond = SemanticCondition(encoder, code_dim, embed_dim)
    return NetworkDenoiser(network, process, channel_dim=1)


def encoder_of(denoiser: NetworkDenoiser) -> SemanticEncoder:
    """Return the encoder inside a denoiser of `build_autoencoder`."""
    condition = cast(UNet, denoiser.network).modulator.cond
    return cast(SemanticCondition, condition).encoder
