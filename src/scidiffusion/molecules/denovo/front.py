"""The generator of molecules with the weights that the package brings."""

from __future__ import annotations

import functools
from pathlib import Path

from scidiffusion.molecules.denovo.estimator import MoleculeDiffusion

WEIGHTS = Path(__file__).parent / "weights"


@functools.lru_cache(maxsize=4)
def bundled(device: str = "auto") -> MoleculeDiffusion:
    """Return the estimator with the weights that the package brings; loaded once a process.

    Raises:
        ModelFileError: if the files are damaged; reinstall the package then.
    """
    return MoleculeDiffusion.load(WEIGHTS, device=device)
