"""Columns on one ruler: what can be compared, counted in steps of the finest of them.

Two columns are compared as whole numbers: prices of two decimals as cents, a day and a time of
seconds as seconds since 1970. So a difference is exact, "at least as large" survives rounding, and
the step of a strict inequality is one. Only floats without a fixed number of decimals are compared
as they are.

A ruler may run backwards (`sign` -1): then "above" is below, and one rule serves both directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.errors import ConfigError
from scidiffusion.tabular import dates
from scidiffusion.tabular.arrow import with_arrow, without_arrow
from scidiffusion.tabular.columns import (
    series_from_ticks,
    series_from_values,
    ticks_from_series,
)
from scidiffusion.tabular.schema import ColumnKind, ColumnSchema

__all__ = ["Ruler"]

_LARGEST = 2**62
_EXACT = 2**53


@dataclass(frozen=True)
class Ruler:
    """A common scale of some columns.

    Args:
        decimals: Numbers: steps are 10**-decimals; None compares floats as they are.
        unit: Dates and durations: the unit of a step.
        sign: 1, or -1 to look from above.
    """

    decimals: int | None = None
    unit: str | None = None
    sign: int = 1

    @classmethod
    def of(cls, columns: Sequence[ColumnSchema], sign: int = 1) -> Self:
        """The ruler of columns that can be compared.

        Args:
            columns: Their schemas, at least one.
            sign: 1, or -1 to look from above.

        Raises:
            ConfigError: If they cannot be compared: other kinds, or dates with and without zone.
        """
        first = columns[0]
        for column in columns:
            if column.kind.is_discrete or not column.kind.is_modelled:
                raise ConfigError(
                    f"an inequality needs numbers, dates or durations, and column {column.name!r} "
                    f"is {column.kind}"
                )
            zones = (first.timezone is None) != (column.timezone is None)
            if column.kind is not first.kind or zones:
                raise ConfigError(
                    f"columns {first.name!r} and {column.name!r} cannot be compared: "
                    f"{_described(first)} and {_described(column)}"
                )
        if first.kind is not ColumnKind.NUMERICAL:
            return cls._of_times(columns, sign)
        known = [column.decimals for column in columns if column.decimals is not None]
        narrow = {_single(column) for column in columns if not _whole(column)}
        decimals = max(known, default=0)
        ends = [abs(end) for c in columns for end in (c.minimum, c.maximum) if end is not None]
        whole = list(filter(_whole, columns))
        largest = max((max(abs(c.minimum or 0), abs(c.maximum or 0)) for c in whole), default=0)
        if largest >= (_LARGEST if len(whole) == len(columns) else _EXACT):
            raise ConfigError(
                f"an inequality cannot compare whole numbers as large as {largest} exactly "
                f"(column {first.name!r} or one compared with it); drop the constraint, or make "
                "the columns floats"
            )
        # Single and double precision write the same decimal as different numbers.
        exact = len(known) == len(columns) and len(narrow) < 2
        if not all(map(_whole, columns)):
            exact &= max(ends) * 10.0**decimals < _EXACT
        return cls(decimals=decimals if exact else None, sign=sign)

    @classmethod
    def _of_times(cls, columns: Sequence[ColumnSchema], sign: int) -> Self:
        # Local days begin at any hour of the common time.
        walls = ["s"] if any(column.wall_time for column in columns) else []
        unit = max([*walls, *(str(c.unit) for c in columns)], key=dates.UNITS.index)
        for column in columns:
            ends = (abs(int(end)) for end in (column.minimum, column.maximum) if end is not None)
            if max(ends) * dates.unit_ratio(str(column.unit), unit) >= _LARGEST:
                raise ConfigError(
                    f"an inequality cannot compare column {column.name!r}: its dates are too far "
                    f"from 1970 to be counted in {unit}; round the other column"
                )
        return cls(unit=unit, sign=sign)

    @property
    def is_exact(self) -> bool:
        """Whether values are whole numbers."""
        return self.decimals is not None or self.unit is not None

    def read(self, series: pd.Series, column: ColumnSchema) -> tuple[NDArray[Any], NDArray[Any]]:
        """Values on the ruler.

        Args:
            series: The column.
            column: Its schema.

        Returns:
            Shape (n,) each: int64 (float64 without a common step), 0 where missing; and which are
            missing.
        """
        series = without_arrow(series)
        missing = series.isna().to_numpy()
        values = np.zeros(len(series), dtype=np.int64 if self.is_exact else np.float64)
        present = series[~missing]
        if len(present) == 0:
            return values, missing
        if self.unit is not None:
            values[~missing] = self._common(ticks_from_series(present, column), column)
        elif self.decimals is None:
            values[~missing] = present.to_numpy(np.float64)
        elif _whole(column):
            whole = present.to_numpy(np.int64)
            values[~missing] = whole * 10**self.decimals
        else:
            scaled = present.to_numpy(np.float64) * 10.0**self.decimals
            values[~missing] = np.rint(scaled).astype(np.int64)
        return self.sign * values, missing

    def read_numbers(self, numbers: NDArray[np.float64], column: ColumnSchema) -> NDArray[Any]:
        """Numbers on the ruler.

        Args:
            numbers: As of :func:`scidiffusion.tabular.columns.numbers_from_series`, none missing.
            column: The column's schema.

        Returns:
            As :meth:`read`.
        """
        minimum = column.minimum
        assert minimum is not None
        if self.unit is not None:
            ticks = np.rint(numbers).astype(np.int64) + int(minimum)
            return self.sign * self._common(ticks, column)
        if isinstance(minimum, int):
            whole = np.rint(numbers).astype(np.int64) + minimum
            return self.sign * whole * (10**self.decimals if self.decimals is not None else 1.0)
        if self.decimals is None:
            return self.sign * numbers
        return self.sign * np.rint(numbers * 10.0**self.decimals).astype(np.int64)

    def write(
        self,
        values: NDArray[Any],
        floor: NDArray[Any],
        strict: NDArray[np.bool_],
        missing: NDArray[np.bool_],
        column: ColumnSchema,
    ) -> tuple[pd.Series, NDArray[Any]]:
        """Values as a column: rounded to its format, and nowhere below the floor.

        Args:
            values: On the ruler, shape (n,).
            floor: The least value allowed; of floats, with `strict`, the greatest not allowed.
            strict: Floats: whether the floor itself is not allowed.
            missing: Which are missing.
            column: The column's schema.

        Returns:
            The column, and its values on the ruler.
        """
        if self.is_exact:
            own, common = self._settle(values, floor, column)
            return self._restore(own, missing, column), common
        rounded = _settle_floats(self.sign * values, self.sign * floor, strict, column, self.sign)
        plain: NDArray[Any] = np.where(missing, 0.0, rounded)
        if _whole(column):
            plain = plain.astype(np.int64)
        series = series_from_values(plain, missing, column)
        return with_arrow(series, column.arrow), self.sign * rounded

    def _settle(
        self, values: NDArray[np.int64], floor: NDArray[np.int64], column: ColumnSchema
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Round to the column's own grid: counts of its unit there, and values on the ruler."""
        step = self._step(column)
        own = (self._local(self.sign * values, column) + step // 2) // step
        common = self.sign * self._common(own, column)
        low = common < floor
        if low.any():
            bound = self._local(self.sign * floor[low], column)
            own[low] = -(-bound // step) if self.sign > 0 else bound // step
            common = self.sign * self._common(own, column)
            # Where the clock is put back, the next local time may still be too early.
            own[common < floor] += self.sign
            common = self.sign * self._common(own, column)
        return own, common

    def _step(self, column: ColumnSchema) -> int:
        """Steps of the ruler in one of the column's own."""
        if self.unit is not None:
            return dates.unit_ratio(str(column.unit), self.unit)
        assert self.decimals is not None
        assert column.decimals is not None
        return int(10 ** (self.decimals - column.decimals))

    def _common(self, own: NDArray[np.int64], column: ColumnSchema) -> NDArray[np.int64]:
        """Counts of the column's own step, in local time where it has it, on the ruler."""
        ticks = own * self._step(column)
        if not column.wall_time:
            return ticks
        # A local time that the clock shows twice or skips is read as the later one.
        index = pd.DatetimeIndex(ticks.astype(f"M8[{self.unit}]"))
        standard = np.zeros(len(index), dtype=bool)
        zoned = index.tz_localize(
            column.timezone, ambiguous=standard, nonexistent="shift_forward"
        ).tz_convert(None)
        return zoned.to_numpy(f"M8[{self.unit}]").astype(np.int64)

    def _local(self, ticks: NDArray[np.int64], column: ColumnSchema) -> NDArray[np.int64]:
        if not column.wall_time:
            return ticks
        index = pd.DatetimeIndex(ticks.astype(f"M8[{self.unit}]")).tz_localize("UTC")
        local = index.tz_convert(column.timezone).tz_localize(None)
        return local.to_numpy(f"M8[{self.unit}]").astype(np.int64)

    def _restore(
        self, own: NDArray[np.int64], missing: NDArray[np.bool_], column: ColumnSchema
    ) -> pd.Series:
        if self.unit is not None:
            return series_from_ticks(own, missing, column)
        assert column.decimals is not None
        # The nearest float of the decimal, since both sides of the division are exact.
        values = own if _whole(column) else own / 10.0**column.decimals
        return with_arrow(series_from_values(values, missing, column), column.arrow)


def _settle_floats(
    values: NDArray[np.float64],
    floor: NDArray[np.float64],
    strict: NDArray[np.bool_],
    column: ColumnSchema,
    sign: int,
) -> NDArray[np.float64]:
    """Round to the column's decimals and precision, to the allowed side of the floor."""
    kind = np.float32 if _single(column) else np.float64
    if column.decimals is None:
        values = values.astype(kind).astype(np.float64)
        low = _below(values, floor, strict, sign)
        nearest = floor.astype(kind)
        beyond = np.nextafter(nearest, kind(sign * np.inf))
        inside = ~_below(nearest.astype(np.float64), floor, strict, sign)
        return np.where(low, np.where(inside, nearest, beyond), values)
    scale = 10.0**column.decimals

    def written(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        return (counts / scale).astype(kind).astype(np.float64)

    counts = np.rint(values * scale)
    low = _below(written(counts), floor, strict, sign)
    counts = np.where(low, np.rint(floor * scale), counts)
    counts = np.where(_below(written(counts), floor, strict, sign), counts + sign, counts)
    found = written(counts)
    # Beyond 2**53 floats are further apart than one.
    beyond = np.nextafter(floor.astype(kind), kind(sign * np.inf))
    return np.where(_below(found, floor, strict, sign), beyond, found)


def _below(
    values: NDArray[np.float64], floor: NDArray[np.float64], strict: NDArray[np.bool_], sign: int
) -> NDArray[np.bool_]:
    return (sign * values < sign * floor) | (strict & (values == floor))


def _whole(column: ColumnSchema) -> bool:
    """Whether a column is stored as integers."""
    return column.kind is ColumnKind.NUMERICAL and isinstance(column.minimum, int)


def _single(column: ColumnSchema) -> bool:
    return column.dtype.lower() in ("float16", "float32")


def _described(column: ColumnSchema) -> str:
    if column.kind is ColumnKind.DATETIME:
        return "dates " + ("without a time zone" if column.timezone is None else "with a zone")
    return {"numerical": "numbers", "timedelta": "durations"}.get(column.kind, str(column.kind))
