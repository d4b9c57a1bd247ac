"""Batches of data that is in memory, cut from one endless shuffled stream.

Write the rows down in an order drawn for epoch 0, then in another for epoch 1, and so on; batch k
is positions kB .. (k + 1)B of that stream. Every row is seen equally often, every batch has the
same shape, and batch k is a function of (seed, k) alone: a run that resumes at step k sees what
it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scidiffusion.core.denoiser import Condition
from scidiffusion.core.process import State, device_of, map_state
from scidiffusion.errors import DataError
from scidiffusion.training.seeding import key_of


class Batch(NamedTuple):
    """Rows that are shown together."""

    x: State
    """Clean data, rows first."""
    cond: Condition
    """Condition of each row, or None."""
    start: int
    """Position of the first row in the stream; keys the noise of an evaluation."""


class Batches:
    """Endless shuffled batches; iterable, so that a Lightning `Trainer` takes it as a loader.

    Args:
        data: A tensor or a dict of tensors (nested if need be), all with the same number of rows.
        cond: None, a tensor or a dict of tensors with that number of rows.
        batch_size: Rows of a batch; capped at the number of rows.
        seed: Seed of the order.
        start: Number of batches to skip: the step at which training resumes.

    Raises:
        DataError: if there are no rows, the numbers of rows differ, or `data` is not finite.
    """

    def __init__(
        self,
        data: State,
        cond: Condition = None,
        *,
        batch_size: int,
        seed: int = 0,
        start: int = 0,
    ) -> None:
        self.rows = check_rows(data, cond)
        self.data, self.cond = data, cond
        self.batch_size = min(batch_size, self.rows)
        self.seed, self.start = seed, start

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches start, start + 1, ... without end."""
        position, epoch, order = self.start * self.batch_size, -1, torch.empty(0)
        while True:
            if position // self.rows != epoch:
                epoch = position // self.rows
                order = self._order(epoch)
            offset = position - epoch * self.rows
            index = order[offset : offset + self.batch_size]
            missing = self.batch_size - len(index)
            if missing:
                epoch += 1
                order = self._order(epoch)
                index = torch.cat([index, order[:missing]])
            yield take(self.data, self.cond, index, position)
            position += self.batch_size

    def _order(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(key_of(self.seed, "order", epoch))
        return torch.randperm(self.rows, generator=generator).to(device_of(self.data))


class EvaluationBatches:
    """The same draws every time: rows in a fixed order, repeated to `draws` of them.

    Args:
        data: As for `Batches`.
        cond: As for `Batches`.
        batch_size: Rows of a batch; the last may be smaller.
        draws: Number of rows in all. Where the data has fewer they come round again (with other
            noise, since noise is keyed by the position); where it has more, a fixed random
            part of them is used.
        seed: Seed of the order.

    Raises:
        DataError: as `Batches`.
    """

    def __init__(
        self,
        data: State,
        cond: Condition = None,
        *,
        batch_size: int,
        draws: int,
        seed: int = 0,
    ) -> None:
        rows = check_rows(data, cond)
        self.data, self.cond, self.batch_size = data, cond, batch_size
        generator = torch.Generator().manual_seed(key_of(seed, "evaluation order"))
        order = torch.randperm(rows, generator=generator)
        self.index = order[torch.arange(draws) % rows].to(device_of(data))

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.index) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches."""
        for start in range(0, len(self.index), self.batch_size):
            index = self.index[start : start + self.batch_size]
            yield take(self.data, self.cond, index, start)


def take(data: State, cond: Condition, index: Tensor, start: int) -> Batch:
    """Return the rows `index` of data and condition as a batch."""

    def select(value: Tensor) -> Tensor:
        return value.index_select(0, index)

    return Batch(map_state(select, data), None if cond is None else map_state(select, cond), start)


def check_rows(data: State, cond: Condition = None) -> int:
    """Return the number of rows.

    Raises:
        DataError: if there are none, the parts' numbers differ, or `data` is not finite (a
            condition may hold NaN: it means "absent").
    """
    parts = dict(_tensors(data, "data"))
    if not parts:
        raise DataError("there is no data to train on: the data is an empty dict")
    first, head = next(iter(parts.items()))
    rows = head.shape[0] if head.ndim else 1
    if rows < 1:
        raise DataError("there is no data to train on: it has 0 rows")
    for name, part in (*parts.items(), *_tensors(cond, "cond")):
        if part.ndim == 0 or part.shape[0] != rows:
            found = "no row dimension" if part.ndim == 0 else f"{part.shape[0]} rows"
            raise DataError(f"{name} has {found}, but {first} has {rows} rows")
    for name, part in parts.items():
        if part.is_floating_point() and not bool(torch.isfinite(part).all()):
            bad = ~torch.isfinite(part).reshape(rows, -1).all(1)
            row = int(bad.nonzero()[0, 0])
            raise DataError(
                f"{name} holds NaN or infinity in {int(bad.sum())} rows, first in row {row}; "
                "fill or drop these values before training"
            )
    return rows


def _tensors(state: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) for every tensor of a state or a condition."""
    if state is None:
        return
    if isinstance(state, Mapping):
        for key, value in state.items():
            yield from _tensors(value, f"{name}[{key!r}]")
    elif isinstance(state, Tensor):
        yield name, state
    else:
        raise DataError(
            f"{name} must be a tensor or a dict of tensors, got {type(state).__name__}"
        )
