"""Pictures show the quantiles that are scored: checked on the artists, not on pixels."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.dates import ConciseDateFormatter, date2num

from scidiffusion.errors import ConfigError, DataError, OutputError
from scidiffusion.timeseries.plots import (
    MAX_PANELS,
    plot_backtest,
    plot_fan,
    plot_imputation,
    plot_pit,
)
from scidiffusion.timeseries.scores import pit_histogram, sample_quantiles

pytestmark = pytest.mark.filterwarnings("error")

HORIZON, LENGTH, COUNT = 6, 30, 41
TIMES = pd.period_range("2024-01-01", periods=LENGTH + HORIZON, freq="D")


def draw(dim=2, steps=HORIZON, seed=0):
    return np.random.default_rng(seed).normal(size=(COUNT, steps, dim)).cumsum(axis=1)


def frame(dim=2, length=LENGTH):
    values = np.random.default_rng(1).normal(size=(length, dim))
    return pd.DataFrame(values, index=TIMES[:length], columns=[f"s{k}" for k in range(dim)])


def line(axes, label):
    return next(line for line in axes.get_lines() if line.get_label() == label)


def band(axes, label, values):
    """Lower and upper ends of the band, at the places where it is drawn."""
    (area,) = (area for area in axes.collections if area.get_label() == label)
    corners = np.concatenate([path.vertices for path in area.get_paths()])
    places = np.unique(corners[:, 0])
    ends = [corners[corners[:, 0] == place, 1] for place in places]
    return places, np.array([(end.min(), end.max()) for end in ends]).T


def fan(dim=2, **options):
    past = frame(dim)
    return past, plot_fan(past, draw(dim), TIMES[LENGTH:], list(past.columns), **options)


def test_a_fan_has_the_quantiles_and_opens_at_the_last_value():
    past, figure = fan()
    assert [axes.get_title("left") for axes in figure.axes] == ["s0", "s1"]
    levels = [0.05, 0.25, 0.5, 0.75, 0.95]
    for series, axes in enumerate(figure.axes):
        quantiles = sample_quantiles(draw()[None], levels)[0, :, :, series]
        last = past.iloc[-1, series]
        for label, lower, upper in (("90% interval", 0, 4), ("50% interval", 1, 3)):
            places, ends = band(axes, label, quantiles)
            np.testing.assert_allclose(places, date2num(TIMES[LENGTH - 1 :].to_timestamp()))
            np.testing.assert_allclose(ends[0], np.append(last, quantiles[lower]))
            np.testing.assert_allclose(ends[1], np.append(last, quantiles[upper]))
        median = line(axes, "median").get_ydata()
        np.testing.assert_allclose(median, np.append(last, quantiles[2]))
        shown = line(axes, "observed").get_ydata()
        np.testing.assert_array_equal(shown, past.iloc[-3 * HORIZON :, series])


def test_a_fan_with_what_came_to_be_and_a_history():
    actual = draw(seed=5)[0]
    past, figure = fan(actual=actual, history=4, levels=(0.8,), title="A forecast")
    for series, axes in enumerate(figure.axes):
        values = line(axes, "came to be").get_ydata()
        np.testing.assert_array_equal(values, np.append(past.iloc[-1, series], actual[:, series]))
        assert len(line(axes, "observed").get_ydata()) == 4
        assert len(axes.collections) == 1
    assert figure.get_suptitle() == "A forecast"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "observed",
        "80% interval",
        "median",
        "came to be",
    ]


@pytest.mark.parametrize("history", [0, 1])
def test_a_fan_without_a_last_value_begins_with_the_forecast(history):
    past = frame()
    past.iloc[-1, 0] = np.nan
    figure = plot_fan(past, draw(), TIMES[LENGTH:], ["a", "b"], history=history)
    assert len(line(figure.axes[0], "median").get_ydata()) == HORIZON
    assert len(line(figure.axes[1], "median").get_ydata()) == HORIZON + history
    single = plot_fan(past, draw(steps=1), TIMES[LENGTH : LENGTH + 1], ["a", "b"], history=history)
    assert line(single.axes[0], "median").get_marker() == "o"


def test_the_times_of_an_array_lead_up_to_the_forecast():
    values = frame().to_numpy()
    days = TIMES.to_timestamp()
    cases = (
        (TIMES[LENGTH:], date2num(days)),
        (days[LENGTH:], date2num(days)),
        (pd.DatetimeIndex(list(days[LENGTH:])), date2num(days)),
        (days[LENGTH:].tz_localize("UTC"), date2num(days)),
        (pd.RangeIndex(100, 100 + 2 * HORIZON, 2), 100.0 + 2 * np.arange(-LENGTH, HORIZON)),
    )
    for index, places in cases:
        figure = plot_fan(values, draw(), index, ["a", "b"], history=LENGTH)
        shown = line(figure.axes[0], "observed").get_xdata(orig=False)
        np.testing.assert_allclose(np.asarray(shown, dtype=float), places[:LENGTH])
    ragged = days[[LENGTH, LENGTH + 1, LENGTH + 4]]
    with pytest.raises(DataError, match="no frequency"):
        plot_fan(values, draw(steps=3), ragged, ["a", "b"])


def test_dates_are_short():
    _, figure = fan()
    figure.canvas.draw()
    axis = figure.axes[0].xaxis
    assert isinstance(axis.get_major_formatter(), ConciseDateFormatter)
    assert 2 <= len(axis.get_major_ticks()) <= 8


def test_wide_sets_are_drawn_in_part_and_say_so():
    _, figure = fan(dim=MAX_PANELS + 4)
    assert len(figure.axes) == MAX_PANELS
    assert figure.get_suptitle() == f"the first 9 of {MAX_PANELS + 4} series; 4 are not shown"
    _, whole = fan(dim=MAX_PANELS, title="All")
    assert (len(whole.axes), whole.get_suptitle()) == (MAX_PANELS, "All")


def test_a_backtest_has_every_fan_over_the_whole_series():
    actual = frame(length=LENGTH)
    windows = [(TIMES[k : k + HORIZON], draw(seed=k)) for k in (10, 16, 22)]
    figure = plot_backtest(windows, actual, levels=(0.9,))
    assert len(figure.axes) == 2
    for series, axes in enumerate(figure.axes):
        np.testing.assert_array_equal(line(axes, "observed").get_ydata(), actual.iloc[:, series])
        assert len(axes.collections) == 3
        for area, (index, samples) in zip(axes.collections, windows, strict=True):
            corners = np.concatenate([path.vertices for path in area.get_paths()])
            lower, upper = sample_quantiles(samples[None], [0.05, 0.95])[0, :, :, series]
            places = date2num(index.to_timestamp())
            for place, low, high in zip(places, lower, upper, strict=True):
                here = corners[corners[:, 0] == place, 1]
                assert (here.min(), here.max()) == pytest.approx((low, high))
        starts = [line.get_xdata()[0] for line in axes.get_lines() if line.get_linestyle() == ":"]
        assert list(starts) == [index[0].to_timestamp() for index, _ in windows]
    # Each name stands in the legend once.
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(texts) == ["90% interval", "median", "observed"]
    with pytest.raises(DataError, match="no forecast to draw"):
        plot_backtest([], actual)
    with pytest.raises(DataError, match="samples must be"):
        plot_backtest([(TIMES[:3], draw())], actual)


def test_gaps_are_filled_between_their_neighbours():
    observed = frame(3).to_numpy().copy()
    observed[5:9, 0] = np.nan
    observed[20, 0] = np.nan
    observed[:2, 1] = np.nan
    samples = draw(3, LENGTH)
    figure = plot_imputation(TIMES[:LENGTH], observed, samples, ["a", "b", "c"], levels=(0.9,))
    lower, upper = sample_quantiles(samples[None], [0.05, 0.95])[0]
    places, ends = band(figure.axes[0], "90% interval", None)
    wanted = [4, 5, 6, 7, 8, 9, 19, 20, 21]
    known = ~np.isnan(observed[:, 0])
    np.testing.assert_allclose(places, date2num(TIMES[wanted].to_timestamp()))
    bottom = np.where(known, observed[:, 0], lower[:, 0])[wanted]
    top = np.where(known, observed[:, 0], upper[:, 0])[wanted]
    np.testing.assert_allclose(ends, [bottom, top])
    median = line(figure.axes[0], "median").get_ydata()
    assert np.flatnonzero(np.isfinite(median)).tolist() == wanted
    assert len(figure.axes[2].collections) == 0
    assert [axes.get_title("right") for axes in figure.axes] == [
        "16.7% missing",
        "6.7% missing",
        "0.0% missing",
    ]
    whole = plot_imputation(TIMES[:LENGTH], frame(1).to_numpy(), draw(1, LENGTH), ["a"])
    assert len(whole.axes[0].collections) == 0


def test_pit_bars_and_the_band_of_chance():
    rng = np.random.default_rng(0)
    values = rng.random((200, 5))
    values[0, 0] = np.nan
    axes = plot_pit(values, bins=8).axes[0]
    bars = axes.patches[-1].get_data()
    np.testing.assert_allclose(bars.values, pit_histogram(values, 8))
    np.testing.assert_allclose(bars.edges, np.linspace(0, 1, 9))

    def limits(figure):
        corners = (
            figure.axes[0]
            .patches[0]
            .get_extents()
            .transformed(figure.axes[0].transData.inverted())
        )
        return corners.y0, corners.y1

    lower, upper = limits(plot_pit(values, bins=8))
    # Of many uniform histograms the bars lie in the band as often as it says.
    shares = np.array([pit_histogram(rng.random(999), 8) for _ in range(500)])
    inside = ((shares >= lower - 1e-12) & (shares <= upper + 1e-12)).mean()
    assert 0.945 < inside < 0.97
    wide = limits(plot_pit(values, bins=8, independent=200))
    assert wide[1] - wide[0] > 2 * (upper - lower)
    with pytest.raises(ConfigError, match="independent"):
        plot_pit(values, independent=0)
    with pytest.raises(DataError, match="PIT"):
        plot_pit([2.0])


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_pictures_are_written(tmp_path, suffix):
    heads = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    past = frame()
    samples, index = draw(), TIMES[LENGTH:]
    observed = past.where(past > -1)
    for name, make in {
        "fan": lambda path: plot_fan(past, samples, index, ["$a_b", "$c"], path=path),
        "backtest": lambda path: plot_backtest([(TIMES[:HORIZON], samples)], past, path=path),
        "imputation": lambda path: plot_imputation(
            past.index, observed, draw(2, LENGTH), ["a", "b"], path=path
        ),
        "pit": lambda path: plot_pit(np.random.default_rng(0).random(99), path=path),
    }.items():
        path = tmp_path / "new" / f"{name}.{suffix}"
        make(path)
        assert path.read_bytes().startswith(heads[suffix])
    assert len(list((tmp_path / "new").iterdir())) == 4


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    with pytest.raises(OutputError, match=r"picture\.doc"):
        fan(path=tmp_path / "picture.doc")
    with pytest.raises(OutputError, match="it is a folder"):
        fan(path=tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_drawn_is_named():
    past, index, names = frame(), TIMES[LENGTH:], ["a", "b"]
    with pytest.raises(DataError, match="samples must be"):
        plot_fan(past, draw(3), index, names)
    with pytest.raises(DataError, match="not finite"):
        plot_fan(past, np.full_like(draw(), np.nan), index, names)
    with pytest.raises(DataError, match="the past must be"):
        plot_fan(frame(3), draw(), index, names)
    with pytest.raises(DataError, match="actual must be"):
        plot_fan(past, draw(), index, names, actual=np.zeros((2, 2)))
    with pytest.raises(ConfigError, match="levels"):
        plot_fan(past, draw(), index, names, levels=(90,))
    with pytest.raises(ConfigError, match="history"):
        plot_fan(past, draw(), index, names, history=-1)
    with pytest.raises(DataError, match="observed must be"):
        plot_imputation(index, past.to_numpy(), draw(), names)


def test_neither_matplotlib_nor_pyplot_is_needed_before_a_picture_is_drawn():
    code = (
        "import sys, numpy as np; import scidiffusion.timeseries.plots as plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "plots.plot_pit(np.linspace(0, 1, 50))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "for name in ('gluonts', 'statsmodels', 'lightning'): assert name not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
