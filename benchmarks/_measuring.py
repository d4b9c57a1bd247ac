"""The `main` of scripts that measure one table: JSON, and Markdown beside it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

RESULTS = Path("benchmarks/results")


def measured(
    script: str, about: str, measure: Callable[[], Any], render: Callable[[Any], str]
) -> None:
    """Measure on one thread, write JSON and the table beside it, print the table.

    Args:
        script: Path of the script; results have its name.
        about: Its docstring.
        measure: Gives what becomes JSON.
        render: Makes Markdown of that.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS / f"{Path(script).stem}.json")
    out: Path = parser.parse_args().out
    torch.set_num_threads(1)
    found = measure()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=2) + "\n")
    out.with_suffix(".md").write_text(render(found) + "\n")
    print(render(found))
