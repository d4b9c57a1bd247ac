"""The method "ddpm": Gaussian diffusion of normal scores beside multinomial diffusion of classes.

The manner of TabDDPM (Kotelnikov et al. 2023): numbers are mapped to normal scores and noised by a
Gaussian process, categories by a multinomial one, one residual MLP denoises both. Beyond it, part
of the training rows have known columns (see `scidiffusion.tabular.objective`), so that the fitted
model conditions on the values of any columns exactly; and the numbers may be sampled by a few-step
solver.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from scidiffusion.core import (
    DiscreteSchedule,
    GaussianProcess,
    KeyedNoise,
    MultinomialProcess,
    NetworkDenoiser,
    Process,
    ProductProcess,
    elbo,
)
from scidiffusion.core.prediction import Parameterization
from scidiffusion.core.schedules import check_steps
from scidiffusion.errors import ConfigError
from scidiffusion.estimator import resolve_device
from scidiffusion.samplers import PartwiseSampler, SinglePrediction, make_sampler, sample
from scidiffusion.tabular.bridge import draw_column, layout_of, to_encoded, to_state
from scidiffusion.tabular.codec import TableCodec
from scidiffusion.tabular.conditions import Condition
from scidiffusion.tabular.model import TableModel
from scidiffusion.tabular.network import TableNetwork
from scidiffusion.tabular.objective import CategoricalLoss, GivenColumns, TableLoss, reveal

OBJECTIVES = {
    "tabddpm": (Parameterization.EPS, CategoricalLoss.KL),
    "balanced": (Parameterization.V, CategoricalLoss.CROSS_ENTROPY),
}
"""Name -> what the network predicts of a number, and the loss of a category."""
SCORE_BLOCK = 1024
SCORE_STEPS = 100


class DDPMModel(TableModel):
    """TabDDPM's method; see the module."""

    defaults: ClassVar[dict[str, Any]] = {
        "width": 256,
        "blocks": 4,
        "dropout": 0.0,
        "lr": 2e-3,
        "ema_decay": 0.999,
        "sample_steps": 50,
    }

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        """See `TableModel.check`."""
        _rule(options["sampler"])
        if options["objective"] not in tuple(OBJECTIVES):
            raise ConfigError(
                f"objective must be one of {', '.join(OBJECTIVES)}; got {options['objective']!r}"
            )

    def prepare(self, table: pd.DataFrame, seed: int) -> dict[str, Tensor]:
        """See `TableModel.prepare`."""
        self.codec = TableCodec(self.schema).fit(table)
        self._build(seed)
        return self.encode(table, seed)

    def _build(self, seed: int) -> None:
        codec, options = self.codec, self.options
        schedule = DiscreteSchedule.linear(options["num_nodes"])
        parts: dict[str, Process] = {}
        if codec.numerical_names:
            kind = OBJECTIVES[options["objective"]][0]
            parts["num"] = GaussianProcess(schedule, parameterization=kind)
        if codec.cardinalities:
            parts["cat"] = MultinomialProcess(schedule, codec.cardinalities)
        marginals = np.concatenate([*codec.marginals, np.empty(0)])

        def build() -> NetworkDenoiser:
            network = TableNetwork(
                len(codec.numerical_names),
                codec.cardinalities,
                width=options["width"],
                blocks=options["blocks"],
                dropout=options["dropout"],
                log_marginals=torch.from_numpy(np.log(np.maximum(marginals, 1e-6))),
                bf16=self.bf16,
            )
            return NetworkDenoiser(network, ProductProcess(parts))

        self.denoiser = self.seeded(build, seed)

    def objective(self) -> TableLoss:
        """See `TableModel.objective`."""
        return TableLoss(
            layout_of(self.codec),
            categorical=OBJECTIVES[self.options["objective"]][1],
            target=self._target_index(),
            share=self.options["known_share"],
        )

    def training_options(self, rows: int) -> dict[str, Any]:
        """See `TableModel.training_options`."""
        steps = self.options["max_steps"]
        return {"validate_every": 250 if steps is None else max(1, min(250, steps // 5))}

    def encode(self, table: pd.DataFrame, seed: int, *, gaps: bool = False) -> dict[str, Tensor]:
        """See `TableModel.encode`."""
        return to_state(self.codec.encode(table, seed=seed, gaps=gaps))

    def restrict(self, conditions: Mapping[str, Condition]) -> None:
        """See `TableModel.restrict`."""
        if conditions:
            raise ConfigError(
                f"method='ddpm' conditions on single values only, not on a set or a range of "
                f"{next(iter(conditions))!r}; fit with method='masked'"
            )

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
        steps = check_steps(self.options["sample_steps"] if steps is None else steps)
        target = self._target_index()
        clean = {name: value.to(device) for name, value in state.items()}
        flags = {
            name: value.clone()
            for name, value in layout_of(self.codec).flags(given.to(device)).items()
        }
        if bool(given.any()) and not self.options["known_share"]:
            others = given.clone()
            if target is not None:
                others[:, target] = False
            if bool(others.any()):
                raise ConfigError(
                    "the model was fitted with known_share=0 and takes no conditions"
                )
        forbidden = {}
        if present:
            for place, name in enumerate(self.codec.categorical_names):
                if self.schema[name].kind.is_discrete:
                    if self.schema[name].missing:
                        forbidden[place] = self.codec.cardinalities[place] - 1
                    continue
                # Code 0 of a number's flag is "present".
                hidden = ~flags["cat"][:, place]
                clean["cat"][hidden, place] = 0
                flags["cat"][:, place] = True
        # With other columns given, the target's own frequencies are no longer the right law.
        if target is not None and not present and not bool(given.any()):
            draw_column(self.codec, self.schema.names[target], clean, flags, noise)
        denoiser: Any = self.denoiser
        if forbidden or any(bool(value.any()) for value in flags.values()):
            denoiser = GivenColumns(denoiser, clean, flags, forbidden)
        sampler = PartwiseSampler(
            {"num": _rule(self.options["sampler"])} if self.codec.numerical_names else {}
        )
        drawn = sample(
            denoiser.process, denoiser, clean, sampler=sampler, steps=steps, noise=noise
        )
        return {name: value.cpu() for name, value in reveal(drawn, clean, flags).items()}

    def decode(
        self, state: Mapping[str, Tensor], noise: KeyedNoise, *, restrictions: Any = None
    ) -> pd.DataFrame:
        """See `TableModel.decode`."""
        rows = len(next(iter(state.values())))
        return self.codec.decode(to_encoded(state, self.codec, rows))

    def log_prob(
        self, table: pd.DataFrame, seed: int, *, steps: int | None, orders: int
    ) -> NDArray[np.float64]:
        """See `TableModel.log_prob`."""
        device = resolve_device(self.options["device"])
        data = self.encode(table, seed)
        parts = [np.empty(0)]
        for start in range(0, len(table), SCORE_BLOCK):
            rows = {k: v[start : start + SCORE_BLOCK].to(device) for k, v in data.items()}
            bound = elbo(
                self.denoiser, rows, steps=steps or SCORE_STEPS, noise=KeyedNoise(seed, start)
            )
            parts.append(bound.total.double().cpu().numpy())
        return np.concatenate(parts)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """See `TableModel.state`."""
        return self.codec.state()

    def restore(self, config: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """See `TableModel.restore`."""
        self.codec = TableCodec.from_state(config, arrays)
        self._build(0)

    def _target_index(self) -> int | None:
        """Index of the column that is conditioned on, or None."""
        target = self.options["target"]
        if target is None or target not in self.schema:
            return None
        if not self.schema[target].kind.is_discrete:
            return None
        return self.schema.names.index(target)


def _rule(sampler: str) -> SinglePrediction:
    rule = make_sampler(sampler)
    if not isinstance(rule, SinglePrediction):
        raise ConfigError(
            f"sampler={sampler!r} evaluates the network between steps and cannot share "
            "them with categories; use 'ancestral', 'ddim', 'dpmpp_2m' or 'dpmpp_sde'"
        )
    return rule
