r"""The bonds of a molecule that can be turned, their dihedral angles, and turning them.

The dihedral of a-b-c-d is the angle, seen along b -> c, by which a must be turned clockwise to
hide d (IUPAC's sign); turning the side of c about b -> c by the right-hand rule adds to it. It
changes no bond length, no bond angle and no dihedral about another bond, so that the angles of all
bonds can be set one after another, in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from rdkit import Chem
from torch import Tensor

from scidiffusion.core.torus import wrap


@dataclass(frozen=True)
class Torsions:
    """The turnable bonds of one molecule, or of a batch of B molecules padded to R bonds.

    Args:
        atoms: (B, R, 4) long, the atoms a-b-c-d of each bond b-c; padding 0.
        moved: (B, R, N) bool, the atoms that turn with c.
        real: (B, R) bool, true for bonds, false for padding.
    """

    atoms: Tensor
    moved: Tensor
    real: Tensor

    @classmethod
    def of(cls, mol: Chem.Mol) -> Self:
        """Read the single bonds outside rings whose turning moves more than like hydrogens."""
        found = [four for bond in mol.GetBonds() if (four := _turnable(bond)) is not None]
        atoms = torch.tensor(found, dtype=torch.long).reshape(len(found), 4)
        moved = torch.zeros(len(found), mol.GetNumAtoms(), dtype=torch.bool)
        for row, (_, begin, end, _) in enumerate(found):
            moved[row, _beyond(mol, begin, end)] = True
        return cls(atoms[None], moved[None], torch.ones(1, len(found), dtype=torch.bool))

    @classmethod
    def batch(cls, several: Sequence[Torsions]) -> Self:
        """Pad single molecules to the most bonds and the most atoms, and stack them."""
        bonds = max(one.atoms.shape[1] for one in several)
        count = max(one.moved.shape[2] for one in several)
        atoms = torch.zeros(len(several), bonds, 4, dtype=torch.long)
        moved = torch.zeros(len(several), bonds, count, dtype=torch.bool)
        real = torch.zeros(len(several), bonds, dtype=torch.bool)
        for row, one in enumerate(several):
            own, size = one.moved.shape[1:]
            atoms[row, :own], moved[row, :own, :size], real[row, :own] = (
                one.atoms[0],
                one.moved[0],
                True,
            )
        return cls(atoms, moved, real)

    def __len__(self) -> int:
        """R, the number of bonds."""
        return self.atoms.shape[1]

    def to(self, device: torch.device | str) -> Self:
        """Move to a device."""
        return type(self)(self.atoms.to(device), self.moved.to(device), self.real.to(device))

    def angles(self, position: Tensor) -> Tensor:
        """Dihedral angles in radians in [-pi, pi), (B, R), of positions (B, N, 3); padding 0."""
        a, b, c, d = self.places(position).unbind(2)
        first, axis, last = b - a, c - b, d - c
        one, other = torch.linalg.cross(first, axis), torch.linalg.cross(axis, last)
        along = torch.linalg.norm(axis, dim=-1)
        sine = along * (first * other).sum(-1)
        angle = torch.atan2(sine, (one * other).sum(-1))
        return wrap(torch.where(self.real, angle, 0.0))

    def places(self, position: Tensor) -> Tensor:
        """(B, R, 4, 3) positions of the four atoms of each bond."""
        rows, bonds = position.shape[0], len(self)
        index = self.atoms.expand(rows, -1, -1).reshape(rows, 4 * bonds, 1).expand(-1, -1, 3)
        return position.gather(1, index).reshape(rows, bonds, 4, 3)

    def turned(self, position: Tensor, by: Tensor) -> Tensor:
        """Turn every bond.

        Args:
            position: (B, N, 3).
            by: (B, R) radians, added to the dihedral angles; padding is not turned.

        Returns:
            (B, N, 3).
        """
        rows = position.shape[0]
        ends = self.atoms.expand(rows, -1, -1)
        moved = self.moved.expand(rows, -1, -1)
        by = torch.where(self.real, by, 0.0)
        row = torch.arange(rows, device=position.device)
        for bond in range(len(self)):
            begin = position[row, ends[:, bond, 1]][:, None]
            end = position[row, ends[:, bond, 2]][:, None]
            axis = torch.nn.functional.normalize(end - begin, dim=-1, eps=1e-6)
            arm, angle = position - end, by[:, bond, None, None]
            along = (arm * axis).sum(-1, keepdim=True) * axis
            # Rodrigues' formula.
            turn = torch.linalg.cross(axis.expand_as(arm), arm)
            swung = end + along + angle.cos() * (arm - along) + angle.sin() * turn
            position = torch.where(moved[:, bond, :, None], swung, position)
        return position


def _turnable(bond: Chem.Bond) -> tuple[int, int, int, int] | None:
    """The atoms a-b-c-d of a bond b-c, or None if there is nothing to turn."""
    if bond.GetBondType() != Chem.BondType.SINGLE or bond.IsInRing():
        return None
    begin, end = bond.GetBeginAtom(), bond.GetEndAtom()
    others = [
        sorted(
            (near for near in one.GetNeighbors() if near.GetIdx() != two.GetIdx()),
            key=lambda atom: (atom.GetAtomicNum() == 1, atom.GetIdx()),
        )
        for one, two in ((begin, end), (end, begin))
    ]
    for one, side in zip((begin, end), others, strict=True):
        if not side or one.GetHybridization() == Chem.HybridizationType.SP:
            return None
        # A methyl group looks the same after a third of a turn: its minimum is soon found.
        if len(side) == 3 and all(atom.GetAtomicNum() == 1 for atom in side):
            return None
    return others[0][0].GetIdx(), begin.GetIdx(), end.GetIdx(), others[1][0].GetIdx()


def _beyond(mol: Chem.Mol, begin: int, end: int) -> list[int]:
    """The atoms on the side of `end` of the bond begin-end, without `end`."""
    seen, front = {begin, end}, [end]
    while front:
        for near in mol.GetAtomWithIdx(front.pop()).GetNeighbors():
            if near.GetIdx() not in seen:
                seen.add(near.GetIdx())
                front.append(near.GetIdx())
    return sorted(seen - {begin, end})
