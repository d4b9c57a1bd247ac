"""The commands `tabular score` and `tabular report`, end to end on a small table."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from scidiffusion.cli.main import app
from scidiffusion.tabular import judges

run = CliRunner().invoke


def population(n, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n).round(3)
    return pd.DataFrame(
        {"x": x, "day": pd.Timestamp("2020-01-01"), "sort": np.where(x > 0, "a", "b")}
    )


@pytest.fixture(scope="module", autouse=True)
def _hasty_judges():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(judges.TREES, "max_iter", 8)
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    paths = {}
    for seed, name in enumerate(("real", "synthetic", "holdout")):
        table = population(150, seed)
        table["day"] += pd.to_timedelta(np.random.default_rng(seed).integers(0, 90, 150), "D")
        paths[name] = str(folder / f"{name}.csv")
        table.to_csv(paths[name], index=False)
    narrow = folder / "narrow.csv"
    pd.read_csv(paths["synthetic"]).drop(columns="day").to_csv(narrow, index=False)
    empty = folder / "empty.csv"
    empty.write_text("x,day,sort\n")
    return paths | {"narrow": str(narrow), "empty": str(empty)}


def arguments_of(command, files):
    return ["tabular", *(part.format(**files) for part in command.split())]


def test_the_help_names_both() -> None:
    result = run(app, ["tabular", "--help"])
    assert "score" in result.output
    assert "report" in result.output


def test_a_report_is_written(files, tmp_path) -> None:
    out = tmp_path / "deep" / "page.html"
    command = "report {real} {synthetic} --holdout {holdout} --target sort -o " + str(out)
    result = run(app, arguments_of(command, files))
    assert result.exit_code == 0, result.output
    assert str(out) in result.output.replace("\n", "")
    text = out.read_text()
    assert "<h1>synthetic.csv against real.csv</h1>" in text
    assert "AUC of sort" in text
    assert "1 datetime" in text
    first = out.read_bytes()
    run(app, arguments_of(command, files))
    assert out.read_bytes() == first


def test_without_a_holdout_it_says_what_is_held_aside(files, tmp_path) -> None:
    command = f"report {{real}} {{synthetic}} --seed 4 --title Mine -o {tmp_path / 'r.html'}"
    result = run(app, arguments_of(command, files))
    assert result.exit_code == 0, result.output
    assert "30 of the 150 real rows, drawn with seed 4" in result.output
    assert "<h1>Mine</h1>" in (tmp_path / "r.html").read_text()


def test_scores_are_printed_and_written(files, tmp_path) -> None:
    out = tmp_path / "scores.json"
    command = "score {real} {synthetic} --holdout {holdout} --target x --json " + str(out)
    result = run(app, arguments_of(command, files))
    assert result.exit_code == 0, result.output
    assert "real vs real" in result.output
    assert "R2 of x" in result.output
    record = json.loads(out.read_text())
    assert record["rows"] == {"train": 150, "synthetic": 150, "test": 150}
    assert record["synthetic"]["dcr_share"] is not None
    assert f"{record['synthetic']['c2st']:.3f}" in result.output


def test_scores_without_a_holdout_leave_out_what_needs_one(files, tmp_path) -> None:
    out = tmp_path / "scores.json"
    result = run(app, arguments_of("score {real} {synthetic} --json " + str(out), files))
    assert result.exit_code == 0, result.output
    assert "held aside" in result.output
    assert json.loads(out.read_text())["synthetic"]["dcr_share"] is None


def test_parquet_and_kinds(files, tmp_path) -> None:
    pytest.importorskip("pyarrow")
    pd.read_csv(files["real"], parse_dates=["day"]).to_parquet(tmp_path / "real.parquet")
    out = tmp_path / "r.html"
    command = f"report {tmp_path}/real.parquet {{synthetic}} --categorical x -o {out}"
    result = run(app, arguments_of(command, files))
    assert result.exit_code == 0, result.output
    assert "2 categorical, 1 datetime" in out.read_text()


@pytest.mark.parametrize("command", ["score", "report"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{real} no-such.csv", "no-such.csv"),
        ("{real} {narrow}", "lacks 'day'"),
        ("{real} {empty}", "has no rows"),
        ("{real} {synthetic} --holdout {narrow}", "lacks 'day'"),
        ("{real} {synthetic} --target sorts", "did you mean 'sort'"),
        ("{real} {synthetic} --numerical sort", "sort"),
    ],
)
def test_one_clear_error(command, arguments, message, files, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(app, arguments_of(f"{command} {arguments}", files))
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "option", ["report {real} {synthetic} -o", "score {real} {synthetic} --json"]
)
def test_a_path_that_cannot_be_written_fails_before_the_work(option, files) -> None:
    result = run(app, arguments_of(f"{option} /proc/nowhere/out", files))
    assert result.exit_code == 2
    assert "/proc/nowhere/out" in result.output


def test_a_nested_parquet_column_is_one_clear_error(files, tmp_path) -> None:
    pytest.importorskip("pyarrow")
    table = pd.read_csv(files["synthetic"])
    table["x"] = [[1.0, 2.0]] * len(table)
    table.to_parquet(tmp_path / "nested.parquet")
    command = f"{{real}} {tmp_path}/nested.parquet"
    for words in (f"score {command}", f"report {command} -o {tmp_path}/r.html"):
        result = run(app, arguments_of(words, files))
        assert result.exit_code == 2
        assert "'x'" in result.output
        assert "nested" in result.output
    assert not (tmp_path / "r.html").exists()
