"""The denoiser of windows: what it must not see, what must not matter, and the floor inside it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from scidiffusion.core.rng import GeneratorNoise, KeyedNoise
from scidiffusion.timeseries.drawing import walk
from scidiffusion.timeseries.frame import Frame
from scidiffusion.timeseries.masks import random_mask
from scidiffusion.timeseries.objective import WindowLoss
from scidiffusion.timeseries.series import Series, SeriesSet
from scidiffusion.timeseries.window_model import WindowModel

START = pd.Period("2020-01-01", freq="D")
TINY = {
    "width": 32,
    "blocks": 1,
    "encoder_blocks": 1,
    "max_steps": 2,
    "validate_every": 1,
    "precision": "float32",
    "device": "cpu",
    "dropout": 0.0,
    "antithetic": False,
}


def seasonal_noise(dim=3, steps=300, seed=0):
    rng = np.random.default_rng(seed)
    mixing = np.linalg.cholesky(0.6 * np.ones((dim, dim)) + 0.4 * np.eye(dim))
    season = np.sin(2 * np.pi * np.arange(steps) / 7)
    return season + mixing @ rng.standard_normal((dim, steps))


def dataset(dim=3, covariates=False, steps=300):
    rng = np.random.default_rng(9)
    options = {}
    if covariates:
        options = {"known": rng.normal(size=(2, steps + 5)), "past": rng.normal(size=(1, steps))}
    return SeriesSet([Series(seasonal_noise(dim, steps), START, **options)], "D")


def model_of(series, **options):
    return WindowModel(5, "D", {**TINY, **options}).fit(series, seed=0)


def stirred(model, seed=0):
    """Give every layer that starts at zero something to say."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.denoiser.network.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
    model.denoiser.shrinkage.fill_(1.0)
    return model


def silent(model):
    """Leave the floor alone."""
    with torch.no_grad():
        for value in model.denoiser.network.output.parameters():
            value.zero_()
    model.denoiser.shrinkage.fill_(1.0)
    return model


@pytest.fixture(scope="module")
def joint():
    """A model of three series whose network says something."""
    series = dataset()
    return stirred(model_of(series)), series


@pytest.fixture(scope="module")
def floor_only():
    """A model of three series whose network adds nothing."""
    series = dataset()
    return silent(model_of(series)), series


def window_of(model, series, ends=(200, 260), **options):
    bank = model.bank_of(series)
    end = torch.tensor(ends)
    item = torch.zeros(len(ends), dtype=torch.long)
    return bank.windows(item, end, model.back, model.zone, **options)


# --- what does not matter --------------------------------------------------------------------


def test_permuting_the_series_permutes_the_velocity(joint):
    model, series = joint
    denoiser, order = model.denoiser, torch.tensor([2, 0, 1])
    window = window_of(model, series)
    permuted = replace(
        window,
        value=window.value[:, order],
        observed=window.observed[:, order],
        series=window.series[order],
    )
    frame = denoiser.floor.frame(window)
    z = torch.randn(2, 4, 3, model.zone)
    sigma = torch.rand(2, 4) + 0.3
    outputs = []
    for given, rows in ((window, torch.arange(3)), (permuted, order)):
        context = denoiser.forecast_context(given)
        own = Frame(frame.base[:, rows], frame.scale[:, rows], frame.std[:, rows], frame.law, None)
        torch.testing.assert_close(context.frame.base, own.base)
        torch.testing.assert_close(context.frame.scale, own.scale)
        outputs.append(denoiser.velocity(z[:, :, rows], sigma, replace(context, frame=own)))
    torch.testing.assert_close(outputs[0][:, :, order], outputs[1], rtol=1e-4, atol=1e-5)
    assert float(outputs[0].detach().abs().mean()) > 0.01
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-3)


@pytest.mark.parametrize("hidden", ["future", "cells"])
def test_hidden_values_do_not_change_context_or_velocity(joint, hidden):
    model, series = joint
    denoiser = model.denoiser
    if hidden == "future":
        window = window_of(model, series)
        mask = torch.zeros_like(window.observed)
        mask[..., window.back :] = True
        encode = denoiser.forecast_context
    else:
        bank = model.bank_of(series)
        end = torch.tensor([200, 260])
        window = bank.windows(torch.zeros_like(end), end, model.context, model.zone)
        mask = torch.rand(window.value.shape, generator=torch.Generator().manual_seed(0)) < 0.4

        def encode(given):
            return denoiser.gap_context(given, mask)

    poisoned = replace(window, value=torch.where(mask, 1e3, window.value))
    unseen = replace(poisoned, observed=window.observed & ~mask)
    z = torch.randn(2, 2, 3, (model.zone if hidden == "future" else mask.shape[-1]))
    sigma = torch.ones(1, 1)
    reference = encode(window)
    for other in (poisoned, unseen):
        context = encode(other)
        assert torch.equal(context.h, reference.h)
        assert torch.equal(context.frame.base, reference.frame.base)
        assert torch.equal(context.frame.scale, reference.frame.scale)
        assert torch.equal(
            denoiser.velocity(z, sigma, context), denoiser.velocity(z, sigma, reference)
        )
    # And a given value does matter.
    seen = replace(window, value=torch.where(mask, window.value, window.value + 1.0 * (~mask)))
    seen.value[..., 3] += 2.0
    assert not torch.equal(encode(seen).frame.base, reference.frame.base)


