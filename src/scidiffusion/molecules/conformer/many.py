"""Conformers of many molecules, in parallel, each as if it had been alone."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdkit import Chem

from scidiffusion.errors import ConfigError, ScidiffusionError, ScidiffusionWarning
from scidiffusion.molecules.conformer.estimator import ConformerDiffusion
from scidiffusion.molecules.conformer.front import bundled
from scidiffusion.molecules.processes import mapper


@dataclass(frozen=True)
class Made:
    """What became of one molecule.

    Args:
        smiles: The molecule as given.
        molecule: It with conformers; None where it failed.
        problem: Why it failed.
        notes: Warnings.
    """

    smiles: str
    molecule: Chem.Mol | None
    problem: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """One molecule to be made.

    Args:
        smiles: As given; for messages.
        molecule: What conformers are made of: SMILES, or a molecule.
        n: Number of conformers.
    """

    smiles: str
    molecule: str | Chem.Mol
    n: int


def conformers_of_many(
    jobs: Iterable[Job],
    *,
    seed: int = 0,
    workers: int = 1,
    model: str | Path | None = None,
    device: str = "auto",
    **options: Any,
) -> Iterator[Made]:
    """Make conformers of many molecules; yields them in the order of the jobs.

    A molecule that fails does not stop the others. Each is made with the same seed, so that its
    conformers do not depend on what else is made, nor on the number of workers.

    Args:
        jobs: The molecules.
        seed: Seed.
        workers: Number of processes; on a GPU one is best.
        model: Folder of a saved `ConformerDiffusion`; None is the package's own.
        device: "auto", "cpu" or "cuda".
        **options: As of `ConformerDiffusion.sample`.

    Raises:
        ConfigError: if `workers` is below 1.
    """
    if workers < 1:
        raise ConfigError(f"workers must be 1 or more, got {workers}")
    settings = {"seed": seed, "model": model, "device": device, "options": options}
    if model is not None:
        # What is wrong with the model is wrong for every molecule.
        _estimator(model, device)
    if workers == 1:
        for job in jobs:
            yield _make(job, settings)
        return
    with mapper(workers, _configure, (settings,)) as run:
        for content, made in run(_make_packed, jobs):
            yield _unpacked(made, content)


_SETTINGS: dict[str, Any] = {}
"""What a process was told when it began."""


def _configure(settings: dict[str, Any]) -> None:
    _SETTINGS.update(settings)


def _make_packed(job: Job) -> tuple[bytes, Made]:
    made = _make(job, _SETTINGS)
    content = b""
    if made.molecule is not None:
        content = made.molecule.ToBinary(Chem.PropertyPickleOptions.AllProps)
    return content, Made(made.smiles, None, made.problem, made.notes)


def _unpacked(made: Made, content: bytes) -> Made:
    # The stubs of RDKit take the binary form for a text.
    binary: Any = content
    molecule = Chem.Mol(binary) if content else None
    return Made(made.smiles, molecule, made.problem, made.notes)


@functools.lru_cache(maxsize=1)
def _estimator(model: str | Path | None, device: str) -> ConformerDiffusion:
    if model is None:
        return bundled(device)
    return ConformerDiffusion.load(model, device=device)


def _make(job: Job, settings: Mapping[str, Any]) -> Made:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ScidiffusionWarning)
        try:
            molecule = _estimator(settings["model"], settings["device"]).sample(
                job.molecule, job.n, random_state=settings["seed"], **settings["options"]
            )
            molecule.SetProp("smiles", job.smiles)
            problem = ""
        except ScidiffusionError as error:
            molecule, problem = None, str(error)
    notes = tuple(
        str(one.message) for one in caught if issubclass(one.category, ScidiffusionWarning)
    )
    return Made(job.smiles, molecule, problem, notes)
