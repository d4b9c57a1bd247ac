"""Schemas: what is inferred from a table, and that JSON keeps it."""

from __future__ import annotations

import datetime
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scidiffusion.errors import DataError, SchemaError
from scidiffusion.tabular.dates import coarsest_unit, detect_format, format_dates, parse_dates
from scidiffusion.tabular.inference import infer_column, infer_schema
from scidiffusion.tabular.schema import (
    ColumnKind,
    ColumnSchema,
    TableSchema,
    dtype_name,
    make_dtype,
)


def column(values, dtype=None, kind=None):
    return infer_column(pd.Series(values, dtype=dtype, name="x"), kind)


@pytest.mark.parametrize(
    ("values", "dtype", "kind"),
    [
        ([1, 2, 2], "int64", "numerical"),
        ([0, 1, 1], "uint8", "numerical"),
        ([1, None, 2], "Int32", "numerical"),
        ([1.5, 2.0, np.nan], "float64", "numerical"),
        ([1.5, 2.0, None], "Float32", "numerical"),
        ([1, 2, 3], "object", "numerical"),
        ([1, 2.5, None], "object", "numerical"),
        (["a", "b", None], "object", "categorical"),
        (["1", "2", "3"], "object", "categorical"),
        (["a", "b", None], "string", "categorical"),
        (["a", "b", "a"], "category", "categorical"),
        ([3, 1, 3], "category", "categorical"),
        ([True, False, True], "bool", "boolean"),
        ([True, None, False], "boolean", "boolean"),
        ([True, None, False], "object", "boolean"),
        (["2020-01-31", "2021-12-01"], "object", "datetime"),
        (["2020-01-31", "2021-12-01"], "string", "datetime"),
        (["2020-01-31", "2021-13-01"], "object", "categorical"),
        (["2020-01-31", "2021-1-1"], "object", "categorical"),
        ([datetime.date(2020, 1, 1), datetime.date(2021, 1, 1)], "object", "datetime"),
        (["2020-01-31", "2021-12-01"], "datetime64[ns]", "datetime"),
        (["2020-01-31", "2021-12-01"], "datetime64[s, Europe/Rome]", "datetime"),
        (["1 days", "2 days 03:00:00"], "timedelta64[ns]", "timedelta"),
    ],
)
def test_the_kind_follows_the_type(values, dtype, kind):
    schema = column(values, dtype)
    assert schema.kind == kind
    assert schema.missing == bool(pd.Series(values, dtype=dtype).isna().any())


@pytest.mark.parametrize(
    ("values", "decimals"),
    [
        ([1.0, 2.0, -3.0], 0),
        ([0.5, 0.25, 3.0], 2),
        ([0.1 + 0.2, 1.1, 7.0], 1),
        ([1e-10, 1.0], 10),
        ([1 / 3, 1.0], None),
        ([1e15, 2e15], 0),
        ([123456.789, 0.001], 3),
    ],
)
def test_decimals_are_the_fewest_that_write_every_value(values, decimals):
    assert column(values).decimals == decimals
    assert column(values).integer == (decimals == 0)


@pytest.mark.parametrize("dtype", ["float32", "Float32"])
def test_decimals_of_single_precision_are_those_written(dtype):
    assert column([0.1, 2.37, 3.0], dtype).decimals == 2


@given(
    st.lists(st.integers(-(10**7), 10**7), min_size=1, max_size=30),
    st.integers(0, 6),
)
def test_decimals_of_decimal_fractions(numerators, digits):
    values = [n / 10**digits for n in numerators]
    decimals = column(values).decimals
    assert decimals is not None
    assert decimals <= digits
    assert np.array_equal(np.round(values, decimals), values)


def test_whole_floats_with_gaps_are_floats_of_whole_numbers():
    schema = column([1.0, np.nan, 3.0])
    assert (schema.dtype, schema.integer, schema.missing) == ("float64", True, True)
    assert (schema.minimum, schema.maximum) == (1.0, 3.0)
    assert isinstance(schema.minimum, float)


def test_integers_keep_64_bits():
    low, high = -(2**63), 2**63 - 1
    assert (column([low, high]).minimum, column([low, high]).maximum) == (low, high)
    assert column([0, 2**64 - 1], "uint64").maximum == 2**64 - 1
    with pytest.raises(DataError, match="'x' holds integers beyond 64 bits"):
        column([0, 2**65], object)


def test_categories_are_sorted_and_of_their_python_type():
    assert column(["b", "a", "b"]).categories == ("a", "b")
    floats = column([2.5, 1.0, 2.5], kind=ColumnKind.CATEGORICAL)
    assert floats.categories == (1.0, 2.5)
    whole = column([10, 9, 10], kind=ColumnKind.CATEGORICAL).categories
    assert whole == (9, 10)
    assert all(type(level) is int for level in whole)
    assert all(type(level) is bool for level in column([True, False]).categories)


