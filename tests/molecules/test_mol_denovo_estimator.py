"""`MoleculeDiffusion` as a user sees it: fit, sample, score, save, load, and what is refused."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

pytest.importorskip("rdkit")

from rdkit import Chem
from rdkit.Chem import rdDistGeom

from scidiffusion.core.rng import KeyedNoise
from scidiffusion.errors import (
    ConditionError,
    ConfigError,
    DataError,
    InputError,
    ModelFileError,
    ScidiffusionWarning,
)
from scidiffusion.molecules import MoleculeDiffusion
from scidiffusion.molecules.denovo.bank import MoleculeBank
from scidiffusion.molecules.denovo.generate import RowNoise, walk_grid

SMILES = ["CO", "CCO", "CC", "CCC", "C=C", "C=O", "CC=O", "N", "CN", "COC", "O", "C"]
SIZE = {"width": 16, "pair_width": 8, "vectors": 3, "triangles": 2, "layers": 2}


def embedded(smiles: str) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=3) == 0
    mol.SetProp("mass", str(sum(atom.GetMass() for atom in mol.GetAtoms())))
    return mol


@pytest.fixture(scope="module")
def molecules() -> list[Chem.Mol]:
    return [embedded(smiles) for smiles in SMILES]


def options(**changes: Any) -> dict[str, Any]:
    fixed = {"max_steps": 6, "bundle_pairs": 300, "random_state": 0, "progress": False}
    return {**SIZE, **fixed, "precision": "float32", "device": "cpu", **changes}


@pytest.fixture(scope="module")
def model(molecules: list[Chem.Mol]) -> MoleculeDiffusion:
    return MoleculeDiffusion(labels=["mass"], **options()).fit(molecules)


@pytest.fixture(scope="module")
def multinomial(molecules: list[Chem.Mol]) -> MoleculeDiffusion:
    return MoleculeDiffusion(types="multinomial", **options()).fit(molecules)


def places(mols: list[Chem.Mol]) -> list[np.ndarray]:
    return [mol.GetConformer().GetPositions() for mol in mols]


def drawn(model: MoleculeDiffusion, *arguments: Any, **options: Any) -> list[Chem.Mol]:
    """What is drawn first, valid or not: these models have learned next to nothing."""
    return model.sample(*arguments, valid_only=False, **options)


def atoms(mol: Chem.Mol) -> list[int]:
    return [atom.GetAtomicNum() for atom in mol.GetAtoms()]


@pytest.mark.parametrize("kind", ["model", "multinomial"])
def test_a_seed_gives_the_same_molecules_and_another_others(
    kind: str, request: pytest.FixtureRequest
) -> None:
    fitted = request.getfixturevalue(kind)
    first = drawn(fitted, 6, steps=4, random_state=5)
    again = drawn(fitted, 6, steps=4, random_state=5)
    other = drawn(fitted, 6, steps=4, random_state=6)
    assert [mol.GetNumConformers() for mol in first] == [1] * 6
    for one, two in zip(places(first), places(again), strict=True):
        np.testing.assert_array_equal(one, two)
    assert [atoms(mol) for mol in first] == [atoms(mol) for mol in again]
    assert any(
        one.shape != two.shape or np.abs(one - two).max() > 0.1
        for one, two in zip(places(first), places(other), strict=True)
    )
    for mol in first:
        assert set(mol.GetPropNames()) >= {"valid", "stable", "fragments"}


def test_a_molecule_does_not_depend_on_how_many_others_are_made(model: MoleculeDiffusion) -> None:
    few, many = (drawn(model, n, steps=4, random_state=1) for n in (3, 20))
    for one, two in zip(places(few), places(many), strict=False):
        np.testing.assert_allclose(one, two, atol=2e-4)


def test_calls_without_a_seed_differ(model: MoleculeDiffusion) -> None:
    first, second = (places(drawn(model, 1, {"atoms": 6}, steps=3)) for _ in range(2))
    assert np.abs(first[0] - second[0]).max() > 0.01


def test_sizes_are_those_of_the_training_molecules(
    model: MoleculeDiffusion, molecules: list[Chem.Mol]
) -> None:
    sizes = {mol.GetNumAtoms() for mol in molecules}
    made = {mol.GetNumAtoms() for mol in drawn(model, 60, steps=3, random_state=0)}
    assert made <= sizes
    assert len(made) > 3


def test_atoms_formula_and_labels_are_asked_for(model: MoleculeDiffusion) -> None:
    assert {m.GetNumAtoms() for m in drawn(model, 3, {"atoms": 9}, 3, random_state=0)} == {9}
    assert {m.GetNumAtoms() for m in drawn(model, 2, {"formula": "C2H6O"}, 3)} == {9}
    heavy = drawn(model, 8, {"mass": 46.07}, 3, random_state=0, guidance_scale=2.0)
    assert {mol.GetNumAtoms() for mol in heavy} == {9}


def test_guidance_changes_molecules_and_scale_one_is_none(model: MoleculeDiffusion) -> None:
    plain, one, two = (
        places(drawn(model, 1, {"mass": 46.07}, 4, random_state=0, guidance_scale=scale))
        for scale in (1.0, 1.0, 3.0)
    )
    np.testing.assert_array_equal(plain[0], one[0])
    assert np.abs(plain[0] - two[0]).max() > 1e-4


@pytest.mark.parametrize("kind", ["model", "multinomial"])
def test_a_scaffold_stays_where_it_is(kind: str, request: pytest.FixtureRequest) -> None:
    fitted = request.getfixturevalue(kind)
    core = Chem.RWMol(embedded("CC"))
    core.RemoveAtom(core.GetNumAtoms() - 1)
    moved = core.GetConformer().GetPositions() + np.array([3.0, -2.0, 5.0])
    for index, place in enumerate(moved):
        core.GetConformer().SetAtomPosition(index, place.tolist())
    for mol in drawn(fitted, 4, steps=5, random_state=0, scaffold=core):
        assert mol.GetNumAtoms() > len(moved)
        assert atoms(mol)[: len(moved)] == atoms(core)
        np.testing.assert_array_equal(mol.GetConformer().GetPositions()[: len(moved)], moved)


def test_a_scaffold_keeps_its_hand(model: MoleculeDiffusion) -> None:
    """Turns alone lay a scaffold onto what is made, and what is made onto the scaffold."""
    core = Chem.RWMol(embedded("CCO"))
    for _ in range(2):
        core.RemoveAtom(core.GetNumAtoms() - 1)
    (mol,) = drawn(model, 1, {"formula": "C2H6O"}, 5, random_state=0, scaffold=core)
    positions = mol.GetConformer().GetPositions()
    known = core.GetConformer().GetPositions()

    def volume(place: np.ndarray) -> float:
        return float(np.linalg.det(place[1:4] - place[0]))

    assert volume(positions) == pytest.approx(volume(known))


@pytest.mark.parametrize("kind", ["model", "multinomial"])
def test_scores_are_finite_invariant_and_by_molecule(
    kind: str, request: pytest.FixtureRequest, molecules: list[Chem.Mol]
) -> None:
    fitted = request.getfixturevalue(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = fitted.score_samples(molecules, steps=12)
    assert scores.shape == (len(molecules),)
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(scores, fitted.score_samples(molecules, steps=12))
    shifted = Chem.Mol(molecules[1])
    for index, place in enumerate(shifted.GetConformer().GetPositions() + 7.0):
        shifted.GetConformer().SetAtomPosition(index, place.tolist())
    moved = fitted.score_samples([molecules[0], shifted, *molecules[2:]], steps=12)
    np.testing.assert_allclose(moved, scores, rtol=1e-3, atol=1e-2)


def test_scores_fall_where_atoms_are_exchanged(model: MoleculeDiffusion) -> None:
    """Of two ways to place the same atoms, the bound tells them apart."""
    mol = embedded("CCO")
    X = {
        "numbers": np.tile(atoms(mol), 2),
        "positions": np.concatenate([places([mol])[0], places([mol])[0][::-1]]),
        "offsets": np.array([0, 9, 18]),
    }
    scores = model.score_samples(X, steps=10)
    assert abs(scores[0] - scores[1]) > 1e-3


def test_save_and_load_give_the_same_molecules(model: MoleculeDiffusion, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    loaded = MoleculeDiffusion.load(tmp_path / "model", device="cpu")
    asked = {"conditions": {"mass": 30.0}, "steps": 4, "random_state": 2}
    for one, two in zip(
        places(drawn(model, 3, **asked)),
        places(drawn(loaded, 3, **asked)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, two)
    assert loaded.labels_ == ("mass",)
    assert loaded.elements_.tolist() == [1, 6, 7, 8]
    (tmp_path / "model" / "weights.safetensors").write_bytes(b"0" * 100)
    with pytest.raises(ModelFileError):
        MoleculeDiffusion.load(tmp_path / "model")


def test_a_fit_can_be_resumed(molecules: list[Chem.Mol], tmp_path: Path) -> None:
    whole = MoleculeDiffusion(**options(max_steps=4)).fit(molecules, checkpoint_dir=tmp_path)
    again = MoleculeDiffusion(**options(max_steps=4)).fit(
        molecules, checkpoint_dir=tmp_path, resume=True
    )
    assert again.training_.steps == whole.training_.steps == 4
    for one, two in zip(whole.denoiser_.parameters(), again.denoiser_.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_fit_can_begin_with_the_weights_of_another(
    model: MoleculeDiffusion, molecules: list[Chem.Mol]
) -> None:
    tiny = options(max_steps=1, lr=1e-9)
    again = MoleculeDiffusion(labels=["mass"], **tiny).fit(molecules, start=model)
    pairs = zip(model.denoiser_.parameters(), again.denoiser_.parameters(), strict=True)
    assert max(float((one - two).abs().max().detach()) for one, two in pairs) < 1e-6
    with pytest.raises(ConfigError, match="start has a network"):
        MoleculeDiffusion(**tiny).fit(molecules, start=model)


def test_it_is_an_estimator_like_others() -> None:
    with pytest.raises(NotFittedError):
        MoleculeDiffusion().sample(1)
    assert clone(MoleculeDiffusion(layers=3)).get_params()["layers"] == 3


def marking(monkeypatch: pytest.MonkeyPatch, every: int) -> None:
    """Let one in `every` molecules drawn be valid, by the order in which they are drawn."""
    plain, number = MoleculeDiffusion._molecules, itertools.count()

    def marked(self: MoleculeDiffusion, *arguments: Any) -> list[Chem.Mol]:
        mols = plain(self, *arguments)
        for mol in mols:
            mol.SetBoolProp("valid", every > 0 and next(number) % every == 0)
            mol.SetBoolProp("stable", True)
        return mols

    monkeypatch.setattr(MoleculeDiffusion, "_molecules", marked)


def test_what_is_not_valid_is_drawn_again_alone(
    model: MoleculeDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    unasked = places(drawn(model, 4, {"atoms": 6}, 3, random_state=0))
    marking(monkeypatch, 2)
    # Draws 0 and 2 of four are valid; of the two open ones draw 4 is, then draw 6.
    made = model.sample(4, {"atoms": 6}, 3, random_state=0)
    assert all(mol.GetBoolProp("valid") for mol in made)
    assert {mol.GetNumAtoms() for mol in made} == {6}
    kept = [bool(np.array_equal(one, two)) for one, two in zip(places(made), unasked, strict=True)]
    assert kept == [True, False, True, False]


def test_what_never_is_valid_is_given_and_counted(
    model: MoleculeDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    marking(monkeypatch, 0)
    with pytest.warns(ScidiffusionWarning, match=r"^2 of 2 molecules were not valid in any of 8"):
        made = model.sample(2, {"atoms": 6}, 2, random_state=0)
    assert [mol.GetBoolProp("valid") for mol in made] == [False, False]


@pytest.mark.parametrize(
    ("error", "arguments", "message"),
    [
        (InputError, {"n": 0}, "n must be 1 or more molecules, got 0"),
        (InputError, {"n": -3}, "n must be 1 or more"),
        (InputError, {"n": 2.5}, "n must be 1 or more"),
        (ConfigError, {"steps": 0}, "steps must be an integer >= 1"),
        (ConfigError, {"sampler": "heun"}, "sampler must be one of ancestral, ddim"),
        (ConfigError, {"temperature": -1.0}, "temperature"),
        (ConfigError, {"random_state": -1}, "random_state"),
        (ConfigError, {"guidance_scale": 2.0}, "none was asked for; this model knows mass"),
        (ConfigError, {"guidance_scale": np.nan}, "finite"),
        (ConditionError, {"conditions": {"charge": 1}}, "no condition 'charge'"),
        (ConditionError, {"conditions": {"mass": 1e5}}, "outside what was learned"),
        (ConfigError, {"scaffold": Chem.MolFromSmiles("CC")}, "no coordinates"),
        (ConfigError, {"scaffold": embedded("CCl")}, "an atom of Cl, an element"),
        (ConfigError, {"scaffold": embedded("CCCCCC")}, "scaffold of 20 atoms is too big"),
    ],
)
def test_what_cannot_be_sampled_is_refused(
    model: MoleculeDiffusion, error: type[Exception], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(error, match=message):
        model.sample(**{"n": 1, "steps": 3, **arguments})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"types": "absorbing"}, "types must be one of 'gaussian', 'multinomial'"),
        ({"type_scale": 0.0}, "type_scale must be positive"),
        ({"layers": 0}, "layers must be an integer >= 1"),
        ({"condition_dropout": 1.0}, "condition_dropout"),
        ({"precision": "half"}, "precision"),
        ({"device": "tpu"}, "device"),
    ],
)
def test_options_out_of_range_are_refused(
    molecules: list[Chem.Mol], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        MoleculeDiffusion(**options(**changes)).fit(molecules)


def test_too_few_molecules_and_strange_elements_are_refused(
    model: MoleculeDiffusion, molecules: list[Chem.Mol]
) -> None:
    with pytest.raises(DataError, match="3 molecules are too few"):
        MoleculeDiffusion(**options()).fit(molecules[:3])
    with pytest.raises(DataError, match="molecule 0 has an atom of F"):
        model.score_samples([embedded("CF")])


def test_guidance_needs_a_model_that_has_seen_no_condition(molecules: list[Chem.Mol]) -> None:
    mass = [float(mol.GetNumAtoms()) for mol in molecules]
    fitted = MoleculeDiffusion(**options(condition_dropout=0.0)).fit(molecules, {"mass": mass})
    with pytest.raises(ConfigError, match="condition_dropout above 0"):
        fitted.sample(1, {"mass": mass[0]}, guidance_scale=2.0)


# -- parts ----------------------------------------------------------------------------------------


def test_the_grid_has_as_many_steps_as_asked_for() -> None:
    for steps in (1, 2, 3, 10, 50):
        grid = walk_grid(steps)
        assert len(grid) == steps + 1
        assert float(grid[0]) == 1.0
        assert float(grid[-1]) == 0.0
        assert bool((grid[1:] < grid[:-1]).all())


def test_noise_of_a_row_knows_neither_its_batch_nor_its_padding() -> None:
    noise = RowNoise(3, (7, 9), (2, 3), step=4)
    both = noise.normal(torch.zeros(2, 5, 3))
    alone = RowNoise(3, (9,), (3,), step=4).normal(torch.zeros(1, 3, 3))
    assert torch.equal(both[1, :3], alone[0])
    assert bool((both[0, 2:] == 0).all())
    many = RowNoise(0, tuple(range(400)), (20,) * 400).normal(torch.zeros(400, 20, 3))
    assert float(many.std()) == pytest.approx(1.0, abs=0.02)
    assert not torch.equal(noise.child("a").normal(torch.zeros(2, 3, 3)), both[:, :3])
    assert float(RowNoise(3, (7,), (5,), 0.5).normal(torch.ones(1, 5, 1)).abs().max()) > 0


def test_temperature_scales_the_walk_and_not_its_start() -> None:
    like = torch.zeros(1, 5, 3)
    warm, cold = (RowNoise(0, (0,), (5,), factor) for factor in (1.0, 0.5))
    torch.testing.assert_close(cold.at(1).normal(like), 0.5 * warm.at(1).normal(like))
    assert torch.equal(cold.child("prior").normal(like), warm.child("prior").normal(like))


def test_bundles_hold_molecules_of_like_size_within_the_pairs() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(2, 30, 400)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    total = int(offsets[-1])
    elements = np.array([1, 6])
    bank = MoleculeBank(
        elements[rng.integers(0, 2, total)],
        5 * rng.normal(size=(total, 3)),
        offsets,
        elements=elements,
        labels=np.zeros((400, 1)),
        pairs=3000,
    )
    allowed = torch.arange(0, 400, 2)
    for anchor in (0, 57, 199):
        bundle = bank.bundle(anchor, allowed, KeyedNoise(0))
        sizes = bundle.mask.sum(1)
        assert bundle.mask.numel() * bundle.mask.shape[1] <= 3000
        assert int(sizes[0]) == int(bank.counts[allowed[anchor]])
        assert int(sizes.max() - sizes.min()) <= 3
        assert float(bundle.positions.sum(1).abs().max()) < 1e-3
        assert torch.equal(bundle.composition.sum(1), sizes.float())
