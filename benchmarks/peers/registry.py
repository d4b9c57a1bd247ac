"""The methods of the table benchmark: which file runs each, and in which environment."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from peers.install import interpreter


@dataclass(frozen=True)
class Method:
    """How to run a method.

    Args:
        adapter: Name of its file in this folder.
        environment: Name of its environment in `install.py`; None is the project's own.
        label: Its name in tables.
    """

    adapter: str
    environment: str | None
    label: str

    def python(self) -> Path:
        """The interpreter that runs it."""
        return Path(sys.executable) if self.environment is None else interpreter(self.environment)


METHODS = {
    "scidiffusion": Method("own", None, "scidiffusion"),
    "ctgan": Method("sdv", "sdv", "CTGAN (SDV)"),
    "tvae": Method("sdv", "sdv", "TVAE (SDV)"),
    "gaussian-copula": Method("sdv", "sdv", "Gaussian copula (SDV)"),
    "forest-diffusion": Method("forest_diffusion", "forest-diffusion", "ForestDiffusion"),
    "mostlyai-engine": Method("mostlyai_engine", "mostlyai", "mostlyai-engine"),
    "bootstrap": Method("floors", None, "real rows drawn again"),
    "independent": Method("floors", None, "independent columns"),
}
