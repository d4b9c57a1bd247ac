"""Conditions of a density: class labels or real vectors, as users give them and as tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from scidiffusion.errors import ConditionError, DataError
from scidiffusion.nn import ClassCondition, VectorCondition


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
    def infer(cls, y: Any, n: int) -> Self:
        """Learn the kind and the range of conditions from those of the training rows.

        Raises:
            DataError: if y has another length than X, too many dimensions, or holds NaN.
        """
        array = np.asarray(y)
        if array.ndim not in (1, 2) or len(array) != n:
            raise DataError(f"y must have one condition a row: {n} rows, got shape {array.shape}")
        if array.ndim == 1 and array.dtype.kind != "f":
            labels = tuple(
                value.item() if hasattr(value, "item") else value for value in np.unique(array)
            )
            if len(labels) < 2:
                raise DataError("y holds a single class; leave it out")
            return cls(labels=labels)
        try:
            real = array.astype(np.float64).reshape(n, -1)
        except ValueError:
            raise DataError("conditions with several columns must be real numbers") from None
        if not np.isfinite(real).all():
            row = int(np.argwhere(~np.isfinite(real))[0, 0])
            raise DataError(f"y holds NaN or infinity, first in row {row}")
        scale = np.where(real.std(0) > 0, real.std(0), 1.0)
        return cls(mean=tuple(real.mean(0).tolist()), scale=tuple(scale.tolist()))

    def encode(self, conditions: Any, n: int) -> Tensor:
        """Return (n,) labels or (n, k) z-scores; one condition is repeated, None is absent.

        Raises:
            ConditionError: for an unknown label, a value that is not finite, or a wrong shape.
        """
        if self.labels is not None:
            if conditions is None:
                return torch.full((n,), -1)
            index = {label: code for code, label in enumerate(self.labels)}
            values = np.asarray(conditions)
            listed = values.tolist() if values.ndim else [values.item()]
            unknown = [value for value in listed if value not in index]
            if values.ndim > 1 or unknown:
                raise ConditionError(
                    f"unknown label {unknown[0]!r}; known are {list(self.labels)}"
                    if unknown
                    else f"labels must be one or one a row, got shape {values.shape}"
                )
            codes = torch.tensor([index[value] for value in listed])
        else:
            width = len(self.mean)
            if conditions is None:
                return torch.full((n, width), torch.nan)
            try:
                real = np.asarray(conditions, dtype=np.float64)
            except (TypeError, ValueError):
                raise ConditionError(f"conditions must be real numbers, {width} a row") from None
            if real.ndim < 2:
                real = (
                    real.reshape(1, -1)
                    if real.size == width and n != real.size
                    else real.reshape(-1, 1)
                )
            if real.shape[1] != width or not np.isfinite(real).all():
                raise ConditionError(
                    f"conditions must be {width} finite numbers a row, got {real.shape}"
                )
            codes = torch.from_numpy((real - self.mean) / self.scale).to(torch.float32)
        if len(codes) not in (1, n):
            raise ConditionError(f"{len(codes)} conditions for {n} rows; give one, or one a row")
        return codes.expand(n, *codes.shape[1:]) if len(codes) == 1 else codes

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
