"""Make training data of the conformer model: MMFF94 minima and the GFN2-xTB minima below them.

    python tools/make_ensembles.py OUT --minutes 45 --workers 2 --exclude geom_test.csv
    python tools/make_ensembles.py OUT --smiles molecules.csv --limit 1000
    python tools/make_ensembles.py OUT --model MODEL --gfn2-steps 4 --conformers 1 --minutes 60

Without --smiles the molecules are made too (see _molecule_source.py). Of each molecule, seeds by
ETKDGv3 and by plain distance geometry, whose torsions know nothing of crystals, are minimised with
MMFF94; up to --conformers distinct ones within --window are optimised with GFN2-xTB; those whose
bonds and stereo survive are kept as pairs. The result depends on --seed and the molecules, not on
--workers. OUT is a folder of shards, see `scidiffusion.molecules.conformer.pairs`; the same call
again goes on where it stopped, however it stopped.

With --model the pairs are walks: each start is walked by that model, and so many --gfn2-steps are
gone down from where it ends. What a walk should have ended at costs a fifth of a minimum, and
`tools/train_conformers.py --walks` teaches it.

The generator stands on no conformer of anybody else: RDKit embeds, and tblite (or the program xtb:
--engine) optimises.
"""

from __future__ import annotations

import argparse
import csv
import functools
import itertools
import json
import multiprocessing
import os
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _gfn2_optimiser import relax
from _molecule_source import SIZES, MoleculeSource, flat
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from scidiffusion._files import write_atomic
from scidiffusion.errors import (
    ConfigError,
    DataError,
    ScidiffusionError,
    ScidiffusionWarning,
)
from scidiffusion.molecules.chem.checks import intact
from scidiffusion.molecules.chem.energies import KCAL_PER_HARTREE
from scidiffusion.molecules.chem.ensembles import with_places
from scidiffusion.molecules.chem.handedness import canonical
from scidiffusion.molecules.chem.relaxation import relax_gfn2
from scidiffusion.molecules.chem.stereo import fix_stereo
from scidiffusion.molecules.conformer.estimator import ConformerDiffusion
from scidiffusion.molecules.conformer.pairs import (
    ConformerPairs,
    heavy_rmsd,
    read_notes,
    shard_files,
    stereo_smiles,
    template,
    write_shard,
)

SHARD_MOLECULES = 64
SHARD_SECONDS = 60.0
"""A shard is written when it has so many molecules, or so much time has passed."""


@dataclass(frozen=True)
class Recipe:
    """How the conformers of one molecule are made.

    Args:
        conformers: Most conformers of a molecule that are optimised.
        window: Highest MMFF94 energy above the lowest one of the molecule, in kcal/mol.
        apart: Smallest RMSD of heavy atoms between two starts, in Angstrom.
        engine: "tblite" or "xtb".
        seed: Of the embedding, with the SMILES.
        model: Folder of a model that walks the starts first; "" goes down from the starts.
        gfn2_steps: Steps down from where a walk ends.
    """

    conformers: int = 5
    window: float = 15.0
    apart: float = 0.2
    engine: str = "tblite"
    seed: int = 0
    model: str = ""
    gfn2_steps: int = 4


def _embed(mol: Chem.Mol, count: int, seed: int, *, knowledge: bool) -> bool:
    """Add up to `count` conformers, by ETKDGv3 or by plain distance geometry."""
    options = rdDistGeom.ETKDGv3() if knowledge else rdDistGeom.EmbedParameters()
    options.useExpTorsionAnglePrefs = options.useBasicKnowledge = knowledge
    options.useRandomCoords = not knowledge
    options.randomSeed = seed
    options.maxIterations = 20
    options.clearConfs = False
    options.numThreads = 1
    if hasattr(options, "timeout"):
        options.timeout = 20
    return len(rdDistGeom.EmbedMultipleConfs(mol, count, options)) > 0


