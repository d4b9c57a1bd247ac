"""The command line end to end, on a small table, with its exit codes and messages."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from sklearn.datasets import load_iris
from typer.testing import CliRunner

from scidiffusion.cli.common import read_table, write_chunks
from scidiffusion.cli.main import app
from scidiffusion.errors import ConfigError, DataError

run = CliRunner().invoke

# A shell starts its background jobs with SIGINT ignored; a terminal does not.
INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from scidiffusion.cli.main import app

app()
"""


@pytest.fixture(scope="module")
def iris_csv(tmp_path_factory) -> str:
    data = load_iris(as_frame=True)
    table = data.frame.drop(columns="target")
    table["species"] = data.target.map(dict(enumerate(data.target_names)))
    path = tmp_path_factory.mktemp("data") / "iris.csv"
    table.to_csv(path, index=False)
    return str(path)


@pytest.fixture(scope="module")
def model(iris_csv, tmp_path_factory) -> str:
    path = str(tmp_path_factory.mktemp("models") / "iris")
    arguments = ["tabular", "fit", iris_csv, path, "--target", "species", "--seed", "1"]
    result = run(app, [*arguments, "--max-steps", "40", "--quiet"])
    assert result.exit_code == 0, result.output
    assert "150 rows" in result.output
    return path


def test_help_names_the_commands() -> None:
    result = run(app, ["--help"])
    assert result.exit_code == 0
    assert "tabular" in result.output
    assert "fit" in run(app, ["tabular", "--help"]).output


