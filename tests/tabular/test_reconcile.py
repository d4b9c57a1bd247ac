"""Imputation beside constraints: what is known of computed columns decides what follows."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from scidiffusion import TabularDiffusion
from scidiffusion.errors import ConditionError, ScidiffusionWarning
from scidiffusion.tabular import FixedCombinations, Formula, Inequality, Unique, drawing

ROWS = 300


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    start = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, ROWS), "D")
    above, cellar = rng.integers(60, 200, ROWS), rng.integers(0, 40, ROWS)
    city = rng.integers(0, 150, ROWS)
    return pd.DataFrame(
        {
            "start": start,
            "end": start + pd.to_timedelta(rng.integers(0, 30, ROWS), "D"),
            "above": above,
            "cellar": cellar,
            "living": above + cellar,
            "price": np.round(above * 1.5, 1),
            "city": [f"city {k}" for k in city],
            "country": [f"country {k // 3}" for k in city],
            "ward": rng.integers(0, 40, ROWS),
            "bed": np.arange(ROWS) % 60,
        }
    ).drop_duplicates(["ward", "bed"], ignore_index=True)


HARDLY_TRAINED = {
    "width": 16,
    "blocks": 1,
    "max_steps": 2,
    "progress": False,
    "random_state": 0,
}


@pytest.fixture(scope="module")
def model(table: pd.DataFrame) -> TabularDiffusion:
    # Hardly trained: what holds must hold whatever is drawn.
    return TabularDiffusion(
        constraints=[
            Inequality("start", "end"),
            Formula("living", "above + cellar"),
            FixedCombinations(["city", "country"]),
            Unique(["ward", "bed"]),
        ],
        **HARDLY_TRAINED,
    ).fit(table)


def fill(model: TabularDiffusion, table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Hide columns of every other row and complete them, without a warning."""
    gaps = table.copy()
    gaps.loc[::2, columns] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScidiffusionWarning)
        filled = model.impute(gaps, random_state=0)
    assert not filled.isna().any().any()
    assert not model.front_.violations(filled).any()
    known = gaps.notna()
    for name in table:
        assert filled.loc[known[name], name].equals(table.loc[known[name], name]), name
    return filled


def test_a_start_keeps_its_distance_from_a_known_end(table, model) -> None:
    filled = fill(model, table, ["start"])
    gap = (filled["end"] - filled["start"]).dt.days
    assert gap.between(0, 29).all()
    assert gap[::2].nunique() > 5


def test_the_only_unknown_part_is_what_is_left_over(table, model) -> None:
    filled = fill(model, table, ["cellar"])
    pd.testing.assert_series_equal(filled["cellar"], table["cellar"])
    assert filled["cellar"].dtype == table["cellar"].dtype


def test_several_unknown_parts_add_up_and_stay_in_range(table, model) -> None:
    filled = fill(model, table, ["above", "cellar"])
    assert (filled["above"] + filled["cellar"] == table["living"]).all()
    assert filled["above"].between(table["above"].min(), table["above"].max()).all()
    assert filled["cellar"].between(table["cellar"].min(), table["cellar"].max()).all()


@pytest.mark.parametrize("column", ["city", "country"])
def test_a_part_of_a_combination(table, model, column) -> None:
    filled = fill(model, table, [column])
    seen = set(zip(table["city"], table["country"], strict=True))
    assert set(zip(filled["city"], filled["country"], strict=True)) <= seen


def test_the_only_fitting_combination_needs_no_second_draw(table, model, monkeypatch) -> None:
    monkeypatch.setattr(drawing, "REPAIRS", 0)
    filled = fill(model, table, ["country"])
    pd.testing.assert_series_equal(filled["country"], table["country"])


def test_a_drawn_key_is_no_other_rows(table, model) -> None:
    filled = fill(model, table, ["bed"])
    assert not filled.duplicated(["ward", "bed"]).any()


def test_other_gaps_hide_nothing_that_is_known(table, model) -> None:
    gaps = table.assign(city=None)
    given = model.front_.modelled(gaps, gaps=True)
    assert given["city & country"].isna().all()
    assert given["end - start"].notna().all()


def test_balance_names_what_is_derived(model) -> None:
    with pytest.raises(ConditionError, match="'city' follows from a constraint"):
        model.sample(5, balance="city")
    with pytest.raises(ConditionError, match="balance must be"):
        model.sample(5, balance=5)


def test_missing_parts_of_combinations_are_filled() -> None:
    rng = np.random.default_rng(0)
    country = rng.choice(["DE", "UK"], 200)
    table = pd.DataFrame(
        {
            "country": country,
            "city": np.where(country == "DE", "Bonn", "Bath"),
            "x": rng.random(200),
        }
    )
    table["city"] = table["city"].where(rng.random(200) < 0.5)
    model = TabularDiffusion(
        constraints=[FixedCombinations(["city", "country"])],
        **HARDLY_TRAINED,
    ).fit(table)
    filled = model.impute(table, random_state=0)
    assert (filled["city"] == np.where(country == "DE", "Bonn", "Bath")).all()


def test_a_rest_that_no_part_can_take_is_told(table, model) -> None:
    rows = table.head(4).assign(above=np.nan, cellar=np.nan, living=5)
    with pytest.warns(ScidiffusionWarning, match="4 of 4 rows break a constraint"):
        filled = model.impute(rows, random_state=0)
    assert (filled["living"] == 5).all()
