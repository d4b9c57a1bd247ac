"""Numbers that are shuffled by a key, and hashed by it, without a table of them.

A *Feistel network* turns any keyed hash into a permutation of pairs of half-words: (a, b) ->
(b, a xor F(b)), a few times. Walking its cycles until they come back below `size` makes a
permutation of 0 ... size - 1 of it. So row r of a sample has its own value, whatever rows are
drawn beside it, and no two rows share one.

References:
    Black & Rogaway 2002, "Ciphers with arbitrary finite domains" (cycle walking);
    Steele, Lea & Flood 2014 (the mixing function of splitmix64).
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

__all__ = ["LARGEST_DOMAIN", "key_of", "mixed", "permuted", "uniform"]

LARGEST_DOMAIN = 2**62
_ROUNDS = 6
_GOLDEN = 0x9E3779B97F4A7C15


def key_of(*parts: object) -> int:
    """A 64-bit key made of anything that prints the same each time.

    Args:
        parts: Seeds, names of uses, ...
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def mixed(numbers: NDArray[np.uint64], key: int) -> NDArray[np.uint64]:
    """Hash numbers to 64 bits.

    Args:
        numbers: Any shape.
        key: 64 bits.

    Returns:
        Bits of the same shape, as good as random and a function of number and key alone.
    """
    bits = numbers * np.uint64(_GOLDEN) + np.uint64(key % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    return bits ^ (bits >> np.uint64(31))


def uniform(numbers: NDArray[np.uint64], key: int) -> NDArray[np.float64]:
    """Hash numbers to [0, 1).

    Args:
        numbers: Any shape.
        key: 64 bits.
    """
    return (mixed(numbers, key) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permuted(numbers: NDArray[np.uint64], size: int, key: int) -> NDArray[np.uint64]:
    """Permute 0 ... size - 1.

    Args:
        numbers: Numbers below `size`, any shape.
        size: In [1, 2**62].
        key: Chooses the permutation.

    Returns:
        Where each number goes: different ones go to different places.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    low_bits = np.uint64(2**half - 1)
    places = numbers.astype(np.uint64)
    walking = np.ones(places.shape, dtype=bool)
    while walking.any():
        left, right = places[walking] >> np.uint64(half), places[walking] & low_bits
        for step in range(_ROUNDS):
            left, right = right, left ^ (mixed(right, key_of(key, step)) & low_bits)
        places[walking] = (left << np.uint64(half)) | right
        walking[walking] = places[walking] >= np.uint64(size)
    return places
