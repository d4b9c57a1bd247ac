"""Samplers by name, for options and the command line."""

from __future__ import annotations

from collections.abc import Callable

from scidiffusion.errors import ConfigError
from scidiffusion.samplers.ancestral import Ancestral
from scidiffusion.samplers.angular import AngularAB2
from scidiffusion.samplers.base import Sampler
from scidiffusion.samplers.ddim import DDIM
from scidiffusion.samplers.dpm_solver import DPMSolverPP
from scidiffusion.samplers.heun import Heun
from scidiffusion.samplers.predictor_corrector import PredictorCorrector
from scidiffusion.samplers.reverse_sde import EulerMaruyama

SAMPLERS: dict[str, Callable[[], Sampler]] = {
    "ancestral": Ancestral,
    "angular_ab2": AngularAB2,
    "ddim": DDIM,
    "dpmpp_2m": DPMSolverPP,
    "dpmpp_sde": lambda: DPMSolverPP(sde=True),
    "heun": Heun,
    "euler_maruyama": EulerMaruyama,
    "predictor_corrector": PredictorCorrector,
}
"""Name -> factory of a sampler with its default options."""


def make_sampler(sampler: str | Sampler) -> Sampler:
    """Return the sampler of a name, or the sampler itself.

    Raises:
        ConfigError: if the name is unknown; the message lists the names.
    """
    if isinstance(sampler, Sampler):
        return sampler
    if sampler not in SAMPLERS:
        raise ConfigError(f"sampler must be one of {', '.join(SAMPLERS)}; got {sampler!r}")
    return SAMPLERS[sampler]()
