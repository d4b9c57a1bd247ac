r"""Training with differential privacy: noisy sums of clipped gradients of rows drawn by lot.

    rows of a step     each row with probability q, independently                (Poisson sampling)
    gradient           ( sum_i clip(g_i, C) + noise_multiplier C N(0, I) ) / (q n)

Whatever follows (AdamW, weight decay, averaging) sees the data through this gradient alone and
costs nothing more. The noise is such that all planned steps together cost the budget's epsilon at
its delta; a run that a time budget cuts short costs less.

The rows of a step are put into a fixed number of slots in an order drawn by lot; empty slots hold
zeros and add nothing. So the noise that a row is trained with (its time, its hidden columns) has
the same law whoever else is there, even where an objective spreads it over the slots. More rows
than slots come with a probability so small that the accounting has room for it.

Held-out rows are data, too: there is no validation, and losses are not reported.

References:
    Abadi et al. 2016, algorithm 1; Balle, Barthe & Gaboardi 2018 (Poisson sampling); Dwork & Roth
    2014, proposition 2.1 (post-processing).
"""

from __future__ import annotations

import dataclasses
import math
import secrets
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from scipy.stats import binom
from torch import Tensor, nn

from scidiffusion.core.denoiser import Condition
from scidiffusion.core.objectives import Objective
from scidiffusion.core.process import State, device_of, map_state
from scidiffusion.core.rng import GeneratorNoise
from scidiffusion.errors import ConfigError, DataError, ModelFileError, ScidiffusionWarning
from scidiffusion.training.accounting import epsilon_spent, noise_multiplier_for
from scidiffusion.training.batches import check_rows, take
from scidiffusion.training.budget import DPBudget
from scidiffusion.training.config import Precision, TrainConfig
from scidiffusion.training.module import DiffusionModule
from scidiffusion.training.row_gradients import RowGradients, check_rows_apart
from scidiffusion.training.seeding import isolated_rng, key_of, seed_global

__all__ = ["PoissonBatches", "PrivacyPlan", "PrivateModule"]

FEWEST_ROWS = 10
OVERFLOW_SHARE = 1e-3
"""Part of delta that pays for steps with more rows than slots."""
DOUBTFUL, HOPELESS = 1.0, 10.0
"""Noise of a whole run over the longest way the weights could go, see `PrivacyPlan.check`."""


@dataclass(frozen=True)
class PrivacyPlan:
    """How a run keeps its budget.

    Args:
        noise_multiplier: Standard deviation of the noise over the clipping norm.
        sample_rate: Probability with which a row takes part in a step.
        slots: Rows of a step at most.
        epsilon: What all planned steps may cost.
        delta: At this delta.
        max_grad_norm: The clipping norm.
        key: Key of rows and noise; as secret as the data.
    """

    noise_multiplier: float
    sample_rate: float
    slots: int
    epsilon: float
    delta: float
    max_grad_norm: float
    key: int

    @classmethod
    def of(cls, budget: DPBudget, rows: int, batch_size: int, steps: int) -> PrivacyPlan:
        """Plan a run.

        Args:
            budget: What it may cost.
            rows: Number of rows.
            batch_size: Rows of a step, on average.
            steps: Number of steps.

        Raises:
            DataError: if there are fewer than ten rows.
            ConfigError: if no noise is enough.
        """
        if rows < FEWEST_ROWS:
            raise DataError(
                f"{rows} row(s) are too few for training with privacy: every one of them is "
                f"decisive; {FEWEST_ROWS} are the least, and a thousand a beginning"
            )
        budget = budget.for_rows(rows)
        assert budget.delta is not None
        rate = min(batch_size, rows) / rows
        noise = noise_multiplier_for(budget.epsilon, _usable(budget.delta), rate, steps)
        # A failure of probability f costs delta (1 + exp(epsilon)) f.
        failure = OVERFLOW_SHARE * budget.delta / (1 + math.exp(min(budget.epsilon, 300.0)))
        slots = int(binom.isf(max(failure / steps, 1e-290), rows, rate)) + 1
        key = secrets.randbits(62) if budget.noise_key is None else int(budget.noise_key)
        return cls(
            noise,
            rate,
            min(slots, rows),
            float(budget.epsilon),
            budget.delta,
            float(budget.max_grad_norm),
            key,
        )

    def spent(self, steps: int) -> float:
        """Epsilon of the first steps, at ``delta``.

        Args:
            steps: Their number.
        """
        return epsilon_spent(
            self.noise_multiplier,
            self.sample_rate,
            steps,
            _usable(self.delta),
            scale=self.epsilon,
        )

    def check(self, rows: int, steps: int, weights: int) -> None:
        """Check that there is something left to learn from.

        Over T steps of a mean batch B the noise of P weights adds up to a random walk of length
        ``noise_multiplier C sqrt(P T) / B``, and all gradients together to at most ``C T``.

        Args:
            rows: Number of rows.
            steps: Number of steps T.
            weights: Number of weights P.

        Raises:
            DataError: if the noise is ten times as long.
        """
        batch = self.sample_rate * rows
        ratio = self.noise_multiplier * math.sqrt(weights / steps) / batch
        advice = (
            "more rows, a larger epsilon, a larger batch_size, fewer columns or a smaller network "
            "would help"
        )
        fact = (
            f"with {rows:,} rows and epsilon={self.epsilon:g} the noise of privacy is "
            f"{ratio:.1f} times what can be learned at most"
        )
        if ratio > HOPELESS:
            raise DataError(f"{fact}: too few rows; {advice}")
        if ratio > DOUBTFUL:
            warnings.warn(f"{fact}; {advice}", ScidiffusionWarning, stacklevel=4)


