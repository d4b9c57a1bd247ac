r"""Train a generator against a discriminator: one loop over pairs of neighbouring noise levels.

For rows x and random neighbours s < t of the grid,

    real     z_t ~ q(z_t | x),  z_s ~ q(z_s | z_t, x)
    fake     x' = G(z_t, latent, t),  z_s' ~ q(z_s | z_t, x')        at the same z_t
    D        minimises discriminator_loss(D(z_s, z_t, t), D(z_s', z_t, t)) + penalty R1(z_s)
    G        minimises generator_loss(D(z_s', z_t, t)),  at a z_t of its own

(Xiao et al. 2022, section 3.2, who draw the real pair forwards: the joint law is the same). The
two posteriors share their noise, so that the pairs differ by x alone. G's averaged weights are
what is kept. Neither loss tells how good the samples are, so there is no early stopping: a run
ends by its steps or its budget.

Step k draws from generators seeded with (seed, k): a run is a function of its arguments.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scidiffusion.adversarial.losses import discriminator_loss, generator_loss, gradient_penalty
from scidiffusion.adversarial.networks import LatentGenerator, PairDiscriminator
from scidiffusion.core.rng import GeneratorNoise, Noise
from scidiffusion.errors import TrainingError
from scidiffusion.progress import progress_bar
from scidiffusion.training.batches import Batches
from scidiffusion.training.clock import Clock
from scidiffusion.training.config import TrainConfig
from scidiffusion.training.seeding import isolated_rng, key_of, seed_global

if TYPE_CHECKING:
    from scidiffusion.training import TrainResult

LOOK_EVERY = 50
"""Steps between two looks at the losses: each makes a GPU wait for the CPU."""
BETAS = (0.5, 0.9)
"""Adam's, as of Xiao et al. 2022: a longer memory of the gradient overshoots in a game."""


def train_adversarially(
    generator: LatentGenerator,
    discriminator: PairDiscriminator,
    data: Tensor,
    *,
    grid: Tensor,
    penalty: float,
    config: TrainConfig,
) -> TrainResult:
    """Train both in place; the generator ends with its averaged weights, in evaluation mode.

    Args:
        generator: Draws x from (z_t, latent, t).
        discriminator: Judges (z_s, z_t, t).
        data: (n, ...) rows, on the device of the networks.
        grid: (steps + 1,) times from 1 to 0.
        penalty: Weight gamma of the R1 penalty, >= 0.
        config: max_steps, batch_size, lr, ema_decay, budget, seed and progress count. The rate
            falls from lr to 0 by a cosine over the run.

    Returns:
        What the run did; entries of the history have the losses and the penalty of both.

    Raises:
        DataError: if there are no rows, or not finite ones.
        TrainingError: if a loss becomes NaN or infinite (noticed within 50 steps).
    """
    from scidiffusion.training import TrainResult

    game = _Game(generator, discriminator, grid, penalty, config)
    batches = iter(Batches(data, batch_size=config.batch_size, seed=config.seed))
    clock, step, stopped_by, history = Clock(), 0, "max_steps", []
    clock.start()
    with (
        isolated_rng(data.device),
        progress_bar(
            config.max_steps, enabled=config.progress, task="training", unit="steps"
        ) as show,
    ):
        while step < config.max_steps:
            gone = step / config.max_steps
            if config.budget is not None:
                gone = max(gone, clock.elapsed / config.budget)
            # At least one step is done, as in every training.
            if step and gone >= 1:
                stopped_by = "budget"
                break
            game.step(next(batches).x, step, min(gone, 1.0))
            step += 1
            if step % LOOK_EVERY == 0:
                game.check(step)
                if show is not None:
                    show(step)
            if step % config.validate_every == 0:
                history.append({"step": step, "seconds": clock.elapsed, **game.report(step)})
    if game.count:
        history.append({"step": step, "seconds": clock.elapsed, **game.report(step)})
    game.finish()
    return TrainResult(
        steps=step,
        seconds=clock.elapsed,
        best_step=step,
        best_val_loss=None,
        history=history,
        stopped_by=stopped_by,
    )


