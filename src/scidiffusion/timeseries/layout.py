"""How a frame is laid out: what it takes to read another one alike and to answer in its shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.timeseries.frequency import periods_of
from scidiffusion.timeseries.stamps import StampStyle

JOINT = "all"
"""Name of the only item where the series of a frame are forecast jointly."""
_TUPLES = ("targets", "series", "known", "past", "static_real")


@dataclass(frozen=True)
class FrameLayout:
    """Layout of a frame.

    Args:
        freq: Normalised frequency.
        long: Whether rows are (series, time) pairs; else columns are series.
        joint: Whether the series are one item.
        time: Column of times; None is the index.
        index_name: Name of the times, or None.
        item_id: Column of the series' names in a long frame.
        targets: Columns of values.
        chosen: Whether these were named by the user; else every other column is one.
        series: Names of the series of the only item, where joint.
        known: Columns of covariates known in advance.
        past: Columns of covariates of the past.
        stamps: How periods are stamped.
        static_real: Columns of static numbers.
        static_cat: Column of static classes -> its levels.
        labels: Series -> its label in the frame, which need not be text; of one frame, not saved.
    """

    freq: str
    long: bool
    joint: bool
    time: str | None
    index_name: str | None
    item_id: str | None
    targets: tuple[str, ...]
    chosen: bool = False
    series: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    past: tuple[str, ...] = ()
    stamps: StampStyle = field(default_factory=StampStyle)
    static_real: tuple[str, ...] = ()
    static_cat: Mapping[str, tuple[str, ...]] | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the layout as a JSON object."""
        record = {name: value for name, value in asdict(self).items() if name != "labels"}
        return record | {name: list(record[name]) for name in _TUPLES}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        values = dict(record)
        values |= {name: tuple(values[name]) for name in _TUPLES}
        if values["static_cat"] is not None:
            cat: Mapping[str, list[str]] = values["static_cat"]
            values["static_cat"] = {name: tuple(levels) for name, levels in cat.items()}
        values["stamps"] = StampStyle(**values["stamps"])
        return cls(**values)

    def label(self, name: str) -> Any:
        """Return a series as the frame calls it."""
        return self.labels.get(name, name)

    def arrange(
        self,
        indexes: Sequence[pd.PeriodIndex],
        names: Sequence[tuple[str, tuple[str, ...]]],
        tables: Sequence[NDArray[np.float64]],
        levels: Sequence[str] | None = None,
        *,
        draws: bool = False,
    ) -> pd.DataFrame:
        """Lay values out like the frame that was read.

        Args:
            indexes: Periods of each item; in a wide frame all are the same.
            names: (item, names of its series).
            tables: (H, D, L) values of each item.
            levels: Names of the L values of a cell, which become columns.
            draws: Whether the L values are draws, which lie one below the other and are told
                apart by a level of the index, or a column, "sample". With neither, L is 1.

        Returns:
            Wide: an index of times, a column a series. Long: columns of names, times and values.
        """
        arrange = self._long if self.long else self._wide
        return arrange(indexes, names, tables, levels, draws)

    def _wide(
        self,
        indexes: Sequence[pd.PeriodIndex],
        names: Sequence[tuple[str, tuple[str, ...]]],
        tables: Sequence[NDArray[np.float64]],
        levels: Sequence[str] | None,
        draws: bool,
    ) -> pd.DataFrame:
        values = np.concatenate(tables, axis=1)  # (H, C, L)
        times: pd.Index = self.stamps.stamps(indexes[0]).rename(self.index_name)
        series = [
            self.label(name)
            for item, parts in names
            for name in (parts if self.joint else (item,))
        ]
        columns = pd.Index(series)
        if draws:
            count = values.shape[2]
            index = pd.MultiIndex.from_product(
                [range(count), times], names=["sample", self.index_name]
            )
            return pd.DataFrame(
                np.moveaxis(values, 2, 0).reshape(-1, len(series)), index=index, columns=columns
            )
        if levels is None:
            return pd.DataFrame(values[..., 0], index=times, columns=columns)
        columns = pd.Index(levels)
        if len(series) > 1:
            columns = pd.MultiIndex.from_product([series, levels], names=["series", "quantile"])
        return pd.DataFrame(values.reshape(len(values), -1), index=times, columns=columns)

    def _long(
        self,
        indexes: Sequence[pd.PeriodIndex],
        names: Sequence[tuple[str, tuple[str, ...]]],
        tables: Sequence[NDArray[np.float64]],
        levels: Sequence[str] | None,
        draws: bool,
    ) -> pd.DataFrame:
        if self.joint:
            # The series of the only item, one below the other, in the one column of values.
            rows = [(name, indexes[0]) for name in names[0][1]]
            values = tables[0].transpose(1, 0, 2).reshape(-1, 1, tables[0].shape[2])
        else:
            rows = [(item, index) for (item, _), index in zip(names, indexes, strict=True)]
            values = np.concatenate(tables)  # (rows, V, L)
        ids = np.repeat(np.arange(len(rows)), [len(index) for _, index in rows])
        ordinals = np.concatenate([np.asarray(index.asi8) for _, index in rows])
        times = self.stamps.stamps(periods_of(ordinals, self.freq))
        labels = pd.Series([self.label(name) for name, _ in rows])
        item_id = self.item_id or "item_id"
        taken = [item_id, *self.targets]
        time = _free(self.time or self.index_name or "time", taken)
        frame = pd.DataFrame({item_id: labels.iloc[ids].to_numpy(), time: times})
        if draws:
            count = values.shape[2]
            frame = pd.concat([frame] * count, ignore_index=True)
            frame[_free("sample", [*taken, time])] = np.repeat(np.arange(count), len(ids))
            values = np.moveaxis(values, 2, 0).reshape(-1, values.shape[1], 1)
        for place, target in enumerate(self.targets[: values.shape[1]]):
            for number, level in enumerate(levels or [""]):
                if levels is None:
                    name = target
                else:
                    name = level if values.shape[1] == 1 else f"{target}/{level}"
                frame[name] = values[:, place, number]
        return frame


def _free(name: str, taken: Sequence[str]) -> str:
    """Return the name, lengthened until no other column is called so."""
    while name in taken:
        name += "_"
    return name
