r"""Scaled dot-product attention between sets of tokens: Vaswani et al. 2017, eq. 1.

    attention(Q, K, V) = softmax(Q K^T / sqrt(d)) V,   in `heads` parallel subspaces.

A query sees the tokens of a context as a set: their order does not matter, and a masked token does
not matter at all, whatever it holds. A row without any token has nothing to attend to and gives 0,
so that, added to a residual stream, no context means no change.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from scidiffusion.errors import ConfigError, InputError

FEW_TOKENS = 64


class MultiHeadAttention(nn.Module):
    """Self-attention or cross-attention in several heads, Vaswani et al. 2017, section 3.2.2.

    Args:
        dim: Size of a query token and of the output.
        heads: Number of heads; divides `dim`.
        context_dim: Size of a context token; None is self-attention.

    Raises:
        ConfigError: if `heads` does not divide `dim` or a size is not positive.
    """

    def __init__(self, dim: int, heads: int, context_dim: int | None = None) -> None:
        super().__init__()
        if dim < 1 or heads < 1 or dim % heads:
            raise ConfigError(f"heads must divide dim; got dim={dim} and heads={heads}")
        if context_dim is not None and context_dim < 1:
            raise ConfigError(f"context_dim must be >= 1, got {context_dim}")
        self.dim, self.heads, self.context_dim = dim, heads, context_dim
        source = dim if context_dim is None else context_dim
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(source, 2 * dim)
        self.output = nn.Linear(dim, dim)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, dim / heads)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        last: int | None = None,
    ) -> Tensor:
        """Attend from `x` to itself or to `context`.

        Args:
            x: (B, N, dim).
            context: (B, M, context_dim), if the layer has a `context_dim`.
            mask: (B, M) bool (M = N for self-attention), True where there is a token. Its columns
                say which tokens can be seen; every token of `x` asks, masked or not.
            last: Only so many tokens at the end of `x` ask; all can be seen. Default: all ask.

        Returns:
            (B, N, dim), or (B, last, dim); 0 in rows that have no token to see.

        Raises:
            InputError: if a context is missing or superfluous, or the mask does not fit.
        """
        if (context is None) != (self.context_dim is None):
            raise InputError(
                "this is self-attention: pass no context"
                if context is not None
                else f"this is cross-attention: pass a context (B, M, {self.context_dim})"
            )
        source = x if context is None else context
        if last is not None:
            x = x[:, -last:]
        if mask is None:
            return self._attend(x, source, None)
        if mask.dtype != torch.bool or mask.shape != source.shape[:2]:
            raise InputError(
                f"mask must be bool {tuple(source.shape[:2])}, True where there is a token; "
                f"got {mask.dtype} {tuple(mask.shape)}"
            )
        # A weight of exactly 0 times NaN or infinity would still be NaN.
        source = source.masked_fill(~mask.unsqueeze(-1), 0)
        some = mask.any(-1)
        # Softmax over nothing is NaN, and so is its gradient: see everything, then discard it.
        visible = mask | ~some.unsqueeze(-1)
        output = self._attend(x, source, visible[:, None, None, :])
        return output.masked_fill(~some[:, None, None], 0)

    def _attend(self, x: Tensor, source: Tensor, visible: Tensor | None) -> Tensor:
        if source.shape[1] == 0:
            return torch.zeros_like(x)
        key, value = self.key_value(source).chunk(2, -1)
        query, key, value = self._split(self.query(x)), self._split(key), self._split(value)
        if visible is None and _small_on_cpu(query, key):
            weight = torch.softmax(query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5, -1)
            heads = weight.to(value.dtype) @ value
        else:
            heads = functional.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        return self.output(heads.transpose(1, 2).flatten(-2))

    def extra_repr(self) -> str:
        """Name the sizes."""
        return f"dim={self.dim}, heads={self.heads}, context_dim={self.context_dim}"


def _small_on_cpu(query: Tensor, key: Tensor) -> bool:
    """Whether plain products beat the fused kernel: few tokens in bfloat16 on a CPU (2 to 6 x)."""
    small = query.shape[-2] <= FEW_TOKENS and key.shape[-2] <= FEW_TOKENS
    return small and query.device.type == "cpu" and query.dtype == torch.bfloat16


class CrossAttention(nn.Module):
    """Attention to a context that may be absent, in part or as a whole.

    A token that holds a NaN is absent: that is how `scidiffusion.core.drop_condition` marks it. So
    classifier-free guidance works with contexts as with any other condition, and a row without
    context, or None, gives 0.

    Args:
        dim: Size of a query token and of the output.
        heads: Number of heads; divides `dim`.
        context_dim: Size of a context token; None is `dim`.

    Raises:
        ConfigError: if `heads` does not divide `dim` or a size is not positive.
    """

    def __init__(self, dim: int, heads: int, context_dim: int | None = None) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(
            dim, heads, dim if context_dim is None else context_dim
        )

    def forward(self, x: Tensor, context: Tensor | None, mask: Tensor | None = None) -> Tensor:
        """Attend from `x` (B, N, dim) to `context` (B, M, context_dim) under `mask` (B, M).

        Returns:
            (B, N, dim); 0 where no token is present.

        Raises:
            InputError: if the mask does not fit.
        """
        if context is None:
            return torch.zeros_like(x)
        absent = context.isnan().any(-1)
        if mask is not None and mask.shape != absent.shape:
            raise InputError(
                f"mask must be bool {tuple(absent.shape)}, got {mask.dtype} {tuple(mask.shape)}"
            )
        present = ~absent if mask is None else ~absent & mask
        return self.attention(x, context.to(x.dtype), present)
