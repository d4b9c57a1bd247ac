"""Ranges of one column: any two ends, brought to values that the column can have.

A column holds whole numbers, decimals of so many places, or counts of a unit of time. An end that
lies between two of them, or that does not belong to the range, moves inwards to the next possible
value, so that every range becomes a closed one; an end beyond the observed range moves to it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pandas as pd

from scidiffusion.errors import ConditionError
from scidiffusion.tabular import columns
from scidiffusion.tabular.schema import ColumnKind, ColumnSchema
from scidiffusion.tabular.values import check_value, observed_range, read_number, read_time

__all__ = ["closed_range", "ends", "levels_in_range"]

_CALENDAR: dict[str, pd.DateOffset] = {
    "Y": pd.DateOffset(years=1),
    "Q": pd.DateOffset(months=3),
    "M": pd.DateOffset(months=1),
    "D": pd.DateOffset(days=1),
}


def ends(column: ColumnSchema) -> tuple[float, float]:
    """The observed range in the units of :func:`scidiffusion.tabular.columns.number_from_value`.

    Args:
        column: The schema of a column of numbers, dates or durations.
    """
    assert column.minimum is not None
    assert column.maximum is not None
    if column.kind is ColumnKind.NUMERICAL and not isinstance(column.minimum, int):
        return float(column.minimum), float(column.maximum)
    return 0.0, float(column.maximum - column.minimum)


def closed_range(
    column: ColumnSchema, low: Any, high: Any, include_low: bool, include_high: bool
) -> tuple[float, float]:
    """Bring a range of numbers, dates or durations to closed ends that are possible values.

    Args:
        column: The column's schema.
        low: The low end, None for open.
        high: The high end, None for open. Text that names a year, a month, a day, ... stands for
            the whole of it.
        include_low: Whether the low end belongs to the range.
        include_high: Whether the high end belongs to the range.

    Returns:
        The ends, within the observed range, in the units of :func:`ends`.

    Raises:
        ConditionError: If an end is of another type, the ends are exchanged, or no value that the
            column can have, or has been seen to have, lies between them.
    """
    first, last = ends(column)
    lower = -math.inf if low is None else _end(column, low, upper=False, include=include_low)
    upper = math.inf if high is None else _end(column, high, upper=True, include=include_high)
    if lower <= upper and max(lower, first) <= min(upper, last):
        return max(lower, first), min(upper, last)
    signs = "[" if include_low else "(", "]" if include_high else ")"
    shown = f"{signs[0]}{_shown(low)}, {_shown(high)}{signs[1]}"
    if lower <= upper:
        why = f"is outside the observed range {observed_range(column)}"
    elif _read(column, low) > _read(column, high):
        why = "is empty: its low end is above its high end; exchange them"
    else:
        why = "holds no value that the column can have; widen it"
    raise ConditionError(f"condition on {column.name!r}: the range {shown} {why}")


def _shown(end: Any) -> str:
    return "..." if end is None else str(end)


def _read(column: ColumnSchema, value: Any) -> Any:
    numeric = column.kind is ColumnKind.NUMERICAL
    return read_number(column, value) if numeric else read_time(column, value)


def _end(column: ColumnSchema, value: Any, *, upper: bool, include: bool) -> float:
    """One end, moved inwards to the next value that the column can have."""
    if column.kind is not ColumnKind.NUMERICAL:
        time = read_time(column, value)
        if isinstance(value, str) and upper == include:
            after = _after(value, time)
            if after is not None:
                time, include = after, not include
        return _inwards(columns.number_from_value(time, column), 0, upper, include)
    number = read_number(column, value)
    if math.isinf(number):
        return float(number)
    if isinstance(column.minimum, int):
        # As integers, of which a float would lose digits.
        whole = math.floor(number) if upper else math.ceil(number)
        if whole == number and not include:
            whole += -1 if upper else 1
        return float(whole - column.minimum)
    single = column.dtype.lower() in ("float16", "float32")
    narrow = np.dtype(column.dtype.lower() if single else "float64").type
    if column.decimals is not None:
        near = float(np.round(number, column.decimals))
        # The single nearest to .3 is .30000001, and means .3.
        decimal = near if narrow(near) == narrow(number) else float(number)
        return float(narrow(_inwards(decimal, column.decimals, upper, include)))
    end = narrow(number)
    outside = float(end) > number if upper else float(end) < number
    if outside or (float(end) == number and not include):
        end = np.nextafter(end, narrow(-np.inf if upper else np.inf))
    return float(end)


def _inwards(number: float, decimals: int, upper: bool, include: bool) -> float:
    """The nearest decimal on the inner side of a number."""
    nearest = float(np.round(number, decimals))
    inner = float(np.round(nearest + (-1 if upper else 1) * 10.0**-decimals, decimals))
    if math.isclose(nearest, number, rel_tol=1e-12, abs_tol=1e-12 * 10.0**-decimals):
        return nearest if include else inner
    return inner if (nearest > number) is upper else nearest


def _after(text: str, time: Any) -> Any:
    """The first moment after the year, month, day, ... that a text names; None if it is exact."""
    if not isinstance(time, pd.Timestamp):
        return None
    try:
        period = pd.Period(text)
    except (ValueError, TypeError):
        return None
    # Days and longer are counted on the calendar: a day may have 23 hours.
    calendar = _CALENDAR.get(period.freqstr[0])
    length = (period + 1).start_time - period.start_time
    return time + (length if calendar is None else calendar)


def levels_in_range(
    column: ColumnSchema, low: Any, high: Any, include_low: bool, include_high: bool
) -> list[int]:
    """The levels in a range of an ordered column, or of one whose levels are numbers.

    Args:
        column: A categorical or boolean column's schema.
        low: The low end, None for open; of an ordered column one of its levels.
        high: The high end, None for open.
        include_low: Whether the low end belongs to the range.
        include_high: Whether the high end belongs to the range.

    Returns:
        Indices into ``column.categories``, ascending; never empty.

    Raises:
        ConditionError: If the levels have no order, an end is none of them, or none is between.
    """
    if column.ordered:
        levels = list(column.levels or column.categories)
        # A level of the dtype may end a range though no row has it.
        whole = dataclasses.replace(column, categories=tuple(levels))
        lower = -math.inf if low is None else levels.index(check_value(whole, low))
        upper = math.inf if high is None else levels.index(check_value(whole, high))
        ranks: list[Any] = [levels.index(level) for level in column.categories]
    elif all(isinstance(v, int | float) and not isinstance(v, bool) for v in column.categories):
        lower = -math.inf if low is None else read_number(column, low)
        upper = math.inf if high is None else read_number(column, high)
        ranks = list(column.categories)
    else:
        raise ConditionError(
            f"condition on {column.name!r}: a range needs an order, which its values do not have; "
            "list the values, or fit on an ordered pandas Categorical"
        )
    chosen = [
        code
        for code, rank in enumerate(ranks)
        if (lower <= rank if include_low else lower < rank)
        and (rank <= upper if include_high else rank < upper)
    ]
    if not chosen:
        known = ", ".join(repr(level) for level in column.categories[:10])
        raise ConditionError(
            f"condition on {column.name!r}: no known value lies between {_shown(low)} and "
            f"{_shown(high)}; in their order they are {known}"
        )
    return chosen
