"""New molecules in 3D: a diffusion of atoms' places and types (EDM, Hoogeboom et al. 2022).

`bundled()` is a `MoleculeDiffusion` that was fitted on QM7; its weights are in the package.
Names load at first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scidiffusion import _lazy

if TYPE_CHECKING:
    from scidiffusion.molecules.denovo.building import to_molecules as to_molecules
    from scidiffusion.molecules.denovo.estimator import MoleculeDiffusion as MoleculeDiffusion
    from scidiffusion.molecules.denovo.front import bundled as bundled
else:
    _HERE = "scidiffusion.molecules.denovo."
    __getattr__, __dir__ = _lazy.attach(
        __name__,
        names={
            "MoleculeDiffusion": _HERE + "estimator",
            "bundled": _HERE + "front",
            "to_molecules": _HERE + "building",
        },
    )

__all__ = ["MoleculeDiffusion", "bundled", "to_molecules"]
