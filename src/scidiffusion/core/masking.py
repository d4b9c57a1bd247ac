r"""Masking diffusion of variables of any kind: hidden or shown, and nothing between.

Each of D variables (a category, a number, or either) disappears at a time of its own. With
probability a = alpha_bar(t) a variable is still shown at time t, so that given how many are
hidden, every set of hidden ones is equally likely. A reverse step that reveals one variable draws
it from p(x_j | the shown ones), which no other noise level enters: the network needs no time.

For any schedule the negative ELBO in continuous time is

    int_0^1 -a'(t) / (1 - a(t)) E_S [ sum_{j in S} -log p(x_j | x_shown) ] dt
        = E_{m ~ U{1..D}} E_{|S| = m} [ D / m sum_{j in S} -log p(x_j | x_shown) ],

since int_0^1 t^{m-1} (1 - t)^{D-m} C(D, m) dt = 1/m. The same number is the expectation over a
random order of the variables of the log-likelihood of revealing them in that order: sampling in D
steps is exact, and conditioning on any variables is to start with them shown.

References:
    Uria et al. 2014 (orderless training); Austin et al. 2021, section 3 (absorbing diffusion);
    Hoogeboom et al. 2022, "Autoregressive Diffusion Models", eqs. 3-6.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from scidiffusion.core.denoiser import Condition
from scidiffusion.core.objectives import Objective
from scidiffusion.core.process import State, batch_size, device_of
from scidiffusion.core.rng import Noise
from scidiffusion.errors import ConfigError


@runtime_checkable
class VariablePrediction(Protocol):
    """What a masking denoiser returns: a distribution of every variable given the shown ones."""

    def log_prob(self, x: State) -> Tensor:
        """Return log p(x_j | shown) of every variable, (B, D) nats; shown ones have no meaning."""
        ...


class MaskingProcess:
    """Hide D variables, each at a time of its own; see the module.

    Args:
        variables: D.

    Raises:
        ConfigError: if there is no variable.
    """

    def __init__(self, variables: int) -> None:
        if isinstance(variables, bool) or variables < 1:
            raise ConfigError(f"variables must be an integer >= 1, got {variables!r}")
        self.variables = int(variables)

    def __repr__(self) -> str:
        return f"MaskingProcess({self.variables})"

    def hide(self, x: State, noise: Noise, *, spread: bool = False) -> Tensor:
        """Draw which variables are hidden, their number m ~ U{1..D}; (B, D) bool.

        Every m is equally likely and, given m, every set: the law of the ELBO's outer expectation.

        Args:
            x: Clean data, rows first.
            noise: Where the randomness comes from.
            spread: Spread the numbers of a batch evenly (systematic sampling), so that its mean
                loss varies less. A row's number then depends on how many rows there are.
        """
        rows, device = batch_size(x), device_of(x)
        uniform = noise.uniform(torch.empty(rows, self.variables + 1, device=device))
        place = uniform[:, -1]
        if spread:
            place = (place[:1] + torch.arange(rows, device=device) / max(rows, 1)) % 1.0
        hidden = 1 + (place * self.variables).floor().clamp(max=self.variables - 1)
        rank = uniform[:, :-1].argsort(1).argsort(1)
        return rank < hidden[:, None]

    def weight(self, hidden: Tensor) -> Tensor:
        """Return D / m, (B, 1): what makes the loss of the hidden variables the ELBO."""
        return self.variables / hidden.sum(1, keepdim=True).clamp(min=1)

    def order(self, hidden: Tensor, noise: Noise, *, leader: Tensor | None = None) -> Tensor:
        """Draw in which order the hidden variables of every row are revealed.

        Args:
            hidden: (B, D) bool.
            noise: Where the randomness comes from.
            leader: (B,) index of the row whose random order of all variables a row takes (its own
                hidden ones of it): any choice is exact for every row, and fewer orders at a time
                cost less. None is the row itself.

        Returns:
            (B, D) long: position of each variable in its row's order; of a shown one, D.
        """
        uniform = noise.uniform(torch.empty(hidden.shape, device=hidden.device))
        if leader is not None:
            uniform = uniform[leader]
        key = torch.where(hidden, uniform, 2.0)
        position = torch.argsort(key, dim=1, stable=True).argsort(1)
        return torch.where(hidden, position, self.variables)


class AnyOrderLoss(Objective):
    """The negative ELBO of a masking denoiser, one random set of hidden variables a row, in nats.

    Hoogeboom et al. 2022, eq. 6. The denoiser is called as `denoiser(x, hidden)` and returns a
    `VariablePrediction`; its `process` is a `MaskingProcess`.

    Args:
        spread: See `MaskingProcess.hide`. Differential privacy needs False: whether a row is there
            must not change what is hidden in the others.
    """

    def __init__(self, *, spread: bool = False) -> None:
        self.spread = spread

    def __call__(
        self,
        denoiser: Any,
        x: State,
        noise: Noise,
        cond: Condition = None,
        t: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of every row, (B,).

        Args:
            denoiser: What is trained.
            x: Clean data.
            noise: Source of the hidden sets.
            cond: Must be None: what is known is shown.
            t: Must be None: how many are hidden takes the place of time.
        """
        if cond is not None or t is not None:
            raise ConfigError("a masking denoiser takes neither a condition nor a time")
        process = denoiser.process
        hidden = process.hide(x, noise.child("hidden"), spread=self.spread)
        lost = denoiser(x, hidden).log_prob(x).masked_fill(~hidden, 0.0).sum(1)
        return -lost * process.weight(hidden)[:, 0]


def reveal_steps(position: Tensor, variables: int, steps: int | None) -> Tensor:
    """Return the step at which each variable is revealed, from its position in the order.

    Args:
        position: Positions 0 .. D - 1, or D for variables that are shown from the start.
        variables: D.
        steps: Number of steps; None is one variable a step. With fewer, those of one step are
            drawn independently of each other, given what is shown.

    Raises:
        ConfigError: if `steps` < 1.
    """
    if steps is None or steps >= variables:
        return position
    if steps < 1:
        raise ConfigError(f"steps must be >= 1, got {steps}")
    return torch.where(position < variables, position * steps // variables, steps)


def any_order_log_prob(
    denoiser: Any, x: State, noise: Noise, *, orders: int = 1, steps: int | None = None
) -> Tensor:
    """Log-likelihood of rows, averaged over random orders of revealing the variables, (B,) nats.

    Its expectation over orders is the ELBO, a lower bound of the log of the averaged likelihood; a
    denoiser whose conditionals are those of one joint distribution gives that distribution's
    log-probability in every order. Takes one call of the denoiser a step and order.

    Args:
        denoiser: A masking denoiser.
        x: Clean data.
        noise: Source of the orders.
        orders: Number of random orders.
        steps: Steps of an order; None is one variable a step. Fewer bound the likelihood of
            sampling in that many steps.

    Raises:
        ConfigError: if `orders` or `steps` < 1.
    """
    if orders < 1:
        raise ConfigError(f"orders must be >= 1, got {orders}")
    process = denoiser.process
    everything = torch.ones(
        batch_size(x), process.variables, dtype=torch.bool, device=device_of(x)
    )
    total = torch.zeros(len(everything), dtype=torch.float64, device=everything.device)
    for index in range(orders):
        position = process.order(everything, noise.at(index).child("order"))
        when = reveal_steps(position, process.variables, steps)
        for step in range(int(when.max()) + 1):
            log_prob = denoiser(x, when >= step).log_prob(x)
            total += log_prob.masked_fill(when != step, 0.0).sum(1, dtype=torch.float64)
    return total / orders
