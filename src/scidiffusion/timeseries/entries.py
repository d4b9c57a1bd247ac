"""Entries of GluonTS datasets: what they mean, and several as one.

An entry is a dict with `target` and `start` and, where there are any, features. Nothing of GluonTS
is needed to read one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from scidiffusion.errors import DataError
from scidiffusion.timeseries.frequency import normalise_freq, quiet_business_days
from scidiffusion.timeseries.series import Series

__all__ = ["group_series", "series_of"]


def series_of(entry: dict[str, Any], freq: str, counts: Sequence[int], number: int = 0) -> Series:
    """Turn an entry of a GluonTS dataset into a `Series`.

    Args:
        entry: Has `target` and `start`, and features where `counts` asks for them.
        freq: Normalised frequency that it must have.
        counts: Rows of dynamic, past, static real and static class features to read.
        number: Place of the entry, for messages where it has no `item_id`.

    Raises:
        DataError: if a field is missing, short, or of another frequency; the message names entry
            and field.
    """
    name = str(entry.get("item_id", number))
    start = entry["start"]
    with quiet_business_days():
        if not isinstance(start, pd.Period):
            start = pd.Period(start, freq=freq)
        if normalise_freq(start.freqstr) != freq:
            raise DataError(
                f"entry {name!r} has the frequency {start.freqstr!r}, but the estimator {freq!r}; "
                "resample the data, or give its own freq"
            )
        # The same periods under one spelling: GluonTS keeps whatever the file said.
        start = pd.Period(start.to_timestamp(), freq=freq)
    fields = ("feat_dynamic_real", "past_feat_dynamic_real", "feat_static_real", "feat_static_cat")
    found: list[np.ndarray] = []
    for field, count in zip(fields, counts, strict=True):
        value = np.asarray(entry[field], dtype=np.float64) if count and field in entry else None
        if count and (value is None or len(value) < count):
            have = 0 if value is None else len(value)
            raise DataError(f"entry {name!r} has {have} rows of {field}, but {count} are used")
        found.append(np.empty(0) if value is None else value[:count])
    return Series(
        np.atleast_2d(np.asarray(entry["target"], dtype=np.float64)),
        start,
        item_id=name,
        known=found[0],
        past=found[1],
        static_real=found[2],
        static_cat=found[3].astype(np.int64),
    )


def group_series(dataset: Iterable[dict[str, Any]], windows: int = 1) -> list[dict[str, Any]]:
    """Join univariate entries into multivariate ones, missing where a series has no value.

    GluonTS's `MultivariateGrouper` fills what does not line up with the mean or 0; here it is NaN,
    which the forecaster takes for what it is.

    Args:
        dataset: Entries, in a test set window by window, every window with all series.
        windows: Number of windows.

    Returns:
        One entry a window, its target (D, T).

    Raises:
        DataError: if the entries do not divide into windows, or frequencies or grids differ.
    """
    entries = list(dataset)
    if not entries or len(entries) % windows:
        raise DataError(f"{len(entries)} entries do not divide into {windows} windows")
    size = len(entries) // windows
    grouped = []
    for first in range(0, len(entries), size):
        part = entries[first : first + size]
        if len({entry["start"].freqstr for entry in part}) > 1:
            raise DataError("the entries of a window have different frequencies")
        with quiet_business_days():
            start = min(entry["start"] for entry in part)
            # Differences are counted in single steps, also of a multiple such as "2h".
            steps = [divmod((entry["start"] - start).n, start.freq.n) for entry in part]
        if any(rest for _, rest in steps):
            raise DataError(
                f"the entries of a window do not start on one grid of {start.freqstr!r} steps"
            )
        offsets = [offset for offset, _ in steps]
        ends = [offset + len(entry["target"]) for offset, entry in zip(offsets, part, strict=True)]
        target = np.full((size, max(ends)), np.nan)
        for row, (offset, entry) in enumerate(zip(offsets, part, strict=True)):
            target[row, offset : ends[row]] = entry["target"]
        grouped.append({"target": target, "start": start})
    return grouped
