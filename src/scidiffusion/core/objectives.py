r"""Training objectives: how wrong a prediction is, one number a row.

For eps-prediction between adjacent nodes every Gaussian term of the ELBO is a weighted squared
error (Prince 2023, eq. 18.39; Bishop & Bishop 2024, eq. 20.37),

    L_{t-1} = beta^2 / ((1 - alpha_bar)(1 - beta) 2 sigma^2) ||eps - eps_hat||^2 (+ a constant
              where sigma^2 is not the posterior variance),

and the simple loss drops the weight. min-SNR and EDM weights are other choices of it.

References:
    Ho et al. 2020, eqs. 12 and 14; Nichol & Dhariwal 2021, eq. 16 (hybrid); Hang et al. 2023
    (min-SNR); Karras et al. 2022, eq. 8 and table 1 (EDM).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from scidiffusion.core.denoiser import Condition, Denoiser
from scidiffusion.core.distributions import sum_rows
from scidiffusion.core.gaussian import GaussianProcess
from scidiffusion.core.prediction import Parameterization, match, true_value
from scidiffusion.core.process import (
    Corrupted,
    Process,
    ProductProcess,
    State,
    batch_size,
    device_of,
)
from scidiffusion.core.rng import Noise
from scidiffusion.core.schedules import NoiseSchedule, as_time, check_option, check_steps
from scidiffusion.errors import ConfigError


def elbo_eps_weight(
    schedule: NoiseSchedule, t: Tensor, s: Tensor, variance: Tensor | None = None
) -> Tensor:
    """Weight of ||eps - eps_hat||^2 in the ELBO term L_s, any s < t with s > 0.

    Args:
        schedule: Noise schedule; between adjacent nodes of a VP schedule the weight is
            beta^2 / ((1 - alpha_bar)(1 - beta) 2 sigma^2).
        t: Times.
        s: Earlier times.
        variance: sigma^2 of the reverse kernel; None is the posterior variance.
    """
    step, later = schedule.transition(t, s), schedule.marginal(t)
    if variance is None:
        variance = step.var * schedule.marginal(s).var / later.var
    return step.var**2 / (later.var * step.scale**2 * 2 * variance)


class TimeSampler(ABC):
    """Draws the noise level that a training row is shown at."""

    @abstractmethod
    def __call__(self, schedule: NoiseSchedule, like: Tensor, noise: Noise) -> Tensor:
        """Return times in (0, 1] for the rows of `like`: (B,) float64."""


class UniformTime(TimeSampler):
    """Uniform over the nodes 1/T..1 of a discrete schedule, over (t_min, 1] of a continuous one.

    The draws are stratified (one uniform offset, rows spread evenly; Kingma et al. 2021, appendix
    I.1): each is uniform, and a batch covers all noise levels, which lowers the loss's variance.
    """

    def __call__(self, schedule: NoiseSchedule, like: Tensor, noise: Noise) -> Tensor:
        """See `TimeSampler.__call__`."""
        rows = batch_size(like)
        reference = torch.empty(rows, dtype=torch.float64, device=device_of(like))
        offset = noise.uniform(reference)[:1]
        strata = torch.arange(rows, dtype=torch.float64, device=reference.device) / rows
        uniform = (strata + offset) % 1.0
        if schedule.num_nodes is None:
            return schedule.t_min + (1 - schedule.t_min) * uniform
        return ((uniform * schedule.num_nodes).floor() + 1) / schedule.num_nodes


class LogNormalSigma(TimeSampler):
    """log sigma ~ N(mean, std^2) (Karras et al. 2022, table 1), for continuous schedules.

    Args:
        mean: Mean of log sigma.
        std: Standard deviation of log sigma.
    """

    def __init__(self, mean: float = -1.2, std: float = 1.2) -> None:
        if not std > 0:
            raise ConfigError(f"std must be positive, got {std}")
        self.mean, self.std = mean, std

    def __call__(self, schedule: NoiseSchedule, like: Tensor, noise: Noise) -> Tensor:
        """See `TimeSampler.__call__`."""
        reference = torch.empty(batch_size(like), dtype=torch.float64, device=device_of(like))
        log_sigma = self.mean + self.std * noise.normal(reference)
        return schedule.t_of_log_snr(-2 * log_sigma).clamp(min=schedule.t_min, max=1.0)


class Objective(ABC):
    """Interface: what is minimised, one number a row."""

    of_denoisers: ClassVar[bool] = True
    """False where any network will do, such as the encoder and decoder of an autoencoder."""

    @abstractmethod
    def __call__(
        self,
        denoiser: Any,
        x: State,
        noise: Noise,
        cond: Condition = None,
        t: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of every row, (B,).

        Args:
            denoiser: What is trained.
            x: Clean data.
            noise: Source of times and of noise.
            cond: Condition of each row.
            t: Times to use in place of random ones, (B,).
        """


