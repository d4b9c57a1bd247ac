"""Frequencies: one canonical name each, with their seasons and calendar.

Frequencies are spoken of as *periods* throughout: a step is a span of time, and whether a table
stamps it at its start or at its end is a matter of the table
(`scidiffusion.timeseries.stamps`). The canonical name is the alias `pandas.Period` takes: "30min",
"h", "D", "B", "W-SUN", "M", "Q-DEC", "Y-DEC", with a multiple in front.

pandas has deprecated periods of business days ("B") without a replacement that can be counted.
They are used here all the same, their FutureWarning silenced by `quiet_business_days`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from typing import Literal, NoReturn

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.errors import ConfigError

__all__ = [
    "calendar_cycles",
    "calendar_features",
    "normalise_freq",
    "periods_of",
    "quiet_business_days",
    "seasons",
    "split_freq",
    "to_offset_alias",
]

NANOSECONDS = {
    "D": 86_400_000_000_000,
    "h": 3_600_000_000_000,
    "min": 60_000_000_000,
    "s": 1_000_000_000,
    "ms": 1_000_000,
    "us": 1_000,
    "ns": 1,
}
"""Length of the units that have one, the longest first."""
DAY = NANOSECONDS["D"]
WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
# Months and milliseconds differ from minutes and from each other in their capitals alone.
_CASED = dict.fromkeys(("M", "ME", "MS", "BM", "BME", "BMS"), "M") | {"ms": "ms", "L": "ms"}
_NAMES = {
    "D": "d day days daily",
    "h": "h hr hour hours hourly",
    "min": "t min mins minute minutes minutely",
    "s": "s sec secs second seconds secondly",
    "us": "us u",
    "ns": "ns n",
    "B": "b bday bdays",
    "W": "w week weeks weekly",
    "M": "month months monthly",
    "Q": "q qe qs bq bqe bqs quarter quarters quarterly",
    "Y": "a as y ye ys ba bas by bye bys year years yearly annual annually",
}
_UNITS = {name: unit for unit, names in _NAMES.items() for name in names.split()}
_PATTERN = re.compile(r"([+-]?\d+(?:\.\d+)?)?\s*([A-Za-z]+)(?:-([A-Za-z]{3}))?")
_MAX_SEASON = 3600
"""Longest season in steps, an hour of seconds; a longer one does not fit a window."""


@contextmanager
def quiet_business_days() -> Iterator[None]:
    """Silence the FutureWarning that pandas gives for every period of business days."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Period(Dtype\[B\]| with BDay)", FutureWarning)
        yield


def normalise_freq(freq: str) -> str:
    """Return the canonical period alias of a frequency.

    Args:
        freq: An alias of pandas, old or new, of periods or of stamps ("H", "30T", "MS", "QE-DEC",
            "W", "2h", "1.5h"), or an English word ("hourly", "day").

    Returns:
        The alias for `pandas.Period`. Multiples become the longest unit that divides them ("60min"
        is "h", "24h" is "D"); starts and ends of months, quarters and years are the same periods.

    Raises:
        ConfigError: for a name that is unknown or a multiple that is not positive.

    Example:
        >>> " ".join(map(normalise_freq, ("H", "30T", "MS", "Q", "AS", "W", "24h")))
        'h 30min M Q-DEC Y-DEC W-SUN D'
    """
    number, unit, anchor = _parse(freq)
    return (str(number) if number != 1 else "") + unit + (f"-{anchor}" if anchor else "")


def split_freq(freq: str) -> tuple[int, str]:
    """Return the multiple of a frequency and the period alias of its single step.

    Example:
        >>> split_freq("2W-MON")
        (2, 'W-MON')
    """
    number, unit, anchor = _parse(freq)
    return number, unit + (f"-{anchor}" if anchor else "")


def to_offset_alias(freq: str, at: Literal["start", "end"] = "end") -> str:
    """Return the alias for stamps, as in `pandas.date_range`.

    Args:
        freq: Any frequency.
        at: Whether months, quarters and years are stamped on their first or last day.

    Example:
        >>> to_offset_alias("M"), to_offset_alias("M", "start"), to_offset_alias("Q", "start")
        ('ME', 'MS', 'QS-JAN')
    """
    number, unit, anchor = _parse(freq)
    if unit in ("M", "Q", "Y"):
        unit += "E" if at == "end" else "S"
        if anchor and at == "start":
            anchor = _MONTHS[(_MONTHS.index(anchor) + 1) % 12]
    return (str(number) if number != 1 else "") + unit + (f"-{anchor}" if anchor else "")


