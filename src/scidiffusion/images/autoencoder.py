r"""`DiffusionAutoEncoder`: an image as a semantic code and a stochastic one.

The *semantic* code, a few numbers, is what a network says of the image to the denoiser (see
`images.semantic`). The *stochastic* code is the noise from which that denoiser, told the semantic
code, draws the image: DDIM run backwards finds it (the "stochastic encoder" of Preechakul et al.
2022),

    z_t = scale_t x0(z_s, s, code) + std_t eps(z_s, s, code),   s < t,   from z_0 = x to z_1.

Both together give the image back, with an error that falls as 1 / steps. The semantic code alone
gives one image after the other that share what it says: draws of p(x | code), not their mean, so
that their squared error is twice what the code leaves open.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from scidiffusion.core import KeyedNoise, NetworkDenoiser, SimpleLoss, check_terminal
from scidiffusion.core.schedules import check_steps
from scidiffusion.errors import ConditionError
from scidiffusion.estimator import (
    GenerativeEstimator,
    check_count,
    check_seed,
    resolve_device,
    split_rows,
    training_config,
)
from scidiffusion.images.blocks import in_blocks
from scidiffusion.images.codec import ImageCodec
from scidiffusion.images.codes import as_numbers, check_pairs, semantic_codes, stochastic_codes
from scidiffusion.images.fitting import evaluations
from scidiffusion.images.semantic import build_autoencoder, encoder_of
from scidiffusion.persistence import SavedModel, check_version
from scidiffusion.samplers import DDIM, ddim_encode, sample, spherical_blend

VERSION = 1
"""Version of what `save` writes of the codec and the network."""
SIZES = ("width", "multipliers", "blocks", "attention", "heads", "dropout")


class DiffusionAutoEncoder(GenerativeEstimator):
    """Learn to tell images in a few numbers, and to draw images that are so told; see the module.

    As the encoder of `scidiffusion.LatentDiffusion` it makes a model that draws codes, then images
    (the "latent DDIM" of Preechakul et al. 2022).

    Args:
        code_dim: Numbers of a semantic code.
        dims: As of `ImageDiffusion`, as are all that follow and are not described here.
        value_range: (low, high) that values must keep; None is the range of the training images.
        width: Channels at full resolution, of the denoiser and of the encoder.
        multipliers: Channels of each level as a multiple of `width`; None: chosen by the grid.
        blocks: Residual blocks a level.
        attention: Levels with self-attention, 0 the full resolution; None is the lowest.
        heads: Heads of the attention.
        dropout: Probability of dropping a feature in a block, in [0, 1).
        parameterization: What the network predicts: "v", "eps" or "x0".
        condition_dropout: Share of training images whose code is hidden, in [0, 1): from them the
            network learns to draw without one, which is what `sample` does.
        max_steps: Training steps at most.
        batch_size: Images a training step.
        lr: Peak learning rate.
        ema_decay: Decay of the average of the weights.
        validation_fraction: Share of the images held out to choose the best weights, in [0, 0.5].
        patience: Evaluations without improvement before training stops; None never stops.
        budget: Training time at most: seconds or a text such as "2min"; None is no limit.
        precision: "auto", "float32" or "bf16", of the training.
        sample_steps: Steps of DDIM, one network evaluation each, in both directions.
        device: "auto", "cpu" or "cuda".
        random_state: Seed of everything random; None takes a fresh one.
        progress: Show progress bars.

    Attributes:
        seed_: The seed that was used.
        codec_: Shape, dtype, range and scales of the images.
        denoiser_: The fitted denoiser, over scaled images; its condition is an image or a code.
        training_: `scidiffusion.training.TrainResult` of the fit; not saved.

    Example:
        >>> from scidiffusion.images import load_digits
        >>> X, _ = load_digits()
        >>> model = DiffusionAutoEncoder(4, width=8, max_steps=2, progress=False, random_state=0)
        >>> codes = model.fit(X).encode(X[:3])
        >>> codes.shape, model.decode(codes, steps=2).shape
        ((3, 4), (3, 1, 8, 8))
    """

    compute_block: ClassVar[int] = 32
    decodes_at_random: ClassVar[bool] = True

    def __init__(
        self,
        code_dim: int = 32,
        *,
        dims: int | None = None,
        value_range: Sequence[float] | None = None,
        width: int = 32,
        multipliers: Sequence[int] | None = None,
        blocks: int = 2,
        attention: Sequence[int] | None = None,
        heads: int = 4,
        dropout: float = 0.0,
        parameterization: str = "v",
        condition_dropout: float = 0.1,
        max_steps: int = 10_000,
        batch_size: int = 64,
        lr: float = 1e-3,
        ema_decay: float = 0.999,
        validation_fraction: float = 0.1,
        patience: int | None = 20,
        budget: float | str | None = None,
        precision: str = "auto",
        sample_steps: int = 50,
        device: str = "auto",
        random_state: int | None = None,
        progress: bool = True,
    ) -> None:
        self.code_dim = code_dim
        self.dims = dims
        self.value_range = value_range
        self.width = width
        self.multipliers = multipliers
        self.blocks = blocks
        self.attention = attention
        self.heads = heads
        self.dropout = dropout
        self.parameterization = parameterization
        self.condition_dropout = condition_dropout
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.lr = lr
        self.ema_decay = ema_decay
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.budget = budget
        self.precision = precision
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
        checkpoint_dir: str | Path | None = None,
        resume: bool = False,
    ) -> Self:
        """Learn encoder and denoiser together.

        Args:
            X: Images, as of `ImageDiffusion.fit`.
            y: Not used; codes are learned without labels.
            checkpoint_dir: Folder for a checkpoint; None writes none.
            resume: Go on from the checkpoint that is there.

        Raises:
            DataError: if X cannot be used; the message names the image.
            ConfigError: if an option is out of range.
        """
        from scidiffusion.training import train

        seed = check_seed(self.random_state)
        check_steps(self.sample_steps), self._config(0, seed)
        codec, images = ImageCodec.fit(X, dims=self.dims, value_range=self.value_range)
        kept, held = split_rows(len(images), self.validation_fraction, seed)
        denoiser, data = self._build(codec, seed), codec.encode(images)
        check_terminal(denoiser.process, data)
        # The condition of an image is the image: the network sees it through the encoder.
        self.training_ = train(
            denoiser,
            SimpleLoss(denoiser.process.parameterization),  # type: ignore[attr-defined]
            data[kept],
            cond=data[kept],
            validation=(data[held], data[held]) if len(held) else None,
            config=self._config(len(held), seed),
            checkpoint_dir=checkpoint_dir,
            resume=resume,
        )
        self._set(codec, denoiser, seed)
        return self

    def _config(self, held_out: int, seed: int) -> Any:
        return training_config(self, seed, **evaluations(self.max_steps, held_out))

    def _build(self, codec: ImageCodec, seed: int) -> NetworkDenoiser:
        return build_autoencoder(
            codec,
            self.code_dim,
            seed=seed,
            parameterization=self.parameterization,
            sizes={name: getattr(self, name) for name in SIZES},
        )

    def _set(self, codec: ImageCodec, denoiser: NetworkDenoiser, seed: int) -> None:
        self.seed_, self._calls = seed, 0
        self.codec_ = codec
        self.denoiser_ = denoiser.to(resolve_device(self.device)).eval()

    @property
    def shape_(self) -> tuple[int, ...]:
        """Shape of an image."""
        return self.codec_.row_shape

    # -- both codes ------------------------------------------------------------------------------

    def encode(self, X: ArrayLike, *, batch_size: int | None = None) -> NDArray[np.float64]:
        """Return the semantic codes of images.

        Args:
            X: (N, ...) images of the training images' shape.
            batch_size: Images at once on a GPU; changes nothing but memory and speed.

        Returns:
            (N, code_dim) finite numbers, of no particular scale.

        Raises:
            NotFittedError: before `fit`.
            DataError: if the images are not of the model's shape or cannot be used.
        """
        self._check_fitted()
        encoder, data = encoder_of(self.denoiser_), self.codec_.encode(X)

        @torch.no_grad()
        def work(start: int, x: Tensor) -> Tensor:
            codes: Tensor = encoder(x)
            return codes

        return in_blocks(self, work, len(data), data, batch_size=batch_size).double().numpy()

    def stochastic(
        self,
        X: ArrayLike,
        *,
        steps: int | None = None,
        codes: ArrayLike | None = None,
        batch_size: int | None = None,
    ) -> NDArray[np.float64]:
        """Return the stochastic codes of images: the noise that is decoded to them.

        Args:
            X: (N, ...) images of the training images' shape.
            steps: Number of steps; default `sample_steps`. Decode with as many.
            codes: (N, code_dim) semantic codes that go with them; None is `encode(X)`.
            batch_size: As of `encode`.

        Returns:
            (N, ...) of an image's shape; in all nearly N(0, 1).

        Raises:
            NotFittedError: before `fit`.
            DataError: if images or codes cannot be used.
            InputError: if `steps` is out of range.
        """
        self._check_fitted()
        count = check_steps(self.sample_steps if steps is None else steps)
        data = self.codec_.encode(X)
        denoiser: Any = self.denoiser_
        told = semantic_codes(
            self.encode(X, batch_size=batch_size) if codes is None else codes, self.code_dim
        )
        check_pairs(len(told), len(data), "codes", "images")

        def work(start: int, x: Tensor, cond: Tensor) -> Tensor:
            return ddim_encode(denoiser.process, denoiser, x, steps=count, cond=cond)

        noise = in_blocks(
            self, work, len(data), data, told, batch_size=batch_size, show=self.progress
        )
        return noise.double().numpy().reshape(-1, *self.shape_)

    def decode(
        self,
        Z: ArrayLike,
        noise: ArrayLike | None = None,
        *,
        steps: int | None = None,
        random_state: int | None = None,
        clip: bool = False,
        batch_size: int | None = None,
    ) -> NDArray[Any]:
        """Return images of codes.

        Args:
            Z: (N, code_dim) semantic codes.
            noise: (N, ...) stochastic codes, as of `stochastic`; None draws them.
            steps: Number of steps; default `sample_steps`.
            random_state: Seed of the noise; None continues the estimator's own stream, with other
                images each call.
            clip: Bring floats into the recorded range; integers always are.
            batch_size: As of `encode`.

        Returns:
            (N, ...) images of the shape and dtype of the training images.

        Raises:
            NotFittedError: before `fit`.
            DataError: if the codes do not fit the model, or the noise does not fit the codes.
            ConfigError, InputError: if an option is out of range.
        """
        self._check_fitted()
        codes = semantic_codes(Z, self.code_dim)
        given = None if noise is None else stochastic_codes(noise, self.codec_)
        if given is not None:
            check_pairs(len(given), len(codes), "stochastic codes", "semantic ones")
        return self._decoded(codes, given, steps, random_state, clip, batch_size)

    def reconstruct(self, X: ArrayLike, *, steps: int | None = None) -> NDArray[Any]:
        """Return images after encoding to both codes and decoding.

        Args:
            X: (N, ...) images.
            steps: Number of steps there and back; default `sample_steps`. The error falls as
                1 / steps.
        """
        codes = self.encode(X)
        return self.decode(codes, self.stochastic(X, steps=steps, codes=codes), steps=steps)

    def interpolate(
        self, first: ArrayLike, second: ArrayLike, shares: ArrayLike, *, steps: int | None = None
    ) -> NDArray[Any]:
        """Return images between images: both codes blended (Preechakul et al. 2022).

        Semantic codes along the line, stochastic ones on the sphere
        (`scidiffusion.samplers.spherical_blend`).

        Args:
            first: (N, ...) images, at share 0.
            second: (N, ...) images, at share 1.
            shares: (S,) shares of the second.
            steps: As of `reconstruct`.

        Returns:
            (S, N, ...) images.

        Raises:
            NotFittedError: before `fit`.
            DataError: if images cannot be used or their numbers differ.
        """
        one, two = self.encode(first), self.encode(second)
        check_pairs(len(two), len(one), "second images", "first ones")
        start, end = (
            torch.from_numpy(self.stochastic(images, steps=steps, codes=codes))
            for images, codes in ((first, one), (second, two))
        )
        parts = np.atleast_1d(as_numbers(shares, "shares"))
        codes = [(1 - share) * one + share * two for share in parts]
        noise = [spherical_blend(start, end, share).numpy() for share in parts]
        made = self.decode(np.concatenate(codes), np.concatenate(noise), steps=steps)
        return made.reshape(len(parts), len(one), *self.shape_)

    def sample(
        self,
        n: int,
        *,
        steps: int | None = None,
        random_state: int | None = None,
        clip: bool = False,
        batch_size: int | None = None,
    ) -> NDArray[Any]:
        """Draw images without a code, from what `condition_dropout` taught the network.

        `scidiffusion.LatentDiffusion` with this as the encoder draws codes first.

        Args:
            n: Number of images, >= 0.
            steps: Number of steps; default `sample_steps`.
            random_state: As of `decode`.
            clip: As of `decode`.
            batch_size: As of `encode`.

        Returns:
            (n, ...) images.

        Raises:
            NotFittedError: before `fit`.
            ConditionError: if `condition_dropout` is 0.
            ConfigError, InputError: if an option is out of range.
        """
        self._check_fitted()
        n = check_count(n)
        if self.condition_dropout == 0:
            raise ConditionError(
                "condition_dropout=0 did not train drawing without codes; give codes to decode, "
                "or draw them by LatentDiffusion"
            )
        absent = torch.full((n, self.code_dim), torch.nan)
        return self._decoded(absent, None, steps, random_state, clip, batch_size)

    # -- the walks -------------------------------------------------------------------------------

    def _decoded(
        self,
        codes: Tensor,
        given: Tensor | None,
        steps: int | None,
        random_state: int | None,
        clip: bool,
        batch_size: int | None,
    ) -> NDArray[Any]:
        # A stream of its own: the same seed may have drawn the codes.
        seed = self._next_seed(random_state) if given is None else 0
        source = KeyedNoise(seed).child("decoder")
        count = check_steps(self.sample_steps if steps is None else steps)
        denoiser: Any = self.denoiser_

        def work(start: int, cond: Tensor, z: Tensor | None) -> Tensor:
            like = torch.empty(len(cond), *self.codec_.shape, device=cond.device)
            drawn: Tensor = sample(
                denoiser.process,
                denoiser,
                like,
                sampler=DDIM(),
                steps=count,
                noise=source.rows(start),
                cond=cond,
                z=z,
            )
            return drawn

        drawn = in_blocks(
            self, work, len(codes), codes, given, batch_size=batch_size, show=self.progress
        )
        return self.codec_.decode(drawn, clip=clip)

    # -- persistence, alone and as a part of `LatentDiffusion` ----------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What was learned, as JSON and tensors; see `scidiffusion.latent.Encoder.state`."""
        notes = {"version": VERSION, "seed": self.seed_, "images": self.codec_.to_dict()}
        return notes, dict(self.denoiser_.state_dict())

    def restore(self, notes: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        """Set what was learned from what `state` returned.

        Raises:
            ModelFileError: if it is of a newer version.
        """
        check_version(notes, VERSION, "the codec of images")
        codec = ImageCodec.from_dict(notes["images"])
        denoiser = self._build(codec, 0)
        denoiser.load_state_dict(tensors)
        self._set(codec, denoiser, int(notes["seed"]))
        return self

    def _state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, dict[str, Any]]]:
        notes, tensors = self.state()
        return {}, tensors, {"codec.json": notes}

    def _restore(self, saved: SavedModel) -> None:
        self.restore(saved.extra["codec.json"], saved.tensors)
