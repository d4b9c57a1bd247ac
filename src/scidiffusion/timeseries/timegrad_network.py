r"""TimeGrad's parts: windows in units of their own, a recurrent network, a denoiser of one step.

With x_t the D values of step t, in the units of the window, and h_t the state of the network,

    h_t = LSTM(x_{t-lag} and whether they are known, features of step t; h_{t-1}),
    q(x_t | past) is a diffusion whose network is eps(z, level, h_t).

Units. A value is (value - location) / scale, of each series on its own. The bank has standardised
the item already, so that moving or stretching an item moves and stretches its forecasts. What the
window adds is a choice:

    "item"     location 0, the item's mean; scale = mean |value| of the context, as in the paper,
               and log(scale) is an input of the network: nothing is lost.
    "window"   location = mean of the context; scale = mean |value - location|. Nothing but the
               context is known: for series that wander away from their mean.

A missing value is 0 with a flag beside it, in lags and in the denoiser. In training the denoiser
is so asked for the score of the observed part of x_t; in forecasting all of x_t is there.

The paper's denoiser is a dilated convolution over the *order of the series*, which means nothing:
exchanging two columns of the table would change the model. Here it is a residual perceptron over
all D values, which reads h_t beside them and is modulated by h_t and the noise level. The paper's
embedding of the series' index is constant where all series are always present, and is the bias of
the network's first layer here; the item's static classes are embedded.

References:
    Rasul, Seward, Schuster & Vollgraf, "Autoregressive denoising diffusion models for multivariate
    probabilistic time series forecasting", ICML 2021, sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from scidiffusion.core.denoiser import NetworkDenoiser
from scidiffusion.core.objectives import Objective
from scidiffusion.core.process import Process, State
from scidiffusion.core.rng import Noise
from scidiffusion.nn import ResidualMLP
from scidiffusion.samplers import Sampler, sample
from scidiffusion.timeseries.bank import SeriesBank, Window
from scidiffusion.timeseries.splits import WindowRows

LOCATIONS = ("item", "window")
CLIP = 20.0
"""Values beyond so many scales are seen, and teach, as if they lay there."""
LEAST_SCALE = 0.05
"""Smallest scale, in standard deviations of the item: a context may well be constant."""
CLASS_FEATURES = 8

RecurrentState: TypeAlias = tuple[Tensor, Tensor]
"""What the LSTM remembers, (layers, B, hidden) twice."""


@dataclass(frozen=True)
class ScaledWindow:
    """B windows in units of their own; see the module.

    Args:
        value: (B, D, W), clipped, 0 where not observed.
        observed: (B, D, W) bool.
        location: (B, D, 1) in the bank's units.
        scale: (B, D, 1), likewise.
        shared: (B, W, features) what else is known of every step before it comes.
        static_cat: (B, C) classes of the item.
    """

    value: Tensor
    observed: Tensor
    location: Tensor
    scale: Tensor
    shared: Tensor
    static_cat: Tensor


def scale_window(window: Window, context: int, location: str) -> ScaledWindow:
    """Bring windows into their own units.

    Args:
        window: Windows of a bank.
        context: Steps before the origin that location and scale are measured on.
        location: "item" or "window".
    """
    back = window.back
    value = torch.where(window.observed, window.value, 0.0)
    recent = slice(back - context, back)
    seen, cells = window.observed[..., recent], value[..., recent]
    count = seen.sum(-1, keepdim=True)
    place = torch.zeros_like(value[..., :1])
    if location == "window":
        place = cells.sum(-1, keepdim=True) / count.clamp(min=1)
    deviation = torch.where(seen, (cells - place).abs(), 0.0).sum(-1, keepdim=True)
    # Where nothing was observed the bank's unit is all there is.
    scale = torch.where(count > 0, deviation / count.clamp(min=1), 1.0).clamp(min=LEAST_SCALE)
    scaled = torch.where(window.observed, (value - place) / scale, 0.0).clamp(-CLIP, CLIP)
    # Covariates of the past are known up to the step before, and not at all beyond the origin.
    past_seen = window.past_observed.clone()
    past_seen[..., back:] = False
    past = functional.pad(window.past * past_seen, (1, 0))[..., :-1]
    past_flag = functional.pad(past_seen.to(value.dtype), (1, 0))[..., :-1]
    constant = [window.static_real]
    if location == "item":
        constant.append(scale.squeeze(-1).log())
    steps = value.shape[-1]
    spread = torch.cat(constant, -1).unsqueeze(1).expand(-1, steps, -1)
    moving = torch.cat([window.calendar, window.known, past, past_flag], 1).transpose(1, 2)
    shared = torch.cat([moving, spread], -1)
    return ScaledWindow(scaled, window.observed, place, scale, shared, window.static_cat)


def level_wanders(bank: SeriesBank, rows: WindowRows, context: int) -> bool:
    """Whether the level of the series wanders, by windows of a bank.

    It does if the mean of a context is nearer to that of another, a tenth of the series before,
    than to the mean of the item.
    """
    earlier = rows.end - (bank.length[rows.item] // 10).clamp(min=context)
    kept = earlier >= context
    now, before = (
        scale_window(bank.windows(rows.item[kept], end[kept], context, 0), context, "window")
        for end in (rows.end, earlier)
    )
    moved = (now.location - before.location).square().sum()
    return bool(moved < now.location.square().sum())


class TimeGradNetwork(nn.Module):
    """The recurrent network and the denoiser of one step; see the module.

    Args:
        dim: Number of series D.
        lags: Earlier steps that are seen at every step, increasing.
        shared: Number of features of a step beside the lags.
        classes: Number of levels of each static class.
        hidden: Features of the LSTM's state.
        layers: Layers of the LSTM.
        width: Features of the denoiser.
        blocks: Residual blocks of the denoiser.
        dropout: Probability of dropping a feature, between layers and in blocks.
    """

    def __init__(
        self,
        dim: int,
        lags: tuple[int, ...],
        shared: int,
        classes: tuple[int, ...] = (),
        *,
        hidden: int = 64,
        layers: int = 2,
        width: int = 128,
        blocks: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.dim, self.lags = dim, lags
        # Level 0 stands for a class that was not there in training.
        self.classes = nn.ModuleList(
            nn.Embedding(levels + 1, CLASS_FEATURES) for levels in classes
        )
        self.recurrent = nn.LSTM(
            2 * dim * len(lags) + shared + CLASS_FEATURES * len(classes),
            hidden,
            layers,
            batch_first=True,
            dropout=dropout if layers > 1 else 0.0,
        )
        self.denoise = ResidualMLP(
            2 * dim + hidden, dim, width, blocks, cond_dim=hidden, dropout=dropout
        )

    def unroll(
        self,
        lagged: Tensor,
        shared: Tensor,
        static_cat: Tensor,
        state: RecurrentState | None = None,
    ) -> tuple[Tensor, RecurrentState]:
        """Run the recurrent network over steps.

        Args:
            lagged: (B, n, 2 D lags) earlier values and whether they are known; see `lag_inputs`.
            shared: (B, n, features) of `ScaledWindow`.
            static_cat: (B, C) classes.
            state: State before the first of the steps; None at the start of a window.

        Returns:
            (B, n, hidden) and the state after the last step.
        """
        parts = [lagged, shared]
        for index, table in enumerate(self.classes):
            assert isinstance(table, nn.Embedding)
            level = static_cat[:, index]
            level = torch.where(level < table.num_embeddings - 1, level + 1, 0).clamp(min=0)
            parts.append(table(level).unsqueeze(1).expand(-1, shared.shape[1], -1))
        output, state = self.recurrent(torch.cat(parts, -1), state)
        return output, state

    def forward(self, z: Tensor, time: Tensor, cond: Any = None) -> Tensor:
        """Predict the noise in the values of one step.

        Args:
            z: (B, D) noisy values, 0 where missing.
            time: (B,) noise levels k / T.
            cond: {"state": (B, hidden), "missing": (B, D) or absent}.
        """
        state = cond["state"]
        missing = cond.get("missing")
        missing = torch.zeros_like(z) if missing is None else missing.to(z.dtype)
        return self.denoise(torch.cat([z, missing, state], -1), time, state)


def lag_inputs(scaled: ScaledWindow, lags: tuple[int, ...], first: int, last: int) -> Tensor:
    """Return what the steps first .. last - 1 of windows see of earlier ones: (B, n, 2 D lags)."""
    parts = []
    for lag in lags:
        steps = slice(first - lag, last - lag)
        parts += [scaled.value[..., steps], scaled.observed[..., steps].to(scaled.value.dtype)]
    return torch.cat(parts, 1).transpose(1, 2)


class TimeGradLoss(Objective):
    """Mean squared error of the noise over the observed cells of the horizon.

    Rasul et al. 2021, eq. 8, with the true past at every step. Only the horizon counts, since
    location and scale know the context. A window without an observed cell has loss 0.

    Args:
        bank: The series; a row of the training data names a window of it, (item, end).
        back: Steps before the origin that a window holds.
        context: Steps before the origin that the recurrent network runs over.
        location: "item" or "window".
        draws: Noise levels a step of a window; the LSTM's work is shared by them.
    """

    def __init__(
        self, bank: SeriesBank, back: int, context: int, location: str, draws: int = 4
    ) -> None:
        self.bank, self.back, self.context = bank, back, context
        self.location, self.draws = location, draws

    def __call__(
        self,
        denoiser: NetworkDenoiser,
        x: State,
        noise: Noise,
        cond: Any = None,
        t: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of every window, (B,); see `Objective`."""
        network: Any = denoiser.network
        window = self.bank.windows(x["item"], x["end"], self.back, self.bank.horizon)
        scaled = scale_window(window, self.context, self.location)
        first, last = self.back - self.context, self.back + self.bank.horizon
        lagged = lag_inputs(scaled, network.lags, first, last)
        output, _ = network.unroll(lagged, scaled.shared[:, first:], scaled.static_cat)
        # (B, draws, H, ...): every step of the horizon at `draws` noise levels.
        target, seen, state = (
            part[:, None].expand(-1, self.draws, *part.shape[1:])
            for part in (
                scaled.value[..., self.back :].transpose(1, 2),
                scaled.observed[..., self.back :].transpose(1, 2),
                output[:, self.context :],
            )
        )
        if t is None:
            levels = self._levels(denoiser.process, target[..., 0], noise.child("time"))
        else:
            levels = t.view(-1, 1, 1).expand(target.shape[:-1])
        marginal = denoiser.process.schedule.marginal(levels[..., None])
        eps = noise.normal(target)
        z = marginal.scale.to(target.dtype) * target + marginal.std.to(target.dtype) * eps
        prediction = denoiser(
            torch.where(seen, z, 0.0).flatten(0, 2),
            levels.flatten(),
            {"state": state.flatten(0, 2), "missing": ~seen.flatten(0, 2)},
        )
        error = (prediction.eps.view(target.shape) - eps) ** 2
        error = torch.where(seen, error, 0.0).flatten(1).sum(1)
        return error / seen.flatten(1).sum(1).clamp(min=1)

    def _levels(self, process: Process, like: Tensor, noise: Noise) -> Tensor:
        """(B, draws, H) times, uniform over the nodes; the draws of a step are stratified."""
        nodes = process.schedule.num_nodes or 1
        strata = torch.arange(self.draws, dtype=torch.float64, device=like.device)[:, None]
        uniform = (noise.uniform(like.double()) + strata) / self.draws
        return ((uniform * nodes).floor() + 1).clamp(max=nodes) / nodes