def starts(mol: Chem.Mol, smiles: str, recipe: Recipe, seed: int) -> list[np.ndarray]:
    """Distinct MMFF94 minima, the lowest first and the others in random order.

    Args:
        mol: The molecule, with explicit hydrogens.
        smiles: Its isomeric SMILES; minima of other stereo are left out.
        recipe: How many, and how different.
        seed: Of the embedding and the order.
    """
    seeds = Chem.Mol(mol)
    each = 2 * recipe.conformers
    _embed(seeds, each, seed, knowledge=True)
    _embed(seeds, each, seed + 1, knowledge=False)
    if not seeds.GetNumConformers() or not rdForceFieldHelpers.MMFFHasAllMoleculeParams(seeds):
        return []
    results = rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(seeds, numThreads=1, maxIters=2000)
    energies = np.array([energy if not status else np.inf for status, energy in results])
    order = np.argsort(energies, kind="stable")
    order = order[energies[order] <= energies[order[0]] + recipe.window]
    # Not the lowest ones alone: a model is given starts of all energies.
    order[1:] = np.random.default_rng(seed).permutation(order[1:])
    identifiers = [conformer.GetId() for conformer in seeds.GetConformers()]
    kept: list[np.ndarray] = []
    for index in order:
        if len(kept) == recipe.conformers or not np.isfinite(energies[index]):
            break
        positions = seeds.GetConformer(identifiers[index]).GetPositions()
        if stereo_smiles(seeds, identifiers[index]) != smiles:
            continue
        if all(heavy_rmsd(mol, positions, other) > recipe.apart for other in kept):
            kept.append(positions)
    return kept


@functools.lru_cache(maxsize=1)
def _walker(model: str) -> ConformerDiffusion:
    torch.set_num_threads(1)
    return ConformerDiffusion.load(model, device="cpu")


def descend(
    mol: Chem.Mol, positions: np.ndarray, recipe: Recipe
) -> tuple[float, np.ndarray] | None:
    """Energy in hartree and positions some GFN2 steps below the end of a model's walk.

    They lie as the start does: neither a walk nor a step turns or shifts a molecule.
    """
    centred = positions - positions.mean(0)
    walked = with_places(mol, _walker(recipe.model).walk(mol, centred[None]))
    if not intact(walked).all():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScidiffusionWarning)
        (energy,), _ = relax_gfn2(walked, recipe.gfn2_steps)
    if not np.isfinite(energy):
        return None
    return energy / KCAL_PER_HARTREE, walked.GetConformer().GetPositions() + positions.mean(0)


def make_pairs(smiles: str, recipe: Recipe) -> ConformerPairs | None:
    """The pairs of one molecule, or None if none came out.

    Args:
        smiles: With or without stereo; what it leaves open is fixed.
        recipe: How.
    """
    with rdBase.BlockLogs():
        # Small and not 0: RDKit multiplies it by the number of the conformer.
        seed = 1 + zlib.crc32(f"{recipe.seed} {smiles}".encode()) % 1_000_000
        try:
            fixed, _ = fix_stereo(template(smiles), seed)
        except DataError:
            return None
        text = canonical(fixed)
        mol = template(text)
        begins, ends, energies = [], [], []
        for positions in starts(mol, text, recipe, seed):
            if recipe.model:
                result = descend(mol, positions, recipe)
            else:
                result = relax(with_places(mol, positions), recipe.engine)
            if result is None:
                continue
            reached = with_places(mol, result[1])
            if not intact(reached).all() or stereo_smiles(reached) != text:
                continue
            begins.append(positions)
            ends.append(result[1])
            energies.append(result[0] * KCAL_PER_HARTREE)
    if not begins:
        return None
    above = np.array(energies) - min(energies)
    return ConformerPairs(mol, np.array(begins, np.float32), np.array(ends, np.float32), above)


def work(job: tuple[int, str, Recipe]) -> tuple[int, ConformerPairs | None, float]:
    """Do one molecule; a molecule that RDKit or GFN2 cannot do is no reason to stop.

    Returns:
        Its index, its pairs, and the CPU seconds they took.
    """
    index, smiles, recipe = job
    begin = time.process_time()
    try:
        pairs = make_pairs(smiles, recipe)
    except (RuntimeError, ValueError) as error:
        print(f"\n{smiles}: {error}", file=sys.stderr)
        pairs = None
    return index, pairs, time.process_time() - begin


