"""Frequencies: names, seasons and calendars; frequencies read off stamps, and stamps continued."""

from __future__ import annotations

import datetime
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scidiffusion.errors import ConfigError, DataError
from scidiffusion.timeseries.frequency import (
    calendar_cycles,
    calendar_features,
    normalise_freq,
    periods_of,
    quiet_business_days,
    seasons,
    split_freq,
    to_offset_alias,
)
from scidiffusion.timeseries.stamps import StampStyle, infer_freq

pytestmark = pytest.mark.filterwarnings("error::FutureWarning")

# Alias of stamps -> canonical frequency.
STAMPED = {
    "ns": "ns", "ms": "ms", "s": "s", "10s": "10s", "min": "min", "5min": "5min",
    "15min": "15min", "h": "h", "2h": "2h", "6h": "6h", "D": "D", "2D": "2D", "7D": "W-SAT",
    "B": "B", "W": "W-SUN", "W-MON": "W-MON", "2W-WED": "2W-WED", "MS": "M", "ME": "M",
    "BMS": "M", "BME": "M", "2ME": "2M", "2MS": "2M", "QS": "Q-DEC", "QE": "Q-DEC",
    "QS-FEB": "Q-OCT", "QE-FEB": "Q-NOV", "BQS": "Q-DEC", "BQE": "Q-DEC", "YS": "Y-DEC",
    "YE": "Y-DEC", "YS-APR": "Y-MAR", "YE-JUN": "Y-JUN", "BYS": "Y-DEC", "BYE": "Y-DEC",
}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("H", "h"), ("hourly", "h"), ("60min", "h"), ("1.5h", "90min"), ("30T", "30min"),
        ("24h", "D"), ("day", "D"), ("b", "B"), ("W", "W-SUN"), ("w-mon", "W-MON"),
        ("M", "M"), ("MS", "M"), ("BME", "M"), ("Q", "Q-DEC"), ("QS-FEB", "Q-OCT"),
        ("Q-SEP", "Q-SEP"), ("A", "Y-DEC"), ("AS-APR", "Y-MAR"), ("3M", "3M"), ("ms", "ms"),
        ("2000ms", "2s"), (" 2 h ", "2h"),
    ],
)  # fmt: skip
def test_every_name_has_one_canonical_form(given, canonical):
    assert normalise_freq(given) == canonical
    assert normalise_freq(canonical) == canonical
    with quiet_business_days():
        pd.Period("2024-01-03", freq=canonical)


@pytest.mark.parametrize(
    ("freq", "message"),
    [
        ("fortnight", "'fortnight' is not known"),
        ("m", 'say "M" or "min"'),
        ("0h", "positive multiple"),
        ("-2D", 'such as "2D"'),
        ("1.5M", "cannot be split"),
        ("W-FEB", "not known"),
        ("h-MON", "not known"),
        ("0.3ns", "not known"),
        (None, "None is not known"),
        ("", "not known"),
    ],
)
def test_impossible_names_say_what_is_possible(freq, message):
    with pytest.raises(ConfigError, match=message):
        normalise_freq(freq)


@given(st.integers(1, 99), st.sampled_from(["min", "h", "D", "B", "W-TUE", "M", "Q-DEC", "Y-MAR"]))
def test_multiples_split_and_join(number, unit):
    found, single = split_freq(f"{number}{unit}")
    assert normalise_freq(f"{found}{single}") == normalise_freq(f"{number}{unit}")
    with quiet_business_days():
        first = pd.Period("2000-01-03", freq=f"{number}{unit}")
        again = pd.Period("2000-01-03", freq=normalise_freq(f"{number}{unit}"))
        assert (first + 1).start_time - first.start_time == (
            again + 1
        ).start_time - again.start_time


@pytest.mark.parametrize("alias", STAMPED)
def test_offset_aliases_are_those_of_pandas(alias):
    at = "start" if "S" in alias else "end"
    with quiet_business_days():
        made = pd.date_range("2000-01-01", periods=5, freq=to_offset_alias(STAMPED[alias], at))
        if not alias.lstrip("0123456789").startswith("B") and alias != "7D":
            assert made.equals(pd.date_range("2000-01-01", periods=5, freq=alias))


@pytest.mark.parametrize(
    ("freq", "expected"),
    [
        ("s", (60, 3600)), ("min", (1440,)), ("5min", (288, 2016)), ("h", (24, 168)),
        ("D", (7,)), ("B", (5,)), ("W", (52,)), ("7D", (52,)), ("M", (12,)), ("Q", (4,)),
        ("Y", ()), ("5h", ()), ("3M", (4,)), ("12M", ()), ("ns", ()),
    ],
)  # fmt: skip
def test_seasons_are_whole_days_weeks_and_years(freq, expected):
    assert seasons(freq) == expected


