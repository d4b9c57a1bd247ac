"""Frames in every shape: what is read out of them, and the one error for what cannot be right."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pandas as pd
import pytest

from scidiffusion.errors import DataError, ScidiffusionWarning
from scidiffusion.timeseries.columns import numbers
from scidiffusion.timeseries.frames import read_frame, read_like
from scidiffusion.timeseries.layout import FrameLayout
from scidiffusion.timeseries.stamps import StampStyle

pytestmark = pytest.mark.filterwarnings("error::FutureWarning")


def wide(columns=("a", "b"), periods=40, freq="D", start="2024-01-01", **options):
    index = pd.date_range(start, periods=periods, freq=freq, **options)
    values = np.arange(periods)[:, None] + 100.0 * np.arange(len(columns))
    return pd.DataFrame(values, index=index, columns=list(columns))


def long(ids=("a", "b"), periods=40, freq="D", start="2024-01-01"):
    index = pd.date_range(start, periods=periods, freq=freq)
    parts = [
        pd.DataFrame({"item_id": name, "time": index, "value": np.arange(periods) + 100.0 * place})
        for place, name in enumerate(ids)
    ]
    return pd.concat(parts, ignore_index=True)


def arranged(layout, series, tables=None):
    """The targets of series laid out by a layout."""
    tables = tables or [item.target.T[..., None] for item in series]
    names = [(item.item_id, item.names) for item in series]
    return layout.arrange([item.index for item in series], names, tables)


# -- layouts -------------------------------------------------------------------------------------


def test_the_columns_of_a_wide_frame_are_one_item():
    frame = wide()
    series, layout = read_frame(frame)
    assert len(series) == 1
    assert series[0].names == ("a", "b")
    assert (layout.long, layout.joint, layout.freq) == (False, True, "D")
    np.testing.assert_array_equal(series[0].target, frame.to_numpy().T)
    pd.testing.assert_frame_equal(arranged(layout, series), frame)


def test_the_columns_of_a_wide_frame_can_be_items_of_their_own():
    frame = wide()
    series, layout = read_frame(frame, multivariate=False)
    assert [(item.item_id, item.names) for item in series] == [("a", ("a",)), ("b", ("b",))]
    pd.testing.assert_frame_equal(arranged(layout, series), frame)
    assert read_frame(wide(["only"]))[0][0].item_id == "only"
    many = wide([f"s{number}" for number in range(65)])
    assert len(read_frame(many)[0]) == 65
    assert len(read_frame(many, multivariate=True)[0]) == 1


def test_the_groups_of_a_long_frame_are_items_in_their_order():
    frame = long(["z", "a"])
    series, layout = read_frame(frame)
    assert [item.item_id for item in series] == ["z", "a"]
    assert layout.long
    assert not layout.joint
    pd.testing.assert_frame_equal(arranged(layout, series), frame)


def test_the_groups_of_a_long_frame_can_be_one_item():
    frame = long()
    frame = frame.drop(index=[3, 44, 79])  # a step of each is missing, b ends earlier
    series, layout = read_frame(frame, multivariate=True)
    assert series[0].names == ("a", "b")
    assert series[0].target.shape == (2, 40)
    assert np.argwhere(np.isnan(series[0].target)).tolist() == [[0, 3], [1, 4], [1, 39]]
    back = arranged(layout, series)
    assert back["item_id"].tolist() == ["a"] * 40 + ["b"] * 40
    pd.testing.assert_frame_equal(
        back.dropna().reset_index(drop=True), frame.reset_index(drop=True)
    )


def test_several_columns_of_values_of_a_long_frame_are_one_item_a_series():
    frame = long().assign(other=lambda f: -f["value"])
    series, layout = read_frame(frame)
    assert [item.names for item in series] == [("value", "other")] * 2
    np.testing.assert_array_equal(series[1].target[1], -frame["value"][40:])
    pd.testing.assert_frame_equal(arranged(layout, series), frame)


def test_series_of_a_long_frame_begin_and_end_where_they_do():
    frame = pd.concat([long(["a"], 30), long(["b"], 50, start="2024-02-01")], ignore_index=True)
    series, layout = read_frame(frame)
    assert [str(item.start) for item in series] == ["2024-01-01", "2024-02-01"]
    assert [item.length for item in series] == [30, 50]
    pd.testing.assert_frame_equal(arranged(layout, series), frame)


@pytest.mark.parametrize("shape", ["index", "column", "text", "levels", "unnamed", "series"])
def test_times_are_found_where_they_are(shape):
    frame, expected = wide(["value"]), wide(["value"])
    if shape == "column":
        frame = frame.rename_axis("day").reset_index()
    elif shape == "text":
        frame = frame.rename_axis("Date").reset_index().astype({"Date": str})
    elif shape == "levels":
        frame = long(["value"]).set_index(["item_id", "time"])
    elif shape == "unnamed":
        frame = frame.rename_axis("Unnamed: 0").reset_index().astype({"Unnamed: 0": str})
    elif shape == "series":
        frame = frame["value"]
    series, _ = read_frame(frame)
    assert series[0].item_id == "value"
    assert series[0].index.equals(expected.index.to_period("D"))
    np.testing.assert_array_equal(series[0].target[0], expected["value"])


@pytest.mark.parametrize("kind", ["int", "category", "object"])
def test_names_of_series_keep_their_type(kind):
    frame = long(["7", "12"])
    if kind == "int":
        frame["item_id"] = frame["item_id"].astype(int)
    elif kind == "category":
        frame["item_id"] = frame["item_id"].astype(pd.CategoricalDtype(["7", "8", "12"]))
    series, layout = read_frame(frame)
    assert [item.item_id for item in series] == ["7", "12"]
    back = arranged(layout, series)["item_id"]
    assert back.tolist() == frame["item_id"].tolist()
    assert (back.dtype == int) == (kind == "int")


def test_columns_called_by_numbers_come_back_as_numbers():
    frame = wide([2020, 2021])
    series, layout = read_frame(frame)
    assert series[0].names == ("2020", "2021")
    pd.testing.assert_frame_equal(arranged(layout, series), frame)
    series, layout = read_frame(frame, target=2021)
    assert layout.targets == ("2021",)
    pd.testing.assert_frame_equal(arranged(layout, series), frame[[2021]])


@pytest.mark.parametrize("dtype", ["Int64", "Float64", "float32", "int8", "bool", "boolean", str])
def test_values_of_any_type_that_holds_numbers(dtype):
    truth = np.array([1.0, 0.0, 0.0, 1.0] * 10)
    column = pd.Series(truth.astype(int), index=wide().index, name="x")
    column = column.astype("int8" if dtype is str else "int64").astype(dtype)
    np.testing.assert_array_equal(read_frame(column)[0][0].target[0], truth)
    if dtype in ("Int64", "Float64", "boolean", str):
        column.iloc[3] = pd.NA if dtype is not str else None
        truth[3] = np.nan
        np.testing.assert_array_equal(read_frame(column)[0][0].target[0], truth)


def test_other_columns_are_refused_by_their_first_odd_value():
    for odd in ("north", pd.Timestamp("2024"), pd.Timedelta("1h"), 1j):
        column = pd.Series([1, odd])
        with pytest.raises(DataError, match=r"'x' holds .* no number; encode it"):
            numbers(column if odd == "north" else column[1:].infer_objects(), "x")
    assert numbers(pd.Series([1.0, 2.0]).astype("category"), "x").tolist() == [1, 2]
    assert numbers(pd.Series([True, None, False], dtype=object), "x")[[0, 2]].tolist() == [1, 0]
    frame = long().assign(region="north")
    with pytest.raises(DataError, match=r"'region' holds 'north'.*target="):
        read_frame(frame)
    assert read_frame(frame, target="value")[0].dim == 1


def test_rows_may_be_unsorted_and_missing():
    frame = wide()
    kept = frame.drop(index=frame.index[[5, 6, 20]]).sample(frac=1, random_state=0)
    series, _ = read_frame(kept)
    expected = frame.copy()
    expected.iloc[[5, 6, 20]] = np.nan
    np.testing.assert_array_equal(series[0].target, expected.to_numpy().T)


def test_steps_before_the_first_value_are_left_out_of_training_but_filled():
    frame = wide(["a", "b"])
    frame.loc[frame.index[:10], "a"] = np.nan
    series, layout = read_frame(frame, multivariate=False)
    assert [item.length for item in series] == [30, 40]
    assert str(series[0].start) == "2024-01-11"
    whole, _ = read_like(frame, layout, whole=True)
    assert [item.length for item in whole] == [40, 40]


def test_a_layout_is_saved_and_read():
    frame = long().assign(price=1.0)
    static = pd.DataFrame({"size": [1.0, 2.0], "kind": ["x", None]}, index=["a", "b"])
    _, layout = read_frame(frame, known=["price"], static=static)
    layout = FrameLayout.from_json(json.loads(json.dumps(layout.to_json())))
    series, again = read_like(frame, layout, static=static)
    assert again.known == ("price",)
    assert series[1].static_real.tolist() == [2]
    assert series[1].static_cat.tolist() == [-1]
    assert again.static_cat == {"kind": ("x",)}


# -- covariates ----------------------------------------------------------------------------------


@pytest.mark.parametrize("joint", [True, False])
def test_rows_after_the_last_value_are_the_future(joint):
    frame = wide(["a", "b", "holiday"], 50)
    frame.loc[frame.index[40:], ["a", "b"]] = np.nan
    frame.loc[frame.index[38:], "b"] = np.nan
    series, layout = read_frame(frame, known="holiday", multivariate=joint)
    assert {item.length for item in series} == {40}
    assert {item.known.shape for item in series} == {(1, 50)}
    assert read_like(frame, layout, horizon=10)[0][0].length == 40
    with pytest.raises(DataError, match=r"'holiday' is missing at 2024-02-20.*11 steps.*02-20"):
        read_like(frame, layout, horizon=11)
    whole, _ = read_like(frame, layout, whole=True)
    assert {item.length for item in whole} == {50}


@pytest.mark.parametrize("stamped", ["column", "index"])
def test_the_future_may_be_a_frame_of_its_own(stamped):
    frame = long().assign(price=lambda f: f["value"] / 10)
    _, layout = read_frame(frame, known=["price"])
    index = pd.date_range("2024-02-05", periods=14, freq="D")  # the first five days are known
    future = pd.DataFrame({"price": np.arange(14.0)}, index=index.rename("time"))
    if stamped == "column":
        future = future.reset_index()
    series, _ = read_like(frame, layout, future=future, horizon=9)
    for item, name in zip(series, ["a", "b"], strict=True):
        known = frame.loc[frame["item_id"] == name, "price"]
        np.testing.assert_array_equal(item.known[0], [*known, *range(5, 14)])
    own = pd.concat([future.assign(item_id="a"), future.assign(item_id="b", price=-1.0)])
    if stamped == "index":
        own = own.reset_index()
    series, _ = read_like(frame, layout, future=own, horizon=9)
    np.testing.assert_array_equal(series[1].known[0, 40:], [-1] * 9)
    with pytest.raises(DataError, match=r"series 'b': the covariate 'price'.*2024-02-10"):
        read_like(frame, layout, future=own[own["item_id"] == "a"], horizon=9)
    with pytest.raises(DataError, match="no column 'price'"):
        read_like(frame, layout, future=future.rename(columns={"price": "cost"}), horizon=9)


def test_covariates_of_the_past_may_have_gaps_those_known_in_advance_may_not():
    frame = wide(["a", "rain"])
    frame.loc[frame.index[7], "rain"] = np.nan
    series, _ = read_frame(frame, past=["rain"])
    assert np.isnan(series[0].past[0, 7])
    with pytest.raises(DataError, match=r"'a': the covariate 'rain'.* at 2024-01-08.*past="):
        read_frame(frame, known=["rain"])
    _, layout = read_frame(frame, past=["rain"])
    with pytest.raises(DataError, match="fitted without known="):
        read_like(frame, layout, future=frame)


def test_static_columns_are_numbers_and_classes():
    frame = long(["1", "2"])
    frame["item_id"] = frame["item_id"].astype(int)
    static = pd.DataFrame({"size": [5, 6], "kind": ["x", "y"], "open": [True, False]}, [2, 1])
    series, layout = read_frame(frame, static=static)
    assert series[0].static_real.tolist() == [6]
    assert series[0].static_cat.tolist() == [1, 1]
    new = frame.assign(item_id=frame["item_id"].replace({2: 3}))
    more = pd.concat([static, pd.DataFrame({"size": 1, "kind": "z", "open": True}, [3])])
    assert read_like(new, layout, static=more)[0][1].static_cat.tolist() == [-1, 0]
    with pytest.raises(DataError, match="series '3' has no row in static"):
        read_like(new, layout, static=static)
    with pytest.raises(DataError, match="static columns size, kind, open; give static="):
        read_like(frame, layout)
    with pytest.raises(DataError, match="static has no column 'kind'"):
        read_like(frame, layout, static=static.drop(columns="kind"))
    with pytest.raises(DataError, match=r"series '1': the static column 'size'.*nan"):
        read_frame(frame, static=static.assign(size=[5, np.nan]))
    with pytest.raises(DataError, match="two rows called '2'"):
        read_frame(frame, static=pd.concat([static, static[:1]]))
    with pytest.raises(DataError, match=r"forecast jointly.*multivariate=False"):
        read_frame(wide(), static=static)
    with pytest.raises(DataError, match="fitted without static"):
        read_like(frame, read_frame(frame)[1], static=static)


def test_static_columns_may_stand_in_the_long_frame():
    frame = long(["b", "a"], periods=12)
    static = pd.DataFrame({"size": [6.5, 5.0], "kind": ["y", "x"]}, index=["b", "a"])
    merged = frame.join(static, on="item_id")
    apart, layout = read_frame(frame, static=static)
    inside, same = read_frame(merged, static=["size", "kind"])
    assert same == layout
    assert [item.static_real.tolist() for item in inside] == [[6.5], [5.0]]
    for one, other in zip(apart, inside, strict=True):
        np.testing.assert_array_equal(one.target, other.target)
        np.testing.assert_array_equal(one.static_real, other.static_real)
        np.testing.assert_array_equal(one.static_cat, other.static_cat)
    # A frame of its own has the say; without one the frame's columns are read, gaps and all.
    merged.loc[[3, 15], ["size", "kind"]] = np.nan
    again, _ = read_like(merged, same)
    assert [item.static_cat.tolist() for item in again] == [[0], [1]]
    other, _ = read_like(merged, same, static=static.assign(size=1.0))
    assert [item.static_real.tolist() for item in other] == [[1], [1]]
    assert read_frame(merged, static="kind", target="value")[1].static_real == ()


def test_static_columns_that_are_none():
    frame = long(periods=12).assign(size=1.0, kind="x")
    frame.loc[14, "size"] = 2.0
    with pytest.raises(DataError, match=r"series 'b': the static column 'size' changes from 1.0"):
        read_frame(frame, static="size", target="value")
    with pytest.raises(DataError, match="no column 'colour'"):
        read_frame(frame, static=["kind", "colour"], target="value")
    with pytest.raises(DataError, match="'kind' is named by known= and static="):
        read_frame(frame, known="kind", static="kind", target="value")
    with pytest.raises(DataError, match="forecast jointly"):
        read_frame(frame, static="kind", target="value", multivariate=True)
    with pytest.raises(DataError, match="needs a long frame"):
        read_frame(wide().assign(kind="x"), static="kind", multivariate=False)
    with pytest.raises(DataError, match="names of columns of a long frame; got Series"):
        read_frame(frame, static=frame["kind"], target="value")


# -- frames like the fitted one ------------------------------------------------------------------


def test_other_series_and_other_stamps_are_read_like_the_fitted_ones():
    _, layout = read_frame(wide(["a", "b"], freq="MS"), multivariate=False)
    series, own = read_like(wide(["b", "c", 7], freq="ME"), layout)
    assert [item.item_id for item in series] == ["b", "c", "7"]
    assert own.stamps.anchor == "end"
    assert list(arranged(own, series).columns) == ["b", "c", 7]
    _, chosen = read_frame(wide(["a", "b"]), multivariate=False, target=["a", "b"])
    series, _ = read_like(wide(["b", "c"]), chosen)
    assert [item.item_id for item in series] == ["b"]
    with pytest.raises(DataError, match="none of the columns of values a, b; it has c"):
        read_like(wide(["c"]), chosen)
    _, one = read_frame(wide(["a"]), target="a")
    series, _ = read_like(wide(["c"])["c"], one)
    assert series[0].item_id == "a"


def test_series_that_a_joint_model_does_not_know_are_left_out_aloud():
    for frame, more, fewer in (
        (wide(), wide(["b", "c", "a"]), wide(["a"])),
        (long(), long(["b", "c", "a"]), long(["a"])),
    ):
        _, layout = read_frame(frame, multivariate=True)
        with pytest.warns(ScidiffusionWarning, match="has not learned c: left out"):
            series, _ = read_like(more, layout)
        assert series[0].names == ("a", "b")
        assert series[0].target[:, 0].tolist() == [200, 0]
        with pytest.raises(DataError, match=r"'b'( is missing|; it has a)"):
            read_like(fewer, layout)
    _, layout = read_frame(wide(["a", "b", "c"]), target=["a", "b"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_like(wide(["a", "b", "c"]), layout)


def test_a_single_row_is_enough_to_be_read():
    _, layout = read_frame(wide(freq="ME", periods=20))
    series, own = read_like(wide(freq="ME", periods=1, start="2025-01-31"), layout)
    assert series[0].target.shape == (2, 1)
    assert own.stamps == layout.stamps
    with pytest.raises(DataError, match=r"'all' has 1 time stamps, too few.*give freq"):
        read_frame(wide(periods=1))
    assert read_frame(wide(periods=1), freq="D")[0].steps == 1


@pytest.mark.parametrize("freq", ["h", "D"])
def test_a_time_zone_may_differ_but_not_be_missing(freq):
    _, layout = read_frame(wide(freq=freq, tz="Europe/Berlin", periods=200))
    series, own = read_like(wide(freq=freq, tz="Asia/Tokyo"), layout)
    assert own.stamps.timezone == "Asia/Tokyo"
    pd.testing.assert_frame_equal(arranged(own, series), wide(freq=freq, tz="Asia/Tokyo"))
    with pytest.raises(DataError, match=r"time zone Europe/Berlin.*2024-01-01.*no time zone"):
        read_like(wide(freq=freq), layout)
    _, naive = read_frame(wide(freq=freq))
    with pytest.raises(DataError, match=r"no time zone, but this one.*the time zone UTC"):
        read_like(wide(freq=freq, tz="UTC"), naive)


def test_stamps_of_summer_and_winter_in_a_file_are_read():
    frame = wide(["a"], 200, "h", "2024-03-28", tz="Europe/Berlin")
    text = frame.rename_axis("time").reset_index().astype({"time": str})
    series, layout = read_frame(text)
    assert layout.stamps == StampStyle("start", 0, "UTC", True)
    assert series[0].length == 200
    np.testing.assert_array_equal(series[0].target[0], frame["a"])


# -- what cannot be right ------------------------------------------------------------------------


def edited(frame, **cells):
    frame = frame.copy()
    for column, (row, value) in cells.items():
        frame.loc[frame.index[row], column] = value
    return frame


BAD = {
    "no frame": ([1, 2, 3], {}, "must be a pandas DataFrame or Series, got list"),
    "no rows": (wide()[:0], {}, "empty"),
    "no columns": (wide()[[]], {}, "empty"),
    "no times": (wide().reset_index(drop=True), {}, "DatetimeIndex.*time="),
    "two times": (
        wide().assign(one=wide().index, two=wide().index).reset_index(drop=True),
        {},
        "one, two may all be times.*time=",
    ),
    "times that are numbers": (
        wide().assign(year=2024).reset_index(drop=True),
        {"time": "year"},
        "'year' holds numbers, not times.*to_datetime",
    ),
    "times that are words": (
        long().assign(time="soon"),
        {},
        "'time' cannot be read as times",
    ),
    "a row without a time": (edited(long(), time=(3, pd.NaT)), {}, "'time' has no time in row 3"),
    "an index without a time": (
        wide().set_axis([pd.NaT, *wide().index[1:]]),
        {},
        "index has no time in row 0",
    ),
    "a row without a series": (edited(long(), item_id=(5, None)), {}, "no series in row 5"),
    "a number and a text": (
        long([1, "1"]),
        {},
        "'1' as a number and as a text; convert",
    ),
    "two columns of one name": (wide([1, "1"]), {}, "two columns called '1'; rename"),
    "no such target": (wide(), {"target": "c"}, "no column 'c'; it has a, b"),
    "no such time": (wide(), {"time": "c"}, "no column 'c' of times; it has a, b"),
    "no such series column": (wide(), {"item_id": "c"}, "no column 'c'"),
    "no such covariate": (wide(), {"known": ["c"]}, "no column 'c'"),
    "a column of two kinds": (
        wide(),
        {"target": "a", "known": "a"},
        "'a' is named by target= and known=",
    ),
    "times as a covariate": (long(), {"known": "time"}, "'time' holds the times"),
    "nothing but covariates": (wide(), {"past": ["a", "b"]}, "no column of values.*target="),
    "duplicate stamps": (
        pd.concat([wide(), wide()[7:8]]),
        {},
        "two rows at 2024-01-08 00:00:00; keep one.*item_id=",
    ),
    "duplicate stamps of a series": (
        pd.concat([long(), long()[47:48]]),
        {},
        "'b' has two rows at 2024-01-08",
    ),
    "irregular stamps": (
        wide().set_axis([*wide().index[:-1], pd.Timestamp("2024-02-09 07:00")]),
        {},
        "irregular at 2024-02-09 07:00:00.*resample",
    ),
    "a wrong frequency, too fine": (
        wide(freq="W-MON"),
        {"freq": "D"},
        "40 rows from 2024-01-01.*'D'; give freq='W-MON'",
    ),
    "a wrong frequency, far too fine": (wide(freq="MS"), {"freq": "h"}, "give freq='M'"),
    "a wrong frequency, too coarse": (
        wide(freq="h"),
        {"freq": "D"},
        "2024-01-01 00:00:00 and 2024-01-01 01:00:00, in one period of freq='D'",
    ),
    "mixed frequencies": (
        pd.concat([long(["a"]), long(["b"], freq="h")]),
        {},
        r"'a' has the frequency 'D', but 'b', from 2024-01-01 00:00:00 on, has 'h'",
    ),
    "mixed frequencies, one given": (
        pd.concat([long(["a"]), long(["b"], freq="h")]),
        {"freq": "h"},
        r"'a' has 40 rows.*'h'; give freq='D'",
    ),
    "mixed frequencies in one series": (
        pd.concat([wide(), wide(freq="h", start="2024-02-10", periods=400)]),
        {},
        "every 24 steps of 'h' from 2024-01-01 00:00:00 to 2024-02-10.*two frequencies",
    ),
    "an impossible frequency": (wide(), {"freq": "fortnight"}, "'fortnight' is not known"),
    "infinite value": (
        edited(wide(), b=(4, np.inf)),
        {},
        "'b' is infinite at 2024-01-05 00:00:00; replace",
    ),
    "infinite value of a series": (
        edited(long(), value=(44, -np.inf)),
        {},
        "'value' of series 'b' is infinite at 2024-01-05 00:00:00",
    ),
    "infinite covariate": (
        edited(wide(), b=(4, np.inf)),
        {"known": "b"},
        "'b' is infinite at 2024-01-05",
    ),
    "a series of missing values": (wide().assign(b=np.nan), {}, "'b' has no value at all.*leave"),
    "an item of missing values": (
        long().assign(value=lambda f: f["value"].where(f["item_id"] == "a")),
        {},
        "'b' has no value at all",
    ),
    "a column of an item of missing values": (
        long().assign(other=lambda f: f["value"].where(f["item_id"] == "a")),
        {},
        "'b/other' has no value at all",
    ),
    "joint columns of values of joint series": (
        long().assign(other=1.0),
        {"multivariate": True},
        "multivariate already",
    ),
    "single columns of values of a long frame": (
        long().assign(other=1.0),
        {"multivariate": False},
        "2 columns of values.*melt",
    ),
    "covariates of joint series of a long frame": (
        long().assign(price=1.0),
        {"multivariate": True, "known": "price"},
        "use a wide frame, or multivariate=False",
    ),
    "three levels of an index": (
        long().set_index(["item_id", "time", "value"]).assign(x=1.0),
        {},
        "reset_index",
    ),
    "a level and a column of one name": (
        long().set_index(["item_id", "time"]).assign(item_id=1),
        {},
        "index level called 'item_id'; rename",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_right_is_one_clear_error(case):
    frame, options, message = BAD[case]
    with pytest.raises(ValueError, match=message) as caught:
        read_frame(frame, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (wide(freq="h"), "in one period of freq='D'"),
        (wide(freq="W"), "do not fit the frequency 'D'; give freq='W-SUN'"),
        (wide(["a", "c"]), "no column 'b'; it has a, c"),
        (edited(wide(), a=(3, np.inf)), "'a' is infinite at 2024-01-04"),
        (wide().assign(a=np.nan), "'a' has no value at all"),
        (wide().to_period("M").iloc[::31], "periods of 'M' from 2024-01 on.*'D'"),
    ],
)
def test_what_does_not_fit_the_fitted_frame_is_one_clear_error(frame, message):
    _, layout = read_frame(wide())
    with pytest.raises(DataError, match=message):
        read_like(frame, layout)


def test_a_long_frame_needs_its_column_of_names():
    _, layout = read_frame(long())
    with pytest.raises(DataError, match="no column 'item_id'"):
        read_like(long().drop(columns="item_id"), layout)


def test_sparse_series_are_not_taken_for_another_frequency():
    """Others tell the frequency; a series of few rows lies on its grid."""
    frame = pd.concat([long(["a"]), long(["b"]).iloc[[0, 9, 21, 33]]], ignore_index=True)
    series, layout = read_frame(frame)
    assert layout.freq == "D"
    assert series[1].length == 34
    assert np.isfinite(series[1].target).sum() == 4


def test_series_between_the_steps_of_others_cannot_be_joint():
    frame = pd.concat([long(["a"], freq="2h"), long(["b"], freq="2h", start="2024-01-01 01:00")])
    assert len(read_frame(frame)[0]) == 2
    with pytest.raises(DataError, match="'b' lies between the steps of the others"):
        read_frame(frame, multivariate=True)
