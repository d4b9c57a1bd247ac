r"""The denoiser's network: patches of time as tokens, attention over time and over series.

A token is one series over `patch` steps. An encoder sees the channels of all cells of a window,
once; the denoiser sees the noisy residuals of the tokens that hold hidden cells, as often as
samples and steps ask, modulated by what the encoder says of the token and by the noise level:

    h = encode(channels),      F = decode(c_in z, h, log sigma).

Both are stacks of axial blocks: attention over the tokens of a series, attention over the series
at a token's time (Kossen et al. 2021 and Tashiro et al. 2021 alternate so), a perceptron. Series
carry no position, so the order in which they come does not matter; what tells them apart is an
embedding of their own. With one series, or one token, the attention in question is left out.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from scidiffusion.nn.attention import MultiHeadAttention
from scidiffusion.nn.conditioning import zeroed
from scidiffusion.nn.dropout import Dropout
from scidiffusion.nn.embeddings import SinusoidalEmbedding
from scidiffusion.timeseries.features import Layout


@dataclass(frozen=True)
class NetworkSize:
    """Sizes of the network.

    Args:
        patch: Steps of a token.
        tokens: Tokens of a window.
        series: Number of series that have an embedding; 0 for none.
        classes: Number of levels of each static class.
        static_real: Number of static reals.
        multivariate: Whether series attend to each other.
        width: Features of a token.
        encoder_blocks: Blocks of the encoder.
        blocks: Blocks of the denoiser.
        heads: Heads of attention.
        dropout: Probability of dropping a hidden feature.
    """

    patch: int
    tokens: int
    series: int = 0
    classes: tuple[int, ...] = ()
    static_real: int = 0
    multivariate: bool = True
    width: int = 128
    encoder_blocks: int = 2
    blocks: int = 3
    heads: int = 4
    dropout: float = 0.1


class Modulation(nn.Module):
    """Scales, shifts and gates as a function of the noise level plus one of the token.

    A sum of two linear maps is evaluated once a noise level and once a window; one map of both
    together would be evaluated for each pair of them, and cost more than the blocks.

    Args:
        width: Features of the level and of the token.
        count: Number of vectors of `width` features.
    """

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.level = zeroed(nn.Linear(width, count * width))
        self.token = zeroed(nn.Linear(width, count * width))

    def forward(self, level: Tensor, token: Tensor) -> tuple[Tensor, ...]:
        """Return `count` tensors that broadcast over (B, S, D, n, width).

        Args:
            level: (B, S, 1, 1, width).
            token: (B, 1, D, n, width).
        """
        return (self.level(level) + self.token(token)).chunk(self.count, -1)


class AxialBlock(nn.Module):
    """Attention over time, attention over series and a perceptron; see the module.

    Args:
        size: Sizes.
        modulated: Whether level and token modulate it (adaLN-Zero); else a plain pre-norm block.
    """

    def __init__(self, size: NetworkSize, *, modulated: bool) -> None:
        super().__init__()
        width = size.width
        self.branches = nn.ModuleDict()
        if size.tokens > 1:
            self.branches["time"] = MultiHeadAttention(width, size.heads)
        if size.multivariate:
            self.branches["series"] = MultiHeadAttention(width, size.heads)
        self.branches["mlp"] = nn.Sequential(
            nn.Linear(width, 2 * width),
            nn.SiLU(),
            Dropout(size.dropout),
            nn.Linear(2 * width, width),
        )
        self.norms = nn.ModuleDict(
            {name: nn.LayerNorm(width, elementwise_affine=not modulated) for name in self.branches}
        )
        self.modulation = Modulation(width, 3 * len(self.branches)) if modulated else None

    def forward(
        self,
        x: Tensor,
        level: Tensor | None = None,
        token: Tensor | None = None,
        last: int | None = None,
    ) -> Tensor:
        """Transform tokens.

        Args:
            x: (B, S, D, n, width).
            level: (B, S, 1, 1, width), where the block is modulated.
            token: (B, 1, D, n, width), likewise.
            last: Return so many tokens of each series, those at the end, which see all others;
                of a block that is not modulated. Default: all.
        """
        parts = None
        if self.modulation is not None and level is not None and token is not None:
            parts = iter(self.modulation(level, token))
        for name, branch in self.branches.items():
            if parts is None:
                h = self.norms[name](x)
                x = x if last is None else x[..., -last:, :]
                x = x + self._branch(name, branch, h, last)
                continue
            scale, shift, gate = next(parts), next(parts), next(parts)
            if name == "time" and x.shape[-2] == 1:
                continue  # a single token has nobody to attend to
            h = torch.addcmul(shift, self.norms[name](x), 1 + scale)
            x = x + gate * self._branch(name, branch, h)
        return x

    @staticmethod
    def _branch(name: str, branch: nn.Module, h: Tensor, last: int | None = None) -> Tensor:
        if name == "time":
            return branch(h.flatten(0, 2), last=last).unflatten(0, h.shape[:3])
        h = h if last is None else h[..., -last:, :]
        if name == "series":
            moved = h.transpose(-2, -3)  # (B, S, n, D, width)
            return branch(moved.flatten(0, 2)).unflatten(0, moved.shape[:3]).transpose(-2, -3)
        return branch(h)


class WindowNetwork(nn.Module):
    """Encoder of windows and denoiser of residuals; see the module.

    Args:
        layout: Channels of a cell.
        size: Sizes.
        bf16: Multiply matrices in bfloat16.
    """

    def __init__(self, layout: Layout, size: NetworkSize, *, bf16: bool = False) -> None:
        super().__init__()
        width = size.width
        self.layout, self.size, self.bf16 = layout, size, bf16
        self.read = nn.Linear(layout.channels * size.patch, width)
        self.summary = nn.Linear(layout.summaries + size.static_real, width)
        self.place = nn.Parameter(0.02 * torch.randn(size.tokens, width))
        self.series = nn.Embedding(size.series, width) if size.series else None
        self.classes = nn.ModuleList(nn.Embedding(levels + 1, width) for levels in size.classes)
        if self.series is not None:
            nn.init.normal_(self.series.weight, std=0.02)
        self.encoder = nn.ModuleList(
            AxialBlock(size, modulated=False) for _ in range(size.encoder_blocks)
        )
        self.encoded = nn.LayerNorm(width)
        self.noise_level = nn.Sequential(
            SinusoidalEmbedding(32, scale=10.0, max_period=100.0),
            nn.Linear(32, width),
            nn.SiLU(),
            nn.Linear(width, width),
        )
        self.noisy = nn.Linear(2 * size.patch, width)
        self.blocks = nn.ModuleList(AxialBlock(size, modulated=True) for _ in range(size.blocks))
        self.final = Modulation(width, 2)
        self.output = zeroed(nn.Linear(width, size.patch))

    def _precision(self, like: Tensor) -> Any:
        return torch.autocast(like.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def encode(
        self,
        channels: Tensor,
        summaries: Tensor,
        series: Tensor,
        static_real: Tensor,
        static_cat: Tensor,
        last: int | None = None,
    ) -> Tensor:
        """Encode windows.

        Args:
            channels: (B, D, channels, tokens * patch).
            summaries: (B, D, summaries).
            series: (D,) which series these are, or (B, D) for each window.
            static_real: (B, R).
            static_cat: (B, C); -1 for a class never seen.
            last: Tokens at the end that are returned: the last block works on them alone.

        Returns:
            (B, D, tokens, width), or (B, D, last, width).
        """
        with self._precision(channels):
            patches = channels.unflatten(-1, (-1, self.size.patch)).transpose(-2, -3)
            x = self.read(patches.flatten(-2))
            real = static_real[:, None].expand(-1, summaries.shape[1], -1)
            about = self.summary(torch.cat([summaries, real], -1))
            if self.series is not None:
                about = about + self.series(series)
            for index, table in enumerate(self.classes):
                # A class that training did not have is the class "none".
                level = static_cat[:, index]
                level = torch.where(level < self.size.classes[index], level, -1)
                about = about + table(level + 1)[:, None]
            x = (x + about.unsqueeze(-2) + self.place[-x.shape[-2] :]).unsqueeze(1)
            for index, block in enumerate(self.encoder):
                x = block(x, last=last if index == len(self.encoder) - 1 else None)
            x = x if last is None else x[..., -last:, :]
            return self.encoded(x.squeeze(1)).float()

    def forward(self, z: Tensor, c_noise: Tensor, h: Tensor, seen: Tensor | None = None) -> Tensor:
        """Predict from noisy residuals.

        Args:
            z: (B, S, D, Z) residuals of unit variance; 0 where there is nothing to see.
            c_noise: (B, S) or (1, 1).
            h: (B, D, Z / patch, width) of the encoder.
            seen: (B, D, Z) bool, cells whose z means something; default all.

        Returns:
            (B, S, D, Z) float32.
        """
        with self._precision(z):
            if seen is None:
                flags = torch.ones_like(z[:, :1])
            else:
                flags = seen[:, None].float()
            flags = flags.expand_as(z)
            patch = self.size.patch
            cells = torch.cat([z.unflatten(-1, (-1, patch)), flags.unflatten(-1, (-1, patch))], -1)
            level = self.noise_level(c_noise)[:, :, None, None]
            h = h[:, None].to(level.dtype)
            x = self.noisy(cells) + h
            level, token = functional.silu(level), functional.silu(h)
            for block in self.blocks:
                x = block(x, level, token)
            scale, shift = self.final(level, token)
            return self.output(torch.addcmul(shift, x, 1 + scale)).flatten(-2).float()