def test_past_covariates_after_the_origin_do_not_matter_and_known_ones_do():
    series = dataset(dim=1, covariates=True)
    model = stirred(model_of(series))
    item = series[0].cut(200)

    def paths(**change):
        return model.forecast([replace(item, **change)], num_samples=4, seed=0)[0]

    reference = paths()
    longer = np.concatenate([item.past, np.full((1, 5), 7.0)], axis=1)
    assert np.array_equal(paths(past=longer), reference)
    known = item.known.copy()
    known[0, 202] += 2.0
    assert not np.allclose(paths(known=known), reference, atol=1e-3)
    known = item.known.copy()
    known[:, 205:] += 2.0
    assert np.array_equal(paths(known=known), reference)
    past = item.past.copy()
    past[0, 195] += 2.0
    assert not np.allclose(paths(past=past), reference, atol=1e-4)


def test_training_does_not_see_past_covariates_after_the_origin():
    """When forecasting there are none: a network that learned to lean on them would fall."""
    series = dataset(dim=1, covariates=True)
    model = stirred(model_of(series))
    window = window_of(model, series)
    gone = replace(
        window,
        past=window.past.clone().index_fill_(2, torch.arange(window.back, window.back + 5), 0.0),
        past_observed=window.past_observed.clone().index_fill_(
            2, torch.arange(window.back, window.back + 5), 0
        ),
    )
    seen, unseen = (model.denoiser.forecast_context(each).h for each in (window, gone))
    assert torch.equal(seen, unseen)


# --- the floor inside ------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_an_untrained_network_draws_from_the_floor_exactly(floor_only, steps):
    model, series = floor_only
    bank = model.bank_of(series)
    context = model.denoiser.forecast_context(window_of(model, series))
    drawn = walk(model, context, num_samples=4000, num_steps=steps, noise=KeyedNoise(1))
    frame = context.frame
    eye = torch.eye(3 * model.zone).reshape(1, -1, 3, model.zone)
    dense = frame.law.covariance(eye)[0].flatten(1)
    sd = dense.diagonal().sqrt()
    for index in range(2):
        rows = drawn[index].flatten(1)
        assert float((rows.mean(0) / sd).abs().max()) < 4.5 / 4000**0.5
        error = (torch.cov(rows.T) - dense) / (sd[:, None] * sd[None])
        assert float(error.abs().max()) < 5 * 2**0.5 / 4000**0.5
    # Not only in law: the flow leaves the coloured start where it is.
    like = torch.empty(8000, 3, model.zone)
    start = frame.noise(KeyedNoise(1).child("prior").normal(like).unflatten(0, (2, -1)))
    torch.testing.assert_close(drawn, start, rtol=1e-4, atol=1e-4)
    assert bank.dim == 3


def test_no_shrinkage_is_the_floor(joint, floor_only):
    model, series = joint
    context = model.denoiser.forecast_context(window_of(model, series))
    still, series = floor_only
    try:
        model.denoiser.shrinkage.fill_(0.0)
        drawn = walk(model, context, num_samples=5, num_steps=4, noise=KeyedNoise(1))
    finally:
        model.denoiser.shrinkage.fill_(1.0)
    floor = walk(
        still,
        still.denoiser.forecast_context(window_of(still, series)),
        num_samples=5,
        num_steps=4,
        noise=KeyedNoise(1),
    )
    torch.testing.assert_close(drawn, floor, rtol=1e-5, atol=1e-5)
    moved = walk(model, context, num_samples=5, num_steps=4, noise=KeyedNoise(1))
    assert not torch.allclose(moved, floor, atol=1e-2)


def loss_of(model, series, **options):
    options = {"max_series": 64} | options
    return WindowLoss(model.bank_of(series), model.back, draws=4, **options)


def test_the_loss_of_the_floor_is_one_on_its_own_data(floor_only):
    model, series = floor_only
    objective = loss_of(model, series)
    window = window_of(model, series, ends=tuple(range(100, 290)))
    context = model.denoiser.forecast_context(window)
    noise = GeneratorNoise(torch.Generator().manual_seed(0))
    residual = context.frame.noise(noise.normal(torch.empty(190, 1, 3, model.zone)))
    target = context.frame.value(residual)[:, 0]
    seen = torch.ones_like(target, dtype=torch.bool)
    losses = objective.error(model.denoiser, context, target, seen, noise).detach()
    assert losses.shape == (190,)
    assert float(losses.mean()) == pytest.approx(1, abs=4 * float(losses.std()) / 190**0.5)
    assert float(losses.mean()) == pytest.approx(1, abs=0.12)
    # Twice the spread is not the floor's own law: the loss of sigma ~ 1 says so.
    wide = context.frame.value(2 * residual)[:, 0]
    assert float(objective.error(model.denoiser, context, wide, seen, noise).mean()) > 1.5


