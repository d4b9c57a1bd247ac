"""What a fit reads, what is drawn of sizes and compositions, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rdkit")

from rdkit import Chem
from rdkit.Chem import rdDepictor, rdDistGeom

from scidiffusion.errors import ConditionError, ConfigError, DataError
from scidiffusion.molecules.denovo.population import Population, parse_formula
from scidiffusion.molecules.denovo.reading import read_clouds


def embedded(smiles: str, n: int = 1) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert len(rdDistGeom.EmbedMultipleConfs(mol, n, randomSeed=3)) == n
    return mol


def arrays() -> dict[str, np.ndarray]:
    """Water and methane, atoms in space."""
    mols = [embedded("O"), embedded("C")]
    numbers = [[atom.GetAtomicNum() for atom in mol.GetAtoms()] for mol in mols]
    return {
        "numbers": np.concatenate(numbers),
        "positions": np.concatenate([mol.GetConformer().GetPositions() for mol in mols]),
        "offsets": np.array([0, 3, 8]),
        "energy": np.array([1.5, -2.0]),
    }


def test_molecules_and_arrays_are_read_alike(tmp_path: Path) -> None:
    mols = [embedded("O"), embedded("C")]
    for mol, energy in zip(mols, (1.5, -2.0), strict=True):
        mol.SetProp("energy", str(energy))
    path = tmp_path / "two.npz"
    np.savez(path, **arrays())
    for given in (mols, arrays(), path):
        clouds = read_clouds(given, labels=["energy"])
        assert clouds.numbers.tolist() == [8, 1, 1, 6, 1, 1, 1, 1]
        assert clouds.offsets.tolist() == [0, 3, 8]
        np.testing.assert_allclose(clouds.positions, arrays()["positions"], atol=1e-12)
        assert clouds.labels.tolist() == [[1.5], [-2.0]]
        assert clouds.names == ("energy",)
    assert clouds.elements().tolist() == [1, 6, 8]
    assert clouds.composition(np.array([1, 6, 8])).tolist() == [[2, 0, 1], [4, 1, 0]]


def test_every_conformer_counts_with_the_label_of_its_molecule() -> None:
    mols = [embedded("O"), embedded("CCO", n=3)]
    clouds = read_clouds(mols, {"a": [1.0, 2.0], "b": [5.0, 6.0]})
    assert clouds.counts.tolist() == [3, 9, 9, 9]
    assert clouds.labels.tolist() == [[1, 5], [2, 6], [2, 6], [2, 6]]
    assert read_clouds(mols, [1.0, 2.0]).names == ("label",)


def spoilt(**changes: Any) -> dict[str, Any]:
    return {**arrays(), **changes}


def _without_hydrogens() -> Chem.Mol:
    return Chem.RemoveHs(embedded("CC"))


def _drawn() -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles("CC"))
    rdDepictor.Compute2DCoords(mol)
    return mol


@pytest.mark.parametrize(
    ("given", "y", "labels", "message"),
    [
        ([], None, (), "empty list"),
        (Chem.MolFromSmiles("C"), None, (), "give a list"),
        (["C"], None, (), "molecule 0 is a str"),
        ([embedded("C"), Chem.MolFromSmiles("C")], None, (), "molecule 1 has no coordinates"),
        ([_without_hydrogens()], None, (), "molecule 0 lacks hydrogens"),
        ([_drawn()], None, (), "drawing in 2D"),
        ([embedded("[He]")], None, (), "molecule 0 has 1 atom"),
        ([embedded("C")], None, ["gap"], "molecule 0 has no SD property 'gap'"),
        ({"numbers": [1, 1]}, None, (), "positions, offsets are missing"),
        (spoilt(numbers=np.ones(7, int)), None, (), "must be"),
        (spoilt(numbers=np.zeros(8, int)), None, (), "integers from 1 to 86"),
        (spoilt(offsets=np.array([0, 3])), None, (), "offsets must be integers that rise"),
        (spoilt(offsets=np.array([0, 1, 8])), None, (), "molecule 0 has 1 atom"),
        (spoilt(positions=np.full((8, 3), np.nan)), None, (), "molecule 0 has a position that is"),
        (spoilt(positions=np.zeros((8, 3))), None, (), "two atoms 0.00 Angstrom apart"),
        (arrays(), [1.0, np.nan], (), "NaN or infinite for 1 molecules, first for molecule 1"),
        (arrays(), [1.0], (), "there are 2 molecules"),
        (arrays(), ["a", "b"], (), "not an array of numbers"),
        (arrays(), np.ones((2, 3)), ["a", "b"], r"must be \(M, 2\)"),
        (arrays(), {"a": [1, 2]}, ["b"], "y has no label 'b'"),
        (arrays(), {"atoms": [1, 2]}, (), "cannot be called 'atoms'"),
        (arrays(), None, ["gap"], "no array 'gap'"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(
    given: Any, y: Any, labels: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_clouds(given, y, labels)


def test_a_file_that_is_no_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.npz"
    path.write_text("no")
    with pytest.raises(DataError, match=r"broken\.npz is not an npz file"):
        read_clouds(path)


def test_an_element_that_was_not_learned_is_named() -> None:
    with pytest.raises(DataError, match=r"molecule 1 has an atom of C,.*it knows H, O"):
        read_clouds(arrays()).composition(np.array([1, 8]))


# -- compositions ---------------------------------------------------------------------------------

ELEMENTS = np.array([1, 6, 8])


def population() -> Population:
    """H2O thrice, CH4 once, C2H6 twice; the label is ten times the number of atoms."""
    composition = np.array([[2, 0, 1]] * 3 + [[4, 1, 0]] + [[6, 2, 0]] * 2)
    return Population.of(ELEMENTS, composition, ["size"], 10.0 * composition.sum(1)[:, None])


def test_compositions_come_as_often_as_they_were_seen() -> None:
    plan = population().plan(6000, None, np.random.default_rng(0))
    seen = np.bincount(plan.composition.sum(1), minlength=9)
    np.testing.assert_allclose(seen[[3, 5, 8]] / 6000, [1 / 2, 1 / 6, 1 / 3], atol=0.02)
    assert np.isnan(plan.labels).all()


def test_a_label_draws_the_compositions_that_have_it() -> None:
    plan = population().plan(200, {"size": [30.0] * 100 + [80.0] * 100}, np.random.default_rng(0))
    assert set(plan.composition[:100].sum(1)) == {3}
    assert set(plan.composition[100:].sum(1)) == {8}
    # Standardised as in training.
    sizes = np.array([3, 3, 3, 5, 8, 8]) * 10.0
    np.testing.assert_allclose(plan.labels[0, 0], (30 - sizes.mean()) / sizes.std())


def test_atoms_and_formulas_are_kept() -> None:
    rng = np.random.default_rng(0)
    assert set(population().plan(20, {"atoms": 5}, rng).composition.sum(1)) == {5}
    plan = population().plan(2, {"formula": ["C2H6O", "CH4"]}, rng)
    assert plan.composition.tolist() == [[6, 2, 1], [4, 1, 0]]
    core = np.array([0, 2, 0])
    assert set(population().plan(20, None, rng, core).composition[:, 1]) == {2}


def test_the_probability_of_a_size_is_one_in_all() -> None:
    log_size = population().log_size(np.arange(1, 9))
    assert np.exp(log_size).sum() == pytest.approx(1.0)
    assert np.exp(log_size[2]) == pytest.approx(4 / 14)


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"mass": 3}, "no condition 'mass'; this model knows atoms, formula, size"),
        ({"size": 1e6}, "lies outside what was learned, from 30 to 80"),
        ({"size": np.nan}, "NaN or infinite"),
        ({"size": "big"}, "must be a number"),
        ({"size": [30.0, 30.0]}, "give one number, or 3"),
        ({"atoms": 4}, "no molecule of 4 atoms was learned from; they have from 3 to 8"),
        ({"atoms": 3, "formula": "H2O"}, "not both"),
        ({"formula": "CH3F"}, "has F, which the model has not seen; it knows H, C, O"),
        ({"formula": "methane"}, "is no formula"),
        ({"formula": "H"}, "has 1 atoms"),
        ({"formula": "C40H82"}, "has 122 atoms"),
        ({"formula": ["CH4"]}, "1 formulas for 3 molecules"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(conditions: dict, message: str) -> None:
    with pytest.raises(ConditionError, match=message):
        population().plan(3, conditions, np.random.default_rng(0))


def test_a_scaffold_that_fits_nothing_is_refused() -> None:
    rng = np.random.default_rng(0)
    for core in ([0, 3, 0], [6, 2, 0]):
        with pytest.raises(ConfigError, match="too big"):
            population().plan(1, None, rng, np.array(core))
    with pytest.raises(ConfigError, match="number of atoms asked for"):
        population().plan(1, {"atoms": 3}, rng, np.array([0, 2, 0]))
    with pytest.raises(ConfigError, match="formula asked for lacks"):
        population().plan(1, {"formula": "CH4"}, rng, np.array([0, 2, 0]))


def test_formulas_are_read() -> None:
    assert parse_formula("C12H22O11", ELEMENTS).tolist() == [22, 12, 11]
    assert parse_formula("HOH", ELEMENTS).tolist() == [2, 0, 1]
