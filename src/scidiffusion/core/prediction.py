r"""One network output, seen through every parameterisation.

With z_t = scale x + std eps a Gaussian denoiser may name any of

    eps      the noise                                  (Ho et al. 2020)
    x0       the clean data                             = (z - std eps) / scale
    v        scale eps - std x0                         (Salimans & Ho 2022, section 4)
    score    grad log q(z_t)                            = -eps / std

They are one affine family; the conversions live here and nowhere else. A prediction keeps the
quantity it was given and converts on demand, because x0 from eps is undefined where scale = 0 and
eps from x0 where std = 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor

from scidiffusion.core.schedules import Marginal


class Parameterization(StrEnum):
    """What a Gaussian network is asked to predict."""

    EPS = "eps"
    X0 = "x0"
    V = "v"
    SCORE = "score"


def match(coefficient: Tensor, like: Tensor) -> Tensor:
    """Shape a per-row (or scalar) float64 coefficient so that it multiplies `like`."""
    if coefficient.ndim:
        coefficient = coefficient.reshape(
            coefficient.shape + (1,) * (like.ndim - coefficient.ndim)
        )
        return coefficient.to(device=like.device, dtype=like.dtype)
    return coefficient.to(dtype=like.dtype)


@dataclass(frozen=True)
class Prediction:
    """What a Gaussian denoiser says about z_t.

    Args:
        z: (B, ...) the noisy state.
        marginal: Coefficients of q(z_t | x), scalar or (B,).
        value: (B, ...) the predicted quantity.
        parameterization: Which quantity `value` is.
        log_var_fraction: (B, ...) the v in [0, 1] of a learned-range variance (IDDPM, eq. 15).
        x0_var: Var[x | z_t], scalar or of z's shape, where it is known (the optimal variance).
    """

    z: Tensor
    marginal: Marginal
    value: Tensor
    parameterization: Parameterization = Parameterization.EPS
    log_var_fraction: Tensor | None = None
    x0_var: Tensor | None = None

    @property
    def scale(self) -> Tensor:
        """Signal coefficient, broadcast to z."""
        return match(self.marginal.scale, self.z)

    @property
    def std(self) -> Tensor:
        """Noise coefficient, broadcast to z."""
        return match(self.marginal.std, self.z)

    @property
    def eps(self) -> Tensor:
        """Predicted noise, E[eps | z_t]."""
        match self.parameterization:
            case Parameterization.EPS:
                return self.value
            case Parameterization.X0:
                return (self.z - self.scale * self.value) / self.std
            case Parameterization.V:
                return (self.std * self.z + self.scale * self.value) / (
                    self.scale**2 + self.std**2
                )
            case Parameterization.SCORE:
                return -self.std * self.value

    @property
    def x0(self) -> Tensor:
        """Predicted clean data, E[x | z_t]."""
        match self.parameterization:
            case Parameterization.X0:
                return self.value
            case Parameterization.V:
                return (self.scale * self.z - self.std * self.value) / (
                    self.scale**2 + self.std**2
                )
            case _:
                return (self.z - self.std * self.eps) / self.scale

    @property
    def v(self) -> Tensor:
        """Predicted velocity scale eps - std x0."""
        if self.parameterization is Parameterization.V:
            return self.value
        return self.scale * self.eps - self.std * self.x0

    @property
    def score(self) -> Tensor:
        """Predicted grad_z log q(z_t)."""
        if self.parameterization is Parameterization.SCORE:
            return self.value
        return -self.eps / self.std

    def target(self, parameterization: Parameterization) -> Tensor:
        """Return the prediction in the given parameterisation."""
        value: Tensor = getattr(self, parameterization.value)
        return value

    def with_value(self, value: Tensor, parameterization: Parameterization) -> Prediction:
        """Return the same prediction with another value, given in `parameterization`."""
        return replace(self, value=value, parameterization=parameterization)

    def mix(self, other: Prediction, weight: float | Tensor) -> Prediction:
        """Return (1 - weight) self + weight other, the extrapolation that guidance uses.

        The conversions are affine with the same offset for equal z and t, so mixing eps, x0, v or
        the score gives one and the same prediction. Variances do not extrapolate: they are those
        of `other`, the prediction that guidance leads to.
        """
        value = torch.lerp(self.target(other.parameterization), other.value, weight)
        return replace(other, value=value)


def true_value(
    x: Tensor, eps: Tensor, marginal: Marginal, parameterization: Parameterization
) -> Tensor:
    """What a perfect network would answer about z = scale x + std eps.

    Taken from x and eps themselves: converting one of them through z loses digits where scale or
    std is small.

    Args:
        x: (B, ...) clean data.
        eps: (B, ...) noise.
        marginal: Coefficients of q(z_t | x), scalar or (B,).
        parameterization: The quantity asked for.
    """
    match parameterization:
        case Parameterization.EPS:
            return eps
        case Parameterization.X0:
            return x
        case Parameterization.V:
            return match(marginal.scale, x) * eps - match(marginal.std, x) * x
        case Parameterization.SCORE:
            return -eps / match(marginal.std, x)


@dataclass(frozen=True)
class CategoricalPrediction:
    """What a categorical denoiser says about z_t: p(x = k | z_t).

    Args:
        z: (B, ...) noisy classes, long.
        log_p0: (B, ..., K) log-probabilities of the clean class; -inf where there is no class.
    """

    z: Tensor
    log_p0: Tensor

    @property
    def p0(self) -> Tensor:
        """(B, ..., K) probabilities of the clean class."""
        return self.log_p0.exp()

    def mix(self, other: CategoricalPrediction, weight: float | Tensor) -> CategoricalPrediction:
        """Return the normalised p_self^(1 - weight) p_other^weight (guidance in log space)."""
        absent = torch.isneginf(self.log_p0)
        # 0 * log 0 is 0 here: p^0 = 1 also for a class that `other` excludes.
        ours, theirs = self.log_p0.masked_fill(absent, 0.0), other.log_p0.masked_fill(absent, 0.0)
        excluded = torch.isneginf(theirs) & (torch.as_tensor(weight) != 0).to(theirs.device)
        mixed = torch.lerp(ours, theirs.masked_fill(torch.isneginf(theirs), 0.0), weight)
        absent = absent | excluded
        return replace(self, log_p0=torch.log_softmax(mixed.masked_fill(absent, -torch.inf), -1))


@dataclass(frozen=True)
class ScorePrediction:
    """What a denoiser on a manifold says about z_t: the Riemannian score in tangent coordinates.

    Args:
        z: (B, ...) noisy point: an angle on the circle, a rotation matrix on SO(3).
        score: (B, ...) grad log q(z_t); on SO(3) a rotation vector (..., 3) in the body frame.
    """

    z: Tensor
    score: Tensor

    def mix(self, other: ScorePrediction, weight: float | Tensor) -> ScorePrediction:
        """Return (1 - weight) self + weight other."""
        return replace(self, score=torch.lerp(self.score, other.score, weight))
