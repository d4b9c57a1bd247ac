"""Down to minima of GFN2-xTB: a quasi-Newton method that begins with a force field's Hessian.

The force field's second derivatives cost little and are nearly right, so that one step from a
geometry that is nearly right takes away much of what is wrong with it, and some 20 energies reach
the minimum where a unit matrix needs many more. The Hessian is kept up by BFGS (Nocedal and Wright
2006, eq. 6.19), a step is no longer than a trust radius, and a step that leads upwards is taken
back. GFN2-xTB: Bannwarth et al., J. Chem. Theory Comput. 15, 1652 (2019).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

from scidiffusion.errors import ConfigError, ScidiffusionWarning
from scidiffusion.molecules.chem.energies import (
    ANGSTROM_PER_BOHR,
    KCAL_PER_HARTREE,
    force_field,
    gfn2_calculators,
)
from scidiffusion.molecules.chem.ensembles import with_places
from scidiffusion.molecules.chem.figures import name_of, positions

__all__ = ["force_field_hessian", "positive_hessian", "relax_gfn2"]

Array = NDArray[np.float64]
Slope = Callable[[Array], tuple[float, Array]]

ENERGY = 5e-6
"""The energy changes by less, in hartree, when it has converged (xtb's "normal")."""
GRADIENT = 1e-3
"""The norm of the gradient is less, in hartree/bohr, when it has converged (xtb's "normal")."""
NOISE = 1e-5
"""What energies, in hartree, may rise in a step: electrons converge no better."""
SOFT = 8e-4
"""Smallest curvature a step believes in, in hartree/bohr^2: a torsion's."""
STIFF = 0.5
"""Curvature of every motion, in hartree/bohr^2, where no force field knows the molecule."""
TRUST, MOST_TRUST = 0.4, 0.8
"""How far a coordinate may change in the first step, and ever, in bohr."""
MOST_STEPS = 200
FEW, LOOSE = 5, 30.0
"""So few steps end where the gradient is still far larger than what electrons converged 30 times
as loosely leave of error in it, at two thirds of the cost."""


def force_field_hessian(mol: Chem.Mol, places: Array) -> Array:
    """Second derivatives of MMFF94, or of UFF where MMFF94 has no types.

    Args:
        mol: A molecule with explicit hydrogen; its own conformers do not matter.
        places: (N, 3) positions in Angstrom.

    Returns:
        (3N, 3N) in hartree/bohr^2, symmetric; a multiple of the unit matrix where neither force
        field knows the molecule.
    """
    field = force_field(with_places(mol, places[None]))
    if field is None:
        return STIFF * np.eye(places.size)
    field.Initialize()
    step = 1e-3

    def gradient(at: Array) -> Array:
        # RDKit's gradient uses the distances of the last energy: without it they are stale.
        field.CalcEnergy(at.tolist())
        return np.array(field.CalcGrad(at.tolist()))

    at = places.ravel()
    base = gradient(at)
    rows = [gradient(at + step * unit) - base for unit in np.eye(len(at))]
    hessian = np.array(rows) / step
    return (hessian + hessian.T) / 2 / KCAL_PER_HARTREE * ANGSTROM_PER_BOHR**2


def positive_hessian(mol: Chem.Mol, places: Array) -> Array:
    """`force_field_hessian` with curvatures made positive and no softer than a torsion's.

    As a measure of how much energy a displacement costs it holds away from minima too.
    """
    return _positive(force_field_hessian(mol, places))


def _positive(hessian: Array) -> Array:
    values, vectors = np.linalg.eigh(hessian)
    return (vectors * np.maximum(np.abs(values), SOFT)) @ vectors.T


def relax_gfn2(
    mol: Chem.Mol, max_steps: int = MOST_STEPS, *, fixed: Sequence[int] = ()
) -> tuple[Array, NDArray[np.bool_]]:
    """Move every conformer, in place, down to its minimum of GFN2-xTB or some way towards it.

    A step costs one energy and gradient, and one more is needed to begin. A step that leads
    upwards is taken back; what a conformer becomes does not depend on the others.

    Args:
        mol: A molecule with explicit hydrogen and n conformers.
        max_steps: Steps of each conformer at most, 1 or more. One from a minimum of MMFF94
            takes most of the energy away.
        fixed: Atoms that stay where they are.

    Returns:
        (n,) energies of the conformers in kcal/mol, and whether each is a minimum (n,). A
        conformer whose electrons do not converge stays where it is, with NaN and false, and a
        warning names it.

    Raises:
        MissingExtraError: if tblite is not installed.
        DataError: if there is no conformer, hydrogen is implicit, or an element is heavier than
            radon.
        ConfigError: if `max_steps` is below 1.
    """
    if isinstance(max_steps, bool) or not isinstance(max_steps, int | np.integer) or max_steps < 1:
        raise ConfigError(f"max_steps must be 1 or more, got {max_steps!r}")
    calculate, failure = gfn2_calculators(mol, LOOSE if max_steps <= FEW else 1.0)
    free = np.ones((mol.GetNumAtoms(), 3), dtype=bool)
    free[list(fixed)] = False
    n = mol.GetNumConformers()
    energies, reached, failed = np.full(n, np.nan), np.zeros(n, dtype=bool), []
    for index, (conformer, places) in enumerate(
        zip(mol.GetConformers(), positions(mol), strict=True)
    ):
        hessian = force_field_hessian(mol, places)[np.ix_(free.ravel(), free.ravel())]
        try:
            energies[index], places[free], reached[index] = _descend(
                _slope(calculate(places), places, free), places[free], hessian, max_steps
            )
        except (failure, np.linalg.LinAlgError):
            failed.append(index)
            continue
        conformer.SetPositions(places)
    if failed:
        warnings.warn(
            f"GFN2-xTB found no energy for {len(failed)} of {n} conformers of {name_of(mol)!r} "
            f"(indices {', '.join(map(str, failed[:10]))}): they stay as they are",
            ScidiffusionWarning,
            stacklevel=2,
        )
    return energies, reached


def _slope(calculator: Any, places: Array, free: NDArray[np.bool_]) -> Slope:
    """Energy in hartree and gradient in hartree/bohr of the free coordinates in Angstrom."""
    whole = places.copy()
    result = None

    def slope(at: Array) -> tuple[float, Array]:
        # The electrons begin where those of the last place were.
        nonlocal result
        whole[free] = at
        calculator.update(whole / ANGSTROM_PER_BOHR)
        result = calculator.singlepoint(result)
        return result.get("energy"), result.get("gradient")[free]

    return slope


def _descend(
    slope_at: Slope, places: Array, hessian: Array, max_steps: int
) -> tuple[float, Array, bool]:
    """Follow the gradient; lengths in here are in bohr.

    Returns:
        The energy in kcal/mol, the free coordinates in Angstrom, and whether it has converged.
    """
    at = places / ANGSTROM_PER_BOHR
    energy, slope = slope_at(places)
    trust, converged = TRUST, False
    # BFGS keeps a Hessian positive that begins so; a force field's is not, away from its minima.
    hessian = _positive(hessian)
    for _ in range(max_steps):
        step = -np.linalg.solve(hessian, slope)
        reach = float(np.abs(step).max(initial=0.0))
        if reach > trust:
            step *= trust / reach
            reach = trust
        curved = hessian @ step
        expected = slope @ step + step @ curved / 2
        new, new_slope = slope_at((at + step) * ANGSTROM_PER_BOHR)
        change = new_slope - slope
        bend = step @ change
        # Only where the curvature along the step is positive does the Hessian stay so.
        if bend > 1e-10 * np.linalg.norm(step) * np.linalg.norm(change):
            hessian = (
                hessian
                + np.outer(change, change) / bend
                - np.outer(curved, curved) / (step @ curved)
            )
        gain = new - energy
        if gain > NOISE:
            trust = max(reach / 4, 1e-3)
            continue
        at, energy, slope = at + step, new, new_slope
        converged = abs(gain) < ENERGY and bool(np.linalg.norm(slope) < GRADIENT)
        if converged:
            break
        if gain < 0.7 * expected:
            trust = min(1.5 * trust, MOST_TRUST)
    return energy * KCAL_PER_HARTREE, at * ANGSTROM_PER_BOHR, converged
