"""What do training and sampling steps buy? Measured on a law that is known.

    python benchmarks/speed.py [--out benchmarks/results/speed.json]

`DensityDiffusion` learns 4,000 rows of Prince's one-dimensional mixture for three lengths of
training; Wasserstein-1 distance of 4,000 drawn rows to the mixture itself, by sampler and number
of sampling steps, mean of three draws. Seconds are CPU seconds of one thread.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from _measuring import measured

from scidiffusion.core import GaussianProcess, KeyedNoise, LinearVP
from scidiffusion.testing import GaussianMixtureOracle
from scidiffusion.toy import DensityDiffusion, prince_mixture

TRAINING = (100, 400, 1600)
STEPS = (5, 10, 20, 50)
SAMPLERS = ("dpmpp_2m", "ddim")
ROWS, DRAWS = 4000, 3


def measure() -> dict[str, Any]:
    """Return distances and times, by length of training, sampler and number of steps."""
    mixture = GaussianMixtureOracle.prince(GaussianProcess(LinearVP()))
    rows, _ = prince_mixture(ROWS)
    floor = [mixture.wasserstein_1(mixture.sample(ROWS, KeyedNoise(s))[0]) for s in range(10)]
    found: dict[str, Any] = {"exact draws": float(np.mean(floor)), "fits": []}
    for length in TRAINING:
        start = time.process_time()
        model = DensityDiffusion(
            max_steps=length,
            validation_fraction=0.0,
            device="cpu",
            progress=False,
            random_state=0,
        ).fit(rows)
        fit = {"steps": length, "seconds": time.process_time() - start, "samples": []}
        for sampler in SAMPLERS:
            for steps in STEPS:
                start, distances = time.process_time(), []
                for seed in range(DRAWS):
                    drawn = model.sample(ROWS, sampler=sampler, steps=steps, random_state=seed)
                    distances.append(mixture.wasserstein_1(torch.from_numpy(drawn)))
                seconds = (time.process_time() - start) / DRAWS
                fit["samples"].append(
                    {
                        "sampler": sampler,
                        "steps": steps,
                        "distance": float(np.mean(distances)),
                        "seconds": seconds,
                    }
                )
        found["fits"].append(fit)
    return found


def render(found: dict[str, Any]) -> str:
    """Return the distances as a Markdown table."""
    columns = [f"{sampler}, {steps}" for sampler in SAMPLERS for steps in STEPS]
    lines = [
        "| training steps | CPU s | " + " | ".join(columns) + " |",
        "|---:|---:|" + "---:|" * len(columns),
    ]
    for fit in found["fits"]:
        cells = [f"{one['distance']:.3f}" for one in fit["samples"]]
        lines.append(f"| {fit['steps']:,} | {fit['seconds']:.0f} | " + " | ".join(cells) + " |")
    last = [f"{one['seconds']:.2f}" for one in found["fits"][-1]["samples"]]
    lines.append("| CPU s of a draw | | " + " | ".join(last) + " |")
    lines.append(
        f"\n{ROWS:,} exact draws are {found['exact draws']:.3f} away: nothing can be nearer."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    measured(__file__, __doc__ or "", measure, render)
