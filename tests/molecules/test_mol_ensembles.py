"""RMSD against RDKit's own, rigid motions, choices, and the figures conformers carry."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rdkit")

from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdMolAlign

from scidiffusion.errors import ConfigError, DataError
from scidiffusion.molecules.chem.ensembles import (
    align,
    farthest_points,
    kabsch,
    keep,
    prune,
    rigid_core,
    rmsd_matrix,
)
from scidiffusion.molecules.chem.figures import (
    Figures,
    figures,
    heavy_graph,
    positions,
    set_figures,
)


def embedded(smiles: str, count: int = 6, seed: int = 7) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    mol.SetProp("smiles", smiles)
    ids = rdDistGeom.EmbedMultipleConfs(mol, count, randomSeed=seed)
    assert len(ids) == count
    return mol


def rotations(count: int, seed: int = 0) -> np.ndarray:
    matrices, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((count, 3, 3)))
    matrices[:, 0] *= np.sign(np.linalg.det(matrices))[:, None]
    return matrices


def by_rdkit(mol: Chem.Mol, other: Chem.Mol, max_matches: int = 1000) -> np.ndarray:
    return np.array(
        [
            [
                rdMolAlign.GetBestRMS(Chem.Mol(a), b, i, j, maxMatches=max_matches)
                for j in range(b.GetNumConformers())
            ]
            for a, b in [(mol, other)]
            for i in range(a.GetNumConformers())
        ]
    )


SYMMETRIC = [
    "CC(=O)Oc1ccccc1C(=O)O",  # a flipped ring, a conjugated end
    "O=C([O-])CCC([NH3+])C(=O)[O-]",  # ends that differ in charge alone
    "NC(=N)NCC[N+](=O)[O-]",
    "FC(F)(F)C(F)(F)C(F)(F)F",  # 72 renumberings that matter
    "C1CCCCC1",
    "C#CC#C",  # collinear atoms: the largest root of the quartic is double
    "c1ccccc1",  # planar
    "CO",  # two atoms
    "C",  # one atom
    "[Na+].[Cl-]",
]


@pytest.mark.parametrize("smiles", SYMMETRIC)
def test_rmsd_is_that_of_rdkit(smiles):
    mol = embedded(smiles)
    mol.AddConformer(Chem.Conformer(mol.GetConformer(2)), assignId=True)
    heavy = heavy_graph(mol)
    expected = by_rdkit(heavy, heavy)
    found = rmsd_matrix(mol)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_array_equal(found, found.T)
    assert found[2, -1] < 1e-4
    if heavy.GetNumAtoms() > 4 and smiles not in ("c1ccccc1", "C1CCCCC1"):
        assert expected.max() > 0.1


def test_with_hydrogen_it_is_that_of_rdkit():
    mol = embedded("CC(O)C=O")
    np.testing.assert_allclose(rmsd_matrix(mol, heavy=False), by_rdkit(mol, mol), atol=1e-4)
    assert (rmsd_matrix(mol, heavy=False) >= rmsd_matrix(mol) - 1e-9).sum() > 30


def test_the_other_molecule_may_number_its_atoms_otherwise():
    mol, other = embedded("CC(=O)NCc1ccccc1O", 4), embedded("CC(=O)NCc1ccccc1O", 5, seed=8)
    expected = rmsd_matrix(mol, other)
    assert expected.shape == (4, 5)
    order = np.random.default_rng(3).permutation(other.GetNumAtoms()).tolist()
    shuffled = Chem.RenumberAtoms(other, order)
    np.testing.assert_allclose(rmsd_matrix(mol, shuffled), expected, atol=1e-9)
    np.testing.assert_allclose(rmsd_matrix(shuffled, mol), expected.T, atol=1e-9)


def test_rigid_motions_do_not_count_and_mirror_images_do():
    mol = embedded("CC(F)(Cl)C(=O)O", 1)
    points = positions(mol)[0]
    turned, mirrored = Chem.Conformer(mol.GetConformer()), Chem.Conformer(mol.GetConformer())
    turned.SetPositions(points @ rotations(1)[0].T + [3.0, -8.0, 1.0])
    mirrored.SetPositions(np.ascontiguousarray(points * [1, 1, -1]))
    mol.AddConformer(turned, assignId=True)
    mol.AddConformer(mirrored, assignId=True)
    found = rmsd_matrix(mol)
    assert found[0, 1] < 1e-6
    assert found[0, 2] > 0.3


def test_fewer_renumberings_give_an_upper_bound():
    mol = embedded("CC(C)(C)c1cc(C(C)(C)C)cc(C(C)(C)C)c1", 4)
    full, few = rmsd_matrix(mol, max_matches=2000), rmsd_matrix(mol, max_matches=20)
    assert (few >= full - 1e-9).all()
    assert (few > full + 1e-3).any()
    np.testing.assert_allclose(full, by_rdkit(*[heavy_graph(mol)] * 2, 2000), atol=1e-4)


def test_rmsd_refuses_what_cannot_be_compared():
    with pytest.raises(DataError, match="different molecules"):
        rmsd_matrix(embedded("CCO", 1), embedded("CCN", 1))
    with pytest.raises(DataError, match="different molecules"):
        rmsd_matrix(embedded("CCO", 1), embedded("CCCO", 1))
    with pytest.raises(DataError, match="'CCO' has no conformer"):
        rmsd_matrix(Chem.MolFromSmiles("CCO"))
    with pytest.raises(ConfigError, match="max_matches"):
        rmsd_matrix(embedded("CCO", 1), max_matches=0)


def test_kabsch_finds_the_motion_again():
    generator = np.random.default_rng(1)
    points = generator.standard_normal((20, 7, 3))
    turns, shifts = rotations(20), generator.standard_normal((20, 3))
    target = points @ turns.swapaxes(1, 2) + shifts[:, None]
    rotation, translation = kabsch(points, target)
    np.testing.assert_allclose(rotation, turns, atol=1e-10)
    np.testing.assert_allclose(translation, shifts, atol=1e-10)
    one = kabsch(points[0], target[0])
    np.testing.assert_allclose(one[0], turns[0], atol=1e-10)
    assert one[1].shape == (3,)


@pytest.mark.parametrize("flat", [False, True])
def test_kabsch_is_the_best_proper_rotation(flat):
    generator = np.random.default_rng(2)
    points, target = generator.standard_normal((2, 5, 6, 3))
    if flat:
        points[..., 2] = 0.0
    mirror = points * [1, 1, -1]
    weights = generator.random(6)
    for moving in (points, mirror):
        rotation, translation = kabsch(moving, target, weights)
        np.testing.assert_allclose(np.linalg.det(rotation), 1.0, atol=1e-10)

        def loss(turns, moving=moving):
            centre = (weights[:, None] * (moving, target)).sum(-2, keepdims=True) / weights.sum()
            moved = (moving - centre[0]) @ turns.swapaxes(-1, -2) - (target - centre[1])
            return (weights * np.square(moved).sum(-1)).sum(-1)

        best = loss(rotation)
        gone = moving @ rotation.swapaxes(1, 2) + translation[:, None] - target
        np.testing.assert_allclose(best, (weights * np.square(gone).sum(-1)).sum(-1))
        for turn in rotations(300, seed=5):
            assert (loss(turn) >= best - 1e-10).all()


def test_kabsch_weights_of_zero_leave_points_out():
    generator = np.random.default_rng(4)
    points, target = generator.standard_normal((2, 3, 8, 3))
    weights = np.r_[np.ones(5), np.zeros(3)]
    whole, part = kabsch(points, target, weights), kabsch(points[:, :5], target[:, :5])
    np.testing.assert_allclose(whole[0], part[0], atol=1e-10)
    np.testing.assert_allclose(whole[1], part[1], atol=1e-10)
    with pytest.raises(DataError, match="weights"):
        kabsch(points, target, np.zeros(8))
    with pytest.raises(DataError, match="points, got"):
        kabsch(points, target[:, :4])


def test_align_moves_rigidly_and_lays_the_core_on_the_first():
    mol = embedded("CCCc1ccccc1", 5)
    set_figures(mol, weights=np.full(5, 0.2))
    core = rigid_core(mol)
    assert len(core) == 6
    before, moved = positions(mol), align(mol, core)
    after = positions(moved)
    for old, new in zip(before, after, strict=True):
        apart = [np.linalg.norm(x[:, None] - x[None], axis=-1) for x in (old, new)]
        np.testing.assert_allclose(*apart, atol=1e-9)
        np.testing.assert_allclose(new[core], after[0][core], atol=0.1)
    # The ring of the first lies in the plane of the picture.
    assert np.abs(after[0][core][:, 2]).max() < 0.05
    # A proper motion: the handedness of four atoms is kept.
    volumes = [np.linalg.det(x[:, 1:4] - x[:, :1]) for x in (before, after)]
    np.testing.assert_allclose(*volumes, atol=1e-8)
    assert figures(moved) == figures(mol)
    with pytest.raises(DataError, match="numbered from 0 to 20"):
        align(mol, [99])


def test_rigid_core_joins_fused_rings_but_not_spiro_ones():
    naphthalene_and_ring = Chem.MolFromSmiles("c1ccc2ccccc2c1CC1CCCCC1")
    assert len(rigid_core(naphthalene_and_ring)) == 10
    assert len(rigid_core(Chem.MolFromSmiles("C1CCCC12CCCC2"))) == 5
    assert len(rigid_core(Chem.MolFromSmiles("c1ccc2cc3ccccc3cc2c1"))) == 14
    assert rigid_core(Chem.MolFromSmiles("CCCC")) is None


def test_farthest_points_of_a_line():
    places = np.array([0.0, 1.0, 2.0, 9.0, 10.0])
    distances = np.abs(places[:, None] - places)
    assert farthest_points(distances, 3) == [0, 4, 2]
    assert farthest_points(distances, 2, first=2) == [2, 4]
    assert sorted(farthest_points(distances, 99)) == [0, 1, 2, 3, 4]
    assert sorted(farthest_points(np.zeros((3, 3)), 3)) == [0, 1, 2]
    with pytest.raises(ConfigError, match="n must be 1 or more"):
        farthest_points(distances, 0)
    with pytest.raises(ConfigError, match="first"):
        farthest_points(distances, 1, first=5)
    with pytest.raises(DataError, match="square"):
        farthest_points(distances[:2], 1)
    with pytest.raises(DataError, match="finite"):
        farthest_points(np.full((2, 2), np.nan), 1)


def test_prune_keeps_the_lowest_of_each_kind():
    mol = embedded("CCCO", 5)
    distances = np.array(
        [
            [0.0, 0.1, 2.0, 2.0, 2.0],
            [0.1, 0.0, 2.0, 2.0, 2.0],
            [2.0, 2.0, 0.0, 0.1, 2.0],
            [2.0, 2.0, 0.1, 0.0, 2.0],
            [2.0, 2.0, 2.0, 2.0, 0.0],
        ]
    )
    energies = [5.0, 4.0, 1.0, 2.0, np.nan]
    assert prune(mol, 0.5, energies, rmsd=distances) == [2, 1, 4]
    set_figures(mol, energies=energies, method="MMFF94")
    assert prune(mol, 0.5, rmsd=distances) == [2, 1, 4]
    assert prune(mol, 0.0, energies, rmsd=distances) == [2, 3, 1, 0, 4]
    kept = keep(mol, [4, 2])
    assert [c.GetId() for c in kept.GetConformers()] == [0, 1]
    np.testing.assert_array_equal(positions(kept), positions(mol)[[4, 2]])
    assert figures(kept)[1].energy == 1.0
    assert prune(kept, 0.5, energies=[0.0, 1.0], rmsd=distances[:2, 2:4]) == [0, 1]
    with pytest.raises(ConfigError, match="threshold"):
        prune(mol, -1.0)
    with pytest.raises(DataError, match="5 conformers"):
        prune(mol, 1.0, energies=[1.0])
    with pytest.raises(DataError, match="no conformer with id 7"):
        keep(mol, [7])


def test_pruned_conformers_differ_and_cover_all():
    mol = embedded("CCCCCO", 30)
    distances = rmsd_matrix(mol)
    kept = prune(mol, 0.5)
    assert 1 < len(kept) < 30
    among = distances[np.ix_(kept, kept)] + 9 * np.eye(len(kept))
    assert among.min() >= 0.5
    assert distances[kept].min(0).max() < 0.5


def test_figures_survive_copies_and_the_loss_of_hydrogen():
    mol = embedded("CCO", 2)
    assert figures(mol) == [Figures(), Figures()]
    set_figures(
        mol, energies=[1.5, 2.5], method="UFF", weights=[0.9, 0.1], valid=np.array([True, False])
    )
    expected = [Figures(1.5, "UFF", 0.9, True), Figures(2.5, "UFF", 0.1, False)]
    for version in (mol, Chem.Mol(mol), Chem.RemoveHs(mol), heavy_graph(mol)):
        assert figures(version) == expected
    with pytest.raises(ConfigError, match="belong together"):
        set_figures(mol, energies=[1.0, 2.0])
    with pytest.raises(DataError, match="2 values"):
        set_figures(mol, weights=[1.0])
