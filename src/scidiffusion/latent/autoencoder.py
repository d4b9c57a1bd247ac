r"""A small learned autoencoder: two residual MLPs.

    loss = |x - D(E(x) + noise eps)|^2 / d + pull |E(x)|^2 / k,       eps ~ N(0, I)

The noise makes the decoder smooth, so that a code that is a little off decodes to a row that is a
little off; the pull keeps codes from growing out of the noise's reach. With a Gaussian posterior
of fixed width this is a variational autoencoder's bound (Kingma & Welling 2014, eq. 10), of which
Rombach et al. 2022 (section 3.1) take the same for images.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from scidiffusion.core.objectives import Objective
from scidiffusion.core.rng import Noise
from scidiffusion.errors import ConfigError
from scidiffusion.estimator import (
    check_positive,
    check_seed,
    resolve_device,
    split_rows,
    training_config,
)
from scidiffusion.latent.encoders import Array, Encoder

BATCH = 4096
"""Rows that are encoded or decoded at once."""


class _Pair(nn.Module):
    """Encoder and decoder of standardised, flattened rows."""

    def __init__(self, columns: int, latent: int, width: int, blocks: int) -> None:
        super().__init__()
        self.encoder = _mlp(columns, latent, width, blocks)
        self.decoder = _mlp(latent, columns, width, blocks)


def _mlp(columns: int, out: int, width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(columns, width),
        *(_Block(width) for _ in range(blocks)),
        nn.LayerNorm(width),
        nn.Linear(width, out),
    )


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class _Reconstruction(Objective):
    of_denoisers = False

    def __init__(self, noise: float, pull: float) -> None:
        self.noise, self.pull = noise, pull

    def __call__(
        self, denoiser: Any, x: Any, noise: Noise, cond: Any = None, t: Tensor | None = None
    ) -> Tensor:
        """Loss of every row, (B,); see the module."""
        code = denoiser.encoder(x)
        made = denoiser.decoder(code + self.noise * noise.normal(code))
        return (made - x).square().mean(1) + self.pull * code.square().mean(1)


class AutoEncoder(Encoder):
    """See the module.

    Args:
        latent_dim: Length k of a code.
        width: Width of the MLPs.
        blocks: Residual blocks of each.
        noise: Standard deviation of the noise on codes in training.
        pull: Weight of the codes' squares.
        max_steps: Training steps at most.
        batch_size: Rows a training step.
        lr: Peak learning rate.
        budget: Training time at most: seconds or a text such as "2min"; None is no limit.
        patience: Evaluations without improvement before training stops.
        validation_fraction: Share of the rows held out, in [0, 0.5].
        device: "auto", "cpu" or "cuda".
        random_state: Seed; None takes a fresh one.
        progress: Show a progress bar.

    Attributes:
        training_: `scidiffusion.training.TrainResult` of the fit; not saved.
    """

    pair_: _Pair

    def __init__(
        self,
        latent_dim: int = 8,
        *,
        width: int = 256,
        blocks: int = 2,
        noise: float = 0.1,
        pull: float = 1e-3,
        max_steps: int = 3000,
        batch_size: int = 256,
        lr: float = 2e-3,
        budget: float | str | None = None,
        patience: int = 10,
        validation_fraction: float = 0.1,
        device: str = "auto",
        random_state: int | None = None,
        progress: bool = True,
    ) -> None:
        self.latent_dim = latent_dim
        self.width = width
        self.blocks = blocks
        self.noise = noise
        self.pull = pull
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.lr = lr
        self.budget = budget
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.device = device
        self.random_state = random_state
        self.progress = progress

    def fit(self, X: Array) -> Self:
        """Train.

        Raises:
            ConfigError: if an option is out of range.
        """
        from scidiffusion.training import train

        for name in ("latent_dim", "width", "blocks"):
            check_positive(getattr(self, name), name)
        if self.noise < 0 or self.pull < 0:
            raise ConfigError(f"noise and pull must be >= 0, got {self.noise} and {self.pull}")
        seed, device = check_seed(self.random_state), resolve_device(self.device)
        self.shape_ = X.shape[1:]
        flat = X.reshape(len(X), -1)
        # One scale for all: a column that hardly varies is not to be magnified.
        self.mean_, self.scale_ = flat.mean(0), float(flat.std(0).mean() or 1.0)
        self._build(flat.shape[1], seed)
        data = torch.from_numpy((flat - self.mean_) / self.scale_).float()
        kept, held = split_rows(len(data), self.validation_fraction, seed)
        self.training_ = train(
            self.pair_,
            _Reconstruction(self.noise, self.pull),
            data[kept],
            validation=(data[held], None) if len(held) else None,
            config=training_config(
                self, seed, validate_every=max(1, min(200, self.max_steps // 5))
            ),
        )
        self.pair_ = self.pair_.to(device).eval()
        return self

    def _build(self, columns: int, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.pair_ = _Pair(columns, self.latent_dim, self.width, self.blocks)

    def encode(self, X: Array) -> Array:
        """Codes (n, latent_dim)."""
        return self._through(
            self.pair_.encoder, (X.reshape(len(X), -1) - self.mean_) / self.scale_
        )

    def decode(self, Z: Array) -> Array:
        """Rows of codes."""
        made = self._through(self.pair_.decoder, Z) * self.scale_ + self.mean_
        return np.asarray(made.reshape(len(Z), *self.shape_))

    @torch.no_grad()
    def _through(self, network: nn.Module, rows: Array) -> Array:
        device = next(network.parameters()).device
        parts = [
            network(torch.from_numpy(rows[first : first + BATCH]).to(device, torch.float32))
            for first in range(0, len(rows), BATCH)
        ]
        return np.asarray(torch.cat(parts).double().cpu().numpy())

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See `Encoder.state`."""
        notes = {"shape": list(self.shape_), "mean": self.mean_.tolist(), "scale": self.scale_}
        return notes, dict(self.pair_.state_dict())

    def restore(self, notes: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        """See `Encoder.restore`."""
        self.shape_, self.scale_ = tuple(notes["shape"]), notes["scale"]
        self.mean_ = np.asarray(notes["mean"])
        self._build(len(self.mean_), 0)
        self.pair_.load_state_dict(tensors)
        self.pair_ = self.pair_.to(resolve_device(self.device)).eval()
        return self
