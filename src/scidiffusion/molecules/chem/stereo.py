"""Stereo of molecules: what is left open, and how it is set.

Elements are tetrahedral centres (of C, Si, N+, S, P, ...) and double bonds. Whether a geometry
keeps them is seen by `scidiffusion.molecules.chem.handedness`.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase
from rdkit.Chem import rdCIPLabeler, rdDistGeom

from scidiffusion.errors import ConfigError, DataError, ScidiffusionWarning
from scidiffusion.molecules.chem.figures import name_of
from scidiffusion.molecules.chem.handedness import (
    CCW,
    CIS,
    CW,
    TRANS,
    asked_centres,
    canonical,
    stereo_kept,
)

__all__ = ["Open", "enumerate_stereo", "fix_stereo", "unspecified"]

Array = NDArray[np.float64]

CENTRE, BOND = "tetrahedral centre", "double bond"
WAYS = ((False, True), (True, True), (True, False))
"""Of distance geometry: from random coordinates or not, with RDKit's knowledge or without."""
QUICK = 2
"""Attempts, of the first way alone, when any combination will do."""
TRIES = 10
"""Attempts of distance geometry at a combination before it counts as impossible."""
PATIENT = 50
"""Attempts if no combination has been found possible with `TRIES`."""
CIP_STEPS = 100_000
"""Steps after which the search for a label of Cahn, Ingold and Prelog is given up."""
LARGE_RING = 12
"""Atoms of a ring from which on a trans double bond is without strain."""
COMBINATIONS = 256
"""Combinations that are tried at most."""

_DOUBLE = Chem.BondType.DOUBLE


@dataclass(frozen=True)
class Open:
    """A stereo element that a molecule leaves open.

    Args:
        kind: `"tetrahedral centre"` or `"double bond"`.
        atoms: The centre, or the two atoms of the bond.
        text: Both in words, such as `"tetrahedral centre C3"`; atoms count from 0.
        sides: Of a bond, one neighbour of each of its atoms, by which cis and trans are told;
            in a ring, those of the smallest ring.
        prefers_cis: Whether it is in a ring so small that trans is strained.
    """

    kind: str
    atoms: tuple[int, ...]
    text: str
    sides: tuple[int, ...] = ()
    prefers_cis: bool = False

    def __str__(self) -> str:
        return self.text


def unspecified(mol: Chem.Mol) -> list[Open]:
    """Stereo elements that are possible but not specified, in the order of their atoms.

    Left out is what is no lasting stereo or follows from the rest: nitrogen with three neighbours
    (amines, also in cages), imines of NH, the C=N bonds of amidinium and guanidinium, and bonds
    of allenes.

    Args:
        mol: A sanitised molecule.
    """
    with rdBase.BlockLogs():
        found = Chem.FindPotentialStereo(mol, cleanIt=False, flagPossible=True)
    elements = []
    for one in found:
        if one.specified == Chem.StereoSpecified.Specified:
            continue
        if one.type == Chem.StereoType.Atom_Tetrahedral:
            element = _open_centre(mol.GetAtomWithIdx(one.centeredOn))
        elif one.type == Chem.StereoType.Bond_Double:
            element = _open_bond(mol.GetBondWithIdx(one.centeredOn), one.controllingAtoms)
        else:
            continue
        if element is not None:
            elements.append(element)
    return sorted(elements, key=lambda element: element.atoms)


def _open_centre(atom: Chem.Atom) -> Open | None:
    # Amines invert; in a cage the cage says the side, and a tag would keep RDKit from embedding.
    if atom.GetAtomicNum() == 7 and atom.GetTotalDegree() == 3:
        return None
    return Open(CENTRE, (atom.GetIdx(),), f"{CENTRE} {_label(atom)}")


def _open_bond(bond: Chem.Bond, controlling: Sequence[int]) -> Open | None:
    ends = (bond.GetBeginAtom(), bond.GetEndAtom())
    if any(_cumulated(end) or _labile_nitrogen(end, bond.GetOtherAtom(end)) for end in ends):
        return None
    mol = bond.GetOwningMol()
    halves = (controlling[:2], controlling[2:])
    sides = [[atom for atom in half if atom < mol.GetNumAtoms()] for half in halves]
    if not all(sides):
        return None
    size = min((len(ring) for ring in _rings_of(bond)), default=0)
    ring = next((set(ring) for ring in _rings_of(bond) if len(ring) == size), set())
    sides = [sorted(half, key=lambda atom: atom not in ring) for half in sides]
    first, last = (_label(end) for end in ends)
    return Open(
        BOND,
        (ends[0].GetIdx(), ends[1].GetIdx()),
        f"{BOND} {first}={last}",
        (sides[0][0], sides[1][0]),
        prefers_cis=0 < size < LARGE_RING,
    )