def test_unused_levels_stay_in_the_dtype_only():
    dtype = pd.CategoricalDtype(["low", "mid", "high"], ordered=True)
    schema = column(["high", "low"], dtype)
    assert schema.categories == ("low", "high")
    assert schema.levels == ("low", "mid", "high")
    assert schema.ordered


@pytest.mark.parametrize(
    ("override", "values", "dtype", "kind"),
    [
        ("categorical", [1, 2, 1], "int64", "categorical"),
        ("categorical", [1.5, np.nan], "float64", "categorical"),
        ("categorical", [True, False], "bool", "categorical"),
        ("categorical", ["2020-01-01", "2020-01-02"], "object", "categorical"),
        ("datetime", ["31/12/2020", "01/02/2021"], "object", "datetime"),
        ("numerical", [1, 2], "int64", "numerical"),
        (ColumnKind.BOOLEAN, [True, False], "bool", "boolean"),
    ],
)
def test_overrides(override, values, dtype, kind):
    table = pd.DataFrame({"x": pd.Series(values, dtype=dtype)})
    assert infer_schema(table, {"x": override})["x"].kind == kind


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"siz": "categorical"}, "no column 'siz'; did you mean 'size'"),
        ({"size": "nominal"}, "cannot be 'nominal'; the kinds are numerical"),
        ({"word": "numerical"}, r"'word' .* cannot be numerical; .*pd.to_numeric"),
        ({"word": "datetime"}, r"'word' .* cannot be datetime; .*pd.to_datetime"),
        ({"size": "boolean"}, r"'size' .* cannot be boolean; .*astype\('boolean'\)"),
        ({"when": "categorical"}, r"'when' .* cannot be categorical"),
    ],
)
def test_impossible_overrides(overrides, message):
    table = pd.DataFrame(
        {"size": [1, 2], "word": ["a", "b"], "when": pd.to_datetime(["2020-01-01", "2020-01-02"])}
    )
    with pytest.raises(SchemaError, match=message):
        infer_schema(table, overrides)


@pytest.mark.parametrize(
    ("values", "dtype", "message"),
    [
        ([1, "a", 1], object, r"'x' mixes types: int \(1\) and str \('a'\)"),
        (["a", 1.5], object, "'x' mixes types"),
        ([datetime.date(2020, 1, 1), "2020-01-02"], object, "'x' mixes types"),
        ([[1], [2]], object, "objects of type list"),
        ([{"a": 1}, {"a": 2}], object, "objects of type dict"),
        ([b"a", b"b"], object, "objects of type bytes"),
        ([1j, 2j], "complex128", "dtype complex128, which is not supported"),
        (["2020-01", "2020-02"], "period[M]", r"dtype period\[M\]"),
        (pd.cut([1, 2, 3], 2), None, "levels are interval values"),
    ],
)
def test_types_that_cannot_be_modelled(values, dtype, message):
    with pytest.raises(DataError, match=message):
        column(values, dtype)


@pytest.mark.parametrize(
    ("texts", "pattern"),
    [
        (["2020-01-31"], "%Y-%m-%d"),
        (["2020/01/31"], "%Y/%m/%d"),
        (["2020-01-31 10:20"], "%Y-%m-%d %H:%M"),
        (["2020-01-31T10:20:30"], "%Y-%m-%dT%H:%M:%S"),
        (["2020-01-31T10:20:30Z"], "%Y-%m-%dT%H:%M:%SZ"),
        (["2020-01-31 10:20:30+02:00"], "%Y-%m-%d %H:%M:%S+02:00"),
        (["2020-01-31 10:20:30.123", "2020-01-31 10:20:30.120"], "%Y-%m-%d %H:%M:%S.%3f"),
        (["2020-01-31 10:20:30.123456789"], "%Y-%m-%d %H:%M:%S.%9f"),
        (["20141013T000000"], "%Y%m%dT%H%M%S"),
        (["2020-01-31", "2020-01-31 10:20"], None),
        (["2020-02-31"], None),
        (["20200131"], None),
        (["31/12/2020"], None),
    ],
)
def test_date_formats_are_strict_and_print_the_same_text(texts, pattern):
    series = pd.Series(texts, dtype=object)
    assert detect_format(series) == pattern
    if pattern is not None:
        dates = parse_dates(series, pattern)
        assert format_dates(dates.to_numpy(), pattern).tolist() == texts


