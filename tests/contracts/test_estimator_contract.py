"""What every estimator of arrays promises: scikit-learn's manners, seeds, folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from scidiffusion import DensityDiffusion, ImageDiffusion
from scidiffusion.errors import ConfigError, DataError, InputError, ModelFileError

COMMON = {"max_steps": 3, "progress": False, "random_state": 0, "device": "cpu", "sample_steps": 3}
ESTIMATORS: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "density": (lambda **o: DensityDiffusion(**COMMON | {"width": 16, "blocks": 1} | o), (40, 2)),
    "images": (
        lambda **o: ImageDiffusion(**COMMON | {"width": 8, "blocks": 1, "heads": 2} | o),
        (40, 1, 4, 5),
    ),
    "images by a transformer": (
        lambda **o: ImageDiffusion(
            **COMMON | {"width": 8, "heads": 2, "network": "dit", "depth": 1} | o
        ),
        (40, 2, 5),
    ),
}


def data(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(2.0, 3.0, shape), rng.integers(0, 3, len(rng.normal(size=shape)))


@pytest.fixture(scope="module", params=ESTIMATORS)
def case(request):
    make, shape = ESTIMATORS[request.param]
    X, y = data(shape)
    return make, X, y, make().fit(X, y)


def test_parameters_are_stored_as_given_and_cloned(case):
    make, *_ = case
    assert clone(make()).get_params() == make().get_params()
    made = make()
    assert made.set_params(max_steps=7).get_params()["max_steps"] == 7


def test_fit_returns_self_and_leaves_parameters_and_data_alone(case):
    make, X, y, _ = case
    made, before, kept = make(), make().get_params(), X.copy()
    assert made.fit(X, y) is made
    assert made.get_params() == before
    assert np.array_equal(X, kept)


def test_nothing_works_before_fit(case, tmp_path):
    make, X, *_ = case
    for use in (
        lambda: make().sample(1),
        lambda: make().score_samples(X),
        lambda: make().save(tmp_path / "model"),
    ):
        with pytest.raises(NotFittedError):
            use()
    assert not list(tmp_path.iterdir())


def test_a_seed_is_a_model_and_a_sample(case):
    make, X, y, fitted = case
    again = make().fit(X, y)
    assert np.array_equal(again.sample(4, random_state=1), fitted.sample(4, random_state=1))
    first, second = again.sample(4), again.sample(4)
    assert not np.array_equal(first, second)
    longer = fitted.sample(50, random_state=1)
    assert np.array_equal(longer[:4], fitted.sample(4, random_state=1))
    assert np.array_equal(longer, fitted.sample(50, random_state=1, batch_size=3))


def test_samples_look_like_the_data(case):
    _, X, _, fitted = case
    drawn = fitted.sample(3, conditions=[0, 1, 2], guidance_scale=2.0)
    assert drawn.shape == (3, *X.shape[1:])
    assert drawn.dtype == X.dtype
    assert fitted.sample(0).shape == (0, *X.shape[1:])
    scores = fitted.score_samples(X[:3])
    assert scores.shape == (3,)
    assert np.isfinite(scores).all()


def test_a_saved_model_is_the_model(case, tmp_path):
    _, X, _, fitted = case
    path = fitted.save(tmp_path / "model")
    loaded = type(fitted).load(path)
    assert loaded.get_params() == fitted.get_params() | {"device": "auto"}
    assert np.array_equal(loaded.sample(3, random_state=4), fitted.sample(3, random_state=4))
    assert np.array_equal(loaded.score_samples(X[:2]), fitted.score_samples(X[:2]))
    assert json.loads((path / "config.json").read_text())["estimator"] == type(fitted).__name__
    (path / "codec.json").unlink()
    with pytest.raises(ModelFileError, match=r"codec.json is missing"):
        type(fitted).load(path)


def test_bad_input_is_refused(case):
    make, X, y, fitted = case
    gaps = X.copy()
    gaps[7, ..., 0] = np.nan
    for message, bad in (("NaN", gaps), ("numbers", np.full(X.shape, "a"))):
        with pytest.raises(DataError, match=message):
            make().fit(bad, y)
    with pytest.raises(DataError, match="one condition a row"):
        make().fit(X, y[:5])
    with pytest.raises(InputError, match="n must be"):
        fitted.sample(-1)
    with pytest.raises(ConfigError, match="random_state"):
        fitted.sample(1, random_state="one")
    with pytest.raises(ConfigError, match="device"):
        make(device="abacus").fit(X, y)
