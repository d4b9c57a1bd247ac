r"""The denoiser of new molecules: clean positions and types from noisy ones.

    positions   x0 = c_skip z + c_out F                    (Karras et al. 2022, eq. 7)
    types       p0 = softmax(F + log q(z_type | type)),    x0 = s p0

The network F sees positions in Angstrom and, of the types, what their noisy values alone say
(Bayes' rule with equal priors); its answer for a type is what everything else says, so that the
product of both is the posterior, and near the data, where the noisy value says it all, nothing is
left to learn (Dieleman et al. 2022, "CDCD": a softmax over categories gives x0). Where the
composition is known, probabilities add up to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scidiffusion.core.denoiser import edm_scales
from scidiffusion.core.prediction import (
    CategoricalPrediction,
    Parameterization,
    Prediction,
    match,
)
from scidiffusion.core.process import Process
from scidiffusion.core.schedules import as_time
from scidiffusion.errors import ConfigError
from scidiffusion.molecules.denovo.network import PairNetwork
from scidiffusion.molecules.denovo.process import SIGMA_DATA, Types, molecule_process

COUNT = 4.0
"""Atoms of a type that count as 1 to the network."""
ROUNDS, RARE = 6, 1e-6
"""Iterations that balance types, and what stands for none of a type."""


@dataclass(frozen=True)
class Answer:
    """What the denoiser says, before it is read as a prediction of a process.

    Args:
        positions: (B, N, 3) clean positions in Angstrom.
        log_p0: (B, N, K) log-probabilities of the types.
        bonds: (B, N, N, 4) logits of the bond orders.
    """

    positions: Tensor
    log_p0: Tensor
    bonds: Tensor


class MoleculeDenoiser(nn.Module):
    """Predict clean molecules; a state is {"positions": (B, N, 3), "types": (B, N, K) or (B, N)}.

    Args:
        network: The network F.
        kind: How types are noised.
        scale: The scale s of the types, in Angstrom.
        mask: (B, N) real atoms of the batch it is used on; `bound` gives one for a batch.
    """

    def __init__(
        self, network: PairNetwork, kind: Types, scale: float, mask: Tensor | None = None
    ) -> None:
        super().__init__()
        if not scale > 0:
            raise ConfigError(f"type_scale must be positive, got {scale}")
        self.network, self.kind, self.scale = network, kind, scale
        self.mask = torch.ones(1, 1, dtype=torch.bool) if mask is None else mask
        self.process: Process = molecule_process(kind, network.types_count, self.mask)

    def bound(self, mask: Tensor) -> MoleculeDenoiser:
        """Return this denoiser for a batch whose real atoms are `mask`, (B, N) bool."""
        return MoleculeDenoiser(self.network, self.kind, self.scale, mask).train(self.training)

    def clean(self, positions: Tensor, types: Tensor) -> dict[str, Tensor]:
        """Return the state of molecules.

        Args:
            positions: (B, N, 3) centred, padding 0.
            types: (B, N) long.
        """
        if self.kind is Types.MULTINOMIAL:
            return {"positions": positions, "types": types}
        hot = nn.functional.one_hot(types, self.network.types_count).to(positions.dtype)
        return {"positions": positions, "types": self.scale * hot * self.mask[..., None]}

    def forward(
        self, z: Mapping[str, Tensor], t: Tensor, cond: Mapping[str, Tensor] | None = None
    ) -> dict[str, Any]:
        """Predict; `cond` holds "composition" (B, K) and "labels" (B, L), NaN where absent."""
        answer = self.answer(z, t, cond)
        parts = self.process.parts  # type: ignore[attr-defined]
        positions = Prediction(
            z["positions"],
            parts["positions"].schedule.marginal(as_time(t).to(z["positions"].device)),
            answer.positions,
            Parameterization.X0,
        )
        if self.kind is Types.MULTINOMIAL:
            # Padding is, and stays, of the first type.
            sure = torch.full_like(answer.log_p0, -torch.inf)
            sure[..., 0] = 0.0
            log_p0 = torch.where(self.mask[..., None], answer.log_p0, sure)
            return {"positions": positions, "types": CategoricalPrediction(z["types"], log_p0)}
        x0 = self.scale * answer.log_p0.exp() * self.mask[..., None]
        types = Prediction(z["types"], positions.marginal, x0, Parameterization.X0)
        return {"positions": positions, "types": types}

    def answer(
        self, z: Mapping[str, Tensor], t: Tensor, cond: Mapping[str, Tensor] | None = None
    ) -> Answer:
        """Return everything that the network says; see `forward`."""
        x = z["positions"]
        parts = self.process.parts  # type: ignore[attr-defined]
        time = as_time(t).to(x.device).expand(x.shape[0])
        sigma = match(parts["positions"].schedule.marginal(time).sigma, x)
        evidence = self._evidence(z["types"], time, sigma)
        types = evidence.softmax(-1)
        said = self.network(x, types, sigma[:, 0, 0], self._known(types, cond), self.mask)
        skip, out = edm_scales(sigma, SIGMA_DATA)
        x0 = skip * x + out * said["positions"].to(x.dtype)
        log_p0 = torch.log_softmax(said["types"].to(x.dtype) + evidence, -1)
        if cond is not None and "composition" in cond:
            log_p0 = balanced(log_p0, cond["composition"].to(x.dtype), self.mask)
        return Answer(parts["positions"].project(x0), log_p0, said["bonds"].to(x.dtype))

    def _evidence(self, types: Tensor, time: Tensor, sigma: Tensor) -> Tensor:
        """(B, N, K) log-likelihood of each type from its noisy value, up to a constant."""
        if self.kind is Types.GAUSSIAN:
            return self.scale * types / sigma.square()
        parts = self.process.parts  # type: ignore[attr-defined]
        count = self.network.types_count
        kept = match(parts["types"].schedule.log_alpha_bar(time).exp(), sigma)
        hot = nn.functional.one_hot(types, count).to(sigma.dtype)
        return (kept * hot + (1 - kept) / count).clamp(min=1e-30).log()

    def _known(self, types: Tensor, cond: Mapping[str, Tensor] | None) -> Tensor:
        """(B, 3 K + 2 L + 1) what the network is told of each molecule as a whole.

        Composition and labels, each with whether it is known, how many atoms of each type are
        still lacking, and the number of atoms.
        """
        rows, cond = types.shape[0], cond or {}
        parts = []
        for name, width in (
            ("composition", self.network.types_count),
            ("labels", self.network.labels),
        ):
            value = cond.get(name)
            if value is None:
                value = types.new_full((rows, width), torch.nan)
            known = ~torch.isnan(value)
            parts += [torch.where(known, value, 0.0).to(types.dtype), known.to(types.dtype)]
        present = (types * self.mask[..., None]).sum(1)
        lacking = (parts[0] - present) * parts[1]
        atoms = self.mask.sum(1, keepdim=True).to(types.dtype)
        return torch.cat([parts[0] / COUNT, *parts[1:], lacking, atoms / (4 * COUNT)], -1)


def balanced(log_p0: Tensor, composition: Tensor, mask: Tensor) -> Tensor:
    """Make probabilities of types add up to a known composition (Sinkhorn's iteration).

    Every molecule of a composition has as many atoms of each type as it says, so the posterior
    probabilities of its atoms add up to that.

    Args:
        log_p0: (B, N, K) log-probabilities, normalised over K.
        composition: (B, K) atoms of each type, NaN where not known.
        mask: (B, N) real atoms.

    Returns:
        (B, N, K) log-probabilities, normalised over K; unchanged where the composition is unknown.
    """
    known = ~torch.isnan(composition).any(-1)[:, None, None]
    wanted = torch.where(torch.isnan(composition), 1.0, composition).clamp(min=RARE).log()
    made = log_p0
    for _ in range(ROUNDS):
        there = torch.where(mask[..., None], made, -torch.inf)
        made = made + (wanted - torch.logsumexp(there, 1))[:, None]
        made = torch.log_softmax(made, -1)
    return torch.where(known, made, log_p0)
