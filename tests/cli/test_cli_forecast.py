"""`scidiffusion forecast` end to end: CSV and Parquet, wide and long, exit codes and messages."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from scidiffusion.cli.main import app
from scidiffusion.timeseries import DiffusionForecaster

run = CliRunner().invoke
STEPS = ["--max-steps", "5", "--quiet", "--seed", "0"]

# A shell starts its background jobs with SIGINT ignored; a terminal does not.
INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from scidiffusion.cli.main import app

app()
"""


def wide(periods=60):
    index = pd.date_range("2024-01-01", periods=periods, freq="D", name="day")
    noise = np.random.default_rng(0).normal(size=(periods, 2))
    values = np.sin(np.arange(periods) / 7 * 2 * np.pi)[:, None] + 0.1 * noise + [10, 20]
    return pd.DataFrame(values, index=index, columns=["a", "b"])


def long():
    frame = wide().melt(var_name="shop", value_name="sales", ignore_index=False).reset_index()
    frame["promotion"] = (frame["day"].dt.day == 1).astype(int)
    return frame


def write(frame, path):
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        pytest.importorskip("pyarrow")
        frame.to_parquet(path)
    return str(path)


def forecast(*arguments):
    return run(app, ["forecast", *map(str, arguments)])


def succeed(*arguments):
    result = forecast(*arguments)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("series")


@pytest.fixture(scope="module")
def wide_csv(folder):
    return write(wide().reset_index(), folder / "wide.csv")


@pytest.fixture(scope="module")
def model(folder, wide_csv):
    path = str(folder / "model")
    result = succeed("fit", wide_csv, path, "--horizon", 5, *STEPS)
    assert "(freq D)" in result.output
    assert "5 steps" in result.output
    return path


def test_help_names_the_commands():
    text = run(app, ["forecast", "--help"]).output
    for command in ("fit", "predict", "backtest", "impute", "plot"):
        assert command in text


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_wide_table_of_any_kind(tmp_path, suffix):
    """Times in the first column, whatever it is called; in Parquet they may be the index."""
    if suffix == ".csv":
        data = write(wide().reset_index(names=""), tmp_path / "data.csv")
    else:
        data = write(wide(), tmp_path / "data.parquet")
    fitted, out = tmp_path / "model", tmp_path / f"out{suffix}"
    succeed("fit", data, fitted, "-H", 5, *STEPS)
    result = succeed("predict", fitted, data, out, "--seed", 3, "--quiet", "-n", 20)
    assert "Wrote 5 rows" in result.output
    table = pd.read_csv(out) if suffix == ".csv" else pd.read_parquet(out)
    assert table.columns[1:].tolist() == [
        f"{name}/{level}" for name in "ab" for level in (0.05, 0.25, 0.5, 0.75, 0.95)
    ]
    times = pd.to_datetime(table.iloc[:, 0])
    assert times.tolist() == list(pd.date_range("2024-03-01", periods=5))
    first = out.read_bytes()
    succeed("predict", fitted, data, out, "--seed", 3, "--quiet", "-n", 20)
    assert out.read_bytes() == first


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_long_table_with_covariates(tmp_path, suffix):
    data = write(long(), tmp_path / f"data{suffix}")
    ahead = pd.DataFrame({"day": pd.date_range("2024-03-01", periods=5), "promotion": 0})
    future = write(ahead, tmp_path / f"future{suffix}")
    fitted, out = tmp_path / "model", tmp_path / f"out{suffix}"
    columns = ["--time", "day", "--id", "shop", "--target", "sales", "--known", "promotion"]
    succeed("fit", data, fitted, "-H", 5, *columns, "--freq", "D", *STEPS)
    options = ["--future", future, "--quiet", "-n", 7, "--seed", 0]
    succeed("predict", fitted, data, out, *options, "--quantile", 0.1, "--quantile", 0.9)
    read = pd.read_csv if suffix == ".csv" else pd.read_parquet
    table = read(out)
    assert list(table) == ["shop", "day", "0.1", "0.9"]
    assert table["shop"].tolist() == ["a"] * 5 + ["b"] * 5
    succeed("predict", fitted, data, out, *options, "--paths", "--lower", 19.5)
    table = read(out)
    assert list(table) == ["shop", "day", "sample", "sales"]
    assert len(table) == 2 * 5 * 7
    assert table["sales"].min() >= 19.5
    result = forecast("predict", fitted, data, tmp_path / "none.csv", "--quiet")
    assert result.exit_code == 2
    assert "'promotion' is missing at 2024-03-01" in result.output
    assert not (tmp_path / "none.csv").exists()
    picture = tmp_path / "fan.png"
    succeed("plot", fitted, data, picture, "--series", "b", *options)
    assert picture.stat().st_size > 1000


