r"""Likelihood by the probability-flow ODE (Song et al. 2021, section 4.3 and appendix D.2).

In the coordinates u = z / scale and sigma = std / scale the flow of every Gaussian process is
du / dsigma = eps(z, t), so with lambda = log sigma

    du/dlambda = sigma eps,      d log p / dlambda = -tr(d (sigma eps) / du),

which is integrated from the smallest noise level of the schedule to t = 1, where z has the prior's
density. The piece between the data and that level, where lambda has no lower end, is one step in
sigma: eps = -std score grows linearly there, so its integral is sigma eps / 2. Without it the
result would be the density of data blurred by the smallest noise level.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum

import torch
from torch import Tensor

from scidiffusion.core.denoiser import Condition, Denoiser
from scidiffusion.core.gaussian import GaussianProcess
from scidiffusion.core.prediction import match
from scidiffusion.core.rng import KeyedNoise, Noise
from scidiffusion.core.schedules import check_option, check_steps
from scidiffusion.errors import ConfigError

EXACT_TRACE_LIMIT = 16
"""Dimensions up to which trace="auto" computes the trace exactly."""


class Trace(StrEnum):
    """How the divergence of the flow is computed."""

    AUTO = "auto"
    EXACT = "exact"
    HUTCHINSON = "hutchinson"


def ode_log_prob(
    denoiser: Denoiser,
    x: Tensor,
    *,
    steps: int = 100,
    trace: Trace | str = Trace.AUTO,
    probes: int = 1,
    noise: Noise | None = None,
    cond: Condition = None,
) -> Tensor:
    """Return log p(x) of every row.

    Args:
        denoiser: Must have a Gaussian process.
        x: (B, ...) data; use float64 for the full accuracy.
        steps: Steps of the fourth-order Runge-Kutta solver, four evaluations each, uniform in
            log sigma. A discrete schedule is integrated by Heun's rule on its own nodes (or on
            `steps` of them, if it has more), since it is defined nowhere else.
        trace: "exact" (one backward pass a dimension), "hutchinson" (unbiased in log p, `probes`
            backward passes), or "auto": exact up to 16 dimensions.
        probes: Rademacher probes a row for Hutchinson's estimator.
        noise: Source of the probes; default `KeyedNoise(0)`.
        cond: Condition of each row.

    Returns:
        (B,) nats.

    Raises:
        ConfigError: if the process is not Gaussian, its schedule has zero terminal SNR, or an
            option is out of range.
    """
    process = denoiser.process
    if not isinstance(process, GaussianProcess):
        raise ConfigError(f"the ODE likelihood needs a Gaussian process, not {process!r}")
    if process.schedule.terminal_snr == 0:
        raise ConfigError(
            "the ODE likelihood needs some signal at t = 1: with zero terminal SNR the flow of "
            "z / scale has no end; use elbo"
        )
    check_steps(steps), check_steps(probes)
    trace = check_option(Trace, trace, "trace")
    size = x[0].numel()
    if trace is Trace.AUTO:
        trace = Trace.EXACT if size <= EXACT_TRACE_LIMIT else Trace.HUTCHINSON
    if trace is Trace.EXACT:
        vectors = [
            row.reshape(x.shape[1:]).expand_as(x)
            for row in torch.eye(size, dtype=x.dtype, device=x.device)
        ]
        count = 1
    else:
        source = (noise or KeyedNoise(0)).child("trace")
        vectors = [2 * (source.at(i).uniform(x) < 0.5).to(x.dtype) - 1 for i in range(probes)]
        count = probes

    def flow(u: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        marginal = process.schedule.marginal(t)
        with torch.enable_grad():
            u = u.detach().requires_grad_(True)
            z = match(marginal.scale, u) * process.project(u)
            velocity = match(marginal.sigma, u) * denoiser(z, t, cond).eps
            divergence = torch.zeros(len(u), dtype=u.dtype, device=u.device)
            for index, vector in enumerate(vectors):
                keep = index + 1 < len(vectors)
                (row,) = torch.autograd.grad(velocity, u, vector, retain_graph=keep)
                divergence = divergence + (row * vector).flatten(1).sum(1)
        return velocity.detach(), divergence / count

    schedule = process.schedule
    one = torch.ones((), dtype=torch.float64)
    if schedule.num_nodes is None:
        first = torch.as_tensor(schedule.t_min, dtype=torch.float64)
        low, high = (float(-0.5 * schedule.log_snr(t)) for t in (schedule.t_min, 1.0))
        velocity, divergence = flow(x, first)
        u, change = _runge_kutta(flow, x + 0.5 * velocity, low, high, steps, schedule.t_of_log_snr)
    else:
        nodes = schedule.grid(min(steps, schedule.num_nodes)).flip(0)[1:]
        velocity, divergence = flow(x, nodes[0])
        u, change = _heun(
            flow, x + 0.5 * velocity, nodes, [float(-0.5 * schedule.log_snr(t)) for t in nodes]
        )
    z = match(schedule.marginal(one).scale, u) * u
    prior = process.gaussian(
        torch.zeros_like(z), torch.full((), schedule.prior_std**2, dtype=z.dtype, device=z.device)
    )
    # u_1 = z_1 / scale_1 has the density of z_1 times scale_1 per degree of freedom.
    jacobian = match(schedule.marginal(one).scale.log(), z) * process.dimension(z)
    return prior.log_prob(z) + jacobian + change + 0.5 * divergence


Flow = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def _runge_kutta(
    flow: Flow,
    u: Tensor,
    low: float,
    high: float,
    steps: int,
    t_of_log_snr: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Classical fourth-order Runge-Kutta from log sigma = low to high."""
    h = (high - low) / steps
    half_steps = torch.linspace(low, high, 2 * steps + 1, dtype=torch.float64)
    times = t_of_log_snr(-2 * half_steps)
    change = torch.zeros(len(u), dtype=u.dtype, device=u.device)
    for index in range(steps):
        start, middle, end = times[2 * index : 2 * index + 3]
        v1, d1 = flow(u, start)
        v2, d2 = flow(u + 0.5 * h * v1, middle)
        v3, d3 = flow(u + 0.5 * h * v2, middle)
        v4, d4 = flow(u + h * v3, end)
        u = u + h / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
        change = change + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    return u, change


def _heun(flow: Flow, u: Tensor, times: Tensor, log_sigma: list[float]) -> tuple[Tensor, Tensor]:
    """Heun's rule between given nodes, from the least noise to the most.

    The state steps in sigma, where eps levels off at both ends and a schedule's last, enormous
    step in log sigma does no harm; the log-density steps in log sigma, where its rate levels off.
    """
    change = torch.zeros(len(u), dtype=u.dtype, device=u.device)
    v1, d1 = flow(u, times[0])
    for index in range(len(times) - 1):
        h = log_sigma[index + 1] - log_sigma[index]
        # The velocity is sigma eps: (sigma_2 - sigma_1) eps = (sigma_2 / sigma_1 - 1) velocity_1.
        forward, backward = math.expm1(h), -math.expm1(-h)
        v2, d2 = flow(u + forward * v1, times[index + 1])
        u = u + 0.5 * (forward * v1 + backward * v2)
        change = change + 0.5 * h * (d1 + d2)
        v1, d1 = flow(u, times[index + 1])
    return u, change
