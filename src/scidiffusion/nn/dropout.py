"""Dropout whose mask is made of random bytes.

torch draws a CPU mask one Bernoulli number at a time, which costs as much as the matrix products
of a small network. Eight bytes of one 64-bit draw are eight numbers, so that the probability is a
multiple of 1/256; what is kept is scaled by that probability exactly.

References:
    Srivastava et al. 2014.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from scidiffusion.errors import ConfigError

__all__ = ["Dropout"]


class Dropout(nn.Module):
    """Zero each feature with probability p in training, and scale the others by 1 / (1 - p).

    Args:
        p: In [0, 1); on the CPU rounded to a multiple of 1/256.

    Raises:
        ConfigError: if p is out of range.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ConfigError(f"dropout must be at least 0 and below 1, got {p!r}")
        self.p = float(p)

    def extra_repr(self) -> str:
        """Show the probability."""
        return f"p={self.p:g}"

    def forward(self, x: Tensor) -> Tensor:
        """Return x with some of its features zeroed, of the same shape."""
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return functional.dropout(x, self.p)
        # From -2^63 on without an end: all 64 bits are random.
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        dropped = min(max(round(256 * self.p), 1), 255)
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
        return x * kept.to(x.dtype).mul_(256 / (256 - dropped))
