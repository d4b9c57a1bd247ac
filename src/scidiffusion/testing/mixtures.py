r"""An exact denoiser: the Gaussian mixture, whose every diffusion quantity is closed form.

For data x ~ sum_k w_k N(mu_k, Sigma_k) the noisy marginal is again a mixture,

    q(z_t) = sum_k w_k N(scale mu_k, scale^2 Sigma_k + std^2 I),

so the score, eps* = -std score, x0* = E[x | z_t], Var[x | z_t], log q(z_t), the class posterior
p(k | z_t), draws from p(x | z_t) and the score guided towards a class are known at every noise
level. As a `Denoiser` it tests samplers, objectives, the ELBO, likelihoods and guidance without
any training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scidiffusion.core.denoiser import Condition
from scidiffusion.core.gaussian import GaussianProcess
from scidiffusion.core.prediction import Parameterization, Prediction
from scidiffusion.core.rng import KeyedNoise, Noise
from scidiffusion.core.schedules import as_time
from scidiffusion.errors import ConfigError

F64 = torch.float64


class GaussianMixtureOracle:
    """The exact denoiser of a Gaussian mixture in d dimensions; see the module.

    Args:
        weights: (K,) positive; normalised.
        means: (K, d), or (K,) for d = 1.
        covariances: (K, d, d) full, (K, d) diagonal or (K,) isotropic variances.
        process: Gaussian process whose schedule gives the noise levels.

    Raises:
        ConfigError: if shapes do not fit or a covariance is not positive definite.
    """

    def __init__(
        self,
        weights: Tensor | Sequence[float],
        means: Tensor | Sequence[float] | Sequence[Sequence[float]],
        covariances: Tensor | Sequence[float],
        process: GaussianProcess,
    ) -> None:
        weights = torch.as_tensor(weights, dtype=F64)
        means = torch.as_tensor(means, dtype=F64)
        means = means[:, None] if means.ndim == 1 else means
        count, d = means.shape
        covariances = torch.as_tensor(covariances, dtype=F64)
        if covariances.ndim == 1:
            covariances = covariances[:, None].expand(-1, d)
        if covariances.ndim == 2:
            covariances = torch.diag_embed(covariances)
        if (
            weights.shape != (count,)
            or covariances.shape != (count, d, d)
            or bool((weights <= 0).any())
        ):
            raise ConfigError(
                "weights (K,) > 0, means (K, d) and covariances must agree in K and d"
            )
        values, vectors = torch.linalg.eigh(covariances)
        if bool((values <= 0).any()):
            raise ConfigError("every covariance must be positive definite")
        self.process = process
        self.log_weights = (weights / weights.sum()).log()
        self.means = means
        self.covariances = covariances
        self._values, self._vectors = values, vectors

    @classmethod
    def prince(cls, process: GaussianProcess) -> GaussianMixtureOracle:
        """Return the 1-D mixture of the notebooks to Prince 2023, chapter 18."""
        stds = torch.tensor([0.3, 0.15, 0.525, 0.075], dtype=F64)
        return cls([0.2, 0.3, 0.35, 0.15], [1.5, -0.216, 0.45, -1.875], stds**2, process)

    @property
    def weights(self) -> Tensor:
        """(K,) mixture weights."""
        return self.log_weights.exp()

    @property
    def dimension(self) -> int:
        """Dimension d."""
        return self.means.shape[1]

    def to(self, device: torch.device | str) -> GaussianMixtureOracle:
        """Move the parameters to a device, in place."""
        for name in ("log_weights", "means", "covariances", "_values", "_vectors"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def _components(
        self, z: Tensor, t: Tensor | float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return scale, std, rotated residuals and variances (B, K, d), log w_k q_k (B, K)."""
        marginal = self.process.schedule.marginal(as_time(t).to(z.device))
        scale, std = (c.reshape(-1, 1, 1) for c in (marginal.scale, marginal.std))
        centred = z.to(F64)[:, None] - scale * self.means
        rotated = torch.einsum("kij,bki->bkj", self._vectors, centred)
        variance = scale**2 * self._values + std**2
        log_q = -0.5 * (rotated**2 / variance + torch.log(2 * math.pi * variance)).sum(-1)
        return scale, std, rotated, variance, self.log_weights + log_q

    def log_prob(self, z: Tensor, t: Tensor | float = 0.0) -> Tensor:
        """log q(z_t), (B,) nats; t = 0 is the data."""
        return torch.logsumexp(self._components(z, t)[-1], 1)

    def log_class(self, z: Tensor, t: Tensor | float, label: Tensor | int) -> Tensor:
        """log p(label | z_t), (B,): the exact noise-aware classifier."""
        log_posterior = torch.log_softmax(self._components(z, t)[-1], 1)
        index = torch.as_tensor(label, device=z.device).expand(len(z))
        return log_posterior.gather(1, index[:, None])[:, 0]

    def __call__(self, z: Tensor, t: Tensor, cond: Condition = None) -> Prediction:
        """Predict exactly.

        Args:
            z: (B, d) noisy state.
            t: Time, scalar or (B,).
            cond: (B,) component labels, -1 for none; None for none at all.
        """
        scale, std, rotated, variance, log_q = self._components(z, t)
        if cond is not None:
            label = torch.as_tensor(cond, device=z.device).expand(len(z))
            other = torch.arange(len(self.means), device=z.device) != label[:, None]
            log_q = log_q.masked_fill(other & (label >= 0)[:, None], -torch.inf)
        share = torch.softmax(log_q, 1)[..., None]
        gradient = torch.einsum("kij,bkj->bki", self._vectors, -rotated / variance)
        score = (share * gradient).sum(1)
        # x0 by its own formula: from the score it would be lost to rounding where std is small.
        shrunk = torch.einsum(
            "kij,bkj->bki", self._vectors, scale * self._values / variance * rotated
        )
        x0_each = self.means + shrunk
        x0 = (share * x0_each).sum(1)
        spread = self._values * std**2 / variance
        within = torch.einsum("kij,bkj->bki", self._vectors**2, spread.expand_as(rotated))
        x0_var = (share * (within + (x0_each - x0[:, None]) ** 2)).sum(1)
        marginal = self.process.schedule.marginal(as_time(t).to(z.device))
        # v keeps both eps and x0 exact at every noise level, scale = 0 and std = 0 included.
        v = -scale[:, 0] * std[:, 0] * score - std[:, 0] * x0
        return Prediction(
            z, marginal, v.to(z.dtype), Parameterization.V, x0_var=x0_var.to(z.dtype)
        )

    def draw_clean(self, z: Tensor, t: Tensor | float, noise: Noise) -> Tensor:
        """Draw x ~ p(x | z_t) exactly, (B, d): a component by its posterior, then its Gaussian.

        Args:
            z: (B, d) noisy state.
            t: Time, scalar or (B,).
            noise: Source of the draw.
        """
        scale, std, rotated, variance, log_q = self._components(z, t)
        below = torch.softmax(log_q, 1).cumsum(1)
        uniform = noise.child("component").uniform(below[:, :1])
        label = torch.searchsorted(below, uniform)[:, 0].clamp(max=len(self.means) - 1)
        row = torch.arange(len(z), device=z.device)
        share = self._values[label] / variance.expand_as(rotated)[row, label]
        spread = (share.sqrt() * std[:, 0]) * noise.child("value").normal(rotated[:, 0])
        along = scale[:, 0] * share * rotated[row, label] + spread
        x = self.means[label] + torch.einsum("bij,bj->bi", self._vectors[label], along)
        return x.to(z.dtype)

    def sample(self, n: int, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
        """Draw n rows of data: (n, d) values and (n,) component labels, float64."""
        noise = KeyedNoise(0).child("mixture") if noise is None else noise
        reference = torch.empty(n, self.dimension, dtype=F64, device=self.means.device)
        uniform = noise.child("label").uniform(reference[:, 0])
        label = torch.searchsorted(self.weights.cumsum(0), uniform.contiguous())
        label = label.clamp(max=len(self.means) - 1)
        root = self._vectors * self._values.sqrt()[:, None]
        draw = torch.einsum("bij,bj->bi", root[label], noise.child("value").normal(reference))
        return self.means[label] + draw, label

    def quantiles(self, probabilities: Tensor) -> Tensor:
        """Quantile function of a one-dimensional mixture, by bisection; float64.

        Raises:
            ConfigError: if d is not 1.
        """
        if self.dimension != 1:
            raise ConfigError(
                f"quantiles need a one-dimensional mixture, this has d = {self.dimension}"
            )
        mean, std = self.means[:, 0], self._values[:, 0].sqrt()
        reach = 40 * float(std.max()) + float(mean.abs().max())
        low, high = torch.full_like(probabilities, -reach), torch.full_like(probabilities, reach)
        for _ in range(100):
            middle = 0.5 * (low + high)
            below = (self.weights * torch.special.ndtr((middle[:, None] - mean) / std)).sum(1)
            low = torch.where(below < probabilities, middle, low)
            high = torch.where(below < probabilities, high, middle)
        return 0.5 * (low + high)

    def wasserstein_1(self, samples: Tensor) -> float:
        """Wasserstein-1 distance of one-dimensional samples (n, 1) to the mixture."""
        n = len(samples)
        grid = (torch.arange(n, dtype=F64, device=samples.device) + 0.5) / n
        return float((samples[:, 0].to(F64).sort().values - self.quantiles(grid)).abs().mean())
