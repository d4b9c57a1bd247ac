"""Pictures of images: a grid of them, and what guidance does to labels and diversity.

Every function returns a matplotlib figure, draws into memory only, and writes a file where `path`
is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from scidiffusion._files import write_atomic
from scidiffusion.errors import DataError
from scidiffusion.images.pictures import tile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, ACCENT = "#1f3b57", "#d1495b"


def plot_images(
    images: ArrayLike,
    *,
    columns: int | None = None,
    value_range: tuple[float, float] | None = None,
    title: str | None = None,
    path: str | Path | None = None,
) -> Figure:
    """Draw images side by side.

    Args:
        images: (N, C, H, W) with 1, 3 or 4 channels, or (N, H, W).
        columns: Images a row; None makes about a square.
        value_range: What is black and what is white; None is the range of the images.
        title: Title of the figure.
        path: Where to write the picture (PNG, SVG, PDF).

    Raises:
        DataError: if the images are not pictures.
    """
    figure = _figure(4.8, 4.8)
    axis = figure.add_subplot()
    _show(axis, tile(images, columns=columns, value_range=value_range))
    if title is not None:
        axis.set_title(title, color=INK)
    return _finish(figure, path)


def plot_guidance(
    scales: Sequence[float],
    precision: Sequence[float],
    diversity: Sequence[float],
    images: Sequence[ArrayLike] | None = None,
    *,
    real: tuple[float, float] | None = None,
    path: str | Path | None = None,
) -> Figure:
    """Draw fidelity and diversity by the scale of guidance, and images of each scale.

    Args:
        scales: Scales of guidance, increasing.
        precision: Share of samples with the label asked for, of each scale.
        diversity: Diversity of the samples, of each scale; see `metrics.diversity`.
        images: Images (N, C, H, W) of each scale, the same number each.
        real: Precision and diversity of real images, drawn as dotted lines.
        path: Where to write the picture.

    Raises:
        DataError: if the sequences differ in length.
    """
    series = (scales, precision, diversity, *([] if images is None else [images]))
    if len({len(part) for part in series}) != 1 or not len(scales):
        raise DataError("scales, precision, diversity and images must be of one length, 1 or more")
    figure = _figure(7.2, 2.6 + (0.45 * len(scales) if images is not None else 0.0))
    rows = figure.add_gridspec(2 if images is not None else 1, 2)
    places = np.arange(len(scales))
    texts = ("asked label, share of samples", "diversity within labels")
    for column, (values, text) in enumerate(zip((precision, diversity), texts, strict=True)):
        axis = figure.add_subplot(rows[0, column])
        axis.plot(places, values, "o-", color=ACCENT)
        if real is not None:
            axis.axhline(real[column], color=INK, linestyle=":", label="real")
            axis.legend(frameon=False)
        axis.set_xticks(places, [f"{scale:g}" for scale in scales])
        axis.set_xlabel("guidance scale")
        axis.set_title(text, color=INK, fontsize=10)
    if images is not None:
        axis = figure.add_subplot(rows[1, :])
        each = [np.asarray(part) for part in images]
        _show(axis, tile(np.concatenate(each), columns=len(each[0])))
        height = (each[0].shape[-2] + 1) * (np.arange(len(scales)) + 0.5)
        axis.set_yticks(height, [f"{scale:g}" for scale in scales])
        axis.tick_params(length=0)
    return _finish(figure, path)


def _show(axis: Any, pixels: Any) -> None:
    grey = pixels.shape[-1] == 1
    axis.imshow(pixels[..., 0] if grey else pixels, cmap="gray", vmin=0, vmax=255)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)


def _figure(width: float, height: float) -> Figure:
    # A figure of its own, not pyplot's: no global state, no window, safe in threads.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _finish(figure: Figure, path: str | Path | None) -> Figure:
    if path is not None:
        write_atomic(path, lambda target: figure.savefig(target, dpi=150))
    return figure