class PredictionLoss(Objective):
    """The usual way: draw a time, corrupt, predict, compare.

    Args:
        times: How noise levels are drawn; default `UniformTime`.
    """

    def __init__(self, times: TimeSampler | None = None) -> None:
        self.times = times or UniformTime()

    def __call__(
        self,
        denoiser: Denoiser,
        x: State,
        noise: Noise,
        cond: Condition = None,
        t: Tensor | None = None,
    ) -> Tensor:
        """See `Objective.__call__`."""
        process = denoiser.process
        if t is None:
            t = self.times(process.schedule, x, noise.child("time"))
        corrupted = process.q_sample(x, t, noise)
        return self.loss(process, x, corrupted, denoiser(corrupted.z, t, cond), t)

    @abstractmethod
    def loss(
        self, process: Process, x: State, corrupted: Corrupted, prediction: Any, t: Tensor
    ) -> Tensor:
        """Return the loss of every row, (B,), given the prediction."""


class SimpleLoss(PredictionLoss):
    """Mean squared error of the noise over all dimensions: L_simple (Ho et al. 2020, eq. 14).

    Args:
        target: The quantity that is compared: "eps", "x0", "v" or "score".
        times: How noise levels are drawn.
    """

    def __init__(
        self,
        target: Parameterization | str = Parameterization.EPS,
        times: TimeSampler | None = None,
    ) -> None:
        super().__init__(times)
        self.target = check_option(Parameterization, target, "target")

    def loss(
        self, process: Process, x: Tensor, corrupted: Corrupted, prediction: Any, t: Tensor
    ) -> Tensor:
        """See `PredictionLoss.loss`."""
        process = _gaussian(process, self)
        truth = true_value(x, corrupted.eps, process.schedule.marginal(t), self.target)
        error = (prediction.target(self.target) - truth) ** 2
        return sum_rows(error) / process.dimension(x).clamp(min=1)


class ELBOLoss(PredictionLoss):
    """One term of the negative ELBO, times the number of steps: an unbiased estimate in nats.

    With a continuous schedule the chain is shifted by a random part of a step, and its last step
    leads from between `t_min` and `t_min` + 1 / steps to the data.

    Args:
        steps: Number of steps of the chain whose ELBO this is; None is T of a discrete schedule
            and 1000 for a continuous one. It must divide T.
        times: How noise levels are drawn; the estimate is unbiased for `UniformTime` only.
    """

    def __init__(self, steps: int | None = None, times: TimeSampler | None = None) -> None:
        super().__init__(times)
        self.steps = None if steps is None else check_steps(steps)

    def loss(
        self, process: Process, x: State, corrupted: Corrupted, prediction: Any, t: Tensor
    ) -> Tensor:
        """See `PredictionLoss.loss`."""
        schedule = process.schedule
        steps = self.steps or schedule.num_nodes or 1000
        s, length = previous(t, steps), 1.0
        if schedule.num_nodes is None:
            # Times are drawn from (t_min, 1]; a step never ends between t_min and the data.
            s, length = torch.where(s < schedule.t_min, 0.0, s), 1 - schedule.t_min
        elif schedule.num_nodes % steps:
            raise ConfigError(
                f"steps = {steps} does not divide the {schedule.num_nodes} steps of the schedule"
            )
        return steps * length * process.vlb_term(x, corrupted.z, prediction, t, s)


def previous(t: Tensor, steps: int) -> Tensor:
    """The node below t on the uniform grid of `steps` steps; 0 below the first."""
    t = as_time(t)
    below = ((t * steps).round() - 1).clamp(min=0) / steps
    return torch.where(
        (t * steps - (t * steps).round()).abs() < 1e-3, below, (t - 1 / steps).clamp(min=0)
    )


class MinSNRLoss(PredictionLoss):
    """x0 error weighted by min(SNR, gamma) (Hang et al. 2023), averaged over dimensions.

    Args:
        gamma: Cap of the weight.
        times: How noise levels are drawn.
    """

    def __init__(self, gamma: float = 5.0, times: TimeSampler | None = None) -> None:
        super().__init__(times)
        if not gamma > 0:
            raise ConfigError(f"gamma must be positive, got {gamma}")
        self.gamma = gamma

    def loss(
        self, process: Process, x: Tensor, corrupted: Corrupted, prediction: Any, t: Tensor
    ) -> Tensor:
        """See `PredictionLoss.loss`; computed as min(1, gamma / SNR) times the eps error."""
        process = _gaussian(process, self)
        snr = process.schedule.log_snr(t).exp().to(x.device, x.dtype)
        error = sum_rows((prediction.eps - corrupted.eps) ** 2) / process.dimension(x).clamp(min=1)
        return (self.gamma / snr).clamp(max=1.0) * error


