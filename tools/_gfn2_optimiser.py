"""GFN2-xTB minima of conformers, by one of two engines, started from MMFF94 minima.

`tblite` runs in this process. A quasi-Newton method needs a start for the Hessian: the force
field's own is cheap and nearly right, so that 6 to 30 energies suffice where a unit matrix needs
many more. `xtb` is the program of the same name, a process per conformer, with its own optimiser
at `--opt normal`; both stop by its criteria. GFN2-xTB: Bannwarth et al., J. Chem. Theory Comput.
15, 1652 (2019).
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdForceFieldHelpers

from scidiffusion.molecules.chem.energies import ANGSTROM_PER_BOHR, KCAL_PER_HARTREE

ENERGY = 5e-6
"""The energy changes by less, in hartree, when it has converged (xtb's "normal")."""
GRADIENT = 1e-3
"""The norm of the gradient is less, in hartree/bohr, when it has converged (xtb's "normal")."""
SOFT = 8e-4
"""Smallest curvature a step believes in, in hartree/bohr^2: a torsion's."""
MOST_STEPS = 200


def relax(mol: Chem.Mol, engine: str = "tblite") -> tuple[float, np.ndarray] | None:
    """The GFN2 minimum below a conformer.

    Args:
        mol: A molecule with explicit hydrogens and one conformer, a minimum of MMFF94.
        engine: "tblite" or "xtb".

    Returns:
        The energy in hartree and the (N, 3) positions in Angstrom, or None if the electrons or
        the geometry did not converge.
    """
    return {"tblite": _relax_tblite, "xtb": _relax_xtb}[engine](mol)


def force_field_hessian(mol: Chem.Mol) -> np.ndarray:
    """(3N, 3N) second derivatives of MMFF94 at the conformer, in hartree/bohr^2."""
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
    field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties)
    field.Initialize()
    positions = mol.GetConformer().GetPositions().ravel()
    step = 1e-3

    def gradient(at: np.ndarray) -> np.ndarray:
        # RDKit's gradient uses the distances of the last energy: without it they are stale.
        field.CalcEnergy(at.tolist())
        return np.array(field.CalcGrad(at.tolist()))

    base = gradient(positions)
    rows = [gradient(positions + step * unit) - base for unit in np.eye(len(positions))]
    hessian = np.array(rows) / step
    return (hessian + hessian.T) / 2 / KCAL_PER_HARTREE * ANGSTROM_PER_BOHR**2


def _relax_tblite(mol: Chem.Mol) -> tuple[float, np.ndarray] | None:
    from tblite.exceptions import TBLiteRuntimeError
    from tblite.interface import Calculator

    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    at = mol.GetConformer().GetPositions().ravel() / ANGSTROM_PER_BOHR
    hessian = force_field_hessian(mol)
    try:
        charge = float(Chem.GetFormalCharge(mol))
        calculator = Calculator("GFN2-xTB", numbers, at.reshape(-1, 3), charge=charge)
        calculator.set("verbosity", 0)
        result = calculator.singlepoint()
        energy, slope = result.get("energy"), result.get("gradient").ravel()
        trust = 0.4
        for _ in range(MOST_STEPS):
            values, vectors = np.linalg.eigh(hessian)
            step = -vectors @ ((vectors.T @ slope) / np.maximum(np.abs(values), SOFT))
            reach = np.linalg.norm(step.reshape(-1, 3), axis=1).max()
            if reach > trust:
                step *= trust / reach
                reach = trust
            curved = hessian @ step
            expected = slope @ step + step @ curved / 2
            calculator.update((at + step).reshape(-1, 3))
            result = calculator.singlepoint(result)
            new, new_slope = result.get("energy"), result.get("gradient").ravel()
            change = new_slope - slope
            bend = step @ change
            # BFGS keeps the Hessian positive only where the curvature along the step is.
            if bend > 1e-10 * np.linalg.norm(step) * np.linalg.norm(change):
                hessian = (
                    hessian
                    + np.outer(change, change) / bend
                    - np.outer(curved, curved) / (step @ curved)
                )
            gain = new - energy
            if gain > 2 * ENERGY:
                trust = max(reach / 4, 1e-3)
                continue
            at, energy, slope = at + step, new, new_slope
            if abs(gain) < ENERGY and np.linalg.norm(slope) < GRADIENT:
                return float(energy), at.reshape(-1, 3) * ANGSTROM_PER_BOHR
            if gain < 0.7 * expected:
                trust = min(1.5 * trust, 0.8)
    except (TBLiteRuntimeError, np.linalg.LinAlgError):
        return None
    return None


def _relax_xtb(mol: Chem.Mol) -> tuple[float, np.ndarray] | None:
    environment = {"OMP_NUM_THREADS": "1", "OMP_STACKSIZE": "1G", "PATH": "/usr/bin:/bin"}
    program = shutil.which("xtb") or "xtb"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "a.xyz").write_text(Chem.MolToXYZBlock(mol), encoding="utf-8")
        charge = str(Chem.GetFormalCharge(mol))
        command = [program, "a.xyz", "--gfn", "2", "--opt", "normal", "--chrg", charge]
        try:
            subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=300)
            lines = (folder / "xtbopt.xyz").read_text(encoding="utf-8").splitlines()
        except (subprocess.TimeoutExpired, FileNotFoundError):
            return None
        atoms = [[float(value) for value in line.split()[1:4]] for line in lines[2:]]
        if len(atoms) != mol.GetNumAtoms() or (folder / ".xtboptok").exists() is False:
            return None
        return float(lines[1].split()[1]), np.array(atoms)
