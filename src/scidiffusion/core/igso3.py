r"""The isotropic Gaussian IGSO(3): the heat kernel of the rotations.

For small sigma its rotation vector is N(0, sigma^2 I). Its density with respect to the normalised
Haar measure depends on the angle a alone. With v = sigma^2 it is a sum over characters,

    f(a) = sum_l (2 l + 1) exp(-l (l + 1) v / 2) sin((l + 1/2) a) / sin(a / 2)
         = c_0 + 2 sum_m c_m cos(m a),     c_m = sum_{l >= m} (2 l + 1) exp(-l (l + 1) v / 2),

and, by Poisson summation over the half-integers l + 1/2, a sum over images,

    f(a) = sqrt(2 pi) v^(-3/2) exp(v / 8) sum_k (-1)^k (a - 2 pi k) exp(-(a - 2 pi k)^2 / 2 v)
           / sin(a / 2).

The closed approximation used in the literature for small sigma keeps |k| <= 1 of it. Here |k| <= 3
are kept and the two change places at v = pi, where both are exact to rounding: their logarithms
agree to 1e-13. The images are summed in pairs +k and -k, relative to k = 0, in a form in which
nothing cancels or overflows at a = 0 or for small v.

The density of the angle on [0, pi] is (1 - cos a) f(a) / pi.

References:
    Nikolayev & Savyolov 1997, eq. 6; Leach et al. 2022, section 3.2; Yim et al. 2023,
    propositions 3.2 and 3.3 and appendix E (whose sigma^2 = t is our v).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scidiffusion.core.distributions import Distribution, sum_rows
from scidiffusion.core.rng import Noise
from scidiffusion.core.rotations import exp_so3, log_so3

F64 = torch.float64
SWITCH = math.pi
"""Squared sigma at which the two expansions change places."""
_IMAGES = (1, 2, 3)
_DEGREES = 6
_CDF_NODES = 512
_CHUNK = 256
"""Rows tabulated at once: small tables stay in the cache."""


def _phi(x: Tensor) -> Tensor:
    """(1 - exp(-x)) / x for x >= 0."""
    x = x.clamp(min=1e-30)
    return -torch.expm1(-x) / x


def _psi(x: Tensor) -> Tensor:
    """exp(-x) (x cosh x - sinh x) / x^3 for x >= 0."""
    small = x < 0.5
    large = torch.where(small, 1.0, x)
    series = torch.zeros_like(x)
    for n in range(8, 0, -1):
        series = series * x**2 + 2 * n / math.factorial(2 * n + 1)
    direct = (0.5 * (1 + torch.exp(-2 * large)) - _phi(2 * large)) / large**2
    return torch.where(small, torch.exp(-x) * series, direct)


def _image_terms(angle: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of all images over that of k = 0, and its derivative divided by the angle."""
    total, slope = torch.ones_like(angle * var), torch.zeros_like(angle * var)
    for k in _IMAGES:
        rate, gain = 2 * math.pi * k / var, 8 * math.pi**2 * k**2 / var
        x = rate * angle
        term = (-1) ** k * torch.exp(-rate * (math.pi * k - angle))
        total = total + term * (1 + torch.exp(-2 * x) - gain * _phi(2 * x))
        slope = slope + term * rate**2 * (2 * _phi(2 * x) - gain * _psi(x))
    return total, slope