def _usable(delta: float) -> float:
    return (1 - OVERFLOW_SHARE) * delta


class PrivateBatch(NamedTuple):
    """Rows of a step in their slots."""

    x: State
    """Clean data, (slots, ...); zeros where a slot is empty."""
    cond: Condition
    """Conditions likewise, or None."""
    present: Tensor
    """Which slots hold a row, (slots,) bool."""


class PoissonBatches:
    """Endless batches of rows drawn by lot; batch k is a function of (key, k) alone.

    Args:
        data: As for `Batches`.
        cond: As for `Batches`.
        plan: Rate, slots and key.
        start: Number of batches to skip.

    Raises:
        DataError: as `Batches`.
    """

    def __init__(self, data: State, cond: Condition, plan: PrivacyPlan, *, start: int = 0) -> None:
        self.rows = check_rows(data, cond)
        self.data, self.cond, self.plan, self.start = data, cond, plan, start

    def __iter__(self) -> Iterator[PrivateBatch]:
        """Yield batches start, start + 1, ... without end."""
        step = self.start
        while True:
            yield self.batch(step)
            step += 1

    def batch(self, step: int) -> PrivateBatch:
        """Return the batch of a step."""
        slots, generator = self.plan.slots, torch.Generator()
        generator.manual_seed(key_of(self.plan.key, "rows", step))
        lot = torch.rand(self.rows, dtype=torch.float64, generator=generator)
        chosen = (lot < self.plan.sample_rate).nonzero()[:, 0]
        chosen = chosen[torch.randperm(len(chosen), generator=generator)][:slots]
        places = torch.randperm(slots, generator=generator)[: len(chosen)]
        device = device_of(self.data)
        return in_slots(self.data, self.cond, chosen.to(device), places.to(device), slots)


def in_slots(
    data: State, cond: Condition, rows: Tensor, places: Tensor, slots: int
) -> PrivateBatch:
    """Put rows into slots."""
    found = take(data, cond, rows, 0)

    def spread(value: Tensor) -> Tensor:
        return value.new_zeros(slots, *value.shape[1:]).index_copy(0, places, value)

    present = torch.zeros(slots, dtype=torch.bool, device=places.device)
    present[places] = True
    spread_cond = None if cond is None else map_state(spread, found.cond)
    return PrivateBatch(map_state(spread, found.x), spread_cond, present)


