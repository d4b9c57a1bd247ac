"""What a fit of images checks and chooses before it trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scidiffusion.conditions import ConditionCodec, missing_rows
from scidiffusion.core.schedules import check_steps
from scidiffusion.durations import seconds
from scidiffusion.errors import ConfigError, DataError
from scidiffusion.estimator import native_bf16, resolve_device
from scidiffusion.samplers import make_sampler

if TYPE_CHECKING:
    from scidiffusion.training import TrainConfig

PRECISIONS = ("auto", "float32", "bf16")
MISSING_LABELS = ("error", "unlabelled")
MOST_DRAWS, DRAWS_PER_IMAGE = 1024, 8
"""Noisy images of an evaluation: of a few held-out ones several each, of many one each."""


def training_config(estimator: Any, held_out: int, seed: int) -> TrainConfig:
    """Return the options of the training.

    Args:
        estimator: With the constructor arguments of `ImageDiffusion`.
        held_out: Number of held-out images.
        seed: Seed of the training.

    Raises:
        ConfigError: if an option of the estimator is out of range.
    """
    from scidiffusion.training import TrainConfig

    make_sampler(estimator.sampler), check_steps(estimator.sample_steps)
    choices = {"missing_labels": MISSING_LABELS, "precision": PRECISIONS}
    for name, allowed in choices.items():
        if getattr(estimator, name) not in allowed:
            listed = ", ".join(map(repr, allowed))
            raise ConfigError(f"{name} must be one of {listed}; got {getattr(estimator, name)!r}")
    device, precision = resolve_device(estimator.device), estimator.precision
    bf16 = precision == "bf16" or (precision == "auto" and native_bf16(device))
    return TrainConfig(
        max_steps=estimator.max_steps,
        batch_size=estimator.batch_size,
        lr=estimator.lr,
        ema_decay=estimator.ema_decay,
        patience=estimator.patience,
        precision="bf16" if bf16 else "float32",
        budget=None if estimator.budget is None else seconds(estimator.budget),
        condition_dropout=estimator.condition_dropout,
        validate_every=max(1, min(200, estimator.max_steps // 5)),
        validation_draws=min(MOST_DRAWS, max(DRAWS_PER_IMAGE * held_out, 1)),
        seed=seed,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        progress=estimator.progress,
    )


def fit_conditions(y: Any, n: int, missing_labels: str) -> ConditionCodec | None:
    """Return the codec of the conditions of n images, or None without any.

    Raises:
        DataError: if y cannot be used, or is missing for some images and that is an error.
    """
    if y is None:
        return None
    keep, missing = missing_labels == "unlabelled", missing_rows(y)
    if missing.any() and not keep:
        raise DataError(
            f"y is missing for {int(missing.sum())} images, first for image "
            f"{int(missing.argmax())}; leave them out, or set missing_labels='unlabelled' to "
            "learn from them without a label"
        )
    return ConditionCodec.infer(y, n, absent=keep)
