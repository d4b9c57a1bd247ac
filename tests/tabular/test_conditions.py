"""Conditions: every spelling of the same condition is one, and impossible ones are errors."""

from __future__ import annotations

import datetime
import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scidiffusion.errors import ConditionError, DataError
from scidiffusion.tabular import columns
from scidiffusion.tabular.condition_texts import parse_texts
from scidiffusion.tabular.conditions import (
    Between,
    Equal,
    OneOf,
    allows_missing,
    codes,
    from_dict,
    intervals,
    numbers_interval,
    parse,
    satisfied,
    to_dict,
)
from scidiffusion.tabular.inference import infer_schema
from scidiffusion.tabular.values import value_from_number

N = 60


def stamps(texts):
    return [pd.Timestamp(text) for text in texts]


def make_table() -> pd.DataFrame:
    index = np.arange(N)
    sizes = pd.CategoricalDtype(["XS", "S", "M", "L", "XL"], ordered=True)
    return pd.DataFrame(
        {
            "city": np.array(["Bonn", "Bath", "Cork, IE", "a..b"], dtype=object)[index % 4],
            "size": pd.Categorical(np.array(["S", "M", "L"])[index % 3], dtype=sizes),
            "grade": pd.Categorical(index % 5 + 1),
            "flag": index % 2 == 0,
            "age": index % 40 + 20,
            "price": np.round(index * 0.37, 2),
            "real": np.sqrt(index),
            "single": (index / 10).astype("float32"),
            "income": np.where(index % 4 == 0, np.nan, index * 1000.0),
            "seen": np.where(index % 3 == 0, None, "x"),
            "day": pd.date_range("2020-01-01", periods=N),
            "text": pd.date_range("2020-01-01", periods=N).strftime("%Y-%m-%d"),
            "time": pd.date_range("2020-01-01", periods=N, freq="7h"),
            "zoned": pd.date_range("2020-03-01", periods=N, freq="D", tz="Europe/Rome"),
            "utc": pd.date_range("2020-03-01", periods=N, freq="h", tz="UTC"),
            "span": pd.to_timedelta(index, unit="h"),
            "wide": np.array([2**60 + k for k in range(N)], dtype=np.int64),
        }
    )


TABLE = make_table()
SCHEMA = infer_schema(TABLE, {"grade": "categorical"})


def one(name, asked):
    return parse(SCHEMA, {name: asked}).get(name)


