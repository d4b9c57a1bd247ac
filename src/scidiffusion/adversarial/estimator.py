"""`DenoisingGAN`: learn rows of any shape, draw them in a few steps.

A denoising diffusion GAN (Xiao, Kreis & Vahdat 2022) pays for its few steps in training: two
networks, no held-out loss, no likelihood, no conditions, no checkpoints here. Where forty
evaluations a row are nothing, a diffusion model is the safer choice.
"""

from __future__ import annotations

import copy
import math
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from scidiffusion.adversarial.fitting import train_adversarially
from scidiffusion.adversarial.networks import LatentGenerator, PairDiscriminator, default_networks
from scidiffusion.adversarial.steps import PosteriorSteps
from scidiffusion.core import GaussianProcess, KeyedNoise, LinearVP, check_terminal
from scidiffusion.core.schedules import check_steps
from scidiffusion.errors import ConditionError, ConfigError, DataError
from scidiffusion.estimator import (
    GenerativeEstimator,
    check_count,
    check_positive,
    check_seed,
    numeric_rows,
    resolve_device,
    training_config,
)
from scidiffusion.persistence import SavedModel, check_version
from scidiffusion.progress import progress_bar
from scidiffusion.samplers import sample

VERSION = 1
"""Version of what `save` writes."""
LEAST_ROWS = 10
REPORTS = 20
"""Entries of a training's history."""


