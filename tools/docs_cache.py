"""Hook of mkdocs: executed tutorials are kept until the code they run changes.

mkdocs-jupyter's own cache knows a tutorial's text alone. Here its folder is named after the
sources of the library as well, so that a page is run again when either changes; folders of older
sources are removed.
"""

from __future__ import annotations

import hashlib
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache" / "tutorials"
LIBRARIES = ("torch", "numpy", "matplotlib", "rdkit", "gluonts", "statsmodels")


def digest(source: Path = ROOT / "src", libraries: tuple[str, ...] = LIBRARIES) -> str:
    """Return what names the code that tutorials run: its files and the versions under them."""
    made = hashlib.sha256()
    for file in sorted(source.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts and ".egg-info" not in str(file):
            made.update(file.relative_to(source).as_posix().encode())
            made.update(file.read_bytes())
    for name in libraries:
        try:
            made.update(f"{name} {metadata.version(name)}".encode())
        except metadata.PackageNotFoundError:
            made.update(f"{name} none".encode())
    return made.hexdigest()[:16]


def on_config(config: Any) -> Any:
    """Put the cache of mkdocs-jupyter into the folder of the present code."""
    folder = CACHE / digest()
    if CACHE.is_dir():
        for old in CACHE.iterdir():
            if old != folder:
                shutil.rmtree(old)
    plugin = config.plugins["mkdocs-jupyter"]
    plugin.config["cache"], plugin.config["cache_dir"] = True, str(folder)
    return config
