r"""Diffusion of rotation matrices by the isotropic Gaussian IGSO(3).

Right multiplication, body frame: z = x exp(hat(displacement)), and scores are rotation vectors in
the frame of z. See `scidiffusion.core.igso3` for the kernel and `scidiffusion.core.rotations` for
the matrices; the public names of both can be imported from here.

The posterior q(z_s | z_t, x) has an exact density, by Bayes' rule with IGSO3(v_t) as its constant,
and can be drawn from exactly as well. Let d, u, w be the angles between x and z_t, x and z_s, z_s
and z_t. Averaging the character expansion over directions gives the law of u,

    p(u) ∝ f(u; v_s) sin(u / 2) [T(u - d) - T(u + d)],
    T(a) = sum_k (-1)^k N(a - 2 pi k; 0, v_{t|s}),

and, given u, the cumulative distribution of w on [|u - d|, u + d] is linear in T(w), because
f(w; v) sin(w / 2) is proportional to -T'(w). The remaining angle, about the axis from x to z_t, is
uniform.

What has no closed form is the Kullback-Leibler divergence between that posterior and a reverse
step: `SO3Process.divergence` says so. Train by the score (`ScoreMatchingLoss`).

References:
    Leach et al. 2022; Yim et al. 2023 (FrameDiff); De Bortoli et al. 2022 (the reverse walk).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from scidiffusion.core.distributions import Distribution, sum_rows
from scidiffusion.core.igso3 import (
    F64,
    IGSO3,
    SWITCH,
    igso3_angle_density,
    igso3_log_prob,
    igso3_score,
    igso3_slope_ratio,
    invert_cdf,
)
from scidiffusion.core.manifold import (
    ManifoldProcess,
    NoClosedFormError,
    half_circle,
    mode_between,
)
from scidiffusion.core.prediction import ScorePrediction
from scidiffusion.core.rng import Noise
from scidiffusion.core.rotations import (
    exp_so3,
    geodesic_distance,
    hat,
    log_so3,
    uniform_rotation,
    vee,
)

__all__ = [
    "IGSO3",
    "SO3Posterior",
    "SO3Process",
    "exp_so3",
    "geodesic_distance",
    "hat",
    "igso3_angle_density",
    "igso3_log_prob",
    "igso3_score",
    "log_so3",
    "uniform_rotation",
    "vee",
]

_WINDOW_NODES = 512
_CHUNK = 256


def _alternating(angle: Tensor, var: Tensor, origin: Tensor) -> Tensor:
    """T(angle) / exp(-origin^2 / 2 v), up to a factor of v: decreasing on [0, 2 pi]."""
    small, large = var.clamp(max=SWITCH), var.clamp(min=SWITCH)
    images = torch.zeros_like(angle * var)
    for k in (0, 1, -1, 2, -2):
        exponent = (origin**2 - (angle - 2 * math.pi * k) ** 2) / (2 * small)
        images = images + (-1) ** k * torch.exp(exponent)
    series = torch.zeros_like(images)
    for degree in range(7):
        weight = torch.exp(-0.5 * degree * (degree + 1) * large)
        series = series + weight * torch.cos((degree + 0.5) * angle)
    return torch.where(var < SWITCH, images, series)


def _log_average(u: Tensor, d: Tensor, var: Tensor) -> Tensor:
    """log of T(u - d) - T(u + d), up to a constant of d and v."""
    small, large = var.clamp(max=SWITCH), var.clamp(min=SWITCH)
    images = -torch.expm1(-2 * u * d / small)
    for k in (1, -1, 2, -2):
        turn = 2 * math.pi * k
        near = torch.exp(((u - d) ** 2 - (u - d - turn) ** 2) / (2 * small))
        far = torch.exp(((u - d) ** 2 - (u + d - turn) ** 2) / (2 * small))
        images = images + (-1) ** k * (near - far)
    series = torch.zeros_like(u * large)
    for degree in range(7):
        weight = torch.exp(-0.5 * degree * (degree + 1) * large)
        half = degree + 0.5
        series = series + weight * torch.sin(half * u) * torch.sin(half * d)
    log_images = torch.log(images.clamp(min=1e-300)) - (u - d) ** 2 / (2 * small)
    return torch.where(var < SWITCH, log_images, torch.log(series.clamp(min=1e-300)))


@dataclass(frozen=True)
class SO3Posterior(Distribution):
    """q(z_s | z_t, x); see the module.

    Args:
        x: (B, ..., 3, 3) clean rotations.
        z: (B, ..., 3, 3) noisy rotations z_t.
        var_s: v_s, broadcastable to (B, ...); 0 makes the distribution a point at x.
        var_step: v_{t|s}, positive, broadcastable to (B, ...).
    """

    x: Tensor
    z: Tensor
    var_s: Tensor
    var_step: Tensor

    def _way(self) -> tuple[Tensor, Tensor]:
        """Distance d from x to z_t, and the unit vector of the way (any where d = 0)."""
        vector = log_so3(self.x.mT @ self.z)
        distance = torch.linalg.vector_norm(vector, dim=-1)
        at_x = (distance < 1e-12)[..., None]
        unit = vector / torch.where(at_x, 1.0, distance[..., None])
        pole = torch.tensor([0.0, 0.0, 1.0], dtype=vector.dtype, device=vector.device)
        return distance, torch.where(at_x, pole, unit)

    def sample(self, noise: Noise) -> Tensor:
        """Draw u from its tabulated law, w by inversion of a closed form, and the axis.

        Exact but for the table of u (1,026 nodes a rotation), whose probabilities err by 1e-4.
        """
        distance, way = (value.to(F64) for value in self._way())
        shape = distance.shape
        var_s, var_step = (
            value.to(F64).expand(shape).reshape(-1, 1).clamp(min=1e-20)
            for value in (self.var_s, self.var_step)
        )
        var_t = var_s + var_step
        d = torch.maximum(distance.reshape(-1, 1), 1e-6 * var_t.sqrt())
        like = distance.reshape(shape)
        first = noise.child("start").uniform(like).reshape(-1, 1)
        second = noise.child("end").uniform(like).reshape(-1, 1)
        parts = (value.split(_CHUNK) for value in (d, var_s, var_step, first))
        u = torch.cat([self._distance_from_x(*part) for part in zip(*parts, strict=True)])
        closest, farthest = (u - d).abs(), u + d
        top, bottom = (_alternating(a, var_step, closest) for a in (closest, farthest))
        target = top - second * (top - bottom)
        low, high = closest, farthest
        for _ in range(60):
            w = 0.5 * (low + high)
            above = _alternating(w, var_step, closest) > target
            low, high = torch.where(above, w, low), torch.where(above, high, w)
        # 1 - cos of the angle at x between the ways to z_s and to z_t, without cancellation.
        versine = 2 * torch.sin(0.25 * (w + closest)) * torch.sin(0.25 * (w - closest))
        versine = versine / (torch.sin(0.5 * u) * torch.sin(0.5 * d)).clamp(min=1e-300)
        versine = versine.clamp(0, 2).reshape(shape)[..., None]
        side = noise.normal(way)
        side = side - (side * way).sum(-1, keepdim=True) * way
        side = side / torch.linalg.vector_norm(side, dim=-1, keepdim=True).clamp(min=1e-30)
        axis = (1 - versine) * way + (versine * (2 - versine)).sqrt() * side
        vector = u.reshape(shape)[..., None] * axis
        vector = torch.where(self.var_s.expand(shape)[..., None] > 0, vector, 0.0)
        return self.x @ exp_so3(vector).to(self.x.dtype)

    @staticmethod
    def _distance_from_x(d: Tensor, var_s: Tensor, var_step: Tensor, uniform: Tensor) -> Tensor:
        """Draw u, all (N, 1); windows of nodes lie around both geodesics from x to z_t."""
        var_t = var_s + var_step
        half_width = 12 * (var_s * var_step / var_t).sqrt()
        offsets = torch.linspace(-1, 1, _WINDOW_NODES + 1, dtype=F64, device=d.device)
        centres = [var_s / var_t * way for way in (d, 2 * math.pi - d)]
        windows = [(centre + half_width * offsets).clamp(0, math.pi) for centre in centres]
        nodes = torch.cat(windows, -1).sort(-1).values
        log_density = (
            igso3_log_prob(nodes, var_s.sqrt())
            + torch.log(torch.sin(0.5 * nodes).clamp(min=1e-300))
            + _log_average(nodes, d, var_step)
        )
        density = torch.exp(log_density - log_density.max(-1, keepdim=True).values)
        return invert_cdf(nodes, density, uniform)

    @property
    def mode(self) -> Tensor:
        """The most probable rotation, on the shortest geodesic from x to z_t."""
        distance, way = self._way()
        std_s, std_step = self.var_s.clamp(min=1e-12).sqrt(), self.var_step.sqrt()
        fraction = mode_between(
            distance,
            lambda a: a * igso3_slope_ratio(a, std_s),
            lambda a: a * igso3_slope_ratio(a, std_step),
        )
        return self.x @ exp_so3(fraction[..., None] * way)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats with respect to the Haar measure, (B,), exact."""
        std_s, std_step = self.var_s.sqrt(), self.var_step.sqrt()
        std_t = (self.var_s + self.var_step).sqrt()
        return sum_rows(
            igso3_log_prob(geodesic_distance(self.x, x), std_s)
            + igso3_log_prob(geodesic_distance(x, self.z), std_step)
            - igso3_log_prob(geodesic_distance(self.x, self.z), std_t)
        )