class EDMLoss(PredictionLoss):
    """x0 error weighted by (sigma^2 + sd^2) / (sigma sd)^2 (Karras et al. 2022, eq. 8).

    Args:
        sigma_data: Standard deviation sd of the data.
        times: How noise levels are drawn; default `LogNormalSigma`.
    """

    def __init__(self, sigma_data: float | Tensor = 1.0, times: TimeSampler | None = None) -> None:
        super().__init__(times or LogNormalSigma())
        self.sigma_data = torch.as_tensor(sigma_data, dtype=torch.float32)
        if not bool((self.sigma_data > 0).all()):
            raise ConfigError(f"sigma_data must be positive, got {sigma_data}")

    def loss(
        self, process: Process, x: Tensor, corrupted: Corrupted, prediction: Any, t: Tensor
    ) -> Tensor:
        """See `PredictionLoss.loss`."""
        process = _gaussian(process, self)
        sigma = match(process.schedule.marginal(t).sigma, x)
        sd = self.sigma_data.to(x)
        weight = (sigma**2 + sd**2) / (sigma * sd) ** 2
        return sum_rows(weight * (prediction.x0 - x) ** 2) / process.dimension(x).clamp(min=1)


class HybridLoss(PredictionLoss):
    """L_simple + weight L_vlb, which trains the variance and leaves the mean alone.

    Nichol & Dhariwal 2021, eq. 16: the variational term sees the mean detached.

    Args:
        weight: Weight of the variational term.
        times: How noise levels are drawn.
        target: The quantity that the simple loss compares.
    """

    def __init__(
        self,
        weight: float = 0.001,
        times: TimeSampler | None = None,
        target: Parameterization | str = Parameterization.EPS,
    ) -> None:
        super().__init__(times)
        self.weight = weight
        self._simple, self._elbo = SimpleLoss(target), ELBOLoss()

    def loss(
        self, process: Process, x: Tensor, corrupted: Corrupted, prediction: Any, t: Tensor
    ) -> Tensor:
        """See `PredictionLoss.loss`."""
        frozen = replace(prediction, value=prediction.value.detach())
        simple = self._simple.loss(process, x, corrupted, prediction, t)
        return simple + self.weight * self._elbo.loss(process, x, corrupted, frozen, t)


class ProductLoss(PredictionLoss):
    """Weighted sum of one objective a part, for a `ProductProcess`; one time for all parts.

    Args:
        parts: Name -> objective of that part (their own `times` are not used).
        weights: Name -> weight; default 1 each.
        times: How noise levels are drawn.

    Raises:
        ConfigError: if the names of parts, weights and the process's parts differ.
    """

    def __init__(
        self,
        parts: Mapping[str, PredictionLoss],
        weights: Mapping[str, float] | None = None,
        times: TimeSampler | None = None,
    ) -> None:
        super().__init__(times)
        self.parts = dict(parts)
        self.weights = dict.fromkeys(parts, 1.0) | dict(weights or {})
        if self.weights.keys() != self.parts.keys():
            unknown = sorted(self.weights.keys() - self.parts.keys())
            raise ConfigError(f"weights for parts that do not exist: {unknown}")

    def loss(
        self, process: Process, x: State, corrupted: Corrupted, prediction: Any, t: Tensor
    ) -> Tensor:
        """See `PredictionLoss.loss`."""
        if not isinstance(process, ProductProcess):
            raise ConfigError(f"ProductLoss needs a ProductProcess, not {process!r}")
        if process.parts.keys() != self.parts.keys():
            raise ConfigError(
                f"the objectives {sorted(self.parts)} and the parts {sorted(process.parts)} of "
                "the process must have the same names"
            )
        total = torch.zeros(batch_size(x), device=device_of(x))
        for name, objective in self.parts.items():
            part = Corrupted(corrupted.z[name], corrupted.eps[name])
            loss = objective.loss(process.parts[name], x[name], part, prediction[name], t)
            total = total + self.weights[name] * loss
        return total


def _gaussian(process: Process, objective: Objective) -> GaussianProcess:
    if not isinstance(process, GaussianProcess):
        raise ConfigError(
            f"{type(objective).__name__} compares noise and needs a Gaussian process, not "
            f"{process!r}; use ELBOLoss, or ProductLoss for a product"
        )
    return process
