"""Denoising diffusion GANs: few large steps, each drawn by a generator against a discriminator.

`DenoisingGAN` is the estimator. Its parts serve alone: `PosteriorSteps` walks with any drawer of
clean data, `train_adversarially` trains any pair of networks. Names load at first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scidiffusion import _lazy

if TYPE_CHECKING:
    from scidiffusion.adversarial.estimator import DenoisingGAN as DenoisingGAN
    from scidiffusion.adversarial.fitting import train_adversarially as train_adversarially
    from scidiffusion.adversarial.losses import discriminator_loss as discriminator_loss
    from scidiffusion.adversarial.losses import generator_loss as generator_loss
    from scidiffusion.adversarial.losses import gradient_penalty as gradient_penalty
    from scidiffusion.adversarial.networks import LatentGenerator as LatentGenerator
    from scidiffusion.adversarial.networks import PairDiscriminator as PairDiscriminator
    from scidiffusion.adversarial.steps import CleanDrawer as CleanDrawer
    from scidiffusion.adversarial.steps import PosteriorSteps as PosteriorSteps
else:
    _HERE = "scidiffusion.adversarial."
    __getattr__, __dir__ = _lazy.attach(
        __name__,
        names={
            "CleanDrawer": _HERE + "steps",
            "DenoisingGAN": _HERE + "estimator",
            "LatentGenerator": _HERE + "networks",
            "PairDiscriminator": _HERE + "networks",
            "PosteriorSteps": _HERE + "steps",
            "discriminator_loss": _HERE + "losses",
            "generator_loss": _HERE + "losses",
            "gradient_penalty": _HERE + "losses",
            "train_adversarially": _HERE + "fitting",
        },
    )

__all__ = [
    "CleanDrawer",
    "DenoisingGAN",
    "LatentGenerator",
    "PairDiscriminator",
    "PosteriorSteps",
    "discriminator_loss",
    "generator_loss",
    "gradient_penalty",
    "train_adversarially",
]
