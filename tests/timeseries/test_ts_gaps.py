"""Filling gaps and generating windows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from scidiffusion.core.rng import KeyedNoise
from scidiffusion.errors import ConfigError, DataError
from scidiffusion.guidance import ReconstructionGuidance
from scidiffusion.samplers import AngularAB2, sample
from scidiffusion.timeseries.denoiser import ColouredProcess
from scidiffusion.timeseries.density import WhiteDenoiser
from scidiffusion.timeseries.drawing import walk
from scidiffusion.timeseries.gaps import _ends, _owners, fill_gaps, generate_windows
from scidiffusion.timeseries.guidance import GuidedWindow, LinearFacts
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
}


def seasonal(dim=2, steps=400, noise=0.3, seed=0):
    rng = np.random.default_rng(seed)
    phase = 2 * np.pi * (np.arange(steps) + np.arange(dim)[:, None]) / 7
    scale = np.array([1.0, 50.0, 1e-3])[:dim, None]
    return 5 * scale + scale * (np.sin(phase) + noise * rng.standard_normal((dim, steps)))


def dataset(dim=2, **options):
    return SeriesSet([Series(seasonal(dim), START, item_id="a", **options)], "D")


@pytest.fixture(scope="module")
def trained():
    series = dataset()
    options = {**TINY, "max_steps": 150, "validate_every": 50, "gap_share": 0.5}
    return WindowModel(7, "D", options).fit(series, seed=0), series


def holes(item, *cuts, share=0.0, seed=0):
    target = item.target.copy()
    target[np.random.default_rng(seed).random(target.shape) < share] = np.nan
    for row, first, last in cuts:
        target[row, first:last] = np.nan
    return Series(target, item.start, item_id=item.item_id)


# --- filling ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cuts",
    [
        (),
        ((0, 0, 9),),
        ((1, 390, 400),),
        ((0, 100, 101), (1, 200, 260)),
        ((slice(None), 150, 250),),
        ((slice(None), 0, 60), (slice(None), 340, 400)),
    ],
    ids=["none", "leading", "trailing", "inner", "windows of all series", "both ends"],
)
def test_observed_cells_stay_and_missing_ones_are_filled(trained, cuts):
    model, series = trained
    item = holes(series[0], *cuts)
    filled = fill_gaps(model, [item], num_samples=3, seed=1)[0]
    assert filled.shape == (3, 400, 2)
    assert np.isfinite(filled).all()
    observed = np.isfinite(item.target).T
    for path in filled:
        assert np.array_equal(path[observed], item.target.T[observed])
    if cuts:
        assert (filled[0][~observed] != filled[1][~observed]).all()


def test_scattered_cells_are_filled_nearer_than_by_the_level(trained):
    model, series = trained
    item = holes(series[0], share=0.3)
    filled = fill_gaps(model, [item], num_samples=40, seed=1)[0]
    missing = ~np.isfinite(item.target).T
    truth = series[0].target.T
    spread = truth.std(0)
    error = ((filled.mean(0) - truth) / spread)[missing]
    assert np.sqrt((error**2).mean()) < 0.6
    inside = (np.quantile(filled, 0.05, 0) <= truth) & (truth <= np.quantile(filled, 0.95, 0))
    assert 0.75 < inside[missing].mean() <= 1


def test_the_same_seed_fills_alike_in_blocks_of_any_size(trained, monkeypatch):
    model, series = trained
    item = holes(series[0], share=0.2)
    other = holes(series[0], (0, 50, 90))
    filled = fill_gaps(model, [item, other], num_samples=4, seed=3)
    assert np.array_equal(filled[0], fill_gaps(model, [item, other], num_samples=4, seed=3)[0])
    assert not np.array_equal(filled[0], fill_gaps(model, [item], num_samples=4, seed=4)[0])
    # The first item of a call does not depend on what comes after it.
    assert np.array_equal(filled[0], fill_gaps(model, [item], num_samples=4, seed=3)[0])
    import scidiffusion.timeseries.gaps as module

    monkeypatch.setattr(module, "block_size", lambda *_: 3)
    again = fill_gaps(model, [item, other], num_samples=4, seed=3)
    for one, two in zip(filled, again, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_a_short_item_is_filled_too_and_one_without_values_is_refused(trained):
    model, series = trained
    short = Series(series[0].target[:, :5].copy(), START)
    short.target[0, 2] = np.nan
    filled = fill_gaps(model, [short], num_samples=2)[0]
    assert np.isfinite(filled).all()
    assert filled.shape == (2, 5, 2)
    empty = holes(series[0], (1, 0, 400))
    with pytest.raises(DataError, match="'a': 1 has no observed value"):
        fill_gaps(model, [empty], num_samples=2)


@pytest.mark.parametrize("total", [1, 7, 20, 21, 33, 100])
def test_every_step_is_owned_by_a_window_that_covers_it(total):
    length = 20
    ends = _ends(total, length)
    owner = _owners(ends, total, length)
    steps = np.arange(total)
    last = np.array(ends)[owner]
    assert ((last - length <= steps) & (steps < last)).all()
    assert max(ends) == total
    inner = (steps >= length // 2) & (steps < total - length // 2)
    # Away from the ends every step is seen from both sides.
    assert (np.minimum(steps - (last - length), last - 1 - steps)[inner] >= length // 4 - 1).all()


# --- generating ------------------------------------------------------------------------------


def test_generated_windows_resemble_the_training_data(trained):
    model, series = trained
    drawn = generate_windows(model, series, 200, seed=0)
    assert len(drawn) == 200
    length = model.denoiser.kriging.length
    values = np.stack([item.target for item in drawn])
    assert values.shape == (200, 2, length)
    assert np.isfinite(values).all()
    truth = series[0].target
    level, spread = truth.mean(1), truth.std(1)
    assert (np.abs(values.mean((0, 2)) - level) < 0.3 * spread).all()
    np.testing.assert_allclose(values.std((0, 2)), spread, rtol=0.35)
    unit = (values - level[:, None]) / spread[:, None]
    real = (truth - level[:, None]) / spread[:, None]
    for lag in (7, 3):
        ours = (unit[..., lag:] * unit[..., :-lag]).mean() / (unit**2).mean()
        theirs = (real[..., lag:] * real[..., :-lag]).mean() / (real**2).mean()
        assert ours == pytest.approx(theirs, abs=0.3)
        assert ours * theirs > 0


def test_generation_is_seeded_has_dates_and_does_not_look_at_values(trained):
    model, series = trained
    one = generate_windows(model, series, 5, seed=2)
    two = generate_windows(model, series, 5, seed=2)
    other = generate_windows(model, series, 5, seed=3)
    for first, second, third in zip(one, two, other, strict=True):
        assert np.array_equal(first.target, second.target)
        assert not np.array_equal(first.target, third.target)
        assert first.names == series[0].names
        assert series[0].start <= first.start
        assert first.start + first.length <= series[0].start + series[0].length
    # The same numbers in another order have the same level and spread: nothing else is seen.
    shuffled = SeriesSet([Series(series[0].target[:, ::-1].copy(), START, item_id="a")], "D")
    for first, second in zip(one, generate_windows(model, shuffled, 5, seed=2), strict=True):
        np.testing.assert_allclose(first.target, second.target, rtol=1e-5)


def test_windows_need_gaps_in_training_and_items_that_are_long_enough(trained):
    series = dataset()
    model = WindowModel(7, "D", {**TINY, "gap_share": 0.0}).fit(series)
    for what, call in (
        ("impute", lambda: fill_gaps(model, list(series), num_samples=1)),
        ("sample", lambda: generate_windows(model, series, 1)),
    ):
        with pytest.raises(ConfigError, match=f"{what} needs a model .* gap_share > 0"):
            call()
    model, _ = trained
    short = SeriesSet([Series(series[0].target[:, :10], START)], "D")
    with pytest.raises(DataError, match="shorter; fit with a smaller context_length"):
        generate_windows(model, short, 1)


# --- the two classic ways of conditioning a window -------------------------------------------


def window_and_mask(model, series):
    bank = model.bank_of(series)
    end = torch.tensor([300])
    window = bank.windows(torch.zeros_like(end), end, model.context, model.zone)
    hidden = torch.zeros_like(window.observed)
    hidden[..., 10:14] = True
    return window, hidden


class Coloured:
    """The denoiser with the process of a frame's noise, along which gradients are turned."""

    def __init__(self, model, context):
        self.denoiser = model.denoiser
        law = context.frame.law
        self.process = ColouredProcess(model.denoiser.process.schedule, law, 1)
        self.process.project = lambda value: law.covariance(value[None])[0]

    def __call__(self, z, t, cond=None):
        return self.denoiser(z, t, cond)


