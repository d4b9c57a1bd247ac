"""Images as bytes that can be looked at."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scidiffusion.errors import DataError

Range = tuple[float, float] | None
GAP = 1
"""Pixels between two pictures of a grid."""


def as_pixels(images: ArrayLike, value_range: Range = None) -> NDArray[np.uint8]:
    """Return images as bytes, channels last.

    Args:
        images: (N, C, H, W) with 1, 3 or 4 channels, or (N, H, W); N >= 1.
        value_range: What is black and what is white; None is the range of the images.

    Returns:
        (N, H, W, C) uint8.

    Raises:
        DataError: if they are not pictures.
    """
    array = np.asarray(images)
    array = array[:, None] if array.ndim == 3 else array
    if array.ndim != 4 or array.shape[1] not in (1, 3, 4):
        raise DataError(
            f"images of shape {array.shape} are no pictures, which have two dimensions and 1, 3 "
            "or 4 channels; show or write a part of them, or write arrays (.npz)"
        )
    if not array.size:
        raise DataError("there are no images to show")
    low, high = value_range or (float(array.min()), float(array.max()))
    scaled = (array.astype(np.float64) - low) / max(high - low, 1e-12)
    return np.moveaxis(np.rint(255 * scaled.clip(0, 1)).astype(np.uint8), 1, -1)


def tile(
    images: ArrayLike, *, columns: int | None = None, value_range: Range = None
) -> NDArray[np.uint8]:
    """Return one picture of all images, row by row.

    Args:
        images: As of `as_pixels`.
        columns: Images a row; None makes about a square.
        value_range: As of `as_pixels`.

    Returns:
        (rows (H + 1) - 1, columns (W + 1) - 1, C) uint8; between images, and where there are none,
        it is mid-grey.

    Raises:
        DataError: if the images are not pictures, or `columns` is below 1.
    """
    pixels = as_pixels(images, value_range)
    count, height, width, channels = pixels.shape
    columns = math.ceil(math.sqrt(count)) if columns is None else columns
    if columns < 1:
        raise DataError(f"columns must be 1 or more, got {columns}")
    rows = -(-count // columns)
    size = (rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, channels)
    grid = np.full(size, 128, dtype=np.uint8)
    for index, picture in enumerate(pixels):
        top, left = (index // columns) * (height + GAP), (index % columns) * (width + GAP)
        grid[top : top + height, left : left + width] = picture
    return grid


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Return a picture (H, W, C), C = 1, 3 or 4, as a PNG file."""
    from PIL import Image  # Pillow comes with matplotlib

    buffer = io.BytesIO()
    picture: NDArray[Any] = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()
