"""Columns backed by pyarrow, and wide or high-cardinality tables: in and out without loss."""

from __future__ import annotations

import datetime
import decimal
import json

import numpy as np
import pandas as pd
import pytest

from scidiffusion.errors import DataError
from scidiffusion.tabular.arrow import arrow_type, with_arrow, without_arrow
from scidiffusion.tabular.codec import TableCodec
from scidiffusion.tabular.columns import (
    codes_from_series,
    numbers_from_series,
    series_from_codes,
    series_from_numbers,
)
from scidiffusion.tabular.inference import infer_column, infer_schema
from scidiffusion.tabular.schema import ColumnKind, ColumnSchema, TableSchema
from scidiffusion.tabular.views import TableView

pa = pytest.importorskip("pyarrow")

DAY = datetime.date(2021, 3, 1)
VALUES = {
    "int8": [3, -4, 5],
    "int64": [2**60, 1, 7],
    "uint16": [3, 4, 60_000],
    "float": [0.25, -1.5, 3.0],
    "double": [0.1, 0.25, -3.0],
    "bool": [True, False, True],
    "string": ["a", "", "ü"],
    "large_string": ["x", "y", "x"],
    "date32[day]": [DAY, DAY + datetime.timedelta(9), DAY],
    "timestamp[s]": pd.to_datetime(["2021-01-01 10:00", "2021-01-02 00:00", "1960-01-01 00:00"]),
    "timestamp[us, tz=Europe/Rome]": pd.to_datetime(["2021-01-01", "2021-07-02"] * 2, utc=True)[
        :3
    ],
    "duration[ms]": pd.to_timedelta(["1h", "2h", "90min"]),
}


def arrow_series(name, missing):
    kind = pd.ArrowDtype(pa.string()) if name == "string" else f"{name}[pyarrow]"
    series = pd.Series(list(VALUES[name]) * 10, name="x").astype(kind)
    if missing:
        series[[1, 5]] = pd.NA
    return series


def there_and_back(series, column):
    if column.kind.is_discrete:
        return series_from_codes(codes_from_series(series, column), column)
    return series_from_numbers(numbers_from_series(series, column), column)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("name", VALUES)
def test_every_arrow_type_comes_back(name, missing):
    series = arrow_series(name, missing)
    assert arrow_type(series) == name
    plain = without_arrow(series)
    assert arrow_type(plain) is None
    pd.testing.assert_series_equal(with_arrow(plain, name), series)
    column = infer_column(series)
    assert column.missing == missing
    again = ColumnSchema.from_dict(json.loads(json.dumps(column.to_dict())))
    assert again == column
    back = there_and_back(series, again)
    pd.testing.assert_series_equal(back, series)
    assert str(back.dtype.pyarrow_dtype) == name


def test_arrow_and_plain_columns_have_the_same_numbers():
    for name in VALUES:
        series = arrow_series(name, missing=True)
        plain = without_arrow(series)
        first, second = infer_column(series), infer_column(plain)
        assert (first.kind, first.categories) == (second.kind, second.categories)
        assert (first.minimum, first.maximum) == (second.minimum, second.maximum)
        read = codes_from_series if first.kind.is_discrete else numbers_from_series
        assert np.array_equal(read(plain, first), read(series, first), equal_nan=True)


def test_a_table_of_arrow_columns_through_the_codec():
    table = pd.DataFrame({name: arrow_series(name, missing=True) for name in VALUES})
    schema = TableSchema.from_dict(infer_schema(table).to_dict())
    codec = TableCodec(schema).fit(table)
    again = codec.decode(codec.encode(table))
    assert (again.dtypes == table.dtypes).all()
    pd.testing.assert_frame_equal(again, table, rtol=1e-5)
    assert not TableView.of(again, schema).invalid.any()


