"""Behind the interfaces of GluonTS everything that takes its predictors must work."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("gluonts")

from gluonts.dataset.common import ListDataset
from gluonts.evaluation import MultivariateEvaluator, make_evaluation_predictions
from gluonts.model.predictor import Predictor

from scidiffusion.errors import ConfigError, DataError, MissingExtraError, ModelFileError
from scidiffusion.timeseries.entries import group_series, series_of
from scidiffusion.timeseries.gluon import DiffusionEstimator, DiffusionPredictor

H = 4
TINY = {
    "width": 32,
    "blocks": 1,
    "encoder_blocks": 1,
    "max_steps": 6,
    "validate_every": 3,
    "precision": "float32",
    "device": "cpu",
    "context_length": 8,
}
STARTS = {"h": "2020-01-01 00:00", "M": "2000-01", "B": "2020-01-01"}


def values(steps, dim=0, seed=0):
    rng = np.random.default_rng(seed)
    shape = (dim, steps) if dim else (steps,)
    return 10 + np.sin(2 * np.pi * np.arange(steps) / 12) + 0.3 * rng.standard_normal(shape)


def entries(count=2, steps=120, dim=0, freq="h", **fields):
    start = pd.Period(STARTS[freq], freq=freq)
    return [
        {"target": values(steps, dim, seed), "start": start, "item_id": f"s{seed}", **fields}
        for seed in range(count)
    ]


def estimator(freq="h", **options):
    settings = {"options": TINY, "random_state": 0, "num_parallel_samples": 20, **options}
    return DiffusionEstimator(freq, H, **settings)


@pytest.fixture(scope="module")
def univariate():
    data = entries()
    return estimator().train(data), data


@pytest.fixture(scope="module")
def multivariate():
    data = entries(1, dim=3)
    return estimator().train(data), data


def samples(predictor, data, **options):
    return [forecast.samples for forecast in predictor.predict(data, random_state=1, **options)]


def test_forecasts_have_the_shapes_dates_and_names_of_gluonts(univariate, multivariate):
    predictor, data = univariate
    forecasts = list(predictor.predict(data, random_state=1))
    for forecast, entry in zip(forecasts, data, strict=True):
        assert forecast.samples.shape == (20, H)
        assert forecast.start_date == entry["start"] + 120
        assert forecast.item_id == entry["item_id"]
        assert np.isfinite(forecast.samples).all()
    predictor, data = multivariate
    (forecast,) = predictor.predict(data)
    assert forecast.samples.shape == (20, H, 3)


def test_numbers_of_samples_and_steps_are_honoured(univariate, monkeypatch):
    predictor, data = univariate
    assert samples(predictor, data, num_samples=7)[0].shape == (7, H)
    network = predictor.prediction_net.model.denoiser.network
    calls = []
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda *args: calls.append(1) or forward(*args))
    samples(predictor, data[:1], num_steps=3)
    assert len(calls) == 3
    calls.clear()
    samples(predictor, data[:1])
    assert len(calls) == 10


def test_a_seed_repeats_whatever_the_batches_and_no_seed_follows_torch(univariate):
    predictor, data = univariate
    whole = samples(predictor, data)
    before, predictor.batch_size = predictor.batch_size, 1
    single = samples(predictor, data)
    predictor.batch_size = before
    for one, two in zip(whole, single, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5)
    drawn = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        drawn.append(next(iter(predictor.predict(data))).samples)
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


@pytest.mark.parametrize("kind", ["univariate", "multivariate"])
def test_a_predictor_that_was_written_and_read_forecasts_alike(kind, request, tmp_path):
    predictor, data = request.getfixturevalue(kind)
    predictor.serialize(tmp_path)
    assert not list(tmp_path.glob("*.pt"))
    for reader in (Predictor, DiffusionPredictor):
        twin = reader.deserialize(tmp_path)
        assert isinstance(twin, DiffusionPredictor)
        for one, two in zip(samples(predictor, data), samples(twin, data), strict=True):
            assert np.array_equal(one, two)


@pytest.mark.parametrize("damage", ["cut", "noise", "gone", "other"])
def test_damaged_weights_are_named(univariate, tmp_path, damage):
    predictor, _ = univariate
    predictor.serialize(tmp_path)
    path = tmp_path / "prediction-net.safetensors"
    raw = path.read_bytes()
    if damage == "cut":
        path.write_bytes(raw[: len(raw) // 2])
    elif damage == "noise":
        path.write_bytes(b"\x00" * 100)
    elif damage == "gone":
        path.unlink()
    else:
        other = estimator(options={**TINY, "width": 16}).train(entries(1))
        (tmp_path / "other").mkdir()
        other.serialize(tmp_path / "other")
        path.write_bytes((tmp_path / "other" / path.name).read_bytes())
    with pytest.raises(ModelFileError, match="missing or damaged"):
        DiffusionPredictor.deserialize(tmp_path)


def test_evaluation_of_gluonts_runs(univariate, multivariate):
    predictor, data = univariate
    dataset = ListDataset(
        [{"target": entry["target"], "start": entry["start"]} for entry in data], freq="h"
    )
    forecasts, truths = make_evaluation_predictions(dataset, predictor, num_samples=11)
    forecasts, truths = list(forecasts), list(truths)
    assert forecasts[0].samples.shape == (11, H)
    assert forecasts[0].start_date == data[0]["start"] + 120 - H
    assert len(truths[0]) == 120
    predictor, data = multivariate
    dataset = ListDataset(
        [{"target": data[0]["target"], "start": data[0]["start"]}],
        freq="h",
        one_dim_target=False,
    )
    forecasts, truths = make_evaluation_predictions(dataset, predictor, num_samples=11)
    evaluator = MultivariateEvaluator(
        quantiles=(0.1, 0.5, 0.9), target_agg_funcs={"sum": np.sum}, num_workers=0
    )
    scores, _ = evaluator(list(truths), list(forecasts))
    assert np.isfinite(scores["mean_wQuantileLoss"])
    assert np.isfinite(scores["m_sum_mean_wQuantileLoss"])


def test_the_older_backtest_of_gluonts_runs(univariate):
    backtest = pytest.importorskip("gluonts.evaluation.backtest")
    from gluonts.evaluation import Evaluator

    predictor, data = univariate
    dataset = ListDataset(
        [{"target": entry["target"], "start": entry["start"]} for entry in data], freq="h"
    )
    scores, _ = backtest.backtest_metrics(
        dataset, predictor, evaluator=Evaluator(num_workers=0), num_samples=9
    )
    assert np.isfinite(scores["mean_wQuantileLoss"])


def test_training_leaves_its_arguments_and_the_working_folder_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options, kwargs = dict(TINY), {"callbacks": []}
    made = estimator(options=options, trainer_kwargs=kwargs)
    data = entries(1)
    before = data[0]["target"].copy()
    made.train(data)
    made.train(data)
    assert options == TINY
    assert kwargs == {"callbacks": []}
    assert made.trainer_kwargs == {"callbacks": []}
    assert np.array_equal(data[0]["target"], before)
    assert not list(tmp_path.iterdir())


def test_training_goes_on_from_a_predictor():
    data = entries(1)
    still = estimator(options={**TINY, "max_steps": 1, "lr": 1e-12})
    quick = {**TINY, "max_steps": 30, "validate_every": 30, "lr": 0.01, "ema_decay": 0.5}
    first = estimator(options=quick).train(data)
    later = still.train_from(first, data)
    fresh = still.train(data)
    name = "network.read.weight"
    ours = later.prediction_net.denoiser.state_dict()[name]
    torch.testing.assert_close(ours, first.prediction_net.denoiser.state_dict()[name])
    assert not torch.allclose(ours, fresh.prediction_net.denoiser.state_dict()[name], atol=1e-3)


def test_validation_data_judge_the_training():
    data = entries(2)
    output = estimator().train_model(data, validation_data=entries(1, steps=60))
    result = output.trained_net.model if hasattr(output.trained_net, "model") else None
    assert result is not None
    assert output.trainer is not None
    assert samples(output.predictor, data)[0].shape == (20, H)
    with pytest.raises(DataError, match="no series of the validation data has more than"):
        estimator().train_model(data, validation_data=entries(1, steps=H))
    with pytest.raises(ConfigError, match="no argument 'shuffle'"):
        estimator().train_model(data, shuffle=True)


@pytest.mark.parametrize(
    ("given", "data"),
    [("H", "h"), ("h", "h"), ("1h", "h"), ("M", "M"), ("ME", "M"), ("MS", "M"), ("B", "B")],
)
def test_aliases_of_a_frequency_are_one(given, data):
    made = estimator(given)
    dataset = entries(1, steps=60, freq=data)
    (forecast,) = made.train(dataset).predict(dataset)
    assert forecast.start_date == dataset[0]["start"] + 60
    assert forecast.start_date.freqstr == dataset[0]["start"].freqstr


def test_stamps_and_texts_serve_as_starts():
    for start in ("2020-01-01 05:00", pd.Timestamp("2020-01-01 05:00")):
        item = series_of({"target": [1.0, 2.0], "start": start}, "h", (0, 0, 0, 0))
        assert item.start == pd.Period("2020-01-01 05:00", freq="h")


def test_another_frequency_and_missing_fields_are_named():
    with pytest.raises(DataError, match="'s0' has the frequency 'h', but the estimator 'D'"):
        estimator("D").train(entries(1))
    made = estimator(num_feat_dynamic_real=2)
    with pytest.raises(DataError, match="'s0' has 0 rows of feat_dynamic_real, but 2 are used"):
        made.train(entries(1))
    with pytest.raises(ConfigError, match="method must be one of"):
        estimator(method="magic")
    with pytest.raises(ConfigError, match="no option 'widht'"):
        estimator(options={"widht": 1})
    with pytest.raises(DataError, match="'0', has 3 steps"):
        estimator().train([{"target": np.ones(3), "start": pd.Period("2020", freq="h")}])


def test_covariates_must_reach_over_the_horizon():
    rng = np.random.default_rng(0)
    fields = {"feat_dynamic_real": rng.normal(size=(1, 120 + H)), "feat_static_cat": [1]}
    data = entries(1, **fields)
    predictor = estimator(num_feat_dynamic_real=1, num_feat_static_cat=1).train(data)
    assert samples(predictor, data)[0].shape == (20, H)
    short = [{**data[0], "feat_dynamic_real": data[0]["feat_dynamic_real"][:, :122]}]
    with pytest.raises(DataError, match="'s0': the covariates known in advance end at"):
        samples(predictor, short)
    gap = data[0]["feat_dynamic_real"].copy()
    gap[0, 121] = np.nan
    with pytest.raises(DataError, match="'s0': covariate 0, known in advance, is missing"):
        samples(predictor, [{**data[0], "feat_dynamic_real": gap}])


def test_a_small_signal_on_a_large_level_keeps_its_digits(univariate):
    predictor, data = univariate
    raised = [{**data[0], "target": data[0]["target"] + 1e9}]
    plain, high = samples(predictor, data[:1])[0], samples(predictor, raised)[0]
    np.testing.assert_allclose(high - 1e9, plain, rtol=0, atol=1e-2)


def test_wishes_reach_the_predictor(univariate):
    from scidiffusion.timeseries.wishes import Wishes

    predictor, data = univariate
    for drawn in samples(predictor, data, wishes=Wishes(totals=[(np.ones(H), 50.0)])):
        np.testing.assert_allclose(drawn.sum(1), 50, rtol=1e-5)


# --- grouping --------------------------------------------------------------------------------


def test_series_are_grouped_window_by_window_with_gaps_as_gaps():
    start = pd.Period("2020-01-01 00:00", freq="h")
    data = [
        {"target": np.arange(6.0), "start": start},
        {"target": 10 + np.arange(3.0), "start": start + 2},
        {"target": np.arange(8.0), "start": start},
        {"target": 10 + np.arange(8.0), "start": start - 1},
    ]
    first, second = group_series(data, windows=2)
    nan = np.nan
    np.testing.assert_array_equal(
        first["target"], [[0, 1, 2, 3, 4, 5], [nan, nan, 10, 11, 12, nan]]
    )
    assert first["start"] == start
    np.testing.assert_array_equal(
        second["target"],
        [[nan, 0, 1, 2, 3, 4, 5, 6, 7], [10, 11, 12, 13, 14, 15, 16, 17, nan]],
    )
    assert second["start"] == start - 1
    with pytest.raises(DataError, match="4 entries do not divide into 3 windows"):
        group_series(data, windows=3)
    with pytest.raises(DataError, match="different frequencies"):
        group_series([data[0], {"target": np.ones(3), "start": pd.Period("2020", freq="D")}])
    with pytest.raises(DataError, match="0 entries"):
        group_series([])


def test_grouped_steps_of_several_units_line_up():
    start = pd.Period("2020-01-01 00:00", freq="2h")
    (grouped,) = group_series(
        [
            {"target": np.arange(4.0), "start": start},
            {"target": np.arange(3.0), "start": start + 1},
        ]
    )
    np.testing.assert_array_equal(grouped["target"], [[0, 1, 2, 3], [np.nan, 0, 1, 2]])
    between = pd.Period("2020-01-01 01:00", freq="2h")
    with pytest.raises(DataError, match="do not start on one grid of '2h' steps"):
        group_series(
            [{"target": np.ones(3), "start": start}, {"target": np.ones(3), "start": between}]
        )


def test_what_is_written_is_json_and_safetensors(univariate, tmp_path):
    predictor, _ = univariate
    predictor.serialize(tmp_path)
    for path in Path(tmp_path).rglob("*.json"):
        json.loads(path.read_text())
    assert {path.suffix for path in Path(tmp_path).rglob("*") if path.is_file()} <= {
        ".json",
        ".safetensors",
        ".txt",
    }


def test_without_gluonts_the_estimator_says_what_to_install(monkeypatch):
    import scidiffusion.timeseries as package

    monkeypatch.delitem(vars(package), "DiffusionEstimator", raising=False)
    monkeypatch.setitem(sys.modules, "gluonts", None)
    with pytest.raises(MissingExtraError, match=r"scidiffusion\[timeseries\]"):
        package.DiffusionEstimator  # noqa: B018
