"""Figures of forecasts: the definitions of GluonTS, closed forms, and propriety."""

from __future__ import annotations

import io
import json
import warnings

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy.stats import kstest, norm

from scidiffusion.errors import ConfigError, DataError
from scidiffusion.timeseries import scores as figures
from scidiffusion.timeseries.scores import (
    NINE_LEVELS,
    NINETEEN_LEVELS,
    ForecastScores,
    pit_histogram,
    pit_values,
    render_scores,
    sample_quantiles,
    score_forecasts,
    weighted_quantile_loss,
)


def draw(windows=6, count=50, steps=7, dim=3, seed=0):
    """Windows and paths of one law, with correlated series of unlike levels."""
    rng = np.random.default_rng(seed)
    mixing = np.tril(rng.normal(size=(dim, dim))) + np.eye(dim)
    level = 3.0 + 2.0 * np.arange(dim)
    samples = rng.normal(size=(windows, count, steps, dim)) @ mixing.T + level
    observed = rng.normal(size=(windows, steps, dim)) @ mixing.T + level
    return observed, samples


def with_gaps(observed, share=0.2, seed=1):
    return np.where(np.random.default_rng(seed).random(observed.shape) < share, np.nan, observed)


def gluonts_figures(observed, samples, past, levels, season=1):
    evaluation = pytest.importorskip("gluonts.evaluation")
    forecast = pytest.importorskip("gluonts.model.forecast")
    steps, dim = observed.shape[1:]
    truths, forecasts = [], []
    for y, x in zip(observed, samples, strict=True):
        whole = np.concatenate([past.T, y])
        index = pd.period_range("2000-01-03", periods=len(whole), freq="D")
        frame = pd.DataFrame(whole, index=index)
        truths.append(frame if dim > 1 else frame[0])
        paths = x if dim > 1 else x[..., 0]
        forecasts.append(forecast.SampleForecast(samples=paths, start_date=index[-steps]))
    kind = evaluation.MultivariateEvaluator if dim > 1 else evaluation.Evaluator
    options = {"target_agg_funcs": {"sum": np.sum}} if dim > 1 else {}
    evaluator = kind(quantiles=levels, seasonality=season, num_workers=0, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pandas and of masked arrays, about gluonts' code
        return evaluator(truths, forecasts)[0]


@pytest.mark.parametrize("levels", [NINETEEN_LEVELS, NINE_LEVELS])
@pytest.mark.parametrize("count", [31, 50])
def test_several_series_equal_gluonts(levels, count):
    observed, samples = draw(count=count)
    past = np.random.default_rng(2).normal(size=(3, 40)).cumsum(axis=1)
    theirs = gluonts_figures(observed, samples, past, levels, season=7)
    crps = figures.crps(observed, samples, levels)
    assert crps == pytest.approx(theirs["mean_wQuantileLoss"], rel=1e-12)
    total = figures.crps_sum(observed, samples, levels)
    assert total == pytest.approx(theirs["m_sum_mean_wQuantileLoss"], rel=1e-12)
    assert figures.normalised_deviation(observed, samples) == pytest.approx(theirs["ND"])
    assert figures.nrmse(observed, samples) == pytest.approx(theirs["NRMSE"], rel=1e-12)
    ours = score_forecasts(observed, samples, train=[past], season=7)
    assert ours.mase == pytest.approx(theirs["MASE"], rel=1e-12)
    assert ours.nd_sum == pytest.approx(theirs["m_sum_ND"], rel=1e-12)
    assert (ours.crps if len(levels) == 19 else ours.crps_nine) == crps
    assert (ours.crps_sum if len(levels) == 19 else ours.crps_sum_nine) == total


def test_one_series_with_gaps_equals_gluonts():
    observed, samples = draw(windows=4, dim=1)
    observed = with_gaps(observed)
    observed[2] = np.nan
    past = with_gaps(np.random.default_rng(2).normal(size=(1, 40)).cumsum(axis=1))
    theirs = gluonts_figures(observed, samples, past, NINETEEN_LEVELS, season=3)
    assert np.isnan(observed).any()
    ours = score_forecasts(observed, samples, train=[past], season=3)
    assert ours.crps == pytest.approx(theirs["mean_wQuantileLoss"], rel=1e-12)
    assert ours.nd == pytest.approx(theirs["ND"], rel=1e-12)
    assert ours.mase == pytest.approx(theirs["MASE"], rel=1e-12)


def test_a_level_is_the_order_statistic_of_gluonts():
    samples = np.arange(31.0)[None, ::-1, None, None]
    # 30 q is 1.5, 4.5 and 28.5: halves go to the even neighbour.
    assert sample_quantiles(samples, [0.0, 0.05, 0.15, 0.95, 1.0]).ravel().tolist() == [
        0, 2, 4, 28, 30,
    ]  # fmt: skip
    y = np.full((1, 1, 1), 2.0)
    # The ends of the 90 % interval are the samples 2 and 28, both of which count as inside.
    assert figures.coverage(y, samples, 0.9) == 1.0
    assert figures.coverage(y - 0.5, samples, 0.9) == 0.0
    assert figures.coverage(y + 26, samples, 0.9) == 1.0


def gaussian_crps(y):
    """CRPS of a standard normal forecast, Gneiting & Raftery 2007, eq. 21."""
    return y * (2 * norm.cdf(y) - 1) + 2 * norm.pdf(y) - 1 / np.sqrt(np.pi)


@pytest.mark.parametrize("y", [-2.0, 0.0, 0.7])
def test_crps_of_a_gaussian(y):
    count = 20_001
    exact = norm.ppf((np.arange(count) + 0.5) / count)[None, :, None, None]
    observed = np.full((1, 1, 1), y)
    assert figures.fair_crps(observed, exact) == pytest.approx(gaussian_crps(y), abs=2e-4)
    assert figures.energy_score(observed, exact[:, ::10]) == pytest.approx(
        gaussian_crps(y), abs=2e-3
    )
    # Fine levels: the mean quantile loss is the CRPS (Gneiting & Ranjan 2011).
    levels = (np.arange(999) + 0.5) / 999
    loss = figures.crps(observed + 10, exact + 10, levels) * (y + 10)
    assert loss == pytest.approx(gaussian_crps(y), abs=2e-3)


def test_fair_crps_does_not_depend_on_the_number_of_samples():
    rng = np.random.default_rng(0)
    y = 0.4
    for count in (2, 5):
        samples = rng.normal(size=(40_000, count, 1))
        mean = figures.fair_crps(np.full((40_000, 1), y), samples)
        assert mean == pytest.approx(gaussian_crps(y), abs=0.01)
    pairs = rng.normal(size=(1, 6, 1))
    distance = np.abs(pairs[0] - pairs[0].T).sum() / 30
    expected = np.abs(pairs - y).mean() - distance / 2
    assert figures.fair_crps(np.full((1, 1), y), pairs) == pytest.approx(expected)


def test_energy_score_of_one_series_is_the_crps_of_the_samples():
    observed, samples = draw(windows=1, count=9, steps=1, dim=1)
    y, x = observed[0, 0, 0], np.sort(samples.ravel())
    # The integral of (F - 1[y <= t])^2, a step function, piece by piece.
    knots = np.sort(np.append(x, y))
    middle = (knots[1:] + knots[:-1]) / 2
    steps = (x <= middle[:, None]).mean(axis=1) - (y <= middle)
    integral = (np.square(steps) * np.diff(knots)).sum()
    assert figures.energy_score(observed, samples) == pytest.approx(integral, rel=1e-10)


def plain_energy(y, x):
    within = np.linalg.norm(x[:, None] - x[None], axis=-1).mean()
    return np.linalg.norm(x - y, axis=-1).mean() - within / 2


def plain_variogram(y, x, power):
    true = np.abs(y[:, None] - y[None]) ** power
    expected = (np.abs(x[:, :, None] - x[:, None]) ** power).mean(axis=0)
    return np.square(true - expected).mean()


def test_joint_scores_are_their_definitions_and_leave_out_steps_with_gaps():
    observed, samples = draw(windows=3, steps=4)
    observed[1, 2, 0] = np.nan
    scale, last = np.array([1.0, 2.0, 0.5]), np.random.default_rng(5).normal(size=(3, 3))
    places = [(w, t) for w in range(3) for t in range(4) if (w, t) != (1, 2)]
    energy = np.mean(
        [plain_energy(observed[w, t] / scale, samples[w, :, t] / scale) for w, t in places]
    )
    assert figures.energy_score(observed, samples, scale=scale) == pytest.approx(energy)
    variogram = np.mean(
        [
            plain_variogram(
                (observed[w, t] - last[w]) / scale, (samples[w, :, t] - last[w]) / scale, 0.7
            )
            for w, t in places
        ]
    )
    ours = figures.variogram_score(observed, samples, last=last, scale=scale, power=0.7)
    assert ours == pytest.approx(variogram)
    two = figures.variogram_score(observed[..., :2], samples[..., :2])
    assert figures.variogram_score(observed, samples, max_series=2) != pytest.approx(
        figures.variogram_score(observed, samples)
    )
    # The gap lies in the first series; without it the step counts.
    assert figures.variogram_score(observed, samples, max_series=2) == pytest.approx(two)


def test_joint_scores_see_dependence_and_marginal_ones_do_not():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(300, 1, 1))
    observed = shared + 0.1 * rng.normal(size=(300, 1, 4))
    right = rng.normal(size=(300, 80, 1, 1)) + 0.1 * rng.normal(size=(300, 80, 1, 4))
    wrong = np.stack(
        [rng.permuted(right[..., k], axis=1) for k in range(4)], axis=-1
    )  # the same marginals, series independent
    assert figures.crps(observed, wrong) == pytest.approx(figures.crps(observed, right))
    assert figures.energy_score(observed, right) < 0.95 * figures.energy_score(observed, wrong)
    assert figures.variogram_score(observed, right) < 0.2 * figures.variogram_score(
        observed, wrong
    )
    assert figures.coverage_sum(observed, right, 0.9) > 0.85
    assert figures.coverage_sum(observed, wrong, 0.9) < 0.75


