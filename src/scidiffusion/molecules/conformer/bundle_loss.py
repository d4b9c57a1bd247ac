"""What losses over bundles of molecules share: a row of the data is the number of a molecule."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from scidiffusion.core.objectives import Objective
from scidiffusion.core.rng import Noise
from scidiffusion.molecules.conformer.bank import Bundle, ConformerBank


class BundleLoss(Objective):
    """See the module.

    Args:
        bank: The molecules.
        kept: Numbers of the molecules that are trained on; row i of the data is `kept[i]`.
        held: Numbers of those held out; row len(kept) + i is `held[i]`.
    """

    def __init__(self, bank: ConformerBank, kept: Tensor, held: Tensor) -> None:
        self.parts = bank.part(kept), bank.part(held)

    @abstractmethod
    def bundle(self, denoiser: Any, row: int, noise: Noise) -> Tensor:
        """Return the loss of molecules around that of a row."""

    def __call__(
        self, denoiser: Any, x: Any, noise: Noise, cond: Any = None, t: Tensor | None = None
    ) -> Tensor:
        """Return the loss of every row, (B,): the mean over the bundle that it stands for."""
        return torch.stack([self.bundle(denoiser, int(row), noise) for row in x.flatten()])

    def draw(self, row: int, noise: Noise) -> Bundle:
        """Draw a bundle around a row, from the same part."""
        kept = len(self.parts[0])
        if row < kept:
            return self.parts[0].bundle(row, noise)
        return self.parts[1].bundle(row - kept, noise)