@pytest.mark.parametrize(
    ("name", "asked", "expected"),
    [
        # one value
        ("city", "Bonn", Equal("Bonn")),
        ("flag", np.True_, Equal(True)),
        ("age", 30.0, Equal(30)),
        ("income", None, Equal(None)),
        ("income", np.nan, Equal(None)),
        ("seen", pd.NA, Equal(None)),
        ("age", np.array(30), Equal(30)),
        ("text", "2020-01-05", Equal(pd.Timestamp("2020-01-05"))),
        # sets, in the column's own order
        ("city", {"Bonn"}, Equal("Bonn")),
        ("city", ["Bonn", "Bath", "Bonn"], OneOf(("Bath", "Bonn"))),
        ("city", ("Bath", "Bonn"), OneOf(("Bath", "Bonn"))),
        ("city", np.array(["Bonn", "Bath"]), OneOf(("Bath", "Bonn"))),
        ("city", pd.Index(["Bonn", "Bath"]), OneOf(("Bath", "Bonn"))),
        ("city", pd.Series(["Bonn", "Bath"]), OneOf(("Bath", "Bonn"))),
        ("city", pd.array(["Bonn", "Bath"], dtype="string"), OneOf(("Bath", "Bonn"))),
        ("age", [30, 20, 40], OneOf((20, 30, 40))),
        ("age", range(30, 33), Between(30, 32)),
        ("price", [0.37, 0.0, 0.74], OneOf((0.0, 0.37, 0.74))),
        ("income", [5000, np.nan], OneOf((5000.0, None))),
        ("income", [np.nan, None, pd.NA], Equal(None)),
        (
            "day",
            ["2020-01-05", datetime.date(2020, 1, 6)],
            Between(*stamps(["2020-01-05", "2020-01-06"])),
        ),
        ("city", ["Bonn", "Bath", "Cork, IE", "a..b"], None),
        ("flag", [True, False], None),
        ("seen", ["x", None], None),
        ("seen", ["x"], Equal("x")),
        ("age", range(20, 60), None),
        # ranges
        ("age", slice(30, 40), Between(30, 40)),
        ("age", pd.Interval(30, 40), Between(31, 40)),
        ("age", pd.Interval(30, 40, closed="left"), Between(30, 39)),
        ("age", Between(29.5, 40.2), Between(30, 40)),
        ("age", Between(29, 31, False, False), Equal(30)),
        ("age", slice(50, None), Between(50, 59)),
        ("age", slice(50, 1000), Between(50, 59)),
        ("age", slice(50, math.inf), Between(50, 59)),
        ("age", slice(None, 25), Between(20, 25)),
        ("age", slice(None, None), None),
        ("age", slice(0, 100), None),
        ("age", slice(59, 70), Equal(59)),
        ("income", slice(None, None), Between(1000.0, 59000.0)),
        ("price", Between(0.371, 1.0), Between(0.38, 1.0)),
        ("price", Between(0.37, 1.0, include_low=False), Between(0.38, 1.0)),
        ("price", Between(0.37, 1.0, include_high=False), Between(0.37, 0.99)),
        ("real", Between(1.0, 2.0, include_low=False), Between(math.nextafter(1, 2), 2.0)),
        ("single", Between(0.3, 0.5), Between(float(np.float32(0.3)), float(np.float32(0.5)))),
        ("wide", Between(2**60 + 1, 2**60 + 3, include_low=False), Between(2**60 + 2, 2**60 + 3)),
        ("span", slice("90min", "4h"), Between(pd.Timedelta("2h"), pd.Timedelta("4h"))),
        ("span", slice(None, pd.Timedelta("30min")), Equal(pd.Timedelta(0))),
        ("day", slice("2020-02", None), Between(*stamps(["2020-02-01", "2020-02-29"]))),
        ("day", slice(None, "2020-01"), Between(*stamps(["2020-01-01", "2020-01-31"]))),
        (
            "day",
            Between("2020-01", None, include_low=False),
            Between(*stamps(["2020-02-01", "2020-02-29"])),
        ),
        (
            "day",
            Between(None, "2020-02", include_high=False),
            Between(*stamps(["2020-01-01", "2020-01-31"])),
        ),
        (
            "text",
            slice("2020-01-05", "2020-01-06"),
            Between(*stamps(["2020-01-05", "2020-01-06"])),
        ),
        (
            "time",
            slice("2020-01-02", "2020-01-02"),
            Between(*stamps(["2020-01-02 00:00", "2020-01-02 23:00"])),
        ),
        (
            "time",
            slice(None, pd.Timestamp("2020-01-02 05:59")),
            Between(*stamps(["2020-01-01", "2020-01-02 05:00"])),
        ),
        (
            "zoned",
            slice("2020-03-28", "2020-03-30"),
            Between(*(pd.Timestamp(f"2020-03-{day}", tz="Europe/Rome") for day in (28, 30))),
        ),
        (
            "utc",
            slice("2020-03-01 04:00", pd.Timestamp("2020-03-01 07:30+01:00")),
            Between(*(pd.Timestamp(f"2020-03-01 0{hour}:00", tz="UTC") for hour in (4, 6))),
        ),
        ("size", slice("M", None), OneOf(("M", "L"))),
        ("size", slice("XS", "S"), Equal("S")),
        ("size", Between("M", "XL", include_low=False), Equal("L")),
        ("size", slice("XS", "XL"), None),
        ("grade", slice(2, 4), OneOf((2, 3, 4))),
        ("grade", Between(2.5, 4, include_high=False), Equal(3)),
    ],
)
def test_every_spelling_has_one_canonical_form(name, asked, expected):
    found = one(name, asked)
    assert found == expected
    if found is not None:
        assert one(name, found) == found
        assert from_dict(json.loads(json.dumps(to_dict(found)))) == found


