"""Images from files: scikit-learn's digits, MNIST's format, folders of pictures.

MNIST's files (`train-images-idx3-ubyte.gz` and so on) are a header of big-endian integers, the
magic number 0x0000TTDD with the type TT and the number of dimensions DD, then the sizes, and the
values. Nothing is downloaded: give the paths.
"""

from __future__ import annotations

import gzip
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scidiffusion.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def load_digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return scikit-learn's handwritten digits, which come with it.

    Returns:
        (1797, 1, 8, 8) float32 in 0..16 and (1797,) labels 0..9.
    """
    from sklearn import datasets

    data = datasets.load_digits()
    return data.images[:, None].astype(np.float32), data.target.astype(np.int64)


def read_images(
    path: str | Path, labels: str | Path | None = None
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Read images, and their labels, by the kind of the file.

    Args:
        path: A folder of pictures; `.npy`; `.npz` with `images`, or a single array, and perhaps
            `labels`; anything else is MNIST's format.
        labels: File of the labels, `.npy` or MNIST's format, in place of those at `path`.

    Returns:
        (N, ...) images and (N,) labels or None.

    Raises:
        DataError: if a file is missing or cannot be read, or the numbers differ.
    """
    place, found = Path(path), None
    if place.is_dir():
        images, found = read_folder(place)
    elif place.suffix == ".npz":
        arrays = _arrays(place)
        found = arrays.pop("labels", None)
        if "images" not in arrays and len(arrays) != 1:
            raise DataError(f"{path} must hold an array 'images', or one array; got {[*arrays]}")
        images = arrays["images"] if "images" in arrays else next(iter(arrays.values()))
    else:
        images = _arrays(place)[""] if place.suffix == ".npy" else read_idx(place)
    if labels is not None:
        file = Path(labels)
        found = _arrays(file)[""] if file.suffix == ".npy" else read_idx(file)
    if found is not None and (found.ndim == 0 or len(found) != len(images)):
        raise DataError(f"{path} holds {len(images)} images, but there are {found.size} labels")
    return images, found


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Arrays of an .npz file by name; that of an .npy file by the name ''."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"": loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except FileNotFoundError:
        raise DataError(f"no file at {path}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def read_idx(path: str | Path) -> NDArray[Any]:
    """Read a file of MNIST's format, compressed by gzip or not.

    Args:
        path: For example `train-images-idx3-ubyte.gz` or `train-labels-idx1-ubyte.gz`.

    Returns:
        The array: images (N, 1, H, W), anything else as it is in the file.

    Raises:
        DataError: if the file is missing, truncated, or of another format.
    """
    content = _content(Path(path))
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_TYPES:
        raise DataError(f"{path} is not a file of MNIST's format (IDX)")
    dtype, dims = np.dtype(_IDX_TYPES[content[2]]), content[3]
    head = 4 + 4 * dims
    if dims < 1 or len(content) < head:
        raise DataError(f"{path} ends within its header: it is truncated; get it again")
    shape = tuple(int(size) for size in np.frombuffer(content[4:head], ">u4"))
    expected = head + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise DataError(
            f"{path} has {len(content)} bytes, not the {expected} of its shape {shape}: it is "
            "truncated or altered; get it again"
        )
    array = np.frombuffer(content[head:], dtype).reshape(shape)
    array = array.astype(dtype.newbyteorder("="))
    return array[:, None] if dims == 3 else array


def read_folder(
    path: str | Path, *, channels: int | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.str_] | None]:
    """Read a folder of pictures, or a folder of one subfolder a label.

    Args:
        path: The folder. Files whose names begin with a dot, and files of other kinds, are passed
            over.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA), to which all are converted; None: 1 if the first
            picture is grey, 4 if it has transparency, else 3.

    Returns:
        (N, C, H, W) uint8 in the order of the names, and (N,) labels, the subfolders' names; None
        if the pictures lie in the folder itself.

    Raises:
        DataError: if there are no pictures, pictures lie beside subfolders with pictures, one
            cannot be read, or their sizes differ.
    """
    from PIL import Image, UnidentifiedImageError

    folder = Path(path)
    if not folder.is_dir():
        raise DataError(f"there is no folder at {path}")
    if channels is not None and channels not in MODES:
        raise DataError(f"channels must be 1, 3 or 4, got {channels!r}")
    files = _pictures(folder)
    inner = {sub: _pictures(sub) for sub in sorted(folder.iterdir()) if sub.is_dir()}
    inner = {sub: found for sub, found in inner.items() if found}
    if files and inner:
        raise DataError(
            f"{path} holds pictures ({files[0].name!r}) and folders of pictures "
            f"({next(iter(inner)).name!r}); labels are the folders' names, so move the former"
        )
    labels = None
    if inner:
        files = [file for found in inner.values() for file in found]
        labels = np.asarray([file.parent.name for file in files])
    if not files:
        raise DataError(f"{path} holds no pictures ({', '.join(SUFFIXES)})")
    images: list[NDArray[np.uint8]] = []
    for file in files:
        try:
            with Image.open(file) as picture:
                if channels is None:
                    channels = _channels(picture.mode, picture.info)
                pixels = np.asarray(picture.convert(MODES[channels]), dtype=np.uint8)
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise DataError(f"cannot read the picture {file}: {error}") from error
        pixels = pixels.reshape(*pixels.shape[:2], channels)
        if images and pixels.shape != images[0].shape:
            sizes = [f"{shape[1]} x {shape[0]}" for shape in (pixels.shape, images[0].shape)]
            raise DataError(
                f"{file} is {sizes[0]} pixels, {files[0].name} is {sizes[1]}; crop or resize all "
                "to one size"
            )
        images.append(pixels)
    return np.ascontiguousarray(np.moveaxis(np.stack(images), -1, 1)), labels


def read_captions(path: str | Path) -> list[str]:
    """Read captions: a text file in UTF-8 with a line for every image.

    Raises:
        DataError: if there is no such file, or it holds no text.
    """
    try:
        text = _content(Path(path)).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8: {error}") from error
    return text.splitlines()


def _channels(mode: str, info: dict[Any, Any]) -> int:
    if mode in ("1", "L", "I;16", "I", "F"):
        return 1
    return 4 if mode in ("RGBA", "LA", "PA") or "transparency" in info else 3


def _pictures(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if file.is_file() and file.suffix.lower() in SUFFIXES and file.name[0] != "."
    )


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except FileNotFoundError:
        raise DataError(f"no file at {path}") from None
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
