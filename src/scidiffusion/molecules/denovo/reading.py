"""What `MoleculeDiffusion` learns from: molecules as RDKit has them, or as arrays of atoms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem

from scidiffusion.errors import DataError

ARRAYS = ("numbers", "positions", "offsets")
NEAREST = 0.3
"""Atoms nearer than this, in Angstrom, are one atom written twice."""
ELEMENTS = 87


@dataclass(frozen=True)
class Clouds:
    """M molecules as atoms in space.

    Args:
        numbers: (A,) atomic numbers of all atoms, molecule after molecule.
        positions: (A, 3) in Angstrom.
        offsets: (M + 1,) where molecules begin.
        labels: (M, L) numbers, NaN where a molecule has none.
        names: Name of each label.
    """

    numbers: np.ndarray
    positions: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        """Number of molecules."""
        return len(self.offsets) - 1

    @property
    def counts(self) -> np.ndarray:
        """(M,) number of atoms of each molecule."""
        return np.diff(self.offsets)

    def elements(self) -> np.ndarray:
        """Rising atomic numbers that occur."""
        return np.unique(self.numbers).astype(np.int64)

    def composition(self, elements: np.ndarray) -> np.ndarray:
        """(M, K) number of atoms of each of the elements.

        Raises:
            DataError: if another element occurs.
        """
        places = np.searchsorted(elements, self.numbers).clip(max=len(elements) - 1)
        strange = elements[places] != self.numbers
        if strange.any():
            atom = int(np.flatnonzero(strange)[0])
            owner = int(np.searchsorted(self.offsets, atom, side="right")) - 1
            raise DataError(
                f"molecule {owner} has an atom of {symbol(int(self.numbers[atom]))}, an element "
                f"that the model has not seen; it knows {', '.join(map(symbol, elements))}"
            )
        owners = np.repeat(np.arange(len(self)), self.counts)
        table = np.zeros((len(self), len(elements)), dtype=np.int64)
        np.add.at(table, (owners, places), 1)
        return table


def symbol(number: int) -> str:
    """Symbol of an element."""
    return str(Chem.GetPeriodicTable().GetElementSymbol(int(number)))


def read_clouds(X: Any, y: Any = None, labels: Sequence[str] = ()) -> Clouds:
    """Read and check molecules and their labels.

    Args:
        X: RDKit molecules with explicit hydrogens, of which every conformer counts as one
            molecule; or a mapping, or the path of an npz file, of `numbers` (A,), `positions`
            (A, 3) in Angstrom and `offsets` (M + 1,).
        y: None, an array (M,) or (M, L), or a mapping of names to arrays (M,).
        labels: Names of labels: of the columns of y, else SD properties of the molecules or
            arrays (M,) of the mapping. Empty: those of a mapping y, or "label" for an array.

    Raises:
        DataError: if something of it cannot be used; the message names the molecule.
    """
    if isinstance(X, str | Path):
        X = _opened(Path(X))
    if isinstance(X, Mapping):
        numbers, positions, offsets = _arrays(X)
        owners = np.arange(len(offsets) - 1)
        values, names = _labels(y, labels, len(owners), X.get)
    else:
        numbers, positions, offsets, owners, mols = _molecules(X)

        def of_property(name: str) -> np.ndarray:
            return np.array([_property(mol, name, i) for i, mol in enumerate(mols)])

        values, names = _labels(y, labels, len(mols), of_property)
    clouds = Clouds(numbers, positions, offsets, values[owners], names)
    _check(clouds)
    return clouds


def _opened(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is not an npz file that can be read: {error}") from error


def _arrays(X: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    missing = [name for name in ARRAYS if name not in X]
    if missing:
        raise DataError(
            f"the arrays {', '.join(missing)} are missing; atoms in space are given as numbers "
            "(A,), positions (A, 3) and offsets (M + 1,)"
        )
    numbers, positions, offsets = (np.asarray(X[name]) for name in ARRAYS)
    if positions.ndim != 2 or positions.shape[1] != 3 or numbers.shape != positions.shape[:1]:
        raise DataError(
            f"numbers of shape {numbers.shape} and positions of shape {positions.shape}; they "
            "must be (A,) and (A, 3)"
        )
    if numbers.size and (
        not np.issubdtype(numbers.dtype, np.integer)
        or numbers.min() < 1
        or numbers.max() >= ELEMENTS
    ):
        raise DataError("numbers must be atomic numbers, integers from 1 to 86")
    whole = np.issubdtype(offsets.dtype, np.integer) and offsets.ndim == 1 and len(offsets) > 1
    if not whole or offsets[0] != 0 or offsets[-1] != len(numbers) or (np.diff(offsets) < 0).any():
        raise DataError(
            f"offsets must be integers that rise from 0 to the number of atoms, {len(numbers)}: "
            "molecule i has the atoms from offsets[i] to offsets[i + 1]"
        )
    return numbers.astype(np.int64), positions.astype(np.float64), offsets.astype(np.int64)


def _molecules(
    X: Any,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[Chem.Mol]]:
    if isinstance(X, Chem.Mol) or not isinstance(X, Sequence) or not len(X):
        raise DataError(
            "give a list of RDKit molecules with conformers, or arrays numbers, positions and "
            f"offsets; got {'an empty list' if isinstance(X, Sequence) else type(X).__name__}"
        )
    numbers: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    owners: list[int] = []
    for index, mol in enumerate(X):
        atoms = _atoms(mol, index)
        for conformer in mol.GetConformers():
            places = conformer.GetPositions()
            if not conformer.Is3D() and len(atoms) > 1 and not places[:, 2].any():
                raise DataError(
                    f"molecule {index} has a drawing in 2D, not coordinates in 3D; embed it "
                    "first, such as with scidiffusion.molecules.conformers"
                )
            numbers.append(atoms)
            positions.append(places)
            owners.append(index)
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in numbers])])
    whole = np.concatenate(numbers), np.concatenate(positions)
    return (*whole, offsets, np.array(owners), list(X))


def _atoms(mol: Any, index: int) -> np.ndarray:
    if not isinstance(mol, Chem.Mol):
        raise DataError(f"molecule {index} is a {type(mol).__name__}, not an RDKit molecule")
    if not mol.GetNumConformers():
        raise DataError(
            f"molecule {index} has no coordinates; give molecules with conformers, as an SDF "
            "file holds them"
        )
    # A molecule made without sanitising does not know its implicit hydrogens.
    if not mol.NeedsUpdatePropertyCache() and any(
        atom.GetNumImplicitHs() or atom.GetNumExplicitHs() for atom in mol.GetAtoms()
    ):
        raise DataError(
            f"molecule {index} lacks hydrogens; add them with Chem.AddHs(mol, addCoords=True)"
        )
    atoms = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], dtype=np.int64)
    if len(atoms) and not (atoms.min() >= 1 and atoms.max() < ELEMENTS):
        raise DataError(f"molecule {index} has a dummy atom or one beyond element 86")
    return atoms


def _property(mol: Chem.Mol, name: str, index: int) -> float:
    if not mol.HasProp(name):
        raise DataError(
            f"molecule {index} has no SD property {name!r}; it has "
            f"{', '.join(mol.GetPropNames()) or 'none'}"
        )
    text = mol.GetPropsAsDict()[name]
    try:
        return float(text)
    except (TypeError, ValueError):
        raise DataError(
            f"the property {name!r} of molecule {index} is no number: {text!r}"
        ) from None


def _labels(
    y: Any, labels: Sequence[str], rows: int, of_name: Any
) -> tuple[np.ndarray, tuple[str, ...]]:
    columns: dict[str, Any]
    if isinstance(labels, str):
        labels = (labels,)
    if isinstance(y, Mapping):
        missing = [name for name in labels if name not in y]
        if missing:
            raise DataError(f"y has no label {missing[0]!r}; it has {', '.join(map(str, y))}")
        columns = {name: y[name] for name in (labels or y)}
    elif y is not None:
        table = np.asarray(y)
        table = table[:, None] if table.ndim == 1 else table
        names = tuple(labels) or ("label",)
        if table.ndim != 2 or table.shape[1] != len(names):
            raise DataError(
                f"y has shape {np.shape(y)}; it must be (M, {len(names)}) for the labels "
                f"{', '.join(names)}"
            )
        columns = dict(zip(names, table.T, strict=True))
    else:
        columns = {name: of_name(name) for name in labels}
        absent = [name for name, values in columns.items() if values is None]
        if absent:
            raise DataError(f"there is no array {absent[0]!r} among the data to be a label")
    values = np.empty((rows, len(columns)))
    for place, (name, column) in enumerate(columns.items()):
        values[:, place] = _column(name, column, rows)
    return values, tuple(columns)


def _column(name: str, column: Any, rows: int) -> np.ndarray:
    try:
        numbers = np.asarray(column, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"the label {name!r} is not an array of numbers") from None
    if numbers.shape != (rows,):
        raise DataError(
            f"the label {name!r} has shape {numbers.shape}; there are {rows} molecules"
        )
    if not np.isfinite(numbers).all():
        bad = np.flatnonzero(~np.isfinite(numbers))
        raise DataError(
            f"the label {name!r} is NaN or infinite for {len(bad)} molecules, first for molecule "
            f"{bad[0]}; leave these molecules out"
        )
    if name in ("atoms", "formula"):
        raise DataError(
            f"a label cannot be called {name!r}: the number of atoms and the formula can be asked "
            "for without a label"
        )
    return numbers


def _check(clouds: Clouds) -> None:
    counts = clouds.counts
    lonely = np.flatnonzero(counts < 2)
    if len(lonely):
        raise DataError(
            f"molecule {lonely[0]} has {counts[lonely[0]]} atom; a molecule to learn from has 2 "
            "or more"
        )
    broken = np.flatnonzero(~np.isfinite(clouds.positions).all(1))
    if len(broken):
        owner = int(np.searchsorted(clouds.offsets, broken[0], side="right")) - 1
        raise DataError(f"molecule {owner} has a position that is NaN or infinite")
    for index in range(len(clouds)):
        place = clouds.positions[clouds.offsets[index] : clouds.offsets[index + 1]]
        gaps = np.square(place[:, None] - place[None]).sum(-1)
        gaps[np.diag_indices(len(place))] = np.inf
        if gaps.min() < NEAREST**2:
            raise DataError(
                f"molecule {index} has two atoms {np.sqrt(gaps.min()):.2f} Angstrom apart; its "
                "coordinates are not those of a molecule in Angstrom"
            )
