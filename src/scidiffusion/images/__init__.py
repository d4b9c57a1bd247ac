"""Images and fields on grids of one, two or three dimensions.

`ImageDiffusion` learns images (N, C, H, W), lines (N, C, L) or volumes (N, C, D, H, W), with or
without a condition, and draws, completes and scores them; `DiffusionAutoEncoder` tells each in a
few numbers and draws what is so told. Readers take folders of pictures and
MNIST's files, metrics compare samples with data. Names load at first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scidiffusion import _lazy

if TYPE_CHECKING:
    from scidiffusion.images.autoencoder import DiffusionAutoEncoder as DiffusionAutoEncoder
    from scidiffusion.images.captions import TextEncoder as TextEncoder
    from scidiffusion.images.cascade import ImageCascade as ImageCascade
    from scidiffusion.images.cascade import coarsened as coarsened
    from scidiffusion.images.dit import GridTransformer as GridTransformer
    from scidiffusion.images.estimator import ImageDiffusion as ImageDiffusion
    from scidiffusion.images.judge import ImageJudge as ImageJudge
    from scidiffusion.images.metrics import closer_share as closer_share
    from scidiffusion.images.metrics import copied_share as copied_share
    from scidiffusion.images.metrics import diversity as diversity
    from scidiffusion.images.metrics import frechet_distance as frechet_distance
    from scidiffusion.images.metrics import label_precision as label_precision
    from scidiffusion.images.plots import plot_guidance as plot_guidance
    from scidiffusion.images.plots import plot_images as plot_images
    from scidiffusion.images.reading import load_digits as load_digits
    from scidiffusion.images.reading import read_folder as read_folder
    from scidiffusion.images.reading import read_idx as read_idx
    from scidiffusion.images.reading import read_images as read_images
    from scidiffusion.images.unet import UNet as UNet
    from scidiffusion.images.writing import write_images as write_images
else:
    _HERE = "scidiffusion.images."
    __getattr__, __dir__ = _lazy.attach(
        __name__,
        names={
            "DiffusionAutoEncoder": _HERE + "autoencoder",
            "GridTransformer": _HERE + "dit",
            "ImageCascade": _HERE + "cascade",
            "ImageDiffusion": _HERE + "estimator",
            "ImageJudge": _HERE + "judge",
            "TextEncoder": _HERE + "captions",
            "UNet": _HERE + "unet",
            "closer_share": _HERE + "metrics",
            "coarsened": _HERE + "cascade",
            "copied_share": _HERE + "metrics",
            "diversity": _HERE + "metrics",
            "frechet_distance": _HERE + "metrics",
            "label_precision": _HERE + "metrics",
            "load_digits": _HERE + "reading",
            "plot_guidance": _HERE + "plots",
            "plot_images": _HERE + "plots",
            "read_folder": _HERE + "reading",
            "read_idx": _HERE + "reading",
            "read_images": _HERE + "reading",
            "write_images": _HERE + "writing",
        },
    )

__all__ = [
    "DiffusionAutoEncoder",
    "GridTransformer",
    "ImageCascade",
    "ImageDiffusion",
    "ImageJudge",
    "TextEncoder",
    "UNet",
    "closer_share",
    "coarsened",
    "copied_share",
    "diversity",
    "frechet_distance",
    "label_precision",
    "load_digits",
    "plot_guidance",
    "plot_images",
    "read_folder",
    "read_idx",
    "read_images",
    "write_images",
]
