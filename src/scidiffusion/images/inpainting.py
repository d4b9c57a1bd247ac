"""Completing images: what a mask says, and the two ways of drawing what it hides.

"repaint" (Lugmayr et al. 2022) draws with ancestral steps, puts the known values at each noise
level in place and harmonises by repeating each step; it approaches the conditional law as the
repetitions grow. "reconstruction" (Ho et al. 2022b; Chung et al. 2023) adds the gradient of how
well the predicted image meets the known values. It walks once, with noise: an ODE would keep what
the approximate gradient gets wrong at high noise. As it takes neighbouring cells for independent
witnesses, it is a rough answer on correlated fields. Both are `scidiffusion.guidance`'s; the known
values of the result are the given ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scidiffusion.core import Denoiser, KeyedNoise
from scidiffusion.core.denoiser import Condition
from scidiffusion.core.schedules import check_steps
from scidiffusion.errors import ConfigError, DataError
from scidiffusion.guidance import ReconstructionGuidance, RePaint
from scidiffusion.images.codec import ImageCodec, as_images
from scidiffusion.samplers import DPMSolverPP, sample

METHODS = ("repaint", "reconstruction")


def known_cells(X: Any, mask: Any, codec: ImageCodec) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return images as an array, and which of their values are known, of the same shape.

    Args:
        X: Images.
        mask: Bool, True where known: of X's shape, or of one image, or of its grid.
        codec: That of the training images.

    Raises:
        DataError: if the mask is not bool or of another shape.
    """
    images, _ = as_images(X, codec.dims)
    known = np.asarray(mask)
    if known.dtype != bool:
        raise DataError(
            f"mask must be bool, True where a value is known, got {known.dtype}; mask != 0 or "
            "~np.isnan(X) makes one"
        )
    allowed = (images.shape, images.shape[1:], codec.shape[1:])
    if known.shape not in allowed:
        named = " or ".join(str(shape) for shape in dict.fromkeys(allowed))
        raise DataError(
            f"mask has shape {known.shape}; it must be that of the images, of one image or of its "
            f"grid: {named}"
        )
    return images, np.broadcast_to(known, images.shape)


def read_mask(path: Path | None, X: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the mask of a file, or, without one, where X is not NaN.

    Args:
        path: `.npy` of bools.
        X: The images.

    Raises:
        DataError: if the file is missing or holds no bools, or nothing of X is NaN.
    """
    if path is None:
        known = ~np.isnan(X) if X.dtype.kind == "f" else np.ones(X.shape, dtype=bool)
        if known.all():
            raise DataError("no value of the images is NaN: a mask must say what is unknown")
        return known
    try:
        mask = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"no mask at {path}") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read the mask {path}: {error}") from error
    return np.asarray(mask)


@dataclass(frozen=True)
class Completion:
    """How scaled images with unknown values are drawn.

    Args:
        method: "repaint" or "reconstruction".
        resamples: Passes at each step of "repaint".

    Raises:
        ConfigError: if the method is unknown or `resamples` below 1.
    """

    method: str
    resamples: int

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(f"method must be 'repaint' or 'reconstruction', got {self.method!r}")
        check_steps(self.resamples)

    def draw(
        self,
        denoiser: Denoiser,
        observed: Tensor,
        known: Tensor,
        steps: int,
        noise: KeyedNoise,
        cond: Condition,
    ) -> Tensor:
        """Draw images.

        Args:
            denoiser: The denoiser, guided towards the condition or not.
            observed: (B, C, ...) scaled images; unknown values are arbitrary but finite.
            known: Bool, of the same shape.
            steps: Number of steps.
            noise: Source of noise.
            cond: Conditions of the rows.
        """
        walker: Any = denoiser
        if self.method == "repaint":
            method: Any = RePaint(observed, known, resamples=self.resamples)
        else:
            walker, method = (
                ReconstructionGuidance(denoiser, observed, known),
                DPMSolverPP(sde=True),
            )
        drawn = sample(
            denoiser.process,
            walker,
            observed,
            sampler=method,
            steps=steps,
            noise=noise,
            cond=cond,
        )
        return torch.where(known, observed, drawn)
