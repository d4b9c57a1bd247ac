"""Density estimation by diffusion for arrays of few dimensions.

The small sibling of the domains' estimators: standardise, train an eps-predicting residual MLP
with Fourier features of the coordinates on a continuous VP schedule, sample with DPM-Solver++,
score with the probability-flow ODE or the ELBO.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from scidiffusion.conditions import ConditionCodec
from scidiffusion.core import (
    GaussianProcess,
    KeyedNoise,
    LinearVP,
    NetworkDenoiser,
    SimpleLoss,
    check_terminal,
    elbo,
    ode_log_prob,
)
from scidiffusion.core.schedules import check_steps
from scidiffusion.errors import ConditionError, ConfigError, DataError
from scidiffusion.estimator import (
    GenerativeEstimator,
    check_count,
    check_positive,
    check_seed,
    resolve_device,
    split_rows,
    training_config,
)
from scidiffusion.guidance import ClassifierFreeGuidance
from scidiffusion.nn import FourierCoordinates, ResidualMLP
from scidiffusion.persistence import SavedModel
from scidiffusion.samplers import Sampler, make_sampler, sample

Likelihood = Literal["ode", "elbo"]
MINIMUM_ROWS = 10
EMBED_DIM = 32


class DensityDiffusion(GenerativeEstimator):
    """Learn the density of a low-dimensional array, draw from it and evaluate it.

    Args:
        width: Width of the residual MLP.
        blocks: Number of its blocks.
        max_steps: Training steps at most.
        batch_size: Rows a training step.
        lr: Peak learning rate.
        ema_decay: Decay of the average of the weights.
        validation_fraction: Share of rows held out for early stopping, in [0, 0.5]; 0 trains on
            all rows for all steps.
        patience: Evaluations without improvement of the held-out loss before training stops.
        budget: Training time at most: seconds or a text such as "2min"; None is no limit.
        condition_dropout: Share of training rows shown without their condition, which guidance
            needs.
        sampler: Name of the default sampler; see `scidiffusion.samplers.SAMPLERS`.
        sample_steps: Number of sampling steps.
        device: "auto", "cpu" or "cuda".
        random_state: Seed of everything random; None takes a fresh one.
        progress: Show progress bars.

    Attributes:
        seed_: The seed that was used.
        n_features_in_: Number of columns.
        mean_, scale_: Location and scale of each column, (d,).
        denoiser_: The fitted denoiser, over standardised data.
        training_: `scidiffusion.training.TrainResult` of the fit.

    Example:
        >>> from sklearn.datasets import make_moons
        >>> X, _ = make_moons(2000, noise=0.05, random_state=0)
        >>> model = DensityDiffusion(max_steps=20, progress=False, random_state=0).fit(X)
        >>> model.sample(5).shape
        (5, 2)
    """

    def __init__(
        self,
        *,
        width: int = 128,
        blocks: int = 3,
        max_steps: int = 2500,
        batch_size: int = 512,
        lr: float = 2e-3,
        ema_decay: float = 0.995,
        validation_fraction: float = 0.1,
        patience: int = 10,
        budget: float | str | None = None,
        condition_dropout: float = 0.1,
        sampler: str = "dpmpp_2m",
        sample_steps: int = 50,
        device: str = "auto",
        random_state: int | None = None,
        progress: bool = True,
    ) -> None:
        self.width = width
        self.blocks = blocks
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.lr = lr
        self.ema_decay = ema_decay
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.budget = budget
        self.condition_dropout = condition_dropout
        self.sampler = sampler
        self.sample_steps = sample_steps
        self.device = device
        self.random_state = random_state
        self.progress = progress

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Learn p(x), or p(x | y) where `y` is given.

        Args:
            X: (n, d) finite numbers, n >= 10, no constant column.
            y: (n,) class labels (integers, strings, booleans), or (n,) or (n, k) real conditions.

        Raises:
            DataError: if X or y cannot be used; the message names the column or row.
            ConfigError: if an option is out of range.
        """
        from scidiffusion.training import train

        X = check_matrix(X)
        seed = check_seed(self.random_state)
        config = training_config(self, seed, validate_every=max(1, min(200, self.max_steps // 5)))
        kept, held_out = split_rows(len(X), self.validation_fraction, seed)
        make_sampler(self.sampler)
        self.condition_codec_ = None if y is None else ConditionCodec.infer(y, len(X))
        self.mean_, self.scale_ = X.mean(0), X.std(0)
        self.n_features_in_ = X.shape[1]
        denoiser = self._build(seed)
        data = torch.from_numpy((X - self.mean_) / self.scale_).to(torch.float32)
        cond = None if self.condition_codec_ is None else self.condition_codec_.encode(y, len(X))
        check_terminal(denoiser.process, data)
        self.training_ = train(
            denoiser,
            SimpleLoss(),
            data[kept],
            cond=None if cond is None else cond[kept],
            validation=(data[held_out], None if cond is None else cond[held_out])
            if len(held_out)
            else None,
            config=config,
        )
        self.seed_, self._calls = seed, 0
        self.denoiser_ = denoiser.to(resolve_device(self.device)).eval()
        return self

    def sample(
        self,
        n: int,
        *,
        conditions: Any = None,
        guidance_scale: float = 1.0,
        steps: int | None = None,
        sampler: str | Sampler | None = None,
        random_state: int | None = None,
        batch_size: int | None = None,
        callback: Any = None,
    ) -> NDArray[np.float64]:
        """Draw rows.

        Args:
            n: Number of rows, >= 0.
            conditions: One condition for all rows, or one a row: labels or real vectors as given
                to `fit`; None draws from the unconditional density.
            guidance_scale: 1 samples p(x | conditions); larger exaggerates the condition.
            steps: Number of steps; default `sample_steps`.
            sampler: Name or sampler; default the estimator's.
            random_state: Seed; None continues the estimator's own stream, with new rows each call.
            batch_size: Rows at once on a GPU; changes nothing but memory and speed.
            callback: As of `scidiffusion.samplers.sample`, on standardised states.

        Returns:
            (n, d) array.

        Raises:
            NotFittedError: before `fit`.
            InputError: if n is negative or a condition cannot be used.
        """
        self._check_fitted()
        n, batch_size = check_count(n), check_positive(batch_size, "batch_size")
        method = make_sampler(sampler or self.sampler)
        steps = check_steps(self.sample_steps if steps is None else steps)
        device = resolve_device(self.device)
        cond = self._conditions(conditions, n)
        denoiser: Any = self.denoiser_
        if guidance_scale != 1:
            if conditions is None:
                raise ConditionError("guidance_scale needs conditions=... to guide towards")
            denoiser = ClassifierFreeGuidance(denoiser, guidance_scale)
        noise = KeyedNoise(self._next_seed(random_state))

        def draw(start: int, rows: int) -> Tensor:
            like = torch.empty(rows, self.n_features_in_, device=device)
            part = None
            if cond is not None:
                part = cond[torch.arange(start, start + rows).clamp(max=max(n - 1, 0))].to(device)
            return sample(
                denoiser.process,
                denoiser,
                like,
                sampler=method,
                steps=steps,
                noise=noise.rows(start),
                cond=part,
                callback=callback,
            ).cpu()

        if n == 0:
            return np.empty((0, self.n_features_in_))
        values: Tensor = self._blocks(draw, n, device=device, batch_size=batch_size)
        return values.to(torch.float64).numpy() * self.scale_ + self.mean_

    def score_samples(
        self,
        X: ArrayLike,
        *,
        conditions: Any = None,
        method: Likelihood = "ode",
        steps: int = 100,
    ) -> NDArray[np.float64]:
        """Return the log-density of rows, in nats.

        Args:
            X: (n, d) finite numbers.
            conditions: As of `sample`.
            method: "ode", the density of the probability flow, or "elbo", a lower bound (with the
                noise of a fixed seed).
            steps: Steps of the ODE solver or of the bound's chain.

        Returns:
            (n,) array.
        """
        self._check_fitted()
        if method not in ("ode", "elbo"):
            raise ConfigError(f"method must be 'ode' or 'elbo', got {method!r}")
        X = check_matrix(X, columns=self.n_features_in_)
        device = resolve_device(self.device)
        data = torch.from_numpy((X - self.mean_) / self.scale_).to(device, torch.float32)
        cond = self._conditions(conditions, len(X))
        parts = []
        for start in range(0, len(data), self.compute_block):
            rows = slice(start, start + self.compute_block)
            part = None if cond is None else cond[rows].to(device)
            noise = KeyedNoise(self.seed_).rows(start)
            if method == "ode":
                value = ode_log_prob(
                    self.denoiser_, data[rows], steps=steps, cond=part, noise=noise
                )
            else:
                value = elbo(self.denoiser_, data[rows], steps=steps, cond=part, noise=noise).total
            parts.append(value.double().cpu().numpy())
        log_density: NDArray[np.float64] = np.concatenate(parts) - np.log(self.scale_).sum()
        return log_density

    def score(self, X: ArrayLike, y: Any = None) -> float:
        """Mean log-density of the rows of X (given y), as scikit-learn's density estimators."""
        return float(self.score_samples(X, conditions=y).mean())

    def _build(self, seed: int) -> NetworkDenoiser:
        codec = self.condition_codec_
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = ResidualMLP(
                self.n_features_in_,
                self.n_features_in_,
                width=self.width,
                blocks=self.blocks,
                coordinates=FourierCoordinates(),
                conditions=None if codec is None else codec.embedding(EMBED_DIM),
                embed_dim=EMBED_DIM,
            )
        return NetworkDenoiser(network, GaussianProcess(LinearVP(), variance="beta"))

    def _conditions(self, conditions: Any, n: int) -> Tensor | None:
        if self.condition_codec_ is None:
            if conditions is not None:
                raise ConditionError(
                    "this model was fitted without conditions; call fit(X, y) to learn p(x | y)"
                )
            return None
        return self.condition_codec_.encode(conditions, n)

    def _state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, dict[str, Any]]]:
        codec = {
            "mean": self.mean_.tolist(),
            "scale": self.scale_.tolist(),
            "condition": None
            if self.condition_codec_ is None
            else self.condition_codec_.to_dict(),
        }
        return {"seed": self.seed_}, dict(self.denoiser_.state_dict()), {"codec.json": codec}

    def _restore(self, saved: SavedModel) -> None:
        codec = saved.extra["codec.json"]
        self.mean_, self.scale_ = np.asarray(codec["mean"]), np.asarray(codec["scale"])
        self.n_features_in_ = len(self.mean_)
        condition = codec["condition"]
        self.condition_codec_ = None if condition is None else ConditionCodec.from_dict(condition)
        denoiser = self._build(0)
        denoiser.load_state_dict(saved.tensors)
        self.denoiser_ = denoiser.to(resolve_device(self.device)).eval()
        self.seed_, self._calls = int(saved.config["seed"]), 0


def check_matrix(X: ArrayLike, *, columns: int | None = None) -> NDArray[np.float64]:
    """Return X as a float64 matrix.

    Args:
        X: Anything array-like.
        columns: Number of columns it must have; None checks it as training data instead.

    Raises:
        DataError: if it is not a finite (n, d) matrix, or as training data has fewer than 10 rows
            or a constant column.
    """
    try:
        matrix = np.asarray(X, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(
            "X must hold numbers only; encode categories, or use TabularDiffusion"
        ) from None
    if matrix.ndim != 2:
        raise DataError(
            f"X must be a matrix (n, d), got shape {matrix.shape}; a single column is "
            "X.reshape(-1, 1)"
        )
    if not np.isfinite(matrix).all():
        row, column = np.argwhere(~np.isfinite(matrix))[0]
        raise DataError(f"X holds NaN or infinity, first in row {row}, column {column}")
    if columns is not None:
        if matrix.shape[1] != columns:
            raise DataError(f"X has {matrix.shape[1]} columns, the model was fitted on {columns}")
        if not len(matrix):
            raise DataError("X has no rows")
        return matrix
    if len(matrix) < MINIMUM_ROWS or not matrix.shape[1]:
        raise DataError(
            f"X has shape {matrix.shape}; at least {MINIMUM_ROWS} rows and 1 column are needed"
        )
    spread = matrix.std(0)
    if bool((spread <= 1e-12 * np.abs(matrix).max(0)).any()):
        raise DataError(f"column {int(np.argmin(spread))} of X is constant; drop it")
    return matrix
