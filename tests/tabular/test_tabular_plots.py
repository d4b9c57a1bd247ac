"""Plots: every kind of column is drawn, without a display, and written where asked."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scidiffusion.errors import OutputError
from scidiffusion.tabular.inference import infer_schema
from scidiffusion.tabular.plots import plot_comparison


def mixed(n, seed):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "normal": rng.normal(size=n),
            "count": rng.poisson(3, n),
            "year": rng.integers(1950, 2020, n),
            "income": np.round(rng.lognormal(10, 1.5, n), 2),
            "spike": np.where(rng.random(n) < 0.9, 0.0, rng.exponential(size=n)),
            "gaps": pd.Series(rng.normal(size=n)).mask(rng.random(n) < 0.3),
            "flag": rng.random(n) < 0.3,
            "city": rng.choice([f"a city with the long name {k}" for k in range(20)], n),
            "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, n), "D"),
            "wait": pd.to_timedelta(rng.integers(0, 50, n), "min"),
        }
    )


@pytest.fixture(scope="module")
def tables():
    return mixed(300, 0), mixed(200, 1)


def marginals(figure):
    return figure.subfigs[0].axes


def test_every_column_has_a_panel_with_its_error(tables):
    real, synthetic = tables
    figure = plot_comparison(real, synthetic, infer_schema(real), title="A table")
    assert [axes.get_title("left") for axes in marginals(figure)] == list(real.columns)
    assert all("error" in axes.get_title("right") for axes in marginals(figure))
    maps = [axes for axes in figure.subfigs[1].axes if axes.images]
    assert len(maps) == 3
    assert maps[0].images[0].get_array().shape == (10, 10)


def test_a_wide_table_shows_the_columns_that_differ_most(tables):
    real, synthetic = tables
    synthetic = synthetic.assign(normal=5.0, flag=True)
    figure = plot_comparison(real, synthetic, infer_schema(real), max_columns=2)
    assert [axes.get_title("left") for axes in marginals(figure)] == ["normal", "flag"]


def test_bars_and_lines_have_the_shares(tables):
    real, _ = tables
    figure = plot_comparison(real, real, infer_schema(real))
    panels = {axes.get_title("left"): axes for axes in marginals(figure)}
    widths = [patch.get_width() for patch in panels["flag"].patches]
    assert sorted(widths) == pytest.approx(sorted([real["flag"].mean(), 1 - real["flag"].mean()]))
    filled, line = (patch.get_data() for patch in panels["normal"].patches)
    assert filled.values.sum() == pytest.approx(1)
    assert np.array_equal(filled.values, line.values)


def test_the_picture_is_written(tables, tmp_path):
    real, synthetic = tables
    path = tmp_path / "picture.png"
    plot_comparison(real, synthetic, infer_schema(real), path)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["no/such/folder.png", "picture.doc"])
def test_a_path_that_cannot_be_written(tables, tmp_path, name):
    small = tables[0][["normal", "flag"]]
    with pytest.raises(OutputError, match="the picture cannot be written to"):
        plot_comparison(small, small, infer_schema(small), tmp_path / name)


def test_one_column_is_enough(tables):
    one = tables[0][["count"]]
    assert len(marginals(plot_comparison(one, one, infer_schema(one)))) == 1


def test_a_very_wide_table_is_drawn_in_part():
    rng = np.random.default_rng(0)
    wide = pd.DataFrame({f"x{k}": rng.normal(size=30) for k in range(45)})
    figure = plot_comparison(wide, wide, infer_schema(wide), max_columns=4)
    assert "the first 30 columns" in figure.subfigs[1].get_suptitle()
