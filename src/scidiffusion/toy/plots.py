"""Pictures of a diffusion: the forward process, sampling trajectories, the learned density.

Every function returns a matplotlib figure, draws into memory only, and writes a file where `path`
is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from scidiffusion._files import write_atomic
from scidiffusion.core import GaussianProcess, KeyedNoise, LinearVP
from scidiffusion.errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from scidiffusion.toy.density import DensityDiffusion

INK, ACCENT = "#1f3b57", "#d1495b"


def plot_forward(
    X: ArrayLike,  # scikit-learn's name
    *,
    process: GaussianProcess | None = None,
    times: Sequence[float] = (0.0, 0.1, 0.25, 0.5, 1.0),
    random_state: int = 0,
    path: str | Path | None = None,
) -> Figure:
    """Draw data at several times of the forward process.

    Args:
        X: (n, 1) or (n, 2) data; it is standardised first.
        process: Gaussian process; default the continuous VP process of `DensityDiffusion`.
        times: Times in [0, 1]; 0 is the data.
        random_state: Seed of the noise.
        path: Where to write the picture (PNG, SVG, PDF).

    Raises:
        DataError: if X has more than two columns.
    """
    points = _points(X)
    points = (points - points.mean(0)) / points.std(0)
    process = process or GaussianProcess(LinearVP())
    figure, axes = _row(len(times))
    for index, (axis, time) in enumerate(zip(axes, times, strict=True)):
        t = torch.tensor(float(time), dtype=torch.float64)
        z = process.q_sample(torch.from_numpy(points), t, KeyedNoise(random_state).at(index)).z
        _scatter(axis, z.numpy())
        axis.set_title(f"t = {time:g}")
    figure.suptitle("The forward process", color=INK)
    return _finish(figure, path)


def plot_trajectories(
    model: DensityDiffusion,
    *,
    n: int = 60,
    conditions: Any = None,
    steps: int | None = None,
    sampler: str | None = None,
    random_state: int = 0,
    path: str | Path | None = None,
) -> Figure:
    """Draw the way of samples from noise to data: against time in 1-D, in the plane in 2-D.

    Args:
        model: A fitted model of one or two columns.
        n: Number of trajectories, at most `model.compute_block`.
        conditions: As of `DensityDiffusion.sample`.
        steps: Number of steps.
        sampler: Name of the sampler.
        random_state: Seed.
        path: Where to write the picture.

    Raises:
        DataError: if the model has more than two columns.
    """
    if model.n_features_in_ > 2:
        raise DataError(f"trajectories need one or two columns, not {model.n_features_in_}")
    n = min(n, model.compute_block)
    times: list[float] = []
    states: list[NDArray[np.float64]] = []

    def keep(_: int, t: torch.Tensor, z: torch.Tensor) -> None:
        times.append(float(t))
        states.append(z[:n].double().cpu().numpy() * model.scale_ + model.mean_)

    model.sample(
        n,
        conditions=conditions,
        steps=steps,
        sampler=sampler,
        random_state=random_state,
        callback=keep,
    )
    paths = np.stack(states)
    figure, (axis,) = _row(1, size=5.0)
    if model.n_features_in_ == 1:
        axis.plot(times, paths[:, :, 0], color=INK, alpha=0.3, linewidth=0.8)
        axis.invert_xaxis()
        axis.set_xlabel("time t (1 is noise, 0 is data)")
        axis.set_ylabel("x")
    else:
        for index in range(n):
            axis.plot(*paths[:, index].T, color=INK, alpha=0.25, linewidth=0.7)
        axis.scatter(*paths[-1].T, s=10, color=ACCENT, zorder=3, label="samples")
        axis.set_aspect("equal")
        axis.legend(frameon=False)
    axis.set_title("From noise to data", color=INK)
    return _finish(figure, path)


def plot_density(
    model: DensityDiffusion,
    X: ArrayLike | None = None,  # scikit-learn's name
    *,
    conditions: Any = None,
    resolution: int = 80,
    steps: int = 30,
    path: str | Path | None = None,
) -> Figure:
    """Draw the learned density beside the data: a curve in 1-D, an image in 2-D.

    Args:
        model: A fitted model of one or two columns.
        X: Data to show with it.
        conditions: One condition, as of `DensityDiffusion.sample`.
        resolution: Points along each axis.
        steps: Steps of the ODE likelihood.
        path: Where to write the picture.

    Raises:
        DataError: if the model, or X, has more than two columns.
    """
    if model.n_features_in_ > 2:
        raise DataError(f"a density plot needs one or two columns, not {model.n_features_in_}")
    points = None if X is None else _points(X)
    reach = 2.6 * model.scale_
    axes_values = [
        np.linspace(centre - span, centre + span, resolution * (3 if len(reach) == 1 else 1))
        for centre, span in zip(model.mean_, reach, strict=True)
    ]
    if model.n_features_in_ == 1:
        figure, (axis,) = _row(1, size=5.0)
        grid = axes_values[0]
        log_density = model.score_samples(grid[:, None], conditions=conditions, steps=steps)
        if points is not None:
            axis.hist(points[:, 0], bins=80, density=True, color="#c9d6df", label="data")
        axis.plot(grid, np.exp(log_density), color=ACCENT, label="learned density")
        axis.legend(frameon=False)
        return _finish(figure, path)
    figure, axes = _row(1 if points is None else 2, size=4.2)
    xs, ys = np.meshgrid(*axes_values, indexing="xy")
    cells = np.stack([xs.ravel(), ys.ravel()], 1)
    density = np.exp(model.score_samples(cells, conditions=conditions, steps=steps))
    extent = (xs.min(), xs.max(), ys.min(), ys.max())
    axes[-1].imshow(
        density.reshape(xs.shape), origin="lower", extent=extent, cmap="magma", aspect="auto"
    )
    axes[-1].set_title("learned density", color=INK)
    if points is not None:
        _scatter(axes[0], points)
        axes[0].set_xlim(extent[:2])
        axes[0].set_ylim(extent[2:])
        axes[0].set_title("data", color=INK)
    return _finish(figure, path)


def _points(X: ArrayLike) -> NDArray[np.float64]:  # scikit-learn's name
    points = np.asarray(X, dtype=np.float64)
    if points.ndim != 2 or not 1 <= points.shape[1] <= 2:
        raise DataError(f"a plot needs one or two columns, got shape {points.shape}")
    return points


def _row(count: int, size: float = 2.6) -> tuple[Figure, list[Any]]:
    # A figure of its own, not pyplot's: no global state, no window, safe in threads.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size * count, size * 1.1), layout="constrained")
    return figure, [figure.add_subplot(1, count, index + 1) for index in range(count)]


def _scatter(axis: Any, points: NDArray[np.float64]) -> None:
    if points.shape[1] == 1:
        axis.hist(points[:, 0], bins=60, density=True, color=INK)
        axis.set_yticks([])
    else:
        axis.scatter(*points.T, s=2, color=INK, alpha=0.4, linewidths=0)
        axis.set_xticks([])
        axis.set_yticks([])


def _finish(figure: Figure, path: str | Path | None) -> Figure:
    if path is not None:
        write_atomic(path, lambda target: figure.savefig(target, dpi=150))
    return figure
