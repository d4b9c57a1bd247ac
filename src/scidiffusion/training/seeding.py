"""Random numbers of training as functions of (seed, purpose, step).

Every step seeds its own generators anew. There is then no generator state to save: a run that
resumes at step k, or that follows other work in the same process, draws the same numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def key_of(seed: int, purpose: str, index: int = 0) -> int:
    """Return a 63-bit generator seed for use number `index` of `purpose`."""
    text = repr((int(seed), purpose, int(index))).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def seed_global(key: int, device: torch.device) -> None:
    """Seed the global generators that a network's dropout draws from."""
    torch.random.default_generator.manual_seed(key)
    if device.type == "cuda":
        torch.cuda.manual_seed(key)


@contextmanager
def isolated_rng(device: torch.device) -> Iterator[None]:
    """Restore torch's global generators (CPU and `device`) when the block ends."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield
