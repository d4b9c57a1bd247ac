"""Bad input: one clear error each, before anything is computed."""

from __future__ import annotations

import datetime
import warnings

import numpy as np
import pandas as pd
import pytest

from scidiffusion.errors import (
    ConditionError,
    ConfigError,
    DataError,
    SchemaError,
    ScidiffusionWarning,
)
from scidiffusion.tabular.conditions import parse
from scidiffusion.tabular.constraints import ConstraintSet
from scidiffusion.tabular.inference import infer_schema
from scidiffusion.tabular.validation import validate_count, validate_table
from scidiffusion.tabular.values import check_value

N = 40


def good_table(**columns):
    table = pd.DataFrame({"size": np.arange(N) % 7 + 0.5, "sort": list("ab") * (N // 2)})
    return table.assign(**columns)


def test_a_good_table_gives_its_schema():
    table = good_table()
    assert validate_table(table) == infer_schema(table)
    assert validate_table(table.head(10)).names == ["size", "sort"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([1, 2, 3], "must be a pandas DataFrame, not list"),
        (pd.DataFrame(), "no columns"),
        (pd.DataFrame(index=range(N)), "no columns"),
        (good_table().head(0), r"0 row\(s\); at least 10"),
        (good_table().head(1), r"1 row\(s\); at least 10"),
        (good_table().rename(columns={"size": 7}), "name 7 is int, not text"),
        (good_table().set_axis(["a", "a"], axis=1), "'a' occurs more than once"),
        (
            good_table().set_axis(pd.MultiIndex.from_tuples([("a", "b"), ("a", "c")]), axis=1),
            "several levels",
        ),
        (good_table(size=3.0), r"'size' is constant \(3.0 in every row\); drop it"),
        (good_table(sort="x"), r"'sort' is constant \('x'"),
        (good_table(size=np.nan), "'size' has only missing values; drop it"),
        (good_table(sort=None), "'sort' has only missing values"),
        (good_table(size=[np.inf, *range(N - 1)]), "'size' holds infinite values"),
        (good_table(size=[-np.inf, *range(N - 1)]), "'size' holds infinite values"),
        (
            good_table(size=pd.Series([np.inf, *range(N - 1)], dtype=object)),
            "'size' holds infinite values",
        ),
        (
            pd.DataFrame({"name": [f"id{i}" for i in range(N)]}),
            r"every column names the rows .*\(name\); override",
        ),
        (good_table(sort=[1, "a"] * (N // 2)), "'sort' mixes types"),
        (good_table(sort=[[1], [2]] * (N // 2)), "'sort' holds objects of type list"),
        (good_table(size=np.arange(N) * 1j), "'size' has the dtype complex128"),
    ],
)
def test_a_table_that_cannot_be_learned(table, message):
    with pytest.raises(DataError, match=message):
        validate_table(table)


def test_identifiers_are_named_in_one_warning():
    table = good_table(sort=[f"id{i}" for i in range(N)], code=[f"{i:03d}" for i in range(N)])
    with pytest.warns(ScidiffusionWarning) as caught:
        schema = validate_table(table)
    assert len(caught) == 1
    text = str(caught[0].message)
    assert "'sort' (40 different texts in 40 rows), 'code' (40 different" in text
    assert "{'sort': 'categorical'}" in text
    assert "{'sort': 'identifier'}" in text
    assert [column.name for column in schema.identifiers] == ["sort", "code"]
    assert schema.modelled.names == ["size"]
    assert schema["sort"].categories == ()


def test_overrides_are_checked_and_lift_the_identifier_rule():
    table = good_table(sort=[f"id{i}" for i in range(N)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(validate_table(table, {"sort": "categorical"})["sort"].categories) == N
        assert validate_table(table, {"sort": "identifier"})["sort"].kind == "identifier"
    with pytest.raises(SchemaError, match="no column 'sorts'; did you mean 'sort'"):
        validate_table(table, {"sorts": "categorical"})
    with pytest.raises(SchemaError, match=r"'size' .* cannot be an identifier"):
        validate_table(table, {"size": "identifier"})


def test_text_that_nearly_never_repeats_is_an_identifier():
    rng = np.random.default_rng(0)
    names = good_table().iloc[np.zeros(200, int)].reset_index(drop=True)
    names["size"] = np.arange(200) % 9
    names["sort"] = list("ab") * 100
    names["name"] = [f"n{k}" for k in range(195)] + ["n0"] * 5
    with pytest.warns(ScidiffusionWarning, match=r"'name' \(195 different texts in 200 rows\)"):
        assert validate_table(names)["name"].kind == "identifier"
    many = pd.DataFrame({"city": [f"c{k}" for k in rng.integers(0, 300, 1000)]})
    assert len(validate_table(many)["city"].categories) > 250


def test_dates_that_never_repeat_are_no_identifier():
    days = pd.date_range("2020-01-01", periods=N).strftime("%Y-%m-%d")
    assert validate_table(good_table(sort=days))["sort"].kind == "datetime"


def test_one_value_beside_missing_ones_says_something():
    flags = validate_table(good_table(sort=["yes", None] * (N // 2)))
    assert flags["sort"].categories == ("yes",)


def conditions_schema():
    table = good_table(
        count=np.arange(N) % 5,
        money=np.arange(N) / 4,
        flag=[True, False] * (N // 2),
        seen=["x", None] * (N // 2),
        single=(np.arange(N) / 10).astype("float32"),
        day=pd.date_range("2020-01-01", periods=N),
        text=pd.date_range("2020-01-01", periods=N).strftime("%Y-%m-%d"),
        zoned=pd.date_range("2020-01-01", periods=N, tz="Europe/Rome"),
        span=pd.to_timedelta(np.arange(N), unit="h"),
    )
    return infer_schema(table)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("sort", "a", "a"),
        ("sort", np.str_("b"), "b"),
        ("count", 3, 3),
        ("count", 3.0, 3),
        ("count", np.int8(4), 4),
        ("money", 0.25, 0.25),
        ("money", 1, 1.0),
        ("single", 0.3, float(np.float32(0.3))),
        ("flag", True, True),
        ("flag", np.False_, False),
        ("seen", None, None),
        ("seen", np.nan, None),
        ("day", "2020-01-05", pd.Timestamp("2020-01-05")),
        ("day", datetime.date(2020, 1, 5), pd.Timestamp("2020-01-05")),
        ("text", "2020-01-05", pd.Timestamp("2020-01-05")),
        ("zoned", "2020-01-05", pd.Timestamp("2020-01-05", tz="Europe/Rome")),
        ("span", "3h", pd.Timedelta("3h")),
    ],
)
def test_possible_conditions_are_canonical(name, value, expected):
    schema = conditions_schema()
    checked = check_value(schema[name], value)
    assert checked == expected
    assert type(checked) is type(expected)
    assert check_value(schema[name], checked) == checked


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"sorts": "a"}, "no column 'sorts'; did you mean 'sort'"),
        ({"zzz": "a"}, "no column 'zzz'; the columns are 'size', 'sort'"),
        ({"sort": "c"}, "'sort': the value 'c' was never seen.*known values are 'a', 'b'"),
        ({"sort": None}, "'sort': no value was missing in training"),
        ({"flag": 1}, "'flag': the value 1 was never seen"),
        ({"count": 2.5}, "'count' must be a whole number"),
        ({"count": 9}, r"'count': 9 is outside the observed range \[0, 4\]"),
        ({"count": True}, "'count' must be a number"),
        ({"money": "high"}, "'money' must be a number, got 'high'"),
        ({"money": -0.25}, "'money': -0.25 is outside"),
        ({"money": 0.123}, r"'money' must have at most 2 decimal\(s\)"),
        ({"money": np.inf}, "'money'"),
        ({"day": "soon"}, "'day' must be a date, got 'soon'"),
        ({"day": 5}, "'day' must be a date, got 5"),
        ({"day": "2020-01-05 07:00"}, r"'day' must be a whole number of its unit \(D\)"),
        ({"day": "2031-01-01"}, r"'day': '2031-01-01' is outside .*\[2020-01-01.*, 2020-02-09"),
        ({"day": pd.Timestamp("2020-01-05", tz="UTC")}, "'day' must be a date without a time"),
        ({"span": "90min"}, "'span' must be a whole number of its unit"),
        ({"span": "long"}, "'span' must be a duration"),
        ("sort=a", "conditions must be a dict"),
    ],
)
def test_impossible_conditions(conditions, message):
    with pytest.raises(ConditionError, match=message):
        parse(conditions_schema(), conditions)


def test_identifiers_take_no_conditions():
    table = good_table()
    rules = ConstraintSet().fit(table, infer_schema(table, {"sort": "identifier"}))
    with pytest.raises(ConditionError, match="'sort': it is an identifier"):
        rules.conditions({"sort": "a"})


def test_many_levels_are_not_all_printed():
    cities = pd.DataFrame({"city": [f"city {k}" for k in range(60)]})
    schema = infer_schema(cities)
    with pytest.raises(ConditionError, match=r"\(60 in all\); did you mean 'city 59'") as error:
        parse(schema, {"city": "citty 59"})
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("n", [0, 5, np.int64(5)])
def test_counts(n):
    assert validate_count(n) == int(n)


@pytest.mark.parametrize("n", [-1, 2.0, "3", True, None])
def test_bad_counts(n):
    with pytest.raises(ConfigError, match="rows must"):
        validate_count(n, "rows")


def test_all_columns_without_information_are_named_at_once() -> None:
    table = good_table(size=3.0, sort="x", none=None)
    with pytest.raises(DataError, match=r"'none' has only missing values; drop them: .*'size'"):
        validate_table(table)
    with pytest.raises(
        DataError, match=r"'size', 'sort' are constant \(3.0 in 'size'\); drop them"
    ):
        validate_table(table.drop(columns="none"))
    wide = good_table(**{f"c{k}": k for k in range(30)})
    with pytest.raises(DataError, match=r"and 20 more are constant .*df.loc") as caught:
        validate_table(wide)
    assert list(wide.loc[:, wide.nunique(dropna=False) > 1]) == list(good_table())
    assert len(str(caught.value)) < 400


def test_dates_taken_for_names_are_told_how_to_be_dates() -> None:
    days = pd.date_range("2020-01-01", periods=N).strftime("%d/%m/%Y")
    with pytest.warns(ScidiffusionWarning, match=r"override its kind: \{'born': 'datetime'\}"):
        validate_table(good_table(born=days))
    assert validate_table(good_table(born=days), {"born": "datetime"})["born"].kind == "datetime"
    with pytest.warns(ScidiffusionWarning, match=r"\{'name': 'categorical'\}"):
        validate_table(good_table(name=[f"n{k}" for k in range(N)]))
