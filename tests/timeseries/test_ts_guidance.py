"""Guidance: under the floor the exact conditional law; facts and bounds hold; units are right."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from scidiffusion.errors import ConditionError
from scidiffusion.timeseries.series import Series, SeriesSet
from scidiffusion.timeseries.window_model import WindowModel
from scidiffusion.timeseries.wishes import Wishes

START = pd.Period("2020-01-01", freq="D")
H = 5
TINY = {
    "width": 32,
    "blocks": 1,
    "encoder_blocks": 1,
    "max_steps": 2,
    "validate_every": 1,
    "precision": "float32",
    "device": "cpu",
}


def series_of(scales, levels, steps=300):
    dim = len(scales)
    rng = np.random.default_rng(0)
    mixing = np.linalg.cholesky(0.6 * np.ones((dim, dim)) + 0.4 * np.eye(dim))
    value = mixing @ rng.standard_normal((dim, steps)).cumsum(1)
    value = value * np.asarray(scales)[:, None] + np.asarray(levels)[:, None]
    return SeriesSet([Series(value, START)], "D")


def silent_model(series):
    model = WindowModel(H, "D", TINY).fit(series, seed=0)
    with torch.no_grad():
        for value in model.denoiser.network.output.parameters():
            value.zero_()
    model.denoiser.shrinkage.fill_(1.0)
    # The law is that of the floor as it was fitted.
    model.denoiser.temperature.fill_(1.0)
    return model


@pytest.fixture(scope="module")
def floor():
    """The floor of three series of different units."""
    series = series_of((1.0, 1e3, 1e-4), (10.0, -5e4, 2.0))
    return silent_model(series), series


@pytest.fixture(scope="module")
def single():
    """The floor of one series."""
    series = series_of((2.0,), (100.0,))
    return silent_model(series), series


def law_of(model, series):
    """Mean (D H,) and covariance of the floor's forecast in the data's units, float64."""
    item = series[0].tail(model.back + 512)
    bank = model.bank_of(SeriesSet([item], "D"))
    window = model.window(bank, torch.tensor([0]), bank.length)
    frame = model.denoiser.forecast_context(window).frame
    eye = torch.eye(model.dim * H).reshape(1, -1, model.dim, H)
    dense = frame.law.covariance(eye)[0].flatten(1).double().numpy()
    unit = (frame.scale[0].double() * bank.spread[0][:, None]).expand(-1, H).flatten().numpy()
    mean = bank.restore(torch.tensor([0]), frame.base)[0].flatten().numpy()
    return mean, dense * np.outer(unit, unit)


def draw(model, series, wishes, count=4000, **options):
    paths = model.forecast(list(series), num_samples=count, wishes=wishes, **options)[0]
    return paths.transpose(0, 2, 1).reshape(count, -1)  # (S, D H)


def conditioned(mean, covariance, matrix, value):
    gain = covariance @ matrix.T @ np.linalg.inv(matrix @ covariance @ matrix.T)
    return mean + gain @ (value - matrix @ mean), covariance - gain @ matrix @ covariance


def assert_law(rows, mean, covariance, sd):
    count = len(rows)
    np.testing.assert_array_less(np.abs(rows.mean(0) - mean) / sd, 5 / count**0.5)
    error = (np.cov(rows.T) - covariance) / np.outer(sd, sd)
    assert np.abs(error).max() < 6 * 2**0.5 / count**0.5


def test_without_wishes_forecasts_are_the_floor(floor):
    model, series = floor
    mean, covariance = law_of(model, series)
    assert_law(draw(model, series, None), mean, covariance, np.sqrt(np.diag(covariance)))
    # Wishes that wish for nothing change nothing.
    plain, wished = (draw(model, series, wish, count=50) for wish in (None, Wishes()))
    np.testing.assert_allclose(wished, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [2, 10])
def test_known_values_give_the_conditional_gaussian(floor, steps):
    model, series = floor
    mean, covariance = law_of(model, series)
    sd = np.sqrt(np.diag(covariance))
    known = np.full((3, H), np.nan)
    known[0, 2] = mean[2] + 1.5 * sd[2]
    known[1, 4] = mean[H + 4] - 2.0 * sd[H + 4]
    place = np.flatnonzero(np.isfinite(known.reshape(-1)))
    rows = draw(model, series, Wishes(known=known.T), num_steps=steps)
    matrix = np.eye(3 * H)[place]
    expected, left = conditioned(mean, covariance, matrix, known.reshape(-1)[place])
    assert_law(rows, expected, left, sd)
    # Known values hold to the last digit, and the condition matters elsewhere.
    assert (rows[:, place] == known.reshape(-1)[place]).all()
    assert np.abs((expected - mean) / sd)[[0, 1, 3]].max() > 0.3


def test_totals_give_the_conditional_gaussian(floor):
    model, series = floor
    mean, covariance = law_of(model, series)
    sd = np.sqrt(np.diag(covariance))
    first, second = np.zeros((H, 3)), np.zeros((H, 3))
    first[:, 0] = 1.0  # a total over time
    second[1] = (1.0, 1e-3, 1e4)  # a total over series of different units
    matrix = np.stack([weights.T.reshape(-1) for weights in (first, second)])
    spread = np.sqrt(np.diag(matrix @ covariance @ matrix.T))
    value = matrix @ mean + np.array([1.0, -1.5]) * spread
    totals = [(first, value[0]), (second, value[1])]
    rows = draw(model, series, Wishes(totals=totals))
    expected, left = conditioned(mean, covariance, matrix, value)
    assert_law(rows, expected, left, sd)
    np.testing.assert_allclose(rows @ matrix.T / value, 1, rtol=1e-9)


def test_one_series_takes_plain_lists(single):
    model, series = single
    mean, covariance = law_of(model, series)
    known = [np.nan, mean[1] + 1.0, np.nan, np.nan, np.nan]
    rows = draw(model, series, Wishes(known=known, totals=[([1.0] * H, mean.sum() + 2.0)]))
    matrix = np.stack([np.eye(H)[1], np.ones(H)])
    value = np.array([known[1], mean.sum() + 2.0])
    expected, left = conditioned(mean, covariance, matrix, value)
    assert_law(rows, expected, left, np.sqrt(np.diag(covariance)))
    assert (rows[:, 1] == known[1]).all()
    np.testing.assert_allclose(rows.sum(1), value[1], rtol=1e-9)


def test_bounds_hold_to_the_last_digit(floor):
    model, series = floor
    mean, covariance = law_of(model, series)
    sd = np.sqrt(np.diag(covariance))
    lower = (mean - 0.5 * sd).reshape(3, H).T
    upper = (mean + 0.7 * sd).reshape(3, H).T
    free = draw(model, series, None, count=200)
    rows = draw(model, series, Wishes(lower=lower, upper=upper), count=200)
    assert (free < lower.T.reshape(-1)).any()
    assert (rows >= lower.T.reshape(-1)).all()
    assert (rows <= upper.T.reshape(-1)).all()
    assert rows.std() > 0
    one = draw(model, series, Wishes(lower=-60000.0), count=20)
    assert (one >= -60000.0).all()


def test_totals_and_bounds_hold_together(single):
    model, series = single
    mean, covariance = law_of(model, series)
    sd = np.sqrt(np.diag(covariance))
    lower, upper = mean - 0.3 * sd, mean + 2.5 * sd
    total = mean.sum() + 0.5 * sd.sum()
    known = np.full(H, np.nan)
    known[3] = mean[3]
    wishes = Wishes(known=known, totals=[(np.ones(H), total)], lower=lower, upper=upper)
    rows = draw(model, series, wishes, count=300)
    assert (rows >= lower).all()
    assert (rows <= upper).all()
    assert (rows[:, 3] == mean[3]).all()
    np.testing.assert_allclose(rows.sum(1), total, rtol=1e-8)
    with pytest.raises(ConditionError, match="widen"):
        draw(model, series, Wishes(totals=[(np.ones(H), total)], upper=mean), count=5)


@pytest.mark.parametrize("side", [1, -1])
def test_a_wished_path_pulls_the_median_the_more_the_stronger(floor, side):
    model, series = floor
    mean, covariance = law_of(model, series)
    sd = np.sqrt(np.diag(covariance))
    target = (mean + side * 2 * sd).reshape(3, H).T
    shifts = []
    for strength in (0.0, 1.0, 4.0, 16.0):
        rows = draw(model, series, Wishes(target=target, strength=strength), count=600)
        shifts.append(side * float(np.median((rows - mean) / sd)))
    assert abs(shifts[0]) < 0.15
    assert shifts[0] < shifts[1] < shifts[2] < shifts[3] + 0.05
    assert shifts[2] > 0.3


def test_a_wished_path_becomes_about_the_quantile_that_was_named(floor):
    """A path wished for as the 90 % quantile has most of the forecast below it."""
    model, series = floor
    mean, _ = law_of(model, series)
    target = mean.reshape(3, H).T
    below = {
        level: float(
            (
                draw(model, series, Wishes(target=target, quantile=level, strength=8.0), count=600)
                < mean
            ).mean()
        )
        for level in (0.1, 0.5, 0.9)
    }
    assert below[0.1] < 0.35 < below[0.5] < 0.65 < below[0.9]
    assert below[0.5] == pytest.approx(0.5, abs=0.08)


def test_a_wish_for_some_steps_leaves_uncorrelated_ones_alone(floor):
    model, series = floor
    mean, _ = law_of(model, series)
    target = np.full((H, 3), np.nan)
    rows = draw(model, series, Wishes(target=target, strength=8.0), count=100)
    plain = draw(model, series, None, count=100)
    np.testing.assert_allclose(rows, plain, rtol=1e-5, atol=1e-5)
    assert len(mean) == rows.shape[1]


def test_wishes_hold_over_horizons_of_several_patches():
    """65 steps are drawn as 66: the last one is not the user's and no wish is about it."""
    series = series_of((2.0,), (100.0,), steps=420)
    model = WindowModel(65, "D", TINY).fit(series, seed=0)
    assert model.zone == 66
    known = np.full(65, np.nan)
    known[[3, 64]] = 90.0, 110.0
    wishes = Wishes(known=known, totals=[(np.ones(65), 6500.0)], lower=np.full(65, 40.0))
    paths = model.forecast(list(series), num_samples=9, wishes=wishes)[0][..., 0]
    assert paths.shape == (9, 65)
    assert (paths[:, [3, 64]] == [90.0, 110.0]).all()
    assert (paths >= 40).all()
    np.testing.assert_allclose(paths.sum(1), 6500, rtol=1e-8)


