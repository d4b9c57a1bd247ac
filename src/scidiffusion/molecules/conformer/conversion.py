"""Pairs of conformers from minima alone.

The start is what MMFF94 (Halgren, J. Comput. Chem. 17, 490, 1996) makes of each minimum. Where
the force field leaves the basin, the pair is dropped.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdForceFieldHelpers

from scidiffusion._files import check_writable_parent, write_atomic
from scidiffusion.errors import DataError
from scidiffusion.molecules.chem.energies import KCAL_PER_HARTREE
from scidiffusion.molecules.chem.ensembles import with_places
from scidiffusion.molecules.conformer.pairs import (
    ConformerPairs,
    heavy_rmsd,
    load_ensembles,
    stereo_smiles,
    template,
    write_shard,
)
from scidiffusion.molecules.processes import mapper

_SHARD_SIZE = 256
"""Molecules in a shard of a converted file."""


@dataclass(frozen=True)
class Conversion:
    """What `pairs_from_sdf` kept and dropped.

    Args:
        records: Records of the file.
        unreadable: Records RDKit could not read.
        no_force_field: Records of molecules that MMFF94 has no parameters for.
        left: Minima the force field leaves: beyond the RMSD, or not converged.
        stereo: Pairs whose two geometries differ in stereo, or from their molecule's.
        pairs: Pairs kept.
        molecules: Molecules kept.
    """

    records: int = 0
    unreadable: int = 0
    no_force_field: int = 0
    left: int = 0
    stereo: int = 0
    pairs: int = 0
    molecules: int = 0


def pairs_from_sdf(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    max_rmsd: float = 0.6,
    workers: int = 1,
) -> tuple[list[ConformerPairs], Conversion]:
    """Make pairs from an SDF of minima by minimising each with MMFF94; the result is kept.

    Consecutive records with the same isomeric SMILES are conformers of one molecule. The SD
    property `gfn2_energy_Eh` (hartree), or else `rel_kcal` (kcal/mol), is the energy; without
    either it is not a number.

    Args:
        path: SDF of minima with explicit hydrogens, `.gz` or not.
        folder: Shard folder for the result. When it already holds the result for the same file
            and `max_rmsd`, that is read instead.
        max_rmsd: Largest RMSD of the heavy atoms between start and minimum, in Angstrom.
        workers: Number of processes.

    Returns:
        The pairs and the counts.

    Raises:
        DataError: if the file cannot be read, or nothing is left of it.
        OutputError: if the folder cannot be written.
    """
    source = Path(path)
    try:
        content = source.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {source}: {error.strerror or error}") from error
    target = Path(folder)
    check_writable_parent(target / "complete.json", target)
    settings = {"sha256": hashlib.sha256(content).hexdigest(), "max_rmsd": max_rmsd}
    done = target / "complete.json"
    if done.exists():
        kept = json.loads(done.read_text(encoding="utf-8"))
        if kept["settings"] == settings:
            return load_ensembles(target), Conversion(**kept["counts"])
        raise DataError(
            f"{target} holds pairs of another file or another max_rmsd; name another folder"
        )
    groups, counts = _groups(source, content)
    molecules: list[ConformerPairs] = []
    shards = 0
    with mapper(workers) as run:
        for result, dropped in run(_start_group, [(group, max_rmsd) for group in groups]):
            for name, number in dropped.items():
                counts[name] = counts.get(name, 0) + number
            if result is not None:
                molecules.append(result)
            if len(molecules) == _SHARD_SIZE:
                write_shard(target / f"{shards:05d}.npz", molecules)
                shards += 1
                molecules = []
    if molecules:
        write_shard(target / f"{shards:05d}.npz", molecules)
        shards += 1
    if not shards:
        raise DataError(f"{source} has no minimum that MMFF94 keeps; nothing to learn from")
    pairs = load_ensembles(target)
    counts |= {"pairs": sum(map(len, pairs)), "molecules": len(pairs)}
    text = json.dumps({"settings": settings, "counts": counts}, indent=1)
    write_atomic(done, text.encode())
    return pairs, Conversion(**counts)


def _groups(source: Path, content: bytes) -> tuple[list[list[tuple[bytes, float]]], dict]:
    """Records of one molecule after another, as RDKit's binary form with the energy."""
    if source.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError) as error:
            raise DataError(f"{source} is damaged: {error}") from error
    supplier = Chem.SDMolSupplier()
    with rdBase.BlockLogs():
        supplier.SetData(content.decode("utf-8", errors="replace"), removeHs=False)
        records = list(supplier)
    counts = {"records": len(records), "unreadable": 0}
    groups: list[list[tuple[bytes, float]]] = []
    last = None
    for record in records:
        if record is None or not record.GetNumConformers():
            counts["unreadable"] += 1
            continue
        energy = float("nan")
        if record.HasProp("gfn2_energy_Eh"):
            energy = float(record.GetProp("gfn2_energy_Eh")) * KCAL_PER_HARTREE
        elif record.HasProp("rel_kcal"):
            energy = float(record.GetProp("rel_kcal"))
        key = stereo_smiles(record)
        if key != last:
            groups.append([])
            last = key
        groups[-1].append((record.ToBinary(), energy))
    return groups, counts


