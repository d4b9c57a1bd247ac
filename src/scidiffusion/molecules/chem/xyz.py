"""Atoms and coordinates without bonds: XYZ files, and molecules from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from os import PathLike

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rdkit import Chem, rdBase
from rdkit.Chem import rdDetermineBonds

from scidiffusion.errors import DataError
from scidiffusion.molecules.chem.figures import (
    NAMES,
    figure_texts,
    figures,
    finite_positions,
    heavy_graph,
    name_of,
    take_figures,
)
from scidiffusion.molecules.chem.textfiles import open_text, write_texts

__all__ = ["molecule_from_coordinates", "read_xyz", "write_xyz"]

Array = NDArray[np.float64]


def write_xyz(path: str | PathLike[str], molecules: Chem.Mol | Iterable[Chem.Mol]) -> int:
    """Write all conformers of molecules as the frames of an XYZ file.

    Args:
        path: The file.
        molecules: A molecule or several.

    Returns:
        How many frames were written. The comment of each has `energy_kcal_mol`,
        `energy_method`, `boltzmann_weight` and `valid` where they are known, the `charge`, and as
        the last entry `smiles`.

    Raises:
        DataError: if there is no molecule, one has no conformer, or a coordinate is not finite.
        OutputError: if the file cannot be written; an older one is as it was.
    """

    def frames() -> Iterator[str]:
        for mol in several(molecules):
            symbols = [atom.GetSymbol() for atom in mol.GetAtoms()]
            for place, known in zip(finite_positions(mol), figures(mol), strict=True):
                entries = figure_texts(known) | {
                    "charge": str(Chem.GetFormalCharge(mol)),
                    "smiles": " ".join(name_of(mol).split()),
                }
                comment = " ".join(f"{name}={text}" for name, text in entries.items())
                atoms = "".join(
                    f"{symbol:<2} {x:14.8f} {y:14.8f} {z:14.8f}\n"
                    for symbol, (x, y, z) in zip(symbols, place, strict=True)
                )
                yield f"{len(symbols)}\n{comment}\n{atoms}"

    return write_texts(path, frames())


def read_xyz(
    path: str | PathLike[str], *, template: Chem.Mol | None = None, charge: int | None = None
) -> list[Chem.Mol]:
    """Read the frames of an XYZ file as molecules with one conformer each.

    Args:
        path: The file; frames follow one another.
        template: The molecule they all are, with its atoms in the order of the file; default:
            bonds are derived from the distances.
        charge: Total charge; default what a frame's comment says (`charge=-1`), else 0.

    Returns:
        Molecules with explicit hydrogen. SMILES and figures in the comments, as `write_xyz`
        writes them, are taken over.

    Raises:
        DataError: naming the frame, if the file is cut off or no XYZ, an element is unknown, the
            template has other atoms, or no bonds fit the distances and the charge.
    """
    found = []
    for number, (symbols, places, comment) in enumerate(_frames(path), 1):
        entries = _comment(comment)
        try:
            total = int(entries.get("charge", "0")) if charge is None else charge
            numbers = [_atomic_number(symbol) for symbol in symbols]
            mol = molecule_from_coordinates(numbers, places, charge=total, template=template)
        except ValueError as error:
            raise DataError(f"{path}, frame {number}: {error}") from error
        if "smiles" in entries and template is None:
            mol.SetProp("smiles", entries["smiles"])
            keep_smiles(mol)
        for name in NAMES:
            if name in entries:
                mol.SetProp(name, entries[name])
        take_figures(mol)
        found.append(mol)
    if not found:
        raise DataError(f"{path} holds no frame")
    return found


def _frames(path: str | PathLike[str]) -> Iterator[tuple[list[str], Array, str]]:
    with open_text(path) as stream:
        number = 0
        while line := stream.readline():
            if not line.strip():
                continue
            number += 1
            try:
                count = int(line)
                comment = stream.readline()
                rows = [stream.readline().split() for _ in range(count)]
                places = np.array([[float(x) for x in row[1:4]] for row in rows], np.float64)
                if count < 1 or places.shape != (count, 3) or not np.isfinite(places).all():
                    raise ValueError(line)
            except (ValueError, OverflowError) as error:
                raise DataError(
                    f"{path}, frame {number} is cut off or no XYZ: it needs the number of atoms, "
                    "a comment line, and for each atom a line with its symbol and x, y, z"
                ) from error
            yield [row[0] for row in rows], places, comment.strip()


def _comment(text: str) -> dict[str, str]:
    head, found, smiles = text.partition("smiles=")
    entries = dict(part.split("=", 1) for part in head.split() if "=" in part)
    return entries | ({"smiles": smiles.strip()} if found and smiles.strip() else {})


def _atomic_number(symbol: str) -> int:
    if symbol.isdigit():
        return int(symbol)
    with rdBase.BlockLogs():
        try:
            return int(Chem.GetPeriodicTable().GetAtomicNumber(symbol.capitalize()))
        except RuntimeError:
            raise DataError(f"there is no element {symbol!r}") from None


def molecule_from_coordinates(
    numbers: ArrayLike,
    places: ArrayLike,
    *,
    charge: int = 0,
    template: Chem.Mol | None = None,
) -> Chem.Mol:
    """A molecule with the given atoms and coordinates as its one conformer.

    Args:
        numbers: (N,) atomic numbers.
        places: (N, 3) coordinates in Angstrom.
        charge: Total charge, for the bonds that are derived without a template
            (Kim and Kim 2015, in RDKit's `rdDetermineBonds`).
        template: The molecule, with its atoms in this order; its bonds are taken over.

    Returns:
        The molecule, stereochemistry as in space. With a template a copy of it, which keeps its
        properties.

    Raises:
        DataError: if the shapes do not fit, the template has other atoms, or no bonds fit the
            distances and the charge.
    """
    kinds = [int(number) for number in np.asarray(numbers).ravel()]
    points = np.asarray(places, np.float64)
    if not kinds or points.shape != (len(kinds), 3) or not np.isfinite(points).all():
        raise DataError(
            f"{len(kinds)} atoms need ({len(kinds)}, 3) finite coordinates, got {points.shape}"
        )
    if template is not None:
        wanted = [atom.GetAtomicNum() for atom in template.GetAtoms()]
        if wanted != kinds:
            raise DataError(
                f"the template {name_of(template)!r} has {len(wanted)} atoms of other elements, "
                f"or in another order, than the {len(kinds)} given"
            )
        mol = Chem.Mol(template)
        mol.RemoveAllConformers()
    else:
        bare = Chem.RWMol()
        for number in kinds:
            if not 1 <= number <= 118:
                raise DataError(f"there is no element of number {number}")
            bare.AddAtom(Chem.Atom(number))
        mol = bare.GetMol()
    conformer = Chem.Conformer(len(kinds))
    conformer.Set3D(True)
    conformer.SetPositions(np.ascontiguousarray(points))
    mol.AddConformer(conformer, assignId=True)
    with rdBase.BlockLogs():
        try:
            if template is not None:
                # The coordinates may be of another stereoisomer than the template is.
                Chem.AssignStereochemistryFrom3D(mol)
                return mol
            if len(kinds) > 1:
                rdDetermineBonds.DetermineBonds(mol, charge=charge)
                _neutralise_oxides(mol)
            else:
                mol.GetAtomWithIdx(0).SetFormalCharge(charge)
                mol.GetAtomWithIdx(0).SetNoImplicit(True)
            Chem.SanitizeMol(mol)
            Chem.AssignStereochemistryFrom3D(mol)
        except (ValueError, RuntimeError) as error:
            raise DataError(
                f"no bonds fit {len(kinds)} atoms at these distances with charge {charge}; give "
                "the right charge, or a template"
            ) from error
        mol.SetProp("smiles", Chem.MolToSmiles(heavy_graph(mol)))
    return mol


def _neutralise_oxides(mol: Chem.Mol) -> None:
    """Write oxides of sulfur and phosphorus with double bonds, as SMILES mostly do."""
    for bond in mol.GetBonds():
        centre, oxygen = bond.GetBeginAtom(), bond.GetEndAtom()
        if centre.GetAtomicNum() == 8:
            centre, oxygen = oxygen, centre
        if (
            centre.GetAtomicNum() in (15, 16)
            and oxygen.GetAtomicNum() == 8
            and centre.GetFormalCharge() > 0
            and oxygen.GetFormalCharge() < 0
        ):
            bond.SetBondType(Chem.BondType.DOUBLE)
            centre.SetFormalCharge(centre.GetFormalCharge() - 1)
            oxygen.SetFormalCharge(0)


def several(molecules: Chem.Mol | Iterable[Chem.Mol]) -> Iterable[Chem.Mol]:
    """One molecule or several, as several."""
    return [molecules] if isinstance(molecules, Chem.Mol) else molecules


def keep_smiles(mol: Chem.Mol) -> None:
    """Keep the property `smiles` if it is of this molecule; write RDKit's own otherwise.

    It may leave stereochemistry open, but not contradict it.
    """
    given = mol.GetProp("smiles").strip() if mol.HasProp("smiles") else ""
    own = heavy_graph(mol)
    with rdBase.BlockLogs():
        stated = Chem.MolFromSmiles(given) if given else None
        if (
            stated is None
            or _flat_smiles(stated) != _flat_smiles(own)
            or not own.HasSubstructMatch(stated, useChirality=True)
        ):
            given = Chem.MolToSmiles(own)
    mol.SetProp("smiles", given)


def _flat_smiles(mol: Chem.Mol) -> str:
    return str(Chem.MolToSmiles(mol, isomericSmiles=False))