def test_wishes_differ_by_item_and_none_is_none(single):
    model, series = single
    item = series[0]
    known = [120.0, *[np.nan] * 4]
    one, two = model.forecast([item, item], num_samples=30, wishes=[Wishes(known=known), None])
    assert (one[:, 0, 0] == 120.0).all()
    assert two[:, 0, 0].std() > 0
    plain = model.forecast([item, item], num_samples=30)[1]
    np.testing.assert_allclose(two, plain, rtol=1e-5)
    with pytest.raises(ConditionError, match="1 wishes were given for 2"):
        model.forecast([item, item], num_samples=3, wishes=[None])


NAN = float("nan")


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        (Wishes(known=np.full((H + 1, 3), 1.0)), r"\(prediction_length, series\) = \(5, 3\)"),
        (Wishes(known=[1.0] * H), r"known must be .*\(5, 3\), got \(5,\)"),
        (Wishes(known=np.full((H, 3), np.inf)), "known must be finite"),
        (Wishes(known="high"), "known must be numbers"),
        (Wishes(lower=NAN), "lower must not be NaN"),
        (Wishes(lower=2.0, upper=1.0), "lower exceeds upper"),
        (Wishes(target=np.zeros((H, 2))), "target must be"),
        (Wishes(target=np.zeros((H, 3)), quantile=1.0), r"quantile must lie in \(0, 1\)"),
        (Wishes(totals=[(np.ones((H, 3)), NAN)]), "finite number"),
        (Wishes(totals=[(np.full((H, 3), NAN), 1.0)]), "weights of a total must not be NaN"),
        (Wishes(totals=[(np.ones((H, 3)), 1.0)] * 2), "repeat or contradict"),
        (
            Wishes(totals=[(np.ones((H, 3)), 1.0), (2 * np.ones((H, 3)), 3.0)]),
            "repeat or contradict",
        ),
        (
            Wishes(known=np.ones((H, 3)), totals=[(np.ones((H, 3)), 7.0)]),
            "repeat or contradict",
        ),
        (Wishes(totals=[(np.zeros((H, 3)), 1.0)]), "repeat or contradict"),
        (Wishes(known=np.ones((H, 3)), upper=0.5), "known value 1 of step 0 lies outside"),
    ],
)
def test_impossible_wishes_are_refused(floor, wishes, message):
    model, series = floor
    with pytest.raises(ConditionError, match=message):
        model.forecast(list(series), num_samples=2, wishes=wishes)


def test_facts_about_series_whose_units_differ_by_many_digits_are_not_taken_for_repetitions():
    series = series_of((1e-9, 1e9), (1e-7, 1e12), steps=200)
    model = silent_model(series)
    last = series[0].target[:, -1]
    known = np.full((H, 2), np.nan)
    known[0] = last
    paths = model.forecast(list(series), num_samples=10, wishes=Wishes(known=known))[0]
    assert (paths[:, 0] == last).all()
    assert np.isfinite(paths).all()
