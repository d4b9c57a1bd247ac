"""Digits by label, judged by a classifier that has seen real ones alone: the benchmark."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("images")


def test_the_ruler_knows_real_digits_copies_and_noise(benchmark):
    ruler = benchmark.Ruler(0, 400)
    real = ruler.real()
    assert real["precision"] >= 0.97
    assert real["copies"] < 0.01
    assert real["closer"] == pytest.approx(0.05, abs=0.01)
    copied = ruler.measure(ruler.train, ruler.train_y)
    assert (copied["copies"], copied["closer"]) == (1, 1)
    assert copied["frechet_ratio"] < 1.5
    rng = np.random.default_rng(0)
    noise = ruler.measure(rng.uniform(0, 16, (400, 1, 8, 8)), ruler.train_y[:400])
    assert noise["precision"] < 0.3
    assert noise["frechet_ratio"] > 10
    assert noise["copies"] == 0
    wrong = ruler.measure(ruler.test[:400], (ruler.test_y[:400] + 1) % 10)
    assert wrong["precision"] < 0.02


@pytest.mark.slow
def test_digits_reach_their_goals(benchmark):
    record = benchmark.run(1500, 400, 0, None)
    plain, real = record["scales"]["1"], record["real"]
    for scale in ("1", "2", "3"):
        assert record["scales"][scale]["precision"] >= benchmark.GOALS["precision"]
    assert plain["frechet_ratio"] < benchmark.GOALS["frechet_ratio"]
    assert plain["copies"] <= real["copies"]
    assert plain["closer"] <= real["closer"]
    sweep = [record["scales"][scale] for scale in ("0", "1", "2", "4", "8")]
    assert sweep[0]["precision"] < 0.3, "without guidance a sample shows any digit"
    spread = [figures["diversity"] for figures in sweep]
    assert spread == sorted(spread, reverse=True)
    assert record["fit_cpu_seconds"] < 240


def test_a_record_becomes_a_table(benchmark):
    record = json.loads((FOLDER / "results" / "images.json").read_text())
    table = benchmark.render(record)
    assert (FOLDER / "results" / "images.md").read_text() == table
    missed = json.loads(json.dumps(record))
    missed["scales"]["2"]["precision"] = 0.5
    assert benchmark.render(missed).count("✗") == table.count("✗") + (
        min(record["scales"][s]["precision"] for s in ("1", "2", "3")) >= 0.95
    )