def test_new_series_are_forecast_with_a_line_of_warning(tmp_path):
    data = write(long(), tmp_path / "data.csv")
    columns = ["--id", "shop", "--target", "sales"]
    succeed("fit", data, tmp_path / "model", "-H", 5, *columns, "--time", "day", *STEPS)
    new = write(long().replace({"shop": {"b": "c"}}), tmp_path / "new.csv")
    result = succeed("predict", tmp_path / "model", new, tmp_path / "out.csv", "--quiet")
    (line,) = [line for line in result.output.splitlines() if "Warning" in line]
    assert line.startswith("Warning: 1 of 2 series were not in the training data (c)")
    assert pd.read_csv(tmp_path / "out.csv")["shop"].unique().tolist() == ["a", "c"]


def test_static_columns_of_a_long_table(tmp_path):
    """The model learns them from the table; every later command reads them from its own."""
    frame = long().drop(columns="promotion")
    frame["size"] = frame["shop"].map({"a": 1.5, "b": 4.0})
    frame["kind"] = frame["shop"].map({"a": "kiosk", "b": "mall"})
    data, fitted = write(frame, tmp_path / "data.csv"), tmp_path / "model"
    columns = ["--id", "shop", "--static", "size", "--static", "kind"]
    succeed("fit", data, fitted, "-H", 5, *columns, *STEPS)
    layout = DiffusionForecaster.load(fitted).layout_
    assert layout.targets == ("sales",)
    assert layout.static_real == ("size",)
    assert layout.static_cat == {"kind": ("kiosk", "mall")}

    out, options = tmp_path / "out.csv", ["--quiet", "--seed", 0, "-n", 6]
    succeed("predict", fitted, data, out, "--paths", *options)
    loaded = DiffusionForecaster.load(fitted)
    static = pd.DataFrame({"size": [1.5, 4.0], "kind": ["kiosk", "mall"]}, index=["a", "b"])
    expected = loaded.predict(
        frame[["shop", "day", "sales"]],
        static=static,
        quantiles=None,
        num_samples=6,
        random_state=0,
    )
    np.testing.assert_allclose(pd.read_csv(out)["sales"], expected["sales"], rtol=1e-6)
    succeed("impute", fitted, data, tmp_path / "full.csv", *options)
    succeed("plot", fitted, data, tmp_path / "fan.png", *options)
    succeed("backtest", data, "-H", 5, "-w", 2, *columns, "-n", 6, *STEPS)

    bare = write(frame.drop(columns="size"), tmp_path / "bare.csv")
    result = forecast("predict", fitted, bare, tmp_path / "none.csv", "--quiet")
    assert result.exit_code == 2
    assert "the static columns size, kind" in result.output
    frame.loc[3, "size"] = 2.0
    changing = write(frame, tmp_path / "changing.csv")
    result = forecast("fit", changing, tmp_path / "other", "-H", 5, *columns, *STEPS)
    assert result.exit_code == 2
    assert "series 'a': the static column 'size' changes from 1.5 to 2.0" in result.output
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("kind", ["wide", "long"])
def test_impute_fills_the_gaps(tmp_path, kind):
    whole = wide().reset_index() if kind == "wide" else long().drop(columns="promotion")
    values = ["a", "b"] if kind == "wide" else ["sales"]
    columns = [] if kind == "wide" else ["--id", "shop", "--time", "day"]
    holes = whole.copy()
    holes.loc[10:14, values[0]] = np.nan
    holes = holes.drop(index=[30, 31])
    data = write(holes, tmp_path / "holes.csv")
    fitted, out = tmp_path / "model", tmp_path / "full.csv"
    succeed("fit", write(whole, tmp_path / "data.csv"), fitted, "-H", 5, *columns, *STEPS)
    result = succeed("impute", fitted, data, out, "--quiet", "--seed", 0, "-n", 10)
    assert f"Wrote {len(whole)} rows" in result.output
    full = pd.read_csv(out, parse_dates=["day"])
    assert list(full) == (["day", "a", "b"] if kind == "wide" else ["shop", "day", "sales"])
    assert full.notna().all(axis=None)
    keys = [name for name in ("shop", "day") if name in full]
    kept = holes.dropna().set_index(keys)
    pd.testing.assert_frame_equal(full.set_index(keys).loc[kept.index], kept[values])
    first = out.read_bytes()
    succeed("impute", fitted, data, out, "--quiet", "--seed", 0, "-n", 10, "--draw", 2)
    assert out.read_bytes() != first


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_backtest_prints_the_floors_and_writes_the_scores(tmp_path, suffix):
    data = write(wide().reset_index(), tmp_path / f"data{suffix}")
    out, picture = tmp_path / "scores.json", tmp_path / "windows.svg"
    options = ["-H", 5, "--windows", 2, "--out", out, "--plot", picture, "-n", 20]
    result = succeed("backtest", data, *options, *STEPS)
    for word in ("diffusion", "walk", "seasonal", "bootstrap", "CRPS", "PIT histogram"):
        assert word in result.output
    scores = json.loads(out.read_text())
    assert set(scores) > {"diffusion", "gaussian_walk"}
    assert scores["diffusion"]["windows"] == 2
    assert picture.read_text().startswith("<?xml")
    again = tmp_path / "again.json"
    succeed("backtest", data, "-H", 5, "-w", 2, "--out", again, "-n", 20, *STEPS)
    assert again.read_bytes() == out.read_bytes()


