"""Impossible options and arguments: one error each, before anything is computed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scidiffusion import TabularDiffusion
from scidiffusion.errors import ConditionError, ConfigError
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
