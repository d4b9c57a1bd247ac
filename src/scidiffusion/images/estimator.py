"""`ImageDiffusion`: learn images on a grid; draw, complete and score them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from scidiffusion.core import Denoiser, KeyedNoise, NetworkDenoiser, check_terminal, elbo
from scidiffusion.core.denoiser import Condition
from scidiffusion.core.schedules import check_steps
from scidiffusion.errors import ConditionError
from scidiffusion.estimator import (
    GenerativeEstimator,
    check_count,
    check_seed,
    resolve_device,
    split_rows,
)
from scidiffusion.images.blocks import in_blocks, rows_of
from scidiffusion.images.building import OWN, SHARED, build_denoiser, build_objective
from scidiffusion.images.captions import TextEncoder
from scidiffusion.images.codec import ImageCodec
from scidiffusion.images.conditioning import ImageConditions
from scidiffusion.images.fitting import image_training
from scidiffusion.images.inpainting import Completion, known_cells
from scidiffusion.persistence import SavedModel, check_version
from scidiffusion.samplers import Sampler, make_sampler, sample

VERSION = 2
"""Version of what `save` writes of the codec and the network."""
SIZES = (*SHARED, *OWN["unet"], *OWN["dit"])


class ImageDiffusion(GenerativeEstimator):
    """Learn the distribution of images, given conditions or not; see the package's modules.

    Args:
        dims: Dimensions of the grid; None: (N, L) are lines, (N, H, W) and (N, C, H, W) planes,
            (N, C, D, H, W) volumes. (N, C, L) needs 1, (N, D, H, W) needs 3.
        value_range: (low, high) that values must keep; None is the range of the training images,
            which is recorded.
        network: "unet", or "dit": a transformer over patches (Peebles & Xie 2023).
        width: Channels of the U-Net at full resolution; a quarter of a token of the transformer.
        multipliers: Of the U-Net: channels of each level as a multiple of `width`, each level half
            the size of the one before; None is (1, 2, ...) down to about 4 cells a side.
        blocks: Of the U-Net: residual blocks a level.
        attention: Of the U-Net: levels with self-attention, 0 the full resolution; None is the
            lowest. Captions are attended to at the same levels.
        patch_size: Of the transformer: cells of a patch along each axis.
        depth: Of the transformer: number of blocks.
        heads: Heads of the attention.
        dropout: Probability of dropping a feature in a block, in [0, 1).
        parameterization: What the network predicts: "v", "eps" or "x0".
        learned_variance: Learn the variance of the reverse steps too (Nichol & Dhariwal 2021),
            which `score_samples` and the sampler "ancestral" use.
        condition_dropout: Share of training images shown without their condition, in [0, 1);
            unconditional samples and guidance need some.
        given_noise: Largest size of the noise that given images are shown with in training, in
            their standard deviations (noise-conditioning augmentation); 0 for none.
        text_encoder: What turns captions into tokens, a `TextEncoder`; None is the words of the
            training captions. It is not saved with the model: set it again after `load`.
        missing_labels: "error", or "unlabelled": images without a condition (None or NaN in y)
            are learned from without one.
        max_steps: Training steps at most.
        batch_size: Images a training step.
        lr: Peak learning rate.
        ema_decay: Decay of the average of the weights.
        validation_fraction: Share of the images held out to choose the best weights, in [0, 0.5].
        patience: Evaluations without improvement before training stops; None never stops.
        budget: Training time at most: seconds or a text such as "2min"; None is no limit.
        precision: "auto", "float32" or "bf16", of the training.
        sampler: Name of the default sampler; see `scidiffusion.samplers.SAMPLERS`.
        sample_steps: Number of sampling steps.
        device: "auto", "cpu" or "cuda".
        random_state: Seed of everything random; None takes a fresh one.
        progress: Show progress bars.

    Attributes:
        seed_: The seed that was used.
        codec_: Shape, dtype, range and scales of the images.
        conditions_: `ImageConditions`: labels or scales, vocabulary, shape of given images.
        denoiser_: The fitted denoiser, over scaled images.
        training_: `scidiffusion.training.TrainResult` of the fit; not saved.

    Example:
        >>> from scidiffusion.images import load_digits
        >>> X, y = load_digits()
        >>> model = ImageDiffusion(width=8, max_steps=2, progress=False, random_state=0)
        >>> model.fit(X, y).sample(3, conditions=7, steps=4).shape
        (3, 1, 8, 8)
    """

    compute_block: ClassVar[int] = 32

    def __init__(
        self,
        *,
        dims: int | None = None,
        value_range: Sequence[float] | None = None,
        network: str = "unet",
        width: int = 32,
        multipliers: Sequence[int] | None = None,
        blocks: int = 2,
        attention: Sequence[int] | None = None,
        patch_size: int = 2,
        depth: int = 6,
        heads: int = 4,
        dropout: float = 0.1,
        parameterization: str = "v",
        learned_variance: bool = False,
        condition_dropout: float = 0.1,
        given_noise: float = 0.0,
        text_encoder: TextEncoder | None = None,
        missing_labels: str = "error",
        max_steps: int = 10_000,
        batch_size: int = 64,
        lr: float = 1e-3,
        ema_decay: float = 0.999,
        validation_fraction: float = 0.1,
        patience: int | None = 20,
        budget: float | str | None = None,
        precision: str = "auto",
        sampler: str = "dpmpp_2m",
        sample_steps: int = 25,
        device: str = "auto",
        random_state: int | None = None,
        progress: bool = True,
    ) -> None:
        self.dims = dims
        self.value_range = value_range
        self.network = network
        self.width = width
        self.multipliers = multipliers
        self.blocks = blocks
        self.attention = attention
        self.patch_size = patch_size
        self.depth = depth
        self.heads = heads
        self.dropout = dropout
        self.parameterization = parameterization
        self.learned_variance = learned_variance
        self.condition_dropout = condition_dropout
        self.given_noise = given_noise
        self.text_encoder = text_encoder
        self.missing_labels = missing_labels
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.lr = lr
        self.ema_decay = ema_decay
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.budget = budget
        self.precision = precision
        self.sampler = sampler
        self.sample_steps = sample_steps
        self.device = device
        self.random_state = random_state
        self.progress = progress

    # -- fitting ---------------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        captions: Any = None,
        given: Any = None,
        checkpoint_dir: str | Path | None = None,
        resume: bool = False,
    ) -> Self:
        """Learn p(images), or p(images | y, captions, given) of what there is of these.

        Args:
            X: Integers or floats, (N, C, ...) with the sizes of the grid last, or (N, ...) for
                one channel (see `dims`); N >= 10. Integers come back as integers of their range.
            y: (N,) labels (integers, strings, booleans), or (N,) or (N, k) floats.
            captions: N texts.
            given: N images on the same grid, or on a coarser one that divides it: what will be
                given when images are drawn, as the coarse image of a fine one.
            checkpoint_dir: Folder for a checkpoint; None writes none.
            resume: Go on from the checkpoint that is there.

        Raises:
            DataError: if X or a condition cannot be used; the message names the image.
            ConfigError: if an option is out of range.
        """
        from scidiffusion.training import train

        seed = check_seed(self.random_state)
        image_training(self, 0, seed)  # options are checked before the images are looked at
        codec, images = ImageCodec.fit(X, dims=self.dims, value_range=self.value_range)
        kept, held = split_rows(len(images), self.validation_fraction, seed)
        n = len(images)
        conditions = ImageConditions.fit(
            codec,
            n,
            y=y,
            captions=captions,
            given=given,
            given_noise=self.given_noise,
            missing_labels=self.missing_labels,
            encoder=self.text_encoder,
        )
        denoiser = self._build(codec, conditions, seed)
        data = codec.encode(images)
        told = {"conditions": y, "captions": captions, "given": given}
        cond = conditions.encode(n, encoder=self.text_encoder, absent=True, **told)
        check_terminal(denoiser.process, data)

        def part(rows: Tensor) -> tuple[Tensor, Condition]:
            return data[rows], rows_of(cond, lambda told: told[rows])

        config = image_training(self, len(held), seed)
        if not conditions.plain:
            # A given image is never dropped: the objective drops what is beside it.
            config = replace(config, condition_dropout=0.0)
        x, shown = part(kept)
        self.training_ = train(
            denoiser,
            build_objective(denoiser, codec, conditions, self.condition_dropout),
            x,
            cond=shown,
            validation=part(held) if len(held) else None,
            config=config,
            checkpoint_dir=checkpoint_dir,
            resume=resume,
        )
        self.seed_, self._calls = seed, 0
        self.codec_, self.conditions_ = codec, conditions
        self.denoiser_ = denoiser.to(resolve_device(self.device)).eval()
        return self

    def _build(self, codec: ImageCodec, conditions: ImageConditions, seed: int) -> NetworkDenoiser:
        return build_denoiser(
            codec,
            conditions,
            seed=seed,
            parameterization=self.parameterization,
            learned_variance=self.learned_variance,
            network=self.network,
            sizes={name: getattr(self, name) for name in SIZES},
        )

    # -- use -------------------------------------------------------------------------------------

    def sample(
        self,
        n: int,
        *,
        conditions: Any = None,
        captions: Any = None,
        given: Any = None,
        given_noise: float = 0.0,
        guidance_scale: float = 1.0,
        steps: int | None = None,
        sampler: str | Sampler | None = None,
        random_state: int | None = None,
        clip: bool = False,
        batch_size: int | None = None,
        callback: Any = None,
    ) -> NDArray[Any]:
        """Draw new images.

        Args:
            n: Number of images, >= 0.
            conditions: One for all images, or one an image, as given to `fit`; None draws from
                all.
            captions: One text for all, or one an image; None draws from all.
            given: Given images, one an image or (1, ...) for all; needed by a model fitted with
                them.
            given_noise: Size of the errors of the given images, in standard deviations of their
                values: how far to trust them, up to the `given_noise` of the training. Nothing is
                added to them.
            guidance_scale: 1 samples p(x | conditions, captions), more exaggerates these at the
                price of diversity, 0 ignores them. A given image is obeyed as it is.
            steps: Number of steps, one network evaluation each (two under guidance); default
                `sample_steps`.
            sampler: Name or sampler; default the estimator's.
            random_state: Seed; None continues the estimator's own stream, with new images each
                call.
            clip: Bring floats into the recorded range; integers always are.
            batch_size: Images at once on a GPU; changes nothing but memory and speed.
            callback: As of `scidiffusion.samplers.sample`, on scaled images.

        Returns:
            (n, ...) images of the shape and dtype of the training images.

        Raises:
            NotFittedError: before `fit`.
            InputError: if n is negative.
            ConditionError: if a condition cannot be used, or guidance has none.
            ConfigError: if an option is out of range.
        """
        self._check_fitted()
        n = check_count(n)
        cond = self._encode(n, conditions, captions, given, given_noise)
        asked = conditions is not None or captions is not None
        method, denoiser = self._prepare(guidance_scale, sampler, asked=asked)
        steps = check_steps(self.sample_steps if steps is None else steps)

        noise = KeyedNoise(self._next_seed(random_state))

        def work(start: int, part: Condition, like: Tensor) -> Tensor:
            drawn: Tensor = sample(
                denoiser.process,
                denoiser,
                like,
                sampler=method,
                steps=steps,
                noise=noise.rows(start),
                cond=part,
                callback=callback,
            )
            return drawn

        like = torch.empty(n, *self.codec_.shape)
        drawn = in_blocks(self, work, n, cond, like, batch_size=batch_size, show=self.progress)
        return self.codec_.decode(drawn, clip=clip)

    def inpaint(
        self,
        X: ArrayLike,
        mask: ArrayLike,
        *,
        conditions: Any = None,
        captions: Any = None,
        given: Any = None,
        guidance_scale: float = 1.0,
        method: str = "repaint",
        resamples: int = 10,
        steps: int | None = None,
        random_state: int | None = None,
        clip: bool = False,
        batch_size: int | None = None,
    ) -> NDArray[Any]:
        """Draw what is unknown of images, given what is known; see `images.inpainting`.

        Args:
            X: (N, ...) images of the training images' shape; unknown values may be NaN.
            mask: Bool, True where a value is known: of X's shape, or of one image, or of its grid.
            conditions: As of `sample`.
            captions: As of `sample`.
            given: As of `sample`.
            guidance_scale: As of `sample`.
            method: "repaint", replacement with resampling; "reconstruction", guidance by the
                error of the known values: a rougher answer in a third of the time.
            resamples: Passes at each step of "repaint"; 1 is plain replacement.
            steps: Number of steps; default `sample_steps`.
            random_state: As of `sample`.
            clip: As of `sample`.
            batch_size: As of `sample`.

        Returns:
            X with the unknown values drawn; what is known is unchanged.

        Raises:
            NotFittedError: before `fit`.
            DataError: if the images are not of the model's shape, or the mask does not fit them.
            ConditionError: as of `sample`.
            ConfigError: if an option is out of range.
        """
        self._check_fitted()
        images, known = known_cells(X, mask, self.codec_)
        data = self.codec_.encode(images, known=known)
        n = len(data)
        completion = Completion(method, resamples)
        cond = self._encode(n, conditions, captions, given)
        asked = conditions is not None or captions is not None
        _, denoiser = self._prepare(guidance_scale, None, asked=asked)
        steps = check_steps(self.sample_steps if steps is None else steps)

        noise = KeyedNoise(self._next_seed(random_state))

        def work(start: int, part: Condition, observed: Tensor, mask: Tensor) -> Tensor:
            return completion.draw(denoiser, observed, mask, steps, noise.rows(start), part)

        mask = torch.from_numpy(known.reshape(data.shape).copy())
        filled = in_blocks(
            self, work, n, cond, data, mask, batch_size=batch_size, show=self.progress
        )
        drawn = self.codec_.decode(filled, clip=clip)
        return np.where(known, images, drawn).astype(drawn.dtype)

    def score_samples(
        self,
        X: ArrayLike,
        *,
        conditions: Any = None,
        captions: Any = None,
        given: Any = None,
        steps: int = 100,
        draws: int = 1,
    ) -> NDArray[np.float64]:
        """Return a lower bound of the log-likelihood of images, in nats: the ELBO.

        Of floats a log-density in their own units; of integers a log-probability (Ho et al. 2020,
        eq. 13), so that -value / (values log 2) is at least the bits a value.

        Args:
            X: (N, ...) images.
            conditions: As of `sample`.
            captions: As of `sample`.
            given: As of `sample`.
            steps: Steps of the chain, spread over the log-SNR; more give a better bound.
            draws: Draws to average over, with the noise of a fixed seed.

        Returns:
            (N,) array.
        """
        self._check_fitted()
        data = self.codec_.encode(X)
        cond = self._encode(len(data), conditions, captions, given)
        grid = self.denoiser_.process.schedule.grid(check_steps(steps))
        noise = KeyedNoise(self.seed_)

        def work(start: int, part: Condition, x: Tensor) -> Tensor:
            rows = noise.rows(start)
            return elbo(self.denoiser_, x, grid=grid, noise=rows, cond=part, draws=draws).total

        found = in_blocks(self, work, len(data), cond, data)
        return found.double().numpy() - self.codec_.log_volume

    def score(self, X: ArrayLike, y: Any = None) -> float:
        """Mean of `score_samples` of X (given y), as scikit-learn's density estimators."""
        return float(self.score_samples(X, conditions=y).mean())

    def _prepare(
        self, guidance_scale: float, sampler: str | Sampler | None, *, asked: bool
    ) -> tuple[Sampler, Denoiser]:
        """Check what a draw is asked for: (sampler, guided denoiser)."""
        method = make_sampler(sampler or self.sampler)
        method.check(self.denoiser_.process)
        return method, self.conditions_.guided(
            self.denoiser_, guidance_scale, asked=asked, dropout=self.condition_dropout
        )

    def _encode(
        self, n: int, conditions: Any, captions: Any, given: Any, given_noise: float = 0.0
    ) -> Condition:
        if (
            self.conditions_.guidable
            and conditions is None
            and captions is None
            and self.condition_dropout == 0
        ):
            raise ConditionError(
                "conditions are needed: condition_dropout=0 did not train an unconditional model"
            )
        return self.conditions_.encode(
            n,
            conditions=conditions,
            captions=captions,
            given=given,
            given_noise=given_noise,
            encoder=self.text_encoder,
        )

    # -- persistence -----------------------------------------------------------------------------

    def _saved_params(self) -> dict[str, Any]:
        # An encoder of one's own is code: it cannot be saved.
        return super()._saved_params() | {"text_encoder": None}

    def _state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, dict[str, Any]]]:
        codec = {
            "version": VERSION,
            "images": self.codec_.to_dict(),
            "conditions": self.conditions_.to_dict(),
        }
        return {"seed": self.seed_}, dict(self.denoiser_.state_dict()), {"codec.json": codec}

    def _restore(self, saved: SavedModel) -> None:
        record = saved.extra["codec.json"]
        check_version(record, VERSION, "the codec of images")
        self.codec_ = ImageCodec.from_dict(record["images"])
        self.conditions_ = ImageConditions.from_dict(record["conditions"])
        denoiser = self._build(self.codec_, self.conditions_, 0)
        denoiser.load_state_dict(saved.tensors)
        self.denoiser_ = denoiser.to(resolve_device(self.device)).eval()
        self.seed_, self._calls = int(saved.config["seed"]), 0
