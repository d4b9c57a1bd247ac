"""The generator of training data: what it draws, its optimiser, its shards and its resumption."""

from __future__ import annotations

import importlib
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rdkit")
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from scidiffusion.errors import ConfigError, DataError, InputError
from scidiffusion.molecules.chem.checks import intact
from scidiffusion.molecules.chem.embedding import embed, relax_mmff
from scidiffusion.molecules.chem.energies import KCAL_PER_HARTREE, gfn2_energies
from scidiffusion.molecules.chem.ensembles import with_places
from scidiffusion.molecules.chem.figures import positions
from scidiffusion.molecules.chem.handedness import stereo_kept
from scidiffusion.molecules.chem.smiles import read_smiles
from scidiffusion.molecules.conformer.conversion import pairs_of, pairs_of_many
from scidiffusion.molecules.conformer.estimator import ConformerDiffusion
from scidiffusion.molecules.conformer.front import WEIGHTS
from scidiffusion.molecules.conformer.pairs import (
    ConformerPairs,
    heavy_rmsd,
    load_ensembles,
    read_notes,
    stereo_smiles,
    template,
    write_shard,
)

FOLDER = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def modules(monkeypatch):
    """Import a script or helper of tools/ by name."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


def embedded(smiles, count=1, *, relax=True):
    mol = template(smiles)
    assert len(rdDistGeom.EmbedMultipleConfs(mol, count, randomSeed=7)) == count
    if relax:
        rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol, maxIters=2000)
    return mol


def made_pairs(smiles, count=3):
    mol = embedded(smiles, count)
    places = np.array([one.GetPositions() for one in mol.GetConformers()])
    mol.RemoveAllConformers()
    moved = places + 0.05 * np.random.default_rng(0).normal(size=places.shape)
    return ConformerPairs(
        mol, places.astype(np.float32), moved.astype(np.float32), np.arange(count, dtype=float)
    )


class TestMolecules:
    def test_the_seed_decides(self, modules):
        source = modules("_molecule_source").MoleculeSource

        def some(seed):
            return list(itertools.islice(source(seed), 30))

        assert some(1) == some(1)
        assert len(set(some(1)) & set(some(2))) < 10

    def test_they_are_distinct_and_of_the_sizes_asked_for(self, modules):
        source = modules("_molecule_source")
        some = list(itertools.islice(source.MoleculeSource(3, ((8, 12, 1.0),)), 60))
        sizes = [Chem.MolFromSmiles(text).GetNumHeavyAtoms() for text in some]
        assert min(sizes) >= 7
        assert max(sizes) <= 13
        assert len({source.flat(text) for text in some}) == 60
        assert all(text == Chem.CanonSmiles(text) for text in some)

    def test_they_are_diverse(self, modules):
        source = modules("_molecule_source")
        mols = [Chem.MolFromSmiles(t) for t in itertools.islice(source.MoleculeSource(0), 150)]
        elements = {atom.GetSymbol() for mol in mols for atom in mol.GetAtoms()}
        assert {"C", "N", "O", "S", "F"} <= elements
        for smarts in ("[r3]", "[r4]", "c", "C#C", "C(=O)N", "[C;R2]"):
            assert any(mol.HasSubstructMatch(Chem.MolFromSmarts(smarts)) for mol in mols), smarts
        assert any("@" in Chem.MolToSmiles(mol) for mol in mols)
        assert any("/" in Chem.MolToSmiles(mol) for mol in mols)

    def test_excluded_ones_are_never_made_whatever_their_stereo(self, modules):
        source = modules("_molecule_source")
        first = list(itertools.islice(source.MoleculeSource(4), 40))
        exclude = frozenset(source.flat(text) for text in first[::2])
        second = list(itertools.islice(source.MoleculeSource(4, exclude=exclude), 20))
        assert second == first[1::2]

    def test_every_part_and_rule_is_chemistry(self, modules):
        source = modules("_molecule_source")
        for text in (*source.RINGS, *source.LINKERS, *source.ENDS):
            assert Chem.MolFromSmiles(text) is not None, text
        for text in source.FORBIDDEN:
            assert Chem.MolFromSmarts(text) is not None, text

    @pytest.mark.parametrize("smiles", ["COOC", "C1=CC2CC1=C2", "OC(O)CC", "CC1=CO1", "C1#CCCC1"])
    def test_nonsense_is_filtered(self, modules, smiles):
        assert not modules("_molecule_source").sensible(Chem.MolFromSmiles(smiles))

    @pytest.mark.parametrize(
        "smiles",
        [
            "CC(=O)Oc1ccccc1C(=O)O",
            "Cn1cnc2c1c(=O)n(C)c(=O)n2C",
            "CC(C)Cc1ccc(C(C)C(=O)O)cc1",
            "CC(=O)Nc1ccc(O)cc1",
            "CCN(CC)CC(=O)Nc1c(C)cccc1C",
            "NS(=O)(=O)c1ccc(Cl)cc1",
            "C1CC1C#CC1CO1",
        ],
    )
    def test_real_molecules_pass(self, modules, smiles):
        assert modules("_molecule_source").sensible(Chem.MolFromSmiles(smiles))


class TestOptimiser:
    def test_the_minimum_is_found_below_the_start(self, modules):
        pytest.importorskip("tblite")
        mol = embedded("C[C@H](N)C(=O)O")
        energy, places = modules("_gfn2_optimiser").relax(mol)
        start = gfn2_energies(mol)[0] / KCAL_PER_HARTREE
        end = gfn2_energies(with_places(mol, places))[0] / KCAL_PER_HARTREE
        assert end == pytest.approx(energy, abs=1e-6)
        assert end < start
        assert intact(with_places(mol, places)).all()

    @pytest.mark.skipif(shutil.which("xtb") is None, reason="the program xtb is not installed")
    def test_engines_agree(self, modules):
        pytest.importorskip("tblite")
        relax = modules("_gfn2_optimiser").relax
        mol = embedded("CC(=O)NC")
        ours, theirs = relax(mol, "tblite"), relax(mol, "xtb")
        assert ours[0] == pytest.approx(theirs[0], abs=5e-5)
        assert heavy_rmsd(mol, ours[1], theirs[1]) < 0.1


class TestShards:
    def test_what_is_written_is_read(self, tmp_path):
        given = [made_pairs("C[C@H](F)C(=O)O"), made_pairs("C/C=C/F", 2)]
        write_shard(tmp_path / "0.npz", given, notes={"done": [3]})
        read = load_ensembles(tmp_path)
        assert len(read) == 2
        for one, other in zip(given, read, strict=True):
            assert Chem.MolToSmiles(one.mol) == Chem.MolToSmiles(other.mol)
            np.testing.assert_array_equal(one.start, other.start)
            np.testing.assert_array_equal(one.minimum, other.minimum)
            np.testing.assert_array_equal(one.energies, other.energies)
            assert stereo_smiles(with_places(other.mol, other.start[0])) == Chem.MolToSmiles(
                Chem.RemoveHs(other.mol)
            )
        assert read_notes(tmp_path / "0.npz") == {"done": [3]}

    def test_atoms_are_renumbered_with_their_positions(self, tmp_path):
        pairs = made_pairs("C[C@H](F)C=O")
        order = list(range(pairs.mol.GetNumAtoms()))[::-1]
        turned = ConformerPairs(
            Chem.RenumberAtoms(pairs.mol, order),
            pairs.start[:, order],
            pairs.minimum[:, order],
            pairs.energies,
        )
        write_shard(tmp_path / "0.npz", [turned])
        (read,) = load_ensembles(tmp_path)
        assert Chem.MolToSmiles(read.mol) == Chem.MolToSmiles(pairs.mol)
        for start, given in zip(read.start, pairs.start, strict=True):
            assert heavy_rmsd(read.mol, start, given) < 1e-5
            assert intact(with_places(read.mol, start)).all()

    def test_arrays_that_do_not_fit_are_refused(self, tmp_path):
        pairs = made_pairs("CCO")
        wrong = ConformerPairs(pairs.mol, pairs.start[:, :-1], pairs.minimum, pairs.energies)
        with pytest.raises(InputError, match="not of shape"):
            write_shard(tmp_path / "0.npz", [wrong])

    def test_half_a_file_is_an_error_and_a_leftover_none(self, tmp_path):
        write_shard(tmp_path / "0.npz", [made_pairs("CCO")])
        content = (tmp_path / "0.npz").read_bytes()
        (tmp_path / ".1.abcd.npz").write_bytes(content[:100])
        assert len(load_ensembles(tmp_path)) == 1
        (tmp_path / "1.npz").write_bytes(content[: len(content) // 2])
        with pytest.raises(DataError, match=r"1\.npz is damaged"):
            load_ensembles(tmp_path)

    def test_an_empty_folder_is_an_error(self, tmp_path):
        with pytest.raises(DataError, match="holds no shards"):
            load_ensembles(tmp_path)


class TestFromMinima:
    def test_minima_of_the_force_field_are_their_own_starts(self):
        mol = embed(read_smiles("C[C@H](N)C(=O)O"), 4, seed=0)
        relax_mmff(mol, 2000)
        pairs = pairs_of(mol)
        assert pairs is not None
        assert 1 <= len(pairs) <= 4
        for start, minimum in zip(pairs.start, pairs.minimum, strict=True):
            assert heavy_rmsd(pairs.mol, start, minimum) < 0.02
            assert intact(with_places(pairs.mol, start)).all()
        assert stereo_kept(with_places(pairs.mol, pairs.start)).all()
        assert np.isnan(pairs.energies).all()

    def test_any_numbering_will_do(self):
        mol = embed(read_smiles("OCC"), 3, seed=0)
        relax_mmff(mol, 2000)
        shuffled = Chem.RenumberAtoms(mol, [8, 7, 6, 5, 4, 3, 2, 1, 0])
        (pairs,) = pairs_of_many([shuffled])
        assert len(pairs) == 3
        assert intact(with_places(pairs.mol, pairs.minimum)).all()

    def test_what_leaves_its_basin_is_dropped(self):
        mol = embed(read_smiles("CCCCCC"), 1, seed=0)
        relax_mmff(mol)
        far = positions(mol)
        # A chain that is bent to nearly a clash unfolds.
        far[0, [0, 6, 7, 8]] = far[0, [5, 15, 16, 17]] + 1.8
        assert pairs_of(with_places(mol, far)) is None


class TestRun:
    @pytest.fixture
    def script(self, modules):
        pytest.importorskip("tblite")
        return modules("make_ensembles")

    def test_pairs_are_minima_of_both_and_keep_stereo(self, script):
        pairs = script.make_pairs("CC[C@H](C)O", script.Recipe(conformers=3))
        assert len(pairs) == 3
        assert pairs.energies.min() == 0
        for start, minimum in zip(pairs.start, pairs.minimum, strict=True):
            for places in (start, minimum):
                text = stereo_smiles(with_places(pairs.mol, places))
                assert text == Chem.CanonSmiles("CC[C@H](C)O")
            assert 0 < heavy_rmsd(pairs.mol, start, minimum) < 0.5
            # The start is a minimum of MMFF94: minimising does not move it.
            again = with_places(pairs.mol, start)
            rdForceFieldHelpers.MMFFOptimizeMolecule(again)
            assert heavy_rmsd(pairs.mol, again.GetConformer().GetPositions(), start) < 0.02
        for a, b in itertools.combinations(pairs.start, 2):
            assert heavy_rmsd(pairs.mol, a, b) > 0.2

    def test_walks_end_below_where_a_model_walks_to(self, script):
        model = ConformerDiffusion.load(WEIGHTS)
        recipe = script.Recipe(conformers=2, model=str(WEIGHTS), gfn2_steps=30)
        pairs = script.make_pairs("CC[C@H](C)O", recipe)
        assert len(pairs) == 2
        walked = model.walk(pairs.mol, pairs.start.astype(float))
        starts, ends, lower = (
            gfn2_energies(with_places(pairs.mol, places))
            for places in (pairs.start, walked, pairs.minimum)
        )
        # The weights leave hundredths of a kcal/mol in so small a molecule.
        assert (lower < ends + 1e-3).all()
        assert (ends < starts - 0.5).all()
        # Neither a walk nor a step shifts or turns the molecule.
        apart = pairs.minimum - pairs.start
        np.testing.assert_allclose(apart.mean(1), 0.0, atol=5e-3)
        assert np.abs(apart).max() < 0.2

    def test_open_stereo_is_fixed_for_the_ensemble(self, script):
        pairs = script.make_pairs("CCC(C)O", script.Recipe(conformers=2))
        assert len(pairs) == 2
        assert "@" in Chem.MolToSmiles(Chem.RemoveHs(pairs.mol))

    def test_it_goes_on_where_it_stopped(self, script, tmp_path, capsys):
        smiles = tmp_path / "in.smi"
        smiles.write_text("CCO\nbroken(\nCC=O\nCOC\nOCC\n")
        exclude = tmp_path / "no.csv"
        exclude.write_text("smiles,n\nCOC,3\n")
        rest = ["--smiles", str(smiles), "--conformers", "1", "--exclude", str(exclude)]
        script.main([str(tmp_path / "a"), *rest, "--limit", "1"])
        first = (tmp_path / "a" / "000000.npz").read_bytes()
        script.main([str(tmp_path / "a"), *rest])
        assert (tmp_path / "a" / "000000.npz").read_bytes() == first
        assert read_notes(tmp_path / "a" / "000001.npz")["done"] == [1, 2]
        script.main([str(tmp_path / "b"), *rest, "--workers", "2"])
        one, two = load_ensembles(tmp_path / "a"), load_ensembles(tmp_path / "b")
        assert [Chem.MolToSmiles(Chem.RemoveHs(p.mol)) for p in one] == ["CCO", "CC=O", "CCO"]
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a.minimum, b.minimum)
        assert "3 molecules" in capsys.readouterr().out
        with pytest.raises(ConfigError, match="recipe"):
            script.main([str(tmp_path / "a"), *rest, "--seed", "5"])

    def test_a_molecule_without_pairs_is_not_tried_again(self, script, tmp_path):
        settings = {"recipe": 1}
        shards = script.Shards(tmp_path, settings)
        shards.add(0, None)
        shards.add(2, made_pairs("CCO"))
        shards.flush()
        again = script.Shards(tmp_path, settings)
        assert again.done == {0, 2}
        assert (again.molecules, again.pairs, again.number) == (1, 3, 1)
        assert json.loads((tmp_path / "settings.json").read_text()) == settings
