"""Latent diffusion: exact where data are Gaussian, whole after a way to disk and back, strict."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.preprocessing import FunctionTransformer

from scidiffusion import DensityDiffusion, LatentDiffusion
from scidiffusion.errors import ConfigError, DataError, ModelFileError
from scidiffusion.latent import AutoEncoder, Encoder, PCAEncoder
from scidiffusion.persistence import load_model, save_model


def density(**options):
    defaults = {"max_steps": 1200, "width": 64, "blocks": 2, "random_state": 0, "progress": False}
    return DensityDiffusion(**defaults | options)


def gaussian(n, seed=0):
    """Rows (n, 4, 5) of rank three about a mean; their covariance (20, 20)."""
    rng = np.random.default_rng(1)
    maps, mean = rng.normal(size=(3, 20)) * [[3.0], [1.5], [0.7]], rng.normal(size=20)
    draws = np.random.default_rng(seed).normal(size=(n, 3))
    return (draws @ maps + mean).reshape(n, 4, 5), maps.T @ maps, mean


@pytest.fixture(scope="module")
def fitted():
    rows, _, _ = gaussian(3000)
    return LatentDiffusion(PCAEncoder(3), density()).fit(rows)


def test_gaussian_data_keep_their_law(fitted):
    rows, covariance, mean = gaussian(4000, seed=5)
    made = fitted.sample(4000, random_state=2)
    assert made.shape == (4000, 4, 5)
    flat = made.reshape(4000, 20)
    error = np.linalg.norm(np.cov(flat.T) - covariance) / np.linalg.norm(covariance)
    floor = np.linalg.norm(np.cov(rows.reshape(-1, 20).T) - covariance) / np.linalg.norm(
        covariance
    )
    assert floor < 0.1
    assert error < 0.15
    np.testing.assert_allclose(flat.mean(0), mean, atol=0.35)
    # Of rank three the data are, and so is what is drawn.
    assert np.linalg.matrix_rank(flat - flat.mean(0), tol=1e-6 * np.abs(flat).max()) == 3
    assert fitted.reconstruction_error_ < 1e-12


def test_the_variance_left_out_is_the_error_of_reconstruction():
    rows, _, _ = gaussian(500)
    flat = rows.reshape(500, 20)
    eigenvalues = np.linalg.eigvalsh(np.cov(flat.T))[::-1]
    for count in (1, 2):
        encoder = PCAEncoder(count).fit(rows)
        lost = eigenvalues[count:].sum() / eigenvalues.sum()
        assert encoder.explained_ == pytest.approx(1 - lost)
        error = np.square(encoder.decode(encoder.encode(rows)) - rows).sum()
        assert error / np.square(flat - flat.mean(0)).sum() == pytest.approx(lost)


def test_a_share_of_the_variance_chooses_the_number():
    rows, _, _ = gaussian(500)
    share = PCAEncoder(1).fit(rows).explained_
    assert len(PCAEncoder(share - 0.01).fit(rows).variance_) == 1
    assert len(PCAEncoder(share + 0.01).fit(rows).variance_) == 2


@pytest.mark.parametrize("components", [0, 21, 1.5, -2, True])
def test_an_impossible_number_of_components_is_refused(components):
    with pytest.raises(ConfigError, match="components must be"):
        PCAEncoder(components).fit(gaussian(50)[0])


def test_conditions_pass_through():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 2000)
    rows = (rng.normal(size=(2000, 1)) * 0.2 + 3.0 * label[:, None]) @ np.ones((1, 6))
    model = LatentDiffusion(PCAEncoder(1), density()).fit(rows, label)
    for kind in (0, 1):
        made = model.sample(300, conditions=kind, random_state=0)
        assert made.mean() == pytest.approx(3.0 * kind, abs=0.2)


def circle(n, seed):
    """A circle, bent into eight dimensions: three of a linear map's, one of its own."""
    angle = np.random.default_rng(seed).uniform(0, 2 * np.pi, n)
    waves = [np.cos(k * angle) for k in (1, 2, 3, 4)] + [np.sin(k * angle) for k in (1, 2, 3, 4)]
    return np.stack(waves, 1)


