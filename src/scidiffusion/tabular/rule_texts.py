"""Constraints as text, the way a command line gives them.

==============================  ==========================================================
``start <= end``, ``a < b``     `Inequality` (also ``>=`` and ``>``)
``living = above + cellar``     `Formula`
``combinations: city, country`` `FixedCombinations`
``unique: ward, bed``           `Unique`
==============================  ==========================================================
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from scidiffusion.errors import ConfigError
from scidiffusion.tabular.constraints import (
    Constraint,
    FixedCombinations,
    Formula,
    Inequality,
    Unique,
)

__all__ = ["parse_rules"]

_ORDER = re.compile(r"^(?P<left>.+?)\s*(?P<sign><=|>=|<|>)\s*(?P<right>.+)$", re.S)
_LISTS: dict[str, type[FixedCombinations | Unique]] = {
    "combinations": FixedCombinations,
    "unique": Unique,
}


def parse_rules(texts: Iterable[str]) -> list[Constraint]:
    """Read constraints written as text.

    Args:
        texts: One text a constraint, as the module says.

    Raises:
        ConfigError: If a text is none of these.

    Example:
        >>> print(*parse_rules(["a <= b", "c = a + 1"]), sep=", ")
        a <= b, c = a + 1
    """
    return [_parse(text.strip()) for text in texts]


def _parse(text: str) -> Constraint:
    head, colon, rest = text.partition(":")
    if colon and head.strip().lower() in _LISTS:
        names = tuple(name.strip() for name in rest.split(",") if name.strip())
        return _LISTS[head.strip().lower()](names)
    order = _ORDER.match(text)
    if order:
        left, sign, right = (order[name].strip() for name in ("left", "sign", "right"))
        if sign.startswith(">"):
            left, right = right, left
        return Inequality(left, right, strict="=" not in sign)
    name, equals, expression = text.partition("=")
    if equals and name.strip() and expression.strip():
        return Formula(name.strip(), expression.strip())
    raise ConfigError(
        f"cannot read the constraint {text!r}: write 'start <= end', 'total = price + tax', "
        "'combinations: city, country' or 'unique: ward, bed'"
    )
