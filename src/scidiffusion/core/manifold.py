r"""Diffusion on a compact manifold: the heat kernel in place of the Gaussian.

Variance exploding noise has no drift, so the forward process is Brownian motion and its kernels
form a semigroup: with v_t = std_t^2 and v_{t|s} = v_t - v_s,

    q(z_t | x) = K(x, z_t; v_t),    q(z_t | z_s) = K(z_s, z_t; v_{t|s}),
    q(z_s | z_t, x) = K(x, z_s; v_s) K(z_s, z_t; v_{t|s}) / K(x, z_t; v_t).

The last line is Bayes' rule, and its constant is known because K(., .; v_s) followed by
K(., .; v_{t|s}) is K(., .; v_t). The prior is the uniform distribution, the limit of large v.

The reverse kernel is a geodesic random walk (Jing et al. 2022, algorithm 2; De Bortoli et al.
2022): move along the geodesic by v_{t|s} score, then add noise by a heat kernel.

This module holds what the circle (`scidiffusion.core.torus`) and the rotations
(`scidiffusion.core.so3`) share. The network's output is read as the score over its root mean
square, which is of order 1 at every noise level: near 1 / std_t while std_t is small, and next to
nothing where the kernel is nearly uniform, where std_t times the score would ask for outputs that
vanish.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from enum import StrEnum

import torch
from torch import Tensor

from scidiffusion.core.distributions import Distribution
from scidiffusion.core.prediction import ScorePrediction, match
from scidiffusion.core.process import Corrupted, Process
from scidiffusion.core.rng import Noise
from scidiffusion.core.schedules import NoiseSchedule, VESchedule, as_time, check_option
from scidiffusion.errors import ConfigError


class NoClosedFormError(ConfigError):
    """A process was asked for a quantity that has no closed form on its space."""


class WalkVariance(StrEnum):
    """Variance of a reverse step: v_{t|s} (BETA) or v_{t|s} v_s / v_t (POSTERIOR)."""

    BETA = "beta"
    POSTERIOR = "posterior"


class ManifoldProcess(Process):
    """Brownian motion on a compact manifold; see the module.

    Args:
        schedule: A schedule with scale 1; default `VESchedule(0.01 pi, pi)`.
        variance: Variance of the reverse kernel, "posterior" or "beta".

    Raises:
        ConfigError: if the schedule scales its data, which a point of a manifold cannot be, or
            `variance` is unknown.
    """

    point_dims: int
    """Trailing dimensions that one point takes: 0 for an angle, 2 for a rotation matrix."""
    tangent_dims: int
    """Trailing dimensions that one tangent vector takes."""

    def __init__(
        self,
        schedule: NoiseSchedule | None = None,
        *,
        variance: WalkVariance | str = WalkVariance.POSTERIOR,
    ) -> None:
        self.schedule = schedule or VESchedule(sigma_min=0.01 * math.pi, sigma_max=math.pi)
        self.variance = check_option(WalkVariance, variance, "variance")
        if any(float(self.schedule.marginal(t).scale) != 1 for t in (0.5, 1.0)):
            raise ConfigError(
                f"{type(self).__name__} needs a schedule with scale 1, such as VESchedule: points "
                f"of a manifold cannot be scaled down as {self.schedule!r} does"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.schedule!r}, variance={self.variance.value!r})"

    @abstractmethod
    def exp(self, z: Tensor, tangent: Tensor) -> Tensor:
        """Walk from `z` along the geodesic with initial velocity `tangent` for unit time."""

    @abstractmethod
    def log(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the shortest tangent vector at `x` that leads to `z`."""

    @abstractmethod
    def heat_kernel(self, mean: Tensor, var: Tensor) -> Distribution:
        """Return K(mean, .; var); `var` is broadcastable to one number a point."""

    @abstractmethod
    def score_of(self, tangent: Tensor, var: Tensor) -> Tensor:
        """Score of K(x, z; var) at z, given the tangent vector log_x(z)."""

    @abstractmethod
    def expected_square(self, var: Tensor) -> Tensor:
        """E ||score||^2 of one point under K(., .; var); shape of `var`."""

    def _points(self, like: Tensor) -> Tensor:
        """One number a point of a state: its shape is what coefficients are matched with."""
        for _ in range(self.point_dims):
            like = like[..., 0]
        return like

    def at_points(self, coefficient: Tensor, like: Tensor) -> Tensor:
        """Shape a scalar or (B,) coefficient so that it multiplies one number a point."""
        return match(coefficient, self._points(like)).to(like.device)

    def at_tangents(self, coefficient: Tensor) -> Tensor:
        """Shape a coefficient of one number a point so that it multiplies tangent vectors."""
        return coefficient.reshape(coefficient.shape + (1,) * self.tangent_dims)

    def num_points(self, like: Tensor) -> int:
        """Number of points (angles, rotations) of a row."""
        return self._points(like)[0].numel()

    def var(self, t: Tensor, like: Tensor) -> Tensor:
        """v_t = std_t^2, broadcastable to one number a point."""
        return self.at_points(self.schedule.marginal(t).var, like)

    def step_var(self, t: Tensor, s: Tensor, like: Tensor) -> Tensor:
        """v_{t|s}, broadcastable to one number a point."""
        return self.at_points(self.schedule.transition(t, s).var, like)

    def kernel(self, x: Tensor, t: Tensor) -> Distribution:
        """Return the diffusion kernel q(z_t | x)."""
        return self.heat_kernel(x, self.var(t, x))

    def kernel_score(self, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """Return grad_z log q(z_t | x)."""
        return self.score_of(self.log(x, z), self.var(t, x))

    def q_sample(self, x: Tensor, t: Tensor, noise: Noise) -> Corrupted:
        """Draw from the kernel; `eps` is the displacement log_x(z). See `Process.q_sample`."""
        z = self.kernel(x, t).sample(noise)
        return Corrupted(z, self.log(x, z))

    def forward_step(self, z: Tensor, s: Tensor, t: Tensor, noise: Noise) -> Tensor:
        """Draw from K(z_s, .; v_{t|s}); see `Process.forward_step`."""
        drawn: Tensor = self.heat_kernel(z, self.step_var(t, s, z)).sample(noise)
        return drawn

    def reverse_mean(self, prediction: ScorePrediction, t: Tensor, s: Tensor) -> Tensor:
        """The point to which the walk moves before noise is added: exp_z(v_{t|s} score)."""
        step = self.at_tangents(self.step_var(t, s, prediction.z))
        return self.exp(prediction.z, step * prediction.score)

    def reverse_var(self, t: Tensor, s: Tensor, like: Tensor) -> Tensor:
        """Variance of the reverse kernel, for s > 0; see `WalkVariance`."""
        beta = self.schedule.transition(t, s).var
        if self.variance is WalkVariance.POSTERIOR:
            beta = beta * self.schedule.marginal(s).var / self.schedule.marginal(t).var
        return self.at_points(beta, like)

    def reverse(self, prediction: ScorePrediction, t: Tensor, s: Tensor) -> Distribution:
        """One step of the geodesic random walk; no noise where s = 0."""
        var = self.reverse_var(t, s, prediction.z)
        at_data = self.at_points(as_time(s), prediction.z) <= 0
        return self.heat_kernel(
            self.reverse_mean(prediction, t, s), torch.where(at_data, 0.0, var)
        )

    def reconstruction(self, x: Tensor, prediction: ScorePrediction, t: Tensor) -> Tensor:
        """Log density of x under the step to the data, with variance v_t; (B,) nats."""
        mean = self.reverse_mean(prediction, t, torch.zeros_like(as_time(t)))
        return self.heat_kernel(mean, self.var(t, x)).log_prob(x)

    def predict(self, output: Tensor, z: Tensor, t: Tensor) -> ScorePrediction:
        """Read a raw network output, shaped as a tangent vector, as the score in its own units.

        The unit is the root of E ||score||^2 under the kernel, over the dimensions of a tangent
        vector (Jing et al. 2022, section 3.2; Yim et al. 2023, section 4.2).
        """
        size = output.shape[-1] if self.tangent_dims else 1
        unit = (self.expected_square(self.var(t, z)) / size).sqrt().to(output.dtype)
        return ScorePrediction(z, output * self.at_tangents(unit))


def half_circle(std: Tensor, count: int = 256) -> tuple[Tensor, Tensor]:
    """Nodes and weights that integrate a function of std's width over an angle in [0, pi].

    The trapezoidal rule on [0, min(pi, 9 std)]. For an integrand that is even about 0 and either
    even about pi as well or negligible beyond 9 std, it converges faster than any power of the
    number of nodes.

    Args:
        std: (...) width in radians.
        count: Number of intervals.

    Returns:
        Nodes and weights, (..., count + 1).
    """
    fraction = torch.linspace(0, 1, count + 1, dtype=std.dtype, device=std.device)
    weight = torch.full_like(fraction, 1 / count)
    weight[0] = weight[-1] = 0.5 / count
    length = (9 * std).clamp(max=math.pi)[..., None]
    return length * fraction, length * weight


def mode_between(
    distance: Tensor,
    slope_start: Callable[[Tensor], Tensor],
    slope_end: Callable[[Tensor], Tensor],
) -> Tensor:
    """Where on a geodesic the product of two radial kernels, one at each end, is largest.

    By the triangle inequality, and because heat kernels fall with the distance, the mode of
    q(z_s | z_t, x) lies on the shortest geodesic; it is found by bisection of the derivative.

    Args:
        distance: (...) length d >= 0 of the geodesic.
        slope_start: Derivative of the log kernel at the start, at a distance from it.
        slope_end: The same for the kernel at the end.

    Returns:
        (...) distance of the mode from the start, in [0, d].
    """
    low, high = torch.zeros_like(distance), distance
    for _ in range(60):
        middle = 0.5 * (low + high)
        rising = slope_start(middle) > slope_end(distance - middle)
        low, high = torch.where(rising, middle, low), torch.where(rising, high, middle)
    return 0.5 * (low + high)
