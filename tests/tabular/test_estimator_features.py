"""Sets, ranges, rebalancing, imputation, chunks and identifiers, through the estimator."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from scidiffusion import TabularDiffusion
from scidiffusion.errors import (
    ConditionError,
    ConfigError,
    DataError,
    ScidiffusionWarning,
)
from scidiffusion.tabular.conditions import Between, parse
from scidiffusion.tabular.constraints import FixedCombinations, Formula, Inequality, Unique
from scidiffusion.tabular.drawing import Drawer
from scidiffusion.tabular.inference import infer_schema
from scidiffusion.tabular.masked import MaskedModel
from scidiffusion.training import DPBudget

QUICK = {
    "width": 64,
    "blocks": 2,
    "batch_size": 256,
    "progress": False,
    "random_state": 0,
}


@pytest.fixture(scope="module")
def known() -> tuple[pd.DataFrame, TabularDiffusion]:
    """Group -> level of a Gaussian -> a rounded, shifted copy of it; some values missing."""
    rng = np.random.default_rng(0)
    n = 6000
    group = rng.choice(["a", "b", "c"], n, p=[0.5, 0.3, 0.2])
    centre = pd.Series(group).map({"a": -2.0, "b": 0.0, "c": 2.0}).to_numpy()
    x = np.round(centre + 0.5 * rng.standard_normal(n), 2)
    y = np.round(x + 0.3 * rng.standard_normal(n), 1)
    flag = np.where(rng.random(n) < 0.1 + 0.8 * (group == "c"), "yes", "no")
    table = pd.DataFrame({"group": group, "x": x, "y": y, "flag": flag})
    table.loc[rng.random(n) < 0.1, "y"] = np.nan
    model = TabularDiffusion(**QUICK, max_steps=700, lr=5e-3, ema_decay=0.99).fit(table)
    return table, model


def test_ranges_give_the_truncated_law(known) -> None:
    table, model = known
    given = model.sample(3000, conditions={"x": slice(-0.5, 0.5)}, random_state=0)
    assert given["x"].between(-0.5, 0.5).all()
    real = table[table["x"].between(-0.5, 0.5)]
    shares = given["group"].value_counts(normalize=True)
    assert shares["b"] == pytest.approx((real["group"] == "b").mean(), abs=0.05)
    assert given["y"].mean() == pytest.approx(real["y"].mean(), abs=0.06)
    assert given["x"].std() == pytest.approx(real["x"].std(), abs=0.04)


def test_several_sets_and_ranges_at_once(known) -> None:
    table, model = known
    conditions = {"group": ["a", "c"], "x": Between(low=-1.5), "flag": "no"}
    given = model.sample(3000, conditions=conditions, random_state=0)
    real = table[table["group"].isin(["a", "c"]) & (table["x"] >= -1.5) & (table["flag"] == "no")]
    assert set(given["group"]) <= {"a", "c"}
    assert (given["x"] >= -1.5).all()
    assert (given["flag"] == "no").all()
    share = (given["group"] == "c").mean()
    assert share == pytest.approx((real["group"] == "c").mean(), abs=0.06)


def test_sets_of_numbers_and_missing(known) -> None:
    _, model = known
    given = model.sample(300, conditions={"y": [0.0, 0.1, None]}, random_state=0)
    assert set(given["y"].dropna().round(6)) == {0.0, 0.1}
    assert given["y"].isna().any()
    assert model.sample(50, conditions={"y": None}, random_state=0)["y"].isna().all()


def test_balance(known) -> None:
    _, model = known
    counts = model.sample(300, balance="group", random_state=0)["group"].value_counts()
    assert counts.to_dict() == {"a": 100, "b": 100, "c": 100}
    balanced = model.sample(200, balance={"flag": {"yes": 3, "no": 1}}, random_state=0)
    assert balanced["flag"].value_counts().to_dict() == {"yes": 150, "no": 50}
    # The rest follows: a "yes" comes mostly from group c.
    assert (balanced.loc[balanced["flag"] == "yes", "group"] == "c").mean() > 0.5
    for wrong, message in (
        ("x", "numerical"),
        ("grup", "group"),
        ({"group": {"z": 1}}, "'z'"),
        ({"group": {"a": -1}}, "weights"),
    ):
        with pytest.raises(ConditionError, match=message):
            model.sample(5, balance=wrong)
    with pytest.raises(ConditionError, match="also a condition"):
        model.sample(5, balance="group", conditions={"group": "a"})


def test_imputation_draws_from_the_conditional_law(known) -> None:
    table, model = known
    gaps = table.head(2000).copy()
    hidden = gaps["x"].copy()
    gaps.loc[::2, "x"] = np.nan
    gaps.loc[1::4, "group"] = None
    filled = model.impute(gaps, random_state=0)
    assert not filled.isna().any().any()
    assert (filled.dtypes == table.dtypes).all()
    kept = gaps.notna()
    for name in gaps:
        assert (filled.loc[kept[name], name] == gaps.loc[kept[name], name]).all()
    error = (filled["x"] - hidden)[::2]
    # x given y and group has standard deviation .26, and a draw adds as much again.
    assert error.std() < 0.5
    assert abs(error.mean()) < 0.05
    draws = model.impute(gaps.head(400), draws=5, random_state=0)
    assert len(draws) == 5
    spread = np.ptp([draw["x"].to_numpy() for draw in draws], axis=0)
    assert (spread[1::2] == 0).all()
    assert np.median(spread[::2]) > 0.05
    with pytest.raises(ConfigError, match="draws"):
        model.impute(gaps, draws=0)
    with pytest.raises(DataError, match="group"):
        model.impute(gaps.rename(columns={"group": "grop"}))


def test_imputation_keeps_the_index_and_makes_absent_columns(known) -> None:
    table, model = known
    part = table[["x"]].head(20).set_axis([f"row {i}" for i in range(20)], axis=0)
    filled = model.impute(part, random_state=0)
    assert list(filled.index) == list(part.index)
    assert list(filled.columns) == list(table.columns)
    assert filled["x"].equals(part["x"])


def test_chunks_are_the_whole_sample(known) -> None:
    _, model = known
    whole = model.sample(2500, balance="group", random_state=3)
    parts = list(model.sample_chunks(2500, chunk_rows=1000, balance="group", random_state=3))
    assert [len(part) for part in parts] == [1024, 1024, 452]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), whole)
    assert [len(part) for part in model.sample_chunks(0)] == [0]


def test_likelihoods_are_those_of_the_law(known) -> None:
    """The mean log-likelihood of fresh rows is that of the truth, up to a fit's error."""
    table, model = known
    scores = model.score_samples(table, orders=2)
    broken = table.assign(group=table["group"].map({"a": "c", "b": "a", "c": "b"}))
    assert scores.mean() > model.score_samples(broken).mean() + 3
    entropy_group = -sum(p * np.log(p) for p in (0.5, 0.3, 0.2))
    by_group = table.assign(score=scores).groupby("group")["score"].mean()
    assert by_group["a"] > by_group["c"]
    assert -10 < scores.mean() < -entropy_group


