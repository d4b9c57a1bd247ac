"""Images as users have them, and as the tensors that are diffused.

A tensor is (N, C, ...) with the sizes of the grid last, float32. Integers are mapped from their
range to [-1, 1] (Ho et al. 2020, section 3.3); floats are standardised channel by channel. The
range that was seen is recorded. Nothing is clipped but integers, which cannot leave their range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scidiffusion.errors import ConfigError, DataError

MINIMUM_IMAGES = 10
MAXIMUM_DIMS = 3
LAST_CHANNELS = (1, 3, 4)
"""Sizes of a last axis that are probably the channels: grey, RGB, RGBA."""


@dataclass(frozen=True)
class ImageCodec:
    """Between arrays of images and tensors; see the module.

    Args:
        shape: Channels and sizes of the grid, (C, ...).
        channel_axis: Whether arrays have an axis of channels.
        dtype: Name of the arrays' NumPy dtype.
        low: Least value of the range: that which was declared, or of the training images.
        high: Greatest value of the range.
        shift: Of each channel: x = (value - shift) / scale.
        scale: Of each channel.
    """

    shape: tuple[int, ...]
    channel_axis: bool
    dtype: str
    low: float
    high: float
    shift: tuple[float, ...]
    scale: tuple[float, ...]

    @classmethod
    def fit(
        cls, X: Any, *, dims: int | None = None, value_range: Sequence[float] | None = None
    ) -> tuple[Self, NDArray[Any]]:
        """Learn shape and scales of training images.

        Args:
            X: Images; see `as_images`.
            dims: Dimensions of the grid; None: see `as_images`.
            value_range: (low, high), the range of the values; None is that of X.

        Returns:
            The codec and X as an array.

        Raises:
            DataError: if X cannot be learned from; the message names the image or the channel.
            ConfigError: if an option is impossible.
        """
        declared = _check_range(value_range)
        array, dims = as_images(X, dims)
        if len(array) < MINIMUM_IMAGES:
            raise DataError(
                f"{len(array)} images are too few to learn from: {MINIMUM_IMAGES} are needed, "
                "better hundreds"
            )
        channel_axis = array.ndim == dims + 2
        shape = array.shape[1:] if channel_axis else (1, *array.shape[1:])
        _check_finite(array)
        values = array.reshape(len(array), *shape)
        channels = np.moveaxis(values, 1, 0).reshape(shape[0], -1)
        lows, highs = channels.min(1), channels.max(1)
        if bool((lows == highs).any()):
            channel = int((lows == highs).argmax())
            what = f"channel {channel} of X is" if shape[0] > 1 else "the images are"
            way = "drop it" if shape[0] > 1 else "check how they were read"
            raise DataError(f"{what} constant ({lows[channel]} everywhere); {way}")
        low, high = declared or (float(lows.min()), float(highs.max()))
        whole = array.dtype.kind in "iub"
        if whole:
            shift, scale = np.full(shape[0], (low + high) / 2), np.full(shape[0], (high - low) / 2)
        else:
            shift, scale = channels.mean(1, dtype=np.float64), channels.std(1, dtype=np.float64)
        codec = cls(
            tuple(map(int, shape)),
            channel_axis,
            array.dtype.name,
            low,
            high,
            tuple(shift.tolist()),
            tuple(scale.tolist()),
        )
        if whole or declared is not None:
            codec._check_within(array)
        return codec, array

    @property
    def dims(self) -> int:
        """Dimensions of the grid."""
        return len(self.shape) - 1

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of an image as users have it: without an axis of channels if they had none."""
        return self.shape if self.channel_axis else self.shape[1:]

    @property
    def whole(self) -> bool:
        """Whether values are integers (or booleans)."""
        return np.dtype(self.dtype).kind in "iub"

    @property
    def bin_width(self) -> float | None:
        """Distance of two neighbouring integers in a tensor; None for floats."""
        return 2 / (self.high - self.low) if self.whole else None

    @property
    def log_volume(self) -> float:
        """Log of the volume that a unit of the tensors' space has in the images', in nats.

        0 for integers, whose likelihood is a probability.
        """
        cells = int(np.prod(self.shape[1:]))
        return 0.0 if self.whole else cells * float(np.log(self.scale).sum())

    def encode(self, X: Any, known: NDArray[np.bool_] | None = None) -> Tensor:
        """Return images as (N, C, ...) float32.

        Args:
            X: Images of the training images' shape.
            known: Of X's shape; other values count for nothing and may be NaN.

        Raises:
            DataError: if they are of another shape, not finite, or integers beyond the range.
        """
        array, _ = as_images(X, self.dims)
        if array.shape[1:] != self.row_shape:
            raise DataError(
                f"images have shape {array.shape[1:]}, the model was fitted on {self.row_shape}"
            )
        if known is not None:
            array = np.where(known, array, np.asarray(self.low).astype(array.dtype))
        _check_finite(array)
        if self.whole:
            self._check_within(array)
            if array.dtype.kind == "f" and bool((array != np.rint(array)).any()):
                raise DataError("images hold fractions, the model was fitted on integers")
        values = array.reshape(-1, *self.shape)
        scaled = (values - self._across(self.shift)) / self._across(self.scale)
        return torch.from_numpy(scaled.astype(np.float32))

    def decode(self, x: Tensor, *, clip: bool = False) -> NDArray[Any]:
        """Return a tensor (N, C, ...) as images of the training images' shape and dtype.

        Args:
            x: The tensor.
            clip: Bring floats into the recorded range; integers always are, and rounded.
        """
        dtype = np.dtype(self.dtype)
        values = x.to(torch.float64).cpu().numpy() * self._across(self.scale)
        values += self._across(self.shift)
        if clip or self.whole:
            values = values.clip(self.low, self.high)
        if self.whole:
            values = np.rint(values)
        return values.astype(dtype).reshape(-1, *self.row_shape)

    def _across(self, values: Sequence[float]) -> NDArray[np.float64]:
        return np.asarray(values, dtype=np.float64).reshape(-1, *[1] * self.dims)

    def _check_within(self, array: NDArray[Any]) -> None:
        outside = (array < self.low) | (array > self.high)
        if bool(outside.any()):
            place = np.argwhere(outside)[0]
            raise DataError(
                f"image {place[0]} holds {array[tuple(place)]}, beyond the range "
                f"({self.low:g}, {self.high:g}); declare another value_range when fitting, or "
                "correct it"
            )

    def to_dict(self) -> dict[str, Any]:
        """The codec as JSON."""
        return {
            "shape": list(self.shape),
            "channel_axis": self.channel_axis,
            "dtype": self.dtype,
            "low": self.low,
            "high": self.high,
            "shift": list(self.shift),
            "scale": list(self.scale),
        }

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Self:
        """Rebuild what `to_dict` wrote."""
        lists = {name: tuple(record[name]) for name in ("shape", "shift", "scale")}
        return cls(**record | lists)


