"""A cascade: a coarse image first, then finer ones, each given the one before.

Each stage is an `ImageDiffusion`: the first learns the coarsest images, every other one images
given their coarse version (Ho et al. 2022, "Cascaded diffusion models"). Few cells carry what is
large, and cost little; the fine stages are left with what is small. Since a stage is given what
the stage before has *drawn*, with its errors, it is trained on coarse images with noise, and at
sampling noise of a chosen size is put on them and the stage is told (section 3.2 of the paper).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from torch import Tensor

from scidiffusion.core import KeyedNoise
from scidiffusion.errors import ConfigError, DataError
from scidiffusion.estimator import GenerativeEstimator, check_count, json_params
from scidiffusion.images.codec import as_images
from scidiffusion.images.estimator import ImageDiffusion
from scidiffusion.persistence import SavedModel, of_part, prefixed
from scidiffusion.samplers import Sampler
from scidiffusion.training.seeding import key_of


class ImageCascade(GenerativeEstimator):
    """Learn images from coarse to fine; see the module.

    Args:
        factors: How many times finer along each axis every stage after the first is, such as
            (2, 2) for 8 x 8, 16 x 16, 32 x 32.
        stages: Untrained estimators, one more than `factors`, coarsest first; one alone is used
            for every stage. Stages after the first should have `given_noise` > 0.
        given_noise: Size of the noise that is put on what a stage is given in `sample`, in its
            standard deviations; at most that of the stages' training.
        device: "auto", "cpu" or "cuda", of every stage; None leaves it to them.

    Attributes:
        stages_: The fitted stages.
        seed_: The seed of the first.

    Example:
        >>> fields = np.random.default_rng(0).normal(size=(20, 8, 8))
        >>> stage = ImageDiffusion(width=8, max_steps=2, progress=False, random_state=0)
        >>> ImageCascade((2,), stage).fit(fields).sample(3, steps=2).shape
        (3, 8, 8)
    """

    def __init__(
        self,
        factors: Sequence[int] = (2, 2),
        stages: ImageDiffusion | Sequence[ImageDiffusion] | None = None,
        *,
        given_noise: float = 0.0,
        device: str | None = None,
    ) -> None:
        self.factors = factors
        self.stages = stages
        self.given_noise = given_noise
        self.device = device

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        captions: Any = None,
        checkpoint_dir: str | Path | None = None,
        resume: bool = False,
    ) -> Self:
        """Learn every stage on its grid.

        Args:
            X: Images on the finest grid, as of `ImageDiffusion.fit`; integers become floats where
                they are averaged. The product of the factors divides every size.
            y: Labels or numbers, one an image.
            captions: Texts, one an image.
            checkpoint_dir: Folder for a checkpoint of every stage; None writes none.
            resume: Go on from the checkpoints that are there.

        Raises:
            DataError: if X cannot be used, or the factors do not divide its grid.
            ConfigError: if the stages do not fit the factors.
        """
        stages, factors = self._stages(), _factors(self.factors)
        images, dims = as_images(X, stages[-1].dims)
        grid, whole = images.shape[images.ndim - dims :], int(np.prod(factors))
        if any(size % whole for size in grid):
            raise DataError(
                f"factors {factors} make {whole} cells one, which does not divide a grid of "
                f"{grid}; crop the images or choose other factors"
            )
        levels = [images]
        for factor in reversed(factors):
            levels.insert(0, coarsened(levels[0], factor, dims))
        for index, (stage, level) in enumerate(zip(stages, levels, strict=True)):
            stage.set_params(dims=dims).fit(
                level,
                y,
                captions=captions,
                given=levels[index - 1] if index else None,
                checkpoint_dir=checkpoint_dir and Path(checkpoint_dir) / str(index),
                resume=resume,
            )
        self.stages_, self.seed_, self._calls = stages, stages[0].seed_, 0
        return self

    def _stages(self) -> list[ImageDiffusion]:
        given = ImageDiffusion(given_noise=0.5) if self.stages is None else self.stages
        count = len(_factors(self.factors)) + 1
        listed = [given] * count if isinstance(given, ImageDiffusion) else list(given)
        if len(listed) != count or not all(isinstance(one, ImageDiffusion) for one in listed):
            raise ConfigError(
                f"stages must be one ImageDiffusion, or {count} of them for {count - 1} factors"
            )
        noisiest = min(one.given_noise for one in listed[1:])
        if self.given_noise > noisiest:
            raise ConfigError(
                f"given_noise={self.given_noise:g} is more than a stage is trained with "
                f"({noisiest:g}); give the stages a larger given_noise"
            )
        return [self._placed(clone(one)) for one in listed]

    def _placed(self, stage: ImageDiffusion) -> ImageDiffusion:
        return stage if self.device is None else stage.set_params(device=self.device)

    def sample(
        self,
        n: int,
        *,
        conditions: Any = None,
        captions: Any = None,
        guidance_scale: float = 1.0,
        steps: int | None = None,
        sampler: str | Sampler | None = None,
        random_state: int | None = None,
    ) -> NDArray[Any]:
        """Draw images on the finest grid, stage by stage; arguments as of `ImageDiffusion.sample`.

        Raises:
            NotFittedError: before `fit`.
            InputError: if n is negative.
            ConditionError: as of `ImageDiffusion.sample`.
        """
        self._check_fitted()
        options = {
            "conditions": conditions,
            "captions": captions,
            "guidance_scale": guidance_scale,
            "steps": steps,
            "sampler": sampler,
        }
        seed = self._next_seed(random_state)
        coarse = self.stages_[0].sample(check_count(n), random_state=seed, **options)
        return self._refined(coarse, 0, self.given_noise, seed, options)

    def refine(
        self,
        coarse: ArrayLike,
        *,
        stage: int = 1,
        given_noise: float = 0.0,
        conditions: Any = None,
        captions: Any = None,
        guidance_scale: float = 1.0,
        steps: int | None = None,
        random_state: int | None = None,
    ) -> NDArray[Any]:
        """Draw fine images of coarse ones: super-resolution.

        Args:
            coarse: Images on the grid below stage `stage`.
            stage: The first stage that is used, 1 for images on the coarsest grid.
            given_noise: Size of the errors of `coarse`; nothing is added to them.
            conditions: As of `sample`.
            captions: As of `sample`.
            guidance_scale: As of `sample`.
            steps: As of `sample`.
            random_state: As of `sample`.

        Returns:
            Images on the finest grid, one for each of `coarse`.

        Raises:
            ConfigError: if there is no such stage.
            DataError: if the images are on another grid.
        """
        self._check_fitted()
        if stage not in range(1, len(self.stages_)):
            raise ConfigError(f"stage must be 1 to {len(self.stages_) - 1}, got {stage!r}")
        options = {
            "conditions": conditions,
            "captions": captions,
            "guidance_scale": guidance_scale,
            "steps": steps,
        }
        seed = self._next_seed(random_state)
        array = np.asarray(coarse)
        fine = self.stages_[stage].sample(
            len(array), given=array, given_noise=given_noise, random_state=seed, **options
        )
        return self._refined(fine, stage, self.given_noise, seed, options)

    def _refined(
        self,
        images: NDArray[Any],
        number: int,
        noise: float,
        seed: int,
        options: dict[str, Any],
    ) -> NDArray[Any]:
        """Take images of stage `number` through the stages after it."""
        for index in range(number + 1, len(self.stages_)):
            stage = self.stages_[index]
            own = key_of(seed, "stage", index)
            if noise and len(images):
                assert stage.conditions_.given is not None
                codec = stage.conditions_.given.images
                scaled = codec.encode(images)
                source = KeyedNoise(own, stream=("given",))
                images = codec.decode(scaled + noise * source.normal(torch.empty_like(scaled)))
            images = stage.sample(
                len(images), given=images, given_noise=noise, random_state=own, **options
            )
        return images

    # -- persistence -----------------------------------------------------------------------------

    def _saved_params(self) -> dict[str, Any]:
        # The stages are saved with what they have learned.
        return dict(self.get_params(deep=False)) | {"stages": None}

    def _state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, dict[str, Any]]]:
        tensors: dict[str, Tensor] = {}
        parts: list[dict[str, Any]] = []
        for index, stage in enumerate(self.stages_):
            config, held, extra = stage._state()
            params = json_params(stage._saved_params())
            parts.append({"params": params, "config": config, "extra": extra})
            tensors |= prefixed(held, str(index))
        return {"seed": self.seed_}, tensors, {"stages.json": {"stages": parts}}

    def _restore(self, saved: SavedModel) -> None:
        self.stages_ = []
        for index, part in enumerate(saved.extra["stages.json"]["stages"]):
            stage = self._placed(ImageDiffusion(**part["params"]))
            held = of_part(saved.tensors, str(index))
            stage._restore(SavedModel(part["config"], held, part["extra"]))
            self.stages_.append(stage)
        self.stages = self.stages_
        self.seed_, self._calls = int(saved.config["seed"]), 0


def coarsened(images: ArrayLike, factor: int, dims: int) -> NDArray[Any]:
    """Return images on a coarser grid, whose cells are means.

    Args:
        images: (N, ...) images.
        factor: Cells along each axis that become one; divides every size.
        dims: Dimensions of the grid: the last axes.
    """
    array = np.asarray(images)
    if array.dtype.kind in "iub":
        array = array.astype(np.float32)
    for axis in range(array.ndim - dims, array.ndim):
        before, after = array.shape[:axis], array.shape[axis + 1 :]
        array = array.reshape(*before, -1, factor, *after).mean(axis + 1)
    return array


def _factors(factors: Sequence[int]) -> tuple[int, ...]:
    values = tuple(factors)
    if not values or any(isinstance(v, bool) or not isinstance(v, int) or v < 2 for v in values):
        raise ConfigError(f"factors must be integers >= 2, such as (2, 2); got {factors!r}")
    return values
