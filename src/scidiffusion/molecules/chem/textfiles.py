"""Text files, compressed or not: read line by line, written completely or not at all."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, TextIO

from scidiffusion._files import write_atomic
from scidiffusion.errors import DataError

__all__ = ["open_text", "write_texts"]


@contextmanager
def open_text(path: str | PathLike[str], *, lenient: bool = False) -> Iterator[TextIO]:
    """Open a text file, compressed or not; whatever goes wrong in reading it is a DataError.

    Args:
        path: The file; compressed if its name ends in `.gz`.
        lenient: Replace letters that are not UTF-8 instead of stopping.
    """
    errors = "replace" if lenient else "strict"
    name = str(path).lower()
    opener: Any = gzip.open if name.endswith(".gz") else open
    # The csv module deals with the line breaks within quotes itself.
    newline = "" if name.endswith(".csv") else None
    try:
        with opener(path, "rt", encoding="utf-8-sig", errors=errors, newline=newline) as stream:
            yield stream
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text; save it as UTF-8") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged or cut off, or no gzip file: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def write_texts(path: str | PathLike[str], texts: Iterable[str]) -> int:
    """Write texts one after the other, completely or not at all; return how many there were.

    Args:
        path: The file; compressed if its name ends in `.gz`.
        texts: They may come from a generator; whatever it raises, the file is as it was.

    Raises:
        DataError: if there is none.
        OutputError: if the file cannot be written.
    """
    count = 0

    def fill(temporary: Path) -> None:
        nonlocal count
        with temporary.open("wb") as raw:
            stream: Any = raw
            if str(path).lower().endswith(".gz"):
                # No time and no name in the header: the same molecules give the same bytes.
                stream = gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0)
            with stream:
                for text in texts:
                    stream.write(text.encode())
                    count += 1
        if not count:
            raise DataError(f"there is no molecule to write to {path}")

    write_atomic(path, fill)
    return count