@pytest.mark.parametrize(
    ("times", "unit"),
    [
        (["2020-01-01", "2020-03-01"], "D"),
        (["2020-01-01 05:00", "2020-03-01"], "h"),
        (["2020-01-01 05:20", "2020-03-01"], "m"),
        (["2020-01-01 05:20:07", "2020-03-01"], "s"),
        (["2020-01-01 05:20:07.5", "2020-03-01"], "ms"),
        (["1960-01-01 05:20:07.000001", "2020-03-01"], "us"),
        (["2020-01-01 05:20:07.000000001", "2020-03-01"], "ns"),
    ],
)
def test_times_are_counted_in_their_coarsest_unit(times, unit):
    ticks = np.array(times, dtype="datetime64[ns]").astype(np.int64)
    assert coarsest_unit(ticks, "ns") == unit
    assert column(pd.to_datetime(pd.Series(times), format="mixed")).unit == unit


def test_whole_local_days_are_counted_in_local_time():
    local = pd.Series(pd.date_range("2020-01-01", periods=300, tz="America/New_York"), name="x")
    schema = infer_column(local)
    assert (schema.unit, schema.wall_time, schema.timezone) == ("D", True, "America/New_York")
    assert not infer_column(local.dt.tz_convert("UTC").rename("x")).wall_time


def rich_table():
    return pd.DataFrame(
        {
            "whole": [1, 2, 3],
            "tiny": pd.Series([1, None, 3], dtype="Int8"),
            "real": [0.25, np.nan, 1e-7],
            "flag": [True, False, True],
            "word": ["ä", None, "b"],
            "level": pd.Categorical([10, 20, 10], categories=[30, 20, 10], ordered=True),
            "day": ["2020-01-01", "2020-01-03", "2020-01-02"],
            "zoned": pd.date_range("2020-01-01", periods=3, tz="Asia/Tokyo", freq="7h"),
            "span": pd.to_timedelta(["1h", None, "3h"]),
        }
    )


def test_json_round_trip_keeps_every_field_and_type():
    schema = infer_schema(rich_table(), {"whole": "categorical"})
    again = TableSchema.from_dict(json.loads(json.dumps(schema.to_dict(), allow_nan=False)))
    assert again == schema
    for before, after in zip(schema, again, strict=True):
        levels = before.categories + before.levels + (before.minimum,)
        copies = after.categories + after.levels + (after.minimum,)
        assert [type(v) for v in levels] == [type(v) for v in copies]


def test_the_schema_is_a_collection_of_columns():
    schema = infer_schema(rich_table())
    assert len(schema) == 9
    assert "day" in schema
    assert "night" not in schema
    assert schema["day"].date_format == "%Y-%m-%d"
    with pytest.raises(SchemaError, match="did you mean 'zoned'"):
        schema["zone"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("version"), "not a table schema"),
        (lambda d: d.update(version=99), "version 99.*upgrade"),
        (lambda d: d.update(columns=[]), "at least one column"),
        (lambda d: d["columns"].append(d["columns"][0]), "'whole' occurs twice"),
        (lambda d: d["columns"][0].update(colour="red"), "'whole' cannot be read.*colour"),
        (lambda d: d["columns"][0].pop("dtype"), "'whole' cannot be read.*dtype"),
        (lambda d: d["columns"][0].update(kind="odd"), "unknown kind 'odd'"),
        (lambda d: d["columns"][0].update(minimum=9), "needs minimum <= maximum"),
        (lambda d: d["columns"][4].pop("categories"), "'word' is categorical but lists no"),
        (lambda d: d["columns"][6].pop("unit"), "'day' is datetime and needs a unit"),
    ],
)
def test_a_broken_schema_is_refused(change, message):
    record = infer_schema(rich_table()).to_dict()
    change(record)
    with pytest.raises(SchemaError, match=message):
        TableSchema.from_dict(record)


@pytest.mark.parametrize(
    "dtype",
    [
        "int8",
        "Int64",
        "float32",
        "boolean",
        "object",
        "datetime64[s]",
        "datetime64[ns, Europe/Rome]",
        pd.StringDtype("python"),
    ],
)
def test_dtype_names_give_the_dtype_again(dtype):
    dtype = pd.api.types.pandas_dtype(dtype)
    assert make_dtype(dtype_name(dtype)) == dtype


def test_an_unknown_dtype_is_refused():
    with pytest.raises(SchemaError, match="'float77'"):
        make_dtype("float77")


def test_columns_are_immutable_and_hashable():
    schema = ColumnSchema(name="x", kind="categorical", dtype="object", categories=["a"])
    assert schema.kind is ColumnKind.CATEGORICAL
    assert hash(schema) == hash(ColumnSchema.from_dict(schema.to_dict()))
    with pytest.raises(AttributeError):
        schema.name = "y"
