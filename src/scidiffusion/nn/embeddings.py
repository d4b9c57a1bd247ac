r"""Sines and cosines: how a network is told a number it must resolve finely.

A multilayer perceptron learns slowly varying functions of its inputs first. Sines and cosines of
an input at many frequencies turn fine differences into large ones:

    sinusoidal     [sin(s t w_i), cos(s t w_i)],  w_i = P^(-i / h),  i = 0 .. h-1
    random         [sin(2 pi B v), cos(2 pi B v)],  B_ij ~ N(0, bandwidth^2), drawn once
    coordinates    [z, sin(f_1 z), ..., sin(f_F z), cos(f_1 z), ..., cos(f_F z)]

The first two embed the time; the last one opens the raw coordinates of low-dimensional data, where
a plain perceptron cannot resolve the narrow features of the score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from scidiffusion.errors import ConfigError

DEFAULT_FREQUENCIES = (0.5, 1.0, 2.0, 3.0, 4.5, 6.0)
"""Angular frequencies that resolve standardised coordinates down to about half a unit."""


def _even(name: str, dim: int) -> int:
    if dim < 2 or dim % 2:
        raise ConfigError(f"{name}: dim must be even and >= 2 (sines and cosines), got {dim}")
    return dim


def _at_least_single(x: Tensor) -> Tensor:
    # Half precision holds about 3 digits: too few for the phase scale * t.
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


class SinusoidalEmbedding(nn.Module):
    """Sines and cosines of a real at geometric frequencies.

    Vaswani et al. 2017, section 3.5, with the sines before the cosines; Ho et al. 2020, appendix
    B, use it for the step k = 1 .. T of a diffusion. With `scale` = T the time t = k / T of this
    library gives the embedding of step k.

    Args:
        dim: Size of the embedding, even.
        scale: What the input is multiplied with; 1000 suits times in [0, 1], 1 integer positions.
        max_period: The longest period is nearly 2 pi max_period / scale.

    Raises:
        ConfigError: if `dim` is odd or another argument is not positive.
    """

    def __init__(self, dim: int, scale: float = 1000.0, max_period: float = 10000.0) -> None:
        super().__init__()
        self.dim = _even("SinusoidalEmbedding", dim)
        if not scale > 0 or not max_period > 0:
            raise ConfigError(
                f"scale and max_period must be positive, got {scale} and {max_period}"
            )
        self.scale, self.max_period = float(scale), float(max_period)

    def forward(self, x: Tensor) -> Tensor:
        """Embed `x` (...,) as (..., dim), in float32 or, for a float64 input, in float64."""
        x = _at_least_single(x)
        half = self.dim // 2
        # Made anew from Python numbers: a buffer would lose its digits in `network.bfloat16()`.
        index = torch.arange(half, device=x.device, dtype=x.dtype)
        frequencies = self.scale * torch.exp(index * (-math.log(self.max_period) / half))
        phase = x.unsqueeze(-1) * frequencies
        return torch.cat((phase.sin(), phase.cos()), -1)

    def extra_repr(self) -> str:
        """Name the options."""
        return f"dim={self.dim}, scale={self.scale:g}, max_period={self.max_period:g}"


class RandomFourierFeatures(nn.Module):
    """Sines and cosines of random projections: Tancik et al. 2020, eq. 5 and section 5.

    The frequencies are drawn once from `seed` and never trained; they are saved with the model.

    Args:
        dim: Size of the embedding, even.
        bandwidth: Standard deviation of the frequencies, in cycles per unit of the input.
        seed: Seed of the frequencies.
        in_dim: Number of inputs; None embeds single numbers, (...,) as (..., dim).

    Raises:
        ConfigError: if `dim` is odd, or `bandwidth` or `in_dim` is not positive.
    """

    def __init__(
        self, dim: int, bandwidth: float = 16.0, seed: int = 0, in_dim: int | None = None
    ) -> None:
        super().__init__()
        self.dim = _even("RandomFourierFeatures", dim)
        if not bandwidth > 0 or (in_dim is not None and in_dim < 1):
            raise ConfigError(
                f"bandwidth and in_dim must be positive, got {bandwidth} and {in_dim}"
            )
        self.bandwidth, self.seed, self.in_dim = float(bandwidth), int(seed), in_dim
        generator = torch.Generator().manual_seed(self.seed)
        draw = torch.randn(in_dim or 1, dim // 2, generator=generator, dtype=torch.float32)
        self.frequencies: Tensor
        self.register_buffer("frequencies", self.bandwidth * draw)

    def forward(self, x: Tensor) -> Tensor:
        """Embed `x` (...,), or (..., in_dim) where `in_dim` is given, as (..., dim)."""
        x = _at_least_single(x)
        x = x.unsqueeze(-1) if self.in_dim is None else x
        # A broadcast product for one input: a matrix product would be rounded under autocast.
        frequencies = self.frequencies.to(x.dtype)
        turns = x * frequencies[0] if len(frequencies) == 1 else x @ frequencies
        phase = 2 * math.pi * turns
        return torch.cat((phase.sin(), phase.cos()), -1)

    def extra_repr(self) -> str:
        """Name the options."""
        inputs = "" if self.in_dim is None else f", in_dim={self.in_dim}"
        return f"dim={self.dim}, bandwidth={self.bandwidth:g}, seed={self.seed}{inputs}"


class FourierCoordinates(nn.Module):
    """Raw coordinates together with their sines and cosines at fixed angular frequencies.

    The raw coordinates stay in front, so that a linear function of them remains linear.

    Args:
        frequencies: Angular frequencies f_1 .. f_F, radians per unit of a coordinate.

    Raises:
        ConfigError: if there is no frequency, or one is not positive and finite.
    """

    def __init__(self, frequencies: Sequence[float] = DEFAULT_FREQUENCIES) -> None:
        super().__init__()
        values = tuple(float(value) for value in frequencies)
        if not values or not all(0 < value < math.inf for value in values):
            raise ConfigError(f"frequencies must be positive numbers, at least one; got {values}")
        self.values = values
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.tensor(values, dtype=torch.float32))

    def out_dim(self, in_dim: int) -> int:
        """Return the number of features that `in_dim` coordinates give: in_dim (1 + 2 F)."""
        return in_dim * (1 + 2 * len(self.values))

    def forward(self, z: Tensor) -> Tensor:
        """Map (..., d) to (..., d (1 + 2 F)): z, all sines, all cosines, by rising index."""
        phase = (z.unsqueeze(-2) * self.frequencies.to(z.dtype).unsqueeze(-1)).flatten(-2)
        return torch.cat((z, phase.sin(), phase.cos()), -1)

    def extra_repr(self) -> str:
        """Name the frequencies."""
        return f"frequencies={self.values}"


class TimeEmbedding(nn.Module):
    """An embedding of the time followed by a two-layer perceptron.

    Args:
        dim: Size of the output.
        kind: "sinusoidal" (Ho et al. 2020) for times in [0, 1], or "fourier" (Song et al. 2021,
            appendix H), random features; "fourier" also suits c_noise = log(sigma) / 4.
        hidden: Width of the perceptron; None is `dim`.
        features: Size of the embedding under the perceptron, even; None is `dim`, at most 128.
        scale: What the time is multiplied with (sinusoidal).
        bandwidth: Standard deviation of the frequencies (fourier).
        seed: Seed of the frequencies (fourier).

    Raises:
        ConfigError: if `kind` is unknown or a size is impossible.
    """

    def __init__(
        self,
        dim: int,
        kind: Literal["sinusoidal", "fourier"] = "sinusoidal",
        hidden: int | None = None,
        *,
        features: int | None = None,
        scale: float = 1000.0,
        bandwidth: float = 16.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        hidden = dim if hidden is None else hidden
        if dim < 1 or hidden < 1:
            raise ConfigError(f"TimeEmbedding: sizes must be >= 1, got {dim} and {hidden}")
        features = max(2, min(dim - dim % 2, 128)) if features is None else features
        self.dim, self.kind = dim, kind
        self.embedding: nn.Module
        if kind == "sinusoidal":
            self.embedding = SinusoidalEmbedding(features, scale=scale)
        elif kind == "fourier":
            self.embedding = RandomFourierFeatures(features, bandwidth=bandwidth, seed=seed)
        else:
            raise ConfigError(f"time embedding must be 'sinusoidal' or 'fourier', got {kind!r}")
        self.inner = nn.Linear(features, hidden)
        self.outer = nn.Linear(hidden, dim)

    def forward(self, time: Tensor) -> Tensor:
        """Embed `time` (B,) as (B, dim), in the precision of the parameters."""
        features = self.embedding(time).to(self.inner.weight.dtype)
        return self.outer(nn.functional.silu(self.inner(features)))
