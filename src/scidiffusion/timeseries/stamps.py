"""Stamps: what a table puts at its steps, and the periods that they stand for.

A frequency is read off stamps (`infer_freq`), stamps become periods (`StampStyle.periods`), and
periods become stamps of the same kind (`StampStyle.stamps`), so that a forecast goes on where the
table ends. With a time zone, steps shorter than a day are counted in UTC where they are regular
there, so that no hour occurs twice; longer ones follow local clocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import tzinfo
from typing import Literal, NoReturn, Self, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.errors import DataError
from scidiffusion.timeseries.frequency import (
    DAY,
    NANOSECONDS,
    WEEKDAYS,
    ending,
    normalise_freq,
    periods_of,
    quiet_business_days,
    split_freq,
    to_offset_alias,
)

__all__ = ["StampStyle", "Stamps", "infer_freq"]

Stamps: TypeAlias = pd.DatetimeIndex | pd.PeriodIndex
Anchor: TypeAlias = Literal["period", "start", "end", "business start", "business end"]


@dataclass(frozen=True)
class StampStyle:
    """How a table stamps its periods.

    Args:
        anchor: "period" where the table holds periods itself; else the day of a period from which
            stamps are measured: its first or last one, or its first or last working day.
        shift: Nanoseconds from the beginning of that day to the stamp.
        timezone: Name of the time zone, or None.
        utc: Whether periods are counted in UTC rather than by local clocks.
    """

    anchor: Anchor = "start"
    shift: int = 0
    timezone: str | None = None
    utc: bool = False

    @classmethod
    def of(cls, stamps: Stamps, freq: str, prefer: StampStyle | None = None) -> Self:
        """Recognise the style of a table.

        Args:
            stamps: At least one.
            freq: Normalised frequency.
            prefer: Style that is kept where the stamps fit several, which few do.

        Raises:
            DataError: for a time zone without a name.
        """
        if isinstance(stamps, pd.PeriodIndex):
            return cls("period")
        zone = _zone(stamps)
        utc = zone is not None and _shorter_than_a_day(freq)
        if utc and not _on_grid(_clock(stamps, utc=True), freq):
            utc = not _on_grid(_clock(stamps, utc=False), freq)
        times = _clock(stamps, utc=utc).as_unit("ns")
        unit = split_freq(freq)[1]
        with quiet_business_days():
            periods = times.to_period(unit)
        anchors = [prefer.anchor] if prefer is not None and prefer.anchor != "period" else []
        anchors += ["start", "end", "business start", "business end"]
        if unit[0] not in "MQY":
            anchors = ["start"]
        shifts = {anchor: times.asi8 - _day(periods, anchor).asi8 for anchor in anchors}
        for anchor, shift in shifts.items():
            if 0 <= shift[0] < DAY and (shift == shift[0]).all():
                return cls(anchor, int(shift[0]), zone, utc)
        # A fixed day of the month, or stamps that keep to no rule: the most frequent distance.
        found, counts = np.unique(shifts["start"], return_counts=True)
        return cls("start", int(found[np.argmax(counts)]), zone, utc)

    def periods(self, stamps: Stamps, freq: str, name: str) -> pd.PeriodIndex:
        """Return the periods that stamps of one series stand for, in their order.

        Args:
            stamps: Of any style, with a time zone if this one has.
            freq: Normalised frequency.
            name: Name of the series, for messages.

        Raises:
            DataError: if two stamps fall into one period, one lies off the grid, or periods have
                another frequency; the message names series and stamp.
        """
        number, unit = split_freq(freq)
        if isinstance(stamps, pd.PeriodIndex):
            if normalise_freq(stamps.freqstr) != freq:
                raise DataError(
                    f"series {name!r} has periods of {stamps.freqstr!r} from {stamps[0]} on, but "
                    f"the frequency is {freq!r}; convert them with asfreq"
                )
            with quiet_business_days():
                same = split_freq(freq)[1] == stamps.freqstr.lstrip("0123456789")
                ordinals = (stamps if same else stamps.asfreq(unit, how="START")).asi8
        else:
            with quiet_business_days():
                ordinals = _clock(stamps, utc=self.utc).to_period(unit).asi8
        _check_single(stamps, ordinals, freq, name)
        off = (ordinals - ordinals.min()) % number != 0
        if off.any():
            raise DataError(
                f"series {name!r} is irregular at {stamps[int(np.argmax(off))]}, which is no "
                f"whole number of steps of freq={freq!r} after {stamps[int(ordinals.argmin())]}; "
                "put it on a grid, or give a finer freq"
            )
        return periods_of(ordinals, freq)

    def stamps(self, index: pd.PeriodIndex) -> Stamps:
        """Return periods as the table stamps them."""
        if self.anchor == "period":
            return index
        freq = normalise_freq(index.freqstr)
        # A multiple such as "2M" is stamped within its first single step.
        periods = periods_of(np.asarray(index.asi8), split_freq(freq)[1])
        times = _day(periods, self.anchor) + pd.Timedelta(self.shift, "ns")
        if self.timezone is not None and self.utc:
            times = times.tz_localize("UTC").tz_convert(self.timezone)
        elif self.timezone is not None:
            first = np.ones(len(times), dtype=bool)
            times = times.tz_localize(self.timezone, ambiguous=first, nonexistent="shift_forward")
        for alias in self._aliases(freq, times):
            try:
                return pd.DatetimeIndex(times, freq=alias)
            except Exception:
                # Stamps that pandas has no name for are given without one. What it raises depends
                # on the time zone: ValueError, or an error of pytz.
                continue
        return times

    def _aliases(self, freq: str, times: pd.DatetimeIndex) -> Iterator[str]:
        """Names of the stamps' frequency that may fit."""
        number, unit = split_freq(freq)
        if len(times) and unit[0] == "W":
            yield f"{number}W-{WEEKDAYS[times[0].weekday()]}"
        elif unit[0] in "MQY":
            alias = to_offset_alias(freq, "start" if "start" in self.anchor else "end")
            if "business" in self.anchor:
                digits = len(alias) - len(alias.lstrip("0123456789"))
                alias = f"{alias[:digits]}B{alias[digits:]}"
            yield alias
        else:
            yield freq