def _rings_of(bond: Chem.Bond) -> list[tuple[int, ...]]:
    """Rings, as tuples of atoms, that a bond is part of."""
    rings = bond.GetOwningMol().GetRingInfo()
    number = bond.GetIdx()
    pairs = zip(rings.AtomRings(), rings.BondRings(), strict=True)
    return [atoms for atoms, bonds in pairs if number in bonds]


def _cumulated(atom: Chem.Atom) -> bool:
    return sum(bond.GetBondType() == _DOUBLE for bond in atom.GetBonds()) > 1


def _labile_nitrogen(atom: Chem.Atom, other: Chem.Atom) -> bool:
    """Whether the double bond to a nitrogen turns: by its proton, or by resonance."""
    if atom.GetAtomicNum() != 7:
        return False
    if atom.GetFormalCharge() > 0:
        around = [one for one in other.GetNeighbors() if one.GetIdx() != atom.GetIdx()]
        return any(one.GetAtomicNum() == 7 and not one.GetFormalCharge() for one in around)
    return atom.GetTotalNumHs(includeNeighbors=True) > 0


def _label(atom: Chem.Atom) -> str:
    return f"{atom.GetSymbol()}{atom.GetIdx()}"


def fix_stereo(mol: Chem.Mol, seed: int) -> tuple[Chem.Mol, list[str]]:
    """Set what is left open, by chance, to a combination that exists in space.

    Args:
        mol: A molecule with explicit hydrogens.
        seed: Seed; the same molecule and seed give the same combination.

    Returns:
        A copy in which it is set, and what was set, in words, such as
        `"tetrahedral centre C3 (R)"`. Nothing is reported of elements that have one possible
        combination alone, such as the bridgeheads of tropane.

    Raises:
        DataError: if none of up to `COMBINATIONS` combinations exists.
    """
    elements = unspecified(mol)
    if not elements:
        return Chem.Mol(mol), []
    fixed = _first(mol, elements, seed)
    if fixed is None:
        raise DataError(
            f"no combination of the open stereo of {name_of(mol)!r} has a 3D geometry "
            f"({', '.join(map(str, elements))}); specify it in the SMILES"
        )
    if _only_one(mol, elements, fixed):
        return fixed, []
    # RDKit drops some that depend on others, such as the spiro atom of two like rings.
    left = {element.atoms for element in unspecified(fixed)}
    return fixed, [_chosen_text(fixed, one) for one in elements if one.atoms not in left]


def _first(mol: Chem.Mol, elements: list[Open], seed: int) -> Chem.Mol | None:
    """The first combination that exists, in an order by chance, or its mirror image."""
    # Strained cages need many attempts, too dear to be spent on each combination at once.
    for tries, ways in ((QUICK, 1), (TRIES, len(WAYS)), (PATIENT, len(WAYS))):
        rng = np.random.default_rng(seed)
        mirrored = rng.random() < 0.5 and not asked_centres(mol)[0]
        for isomer in _isomers(mol, elements, rng):
            if _exists(isomer, tries, ways):
                return _mirror_image(isomer) if mirrored else isomer
    return None


def _mirror_image(mol: Chem.Mol) -> Chem.Mol:
    # It exists as well, but a few attempts may find the one and not the other.
    image = Chem.Mol(mol)
    for atom in image.GetAtoms():
        if atom.GetChiralTag() in (CW, CCW):
            atom.InvertChirality()
    with rdBase.BlockLogs():
        Chem.AssignStereochemistry(image, cleanIt=True, force=True)
    return image