def test_fewer_steps(known) -> None:
    _, model = known
    assert len(model.sample(10, steps=2, random_state=0)) == 10
    one = model.sample(3000, steps=1, random_state=0)
    # All columns at once: every marginal, no dependence.
    assert abs(one["x"].corr(one["y"])) < 0.1


def test_identifiers_are_made_up() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "customer": [f"C-{k:05d}" for k in rng.permutation(20_000)[:300]],
            "spent": rng.gamma(2, 10, 300).round(2),
        }
    )
    with pytest.warns(ScidiffusionWarning, match="customer"):
        model = TabularDiffusion(**QUICK, max_steps=20).fit(table)
    sample = model.sample(1000, random_state=0)
    assert sample["customer"].is_unique
    assert not sample["customer"].isin(table["customer"]).any()
    assert sample["customer"].str.fullmatch(r"C-\d{5}").all()
    with pytest.raises(ConditionError, match="customer"):
        model.sample(1, conditions={"customer": "C-00001"})
    gaps = table.head(3).assign(spent=np.nan)
    filled = model.impute(gaps, random_state=0)
    assert filled["customer"].tolist() == gaps["customer"].tolist()


def test_ddpm_imputes_and_refuses_ranges() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"x": rng.normal(size=300).round(2), "label": rng.choice(["a", "b"], 300)}
    )
    table.loc[::7, "x"] = np.nan
    table.loc[::3, "label"] = None
    model = TabularDiffusion(**QUICK, method="ddpm", max_steps=20, sample_steps=5).fit(table)
    filled = model.impute(table, random_state=0)
    assert not filled.isna().any().any()
    with pytest.raises(ConfigError, match="masked"):
        model.sample(3, conditions={"x": slice(0, 1)})
    assert (model.sample(5, conditions={"label": "a"})["label"] == "a").all()


