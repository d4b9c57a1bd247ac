r"""Steering forecasts: known values, totals, bounds and quantiles.

Each term corrects the clean values that the denoiser predicts, at every step, in the frame of the
window with floor covariance Sigma (in the data's standardised units):

    linear facts  G y = b     y <- y + Sigma G^T (G Sigma G^T)^-1 (b - G y)
    bounds                    y <- min(max(y, lower), upper)
    quantile q of a path y*   y <- y + strength r^2 Sigma (1[y < y*] - q)

The first is E[y | z, G y = b] where y given z has covariance proportional to Sigma, so under the
floor forecasts are drawn from the exact conditional law, and in the end the facts hold exactly
(Kollovieh et al. 2023 and Song et al. 2023 guide by gradients through the network instead). The
last is the gradient of an asymmetric Laplace likelihood, Kollovieh et al. 2023's self-guidance,
with r^2 = sigma^2 / (1 + sigma^2) the variance that is left at the noise level.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from scidiffusion.core.prediction import Parameterization, Prediction
from scidiffusion.errors import ConditionError
from scidiffusion.timeseries.denoiser import Context, WindowDenoiser

ROUNDS = 200
"""Rounds in which facts and bounds are brought together at most; a total takes a few."""


class Term(ABC):
    """One wish about values y (B, S, D, H), standardised."""

    @abstractmethod
    def correct(self, value: Tensor, context: Context, left: Tensor) -> Tensor:
        """Return corrected values; `left` is the share r^2 of variance that is still open."""

    def finish(self, value: Tensor, context: Context) -> Tensor:
        """Return drawn values with what can hold exactly made to hold."""
        return self.correct(value, context, torch.ones(()))


@dataclass(frozen=True)
class LinearFacts(Term):
    """G y = b: known values and totals.

    Args:
        matrix: (m, D, H), each row one fact's weights; none all 0, none a repetition.
        value: (m,) what they amount to, standardised units of y.
    """

    matrix: Tensor
    value: Tensor

    def correct(self, value: Tensor, context: Context, left: Tensor) -> Tensor:
        """See the module."""
        frame = context.frame
        rows = self.matrix.to(frame.scale.dtype)[None]  # (1, m, D, H)
        spread = frame.scale[:, None] * frame.law.covariance(frame.scale[:, None] * rows)
        gram = torch.einsum("bmdh,ndh->bmn", spread.double(), self.matrix.double())
        gap = self.value.double() - torch.einsum(
            "mdh,bsdh->bsm", self.matrix.double(), value.double()
        )
        weight = torch.linalg.solve(gram, gap.transpose(1, 2))  # (B, m, S)
        shift = torch.einsum("bms,bmdh->bsdh", weight, spread.double())
        return value + shift.to(value.dtype)


@dataclass(frozen=True)
class Bounds(Term):
    """lower <= y <= upper.

    Args:
        lower: Broadcastable to (D, H), standardised; None is none.
        upper: Likewise.
    """

    lower: Tensor | None = None
    upper: Tensor | None = None

    def correct(self, value: Tensor, context: Context, left: Tensor) -> Tensor:
        """See the module."""
        if self.lower is not None:
            value = torch.maximum(value, self.lower.to(value.dtype))
        if self.upper is not None:
            value = torch.minimum(value, self.upper.to(value.dtype))
        return value


@dataclass(frozen=True)
class QuantileTarget(Term):
    """Paths of which the given one is about the q-quantile.

    Args:
        path: (D, H), standardised; NaN where nothing is wished.
        level: q in (0, 1).
        strength: How strongly, in units of 1 / standard deviation of the floor.
    """

    path: Tensor
    level: float
    strength: float = 1.0

    def correct(self, value: Tensor, context: Context, left: Tensor) -> Tensor:
        """See the module."""
        frame = context.frame
        wished = torch.isfinite(self.path)
        path = torch.where(wished, self.path, 0.0).to(value.dtype)
        # Pulls up with weight 1 - q below the path and down with q above it, which balance where
        # a share q of the forecast lies below.
        pull = torch.where(value < path, 1.0 - self.level, -self.level) * wished
        unit = (frame.std * frame.scale)[:, None]
        shift = frame.law.covariance(pull / frame.std[:, None])
        count = max(float(wished.sum()), 1.0) ** 0.5
        return value + self.strength * left * unit * shift / frame.std[:, None] / count

    def finish(self, value: Tensor, context: Context) -> Tensor:
        """Leave drawn values alone: a wish about a distribution does not bind a single draw."""
        return value


class GuidedWindow:
    """A denoiser of windows under terms; a `scidiffusion.core.Denoiser`.

    Args:
        denoiser: What is guided.
        terms: In the order in which they are applied.
    """

    def __init__(self, denoiser: WindowDenoiser, terms: Sequence[Term]) -> None:
        self.denoiser, self.process, self.terms = denoiser, denoiser.process, tuple(terms)

    def __call__(self, z: Tensor, t: Tensor, cond: Any = None) -> Prediction:
        """Predict under guidance; see `WindowDenoiser.forward`."""
        context: Context = cond
        prediction: Prediction = self.denoiser(z, t, context)
        frame = context.frame
        sigma2 = (prediction.marginal.sigma**2).to(z.dtype).reshape(-1)[0]
        value = frame.value(prediction.x0.unflatten(0, (context.h.shape[0], -1)))
        for term in self.terms:
            value = term.correct(value, context, sigma2 / (1 + sigma2))
        x0 = ((value - frame.base[:, None]) / frame.scale[:, None]).flatten(0, 1)
        return replace(prediction, value=x0, parameterization=Parameterization.X0)

    def finish(self, value: Tensor, context: Context) -> Tensor:
        """Make drawn values (B, S, D, H) obey what can hold exactly; float64.

        Raises:
            ConditionError: if no path within the bounds meets the facts.
        """
        value = value.double()
        for term in self.terms:
            value = term.finish(value, context)
        facts = [term for term in self.terms if isinstance(term, LinearFacts)]
        bounds = [term for term in self.terms if isinstance(term, Bounds)]
        if facts and bounds:
            weight = ((context.frame.std * context.frame.scale) ** 2)[:, None].double()
            value = reconcile(value, facts[0], bounds[0], weight)
        return value


def reconcile(value: Tensor, facts: LinearFacts, bounds: Bounds, weight: Tensor) -> Tensor:
    """Return values near the given ones that meet facts and bounds together.

    What a fact lacks is shared out by `weight` among the cells that may still move its way.

    Args:
        value: (B, S, D, H) float64.
        facts: What must hold.
        bounds: Likewise.
        weight: (B, 1, D, H) variances.

    Raises:
        ConditionError: if no path within the bounds meets the facts.
    """
    shape, matrix = value.shape, facts.matrix.double().flatten(1)
    low, high = (
        torch.full_like(value[:1, :1], fill) if end is None else end.double().expand(shape)
        for end, fill in ((bounds.lower, -torch.inf), (bounds.upper, torch.inf))
    )
    flat, low, high = value.flatten(2), low.flatten(2), high.flatten(2)
    weight = weight.flatten(2)
    size = 1 + facts.value.double().abs()
    for _ in range(ROUNDS):
        flat = flat.clamp(low, high)
        gap = facts.value.double() - flat @ matrix.T  # (B, S, m)
        if bool((gap.abs() <= 1e-10 * size).all()):
            return flat.reshape(shape)
        way = _spread(gap, matrix, weight.expand_as(flat))
        stuck = ((flat <= low) & (way < 0)) | ((flat >= high) & (way > 0))
        flat = flat + _spread(gap, matrix, torch.where(stuck, 0.0, weight))
    flat = flat.clamp(low, high)
    if bool(((facts.value.double() - flat @ matrix.T).abs() > 1e-5 * size).any()):
        raise ConditionError(
            "no path between the bounds was found that has the known values and totals; widen "
            "the bounds"
        )
    return flat.reshape(shape)


def _spread(gap: Tensor, matrix: Tensor, weight: Tensor) -> Tensor:
    """Return the least change (B, S, cells) by `weight` that closes gaps (B, S, m)."""
    weighted = weight[..., None, :] * matrix  # (B, S, m, cells)
    gram = weighted @ matrix.T
    return ((torch.linalg.pinv(gram, hermitian=True) @ gap[..., None]).mT @ weighted).squeeze(-2)


def check_facts(matrix: Tensor) -> None:
    """Raise ConditionError if facts contradict or repeat each other."""
    flat = matrix.double().flatten(1)
    if flat.shape[0] and int(torch.linalg.matrix_rank(flat)) < flat.shape[0]:
        raise ConditionError(
            "the known values and totals repeat or contradict each other: one follows from the "
            "others (a total of values that are all known, say); leave it out"
        )