# ------------------------------------------------------------------------ molecules


def read_smiles(path: Path) -> list[str]:
    """SMILES of a file: all columns of a CSV whose name ends in "smiles", or .smi lines.

    Raises:
        DataError: if there is no such column, or the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if path.suffix != ".csv":
        return [line.split()[0] for line in text.splitlines() if line.strip()]
    rows = list(csv.DictReader(text.splitlines()))
    columns = [name for name in (rows[0] if rows else {}) if name.lower().endswith("smiles")]
    if not columns:
        raise DataError(f"{path} has no column smiles")
    return [row[name] for row in rows for name in columns if row[name]]


def given_molecules(path: Path, exclude: frozenset[str]) -> Iterator[str]:
    """Distinct SMILES of a file that are not excluded; broken ones are left out."""
    made = set()
    for smiles in read_smiles(path):
        plain = flat(smiles)
        if plain is None or "." in plain or plain in exclude or smiles in made:
            continue
        made.add(smiles)
        yield smiles


def parse_sizes(text: str) -> tuple[tuple[int, int, float], ...]:
    """`7-10:0.6,10-24:0.4` -> ranges of heavy atoms with their shares.

    Raises:
        argparse.ArgumentTypeError: if it does not read so.
    """
    try:
        out = []
        for part in text.split(","):
            span, _, share = part.partition(":")
            low, _, high = span.partition("-")
            out.append((int(low), int(high or low), float(share or 1)))
        if any(low < 1 or high < low or share <= 0 for low, high, share in out):
            raise ValueError(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not like 7-10:0.6,10-24:0.4 (heavy atoms from-to:share)"
        ) from error
    return tuple(out)


# -------------------------------------------------------------------------- running


class Shards:
    """The output folder: what is done, and what waits to be written.

    Args:
        folder: It may hold shards of an earlier call.
        settings: What the result depends on.

    Raises:
        ConfigError: if the folder was made with other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.done: set[int] = set()
        self.pairs = self.molecules = self.number = 0
        self._results: list[tuple[int, ConformerPairs | None]] = []
        self._since = time.monotonic()
        note = folder / "settings.json"
        settings = json.loads(json.dumps(settings))
        if note.exists():
            old = json.loads(note.read_text(encoding="utf-8"))
            other = [name for name in settings if old.get(name) != settings[name]]
            if other:
                raise ConfigError(
                    f"{folder} was begun with another {', '.join(other)}; use another folder"
                )
        elif shard_files(folder):
            raise ConfigError(f"{folder} holds shards of something else; use another folder")
        else:
            write_atomic(note, json.dumps(settings, indent=1).encode())
        for file in shard_files(folder):
            notes = read_notes(file)
            self.done |= set(notes["done"])
            self.molecules += notes["molecules"]
            self.pairs += notes["pairs"]
            self.number = int(file.stem) + 1

    def add(self, index: int, pairs: ConformerPairs | None) -> None:
        """Take the result of a molecule; write a shard if it is time to."""
        self._results.append((index, pairs))
        self.done.add(index)
        self.molecules += pairs is not None
        self.pairs += 0 if pairs is None else len(pairs)
        late = time.monotonic() - self._since > SHARD_SECONDS
        if late or len(self._results) >= SHARD_MOLECULES:
            self.flush()

    def flush(self) -> None:
        """Write what waits. A molecule without pairs is noted, so that it is not tried again."""
        if self._results:
            self._results.sort(key=lambda result: result[0])
            kept = [pairs for _, pairs in self._results if pairs is not None]
            notes = {
                "done": [index for index, _ in self._results],
                "molecules": len(kept),
                "pairs": sum(map(len, kept)),
            }
            write_shard(self.folder / f"{self.number:06d}.npz", kept, notes=notes)
            self.number += 1
        self._results = []
        self._since = time.monotonic()


