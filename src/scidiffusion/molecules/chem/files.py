"""Molecules from and to files: SMILES lists, CSV tables, SDF and XYZ.

Files are read a record at a time and written atomically, a conformer at a time. Each written
record carries the SMILES as the user gave it in the SD property `smiles`, and the figures of its
conformer (`scidiffusion.molecules.chem.figures.Figures`); reading gives them back.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TextIO, overload

import numpy as np
from rdkit import Chem, rdBase

from scidiffusion.errors import ConfigError, DataError, InputError, ScidiffusionWarning
from scidiffusion.molecules.chem.figures import (
    figure_texts,
    figures,
    finite_positions,
    heavy_graph,
    name_of,
    take_figures,
)
from scidiffusion.molecules.chem.smiles import read_smiles
from scidiffusion.molecules.chem.textfiles import open_text, write_texts
from scidiffusion.molecules.chem.xyz import keep_smiles, read_xyz, several, write_xyz

__all__ = [
    "Record",
    "Records",
    "Skipped",
    "iter_molecules",
    "read_ensembles",
    "read_molecules",
    "read_xyz",
    "write_sdf",
    "write_xyz",
]

OnError = Literal["raise", "skip"]
FORMATS = (".smi", ".csv", ".sdf", ".sdf.gz")


@dataclass(frozen=True)
class Record:
    """One molecule of a file.

    Args:
        molecule: With explicit hydrogen; with one conformer if it comes from an SDF.
        smiles: The text as given, or RDKit's own where an SDF gives none.
        name: Its name, or an empty text.
        n: How many conformers the file asks for; None where it does not say.
        number: The line of a text file, or the record of an SDF, from 1.
    """

    molecule: Chem.Mol
    smiles: str
    name: str
    n: int | None
    number: int


@dataclass(frozen=True)
class Skipped:
    """A record that could not be read: its number, as in `Record`, and why."""

    number: int
    reason: str


class Records(Sequence[Record]):
    """The molecules of a file, and what had to be left out.

    Args:
        records: Those that could be read, in their order.
        skipped: The others.
    """

    def __init__(self, records: Iterable[Record], skipped: Iterable[Skipped] = ()) -> None:
        self.records = tuple(records)
        self.skipped = tuple(skipped)

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Record, ...]: ...

    def __getitem__(self, index: int | slice) -> Record | tuple[Record, ...]:
        return self.records[index]

    def __repr__(self) -> str:
        return f"Records({len(self.records)} molecules, {len(self.skipped)} skipped)"


def read_molecules(path: str | PathLike[str], on_error: OnError | None = None) -> Records:
    """Read all molecules of a file.

    Args:
        path: `.smi` (a SMILES and perhaps a name a line; lines that begin with # are comments),
            `.csv` (with a header; the columns `smiles` and, if there, `n` and `name` are used),
            `.sdf` or `.sdf.gz`.
        on_error: What to do with records that cannot be read. `"raise"`, the default of text
            files: one error with how many there are and the first three reasons. `"skip"`, the
            default of SDF: a warning of the same content.

    Returns:
        The records.

    Raises:
        DataError: if the file is missing or unreadable, a CSV lacks the column `smiles`, there is
            no molecule in it, or some are broken and `on_error` is `"raise"`.
        ConfigError: if the suffix or `on_error` is unknown.
    """
    kind = _format(path)
    policy = on_error or ("skip" if kind.startswith(".sdf") else "raise")
    if policy not in ("raise", "skip"):
        raise ConfigError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
    records: list[Record] = []
    skipped: list[Skipped] = []
    for item in iter_molecules(path):
        if isinstance(item, Record):
            records.append(item)
        else:
            skipped.append(item)
    if skipped:
        unit = "record" if kind.startswith(".sdf") else "line"
        message = _summary(path, skipped, len(records), unit)
        if policy == "raise":
            raise DataError(f'{message}; mend them, or leave them out with on_error="skip"')
        if records:
            warnings.warn(f"{message}; left out", ScidiffusionWarning, stacklevel=2)
        else:
            raise DataError(message)
    if not records:
        raise DataError(f"{path} holds no molecule")
    return Records(records, skipped)


def _summary(
    path: str | PathLike[str], skipped: Sequence[Skipped], readable: int, unit: str
) -> str:
    reasons = "; ".join(f"{unit} {s.number}: {s.reason.rstrip('.')}" for s in skipped[:3])
    if len(skipped) > 3:
        others = ", ".join(str(s.number) for s in skipped[3:23])
        reasons += f"; also {others}" + (" ..." if len(skipped) > 23 else "")
    return (
        f"{path}: {len(skipped)} of {len(skipped) + readable} molecules cannot be read ({reasons})"
    )


def iter_molecules(path: str | PathLike[str]) -> Iterator[Record | Skipped]:
    """Read a file one molecule at a time, so that its size does not matter.

    Args:
        path: As in `read_molecules`.

    Yields:
        A `Record`, or a `Skipped` where a molecule could not be read.

    Raises:
        DataError: if the file is missing or unreadable, or a CSV lacks the column `smiles`.
        ConfigError: if the suffix is unknown.
    """
    readers: dict[str, Callable[[TextIO, str], Iterator[Record | Skipped]]] = {
        ".smi": _from_smi,
        ".csv": _from_csv,
    }
    read = readers.get(_format(path), _from_sdf)
    # Old SDF files hold Latin-1 texts: a replaced letter in a name is no reason to stop.
    with open_text(path, lenient=_format(path).startswith(".sdf")) as stream:
        yield from read(stream, str(path))


def _format(path: str | PathLike[str]) -> str:
    name = Path(path).name.lower()
    for suffix in sorted(FORMATS, key=len, reverse=True):
        if name.endswith(suffix):
            return suffix
    raise ConfigError(f"{path}: the suffix must be one of {', '.join(FORMATS)}")


def _from_smi(stream: TextIO, path: str) -> Iterator[Record | Skipped]:
    for number, line in enumerate(stream, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        smiles, _, name = text.replace("\t", " ").partition(" ")
        if smiles.lower() == "smiles":
            # The header that RDKit's writer puts there.
            continue
        yield _parsed(smiles, name.strip(), None, number)


def _from_csv(stream: TextIO, path: str) -> Iterator[Record | Skipped]:
    reader = csv.DictReader(stream, skipinitialspace=True)
    header = [(name or "").strip() for name in reader.fieldnames or []]
    if "smiles" not in header:
        raise DataError(
            f"{path} needs a header with a column 'smiles' (and perhaps 'n'), got "
            + (repr(header) if header else "an empty file")
        )
    reader.fieldnames = header
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Skipped(reader.line_num, f"no CSV: {error}")
            continue
        # The line on which the row begins: a quoted cell may span several.
        number = reader.line_num - sum(str(cell).count("\n") for cell in row.values())
        count: int | None = None
        asked = (row.get("n") or "").strip()
        if asked:
            try:
                value = float(asked)
                count = int(value)
            except (ValueError, OverflowError):
                value = count = 0
            if count < 1 or count != value:
                yield Skipped(number, f"n must be a whole number of 1 or more, got {asked!r}")
                continue
        yield _parsed(
            (row["smiles"] or "").strip(), (row.get("name") or "").strip(), count, number
        )


def _parsed(smiles: str, name: str, count: int | None, number: int) -> Record | Skipped:
    try:
        molecule = read_smiles(smiles)
    except InputError as error:
        return Skipped(number, str(error))
    if name:
        molecule.SetProp("_Name", name)
    return Record(molecule, smiles, name, count, number)


def _from_sdf(stream: TextIO, path: str) -> Iterator[Record | Skipped]:
    for number, block in enumerate(_blocks(stream), 1):
        found = _structure(block)
        if isinstance(found, str):
            yield Skipped(number, found)
            continue
        name = found.GetProp("_Name").strip() if found.HasProp("_Name") else ""
        yield Record(found, found.GetProp("smiles"), name, None, number)


def _blocks(stream: TextIO) -> Iterator[str]:
    """Records of an SDF as texts; split here, so that a broken one does not swallow the next."""
    lines: list[str] = []
    for line in stream:
        if line.startswith("$$$$"):
            yield "".join(lines)
            lines = []
        else:
            lines.append(line)
    if any(line.strip() for line in lines):
        yield "".join(lines)


def _structure(block: str) -> Chem.Mol | str:
    """The molecule of one SDF record with explicit hydrogen and its figures, or what is wrong."""
    with rdBase.BlockLogs():
        mol = _parse(block, sanitize=True)
        if mol is None:
            rough = _parse(block, sanitize=False)
            problems = [] if rough is None else Chem.DetectChemistryProblems(rough)
            return str(problems[0].Message()) if problems else "broken or cut-off record"
        if not mol.GetNumAtoms():
            return "no atoms"
        solid = mol.GetNumConformers() > 0 and mol.GetConformer().Is3D()
        if solid and not np.isfinite(mol.GetConformer().GetPositions()).all():
            return "a coordinate is not a finite number"
        if not solid:
            # A drawing in the plane is no conformer; its wedges have been read already.
            mol.RemoveAllConformers()
        mol = Chem.AddHs(mol, addCoords=solid)
        if solid:
            Chem.AssignStereochemistryFrom3D(mol)
            take_figures(mol)
        keep_smiles(mol)
    return mol


def _parse(block: str, *, sanitize: bool) -> Chem.Mol | None:
    supplier = Chem.SDMolSupplier()
    supplier.SetData(block + "$$$$\n", sanitize=sanitize, removeHs=False)
    try:
        return next(iter(supplier), None)
    except (RuntimeError, ValueError):
        return None


def read_ensembles(path: str | PathLike[str]) -> list[Chem.Mol]:
    """Read an SDF of conformers: neighbouring records of one molecule become its conformers.

    Records belong together if they have the same property `smiles`, or the same SMILES of their
    own where they have none, the same atoms and bonds in the same order, and in space the same
    stereochemistry.

    Args:
        path: `.sdf` or `.sdf.gz`, such as `write_sdf` writes.

    Returns:
        Molecules with explicit hydrogen, their conformers in the order of the file with the
        figures they carry. Broken records are left out with a warning.

    Raises:
        DataError: if the file cannot be read, or no record has coordinates in space.
        ConfigError: if the suffix is another one.
    """
    molecules: list[Chem.Mol] = []
    last: tuple[Any, ...] | None = None
    if not _format(path).startswith(".sdf"):
        raise ConfigError(f"{path}: the suffix must be .sdf or .sdf.gz")
    for record in read_molecules(path):
        mol = record.molecule
        if not mol.GetNumConformers():
            continue
        key = (
            record.smiles,
            Chem.MolToSmiles(heavy_graph(mol)),
            tuple(atom.GetAtomicNum() for atom in mol.GetAtoms()),
            tuple(sorted(_ends(bond) for bond in mol.GetBonds())),
        )
        if key == last:
            molecules[-1].AddConformer(Chem.Conformer(mol.GetConformer()), assignId=True)
        else:
            molecules.append(mol)
            last = key
    if not molecules:
        raise DataError(f"{path} holds no molecule with coordinates in space")
    return molecules


def _ends(bond: Chem.Bond) -> tuple[int, int]:
    first, second = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
    return min(first, second), max(first, second)


def write_sdf(
    path: str | PathLike[str],
    molecules: Chem.Mol | Iterable[Chem.Mol],
    *,
    properties: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
) -> int:
    """Write all conformers of molecules to an SDF, each as a record of its own.

    Args:
        path: `.sdf` or `.sdf.gz`.
        molecules: A molecule or several; they may come from a generator.
        properties: Further SD properties of all records, or a mapping for each molecule.

    Returns:
        How many records were written.

    Raises:
        DataError: if there is no molecule, one has no conformer, a coordinate is not finite, or a
            property cannot be held by an SDF.
        ConfigError: if the suffix is another one.
        OutputError: if the file cannot be written; an older one is as it was.
    """
    if not _format(path).startswith(".sdf"):
        raise ConfigError(f"{path}: the suffix must be .sdf or .sdf.gz")

    def records() -> Iterator[str]:
        for place, mol in enumerate(several(molecules)):
            if properties is None or isinstance(properties, Mapping):
                extra = properties or {}
            elif place < len(properties):
                extra = properties[place]
            else:
                raise DataError(
                    f"there are properties for {len(properties)} molecules alone, and more "
                    "molecules"
                )
            yield from _sdf_records(mol, extra)

    return write_texts(path, records())


def _sdf_records(mol: Chem.Mol, extra: Mapping[str, Any]) -> Iterator[str]:
    finite_positions(mol)
    bare = Chem.Mol(mol)
    held = mol.GetPropsAsDict(autoConvertStrings=False)
    texts = {name: str(value) for name, value in held.items()}
    texts |= {str(name): str(value) for name, value in extra.items()}
    texts = {"smiles": name_of(mol)} | texts
    title = mol.GetProp("_Name") if mol.HasProp("_Name") else ""
    bare.SetProp("_Name", " ".join(title.split()))
    for conformer, known in zip(mol.GetConformers(), figures(mol), strict=True):
        with rdBase.BlockLogs():
            block = Chem.MolToMolBlock(bare, confId=conformer.GetId())
        entries = texts | figure_texts(known)
        yield block + "".join(_sd_property(*entry) for entry in entries.items()) + "$$$$\n"


def _sd_property(name: str, text: str) -> str:
    if not name or any(character in name for character in "<>\n\r"):
        raise DataError(f"an SD property cannot be called {name!r}: no <, > or line break")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if any(line.startswith("$$$$") for line in lines):
        raise DataError(
            f"the SD property {name!r} has a line that begins with $$$$, the end of a record; "
            "change or leave out the property"
        )
    # An empty line would end the property.
    held = [line if line or len(lines) == 1 else " " for line in lines]
    return f">  <{name}>\n" + "\n".join(held) + "\n\n"
