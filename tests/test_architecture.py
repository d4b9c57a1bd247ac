"""The direction of imports, read from the sources.

core <- {samplers, guidance, nn} <- {training, metrics} <- estimator <- domains <- {cli, demo}.
Every top-level module or package of scidiffusion is a unit; ``ALLOWED`` says which other units it
may import. A new domain is one entry in ``DOMAINS``.
"""

from __future__ import annotations

import ast
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import scidiffusion

PACKAGE = "scidiffusion"
SOURCE = Path(scidiffusion.__file__).parent

LEAVES = {"errors", "_lazy", "_version", "_files"}
DOMAINS = {"toy", "tabular", "timeseries", "molecules", "images"}

_PARTS = {"samplers", "guidance", "nn"}
_BELOW_ESTIMATOR = LEAVES | {"core", "training", "metrics"} | _PARTS
_BELOW_DOMAINS = _BELOW_ESTIMATOR | {
    "conditions",
    "durations",
    "estimator",
    "persistence",
    "progress",
}

ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "_version": set(),
    "_lazy": {"errors"},
    "_files": {"errors"},
    "durations": {"errors"},
    "conditions": LEAVES | {"core", "nn"},
    "progress": set(),
    "core": LEAVES,
    "samplers": LEAVES | {"core"},
    "nn": LEAVES | {"core"},
    # Replacement with resampling (RePaint) is a way of walking: it wraps a sampler.
    "guidance": LEAVES | {"core", "samplers"},
    "testing": LEAVES | {"core", "samplers"},
    "training": LEAVES | {"core"} | _PARTS,
    "metrics": LEAVES | {"core"} | _PARTS,
    "persistence": _BELOW_ESTIMATOR,
    "estimator": _BELOW_ESTIMATOR | {"durations", "persistence"},
    **dict.fromkeys(DOMAINS, _BELOW_DOMAINS),
    # An estimator around estimators of any domain, which it knows by their interface alone.
    "latent": _BELOW_DOMAINS,
    # An estimator of rows of any shape, and of no domain.
    "adversarial": _BELOW_DOMAINS,
    "cli": _BELOW_DOMAINS | DOMAINS,
    # The demo is a command of its own, with the manners of the others.
    "demo": _BELOW_DOMAINS | DOMAINS | {"cli"},
    "__main__": {"cli"},
    # The lazy names: imported under TYPE_CHECKING alone, which tests/test_house.py proves.
    "__init__": LEAVES
    | _PARTS
    | DOMAINS
    | {"adversarial", "core", "latent", "training", "testing"},
}

# Third-party packages; units that are not listed may import any base dependency.
THIRD_PARTY: dict[str, set[str]] = {
    "errors": set(),
    "_version": set(),
    "_lazy": set(),
    "_files": set(),
    "__init__": set(),
    "core": {"torch", "numpy"},
    "samplers": {"torch", "numpy"},
    "guidance": {"torch", "numpy"},
    "nn": {"torch", "numpy"},
}

# Packages of the extras: imported through `_lazy.require`, or inside the function that needs them.
EXTRAS = {
    "ase",
    "diffusers",
    "e3nn",
    "gluonts",
    "opacus",
    "pyarrow",
    "ray",
    "rdkit",
    "sdmetrics",
    "statsmodels",
    "tblite",
}

# Modules and packages that are about an extra's own objects; nothing imports them but at first
# use, after `_lazy.require`.
ADAPTERS = {
    "timeseries/gluon.py": {"gluonts"},
    "molecules/chem/": {"rdkit"},
    "molecules/conformer/": {"rdkit"},
    "molecules/denovo/": {"rdkit"},
    "molecules/torsional/": {"rdkit"},
}


