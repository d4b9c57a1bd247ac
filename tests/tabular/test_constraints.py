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
    for column in schema:
        if column.decimals is not None and column.dtype == "float64":
            values = table[column.name].dropna()
            assert np.array_equal(np.round(values, column.decimals), values)


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
    names = draw(st.lists(st.sampled_from(sorted(family)), min_size=columns, max_size=columns))
    if "huge" in names:
        names = [name if name in ("huge", "int64", "Int16", "arrow") else "huge" for name in names]
    seed = draw(st.integers(0, 2**16))
    strict = draw(st.booleans())
    gaps = draw(st.lists(st.booleans(), min_size=columns, max_size=columns))
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {f"c{k}": family[name](rng, 500).reset_index(drop=True) for k, name in enumerate(names)}
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


def people(n=N, seed=0):
    rng = np.random.default_rng(seed)
    place = rng.integers(0, 4, n)
    start = pd.Series(pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 300, n), "D"))
    above = rng.integers(3, 30, n) * 10
    below = rng.integers(0, 9, n) * 10
    net = np.round(rng.gamma(2, 20, n), 2)
    return pd.DataFrame(
        {
            "city": np.array(["Bonn", "Köln", "Bath", "York"], dtype=object)[place],
            "age": rng.integers(18, 60, n),
            "country": np.array(["DE", "DE", "UK", "UK"], dtype=object)[place],
            "start": start,
            "end": start + pd.to_timedelta(rng.integers(0, 90, n), "D"),
            "total": above + below,
            "above": above,
            "below": below,
            "net": net,
            "gross": np.round(net * 1.2, 2),
        }
    )


def all_rules():
    return [
        FixedCombinations(["city", "country"]),
        Inequality("start", "end"),
        Formula("total", "above + below"),
        Formula("gross", "net * 1.2"),
        Unique(["age", "start"]),
    ]


def test_all_kinds_together_come_back():
    table = people().drop_duplicates(["age", "start"]).set_index("age", drop=False)
    rules = fitted(table, *all_rules())
    modelled = rules.forward(table)
    assert list(modelled) == [
        "city & country", "age", "start", "end - start", "above", "below", "net"
    ]  # fmt: skip
    assert modelled.index.equals(table.index)
    assert [c.name for c in rules.modelled_schema_] == list(modelled)
    assert rules.derived == {"city", "country", "end", "total", "gross"}
    assert_same(rules.inverse(modelled), table)
    assert_same(again(rules).inverse(modelled), table)
    assert again(rules).to_json() == rules.to_json()
    assert again(rules).constraints == rules.constraints


def test_what_is_sampled_satisfies_all_kinds():
    table = people()
    rules = fitted(table, *all_rules()[:4])
    made = sampled(rules, table)
    assert not rules.check(made).to_numpy().any()
    pairs = set(zip(table["city"], table["country"], strict=True))
    assert set(zip(made["city"], made["country"], strict=True)) <= pairs
    assert (made["total"] == made["above"] + made["below"]).all()
    assert (made["end"] >= made["start"]).all()
    assert np.abs(made["gross"] - made["net"] * 1.2).max() < 0.005 + 1e-9
    assert (made.dtypes == table.dtypes).all()


def test_no_constraints_change_nothing():
    table = people()
    rules = fitted(table)
    assert rules.forward(table) is table
    assert rules.inverse(table) is table
    assert rules.check(table).shape == (N, 0)
    assert not rules.duplicates(table).any()
    assert len(rules) == 0


def test_no_rows_stay_no_rows():
    table = people()
    rules = fitted(table, *all_rules()[:4])
    none = rules.inverse(rules.forward(table).iloc[:0])
    assert_same(none, table.iloc[:0])


# -------------------------------------------------------------- rows that violate