def test_floats_that_are_no_number_are_missing():
    series = pd.Series(pd.array([1.5, float("nan"), None], dtype="double[pyarrow]"), name="x")
    column = infer_column(series)
    assert column.missing
    assert np.isnan(numbers_from_series(series, column)).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (pa.list_(pa.int64()), [[1], [2, 3]], r"nested values \(list<item: int64>\).*drop it"),
        (pa.struct([("a", pa.int64())]), [{"a": 1}, {"a": 2}], "nested values .*struct"),
        (pa.map_(pa.string(), pa.int64()), [[("a", 1)], [("b", 2)]], "nested values .*map"),
        (pa.decimal128(5, 2), [decimal.Decimal("1.25")] * 2, r"astype\('float64'\)"),
        (pa.binary(), [b"a", b"b"], "Arrow type binary, which is not supported"),
        (pa.time64("us"), [datetime.time(1), datetime.time(2)], "Arrow type time64"),
        (
            pa.dictionary(pa.int32(), pa.string()),
            ["a", "b"],
            r"Arrow type dictionary.*astype\('category'\)",
        ),
    ],
)
def test_other_arrow_types_are_refused(kind, values, message):
    array = pd.arrays.ArrowExtensionArray(pa.array(values, type=kind))
    with pytest.raises(DataError, match=f"column 'x' .*{message}"):
        infer_column(pd.Series(array, name="x"))


@pytest.mark.parametrize("value", [[1, 2], {"a": 1}, (1, 2), np.zeros(2), {1, 2}])
def test_nested_objects_are_refused(value):
    series = pd.Series([None, value, value], name="x", dtype=object)
    with pytest.raises(DataError, match=r"objects of type .* nested values must become columns"):
        infer_column(series)


# ------------------------------------------------------- times and missing values


def with_gaps():
    days = pd.Series(pd.date_range("2021-10-20", periods=30, freq="D"))
    times = pd.Series(pd.date_range("2021-01-01", periods=30, freq="7h13min"))
    table = pd.DataFrame(
        {
            "span": times - times[0],
            "span_s": (times - times[0]).astype("timedelta64[s]"),
            "nano": times + pd.to_timedelta(np.arange(30), "ns"),
            "local_day": days.dt.tz_localize("Europe/Rome"),
            "local_time": times.dt.tz_localize("Asia/Kathmandu").astype(
                "datetime64[ms, Asia/Kathmandu]"
            ),
            "fixed": times.dt.tz_localize("UTC").dt.tz_convert("+03:00"),
            "UInt8": pd.Series(range(30), dtype="UInt8"),
            "Float32": pd.Series(np.arange(30) / 4, dtype="Float32"),
            "boolean": pd.Series([True, False] * 15, dtype="boolean"),
            "string": pd.Series(list("abc") * 10, dtype="string"),
            "str": pd.Series(list("abc") * 10, dtype=pd.StringDtype("python", na_value=np.nan)),
            "whole": pd.Series(range(30), dtype="float64"),
        }
    )
    rng = np.random.default_rng(0)
    return table.mask(rng.random(table.shape) < 0.3)


def test_times_and_nullable_types_with_missing_values_come_back():
    table = with_gaps()
    schema = TableSchema.from_dict(json.loads(json.dumps(infer_schema(table).to_dict())))
    for column in schema:
        assert column.missing
        pd.testing.assert_series_equal(
            there_and_back(table[column.name], column), table[column.name]
        )


# ----------------------------------------------------------------- many levels


@pytest.mark.parametrize("dtype", ["object", "category", "string", "int64", "string[pyarrow]"])
def test_a_hundred_thousand_levels(dtype):
    # What is quadratic in the levels would take minutes here.
    k = 100_000
    order = np.random.default_rng(0).permutation(k)
    levels = pd.Series(order) if dtype == "int64" else pd.Series([f"c{i}" for i in order])
    series = levels.astype(dtype).rename("x")
    column = infer_column(series, ColumnKind.CATEGORICAL)
    assert len(column.categories) == k
    codes = codes_from_series(series, column)
    assert np.array_equal(np.sort(codes), np.arange(k))
    pd.testing.assert_series_equal(series_from_codes(codes, column), series)


def test_five_hundred_columns():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.integers(0, 9, (50, 500)), columns=[f"c{k}" for k in range(500)])
    schema = infer_schema(table, {"c7": "categorical"})
    assert len(schema) == 500
    assert [schema[f"c{k}"].name for k in (0, 7, 499)] == ["c0", "c7", "c499"]
    assert "c500" not in schema
