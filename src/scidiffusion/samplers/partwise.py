"""A product of spaces, each part with its own update rule.

The denoiser is evaluated once on the joint state; each part then takes its own step, the Gaussian
ones by DPM-Solver++ or DDIM, say, and the categorical ones ancestrally.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from scidiffusion.core.process import Process, ProductProcess, State
from scidiffusion.core.rng import Noise
from scidiffusion.core.schedules import Spacing
from scidiffusion.errors import ConfigError
from scidiffusion.samplers.ancestral import Ancestral
from scidiffusion.samplers.base import Carry, SinglePrediction


@dataclass(frozen=True)
class PartwiseSampler(SinglePrediction):
    """One update rule a part.

    Args:
        parts: Name -> rule; parts that are not named are sampled ancestrally.
        grid_spacing: Spacing of the common grid.
    """

    parts: Mapping[str, SinglePrediction] = field(default_factory=dict)
    grid_spacing: Spacing = Spacing.UNIFORM
    order = 1
    stochastic = True

    @property
    def multistep(self) -> bool:  # type: ignore[override]
        """Whether any of the rules is."""
        return any(rule.multistep for rule in self.parts.values())

    @property
    def spacing(self) -> Spacing:  # type: ignore[override]
        """Spacing of the common grid."""
        return self.grid_spacing

    def supports(self, process: Process) -> bool:
        """Products whose named parts exist and support their rules."""
        return isinstance(process, ProductProcess) and all(
            name in process.parts and rule.supports(process.parts[name])
            for name, rule in self.parts.items()
        )

    def check(self, process: Process) -> None:
        """Raise ConfigError naming the part whose rule does not fit."""
        if not isinstance(process, ProductProcess):
            raise ConfigError(f"PartwiseSampler needs a ProductProcess, not {process!r}")
        for name, rule in self.parts.items():
            if name not in process.parts:
                raise ConfigError(f"no part {name!r} in {sorted(process.parts)}")
            if not isinstance(rule, SinglePrediction):
                raise ConfigError(
                    f"{type(rule).__name__} evaluates the denoiser on its own and cannot step the "
                    f"part {name!r} alone; use a rule of one evaluation a step, such as DDIM"
                )
            rule.check(process.parts[name])

    def init(self, z: State) -> Carry:
        """Return the carry of the first step, one history a part."""
        histories = {name: self._rule(name).init(part).history for name, part in z.items()}
        return Carry(z, (histories,))

    def _rule(self, name: str) -> SinglePrediction:
        return self.parts.get(name, Ancestral())

    def update(
        self,
        process: ProductProcess,
        prediction: Mapping[str, Any],
        carry: Carry,
        t: Tensor,
        s: Tensor,
        noise: Noise,
    ) -> Carry:
        """Step every part by its own rule; see `SinglePrediction.update`."""
        (histories,) = carry.history
        done = {
            name: self._rule(name).update(
                part,
                prediction[name],
                Carry(carry.z[name], histories[name]),
                t,
                s,
                noise.child(name),
            )
            for name, part in process.parts.items()
        }
        return Carry(
            {name: part.z for name, part in done.items()},
            ({name: part.history for name, part in done.items()},),
        )
