r"""Classifier-free guidance (Ho & Salimans 2022).

    eps = eps_u + scale (eps_c - eps_u)

scale = 0 is the unconditional model, 1 the conditional one, and more exaggerates the condition at
the price of diversity. The same number is called s or gamma in lecture notes; the w of Ho &
Salimans (eq. 6, eps = (1 + w) eps_c - w eps_u) is scale - 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from scidiffusion.core.denoiser import Condition, Denoiser, drop_condition
from scidiffusion.core.process import State
from scidiffusion.errors import ConfigError


class ClassifierFreeGuidance:
    """A denoiser that extrapolates from the unconditional towards the conditional prediction.

    Args:
        denoiser: A denoiser trained with condition dropout.
        scale: Guidance scale, a finite number.
        kept: Names of conditions, of a dict of them, that the unconditional prediction is told
            as well: they are obeyed, not exaggerated.

    Raises:
        ConfigError: if `scale` is not finite, or if called without a condition.
    """

    def __init__(self, denoiser: Denoiser, scale: float, kept: Sequence[str] = ()) -> None:
        if not math.isfinite(scale):
            raise ConfigError(f"the guidance scale must be a finite number, got {scale}")
        self.denoiser = denoiser
        self.process = denoiser.process
        self.scale = float(scale)
        self.kept = tuple(kept)

    @classmethod
    def from_ho_salimans(cls, denoiser: Denoiser, w: float) -> ClassifierFreeGuidance:
        """Build from the w of Ho & Salimans 2022, eq. 6: scale = 1 + w."""
        return cls(denoiser, 1 + w)

    def __call__(self, z: State, t: Tensor, cond: Condition = None) -> Any:
        """Predict under guidance; rows whose condition is absent stay unconditional."""
        if cond is None:
            raise ConfigError("classifier-free guidance needs a condition (cond=...)")
        # The end points need one evaluation, not two, and are then exact.
        if self.scale == 1:
            return self.denoiser(z, t, cond)
        dropped = drop_condition(cond)
        if self.kept:
            dropped |= {name: cond[name] for name in self.kept}
        unconditional = self.denoiser(z, t, dropped)
        if self.scale == 0:
            return unconditional
        return _mix(unconditional, self.denoiser(z, t, cond), self.scale)


def _mix(first: Any, second: Any, weight: float) -> Any:
    if isinstance(first, Mapping):
        return {name: _mix(first[name], second[name], weight) for name in first}
    return first.mix(second, weight)
