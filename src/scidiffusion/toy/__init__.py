"""Toys: densities of few dimensions, and made geometry whose truth is known.

`DensityDiffusion` for arrays of few dimensions, with data sets and plots; backbones of rigid
frames (`frames`), docking in a known energy (`docking`), point clouds of solids (`shapes`).
"""

from __future__ import annotations

from scidiffusion.toy.datasets import checkerboard, prince_mixture, swiss_roll, two_moons
from scidiffusion.toy.density import DensityDiffusion
from scidiffusion.toy.docking import Pocket, SpringDocking
from scidiffusion.toy.frames import FrameNetwork, calpha_geometry, ideal_backbones
from scidiffusion.toy.plots import plot_density, plot_forward, plot_trajectories
from scidiffusion.toy.shapes import (
    MomentNetwork,
    chamfer_distances,
    coverage,
    minimum_matching_distance,
    principal_pose,
    solid_clouds,
)

__all__ = [
    "DensityDiffusion",
    "FrameNetwork",
    "MomentNetwork",
    "Pocket",
    "SpringDocking",
    "calpha_geometry",
    "chamfer_distances",
    "checkerboard",
    "coverage",
    "ideal_backbones",
    "minimum_matching_distance",
    "plot_density",
    "plot_forward",
    "plot_trajectories",
    "prince_mixture",
    "principal_pose",
    "solid_clouds",
    "swiss_roll",
    "two_moons",
]
