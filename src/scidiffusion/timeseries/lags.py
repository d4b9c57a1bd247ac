"""Values of the same phase, earlier and later: what a season repeats.

For a cell at step t and a period m, the cells t - m, t - 2m, ... (and t + m, t + 2m, ...) have its
phase. `nearest_same_phase` returns the nearest of them that are *given*: missing cells, and cells
that are to be predicted, are stepped over, so that the same function serves forecasts (nothing
later is given), gaps in the past and imputation.
"""

from __future__ import annotations

import torch
from torch import Tensor


def nearest_same_phase(
    value: Tensor,
    given: Tensor,
    zone: slice,
    season: int,
    count: int,
    *,
    later: bool = False,
    reach: int = 8,
) -> tuple[Tensor, Tensor]:
    """Return the `count` nearest given values of the same phase on one side of each cell.

    Args:
        value: (..., W) values.
        given: (..., W) bool.
        zone: The steps that are asked about, Z of them, with start and stop.
        season: Period m in steps.
        count: Number of values.
        later: Look at later cells rather than earlier ones.
        reach: Candidates beyond the first `count` that are looked at where some are not given.

    Returns:
        (..., count, Z) values, 0 where there is none, and (..., count, Z) bool that say where.
    """
    length = value.shape[-1]
    steps = torch.arange(zone.start, zone.stop, device=value.device)
    found = torch.zeros(*given.shape[:-1], len(steps), dtype=torch.long, device=value.device)
    shape = (*value.shape[:-1], count, len(steps))
    result = torch.zeros(shape, dtype=value.dtype, device=value.device)
    present = torch.zeros(shape, dtype=torch.bool, device=value.device)
    slots = torch.arange(count, device=value.device)[:, None]
    # The horizon's own earlier seasons are not given either and are stepped over, too.
    candidates = count + reach + (zone.stop - zone.start) // season
    for multiple in range(1, candidates + 1):
        place = steps + multiple * season if later else steps - multiple * season
        valid = (place >= 0) & (place < length)
        if not bool(valid.any()):
            break
        place = torch.where(valid, place, 0)
        here = given[..., place] & valid
        fill = here.unsqueeze(-2) & (found.unsqueeze(-2) == slots)
        result = torch.where(fill, value[..., place].unsqueeze(-2), result)
        present |= fill
        found += here
        # Where few values are missing, the candidates in reserve are not looked at.
        if bool((found >= count).all()):
            break
    return result, present


def last_given(value: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    """Return the last given value of each row (..., W) as (..., 1), and whether there is one."""
    steps = torch.arange(value.shape[-1], device=value.device)
    last = torch.where(given, steps, -1).amax(-1, keepdim=True)
    return value.gather(-1, last.clamp(min=0)) * (last >= 0), last >= 0


def masked_mean(value: Tensor, mask: Tensor) -> Tensor:
    """Mean over the last dimension where `mask` is true, kept as (..., 1); 0 where nowhere."""
    count = mask.sum(-1, keepdim=True).clamp(min=1)
    return (value * mask).sum(-1, keepdim=True) / count
