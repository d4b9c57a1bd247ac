r"""The denoiser of windows: a network's correction of the Gaussian floor.

In the residual space of a `Frame`, with noise of the frame's own covariance and a schedule that
preserves variance, scale^2 + std^2 = 1, noisy residuals of Gaussian data have the floor's variance
at every noise level, and their best v = scale eps - std x0 (Salimans & Ho 2022) is 0. So

    v = -shrinkage sd F(z / sd, h, log(std / scale)),      x0 = scale z - std v,

where sd is the floor's standard deviation of the cell, F the network and h what its encoder says
of the window: the preconditioning of Karras et al. 2022, eq. 7, for data of unit variance. With
F = 0, or shrinkage = 0, it is the floor, which the sampler `AngularAB2` draws from exactly in any
number of steps. The encoder runs once a window; samples and steps share h. Noise at a temperature
other than 1, chosen like the shrinkage on held-out windows, widens or narrows the forecasts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from scidiffusion.core.gaussian import GaussianProcess
from scidiffusion.core.prediction import Parameterization, Prediction
from scidiffusion.core.rng import Noise
from scidiffusion.core.schedules import CosineVP, NoiseSchedule, as_time
from scidiffusion.timeseries.bank import Window
from scidiffusion.timeseries.features import cell_features
from scidiffusion.timeseries.floor import ForecastFloor
from scidiffusion.timeseries.frame import Colour, Frame
from scidiffusion.timeseries.groups import (
    group_slices,
    into_batch,
    joined,
    out_of_batch,
    repeated,
)
from scidiffusion.timeseries.kriging import KrigingFloor
from scidiffusion.timeseries.network import WindowNetwork

LOG_SNR_MIN = -8.0
"""At t = 1 a share of 3e-4 of the signal's variance is left."""


def window_process() -> GaussianProcess:
    """Diffusion of white residuals: uniform times are uniform in the angle arctan(std / scale)."""
    # Beta is the best reverse variance for standard normal data, which is the floor.
    return GaussianProcess(
        CosineVP(LOG_SNR_MIN), variance="beta", parameterization=Parameterization.V
    )


class ColouredProcess(GaussianProcess):
    """Gaussian diffusion of residuals with the noise of a frame.

    Rows are (window, sample) pairs, windows first.

    Args:
        schedule: Noise levels.
        law: Square root of the noise's covariance.
        windows: Number of windows B of a state.
        temperature: What all noise is multiplied with: paths of the floor lie as many times as
            far from its base.
    """

    def __init__(
        self, schedule: NoiseSchedule, law: Colour, windows: int, temperature: float = 1.0
    ) -> None:
        super().__init__(schedule, parameterization=Parameterization.V)
        self.law, self.windows, self.temperature = law, windows, temperature

    def draw(self, like: Tensor, noise: Noise) -> Tensor:
        """Draw noise of the frame's covariance."""
        white = noise.normal(like).unflatten(0, (self.windows, -1))
        return self.temperature * self.law.colour(white).flatten(0, 1)


@dataclass(frozen=True)
class Context:
    """What is known of B windows before a sample is drawn.

    Args:
        frame: Their residual spaces.
        h: (B, D, Z / patch, width) encoded tokens of the zone.
        seen: (B, D, Z) bool, cells of the zone that carry a residual; None is all.
        gaps: Whether cells were hidden anywhere, rather than the horizon.
    """

    frame: Frame
    h: Tensor
    seen: Tensor | None = None
    gaps: bool = False