def as_images(X: Any, dims: int | None = None) -> tuple[NDArray[Any], int]:
    """Return images as one array, and the dimensions of their grid.

    Args:
        X: An array, or a sequence of arrays of equal shape, of integers, floats or booleans:
            (N, C, ...) with the sizes of the grid last, or, for one channel, (N, ...).
        dims: Dimensions of the grid. None: (N, L) is a line, (N, H, W) and (N, C, H, W) are
            planes, (N, C, D, H, W) are volumes; (N, C, L) and (N, D, H, W) need dims=1 and dims=3.

    Raises:
        DataError: if the images differ in size, hold no numbers, have another number of axes, or
            seem to have their channels last.
        ConfigError: if `dims` is none of 1, 2, 3.
    """
    if dims is not None and (isinstance(dims, bool) or dims not in range(1, MAXIMUM_DIMS + 1)):
        raise ConfigError(f"dims must be 1, 2, 3 or None, got {dims!r}")
    if isinstance(X, list | tuple):
        _check_equal_sizes(X)
    try:
        array = np.asarray(X)
    except (TypeError, ValueError):
        raise DataError("X must be an array of images") from None
    if array.dtype.kind not in "iubf":
        raise DataError(f"X must hold numbers, got dtype {array.dtype}")
    if dims is None:
        dims = {2: 1, 3: 2, 4: 2, 5: 3}.get(array.ndim, 0)
        if array.ndim >= 4 and array.shape[-1] in LAST_CHANNELS and array.shape[1] > 4:
            raise DataError(
                f"X has shape {array.shape}, which looks like channels last; give "
                f"np.moveaxis(X, -1, 1), or dims={dims} if it is channels first"
            )
    if not dims or array.ndim not in (dims + 1, dims + 2):
        asked = "" if not dims else f" with dims={dims}"
        raise DataError(
            f"X has shape {array.shape}{asked}; images are (N, C, H, W), or (N, H, W) with one "
            "channel; lines are (N, C, L) with dims=1, volumes (N, C, D, H, W)"
        )
    if 0 in array.shape[1:]:
        raise DataError(f"X has shape {array.shape}: the images are empty")
    return array, dims


def _check_equal_sizes(images: Sequence[Any]) -> None:
    shapes = [np.shape(image) for image in images if hasattr(image, "shape")]
    for index, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise DataError(
                f"image {index} has shape {shape}, image 0 has {shapes[0]}; crop or resize all "
                "to one size"
            )


def _check_finite(array: NDArray[Any]) -> None:
    if array.dtype.kind == "f" and not bool(np.isfinite(array).all()):
        place = tuple(np.argwhere(~np.isfinite(array))[0].tolist())
        raise DataError(
            f"image {place[0]} holds NaN or infinity, first at {place[1:]}; leave it out, or fill "
            "it (a fitted model's inpaint can)"
        )


def _check_range(value_range: Any) -> tuple[float, float] | None:
    if value_range is None:
        return None
    try:
        low, high = (float(value) for value in value_range)
    except (TypeError, ValueError):
        low = high = np.nan
    if not (np.isfinite([low, high]).all() and low < high):
        raise ConfigError(f"value_range must be (low, high) with low < high, got {value_range!r}")
    return low, high
