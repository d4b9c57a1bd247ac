"""How likely molecules are: the evidence lower bound of positions and types."""

from __future__ import annotations

import numpy as np
import torch

from scidiffusion.core.elbo import elbo
from scidiffusion.molecules.denovo.denoiser import MoleculeDenoiser
from scidiffusion.molecules.denovo.generate import ROWS, RowNoise
from scidiffusion.molecules.denovo.reading import Clouds


def log_bound(
    denoiser: MoleculeDenoiser,
    clouds: Clouds,
    elements: np.ndarray,
    seed: int,
    steps: int,
    draws: int,
) -> np.ndarray:
    """Lower bound of log p(positions, types | number of atoms), in nats, (M,).

    Args:
        denoiser: The fitted denoiser.
        clouds: M molecules of known elements.
        elements: (K,) atomic number of each type.
        seed: Seed of the noise, which is keyed by a molecule's number.
        steps: Noise levels at which the bound is computed.
        draws: Noisy states at each.
    """
    scores = np.zeros(len(clouds.counts))
    # Molecules of like size go together.
    order = np.argsort(clouds.counts, kind="stable")
    for start in range(0, len(order), ROWS):
        batch = order[start : start + ROWS]
        scores[batch] = _bound(denoiser, clouds, elements, batch, seed, steps, draws)
    return scores


def _bound(
    denoiser: MoleculeDenoiser,
    clouds: Clouds,
    elements: np.ndarray,
    batch: np.ndarray,
    seed: int,
    steps: int,
    draws: int,
) -> np.ndarray:
    device = next(denoiser.parameters()).device
    counts = clouds.counts[batch]
    size = int(counts.max())
    positions = torch.zeros(len(batch), size, 3)
    types = torch.zeros(len(batch), size, dtype=torch.long)
    for row, index in enumerate(batch):
        part = slice(clouds.offsets[index], clouds.offsets[index + 1])
        place = clouds.positions[part] - clouds.positions[part].mean(0)
        positions[row, : counts[row]] = torch.from_numpy(place.astype(np.float32))
        kinds = np.searchsorted(elements, clouds.numbers[part])
        types[row, : counts[row]] = torch.from_numpy(kinds)
    mask = torch.arange(size) < torch.from_numpy(counts)[:, None]
    bound = denoiser.bound(mask.to(device))
    terms = elbo(
        bound,
        bound.clean(positions.to(device), types.to(device)),
        grid=bound.process.schedule.grid(steps, "log_snr"),
        noise=RowNoise(seed, tuple(int(i) for i in batch), tuple(int(c) for c in counts)),
        draws=draws,
    )
    return np.asarray(terms.total.double().cpu().numpy())
