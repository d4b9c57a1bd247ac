"""TimeGrad: its forecasts have the law of the process, and its bookkeeping is exact."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm

from scidiffusion.core.rng import GeneratorNoise, KeyedNoise
from scidiffusion.errors import ConfigError, DataError
from scidiffusion.samplers.registry import SAMPLERS
from scidiffusion.timeseries import timegrad_network
from scidiffusion.timeseries.series import Series, SeriesSet
from scidiffusion.timeseries.timegrad import BLOCK_ROWS, TimeGradModel
from scidiffusion.timeseries.timegrad_network import (
    History,
    TimeGradLoss,
    lag_inputs,
    roll_out,
    scale_window,
)

TINY = {
    "hidden": 8,
    "layers": 1,
    "width": 16,
    "blocks": 1,
    "num_nodes": 6,
    "context_length": 6,
    "batch_size": 16,
    "max_steps": 100,
    "lr": 1e-2,
    "ema_decay": 0.9,
    "dropout": 0.0,
    "device": "cpu",
}
HORIZON = 4


def make_series(length=90, dim=2, seed=0, freq="h", missing=0.0, covariates=True, **options):
    rng = np.random.default_rng(seed)
    target = 5 + np.sin(np.arange(length) / 4) + rng.standard_normal((dim, length))
    target[rng.random(target.shape) < missing] = np.nan
    if covariates:
        options.setdefault("known", rng.standard_normal((1, length + HORIZON)))
        options.setdefault("past", rng.standard_normal((1, length)))
        options.setdefault("static_cat", np.array([seed % 2]))
    start = pd.Period("2020-01-01", freq=freq)
    return Series(target, start, item_id=f"item {seed}", **options)


def fitted(items, freq="h", **options):
    return TimeGradModel(HORIZON, freq, {**TINY, **options}).fit(SeriesSet(items, freq), seed=3)


def loss_of(model, bank):
    return TimeGradLoss(bank, model.back, model.context, model.location, draws=3)


def rows_of(bank):
    """Some origins of each item."""
    item = torch.arange(len(bank)).repeat_interleave(3)
    return {"item": item, "end": torch.tensor([25, 40, 60]).repeat(len(bank))}


@pytest.fixture(scope="module")
def items():
    return [make_series(seed=seed, missing=0.2) for seed in range(3)]


@pytest.fixture(scope="module")
def model(items):
    model = fitted(items)
    # An untrained one draws little else than values cut off at the limit, all alike.
    paths = np.stack(model.forecast(items, num_samples=50))
    assert len(np.unique(paths)) == paths.size
    return model


# -- the law -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transition", "covariance"),
    [([[0.8]], [[1.0]]), ([[0.6, 0.3], [-0.2, 0.7]], [[1.0, 0.6], [0.6, 1.0]])],
    ids=["AR(1)", "VAR(1)"],
)
def test_crps_of_an_autoregression_is_within_3_percent_of_its_exact_law(transition, covariance):
    transition, covariance = np.array(transition), np.array(covariance)
    dim, train, horizon, unit, centre = len(transition), 20_000, 6, 3.0, 50.0
    draws = np.random.default_rng(0).standard_normal((train + 3_700, dim))
    path = np.zeros((dim, train + 3_700))
    for step, draw in enumerate(draws @ np.linalg.cholesky(covariance).T):
        path[:, step] = transition @ path[:, step - 1] + draw
    data = centre + unit * path
    start = pd.Period("2000-01-01", freq="D")
    options = {
        "hidden": 24,
        "width": 32,
        "blocks": 1,
        "draws": 2,
        "context_length": 8,
        "max_steps": 1_000,
        "lr": 3e-3,
        "validate_every": 250,
        "device": "cpu",
    }
    model = TimeGradModel(horizon, "D", options)
    model.fit(SeriesSet([Series(data[:, :train], start)], "D"), seed=0)
    assert model.location == "item"

    origins = np.arange(train, train + 3_600, 45)
    paths = np.stack(model.forecast([Series(data[:, :k], start) for k in origins], num_samples=48))
    truth = np.stack([data[:, k : k + horizon].T for k in origins])
    mean, std = np.empty(truth.shape), np.empty((1, horizon, dim))
    power, variance = np.eye(dim), np.zeros((dim, dim))
    for step in range(horizon):
        power, variance = transition @ power, transition @ variance @ transition.T + covariance
        mean[:, step] = centre + unit * (power @ path[:, origins - 1]).T
        std[0, step] = unit * np.sqrt(np.diag(variance))

    def distance(point):
        """E |point - y| under the exact law."""
        z = (point - mean_of(point)) / spread_of(point)
        return spread_of(point) * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z))

    def mean_of(point):
        return mean if point.ndim == 3 else mean[:, None]

    def spread_of(point):
        return std if point.ndim == 3 else std[:, None]

    count = paths.shape[1]
    ranks = (2 * np.arange(1, count + 1) - count - 1)[None, :, None, None]
    halved = (np.sort(paths, 1) * ranks).sum(1) / (count * (count - 1))
    realised = np.abs(paths - truth[:, None]).mean() - halved.mean()
    exact = (distance(truth) - std / math.sqrt(math.pi)).mean()
    assert realised / exact < 1.03
    # The same without the chance of the observations: here no forecast beats the law.
    expected = distance(paths).mean() - halved.mean()
    lowest = (std / math.sqrt(math.pi)).mean()
    assert 0.995 < expected / lowest < 1.03


def test_noise_levels_are_the_papers():
    betas = TimeGradModel(2, "h").process.schedule.betas
    np.testing.assert_allclose(betas, np.linspace(1e-4, 0.1, 100), rtol=1e-10)


@pytest.mark.parametrize("num_nodes", [10, 50, 1000])
def test_fewer_or_more_noise_levels_end_equally_noisy(num_nodes):
    ends = [
        TimeGradModel(2, "h", {"num_nodes": count}).process.schedule.terminal_snr
        for count in (100, num_nodes)
    ]
    assert ends[1] == pytest.approx(ends[0], rel=0.1)


# -- missing values ------------------------------------------------------------------------------


def corrupt(bank):
    """Put garbage wherever nothing was observed, the horizon's room included."""
    for name, flag in (("value", "observed"), ("past", "past_observed")):
        values = bank._flat[name]
        bank._flat[name] = torch.where(bank._flat[flag], values, torch.full_like(values, 7.7))
    return bank