def _day(periods: pd.PeriodIndex, anchor: str) -> pd.DatetimeIndex:
    """Day (or the start of a shorter period) from which stamps of an anchor are measured."""
    with quiet_business_days():
        if "end" in anchor:
            day = periods.to_timestamp(how="end").normalize()
        else:
            day = periods.to_timestamp(how="start")
    if "business" in anchor:
        roll: Literal["forward", "backward"] = "forward" if "start" in anchor else "backward"
        moved = np.busday_offset(day.to_numpy().astype("M8[D]"), 0, roll=roll)
        day = pd.DatetimeIndex(moved)
    return day.as_unit("ns")


def _zone(stamps: pd.DatetimeIndex) -> str | None:
    if stamps.tz is None:
        return None
    name = str(stamps.tz)
    try:
        pd.Timestamp(0).tz_localize(name)
    except Exception:
        raise DataError(
            f"the time zone {stamps.tz!r} has no name by which it could be saved; convert the "
            'stamps, e.g. with df.tz_convert("Europe/Berlin") or "UTC"'
        ) from None
    return name


def _clock(stamps: pd.DatetimeIndex, *, utc: bool) -> pd.DatetimeIndex:
    """Return stamps without time zone: in UTC, or as local clocks show them."""
    if stamps.tz is None:
        return stamps
    if utc:
        return stamps.tz_convert("UTC").tz_localize(None)
    wall = stamps.tz_localize(None)
    # Where clocks go forward at midnight the day begins at one o'clock.
    before = (stamps - pd.Timedelta(1, "ns")).tz_localize(None).normalize()
    return wall.where(before == wall.normalize(), wall.normalize())


def _shorter_than_a_day(freq: str) -> bool:
    number, unit = split_freq(freq)
    return unit in NANOSECONDS and number * NANOSECONDS[unit] < DAY


def _on_grid(times: pd.DatetimeIndex, freq: str) -> bool:
    number, unit = split_freq(freq)
    ordinals = times.to_period(unit).asi8
    return bool(((ordinals - ordinals[0]) % number == 0).all())


def _check_single(stamps: Stamps, ordinals: NDArray[np.int64], freq: str, name: str) -> None:
    """Raise DataError if two stamps are the same or fall into one period."""
    if stamps.has_duplicates:
        twice = stamps[stamps.duplicated()][0]
        raise DataError(
            f"series {name!r} has two rows at {twice}; keep one of them, or name the column that "
            "tells the series apart with item_id="
        )
    order = np.argsort(ordinals, kind="stable")
    same = np.flatnonzero(np.diff(ordinals[order]) == 0)
    if len(same):
        one, other = stamps[order[same[0]]], stamps[order[same[0] + 1]]
        raise DataError(
            f"series {name!r} has two rows, at {one} and {other}, in one period of "
            f"freq={freq!r}; aggregate them, or give a finer freq"
        )


def infer_freq(index: Stamps, item_id: str) -> str:
    """Read the frequency off the stamps of one series.

    Steps may be missing as long as the smallest spacing divides every other. Months, quarters and
    years may be stamped on any one day of the month, the last day, or the first or last working
    day. Stamps on working days alone, over at least one weekend, are business days. A weekly
    frequency ends on the day of its stamps.

    Args:
        index: At least 3 stamps, all different, in any order. With a time zone, steps of a day or
            longer are looked for in local time, shorter ones in UTC first.
        item_id: Name of the series, for messages.

    Returns:
        The canonical frequency.

    Raises:
        DataError: if there are too few stamps, one occurs twice, or they are irregular; it names
            the first irregular stamp and its neighbours.
    """
    if isinstance(index, pd.PeriodIndex):
        return normalise_freq(index.freqstr)
    if index.tz is None:
        return _infer(index, item_id)
    wall, universal = _clock(index, utc=False), _clock(index, utc=True)
    try:
        freq = _infer(wall, item_id)
    except DataError:
        # An hour that local clocks repeat or leave out makes regular stamps look irregular.
        return _infer(universal, item_id, index.tz)
    if _shorter_than_a_day(freq):
        try:
            return _infer(universal, item_id, index.tz)
        except DataError:
            return freq
    return freq


