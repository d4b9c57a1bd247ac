"""Results of forecasts: quantiles and paths as frames of the user's layout; what is remembered."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scidiffusion.errors import InputError
from scidiffusion.timeseries import memory
from scidiffusion.timeseries.forecasts import QUANTILES, Forecast, ForecastSet, check_levels
from scidiffusion.timeseries.frames import read_frame
from scidiffusion.timeseries.layout import FrameLayout
from scidiffusion.timeseries.series import Series, SeriesSet
from scidiffusion.timeseries.stamps import StampStyle

PATHS, STEPS = 50, 4


def layout(**options):
    given = {
        "freq": "M",
        "long": False,
        "joint": True,
        "time": None,
        "index_name": "month",
        "item_id": None,
        "targets": ("a", "b"),
        "series": ("a", "b"),
        "stamps": StampStyle("end"),
    }
    return FrameLayout(**(given | options))


def forecast(name="all", names=("a", "b"), start="2024-03", seed=0):
    rng = np.random.default_rng(seed)
    samples = rng.normal(size=(PATHS, STEPS, len(names))) + 10.0 * np.arange(len(names))
    return Forecast(name, tuple(names), pd.Period(start, "M"), samples)


ENDS = pd.DatetimeIndex(["2024-03-31", "2024-04-30", "2024-05-31", "2024-06-30"])


def test_moments_and_quantiles_are_those_of_the_paths():
    one = forecast()
    np.testing.assert_array_equal(one.mean, one.samples.mean(axis=0))
    np.testing.assert_array_equal(one.median, one.quantile(0.5))
    ordered = np.sort(one.samples, axis=0)
    np.testing.assert_allclose(one.quantile(0), ordered[0])
    np.testing.assert_allclose(one.quantile(1), ordered[-1])
    assert one.index.equals(pd.period_range("2024-03", periods=STEPS, freq="M"))
    for level in (-0.1, 1.5, np.nan):
        with pytest.raises(InputError, match=r"lie in \[0, 1\]"):
            one.quantile(level)


def test_the_sum_has_paths_of_its_own():
    one = forecast()
    total = one.sum_over_series()
    assert total.names == ("sum",)
    np.testing.assert_allclose(total.samples[..., 0], one.samples.sum(axis=2))
    # The spread of a sum of independent series is less than the sum of their spreads.
    width = (total.quantile(0.9) - total.quantile(0.1))[:, 0]
    parts = (one.quantile(0.9) - one.quantile(0.1)).sum(axis=1)
    assert (width < parts).all()


def test_wide_frames_of_several_series():
    one = forecast()
    frames = ForecastSet([one], layout())
    assert repr(frames) == "ForecastSet(1 item, 50 paths of 4 steps)"
    frame = frames.to_frame((0.1, 0.5))
    assert frame.index.equals(ENDS)
    assert frame.index.name == "month"
    assert frame.columns.tolist() == [("a", "0.1"), ("a", "0.5"), ("b", "0.1"), ("b", "0.5")]
    np.testing.assert_allclose(frame["b"]["0.5"], one.median[:, 1])
    np.testing.assert_allclose(frame["a"]["0.1"], one.quantile(0.1)[:, 0])
    mean = frames.mean_frame()
    assert mean.columns.tolist() == ["a", "b"]
    np.testing.assert_allclose(mean, one.mean)
    paths = frames.samples_frame()
    assert paths.index.names == ["sample", "month"]
    np.testing.assert_array_equal(paths.loc[7], one.samples[7])
    assert len(paths) == PATHS * STEPS


def test_wide_frames_of_one_series_have_levels_for_columns():
    one = forecast("a", ["a"])
    frames = ForecastSet([one], layout(targets=("a",), joint=False, series=()))
    frame = frames.to_frame()
    assert frame.columns.tolist() == [format(level, "g") for level in QUANTILES]
    np.testing.assert_allclose(frame["0.95"], one.quantile(0.95)[:, 0])
    assert frames.mean_frame().columns.tolist() == ["a"]


def test_wide_frames_of_single_series():
    items = [forecast("a", ["a"], seed=1), forecast("b", ["b"], seed=2)]
    frames = ForecastSet(items, layout(joint=False, series=(), labels={"a": 1, "b": 2}))
    assert frames.mean_frame().columns.tolist() == [1, 2]
    np.testing.assert_allclose(frames.mean_frame()[2], items[1].mean[:, 0])
    np.testing.assert_allclose(frames.to_frame()[2]["0.5"], items[1].median[:, 0])
    np.testing.assert_array_equal(frames.samples_frame().loc[3, 1], items[0].samples[3, :, 0])


def test_long_frames():
    items = [forecast("x", ["value"]), forecast("y", ["value"], "2025-01", seed=1)]
    long = layout(
        long=True, joint=False, item_id="shop", time="day", targets=("value",), series=()
    )
    frames = ForecastSet(items, long)
    frame = frames.to_frame((0.05, 0.5))
    assert list(frame) == ["shop", "day", "0.05", "0.5"]
    assert frame["shop"].tolist() == ["x"] * 4 + ["y"] * 4
    assert frame["day"][:4].tolist() == list(ENDS)
    assert frame["day"][4] == pd.Timestamp("2025-01-31")
    np.testing.assert_allclose(frame["0.5"][4:], items[1].median[:, 0])
    assert list(frames.mean_frame()) == ["shop", "day", "value"]
    paths = frames.samples_frame()
    assert list(paths) == ["shop", "day", "sample", "value"]
    one = paths[(paths["sample"] == 9) & (paths["shop"] == "y")]
    np.testing.assert_array_equal(one["value"], items[1].samples[9, :, 0])


def test_long_frames_of_several_columns_of_values_and_joint_ones():
    two = layout(long=True, joint=False, item_id="shop", targets=("a", "b"), series=())
    frames = ForecastSet([forecast("x")], two)
    assert list(frames.to_frame((0.5,))) == ["shop", "month", "a/0.5", "b/0.5"]
    assert list(frames.mean_frame()) == ["shop", "month", "a", "b"]
    np.testing.assert_array_equal(
        frames.samples_frame()[["a", "b"]].to_numpy().reshape(PATHS, STEPS, 2), frames[0].samples
    )
    joint = ForecastSet([forecast()], layout(long=True, item_id="shop", targets=("value",)))
    frame = joint.to_frame((0.5,))
    assert frame["shop"].tolist() == ["a"] * 4 + ["b"] * 4
    np.testing.assert_allclose(frame["0.5"], joint[0].median.T.ravel())


def test_names_of_columns_do_not_collide():
    taken = layout(long=True, joint=False, item_id="time", targets=("sample",), series=())
    taken = ForecastSet([forecast("x", ["sample"])], taken)
    assert list(taken.samples_frame()) == ["time", "month", "sample_", "sample"]
    nameless = layout(
        long=True, joint=False, item_id="time", index_name=None, targets=("value",), series=()
    )
    assert list(ForecastSet([forecast("x", ["value"])], nameless).mean_frame()) == [
        "time",
        "time_",
        "value",
    ]


def test_a_set_is_a_sequence():
    items = [forecast("x"), forecast("y")]
    frames = ForecastSet(items, layout())
    assert len(frames) == 2
    assert list(frames) == items
    assert frames[1:] == (items[1],)
    with pytest.raises(InputError, match="empty"):
        ForecastSet([], layout())


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([1.5], r"lie in \[0, 1\], got 1.5"),
        ([], "at least one"),
        ([0.5, 0.5], "different levels"),
        (0.5, r"such as \[0.1, 0.5, 0.9\]"),
        (["half"], "such as"),
    ],
)
def test_impossible_levels(levels, message):
    with pytest.raises(InputError, match=message):
        check_levels(levels)


# -- memory --------------------------------------------------------------------------------------


def remembered(count=4, steps=30):
    rng = np.random.default_rng(0)
    items = [
        Series(
            rng.normal(size=(2, steps + number)),
            pd.Period("2024-01-01 05:00", "2h") + number,
            f"item {number}",
            ("a", "b"),
            rng.normal(size=(1, steps + 2 * number)),
            rng.normal(size=(2, steps + number)),
            rng.normal(size=3),
            np.array([number]),
        )
        for number in range(count)
    ]
    return SeriesSet(items, "2h")


def same(one, other):
    for name in ("target", "known", "past", "static_real", "static_cat"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert (one.item_id, one.names, one.start) == (other.item_id, other.names, other.start)


def test_series_are_remembered_to_the_last_bit():
    series = remembered()
    about, tensors = memory.state(series)
    again, others = memory.restore(about, tensors | {"weight": tensors["memory.start"]})
    assert list(others) == ["weight"]
    assert again.freq == "2h"
    for one, other in zip(series, again, strict=True):
        same(one, other)
    plain = SeriesSet([Series(np.array([[1.0, np.nan]]), pd.Period("2024", "Y"))], "Y-DEC")
    same(memory.restore(*memory.state(plain))[0][0], plain[0])


def test_what_is_too_much_to_remember_is_thinned_out():
    series = remembered()
    assert memory.keep(series, seed=0) is series
    some = memory.keep(series, seed=0, limit=350)
    assert len(some) == 2
    named = {item.item_id: item for item in series}
    for item in some:
        same(item, named[item.item_id])
    assert {memory.keep(series, seed, limit=350)[0].item_id for seed in range(20)} > {"item 0"}
    (one,) = memory.keep(series, seed=0, limit=50)
    whole = named[one.item_id]
    assert one.length == 10
    np.testing.assert_array_equal(one.target, whole.target[:, -10:])
    np.testing.assert_array_equal(one.known, whole.known[:, whole.length - 10 :])


def test_a_read_frame_is_remembered():
    index = pd.date_range("2024-01-31", periods=30, freq="BME", tz="Europe/Berlin")
    series, _ = read_frame(pd.DataFrame({"a": np.arange(30.0)}, index=index))
    again, _ = memory.restore(*memory.state(series))
    same(again[0], series[0])
