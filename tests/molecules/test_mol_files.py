"""Files in and out: round trips, broken records, and what a failed write leaves."""

from __future__ import annotations

import gzip
import re
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rdkit")

from rdkit import Chem
from rdkit.Chem import rdDepictor, rdDistGeom

from scidiffusion.errors import (
    ConfigError,
    DataError,
    MissingExtraError,
    OutputError,
    ScidiffusionWarning,
)
from scidiffusion.molecules.chem.ase import from_ase, to_ase
from scidiffusion.molecules.chem.figures import Figures, figures, positions, set_figures
from scidiffusion.molecules.chem.files import (
    Record,
    Records,
    Skipped,
    iter_molecules,
    read_ensembles,
    read_molecules,
    read_xyz,
    write_sdf,
    write_xyz,
)
from scidiffusion.molecules.chem.xyz import molecule_from_coordinates

STEREO = ["C[C@H](F)Cl", "F/C=C\\Cl", "C[S@](=O)CC", "C[C@@H]1CC[C@H](O)CC1"]
SMILES = [*STEREO, "c1ccccc1", "O", "[Na+]", "CC(=O)[O-]", "[NH3+]CC([O-])=O", "OCC(O)F"]


def embedded(smiles: str, count: int = 2) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    mol.SetProp("smiles", smiles)
    assert len(rdDistGeom.EmbedMultipleConfs(mol, count, randomSeed=5)) == count
    return mol


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def canonical(mol: Chem.Mol) -> str:
    return Chem.MolToSmiles(Chem.RemoveHs(mol))


@pytest.fixture
def ensemble():
    mol = embedded("CC(O)CN", 3)
    set_figures(
        mol,
        energies=[-1.25, 0.5, np.nan],
        method="GFN2-xTB",
        weights=[0.9, 0.1, 0.0],
        valid=[True, True, False],
    )
    return mol


@pytest.mark.parametrize("suffix", [".sdf", ".sdf.gz", ".SDF"])
def test_an_sdf_comes_back(tmp_path, suffix):
    molecules = [embedded(smiles) for smiles in SMILES]
    path = tmp_path / f"out{suffix}"
    assert write_sdf(path, iter(molecules)) == 2 * len(SMILES)
    assert names(tmp_path) == [path.name]
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == suffix.endswith(".gz")
    records = read_molecules(path)
    assert [r.smiles for r in records] == [s for s in SMILES for _ in range(2)]
    assert [r.number for r in records] == list(range(1, 2 * len(SMILES) + 1))
    for record, (mol, index) in zip(
        records, [(mol, i) for mol in molecules for i in range(2)], strict=True
    ):
        back = record.molecule
        np.testing.assert_allclose(positions(back)[0], positions(mol)[index], atol=1e-4)
        assert [a.GetSymbol() for a in back.GetAtoms()] == [a.GetSymbol() for a in mol.GetAtoms()]
        assert back.GetProp("smiles") == mol.GetProp("smiles")
        if mol.GetProp("smiles") != "OCC(O)F":
            assert canonical(back) == canonical(mol)
        else:
            assert "@" in canonical(back)


def test_conformers_come_back_as_ensembles(tmp_path, ensemble):
    other = embedded("CCO", 1)
    write_sdf(tmp_path / "a.sdf", [ensemble, other, embedded("C[C@H](F)Cl"), embedded("CCO")])
    back = read_ensembles(tmp_path / "a.sdf")
    # Its open centre is decided in space: only neighbours of one stereoisomer belong together.
    counts = [mol.GetNumConformers() for mol in back]
    assert counts[-3:] == [1, 2, 2]
    assert sum(counts) == 8
    found = [known for mol in back for known in figures(mol)]
    assert found[:2] == figures(ensemble)[:2]
    assert np.isnan(found[2].energy)
    assert found[2].valid is False
    assert found[3] == Figures()
    np.testing.assert_allclose(positions(back[-2]), positions(embedded("C[C@H](F)Cl")), atol=1e-4)


