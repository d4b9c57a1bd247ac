"""What is known about each conformer of a molecule: coordinates, energy, weight, validity.

Figures of one conformer live on the RDKit conformer itself, as properties of the names below:
copies of a molecule, `Chem.AddHs` and `Chem.RemoveHs` keep them. In a file they are SD properties
of the same names. A pickle keeps them only if RDKit was told so
(`Chem.SetDefaultPickleProperties(Chem.PropertyPickleOptions.AllProps)`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rdkit import Chem, rdBase

from scidiffusion.errors import ConfigError, DataError

__all__ = [
    "Figures",
    "figure_texts",
    "figures",
    "finite_positions",
    "heavy_graph",
    "name_of",
    "positions",
    "set_figures",
    "take_figures",
]

Array = NDArray[np.float64]

ENERGY = "energy_kcal_mol"
METHOD = "energy_method"
WEIGHT = "boltzmann_weight"
VALID = "valid"
NAMES = (ENERGY, METHOD, WEIGHT, VALID)


@dataclass(frozen=True)
class Figures:
    """What is known about one conformer; None where it is not.

    Args:
        energy: Energy in kcal/mol; NaN where its calculation failed.
        method: What the energy is of, such as `"MMFF94"` or `"GFN2-xTB"`.
        weight: Boltzmann weight in the ensemble, in [0, 1].
        valid: Whether the geometry passed all checks.
    """

    energy: float | None = None
    method: str | None = None
    weight: float | None = None
    valid: bool | None = None


def name_of(mol: Chem.Mol) -> str:
    """The molecule as an error message calls it: its SMILES as given, else RDKit's own."""
    if mol.HasProp("smiles"):
        return str(mol.GetProp("smiles"))
    with rdBase.BlockLogs():
        try:
            return str(Chem.MolToSmiles(heavy_graph(mol)))
        except Chem.MolSanitizeException:  # a drawn molecule whose valences are wrong
            return str(Chem.MolToSmiles(mol))


def heavy_graph(mol: Chem.Mol) -> Chem.Mol:
    """The molecule without hydrogen but where nothing else is left, or RDKit needs it."""
    parameters = Chem.RemoveHsParameters()
    # Hydrogens of SDF files with an H-count column are query atoms, which RDKit would keep.
    options = {
        "removeWithQuery": True,
        "removeDegreeZero": mol.GetNumHeavyAtoms() > 0,
        "showWarnings": False,
    }
    for option, value in options.items():
        setattr(parameters, option, value)
    with rdBase.BlockLogs():
        return Chem.RemoveHs(mol, parameters)


def positions(mol: Chem.Mol) -> Array:
    """Coordinates of all conformers, (n, N, 3) in Angstrom, in the order of the conformers.

    Raises:
        DataError: if the molecule has no conformer.
    """
    if not mol.GetNumConformers():
        raise DataError(f"{name_of(mol)!r} has no conformer; make some before this step")
    return np.stack([conformer.GetPositions() for conformer in mol.GetConformers()])


def finite_positions(mol: Chem.Mol) -> Array:
    """`positions`, or a DataError that names the first conformer that has no place."""
    places = positions(mol)
    broken = ~np.isfinite(places).all((1, 2))
    if broken.any():
        raise DataError(
            f"conformer {int(broken.argmax())} of {name_of(mol)!r} has a coordinate that is not a "
            "finite number"
        )
    return places


def set_figures(
    mol: Chem.Mol,
    *,
    energies: ArrayLike | None = None,
    method: str | None = None,
    weights: ArrayLike | None = None,
    valid: ArrayLike | None = None,
) -> None:
    """Write figures onto the conformers of a molecule, in place.

    Args:
        mol: A molecule with n conformers.
        energies: (n,) kcal/mol, NaN where unknown; needs `method`.
        method: What the energies are of.
        weights: (n,) Boltzmann weights in [0, 1].
        valid: (n,) bool.

    Raises:
        ConfigError: if energies come without their method.
        DataError: if an array has another length than there are conformers.
    """
    if (energies is None) != (method is None):
        raise ConfigError("energies and method belong together: give both or neither")
    conformers = list(mol.GetConformers())
    for name, given in ((ENERGY, energies), (WEIGHT, weights), (VALID, valid)):
        if given is None:
            continue
        values = np.asarray(given)
        if values.shape != (len(conformers),):
            raise DataError(
                f"{name} of {name_of(mol)!r} must be an array of {len(conformers)} values, one a "
                f"conformer, got shape {values.shape}"
            )
        for conformer, value in zip(conformers, values, strict=True):
            if name == VALID:
                conformer.SetBoolProp(name, bool(value))
            else:
                conformer.SetDoubleProp(name, float(value))
    if method is not None:
        for conformer in conformers:
            conformer.SetProp(METHOD, method)


def figures(mol: Chem.Mol) -> list[Figures]:
    """Figures of every conformer, in their order; what was never set is None."""
    found = []
    for conformer in mol.GetConformers():
        held = conformer.HasProp
        found.append(
            Figures(
                conformer.GetDoubleProp(ENERGY) if held(ENERGY) else None,
                conformer.GetProp(METHOD) if held(METHOD) else None,
                conformer.GetDoubleProp(WEIGHT) if held(WEIGHT) else None,
                conformer.GetBoolProp(VALID) if held(VALID) else None,
            )
        )
    return found


def figure_texts(known: Figures) -> dict[str, str]:
    """The figures of a conformer as the texts of a file, without those that are not known."""
    texts = {
        ENERGY: None if known.energy is None else f"{known.energy:.6f}",
        METHOD: known.method,
        WEIGHT: None if known.weight is None else f"{known.weight:.6g}",
        VALID: None if known.valid is None else str(known.valid).lower(),
    }
    return {name: text for name, text in texts.items() if text is not None}


def take_figures(mol: Chem.Mol) -> None:
    """Move the figures of a record from the molecule to its conformer; leave what is no number."""
    texts = {name: mol.GetProp(name).strip() for name in NAMES if mol.HasProp(name)}
    conformer = mol.GetConformer()
    for name, text in texts.items():
        if name == METHOD:
            conformer.SetProp(name, text)
        elif name == VALID:
            if text.lower() not in ("true", "false", "1", "0"):
                continue
            conformer.SetBoolProp(name, text.lower() in ("true", "1"))
        else:
            try:
                conformer.SetDoubleProp(name, float(text))
            except ValueError:
                continue
        mol.ClearProp(name)