@pytest.fixture(scope="module")
def curved():
    encoder = AutoEncoder(2, width=64, max_steps=800, lr=3e-3, random_state=0, progress=False)
    return LatentDiffusion(encoder, density(max_steps=800)).fit(circle(2000, 0))


def test_a_learned_encoder_bends_where_the_linear_one_cannot(curved):
    linear = PCAEncoder(2).fit(circle(2000, 0))
    fresh = circle(500, 1)
    lost = np.square(linear.decode(linear.encode(fresh)) - fresh).mean()
    kept = np.square(curved.reconstruct(fresh) - fresh).mean()
    assert lost == pytest.approx(0.375, abs=0.02)  # six of eight waves of variance one half
    assert kept < 0.1 * lost


def test_what_is_drawn_lies_on_the_curve(curved):
    made = curved.sample(500, random_state=0)
    grid = circle(2000, 3)
    nearest = np.square(made[:, None] - grid[None]).sum(-1).min(1)
    assert np.median(nearest) < 0.1
    assert np.square(made[:, [0, 4]]).sum(1).mean() == pytest.approx(1.0, abs=0.1)
    angle = np.arctan2(made[:, 4], made[:, 0])
    share = np.histogram(angle, bins=4, range=(-np.pi, np.pi))[0] / len(angle)
    np.testing.assert_allclose(share, 0.25, atol=0.08)


@pytest.mark.parametrize("name", ["fitted", "curved"])
def test_a_model_comes_back_from_disk(name, request, tmp_path):
    model = request.getfixturevalue(name)
    model.save(tmp_path / "model")
    again = LatentDiffusion.load(tmp_path / "model", device="cpu")
    np.testing.assert_array_equal(model.sample(5, random_state=1), again.sample(5, random_state=1))
    rows = model.sample(5, random_state=1)
    np.testing.assert_allclose(again.reconstruct(rows), model.reconstruct(rows))
    assert again.reconstruction_error_ == model.reconstruction_error_