def test_rows_that_violate_are_left_out_with_a_warning():
    table = people().drop_duplicates(["age", "start"]).reset_index(drop=True)
    broken = table.copy()
    broken.loc[3, "end"] = broken.loc[3, "start"] - pd.Timedelta("1D")
    broken.loc[[5, 3], "total"] += 1
    rules = fitted(broken, *all_rules())
    with pytest.warns(ScidiffusionWarning, match=r"2 of \d+ rows violate .*'start <= end' by 1"):
        modelled = rules.forward(broken)
    assert_same(rules.inverse(modelled), table.drop(index=[3, 5]))
    found = rules.check(broken)
    assert found.sum().to_dict() == {
        "combinations of city, country": 0,
        "start <= end": 1,
        "total = above + below": 2,
        "gross = net * 1.2": 0,
        "age, start unique": 0,
    }


def test_a_table_without_a_valid_row_is_refused():
    table = people()
    with pytest.raises(DataError, match=r"every row .*'end < start' by 60"):
        fitted(table, Inequality("end", "start", strict=True))


def test_new_combinations_violate():
    table = people()
    rules = fitted(table, FixedCombinations(["city", "country", "net"]))
    other = table.assign(country=table["country"].where(table.index != 4, "FR"))
    other.loc[7, "net"] = 12345.0
    assert rules.check(other).to_numpy().ravel().nonzero()[0].tolist() == [4, 7]


def test_missing_values_violate_nothing():
    table = pd.DataFrame({"a": [1, None, 3, 4.0], "b": [None, 5, 3, 9.0], "c": [1, 5, 6.0, None]})
    rules = fitted(table, Inequality("a", "b"), Formula("c", "a + b"))
    assert not rules.check(table).to_numpy().any()


# -------------------------------------------------------------- inequalities


def test_the_upper_side_keeps_its_range_or_is_missing():
    table = pd.DataFrame({"low": [0, 1, 2, 50, 60], "high": [3.0, 4.0, 5.0, None, None]})
    rules = fitted(table, Inequality("low", "high"))
    rows = pd.DataFrame({"low": [2, 2, 50], "high - low": [0, 40, 3]})
    assert rules.inverse(rows)["high"].tolist()[:2] == [3.0, 5.0]
    assert np.isnan(rules.inverse(rows)["high"][2])


def test_the_order_wins_over_the_range_where_nothing_may_be_missing():
    table = pd.DataFrame({"a": [0, 1, 2, 3], "b": [5, 6, 7, 7], "c": [8, 9, 9, 8]})
    rules = fitted(table, Inequality("a", "b"), Inequality("b", "c", strict=True))
    assert rules.modelled_schema_.names == ["a", "b - a", "c - b"]
    rows = pd.DataFrame({"a": [3], "b - a": [5], "c - b": [0]})
    # The range of "b" ends at 7.
    assert rules.inverse(rows).iloc[0].tolist() == [3, 7, 8]
    beyond = rows.assign(a=20)
    assert rules.inverse(beyond).iloc[0].tolist() == [20, 20, 21]
    floats = table.assign(a=table["a"] / 3, c=table["c"] / 10)
    rules = fitted(floats, Inequality("a", "c"))
    assert rules.inverse(pd.DataFrame({"a": [7.77], "b": 1, "c - a": 0.0}))["c"][0] == 7.8


def test_a_value_without_its_bound_is_learned_by_itself():
    table = pd.DataFrame({"low": [1, None, 3, None], "high": [4, 8, 5, 9]})
    rules = fitted(table, Inequality("low", "high"))
    modelled = rules.forward(table)
    assert list(modelled) == ["low", "high - low", "high alone"]
    assert modelled["high alone"].tolist() == [pd.NA, 8, pd.NA, 9]
    assert_same(rules.inverse(modelled), table)
    # A model may leave both out, and the column may not be missing: a typical value is put in.
    empty = modelled.assign(**{"high alone": pd.array([pd.NA] * 4, dtype="Int64")})
    filled = rules.inverse(empty)["high"]
    assert filled.dtype == "int64"
    assert set(filled) <= set(range(4, 10))