@pytest.mark.parametrize("location", ["item", "window"])
def test_values_under_the_mask_change_neither_loss_nor_forecasts(items, location, monkeypatch):
    model = fitted(items, location=location)
    clean, dirty = model.bank_of(SeriesSet(items, "h")), model.bank_of(SeriesSet(items, "h"))
    corrupt(dirty)
    assert not torch.equal(clean._flat["value"], dirty._flat["value"])
    rows, noise = rows_of(clean), KeyedNoise(1)
    with torch.no_grad():
        losses = [loss_of(model, bank)(model.denoiser, rows, noise) for bank in (clean, dirty)]
    assert torch.equal(*losses)
    before = model.forecast(items, num_samples=3)
    bank_of = model.bank_of
    monkeypatch.setattr(model, "bank_of", lambda items: corrupt(bank_of(items)))
    np.testing.assert_array_equal(before, model.forecast(items, num_samples=3))


def test_the_loss_is_the_mean_over_observed_cells_of_the_horizon(items, model):
    untrained = TimeGradModel(HORIZON, "h", TINY)
    untrained.restore(model.state()[0], None)
    bank = model.bank_of(SeriesSet(items, "h"))
    rows, noise = rows_of(bank), KeyedNoise(5)
    with torch.no_grad():
        losses = loss_of(model, bank)(untrained.denoiser, rows, noise)
    # A network that starts as the zero function has the noise itself for an error.
    seen = bank.windows(rows["item"], rows["end"], 0, HORIZON).observed.transpose(1, 2)
    eps = noise.normal(torch.empty(9, 3, HORIZON, 2))
    kept = [eps[k][:, seen[k]].square().mean() for k in range(9)]
    assert 0.5 < seen.float().mean() < 0.95
    torch.testing.assert_close(losses, torch.stack(kept))