def _imports(tree: ast.Module, module: str, is_package: bool) -> Iterator[tuple[str, int]]:
    """Yield (absolute dotted name, line) for everything a module imports, at any depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                keep = len(parents) - node.level + (1 if is_package else 0)
                base = ".".join([*parents[:keep], *([base] if base else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}", node.lineno


def _unit_of_name(name: str, units: set[str]) -> str:
    """The unit a dotted name under the package belongs to; ``__init__`` for its own names."""
    first = name.split(".")[1] if "." in name else ""
    if first == "__version__":
        return "_version"
    return first if first in units else "__init__"


def _adapted(path: str) -> set[str]:
    """The packages of extras that a module may import at its top."""
    return {name for place, names in ADAPTERS.items() if path.startswith(place) for name in names}


def violations(source: Path) -> list[str]:
    """Read every module under ``source`` and describe each import in a wrong direction."""
    units = {path.relative_to(source).with_suffix("").parts[0] for path in source.rglob("*.py")}
    found = [f"{unit}: unknown to tests/test_architecture.py" for unit in units - set(ALLOWED)]
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        unit = parts[0]
        if unit not in ALLOWED:
            continue
        is_package = parts[-1] == "__init__"
        module = ".".join([PACKAGE, *(parts[:-1] if is_package else parts)])
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        top_level = {
            node.lineno for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)
        }
        for name, line in _imports(tree, module, is_package):
            where = f"{path.relative_to(source)}:{line}"
            root = name.partition(".")[0]
            if root == PACKAGE:
                other = _unit_of_name(name, units | set(ALLOWED))
                if other != unit and other not in ALLOWED[unit]:
                    found.append(f"{where}: {unit} must not import {other} ({name})")
            elif root not in sys.stdlib_module_names:
                if unit in THIRD_PARTY and root not in THIRD_PARTY[unit]:
                    found.append(f"{where}: {unit} must not import {root}")
                elif root in _adapted("/".join(path.relative_to(source).parts)):
                    continue
                elif root in EXTRAS and line in top_level:
                    found.append(f"{where}: {root} belongs to an extra; import it when needed")
    return found


def test_the_sources_import_in_one_direction():
    assert violations(SOURCE) == []


def test_the_rule_itself_has_no_cycle():
    order: list[str] = []
    rest = {unit: set(others) for unit, others in ALLOWED.items()}
    while rest:
        free = [unit for unit, others in rest.items() if others <= set(order)]
        assert free, f"these allow each other: {sorted(rest)}"
        order += free
        for unit in free:
            del rest[unit]
    assert not any(ALLOWED[one] & (DOMAINS - {one}) for one in DOMAINS)


@pytest.mark.parametrize(
    ("path", "text", "complaint"),
    [
        ("core/a.py", "from scidiffusion.samplers import ddim", "core must not import samplers"),
        ("core/a.py", "import scidiffusion.nn.mlp", "core must not import nn"),
        ("core/a.py", "from .. import nn", "core must not import nn"),
        ("core/a.py", "from ..toy.data import moons", "core must not import toy"),
        ("core/a.py", "import pandas as pd", "core must not import pandas"),
        ("core/deep/a.py", "from ...cli import main", "core must not import cli"),
        (
            "samplers/a.py",
            "from scidiffusion import guidance",
            "samplers must not import guidance",
        ),
        (
            "training/a.py",
            "from scidiffusion.metrics import w1",
            "training must not import metrics",
        ),
        ("toy/a.py", "from scidiffusion.tabular import codec", "toy must not import tabular"),
        ("tabular/__init__.py", "from ..toy import data", "tabular must not import toy"),
        ("tabular/a.py", "def f():\n    from scidiffusion.cli import main", "not import cli"),
        ("tabular/a.py", "from scidiffusion import TabularDiffusion", "not import __init__"),
        ("errors.py", "import torch", "errors must not import torch"),
        ("toy/a.py", "from statsmodels import api", "statsmodels belongs to an extra"),
        ("novelty/a.py", "", "novelty: unknown"),
    ],
)
def test_a_wrong_import_is_found(tmp_path, path, text, complaint):
    for package in ("core", "core/deep", "samplers", "training", "toy", "tabular"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / path).parent.mkdir(exist_ok=True)
    assert violations(tmp_path) == []
    (tmp_path / path).write_text(text, encoding="utf-8")
    found = violations(tmp_path)
    assert len(found) == 1
    assert complaint in found[0]


def test_a_right_import_passes(tmp_path):
    (tmp_path / "tabular").mkdir()
    (tmp_path / "tabular" / "__init__.py").write_text("from .codec import x\n", encoding="utf-8")
    text = """
        import json
        import pandas as pd
        from scidiffusion import __version__
        from scidiffusion._lazy import require
        from scidiffusion.core.schedules import NoiseSchedule
        from ..estimator import GenerativeEstimator
        from . import schema

        def scores():
            import sdmetrics
        """
    (tmp_path / "tabular" / "codec.py").write_text(textwrap.dedent(text), encoding="utf-8")
    assert violations(tmp_path) == []
