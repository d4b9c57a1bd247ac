"""Where a text ceases to be a SMILES (OpenSMILES): RDKit tells it to its log alone.

Characters are counted from 1.
"""

from __future__ import annotations

import re

from rdkit import Chem

_TABLE = Chem.GetPeriodicTable()
_SYMBOLS = frozenset(_TABLE.GetElementSymbol(number) for number in range(1, 119))
_BRACKET = re.compile(
    r"\[(?P<isotope>\d*)(?P<symbol>\*|[A-Z][a-z]?|[a-z][a-z]?|#\d+)"
    r"(?P<chiral>@{0,2}(?:(?:TH|AL|SP|TB|OH)\d+)?)(?P<hydrogen>(?:H\d*)?)"
    r"(?P<charge>(?:\++\d*|-+\d*)?)(?P<map>(?::\d+)?)\]"
)
_TOKEN = re.compile(
    r"(?P<bracket>\[[^\[\]]*\])|(?P<atom>Br|Cl|[BCNOPSFI]|[bcnops]|\*)"
    r"|(?P<bond>->|<-|[-=#$:~/\\])|(?P<ring>\d|%\d\d|%\(\d{1,5}\))|(?P<mark>[().])"
)


def atom_places(text: str) -> list[int]:
    """Characters, counted from 1, at which the atoms of a SMILES begin."""
    return [
        match.start() + 1
        for match in _TOKEN.finditer(text)
        if match.lastgroup in ("bracket", "atom")
    ]


def fault(text: str) -> str | None:
    """The first character of a SMILES that breaks its grammar, and why; None if none does."""
    place, atoms = 0, 0
    opened: list[int] = []
    rings: dict[int, tuple[int, int]] = {}
    previous = "start"
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            return f"character {place + 1}: {_unknown(text, place)}"
        kind, token = str(match.lastgroup), match[0]
        where = f"character {place + 1}: "
        fault = _misplaced(token, kind, previous)
        if fault:
            return where + fault
        if kind == "bracket" and (fault := _bracket_fault(token)):
            return where + fault
        if token == "(":
            opened.append(place)
        elif token == ")":
            if not opened:
                return where + "this parenthesis was never opened"
            opened.pop()
        elif kind == "ring":
            label = int(token.strip("%()"))
            begun = rings.pop(label, None)
            if begun is None:
                rings[label] = (place, atoms)
            elif begun[1] == atoms:
                return where + f"ring {label} would bond an atom to itself"
            elif begun[1] == atoms - 1 and "." not in text[begun[0] : place]:
                return where + f"ring {label} would bond two neighbours a second time"
        if kind in ("bracket", "atom"):
            atoms += 1
        previous = "atom" if kind == "bracket" else token if kind == "mark" else kind
        place = match.end()
    if opened:
        return f"character {opened[-1] + 1}: this parenthesis is never closed"
    if rings:
        label, (place, _) = next(iter(rings.items()))
        return f"character {place + 1}: ring {label} is opened but never closed"
    if previous in ("bond", "."):
        return f"character {len(text)}: nothing follows {text[-1]!r}"
    return None


def _misplaced(token: str, kind: str, previous: str) -> str | None:
    """Why a token cannot stand after the one before it."""
    starts = previous in ("start", "(", ".")
    if kind == "ring" and previous in ("start", "(", ".", ")"):
        return f"ring number {token!r} must follow an atom"
    if kind == "bond" and (previous in ("start", "bond", ".")):
        return f"bond {token!r} must stand between two atoms"
    if token == "(" and (starts or previous == "bond"):
        return "a branch must follow an atom"
    if token == ")" and previous in ("(", "bond", "."):
        return "the branch ends without an atom"
    if token == "." and (previous in ("start", "(", ".", "bond")):
        return "no atom stands before the dot"
    return None


def _unknown(text: str, place: int) -> str:
    letter = text[place]
    if letter == "[":
        return "this bracket is never closed"
    if letter == "]":
        return "this bracket was never opened"
    if letter == "%":
        return "a ring number after % has two digits, such as %12"
    if letter.isalpha():
        for symbol in (text[place : place + 2], text[max(place - 1, 0) : place + 1], letter):
            if symbol in _SYMBOLS:
                return f"element {symbol} must stand in brackets: [{symbol}]"
        return f"{letter!r} is no element"
    return f"{letter!r} has no meaning here"


def _bracket_fault(token: str) -> str | None:
    """What is wrong in a bracket atom."""
    match = _BRACKET.fullmatch(token)
    if match is None:
        letters = re.match(r"\[\d*([A-Z][a-z]?|[a-z])", token)
        if letters and not {letters[1].title(), letters[1][0].upper()} & _SYMBOLS:
            return f"{letters[1]!r} in {token} is no element"
        return f"{token} is no atom: isotope, element, @, H, charge and map, in this order"
    symbol = match["symbol"]
    if symbol[0] not in "*#" and symbol.title() not in _SYMBOLS:
        return f"{symbol!r} in {token} is no element"
    return None
