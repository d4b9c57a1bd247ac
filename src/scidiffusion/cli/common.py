"""What every command does alike: one clear line for an error, reading and writing tables."""

from __future__ import annotations

import functools
import io
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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
CHUNK_ROWS = 65_536


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


@contextmanager
def resumable(model: Path) -> Iterator[Path]:
    """Give the folder of a fit's checkpoint, beside the model; remove it once the model is there.

    An interruption says how to go on, and leaves it.
    """
    checkpoint = model.with_name(model.name + ".checkpoint")
    try:
        yield checkpoint
    except (KeyboardInterrupt, SystemExit):
        typer.secho(
            f"Stopped. The same command with --resume goes on from {checkpoint}.", err=True
        )
        raise
    shutil.rmtree(checkpoint, ignore_errors=True)


def read_table(path: Path, *, rows: int | None = None, seed: int = 0) -> pd.DataFrame:
    """Read a CSV or Parquet file.

    Args:
        path: The file.
        rows: Keep a random part of so many rows, read in chunks: for files larger than memory.
        seed: Seed of the part.

    Raises:
        DataError: if the file is missing, of another kind, or cannot be parsed.
    """
    import pandas as pd

    from scidiffusion.tabular.validation import validate_count

    if not path.is_file():
        raise DataError(f"no table at {path}: the file does not exist")
    rows = None if rows is None else validate_count(rows, "rows")
    try:
        if rows is not None:
            table = _random_rows(_chunks(path), rows, seed)
            if path.suffix == ".parquet":
                return table
            return pd.read_csv(io.StringIO(table.to_csv(index=False)), low_memory=False)
        if path.suffix == ".parquet":
            require("pyarrow", "parquet")
            return pd.read_parquet(path)
        return _checked(pd.read_csv(path, low_memory=False), path)
    except DataError:
        raise
    except (ValueError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"cannot read {path} as a table: {error}") from error


def _checked(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The table, unless its file is no comma-separated one with one name a column."""
    import pandas as pd

    if not isinstance(table.index, pd.RangeIndex):
        raise DataError(
            f"cannot read {path} as a table: its rows have more values than the header has names"
        )
    name = str(table.columns[0])
    found = [sign for sign in (";", "\t", "|") if sign in name]
    if table.shape[1] == 1 and found:
        raise DataError(
            f"cannot read {path} as a table: it has one column, {name!r:.60}; write it with "
            f"commas instead of {found[0]!r}"
        )
    return table


def _chunks(path: Path) -> Iterator[pd.DataFrame]:
    import pandas as pd

    if path.suffix == ".parquet":
        parquet = require("pyarrow.parquet", "parquet")
        for batch in parquet.ParquetFile(path).iter_batches(CHUNK_ROWS):
            yield batch.to_pandas()
    else:
        # One dtype a column, whatever a chunk happens to hold: text, made numbers at the end.
        with pd.read_csv(path, chunksize=CHUNK_ROWS, dtype=str, keep_default_na=False) as chunks:
            for chunk in chunks:
                yield _checked(chunk, path)


def _random_rows(chunks: Iterable[pd.DataFrame], rows: int, seed: int) -> pd.DataFrame:
    """Keep the rows with the smallest of one random key a row: a uniform part, in one pass."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(seed)
    kept = pd.DataFrame()
    keys = np.empty(0)
    for number, chunk in enumerate(chunks):
        keys = np.concatenate([keys, rng.random(len(chunk))])
        kept = pd.concat([kept, chunk], ignore_index=True) if number else chunk
        if len(keys) > rows:
            # In the file's order, so that a part of all rows is the file.
            chosen = np.sort(np.argpartition(keys, rows - 1)[:rows])
            keys, kept = keys[chosen], kept.iloc[chosen].reset_index(drop=True)
    return kept


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
    write_chunks([table], path)


def write_chunks(tables: Iterable[pd.DataFrame], path: Path) -> int:
    """Write a CSV or Parquet file part by part, completely or not at all.

    Args:
        tables: The parts, of the same columns and dtypes; at least one.
        path: The file.

    Returns:
        The number of rows.

    Raises:
        OutputError: if the file cannot be written.
    """
    check_table_path(path)
    rows = 0

    def csv(target: Path) -> None:
        nonlocal rows
        with target.open("w", encoding="utf-8", newline="") as file:
            for number, table in enumerate(tables):
                table.to_csv(file, index=False, header=number == 0)
                rows += len(table)

    def parquet(target: Path) -> None:
        nonlocal rows
        arrow, files = require("pyarrow", "parquet"), require("pyarrow.parquet", "parquet")
        writer = schema = None
        try:
            for table in tables:
                part = arrow.Table.from_pandas(table, schema=schema, preserve_index=False)
                if writer is None:
                    schema = part.schema
                    writer = files.ParquetWriter(target, schema)
                writer.write_table(part)
                rows += len(table)
        finally:
            if writer is not None:
                writer.close()

    write_atomic(path, parquet if path.suffix == ".parquet" else csv)
    return rows
