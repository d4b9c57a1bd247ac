"""Dates as whole numbers of the coarsest unit that describes them, and dates written as text.

A calendar date is a whole number of days, a log time a whole number of seconds: a column of times
is modelled as a count of its own *unit*, so that what comes back never has an hour where the
original had none. A date that a CSV file holds as text is recognised only if *one* strict format
parses every value and prints it again letter by letter; the format is remembered.

Formats are those of ``strftime`` with one addition: ``%3f`` (a digit from 1 to 9) stands for a
fraction of a second with that many digits. Anything else, such as a trailing ``Z``, is literal.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.tseries.api import guess_datetime_format

__all__ = [
    "coarsest_unit",
    "detect_format",
    "format_dates",
    "looks_like_date",
    "parse_dates",
    "unit_ratio",
]

# Units from coarse to fine, in nanoseconds, under numpy's names ("m" is the minute).
_NANOSECONDS = {
    "D": 86_400_000_000_000,
    "h": 3_600_000_000_000,
    "m": 60_000_000_000,
    "s": 1_000_000_000,
    "ms": 1_000_000,
    "us": 1_000,
    "ns": 1,
}
UNITS = tuple(_NANOSECONDS)

_ISO = re.compile(
    r"\d{4}(?P<date>[-/])\d\d(?P=date)\d\d"
    r"(?:(?P<sep>[T ])\d\d:\d\d(?P<second>:\d\d(?:\.(?P<fraction>\d{1,9}))?)?"
    r"(?P<zone>Z|[+-]\d\d:\d\d)?)?"
)
_COMPACT = re.compile(r"\d{8}T\d{6}(?P<zone>Z?)")
_FRACTION = re.compile(r"%([1-9])f")
# Stands for the fraction while strftime runs; no date format contains it.
_HOLE = "{}"


def unit_ratio(coarse: str, fine: str) -> int:
    """How many ``fine`` units one ``coarse`` unit holds.

    Args:
        coarse: One of ``D h m s ms us ns``.
        fine: A unit that is not coarser.

    Returns:
        The whole number, e.g. 24 for days and hours.
    """
    return _NANOSECONDS[coarse] // _NANOSECONDS[fine]


def coarsest_unit(ticks: NDArray[np.int64], unit: str) -> str:
    """The coarsest unit of which every tick is a whole number.

    Args:
        ticks: Counts of ``unit`` since some midnight, without missing values.
        unit: The unit of ``ticks``.

    Returns:
        One of ``D h m s ms us ns``, never finer than ``unit``.
    """
    for candidate in UNITS[: UNITS.index(unit)]:
        if not np.any(ticks % unit_ratio(candidate, unit)):
            return candidate
    return unit


def looks_like_date(text: str) -> bool:
    """Whether a text is written like a date of ISO 8601: the others need not be parsed.

    Args:
        text: Any text.
    """
    return _iso_format(text) is not None


def detect_format(texts: pd.Series, *, guess: bool = False) -> str | None:
    """Find the one strict date format of a column of text.

    Args:
        texts: Distinct, non-missing strings.
        guess: Also try formats other than ISO 8601 (``31/12/2020``), day last before day first.

    Returns:
        The format, or None if no format reproduces every string exactly.
    """
    if len(texts) == 0:
        return None
    first = str(texts.iloc[0])
    candidates = [_iso_format(first)]
    if guess:
        with warnings.catch_warnings():
            # Both orders are tried, so a warning about the wrong one has nothing to say.
            warnings.simplefilter("ignore", UserWarning)
            candidates += [guess_datetime_format(first, dayfirst=flag) for flag in (False, True)]
    for candidate in candidates:
        if candidate is None:
            continue
        dates = parse_dates(texts, candidate)
        if dates is None:
            continue
        if bool((format_dates(dates.to_numpy(), candidate) == texts.to_numpy(object)).all()):
            return candidate
    return None


def _iso_format(text: str) -> str | None:
    """The format of one ISO 8601 text (dashes or slashes), None if it is none."""
    match = _ISO.fullmatch(text)
    if match is None:
        compact = _COMPACT.fullmatch(text)
        return None if compact is None else "%Y%m%dT%H%M%S" + compact["zone"]
    pattern = match["date"].join(("%Y", "%m", "%d"))
    if match["sep"]:
        pattern += match["sep"] + "%H:%M"
        if match["second"]:
            pattern += ":%S"
        if match["fraction"]:
            pattern += f".%{len(match['fraction'])}f"
        pattern += match["zone"] or ""
    return pattern


def parse_dates(texts: pd.Series, pattern: str) -> pd.Series | None:
    """Read dates of one format.

    Args:
        texts: Strings, none missing.
        pattern: A format of this module.

    Returns:
        Naive ``datetime64[ns]`` values with the index of ``texts``, or None if one does not fit.
    """
    codes, distinct = pd.factorize(texts)
    try:
        dates = pd.to_datetime(
            pd.Series(distinct, dtype=object),
            format=_FRACTION.sub("%f", pattern),
            errors="coerce",
            exact=True,
        )
    except ValueError:
        return None
    if dates.dtype != "datetime64[ns]" or dates.isna().any():
        return None
    return pd.Series(dates.to_numpy()[codes], index=texts.index)


def format_dates(dates: NDArray[Any], pattern: str) -> NDArray[Any]:
    """Write dates in one format.

    Args:
        dates: ``datetime64`` values of shape (n,), none missing.
        pattern: A format of this module.

    Returns:
        Object array of strings, shape (n,).
    """
    codes, distinct = pd.factorize(dates)
    index = pd.DatetimeIndex(distinct)
    fraction = _FRACTION.search(pattern)
    if fraction is None:
        texts = index.strftime(pattern).to_numpy(object)
    else:
        digits = int(fraction[1])
        rest = index.to_numpy("datetime64[ns]").astype(np.int64) % _NANOSECONDS["s"]
        holed = index.strftime(pattern.replace(fraction[0], _HOLE))
        texts = np.array(
            [
                text.replace(_HOLE, f"{nanoseconds:09d}"[:digits])
                for text, nanoseconds in zip(holed, rest, strict=True)
            ],
            dtype=object,
        )
    return texts[codes] if len(texts) else np.empty(0, dtype=object)
