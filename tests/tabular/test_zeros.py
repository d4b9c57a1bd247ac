"""Conditions on values that never occur together are refused, and no others."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from scidiffusion import TabularDiffusion
from scidiffusion.errors import ConditionError, ModelFileError, ScidiffusionWarning
from scidiffusion.tabular.conditions import Between, Equal, OneOf, parse
from scidiffusion.tabular.inference import infer_schema
from scidiffusion.tabular.zeros import Zeros

ROWS = 2000


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    group = rng.choice(["a", "b", "c"], ROWS)
    table = pd.DataFrame(
        {
            "group": group,
            "twin": np.where(group == "a", "x", np.where(group == "b", "y", "z")),
            "size": np.where(group == "a", 1.0, 5.0) + rng.random(ROWS).round(2),
            "free": rng.choice(["u", "v"], ROWS),
            "rare": np.where(np.arange(ROWS) < 15, "once", "often"),
        }
    )
    # One row is enough to make a pair possible.
    table.loc[0, ["group", "twin"]] = ["a", "z"]
    table.loc[group == "b", "size"] = np.nan
    return table


@pytest.fixture(scope="module", params=["fitted", "read"])
def zeros(table: pd.DataFrame, request: pytest.FixtureRequest) -> Zeros:
    schema = infer_schema(table)
    found = Zeros.fit(table, schema)
    if request.param == "fitted":
        return found
    return Zeros.from_json(json.loads(json.dumps(found.to_json())), schema)


@pytest.mark.parametrize(
    "asked",
    [
        {"group": "a", "twin": "y"},
        {"group": ["b", "c"], "twin": "x"},
        {"free": "u", "group": "c", "twin": "y"},
    ],
)
def test_what_never_occurs_together(table, zeros, asked) -> None:
    conditions = parse(zeros.schema, asked)
    with pytest.raises(ConditionError, match="no training row meets both"):
        zeros.check(conditions)


@pytest.mark.parametrize(
    "asked",
    [
        {"group": "a", "size": slice(5.2, 5.5)},
        {"group": "a", "size": 5.5},
        {"group": "b", "size": slice(1, 2)},
        {"group": "a", "size": None},
    ],
)
def test_numbers_are_warned_of(zeros, asked) -> None:
    with pytest.warns(ScidiffusionWarning, match="beyond the data"):
        zeros.check(parse(zeros.schema, asked))


@pytest.mark.parametrize(
    "asked",
    [
        {"group": "a", "twin": "x"},
        {"group": "a", "twin": "z"},
        {"group": "a", "twin": ["y", "z"]},
        {"group": "a", "size": slice(1.2, 5.5)},
        {"group": "b", "size": [None, 1.5]},
        {"group": "a", "free": "u"},
        # Absent by chance, perhaps: it is rare.
        {"group": "c", "rare": "once"},
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_occurs_or_might(zeros, asked) -> None:
    zeros.check(parse(zeros.schema, asked))


@pytest.mark.filterwarnings("error")
def test_no_pair_of_a_row_is_ever_refused(table, zeros) -> None:
    for _, row in table.sample(50, random_state=0).iterrows():
        zeros.check({n: Equal(None if pd.isna(v) else v) for n, v in row.items()})
    for asked in ({"size": Between(1.0, 1.5)}, {"group": OneOf(("a", "b"))}):
        zeros.check(asked)


def test_independent_columns_have_none() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({f"c{k}": rng.integers(0, 5, ROWS) for k in range(6)})
    assert Zeros.fit(table, infer_schema(table)).pairs == {}


def test_the_estimator_refuses_and_remembers(table, tmp_path) -> None:
    model = TabularDiffusion(width=16, blocks=1, max_steps=2, progress=False, random_state=0)
    model.fit(table[["group", "twin", "free"]])
    for one in (model, TabularDiffusion.load(model.save(tmp_path / "model"))):
        with pytest.raises(ConditionError, match="'group' and 'twin'"):
            one.sample(3, conditions={"group": "a", "twin": "y"})
        with pytest.raises(ConditionError, match="'group' and 'twin'"):
            one.sample(3, conditions={"group": "a"}, balance="twin")
        assert (
            len(one.sample(4, conditions={"group": "a"}, balance={"twin": {"x": 1, "z": 1}})) == 4
        )


def test_files_of_older_models_have_none() -> None:
    schema = infer_schema(pd.DataFrame({"a": ["x", "y"] * 5}))
    assert Zeros.from_json(None, schema).pairs == {}
    with pytest.raises(ModelFileError, match="zeros"):
        Zeros.from_json({"codes": []}, schema)
