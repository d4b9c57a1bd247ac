"""Conditions under constraints: translated, or refused with the reason and the way out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scidiffusion.errors import ConditionError
from scidiffusion.tabular import conditions as conditions_module
from scidiffusion.tabular.conditions import Between, Equal, OneOf
from scidiffusion.tabular.constraints import (
    ConstraintSet,
    FixedCombinations,
    Formula,
    Inequality,
)
from scidiffusion.tabular.inference import infer_schema


def table():
    rng = np.random.default_rng(1)
    n = 200
    place = rng.integers(0, 5, n)
    low, gap = rng.integers(0, 50, n), rng.integers(0, 30, n)
    low[0] = gap[0] = 0
    start = pd.Series(pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 99, n), "D"))
    end = start + pd.to_timedelta(rng.integers(0, 40, n), "D")
    return pd.DataFrame(
        {
            "city": np.array(["Bonn", "Köln", "Bath", "York", "Oslo"], dtype=object)[place],
            "country": np.array(["DE", "DE", "UK", "UK", "NO"], dtype=object)[place],
            "zone": np.array([1, 1, 0, 0, 1])[place],
            "low": low,
            "high": low + gap,
            "start": start,
            "end": end.mask(rng.random(n) < 0.2),
            "net": np.round(rng.gamma(2.0, 30.0, n), 1),
            "late": rng.choice([0, 1, 2], n),
        }
    ).assign(gross=lambda t: t["net"] + t["late"] * 10)


def rules(keep="low"):
    chosen = [
        FixedCombinations(["city", "country", "zone"]),
        Inequality("low", "high", keep=keep),
        Inequality("start", "end"),
        Formula("gross", "net + late * 10"),
    ]
    return ConstraintSet(chosen).fit(table(), infer_schema(table()))


def test_other_columns_pass():
    assert rules().conditions({"low": 5, "net": slice(5, 9.5)}) == {
        "low": Equal(5),
        "net": Between(5.0, 9.5),
    }
    assert rules().conditions(None) == {}
    assert rules().conditions({}) == {}


def test_a_column_of_combinations_means_a_set_of_them():
    fitted = rules()
    levels = fitted.modelled_schema_["city & country & zone"].categories
    found = fitted.conditions({"country": "DE"})
    assert found == {"city & country & zone": OneOf((1, 2))}
    made = fitted.inverse(fitted.forward(table()))
    codes = fitted.forward(table())["city & country & zone"]
    assert set(made["country"][codes.isin(found["city & country & zone"].values)]) == {"DE"}
    assert fitted.conditions({"country": "DE", "city": "Köln"}) == {
        "city & country & zone": Equal(2)
    }
    assert fitted.conditions({"zone": Between(1, 1)}) == {
        "city & country & zone": OneOf((1, 2, 3))
    }
    assert len(levels) == 5


def test_a_combination_that_was_not_seen_is_refused():
    with pytest.raises(ConditionError, match=r"'city', 'country': no combination .* seen"):
        rules().conditions({"city": "Bonn", "country": "UK"})


def test_both_sides_of_an_inequality():
    fitted = rules()
    assert fitted.conditions({"low": 5, "high": 8}) == {"low": Equal(5), "high - low": Equal(3)}
    assert fitted.conditions({"low": 5, "high": Between(2, 9)}) == {
        "low": Equal(5),
        "high - low": Between(0, 4),
    }
    assert fitted.conditions({"low": 5, "high": [5, 9, 11]}) == {
        "low": Equal(5),
        "high - low": OneOf((0, 4, 6)),
    }


def test_dates_and_missing_values():
    fitted = rules()
    assert fitted.conditions({"start": "2020-02-01", "end": "2020-02-11"}) == {
        "start": Equal(pd.Timestamp("2020-02-01")),
        "end - start": Equal(10),
    }
    assert fitted.conditions({"end": None}) == {"end - start": Equal(None)}
    both = fitted.conditions({"start": "2020-02-01", "end": ["2020-02-03", None]})
    assert both["end - start"] == OneOf((2, None))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"low": 15, "high": 13}, "'low' and 'high' contradict the constraint 'low <= high'"),
        ({"low": Between(15, 20), "high": Between(3, 14)}, "contradict"),
        ({"high": 13}, "one value of 'low' too; or fit with keep='high'"),
        ({"low": Between(1, 5), "high": 13}, "one value of 'low' too"),
        ({"low": 0, "high": 70}, "as far from it"),
        ({"gross": 30.0}, r"computed as 'net \+ late \* 10' and not drawn; condition on 'net'"),
        ({"gross": 15.5, "net": 5.5, "late": 0}, "make it 5.5; change one"),
        ({"city": "Rom"}, "'Rom' was never seen"),
        ({"cities": "Rom"}, "no column 'cities'"),
    ],
)
def test_impossible_conditions(asked, message):
    with pytest.raises(ConditionError, match=message):
        rules().conditions(asked)


def test_a_formula_of_known_values_may_be_asked_for():
    asked = {"net": 5.5, "late": 2}
    assert rules().conditions(asked | {"gross": 25.5}) == {"net": Equal(5.5), "late": Equal(2)}
    assert rules().conditions(asked | {"gross": Between(20, 30)}).keys() == asked.keys()


def test_the_kept_side_takes_conditions_by_itself():
    fitted = rules("high")
    assert fitted.conditions({"high": Between(20, 30)}) == {"high": Between(20, 30)}
    assert fitted.conditions({"high": 30, "low": 22}) == {
        "high": Equal(30),
        "high - low": Equal(8),
    }
    assert fitted.conditions({"high": 30, "low": Between(22, 28)})["high - low"] == Between(2, 8)
    with pytest.raises(ConditionError, match="one value of 'high' too; or fit with keep='low'"):
        fitted.conditions({"low": 30})


def test_values_known_from_combinations_and_formulas_count_as_given():
    frame = table().assign(limit=lambda t: t["zone"] + 1 + t["late"], cap=lambda t: t["gross"] + 1)
    fitted = ConstraintSet(
        [
            FixedCombinations(["country", "zone"]),
            Inequality("zone", "limit"),
            Formula("gross", "net + late * 10"),
            Inequality("gross", "cap"),
        ]
    ).fit(frame, infer_schema(frame))
    # All of Norway is in zone 1, so that its limit is known from the gap alone.
    assert fitted.conditions({"country": "NO", "limit": 3}) == {
        "country & zone": Equal(1),
        "limit - zone": Equal(2),
    }
    # The distance of "cap" from "gross" is always 1.
    assert fitted.conditions({"net": 20.5, "late": 1, "cap": 31.5}).keys() == {"net", "late"}
    with pytest.raises(ConditionError, match="same in every"):
        fitted.conditions({"net": 20.5, "late": 1, "cap": 33.5})


def test_identifiers_take_no_conditions():
    frame = table().assign(code=range(200))
    schema = infer_schema(frame, {"code": "identifier"})
    for chosen in ([], [Inequality("low", "high")]):
        with pytest.raises(ConditionError, match="'code': it is an identifier"):
            ConstraintSet(chosen).fit(frame, schema).conditions({"code": 3})


@given(st.data())
def test_translated_conditions_choose_the_same_rows(data):
    """Of the training rows, those that meet the one meet the other."""
    frame, fitted = table(), rules(data.draw(st.sampled_from(["low", "high"])))
    row = frame.iloc[data.draw(st.integers(0, len(frame) - 1))]
    names = ["city", "country", "zone", "low", "start", "net", "late"]
    chosen = data.draw(st.lists(st.sampled_from(names), unique=True, max_size=3))
    asked = {name: row[name] for name in chosen}
    kept, other = ("low", "high") if "high" in fitted.derived else ("high", "low")
    asked.pop(other, None)
    if data.draw(st.booleans()):
        asked |= {kept: row[kept]}
        wide = data.draw(st.booleans())
        asked[other] = Between(row[other] - 5, row[other] + 5) if wide else row[other]
    if "start" in asked and data.draw(st.booleans()):
        asked["end"] = None if pd.isna(row["end"]) else row["end"]
    translated = fitted.conditions(asked)
    modelled = fitted.forward(frame)
    found = conditions_module.satisfied(fitted.modelled_schema_, modelled, translated)
    expected = conditions_module.satisfied(fitted.schema_, frame, asked)
    assert expected[row.name]
    assert found.tolist() == expected.tolist()
