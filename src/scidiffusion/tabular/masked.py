"""The method "masked": any-order masking diffusion of codes and numbers.

Each column is one variable (:mod:`scidiffusion.tabular.codebook`); one network predicts every
hidden column from the shown ones (:mod:`scidiffusion.tabular.masked_network`), trained on the
exact ELBO (:mod:`scidiffusion.core.masking`); rows are revealed one column at a time
(:mod:`scidiffusion.tabular.masked_sampling`). Conditions, imputation and likelihoods are the same
network started elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from scidiffusion.core.masking import AnyOrderLoss, any_order_log_prob
from scidiffusion.core.rng import KeyedNoise
from scidiffusion.estimator import resolve_device
from scidiffusion.tabular import conditions as conditions_of
from scidiffusion.tabular.codebook import LevelBook
from scidiffusion.tabular.conditions import Condition, Equal
from scidiffusion.tabular.masked_codec import MaskedCodec
from scidiffusion.tabular.masked_network import MaskedTableDenoiser, MaskedTableNetwork
from scidiffusion.tabular.masked_sampling import Cuts, Restriction, cut_log_prob, reveal
from scidiffusion.tabular.model import TableModel
from scidiffusion.tabular.reading import step_of

SCORE_BLOCK = 4096


class MaskedModel(TableModel):
    """Any-order masking diffusion; see the module."""

    defaults: ClassVar[dict[str, Any]] = {
        "width": 256,
        # In minutes on a CPU, more steps of two blocks reach a lower loss than fewer of four.
        "blocks": 2,
        "dropout": 0.2,
        "lr": 3e-3,
        "ema_decay": 0.998,
        "sample_steps": None,
    }

    def prepare(self, table: pd.DataFrame, seed: int) -> dict[str, Tensor]:
        """See `TableModel.prepare`."""
        self.codec = MaskedCodec(self.schema).fit(table)
        self._build(seed)
        return self.codec.encode(table, seed=seed)

    def _build(self, seed: int) -> None:
        options, codec = self.options, self.codec
        marginals = [torch.from_numpy(np.log(marginal)) for marginal in codec.marginals]

        def build() -> MaskedTableDenoiser:
            return MaskedTableDenoiser(
                MaskedTableNetwork(
                    codec.layout,
                    width=options["width"],
                    blocks=options["blocks"],
                    components=options["components"],
                    dropout=options["dropout"],
                    log_marginals=marginals,
                    bf16=self.bf16,
                )
            )

        self.denoiser = self.seeded(build, seed)

    def objective(self) -> AnyOrderLoss:
        """See `TableModel.objective`."""
        return AnyOrderLoss(spread=self.options["privacy"] is None)

    def training_options(self, rows: int) -> dict[str, Any]:
        """See `TableModel.training_options`."""
        return {
            "betas": (0.9, 0.99),
            "decay": "linear",
            "decay_start": 0.3,
            "gradient_clip": 5.0,
            "weight_decay": 1e-4,
            "anneal": 0.5,
            # A small table is over-fitted within a hundred steps: look often.
            "validate_every": int(np.clip(rows // 100, 20, 250)),
        }

    def encode(self, table: pd.DataFrame, seed: int, *, gaps: bool = False) -> dict[str, Tensor]:
        """See `TableModel.encode`."""
        return self.codec.encode(table, seed=seed, gaps=gaps)

    def restrict(self, conditions: Mapping[str, Condition]) -> Cuts:
        """See `TableModel.restrict`."""
        cuts = Cuts()
        for name, condition in conditions.items():
            column, index = self.schema[name], self.schema.names.index(name)
            book = self.codec.books[index]
            weights = np.zeros(self.codec.cardinalities[index])
            if isinstance(book, LevelBook):
                levels = conditions_of.codes(column, condition)
                weights[:] = book.allowed(levels)[: len(weights)]
                cuts.levels[name] = levels
                cuts.columns[index] = Restriction(torch.from_numpy(weights))
                continue
            intervals = conditions_of.intervals(column, condition)
            cuts.limits[name] = intervals
            scores = book.restrict(intervals, step_of(column), weights)
            if column.missing:
                weights[-1] = float(conditions_of.allows_missing(condition))
            cuts.columns[index] = Restriction(
                torch.from_numpy(weights),
                None if scores is None else torch.from_numpy(scores).float(),
            )
        return cuts

    def log_probability(self, conditions: Mapping[str, Condition], seed: int) -> float | None:
        """See `TableModel.log_probability`.

        A single number has no probability of its own: of it, only that the column holds some such
        number counts (an atom; any of the continuous ones; none that is missing).
        """
        if not conditions:
            return 0.0
        device = next(self.denoiser.parameters()).device
        cuts = self.restrict(conditions).on(device)
        for name, condition in conditions.items():
            if isinstance(condition, Equal) and not self.schema[name].kind.is_discrete:
                index = self.schema.names.index(name)
                cuts[index] = Restriction(cuts[index].codes)
        return cut_log_prob(self.denoiser, cuts, KeyedNoise(seed))

    def draw(
        self,
        state: Mapping[str, Tensor],
        given: Tensor,
        noise: KeyedNoise,
        *,
        restrictions: Any = None,
        steps: int | None = None,
        present: bool = False,
    ) -> dict[str, Tensor]:
        """See `TableModel.draw`."""
        device = next(self.denoiser.parameters()).device
        steps = self.options["sample_steps"] if steps is None else steps
        forbidden = {}
        if present:
            codes = self.codec.cardinalities
            forbidden = {j: codes[j] - 1 for j, c in enumerate(self.schema) if c.missing}
        drawn = reveal(
            self.denoiser,
            {name: value.to(device) for name, value in state.items()},
            ~given.to(device),
            noise,
            restrictions=None if restrictions is None else restrictions.on(device),
            forbidden=forbidden,
            steps=steps,
        )
        return {name: value.cpu() for name, value in drawn.items()}

    def decode(
        self, state: Mapping[str, Tensor], noise: KeyedNoise, *, restrictions: Any = None
    ) -> pd.DataFrame:
        """See `TableModel.decode`."""
        cuts = restrictions or Cuts()
        return self.codec.decode(state, noise, limits=cuts.limits, levels=cuts.levels)

    def log_prob(
        self, table: pd.DataFrame, seed: int, *, steps: int | None, orders: int
    ) -> NDArray[np.float64]:
        """See `TableModel.log_prob`."""
        device = resolve_device(self.options["device"])
        data = self.codec.encode(table, seed=seed)
        total = self.codec.log_frequencies(table)
        with torch.no_grad():
            for start in range(0, len(table), SCORE_BLOCK):
                rows = {k: v[start : start + SCORE_BLOCK].to(device) for k, v in data.items()}
                bound = any_order_log_prob(
                    self.denoiser, rows, KeyedNoise(seed, start), orders=orders, steps=steps
                )
                total[start : start + SCORE_BLOCK] += bound.cpu().numpy()
        return total

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """See `TableModel.state`."""
        return self.codec.state()

    def restore(self, config: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """See `TableModel.restore`."""
        self.codec = MaskedCodec.from_state(config, arrays)
        self._build(0)
