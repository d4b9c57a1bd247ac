"""Training pairs in memory, handed out in bundles of molecules of nearly the same size.

A bundle costs the square of its largest molecule times its number of conformers: bundles are
filled up to a number of pairs of atoms, so that every training step costs the same, and molecules
of one bundle are neighbours in size, so that little is padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scidiffusion.core.rng import Noise
from scidiffusion.molecules.conformer.graph import MolGraph


@dataclass(frozen=True)
class BankMolecule:
    """A molecule with n pairs.

    Args:
        graph: Its graph, B = 1.
        start: (n, N, 3) positions that optimisations began with, in Angstrom.
        minimum: (n, N, 3) minima they reached, each turned onto its start.
    """

    graph: MolGraph
    start: Tensor
    minimum: Tensor


class ConformerBank:
    """See the module.

    Args:
        molecules: Training molecules.
        pairs: Number of pairs of atoms of a bundle.
        most: Largest number of conformers of one molecule in a bundle.
        spread: How far from the anchor, in the order of sizes, the others are looked for.
    """

    def __init__(
        self,
        molecules: Sequence[BankMolecule],
        *,
        pairs: int = 20_000,
        most: int = 4,
        spread: int = 200,
    ) -> None:
        self.molecules = sorted(molecules, key=lambda one: one.graph.size)
        self.pairs, self.most, self.spread = pairs, most, spread

    def __len__(self) -> int:
        """Number of molecules."""
        return len(self.molecules)

    def part(self, chosen: Tensor) -> ConformerBank:
        """Return the bank of some of the molecules."""
        return ConformerBank(
            [self.molecules[int(index)] for index in chosen],
            pairs=self.pairs,
            most=self.most,
            spread=self.spread,
        )

    def bundle(self, anchor: int, noise: Noise) -> tuple[MolGraph, Tensor, Tensor]:
        """Return the graphs (B), starts (B, N, 3) and minima (B, N, 3) of a bundle.

        Args:
            anchor: Number of the molecule that the bundle is drawn around.
            noise: Source of the choice.
        """
        rng = np.random.default_rng(
            int(noise.uniform(torch.empty(1, dtype=torch.float64)) * 2**52)
        )
        low, high = max(0, anchor - self.spread), min(len(self), anchor + self.spread + 1)
        order = [anchor, *(low + rng.permutation(high - low))]
        graphs: list[MolGraph] = []
        starts: list[Tensor] = []
        minima: list[Tensor] = []
        size = 0
        for index in order:
            molecule = self.molecules[index]
            take = min(self.most, len(molecule.start))
            grown = max(size, molecule.graph.size)
            if graphs and (len(graphs) + take) * grown**2 > self.pairs:
                break
            size = grown
            for which in rng.permutation(len(molecule.start))[:take]:
                graphs.append(molecule.graph)
                starts.append(molecule.start[which])
                minima.append(molecule.minimum[which])
        batch = MolGraph.batch(graphs)
        return batch, _stacked(starts, size), _stacked(minima, size)


def _stacked(positions: list[Tensor], size: int) -> Tensor:
    stacked = torch.zeros(len(positions), size, 3)
    for row, position in enumerate(positions):
        stacked[row, : len(position)] = position
    return stacked