def test_a_model_file_cannot_name_any_class(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    saved = load_model(tmp_path / "model", estimator="LatentDiffusion")
    for name in ("subprocess.Popen", "scidiffusion.errors.DataError", "scidiffusion.latent.nope"):
        parts = saved.extra["parts.json"]
        parts["encoder"]["class"] = name
        save_model(
            tmp_path / "other",
            estimator="LatentDiffusion",
            config=saved.config,
            tensors=saved.tensors,
            extra={"parts.json": parts},
        )
        with pytest.raises(ModelFileError, match="which is no Encoder"):
            LatentDiffusion.load(tmp_path / "other")


def test_transformers_of_scikit_learn_work_but_cannot_be_saved(tmp_path):
    rows, _, _ = gaussian(300)
    model = LatentDiffusion(PCA(3), density(max_steps=20)).fit(rows)
    np.testing.assert_allclose(model.reconstruct(rows), rows, atol=1e-8)
    with pytest.raises(ConfigError, match="PCA can be saved by pickle alone"):
        model.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


class Noisy(PCAEncoder):
    """Decodes to a draw."""

    decodes_at_random = True

    def decode(self, Z, *, random_state=None):
        self.asked_ = [*getattr(self, "asked_", []), (len(Z), random_state)]
        rows = super().decode(Z)
        return rows + np.random.default_rng(random_state).normal(size=rows.shape)


def test_a_decoder_that_draws_has_a_seed():
    rows, _, _ = gaussian(600)
    model = LatentDiffusion(Noisy(2), density(max_steps=20)).fit(rows)
    # What every row costs is spent on some, and the same each time.
    assert model.encoder_.asked_ == [(256, 0)]
    again = LatentDiffusion(Noisy(2), density(max_steps=20)).fit(rows)
    assert again.reconstruction_error_ == model.reconstruction_error_
    drawn = model.sample(5, random_state=1)
    np.testing.assert_array_equal(again.sample(5, random_state=1), drawn)
    first, second = model.sample(5), model.sample(5)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(again.sample(5), first)
    codes = model.encode(rows[:3])
    one = model.decode(codes, random_state=2)
    np.testing.assert_array_equal(model.reconstruct(rows[:3], random_state=2), one)
    assert not np.array_equal(model.decode(codes, random_state=3), one)
    assert not np.array_equal(model.decode(codes), model.decode(codes))


class Elsewhere(BaseEstimator):
    """An encoder of another domain, which knows nothing of `Encoder`."""

    decodes_at_random = False

    def fit(self, X):
        self.shape_ = X.shape[1:]
        return self

    def encode(self, X):
        return X.reshape(len(X), -1)[:, :3]

    def decode(self, Z):
        return np.repeat(Z, 7, axis=1)[:, :20].reshape(len(Z), *self.shape_)

    def state(self):
        return {}, {}

    def restore(self, notes, tensors):
        return self


def test_an_encoder_is_known_by_what_it_has():
    rows, _, _ = gaussian(100)
    assert isinstance(Elsewhere(), Encoder)
    assert not isinstance(PCA(2), Encoder)
    assert not isinstance(Elsewhere(), PCAEncoder)
    model = LatentDiffusion(Elsewhere(), density(max_steps=5)).fit(rows)
    assert model.sample(2).shape == (2, 4, 5)


class Short(Encoder):
    """Decodes to too little."""

    def fit(self, X):
        self.shape_ = X.shape[1:]
        return self

    def encode(self, X):
        return X.reshape(len(X), -1)

    def decode(self, Z):
        return Z[:, :-1]

    def state(self):
        return {}, {}

    def restore(self, notes, tensors):
        return self


class Broken(Short):
    """Encodes to NaN."""

    def encode(self, X):
        return np.full((len(X), 2), np.nan)


@pytest.mark.parametrize(
    ("encoder", "error", "message"),
    [
        (Short(), DataError, r"decodes to rows of shape \(19,\), and the data have \(4, 5\)"),
        (Broken(), DataError, "finite codes"),
        (FunctionTransformer(inverse_func=lambda z: z[:, :3]), DataError, "must fit each other"),
        ("pca", ConfigError, "encoder must be an Encoder"),
        (AutoEncoder(0, progress=False), ConfigError, "latent_dim"),
        (AutoEncoder(2, noise=-1, progress=False), ConfigError, "noise and pull"),
    ],
)
def test_an_encoder_that_does_not_fit_is_named(encoder, error, message):
    with pytest.raises(error, match=message):
        LatentDiffusion(encoder, density(max_steps=5)).fit(gaussian(50)[0])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((20, 3)), "all rows of X are the same"),
        (np.ones(20), "10 rows or more"),
        (np.ones((3, 2)), "10 rows or more"),
        (np.where(np.arange(40).reshape(20, 2) == 7, np.nan, 1.0), "first in row 3"),
        ([[1.0, 2.0], [1.0]], "of one shape"),
    ],
)
def test_rows_that_cannot_be_used_are_named(rows, message):
    with pytest.raises(DataError, match=message):
        LatentDiffusion(PCAEncoder(1), density()).fit(rows)


def test_it_is_an_estimator_like_others(fitted):
    with pytest.raises(NotFittedError):
        LatentDiffusion(PCAEncoder(1), density()).sample(1)
    copy = clone(LatentDiffusion(PCAEncoder(2), density(width=32)))
    assert copy.get_params()["estimator__width"] == 32
    with pytest.raises(DataError, match=r"fitted to rows of shape \(4, 5\)"):
        fitted.encode(np.ones((2, 20)))
