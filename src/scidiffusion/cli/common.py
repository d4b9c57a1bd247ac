"""What every command does alike: one clear line for an error, reading and writing tables."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import typer

from scidiffusion._files import check_writable_file, write_atomic
from scidiffusion._lazy import require
from scidiffusion.errors import DataError, OutputError, ScidiffusionError

if TYPE_CHECKING:
    import pandas as pd

P = ParamSpec("P")
R = TypeVar("R")

INTERRUPTED = 130


def friendly_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn the library's errors into one line and exit status 2, Ctrl-C into status 130."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except ScidiffusionError as error:
            typer.secho(f"Error: {error}", fg=typer.colors.RED, err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.secho("Interrupted.", fg=typer.colors.YELLOW, err=True)
            raise typer.Exit(INTERRUPTED) from None

    return wrapped


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV or Parquet file.

    Raises:
        DataError: if the file is missing, of another kind, or cannot be parsed.
    """
    import pandas as pd

    if not path.is_file():
        raise DataError(f"no table at {path}: the file does not exist")
    try:
        if path.suffix == ".parquet":
            require("pyarrow", "parquet")
            return pd.read_parquet(path)
        return pd.read_csv(path, low_memory=False)
    except (ValueError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"cannot read {path} as a table: {error}") from error


def check_table_path(path: Path) -> None:
    """Raise OutputError unless a table can be written at `path`, before work is spent."""
    if path.suffix not in (".csv", ".parquet"):
        raise OutputError(f"cannot write {path}: the name must end in .csv or .parquet")
    if path.suffix == ".parquet":
        require("pyarrow", "parquet")
    check_writable_file(path)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a CSV or Parquet file, completely or not at all.

    Raises:
        OutputError: if the file cannot be written.
    """
    check_table_path(path)
    if path.suffix == ".parquet":
        write_atomic(path, lambda target: table.to_parquet(target, index=False))
    else:
        write_atomic(path, lambda target: table.to_csv(target, index=False))
