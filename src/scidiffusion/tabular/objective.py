"""Training with some columns known, and denoising given known columns.

Most rows of a batch are shown fully noised, as TabDDPM shows them; the rest have a random set of
columns known: shown clean, flagged, and not part of the loss. One network then serves
unconditional sampling and exact conditioning on any columns. A target column, if there is one, is
known in most rows, as TabDDPM conditions on the class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from scidiffusion.core.categorical import CategoricalProcess
from scidiffusion.core.denoiser import Condition, Denoiser
from scidiffusion.core.gaussian import GaussianProcess
from scidiffusion.core.objectives import PredictionLoss, TimeSampler
from scidiffusion.core.prediction import true_value
from scidiffusion.core.process import Corrupted, Process, ProductProcess, State
from scidiffusion.core.rng import Noise
from scidiffusion.core.schedules import check_option
from scidiffusion.errors import ConfigError


@dataclass(frozen=True)
class ColumnLayout:
    """Which encoded variables belong to each column of the table.

    Args:
        numerical: For each numerical variable the index of its column.
        categorical: For each categorical variable the index of its column.
        columns: Number of columns.
    """

    numerical: Sequence[int]
    categorical: Sequence[int]
    columns: int

    def flags(self, known: Tensor) -> dict[str, Tensor]:
        """Spread (B, columns) bool over the encoded variables."""
        flags: dict[str, Tensor] = {}
        if len(self.numerical):
            flags["num"] = known[:, list(self.numerical)]
        if len(self.categorical):
            flags["cat"] = known[:, list(self.categorical)]
        return flags


def reveal(state: State, clean: State, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put the clean values where they are known."""
    return {name: torch.where(known[name], clean[name], state[name]) for name in state}


class GivenColumns:
    """A denoiser that sees the known columns clean; those columns' predictions have no meaning.

    Args:
        denoiser: Denoiser over a table's product process, trained with `TableLoss`.
        observed: State with the known values in place.
        known: Flags of the same structure.
        forbidden: Categorical variable -> a code that it is not predicted to have (missing, say).
    """

    def __init__(
        self,
        denoiser: Denoiser,
        observed: State,
        known: Mapping[str, Tensor],
        forbidden: Mapping[int, int] | None = None,
    ) -> None:
        self.denoiser, self.process = denoiser, denoiser.process
        self.observed, self.known, self.forbidden = observed, known, dict(forbidden or {})

    def __call__(self, z: State, t: Tensor, cond: Condition = None) -> Any:
        """Predict; see `Denoiser`."""
        prediction = self.denoiser(reveal(z, self.observed, self.known), t, self.known)
        if not self.forbidden:
            return prediction
        log_p0 = prediction["cat"].log_p0.clone()
        log_p0[:, list(self.forbidden), list(self.forbidden.values())] = -torch.inf
        allowed = replace(prediction["cat"], log_p0=torch.log_softmax(log_p0, -1))
        return {**prediction, "cat": allowed}


class CategoricalLoss(StrEnum):
    """Loss of a category: the ELBO's KL term, or the cross-entropy of the clean class.

    They are the same at the last step. At the others the KL weighs the cross-entropy by how likely
    the step is to change the class, which makes rare, large losses of it: the cross-entropy has
    the same minimiser and far less variance.
    """

    KL = "kl"
    CROSS_ENTROPY = "cross_entropy"


