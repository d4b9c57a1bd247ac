"""Each check against geometries made to fail it, and it alone where that can be."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rdkit")

from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from scidiffusion.errors import DataError
from scidiffusion.molecules.chem.checks import Validity, validity
from scidiffusion.molecules.chem.figures import positions

CHECKS = ("finite", "intact", "bonds", "angles", "clash", "rings", "double", "stereo")


def relaxed(smiles: str, count: int = 1) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    ids = rdDistGeom.EmbedMultipleConfs(mol, count, randomSeed=3)
    assert len(ids) == count
    rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol)
    return mol


def with_places(mol: Chem.Mol, *places: np.ndarray) -> Chem.Mol:
    copy = Chem.Mol(mol)
    copy.RemoveAllConformers()
    for one in places:
        conformer = Chem.Conformer(mol.GetNumAtoms())
        conformer.SetPositions(np.ascontiguousarray(one, dtype=np.float64))
        copy.AddConformer(conformer, assignId=True)
    return copy


def moved(places: np.ndarray, atoms: list[int], shift: np.ndarray) -> np.ndarray:
    copy = places.copy()
    copy[atoms] += shift
    return copy


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def turned(places: np.ndarray, atoms: list[int], axis: tuple[int, int], degrees: float):
    """Places with some atoms turned about the line through two atoms (Rodrigues)."""
    origin = places[axis[0]]
    along = unit(places[axis[1]] - origin)
    angle = np.radians(degrees)
    arms = places[atoms] - origin
    copy = places.copy()
    copy[atoms] = origin + (
        arms * np.cos(angle)
        + np.cross(along, arms) * np.sin(angle)
        + np.outer(arms @ along, along) * (1 - np.cos(angle))
    )
    return copy


@pytest.mark.parametrize(
    "smiles",
    ["C", "O", "CC(=O)Oc1ccccc1C(=O)O", "C/C=C/Cl", "C[C@H](N)C(=O)O", "c1ccoc1", "CC(C)=C(C)C"],
)
def test_relaxed_molecules_pass_every_check(smiles):
    found = validity(relaxed(smiles, 3))
    for name in CHECKS:
        np.testing.assert_array_equal(getattr(found, name), np.ones(3, dtype=bool))
    assert found.ok.all()
    assert found.reasons(0) == []


def test_a_rigid_motion_changes_nothing():
    mol = relaxed("CC(=O)Oc1ccccc1C(=O)O")
    rotation, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))
    rotation[:, 0] *= np.sign(np.linalg.det(rotation))
    assert validity(with_places(mol, positions(mol)[0] @ rotation.T + 50.0)).ok.all()


def test_a_torn_bond_is_not_intact_and_too_long():
    mol = relaxed("CCO")
    places = positions(mol)[0]
    hydroxyl = [2, *(atom.GetIdx() for atom in mol.GetAtomWithIdx(2).GetNeighbors())]
    hydroxyl.remove(1)
    away = unit(places[2] - places[1])
    found = validity(with_places(mol, places, moved(places, hydroxyl, 1.5 * away)))
    np.testing.assert_array_equal(found.intact, [True, False])
    np.testing.assert_array_equal(found.bonds, [True, False])
    np.testing.assert_array_equal(found.ok, [True, False])
    assert {"intact", "bonds"} <= set(found.reasons(1))


@pytest.mark.parametrize(("stretch", "passes"), [(1.20, True), (1.35, False), (0.65, False)])
def test_bonds_may_leave_the_bounds_by_a_quarter(stretch, passes):
    mol = relaxed("CC")
    places = positions(mol)[0]
    half = [1, *(atom.GetIdx() for atom in mol.GetAtomWithIdx(1).GetNeighbors())]
    half.remove(0)
    bond = places[1] - places[0]
    found = validity(with_places(mol, moved(places, half, (stretch - 1) * bond)))
    assert found.bonds.tolist() == [passes]
    assert found.angles.all()
    assert found.clash.all()


def test_atoms_pressed_on_each_other_clash():
    mol = relaxed("CCCCCCCC")
    places = positions(mol)[0]
    found = validity(with_places(mol, places, moved(places, [7], places[0] + 0.5 - places[7])))
    np.testing.assert_array_equal(found.clash, [True, False])
    np.testing.assert_array_equal(found.intact, [True, False])


def test_a_closed_angle_fails_while_its_bonds_pass():
    mol = relaxed("COC")
    places = positions(mol)[0]
    group = [2, *(atom.GetIdx() for atom in mol.GetAtomWithIdx(2).GetNeighbors())]
    group.remove(1)
    normal = np.cross(places[0] - places[1], places[2] - places[1])
    axis = np.vstack([places, places[1] + normal])
    closed = turned(axis, group, (1, len(places)), -60.0)[:-1]
    before = np.linalg.norm(places[0] - places[2])
    assert np.linalg.norm(closed[0] - closed[2]) < 0.7 * before
    found = validity(with_places(mol, closed))
    assert found.bonds.all()
    assert not found.angles.any()


def test_an_aromatic_ring_bent_at_one_atom_is_not_flat():
    mol = relaxed("c1ccccc1")
    places = positions(mol)[0]
    normal = unit(np.cross(places[1] - places[0], places[2] - places[0]))
    found = validity(
        with_places(mol, *(moved(places, [0], lift * normal) for lift in (0.0, 0.4, 0.9)))
    )
    # One of six lifted by h leaves the best plane by at most h, and by half of it where it is
    # lifted: the plane follows.
    np.testing.assert_array_equal(found.rings, [True, True, False])


def test_a_ring_that_is_not_aromatic_may_pucker():
    mol = relaxed("C1CCCCC1")
    ring = positions(mol)[0][:6]
    centred = ring - ring.mean(0)
    assert np.abs(centred @ np.linalg.svd(centred)[2][2]).max() > 0.2
    assert validity(mol).rings.all()


@pytest.mark.parametrize(("degrees", "passes"), [(0.0, True), (90.0, False), (180.0, True)])
def test_a_twisted_double_bond_is_not_flat(degrees, passes):
    mol = relaxed("CC(C)=C(C)C")
    places = positions(mol)[0]
    side = [4, 5]
    side += [
        atom.GetIdx()
        for end in (4, 5)
        for atom in mol.GetAtomWithIdx(end).GetNeighbors()
        if atom.GetAtomicNum() == 1
    ]
    found = validity(with_places(mol, turned(places, side, (1, 3), degrees)))
    assert found.double.tolist() == [passes]


def test_a_mirror_image_has_other_stereo_and_is_fine_otherwise():
    mol = relaxed("C[C@H](N)C(=O)O")
    places = positions(mol)[0]
    found = validity(with_places(mol, places, places * [-1, 1, 1]))
    np.testing.assert_array_equal(found.stereo, [True, False])
    assert found.reasons(1) == ["stereo"]


def test_coordinates_that_are_no_numbers_fail_and_leave_the_others_alone():
    mol = relaxed("C[C@H](N)C(=O)O")
    places = positions(mol)[0]
    broken = places.copy()
    broken[2, 1] = np.nan
    endless = places.copy()
    endless[0] = np.inf
    found = validity(with_places(mol, places, broken, endless, places))
    np.testing.assert_array_equal(found.finite, [True, False, False, True])
    np.testing.assert_array_equal(found.stereo, [True, False, False, True])
    np.testing.assert_array_equal(found.ok, [True, False, False, True])


def test_conformers_are_judged_one_by_one():
    mol = relaxed("C[C@H](O)c1ccccc1", 3)
    rng = np.random.default_rng(0)
    places = [
        one + rng.normal(0, scale, one.shape)
        for one in positions(mol)
        for scale in (0.0, 0.1, 0.3, 0.6)
    ]
    together = validity(with_places(mol, *places))
    assert 0 < together.ok.sum() < len(places)
    for index, one in enumerate(places):
        alone = validity(with_places(mol, one))
        assert alone.reasons(0) == together.reasons(index)


def test_ok_is_all_of_them():
    for failed in CHECKS:
        flags = {name: np.array([name != failed, True]) for name in CHECKS}
        found = Validity(**flags)
        np.testing.assert_array_equal(found.ok, [False, True])
        assert found.reasons(0) == [failed]


def test_parts_far_from_each_other_are_no_broken_bond():
    mol = relaxed("CCO.O")
    part = list(Chem.GetMolFrags(mol)[1])
    places = positions(mol)[0]
    apart = moved(places, part, places[0] + [8.0, 0, 0] - places[part].mean(0))
    on_it = moved(places, part, places[0] - places[part].mean(0))
    np.testing.assert_array_equal(validity(with_places(mol, apart, on_it)).intact, [True, False])


def test_without_conformer_there_is_an_error():
    with pytest.raises(DataError, match="'CCO' has no conformer"):
        validity(Chem.AddHs(Chem.MolFromSmiles("CCO")))
