"""The tutorials run as they stand; each ends by asserting the figures that it claims."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"
SCRIPTS = sorted(TUTORIALS.glob("*.py"))
SLOW = {
    "autoencoder",
    "captions",
    "classifier_digits",
    "docking",
    "frames",
    "gan",
    "images",
    "latent",
    "latent_digits",
    "new_domain",
    "rotations",
    "shapes",
    "superresolution",
    "variances",
}
"""Pages that train for ten seconds or more; `make docs` runs them too."""


def test_there_is_one_tutorial_for_every_notebook_of_the_chapter() -> None:
    names = [script.name for script in SCRIPTS]
    for number in ("18_1_", "18_2_", "18_3_", "18_4_"):
        assert any(name.startswith(number) for name in names), number
    config = (TUTORIALS.parents[1] / "mkdocs.yml").read_text(encoding="utf-8")
    for name in names:
        assert f"tutorials/{name}" in config, f"{name} is missing in the navigation"


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(one, id=one.stem, marks=pytest.mark.slow if one.stem in SLOW else ())
        for one in SCRIPTS
    ],
)
def test_tutorial_runs(script: Path, tmp_path: Path) -> None:
    source = script.read_text(encoding="utf-8")
    assert source.startswith("# %% [markdown]\n# # ")
    assert "\nassert " in source, "a tutorial asserts what it claims"
    # A process of its own, in an empty folder: nothing left behind, nothing found there.
    run = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", str(script)],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert list(tmp_path.iterdir()) == []


def test_a_false_claim_would_be_found(tmp_path: Path) -> None:
    script = tmp_path / "false.py"
    script.write_text("# %% [markdown]\n# # False\n\n# %%\nassert 1 + 1 == 3\n")
    with pytest.raises(AssertionError):
        test_tutorial_runs(script, tmp_path)
