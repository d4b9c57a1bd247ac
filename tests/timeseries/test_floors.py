"""Floors: their laws are those of the processes they assume."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scidiffusion.errors import ConfigError, DataError
from scidiffusion.timeseries.floors import (
    FLOORS,
    gaussian_walk,
    seasonal_block_bootstrap,
    seasonal_naive_gaussian,
)
from scidiffusion.timeseries.series import Series

START = pd.Period("2020-01-01 00:00", freq="h")
SEASONAL = ("seasonal_naive_gaussian", "seasonal_block_bootstrap")


def series(target, **options):
    return Series(np.asarray(target, dtype=float), START, **options)


def walk(steps=400, dim=3, seed=0):
    rng = np.random.default_rng(seed)
    mixing = np.array([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [-0.5, 0.1, 2.0]])[:dim, :dim]
    return np.cumsum(mixing @ rng.standard_normal((dim, steps)), axis=1) + 20


def periodic(season, seasons=8, dim=2):
    pattern = np.random.default_rng(0).normal(size=(dim, season))
    return np.tile(pattern, seasons)


def moment(values):
    """Second moment of the steps along the last axis."""
    steps = np.diff(values)
    return steps @ steps.T / steps.shape[1]


@pytest.mark.parametrize("name", FLOORS)
def test_every_floor_is_seeded_and_looks_at_the_past_alone(name):
    item = series(walk(120))
    draw = FLOORS[name](item, 10, 7, season=6, seed=3)
    assert draw.shape == (7, 10, 3)
    assert draw.dtype == np.float64
    assert np.isfinite(draw).all()
    assert np.array_equal(draw, FLOORS[name](item, 10, 7, season=6, seed=3))
    assert not np.array_equal(draw, FLOORS[name](item, 10, 7, season=6, seed=4))
    assert np.isfinite(item.target).all()


@pytest.mark.parametrize("name", FLOORS)
def test_every_floor_moves_and_scales_with_the_data(name):
    values = walk(120)
    values[0, 50:60] = np.nan
    values[1, -2:] = np.nan
    draw = FLOORS[name](series(values), 10, 5, season=6, seed=3)
    other = FLOORS[name](series(5 * values - 7), 10, 5, season=6, seed=3)
    np.testing.assert_allclose(other, 5 * draw - 7, rtol=1e-9)


@pytest.mark.parametrize("name", FLOORS)
def test_no_floor_fails_on_a_short_or_broken_past(name):
    rng = np.random.default_rng(0)
    for length in (1, 2, 3, 5, 6, 7, 11, 12, 13, 30):
        values = rng.normal(size=(2, length))
        if length > 3:
            values[:, : length // 3] = np.nan
            values[0, -2:] = np.nan
        draw = FLOORS[name](series(values), 9, 4, season=6, seed=0)
        assert draw.shape == (4, 9, 2)
        assert np.isfinite(draw).all()
        if length > 6:  # of six steps one series has but two
            assert (draw[:, -1].std(axis=0) > 0).all()


def test_a_gaussian_walk_has_the_covariance_of_the_steps_times_the_steps_ahead():
    values = walk()
    draw = gaussian_walk(series(values), 12, 20_000, seed=1)
    expected = moment(values)
    for step in (0, 3, 11):
        np.testing.assert_allclose(draw[:, step].mean(axis=0), values[:, -1], atol=0.2)
        found = np.cov(draw[:, step].T) / (step + 1)
        np.testing.assert_allclose(found, expected, atol=0.03 * expected.max())
    # Steps are independent: the covariance of two times is the variance of the earlier one.
    early, late = draw[:, 3, 0], draw[:, 11, 0]
    assert np.cov(early, late)[0, 1] == pytest.approx(4 * expected[0, 0], rel=0.05)


def test_a_gaussian_walk_looks_at_the_last_steps():
    calm = np.cumsum(np.random.default_rng(0).normal(size=(1, 600)), axis=1)
    calm[:, :99] *= 50
    assert gaussian_walk(series(calm), 1, 4000)[..., 0].std() < 1.2
    wide = gaussian_walk(series(calm), 1, 4000, window=600)[..., 0].std()
    assert wide > 10
    root = np.sqrt(np.square(np.diff(calm[0])[-50:]).mean())
    assert gaussian_walk(series(calm), 1, 4000, window=50).std() == pytest.approx(root, rel=0.05)


def test_a_gaussian_walk_of_more_series_than_steps_keeps_their_dependence():
    rng = np.random.default_rng(0)
    values = np.cumsum(rng.normal(size=(1, 12)) + 0.3 * rng.normal(size=(40, 12)), axis=1)
    draw = gaussian_walk(series(values), 1, 20_000)[:, 0]
    expected = moment(values)
    np.testing.assert_allclose(np.cov(draw.T), expected, atol=0.05 * expected.max())


def test_a_walk_goes_on_unseen_where_the_last_values_are_missing():
    values = walk()
    values[0, -3:] = np.nan
    values[2, -1:] = np.nan
    last = np.array([values[0, -4], values[1, -1], values[2, -2]])
    draw = gaussian_walk(series(values), 2, 40_000)
    one, two, three = 5, 2, 3  # steps since the last observed value, at the second step ahead
    found = np.cov(draw[:, 1].T)
    steps = np.diff(values)
    size = np.sqrt(np.nanmean(np.square(steps), axis=1))
    np.testing.assert_allclose(draw[:, 1].mean(axis=0), last, atol=0.1)
    np.testing.assert_allclose(
        np.sqrt(np.diag(found)), size * np.sqrt([one, two, three]), rtol=0.02
    )
    # Two series move together while both are unseen.
    joint = np.nanmean(steps[0] * steps[2])
    assert found[0, 2] == pytest.approx(joint * three, rel=0.1)


def test_gaps_in_between_do_not_change_the_law():
    values = walk(2000)
    whole = moment(values)
    values[:, 100:103] = np.nan
    values[1, 500:700] = np.nan
    found = np.cov(gaussian_walk(series(values), 1, 20_000, window=2000)[:, 0].T)
    np.testing.assert_allclose(found, whole, atol=0.1 * whole.max())


@pytest.mark.parametrize("name", SEASONAL)
@pytest.mark.parametrize("season", [1, 4, 7])
def test_periodic_series_are_forecast_exactly(name, season):
    values = periodic(season)
    draw = FLOORS[name](series(values[:, :-2]), 2 * season + 3, 5, season=season)
    whole = np.tile(values, 3)[:, values.shape[1] - 2 :]
    for path in draw:
        np.testing.assert_allclose(path.T, whole[:, : 2 * season + 3], atol=1e-12)


@pytest.mark.parametrize("name", SEASONAL)
def test_periodic_series_are_forecast_exactly_across_gaps(name):
    values = periodic(6, seasons=10)
    gone = values.copy()
    gone[0, -9:-2] = np.nan  # more than a whole season of one series
    gone[:, 20] = np.nan
    gone[1, -1] = np.nan
    draw = FLOORS[name](series(gone), 13, 5, season=6)
    for path in draw:
        np.testing.assert_allclose(path.T, np.tile(values, 2)[:, 60:73], atol=1e-12)


def test_a_phase_that_was_never_seen_takes_the_last_value():
    values = periodic(4, seasons=6, dim=1)
    values[0, 1::4] = np.nan
    draw = seasonal_naive_gaussian(series(values), 4, 2, season=4)
    assert draw[:, 1, 0].tolist() == [values[0, -1]] * 2
    assert draw[0, [0, 2, 3], 0].tolist() == values[0, [-4, -2, -1]].tolist()


@pytest.mark.parametrize("name", SEASONAL)
def test_a_past_without_two_seasonal_differences_is_taken_as_a_walk(name):
    values = walk(30)
    values[1, 8:] = np.where(np.arange(22) % 8 < 6, np.nan, values[1, 8:])
    values[1, :8] = np.nan  # two of eight steps are known, and never one of them a step of 5 after
    draw = FLOORS[name](series(values), 7, 4, season=5, seed=2)
    np.testing.assert_array_equal(draw, FLOORS[name](series(values), 7, 4, season=1, seed=2))
    assert not np.array_equal(draw[0, :5], draw[0, :1].repeat(5, axis=0))


def seasonal_walk(season, seasons, seed=0):
    """Each phase walks from season to season, two series with correlation 0.8."""
    rng = np.random.default_rng(seed)
    steps = rng.standard_normal((2, seasons, season))
    steps[1] = 0.8 * steps[0] + 0.6 * steps[1]
    return np.cumsum(steps, axis=1).reshape(2, -1)


def test_seasonal_errors_grow_with_the_seasons_ahead():
    season = 5
    values = seasonal_walk(season, 100)
    draw = seasonal_naive_gaussian(series(values), 15, 20_000, season=season)
    errors = values[:, season:] - values[:, :-season]
    expected = errors @ errors.T / errors.shape[1]
    for step in (0, 4, 5, 14):
        ahead = step // season + 1
        np.testing.assert_allclose(np.cov(draw[:, step].T), ahead * expected, rtol=0.06)
    base = np.tile(values[:, -season:], 3)
    np.testing.assert_allclose(draw.mean(axis=0), base.T, atol=0.06)
    # One season ahead of another shares its error; two phases share none.
    assert np.corrcoef(draw[:, 0, 0], draw[:, 5, 0])[0, 1] == pytest.approx(0.5**0.5, abs=0.03)
    assert abs(np.corrcoef(draw[:, 0, 0], draw[:, 1, 0])[0, 1]) < 0.03


def test_an_old_value_has_a_spread_of_its_age():
    season = 5
    values = seasonal_walk(season, 100)
    fresh = seasonal_naive_gaussian(series(values), 5, 20_000, season=season)
    values[0, -2 * season :] = np.nan
    old = seasonal_naive_gaussian(series(values), 5, 20_000, season=season)
    ratio = old.std(axis=0) / fresh.std(axis=0)
    np.testing.assert_allclose(ratio[:, 0], np.sqrt(3), rtol=0.06)
    np.testing.assert_allclose(ratio[:, 1], 1, rtol=0.06)


def test_blocks_keep_dependence_across_series_and_time():
    season, steps = 4, 4000
    rng = np.random.default_rng(0)
    # Seasonal differences that are autocorrelated, and common to two series.
    noise = rng.standard_normal(steps)
    errors = np.zeros(steps)
    for t in range(1, steps):
        errors[t] = 0.9 * errors[t - 1] + noise[t]
    values = np.zeros((2, steps))
    for t in range(season, steps):
        values[:, t] = values[:, t - season] + np.array([errors[t], -2 * errors[t]])
    item = series(values)
    draw = seasonal_block_bootstrap(item, 4, 8000, season=season)
    moves = draw - values[:, -season:].T
    np.testing.assert_allclose(moves[..., 1], -2 * moves[..., 0], atol=1e-6)
    found = np.corrcoef(moves[:, 0, 0], moves[:, 1, 0])[0, 1]
    assert found == pytest.approx(0.9, abs=0.03)
    rival = seasonal_naive_gaussian(item, 4, 8000, season=season) - values[:, -season:].T
    assert abs(np.corrcoef(rival[:, 0, 0], rival[:, 1, 0])[0, 1]) < 0.05


def test_blocks_begin_in_phase_so_that_quiet_hours_stay_quiet():
    season = 6
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1, 40 * season + 2))
    values[0, np.arange(values.shape[1]) % season < 3] = 0.0
    draw = seasonal_block_bootstrap(series(values), 14, 200, season=season)
    phase = np.arange(values.shape[1], values.shape[1] + 14) % season
    assert (draw[:, phase < 3] == 0).all()
    assert (draw[:, phase >= 3].std(axis=0) > 0.5).all()


def test_every_path_of_a_long_past_is_a_piece_of_it():
    values = walk(200)
    draw = seasonal_block_bootstrap(series(values), 5, 50, season=1)
    steps = np.diff(values).T
    pieces = np.lib.stride_tricks.sliding_window_view(steps, 5, axis=0).transpose(0, 2, 1)
    moves = np.diff(draw, axis=1, prepend=np.broadcast_to(values[:, -1], (50, 1, 3)))
    distance = np.abs(moves[:, None] - pieces).max(axis=(2, 3)).min(axis=1)
    assert distance.max() < 1e-9


def test_blocks_with_a_gap_are_left_out_where_enough_remain():
    values = walk(300)
    values[0, 100:110] = np.nan
    draw = seasonal_block_bootstrap(series(values), 3, 500, season=1)
    steps = np.diff(values).T
    pieces = np.lib.stride_tricks.sliding_window_view(steps, 3, axis=0).transpose(0, 2, 1)
    pieces = pieces[np.isfinite(pieces).all(axis=(1, 2))]
    moves = np.diff(draw, axis=1, prepend=np.broadcast_to(values[:, -1], (500, 1, 3)))
    distance = np.abs(moves[:, None] - pieces).max(axis=(2, 3)).min(axis=1)
    assert distance.max() < 1e-9


def test_gaps_are_filled_where_too_few_blocks_remain():
    values = walk(300)
    values[0, ::4] = np.nan  # no block of four steps is whole
    draw = seasonal_block_bootstrap(series(values), 4, 4000, season=1)
    steps = np.diff(values)
    moves = np.diff(draw, axis=1)
    size = np.sqrt(np.nanmean(np.square(steps), axis=1))
    np.testing.assert_allclose(np.sqrt(np.square(moves).mean(axis=(0, 1))), size, rtol=0.05)
    assert np.isin(np.round(moves[..., 0], 9), np.round(steps[0], 9)).all()
    # The series without gaps keep what belongs together.
    pairs = {tuple(pair) for pair in np.round(steps[1:].T, 9)}
    assert {tuple(pair) for pair in np.round(moves[..., 1:].reshape(-1, 2), 9)} <= pairs


@pytest.mark.parametrize("length", [7, 9, 12, 18, 30, 60])
def test_a_short_past_still_gives_different_paths(length):
    values = np.random.default_rng(0).normal(size=(1, length))
    draw = seasonal_block_bootstrap(series(values), 6, 200, season=6)
    assert len(np.unique(draw[:, 0, 0])) >= 3


@pytest.mark.parametrize("name", FLOORS)
def test_what_cannot_be_is_named(name):
    item = series([[1.0, 2.0], [np.nan, np.nan]], item_id="plant", names=("load", "wind"))
    with pytest.raises(DataError, match="'plant': wind has no observed value"):
        FLOORS[name](item, 2, 2, season=1)
    for wrong in ((0, 2, 1, "horizon"), (2, 0, 1, "num_samples"), (2, 2, 0, "season")):
        with pytest.raises(ConfigError, match=wrong[3]):
            FLOORS[name](series([[1.0, 2.0]]), wrong[0], wrong[1], season=wrong[2])
    with pytest.raises(ConfigError, match="window"):
        gaussian_walk(series([[1.0, 2.0]]), 2, 2, window=0)
