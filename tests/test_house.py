"""The package as a whole: what importing it loads, its names, its errors, its command."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import scidiffusion
from scidiffusion import _lazy, errors

HEAVY = ("torch", "lightning", "pandas", "sklearn", "matplotlib", "gluonts", "rdkit")


def fresh(code: str) -> str:
    """Run ``code`` in a new interpreter and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "statement",
    [
        "import scidiffusion",
        "import scidiffusion; dir(scidiffusion)",
        "import scidiffusion.errors",
        "from scidiffusion._lazy import require",
    ],
)
def test_importing_the_package_loads_nothing_heavy(statement):
    printed = fresh(f"{statement}\nimport sys\nprint([m for m in {HEAVY} if m in sys.modules])")
    assert printed == "[]"


def test_the_core_loads_neither_lightning_nor_pandas():
    printed = fresh(
        "import scidiffusion.core, scidiffusion.samplers, scidiffusion.guidance, sys\n"
        "print([m for m in ('lightning', 'pandas', 'sklearn') if m in sys.modules])"
    )
    assert printed == "[]"


@pytest.mark.parametrize("name", scidiffusion.__all__)
def test_every_public_name_resolves_and_is_listed(name):
    assert getattr(scidiffusion, name) is not None
    assert name in dir(scidiffusion)


def test_lazy_names_are_the_ones_of_their_modules():
    from scidiffusion.tabular import TabularDiffusion
    from scidiffusion.toy import DensityDiffusion

    assert scidiffusion.TabularDiffusion is TabularDiffusion
    assert scidiffusion.DensityDiffusion is DensityDiffusion


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        scidiffusion.nonsense  # noqa: B018
    with pytest.raises(ImportError):
        from scidiffusion import nonsense  # noqa: F401


def test_every_module_imports():
    failed = []
    for info in pkgutil.walk_packages(scidiffusion.__path__, "scidiffusion."):
        if info.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(info.name)
        except errors.MissingExtraError:
            pass  # that is how a module of an extra declines
        except Exception as error:
            failed.append(f"{info.name}: {error!r}")
    assert failed == []


def test_version_is_the_one_of_the_installed_package():
    assert scidiffusion.__version__ == importlib.metadata.version("scidiffusion")


def test_the_package_is_typed():
    assert (Path(scidiffusion.__file__).parent / "py.typed").is_file()


def test_a_missing_extra_is_one_line_with_the_command():
    with pytest.raises(errors.MissingExtraError) as caught:
        _lazy.require("scidiffusion_no_such_package.inner", "molecules")
    message = str(caught.value)
    assert message.count("\n") == 0
    assert 'pip install "scidiffusion[molecules]"' in message
    assert "'scidiffusion_no_such_package'" in message
    assert isinstance(caught.value, ImportError)
    assert caught.value.name == "scidiffusion_no_such_package"


def test_a_dependency_missing_inside_an_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import its_missing_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(errors.MissingExtraError, match="'its_missing_dependency'"):
        _lazy.require("half_installed", "privacy")


def test_a_mistyped_submodule_is_not_blamed_on_the_extra():
    with pytest.raises(ModuleNotFoundError) as caught:
        _lazy.require("json.no_such_module", "report")
    assert not isinstance(caught.value, errors.MissingExtraError)


@pytest.mark.parametrize("extra", ["timeseries", "molecules", "privacy", "distributed", "report"])
def test_the_extras_the_messages_name_exist(extra):
    provided = importlib.metadata.metadata("scidiffusion").get_all("Provides-Extra") or []
    assert extra in provided


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.InputError, ValueError),
        (errors.DataError, ValueError),
        (errors.SchemaError, ValueError),
        (errors.ConditionError, ValueError),
        (errors.ConfigError, ValueError),
        (errors.ModelFileError, OSError),
        (errors.OutputError, OSError),
        (errors.MissingExtraError, ImportError),
    ],
)
def test_an_error_is_caught_by_its_builtin_class_and_keeps_its_message(error, builtin):
    with pytest.raises(builtin, match="the column 'age'"):
        raise error("the column 'age'")
    assert issubclass(error, errors.ScidiffusionError)


def test_every_error_is_public():
    classes = {
        name for name, value in vars(errors).items() if isinstance(value, type) and name[0] != "_"
    }
    assert classes == set(errors.__all__)


def test_the_command_answers_for_help():
    from typer.testing import CliRunner

    from scidiffusion.cli.main import app

    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0, result.output
    assert "tabular" in result.output


def test_the_command_is_installed():
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="scidiffusion")
    assert entry.value == "scidiffusion.cli.main:app"
