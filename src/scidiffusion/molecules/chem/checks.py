"""Is a conformer a possible structure of its molecule? One flag a check and conformer.

The checks and thresholds are those of PoseBusters for intramolecular validity (Buttenschoen et al.
2024, table 1): bond lengths and the distances across angles within 25 % of the bounds of distance
geometry, no clash closer than 70 % of them, aromatic rings and double bonds flat to .25 Angstrom.
Beside them: no bond is broken or made, by covalent radii, and the stereo is as specified.

Bounds and lists of atoms belong to the molecule and are computed once for all its conformers.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom

from scidiffusion.molecules.chem.figures import positions
from scidiffusion.molecules.chem.handedness import stereo_kept

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

TOLERANCE = 0.25
"""Relative deviation from the bounds that bonds and angles may have."""
CLASH = 0.7
"""Share of the lower bound that atoms three or more bonds apart must keep."""
FLAT = 0.25
"""Distance from the plane, in Angstrom, that atoms of flat groups may have."""
BROKEN, MADE = 1.3, 1.15
"""Shares of the sum of covalent radii: a bond is shorter, other pairs are farther apart."""


@dataclass(frozen=True)
class Validity:
    """Checks of n conformers, each (n,) bool, true where passed.

    Args:
        finite: Coordinates are finite numbers.
        intact: No bond is broken, none is made.
        bonds: Lengths of bonds between heavy atoms.
        angles: Distances of heavy atoms over two bonds.
        clash: No two heavy atoms, three or more bonds apart, are too near.
        rings: Aromatic rings of five and six are flat.
        double: Double bonds outside rings are flat.
        stereo: Specified centres and double bonds are as asked.
    """

    finite: Flags
    intact: Flags
    bonds: Flags
    angles: Flags
    clash: Flags
    rings: Flags
    double: Flags
    stereo: Flags

    @property
    def ok(self) -> Flags:
        """(n,) whether all checks are passed."""
        return np.logical_and.reduce([getattr(self, one.name) for one in fields(self)])

    def reasons(self, index: int) -> list[str]:
        """Names of the checks that a conformer fails."""
        return [one.name for one in fields(self) if not getattr(self, one.name)[index]]


def validity(mol: Chem.Mol) -> Validity:
    """Check all conformers of a molecule with explicit hydrogens; see the module.

    Raises:
        DataError: if there is no conformer.
    """
    places = positions(mol)
    finite = _all(np.isfinite(places))
    # What is not finite fails its own check; the others need numbers to run.
    places = np.where(finite[:, None, None], places, 0.0)
    distance = _distances(places)
    bonds, angles, clash = _bounds_kept(mol, distance)
    kept = stereo_kept(mol) if finite.all() else _stereo_of_finite(mol, finite)
    return Validity(
        finite,
        _intact(mol, distance),
        bonds,
        angles,
        clash,
        _flat(places, _aromatic_rings(mol)),
        _flat(places, _double_bonds(mol)),
        kept,
    )


def _all(flags: NDArray[np.bool_]) -> Flags:
    """Whether all flags of a conformer are true; of none they are."""
    return np.asarray(flags.reshape(len(flags), -1).all(axis=1), dtype=np.bool_)


def _stereo_of_finite(mol: Chem.Mol, finite: Flags) -> Flags:
    kept = np.zeros(len(finite), dtype=bool)
    ids = [conformer.GetId() for conformer in mol.GetConformers()]
    good = [ids[index] for index in np.flatnonzero(finite)]
    if good:
        kept[finite] = stereo_kept(mol, good)
    return kept


def intact(mol: Chem.Mol) -> Flags:
    """Whether in each conformer no bond is broken and none made, by covalent radii, (n,) bool.

    Raises:
        DataError: if there is no conformer.
    """
    return _intact(mol, _distances(positions(mol)))


def _distances(places: Array) -> Array:
    return np.linalg.norm(places[:, :, None] - places[:, None], axis=-1)


def _intact(mol: Chem.Mol, distance: Array) -> Flags:
    table = Chem.GetPeriodicTable()
    radius = np.array([table.GetRcovalent(atom.GetAtomicNum()) for atom in mol.GetAtoms()])
    sums = radius[:, None] + radius
    bonded = Chem.GetAdjacencyMatrix(mol).astype(bool)
    apart = ~bonded & ~np.eye(len(radius), dtype=bool)
    held = _all(distance[:, bonded] < BROKEN * sums[bonded])
    return held & _all(distance[:, apart] > MADE * sums[apart])


def _bounds_kept(mol: Chem.Mol, distance: Array) -> tuple[Flags, Flags, Flags]:
    """Whether bonds, angles and far pairs of heavy atoms keep the bounds of distance geometry."""
    with rdBase.BlockLogs():
        bounds = rdDistGeom.GetMoleculeBoundsMatrix(mol)
    heavy = np.array([atom.GetAtomicNum() > 1 for atom in mol.GetAtoms()])
    hops = Chem.GetDistanceMatrix(mol)
    first, last = np.triu_indices(len(heavy), 1)
    both = heavy[first] & heavy[last]
    first, last = first[both], last[both]
    upper, lower = bounds[first, last], bounds[last, first]
    apart, between = hops[first, last], distance[:, first, last]
    ratio = np.where(between < lower, between / np.maximum(lower, 1e-9), between / upper)
    ratio = np.where((between >= lower) & (between <= upper), 1.0, ratio)
    near = np.abs(ratio - 1.0) <= TOLERANCE
    # Atoms of different fragments are at a distance of 1e8 in RDKit.
    far = (apart >= 3) & (apart < 1e6)
    return _all(near[:, apart == 1]), _all(near[:, apart == 2]), _all(ratio[:, far] >= CLASH)


def _aromatic_rings(mol: Chem.Mol) -> list[list[int]]:
    rings = []
    for ring in mol.GetRingInfo().AtomRings():
        aromatic = all(mol.GetAtomWithIdx(atom).GetIsAromatic() for atom in ring)
        if len(ring) in (5, 6) and aromatic:
            rings.append(list(ring))
    return rings


def _double_bonds(mol: Chem.Mol) -> list[list[int]]:
    """The six atoms of each double bond outside rings that has four substituents."""
    groups = []
    for bond in mol.GetBonds():
        if bond.GetBondType() != Chem.BondType.DOUBLE or bond.IsInRing():
            continue
        ends = (bond.GetBeginAtom(), bond.GetEndAtom())
        atoms = {end.GetIdx() for end in ends}
        atoms |= {other.GetIdx() for end in ends for other in end.GetNeighbors()}
        if len(atoms) == 6:
            groups.append(sorted(atoms))
    return groups


def _flat(places: Array, groups: list[list[int]]) -> Flags:
    """Whether every group of atoms lies within `FLAT` of its plane of least squares."""
    flat = np.ones(len(places), dtype=bool)
    for size in {len(group) for group in groups}:
        chosen = np.array([group for group in groups if len(group) == size])
        points = places[:, chosen]
        points = points - points.mean(2, keepdims=True)
        # The normal is the last right singular vector: the last eigenvector of the 3 x 3 scatter.
        normal = np.linalg.eigh(points.swapaxes(-1, -2) @ points)[1][..., :1]
        flat &= (np.abs(points @ normal)[..., 0].max(-1) < FLAT).all(1)
    return flat
