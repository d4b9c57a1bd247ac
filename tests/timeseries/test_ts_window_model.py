"""The window model as a whole: shapes of data it must take, seeds, persistence, trust."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from scidiffusion.core.rng import KeyedNoise
from scidiffusion.errors import ConfigError, DataError
from scidiffusion.timeseries.drawing import walk
from scidiffusion.timeseries.fitting import fit_series, make_model
from scidiffusion.timeseries.floor import ForecastFloor
from scidiffusion.timeseries.kriging import KrigingFloor
from scidiffusion.timeseries.scoring_rules import fair_crps_cells
from scidiffusion.timeseries.series import Series, SeriesSet
from scidiffusion.timeseries.window_model import WindowModel

TINY = {
    "width": 32,
    "blocks": 1,
    "encoder_blocks": 1,
    "max_steps": 12,
    "validate_every": 4,
    "precision": "float32",
    "device": "cpu",
}
FREQ = {"h": "2020-01-01 00:00", "D": "2020-01-01", "M": "2000-01", "Y-DEC": "1900"}


def item(steps, dim=1, freq="D", seed=0, **options):
    rng = np.random.default_rng(seed)
    mixing = np.linalg.cholesky(0.5 * np.ones((dim, dim)) + 0.5 * np.eye(dim))
    value = np.sin(2 * np.pi * np.arange(steps) / 7) + mixing @ rng.standard_normal((dim, steps))
    start = pd.Period(FREQ[freq], freq=freq)
    return Series(20 + value, start, item_id=f"item {seed}", **options)


def fit(series, horizon, freq="D", **options):
    data = SeriesSet(series if isinstance(series, list) else [series], freq)
    return fit_series(data, horizon, options={**TINY, **options}, seed=0), data


def check(model, items, num_samples=6, dim=1, **options):
    paths = model.forecast(items, num_samples=num_samples, **options)
    assert len(paths) == len(items)
    for path in paths:
        assert path.shape == (num_samples, model.horizon, dim)
        assert path.dtype == np.float64
        assert np.isfinite(path).all()
    return paths


@pytest.fixture(scope="module")
def fitted():
    items = [item(120, seed=seed) for seed in range(4)]
    return fit(items, 6)


# --- shapes of data --------------------------------------------------------------------------


@pytest.mark.parametrize("horizon", [1, 6, 64, 65, 100])
def test_any_horizon(horizon):
    model, data = fit(item(420), horizon)
    check(model, list(data))
    # More than 64 steps are several patches, of which the last may reach beyond the horizon.
    assert model.zone % model.patch == 0
    assert horizon <= model.zone < horizon + model.patch
    assert model.patch <= 64
    if horizon == 65:
        assert model.zone == 66


@pytest.mark.parametrize(("freq", "steps"), [("Y-DEC", 40), ("M", 120), ("h", 500)])
def test_frequencies_with_and_without_seasons(freq, steps):
    model, data = fit(item(steps, freq=freq), 4, freq)
    assert bool(model.lags.seasons) == (freq != "Y-DEC")
    check(model, list(data))


def test_a_hundred_series_are_seen_in_random_parts_and_forecast_whole():
    model, data = fit(item(150, dim=100), 5, max_series=16, max_steps=2, batch_size=2)
    assert model.denoiser.floor.law.series.gain.shape == (16,)
    paths = check(model, list(data), dim=100, num_samples=30)[0]
    # Series that move together are drawn together.
    one = np.corrcoef(paths[:, 0].T)
    assert one[np.triu_indices(100, 1)].mean() > 0.3


# --- how much the floor is fitted on ---------------------------------------------------------


def fit_on_cells(monkeypatch, cells, seed=0, dim=2):
    """Fit with room for so many cells; return the model and the shapes that its floors saw."""
    shapes = []

    def spy_on(floor):
        def fit(self, train, *others, whole=floor.fit):
            shapes.append(tuple(train.value.shape))
            return whole(self, train, *others)

        return fit

    with monkeypatch.context() as patch:
        patch.setattr("scidiffusion.timeseries.window_model.FLOOR_CELLS", cells)
        for floor in (ForecastFloor, KrigingFloor):
            patch.setattr(floor, "fit", spy_on(floor))
        data = SeriesSet([item(700, dim=dim)], "D")
        model = fit_series(data, 6, options={**TINY, "max_steps": 1, "num_steps": 1}, seed=seed)
    return model, shapes


def floor_of(model):
    return dict(model.denoiser.floor.state_dict())


def test_the_floor_is_fitted_on_no_more_cells_than_there_is_room_for(monkeypatch):
    """Windows are counted by their cells: twice the series are half the windows."""
    counts = {}
    for dim in (2, 4):
        model, shapes = fit_on_cells(monkeypatch, 160_000, dim=dim)
        # The windows of the forecasts' floor are the longest that are held.
        forecasts, gaps = shapes
        assert forecasts[1:] == (dim, model.back + model.zone)
        assert np.prod(gaps) <= np.prod(forecasts) <= 160_000
        # Not by leaving most of the room unused: one window more would not fit.
        assert np.prod(forecasts) + np.prod(forecasts[1:]) > 160_000
        counts[dim] = forecasts[0]
    assert counts[4] == counts[2] // 2
    # However little room, and however many series: 64 windows, or there is no floor to speak of.
    assert fit_on_cells(monkeypatch, 1)[1][0][0] == 64


def test_the_floor_is_the_same_for_every_seed_where_all_windows_have_room(monkeypatch):
    """A choice of windows is what varies with the seed, as the constant's text says."""
    one, other = (floor_of(fit_on_cells(monkeypatch, 10**8, seed)[0]) for seed in (0, 1))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=0)
    few, fewer = (floor_of(fit_on_cells(monkeypatch, 1, seed)[0]) for seed in (0, 1))
    assert any(not torch.equal(value, fewer[name]) for name, value in few.items())


