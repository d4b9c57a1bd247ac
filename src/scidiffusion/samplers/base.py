r"""What a sampler is, and the one loop that runs every sampler.

A sampler walks from noise to data over a grid of times 1 = t_0 > t_1 > ... > t_n = 0. It is a pure
function of its arguments: what a multistep method remembers travels in the `Carry`, times are
passed as pairs (t, s), noise is keyed by the step. The same sampler object may therefore serve any
number of threads, and a run may stop at a step and resume there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from scidiffusion.core.denoiser import Condition, Denoiser
from scidiffusion.core.elbo import check_grid
from scidiffusion.core.gaussian import GaussianProcess
from scidiffusion.core.prediction import Prediction
from scidiffusion.core.process import Process, ProductProcess, State
from scidiffusion.core.rng import KeyedNoise, Noise
from scidiffusion.core.schedules import Spacing
from scidiffusion.errors import ConfigError


@dataclass(frozen=True)
class Carry:
    """What travels from step to step.

    Args:
        z: State.
        history: What the method remembers of earlier steps; empty at first.
    """

    z: State
    history: tuple[Any, ...] = ()


class Sampler(ABC):
    """Interface of every sampler.

    Attributes:
        order: Order of convergence in the step size, towards the exact reverse process's law (its
            weak order where the method is stochastic).
        stochastic: Whether it draws noise on the way.
        multistep: Whether a step uses what earlier steps found (the carry's history).
        spacing: The grid spacing it is at its best with.
    """

    order: float = 1
    stochastic: bool = False
    multistep: bool = False
    spacing: Spacing = Spacing.LOG_SNR

    def supports(self, process: Process) -> bool:
        """Whether the method is defined for the process; by default for linear Gaussian ones."""
        return process.linear and not isinstance(process, ProductProcess)

    def check(self, process: Process) -> None:
        """Raise ConfigError if the method is not defined for the process."""
        if not self.supports(process):
            raise ConfigError(
                f"{type(self).__name__} is not defined for {process!r}; Ancestral is for every "
                "process, and PartwiseSampler gives each part of a product its own"
            )

    def init(self, z: State) -> Carry:
        """Return the carry of the first step."""
        return Carry(z)

    @abstractmethod
    def step(
        self,
        process: Any,
        denoiser: Denoiser,
        carry: Carry,
        t: Tensor,
        s: Tensor,
        noise: Noise,
        cond: Condition = None,
    ) -> Carry:
        """Go from time t to the earlier time s (0-dimensional float64 tensors)."""


class SinglePrediction(Sampler):
    """A sampler that evaluates the denoiser once a step, at (z, t): it is an `update` rule.

    `PartwiseSampler` combines such rules, one a part of a product.
    """

    def step(
        self,
        process: Any,
        denoiser: Denoiser,
        carry: Carry,
        t: Tensor,
        s: Tensor,
        noise: Noise,
        cond: Condition = None,
    ) -> Carry:
        """Predict once, then `update`; see `Sampler.step`."""
        return self.update(process, denoiser(carry.z, t, cond), carry, t, s, noise)

    @abstractmethod
    def update(
        self, process: Any, prediction: Any, carry: Carry, t: Tensor, s: Tensor, noise: Noise
    ) -> Carry:
        """Go from t to s, given the prediction at (carry.z, t)."""


def sample(
    process: Process,
    denoiser: Denoiser,
    like: State,
    *,
    sampler: Sampler,
    steps: int | None = None,
    spacing: Spacing | str | None = None,
    grid: Tensor | None = None,
    noise: Noise | None = None,
    cond: Condition = None,
    z: State | None = None,
    callback: Callable[[int, Tensor, State], None] | None = None,
    differentiable: bool = False,
) -> State:
    """Draw samples: the one loop that every method and every space shares.

    Args:
        process: Forward process (usually `denoiser.process`).
        denoiser: What predicts the data; guidance wraps it.
        like: A state whose shapes, dtypes and device the samples get; its values do not matter.
        sampler: The method.
        steps: Number of steps; None is every node of a discrete schedule, 50 for a continuous one.
        spacing: Spacing of the grid; default the sampler's own.
        grid: Times from 1 to 0, in place of `steps` and `spacing`. With `z` it may begin later:
            the walk is then from data that were noised only so far (Meng et al. 2022, "SDEdit").
        noise: Source of noise; default `KeyedNoise(0)`.
        cond: Condition of each row.
        z: State at the first time of the grid, in place of a draw from the prior.
        callback: Called as callback(index, t, z) at the start and after every step.
        differentiable: Keep the graph of derivatives, of all steps: to train through the walk.

    Returns:
        States at t = 0.

    Raises:
        ConfigError: if the method does not fit the process, or the grid or steps are unusable.
    """
    with torch.set_grad_enabled(differentiable and torch.is_grad_enabled()):
        sampler.check(process)
        noise = KeyedNoise(0) if noise is None else noise
        if grid is None:
            steps = steps if steps is not None else (process.schedule.num_nodes or 50)
            grid = process.schedule.grid(steps, spacing or sampler.spacing)
        check_grid(grid, partial=z is not None)
        carry = sampler.init(process.prior(like, noise.child("prior")) if z is None else z)
        if callback is not None:
            callback(0, grid[0], carry.z)
        for index, (t, s) in enumerate(pairwise(grid), start=1):
            carry = sampler.step(process, denoiser, carry, t, s, noise.at(index), cond)
            if callback is not None:
                callback(index, s, carry.z)
        return carry.z


@torch.no_grad()
def trajectory(*args: Any, **kwargs: Any) -> tuple[State, list[State], Tensor]:
    """Like `sample`, but also return every state on the way and its time.

    Returns:
        (samples, states of length steps + 1 from noise to data, times (steps + 1,)).
    """
    states: list[State] = []
    times: list[Tensor] = []

    def keep(_: int, t: Tensor, z: State) -> None:
        states.append(z)
        times.append(t)

    result = sample(*args, callback=keep, **kwargs)
    return result, states, torch.stack(times)


def count_evaluations(process: GaussianProcess, sampler: Sampler, grid: Tensor) -> int:
    """Return how often a sampler evaluates the denoiser over a grid of times, one after the other.

    Counted, on a walk of a single number: a method may evaluate between its steps.
    """
    calls = 0

    def count(z: Tensor, t: Tensor, cond: Condition = None) -> Prediction:
        nonlocal calls
        calls += 1
        return Prediction(z, process.schedule.marginal(t), torch.zeros_like(z))

    dry: Any = count
    sample(process, dry, torch.empty(1, 1), sampler=sampler, grid=grid)
    return calls
