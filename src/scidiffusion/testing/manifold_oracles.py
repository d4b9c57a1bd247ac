"""Exact denoisers on the circle and on SO(3): mixtures whose noised score is known.

Variance exploding noise turns a heat kernel of variance v_0 into one of variance v_0 + std_t^2, so
a mixture of wrapped normals (or of IGSO(3)) stays one at every noise level, and its score is the
average of the components' scores, weighted by their responsibilities.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from scidiffusion.core.distributions import Categorical, Distribution
from scidiffusion.core.igso3 import IGSO3, igso3_log_prob, igso3_score
from scidiffusion.core.manifold import ManifoldProcess
from scidiffusion.core.prediction import ScorePrediction
from scidiffusion.core.rng import Noise
from scidiffusion.core.rotations import geodesic_distance, log_so3
from scidiffusion.core.schedules import as_time
from scidiffusion.core.so3 import SO3Process
from scidiffusion.core.torus import (
    TorusProcess,
    WrappedNormal,
    wrap,
    wrapped_normal_log_prob,
    wrapped_normal_score,
)
from scidiffusion.errors import ConfigError


class _MixtureOracle(ABC):
    """A mixture of heat kernels; see the module."""

    process: ManifoldProcess

    def __init__(self, weights: Any, means: Any, stds: Any, points: tuple[int, ...]) -> None:
        self.weights = torch.as_tensor(weights, dtype=torch.float64)
        self.means = torch.as_tensor(means, dtype=torch.float64)
        self.stds = torch.as_tensor(stds, dtype=torch.float64)
        if self.weights.ndim != 1 or not bool((self.weights > 0).all()):
            raise ConfigError(f"weights must be positive numbers, got {weights!r}")
        if len(self.means) != len(self.weights) or len(self.stds) != len(self.weights):
            raise ConfigError("weights, centres and widths must be equally many")
        if not bool((self.stds > 0).all()):
            raise ConfigError(f"widths must be positive, got {stds!r}")
        self.weights = self.weights / self.weights.sum()
        # (K, *points), whether one width a component was given or one a point.
        extra = (1,) * (1 + len(points) - self.stds.ndim)
        self.stds = self.stds.reshape(self.stds.shape + extra).expand(-1, *points)

    @abstractmethod
    def _components(self, z: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density (B, K, *points) and score of z under every component."""

    @abstractmethod
    def _kernel(self, means: Tensor, stds: Tensor) -> Distribution:
        """The clean distribution of rows of known components."""

    def _parts(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Log of weight times density (B, K), and scores (B, K, *points)."""
        added = self.process.var(t, z).to(torch.float64)
        added = added[:, None] if added.ndim else added
        var = self.stds.to(z.device) ** 2 + added
        log_prob, score = self._components(z.to(torch.float64)[:, None], var)
        log_weights = self.weights.log().to(z.device)
        density = log_prob.reshape(*log_prob.shape[:2], -1).sum(-1)
        return log_weights + density, score

    def log_prob(self, z: Tensor, t: Tensor | float = 0.0) -> Tensor:
        """Log-density of the mixture noised to time `t`, (B,) nats."""
        return torch.logsumexp(self._parts(z, as_time(t))[0], 1).to(z.dtype)

    def __call__(self, z: Tensor, t: Tensor, cond: Any = None) -> ScorePrediction:
        """Return the exact score at `z` and `t`; there are no conditions."""
        log_joint, score = self._parts(z, t)
        share = torch.softmax(log_joint, 1)
        share = share.reshape(share.shape + (1,) * (score.ndim - 2))
        return ScorePrediction(z, (share * score).sum(1).to(z.dtype))

    def components(self, n: int, noise: Noise) -> Tensor:
        """Draw component indices, (n,)."""
        return Categorical(self.weights.expand(n, -1)).sample(noise.child("component"))

    def sample(self, n: int, noise: Noise) -> Tensor:
        """Draw `n` clean rows, float64."""
        index = self.components(n, noise)
        drawn: Tensor = self._kernel(self.means[index], self.stds[index]).sample(noise)
        return drawn


class WrappedMixtureOracle(_MixtureOracle):
    """Exact denoiser of a mixture of wrapped normals.

    Args:
        weights: (K,) positive; normalised here.
        means: (K,) for states (B,), or (K, ...) for states (B, ...); radians.
        stds: (K,) or of the shape of `means`.
        process: The process whose noise is undone.

    Raises:
        ConfigError: if the arguments do not fit one another.
    """

    def __init__(self, weights: Any, means: Any, stds: Any, process: TorusProcess) -> None:
        super().__init__(weights, means, stds, tuple(torch.as_tensor(means).shape[1:]))
        self.means = wrap(self.means)
        self.process = process

    def _components(self, z: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        angle = z - self.means.to(z.device)
        return wrapped_normal_log_prob(angle, var), wrapped_normal_score(angle, var)

    def _kernel(self, means: Tensor, stds: Tensor) -> WrappedNormal:
        return WrappedNormal(means, stds**2)


class IGSO3MixtureOracle(_MixtureOracle):
    """Exact denoiser of a mixture of IGSO(3) distributions.

    Args:
        weights: (K,) positive; normalised here.
        rotations: (K, 3, 3) for states (B, 3, 3), or (K, ..., 3, 3) for states (B, ..., 3, 3).
        sigmas: (K,) or (K, ...).
        process: The process whose noise is undone.

    Raises:
        ConfigError: if the arguments do not fit one another.
    """

    def __init__(self, weights: Any, rotations: Any, sigmas: Any, process: SO3Process) -> None:
        super().__init__(weights, rotations, sigmas, tuple(torch.as_tensor(rotations).shape[1:-2]))
        self.process = process

    def _components(self, z: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        vector = log_so3(self.means.to(z.device).mT @ z)
        sigma = var.sqrt()
        log_prob = igso3_log_prob(torch.linalg.vector_norm(vector, dim=-1), sigma)
        return log_prob, igso3_score(vector, sigma)

    def _kernel(self, means: Tensor, stds: Tensor) -> IGSO3:
        return IGSO3(means, stds)

    def angle_density(self, angle: Tensor, reference: Tensor, t: Tensor | float = 0.0) -> Tensor:
        r"""Density of the angle between the rotations of the mixture and a fixed one.

        With chi_l(a) = sin((l + 1/2) a) / sin(a / 2), averaging chi_l(g R g^-1 Q) over g gives
        chi_l(R) chi_l(Q) / (2 l + 1) (Schur), so that for a component at the distance d

            p(a) = (1 - cos a) / pi sum_l exp(-l (l + 1) v / 2) chi_l(d) chi_l(a).

        Args:
            angle: (G,) radians in [0, pi].
            reference: (3, 3) rotation matrix.
            t: Time, one number; at 0 it is the clean mixture.

        Returns:
            (G,) density per radian, float64, exact to 1e-12.

        Raises:
            ConfigError: if a state of this mixture is more than one rotation.
        """
        if self.means.ndim != 3:
            raise ConfigError("the density of an angle is that of states of one rotation")
        var = self.stds**2 + self.process.schedule.marginal(as_time(t)).var
        way = geodesic_distance(reference.to(self.means), self.means)
        # exp(-l^2 v / 2) is below 1e-17 beyond the last degree.
        last = math.ceil(math.sqrt(80 / float(var.min()))) + 1
        degree = torch.arange(last + 1, dtype=torch.float64)
        weight = self.weights[:, None] * torch.exp(-0.5 * degree * (degree + 1) * var[:, None])
        coefficient = (weight * _character(degree, way[:, None])).sum(0)
        angle = angle.to(torch.float64)
        return (
            (1 - torch.cos(angle)) / math.pi * (_character(degree, angle[:, None]) @ coefficient)
        )


def _character(degree: Tensor, angle: Tensor) -> Tensor:
    """sin((l + 1/2) a) / sin(a / 2), which is 2 l + 1 at a = 0."""
    half = 0.5 * angle.clamp(min=1e-9)
    return torch.sin((2 * degree + 1) * half) / torch.sin(half)
