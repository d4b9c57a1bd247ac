r"""Noise schedules: how much data and how much noise is left at time t.

A schedule knows numbers only. Time runs from t = 0 (data, exactly) to t = 1 (noise), and the
diffusion kernel of every Gaussian process here is

    q(z_t | x) = N(scale_t x, std_t^2 I),     log_snr_t = 2 log(scale_t / std_t).

Variance preserving (VP) schedules have scale = sqrt(alpha_bar) and std = sqrt(1 - alpha_bar);
variance exploding (VE) ones have scale = 1. All coefficients are float64 and use log1p / expm1: in
float32 the relative error of 1 - alpha_bar_1 is 2e-4. They are cast where they meet the data.

References:
    Ho et al. 2020 (linear); Nichol & Dhariwal 2021, eq. 17 (cosine); Jabri et al. 2022 (sigmoid);
    Song et al. 2021, eqs. 30-33 (VP and VE SDE); Karras et al. 2022, eq. 5 (EDM).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import torch
from torch import Tensor

from scidiffusion.errors import ConfigError

F64 = torch.float64


class Spacing(StrEnum):
    """How a sampling grid spreads its steps over (0, 1]."""

    UNIFORM = "uniform"
    LOG_SNR = "log_snr"
    KARRAS = "karras"


@dataclass(frozen=True)
class Marginal:
    """Coefficients of q(z_t | x) = N(scale x, std^2 I); float64, any shape."""

    scale: Tensor
    std: Tensor

    @property
    def alpha_bar(self) -> Tensor:
        """Squared signal coefficient (alpha_bar_t of the VP literature)."""
        return self.scale**2

    @property
    def var(self) -> Tensor:
        """Noise variance (1 - alpha_bar_t where the schedule preserves variance)."""
        return self.std**2

    @property
    def log_snr(self) -> Tensor:
        """log(scale^2 / std^2): +inf at the data end."""
        return 2 * (self.scale.log() - self.std.log())

    @property
    def sigma(self) -> Tensor:
        """Noise-to-signal ratio std / scale, the sigma of Karras et al. 2022."""
        return self.std / self.scale


@dataclass(frozen=True)
class Transition:
    """Coefficients of q(z_t | z_s) = N(scale z_s, var I), s < t; float64.

    Between adjacent nodes of a discrete schedule `var` is beta_t and `scale` is sqrt(1 - beta_t).
    """

    scale: Tensor
    var: Tensor


def as_time(t: Tensor | float) -> Tensor:
    """Return `t` as a float64 tensor (time is never kept in single precision)."""
    return t.to(F64) if isinstance(t, Tensor) else torch.as_tensor(t, dtype=F64)


class NoiseSchedule(ABC):
    """Interface of every schedule; subclasses give `marginal` and `transition`."""

    prior_std: float = 1.0
    """Standard deviation of the prior N(0, prior_std^2 I) that sampling starts from."""
    num_nodes: int | None = None
    """Number of steps T of a discrete schedule; None for a continuous one."""
    t_min: float = 1e-3
    """Smallest positive time that a grid visits before it jumps to the data at 0."""

    @abstractmethod
    def marginal(self, t: Tensor | float) -> Marginal:
        """Coefficients of the diffusion kernel q(z_t | x) at times `t` in [0, 1]."""

    @abstractmethod
    def transition(self, t: Tensor | float, s: Tensor | float) -> Transition:
        """Coefficients of q(z_t | z_s) for s <= t."""

    @abstractmethod
    def sde_increment(self, t: Tensor | float, s: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return (integral of f, integral of g^2) over [s, t] of dz = f(t) z dt + g(t) dw."""

    @abstractmethod
    def t_of_log_snr(self, log_snr: Tensor | float) -> Tensor:
        """Return the time at which the log-SNR has the given value (nearest node if discrete)."""

    def log_snr(self, t: Tensor | float) -> Tensor:
        """log(scale^2 / std^2) at `t`."""
        return self.marginal(t).log_snr

    @property
    def terminal_snr(self) -> float:
        """Signal-to-prior ratio scale_1^2 / prior_std^2: what of the data is left at t = 1."""
        return float(self.marginal(1.0).alpha_bar) / self.prior_std**2

    def grid(
        self, steps: int, spacing: Spacing | str = Spacing.LOG_SNR, *, rho: float = 7.0
    ) -> Tensor:
        """Times of a sampling run, from 1 down to 0.

        Args:
            steps: Number of steps, at least 1; a discrete schedule has at most T.
            spacing: "uniform" in t, "log_snr" (uniform in log-SNR) or "karras" (uniform in
                sigma^(1/rho), Karras et al. 2022, eq. 5). No grid visits times between `t_min`
                and 0: where noise is lost to rounding beside the data.
            rho: Exponent of the Karras spacing.

        Returns:
            (steps + 1,) float64, strictly decreasing, first 1 and last 0.

        Raises:
            ConfigError: if `steps` or `spacing` is out of range.
        """
        steps, spacing = check_steps(steps), check_option(Spacing, spacing, "spacing")
        if steps == 1 or (spacing is Spacing.UNIFORM and 1 / steps >= self.t_min - 1e-12):
            return self._snap(torch.linspace(1, 0, steps + 1, dtype=F64))
        if spacing is Spacing.UNIFORM:
            times = torch.linspace(1, self.t_min, steps, dtype=F64)
            return self._snap(torch.cat([times, torch.zeros(1, dtype=F64)]))
        # With zero terminal SNR log_snr is -inf at t = 1; at -20 a share of 2e-9 is left.
        first = self.log_snr(1.0).clamp(min=-20.0)
        last = self.log_snr(self.t_min)
        if spacing is Spacing.LOG_SNR:
            log_snr = torch.linspace(float(first), float(last), steps, dtype=F64)
        else:
            low, high = (float(torch.exp(-0.5 * value) ** (1 / rho)) for value in (last, first))
            log_snr = -2 * rho * torch.linspace(high, low, steps, dtype=F64).log()
        times = self.t_of_log_snr(log_snr)
        times[0] = 1.0
        return self._snap(torch.cat([times, torch.zeros(1, dtype=F64)]))

    def _snap(self, times: Tensor) -> Tensor:
        return times


