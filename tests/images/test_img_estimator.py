"""ImageDiffusion: seeds, conditions, guidance, checkpoints, persistence, errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from scidiffusion import ImageDiffusion
from scidiffusion.core import HybridLoss, KeyedNoise
from scidiffusion.errors import ConditionError, ConfigError, DataError, InputError, ModelFileError
from scidiffusion.images import load_digits
from scidiffusion.images.building import build_objective

QUICK = {
    "width": 8,
    "blocks": 1,
    "heads": 2,
    "max_steps": 4,
    "batch_size": 8,
    "progress": False,
    "precision": "float32",
    "device": "cpu",
    "random_state": 0,
    "sample_steps": 4,
}
TRAINED = {
    "max_steps": 250,
    "batch_size": 16,
    "lr": 3e-3,
    "ema_decay": 0.98,
    "dropout": 0.0,
    "sample_steps": 10,
}
RNG = np.random.default_rng(0)


def bars(n: int, size: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Images of one bright bar, upright (label 'up') or lying ('flat'), and a little noise."""
    rng = np.random.default_rng(1)
    X, y = 0.1 * rng.standard_normal((n, 1, size, size)), np.where(np.arange(n) % 2, "up", "flat")
    for image, label in zip(X[:, 0], y, strict=True):
        place = rng.integers(size)
        image[(slice(None), place) if label == "up" else (place, slice(None))] += 2.0
    return X, y


def told(images: np.ndarray) -> np.ndarray:
    """The label that an image of `bars` shows."""
    up, flat = images[:, 0].mean(1).max(1), images[:, 0].mean(2).max(1)
    return np.where(up > flat, "up", "flat")


@pytest.fixture(scope="module")
def model() -> ImageDiffusion:
    X, y = bars(200)
    return ImageDiffusion(**QUICK | TRAINED).fit(X, y)


@pytest.fixture(scope="module")
def plain() -> ImageDiffusion:
    return ImageDiffusion(**QUICK).fit(bars(40)[0])


def test_clone_and_params():
    made = ImageDiffusion(width=7, attention=(0, 1), random_state=3)
    assert clone(made).get_params() == made.get_params()


@pytest.mark.parametrize(
    ("shape", "dims", "dtype"),
    [
        ((30, 9), None, "uint8"),
        ((30, 2, 7), 1, "float32"),
        ((30, 5, 5), None, "float64"),
        ((30, 2, 3, 4, 3), 3, "uint8"),
    ],
)
def test_every_kind_of_grid(shape, dims, dtype):
    X = RNG.integers(0, 9, shape).astype(dtype)
    fitted = ImageDiffusion(**QUICK, dims=dims).fit(X)
    drawn = fitted.sample(3)
    assert drawn.shape == (3, *shape[1:])
    assert drawn.dtype == X.dtype
    assert np.isfinite(fitted.score_samples(X[:2], steps=5)).all()
    if dtype == "uint8":
        assert drawn.max() <= 8
    known = np.zeros(shape[1:], dtype=bool)
    known[0] = True
    filled = fitted.inpaint(X[:2], known, resamples=2)
    assert np.array_equal(filled[:, 0], X[:2, 0])


@pytest.mark.parametrize("parameterization", ["v", "eps", "x0"])
@pytest.mark.parametrize("learned_variance", [False, True])
def test_every_parameterization(parameterization, learned_variance):
    X, y = bars(40)
    options = {"parameterization": parameterization, "learned_variance": learned_variance}
    fitted = ImageDiffusion(**QUICK, **options).fit(X, y)
    drawn = fitted.sample(4, conditions="up", guidance_scale=2.0, sampler="ancestral")
    assert np.isfinite(drawn).all()
    assert np.isfinite(fitted.score_samples(X[:3], conditions=y[:3], steps=5)).all()


def test_same_seed_same_model_and_samples():
    X, y = bars(40)
    first, second = (ImageDiffusion(**QUICK).fit(X, y) for _ in range(2))
    for one, two in zip(
        first.denoiser_.state_dict().values(), second.denoiser_.state_dict().values(), strict=True
    ):
        assert torch.equal(one, two)
    assert np.array_equal(first.sample(5), second.sample(5))
    assert not np.array_equal(first.sample(5), first.sample(5))
    other = ImageDiffusion(**QUICK | {"random_state": 1}).fit(X, y)
    assert not np.array_equal(first.sample(5, random_state=2), other.sample(5, random_state=2))


def test_samples_do_not_depend_on_batch_size_or_number(model):
    conditions = np.resize(["up", "flat"], 70)
    whole = model.sample(70, conditions=conditions, random_state=1)
    again = model.sample(70, conditions=conditions, random_state=1, batch_size=7)
    assert np.array_equal(again, whole)
    part = model.sample(33, conditions=conditions[:33], random_state=1)
    assert np.array_equal(part, whole[:33])
    for sampler in ("ancestral", "dpmpp_sde"):
        drawn = model.sample(40, sampler=sampler, random_state=1)
        assert np.array_equal(model.sample(3, sampler=sampler, random_state=1), drawn[:3])
    assert model.sample(0).shape == (0, 1, 6, 6)


