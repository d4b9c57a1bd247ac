"""Conditions as text, the way a command line gives them.

======================  =========================================================
``city=Bonn``           one value
``city=Bonn,Bath``      a set of values
``x=``                  missing; an empty value in a set, ``x=1,``, allows missing
``age=30..40``          a range with both ends; ``30..`` and ``..40`` are half open
``age>=30``, ``age<40``  half a range; two of them on one column are both ends
``city="Bath, Maine"``  quotes keep commas, dots and spaces; ``""`` in them is ``"``
======================  =========================================================

A text that is, letter by letter, a known value of its column is that value, whatever it holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from scidiffusion.errors import ConditionError
from scidiffusion.tabular.conditions import Between, Condition, Equal, OneOf, parse
from scidiffusion.tabular.schema import ColumnKind, ColumnSchema, TableSchema, unknown_column

__all__ = ["parse_texts"]

_OPERATOR = re.compile(r"\s*(>=|<=|=|>|<)")
# A quoted piece, the mark of a range, a comma, or anything else up to one of these.
_TOKEN = re.compile(r'"(?P<quoted>(?:[^"]|"")*)"|(?P<dots>\.\.)|(?P<comma>,)|(?P<plain>.)', re.S)


def parse_texts(schema: TableSchema, texts: Iterable[str]) -> dict[str, Condition]:
    """Read conditions written as text.

    Args:
        schema: The table's schema.
        texts: One text a condition, as the module says.

    Returns:
        Column -> condition, checked by :func:`scidiffusion.tabular.conditions.parse`.

    Raises:
        ConditionError: If a text cannot be read, a column has two conditions that are not the two
            ends of a range, or a condition is not possible.
    """
    conditions: dict[str, Condition] = {}
    for text in texts:
        name, sign, rest = _split(schema, text)
        condition = _read(schema[name], sign, rest)
        if name in conditions:
            condition = _both_ends(name, conditions[name], condition)
        conditions[name] = condition
    return parse(schema, conditions)


def _split(schema: TableSchema, text: str) -> tuple[str, str, str]:
    """Column, operator and the rest of a text."""
    # A column's name may hold an operator itself: the longest name that fits wins.
    for name in sorted(schema.names, key=len, reverse=True):
        if text.startswith(name):
            match = _OPERATOR.match(text, len(name))
            if match is not None:
                return name, match[1], text[match.end() :]
    found = _OPERATOR.search(text)
    if found is None:
        raise ConditionError(
            "a condition reads column=value, column=a,b, column=low..high or column>=low, "
            f"got {text!r}"
        )
    raise ConditionError(f"condition: {unknown_column(text[: found.start()], schema.names)}")


def _both_ends(name: str, one: Condition, other: Condition) -> Condition:
    """The range of two half-open ones."""
    if isinstance(one, Between) and isinstance(other, Between):
        if one.low is None and other.high is None:
            one, other = other, one
        if one.high is None and other.low is None:
            return Between(one.low, other.high, one.include_low, other.include_high)
    raise ConditionError(f"there are two conditions on column {name!r}; give one")


def _read(column: ColumnSchema, sign: str, text: str) -> Condition:
    whole = _value(column, text, quoted=False)
    if sign == "=":
        if _is_level(column, whole):
            return Equal(whole)
        pieces = _pieces(column, text)
        if len(pieces) > 1 and any(dots for _, dots in pieces):
            raise ConditionError(
                f"condition on {column.name!r}: {text!r} mixes a set and a range; give one, or "
                "quote the values that hold commas or dots"
            )
        (values, dots), *others = pieces
        if not dots:
            found = [values[0], *(piece[0][0] for piece in others)]
            return Equal(found[0]) if len(found) == 1 else OneOf(tuple(found))
        return Between(*values)
    if text.strip() == "":
        raise ConditionError(f"condition on {column.name!r}: nothing stands after {sign!r}")
    pieces = _pieces(column, text)
    if not _is_level(column, whole):
        if len(pieces) > 1 or pieces[0][1]:
            raise ConditionError(
                f"condition on {column.name!r}: one value stands after {sign!r}, got {text!r}"
            )
        whole = pieces[0][0][0]
    if sign[0] == ">":
        return Between(low=whole, include_low=sign == ">=")
    return Between(high=whole, include_high=sign == "<=")


def _pieces(column: ColumnSchema, text: str) -> list[tuple[list[Any], bool]]:
    """The values between commas: (its one value, False), or (its two ends, True) of a range."""
    # Every piece is one text, or two around the dots, each with whether it was quoted.
    pieces: list[list[tuple[str, bool]]] = [[("", False)]]
    for token in _TOKEN.finditer(text):
        current, quoted = pieces[-1][-1]
        if token["comma"]:
            pieces.append([("", False)])
        elif token["dots"]:
            pieces[-1].append(("", False))
        elif token["quoted"] is not None and not current.strip():
            pieces[-1][-1] = (token["quoted"].replace('""', '"'), True)
        elif not (quoted and token[0].isspace()):
            pieces[-1][-1] = (current + token[0], quoted)
    read = []
    for parts in pieces:
        if len(parts) > 2:
            raise ConditionError(
                f"condition on {column.name!r}: {text!r} has more than one '..'; a range reads "
                "low..high, and quotes keep dots that belong to a value"
            )
        dots = len(parts) == 2
        values = [
            None if dots and part == ("", False) else _value(column, part[0], quoted=part[1])
            for part in parts
        ]
        read.append((values, dots))
    return read


def _is_level(column: ColumnSchema, value: Any) -> bool:
    return value is not None and any(
        level == value and isinstance(level, bool) == isinstance(value, bool)
        for level in column.categories
    )


def _value(column: ColumnSchema, text: str, *, quoted: bool) -> Any:
    """The value that a text means: a level, a number, None for missing, or the text itself."""
    if column.kind.is_discrete:
        # Levels of the dtype that no row has may still end a range.
        spellings = {str(level): level for level in (*column.levels, *column.categories)}
        if column.kind is ColumnKind.BOOLEAN:
            spellings |= {str(level).lower(): level for level in column.categories}
        for spelling in (text,) if quoted else (text, text.strip()):
            if spelling in spellings:
                return spellings[spelling]
    plain = text if quoted else text.strip()
    if plain == "" and column.missing and not quoted:
        return None
    numeric = column.kind is ColumnKind.NUMERICAL or column.kind.is_discrete
    if numeric and not any(isinstance(level, str) for level in column.categories):
        for kind in (int, float):
            try:
                return kind(plain)
            except ValueError:
                continue
    return plain
