"""What the texts of an identifier look like, and new ones that look the same.

The characters that may stand at each position of a text are the digits of a number in mixed
radix, as `AB-07` is the number of two letters and two digits; new texts have numbers that
:mod:`scidiffusion.tabular.free_numbers` knows to be free. Texts are sorted by their *skeleton*,
letters and digits replaced by `x`; each skeleton that is frequent is a shape of its own, with the
characters seen at each position widened to the class they belong to (digits, letters, hexadecimal
digits).
"""

from __future__ import annotations

import re
import string
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from scidiffusion.tabular.free_numbers import FreeCells, plenty
from scidiffusion.tabular.permutations import LARGEST_DOMAIN, key_of, uniform

__all__ = ["TextPattern"]

_MAX_SHAPES = 64
_MAX_LENGTH = 64
# Characters that all values of a shape share, or a few that many values share, are part of it; so
# is the absence of a character that should have been seen so many times.
_LITERAL_ROWS = 5
_FEW, _FEW_ROWS = 4, 50
_SEEN = 20
_LETTER_OR_DIGIT = re.compile(r"[^\W_]")
_TO_X = str.maketrans(dict.fromkeys(string.ascii_letters + string.digits, "x"))
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_HEX = {"l": "0123456789abcdef", "u": "0123456789ABCDEF"}


@dataclass(frozen=True)
class Shape:
    """Texts of one length.

    Args:
        alphabets: The characters that may stand at each position, in code point order.
        weight: Share of the values.
        free: Cells of the numbers of its leading positions.
    """

    alphabets: tuple[str, ...]
    weight: float
    free: FreeCells

    @classmethod
    def fit(
        cls, alphabets: Sequence[str], codes: NDArray[np.uint32], weight: float, n: int, key: int
    ) -> Self:
        """Find the numbers that are free.

        Args:
            alphabets: The characters of each position.
            codes: Code points of the training values of this length, shape (m, length).
            weight: Share of the values.
            n: Number of training values of all shapes.
            key: Chooses among free cells.
        """
        numbers = np.zeros(len(codes), dtype=np.uint64)
        known = np.ones(len(codes), dtype=bool)
        size = 1
        for position in _counted(alphabets):
            letters = np.array([ord(letter) for letter in alphabets[position]], dtype=np.uint32)
            digit = np.searchsorted(letters, codes[:, position])
            known &= letters[np.minimum(digit, len(letters) - 1)] == codes[:, position]
            numbers = numbers * np.uint64(len(letters)) + digit.astype(np.uint64)
            size *= len(letters)
        free = FreeCells.find(numbers[known], size, plenty(n), key)
        return cls(tuple(alphabets), weight, free)

    def draw(
        self, rows: NDArray[np.uint64], wrapped: NDArray[np.uint64], key: int, seed: int
    ) -> list[str]:
        """The texts of rows.

        Args:
            rows: Row numbers.
            wrapped: The same below the capacity.
            key: The shape's key.
            seed: The sample's seed.
        """
        numbers = self.free.draw(wrapped, key, key_of(key, seed))
        counted = _counted(self.alphabets)
        letters = np.empty((len(rows), len(self.alphabets)), dtype="U1")
        for position in reversed(range(len(self.alphabets))):
            alphabet = np.array(list(self.alphabets[position]), dtype="U1")
            if position in counted:
                digits = (numbers % np.uint64(len(alphabet))).astype(np.int64)
                numbers = numbers // np.uint64(len(alphabet))
            else:
                part = uniform(rows, key_of(key, seed, position)) * len(alphabet)
                digits = part.astype(np.int64)
            letters[:, position] = alphabet[digits]
        return letters.view(f"U{letters.shape[1]}").ravel().tolist()


def _counted(alphabets: Sequence[str]) -> list[int]:
    """The positions whose characters are digits of the number: as many as 62 bits hold."""
    positions, size = [], 1
    for position, alphabet in enumerate(alphabets):
        size *= len(alphabet)
        if size > LARGEST_DOMAIN:
            break
        if len(alphabet) > 1:
            positions.append(position)
    return positions


