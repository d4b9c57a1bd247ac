"""Scores: perfect for a perfect copy of the distribution, and each fault seen by its figure."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy.stats import ks_2samp
from scipy.stats.contingency import association

from scidiffusion.errors import DataError, SchemaError
from scidiffusion.tabular.dependence import association_matrix, shape_errors, trend_error
from scidiffusion.tabular.inference import infer_schema
from scidiffusion.tabular.judges import classifier_two_sample_score, copy_share
from scidiffusion.tabular.metrics import quality_report, render_score_table, score_table
from scidiffusion.tabular.views import TableView


def population(n, seed):
    """Four dependent columns of a known law."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    group = np.where(x + rng.normal(scale=0.5, size=n) > 0, "high", "low")
    return pd.DataFrame(
        {
            "x": x,
            "y": x + rng.normal(scale=0.3, size=n),
            "group": group,
            "count": rng.poisson(np.exp(0.5 * x)),
        }
    )


TRAIN, TEST, FRESH = population(1500, 0), population(1000, 1), population(1500, 2)
SCHEMA = infer_schema(TRAIN)


@pytest.fixture(scope="module")
def fresh_score():
    return score_table(TRAIN, TEST, FRESH, SCHEMA, target="group", judge_rows=400)


def test_fresh_rows_score_like_real_ones(fresh_score):
    ours, best, worst = fresh_score.synthetic, fresh_score.real, fresh_score.independent
    assert ours.shape_error < 5
    assert ours.trend_error < 5
    assert ours.c2st > 0.85
    assert abs(ours.ml_efficacy - best.ml_efficacy) < 0.03
    assert best.dcr_share == pytest.approx(0.6)
    assert abs(ours.dcr_share - best.dcr_share) < 0.06
    assert ours.copies == best.copies == 0
    assert worst.shape_error == 0
    assert worst.trend_error > 3 * ours.trend_error
    assert worst.c2st < 0.3
    assert 0.4 < worst.ml_efficacy < 0.65
    assert (fresh_score.efficacy_metric, fresh_score.target) == ("AUC", "group")
    assert fresh_score.rows == {"train": 1500, "synthetic": 1500, "test": 1000}


def test_a_copy_of_the_training_table_is_found_out():
    score = score_table(TRAIN, TEST, TRAIN.copy(), SCHEMA, judge_rows=400)
    assert score.synthetic.shape_error == 0
    assert score.synthetic.trend_error == 0
    assert score.synthetic.c2st > 0.9
    assert score.synthetic.dcr_share == 1
    assert score.synthetic.copies == 100
    assert score.synthetic.ml_efficacy is None


def test_independent_columns_have_shape_but_no_trend():
    rng = np.random.default_rng(0)
    shuffled = TRAIN.apply(lambda column: rng.permutation(column))
    score = score_table(TRAIN, TEST, shuffled, SCHEMA, target="y", judge_rows=400)
    assert score.synthetic.shape_error == 0
    assert score.synthetic.trend_error > 8
    assert score.synthetic.c2st < 0.3
    assert score.efficacy_metric == "R2"
    assert score.synthetic.ml_efficacy < 0.2 < 0.7 < score.real.ml_efficacy


def test_a_shifted_column_is_named_as_the_worst():
    score = score_table(TRAIN, TEST, FRESH.assign(y=FRESH["y"] + 1), SCHEMA, judge_rows=400)
    assert next(iter(score.shape_errors)) == "y"
    assert score.shape_errors["y"] > 25


def test_the_same_seed_gives_the_same_score(fresh_score):
    again = score_table(TRAIN, TEST, FRESH, SCHEMA, target="group", judge_rows=400)
    assert again == fresh_score


def test_without_test_rows_halves_stand_in():
    score = score_table(TRAIN, None, FRESH, SCHEMA, target="group", judge_rows=400)
    assert score.synthetic.dcr_share is None
    assert score.real.copies is None
    assert score.real.shape_error > 0
    assert score.real.c2st > 0.8
    assert score.synthetic.ml_efficacy > 0.9


def test_invalid_cells_are_counted():
    bad = FRESH.head(10).assign(x=0.0, y=0.0, count=1).astype(object)
    bad.loc[0, "x"] = 99.0
    bad.loc[1, "group"] = "middle"
    bad.loc[2, "count"] = 1.5
    bad.loc[3, "y"] = np.nan
    bad.loc[4, "y"] = "many"
    assert TableView.of(bad, SCHEMA).invalid.sum() == 5
    assert TableView.of(TRAIN, SCHEMA).invalid.sum() == 0


def test_dates_are_seen_in_any_dress():
    days = pd.date_range("2020-01-01", periods=50)
    schema = infer_schema(pd.DataFrame({"day": days.strftime("%Y-%m-%d")}))
    dressed = pd.DataFrame({"day": days})
    view = TableView.of(dressed, schema)
    assert view.invalid.sum() == 0
    assert view.numbers[:, 0].tolist() == list(range(50))
    broken = pd.DataFrame({"day": ["2020-01-05", "yesterday", "2031-01-01"]})
    assert TableView.of(broken, schema).invalid[:, 0].tolist() == [False, True, True]


def test_one_class_only_has_no_efficacy():
    one = FRESH.assign(group="low")
    score = score_table(TRAIN, TEST, one, SCHEMA, target="group", judge_rows=400)
    assert score.synthetic.ml_efficacy == 0.5