def means(model, context, window, denoiser=None, finish=None, count=600):
    drawn = walk(
        model,
        context,
        num_samples=count,
        num_steps=20,
        noise=KeyedNoise(5),
        denoiser=denoiser,
    )
    value = context.frame.value(drawn)
    return value if finish is None else finish(value, context)


def test_conditional_imputation_as_in_csdi_recovers_hidden_cells(trained):
    """The network is told the given cells and draws the others (Tashiro et al. 2021)."""
    model, series = trained
    window, hidden = window_and_mask(model, series)
    context = model.denoiser.gap_context(window, hidden)
    value = means(model, context, window)[0]
    truth = window.value[0]
    error = (value.mean(0) - truth)[hidden[0]]
    assert float(error.pow(2).mean().sqrt()) < 0.6 * float(truth.std())
    assert float((truth[hidden[0]]).std()) > 0.5
    assert (value.std(0)[hidden[0]] > 0.05).all()


@pytest.mark.parametrize("way", ["projection", "reconstruction"])
def test_guiding_an_unconditional_window_as_in_tsdiff_meets_the_conditional_draw(trained, way):
    """A network that is told nothing is guided by the given cells (Kollovieh et al. 2023)."""
    model, series = trained
    window, hidden = window_and_mask(model, series)
    nothing = model.denoiser.gap_context(window, torch.ones_like(hidden))
    direct = means(model, model.denoiser.gap_context(window, hidden), window)[0].mean(0)
    given = ~hidden[0]
    if way == "projection":
        cells = torch.eye(given.numel(), dtype=torch.float64)[given.flatten()]
        facts = LinearFacts(cells.unflatten(1, given.shape), window.value[0][given].double())
        guided = GuidedWindow(model.denoiser, [facts])
        value = means(model, nothing, window, guided, guided.finish)[0]
        torch.testing.assert_close(
            value[:, given].float(), window.value[0][given].expand(600, -1), rtol=1e-4, atol=1e-4
        )
    else:
        frame = nothing.frame
        rows = 64
        residual = frame.residual(window.value).expand(rows, -1, -1)
        guidance = ReconstructionGuidance(
            Coloured(model, nothing),
            residual,
            given.expand(rows, -1, -1),
            data_var=frame.std[0] ** 2,
        )
        process = ColouredProcess(model.denoiser.process.schedule, frame.law, 1)
        like = torch.empty(rows, *given.shape)
        with torch.no_grad():
            drawn = sample(
                process,
                guidance,
                like,
                sampler=AngularAB2(),
                steps=40,
                noise=KeyedNoise(5),
                cond=nothing,
            )
        value = frame.value(drawn[None])[0]
    plain = means(model, nothing, window)[0].mean(0)
    ours = value.mean(0)[hidden[0]].float()
    apart = float((ours - direct[hidden[0]]).abs().mean())
    unguided = float((plain - direct)[hidden[0]].abs().mean())
    assert apart < 0.4 * unguided
    assert unguided > 0.3


def test_white_coordinates_serve_one_path_a_window(trained):
    model, series = trained
    window, hidden = window_and_mask(model, series)
    context = model.denoiser.gap_context(window, hidden)
    white = torch.randn(1, *hidden.shape[1:], dtype=torch.float64)
    prediction = WhiteDenoiser(model, context)(white, torch.tensor(0.5, dtype=torch.float64))
    assert prediction.value.shape == white.shape
