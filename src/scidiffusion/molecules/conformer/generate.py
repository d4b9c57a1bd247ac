"""From a molecule to an ensemble of conformers, step by step.

Starts (ETKDG or torsional diffusion, and MMFF94, several times as many as are asked for) -> the
most different ones -> refinement by diffusion -> checks -> steps on GFN2-xTB, where asked for ->
energies and weights. What fails a check is made again from other starts; what cannot be refined
stays as the force field left it, which a warning says.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from rdkit import Chem
from torch import Tensor

from scidiffusion.core.rng import KeyedNoise
from scidiffusion.errors import ConfigError, DataError, ScidiffusionWarning
from scidiffusion.estimator import check_count
from scidiffusion.molecules.chem.checks import validity
from scidiffusion.molecules.chem.embedding import embed, lay_on, relax_mmff
from scidiffusion.molecules.chem.energies import (
    boltzmann_weights,
    force_field_energies,
    gfn2_calculators,
    gfn2_energies,
)
from scidiffusion.molecules.chem.ensembles import (
    farthest_points,
    keep,
    prune,
    rmsd_matrix,
    with_places,
)
from scidiffusion.molecules.chem.figures import name_of, positions, set_figures
from scidiffusion.molecules.chem.handedness import stereo_kept
from scidiffusion.molecules.chem.relaxation import relax_gfn2
from scidiffusion.molecules.chem.smiles import as_molecule
from scidiffusion.molecules.chem.stereo import fix_stereo
from scidiffusion.molecules.conformer.denoiser import SIGMA_MAX, ConformerDenoiser
from scidiffusion.molecules.conformer.graph import MolGraph
from scidiffusion.molecules.conformer.refine import STEPS, refine
from scidiffusion.molecules.conformer.steering import (
    EnergySteering,
    FixedCore,
    Steering,
    check_targets,
    distance_energy,
)
from scidiffusion.samplers import make_sampler

if TYPE_CHECKING:
    from scidiffusion.molecules.torsional.estimator import TorsionDiffusion

Array = NDArray[np.float64]
WINDOW, LARGE_WINDOW = 15.0, 10.0
"""Starts higher than this above the lowest one, in kcal/mol of MMFF94, are refined last: of small
molecules, and of those of more than `SMALL` heavy atoms, which have low ones enough."""
DISTINCT = 0.2
"""Starts nearer than this to a lower one, in Angstrom, count as the same."""
SMALL = 15
"""Molecules of up to so many heavy atoms get twice as many starts, of all energies."""
RELAX_STEPS = 400
ATTEMPTS = 3
"""How often conformers that fail a check are made again."""
GUIDED_LEVEL = 0.5
"""Noise level, in Angstrom, from which guidance can still move atoms."""


@dataclass(frozen=True)
class Request:
    """What is asked for; see `ConformerDiffusion.sample`."""

    n: int
    seed: int
    start: str = "etkdg"
    torsions: TorsionDiffusion | None = None
    steps: int | None = None
    level: float | None = None
    sampler: str = "dpmpp_2m"
    noise_scale: float = 0.0
    gfn2_steps: int = 0
    oversample: int | None = None
    energy: str | None = "mmff"
    temperature: float = 298.15
    prune: float | None = None
    time_limit: float | None = None
    fixed_core: Mapping[int, Sequence[float]] = field(default_factory=dict)
    guidance: Callable[[Tensor], Tensor] | None = None
    guidance_scale: float = 1.0
    target_distances: Mapping[tuple[int, int], float] = field(default_factory=dict)
    allow_fragments: bool = False

    def __post_init__(self) -> None:
        if check_count(self.n) < 1:
            raise ConfigError(f"n must be 1 or more conformers, got {self.n}")
        if self.start not in ("etkdg", "noise"):
            raise ConfigError(f"start must be 'etkdg' or 'noise', got {self.start!r}")
        if self.energy not in ("mmff", "gfn2", None):
            raise ConfigError(f"energy must be 'mmff', 'gfn2' or None, got {self.energy!r}")
        if self.oversample is not None and check_count(self.oversample, "oversample") < 1:
            raise ConfigError(f"oversample must be 1 or more, got {self.oversample}")
        if check_count(self.gfn2_steps, "gfn2_steps") and self.guided:
            raise ConfigError(
                "gfn2_steps would undo what guidance and target_distances pull at; leave one out"
            )
        if not 0 <= self.noise_scale < float("inf"):
            raise ConfigError(f"noise_scale must be a number >= 0, got {self.noise_scale}")
        for name in ("temperature", "time_limit"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"{name} must be a positive number, got {value}")
        if self.fixed_core and len(self.fixed_core) < 3:
            raise ConfigError(
                "fixed_core needs three atoms or more: fewer leave the orientation open"
            )
        if self.torsions is not None and (self.fixed_core or self.start == "noise"):
            what = "a fixed core" if self.fixed_core else "start='noise'"
            raise ConfigError(f"method='torsional' and {what} do not go together; leave one out")
        make_sampler(self.sampler)

    @property
    def guided(self) -> bool:
        """Whether anything pulls beside the data."""
        return self.guidance is not None or bool(self.target_distances)


def generate(
    denoiser: ConformerDenoiser,
    molecule: str | Chem.Mol,
    request: Request,
    *,
    sigma_start: float,
) -> Chem.Mol:
    """Make conformers; see `ConformerDiffusion.sample`.

    Args:
        denoiser: Trained denoiser.
        molecule: SMILES or molecule.
        request: What is asked for.
        sigma_start: Noise level at which refinement begins unless the request says otherwise.
    """
    mol = as_molecule(molecule, allow_fragments=request.allow_fragments)
    steering = _steering(mol, request)
    if request.gfn2_steps or request.energy == "gfn2":
        # Whether it can be done is known before any work.
        gfn2_calculators(mol)
    mol, chosen = fix_stereo(mol, request.seed)
    if chosen:
        what = ", ".join(str(one) for one in chosen)
        mol.SetProp("stereo_chosen", what)
        warnings.warn(
            f"{name_of(mol)!r} leaves stereo open; chosen for the ensemble: {what}",
            ScidiffusionWarning,
            stacklevel=4,
        )
    if request.start == "noise":
        found = _from_noise(denoiser, mol, request, steering)
    else:
        found = _from_starts(denoiser, mol, request, steering, sigma_start)
    if request.gfn2_steps:
        found = _relaxed(found, request)
    return _finished(found, request)


def _steering(mol: Chem.Mol, request: Request) -> list[Steering]:
    """What pulls; errors of it come before any work."""
    steering: list[Steering] = []
    if request.guidance is not None:
        steering.append(EnergySteering(request.guidance, request.guidance_scale))
    if request.target_distances:
        check_targets(request.target_distances, mol.GetNumAtoms())
        energy = distance_energy(request.target_distances)
        steering.append(EnergySteering(energy, request.guidance_scale))
    if request.fixed_core:
        atoms = sorted(request.fixed_core)
        if atoms[0] < 0 or atoms[-1] >= mol.GetNumAtoms():
            raise DataError(
                f"fixed_core names atoms {atoms}, but {name_of(mol)!r} has atoms 0 to "
                f"{mol.GetNumAtoms() - 1}"
            )
        places = np.array([request.fixed_core[atom] for atom in atoms], dtype=np.float64)
        if places.shape != (len(atoms), 3) or not np.isfinite(places).all():
            raise DataError("fixed_core must give each atom three finite coordinates in Angstrom")
        steering.append(FixedCore(atoms, torch.from_numpy(places)))
    return steering


def _from_starts(
    denoiser: ConformerDenoiser,
    mol: Chem.Mol,
    request: Request,
    steering: list[Steering],
    sigma_start: float,
) -> Chem.Mol:
    starts = _starts(mol, request)
    energies, _, _ = relax_mmff(starts, RELAX_STEPS, fixed=sorted(request.fixed_core))
    window = WINDOW if _is_small(mol) else LARGE_WINDOW
    order = preference(rmsd_matrix(starts), energies, request.n, window)
    places = positions(starts)[order]
    level = request.level or (GUIDED_LEVEL if request.guided else sigma_start)
    asked = replace(request, steps=request.steps or (20 if request.guided else STEPS), level=level)
    taken = 0

    def make(missing: int, attempt: int) -> Chem.Mol:
        # Where there are fewer starts than conformers, starts serve again.
        nonlocal taken
        chosen = [(taken + index) % len(places) for index in range(missing)]
        taken += missing
        return _refined(denoiser, mol, places[chosen], asked, steering, attempt)

    found = _collected(mol, request.n, make)
    missing = request.n - found.GetNumConformers()
    if missing:
        ids = [conformer.GetId() for conformer in starts.GetConformers()]
        good = validity(starts).ok
        plain = [ids[index] for index in order if good[index]][:missing]
        for number in plain:
            found.AddConformer(Chem.Conformer(starts.GetConformer(number)), assignId=True)
        _say_missing(mol, missing, len(plain))
    if not found.GetNumConformers():
        raise DataError(
            f"no geometry of {name_of(mol)!r} passes the checks (bonds, angles, clashes, flat "
            "groups, stereo); look at it with start='noise', or ask for more starts (oversample)"
        )
    return found


def _starts(mol: Chem.Mol, request: Request) -> Chem.Mol:
    count = request.n * (request.oversample or oversampling(mol))
    if request.torsions is not None:
        return request.torsions.starts(
            mol, count, seed=request.seed, time_limit=request.time_limit
        )
    return embed(
        mol,
        count,
        seed=request.seed,
        time_limit=request.time_limit,
        fixed_core=request.fixed_core,
    )


def _from_noise(
    denoiser: ConformerDenoiser, mol: Chem.Mol, request: Request, steering: list[Steering]
) -> Chem.Mol:
    asked = replace(
        request,
        steps=request.steps or 20,
        level=request.level or SIGMA_MAX,
        # Without noise all would be one and the same.
        noise_scale=request.noise_scale or 1.0,
    )

    def make(missing: int, attempt: int) -> Chem.Mol:
        starts = np.zeros((missing, mol.GetNumAtoms(), 3))
        made = _refined(denoiser, mol, starts, asked, steering, attempt)
        if not request.fixed_core:
            _mirror(made, ~stereo_kept(made))
        return made

    found = _collected(mol, request.n, make)
    if not found.GetNumConformers():
        raise DataError(
            f"no conformer of {name_of(mol)!r} that starts from noise passed the checks; use "
            "start='etkdg', or more steps"
        )
    if found.GetNumConformers() < request.n:
        _say_missing(mol, request.n - found.GetNumConformers(), 0)
    return found


def _mirror(mol: Chem.Mol, chosen: NDArray[np.bool_]) -> None:
    """Reflect some conformers in place.

    Hands are decided early in a walk from noise, when a centre is still flat: where all of them
    came out wrong, the mirror image is as likely a conformer and has them right.
    """
    for conformer, wrong in zip(mol.GetConformers(), chosen, strict=True):
        if wrong:
            conformer.SetPositions(conformer.GetPositions() * [1.0, 1.0, -1.0])


def oversampling(mol: Chem.Mol) -> int:
    """How many starts are made for each conformer, where they are cheap and where they are not."""
    return 8 if _is_small(mol) else 4


def _is_small(mol: Chem.Mol) -> bool:
    return mol.GetNumHeavyAtoms() <= SMALL


def _collected(mol: Chem.Mol, n: int, make: Callable[[int, int], Chem.Mol]) -> Chem.Mol:
    """Call make(missing, attempt) until n conformers pass the checks, or `ATTEMPTS` times."""
    found = with_places(mol, [])
    for attempt in range(ATTEMPTS):
        missing = n - found.GetNumConformers()
        if not missing:
            break
        made = make(missing, attempt)
        for conformer, good in zip(made.GetConformers(), validity(made).ok, strict=True):
            if good:
                found.AddConformer(Chem.Conformer(conformer), assignId=True)
    return found


def _say_missing(mol: Chem.Mol, missing: int, plain: int) -> None:
    text = f"{missing} conformers of {name_of(mol)!r} failed the checks after refinement"
    if plain:
        text += f"; {plain} are given as the force field left them"
    if plain < missing:
        text += f"; {missing - plain} are left out"
    warnings.warn(text, ScidiffusionWarning, stacklevel=6)


def preference(distances: Array, energies: Array, n: int, window: float = WINDOW) -> list[int]:
    """Order starts: the distinct ones by rising energy, then the others by rising energy.

    Where more than n are distinct and low in energy, the n most different of these come first.

    Args:
        distances: (m, m) RMSD of heavy atoms, in Angstrom.
        energies: (m,) kcal/mol.
        n: How many will be used.
        window: Up to so much above the lowest, in kcal/mol, energies count as low.
    """
    known = np.where(np.isfinite(energies), energies, np.inf)
    lowest = known.min() if np.isfinite(known).any() else 0.0
    order = [int(index) for index in np.argsort(known, kind="stable")]
    distinct: list[int] = []
    for index in order:
        low = known[index] <= lowest + window
        if not distinct or (low and distances[index, distinct].min() >= DISTINCT):
            distinct.append(index)
    if len(distinct) > n:
        picked = farthest_points(distances[np.ix_(distinct, distinct)], n, 0)
        distinct = [distinct[index] for index in picked]
    chosen = set(distinct)
    return distinct + [index for index in order if index not in chosen]


def _refined(
    denoiser: ConformerDenoiser,
    mol: Chem.Mol,
    starts: Array,
    request: Request,
    steering: list[Steering],
    attempt: int,
) -> Chem.Mol:
    assert request.level is not None
    assert request.steps is not None
    found = refine(
        denoiser,
        MolGraph.of(mol),
        starts,
        level=request.level,
        steps=request.steps,
        noise_scale=request.noise_scale,
        noise=KeyedNoise(request.seed).child(f"attempt {attempt}"),
        sampler=request.sampler,
        steering=steering,
        device=next(denoiser.network.parameters()).device,
    )
    made = with_places(mol, found)
    if request.fixed_core:
        lay_on(made, request.fixed_core)
    return made


def _relaxed(mol: Chem.Mol, request: Request) -> Chem.Mol:
    """Go some steps down on GFN2-xTB; what fails a check afterwards stays as it was."""
    moved = Chem.Mol(mol)
    relax_gfn2(moved, request.gfn2_steps, fixed=sorted(request.fixed_core))
    kept = np.where(validity(moved).ok[:, None, None], positions(moved), positions(mol))
    return with_places(mol, kept)


def _finished(mol: Chem.Mol, request: Request) -> Chem.Mol:
    """Add energies, weights and flags; order by energy and prune."""
    if request.energy is not None:
        if request.energy == "gfn2":
            energies, method = gfn2_energies(mol), "GFN2-xTB"
        else:
            energies, method = force_field_energies(mol)
        order = [int(index) for index in np.argsort(energies, kind="stable")]
        ids = [conformer.GetId() for conformer in mol.GetConformers()]
        mol = keep(mol, [ids[index] for index in order])
        energies = energies[order]
        set_figures(mol, energies=energies, method=method)
        if request.prune is not None:
            ids = prune(mol, request.prune, energies)
            energies = energies[[int(index) for index in ids]]
            mol = keep(mol, ids)
        set_figures(mol, weights=boltzmann_weights(energies, request.temperature))
    elif request.prune is not None:
        mol = keep(mol, prune(mol, request.prune))
    set_figures(mol, valid=validity(mol).ok)
    return mol
