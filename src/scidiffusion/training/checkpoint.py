"""The state of an unfinished run in one file: safetensors, with JSON in its header.

Nothing in it can execute. The file is replaced at once, so a run that is killed while it writes
leaves the checkpoint before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from scidiffusion._files import write_atomic
from scidiffusion.errors import ConfigError, DataError, ModelFileError
from scidiffusion.training.config import TrainConfig

FILE_NAME = "checkpoint.safetensors"
FORMAT_VERSION = 1
SAME_RUN = (
    "batch_size",
    "lr",
    "weight_decay",
    "betas",
    "warmup_steps",
    "decay",
    "decay_start",
    "ema_decay",
    "gradient_clip",
    "precision",
    "condition_dropout",
    "validate_every",
    "validation_draws",
    "seed",
    "privacy",
)
"""Options that a resumed run must share; the others (limits, device, display) may change."""


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically.

    Args:
        path: The file.
        tensors: Tensors by name.
        numbers: What JSON can say.

    Raises:
        OutputError: if it cannot be written; an older checkpoint is as it was.
    """
    # A copy each: safetensors refuses tensors that share memory.
    stored = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}
    state = json.dumps({"format_version": FORMAT_VERSION, **numbers})
    write_atomic(path, save(stored, metadata={"scidiffusion": state}))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint.

    Raises:
        ModelFileError: if the file is damaged, not a checkpoint, or of a newer format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            numbers = json.loads((file.metadata() or {})["scidiffusion"])
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ModelFileError(
            f"{path} is not a readable checkpoint ({error}); delete it, or train without resuming"
        ) from error
    if numbers.get("format_version", 0) > FORMAT_VERSION:
        raise ModelFileError(f"{path} was written by a newer version; update scidiffusion")
    return tensors, numbers


def fingerprint(*states: Any) -> str:
    """Return a hash of the contents of states and conditions, to know data again."""
    digest = hashlib.blake2b(digest_size=16)

    def add(state: Any) -> None:
        if isinstance(state, Mapping):
            for name in sorted(state):
                digest.update(repr(name).encode())
                add(state[name])
        elif isinstance(state, Tensor):
            digest.update(f"{state.dtype}{tuple(state.shape)}".encode())
            plain = state.detach().cpu().contiguous().reshape(-1)
            digest.update(plain.view(torch.uint8).numpy().tobytes())
        else:
            digest.update(repr(state).encode())

    for state in states:
        add(state)
    return digest.hexdigest()


def describe(config: TrainConfig) -> dict[str, Any]:
    """Return the options of `SAME_RUN` as JSON has them."""
    plain = {name: getattr(config, name) for name in SAME_RUN}
    if config.privacy is not None:
        plain["privacy"] = config.privacy.to_dict()
    values: dict[str, Any] = json.loads(json.dumps(plain))
    return values


def check_same_run(path: Path, numbers: Mapping[str, Any], config: TrainConfig, data: str) -> None:
    """Check that a checkpoint is of the run that is to be resumed.

    Raises:
        ConfigError: if an option of `SAME_RUN` differs.
        DataError: if the data differ.
    """
    stored, now = numbers["config"], describe(config)
    for name in SAME_RUN:
        if stored.get(name) != now[name]:
            raise ConfigError(
                f"cannot resume from {path}: it was written with {name}={stored.get(name)!r}, not "
                f"{now[name]!r}; use the same options, or train without resuming"
            )
    if numbers["data"] != data:
        raise DataError(
            f"cannot resume from {path}: it was written by a run on other data; use the same "
            "data, or train without resuming"
        )
