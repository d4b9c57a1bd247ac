"""The Python code of README.md and of the pages runs, and names only what exists.

Blocks of a page run in order in one namespace, in an empty folder, on small made inputs (`INPUTS`)
and with trainings cut to a few steps (`tiny`): the test is of the code, not of the models. A block
after the comment `<!-- not run: reason -->` does not run. All blocks, and the calls that stand in
the text, are read as well: imports resolve, methods exist, arguments fit.
"""

from __future__ import annotations

import ast
import gzip
import importlib
import importlib.util
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import scidiffusion
from scidiffusion.toy import plot_density, two_moons
from scidiffusion.training import TrainConfig

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^>]+) -->\n+)?^```python[^\n]*\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
STEPS = 4


@dataclass(frozen=True)
class Block:
    """A block of code: its text, its first line in the page, why it does not run."""

    code: str
    line: int
    reason: str | None


def blocks(text: str) -> list[Block]:
    """Return the Python blocks of a page."""
    return [
        Block(found["code"], text.count("\n", 0, found.start("code")) + 1, found["reason"])
        for found in BLOCK.finditer(text)
    ]


def spans(text: str) -> Iterator[ast.Expression]:
    """Yield the code in the text of a page that reads as an expression with a call."""
    for span in re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)):
        try:
            tree = ast.parse(span, mode="eval")
        except SyntaxError:
            continue
        if any(isinstance(node, ast.Call) for node in ast.walk(tree)):
            yield tree


# ----------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Instance:
    """What a call of a class gives."""

    of: type


@dataclass(frozen=True)
class Method:
    """A method of an instance."""

    name: str
    of: type


def ours(thing: Any) -> bool:
    """Whether a class or function is of the package."""
    return callable(thing) and str(getattr(thing, "__module__", "")).startswith("scidiffusion")


class Reader(ast.NodeVisitor):
    """Follow names through code, and collect what does not exist.

    Args:
        known: What names mean at the start.
    """

    def __init__(self, known: dict[str, Any] | None = None) -> None:
        self.known = dict(known or {})
        self.complaints: list[str] = []

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if importlib.util.find_spec(alias.name.partition(".")[0]) is not None:
                module = importlib.import_module(alias.name)
                self.known[alias.asname or alias.name.partition(".")[0]] = module

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        name = str(node.module)
        if importlib.util.find_spec(name.partition(".")[0]) is None:
            return  # another library, of which a page tells
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            self.complaints.append(f"{error}")
            return
        for alias in node.names:
            if not hasattr(module, alias.name):
                with suppress(ImportError):
                    importlib.import_module(f"{name}.{alias.name}")
            if hasattr(module, alias.name):
                self.known[alias.asname or alias.name] = getattr(module, alias.name)
            else:
                self.complaints.append(f"{name} has no {alias.name}")

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        value = self.meaning(node.value)
        for target in node.targets:
            for name in ast.walk(target):
                if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store):
                    self.known[name.id] = value if name is target else None

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        called = self.meaning(node.func)
        if isinstance(called, Method):
            function, bound = inspect.getattr_static(called.of, called.name), True
            if isinstance(function, staticmethod | classmethod | property):
                return
        else:
            function, bound = called, False
        if isinstance(called, Instance | None) or not (bound or ours(called)):
            return
        starred = any(isinstance(argument, ast.Starred) for argument in node.args)
        keywords = {word.arg: None for word in node.keywords}
        try:
            signature = inspect.signature(function)
            # A page may write f(...) for "with what it needs".
            if starred or None in keywords or any(map(_dots, node.args)):
                positional: list[None] = []
                keywords.pop(None, None)
                signature.bind_partial(*positional, **keywords)
            else:
                signature.bind(*[None] * (len(node.args) + bound), **keywords)
        except TypeError as error:
            self.complaints.append(f"{ast.unparse(node)}: {error}")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        owner = self.meaning(node.value)
        # What is learned ends in an underscore and is not there before.
        if isinstance(owner, Instance) and not node.attr.endswith("_"):
            if not hasattr(owner.of, node.attr) and node.attr not in _fields(owner.of):
                self.complaints.append(f"{owner.of.__name__} has no {node.attr}")
        elif inspect.ismodule(owner) and not hasattr(owner, node.attr):
            self.complaints.append(f"{owner.__name__} has no {node.attr}")

    def meaning(self, node: ast.AST) -> Any:
        """Return what an expression stands for, or None."""
        match node:
            case ast.Name():
                return self.known.get(node.id)
            case ast.Attribute():
                owner = self.meaning(node.value)
                if isinstance(owner, Instance):
                    member = getattr(owner.of, node.attr, None)
                    return Method(node.attr, owner.of) if callable(member) else None
                if inspect.ismodule(owner) or (inspect.isclass(owner) and ours(owner)):
                    return getattr(owner, node.attr, None)
            case ast.Call():
                called = self.meaning(node.func)
                if inspect.isclass(called) and ours(called):
                    return Instance(called)
                if isinstance(called, Method) and called.name == "fit":
                    return Instance(called.of)
                if inspect.ismethod(called) and inspect.isclass(called.__self__):
                    return Instance(called.__self__)  # Class.load(...)
        return None


def _dots(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is Ellipsis


def _fields(cls: type) -> set[str]:
    return set(getattr(cls, "__dataclass_fields__", ())) | set(inspect.signature(cls).parameters)


def public_classes() -> dict[str, Any]:
    """Return the classes that the text of a page may name without importing them."""
    names: dict[str, Any] = {}
    for part in ("", *(f".{name}" for name in scidiffusion.__all__ if name.islower())):
        try:
            module = importlib.import_module(f"scidiffusion{part}")
        except ImportError:
            continue  # a function of the package, not a module
        things = {name: getattr(module, name) for name in getattr(module, "__all__", ())}
        names |= {name: thing for name, thing in things.items() if inspect.isclass(thing)}
    return names


def complaints(text: str) -> list[str]:
    """Return what the code of a page names that does not exist."""
    reader, inline = Reader(), Reader(public_classes())
    found: list[str] = []
    meanings: dict[str, set[Instance]] = {}
    for block in blocks(text):
        reader.visit(ast.parse(block.code))
        found += [f"line {block.line}: {what}" for what in reader.complaints]
        reader.complaints.clear()
        for name, value in reader.known.items():
            if isinstance(value, Instance):
                meanings.setdefault(name, set()).add(value)
    # What a page calls `model` throughout is known in its text, too.
    inline.known |= {name: next(iter(of)) for name, of in meanings.items() if len(of) == 1}
    for tree in spans(text):
        inline.visit(tree)
    return found + inline.complaints


@pytest.mark.parametrize("page", NAMES)
def test_the_code_of_a_page_names_what_exists(page: str) -> None:
    assert complaints((ROOT / page).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("from scidiffusion import Nothing", "has no Nothing"),
        ("from scidiffusion.nowhere import x", "No module named"),
        ("from scidiffusion import TabularDiffusion\nTabularDiffusion(epochs=3)", "'epochs'"),
        ("from scidiffusion import TabularDiffusion as T\nT().fit()", "'X'"),
        ("from scidiffusion import TabularDiffusion as T\nT().fit(x).sample(rows=1)", "'rows'"),
        ("from scidiffusion import TabularDiffusion as T\nm = T()\nm.draw(3)", "has no draw"),
        ("import scidiffusion\nscidiffusion.tabular.nothing()", "has no nothing"),
    ],
)
def test_what_does_not_exist_is_found(text: str, complaint: str) -> None:
    (found,) = complaints(f"# Page\n\n```python\n{text}\n```\n")
    assert complaint in found


def test_what_does_not_exist_is_found_in_the_text() -> None:
    (found,) = complaints("| as there | `TabularDiffusion(epochs=3).fit(df)` |")
    assert "epochs" in found
    assert complaints("`TabularDiffusion(budget=3).fit(df)`, `other(epochs=3)`") == []


# ----------------------------------------------------------------------------------- running


def people(rows: int = 240) -> pd.DataFrame:
    """Return a table with the columns that the pages name."""
    rng = np.random.default_rng(0)
    start = rng.uniform(0, 10, rows).round(1)
    above, cellar = rng.integers(40, 200, rows), rng.integers(0, 60, rows)
    city = rng.choice(["Bonn", "Bath", "Brno"], rows)
    return pd.DataFrame(
        {
            "sex": rng.choice(["Female", "Male"], rows),
            "age": rng.integers(18, 80, rows),
            "income": rng.choice([">50K", "<=50K"], rows),
            "job": rng.choice(["nurse", "smith", None], rows),  # type: ignore[arg-type]
            "city": city,
            "country": pd.Series(city).map({"Bonn": "DE", "Bath": "UK", "Brno": "CZ"}),
            "start": start,
            "end": (start + rng.exponential(3, rows)).round(1),
            "above": above,
            "cellar": cellar,
            "living": above + cellar,
            "ward": [f"w{i // 12}" for i in range(rows)],
            "bed": [f"b{i % 12}" for i in range(rows)],
        }
    )


PEOPLE = ["sex", "age", "income", "job", "city"]


def load(series: int = 3, hours: int = 480) -> pd.DataFrame:
    """Return an hourly frame of positive series with a daily season and a gap."""
    rng = np.random.default_rng(0)
    index = pd.date_range("2024-01-01", periods=hours, freq="h")
    day = np.sin(np.arange(hours) / 24 * 2 * np.pi)[:, None]
    values = 12 + 3 * day + rng.normal(0, 1, (hours, series))
    values[50:60, 0] = np.nan
    return pd.DataFrame(values, index, [f"load{i}" for i in range(series)])


@cache
def table_model() -> scidiffusion.TabularDiffusion:
    """Return a model of a table, fitted once."""
    return scidiffusion.TabularDiffusion(random_state=0).fit(people(600)[PEOPLE])


@cache
def forecaster() -> scidiffusion.DiffusionForecaster:
    """Return a model of series, fitted once."""
    options = {"width": 16, "heads": 1}
    return scidiffusion.DiffusionForecaster(24, options=options, random_state=0).fit(load(2))


@cache
def density(conditional: bool = False) -> scidiffusion.DensityDiffusion:
    """Return a density of two columns, fitted once."""
    X, moon = two_moons(300)
    return scidiffusion.DensityDiffusion(random_state=0).fit(X, moon if conditional else None)


def _table(folder: Path) -> dict[str, Any]:
    table = people()[PEOPLE]
    table.to_csv(folder / "train.csv", index=False)
    return {"train": table[:200], "test": table[200:], "table": table, "real": table}


def _readme(folder: Path) -> dict[str, Any]:
    mask = np.arange(64).reshape(8, 8) < 32
    return _table(folder) | {"frame": load(2, 320), "weights": np.ones((24, 2)), "mask": mask}


def _tables(folder: Path) -> dict[str, Any]:
    gaps = people()
    gaps.loc[:9, "age"] = None
    return {"train": people(1200)[PEOPLE], "table": gaps}  # privacy asks for a thousand rows


def _report(folder: Path) -> dict[str, Any]:
    return _table(folder) | {"synthetic": people(200)[PEOPLE].sample(200, random_state=1)}


def _gluonts(folder: Path, series: int = 2) -> dict[str, Any]:
    from gluonts.dataset.common import ListDataset

    frame = load(series, 320)
    rng = np.random.default_rng(0)
    entry = {
        "start": frame.index[0],
        "target": frame["load1"].to_numpy(),
        "feat_dynamic_real": rng.normal(size=(2, len(frame) + 24)),
        "item_id": "one",
    }
    return {"frame": frame, "dataset": ListDataset([entry], freq="h")}


def _forecasts(folder: Path) -> dict[str, Any]:
    return _gluonts(folder, 3) | {"plan": np.full(24, 11.0), "high": np.full((24, 3), 14.0)}


def _fitted(folder: Path) -> dict[str, Any]:
    gaps = people()[PEOPLE]
    gaps.loc[:9, "age"] = None
    return {
        "table": people(1200)[PEOPLE],
        "gaps": gaps,
        "frame": load(2),
        "X": two_moons(300)[0],
        "table_model": table_model(),
        "forecaster": forecaster(),
        "density": density(),
    }


def _conditional(folder: Path) -> dict[str, Any]:
    return _fitted(folder) | {"density": density(conditional=True)}


def _molecules(folder: Path) -> dict[str, Any]:
    from rdkit import Chem

    from scidiffusion.molecules import write_sdf

    mols = []
    for index, smiles in enumerate(SMILES):
        mol = scidiffusion.conformers(smiles, n=1, seed=0)
        mol.SetProp("energy", str(-2 + 2 * index / len(SMILES)))
        mols.append(mol)
    write_sdf(folder / "ensembles.sdf", mols)
    core = Chem.Mol(mols[SMILES.index("CO")])
    return {"mols": mols, "core": core}


SMILES = [
    "CO",
    "CCO",
    "CCCO",
    "CCCCO",
    "CC(C)CO",
    "CCC(C)O",
    "CN",
    "CCN",
    "CCCN",
    "CCCC",
    "CCC",
    "CC",
]


def _images(folder: Path) -> dict[str, Any]:
    """Pictures of two kinds in subfolders, files as MNIST's, lines and volumes."""
    rng = np.random.default_rng(0)
    for kind in ("healthy", "ill"):
        (folder / "cells" / kind).mkdir(parents=True)
        for index in range(6):
            picture = rng.integers(0, 255, (8, 8), dtype=np.uint8)
            plt.imsave(folder / "cells" / kind / f"{index}.png", picture, cmap="gray")
    for name, array in (
        ("train-images-idx3-ubyte.gz", rng.integers(0, 255, (12, 8, 8), dtype=np.uint8)),
        ("train-labels-idx1-ubyte.gz", np.arange(12, dtype=np.uint8) % 3),
    ):
        head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        (folder / name).write_bytes(gzip.compress(head + array.tobytes()))
    return {
        "spectra": rng.normal(size=(12, 9)),
        "tracks": rng.normal(size=(12, 2, 9)),
        "boxes": rng.normal(size=(12, 1, 4, 4, 4)),
        "densities": rng.normal(size=(12, 4, 4, 4)),
    }


INPUTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "README.md": _readme,
    "docs/index.md": _readme,
    "docs/how-to/tables.md": _tables,
    "docs/how-to/report.md": _report,
    "docs/how-to/coming-from.md": _table,
    "docs/how-to/coming-from-gluonts.md": _gluonts,
    "docs/how-to/forecasts.md": _forecasts,
    "docs/how-to/conformers.md": _molecules,
    "docs/how-to/new-molecules.md": _molecules,
    "docs/how-to/images.md": _images,
    "docs/how-to/conditions.md": _conditional,
    "docs/how-to/guidance.md": _conditional,
    **dict.fromkeys(
        [
            f"docs/how-to/{name}.md"
            for name in ["imputation", "saving", "gpu", "machines", "speed", "privacy"]
        ],
        _fitted,
    ),
}

SLOW: set[str] = {"docs/how-to/conformers.md", "docs/how-to/new-molecules.md"}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut trainings, likelihoods and ensembles to the smallest."""
    check = TrainConfig.__post_init__

    def cut(self: TrainConfig) -> None:
        check(self)
        for name, value in {"max_steps": STEPS, "validate_every": STEPS, "batch_size": 64}.items():
            object.__setattr__(self, name, min(value, getattr(self, name)))
        object.__setattr__(self, "progress", False)

    monkeypatch.setattr(TrainConfig, "__post_init__", cut)
    defaults = scidiffusion.DensityDiffusion.score_samples.__kwdefaults__
    monkeypatch.setitem(defaults, "steps", 3)
    monkeypatch.setitem(plot_density.__kwdefaults__, "resolution", 6)
    for name, value in {"sample_steps": 2, "width": 8}.items():
        monkeypatch.setitem(scidiffusion.ImageDiffusion.__init__.__kwdefaults__, name, value)
    made = scidiffusion.conformers

    def few(molecule: Any, n: int = 10, **options: Any) -> Any:
        return made(molecule, min(n, 2), **options)

    drawn = scidiffusion.MoleculeDiffusion.sample

    def quick(self: Any, n: int = 10, **options: Any) -> Any:
        return drawn(self, min(n, 2), **{**options, "steps": 3, "valid_only": False})

    monkeypatch.setattr(scidiffusion.MoleculeDiffusion, "sample", quick)
    for module in (scidiffusion, scidiffusion.molecules):
        monkeypatch.setattr(module, "conformers", few)


def run(page: str, text: str, folder: Path) -> int:
    """Run the blocks of a page; return how many."""
    namespace: dict[str, Any] = {"__name__": "page", **INPUTS.get(page, lambda _: {})(folder)}
    count = 0
    for block in blocks(text):
        if block.reason is None:
            # Lines of a traceback are those of the page.
            code = "\n" * (block.line - 1) + block.code
            exec(compile(code, page, "exec"), namespace)
            count += 1
    return count


@pytest.mark.usefixtures("tiny")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
        for name, path in zip(NAMES, PAGES, strict=True)
        if any(block.reason is None for block in blocks(path.read_text(encoding="utf-8")))
    ],
)
def test_the_code_of_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(page, (ROOT / page).read_text(encoding="utf-8"), tmp_path) > 0
    plt.close("all")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_the_links_of_pages_outside_the_build_lead_somewhere(page: str) -> None:
    # Those of docs/ are checked by `mkdocs build --strict`.
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#\s]+)", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
    local = [target for target in targets if "://" not in target]
    assert len(local) >= 1
    assert [target for target in local if not (ROOT / target).exists()] == []


def test_every_page_that_is_named_here_exists() -> None:
    assert {*INPUTS, *SLOW} <= set(NAMES)


def test_blocks_are_found_and_marked(tmp_path: Path) -> None:
    text = textwrap.dedent(
        """\
        # Page

        ```python
        x = 1
        ```

        ```console
        make
        ```

        <!-- not run: it takes a day -->
        ```python
        raise RuntimeError
        ```

        ```python
        y = 1 / (x - 1)
        ```
        """
    )
    assert [block.reason for block in blocks(text)] == [None, "it takes a day", None]
    with pytest.raises(ZeroDivisionError) as caught:
        run("page", text, tmp_path)
    assert caught.traceback[-1].lineno == text.splitlines().index("y = 1 / (x - 1)")
