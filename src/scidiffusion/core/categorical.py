r"""Categorical diffusion: multinomial (uniform noise) and absorbing (masking).

Every variable is one of K classes; one process may hold several variables of different K, with
probabilities padded to the largest. With a = alpha_bar the kernels, for any s < t, are

    multinomial   q(z_t | z_s) = a_{t|s} 1[z_t = z_s] + (1 - a_{t|s}) / K
    absorbing     q(z_t | z_s) = a_{t|s} 1[z_t = z_s] + (1 - a_{t|s}) 1[z_t = mask]

The reverse kernel mixes the posterior over what x may be,

    p(z_s | z_t) = sum_k p(x = k | z_t) q(z_s | z_t, x = k),

which is the exact marginal (putting the probability vector in place of a one-hot x is not). For
uniform noise the sum over k collapses to O(K): with w_k = p_k / q(z_t | x = k),

    p(z_s = j | z_t) = q(z_t | z_s = j) (a_s w_j + (1 - a_s) / K sum_k w_k).

References:
    Hoogeboom et al. 2021, eqs. 11-15 (multinomial); Austin et al. 2021, appendix A.2 (D3PM).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from scidiffusion.core.distributions import Categorical, sum_rows
from scidiffusion.core.prediction import CategoricalPrediction
from scidiffusion.core.process import Corrupted, Process
from scidiffusion.core.rng import Noise
from scidiffusion.core.schedules import VPSchedule
from scidiffusion.errors import ConfigError, DataError


class CategoricalProcess(Process):
    """Common part of the two processes; see the module.

    Args:
        schedule: A variance preserving schedule: its alpha_bar is the probability that a class has
            survived.
        num_classes: K, for any number of variables, or K_1..K_D for states of shape (B, D).

    Raises:
        ConfigError: if a class count is below 2 (1 for one of several variables is allowed) or the
            schedule is not variance preserving.
    """

    def __init__(self, schedule: VPSchedule, num_classes: int | Sequence[int]) -> None:
        if not isinstance(schedule, VPSchedule):
            raise ConfigError(
                "a categorical process needs a schedule with alpha_bar in [0, 1], not "
                f"{schedule!r}"
            )
        single = not isinstance(num_classes, Sequence)
        counts = list(num_classes) if isinstance(num_classes, Sequence) else [num_classes]
        if not counts or any(
            isinstance(k, bool) or not isinstance(k, Integral) or k < 1 + single for k in counts
        ):
            raise ConfigError(
                "num_classes must be an integer >= 2, or a sequence of integers >= 1, got "
                f"{num_classes!r}"
            )
        self.schedule: VPSchedule = schedule
        counts = [int(k) for k in counts]
        self.num_classes = counts[0] if single else tuple(counts)
        self.max_classes = max(counts)
        # (D, K) or (K,): which of the padded classes exist.
        exists = torch.arange(self.max_classes) < torch.tensor(counts)[:, None]
        self._exists = exists[0] if single else exists

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.schedule!r}, num_classes={self.num_classes})"

    def exists(self, like: Tensor) -> Tensor:
        """Which padded classes exist, (K,) or (D, K) bool on the device of `like`."""
        if self._exists.device != like.device:
            self._exists = self._exists.to(like.device)
        return self._exists

    def _counts(self, like: Tensor, dtype: torch.dtype) -> Tensor:
        return self.exists(like).sum(-1, keepdim=True).to(dtype)

    def _alpha_bar(self, t: Tensor | float, like: Tensor) -> Tensor:
        """alpha_bar_t shaped to multiply `like` (B, ..., K)."""
        alpha_bar = self.schedule.log_alpha_bar(t).exp()
        return _shape(alpha_bar, like)

    def check(self, x: Tensor) -> None:
        """Raise DataError if `x` holds anything but classes of this process."""
        if x.is_floating_point():
            raise DataError(f"classes must be integers, got dtype {x.dtype}")
        limit = self._counts(x, torch.float64)[..., 0]
        if x.numel() and bool(((x < 0) | (x >= limit)).any()):
            raise DataError(f"classes must lie in 0..K-1 with K = {self.num_classes}")

    def encode(self, z: Tensor, dtype: torch.dtype) -> Tensor:
        """One-hot (B, ..., K) of the classes; all zero for the mask of an absorbing process."""
        hot = one_hot(z, self.max_classes + 1)[..., : self.max_classes]
        return hot.to(dtype)

    def predict(self, output: Tensor, z: Tensor, t: Tensor) -> CategoricalPrediction:
        """Read raw network outputs (B, ..., K) as logits of the clean class."""
        logits = output.masked_fill(~self.exists(z), -torch.inf)
        return CategoricalPrediction(z, torch.log_softmax(logits, -1))

    @abstractmethod
    def kernel(self, x: Tensor, t: Tensor, dtype: torch.dtype = torch.float64) -> Categorical:
        """Return the diffusion kernel q(z_t | x)."""

    @abstractmethod
    def mixture(self, p0: Tensor, z: Tensor, t: Tensor, s: Tensor) -> Categorical:
        """Return sum_k p0_k q(z_s | z_t, x = k), (B, ..., K or K + 1)."""

    def q_sample(self, x: Tensor, t: Tensor, noise: Noise) -> Corrupted:
        """Draw from the diffusion kernel; see `Process.q_sample`."""
        return Corrupted(self.kernel(x, t, torch.float32).sample(noise))

    def posterior(self, x: Tensor, z: Tensor, t: Tensor, s: Tensor) -> Categorical:
        """Return q(z_s | z_t, x): the mixture at a certain x."""
        return self.mixture(self.encode(x, torch.float64), z, t, s)

    def reverse(self, prediction: CategoricalPrediction, t: Tensor, s: Tensor) -> Categorical:
        """p(z_s | z_t), the posterior averaged over the predicted x; at s = 0 a draw of x."""
        return self.mixture(prediction.p0, prediction.z, t, s)

    def divergence(
        self, x: Tensor, z: Tensor, prediction: CategoricalPrediction, t: Tensor, s: Tensor
    ) -> Tensor:
        """KL(q(z_s | z_t, x) || p(z_s | z_t)), (B,) nats; at s = 0 it is -log p(x | z_t)."""
        p0 = prediction.p0
        posterior = self.mixture(self.encode(x, p0.dtype), z, t, s)
        return posterior.kl(Categorical(self.mixture(p0, z, t, s).probs.clamp(min=1e-30)))

    def reconstruction(self, x: Tensor, prediction: CategoricalPrediction, t: Tensor) -> Tensor:
        """log p(x | z_t) = sum of the log-probabilities of the clean classes, (B,) nats."""
        return sum_rows(prediction.log_p0.gather(-1, x[..., None])[..., 0])

    def cross_entropy(self, x: Tensor, prediction: CategoricalPrediction) -> Tensor:
        """-log p(x | z_t) of every variable, shape of x, nats."""
        return -prediction.log_p0.gather(-1, x[..., None])[..., 0]


def _shape(coefficient: Tensor, like: Tensor) -> Tensor:
    if coefficient.ndim:
        coefficient = coefficient.reshape(
            coefficient.shape + (1,) * (like.ndim - coefficient.ndim)
        )
    return coefficient.to(device=like.device, dtype=like.dtype)


def _shares(log_keep: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return keep and 1 - keep, shaped for `like`, both exact in single precision."""
    return _shape(log_keep.exp(), like), _shape(-torch.expm1(log_keep), like)


