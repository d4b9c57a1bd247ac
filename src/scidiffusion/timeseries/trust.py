"""How far the network's correction of the floor is trusted: two numbers from held-out windows.

For each of a few factors on the correction, paths are drawn from the origins of held-out windows
and scored by the CRPS of every series and, with several series, of their sum, in shares of the
floor's own. The best factor is kept; 0 is the floor itself, which is therefore never lost. Series
count alike, each in units of its own spread: in those of the data the largest of a few held-out
items would decide alone, and by chance. Then the noise of forecasts is scaled by the temperature
that scores best: tails heavier than Gaussian ones make standard deviations too large for the
middle, errors of a season not seen in training make them too small.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from scidiffusion.core.rng import KeyedNoise
from scidiffusion.timeseries.denoiser import Context
from scidiffusion.timeseries.drawing import walk
from scidiffusion.timeseries.masks import random_mask
from scidiffusion.timeseries.scoring_rules import fair_crps_cells
from scidiffusion.timeseries.splits import WindowRows

if TYPE_CHECKING:
    from scidiffusion.timeseries.bank import SeriesBank
    from scidiffusion.timeseries.window_model import WindowModel

FACTORS = (0.0, 0.25, 0.5, 0.75, 1.0)
TEMPERATURES = ((0.85, 0.7), (1.2, 1.4))
"""Colder and hotter than 1, step by step."""
GAIN = 0.995
"""A temperature that gains less than half a percent gains by chance."""
WINDOWS, PATHS = 128, 16
"""What the scores vary with is the windows: their number is worth more than that of the paths."""
SERIES = 1024
"""Series that are judged in all, about: with many in an item, few windows do."""
BLOCK = 64
"""Series that are drawn at once."""


@dataclass(frozen=True)
class Trial:
    """Windows whose hidden cells are known.

    Args:
        context: The windows, with the cells hidden.
        truth: (B, D, Z), in the data's units but for the level.
        spread: (B, D, 1) what standardised values are multiplied with to get there.
        judged: (B, D, Z) bool, cells that are hidden and known.
        start: Number of the first window; keys the noise.
    """

    context: Context
    truth: Tensor
    spread: Tensor
    judged: Tensor
    start: int


@torch.no_grad()
def choose_shrinkage(model: WindowModel, bank: SeriesBank, held: WindowRows, seed: int) -> None:
    """Set the denoiser's shrinkage, of forecasts and of gaps, and its temperature to the best."""
    rows = held.pick(max(4, min(WINDOWS, SERIES // model.dim)), seed + 1)
    rows = WindowRows(rows.item.to(bank.device), rows.end.to(bank.device))
    denoiser = model.denoiser.eval()
    denoiser.temperature.fill_(1.0)
    trials = list(_forecasts(model, bank, rows))
    losses = _losses(model, denoiser.shrinkage, FACTORS, trials, seed)
    model.trust = _scores(losses)
    denoiser.shrinkage.fill_(_best(model.trust))
    _choose_temperature(model, losses[_best(model.trust)], trials, seed)
    if model.options["gap_share"]:
        # A window of gaps has as many cells as several horizons: fewer of them will do.
        fewer = rows.pick(max(1, min(WINDOWS // 8, SERIES // 8 // model.dim)), seed)
        # With many series every factor costs tens of seconds.
        factors = FACTORS[::2] if model.dim > BLOCK // 8 else FACTORS
        gaps = list(_gaps(model, bank, fewer, seed))
        model.gap_trust = _scores(_losses(model, denoiser.gap_shrinkage, factors, gaps, seed))
        denoiser.gap_shrinkage.fill_(_best(model.gap_trust))


def _choose_temperature(
    model: WindowModel, loss: np.ndarray, trials: Sequence[Trial], seed: int
) -> None:
    """Set the temperature to the best; `loss` is that of 1."""
    buffer, losses = model.denoiser.temperature, {1.0: loss}
    for away in TEMPERATURES:
        for temperature in away:
            losses |= _losses(model, buffer, (temperature,), trials, seed)
            # The score has one minimum: where it rises, what lies beyond is worse still.
            if _best(_scores(losses)) != temperature:
                break
    scores = _scores(losses)
    best = _best(scores)
    buffer.fill_(best if scores[best] < GAIN else 1.0)


def _best(scores: dict[float, float]) -> float:
    return min(scores, key=scores.__getitem__)


def _blocks(model: WindowModel, rows: WindowRows) -> Iterator[tuple[int, Tensor, Tensor]]:
    size = max(1, min(8, BLOCK // model.dim))
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        yield start, rows.item[part], rows.end[part]


def _forecasts(model: WindowModel, bank: SeriesBank, rows: WindowRows) -> Iterator[Trial]:
    for start, item, end in _blocks(model, rows):
        window = model.window(bank, item, end)
        spread = bank.spread[item][:, :, None]
        yield Trial(
            model.denoiser.forecast_context(window),
            window.value[..., window.back :].double() * spread,
            spread,
            window.observed[..., window.back :],
            start,
        )


def _gaps(model: WindowModel, bank: SeriesBank, rows: WindowRows, seed: int) -> Iterator[Trial]:
    for start, item, end in _blocks(model, rows):
        window = bank.windows(item, end, model.context, model.zone)
        noise = KeyedNoise(seed, start=start, stream=("trust", "mask"))
        rows_, dim, length = window.value.shape
        hidden = random_mask((rows_, dim, length), model.zone, noise, window.value)
        spread = bank.spread[item][:, :, None]
        yield Trial(
            model.denoiser.gap_context(window, hidden),
            window.value.double() * spread,
            spread,
            window.observed & hidden,
            start,
        )


def _losses(
    model: WindowModel,
    buffer: Tensor,
    choices: Sequence[float],
    trials: Sequence[Trial],
    seed: int,
) -> dict[float, np.ndarray]:
    """Return the loss of the series and of their sum for each value of a buffer."""
    paired = bool(model.options["antithetic"])
    losses = {choice: np.zeros(2) for choice in choices}
    for trial in trials:
        noise = KeyedNoise(seed, start=trial.start * PATHS, stream=("trust",))
        for choice in choices:
            buffer.fill_(choice)
            drawn = walk(model, trial.context, num_samples=PATHS, num_steps=None, noise=noise)
            values = trial.context.frame.value(drawn).double() * trial.spread[:, None]
            paths, truth, judged, spread = (
                part.cpu().numpy() for part in (values, trial.truth, trial.judged, trial.spread)
            )
            error = fair_crps_cells(truth, paths, paired=paired) / spread
            losses[choice][0] += error[judged].sum()
            if model.dim > 1:
                error = fair_crps_cells(truth.sum(1), paths.sum(2), paired=paired) / spread.sum(1)
                losses[choice][1] += error[judged.all(1)].sum()
    return losses


def _scores(losses: dict[float, np.ndarray]) -> dict[float, float]:
    """Return the mean of both losses in shares of the first choice's."""
    reference = next(iter(losses.values()))
    # A part without a cell to judge has no say.
    counted = reference > 0
    return {
        choice: float((loss[counted] / reference[counted]).mean()) if counted.any() else 1.0
        for choice, loss in losses.items()
    }
