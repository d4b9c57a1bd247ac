"""An independent judge of images: a classifier of another family, trained on real images alone.

A perceptron with two hidden layers (scikit-learn's) over standardised pixels. It sees neither the
diffusion model nor its samples; its last hidden layer is the feature space of `frechet_distance`.
"""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier


class ImageJudge(ClassifierMixin, BaseEstimator):
    """Classify images and give their features.

    Args:
        hidden: Sizes of the hidden layers; the last one is the number of features.
        decay: L2 penalty of the weights.
        max_iter: Epochs.
        random_state: Seed.
    """

    def __init__(
        self,
        *,
        hidden: tuple[int, ...] = (256, 64),
        decay: float = 1.0,
        max_iter: int = 100,
        random_state: int = 0,
    ) -> None:
        self.hidden = hidden
        self.decay = decay
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Learn the labels of real images.

        Args:
            X: (N, ...) images.
            y: (N,) labels.
        """
        pixels = _pixels(X)
        self.shift_, self.scale_ = pixels.mean(0), pixels.std() + 1e-12
        self.network_ = MLPClassifier(
            self.hidden,
            alpha=self.decay,
            max_iter=self.max_iter,
            tol=0.0,
            random_state=self.random_state,
        )
        with warnings.catch_warnings():
            # The number of epochs is chosen; that the loss would still fall is no news.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.network_.fit(self._scaled(X), np.asarray(y))
        self.classes_ = self.network_.classes_
        return self

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return (N,) labels of images."""
        labels: NDArray[Any] = self.network_.predict(self._scaled(X))
        return labels

    def features(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return (N, F) activations of the last hidden layer."""
        hidden = self._scaled(X)
        layers = zip(self.network_.coefs_, self.network_.intercepts_, strict=True)
        for weights, bias in list(layers)[:-1]:
            hidden = np.maximum(hidden @ weights + bias, 0)
        return hidden

    def _scaled(self, X: ArrayLike) -> NDArray[np.float64]:
        scaled: NDArray[np.float64] = (_pixels(X) - self.shift_) / self.scale_
        return scaled


def _pixels(X: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(X, dtype=np.float64)
    return array.reshape(len(array), -1)
