"""ASE `Atoms` from conformers and back, where the Atomic Simulation Environment is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from rdkit import Chem

from scidiffusion._lazy import require
from scidiffusion.errors import DataError
from scidiffusion.molecules.chem.figures import (
    ENERGY,
    METHOD,
    figures,
    heavy_graph,
    name_of,
    positions,
)
from scidiffusion.molecules.chem.xyz import keep_smiles, molecule_from_coordinates

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["from_ase", "to_ase"]


def to_ase(mol: Chem.Mol, conf_id: int = -1) -> Atoms:
    """One conformer as ASE `Atoms`.

    Args:
        mol: A molecule with explicit hydrogen.
        conf_id: Id of the conformer; -1 is the first one.

    Returns:
        Atoms in the order of the molecule, with formal charges as initial charges and the number
        of each atom's fragment, from 0, as its tag. `info` has `smiles`, `charge`, and, where the
        conformer carries one, `energy_kcal_mol` and `energy_method`: ASE's own unit is eV.

    Raises:
        MissingExtraError: if ASE is not installed.
        DataError: if there is no such conformer.
    """
    ase: Any = require("ase", "ase")
    places = positions(mol)
    ids = [conformer.GetId() for conformer in mol.GetConformers()]
    if conf_id != -1 and conf_id not in ids:
        raise DataError(f"{name_of(mol)!r} has no conformer with id {conf_id}, it has {ids}")
    index = 0 if conf_id == -1 else ids.index(conf_id)
    tags = np.zeros(mol.GetNumAtoms(), dtype=int)
    for number, fragment in enumerate(Chem.GetMolFrags(mol)):
        tags[list(fragment)] = number
    info = {"smiles": name_of(mol), "charge": Chem.GetFormalCharge(mol)}
    known = figures(mol)[index]
    if known.energy is not None:
        info |= {ENERGY: known.energy, METHOD: known.method}
    return ase.Atoms(
        numbers=[atom.GetAtomicNum() for atom in mol.GetAtoms()],
        positions=places[index],
        charges=[atom.GetFormalCharge() for atom in mol.GetAtoms()],
        tags=tags,
        info=info,
    )


def from_ase(
    atoms: Atoms, template: Chem.Mol | None = None, *, charge: int | None = None
) -> Chem.Mol:
    """A molecule with the coordinates of ASE `Atoms` as its one conformer.

    Args:
        atoms: Without periodic boundaries, hydrogen included.
        template: The molecule they are, with its atoms in this order, such as the one given to
            `to_ase`; default: bonds are derived from the distances.
        charge: Total charge, for the bonds; default `atoms.info["charge"]`, else the sum of the
            initial charges.

    Returns:
        The molecule, with the property `smiles`: that of the template, or `atoms.info["smiles"]`
        where it fits the bonds found, else RDKit's own.

    Raises:
        DataError: if the atoms are periodic, the template has others, or no bonds fit the
            distances and the charge.
    """
    if np.any(atoms.pbc):
        raise DataError(
            "the Atoms are periodic, a molecule is not; unwrap it and set atoms.pbc = False"
        )
    if charge is None:
        stated = atoms.info.get("charge", atoms.get_initial_charges().sum())
        charge = round(float(stated))
    mol = molecule_from_coordinates(
        atoms.get_atomic_numbers(), atoms.get_positions(), charge=charge, template=template
    )
    if template is None and "smiles" in atoms.info:
        mol.SetProp("smiles", str(atoms.info["smiles"]))
        keep_smiles(mol)
    elif not mol.HasProp("smiles"):
        mol.SetProp("smiles", Chem.MolToSmiles(heavy_graph(mol)))
    return mol
