"""Toy densities to learn and to look at: all seeded, all float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import make_moons, make_swiss_roll

from scidiffusion.estimator import check_seed

Array = NDArray[np.float64]
Labels = NDArray[np.int64]


def two_moons(
    n: int = 2000, noise: float = 0.07, random_state: int | None = 0
) -> tuple[Array, Labels]:
    """Two interleaved half circles: (n, 2) points and their (n,) integer moon."""
    points, moon = make_moons(n, noise=noise, random_state=_rng(random_state))
    return points, moon


def swiss_roll(n: int = 2000, noise: float = 0.3, random_state: int | None = 0) -> Array:
    """The swiss roll seen from the side: (n, 2) points on a spiral."""
    points, _ = make_swiss_roll(n, noise=noise, random_state=_rng(random_state))
    return points[:, [0, 2]] / 5.0


def checkerboard(n: int = 2000, fields: int = 4, random_state: int | None = 0) -> Array:
    """Uniform on the dark fields of a board [-2, 2]^2: (n, 2) points, with hard edges."""
    rng = np.random.default_rng(check_seed(random_state))
    x = rng.integers(fields, size=n)
    y = 2 * rng.integers(fields // 2, size=n) + x % 2
    return (np.stack([x, y], 1) + rng.random((n, 2))) * 4 / fields - 2


def prince_mixture(n: int = 2000, random_state: int | None = 0) -> tuple[Array, Labels]:
    """The 1-D mixture of the notebooks to Prince 2023, chapter 18: (n, 1) points, (n,) component.

    Weights .2 .3 .35 .15, means 1.5 -.216 .45 -1.875, standard deviations .3 .15 .525 .075.
    """
    rng = np.random.default_rng(check_seed(random_state))
    component = rng.choice(4, size=n, p=[0.2, 0.3, 0.35, 0.15])
    means, stds = np.array([1.5, -0.216, 0.45, -1.875]), np.array([0.3, 0.15, 0.525, 0.075])
    points = means[component] + stds[component] * rng.standard_normal(n)
    return points[:, None], component


def _rng(random_state: int | None) -> int:
    return check_seed(random_state) % 2**32
