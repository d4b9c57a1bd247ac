"""Constraints: valid rows come back, and whatever is sampled satisfies them after rounding."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scidiffusion.errors import ConfigError, DataError, ModelFileError, ScidiffusionWarning
from scidiffusion.tabular.codec import EncodedTable, TableCodec
from scidiffusion.tabular.constraints import (
    ConstraintSet,
    FixedCombinations,
    Formula,
    Inequality,
    Unique,
)
from scidiffusion.tabular.inference import infer_schema
from scidiffusion.tabular.views import TableView

N = 60


def fitted(table, *rules, overrides=None):
    return ConstraintSet(rules).fit(table, infer_schema(table, overrides))


def again(rules):
    """The same constraints, saved and loaded."""
    return ConstraintSet.from_json(json.loads(json.dumps(rules.to_json(), allow_nan=False)))


def sampled(rules, table, n=400, seed=0, scale=1.5):
    """What an untrained model would sample: every column on its own, far out at times."""
    codec = TableCodec(rules.modelled_schema_.modelled).fit(
        rules.forward(table)[rules.modelled_schema_.modelled.names]
    )
    rng = np.random.default_rng(seed)
    codes = [rng.integers(0, k, n) for k in codec.cardinalities]
    rows = EncodedTable(
        scale * rng.standard_normal((n, len(codec.numerical_names))),
        np.stack(codes, axis=1) if codes else np.empty((n, 0)),
    )
    return rules.inverse(codec.decode(rows))


def assert_same(first, second, **options):
    pd.testing.assert_frame_equal(first, second, **options)


def assert_valid_cells(table, schema):
    wrong = TableView.of(table, schema).invalid.sum(axis=0)
    assert dict(zip(schema.names, wrong, strict=True)) == dict.fromkeys(schema.names, 0)


def with_missing(series, rng):
    if series.dtype == np.int64:
        series = series.astype("Int64")
    return series.mask(rng.random(len(series)) < 0.2)


BASE = {
    "int64": lambda rng, n: pd.Series(rng.integers(-40, 40, n)),
    "huge": lambda rng, n: pd.Series(2**61 - rng.integers(0, 1000, n)),
    "Int16": lambda rng, n: pd.Series(rng.integers(-40, 40, n), dtype="Int16"),
    "whole": lambda rng, n: pd.Series(np.round(rng.normal(0, 20, n))),
    "decimals": lambda rng, n: pd.Series(np.round(rng.normal(0, 20, n), 2)),
    "tenths": lambda rng, n: pd.Series(np.round(rng.normal(0, 20, n), 1)),
    "float64": lambda rng, n: pd.Series(rng.normal(0, 20, n)),
    "float32": lambda rng, n: pd.Series(rng.normal(0, 20, n).astype("float32")),
    "single": lambda rng, n: pd.Series(np.round(rng.normal(0, 9, n), 2).astype("float32")),
    "Float64": lambda rng, n: pd.Series(np.round(rng.normal(0, 20, n), 3), dtype="Float64"),
    "object": lambda rng, n: pd.Series(rng.integers(-40, 40, n)).astype(object),
    "arrow": lambda rng, n: pd.Series(rng.integers(-40, 40, n)).astype("int64[pyarrow]"),
}
START = pd.Timestamp("2021-03-20")
TIMES = {
    "date": lambda rng, n: START + pd.to_timedelta(rng.integers(0, 30, n), "D").to_series(),
    "time": lambda rng, n: START + pd.to_timedelta(rng.integers(0, 10**6, n), "s").to_series(),
    "nano": lambda rng, n: START + pd.to_timedelta(rng.integers(0, 10**15, n), "ns").to_series(),
    "text": lambda rng, n: TIMES["date"](rng, n).dt.strftime("%Y-%m-%d"),
    "day": lambda rng, n: TIMES["date"](rng, n).dt.date,
}
ZONED = {
    "wall": lambda rng, n: TIMES["date"](rng, n).dt.tz_localize("Europe/Rome"),
    "utc": lambda rng, n: TIMES["time"](rng, n).dt.tz_localize("UTC"),
    "west": lambda rng, n: ZONED["utc"](rng, n).dt.tz_convert("America/New_York"),
}
SPANS = {
    "span": lambda rng, n: pd.to_timedelta(rng.integers(0, 5000, n), "min").to_series(),
    "short": lambda rng, n: pd.to_timedelta(rng.integers(0, 10**6, n), "ms").to_series(),
}
FAMILIES = [BASE, TIMES, ZONED, SPANS]


def comparable(series):
    """Values that Python compares as a user would."""
    if series.dtype == object and isinstance(series.dropna().iloc[0], str):
        return pd.to_datetime(series)
    if series.dtype == object and not isinstance(series.dropna().iloc[0], int):
        return pd.to_datetime(series)
    return series.astype("Float64") if str(series.dtype) == "object" else series


def holds(table, low, high, strict=False):
    left, right = comparable(table[low]), comparable(table[high])
    both = (left.notna() & right.notna()).to_numpy(bool)
    left, right = left[both], right[both]
    return bool(((left < right) if strict else (left <= right)).all())


@st.composite
def ordered_tables(draw, columns=2):
    """Columns of comparable types, valid rows only, with missing values or without."""
    family = draw(st.sampled_from(FAMILIES))
    names = draw(
        st.lists(st.sampled_from(sorted(family)), min_size=columns, max_size=columns)
    )
    if "huge" in names:
        names = [name if name in ("huge", "int64", "Int16", "arrow") else "huge" for name in names]
    seed = draw(st.integers(0, 2**16))
    strict = draw(st.booleans())
    gaps = draw(st.lists(st.booleans(), min_size=columns, max_size=columns))
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            f"c{k}": family[name](rng, 500).reset_index(drop=True)
            for k, name in enumerate(names)
        }
    )
    for name, missing in zip(table, gaps, strict=True):
        if missing:
            table[name] = with_missing(table[name], rng)
    good = np.ones(len(table), dtype=bool)
    for k in range(columns - 1):
        left, right = comparable(table[f"c{k}"]), comparable(table[f"c{k + 1}"])
        known = (left.notna() & right.notna()).to_numpy(bool)
        fits = (left < right) if strict else (left <= right)
        good &= ~known | fits.fillna(False).to_numpy(bool)
    return table[good].head(N).reset_index(drop=True), strict


@settings(max_examples=120)
@given(ordered_tables(), st.sampled_from(["low", "high"]), st.integers(0, 9))
def test_inequalities_of_all_types(drawn, keep, seed):
    table, strict = drawn
    if len(table) < 5 or table.notna().sum().min() == 0:
        return
    rules = fitted(table, Inequality("c0", "c1", strict=strict, keep=keep))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        modelled = rules.forward(table)
    back = again(rules).inverse(modelled)
    loose = any(str(table[name].dtype) in ("float64", "float32") for name in table)
    assert_same(back, table, **({"rtol": 1e-6, "atol": 1e-6} if loose else {}))
    made = sampled(rules, table, seed=seed)
    assert (made.dtypes == table.dtypes).all()
    assert holds(made, "c0", "c1", strict)
    assert not rules.check(made).to_numpy().any()
    kept = "c0" if keep == "low" else "c1"
    assert_valid_cells(made[[kept]], infer_schema(table[[kept]]))
    assert_valid_cells(made, rules.schema_)


@settings(max_examples=60)
@given(ordered_tables(columns=3), st.sampled_from(["low", "high"]), st.integers(0, 9))
def test_chains(drawn, keep, seed):
    table, strict = drawn
    if len(table) < 5 or table.notna().sum().min() == 0:
        return
    chain = [Inequality(f"c{k}", f"c{k + 1}", strict=strict, keep=keep) for k in (1, 0)]
    rules = fitted(table, *chain)
    back = rules.inverse(rules.forward(table))
    loose = any(str(table[name].dtype) in ("float64", "float32") for name in table)
    assert_same(back, table, **({"rtol": 1e-6, "atol": 1e-6} if loose else {}))
    made = sampled(rules, table, seed=seed)
    assert holds(made, "c0", "c1", strict)
    assert holds(made, "c1", "c2", strict)
    assert_valid_cells(made, rules.schema_)
