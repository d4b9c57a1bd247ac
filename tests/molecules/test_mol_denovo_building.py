"""Bonds from distances, and molecules from atoms in space."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("rdkit")

from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from scidiffusion.errors import DataError
from scidiffusion.molecules.denovo import to_molecules
from scidiffusion.molecules.denovo.bonds import bond_orders, stable_atoms

SMILES = ["CC#N", "C=CCO", "c1ccccc1O", "CC(=O)N", "C1CC1", "CSC"]


def embedded(smiles: str) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=7) == 0
    rdForceFieldHelpers.MMFFOptimizeMolecule(mol, maxIters=2000)
    return mol


def cloud(mol: Chem.Mol) -> tuple[np.ndarray, np.ndarray]:
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    return numbers, mol.GetConformer().GetPositions()


def pair(first: int, last: int, distance: float) -> int:
    numbers = torch.tensor([first, last])
    return int(bond_orders(numbers, torch.tensor([[0.0, 0, 0], [0, 0, distance]]))[0, 1])


def test_orders_change_at_the_lengths_of_the_tables() -> None:
    # Carbon: 154 + 10, 134 + 5 and 120 + 3 pm.
    lengths = [1.641, 1.639, 1.391, 1.389, 1.231, 1.229]
    assert [pair(6, 6, length) for length in lengths] == [0, 1, 1, 2, 2, 3]
    # Hydrogen has single bonds alone; silicon and oxygen have no double bond in the table.
    assert [pair(1, 6, length) for length in (1.191, 1.189, 0.7)] == [0, 1, 1]
    assert pair(8, 14, 1.4) == 1
    assert pair(6, 8, 1.2) == pair(8, 6, 1.2) == 2


def test_a_pair_without_an_entry_goes_by_its_covalent_radii() -> None:
    radii = sum(Chem.GetPeriodicTable().GetRcovalent(number) for number in (5, 34))
    assert pair(5, 34, radii + 0.09) == 1
    assert pair(5, 34, radii + 0.11) == 0


@pytest.mark.parametrize("smiles", SMILES)
def test_relaxed_molecules_have_the_orders_of_their_graph(smiles: str) -> None:
    mol = embedded(smiles)
    numbers, positions = (torch.from_numpy(value) for value in cloud(mol))
    orders = bond_orders(numbers, positions)
    assert torch.equal(orders, orders.T)
    bonded = torch.from_numpy(Chem.GetAdjacencyMatrix(mol)) > 0
    assert torch.equal(orders > 0, bonded)
    if "c1" not in smiles:
        kekule = torch.from_numpy(Chem.GetAdjacencyMatrix(mol, useBO=True)).long()
        assert torch.equal(orders, kekule)
        assert bool(stable_atoms(numbers, orders).all())


def test_an_atom_with_a_bond_too_few_is_not_stable_and_padding_is() -> None:
    numbers, positions = cloud(embedded("CCO"))
    kept = torch.from_numpy(numbers[:-1]), torch.from_numpy(positions[:-1])
    stable = stable_atoms(kept[0], bond_orders(*kept))
    assert int((~stable).sum()) == 1
    assert int(kept[0][~stable]) == 8
    padded = torch.nn.functional.pad(kept[0], (0, 1))
    orders = bond_orders(padded, torch.nn.functional.pad(kept[1], (0, 0, 0, 1), value=50.0))
    assert bool(stable_atoms(padded, orders)[-1])


@pytest.mark.parametrize("smiles", SMILES)
def test_atoms_in_space_become_the_molecule_they_were(smiles: str) -> None:
    mol = embedded(smiles)
    numbers, positions = cloud(mol)
    order = np.random.default_rng(0).permutation(len(numbers))
    (made,) = to_molecules([numbers[order]], [positions[order]])
    assert Chem.MolToSmiles(Chem.RemoveHs(made)) == Chem.CanonSmiles(smiles)
    assert made.GetBoolProp("valid")
    assert made.GetIntProp("fragments") == 1
    np.testing.assert_array_equal(made.GetConformer().GetPositions(), positions[order])


def test_what_is_not_a_molecule_is_marked_and_drawn(capfd: pytest.CaptureFixture[str]) -> None:
    numbers, positions = cloud(embedded("CC#N"))
    far = np.concatenate([positions, positions + 20.0])
    crowded = positions * 0.6
    radical = positions[:-1]
    pieces, dense, open_shell = to_molecules(
        [np.concatenate([numbers, numbers]), numbers, numbers[:-1]], [far, crowded, radical]
    )
    assert not pieces.GetBoolProp("valid")
    assert pieces.GetIntProp("fragments") == 2
    assert pieces.GetBoolProp("stable")
    for mol in (dense, open_shell):
        assert not mol.GetBoolProp("valid")
        assert not mol.GetBoolProp("stable")
        assert mol.GetNumBonds() >= 4
        assert Chem.MolToMolBlock(mol, kekulize=False)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("numbers", "positions", "message"),
    [
        ([[1, 1]], [[[0, 0, 0]]], "shape"),
        ([[1, 1]], [[[0, 0, 0], [0, 0, np.nan]]], "molecule 0 has a position that is NaN"),
        ([[1, 0]], [[[0, 0, 0], [0, 0, 1]]], "atomic number"),
        ([[1, 1]], [], "lists"),
    ],
)
def test_what_cannot_be_atoms_is_refused(numbers: list, positions: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        to_molecules(numbers, positions)
