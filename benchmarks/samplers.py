"""How good are samples after n network evaluations? Measured with an exact denoiser.

    python benchmarks/samplers.py [--out benchmarks/results/samplers.json]

Wasserstein-1 distance to Prince's one-dimensional mixture by number of network evaluations (NFE):
no network is trained, so the figures are those of the samplers alone. Deterministic methods start
from the quantiles of the prior and carry no sampling error; stochastic ones are drawn, and the
floor row says how far as many exact draws are from the mixture.
"""

from __future__ import annotations

import numpy as np
import torch
from _measuring import measured

from scidiffusion.core import GaussianProcess, KeyedNoise, LinearVP
from scidiffusion.samplers import (
    DDIM,
    Ancestral,
    DPMSolverPP,
    EulerMaruyama,
    Heun,
    PredictorCorrector,
    Sampler,
    sample,
)
from scidiffusion.testing import GaussianMixtureOracle

EVALUATIONS = (10, 20, 50, 200)
ROWS, DRAWS = 4000, 3

# Sampler, grid spacing, network evaluations a step.
METHODS: dict[str, tuple[Sampler, str, int]] = {
    "DPM-Solver++(2M), log-SNR": (DPMSolverPP(), "log_snr", 1),
    "DDIM, uniform": (DDIM(), "uniform", 1),
    "DDIM, log-SNR": (DDIM(), "log_snr", 1),
    "Heun, Karras": (Heun(), "karras", 2),
    "Ancestral (beta), uniform": (Ancestral(), "uniform", 1),
    "DPM-Solver++(2M SDE), log-SNR": (DPMSolverPP(sde=True), "log_snr", 1),
    "Euler-Maruyama, uniform": (EulerMaruyama(), "uniform", 1),
    "Predictor-corrector, uniform": (PredictorCorrector(), "uniform", 2),
}


def measure() -> dict[str, dict[str, float]]:
    """Return the distances, by method and number of evaluations."""
    process = GaussianProcess(LinearVP(), variance="beta")
    oracle = GaussianMixtureOracle.prince(process)
    like = torch.empty(ROWS, 1, dtype=torch.float64)
    grid = (torch.arange(ROWS, dtype=torch.float64) + 0.5) / ROWS
    quantiles = torch.special.ndtri(grid)[:, None]
    table: dict[str, dict[str, float]] = {}
    for name, (sampler, spacing, cost) in METHODS.items():
        table[name] = {}
        for evaluations in EVALUATIONS:
            distances = []
            for seed in range(DRAWS if sampler.stochastic else 1):
                drawn = sample(
                    process,
                    oracle,
                    like,
                    sampler=sampler,
                    steps=evaluations // cost,
                    spacing=spacing,
                    noise=KeyedNoise(seed),
                    z=None if sampler.stochastic else quantiles,
                )
                distances.append(oracle.wasserstein_1(drawn))
            table[name][str(evaluations)] = float(np.mean(distances))
    floor = np.mean(
        [oracle.wasserstein_1(oracle.sample(ROWS, KeyedNoise(s))[0]) for s in range(10)]
    )
    table[f"{ROWS} exact draws"] = dict.fromkeys(map(str, EVALUATIONS), float(floor))
    return table


def render(table: dict[str, dict[str, float]]) -> str:
    """Return the distances as a Markdown table."""
    head = "| method | " + " | ".join(f"{n} NFE" for n in EVALUATIONS) + " |"
    lines = [head, "|---|" + "---|" * len(EVALUATIONS)]
    for name, row in table.items():
        lines.append(f"| {name} | " + " | ".join(f"{value:.4f}" for value in row.values()) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    measured(__file__, __doc__ or "", measure, render)
