r"""How a network is told a condition, and how it is told that there is none.

Two questions, answered apart. *Which vector stands for the condition?* The embeddings map a label
or a vector of reals to (B, dim); an absent one (-1 among integers, NaN among reals, None for
everything, as `scidiffusion.core.denoiser` has it) maps to a learned constant, so that one network
is the conditional and the unconditional model. *What does the vector do?* It modulates features h:

    FiLM     h -> (1 + scale) h + shift                                  (Perez et al. 2018)
    adaLN    h -> h + gate f((1 + scale) norm(h) + shift)                (Peebles & Xie 2023)

with scale, shift and gate linear in the vector and zero at the start: FiLM and an adaLN block are
then the identity, which lets deep networks train from the first step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

from scidiffusion.errors import ConditionError, ConfigError
from scidiffusion.nn.embeddings import TimeEmbedding

ConditionSpec: TypeAlias = "tuple[Literal['class', 'vector'], int] | nn.Module"
"""("class", number of classes), ("vector", number of reals), or a module of one's own that maps a
value, or None for absent, to (B, dim) or (1, dim)."""


def zeroed(linear: nn.Linear) -> nn.Linear:
    """Set the weight and the bias of `linear` to zero and return it."""
    nn.init.zeros_(linear.weight)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
    return linear


def per_row(modulation: Tensor, x: Tensor) -> Tensor:
    """View (B, dim) so that it broadcasts over the middle dimensions of `x` (B, ..., dim)."""
    return modulation.reshape(modulation.shape[0], *([1] * (x.ndim - 2)), modulation.shape[-1])


class FiLM(nn.Module):
    """Scale and shift each feature by functions of the condition: Perez et al. 2018, eq. 2.

    The identity at the start.

    Args:
        dim: Number of features.
        cond_dim: Size of the condition vector.
    """

    def __init__(self, dim: int, cond_dim: int) -> None:
        super().__init__()
        self.modulation = zeroed(nn.Linear(cond_dim, 2 * dim))

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """Modulate `x` (B, ..., dim) by `cond` (B, cond_dim) or (1, cond_dim)."""
        scale, shift = per_row(self.modulation(cond), x).chunk(2, -1)
        return torch.addcmul(shift, x, 1 + scale)


class AdaLN(nn.Module):
    """Layer normalisation modulated by the condition, with a gate: Peebles & Xie 2023, adaLN-Zero.

    Returns the input of a branch f and the gate of its output; `x + gate * f(h)` is the identity
    at the start, as the gate is zero.

    Args:
        dim: Number of features.
        cond_dim: Size of the condition vector.
    """

    def __init__(self, dim: int, cond_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.modulation = zeroed(nn.Linear(cond_dim, 3 * dim))

    def open(self) -> None:
        """Set the gate to 1: without modulation the branch counts as in a plain transformer."""
        with torch.no_grad():
            self.modulation.bias.chunk(3)[2].fill_(1.0)

    def forward(self, x: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        """Return (h, gate) for `x` (B, ..., dim) under `cond` (B, cond_dim) or (1, cond_dim)."""
        scale, shift, gate = per_row(self.modulation(cond), x).chunk(3, -1)
        return torch.addcmul(shift, self.norm(x), 1 + scale), gate


class ClassCondition(nn.Module):
    """A learned vector for each class, and one for "no class" (-1).

    Args:
        num_classes: Classes are 0 .. num_classes - 1.
        dim: Size of the embedding.

    Raises:
        ConfigError: if `num_classes` is not positive.
    """

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        if num_classes < 1:
            raise ConfigError(f"num_classes must be >= 1, got {num_classes}")
        self.num_classes, self.dim = num_classes, dim
        self.table = nn.Embedding(num_classes + 1, dim)  # row 0 is "no class"

    def forward(self, value: Tensor | None) -> Tensor:
        """Embed integer `value` (B,) or (B, 1) as (B, dim); None gives (1, dim).

        Raises:
            ConditionError: if `value` is not a tensor of integers or, on the CPU, a class is
                unknown. (A GPU would have to stop and ask; it asserts on its own.)
        """
        if value is None:
            return self.table.weight[:1]
        if value.is_floating_point() or value.dtype == torch.bool or value.is_complex():
            raise ConditionError(
                f"a class condition must be integers with -1 for absent, got {value.dtype}"
            )
        value = value.reshape(value.shape[0]) if value.ndim == 2 else value
        if value.ndim != 1:
            raise ConditionError(f"a class condition must be (B,), got {tuple(value.shape)}")
        try:
            return self.table(value.long() + 1)
        except IndexError as error:
            raise ConditionError(
                f"classes must be 0 .. {self.num_classes - 1}, or -1 for absent; "
                f"got {int(value.min())} .. {int(value.max())}"
            ) from error


class VectorCondition(nn.Module):
    """A perceptron over the observed entries of a vector and the mask that says which they are.

    With m = 1 where an entry is observed and 0 where it is NaN, the embedding is f(m v, m). A row
    without any observation so gets f(0, 0), a learned constant.

    Args:
        in_dim: Number of entries.
        dim: Size of the embedding.
        hidden: Width of the perceptron; None is `dim`.

    Raises:
        ConfigError: if `in_dim` is not positive.
    """

    def __init__(self, in_dim: int, dim: int, hidden: int | None = None) -> None:
        super().__init__()
        if in_dim < 1:
            raise ConfigError(f"the size of a vector condition must be >= 1, got {in_dim}")
        self.in_dim, self.dim = in_dim, dim
        self.inner = nn.Linear(2 * in_dim, hidden or dim)
        self.outer = nn.Linear(hidden or dim, dim)

    def forward(self, value: Tensor | None) -> Tensor:
        """Embed real `value` (B, in_dim), or (B,) if that is 1, as (B, dim); None gives (1, dim).

        Raises:
            ConditionError: if `value` is not real or has another size.
        """
        weight = self.inner.weight
        if value is None:
            features = weight.new_zeros(1, 2 * self.in_dim)
        else:
            if not value.is_floating_point():
                raise ConditionError(
                    f"a vector condition must be real with NaN for absent, got {value.dtype}"
                )
            value = value.unsqueeze(-1) if value.ndim == 1 else value
            if value.ndim != 2 or value.shape[-1] != self.in_dim:
                raise ConditionError(
                    f"a vector condition must be (B, {self.in_dim}), got {tuple(value.shape)}"
                )
            absent = value.isnan()
            known = value.masked_fill(absent, 0).to(weight.dtype)
            features = torch.cat((known, (~absent).to(weight.dtype)), -1)
        return self.outer(nn.functional.silu(self.inner(features)))


class ConditionEmbedding(nn.Module):
    """The sum of the embeddings of several named conditions.

    Args:
        specs: What each condition is, by name (any string); see `ConditionSpec`.
        dim: Size of the embedding.

    Raises:
        ConfigError: if there is no condition or a specification is not understood.
    """

    def __init__(self, specs: Mapping[str, ConditionSpec], dim: int) -> None:
        super().__init__()
        if not specs:
            raise ConfigError("ConditionEmbedding needs at least one condition; pass None instead")
        self.dim = dim
        # Not a ModuleDict: its keys may hold no dot, and a column may be called "a.b" or "keys".
        self.names = tuple(specs)
        self.parts = nn.ModuleList(self._build(name, spec, dim) for name, spec in specs.items())

    @staticmethod
    def _build(name: str, spec: ConditionSpec, dim: int) -> nn.Module:
        if isinstance(spec, nn.Module):
            return spec
        kind, size = spec if isinstance(spec, tuple | list) and len(spec) == 2 else (spec, 0)
        if kind == "class":
            return ClassCondition(size, dim)
        if kind == "vector":
            return VectorCondition(size, dim)
        raise ConfigError(
            f"condition {name!r}: expected ('class', K), ('vector', D) or a module, got {spec!r}"
        )

    def forward(self, cond: Any = None) -> Tensor:
        """Embed `cond` as (B, dim), or as (1, dim) where nothing is given.

        Args:
            cond: A dict by name, in which a name left out is absent; a tensor, if there is one
                condition only; or None, where everything is absent.

        Raises:
            ConditionError: if a name is unknown, or a tensor comes where several are expected.
        """
        if cond is None:
            values: Mapping[str, Any] = {}
        elif isinstance(cond, Mapping):
            values = cond
        elif len(self.names) == 1:
            values = {self.names[0]: cond}
        else:
            raise ConditionError(f"expected a dict with the conditions {list(self.names)}")
        unknown = sorted(set(values) - set(self.names))
        if unknown:
            raise ConditionError(f"unknown condition {unknown}; this has {list(self.names)}")
        total: Tensor | None = None
        for name, part in zip(self.names, self.parts, strict=True):
            try:
                embedded = part(values.get(name))
            except ConditionError as error:
                raise ConditionError(f"condition {name!r}: {error}") from error
            total = embedded if total is None else total + embedded
        return cast(Tensor, total)

    def extra_repr(self) -> str:
        """Name the conditions."""
        return f"names={self.names}"


class Modulator(nn.Module):
    """The vector that modulates a network: silu(embed(time) + embed(condition)).

    Args:
        dim: Size of the vector.
        time_embedding: "sinusoidal", "fourier", or a module that maps (B,) to (B, dim).
        conditions: None, the number of entries of a real vector, a dict of specifications
            (`ConditionSpec`), or a module that maps a condition or None to (B, dim) or (1, dim).

    Raises:
        ConfigError: if an argument is not understood or a `TimeEmbedding` has another size.
    """

    def __init__(
        self,
        dim: int,
        time_embedding: Literal["sinusoidal", "fourier"] | nn.Module = "sinusoidal",
        conditions: int | Mapping[str, ConditionSpec] | nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.dim = dim
        if isinstance(time_embedding, TimeEmbedding) and time_embedding.dim != dim:
            raise ConfigError(
                f"the time embedding has size {time_embedding.dim}, the network asks for {dim}"
            )
        self.time = (
            time_embedding
            if isinstance(time_embedding, nn.Module)
            else TimeEmbedding(dim, time_embedding)
        )
        self.cond: nn.Module | None
        if conditions is None or isinstance(conditions, nn.Module):
            self.cond = conditions
        elif isinstance(conditions, Mapping):
            self.cond = ConditionEmbedding(conditions, dim)
        else:
            self.cond = VectorCondition(conditions, dim)

    def forward(self, time: Tensor, cond: Any = None) -> Tensor:
        """Return (B, dim), or (1, dim) if all rows share their time and condition.

        Args:
            time: (B,) or a scalar. In evaluation one number expanded to (B,), which is what
                samplers pass, is embedded once.
            cond: The condition; see `ConditionEmbedding`.

        Raises:
            ConditionError: if there is a condition and the network takes none.
        """
        time = time.reshape(1) if time.ndim == 0 else time
        # Not in training: per-example gradients need every row to pass through every layer.
        if not self.training and time.stride(0) == 0:
            time = time[:1]
        vector = self.time(time)
        if self.cond is not None:
            vector = vector + self.cond(cond)
        elif cond is not None:
            raise ConditionError(
                "this network takes no condition; build it with `conditions` (or `cond_dim`)"
            )
        return nn.functional.silu(vector)