def test_fit_and_sample(model, iris_csv, tmp_path) -> None:
    out = tmp_path / "synthetic.csv"
    arguments = ["tabular", "sample", model, str(out), "-n", "37", "--seed", "3", "--quiet"]
    result = run(app, [*arguments, "--condition", "species=virginica"])
    assert result.exit_code == 0, result.output
    table, real = pd.read_csv(out), pd.read_csv(iris_csv)
    assert list(table.columns) == list(real.columns)
    assert len(table) == 37
    assert (table["species"] == "virginica").all()
    first = out.read_bytes()
    run(app, [*arguments, "--condition", "species=virginica"])
    assert out.read_bytes() == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "no-such-model", "out.csv"], "no-such-model"),
        (["sample", "{model}", "out.txt"], ".csv"),
        (["sample", "{model}", "out.csv", "-n", "-3"], "negative"),
        (["sample", "{model}", "out.csv", "--condition", "species=rose"], "rose"),
        (["sample", "{model}", "out.csv", "--condition", "colour=red"], "colour"),
        (["sample", "{model}", "/proc/nowhere/out.csv"], "/proc/nowhere"),
        (["fit", "no-such-table.csv", "model"], "no-such-table.csv"),
        (["fit", "{csv}", "/proc/nowhere/model"], "/proc/nowhere"),
        (["fit", "{csv}", "model", "--target", "petals"], "petals"),
        (["fit", "{csv}", "model", "--budget", "soon"], "budget"),
    ],
)
def test_one_clear_error(model, iris_csv, arguments, message, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [argument.format(model=model, csv=iris_csv) for argument in arguments]
    result = run(app, ["tabular", *arguments])
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


def test_interrupt_leaves_a_checkpoint_and_resumes(iris_csv, tmp_path) -> None:
    """Ctrl-C in training: status 130 and a checkpoint; --resume ends as if never interrupted."""

    def fit(model) -> list[str]:
        options = ["--seed", "0", "--quiet", "--max-steps", "600"]
        return ["tabular", "fit", iris_csv, str(model), *options]

    model, checkpoint = tmp_path / "model", tmp_path / "model.checkpoint"
    command = [sys.executable, "-c", INTERRUPTIBLE, *fit(model)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    # The first checkpoint is written after the first step.
    deadline = time.monotonic() + 120
    while not list(checkpoint.glob("[!.]*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "--resume" in stderr
    assert list(checkpoint.glob("[!.]*"))
    assert not model.exists()

    resumed = run(app, [*fit(model), "--resume"])
    assert resumed.exit_code == 0, resumed.output
    assert "steps" in resumed.output
    assert not checkpoint.exists()
    whole = run(app, fit(tmp_path / "whole"))
    assert whole.exit_code == 0, whole.output
    weights = "weights.safetensors"
    assert (model / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


def test_impute_fills_the_gaps(model, iris_csv, tmp_path) -> None:
    real = pd.read_csv(iris_csv)
    gaps = real.head(30).copy()
    gaps.loc[::2, "species"] = None
    gaps.loc[1::2, gaps.columns[0]] = None
    source, out = tmp_path / "gaps.csv", tmp_path / "full.csv"
    gaps.to_csv(source, index=False)
    arguments = ["tabular", "impute", model, str(source), str(out), "--seed", "0", "--quiet"]
    result = run(app, arguments)
    assert result.exit_code == 0, result.output
    assert "Filled 30 missing values of 30 rows" in result.output
    full = pd.read_csv(out)
    assert not full.isna().any().any()
    assert full[gaps.notna()].equals(gaps[gaps.notna()])
    result = run(app, [*arguments, "--draws", "2"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "full_1.csv").exists()
    assert (tmp_path / "full_2.csv").exists()


def test_sample_balances_and_ranges(model, tmp_path) -> None:
    out = tmp_path / "out.csv"
    arguments = ["tabular", "sample", model, str(out), "-n", "60", "--seed", "0", "--quiet"]
    result = run(app, [*arguments, "--balance", "species", "--condition", "petal length (cm)>=3"])
    assert result.exit_code == 0, result.output
    table = pd.read_csv(out)
    assert table["species"].value_counts().tolist() == [20, 20, 20]
    assert (table["petal length (cm)"] >= 3).all()


def test_fit_reads_a_part_and_keeps_rules(iris_csv, tmp_path) -> None:
    path = tmp_path / "model"
    arguments = ["tabular", "fit", iris_csv, str(path), "--max-steps", "5", "--quiet"]
    rule = "petal width (cm) <= sepal length (cm)"
    result = run(app, [*arguments, "--rows", "100", "--constraint", rule])
    assert result.exit_code == 0, result.output
    assert "100 rows" in result.output
    out = tmp_path / "out.csv"
    assert run(app, ["tabular", "sample", str(path), str(out), "--quiet"]).exit_code == 0
    table = pd.read_csv(out)
    assert (table["petal width (cm)"] <= table["sepal length (cm)"]).all()
    result = run(app, [*arguments, "--delta", "0.1"])
    assert result.exit_code == 2
    assert "--epsilon" in result.output
    result = run(app, [*arguments, "--public", "petal width (cm)=0..3"])
    assert result.exit_code == 2
    assert "privacy" in result.output
    result = run(app, [*arguments, "--epsilon", "4", "--public", "petal=0..3"])
    assert result.exit_code == 2
    assert "no column 'petal'" in result.output
    result = run(app, [*arguments, "--constraint", "nonsense"])
    assert result.exit_code == 2
    assert "nonsense" in result.output


def test_a_part_of_all_rows_is_the_file(iris_csv) -> None:
    pd.testing.assert_frame_equal(read_table(Path(iris_csv), rows=1000), pd.read_csv(iris_csv))
    part = read_table(Path(iris_csv), rows=40, seed=1)
    assert len(part) == 40
    assert (part.dtypes == pd.read_csv(iris_csv).dtypes).all()


def test_parts_of_a_table_make_one_parquet_file(tmp_path) -> None:
    pytest.importorskip("pyarrow")
    table = pd.DataFrame({"x": range(10), "when": pd.date_range("2024-01-01", periods=10)})
    path = tmp_path / "parts.parquet"
    assert write_chunks([table[:4], table[4:]], path) == 10
    pd.testing.assert_frame_equal(pd.read_parquet(path), table)
    assert len(read_table(path, rows=3)) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a;b\n" + "1;2\n" * 12, "instead of ';'"),
        ("a\tb\n" + "1\t2\n" * 12, r"instead of '\\t'"),
        ("a,b\n" + "1,2,3\n" * 12, "more values than the header has names"),
    ],
)
def test_files_that_are_no_tables(tmp_path, text, message) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    for rows in (None, 5):
        with pytest.raises(DataError, match=message):
            read_table(path, rows=rows)


def test_a_part_has_a_number_of_rows(iris_csv) -> None:
    with pytest.raises(ConfigError, match="rows must not be negative"):
        read_table(Path(iris_csv), rows=-5)