def test_labels_are_obeyed_and_guidance_sharpens_them(model):
    asked = np.resize(["up", "flat"], 60)
    drawn = model.sample(60, conditions=asked, random_state=0)
    assert (told(drawn) == asked).mean() > 0.9
    guided = model.sample(60, conditions=asked, guidance_scale=3.0, random_state=0)
    assert (told(guided) == asked).mean() >= (told(drawn) == asked).mean()
    free = model.sample(60, random_state=0)
    assert 0.2 < (told(free) == "up").mean() < 0.8
    ignored = model.sample(60, conditions=asked, guidance_scale=0.0, random_state=0)
    assert np.allclose(ignored, free, atol=1e-5)


def test_likely_images_score_higher(model):
    X, y = bars(20)
    right = model.score_samples(X, conditions=y, steps=30)
    wrong = model.score_samples(X, conditions=np.where(y == "up", "flat", "up"), steps=30)
    assert (right > wrong).mean() > 0.8
    assert right.mean() > model.score_samples(RNG.normal(size=X.shape), steps=30).max()
    assert model.score(X, y) == pytest.approx(model.score_samples(X, conditions=y).mean())
    assert np.array_equal(model.score_samples(X[:3], conditions=y[:3], steps=30), right[:3])
    assert model.score_samples(X[:0]).shape == (0,)


def test_real_conditions_say_where_the_peak_is():
    rng, cells = np.random.default_rng(0), np.arange(10)
    c = rng.uniform(2, 7, 300)
    X = np.exp(-((cells - c[:, None]) ** 2)) + 0.05 * rng.standard_normal((300, 10))
    fitted = ImageDiffusion(**QUICK | TRAINED).fit(X, c)
    for place in (3, 6):
        drawn = fitted.sample(32, conditions=float(place), random_state=0)
        assert np.median(abs(drawn.argmax(1) - place)) <= 1


def test_a_tiny_set_is_learned_by_heart():
    patterns = (np.random.default_rng(0).random((2, 4, 4)) < 0.5).astype(np.float64)
    X = patterns[np.arange(10) % 2]
    fitted = ImageDiffusion(**QUICK | TRAINED | {"validation_fraction": 0.0}).fit(X)

    def distances(images):
        return np.sqrt(((images[:, None] - patterns[None]) ** 2).mean((2, 3)))

    prior = X.mean() + X.std() * RNG.standard_normal((32, 4, 4))
    drawn = distances(fitted.sample(32, random_state=0))
    assert np.median(drawn.min(1)) < 0.5 * np.median(distances(prior).min(1))
    assert set(drawn.argmin(1)) == {0, 1}


def test_missing_labels_are_an_error_or_unlabelled():
    X, y = bars(40)
    gaps = y.astype(object)
    gaps[[3, 7]] = None
    with pytest.raises(DataError, match=r"2 images, first for image 3.*missing_labels"):
        ImageDiffusion(**QUICK).fit(X, gaps)
    fitted = ImageDiffusion(**QUICK, missing_labels="unlabelled").fit(X, gaps)
    assert fitted.conditions_.labels.labels == ("flat", "up")
    assert fitted.sample(2, conditions="up").shape == (2, 1, 6, 6)
    numbers = np.where(np.arange(40) == 5, np.nan, 1.0 * np.arange(40))
    with pytest.raises(DataError, match="first for image 5"):
        ImageDiffusion(**QUICK).fit(X, numbers)
    assert ImageDiffusion(**QUICK, missing_labels="unlabelled").fit(X, numbers).sample(1).size


@pytest.mark.parametrize("parameterization", ["v", "eps"])
def test_the_variance_is_trained_by_the_bound_and_the_mean_by_the_error(parameterization):
    X, _ = bars(40)
    options = {"parameterization": parameterization, "learned_variance": True}
    fitted = ImageDiffusion(**QUICK, **options).fit(X)
    denoiser = fitted.denoiser_
    objective = build_objective(denoiser, fitted.codec_, fitted.conditions_, 0.1)
    assert isinstance(objective, HybridLoss)
    data = fitted.codec_.encode(X[:8])

    def gradients(weight):
        objective.weight = weight
        denoiser.zero_grad()
        objective(denoiser, data, KeyedNoise(0), t=torch.full((8,), 0.5)).mean().backward()
        mean, variance = denoiser.network.output.weight.grad.chunk(2)
        return mean.clone(), variance.clone()

    mean, variance = gradients(0.0)
    assert bool(mean.any())
    assert not bool(variance.any()), "the error of the mean says nothing of the variance"
    with_bound, trained = gradients(1e-3)
    assert torch.equal(with_bound, mean), "the bound must leave the mean alone"
    assert bool(trained.any())