class WindowDenoiser(nn.Module):
    """Predict clean residuals; a `scidiffusion.core.Denoiser` whose condition is a `Context`.

    Args:
        network: Encoder and denoiser.
        floor: Gaussian floor of forecasts.
        kriging: Gaussian floor of gaps, over whole windows.
        context_length: Steps before the origin that the encoder sees.
        max_series: Series that attend to each other, as many as in training: items with more are
            seen in groups, at a cost that grows with the number of series and not its square.
            The noise, and with it the floor, is joint over all of them.
    """

    def __init__(
        self,
        network: WindowNetwork,
        floor: ForecastFloor,
        kriging: KrigingFloor,
        context_length: int,
        max_series: int,
    ) -> None:
        super().__init__()
        self.max_series = max_series
        self.network, self.floor, self.kriging = network, floor, kriging
        self.context_length = context_length
        self.process = window_process()
        self.shrinkage: Tensor
        self.register_buffer("shrinkage", torch.ones(()))
        self.gap_shrinkage: Tensor
        self.register_buffer("gap_shrinkage", torch.ones(()))
        self.temperature: Tensor
        self.register_buffer("temperature", torch.ones(()))

    def forecast_context(self, window: Window) -> Context:
        """Encode windows whose cells from the origin on are hidden."""
        # In training the covariates of the past are there from the origin on, too.
        past_observed = window.past_observed.clone()
        past_observed[..., window.back :] = False
        window = replace(window, past_observed=past_observed)
        network, given = self.network, window.observed.clone()
        given[..., window.back :] = False
        with torch.no_grad():
            frame = self.floor.frame(window)
            length = self.context_length + window.ahead
            channels, summaries = cell_features(
                window, given, frame.base, frame.scale, network.layout, length
            )
        h = self._encode(channels, summaries, window, window.ahead // network.size.patch)
        return Context(frame, h)

    def gap_context(self, window: Window, hidden: Tensor) -> Context:
        """Encode windows of `kriging.length` steps in which the cells `hidden` are hidden.

        Args:
            window: B windows.
            hidden: (B, D, L) bool. Cells that are not observed are hidden in any case.
        """
        network = self.network
        given = window.observed & ~hidden
        with torch.no_grad():
            frame = self.kriging.frame(window, given)
            channels, summaries = cell_features(
                window, given, frame.base, frame.scale, network.layout, given.shape[-1]
            )
        h = self._encode(channels, summaries, window)
        return Context(frame, h, seen=~given, gaps=True)

    def _encode(
        self, channels: Tensor, summaries: Tensor, window: Window, last: int | None = None
    ) -> Tensor:
        rows = channels.shape[0]

        def encoded() -> Iterator[Tensor]:
            for part, size in group_slices(len(window.series), self.max_series):
                series = window.series[part]
                groups = len(series) // size
                h = self.network.encode(
                    into_batch(channels[:, part], 1, size),
                    into_batch(summaries[:, part], 1, size),
                    series if groups == 1 else series.unflatten(0, (groups, size)).repeat(rows, 1),
                    window.static_real.repeat_interleave(groups, 0),
                    window.static_cat.repeat_interleave(groups, 0),
                    last,
                )
                yield out_of_batch(h, 1, rows)

        return joined(encoded(), 1)

    def velocity(self, z: Tensor, sigma: Tensor, context: Context) -> Tensor:
        """Predict v of noisy residuals.

        Args:
            z: (B, S, D, Z).
            sigma: std / scale, (B, S), or (1, 1) for all.
            context: Of the B windows.

        Returns:
            (B, S, D, Z).
        """
        trusted = self.gap_shrinkage if context.gaps else self.shrinkage
        if not self.training and not float(trusted):
            return torch.zeros_like(z)
        sd = context.frame.std[:, None]
        if context.seen is not None:
            z = torch.where(context.seen[:, None], z, 0.0)
        c_noise = 0.25 * sigma.log().to(z.dtype)
        unit, rows = z / sd, z.shape[0]

        def outputs() -> Iterator[Tensor]:
            for part, size in group_slices(z.shape[2], self.max_series):
                seen = None if context.seen is None else context.seen[:, part]
                output = self.network(
                    into_batch(unit[:, :, part], 2, size),
                    repeated(c_noise, (part.stop - part.start) // size),
                    into_batch(context.h[:, part], 1, size),
                    None if seen is None else into_batch(seen, 1, size),
                )
                yield out_of_batch(output, 2, rows)

        return -trusted * sd * joined(outputs(), 2)

    def forward(self, z: Tensor, t: Tensor, cond: Any = None) -> Prediction:
        """Predict the rows (B * S, D, Z); see `Denoiser`."""
        context: Context = cond
        windows = context.h.shape[0]
        marginal = self.process.schedule.marginal(as_time(t).to(z.device))
        sigma = marginal.sigma
        sigma = sigma.reshape(1, 1) if sigma.ndim == 0 else sigma.reshape(windows, -1)
        v = self.velocity(z.unflatten(0, (windows, -1)), sigma, context).flatten(0, 1)
        return Prediction(z, marginal, v, Parameterization.V)
