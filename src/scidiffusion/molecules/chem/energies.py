"""Energies of conformers, in kcal/mol, and their weights at a temperature.

Two force fields of RDKit, MMFF94 (Halgren 1996) and UFF (Rappe 1992), cost microseconds; the
tight-binding method GFN2-xTB (Bannwarth 2019, doi:10.1021/acs.jctc.8b01176) costs milliseconds and
is nearer to quantum chemistry; it needs the package tblite. Their zeros differ: only energies of
one method and one molecule may be compared, so no array here ever mixes two methods.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rdkit import Chem, rdBase
from rdkit.Chem import rdForceFieldHelpers
from scipy import constants

from scidiffusion._lazy import require
from scidiffusion.errors import ConfigError, DataError, ScidiffusionWarning
from scidiffusion.molecules.chem.figures import name_of, positions

__all__ = [
    "GAS_CONSTANT",
    "KCAL_PER_HARTREE",
    "boltzmann_weights",
    "force_field_energies",
    "gfn2_energies",
    "mmff_energies",
    "uff_energies",
]

Array = NDArray[np.float64]

KCAL = constants.kilo * constants.calorie
GAS_CONSTANT = constants.R / KCAL
"""kcal / mol / K."""
KCAL_PER_HARTREE = constants.physical_constants["Hartree energy"][0] * constants.N_A / KCAL
"""kcal/mol in a hartree (CODATA)."""
ANGSTROM_PER_BOHR = constants.physical_constants["Bohr radius"][0] / constants.angstrom
HEAVIEST_OF_GFN2 = 86
"""Atomic number of radon, the last element that GFN2-xTB has parameters for."""
NEVER = 1e6
"""A distance in Angstrom beyond which force fields leave pairs out: none of a molecule."""


def mmff_energies(mol: Chem.Mol) -> Array:
    """MMFF94 energies of all conformers.

    Args:
        mol: A molecule with explicit hydrogen and n conformers.

    Returns:
        (n,) kcal/mol, with the interactions between separate fragments. All NaN, with one
        warning, where MMFF94 has no parameters for an atom: `force_field_energies` then falls
        back to UFF and says so.

    Raises:
        DataError: if there is no conformer, or hydrogen is implicit.
    """
    return _energies(mol, _mmff, "MMFF94", "UFF or GFN2")


def uff_energies(mol: Chem.Mol) -> Array:
    """UFF energies of all conformers: cruder than MMFF94, for nearly every element.

    Args:
        mol: A molecule with explicit hydrogen and n conformers.

    Returns:
        (n,) kcal/mol; all NaN, with one warning, where UFF has no parameters either.

    Raises:
        DataError: if there is no conformer, or hydrogen is implicit.
    """
    return _energies(mol, _uff, "UFF", "GFN2")


def _energies(mol: Chem.Mol, build: Callable[[Chem.Mol], Any], method: str, others: str) -> Array:
    """Energies of a force field; NaN and a warning where it does not know the molecule."""
    places = _checked(mol)
    field = build(mol)
    if field is None:
        warnings.warn(
            f"{method} has no parameters for {name_of(mol)!r}, its energies are NaN; ask for "
            f"{others} energies instead",
            ScidiffusionWarning,
            stacklevel=3,
        )
        return np.full(len(places), np.nan)
    return _evaluate(field, places)


def force_field_energies(mol: Chem.Mol) -> tuple[Array, str]:
    """Energies of all conformers by the better of the two force fields that knows the molecule.

    Args:
        mol: A molecule with explicit hydrogen and n conformers.

    Returns:
        `(energies, method)`: (n,) kcal/mol, and `"MMFF94"`, or `"UFF"` where MMFF94 has no
        parameters. All conformers of a molecule are judged by the same one.

    Raises:
        DataError: if there is no conformer, hydrogen is implicit, or neither knows the molecule.
    """
    places = _checked(mol)
    for method, build in FORCE_FIELDS:
        field = build(mol)
        if field is not None:
            return _evaluate(field, places), method
    raise DataError(
        f"neither MMFF94 nor UFF has parameters for {name_of(mol)!r}; ask for GFN2 energies"
    )


def _checked(mol: Chem.Mol) -> Array:
    places = positions(mol)
    _check_explicit(mol)
    return places


def _check_explicit(mol: Chem.Mol) -> None:
    for atom in mol.GetAtoms():
        if atom.GetTotalNumHs():
            raise DataError(
                f"atom {atom.GetIdx()} ({atom.GetSymbol()}) of {name_of(mol)!r} has implicit "
                "hydrogen, which an energy needs; use Chem.AddHs(mol, addCoords=True)"
            )


def _mmff(mol: Chem.Mol) -> Any:
    with rdBase.BlockLogs():
        # On a copy: looking for parameters sets MMFF's aromaticity on some versions of RDKit.
        properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(Chem.Mol(mol))
        if properties is None:
            return None
        return rdForceFieldHelpers.MMFFGetMoleculeForceField(
            mol, properties, nonBondedThresh=NEVER, ignoreInterfragInteractions=False
        )


def _uff(mol: Chem.Mol) -> Any:
    with rdBase.BlockLogs():
        if not rdForceFieldHelpers.UFFHasAllMoleculeParams(mol):
            return None
        # UFF drops pairs by a multiple of their own distance in the conformer it is built on.
        return rdForceFieldHelpers.UFFGetMoleculeForceField(
            mol, vdwThresh=NEVER, ignoreInterfragInteractions=False
        )


FORCE_FIELDS: Sequence[tuple[str, Callable[[Chem.Mol], Any]]] = (("MMFF94", _mmff), ("UFF", _uff))
"""The better one first."""


def force_field(mol: Chem.Mol) -> Any:
    """Return RDKit's force field of a molecule, MMFF94 or else UFF; None if neither knows it."""
    return next((field for _, build in FORCE_FIELDS if (field := build(mol)) is not None), None)