def test_several_bounds_and_constant_gaps():
    table = pd.DataFrame({"a": [1, 5, 3], "b": [4, 2, 3], "c": [4, 5, 3], "d": [6, 7, 9]})
    rules = fitted(table, Inequality("a", "c"), Inequality("b", "c"), Inequality("c", "d"))
    assert rules.modelled_schema_.names == ["a", "b", "d - c"]
    assert_same(rules.inverse(rules.forward(table)), table)


def test_rounding_never_falls_below():
    table = pd.DataFrame({"fine": [0.25, 1.75, 2.5, 2.25], "coarse": [1, 2, 4, 3]})
    rules = fitted(table, Inequality("fine", "coarse", strict=True))
    rows = pd.DataFrame({"fine": [1.25, 2.25, 2.5], "coarse - fine": [1, 0, 10]})
    assert rules.inverse(rows)["coarse"].tolist() == [2, 3, 3]


def test_local_days_stay_below_where_the_clock_is_put_back():
    # In Havana midnight comes twice on 7 November 2021; the later one is the day's beginning.
    days = pd.Series(pd.date_range("2021-11-01", periods=9)).dt.tz_localize(
        "America/Havana", ambiguous=np.zeros(9, dtype=bool)
    )
    table = pd.DataFrame({"day": days, "time": days.dt.tz_convert("UTC") + pd.Timedelta("7min")})
    table.loc[0, "time"] += pd.Timedelta("3h")
    rules = fitted(table, Inequality("day", "time", keep="high"))
    assert_same(rules.inverse(rules.forward(table)), table)
    early = pd.Series(pd.to_datetime(["2021-11-07 04:30"], utc=True))
    made = rules.inverse(pd.DataFrame({"time - day": [600], "time": early}))
    assert made["day"].dt.strftime("%d %H:%M").tolist() == ["06 00:00"]


def test_the_gap_has_a_name_of_its_own():
    table = people()[["above", "total"]].assign(**{"total - above": 1.5})
    table.loc[0, "total - above"] = 2.5
    rules = fitted(table, Inequality("above", "total"))
    assert rules.modelled_schema_.names == ["above", "total - above'", "total - above"]
    assert_same(rules.inverse(rules.forward(table)), table)


def test_a_column_learned_as_levels_can_be_compared():
    table = pd.DataFrame({"low": [1, 2, 1, 3], "high": [2, 2, 3, 3]})
    rules = fitted(
        table, Inequality("low", "high"), overrides={"high": "categorical", "low": "categorical"}
    )
    assert_same(rules.inverse(rules.forward(table)), table)


# -------------------------------------------------------------- combinations


def test_many_combinations_of_all_types():
    rng = np.random.default_rng(0)
    n, k = 30_000, 12_000
    base = pd.DataFrame(
        {
            "text": pd.Series([f"v{i % 2500}" for i in range(k)], dtype="string"),
            "number": np.round(rng.normal(size=k), 3),
            "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 99, k), "D"),
            "flag": pd.Series(rng.random(k) < 0.5, dtype="boolean"),
            "level": pd.Categorical(rng.choice(list("abc"), k), categories=list("cbad")),
        }
    )
    base = base.mask(rng.random(base.shape) < 0.05).drop_duplicates()
    table = base.iloc[rng.integers(0, len(base), n)].reset_index(drop=True)
    rules = fitted(table, FixedCombinations(list(table)))
    modelled = rules.forward(table)
    assert modelled.shape == (n, 1)
    assert modelled.iloc[:, 0].nunique() == len(table.drop_duplicates())
    assert_same(again(rules).inverse(modelled), table)


def test_combinations_of_many_columns():
    # More combinations are conceivable than 64 bits count.
    rng = np.random.default_rng(0)
    table = pd.DataFrame({f"c{k}": rng.permutation(300) for k in range(9)})
    rules = fitted(table, FixedCombinations(list(table)))
    assert_same(rules.inverse(rules.forward(table)), table)
    # In the order of their first column.
    assert (rules.forward(table).iloc[:, 0] == table["c0"]).all()
    other = table.assign(c8=np.roll(table["c8"], 1))
    assert rules.check(other).to_numpy().all()