class TableLoss(PredictionLoss):
    """Mean squared error of the numbers plus a categorical loss, over the unknown variables.

    Kotelnikov et al. 2023, eq. 3: L_simple of the numbers (in their process's parameterisation)
    plus the categorical loss averaged over the categorical variables.

    Args:
        layout: Which variables belong to which column.
        categorical: Loss of the categories.
        target: Index of the column that is known in most rows, or None.
        share: Share of rows with a random set of columns known.
        times: How noise levels are drawn.

    Raises:
        ConfigError: if `share` lies outside [0, 1).
    """

    def __init__(
        self,
        layout: ColumnLayout,
        *,
        categorical: CategoricalLoss | str = CategoricalLoss.KL,
        target: int | None = None,
        share: float = 0.2,
        times: TimeSampler | None = None,
    ) -> None:
        super().__init__(times)
        if not 0 <= share < 1:
            raise ConfigError(f"share must lie in [0, 1), got {share}")
        self.layout, self.target, self.share = layout, target, share
        self.categorical = check_option(CategoricalLoss, categorical, "categorical")

    def draw_known(self, rows: int, noise: Noise, device: torch.device) -> Tensor:
        """Draw which columns are known, (B, columns) bool; never all of them."""
        columns = self.layout.columns
        reference = torch.empty(rows, columns + 2, device=device)
        uniform = noise.uniform(reference)
        random_row, count = uniform[:, -1:], (uniform[:, -2:-1] * columns).floor()
        rank = uniform[:, :columns].argsort(1).argsort(1)
        known = (rank < count) & (random_row < self.share)
        if self.target is not None:
            # Half of the remaining share stays without any known column, for the joint model.
            always = random_row[:, 0] >= 1.5 * self.share
            known[:, self.target] |= always
        return known

    def __call__(
        self,
        denoiser: Denoiser,
        x: State,
        noise: Noise,
        cond: Condition = None,
        t: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of every row, (B,); see `Objective`."""
        process = denoiser.process
        first = next(iter(x.values()))
        if t is None:
            t = self.times(process.schedule, x, noise.child("time"))
        columns = self.draw_known(len(first), noise.child("known"), first.device)
        known = self.layout.flags(columns)
        corrupted = process.q_sample(x, t, noise)
        corrupted = Corrupted(reveal(corrupted.z, x, known), corrupted.eps)
        prediction = denoiser(corrupted.z, t, known)
        return self._masked(process, x, corrupted, prediction, t, known)

    def loss(
        self, process: Process, x: State, corrupted: Corrupted, prediction: Any, t: Tensor
    ) -> Tensor:
        """Return the loss with nothing known; see `PredictionLoss.loss`."""
        known = {
            name: torch.zeros(v.shape, dtype=torch.bool, device=v.device) for name, v in x.items()
        }
        return self._masked(process, x, corrupted, prediction, t, known)

    def _categorical(
        self, part: CategoricalProcess, x: Tensor, z: Tensor, prediction: Any, t: Tensor
    ) -> Tensor:
        if self.categorical is CategoricalLoss.CROSS_ENTROPY:
            return part.cross_entropy(x, prediction)
        return multinomial_kl(part, x, z, prediction, t)

    def _masked(
        self,
        process: Process,
        x: State,
        corrupted: Corrupted,
        prediction: Any,
        t: Tensor,
        known: Mapping[str, Tensor],
    ) -> Tensor:
        if not isinstance(process, ProductProcess):
            raise ConfigError(f"TableLoss needs a ProductProcess, not {process!r}")
        total = torch.zeros(len(t), device=t.device)
        for name, part in process.parts.items():
            hidden = (~known[name]).to(torch.float32)
            if isinstance(part, GaussianProcess):
                kind, marginal = part.parameterization, part.schedule.marginal(t)
                truth = true_value(x[name], corrupted.eps[name], marginal, kind)
                error = (prediction[name].target(kind) - truth) ** 2
                # Per row: the mean over its unknown numbers.
                total = total + (error * hidden).sum(1) / hidden.sum(1).clamp(min=1)
            elif isinstance(part, CategoricalProcess):
                terms = self._categorical(part, x[name], corrupted.z[name], prediction[name], t)
                total = total + (terms * hidden).sum(1) / hidden.sum(1).clamp(min=1)
        return total


def multinomial_kl(
    process: CategoricalProcess, x: Tensor, z: Tensor, prediction: Any, t: Tensor
) -> Tensor:
    """T times the ELBO term of each variable between adjacent nodes, (B, D) nats.

    At s = 0 the posterior is certain, so the KL is the cross-entropy and no case is special.
    """
    steps = process.schedule.num_nodes or 1000
    s = (t - 1 / steps).clamp(min=0)
    s = (s * steps).round() / steps
    p0 = prediction.p0
    posterior = process.mixture(process.encode(x, p0.dtype), z, t, s).probs
    reverse = process.mixture(p0, z, t, s).probs.clamp(min=1e-30)
    kl = torch.special.xlogy(posterior, posterior) - torch.special.xlogy(posterior, reverse)
    return steps * kl.sum(-1)
