"""The molecule benchmark: its scores where the answer is known, its runs, files and tables."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rdkit")
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def modules(monkeypatch):
    """Import a script or helper of the benchmarks by name."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


@pytest.fixture
def scores(modules):
    return modules("_molecule_scores")


def embedded(smiles, count=1, seed=7):
    """`count` conformers, one `Mol` each, minimised with MMFF94."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert len(rdDistGeom.EmbedMultipleConfs(mol, count, randomSeed=seed)) == count
    rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol, maxIters=2000)
    mol.SetProp("smiles", smiles)
    return [Chem.Mol(mol, confId=one.GetId()) for one in mol.GetConformers()]


def moved(mol, change):
    out = Chem.Mol(mol)
    conformer = out.GetConformer()
    conformer.SetPositions(np.ascontiguousarray(change(conformer.GetPositions())))
    return out


def turned(mol):
    """The same conformer, turned and shifted."""
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    return moved(mol, lambda places: places @ turn + [1.0, -2.0, 3.0])


class TestCoverage:
    def test_a_matrix_by_hand(self, scores):
        rmsd = np.array([[0.5, 2.0, 0.9], [3.0, 1.0, 4.0]])
        out = scores.coverage(rmsd, (0.5, 0.95))
        # At the threshold counts as covered.
        assert out["cov_r@0.5"] == pytest.approx(1 / 2)
        assert out["cov_p@0.5"] == pytest.approx(1 / 3)
        assert out["cov_p@0.95"] == pytest.approx(2 / 3)
        assert out["mat_r"] == pytest.approx((0.5 + 1.0) / 2)
        assert out["mat_p"] == pytest.approx((0.5 + 1.0 + 0.9) / 3)

    def test_a_turned_copy_is_covered_and_renumbered_equals_count(self, scores):
        mols = embedded("CC(C)CO", 2)
        rmsd = scores.rmsd_matrix([turned(mol) for mol in mols], mols)
        assert np.diag(rmsd) == pytest.approx(0, abs=1e-4)
        # The two methyl groups of isopropyl are equivalent.
        names = list(range(mols[0].GetNumAtoms()))
        names[0], names[2] = names[2], names[0]
        swapped = Chem.RenumberAtoms(mols[0], names)
        assert scores.rmsd_matrix([swapped], mols[:1]) == pytest.approx(0, abs=1e-4)

    def test_another_molecule_matches_nothing(self, scores):
        assert np.isinf(scores.rmsd_matrix(embedded("CCO"), embedded("CCCO"))).all()

    def test_of_a_molecule_without_conformers(self, scores):
        row = scores.score_molecule("CCO", [], embedded("CCO"))
        assert row["failed"] == 1
        assert row["cov_r@0.5"] == row["cov_p@1.25"] == 0
        good = scores.score_molecule("CCO", embedded("CCO"), embedded("CCO"))
        out = scores.summary([row, good])
        assert out["n_missing"] == 1
        assert out["mean"]["cov_r@0.5"] == 0.5
        # It has no RMSD: the mean is over the other.
        assert out["mean"]["mat_r"] == pytest.approx(good["mat_r"], abs=1e-4)


class TestStructure:
    def test_a_minimum_passes_and_a_spoilt_one_does_not(self, scores):
        (mol,) = embedded("CC(=O)Nc1ccccc1")
        wide = moved(mol, lambda places: 1.5 * places)
        good, bad = (scores.score_molecule("CC(=O)Nc1ccccc1", [one], [mol]) for one in (mol, wide))
        assert good["intact"] == good["pb_bonds"] == good["pb_all"] == 1
        assert bad["intact"] == bad["pb_bonds"] == bad["pb_all"] == 0
        ring = list(mol.GetRingInfo().AtomRings()[0])

        def buckle(places):
            first, second, third = places[ring[0:5:2]]
            normal = np.cross(second - first, third - first)
            places[ring[0]] += 0.9 * normal / np.linalg.norm(normal)
            return places

        bent = scores.score_molecule("CC(=O)Nc1ccccc1", [moved(mol, buckle)], [mol])
        assert bent["pb_rings"] == bent["pb_all"] == 0

    def test_the_mirror_image_is_the_wrong_enantiomer(self, scores):
        smiles = "C[C@H](F)C(=O)O"
        (mol,) = embedded(smiles)
        mirror = moved(mol, lambda places: places * [-1, 1, 1])
        assert scores.stereo_kept(mol, smiles)
        assert not scores.stereo_kept(mirror, smiles)
        assert scores.stereo_kept(mirror, "CC(F)C(=O)O")
        assert scores.rmsd_matrix([mirror], [mol])[0, 0] > 0.2

    def test_the_wrong_double_bond_is_seen(self, scores):
        (mol,) = embedded("F/C=C/C")
        assert scores.stereo_kept(mol, "F/C=C/C")
        assert not scores.stereo_kept(mol, "F/C=C\\C")

    def test_best_of_is_over_the_first_ones(self, scores):
        first, *rest = embedded("CCCCCO", 5)
        out = scores.best_of([*rest, turned(first)], first, (2, 5))
        assert out["best_of_5"] == pytest.approx(0, abs=1e-4)
        assert out["best_of_2"] > 0.1

    def test_relaxation_is_the_energy_above_the_minimum(self, scores):
        if not scores.has_xtb():
            pytest.skip("the program xtb is not installed")
        (mol,) = embedded("CCO")
        worse = moved(mol, lambda places: 1.05 * places)
        assert 0 < scores.gfn2_relaxation(mol) < 5 < scores.gfn2_relaxation(worse)

    def test_ranking_is_perfect_where_energies_are_far_apart(self, scores):
        pytest.importorskip("tblite")
        (mol,) = embedded("CCO")
        worse = [
            moved(mol, lambda places, scale=scale: scale * places) for scale in (1, 1.05, 1.1, 1.2)
        ]
        assert scores.energy_ranking(worse, 4) == pytest.approx(1)
        assert np.isnan(scores.energy_ranking(worse, 2))


class TestNewMolecules:
    def cloud(self, smiles):
        (mol,) = embedded(smiles)
        numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
        return numbers, mol.GetConformer().GetPositions()

    def test_bond_orders_of_ethane_ethene_ethyne(self, scores):
        for smiles, order in (("CC", 1), ("C=C", 2), ("C#C", 3)):
            orders = scores.orders_of(*self.cloud(smiles))
            assert orders[0, 1] == order
            assert (orders == orders.T).all()

    def test_real_molecules_are_stable_valid_and_known(self, scores):
        clouds = [self.cloud(smiles) for smiles in ("CCO", "C#CC", "CC", "CC")]
        out = scores.score_clouds(clouds, scores.cloud_smiles(clouds[:1]))
        assert out["atom_stable"] == out["mol_stable"] == out["valid_edm"] == 1
        assert out["valid_rdkit"] == out["valid_and_connected_rdkit"] == 1
        assert out["unique_of_valid"] == 0.75
        assert out["novel_of_unique"] == pytest.approx(2 / 3, abs=1e-4)

    def test_a_lost_hydrogen_is_two_unstable_atoms(self, scores):
        numbers, places = self.cloud("CC")
        places[-1] += 20
        out = scores.score_clouds([(numbers, places)])
        assert out["atom_stable"] == pytest.approx(6 / 8)
        assert out["mol_stable"] == 0
        assert "novel_of_unique" not in out


class TestRuns:
    @pytest.fixture
    def data(self, tmp_path):
        """A data folder: two molecules, two references each, in gzip, and a broken record."""
        import gzip

        text = ""
        for smiles in ("CCCO", "C[C@H](O)CC"):
            for mol in embedded(smiles, 2):
                mol.SetProp("smiles", smiles)
                text += Chem.SDWriter.GetText(mol)
        text += "broken\n\n\n  1  0  0  0  0  0  0  0  0  0999 V2000\nnonsense\nM  END\n$$$$\n"
        for name in ("ens_qm9/ens_qm9", "platinum_diverse/platinum_diverse_2017_01"):
            path = tmp_path / "data" / f"{name}.sdf.gz"
            path.parent.mkdir(parents=True)
            path.write_bytes(gzip.compress(text.encode()))
        return tmp_path / "data"

    def test_a_run_is_scored_kept_and_rendered(self, modules, data, tmp_path, capsys):
        script, scores = modules("molecules"), modules("_molecule_scores")
        out = tmp_path / "molecules_qm9.json"
        call = ["--data-dir", str(data), "--out", str(out), "--save-sdf", str(tmp_path / "sdf")]
        script.main([*call, "--models", "etkdg-mmff"])
        script.main([*call, "--models", "etkdg", "--limit", "2"])
        record = json.loads(out.read_text())
        assert [entry["model"] for entry in record["runs"]] == ["etkdg", "etkdg-mmff"]
        assert record["molecules"] == 2
        entry = record["runs"][1]
        # 2 K conformers for K references, all with the stereo asked for.
        assert [row["n_gen"] for row in entry["per_molecule"]] == [4, 4]
        assert entry["mean"]["stereo"] == 1
        assert entry["conformers"] == 8
        assert entry["cpu_ms_per_conformer"] > 0
        generated, broken = scores.read_sdf(tmp_path / "sdf" / "qm9_etkdg-mmff_0.sdf")
        assert broken == 0
        assert list(generated) == [Chem.CanonSmiles(text) for text in ("CCCO", "C[C@H](O)CC")]
        assert "1 broken records" in capsys.readouterr().err
        text = script.render([out])
        assert "| ETKDGv3 + MMFF94 | 0 | " in text
        (line,) = [line for line in text.splitlines() if line.startswith("| ETKDGv3 + MMFF94")]
        assert f"| {entry['mean']['mat_r']:.3f} |" in line

    @pytest.fixture
    def in_this_process(self, modules, monkeypatch, tmp_path):
        """Let workers run here, with some fields of their jobs replaced."""

        def start(**changes):
            def run_worker(command, job, **_):
                path = tmp_path / "job.json"
                path.write_text(json.dumps(vars(job) | changes))
                monkeypatch.setattr("sys.argv", [command[-1], str(path)])
                peers = modules("_molecule_peers")
                modules("_running").work(peers.Job, peers.perform)
                return json.loads(Path(job.out).with_suffix(".json").read_text())

            monkeypatch.setattr(modules("molecules"), "run_worker", run_worker)

        return start

    def test_best_of_n_of_crystals(self, modules, data, tmp_path, in_this_process):
        in_this_process()
        out = tmp_path / "p.json"
        call = ["--task", "platinum", "--data-dir", str(data), "--limit", "1"]
        modules("molecules").main([*call, "--models", "etkdg", "--out", str(out)])
        (entry,) = json.loads(out.read_text())["runs"]
        assert entry["conformers"] == 25
        assert 0 <= entry["mean"]["best_of_25"] <= entry["mean"]["best_of_10"] < 1

    def test_references_of_ones_own_are_the_low_and_distinct_minima(
        self, modules, tmp_path, in_this_process
    ):
        from scidiffusion.molecules.conformer.pairs import ConformerPairs, write_shard

        mols = embedded("CCCCO", 3)
        places = np.stack([mol.GetConformer().GetPositions() for mol in mols])
        places = places[[0, 1, 2, 0]].astype(np.float32)
        # The third is too high, the fourth the first once more.
        energies = np.array([0.0, 2.0, 8.0, 0.1])
        bare = Chem.Mol(mols[0])
        bare.RemoveAllConformers()
        write_shard(
            tmp_path / "shards" / "0.npz", [ConformerPairs(bare, places, places, energies)]
        )
        in_this_process()
        out = tmp_path / "m.json"
        call = ["--task", "made", "--references", str(tmp_path / "shards"), "--out", str(out)]
        modules("molecules").main([*call, "--models", "etkdg"])
        record = json.loads(out.read_text())
        assert record["references"] == 2
        assert record["runs"][0]["conformers"] == 4
        assert "made: 1 molecules" in modules("molecules").render([out])
        with pytest.raises(SystemExit):
            modules("molecules").main(["--task", "made"])

    def test_a_model_that_fails_says_why(self, modules, data, tmp_path, in_this_process):
        in_this_process(options={"no_such_option": 1})
        script = modules("molecules")
        out = tmp_path / "f.json"
        call = ["--data-dir", str(data), "--out", str(out), "--limit", "1"]
        script.main([*call, "--models", "etkdg"])
        (entry,) = json.loads(out.read_text())["runs"]
        assert entry["failed"].startswith("TypeError")
        assert "no_such_option" in entry["failed"]
        assert "failed: TypeError" in script.render([out])

    def test_the_pick_is_as_many_and_begins_with_the_lowest(self, modules):
        peers, scores = modules("_molecule_peers"), modules("_molecule_scores")
        picked = peers.pick("CCCCO", 3, 0)
        every = peers.etkdg_mmff("CCCCO", 12, 0)
        assert picked.GetNumConformers() == 3
        energies = [
            scores.mmff_energy(Chem.Mol(every, confId=one.GetId()))
            for one in every.GetConformers()
        ]
        first = picked.GetConformers()[0].GetId()
        lowest = scores.mmff_energy(Chem.Mol(picked, confId=first))
        assert lowest == pytest.approx(min(energies), abs=1e-3)

    def test_seed_0_gives_different_conformers(self, modules):
        mol = modules("_molecule_peers").etkdg("CCCCO", 2, 0)
        one, two = (conformer.GetPositions() for conformer in mol.GetConformers())
        assert np.abs(one - two).max() > 0.1

    def test_new_molecules_of_a_file_beside_the_data(self, modules, tmp_path):
        clouds = [TestNewMolecules().cloud(smiles) for smiles in ("CCO", "CO")]

        def write(path, chosen):
            path.parent.mkdir(exist_ok=True)
            np.savez(
                path,
                numbers=np.concatenate([numbers for numbers, _ in chosen]),
                positions=np.concatenate([places for _, places in chosen]),
                offsets=np.cumsum([0] + [len(numbers) for numbers, _ in chosen]),
            )

        write(tmp_path / "qm7" / "qm7.npz", clouds[:1])
        write(tmp_path / "new.npz", clouds)
        call = ["--task", "denovo", "--data-dir", str(tmp_path), "--out", str(tmp_path / "d.json")]
        script = modules("molecules")
        script.main([*call, "--samples", str(tmp_path / "new.npz")])
        data, new = json.loads((tmp_path / "d.json").read_text())["runs"]
        assert (data["model"], data["n"], data["mol_stable"]) == ("data", 1, 1)
        assert (new["model"], new["n"], new["novel_of_unique"]) == ("new", 2, 0.5)
        assert "| new | 2 | 100.0 |" in script.render([tmp_path / "d.json"])

    def test_data_that_are_missing_are_named(self, modules, tmp_path):
        with pytest.raises(SystemExit, match="ens_qm9"):
            modules("molecules").main(["--data-dir", str(tmp_path)])
