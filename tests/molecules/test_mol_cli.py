"""`scidiffusion conformers` and `scidiffusion molecules`."""

from __future__ import annotations

import pytest

pytest.importorskip("rdkit")

from rdkit import Chem
from typer.testing import CliRunner

from scidiffusion.cli.main import app

RUN = CliRunner()


def read(path) -> list[Chem.Mol]:
    return [mol for mol in Chem.SDMolSupplier(str(path), removeHs=False) if mol is not None]


def test_a_smiles_becomes_an_sdf(tmp_path):
    out = tmp_path / "ethanol.sdf"
    result = RUN.invoke(app, ["conformers", "CCO", "-n", "3", "-o", str(out), "--quiet"])
    assert result.exit_code == 0, result.output
    records = read(out)
    assert len(records) == 3
    assert {mol.GetProp("smiles") for mol in records} == {"CCO"}
    assert all(mol.HasProp("energy_kcal_mol") for mol in records)


def test_a_file_keeps_its_texts_and_numbers_and_reports_what_failed(tmp_path):
    table, out = tmp_path / "in.csv", tmp_path / "out.sdf"
    table.write_text("smiles,n\nOCC,2\nC1CC,1\nc1ccccc1O,1\n", encoding="utf-8")
    result = RUN.invoke(app, ["conformers", str(table), "-o", str(out), "--quiet"])
    assert [mol.GetProp("smiles") for mol in read(out)] == ["OCC", "OCC", "c1ccccc1O"]
    assert "C1CC" in result.output + str(result.stderr)
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["C1CC", "-o", "x.sdf"], "C1CC"),
        (["CCO", "-o", "x.pdb"], "must end in"),
        (["CCO", "-n", "0", "-o", "x.sdf"], "1 or more"),
        (["CCO", "--energy", "dft", "-o", "x.sdf"], "energy must be"),
        (["missing.smi", "-o", "x.sdf"], "missing.smi"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = RUN.invoke(app, ["conformers", *arguments, "--quiet"])
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["xyz", "html", "png", "sdf.gz"])
def test_other_formats(tmp_path, suffix):
    out = tmp_path / f"ethanol.{suffix}"
    result = RUN.invoke(app, ["conformers", "CCO", "-n", "2", "-o", str(out), "--quiet"])
    assert result.exit_code == 0, result.output
    assert out.stat().st_size > 100


@pytest.mark.parametrize("suffix", ["sdf", "xyz", "html"])
def test_new_molecules_are_written_as_they_were_drawn(tmp_path, suffix):
    out = tmp_path / f"new.{suffix}"
    arguments = ["molecules", "sample", "-n", "4", "-o", str(out), "--seed", "1", "--quiet"]
    result = RUN.invoke(app, [*arguments, "--steps", "3", "--raw"])
    assert result.exit_code == 0, result.output
    text = out.read_text(encoding="utf-8")
    if suffix == "sdf":
        # Three steps draw nothing that RDKit would accept; it is written, and marked.
        assert text.count("$$$$") == 4
        assert ">  <valid>" in text
    assert text
