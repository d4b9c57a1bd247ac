r"""What makes rows small: encoders, the linear one, and those of scikit-learn.

An encoder maps rows x of any shape to codes z (k,) and back. The linear one of least squares is
principal components analysis; for Gaussian data its code is Gaussian, and what decoding a draw of
the code lacks of the data is known exactly: the variance of the components left out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from torch import Tensor

from scidiffusion.errors import ConfigError, DataError

Array = NDArray[np.float64]


class Encoder(BaseEstimator, ABC):
    """Rows to codes and back; `get_params` and `clone` know it.

    A class of another domain is one if it has all of this: `scidiffusion.DiffusionAutoEncoder` is.

    Attributes:
        shape_: Shape of a row.
        decodes_at_random: Whether a code stands for many rows, of which `decode` draws one; it
            then takes a `random_state`.
    """

    shape_: tuple[int, ...]
    decodes_at_random: ClassVar[bool] = False

    @classmethod
    def __subclasshook__(cls, other: type) -> Any:
        """Know an encoder by what it has, as domains do not import each other."""
        if cls is not Encoder:
            return NotImplemented
        needed = {*cls.__abstractmethods__, "decodes_at_random"}
        return all(hasattr(other, name) for name in needed) or NotImplemented

    @abstractmethod
    def fit(self, X: Array) -> Self:
        """Learn from rows (n, ...)."""

    @abstractmethod
    def encode(self, X: Array) -> Array:
        """Codes (n, k) of rows (n, ...)."""

    @abstractmethod
    def decode(self, Z: Array) -> Array:
        """Rows (n, ...) of codes (n, k)."""

    @abstractmethod
    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What was learned, as JSON and tensors."""

    @abstractmethod
    def restore(self, notes: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        """Set what was learned from what `state` returned."""


class PCAEncoder(Encoder):
    """The first principal components; see the module.

    Args:
        components: Their number, or the share of the variance, in (0, 1), that they hold at least.

    Attributes:
        mean_: (d,) mean of the flattened rows.
        components_: (k, d) orthonormal directions of falling variance.
        variance_: (k,) variance along each.
        explained_: Share of the variance that the components hold.

    Raises:
        ConfigError: if `components` is neither a count >= 1 nor a share in (0, 1).
    """

    def __init__(self, components: int | float = 0.95) -> None:
        self.components = components

    def fit(self, X: Array) -> Self:
        """Find the components.

        Raises:
            ConfigError: if there are not so many.
        """
        flat = X.reshape(len(X), -1)
        most = min(flat.shape)
        share = isinstance(self.components, float) and 0 < self.components < 1
        if not share and (
            isinstance(self.components, bool)
            or self.components != int(self.components)
            or not 1 <= self.components <= most
        ):
            raise ConfigError(
                f"components must be a count from 1 to {most} or a share between 0 and 1, got "
                f"{self.components}"
            )
        self.shape_ = X.shape[1:]
        self.mean_ = flat.mean(0)
        _, singular, directions = np.linalg.svd(flat - self.mean_, full_matrices=False)
        variance = singular**2 / max(len(flat) - 1, 1)
        held = np.cumsum(variance) / variance.sum()
        count = int(np.searchsorted(held, self.components) + 1) if share else int(self.components)
        self.components_, self.variance_ = directions[:count], variance[:count]
        self.explained_ = float(held[count - 1])
        return self

    def encode(self, X: Array) -> Array:
        """Coordinates along the components."""
        return np.asarray((X.reshape(len(X), -1) - self.mean_) @ self.components_.T)

    def decode(self, Z: Array) -> Array:
        """The row in the span of the components with these coordinates."""
        return np.asarray((Z @ self.components_ + self.mean_).reshape(len(Z), *self.shape_))

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See `Encoder.state`."""
        arrays = {"mean": self.mean_, "components": self.components_, "variance": self.variance_}
        notes = {"shape": list(self.shape_), "explained": self.explained_}
        return notes, {name: torch.from_numpy(value.copy()) for name, value in arrays.items()}

    def restore(self, notes: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        """See `Encoder.restore`."""
        self.shape_, self.explained_ = tuple(notes["shape"]), notes["explained"]
        self.mean_ = tensors["mean"].numpy()
        self.components_ = tensors["components"].numpy()
        self.variance_ = tensors["variance"].numpy()
        return self


class TransformerEncoder(Encoder):
    """A transformer of scikit-learn with `inverse_transform`, of flattened rows.

    It cannot be saved: a model file holds no pickle.

    Args:
        transformer: With fit, transform and inverse_transform.
    """

    def __init__(self, transformer: Any) -> None:
        self.transformer = transformer

    def fit(self, X: Array) -> Self:
        """Fit the transformer."""
        self.shape_ = X.shape[1:]
        self.transformer.fit(X.reshape(len(X), -1))
        return self

    def encode(self, X: Array) -> Array:
        """Transform."""
        return np.asarray(self.transformer.transform(X.reshape(len(X), -1)), dtype=np.float64)

    def decode(self, Z: Array) -> Array:
        """Transform back."""
        made = np.asarray(self.transformer.inverse_transform(Z), dtype=np.float64)
        if made.shape != (len(Z), int(np.prod(self.shape_))):
            raise DataError(
                f"the encoder's inverse_transform gives rows of shape {made.shape[1:]}, and the "
                f"data have {int(np.prod(self.shape_))} numbers a row; encoder and decoder must "
                "fit each other"
            )
        return made.reshape(len(Z), *self.shape_)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Raise ConfigError: see the class."""
        raise ConfigError(
            f"{type(self.transformer).__name__} can be saved by pickle alone, which model files "
            "do not hold; use PCAEncoder or AutoEncoder, or a subclass of Encoder"
        )

    def restore(self, notes: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        """Raise ConfigError: see the class."""
        raise ConfigError("transformers of scikit-learn cannot be loaded from model files")
