"""Create the environment of a peer: one command, nothing shared with the project's own.

    python benchmarks/peers/install.py sdv
    python benchmarks/peers/install.py forest-diffusion
    python benchmarks/peers/install.py mostlyai -- --extra-index-url https://download.pytorch.org/whl/cpu

What stands after `--` goes to pip. Environments lie in benchmarks/peers/.venv, which git ignores;
`--remove` deletes one. torch has the project's own version, so that all run the same kernels.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
CONSTRAINTS = HERE.parents[1] / "constraints.txt"


@dataclass(frozen=True)
class Environment:
    """What pip installs, and what it removes afterwards.

    Args:
        packages: Requirements.
        removed: Packages to uninstall again: torchvision and torchaudio of PyPI are built for
            another torch than a CPU build, and importing them breaks what imports them; triton
            is a gigabyte that tables do not need.
    """

    packages: tuple[str, ...]
    removed: tuple[str, ...] = ()


ENVIRONMENTS = {
    "sdv": Environment(("sdv==2.0.0", "torch")),
    # It writes into arrays that pandas 3 gives out read-only.
    "forest-diffusion": Environment(("ForestDiffusion==1.0.6", "pandas<3")),
    "mostlyai": Environment(
        ("mostlyai-engine==2.7.3", "torch"), ("torchvision", "torchaudio", "triton")
    ),
}


def folder(name: str) -> Path:
    """Where an environment lies."""
    return HERE / ".venv" / name


def interpreter(name: str) -> Path:
    """The Python of an environment, whether it exists or not."""
    inside = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    return folder(name) / inside


def install(name: str, pip_arguments: list[str]) -> None:
    """Create an environment and install its packages."""
    environment = ENVIRONMENTS[name]
    pinned = re.search(r"^torch==.*$", CONSTRAINTS.read_text(), re.M)
    assert pinned is not None
    constraints = folder(name) / "constraints.txt"
    venv.create(folder(name), with_pip=True, clear=True)
    constraints.write_text(pinned[0] + "\n")
    pip = [str(interpreter(name)), "-m", "pip", "--disable-pip-version-check"]
    options = ["--quiet", "--constraint", str(constraints), *pip_arguments]
    subprocess.run([*pip, "install", *options, *environment.packages], check=True)
    if environment.removed:
        subprocess.run([*pip, "uninstall", "--quiet", "--yes", *environment.removed], check=True)


def main() -> None:
    """Install or remove one environment."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=ENVIRONMENTS)
    parser.add_argument("--remove", action="store_true", help="delete the environment")
    parser.add_argument("pip_arguments", nargs="*", help="after --: arguments for pip")
    arguments = parser.parse_args()
    if arguments.remove:
        shutil.rmtree(folder(arguments.name), ignore_errors=True)
        return
    try:
        install(arguments.name, arguments.pip_arguments)
    except subprocess.CalledProcessError as error:
        shutil.rmtree(folder(arguments.name), ignore_errors=True)
        sys.exit(f"pip failed with status {error.returncode}; nothing was installed")


if __name__ == "__main__":
    main()
