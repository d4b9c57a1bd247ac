r"""A transformer over patches of a grid: DiT, Peebles & Xie 2023.

The grid is cut into patches of p cells a side, filled up with zeros where p does not divide it.
Every patch is a token; where it lies, it is told by sines and cosines of each of its coordinates.
The tokens go through the blocks of `scidiffusion.nn.transformer` (adaLN-Zero, section 3.2 of the
paper), and each output token is laid back as a patch. With p = 1 a token is a cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from scidiffusion.errors import ConfigError
from scidiffusion.images.unet import CONVOLUTIONS, check_state
from scidiffusion.nn import SinusoidalEmbedding, Transformer
from scidiffusion.nn.conditioning import ConditionSpec


class GridTransformer(nn.Module):
    """A denoiser's network of grids, called as `network(z, time, cond)`; see the module.

    Args:
        dims: Dimensions of the grid: 1, 2 or 3.
        channels: Channels of z.
        out_channels: Channels of the output; None is `channels`.
        patch_size: Cells of a patch along each axis.
        dim: Size of a token.
        depth: Number of blocks.
        heads: Heads of every attention; divides `dim`.
        dropout: Probability of dropping a hidden feature, in [0, 1).
        conditions: None, or what `scidiffusion.nn.Transformer` takes.
        context_dim: Size of a token of the context; None is none.

    Raises:
        ConfigError: if an option is impossible; the message names it.
    """

    def __init__(
        self,
        dims: int,
        channels: int,
        out_channels: int | None = None,
        *,
        patch_size: int = 2,
        dim: int = 128,
        depth: int = 6,
        heads: int = 4,
        dropout: float = 0.0,
        conditions: dict[str, ConditionSpec] | nn.Module | None = None,
        context_dim: int | None = None,
    ) -> None:
        super().__init__()
        if dims not in CONVOLUTIONS:
            raise ConfigError(f"a grid has 1, 2 or 3 dimensions, got {dims}")
        if isinstance(patch_size, bool) or not isinstance(patch_size, int) or patch_size < 1:
            raise ConfigError(f"patch_size must be an integer >= 1, got {patch_size!r}")
        out_channels = channels if out_channels is None else out_channels
        self.dims, self.channels, self.out_channels = dims, channels, out_channels
        self.patch_size, cells = patch_size, patch_size**dims
        places = max(2, dim // dims // 2 * 2)
        self.place = SinusoidalEmbedding(places, scale=1.0)
        self.transformer = Transformer(
            cells * channels + dims * places,
            cells * out_channels,
            dim,
            depth,
            heads,
            conditions=conditions,
            context_dim=context_dim,
            dropout=dropout,
        )

    def forward(self, z: Tensor, time: Tensor, cond: Any = None) -> Tensor:
        """Predict from `z` at `time` under `cond`.

        Args:
            z: (B, channels, ...) with `dims` sizes of any value.
            time: (B,) or a scalar, in [0, 1].
            cond: None, or what the conditions and the context ask for.

        Returns:
            (B, out_channels, ...).

        Raises:
            InputError: if `z` has other channels or dimensions.
            ConditionError: if the condition does not fit.
        """
        check_state(z, self.dims, self.channels)
        grid = z.shape[2:]
        counts = [-(-size // self.patch_size) for size in grid]
        padding = [
            part
            for size, count in zip(reversed(grid), reversed(counts), strict=True)
            for part in (0, count * self.patch_size - size)
        ]
        tokens = to_patches(functional.pad(z, padding), self.patch_size)
        places = self._places(counts, tokens).expand(len(z), -1, -1)
        output = self.transformer(torch.cat((tokens, places), -1), time, cond)
        laid = from_patches(output, counts, self.patch_size)
        return laid[(slice(None), slice(None), *(slice(size) for size in grid))]

    def _places(self, counts: Sequence[int], like: Tensor) -> Tensor:
        """The embedding of where each patch lies, (1, N, dims * places)."""
        axes = [torch.arange(count, device=like.device, dtype=torch.float32) for count in counts]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, self.dims)
        return self.place(grid.reshape(-1)).reshape(1, len(grid), -1).to(like.dtype)

    def extra_repr(self) -> str:
        """Name the sizes."""
        return f"dims={self.dims}, patch_size={self.patch_size}"


def to_patches(x: Tensor, size: int) -> Tensor:
    """Cut (B, C, ...) into patches of `size` cells a side: (B, N, C size^dims)."""
    dims = x.ndim - 2
    for axis in range(dims):
        x = x.unflatten(2 + 2 * axis, (-1, size))
    counts = [2 + 2 * axis for axis in range(dims)]
    cells = [3 + 2 * axis for axis in range(dims)]
    return x.permute(0, *counts, 1, *cells).flatten(1 + dims).flatten(1, dims)


def from_patches(tokens: Tensor, counts: Sequence[int], size: int) -> Tensor:
    """Lay patches (B, N, C size^dims) side by side: the inverse of `to_patches`."""
    dims = len(counts)
    x = tokens.reshape(len(tokens), *counts, -1, *[size] * dims)
    order = [part for axis in range(dims) for part in (1 + axis, 2 + dims + axis)]
    x = x.permute(0, 1 + dims, *order)
    return x.reshape(*x.shape[:2], *(count * size for count in counts))
