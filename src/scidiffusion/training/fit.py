"""Train a denoiser: one call, from data in memory to the weights that are kept.

Lightning runs the loop, the device and the hooks; nothing of it shows. It writes no files, prints
nothing, and leaves torch's global random state as it found it. A run on the CPU is a function of
its arguments: the same seed gives bit-equal weights, whatever ran before, with or without a
progress bar, in one go or resumed (as long as no time budget cuts it short).
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import Tensor, nn

from scidiffusion._files import check_writable_file
from scidiffusion.core.denoiser import Condition
from scidiffusion.core.objectives import Objective
from scidiffusion.core.process import State, map_state
from scidiffusion.errors import (
    ConfigError,
    DataError,
    ModelFileError,
    OutputError,
    ScidiffusionWarning,
    TrainingError,
)
from scidiffusion.training.batches import Batches, EvaluationBatches, check_rows
from scidiffusion.training.checkpoint import (
    FILE_NAME,
    check_same_run,
    describe,
    fingerprint,
    load_checkpoint,
    save_checkpoint,
)
from scidiffusion.training.config import Accelerator, TrainConfig
from scidiffusion.training.module import DiffusionModule
from scidiffusion.training.monitor import Monitor, StopReason
from scidiffusion.training.private import PoissonBatches, PrivateModule
from scidiffusion.training.progress import ProgressBar
from scidiffusion.training.seeding import isolated_rng

__all__ = ["TrainConfig", "TrainResult", "train"]


@dataclass(frozen=True)
class TrainResult:
    """What a run did.

    Args:
        steps: Optimizer steps, over all parts of a resumed run.
        seconds: Wall clock seconds, likewise.
        best_step: Step whose averaged weights were kept; the last without validation.
        best_val_loss: Their held-out loss; None without validation.
        history: One dict an evaluation: step, seconds, lr, train_loss (mean since the one before;
            not with privacy) and, with validation, val_loss.
        stopped_by: "max_steps", "budget" or "patience".
        epsilon_spent: With privacy, what the steps cost, at most the budget; else None.
        delta: At this delta.
        noise_multiplier: With privacy, standard deviation of the noise over the clipping norm.
    """

    steps: int
    seconds: float
    best_step: int
    best_val_loss: float | None
    history: list[dict[str, Any]] = field(repr=False)
    stopped_by: str
    epsilon_spent: float | None = None
    delta: float | None = None
    noise_multiplier: float | None = None


def train(
    denoiser: nn.Module,
    objective: Objective,
    data: State,
    *,
    cond: Condition = None,
    validation: tuple[State, Condition] | None = None,
    config: TrainConfig | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    trainer_kwargs: Mapping[str, Any] | None = None,
) -> TrainResult:
    """Train a denoiser in place; it ends in evaluation mode, on the device where it was.

    With `validation`, the averaged weights of the best evaluation are kept, else the last ones.
    With `config.privacy` the run is differentially private in the rows of `data`, but for what
    was made of them before (an encoding, the network's start); its checkpoint is secret like they.

    Args:
        denoiser: An `nn.Module` that is a `Denoiser`, such as `NetworkDenoiser`.
        objective: What is minimised.
        data: A tensor or a dict of tensors, rows first.
        cond: Condition of each row: None, a tensor or a dict of tensors.
        validation: Held-out data and its condition.
        config: Options; see `TrainConfig`.
        checkpoint_dir: Folder for a checkpoint, written every `config.checkpoint_every` seconds,
            when the run is interrupted or fails, and at its end. None writes no file anywhere.
        resume: Go on from the checkpoint in `checkpoint_dir`; where there is none, start.
        trainer_kwargs: Further arguments of Lightning's `Trainer`, such as callbacks and a logger;
            not those that this function sets itself.

    Returns:
        What the run did.

    Raises:
        ConfigError: if options contradict each other, or those of the checkpoint, or a network
            cannot be trained with privacy.
        DataError: if the data are empty, not finite, of unequal numbers of rows, too few for
            privacy, or not those of the checkpoint.
        MissingExtraError: if privacy is asked for and Opacus is not installed.
        ModelFileError: if the checkpoint is damaged, or of another network.
        OutputError: if `checkpoint_dir` cannot be written.
        TrainingError: if the loss becomes NaN or infinite.
        KeyboardInterrupt: after Ctrl-C, at the end of the step (a second Ctrl-C: at once); the
            checkpoint has been written.
        SystemExit: likewise after SIGTERM, with status 143.
    """
    config = config or TrainConfig()
    device = _device(config)
    if resume and checkpoint_dir is None:
        raise ConfigError("resume=True needs a checkpoint_dir")
    module = _module(denoiser, objective, data, cond, config)
    home = module.weights[0].device
    held_out = None
    if validation is not None:
        if isinstance(module, PrivateModule):
            raise ConfigError(
                "validation rows are data, too, and choosing by them is not accounted for: train "
                "with privacy on all rows, with validation=None"
            )
        if not isinstance(validation, tuple) or len(validation) != 2:
            raise ConfigError("validation must be a pair (data, cond); cond may be None")
        held_out = EvaluationBatches(
            *(_place(part, device) for part in validation),
            batch_size=config.batch_size,
            draws=config.validation_draws,
            seed=config.seed,
        )
        if (validation[1] is None) != (cond is None):
            raise DataError("data and validation must both have a condition, or neither")
    placed = _place(data, device), _place(cond, device)
    store: _Store | None = None
    interrupt = _Interrupt()

    def at_step() -> bool:
        if store is not None:
            store.save_if_due()
        return interrupt.requested

    monitor = Monitor(module, held_out, at_step)
    if checkpoint_dir is not None:
        path = Path(checkpoint_dir) / FILE_NAME
        check_writable_file(path)
        store = _Store(path, module, monitor, fingerprint(data, cond, *(validation or ())))
        if resume and path.exists():
            store.load()
    module.clock.start()
    # A resumed private run goes on with the plan of its checkpoint.
    batches: Batches | PoissonBatches
    if isinstance(module, PrivateModule):
        batches = PoissonBatches(*placed, module.plan, start=module.step)
    else:
        batches = Batches(
            *placed, batch_size=config.batch_size, seed=config.seed, start=module.step
        )

    compiled = module.denoiser.network if config.compile else None
    try:
        with isolated_rng(device), _quiet_lightning(), interrupt:
            if compiled is not None:
                compiled.compile()
            _run(module, monitor, batches, device, store, interrupt, trainer_kwargs)
    finally:
        if compiled is not None:
            compiled._compiled_call_impl = None
        if isinstance(module, PrivateModule):
            module.detach_hooks()
        module.to(home)
    if store is not None:
        store.save()
    monitor.finish()
    module.denoiser.to(home)
    return TrainResult(
        steps=module.step,
        seconds=module.clock.elapsed,
        best_step=module.step if monitor.best_step is None else monitor.best_step,
        best_val_loss=monitor.best_val_loss,
        history=monitor.history,
        stopped_by=str(monitor.stopped_by or StopReason.MAX_STEPS),
        **module.costs(),
    )


def _module(
    denoiser: nn.Module,
    objective: Objective,
    data: State,
    cond: Condition,
    config: TrainConfig,
) -> DiffusionModule:
    if config.privacy is None:
        return DiffusionModule(denoiser, objective, config)
    return PrivateModule(denoiser, objective, config, check_rows(data, cond))


def _run(
    module: DiffusionModule,
    monitor: Monitor,
    batches: Batches | PoissonBatches,
    device: torch.device,
    store: _Store | None,
    interrupt: _Interrupt,
    trainer_kwargs: Mapping[str, Any] | None = None,
) -> None:
    """Run Lightning's loop until there is a reason to stop; save what an exception leaves."""
    try:
        module.to(device)
        monitor.catch_up()
        monitor.stopped_by = monitor.reason_to_stop()
        if monitor.stopped_by is None:
            if isinstance(module, PrivateModule):
                module.attach(batches.data, batches.cond)
            callbacks: list[pl.Callback] = [monitor]
            if module.config.progress:
                callbacks.append(ProgressBar(monitor))
            trainer = _trainer(module, callbacks, device, trainer_kwargs or {})
            trainer.fit(module, train_dataloaders=batches)
        if monitor.stopped_by is None and interrupt.requested:
            raise KeyboardInterrupt
    except SystemExit as error:
        if store is not None:
            store.save_consistent()
        # Lightning turns Ctrl-C into an exit of the whole program, and SIGTERM into a success.
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise SystemExit(error.code or 128 + signal.SIGTERM) from None
    except TrainingError:
        # The weights are lost; the checkpoint before is worth more.
        raise
    except BaseException:
        if store is not None:
            store.save_consistent()
        raise


def _trainer(
    module: DiffusionModule,
    callbacks: list[pl.Callback],
    device: torch.device,
    extra: Mapping[str, Any],
) -> pl.Trainer:
    own: dict[str, Any] = {
        "accelerator": "gpu" if device.type == "cuda" else "cpu",
        "devices": [device.index or 0] if device.type == "cuda" else 1,
        "max_steps": module.config.max_steps - module.step,
        "max_epochs": -1,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "use_distributed_sampler": False,
        "plugins": [LightningEnvironment()],
    }
    taken = sorted(own.keys() & extra.keys())
    if taken:
        raise ConfigError(
            f"trainer_kwargs cannot set {taken[0]!r}: the training loop sets it itself, from the "
            "options of the run (max_steps, budget, device, checkpoint_dir)"
        )
    # Nothing is written to the root; the default is the working folder.
    free = {"logger": False, "default_root_dir": tempfile.gettempdir(), **extra}
    free["callbacks"] = [*callbacks, *(extra.get("callbacks") or [])]
    return pl.Trainer(**own, **free)


class _Store:
    """Write and read the state of a run.

    Args:
        path: The checkpoint.
        module: Weights, averages, moments and step.
        monitor: History and best weights.
        data: Fingerprint of the data.
    """

    def __init__(self, path: Path, module: DiffusionModule, monitor: Monitor, data: str) -> None:
        self.path, self.module, self.monitor, self.data = path, module, monitor, data
        # The first one after the first step: a disk that is full shows at once.
        self._next = time.monotonic()

    def save_if_due(self) -> None:
        """Save if `checkpoint_every` seconds have gone by."""
        if time.monotonic() >= self._next:
            self.module.check_finite()
            self.save()
            self._next = time.monotonic() + self.module.config.checkpoint_every

    def save_consistent(self) -> None:
        """Save, unless an update was cut in half."""
        if not self.module.mid_update:
            self.save()

    def save(self) -> None:
        """Save; a full disk is a warning, since the run is worth more than its checkpoint."""
        tensors, numbers = self.module.export_state()
        best, decisions = self.monitor.export_state()
        about = {"config": describe(self.module.config), "data": self.data}
        try:
            save_checkpoint(self.path, tensors | best, {**numbers, **decisions, **about})
        except OutputError as error:
            warnings.warn(f"no checkpoint was written: {error}", ScidiffusionWarning, stacklevel=2)

    def load(self) -> None:
        """Take over the state of the run that wrote the checkpoint."""
        tensors, numbers = load_checkpoint(self.path)
        check_same_run(self.path, numbers, self.module.config, self.data)
        try:
            self.module.import_state(tensors, numbers)
            self.monitor.import_state(tensors, numbers)
        except (KeyError, RuntimeError) as error:
            raise ModelFileError(
                f"{self.path} is the checkpoint of another network; use the same network, or "
                "train without resuming"
            ) from error


class _Interrupt:
    """Ctrl-C waits for the end of the step; the second one does not.

    As a context manager it takes over SIGINT in the main thread where nobody else has, and gives
    it back (Lightning leaves it ignored).
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: Any = None

    def __enter__(self) -> _Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGINT)
            if self._before is signal.default_int_handler:
                signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: Any) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's remarks on devices, workers and tips from the user's terminal."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _device(config: TrainConfig) -> torch.device:
    if config.accelerator is Accelerator.CPU:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if config.accelerator is Accelerator.GPU:
        raise ConfigError("accelerator='gpu', but torch sees no CUDA device; use 'auto' or 'cpu'")
    return torch.device("cpu")


def _place(state: Any, device: torch.device) -> Any:
    """Move data to the device once; to a GPU only if it takes less than half of what is free."""
    if state is None:
        return None
    size = 0

    def measure(value: Any) -> None:
        nonlocal size
        size += value.nbytes if isinstance(value, Tensor) else 0

    def move(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) else value

    map_state(measure, state)
    if device.type == "cuda" and size > torch.cuda.mem_get_info(device)[0] / 2:
        return state
    return map_state(move, state)
