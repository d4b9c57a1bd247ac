"""The copy report: a copy is caught by every figure, fresh rows pass, half a copy is between."""

from __future__ import annotations

import io
import itertools
import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy.stats import binomtest, mannwhitneyu, norm
from sklearn.metrics import roc_auc_score

from scidiffusion.errors import ConfigError, DataError, ScidiffusionWarning
from scidiffusion.tabular.attacks import MembershipScores, true_positive_rate
from scidiffusion.tabular.inference import infer_schema
from scidiffusion.tabular.intervals import (
    auc_with_error,
    binomial_tail,
    difference,
    effective_count,
    wilson,
)
from scidiffusion.tabular.neighbours import Points, RowSpace, k_nearest, nearest_counts
from scidiffusion.tabular.privacy import copy_report
from scidiffusion.tabular.singling_out import singling_out
from scidiffusion.tabular.views import TableView

NAMES = {
    "copies",
    "dcr",
    "dcr_balanced",
    "membership_distance",
    "membership_density",
    "membership_tpr",
    "singling_out",
    "singling_out_joint",
    "attribute_inference",
}


def population(n, seed):
    """Numbers, levels (many of them), dates, booleans and missing values of a known law."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    table = pd.DataFrame(
        {
            "x": x.round(3),
            "y": x + rng.normal(scale=0.3, size=n),
            "count": rng.poisson(np.exp(0.5 * x)),
            "city": rng.zipf(1.5, size=n).clip(max=2000).astype(str),
            "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, n), unit="D"),
            "ok": rng.random(n) < 0.3,
        }
    )
    table.loc[rng.random(n) < 0.1, "y"] = np.nan
    return table


TRAIN, HOLDOUT, FRESH = population(600, 0), population(400, 1), population(600, 2)


@pytest.fixture(scope="module")
def reports():
    half = pd.concat([TRAIN[:300], FRESH[:300]], ignore_index=True)
    tables = {"fresh": FRESH, "half": half, "copy": TRAIN.sample(frac=1, random_state=0)}
    return {
        name: copy_report(TRAIN, table, HOLDOUT, attacks=400) for name, table in tables.items()
    }


def test_fresh_rows_pass_every_figure(reports):
    report = reports["fresh"]
    assert set(report.figures) == NAMES
    assert report.passed
    assert report.alarms == []
    assert report.verdict.startswith("No sign of copying: against 400 held-out rows, all 9")
    for name, figure in report.figures.items():
        assert 0 <= figure.low <= figure.value <= figure.high <= 1, name
        assert figure.low - 0.02 <= figure.ideal <= figure.high + 0.02, name
    assert report.figures["dcr"].ideal == pytest.approx(0.6)
    assert report.figures["dcr_balanced"].ideal == 0.5
    assert report.distances["to_train"] == pytest.approx(report.distances["to_holdout"], rel=0.15)


def test_a_copy_is_caught_by_every_figure(reports):
    report = reports["copy"]
    assert set(report.alarms) == NAMES
    assert report.verdict.startswith("Training rows leak")
    for name, figure in report.figures.items():
        if name != "dcr_balanced":
            assert figure.risk == pytest.approx(1, abs=0.05), name
        assert figure.low > figure.ideal, name
    assert report.distances["to_train"] == 0 < report.distances["to_holdout"]
    assert all(v["main"] > 0.95 for v in report.guessed.values())


def test_half_a_copy_lies_between(reports):
    for name in NAMES:
        fresh, half, copy = (reports[k].figures[name].risk for k in ("fresh", "half", "copy"))
        assert fresh + 0.1 < half < copy - 0.05, name
    assert reports["half"].figures["copies"].value == 0.5
    assert reports["half"].figures["membership_distance"].value == pytest.approx(0.75, abs=0.04)
    assert set(reports["half"].alarms) == NAMES


def test_honest_tables_seldom_raise_an_alarm():
    alarms = 0
    for seed in range(12):
        tables = [population(n, 100 * seed + k) for k, n in enumerate((180, 120, 60))]
        alarms += not copy_report(*tables, seed=seed, attacks=60).passed
    assert alarms <= 1


def test_a_table_of_few_distinct_rows_is_judged_fairly():
    # Every cell of the table is full of training and of held-out rows: all distances are 0.
    columns = ["ok"]
    report = copy_report(TRAIN[columns], FRESH[columns], HOLDOUT[columns])
    assert report.passed
    assert report.figures["copies"].value == report.figures["copies"].ideal == 1
    assert report.figures["copies"].risk == 0
    assert report.figures["dcr"].value == pytest.approx(0.6, abs=0.03)
    assert {"singling_out_joint", "attribute_inference"}.isdisjoint(report.figures)


def test_small_errors_are_no_disguise():
    rng = np.random.default_rng(0)
    noisy = TRAIN.assign(
        x=(TRAIN["x"] + rng.normal(scale=0.01, size=len(TRAIN))).round(3),
        y=TRAIN["y"] + rng.normal(scale=0.01, size=len(TRAIN)),
    )
    report = copy_report(TRAIN, noisy, HOLDOUT, attacks=200)
    assert report.figures["copies"].value < 0.2
    assert {"dcr", "membership_distance", "membership_density"} <= set(report.alarms)


def test_a_generator_with_wrong_marginals_that_copies_nobody_passes():
    shuffled = FRESH.apply(lambda c: np.random.default_rng(len(c.name)).permutation(c))
    assert copy_report(TRAIN, shuffled, HOLDOUT, attacks=200).passed


def test_the_report_depends_on_its_seed_alone_and_can_be_written(reports):
    again = copy_report(TRAIN, FRESH, HOLDOUT, attacks=400)
    assert again.to_json() == reports["fresh"].to_json()
    plain = json.loads(again.to_json())
    assert plain["passed"] is True
    assert plain["figures"]["dcr"]["ideal"] == pytest.approx(0.6)
    assert set(plain["figures"]["dcr"]) >= {"value", "low", "high", "risk", "p_value", "alarm"}
    assert plain["rows"] == {"train": 600, "synthetic": 600, "holdout": 400}
    frame = reports["copy"].to_frame()
    assert frame["alarm"].all()
    assert set(frame.index) == NAMES
    text = io.StringIO()
    Console(file=text, width=120).print(reports["copy"].render())
    assert "exact copies of training rows" in text.getvalue()
    assert "Training rows leak" in text.getvalue()


def test_a_large_table_is_thinned_and_says_so():
    report = copy_report(TRAIN, FRESH, HOLDOUT, max_rows=100, attacks=20)
    assert report.used == {"train": 100, "synthetic": 100, "holdout": 100}
    assert report.figures["dcr"].ideal == 0.5
    assert report.figures["copies"].count == 600


def test_kinds_can_be_given_by_name_or_by_schema():
    kinds = {"count": "categorical"}
    schema = infer_schema(TRAIN, kinds)
    by_name = copy_report(TRAIN, FRESH, HOLDOUT, columns=kinds, attacks=20)
    assert copy_report(TRAIN, FRESH, HOLDOUT, columns=schema, attacks=20) == by_name
    assert copy_report(TRAIN, FRESH, HOLDOUT, attacks=20) != by_name


def test_bad_arguments_are_refused_with_a_way_out():
    with pytest.raises(DataError, match="hold some aside before fitting"):
        copy_report(TRAIN, FRESH, None)
    with pytest.raises(DataError, match="holdout has 3 row"):
        copy_report(TRAIN, FRESH, HOLDOUT[:3])
    with pytest.raises(DataError, match=r"synthetic table lacks the column.*'ok'"):
        copy_report(TRAIN, FRESH.drop(columns="ok"), HOLDOUT)
    with pytest.raises(DataError, match=r"holdout lacks the column.*'ok'"):
        copy_report(TRAIN, FRESH, HOLDOUT.drop(columns="ok"))
    with pytest.raises(DataError, match="must be a DataFrame, got ndarray"):
        copy_report(TRAIN, FRESH.to_numpy(), HOLDOUT)
    with pytest.raises(ConfigError, match="attacks"):
        copy_report(TRAIN, FRESH, HOLDOUT, attacks=0)
    with pytest.raises(ConfigError, match="confidence"):
        copy_report(TRAIN, FRESH, HOLDOUT, confidence=95)


def test_held_out_rows_that_were_trained_on_are_noticed():
    with pytest.warns(ScidiffusionWarning, match="most held-out rows are training rows"):
        copy_report(TRAIN, FRESH, TRAIN[:200], attacks=10)


# ---------------------------------------------------------------------------- parts


def test_the_distance_counts_ranges_levels_and_missing_values():
    table = pd.DataFrame({"a": [0.0, 10.0, np.nan, 5.0], "level": list("uvuu"), "b": [1, 1, 1, 1]})
    view = TableView.of(table, infer_schema(table))
    points = RowSpace.of(view).points(view)
    nearest = k_nearest(points.take(slice(0, 1)), points, 4)
    # Missing: half a range away as the median is 5, and one more for the missing itself.
    assert nearest[0].tolist() == pytest.approx([0, 0.5, 1.5, 3])


def test_rows_equally_near_share_and_blocks_change_nothing(monkeypatch):
    base = Points(np.array([[0.0], [0.0], [1.0], [2.0]]), np.empty((4, 0)))
    queries = Points(np.array([[0.1], [1.0], [1.5], [9.0]]), np.empty((4, 0)))
    groups = [np.ones(4, dtype=bool), np.array([True, False, False, True])]

    def search():
        return nearest_counts(queries, base, groups)

    (counts, near), (part, _) = search()
    assert counts.tolist() == [0.5, 0.5, 1.5, 1.5]
    assert near.tolist() == pytest.approx([0.1, 0, 0.5, 7])
    assert part.tolist() == [1.5, 0, 0, 2.5]
    monkeypatch.setattr("scidiffusion.tabular.neighbours.BLOCK", 1)
    assert search()[0][0].tolist() == counts.tolist()


def test_the_variance_of_a_share_of_rows_pointed_at_is_exact():
    weights = np.array([3.0, 0.0, 1.0, 1.0, 0.5, 0.0])
    n_train = 4
    shares = [
        weights[list(chosen)].sum() / weights.sum()
        for chosen in itertools.combinations(range(6), n_train)
    ]
    ideal = n_train / 6
    assert np.mean(shares) == pytest.approx(ideal)
    train = np.arange(6) < n_train
    count = effective_count(weights, train, 100.0)
    assert ideal * (1 - ideal) / count == pytest.approx(np.var(shares))
    # Everybody pointed at once: the share cannot vary, and counts for no more than its rows.
    assert effective_count(np.ones(6), train, 6.0) == 6


def test_intervals_and_tails_are_those_of_the_textbooks():
    expected = binomtest(7, 40).proportion_ci(method="wilson")
    assert wilson(7 / 40, 40) == pytest.approx((expected.low, expected.high))
    assert wilson(0.3, 0) == (0, 1)
    tail = binomtest(7, 40, 0.1, alternative="greater").pvalue
    assert binomial_tail(7 / 40, 40, 0.1) == pytest.approx(tail)
    assert binomial_tail(0, 40, 0.1) == 1
    # Newcombe 1998, table II, method 10: 56/70 against 48/80.
    assert difference(56 / 70, 70, 48 / 80, 80) == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_the_area_under_the_curve_and_its_errors():
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 6, 300) + 1.0, rng.integers(0, 6, 200) + 0.0
    area, error, null_error = auc_with_error(positive, negative)
    labels = np.repeat([1, 0], [300, 200])
    assert area == pytest.approx(roc_auc_score(labels, np.concatenate([positive, negative])))
    z = mannwhitneyu(positive, negative, method="asymptotic", use_continuity=False)
    assert 2 * norm.sf((area - 0.5) / null_error) == pytest.approx(z.pvalue)
    pairs = rng.integers(0, 300, (400, 300)), rng.integers(0, 200, (400, 200))
    draws = [auc_with_error(positive[i], negative[j])[0] for i, j in zip(*pairs, strict=True)]
    assert error == pytest.approx(np.std(draws), rel=0.15)


def test_the_rate_at_few_false_alarms_is_unbiased_for_fresh_rows():
    rng = np.random.default_rng(0)
    rates = [
        true_positive_rate(MembershipScores(rng.random(50), rng.random(40)), 0.1, rng)
        for _ in range(600)
    ]
    assert np.mean(rates) == pytest.approx(0.1, abs=0.01)
    flat = MembershipScores(np.zeros(50), np.zeros(40))
    assert np.mean([true_positive_rate(flat, 0.1, rng) for _ in range(600)]) == pytest.approx(
        0.1, abs=0.01
    )
    apart = MembershipScores(np.ones(50), np.zeros(40))
    assert true_positive_rate(apart, 0.1, rng) == 1


def test_a_predicate_singles_out_the_one_row_it_was_read_from():
    real = pd.DataFrame({"a": np.arange(40) % 8, "b": list("xyxy") * 10})
    real.loc[0, "a"] = 99
    schema = infer_schema(real)
    train, holdout = (TableView.of(real[part], schema) for part in (slice(0, 20), slice(20, 40)))
    found = singling_out(
        train, holdout, train, attacks=50, several=False, rng=np.random.default_rng(0)
    )
    # 99 is unique, and the largest: two predicates, one row.
    assert found.weights.nonzero()[0].tolist() == [0]
    assert found.weights[0] == 2
    assert found.main * found.attacks == 2
    assert found.control == 0
