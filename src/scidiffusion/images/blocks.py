"""Work on images in whole blocks of rows, so that a row depends on none beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scidiffusion.core.denoiser import Condition
from scidiffusion.core.process import map_state
from scidiffusion.estimator import GenerativeEstimator, check_positive, resolve_device
from scidiffusion.progress import progress_bar


def in_blocks(
    estimator: GenerativeEstimator,
    work: Callable[..., Tensor],
    n: int,
    *parts: Condition,
    batch_size: int | None = None,
    show: bool = False,
) -> Tensor:
    """Return work(start, rows of each part) of whole blocks of rows, concatenated and cut to n.

    Args:
        estimator: Whose blocks, and whose device.
        work: Maps rows start, start + 1, ... of the parts, on the device, to as many rows.
        n: Number of rows.
        parts: Tensors of n rows, dicts of such, or None.
        batch_size: Rows at once on a GPU.
        show: Show a progress bar.

    Raises:
        ConfigError: if `batch_size` is not positive.
    """
    device = resolve_device(estimator.device)
    batch_size = check_positive(batch_size, "batch_size")
    if n == 0:  # a row that is cut off again: `work` knows the shape of the answer
        parts = tuple(rows_of(part, _first) for part in parts)

    def draw(start: int, rows: int) -> Tensor:
        index = torch.arange(start, start + rows).clamp(max=max(n - 1, 0))
        return work(start, *(rows_of(part, lambda x: x[index].to(device)) for part in parts)).cpu()

    with progress_bar(n, enabled=show, unit="images") as progress:
        done: Tensor = estimator._blocks(
            draw, n, device=device, batch_size=batch_size, progress=progress
        )
    return done


def rows_of(part: Condition, pick: Callable[[Tensor], Tensor]) -> Any:
    """Apply `pick` to a tensor or to each of a dict of them; None stays None."""
    return None if part is None else map_state(pick, part)


def _first(part: Tensor) -> Tensor:
    return part.new_zeros(1, *part.shape[1:])
