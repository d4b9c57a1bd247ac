"""The cache of executed tutorials is named after the code that they run."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

FILE = Path(__file__).parents[1] / "tools" / "docs_cache.py"


@pytest.fixture
def hook():
    spec = importlib.util.spec_from_file_location("docs_cache", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_digest_follows_the_sources(hook, tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    first = hook.digest(tmp_path, ())
    assert hook.digest(tmp_path, ()) == first
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_bytes(b"made")
    assert hook.digest(tmp_path, ()) == first, "what Python makes of them does not count"
    (tmp_path / "a.py").write_text("x = 2\n")
    second = hook.digest(tmp_path, ())
    assert second != first
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert hook.digest(tmp_path, ()) not in {first, second}
    assert hook.digest(tmp_path, ("torch",)) != hook.digest(tmp_path, ("no-such-package",))


def test_older_runs_are_removed_and_the_plugin_is_told(hook, tmp_path, monkeypatch):
    monkeypatch.setattr(hook, "CACHE", tmp_path / "tutorials")
    now = tmp_path / "tutorials" / hook.digest()
    for folder in (now, tmp_path / "tutorials" / "older"):
        folder.mkdir(parents=True)
        (folder / "page.json").write_text("{}")
    plugin = SimpleNamespace(config={"cache": False, "cache_dir": "elsewhere"})
    config = SimpleNamespace(plugins={"mkdocs-jupyter": plugin})
    assert hook.on_config(config) is config
    assert plugin.config == {"cache": True, "cache_dir": str(now)}
    assert [entry.name for entry in (tmp_path / "tutorials").iterdir()] == [now.name]
    assert (now / "page.json").exists()