class VPSchedule(NoiseSchedule):
    """A variance preserving schedule, given by log alpha_bar(t)."""

    @abstractmethod
    def log_alpha_bar(self, t: Tensor | float) -> Tensor:
        """Log alpha_bar at `t`: 0 at t = 0, decreasing; float64."""

    def marginal(self, t: Tensor | float) -> Marginal:
        """Scale = sqrt(alpha_bar), std = sqrt(1 - alpha_bar)."""
        log_alpha_bar = self.log_alpha_bar(t)
        return Marginal(torch.exp(0.5 * log_alpha_bar), torch.sqrt(-torch.expm1(log_alpha_bar)))

    def transition(self, t: Tensor | float, s: Tensor | float) -> Transition:
        """Scale = sqrt(alpha_bar_t / alpha_bar_s), var = 1 - alpha_bar_t / alpha_bar_s."""
        ratio = self.log_alpha_bar(t) - self.log_alpha_bar(s)
        return Transition(torch.exp(0.5 * ratio), -torch.expm1(ratio))

    def sde_increment(self, t: Tensor | float, s: Tensor | float) -> tuple[Tensor, Tensor]:
        """VP SDE: f = -beta / 2, g^2 = beta, and the integral of beta is -log(ab_t / ab_s)."""
        integral = self.log_alpha_bar(s) - self.log_alpha_bar(t)
        return -0.5 * integral, integral

    def t_of_log_snr(self, log_snr: Tensor | float) -> Tensor:
        """Invert log_snr(t) by bisection (60 halvings: exact to float64)."""
        target = as_time(log_snr)
        low, high = torch.zeros_like(target), torch.ones_like(target)
        for _ in range(60):
            middle = 0.5 * (low + high)
            noisier = self.log_snr(middle) < target
            low, high = torch.where(noisier, low, middle), torch.where(noisier, middle, high)
        return 0.5 * (low + high)


