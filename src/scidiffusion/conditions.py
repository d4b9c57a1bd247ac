"""Conditions of rows: class labels or real vectors, as users give them and as tensors.

Floats are real conditions; integers, strings and booleans in one column are class labels. A row
without a condition is -1 among labels and NaN among reals, as `scidiffusion.core.denoiser` has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scidiffusion.errors import ConditionError, DataError
from scidiffusion.nn import ClassCondition, VectorCondition

SHOWN_LABELS = 12


@dataclass(frozen=True)
class ConditionCodec:
    """Turns conditions into tensors: labels into 0..K-1 or -1, reals into z-scores or NaN.

    Args:
        labels: Class labels in order, or None for real conditions.
        mean: Mean of each real condition.
        scale: Standard deviation of each.
    """

    labels: tuple[Any, ...] | None = None
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    @classmethod
    def infer(cls, y: Any, n: int, *, absent: bool = False) -> Self:
        """Learn the kind and the range of conditions from those of the training rows.

        Args:
            y: (n,) labels, or (n,) or (n, k) reals.
            n: Number of rows.
            absent: Rows may have no condition: None or NaN.

        Raises:
            DataError: if y has another length than X, too many dimensions, a single label, or no
                condition in some row and `absent` is false.
        """
        array = as_conditions(y)
        if array.ndim not in (1, 2) or len(array) != n:
            raise DataError(f"y must have one condition a row: {n} rows, got shape {array.shape}")
        missing = missing_rows(array)
        if missing.any() and not absent:
            raise DataError(
                f"y holds NaN, infinity or None in {int(missing.sum())} rows, first in row "
                f"{int(missing.argmax())}; leave these rows out"
            )
        if missing.all():
            raise DataError("y has no condition in any row; leave it out")
        known = array[~missing]
        if array.ndim == 1 and not _is_real(known):
            return cls(labels=_distinct(known))
        try:
            real = known.astype(np.float64).reshape(len(known), -1)
        except (TypeError, ValueError):
            raise DataError("conditions with several columns must be real numbers") from None
        scale = np.where(real.std(0) > 0, real.std(0), 1.0)
        return cls(mean=tuple(real.mean(0).tolist()), scale=tuple(scale.tolist()))

    def encode(self, conditions: Any, n: int, *, absent: bool = False) -> Tensor:
        """Return (n,) labels or (n, k) z-scores; one condition is repeated, None is absent.

        Args:
            conditions: One condition, or one a row.
            n: Number of rows.
            absent: Rows may have no condition: None or NaN.

        Raises:
            ConditionError: for an unknown label, a value that is not finite, or a wrong shape.
        """
        if conditions is None:
            if self.labels is not None:
                return torch.full((n,), -1)
            return torch.full((n, len(self.mean)), torch.nan)
        codes = (
            self._encode_labels(conditions, absent)
            if self.labels is not None
            else self._encode_reals(conditions, n, absent)
        )
        if len(codes) not in (1, n):
            raise ConditionError(f"{len(codes)} conditions for {n} rows; give one, or one a row")
        return codes.expand(n, *codes.shape[1:]) if len(codes) == 1 else codes

    def _encode_labels(self, conditions: Any, absent: bool) -> Tensor:
        assert self.labels is not None
        values = as_conditions(conditions)
        if values.ndim > 1:
            raise ConditionError(f"labels must be one or one a row, got shape {values.shape}")
        index = {label: code for code, label in enumerate(self.labels)}
        codes = []
        for value in values.reshape(-1).tolist():
            if absent and _is_missing(value):
                codes.append(-1)
            elif value in index:
                codes.append(index[value])
            else:
                shown = ", ".join(map(repr, self.labels[:SHOWN_LABELS]))
                more = ", ..." if len(self.labels) > SHOWN_LABELS else ""
                raise ConditionError(f"unknown label {value!r}; known are {shown}{more}")
        return torch.tensor(codes, dtype=torch.int64)

    def _encode_reals(self, conditions: Any, n: int, absent: bool) -> Tensor:
        width = len(self.mean)
        try:
            real = np.asarray(conditions, dtype=np.float64)
        except (TypeError, ValueError):
            raise ConditionError(f"conditions must be real numbers, {width} a row") from None
        if real.ndim < 2:
            one = real.size == width and n != real.size
            real = real.reshape(1, -1) if one else real.reshape(-1, 1)
        fits = real.ndim == 2 and real.shape[1] == width
        if not fits or not (absent or np.isfinite(real).all()):
            raise ConditionError(
                f"conditions must be {width} finite numbers a row, got {real.shape}"
            )
        scores = (real - self.mean) / self.scale
        scores[~np.isfinite(scores).all(1)] = np.nan
        return torch.from_numpy(scores).to(torch.float32)

    def parse(self, text: str) -> Any:
        """Return the condition that a text names: a label as it is written, or reals by commas.

        Raises:
            ConditionError: for an unknown label or a text that is no number.
        """
        if self.labels is None:
            try:
                return [[float(part) for part in text.split(",")]]
            except ValueError:
                raise ConditionError(
                    f"the condition {text!r} must be {len(self.mean)} numbers, with commas "
                    "between them"
                ) from None
        return {str(label): label for label in self.labels}.get(text, text)

    def embedding(self, width: int) -> nn.Module:
        """Return the module that embeds encoded conditions."""
        if self.labels is not None:
            return ClassCondition(len(self.labels), width)
        return VectorCondition(len(self.mean), width)

    def to_dict(self) -> dict[str, Any]:
        """Return the codec as JSON."""
        return {
            "labels": None if self.labels is None else list(self.labels),
            "mean": list(self.mean),
            "scale": list(self.scale),
        }

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Self:
        """Rebuild what `to_dict` wrote."""
        labels = record["labels"]
        return cls(
            None if labels is None else tuple(labels),
            tuple(record["mean"]),
            tuple(record["scale"]),
        )


def as_conditions(y: Any) -> NDArray[Any]:
    """Return conditions as an array in which a missing one among strings is not the text 'nan'."""
    array = np.asarray(y)
    if array.dtype.kind in "US" and not isinstance(y, np.ndarray):
        array = np.asarray(y, dtype=object)
    return array


def missing_rows(y: Any) -> NDArray[np.bool_]:
    """Return which rows of conditions (n,) or (n, k) have none: (n,) bool.

    None, NaN, infinity and pandas' NA, in any column.
    """
    array = as_conditions(y)
    if array.dtype.kind == "f":
        missing = ~np.isfinite(array)
    elif array.dtype.kind == "O":
        flat = [_is_missing(value) for value in array.reshape(-1)]
        missing = np.asarray(flat, dtype=bool).reshape(array.shape)
    else:
        missing = np.zeros(array.shape, dtype=bool)
    return missing if missing.ndim < 2 else missing.reshape(len(missing), -1).any(1)


def _is_missing(value: Any) -> bool:
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return True
    try:
        return not bool(value == value)
    except (TypeError, ValueError):
        return True  # pandas' NA is neither equal nor unequal to itself


def _is_real(array: NDArray[Any]) -> bool:
    if array.dtype.kind == "O":
        return all(isinstance(value, float | np.floating) for value in array)
    return array.dtype.kind == "f"


def _distinct(known: NDArray[Any]) -> tuple[Any, ...]:
    """Return the labels that occur, sorted.

    Raises:
        DataError: if there is only one, or one is neither an integer, a text nor a boolean.
    """
    values = known.tolist()
    for value in values:
        if not isinstance(value, str | int):
            raise DataError(
                f"labels in y must be integers, strings or booleans, got {value!r:.60}; floats "
                "alone are real conditions"
            )
    labels = tuple(sorted(set(values), key=lambda label: (type(label).__name__, label)))
    if len(labels) < 2:
        raise DataError("y holds a single class; leave it out")
    return labels
