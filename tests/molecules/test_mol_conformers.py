"""The whole way: SMILES in, conformers with energies out, with the weights of the package."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

pytest.importorskip("rdkit")

from rdkit import Chem

from scidiffusion.errors import (
    ConfigError,
    DataError,
    ModelFileError,
    ScidiffusionError,
    ScidiffusionWarning,
)
from scidiffusion.molecules import ConformerDiffusion, conformers, figures, rmsd_matrix, validity
from scidiffusion.molecules.chem.energies import boltzmann_weights
from scidiffusion.molecules.chem.figures import positions
from scidiffusion.molecules.conformer.front import WEIGHTS
from scidiffusion.molecules.conformer.generate import DISTINCT, preference
from scidiffusion.molecules.conformer.many import Job, conformers_of_many

ALANINE = "C[C@H](N)C(=O)O"


def test_conformers_have_what_was_promised():
    mol = conformers(ALANINE, n=6, seed=0)
    assert mol.GetNumConformers() == 6
    assert mol.GetNumAtoms() == 13
    assert mol.GetProp("smiles") == ALANINE
    known = figures(mol)
    energies = [one.energy for one in known]
    assert energies == sorted(energies)
    assert {one.method for one in known} == {"MMFF94"}
    np.testing.assert_allclose([one.weight for one in known], boltzmann_weights(energies))
    assert all(one.valid for one in known)
    assert validity(mol).ok.all()


def test_the_same_seed_gives_the_same_conformers_and_another_does_not():
    first, again, other = (conformers(ALANINE, n=4, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(positions(first), positions(again))
    assert np.abs(positions(first) - positions(other)).max() > 1e-3


@pytest.mark.parametrize("smiles", ["C[C@H](F)Cl", "C[C@@H](F)Cl", "C/C=C/Cl", "C/C=C\\Cl"])
def test_stereo_is_as_asked(smiles):
    mol = conformers(smiles, n=4, seed=1)
    for conformer in mol.GetConformers():
        seen = Chem.Mol(mol, confId=conformer.GetId())
        Chem.AssignStereochemistryFrom3D(seen)
        assert Chem.CanonSmiles(smiles) == Chem.MolToSmiles(Chem.RemoveHs(seen))


def test_open_stereo_is_fixed_once_and_said():
    with pytest.warns(ScidiffusionWarning, match="leaves stereo open"):
        mol = conformers("CC(F)Cl", n=5, seed=0)
    assert mol.GetProp("stereo_chosen")
    hands = set()
    for conformer in mol.GetConformers():
        seen = Chem.Mol(mol, confId=conformer.GetId())
        Chem.AssignStereochemistryFrom3D(seen)
        hands.add(Chem.MolToSmiles(Chem.RemoveHs(seen)))
    assert len(hands) == 1


def test_pruning_leaves_different_conformers():
    mol = conformers("CCCCCO", n=12, seed=0, prune=0.3)
    assert 2 <= mol.GetNumConformers() <= 12
    distances = rmsd_matrix(mol)
    assert distances[np.triu_indices(len(distances), 1)].min() >= 0.3


def test_a_core_stays_where_it_is():
    start = conformers("CCCCO", n=1, seed=0)
    core = {atom: positions(start)[0, atom] + 3.0 for atom in (0, 1, 2)}
    mol = conformers("CCCCO", n=4, seed=1, fixed_core=core)
    for atom, place in core.items():
        np.testing.assert_allclose(positions(mol)[:, atom], np.broadcast_to(place, (4, 3)))
    assert validity(mol).ok.all()


def test_distances_are_pulled_at():
    free = positions(conformers("OCCCCN", n=4, seed=0))
    pulled = positions(conformers("OCCCCN", n=4, seed=0, target_distances={(0, 5): 3.0}))

    def miss(places: np.ndarray) -> float:
        return float(np.abs(np.linalg.norm(places[:, 0] - places[:, 5], axis=-1) - 3.0).mean())

    assert miss(pulled) < 0.8 * miss(free)


def test_conformers_come_from_noise_alone_with_their_stereo():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScidiffusionWarning)
        mol = conformers(ALANINE, n=4, seed=0, start="noise")
    assert mol.GetNumConformers() >= 2
    assert validity(mol).ok.all()
    again = Chem.Mol(mol, confId=mol.GetConformers()[0].GetId())
    Chem.AssignStereochemistryFrom3D(again)
    assert Chem.MolToSmiles(Chem.RemoveHs(again)) == Chem.CanonSmiles(ALANINE)


def test_the_network_brings_geometries_closer_to_its_training_level():
    """Refinement changes bonds in one direction: C-H of GFN2 is longer than C-H of MMFF94."""
    from scidiffusion.molecules.chem.embedding import embed, relax_mmff
    from scidiffusion.molecules.chem.smiles import read_smiles

    start = embed(read_smiles("CCO"), 4, seed=1)
    relax_mmff(start)
    made = conformers("CCO", n=4, seed=1)

    def lengths(mol: Chem.Mol) -> np.ndarray:
        bonds = [
            (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())
            for bond in mol.GetBonds()
            if {bond.GetBeginAtom().GetSymbol(), bond.GetEndAtom().GetSymbol()} == {"O", "H"}
        ]
        first, last = np.array(bonds).T
        places = positions(mol)
        return np.linalg.norm(places[:, first] - places[:, last], axis=-1)

    # O-H of ethanol: .972 in MMFF94, .961 in GFN2-xTB.
    assert np.abs(lengths(made) - 0.961).mean() < np.abs(lengths(start) - 0.961).mean()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n must be 1 or more"),
        ({"start": "magic"}, "start must be"),
        ({"energy": "dft"}, "energy must be"),
        ({"oversample": 0}, "oversample must be"),
        ({"temperature": -1.0}, "temperature must be"),
        ({"time_limit": 0.0}, "time_limit must be"),
        ({"sampler": "nothing"}, "sampler must be"),
        ({"level": 100.0}, "level must be"),
        ({"fixed_core": {0: (0, 0, 0)}}, "three atoms"),
        ({"fixed_core": {0: (0, 0, 0), 1: (1, 0, 0), 99: (2, 1, 0)}}, "names atoms"),
        ({"fixed_core": {0: (0, 0, 0), 1: (1, 0, 0), 2: (2, np.nan, 0)}}, "finite coordinates"),
        ({"target_distances": {(0, 77): 2.0}}, "two different atoms"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ScidiffusionError, match=message):
        conformers("CCO", **{"n": 2, **options})


@pytest.mark.parametrize("text", ["", "C1CC", "CC(C)(C)(C)C", "[Na+].[Cl-]", "xyz", "*C"])
def test_wrong_molecules_are_named(text):
    with pytest.raises(DataError):
        conformers(text, n=2)


def test_preference_puts_distinct_low_starts_first():
    places = np.array([0.0, 0.05, 1.0, 2.0, 5.0])
    distances = np.abs(places[:, None] - places)
    energies = np.array([1.0, 0.0, 2.0, 3.0, 99.0])
    # 1 is lowest, 0 its twin, 4 too high.
    assert preference(distances, energies, 3) == [1, 2, 3, 0, 4]
    # Of three distinct ones the two most different.
    assert preference(distances, energies, 2) == [1, 3, 0, 2, 4]
    assert DISTINCT > 0.05
    # Without any energy the order stays.
    assert preference(distances, np.full(5, np.nan), 5)[0] == 0


def test_many_molecules_are_made_alone_and_failures_do_not_stop_the_others():
    jobs = [Job("CCO", "CCO", 2), Job("C1CC", "C1CC", 2), Job(ALANINE, ALANINE, 3)]
    made = list(conformers_of_many(jobs, seed=5))
    assert [one.molecule is None for one in made] == [False, True, False]
    assert "C1CC" in made[1].problem
    alone = conformers(ALANINE, n=3, seed=5)
    np.testing.assert_array_equal(positions(made[2].molecule), positions(alone))
    with pytest.raises(ConfigError, match="workers"):
        next(conformers_of_many(jobs, workers=0))
    with pytest.raises(ModelFileError, match="no model"):
        next(conformers_of_many(jobs, model="nowhere"))
    # Two processes give what one gives.
    for one, other in zip(made, conformers_of_many(jobs, seed=5, workers=2), strict=True):
        assert (one.smiles, one.problem, one.notes) == (other.smiles, other.problem, other.notes)
        if one.molecule is not None:
            np.testing.assert_array_equal(positions(one.molecule), positions(other.molecule))
            assert figures(one.molecule) == figures(other.molecule)


def ensembles(count: int = 12) -> list[Chem.Mol]:
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

    mols = []
    for index in range(count):
        mol = Chem.AddHs(Chem.MolFromSmiles("C" * (1 + index % 4) + ["O", "N", "F"][index % 3]))
        rdDistGeom.EmbedMultipleConfs(mol, 2, randomSeed=index + 1)
        rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol)
        mols.append(mol)
    return mols


def small(**options: object) -> ConformerDiffusion:
    sizes = {"width": 16, "pair_width": 8, "vectors": 4, "layers": 1, "bundle_pairs": 500}
    return ConformerDiffusion(
        **{"max_steps": 6, "random_state": 0, "progress": False, "precision": "float32"}
        | sizes
        | options
    )


def test_fit_save_and_load_give_the_same_conformers(tmp_path):
    model = small().fit(ensembles())
    assert model.training_.steps == 6
    model.save(tmp_path / "model")
    loaded = ConformerDiffusion.load(tmp_path / "model")
    with warnings.catch_warnings():
        # A barely trained network fails checks, which is said.
        warnings.simplefilter("ignore", ScidiffusionWarning)
        one, other = (m.sample("CCO", 3, random_state=1) for m in (model, loaded))
    np.testing.assert_array_equal(positions(one), positions(other))


def test_a_fit_may_begin_with_the_weights_of_another():
    first = small().fit(ensembles())
    torch.manual_seed(0)
    second = small(lr=1e-12).fit(ensembles(), start=first)
    before, after = first.denoiser_.state_dict(), second.denoiser_.state_dict()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=1e-6, rtol=0)
    with pytest.raises(ConfigError, match="start has a network"):
        small(width=8).fit(ensembles(), start=first)


def test_a_fit_resumes(tmp_path):
    whole = small(max_steps=8, validation_fraction=0.0).fit(ensembles())
    small(max_steps=8, validation_fraction=0.0).fit(ensembles(), checkpoint_dir=tmp_path)
    again = small(max_steps=8, validation_fraction=0.0).fit(
        ensembles(), checkpoint_dir=tmp_path, resume=True
    )
    for one, other in zip(whole.denoiser_.parameters(), again.denoiser_.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_what_cannot_be_learned_from_is_named():
    bare = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    with pytest.raises(DataError, match="molecule 0 has no conformers"):
        small().fit([bare])
    with pytest.raises(DataError, match="fitting needs 10"):
        small().fit(ensembles(3))
    with pytest.raises(DataError, match="molecule 0 is a str"):
        small().fit(["CCO"])
    with pytest.raises(ConfigError, match="precision"):
        small(precision="half").fit(ensembles())


def test_damaged_weights_are_refused(tmp_path):
    import shutil

    copy = tmp_path / "weights"
    shutil.copytree(WEIGHTS, copy)
    content = (copy / "weights.safetensors").read_bytes()
    (copy / "weights.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelFileError, match="truncated"):
        ConformerDiffusion.load(copy)


def test_the_weights_of_the_package_are_small():
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir()) < 6_000_000
