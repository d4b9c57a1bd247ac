r"""What the denoiser of new molecules learns: positions, types, bonds and short distances.

    |x0_hat - x0|^2 / (3 N c_out^2)               the loss of EDM (Karras et al. 2022, eq. 8)
    - log p0(type)                                cross-entropy, a mean over atoms
    - log p(bond order of the clean molecule)     a mean over atoms, summed over partners
    (d_hat - d)^2 / c_out^2                       distances up to two bonds, a mean over pairs

Stability is a matter of bond lengths within .1 Angstrom, which a mean square over positions hardly
feels; the two last terms make the network say what is bonded while it is still noise, and keep the
lengths.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from scidiffusion.core.denoiser import edm_scales
from scidiffusion.core.objectives import Objective
from scidiffusion.core.rng import Noise
from scidiffusion.molecules.denovo.bank import Bundle, MoleculeBank
from scidiffusion.molecules.denovo.denoiser import MoleculeDenoiser
from scidiffusion.molecules.denovo.process import SIGMA_DATA, SIGMA_MAX, SIGMA_MIN
from scidiffusion.molecules.features import pair_distances

NEAR = 2.7
"""Pairs nearer than this in the clean molecule, in Angstrom, are at most two bonds apart."""


class NoiseLevels:
    """Draw noise levels: log-normal, with a share that is uniform in the logarithm.

    Args:
        mean: Mean of log sigma; -.8 is .45 Angstrom, where it is decided which atoms are bonded.
        std: Its standard deviation.
        wide_share: Share of rows spread evenly over all levels.
    """

    def __init__(self, mean: float = -0.8, std: float = 0.85, wide_share: float = 0.12) -> None:
        self.mean, self.std, self.wide_share = mean, std, wide_share

    def draw(self, like: Tensor, noise: Noise) -> Tensor:
        """Return levels in Angstrom for the rows of `like`, (B,), spread evenly over the rows."""
        reference = torch.empty(like.shape[0], dtype=torch.float64)
        # Stratified: a bundle covers all levels, whatever its offset.
        offset = noise.child("level").uniform(reference)[:1]
        u = (torch.arange(len(reference), dtype=torch.float64) / len(reference) + offset) % 1.0
        wide = u < self.wide_share
        inner = ((u - self.wide_share) / (1 - self.wide_share)).clamp(1e-4, 1 - 1e-4)
        normal = self.mean + self.std * torch.special.ndtri(inner)
        low, high = math.log(SIGMA_MIN), math.log(SIGMA_MAX)
        uniform = low + (high - low) * u / max(self.wide_share, 1e-9)
        return torch.where(wide, uniform, normal).exp().clamp(SIGMA_MIN, SIGMA_MAX).to(like)


class MoleculeLoss(Objective):
    """See the module. A row of the data is the number of a molecule, which a bundle stands for.

    Args:
        bank: The molecules.
        kept: Numbers of the molecules that are trained on; row i of the data is `kept[i]`.
        held: Numbers of those held out; row len(kept) + i is `held[i]`.
        dropout: Probability with which composition and labels, each, are hidden from the network.
        levels: How noise levels are drawn.
        type_weight: Weight of the types.
        bond_weight: Weight of the bonds.
        distance_weight: Weight of the distances.
    """

    def __init__(
        self,
        bank: MoleculeBank,
        kept: Tensor,
        held: Tensor,
        *,
        dropout: float,
        levels: NoiseLevels | None = None,
        type_weight: float = 1.0,
        bond_weight: float = 0.5,
        distance_weight: float = 0.5,
    ) -> None:
        self.bank, self.dropout = bank, dropout
        self.parts = kept.sort().values, held.sort().values
        self.levels = levels or NoiseLevels()
        self.type_weight, self.bond_weight = type_weight, bond_weight
        self.distance_weight = distance_weight

    def __call__(
        self, denoiser: Any, x: Any, noise: Noise, cond: Any = None, t: Tensor | None = None
    ) -> Tensor:
        """Return the loss of every row, (B,): the mean over the bundle that it stands for."""
        losses = []
        for row in x.flatten().tolist():
            training = row < len(self.parts[0])
            allowed = self.parts[0] if training else self.parts[1]
            anchor = row if training else row - len(self.parts[0])
            bundle = self.bank.bundle(anchor, allowed, noise.child("bundle"))
            losses.append(self.bundle_loss(denoiser, bundle, noise, x.device))
        return torch.stack(losses)

    def bundle_loss(
        self, denoiser: MoleculeDenoiser, bundle: Bundle, noise: Noise, device: torch.device
    ) -> Tensor:
        """Return the mean loss of a bundle."""
        bundle = Bundle(*(value.to(device) for value in vars(bundle).values()))
        bound = denoiser.bound(bundle.mask)
        x = bound.clean(bundle.positions, bundle.types)
        sigma = self.levels.draw(bundle.positions, noise)
        schedule = bound.process.schedule
        t = schedule.t_of_log_snr(-2 * sigma.double().log())
        z = bound.process.q_sample(x, t, noise).z
        answer = bound.answer(z, t, self._conditions(bundle, noise))
        scale, mask = edm_scales(sigma, SIGMA_DATA)[1][:, None, None], bundle.mask
        atoms = mask.sum(1)
        error = ((answer.positions - bundle.positions) / scale).square().sum((1, 2)) / (3 * atoms)
        entropy = -answer.log_p0.gather(-1, bundle.types[..., None])[..., 0]
        error = error + self.type_weight * (entropy * mask).sum(1) / atoms
        real = mask[:, :, None] & mask[:, None]
        real = real & ~torch.eye(mask.shape[1], dtype=torch.bool, device=device)
        bonds = functional.cross_entropy(
            answer.bonds.movedim(-1, 1), bundle.orders, reduction="none"
        )
        error = error + self.bond_weight * (bonds * real).sum((1, 2)) / atoms
        distances = [pair_distances(place) for place in (answer.positions, bundle.positions)]
        near = real & (distances[1] < NEAR)
        strain = ((distances[0] - distances[1]) / scale).square()
        error = error + self.distance_weight * (strain * near).sum((1, 2)) / near.sum(
            (1, 2)
        ).clamp(min=1)
        return error.mean()

    def _conditions(self, bundle: Bundle, noise: Noise) -> dict[str, Tensor]:
        cond = {"composition": bundle.composition, "labels": bundle.labels}
        for name, value in cond.items():
            hidden = noise.child(name).uniform(value.new_empty(len(value), 1)) < self.dropout
            cond[name] = torch.where(hidden, torch.nan, value)
        return cond