class DiscreteSchedule(VPSchedule):
    """T steps with variances beta_1..beta_T; node k / T holds alpha_bar_k, and node 0 is the data.

    Args:
        betas: (T,) values in (0, 1); only the last may be 1 (zero terminal SNR).

    Raises:
        ConfigError: if a beta lies outside the range, or if asked for a time that is no node.
    """

    def __init__(self, betas: Tensor | list[float]) -> None:
        betas = torch.as_tensor(betas, dtype=F64).detach().clone()
        if betas.ndim != 1 or len(betas) == 0 or not bool(torch.isfinite(betas).all()):
            raise ConfigError("betas must be a non-empty 1-D sequence of finite numbers")
        if bool((betas <= 0).any() or (betas > 1).any() or (betas[:-1] >= 1).any()):
            raise ConfigError(
                "every beta must lie in (0, 1); only the last may be 1 (zero terminal SNR)"
            )
        self.num_nodes = len(betas)
        self.t_min = 1 / self.num_nodes
        self.betas = betas
        nodes = torch.cat([torch.zeros(1, dtype=F64), torch.log1p(-betas).cumsum(0)])
        self._nodes: dict[torch.device, Tensor] = {nodes.device: nodes}

    def __repr__(self) -> str:
        return f"DiscreteSchedule(T={self.num_nodes}, alpha_bar_T={self.terminal_snr:.3g})"

    @property
    def nodes(self) -> Tensor:
        """(T + 1,) log alpha_bar at every node, node 0 first."""
        return self._nodes[torch.device("cpu")]

    @property
    def alpha_bar(self) -> Tensor:
        """(T + 1,) alpha_bar at every node; alpha_bar[0] = 1 is the data."""
        return self.nodes.exp()

    @classmethod
    def linear(
        cls, num_nodes: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02
    ) -> DiscreteSchedule:
        """Linear betas (Ho et al. 2020, section 4), rescaled by 1000 / T for any T."""
        factor = 1000 / check_steps(num_nodes)
        return cls(
            torch.linspace(beta_1 * factor, beta_T * factor, num_nodes, dtype=F64).clamp(max=0.999)
        )

    @classmethod
    def cosine(
        cls, num_nodes: int = 1000, offset: float = 0.008, max_beta: float = 0.999
    ) -> DiscreteSchedule:
        """Cosine alpha_bar with betas capped at .999 (Nichol & Dhariwal 2021, eq. 17)."""
        time = torch.linspace(0, 1, check_steps(num_nodes) + 1, dtype=F64)
        f = torch.cos((time + offset) / (1 + offset) * math.pi / 2) ** 2
        return cls((1 - f[1:] / f[:-1]).clamp(max=max_beta))

    @classmethod
    def sigmoid(
        cls,
        num_nodes: int = 1000,
        start: float = -3.0,
        end: float = 3.0,
        temperature: float = 1.0,
        max_beta: float = 0.999,
    ) -> DiscreteSchedule:
        """Sigmoid alpha_bar (Jabri et al. 2022, algorithm 1), betas capped at .999."""
        time = torch.linspace(0, 1, check_steps(num_nodes) + 1, dtype=F64)
        low, high = (torch.sigmoid(torch.tensor(v / temperature, dtype=F64)) for v in (start, end))
        alpha_bar = (high - torch.sigmoid((time * (end - start) + start) / temperature)) / (
            high - low
        )
        return cls((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=max_beta))

    @classmethod
    def absorbing(cls, num_nodes: int = 1000) -> DiscreteSchedule:
        """alpha_bar_k = 1 - k / T, beta_k = 1 / (T - k + 1) (Austin et al. 2021, section 3.1).

        The schedule of masking: every node masks the same share, and nothing is left at T.
        """
        return cls(1 / torch.arange(check_steps(num_nodes), 0, -1, dtype=F64))

    def with_zero_terminal_snr(self) -> DiscreteSchedule:
        """Shift and stretch sqrt(alpha_bar) so that nothing of the data is left at T.

        Lin et al. 2024, algorithm 1. Such a schedule cannot be used with eps-prediction.
        """
        root = self.alpha_bar[1:].sqrt()
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        alpha_bar = torch.cat([torch.ones(1, dtype=F64), root**2])
        return DiscreteSchedule(1 - alpha_bar[1:] / alpha_bar[:-1])

    def node(self, t: Tensor | float) -> Tensor:
        """Return the node index k of time t = k / T (long).

        Raises:
            ConfigError: if t is no node: between nodes a discrete schedule is undefined, and
                rounding would hide off-by-one slips.
        """
        exact = as_time(t) * float(self.num_nodes or 1)
        index = exact.round()
        outside = (index < 0) | (index > (self.num_nodes or 1))
        # The tolerance admits times that have been in single precision, T up to some thousands.
        if bool((outside | ((exact - index).abs() > 1e-3)).any()):
            raise ConfigError(
                f"t = {t} is not a node k / {self.num_nodes} of this discrete schedule; take "
                "times from schedule.grid(steps)"
            )
        return index.long()

    def log_alpha_bar(self, t: Tensor | float) -> Tensor:
        """Log alpha_bar at the nodes `t`."""
        index = self.node(t)
        if index.device not in self._nodes:
            self._nodes[index.device] = self.nodes.to(index.device)
        return self._nodes[index.device][index]

    def t_of_log_snr(self, log_snr: Tensor | float) -> Tensor:
        """Return the node in 1..T whose log-SNR is nearest."""
        target = as_time(log_snr)
        log_snr_nodes = (self.nodes - torch.log(-torch.expm1(self.nodes)))[1:].to(target.device)
        return ((log_snr_nodes - target[..., None]).abs().argmin(-1) + 1).to(F64) / len(self.betas)

    def _snap(self, times: Tensor) -> Tensor:
        steps, last = len(times) - 1, int(self.num_nodes or 1)
        if steps > last:
            raise ConfigError(f"steps = {steps} exceeds the {last} nodes of the discrete schedule")
        # Neighbouring times may round to one node: keep the nodes strictly decreasing, leaving
        # room for the steps still to come.
        nodes = [last]
        for position, index in enumerate((times[1:] * last).round().long().tolist(), start=1):
            nodes.append(max(min(index, nodes[-1] - 1), steps - position))
        return torch.tensor(nodes, dtype=F64) / last