def test_what_was_fitted_here_is_loaded_there(model, wide_csv):
    loaded = DiffusionForecaster.load(model)
    assert loaded.prediction_length == 5
    assert loaded.predict(pd.read_csv(wide_csv), num_samples=5).shape == (5, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "no-such-model", "{data}", "out.csv"], "no-such-model"),
        (["predict", "{model}", "no-such.csv", "out.csv"], "no-such.csv"),
        (["predict", "{model}", "{data}", "out.txt"], ".csv or .parquet"),
        (["predict", "{model}", "{data}", "/proc/nowhere/out.csv"], "/proc/nowhere"),
        (["predict", "{model}", "{data}", "out.csv", "--quantile", "2"], "quantile level"),
        (["predict", "{model}", "{data}", "out.csv", "-n", "0"], "num_samples"),
        (["predict", "{model}", "{data}", "out.csv", "--paths", "--quantile", "0.5"], "not both"),
        (
            ["predict", "{model}", "{data}", "out.csv", "--lower", "3", "--upper", "2"],
            "lower exceeds upper",
        ),
        (["predict", "{model}", "{short}", "out.csv"], "no column 'a'"),
        (["impute", "{model}", "{data}", "out.xlsx"], ".csv or .parquet"),
        (["impute", "{model}", "{data}", "out.csv", "--draw", "100"], "0 to 99; got 100"),
        (["plot", "{model}", "{data}", "fan.gif"], ".png, .pdf or .svg"),
        (["plot", "{model}", "{data}", "/proc/nowhere/fan.png"], "/proc/nowhere"),
        (["plot", "{model}", "{data}", "fan.png", "--series", "c"], "there are a, b"),
        (["fit", "no-such.csv", "model", "-H", "5"], "no-such.csv"),
        (["fit", "{data}", "/proc/nowhere/model", "-H", "5"], "/proc/nowhere"),
        (["fit", "{data}", "model", "-H", "0"], "prediction_length"),
        (["fit", "{data}", "model", "-H", "5", "--target", "c"], "no column 'c'"),
        (["fit", "{data}", "model", "-H", "5", "--known", "c"], "no column 'c'"),
        (["fit", "{data}", "model", "-H", "5", "--static", "c"], "no column 'c'"),
        (["fit", "{data}", "model", "-H", "5", "--static", "b"], "needs a long frame"),
        (["fit", "{data}", "model", "-H", "5", "--time", "c"], "no column 'c'"),
        (["fit", "{data}", "model", "-H", "5", "--id", "c"], "no column 'c'"),
        (["fit", "{data}", "model", "-H", "5", "--freq", "fortnight"], "'fortnight'"),
        (["fit", "{data}", "model", "-H", "5", "--freq", "h"], "give freq='D'"),
        (["fit", "{data}", "model", "-H", "5", "--budget", "soon"], "budget"),
        (["fit", "{data}", "model", "-H", "5", "--method", "arima"], "window, timegrad"),
        (["fit", "{short}", "model", "-H", "5"], "needs at least 6"),
        (["backtest", "{data}", "-H", "5", "-w", "20"], "needs at least 106"),
        (["backtest", "{data}", "-H", "5", "--plot", "windows.gif"], ".png, .pdf or .svg"),
        (["backtest", "{data}", "-H", "5", "--out", "/proc/nowhere/s.json"], "/proc/nowhere"),
    ],
)
def test_one_clear_error(model, wide_csv, arguments, message, tmp_path_factory, monkeypatch):
    """Status 2, one line, no traceback, and nothing written."""
    folder = tmp_path_factory.mktemp("here")
    short = write(wide(5).rename(columns={"a": "x"}).reset_index(), folder / "short.csv")
    work = folder / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    result = forecast(*(a.format(model=model, data=wide_csv, short=short) for a in arguments))
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert "Traceback" not in result.output
    assert result.output.strip().startswith("Error: ")
    assert result.output.strip().count("\n") == 0
    assert not list(work.iterdir())


