r"""Saved models: a folder of JSON and safetensors that is either the old model or the new one.

    MODEL/
      config.json          format version, estimator, parameters, SHA-256 of the other files
      weights.safetensors  the tensors
      codec.json, ...      what else the estimator needs

Nothing in it can execute. A model is written into a temporary folder beside it, flushed to the
disk and swapped in by renaming, so an interrupted or failed save leaves the model that was there.
Should the process be killed between the two renames, the next load or save puts the old folder
back.

JSON knows no NaN and no infinity: such a float is written as {"$float": "nan"} ("inf", "-inf")
and read back as the float. Every other float is written in full and comes back bit-equal. Tuples
come back as lists.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from scidiffusion._files import check_writable_file, check_writable_parent, sync, write_atomic
from scidiffusion._version import __version__
from scidiffusion.errors import ConfigError, ModelFileError, OutputError

__all__ = [
    "FORMAT_VERSION",
    "SavedModel",
    "check_writable",
    "check_writable_file",
    "from_json",
    "load_model",
    "save_model",
    "to_json",
    "write_atomic",
]

FORMAT_VERSION = 1
"""Version of the folder's layout; raised when an older scidiffusion could not read it."""

CONFIG, WEIGHTS = "config.json", "weights.safetensors"
_FORMAT = "scidiffusion model"
_FLOAT = "$float"


@dataclass(frozen=True)
class SavedModel:
    """What a model folder holds.

    Args:
        config: The estimator's parameters.
        tensors: Tensors by name, on the CPU.
        extra: Contents of the further JSON files by file name.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    extra: dict[str, Any]


def save_model(
    path: str | os.PathLike[str],
    *,
    estimator: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Save a model as a folder, completely or not at all; missing parent folders are made.

    Args:
        path: The folder. It may be missing, empty, or a model that is then replaced.
        estimator: Name of the estimator's class; `load_model` asks for the same.
        config: Parameters: what JSON can say, and NumPy scalars.
        tensors: Tensors by name.
        extra: Contents of further JSON files by file name, such as {"codec.json": {...}}.

    Raises:
        ConfigError: if something cannot be said in JSON; the message names it.
        OutputError: if the folder cannot be written, or holds something that is not a model;
            what was there is as it was.
    """
    check_writable(path)
    target, partial, backup = _places(path)
    # A copy each: safetensors refuses tensors that share memory.
    stored = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}
    files = {WEIGHTS: save(stored)}
    for name, content in (extra or {}).items():
        if not name.endswith(".json") or name == CONFIG or Path(name).name != name:
            raise ConfigError(f"extra file {name!r} must be called NAME.json, not {CONFIG}")
        files[name] = _encode(content, name)
    about = {
        "format": _FORMAT,
        "format_version": FORMAT_VERSION,
        "estimator": estimator,
        "scidiffusion": __version__,
        "files": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in files.items()
        },
        "params": dict(config),
    }
    files[CONFIG] = _encode(about, CONFIG)
    try:
        _remove(partial)
        partial.mkdir(parents=True)
        for name, content in files.items():
            (partial / name).write_bytes(content)
            sync(partial / name)
        sync(partial)
        _swap(target, partial, backup)
    except OSError as error:
        raise OutputError(f"cannot save the model to {path}: {error.strerror or error}") from error
    finally:
        _remove(partial)


def load_model(path: str | os.PathLike[str], *, estimator: str) -> SavedModel:
    """Load a model folder and check every file against its checksum.

    Args:
        path: The folder.
        estimator: Name of the estimator's class that it must be of.

    Raises:
        ModelFileError: if the folder or a file is missing, truncated, altered or not JSON, if its
            format is newer than this version of scidiffusion, or if it is of another estimator.
    """
    folder = _places(path)[0]
    _recover(path)
    if not folder.exists():
        raise ModelFileError(f"there is no model at {path}; check the path, or fit and save one")
    if not folder.is_dir():
        raise ModelFileError(f"{path} is a file; a saved model is a folder with a {CONFIG}")
    about = _read_config(folder)
    if about["estimator"] != estimator:
        raise ModelFileError(
            f"{path} holds a model of {about['estimator']}, not of {estimator}; "
            f"load it with {about['estimator']}"
        )
    contents = {name: _read_checked(folder, name, entry) for name, entry in about["files"].items()}
    if WEIGHTS not in contents:
        raise ModelFileError(f"{folder / CONFIG} lists no {WEIGHTS}; save the model again")
    try:
        tensors = load(contents.pop(WEIGHTS))
    except SafetensorError as error:
        raise ModelFileError(
            f"{folder / WEIGHTS} is not a safetensors file ({error}); save the model again"
        ) from error
    extra = {name: _decode(content, folder / name) for name, content in contents.items()}
    return SavedModel(about["params"], tensors, extra)


def prefixed(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return tensors of a part as they are saved beside those of others: "name.weight"."""
    return {f"{name}.{key}": value for key, value in tensors.items()}


def of_part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the tensors that `prefixed` named, without the prefix."""
    prefix = f"{name}."
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }


def check_version(record: Mapping[str, Any], newest: int, what: str) -> None:
    """Check that a part of a saved model is one that this library reads.

    Args:
        record: The part, with its "version".
        newest: The newest version that is read.
        what: Its name in the message.

    Raises:
        ModelFileError: if it has no version, or a newer one.
    """
    version = record.get("version")
    if not isinstance(version, int) or version > newest:
        raise ModelFileError(
            f"{what} of the model is of version {version}, this scidiffusion reads up to "
            f"{newest}: upgrade scidiffusion"
        )


