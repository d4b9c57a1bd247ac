"""Gaussian mixtures of normal scores, drawn from by inverting distribution functions.

Every draw is a function of uniform numbers, so that it can be keyed by row; cut to intervals, a
mixture is drawn from and integrated in closed form.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Mixture", "pick"]

LOG_STD = (-7.0, 2.0)
"""Range of the components' log standard deviations, in normal scores."""


class Mixture:
    """Gaussian mixtures, (..., K) parameters.

    Args:
        parameters: (..., 3, K): logits, means, log standard deviations.
    """

    def __init__(self, parameters: Tensor) -> None:
        logits, self.mean, log_std = parameters.float().unbind(-2)
        self.log_weight = functional.log_softmax(logits, -1)
        self.log_std = log_std.clamp(*LOG_STD)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density at z (...), nats."""
        scaled = (z.unsqueeze(-1) - self.mean) * torch.exp(-self.log_std)
        terms = self.log_weight - self.log_std - 0.5 * scaled.square()
        return torch.logsumexp(terms, -1) - 0.5 * math.log(2 * math.pi)

    def mass(self, intervals: Tensor) -> Tensor:
        """Probability of each component and of lying in an interval, (..., k, K).

        Args:
            intervals: (k, 2) low and high ends.
        """
        std, mean = torch.exp(self.log_std).unsqueeze(-2), self.mean.unsqueeze(-2)
        low, high = ((end.unsqueeze(-1) - mean) / std for end in intervals.unbind(-1))
        # In the upper tail the difference of the complements keeps its digits.
        flip = torch.where((low > 0).logical_and(high > 0), -1.0, 1.0)
        inside = (_cdf(flip * high) - _cdf(flip * low)).abs()
        return torch.exp(self.log_weight).unsqueeze(-2) * inside

    def sample(self, which: Tensor, where: Tensor, intervals: Tensor | None = None) -> Tensor:
        """Draw from the mixture, or from what of it lies in a union of intervals.

        Args:
            which: (...) uniform, chooses the component and the interval.
            where: (...) uniform, chooses the place in it.
            intervals: (k, 2) low and high ends, disjoint.
        """
        std = torch.exp(self.log_std)
        if intervals is None:
            index = pick(torch.exp(self.log_weight), which).unsqueeze(-1)
            mean, spread = (v.gather(-1, index)[..., 0] for v in (self.mean, std))
            quantile = where.double().clamp(1e-12, 1 - 1e-12)
            return (mean + spread * torch.special.ndtri(quantile)).float()
        masses = self.mass(intervals)
        # Where nothing of the mixture reaches the intervals, the nearest component it is.
        middle = intervals.mean(-1).unsqueeze(-1)
        distance = (self.mean.unsqueeze(-2) - middle).abs() / std.unsqueeze(-2)
        nearest = functional.one_hot(distance.flatten(-2).argmin(-1), masses[0].numel())
        flat = masses.flatten(-2)
        flat = torch.where(flat.sum(-1, keepdim=True) > 1e-30, flat, nearest.to(flat.dtype))
        chosen = pick(flat, which)
        component = (chosen % self.mean.shape[-1]).unsqueeze(-1)
        low, high = intervals[chosen // self.mean.shape[-1]].unbind(-1)
        mean, spread = (v.gather(-1, component)[..., 0] for v in (self.mean, std))
        lower, upper = (low - mean) / spread, (high - mean) / spread
        flip = torch.where(lower > 0, -1.0, 1.0)
        first, last = _cdf(flip * lower), _cdf(flip * upper)
        quantile = (first + where.double() * (last - first)).clamp(1e-300, 1 - 1e-16)
        drawn = (mean + spread * flip * torch.special.ndtri(quantile)).float()
        return torch.minimum(torch.maximum(drawn, low), high)


def _cdf(x: Tensor) -> Tensor:
    return torch.special.ndtr(x.double())


def pick(weights: Tensor, uniform: Tensor) -> Tensor:
    """Draw an index of the last dimension with probability proportional to weights.

    Args:
        weights: (..., K), >= 0, not all zero.
        uniform: (...) in [0, 1).

    Returns:
        (...) long. The inverse of the distribution function, so that one uniform number is one
        draw; a class of weight zero is never drawn.
    """
    cumulative = weights.double().cumsum(-1)
    # Less than the total even after rounding, so that the last class with any weight is the limit.
    target = uniform.double().unsqueeze(-1) * (cumulative[..., -1:] * (1 - 1e-12))
    return torch.searchsorted(cumulative, target, right=True)[..., 0]
