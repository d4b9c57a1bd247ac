r"""Diffusion of angles: the wrapped normal on the circle, and on the torus angle by angle.

The heat kernel of the circle is the wrapped normal of variance v (Jing et al. 2022, section 3.2),
and it has two expansions that Poisson summation makes equal:

    K(a; v) = sum_k N(a + 2 pi k; 0, v)                            images: quick for small v
            = (1 / 2 pi) (1 + 2 sum_n exp(-n^2 v / 2) cos(n a))    Fourier: quick for large v

At v = pi five terms of either are exact to rounding. Given x and z_t, the path between them winds
around the circle m more times with probability w_m, and for a given m all is Gaussian:

    q(z_s | z_t, x) = sum_m w_m WN(x + (v_s / v_t)(d + 2 pi m), v_s v_{t|s} / v_t),
    w_m ∝ exp(-(d + 2 pi m)^2 / (2 v_t)),    d = z_t - x.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scidiffusion.core.distributions import Categorical, Distribution, sum_rows
from scidiffusion.core.manifold import ManifoldProcess, half_circle, mode_between
from scidiffusion.core.prediction import ScorePrediction
from scidiffusion.core.rng import Noise
from scidiffusion.core.schedules import as_time

TWO_PI = 2 * math.pi
SWITCH = math.pi
"""Variance at which the two expansions change places; both are exact to 1e-16 there."""
_IMAGES = (-2, -1, 0, 1, 2)
_HARMONICS = (1, 2, 3, 4, 5)


def wrap(angle: Tensor) -> Tensor:
    """Return the angle in [-pi, pi) that differs from `angle` by full turns (exact inside)."""
    wrapped = angle - TWO_PI * torch.floor((angle + math.pi) / TWO_PI)
    # Rounding may leave the result an ulp outside.
    return torch.where(wrapped >= math.pi, -math.pi, wrapped.clamp(min=-math.pi))


def _as_var(var: Tensor | float, like: Tensor) -> Tensor:
    return torch.as_tensor(var, dtype=torch.result_type(like, 1.0), device=like.device)


def wrapped_normal_log_prob(angle: Tensor, var: Tensor | float) -> Tensor:
    """Log-density of the wrapped normal with mean 0.

    Args:
        angle: (...) radians, any real number.
        var: Variance before wrapping, positive, broadcastable.

    Returns:
        (...) nats; exact to 1e-12 (relative to the largest term) in float64 for every variance.
    """
    angle, var = wrap(angle), _as_var(var, angle)
    # Each branch sees only variances that it can handle, so that gradients stay finite in both.
    small, large = var.clamp(max=SWITCH), var.clamp(min=SWITCH)
    exponents = [-((angle + TWO_PI * k) ** 2) / (2 * small) for k in _IMAGES]
    images = torch.logsumexp(torch.stack(exponents), 0) - 0.5 * torch.log(TWO_PI * small)
    series = _harmonic_sum(angle, large) - math.log(TWO_PI)
    return torch.where(var < SWITCH, images, series)


def _harmonic_sum(angle: Tensor, var: Tensor) -> Tensor:
    terms = [torch.exp(-0.5 * n**2 * var) * torch.cos(n * angle) for n in _HARMONICS]
    return torch.log1p(2 * torch.stack(terms).sum(0))


def wrapped_normal_score(angle: Tensor, var: Tensor | float) -> Tensor:
    """Derivative of `wrapped_normal_log_prob` by the angle, as exact as that; same arguments."""
    angle, var = wrap(angle), _as_var(var, angle)
    small, large = var.clamp(max=SWITCH), var.clamp(min=SWITCH)
    positions = torch.stack([angle + TWO_PI * k for k in _IMAGES])
    weights = torch.softmax(-(positions**2) / (2 * small), 0)
    images = -(weights * positions).sum(0) / small
    terms = [-2 * n * torch.exp(-0.5 * n**2 * large) * torch.sin(n * angle) for n in _HARMONICS]
    series = torch.stack(terms).sum(0) * torch.exp(-_harmonic_sum(angle, large))
    return torch.where(var < SWITCH, images, series)


@dataclass(frozen=True)
class WrappedNormal(Distribution):
    """Independent wrapped normals.

    Args:
        mean: (B, ...) radians.
        var: Variance before wrapping, broadcastable to `mean`; 0 makes `sample` return the mean.
    """

    mean: Tensor
    var: Tensor

    def sample(self, noise: Noise) -> Tensor:
        """Wrap(mean + sqrt(var) noise), in [-pi, pi)."""
        return wrap(self.mean + self.var.sqrt() * noise.normal(self.mean))

    @property
    def mode(self) -> Tensor:
        """The mean, in [-pi, pi)."""
        return wrap(self.mean)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats per radian^D, (B,); meaningless where var is 0."""
        return sum_rows(wrapped_normal_log_prob(x - self.mean, self.var))


