r"""Gaussian diffusion: z_t = scale_t x + std_t eps, and its zero-centre-of-mass variant.

With scale_{t|s}, var_{t|s} the transition q(z_t | z_s), for any s < t,

    q(z_s | z_t, x) = N(mean, posterior_var),
    mean          = (scale_{t|s} std_s^2 z_t + scale_s var_{t|s} x) / std_t^2
    posterior_var = var_{t|s} std_s^2 / std_t^2                              (beta tilde)

(Ho et al. 2020, eqs. 6-7; Prince 2023, eq. 18.15; Bishop & Bishop 2024, eqs. 20.16-20.17 between
adjacent nodes.) The reverse kernel has the same mean with x replaced by its prediction, and a
variance of choice, `ReverseVariance`.
"""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor

from scidiffusion.core.distributions import Gaussian, sum_rows
from scidiffusion.core.prediction import Parameterization, Prediction, match
from scidiffusion.core.process import Corrupted, Process
from scidiffusion.core.rng import Noise
from scidiffusion.core.schedules import NoiseSchedule, as_time, check_option
from scidiffusion.errors import ConfigError


class ReverseVariance(StrEnum):
    """The variance of p(z_s | z_t).

    BETA is var_{t|s} ("fixed large", sigma_t^2 = beta_t), POSTERIOR is beta tilde ("fixed small"),
    LEARNED interpolates between their logarithms by a network output (Nichol & Dhariwal 2021,
    eq. 15), OPTIMAL adds to beta tilde what the uncertainty of x contributes (Bao et al. 2022,
    eq. 7), which needs `Prediction.x0_var`.
    """

    BETA = "beta"
    POSTERIOR = "posterior"
    LEARNED = "learned"
    OPTIMAL = "optimal"