def test_a_number_of_two_values_is_a_class():
    train, test, fresh = (t.assign(hit=(t["x"] > 0).astype(int)) for t in (TRAIN, TEST, FRESH))
    score = score_table(train, test, fresh, infer_schema(train), target="hit", judge_rows=400)
    assert score.efficacy_metric == "AUC"
    assert score.synthetic.ml_efficacy > 0.99


def test_the_classifier_sees_missing_values_and_takes_many_levels():
    def table(seed, gaps):
        rng = np.random.default_rng(seed)
        level = np.concatenate([np.arange(400), rng.integers(0, 400, 800)])
        value = np.where(rng.random(1200) < gaps, np.nan, level + rng.normal(size=1200))
        return pd.DataFrame({"level": level.astype(str), "value": value})

    train = table(0, 0.2)
    schema = infer_schema(train)
    views = [TableView.of(t, schema) for t in (train, table(1, 0.2), table(2, 0.6))]
    same, other = (
        classifier_two_sample_score(views[0], view, rows=600, rng=np.random.default_rng(0))
        for view in views[1:]
    )
    assert other < 0.8 < same


def test_closed_forms_of_shape_and_dependence():
    a, b = TableView.of(TRAIN, SCHEMA), TableView.of(FRESH, SCHEMA)
    errors = shape_errors(a, b)
    for name in ("x", "y", "count"):
        expected = ks_2samp(TRAIN[name], FRESH[name], method="asymp").statistic
        assert errors[name] == pytest.approx(expected, abs=1e-12)
    shares = [(t["group"] == "high").mean() for t in (TRAIN, FRESH)]
    assert errors["group"] == pytest.approx(abs(shares[0] - shares[1]))

    matrix = association_matrix(a)
    assert np.array_equal(matrix, matrix.T)
    assert matrix[0, 1] == pytest.approx(np.corrcoef(TRAIN["x"], TRAIN["y"])[0, 1])
    means = TRAIN.groupby("group")["x"].transform("mean")
    assert matrix[0, 2] == pytest.approx(np.sqrt(means.var() / TRAIN["x"].var()))


def test_cramers_v_is_that_of_scipy():
    rng = np.random.default_rng(0)
    u = rng.integers(0, 4, 500)
    table = pd.DataFrame({"u": u, "v": (u + rng.integers(0, 2, 500)) % 4}).astype(str)
    view = TableView.of(table, infer_schema(table))
    expected = association(pd.crosstab(table["u"], table["v"]).to_numpy(), method="cramer")
    assert association_matrix(view)[0, 1] == pytest.approx(expected)


def test_determined_columns_have_dependence_one():
    table = pd.DataFrame({"a": list("xyz") * 20, "b": [1.0, 5.0, 2.0] * 20, "c": list("pqr") * 20})
    assert association_matrix(TableView.of(table, infer_schema(table))) == pytest.approx(1)


def test_shape_and_trend_are_those_of_sdmetrics():
    pytest.importorskip("sdmetrics")
    real = population(400, 3).assign(sort=list("abcd") * 100)
    # The same rows in another order of one column: both tables have one range, so the bins of
    # SDMetrics, drawn over each table's own range, are the same.
    fake = real.assign(x=real["x"].sample(frac=1, random_state=0).to_numpy())
    fake.loc[:99, "sort"] = "a"
    schema = infer_schema(real)
    views = TableView.of(real, schema), TableView.of(fake, schema)
    shape, trend = quality_report(real, fake, schema)
    assert 100 * np.mean(list(shape_errors(*views).values())) == pytest.approx(shape)
    # SDMetrics gives the largest value a bin of its own: one row in 400, in half of the pairs.
    ours = 100 * trend_error(*views, np.random.default_rng(0))
    assert ours == pytest.approx(trend, abs=0.2)


def test_copies_are_exact_up_to_the_decimals_of_the_column():
    table = pd.DataFrame({"x": [0.1, 0.2, 0.3, 1 / 3], "k": [1, 2, 3, 4]})
    view = TableView.of(table, infer_schema(table))
    noisy = TableView.of(table.assign(x=table["x"] + 1e-12), infer_schema(table))
    other = TableView.of(table.assign(k=[1, 2, 4, 3]), infer_schema(table))
    assert copy_share(view, noisy) == 1
    assert copy_share(view, other) == 0.5


def test_the_score_can_be_read_and_printed(fresh_score):
    frame = fresh_score.to_frame()
    assert frame.loc["c2st", "synthetic"] == fresh_score.synthetic.c2st
    assert list(frame.columns) == ["synthetic", "real vs real", "independent columns", "better"]
    record = json.loads(fresh_score.to_json())
    assert record["synthetic"]["trend_error"] == fresh_score.synthetic.trend_error
    console = Console(width=100, file=io.StringIO())
    console.print(render_score_table(fresh_score, "A title"))
    text = console.file.getvalue()
    assert "A title" in text
    assert "AUC of group" in text
    assert f"{fresh_score.synthetic.c2st:.3f}" in text


def test_wrong_tables_and_targets_are_refused():
    with pytest.raises(SchemaError, match="target: there is no column 'grup'; did you mean"):
        score_table(TRAIN, TEST, FRESH, SCHEMA, target="grup")
    with pytest.raises(DataError, match="the synthetic table lacks the column"):
        score_table(TRAIN, TEST, FRESH.drop(columns="x"), SCHEMA)
    with pytest.raises(DataError, match="the real test table has no rows"):
        score_table(TRAIN, TEST.head(0), FRESH, SCHEMA)
    with pytest.raises(DataError, match=r"has 3 row\(s\); 8 are needed"):
        score_table(TRAIN.head(3), None, FRESH, SCHEMA)
