"""Densities: under the floor they are the Gaussian's own."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from scidiffusion.errors import ConfigError, DataError
from scidiffusion.timeseries.density import log_prob
from scidiffusion.timeseries.series import Series, SeriesSet
from scidiffusion.timeseries.window_model import WindowModel

START = pd.Period("2020-01-01", freq="D")
H = 4
TINY = {
    "width": 32,
    "blocks": 1,
    "encoder_blocks": 1,
    "max_steps": 2,
    "validate_every": 1,
    "precision": "float32",
    "device": "cpu",
}


def make(dim, seed=0):
    rng = np.random.default_rng(seed)
    mixing = np.linalg.cholesky(0.6 * np.ones((dim, dim)) + 0.4 * np.eye(dim))
    value = mixing @ rng.standard_normal((dim, 260)).cumsum(1)
    value = value * np.logspace(0, 4, dim)[:, None] + 1e3
    series = SeriesSet([Series(value, START, item_id="a")], "D")
    model = WindowModel(H, "D", TINY).fit(series, seed=0)
    return model, series


def silence(model):
    with torch.no_grad():
        for value in model.denoiser.network.output.parameters():
            value.zero_()
    model.denoiser.shrinkage.fill_(1.0)
    return model


def gaussian_log_density(model, item):
    """log N(y; mean, covariance) by dense linear algebra in the data's units."""
    past = item.cut(item.length - H).tail(model.back + 512)
    bank = model.bank_of(SeriesSet([past], "D"))
    frame = model.denoiser.forecast_context(
        model.window(bank, torch.tensor([0]), bank.length)
    ).frame
    eye = torch.eye(model.dim * H).reshape(1, -1, model.dim, H)
    dense = frame.law.covariance(eye)[0].flatten(1).double().numpy()
    unit = (frame.scale[0].double() * bank.spread[0][:, None]).expand(-1, H).flatten().numpy()
    mean = bank.restore(torch.tensor([0]), frame.base)[0].flatten().numpy()
    covariance = dense * np.outer(unit, unit)
    gap = item.target[:, -H:].reshape(-1) - mean
    # Units differ by many digits: scale before factoring.
    sd = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(sd, sd)
    score = (gap / sd) @ np.linalg.solve(correlation, gap / sd)
    log_det = np.linalg.slogdet(correlation)[1] + 2 * np.log(sd).sum()
    return -0.5 * (score + log_det + len(gap) * np.log(2 * np.pi))


@pytest.fixture(scope="module", params=[1, 3], ids=["one", "three"])
def floor(request):
    model, series = make(request.param)
    return silence(model), series


def cuts(series, lengths=(180, 221, 260)):
    return [series[0].cut(length) for length in lengths]


def test_the_ode_is_the_exact_gaussian_log_density(floor):
    model, series = floor
    items = cuts(series)
    exact = [gaussian_log_density(model, item) for item in items]
    ours = log_prob(model, items, method="ode", steps=16)
    np.testing.assert_allclose(ours, exact, rtol=0, atol=0.02 * model.dim * H)
    assert np.ptp(exact) > 0.1


def test_the_bound_is_below_and_near(floor):
    model, series = floor
    items = cuts(series)
    exact = np.array([gaussian_log_density(model, item) for item in items])
    bounds = np.array(
        [log_prob(model, items, method="elbo", steps=60, seed=seed) for seed in range(4)]
    )
    error = bounds.mean(0) - exact
    noise = bounds.std(0) / 4**0.5
    assert (error < 4 * noise + 0.02).all()
    assert np.abs(error).max() < 0.12 * model.dim * H + 3 * noise.max()


def test_an_outlier_scores_lower_the_farther_it_lies(floor):
    model, series = floor
    scores = []
    item = series[0]
    step = np.abs(np.diff(item.target, axis=1)).mean(1)
    for size in (0.0, 10.0, 100.0, 1e6):
        target = item.target.copy()
        target[:, -2] += size * step
        scores.append(float(log_prob(model, [Series(target, START)], method="ode", steps=8)[0]))
    assert scores[0] - 10 > scores[1]
    assert scores[1] - 100 > scores[2] > scores[3]


def test_densities_follow_the_change_of_units():
    model, series = make(1)
    item = series[0]
    scaled = Series(1e3 * item.target - 7.0, START)
    ours, theirs = log_prob(model, [item, scaled], steps=8)
    assert theirs == pytest.approx(ours - H * np.log(1e3), abs=0.05)


def test_a_trained_density_integrates_to_one():
    """One series, one step: the density over a grid of values sums to one."""
    rng = np.random.default_rng(0)
    value = rng.standard_normal((1, 300)).cumsum(1)
    series = SeriesSet([Series(value, START)], "D")
    model = WindowModel(1, "D", {**TINY, "max_steps": 60, "validate_every": 20}).fit(series)
    model.denoiser.shrinkage.fill_(1.0)
    past = value[:, :200]
    grid = past[0, -1] + np.linspace(-6, 6, 15)
    items = [Series(np.append(past, [[x]], axis=1), START) for x in grid]
    density = np.exp(log_prob(model, items, steps=16))
    assert density.sum() * (grid[1] - grid[0]) == pytest.approx(1, abs=0.02)


def test_the_same_seed_scores_alike_and_rows_do_not_depend_on_company():
    model, series = make(3)
    items = cuts(series)
    ours = log_prob(model, items, method="elbo", steps=5, seed=4)
    assert np.array_equal(ours, log_prob(model, items, method="elbo", steps=5, seed=4))
    assert not np.array_equal(ours, log_prob(model, items, method="elbo", steps=5, seed=5))
    assert log_prob(model, items[:1], method="elbo", steps=5, seed=4)[0] == ours[0]


def test_what_has_no_density_is_refused():
    model, series = make(1)
    gone = series[0].target.copy()
    gone[0, -2] = np.nan
    with pytest.raises(DataError, match="'b': a value of the last 4 steps is missing"):
        log_prob(model, [Series(gone, START, item_id="b")])
    with pytest.raises(DataError, match="'c' has 4 steps; a density needs more"):
        log_prob(model, [Series(gone[:, :4], START, item_id="c")])
    with pytest.raises(ConfigError, match="'ode' or 'elbo'"):
        log_prob(model, list(series), method="exact")