def _end_with_parent() -> None:
    """End this worker when the process that started it is killed, which tells nobody."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run(
    jobs: Iterator[tuple[int, str, Recipe]], shards: Shards, workers: int, minutes: float | None
) -> None:
    """Do the jobs in processes of their own until they, or the time, are used up."""
    begin = time.monotonic()
    end = begin + 60 * minutes if minutes is not None else float("inf")
    cpu = 0.0
    tried = conformers = 0
    # Read by the numerical libraries of the workers when these start: at this size several threads
    # cost more than they bring, and the workers are the parallelism.
    for name in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{name}_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _end_with_parent) as pool:
        waiting: set[Future[tuple[int, ConformerPairs | None, float]]] = set()
        more = True
        try:
            while True:
                while more and len(waiting) < 2 * workers and time.monotonic() < end:
                    job = next(jobs, None)
                    more = job is not None
                    if job is not None:
                        waiting.add(pool.submit(work, job))
                if not waiting:
                    break
                finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in finished:
                    index, pairs, seconds = future.result()
                    shards.add(index, pairs)
                    tried, cpu = tried + 1, cpu + seconds
                    conformers += 0 if pairs is None else len(pairs)
                passed = time.monotonic() - begin
                print(
                    f"\r{shards.molecules} molecules, {shards.pairs} conformers; this call "
                    f"{tried} molecules in {passed / 60:.1f} min, "
                    f"{cpu / max(conformers, 1):.2f} CPU-s a conformer   ",
                    end="",
                    file=sys.stderr,
                    flush=True,
                )
        finally:
            for future in waiting:
                future.cancel()
            shards.flush()
            print(file=sys.stderr)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and make the data."""
    options = parse(arguments)
    exclude = frozenset(
        plain
        for path in options.exclude
        for smiles in read_smiles(path)
        if (plain := flat(smiles)) is not None
    )
    recipe = Recipe(
        options.conformers,
        options.window,
        options.apart,
        options.engine,
        options.seed,
        str(options.model.resolve()) if options.model else "",
        options.gfn2_steps,
    )
    if options.smiles is not None:
        stream = given_molecules(options.smiles, exclude)
    else:
        stream = iter(MoleculeSource(options.seed, options.sizes, exclude))
    settings = {
        "smiles": None if options.smiles is None else str(options.smiles.resolve()),
        "sizes": options.sizes,
        "exclude": zlib.crc32("\n".join(sorted(exclude)).encode()),
        "recipe": {
            name: value
            for name, value in vars(recipe).items()
            # A folder of minima does not depend on them, nor was it always asked.
            if recipe.model or name not in ("model", "gfn2_steps")
        },
    }
    shards = Shards(options.out, settings)
    jobs = (
        (index, smiles, recipe)
        for index, smiles in enumerate(itertools.islice(stream, options.limit))
        if index not in shards.done
    )
    run(jobs, shards, options.workers, options.minutes)
    print(f"{options.out}: {shards.molecules} molecules, {shards.pairs} conformers")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    default = Recipe()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="shard folder; an earlier call's is gone on with")
    parser.add_argument("--smiles", type=Path, help=".csv with a column smiles, or .smi")
    parser.add_argument(
        "--exclude", type=Path, nargs="+", default=[], help="SMILES never made, whatever stereo"
    )
    parser.add_argument("--sizes", type=parse_sizes, default=SIZES, help="7-10:0.6,10-24:0.4")
    parser.add_argument("--conformers", type=int, default=default.conformers)
    parser.add_argument("--window", type=float, default=default.window, help="kcal/mol")
    parser.add_argument("--apart", type=float, default=default.apart, help="Angstrom")
    parser.add_argument("--engine", choices=["tblite", "xtb"], default=default.engine)
    parser.add_argument("--model", type=Path, help="folder of a model; makes walks")
    parser.add_argument(
        "--gfn2-steps", type=int, default=default.gfn2_steps, help="of each walk, with --model"
    )
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="number of molecules, of earlier calls too")
    parser.add_argument("--minutes", type=float, help="stop after so much time")
    options = parser.parse_args(arguments)
    for name in ("conformers", "workers", "gfn2_steps"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return options


if __name__ == "__main__":
    try:
        main()
    except ScidiffusionError as error:
        sys.exit(f"error: {error}")