class FailsAfter:
    """An objective that fails at a call."""

    def __init__(self, objective, calls):
        self.objective, self.calls = objective, calls

    def __call__(self, *args, **kwargs):
        self.calls -= 1
        if self.calls < 0:
            raise MemoryError("full")
        return self.objective(*args, **kwargs)


def test_an_interrupted_fit_resumes_bit_equal(tmp_path, monkeypatch):
    X, y = bars(40)
    whole = ImageDiffusion(**QUICK).fit(X, y)
    monkeypatch.setattr(
        "scidiffusion.images.estimator.build_objective",
        lambda *parts: FailsAfter(build_objective(*parts), 6),
    )
    with pytest.raises(MemoryError):
        ImageDiffusion(**QUICK).fit(X, y, checkpoint_dir=tmp_path)
    monkeypatch.undo()
    assert list(tmp_path.iterdir())
    rest = ImageDiffusion(**QUICK).fit(X, y, checkpoint_dir=tmp_path, resume=True)
    assert np.array_equal(
        rest.sample(3, conditions="up", random_state=1),
        whole.sample(3, conditions="up", random_state=1),
    )


def test_a_budget_ends_the_training():
    fitted = ImageDiffusion(**QUICK | {"budget": 1e-6, "max_steps": 1000}).fit(bars(40)[0])
    assert (fitted.training_.steps, fitted.training_.stopped_by) == (1, "budget")


def test_save_and_load_are_exact(model, tmp_path):
    path = model.save(tmp_path / "model")
    loaded = ImageDiffusion.load(path)
    assert np.array_equal(
        loaded.sample(5, conditions="up", guidance_scale=2.0, random_state=2),
        model.sample(5, conditions="up", guidance_scale=2.0, random_state=2),
    )
    config = json.loads((path / "config.json").read_text())
    assert config["estimator"] == "ImageDiffusion"
    weights = path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelFileError, match="truncated"):
        ImageDiffusion.load(path)


def test_a_newer_model_is_refused(plain, tmp_path, monkeypatch):
    monkeypatch.setattr("scidiffusion.images.estimator.VERSION", 3)
    path = plain.save(tmp_path / "model")
    monkeypatch.undo()
    with pytest.raises(ModelFileError, match="upgrade scidiffusion"):
        ImageDiffusion.load(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "magic"}, "sampler"),
        ({"parameterization": "score"}, "parameterization"),
        ({"precision": "float8"}, "precision"),
        ({"missing_labels": "drop"}, "missing_labels"),
        ({"validation_fraction": 0.9}, "validation_fraction"),
        ({"attention": (9,)}, "attention"),
        ({"width": -1}, "width"),
        ({"condition_dropout": 1.0}, "condition_dropout"),
        ({"budget": "soon"}, "budget"),
        ({"random_state": -1}, "random_state"),
    ],
)
def test_bad_options_are_named_before_work_is_spent(options, message, monkeypatch):
    monkeypatch.setattr("scidiffusion.training.fit.train", None)
    with pytest.raises(ConfigError, match=message):
        ImageDiffusion(**QUICK | options).fit(*bars(40))


def test_bad_labels():
    X, y = bars(40)
    with pytest.raises(DataError, match="one condition a row"):
        ImageDiffusion(**QUICK).fit(X, y[:9])
    with pytest.raises(DataError, match="single class"):
        ImageDiffusion(**QUICK).fit(X, ["a"] * 40)


def test_bad_requests(model, plain):
    with pytest.raises(NotFittedError):
        ImageDiffusion().sample(3)
    with pytest.raises(InputError, match="n must be"):
        model.sample(-1)
    with pytest.raises(ConditionError, match=r"unknown label 'across'; known are 'flat', 'up'"):
        model.sample(3, conditions="across")
    with pytest.raises(ConditionError, match="2 conditions for 3 rows"):
        model.sample(3, conditions=["up", "flat"])
    with pytest.raises(ConditionError, match="to guide towards"):
        model.sample(3, guidance_scale=2.0)
    with pytest.raises(ConditionError, match="fitted without labels"):
        plain.sample(3, guidance_scale=2.0)
    with pytest.raises(ConditionError, match="without conditions"):
        plain.sample(3, conditions="up")
    with pytest.raises(ConfigError, match="sampler"):
        model.sample(3, sampler="magic")
    with pytest.raises(InputError, match="steps"):
        model.sample(3, steps=0)


def test_without_dropped_conditions_there_is_no_unconditional_model():
    fitted = ImageDiffusion(**QUICK, condition_dropout=0.0).fit(*bars(40))
    assert fitted.sample(2, conditions="up").shape == (2, 1, 6, 6)
    with pytest.raises(ConditionError, match="condition_dropout=0"):
        fitted.sample(2)
    with pytest.raises(ConditionError, match="condition_dropout=0"):
        fitted.sample(2, conditions="up", guidance_scale=2.0)


def test_digits_come_with_scikit_learn():
    X, y = load_digits()
    assert X.shape == (1797, 1, 8, 8)
    assert (X.min(), X.max()) == (0, 16)
    assert sorted(set(y.tolist())) == list(range(10))