# --- more shapes -----------------------------------------------------------------------------


def test_missing_values_and_unequal_lengths():
    items = [item(120, dim=2), item(60, dim=2, seed=1), item(9, dim=2, seed=2)]
    items[0].target[0, 40:70] = np.nan
    items[1].target[:, -3:] = np.nan
    model, data = fit(items, 6)
    check(model, list(data), dim=2)


def test_an_item_shorter_than_the_look_back_is_forecast_and_an_empty_one_is_refused(fitted):
    model, _ = fitted
    for length in (1, 2, 7, model.back - 1):
        check(model, [item(120).cut(length)])
    with pytest.raises(DataError, match="no observed value to forecast from"):
        model.forecast([Series(np.empty((1, 0)), pd.Period("2020-01-01", freq="D"))])


def test_a_series_that_fell_silent_long_ago_is_forecast_about_its_level(fitted):
    model, _ = fitted
    long = item(1500)
    long.target[:, 200:] = np.nan
    paths = check(model, [long], num_samples=50)[0]
    assert abs(paths.mean() - 20) < 2


def test_series_too_short_for_the_horizon_are_refused_by_name():
    with pytest.raises(
        DataError, match="'item 3', has 5 steps; fitting with prediction_length = 5"
    ):
        fit([item(5, seed=3)], 5)
    model, data = fit([item(6)], 5)
    check(model, list(data))


@pytest.mark.parametrize("level", [0.0, 5.0, -1e7])
def test_a_constant_series_stays_near_its_value(level):
    constant = Series(np.full((1, 80), level), pd.Period("2020-01-01", freq="D"))
    model, data = fit(constant, 5)
    paths = check(model, list(data))[0]
    assert np.abs(paths - level).max() < 0.02 * max(abs(level), 1.0)


def test_a_constant_series_beside_others():
    steady = Series(np.full((1, 120), 3.0), pd.Period("2020-01-01", freq="D"))
    model, data = fit([steady, item(120, seed=1), item(120, seed=2)], 5)
    paths = check(model, list(data))
    assert np.abs(paths[0] - 3.0).max() < 0.1
    assert paths[1].std() > 0.3


def test_a_series_of_missing_values_is_refused_by_name():
    gone = item(60, dim=2, seed=4)
    gone.target[1] = np.nan
    with pytest.raises(DataError, match="'item 4': 1 has no observed value"):
        fit([gone, item(60, dim=2)], 5)
    model, _ = fit([item(60, dim=2)], 5)
    with pytest.raises(DataError, match="'item 4': 1 has no observed value to forecast from"):
        model.forecast([gone])


