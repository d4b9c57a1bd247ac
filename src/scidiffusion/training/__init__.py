"""Training: from a denoiser, an objective and data in memory to fitted weights.

`train` does the whole run. Its parts are `DiffusionModule` (what a step is, a Lightning module
that any `Trainer` takes), `Batches` (in-memory data), `TrainConfig` (the options) and checkpoints
without pickle. Names load at first use: importing this package does not import Lightning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scidiffusion import _lazy

if TYPE_CHECKING:
    from scidiffusion.training.batches import Batch as Batch
    from scidiffusion.training.batches import Batches as Batches
    from scidiffusion.training.batches import EvaluationBatches as EvaluationBatches
    from scidiffusion.training.budget import DPBudget as DPBudget
    from scidiffusion.training.config import TrainConfig as TrainConfig
    from scidiffusion.training.fit import TrainResult as TrainResult
    from scidiffusion.training.fit import train as train
    from scidiffusion.training.module import DiffusionModule as DiffusionModule
else:
    __getattr__, __dir__ = _lazy.attach(
        __name__,
        names={
            "Batch": "scidiffusion.training.batches",
            "Batches": "scidiffusion.training.batches",
            "DPBudget": "scidiffusion.training.budget",
            "DiffusionModule": "scidiffusion.training.module",
            "EvaluationBatches": "scidiffusion.training.batches",
            "TrainConfig": "scidiffusion.training.config",
            "TrainResult": "scidiffusion.training.fit",
            "train": "scidiffusion.training.fit",
        },
    )

__all__ = [
    "Batch",
    "Batches",
    "DPBudget",
    "DiffusionModule",
    "EvaluationBatches",
    "TrainConfig",
    "TrainResult",
    "train",
]