def _infer(index: pd.DatetimeIndex, item_id: str, zone: tzinfo | None = None) -> str:
    """Read the frequency off stamps without time zone; those in UTC are shown in `zone`."""
    values = np.sort(index.as_unit("ns").asi8)
    gaps = np.diff(values)
    if len(values) < 3:
        raise DataError(
            f"series {item_id!r} has {len(values)} time stamps, too few to tell its frequency; "
            'give freq, e.g. freq="h"'
        )
    if (gaps == 0).any():
        twice = _shown(values, zone)[int(np.argmin(gaps))]
        raise DataError(f"series {item_id!r} has two values at {twice}; keep one of them")
    smallest = int(gaps.min())
    months = _months(values) if smallest >= 28 * DAY else None
    if months:
        return months
    regular = bool((gaps % smallest == 0).all())
    if (smallest == DAY or not regular) and _business_days(values):
        return "B"
    if not regular:
        _irregular(values, gaps, item_id, _shown(values, zone))
    if smallest % (7 * DAY) == 0:
        return normalise_freq(f"{smallest // (7 * DAY)}W-{_weekday(int(values[0]))}")
    return normalise_freq(f"{smallest}ns")


def _shown(values: NDArray[np.int64], zone: tzinfo | None) -> list[str]:
    stamps = pd.DatetimeIndex(values)
    if zone is not None:
        stamps = stamps.tz_localize("UTC").tz_convert(zone)
    return [str(stamp) for stamp in stamps]


def _weekday(value: int) -> str:
    return WEEKDAYS[pd.Timestamp(value).weekday()]


def _business_days(values: NDArray[np.int64]) -> bool:
    days = (values // DAY).view("M8[D]")
    if len(np.unique(values % DAY)) > 1 or not np.is_busday(days).all():
        return False
    working, all_days = np.busday_count(days[:-1], days[1:]), np.diff(days.astype(np.int64))
    return bool(working.min() == 1 and (working < all_days).any())


def _month_days(values: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which stamps lie on the day that most months share: counted from their end, their start."""
    days = (values // DAY).view("M8[D]")
    months = days.astype("M8[M]")
    first, following = months.astype("M8[D]"), (months + 1).astype("M8[D]")
    ends = [days == following - 1, days == np.busday_offset(following, -1, roll="forward")]
    number = (days - first).astype(np.int64)
    starts = [
        days == np.busday_offset(first, 0, roll="forward"),
        number == np.bincount(number).argmax(),
    ]
    return max(ends, key=np.count_nonzero), max(starts, key=np.count_nonzero)


def _months(values: NDArray[np.int64]) -> str | None:
    """Frequency of stamps that are whole months apart, or None."""
    months = (values // DAY).view("M8[D]").astype("M8[M]")
    ends, starts = (bool(found.all()) for found in _month_days(values))
    numbers = months.astype(np.int64)
    step = int(np.gcd.reduce(np.diff(numbers)))
    if len(np.unique(values % DAY)) > 1 or not (ends or starts) or step == 0:
        return None
    last = int(numbers[0]) + (0 if ends else step - 1)
    if step % 12 == 0:
        return normalise_freq(f"{step // 12}Y-{ending('Y', last)}")
    if step % 3 == 0:
        # A stamp on the first day opens a quarter, whatever the multiple.
        last = last if ends else int(numbers[0]) + 2
        return normalise_freq(f"{step // 3}Q-{ending('Q', last)}")
    return normalise_freq(f"{step}M")


def _irregular(
    values: NDArray[np.int64], gaps: NDArray[np.int64], item_id: str, stamps: list[str]
) -> NoReturn:
    """Raise for the first stamp off the grid of the most frequent spacing."""
    lengths, counts = np.unique(gaps, return_counts=True)
    usual = int(lengths[np.argmax(counts)])
    if usual >= 28 * DAY:
        # Months differ in length: what their stamps have in common is the day.
        ends, starts = _month_days(values)
        off = ~(ends if ends.sum() > starts.sum() else starts)
        alias = "MS"
        spacing = f"{usual // DAY} days"
    else:
        off = np.concatenate([[False], gaps % usual != 0])
        alias = normalise_freq(f"{usual}ns")
        spacing = alias
    place = int(np.argmax(off))
    beside = f"after {stamps[place - 1]}" if place else "first"
    if place + 1 < len(stamps):
        beside += f" and before {stamps[place + 1]}"
    raise DataError(
        f"series {item_id!r} is irregular at {stamps[place]} ({beside}), where steps of "
        f"{spacing} are usual; put it on a grid, e.g. with df.resample({alias!r}).mean()"
    )
