r"""Ancestral sampling: draw z_s from the model's own reverse kernel p(z_s | z_t).

Algorithm 18.2 of Prince 2023, algorithm 20.2 of Bishop & Bishop 2024, algorithm 2 of Ho et al.
2020. The last step draws no noise: the Gaussian kernel at s = 0 has variance 0. It is the one
method for every process: categorical, torus, SO(3) and products.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scidiffusion.core.process import Process
from scidiffusion.core.rng import Noise
from scidiffusion.core.schedules import Spacing
from scidiffusion.samplers.base import Carry, SinglePrediction


@dataclass(frozen=True)
class Ancestral(SinglePrediction):
    """Draw from the reverse kernel at every step; its variance is the process's option."""

    order = 1
    stochastic = True
    spacing = Spacing.UNIFORM

    def supports(self, process: Process) -> bool:
        """Every process has a reverse kernel."""
        return True

    def update(
        self, process: Process, prediction: Any, carry: Carry, t: Tensor, s: Tensor, noise: Noise
    ) -> Carry:
        """z_s ~ p(z_s | z_t); see `SinglePrediction.update`."""
        return Carry(process.reverse(prediction, t, s).sample(noise))
