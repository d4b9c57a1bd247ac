"""Diffusion models for scientific data, on a core whose every equation is tested.

Five small roles carry everything: a *schedule* says how much noise there is at time t, a
*process* how data of one space is noised and denoised, a *denoiser* what the clean data probably
is, a *sampler* how to walk from noise to data, and *guidance* how to steer. A domain (`tabular`,
`timeseries`, `molecules`, `images`, `toy`) adds an encoding, a network and an estimator with `fit`
and `sample`.

Importing this package loads nothing heavy; names and submodules are imported at first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scidiffusion import _lazy
from scidiffusion._version import __version__

if TYPE_CHECKING:
    from scidiffusion import adversarial as adversarial
    from scidiffusion import core as core
    from scidiffusion import guidance as guidance
    from scidiffusion import images as images
    from scidiffusion import latent as latent
    from scidiffusion import molecules as molecules
    from scidiffusion import nn as nn
    from scidiffusion import samplers as samplers
    from scidiffusion import tabular as tabular
    from scidiffusion import testing as testing
    from scidiffusion import timeseries as timeseries
    from scidiffusion import toy as toy
    from scidiffusion import training as training
    from scidiffusion.adversarial import DenoisingGAN as DenoisingGAN
    from scidiffusion.images import DiffusionAutoEncoder as DiffusionAutoEncoder
    from scidiffusion.images import ImageDiffusion as ImageDiffusion
    from scidiffusion.latent import LatentDiffusion as LatentDiffusion
    from scidiffusion.molecules import ConformerDiffusion as ConformerDiffusion
    from scidiffusion.molecules import MoleculeDiffusion as MoleculeDiffusion
    from scidiffusion.molecules import conformers as conformers
    from scidiffusion.tabular import TabularDiffusion as TabularDiffusion
    from scidiffusion.timeseries import DiffusionForecaster as DiffusionForecaster
    from scidiffusion.toy import DensityDiffusion as DensityDiffusion
else:
    __getattr__, __dir__ = _lazy.attach(
        __name__,
        names={
            "ConformerDiffusion": "scidiffusion.molecules",
            "DenoisingGAN": "scidiffusion.adversarial",
            "DensityDiffusion": "scidiffusion.toy",
            "DiffusionAutoEncoder": "scidiffusion.images",
            "DiffusionForecaster": "scidiffusion.timeseries",
            "ImageDiffusion": "scidiffusion.images",
            "LatentDiffusion": "scidiffusion.latent",
            "MoleculeDiffusion": "scidiffusion.molecules",
            "TabularDiffusion": "scidiffusion.tabular",
            "conformers": "scidiffusion.molecules",
        },
        submodules=(
            "adversarial",
            "core",
            "errors",
            "guidance",
            "images",
            "latent",
            "molecules",
            "nn",
            "samplers",
            "tabular",
            "testing",
            "timeseries",
            "toy",
            "training",
        ),
    )

__all__ = [
    "ConformerDiffusion",
    "DenoisingGAN",
    "DensityDiffusion",
    "DiffusionAutoEncoder",
    "DiffusionForecaster",
    "ImageDiffusion",
    "LatentDiffusion",
    "MoleculeDiffusion",
    "TabularDiffusion",
    "__version__",
    "adversarial",
    "conformers",
    "core",
    "errors",
    "guidance",
    "images",
    "latent",
    "molecules",
    "nn",
    "samplers",
    "tabular",
    "testing",
    "timeseries",
    "toy",
    "training",
]
