"""Toy densities: `DensityDiffusion` for arrays of few dimensions, data sets and plots."""

from __future__ import annotations

from scidiffusion.toy.datasets import checkerboard, prince_mixture, swiss_roll, two_moons
from scidiffusion.toy.density import DensityDiffusion
from scidiffusion.toy.plots import plot_density, plot_forward, plot_trajectories

__all__ = [
    "DensityDiffusion",
    "checkerboard",
    "plot_density",
    "plot_forward",
    "plot_trajectories",
    "prince_mixture",
    "swiss_roll",
    "two_moons",
]
