"""Reveal the hidden columns of rows, one random column after the other.

What is known is shown from the start, which is all that conditioning on values takes. A column
that may only be in a set or a range is revealed before the others, from its law cut to what is
allowed: exact for one such column. With several, each is drawn given the ones before but not those
after, so a number of candidates of them is drawn side by side, each weighed by the probability of
what was cut away on its path, and one is kept (importance resampling: exact in the limit of many
candidates, and nothing is ever rejected).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scidiffusion.core.masking import reveal_steps
from scidiffusion.core.rng import KeyedNoise
from scidiffusion.tabular.masked_network import MaskedTableDenoiser
from scidiffusion.tabular.mixtures import pick

__all__ = ["Cuts", "Restriction", "cut_log_prob", "reveal"]

OWN_ORDERS, SHARED_ORDER = 4096, 128
"""So many rows of a sample have a random order each; of later rows so many share one: fewer
columns a step, and so less work. A network's conditionals are not quite those of one joint law,
and a small sample of few orders would show the law of these few."""


@dataclass(frozen=True)
class Restriction:
    """What one column may be.

    Args:
        codes: (K,) weight of each code in [0, 1]: what share of it is allowed.
        intervals: (k, 2) intervals of scores allowed under the continuous code, disjoint; None
            where it allows all or none.
    """

    codes: Tensor
    intervals: Tensor | None = None


@dataclass
class Cuts:
    """Sets and ranges that columns are cut to.

    Args:
        columns: Index of a column -> what it may be.
        limits: Name of a column of numbers -> intervals (k, 2) of numbers, for decoding.
        levels: Name of a column of levels -> its levels, for decoding.
    """

    columns: dict[int, Restriction] = field(default_factory=dict)
    limits: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    levels: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    def on(self, device: torch.device) -> dict[int, Restriction]:
        """Return the columns' restrictions on a device."""
        return {
            column: Restriction(
                cut.codes.to(device),
                None if cut.intervals is None else cut.intervals.to(device),
            )
            for column, cut in self.columns.items()
        }


@torch.no_grad()
def reveal(
    denoiser: MaskedTableDenoiser,
    state: Mapping[str, Tensor],
    hidden: Tensor,
    noise: KeyedNoise,
    *,
    restrictions: Mapping[int, Restriction] | None = None,
    forbidden: Mapping[int, int] | None = None,
    steps: int | None = None,
    candidates: int = 16,
) -> dict[str, Tensor]:
    """Draw the hidden columns given the shown ones.

    Args:
        denoiser: The trained denoiser.
        state: "codes" (B, D) and "values"; hidden entries are not looked at.
        hidden: (B, D) bool.
        noise: Randomness, keyed by row.
        restrictions: Column -> what it may be, for columns hidden in every row.
        forbidden: Column -> a code that is not drawn (missing, say).
        steps: Network evaluations for the unrestricted columns; None is one a column.
        candidates: Candidates a row, where several columns are restricted.

    Returns:
        The state with nothing hidden.
    """
    cuts = restrictions or {}
    if len(cuts) > 1:
        state = _choose_candidates(denoiser, state, hidden, noise, cuts, candidates)
        hidden = hidden.clone()
        hidden[:, list(cuts)] = False
    walk = _Walk(denoiser, state, hidden, _uniform(noise.child("reveal"), hidden))
    walk.forbidden = dict(forbidden or {})
    if len(cuts) == 1:
        walk.advance(_only(next(iter(cuts)), walk.hidden), next(iter(cuts.values())))
    leader = _leaders(noise.start, len(hidden)).to(hidden.device)
    position = denoiser.process.order(walk.hidden, noise.child("order"), leader=leader)
    when = reveal_steps(position, denoiser.process.variables, steps)
    for step in range(int(when.max()) + 1):
        walk.advance((when == step) & walk.hidden)
    return walk.state


@torch.no_grad()
def cut_log_prob(
    denoiser: MaskedTableDenoiser,
    restrictions: Mapping[int, Restriction],
    noise: KeyedNoise,
    *,
    candidates: int = 256,
) -> float:
    """Estimate the log-probability that a row meets restrictions on several columns, nats.

    Args:
        denoiser: The trained denoiser.
        restrictions: Column -> what it may be; at least one.
        noise: Randomness.
        candidates: Draws of the earlier columns that the estimate averages over.
    """
    layout = denoiser.network.layout
    device = next(iter(restrictions.values())).codes.device
    state = {
        "codes": torch.zeros(candidates, layout.columns, dtype=torch.long, device=device),
        "values": torch.zeros(candidates, len(layout.numeric), device=device),
    }
    hidden = torch.ones(candidates, layout.columns, dtype=torch.bool, device=device)
    walk = _Walk(denoiser, state, hidden, _uniform(noise.child("probability"), hidden))
    for column, cut in restrictions.items():
        walk.advance(_only(column, walk.hidden), cut)
    return float(torch.logsumexp(walk.log_weight, 0)) - math.log(candidates)


def _choose_candidates(
    denoiser: MaskedTableDenoiser,
    state: Mapping[str, Tensor],
    hidden: Tensor,
    noise: KeyedNoise,
    cuts: Mapping[int, Restriction],
    candidates: int,
) -> dict[str, Tensor]:
    """Reveal several restricted columns by importance resampling; every row for itself."""
    rows = len(hidden)
    copied = {name: value.repeat_interleave(candidates, 0) for name, value in state.items()}
    uniform = _uniform(noise.child("candidates"), hidden, candidates)
    walk = _Walk(denoiser, copied, hidden.repeat_interleave(candidates, 0), uniform)
    for column, cut in cuts.items():
        walk.advance(_only(column, walk.hidden), cut)
    log_weight = walk.log_weight.view(rows, candidates)
    choice = noise.child("choice").uniform(torch.empty(rows, device=hidden.device))
    chosen = pick(torch.softmax(log_weight, -1), choice)
    index = torch.arange(rows, device=hidden.device) * candidates + chosen
    return {name: value[index] for name, value in walk.state.items()}