def test_missing_cells_of_the_target_do_not_reach_other_cells(items, model):
    # Whatever noise the missing cells are given, what is predicted for the others is the same.
    bank = model.bank_of(SeriesSet(items, "h"))
    rows = rows_of(bank)
    seen = bank.windows(rows["item"], rows["end"], 0, HORIZON).observed.transpose(1, 2)

    class Loud(KeyedNoise):
        def normal(self, like):
            eps = super().normal(like)
            return torch.where(seen[:, None].expand_as(eps), eps, eps + 3)

    with torch.no_grad():
        loss = loss_of(model, bank)
        quiet, loud = (loss(model.denoiser, rows, kind(2)) for kind in (KeyedNoise, Loud))
    assert torch.equal(quiet, loud)


# -- what is known when --------------------------------------------------------------------------


def test_roll_out_goes_through_the_states_of_training(items, model, monkeypatch):
    """With the true values for draws, forecasting and training see the same."""
    full = items[0]
    whole = dataclasses.replace(full, target=np.nan_to_num(full.target, nan=4.0))
    bank = model.bank_of(SeriesSet([whole], "h"))
    index, end = torch.zeros(1, dtype=torch.long), torch.tensor([50])
    scaled = scale_window(bank.windows(index, end, model.back, HORIZON), 6, model.location)
    network, start = model.denoiser.network, model.back - model.context
    lagged = lag_inputs(scaled, network.lags, start, model.back + HORIZON)
    states, truth = [], iter(scaled.value[..., model.back :].unbind(-1))

    def remember(*_, cond, **__):
        states.append(cond["state"])
        return next(truth)

    monkeypatch.setattr(timegrad_network, "sample", remember)
    with torch.no_grad():
        expected, _ = network.unroll(lagged, scaled.shared[:, start:], scaled.static_cat)
        # Forecasting does not know the horizon.
        hidden = dataclasses.replace(scaled, value=scaled.value.clone())
        hidden.value[..., model.back :] = torch.nan
        history = History.read(network, hidden, model.back, model.context)
        drawn = roll_out(model.denoiser, history, index, HORIZON, None, None, KeyedNoise(0))
    torch.testing.assert_close(torch.stack(states, 1), expected[:, model.context :])
    torch.testing.assert_close(drawn, scaled.value[..., model.back :])


def test_known_covariates_act_from_their_step_on(items, model):
    item = items[0]
    changed = item.known.copy()
    changed[:, item.length + 2] += 5
    before, after = model.forecast([item], num_samples=4) + model.forecast(
        [dataclasses.replace(item, known=changed)], num_samples=4
    )
    np.testing.assert_array_equal(before[:, :2], after[:, :2])
    assert (before[:, 2] != after[:, 2]).all()
    assert (before[:, 3] != after[:, 3]).all()


def test_training_hides_covariates_of_the_past_beyond_the_origin(items, model):
    rows = {"item": torch.tensor([0]), "end": torch.tensor([50])}
    losses = []
    for step in (None, 50, 49):
        past = items[0].past.copy()
        past[:, 50:] += 4 if step == 50 else 0
        past[:, 49] += 4 if step == 49 else 0
        bank = model.bank_of(SeriesSet([dataclasses.replace(items[0], past=past)], "h"))
        with torch.no_grad():
            losses.append(float(loss_of(model, bank)(model.denoiser, rows, KeyedNoise(0))))
    assert losses[0] == losses[1] != losses[2]


def test_location_and_scale_are_of_the_context_alone(items, model):
    bank = model.bank_of(SeriesSet(items, "h"))
    window = bank.windows(torch.tensor([0]), torch.tensor([50]), model.back, HORIZON)
    for location in ("item", "window"):
        scaled = scale_window(window, 6, location)
        context = window.value[..., model.back - 6 : model.back]
        seen = window.observed[..., model.back - 6 : model.back]
        for row in range(2):
            values = context[0, row][seen[0, row]]
            place = values.mean() if location == "window" else torch.tensor(0.0)
            torch.testing.assert_close(scaled.location[0, row, 0], place)
            torch.testing.assert_close(scaled.scale[0, row, 0], (values - place).abs().mean())


def test_forecasts_move_and_stretch_with_the_data(items, model):
    item = items[1]
    moved = dataclasses.replace(item, target=1e6 - 250.0 * item.target)
    # Mirrored values are another matter for a network; so two are compared that are not.
    other = dataclasses.replace(item, target=-item.target)
    expected = 1e6 + 250.0 * model.forecast([other], num_samples=5)[0]
    np.testing.assert_allclose(model.forecast([moved], num_samples=5)[0], expected, atol=0.05)


