"""`conformers`: SMILES in, a molecule with conformers out, with the weights of the package."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from rdkit import Chem

from scidiffusion.molecules.conformer.estimator import ConformerDiffusion

WEIGHTS = Path(__file__).parent / "weights"


@functools.lru_cache(maxsize=4)
def bundled(device: str = "auto") -> ConformerDiffusion:
    """Return the estimator with the weights that the package brings; loaded once a process.

    Raises:
        ModelFileError: if the files are damaged; reinstall the package then.
    """
    return ConformerDiffusion.load(WEIGHTS, device=device)


def conformers(
    molecule: str | Chem.Mol,
    n: int = 10,
    *,
    seed: int = 0,
    model: ConformerDiffusion | None = None,
    device: str = "auto",
    **options: Any,
) -> Chem.Mol:
    """Make conformers of a molecule.

    Args:
        molecule: SMILES, or a molecule.
        n: Number of conformers.
        seed: Seed; the same seed gives the same conformers.
        model: Estimator; None is the one that comes with the package.
        device: "auto", "cpu" or "cuda", for the package's estimator.
        **options: Further arguments of `ConformerDiffusion.sample`: the energy and temperature,
            `prune`, `fixed_core`, guidance and others.

    Returns:
        A molecule with explicit hydrogens and n conformers by rising energy.

    Raises:
        DataError: if the SMILES or molecule cannot be used, or no geometry could be made.
        ConfigError: if an option is out of range.

    Example:
        >>> mol = conformers("CCO", n=3, seed=0)
        >>> mol.GetNumConformers(), mol.GetNumAtoms()
        (3, 9)
    """
    estimator = bundled(device) if model is None else model
    return estimator.sample(molecule, n, random_state=seed, **options)
