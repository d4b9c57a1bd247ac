"""A progress bar that costs nothing: drawn twice a second, from numbers that are there anyway."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from scidiffusion.training.monitor import Monitor

REFRESH_SECONDS = 0.5


ENDLESS = 10_000_000
"""So many steps are no limit worth showing."""


class ProgressBar(pl.Callback):
    """Show step, held-out loss and the time that is left, on standard error.

    Args:
        monitor: Where the losses are found.
    """

    def __init__(self, monitor: Monitor) -> None:
        self.monitor, self.module = monitor, monitor.module
        # No thread of its own: it would take the interpreter from the training loop.
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("training"),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            console=Console(stderr=True),
            auto_refresh=False,
        )
        self._task = self._bar.add_task("training", total=1.0, text="")
        self._next = 0.0
        self._first: tuple[int, float] = (0, 0.0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar."""
        self._first = (self.module.step, self.module.clock.elapsed)
        self._bar.start()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Draw the bar, if half a second has gone by."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + REFRESH_SECONDS
            self._draw()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the bar a last time."""
        self._draw()
        self._bar.stop()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Leave the terminal as it was."""
        self._bar.stop()

    def seconds_left(self) -> float | None:
        """Seconds until the last step or the end of the budget; None before the first step."""
        config, clock = self.module.config, self.module.clock
        steps, seconds = self.module.step - self._first[0], clock.elapsed - self._first[1]
        if steps < 1:
            return None
        left = (config.max_steps - self.module.step) * seconds / steps
        if config.budget is not None:
            left = min(left, config.budget - clock.elapsed)
        return max(left, 0.0)

    def text(self) -> str:
        """What stands to the right of the bar."""
        limit = self.module.config.max_steps
        parts = [f"step {self.module.step}" + (f"/{limit}" if limit < ENDLESS else "")]
        history = self.monitor.history
        if history and "val_loss" in history[-1]:
            best = self.monitor.best_val_loss
            parts.append(f"held-out loss {history[-1]['val_loss']:.4g} (best {best:.4g})")
        elif history and "train_loss" in history[-1]:
            parts.append(f"loss {history[-1]['train_loss']:.4g}")
        left = self.seconds_left()
        if left is not None:
            minutes, seconds = divmod(round(left), 60)
            parts.append(f"{minutes}:{seconds:02d} left")
        return " | ".join(parts)

    def _draw(self) -> None:
        self._bar.update(self._task, completed=self.module.progress(), text=self.text())
        self._bar.refresh()
