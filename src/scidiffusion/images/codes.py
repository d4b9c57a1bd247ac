"""The two codes of a `DiffusionAutoEncoder`, as users give them and as tensors."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from scidiffusion.errors import DataError
from scidiffusion.images.codec import ImageCodec


def semantic_codes(Z: ArrayLike, code_dim: int) -> Tensor:
    """Return semantic codes as (N, code_dim) float32.

    Raises:
        DataError: if they are of another shape, or not finite numbers.
    """
    codes = as_numbers(Z, "codes")
    if codes.ndim != 2 or codes.shape[1] != code_dim or not np.isfinite(codes).all():
        raise DataError(f"codes must be (N, {code_dim}) finite numbers, got {_described(codes)}")
    return torch.from_numpy(codes).float()


def stochastic_codes(noise: ArrayLike, codec: ImageCodec) -> Tensor:
    """Return stochastic codes, of the images' shape, as (N, C, ...) float32.

    Raises:
        DataError: if they are of another shape, or not finite numbers.
    """
    array = as_numbers(noise, "noise")
    if array.shape[1:] != codec.row_shape or not np.isfinite(array).all():
        raise DataError(
            f"noise must be (N, ...) finite numbers with the images' shape {codec.row_shape}, got "
            f"{_described(array)}"
        )
    return torch.from_numpy(array.reshape(-1, *codec.shape)).float()


def as_numbers(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return an array of float64.

    Raises:
        DataError: if it holds anything but numbers; the message has its name.
    """
    try:
        # Contiguous: torch knows no negative strides, as rows turned round have.
        return np.ascontiguousarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{name} must be an array of numbers") from None


def check_pairs(number: int, expected: int, name: str, of: str) -> None:
    """Raise `DataError` if there is not one thing called `name` for each of another."""
    if number != expected:
        raise DataError(f"{number} {name} for {expected} {of}; give one each")


def _described(array: NDArray[np.float64]) -> str:
    bad = "" if np.isfinite(array).all() else " with NaN or infinity"
    return f"shape {array.shape}{bad}"
