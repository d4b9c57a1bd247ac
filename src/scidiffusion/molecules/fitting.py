"""What the estimators of molecules share of their training: a step is one bundle of molecules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from scidiffusion.estimator import training_config

if TYPE_CHECKING:
    from pathlib import Path

    from scidiffusion.core.objectives import Objective
    from scidiffusion.training import TrainConfig, TrainResult


def bundle_training(estimator: Any, seed: int, **choices: Any) -> TrainConfig:
    """Options of a training whose rows are bundles; see `estimator.training_config`."""
    # What hides conditions is the objective, not the training: a bundle has many.
    shared = {"batch_size": 1, "weight_decay": 1e-2, "anneal": 0.25, "condition_dropout": 0.0}
    return training_config(estimator, seed, **shared | choices)


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
