r"""Gaussian diffusion of point clouds with zero centre of mass (Hoogeboom et al. 2022, section 3).

A state is (B, N, d): N items (atoms) in d dimensions, of which `mask` marks the real ones. Noise,
data and predictions live on the linear subspace where the real items of each row have mean zero,
which has (N_real - 1) d degrees of freedom: densities are with respect to Lebesgue measure on that
subspace. Translation then needs no learning, and rotations act on the subspace.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from scidiffusion.core.distributions import Gaussian
from scidiffusion.core.gaussian import GaussianProcess, ReverseVariance
from scidiffusion.core.schedules import NoiseSchedule
from scidiffusion.errors import ConfigError, DataError


def remove_mean(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Subtract each row's centre of mass; padding becomes 0.

    Args:
        x: (B, N, d) coordinates.
        mask: (B, N) true for real items; None if all are.
    """
    if mask is None:
        return x - x.mean(1, keepdim=True)
    weight = mask[..., None].to(x.dtype)
    return (x - (x * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)) * weight


@dataclass(frozen=True)
class CentredGaussian(Gaussian):
    """An isotropic Gaussian on the zero-centre-of-mass subspace.

    Args:
        mean: (B, N, d) with zero centre of mass.
        var: Variance, constant within a row.
        mask: (B, N) real items, or None.
        freedom: (B,) degrees of freedom (N_real - 1) d.
    """

    mask: Tensor | None = None
    freedom: Tensor = field(default_factory=lambda: torch.zeros(()))

    def _project(self, value: Tensor) -> Tensor:
        return remove_mean(value, self.mask)

    def _sum_constant(self, value: Tensor) -> Tensor:
        per_row = value.to(self.mean.device).expand_as(self.mean).flatten(1)[:, 0]
        return per_row * self.freedom


class CentredGaussianProcess(GaussianProcess):
    """`GaussianProcess` on the subspace of zero centre of mass; see the module.

    Args:
        schedule: Noise schedule.
        mask: (B, N) real items of the batch that the process is used on; `with_mask` rebinds it.
        **options: As of `GaussianProcess`. A learned variance is refused: the reverse kernel must
            be isotropic to be invariant under rotations.
    """

    def __init__(
        self, schedule: NoiseSchedule, *, mask: Tensor | None = None, **options: Any
    ) -> None:
        super().__init__(schedule, **options)
        if self.variance is ReverseVariance.LEARNED:
            raise ConfigError(
                "a learned variance per coordinate would not be invariant under rotations; use "
                "'beta', 'posterior' or 'optimal' with a centred process"
            )
        if self.bin_width is not None:
            raise ConfigError("bin_width has no meaning on the zero-centre-of-mass subspace")
        self._options = options
        self.mask = mask
        if mask is not None and bool((mask.sum(1) < 1).any()):
            raise DataError("every row of the mask needs at least one real item")

    def with_mask(self, mask: Tensor | None) -> CentredGaussianProcess:
        """Return the same process for a batch whose real items are `mask`, (B, N) bool."""
        return type(self)(self.schedule, mask=mask, **self._options)

    def project(self, value: Tensor) -> Tensor:
        """Remove the centre of mass of every row."""
        return remove_mean(value, self.mask)

    def dimension(self, like: Tensor) -> Tensor:
        """(N_real - 1) d for every row."""
        if self.mask is None:
            items = torch.full(
                (like.shape[0],), like.shape[1], dtype=like.dtype, device=like.device
            )
        else:
            items = self.mask.sum(1).to(like.dtype)
        return (items - 1) * like.shape[2]

    def gaussian(self, mean: Tensor, var: Tensor) -> CentredGaussian:
        """N(mean, var) on the subspace."""
        return CentredGaussian(mean, var, self.mask, self.dimension(mean))