def test_static_properties_change_the_forecast_and_unknown_classes_are_taken():
    rng = np.random.default_rng(0)
    items = []
    for seed in range(12):
        kind = seed % 2
        walk_up = np.cumsum(rng.normal(0.5 if kind else -0.5, 0.1, 100))
        items.append(
            Series(
                walk_up[None],
                pd.Period("2020-01-01", freq="D"),
                static_cat=np.array([kind]),
                static_real=np.array([float(kind)]),
            )
        )
    model, data = fit(items, 5, max_steps=60, validate_every=20)
    model.denoiser.shrinkage.fill_(1.0)
    paths = check(model, list(data)[:2])
    from dataclasses import replace

    other = check(model, [replace(data[0], static_cat=np.array([1])), data[1]])
    assert not np.allclose(paths[0], other[0], rtol=1e-6)
    assert np.array_equal(paths[1], other[1])
    for unknown in (7, -1):
        check(model, [replace(data[0], static_cat=np.array([unknown]))])
    with pytest.raises(DataError, match="0 static classes, but the model was fitted with 1"):
        model.forecast([replace(data[0], static_cat=np.empty(0, dtype=int))])


def test_items_that_do_not_fit_the_model_are_refused():
    rng = np.random.default_rng(0)
    known = rng.normal(size=(1, 130))
    model, data = fit([item(120, known=known)], 6)
    check(model, list(data))
    with pytest.raises(DataError, match="has 2 series, but the model was fitted on items of 1"):
        model.forecast([item(120, dim=2, known=known)])
    with pytest.raises(DataError, match="0 known covariates, but the model was fitted with 1"):
        model.forecast([item(120)])
    with pytest.raises(DataError, match=r"known in advance end at 2020-04-30.*reach 2020-05-05"):
        model.forecast([item(120, known=known[:, :121])])
    gap = known.copy()
    gap[0, 122] = np.nan
    with pytest.raises(DataError, match="covariate 0, known in advance, is missing at 2020-05-02"):
        model.forecast([item(120, known=gap)])


# --- seeds and persistence -------------------------------------------------------------------


