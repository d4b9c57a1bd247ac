"""What a fit of images checks and chooses before it trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scidiffusion.conditions import ConditionCodec, missing_rows
from scidiffusion.core.schedules import check_steps
from scidiffusion.errors import ConfigError, DataError
from scidiffusion.estimator import training_config
from scidiffusion.images.given import check_given_noise
from scidiffusion.samplers import make_sampler

if TYPE_CHECKING:
    from scidiffusion.training import TrainConfig

MISSING_LABELS = ("error", "unlabelled")
MOST_DRAWS, DRAWS_PER_IMAGE = 1024, 8
"""Noisy images of an evaluation: of a few held-out ones several each, of many one each."""


def image_training(estimator: Any, held_out: int, seed: int) -> TrainConfig:
    """Return the options of the training.

    Args:
        estimator: With the constructor arguments of `ImageDiffusion`.
        held_out: Number of held-out images.
        seed: Seed of the training.

    Raises:
        ConfigError: if an option of the estimator is out of range.
    """
    make_sampler(estimator.sampler), check_steps(estimator.sample_steps)
    check_given_noise(estimator.given_noise)
    if estimator.missing_labels not in MISSING_LABELS:
        listed = ", ".join(map(repr, MISSING_LABELS))
        raise ConfigError(
            f"missing_labels must be one of {listed}; got {estimator.missing_labels!r}"
        )
    return training_config(estimator, seed, **evaluations(estimator.max_steps, held_out))


def evaluations(max_steps: int, held_out: int) -> dict[str, int]:
    """Return how often a training evaluates, and on how many noisy images.

    Args:
        max_steps: Training steps at most.
        held_out: Number of held-out images.
    """
    return {
        "validate_every": max(1, min(200, max_steps // 5)),
        "validation_draws": min(MOST_DRAWS, max(DRAWS_PER_IMAGE * held_out, 1)),
    }


def fit_labels(y: Any, n: int, missing_labels: str) -> ConditionCodec | None:
    """Return the codec of the labels or numbers of n images, or None without any.

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
