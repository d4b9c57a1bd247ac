r"""The two players, around any two networks, and the pair of perceptrons that is the default.

    generator        x = G(z_t, latent, t),        latent ~ N(0, I)
    discriminator    D(z_s, z_t, t), one logit a row

The latent is what makes p(x | z_t) more than a point: without it the best generator is a mean
(Xiao et al. 2022, section 3.2).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scidiffusion.core.gaussian import GaussianProcess
from scidiffusion.core.rng import Noise
from scidiffusion.core.schedules import as_time
from scidiffusion.nn import FourierCoordinates, ResidualMLP

FEW_COLUMNS = 8
"""Rows of up to so many numbers are shown to the perceptrons with their sines and cosines."""


class LatentGenerator(nn.Module):
    """Draw clean data by a network that is given a latent; a `CleanDrawer`.

    Args:
        network: Called as network(z, time, latent) with (B, ...), (B,) and (B, latent_dim); gives
            the shape of z. `UNet(..., conditions={"latent": ("vector", latent_dim)})` is one.
        process: Process of the noisy states.
        latent_dim: Length of a latent.
    """

    process: GaussianProcess

    def __init__(self, network: nn.Module, process: GaussianProcess, latent_dim: int) -> None:
        super().__init__()
        self.network, self.process, self.latent_dim = network, process, latent_dim

    def draw_clean(self, z: Tensor, t: Tensor, noise: Noise) -> Tensor:
        """Draw x ~ p(x | z_t); see `CleanDrawer.draw_clean`."""
        latent = noise.child("latent").normal(z.new_empty(len(z), self.latent_dim))
        drawn: Tensor = self.network(z, _times(t, z), latent)
        return drawn


class PairDiscriminator(nn.Module):
    """Tell real pairs (z_s, z_t) from generated ones.

    Args:
        network: Called as network(pair, time), where `pair` are z_s and z_t one after the other
            along dimension 1, (B, 2 C, ...); what it returns is averaged over all but the rows.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, earlier: Tensor, later: Tensor, t: Tensor) -> Tensor:
        """Logits (B,) that `earlier` is a true z_s, given `later`, z_t, at times `t`."""
        output: Tensor = self.network(torch.cat((earlier, later), 1), _times(t, later))
        return output.flatten(1).mean(1)


class LatentMLP(nn.Module):
    """A residual perceptron that reads the latent beside the row.

    Args:
        entries: Numbers of a row.
        latent_dim: Length of a latent.
        width: Width of the perceptron.
        blocks: Its residual blocks.
    """

    def __init__(self, entries: int, latent_dim: int, width: int, blocks: int) -> None:
        super().__init__()
        self.inner = ResidualMLP(
            _wide(entries) + latent_dim, entries, width, blocks, zero_init_output=False
        )
        self.waves = FourierCoordinates() if entries <= FEW_COLUMNS else nn.Identity()

    def forward(self, z: Tensor, time: Tensor, latent: Tensor) -> Tensor:
        """Map (B, ...), (B,) and (B, latent_dim) to the shape of z."""
        seen = torch.cat((self.waves(z.flatten(1)), latent), 1)
        return self.inner(seen, time).reshape(z.shape)


def default_networks(
    entries: int, latent_dim: int, width: int, blocks: int
) -> tuple[nn.Module, nn.Module]:
    """Return perceptrons for rows of any shape with so many entries: (generator, discriminator).

    Args:
        entries: Numbers of a row.
        latent_dim: Length of a latent.
        width: Width of both.
        blocks: Residual blocks of both.
    """
    judge = ResidualMLP(
        2 * entries,
        1,
        width,
        blocks,
        coordinates=FourierCoordinates() if entries <= FEW_COLUMNS else None,
        zero_init_output=False,
    )
    return LatentMLP(entries, latent_dim, width, blocks), judge


def _wide(entries: int) -> int:
    return FourierCoordinates().out_dim(entries) if entries <= FEW_COLUMNS else entries


def _times(t: Tensor, z: Tensor) -> Tensor:
    return as_time(t).to(z.device, torch.float32).expand(len(z))
