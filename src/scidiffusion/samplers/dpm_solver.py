r"""DPM-Solver++ (Lu et al. 2022b): exponential integrators in half log-SNR, data prediction.

With lambda = log(scale / std) and h = lambda_s - lambda_t,

    ODE   z_s = (std_s / std_t) z_t - scale_s (e^{-h} - 1) D                                  (2M)
    SDE   z_s = (std_s / std_t) e^{-h} z_t + scale_s (1 - e^{-2h}) D
                + std_s sqrt(1 - e^{-2h}) noise                                          (SDE 2M)

where D = x0 for order 1, and for order 2 extrapolates from the previous step,
D = (1 + 1 / 2r) x0 - (1 / 2r) x0_prev, r = h_prev / h. The last step to the data returns x0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scidiffusion.core.gaussian import GaussianProcess
from scidiffusion.core.prediction import Prediction, match
from scidiffusion.core.rng import Noise
from scidiffusion.core.schedules import Spacing
from scidiffusion.errors import ConfigError
from scidiffusion.samplers.base import Carry, SinglePrediction


@dataclass(frozen=True)
class DPMSolverPP(SinglePrediction):
    """DPM-Solver++(2M) and its first-order and SDE forms; see the module.

    Args:
        solver_order: 1 or 2 (multistep: one evaluation a step either way).
        sde: Draw noise at every step.

    Raises:
        ConfigError: if `solver_order` is not 1 or 2.
    """

    solver_order: int = 2
    sde: bool = False
    spacing = Spacing.LOG_SNR

    def __post_init__(self) -> None:
        if self.solver_order not in (1, 2):
            raise ConfigError(f"solver_order must be 1 or 2, got {self.solver_order}")

    @property
    def order(self) -> float:  # type: ignore[override]
        """Order of convergence: that of the solver for the ODE, 1 (weak) for the SDE."""
        return 1 if self.sde else self.solver_order

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """Whether noise is drawn."""
        return self.sde

    @property
    def multistep(self) -> bool:  # type: ignore[override]
        """Whether the previous prediction is used: order 2."""
        return self.solver_order == 2

    def update(
        self,
        process: GaussianProcess,
        prediction: Prediction,
        carry: Carry,
        t: Tensor,
        s: Tensor,
        noise: Noise,
    ) -> Carry:
        """See the module, and `SinglePrediction.update`."""
        z, x0 = carry.z, prediction.x0
        if s <= 0:
            return Carry(x0)
        later, earlier = process.schedule.marginal(t), process.schedule.marginal(s)
        lambda_t, lambda_s = 0.5 * later.log_snr, 0.5 * earlier.log_snr
        h = lambda_s - lambda_t
        data = x0
        if self.solver_order == 2 and carry.history and torch.isfinite(h):
            lambda_before, x0_before = carry.history
            half_inverse = match(0.5 * h / (lambda_t - lambda_before), z)
            data = (1 + half_inverse) * x0 - half_inverse * x0_before
        ratio = earlier.std / later.std
        if self.sde:
            z = match(ratio * torch.exp(-h), z) * z
            z = z - match(earlier.scale * torch.expm1(-2 * h), z) * data
            z = z + match(earlier.std * torch.sqrt(-torch.expm1(-2 * h)), z) * process.draw(
                z, noise
            )
        else:
            z = match(ratio, z) * z - match(earlier.scale * torch.expm1(-h), z) * data
        # A schedule without terminal signal starts at lambda = -inf, of no use to extrapolation.
        return Carry(z, (lambda_t, x0) if torch.isfinite(lambda_t) else ())
