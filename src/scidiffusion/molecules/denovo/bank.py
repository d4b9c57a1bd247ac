"""Training molecules in memory, handed out in bundles of nearly the same size.

A bundle costs the square of its largest molecule times its number of molecules: bundles are filled
up to a number of pairs of atoms, so that every training step costs the same, and molecules of one
bundle are neighbours in size, so that little is padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scidiffusion.core.rng import Noise
from scidiffusion.molecules.denovo.bonds import bond_orders

SPREAD = 0.02
"""How far from the anchor, as a share of all molecules in order of size, others are looked for."""
LEAST = 10
"""How far at least, in molecules."""


@dataclass(frozen=True)
class Bundle:
    """A batch of B molecules padded to N atoms.

    Args:
        positions: (B, N, 3) in Angstrom, centred, padding 0.
        types: (B, N) long, padding 0.
        mask: (B, N) bool.
        orders: (B, N, N) long bond orders.
        composition: (B, K) number of atoms of each type.
        labels: (B, L) standardised labels, NaN where absent.
    """

    positions: Tensor
    types: Tensor
    mask: Tensor
    orders: Tensor
    composition: Tensor
    labels: Tensor


class MoleculeBank:
    """See the module.

    Args:
        numbers: (A,) atomic numbers of all atoms, molecule after molecule.
        positions: (A, 3) in Angstrom.
        offsets: (M + 1,) where molecules begin.
        elements: (K,) atomic number of each type.
        labels: (M, L) standardised.
        pairs: Number of pairs of atoms of a bundle.
    """

    def __init__(
        self,
        numbers: np.ndarray,
        positions: np.ndarray,
        offsets: np.ndarray,
        *,
        elements: np.ndarray,
        labels: np.ndarray,
        pairs: int,
    ) -> None:
        counts = np.diff(offsets)
        self.pairs, self.elements = pairs, elements
        order = np.argsort(counts, kind="stable")
        rows, most = len(counts), int(counts.max())
        self.counts = torch.from_numpy(counts[order])
        self.positions = torch.zeros(rows, most, 3)
        self.types = torch.zeros(rows, most, dtype=torch.long)
        numbered = torch.zeros(rows, most, dtype=torch.long)
        kinds = np.searchsorted(elements, numbers)
        for row, index in enumerate(order):
            part, size = slice(offsets[index], offsets[index + 1]), counts[index]
            place = positions[part] - positions[part].mean(0)
            self.positions[row, :size] = torch.from_numpy(place.astype(np.float32))
            self.types[row, :size] = torch.from_numpy(kinds[part])
            numbered[row, :size] = torch.from_numpy(numbers[part].astype(np.int64))
        self.orders = torch.cat(
            [
                bond_orders(some, place).to(torch.int8)
                for some, place in zip(numbered.split(256), self.positions.split(256), strict=True)
            ]
        )
        mask = torch.arange(most) < self.counts[:, None]
        hot = torch.nn.functional.one_hot(self.types, len(elements)) * mask[..., None]
        self.composition = hot.sum(1).float()
        self.labels = torch.from_numpy(labels[order].astype(np.float32))

    def __len__(self) -> int:
        """Number of molecules."""
        return len(self.counts)

    def bundle(self, anchor: int, allowed: Tensor, noise: Noise) -> Bundle:
        """Return a bundle drawn around a molecule.

        Args:
            anchor: Position, in `allowed`, of the molecule.
            allowed: Rising numbers of the molecules that may be drawn.
            noise: Source of the choice.
        """
        reach = max(int(SPREAD * len(allowed)), LEAST)
        low, high = max(0, anchor - reach), min(len(allowed), anchor + reach + 1)
        size = int(self.counts[allowed[high - 1]])
        count = max(1, self.pairs // size**2)
        picks = noise.uniform(torch.empty(1, high - low))[0].argsort()[: count - 1] + low
        rows = allowed[torch.cat([torch.tensor([anchor]), picks])]
        return self.take(rows)

    def take(self, rows: Tensor) -> Bundle:
        """Return molecules by number, padded to the largest of them."""
        size = int(self.counts[rows].max())
        return Bundle(
            self.positions[rows, :size],
            self.types[rows, :size],
            torch.arange(size) < self.counts[rows, None],
            self.orders[rows, :size, :size].long(),
            self.composition[rows],
            self.labels[rows],
        )
