"""Completing images: against the exact conditional of a Gaussian field, and bad masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scidiffusion import ImageDiffusion
from scidiffusion.core import Parameterization, Prediction
from scidiffusion.core.prediction import match
from scidiffusion.errors import ConfigError, DataError
from scidiffusion.images.inpainting import read_mask

SIZE, MEAN, STD = 4, 3.0, 2.0
N = 256


def covariance() -> np.ndarray:
    """Of a stationary field of unit variance on SIZE x SIZE cells: exp(-distance / 3)."""
    cells = np.stack(np.meshgrid(*[np.arange(SIZE)] * 2, indexing="ij"), -1).reshape(-1, 2)
    squares = ((cells[:, None] - cells[None]) ** 2).sum(-1)
    return np.exp(-np.sqrt(squares) / 3)


class ExactDenoiser:
    """E[x | z_t] of a field N(0, S): scale S (scale^2 S + std^2 I)^{-1} z."""

    def __init__(self, process) -> None:
        self.process = process
        values, vectors = np.linalg.eigh(covariance())
        self.values, self.vectors = (torch.from_numpy(v).float() for v in (values, vectors))

    def __call__(self, z, t, cond=None):
        marginal = self.process.schedule.marginal(t)
        scale, var = match(marginal.scale, z), match(marginal.var, z)
        gain = scale * self.values / (scale**2 * self.values + var)
        x0 = ((z.flatten(1) @ self.vectors) * gain @ self.vectors.T).reshape(z.shape)
        return Prediction(z, marginal, x0, Parameterization.X0)


@pytest.fixture(scope="module")
def field() -> ImageDiffusion:
    """An estimator whose network is replaced by the exact denoiser."""
    draws = np.random.default_rng(0).multivariate_normal(np.zeros(SIZE**2), covariance(), 100)
    X = MEAN + STD * draws.reshape(-1, 1, SIZE, SIZE)
    options = {"width": 8, "blocks": 1, "max_steps": 1, "progress": False, "random_state": 0}
    model = ImageDiffusion(**options).fit(X)
    # The true scales in place of those of 100 fields.
    record = model.codec_.to_dict() | {"shift": [MEAN], "scale": [STD]}
    model.codec_ = type(model.codec_).from_dict(record)
    model.denoiser_ = ExactDenoiser(model.denoiser_.process)
    return model


def conditional(known: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the unknown cells given the known ones, standardised."""
    S = covariance()
    gain = S[np.ix_(~known, known)] @ np.linalg.inv(S[np.ix_(known, known)])
    return gain @ seen, S[np.ix_(~known, ~known)] - gain @ S[np.ix_(known, ~known)]


def completed(field, **options) -> tuple[np.ndarray, np.ndarray]:
    """Errors of the mean and of the covariance of the right half of a field, given the left."""
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[:, :2] = True
    seen = np.full(mask.sum(), 1.5)
    X = np.full((N, 1, SIZE, SIZE), np.nan)
    X[:, 0, mask] = MEAN + STD * seen
    drawn = field.inpaint(X, mask, random_state=0, **options)
    assert np.array_equal(drawn[:, 0, mask], X[:, 0, mask]), "what is known is kept to the bit"
    unknown = (drawn.reshape(N, -1)[:, ~mask.ravel()] - MEAN) / STD
    mean, cov = conditional(mask.ravel(), seen)
    # The conditional is far from the unconditional law N(0, S).
    assert np.abs(mean).max() > 1
    assert np.diag(cov).min() < 0.5
    return np.abs(unknown.mean(0) - mean).max(), np.abs(np.cov(unknown.T) - cov).max()


def test_a_gaussian_field_is_completed_by_its_conditional(field):
    mean, cov = completed(field, steps=40, resamples=16)
    assert mean < 0.12
    assert cov < 0.25


def test_the_cheaper_ways_are_rougher(field):
    replaced, _ = completed(field, steps=30, resamples=1)
    assert replaced > 0.4, "plain replacement hardly listens to the known cells"
    guided, cov = completed(field, steps=50, method="reconstruction")
    assert guided < 0.8 * replaced
    assert cov < 0.25


def test_masks_of_an_image_a_grid_and_all_agree(field):
    X = np.random.default_rng(0).normal(MEAN, STD, (3, 1, SIZE, SIZE))
    grid = np.eye(SIZE, dtype=bool)
    options = {"steps": 3, "resamples": 2, "random_state": 1}
    first = field.inpaint(X, grid, **options)
    assert np.array_equal(field.inpaint(X, grid[None], **options), first)
    every = np.broadcast_to(grid, X.shape)
    assert np.array_equal(field.inpaint(X, every, **options), first)
    assert np.array_equal(field.inpaint(X, np.ones_like(grid), **options), X)
    assert not np.array_equal(field.inpaint(X, grid, **options | {"random_state": 2}), first)
    assert np.array_equal(field.inpaint(X[:2], grid, **options), first[:2])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((SIZE, SIZE + 1), dtype=bool), r"mask has shape \(4, 5\).*\(4, 4\)"),
        (np.ones((2, SIZE, SIZE), dtype=bool), "mask has shape"),
        (np.ones((SIZE, SIZE)), "mask must be bool"),
    ],
)
def test_masks_that_do_not_fit(field, mask, message):
    X = np.full((3, 1, SIZE, SIZE), MEAN)
    with pytest.raises(DataError, match=message):
        field.inpaint(X, mask)


def test_bad_requests(field):
    mask = np.eye(SIZE, dtype=bool)
    X = np.full((3, 1, SIZE, SIZE), np.nan)
    with pytest.raises(DataError, match="NaN"):
        field.inpaint(X, mask)
    with pytest.raises(DataError, match="fitted on"):
        field.inpaint(np.zeros((3, 1, 5, 5)), np.ones((3, 1, 5, 5), dtype=bool))
    X = np.full((3, 1, SIZE, SIZE), MEAN)
    with pytest.raises(ConfigError, match="'repaint' or 'reconstruction'"):
        field.inpaint(X, mask, method="magic")
    with pytest.raises(ConfigError, match="steps"):
        field.inpaint(X, mask, resamples=0)


def test_a_mask_from_a_file_or_from_nan(tmp_path):
    X = np.array([[[1.0, np.nan]]])
    assert read_mask(None, X).tolist() == [[[True, False]]]
    with pytest.raises(DataError, match="no value of the images is NaN"):
        read_mask(None, np.ones((1, 2, 2)))
    np.save(tmp_path / "mask.npy", np.eye(2, dtype=bool))
    assert np.array_equal(read_mask(tmp_path / "mask.npy", X), np.eye(2, dtype=bool))
    with pytest.raises(DataError, match="no mask at"):
        read_mask(tmp_path / "none.npy", X)