class SO3Process(ManifoldProcess):
    """Variance exploding diffusion of rotation matrices (B, ..., 3, 3).

    Args:
        schedule: A schedule with scale 1; default `VESchedule(0.01 pi, pi)`, which leaves a
            divergence of 1e-8 nats a rotation from the uniform prior.
        variance: Variance of the reverse kernel, "posterior" or "beta".

    Raises:
        ConfigError: if the schedule scales its data or `variance` is unknown.
    """

    point_dims = 2
    tangent_dims = 1

    def exp(self, z: Tensor, tangent: Tensor) -> Tensor:
        """Rotate z by a rotation vector in the frame of z."""
        return z @ exp_so3(tangent)

    def log(self, x: Tensor, z: Tensor) -> Tensor:
        """Rotation vector of x^T z."""
        return log_so3(x.mT @ z)

    def heat_kernel(self, mean: Tensor, var: Tensor) -> IGSO3:
        """IGSO(3) with sigma = sqrt(var)."""
        return IGSO3(mean, var.sqrt())

    def score_of(self, tangent: Tensor, var: Tensor) -> Tensor:
        """See `igso3_score`."""
        return igso3_score(tangent, var.sqrt())

    def expected_square(self, var: Tensor) -> Tensor:
        """E ||score||^2 under IGSO(3), by quadrature; near 3 / var while var is small."""
        angle, weight = half_circle(var.sqrt(), 64)
        sigma = var.sqrt()[..., None]
        square = (angle * igso3_slope_ratio(angle, sigma)) ** 2
        return (weight * igso3_angle_density(angle, sigma) * square).sum(-1)

    def prior(self, like: Tensor, noise: Noise) -> Tensor:
        """Uniform (Haar) rotations; see `Process.prior`."""
        return uniform_rotation(like, noise)

    def posterior(self, x: Tensor, z: Tensor, t: Tensor, s: Tensor) -> SO3Posterior:
        """Return q(z_s | z_t, x), exact; see the module."""
        return SO3Posterior(x, z, self.var(s, x), self.step_var(t, s, x))

    def divergence(
        self, x: Tensor, z: Tensor, prediction: ScorePrediction, t: Tensor, s: Tensor
    ) -> NoReturn:
        """Not available.

        Raises:
            NoClosedFormError: always.
        """
        raise NoClosedFormError(
            "on rotations KL(q(z_s | z_t, x) || p(z_s | z_t)) has no closed form, hence no ELBO; "
            "train with ScoreMatchingLoss, and compare samples in place of likelihoods"
        )

    def prior_divergence(self, x: Tensor) -> Tensor:
        """KL(q(z_1 | x) || uniform), (B,) nats, by quadrature exact to 1e-12."""
        sigma = self.schedule.marginal(1.0).std
        angle, weight = half_circle(sigma)
        density = igso3_angle_density(angle, sigma)
        kl = (weight * density * igso3_log_prob(angle, sigma)).sum()
        return torch.full(
            (x.shape[0],), float(kl) * self.num_points(x), dtype=x.dtype, device=x.device
        )