def _evaluate(field: Any, places: Array) -> Array:
    field.Initialize()
    return np.array([field.CalcEnergy(place.ravel().tolist()) for place in places])


@overload
def gfn2_energies(
    mol: Chem.Mol, *, gradient: Literal[False] = False, accuracy: float = 1.0
) -> Array: ...


@overload
def gfn2_energies(
    mol: Chem.Mol, *, gradient: Literal[True], accuracy: float = 1.0
) -> tuple[Array, Array]: ...


def gfn2_energies(
    mol: Chem.Mol, *, gradient: bool = False, accuracy: float = 1.0
) -> Array | tuple[Array, Array]:
    """GFN2-xTB energies of all conformers in the gas phase, by the package tblite.

    The charge is the sum of the formal charges. Electrons are paired, but for the one that an
    odd number of them leaves.

    Args:
        mol: A molecule with explicit hydrogen and n conformers.
        gradient: Give the derivatives by the coordinates too.
        accuracy: Factor on the thresholds of the self-consistent iteration, above 0; smaller is
            stricter.

    Returns:
        (n,) total energies in kcal/mol, and with `gradient` (n, N, 3) in kcal/mol/Angstrom.
        Conformers whose iteration fails are NaN, and a warning names them.

    Raises:
        MissingExtraError: if tblite is not installed.
        DataError: if there is no conformer, hydrogen is implicit, or an element is heavier than
            radon.
        ConfigError: if the accuracy is not above 0.
    """
    calculate, failure = gfn2_calculators(mol, accuracy)
    places = positions(mol)
    energies = np.full(len(places), np.nan)
    gradients = np.full(places.shape, np.nan)
    failed = []
    for index, place in enumerate(places):
        try:
            result = calculate(place).singlepoint()
        except failure:
            failed.append(index)
            continue
        energies[index] = result.get("energy") * KCAL_PER_HARTREE
        if gradient:
            gradients[index] = result.get("gradient") * (KCAL_PER_HARTREE / ANGSTROM_PER_BOHR)
    if failed:
        shown = ", ".join(map(str, failed[:10])) + (" ..." if len(failed) > 10 else "")
        warnings.warn(
            f"GFN2-xTB found no energy for {len(failed)} of {len(places)} conformers of "
            f"{name_of(mol)!r} (indices {shown}), probably of strained geometries: NaN",
            ScidiffusionWarning,
            stacklevel=2,
        )
    return (energies, gradients) if gradient else energies


def gfn2_calculators(
    mol: Chem.Mol, accuracy: float = 1.0
) -> tuple[Callable[[Array], Any], type[Exception]]:
    """Return what makes a calculator of tblite from places (N, 3) in Angstrom, and its error.

    Every conformer needs a new one: a wave function carried over would let the energies of a
    conformer depend on those before it. Arguments and errors are those of `gfn2_energies`, but
    that no conformer is needed.
    """
    if not 0 < accuracy < np.inf:
        raise ConfigError(f"accuracy must be above 0, got {accuracy}")
    interface: Any = require("tblite.interface", "gfn2")
    failure: Any = require("tblite.exceptions", "gfn2").TBLiteRuntimeError
    _check_explicit(mol)
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    for index, number in enumerate(numbers):
        if not 1 <= number <= HEAVIEST_OF_GFN2:
            raise DataError(
                f"GFN2-xTB has no parameters for atom {index} "
                f"({mol.GetAtomWithIdx(index).GetSymbol()}) of {name_of(mol)!r}"
            )
    charge = Chem.GetFormalCharge(mol)
    unpaired = int(numbers.sum() - charge) % 2

    def calculate(place: Array) -> Any:
        calculator = interface.Calculator(
            "GFN2-xTB", numbers, place / ANGSTROM_PER_BOHR, charge=charge, uhf=unpaired
        )
        calculator.set("verbosity", 0)
        calculator.set("accuracy", accuracy)
        return calculator

    return calculate, failure


def boltzmann_weights(energies: ArrayLike, temperature: float = 298.15) -> Array:
    """Weights exp(-E / RT), normalised, of conformers in equilibrium.

    Args:
        energies: (n,) kcal/mol, of one method; NaN where unknown.
        temperature: T in K, above 0.

    Returns:
        (n,) weights that add up to 1; 0 where the energy is NaN. Equal but for rounding whatever
        is added to all energies.

    Raises:
        ConfigError: if the temperature is not above 0.
        DataError: if there is no energy, or all are NaN, or one is infinite.
    """
    if not 0 < temperature < np.inf:
        raise ConfigError(f"temperature must be above 0 K, got {temperature}")
    values = np.asarray(energies, np.float64)
    if values.ndim != 1 or np.isnan(values).all():
        raise DataError(
            "Boltzmann weights need a one-dimensional array of energies with at least one that "
            f"is not NaN, got {values.size} of shape {values.shape}"
        )
    if np.isinf(values).any():
        raise DataError(
            f"energy {int(np.flatnonzero(np.isinf(values))[0])} is infinite; mark an unknown "
            "energy by NaN"
        )
    weights = np.exp(-(values - np.nanmin(values)) / (GAS_CONSTANT * temperature))
    weights = np.nan_to_num(weights, nan=0.0)
    return weights / weights.sum()
