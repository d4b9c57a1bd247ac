"""Drawing forecasts, in blocks whose shape does not depend on how many are asked for.

Items are drawn a few at a time, the last block filled up with repetitions, and the noise of a path
is keyed by (seed, item, path): the same seed gives the same paths whatever else is forecast in the
same call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scidiffusion.core.rng import KeyedNoise
from scidiffusion.core.schedules import check_steps
from scidiffusion.samplers import make_sampler, sample
from scidiffusion.timeseries.denoiser import ColouredProcess, Context
from scidiffusion.timeseries.guidance import GuidedWindow
from scidiffusion.timeseries.model import positive
from scidiffusion.timeseries.series import Series, SeriesSet
from scidiffusion.timeseries.wishes import Wishes, as_list

if TYPE_CHECKING:
    from scidiffusion.timeseries.bank import SeriesBank
    from scidiffusion.timeseries.window_model import WindowModel

BLOCK_ROWS = 2000
"""(Item, path, series) triples that a CPU draws at once, about."""
SPARE = 512
"""Steps beyond the look-back from which a series' own level and spread are measured."""


def recent_part(item: Series, length: int) -> Series:
    """Return the last `length` steps, or all of them if a series has no value in the last ones."""
    part = item.tail(length)
    return part if bool(np.isfinite(part.target).any(axis=1).all()) else item


def block_size(model: WindowModel, num_samples: int) -> int:
    """Items that are drawn at once."""
    rows = BLOCK_ROWS if model.device.type == "cpu" else 100 * BLOCK_ROWS
    return max(1, min(64, rows // (num_samples * model.dim)))


def walk(
    model: WindowModel,
    context: Context,
    *,
    num_samples: int,
    num_steps: int | None,
    noise: KeyedNoise,
    denoiser: Any = None,
) -> Tensor:
    """Draw residuals (B, S, D, Z) of the windows of a context.

    Paths 2k and 2k + 1 start from opposite noise (Hammersley & Morton 1956): each has the right
    law, and the errors of the two in a mean or a quantile about cancel.
    """
    windows, zone = context.h.shape[0], context.frame.base.shape[-1]
    steps = check_steps(int(model.options["num_steps"] if num_steps is None else num_steps))
    sampler = make_sampler(model.options["sampler"])
    # Forecasts alone were judged for the temperature; gaps are drawn as they were trained.
    warmth = 1.0 if context.gaps else float(model.denoiser.temperature)
    schedule, law = model.denoiser.process.schedule, context.frame.law
    process = ColouredProcess(schedule, law, windows, warmth)
    pairs = -(-num_samples // 2) if model.options["antithetic"] else num_samples
    like = context.frame.base.new_empty(windows * pairs, context.frame.base.shape[1], zone)
    start = replace(noise, start=noise.start // num_samples * pairs).child("prior")
    z = process.prior(like, start).unflatten(0, (windows, pairs))
    if pairs < num_samples:
        z = torch.stack([z, -z], dim=2).flatten(1, 2)[:, :num_samples]
    z = z.flatten(0, 1)
    drawn: Tensor = sample(
        process,
        denoiser or model.denoiser,
        z,
        sampler=sampler,
        steps=steps,
        noise=noise,
        cond=context,
        z=z,
    )
    return drawn.unflatten(0, (windows, num_samples))


@torch.no_grad()
def draw_forecasts(
    model: WindowModel,
    items: Sequence[Series],
    *,
    num_samples: int,
    num_steps: int | None,
    seed: int,
    first: int,
    progress: Callable[[int], None] | None,
    wishes: Wishes | Sequence[Wishes | None] | None = None,
) -> list[NDArray[np.float64]]:
    """See `SeriesModel.forecast`."""
    num_samples = positive("num_samples", num_samples)
    items = list(items)
    model.check_items(items)
    wished = as_list(wishes, len(items))
    recent = [recent_part(item, model.back + SPARE) for item in items]
    results: list[NDArray[np.float64]] = []
    # Guidance is of one window's frame; unguided items go in blocks.
    size = 1 if any(wish is not None for wish in wished) else block_size(model, num_samples)
    for start in range(0, len(items), size):
        part = recent[start : start + size]
        filled = part + [part[-1]] * (size - len(part))
        bank = model.bank_of(SeriesSet(filled, model.freq)).to(model.device)
        paths = draw_block(
            model,
            bank,
            bank.length,
            num_samples=num_samples,
            num_steps=num_steps,
            noise=KeyedNoise(seed, start=(first + start) * num_samples),
            wish=wished[start],
        )
        results += [path[..., : model.horizon].transpose(0, 2, 1) for path in paths[: len(part)]]
        if progress is not None:
            progress(start + len(part))
    return results


def draw_block(
    model: WindowModel,
    bank: SeriesBank,
    end: Tensor,
    *,
    num_samples: int,
    num_steps: int | None,
    noise: KeyedNoise,
    wish: Wishes | None = None,
) -> NDArray[np.float64]:
    """Forecast item i of a bank from origin end[i]: (B, S, D, Z) in the data's units."""
    item = torch.arange(len(bank), device=bank.device)
    window = model.window(bank, item, end)
    context = model.denoiser.forecast_context(window)
    guided = None
    if wish is not None:
        guided = GuidedWindow(model.denoiser, wish.terms(bank, model.horizon, model.zone))
    residual = walk(
        model,
        context,
        num_samples=num_samples,
        num_steps=num_steps,
        noise=noise,
        denoiser=guided,
    )
    value = context.frame.value(residual)
    if guided is not None:
        value = guided.finish(value, context)
    paths = bank.restore(item, value).cpu().numpy()
    return wish.exact(paths, model.horizon) if wish is not None else paths
