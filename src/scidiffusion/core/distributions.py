"""The distributions a reverse step can be: Gaussian, categorical, a product of named ones.

Each knows how to draw (from a `Noise`), its log-density or log-probability, its KL divergence and
nothing of diffusion. Rows are independent: every result that is summed is summed over all but the
first dimension.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scidiffusion.core.rng import Noise


def sum_rows(value: Tensor) -> Tensor:
    """Sum over all but the first dimension: (B, ...) -> (B,)."""
    return value if value.ndim == 1 else value.flatten(1).sum(1)


class Distribution(ABC):
    """Interface of the distribution of one reverse step."""

    @abstractmethod
    def sample(self, noise: Noise) -> Any:
        """Draw a state."""

    @property
    @abstractmethod
    def mode(self) -> Any:
        """The most probable state (the mean of a Gaussian)."""

    @abstractmethod
    def log_prob(self, x: Any) -> Tensor:
        """Return log p(x), (B,) nats."""


@dataclass(frozen=True)
class Gaussian(Distribution):
    """N(mean, var) with a diagonal covariance.

    Args:
        mean: (B, ...).
        var: Variance, broadcastable to `mean`; 0 makes `sample` return the mean.
    """

    mean: Tensor
    var: Tensor

    def sample(self, noise: Noise) -> Tensor:
        """Mean + sqrt(var) noise."""
        return self.mean + self.var.sqrt() * self._project(noise.normal(self.mean))

    @property
    def mode(self) -> Tensor:
        """The mean."""
        return self.mean

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats, (B,); -inf or nan where var is 0."""
        quadratic = self._sum_quadratic((x - self.mean) ** 2 / self.var)
        return -0.5 * (quadratic + self._sum_constant(torch.log(2 * math.pi * self.var)))

    def kl(self, other: Gaussian) -> Tensor:
        """KL(self || other) in nats, (B,)."""
        ratio = self.var / other.var
        quadratic = self._sum_quadratic((self.mean - other.mean) ** 2 / other.var)
        return 0.5 * (quadratic + self._sum_constant(ratio - 1 - torch.log(ratio)))

    # A Gaussian on a subspace overrides these: displacements lie in the subspace as they are,
    # while terms that every dimension adds alike must be counted once per degree of freedom.

    def _project(self, value: Tensor) -> Tensor:
        return value

    def _sum_quadratic(self, value: Tensor) -> Tensor:
        return sum_rows(value)

    def _sum_constant(self, value: Tensor) -> Tensor:
        # A variance at a scalar time may sit on the CPU while the mean does not.
        return sum_rows(value.to(self.mean.device).expand_as(self.mean))


@dataclass(frozen=True)
class Categorical(Distribution):
    """Independent categorical variables.

    Args:
        probs: (B, ..., K) probabilities along the last dimension.
    """

    probs: Tensor

    def sample(self, noise: Noise) -> Tensor:
        """Draw classes by inversion of the cumulative sum: one uniform number a variable."""
        cumulative = self.probs.cumsum(-1)
        uniform = noise.uniform(self.probs[..., 0])[..., None] * cumulative[..., -1:]
        # u < 1, so the class found always has positive probability. Rounding of u * total in
        # float32 may reach the total itself: clamp to the last class that has any.
        index = (cumulative <= uniform).sum(-1)
        last = (cumulative < cumulative[..., -1:]).sum(-1)
        return torch.minimum(index, last)

    @property
    def mode(self) -> Tensor:
        """The most probable class."""
        return self.probs.argmax(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability in nats."""
        return sum_rows(self.probs.gather(-1, x[..., None])[..., 0].log())

    def kl(self, other: Categorical) -> Tensor:
        """KL(self || other) in nats, (B,); classes of probability 0 in self count nothing."""
        return sum_rows(
            (
                torch.special.xlogy(self.probs, self.probs)
                - torch.special.xlogy(self.probs, other.probs)
            ).sum(-1)
        )


@dataclass(frozen=True)
class Independent(Distribution):
    """A product of named, conditionally independent distributions; its state is a dict."""

    parts: Mapping[str, Distribution]

    def sample(self, noise: Noise) -> dict[str, Any]:
        """Draw every part from its own stream of the noise."""
        return {name: part.sample(noise.child(name)) for name, part in self.parts.items()}

    @property
    def mode(self) -> dict[str, Any]:
        """The mode of every part."""
        return {name: part.mode for name, part in self.parts.items()}

    def log_prob(self, x: Mapping[str, Any]) -> Tensor:
        """Sum of the parts' log-probabilities, (B,)."""
        return torch.stack([part.log_prob(x[name]) for name, part in self.parts.items()]).sum(0)
