r"""The network of the masking diffusion of a table: what is shown -> a law of every column.

A row enters as one embedding a column (its code, or "hidden") plus Fourier features of the shown
numbers, goes through a residual MLP, and leaves as

    p(code_j)        softmax over the column's codes, starting at the training marginals
    p(z_j | code)    sum_k w_k N(mu_k, s_k^2) of the normal score, where the code is "continuous".

A mixture says sharp, skewed and many-peaked laws with a dozen components, is fitted by maximum
likelihood without noise, and is drawn from, cut to an interval and integrated in closed form.

References:
    Bishop 1994 (mixture density networks); Tancik et al. 2020 (Fourier features).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from scidiffusion.core.masking import MaskingProcess
from scidiffusion.errors import ConfigError
from scidiffusion.nn.mlp import Branch
from scidiffusion.tabular.mixtures import Mixture

NEVER = -1e9
"""Logit of a class that does not exist."""


@dataclass(frozen=True)
class MaskedLayout:
    """What the columns of an encoded table are.

    Args:
        cardinalities: Number of codes of each column, >= 1.
        numeric: Columns that have numbers (their normal scores enter the network).
        continuous: Of each numeric column the code that stands for "some number, drawn from a
            density", or -1 where every number is a code of its own.
        scores: Of each numeric column the normal score of every code, 0 where it has none.
        frequencies: Fourier features a number: frequencies 1/2, 1, 2, ... radians a unit of
            normal score.
    """

    cardinalities: tuple[int, ...]
    numeric: tuple[int, ...]
    continuous: tuple[int, ...]
    scores: tuple[tuple[float, ...], ...]
    frequencies: int = 6

    @property
    def columns(self) -> int:
        """Number of columns."""
        return len(self.cardinalities)

    @property
    def densities(self) -> list[tuple[int, int, int]]:
        """(column, its place among the numeric ones, its continuous code) of those with one."""
        pairs = enumerate(zip(self.numeric, self.continuous, strict=True))
        return [(column, place, code) for place, (column, code) in pairs if code >= 0]


class _Block(nn.Module):
    """x + f(norm(x)): one residual block, without the modulation that time would need."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.branch = Branch(width, 2 * width, dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(self.norm(x))


