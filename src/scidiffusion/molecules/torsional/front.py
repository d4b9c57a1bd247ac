"""The torsional model that comes with the package."""

from __future__ import annotations

import functools
from pathlib import Path

from scidiffusion.molecules.torsional.estimator import TorsionDiffusion

WEIGHTS = Path(__file__).parent / "weights"


@functools.lru_cache(maxsize=4)
def bundled(device: str = "auto") -> TorsionDiffusion:
    """Return the estimator with the weights that the package brings; loaded once a process.

    Raises:
        ModelFileError: if the files are damaged; reinstall the package then.
    """
    return TorsionDiffusion.load(WEIGHTS, device=device)
