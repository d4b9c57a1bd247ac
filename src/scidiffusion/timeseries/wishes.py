"""What a user knows or wants of a forecast, in the units of the data.

`Wishes` holds it as arrays over the horizon; `terms` turns it into the corrections of
`scidiffusion.timeseries.guidance`, in the standardised units of a bank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from scidiffusion.errors import ConditionError
from scidiffusion.timeseries.bank import SeriesBank
from scidiffusion.timeseries.guidance import (
    Bounds,
    LinearFacts,
    QuantileTarget,
    Term,
    check_facts,
)


@dataclass(frozen=True)
class Wishes:
    """Guidance of the forecast of one item.

    Args:
        known: (H, D) values that are known to come, NaN elsewhere; (H,) for one series.
        totals: Pairs (weights (H, D), value): sum of weights times values. All-one weights over a
            month are the month's total; weights over series are a hierarchy.
        lower: Lower bound, a number or (H, D).
        upper: Upper bound, likewise.
        target: (H, D) path that shall be about the `quantile` of the forecast, NaN elsewhere.
        quantile: In (0, 1).
        strength: How strongly.
    """

    known: ArrayLike | None = None
    totals: Sequence[tuple[ArrayLike, float]] = field(default_factory=tuple)
    lower: ArrayLike | None = None
    upper: ArrayLike | None = None
    target: ArrayLike | None = None
    quantile: float = 0.5
    strength: float = 4.0

    def terms(self, bank: SeriesBank, horizon: int, zone: int) -> list[Term]:
        """Return the corrections for the only item of a bank.

        Raises:
            ConditionError: if a shape does not fit, values are not finite, bounds cross, a level
                lies outside (0, 1), or facts repeat or contradict each other.
        """
        dim = bank.dim
        level, spread = (value[0].cpu().numpy()[:, None] for value in (bank.level, bank.spread))
        terms: list[Term] = []
        if self.target is not None:
            if not 0 < self.quantile < 1:
                raise ConditionError(f"quantile must lie in (0, 1), got {self.quantile}")
            path = (_grid(self.target, horizon, dim, "target", gaps=True) - level) / spread
            padded = torch.from_numpy(_pad(path, zone, np.nan)).to(bank.device)
            terms.append(QuantileTarget(padded, self.quantile, self.strength))
        low, high = self._bounds(horizon, dim)
        if low is not None or high is not None:
            ends = [
                None
                if end is None
                else torch.from_numpy(_pad((end - level) / spread, zone, fill)).to(bank.device)
                for end, fill in ((low, -np.inf), (high, np.inf))
            ]
            terms.append(Bounds(*ends))
        self._check_within(low, high, horizon, dim)
        rows, values = self._facts(horizon, dim)
        if rows:
            matrix = np.stack([_pad(row * spread, zone, 0.0) for row in rows])
            right = np.array(values) - np.array([float((row * level).sum()) for row in rows])
            # Rows of length one: series may differ in scale by more digits than a float has.
            size = np.sqrt((matrix**2).sum((1, 2)))
            size = np.where(size > 0, size, 1.0)
            matrix, right = matrix / size[:, None, None], right / size
            facts = torch.from_numpy(matrix).to(bank.device)
            check_facts(facts)
            terms.append(LinearFacts(facts, torch.from_numpy(right).to(bank.device)))
        return terms

    def exact(self, paths: NDArray[np.float64], horizon: int) -> NDArray[np.float64]:
        """Put known values into paths (1, S, D, Z) to the last digit, and keep to the bounds."""
        dim, paths = paths.shape[2], paths.copy()
        part = paths[..., :horizon]
        low, high = self._bounds(horizon, dim)
        if low is not None:
            np.maximum(part, low, out=part)
        if high is not None:
            np.minimum(part, high, out=part)
        if self.known is not None:
            known = _grid(self.known, horizon, dim, "known", gaps=True)
            place = np.isfinite(known)
            part[..., place] = known[place]
        return paths

    def _bounds(
        self, horizon: int, dim: int
    ) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
        low, high = (
            None if end is None else _grid(end, horizon, dim, name)
            for end, name in ((self.lower, "lower"), (self.upper, "upper"))
        )
        if low is not None and high is not None and (low > high).any():
            raise ConditionError("lower exceeds upper somewhere: no forecast can lie between them")
        return low, high

    def _check_within(
        self,
        low: NDArray[np.float64] | None,
        high: NDArray[np.float64] | None,
        horizon: int,
        dim: int,
    ) -> None:
        if self.known is None:
            return
        known = _grid(self.known, horizon, dim, "known", gaps=True)
        # Comparisons with NaN, where nothing is known, are false.
        outside = np.zeros(known.shape, dtype=bool)
        if low is not None:
            outside |= known < low
        if high is not None:
            outside |= known > high
        if outside.any():
            series, step = (int(place) for place in np.argwhere(outside)[0])
            raise ConditionError(
                f"the known value {known[series, step]:g} of step {step} lies outside the bounds"
            )

    def _facts(self, horizon: int, dim: int) -> tuple[list[NDArray[np.float64]], list[float]]:
        rows, values = [], []
        if self.known is not None:
            known = _grid(self.known, horizon, dim, "known", gaps=True)
            for series, step in np.argwhere(np.isfinite(known)):
                row = np.zeros((dim, horizon))
                row[series, step] = 1.0
                rows.append(row)
                values.append(float(known[series, step]))
        for weights, value in self.totals:
            rows.append(_grid(weights, horizon, dim, "the weights of a total"))
            if not np.isfinite(value):
                raise ConditionError(f"a total must be a finite number, got {value}")
            values.append(float(value))
        return rows, values


def as_list(wishes: Wishes | Sequence[Wishes | None] | None, count: int) -> list[Wishes | None]:
    """Return one entry an item.

    Raises:
        ConditionError: if the number does not fit.
    """
    if wishes is None or isinstance(wishes, Wishes):
        return [wishes] * count
    if len(wishes) != count:
        raise ConditionError(f"{len(wishes)} wishes were given for {count} series")
    return list(wishes)


def _grid(
    value: ArrayLike, horizon: int, dim: int, name: str, *, gaps: bool = False
) -> NDArray[np.float64]:
    """Return an argument over the horizon as (D, H)."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ConditionError(f"{name} must be numbers, got {value!r:.60}") from None
    if array.ndim == 1 and dim == 1:
        array = array[:, None]
    try:
        # One row would be read as one value a series or one a step, whichever fits.
        if array.ndim == 1:
            raise ValueError
        grid = np.broadcast_to(array, (horizon, dim)).T.copy()
    except ValueError:
        raise ConditionError(
            f"{name} must be (prediction_length, series) = ({horizon}, {dim}), got {array.shape}"
        ) from None
    if np.isinf(grid).any() and gaps:
        raise ConditionError(f"{name} must be finite, or NaN where there is none")
    if np.isnan(grid).any() and not gaps:
        raise ConditionError(f"{name} must not be NaN")
    return grid


def _pad(value: NDArray[np.float64], zone: int, fill: float) -> NDArray[np.float64]:
    missing = zone - value.shape[1]
    return np.concatenate([value, np.full((len(value), missing), fill)], axis=1)
