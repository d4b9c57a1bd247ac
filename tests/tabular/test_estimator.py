"""TabularDiffusion: what comes back is what went in; conditions, seeds, persistence, errors."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from scidiffusion import TabularDiffusion
from scidiffusion.errors import (
    ConditionError,
    ConfigError,
    DataError,
    InputError,
    ModelFileError,
    OutputError,
)

QUICK = {
    "width": 32,
    "blocks": 1,
    "max_steps": 30,
    "batch_size": 128,
    "sample_steps": 5,
    "progress": False,
    "random_state": 0,
}


def mixed_table(n: int = 400, seed: int = 0) -> pd.DataFrame:
    """Every dtype that users have, with missing values where the dtype can hold them."""
    rng = np.random.default_rng(seed)
    arm = rng.choice(["placebo", "low", "high"], size=n, p=[0.5, 0.3, 0.2])
    dose = np.round(np.where(arm == "high", 9, 3) + rng.standard_normal(n), 2)
    table = pd.DataFrame(
        {
            "dose": dose,
            "visits": rng.poisson(4, n),
            "arm": pd.Categorical(arm, categories=["placebo", "low", "high"], ordered=True),
            "site": np.where(rng.random(n) < 0.1, None, rng.choice(["A", "B"], n)),
            "smoker": rng.random(n) < 0.3,
            "weight": np.where(rng.random(n) < 0.15, np.nan, rng.normal(70, 10, n).round(1)),
            "children": pd.array(rng.integers(0, 5, n), dtype="Int64"),
            "seen": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 365, n), "D"),
        }
    )
    table.loc[::11, "children"] = pd.NA
    return table


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return mixed_table()


@pytest.fixture(scope="module")
def model(table) -> TabularDiffusion:
    return TabularDiffusion(**QUICK).fit(table)


@pytest.fixture(scope="module")
def known_joint() -> tuple[pd.DataFrame, TabularDiffusion]:
    """A table whose joint law is known: y given x given class."""
    rng = np.random.default_rng(1)
    label = rng.choice(["a", "b", "c"], size=4000, p=[0.2, 0.3, 0.5])
    centre = pd.Series(label).map({"a": -2.0, "b": 0.0, "c": 3.0}).to_numpy()
    x = centre + 0.5 * rng.standard_normal(4000)
    y = -x + 0.5 * rng.standard_normal(4000)
    table = pd.DataFrame({"label": label, "x": x, "y": y})
    options = {
        "width": 64,
        "blocks": 2,
        "max_steps": 1500,
        "batch_size": 256,
        "known_share": 0.7,
        "lr": 4e-3,
    }
    return table, TabularDiffusion(
        **QUICK | options | {"sample_steps": 50, "ema_decay": 0.99}
    ).fit(table)


def test_rows_come_back_as_they_were(table, model) -> None:
    sample = model.sample(500, random_state=1)
    assert list(sample.columns) == list(table.columns)
    pd.testing.assert_series_equal(sample.dtypes, table.dtypes)
    assert len(sample) == 500
    assert sample["dose"].round(2).equals(sample["dose"])
    assert sample["dose"].between(table["dose"].min(), table["dose"].max()).all()
    assert set(sample["site"].dropna()) <= {"A", "B"}
    assert 0 < sample["site"].isna().mean() < 0.5
    assert 0 < sample["weight"].isna().mean() < 0.5
    assert 0 < sample["children"].isna().mean() < 0.5
    assert not sample[["dose", "visits", "arm", "smoker", "seen"]].isna().any().any()
    assert (sample["seen"] == sample["seen"].dt.normalize()).all()


def test_the_joint_law_is_learned(known_joint) -> None:
    table, model = known_joint
    sample = model.sample(4000, random_state=0)
    shares = sample["label"].value_counts(normalize=True)
    assert abs(shares - table["label"].value_counts(normalize=True)).max() < 0.04
    for label, centre in {"a": -2.0, "b": 0.0, "c": 3.0}.items():
        rows = sample[sample["label"] == label]
        assert abs(rows["x"].mean() - centre) < 0.2
        assert abs((rows["x"] + rows["y"]).mean()) < 0.15
    assert abs(sample["x"].corr(sample["y"]) - table["x"].corr(table["y"])) < 0.03


def test_conditions_give_the_conditional_law(known_joint) -> None:
    """Given x = 3 the class is c almost surely and y is N(-3, .5); given b, x is N(0, .5)."""
    _, model = known_joint
    given = model.sample(1000, conditions={"x": 3.0}, random_state=0)
    assert (given["x"] == 3.0).all()
    assert (given["label"] == "c").mean() > 0.9
    assert abs(given["y"].mean() + 3) < 0.15
    assert abs(given["y"].std() - 0.5) < 0.15
    given = model.sample(1000, conditions={"label": "b"}, random_state=0)
    assert (given["label"] == "b").all()
    assert abs(given["x"].mean()) < 0.15
    assert abs(given["x"].std() - 0.5) < 0.2


def test_conditions_of_every_kind(model, table) -> None:
    day = table["seen"].iloc[0]
    wanted = {"dose": 3.5, "arm": "low", "smoker": True, "children": 2, "seen": day, "site": None}
    given = model.sample(20, conditions=wanted, random_state=0)
    assert (given["dose"] == 3.5).all()
    assert (given["arm"] == "low").all()
    assert given["smoker"].all()
    assert (given["children"] == 2).all()
    assert (given["seen"] == day).all()
    assert given["site"].isna().all()


def test_target_keeps_its_frequencies(table) -> None:
    model = TabularDiffusion(**QUICK, target="arm").fit(table)
    shares = model.sample(4000, random_state=0)["arm"].value_counts(normalize=True)
    assert abs(shares - table["arm"].value_counts(normalize=True)).max() < 0.03
    assert (model.sample(10, conditions={"arm": "high"}, random_state=0)["arm"] == "high").all()
    assert len(model.sample(10, conditions={"smoker": True}, random_state=0)) == 10


def test_targets_that_are_numbers(table) -> None:
    """Few integers are classes with their own frequencies; other numbers are learned jointly."""
    table = table.assign(grade=np.arange(len(table)) % 3)
    model = TabularDiffusion(**QUICK, target="grade").fit(table)
    sample = model.sample(3000, random_state=0)["grade"]
    assert sample.dtype == table["grade"].dtype
    assert abs(sample.value_counts(normalize=True) - 1 / 3).max() < 0.04
    model = TabularDiffusion(**QUICK, target="dose").fit(table)
    assert model.sample(10)["dose"].notna().all()


@pytest.mark.parametrize("columns", [["dose", "visits"], ["arm", "smoker"]])
def test_tables_of_one_kind(table, columns) -> None:
    model = TabularDiffusion(**QUICK).fit(table[columns])
    assert list(model.sample(7).columns) == columns
    assert model.score_samples(table[columns].head(5), steps=5).shape == (5,)


def test_seeds(table, model) -> None:
    twin = TabularDiffusion(**QUICK).fit(table)
    pd.testing.assert_frame_equal(
        twin.sample(30, random_state=3), model.sample(30, random_state=3)
    )
    assert not model.sample(30).equals(model.sample(30))


def test_samples_do_not_depend_on_batch_size(model) -> None:
    whole = model.sample(1100, random_state=4)
    for batch_size in (7, 64):
        pd.testing.assert_frame_equal(
            model.sample(1100, random_state=4, batch_size=batch_size), whole
        )
    pd.testing.assert_frame_equal(model.sample(100, random_state=4), whole.head(100))


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpmpp_2m", "dpmpp_sde"])
def test_every_rule_for_the_numbers(table, sampler) -> None:
    model = TabularDiffusion(**QUICK, sampler=sampler).fit(table)
    assert len(model.sample(5)) == 5


def test_save_and_load_are_exact(model, tmp_path, table) -> None:
    path = model.save(tmp_path / "model")
    assert {file.name for file in path.iterdir()} == {
        "config.json",
        "codec.json",
        "front.json",
        "weights.safetensors",
    }
    loaded = TabularDiffusion.load(path)
    pd.testing.assert_frame_equal(
        loaded.sample(50, random_state=1), model.sample(50, random_state=1)
    )
    np.testing.assert_array_equal(
        loaded.score_samples(table.head(3), steps=3), model.score_samples(table.head(3), steps=3)
    )
    assert loaded.get_params()["width"] == 32


def test_an_interrupted_save_leaves_the_old_model(model, tmp_path, monkeypatch) -> None:
    path = model.save(tmp_path / "model")
    before = {file.name: file.read_bytes() for file in path.iterdir()}

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="space"):
        model.save(path)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_score_samples_ranks_broken_rows_last(known_joint) -> None:
    table, model = known_joint
    good = table.head(200)
    broken = good.assign(y=-good["y"])
    assert model.score_samples(good).mean() > model.score_samples(broken).mean() + 1


def test_precisions_agree(table) -> None:
    """bf16 rounds the network's products and nothing else: the untrained model hardly differs."""
    options = QUICK | {"max_steps": 5}
    exact = TabularDiffusion(**options, precision="float32").fit(table)
    rough = TabularDiffusion(**options, precision="bf16").fit(table)
    first, second = (m.score_samples(table, steps=10) for m in (exact, rough))
    assert not np.array_equal(first, second)
    assert np.median(np.abs(first - second)) < 0.05 * np.abs(first).mean()


