r"""The space of new molecules: centred positions and types, noised side by side.

    positions   z = x + sigma eps on the subspace of zero centre of mass, in Angstrom
    types       z = s one_hot + sigma eps           ("gaussian", as in EDM: s scales the types)
                or classes that jump to any class   ("multinomial")

Variance-exploding noise keeps lengths in Angstrom at every noise level, and the noise level is at
the same time the scale of what is still open: at 5 Angstrom where atoms lie at all, below 1 which
are bonded, below .1 how long bonds are. The scale s says when types are decided.

References:
    Hoogeboom et al. 2022 (EDM), section 3; Karras et al. 2022; Hoogeboom et al. 2021 (multinomial
    diffusion).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from scidiffusion.core.categorical import MultinomialProcess
from scidiffusion.core.centred import CentredGaussianProcess
from scidiffusion.core.distributions import Gaussian
from scidiffusion.core.gaussian import GaussianProcess
from scidiffusion.core.prediction import Parameterization
from scidiffusion.core.process import Process, ProductProcess
from scidiffusion.core.schedules import CosineVP, EDMSchedule

SIGMA_MIN, SIGMA_MAX, RHO = 0.004, 40.0, 7.0
"""Noise levels in Angstrom: of the last step, and where a molecule is forgotten."""
SIGMA_DATA = 1.5
"""Standard deviation in Angstrom of the atoms of a small molecule about its centre."""


class Types(StrEnum):
    """How atom types are noised; see the module."""

    GAUSSIAN = "gaussian"
    MULTINOMIAL = "multinomial"


@dataclass(frozen=True)
class MaskedGaussian(Gaussian):
    """A Gaussian of which padding is no part.

    Args:
        mean: (B, N, K), padding 0.
        var: Variance, constant within a row.
        mask: (B, N) real items.
        freedom: (B,) degrees of freedom N_real K.
    """

    mask: Tensor = field(default_factory=lambda: torch.ones(1, 1, dtype=torch.bool))
    freedom: Tensor = field(default_factory=lambda: torch.zeros(()))

    def _project(self, value: Tensor) -> Tensor:
        return value * self.mask[..., None]

    def _sum_constant(self, value: Tensor) -> Tensor:
        per_row = value.to(self.mean.device).expand_as(self.mean).flatten(1)[:, 0]
        return per_row * self.freedom


class MaskedGaussianProcess(GaussianProcess):
    """`GaussianProcess` of (B, N, K) states of which padded items are no part.

    Args:
        schedule: Noise schedule.
        mask: (B, N) real items of the batch.
        **options: As of `GaussianProcess`.
    """

    def __init__(self, schedule: EDMSchedule, mask: Tensor, **options: Any) -> None:
        super().__init__(schedule, **options)
        self.mask = mask

    def project(self, value: Tensor) -> Tensor:
        """Set padding to 0."""
        return value * self.mask[..., None]

    def dimension(self, like: Tensor) -> Tensor:
        """N_real K for every row."""
        return self.mask.sum(1).to(like.dtype) * like.shape[2]

    def gaussian(self, mean: Tensor, var: Tensor) -> MaskedGaussian:
        """N(mean, var) of the real items."""
        return MaskedGaussian(mean, var, self.mask, self.dimension(mean))


def molecule_process(kind: Types, types: int, mask: Tensor) -> ProductProcess:
    """Return the process of a batch.

    Args:
        kind: How types are noised.
        types: Number of types K.
        mask: (B, N) real atoms.
    """
    schedule = EDMSchedule(SIGMA_MIN, SIGMA_MAX, RHO)
    options = {"parameterization": Parameterization.X0}
    second: Process = (
        MaskedGaussianProcess(schedule, mask, **options)
        if kind is Types.GAUSSIAN
        else MultinomialProcess(CosineVP(), types)
    )
    return ProductProcess(
        {"positions": CentredGaussianProcess(schedule, mask=mask, **options), "types": second}
    )
