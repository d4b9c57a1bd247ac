"""When to evaluate, which weights are the best, and when to stop.

One callback decides at the boundary between two steps, and only there. Everything it remembers is
part of the state of the run, so that a resumed run decides as the uninterrupted one would have.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from scidiffusion.training.batches import EvaluationBatches
from scidiffusion.training.module import DiffusionModule


class StopReason(StrEnum):
    """Why a run ended."""

    MAX_STEPS = "max_steps"
    BUDGET = "budget"
    PATIENCE = "patience"


class Monitor(pl.Callback):
    """Evaluate every so often, keep the best averaged weights, stop the run.

    Args:
        module: The module that is trained.
        validation: Held-out batches; None keeps no best weights.
        at_step: Called after every step; returns True to interrupt the run there.

    Attributes:
        history: One dict an evaluation: step, seconds, lr, train_loss and val_loss.
        best_step: Step of the best evaluation; None before the first.
        best_val_loss: Its held-out loss.
        stopped_by: Why the run ended; None while it goes on, or where it was interrupted.
    """

    def __init__(
        self,
        module: DiffusionModule,
        validation: EvaluationBatches | None,
        at_step: Callable[[], bool] = lambda: False,
    ) -> None:
        self.module, self.validation, self.at_step = module, validation, at_step
        self.history: list[dict[str, Any]] = []
        self.best_step: int | None = None
        self.best_val_loss: float | None = None
        self.best: list[Tensor] | None = None
        self.stopped_by: StopReason | None = None
        self._reference = math.inf
        self._waited = 0

    def reason_to_stop(self) -> StopReason | None:
        """Why the run is over after the steps it has done, or None."""
        config, module = self.module.config, self.module
        if module.annealing is not None:
            start, steps, *_ = module.annealing
            if module.step >= start + steps:
                return StopReason.PATIENCE
        elif config.patience is not None and self._waited >= config.patience:
            return StopReason.PATIENCE
        if module.step >= config.max_steps:
            return StopReason.MAX_STEPS
        if config.budget is not None and module.step and module.clock.elapsed >= config.budget:
            return StopReason.BUDGET
        return None

    def catch_up(self) -> None:
        """Do the evaluation that was due when a run was interrupted."""
        if self.module.step and self._due() and not self._reported():
            self.report()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Evaluate where it is due, then decide whether the run is over."""
        if self._due():
            self.report()
        self.stopped_by = self.reason_to_stop()
        if self.stopped_by is not None:
            # The last weights compete too, wherever the run ends.
            if not self._reported():
                self.report()
            trainer.should_stop = True
        if self.at_step() and self.stopped_by is None:
            trainer.should_stop = True

    def report(self) -> None:
        """Evaluate, and add to the history."""
        module = self.module
        module.check_finite()
        # First what may fail or be interrupted, then what changes the state.
        value = None if self.validation is None else module.evaluate(self.validation)
        entry: dict[str, Any] = {
            "step": module.step,
            "seconds": module.clock.elapsed,
            "lr": module.learning_rate(),
        }
        loss = module.take_train_loss()
        if module.reports_losses:
            entry["train_loss"] = loss
        if value is not None:
            entry["val_loss"] = value
            self._judge(value)
        self.history.append(entry)

    def _judge(self, value: float) -> None:
        if self.best_val_loss is None or value < self.best_val_loss:
            self.best_val_loss, self.best_step = value, self.module.step
            self.best = [average.clone() for average in self.module.averages]
        # The mark to beat moves by improvements of min_delta only, or many tiny ones would count.
        if value < self._reference - self.module.config.min_delta:
            self._reference, self._waited = value, 0
        else:
            self._waited += 1
        config, module = self.module.config, self.module
        out = config.patience is not None and self._waited >= config.patience
        if out and config.anneal and module.annealing is None and self.best is not None:
            module.anneal(self.best, math.ceil(config.anneal * (self.best_step or 1)))

    def _due(self) -> bool:
        return self.module.step % self.module.config.validate_every == 0

    def _reported(self) -> bool:
        return bool(self.history) and self.history[-1]["step"] == self.module.step

    @torch.no_grad()
    def finish(self) -> None:
        """Put the best averaged weights (the last, without validation) into the denoiser."""
        chosen = self.best if self.best is not None else self.module.averages
        for weight, value in zip(self.module.weights, chosen, strict=True):
            weight.copy_(value)
        self.module.denoiser.eval()

    def export_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a resumed run needs; see `DiffusionModule.export_state`."""
        tensors = {f"best.{index}": value for index, value in enumerate(self.best or [])}
        return tensors, {
            "history": self.history,
            "best_step": self.best_step,
            "best_val_loss": self.best_val_loss,
            "reference": self._reference,
            "waited": self._waited,
        }

    def import_state(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Take over the state of another run."""
        self.history = numbers["history"]
        self.best_step, self.best_val_loss = numbers["best_step"], numbers["best_val_loss"]
        self._reference, self._waited = numbers["reference"], numbers["waited"]
        if self.best_step is not None:
            weights = self.module.weights
            self.best = [tensors[f"best.{i}"].to(w) for i, w in enumerate(weights)]
