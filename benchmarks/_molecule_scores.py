"""Figures of conformers and of new molecules.

Conformers are compared with reference ensembles by the RMSD of heavy atoms after the best
alignment and numbering of equivalent atoms (Ganea et al. 2021, GeoMol, section 4): recall asks of
every reference conformer how near the nearest generated one is, precision the reverse; COV is the
share nearer than a threshold, AMR the mean. A molecule without conformers covers nothing, and has
no AMR. New molecules are judged as in EDM (Hoogeboom et al. 2022, appendix C): bond orders from
distances, stable atoms from bond orders.
"""

from __future__ import annotations

import gzip
import itertools
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rdkit import Chem, rdBase
from rdkit.Chem import (
    rdDetermineBonds,
    rdForceFieldHelpers,
    rdMolAlign,
    rdMolDescriptors,
)

from scidiffusion.molecules.chem.checks import validity
from scidiffusion.molecules.chem.energies import KCAL_PER_HARTREE
from scidiffusion.molecules.denovo.bonds import bond_orders, stable_atoms

THRESHOLDS = (0.5, 0.75, 1.25)
"""Of COV, in Angstrom."""
GEOMETRY = ("bonds", "angles", "clash", "rings", "double")
"""Checks that stand in the tables as one, those of PoseBusters within a molecule."""
MATCHES = 1000
"""Most numberings of equivalent atoms that are tried."""

# ---------------------------------------------------------------------------- files


def identity(mol: Chem.Mol) -> str:
    """Canonical isomeric SMILES of the SD property `smiles`, else of the title, else drawn."""
    for name in ("smiles", "_Name"):
        text = mol.GetProp(name).strip() if mol.HasProp(name) else ""
        named = Chem.MolFromSmiles(text) if text else None
        if named is not None and named.GetNumAtoms():
            return Chem.MolToSmiles(named)
    return Chem.MolToSmiles(heavy(mol))


def heavy(mol: Chem.Mol) -> Chem.Mol:
    """Without hydrogens, those of query atoms too."""
    options = Chem.RemoveHsParameters()
    options.removeWithQuery = True
    options.removeDegreeZero = True
    return Chem.RemoveHs(mol, options)


def read_sdf(path: Path) -> tuple[dict[str, list[Chem.Mol]], int]:
    """Conformers of a file, one `Mol` each, by molecule, and the number of broken records."""
    with rdBase.BlockLogs(), (gzip.open if path.suffix == ".gz" else open)(path, "rb") as stream:
        groups: dict[str, list[Chem.Mol]] = {}
        broken = 0
        for mol in Chem.ForwardSDMolSupplier(stream, removeHs=False, sanitize=True):
            if mol is None:
                broken += 1
            else:
                groups.setdefault(identity(mol), []).append(mol)
    return groups, broken


# ----------------------------------------------------------------------- conformers


def rmsd_matrix(generated: Sequence[Chem.Mol], reference: Sequence[Chem.Mol]) -> np.ndarray:
    """(reference, generated) RMSD in Angstrom, infinite where two do not match.

    Stereo plays no part in the matching: a wrong stereocentre is a large RMSD.
    """
    ours, theirs = [heavy(mol) for mol in generated], [heavy(mol) for mol in reference]
    for mol in ours + theirs:
        Chem.RemoveStereochemistry(mol)
    out = np.full((len(theirs), len(ours)), np.inf)
    for row, other in enumerate(theirs):
        for column, mol in enumerate(ours):
            if mol.GetNumAtoms() != other.GetNumAtoms():
                continue
            try:
                probe = Chem.Mol(mol)
                out[row, column] = rdMolAlign.GetBestRMS(probe, other, maxMatches=MATCHES)
            except RuntimeError:
                continue
    return out


def coverage(rmsd: np.ndarray, thresholds: Iterable[float] = THRESHOLDS) -> dict[str, float]:
    """COV at every threshold and AMR, recall and precision.

    Args:
        rmsd: (reference, generated), in Angstrom.
        thresholds: In Angstrom; at the threshold counts as covered.
    """
    nearest = {"r": rmsd.min(1), "p": rmsd.min(0)}
    out = {
        f"cov_{side}@{threshold}": float((distance <= threshold).mean())
        for side, distance in nearest.items()
        for threshold in thresholds
    }
    return out | {f"mat_{side}": float(distance.mean()) for side, distance in nearest.items()}


def stereo_kept(mol: Chem.Mol, smiles: str) -> bool:
    """Whether every stereo element that a SMILES specifies is so in the conformer."""
    seen = Chem.Mol(mol)
    Chem.AssignStereochemistryFrom3D(seen)
    return heavy(seen).HasSubstructMatch(Chem.MolFromSmiles(smiles), useChirality=True)


def mmff_energy(mol: Chem.Mol, *, relax: bool = False) -> float:
    """MMFF94 energy in kcal/mol, after 500 steps of minimisation or as it is; NaN if none."""
    with rdBase.BlockLogs():
        properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
        if properties is None:
            return float("nan")
        field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties)
        if field is None:
            return float("nan")
        if relax:
            field.Minimize(maxIts=500)
        return float(field.CalcEnergy())


