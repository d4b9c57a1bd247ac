"""Geometries to begin with: distance geometry with RDKit's knowledge (ETKDG), and force fields.

ETKDGv3 (Wang et al. 2020) comes first, with its torsion preferences for small rings and
macrocycles. What it cannot place is tried from random coordinates, then with RDKit's own checks of
stereo off (they refuse strained cages that exist), then by plain distance geometry. A geometry
whose stereo is not as asked is made again.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers
from rdkit.Geometry import Point3D

from scidiffusion.errors import ConfigError, DataError, ScidiffusionWarning
from scidiffusion.molecules.chem.checks import validity
from scidiffusion.molecules.chem.ensembles import kabsch
from scidiffusion.molecules.chem.figures import name_of
from scidiffusion.molecules.chem.handedness import stereo_kept

Array = NDArray[np.float64]
Core = Mapping[int, Sequence[float]]

ROUNDS = 4
"""How often missing geometries are made again."""
TRIES = 30
"""Attempts of distance geometry at one geometry."""
SLICE = 4
"""Geometries made between two looks at the clock: RDKit's time-out loses all of a call."""
WAYS = ("etkdg", "random", "loose", "plain")
"""Ways to embed, the best first."""
APART = 3.0
"""Distance, in Angstrom, at which the parts of a salt are laid beside each other."""


def embed(
    mol: Chem.Mol,
    n: int,
    *,
    seed: int,
    time_limit: float | None = None,
    fixed_core: Core | None = None,
) -> Chem.Mol:
    """Make up to n geometries of a molecule.

    Args:
        mol: A molecule with explicit hydrogens.
        n: How many, 1 or more.
        seed: Seed.
        time_limit: Seconds after which no more are begun; None is no limit. RDKit counts whole
            seconds, so that one geometry of a large molecule may take one more.
        fixed_core: Atom number -> place in Angstrom; geometries are laid onto these places.

    Returns:
        A copy with up to n conformers whose stereo is as specified; a warning says if there are
        fewer than n.

    Raises:
        ConfigError: if `n` or `time_limit` is not positive.
        DataError: if no geometry could be made.
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ConfigError(f"n must be 1 or more conformers, got {n!r}")
    if time_limit is not None and not time_limit > 0:
        raise ConfigError(f"time_limit must be a positive number of seconds, got {time_limit!r}")
    began = time.monotonic()
    found = Chem.Mol(mol)
    found.RemoveAllConformers()
    # RDKit takes 31 bits, and multiplies them by the number of the conformer: 0 would not do.
    rng = np.random.default_rng(seed)
    late = False
    for way in WAYS:
        for _ in range(ROUNDS):
            missing = n - found.GetNumConformers()
            if not missing or late:
                break
            made = 0
            for count in _slices(missing, limited=time_limit is not None):
                left = None if time_limit is None else time_limit - (time.monotonic() - began)
                if left is not None and left <= 0:
                    late = True
                    break
                options = _options(way, int(rng.integers(1, 2**31 - 1)), fixed_core, left)
                made += _add(found, count, options, strict=way == "loose")
            # Where most attempts fail, the next way is quicker.
            if 2 * made < missing:
                break
    if not found.GetNumConformers():
        limit = f" within {time_limit:g} s" if late else ""
        raise DataError(
            f"no 3D geometry of {name_of(mol)!r} could be made{limit}: check its stereo (strained "
            "combinations have none)" + (", or raise time_limit" if late else "")
        )
    if found.GetNumConformers() < n:
        reason = "the time limit" if late else "no more were found"
        warnings.warn(
            f"{found.GetNumConformers()} of {n} starting geometries of {name_of(mol)!r} were "
            f"made ({reason})",
            ScidiffusionWarning,
            stacklevel=2,
        )
    if fixed_core:
        lay_on(found, fixed_core)
    return found


def _slices(count: int, *, limited: bool) -> list[int]:
    """How many geometries each call makes: all at once, or 1 and then few with a time limit."""
    if not limited:
        return [count]
    rest = count - 1
    sizes = [1, *[SLICE] * (rest // SLICE), rest % SLICE]
    return [size for size in sizes if size]


def _part(mol: Chem.Mol, seed: int) -> None:
    """Lay the parts of each conformer beside each other: RDKit puts them all at the origin."""
    parts = [list(part) for part in Chem.GetMolFrags(mol)]
    if len(parts) == 1:
        return
    rng = np.random.default_rng((seed, len(parts)))
    # The largest stays, and with it most cores.
    parts.sort(key=len, reverse=True)
    for conformer in mol.GetConformers():
        places = conformer.GetPositions()
        laid = parts[0]
        for part in parts[1:]:
            direction = rng.standard_normal(3)
            direction /= np.linalg.norm(direction)
            places[part] += places[laid].mean(0) - places[part].mean(0)
            places[part] += _distance_apart(places[laid], places[part], direction) * direction
            laid = laid + part
        conformer.SetPositions(np.ascontiguousarray(places))


def _distance_apart(still: Array, moved: Array, direction: Array) -> float:
    """The shortest way along a direction after which no two atoms are nearer than `APART`."""
    gap = (moved[:, None] - still).reshape(-1, 3)
    along = gap @ direction
    aside = (gap**2).sum(-1) - along**2
    near = aside < APART**2
    # A pair is at the distance APART where its part along the direction has this size.
    needed = np.sqrt(np.maximum(APART**2 - aside[near], 0.0)) - along[near]
    return float(max(needed.max(initial=0.0), 0.0))


def _options(
    way: str, seed: int, core: Core | None, seconds: float | None
) -> rdDistGeom.EmbedParameters:
    """RDKit's parameters of one of the `WAYS`."""
    options: Any
    if way == "plain":
        options = rdDistGeom.EmbedParameters()
        options.useExpTorsionAnglePrefs = False
        options.useBasicKnowledge = False
    else:
        options = rdDistGeom.ETKDGv3()
        options.useSmallRingTorsions = way == "etkdg"
    # `_add` judges the stereo itself.
    options.enforceChirality = way != "loose"
    options.useRandomCoords = way != "etkdg"
    options.randomSeed = seed
    options.maxIterations = TRIES
    options.numThreads = 1
    options.clearConfs = True
    if seconds is not None and hasattr(options, "timeout"):
        options.timeout = max(1, int(np.ceil(seconds)))
    if core:
        options.SetCoordMap({int(atom): Point3D(*map(float, core[atom])) for atom in core})
    return options


