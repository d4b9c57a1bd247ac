"""What the estimators of molecules share of their training: a step is one bundle of molecules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from scidiffusion.durations import seconds
from scidiffusion.errors import ConfigError
from scidiffusion.estimator import native_bf16, resolve_device

if TYPE_CHECKING:
    from pathlib import Path

    from scidiffusion.core.objectives import Objective
    from scidiffusion.training import TrainConfig, TrainResult


def training_config(estimator: Any, seed: int, **choices: Any) -> TrainConfig:
    """Options of a training whose rows are bundles, from an estimator's constructor arguments.

    Args:
        estimator: With max_steps, lr, ema_decay, patience, precision, budget, device, progress.
        seed: Seed of the training.
        choices: What else the estimator chooses; see `TrainConfig`.

    Raises:
        ConfigError: if an option is out of range.
    """
    from scidiffusion.training import TrainConfig

    device, precision = resolve_device(estimator.device), estimator.precision
    if precision not in ("auto", "float32", "bf16"):
        raise ConfigError(f"precision must be 'auto', 'float32' or 'bf16', got {precision!r}")
    bf16 = precision == "bf16" or (precision == "auto" and native_bf16(device))
    return TrainConfig(
        max_steps=estimator.max_steps,
        batch_size=1,
        lr=estimator.lr,
        weight_decay=1e-2,
        ema_decay=estimator.ema_decay,
        patience=estimator.patience,
        anneal=0.25,
        precision="bf16" if bf16 else "float32",
        budget=None if estimator.budget is None else seconds(estimator.budget),
        seed=seed,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        progress=estimator.progress,
        **choices,
    )


def train_bundles(
    denoiser: nn.Module,
    objective: Objective,
    kept: int,
    held: int,
    config: TrainConfig,
    *,
    checkpoint_dir: str | Path | None,
    resume: bool,
) -> TrainResult:
    """Train on bundles: a row of the data is a number, those from `kept` on are held out."""
    from scidiffusion.training import train

    rows = torch.arange(kept + held)[:, None]
    return train(
        denoiser,
        objective,
        rows[:kept],
        validation=(rows[kept:], None) if held else None,
        config=config,
        checkpoint_dir=checkpoint_dir,
        resume=resume,
    )