def test_flat_molecules_stay_conformers(tmp_path):
    mol = embedded("c1ccccc1", 1)
    mol.GetConformer().SetPositions(positions(mol)[0] * [1.0, 1.0, 0.0])
    write_sdf(tmp_path / "flat.sdf", mol)
    assert read_molecules(tmp_path / "flat.sdf")[0].molecule.GetNumConformers() == 1


ODD = {
    "text": "Zoë <b>&amp;\" ' \\ µ → 分子",
    "spaces": "  two  ",
    "lines": "first\nthird is blank\n\n> <smiles>\nCCC",
    "digits": "0010",
    "empty": "",
    "a name (kcal/mol)": "1",
}


def test_odd_property_texts_come_back(tmp_path, ensemble):
    ensemble.SetProp("own", "0.10")
    ensemble.SetProp("_Name", "two\nlines")
    write_sdf(tmp_path / "odd.sdf", ensemble, properties=ODD)
    for record in read_molecules(tmp_path / "odd.sdf"):
        mol = record.molecule
        for name, text in ODD.items():
            assert mol.GetProp(name) == text.replace("\n\n", "\n \n")
        assert mol.GetProp("own") == "0.10"
        assert record.name == "two lines"
        assert record.smiles == "CC(O)CN"


def test_properties_of_each_molecule(tmp_path):
    write_sdf(tmp_path / "a.sdf", [embedded("C"), embedded("O")], properties=[{"k": 1}, {"k": 2}])
    assert [r.molecule.GetProp("k") for r in read_molecules(tmp_path / "a.sdf")] == list("1122")
    with pytest.raises(DataError, match="properties for 1 molecules"):
        write_sdf(tmp_path / "b.sdf", [embedded("C"), embedded("O")], properties=[{"k": 1}])
    assert names(tmp_path) == ["a.sdf"]


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        ({"k": "a\n$$$$\nb"}, "end of a record"),
        ({"a<b": 1}, "cannot be called"),
        ({"": 1}, "call"),
    ],
)
def test_what_an_sdf_cannot_hold_is_refused(tmp_path, properties, reason):
    with pytest.raises(DataError, match=reason):
        write_sdf(tmp_path / "a.sdf", embedded("C"), properties=properties)
    assert names(tmp_path) == []


@pytest.mark.parametrize("write", [write_sdf, write_xyz])
def test_a_failed_write_leaves_what_was_there(tmp_path, write):
    path = tmp_path / "out.sdf"
    path.write_text("old")
    broken = embedded("CCO")
    broken.GetConformer(1).SetAtomPosition(0, [np.nan, 0.0, 0.0])
    bare = Chem.AddHs(Chem.MolFromSmiles("CCC"))
    for molecules, reason in (
        ([embedded("C"), bare], "'CCC' has no conformer"),
        ([embedded("C"), broken], "conformer 1 of 'CCO'"),
        ([], "no molecule to write"),
    ):
        with pytest.raises(DataError, match=reason):
            write(path, molecules)
        assert path.read_text() == "old"
        assert names(tmp_path) == ["out.sdf"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_output_error(tmp_path, monkeypatch):
    original = Path.open

    def on_full_disk(self, mode="r", *args, **options):
        return original(Path("/dev/full") if "w" in mode else self, mode, *args, **options)

    (tmp_path / "out.sdf.gz").write_text("old")
    monkeypatch.setattr(Path, "open", on_full_disk)
    for name in ("out.sdf", "out.sdf.gz"):
        with pytest.raises(OutputError, match=f"cannot write .*{name}.*No space left"):
            write_sdf(tmp_path / name, embedded("CCCCCCO", 30))
    assert names(tmp_path) == ["out.sdf.gz"]
    assert (tmp_path / "out.sdf.gz").read_bytes() == b"old"


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "a.sdf").mkdir()
    with pytest.raises(OutputError, match="it is a folder"):
        write_sdf(tmp_path / "a.sdf", embedded("C"))
    with pytest.raises(ConfigError, match="suffix"):
        write_sdf(tmp_path / "a.mol2", embedded("C"))


