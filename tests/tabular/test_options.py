"""Impossible options and arguments: one error each, before anything is computed."""

from __future__ import annotations

import datetime
import json

import numpy as np
import pandas as pd
import pytest

from scidiffusion import TabularDiffusion
from scidiffusion.errors import ConditionError, ConfigError, ModelFileError
from scidiffusion.estimator import json_params
from scidiffusion.training import DPBudget


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {"x": rng.normal(size=80).round(1), "arm": rng.choice(["a", "b"], 80), "y": range(80, 160)}
    )


@pytest.fixture(scope="module")
def model(table: pd.DataFrame) -> TabularDiffusion:
    small = TabularDiffusion(width=16, blocks=1, max_steps=2, progress=False, random_state=0)
    return small.fit(table)


COUNTS = ("width", "blocks", "components", "max_steps", "batch_size", "patience", "sample_steps")


@pytest.mark.parametrize("value", [0, 1.5, "3", True, float("nan"), []])
@pytest.mark.parametrize("name", COUNTS)
def test_counts(table, name, value) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be an integer >= 1, got"):
        TabularDiffusion(**{name: value}).fit(table)


@pytest.mark.parametrize("value", [-0.1, 1.0, "a", True, float("nan")])
@pytest.mark.parametrize("name", ["dropout", "known_share", "validation_fraction"])
def test_shares(table, name, value) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be a number in"):
        TabularDiffusion(**{name: value}).fit(table)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": ["arm"]}, "target must be the name of one column"),
        ({"columns": ["x"]}, "columns must be a dict"),
        ({"constraints": 3}, "constraints must be a list"),
        ({"privacy": 4}, r"DPBudget\(epsilon=4\)"),
        ({"public": {"x": (0, 1)}}, "privacy=DPBudget"),
        ({"public": [1], "privacy": DPBudget(4)}, "public must be a dict"),
        ({"objective": []}, "objective must be one of"),
    ],
)
def test_options_of_the_wrong_type(table, options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        TabularDiffusion(**options).fit(table)


@pytest.mark.parametrize("value", [0, 1.5, "a", True])
def test_arguments_of_calls(table, model, value) -> None:
    for name in ("steps", "batch_size", "chunk_rows"):
        with pytest.raises(ConfigError, match=f"{name} must be an integer"):
            model.sample_chunks(5, **{name: value})
    for name in ("steps", "draws"):
        with pytest.raises(ConfigError, match=f"{name} must be an integer"):
            model.impute(table, **{name: value})
    for name in ("steps", "orders"):
        with pytest.raises(ConfigError, match=f"{name} must be an integer"):
            model.score_samples(table, **{name: value})


def test_a_weight_that_is_no_number(model) -> None:
    with pytest.raises(ConditionError, match="must be numbers"):
        model.sample(5, balance={"arm": {"a": "much"}})


@pytest.mark.parametrize(
    "public",
    [
        {"day": (pd.Timestamp("2019-01-01"), np.datetime64("2024-01-01"))},
        {"day": (datetime.date(2019, 1, 1), "2024"), "x": (np.float32(0), range(9)[-1])},
        {"arm": {"a"}, "wait": (pd.Timedelta("1h"), datetime.timedelta(days=2))},
        {"arm": pd.Index(["a", "b"]), "x": np.array([0, 9])},
    ],
)
def test_what_is_public_is_saved_as_text_that_says_the_same(public) -> None:
    """A private fit must not turn out impossible to save when its budget is spent."""
    saved = json.loads(json.dumps(json_params({"public": public})))["public"]
    for name, ends in public.items():
        kind = {"day": pd.Timestamp, "wait": pd.Timedelta}.get(name, lambda value: value)
        assert [kind(end) for end in saved[name]] == [kind(end) for end in ends]


def test_parts_of_a_model_that_do_not_fit(model, tmp_path) -> None:
    path = model.save(tmp_path / "model")
    whole = json.loads((path / "config.json").read_text())
    for changes in ({"width": 32}, {"colour": "red"}):
        params = {**whole["params"], "params": {**whole["params"]["params"], **changes}}
        (path / "config.json").write_text(json.dumps({**whole, "params": params}))
        with pytest.raises(ModelFileError, match="do not fit together"):
            TabularDiffusion.load(path)
