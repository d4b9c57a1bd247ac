"""Images to files: an array, one picture of all, or a folder of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scidiffusion._files import check_writable_file, check_writable_parent, write_atomic
from scidiffusion.errors import DataError, OutputError
from scidiffusion.images.pictures import as_pixels, png, tile


def check_output(path: str | Path) -> None:
    """Raise OutputError unless images can be written to `path`, before work is spent."""
    target = Path(path)
    if target.suffix in (".npz", ".npy", ".png"):
        check_writable_file(target)
    elif target.suffix:
        raise OutputError(
            f"cannot write {path}: the name must end in .npz, .npy or .png, or be that of a folder"
        )
    elif target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OutputError(f"cannot write to {path}: it is no empty folder; choose another")
    else:
        check_writable_parent(target, path)


def write_images(
    path: str | Path,
    images: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    value_range: tuple[float, float] | None = None,
) -> None:
    """Write images by the name of the file.

    Args:
        path: `.npz` (arrays `images` and, with labels, `labels`) or `.npy`; `.png`, one picture of
            all; or a folder, a PNG an image, in subfolders by label where there are labels.
        images: (N, C, H, W) or (N, H, W); any shape for arrays.
        labels: (N,) labels.
        value_range: What is black and what is white in PNGs; None is the range of the images.

    Raises:
        OutputError: if the path cannot be written.
        DataError: if the images are not pictures, or labels differ in number.
    """
    check_output(path)
    target, array = Path(path), np.asarray(images)
    names = None if labels is None else np.asarray(labels)
    if names is not None and len(names) != len(array):
        raise DataError(f"{len(array)} images need as many labels, got {len(names)}")
    if target.suffix == ".npy":
        write_atomic(target, lambda file: np.save(file, array))
    elif target.suffix == ".npz":
        arrays: dict[str, Any] = {"images": array}
        if names is not None:
            arrays["labels"] = names
        write_atomic(target, lambda file: np.savez_compressed(file, **arrays))
    elif target.suffix == ".png":
        write_atomic(target, png(tile(array, value_range=value_range)))
    else:
        _write_folder(target, as_pixels(array, value_range), names)


def _write_folder(folder: Path, pixels: NDArray[np.uint8], labels: NDArray[Any] | None) -> None:
    digits = len(str(max(len(pixels) - 1, 0)))
    for index, picture in enumerate(pixels):
        name = f"{index:0{digits}d}.png"
        place = folder if labels is None else folder / str(labels[index]).replace("/", "_")
        write_atomic(place / name, png(picture))
