r"""A U-Net over grids of one, two or three dimensions (Ronneberger et al. 2015; Ho et al. 2020).

Level l of the network sees the grid halved l times, sizes rounded up. On the way down and up each
level has residual blocks, every block of the way up is shown what a block of the way down left
(skip connections):

    block(x) = skip(x) + conv(silu(norm(conv(silu(norm(x))) + W silu(e)))),
    e        = MLP_2(sinusoids(t)) + embed(condition),

with group norms, 3-wide convolutions, and the last convolution of every block, the output of every
attention and that of the network zero at the start. A level is halved by a convolution of stride 2
and doubled by repeating cells, cut to the size that the level above has: so any size goes. With a
context, such as the tokens of a caption, each attention between cells is followed by one from the
cells to the context (Rombach et al. 2022, section 3.3).

Sizes, with c the channels of a block, k = 3^dims and e the size of the embedding, are those of

    block      k c_in c_out + k c_out^2 + e c_out, and c_in c_out where c_in != c_out
    attention  4 c^2; to a context of size d  2 c^2 + 2 c d
    halving, doubling  k c^2
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from scidiffusion.errors import ConfigError, InputError
from scidiffusion.nn import CrossAttention, Modulator, MultiHeadAttention
from scidiffusion.nn.conditioning import ConditionSpec
from scidiffusion.nn.dropout import Dropout
from scidiffusion.nn.transformer import take_context

CONVOLUTIONS: dict[int, type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]] = {
    1: nn.Conv1d,
    2: nn.Conv2d,
    3: nn.Conv3d,
}
"""The convolution of a grid, by its number of dimensions."""
NORM_GROUPS = 8


def convolution(dims: int, inputs: int, outputs: int, *, size: int = 3, stride: int = 1) -> Any:
    """Return a convolution that keeps the size of the grid (stride 1) or halves it, rounded up."""
    return CONVOLUTIONS[dims](inputs, outputs, size, stride=stride, padding=size // 2)


def zeroed(layer: Any) -> Any:
    """Set the parameters of a layer to zero and return it."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def normed(channels: int) -> nn.GroupNorm:
    """Return a group norm of at most `NORM_GROUPS` groups."""
    groups = next(g for g in range(min(NORM_GROUPS, channels), 0, -1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


def check_state(z: Tensor, dims: int, channels: int) -> None:
    """Raise InputError if `z` is not (B, channels, ...) with `dims` sizes of the grid."""
    if z.ndim != dims + 2 or z.shape[1] != channels:
        raise InputError(
            f"z must be (B, {channels}) and {dims} sizes of the grid, got {tuple(z.shape)}"
        )


class ResidualBlock(nn.Module):
    """Two convolutions, with the embedding added between them; see the module.

    Args:
        dims: Dimensions of the grid.
        inputs: Channels in.
        outputs: Channels out.
        embed_dim: Size of the embedding.
        dropout: Probability of dropping a feature between the convolutions.
    """

    def __init__(
        self, dims: int, inputs: int, outputs: int, embed_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.first_norm, self.first = normed(inputs), convolution(dims, inputs, outputs)
        self.embedding = nn.Linear(embed_dim, outputs)
        self.second_norm, self.dropout = normed(outputs), Dropout(dropout)
        self.second = zeroed(convolution(dims, outputs, outputs))
        self.skip: nn.Module = nn.Identity()
        if inputs != outputs:
            self.skip = convolution(dims, inputs, outputs, size=1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map (B, inputs, ...) to (B, outputs, ...) given (B, embed_dim) or (1, embed_dim)."""
        hidden = self.first(functional.silu(self.first_norm(x)))
        added = self.embedding(embedding)
        hidden = hidden + added.reshape(*added.shape, *([1] * (x.ndim - 2)))
        hidden = self.dropout(functional.silu(self.second_norm(hidden)))
        return self.skip(x) + self.second(hidden)


class GridAttention(nn.Module):
    """Self-attention between all cells of a grid, added to them (Ho et al. 2020, appendix B).

    Args:
        channels: Channels of a cell.
        heads: Number of heads; divides `channels`.
        context_dim: Size of a token of a context that the cells attend to as well; None is none.
    """

    def __init__(self, channels: int, heads: int, context_dim: int | None = None) -> None:
        super().__init__()
        self.norm = normed(channels)
        self.attention = MultiHeadAttention(channels, heads)
        zeroed(self.attention.output)
        self.cross_norm: nn.GroupNorm | None = None
        self.cross: CrossAttention | None = None
        if context_dim is not None:
            self.cross_norm = normed(channels)
            self.cross = CrossAttention(channels, heads, context_dim)
            zeroed(self.cross.attention.output)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map (B, channels, ...) to the same shape; `context` is (B, M, context_dim) or None."""
        cells = self.norm(x).flatten(2).transpose(1, 2)
        x = x + self.attention(cells).transpose(1, 2).reshape(x.shape)
        if self.cross is None or self.cross_norm is None or context is None:
            return x
        cells = self.cross_norm(x).flatten(2).transpose(1, 2)
        return x + self.cross(cells, context).transpose(1, 2).reshape(x.shape)


class Level(nn.Module):
    """Residual blocks at one resolution, each followed by attention where it is asked for.

    Args:
        blocks: The blocks.
        attentions: As many attentions, or none.
    """

    def __init__(self, blocks: Sequence[nn.Module], attentions: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks, self.attentions = nn.ModuleList(blocks), nn.ModuleList(attentions)

    def __len__(self) -> int:
        return len(self.blocks)

    def step(
        self, index: int, x: Tensor, embedding: Tensor, context: Tensor | None = None
    ) -> Tensor:
        """Apply block number `index` and its attention."""
        x = self.blocks[index](x, embedding)
        return self.attentions[index](x, context) if len(self.attentions) else x


class UNet(nn.Module):
    """A U-Net for grids; see the module. Called as `network(z, time, cond)`.

    Args:
        dims: Dimensions of the grid: 1, 2 or 3.
        channels: Channels of z.
        out_channels: Channels of the output; None is `channels`. Twice as many for a learned
            variance.
        width: Channels of the first level.
        multipliers: Channels of each level as a multiple of `width`; as many levels as numbers.
        blocks: Residual blocks a level on the way down; the way up has one more.
        attention: Levels with self-attention, 0 the full resolution.
        heads: Heads of every attention.
        dropout: Probability of dropping a feature inside a block, in [0, 1).
        conditions: None, or what `scidiffusion.nn.Modulator` takes: a dict of specifications by
            name or a module.
        embed_dim: Size of the embedding of time and condition; None is 4 width.
        context_dim: Size of a token of the context, for cross-attention wherever there is
            self-attention; None is none.

    Raises:
        ConfigError: if an option is impossible; the message names it.
    """

    def __init__(
        self,
        dims: int,
        channels: int,
        out_channels: int | None = None,
        *,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 2,
        attention: Sequence[int] = (),
        heads: int = 4,
        dropout: float = 0.0,
        conditions: dict[str, ConditionSpec] | nn.Module | None = None,
        embed_dim: int | None = None,
        context_dim: int | None = None,
    ) -> None:
        super().__init__()
        if dims not in CONVOLUTIONS:
            raise ConfigError(f"a grid has 1, 2 or 3 dimensions, got {dims}")
        out_channels = channels if out_channels is None else out_channels
        embed_dim = 4 * width if embed_dim is None else embed_dim
        self.multipliers, self.attention = _levels(multipliers), tuple(attention)
        sizes = {"channels": channels, "out_channels": out_channels, "width": width}
        for name, size in {**sizes, "blocks": blocks, "embed_dim": embed_dim}.items():
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ConfigError(f"{name} must be an integer >= 1, got {size!r}")
        for level in self.attention:
            if isinstance(level, bool) or level not in range(len(self.multipliers)):
                raise ConfigError(
                    f"attention names the level {level!r}; this network has the levels 0 (full "
                    f"resolution) to {len(self.multipliers) - 1}"
                )
        if context_dim is not None and not self.attention:
            raise ConfigError("a context needs a level with attention; attention=() has none")
        self.dims, self.channels, self.out_channels = dims, channels, out_channels
        self.context_dim = context_dim

        def build(inputs: Sequence[int], outputs: int, number: int) -> Level:
            attentions = len(inputs) if number in self.attention else 0
            return Level(
                [ResidualBlock(dims, size, outputs, embed_dim, dropout) for size in inputs],
                [GridAttention(outputs, heads, context_dim) for _ in range(attentions)],
            )

        widths = [width * multiplier for multiplier in self.multipliers]
        self.modulator = Modulator(embed_dim, conditions=conditions)
        self.input = convolution(dims, channels, width)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        left, current = [width], width
        for number, size in enumerate(widths):
            self.down.append(build([current, *[size] * (blocks - 1)], size, number))
            left += [size] * blocks
            current = size
            if number + 1 < len(widths):
                self.shrink.append(convolution(dims, size, size, stride=2))
                left.append(size)
        self.middle = build([current, current], current, len(widths) - 1)
        self.up, self.enlarge = nn.ModuleList(), nn.ModuleList()
        for number, size in reversed(list(enumerate(widths))):
            inputs = [(size if i else current) + left.pop() for i in range(blocks + 1)]
            self.up.append(build(inputs, size, number))
            current = size
            if number:
                self.enlarge.append(convolution(dims, size, size))
        self.output_norm = normed(current)
        self.output = zeroed(convolution(dims, current, out_channels))

    def forward(self, z: Tensor, time: Tensor, cond: Any = None) -> Tensor:
        """Predict from `z` at `time` under `cond`.

        Args:
            z: (B, channels, ...) with `dims` sizes of any value.
            time: (B,) or a scalar, in [0, 1].
            cond: None, or what the conditions ask for, and "context" in a dict of them; a row's
                is absent at -1 or NaN.

        Returns:
            (B, out_channels, ...).

        Raises:
            InputError: if `z` has other channels or dimensions.
            ConditionError: if the condition does not fit.
        """
        check_state(z, self.dims, self.channels)
        context, rest = take_context(cond, self.context_dim, self.modulator.cond is not None)
        embedding = self.modulator(time, rest)
        x = self.input(z)
        left = [x]
        for number, level in enumerate(cast("list[Level]", self.down)):
            for index in range(len(level)):
                x = level.step(index, x, embedding, context)
                left.append(x)
            if number < len(self.shrink):
                x = self.shrink[number](x)
                left.append(x)
        for index in range(2):
            x = self.middle.step(index, x, embedding, context)
        for number, level in enumerate(cast("list[Level]", self.up)):
            for index in range(len(level)):
                x = level.step(index, torch.cat((x, left.pop()), 1), embedding, context)
            if number < len(self.enlarge):
                x = functional.interpolate(x, size=left[-1].shape[2:], mode="nearest")
                x = self.enlarge[number](x)
        return self.output(functional.silu(self.output_norm(x)))

    def extra_repr(self) -> str:
        """Name the sizes."""
        return f"dims={self.dims}, multipliers={self.multipliers}, attention={self.attention}"


def _levels(multipliers: Sequence[int]) -> tuple[int, ...]:
    values = tuple(multipliers)
    if not values or any(isinstance(v, bool) or not isinstance(v, int) or v < 1 for v in values):
        raise ConfigError(
            f"multipliers must be integers >= 1, one a level, such as (1, 2); got {multipliers!r}"
        )
    return values
