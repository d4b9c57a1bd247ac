r"""The frame of a window: where its hidden cells would lie if everything were Gaussian.

With y the hidden cells of a window, a frame holds base, scale and covariance such that the
residual r = (y - base) / scale is N(0, Sigma) under the *Gaussian floor*, the forecast without any
network. The diffusion noises r with noise of that very covariance, z = r + sigma eps,
eps ~ N(0, Sigma). Then for Gaussian data

    E[r | z] = z / (1 + sigma^2)                                       in every cell on its own,

whichever cells are seen: a network that adds nothing reproduces the floor exactly, and cells whose
truth is missing can simply be left out. In the white coordinates w, r = A w with A A^T = Sigma,
all this is the ordinary diffusion of a standard normal, which is how samplers and likelihoods of
the core see it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class Colour(ABC):
    """A square root A of a covariance over (D, Z) cells, as an operator."""

    dim: int | None = None
    """Number of series it mixes; None where it mixes none and takes any number."""

    @abstractmethod
    def colour(self, white: Tensor) -> Tensor:
        """Return A w for w (..., D, Z)."""

    @abstractmethod
    def whiten(self, residual: Tensor) -> Tensor:
        """Return A^-1 r for r (..., D, Z)."""

    @abstractmethod
    def covariance(self, value: Tensor) -> Tensor:
        """Return A A^T x for x (..., D, Z)."""

    @abstractmethod
    def log_det(self) -> Tensor:
        """log |det A|, a scalar or one number a window and series."""


@dataclass(frozen=True)
class Frame:
    """Base, scale and colour of B windows; see the module.

    Args:
        base: (B, D, Z) standardised.
        scale: (B, D, 1), positive.
        std: (B or 1, D, Z) standard deviation of the residual under the floor.
        law: Square root of its covariance.
        series: (D,) the rows of the law that these series are; None is all of them in order.
    """

    base: Tensor
    scale: Tensor
    std: Tensor
    law: Colour
    series: Tensor | None = None

    @property
    def law_dim(self) -> int:
        """Number of series of the law, of which the windows may show a part."""
        return self.law.dim or self.base.shape[1]

    def noise(self, white: Tensor) -> Tensor:
        """Colour white noise (B, S, law_dim, Z) and keep the windows' series."""
        coloured = self.law.colour(white)
        return coloured if self.series is None else coloured[:, :, self.series]

    def residual(self, value: Tensor) -> Tensor:
        """(y - base) / scale."""
        return (value - self.base) / self.scale

    def value(self, residual: Tensor) -> Tensor:
        """Base + scale r, for r (B, D, Z) or (B, S, D, Z)."""
        if residual.ndim == 4:
            return self.base[:, None] + self.scale[:, None] * residual
        return self.base + self.scale * residual


class SeriesFactor(nn.Module):
    """Symmetric square root of a covariance between D series: low rank and a common rest.

    Corr = U diag(lambda - delta) U^T + delta I (probabilistic PCA; Tipping & Bishop 1999), hence
    A = diag(sd) (sqrt(delta) I + U diag(sqrt(lambda) - sqrt(delta)) U^T), applied in O(D rank).

    Args:
        dim: Number of series D.
        rank: Number of eigenvectors kept; D keeps all.
    """

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__()
        self.sd: Tensor
        self.vectors: Tensor
        self.gain: Tensor
        self.rest: Tensor
        self.register_buffer("sd", torch.ones(dim))
        self.register_buffer("vectors", torch.zeros(dim, min(rank, dim)))
        self.register_buffer("gain", torch.ones(min(rank, dim)))
        self.register_buffer("rest", torch.ones(()))

    def fit(self, covariance: Tensor, *, shrink: float = 1e-3) -> None:
        """Take a covariance (D, D), float64; its correlation is shrunk towards 0 by `shrink`."""
        sd = covariance.diagonal().clamp(min=1e-12).sqrt()
        correlation = covariance / (sd[:, None] * sd[None])
        dim, rank = len(sd), self.gain.shape[0]
        correlation = (1 - shrink) * correlation + shrink * torch.eye(dim, dtype=sd.dtype)
        values, vectors = torch.linalg.eigh(correlation)
        values = values.clamp(min=shrink)
        kept = slice(dim - rank, dim)
        rest = values[: dim - rank].mean() if rank < dim else torch.ones((), dtype=sd.dtype)
        if rank < dim:
            values = values.clamp(min=float(rest))
        # The diagonal that low rank cannot hold is put right by the standard deviations.
        fitted = rest + ((vectors[:, kept] ** 2) * (values[kept] - rest)).sum(1)
        self.sd.copy_(sd / fitted.sqrt())
        self.vectors.copy_(vectors[:, kept])
        self.gain.copy_(values[kept].sqrt())
        self.rest.copy_(rest.sqrt())

    @property
    def std(self) -> Tensor:
        """(D,) standard deviations of the covariance."""
        gain = (self.vectors**2 * (self.gain**2 - self.rest**2)).sum(1)
        return self.sd * (self.rest**2 + gain).sqrt()

    def colour(self, white: Tensor) -> Tensor:
        """A w along the second last dimension of (..., D, Z)."""
        mixed = self.vectors.T @ white
        return self.sd[:, None] * (
            self.rest * white + self.vectors @ ((self.gain - self.rest)[:, None] * mixed)
        )

    def whiten(self, residual: Tensor) -> Tensor:
        """A^-1 r along the second last dimension."""
        residual = residual / self.sd[:, None]
        mixed = self.vectors.T.to(residual.dtype) @ residual
        inverse = (1 / self.gain - 1 / self.rest)[:, None]
        return residual / self.rest + self.vectors.to(mixed.dtype) @ (inverse * mixed)

    def log_det(self) -> Tensor:
        """log |det A|."""
        others = len(self.sd) - len(self.gain)
        return self.sd.log().sum() + self.gain.log().sum() + others * self.rest.log()


