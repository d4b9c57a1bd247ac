r"""How likely a window is: anomaly scores, by the probability-flow ODE or the ELBO of the core.

In the white coordinates of a window's frame, y = base + scale A w, the diffusion is that of
standard normal noise, so the core's likelihoods apply as they are, and

    log p(y | past) = log p(w) - log |det A| - H sum_d log scale_d - H sum_d log spread_d,

where spread is the standardisation of the series.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scidiffusion.core.denoiser import Denoiser
from scidiffusion.core.elbo import elbo
from scidiffusion.core.likelihood import ode_log_prob
from scidiffusion.core.prediction import Parameterization, Prediction
from scidiffusion.core.rng import KeyedNoise
from scidiffusion.errors import ConfigError, DataError
from scidiffusion.timeseries.drawing import SPARE, recent_part
from scidiffusion.timeseries.series import Series, SeriesSet

if TYPE_CHECKING:
    from scidiffusion.timeseries.denoiser import Context
    from scidiffusion.timeseries.window_model import WindowModel


class WhiteDenoiser:
    """The denoiser of windows in white coordinates, one path a window.

    Args:
        model: Fitted model.
        context: Of the windows.
    """

    def __init__(self, model: WindowModel, context: Context) -> None:
        self.denoiser, self.context = model.denoiser, context
        self.process = model.denoiser.process

    def __call__(self, z: Tensor, t: Tensor, cond: Any = None) -> Prediction:
        """Predict v of white states (B, D, Z)."""
        law = self.context.frame.law
        coloured = law.colour(z[:, None].float())[:, 0]
        prediction = self.denoiser(coloured, t, self.context)
        white = law.whiten(prediction.value[:, None])[:, 0].to(z.dtype)
        return Prediction(z, prediction.marginal, white, Parameterization.V)


def log_prob(
    model: WindowModel,
    items: Sequence[Series],
    *,
    method: str = "ode",
    steps: int = 20,
    probes: int = 1,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Log-density of the last H steps of each item given what comes before, nats.

    Args:
        model: Fitted; H is its horizon.
        items: Series whose last H steps are observed.
        method: "ode" (Song et al. 2021) or "elbo", a lower bound.
        steps: Steps of the solver (four evaluations each), or of the bound's chain.
        probes: Of the trace estimator, where the window has more than 16 cells.
        seed: Seed of probes and noise.

    Raises:
        ConfigError: for another method.
        DataError: if a value of a horizon is missing, or an item is too short.
    """
    if method not in ("ode", "elbo"):
        raise ConfigError(f"method must be 'ode' or 'elbo', got {method!r}")
    if model.zone != model.horizon:
        raise ConfigError(
            f"densities need a prediction_length of at most 64 or of whole patches; "
            f"{model.horizon} is drawn as {model.zone} steps"
        )
    model.check_items([item.cut(max(item.length - model.horizon, 1)) for item in items])
    results = []
    for number, item in enumerate(items):
        if item.length <= model.horizon:
            raise DataError(
                f"series {item.item_id!r} has {item.length} steps; a density needs more than "
                f"prediction_length = {model.horizon}"
            )
        if not np.isfinite(item.target[:, -model.horizon :]).all():
            raise DataError(
                f"series {item.item_id!r}: a value of the last {model.horizon} steps is missing; "
                "impute it first"
            )
        # As for a forecast, units are those of the past: an outlier must not set its own.
        past = recent_part(item.cut(item.length - model.horizon), model.back + SPARE)
        bank = model.bank_of(SeriesSet([past], model.freq)).to(model.device)
        first = torch.zeros_like(bank.length)
        window = model.window(bank, first, bank.length)
        target = torch.from_numpy(item.target[None, :, -model.horizon :]).to(bank.device)
        with torch.no_grad():
            context = model.denoiser.forecast_context(window)
            frame = context.frame
            residual = frame.residual(bank.standardise(first, target))
            white = frame.law.whiten(residual[:, None])[:, 0].double()
        denoiser: Denoiser = WhiteDenoiser(model, context)
        noise = KeyedNoise(seed, start=number)
        if method == "ode":
            value = ode_log_prob(denoiser, white, steps=steps, probes=probes, noise=noise)
        else:
            with torch.no_grad():
                value = elbo(denoiser, white, steps=steps, noise=noise).total
        logs = frame.law.log_det() + model.horizon * frame.scale.log().sum()
        results.append(float(value) - float(logs) - model.horizon * float(bank.spread.log().sum()))
    return np.array(results)
