"""What images are conditioned on, together: labels or numbers, captions, given images.

A tensor of labels or numbers alone stays a tensor; else conditions are a dict by name. The
backbone (U-Net or transformer) is told them in three ways: labels, numbers, the mean of a
caption's tokens and the noise of given images are added to the embedding of time; a caption's
tokens are attended to; given images are channels beside the noisy ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from scidiffusion.conditions import ConditionCodec
from scidiffusion.core import Denoiser
from scidiffusion.core.denoiser import Condition
from scidiffusion.errors import ConditionError
from scidiffusion.guidance import ClassifierFreeGuidance
from scidiffusion.images.captions import CaptionCodec, CaptionNetwork, TextEncoder
from scidiffusion.images.codec import ImageCodec
from scidiffusion.images.fitting import fit_labels
from scidiffusion.images.given import GivenCodec, check_given_noise
from scidiffusion.nn.conditioning import ConditionSpec
from scidiffusion.nn.transformer import CONTEXT


@dataclass(frozen=True)
class ImageConditions:
    """The codecs of all conditions of a model; see the module.

    Args:
        labels: Labels or real numbers, from `y`.
        captions: Captions.
        given: Given images.
        noise: Largest size of the noise that given images were shown with; 0 without.
    """

    labels: ConditionCodec | None = None
    captions: CaptionCodec | None = None
    given: GivenCodec | None = None
    noise: float = 0.0

    @classmethod
    def fit(
        cls,
        codec: ImageCodec,
        n: int,
        *,
        y: Any,
        captions: Any,
        given: Any,
        given_noise: float,
        missing_labels: str,
        encoder: TextEncoder | None,
    ) -> Self:
        """Learn the codecs of n images' conditions; each is None where there is none.

        Raises:
            DataError: if a condition cannot be used; the message names the image.
            ConfigError: if the encoder does not do what it must.
        """
        if captions is None and encoder is not None:
            raise ConditionError("text_encoder needs captions; call fit(X, captions=...)")
        return cls(
            fit_labels(y, n, missing_labels),
            None if captions is None else CaptionCodec.fit(captions, n, encoder),
            None if given is None else GivenCodec.fit(given, n, codec),
            0.0 if given is None else given_noise,
        )

    @property
    def plain(self) -> bool:
        """Whether there are labels or numbers at most, whose tensor is the condition."""
        return self.captions is None and self.given is None

    @property
    def guidable(self) -> bool:
        """Whether there is something that guidance can exaggerate."""
        return self.labels is not None or self.captions is not None

    def encode(
        self,
        n: int,
        *,
        conditions: Any = None,
        captions: Any = None,
        given: Any = None,
        given_noise: float = 0.0,
        encoder: TextEncoder | None = None,
        absent: bool = False,
    ) -> Condition:
        """Return the conditions of n images as the network takes them.

        Args:
            n: Number of images.
            conditions: Labels or numbers: one, or one an image; None for none.
            captions: One, or one an image; None for none.
            given: One given image, (1, ...), or one an image; needed where the model has them.
            given_noise: Size of the errors of the given images, in their standard deviations.
            encoder: The text encoder of the fit, if there was one.
            absent: Some images may have no label.

        Raises:
            ConditionError: if a condition cannot be used, or the model was fitted without it.
        """
        for value, codec, name, call in (
            (conditions, self.labels, "conditions", "fit(X, y) to learn p(x | y)"),
            (captions, self.captions, "captions", "fit(X, captions=...)"),
            (given, self.given, "given images", "fit(X, given=...)"),
        ):
            if value is not None and codec is None:
                raise ConditionError(f"this model was fitted without {name}; call {call}")
        if check_given_noise(given_noise) > self.noise:
            raise ConditionError(
                f"given_noise={given_noise:g} is more than the model was trained with "
                f"({self.noise:g}); fit with a larger given_noise"
            )
        if self.plain:
            if self.labels is None:
                return None
            return self.labels.encode(conditions, n, absent=absent)
        encoded: dict[str, Tensor] = {}
        if self.labels is not None:
            encoded["labels"] = self.labels.encode(conditions, n, absent=absent)
        if self.captions is not None:
            encoded["captions"] = self.captions.encode(captions, n, encoder)
        if self.given is not None:
            encoded["given"] = self.given.encode(given, n)
            if self.noise:
                encoded["given_noise"] = torch.full((n, 1), float(given_noise))
        return encoded

    def guided(self, denoiser: Denoiser, scale: float, *, asked: bool, dropout: float) -> Denoiser:
        """Return a denoiser guided by `scale`; itself at 1.

        Args:
            denoiser: The denoiser.
            scale: Guidance scale.
            asked: Whether a label or a caption was given.
            dropout: Share of images that training showed without.

        Raises:
            ConditionError: if there is nothing to guide towards, or no model without condition.
            ConfigError: if the scale is not finite.
        """
        if scale == 1:
            return denoiser
        if not asked:
            raise ConditionError(
                "guidance_scale needs conditions=... or captions=... to guide towards"
                if self.guidable
                else "guidance_scale needs a conditional model; this one was fitted without "
                "labels and captions, call fit(X, y)"
            )
        if dropout == 0:
            raise ConditionError(
                "guidance_scale needs an unconditional model to start from, which "
                "condition_dropout=0 did not train; fit with condition_dropout=0.1"
            )
        # A given image is obeyed, not exaggerated.
        there = {"given": self.given is not None, "given_noise": self.noise > 0}
        kept = [name for name, held in there.items() if held]
        return ClassifierFreeGuidance(denoiser, scale, kept=kept)

    def specifications(
        self, dim: int, heads: int
    ) -> tuple[nn.Module | dict[str, ConditionSpec] | None, CaptionNetwork | None, int]:
        """Return what is added to the embedding of size `dim`, the reader of captions, channels.

        The last is the number of channels that given images add.
        """
        if self.plain:
            return (None if self.labels is None else self.labels.embedding(dim)), None, 0
        added: dict[str, ConditionSpec] = {}
        reader = None
        if self.labels is not None:
            added["labels"] = self.labels.embedding(dim)
        if self.captions is not None:
            reader, added["caption"] = self.captions.network(dim, heads), Summary(dim)
        if self.noise:
            added["given_noise"] = ("vector", 1)
        channels = 0 if self.given is None else self.given.images.shape[0]
        return added or None, reader, channels

    def to_dict(self) -> dict[str, Any]:
        """The codecs as JSON."""
        parts = {"labels": self.labels, "captions": self.captions, "given": self.given}
        named: dict[str, Any] = {
            name: None if part is None else part.to_dict() for name, part in parts.items()
        }
        return named | {"noise": self.noise}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Self:
        """Rebuild what `to_dict` wrote."""
        kinds = {"labels": ConditionCodec, "captions": CaptionCodec, "given": GivenCodec}
        made = {
            name: None if record[name] is None else kind.from_dict(record[name])  # type: ignore[attr-defined]
            for name, kind in kinds.items()
        }
        return cls(**made, noise=float(record["noise"]))


class Summary(nn.Module):
    """The mean of a caption's tokens, as a condition of the embedding."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)

    def forward(self, mean: Tensor | None) -> Tensor:
        """Map (B, dim) to (B, dim); None gives (1, dim)."""
        if mean is None:
            mean = self.linear.weight.new_zeros(1, self.linear.in_features)
        return self.linear(mean)


class ConditionedNetwork(nn.Module):
    """A backbone that is shown given images as channels and captions as context.

    Args:
        backbone: A network called as `network(z, time, cond)`.
        reader: What reads captions; None without.
    """

    def __init__(self, backbone: nn.Module, reader: CaptionNetwork | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.reader = reader

    def forward(self, z: Tensor, time: Tensor, cond: Any = None) -> Tensor:
        """Predict from z (B, C, ...) at `time` under the dict `cond` of `ImageConditions`."""
        rest = dict(cond or {})
        given = rest.pop("given", None)
        if given is not None:
            z = torch.cat((z, given.to(z.dtype)), 1)
        captions = rest.pop("captions", None)
        if self.reader is not None and captions is not None:
            rest[CONTEXT], rest["caption"] = self.reader(captions)
        return self.backbone(z, time, rest or None)
