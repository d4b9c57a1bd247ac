"""Filling gaps, and generating windows: draws in which any cells are hidden.

A series is covered by overlapping windows, and each missing cell is taken from the window in which
it lies most central, so that it is seen from both sides. Paths are joint within a window. A window
of which nothing is given is drawn from scratch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from scidiffusion.core.rng import KeyedNoise
from scidiffusion.errors import ConfigError, DataError
from scidiffusion.timeseries.drawing import block_size, walk
from scidiffusion.timeseries.model import positive
from scidiffusion.timeseries.series import Series, SeriesSet

if TYPE_CHECKING:
    from scidiffusion.timeseries.window_model import WindowModel


def check_trained(model: WindowModel, what: str) -> None:
    """Raise ConfigError if the model never saw hidden cells but those of the future."""
    if not model.options["gap_share"]:
        raise ConfigError(f"{what} needs a model that was fitted with gap_share > 0")


@torch.no_grad()
def fill_gaps(
    model: WindowModel,
    items: Sequence[Series],
    *,
    num_samples: int = 100,
    num_steps: int | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> list[NDArray[np.float64]]:
    """Draw the missing cells of items.

    Args:
        model: Fitted with `gap_share` > 0.
        items: Series with NaN where a value is to be drawn.
        num_samples: Paths S.
        num_steps: Network evaluations of a window.
        seed: Seed.
        progress: Called with the number of items done.

    Returns:
        One (S, T, D) array an item; observed cells are as given.

    Raises:
        ConfigError: if the model was fitted without gaps.
        DataError: if an item does not fit the model.
    """
    check_trained(model, "impute")
    num_samples = positive("num_samples", num_samples)
    model.check_items([_with_future(item, model.horizon) for item in items])
    length = model.denoiser.kriging.length
    results = []
    for number, item in enumerate(items):
        filled = np.repeat(item.target[None], num_samples, axis=0)  # (S, D, T)
        missing = ~np.isfinite(item.target)
        if missing.any():
            bank = model.bank_of(SeriesSet([item], model.freq))
            bank.to(model.device)
            ends = _ends(item.length, length)
            owner = _owners(ends, item.length, length)
            needed = {k for k in range(len(ends)) if missing[:, owner == k].any()}
            size = max(1, block_size(model, num_samples) * model.zone // length)
            for start in range(0, len(ends), size):
                # Neighbours are drawn whether needed or not: so a window has noise of its own.
                part = list(range(start, min(start + size, len(ends))))
                if needed.isdisjoint(part):
                    continue
                chosen = part + [part[-1]] * (size - len(part))
                origin = torch.tensor([ends[k] - model.zone for k in chosen], device=bank.device)
                index = torch.zeros_like(origin)
                window = bank.windows(index, origin, model.context, model.zone)
                context = model.denoiser.gap_context(window, torch.zeros_like(window.observed))
                # Rows are keyed by the window's place in the series, blocks by the item.
                noise = KeyedNoise(seed, start=part[0] * num_samples, stream=("gaps", str(number)))
                drawn = walk(
                    model, context, num_samples=num_samples, num_steps=num_steps, noise=noise
                )
                values = bank.restore(index, context.frame.value(drawn)).cpu().numpy()
                for place, k in enumerate(part):
                    steps = np.flatnonzero(owner == k)
                    cells = values[place][:, :, steps - (ends[k] - length)]
                    own = missing[:, steps]
                    filled[:, :, steps] = np.where(own, cells, filled[:, :, steps])
        results.append(filled.transpose(0, 2, 1))
        if progress is not None:
            progress(number + 1)
    return results


@torch.no_grad()
def generate_windows(
    model: WindowModel,
    series: SeriesSet,
    n: int,
    *,
    num_steps: int | None = None,
    seed: int = 0,
) -> list[Series]:
    """Draw n new windows of `context + horizon` steps, at the dates of random windows of `series`.

    Calendar, covariates, level and spread are those of the window whose dates are taken; no value
    of it is seen.

    Returns:
        n items with observed targets.
    """
    check_trained(model, "sample")
    rng = np.random.default_rng(seed)
    length, size = model.denoiser.kriging.length, 64
    items = [item for item in series if item.length >= length]
    if not items:
        raise DataError(
            f"sample draws windows of {length} steps, and every series of the training data is "
            "shorter; fit with a smaller context_length"
        )
    weights = np.array([item.length - length + 1 for item in items], dtype=float)
    picks = rng.choice(len(items), size=n, p=weights / weights.sum())
    ends = [int(rng.integers(length, items[pick].length + 1)) for pick in picks]
    bank = model.bank_of(SeriesSet(items, model.freq)).to(model.device)
    results: list[Series] = []
    for start in range(0, n, size):
        rows = list(range(start, min(start + size, n)))
        chosen = rows + [rows[-1]] * (size - len(rows))
        index = torch.tensor([int(picks[row]) for row in chosen], device=bank.device)
        origin = torch.tensor([ends[row] - model.zone for row in chosen], device=bank.device)
        window = bank.windows(index, origin, model.context, model.zone)
        context = model.denoiser.gap_context(window, torch.ones_like(window.observed))
        noise = KeyedNoise(seed, start=start, stream=("generate",))
        drawn = walk(model, context, num_samples=1, num_steps=num_steps, noise=noise)
        values = bank.restore(index, context.frame.value(drawn)).cpu().numpy()[:, 0]
        for place, row in enumerate(rows):
            item = items[int(picks[row])]
            first = ends[row] - length
            results.append(
                Series(
                    values[place],
                    item.start + first,
                    item_id=f"{item.item_id}/{row}",
                    names=item.names,
                )
            )
    return results


def _with_future(item: Series, horizon: int) -> Series:
    """Return the item with room for covariates that a gap does not need."""
    if not item.known.size or item.known.shape[1] >= item.length + horizon:
        return item
    missing = item.length + horizon - item.known.shape[1]
    known = np.concatenate([item.known, np.repeat(item.known[:, -1:], missing, axis=1)], axis=1)
    return replace(item, known=known)


def _ends(total: int, length: int) -> list[int]:
    """Last steps (exclusive) of windows that cover `total` steps, half a window apart."""
    if total <= length:
        return [total]
    stride = max(length // 2, 1)
    return sorted({*range(length, total, stride), total})


def _owners(ends: list[int], total: int, length: int) -> NDArray[np.int64]:
    """Window in which each step lies most central, (total,)."""
    middle = np.array(ends) - length / 2
    steps = np.arange(total) + 0.5
    return np.abs(steps[:, None] - middle[None]).argmin(1)
