"""Files that are either as they were or complete.

A file is written under a temporary name in the folder where it will lie, flushed to the disk, and
renamed: whoever looks sees the old file or the new one. This module imports the standard library
and `scidiffusion.errors` alone.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from scidiffusion.errors import OutputError

__all__ = ["check_writable_file", "check_writable_parent", "sync", "write_atomic"]


def write_atomic(path: str | os.PathLike[str], content: bytes | Callable[[Path], object]) -> None:
    """Write a file completely or not at all; missing parent folders are made.

    Args:
        path: The file. A symbolic link is followed.
        content: The bytes, or a function that writes the file at the path it is given (which has
            the same suffix as `path`), such as a data frame's `to_csv`.

    Raises:
        OutputError: if `path` is a folder or cannot be written; an older file is as it was.
    """
    target = Path(os.path.realpath(path))
    _refuse_folder(target, path)
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            temporary.write_bytes(content)
        else:
            content(temporary)
        sync(temporary)
        temporary.replace(target)
        sync(target.parent)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names where the system can, to the disk."""
    if path.is_dir():
        if os.name != "posix":
            return
        handle = os.open(path, os.O_RDONLY)
    else:
        handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_writable_file(path: str | os.PathLike[str]) -> None:
    """Find out now, not after the work, that a file could not be written.

    Raises:
        OutputError: if it is a folder, or a folder it would lie in cannot be written.
    """
    target = Path(os.path.realpath(path))
    _refuse_folder(target, path)
    check_writable_parent(target, path)


def check_writable_parent(target: Path, name: str | os.PathLike[str]) -> None:
    """Check that `target` could be created, by creating and deleting a file beside it.

    Raises:
        OutputError: if not; the message speaks of `name`.
    """
    folder = target.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    probe = folder / f".{secrets.token_hex(8)}.probe"
    try:
        if not folder.is_dir():
            raise NotADirectoryError(20, f"{folder} is not a folder")
        try:
            probe.touch(exist_ok=False)
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot write {name}: {error.strerror or error}; choose another path, or make "
            f"{folder} writable"
        ) from error


def _refuse_folder(target: Path, name: str | os.PathLike[str]) -> None:
    if target.is_dir():
        raise OutputError(f"cannot write {name}: it is a folder; name a file in it")
    if target.exists() and not target.is_file():
        raise OutputError(f"cannot write {name}: it is not a regular file")
