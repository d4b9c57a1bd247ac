"""DensityDiffusion: scikit-learn's manners, conditions, seeds, errors, persistence."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from scidiffusion import DensityDiffusion
from scidiffusion.errors import ConditionError, ConfigError, DataError, InputError, ModelFileError
from scidiffusion.toy import checkerboard, prince_mixture, swiss_roll, two_moons

QUICK = {"width": 32, "blocks": 1, "max_steps": 40, "progress": False, "random_state": 0}


@pytest.fixture(scope="module")
def moons() -> DensityDiffusion:
    X, y = two_moons(1000)
    return DensityDiffusion(**QUICK | {"max_steps": 600, "width": 64}).fit(X, y)


@pytest.mark.parametrize("make", [two_moons, swiss_roll, checkerboard, prince_mixture])
def test_datasets_are_seeded_and_finite(make) -> None:
    def points(seed):
        value = make(200, random_state=seed)
        return value[0] if isinstance(value, tuple) else value

    assert np.array_equal(points(1), points(1))
    assert not np.array_equal(points(1), points(2))
    assert len(points(1)) == 200
    assert np.isfinite(points(1)).all()


def test_checkerboard_fills_the_dark_fields_only() -> None:
    x, y = checkerboard(4000).T
    field = (np.floor(x + 2) + np.floor(y + 2)).astype(int)
    assert (field % 2 == 0).all()
    assert len(np.unique(np.floor(x + 2) * 4 + np.floor(y + 2))) == 8


def test_clone_and_params() -> None:
    model = DensityDiffusion(width=7, random_state=3)
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert copy is not model


def test_same_seed_same_model_and_samples() -> None:
    X, _ = two_moons(300)
    first, second = (DensityDiffusion(**QUICK).fit(X) for _ in range(2))
    assert np.array_equal(first.sample(20), second.sample(20))
    assert not np.array_equal(first.sample(20), first.sample(20))
    assert np.array_equal(first.sample(20, random_state=5), second.sample(20, random_state=5))


def test_samples_do_not_depend_on_batch_size_or_number(moons) -> None:
    whole = moons.sample(200, random_state=1)
    for batch_size in (7, 64):
        assert np.array_equal(moons.sample(200, random_state=1, batch_size=batch_size), whole)
    assert np.array_equal(moons.sample(50, random_state=1), whole[:50])
    assert moons.sample(0).shape == (0, 2)


def test_conditions_choose_the_moon(moons) -> None:
    X, y = two_moons(4000, random_state=9)

    def share(points, moon):
        nearest = ((points[:, None] - X[None]) ** 2).sum(-1).argmin(1)
        return (y[nearest] == moon).mean()

    assert share(moons.sample(200, conditions=0, random_state=0), 0) > 0.9
    assert share(moons.sample(200, conditions=1, random_state=0), 1) > 0.9
    each = np.repeat([0, 1], 100)
    points = moons.sample(200, conditions=each, random_state=0)
    assert share(points[:100], 0) > 0.9
    assert share(points[100:], 1) > 0.9


def test_guidance_pulls_towards_the_condition(moons) -> None:
    plain = moons.score_samples(moons.sample(200, conditions=1, random_state=0), conditions=1)
    rival = moons.score_samples(moons.sample(200, conditions=1, random_state=0), conditions=0)
    guided = moons.sample(200, conditions=1, guidance_scale=3.0, random_state=0)
    sharper = moons.score_samples(guided, conditions=1) - moons.score_samples(guided, conditions=0)
    assert sharper.mean() > (plain - rival).mean()


def test_real_conditions() -> None:
    rng = np.random.default_rng(0)
    c = rng.uniform(-1, 1, size=3000)
    X = (3 * c + 0.1 * rng.standard_normal(3000))[:, None]
    model = DensityDiffusion(**QUICK | {"max_steps": 600, "width": 64}).fit(X, c)
    for value in (-0.5, 0.5):
        assert abs(model.sample(300, conditions=value, random_state=0).mean() - 3 * value) < 0.15


def test_score_samples_ranks_outliers_last(moons) -> None:
    X, _ = two_moons(100, random_state=3)
    inside, outside = moons.score_samples(X), moons.score_samples(X + 6.0)
    assert inside.mean() > outside.max()
    assert moons.score_samples(X, method="elbo", steps=20).shape == (100,)
    assert moons.score(X) == pytest.approx(inside.mean())


def test_save_and_load_are_exact(moons, tmp_path) -> None:
    path = moons.save(tmp_path / "model")
    loaded = DensityDiffusion.load(path)
    assert np.array_equal(
        loaded.sample(30, conditions=1, random_state=2),
        moons.sample(30, conditions=1, random_state=2),
    )
    config = json.loads((path / "config.json").read_text())
    assert config["estimator"] == "DensityDiffusion"


def test_of_another_estimator(moons, tmp_path) -> None:
    from scidiffusion import TabularDiffusion

    with pytest.raises(ModelFileError, match="DensityDiffusion"):
        TabularDiffusion.load(moons.save(tmp_path / "model"))


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros((0, 2)), "at least 10 rows"),
        (np.ones(50), "reshape"),
        (np.ones((50, 2)), "constant"),
        (np.array([[0.0, np.nan]] * 50), "row 0, column 1"),
        (np.array([[0.0, np.inf]] * 50), "infinity"),
        (np.array([["a", "b"]] * 50), "numbers only"),
    ],
)
def test_bad_data_names_the_place(X, message) -> None:
    with pytest.raises(DataError, match=message):
        DensityDiffusion(**QUICK).fit(X)


def test_bad_options_and_conditions(moons) -> None:
    X, y = two_moons(100)
    with pytest.raises(NotFittedError):
        DensityDiffusion().sample(3)
    with pytest.raises(ConfigError, match="sampler"):
        DensityDiffusion(**QUICK | {"sampler": "magic"}).fit(X)
    with pytest.raises(ConfigError, match="validation_fraction"):
        DensityDiffusion(**QUICK, validation_fraction=0.9).fit(X)
    with pytest.raises(DataError, match="one condition a row"):
        DensityDiffusion(**QUICK).fit(X, y[:50])
    with pytest.raises(ConditionError, match="known are"):
        moons.sample(3, conditions=7)
    with pytest.raises(ConditionError, match="guidance_scale"):
        moons.sample(3, guidance_scale=2.0)
    with pytest.raises(InputError, match="n must be"):
        moons.sample(-1)
    with pytest.raises(ConditionError, match="without conditions"):
        DensityDiffusion(**QUICK).fit(X).sample(3, conditions=1)
