"""Lazy public names and optional packages.

A package that offers many names need not import what is behind them before the first use:
`attach` makes the module-level `__getattr__` and `__dir__` (PEP 562) from a table of
names. `require` imports an optional package or says in one line how to install it.
This module imports the standard library and `scidiffusion.errors` alone.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from scidiffusion.errors import MissingExtraError

__all__ = ["attach", "require"]


def attach(
    package: str,
    *,
    names: Mapping[str, str] | None = None,
    submodules: Iterable[str] = (),
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Build `__getattr__` and `__dir__` for a package with lazy public names.

    Args:
        package: The package's `__name__`.
        names: Public name -> full name of the module that defines it.
        submodules: Submodules reachable as attributes without an explicit import.

    Returns:
        `(__getattr__, __dir__)`, to be bound at the top level of the package. A name that was
        looked up once is stored in the package, so the second access costs nothing.

    Example:
        >>> getter, lister = attach("json", submodules=["decoder"])
        >>> getter("decoder").__name__
        'json.decoder'
    """
    sources = dict(names or {})
    modules = frozenset(submodules)

    def __getattr__(name: str) -> Any:
        if name in sources:
            value = getattr(importlib.import_module(sources[name]), name)
        elif name in modules:
            value = importlib.import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)
        return value

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *sources, *modules})

    return __getattr__, __dir__


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module, or say which `pip install` brings it.

    Args:
        module: Full name of the module, e.g. `"rdkit.Chem"`.
        extra: The extra of this package that installs it, e.g. `"molecules"`.

    Returns:
        The imported module.

    Raises:
        MissingExtraError: If the module's package, or a package that it needs, is not installed.
            A submodule that an installed package lacks is passed on as ModuleNotFoundError:
            installing the extra would not help.

    Example:
        >>> require("json", "report").__name__
        'json'
        >>> require("no_such_package.inner", "molecules")
        Traceback (most recent call last):
            ...
        scidiffusion.errors.MissingExtraError: 'no_such_package' is not installed; ...
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        if "." in missing:
            raise
        raise MissingExtraError(
            f'{missing!r} is not installed; run: pip install "scidiffusion[{extra}]"',
            name=missing,
        ) from error