def gfn2_relaxation(mol: Chem.Mol) -> float:
    """Energy that GFN2-xTB takes out of a conformer, by the program xtb, in kcal/mol.

    Relaxed to "normal" below 30 atoms, to "loose" above. NaN if it fails.
    """
    level = "normal" if mol.GetNumAtoms() < 30 else "loose"
    environment = {"OMP_NUM_THREADS": "1", "OMP_STACKSIZE": "1G", "PATH": "/usr/bin:/bin"}
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "a.xyz").write_text(Chem.MolToXYZBlock(mol), encoding="utf-8")
        command = ["xtb", "a.xyz", "--gfn", "2", "--chrg", str(Chem.GetFormalCharge(mol))]
        energies = []
        for extra in ([], ["--opt", level]):
            try:
                done = subprocess.run(
                    command + extra,
                    cwd=scratch,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=600,
                )
            except subprocess.TimeoutExpired:
                return float("nan")
            found = re.findall(r"TOTAL ENERGY\s+(-?\d+\.\d+)", done.stdout)
            if not found:
                return float("nan")
            energies.append(float(found[-1]))
    return (energies[0] - energies[1]) * KCAL_PER_HARTREE


def score_molecule(
    smiles: str,
    generated: Sequence[Chem.Mol],
    reference: Sequence[Chem.Mol],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    gfn2: int = 0,
) -> dict[str, Any]:
    """All figures of one molecule.

    Args:
        smiles: What was asked for, isomeric.
        generated: Conformers, one `Mol` each.
        reference: Likewise.
        thresholds: Of COV, in Angstrom.
        gfn2: Number of conformers whose relaxation by GFN2 is measured.
    """
    row: dict[str, Any] = {
        "smiles": smiles,
        "n_ref": len(reference),
        "n_gen": len(generated),
        "heavy": reference[0].GetNumHeavyAtoms(),
        "rotors": rdMolDescriptors.CalcNumRotatableBonds(reference[0]),
        "failed": float(not generated),
    }
    if not generated:
        return row | {f"cov_{side}@{threshold}": 0.0 for side in "rp" for threshold in thresholds}
    row |= coverage(rmsd_matrix(generated, reference), thresholds)
    checks = [validity(mol) for mol in generated]
    row["intact"] = float(np.mean([check.intact for check in checks]))
    row["stereo"] = float(np.mean([stereo_kept(mol, smiles) for mol in generated]))
    geometry = {name: [bool(getattr(check, name).all()) for check in checks] for name in GEOMETRY}
    row |= {f"pb_{name}": float(np.mean(passed)) for name, passed in geometry.items()}
    row["pb_all"] = float(np.mean(np.all(list(geometry.values()), axis=0)))
    lowest = [mmff_energy(Chem.Mol(mol), relax=True) for mol in reference[:5]]
    energies = np.array([mmff_energy(mol) for mol in generated])
    if gfn2:
        relaxed = [gfn2_relaxation(mol) for mol in generated[:gfn2]]
        row["gfn2_relaxation_median"] = _over(np.nanmedian, relaxed)
    above = energies - _over(np.nanmin, lowest)
    row["mmff_above_min_median"] = float(np.median(above))
    row["mmff_above_min_best"] = float(np.min(above))
    return row


def _over(function: Callable[[Any], Any], values: Sequence[float]) -> float:
    """A function of numbers some of which may be NaN, and NaN if all are."""
    return float(function(values)) if np.isfinite(values).any() else float("nan")


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means and medians over the molecules that have a figure."""
    names = list(dict.fromkeys(name for row in rows for name in row if name != "smiles"))

    def aggregate(function: Callable[[Any], Any]) -> dict[str, float]:
        out = {}
        for name in names:
            values = [row[name] for row in rows if name in row and np.isfinite(row[name])]
            if values:
                out[name] = round(float(function(values)), 4)
        return out

    return {
        "n_molecules": len(rows),
        "n_missing": int(sum(row["failed"] for row in rows)),
        "mean": aggregate(np.mean),
        "median": aggregate(np.median),
    }


def best_of(
    generated: Sequence[Chem.Mol], crystal: Chem.Mol, counts: Iterable[int]
) -> dict[str, float]:
    """Smallest RMSD to a crystal's conformer among the first so many, in Angstrom."""
    if not generated:
        return {}
    rmsd = rmsd_matrix(generated, [crystal])[0]
    return {f"best_of_{count}": float(rmsd[:count].min()) for count in counts}


