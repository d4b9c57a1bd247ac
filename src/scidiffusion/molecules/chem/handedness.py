"""Whether coordinates have the stereo that a molecule specifies.

A geometry is judged by signs alone: of the volume spanned by three bonds of a centre, and of the
cosine of the dihedral angle at a double bond, which for all conformers are a few products of
arrays. What these call wrong may still be the molecule as asked, its atoms numbered otherwise (a
meso compound and its mirror image); there RDKit's substructure match with stereo decides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase

from scidiffusion.molecules.chem.figures import heavy_graph

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

FLAT_VOLUME = 0.1
"""Volume of three unit vectors below which a centre is flat, as in RDKit."""
CW, CCW = Chem.ChiralType.CHI_TETRAHEDRAL_CW, Chem.ChiralType.CHI_TETRAHEDRAL_CCW
CIS = (Chem.BondStereo.STEREOCIS, Chem.BondStereo.STEREOZ)
TRANS = (Chem.BondStereo.STEREOTRANS, Chem.BondStereo.STEREOE)


def stereo_kept(mol: Chem.Mol, conf_ids: Sequence[int] | None = None) -> Flags:
    """Whether each conformer has every specified centre and double bond as asked.

    Args:
        mol: A molecule with conformers, N atoms and its stereo as asked.
        conf_ids: Conformers to judge; all by default.

    Returns:
        (n,) bool; all true where nothing is specified.
    """
    conformers = (
        list(mol.GetConformers())
        if conf_ids is None
        else [mol.GetConformer(int(number)) for number in conf_ids]
    )
    kept = np.ones(len(conformers), dtype=bool)
    centres, signs = asked_centres(mol)
    bonds, cosines = asked_bonds(mol)
    if not len(conformers) or (not centres and not bonds):
        return kept
    places = np.stack([conformer.GetPositions() for conformer in conformers])
    finite = np.isfinite(places).all((1, 2))
    places = np.where(finite[:, None, None], places, 0.0)
    if centres:
        volume = _volumes(places, np.array(centres))
        kept &= (volume * np.array(signs) > FLAT_VOLUME).all(1)
        others, turns = _other_triples(mol, centres, signs)
        # A centre pressed flat may look right from one side and wrong from another.
        if others:
            kept &= (_volumes(places, np.array(others)) * np.array(turns) > 0).all(1)
    if bonds:
        kept &= (_cosines(places, np.array(bonds)) * np.array(cosines) > 0).all(1)
    # One element alone cannot be swapped with another.
    if len(signs) + len(cosines) > 1:
        for index in np.flatnonzero(~kept & finite):
            kept[index] = _same_compound(mol, conformers[index].GetId())
    return kept & finite


def asked_centres(mol: Chem.Mol) -> tuple[list[tuple[int, int, int, int]], list[float]]:
    """Each specified centre with its last three neighbours, and the sign of their volume.

    RDKit's tags speak of the order of the bonds around the atom: looking from the first
    neighbour, the others follow counterclockwise ("@") or clockwise ("@@"). Of three neighbours
    the lone pair follows last, which seen from the lone pair turns the three the other way round.
    """
    centres, signs = [], []
    for atom in mol.GetAtoms():
        tag = atom.GetChiralTag()
        if tag not in (CW, CCW):
            continue
        around = [one.GetIdx() for one in atom.GetNeighbors()]
        if len(around) >= 3:
            centres.append((atom.GetIdx(), *around[-3:]))
            signs.append(1.0 if (tag == CCW) == (len(around) == 3) else -1.0)
    return centres, signs


def _other_triples(
    mol: Chem.Mol, centres: list[tuple[int, int, int, int]], signs: list[float]
) -> tuple[list[tuple[int, int, int, int]], list[float]]:
    """The other triples of the neighbours of centres that have four, and their signs."""
    others, turns = [], []
    for (centre, *last), sign in zip(centres, signs, strict=True):
        around = [one.GetIdx() for one in mol.GetAtomWithIdx(centre).GetNeighbors()]
        if len(around) == 4:
            first = around[0]
            for place, turn in enumerate((-sign, sign, -sign)):
                rest = [atom for index, atom in enumerate(last) if index != place]
                others.append((centre, first, *rest))
                turns.append(turn)
    return others, turns


def asked_bonds(mol: Chem.Mol) -> tuple[list[tuple[int, int, int, int]], list[float]]:
    """Each specified double bond with a neighbour of either end; +1 is cis, -1 trans."""
    bonds, cosines = [], []
    for bond in mol.GetBonds():
        stereo = bond.GetStereo()
        if stereo not in CIS and stereo not in TRANS:
            continue
        sides = list(bond.GetStereoAtoms())
        if len(sides) == 2:
            bonds.append((sides[0], bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), sides[1]))
            cosines.append(1.0 if stereo in CIS else -1.0)
    return bonds, cosines


def _volumes(places: Array, centres: NDArray[np.int_]) -> Array:
    """(n, c) signed volume of the unit vectors to three neighbours of each centre."""
    arms = places[:, centres[:, 1:]] - places[:, centres[:, :1]]
    arms = arms / np.maximum(np.linalg.norm(arms, axis=-1, keepdims=True), 1e-9)
    return np.asarray(np.linalg.det(arms))


def _cosines(places: Array, bonds: NDArray[np.int_]) -> Array:
    """(n, b) cosine of the dihedral angle, but for a positive factor."""
    first, begin, end, last = (places[:, bonds[:, column]] for column in range(4))
    axis = end - begin
    return np.asarray((np.cross(first - begin, axis) * np.cross(last - end, axis)).sum(-1))


def _same_compound(mol: Chem.Mol, conf_id: int) -> bool:
    """Whether a conformer is the molecule as asked but for the numbers of like atoms."""
    seen = Chem.Mol(mol, confId=conf_id)
    with rdBase.BlockLogs():
        Chem.AssignStereochemistryFrom3D(seen)
        asked = Chem.MolFromSmiles(canonical(mol))
        return asked is not None and bool(
            heavy_graph(seen).HasSubstructMatch(asked, useChirality=True)
        )


def canonical(mol: Chem.Mol) -> str:
    """Canonical isomeric SMILES without hydrogen."""
    with rdBase.BlockLogs():
        return str(Chem.MolToSmiles(heavy_graph(mol)))
