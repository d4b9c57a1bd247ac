"""Pairs of conformers: a force-field minimum and the quantum-chemical minimum it relaxes to.

The refinement model learns the map from the one geometry to the other. A shard folder holds such
pairs: `.npz` files of many molecules each, every file written completely or not at all, and
readable without pickle. A molecule is stored as its isomeric SMILES; its atoms are those of
`Chem.AddHs(Chem.MolFromSmiles(smiles))`, in that order, which the stored elements and bonds
confirm on reading.

`tools/make_ensembles.py` makes pairs, `scidiffusion.molecules.conformer.conversion` those of given
minima.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem, rdBase

from scidiffusion._files import write_atomic
from scidiffusion.errors import DataError, InputError
from scidiffusion.molecules.chem.ensembles import rmsd_matrix, with_places

__all__ = [
    "ConformerPairs",
    "load_ensembles",
    "read_shard",
    "write_shard",
]

_FORMAT = "scidiffusion-conformer-pairs-1"


@dataclass(frozen=True)
class ConformerPairs:
    """A molecule with n pairs of conformers.

    Args:
        mol: The molecule, with explicit hydrogens and without conformers; its atoms are in the
            order of the arrays.
        start: (n, N, 3) float32, force-field minima, in Angstrom.
        minimum: (n, N, 3) float32, the minima they relax to, in Angstrom, in a frame of their
            own (not turned onto the start).
        energies: (n,) float64, energies of the minima above the lowest one of the molecule, in
            kcal/mol.
    """

    mol: Chem.Mol
    start: np.ndarray
    minimum: np.ndarray
    energies: np.ndarray

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.energies)


def load_ensembles(path: str | os.PathLike[str]) -> list[ConformerPairs]:
    """Read the pairs of a shard folder.

    Args:
        path: The folder, as `tools/make_ensembles.py` leaves it.

    Returns:
        One `ConformerPairs` a molecule, in the order of the files' names.

    Raises:
        DataError: if the folder is missing or has no shards, or a shard is damaged.
    """
    folder = Path(path)
    files = shard_files(folder)
    if not files:
        raise DataError(
            f"{folder} holds no shards (*.npz) of conformer pairs; make some with "
            "tools/make_ensembles.py, or read minima of your own with read_ensembles"
        )
    return [pairs for file in files for pairs in read_shard(file)]


def shard_files(folder: Path) -> list[Path]:
    """The shards of a folder by name, without what a killed process left half written."""
    return sorted(file for file in folder.glob("*.npz") if not file.name.startswith("."))


def write_shard(
    path: str | os.PathLike[str],
    molecules: Sequence[ConformerPairs],
    *,
    notes: dict[str, Any] | None = None,
) -> None:
    """Write one shard, completely or not at all.

    Args:
        path: The file, ending in `.npz`.
        molecules: What to write; atoms are renumbered into the order of `template`.
        notes: Something to keep beside them, as JSON.

    Raises:
        InputError: if arrays do not fit their molecule, or hydrogens are implicit.
        OutputError: if the file cannot be written.
    """
    ordered = [_ordered(pairs) for pairs in molecules]
    smiles = [text for text, _ in ordered]
    molecules = [pairs for _, pairs in ordered]
    empty = np.zeros((0, 3))
    arrays = {
        "format": np.array(_FORMAT),
        "notes": np.array(json.dumps(notes or {})),
        "smiles": np.array(smiles, dtype=np.str_),
        "atoms": np.array([pairs.mol.GetNumAtoms() for pairs in molecules], dtype=np.int64),
        "conformers": np.array([len(pairs) for pairs in molecules], dtype=np.int64),
        "numbers": np.concatenate(
            [np.zeros(0, np.uint8)] + [_numbers(pairs.mol) for pairs in molecules]
        ),
        "bonds": np.concatenate(
            [np.zeros((0, 2), np.int32)] + [_bonds(pairs.mol) for pairs in molecules]
        ),
        "positions_start": np.concatenate(
            [empty] + [pairs.start.reshape(-1, 3) for pairs in molecules]
        ).astype(np.float32),
        "positions": np.concatenate(
            [empty] + [pairs.minimum.reshape(-1, 3) for pairs in molecules]
        ).astype(np.float32),
        "energies": np.concatenate([np.zeros(0)] + [pairs.energies for pairs in molecules]),
    }

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    write_atomic(path, write)


def _ordered(pairs: ConformerPairs) -> tuple[str, ConformerPairs]:
    """The SMILES of a molecule, and the molecule with the atoms in the order of `template`."""
    text = Chem.MolToSmiles(Chem.RemoveHs(pairs.mol))
    shape = (len(pairs), pairs.mol.GetNumAtoms(), 3)
    if pairs.start.shape != shape or pairs.minimum.shape != shape:
        raise InputError(f"the conformers of {text} are not of shape {shape}")
    mol = template(text)
    if np.array_equal(_bonds(mol), _bonds(pairs.mol)):
        return text, pairs
    order = list(pairs.mol.GetSubstructMatch(mol, useChirality=True))
    if len(order) != pairs.mol.GetNumAtoms():
        raise InputError(f"{text} has implicit hydrogens, or another SMILES than itself")
    return text, ConformerPairs(
        mol, pairs.start[:, order], pairs.minimum[:, order], pairs.energies
    )


def read_shard(path: str | os.PathLike[str]) -> list[ConformerPairs]:
    """Read one shard.

    Raises:
        DataError: if it is damaged, of another format, or made with another order of atoms.
    """
    try:
        with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            data = {name: file[name] for name in file.files}
        if str(data["format"]) != _FORMAT:
            raise KeyError("format")
        return list(_molecules(data, path))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path} is damaged or no shard of conformer pairs; delete it and make it again"
        ) from error


def read_notes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The notes of a shard, see `write_shard`.

    Raises:
        DataError: if the file is damaged or no shard.
    """
    try:
        with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return json.loads(str(file["notes"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} is damaged or no shard of conformer pairs; delete it and make it again"
        ) from error


def _molecules(
    data: dict[str, np.ndarray], path: str | os.PathLike[str]
) -> Iterator[ConformerPairs]:
    atom = bond = row = energy = 0
    for text, size, count in zip(data["smiles"], data["atoms"], data["conformers"], strict=True):
        mol = template(str(text))
        size, count, links = int(size), int(count), mol.GetNumBonds()
        rows = slice(row, row + size * count)
        same = np.array_equal(_numbers(mol), data["numbers"][atom : atom + size])
        if not same or not np.array_equal(_bonds(mol), data["bonds"][bond : bond + links]):
            raise DataError(
                f"{path}: the atoms of {text} are numbered otherwise than this RDKit does; make "
                "the shard again"
            )
        energies = data["energies"][energy : energy + count]
        yield ConformerPairs(
            mol,
            data["positions_start"][rows].reshape(count, size, 3),
            data["positions"][rows].reshape(count, size, 3),
            energies,
        )
        atom, bond, energy, row = atom + size, bond + links, energy + count, rows.stop


def template(smiles: str) -> Chem.Mol:
    """The molecule of a SMILES with explicit hydrogens, in the order of atoms of the shards.

    Raises:
        DataError: if RDKit does not accept the SMILES.
    """
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        raise DataError(f"not a SMILES: {smiles!r}")
    return Chem.AddHs(mol)


def _numbers(mol: Chem.Mol) -> np.ndarray:
    return np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], dtype=np.uint8)


def _bonds(mol: Chem.Mol) -> np.ndarray:
    ends = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()]
    return np.array(ends, dtype=np.int32).reshape(-1, 2)


def stereo_smiles(mol: Chem.Mol, conformer: int = -1) -> str:
    """Isomeric SMILES whose stereo is that of a conformer."""
    out = Chem.Mol(mol, confId=conformer)
    Chem.AssignStereochemistryFrom3D(out, replaceExistingTags=True)
    return Chem.MolToSmiles(Chem.RemoveHs(out))


def heavy_rmsd(mol: Chem.Mol, first: np.ndarray, second: np.ndarray) -> float:
    """RMSD of the heavy atoms, in Angstrom, of two (N, 3) positions of a molecule."""
    one, two = (with_places(mol, places) for places in (first, second))
    return float(rmsd_matrix(one, two, max_matches=500)[0, 0])