class GaussianProcess(Process):
    """Gaussian noising of R^d; see the module for the equations.

    Args:
        schedule: Noise schedule.
        variance: Variance of the reverse kernel.
        parameterization: What a network's raw output means to `predict`.
        bin_width: Width of the data's bins where the data are discretised (2/255 for 8-bit images
            in [-1, 1]); the reconstruction term is then a probability (Ho et al. 2020, eq. 13).
            None: a density.

    Raises:
        ConfigError: for an unknown option, or eps- or score-prediction with a schedule that leaves
            no signal at t = 1, where x0 cannot be recovered from eps.
    """

    linear = True

    def __init__(
        self,
        schedule: NoiseSchedule,
        *,
        variance: ReverseVariance | str = ReverseVariance.POSTERIOR,
        parameterization: Parameterization | str = Parameterization.EPS,
        bin_width: float | None = None,
    ) -> None:
        self.schedule = schedule
        self.variance = check_option(ReverseVariance, variance, "variance")
        self.parameterization = check_option(
            Parameterization, parameterization, "parameterization"
        )
        if bin_width is not None and not bin_width > 0:
            raise ConfigError(f"bin_width must be positive, got {bin_width}")
        self.bin_width = bin_width
        if schedule.terminal_snr == 0 and self.parameterization in ("eps", "score"):
            raise ConfigError(
                f"{self.parameterization.value}-prediction is undefined with zero terminal SNR "
                "(x0 = (z - std eps) / 0 at t = 1); use parameterization='v' or 'x0'"
            )

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.schedule!r}, variance={self.variance.value!r}, "
            f"parameterization={self.parameterization.value!r})"
        )

    def project(self, value: Tensor) -> Tensor:
        """Project onto the space the process lives in (here all of R^d)."""
        return value

    def dimension(self, like: Tensor) -> Tensor:
        """Number of degrees of freedom of each row, (B,) float."""
        return torch.full((like.shape[0],), like[0].numel(), dtype=like.dtype, device=like.device)

    def gaussian(self, mean: Tensor, var: Tensor) -> Gaussian:
        """N(mean, var) on the space of the process."""
        return Gaussian(mean, var)

    def draw(self, like: Tensor, noise: Noise) -> Tensor:
        """Draw standard normal noise of the space of the process."""
        return self.project(noise.normal(like))

    def prior(self, like: Tensor, noise: Noise) -> Tensor:
        """N(0, prior_std^2 I); see `Process.prior`."""
        return self.schedule.prior_std * self.draw(like, noise)

    def kernel(self, x: Tensor, t: Tensor) -> Gaussian:
        """Return the diffusion kernel q(z_t | x) = N(scale_t x, std_t^2 I)."""
        marginal = self.schedule.marginal(t)
        return self.gaussian(match(marginal.scale, x) * x, match(marginal.var, x))

    def q_sample(self, x: Tensor, t: Tensor, noise: Noise) -> Corrupted:
        """z_t = scale_t x + std_t eps; see `Process.q_sample`."""
        marginal = self.schedule.marginal(t)
        eps = self.draw(x, noise)
        return Corrupted(match(marginal.scale, x) * x + match(marginal.std, x) * eps, eps)

    def forward_step(self, z: Tensor, s: Tensor, t: Tensor, noise: Noise) -> Tensor:
        """z_t = scale_{t|s} z_s + sqrt(var_{t|s}) eps; see `Process.forward_step`."""
        step = self.schedule.transition(t, s)
        return match(step.scale, z) * z + match(step.var.sqrt(), z) * self.draw(z, noise)

    def posterior(self, x: Tensor, z: Tensor, t: Tensor, s: Tensor) -> Gaussian:
        """Return q(z_s | z_t, x); see the module."""
        later, earlier = self.schedule.marginal(t), self.schedule.marginal(s)
        step = self.schedule.transition(t, s)
        weight_z = step.scale * earlier.var / later.var
        weight_x = earlier.scale * step.var / later.var
        var = step.var * earlier.var / later.var
        return self.gaussian(match(weight_z, z) * z + match(weight_x, z) * x, match(var, z))

    def reverse_variance(self, prediction: Prediction, t: Tensor, s: Tensor) -> Tensor:
        """Variance of p(z_s | z_t) for s > 0, broadcastable to z; see `ReverseVariance`."""
        z = prediction.z
        later, earlier = self.schedule.marginal(t), self.schedule.marginal(s)
        beta = self.schedule.transition(t, s).var
        posterior_var = beta * earlier.var / later.var
        match self.variance:
            case ReverseVariance.BETA:
                return match(beta, z)
            case ReverseVariance.POSTERIOR:
                return match(posterior_var, z)
            case ReverseVariance.LEARNED:
                if prediction.log_var_fraction is None:
                    raise ConfigError(
                        "variance='learned' needs a denoiser with learned_variance=True"
                    )
                # At s = 0 beta tilde is 0 and has no logarithm. Nichol & Dhariwal use the next
                # node's value there, which for slowly varying betas is beta / 2.
                low = match(torch.maximum(posterior_var, 0.5 * beta * (as_time(s) <= 0)).log(), z)
                return torch.exp(low + prediction.log_var_fraction * (match(beta.log(), z) - low))
            case ReverseVariance.OPTIMAL:
                if prediction.x0_var is None:
                    raise ConfigError(
                        "variance='optimal' needs Prediction.x0_var: wrap the denoiser in "
                        "AnalyticVariance, fitted on data"
                    )
                weight_x = match((earlier.scale * beta / later.var) ** 2, z)
                return match(posterior_var, z) + weight_x * prediction.x0_var

    def reverse(self, prediction: Prediction, t: Tensor, s: Tensor) -> Gaussian:
        """p(z_s | z_t): the posterior's mean at the predicted x0; no noise where s = 0."""
        mean = self.posterior(prediction.x0, prediction.z, t, s).mean
        var = self.reverse_variance(prediction, t, s)
        return self.gaussian(mean, torch.where(match(as_time(s), mean) <= 0, 0.0, var))

    def divergence(
        self, x: Tensor, z: Tensor, prediction: Prediction, t: Tensor, s: Tensor
    ) -> Tensor:
        """KL between the two Gaussians, (B,) nats; meaningless but finite in rows with s = 0."""
        posterior = self.posterior(x, z, t, s)
        mean = self.posterior(prediction.x0, z, t, s).mean
        var = self.reverse_variance(prediction, t, s)
        at_data = match(as_time(s), mean) <= 0
        # Both variances vanish at s = 0; ones keep the discarded value and its gradient finite.
        q = self.gaussian(posterior.mean, torch.where(at_data, 1.0, posterior.var))
        return q.kl(self.gaussian(mean, torch.where(at_data, 1.0, var)))

    def decoder(self, prediction: Prediction, t: Tensor) -> Gaussian:
        """Return p(x | z_t) of the last step: N(x0, reverse variance from t to 0).

        The posterior variance is 0 there, so that choice uses var_{t|0} as "beta" does.
        """
        zero = torch.zeros_like(as_time(t))
        if self.variance is ReverseVariance.POSTERIOR:
            var = match(self.schedule.transition(t, zero).var, prediction.z)
        else:
            var = self.reverse_variance(prediction, t, zero)
        return self.gaussian(prediction.x0, var)

    def reconstruction(self, x: Tensor, prediction: Prediction, t: Tensor) -> Tensor:
        """log p(x | z_t), (B,) nats: a density, or a probability where `bin_width` is given."""
        decoder = self.decoder(prediction, t)
        if self.bin_width is None:
            return decoder.log_prob(x)
        log_prob = discretized_gaussian_log_prob(x, decoder.mean, decoder.var, self.bin_width)
        return sum_rows(log_prob)

    def prior_divergence(self, x: Tensor) -> Tensor:
        """KL(q(z_1 | x) || N(0, prior_std^2 I)), (B,) nats."""
        prior_var = torch.full((), self.schedule.prior_std**2, dtype=x.dtype, device=x.device)
        return self.kernel(x, torch.ones((), dtype=torch.float64)).kl(
            self.gaussian(torch.zeros_like(x), prior_var)
        )

    def predict(self, output: Tensor, z: Tensor, t: Tensor) -> Prediction:
        """Read a raw network output in the process's parameterisation."""
        return Prediction(
            z, self.schedule.marginal(t), self.project(output), self.parameterization
        )

    def prediction(self, z: Tensor, t: Tensor, **known: Tensor) -> Prediction:
        """Build a prediction from one of eps=, x0=, v=, score= (each (B, ...)).

        Raises:
            ConfigError: unless exactly one is given.
        """
        if len(known) != 1:
            raise ConfigError("give exactly one of eps=, x0=, v=, score=")
        ((name, value),) = known.items()
        kind = check_option(Parameterization, name, "prediction")
        return Prediction(z, self.schedule.marginal(t), value, kind)