def test_combinations_do_not_depend_on_the_order_of_rows():
    table = people()
    rules = FixedCombinations(["country", "city"])
    first, second = fitted(table, rules), fitted(table.iloc[::-1], rules)
    assert first.to_json()["steps"] == second.to_json()["steps"]


def test_inequalities_within_combinations_hold_by_themselves():
    table = pd.DataFrame({"a": [1, 2, 5, 2], "b": [3, 2, 4, 6], "x": [0.5, 1, 2, 3]})
    rules = fitted(table, FixedCombinations(["a", "b"]), Inequality("a", "b"))
    with pytest.warns(ScidiffusionWarning, match="1 of 4 rows"):
        modelled = rules.forward(table)
    assert list(modelled) == ["a & b", "x"]
    assert len(rules.modelled_schema_["a & b"].categories) == 3


# -------------------------------------------------------------- formulas


@given(
    st.integers(0, 2**16),
    st.sampled_from(
        ["a + b", "a - b * 2", "(a + b) / 3", "max(a, b, 0)", "abs(a) // 7", "round(a / 7, 1)"]
    ),
    st.sampled_from(["int64", "Int32", "float64", "float32", "int16[pyarrow]"]),
)
def test_formulas_of_all_types(seed, formula, dtype):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(-99, 99, N), rng.integers(1, 50, N)
    places = {"a": np.array(a, float), "b": np.array(b, float)}
    result = Formula("c", formula).parsed(places)
    if "int" in dtype.lower():
        result = np.rint(result)
    table = pd.DataFrame({"c": pd.Series(result).astype(dtype), "a": a, "b": b})
    rules = fitted(table, Formula("c", formula))
    back = rules.inverse(rules.forward(table))
    assert_same(back, table, rtol=1e-6)
    made = sampled(rules, table)
    assert made["c"].dtype == table["c"].dtype
    assert not rules.check(made).to_numpy().any()


def test_a_formula_is_missing_where_an_input_is():
    table = pd.DataFrame({"a": [1.0, None, 3.0], "b": [1.5, 2.5, None], "c": [2.5, None, None]})
    rules = fitted(table, Formula("c", "a + b"))
    assert rules.modelled_schema_.names == ["a", "b"]
    assert_same(rules.inverse(rules.forward(table)), table)


def test_values_where_a_formula_has_none_are_learned_by_themselves():
    table = pd.DataFrame({"a": [1.0, None, 3.0, 0.0], "b": [2, 4, 6, 0], "c": [2, 7, 2, 9]})
    rules = fitted(table, Formula("c", "b / a"))
    modelled = rules.forward(table)
    assert list(modelled) == ["a", "b", "c alone"]
    assert_same(rules.inverse(modelled), table)
    gone = modelled.assign(**{"c alone": pd.array([pd.NA] * 4, dtype="Int64")})
    assert rules.inverse(gone)["c"].dtype == "int64"


def test_formulas_feed_formulas_and_inequalities():
    table = people().assign(limit=lambda t: t["gross"] + t["age"], double=lambda t: t["total"] * 2)
    rules = fitted(
        table,
        Inequality("gross", "limit"),
        Formula("double", "total * 2"),
        *all_rules()[2:4],
    )
    assert_same(rules.inverse(rules.forward(table)), table)
    made = sampled(rules, table)
    assert (made["double"] == 2 * (made["above"] + made["below"])).all()
    assert (made["limit"] >= made["gross"]).all()


def test_a_result_that_does_not_fit_widens_the_column():
    table = pd.DataFrame({"a": [100, 1, 2], "b": [1, 20, 100]})
    table["c"] = (table["a"] + table["b"]).astype("int8")
    rules = fitted(table, Formula("c", "a + b"))
    with pytest.warns(ScidiffusionWarning, match="'c'.* 200, which int8 cannot hold"):
        made = rules.inverse(pd.DataFrame({"a": [100, 1], "b": [100, 1]}))
    assert made["c"].tolist() == [200, 2]


