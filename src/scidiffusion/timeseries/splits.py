"""Which windows are trained on and which judge the training.

Where there are many items, a share of the items is held out whole, so that the latest values of
the others stay in. Where there are few, the last part of each is held out: no training window
reaches into it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scidiffusion.errors import DataError

MANY_ITEMS = 20
MAX_ROWS = 2_000_000


@dataclass(frozen=True)
class WindowRows:
    """Names of windows: item and origin, (N,) each."""

    item: Tensor
    end: Tensor

    def state(self) -> dict[str, Tensor]:
        """As training data."""
        return {"item": self.item, "end": self.end}

    def __len__(self) -> int:
        return len(self.item)

    def pick(self, count: int, seed: int) -> WindowRows:
        """Return at most `count` of them, spread at random."""
        if len(self) <= count:
            return self
        index = np.sort(np.random.default_rng(seed).choice(len(self), count, replace=False))
        chosen = torch.from_numpy(index)
        return WindowRows(self.item[chosen], self.end[chosen])


def split_windows(
    length: Tensor, horizon: int, shortest_past: int, fraction: float, seed: int
) -> tuple[WindowRows, WindowRows]:
    """Return the windows to train on and those that are held out.

    Args:
        length: (N,) steps of each item.
        horizon: Steps H of a target; it lies within the item.
        shortest_past: Steps before an origin at least, where the item has as many to spare.
        fraction: Share that is held out, in [0, 0.5]; 0 judges by training windows.
        seed: Seed of the choice of items.

    Raises:
        DataError: if no item is long enough for one window.
    """
    lengths = length.tolist()
    usable = [index for index, size in enumerate(lengths) if size >= horizon + 1]
    if not usable:
        raise DataError(
            f"every series is too short: the longest has {max(lengths)} steps, and a window needs "
            f"at least {horizon + 1} (one step of history and prediction_length = {horizon})"
        )
    if len(usable) >= MANY_ITEMS and fraction > 0:
        order = np.random.default_rng(seed).permutation(usable)
        held = set(order[: max(1, round(fraction * len(usable)))].tolist())
        train = _rows([i for i in usable if i not in held], lengths, horizon, shortest_past)
        return train, latest_windows(length, sorted(held), horizon)
    first, last = [], []
    for index in usable:
        size = lengths[index]
        start = min(shortest_past, size - horizon)
        reserve = max(horizon, round(fraction * size)) if fraction > 0 else 0
        # The held-out targets begin where the training targets end.
        boundary = size - reserve
        ends = np.arange(start, size - horizon + 1)
        inside = ends + horizon <= boundary if reserve else np.ones(len(ends), dtype=bool)
        if reserve and not inside.any():
            inside = np.ones(len(ends), dtype=bool)
        first.append((index, ends[inside]))
        last.append(
            (index, ends[ends >= boundary] if reserve and (ends >= boundary).any() else ends)
        )
    return _join(first), _join(last)


def latest_windows(length: Tensor, items: Iterable[int], horizon: int) -> WindowRows:
    """Return the windows at the end of items: what comes next resembles these.

    Raises:
        DataError: if no item has more than `horizon` steps.
    """
    lengths = length.tolist()
    usable = [index for index in items if lengths[index] > horizon]
    if not usable:
        raise DataError(
            f"no series of the validation data has more than prediction_length = {horizon} steps"
        )
    return _join(
        [
            (i, np.arange(max(lengths[i] - 2 * horizon, 1), lengths[i] - horizon + 1))
            for i in usable
        ]
    )


def _rows(items: list[int], lengths: list[int], horizon: int, shortest_past: int) -> WindowRows:
    parts = []
    for index in items:
        start = min(shortest_past, lengths[index] - horizon)
        parts.append((index, np.arange(start, lengths[index] - horizon + 1)))
    return _join(parts)


def _join(parts: list[tuple[int, np.ndarray]]) -> WindowRows:
    total = sum(len(ends) for _, ends in parts)
    # Neighbouring origins share nearly everything: beyond so many, thin them out evenly.
    stride = max(1, -(-total // MAX_ROWS))
    items = np.concatenate([np.full(len(ends[::stride]), index) for index, ends in parts])
    ends = np.concatenate([ends[::stride] for _, ends in parts])
    return WindowRows(torch.from_numpy(items.astype(np.int64)), torch.from_numpy(ends))