def test_values_keep_their_types():
    assert type(one("age", 30.0).value) is int
    assert type(one("flag", np.True_).value) is bool
    assert [type(value) for value in one("income", [5000, None]).values] == [float, type(None)]
    assert one("zoned", slice("2020-03-28", None)).low.tz is not None


def test_open_and_flagged_conditions_survive_json():
    for condition in (
        Between(low=3, include_low=False),
        Between(high=pd.Timedelta("90min"), include_high=False),
        OneOf((1, None, pd.Timestamp("2020-01-01", tz="Europe/Rome"))),
    ):
        assert from_dict(json.loads(json.dumps(to_dict(condition)))) == condition
    for wrong in ({}, {"between": [1]}, {"one_of": 3}):
        with pytest.raises(ConditionError, match="not a condition"):
            from_dict(wrong)


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"citty": "Bonn"}, "no column 'citty'; did you mean 'city'"),
        ({"city": "Rome"}, "'city': the value 'Rome' was never seen"),
        ({"city": ["Bonn", "Rome"]}, "'city': the value 'Rome' was never seen"),
        ({"city": ["Bonn", None]}, "'city': no value was missing in training"),
        ({"city": ["Bonn", np.nan]}, "'city': no value was missing in training"),
        ({"city": Equal(None)}, "'city': no value was missing in training"),
        ({"city": []}, "'city': the set is empty"),
        ({"city": [["Bonn"]]}, "'city' must be a single value"),
        ({"city": {"Bonn": 1}}, "'city' must be a value, a list of values, slice"),
        ({"city": slice("Bath", "Bonn")}, "'city': a range needs an order"),
        ({"flag": slice(False, True)}, "'flag': a range needs an order"),
        ({"age": slice(40, 30)}, r"'age': the range \[40, 30\] is empty: its low end is above"),
        ({"age": Between(30, 31, False, False)}, r"the range \(30, 31\) holds no value"),
        ({"age": slice(30.2, 30.8)}, "holds no value that the column can have"),
        ({"age": slice(70, 80)}, r"'age': the range \[70, 80\] is outside .*\[20, 59\]"),
        ({"age": slice(None, 3)}, r"the range \[..., 3\] is outside the observed range"),
        ({"age": slice(20, 40, 2)}, "'age': a range is slice.low, high., without a step"),
        ({"age": slice("young", None)}, "'age' must be a number, got 'young'"),
        ({"age": slice(np.nan, None)}, "'age' must be a number, got nan"),
        ({"age": slice(True, None)}, "'age' must be a number, got True"),
        ({"age": [20, 20.5]}, "'age' must be a whole number"),
        ({"age": np.inf}, "'age' must be a whole number"),
        ({"age": 10**400}, "'age' must be a number"),
        ({"age": [1, 2]}, "'age': 1 is outside the observed range"),
        ({"price": [0.37, 0.001]}, r"'price' must have at most 2 decimal"),
        ({"price": slice(0.371, 0.379)}, "holds no value that the column can have"),
        ({"day": slice(5, None)}, "'day' must be a date, got 5"),
        ({"day": slice("soon", None)}, "'day' must be a date, got 'soon'"),
        ({"day": slice("2020-02-01", "2020-01-01")}, "'day': .* its low end is above"),
        (
            {"day": slice("2021-01-01", None)},
            r"outside the observed range \[2020-01-01.*2020-02-29",
        ),
        ({"day": slice(pd.Timestamp("2020-01-05", tz="UTC"), None)}, "without a time zone"),
        ({"day": slice(pd.NaT, None)}, "'day' must be a date, got NaT"),
        ({"span": slice("1h", "long")}, "'span' must be a duration, got 'long'"),
        ({"span": slice("61min", "119min")}, "holds no value that the column can have"),
        ({"size": slice("XXL", None)}, "'size': the value 'XXL' was never seen"),
        ({"size": "XL"}, "'size': the value 'XL' was never seen"),
        ({"size": slice("XL", None)}, "'size': no known value lies between XL and ..."),
        ({"size": slice("L", "S")}, "'size': no known value lies between L and S"),
        ({"grade": slice(7, 9)}, "'grade': no known value lies between 7 and 9"),
        (["age"], "conditions must be a dict of column -> value, set or range, not list"),
    ],
)
def test_impossible_conditions_are_one_clear_error(conditions, message):
    with pytest.raises(ConditionError, match=message):
        parse(SCHEMA, conditions)