def test_half_units_may_be_rounded_either_way():
    table = pd.DataFrame({"a": [5, 15, 25, 35], "half": [1, 2, 3, 4], "even": [0, 2, 2, 4]})
    rules = fitted(table, Formula("half", "a / 10"), Formula("even", "a / 10"))
    assert not rules.check(table).to_numpy().any()
    assert rules.check(table.assign(half=table["half"] + 1)).sum().tolist() == [4, 0]


# -------------------------------------------------------------- unique keys


def test_duplicates_are_the_later_rows():
    table = pd.DataFrame({"a": [1, 1, 2, 1, 2], "b": ["x", "y", "x", "x", None], "c": [1] * 5})
    rules = fitted(table, Unique(["a", "b"]))
    assert rules.duplicates(table).tolist() == [False, False, False, True, False]
    twice = fitted(table, Unique("a"), Unique("b"))
    # The second row is drawn again for its "a", so its "b" is not taken.
    assert twice.duplicates(table).tolist() == [False, True, True, True, True]
    assert twice.duplicates(table[["a", "c"]]).tolist() == [False, True, False, True, True]


def test_more_rows_than_keys_are_refused():
    table = pd.DataFrame({"a": list("xyz") * 20, "b": [0, 4] * 30, "c": np.arange(60) / 10})
    rules = fitted(table.drop_duplicates(["a", "b"]), Unique(["a", "b"]))
    rules.check_count(15)
    with pytest.raises(ConfigError, match=r"16 rows .*: there are 15; sample fewer"):
        rules.check_count(16)
    decimals = fitted(table, Unique(["a", "c"]))
    decimals.check_count(3 * 60)
    for asked, most in (
        ({"a": "x"}, 60),
        ({"a": ["x", "y"], "c": 1.5}, 2),
        ({"c": slice(0.5, 1.0)}, 3 * 6),
        ({"c": [0.5, 1.0, 2.0]}, 3 * 3),
    ):
        given = decimals.conditions(asked)
        decimals.check_count(most, given)
        with pytest.raises(ConfigError, match=f"there are {most} under these conditions"):
            decimals.check_count(most + 1, given)


# -------------------------------------------------------------- contradictions


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([Inequality("a", "b"), Inequality("b", "a")], r"'a <= b'.*in a circle"),
        (
            [Inequality("a", "b"), Inequality("b", "c"), Inequality("c", "a", strict=True)],
            "in a circle",
        ),
        ([Formula("a", "b + 1"), Formula("b", "a - 1")], "'a = b \\+ 1'.*circle|'b = a - 1'"),
        ([Formula("a", "b + 1"), Inequality("a", "b")], "circle"),
        (
            [Formula("a", "b"), Formula("a", "c")],
            "'a' cannot follow from two.*'a = b' and 'a = c'",
        ),
        ([Formula("b", "c"), Inequality("a", "b")], "two constraints.*keep='high'"),
        ([FixedCombinations(["a", "b"]), FixedCombinations(["b", "c"])], "give one with"),
        ([FixedCombinations(["a", "b"]), Inequality("c", "b")], "'b' cannot follow.*keep='high'"),
        ([FixedCombinations(["a", "b"]), Formula("a", "c")], "'a' cannot follow"),
        ([Inequality("a", "b"), Inequality("b", "c", keep="high")], "from below and one from"),
        (["a < b"], "constraints are Inequality, .*got 'a < b'"),
    ],
)
def test_contradictions_are_refused_at_once(rules, message):
    with pytest.raises(ConfigError, match=message):
        ConstraintSet(rules)