def test_coverage_and_pit_of_an_exact_forecast():
    observed, samples = draw(windows=400, count=99, steps=5)
    # Between the order statistics i and j of S samples lies a share of (j - i) / (S + 1).
    for level, exact in ((0.5, (74 - 24) / 100), (0.9, (93 - 5) / 100)):
        assert figures.coverage(observed, samples, level) == pytest.approx(exact, abs=0.02)
        assert figures.coverage_sum(observed, samples, level) == pytest.approx(exact, abs=0.03)
    values = pit_values(observed, samples)
    assert values.shape == observed.shape
    # Series depend on each other, steps do not: the test needs independent values.
    for series in range(3):
        assert kstest(values[..., series].ravel(), "uniform").pvalue > 1e-3
    narrow = 0.5 * (samples - samples.mean(axis=1, keepdims=True)) + samples.mean(
        axis=1, keepdims=True
    )
    assert kstest(pit_values(observed, narrow).ravel(), "uniform").pvalue < 1e-10


def test_pit_is_uniform_where_values_repeat_and_samples_are_few():
    rng = np.random.default_rng(0)
    observed = rng.poisson(1.0, size=(4000, 1, 1)).astype(float)
    samples = rng.poisson(1.0, size=(4000, 4, 1, 1))
    values = pit_values(observed, samples, seed=3)
    assert kstest(values.ravel(), "uniform").pvalue > 0.01
    assert np.array_equal(values, pit_values(observed, samples, seed=3))
    assert not np.array_equal(values, pit_values(observed, samples, seed=4))
    assert values.min() >= 0
    assert values.max() < 1