def test_the_location_is_the_items_unless_its_level_wanders():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((1, 600))
    persistent = np.zeros((1, 600))
    for step in range(1, 600):
        persistent[:, step] = 0.8 * persistent[:, step - 1] + noise[:, step]
    start = pd.Period("2020-01-01", freq="h")
    for target, location in (
        (noise, "item"),
        (persistent, "item"),
        (noise.cumsum(1), "window"),
        (0.05 * np.arange(600) + noise, "window"),
    ):
        assert fitted([Series(target, start)], max_steps=1).location == location


# -- samples -------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_samples", [1, 7, BLOCK_ROWS // 3 * 2])
def test_the_same_seed_gives_the_same_paths_however_items_are_grouped(items, model, num_samples):
    together = model.forecast(items, num_samples=num_samples, seed=4)
    apart = [
        model.forecast([item], num_samples=num_samples, seed=4, first=index)[0]
        for index, item in enumerate(items)
    ]
    assert together[0].shape == (num_samples, HORIZON, 2)
    np.testing.assert_allclose(together, apart, rtol=1e-5, atol=1e-5)
    other = model.forecast(items, num_samples=num_samples, seed=5)
    assert (np.abs(np.array(together) - other) > 1e-3).mean() > 0.9


def test_paths_of_an_item_differ_and_so_do_those_of_equal_items(items, model):
    first, second = model.forecast([items[0], items[0]], num_samples=BLOCK_ROWS + 30)
    every = np.concatenate([first, second]).reshape(2 * (BLOCK_ROWS + 30), -1)
    assert len(np.unique(every.round(6), axis=0)) == len(every)


def test_every_step_of_the_horizon_has_noise_of_its_own(items, model, monkeypatch):
    drawn = []

    def remember(process, denoiser, like, *, noise, **_):
        drawn.append(noise.normal(like))
        return drawn[-1]

    monkeypatch.setattr(timegrad_network, "sample", remember)
    model.forecast([items[0]], num_samples=BLOCK_ROWS)
    correlation = np.corrcoef(torch.cat(drawn, 1).T)
    # Of so many independent rows the correlations have standard deviation 0.04.
    assert np.abs(correlation - np.eye(2 * HORIZON)).max() < 0.2


def test_a_permuted_batch_has_permuted_losses(items, model):
    class Alike(GeneratorNoise):
        """The same numbers in every row."""

        def normal(self, like):
            return KeyedNoise(3).normal(like[:1]).expand_as(like)

        def uniform(self, like):
            return KeyedNoise(3).uniform(like[:1]).expand_as(like)

    bank = model.bank_of(SeriesSet(items, "h"))
    rows, order = rows_of(bank), torch.tensor([4, 8, 0, 2, 1, 7, 6, 3, 5])
    with torch.no_grad():
        loss = loss_of(model, bank)
        plain = loss(model.denoiser, rows, Alike())
        mixed = loss(model.denoiser, {k: v[order] for k, v in rows.items()}, Alike())
    assert len(plain.unique()) == 9
    torch.testing.assert_close(plain[order], mixed)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("num_steps", [None, 3])
def test_evaluations_are_those_that_happen(items, model, sampler, num_steps):
    config, tensors = model.state()
    copy = TimeGradModel(HORIZON, "h", {**TINY, "sampler": sampler})
    copy.restore(config, tensors)
    calls = []
    copy.denoiser.network.register_forward_hook(lambda *_: calls.append(1))
    paths = copy.forecast([items[0]], num_samples=2, num_steps=num_steps)[0]
    assert np.isfinite(paths).all()
    assert len(calls) == copy.evaluations(num_steps)
    if sampler in ("ancestral", "ddim"):
        assert len(calls) == HORIZON * (num_steps or 6)


def test_the_option_num_steps_is_the_default_of_forecasts(items, model):
    copy = TimeGradModel(HORIZON, "h", {**TINY, "num_steps": 2})
    copy.restore(*model.state())
    assert copy.evaluations() == 2 * HORIZON
    np.testing.assert_array_equal(
        copy.forecast(items, num_samples=2), model.forecast(items, num_samples=2, num_steps=2)
    )


