"""The command line end to end, on a small table, with its exit codes and messages."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from sklearn.datasets import load_iris
from typer.testing import CliRunner

from scidiffusion.cli.main import app

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
