"""The table benchmark: its figures where the answer is known, its bookkeeping, its failures."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def modules(monkeypatch):
    """Import a script or helper of the benchmarks by name."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


def make_rows(n, seed):
    rng = np.random.default_rng(seed)
    size = rng.normal(size=n).round(3)
    return pd.DataFrame(
        {
            "size": size,
            "count": rng.poisson(4 + np.abs(size)).astype(float),
            "kind": np.where(size + rng.normal(size=n) > 0, "a", "b"),
            "day": pd.Series(
                pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 99, n), "D")
            ).dt.strftime("%Y-%m-%d"),
        }
    )


@pytest.fixture
def benchmark(modules):
    return modules("_tables").Benchmark(
        name="made",
        train=make_rows(240, 0),
        test=make_rows(120, 1),
        target="kind",
        task="binclass",
        kinds={
            "size": "numerical",
            "count": "numerical",
            "kind": "categorical",
            "day": "datetime",
        },
        integers=frozenset({"count"}),
    )


def score(modules, benchmark, synthetic):
    figures = modules("_scoring").score(benchmark, synthetic, skip=("boosted", "efficacy"))
    assert "failed" not in figures
    return figures


def test_a_copy_has_perfect_marginals_and_gives_itself_away(modules, benchmark):
    figures = score(modules, benchmark, benchmark.train)
    assert figures["shape_error"] == pytest.approx(0, abs=1e-9)
    assert figures["trend_error"] == pytest.approx(0, abs=1e-9)
    assert figures["copies"] == 1
    assert figures["dcr_all_share"] == 1
    assert figures["dcr_all_ideal"] == 240 / 360
    assert figures["alpha_precision"] > 0.98


def test_new_real_rows_are_no_copies(modules, benchmark):
    figures = score(modules, benchmark, make_rows(900, 2))
    assert figures["copies"] == 0
    assert figures["dcr_all_share"] == pytest.approx(240 / 360, abs=0.05)
    assert figures["c2st_logistic"] > 0.8


def test_shuffled_columns_keep_the_shape_and_lose_the_trend(modules, benchmark):
    rng = np.random.default_rng(0)
    shuffled = benchmark.train.apply(lambda column: rng.permutation(column.to_numpy()))
    figures = score(modules, benchmark, shuffled)
    assert figures["shape_error"] == pytest.approx(0, abs=1e-9)
    assert figures["trend_error"] > 3


def test_invalid_values_are_counted(modules, benchmark):
    wrong = make_rows(100, 3)
    wrong["size"] = wrong["size"].clip(-1, 1)
    wrong["count"] = wrong["count"].clip(1, 6)
    wrong.loc[:9, "kind"] = "c"
    wrong.loc[:19, "size"] = 99.0
    wrong.loc[:29, "count"] = 2.5
    wrong.loc[:49, "day"] = None
    figures = modules("_scoring").Judge(benchmark, wrong).validity()
    assert figures["invalid_category"] == pytest.approx(0.1)
    assert figures["invalid_range"] == pytest.approx(0.2)
    assert figures["invalid_integer"] == pytest.approx(0.3)
    assert figures["missing_synthetic"] == pytest.approx(0.5 / 4)


def test_a_figure_that_fails_has_its_reason_and_the_others_stand(modules, benchmark):
    empty = benchmark.train.assign(size=np.nan)
    figures = modules("_scoring").score(benchmark, empty, skip=("boosted", "efficacy"))
    assert figures["copies"] == 0
    assert all("\n" not in reason for reason in figures.get("failed", {}).values())


def make_job(modules, benchmark, folder, **changes):
    train = folder / "train.csv"
    benchmark.train.to_csv(train, index=False)
    job = modules("peers.worker").Job(
        method="bootstrap",
        adapter="floors",
        train=str(train),
        out=str(folder / "synthetic.csv"),
        kinds=benchmark.kinds,
        integers=sorted(benchmark.integers),
        target=benchmark.target,
        task=benchmark.task,
        rows=50,
        budget=1.0,
        seed=0,
        threads=1,
        device="cpu",
    )
    return dataclasses.replace(job, **changes)


def test_a_run_has_a_process_of_its_own_and_says_what_it_cost(modules, benchmark, tmp_path):
    record = modules("tabular").run_job(make_job(modules, benchmark, tmp_path), timeout=120)
    assert record["peak_mib"] > 10
    assert record["fit_cpu_seconds"] >= 0
    rows = pd.read_csv(tmp_path / "synthetic.csv")
    assert list(rows.columns) == list(benchmark.kinds)
    assert len(rows) == 50
    assert rows.merge(benchmark.train, how="left", indicator=True)["_merge"].eq("both").all()