def test_outputs_are_checked_before_any_work(model, monkeypatch, tmp_path):
    """A path that cannot be written is found before the data is even looked at."""
    monkeypatch.setattr(DiffusionForecaster, "load", pytest.fail)
    monkeypatch.setattr("scidiffusion.cli.forecast.read_table", pytest.fail)
    blocked = tmp_path / "a file"
    blocked.touch()
    for command in (
        ["predict", model, "data.csv", blocked / "out.csv"],
        ["impute", model, "data.csv", blocked / "out.csv"],
        ["plot", model, "data.csv", blocked / "out.png"],
        ["fit", "data.csv", blocked / "model", "-H", 5],
        ["backtest", "data.csv", "-H", 5, "--out", blocked / "out.json"],
        ["backtest", "data.csv", "-H", 5, "--plot", blocked / "out.png"],
    ):
        result = forecast(*command)
        assert result.exit_code == 2, result.output
        assert str(blocked) in result.output.replace("\n", "")


def test_interrupt_leaves_a_checkpoint_and_resumes(wide_csv, tmp_path):
    """Ctrl-C in training: status 130 and a checkpoint; --resume ends as if never interrupted."""

    def fit(path):
        options = ["-H", "5", "--max-steps", "80", "--quiet", "--seed", "0"]
        return ["forecast", "fit", wide_csv, str(path), *options]

    path, checkpoint = tmp_path / "model", tmp_path / "model.checkpoint"
    command = [sys.executable, "-c", INTERRUPTIBLE, *fit(path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    # The first checkpoint is written after the first step.
    deadline = time.monotonic() + 120
    while not list(checkpoint.glob("[!.]*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "--resume" in stderr
    assert not path.exists()

    result = run(app, [*fit(path), "--resume"])
    assert result.exit_code == 0, result.output
    assert not checkpoint.exists()
    whole = run(app, fit(tmp_path / "whole"))
    assert whole.exit_code == 0, whole.output
    weights = "weights.safetensors"
    assert (path / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
