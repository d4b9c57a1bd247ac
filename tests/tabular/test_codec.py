"""The codec: whatever goes in comes back as it was, and whatever comes out is valid."""

from __future__ import annotations

import datetime
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from sklearn.datasets import load_diabetes, load_wine

from scidiffusion.errors import ConfigError, DataError, ModelFileError
from scidiffusion.tabular.codec import EncodedTable, TableCodec
from scidiffusion.tabular.inference import infer_schema
from scidiffusion.tabular.quantiles import NormalScores
from scidiffusion.tabular.views import TableView

N = 60


def every_type(n=N, seed=0):
    """A table with every supported type, missing values wherever a type can hold them."""
    rng = np.random.default_rng(seed)
    k = rng.integers(0, 5, n)
    gap = rng.random(n) < 0.2
    gap[:2] = [False, True]
    days = pd.Series(pd.Timestamp("2021-03-01") + pd.to_timedelta(rng.integers(0, 400, n), "D"))
    times = days + pd.to_timedelta(rng.integers(0, 1440, n), "min")
    words = pd.Series(np.array(["tea", "café", "mate", "water", "wine"], dtype=object)[k])
    return pd.DataFrame(
        {
            "int64": rng.integers(-1000, 1000, n),
            "uint8": rng.integers(0, 250, n).astype("uint8"),
            "huge": 2**62 + rng.integers(0, 1000, n),
            "Int16": pd.Series(k, dtype="Int16").mask(gap),
            "float64": rng.normal(size=n),
            "decimals": np.round(rng.gamma(1.0, 20.0, n), 2),
            "whole_with_gaps": pd.Series(k * 1.0).mask(gap),
            "float32": rng.normal(size=n).astype("float32"),
            "Float64": pd.Series(np.round(rng.normal(size=n), 1), dtype="Float64").mask(gap),
            "spike": np.where(rng.random(n) < 0.7, 0.0, rng.exponential(size=n)),
            "bool": k > 2,
            "boolean": pd.Series(k > 1, dtype="boolean").mask(gap),
            "object_bool": pd.Series(k > 1, dtype=object).mask(gap, None),
            "object_int": pd.Series(k, dtype=object).mask(gap, None),
            "words": words.mask(gap, np.nan),
            "words_or_none": words.mask(gap, None),
            "digits": pd.Series(k).astype(str),
            "string": words.astype("string").mask(gap),
            "category": pd.Categorical(words.mask(gap), categories=[*sorted(set(words)), "beer"]),
            "ordered": pd.Categorical(k * 10, categories=[40, 30, 20, 10, 0, -10], ordered=True),
            "date64": days.mask(gap),
            "time64": times.astype("datetime64[s]"),
            "zoned": times.dt.tz_localize("UTC").dt.tz_convert("Asia/Kolkata").mask(gap),
            "local_day": days.dt.tz_localize("America/New_York"),
            "span": pd.to_timedelta(rng.integers(0, 5000, n), "min").to_series(index=range(n)),
            "date_text": days.dt.strftime("%Y-%m-%d").mask(gap),
            "time_text": times.dt.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "date_object": pd.Series(days.dt.date, dtype=object).mask(gap, None),
        }
    )


def fitted(table, **options):
    overrides = options.pop("overrides", None)
    return TableCodec(infer_schema(table, overrides), **options).fit(table)


