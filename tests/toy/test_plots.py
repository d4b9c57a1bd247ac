"""The pictures show what they should: checked on the artists, not on pixels."""

from __future__ import annotations

import numpy as np
import pytest

from scidiffusion.errors import DataError
from scidiffusion.toy import DensityDiffusion, prince_mixture, two_moons
from scidiffusion.toy.plots import plot_density, plot_forward, plot_trajectories

QUICK = {"width": 16, "blocks": 1, "max_steps": 20, "progress": False, "random_state": 0}


@pytest.fixture(scope="module", params=[1, 2])
def fitted(request):
    X = prince_mixture(300)[0] if request.param == 1 else two_moons(300)[0]
    return DensityDiffusion(**QUICK).fit(X), X


def test_forward_shows_every_time(fitted, tmp_path) -> None:
    _, X = fitted
    path = tmp_path / "forward.png"
    figure = plot_forward(X, times=(0.0, 0.5, 1.0), path=path)
    assert [axis.get_title() for axis in figure.axes] == ["t = 0", "t = 0.5", "t = 1"]
    assert path.read_bytes().startswith(b"\x89PNG")


def test_trajectories_end_at_the_samples(fitted) -> None:
    model, _ = fitted
    figure = plot_trajectories(model, n=5, steps=4, random_state=3)
    samples = model.sample(5, steps=4, random_state=3)
    lines = figure.axes[0].get_lines()
    ends = np.array([[values[-1] for values in line.get_data()] for line in lines])
    assert len(lines) == 5
    np.testing.assert_allclose(ends[:, -samples.shape[1] :], samples, atol=1e-5)


def test_density_is_that_of_the_model(fitted) -> None:
    model, X = fitted
    figure = plot_density(model, X, resolution=10, steps=5)
    axis = figure.axes[-1]
    if model.n_features_in_ == 1:
        x, y = axis.get_lines()[0].get_data()
        np.testing.assert_allclose(y, np.exp(model.score_samples(x[:, None], steps=5)))
    else:
        assert axis.get_images()[0].get_array().shape == (10, 10)
        assert figure.axes[0].collections


def test_more_than_two_columns_cannot_be_drawn() -> None:
    X = np.random.default_rng(0).standard_normal((50, 3))
    model = DensityDiffusion(**QUICK).fit(X)
    for draw in (plot_density, plot_trajectories):
        with pytest.raises(DataError, match="two columns"):
            draw(model)
    with pytest.raises(DataError, match="two columns"):
        plot_forward(X)