class MaskedTableNetwork(nn.Module):
    """See the module.

    Args:
        layout: What the columns are.
        width: Width of the residual MLP.
        blocks: Number of its blocks.
        components: Gaussians of a mixture.
        dropout: Dropout rate inside the blocks.
        log_marginals: Log-frequencies of each column's codes: where the logits start.
        bf16: Multiply matrices in bfloat16.

    Raises:
        ConfigError: if a size is below 1.
    """

    def __init__(
        self,
        layout: MaskedLayout,
        *,
        width: int = 256,
        blocks: int = 2,
        components: int = 20,
        dropout: float = 0.0,
        log_marginals: Sequence[Tensor] | None = None,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        for name, value in {"width": width, "blocks": blocks, "components": components}.items():
            if value < 1:
                raise ConfigError(f"{name} must be >= 1, got {value}")
        self.layout, self.components, self.bf16 = layout, components, bf16
        codes = list(layout.cardinalities)
        # One row more a column: "hidden".
        starts = np.concatenate([[0], np.cumsum([k + 1 for k in codes])])
        self.embedding = nn.EmbeddingBag(int(starts[-1]), width, mode="sum")
        nn.init.normal_(self.embedding.weight, std=0.3)
        self._buffer("starts", torch.tensor(starts[:-1], dtype=torch.long))
        self._buffer("hidden_code", torch.tensor(codes, dtype=torch.long))
        self.starts: Tensor
        self.hidden_code: Tensor
        self.numeric: Tensor
        self.frequencies: Tensor
        self.dense: Tensor
        self.dense_place: Tensor
        self.dense_code: Tensor
        self._buffer("numeric", torch.tensor(layout.numeric, dtype=torch.long))
        self._place = {column: place for place, column in enumerate(layout.numeric)}
        self._density = {column: i for i, (column, _, _) in enumerate(layout.densities)}
        for place, scores in enumerate(layout.scores):
            self._buffer(f"scores_{place}", torch.tensor(scores))
        self._buffer("frequencies", 0.5 * torch.exp2(torch.arange(layout.frequencies)))
        features = len(layout.numeric) * (1 + 2 * layout.frequencies)
        self.numbers = nn.Linear(features, width, bias=False) if features else None
        self.blocks = nn.ModuleList(_Block(width, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        # In a tuple, which torch does not register: not part of the state.
        self._converted: tuple[Any, nn.ModuleList] | None = None
        self._group_codes(codes, log_marginals)
        self.logits = nn.Linear(width, max(1, len(self.base)))
        nn.init.zeros_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)
        densities = layout.densities
        self._buffer("dense", torch.tensor([c for c, _, _ in densities], dtype=torch.long))
        self._buffer("dense_place", torch.tensor([p for _, p, _ in densities], dtype=torch.long))
        self._buffer("dense_code", torch.tensor([k for _, _, k in densities], dtype=torch.long))
        self.mixtures = nn.Linear(width, max(1, 3 * components * len(densities)))
        self._start_mixtures(len(densities))

    def _buffer(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)

    def _group_codes(self, codes: list[int], log_marginals: Sequence[Tensor] | None) -> None:
        """Lay the logits out in groups of columns padded to one power of two.

        One softmax serves a whole group: 500 columns cost a few operations and not 500.
        """
        sizes = [1 << max(1, (k - 1).bit_length()) for k in codes]
        self._groups: list[tuple[int, int, int]] = []
        self._slices: dict[int, slice] = {}
        base: list[Tensor] = []
        start = 0
        for size in sorted({size for size, k in zip(sizes, codes, strict=True) if k > 1}):
            members = [j for j, k in enumerate(codes) if k > 1 and sizes[j] == size]
            self._buffer(f"members_{len(self._groups)}", torch.tensor(members))
            self._groups.append((start, len(members), size))
            for j in members:
                row = torch.full((size,), NEVER)
                row[: codes[j]] = 0.0 if log_marginals is None else log_marginals[j].float()
                base.append(row)
                self._slices[j] = slice(start, start + codes[j])
                start += size
        self.base: Tensor
        self.register_buffer("base", torch.cat([*base, torch.empty(0)]))

    @torch.no_grad()
    def _start_mixtures(self, count: int) -> None:
        """Start at mixtures that look alike from every row: a spread over the normal scores."""
        self.mixtures.weight.mul_(0.1)
        if not count:
            return
        bias = self.mixtures.bias.view(count, 3, self.components)
        bias[:, 0], bias[:, 2] = 0.0, -0.7
        places = (torch.arange(self.components) + 0.5) / self.components
        bias[:, 1] = torch.special.ndtri(places.double()).float()

    def forward(self, codes: Tensor, values: Tensor, hidden: Tensor) -> Tensor:
        """Return the features that every law is read from, (B, width).

        Args:
            codes: (B, D) long; those of hidden columns are not looked at.
            values: (B, number of numeric columns) normal scores; likewise.
            hidden: (B, D) bool.
        """
        return self.trunk(self.enter(codes, values, hidden))

    def enter(self, codes: Tensor, values: Tensor, hidden: Tensor) -> Tensor:
        """Return the input of the residual MLP, (B, width): a sum over columns."""
        x = self.embedding(torch.where(hidden, self.hidden_code, codes) + self.starts)
        if self.numbers is None:
            return x
        shown = (~hidden[:, self.numeric]).to(values.dtype).unsqueeze(-1)
        features = (self._features(values) * shown).flatten(1)
        with torch.autocast(codes.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            return x + self.numbers(features)

    def show(self, x: Tensor, column: int, codes: Tensor, values: Tensor) -> Tensor:
        """Return the input with one hidden column shown: what `enter` would give, for less.

        Args:
            x: (B, width), as of `enter` with the column hidden.
            column: Index of the column.
            codes: (B,) its codes.
            values: (B,) its scores; of no effect where it has no numbers.
        """
        start, weight = int(self.starts[column]), self.embedding.weight
        x = x + weight[codes + start] - weight[start + self.layout.cardinalities[column]]
        place, size = self.place(column), 1 + 2 * self.layout.frequencies
        if self.numbers is None or place is None:
            return x
        part = self.numbers.weight[:, place * size : (place + 1) * size]
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            return x + functional.linear(self._features(values), part)

    def _features(self, values: Tensor) -> Tensor:
        """Fourier features of scores, (..., 1 + 2 frequencies)."""
        angle = values.unsqueeze(-1) * self.frequencies
        return torch.cat([values.unsqueeze(-1), torch.sin(angle), torch.cos(angle)], -1)

    def trunk(self, x: Tensor, blocks: nn.ModuleList | None = None) -> Tensor:
        """Return the features of inputs, (B, width).

        Args:
            x: (B, width).
            blocks: What `sampling_blocks` gave, where many calls follow each other.
        """
        training = torch.is_grad_enabled()
        if blocks is None:
            blocks = self.blocks if training else self.sampling_blocks()
        x = x.bfloat16() if self.bf16 else x
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16 and training):
            for block in blocks:
                x = block(x)
        return self.norm(x.float())

    def sampling_blocks(self) -> nn.ModuleList:
        """Return the blocks as they run fastest without gradients: with `bf16`, a copy in it.

        The copy is kept until the weights change: to convert them costs more than the products.
        """
        if not self.bf16:
            return self.blocks
        version = tuple((p.data_ptr(), p._version) for p in self.blocks.parameters())
        if self._converted is None or self._converted[0] != version:
            self._converted = (version, copy.deepcopy(self.blocks).bfloat16())
        return self._converted[1]

    def log_prob(self, features: Tensor, codes: Tensor, values: Tensor) -> Tensor:
        """Return the log-probability of every column's code and number, (B, D) nats.

        Args:
            features: What `forward` returned.
            codes: (B, D).
            values: (B, number of numeric columns).
        """
        result = torch.zeros(codes.shape, device=codes.device)
        with torch.autocast(codes.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            logits = self.logits(features) if self._groups else None
            parameters = self.mixtures(features) if len(self.dense) else None
        if logits is not None:
            # One split: slices would each fill a whole array of zeros in the backward pass.
            sizes = [count * size for _, count, size in self._groups]
            parts = zip(logits.split(sizes, 1), self.base.split(sizes), strict=True)
            for index, (part, base) in enumerate(parts):
                members, shape = getattr(self, f"members_{index}"), self._groups[index][1:]
                log_p = functional.log_softmax((part.float() + base).unflatten(1, shape), -1)
                chosen = log_p.gather(-1, codes[:, members].unsqueeze(-1))[..., 0]
                result = result.index_copy(1, members, chosen)
        if parameters is not None:
            mixture = Mixture(parameters.view(len(codes), len(self.dense), 3, self.components))
            density = mixture.log_prob(values[:, self.dense_place])
            present = codes[:, self.dense] == self.dense_code
            result = result.index_add(1, self.dense, torch.where(present, density, 0.0))
        return result

    def law(self, features: Tensor, column: int) -> tuple[Tensor, Mixture | None]:
        """Return the law of one column: probabilities (B, K) of its codes, and its mixture.

        Args:
            features: What `forward` returned, of any rows.
            column: Index of the column.
        """
        rows = self._slices.get(column)
        with torch.autocast(features.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            if rows is not None:
                logits = functional.linear(features, self.logits.weight[rows])
            place = self._density.get(column)
            if place is not None:
                size = 3 * self.components
                part = slice(place * size, (place + 1) * size)
                parameters = functional.linear(features, self.mixtures.weight[part])
        if rows is None:
            probabilities = torch.ones(len(features), 1, device=features.device)
        else:
            logits = logits.float() + self.logits.bias[rows] + self.base[rows]
            probabilities = torch.softmax(logits, -1)
        if place is None:
            return probabilities, None
        parameters = parameters.float() + self.mixtures.bias[part]
        return probabilities, Mixture(parameters.view(-1, 3, self.components))

    def place(self, column: int) -> int | None:
        """Return the place of a column among the numeric ones, or None."""
        return self._place.get(column)

    def scores(self, place: int, codes: Tensor) -> Tensor:
        """Return the normal scores of codes of a numeric column, 0 where they have none."""
        return self._buffers[f"scores_{place}"][codes]  # type: ignore[index]


class _RowPrediction:
    """The laws of a batch of rows given what is shown; a `VariablePrediction`."""

    def __init__(self, network: MaskedTableNetwork, features: Tensor) -> None:
        self.network, self.features = network, features

    def log_prob(self, x: dict[str, Tensor]) -> Tensor:
        """Return log p of every column, (B, D)."""
        return self.network.log_prob(self.features, x["codes"], x["values"])


class MaskedTableDenoiser(nn.Module):
    """A masking denoiser of encoded rows {"codes" (B, D), "values" (B, numeric)}.

    Args:
        network: The network.
    """

    def __init__(self, network: MaskedTableNetwork) -> None:
        super().__init__()
        self.network = network
        self.process = MaskingProcess(network.layout.columns)

    def forward(self, x: dict[str, Tensor], hidden: Tensor, cond: None = None) -> _RowPrediction:
        """Predict the hidden columns of `x`."""
        return _RowPrediction(self.network, self.network(x["codes"], x["values"], hidden))
