"""Latent diffusion: an encoder makes rows small, an estimator learns what is left of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scidiffusion import _lazy

if TYPE_CHECKING:
    from scidiffusion.latent.autoencoder import AutoEncoder as AutoEncoder
    from scidiffusion.latent.encoders import Encoder as Encoder
    from scidiffusion.latent.encoders import PCAEncoder as PCAEncoder
    from scidiffusion.latent.estimator import LatentDiffusion as LatentDiffusion
else:
    __getattr__, __dir__ = _lazy.attach(
        __name__,
        names={
            "AutoEncoder": "scidiffusion.latent.autoencoder",
            "Encoder": "scidiffusion.latent.encoders",
            "LatentDiffusion": "scidiffusion.latent.estimator",
            "PCAEncoder": "scidiffusion.latent.encoders",
        },
    )

__all__ = ["AutoEncoder", "Encoder", "LatentDiffusion", "PCAEncoder"]