def gaussian_rows(codec, n, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    codes = [rng.integers(0, k, n) for k in codec.cardinalities]
    return EncodedTable(
        scale * rng.standard_normal((n, len(codec.numerical_names))),
        np.stack(codes, axis=1) if codes else np.empty((n, 0)),
    )


def assert_valid(table, codec):
    """No cell that the training table could not have held."""
    view = TableView.of(table, codec.schema)
    wrong = view.invalid.sum(axis=0)
    assert dict(zip(codec.schema.names, wrong, strict=True)) == dict.fromkeys(
        codec.schema.names, 0
    )


@pytest.mark.parametrize("dequantize", [False, True])
def test_every_type_comes_back_as_it_was(dequantize):
    table = every_type()
    codec = fitted(table, dequantize=dequantize)
    again = codec.decode(codec.encode(table))
    # Scores are single precision: so are values that are spread without a grid.
    inexact = ["float64", "float32", "spike"]
    pd.testing.assert_frame_equal(again.drop(columns=inexact), table.drop(columns=inexact))
    pd.testing.assert_frame_equal(again[inexact], table[inexact], rtol=1e-4, atol=1e-5)


def test_missing_markers_come_back():
    table = every_type()
    codec = fitted(table)
    again = codec.decode(codec.encode(table))
    assert again["words_or_none"][1] is None
    assert again["object_int"][1] is None
    assert isinstance(again["object_int"][0], int)
    assert np.isnan(again["words"][1])
    assert again["string"][1] is pd.NA
    assert isinstance(again["date_object"][0], datetime.date)


def test_levels_nobody_has_are_never_sampled():
    codec = fitted(every_type())
    sampled = codec.decode(gaussian_rows(codec, 500))
    assert "beer" in sampled["category"].cat.categories
    assert "beer" not in set(sampled["category"].dropna())


@pytest.mark.parametrize("scale", [0.0, 1.0, 50.0])
def test_random_scores_decode_to_valid_rows(scale):
    table = every_type(200)
    codec = fitted(table)
    sampled = codec.decode(gaussian_rows(codec, 400, scale=scale))
    assert sampled.columns.tolist() == table.columns.tolist()
    assert sampled.dtypes.to_dict() == table.dtypes.to_dict()
    assert_valid(sampled, codec)


def test_no_rows_still_have_their_dtypes():
    table = every_type()
    codec = fitted(table)
    empty = codec.decode(gaussian_rows(codec, 0))
    assert len(empty) == 0
    assert empty.dtypes.to_dict() == table.dtypes.to_dict()
    assert len(codec.encode(table.head(0))) == 0


numbers = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0, 1, 2]),
)
reals = st.one_of(
    st.none(),
    st.floats(-1e12, 1e12),
    st.floats(-100, 100, width=16),
    st.sampled_from([0.0, 0.1, 0.2, 1e-8]),
)
words = st.one_of(st.none(), st.text(max_size=3), st.sampled_from(["", "nan", "None", "1"]))
flags = st.sampled_from([True, False, None])
times = st.one_of(
    st.none(),
    st.datetimes(datetime.datetime(1800, 1, 1), datetime.datetime(2200, 1, 1)),
)


@st.composite
def tables(draw):
    n = draw(st.integers(2, 25))
    columns = {}
    for name, values, dtype in (
        ("whole", numbers, "int64"),
        ("real", reals, "float64"),
        ("word", words, "object"),
        ("flag", flags, "boolean"),
        ("time", times, "datetime64[us]"),
    ):
        cells = draw(st.lists(values, min_size=n, max_size=n))
        if any(cell is not None for cell in cells):
            columns[name] = pd.Series(cells, dtype=dtype)
    return pd.DataFrame(columns)


@settings(max_examples=100)
@given(tables())
def test_any_table_round_trips(table):
    if table.shape[1] == 0:
        return
    codec = fitted(table)
    again = codec.decode(codec.encode(table))
    assert again.columns.tolist() == table.columns.tolist()
    assert again.dtypes.to_dict() == table.dtypes.to_dict()
    pd.testing.assert_frame_equal(again.isna(), table.isna())
    for name in ("word", "flag"):
        if name in table:
            pd.testing.assert_series_equal(again[name], table[name])
    assert_valid(again, codec)
    assert_valid(codec.decode(gaussian_rows(codec, 30, scale=2.0)), codec)


@settings(max_examples=100)
@given(
    st.lists(st.floats(-1e9, 1e9, allow_subnormal=False), min_size=1, max_size=60),
    st.lists(st.floats(-8, 8), min_size=1, max_size=20),
    st.integers(2, 30),
)
def test_normal_scores_are_monotone_and_stay_in_range(values, scores, knots):
    values = np.array(values)
    transform = NormalScores.fit(values, knots)
    scores = np.sort(scores)
    decoded = transform.decode(scores)
    assert (np.diff(decoded) >= 0).all()
    assert decoded.min() >= values.min()
    assert decoded.max() <= values.max()
    encoded = transform.encode(np.sort(values))
    assert (np.diff(encoded) >= 0).all()
    again = transform.decode(encoded)
    if len(np.unique(values)) <= knots:
        np.testing.assert_allclose(again, np.sort(values), rtol=1e-6, atol=1e-6)


def test_continuous_scores_are_normal():
    values = np.random.default_rng(0).gamma(0.3, size=5000)
    scores = NormalScores.fit(values).encode(values)
    assert kstest(scores, "norm").statistic < 0.01


def test_dequantized_scores_are_normal_whatever_the_spikes():
    rng = np.random.default_rng(0)
    spiky = np.where(rng.random(4000) < 0.6, 0.0, rng.exponential(size=4000))
    table = pd.DataFrame({"spiky": spiky, "few": rng.integers(0, 3, 4000)})
    scores = fitted(table, dequantize=True).encode(table, seed=1).numerical
    for column in scores.T:
        assert kstest(column, "norm").statistic < 0.025