@lru_cache(maxsize=1024)
def _parse(freq: str) -> tuple[int, str, str]:
    """Multiple, unit and anchor ("" if none)."""
    match = _PATTERN.fullmatch(freq.strip()) if isinstance(freq, str) else None
    if not match:
        _unknown(freq)
    number, name, anchor = Fraction(match[1] or 1), match[2], (match[3] or "").upper()
    if name == "m":
        raise ConfigError('freq "m" may be a month or a minute: say "M" or "min"')
    unit = _CASED.get(name) or _UNITS.get(name.lower())
    if unit is None:
        _unknown(freq)
    if number <= 0:
        raise ConfigError(
            f'freq {freq!r} must be a positive multiple, such as "{abs(number) or 1}{unit}"'
        )
    if unit in NANOSECONDS:
        length = number * NANOSECONDS[unit]
        if anchor or length.denominator != 1:
            _unknown(freq)
        unit = next(name for name in NANOSECONDS if length % NANOSECONDS[name] == 0)
        return int(length // NANOSECONDS[unit]), unit, ""
    if number.denominator != 1:
        raise ConfigError(
            f"freq {freq!r}: {unit} cannot be split into parts; give whole multiples"
        )
    allowed = WEEKDAYS if unit == "W" else _MONTHS if unit in ("Q", "Y") else ()
    if anchor and anchor not in allowed:
        _unknown(freq)
    if allowed:
        at_start = name.upper() in ("QS", "BQS", "AS", "YS", "BAS", "BYS")
        if anchor and at_start:
            anchor = ending(unit, _MONTHS.index(anchor) + (2 if unit == "Q" else 11))
        anchor = anchor or ("SUN" if unit == "W" else "DEC")
    return int(number), unit, anchor


def ending(unit: str, month: int) -> str:
    """Return the anchor of the quarters or years one of which ends in `month`, January being 0.

    Of the four names for the same quarters it is the last of the year, Q-DEC rather than Q-SEP.
    """
    return _MONTHS[month % 3 + 9 if unit == "Q" else month % 12]


def _unknown(freq: object) -> NoReturn:
    raise ConfigError(
        f'freq {freq!r} is not known; examples are "30min", "h", "D", "B" (business days), '
        '"W-SUN", "M", "Q", "Y", and multiples such as "2h"'
    )


def seasons(freq: str) -> tuple[int, ...]:
    """Return the periods with which series of a frequency tend to repeat, in steps, increasing.

    Hours and minutes have a day and a week (where that is at most 3600 steps), seconds a minute
    and an hour, days a week, business days five of them, weeks, months and quarters a year; years
    have none. Of a multiple such as "2h" those are kept that are whole and more than one step.

    Example:
        >>> seasons("h"), seasons("30min"), seasons("2h"), seasons("5h"), seasons("Y")
        ((24, 168), (48, 336), (12, 84), (), ())
    """
    number, unit, _ = _parse(freq)
    cycles: tuple[int, ...]
    if unit in NANOSECONDS:
        if unit == "D" and number % 7 == 0:
            number, cycles = number // 7, (52,)
        else:
            names = {"h": "Dw", "min": "Dw", "s": "mh", "D": "w"}.get(unit, "")
            lengths = {"D": DAY, "w": 7 * DAY, "h": DAY // 24, "m": DAY // 1440}
            cycles = tuple(lengths[name] // NANOSECONDS[unit] for name in names)
    else:
        cycles = {"B": (5,), "W": (52,), "M": (12,), "Q": (4,), "Y": ()}[unit]
    whole = (cycle // number for cycle in cycles if cycle % number == 0)
    return tuple(season for season in whole if 1 < season <= _MAX_SEASON)


# Cycles and their length in nanoseconds, or in the unit itself where it has no fixed length.
_CYCLES: dict[str, dict[str, float]] = {
    "ns": {},
    "us": {},
    "ms": {"minute": DAY / 1440, "hour": DAY / 24, "day": DAY},
    "s": {"minute": DAY / 1440, "hour": DAY / 24, "day": DAY, "week": 7 * DAY},
    "min": {"hour": DAY / 24, "day": DAY, "week": 7 * DAY, "year": 365 * DAY},
    "h": {"day": DAY, "week": 7 * DAY, "year": 365 * DAY},
    "D": {"week": 7 * DAY, "month": 30 * DAY, "year": 365 * DAY},
    "B": {"week": 5, "month": 21, "year": 260},
    "W": {"month": 4, "year": 52},
    "M": {"year": 12},
    "Q": {"year": 4},
    "Y": {},
}


def _cycles(freq: str) -> list[str]:
    """Names of the cycles that hold at least two steps."""
    number, unit, _ = _parse(freq)
    step = number * NANOSECONDS.get(unit, 1)
    return [name for name, length in _CYCLES[unit].items() if 2 * step <= length]


def calendar_cycles(freq: str) -> dict[str, float]:
    """Return the cycles of `calendar_features` by name, and how many steps each is long.

    Example:
        >>> calendar_cycles("h")
        {'day': 24.0, 'week': 168.0, 'year': 8760.0}
    """
    number, unit, _ = _parse(freq)
    step = number * NANOSECONDS.get(unit, 1)
    return {name: float(_CYCLES[unit][name] / step) for name in _cycles(freq)}


def calendar_features(index: pd.PeriodIndex) -> NDArray[np.float32]:
    """Return where each step lies in the cycles of the calendar, as sines and cosines.

    Of a step that begins the share p in [0, 1) into a cycle, the features are sin(2 pi p) and
    cos(2 pi p). Cycles are the hour, day, week and year for minutes; the day, week and year for
    hours; the week, month and year for days and business days; the month and year for weeks; the
    year for months and quarters; none for years; those left out of which a step is more than half.

    Args:
        index: T periods of any frequency.

    Returns:
        (F, T) float32 in [-1, 1]; two rows a cycle of `calendar_cycles`.
    """
    freq = index.freqstr
    cycles = _cycles(freq)
    result = np.empty((2 * len(cycles), len(index)), dtype=np.float32)
    if not cycles:
        return result
    starts = _starts(index, split_freq(freq)[1])
    for row, name in enumerate(cycles):
        angle = 2 * np.pi * _share(starts, name)
        result[2 * row], result[2 * row + 1] = np.sin(angle), np.cos(angle)
    return result


def periods_of(ordinals: NDArray[np.int64], freq: str) -> pd.PeriodIndex:
    """Return periods by their ordinals, which count single steps from 1970 whatever the multiple.

    Args:
        ordinals: (T,).
        freq: Normalised frequency, such as "2h", whose periods begin at the hours counted.
    """
    with quiet_business_days():
        found: pd.PeriodIndex = pd.PeriodIndex.from_ordinals(  # type: ignore[attr-defined]
            ordinals, freq=freq
        )
    return found


def _starts(index: pd.PeriodIndex, unit: str) -> NDArray[np.datetime64]:
    """Start of each period, in the coarsest unit that holds it."""
    # Ordinals count single steps from 1970 whatever the multiple, and so do numpy's dates.
    ordinals = np.asarray(index.asi8)
    if unit in NANOSECONDS:
        # Those of "24h" count hours, though its canonical name is "D".
        own = index.freqstr.lstrip("0123456789")
        return ordinals.view(f"M8[{'m' if own == 'min' else own}]")
    target = "M" if unit[0] in "MQ" else "D"
    with quiet_business_days():
        periods = periods_of(ordinals, unit).asfreq(target, how="START")
    return np.asarray(periods.asi8).view(f"M8[{target}]")


_PER_SECOND = {
    "D": 1 / 86400,
    "h": 1 / 3600,
    "m": 1 / 60,
    "s": 1.0,
    "ms": 1e3,
    "us": 1e6,
    "ns": 1e9,
}


def _share(starts: NDArray[np.datetime64], cycle: str) -> NDArray[np.float64]:
    if cycle in ("minute", "hour", "day", "week"):
        # Weeks begin on Mondays; 1970 began on a Thursday.
        length = {"minute": 60, "hour": 3600, "day": 86400, "week": 7 * 86400}[cycle]
        unit = _PER_SECOND[np.datetime_data(starts.dtype)[0]]
        shift = 3 * 86400 if cycle == "week" else 0
        return np.mod(starts.astype(np.int64) + shift * unit, length * unit) / (length * unit)
    outer = "M8[M]" if cycle == "month" else "M8[Y]"
    cycles = starts.astype(outer)
    begin, end = cycles.astype(starts.dtype), (cycles + 1).astype(starts.dtype)
    return (starts - begin) / (end - begin)
