"""From what a user writes to a molecule that can have conformers, or one clear error.

RDKit reads the SMILES (Weininger 1988; OpenSMILES). Where it refuses, a scan of our own finds the
character that is wrong, since RDKit tells it to its log alone. What RDKit reads but what has no
conformers here (metals, query atoms, radicals, several parts) is refused with its atom named.

Atoms are counted from 0, as RDKit does, characters of a SMILES from 1.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from rdkit import Chem, rdBase

from scidiffusion.errors import DataError
from scidiffusion.molecules.chem.figures import heavy_graph, name_of
from scidiffusion.molecules.chem.syntax import atom_places, fault

__all__ = ["ELEMENTS", "LARGEST", "as_molecule", "read_smiles"]

ELEMENTS = (1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 35, 53)
"""Atomic numbers that are handled: H B C N O F Si P S Cl Br I."""
LARGEST = 100
"""Heavy atoms that a molecule may have."""
LONGEST = 10_000
"""Characters that are parsed at all."""
SHOWN = 120
"""Characters of a SMILES that an error shows."""

_TABLE = Chem.GetPeriodicTable()
_NONMETALS = frozenset((1, 2, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 33, 34, 35, 36, 52, 53, 54))
_HANDLED = " ".join(_TABLE.GetElementSymbol(number) for number in ELEMENTS)
_BONDS = (
    Chem.BondType.SINGLE,
    Chem.BondType.DOUBLE,
    Chem.BondType.TRIPLE,
    Chem.BondType.AROMATIC,
)
_TETRAHEDRAL = (
    Chem.ChiralType.CHI_UNSPECIFIED,
    Chem.ChiralType.CHI_TETRAHEDRAL_CW,
    Chem.ChiralType.CHI_TETRAHEDRAL_CCW,
)
_NO_BOND_STEREO = (Chem.BondStereo.STEREONONE, Chem.BondStereo.STEREOANY)

_COUNTED = {"AtomAnd", "AtomAtomicNum", "AtomHCount", "AtomImplicitHCount", "AtomNull"}
"""What an H-count column of an SDF file makes of an atom."""


def read_smiles(text: str, *, allow_fragments: bool = False) -> Chem.Mol:
    """Read a SMILES into a molecule with explicit hydrogens and without conformers.

    Args:
        text: SMILES; white space around it is dropped.
        allow_fragments: Whether several parts without a bond between them, such as those of a
            salt, may stand in one molecule.

    Returns:
        A sanitised molecule: the heavy atoms in the order of the SMILES, then the hydrogens. Its
        property `smiles` is the text.

    Raises:
        DataError: if it is no SMILES (the message has the character), or one of a molecule that
            cannot be handled: elements beyond `ELEMENTS`, more than `LARGEST` heavy atoms or none,
            impossible valences or aromatic rings, query atoms, radicals, stereo of allenes and of
            five and more neighbours, several parts.
    """
    if not isinstance(text, str):
        raise DataError(f"a SMILES must be text, got {type(text).__name__}")
    given = text.strip()
    if not given:
        raise DataError("the SMILES is empty; give one such as 'CCO'")
    if len(given) > LONGEST:
        raise DataError(
            f"the SMILES {_shown(given)} has {len(given)} characters; molecules of up to "
            f"{LARGEST} heavy atoms are handled"
        )
    for place, letter in enumerate(given, 1):
        if not "!" <= letter <= "~":
            raise DataError(f"{_shown(given)}, character {place}: {_stranger(letter)}")
    if len(given) > 3 * LARGEST:
        # Rings of a huge molecule take long to find: it is refused before that.
        rough = _parse(given, sanitize=False)
        if rough is not None:
            _check_size(rough, _shown(given))
    mol = _parse(given)
    if mol is None:
        raise DataError(_why_not(given, allow_fragments))
    if "=" in given and (set("@/\\") & set(given)):
        _check_lost_stereo(given)
    _check(mol, _shown(given), allow_fragments)
    with rdBase.BlockLogs():
        mol = Chem.AddHs(mol)
    mol.SetProp("smiles", given)
    return mol


def as_molecule(smiles_or_mol: str | Chem.Mol, *, allow_fragments: bool = False) -> Chem.Mol:
    """A molecule as all functions here want it, from a SMILES or from a molecule of RDKit.

    Args:
        smiles_or_mol: SMILES (see `read_smiles`), or a molecule. Of a molecule, conformers are
            dropped in the copy; where it has coordinates in space and no stereo at all, its first
            conformer says the stereo.
        allow_fragments: Whether several parts may stand in one molecule.

    Returns:
        A sanitised copy with explicit hydrogens (new ones come last), no conformers, and the
        property `smiles`: the one it had, else RDKit's own.

    Raises:
        DataError: as `read_smiles`.
    """
    if isinstance(smiles_or_mol, str):
        return read_smiles(smiles_or_mol, allow_fragments=allow_fragments)
    if not isinstance(smiles_or_mol, Chem.Mol):
        raise DataError(
            f"a molecule must be a SMILES or an RDKit Mol, got {type(smiles_or_mol).__name__}"
        )
    mol = _without_queries(smiles_or_mol)
    name = _name(mol)
    _check_size(mol, name)
    _check_elements(mol, name)
    with rdBase.BlockLogs():
        problems = Chem.DetectChemistryProblems(mol)
        if problems:
            raise DataError(f"{name}: {_problem_text(mol, problems[0], None)}")
        Chem.SanitizeMol(mol)
        _check(mol, name, allow_fragments)
        if _solid(mol) and not _any_stereo(mol):
            Chem.AssignStereochemistryFrom3D(mol, mol.GetConformer().GetId())
        mol.RemoveAllConformers()
        mol = Chem.AddHs(mol)
        Chem.AssignStereochemistry(mol, cleanIt=True, force=True)
        if not mol.HasProp("smiles"):
            mol.SetProp("smiles", Chem.MolToSmiles(heavy_graph(mol)))
    return mol


def _parse(text: str, *, sanitize: bool = True) -> Chem.Mol | None:
    parameters = Chem.SmilesParserParams()
    options = {
        "sanitize": sanitize,
        "removeHs": sanitize,
        "allowCXSMILES": False,
        "parseName": False,
    }
    for option, value in options.items():
        setattr(parameters, option, value)
    try:
        with rdBase.BlockLogs():
            return Chem.MolFromSmiles(text, parameters)
    except (RuntimeError, ValueError, OverflowError):
        return None


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "...")


def _name(mol: Chem.Mol) -> str:
    try:
        return _shown(name_of(mol))
    except (RuntimeError, ValueError):
        return "the molecule"


def _stranger(letter: str) -> str:
    if letter.isspace():
        return "white space ends a SMILES; give what comes before it alone"
    return f"{letter!r} has no meaning in a SMILES"


def _why_not(text: str, allow_fragments: bool) -> str:
    """Why RDKit did not read a SMILES."""
    shown = _shown(text)
    rough = _parse(text, sanitize=False)
    if rough is None:
        wrong = fault(text)
        return f"{shown}, {wrong}" if wrong else f"{shown} is no SMILES that RDKit can read"
    _check_size(rough, shown)
    _check_elements(rough, shown)
    with rdBase.BlockLogs():
        try:
            problems = Chem.DetectChemistryProblems(rough)
        except RuntimeError:  # of atoms with more hydrogens than RDKit counts
            problems = ()
    if problems:
        return f"{shown}: {_problem_text(rough, problems[0], atom_places(text))}"
    return f"{shown} is no molecule that RDKit can make sense of"


def _problem_text(mol: Chem.Mol, problem: Any, places: list[int] | None) -> str:
    """A problem of chemistry in words, its atoms named."""
    # RDKit hands problems out by their base class; only `GetType` tells them apart.
    kind = problem.GetType()
    if kind == "KekulizeException":
        atoms = list(problem.GetAtomIndices())
        names = ", ".join(_atom_text(mol, atom, places) for atom in atoms[:8])
        nitrogen = any(mol.GetAtomWithIdx(atom).GetAtomicNum() == 7 for atom in atoms)
        hint = "; an aromatic nitrogen that carries hydrogen is written [nH]" if nitrogen else ""
        return (
            f"no alternating double bonds can be drawn for the aromatic atoms {names}"
            f"{' and others' if len(atoms) > 8 else ''}{hint}"
        )
    if kind not in ("AtomValenceException", "AtomKekulizeException"):
        return str(problem.Message())
    atom = mol.GetAtomWithIdx(problem.GetAtomIdx())
    where = _atom_text(mol, atom.GetIdx(), places)
    if kind == "AtomKekulizeException":
        return f"atom {where} is written aromatic but is in no aromatic ring"
    found = re.search(r", (\d+), is greater", problem.Message())
    if not found:
        return f"atom {where}: {problem.Message()}"
    charge = atom.GetFormalCharge()
    state = f"charge {charge:+d}" if charge else "no charge"
    element = _TABLE.GetElementName(atom.GetAtomicNum()).lower()
    return f"atom {where} has valence {found[1]}, more than {element} of {state} can have"


def _atom_text(mol: Chem.Mol, index: int, places: list[int] | None = None) -> str:
    """An atom as an error calls it: symbol and number, and its character where known."""
    text = f"{mol.GetAtomWithIdx(index).GetSymbol()}{index}"
    if places is not None and index < len(places):
        text += f" (character {places[index]})"
    return text


def _tags(mol: Chem.Mol) -> int:
    unset = Chem.ChiralType.CHI_UNSPECIFIED
    return sum(atom.GetChiralTag() != unset for atom in mol.GetAtoms())


def _check_lost_stereo(text: str) -> None:
    """Refuse stereo that RDKit reads over: that of allenes and longer cumulenes.

    Other marks that it drops are at atoms and bonds that are no stereo elements.
    """
    rough = _parse(text, sanitize=False)
    if rough is None:
        return
    places = atom_places(text)
    inner = [atom for atom in rough.GetAtoms() if _cumulated(atom)]
    for atom in inner:
        where = places[atom.GetIdx()]
        if "@" in text[where:].split("]")[0] and text[where - 1] == "[":
            raise DataError(
                f"{_shown(text)}, character {where}: stereo of allenes cannot be kept; leave "
                "out the @"
            )
        ends = [one for one in atom.GetNeighbors() if not _cumulated(one)]
        marks = [bond.GetBondDir() for end in ends for bond in end.GetBonds()]
        if len(ends) == 1 and any(mark != Chem.BondDir.NONE for mark in marks):
            raise DataError(
                f"{_shown(text)}, character {where}: stereo of neighbouring double bonds cannot "
                "be kept; leave out / and \\ there"
            )


def _cumulated(atom: Chem.Atom) -> bool:
    """Whether an atom is the inner one of two double bonds that meet."""
    kinds = [bond.GetBondType() for bond in atom.GetBonds()]
    return len(kinds) == 2 and all(kind == Chem.BondType.DOUBLE for kind in kinds)


def _check(mol: Chem.Mol, name: str, allow_fragments: bool) -> None:
    """Refuse what has no conformers here; see `read_smiles`."""
    _check_size(mol, name)
    _check_elements(mol, name)
    for atom in mol.GetAtoms():
        where = f"atom {atom.GetSymbol()}{atom.GetIdx()}"
        if atom.GetChiralTag() not in _TETRAHEDRAL:
            raise DataError(
                f"{name}: {where} has stereo that is not tetrahedral, which cannot be kept; leave "
                "it out"
            )
        charge = atom.GetFormalCharge()
        if not 0 <= _TABLE.GetNOuterElecs(atom.GetAtomicNum()) - charge <= 8:
            raise DataError(f"{name}: {where} cannot have charge {charge:+d}")
        if atom.GetNumRadicalElectrons():
            raise DataError(
                f"{name}: {where} is a radical ({atom.GetNumRadicalElectrons()} unpaired "
                "electrons); give it its hydrogens or its charge"
            )
    for bond in mol.GetBonds():
        if bond.GetBondType() not in _BONDS:
            raise DataError(
                f"{name}: the bond of atoms {bond.GetBeginAtomIdx()} and {bond.GetEndAtomIdx()} "
                f"is {bond.GetBondType().name.lower()}; only single, double, triple and aromatic "
                "bonds are handled"
            )
    parts = Chem.GetMolFrags(mol)
    if len(parts) > 1 and not allow_fragments:
        raise DataError(
            f"{name} has {len(parts)} parts without a bond between them; give the largest alone, "
            f"{_largest_part(mol)!r}, or all with allow_fragments=True"
        )


def _check_size(mol: Chem.Mol, name: str) -> None:
    if not mol.GetNumAtoms():
        raise DataError(f"{name} has no atoms")
    heavy = mol.GetNumHeavyAtoms()
    dummies = any(atom.GetAtomicNum() == 0 for atom in mol.GetAtoms())
    if not heavy and not dummies:
        raise DataError(f"{name} has no atom but hydrogen, and so no conformers")
    if heavy > LARGEST:
        raise DataError(f"{name} has {heavy} heavy atoms; up to {LARGEST} are handled")


def _check_elements(mol: Chem.Mol, name: str) -> None:
    for atom in mol.GetAtoms():
        number = atom.GetAtomicNum()
        if number in ELEMENTS and not atom.HasQuery():
            continue
        if number == 0 or atom.HasQuery():
            raise DataError(
                f"{name}: atom {atom.GetIdx()} ({atom.GetSymbol()!r}) stands for any atom or a "
                "pattern; put an element there"
            )
        element = _TABLE.GetElementName(number).lower()
        metal = "" if number in _NONMETALS else ", a metal"
        rest = _largest_part(mol, handled=True)
        hint = f"; its largest part without it is {rest!r}" if rest else ""
        raise DataError(
            f"{name}: atom {atom.GetIdx()} is {element} ({atom.GetSymbol()}){metal}, which is "
            f"not handled; the elements are {_HANDLED}{hint}"
        )
    for bond in mol.GetBonds():
        if bond.HasQuery():
            raise DataError(
                f"{name}: the bond of atoms {bond.GetBeginAtomIdx()} and {bond.GetEndAtomIdx()} "
                "stands for several kinds of bonds; give one"
            )


def _largest_part(mol: Chem.Mol, *, handled: bool = False) -> str:
    """SMILES of the part with most heavy atoms; "" if none is of handled elements alone."""
    found, size = "", 0
    for part in Chem.GetMolFrags(mol):
        numbers = [mol.GetAtomWithIdx(atom).GetAtomicNum() for atom in part]
        heavy = sum(number > 1 for number in numbers)
        if heavy <= size or (handled and not set(numbers) <= set(ELEMENTS)):
            continue
        with rdBase.BlockLogs():
            text = Chem.MolFragmentToSmiles(mol, list(part))
            smaller = _parse(text)
        if smaller is not None:
            found, size = Chem.MolToSmiles(smaller), heavy
    return found


def _without_queries(mol: Chem.Mol) -> Chem.Mol:
    """A copy in which atoms that SDF files describe by a query for their element are plain."""
    if not any(atom.HasQuery() for atom in mol.GetAtoms()):
        return Chem.Mol(mol)
    plain = Chem.RWMol(mol)
    for atom in mol.GetAtoms():
        if not atom.HasQuery() or not atom.GetAtomicNum():
            continue
        words = re.findall(r"[A-Za-z]\w*", atom.DescribeQuery())
        if {word for word in words if word.startswith("Atom")} <= _COUNTED:
            new = Chem.Atom(atom.GetAtomicNum())
            new.SetFormalCharge(atom.GetFormalCharge())
            new.SetIsotope(atom.GetIsotope())
            new.SetChiralTag(atom.GetChiralTag())
            new.SetNumExplicitHs(atom.GetNumExplicitHs())
            new.SetNoImplicit(atom.GetNoImplicit())
            new.SetIsAromatic(atom.GetIsAromatic())
            plain.ReplaceAtom(atom.GetIdx(), new)
    return plain.GetMol()


def _solid(mol: Chem.Mol) -> bool:
    if not mol.GetNumConformers() or not mol.GetConformer().Is3D():
        return False
    return bool(np.isfinite(mol.GetConformer().GetPositions()).all())


def _any_stereo(mol: Chem.Mol) -> bool:
    return _tags(mol) > 0 or any(
        bond.GetStereo() not in _NO_BOND_STEREO for bond in mol.GetBonds()
    )
