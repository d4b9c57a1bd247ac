"""Rows that a user hands to a fitted model, to complete or to score: kept, or refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scidiffusion import TabularDiffusion
from scidiffusion.errors import DataError

ROWS = 120


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "who": pd.Categorical([f"P-{k:05d}" for k in range(0, 7 * ROWS, 7)]),
            "age": rng.integers(0, 90, ROWS).astype("int8"),
            "visits": pd.array(rng.integers(0, 9, ROWS), dtype="Int16"),
            "dose": rng.normal(size=ROWS).astype("float32"),
            "day": pd.Series(rng.integers(0, 99, ROWS) * 86_400).astype("datetime64[s]"),
            "arm": rng.choice(["a", "b"], ROWS),
        }
    )


@pytest.fixture(scope="module")
def model(table: pd.DataFrame) -> TabularDiffusion:
    options = {"width": 16, "blocks": 1, "max_steps": 2, "progress": False, "random_state": 0}
    with pytest.warns(UserWarning, match="who"):
        return TabularDiffusion(**options).fit(table)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("age", 1000, "'age' holds 1000.*int8"),
        ("visits", 99_999, "'visits' holds 99999.*Int16"),
        ("age", 2.5, "'age' holds 2.5, but whole numbers"),
        ("dose", 1e300, "'dose' holds 1e"),
        ("day", pd.Timestamp("2020-01-01 00:00:00.5"), "'day' holds"),
    ],
)
def test_a_known_value_is_never_changed(table, model, column, value, message) -> None:
    rows = table.head(4).assign(**{column: value})
    with pytest.raises(DataError, match=message):
        model.impute(rows)


def test_score_refuses_fractions_of_whole_numbers(table, model) -> None:
    with pytest.raises(DataError, match=r"'age' holds 2\.5"):
        model.score_samples(table.head(4).assign(age=2.5))


def test_a_column_twice(table, model) -> None:
    twice = pd.concat([table, table[["age"]]], axis=1)
    for method in (model.impute, model.score_samples):
        with pytest.raises(DataError, match="'age' occurs more than once"):
            method(twice)


def test_score_needs_no_identifier(table, model) -> None:
    without = model.score_samples(table.drop(columns="who"))
    np.testing.assert_array_equal(without, model.score_samples(table))


def test_known_identifiers_stay_and_missing_ones_are_made_up(table, model) -> None:
    gaps = table.copy()
    gaps.loc[::3, "who"] = None
    filled = model.impute(gaps, random_state=0)
    known = gaps["who"].notna()
    assert filled["who"].dtype == "category"
    assert (filled["who"][known].astype(str) == table["who"][known].astype(str)).all()
    made = filled["who"][~known]
    assert made.notna().all()
    assert not set(made) & set(table["who"])


def test_identifiers_that_may_be_missing_are_not_after_imputation(table) -> None:
    some = table[["age", "arm"]].assign(code=[f"x{k}" for k in range(ROWS)])
    some.loc[::2, "code"] = None
    model = TabularDiffusion(width=16, blocks=1, max_steps=2, progress=False, random_state=0)
    with pytest.warns(UserWarning, match="code"):
        model.fit(some)
    assert model.sample(ROWS)["code"].isna().any()
    assert model.impute(some)["code"].is_unique
