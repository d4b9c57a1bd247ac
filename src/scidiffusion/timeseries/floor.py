r"""The forecast without a network: ridge regression on phase-aligned lags, Gaussian errors.

The naive forecast repeats the last value, or the last season. Its error is regressed, for each
step ahead on its own, on the differences between other simple forecasts (last value, mean, each of
the last seasons) and the naive one:

    base_h = naive_h + sum_k w_hk (lag_hk - naive_h) + w_h0 scale,

one ridge for all steps, its strength chosen on held-out windows with "no regression at all" among
the choices. What remains, in units of the window's own scale (the root mean square of its
seasonal differences), has a Kronecker covariance. Everything here moves and scales with the data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scidiffusion.timeseries.bank import Window
from scidiffusion.timeseries.frame import Frame, KroneckerLaw, masked_rms
from scidiffusion.timeseries.lags import last_given, masked_mean, nearest_same_phase

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Strengths that are tried, in units of the number of equations."""
MIN_SCALE = 1e-3
"""Smallest scale of a window in units of its series' standard deviation."""


@dataclass(frozen=True)
class LagPlan:
    """Which phase-aligned values are looked at.

    Args:
        seasons: Periods in steps, increasing.
        counts: How many seasons back for each.
    """

    seasons: tuple[int, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, seasons: tuple[int, ...], shortest: int) -> LagPlan:
        """Choose counts so that the look-back stays within half of `shortest` steps of history."""
        kept, counts = [], []
        for season in seasons:
            # A season that fits twice is looked at, however short the history.
            fit = max(shortest // 2 // season - 1, int(2 * season <= shortest))
            if fit >= 1:
                kept.append(season)
                counts.append(min(fit, 7 if season == seasons[0] and len(seasons) > 1 else 3))
        return cls(tuple(kept), tuple(counts))

    @property
    def back(self) -> int:
        """Steps of history that the lags need."""
        pairs = zip(self.seasons, self.counts, strict=True)
        return max((season * (count + 1) for season, count in pairs), default=1)

    @property
    def size(self) -> int:
        """Number of lags of a cell."""
        return sum(self.counts)


class ForecastFloor(nn.Module):
    """The Gaussian floor of forecasts; see the module.

    Args:
        dim: Number of series D.
        horizon: Number of steps H.
        lags: Which lags are looked at.
        rank: Rank of the covariance between series.
        memory: Steps before the origin from which the scale is measured, since volatility passes;
            None is all of them.
    """

    def __init__(
        self, dim: int, horizon: int, lags: LagPlan, rank: int, memory: int | None = None
    ) -> None:
        super().__init__()
        self.horizon, self.lags, self.memory = horizon, lags, memory
        self.law = KroneckerLaw(dim, horizon, rank)
        self.weight: Tensor
        self.register_buffer("weight", torch.zeros(horizon, lags.size + 4))
        self.season: Tensor
        self.register_buffer("season", torch.ones((), dtype=torch.long))
        self.ridge: Tensor
        self.register_buffer("ridge", torch.full((), torch.inf))

    # -- parts -----------------------------------------------------------------------------------

    def naive(self, window: Window, season: int) -> Tensor:
        """(B, D, H): the last given value of the phase; of the series where there is none."""
        value, given = window.value[..., : window.back], window.observed[..., : window.back]
        last, _ = last_given(value, given)
        if season == 1:
            return last.expand(*last.shape[:-1], self.horizon)
        zone = slice(window.back, window.back + self.horizon)
        padded, seen = self._past(window)
        lag, present = nearest_same_phase(padded, seen, zone, season, 1)
        return torch.where(present[..., 0, :], lag[..., 0, :], last)

    def scale(self, window: Window, season: int) -> Tensor:
        """(B, D, 1): root mean square of the seasonal differences in the past of the window."""
        memory = window.back if self.memory is None else self.memory
        recent = slice(max(window.back - memory, 0), window.back)
        value, given = window.value[..., recent], window.observed[..., recent]
        both = given[..., season:] & given[..., :-season]
        square = (value[..., season:] - value[..., :-season]) ** 2
        # A window without one pair: as a series of the item's own standard deviation.
        scale = torch.where(both.any(-1, keepdim=True), masked_mean(square, both).sqrt(), 1.0)
        return scale.clamp(min=MIN_SCALE)

    def candidates(self, window: Window) -> tuple[Tensor, Tensor]:
        """Return the simple forecasts (B, D, K, H) and whether the window has them."""
        value, given = window.value[..., : window.back], window.observed[..., : window.back]
        last, some = last_given(value, given)
        width = self.lags.seasons[0] if self.lags.seasons else min(window.back, 5)
        recent = masked_mean(value[..., -width:], given[..., -width:])
        has_recent = given[..., -width:].any(-1, keepdim=True)
        # A series that returns to its mean has that mean to return to.
        parts = [last, recent, masked_mean(value, given)]
        present = [some, has_recent, given.any(-1, keepdim=True)]
        parts = [part.unsqueeze(-1).expand(*part.shape, self.horizon) for part in parts]
        present = [part.unsqueeze(-1).expand(*part.shape, self.horizon) for part in present]
        padded, seen = self._past(window)
        zone = slice(window.back, window.back + self.horizon)
        for season, count in zip(self.lags.seasons, self.lags.counts, strict=True):
            lag, there = nearest_same_phase(padded, seen, zone, season, count)
            parts.append(lag)
            present.append(there)
        return torch.cat(parts, -2), torch.cat(present, -2)

    def _past(self, window: Window) -> tuple[Tensor, Tensor]:
        """Values and given flags with nothing given from the origin on."""
        seen = window.observed.clone()
        seen[..., window.back :] = False
        return window.value, seen

    def _regressors(self, window: Window, season: int) -> tuple[Tensor, Tensor, Tensor]:
        """Naive forecast (B, D, H), scale (B, D, 1) and regressors (B, D, K + 1, H) in units."""
        naive, scale = self.naive(window, season), self.scale(window, season)
        parts, present = self.candidates(window)
        ratio = (parts - naive.unsqueeze(-2)) / scale.unsqueeze(-1)
        ratio = torch.where(present, ratio, 0.0).clamp(-30, 30)
        return naive, scale, torch.cat([ratio, torch.ones_like(ratio[..., :1, :])], -2)

    # -- use -------------------------------------------------------------------------------------

    def frame(self, window: Window) -> Frame:
        """Return the frame of forecasts from these windows."""
        naive, scale, regressors = self._regressors(window, int(self.season))
        shift = torch.einsum("bdkh,hk->bdh", regressors, self.weight)
        std, part = self.law.std(), None
        every = torch.arange(len(self.law.series.sd), device=std.device)
        if not torch.equal(window.series, every):
            std, part = std[:, window.series], window.series
        return Frame(naive + scale * shift, scale, std, self.law, part)

    # -- fitting ---------------------------------------------------------------------------------

    @torch.no_grad()
    def fit(self, train: Window, held_out: Window) -> None:
        """Choose the naive forecast and the ridge, then estimate the covariance.

        Args:
            train: Windows with all series whose horizons are (in part) observed.
            held_out: Windows that judge the ridge.
        """
        target, seen = train.value[..., train.back :], train.observed[..., train.back :]
        errors = {}
        for season in (1, *self.lags.seasons):
            gap = (target - self.naive(train, season)).abs()
            errors[season] = float((gap * seen).sum() / seen.sum().clamp(min=1))
        self.season.fill_(min(errors, key=errors.__getitem__))
        season = int(self.season)
        naive, scale, regressors = self._regressors(train, season)
        answer = ((target - naive) / scale).clamp(-30, 30)
        judge = self._regressors(held_out, season)
        truth = held_out.value[..., held_out.back :], held_out.observed[..., held_out.back :]
        solutions = {float("inf"): (torch.zeros_like(self.weight), 0.0)}
        solutions |= ridge_paths(regressors, answer, seen, RIDGES)
        scores = {
            ridge: _absolute_error(weight, judge, truth)
            for ridge, (weight, _) in solutions.items()
        }
        best = min(scores, key=scores.__getitem__)
        # Half a percent is within what the choice itself gains by chance.
        if scores[best] > 0.995 * scores[float("inf")]:
            best = float("inf")
        self.ridge.fill_(best)
        weight, freedom = solutions[best]
        self.weight.copy_(weight)
        residual = self.frame(train).residual(target).double()
        # Residuals of the rows that chose the weights are too small by the weights' freedom.
        equations = float(seen.sum()) / self.horizon
        # In units of their own, windows in which hardly anything moved would rule the law.
        some = seen.any(-1, keepdim=True)
        weight = (scale / masked_rms(scale, some, (0,))).double()
        self.law.fit(weight * residual / max(1 - freedom / equations, 0.1) ** 0.5, seen)


def ridge_paths(
    regressors: Tensor, answer: Tensor, seen: Tensor, ridges: tuple[float, ...]
) -> dict[float, tuple[Tensor, float]]:
    """Solve min sum (answer - w x)^2 + ridge N |w|^2 for every step ahead.

    Args:
        regressors: (B, D, K, H).
        answer: (B, D, H).
        seen: (B, D, H) bool.
        ridges: Strengths.

    Returns:
        Strength -> weights (H, K), float32, and their degrees of freedom, the mean over steps of
        the trace of the hat matrix.
    """
    x = torch.where(seen.unsqueeze(-2), regressors, 0.0)
    y = torch.where(seen, answer, 0.0)
    gram = torch.einsum("bdkh,bdlh->hkl", x, x).double()
    moment = torch.einsum("bdkh,bdh->hk", x, y).double()
    count = seen.sum((0, 1)).clamp(min=1).double()
    eye = torch.eye(gram.shape[-1], dtype=torch.float64, device=gram.device)
    solved = {}
    for ridge in ridges:
        system = gram + (ridge * count)[:, None, None] * eye
        freedom = torch.linalg.solve(system, gram).diagonal(dim1=1, dim2=2).sum(1).mean()
        solved[ridge] = torch.linalg.solve(system, moment).float(), float(freedom)
    return solved


def _absolute_error(
    weight: Tensor, parts: tuple[Tensor, Tensor, Tensor], truth: tuple[Tensor, Tensor]
) -> float:
    naive, scale, regressors = parts
    target, seen = truth
    forecast = naive + scale * torch.einsum("bdkh,hk->bdh", regressors, weight)
    return float(((forecast - target).abs() * seen).sum() / seen.sum().clamp(min=1))