class MultinomialProcess(CategoricalProcess):
    """Uniform noise: a class is forgotten by jumping to any class with equal probability."""

    def prior(self, like: Tensor, noise: Noise) -> Tensor:
        """Uniform over the classes; see `Process.prior`."""
        exists = self.exists(like).expand(*like.shape, self.max_classes).to(torch.float32)
        return Categorical(exists / exists.sum(-1, keepdim=True)).sample(noise)

    def _uniform(self, like: Tensor, dtype: torch.dtype) -> Tensor:
        """1 / K on the classes that exist, 0 on the padding."""
        return self.exists(like).to(dtype) / self._counts(like, dtype)

    def _step(self, hot: Tensor, log_keep: Tensor) -> Tensor:
        """Return keep * hot + (1 - keep) / K: a row of the (symmetric) transition matrix."""
        keep, lose = _shares(log_keep, hot)
        return keep * hot + lose * self._uniform(hot, hot.dtype)

    def kernel(self, x: Tensor, t: Tensor, dtype: torch.dtype = torch.float64) -> Categorical:
        """q(z_t | x): alpha_bar on x and (1 - alpha_bar) / K everywhere."""
        return Categorical(self._step(self.encode(x, dtype), self.schedule.log_alpha_bar(t)))

    def forward_step(self, z: Tensor, s: Tensor, t: Tensor, noise: Noise) -> Tensor:
        """Draw from q(z_t | z_s); see `Process.forward_step`."""
        ratio = self.schedule.log_alpha_bar(t) - self.schedule.log_alpha_bar(s)
        return Categorical(self._step(self.encode(z, torch.float32), ratio)).sample(noise)

    def mixture(self, p0: Tensor, z: Tensor, t: Tensor, s: Tensor) -> Categorical:
        """See the module: O(K) in place of the K x K sum."""
        hot = self.encode(z, p0.dtype)
        log_t, log_s = self.schedule.log_alpha_bar(t), self.schedule.log_alpha_bar(s)
        likelihood = self._step(hot, log_t)
        weight = torch.where(likelihood > 0, p0 / likelihood.clamp(min=1e-38), 0.0)
        keep, lose = _shares(log_s, hot)
        uniform = self._uniform(hot, hot.dtype)
        inner = keep * weight + lose * uniform * weight.sum(-1, keepdim=True)
        probs = self._step(hot, log_t - log_s) * inner
        return Categorical(probs / probs.sum(-1, keepdim=True))

    def prior_divergence(self, x: Tensor) -> Tensor:
        """KL(q(z_1 | x) || uniform), (B,) nats."""
        last = self.kernel(x, torch.ones((), dtype=torch.float64))
        return last.kl(Categorical(self._uniform(x, torch.float64).expand_as(last.probs)))


