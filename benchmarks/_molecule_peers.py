"""The makers of conformers in the benchmark, and the process in which one of them runs.

    python _molecule_peers.py JOB.json

A model is a function `(smiles, n, seed, **options) -> Mol with up to n conformers`. It is told the
SMILES alone. One small molecule is made before the clock starts, so that loading is not counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from _running import work
from peers import worker
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from scidiffusion.molecules.chem.ensembles import farthest_points, keep, rmsd_matrix
from scidiffusion.molecules.chem.relaxation import relax_gfn2

OVERSAMPLING = 4
WARM_UP = "CCO"


@dataclass(frozen=True)
class Job:
    """Conformers of some molecules by one model.

    Args:
        model: Its name.
        molecules: SMILES and number of conformers.
        out: SDF for the conformers; the record lies beside it, as .json.
        seed: Of everything random.
        options: Of our models.
    """

    model: str
    molecules: list[tuple[str, int]]
    out: str
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)


def etkdg(smiles: str, n: int, seed: int) -> Chem.Mol:
    """ETKDGv3 (Wang et al. 2020) of RDKit."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    options = rdDistGeom.ETKDGv3()
    # RDKit multiplies it by the number of the conformer: with 0 they would all be the same.
    options.randomSeed = seed + 1
    options.numThreads = 1
    if not len(rdDistGeom.EmbedMultipleConfs(mol, n, options)):
        options.useRandomCoords = True
        rdDistGeom.EmbedMultipleConfs(mol, n, options)
    return mol


def etkdg_mmff(smiles: str, n: int, seed: int) -> Chem.Mol:
    """ETKDGv3, and MMFF94 to convergence where it has parameters."""
    mol = etkdg(smiles, n, seed)
    if mol.GetNumConformers() and rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
        rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol, numThreads=1, maxIters=500)
    return mol


def etkdg_mmff_gfn2(smiles: str, n: int, seed: int) -> Chem.Mol:
    """`etkdg_mmff`, and one quasi-Newton step on GFN2-xTB, as our model may take."""
    mol = etkdg_mmff(smiles, n, seed)
    if mol.GetNumConformers():
        relax_gfn2(mol, 1)
    return mol


def pick(smiles: str, n: int, seed: int) -> Chem.Mol:
    """The n of 4 n conformers of `etkdg_mmff` that are farthest apart, the lowest one first."""
    mol = etkdg(smiles, OVERSAMPLING * n, seed)
    energies = np.zeros(mol.GetNumConformers())
    if len(energies) and rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
        results = rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol, numThreads=1, maxIters=500)
        energies = np.array([energy for _, energy in results])
    if len(energies) <= n:
        return mol
    chosen = farthest_points(rmsd_matrix(mol, max_matches=100), n, int(energies.argmin()))
    return keep(mol, [mol.GetConformers()[index].GetId() for index in chosen])


def ours(smiles: str, n: int, seed: int, **options: Any) -> Chem.Mol:
    """This project's conformers, with the weights that it comes with."""
    from scidiffusion.molecules import conformers

    return conformers(smiles, n, seed=seed, **options)


MODELS: dict[str, Callable[..., Chem.Mol]] = {
    "ours": ours,
    "ours-gfn2": ours,
    "ours-torsional": ours,
    "ours-noise": ours,
    "etkdg": etkdg,
    "etkdg-mmff": etkdg_mmff,
    "etkdg-mmff-gfn2": etkdg_mmff_gfn2,
    "pick": pick,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "ours-gfn2": {"gfn2_steps": 1},
    "ours-torsional": {"method": "torsional"},
    "ours-noise": {"start": "noise"},
}
"""What the name of a model stands for, beside the options of the command line."""
LABELS = {
    "ours": "ours",
    "ours-gfn2": "ours + 1 step on GFN2",
    "ours-torsional": "ours, torsional",
    "ours-noise": "ours, from noise",
    "etkdg": "ETKDGv3",
    "etkdg-mmff": "ETKDGv3 + MMFF94",
    "etkdg-mmff-gfn2": "ETKDGv3 + MMFF94 + 1 step on GFN2",
    "pick": "4x ETKDGv3 + MMFF94, farthest-point pick",
}


def perform(job: Job) -> dict[str, Any]:
    """Make the conformers and write them; return the costs."""
    make = MODELS[job.model]
    options = OPTIONS.get(job.model, {}) | job.options
    # RDKit's chatter on standard error would fill the log.
    rdBase.DisableLog("rdApp.*")
    make(WARM_UP, 2, job.seed, **options)
    cpu = wall = 0.0
    made = 0
    failures = {}
    writer = Chem.SDWriter(job.out)
    for smiles, n in job.molecules:
        begin = (time.process_time(), time.perf_counter())
        try:
            mol = make(smiles, n, job.seed, **options)
        except (ValueError, RuntimeError) as error:
            failures[smiles] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            mol = None
        cpu += time.process_time() - begin[0]
        wall += time.perf_counter() - begin[1]
        if mol is None:
            continue
        mol = Chem.Mol(mol)
        for conformer in mol.GetConformers():
            mol.SetProp("smiles", smiles)
            writer.write(mol, confId=conformer.GetId())
            made += 1
    writer.close()
    record: dict[str, Any] = {
        "conformers": made,
        "cpu_seconds": cpu,
        "seconds": wall,
        "cpu_ms_per_conformer": 1000 * cpu / max(made, 1),
        "peak_mib": worker._peak_mib(),
    }
    return record | ({"failures": failures} if failures else {})


if __name__ == "__main__":
    work(Job, perform)
