r"""What one training step is, as a Lightning module.

    loss = mean over rows of objective(denoiser, x, noise, cond)
    weights <- AdamW(gradient of loss, clipped)
    ema <- d ema + (1 - d) weights,       d = min(ema_decay, (1 + step) / (10 + step)).

The averaged weights are what is evaluated, kept and sampled from. The evaluation uses the same
noise and the same stratified times each time, so that two values differ by the weights alone.

Step k draws its numbers from generators seeded with (seed, k), torch's global ones among them, and
the learning rate is a function of progress: the state of a run is its weights, averages, optimizer
moments and step, nothing else.

References:
    Ho et al. 2020, section 4 and appendix B (averaged weights); Loshchilov & Hutter 2019 (AdamW).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from scidiffusion.core.denoiser import Condition, Denoiser, drop_condition
from scidiffusion.core.objectives import Objective
from scidiffusion.core.process import batch_size, device_of, map_state
from scidiffusion.core.rng import GeneratorNoise, KeyedNoise
from scidiffusion.errors import ConfigError, TrainingError
from scidiffusion.training.batches import Batch
from scidiffusion.training.clock import Clock
from scidiffusion.training.config import Decay, Precision, TrainConfig
from scidiffusion.training.seeding import key_of, seed_global

LOG_EVERY = 50
"""Steps between two looks at the training loss: each makes a GPU wait for the CPU."""

_PLAIN_ATTRIBUTES = frozenset(
    {"_current_fx_name", "step", "mid_update", "loss_count", "_last_loss"}
)


class DiffusionModule(pl.LightningModule):
    """Train a denoiser by an objective, on batches of `Batches`.

    Args:
        denoiser: An `nn.Module` that is a `Denoiser`.
        objective: What is minimised.
        config: Options; see `TrainConfig`.

    Attributes:
        weights: The denoiser's parameters.
        step: Optimizer steps done.
        mid_update: Whether a step has begun to change the weights and is not yet complete.
        clock: Seconds of training so far.

    Raises:
        ConfigError: if the denoiser has no parameters, or `precision` or `compile` are asked of a
            denoiser without a `network`.
    """

    reports_losses = True
    """Whether the loss of training rows may be reported."""

    def __init__(
        self, denoiser: nn.Module, objective: Objective, config: TrainConfig | None = None
    ) -> None:
        super().__init__()
        known = isinstance(denoiser, Denoiser) or not objective.of_denoisers
        if not isinstance(denoiser, nn.Module) or not known:
            raise ConfigError(
                f"only a denoiser with a network can be trained, not {type(denoiser).__name__}; "
                "use NetworkDenoiser"
            )
        self.weights: list[Tensor]
        self.denoiser: Any = denoiser
        self.objective = objective
        self.config = config or TrainConfig()
        self.weights = list(denoiser.parameters())
        if not self.weights:
            raise ConfigError(f"{type(denoiser).__name__} has no parameters to train")
        network = getattr(denoiser, "network", None)
        if not isinstance(network, nn.Module) and (
            self.config.compile or self.config.precision is Precision.BF16
        ):
            raise ConfigError(
                "precision='bf16' and compile=True concern `denoiser.network`, which "
                f"{type(denoiser).__name__} does not have"
            )
        for index, weight in enumerate(self.weights):
            self.register_buffer(f"ema_{index}", weight.detach().clone())
        self.loss_sum: Tensor
        self.register_buffer("loss_sum", torch.zeros(()), persistent=False)
        self.loss_count = 0
        self._last_loss = torch.zeros(())
        self.step = 0
        self.mid_update = False
        self.clock = Clock()
        # First step, number of steps, learning rate and progress at the start of the annealing.
        self.annealing: tuple[int, int, float, float] | None = None
        self.adamw: Optimizer | None = None
        self._generators: dict[torch.device, torch.Generator] = {}
        self._optimizer_state: dict[str, Any] | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; quickly where it happens in every step, or around every hook of it."""
        if name in _PLAIN_ATTRIBUTES:
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    # -- weights ---------------------------------------------------------------------------------

    @property
    def averages(self) -> list[Tensor]:
        """The averaged weights, in the order of `weights`."""
        return [value for name, value in self._buffers.items() if name[:4] == "ema_"]  # type: ignore[misc]

    @contextmanager
    def ema_scope(self) -> Iterator[None]:
        """Put the averaged weights into the denoiser for the time of the block."""
        weights = self.weights
        with torch.no_grad():
            backup = [weight.detach().clone() for weight in weights]
            torch._foreach_copy_(weights, self.averages)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(weights, backup)

    @torch.no_grad()
    def anneal(self, weights: list[Tensor], steps: int) -> None:
        """Go back to `weights`, and from there to learning rate 0 in `steps` steps."""
        self.annealing = (self.step, max(steps, 1), self.learning_rate(), self.progress())
        torch._foreach_copy_(self.weights, weights)
        torch._foreach_copy_(self.averages, weights)

    def ema_decay(self, step: int) -> float:
        """Decay of the average at the update after `step` earlier ones."""
        if self.annealing is not None:
            step -= self.annealing[0]
        return min(self.config.ema_decay, (1 + step) / (10 + step))

    # -- a step ----------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int = 0) -> Tensor:
        """Return the mean loss of a batch."""
        device = device_of(batch.x)
        seed_global(key_of(self.config.seed, "network", self.step), device)
        noise = GeneratorNoise(self._generator(device))
        cond = self._drop(batch, noise)
        with network_precision(self.denoiser, self.config):
            loss = self.objective(self.denoiser, batch.x, noise, cond).mean()
        self._last_loss = loss.detach()
        if self.step % LOG_EVERY == 0:
            self.log("train_loss", self._last_loss, batch_size=batch_size(batch.x))
        return loss

    def take_train_loss(self) -> float:
        """Return the mean training loss since the last call.

        Raises:
            TrainingError: if it is not finite.
        """
        self.check_finite()
        mean = float(self.loss_sum) / max(self.loss_count, 1)
        self.loss_sum.zero_()
        self.loss_count = 0
        return mean

    def check_finite(self) -> None:
        """Raise `TrainingError` if a loss since the last report was NaN or infinite."""
        if not math.isfinite(float(self.loss_sum)):
            raise TrainingError(
                f"the training loss became {float(self.loss_sum)} by step {self.step}; use a "
                f"smaller learning rate (lr={self.config.lr:g}), a smaller gradient_clip "
                f"({self.config.gradient_clip}) or precision='float32', and look for extreme "
                "values in the data"
            )

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device)
        return self._generators[device].manual_seed(key_of(self.config.seed, "noise", self.step))

    def _drop(self, batch: Batch, noise: GeneratorNoise) -> Condition:
        if batch.cond is None or not self.config.condition_dropout:
            return batch.cond
        rows = torch.empty(batch_size(batch.x), device=device_of(batch.x))
        return drop_condition(batch.cond, noise.uniform(rows) >= self.config.condition_dropout)

    def costs(self) -> dict[str, float]:
        """Return what a run has spent, for its result: nothing without privacy."""
        return {}

    # -- evaluation ------------------------------------------------------------------------------

    @torch.no_grad()
    def fixed_noise_loss(self, batch: Batch) -> Tensor:
        """Return the loss of every row of a batch under noise keyed by its position, (B,).

        It is computed with the averaged weights, without dropout of any kind.
        """
        noise = KeyedNoise(self.config.seed, start=batch.start, stream=("evaluation",))
        was_training = self.denoiser.training
        self.denoiser.eval()
        try:
            with self.ema_scope(), network_precision(self.denoiser, self.config):
                return self.objective(self.denoiser, batch.x, noise, batch.cond)
        finally:
            self.denoiser.train(was_training)

    def evaluate(self, batches: Iterable[Batch]) -> float:
        """Return the mean of `fixed_noise_loss` over batches.

        Raises:
            TrainingError: if it is not finite.
        """
        total, rows = torch.zeros((), dtype=torch.float64), 0
        for batch in batches:
            batch = self.transfer_batch_to_device(batch, self.loss_sum.device, 0)
            total = total + self.fixed_noise_loss(batch).sum(dtype=torch.float64).cpu()
            rows += batch_size(batch.x)
        mean = float(total) / rows
        if not math.isfinite(mean):
            raise TrainingError(
                f"the held-out loss is {mean} at step {self.step}; use a smaller learning rate "
                f"(lr={self.config.lr:g}) and look for extreme values in the data"
            )
        return mean

    def validation_step(self, batch: Batch, batch_idx: int = 0) -> None:
        """Log `val_loss` for a Lightning `Trainer`; see `fixed_noise_loss`."""
        loss = self.fixed_noise_loss(batch)
        self.log("val_loss", loss.mean(), on_epoch=True, batch_size=len(loss))

    # -- optimizer -------------------------------------------------------------------------------

    def configure_optimizers(self) -> Optimizer:
        """Return AdamW over the denoiser's parameters; vectors have no weight decay."""
        weights, decay = [w for w in self.weights if w.requires_grad], self.config.weight_decay
        groups: list[dict[str, Any]] = [{"params": weights, "weight_decay": 0.0}]
        if decay:
            groups = [
                {"params": [w for w in weights if w.ndim > 1], "weight_decay": decay},
                {"params": [w for w in weights if w.ndim <= 1], "weight_decay": 0.0},
            ]
        self.adamw = AdamW(
            [group for group in groups if group["params"]],
            lr=self.config.lr,
            betas=self.config.betas,
            fused=weights[0].device.type in {"cpu", "cuda"},
        )
        if self._optimizer_state is not None:
            self._restore_moments(self._optimizer_state)
        return self.adamw

    def progress(self) -> float:
        """Return how much of the run is over: max(step / max_steps, elapsed / budget)."""
        done = self.step / self.config.max_steps
        if self.config.budget is not None:
            done = max(done, self.clock.elapsed / self.config.budget)
        return min(done, 1.0)

    def learning_rate(self) -> float:
        """Return the learning rate of the next step."""
        config, progress = self.config, self.progress()
        if self.annealing is not None:
            start, steps, rate, begun = self.annealing
            gone = max((self.step - start) / steps, (progress - begun) / max(1 - begun, 1e-9))
            return rate * max(1 - gone, 0.0)
        rate = config.lr * min(1.0, (self.step + 1) / max(config.warmup_steps, 1))
        if config.decay is Decay.NONE or progress <= config.decay_start:
            return rate
        left = (1 - progress) / (1 - config.decay_start)
        if config.decay is Decay.COSINE:
            left = 0.5 * (1 - math.cos(math.pi * left))
        return rate * left

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Update the weights, then their average, then the step: one unit.

        Raises:
            TrainingError: if the loss has become NaN or infinite (noticed within 50 steps).
        """
        rate = self.learning_rate()
        for group in optimizer.param_groups:
            group["lr"] = rate
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, self.weights, 1 - self.ema_decay(self.step))
        self.loss_sum.add_(self._last_loss)
        self.loss_count += 1
        if self.step % LOG_EVERY == 0:
            self.check_finite()
        self.step += 1
        self.mid_update = False

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient's norm; the last thing before the weights change."""
        if self.config.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.weights, self.config.gradient_clip)
        self.mid_update = True

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Move a batch, unless it is there."""
        if device_of(batch.x).type == device.type:
            return batch

        def move(value: Tensor) -> Tensor:
            return value.to(device, non_blocking=True)

        cond = None if batch.cond is None else map_state(move, batch.cond)
        return Batch(map_state(move, batch.x), cond, batch.start)

    # -- state -----------------------------------------------------------------------------------

    def export_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a resumed run needs: tensors by name, and numbers for JSON."""
        tensors = {f"denoiser.{k}": v for k, v in self.denoiser.state_dict().items()}
        tensors |= {f"ema.{index}": value for index, value in enumerate(self.averages)}
        if self.adamw is not None:
            for index, weight in enumerate(self.weights):
                for name, value in self.adamw.state.get(weight, {}).items():
                    tensors[f"adamw.{index}.{name}"] = value
        numbers = {
            "step": self.step,
            "elapsed": self.clock.elapsed,
            "loss_sum": float(self.loss_sum),
            "loss_count": self.loss_count,
            "annealing": self.annealing,
        }
        return tensors, numbers

    def import_state(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Take over the state of another run, before training starts; see `export_state`.

        Raises:
            KeyError, RuntimeError: if the state is not that of such a denoiser.
        """
        prefix = "denoiser."
        self.denoiser.load_state_dict(
            {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        )
        with torch.no_grad():
            for index, average in enumerate(self.averages):
                average.copy_(tensors[f"ema.{index}"])
        self._optimizer_state = {k: v for k, v in tensors.items() if k.startswith("adamw.")}
        self.step, self.loss_count = numbers["step"], numbers["loss_count"]
        self.loss_sum.fill_(numbers["loss_sum"])
        self.clock = Clock(numbers["elapsed"])
        annealing = numbers["annealing"]
        self.annealing = None if annealing is None else tuple(annealing)

    def _restore_moments(self, tensors: dict[str, Tensor]) -> None:
        assert self.adamw is not None
        for index, weight in enumerate(self.weights):
            prefix = f"adamw.{index}."
            moments = {
                # AdamW's own step counter lives where the kernel wants it: with the weight.
                k.removeprefix(prefix): v.to(weight.device)
                for k, v in tensors.items()
                if k.startswith(prefix)
            }
            if moments:
                self.adamw.state[weight] = moments


@contextmanager
def network_precision(denoiser: Any, config: TrainConfig) -> Iterator[None]:
    """Run `denoiser.network` under bfloat16 autocast, if the config says so.

    Its output is cast to float32, so that the prediction and the loss are computed in float32.
    """
    if config.precision is not Precision.BF16:
        yield
        return
    network = denoiser.network
    plain = network.forward
    device_type = next(network.parameters()).device.type

    def forward(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device_type, dtype=torch.bfloat16):
            output = plain(*args, **kwargs)
        return map_state(Tensor.float, output)

    network.forward = forward
    try:
        yield
    finally:
        del network.forward
