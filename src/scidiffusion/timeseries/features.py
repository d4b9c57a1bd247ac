"""What the network sees of every cell, in units that move and scale with the window.

A cell's channels, each 0 where it does not exist, with a flag beside those that may be absent:

    level        (value - mean of the window's given cells) / their standard deviation
    anchor       the base of a hidden cell, the value of a given one, relative as above
    lags         (value of the same phase, earlier or later - anchor) / scale
    calendar     sines and cosines of the time of day, week, year
    known, past  covariates, standardised over the training series

The future of `past` covariates and all hidden values are 0 with flag 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from scidiffusion.timeseries.bank import Window
from scidiffusion.timeseries.floor import LagPlan
from scidiffusion.timeseries.lags import masked_mean, nearest_same_phase

LATER = 1
"""Same-phase values on the later side; only imputation has any."""
LIMIT = 12.0


@dataclass(frozen=True)
class Layout:
    """Sizes of the channels.

    Args:
        lags: Which lags.
        calendar: Number of calendar features.
        known: Number of covariates known in advance.
        past: Number of covariates of the past.
    """

    lags: LagPlan
    calendar: int
    known: int
    past: int

    @property
    def channels(self) -> int:
        """Channels of one cell."""
        later = LATER * len(self.lags.seasons)
        return 3 + 2 * (self.lags.size + later) + self.calendar + self.known + 2 * self.past

    @property
    def summaries(self) -> int:
        """Numbers that describe a series of a window as a whole.

        None of them is in units of the item: its standard deviation knows the future in training.
        """
        return 3


def cell_features(
    window: Window, given: Tensor, base: Tensor, scale: Tensor, layout: Layout, length: int
) -> tuple[Tensor, Tensor]:
    """Return the channels of the last `length` cells and the summaries of the window.

    Args:
        window: B windows.
        given: (B, D, W) bool, cells that may be seen.
        base: (B, D, Z) base of the last Z <= length cells.
        scale: (B, D, 1) scale of the residuals.
        layout: Sizes.
        length: Number of cells from the end.

    Returns:
        (B, D, channels, length) and (B, D, summaries).
    """
    value = torch.where(given, window.value, 0.0)
    mean = masked_mean(value, given)
    spread = masked_mean(torch.where(given, (value - mean) ** 2, 0.0), given).sqrt()
    spread = torch.maximum(spread, scale)
    first = value.shape[-1] - length
    zone = slice(first, value.shape[-1])
    here, seen = value[..., zone], given[..., zone]
    anchor = here.clone()
    zone_base = base.shape[-1]
    anchor[..., -zone_base:] = torch.where(seen[..., -zone_base:], here[..., -zone_base:], base)
    anchored = seen.clone()
    anchored[..., -zone_base:] = True
    parts = [
        torch.where(seen, (here - mean) / spread, 0.0),
        seen.float(),
        torch.where(anchored, (anchor - mean) / spread, 0.0),
    ]
    plan, cells, lagged = layout.lags, slice(zone.stop - zone_base, zone.stop), []
    for later in (False, True):
        for season, count in zip(plan.seasons, plan.counts, strict=True):
            lag, present = nearest_same_phase(
                value, given, cells, season, LATER if later else count, later=later
            )
            ratio = (lag - anchor[..., -zone_base:].unsqueeze(-2)) / scale.unsqueeze(-1)
            lagged += [torch.where(present, ratio, 0.0).clamp(-LIMIT, LIMIT), present.float()]
    # Only the cells that are to be drawn are told their lags: the others' are in plain sight.
    stacked = [torch.stack(parts, -2).clamp(-LIMIT, LIMIT)]
    if lagged:
        stacked.append(functional.pad(torch.cat(lagged, -2), (length - zone_base, 0)))
    shared = [window.calendar[..., zone], window.known[..., zone]]
    past_seen = window.past_observed[..., zone].float()
    shared += [window.past[..., zone] * past_seen, past_seen]
    for part in shared:
        stacked.append(part.unsqueeze(1).expand(-1, value.shape[1], -1, -1))
    share = given[..., zone].float().mean(-1, keepdim=True)
    last = masked_mean(value[..., -2 * zone_base :], given[..., -2 * zone_base :])
    summaries = [
        (scale / spread).log(),
        ((last - mean) / spread).clamp(-LIMIT, LIMIT),
        share,
    ]
    return torch.cat(stacked, -2), torch.cat(summaries, -1)
