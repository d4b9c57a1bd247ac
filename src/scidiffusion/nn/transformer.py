r"""A transformer whose blocks are modulated by time and condition: DiT, Peebles & Xie 2023.

    x <- x + gate_1 attention(modulate_1(norm(x)))
    x <- x + gate_2 cross_attention(modulate_2(norm(x)), context)      with a context only
    x <- x + gate_3 mlp(modulate_3(norm(x)))

Scales, shifts and gates are linear in silu(embed(time) + embed(cond)) and zero at the start, where
every block is the identity. Without positions the network treats its tokens as a set: permuting
them permutes the output. The last step has no norm, as in `scidiffusion.nn.mlp`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scidiffusion.errors import ConditionError, ConfigError, InputError
from scidiffusion.nn.attention import CrossAttention, MultiHeadAttention
from scidiffusion.nn.conditioning import AdaLN, ConditionSpec, FiLM, Modulator, zeroed
from scidiffusion.nn.embeddings import FourierCoordinates, SinusoidalEmbedding

CONTEXT = "context"
"""The name under which a dict of conditions holds the tokens of the context."""


def take_context(cond: Any, context_dim: int | None, others: bool) -> tuple[Tensor | None, Any]:
    """Split a condition into the context and the rest, None where nothing is left.

    Args:
        cond: The condition of a network.
        context_dim: Size of a token of its context; None: it has none.
        others: Whether it has other conditions.

    Raises:
        ConditionError: if the context is not (B, M, context_dim) of reals.
    """
    if context_dim is None or cond is None:
        return None, cond
    if not isinstance(cond, Mapping):
        if others:
            raise ConditionError("expected a dict: 'context' beside the other conditions")
        context, rest = cond, None
    else:
        context = cond.get(CONTEXT)
        rest = {name: value for name, value in cond.items() if name != CONTEXT} or None
    if context is None:
        return None, rest
    shape = tuple(context.shape)
    if len(shape) != 3 or shape[-1] != context_dim or not context.is_floating_point():
        raise ConditionError(
            f"the context must be real, (B, M, {context_dim}) with NaN for absent; "
            f"got {context.dtype} {shape}"
        )
    return context, rest


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention (with a context) and perceptron, each behind adaLN-Zero.

    The identity at the start.

    Args:
        dim: Size of a token.
        heads: Number of heads; divides `dim`.
        cond_dim: Size of the vector that modulates.
        context_dim: Size of a context token; None is a block without cross-attention.
        mlp_ratio: Hidden features of the perceptron as a multiple of `dim`.
        dropout: Probability of dropping a hidden feature of the perceptron.

    Raises:
        ConfigError: if `heads` does not divide `dim` or a size is impossible.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        cond_dim: int,
        context_dim: int | None = None,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        hidden = int(mlp_ratio * dim)
        if cond_dim < 1 or hidden < 1 or not 0 <= dropout < 1:
            raise ConfigError(
                "cond_dim and mlp_ratio * dim must be >= 1 and dropout in [0, 1); "
                f"got {cond_dim}, {mlp_ratio} * {dim} and {dropout}"
            )
        self.attention = MultiHeadAttention(dim, heads)
        self.attention_norm = AdaLN(dim, cond_dim)
        self.cross: CrossAttention | None = None
        self.cross_norm: AdaLN | None = None
        if context_dim is not None:
            self.cross = CrossAttention(dim, heads, context_dim)
            self.cross_norm = AdaLN(dim, cond_dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU("tanh"), nn.Dropout(dropout), nn.Linear(hidden, dim)
        )
        self.mlp_norm = AdaLN(dim, cond_dim)

    def forward(
        self,
        x: Tensor,
        vector: Tensor,
        context: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """Transform tokens.

        Args:
            x: (B, N, dim).
            vector: (B, cond_dim) or (1, cond_dim), what modulates.
            context: (B, M, context_dim) or None; a token with a NaN is absent.
            mask: (B, N) bool, True where `x` has a token.
            context_mask: (B, M) bool, True where `context` has a token.

        Returns:
            (B, N, dim).
        """
        h, gate = self.attention_norm(x, vector)
        x = torch.addcmul(x, gate, self.attention(h, mask=mask))
        if self.cross is not None and self.cross_norm is not None and context is not None:
            h, gate = self.cross_norm(x, vector)
            x = torch.addcmul(x, gate, self.cross(h, context, context_mask))
        h, gate = self.mlp_norm(x, vector)
        return torch.addcmul(x, gate, self.mlp(h))


class Transformer(nn.Module):
    """A denoiser's network over sets or sequences of tokens; see the module.

    Args:
        in_dim: Size of a token of z.
        out_dim: Size of a token of the output; None is `in_dim`.
        dim: Size of a token inside.
        depth: Number of blocks.
        heads: Number of heads; divides `dim`.
        time_embedding: "sinusoidal", "fourier", or a module that maps (B,) to (B, embed_dim).
        cond_dim: Number of entries of a condition that is one real vector.
        conditions: Any other condition of the whole row: a dict of specifications by name, as of
            `ConditionEmbedding`, or a module. Not together with `cond_dim`.
        context_dim: Size of the tokens of a context, which the condition holds under "context" (a
            bare tensor is the context where there is no other condition).
        positions: Add a sinusoidal embedding of each token's place: a sequence, not a set.
        coordinates: Features of each token of z in place of z.
        mlp_ratio: Hidden features of the perceptrons as a multiple of `dim`.
        dropout: Probability of dropping a hidden feature of a perceptron.
        zero_init_output: The network starts as the zero function.
        embed_dim: Size of the vector that modulates; None is `dim`.

    Raises:
        ConfigError: if an option is impossible or two contradict each other.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int | None = None,
        dim: int = 128,
        depth: int = 4,
        heads: int = 4,
        *,
        time_embedding: Literal["sinusoidal", "fourier"] | nn.Module = "sinusoidal",
        cond_dim: int | None = None,
        conditions: Mapping[str, ConditionSpec] | nn.Module | None = None,
        context_dim: int | None = None,
        positions: bool = False,
        coordinates: FourierCoordinates | None = None,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        zero_init_output: bool = True,
        embed_dim: int | None = None,
    ) -> None:
        super().__init__()
        out_dim = in_dim if out_dim is None else out_dim
        embed_dim = dim if embed_dim is None else embed_dim
        sizes = {"in_dim": in_dim, "out_dim": out_dim, "dim": dim, "embed_dim": embed_dim}
        for name, size in sizes.items():
            if size < 1:
                raise ConfigError(f"{name} must be >= 1, got {size}")
        if depth < 0:
            raise ConfigError(f"depth must be >= 0, got {depth}")
        if cond_dim is not None and conditions is not None:
            raise ConfigError("give `cond_dim` or `conditions`, not both")
        if isinstance(conditions, Mapping) and CONTEXT in conditions:
            raise ConfigError("the name 'context' is taken by the context; use `context_dim`")
        self.in_dim, self.out_dim, self.context_dim = in_dim, out_dim, context_dim
        self.coordinates = coordinates
        self.input = nn.Linear(in_dim if coordinates is None else coordinates.out_dim(in_dim), dim)
        self.positions = SinusoidalEmbedding(dim, scale=1.0) if positions else None
        self.modulator = Modulator(
            embed_dim, time_embedding, cond_dim if conditions is None else conditions
        )
        self.blocks = nn.ModuleList(
            TransformerBlock(dim, heads, embed_dim, context_dim, mlp_ratio, dropout)
            for _ in range(depth)
        )
        self.final = FiLM(dim, embed_dim)
        self.output = nn.Linear(dim, out_dim)
        if zero_init_output:
            zeroed(self.output)

    def forward(
        self, z: Tensor, time: Tensor, cond: Any = None, *, mask: Tensor | None = None
    ) -> Tensor:
        """Predict from `z` at `time` under `cond`.

        Args:
            z: (B, N, in_dim).
            time: (B,) or a scalar.
            cond: None, or what the conditions and the context ask for; absent at -1 or NaN.
            mask: (B, N) bool, True where there is a token.

        Returns:
            (B, N, out_dim) in the precision of the parameters; 0 at masked tokens.

        Raises:
            InputError: if `z` or `mask` has another shape.
            ConditionError: if the condition does not fit.
        """
        if z.ndim != 3 or z.shape[-1] != self.in_dim:
            raise InputError(f"z must be (B, N, {self.in_dim}), got {tuple(z.shape)}")
        if mask is not None and (mask.dtype != torch.bool or mask.shape != z.shape[:2]):
            raise InputError(
                f"mask must be bool {tuple(z.shape[:2])}, True where there is a token; "
                f"got {mask.dtype} {tuple(mask.shape)}"
            )
        context, rest = take_context(cond, self.context_dim, self.modulator.cond is not None)
        vector = self.modulator(time, rest)
        z = z.to(self.input.weight.dtype)
        if mask is not None:
            z = z.masked_fill(~mask.unsqueeze(-1), 0)
        x = self.input(z if self.coordinates is None else self.coordinates(z))
        if self.positions is not None:
            place = torch.arange(z.shape[1], device=z.device, dtype=torch.float32)
            x = x + self.positions(place).to(x.dtype)
        for block in self.blocks:
            x = block(x, vector, context, mask=mask)
        output = self.output(self.final(x, vector))
        return output if mask is None else output.masked_fill(~mask.unsqueeze(-1), 0)