def test_an_identifier_takes_no_condition():
    schema = infer_schema(TABLE.assign(id=range(N)), {"id": "identifier", "grade": "categorical"})
    with pytest.raises(ConditionError, match="'id': it is an identifier"):
        parse(schema, {"id": 3})
    with pytest.raises(ConditionError, match="'id': it is an identifier"):
        parse_texts(schema, ["id>=3"])


def test_no_conditions():
    assert parse(SCHEMA, None) == parse(SCHEMA, {}) == {}


# ------------------------------------------------------------------------ texts


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["city=Bonn", "age=30"], {"city": "Bonn", "age": 30}),
        (["city=Bonn,Bath"], {"city": ["Bonn", "Bath"]}),
        (["city= Bonn , Bath "], {"city": ["Bonn", "Bath"]}),
        (["city = Bonn"], {"city": "Bonn"}),
        (["city=Cork, IE"], {"city": "Cork, IE"}),
        (['city="Cork, IE",Bonn'], {"city": ["Cork, IE", "Bonn"]}),
        (['city="Cork, IE", "a..b"'], {"city": ["Cork, IE", "a..b"]}),
        (["city=a..b"], {"city": "a..b"}),
        (["flag=true"], {"flag": True}),
        (["flag=False"], {"flag": False}),
        (["grade=2,4"], {"grade": [2, 4]}),
        (["grade=2..4"], {"grade": [2, 3, 4]}),
        (["grade>2.5"], {"grade": [3, 4, 5]}),
        (["size>=M"], {"size": ["M", "L"]}),
        (["size=XS..M"], {"size": ["S", "M"]}),
        (["age=30..40"], {"age": slice(30, 40)}),
        (["age = 30 .. 40"], {"age": slice(30, 40)}),
        (["age=30.."], {"age": slice(30, None)}),
        (["age=..40"], {"age": slice(None, 40)}),
        (["age>=30", "age < 40"], {"age": slice(30, 39)}),
        (["age<40", "age>30"], {"age": slice(31, 39)}),
        (["age=30,32"], {"age": [30, 32]}),
        (["price=.5..1.5"], {"price": slice(0.5, 1.5)}),
        (["income>=50000"], {"income": slice(50000, None)}),
        (["income="], {"income": None}),
        (["income=5000,"], {"income": [5000, None]}),
        (["income=.."], {"income": slice(None, None)}),
        (["seen="], {"seen": None}),
        (["day=2020-01-05..2020-01-09"], {"day": slice("2020-01-05", "2020-01-09")}),
        (["day=2020-02"], {"day": "2020-02"}),
        (["time<=2020-01-03"], {"time": slice(None, "2020-01-03")}),
        (["text>2020-01-05"], {"text": slice("2020-01-06", None)}),
        (["span=2h..3h"], {"span": slice("2h", "3h")}),
        ([], {}),
    ],
)
def test_texts_mean_what_their_values_mean(texts, expected):
    assert parse_texts(SCHEMA, texts) == parse(SCHEMA, expected)


