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
from rdkit import Chem, rdBase
from rdkit.Chem import (
    rdDetermineBonds,
    rdDistGeom,
    rdForceFieldHelpers,
    rdMolAlign,
    rdMolDescriptors,
)

HARTREE = 627.509474
"""One hartree in kcal/mol."""
THRESHOLDS = (0.5, 0.75, 1.25)
"""Of COV, in Angstrom."""
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


def bonds_intact(mol: Chem.Mol) -> bool:
    """Whether the bonds, and no others, are shorter than 1.3 and 1.15 sums of covalent radii."""
    table = Chem.GetPeriodicTable()
    radii = np.array([table.GetRcovalent(atom.GetAtomicNum()) for atom in mol.GetAtoms()])
    places = mol.GetConformer().GetPositions()
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.fill_diagonal(distance, 99)
    contact = radii[:, None] + radii[None]
    bonded = Chem.GetAdjacencyMatrix(mol).astype(bool)
    return bool(
        (distance[bonded] < 1.3 * contact[bonded]).all()
        and (distance[~bonded] > 1.15 * contact[~bonded]).all()
    )


def stereo_kept(mol: Chem.Mol, smiles: str) -> bool:
    """Whether every stereo element that a SMILES specifies is so in the conformer."""
    seen = Chem.Mol(mol)
    Chem.AssignStereochemistryFrom3D(seen)
    return heavy(seen).HasSubstructMatch(Chem.MolFromSmiles(smiles), useChirality=True)


def geometry_checks(mol: Chem.Mol) -> dict[str, bool]:
    """Checks of one conformer within a molecule, by the thresholds of PoseBusters.

    (Buttenschoen et al. 2024.) Bond lengths and angles within 25 % of the bounds of distance
    geometry, no clash of more than 30 %, aromatic rings and double bonds flat within 0.25 A.
    """
    places = mol.GetConformer().GetPositions()
    bounds = rdDistGeom.GetMoleculeBoundsMatrix(mol)
    pairs = np.triu_indices(mol.GetNumAtoms(), 1)
    upper, lower = bounds[pairs], bounds.T[pairs]
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1)[pairs]
    hops = Chem.GetDistanceMatrix(mol)[pairs]
    is_heavy = np.array([atom.GetAtomicNum() > 1 for atom in mol.GetAtoms()])
    both = (is_heavy[:, None] & is_heavy[None])[pairs]
    ratio = np.ones_like(distance)
    ratio = np.where(distance < lower, distance / lower, ratio)
    ratio = np.where(distance > upper, distance / upper, ratio)

    def flat(atoms: list[int]) -> bool:
        centred = places[atoms] - places[atoms].mean(0)
        return bool(abs(centred @ np.linalg.svd(centred)[2][2]).max() < 0.25)

    rings = [
        flat(list(ring))
        for ring in mol.GetRingInfo().AtomRings()
        if len(ring) in (5, 6) and all(mol.GetAtomWithIdx(i).GetIsAromatic() for i in ring)
    ]
    doubles = []
    for bond in mol.GetBonds():
        if bond.GetBondType() == Chem.BondType.DOUBLE and not bond.IsInRing():
            ends = (bond.GetBeginAtom(), bond.GetEndAtom())
            near = {atom.GetIdx() for end in ends for atom in end.GetNeighbors()}
            atoms = near | {end.GetIdx() for end in ends}
            if len(atoms) == 6:
                doubles.append(flat(list(atoms)))
    off = abs(ratio - 1)
    return {
        "bonds": bool((off[(hops == 1) & both] <= 0.25).all()),
        "angles": bool((off[(hops == 2) & both] <= 0.25).all()),
        "clash": bool((ratio[(hops >= 3) & (hops < 1e6) & both] >= 0.7).all()),
        "rings": all(rings),
        "double": all(doubles),
    }


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
    return (energies[0] - energies[1]) * HARTREE


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
    checks = [geometry_checks(mol) for mol in generated]
    row["intact"] = float(np.mean([bonds_intact(mol) for mol in generated]))
    row["stereo"] = float(np.mean([stereo_kept(mol, smiles) for mol in generated]))
    for name in checks[0]:
        row[f"pb_{name}"] = float(np.mean([check[name] for check in checks]))
    row["pb_all"] = float(np.mean([all(check.values()) for check in checks]))
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

_SINGLE = {
    1: {1: 74, 6: 109, 7: 101, 8: 96, 9: 92, 16: 134, 17: 127},
    6: {6: 154, 7: 147, 8: 143, 9: 135, 16: 182, 17: 177},
    7: {7: 145, 8: 140, 9: 136, 16: 168, 17: 175},
    8: {8: 148, 9: 142, 16: 151, 17: 164},
    9: {9: 142, 16: 158, 17: 166},
    16: {16: 204, 17: 207},
    17: {17: 199},
}
_DOUBLE = {6: {6: 134, 7: 129, 8: 120, 16: 160}, 7: {7: 125, 8: 121}, 8: {8: 121}}
_TRIPLE = {6: {6: 120, 7: 116, 8: 113}, 7: {7: 110}}
"""Lengths of bonds in pm, EDM's tables; margins of 10, 5 and 3 pm."""
_VALENCES = {1: {1}, 6: {4}, 7: {3}, 8: {2}, 9: {1}, 16: {2, 4, 6}, 17: {1}}
_TYPES = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}
_REACH = 2.4
"""No bond is longer, in Angstrom."""


def _order(first: int, second: int, distance: float) -> int:
    low, high = sorted((first, second))

    def length(table: dict[int, dict[int, int]]) -> int | None:
        return table.get(low, {}).get(high)

    single, double, triple = length(_SINGLE), length(_DOUBLE), length(_TRIPLE)
    if single is None or distance >= single + 10:
        return 0
    if double is None or distance >= double + 5:
        return 1
    return 3 if triple is not None and distance < triple + 3 else 2


def bond_orders(numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """(N, N) bond orders from distances.

    Args:
        numbers: (N,) atomic numbers.
        positions: (N, 3) in Angstrom.
    """
    out = np.zeros((len(numbers), len(numbers)), dtype=int)
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    for a, b in zip(*np.nonzero(np.triu(distance < _REACH, 1)), strict=True):
        order = _order(int(numbers[a]), int(numbers[b]), float(distance[a, b]) * 100)
        out[a, b] = out[b, a] = order
    return out


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
            orders = bond_orders(numbers, positions)
            good = [
                int(order) in _VALENCES.get(int(number), set())
                for number, order in zip(numbers, orders.sum(1), strict=True)
            ]
            atoms, stable, total = atoms + len(good), stable + sum(good), total + 1
            whole += all(good)
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
        texts = [_smiles_of_orders(number, bond_orders(number, at)) for number, at in clouds]
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
