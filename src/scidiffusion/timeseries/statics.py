"""What does not change about a series: numbers and classes from a frame indexed by series."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.errors import DataError
from scidiffusion.timeseries.layout import FrameLayout


def read_static(static: pd.DataFrame, layout: FrameLayout) -> FrameLayout:
    """Return the layout with the columns of `static` and the levels of its classes.

    Raises:
        DataError: if `static` is no frame, or a number in it is missing.
    """
    if not isinstance(static, pd.DataFrame) or static.index.has_duplicates:
        raise DataError("static must be a frame with one row a series, indexed by its name")
    real, cat = [], {}
    for name in static:
        column = static[name]
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            if not np.isfinite(column.to_numpy(dtype=np.float64, na_value=np.nan)).all():
                raise DataError(f"the static column {name!r} has missing or infinite values")
            real.append(str(name))
        else:
            cat[str(name)] = tuple(str(level) for level in pd.unique(column.dropna()))
    return replace(layout, static_real=tuple(real), static_cat=cat)


def static_of(
    static: pd.DataFrame | None, layout: FrameLayout, name: str
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return numbers and class codes of one series; -1 for a class that was never seen.

    Raises:
        DataError: if the model was fitted with static columns and the series has no row of them.
    """
    levels = dict(layout.static_cat or {})
    if not layout.static_real and not levels:
        return np.empty(0), np.empty(0, dtype=np.int64)
    if static is None:
        raise DataError("the model was fitted with static columns; give static= here, too")
    named = static.set_axis([str(key) for key in static.index], axis=0)
    if name not in named.index:
        raise DataError(f"series {name!r} has no row in static")
    row = named.loc[name]
    real = np.array([float(row[column]) for column in layout.static_real])
    codes = [
        values.index(str(row[column])) if str(row[column]) in values else -1
        for column, values in levels.items()
    ]
    return real, np.array(codes, dtype=np.int64)