def enumerate_stereo(mol: Chem.Mol, limit: int = 32) -> list[Chem.Mol]:
    """All stereoisomers of a molecule that exist in space; what is specified stays.

    Args:
        mol: A molecule with explicit hydrogens.
        limit: Isomers at most; a warning says where there may be more.

    Returns:
        Copies, no two the same compound, in a fixed order; `[copy]` where nothing is open. Their
        property `smiles` is that of the isomer.

    Raises:
        ConfigError: if `limit` is not a positive integer.
        DataError: if no isomer has a 3D geometry.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ConfigError(f"limit must be 1 or more isomers, got {limit!r}")
    elements = unspecified(mol)
    if not elements:
        return [Chem.Mol(mol)]
    found: list[Chem.Mol] = []
    seen: set[str] = set()
    cut = 2 ** len(elements) > COMBINATIONS
    for isomer in _isomers(mol, elements, None if not cut else np.random.default_rng(0)):
        text = canonical(isomer)
        if text in seen:
            continue
        seen.add(text)
        if not _exists(isomer):
            continue
        if len(found) == limit:
            cut = True
            break
        isomer.SetProp("smiles", text)
        found.append(isomer)
    if not found:
        raise DataError(
            f"no stereoisomer of {name_of(mol)!r} has a 3D geometry: check what is specified"
        )
    if cut:
        warnings.warn(
            f"{name_of(mol)!r} has more stereoisomers than the {len(found)} that are returned "
            f"({len(elements)} open elements); specify some, or raise limit",
            ScidiffusionWarning,
            stacklevel=2,
        )
    return found


def _isomers(
    mol: Chem.Mol, elements: list[Open], rng: np.random.Generator | None
) -> Iterator[Chem.Mol]:
    """Combinations of open elements, one after the other: in order, or by chance with `rng`."""
    count = len(elements)
    if rng is None:
        # Mirror images follow each other: where bridges tie centres, both exist or neither does.
        half = [np.array((0, *code)) for code in itertools.product((0, 1), repeat=count - 1)]
        codes = [code for one in half for code in (one, 1 - one)]
    elif 2**count <= COMBINATIONS:
        grid = np.array(list(itertools.product((0, 1), repeat=count)))
        codes = list(rng.permutation(grid))
    else:
        codes = list(rng.integers(2, size=(COMBINATIONS, count)))
    tried = {element.atoms for element in elements}
    small = [index for index, element in enumerate(elements) if element.prefers_cis]
    # Trans in small rings comes last: it may exist, but nobody means it who does not write it.
    for code in sorted(codes, key=lambda code: int(code[small].sum())):
        isomer = _set(mol, elements, code)
        # Setting an element can open another, whose sides were equal before.
        later = [one for one in unspecified(isomer) if one.atoms not in tried]
        if later:
            chance = rng or np.random.default_rng(0)
            isomer = _set(isomer, later, chance.integers(2, size=len(later)))
        yield isomer


def _set(mol: Chem.Mol, elements: list[Open], code: Array | NDArray[np.int_]) -> Chem.Mol:
    """A copy with open elements set to CW or CCW, cis or trans, by a code of 0 and 1."""
    isomer = Chem.Mol(mol)
    for element, choice in zip(elements, code, strict=True):
        if element.kind == CENTRE:
            isomer.GetAtomWithIdx(element.atoms[0]).SetChiralTag(CCW if choice else CW)
        else:
            bond = isomer.GetBondBetweenAtoms(*element.atoms)
            bond.SetStereoAtoms(*element.sides)
            bond.SetStereo(TRANS[0] if choice else CIS[0])
    with rdBase.BlockLogs():
        Chem.SetDoubleBondNeighborDirections(isomer)
        Chem.AssignStereochemistry(isomer, cleanIt=True, force=True)
    return isomer


def _exists(mol: Chem.Mol, tries: int = TRIES, ways: int = len(WAYS)) -> bool:
    """Whether distance geometry finds a place for the molecule that keeps its stereo."""
    # What is known of angles and rings goes first where it stands in the way of strained cages.
    for random, knowledge in WAYS[:ways]:
        trial = Chem.Mol(mol)
        options = rdDistGeom.ETKDGv3() if knowledge else rdDistGeom.EmbedParameters()
        choices = {
            "randomSeed": 1,
            "maxIterations": tries,
            "useRandomCoords": random,
            "numThreads": 1,
        }
        for choice, value in choices.items():
            setattr(options, choice, value)
        with rdBase.BlockLogs():
            number = rdDistGeom.EmbedMolecule(trial, options)
        if number >= 0 and stereo_kept(trial).all():
            return True
    return False


def _only_one(mol: Chem.Mol, elements: list[Open], fixed: Chem.Mol) -> bool:
    """Whether the open elements are tied to each other, so that there is no choice of isomer."""
    rings = mol.GetRingInfo()
    atoms = {atom for element in elements for atom in element.atoms}
    # Elements are tied only where rings share atoms, as in bridges.
    if not 2 <= len(elements) <= 4 or any(rings.NumAtomRings(atom) < 2 for atom in atoms):
        return False
    others = {canonical(isomer): isomer for isomer in _isomers(mol, elements, None)}
    others.pop(canonical(fixed), None)
    return not any(
        _exists(isomer, tries, 1) for tries in (QUICK, TRIES) for isomer in others.values()
    )


def _chosen_text(mol: Chem.Mol, element: Open) -> str:
    """An element with the label of Cahn, Ingold and Prelog that it now has."""
    labelled = Chem.Mol(mol)
    holder: Chem.Atom | Chem.Bond
    if element.kind == BOND:
        holder = labelled.GetBondBetweenAtoms(*element.atoms)
        asked: tuple[list[int], list[int]] = ([], [holder.GetIdx()])
    else:
        holder = labelled.GetAtomWithIdx(element.atoms[0])
        asked = ([holder.GetIdx()], [])
    try:
        with rdBase.BlockLogs():
            rdCIPLabeler.AssignCIPLabels(labelled, *asked, CIP_STEPS)
    except RuntimeError:
        # Highly symmetric molecules need more steps than are worth waiting for.
        return element.text
    return (
        f"{element.text} ({holder.GetProp('_CIPCode')})"
        if holder.HasProp("_CIPCode")
        else (element.text)
    )
