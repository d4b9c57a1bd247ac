"""Options of a training run, checked where they are given.

This module imports nothing of Lightning, so that an estimator can hold a `TrainConfig` without
paying for the training loop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from numbers import Integral, Real
from typing import Any

from scidiffusion.core.schedules import check_option
from scidiffusion.errors import ConfigError
from scidiffusion.training.budget import DPBudget


class Precision(StrEnum):
    """Arithmetic of the network; everything else stays float32 (and float64 in schedules)."""

    FLOAT32 = "float32"
    BF16 = "bf16"


class Accelerator(StrEnum):
    """Where training runs: AUTO is the first CUDA device if there is one, else the CPU."""

    AUTO = "auto"
    CPU = "cpu"
    GPU = "gpu"


class Decay(StrEnum):
    """How the learning rate falls to 0 once `decay_start` of the run is over."""

    COSINE = "cosine"
    LINEAR = "linear"
    NONE = "none"


@dataclass(frozen=True)
class TrainConfig:
    """Options of `train`.

    Args:
        max_steps: Optimizer steps at most.
        batch_size: Rows of a step; capped at the number of rows there are.
        lr: Peak learning rate of AdamW.
        weight_decay: Decoupled weight decay of matrices; biases, gains and other vectors have 0.
        betas: AdamW's decay rates of the first and second moment, in [0, 1).
        warmup_steps: Steps over which the learning rate rises linearly from 0.
        decay: How the learning rate falls at the end: "cosine", "linear" or "none".
        decay_start: Progress, in [0, 1], at which it begins to fall. Progress is
            max(step / max_steps, elapsed / budget), so a run cut short by its budget also
            ends at learning rate 0.
        ema_decay: Decay of the exponential moving average of the weights, in [0, 1); warmed up
            as min(ema_decay, (1 + step) / (10 + step)).
        gradient_clip: Largest 2-norm of the whole gradient; None is no clipping.
        precision: "float32", or "bf16": the network runs under bfloat16 autocast.
        condition_dropout: Probability with which a row's condition is hidden from the network, in
            [0, 1); what classifier-free guidance needs.
        validate_every: Steps between two evaluations on the held-out rows (and two entries of
            the history).
        validation_draws: Number of (row, noise) draws of an evaluation. Rows are repeated with
            other noise where there are fewer; rows beyond it are not used.
        patience: Evaluations without improvement after which training stops; None is never.
        anneal: Steps, as a share of those up to the best evaluation, in which a run out of
            patience still goes from its best weights to learning rate 0; 0 stops at once.
        min_delta: How much lower than the last improvement the held-out loss must be to count as
            the next one.
        budget: Seconds of wall clock, counted across resumed runs; None is no limit. At least
            one step is done.
        checkpoint_every: Seconds between two checkpoints, where there is a checkpoint folder; the
            first is written after the first step.
        seed: Seed of batches, noise, condition dropout and the network's own dropout.
        accelerator: "auto", "cpu" or "gpu".
        progress: Show a progress bar on standard error.
        compile: Compile the network with `torch.compile`; needs a C++ compiler on the CPU.
        privacy: Budget of differential privacy, all of it for the training; None trains without.
            See `scidiffusion.training.private`.

    Raises:
        ConfigError: if an option has an impossible value; the message names it.
    """

    max_steps: int = 10_000
    batch_size: int = 1024
    lr: float = 1e-3
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_steps: int = 100
    decay: Decay | str = Decay.COSINE
    decay_start: float = 0.5
    ema_decay: float = 0.999
    gradient_clip: float | None = 1.0
    precision: Precision | str = Precision.FLOAT32
    condition_dropout: float = 0.0
    validate_every: int = 500
    validation_draws: int = 4096
    patience: int | None = None
    anneal: float = 0.0
    min_delta: float = 0.0
    budget: float | None = None
    checkpoint_every: float = 60.0
    seed: int = 0
    accelerator: Accelerator | str = Accelerator.AUTO
    progress: bool = True
    compile: bool = False
    privacy: DPBudget | None = None

    def __post_init__(self) -> None:
        for name in ("max_steps", "batch_size", "validate_every", "validation_draws"):
            self._integer(name, 1)
        for name in ("warmup_steps", "seed"):
            self._integer(name, 0)
        if self.patience is not None:
            self._integer("patience", 1)
        self._number("lr", 0.0, open_below=True)
        for name in ("weight_decay", "anneal", "min_delta", "checkpoint_every"):
            self._number(name, 0.0)
        for name in ("ema_decay", "condition_dropout"):
            self._number(name, 0.0, below=1.0)
        self._number("decay_start", 0.0)
        if self.decay_start > 1:
            raise ConfigError(f"decay_start must be between 0 and 1, got {self.decay_start}")
        for name in ("gradient_clip", "budget"):
            if getattr(self, name) is not None:
                self._number(name, 0.0, open_below=True)
        if self.privacy is not None and not isinstance(self.privacy, DPBudget):
            raise ConfigError(
                f"privacy must be a DPBudget, such as DPBudget(epsilon=4), got {self.privacy!r}"
            )
        betas = tuple(self.betas)
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ConfigError(f"betas must be two numbers in [0, 1), got {self.betas!r}")
        object.__setattr__(self, "betas", betas)
        for name, options in _OPTIONS.items():
            object.__setattr__(self, name, check_option(options, getattr(self, name), name))

    def _integer(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise ConfigError(f"{name} must be an integer >= {least}, got {value!r}")

    def _number(
        self, name: str, least: float, *, below: float = math.inf, open_below: bool = False
    ) -> None:
        value: Any = getattr(self, name)
        good = isinstance(value, Real) and not isinstance(value, bool)
        if not (good and least <= value < below) or (open_below and value == least):
            bound = f"{'>' if open_below else '>='} {least:g}"
            bound += f" and < {below:g}" if below < math.inf else " and finite"
            raise ConfigError(f"{name} must be a number {bound}, got {value!r}")


_OPTIONS: dict[str, type[StrEnum]] = {
    "decay": Decay,
    "precision": Precision,
    "accelerator": Accelerator,
}
