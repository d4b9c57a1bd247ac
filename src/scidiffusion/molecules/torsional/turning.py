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

MOST = 3
"""Neighbours of an end of a bond that are looked at, beside the other end."""


@dataclass(frozen=True)
class Torsions:
    """The turnable bonds of one molecule, or of a batch of B molecules padded to R bonds.

    Args:
        ends: (B, R, 2) long, the atoms b and c of each bond; padding 0.
        sides: (B, R, 2, 3) long, up to three other neighbours of b, and of c; the first of each
            are the a and d whose dihedral a-b-c-d is the bond's angle.
        there: (B, R, 2, 3) bool, which of these there are.
        moved: (B, R, N) bool, the atoms that turn with c.
    """

    ends: Tensor
    sides: Tensor
    there: Tensor
    moved: Tensor

    @classmethod
    def of(cls, mol: Chem.Mol) -> Self:
        """Read the single bonds outside rings whose turning moves more than like hydrogens."""
        found = [known for bond in mol.GetBonds() if (known := _turnable(bond)) is not None]
        ends = torch.zeros(1, len(found), 2, dtype=torch.long)
        sides = torch.zeros(1, len(found), 2, MOST, dtype=torch.long)
        there = torch.zeros(1, len(found), 2, MOST, dtype=torch.bool)
        moved = torch.zeros(1, len(found), mol.GetNumAtoms(), dtype=torch.bool)
        for row, (bond, others) in enumerate(found):
            begin, end = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            ends[0, row] = torch.tensor([begin, end])
            for side, atoms in enumerate(others):
                sides[0, row, side, : len(atoms)] = torch.tensor(atoms)
                there[0, row, side, : len(atoms)] = True
            moved[0, row, _beyond(mol, begin, end)] = True
        return cls(ends, sides, there, moved)

    @classmethod
    def batch(cls, several: Sequence[Torsions]) -> Self:
        """Pad single molecules to the most bonds and the most atoms, and stack them."""
        bonds = max(len(one) for one in several)
        count = max(one.moved.shape[2] for one in several)
        ends, sides, there = (
            torch.cat([_padded(getattr(one, name), bonds) for one in several])
            for name in ("ends", "sides", "there")
        )
        moved = [_padded(one.moved, bonds) for one in several]
        wide = [torch.nn.functional.pad(one, (0, count - one.shape[2])) for one in moved]
        return cls(ends, sides, there, torch.cat(wide))

    @property
    def real(self) -> Tensor:
        """(B, R) bool, true for bonds, false for padding."""
        return self.there[:, :, 0, 0]

    def __len__(self) -> int:
        """R, the number of bonds."""
        return self.ends.shape[1]

    def to(self, device: torch.device | str) -> Self:
        """Move to a device."""
        names = ("ends", "sides", "there", "moved")
        return type(self)(*(getattr(self, name).to(device) for name in names))

    def angles(self, position: Tensor) -> Tensor:
        """Dihedral angles in radians in [-pi, pi), (B, R), of positions (B, N, 3); padding 0."""
        b, c = picked(position, self.ends).unbind(2)
        a, d = picked(position, self.sides[..., 0]).unbind(2)
        return wrap(torch.where(self.real, dihedral(a, b, c, d), 0.0))

    def around(self, position: Tensor) -> Tensor:
        """(B, R, 3, 3) dihedrals of every neighbour of b with every neighbour of c, in radians.

        Entries without such neighbours mean nothing.
        """
        b, c = picked(position, self.ends).unbind(2)
        a, d = picked(position, self.sides).unbind(2)
        shape = (*a.shape[:2], MOST, MOST, 3)
        corners = (a[:, :, :, None], b[:, :, None, None], c[:, :, None, None], d[:, :, None])
        return dihedral(*(corner.expand(shape) for corner in corners))

    def turned(self, position: Tensor, by: Tensor) -> Tensor:
        """Turn every bond.

        Args:
            position: (B, N, 3).
            by: (B, R) radians, added to the dihedral angles; padding is not turned.

        Returns:
            (B, N, 3).
        """
        rows = position.shape[0]
        ends = self.ends.expand(rows, -1, -1)
        moved = self.moved.expand(rows, -1, -1)
        by = torch.where(self.real, by, 0.0)
        row = torch.arange(rows, device=position.device)
        for bond in range(len(self)):
            begin = position[row, ends[:, bond, 0]][:, None]
            end = position[row, ends[:, bond, 1]][:, None]
            axis = torch.nn.functional.normalize(end - begin, dim=-1, eps=1e-6)
            arm, angle = position - end, by[:, bond, None, None]
            along = (arm * axis).sum(-1, keepdim=True) * axis
            # Rodrigues' formula.
            turn = torch.linalg.cross(axis.expand_as(arm), arm)
            swung = end + along + angle.cos() * (arm - along) + angle.sin() * turn
            position = torch.where(moved[:, bond, :, None], swung, position)
        return position


def picked(position: Tensor, index: Tensor) -> Tensor:
    """Positions (B, ..., 3) of the atoms of an index (B or 1, ...)."""
    rows = position.shape[0]
    index = index.expand(rows, *index.shape[1:])
    flat = index.reshape(rows, -1, 1).expand(-1, -1, position.shape[-1])
    return position.gather(1, flat).reshape(*index.shape, position.shape[-1])


def dihedral(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The dihedral angle of four places (..., 3), in radians in [-pi, pi]."""
    first, axis, last = b - a, c - b, d - c
    one, other = torch.linalg.cross(first, axis), torch.linalg.cross(axis, last)
    sine = torch.linalg.norm(axis, dim=-1) * (first * other).sum(-1)
    return torch.atan2(sine, (one * other).sum(-1))


def _padded(value: Tensor, bonds: int) -> Tensor:
    """(1, R, ...) filled up to `bonds` with zeros."""
    filler = value.new_zeros(1, bonds - value.shape[1], *value.shape[2:])
    return torch.cat([value, filler], 1)


def _turnable(bond: Chem.Bond) -> tuple[Chem.Bond, list[list[int]]] | None:
    """The bond and the other neighbours of its ends, or None if there is nothing to turn."""
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
    return bond, [[atom.GetIdx() for atom in side[:MOST]] for side in others]


def _beyond(mol: Chem.Mol, begin: int, end: int) -> list[int]:
    """The atoms on the side of `end` of the bond begin-end, without `end`."""
    seen, front = {begin, end}, [end]
    while front:
        for near in mol.GetAtomWithIdx(front.pop()).GetNeighbors():
            if near.GetIdx() not in seen:
                seen.add(near.GetIdx())
                front.append(near.GetIdx())
    return sorted(seen - {begin, end})
