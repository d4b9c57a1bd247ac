"""Metrics of images, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from scidiffusion.errors import DataError
from scidiffusion.images import (
    ImageJudge,
    closer_share,
    copied_share,
    diversity,
    frechet_distance,
    label_precision,
)
from scidiffusion.images.metrics import nearest_distances

RNG = np.random.default_rng(0)


def exact(n: int, mean: np.ndarray, cov: np.ndarray) -> np.ndarray:
    """Rows whose sample mean and covariance are exactly these."""
    rows = RNG.standard_normal((n, len(mean)))
    rows -= rows.mean(0)
    rows = rows @ np.linalg.inv(np.linalg.cholesky(np.cov(rows.T))).T
    return mean + rows @ np.linalg.cholesky(cov).T


def test_frechet_distance_of_commuting_covariances():
    one = exact(50, np.zeros(3), np.diag([1.0, 4.0, 9.0]))
    two = exact(80, np.array([1.0, 2.0, 0.0]), np.diag([4.0, 4.0, 1.0]))
    # |m|^2 + sum of (sd_1 - sd_2)^2
    assert frechet_distance(one, two) == pytest.approx(5 + 1 + 0 + 4)
    assert frechet_distance(two, one) == pytest.approx(10)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_any_covariances_is_that_of_scipy():
    from scipy.linalg import sqrtm

    a, b = (RNG.standard_normal((4, 4)) for _ in range(2))
    one, two = exact(60, np.zeros(4), a @ a.T), exact(60, np.ones(4), b @ b.T)
    root = np.real(sqrtm(a @ a.T @ b @ b.T))
    expected = 4 + np.trace(a @ a.T + b @ b.T - 2 * root)
    assert frechet_distance(one, two) == pytest.approx(expected)
    turn = np.linalg.qr(RNG.standard_normal((4, 4)))[0]
    assert frechet_distance(one @ turn, two @ turn) == pytest.approx(expected)


def test_frechet_distance_of_degenerate_features():
    rows = np.outer(np.arange(5.0), [1.0, 0.0, 2.0])
    assert frechet_distance(rows, rows + 1) == pytest.approx(3)
    with pytest.raises(DataError, match="N >= 2"):
        frechet_distance(rows[:1], rows)
    with pytest.raises(DataError, match="3 and 2 values"):
        frechet_distance(rows, rows[:, :2])


def test_label_precision():
    assert label_precision(["a", "b", "a"], ["a", "b", "b"]) == pytest.approx(2 / 3)
    assert label_precision([3, 3, 1, 3], 3) == 0.75
    with pytest.raises(DataError):
        label_precision([], [])
    with pytest.raises(DataError):
        label_precision([1, 2], [1, 2, 3])


def test_nearest_distances_are_those_of_all_pairs():
    X, reference = RNG.normal(size=(30, 2, 3)), RNG.normal(size=(20, 2, 3))
    pairs = np.sort(np.linalg.norm(X[:, None] - reference[None], axis=(2, 3)), 1)
    assert np.allclose(nearest_distances(X, reference, neighbours=3, block=7), pairs[:, :3])


def test_copies_are_found():
    train, fresh = RNG.normal(size=(50, 1, 4, 4)), RNG.normal(size=(40, 1, 4, 4))
    assert copied_share(fresh, train) == 0
    copies = train[:40] + 0.01 * RNG.normal(size=(40, 1, 4, 4))
    assert copied_share(copies, train) == 1
    assert copied_share(np.concatenate([fresh[:30], copies[:10]]), train) == 0.25
    assert closer_share(copies, train, fresh) == 1
    assert closer_share(fresh, train, fresh, quantile=0.25) == 0.25


def test_diversity_is_the_spread_within_labels():
    one = exact(100, np.zeros(2), np.diag([1.0, 3.0]))
    assert diversity(one) == pytest.approx(np.sqrt(4 * 99 / 100))
    two = np.concatenate([one, one + 100])
    assert diversity(two, np.repeat(["a", "b"], 100)) == pytest.approx(diversity(one))
    assert diversity(two) > 50
    with pytest.raises(DataError, match="as many labels"):
        diversity(one, ["a"])


def test_a_judge_learns_and_its_features_carry_the_labels():
    y = np.arange(200) % 2
    X = RNG.normal(size=(200, 1, 3, 3)) + 2.0 * y[:, None, None, None]
    judge = ImageJudge(hidden=(16, 4), max_iter=30).fit(X[:100], y[:100])
    assert judge.score(X[100:], y[100:]) > 0.95
    features = judge.features(X)
    assert features.shape == (200, 4)
    assert (features >= 0).all()
    # The last layer of the network on these features is its decision.
    network = judge.network_
    logits = features @ network.coefs_[-1] + network.intercepts_[-1]
    assert np.array_equal((logits[:, 0] > 0).astype(int), judge.predict(X))
    again = ImageJudge(hidden=(16, 4), max_iter=30).fit(X[:100], y[:100])
    assert np.array_equal(again.features(X), features)