def test_names_and_values_may_hold_operators_and_quotes():
    table = pd.DataFrame({"a=b": ["x", "y=z"], "a": ["p", 'say "q"'], "a>": ["", " r"]})
    schema = infer_schema(table)
    assert parse_texts(schema, ["a=b=y=z", 'a=say "q"']) == {
        "a=b": Equal("y=z"),
        "a": Equal('say "q"'),
    }
    assert parse_texts(schema, ['a="say ""q"""']) == {"a": Equal('say "q"')}
    assert parse_texts(schema, ["a>="]) == {"a>": Equal("")}
    assert parse_texts(schema, ['a>=""']) == {"a>": Equal("")}
    assert parse_texts(schema, ["a>= r"]) == {"a>": Equal(" r")}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["city"], "reads column=value, .*got 'city'"),
        (["citty=Bonn"], "no column 'citty'; did you mean 'city'"),
        (["city=Bonn", "city=Bath"], "two conditions on column 'city'"),
        (["age>=30", "age>=40"], "two conditions on column 'age'"),
        (["age>=30", "age=40"], "two conditions on column 'age'"),
        (["age>=40", "age<=30"], "low end is above its high end"),
        (["age>="], "'age': nothing stands after '>='"),
        (["age>=3,4"], "one value stands after '>='"),
        (["age>=3..4"], "one value stands after '>='"),
        (["age=many"], "'age' must be a number, got 'many'"),
        (["age="], "'age' must be a number, got ''"),
        (["age=30..40,50"], "mixes a set and a range"),
        (["age=30..40..50"], "more than one '..'"),
        (["city=Bath..Bonn"], "'city': a range needs an order"),
        (["city=Bonn,"], "'city': the value '' was never seen"),
        (['seen=""'], "'seen': the value '' was never seen"),
        (["size>=XXL"], "'size': the value 'XXL' was never seen"),
    ],
)
def test_unreadable_texts(texts, message):
    with pytest.raises(ConditionError, match=message):
        parse_texts(SCHEMA, texts)


@given(st.text(min_size=1, max_size=8), st.text(max_size=8))
def test_any_level_can_be_quoted(first, second):
    if first == second:
        return
    schema = infer_schema(pd.DataFrame({"c": [first, second, "other"]}), {"c": "categorical"})
    quoted = ",".join('"' + level.replace('"', '""') + '"' for level in (first, second))
    assert parse_texts(schema, [f"c={quoted}"]) == parse(schema, {"c": [first, second]})


# --------------------------------------------------------------- numbers, codes


def test_intervals_are_in_the_units_of_the_codec():
    assert numbers_interval(SCHEMA["age"], one("age", slice(30, 40))) == (10.0, 20.0)
    assert numbers_interval(SCHEMA["price"], one("price", slice(0.5, 1.5))) == (0.5, 1.5)
    assert numbers_interval(SCHEMA["day"], one("day", slice("2020-01-03", "2020-01-09"))) == (2, 8)
    assert numbers_interval(SCHEMA["age"], one("age", 33)) == (13.0, 13.0)
    assert numbers_interval(SCHEMA["age"], Between(low=50)) == (30.0, 39.0)
    assert intervals(SCHEMA["age"], one("age", [30, 20, 40])).tolist() == [
        [0, 0],
        [10, 10],
        [20, 20],
    ]
    assert numbers_interval(SCHEMA["age"], one("age", [30, 20, 40])) == (0.0, 20.0)
    assert intervals(SCHEMA["income"], one("income", [5000, None])).tolist() == [[5000, 5000]]
    assert len(intervals(SCHEMA["income"], one("income", None))) == 0
    assert np.isnan(numbers_interval(SCHEMA["income"], one("income", None))).all()


def test_codes_are_those_of_the_columns_module():
    city = SCHEMA["city"]
    found = codes(city, one("city", ["Bonn", "a..b"]))
    assert [city.categories[code] for code in found] == ["Bonn", "a..b"]
    assert codes(SCHEMA["seen"], Equal(None)).tolist() == [-1]
    assert codes(SCHEMA["seen"], OneOf((None, "x"))).tolist() == [0, -1]
    assert codes(SCHEMA["flag"], Equal(True)).tolist() == [1]


def test_missing_meets_only_conditions_that_name_it():
    assert allows_missing(Equal(None))
    assert allows_missing(OneOf((1, None)))
    assert not allows_missing(OneOf((1, 2)))
    assert not allows_missing(Between())


NUMERIC = [column.name for column in SCHEMA if not column.kind.is_discrete]