def test_normal_draws_decode_to_the_training_distribution():
    rng = np.random.default_rng(0)
    n = 4000
    table = pd.DataFrame(
        {
            "spike": np.where(rng.random(n) < 0.6, 0.0, 5 + rng.exponential(size=n)),
            "cap": np.minimum(rng.exponential(size=n), 1.5),
            "few": rng.choice([1, 5, 20], n, p=[0.5, 0.3, 0.2]),
            "heavy": rng.standard_cauchy(n),
        }
    )
    codec = fitted(table)
    sampled = codec.decode(gaussian_rows(codec, 20_000, seed=1))
    for name in table:
        distance = abs(
            np.searchsorted(np.sort(table[name]), sampled[name], "right") / n
            - sampled[name].rank(method="max") / len(sampled)
        ).max()
        assert distance < 0.015, name
    # Nothing is invented between a spike and what lies beside it.
    assert not (
        (sampled["spike"] > 0) & (sampled["spike"] < table["spike"][table["spike"] > 0].min())
    ).any()
    assert set(sampled["few"]) == {1, 5, 20}


def test_columns_of_few_values_decode_to_values_seen():
    table = load_wine(as_frame=True).frame
    table["few"] = np.random.default_rng(0).choice([3.5, 7.25, 100.0], len(table))
    codec = fitted(table)
    sampled = codec.decode(gaussian_rows(codec, 1000))
    assert set(sampled["few"]) == {3.5, 7.25, 100.0}
    assert set(sampled["target"]) == {0, 1, 2}
    # A continuous column is not limited to the values of its few rows.
    assert not set(sampled["flavanoids"]) <= set(table["flavanoids"])


def test_a_real_table_comes_back():
    table = load_diabetes(as_frame=True, scaled=False).frame
    codec = fitted(table)
    again = codec.decode(codec.encode(table))
    pd.testing.assert_frame_equal(again, table, rtol=1e-5)


def test_the_layout_says_where_every_column_sits():
    table = pd.DataFrame(
        {"a": [1.5, np.nan, 2.5], "b": ["x", None, "y"], "c": [1, 2, 3], "d": [True, False, True]}
    )
    codec = fitted(table)
    assert codec.numerical_names == ["a", "c"]
    assert codec.categorical_names == ["a", "b", "d"]
    assert codec.cardinalities == [2, 3, 2]
    assert codec.category_names == [
        ["present", "missing"],
        ["x", "y", "missing"],
        ["False", "True"],
    ]
    places = {name: (slot.numerical, slot.categorical) for name, slot in codec.slots.items()}
    assert places == {"a": (0, 0), "b": (None, 1), "c": (1, None), "d": (None, 2)}
    for marginal, expected in zip(codec.marginals, ([2, 1], [1, 1, 1], [1, 2]), strict=True):
        assert marginal == pytest.approx(np.array(expected) / 3)
    assert codec.encode(table).categorical.tolist() == [[0, 0, 1], [1, 2, 0], [0, 1, 1]]


def test_fill_of_missing_numbers_is_normal_and_seeded():
    table = pd.DataFrame({"x": [1.0, 2.0] + [np.nan] * 4000})
    codec = fitted(table)
    one, two, other = (codec.encode(table, seed=seed).numerical[:, 0] for seed in (0, 0, 1))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)
    assert kstest(one[2:], "norm").statistic < 0.03