class AbsorbingProcess(CategoricalProcess):
    """Masking: a class is forgotten by turning into the extra class `mask`, and stays so.

    A noisy state holds classes 0..K-1 or, for a masked variable, `max_classes`.
    """

    @property
    def mask(self) -> int:
        """Index of the absorbing class (the same for every variable)."""
        return self.max_classes

    def _prior(self, like: Tensor, dtype: torch.dtype) -> Categorical:
        """q(z_1) of uniform data: 1 - alpha_bar_1 on the mask, the rest on the classes."""
        keep = self._alpha_bar(1.0, like.to(dtype)[..., None])
        counts = self._counts(like, dtype)
        probs = keep * (self.exists(like).to(dtype) / counts).expand(*like.shape, -1)
        return Categorical(torch.cat([probs, 1 - probs.sum(-1, keepdim=True)], -1))

    def prior(self, like: Tensor, noise: Noise) -> Tensor:
        """All masked, but for the alpha_bar_1 that the schedule leaves; see `Process.prior`."""
        return self._prior(like, torch.float32).sample(noise)

    def kernel(self, x: Tensor, t: Tensor, dtype: torch.dtype = torch.float64) -> Categorical:
        """q(z_t | x) over K + 1 classes: alpha_bar on x, 1 - alpha_bar on the mask."""
        hot = self.encode(x, dtype)
        keep = self._alpha_bar(t, hot) * hot
        return Categorical(torch.cat([keep, 1 - keep.sum(-1, keepdim=True)], -1))

    def forward_step(self, z: Tensor, s: Tensor, t: Tensor, noise: Noise) -> Tensor:
        """Draw from q(z_t | z_s): mask each variable with probability 1 - a_{t|s}."""
        ratio = self.schedule.log_alpha_bar(t) - self.schedule.log_alpha_bar(s)
        uniform = noise.uniform(z.to(torch.float32))
        return torch.where(uniform < _shape(ratio.exp(), uniform), z, self.mask)

    def mixture(self, p0: Tensor, z: Tensor, t: Tensor, s: Tensor) -> Categorical:
        """A class stays; a masked one stays masked with probability (1 - a_s) / (1 - a_t)."""
        hot = self.encode(z, p0.dtype)
        masked = (z == self.mask)[..., None].to(p0.dtype)
        log_t, log_s = self.schedule.log_alpha_bar(t), self.schedule.log_alpha_bar(s)
        stay = _shape(torch.expm1(log_s) / torch.expm1(log_t), hot)
        return Categorical(torch.cat([hot + masked * (1 - stay) * p0, masked * stay], -1))

    def reconstruction(self, x: Tensor, prediction: CategoricalPrediction, t: Tensor) -> Tensor:
        """log p(x | z_t), (B,) nats: a class that is not masked is known."""
        known = prediction.z != self.mask
        return sum_rows(-self.cross_entropy(x, prediction).masked_fill(known, 0.0))

    def prior_divergence(self, x: Tensor) -> Tensor:
        """KL(q(z_1 | x) || p(z_1)) = alpha_bar_1 log K a variable, (B,) nats."""
        return self.kernel(x, torch.ones((), dtype=torch.float64)).kl(
            self._prior(x, torch.float64)
        )
