r"""Draw conformers: from starts near the truth, or from noise alone.

Refinement is truncated diffusion: z = y + level eps, then the walk from that noise level to the
data. From scratch y is 0 and the level the highest: the walk begins with nothing but the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scidiffusion.core.centred import remove_mean
from scidiffusion.core.rng import KeyedNoise, Noise
from scidiffusion.errors import ConfigError
from scidiffusion.molecules.conformer.denoiser import SIGMA_MAX, SIGMA_MIN, ConformerDenoiser
from scidiffusion.molecules.conformer.graph import MolGraph
from scidiffusion.molecules.conformer.steering import Steering
from scidiffusion.samplers import make_sampler, sample

STEPS = 4
"""Evaluations of the network of a walk from starts: as many as the package's weights learned."""
BLOCK_PAIRS = 40_000
"""Pairs of atoms the network sees at once on a CPU: more do not fit into its caches."""


@torch.no_grad()
def refine(
    denoiser: ConformerDenoiser,
    graph: MolGraph,
    starts: NDArray[np.float64],
    *,
    level: float,
    steps: int,
    noise: KeyedNoise,
    noise_scale: float = 1.0,
    sampler: str = "dpmpp_2m",
    steering: Sequence[Steering] = (),
    device: torch.device | None = None,
) -> NDArray[np.float64]:
    """Walk from starts, noised to a level, to conformers.

    Args:
        denoiser: Denoiser.
        graph: Graph of the one molecule.
        starts: (n, N, 3) positions in Angstrom.
        level: Noise level the walk begins at, in Angstrom; 0.002 < level <= 20.
        steps: Number of steps, 1 or more.
        noise: Source of noise; conformer i has a row of its own.
        noise_scale: Share of the level's noise that is added, 0 or more: 1 draws from the
            learned law, 0 goes to where most of it lies near the start.
        sampler: Name of the sampler.
        steering: What pulls the walk.
        device: Where the network is; default the CPU.

    Returns:
        (n, N, 3) positions, centred.

    Raises:
        ConfigError: if the level is out of range.
    """
    if not SIGMA_MIN < level <= SIGMA_MAX:
        raise ConfigError(
            f"level must be a noise level between {SIGMA_MIN} and {SIGMA_MAX} Angstrom, got "
            f"{level}"
        )
    device = device or torch.device("cpu")
    bound = denoiser.at_level(level)
    rows = max(1, BLOCK_PAIRS // graph.size**2) if device.type == "cpu" else len(starts)
    graph, parts = graph.to(device), []
    for first in range(0, len(starts), rows):
        part = torch.as_tensor(starts[first : first + rows], dtype=torch.float32, device=device)
        own = noise.rows(first)
        part = remove_mean(part)
        z = part + noise_scale * level * bound.process.draw(part, own.child("prior"))
        parts.append(walk(bound, graph, z, steps, own, sampler, steering))
    return torch.cat(parts).double().cpu().numpy()


def walk(
    denoiser: ConformerDenoiser,
    graph: MolGraph,
    z: Tensor,
    steps: int,
    noise: Noise,
    sampler: str = "dpmpp_2m",
    steering: Sequence[Steering] = (),
    *,
    differentiable: bool = False,
) -> Tensor:
    """Walk from noisy positions (B, N, 3) at the denoiser's highest level to clean ones."""
    process = denoiser.process
    steered: Any = denoiser
    for one in steering:
        steered = one.around(steered)
    found = sample(
        process,
        steered,
        z,
        sampler=make_sampler(sampler),
        steps=steps,
        spacing="uniform",
        noise=noise,
        cond=graph,
        z=z,
        differentiable=differentiable,
    )
    assert isinstance(found, Tensor)
    return found
