r"""What the denoiser of conformers learns from pairs of a start and the minimum reached from it.

    z = x0 + sigma (eps + s (y - x0) / sigma_start),      s in {0, 1}

x0 is a GFN2 minimum, y the force-field minimum that the optimisation began with. Along the
probability-flow ODE what separates z from x0 shrinks in proportion to sigma, noise and shift
alike: a walk that begins at y + sigma_start eps sees, at every level, what it was trained on.

The loss is that of EDM (the error of x0 over c_out, squared, a degree of freedom), plus the same
of the distances between atoms up to three bonds apart: energies are decided by bonds and angles,
which a mean square over positions hardly feels.

At large sigma the orientation of z is forgotten; the target is turned onto z (Kabsch 1976) so that
the network need not learn an average over rotations. So are, among like atoms, their numbers: the
target is renumbered as is nearest to what was predicted (automorphisms), so that it need not learn
an average over these either.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scidiffusion.core.centred import remove_mean
from scidiffusion.core.denoiser import edm_scales
from scidiffusion.core.rng import Noise
from scidiffusion.molecules.conformer.bank import ConformerBank
from scidiffusion.molecules.conformer.bundle_loss import BundleLoss
from scidiffusion.molecules.conformer.denoiser import SIGMA_DATA, ConformerDenoiser
from scidiffusion.molecules.features import pair_distances
from scidiffusion.molecules.superposition import turned_onto

BOND_WEIGHTS = (4.0, 2.0, 0.5)
"""Weights of distances over one, two and three bonds."""
FORGOTTEN = 0.5
"""Noise level, in Angstrom, from which on z does not tell like atoms apart."""


@dataclass(frozen=True)
class NoiseLevels:
    """How noise levels are drawn: a mixture of two log-normals, in Angstrom.

    Args:
        low: Median and log standard deviation of the levels that refinement visits.
        high: Those of the levels that a walk from pure noise visits.
        high_share: Share of the latter.
    """

    low: tuple[float, float] = (0.04, 1.2)
    high: tuple[float, float] = (1.0, 1.3)
    high_share: float = 0.12

    def draw(self, like: Tensor, noise: Noise) -> Tensor:
        """(B,) noise levels for the rows of `like`."""
        rows = like.new_empty(like.shape[0])
        far = noise.uniform(rows) < self.high_share
        unit = noise.normal(rows)
        low = self.low[0] * torch.exp(self.low[1] * unit)
        high = self.high[0] * torch.exp(self.high[1] * unit)
        return torch.where(far, high, low).clamp(0.004, 20.0)


class ConformerLoss(BundleLoss):
    """See the module.

    Args:
        bank, kept, held: As of `BundleLoss`.
        sigma_start: Noise level at which refinement begins.
        shift_share: Share of rows that hold the shift.
        local_weight: Weight of the distances.
        levels: How noise levels are drawn.
    """

    def __init__(
        self,
        bank: ConformerBank,
        kept: Tensor,
        held: Tensor,
        *,
        sigma_start: float,
        shift_share: float = 0.7,
        local_weight: float = 1.0,
        levels: NoiseLevels | None = None,
    ) -> None:
        super().__init__(bank, kept, held)
        self.sigma_start, self.shift_share = sigma_start, shift_share
        self.local_weight = local_weight
        self.levels = levels or NoiseLevels()

    def bundle(self, denoiser: ConformerDenoiser, row: int, noise: Noise) -> Tensor:
        """Return the loss of molecules around that of a row."""
        bundle = self.draw(row, noise)
        graph, x0 = bundle.graph, remove_mean(bundle.minimum, bundle.graph.mask)
        process = denoiser.process.with_mask(graph.mask)
        sigma = self.levels.draw(x0, noise)
        eps = process.draw(x0, noise)
        shifted = noise.uniform(sigma) < self.shift_share
        # The start is never farther away than it is.
        shift = (sigma / self.sigma_start).clamp(max=1.0) * shifted
        shift = shift[:, None, None] * remove_mean(bundle.start - x0, graph.mask)
        z = x0 + sigma[:, None, None] * eps + shift
        time = denoiser.process.schedule.t_of_log_snr(-2 * sigma.double().log())
        predicted = denoiser(z, time, graph).x0
        images = [molecule.images for molecule in bundle.molecules]
        target = nearest_target(x0, z, predicted, graph.mask, sigma, images)
        scale = edm_scales(sigma, SIGMA_DATA)[1][:, None, None]
        error = ((predicted - target) / scale).square().sum((1, 2)) / (3 * graph.mask.sum(1))
        if self.local_weight:
            error = error + self.local_weight * local_error(
                predicted, target, graph.hops, scale[..., 0]
            )
        return error.mean()


@torch.no_grad()
def nearest_target(
    x0: Tensor, z: Tensor, predicted: Tensor, mask: Tensor, sigma: Tensor, images: list[Tensor]
) -> Tensor:
    """Turn clean positions onto noisy ones, renumbered as is nearest to a prediction.

    Args:
        x0: (B, N, 3) clean positions, centred.
        z: (B, N, 3) noisy positions.
        predicted: (B, N, 3) what was predicted of x0.
        mask: (B, N).
        sigma: (B,) noise levels; below `FORGOTTEN` numbers stay as they are.
        images: Of each row, (M, N) renumberings, the first of which changes nothing.

    Returns:
        (B, N, 3).
    """
    target = turned_onto(x0, z, mask)
    rows = [
        row for row in torch.nonzero(sigma >= FORGOTTEN).flatten().tolist() if len(images[row]) > 1
    ]
    for row in rows:
        size = images[row].shape[1]
        ways = x0[row, images[row].to(x0.device)]
        real = torch.ones(ways.shape[:2], dtype=torch.bool, device=x0.device)
        laid = turned_onto(ways, z[row, :size].expand_as(ways), real)
        error = (laid - predicted[row, :size]).square().sum((1, 2))
        target[row, :size] = laid[error.argmin()].to(target)
    return target


def local_error(predicted: Tensor, target: Tensor, hops: Tensor, scale: Tensor) -> Tensor:
    """Mean weighted square of errors of distances over up to three bonds, over scale, (B,)."""
    weight = torch.zeros_like(hops)
    for hop, value in enumerate(BOND_WEIGHTS, start=1):
        weight = weight + value * (hops == hop)
    error = (pair_distances(predicted) - pair_distances(target)) / scale[..., None]
    # Far from the data distances are not what is to be learned first.
    return (weight * error.square()).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1.0)
