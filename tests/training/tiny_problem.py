"""A small problem that trains in milliseconds a step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scidiffusion.core.denoiser import NetworkDenoiser
from scidiffusion.core.gaussian import GaussianProcess
from scidiffusion.core.objectives import SimpleLoss
from scidiffusion.core.schedules import CosineVP
from scidiffusion.training import TrainConfig

__all__ = ["Net", "config", "data", "denoiser", "objective", "weights"]


class Net(nn.Module):
    """A two-layer network that takes an integer condition and has dropout."""

    def __init__(self, width: int = 16, dropout: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, 2)
        )
        self.embedding = nn.Embedding(4, 2)

    def forward(self, z: Tensor, time: Tensor, cond: Tensor | None = None) -> Tensor:
        shift = 0.0 if cond is None else self.embedding(cond + 1)
        return self.layers(torch.cat([z + shift, time[:, None]], 1))


def denoiser(seed: int = 0, **options) -> NetworkDenoiser:
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    network = Net(**options)
    torch.random.set_rng_state(generator_state)
    return NetworkDenoiser(network, GaussianProcess(CosineVP()))


def data(rows: int = 100, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.5 * torch.randn(rows, 2, generator=generator) + 1


def objective() -> SimpleLoss:
    return SimpleLoss()


def config(**changes) -> TrainConfig:
    options = {
        "max_steps": 20,
        "batch_size": 16,
        "lr": 1e-2,
        "warmup_steps": 3,
        "validate_every": 5,
        "validation_draws": 64,
        "progress": False,
        "accelerator": "cpu",
        "seed": 3,
    }
    return TrainConfig(**(options | changes))


def weights(module: nn.Module) -> Tensor:
    """All parameters as one vector, copied."""
    return nn.utils.parameters_to_vector(module.parameters()).detach().clone()