def test_the_other_way_round_resolves_them():
    table = pd.DataFrame({"a": [1, 2, 3.5], "b": [2.0, 5, 4], "c": [1.0, 4, 3]})
    rules = fitted(table, Formula("b", "c + 1"), Inequality("a", "b", keep="high"))
    assert rules.modelled_schema_.names == ["b - a", "c"]
    assert_same(rules.inverse(rules.forward(table)), table)
    same = ConstraintSet([Inequality("a", "b"), Inequality("a", "b")])
    assert len(same) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Inequality("a", "a"), "two columns, got 'a' twice"),
        (lambda: Inequality("a", "b", keep="both"), "keep must be 'low' or 'high'"),
        (lambda: Inequality(1, "b"), "column names, which are text; got 1"),
        (lambda: FixedCombinations(["a"]), "at least 2"),
        (lambda: FixedCombinations("a"), "at least 2"),
        (lambda: FixedCombinations(["a", "b", "a"]), "'a' twice"),
        (lambda: FixedCombinations(3), "list of column names"),
        (lambda: Unique([]), "at least 1"),
        (lambda: Formula("a", "a + b"), "needs the column itself"),
        (lambda: Formula("a", lambda t: t["b"]), "must be text.*not a function"),
    ],
)
def test_impossible_constraints(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Inequality("start", "ende"), "'start <= ende': there is no column 'ende'.*'end'"),
        (Formula("age", "abov + below"), "no column 'abov'"),
        (Unique(["ages"]), "no column 'ages'"),
        (Inequality("city", "age"), "column 'city' is categorical"),
        (Inequality("age", "start"), "'age' and 'start' cannot be compared: numbers and dates"),
        (Inequality("start", "zoned"), "dates without a time zone and dates with a zone"),
        (Formula("age", "above + city"), "column 'city' holds object values"),
        (Formula("age", "start + 1"), "column 'start' holds datetime64"),
        (Formula("end", "above"), "'end' is datetime, and a formula gives numbers"),
        (Formula("city", "above"), "column 'city' is categorical"),
        (Formula("age", "code + 1"), "'code', which is an identifier"),
        (FixedCombinations(["city", "code"]), "'code' is an identifier"),
        (Inequality("code", "age"), "column 'code' is identifier"),
        (Inequality("huge", "age"), "cannot compare whole numbers as large as"),
    ],
)
def test_constraints_that_do_not_fit_the_table(rule, message):
    table = people().assign(
        zoned=pd.date_range("2020-01-01", periods=N, tz="UTC"),
        code=np.arange(N),
        huge=2**62 + np.arange(N) % 7,
    )
    with pytest.raises(ConfigError, match=message):
        fitted(table, rule, overrides={"code": "identifier"})


def test_nothing_left_to_learn_is_refused():
    table = pd.DataFrame({"a": ["x", "x"], "b": [1, 1]})
    with pytest.raises(ConfigError, match="nothing to learn"):
        fitted(table, FixedCombinations(["a", "b"]))


def test_identifiers_pass_through():
    table = people().assign(code=np.arange(N))
    rules = fitted(table, *all_rules()[:2], Unique("code"), overrides={"code": "identifier"})
    modelled = rules.forward(table)
    assert_same(rules.inverse(modelled), table)
    assert_same(rules.inverse(modelled.drop(columns="code")), table.drop(columns="code"))
    assert not rules.check(table.drop(columns="code")).to_numpy().any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(version=9), "version 9.*upgrade"),
        (lambda r: r.pop("constraints"), "cannot be read"),
        (lambda r: r["constraints"][0].update(constraint="odd"), "cannot be read"),
        (lambda r: r["steps"][0].pop("column"), "cannot be read"),
        (lambda r: r["schema"].pop("columns"), "cannot be read"),
    ],
)
def test_a_broken_file_is_refused(change, message):
    record = fitted(people(), Inequality("start", "end")).to_json()
    change(record)
    with pytest.raises(ModelFileError, match=message):
        ConstraintSet.from_json(record)


def test_unfitted_constraints_say_so():
    rules = ConstraintSet([Inequality("a", "b")])
    assert ConstraintSet.from_json(rules.to_json()).constraints == rules.constraints
    with pytest.raises(DataError, match="not fitted"):
        rules.forward(people())
