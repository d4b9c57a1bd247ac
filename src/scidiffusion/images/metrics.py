r"""How good images are: beside real ones, beside their labels, beside what was learned.

Every function takes arrays whose first axis is the image; a metric in feature space takes the
features, for example of `ImageJudge`.

    Frechet distance   ||m_1 - m_2||^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^{1/2})

between Gaussians with the mean and covariance of two sets of features (Dowson & Landau 1982, eq.
4; Heusel et al. 2017, eq. 6: with the features of the Inception network it is the FID). It
falls with the number of images, so compare it with that of two sets of real images of the same
numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scidiffusion.errors import DataError

COPY_RATIO = 1 / 3
"""Yoon et al. 2023: a copy is three times nearer to one training image than to the next."""


def frechet_distance(first: ArrayLike, second: ArrayLike) -> float:
    """Frechet distance of two sets of features; see the module.

    Args:
        first: (N, F) features.
        second: (M, F) features.

    Returns:
        A number >= 0; 0 for sets of equal mean and covariance.

    Raises:
        DataError: if the sets do not fit, or have fewer than two rows.
    """
    one, two = _flat(first, "first", 2), _flat(second, "second", 2)
    _check_width(one, two)
    gap = one.mean(0) - two.mean(0)
    covariances = [np.atleast_2d(np.cov(part, rowvar=False)) for part in (one, two)]
    # tr (S_1 S_2)^{1/2} is that of the symmetric S_1^{1/2} S_2 S_1^{1/2}: no complex numbers.
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ covariances[1] @ root).clip(0)).sum()
    distance = gap @ gap + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * cross
    return max(float(distance), 0.0)


def label_precision(found: ArrayLike, asked: ArrayLike) -> float:
    """Share of images that a judge gives the label that was asked for.

    Args:
        found: (N,) labels of the judge.
        asked: (N,) labels asked for, or one for all.

    Raises:
        DataError: if there are no images, or the labels differ in number.
    """
    labels, wanted = np.asarray(found), np.asarray(asked)
    if labels.ndim != 1 or not len(labels) or wanted.shape not in ((), labels.shape):
        raise DataError(
            f"labels must be (N,), N >= 1, and one or N asked for; got {labels.shape} and "
            f"{wanted.shape}"
        )
    return float((labels == wanted).mean())


def nearest_distances(
    X: ArrayLike, reference: ArrayLike, *, neighbours: int = 1, block: int = 512
) -> NDArray[np.float64]:
    """Euclidean distances of each image to its nearest reference images.

    Args:
        X: (N, ...) images.
        reference: (M, ...) images of the same shape.
        neighbours: Number of neighbours, at most M.
        block: Images at once.

    Returns:
        (N, neighbours), the nearest first.

    Raises:
        DataError: if the shapes do not fit or there are fewer references than neighbours.
    """
    one, two = _flat(X, "X", 1), _flat(reference, "reference", neighbours)
    _check_width(one, two)
    squares = (two**2).sum(1)
    parts = []
    for start in range(0, len(one), block):
        rows = one[start : start + block]
        distances = (rows**2).sum(1)[:, None] + squares - 2 * rows @ two.T
        nearest = np.partition(distances, neighbours - 1, axis=1)[:, :neighbours]
        parts.append(np.sqrt(np.sort(nearest, axis=1).clip(0)))
    return np.concatenate(parts)


def copied_share(X: ArrayLike, train: ArrayLike, *, ratio: float = COPY_RATIO) -> float:
    """Share of images that are copies of a training image (Yoon et al. 2023).

    An image is one if its distance to the nearest training image is at most `ratio` times that to
    the second nearest.

    Args:
        X: (N, ...) images.
        train: (M, ...) training images, M >= 2.
        ratio: See above.
    """
    distances = nearest_distances(X, train, neighbours=2)
    return float((distances[:, 0] <= ratio * distances[:, 1]).mean())


def closer_share(
    X: ArrayLike, train: ArrayLike, held_out: ArrayLike, *, quantile: float = 0.05
) -> float:
    """Share of images nearer to the training images than nearly all held-out real ones.

    Args:
        X: (N, ...) images.
        train: (M, ...) training images.
        held_out: (K, ...) real images that training has not seen.
        quantile: Share of the held-out images that are nearer than the threshold, which is what
            new images that copy no more than real ones have too.
    """
    threshold = np.quantile(nearest_distances(held_out, train)[:, 0], quantile)
    return float((nearest_distances(X, train)[:, 0] <= threshold).mean())


def diversity(X: ArrayLike, labels: ArrayLike | None = None) -> float:
    """Root mean square distance of images (or features) to the mean of their label.

    Args:
        X: (N, ...) images or features.
        labels: (N,) labels; None is one for all.

    Raises:
        DataError: if the labels differ in number from the images.
    """
    rows = _flat(X, "X", 1)
    names = np.zeros(len(rows)) if labels is None else np.asarray(labels)
    if names.shape != (len(rows),):
        raise DataError(f"{len(rows)} images need as many labels, got shape {names.shape}")
    total = 0.0
    for name in np.unique(names):
        part = rows[names == name]
        total += float(((part - part.mean(0)) ** 2).sum())
    return float(np.sqrt(total / len(rows)))


def _flat(X: ArrayLike, name: str, fewest: int) -> NDArray[np.float64]:
    array = np.asarray(X, dtype=np.float64)
    if array.ndim < 2 or len(array) < fewest:
        raise DataError(f"{name} must be (N, ...) with N >= {fewest}, got shape {array.shape}")
    return array.reshape(len(array), -1)


def _check_width(one: NDArray[np.float64], two: NDArray[np.float64]) -> None:
    if one.shape[1] != two.shape[1]:
        raise DataError(
            f"the two sets have {one.shape[1]} and {two.shape[1]} values an image; they must be "
            "of one shape"
        )