@pytest.mark.parametrize("name", NUMERIC)
def test_numbers_become_their_values_again(name):
    column = SCHEMA[name]
    numbers = columns.numbers_from_series(TABLE[name], column)
    for number in numbers:
        value = value_from_number(float(number), column)
        back = columns.number_from_value(value, column)
        assert back == number or (math.isnan(back) and math.isnan(number))


# -------------------------------------------------------------------- satisfied


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({"city": ["Bonn", "a..b"]}, TABLE["city"].isin(["Bonn", "a..b"])),
        ({"size": slice("M", None)}, TABLE["size"] >= "M"),
        ({"grade": slice(2, 4)}, TABLE["grade"].astype(int).between(2, 4)),
        ({"flag": True}, TABLE["flag"]),
        ({"seen": None}, TABLE["seen"].isna()),
        ({"age": slice(30, 40)}, TABLE["age"].between(30, 40)),
        ({"age": [30, 33]}, TABLE["age"].isin([30, 33])),
        ({"income": Between(5000, None, include_low=False)}, TABLE["income"] > 5000),
        ({"income": [5000, None]}, TABLE["income"].isna() | (TABLE["income"] == 5000)),
        ({"income": slice(None, None)}, TABLE["income"].notna()),
        ({"single": slice(0.3, 0.5)}, TABLE.index.isin([3, 4, 5])),
        ({"day": slice("2020-02", None)}, TABLE["day"].dt.month == 2),
        ({"text": slice("2020-02", None)}, TABLE["text"].str[:7] == "2020-02"),
        ({"time": slice(None, "2020-01-04")}, TABLE["time"] < "2020-01-05"),
        (
            {"zoned": slice("2020-03-29", "2020-03-29")},
            TABLE["zoned"].dt.date == datetime.date(2020, 3, 29),
        ),
        ({"span": slice("2h", "5h")}, TABLE.index.isin(range(2, 6))),
        ({"wide": slice(2**60 + 5, None)}, TABLE.index >= 5),
        ({"flag": True, "age": slice(30, 40)}, TABLE["flag"] & TABLE["age"].between(30, 40)),
        ({}, np.ones(N, dtype=bool)),
    ],
)
def test_satisfied_agrees_with_pandas(conditions, expected):
    found = satisfied(SCHEMA, TABLE, conditions)
    assert found.dtype == bool
    assert found.tolist() == list(expected)


@pytest.mark.parametrize("low", [0, 0.37, 0.371, 1.11])
@pytest.mark.parametrize("high", [1.11, 5.0, 7.4])
@pytest.mark.parametrize("flags", [(True, True), (False, True), (True, False)])
def test_a_canonical_range_holds_the_same_rows_as_the_one_asked_for(low, high, flags):
    if low == high and flags != (True, True):
        return
    asked = Between(low, high, *flags)
    above = TABLE["price"] >= low if flags[0] else TABLE["price"] > low
    below = TABLE["price"] <= high if flags[1] else TABLE["price"] < high
    assert satisfied(SCHEMA, TABLE, {"price": asked}).tolist() == (above & below).tolist()


def test_sums_of_decimals_are_the_decimals_they_mean():
    table = pd.DataFrame({"x": [0.1 + 0.2, 0.5, 0.7, 0.1]})
    schema = infer_schema(table)
    assert satisfied(schema, table, {"x": 0.3}).tolist() == [True, False, False, False]
    assert satisfied(schema, table, {"x": slice(None, 0.3)}).tolist() == [True, False, False, True]


def test_satisfied_of_foreign_tables():
    other = pd.DataFrame({"city": ["Rome", "Bonn", None], "age": [10, 30, 30]})
    conditions = {"city": "Bonn", "age": slice(30, None)}
    assert satisfied(SCHEMA, other, conditions).tolist() == [False, True, False]
    with pytest.raises(DataError, match="no column 'age'"):
        satisfied(SCHEMA, other[["city"]], conditions)
    assert satisfied(SCHEMA, TABLE.head(0), conditions).shape == (0,)