@pytest.mark.parametrize("freq", sorted(set(STAMPED.values())))
def test_calendar_features_lie_on_circles_and_repeat(freq):
    index = periods_of(np.arange(20000, 20400) * split_freq(freq)[0], freq)
    features = calendar_features(index)
    assert features.shape == (2 * len(calendar_cycles(freq)), 400)
    assert features.dtype == np.float32
    radius = features[0::2] ** 2 + features[1::2] ** 2
    np.testing.assert_allclose(radius, 1, atol=1e-6)


def test_calendar_features_are_shares_of_the_cycles():
    index = pd.period_range("2024-01-01 00:00", periods=24 * 366, freq="h")
    day_sin, day_cos, week_sin, week_cos, year_sin, year_cos = calendar_features(index)
    hours = np.arange(len(index))
    np.testing.assert_allclose(day_sin, np.sin(2 * np.pi * hours / 24), atol=1e-5)
    np.testing.assert_allclose(day_cos, np.cos(2 * np.pi * hours / 24), atol=1e-5)
    # 2024 began on a Monday, and is a leap year.
    np.testing.assert_allclose(week_sin, np.sin(2 * np.pi * hours / 168), atol=1e-4)
    np.testing.assert_allclose(week_cos, np.cos(2 * np.pi * hours / 168), atol=1e-4)
    np.testing.assert_allclose(year_sin, np.sin(2 * np.pi * hours / (24 * 366)), atol=1e-4)
    np.testing.assert_allclose(year_cos, np.cos(2 * np.pi * hours / (24 * 366)), atol=1e-4)
    months = calendar_features(pd.period_range("2000-01", periods=24, freq="M"))
    assert months.shape == (2, 24)
    np.testing.assert_allclose(months[:, :12], months[:, 12:], atol=0.02)


# -- stamps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin", "Australia/Lord_Howe"])
@pytest.mark.parametrize("alias", STAMPED)
def test_stamps_go_on_as_they_began(alias, zone):
    """Frequency and style are read off stamps, and the periods that follow are stamped alike.

    Half a year that begins in summer has a change of clocks in every zone that has one.
    """
    whole = pd.date_range("2016-08-01", periods=160, freq=alias, tz=zone)
    index, after = whole[:150], whole[150:]
    freq = infer_freq(index, "a")
    assert freq == ("W-MON" if alias == "7D" else STAMPED[alias])
    style = StampStyle.of(index, freq)
    periods = style.periods(index, freq, "a")
    with quiet_business_days():
        steps = np.diff(periods.asi8) // split_freq(freq)[0]
        following = pd.period_range(periods[-1] + 1, periods=10, freq=freq)
    assert (steps == 1).all()
    back = style.stamps(following)
    assert back.equals(after)
    assert back.tz == after.tz or str(back.tz) == str(after.tz)


@pytest.mark.parametrize("alias", ["D", "B", "W-FRI", "MS", "ME", "BME", "QE", "YE"])
def test_a_time_of_day_is_kept(alias):
    whole = pd.date_range("2016-08-01", periods=60, freq=alias) + pd.Timedelta("16h30min")
    freq = infer_freq(whole[:50], "a")
    assert freq == STAMPED.get(alias, alias)
    style = StampStyle.of(whole[:50], freq)
    periods = style.periods(whole[:50], freq, "a")
    with quiet_business_days():
        following = pd.period_range(periods[-1] + 1, periods=10, freq=freq)
    assert style.stamps(following).equals(whole[50:])


def test_the_day_of_the_month_is_kept():
    whole = pd.date_range("2020-01-01", periods=40, freq="MS") + pd.Timedelta("14D")
    style = StampStyle.of(whole[:30], infer_freq(whole[:30], "a"))
    periods = style.periods(whole[:30], "M", "a")
    following = pd.period_range(periods[-1] + 1, periods=10, freq="M")
    assert style.stamps(following).equals(whole[30:])


def test_a_day_that_begins_at_one_o_clock_is_a_day():
    """In Sao Paulo clocks went forward at midnight."""
    days = pd.date_range("2016-10-01", periods=40, freq="D")
    local = days.tz_localize("America/Sao_Paulo", nonexistent="shift_forward")
    assert local[15].hour == 1
    assert infer_freq(local[:30], "a") == "D"
    style = StampStyle.of(local[:10], "D")
    periods = style.periods(local[:10], "D", "a")
    following = pd.period_range(periods[-1] + 1, periods=30, freq="D")
    assert list(style.stamps(following)) == list(local[10:])


