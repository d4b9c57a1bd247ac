"""The floor of forecasts: what it must be on series whose best forecast is known."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from scidiffusion.timeseries.bank import SeriesBank, Standards
from scidiffusion.timeseries.floor import ForecastFloor, LagPlan, ridge_paths
from scidiffusion.timeseries.series import Series, SeriesSet

START = pd.Period("2020-01-01 00:00", freq="h")


def bank_of(target, horizon):
    series = SeriesSet([Series(np.asarray(target, dtype=float), START)], "h")
    return SeriesBank(
        series, Standards.of(series), lambda index: np.zeros((0, len(index)), np.float32), horizon
    )


def windows(bank, back, horizon, first, last, count=2000):
    end = torch.from_numpy(np.unique(np.linspace(first, last, count).astype(int)))
    return bank.windows(torch.zeros_like(end), end, back, horizon)


def fitted(target, horizon, seasons, *, rank=None):
    """A floor fitted on all but the last fifth of one item, and windows of that fifth."""
    bank, length = bank_of(target, horizon), np.shape(target)[1]
    lags = LagPlan.of(seasons, length // 3)
    back = max(lags.back, 2 * horizon)
    floor = ForecastFloor(bank.dim, horizon, lags, rank or bank.dim)
    middle = int(0.8 * length)
    train = windows(bank, back, horizon, back, middle - horizon)
    held = windows(bank, back, horizon, middle, length - horizon)
    floor.fit(train, held)
    return floor, held, bank, back


def ar(phi, steps, seed=0, dim=1):
    noise = np.random.default_rng(seed).standard_normal((dim, steps))
    value = np.empty_like(noise)
    value[:, 0] = noise[:, 0] / math.sqrt(1 - phi**2) if phi < 1 else 0
    for step in range(1, steps):
        value[:, step] = phi * value[:, step - 1] + noise[:, step]
    return value


def test_on_random_walks_a_ridge_is_rarely_chosen_and_then_does_little():
    chosen, excess = 0, []
    for seed in range(10):
        floor, held, bank, back = fitted(ar(1.0, 3000, seed), 5, (24,))
        chosen += math.isfinite(float(floor.ridge))
        apart = (floor.frame(held).base - held.value[..., back - 1 : back]) * float(bank.spread)
        # In shares of the variance of the errors, which is that of h steps of unit noise.
        excess.append(float((apart.pow(2).mean((0, 1)) / torch.arange(1, 6)).mean()))
    assert chosen <= 3
    assert max(excess) < 0.03


@pytest.mark.parametrize("seed", range(1, 4))
def test_on_a_random_walk_the_base_is_the_last_value(seed):
    walk = ar(1.0, 3000, seed)
    floor, held, _, back = fitted(walk, 5, (24,))
    assert float(floor.ridge) == math.inf
    assert int(floor.season) == 1
    frame = floor.frame(held)
    last = held.value[..., back - 1 : back]
    torch.testing.assert_close(frame.base, last.expand_as(frame.base))
    # The variance of the errors grows like the step.
    growth = (floor.law.std()[0, 0] / floor.law.std()[0, 0, 0]).numpy()
    np.testing.assert_allclose(growth, np.sqrt(np.arange(1, 6)), rtol=0.12)
    # Without a season the scale is that of differences: their variance is 1 a step.
    one = float((frame.scale * frame.std)[:, 0, 0].mean()) * float(_spread(walk))
    assert one == pytest.approx(1, rel=0.1)


def _spread(values):
    return np.asarray(values)[0].std()


def test_a_season_without_noise_is_repeated_exactly():
    pattern = np.random.default_rng(0).normal(size=(2, 12))
    target = np.tile(pattern, 40)
    floor, held, _, _ = fitted(target, 18, (12,))
    frame = floor.frame(held)
    assert int(floor.season) == 12
    truth = held.value[..., held.back :]
    torch.testing.assert_close(frame.base, truth, rtol=0, atol=1e-5)
    assert float((frame.std * frame.scale).max()) < 0.01


def test_on_an_autoregression_the_forecast_approaches_phi_to_the_h():
    phi, horizon = 0.8, 6
    floor, held, bank, back = fitted(ar(phi, 20000), horizon, (24, 168))
    assert math.isfinite(float(floor.ridge))
    frame = floor.frame(held)
    level, spread = float(bank.level), float(bank.spread)
    values = (held.value[:, 0] * spread + level).double()
    base = (frame.base[:, 0] * spread + level).double()
    last, truth = values[:, back - 1], values[:, back:]
    for h in range(horizon):
        weight = float((last * base[:, h]).sum() / (last * last).sum())
        assert weight == pytest.approx(phi ** (h + 1), abs=0.15)
        best = (truth[:, h] - phi ** (h + 1) * last).pow(2).mean()
        ours = (truth[:, h] - base[:, h]).pow(2).mean()
        naive = (truth[:, h] - last).pow(2).mean()
        assert float(ours) < 1.2 * float(best)
        # Most of what the last value lacks is made up for.
        assert float(ours - best) < 0.5 * float(naive - best)
    # Errors of several steps are as correlated as those of the process.
    law = floor.law.time.double() @ floor.law.time.double().T
    correlation = float(law[0, 1] / (law[0, 0] * law[1, 1]).sqrt())
    assert correlation == pytest.approx(phi / math.sqrt(1 + phi**2), abs=0.06)


def test_the_law_is_calibrated_on_held_out_windows():
    floor, held, _, _ = fitted(ar(0.8, 12000, seed=1, dim=2), 6, (24,))
    frame = floor.frame(held)
    white = frame.law.whiten(frame.residual(held.value[..., held.back :])[:, None])[:, 0]
    assert float(white.pow(2).mean()) == pytest.approx(1, abs=0.1)
    steps = white.pow(2).mean((0, 1))
    assert float((steps - 1).abs().max()) < 0.2


def test_forecasts_move_and_scale_with_every_series_on_its_own():
    rng = np.random.default_rng(2)
    target = ar(0.9, 900, dim=3) + np.sin(2 * np.pi * np.arange(900) / 24)
    floor, _, bank, back = fitted(target, 6, (24,))
    moved = target * np.array([1e-3, 1.0, 5e4])[:, None] + np.array([3.0, -1e4, 1e6])[:, None]
    other = bank_of(moved, 6)
    end = torch.tensor([500, 700, 900])
    item = torch.zeros(3, dtype=torch.long)
    ours = bank.restore(item, floor.frame(bank.windows(item, end, back, 6)).base)
    theirs = other.restore(item, floor.frame(other.windows(item, end, back, 6)).base)
    expected = ours * torch.tensor([1e-3, 1.0, 5e4])[:, None]
    expected = expected + torch.tensor([3.0, -1e4, 1e6])[:, None]
    np.testing.assert_allclose(theirs, expected, rtol=1e-5, atol=1e-5)
    # Also where the bank's own units differ: another stretch of the series sets level and spread.
    part = bank_of(target[:, 300:] + 100 * rng.normal(size=(3, 1)), 6)
    a = floor.frame(bank.windows(item, end, 190, 6))
    b = floor.frame(part.windows(item, end - 300, 190, 6))
    first = (bank.restore(item, a.base) - bank.level[item][..., None]).diff(dim=-1)
    second = (part.restore(item, b.base) - part.level[item][..., None]).diff(dim=-1)
    np.testing.assert_allclose(first, second, rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(
        a.scale * bank.spread[item][..., None], b.scale * part.spread[item][..., None], rtol=1e-4
    )


def test_missing_values_of_the_past_are_stepped_over():
    pattern = np.random.default_rng(0).normal(size=(1, 12))
    target = np.tile(pattern, 40)
    floor, _, _, back = fitted(target, 6, (12,))
    gone = target.copy()
    gone[:, 450:475] = np.nan  # two seasons and a bit before the origin
    bank = bank_of(gone, 6)
    item, end = torch.tensor([0]), torch.tensor([474])
    window = bank.windows(item, end, back, 6)
    truth = torch.from_numpy(target[None, :, 474:480])
    base = bank.restore(item, floor.frame(window).base)
    # The last value is found 24 steps back and the season before that.
    np.testing.assert_allclose(base, truth, atol=0.02)
    assert torch.isfinite(floor.frame(window).scale).all()
    # With nothing given at all there still is a finite forecast: the level of the series.
    nothing = bank_of(np.where(np.arange(480) < 200, target, np.nan), 6)
    frame = floor.frame(nothing.windows(item, torch.tensor([480]), back, 6))
    assert torch.isfinite(frame.base).all()
    assert torch.isfinite(frame.scale).all()
    assert (frame.scale > 0).all()


def test_values_from_the_origin_on_do_not_change_the_frame():
    floor, held, _, back = fitted(ar(0.9, 900, dim=2), 6, (24,))
    base = floor.frame(held)
    held.value[..., back:] = 1e6
    after = floor.frame(held)
    assert torch.equal(base.base, after.base)
    assert torch.equal(base.scale, after.scale)


def test_ridge_paths_solve_the_normal_equations():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 2, 3, 4, generator=generator)
    y = torch.randn(50, 2, 4, generator=generator)
    seen = torch.rand(50, 2, 4, generator=generator) < 0.8
    y = torch.where(seen, y, 1e9)
    (weight, freedom) = ridge_paths(x, y, seen, (0.1,))[0.1]
    degrees = []
    for h in range(4):
        rows = x[..., h][seen[..., h]].double()
        answer = y[..., h][seen[..., h]].double()
        system = rows.T @ rows + 0.1 * len(rows) * torch.eye(3, dtype=torch.float64)
        torch.testing.assert_close(
            weight[h].double(), torch.linalg.solve(system, rows.T @ answer), rtol=1e-4, atol=1e-5
        )
        degrees.append(float(torch.linalg.solve(system, rows.T @ rows).trace()))
    assert freedom == pytest.approx(np.mean(degrees), rel=1e-4)


def test_lag_plans_fit_into_the_history():
    for shortest in (1, 3, 10, 48, 100, 1000, 10_000):
        plan = LagPlan.of((24, 168), shortest)
        assert plan.back <= max(shortest, 1)
        assert all(count >= 1 for count in plan.counts)
    assert LagPlan.of((24, 168), 47).seasons == ()
    assert LagPlan.of((24, 168), 48).seasons == (24,)
    assert LagPlan.of((), 100).back == 1


def test_rare_events_do_not_blow_up_the_law():
    """Most windows of an intermittent series are flat; the first event after them is no unit."""
    rng = np.random.default_rng(0)
    target = ((rng.random(3000) < 0.05) * rng.poisson(5, 3000)).astype(float)[None]
    floor, held, _, _ = fitted(target, 5, (7,))
    frame = floor.frame(held)
    spread = (frame.std * frame.scale).pow(2).mean().sqrt()
    # In units of the series' own standard deviation.
    assert 0.5 < float(spread) < 4