@dataclass(frozen=True)
class TextPattern:
    """Texts of some shapes, with the domain of an e-mail address behind them.

    Args:
        shapes: The shapes, at least one.
        longest: Length of the longest training value (its part before the domain).
        domains: Domain -> share; empty for anything but e-mail addresses.
    """

    shapes: tuple[Shape, ...]
    longest: int
    domains: Mapping[str, float]

    @classmethod
    def fit(cls, values: Sequence[str], key: int) -> Self:
        """Learn the shapes.

        Args:
            values: The training values, distinct, at least one.
            key: Chooses among free cells.
        """
        n = len(values)
        domains: dict[str, float] = {}
        if sum(_EMAIL.fullmatch(value) is not None for value in values) >= 0.9 * n:
            values, domains = _without_domains([v for v in values if "@" in v])
        groups: dict[str, list[str]] = defaultdict(list)
        for value in values:
            groups[_skeleton(value)].append(value)
        shapes = []
        frequent = sorted(groups, key=lambda skeleton: (-len(groups[skeleton]), skeleton))
        for skeleton in frequent[:_MAX_SHAPES]:
            group = groups[skeleton]
            if len(group) < max(2, 0.005 * n) or len(skeleton) > _MAX_LENGTH:
                continue
            codes = _code_points(group)
            weight = len(group) / n
            shape = Shape.fit(_alphabets(skeleton, codes, few=True), codes, weight, n, key)
            if shape.free.capacity < 2 * n:
                wider = Shape.fit(_alphabets(skeleton, codes, few=False), codes, weight, n, key)
                shape = max(shape, wider, key=lambda one: one.free.capacity)
            if shape.free.capacity > 0:
                shapes.append(shape)
        if not shapes:
            shapes.append(_generic(values, groups, n, key))
        return cls(tuple(shapes), max(map(len, values)), domains)

    def draw(self, rows: NDArray[np.uint64], key: int, seed: int) -> list[str]:
        """The texts of rows, a different one each.

        Args:
            rows: Row numbers.
            key: The generator's key.
            seed: The sample's seed.
        """
        capacities = np.array([shape.free.capacity for shape in self.shapes], dtype=np.uint64)
        widest = int(np.argmax(capacities))
        chosen = _choose(rows, [shape.weight for shape in self.shapes], key_of(key, seed, "shape"))
        chosen[rows >= capacities[chosen]] = widest
        texts = np.empty(len(rows), dtype=object)
        for index, shape in enumerate(self.shapes):
            mine = np.flatnonzero(chosen == index)
            if len(mine):
                wrapped = rows[mine] % capacities[index]
                texts[mine] = shape.draw(rows[mine], wrapped, key_of(key, index), seed)
        # Used up: longer than every training value, and than everything above.
        rounds = rows // capacities[widest]
        width = self.longest + 1 - len(self.shapes[widest].alphabets)
        for place in np.flatnonzero(rounds):
            texts[place] += str(rounds[place]).zfill(max(1, width))
        if self.domains:
            names = list(self.domains)
            picked = _choose(rows, list(self.domains.values()), key_of(key, seed, "domain"))
            texts = np.array(
                [f"{text}@{names[k]}" for text, k in zip(texts, picked, strict=True)], object
            )
        return texts.tolist()

    def to_json(self) -> dict[str, Any]:
        """The pattern as a JSON object."""
        shapes = [
            {
                "alphabets": list(shape.alphabets),
                "weight": shape.weight,
                "width": shape.free.width,
                "cells": list(shape.free.cells),
            }
            for shape in self.shapes
        ]
        return {"shapes": shapes, "longest": self.longest, "domains": dict(self.domains)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote.

        Args:
            record: The JSON object.
        """
        shapes = tuple(
            Shape(
                tuple(shape["alphabets"]),
                float(shape["weight"]),
                FreeCells(int(shape["width"]), tuple(shape["cells"])),
            )
            for shape in record["shapes"]
        )
        return cls(shapes, int(record["longest"]), dict(record["domains"]))


def _skeleton(text: str) -> str:
    return text.translate(_TO_X) if text.isascii() else _LETTER_OR_DIGIT.sub("x", text)


def _choose(rows: NDArray[np.uint64], weights: Sequence[float], key: int) -> NDArray[np.int64]:
    edges = np.cumsum(weights) / np.sum(weights)
    picked = np.searchsorted(edges, uniform(rows, key), side="right")
    return np.minimum(picked, len(edges) - 1).astype(np.int64)


def _without_domains(values: Sequence[str]) -> tuple[list[str], dict[str, float]]:
    """The parts before the @, distinct, and the domains that several addresses share."""
    parts = [value.rsplit("@", 1) for value in values]
    counts = Counter(domain for _, domain in parts)
    shared = max(_LITERAL_ROWS, 0.01 * len(values))
    domains = {name: k / len(values) for name, k in counts.most_common(32) if k >= shared}
    return sorted({name for name, _ in parts}), domains or {"example.com": 1.0}


def _code_points(values: Sequence[str]) -> NDArray[np.uint32]:
    """Code points of texts of equal length, shape (n, length)."""
    length = max(1, len(values[0]))
    return np.array(values, dtype=f"U{length}").view(np.uint32).reshape(len(values), length)


def _alphabets(skeleton: str, codes: NDArray[np.uint32], *, few: bool) -> list[str]:
    """The characters that may stand at each position of a shape.

    With `few`, positions at which only few of a class are seen keep to these.
    """
    free = [position for position, sign in enumerate(skeleton) if sign == "x"]
    seen = {place: "".join(map(chr, np.unique(codes[:, place]))) for place in free}
    together = set("".join(seen.values()))
    digits = together & set(string.digits)
    case = "l" if together & set(string.ascii_lowercase) else "u"
    hexadecimal = len(free) >= 8 and digits and together - digits and together <= set(_HEX[case])
    alphabets = list(skeleton)
    for place, letters in seen.items():
        alphabets[place] = letters
        wide = _HEX[case] if hexadecimal else _widened(letters)
        common = len(letters) == 1 and len(codes) >= _LITERAL_ROWS
        known = len(codes) >= _SEEN * len(wide)
        known |= len(letters) <= _FEW and len(codes) >= _FEW_ROWS
        if (few and known) or (common and (few or not letters.isdigit())):
            continue
        # A number without leading zeros stays one.
        leading = len(codes) >= _FEW_ROWS and letters.isdigit() and letters[0] > "0"
        alphabets[place] = wide.replace("0", "") if leading else wide
    return alphabets


def _widened(letters: str) -> str:
    """The classes of characters, with those that belong to none."""
    found = set(letters)
    for kind in (string.digits, string.ascii_uppercase, string.ascii_lowercase):
        if found & set(kind):
            found |= set(kind)
    return "".join(sorted(found))


def _generic(values: Sequence[str], groups: Mapping[str, list[str]], n: int, key: int) -> Shape:
    """A shape for texts that have none in common: letters and digits of the usual length."""
    length = int(np.clip(np.median([len(value) for value in values]), 8, 24))
    letters = "".join(_LETTER_OR_DIGIT.findall("".join(values[:1000])))
    alphabet = _widened("".join(char for char in letters if char.isascii()) or "0")
    same = groups.get("x" * length, [])
    codes = _code_points(same) if same else np.empty((0, length), dtype=np.uint32)
    return Shape.fit([alphabet] * length, codes, 1.0, n, key)