def test_failures_are_one_line_each(modules, benchmark, tmp_path, monkeypatch):
    tabular, registry = modules("tabular"), modules("peers.registry")
    wrong = make_job(modules, benchmark, tmp_path, kinds={"nowhere": "numerical"})
    assert "nowhere" in tabular.run_job(wrong, timeout=120)["failed"]
    (tmp_path / "synthetic.json").unlink()
    absent = make_job(modules, benchmark, tmp_path, adapter="no_such_adapter")
    assert "no_such_adapter" in tabular.run_job(absent, timeout=120)["failed"]
    missing = dataclasses.replace(registry.METHODS["ctgan"], environment="never-installed")
    monkeypatch.setitem(registry.METHODS, "ctgan", missing)
    job = make_job(modules, benchmark, tmp_path, method="ctgan")
    assert "install.py never-installed" in tabular.run_job(job, timeout=120)["failed"]


def test_results_are_kept_replaced_and_rendered(modules, benchmark, tmp_path):
    tabular = modules("tabular")
    path = tmp_path / "tabular_made.json"
    common = {"budget": 60.0, "threads": 1, "device": "cpu"}
    common |= {"machine": {"gpu": None, "processor": "a processor"}}

    def entry(method, seed, **figures):
        return common | {"method": method, "seed": seed} | figures

    tabular.save(path, benchmark, [entry("scidiffusion", 0, c2st_xgb=0.5, mle_real_auc=0.9)])
    tabular.save(path, benchmark, [entry("scidiffusion", 1, c2st_xgb=0.9)])
    tabular.save(path, benchmark, [entry("scidiffusion", 0, c2st_xgb=0.7, mle_real_auc=0.9)])
    tabular.save(path, benchmark, [entry("ctgan", 0, failed="out of memory")])
    runs = json.loads(path.read_text())["runs"]
    assert [(run["method"], run["seed"]) for run in runs] == [
        ("scidiffusion", 0),
        ("scidiffusion", 1),
        ("ctgan", 0),
    ]
    text = modules("_rendering").render([path])
    assert "| scidiffusion | 0.800 ± 0.141 |" in text
    assert "MLE AUC (real 0.900)" in text
    assert "- CTGAN (SDV): out of memory" in text


def test_goals_are_marked_as_reached_or_not(modules, benchmark, tmp_path):
    rendering, path = modules("_rendering"), tmp_path / "tabular_magic.json"
    record = {"dataset": "magic", "task": "binclass", "runs": []}
    for seed, (c2st, auc) in enumerate([(0.84, 0.93), (0.87, 0.94)]):
        figures = {"c2st_xgb": c2st, "mle_auc": auc, "mle_real_auc": 0.95, "trend_error": 1.0}
        figures |= {"dcr_all_share": 0.925, "dcr_all_ideal": 0.9}
        record["runs"].append({"method": "scidiffusion", "seed": seed} | figures)
    path.write_text(json.dumps(record))
    line = rendering.render_goals([path]).splitlines()[-1]
    assert "| 0.855 (≥ 0.85) ✓ |" in line
    assert "| AUC 0.9350 (≥ 0.938) ✗ |" in line
    assert "| +0.025 ✗ |" in line
    assert line.endswith("| 2 |")


def test_privacy_is_scored_at_every_budget(modules, benchmark, tmp_path, monkeypatch, capsys):
    """Both fits for real, on few rows; the spent epsilon stays within the budget."""
    privacy = modules("privacy")
    larger = dataclasses.replace(benchmark, train=make_rows(3000, 0))
    monkeypatch.setattr(privacy, "load", lambda *_: larger)
    out = tmp_path / "privacy_made.json"
    command = ["privacy.py", "--epsilons", "50", "--steps", "4", "--out", str(out)]
    skip = ["--skip", "logistic", "coverage", "boosted", "efficacy"]
    monkeypatch.setattr("sys.argv", command + skip)
    privacy.main()
    plain, private = json.loads(out.read_text())["runs"]
    assert plain["epsilon_spent"] is None
    assert 0 < private["epsilon_spent"] <= 50
    assert {"shape_error", "dcr_all_share"} <= plain.keys() & private.keys()
    record = json.loads(out.read_text())
    for run in record["runs"]:
        run["mle_auc"], run["mle_real_auc"] = 0.75, 0.9
    out.write_text(json.dumps(record))
    text = privacy.render([out])
    assert "the judge reaches 0.900" in text
    assert text.index("| 50 |") < text.index("| no privacy |")