def test_scikit_learn_manners(model, table) -> None:
    copy = clone(TabularDiffusion(width=9, target="arm"))
    assert copy.get_params()["width"] == 9
    assert model.n_features_in_ == table.shape[1]
    assert list(model.feature_names_in_) == list(table.columns)
    with pytest.raises(NotFittedError):
        TabularDiffusion().sample(1)


def test_score_and_sample_refuse_bad_input(model, table) -> None:
    with pytest.raises(InputError):
        model.sample(-1)
    with pytest.raises(ConditionError, match="dose"):
        model.sample(1, conditions={"dos": 1.0})
    with pytest.raises(ConditionError, match="medium"):
        model.sample(1, conditions={"arm": "medium"})
    with pytest.raises(DataError, match="arm"):
        model.score_samples(table.drop(columns="arm"))
    with pytest.raises(ConfigError, match="steps"):
        model.sample(1, steps=0)


def test_options_are_checked_before_training(table) -> None:
    for option, message in (
        ({"method": "gan"}, "method"),
        ({"objective": "mse"}, "objective"),
        ({"precision": "fp8"}, "precision"),
        ({"sampler": "heun"}, "heun"),
        ({"validation_fraction": 0.7}, "validation_fraction"),
        ({"budget": "soon"}, "budget"),
        ({"known_share": 1.5}, "share"),
        ({"lr": -1.0}, "lr"),
    ):
        with pytest.raises(ConfigError, match=message):
            TabularDiffusion(**QUICK | option).fit(table)
    with pytest.raises(DataError, match="target"):
        TabularDiffusion(**QUICK, target="nothing").fit(table)


def test_bad_models_have_one_clear_error(model, tmp_path) -> None:
    with pytest.raises(ModelFileError, match="missing"):
        TabularDiffusion.load(tmp_path / "missing")
    path = model.save(tmp_path / "truncated")
    weights = path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ModelFileError, match=r"weights\.safetensors"):
        TabularDiffusion.load(path)
    path = model.save(tmp_path / "newer")
    config = json.loads((path / "config.json").read_text())
    config["format_version"] = 999
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFileError, match="newer"):
        TabularDiffusion.load(path)