def _add(found: Chem.Mol, count: int, options: rdDistGeom.EmbedParameters, *, strict: bool) -> int:
    """Make geometries and add those whose stereo is kept; returns how many were added.

    With `strict` all checks decide: without RDKit's own, stereo that cannot be has distorted
    geometries.
    """
    trial = Chem.Mol(found)
    try:
        with rdBase.BlockLogs():
            ids = list(rdDistGeom.EmbedMultipleConfs(trial, count, options))
    except RuntimeError:
        # RDKit's minimiser gives up like this on some cages that cannot be.
        return 0
    if not ids:
        return 0
    _part(trial, options.randomSeed)
    kept = validity(trial).ok if strict else stereo_kept(trial)
    for conformer, good in zip(trial.GetConformers(), kept, strict=True):
        if good:
            found.AddConformer(conformer, assignId=True)
    return int(kept.sum())


def lay_on(mol: Chem.Mol, core: Core) -> None:
    """Move each conformer, in place, so that its core lies on the given places.

    The whole moves by the best rigid motion; then the core's atoms are put exactly there.

    Args:
        mol: A molecule with n conformers.
        core: Atom number -> place in Angstrom.
    """
    atoms = sorted(core)
    target = np.zeros((mol.GetNumAtoms(), 3))
    target[atoms] = [core[atom] for atom in atoms]
    weights = np.zeros(mol.GetNumAtoms())
    weights[atoms] = 1.0
    points = np.stack([conformer.GetPositions() for conformer in mol.GetConformers()])
    rotation, translation = kabsch(points, target, weights)
    moved = points @ rotation.swapaxes(1, 2) + translation[:, None]
    moved[:, atoms] = target[atoms]
    for conformer, place in zip(mol.GetConformers(), moved, strict=True):
        conformer.SetPositions(np.ascontiguousarray(place))


def relax_mmff(
    mol: Chem.Mol, max_iterations: int = 400, *, fixed: Sequence[int] = ()
) -> tuple[Array, NDArray[np.bool_], str]:
    """Minimise every conformer in place, by MMFF94 or, where it has no types, UFF.

    Args:
        mol: A molecule with n conformers.
        max_iterations: Steps of the minimiser at most.
        fixed: Atoms that stay where they are.

    Returns:
        Energies (n,) in kcal/mol, whether each is a minimum (n,), and "MMFF94" or "UFF". Where
        neither has types, as for SF6, nothing moves: NaN, false and "none".
    """
    with rdBase.BlockLogs():
        typed = rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol)
        if not typed and not rdForceFieldHelpers.UFFHasAllMoleculeParams(mol):
            n = mol.GetNumConformers()
            return np.full(n, np.nan), np.zeros(n, dtype=bool), "none"
        if not fixed:
            minimise = (
                rdForceFieldHelpers.MMFFOptimizeMoleculeConfs
                if typed
                else rdForceFieldHelpers.UFFOptimizeMoleculeConfs
            )
            result = minimise(mol, numThreads=1, maxIters=max_iterations)
        else:
            result = [
                _relax_around(mol, conformer.GetId(), fixed, max_iterations, typed)
                for conformer in mol.GetConformers()
            ]
    energies = np.array([energy for _, energy in result])
    return energies, np.array([status == 0 for status, _ in result]), "MMFF94" if typed else "UFF"


def _relax_around(
    mol: Chem.Mol, conf_id: int, fixed: Sequence[int], max_iterations: int, typed: bool
) -> tuple[int, float]:
    if typed:
        properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
        field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties, confId=conf_id)
    else:
        field = rdForceFieldHelpers.UFFGetMoleculeForceField(mol, confId=conf_id)
    field.Initialize()
    for atom in fixed:
        field.AddFixedPoint(int(atom))
    status = field.Minimize(maxIts=max_iterations)
    return status, field.CalcEnergy()