class LinearVP(VPSchedule):
    """Continuous VP schedule with beta(t) = beta_min + t (beta_max - beta_min).

    Song et al. 2021, eq. 33: log alpha_bar = -(beta_min t + (beta_max - beta_min) t^2 / 2).
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        if not 0 < beta_min <= beta_max:
            raise ConfigError(f"need 0 < beta_min <= beta_max, got {beta_min}, {beta_max}")
        self.beta_min, self.beta_max = beta_min, beta_max

    def __repr__(self) -> str:
        return f"LinearVP(beta_min={self.beta_min}, beta_max={self.beta_max})"

    def log_alpha_bar(self, t: Tensor | float) -> Tensor:
        """-(beta_min t + (beta_max - beta_min) t^2 / 2)."""
        t = as_time(t)
        return -(self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t**2)


class CosineVP(VPSchedule):
    """Continuous cosine schedule: alpha_bar = cos^2(pi t' / 2), t' = t t_end.

    Hoogeboom et al. 2023, eq. 2, ended where the log-SNR is `log_snr_min` so that some signal,
    however little, is always left and eps-prediction stays defined.
    """

    def __init__(self, log_snr_min: float = -15.0) -> None:
        if not -40 <= log_snr_min < 0:
            raise ConfigError(f"log_snr_min must lie in [-40, 0), got {log_snr_min}")
        self.log_snr_min = log_snr_min
        self._end = math.atan(math.exp(-0.5 * log_snr_min))

    def __repr__(self) -> str:
        return f"CosineVP(log_snr_min={self.log_snr_min})"

    def log_alpha_bar(self, t: Tensor | float) -> Tensor:
        """2 log cos(t t_end), written as -log1p(tan^2) which is exact near t = 0."""
        return -torch.log1p(torch.tan(as_time(t) * self._end) ** 2)


class _Exploding(NoiseSchedule):
    """scale = 1, std = sigma(t): shared by VE and EDM."""

    @abstractmethod
    def sigma(self, t: Tensor | float) -> Tensor:
        """Noise standard deviation at `t`, 0 at t = 0."""

    def marginal(self, t: Tensor | float) -> Marginal:
        """Scale = 1, std = sigma(t)."""
        sigma = self.sigma(t)
        return Marginal(torch.ones_like(sigma), sigma)

    def transition(self, t: Tensor | float, s: Tensor | float) -> Transition:
        """Scale = 1, var = sigma(t)^2 - sigma(s)^2."""
        later, earlier = self.sigma(t), self.sigma(s)
        var = (later - earlier) * (later + earlier)
        return Transition(torch.ones_like(var), var)

    def sde_increment(self, t: Tensor | float, s: Tensor | float) -> tuple[Tensor, Tensor]:
        """VE SDE: f = 0, g^2 = d sigma^2 / dt."""
        var = self.transition(t, s).var
        return torch.zeros_like(var), var


class VESchedule(_Exploding):
    """Geometric variance exploding schedule (Song et al. 2021, eq. 30).

    sigma(t)^2 = sigma_min^2 ((sigma_max / sigma_min)^(2 t) - 1): the exact marginal of the VE SDE
    started at the data, so that node 0 is the data itself.
    """

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        if not 0 < sigma_min < sigma_max:
            raise ConfigError(f"need 0 < sigma_min < sigma_max, got {sigma_min}, {sigma_max}")
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.prior_std = float(self.sigma(1.0))

    def __repr__(self) -> str:
        return f"VESchedule(sigma_min={self.sigma_min}, sigma_max={self.sigma_max})"

    def sigma(self, t: Tensor | float) -> Tensor:
        """sigma_min sqrt((sigma_max / sigma_min)^(2 t) - 1)."""
        rate = 2 * math.log(self.sigma_max / self.sigma_min)
        return self.sigma_min * torch.sqrt(torch.expm1(rate * as_time(t)))

    def t_of_log_snr(self, log_snr: Tensor | float) -> Tensor:
        """Closed form: log1p(sigma^2 / sigma_min^2) / (2 log(sigma_max / sigma_min))."""
        ratio = torch.exp(-as_time(log_snr)) / self.sigma_min**2
        return torch.log1p(ratio) / (2 * math.log(self.sigma_max / self.sigma_min))


class EDMSchedule(_Exploding):
    """sigma(t) = sigma_max t^rho: uniform steps in t are the grid of Karras et al. 2022, eq. 5.

    Args:
        sigma_min: Smallest positive noise level that a grid visits.
        sigma_max: Noise level at t = 1, and the prior's standard deviation.
        rho: Exponent; larger spends more steps near the data.
    """

    def __init__(
        self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
    ) -> None:
        if not 0 < sigma_min < sigma_max or rho < 1:
            raise ConfigError(
                f"need 0 < sigma_min < sigma_max and rho >= 1, got {sigma_min}, {sigma_max}, {rho}"
            )
        self.sigma_min, self.sigma_max, self.rho = sigma_min, sigma_max, rho
        self.prior_std = sigma_max
        self.t_min = (sigma_min / sigma_max) ** (1 / rho)

    def __repr__(self) -> str:
        return (
            f"EDMSchedule(sigma_min={self.sigma_min}, sigma_max={self.sigma_max}, rho={self.rho})"
        )

    def sigma(self, t: Tensor | float) -> Tensor:
        """sigma_max t^rho."""
        return self.sigma_max * as_time(t) ** self.rho

    def t_of_log_snr(self, log_snr: Tensor | float) -> Tensor:
        """Closed form: (sigma / sigma_max)^(1 / rho)."""
        return (torch.exp(-0.5 * as_time(log_snr)) / self.sigma_max) ** (1 / self.rho)


def check_steps(steps: int) -> int:
    """Return `steps` if it is a positive integer, else raise ConfigError."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ConfigError(f"the number of steps must be an integer >= 1, got {steps!r}")
    return steps


_Option = TypeVar("_Option", bound=StrEnum)


def check_option(options: type[_Option], value: _Option | str, name: str) -> _Option:
    """Return `value` as a member of `options`, or raise ConfigError that lists the choices."""
    try:
        return options(value)
    except ValueError:
        choices = ", ".join(repr(str(option)) for option in options)
        raise ConfigError(f"{name} must be one of {choices}; got {value!r}") from None
