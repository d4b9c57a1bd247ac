"""Series in groups: many series seen a few at a time, groups of one size as one batch.

An item of D series is cut into groups of about equal size. Those of one size lie beside each other
in the batch, so that a network runs once for all of them, and once more for the smaller last one.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def group_slices(series: int, largest: int) -> list[tuple[slice, int]]:
    """Return the parts of `series` series that are batches of groups, and their group size.

    Args:
        series: Number of series D.
        largest: Series of a group at most.
    """
    count = -(-series // largest)
    size = -(-series // count)
    whole = series // size * size
    parts = [(slice(0, whole), size)]
    return parts if whole == series else [*parts, (slice(whole, series), series - whole)]


def into_batch(value: Tensor, dim: int, size: int) -> Tensor:
    """Move groups of `size` along `dim` into the batch; those of a row stay together.

    Args:
        value: (B, ..., D, ...).
        dim: Place of D.
        size: Divides D.

    Returns:
        (B D / size, ..., size, ...).
    """
    if value.shape[dim] == size:
        return value
    return value.unflatten(dim, (-1, size)).movedim(dim, 1).flatten(0, 1)


def out_of_batch(value: Tensor, dim: int, rows: int) -> Tensor:
    """Undo `into_batch` for a batch of `rows` rows."""
    if value.shape[0] == rows:
        return value
    return value.unflatten(0, (rows, -1)).movedim(1, dim).flatten(dim, dim + 1)


def repeated(value: Tensor, times: int) -> Tensor:
    """Repeat what belongs to a row for each of its groups; what belongs to all rows stays."""
    return value if times == 1 or value.shape[0] == 1 else value.repeat_interleave(times, 0)


def joined(parts: Iterator[Tensor], dim: int) -> Tensor:
    """Concatenate along `dim`, if there is anything to concatenate."""
    tensors = list(parts)
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)
