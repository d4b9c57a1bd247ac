"""Noise that depends on what it is for, not on how the work is cut up.

Every random number of a sampling run is a pure function of

    (seed, stream, row block, step),

so the same seed gives the same rows whatever the batch size, the number of workers or the step at
which an interrupted run resumes. Rows are drawn in fixed blocks of `ROW_BLOCK` (one generator a
row would cost more than the numbers); a batch takes the slices that it needs.

Two sources share one interface, `Noise`: `KeyedNoise` for sampling, validation and likelihoods,
and `GeneratorNoise`, a plain sequential generator, for training.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from scidiffusion.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

ROW_BLOCK = 256
"""Rows whose noise one generator draws: part of what a seed means."""

_WIDE = {torch.float64: np.float64}


class Noise(ABC):
    """A source of independent standard normal and uniform numbers."""

    @abstractmethod
    def normal(self, like: Tensor) -> Tensor:
        """Draw N(0, 1) numbers with the shape, dtype and device of `like`."""

    @abstractmethod
    def uniform(self, like: Tensor) -> Tensor:
        """Draw U[0, 1) numbers with the shape and device of `like` (float32 if integer)."""

    @abstractmethod
    def child(self, name: str) -> Noise:
        """Return a source independent of this one, named `name`."""

    @abstractmethod
    def at(self, step: int) -> Noise:
        """Return the source of step `step` of a sampling loop."""


@dataclass(frozen=True)
class GeneratorNoise(Noise):
    """Sequential noise from one `torch.Generator`: for training, where order is fixed anyway.

    Args:
        generator: Where the numbers come from; None is torch's global generator.
    """

    generator: torch.Generator | None = None

    def normal(self, like: Tensor) -> Tensor:
        """Draw N(0, 1) numbers; see `Noise.normal`."""
        dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
        return torch.randn(like.shape, dtype=dtype, device=like.device, generator=self.generator)

    def uniform(self, like: Tensor) -> Tensor:
        """Draw U[0, 1) numbers; see `Noise.uniform`."""
        dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
        return torch.rand(like.shape, dtype=dtype, device=like.device, generator=self.generator)

    def child(self, name: str) -> GeneratorNoise:
        """Return this source: a sequential generator's draws are independent as they come."""
        return self

    def at(self, step: int) -> GeneratorNoise:
        """Return this source: a sequential generator has no steps."""
        return self


@dataclass(frozen=True)
class KeyedNoise(Noise):
    """Noise as a pure function of (seed, stream, row, step): stateless and safe to share.

    The numbers are made on the CPU (Philox, keyed by a 128-bit hash of the key) and moved to the
    device asked for, so a CPU and a GPU see the same noise.

    Args:
        seed: Any integer.
        start: Index of the first row of the batch in the whole run.
        step: Step of the sampling loop; 0 is the draw from the prior.
        stream: Names that separate independent uses of the same row and step.

    Raises:
        ConfigError: if `seed` is not an integer or `start` is negative.
    """

    seed: int = 0
    start: int = 0
    step: int = 0
    stream: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int | np.integer):
            raise ConfigError(f"seed must be an integer, got {self.seed!r}")
        if self.start < 0:
            raise ConfigError(f"start must be a row index >= 0, got {self.start}")

    def normal(self, like: Tensor) -> Tensor:
        """Draw N(0, 1) numbers for rows start, start + 1, ... of `like`."""
        return self._draw("normal", like, lambda g, n, dt: g.standard_normal(n, dtype=dt))

    def uniform(self, like: Tensor) -> Tensor:
        """Draw U[0, 1) numbers for rows start, start + 1, ... of `like`."""
        draw = self._draw("uniform", like, lambda g, n, dt: g.random(n, dtype=dt))
        # Rounding to half precision may reach 1.
        return draw.clamp_(max=1 - torch.finfo(draw.dtype).eps / 2)

    def child(self, name: str) -> KeyedNoise:
        """Return the independent stream `name` of the same rows and step."""
        return replace(self, stream=(*self.stream, name))

    def at(self, step: int) -> KeyedNoise:
        """Return the source of step `step`."""
        return replace(self, step=step)

    def rows(self, start: int) -> KeyedNoise:
        """Return the source whose first row is row `start` of the run."""
        return replace(self, start=start)

    def _draw(
        self, kind: str, like: Tensor, draw: Callable[[np.random.Generator, int, type], np.ndarray]
    ) -> Tensor:
        count, width = like.shape[0], like.shape[1:].numel()
        wide = _WIDE.get(like.dtype, np.float32)
        first, last = self.start // ROW_BLOCK, (self.start + max(count, 1) - 1) // ROW_BLOCK
        blocks = np.empty(((last - first + 1), ROW_BLOCK, width), dtype=wide)
        for index, block in enumerate(range(first, last + 1)):
            key = repr((int(self.seed), self.stream, kind, block, self.step)).encode()
            digest = hashlib.blake2b(key, digest_size=16).digest()
            generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
            blocks[index] = draw(generator, ROW_BLOCK * width, wide).reshape(ROW_BLOCK, width)
        offset = self.start - first * ROW_BLOCK
        flat = blocks.reshape(len(blocks) * ROW_BLOCK, width)
        rows = torch.from_numpy(flat[offset : offset + count])
        dtype = like.dtype if like.is_floating_point() else torch.float32
        return rows.reshape(like.shape).to(device=like.device, dtype=dtype)
