"""From atoms and places to molecules: which atoms are bonded, and whether that makes sense.

Bonds are found by RDKit's rdDetermineBonds for a neutral molecule. Where that fails the bonds of
EDM's distance tables are drawn, so that one sees what is wrong, and the molecule is marked: its
property `valid` says whether bonds were found, valences are right and all atoms hang together,
`stable` whether every atom has a valence of its element by the distance tables.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from rdkit import Chem, rdBase
from rdkit.Chem import rdDetermineBonds
from rdkit.Geometry import Point3D

from scidiffusion.errors import DataError
from scidiffusion.molecules.denovo.bonds import bond_orders, stable_atoms

VALID, STABLE, FRAGMENTS = "valid", "stable", "fragments"
"""Properties of a molecule: bool, bool and int."""

ITERATIONS = 20_000
"""Assignments of bond orders that RDKit tries before it gives a molecule up."""
_BONDS = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}


def to_molecules(numbers: Sequence[ArrayLike], positions: Sequence[ArrayLike]) -> list[Chem.Mol]:
    """Make molecules of atoms and their places; see the module.

    Args:
        numbers: Of each molecule (N,) atomic numbers.
        positions: Of each molecule (N, 3) in Angstrom.

    Returns:
        Molecules with explicit hydrogens, one conformer and the properties `valid`, `stable` and
        `fragments`, in the order given.

    Raises:
        DataError: if shapes disagree, a position is not finite or an atomic number unknown.
    """
    if len(numbers) != len(positions):
        raise DataError(
            f"{len(numbers)} lists of atoms and {len(positions)} lists of positions: give one "
            "of each a molecule"
        )
    return [
        _molecule(*_checked(index, atoms, places))
        for index, (atoms, places) in enumerate(zip(numbers, positions, strict=True))
    ]


def _checked(index: int, atoms: ArrayLike, places: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    kinds, where = np.asarray(atoms), np.asarray(places, dtype=np.float64)
    if kinds.ndim != 1 or not len(kinds) or where.shape != (len(kinds), 3):
        raise DataError(
            f"molecule {index} has atomic numbers of shape {kinds.shape} and positions of shape "
            f"{where.shape}; they must be (N,) and (N, 3)"
        )
    if not np.isfinite(where).all():
        raise DataError(f"molecule {index} has a position that is NaN or infinite")
    if not np.issubdtype(kinds.dtype, np.integer) or kinds.min() < 1 or kinds.max() > 86:
        raise DataError(f"molecule {index} has an atomic number outside 1 to 86")
    return kinds.astype(np.int64), where


def _molecule(numbers: np.ndarray, positions: np.ndarray) -> Chem.Mol:
    orders = bond_orders(torch.from_numpy(numbers), torch.from_numpy(positions))
    stable = bool(stable_atoms(torch.from_numpy(numbers), orders).all())
    bare = Chem.RWMol()
    for number in numbers.tolist():
        bare.AddAtom(Chem.Atom(number))
    conformer = Chem.Conformer(len(numbers))
    conformer.Set3D(True)
    for index, place in enumerate(positions.tolist()):
        conformer.SetAtomPosition(index, Point3D(*place))
    bare.AddConformer(conformer, assignId=True)
    for atom in bare.GetAtoms():
        atom.SetNoImplicit(True)
    with rdBase.BlockLogs():
        mol, valid = _with_bonds(bare, orders.numpy())
        fragments = len(Chem.GetMolFrags(mol))
    mol.SetBoolProp(VALID, valid and fragments == 1)
    mol.SetBoolProp(STABLE, stable)
    mol.SetIntProp(FRAGMENTS, fragments)
    return mol


def _with_bonds(bare: Chem.RWMol, orders: np.ndarray) -> tuple[Chem.Mol, bool]:
    """Return the molecule with bonds, and whether it is chemically sound."""
    mol = Chem.Mol(bare)
    try:
        rdDetermineBonds.DetermineBonds(mol, charge=0, maxIterations=ITERATIONS)
        Chem.SanitizeMol(mol)
        return mol, True
    except (ValueError, RuntimeError):
        # Valences that cannot be, or none found in time.
        pass
    drawn = Chem.RWMol(bare)
    for first, last in zip(*np.nonzero(np.triu(orders)), strict=True):
        drawn.AddBond(int(first), int(last), _BONDS[int(orders[first, last])])
    mol = drawn.GetMol()
    mol.UpdatePropertyCache(strict=False)
    Chem.FastFindRings(mol)
    return mol, False