def test_progress_counts_items(items, model):
    done = []
    model.forecast(items, num_samples=BLOCK_ROWS // 2 + 1, progress=done.append)
    assert done == [1, 3]


# -- fitting -------------------------------------------------------------------------------------


def test_a_restored_model_forecasts_the_same(items, model):
    config, tensors = model.state()
    copy = TimeGradModel(HORIZON, "h", TINY)
    copy.restore(json.loads(json.dumps(config)), tensors)
    np.testing.assert_array_equal(
        model.forecast(items, num_samples=3), copy.forecast(items, num_samples=3)
    )
    assert copy.num_parameters == model.num_parameters > 0


def test_the_seed_decides_the_fit(items, model):
    again = fitted(items)
    for name, weight in model.denoiser.state_dict().items():
        assert torch.equal(weight, again.denoiser.state_dict()[name])
    other = TimeGradModel(HORIZON, "h", TINY).fit(SeriesSet(items, "h"), seed=4)
    assert not np.array_equal(other.forecast(items), model.forecast(items))


def test_training_starts_from_a_given_state(items, model):
    state = model.denoiser.state_dict()
    continued = TimeGradModel(HORIZON, "h", {**TINY, "max_steps": 1, "lr": 1e-12})
    continued.fit(SeriesSet(items, "h"), seed=9, start=state)
    for name, weight in continued.denoiser.state_dict().items():
        torch.testing.assert_close(weight, state[name], rtol=0, atol=1e-8)


def test_series_given_for_validation_judge(items):
    losses = [
        TimeGradModel(HORIZON, "h", TINY)
        .fit(SeriesSet(items[:2], "h"), seed=3, validation=SeriesSet([judge], "h"))
        .result.best_val_loss
        for judge in (items[2], dataclasses.replace(items[2], target=items[2].target ** 3))
    ]
    assert losses[0] != losses[1]


def test_a_budget_ends_the_training(items):
    model = TimeGradModel(HORIZON, "h", {**TINY, "max_steps": 10**7, "patience": None})
    model.fit(SeriesSet(items, "h"), budget=0.3)
    assert model.result.stopped_by == "budget"


@pytest.mark.parametrize("freq", ["h", "M", "Y-DEC", "30min"])
def test_one_series_of_any_frequency(freq):
    item = make_series(60, dim=1, freq=freq, covariates=False)
    model = fitted([item], freq)
    paths = model.forecast([item], num_samples=3)[0]
    assert paths.shape == (3, HORIZON, 1)
    assert np.isfinite(paths).all()


def test_short_and_constant_series_and_new_classes_do(items, model):
    short = dataclasses.replace(
        make_series(2, static_cat=np.array([9])), target=np.array([[np.nan, 4.0], [3.0, 3.0]])
    )
    assert np.isfinite(model.forecast([short], num_samples=3)[0]).all()
    assert model.forecast([]) == []


def test_series_that_are_too_short_are_named():
    with pytest.raises(DataError, match="too short: the longest has 4 steps"):
        fitted([make_series(4)])
    item = make_series(30, dim=1)
    item.target[:, 1:] = np.nan
    with pytest.raises(DataError, match="no observed value in any training horizon"):
        fitted([item])


def test_items_unlike_those_trained_on_are_refused(items, model):
    with pytest.raises(DataError, match="fitted on items of 2"):
        model.forecast([make_series(dim=3)])
    with pytest.raises(DataError, match="must reach"):
        model.forecast([dataclasses.replace(items[0], known=items[0].known[:, :-1])])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "magic"}, "sampler must be one of"),
        ({"num_steps": 101}, "at most num_nodes = 100"),
        ({"location": "moon"}, "location must be"),
        ({"hidden": 0}, "hidden must be an integer >= 1"),
        ({"context_length": 2.5}, "context_length must be an integer >= 1"),
        ({"validation_fraction": 0.9}, "validation_fraction must lie"),
        ({"variance": "huge"}, "variance"),
        ({"depth": 3}, "no option 'depth'"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        TimeGradModel(HORIZON, "h", options)


def test_there_is_no_guidance(items, model):
    with pytest.raises(ConfigError, match="no guidance"):
        model.forecast(items, wishes=[object()])