def check_writable(path: str | os.PathLike[str]) -> None:
    """Find out now, not after fitting, that a model could not be saved.

    Raises:
        OutputError: if the folder cannot be written, is a file, or holds anything but a model.
    """
    _recover(path)
    target = _places(path)[0]
    if target.exists():
        if not target.is_dir():
            raise OutputError(f"cannot save a model to {path}: it is a file; choose another path")
        names = {entry.name for entry in target.iterdir() if entry.name[0] != "."}
        foreign = names
        if CONFIG in names:
            try:
                foreign = names - {CONFIG, *_read_config(target, newest=False)["files"]}
            except ModelFileError:
                foreign = names
        if foreign:
            raise OutputError(
                f"cannot save a model to {path}: the folder holds something else "
                f"({min(foreign)!r}); choose another path, or empty it"
            )
    check_writable_parent(target, path)


def to_json(value: Any, where: str = "value") -> Any:
    """Return `value` in what strict JSON can say; see the module for NaN and infinity.

    Args:
        value: None, bool, int, float, str, NumPy scalars and arrays, and lists, tuples and dicts
            (with string keys) of these.
        where: Name of the value, for the message.

    Raises:
        ConfigError: if it holds anything else; the message says where.
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else {_FLOAT: repr(value)}
    if isinstance(value, list | tuple):
        return [to_json(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        if _FLOAT in value:
            raise ConfigError(f"{where} has the key {_FLOAT!r}, which stands for a float")
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"{where} has the key {key!r}; keys in JSON are strings")
        return {str(key): to_json(item, f"{where}[{key!r}]") for key, item in value.items()}
    raise ConfigError(f"{where} is a {type(value).__name__}, which cannot be saved as JSON")


def from_json(value: Any) -> Any:
    """Undo `to_json` (tuples stay lists)."""
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if isinstance(value, dict):
        if value.keys() == {_FLOAT}:
            return float(value[_FLOAT])
        return {key: from_json(item) for key, item in value.items()}
    return value


def _encode(value: Any, name: str) -> bytes:
    text = json.dumps(to_json(value, name), allow_nan=False, indent=1, ensure_ascii=False)
    try:
        return text.encode()
    except UnicodeEncodeError:
        # A lone surrogate, which UTF-8 refuses, survives as an escape.
        return json.dumps(to_json(value, name), allow_nan=False, indent=1).encode()


def _decode(content: bytes, file: Path) -> Any:
    try:
        return from_json(json.loads(content))
    except (ValueError, TypeError) as error:
        raise ModelFileError(
            f"{file} is not JSON ({error}); restore it from a copy, or save the model again"
        ) from error


def _read_config(folder: Path, *, newest: bool = True) -> dict[str, Any]:
    """Read config.json; `newest` refuses formats that this version cannot read."""
    file = folder / CONFIG
    about = _decode(_read(file), file)
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
        raise ModelFileError(f"{file} is not that of a scidiffusion model; check the path")
    version = about.get("format_version")
    if newest and isinstance(version, int) and version > FORMAT_VERSION:
        raise ModelFileError(
            f"{file} has format version {version}, written by scidiffusion "
            f"{about.get('scidiffusion')}; this one reads up to {FORMAT_VERSION}: "
            "update scidiffusion"
        )
    kinds = {"format_version": int, "estimator": str, "files": dict, "params": dict}
    for key, kind in kinds.items():
        if not isinstance(about.get(key), kind) and (newest or key == "files"):
            raise ModelFileError(f"{file} has no valid {key!r}; save the model again")
    return about


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise ModelFileError(
            f"{file} is missing; restore it from a copy, or fit and save the model again"
        ) from None
    except OSError as error:
        raise ModelFileError(f"cannot read {file}: {error.strerror or error}") from error


def _read_checked(folder: Path, name: str, entry: Any) -> bytes:
    file = folder / name
    if not isinstance(entry, dict) or Path(name).name != name:
        raise ModelFileError(
            f"{folder / CONFIG} has an invalid list of files; save the model again"
        )
    content = _read(file)
    if len(content) != entry.get("bytes"):
        raise ModelFileError(
            f"{file} has {len(content)} bytes, not {entry.get('bytes')}: it is truncated or "
            "altered; restore it from a copy, or save the model again"
        )
    if hashlib.sha256(content).hexdigest() != entry.get("sha256"):
        raise ModelFileError(
            f"{file} is altered: its SHA-256 is not that of the model; restore it from a copy, or "
            "save the model again"
        )
    return content


def _places(path: str | os.PathLike[str]) -> tuple[Path, Path, Path]:
    """The folder, the one it is written to first, and the one that the old model waits in."""
    target = Path(os.path.realpath(path))
    return (
        target,
        target.with_name(f".{target.name}.partial"),
        target.with_name(f".{target.name}.old"),
    )


def _swap(target: Path, partial: Path, backup: Path) -> None:
    """Put `partial` in the place of `target`; on failure `target` is as it was."""
    if not target.exists():
        partial.rename(target)
    else:
        _remove(backup)
        try:
            target.rename(backup)
            partial.rename(target)
        except BaseException:
            if not target.exists():
                backup.rename(target)
            raise
        _remove(backup)
    sync(target.parent)


def _recover(path: str | os.PathLike[str]) -> None:
    """Put back an old model whose replacement was killed between two renames."""
    target, _, backup = _places(path)
    if backup.is_dir() and not target.exists():
        try:
            backup.rename(target)
        except OSError as error:
            raise ModelFileError(
                f"the model of {path} lies in {backup} after an interrupted save, and cannot be "
                f"moved back ({error.strerror or error}); rename it by hand"
            ) from error


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