def test_the_same_molecules_give_the_same_bytes(tmp_path):
    for name in ("a.sdf.gz", "b.sdf.gz"):
        write_sdf(tmp_path / name, embedded("CCO"))
    assert (tmp_path / "a.sdf.gz").read_bytes() == (tmp_path / "b.sdf.gz").read_bytes()


def test_broken_records_are_skipped_counted_and_named(tmp_path, capfd):
    write_sdf(tmp_path / "good.sdf", [embedded("CCO", 1), embedded("CCN", 1), embedded("O", 1)])
    first, second, third = (tmp_path / "good.sdf").read_text().split("$$$$\n")[:3]
    valence = Chem.MolToMolBlock(Chem.MolFromSmiles("C(C)(C)(C)(C)C", sanitize=False))
    cut = first.splitlines(keepends=True)
    empty = "\n\n\n  0  0  0  0  0  0  0  0  0  0999 V2000\nM  END\n"
    blocks = ["".join(cut[:8]), first, "nonsense\n", second, valence, empty, third]
    path = tmp_path / "bad.sdf"
    path.write_text("$$$$\n".join(blocks))
    with pytest.warns(ScidiffusionWarning) as seen:
        records = read_molecules(path)
    assert [(r.number, r.smiles) for r in records] == [(2, "CCO"), (4, "CCN"), (7, "O")]
    assert [s.number for s in records.skipped] == [1, 3, 5, 6]
    assert "valence" in records.skipped[2].reason
    assert records.skipped[3].reason == "no atoms"
    assert repr(records) == "Records(3 molecules, 4 skipped)"
    message = str(seen[0].message)
    assert len(seen) == 1
    assert "4 of 7" in message
    assert "record 1: broken or cut-off record" in message
    assert "also 6" in message
    with pytest.raises(DataError, match="4 of 7"):
        read_molecules(path, on_error="raise")
    path.write_text("nonsense\n$$$$\n")
    with pytest.raises(DataError, match="1 of 1"):
        read_molecules(path)
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""


