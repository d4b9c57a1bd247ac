"""Training pairs in memory, handed out in bundles of molecules of nearly the same size.

A bundle costs the square of its largest molecule times its number of conformers: bundles are
filled up to a number of pairs of atoms, so that every training step costs the same, and molecules
of one bundle are neighbours in size, so that little is padding.

Half of the rows, at random, are mirror images: energies do not know left from right, so that each
minimum has one, of the molecule with all its centres exchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from rdkit import Chem
from torch import Tensor

from scidiffusion.core.rng import Noise
from scidiffusion.molecules.chem.energies import ANGSTROM_PER_BOHR, KCAL_PER_HARTREE
from scidiffusion.molecules.chem.relaxation import positive_hessian
from scidiffusion.molecules.conformer.graph import MolGraph
from scidiffusion.molecules.conformer.pairs import ConformerPairs
from scidiffusion.molecules.superposition import turned_onto
from scidiffusion.molecules.torsional.turning import Torsions

MOST_IMAGES = 8
"""Renumberings of like atoms that the loss looks at."""
MOST_MATCHES = 300
"""Renumberings among which these are chosen."""


@dataclass(frozen=True)
class BankMolecule:
    """A molecule with n pairs.

    Args:
        graph: Its graph, B = 1.
        start: (n, N, 3) positions that optimisations began with, in Angstrom, centred.
        minimum: (n, N, 3) minima they reached, each centred and turned onto its start.
        images: (M, N) long, renumberings of like atoms; the first changes nothing.
        torsions: Its turnable bonds.
        hessians: (n, 3N, 3N) half, in kcal/mol/Angstrom^2, positive second derivatives of the
            energy about the minima; None where they are not needed.
    """

    graph: MolGraph
    start: Tensor
    minimum: Tensor
    images: Tensor
    torsions: Torsions
    hessians: Tensor | None = None

    @classmethod
    def of(cls, pairs: ConformerPairs, *, hessians: bool = False) -> Self:
        """Read pairs; with `hessians` add those of MMFF94."""
        start, minimum = (torch.from_numpy(value) for value in (pairs.start, pairs.minimum))
        start = start - start.mean(1, keepdim=True)
        minimum = minimum - minimum.mean(1, keepdim=True)
        everything = torch.ones(start.shape[:2], dtype=torch.bool)
        minimum = turned_onto(minimum, start, everything)
        return cls(
            MolGraph.of(pairs.mol),
            start,
            minimum,
            automorphisms(pairs.mol),
            Torsions.of(pairs.mol),
            _hessians(pairs.mol, minimum) if hessians else None,
        )


def _hessians(mol: Chem.Mol, minima: Tensor) -> Tensor:
    unit = KCAL_PER_HARTREE / ANGSTROM_PER_BOHR**2
    found = [positive_hessian(mol, places) * unit for places in minima.double().numpy()]
    return torch.from_numpy(np.stack(found)).half()


def automorphisms(mol: Chem.Mol) -> Tensor:
    """Renumberings of a molecule's atoms that leave the molecule as it was, (M, N) long.

    At most `MOST_IMAGES`, the identity first, the others chosen at random but always alike.
    """
    with_hydrogens = mol.GetSubstructMatches(
        mol, uniquify=False, useChirality=True, maxMatches=MOST_MATCHES
    )
    same = tuple(range(mol.GetNumAtoms()))
    others = sorted(set(with_hydrogens) - {same})
    chosen = np.random.default_rng(0).permutation(len(others))[: MOST_IMAGES - 1]
    return torch.tensor([same, *(others[index] for index in chosen)], dtype=torch.long)


@dataclass(frozen=True)
class Bundle:
    """Pairs of B molecules padded to N atoms.

    Args:
        graph: Their graphs.
        start: (B, N, 3) in Angstrom, padding 0.
        minimum: (B, N, 3) likewise.
        molecules: Where they come from.
        rows: Which pair of its molecule each is.
        mirrored: (B,) whether it is a mirror image.
    """

    graph: MolGraph
    start: Tensor
    minimum: Tensor
    molecules: list[BankMolecule]
    rows: list[int]
    mirrored: Tensor


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

    def bundle(self, anchor: int, noise: Noise) -> Bundle:
        """Return a bundle.

        Args:
            anchor: Number of the molecule that the bundle is drawn around.
            noise: Source of the choice.
        """
        rng = np.random.default_rng(
            int(noise.uniform(torch.empty(1, dtype=torch.float64)) * 2**52)
        )
        low, high = max(0, anchor - self.spread), min(len(self), anchor + self.spread + 1)
        order = [anchor, *(low + rng.permutation(high - low))]
        chosen: list[tuple[BankMolecule, int]] = []
        size = 0
        for index in order:
            molecule = self.molecules[index]
            take = min(self.most, len(molecule.start))
            grown = max(size, molecule.graph.size)
            if chosen and (len(chosen) + take) * grown**2 > self.pairs:
                break
            size = grown
            rows = rng.permutation(len(molecule.start))[:take]
            chosen += [(molecule, int(row)) for row in rows]
        mirrored = torch.from_numpy(rng.random(len(chosen)) < 0.5)
        mirror = torch.where(mirrored[:, None], torch.tensor([1.0, 1.0, -1.0]), 1.0)[:, None]
        return Bundle(
            MolGraph.batch([molecule.graph for molecule, _ in chosen]).mirrored(mirrored),
            _stacked([molecule.start[row] for molecule, row in chosen], size) * mirror,
            _stacked([molecule.minimum[row] for molecule, row in chosen], size) * mirror,
            [molecule for molecule, _ in chosen],
            [row for _, row in chosen],
            mirrored,
        )


def _stacked(positions: list[Tensor], size: int) -> Tensor:
    stacked = torch.zeros(len(positions), size, 3)
    for row, position in enumerate(positions):
        stacked[row, : len(position)] = position
    return stacked
