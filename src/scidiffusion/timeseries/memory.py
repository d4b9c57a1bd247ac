"""The series that a forecaster keeps, so that it can be asked without a frame.

Sampling new windows needs dates, levels and covariates; a chart needs the recent past. All of the
training series are kept up to `MEMORY` numbers, beyond that whole items chosen at random. They are
saved with the model: a folder that is given away holds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scidiffusion.timeseries.frequency import periods_of, quiet_business_days
from scidiffusion.timeseries.series import Series, SeriesSet

__all__ = ["MEMORY", "keep", "restore", "state"]

MEMORY = 2_000_000
"""Numbers (targets and covariates) that are kept at most: 16 MB."""
PREFIX = "memory."


def keep(series: SeriesSet, seed: int, limit: int = MEMORY) -> SeriesSet:
    """Return as many items as the limit allows, chosen at random, in their order.

    Args:
        series: Training series.
        seed: Of the choice.
        limit: Numbers that are kept at most; of an item that is larger, its last steps are.
    """
    sizes = np.array([item.target.size + item.known.size + item.past.size for item in series])
    if sizes.sum() <= limit:
        return series
    order = np.random.default_rng(seed).permutation(len(series))
    kept = order[np.cumsum(sizes[order]) <= limit]
    if len(kept):
        return SeriesSet([series[int(place)] for place in np.sort(kept)], series.freq)
    item = series[int(order[0])]
    rows = len(item.target) + len(item.known) + len(item.past)
    return SeriesSet([item.tail(max(limit // rows, 1))], series.freq)


def state(series: SeriesSet) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return series as JSON and tensors."""
    about = {
        "freq": series.freq,
        "items": [item.item_id for item in series],
        "names": [list(item.names) for item in series],
    }
    parts = {
        name: np.concatenate([getattr(item, name).reshape(-1) for item in series])
        for name in ("target", "known", "past", "static_real", "static_cat")
    }
    first = series[0]
    parts["shape"] = np.array(
        [len(getattr(first, name)) for name in ("known", "past", "static_real", "static_cat")]
    )
    parts["start"] = np.array([item.start.ordinal for item in series])
    parts["length"] = np.array([item.length for item in series])
    parts["known_length"] = np.array([item.known.shape[1] for item in series])
    tensors = {PREFIX + name: torch.from_numpy(np.array(part)) for name, part in parts.items()}
    return about, tensors


def restore(
    about: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[SeriesSet, dict[str, Tensor]]:
    """Read what `state` returned, and hand back the tensors that are not of the memory."""
    parts = {
        name.removeprefix(PREFIX): tensor.numpy()
        for name, tensor in tensors.items()
        if name.startswith(PREFIX)
    }
    others = {name: value for name, value in tensors.items() if not name.startswith(PREFIX)}
    counts = dict(zip(("known", "past", "static_real", "static_cat"), parts["shape"], strict=True))
    at = dict.fromkeys(("target", *counts), 0)

    def take(name: str, rows: int, length: int) -> np.ndarray:
        begin = at[name]
        at[name] = begin + rows * length
        cut: np.ndarray = parts[name][begin : at[name]].reshape(rows, length)
        return cut

    items = []
    with quiet_business_days():
        starts = periods_of(parts["start"], about["freq"])
        for place, (name, names) in enumerate(zip(about["items"], about["names"], strict=True)):
            length = int(parts["length"][place])
            items.append(
                Series(
                    take("target", len(names), length),
                    starts[place],
                    name,
                    tuple(names),
                    take("known", int(counts["known"]), int(parts["known_length"][place])),
                    take("past", int(counts["past"]), length),
                    take("static_real", 1, int(counts["static_real"])),
                    take("static_cat", 1, int(counts["static_cat"])),
                )
            )
    return SeriesSet(items, about["freq"]), others