def test_a_cut_off_archive_is_a_data_error(tmp_path):
    write_sdf(tmp_path / "a.sdf.gz", embedded("CCCCCO", 20))
    content = (tmp_path / "a.sdf.gz").read_bytes()
    (tmp_path / "b.sdf.gz").write_bytes(content[: len(content) // 2])
    (tmp_path / "c.sdf.gz").write_bytes(b"no archive")
    for name in ("b.sdf.gz", "c.sdf.gz"):
        with pytest.raises(DataError, match=f"{name} is damaged"):
            read_molecules(tmp_path / name)


def test_hydrogen_is_added_and_drawings_are_no_conformers(tmp_path):
    solid = Chem.RemoveHs(embedded("C[C@H](F)Cl", 1))
    flat = Chem.MolFromSmiles("C[C@@H](F)Cl")
    rdDepictor.Compute2DCoords(flat)
    path = tmp_path / "a.sdf"
    path.write_text("$$$$\n".join(map(Chem.MolToMolBlock, (solid, flat))) + "$$$$\n")
    first, second = read_molecules(path)
    assert first.molecule.GetNumAtoms() == second.molecule.GetNumAtoms() == 8
    assert first.molecule.GetNumConformers() == 1
    lengths = np.linalg.norm(np.diff(positions(first.molecule)[0][[0, 4]], axis=0))
    assert lengths == pytest.approx(1.1, abs=0.1)
    assert second.molecule.GetNumConformers() == 0
    assert (first.smiles, second.smiles) == ("C[C@H](F)Cl", "C[C@@H](F)Cl")
    path.write_text(Chem.MolToMolBlock(flat) + "$$$$\n")
    with pytest.raises(DataError, match="coordinates in space"):
        read_ensembles(path)


def test_a_foreign_smiles_property_is_not_believed(tmp_path):
    mirror = embedded("C[C@@H](F)Cl", 1)
    for text in ("CCO", "C[C@H](F)Cl", "nonsense"):
        mirror.SetProp("smiles", text)
        write_sdf(tmp_path / "a.sdf", mirror)
        assert read_molecules(tmp_path / "a.sdf")[0].smiles == "C[C@@H](F)Cl"
    mirror.SetProp("smiles", "FC(Cl)C")
    write_sdf(tmp_path / "a.sdf", mirror)
    assert read_molecules(tmp_path / "a.sdf")[0].smiles == "FC(Cl)C"


def test_a_smi_file(tmp_path):
    path = tmp_path / "a.smi"
    path.write_text("# ours\nSMILES Name\nCCO ethanol of ours\n\nO\twater\n  c1ccccc1  \n")
    records = read_molecules(path)
    assert [(r.smiles, r.name, r.n, r.number) for r in records] == [
        ("CCO", "ethanol of ours", None, 3),
        ("O", "water", None, 5),
        ("c1ccccc1", "", None, 6),
    ]
    assert records[0].molecule.GetNumAtoms() == 9
    assert records[0].molecule.GetProp("smiles") == "CCO"
    assert records[0:2] == tuple(records)[:2]


def test_a_csv_file(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(
        '\ufeffid, smiles ,n,name\r\n1,CCO,5,\r\n\r\n2,"O",,"two\nlines"\r\n3,N,7.0,x\r\n'.encode()
    )
    records = read_molecules(path)
    assert [(r.smiles, r.n, r.name, r.number) for r in records] == [
        ("CCO", 5, "", 2),
        ("O", None, "two\nlines", 4),
        ("N", 7, "x", 6),
    ]


def test_bad_lines_are_collected(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("smiles,n\nCCO,0\nC1CC,2\nO,many\nN,2.5\n,3\nCC,2\n")
    with pytest.raises(DataError) as caught:
        read_molecules(path)
    message = str(caught.value)
    assert "5 of 6 molecules" in message
    assert "line 2: n must be a whole number of 1 or more, got '0'" in message
    assert "line 3: " in message
    assert "C1CC" in message
    assert "line 4: n must be" in message
    assert "'many'" in message
    assert "also 5, 6" in message
    with pytest.warns(ScidiffusionWarning, match="5 of 6"):
        records = read_molecules(path, on_error="skip")
    assert [r.smiles for r in records] == ["CC"]
    items = list(iter_molecules(path))
    assert [type(item) for item in items] == [Skipped] * 5 + [Record]
    with pytest.raises(ConfigError, match="on_error"):
        read_molecules(path, on_error="ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", b"SMILES;n\nCCO;1\n", "column 'smiles'"),
        ("a.csv", b"", "an empty file"),
        ("a.csv", b"smiles\n", "holds no molecule"),
        ("a.smi", b"# nothing\n", "holds no molecule"),
        ("a.smi", b"CCO \xff\n", "not UTF-8"),
        ("a.sdf", b"", "holds no molecule"),
    ],
)
def test_useless_files(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}.*{reason}"):
        read_molecules(tmp_path / name)


def test_missing_and_unknown_files(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_molecules(tmp_path / "a.smi")
    with pytest.raises(ConfigError, match=re.escape(".smi, .csv, .sdf, .sdf.gz")):
        read_molecules(tmp_path / "a.pdb")
    (tmp_path / "folder.smi").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        read_molecules(tmp_path / "folder.smi")


def test_files_are_read_as_a_stream(tmp_path):
    path = tmp_path / "a.sdf.gz"
    write_sdf(path, embedded("CCO", 3))
    whole = gzip.decompress(path.read_bytes())
    # What follows the second record is never looked at.
    path.write_bytes(gzip.compress(whole) + b"damaged" * 100_000)
    stream = iter_molecules(path)
    assert next(stream).number == 1
    assert next(stream).number == 2
    stream.close()


def test_records_are_a_sequence():
    records = Records([], [Skipped(1, "x")])
    assert len(records) == 0
    assert list(records) == []


def test_an_xyz_comes_back(tmp_path, ensemble):
    ion = embedded("CC(=O)[O-]")
    path = tmp_path / "a.xyz"
    assert write_xyz(path, [ensemble, ion]) == 5
    lines = path.read_text().splitlines()
    assert lines[0] == str(ensemble.GetNumAtoms())
    assert lines[1].endswith("charge=0 smiles=CC(O)CN")
    assert "energy_kcal_mol=-1.250000 energy_method=GFN2-xTB" in lines[1]
    back = read_xyz(path)
    assert [m.GetProp("smiles") for m in back] == ["CC(O)CN"] * 3 + ["CC(=O)[O-]"] * 2
    np.testing.assert_allclose(
        np.concatenate([positions(m) for m in back[:3]]), positions(ensemble), atol=1e-7
    )
    assert [figures(m)[0].energy for m in back[:2]] == [-1.25, 0.5]
    assert Chem.GetFormalCharge(back[-1]) == -1
    write_xyz(path, ensemble)
    for mol in read_xyz(path, template=ensemble):
        assert "@" in canonical(mol)
    with pytest.raises(DataError, match=r"frame 1: the template 'CC\(=O\)\[O-\]'"):
        read_xyz(path, template=ion)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("2\n\nH 0 0 0\n", "frame 1 is cut off"),
        ("1\n\nHe 0 0 0\n2\n\nH 0 0 0\nH 0 0 x\n", "frame 2 is cut off"),
        ("two\n\nH 0 0 0\n", "frame 1"),
        ("1\n\nXx 0 0 0\n", "no element 'Xx'"),
        ("1\n\nH 0 0 nan\n", "frame 1"),
        ("\n", "holds no frame"),
        ("2\ncharge=3\nC 0 0 0\nH 1.1 0 0\n", "no bonds fit 2 atoms"),
    ],
)
def test_broken_xyz(tmp_path, text, reason):
    (tmp_path / "a.xyz").write_text(text)
    with pytest.raises(DataError, match=reason):
        read_xyz(tmp_path / "a.xyz")


@pytest.mark.parametrize(
    "smiles", [*STEREO, "CC(=O)[O-]", "C[NH3+]", "C#N", "[Na+]", "CS(C)(=O)=O"]
)
def test_bonds_are_found_from_coordinates(smiles):
    mol = embedded(smiles, 1)
    numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    back = molecule_from_coordinates(numbers, positions(mol)[0], charge=Chem.GetFormalCharge(mol))
    assert canonical(back) == canonical(mol)
    with pytest.raises(DataError, match="finite coordinates"):
        molecule_from_coordinates(numbers, positions(mol)[0][:, :2])


def test_a_template_does_not_hide_the_mirror_image():
    mol = embedded("C[C@H](F)Cl", 1)
    numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    back = molecule_from_coordinates(numbers, positions(mol)[0] * [1, 1, -1], template=mol)
    assert canonical(back) == "C[C@@H](F)Cl"


def test_without_ase_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ase", None)
    with pytest.raises(MissingExtraError, match=r"scidiffusion\[ase\]"):
        to_ase(embedded("C", 1))


def test_ase_there_and_back(ensemble):
    pytest.importorskip("ase")
    for index in range(3):
        atoms = to_ase(ensemble, index)
        np.testing.assert_allclose(atoms.get_positions(), positions(ensemble)[index])
        assert atoms.info["smiles"] == "CC(O)CN"
        assert atoms.info["charge"] == 0
        back = from_ase(atoms, ensemble)
        np.testing.assert_allclose(positions(back)[0], positions(ensemble)[index])
        assert back.GetProp("smiles") == "CC(O)CN"
        assert from_ase(atoms).GetProp("smiles") == "CC(O)CN"
    assert to_ase(ensemble).info["energy_kcal_mol"] == -1.25
    with pytest.raises(DataError, match="no conformer with id 9"):
        to_ase(ensemble, 9)


def test_ase_charges_and_fragments():
    ase = pytest.importorskip("ase")
    mol = embedded("CC(=O)[O-]", 1)
    atoms = to_ase(mol)
    assert atoms.get_initial_charges().sum() == -1
    assert set(atoms.get_tags()) == {0}
    for bare in (atoms, ase.Atoms(numbers=atoms.numbers, positions=atoms.positions)):
        back = from_ase(bare, charge=None if bare is atoms else -1)
        assert canonical(back) == "CC(=O)[O-]"
    atoms.pbc = True
    with pytest.raises(DataError, match="periodic"):
        from_ase(atoms)