def test_many_levels_and_many_columns_stay_bounded() -> None:
    rng = np.random.default_rng(0)
    wide = pd.DataFrame(rng.normal(size=(200, 150)).round(2)).rename(columns="c{}".format)
    model = TabularDiffusion(**QUICK, max_steps=3).fit(wide)
    assert model.sample(5, steps=10).shape == (5, 150)
    levels = pd.DataFrame(
        {"code": rng.integers(0, 12_000, 30_000).astype(str), "x": rng.normal(size=30_000)}
    )
    model = TabularDiffusion(**QUICK, max_steps=3).fit(levels)
    sample = model.sample(2000, random_state=0)
    assert sum(p.numel() for p in model.denoiser_.parameters()) < 500_000
    assert set(sample["code"]) <= set(levels["code"])
    assert sample["code"].nunique() > 500
    level = levels["code"].iloc[0]
    assert (model.sample(5, conditions={"code": level})["code"] == level).all()
    pair = list(levels["code"].unique()[:2])
    assert set(model.sample(50, conditions={"code": pair})["code"]) <= set(pair)


# ------------------------------------------------------------------- constraints


@pytest.fixture(scope="module")
def ruled() -> tuple[pd.DataFrame, TabularDiffusion]:
    rng = np.random.default_rng(0)
    n = 1500
    above, cellar = rng.integers(50, 200, n), rng.integers(0, 3, n) * 20
    start = pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 300, n), "D")
    city = rng.choice(["Bonn", "Bath", "Brest"], n)
    table = pd.DataFrame(
        {
            "above": above,
            "cellar": cellar,
            "living": above + cellar,
            "start": start,
            "end": start + pd.to_timedelta(rng.integers(0, 40, n), "D"),
            "city": city,
            "country": pd.Series(city).map({"Bonn": "DE", "Bath": "UK", "Brest": "FR"}),
        }
    )
    rules = [
        Formula("living", "above + cellar"),
        Inequality("start", "end"),
        FixedCombinations(["city", "country"]),
    ]
    model = TabularDiffusion(**QUICK, constraints=rules, max_steps=80)
    broken = pd.concat([table, table.head(3).assign(living=1)], ignore_index=True)
    with pytest.warns(ScidiffusionWarning, match="3 of 1503"):
        model.fit(broken)
    return table, model


def obeys(rows: pd.DataFrame) -> bool:
    pairs = {("Bonn", "DE"), ("Bath", "UK"), ("Brest", "FR")}
    return bool(
        (rows["living"] == rows["above"] + rows["cellar"]).all()
        and (rows["start"] <= rows["end"]).all()
        and set(zip(rows["city"], rows["country"], strict=True)) <= pairs
    )


def test_constraints_hold_in_every_row(ruled, tmp_path) -> None:
    table, model = ruled
    sample = model.sample(2000, random_state=0)
    assert obeys(sample)
    assert (sample.dtypes == table.dtypes).all()
    given = model.sample(300, conditions={"city": "Bath", "above": slice(60, 80)}, random_state=0)
    assert obeys(given)
    assert (given["country"] == "UK").all()
    assert given["above"].between(60, 80).all()
    loaded = TabularDiffusion.load(model.save(tmp_path / "model"))
    pd.testing.assert_frame_equal(
        loaded.sample(50, random_state=1), model.sample(50, random_state=1)
    )
    assert loaded.constraints == model.constraints
    scores = model.score_samples(table.head(4).assign(living=[9, *table["living"].iloc[1:4]]))
    assert scores[0] == -np.inf
    assert np.isfinite(scores[1:]).all()