class DenoisingGAN(GenerativeEstimator):
    """A generator of clean data from noisy ones, trained against a discriminator; see the module.

    Columns of (n, d) data are standardised each, rows of any other shape by one mean and scale.

    Args:
        steps: Steps of the walk, each an evaluation of the generator; 4 in the paper. Of one step
            it is a plain GAN.
        generator: Network called as network(z, time, latent), for which see `LatentGenerator`;
            None is a perceptron. A copy is trained.
        discriminator: Network called as network(pair, time), for which see `PairDiscriminator`;
            None is a perceptron. A copy is trained.
        latent_dim: Length of a latent.
        width: Width of the perceptrons.
        blocks: Residual blocks of each.
        penalty: Weight gamma of the R1 penalty, >= 0: larger trains more slowly and more surely.
        max_steps: Training steps, of both networks.
        batch_size: Rows a training step.
        lr: Learning rate at the start; falls to 0.
        ema_decay: Decay of the average of the generator's weights.
        budget: Training time at most: seconds or a text such as "2min"; None is no limit.
        device: "auto", "cpu" or "cuda".
        random_state: Seed of everything random; None takes a fresh one.
        progress: Show progress bars.

    Attributes:
        seed_: The seed that was used.
        shape_: Shape of a row.
        mean_, scale_: Location and scale, (d,) each or numbers.
        generator_: The fitted `LatentGenerator`, over standardised data.
        discriminator_: The fitted `PairDiscriminator`; not saved.
        training_: `scidiffusion.training.TrainResult` of the fit; not saved.

    Example:
        >>> X = np.random.default_rng(0).normal(size=(200, 2))
        >>> gan = DenoisingGAN(max_steps=3, width=16, progress=False, random_state=0)
        >>> gan.fit(X).sample(5).shape
        (5, 2)
    """

    def __init__(
        self,
        *,
        steps: int = 4,
        generator: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        latent_dim: int = 8,
        width: int = 128,
        blocks: int = 2,
        penalty: float = 1.0,
        max_steps: int = 3000,
        batch_size: int = 512,
        lr: float = 2e-3,
        ema_decay: float = 0.995,
        budget: float | str | None = None,
        device: str = "auto",
        random_state: int | None = None,
        progress: bool = True,
    ) -> None:
        self.steps = steps
        self.generator = generator
        self.discriminator = discriminator
        self.latent_dim = latent_dim
        self.width = width
        self.blocks = blocks
        self.penalty = penalty
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.lr = lr
        self.ema_decay = ema_decay
        self.budget = budget
        self.device = device
        self.random_state = random_state
        self.progress = progress

    def fit(self, X: ArrayLike, y: None = None) -> Self:
        """Learn p(x).

        Args:
            X: (n, ...) finite numbers, n >= 10; images as (n, C, ...) where the networks are
                convolutional.
            y: Not used; conditions are not offered.

        Raises:
            DataError: if X cannot be used; the message names the row or column.
            ConditionError: if y is given.
            ConfigError: if an option is out of range.
            TrainingError: if the training diverges.
        """
        if y is not None:
            raise ConditionError(
                "DenoisingGAN learns p(x) alone; leave y out, or fit a model for each label"
            )
        seed, device = check_seed(self.random_state), resolve_device(self.device)
        config = training_config(self, seed, validate_every=max(1, self.max_steps // REPORTS))
        self._check_options()
        rows = _rows(X)
        self.shape_ = rows.shape[1:]
        axis = 0 if rows.ndim == 2 else None
        self.mean_, self.scale_ = rows.mean(axis), rows.std(axis)
        generator, discriminator = self._build(seed)
        generator, discriminator = generator.to(device), discriminator.to(device)
        data = torch.from_numpy((rows - self.mean_) / self.scale_).to(device, torch.float32)
        check_terminal(generator.process, data)
        self.training_ = train_adversarially(
            generator,
            discriminator,
            data,
            grid=self._grid(generator.process),
            penalty=float(self.penalty),
            config=config,
        )
        self.seed_, self._calls = seed, 0
        self.generator_, self.discriminator_ = generator, discriminator
        return self

    def sample(
        self, n: int, *, random_state: int | None = None, batch_size: int | None = None
    ) -> NDArray[np.float64]:
        """Draw rows, in `steps` evaluations of the generator each.

        Args:
            n: Number of rows, >= 0.
            random_state: Seed; None continues the estimator's own stream, with new rows each call.
            batch_size: Rows at once on a GPU; changes nothing but memory and speed.

        Returns:
            (n, ...) rows of the data's shape.

        Raises:
            NotFittedError: before `fit`.
            InputError: if n is negative.
        """
        self._check_fitted()
        n, batch_size = check_count(n), check_positive(batch_size, "batch_size")
        device, process = resolve_device(self.device), self.generator_.process
        grid, noise = self._grid(process), KeyedNoise(self._next_seed(random_state))

        def draw(start: int, rows: int) -> Tensor:
            drawn: Tensor = sample(
                process,
                self.generator_,  # type: ignore[arg-type]
                torch.empty(rows, *self.shape_, device=device),
                sampler=PosteriorSteps(),
                grid=grid,
                noise=noise.rows(start),
            )
            return drawn.cpu()

        if n == 0:
            return np.empty((0, *self.shape_))
        with progress_bar(n, enabled=self.progress) as progress:
            values: Tensor = self._blocks(
                draw, n, device=device, batch_size=batch_size, progress=progress
            )
        return np.asarray(values.double().numpy() * self.scale_ + self.mean_)

    def _grid(self, process: GaussianProcess) -> Tensor:
        return process.schedule.grid(self.steps, PosteriorSteps.spacing)

    def _check_options(self) -> None:
        check_steps(self.steps)
        for name in ("latent_dim", "width", "blocks"):
            check_positive(getattr(self, name), name)
        number = isinstance(self.penalty, int | float) and not isinstance(self.penalty, bool)
        if not number or not 0 <= self.penalty < math.inf:
            raise ConfigError(f"penalty must be a number >= 0, got {self.penalty!r}")
        for name in ("generator", "discriminator"):
            network = getattr(self, name)
            if network is not None and not isinstance(network, nn.Module):
                raise ConfigError(f"{name} must be a torch module or None, got {network!r:.60}")

    def _build(self, seed: int) -> tuple[LatentGenerator, PairDiscriminator]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            generator, discriminator = default_networks(
                math.prod(self.shape_), self.latent_dim, self.width, self.blocks
            )
        given = copy.deepcopy((self.generator, self.discriminator))
        process = GaussianProcess(LinearVP())
        return (
            LatentGenerator(given[0] or generator, process, self.latent_dim),
            PairDiscriminator(given[1] or discriminator),
        )

    # -- persistence -----------------------------------------------------------------------------

    def _state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, dict[str, Any]]]:
        if self.generator is not None:
            raise ConfigError(
                "a model file holds weights and no code: a DenoisingGAN with a generator of one's "
                "own cannot be saved; keep `generator_.state_dict()`, mean_ and scale_"
            )
        codec = {
            "version": VERSION,
            "shape": list(self.shape_),
            "mean": np.asarray(self.mean_).tolist(),
            "scale": np.asarray(self.scale_).tolist(),
        }
        return {"seed": self.seed_}, dict(self.generator_.state_dict()), {"codec.json": codec}

    def _saved_params(self) -> dict[str, Any]:
        # Drawing needs no discriminator.
        return super()._saved_params() | {"discriminator": None}

    def _restore(self, saved: SavedModel) -> None:
        codec = saved.extra["codec.json"]
        check_version(codec, VERSION, "the codec of rows")
        self.shape_ = tuple(codec["shape"])
        self.mean_, self.scale_ = np.asarray(codec["mean"]), np.asarray(codec["scale"])
        generator, _ = self._build(0)
        generator.load_state_dict(saved.tensors)
        self.generator_ = generator.to(resolve_device(self.device)).eval()
        self.seed_, self._calls = int(saved.config["seed"]), 0


def _rows(X: ArrayLike) -> NDArray[np.float64]:
    rows = numeric_rows(X, LEAST_ROWS)
    spread = rows.std(0) if rows.ndim == 2 else np.atleast_1d(rows.std())
    flat = spread <= 1e-12 * np.abs(rows).max()
    if flat.any():
        what = f"column {int(flat.argmax())} of X" if rows.ndim == 2 else "X"
        raise DataError(f"{what} is constant: there is nothing to learn; drop it")
    return rows
