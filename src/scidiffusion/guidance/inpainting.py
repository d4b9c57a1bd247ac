r"""Inpainting: sample the unknown entries of a row given the known ones.

Two ways, neither needing a model trained for it:

`RePaint` (Lugmayr et al. 2022, algorithm 1) is a sampler around a sampler. After each step the
known entries are replaced by a draw of q(z_s | x_known); since the unknown ones were drawn without
knowing it, the step is undone by one forward step and repeated `resamples` times so that the two
harmonise. With one pass it is plain replacement, which is biased towards the unconditional law.

`ReconstructionGuidance` (Ho et al. 2022b, eq. 7; Chung et al. 2023; Song et al. 2023) is a
denoiser around a denoiser. It adds the gradient of log p(x_known | z_t), approximated by a
Gaussian around the predicted x0 with variance r_t^2 = (std / scale)^2 V / ((std / scale)^2 + V)
for data of variance V, which is exact for isotropic Gaussian data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scidiffusion.core.denoiser import Condition, Denoiser
from scidiffusion.core.gaussian import GaussianProcess
from scidiffusion.core.prediction import Parameterization, Prediction, match
from scidiffusion.core.process import Process, State, map_state
from scidiffusion.core.rng import Noise
from scidiffusion.core.schedules import Spacing, check_steps
from scidiffusion.errors import ConfigError, DataError
from scidiffusion.guidance.classifier import check_signal
from scidiffusion.samplers.ancestral import Ancestral
from scidiffusion.samplers.base import Carry, Sampler


def _check(observed: Tensor, mask: Tensor) -> None:
    if mask.dtype != torch.bool or mask.shape != observed.shape:
        raise DataError(
            "the mask must be a bool tensor of the observed values' shape "
            f"{tuple(observed.shape)}, true where known; got {mask.dtype} {tuple(mask.shape)}"
        )
    if observed.is_floating_point() and not bool(torch.isfinite(observed[mask]).all()):
        raise DataError("observed values must be finite where the mask is true")


@dataclass(frozen=True)
class RePaint(Sampler):
    """Replacement with resampling; see the module. Works on every space.

    Args:
        observed: State of data; entries outside the mask are ignored.
        mask: Bool state of the same shapes, true where known.
        sampler: What takes the steps; a sampler without memory.
        resamples: Passes at each step; 1 is plain replacement.

    Raises:
        DataError: if mask and observed do not fit.
        ConfigError: if `resamples` is below 1 or the sampler keeps a history.
    """

    observed: State
    mask: State
    sampler: Sampler = Ancestral()  # noqa: RUF009 -- frozen and stateless
    resamples: int = 10
    stochastic = True

    def __post_init__(self) -> None:
        check_steps(self.resamples)
        if self.sampler.multistep:
            raise ConfigError(
                f"RePaint undoes steps, so it needs a sampler without memory, not {self.sampler!r}"
            )
        map_state(_check, self.observed, self.mask)

    @property
    def spacing(self) -> Spacing:  # type: ignore[override]
        """That of the inner sampler."""
        return self.sampler.spacing

    def supports(self, process: Process) -> bool:
        """Whatever the inner sampler supports."""
        return self.sampler.supports(process)

    def check(self, process: Process) -> None:
        """Raise what the inner sampler raises."""
        self.sampler.check(process)

    def step(
        self,
        process: Process,
        denoiser: Denoiser,
        carry: Carry,
        t: Tensor,
        s: Tensor,
        noise: Noise,
        cond: Condition = None,
    ) -> Carry:
        """See the module, and `Sampler.step`."""
        z = carry.z
        # The known entries are in place at t = 0 for good: nothing is left to harmonise.
        passes = self.resamples if s > 0 else 1
        for index in range(passes):
            source = noise.child(f"pass{index}")
            z = self.sampler.step(process, denoiser, self.sampler.init(z), t, s, source, cond).z
            known = self.observed
            if s > 0:
                known = process.q_sample(self.observed_filled(), s, source.child("known")).z
            z = map_state(torch.where, self.mask, known, z)
            if index + 1 < passes:
                z = process.forward_step(z, s, t, source.child("back"))
        return Carry(z)

    def observed_filled(self) -> State:
        """Return the observed state with unknown entries set to 0 (they may hold NaN)."""
        return map_state(
            lambda value, known: torch.where(known, value, torch.zeros_like(value)),
            self.observed,
            self.mask,
        )


class ReconstructionGuidance:
    """Guidance by the gradient of how well the predicted x0 meets the known entries.

    Args:
        denoiser: Denoiser of a Gaussian process, differentiable in z.
        observed: (B, ...) data; entries outside the mask are ignored.
        mask: (B, ...) bool, true where known.
        data_var: Variance V of the data (a number or a tensor broadcastable to a row).
        scale: Strength; 1 is the Gaussian approximation itself.

    Raises:
        ConfigError: if the process is not Gaussian or leaves no signal at t = 1, `data_var` is
            not positive, or the scale not finite.
        DataError: if mask and observed do not fit.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        observed: Tensor,
        mask: Tensor,
        *,
        data_var: float | Tensor = 1.0,
        scale: float = 1.0,
    ) -> None:
        if not isinstance(denoiser.process, GaussianProcess):
            raise ConfigError(
                f"reconstruction guidance needs a Gaussian process, not {denoiser.process!r}"
            )
        check_signal(denoiser.process, "reconstruction guidance")
        _check(observed, mask)
        self.denoiser = denoiser
        self.process = denoiser.process
        self.mask = mask
        self.observed = torch.where(mask, observed, torch.zeros_like(observed))
        self.data_var = torch.as_tensor(data_var, dtype=observed.dtype, device=observed.device)
        if not bool((self.data_var > 0).all()):
            raise ConfigError(f"data_var must be positive, got {data_var}")
        if not math.isfinite(scale):
            raise ConfigError(f"the guidance scale must be a finite number, got {scale}")
        self.scale = float(scale)

    def __call__(self, z: Tensor, t: Tensor, cond: Condition = None) -> Prediction:
        """Predict under guidance."""
        with torch.enable_grad():
            z = z.detach().requires_grad_(True)
            prediction: Prediction = self.denoiser(z, t, cond)
            noise_var = match(prediction.marginal.sigma**2, z)
            var = noise_var * self.data_var / (noise_var + self.data_var)
            error = torch.where(self.mask, self.observed - prediction.x0, 0.0)
            (gradient,) = torch.autograd.grad((-0.5 * error**2 / var).sum(), z)
        eps = prediction.eps.detach() - self.scale * prediction.std * self.process.project(
            gradient
        )
        return Prediction(z.detach(), prediction.marginal, eps, Parameterization.EPS)
