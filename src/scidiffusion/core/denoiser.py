r"""Denoisers: what the clean data (or the noise) probably is, given a noisy state.

A denoiser is any callable `(z, t, cond) -> prediction` that knows its process. `NetworkDenoiser`
makes one from a plain network; guidance makes one from another; `scidiffusion.testing` has exact
ones.

Conditions. `cond` is None, a tensor whose first dimension is the row, or a dict of such. A row
whose condition is absent carries -1 (integer conditions) or NaN (real ones); embeddings of
`scidiffusion.nn` replace these by a learned "no condition" vector. That is how condition dropout
and classifier-free guidance name the unconditional model.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from scidiffusion.core.gaussian import GaussianProcess, ReverseVariance
from scidiffusion.core.prediction import Parameterization, Prediction, match
from scidiffusion.core.process import Process, State, batch_size, device_of, map_state
from scidiffusion.core.schedules import as_time
from scidiffusion.errors import ConditionError, ConfigError

Condition: TypeAlias = Any
"""None | Tensor | dict[str, Tensor]; see the module."""


@runtime_checkable
class Denoiser(Protocol):
    """Anything that predicts clean data from noisy."""

    process: Process

    def __call__(self, z: State, t: Tensor, cond: Condition = None) -> Any:
        """Return the prediction at state `z` and time `t` (scalar or (B,)) under `cond`."""
        ...


def drop_condition(cond: Condition, keep: Tensor | None = None) -> Condition:
    """Mark conditions as absent: -1 for integers, NaN for reals.

    Args:
        cond: None, a tensor (B, ...) or a dict of such.
        keep: (B,) bool, rows whose condition stays; None drops all.

    Raises:
        ConditionError: if a condition's dtype has neither -1 nor NaN.
    """
    if cond is None:
        return None

    def drop(value: Tensor) -> Tensor:
        if value.dtype in (torch.bool, torch.uint8):
            raise ConditionError(
                f"a condition of dtype {value.dtype} cannot carry the mark of an absent one (-1); "
                "give integers as int64"
            )
        absent = torch.full_like(value, torch.nan if value.is_floating_point() else -1)
        if keep is None:
            return absent
        return torch.where(keep.reshape(-1, *([1] * (value.ndim - 1))), value, absent)

    return map_state(drop, cond)


class NetworkDenoiser(nn.Module):
    """Make a denoiser of a network.

    Args:
        network: Called as `network(z, time, cond)`; `time` is (B,) float32 in [0, 1]. Its output
            has the structure of `z` (with logits (..., K) for categorical parts).
        process: The process whose `predict` reads the output.
        learned_variance: The network's last dimension is doubled; its second half is the
            variance fraction v of a learned-range variance, read as v = (output + 1) / 2
            (Nichol & Dhariwal 2021, eq. 15). Gaussian processes only.
        channel_dim: The dimension that is doubled.

    Raises:
        ConfigError: if `learned_variance` and the process's variance option disagree.
    """

    def __init__(
        self,
        network: nn.Module,
        process: Process,
        *,
        learned_variance: bool = False,
        channel_dim: int = -1,
    ) -> None:
        super().__init__()
        wants = isinstance(process, GaussianProcess) and (
            process.variance is ReverseVariance.LEARNED
        )
        if learned_variance != wants:
            raise ConfigError(
                "learned_variance=True and a GaussianProcess with variance='learned' go together; "
                f"got learned_variance={learned_variance} and {process!r}"
            )
        self.network = network
        self.process = process
        self.learned_variance = learned_variance
        self.channel_dim = channel_dim

    def forward(self, z: State, t: Tensor, cond: Condition = None) -> Any:
        """Predict; see `Denoiser`."""
        time = as_time(t).to(device=device_of(z), dtype=torch.float32).expand(batch_size(z))
        output = self.network(z, time, cond)
        if not self.learned_variance:
            return self.process.predict(output, z, t)
        mean, fraction = output.chunk(2, self.channel_dim)
        prediction = self.process.predict(mean, z, t)
        return Prediction(
            z,
            prediction.marginal,
            prediction.value,
            prediction.parameterization,
            log_var_fraction=0.5 * (fraction + 1),
        )


def edm_scales(sigma: Tensor, sigma_data: float | Tensor) -> tuple[Tensor, Tensor]:
    """c_skip and c_out of Karras et al. 2022, eq. 7: x0 = c_skip z + c_out F, F of unit variance.

    Args:
        sigma: Noise levels.
        sigma_data: Standard deviation of the data.
    """
    total = sigma**2 + sigma_data**2
    return sigma_data**2 / total, sigma * sigma_data / total.sqrt()


class PreconditionedDenoiser(nn.Module):
    r"""Karras et al. 2022, eq. 7: a network whose input, output and target have unit variance.

    With u = z / scale and sigma = std / scale, for any Gaussian schedule,

        x0 = c_skip u + c_out F(c_in u, c_noise),       c_noise = log(sigma) / 4,
        c_skip = sd^2 / (sigma^2 + sd^2),  c_out = sigma sd / sqrt(sigma^2 + sd^2),
        c_in = 1 / sqrt(sigma^2 + sd^2).

    Args:
        network: Called as `network(c_in u, c_noise, cond)`.
        process: A Gaussian process.
        sigma_data: Standard deviation sd of the data: a number or a tensor broadcastable to a row.

    Raises:
        ConfigError: if the process is not Gaussian, its schedule has zero terminal SNR or
            `sigma_data` is not positive.
    """

    def __init__(
        self, network: nn.Module, process: GaussianProcess, sigma_data: float | Tensor = 1.0
    ) -> None:
        super().__init__()
        if not isinstance(process, GaussianProcess):
            raise ConfigError(
                f"preconditioning is defined for Gaussian processes, not {process!r}"
            )
        if process.schedule.terminal_snr == 0:
            raise ConfigError(
                "preconditioning divides by the signal's scale, which is 0 at t = 1 with zero "
                "terminal SNR; use NetworkDenoiser with parameterization='v'"
            )
        self.network = network
        self.process = process
        self.sigma_data: Tensor
        self.register_buffer("sigma_data", torch.as_tensor(sigma_data, dtype=torch.float32))
        if not bool((self.sigma_data > 0).all()):
            raise ConfigError(f"sigma_data must be positive, got {sigma_data}")

    def forward(self, z: Tensor, t: Tensor, cond: Condition = None) -> Prediction:
        """Predict x0; see `Denoiser`."""
        marginal = self.process.schedule.marginal(as_time(t).to(z.device).expand(z.shape[0]))
        sigma, u = match(marginal.sigma, z), z / match(marginal.scale, z)
        sd = self.sigma_data.to(z.dtype)
        skip, out = edm_scales(sigma, sd)
        total = sigma**2 + sd**2
        c_noise = (0.25 * marginal.sigma.log()).to(torch.float32)
        output = self.network(u / total.sqrt(), c_noise, cond)
        x0 = skip * u + out * output
        return Prediction(z, marginal, self.process.project(x0), Parameterization.X0)