def test_pit_histogram():
    values = [0.0, 0.05, 0.31, np.nan, 1.0]
    assert pit_histogram(values, bins=5).tolist() == [0.5, 0.25, 0.0, 0.0, 0.25]
    for wrong in ([np.nan], [1.2]):
        with pytest.raises(DataError, match="PIT"):
            pit_histogram(wrong)
    with pytest.raises(ConfigError, match="one bin"):
        pit_histogram(values, bins=0)


def test_missing_observations_do_not_count():
    observed, samples = draw(windows=4)
    gone = observed.copy()
    gone[2:] = np.nan
    past = np.random.default_rng(2).normal(size=(3, 40)).cumsum(axis=1)
    options = {"train": [past], "season": 2}
    last = past[:, -1]
    part = score_forecasts(gone, samples, last=np.tile(last, (4, 1)), **options).as_dict()
    whole = score_forecasts(
        observed[:2], samples[:2], last=np.tile(last, (2, 1)), **options
    ).as_dict()
    for name in set(part) - {"windows", "pit"}:
        assert part[name] == pytest.approx(whole[name]), name
    assert sum(part["pit"]) == pytest.approx(1)
    with pytest.raises(DataError, match="nothing to score"):
        score_forecasts(np.full_like(observed, np.nan), samples)


def test_units_of_the_joint_scores_are_those_of_the_training_series():
    observed, samples = draw()
    rng = np.random.default_rng(2)
    past = with_gaps(rng.normal(size=(3, 60)).cumsum(axis=1))
    past[2] = 4.0  # a constant series has no unit of its own
    last = rng.normal(size=(6, 3))
    ours = score_forecasts(observed, samples, last=last, train=[past])
    deviation = np.append(np.nanstd(past[:2], axis=1), 1.0)
    moves = np.append(np.nanstd(np.diff(past[:2]), axis=1), 1.0)
    energy = figures.energy_score(observed / deviation, samples / deviation)
    assert ours.energy_score == pytest.approx(energy)
    variogram = figures.variogram_score(
        (observed - last[:, None]) / moves, (samples - last[:, None, None]) / moves
    )
    assert ours.variogram_score == pytest.approx(variogram)


