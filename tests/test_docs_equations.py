"""Every name and every test that the pages on the literature point at exists."""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("equations.md", "errata.md", "notation.md")
NAME = re.compile(r"`(scidiffusion(?:\.\w+)+)`")
TEST = re.compile(r"`(tests/[\w/]+\.py(?:::\w+)+)`")


def rows(text: str) -> list[list[str]]:
    """Cells of the rows of every Markdown table, without heads and rulers."""
    lines = [line.strip() for line in text.splitlines()]
    table = [line for line in lines if line.startswith("|")]
    rulers = {i for i, line in enumerate(table) if set(line) <= set("|-: ")}
    heads = {i - 1 for i in rulers}
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for i, line in enumerate(table)
        if i not in rulers | heads
    ]


def resolve(name: str) -> object:
    """Import the object of a dotted name; AttributeError or ImportError if there is none."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError as error:
            if error.name is None or not ".".join(parts[:length]).startswith(error.name):
                raise
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise ImportError(name)


@cache
def names_of_tests(path: str) -> frozenset[str]:
    """Names of the tests of a file, methods as Class::name."""
    file = ROOT / path
    if not file.exists():
        return frozenset()
    names = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {
                f"{node.name}::{m.name}" for m in node.body if isinstance(m, ast.FunctionDef)
            }
    return frozenset(name for name in names if name.split("::")[-1].startswith("test_"))


def problems(text: str) -> list[str]:
    """What is wrong with the names and test ids of a page."""
    found = []
    for name in sorted(set(NAME.findall(text))):
        try:
            resolve(name)
        except (AttributeError, ImportError):
            found.append(f"no such name: {name}")
    for identifier in sorted(set(TEST.findall(text))):
        path, test = identifier.split("::", 1)
        if test not in names_of_tests(path):
            found.append(f"no such test: {identifier}")
    return found


@pytest.mark.parametrize("page", PAGES)
def test_names_and_tests_exist(page: str) -> None:
    assert problems((ROOT / "docs" / page).read_text(encoding="utf-8")) == []


def test_every_equation_has_code_and_a_proof() -> None:
    table = rows((ROOT / "docs" / "equations.md").read_text(encoding="utf-8"))
    assert len(table) > 70
    for row in table:
        assert len(row) == 4, row
        assert row[0], row
        assert NAME.findall(row[2]), f"no code: {row}"
        assert TEST.findall(row[3]), f"no proof: {row}"
        # Nothing but whole ids, so that a mistyped one cannot hide from the check.
        for cell, pattern in ((row[2], NAME), (row[3], TEST)):
            assert not pattern.sub("", cell).replace(",", "").strip(), cell


def test_every_erratum_has_a_test() -> None:
    text = (ROOT / "docs" / "errata.md").read_text(encoding="utf-8")
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert len(sections) >= 10
    for section in sections:
        assert TEST.search(section), section.splitlines()[0]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("| 1 | x | `scidiffusion.core.gaussian.GaussianProcess.posterior` | `{id}` |", None),
        ("| 1 | x | `scidiffusion.core.gaussian.GaussianProcess.prosterior` | `{id}` |", "name"),
        ("| 1 | x | `scidiffusion.core.gausian.GaussianProcess` | `{id}` |", "name"),
        ("| 1 | x | `scidiffusion.core.elbo.elbo` | `{id}s` |", "test"),
        ("| 1 | x | `scidiffusion.core.elbo.elbo` | `tests/test_nothing.py::test_x` |", "test"),
        (
            "| 1 | x | `scidiffusion.core.elbo.elbo` | `tests/test_docs_equations.py::rows` |",
            "test",
        ),
    ],
)
def test_the_check_can_fail(tmp_path: Path, row: str, complaint: str | None) -> None:
    page = tmp_path / "equations.md"
    line = row.format(id="tests/test_docs_equations.py::test_the_check_can_fail")
    page.write_text(f"| where | equation | code | proof |\n|---|---|---|---|\n{line}\n")
    text = page.read_text()
    assert len(rows(text)) == 1
    found = problems(text)
    if complaint is None:
        assert found == []
    else:
        assert len(found) == 1
        assert found[0].startswith(f"no such {complaint}")
