"""What the network is told of a molecule: features of atoms and of pairs of atoms, and handedness.

Everything here is read from the molecular graph (with explicit hydrogens), nothing from
coordinates, and belongs to the molecule, not to a conformer: the conformers of one molecule share
one graph. Features are invariant under renumbering of the atoms up to that renumbering.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from rdkit import Chem
from torch import Tensor

from scidiffusion.molecules.chem.handedness import asked_bonds, asked_centres

ELEMENTS = (1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 35, 53)
"""Atomic numbers that have a feature of their own."""
HYBRIDS = (
    Chem.HybridizationType.S,
    Chem.HybridizationType.SP,
    Chem.HybridizationType.SP2,
    Chem.HybridizationType.SP3,
)
BONDS = (Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE, Chem.BondType.AROMATIC)
FAR = 8
"""Graph distances from here on, and between fragments, count alike."""
RINGS = (3, 4, 5, 6, 7)
"""Ring sizes told apart; larger rings count as the last."""

ATOM_FEATURES = len(ELEMENTS) + len(HYBRIDS) + 5 + len(RINGS) + 3
PAIR_FEATURES = len(BONDS) + FAR + len(RINGS) + 5


@dataclass(frozen=True)
class MolGraph:
    """One molecule, or a batch of B molecules padded to N atoms.

    Args:
        atoms: (B, N, ATOM_FEATURES) float32.
        pairs: (B, N, N, PAIR_FEATURES) float32, symmetric in the atoms.
        mask: (B, N) bool, true for atoms.
        hops: (B, N, N) float32 graph distance, `FAR` where it is as long or there is no path.
        neighbours: (B, N, 3) long: of a stereocentre, three neighbours in the order that makes
            their signed volume positive; else 0.
        chiral: (B, N) bool, true for specified stereocentres.
    """

    atoms: Tensor
    pairs: Tensor
    mask: Tensor
    hops: Tensor
    neighbours: Tensor
    chiral: Tensor

    @classmethod
    def of(cls, mol: Chem.Mol) -> Self:
        """Read a molecule with explicit hydrogens; B = 1."""
        count = mol.GetNumAtoms()
        rings = [ring for ring in mol.GetRingInfo().AtomRings() if len(ring) >= RINGS[0]]
        neighbours, chiral = _handedness(mol)
        hops = np.minimum(Chem.GetDistanceMatrix(mol), FAR)
        return cls(
            torch.from_numpy(_atom_features(mol, rings))[None],
            torch.from_numpy(_pair_features(mol, rings, hops))[None],
            torch.ones(1, count, dtype=torch.bool),
            torch.from_numpy(hops.astype(np.float32))[None],
            torch.from_numpy(neighbours)[None],
            torch.from_numpy(chiral)[None],
        )

    @classmethod
    def batch(cls, graphs: Sequence[MolGraph]) -> Self:
        """Pad single molecules to the size of the largest and stack them."""
        size = max(graph.size for graph in graphs)
        return cls(
            *(
                torch.cat([_padded(getattr(graph, name), axes, size) for graph in graphs])
                for name, axes in _AXES.items()
            )
        )

    def mirrored(self, rows: Tensor) -> Self:
        """The graphs of the mirror images of some of the molecules, (B,) bool."""
        swapped = self.neighbours[..., [0, 2, 1]]
        neighbours = torch.where(rows[:, None, None], swapped, self.neighbours)
        return replace(self, neighbours=neighbours)

    @property
    def size(self) -> int:
        """N."""
        return self.mask.shape[1]

    def to(self, device: torch.device | str) -> Self:
        """Move to a device."""
        return type(self)(*(getattr(self, name).to(device) for name in _AXES))

    def double(self) -> Self:
        """In double precision, for networks that are."""
        wide = {name: getattr(self, name).double() for name in ("atoms", "pairs", "hops")}
        return replace(self, **wide)


_AXES = {"atoms": 1, "pairs": 2, "mask": 1, "hops": 2, "neighbours": 1, "chiral": 1}
"""Field -> number of axes over atoms, after that over molecules."""


def _padded(value: Tensor, axes: int, size: int) -> Tensor:
    shape = (value.shape[0], *[size] * axes, *value.shape[1 + axes :])
    padded = value.new_zeros(shape)
    padded[(slice(None), *[slice(0, value.shape[1])] * axes)] = value
    return padded


def _atom_features(mol: Chem.Mol, rings: list[tuple[int, ...]]) -> np.ndarray:
    features = np.zeros((mol.GetNumAtoms(), ATOM_FEATURES), dtype=np.float32)
    for index, atom in enumerate(mol.GetAtoms()):
        row = [float(atom.GetAtomicNum() == number) for number in ELEMENTS]
        row += [float(atom.GetHybridization() == hybrid) for hybrid in HYBRIDS]
        row += [float(atom.GetDegree() == degree) for degree in range(5)]
        sizes = {min(len(ring), RINGS[-1]) for ring in rings if index in ring}
        row += [float(size in sizes) for size in RINGS]
        hydrogens = sum(other.GetAtomicNum() == 1 for other in atom.GetNeighbors())
        row += [float(atom.GetFormalCharge()), float(atom.GetIsAromatic()), hydrogens / 4]
        features[index] = row
    return features


def _pair_features(mol: Chem.Mol, rings: list[tuple[int, ...]], hops: np.ndarray) -> np.ndarray:
    count = mol.GetNumAtoms()
    features = np.zeros((count, count, PAIR_FEATURES), dtype=np.float32)
    start = len(BONDS)
    for hop in range(1, FAR + 1):
        features[:, :, start + hop - 1] = hops == hop
    start += FAR
    for ring in rings:
        members = np.array(ring)
        size = RINGS.index(min(len(ring), RINGS[-1]))
        features[members[:, None], members, start + size] = 1
    start += len(RINGS)
    table = Chem.GetPeriodicTable()
    for bond in mol.GetBonds():
        first, last = bond.GetBeginAtom(), bond.GetEndAtom()
        radii = sum(table.GetRcovalent(atom.GetAtomicNum()) for atom in (first, last))
        both = [first.GetIdx(), last.GetIdx()], [last.GetIdx(), first.GetIdx()]
        if bond.GetBondType() in BONDS:
            features[(*both, BONDS.index(bond.GetBondType()))] = 1
        features[(*both, start)] = float(bond.GetIsConjugated())
        features[(*both, start + 1)] = float(bond.IsInRing())
        # The length that the bond should have is the finest thing to be known of it.
        features[(*both, start + 2)] = radii
    for one, other, trans in _double_bond_pairs(mol):
        features[[one, other], [other, one], start + 3 + trans] = 1
    diagonal = np.arange(count)
    features[diagonal, diagonal] = 0
    return features


def _double_bond_pairs(mol: Chem.Mol) -> list[tuple[int, int, int]]:
    """Return (substituent, substituent, 1 if trans else 0) across specified double bonds."""
    pairs = []
    for (named, begin, end, other_named), cosine in zip(*asked_bonds(mol), strict=True):
        for one in mol.GetAtomWithIdx(begin).GetNeighbors():
            for other in mol.GetAtomWithIdx(end).GetNeighbors():
                if one.GetIdx() != end and other.GetIdx() != begin:
                    # Each substituent that is not the named one lies on the other side.
                    swaps = (one.GetIdx() != named) + (other.GetIdx() != other_named)
                    trans = (int(cosine < 0) + swaps) % 2
                    pairs.append((one.GetIdx(), other.GetIdx(), trans))
    return pairs


def _handedness(mol: Chem.Mol) -> tuple[np.ndarray, np.ndarray]:
    """Return for each stereocentre three neighbours of positive signed volume; see `MolGraph`."""
    neighbours = np.zeros((mol.GetNumAtoms(), 3), dtype=np.int64)
    chiral = np.zeros(mol.GetNumAtoms(), dtype=bool)
    for (centre, first, second, third), sign in zip(*asked_centres(mol), strict=True):
        neighbours[centre] = (first, second, third) if sign > 0 else (first, third, second)
        chiral[centre] = True
    return neighbours, chiral


def signed_volume(position: Tensor, graph: MolGraph) -> Tensor:
    """Signed volume of each stereocentre's three neighbours as unit vectors, in [-1, 1].

    Positive where the centre has the handedness that was asked for; 0 at other atoms.

    Args:
        position: (B, N, 3).
        graph: Of B molecules, or of one that all share.
    """
    legs = neighbour_vectors(position, graph)
    volume = (torch.linalg.cross(legs[:, :, 0], legs[:, :, 1]) * legs[:, :, 2]).sum(-1)
    return torch.where(graph.chiral, volume, 0.0)


def neighbour_vectors(position: Tensor, graph: MolGraph) -> Tensor:
    """(B, N, 3, 3) unit vectors from each stereocentre to its three neighbours."""
    rows = position.shape[0]
    index = graph.neighbours.expand(rows, -1, -1)[..., None].expand(-1, -1, -1, 3)
    ends = position[:, None].expand(-1, position.shape[1], -1, -1).gather(2, index)
    return torch.nn.functional.normalize(ends - position[:, :, None], dim=-1, eps=1e-6)
