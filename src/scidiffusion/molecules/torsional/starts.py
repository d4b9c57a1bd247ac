r"""Geometries whose torsions are drawn by diffusion, on the bonds, angles and rings of embeddings.

A few embeddings (ETKDG, MMFF94) give what does not turn; each conformer takes one of them, forgets
its torsions - the prior is uniform on the torus - and walks from there to data (Jing et al. 2022,
algorithm 2).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rdkit import Chem

from scidiffusion.core.rng import KeyedNoise
from scidiffusion.molecules.conformer.graph import MolGraph
from scidiffusion.molecules.conformer.refine import BLOCK_PAIRS
from scidiffusion.molecules.torsional.denoiser import Template, TorsionDenoiser
from scidiffusion.molecules.torsional.turning import Torsions
from scidiffusion.samplers import make_sampler, sample

STEPS = 20


@torch.no_grad()
def draw_torsions(
    denoiser: TorsionDenoiser,
    mol: Chem.Mol,
    templates: NDArray[np.float64],
    n: int,
    *,
    noise: KeyedNoise,
    steps: int = STEPS,
) -> NDArray[np.float64]:
    """Draw conformers.

    Args:
        denoiser: Trained denoiser.
        mol: The molecule, with explicit hydrogens.
        templates: (m, N, 3) geometries in Angstrom; conformer i turns the bonds of number i mod m.
        n: Number of conformers.
        noise: Source of noise; conformer i has a row of its own.
        steps: Network evaluations a conformer, 1 or more.

    Returns:
        (n, N, 3) in Angstrom, centred. Atoms may clash: the force field has not seen them.
    """
    torsions, graph = Torsions.of(mol), MolGraph.of(mol)
    chosen = torch.as_tensor(templates[np.arange(n) % len(templates)], dtype=torch.float32)
    chosen = chosen - chosen.mean(1, keepdim=True)
    if not len(torsions):
        return np.asarray(chosen.double().numpy())
    device = next(denoiser.parameters()).device
    graph, torsions, parts = graph.to(device), torsions.to(device), []
    rows = max(1, BLOCK_PAIRS // graph.size**2) if device.type == "cpu" else n
    for first in range(0, n, rows):
        template = Template(graph, torsions, chosen[first : first + rows].to(device))
        own = noise.rows(first)
        scores: Any = denoiser
        angles = sample(
            denoiser.process,
            scores,
            torch.zeros(len(template.position), len(torsions), device=device),
            sampler=make_sampler("ancestral"),
            steps=steps,
            noise=own,
            cond=template,
        )
        assert isinstance(angles, torch.Tensor)
        parts.append(template.at(angles))
    return np.asarray(torch.cat(parts).double().cpu().numpy())
