"""Captions: from text to tokens, and from tokens to what a network attends to.

Without an encoder of one's own a caption is split into words, and the vocabulary is that of the
training captions; the network learns a vector for each word. A `TextEncoder` (a frozen language
model, a table of word vectors) gives vectors of its own in place of words. Either way a small
transformer over the tokens says which word belongs to which, and the grid attends to its output
(Rombach et al. 2022, section 3.3; Saharia et al. 2022, section 2.1).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from scidiffusion.errors import ConditionError, ConfigError, DataError
from scidiffusion.nn import SinusoidalEmbedding
from scidiffusion.nn.transformer import TransformerBlock

TOKEN = re.compile(r"\w+|[^\w\s]")
SHOWN_WORDS = 20
TEXT_DEPTH = 2
ABSENT = -1


@runtime_checkable
class TextEncoder(Protocol):
    """What an encoder of captions of one's own must have.

    `encode(captions)` takes a list of n texts and returns real numbers (n, M, dim): a vector for
    each of up to M tokens, NaN where a caption has fewer.
    """

    def encode(self, captions: Sequence[str]) -> Any:
        """Return the tokens of captions, (n, M, dim), NaN where there is none."""


@dataclass(frozen=True)
class CaptionCodec:
    """Turns captions into tokens for the network.

    Args:
        words: The vocabulary; empty with an encoder of one's own.
        length: Most tokens of a training caption.
        features: Size of a token of the encoder of one's own; 0 without.
    """

    words: tuple[str, ...]
    length: int
    features: int = 0

    @classmethod
    def fit(cls, captions: Any, n: int, encoder: TextEncoder | None) -> Self:
        """Learn the vocabulary of captions, or the size of an encoder's tokens.

        Args:
            captions: n texts.
            n: Number of images.
            encoder: An encoder of one's own, or None.

        Raises:
            DataError: if there are not n texts, or one is empty or no text.
            ConfigError: if the encoder does not give (n, M, dim).
        """
        texts = _texts(captions, DataError)
        if len(texts) != n:
            raise DataError(f"{len(texts)} captions for {n} images; give one an image")
        if encoder is not None:
            tokens = _encoded(encoder, texts[:1])
            return cls((), tokens.shape[1], tokens.shape[2])
        split = [tokens_of(text) for text in texts]
        for index, tokens_ in enumerate(split):
            if not tokens_:
                raise DataError(f"the caption of image {index} is empty; describe it, or leave it")
        return cls(tuple(sorted({word for one in split for word in one})), max(map(len, split)))

    def encode(self, captions: Any, n: int, encoder: TextEncoder | None = None) -> Tensor:
        """Return the tokens of captions: numbers of words (n, M), or an encoder's (n, M, dim).

        Args:
            captions: One caption, one an image, or None for none.
            n: Number of images.
            encoder: The encoder of the fit, if it was one of one's own.

        Raises:
            ConditionError: if a word is unknown, a caption empty, their number another, or the
                encoder is missing or another.
        """
        if captions is None:
            shape = (n, self.length) + ((self.features,) if self.features else ())
            return torch.full(shape, torch.nan if self.features else ABSENT)
        texts = _texts([captions] if isinstance(captions, str) else captions, ConditionError)
        if len(texts) not in (1, n):
            raise ConditionError(
                f"{len(texts)} captions for {n} images; give one, or one an image"
            )
        tokens = self._with(encoder, texts) if self.features else self._numbers(texts)
        return tokens.expand(n, *tokens.shape[1:]) if len(tokens) == 1 else tokens

    def _with(self, encoder: TextEncoder | None, texts: list[str]) -> Tensor:
        if encoder is None:
            raise ConditionError(
                "this model was fitted with a text encoder of your own, which is not saved with "
                "it; set model.text_encoder to it"
            )
        tokens = _encoded(encoder, texts)
        if tokens.shape[2] != self.features:
            raise ConditionError(
                f"the text encoder gives {tokens.shape[2]} numbers a token, the model was fitted "
                f"with {self.features}"
            )
        return tokens

    def _numbers(self, texts: list[str]) -> Tensor:
        number = {word: index for index, word in enumerate(self.words)}
        split = [tokens_of(text) for text in texts]
        for text, tokens in zip(texts, split, strict=True):
            if not tokens:
                raise ConditionError("a caption is empty; leave captions out for images of all")
            for word in tokens:
                if word not in number:
                    raise ConditionError(f"unknown word {word!r} in {text!r}; {self._hint(word)}")
        numbers = torch.full((len(texts), max(self.length, *map(len, split))), ABSENT)
        for row, tokens in enumerate(split):
            numbers[row, : len(tokens)] = torch.tensor([number[word] for word in tokens])
        return numbers

    def _hint(self, word: str) -> str:
        near = difflib.get_close_matches(word, self.words, n=1)
        if near:
            return f"did you mean {near[0]!r}?"
        shown = ", ".join(self.words[:SHOWN_WORDS])
        return f"known are {shown}{', ...' if len(self.words) > SHOWN_WORDS else ''}"

    def network(self, dim: int, heads: int) -> CaptionNetwork:
        """Return the network over these tokens."""
        return CaptionNetwork(dim, heads, words=len(self.words), features=self.features)

    def to_dict(self) -> dict[str, Any]:
        """The codec as JSON."""
        return {"words": list(self.words), "length": self.length, "features": self.features}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Self:
        """Rebuild what `to_dict` wrote."""
        return cls(tuple(record["words"]), record["length"], record["features"])


def tokens_of(text: str) -> list[str]:
    """Split a text into words and signs, in lower case."""
    return TOKEN.findall(text.lower())


class CaptionNetwork(nn.Module):
    """A transformer over the tokens of captions.

    Args:
        dim: Size of a token inside and of the output, even.
        heads: Heads of its attention; divides `dim`.
        words: Number of words of the vocabulary; 0 with an encoder's tokens.
        features: Size of an encoder's token; 0 with words.
        depth: Transformer blocks.

    Raises:
        ConfigError: if neither or both of `words` and `features` are given.
    """

    def __init__(
        self, dim: int, heads: int, *, words: int = 0, features: int = 0, depth: int = TEXT_DEPTH
    ) -> None:
        super().__init__()
        if bool(words) == bool(features):
            raise ConfigError("a CaptionNetwork has a vocabulary or features, one of the two")
        self.words = nn.Embedding(words, dim) if words else None
        self.features = nn.Linear(features, dim) if features else None
        self.positions = SinusoidalEmbedding(dim, scale=1.0)
        # The blocks are those of the denoiser; what modulates them is constant here.
        self.constant = nn.Parameter(torch.zeros(1, dim))
        self.blocks = nn.ModuleList(TransformerBlock(dim, heads, dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        for block in cast("list[TransformerBlock]", list(self.blocks)):
            # The caption goes through an ordinary transformer from the first step.
            block.attention_norm.open()
            block.mlp_norm.open()

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Read captions.

        Args:
            tokens: (B, M) numbers of words with -1 for none, or (B, M, features) with NaN.

        Returns:
            (B, M, dim) tokens to attend to, NaN where there is none, and (B, dim), their mean: 0
            for a row without caption.
        """
        if self.words is not None:
            present = tokens >= 0
            x = self.words(tokens.clamp(min=0))
        else:
            assert self.features is not None
            present = ~tokens.isnan().any(-1)
            x = self.features(tokens.masked_fill(~present.unsqueeze(-1), 0))
        place = torch.arange(tokens.shape[1], device=tokens.device, dtype=torch.float32)
        x = x + self.positions(place).to(x.dtype)
        for block in self.blocks:
            x = block(x, self.constant, mask=present)
        x = self.norm(x)
        hidden = x.masked_fill(~present.unsqueeze(-1), 0)
        mean = hidden.sum(1) / present.sum(1, keepdim=True).clamp(min=1)
        return x.masked_fill(~present.unsqueeze(-1), torch.nan), mean


def _texts(captions: Any, error: type[Exception]) -> list[str]:
    if isinstance(captions, str):
        raise error("captions must be one text an image, in a list")
    texts = list(captions)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise error(f"caption {index} is no text: {text!r:.60}")
    return texts


def _encoded(encoder: TextEncoder, texts: list[str]) -> Tensor:
    """Return an encoder's tokens, checked."""
    if not isinstance(encoder, TextEncoder):
        raise ConfigError(
            f"text_encoder must have encode(captions) -> (n, M, dim); got {encoder!r:.60}"
        )
    tokens = np.asarray(encoder.encode(texts), dtype=np.float32)
    if tokens.ndim != 3 or len(tokens) != len(texts) or 0 in tokens.shape:
        raise ConfigError(
            f"the text encoder must give (n, M, dim) for {len(texts)} captions; it gave "
            f"{tokens.shape}"
        )
    if np.isinf(tokens).any():
        raise ConfigError("the text encoder gave infinity; NaN marks tokens that are not there")
    return torch.from_numpy(tokens)