def test_constraints_hold_beside_known_cells(ruled) -> None:
    table, model = ruled
    gaps = table.head(200).copy()
    gaps.loc[::2, ["end", "cellar", "living"]] = [pd.NaT, np.nan, np.nan]
    gaps.loc[1::2, ["city", "country"]] = None
    filled = model.impute(gaps, random_state=0)
    assert obeys(filled)
    assert filled["above"].equals(table["above"].head(200))
    assert (filled.dtypes == table.dtypes).all()


def test_contradictions_are_refused(ruled) -> None:
    table, model = ruled
    with pytest.raises(ConditionError):
        model.sample(3, conditions={"city": "Bonn", "country": "UK"})
    with pytest.raises(ConditionError):
        model.sample(3, conditions={"start": "2024-06-01", "end": "2024-02-01"})
    with pytest.raises(ConfigError):
        TabularDiffusion(**QUICK, constraints=[Inequality("a", "end")]).fit(table)


def test_unique_keys_whatever_the_parts() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"ward": rng.integers(0, 60, 900), "bed": rng.integers(0, 60, 900), "x": rng.random(900)}
    ).drop_duplicates(["ward", "bed"])
    model = TabularDiffusion(**QUICK, constraints=[Unique(["ward", "bed"])], max_steps=20).fit(
        table
    )
    whole = model.sample(1500, random_state=0)
    assert not whole.duplicated(["ward", "bed"]).any()
    parts = list(model.sample_chunks(1500, chunk_rows=1024, random_state=0))
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), whole)
    with pytest.raises(ConfigError, match="5000"):
        model.sample(5000)
    # Rows to be judged or completed may repeat: a key is a matter of a sample.
    twice = pd.concat([table.head(3), table.head(3)], ignore_index=True)
    scores = model.score_samples(twice)
    assert np.isfinite(scores).all()
    gaps = twice.assign(x=np.nan)
    assert model.impute(gaps, random_state=0)["bed"].equals(twice["bed"])


def test_rows_drawn_again_keep_their_names() -> None:
    """A name made up in another round could be one that the sample has already."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "code": [f"{k:03d}x" for k in rng.permutation(1000)[:200]],
            "a": rng.integers(0, 40, 200),
            "b": rng.integers(0, 40, 200),
        }
    ).drop_duplicates(["a", "b"])
    model = TabularDiffusion(**QUICK, constraints=[Unique(["a", "b"])], max_steps=10)
    with pytest.warns(ScidiffusionWarning, match="code"):
        model.fit(table)
    plain = TabularDiffusion(**QUICK, max_steps=10)
    with pytest.warns(ScidiffusionWarning, match="code"):
        plain.fit(table)
    sample = model.sample(300, random_state=0)
    assert plain.sample(300, random_state=0).duplicated(["a", "b"]).any()
    assert sample["code"].equals(plain.sample(300, random_state=0)["code"])


def test_copies_are_looked_for_among_the_rows_that_were_learned() -> None:
    """Rows that break a rule, repeated keys included, are neither trained on nor held out."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"key": np.arange(900) % 800, "x": rng.normal(size=900).round(3)})
    model = TabularDiffusion(
        **QUICK, constraints=[Unique(["key"])], columns={"key": "numerical"}, max_steps=5
    )
    with pytest.warns(ScidiffusionWarning, match="100 of 900"):
        model.fit(table)
    rows = model.copy_report_.rows
    assert rows["train"] + rows["holdout"] == 800


# ----------------------------------------------------------------------- privacy


def test_a_private_fit_hides_in_each_row_on_its_own() -> None:
    """Numbers spread over a batch would let every row feel whether another one is there."""
    table = pd.DataFrame({"x": [1.5, 2.5] * 10, "k": list("ab") * 10})
    for privacy in (None, DPBudget(epsilon=4)):
        options = TabularDiffusion(privacy=privacy).get_params(deep=False)
        objective = MaskedModel(infer_schema(table), options).objective()
        assert objective.spread is (privacy is None)