def test_a_restored_model_forecasts_alike(fitted):
    model, data = fitted
    config, tensors = model.state()
    config = json.loads(json.dumps(config))
    twin = make_model("window", 6, "D", {**TINY})
    twin.restore(config, tensors)
    ours, theirs = (each.forecast(list(data), num_samples=5, seed=3) for each in (model, twin))
    for one, two in zip(ours, theirs, strict=True):
        assert np.array_equal(one, two)
    assert twin.num_parameters == model.num_parameters


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    data = SeriesSet([item(80)], "D")
    states = [fit_series(data, 4, options={**TINY}, seed=seed).state()[1] for seed in (5, 5, 6)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_paths_do_not_depend_on_what_else_is_forecast(fitted):
    model, data = fitted
    items = list(data)
    together = model.forecast(items, num_samples=8, seed=1)
    for number, single in enumerate(items):
        alone = model.forecast([single], num_samples=8, seed=1, first=number)[0]
        np.testing.assert_allclose(alone, together[number], rtol=1e-6)
        assert not np.allclose(alone, model.forecast([single], num_samples=8, seed=2)[0])
    # Items that are equal get noise of their own.
    one, two = model.forecast([items[0], items[0]], num_samples=8)
    assert not np.allclose(one, two)
    seen = []
    model.forecast(items, num_samples=2, progress=seen.append)
    assert seen[-1] == len(items)


@pytest.mark.parametrize("count", [1, 2, 7, 100, 700])
def test_any_number_of_paths(fitted, count):
    model, data = fitted
    paths = check(model, list(data)[:2], num_samples=count)
    assert len(np.unique(paths[0][:, 0, 0])) == count


def test_paths_in_pairs_have_the_same_law_as_independent_ones(fitted):
    model, data = fitted
    spread = {}
    for antithetic in (True, False):
        model.options["antithetic"] = antithetic
        spread[antithetic] = model.forecast([data[0]], num_samples=4000, seed=0)[0][..., 0]
    model.options["antithetic"] = True
    sd = spread[False].std(0)
    np.testing.assert_allclose(spread[True].mean(0) / sd, spread[False].mean(0) / sd, atol=0.08)
    np.testing.assert_allclose(spread[True].std(0), sd, rtol=0.06)
    for level in (0.05, 0.5, 0.95):
        ours, theirs = (np.quantile(spread[kind], level, 0) for kind in (True, False))
        np.testing.assert_allclose(ours / sd, theirs / sd, atol=0.12)


def test_options_are_checked_before_any_work():
    for options, message in (
        ({"gap_share": 1.0}, "gap_share must lie"),
        ({"precision": "half"}, "precision must be"),
        ({"sampler": "magic"}, "magic"),
        ({"widht": 3}, "no option 'widht'"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_model("window", 5, "D", options)
    for horizon in (0, -1, 1.5, True, "5"):
        with pytest.raises(ConfigError, match="prediction_length must be an integer >= 1"):
            make_model("window", horizon, "D")
    for options, message in (
        ({"seasons": (1,)}, "seasons must be integers >= 2"),
        ({"context_length": 0}, "context_length must be"),
        ({"validation_fraction": 0.7}, "validation_fraction"),
    ):
        with pytest.raises(ConfigError, match=message):
            fit(item(60), 5, **options)


def test_a_budget_ends_the_training_in_time():
    start = time.monotonic()
    data = SeriesSet([item(200)], "D")
    model = fit_series(data, 5, budget=2, options={**TINY, "max_steps": 10**6, "patience": 10**4})
    assert model.result.stopped_by == "budget"
    assert time.monotonic() - start < 30
    check(model, list(data))


# --- trust -----------------------------------------------------------------------------------


def held_out_score(model, bank, rows, factor):
    model.denoiser.shrinkage.fill_(factor)
    window = model.window(bank, rows.item, rows.end)
    context = model.denoiser.forecast_context(window)
    drawn = walk(model, context, num_samples=64, num_steps=None, noise=KeyedNoise(77))
    truth = window.value[..., window.back :].double()
    spread = bank.spread[rows.item][:, :, None]
    paths = context.frame.value(drawn).double() * spread[:, None]
    return float(fair_crps_cells((truth * spread).numpy(), paths.numpy()).mean())


def test_a_network_that_does_harm_is_not_trusted():
    from scidiffusion.timeseries.trust import choose_shrinkage

    data = SeriesSet([item(300)], "D")
    model = fit_series(data, 5, options={**TINY}, seed=0)
    bank = model.bank_of(data)
    _, held = model.windows_of(bank, 1, 0)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for value in model.denoiser.network.parameters():
            value.copy_(0.3 * torch.randn(value.shape, generator=generator))
    choose_shrinkage(model, bank, held, 0)
    assert float(model.denoiser.shrinkage) == 0.0
    with torch.no_grad():
        harm = held_out_score(model, bank, held.pick(40, 0), 1.0)
        floor = held_out_score(model, bank, held.pick(40, 0), 0.0)
    assert harm > 1.02 * floor


@pytest.mark.parametrize("seed", range(3))
def test_the_model_is_never_worse_than_the_floor_on_held_out_windows(seed):
    """On noise there is nothing to learn: what little is learned by heart must not be trusted."""
    noise = np.random.default_rng(seed).standard_normal((1, 120)).cumsum(1)
    data = SeriesSet([Series(noise, pd.Period("2020-01-01", freq="D"))], "D")
    options = {**TINY, "max_steps": 80, "validate_every": 40}
    model = fit_series(data, 5, options=options, seed=seed)
    bank = model.bank_of(data)
    _, held = model.windows_of(bank, 1, seed)
    kept = float(model.denoiser.shrinkage)
    assert model.trust[kept] <= model.trust[0.0] + 1e-12
    assert model.trust[kept] <= 1 + 1e-12
    with torch.no_grad():
        ours = held_out_score(model, bank, held, kept)
        floor = held_out_score(model, bank, held, 0.0)
    assert ours <= 1.02 * floor


def test_the_fair_score_is_that_of_a_pair_loop():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    paths = torch.randn(3, 7, 2, generator=generator, dtype=torch.float64)
    first = (paths - truth[:, None]).abs().mean(1)
    second = (paths[:, :, None] - paths[:, None]).abs().sum((1, 2)) / (7 * 6)
    found = fair_crps_cells(truth.numpy(), paths.numpy())
    np.testing.assert_allclose(found, (first - 0.5 * second).numpy(), rtol=1e-12)


def test_the_fair_score_of_paths_in_pairs_is_unbiased():
    """Opposite paths lie farther apart than independent ones: that would flatter the wide."""
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(40_000, 3, generator=generator, dtype=torch.float64)
    paths = torch.stack([half, -half], 2).flatten(1)
    truth = torch.randn(40_000, generator=generator, dtype=torch.float64)
    exact = 1 / np.pi**0.5  # E|X - y| - E|X - X'| / 2 = E|X - X'| / 2
    fair = fair_crps_cells(truth.numpy(), paths.numpy(), paired=True)
    assert fair.mean() == pytest.approx(exact, abs=4 * fair.std() / 200)
    # A last path without a partner is compared with all others.
    odd = fair_crps_cells(truth.numpy(), paths[:, :5].numpy(), paired=True)
    assert odd.mean() == pytest.approx(exact, abs=4 * odd.std() / 200)
    naive = fair_crps_cells(truth.numpy(), paths.numpy()).mean()
    assert naive < 0.96 * exact


def test_the_model_is_a_class_of_the_interface():
    model = WindowModel(3, "D", TINY)
    assert model.evaluations() == 10
    assert model.evaluations(4) == 4


def test_the_units_of_an_item_have_no_say_in_how_far_the_network_is_trusted():
    def trust(unit):
        first, *others = (item(60, seed=seed) for seed in range(3))
        scaled = replace(first, target=unit * first.target)
        model, _ = fit([scaled, *others], 5, gap_share=0.0)
        return model.trust

    assert trust(1024.0) == pytest.approx(trust(1.0), rel=1e-4)


@pytest.mark.parametrize(("wrong", "temperature"), [(2.0, 0.7), (1.0, 1.0), (0.5, 1.4)])
def test_paths_that_spread_too_far_are_drawn_with_less_noise(wrong, temperature):
    from scidiffusion.timeseries.trust import choose_shrinkage

    noise = np.random.default_rng(0).standard_normal((1, 900))
    data = SeriesSet([Series(noise, pd.Period("2020-01-01", freq="D"))], "D")
    model = fit_series(data, 5, options={**TINY, "seasons": [], "gap_share": 0.0}, seed=0)
    bank = model.bank_of(data)
    rows = model.windows_of(bank, 1, 0)[1]
    with torch.no_grad():
        model.denoiser.network.output.weight.zero_()
        model.denoiser.network.output.bias.zero_()
        model.denoiser.floor.law.series.sd.mul_(wrong)
    context = model.denoiser.forecast_context(model.window(bank, rows.item[:2], rows.end[:2]))

    def drawn(warmth):
        model.denoiser.temperature.fill_(warmth)
        with torch.no_grad():
            return walk(model, context, num_samples=4, num_steps=3, noise=KeyedNoise(0))

    torch.testing.assert_close(drawn(0.5), 0.5 * drawn(1.0))
    choose_shrinkage(model, bank, rows, 0)
    assert float(model.denoiser.temperature) == pytest.approx(temperature)


@pytest.mark.parametrize(
    ("least", "tried"), [(1.0, [0.85, 1.2]), (0.7, [0.85, 0.7, 1.2]), (1.2, [0.85, 1.2, 1.4])]
)
def test_temperatures_are_tried_as_far_as_the_score_falls(monkeypatch, least, tried):
    from scidiffusion.timeseries import trust

    seen = []

    def losses(model, buffer, choices, trials, seed):
        seen.extend(choices)
        return {choice: np.array([1 + (choice - least) ** 2, 0.0]) for choice in choices}

    monkeypatch.setattr(trust, "_losses", losses)
    model = SimpleNamespace(denoiser=SimpleNamespace(temperature=torch.ones(())))
    trust._choose_temperature(model, losses(None, None, [1.0], [], 0)[1.0], [], 0)
    assert seen[1:] == tried
    assert float(model.denoiser.temperature) == pytest.approx(least)