class _Game:
    """The state of a run: two networks, their optimisers, the average, sums of losses."""

    def __init__(
        self,
        generator: LatentGenerator,
        discriminator: PairDiscriminator,
        grid: Tensor,
        penalty: float,
        config: TrainConfig,
    ) -> None:
        self.generator, self.discriminator = generator.train(), discriminator.train()
        self.grid, self.penalty, self.config = grid, penalty, config
        self.weights: list[Tensor] = list(generator.parameters())
        self.averages = [weight.detach().clone() for weight in self.weights]
        self.optimizers = [
            torch.optim.Adam(player.parameters(), config.lr, betas=BETAS)
            for player in (discriminator, generator)
        ]
        self.source = torch.Generator(self.weights[0].device)
        self.sums, self.count = torch.zeros(3, device=self.weights[0].device), 0

    def step(self, x: Tensor, step: int, gone: float) -> None:
        """One step of the discriminator, one of the generator, one of the average."""
        seed_global(key_of(self.config.seed, "network", step), x.device)
        noise = GeneratorNoise(self.source.manual_seed(key_of(self.config.seed, "noise", step)))
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = self.config.lr * 0.5 * (1 + math.cos(math.pi * gone))
        judge, draw = self.optimizers

        later, t, s = self._noised(x, noise)
        drawn = noise.normal(x)
        earlier = self._stepped(x, later, t, s, drawn)
        with torch.no_grad():
            fake = self._stepped(self._cleaned(later, t, noise), later, t, s, drawn)
        slopes, real = gradient_penalty(lambda z: self.discriminator(z, later, t), earlier)
        told = discriminator_loss(real, self.discriminator(fake, later, t)).mean()
        slope = slopes.mean()
        judge.zero_grad(set_to_none=True)
        (told + self.penalty * slope).backward()
        judge.step()

        later, t, s = self._noised(x, noise)
        fake = self._stepped(self._cleaned(later, t, noise), later, t, s, noise.normal(x))
        self.discriminator.requires_grad_(False)
        fooled = generator_loss(self.discriminator(fake, later, t)).mean()
        draw.zero_grad(set_to_none=True)
        fooled.backward()
        draw.step()
        self.discriminator.requires_grad_(True)

        decay = min(self.config.ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, self.weights, 1 - decay)
            self.sums += torch.stack([told, fooled, slope])
        self.count += 1

    def _noised(self, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor, Tensor]:
        """Return (z_t, t, s) at neighbours of the grid, another pair of times a row."""
        steps = len(self.grid) - 1
        index = (noise.uniform(x.new_empty(len(x))) * steps).long().clamp(max=steps - 1).cpu()
        t, s = self.grid[index], self.grid[index + 1]
        return self.generator.process.q_sample(x, t, noise).z, t, s

    def _cleaned(self, later: Tensor, t: Tensor, noise: Noise) -> Tensor:
        return self.generator.draw_clean(later, t, noise)

    def _stepped(self, x: Tensor, later: Tensor, t: Tensor, s: Tensor, drawn: Tensor) -> Tensor:
        """z_s ~ q(z_s | z_t, x), with standard normal numbers `drawn`."""
        law = self.generator.process.posterior(x, later, t, s)
        return law.mean + law.var.sqrt() * drawn

    def check(self, step: int) -> None:
        """Raise `TrainingError` if a loss since the last report was NaN or infinite."""
        if not bool(torch.isfinite(self.sums).all()):
            raise TrainingError(
                f"a loss of the adversarial training became NaN or infinite by step {step}; use a "
                f"smaller learning rate (lr={self.config.lr:g}) or a larger penalty "
                f"({self.penalty:g}), and look for extreme values in the data"
            )

    def report(self, step: int) -> dict[str, Any]:
        """Mean losses since the last report."""
        self.check(step)
        told, fooled, slope = (self.sums / self.count).tolist()
        self.sums.zero_()
        self.count = 0
        return {"discriminator_loss": told, "generator_loss": fooled, "penalty": slope}

    @torch.no_grad()
    def finish(self) -> None:
        """Put the averaged weights into the generator."""
        torch._foreach_copy_(self.weights, self.averages)
        self.generator.eval(), self.discriminator.eval()