def _leaders(start: int, rows: int) -> Tensor:
    """Of rows start, start + 1, ... of a sample, the index of the one whose order each takes."""
    row = torch.arange(start, start + rows)
    shared = torch.where(row < OWN_ORDERS, row, row - row % SHARED_ORDER)
    return (shared - start).clamp(min=0)


def _uniform(noise: KeyedNoise, hidden: Tensor, copies: int = 1) -> Tensor:
    """Numbers for the code, the component and the place in it: (B copies, 3, D) in [0, 1)."""
    rows, columns = hidden.shape
    like = torch.empty(rows, copies * 3 * columns, device=hidden.device)
    return noise.uniform(like).view(rows * copies, 3, columns)


def _only(column: int, hidden: Tensor) -> Tensor:
    """The hidden entries of one column."""
    mask = torch.zeros_like(hidden)
    mask[:, column] = hidden[:, column]
    return mask


class _Walk:
    """Rows on their way from hidden to shown.

    Rows that start with nothing shown look alike to the network, and still do after the same
    codes of the same columns: each kind of row is evaluated once.

    Attributes:
        log_weight: (B,) log-probability of what the cuts allowed, on each row's path.
    """

    def __init__(
        self,
        denoiser: MaskedTableDenoiser,
        state: Mapping[str, Tensor],
        hidden: Tensor,
        uniform: Tensor,
    ) -> None:
        self.network, self.uniform = denoiser.network, uniform
        self.codes, self.values = state["codes"].clone(), state["values"].clone()
        self.hidden = hidden.clone()
        self.input = self.network.enter(self.codes, self.values, self.hidden)
        self.log_weight = torch.zeros(len(hidden), dtype=torch.float64, device=hidden.device)
        self.forbidden: dict[int, int] = {}
        self._blocks = self.network.sampling_blocks()
        codes = self.network.layout.cardinalities
        self._starts, self._codes = [0, *itertools.accumulate(codes)], sum(codes)
        # Rows of one number, 0, 1, ..., look alike; None where few of them do.
        self._kind = torch.zeros_like(hidden[:, 0], dtype=torch.long) if hidden.all() else None

    @property
    def state(self) -> dict[str, Tensor]:
        """The rows so far."""
        return {"codes": self.codes, "values": self.values}

    def advance(self, now: Tensor, cut: Restriction | None = None) -> None:
        """Draw the entries `now` (B, D) from one evaluation of the network."""
        active = now.any(1)
        if not bool(active.any()):
            return
        features, place = self._evaluate(active)
        for column in now.any(0).nonzero()[:, 0].tolist():
            rows = now[:, column].nonzero()[:, 0]
            self._draw(column, rows, features[place[rows]], cut)
        self.hidden &= ~now

    def _evaluate(self, active: Tensor) -> tuple[Tensor, Tensor]:
        """Return features of the rows that are active, and which of them is each row's."""
        row = torch.arange(len(active), device=active.device)
        kinds = len(active) if self._kind is None else int(self._kind.max()) + 1
        if kinds > len(active) // 2:
            self._kind = None
        if self._kind is None:
            x = self.input if bool(active.all()) else self.input[active]
            return self.network.trunk(x, self._blocks), torch.cumsum(active, 0) - 1
        first = torch.full_like(row[:kinds], len(row)).scatter_reduce_(0, self._kind, row, "amin")
        return self.network.trunk(self.input[first], self._blocks), self._kind

    def _part(self, column: int, rows: Tensor, codes: Tensor, continuous: int) -> None:
        """Tell rows apart that were drawn different codes, or numbers, of a column."""
        if self._kind is None:
            return
        drawn = torch.where(codes == continuous, self._codes + rows, codes + self._starts[column])
        kind = self._kind.clone()
        kind[rows] = (kind[rows] + 1) * (self._codes + len(kind)) + drawn
        self._kind = torch.unique(kind, return_inverse=True)[1]

    def _draw(self, column: int, rows: Tensor, features: Tensor, cut: Restriction | None) -> None:
        network = self.network
        probabilities, mixture = network.law(features, column)
        which_code, which, where = self.uniform[rows, :, column].unbind(1)
        place = network.place(column)
        continuous = -1 if place is None else network.layout.continuous[place]
        intervals = None
        if column in self.forbidden:
            probabilities = probabilities.clone()
            probabilities[:, self.forbidden[column]] = 0.0
        if cut is not None:
            intervals = cut.intervals
            probabilities = probabilities.double() * cut.codes
            if mixture is not None and intervals is not None:
                probabilities[:, continuous] *= mixture.mass(intervals).sum((-2, -1))
            total = probabilities.sum(-1)
            self.log_weight[rows] += total.clamp(min=1e-300).log()
            # All is cut away to the last digit: any allowed code is as good as another.
            probabilities = torch.where(total[:, None] > 0, probabilities, cut.codes.double())
        codes = pick(probabilities, which_code)
        self.codes[rows, column] = codes
        values = torch.zeros(len(rows), device=codes.device)
        if place is not None:
            values = network.scores(place, codes)
            if mixture is not None:
                drawn = mixture.sample(which, where, intervals)
                values = torch.where(codes == continuous, drawn, values)
            self.values[rows, place] = values
        self._part(column, rows, codes, continuous)
        self.input[rows] = network.show(self.input[rows], column, codes, values)