def discretized_gaussian_log_prob(
    x: Tensor, mean: Tensor, var: Tensor, bin_width: float, low: float = -1.0, high: float = 1.0
) -> Tensor:
    """Log-probability that a Gaussian falls into the bin around x (Ho et al. 2020, eq. 13).

    Args:
        x: Centre of the bin. The bins at `low` and `high` reach to infinity.
        mean: Mean, of x's shape.
        var: Variance, broadcastable.
        bin_width: Width of a bin.
        low: Smallest bin centre.
        high: Largest bin centre.

    Returns:
        Log-probabilities of x's shape; they sum to 1 over all bins.
    """
    std = var.sqrt()
    upper = torch.where(
        x >= high - 1e-6 * bin_width, torch.inf, (x + 0.5 * bin_width - mean) / std
    )
    lower = torch.where(
        x <= low + 1e-6 * bin_width, -torch.inf, (x - 0.5 * bin_width - mean) / std
    )
    # Mirror the bin into the left tail, where log_ndtr keeps its precision.
    mirrored = lower > 0
    upper, lower = torch.where(mirrored, -lower, upper), torch.where(mirrored, -upper, lower)
    log_upper, log_lower = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
    gap = (log_lower - log_upper).clamp(max=-1e-12)
    return log_upper + torch.log(-torch.expm1(gap))