def test_imputation_errors_look_at_the_blanked_cells_alone(modules, benchmark):
    imputation = modules("imputation")
    mask = np.zeros(benchmark.test.shape, dtype=bool)
    mask[:10, 0], mask[5:15, 2] = True, True
    holed = imputation.blank(benchmark.test, mask)
    assert holed.isna().to_numpy().sum() == mask.sum()
    exact = modules("_tables").plain(benchmark, benchmark.test)
    figures = imputation.imputation_errors(benchmark, exact, mask)
    assert figures == {"rmse": 0.0, "accuracy": 1.0}
    shifted = exact.assign(size=exact["size"] + benchmark.train["size"].std())
    shifted.loc[5:9, "kind"] = "neither"
    figures = imputation.imputation_errors(benchmark, shifted, mask)
    assert figures == pytest.approx({"rmse": 1.0, "accuracy": 0.5})


def test_simple_imputers_fill_every_cell(modules, benchmark):
    imputation = modules("imputation")
    mask = np.random.default_rng(0).random(benchmark.test.shape) < 0.3
    holed = imputation.blank(benchmark.test, mask)
    known = modules("_tables").plain(benchmark, benchmark.test)
    found = {}
    for name, tables in {
        "constant": imputation.constant(benchmark, holed),
        "forest": imputation.forest(benchmark, holed, rows=200, seed=0),
    }.items():
        (filled,) = tables
        assert not filled.isna().to_numpy().any()
        assert not (filled == "__missing__").to_numpy().any()
        kept = ~mask[:, 2]
        assert (filled["kind"][kept] == known["kind"][kept]).all()
        found[name] = imputation.imputation_errors(benchmark, filled, mask)
    # Size and kind depend on each other, which only one of the two can know.
    assert found["forest"]["accuracy"] > found["constant"]["accuracy"]


def test_proper_scores_are_least_for_the_true_law(modules):
    imputation = modules("imputation")
    rng = np.random.default_rng(0)
    truths = rng.normal(size=400)
    scores = {
        scale: np.mean([imputation.crps(scale * rng.normal(size=100), t) for t in truths])
        for scale in (0.4, 1.0, 2.5)
    }
    assert min(scores, key=scores.get) == 1.0
    # Of the standard normal it is 1/sqrt(pi).
    assert scores[1.0] == pytest.approx(np.pi**-0.5, abs=0.04)
    assert imputation.crps(np.full(5, 2.0), 3.0) == 1.0
    levels = rng.choice(["x", "y"], p=[0.3, 0.7], size=4000)
    draws = {p: rng.choice(["x", "y"], p=[p, 1 - p], size=50) for p in (0.05, 0.3, 0.9)}
    brier = {p: np.mean([imputation.brier(d, y) for y in levels]) for p, d in draws.items()}
    assert min(brier, key=brier.get) == 0.3
    assert imputation.brier(np.array(["x", "x"]), "x") == 0
    assert imputation.brier(np.array(["x", "x"]), "z") == 2


def test_a_data_set_must_exist(modules, tmp_path):
    tables = modules("_tables")
    with pytest.raises(SystemExit, match="needs --data-dir"):
        tables.load(None, "adult")
    with pytest.raises(SystemExit, match=r"holds no meta\.json"):
        tables.load(tmp_path, "adult")
    parser = argparse.ArgumentParser()
    tables.add_data_arguments(parser)
    assert parser.parse_args([]).dataset == "randhie"


def test_a_folder_is_read_as_its_meta_says(modules, benchmark, tmp_path):
    folder = tmp_path / "made"
    folder.mkdir()
    benchmark.train.assign(extra=1).to_csv(folder / "train.csv", index=False)
    benchmark.test.to_csv(folder / "test.csv", index=False)
    columns = [
        {"name": name, "kind": kind, "integer": name in benchmark.integers}
        for name, kind in benchmark.kinds.items()
    ]
    meta = {"target": "kind", "task_type": "binclass", "columns": columns}
    (folder / "meta.json").write_text(json.dumps(meta))
    read = modules("_tables").load(tmp_path, "made")
    pd.testing.assert_frame_equal(read.train, benchmark.train)
    assert (read.target, read.kinds, read.integers) == (
        benchmark.target,
        benchmark.kinds,
        benchmark.integers,
    )