@dataclass(frozen=True)
class History:
    """What forecasts of B items go on from.

    Args:
        scaled: Their windows, of which only `shared` matters from the origin on.
        state: State of the recurrent network after the context.
        back: Steps before the origin.
    """

    scaled: ScaledWindow
    state: RecurrentState
    back: int

    @classmethod
    def read(
        cls, network: TimeGradNetwork, scaled: ScaledWindow, back: int, context: int
    ) -> History:
        """Run the recurrent network over the context of windows."""
        lagged = lag_inputs(scaled, network.lags, back - context, back)
        shared = scaled.shared[:, back - context : back]
        _, state = network.unroll(lagged, shared, scaled.static_cat)
        return cls(scaled, state, back)

    @classmethod
    def join(cls, parts: Sequence[History]) -> History:
        """Put the items of several together."""
        names = [field.name for field in fields(ScaledWindow)]
        scaled = {
            name: torch.cat([getattr(part.scaled, name) for part in parts]) for name in names
        }
        hidden, cell = (torch.cat([part.state[k] for part in parts], 1) for k in (0, 1))
        return cls(ScaledWindow(**scaled), (hidden, cell), parts[0].back)


@torch.no_grad()
def roll_out(
    denoiser: NetworkDenoiser,
    history: History,
    owner: Tensor,
    horizon: int,
    sampler: Sampler,
    grid: Tensor,
    noise: Noise,
) -> Tensor:
    """Draw one path a row, step by step.

    Args:
        denoiser: With a `TimeGradNetwork`.
        history: Of the items.
        owner: (R,) item of each row.
        horizon: Steps H.
        sampler: Method of each step's denoising.
        grid: Its times.
        noise: Source of noise; step k has a stream of its own.

    Returns:
        (R, D, H) values in the windows' units.
    """
    network: Any = denoiser.network
    scaled, back = history.scaled, history.back
    state = (history.state[0][:, owner], history.state[1][:, owner])
    like = scaled.value.new_empty(len(owner), network.dim)
    classes = scaled.static_cat[owner]
    drawn: list[Tensor] = []
    for step in range(horizon):
        parts = []
        for lag in network.lags:
            if lag > step:
                value, observed = (
                    part[..., back + step - lag][owner] for part in (scaled.value, scaled.observed)
                )
                parts += [value, observed.to(like.dtype)]
            else:
                parts += [drawn[step - lag], torch.ones_like(like)]
        lagged, shared = torch.cat(parts, -1), scaled.shared[:, back + step][owner]
        output, state = network.unroll(lagged[:, None], shared[:, None], classes, state)
        value = sample(
            denoiser.process,
            denoiser,
            like,
            sampler=sampler,
            grid=grid,
            noise=noise.child(f"step {step}"),
            cond={"state": output[:, 0]},
        )
        # Training knows no values beyond.
        drawn.append(value.clamp(-CLIP, CLIP))
    return torch.stack(drawn, -1)
