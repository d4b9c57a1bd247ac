r"""What the two networks of a GAN minimise, row by row, from logits of the discriminator.

    discriminator    softplus(-D(real)) + softplus(D(fake))
    generator        softplus(-D(fake))
    penalty          |grad_x D(x)|^2 / 2   at real x

The first two are the non-saturating pair (Goodfellow et al. 2014, section 3), whose generator
learns even where the discriminator is sure. The penalty, R1 of Mescheder, Geiger & Nowozin (2018,
eq. 9), makes the game's equilibrium attract: without it a discriminator that has won keeps a slope
on the data and drives the generator round.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Loss of the discriminator, (B,) nats.

    Args:
        real: (B,) logits of real rows.
        fake: (B,) logits of generated rows.
    """
    return functional.softplus(-real) + functional.softplus(fake)


def generator_loss(fake: Tensor) -> Tensor:
    """Non-saturating loss of the generator, (B,) nats.

    Args:
        fake: (B,) logits of generated rows.
    """
    return functional.softplus(-fake)


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor], x: Tensor
) -> tuple[Tensor, Tensor]:
    """R1: half the squared gradient of the logit at x; see the module.

    Args:
        discriminator: Maps (B, ...) to (B,) logits, each of its own row alone.
        x: (B, ...) real rows.

    Returns:
        ((B,) penalties, differentiable in the discriminator's weights; (B,) logits).
    """
    x = x.detach().requires_grad_(True)
    logits = discriminator(x)
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return 0.5 * gradient.square().flatten(1).sum(1), logits