def _series(angle: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """f by characters, and its derivative divided by the angle."""
    degrees = range(_DEGREES, -1, -1)
    terms = [(2 * m + 1) * torch.exp(-0.5 * m * (m + 1) * var) for m in degrees]
    coefficients = torch.stack(terms).cumsum(0).flip(0)
    # cos(m a) and sin(m a) / sin(a) by the recurrence of Chebyshev's polynomials.
    cosine = torch.cos(angle)
    even, even_next = torch.ones_like(angle), cosine
    odd, odd_next = torch.zeros_like(angle), torch.ones_like(angle)
    total, slope = coefficients[0] * even, 0.0 * angle
    for m in range(1, _DEGREES + 1):
        even, even_next = even_next, 2 * cosine * even_next - even
        odd, odd_next = odd_next, 2 * cosine * odd_next - odd
        total = total + 2 * coefficients[m] * even
        slope = slope - 2 * m * coefficients[m] * odd
    return total, slope * torch.sinc(angle / math.pi)


def _half_cot(angle: Tensor) -> Tensor:
    """(1 - (a / 2) cot(a / 2)) / a^2, which is 1/12 at a = 0."""
    small = angle < 0.25
    large = torch.where(small, 1.0, angle)
    square = angle**2
    series = torch.zeros_like(angle)
    for denominator in (47900160, 1209600, 30240, 720, 12):
        series = series * square + 1 / denominator
    return torch.where(small, series, (1 - 0.5 * large / torch.tan(0.5 * large)) / large**2)


def _as_var(sigma: Tensor | float, like: Tensor) -> Tensor:
    dtype = torch.result_type(like, 1.0)  # integer angles must not round sigma
    return torch.as_tensor(sigma, dtype=dtype, device=like.device) ** 2


def igso3_log_prob(angle: Tensor, sigma: Tensor | float) -> Tensor:
    """Log-density of IGSO(3) with respect to the normalised Haar measure.

    Args:
        angle: (...) rotation angle from the mean, in [0, pi].
        sigma: Standard deviation of the rotation vector while small; positive, broadcastable.

    Returns:
        (...) nats; 0 everywhere for the uniform distribution. Exact to 1e-12 in float64.
    """
    var = _as_var(sigma, angle)
    small, large = var.clamp(max=SWITCH), var.clamp(min=SWITCH)
    constant = 0.5 * math.log(2 * math.pi) + math.log(2) + small / 8 - 1.5 * torch.log(small)
    chord = torch.log(torch.sinc(angle / (2 * math.pi)))
    images = (
        constant
        - angle**2 / (2 * small)
        - chord
        + torch.log(_image_terms(angle, small)[0].clamp(min=1e-30))
    )
    return torch.where(var < SWITCH, images, torch.log(_series(angle, large)[0]))


def igso3_angle_density(angle: Tensor, sigma: Tensor | float) -> Tensor:
    """Density of the rotation angle on [0, pi], per radian; same arguments as `igso3_log_prob`."""
    return 2 / math.pi * torch.sin(0.5 * angle) ** 2 * igso3_log_prob(angle, sigma).exp()


def igso3_slope_ratio(angle: Tensor, sigma: Tensor | float) -> Tensor:
    """Derivative of `igso3_log_prob` by the angle, divided by the angle (finite at 0)."""
    var = _as_var(sigma, angle)
    small, large = var.clamp(max=SWITCH), var.clamp(min=SWITCH)
    total, slope = _image_terms(angle, small)
    images = _half_cot(angle) - 1 / small + slope / total.clamp(min=1e-30)
    total, slope = _series(angle, large)
    return torch.where(var < SWITCH, images, slope / total)


def igso3_score(vector: Tensor, sigma: Tensor | float) -> Tensor:
    """Riemannian score of IGSO(3) in the body frame.

    Args:
        vector: (..., 3) rotation vector log(mean^T z).
        sigma: As in `igso3_log_prob`, broadcastable to (...).

    Returns:
        (..., 3) rotation vector: grad_z log density; about -vector / sigma^2 for small sigma.
    """
    angle = torch.linalg.vector_norm(vector, dim=-1)
    return igso3_slope_ratio(angle, sigma)[..., None] * vector


def invert_cdf(nodes: Tensor, density: Tensor, uniform: Tensor) -> Tensor:
    """Invert the cumulative distribution of a density that is linear between nodes.

    Args:
        nodes: (R, G) not decreasing.
        density: (R, G), not negative; need not be normalised.
        uniform: (R, N) in [0, 1).

    Returns:
        (R, N) points between the first and last node of their row.
    """
    areas = 0.5 * (density[:, 1:] + density[:, :-1]) * (nodes[:, 1:] - nodes[:, :-1])
    cdf = torch.cat([torch.zeros_like(areas[:, :1]), areas.cumsum(-1)], -1)
    target = uniform * cdf[:, -1:]
    right = torch.searchsorted(cdf, target, right=True).clamp(1, nodes.shape[1] - 1)
    left = right - 1
    start, end = nodes.gather(1, left), nodes.gather(1, right)
    first, last = density.gather(1, left), density.gather(1, right)
    width, rest = end - start, (target - cdf.gather(1, left)).clamp(min=0)
    # Root of first f + (last - first) f^2 / 2 = rest / width, in the form that does not cancel.
    level = rest / width.clamp(min=1e-300)
    root = (first**2 + 2 * (last - first) * level).clamp(min=0).sqrt()
    fraction = (2 * level / (first + root).clamp(min=1e-300)).clamp(0, 1)
    return start + fraction * width


def _angle_table(angle: Tensor, var: Tensor) -> Tensor:
    """Density of the angle up to a constant of `var`: cheap, exact beside its largest value."""
    small, large = var.clamp(max=SWITCH), var.clamp(min=SWITCH)
    images = torch.zeros_like(angle)
    for k in (0, 1, -1, 2):
        place = angle - 2 * math.pi * k
        images = images + (-1) ** k * place * torch.exp(-(place**2) / (2 * small))
    half = torch.sin(0.5 * angle)
    density = torch.where(var < SWITCH, half * images, half**2 * _series(angle, large)[0])
    return density.clamp(min=0)


def sample_igso3_angle(uniform: Tensor, sigma: Tensor) -> Tensor:
    """Draw rotation angles by inversion of the cumulative density.

    The density is tabulated in float64 on 513 nodes of [0, min(pi, 9 sigma)], once for each
    sigma, and taken as linear between them, which is exact to 1e-4.

    Args:
        uniform: (B, ...) numbers in [0, 1).
        sigma: Not negative, broadcastable to `uniform`; 0 gives the angle 0.

    Returns:
        (B, ...) radians, float64.
    """
    sigma = torch.as_tensor(sigma, dtype=F64, device=uniform.device)
    if sigma.numel() == 1:
        rows, draws = sigma.reshape(1), uniform.reshape(1, -1)
    elif sigma.numel() == sigma.shape[0] == uniform.shape[0]:
        rows, draws = sigma.reshape(-1), uniform.reshape(len(uniform), -1)
    else:
        rows, draws = sigma.expand(uniform.shape).reshape(-1), uniform.reshape(-1, 1)
    fraction = torch.linspace(0, 1, _CDF_NODES + 1, dtype=F64, device=uniform.device)
    angles = []
    for row, draw in zip(rows.split(_CHUNK), draws.split(_CHUNK), strict=True):
        width = row.clamp(min=1e-10)[:, None]
        nodes = (9 * width).clamp(max=math.pi) * fraction
        angle = invert_cdf(nodes, _angle_table(nodes, width**2), draw.to(F64))
        angles.append(torch.where(row[:, None] > 0, angle, 0.0))
    return torch.cat(angles).reshape(uniform.shape)


@dataclass(frozen=True)
class IGSO3(Distribution):
    """Independent isotropic Gaussians on SO(3).

    Args:
        mean: (B, ..., 3, 3) rotation matrices.
        sigma: Broadcastable to (B, ...); 0 makes `sample` return the mean.
    """

    mean: Tensor
    sigma: Tensor

    def sample(self, noise: Noise) -> Tensor:
        """Mean exp(hat(angle axis)) with a uniform axis."""
        axis = noise.normal(self.mean[..., 0])
        uniform = noise.uniform(self.mean[..., 0, 0])
        angle = sample_igso3_angle(uniform, self.sigma).to(self.mean.dtype)
        length = torch.linalg.vector_norm(axis, dim=-1).clamp(min=1e-30)
        return self.mean @ exp_so3((angle / length)[..., None] * axis)

    @property
    def mode(self) -> Tensor:
        """The mean."""
        return self.mean

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats with respect to the Haar measure, (B,); meaningless at sigma 0."""
        angle = torch.linalg.vector_norm(log_so3(self.mean.mT @ x), dim=-1)
        return sum_rows(igso3_log_prob(angle, self.sigma))
