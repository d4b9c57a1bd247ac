r"""The evidence lower bound, term by term.

    log p(x) >= -(L_T + sum over steps of KL(q(z_s | z_t, x) || p(z_s | z_t)) + L_0),
    L_T = KL(q(z_1 | x) || p(z_1)),    L_0 = -E log p(x | z_{t_1})

(Prince 2023, eq. 18.25; Bishop & Bishop 2024, eqs. 20.31-20.32; Ho et al. 2020, eq. 5), for any
process whose terms have a closed form and any grid of times. Lecture notes often drop L_T; it is
not small where the schedule ends before the data is forgotten, and then sampling from the prior is
wrong
too: `check_terminal` warns.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from scidiffusion.core.denoiser import Condition, Denoiser
from scidiffusion.core.process import Process, State, batch_size, map_state
from scidiffusion.core.rng import KeyedNoise, Noise
from scidiffusion.core.schedules import check_steps
from scidiffusion.errors import ConfigError, ScidiffusionWarning

TERMINAL_TOLERANCE = 1e-3
"""L_T in nats per variable above which the terminal distribution does not count as the prior."""


@dataclass(frozen=True)
class ELBO:
    """The terms of the bound, in nats; `total` is the bound itself.

    Args:
        grid: (n + 1,) times from 1 down to 0.
        prior: (B,) L_T.
        divergences: (B, n - 1) KL terms, the noisiest step first.
        reconstruction: (B,) -L_0, a log-probability (or log-density) of the data.
    """

    grid: Tensor
    prior: Tensor
    divergences: Tensor
    reconstruction: Tensor

    @property
    def total(self) -> Tensor:
        """(B,) Lower bound of log p(x)."""
        return self.reconstruction - self.divergences.sum(1) - self.prior

    def __repr__(self) -> str:
        return (
            f"ELBO(total={float(self.total.mean()):.4f}, L_T={float(self.prior.mean()):.4g}, "
            f"KL={float(self.divergences.sum(1).mean()):.4g}, "
            f"L_0={-float(self.reconstruction.mean()):.4g} nats, mean of {len(self.prior)} rows)"
        )


@torch.no_grad()
def elbo(
    denoiser: Denoiser,
    x: State,
    *,
    steps: int | None = None,
    grid: Tensor | None = None,
    noise: Noise | None = None,
    cond: Condition = None,
    draws: int = 1,
) -> ELBO:
    """Estimate the ELBO of every row, with one noisy state a term and draw.

    Args:
        denoiser: Gives the reverse kernels.
        x: Data.
        steps: Steps of the chain; None is T of a discrete schedule and 1000 for a continuous one.
        grid: Times from 1 to 0, in place of `steps` uniform ones.
        noise: Source of noise; default `KeyedNoise(0)`.
        cond: Condition of each row.
        draws: Independent draws to average over.

    Returns:
        The terms. Each is an unbiased estimate; `prior` is exact.

    Raises:
        ConfigError: if the grid does not fall from 1 to 0, or `steps` or `draws` is below 1.
    """
    process = denoiser.process
    noise = KeyedNoise(0) if noise is None else noise
    check_steps(draws)
    if grid is None:
        steps = process.schedule.num_nodes or 1000 if steps is None else steps
        grid = process.schedule.grid(steps, "uniform")
    check_grid(grid)
    check_terminal(process, x, stacklevel=4)
    terms: list[list[Tensor]] = [[] for _ in range(len(grid) - 1)]
    for draw in range(draws):
        for index, (t, s) in enumerate(pairwise(grid)):
            source = noise.child(f"elbo{draw}").at(index)
            z = process.q_sample(x, t, source).z
            terms[index].append(process.vlb_term(x, z, denoiser(z, t, cond), t, s))
    means = [torch.stack(values).mean(0) for values in terms]
    divergences = torch.stack(means[:-1], 1) if len(means) > 1 else means[0][:, None][:, :0]
    return ELBO(grid, process.prior_divergence(x), divergences, -means[-1])


def check_grid(grid: Tensor, *, partial: bool = False) -> None:
    """Raise ConfigError unless `grid` falls strictly from 1, or from less if `partial`, to 0."""
    usable = grid.ndim == 1 and len(grid) > 1 and float(grid[-1]) == 0
    if not usable or (float(grid[0]) != 1 and not partial) or not 0 < float(grid[0]) <= 1:
        raise ConfigError(
            "a grid of times is 1-D, begins with 1 (noise; later only where the state z there is "
            "given) and ends with 0 (data)"
        )
    if not bool((grid[1:] < grid[:-1]).all()):
        raise ConfigError("a grid of times must be strictly decreasing")


def check_terminal(process: Process, x: State, *, stacklevel: int = 2) -> float:
    """Warn if the data is not forgotten at t = 1; return L_T in nats per variable."""
    variables = sum(_sizes(x))
    mismatch = float(process.prior_divergence(x).mean()) / max(variables, 1)
    if mismatch > TERMINAL_TOLERANCE:
        warnings.warn(
            f"the terminal distribution is not the prior: L_T = {mismatch:.3g} nats per variable "
            f"(alpha_bar or signal left at t = 1: {process.schedule.terminal_snr:.3g}). Samples "
            "started from the prior will be biased; use a schedule with more noise, or scale the "
            "data down",
            ScidiffusionWarning,
            stacklevel=stacklevel,
        )
    return mismatch


def _sizes(x: State) -> list[int]:
    sizes: list[int] = []
    map_state(lambda value: sizes.append(value.numel() // max(batch_size(value), 1)), x)
    return sizes