def test_state_round_trip_without_pickle():
    table = every_type(300)
    codec = fitted(table, max_knots=50, dequantize=True)
    config, arrays = codec.state()
    assert all(array.dtype != object for array in arrays.values())
    config = json.loads(json.dumps(config, allow_nan=False))
    again = TableCodec.from_state(config, {**arrays, "network.weight": np.zeros(3)})
    assert again.schema == codec.schema
    one, two = codec.encode(table, seed=3), again.encode(table, seed=3)
    assert np.array_equal(one.numerical, two.numerical)
    assert np.array_equal(one.categorical, two.categorical)
    rows = gaussian_rows(codec, 100)
    pd.testing.assert_frame_equal(codec.decode(rows), again.decode(rows))
    assert [m.tolist() for m in again.marginals] == [m.tolist() for m in codec.marginals]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, a: c.update(version=99), "version 99.*upgrade"),
        (lambda c, a: c.pop("version"), "version None"),
        (lambda c, a: c.pop("schema"), "cannot be read"),
        (lambda c, a: c.update(schema={}), "not a table schema"),
        (lambda c, a: c.pop("max_knots"), "cannot be read"),
        (lambda c, a: a.pop("numerical.0.ranks"), "lacks the array 'ranks'"),
        (lambda c, a: a.update({"numerical.0.ranks": np.zeros(1)}), "do not fit each other"),
        (lambda c, a: a.pop("categorical.0.marginal"), "marginal of column 'sort'"),
        (lambda c, a: a.update({"categorical.0.marginal": np.ones(7)}), "marginal of column"),
    ],
)
def test_a_broken_state_is_refused(change, message):
    table = pd.DataFrame({"size": np.linspace(0, 1, 30), "sort": list("ab") * 15})
    config, arrays = fitted(table).state()
    change(config, arrays)
    with pytest.raises(ModelFileError, match=message):
        TableCodec.from_state(config, arrays)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="words"), "lacks 'words'"),
        (lambda t: t.assign(extra=1), "unknown 'extra'"),
        (lambda t: pd.concat([t, t[["bool"]]], axis=1), "has a column twice"),
        (lambda t: t.assign(words="whisky"), r"'words' holds 1 level\(s\).*'whisky'"),
        (lambda t: t.assign(int64=np.nan), r"'int64' has missing values in 60 row\(s\)"),
        (lambda t: t.assign(digits=None), "'digits' has missing values"),
        (lambda t: t.assign(int64="12"), "'int64' must hold numbers"),
        (lambda t: t.assign(float64="a"), "'float64' must hold numbers"),
        (lambda t: t.assign(float64=True), "'float64' must hold numbers"),
        (lambda t: t.assign(float64=np.inf), "'float64' holds infinite values"),
        (lambda t: t.assign(date64="2021-01-01"), "'date64' has the dtype object"),
        (lambda t: t.assign(zoned=t["date64"]), "'zoned' has the dtype datetime64"),
        (lambda t: t.assign(date_text="1 May"), "'date_text' must hold dates written as"),
        (lambda t: t.assign(date_object="1 May"), "'date_object' must hold datetime.date"),
        (lambda t: t.to_numpy(), "must be a pandas DataFrame, not ndarray"),
    ],
)
def test_other_tables_are_refused(change, message):
    table = every_type()
    codec = fitted(table)
    with pytest.raises(DataError, match=message):
        codec.encode(change(table))


def test_column_order_does_not_matter_to_encode():
    table = every_type()
    codec = fitted(table)
    turned = codec.encode(table[table.columns[::-1]])
    assert np.array_equal(turned.categorical, codec.encode(table).categorical)


def test_rows_beyond_the_training_range_are_clamped():
    codec = fitted(pd.DataFrame({"x": np.arange(100), "y": np.linspace(0, 1, 100)}))
    far = codec.decode(codec.encode(pd.DataFrame({"x": [-5, 1000], "y": [-1.0, 2.0]})))
    assert far["x"].tolist() == [0, 99]
    assert far["y"].to_numpy() == pytest.approx([0.0, 1.0], abs=1e-6)


@pytest.mark.parametrize(
    ("numerical", "categorical", "message"),
    [
        (np.zeros((2, 2)), np.zeros((2, 1)), r"\(2, 1\) wide, the codec's are \(1, 1\)"),
        (np.full((2, 1), np.nan), np.zeros((2, 1)), "'size' are not finite: sampling diverged"),
        (np.zeros((2, 1)), np.full((2, 1), 2), "codes of column 'sort' are outside"),
        (np.zeros((2, 1)), np.full((2, 1), -1), "codes of column 'sort' are outside"),
    ],
)
def test_impossible_encoded_rows_are_refused(numerical, categorical, message):
    codec = fitted(pd.DataFrame({"size": np.linspace(0, 1, 30), "sort": list("ab") * 15}))
    with pytest.raises(DataError, match=message):
        codec.decode(EncodedTable(numerical, categorical))


def test_shapes_and_options_are_checked():
    with pytest.raises(DataError, match="equal length"):
        EncodedTable(np.zeros((2, 1)), np.zeros((3, 1)))
    schema = infer_schema(pd.DataFrame({"x": [1, 2]}))
    with pytest.raises(ConfigError, match="max_knots"):
        TableCodec(schema, max_knots=1)
    with pytest.raises(DataError, match="not fitted"):
        TableCodec(schema).encode(pd.DataFrame({"x": [1]}))
    with pytest.raises(DataError, match="no rows"):
        TableCodec(schema).fit(pd.DataFrame({"x": []}))


def test_repr_tells_the_size():
    codec = fitted(pd.DataFrame({"size": [1.0, 2.0], "sort": ["a", "b"]}))
    assert repr(codec) == "TableCodec(2 columns -> 1 scores, 1 codes of 2 levels)"
