"""How a frame is laid out: what it takes to read another one alike and to answer in its shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.timeseries.frequency import quiet_business_days, to_offset_alias

JOINT = "all"
"""Name of the only item where the series of a frame are forecast jointly."""


@dataclass(frozen=True)
class FrameLayout:
    """Layout of a frame; see the module.

    Args:
        freq: Normalised frequency.
        long: Whether rows are (series, time) pairs; else columns are series.
        joint: Whether the series are one item.
        time: Column of times; None is the index.
        index_name: Name of the index of times in what is returned.
        item_id: Column of the series' names in a long frame.
        targets: Columns of values.
        series: Names of the series of the only item, where joint.
        known: Columns of covariates known in advance.
        past: Columns of covariates of the past.
        stamps: "period", "start", "end" or the distance of a stamp from its period's start.
        timezone: Time zone of the stamps, or None.
        static_real: Columns of static numbers.
        static_cat: Column of static classes -> its levels.
    """

    freq: str
    long: bool
    joint: bool
    time: str | None
    index_name: str | None
    item_id: str | None
    targets: tuple[str, ...]
    series: tuple[str, ...]
    known: tuple[str, ...] = ()
    past: tuple[str, ...] = ()
    stamps: str = "start"
    timezone: str | None = None
    static_real: tuple[str, ...] = ()
    static_cat: Mapping[str, tuple[str, ...]] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the layout as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        values = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in record.items()
        }
        cat = values.get("static_cat")
        if cat is not None:
            values["static_cat"] = {name: tuple(levels) for name, levels in cat.items()}
        return cls(**values)

    @property
    def utc(self) -> bool:
        """Whether stamps with a time zone are counted in UTC: those shorter than a day are."""
        return self.timezone is not None and _shorter_than_a_day(self.freq)

    def stamp(self, index: pd.PeriodIndex) -> pd.DatetimeIndex | pd.PeriodIndex:
        """Return periods as the user stamps them."""
        if self.stamps == "period":
            return index
        with quiet_business_days():
            if self.stamps == "end":
                stamps = index.to_timestamp(how="end").normalize()
            else:
                stamps = index.to_timestamp(how="start")
                if self.stamps != "start":
                    stamps = stamps + pd.Timedelta(self.stamps)
        if self.timezone is not None:
            if self.utc:
                stamps = stamps.tz_localize("UTC").tz_convert(self.timezone)
            else:
                stamps = stamps.tz_localize(
                    self.timezone, ambiguous=True, nonexistent="shift_forward"
                )
        try:
            stamps.freq = to_offset_alias(self.freq, "start" if self.stamps == "start" else "end")
        except ValueError:
            pass  # stamps that pandas has no name for are given without one
        return stamps

    def arrange(
        self,
        indexes: Sequence[pd.PeriodIndex],
        names: Sequence[tuple[str, tuple[str, ...]]],
        tables: Sequence[NDArray[np.float64]],
        levels: Sequence[str] | None,
    ) -> pd.DataFrame:
        """Lay values out like the frame that was read.

        Args:
            indexes: Periods of each item.
            names: (item, names of its series).
            tables: (H, D, L) values of each item.
            levels: Names of the L values of a cell; None where L is 1 and needs no name.
        """
        if self.long:
            return self._long(indexes, names, tables, levels)
        columns: dict[Any, pd.Series] = {}
        for index, (item, series), table in zip(indexes, names, tables, strict=True):
            stamps = self.stamp(index)
            for place, name in enumerate(series):
                column = name if self.joint else item
                for number in range(table.shape[2]):
                    key = column if levels is None else (column, levels[number])
                    columns[key] = pd.Series(table[:, place, number], index=stamps)
        # Items may end at different times: the union of their steps, without values where none.
        frame = pd.DataFrame(columns)
        if levels is not None:
            frame.columns = pd.MultiIndex.from_tuples(list(columns), names=["series", "quantile"])
            if len({name for name, _ in columns}) == 1:
                frame.columns = pd.Index([level for _, level in columns])
        frame.index.name = self.index_name
        return frame

    def _long(
        self,
        indexes: Sequence[pd.PeriodIndex],
        names: Sequence[tuple[str, tuple[str, ...]]],
        tables: Sequence[NDArray[np.float64]],
        levels: Sequence[str] | None,
    ) -> pd.DataFrame:
        parts = []
        for index, (item, series), table in zip(indexes, names, tables, strict=True):
            stamps = self.stamp(index)
            rows = (
                [(name, place) for place, name in enumerate(series)] if self.joint else [(item, 0)]
            )
            for name, place in rows:
                part: dict[str, Any] = {
                    self.item_id or "item_id": name,
                    self.time or self.index_name or "time": stamps,
                }
                # Of several values a row, each has a column of its own.
                places = [place] if self.joint else list(range(len(series)))
                for target in places:
                    label = self.targets[0] if self.joint else self.targets[target]
                    for number in range(table.shape[2]):
                        key = label if levels is None else levels[number]
                        if levels is not None and len(places) > 1:
                            key = f"{label}/{levels[number]}"
                        part[key] = table[:, target, number]
                parts.append(pd.DataFrame(part))
        return pd.concat(parts, ignore_index=True)


def _shorter_than_a_day(freq: str) -> bool:
    from scidiffusion.timeseries.frequency import DAY, NANOSECONDS, split_freq

    number, unit = split_freq(freq)
    return unit in NANOSECONDS and number * NANOSECONDS[unit] < DAY
