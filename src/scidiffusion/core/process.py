"""What a forward process of any space can do, and the product of several spaces.

A process answers how data of one space is noised and what one reverse step looks like. Everything
above it (objectives, ELBO, samplers, estimators) speaks to this interface alone:

    prior           p(z_1)                                       what sampling starts from
    q_sample        z_t ~ q(z_t | x)                             the diffusion kernel
    forward_step    z_t ~ q(z_t | z_s)                           the chain itself, any s < t
    posterior       q(z_s | z_t, x)                              any s < t
    reverse         p(z_s | z_t), from a denoiser's prediction   any s < t
    divergence      KL(q(z_s | z_t, x) || p(z_s | z_t))          a term of the ELBO, nats
    reconstruction  log p(x | z_s), the ELBO's last term L_0
    prior_divergence  KL(q(z_1 | x) || p(z_1)), the ELBO's first term L_T

A state is a tensor with the row as its first dimension or, for a product, a dict of such.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from scidiffusion.core.distributions import Distribution, Independent
from scidiffusion.core.rng import Noise
from scidiffusion.core.schedules import NoiseSchedule
from scidiffusion.errors import ConfigError

State: TypeAlias = Any
"""Tensor | dict[str, State]."""


@dataclass(frozen=True)
class Corrupted:
    """A draw from the diffusion kernel.

    Args:
        z: The noisy state.
        eps: The noise it was made with (Gaussian spaces), the tangent noise (manifolds) or None
            (categorical); a dict of these for a product.
    """

    z: State
    eps: Any = None


class Process(ABC):
    """Interface of every forward process; see the module for what each method is."""

    schedule: NoiseSchedule
    linear: bool = False
    """Whether states can be added and scaled, which is what ODE and SDE solvers need."""

    @abstractmethod
    def prior(self, like: State, noise: Noise) -> State:
        """Draw z_1 with the shape, dtype and device of `like`."""

    @abstractmethod
    def q_sample(self, x: State, t: Tensor, noise: Noise) -> Corrupted:
        """Draw z_t ~ q(z_t | x); `t` is a scalar or (B,)."""

    @abstractmethod
    def forward_step(self, z: State, s: Tensor, t: Tensor, noise: Noise) -> State:
        """Draw z_t ~ q(z_t | z_s) for s <= t."""

    @abstractmethod
    def posterior(self, x: State, z: State, t: Tensor, s: Tensor) -> Distribution:
        """Return q(z_s | z_t, x)."""

    @abstractmethod
    def reverse(self, prediction: Any, t: Tensor, s: Tensor) -> Distribution:
        """Return p(z_s | z_t); at s = 0 it gives the data and carries no further noise."""

    @abstractmethod
    def divergence(self, x: State, z: State, prediction: Any, t: Tensor, s: Tensor) -> Tensor:
        """Return KL(q(z_s | z_t, x) || p(z_s | z_t)) in nats, (B,), for s > 0."""

    @abstractmethod
    def reconstruction(self, x: State, prediction: Any, t: Tensor) -> Tensor:
        """Return log p(x | z_t) in nats, (B,): the step from the first node to the data."""

    @abstractmethod
    def prior_divergence(self, x: State) -> Tensor:
        """Return KL(q(z_1 | x) || p(z_1)) in nats, (B,)."""

    @abstractmethod
    def predict(self, output: Any, z: State, t: Tensor) -> Any:
        """Turn a network's raw output into this space's prediction."""

    def vlb_term(self, x: State, z: State, prediction: Any, t: Tensor, s: Tensor) -> Tensor:
        """Return L_s: `divergence` where s > 0, minus `reconstruction` where s = 0; (B,) nats."""
        first = torch.as_tensor(s) <= 0
        if bool(first.all()):
            return -self.reconstruction(x, prediction, t)
        kl = self.divergence(x, z, prediction, t, s)
        if not bool(first.any()):
            return kl
        return torch.where(first.to(kl.device), -self.reconstruction(x, prediction, t), kl)


def batch_size(state: State) -> int:
    """Number of rows of a state."""
    while isinstance(state, Mapping):
        state = next(iter(state.values()))
    return int(state.shape[0])


def device_of(state: State) -> torch.device:
    """Device of a state (of its first part)."""
    while isinstance(state, Mapping):
        state = next(iter(state.values()))
    device: torch.device = state.device
    return device


def map_state(function: Callable[..., Any], *states: State) -> State:
    """Apply `function` to corresponding tensors of one or several states of equal structure."""
    if isinstance(states[0], Mapping):
        return {
            name: map_state(function, *(state[name] for state in states)) for name in states[0]
        }
    return function(*states)


class ProductProcess(Process):
    """Several spaces noised side by side at one common time; a state is a dict of states.

    The reverse kernel is the product of the parts' reverse kernels, each given the *joint*
    prediction. That factorisation is exact in the limit of many steps only: with a categorical and
    a Gaussian part, ten steps lose visible dependence between them even with a perfect denoiser.

    Args:
        parts: Name -> process. Discrete schedules must have the same number of nodes.

    Raises:
        ConfigError: if there are no parts, or their schedules do not share their nodes.
    """

    def __init__(self, parts: Mapping[str, Process]) -> None:
        if not parts:
            raise ConfigError("a ProductProcess needs at least one part")
        self.parts = dict(parts)
        nodes = {part.schedule.num_nodes for part in self.parts.values()}
        if len(nodes) > 1:
            raise ConfigError(
                f"the parts of a product share their time, but have {nodes} nodes; give every "
                "part a schedule with the same number of steps"
            )
        self.schedule = next(iter(self.parts.values())).schedule
        self.linear = all(part.linear for part in self.parts.values())

    def __repr__(self) -> str:
        return f"ProductProcess({self.parts})"

    def prior(self, like: State, noise: Noise) -> State:
        """Draw every part from its own prior; see `Process.prior`."""
        return {n: p.prior(like[n], noise.child(n)) for n, p in self.parts.items()}

    def q_sample(self, x: State, t: Tensor, noise: Noise) -> Corrupted:
        """Corrupt every part at the same time; see `Process.q_sample`."""
        drawn = {n: p.q_sample(x[n], t, noise.child(n)) for n, p in self.parts.items()}
        return Corrupted({n: d.z for n, d in drawn.items()}, {n: d.eps for n, d in drawn.items()})

    def forward_step(self, z: State, s: Tensor, t: Tensor, noise: Noise) -> State:
        """See `Process.forward_step`."""
        return {n: p.forward_step(z[n], s, t, noise.child(n)) for n, p in self.parts.items()}

    def posterior(self, x: State, z: State, t: Tensor, s: Tensor) -> Independent:
        """See `Process.posterior`: given x the parts are independent."""
        return Independent({n: p.posterior(x[n], z[n], t, s) for n, p in self.parts.items()})

    def reverse(self, prediction: Mapping[str, Any], t: Tensor, s: Tensor) -> Independent:
        """See `Process.reverse`."""
        return Independent({n: p.reverse(prediction[n], t, s) for n, p in self.parts.items()})

    def divergence(
        self, x: State, z: State, prediction: Mapping[str, Any], t: Tensor, s: Tensor
    ) -> Tensor:
        """Sum of the parts' divergences, (B,)."""
        terms = [p.divergence(x[n], z[n], prediction[n], t, s) for n, p in self.parts.items()]
        return torch.stack(terms).sum(0)

    def reconstruction(self, x: State, prediction: Mapping[str, Any], t: Tensor) -> Tensor:
        """Sum of the parts' reconstruction terms, (B,)."""
        terms = [p.reconstruction(x[n], prediction[n], t) for n, p in self.parts.items()]
        return torch.stack(terms).sum(0)

    def prior_divergence(self, x: State) -> Tensor:
        """Sum of the parts' prior divergences, (B,)."""
        return torch.stack([p.prior_divergence(x[n]) for n, p in self.parts.items()]).sum(0)

    def predict(self, output: Mapping[str, Any], z: State, t: Tensor) -> dict[str, Any]:
        """Turn a network's dict of outputs into a dict of predictions."""
        return {n: p.predict(output[n], z[n], t) for n, p in self.parts.items()}