def test_windows_take_turns_among_the_items():
    observed, samples = draw(windows=4, dim=1)
    past = [np.array([[0.0, 1.0, 0.0]]), np.array([[0.0, 10.0, 0.0]])]
    error = np.abs(observed - sample_quantiles(samples, [0.5])[:, 0]).mean(axis=(1, 2))
    expected = (error / np.array([1.0, 10.0, 1.0, 10.0])).mean()
    assert figures.mase(observed, samples, past) == pytest.approx(expected)
    # A season longer than the past falls back to 1, as GluonTS does.
    assert figures.mase(observed, samples, past, season=24) == pytest.approx(expected)
    with pytest.raises(DataError, match="divide the 4"):
        figures.mase(observed, samples, [past[0]] * 3)


def test_what_does_not_apply_is_none():
    observed, samples = draw(dim=1)
    ours = score_forecasts(observed, samples)
    for name in ("crps_sum", "crps_sum_nine", "nd_sum", "energy_score", "variogram_score", "mase"):
        assert getattr(ours, name) is None
    assert ours.fair_crps is not None
    assert score_forecasts(observed, samples[:, :1]).fair_crps is None
    zero = score_forecasts(np.zeros_like(observed), samples)
    assert zero.crps is None
    assert zero.coverage_90 is not None
    assert json.loads(zero.to_json())["crps"] is None


def test_figures_as_text_and_table():
    observed, samples = draw()
    past = np.random.default_rng(2).normal(size=(3, 40)).cumsum(axis=1)
    ours = score_forecasts(observed, samples, last=np.zeros((6, 3)), train=[past])
    assert json.loads(ours.to_json()) == ours.as_dict()
    assert ForecastScores(**ours.as_dict() | {"pit": ours.pit}) == ours
    off = score_forecasts(observed, samples + 2, last=np.zeros((6, 3)), train=[past])
    assert off.pit_distance > ours.pit_distance
    table = render_scores({"ours": ours, "floor": off}, title="Some series")
    console = Console(file=io.StringIO(), width=100)
    console.print(table)
    text = console.file.getvalue()
    assert "Some series" in text
    assert "6 windows × 50 samples" in text
    assert [column.header for column in table.columns] == ["figure", "ours", "floor", "best"]
    lines = {line.split("│")[1].strip(): line for line in text.splitlines() if "│" in line}
    assert f"{ours.crps:.4g}" in lines["CRPS .05-.95"]
    assert f"{off.crps:.4g}" in lines["CRPS .05-.95"]
    assert f"{100 * ours.coverage_90:.1f} %" in lines["coverage 90 %"]
    best, other = (next(iter(column.cells)) for column in table.columns[1:3])
    assert (best.style, other.style) == ("bold", "")
    # The floor has forecast too high: its observations lie low in the forecast.
    assert list(table.columns[2].cells)[-1].plain[0] == "█"
    with pytest.raises(DataError, match="no scores"):
        render_scores({})


def test_a_table_leaves_out_what_nobody_has():
    observed, samples = draw(dim=1)
    table = render_scores({"ours": score_forecasts(observed, samples)})
    labels = [str(cell) for cell in table.columns[0].cells]
    assert "CRPS .05-.95" in labels
    assert not any("sum" in label or "energy" in label or "MASE" in label for label in labels)


def test_what_does_not_fit_is_named():
    observed, samples = draw()
    with pytest.raises(DataError, match="do not fit"):
        figures.crps(observed, samples[:, :, :-1])
    broken = samples.copy()
    broken[1, 2, 3, 0] = np.inf
    with pytest.raises(DataError, match=r"\(1, 2, 3, 0\).*diverged"):
        score_forecasts(observed, broken)
    infinite = observed.copy()
    infinite[1, 2, 0] = np.inf
    with pytest.raises(DataError, match=r"infinite at \(1, 2, 0\)"):
        figures.nrmse(infinite, samples)
    with pytest.raises(DataError, match=r"\(windows, steps, series\)"):
        figures.energy_score(observed[..., 0], samples[..., 0])
    with pytest.raises(DataError, match="3 positive numbers"):
        figures.energy_score(observed, samples, scale=[1.0, 0.0, 1.0])
    with pytest.raises(DataError, match="last must be"):
        figures.variogram_score(observed, samples, last=np.zeros(3))
    with pytest.raises(DataError, match="2 quantile forecasts for 3 levels"):
        weighted_quantile_loss(observed, samples[:, :2], [0.1, 0.5, 0.9])
    with pytest.raises(DataError, match="two independent samples"):
        figures.fair_crps(observed, samples[:, :1])
    for call in (
        lambda: figures.coverage(observed, samples, 90),
        lambda: sample_quantiles(samples, [50]),
        lambda: figures.variogram_score(observed, samples, power=0),
        lambda: figures.seasonal_scale(observed[0].T, season=0),
    ):
        with pytest.raises(ConfigError):
            call()
