"""Images given images: super-resolution, translation, whatever one field says of another.

The given image is laid over the grid of the image that is drawn, its cells repeated where it is
coarser, and shown to the network as further channels at every step (Saharia et al. 2021, "SR3").

In a cascade the given image is itself drawn, and not quite right. *Noise-conditioning
augmentation* (Ho et al. 2022, "Cascaded diffusion models", section 3) shows the network given
images with noise of a size u ~ U(0, given_noise) and tells it u; later it can be told how far to
trust.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from scidiffusion.core import Objective
from scidiffusion.core.denoiser import Condition, drop_condition
from scidiffusion.core.rng import Noise
from scidiffusion.errors import ConditionError, ConfigError, DataError
from scidiffusion.images.codec import ImageCodec, as_images

DROPPED = ("labels", "captions")
"""Conditions that training leaves out now and then; a given image is always there."""


@dataclass(frozen=True)
class GivenCodec:
    """Given images as channels over the grid of the images that are drawn.

    Args:
        images: Shape and scales of the given images.
        factors: How many cells of the drawn grid a given cell covers, by axis.
    """

    images: ImageCodec
    factors: tuple[int, ...]

    @classmethod
    def fit(cls, given: Any, n: int, target: ImageCodec) -> Self:
        """Learn shape and scales.

        Args:
            given: n images on the grid of the target or a coarser one that divides it.
            n: Number of images.
            target: Codec of the images that are drawn.

        Raises:
            DataError: if the given images cannot be used, their number is another, or their grid
                does not divide that of the images.
        """
        try:
            codec, array = ImageCodec.fit(given, dims=target.dims)
        except DataError as error:
            raise DataError(f"given: {error}") from error
        if len(array) != n:
            raise DataError(f"{len(array)} given images for {n} images; give one an image")
        fine, coarse = target.shape[1:], codec.shape[1:]
        if any(size % small for size, small in zip(fine, coarse, strict=True)):
            raise DataError(
                f"given images are on a grid of {coarse}, which does not divide that of the "
                f"images, {fine}; resize them"
            )
        return cls(codec, tuple(a // b for a, b in zip(fine, coarse, strict=True)))

    def encode(self, given: Any, n: int) -> Tensor:
        """Return (n, C, ...) over the fine grid; one given image is repeated.

        Raises:
            ConditionError: if there is none, or their number is another.
            DataError: if they are of another shape or cannot be used.
        """
        if given is None:
            raise ConditionError(
                "given images are needed: this model was fitted with given=..., give one an "
                "image, or one for all"
            )
        array, _ = as_images(given, self.images.dims)
        if len(array) not in (1, n):
            raise ConditionError(
                f"{len(array)} given images for {n} images; give one, or one each"
            )
        try:
            shown = self.images.encode(array)
        except DataError as error:
            raise DataError(f"given: {error}") from error
        for axis, factor in enumerate(self.factors):
            shown = shown.repeat_interleave(factor, 2 + axis)
        return shown.expand(n, *shown.shape[1:]) if len(shown) == 1 else shown

    def to_dict(self) -> dict[str, Any]:
        """The codec as JSON."""
        return {"images": self.images.to_dict(), "factors": list(self.factors)}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Self:
        """Rebuild what `to_dict` wrote."""
        return cls(ImageCodec.from_dict(record["images"]), tuple(record["factors"]))


class ConditionedLoss(Objective):
    """A loss under conditions that are dropped or blurred as training needs it.

    Args:
        objective: The loss.
        dropout: Share of rows shown without label and caption, in [0, 1); in training alone.
        given_noise: Largest size of the noise on given images; 0 for none.
        factors: Cells of the grid that share their noise, by axis: those of one given cell.
    """

    def __init__(
        self,
        objective: Objective,
        *,
        dropout: float,
        given_noise: float,
        factors: tuple[int, ...] = (),
    ) -> None:
        self.objective = objective
        self.dropout = dropout
        self.given_noise = given_noise
        self.factors = factors

    def __call__(
        self, denoiser: Any, x: Any, noise: Noise, cond: Condition = None, t: Tensor | None = None
    ) -> Tensor:
        """See `Objective.__call__`."""
        cond, source = dict(cond), noise.child("conditions")
        if self.given_noise:
            given = cond["given"]
            size = self.given_noise * source.uniform(given[:, :1].flatten(1)[:, :1])
            cond |= blurred(given, size, source.child("given"), self.factors)
        if self.dropout and denoiser.training:
            keep = source.child("dropout").uniform(torch.empty(len(x), device=x.device))
            named = {name: cond[name] for name in DROPPED if name in cond}
            if named:
                cond |= drop_condition(named, keep >= self.dropout)
        return self.objective(denoiser, x, noise, cond, t)


def blurred(
    given: Tensor, size: Tensor, noise: Noise, factors: tuple[int, ...]
) -> dict[str, Tensor]:
    """Return given images with noise, and its size, as conditions.

    Args:
        given: (B, C, ...) scaled given images over the fine grid.
        size: (B, 1) standard deviations of the noise.
        noise: Where it comes from.
        factors: Cells of one given cell, by axis: they share their noise.
    """
    coarse = given
    for axis, factor in enumerate(factors):
        coarse = coarse.narrow(2 + axis, 0, coarse.shape[2 + axis] // factor)
    drawn = noise.normal(torch.empty_like(coarse))
    for axis, factor in enumerate(factors):
        drawn = drawn.repeat_interleave(factor, 2 + axis)
    width = size.reshape(-1, *[1] * (given.ndim - 1)).to(given.dtype)
    return {"given": given + width * drawn, "given_noise": size}


def check_given_noise(value: float, name: str = "given_noise") -> float:
    """Return the size of a noise on given images, a finite number >= 0.

    Raises:
        ConfigError: if it is none.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and 0 <= value < float("inf")):
        raise ConfigError(f"{name} must be a number >= 0, got {value!r}")
    return float(value)