@pytest.mark.parametrize("alias", ["h", "D", "B", "W-MON", "ME", "BMS", "QS", "YS"])
@given(seed=st.integers(0, 1000))
def test_missing_and_unsorted_rows_do_not_hide_the_frequency(alias, seed):
    rng = np.random.default_rng(seed)
    whole = pd.date_range("2016-08-01", periods=100, freq=alias)
    kept = whole[rng.random(100) < 0.8]
    expected = infer_freq(whole, "a")
    assert infer_freq(kept[rng.permutation(len(kept))], "a") == expected


def test_a_single_row_keeps_the_style_of_the_fit():
    fitted = StampStyle.of(pd.date_range("2020-01-31", periods=40, freq="ME"), "M")
    business = StampStyle.of(pd.date_range("2020-01-31", periods=40, freq="BME"), "M")
    assert fitted.anchor == "end"
    assert business.anchor == "business end"
    one = pd.DatetimeIndex(["2024-01-31"])  # a Wednesday: the last day and the last working day
    assert StampStyle.of(one, "M", fitted).anchor == "end"
    assert StampStyle.of(one, "M", business).anchor == "business end"


def test_periods_come_back_as_periods():
    index = pd.period_range("1959Q1", periods=20, freq="Q")
    style = StampStyle.of(index, "Q-DEC")
    assert style.anchor == "period"
    assert infer_freq(index, "a") == "Q-DEC"
    assert style.stamps(style.periods(index, "Q-DEC", "a")).equals(index)
    minutes = pd.period_range("2024-01-01", periods=5, freq="60min")
    hours = style.periods(minutes, "h", "a")
    assert hours.equals(pd.period_range("2024-01-01", periods=5, freq="h"))
    with pytest.raises(DataError, match=r"'a' has periods of 'D' from 2024.*asfreq"):
        style.periods(pd.period_range("2024", periods=3, freq="D"), "h", "a")


@pytest.mark.parametrize(
    ("stamps", "message"),
    [
        (["2024-01-01", "2024-01-02"], "'a' has 2 time stamps, too few.*give freq"),
        (["2024-01-01"] * 2 + ["2024-01-02"], "'a' has two values at 2024-01-01"),
        (
            ["2024-01-01 00:00", "2024-01-01 01:00", "2024-01-01 02:00", "2024-01-01 02:25"],
            "'a' is irregular at 2024-01-01 02:25:00 .after 2024-01-01 02:00:00.*resample.'h'",
        ),
        (
            ["2024-01-31", "2024-02-29", "2024-03-31", "2024-05-03", "2024-05-31"],
            "'a' is irregular at 2024-05-03",
        ),
    ],
)
def test_irregular_stamps_are_named(stamps, message):
    with pytest.raises(DataError, match=message):
        infer_freq(pd.DatetimeIndex(stamps), "a")


def test_irregular_stamps_with_a_time_zone_are_shown_in_it():
    index = pd.date_range("2024-03-30", periods=60, freq="h", tz="Europe/Berlin")
    index = index.delete(40).insert(40, index[40] + pd.Timedelta("7min"))
    with pytest.raises(DataError, match=r"irregular at 2024-03-31 17:07:00\+02:00"):
        infer_freq(index, "a")


def test_stamps_that_share_a_period_or_lie_off_the_grid_are_named():
    style = StampStyle()
    twice = pd.DatetimeIndex(["2024-01-01", "2024-01-02", "2024-01-02"])
    with pytest.raises(DataError, match=r"'a' has two rows at 2024-01-02.*item_id="):
        style.periods(twice, "D", "a")
    with pytest.raises(DataError, match=r"2024-01-02 00:00:00 and 2024-01-02 12:00:00.*finer"):
        style.periods(twice[:2].append(pd.DatetimeIndex(["2024-01-02 12:00"])), "D", "a")
    odd = pd.DatetimeIndex(["2024-01-01 00:00", "2024-01-01 06:00", "2024-01-01 11:00"])
    with pytest.raises(DataError, match=r"irregular at 2024-01-01 11:00:00.*'6h' after"):
        style.periods(odd, "6h", "a")


def test_a_time_zone_without_a_name_is_refused():
    zone = datetime.timezone(datetime.timedelta(hours=1), "the office")
    index = pd.date_range("2024-01-01", periods=5, freq="h", tz=zone)
    with pytest.raises(DataError, match="tz_convert"):
        StampStyle.of(index, "h")
    fixed = pd.DatetimeIndex(["2024-01-01T00:00+05:30", "2024-01-01T01:00+05:30"])
    style = StampStyle.of(fixed, "h")
    assert list(style.stamps(style.periods(fixed, "h", "a"))) == list(fixed)


def test_business_days_are_counted_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        index = periods_of(np.arange(10), "B")
        assert calendar_features(index).shape == (6, 10)