def energy_ranking(generated: Sequence[Chem.Mol], most: int) -> float:
    """Spearman correlation of MMFF94 and GFN2 energies of the conformers as they are.

    High where a cheap energy may choose among a model's conformers.

    Args:
        generated: Conformers of one molecule.
        most: So many of them, the first ones, are used.

    Returns:
        NaN for fewer than 3 conformers with both energies.
    """
    from scipy.stats import spearmanr

    from scidiffusion.molecules.chem.energies import gfn2_energies

    mols = list(generated[:most])
    quantum = np.array([float(gfn2_energies(mol)[0]) for mol in mols])
    cheap = np.array([mmff_energy(mol) for mol in mols])
    both = np.isfinite(quantum) & np.isfinite(cheap)
    if both.sum() < 3 or np.ptp(quantum[both]) == 0 or np.ptp(cheap[both]) == 0:
        return float("nan")
    return float(spearmanr(quantum[both], cheap[both]).statistic)


# -------------------------------------------------------------------- new molecules

_TYPES = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}


def orders_of(numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """(N, N) bond orders by EDM's tables of distances."""
    kinds, places = (np.asarray(value) for value in (numbers, positions))
    return bond_orders(
        torch.from_numpy(kinds.astype(np.int64)), torch.from_numpy(places.astype(np.float64))
    ).numpy()


def _smiles_of_orders(numbers: np.ndarray, orders: np.ndarray) -> str | None:
    """SMILES of the largest fragment, or None if it has no valid valences."""
    mol = Chem.RWMol()
    for number in numbers:
        mol.AddAtom(Chem.Atom(int(number)))
    for a, b in zip(*np.nonzero(np.triu(orders)), strict=True):
        mol.AddBond(int(a), int(b), _TYPES[int(orders[a, b])])
    try:
        Chem.SanitizeMol(mol)
        fragments = Chem.GetMolFrags(mol, asMols=True)
        return Chem.MolToSmiles(max(fragments, key=lambda part: part.GetNumAtoms()))
    except (Chem.MolSanitizeException, ValueError):
        return None


def _smiles_of_cloud(numbers: np.ndarray, positions: np.ndarray) -> tuple[str | None, bool]:
    """SMILES by RDKit's own bonds, and whether it is in one piece."""
    symbol = Chem.GetPeriodicTable().GetElementSymbol
    lines = [
        f"{symbol(int(number))} {x:.4f} {y:.4f} {z:.4f}"
        for number, (x, y, z) in zip(numbers, positions, strict=True)
    ]
    try:
        mol = Chem.Mol(Chem.MolFromXYZBlock("\n".join([str(len(numbers)), "", *lines])))
        rdDetermineBonds.DetermineBonds(mol, charge=0)
        Chem.SanitizeMol(mol)
        return Chem.MolToSmiles(Chem.RemoveHs(mol)), len(Chem.GetMolFrags(mol)) == 1
    except (Chem.MolSanitizeException, ValueError, RuntimeError):
        return None, False


def score_clouds(
    clouds: Iterable[tuple[np.ndarray, np.ndarray]], known: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Stability, validity, uniqueness and novelty of molecules in 3D.

    Args:
        clouds: Atomic numbers (N,) and positions (N, 3) in Angstrom, one pair a molecule.
        known: SMILES of the training data, by EDM's bonds; without any, there is no novelty.
    """
    atoms = stable = whole = total = valid_rdkit = connected = 0
    smiles: list[str] = []
    with rdBase.BlockLogs():
        for numbers, positions in clouds:
            orders = orders_of(numbers, positions)
            kinds = torch.from_numpy(np.asarray(numbers).astype(np.int64))
            good = stable_atoms(kinds, torch.from_numpy(orders))
            atoms, stable, total = atoms + len(good), stable + int(good.sum()), total + 1
            whole += bool(good.all())
            text = _smiles_of_orders(numbers, orders)
            smiles += [text] if text else []
            text, piece = _smiles_of_cloud(numbers, positions)
            valid_rdkit += bool(text)
            connected += text is not None and piece
    unique = set(smiles)
    out = {
        "n": total,
        "atom_stable": round(stable / atoms, 4),
        "mol_stable": round(whole / total, 4),
        "valid_edm": round(len(smiles) / total, 4),
        "unique_of_valid": round(len(unique) / max(len(smiles), 1), 4),
        "valid_rdkit": round(valid_rdkit / total, 4),
        "valid_and_connected_rdkit": round(connected / total, 4),
    }
    if known:
        out["novel_of_unique"] = round(len(unique - known) / max(len(unique), 1), 4)
    return out


def cloud_smiles(clouds: Iterable[tuple[np.ndarray, np.ndarray]]) -> frozenset[str]:
    """SMILES, by EDM's bonds, of the molecules that have valid ones."""
    with rdBase.BlockLogs():
        texts = [_smiles_of_orders(number, orders_of(number, at)) for number, at in clouds]
    return frozenset(text for text in texts if text)


def read_clouds(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Molecules of an npz file with `numbers`, `positions` and `offsets`."""
    with np.load(path) as file:
        numbers, positions, offsets = file["numbers"], file["positions"], file["offsets"]
    return [
        (numbers[begin:end], positions[begin:end]) for begin, end in itertools.pairwise(offsets)
    ]


def has_xtb() -> bool:
    """Whether the program xtb is installed."""
    return shutil.which("xtb", path="/usr/bin:/bin") is not None
