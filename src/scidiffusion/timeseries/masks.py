"""Which cells training hides: everything that may be asked for later.

Single cells at a random rate, gaps in one series, gaps in all series at once, the future, or the
whole window (from which generation starts), one pattern a window.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scidiffusion.core.rng import Noise

PATTERNS = ("cells", "gap", "common_gap", "future", "all")
SHARES = (0.45, 0.2, 0.15, 0.1, 0.1)


def random_mask(shape: tuple[int, int, int], horizon: int, noise: Noise, like: Tensor) -> Tensor:
    """Return (B, D, L) bool, true where a cell is hidden.

    Args:
        shape: (B, D, L).
        horizon: Longest future that is hidden.
        noise: Source.
        like: A tensor of the device.
    """
    rows, dim, length = shape

    def uniform(name: str, *size: int) -> Tensor:
        return noise.child(name).uniform(like.new_empty(rows, *size))

    step = torch.arange(length, device=like.device)
    kind = torch.searchsorted(
        torch.tensor(SHARES, device=like.device).cumsum(0), uniform("pattern", 1)[:, 0]
    ).clamp(max=len(PATTERNS) - 1)
    rate = 0.05 + 0.9 * uniform("rate", 1, 1)
    cells = uniform("cells", dim, length) < rate

    def gap(name: str, series: int) -> Tensor:
        width = 1 + (uniform(f"{name} width", series, 1) * (length // 2)).floor()
        first = (uniform(f"{name} first", series, 1) * (length - width + 1)).floor()
        return ((step >= first) & (step < first + width)).expand(rows, dim, length)

    ahead = 1 + (uniform("future", 1, 1) * horizon).floor()
    future = (step >= length - ahead).expand(rows, dim, length)
    choices = torch.stack(
        [cells, gap("gap", dim), gap("common", 1), future, torch.ones_like(cells)]
    )
    chosen = kind.view(1, rows, 1, 1).expand(1, rows, dim, length)
    return choices.gather(0, chosen)[0]