def test_private_fits(tmp_path) -> None:
    pytest.importorskip("opacus")
    rng = np.random.default_rng(0)
    n = 3000
    label = rng.choice(["a", "b"], n, p=[0.7, 0.3])
    x = np.where(label == "a", -1.0, 1.5) + 0.4 * rng.standard_normal(n)
    table = pd.DataFrame({"label": label, "x": x.round(3), "k": rng.integers(0, 5, n)})
    model = TabularDiffusion(
        **QUICK | {"width": 32, "blocks": 1, "batch_size": 300},
        privacy=DPBudget(epsilon=8, noise_key=1),
        public={"x": (-4.0, 4.0), "label": ["a", "b"]},
        max_steps=150,
        lr=5e-3,
        ema_decay=0.98,
    ).fit(table)
    assert model.privacy_spent_["epsilon"] <= 8 + 1e-6
    assert model.privacy_spent_["delta"] <= 1 / (10 * n) + 1e-12
    assert model.copy_report_ is None
    sample = model.sample(2000, random_state=0)
    assert (sample.dtypes == table.dtypes).all()
    # Clipping leans towards the majority.
    assert abs((sample["label"] == "a").mean() - 0.7) < 0.2
    means = sample.groupby("label")["x"].mean()
    assert means["b"] > means["a"] + 0.5
    # The schema that is saved is the private one, not the table's own range.
    assert model.schema_["x"].minimum != table["x"].min()
    path = model.save(tmp_path / "model")
    loaded = TabularDiffusion.load(path)
    assert loaded.privacy_spent_ == model.privacy_spent_
    assert loaded.privacy.epsilon == 8
    assert "noise_key" not in (path / "config.json").read_text()
    pd.testing.assert_frame_equal(
        loaded.sample(20, random_state=1), model.sample(20, random_state=1)
    )


def test_what_is_not_private_is_refused() -> None:
    table = pd.DataFrame({"low": np.arange(200) % 7, "high": 7 + np.arange(200) % 5})
    options = QUICK | {"privacy": DPBudget(epsilon=1), "max_steps": 3}
    with pytest.raises(ConfigError, match="constraints"):
        TabularDiffusion(**options, constraints=[Inequality("low", "high")]).fit(table)
    named = table.assign(who=[f"P{k:04d}" for k in range(200)])
    with (
        pytest.warns(ScidiffusionWarning, match="who"),
        pytest.raises(ConfigError, match="'who'"),
    ):
        TabularDiffusion(**options).fit(named)


def test_copies_are_looked_for(known, monkeypatch) -> None:
    table, model = known
    assert model.copy_report_.passed
    assert "held-out" in model.copy_report_.verdict
    monkeypatch.setattr(Drawer, "parts", lambda self, rows, *rest: iter([table.head(rows)]))
    with pytest.warns(ScidiffusionWarning, match="leak"):
        leaking = TabularDiffusion(**QUICK, max_steps=2).fit(table)
    assert not leaking.copy_report_.passed
    assert (
        TabularDiffusion(**QUICK, max_steps=2, check_copies=False).fit(table).copy_report_ is None
    )


def test_improbable_conditions(known) -> None:
    table, model = known
    with pytest.warns(ScidiffusionWarning, match="beyond the data"):
        model.sample(5, conditions={"group": "a", "x": slice(1.0, 1.2)}, random_state=0)
    both = model.model_.log_probability(
        parse(model.schema_, {"group": "b", "flag": "yes"}), seed=0
    )
    real = ((table["group"] == "b") & (table["flag"] == "yes")).mean()
    assert np.exp(both) == pytest.approx(real, rel=0.35)


def test_impossible_conditions(known, monkeypatch) -> None:
    _, model = known
    monkeypatch.setattr(model.model_, "log_probability", lambda *arguments: -80.0)
    with pytest.raises(ConditionError, match="together"):
        model.sample(5, conditions={"group": "a", "flag": "yes"})


def test_a_budget_too_short_for_a_step(known) -> None:
    table, _ = known
    with pytest.raises(ConfigError, match="budget"):
        TabularDiffusion(**QUICK).fit(table, budget=1e-6)


def test_at_the_end_of_a_pipeline(known) -> None:
    table, _ = known
    drop = FunctionTransformer(lambda frame: frame.drop(columns="flag"))
    pipeline = make_pipeline(drop, TabularDiffusion(**QUICK, max_steps=3)).fit(table)
    assert list(pipeline[-1].sample(3).columns) == ["group", "x", "y"]
    assert pipeline.score_samples(table.head(3)).shape == (3,)