def test_missing_targets_do_not_influence_loss_or_gradient(joint):
    model, series = joint
    objective = loss_of(model, series)
    window = window_of(model, series)
    target = window.value[..., window.back :]
    seen = torch.rand(target.shape, generator=torch.Generator().manual_seed(0)) < 0.6
    results = []
    for fill in (0.0, 1e6, float("nan")):
        model.denoiser.zero_grad()
        context = model.denoiser.forecast_context(window)
        value = torch.where(seen, target, fill)
        losses = objective.error(model.denoiser, context, value, seen, KeyedNoise(3))
        losses.sum().backward()
        gradient = torch.cat(
            [p.grad.flatten() for p in model.denoiser.parameters() if p.grad is not None]
        )
        results.append((losses.detach(), gradient))
    model.denoiser.zero_grad()
    assert torch.isfinite(results[0][1]).all()
    assert float(results[0][1].abs().max()) > 0
    for losses, gradient in results[1:]:
        assert torch.equal(losses, results[0][0])
        assert torch.equal(gradient, results[0][1])
    context = model.denoiser.forecast_context(window)
    nothing = objective.error(
        model.denoiser, context, target, torch.zeros_like(seen), KeyedNoise(3)
    )
    assert (nothing == 0).all()
    everything = objective.error(
        model.denoiser, context, target, torch.ones_like(seen), KeyedNoise(3)
    )
    assert not torch.allclose(everything, results[0][0])


@pytest.mark.parametrize(("samples", "steps"), [(1, 1), (7, 3), (20, 12)])
def test_the_encoder_runs_once_a_block_of_windows(joint, monkeypatch, samples, steps):
    model, series = joint
    network = model.denoiser.network
    calls = {"encode": 0, "forward": 0}
    encode, forward = network.encode, network.forward

    def counted_encode(*args):
        calls["encode"] += 1
        return encode(*args)

    def counted_forward(*args):
        calls["forward"] += 1
        return forward(*args)

    monkeypatch.setattr(network, "encode", counted_encode)
    monkeypatch.setattr(network, "forward", counted_forward)
    model.forecast([series[0]], num_samples=samples, num_steps=steps)
    assert calls == {"encode": 1, "forward": steps}


def test_the_last_tokens_of_an_encoding_are_those_of_the_whole(joint):
    """The last block leaves out what nobody reads; what is read does not change."""
    network = joint[0].denoiser.network
    size, generator = network.size, torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator)

    arguments = (
        random(2, 3, network.layout.channels, size.tokens * size.patch),
        random(2, 3, network.layout.summaries),
        torch.arange(3),
        random(2, size.static_real),
        torch.zeros(2, 0, dtype=torch.long),
    )
    with torch.no_grad():
        whole = network.encode(*arguments)
        assert whole.shape[2] == size.tokens > 2
        for last in (1, 2, size.tokens):
            part = network.encode(*arguments, last)
            torch.testing.assert_close(part, whole[:, :, -last:], rtol=1e-4, atol=1e-4)


def test_a_network_that_is_not_trusted_is_not_run(joint, monkeypatch):
    model, series = joint

    def forward(*_arguments):
        raise RuntimeError("the network was run")

    monkeypatch.setattr(model.denoiser.network, "forward", forward)
    try:
        model.denoiser.shrinkage.fill_(0.0)
        model.forecast([series[0]], num_samples=2)
    finally:
        model.denoiser.shrinkage.fill_(1.0)
    with pytest.raises(RuntimeError, match="the network was run"):
        model.forecast([series[0]], num_samples=2)


# --- masks -----------------------------------------------------------------------------------


def test_masks_are_all_that_may_be_asked_for():
    noise = GeneratorNoise(torch.Generator().manual_seed(0))
    mask = random_mask((4000, 3, 30), 6, noise, torch.empty(0))
    assert mask.shape == (4000, 3, 30)
    assert mask.dtype == torch.bool
    everything = mask.flatten(1).all(1)
    assert float(everything.float().mean()) == pytest.approx(0.1, abs=0.03)
    common = (mask == mask[:, :1]).all(2).all(1)
    ends = mask[:, :, -1].all(1) & ~mask[:, :, 0].any(1) & common
    # One block up to the end, of at most a horizon: the future.
    width = mask[:, 0].sum(1)
    block = (mask[:, 0, 1:] != mask[:, 0, :-1]).sum(1) == 1
    future = ends & block & (width <= 6)
    assert float(future.float().mean()) == pytest.approx(0.1, abs=0.04)
    rate = mask.float().mean((1, 2))
    assert float(rate.min()) > 0 or float((rate == 0).float().mean()) < 0.01
    assert set(width[future].tolist()) == set(range(1, 7))
    single = ~common & ((mask[:, 0, 1:] != mask[:, 0, :-1]).sum(1) > 2)
    assert float(single.float().mean()) > 0.3