@dataclass(frozen=True)
class TorusPosterior(Distribution):
    """q(z_s | z_t, x): a wrapped mixture over winding numbers; see the module.

    Args:
        x: (B, ...) clean angles.
        z: (B, ...) noisy angles z_t.
        var_s: v_s, broadcastable to `x`; 0 makes the distribution a point at x.
        var_step: v_{t|s}, positive, broadcastable to `x`.
    """

    x: Tensor
    z: Tensor
    var_s: Tensor
    var_step: Tensor

    @property
    def component_var(self) -> Tensor:
        """v_s v_{t|s} / v_t, the variance of every component."""
        return self.var_s * self.var_step / (self.var_s + self.var_step)

    def windings(self) -> tuple[Tensor, Tensor]:
        """Return means before wrapping and weights of the components, (B, ..., 2 K + 1).

        K is chosen so that the windings left out have a weight below 1e-17.
        """
        var_t = self.var_s + self.var_step
        reach = math.ceil(9 * math.sqrt(float(var_t.max())) / TWO_PI) + 1
        turns = torch.arange(-reach, reach + 1, dtype=self.x.dtype, device=self.x.device)
        way = wrap(self.z - self.x)[..., None] + TWO_PI * turns
        weights = torch.softmax(-(way**2) / (2 * var_t[..., None]), -1)
        return self.x[..., None] + (self.var_s / var_t)[..., None] * way, weights

    def sample(self, noise: Noise) -> Tensor:
        """Draw a winding number, then the Gaussian it leaves."""
        means, weights = self.windings()
        winding = Categorical(weights).sample(noise.child("winding"))
        mean = means.gather(-1, winding[..., None])[..., 0]
        return wrap(mean + self.component_var.sqrt() * noise.normal(mean))

    @property
    def mode(self) -> Tensor:
        """The most probable angle, on the shorter arc from x to z_t."""
        way = wrap(self.z - self.x)
        var_s = self.var_s.clamp(min=1e-30)
        distance = mode_between(
            way.abs(),
            lambda a: wrapped_normal_score(a, var_s),
            lambda a: wrapped_normal_score(a, self.var_step),
        )
        return wrap(self.x + torch.sign(way) * distance)

    def log_density(self, angle: Tensor) -> Tensor:
        """Log-density of every angle by Bayes' rule; `angle` may have one more last dimension."""
        extra = (1,) * (angle.ndim - self.x.ndim)

        def shaped(value: Tensor) -> Tensor:
            return value.reshape(value.shape + extra)

        evidence = wrapped_normal_log_prob(self.z - self.x, self.var_s + self.var_step)
        return (
            wrapped_normal_log_prob(angle - shaped(self.x), shaped(self.var_s))
            + wrapped_normal_log_prob(shaped(self.z) - angle, shaped(self.var_step))
            - shaped(evidence)
        )

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats per radian^D, (B,), exact; meaningless where v_s is 0."""
        return sum_rows(self.log_density(x))


class TorusProcess(ManifoldProcess):
    """Variance exploding diffusion of independent angles (B, ...), in radians in [-pi, pi).

    Args:
        schedule: A schedule with scale 1; default `VESchedule(0.01 pi, pi)`, which leaves a
            divergence of 5e-5 nats an angle from the uniform prior.
        variance: Variance of the reverse kernel, "posterior" or "beta".

    Raises:
        ConfigError: if the schedule scales its data or `variance` is unknown.
    """

    point_dims = 0
    tangent_dims = 0

    def exp(self, z: Tensor, tangent: Tensor) -> Tensor:
        """Wrap(z + tangent)."""
        return wrap(z + tangent)

    def log(self, x: Tensor, z: Tensor) -> Tensor:
        """Wrap(z - x)."""
        return wrap(z - x)

    def heat_kernel(self, mean: Tensor, var: Tensor) -> WrappedNormal:
        """The wrapped normal."""
        return WrappedNormal(mean, var)

    def score_of(self, tangent: Tensor, var: Tensor) -> Tensor:
        """See `wrapped_normal_score`."""
        return wrapped_normal_score(tangent, var)

    def expected_square(self, var: Tensor) -> Tensor:
        """E score^2 of the wrapped normal, by quadrature; near 1 / var while var is small."""
        angle, weight = half_circle(var.sqrt(), 64)
        density = wrapped_normal_log_prob(angle, var[..., None]).exp()
        return 2 * (weight * density * wrapped_normal_score(angle, var[..., None]) ** 2).sum(-1)

    def prior(self, like: Tensor, noise: Noise) -> Tensor:
        """Uniform on [-pi, pi); see `Process.prior`."""
        return wrap(TWO_PI * noise.uniform(like) - math.pi)

    def posterior(self, x: Tensor, z: Tensor, t: Tensor, s: Tensor) -> TorusPosterior:
        """Return q(z_s | z_t, x), exact; see the module."""
        return TorusPosterior(x, z, self.var(s, x), self.step_var(t, s, x))

    def divergence(
        self, x: Tensor, z: Tensor, prediction: ScorePrediction, t: Tensor, s: Tensor
    ) -> Tensor:
        """KL(q(z_s | z_t, x) || p(z_s | z_t)), (B,) nats; finite but meaningless where s = 0.

        There is no closed form. The trapezoidal rule over each winding's Gaussian (137 nodes, one
        eighth of its standard deviation apart) is exact to 1e-6 in float64, unless the prediction
        points to the opposite side of a posterior much narrower than the circle: there the result,
        which is then thousands of nats, has a relative error of some 1e-5.
        """
        s = torch.where(as_time(s) <= 0, 0.5 * as_time(t), as_time(s))
        posterior = self.posterior(x, z, t, s)
        mean = self.reverse_mean(prediction, t, s)[..., None]
        var = self.reverse_var(t, s, z)[..., None]
        node = torch.linspace(-8.5, 8.5, 137, dtype=x.dtype, device=x.device)
        rule = torch.softmax(-0.5 * node**2, 0)
        std = posterior.component_var.sqrt()[..., None]
        total = torch.zeros_like(x)
        means, weights = posterior.windings()
        for centre, weight in zip(means.unbind(-1), weights.unbind(-1), strict=True):
            angle = centre[..., None] + std * node
            log_p = wrapped_normal_log_prob(angle - mean, var)
            total = total + weight * (rule * (posterior.log_density(angle) - log_p)).sum(-1)
        return sum_rows(total)

    def prior_divergence(self, x: Tensor) -> Tensor:
        """KL(q(z_1 | x) || uniform), (B,) nats, by quadrature exact to 1e-12."""
        var = self.schedule.marginal(1.0).var
        angle, weight = half_circle(var.sqrt())
        log_prob = wrapped_normal_log_prob(angle, var)
        kl = 2 * (weight * log_prob.exp() * (log_prob + math.log(TWO_PI))).sum()
        return torch.full(
            (x.shape[0],), float(kl) * self.num_points(x), dtype=x.dtype, device=x.device
        )