def _record(content: bytes) -> Chem.Mol:
    return Chem.Mol(content)  # type: ignore[call-overload]  # RDKit's stubs say str


def pairs_of(mol: Chem.Mol, *, max_rmsd: float = 0.6) -> ConformerPairs | None:
    """Make pairs of the conformers of a molecule, each a minimum, by minimising it with MMFF94.

    Args:
        mol: A molecule with explicit hydrogens and n conformers.
        max_rmsd: As in `pairs_from_sdf`.

    Returns:
        The pairs that are left; None if there is none. Energies are not known: NaN.
    """
    group = []
    for conformer in mol.GetConformers():
        single = Chem.Mol(mol)
        single.RemoveAllConformers()
        single.AddConformer(Chem.Conformer(conformer), assignId=True)
        group.append((single.ToBinary(), float("nan")))
    return _start_group((group, max_rmsd))[0]


def _start_group(
    job: tuple[list[tuple[bytes, float]], float],
) -> tuple[ConformerPairs | None, dict[str, int]]:
    """The pairs of one molecule, and how many were dropped for which reason."""
    group, max_rmsd = job
    text = stereo_smiles(_record(group[0][0]))
    mol = template(text)
    dropped = {"no_force_field": 0, "left": 0, "stereo": 0}
    start, minimum, energies = [], [], []
    for content, energy in group:
        record = _record(content)
        Chem.AssignStereochemistryFrom3D(record, replaceExistingTags=True)
        order = record.GetSubstructMatch(mol, useChirality=True)
        if len(order) != mol.GetNumAtoms():
            dropped["stereo"] += 1
            continue
        positions = record.GetConformer().GetPositions()[list(order)]
        begin = with_places(mol, positions)
        with rdBase.BlockLogs():
            if not rdForceFieldHelpers.MMFFHasAllMoleculeParams(begin):
                dropped["no_force_field"] += 1
                continue
            status = rdForceFieldHelpers.MMFFOptimizeMolecule(begin, maxIters=2000)
        relaxed = begin.GetConformer().GetPositions()
        if status != 0 or heavy_rmsd(mol, relaxed, positions) > max_rmsd:
            dropped["left"] += 1
        elif {stereo_smiles(begin), stereo_smiles(with_places(mol, positions))} != {text}:
            dropped["stereo"] += 1
        else:
            start.append(relaxed)
            minimum.append(positions)
            energies.append(energy)
    if not start:
        return None, dropped
    above = np.array(energies) - np.min(energies)
    pairs = ConformerPairs(mol, np.array(start, np.float32), np.array(minimum, np.float32), above)
    return pairs, dropped
