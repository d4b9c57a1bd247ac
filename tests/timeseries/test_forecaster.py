"""The pandas front end to end: every layout, frequency and kind of bad input."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from scidiffusion.errors import (
    ConditionError,
    ConfigError,
    DataError,
    InputError,
    ModelFileError,
    OutputError,
    ScidiffusionWarning,
)
from scidiffusion.timeseries import DiffusionForecaster, Wishes
from scidiffusion.timeseries import forecaster as front

pytestmark = pytest.mark.filterwarnings("error::FutureWarning")

TINY = {
    "width": 16, "heads": 1, "blocks": 1, "encoder_blocks": 1, "max_steps": 5,
    "validate_every": 5, "precision": "float32",
}  # fmt: skip


def tiny(horizon=5, **options):
    given = {"options": TINY, "progress": False, "random_state": 0, "num_samples": 20}
    return DiffusionForecaster(horizon, **(given | options))


def wide(columns=("a", "b"), periods=80, freq="D", start="2024-01-01", **options):
    index = pd.date_range(start, periods=periods, freq=freq, **options)
    wave = np.sin(np.arange(periods) / 7 * 2 * np.pi)
    noise = np.random.default_rng(0).normal(size=(periods, len(columns)))
    values = wave[:, None] + 0.1 * noise + 10.0 * np.arange(len(columns))
    return pd.DataFrame(values, index=index, columns=list(columns))


def long(ids=("a", "b"), **options):
    frame = wide(list(ids), **options).rename_axis("time")
    return frame.melt(var_name="item_id", ignore_index=False).reset_index()[
        ["item_id", "time", "value"]
    ]


@pytest.fixture(scope="module")
def frame():
    return wide()


@pytest.fixture(scope="module")
def joint(frame):
    return tiny().fit(frame)


@pytest.fixture(scope="module")
def separate():
    return tiny().fit(long())


# -- layouts and frequencies ---------------------------------------------------------------------


def test_a_wide_frame_in_a_wide_frame_out(joint, frame):
    assert joint.freq_ == "D"
    result = joint.predict(frame, quantiles=[0.1, 0.5, 0.9], random_state=1)
    after = pd.date_range(frame.index[-1], periods=6, freq="D")[1:]
    assert result.index.equals(after)
    assert result.columns.get_level_values(0).unique().tolist() == ["a", "b"]
    low, middle, high = (result.xs(level, axis=1, level=1) for level in ("0.1", "0.5", "0.9"))
    assert (low < middle).all(axis=None)
    assert (middle < high).all(axis=None)
    paths = joint.predict(frame, quantiles=None, random_state=1)
    assert paths.shape == (100, 2)
    assert paths.index.names == ["sample", None]
    np.testing.assert_allclose(paths.groupby(level=1).quantile(0.5).to_numpy(), middle.to_numpy())


def test_a_long_frame_in_a_long_frame_out(separate):
    data = long()
    ends = data.drop(index=data.index[-10:])  # b ends earlier
    result = separate.predict(ends)
    assert list(result) == ["item_id", "time", "0.05", "0.25", "0.5", "0.75", "0.95"]
    assert result.groupby("item_id")["time"].min().tolist() == [
        pd.Timestamp("2024-03-21"),
        pd.Timestamp("2024-03-11"),
    ]
    assert np.isfinite(result["0.5"]).all()


@pytest.mark.parametrize(
    "freq",
    ["5min", "15min", "h", "6h", "D", "B", "W-MON", "MS", "ME", "BME", "QS", "QE-FEB", "YS", "YE"],
)
def test_forecasts_go_on_from_five_minutes_to_years(freq):
    whole = wide(["a"], 70, freq, "1990-01-01")
    model = tiny(4).fit(whole[:60])
    result = model.predict(whole[:60])
    assert result.index.equals(whole.index[60:64])
    assert result.index.freq is not None
    assert np.isfinite(result.to_numpy()).all()


@pytest.mark.parametrize("freq", ["h", "D"])
def test_forecasts_go_on_over_a_change_of_clocks(freq):
    whole = wide(["a"], 74, freq, "2024-01-25" if freq == "D" else "2024-03-28", tz="Europe/Paris")
    model = tiny(4).fit(whole[:70])
    result = model.predict(whole[:-1] if freq == "h" else whole[:65])
    start = 73 if freq == "h" else 65
    assert result.index[0] == whole.index[start]
    assert str(result.index.tz) == "Europe/Paris"


def test_periods_series_and_numbers_come_back_as_they_went():
    quarters = wide([2020, 2021], 60, "QS").to_period("Q")
    model = tiny(4).fit(quarters)
    result = model.predict(quarters, quantiles=[0.5])
    assert result.index.equals(pd.period_range(quarters.index[-1] + 1, periods=4, freq="Q"))
    assert result.columns.get_level_values(0).tolist() == [2020, 2021]
    series = wide(["a"])["a"]
    assert tiny().fit(series).predict(series).shape == (5, 5)


def test_statsmodels_data_with_gaps(tmp_path):
    co2 = pytest.importorskip("statsmodels.api").datasets.co2.load_pandas().data.iloc[-400:]
    gaps = co2.mask(np.random.default_rng(0).random(co2.shape) < 0.1)
    assert gaps["co2"].isna().sum() > 20
    model = tiny(8).fit(gaps)
    assert model.freq_ == "W-SAT"
    filled = model.impute(gaps)
    assert filled.index.equals(co2.index)
    assert not filled.isna().any(axis=None)
    kept = gaps["co2"].notna()
    np.testing.assert_array_equal(filled["co2"][kept], gaps["co2"][kept])
    assert (filled["co2"] - co2["co2"])[~kept].abs().max() < 5


@pytest.mark.parametrize("multivariate", [True, False])
def test_covariates_known_in_advance(multivariate):
    data = wide(["a", "b", "holiday"])
    data["holiday"] = (np.arange(80) % 7 == 0).astype(bool)
    data.loc[data.index[-5:], ["a", "b"]] = np.nan
    model = tiny(known="holiday", multivariate=multivariate).fit(data)
    inside = model.forecast(data, random_state=0)
    assert inside[0].start == pd.Period("2024-03-16", "D")
    known, ahead = data[:75], data.loc[data.index[75:], ["holiday"]]
    beside = model.forecast(known, future=ahead, random_state=0)
    np.testing.assert_array_equal(inside[0].samples, beside[0].samples)
    with pytest.raises(DataError, match=r"'holiday' is missing at 2024-03-16.*future="):
        model.predict(known)
    assert model.impute(data)[["a", "b"]].notna().all(axis=None)
    assert model.plot(known, future=ahead) is not None


def test_static_properties():
    static = pd.DataFrame({"size": [1.0, 5.0, 2.0], "kind": list("xyz")}, list("abc"))
    model = tiny().fit(long(), static=static)
    with pytest.warns(ScidiffusionWarning, match="1 of 2 series were not in the training data"):
        result = model.predict(long(["a", "c"]), static=static)
    assert result["item_id"].unique().tolist() == ["a", "c"]
    assert model.impute(long(), static=static).shape == (160, 3)
    assert len(model.score_samples(long(), static=static)) == 2
    assert len(model.sample(2)) == 2
    assert model.plot(long(), static=static) is not None
    with pytest.raises(DataError, match="give static="):
        model.predict(long())
    assert len(model.backtest(long(), 2, static=static, show=False).pasts) == 4


def test_cold_start_works_and_is_said(separate):
    with pytest.warns(ScidiffusionWarning, match=r"1 of 3 series were not.*\(new\)") as caught:
        result = separate.predict(long(["a", "new", "b"]))
    assert len([w for w in caught if w.category is ScidiffusionWarning]) == 1
    assert result["item_id"].unique().tolist() == ["a", "new", "b"]
    one = tiny().fit(wide(["a"]))
    with pytest.warns(ScidiffusionWarning, match="not in the training data"):
        assert one.predict(wide(["other"])).shape == (5, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        separate.predict(long())


def test_a_constant_series_is_forecast_as_such():
    data = wide(["a"]).assign(a=7.0)
    result = tiny().fit(data).predict(data)
    np.testing.assert_allclose(result, 7.0, atol=1.0)
    assert np.isfinite(tiny().fit(wide().assign(b=0.0)).predict(wide().assign(b=0.0))).all(
        axis=None
    )


def test_guidance_by_label():
    data = long().assign(item_id=lambda f: f["item_id"].map({"a": 1, "b": 2}))
    model = tiny().fit(data)
    bounded = model.forecast(data, guidance={2: Wishes(lower=11.0)}, random_state=0)
    assert bounded[1].samples.min() >= 11.0
    assert bounded[0].samples.min() < 1.0
    with pytest.raises(ConditionError, match="series '3', which X does not have; it has 1, 2"):
        model.forecast(data, guidance={3: Wishes(lower=0)})


# -- randomness, parameters, files ---------------------------------------------------------------


def test_a_seed_is_kept_and_the_stream_goes_on(joint, frame, tmp_path):
    path = joint.save(tmp_path / "model")
    again = DiffusionForecaster.load(path)
    first, second = joint.predict(frame), joint.predict(frame)
    assert not first.equals(second)
    pd.testing.assert_frame_equal(again.predict(frame), first)
    pd.testing.assert_frame_equal(again.predict(frame), second)
    pd.testing.assert_frame_equal(
        again.predict(frame, random_state=5), joint.predict(frame, random_state=5)
    )
    assert again.layout_.to_json() == joint.layout_.to_json()
    assert (again.freq_, again.series_, again.seed_) == ("D", ("all",), 0)
    assert again.training_ is None
    assert {file.suffix for file in path.iterdir()} == {".json", ".safetensors"}


def test_a_loaded_forecaster_knows_its_series(separate, tmp_path):
    again = DiffusionForecaster.load(separate.save(tmp_path / "model"))
    with pytest.warns(ScidiffusionWarning, match="not in the training data"):
        again.predict(long(["a", "new"]))
    for one, other in zip(again.sample(3, random_state=1), separate.sample(3, random_state=1),
                          strict=True):  # fmt: skip
        pd.testing.assert_frame_equal(one, other)
    (path,) = (tmp_path / "model").glob("series.json")
    path.write_text(json.dumps({"fitted": []}))
    with pytest.raises(ModelFileError):
        DiffusionForecaster.load(tmp_path / "model")


def test_parameters_follow_scikit_learn():
    model = tiny(known=["x"], target="a")
    params = model.get_params()
    assert params["known"] == ["x"]
    copy = clone(model)
    assert copy.get_params() == params
    assert copy.set_params(num_samples=7).num_samples == 7
    with pytest.raises(ValueError, match="nonsense"):
        copy.set_params(nonsense=1)
    with pytest.raises(NotFittedError):
        copy.predict(wide())
    assert tiny().fit(wide()).training_.steps == 5


def test_training_goes_on_from_a_checkpoint(frame, tmp_path):
    whole = tiny().fit(frame, checkpoint_dir=tmp_path / "one")
    again = tiny().fit(frame, checkpoint_dir=tmp_path / "one", resume=True)
    pd.testing.assert_frame_equal(whole.predict(frame), again.predict(frame))


# -- without a frame -----------------------------------------------------------------------------


def test_new_windows_without_a_frame(joint, frame):
    windows = joint.sample(3, random_state=0)
    assert len(windows) == 3
    for window in windows:
        assert list(window) == ["a", "b"]
        assert window.index.isin(frame.index).all()
        assert window.index.freqstr == "D"
        assert not window.isna().any(axis=None)
        # At the level of the data, but none of its values.
        assert abs(window["b"].mean() - 10) < 3
        assert not np.isin(window.to_numpy(), frame.to_numpy()).any()
    (other,) = joint.sample(1, frame, random_state=0)
    assert len(other) == len(windows[0])
    assert joint.sample(0) == []
    with pytest.raises(InputError, match="n must be an integer >= 0, got -1"):
        joint.sample(-1)


def test_forecasts_and_pictures_without_a_frame(joint, separate, frame, tmp_path):
    pd.testing.assert_frame_equal(
        joint.predict(random_state=3), joint.predict(frame, random_state=3)
    )
    path = tmp_path / "fan.png"
    figure = joint.plot(path=path)
    assert path.stat().st_size > 1000
    assert len(figure.axes) == 2
    assert len(joint.plot(series="b").axes) == 1
    figure = separate.plot(long(), series="b", actual=long())
    assert [axes.get_title("left") for axes in figure.axes] == ["value"]
    with pytest.raises(InputError, match="no series 'c'; there are a, b"):
        joint.plot(series="c")
    with pytest.raises(InputError, match="no series 'c'; there are a, b"):
        separate.plot(series="c")
    forecasts = separate.forecast(long(["a"]))
    with pytest.raises(InputError, match="no series 'b': they are of others"):
        separate.plot(long(), forecasts, series="b")
    with pytest.raises(InputError, match="give X, too"):
        joint.predict(future=frame)


def test_pictures_show_what_came(joint, frame):
    figure = joint.plot(frame[:-5], actual=frame)
    labels = [line.get_label() for line in figure.axes[0].lines]
    assert "came to be" in labels
    came = next(line for line in figure.axes[0].lines if line.get_label() == "came to be")
    np.testing.assert_allclose(came.get_ydata()[-5:], frame["a"][-5:])


# -- gaps and densities --------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["wide", "separate", "long"])
def test_gaps_rows_and_ends_are_filled(shape):
    data = long() if shape == "long" else wide()
    model = tiny(multivariate=False if shape == "separate" else None).fit(data)
    column = "value" if shape == "long" else "a"
    holes = data.copy()
    holes.loc[holes.index[[0, 1, 20, 21, -1]], column] = np.nan
    holes = holes.drop(index=holes.index[30:33]).sample(frac=1, random_state=0)
    filled = model.impute(holes, random_state=0)
    assert filled.shape == data.shape
    assert not filled.isna().any(axis=None)
    keys = ["item_id", "time"] if shape == "long" else []
    one, other = (f.set_index(keys) if keys else f for f in (holes, filled))
    both = one.dropna()
    pd.testing.assert_frame_equal(other.loc[both.index], both, check_freq=False)
    drawn = model.impute(holes, random_state=0, draw=3)
    assert not drawn.equals(filled)
    paths, series = model.impute_samples(holes, num_samples=7)
    assert paths[0].shape == (7, 80, series.dim)
    for draw, message in ((20, "0 to 19; got 20"), (-1, "draw must be an integer >= 0")):
        with pytest.raises(InputError, match=message):
            model.impute(holes, draw=draw)


def test_densities_are_named_by_series(separate):
    data = long()
    odd = data.copy()
    odd.loc[odd.index[-3:], "value"] += 5
    calm, strange = separate.score_samples(data), separate.score_samples(odd)
    assert calm.index.tolist() == ["a", "b"]
    assert calm["a"] == strange["a"]
    assert strange["b"] < calm["b"]
    data.loc[data.index[-1], "value"] = np.nan
    with pytest.raises(DataError, match=r"series 'b'.*last 5 steps is missing"):
        separate.score_samples(data)


def test_what_timegrad_cannot_do_is_said(frame):
    model = tiny(method="timegrad", options={"max_steps": 2, "num_nodes": 5, "hidden": 8})
    model.fit(frame)
    assert model.predict(frame, num_samples=5).shape == (5, 10)
    for call in (
        lambda: model.impute(frame),
        lambda: model.sample(1),
        lambda: model.score_samples(frame),
        lambda: model.forecast(frame, guidance=Wishes(lower=0)),
    ):
        with pytest.raises(ConfigError, match="needs method='window'; this model is 'timegrad'"):
            call()


# -- backtests -----------------------------------------------------------------------------------


def test_a_backtest_is_scored_beside_the_floors(frame, capsys, tmp_path):
    model = tiny()
    result = model.backtest(frame, windows=3)
    assert not hasattr(model, "model_")
    printed = capsys.readouterr().out
    floors = {"walk", "seasonal", "bootstrap"}
    figures = {"CRPS", "CRPS-sum", "ND", "energy score", "variogram score", "PIT histogram"}
    assert {word for word in floors | figures if word not in printed} == set()
    assert "coverage 50 %" in printed
    assert "coverage 90 %" in printed
    assert max(len(line) for line in str(result).splitlines()) <= 80
    assert "…" not in str(result)
    assert list(result.scores) == ["diffusion", "gaussian_walk", "seasonal_naive_gaussian",
                                   "seasonal_block_bootstrap"]  # fmt: skip
    assert result.samples.shape == (3, 20, 5, 2)
    observed = frame.to_numpy()[-15:].reshape(3, 5, 2)
    np.testing.assert_array_equal(result.observed, observed)
    assert [past.length for past in result.pasts] == [65, 70, 75]
    record = json.loads(result.to_json())
    assert record["diffusion"]["crps"] == result.scores["diffusion"].crps
    assert result.to_frame().loc["gaussian_walk", "nd"] == record["gaussian_walk"]["nd"]
    assert result.pit().shape == observed.shape
    result.plot(path=tmp_path / "windows.png")
    result.plot_pit(path=tmp_path / "pit.png")
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(InputError, match="item must be 0 to 0"):
        result.plot(1)


def test_a_backtest_sees_nothing_of_its_windows(frame):
    """Values in the windows change neither the fit nor the first forecast."""
    other = frame.copy()
    other.iloc[-10:] += 1000
    one, two = (tiny().backtest(f, windows=2, show=False) for f in (frame, other))
    np.testing.assert_array_equal(one.samples[0], two.samples[0])
    assert not np.array_equal(one.samples[1], two.samples[1])


def test_a_backtest_of_a_long_frame_keeps_the_forecaster(separate):
    before = separate.predict(long(), random_state=0)
    result = separate.backtest(long(), 2, show=False, random_state=1)
    assert "2 series" in str(result)
    assert [past.item_id for past in result.pasts] == ["a", "a", "b", "b"]
    pd.testing.assert_frame_equal(separate.predict(long(), random_state=0), before)


def test_a_backtest_of_business_days_with_known_covariates(tmp_path):
    data = wide(["a", "holiday"], freq="B").assign(holiday=lambda f: f.index.day == 1)
    result = tiny(known=["holiday"]).backtest(data, 2, show=False)
    assert result.scores["diffusion"].crps < 1
    result.plot(path=tmp_path / "windows.png")


@pytest.mark.parametrize(
    ("data", "windows", "message"),
    [
        (wide(), 0, "windows must be an integer >= 1, got 0"),
        (wide(), 2.5, "windows must be an integer >= 1"),
        (wide(), 15, r"'all' has 80 steps.*needs at least 81; ask for fewer windows"),
        (long().drop(index=range(80, 145)), 2, r"'b' has 15 steps.*at least 16"),
        (
            wide().assign(b=lambda f: f["b"].where(f.index >= "2024-03-15")),
            2,
            "'b' has no value in the 70 steps before the first window",
        ),
        (wide().iloc[:-10].reindex(wide().index), 2, "last 2 x 5 steps hold no value"),
    ],
)
def test_impossible_backtests_say_so_before_training(data, windows, message, monkeypatch):
    monkeypatch.setattr(DiffusionForecaster, "_fit_series", pytest.fail)
    with pytest.raises(InputError, match=message):
        tiny().backtest(data, windows)


# -- bad input -----------------------------------------------------------------------------------

BAD_OPTIONS = {
    "no horizon": ({"horizon": 0}, "prediction_length must be an integer >= 1, got 0"),
    "method": ({"method": "arima"}, "method must be one of window, timegrad; got 'arima'"),
    "option": ({"options": {"depth": 3}}, "no option 'depth'; it has"),
    "options": ({"options": [1]}, "options must be a dictionary"),
    "negative season": ({"options": {"seasons": [-24]}}, r"seasons must be integers >= 2.*-24"),
    "season": ({"options": {"seasons": [2.5]}}, "seasons must be integers >= 2"),
    "seasons": ({"options": {"seasons": 24}}, r"seasons must be a list of steps such as \[24"),
    "context": ({"options": {**TINY, "context_length": -3}}, "context_length must be"),
    "frequency": ({"freq": "fortnight"}, "'fortnight' is not known"),
    "budget": ({"budget": "soon"}, "budget must be a positive duration"),
    "paths": ({"num_samples": 0}, "num_samples must be an integer >= 1, got 0"),
    "steps": ({"num_steps": -1}, "num_steps must be an integer >= 1"),
    "device": ({"device": "abacus"}, "device must be 'auto', 'cpu' or 'cuda'"),
    "seed": ({"random_state": -1}, "random_state must lie in"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_impossible_options_say_so_before_training(case, frame, monkeypatch):
    monkeypatch.setattr("scidiffusion.training.train", pytest.fail)
    options, message = BAD_OPTIONS[case]
    with pytest.raises(InputError, match=message):
        tiny(
            options.get("horizon", 5), **{k: v for k, v in options.items() if k != "horizon"}
        ).fit(frame)


BAD_FRAMES = {
    "too short": (wide(periods=5), r"'all', has 5 steps.*needs at least 6, better 15"),
    "all missing": (wide().assign(b=np.nan), "'b' has no value at all"),
    "infinite": (wide().replace({"a": {wide()["a"].iloc[3]: np.inf}}), "'a' is infinite at 2024-"),
    "irregular": (
        wide().set_axis([*wide().index[:-1], pd.Timestamp("2024-03-20 05:00")]),
        "irregular at 2024-03-20 05:00:00",
    ),
    "duplicate": (pd.concat([wide(), wide()[3:4]]), "two rows at 2024-01-04"),
    "mixed": (pd.concat([long(["a"]), long(["b"], freq="h")]), r"'a' has .*'D', but 'b'.*'h'"),
}


@pytest.mark.parametrize("case", BAD_FRAMES)
def test_impossible_frames_say_so_before_training(case, monkeypatch):
    monkeypatch.setattr("scidiffusion.training.train", pytest.fail)
    data, message = BAD_FRAMES[case]
    with pytest.raises(DataError, match=message):
        tiny().fit(data)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.predict(wide(), quantiles=[2]), InputError, "quantile level"),
        (lambda m: m.predict(wide(), num_samples=0), InputError, "num_samples"),
        (lambda m: m.predict(wide(), num_steps=0), ConfigError, "num_steps"),
        (lambda m: m.predict(wide(), random_state="x"), ConfigError, "random_state"),
        (lambda m: m.predict(wide(["a"])), DataError, "no column 'b'"),
        (lambda m: m.predict(wide(freq="h")), DataError, "in one period of freq='D'"),
        (lambda m: m.predict(wide(freq="W")), DataError, "give freq='W-SUN'"),
        (lambda m: m.predict(wide(), future=wide()), DataError, "fitted without known="),
        (lambda m: m.predict(wide().assign(a=np.nan)), DataError, "'a' has no value"),
        (lambda m: m.plot(wide(), path="/proc/nowhere/fan.png"), OutputError, "/proc/nowhere"),
        (lambda m: m.score_samples(wide(), steps=0), ConfigError, "steps must be"),
    ],
)
def test_impossible_questions_say_so(joint, call, error, message):
    with pytest.raises(error, match=message):
        call(joint)


def test_the_front_has_what_the_issue_asks_for():
    assert front.DiffusionForecaster is DiffusionForecaster
    for name in ("fit", "predict", "plot", "impute", "sample", "backtest", "save", "load"):
        assert getattr(DiffusionForecaster, name).__doc__
