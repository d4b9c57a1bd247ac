"""Windows out of series, by index: what training and forecasting both read.

All items lie one after another in a few flat tensors, each followed by room for one horizon. A
window is named by (item, end): `back` steps before step `end` of the item and `ahead` steps from
it on. Cells outside an item are not observed. Values are standardised by the item's own mean and
standard deviation in float64 before they become float32, so that a series around 1e9 keeps its
digits; `restore` undoes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from scidiffusion.timeseries.frequency import quiet_business_days
from scidiffusion.timeseries.series import SeriesSet

FLAT = 1e-14
"""Spreads below this share of the level are rounding errors of float64."""
Calendar: TypeAlias = Callable[[pd.PeriodIndex], np.ndarray]


@dataclass(frozen=True)
class Window:
    """B windows of W = back + ahead steps; see the module.

    Args:
        value: (B, D, W) standardised values, 0 where not observed.
        observed: (B, D, W) bool.
        known: (B, K, W) covariates known in advance, standardised, 0 outside.
        past: (B, P, W) covariates of the past, likewise.
        past_observed: (B, P, W) bool.
        calendar: (B, F, W).
        static_real: (B, R) standardised.
        static_cat: (B, C) classes.
        series: (D,) which of the item's series these are.
        back: Number of steps before the origin.
    """

    value: Tensor
    observed: Tensor
    known: Tensor
    past: Tensor
    past_observed: Tensor
    calendar: Tensor
    static_real: Tensor
    static_cat: Tensor
    series: Tensor
    back: int

    @property
    def ahead(self) -> int:
        """Number of steps from the origin on."""
        return self.value.shape[-1] - self.back


@dataclass(frozen=True)
class Standards:
    """Mean and standard deviation of covariates over the training series.

    Args:
        known: (K, 2).
        past: (P, 2).
        static_real: (R, 2).
    """

    known: np.ndarray
    past: np.ndarray
    static_real: np.ndarray

    @classmethod
    def of(cls, series: SeriesSet) -> Standards:
        """Measure them; a covariate that does not vary gets standard deviation 1."""
        known = _mean_std([item.known[:, : item.length] for item in series])
        past = _mean_std([item.past[:, : item.length] for item in series])
        return cls(known, past, _mean_std([item.static_real[:, None] for item in series]))


class SeriesBank:
    """Series as flat tensors.

    Args:
        series: The items.
        standards: Of the training series.
        calendar: Periods -> (F, T) features.
        horizon: Room behind every item.

    Attributes:
        length: (N,) number of steps of each item.
        level, spread: (N, D) float64, what the values were standardised with.
    """

    def __init__(
        self, series: SeriesSet, standards: Standards, calendar: Calendar, horizon: int
    ) -> None:
        self.horizon, self.dim = horizon, series.dim
        self.length = torch.tensor([item.length for item in series])
        self.level = torch.zeros(len(series), self.dim, dtype=torch.float64)
        self.spread = torch.ones(len(series), self.dim, dtype=torch.float64)
        parts: dict[str, list[np.ndarray]] = {
            name: []
            for name in ("value", "observed", "known", "past", "past_observed", "calendar")
        }
        for index, item in enumerate(series):
            observed = np.isfinite(item.target)
            level, spread = _location(item.target, observed)
            self.level[index], self.spread[index] = (
                torch.from_numpy(level),
                torch.from_numpy(spread),
            )
            scaled = np.where(observed, (item.target - level[:, None]) / spread[:, None], 0.0)
            parts["value"].append(_padded(scaled, horizon))
            parts["observed"].append(_padded(observed, horizon))
            known = (item.known - standards.known[:, :1]) / standards.known[:, 1:]
            parts["known"].append(_fit(np.nan_to_num(known), item.length + horizon))
            past = item.past[:, : item.length]
            seen = np.isfinite(past)
            past = (past - standards.past[:, :1]) / standards.past[:, 1:]
            parts["past"].append(_padded(np.where(seen, past, 0.0), horizon))
            parts["past_observed"].append(_padded(seen, horizon))
            with quiet_business_days():
                periods = pd.period_range(
                    item.start, periods=item.length + horizon, freq=item.start.freq
                )
            parts["calendar"].append(calendar(periods))
        stacked = {name: np.concatenate(part, axis=1) for name, part in parts.items()}
        self._flat = {
            name: torch.from_numpy(
                value if value.dtype == bool else value.astype(np.float32, copy=False)
            )
            for name, value in stacked.items()
        }
        self._first = torch.cat(
            [torch.zeros(1, dtype=torch.long), (self.length + horizon).cumsum(0)[:-1]]
        )
        real = np.stack([item.static_real for item in series])
        real = (real - standards.static_real[:, 0]) / standards.static_real[:, 1]
        self.static_real = torch.from_numpy(real.astype(np.float32))
        self.static_cat = torch.from_numpy(np.stack([item.static_cat for item in series]))

    def __len__(self) -> int:
        return len(self.length)

    def to(self, device: torch.device) -> SeriesBank:
        """Move the tensors in place."""
        for name in ("length", "level", "spread", "_first", "static_real", "static_cat"):
            setattr(self, name, getattr(self, name).to(device))
        self._flat = {name: value.to(device) for name, value in self._flat.items()}
        return self

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self._first.device

    def windows(
        self, item: Tensor, end: Tensor, back: int, ahead: int, series: Tensor | None = None
    ) -> Window:
        """Cut windows.

        Args:
            item: (B,) indices of items.
            end: (B,) origins: the first step that is ahead.
            back: Steps before the origin.
            ahead: Steps from the origin on; those beyond the item's horizon are 0.
            series: (D',) which series; default all.
        """
        step = end[:, None] + torch.arange(-back, ahead, device=end.device)
        inside = (step >= 0) & (step < (self.length[item] + self.horizon)[:, None])
        flat = self._first[item][:, None] + torch.where(inside, step, 0)

        def take(name: str) -> Tensor:
            source = self._flat[name]
            if series is not None and name in ("value", "observed"):
                source = source[series]
            cut = source[:, flat].transpose(0, 1)  # (B, rows, W)
            return cut & inside[:, None] if cut.dtype == torch.bool else cut * inside[:, None]

        every = torch.arange(self.dim, device=end.device) if series is None else series
        return Window(
            take("value"),
            take("observed"),
            take("known"),
            take("past"),
            take("past_observed"),
            take("calendar"),
            self.static_real[item],
            self.static_cat[item],
            every,
            back,
        )

    def restore(self, item: Tensor, value: Tensor) -> Tensor:
        """Undo the standardisation of `value` (B, ..., D, H) of items (B,); float64."""
        shape = (len(item), *([1] * (value.ndim - 3)), self.dim, 1)
        return value.double() * self.spread[item].view(shape) + self.level[item].view(shape)

    def standardise(self, item: Tensor, value: Tensor) -> Tensor:
        """Apply it to `value` (B, ..., D, H) in the data's units; float64."""
        shape = (len(item), *([1] * (value.ndim - 3)), self.dim, 1)
        return (value.double() - self.level[item].view(shape)) / self.spread[item].view(shape)


def _location(target: np.ndarray, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each series; 0 and 1 where nothing is observed."""
    count = np.maximum(observed.sum(1), 1)
    level = np.where(observed, target, 0.0).sum(1) / count
    spread = np.sqrt(np.where(observed, (target - level[:, None]) ** 2, 0.0).sum(1) / count)
    # A constant series has rounding errors of its level for a spread.
    flat = spread <= FLAT * np.abs(level)
    return level, np.where(flat, np.maximum(np.abs(level), 1.0), spread)


def _mean_std(parts: list[np.ndarray]) -> np.ndarray:
    values = np.concatenate(parts, axis=1)
    result = np.zeros((len(values), 2))
    result[:, 1] = 1.0
    for row, value in enumerate(values):
        finite = value[np.isfinite(value)]
        if len(finite):
            std = float(finite.std())
            result[row] = finite.mean(), std if std > 0 else 1.0
    return result


def _padded(value: np.ndarray, horizon: int) -> np.ndarray:
    return np.concatenate([value, np.zeros((len(value), horizon), dtype=value.dtype)], axis=1)


def _fit(value: np.ndarray, length: int) -> np.ndarray:
    """Cut or pad with zeros to `length` steps."""
    return _padded(value[:, :length], max(length - value.shape[1], 0))