class PrivateModule(DiffusionModule):
    """Train a denoiser with differential privacy; see the module.

    Args:
        denoiser: As for `DiffusionModule`.
        objective: As for `DiffusionModule`; the loss of a row may depend on that row, on noise and
            on the weights, on no other row.
        config: Options, with a privacy budget. ``batch_size`` is the mean number of rows of a
            step, ``gradient_clip`` is not used.
        rows: Number of rows of the data.

    Attributes:
        plan: How the budget is kept.
        row_gradients: Hooks on the denoiser, while a run is on.

    Raises:
        ConfigError: if an option contradicts privacy, or no noise is enough.
        DataError: if there are too few rows.
    """

    reports_losses = False

    def __init__(
        self, denoiser: nn.Module, objective: Objective, config: TrainConfig, rows: int
    ) -> None:
        super().__init__(denoiser, objective, config)
        if config.privacy is None:
            raise ConfigError("PrivateModule needs a privacy budget")
        if config.precision is not Precision.FLOAT32 or config.compile:
            raise ConfigError(
                "training with privacy needs precision='float32' and compile=False: the gradient "
                "of every row is measured"
            )
        self.rows = rows
        self.plan = PrivacyPlan.of(config.privacy, rows, config.batch_size, config.max_steps)
        trained = sum(weight.numel() for weight in self.weights if weight.requires_grad)
        self.plan.check(rows, config.max_steps, trained)
        self.row_gradients: RowGradients | None = None
        self._gradient: list[Tensor | None] = []

    # -- a run -----------------------------------------------------------------------------------

    def attach(self, data: State, cond: Condition) -> None:
        """Put hooks on the denoiser, and check with a few rows that they separate rows.

        Raises:
            ConfigError: if they do not.
            MissingExtraError: if Opacus is not installed.
        """
        assert self.config.privacy is not None
        self.denoiser.train()
        gradients = RowGradients(self.denoiser, self.plan.max_grad_norm)
        device = self.loss_sum.device
        with isolated_rng(device):
            seed_global(key_of(self.config.seed, "check"), device)

            def loss(batch: PrivateBatch) -> Tensor:
                seed_global(key_of(self.config.seed, "check", 1), device)
                generator = torch.Generator(device).manual_seed(0)
                return self.objective(
                    self.denoiser, batch.x, GeneratorNoise(generator), batch.cond
                )

            places = torch.arange(3, device=device_of(data))
            batches = [
                in_slots(data, cond, torch.tensor(rows).to(places.device), places, 4)
                for rows in ((0, 1, 2), (0, 3, 2))
            ]
            try:
                check_rows_apart(
                    gradients,
                    loss,
                    *(self.transfer_batch_to_device(batch, device, 0) for batch in batches),
                )
            except BaseException:
                gradients.close()
                raise
        self.row_gradients = gradients

    def detach_hooks(self) -> None:
        """Take the hooks off again."""
        if self.row_gradients is not None:
            self.row_gradients.close()
            self.row_gradients = None

    def costs(self) -> dict[str, float]:
        """See `DiffusionModule.costs`."""
        return {
            "epsilon_spent": self.plan.spent(self.step),
            "delta": self.plan.delta,
            "noise_multiplier": self.plan.noise_multiplier,
        }

    def training_step(self, batch: PrivateBatch, batch_idx: int = 0) -> Tensor:  # type: ignore[override]
        """Make the private gradient of a step; return the mean loss, which is not private."""
        assert self.row_gradients is not None
        device = device_of(batch.x)
        seed_global(key_of(self.config.seed, "network", self.step), device)
        noise = GeneratorNoise(self._generator(device))
        cond = self._drop(batch, noise)  # type: ignore[arg-type]
        total, loss = self.row_gradients.clipped_sum(
            lambda: self.objective(self.denoiser, batch.x, noise, cond), batch.present
        )
        expected = self.plan.sample_rate * self.rows
        std = self.plan.noise_multiplier * self.plan.max_grad_norm
        generator = torch.Generator(device).manual_seed(key_of(self.plan.key, "noise", self.step))
        self._gradient = [
            None
            if value is None
            else value.add(
                torch.randn(value.shape, dtype=value.dtype, device=device, generator=generator),
                alpha=std,
            ).div_(expected)
            for value in total
        ]
        self._last_loss = loss / expected
        return self._last_loss

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Hand the private gradient to the optimizer, in place of the loss's own."""
        assert self.row_gradients is not None
        for weight, value in zip(self.row_gradients.weights, self._gradient, strict=True):
            weight.grad = value
        self._gradient = []

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Leave the gradient, whose rows are clipped; the last thing before the weights change."""
        self.mid_update = True

    def transfer_batch_to_device(  # type: ignore[override]
        self, batch: PrivateBatch, device: torch.device, dataloader_idx: int
    ) -> PrivateBatch:
        """Move a batch, unless it is there."""
        if device_of(batch.x).type == device.type:
            return batch

        def move(value: Tensor) -> Tensor:
            return value.to(device, non_blocking=True)

        cond = None if batch.cond is None else map_state(move, batch.cond)
        return PrivateBatch(map_state(move, batch.x), cond, move(batch.present))

    # -- state -----------------------------------------------------------------------------------

    def export_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See `DiffusionModule.export_state`; with the state of the accountant."""
        tensors, numbers = super().export_state()
        accountant = dataclasses.asdict(self.plan) | {"steps": self.step}
        return tensors, numbers | {"privacy": accountant}

    def import_state(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """See `DiffusionModule.import_state`; the accountant goes on where it was.

        Raises:
            ConfigError: if more steps are asked for than the noise was made for.
        """
        super().import_state(tensors, numbers)
        state = dict(numbers["privacy"])
        if state.pop("steps") != self.step:
            raise ModelFileError("the checkpoint's accountant has counted other steps")
        planned, self.plan = self.plan, PrivacyPlan(**state)
        more_noise = planned.noise_multiplier > self.plan.noise_multiplier
        if more_noise and self.plan.spent(self.config.max_steps) > self.plan.epsilon:
            raise ConfigError(
                f"{self.config.max_steps} steps cost more than epsilon={self.plan.epsilon:g} with "
                "the noise that the run was begun with; resume with the max_steps it was begun "
                "with, or fewer"
            )
