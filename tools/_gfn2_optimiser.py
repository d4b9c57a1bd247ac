"""GFN2-xTB minima of conformers, by one of two engines, started from MMFF94 minima.

`tblite` runs in this process, see `scidiffusion.molecules.chem.relaxation`. `xtb` is the program
of the same name, a process per conformer, with its own optimiser at `--opt normal`; both stop by
its criteria.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import numpy as np
from rdkit import Chem

from scidiffusion.errors import ScidiffusionWarning
from scidiffusion.molecules.chem.energies import KCAL_PER_HARTREE
from scidiffusion.molecules.chem.relaxation import relax_gfn2


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


def _relax_tblite(mol: Chem.Mol) -> tuple[float, np.ndarray] | None:
    moved = Chem.Mol(mol)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScidiffusionWarning)
        energies, reached = relax_gfn2(moved)
    if not reached[0]:
        return None
    return energies[0] / KCAL_PER_HARTREE, moved.GetConformer().GetPositions()


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