class KroneckerLaw(nn.Module, Colour):
    """Covariance of (D, H) cells as series covariance x time covariance.

    Args:
        dim: Number of series D.
        horizon: Number of steps H.
        rank: Eigenvectors of the series covariance that are kept.
    """

    def __init__(self, dim: int, horizon: int, rank: int) -> None:
        super().__init__()
        self.dim = dim
        self.time: Tensor
        self.register_buffer("time", torch.eye(horizon))
        self.series = SeriesFactor(dim, rank)

    def fit(self, residual: Tensor, observed: Tensor) -> None:
        """Estimate from residuals (N, D, H), pairwise over observed cells; float64.

        The time covariance is pooled over series, each of them having its own variance, and the
        series covariance over steps.
        """
        limit = 6 * masked_rms(residual, observed, (0, 1))
        residual = torch.where(observed, residual, 0.0).clamp(-limit, limit)
        variance = masked_rms(residual, observed, (0, 2)) ** 2  # (1, D, 1)
        unit = residual / variance.sqrt().clamp(min=1e-8)
        seen = observed.double()
        time = torch.einsum("ndh,ndk->hk", unit, unit)
        time = time / torch.einsum("ndh,ndk->hk", seen, seen).clamp(min=1)
        # Few windows tell little of correlations: these are shrunk by what is known per step.
        horizon, cells = residual.shape[2], seen.sum()
        time = _shrunk(time, horizon / (horizon + float(cells) / horizon))
        time = nearest_covariance(time)
        self.time.copy_(torch.linalg.cholesky(time))
        # Series go together at a step as they are, not as innovations: what is slow, the level of
        # a day, moves them together more than what is quick, and sums over series are of a step.
        unit = residual / time.diagonal().sqrt()
        series = torch.einsum("ndh,neh->de", unit, unit)
        series = series / torch.einsum("ndh,neh->de", seen, seen).clamp(min=1)
        dim = residual.shape[1]
        self.series.fit(_shrunk(series, dim / (dim + float(cells) / dim)))

    def std(self) -> Tensor:
        """(1, D, H) standard deviation of every cell."""
        steps = (self.time**2).sum(1).sqrt()
        return (self.series.std[:, None] * steps[None])[None]

    def colour(self, white: Tensor) -> Tensor:
        """See `Colour.colour`."""
        return self.series.colour(white @ self.time.T)

    def whiten(self, residual: Tensor) -> Tensor:
        """See `Colour.whiten`."""
        time = self.time.to(residual.dtype)
        solved = torch.linalg.solve_triangular(
            time, residual.transpose(-1, -2).flatten(0, -3), upper=False
        )
        return self.series.whiten(
            solved.unflatten(0, residual.shape[:-2]).transpose(-1, -2)
            if residual.ndim > 3
            else solved.transpose(-1, -2).reshape(residual.shape)
        )

    def covariance(self, value: Tensor) -> Tensor:
        """See `Colour.covariance`."""
        # The factor between series is symmetric with sd outside: A^T x = root(sd x).
        series = self.series
        inner = series.sd[:, None] * (value @ self.time)
        mixed = series.vectors.T @ inner
        inner = series.rest * inner + series.vectors @ (
            (series.gain - series.rest)[:, None] * mixed
        )
        return self.colour(inner)

    def log_det(self) -> Tensor:
        """See `Colour.log_det`."""
        horizon, dim = self.time.shape[0], len(self.series.sd)
        return horizon * self.series.log_det() + dim * self.time.diagonal().log().sum()


def _shrunk(covariance: Tensor, share: float) -> Tensor:
    """Return the covariance with its correlations multiplied by 1 - share."""
    diagonal = torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1))
    return (1 - share) * covariance + share * diagonal


def masked_rms(value: Tensor, mask: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Root mean square over `dims`, kept, where `mask` is true."""
    count = mask.sum(dims, keepdim=True).clamp(min=1)
    return ((torch.where(mask, value, 0.0) ** 2).sum(dims, keepdim=True) / count).sqrt()


def nearest_covariance(matrix: Tensor, floor: float = 1e-3) -> Tensor:
    """Symmetrise and lift the eigenvalues of `matrix` to at least `floor` times their mean."""
    matrix = 0.5 * (matrix + matrix.transpose(-1, -2))
    values, vectors = torch.linalg.eigh(matrix)
    least = floor * values.clamp(min=0).mean(-1, keepdim=True).clamp(min=1e-12)
    return (vectors * torch.maximum(values, least).unsqueeze(-2)) @ vectors.transpose(-1, -2)
