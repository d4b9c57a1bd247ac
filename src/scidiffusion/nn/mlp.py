r"""A residual multilayer perceptron: the network of tables and of toy densities.

    x_0 = W_in features(z),     x_{l+1} = x_l + gate_l f_l((1 + scale_l) norm(x_l) + shift_l),
    network(z, time, cond) = W_out ((1 + scale) x_L + shift),

where every scale, shift and gate is linear in one vector, silu(embed(time) + embed(cond)), and
zero at the start. All of them come from a single matrix product. The last line has no norm: z
reaches the output by a path that is linear in z with a time-dependent factor, which is what the
best eps, x0 and v are far away from the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from scidiffusion.errors import ConfigError, InputError
from scidiffusion.nn.conditioning import ConditionSpec, Modulator, zeroed
from scidiffusion.nn.dropout import Dropout
from scidiffusion.nn.embeddings import FourierCoordinates


class Branch(nn.Module):
    """Two linear layers with a SiLU between: the f_l of the module.

    Args:
        width: Number of features in and out.
        hidden: Number between the layers.
        dropout: Probability of dropping a hidden feature.
    """

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(width, hidden)
        self.dropout = Dropout(dropout)
        self.outer = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return f(x), of the shape of x."""
        # Without gradients nobody else holds the product, so silu may overwrite it.
        hidden = functional.silu(self.inner(x), inplace=not torch.is_grad_enabled())
        return self.outer(self.dropout(hidden))


class ResidualMLP(nn.Module):
    """Pre-norm residual perceptron modulated by time and condition; see the module.

    Args:
        in_dim: Number of entries of a row of z.
        out_dim: Number of entries of a row of the output; None is `in_dim`.
        width: Number of features of the trunk.
        blocks: Number of residual blocks.
        time_embedding: "sinusoidal", "fourier", or a module that maps (B,) to (B, embed_dim).
        cond_dim: Number of entries of a condition that is one real vector.
        conditions: Any other condition: a dict of specifications by name, as of
            `ConditionEmbedding`, or a module. Not together with `cond_dim`.
        coordinates: Features of z in place of z, `FourierCoordinates()` for few raw coordinates.
        dropout: Probability of dropping a hidden feature.
        conditioning: "adaln", with gates, or "film", without; both start as the identity.
        zero_init_output: The network starts as the zero function.
        embed_dim: Size of the vector that modulates; None is width / 4, between 32 and 128, as the
            product that makes all modulations would otherwise cost more than the blocks.
        expansion: Hidden features of a block as a multiple of `width`.

    Raises:
        ConfigError: if an option is impossible or two contradict each other.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int | None = None,
        width: int = 256,
        blocks: int = 4,
        time_embedding: Literal["sinusoidal", "fourier"] | nn.Module = "sinusoidal",
        cond_dim: int | None = None,
        coordinates: FourierCoordinates | None = None,
        dropout: float = 0.0,
        conditioning: Literal["adaln", "film"] = "adaln",
        zero_init_output: bool = True,
        *,
        conditions: Mapping[str, ConditionSpec] | nn.Module | None = None,
        embed_dim: int | None = None,
        expansion: int = 1,
    ) -> None:
        super().__init__()
        out_dim = in_dim if out_dim is None else out_dim
        embed_dim = min(max(width // 4, 32), 128) if embed_dim is None else embed_dim
        sizes = {"in_dim": in_dim, "out_dim": out_dim, "width": width, "embed_dim": embed_dim}
        for name, size in {**sizes, "expansion": expansion}.items():
            if size < 1:
                raise ConfigError(f"{name} must be >= 1, got {size}")
        if blocks < 0 or not 0 <= dropout < 1:
            raise ConfigError(
                f"blocks must be >= 0 and dropout in [0, 1), got {blocks} and {dropout}"
            )
        if conditioning not in ("adaln", "film"):
            raise ConfigError(f"conditioning must be 'adaln' or 'film', got {conditioning!r}")
        if cond_dim is not None and conditions is not None:
            raise ConfigError("give `cond_dim` or `conditions`, not both")
        self.in_dim, self.out_dim, self.width = in_dim, out_dim, width
        self.gated = conditioning == "adaln"
        self.coordinates = coordinates
        features = in_dim if coordinates is None else coordinates.out_dim(in_dim)
        self.input = nn.Linear(features, width)
        self.modulator = Modulator(
            embed_dim, time_embedding, cond_dim if conditions is None else conditions
        )
        self.blocks = nn.ModuleList(
            Branch(width, expansion * width, dropout) for _ in range(blocks)
        )
        self._chunks = (3 if self.gated else 2) * blocks + 2
        self.modulation = zeroed(nn.Linear(embed_dim, self._chunks * width))
        if not self.gated:
            for block in self.blocks:
                zeroed(block.outer)  # type: ignore[arg-type]
        self.output = nn.Linear(width, out_dim)
        if zero_init_output:
            zeroed(self.output)

    def forward(self, z: Tensor, time: Tensor, cond: Any = None) -> Tensor:
        """Predict from `z` at `time` under `cond`.

        Args:
            z: (B, in_dim), or any (B, ...) with in_dim entries a row.
            time: (B,) or a scalar.
            cond: None, or what the conditions ask for; a row's is absent at -1 or NaN.

        Returns:
            (B, out_dim) in the precision of the parameters. For any other shape of `z`, the shape
            of `z` with its last dimension times out_dim / in_dim, where that is whole.

        Raises:
            InputError: if a row of `z` has another number of entries.
            ConditionError: if the condition does not fit.
        """
        shape = z.shape
        flat = z.flatten(1) if z.ndim > 1 else z.unsqueeze(-1)
        if flat.shape[1] != self.in_dim:
            raise InputError(f"z must have {self.in_dim} entries a row, got {tuple(shape)}")
        flat = flat.to(self.input.weight.dtype)
        x = self.input(flat if self.coordinates is None else self.coordinates(flat))
        parts = iter(self.modulation(self.modulator(time, cond)).chunk(self._chunks, -1))
        size = (self.width,)
        for block in self.blocks:
            scale, shift = next(parts), next(parts)
            update = block(torch.addcmul(shift, functional.layer_norm(x, size), 1 + scale))
            x = torch.addcmul(x, next(parts), update) if self.gated else x + update
        output = self.output(torch.addcmul(next(parts), x, 1 + next(parts)))
        return output if z.ndim == 2 else self._restore(output, shape)

    def _restore(self, output: Tensor, shape: torch.Size) -> Tensor:
        if self.out_dim == self.in_dim:
            return output.reshape(shape)
        if self.out_dim % self.in_dim or len(shape) < 2:
            return output
        return output.reshape(*shape[:-1], shape[-1] * (self.out_dim // self.in_dim))
