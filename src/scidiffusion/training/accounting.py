r"""How much noise a budget asks for, and how much of it a run has spent.

One step of private training adds N(0, (noise_multiplier max_grad_norm)^2) to the sum of clipped
gradients of rows drawn independently with probability `sample_rate`: the Poisson-subsampled
Gaussian mechanism. Its composition over steps is computed by Opacus: numerically, by
convolving the law of the privacy loss (Gopi, Lee & Wutschitz 2021, tight up to a known error
that is added), or by Renyi divergences (Mironov, Talwar & Zhang 2019). Both bound epsilon from
above, so the smaller counts.
"""

from __future__ import annotations

import functools
import math
import warnings
from typing import Any

from scipy.optimize import brentq
from scipy.stats import norm

from scidiffusion._lazy import require
from scidiffusion.errors import ConfigError

__all__ = ["epsilon_spent", "gaussian_delta", "gaussian_ratio", "noise_multiplier_for"]

RELATIVE_ERROR = 1 / 100
"""Error of the numerical composition, as a part of the epsilon asked about."""
MOST_NOISE = 1e6


@functools.lru_cache(maxsize=256)
def epsilon_spent(
    noise_multiplier: float, sample_rate: float, steps: int, delta: float, *, scale: float = 1.0
) -> float:
    """Epsilon of a number of steps at a delta.

    Args:
        noise_multiplier: Standard deviation of the noise in units of the clipping norm, > 0.
        sample_rate: Probability with which a row takes part in a step, in (0, 1].
        steps: Number of steps.
        delta: In (0, 1).
        scale: About how large an epsilon is expected: it sets the precision.

    Returns:
        An upper bound; 0 without steps.

    Raises:
        MissingExtraError: if Opacus is not installed.
    """
    if steps == 0:
        return 0.0
    found = _renyi(noise_multiplier, sample_rate, steps, delta)
    # Where Renyi's bound is far too large the convolution would need a mesh of its size.
    if found <= 10 * max(scale, 1e-3):
        accountant = _accountants().PRVAccountant()
        accountant.history = [(noise_multiplier, sample_rate, steps)]
        with warnings.catch_warnings():
            # Logarithms of 0 outside the domain, which the accountant then masks.
            warnings.simplefilter("ignore")
            value = float(accountant.get_epsilon(delta, eps_error=RELATIVE_ERROR * scale))
        if math.isfinite(value):
            found = min(found, value)
    # What a large delta covers alone costs less than nothing by these bounds.
    return max(found, 0.0)


def _accountants() -> Any:
    require("opacus", "privacy")
    return require("opacus.accountants", "privacy")


def _renyi(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float:
    accountant = _accountants().RDPAccountant()
    accountant.history = [(noise_multiplier, sample_rate, steps)]
    with warnings.catch_warnings():
        # It warns where its best order is the first or the last: a looser bound, no wrong one.
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(delta))


@functools.lru_cache(maxsize=64)
def noise_multiplier_for(epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """The least noise, to about two per cent, with which all steps cost at most epsilon.

    Args:
        epsilon: The budget, > 0.
        delta: In (0, 1).
        sample_rate: Probability with which a row takes part in a step, in (0, 1].
        steps: Number of steps, >= 1.

    Returns:
        The noise multiplier.

    Raises:
        ConfigError: if no noise is enough.
        MissingExtraError: if Opacus is not installed.
    """
    target = 0.99 * epsilon
    noise = _central_limit(target, delta, sample_rate, steps)
    low, high, slope = 0.0, math.inf, -1.0
    last: tuple[float, float] | None = None
    for _ in range(40):
        spent = epsilon_spent(noise, sample_rate, steps, delta, scale=epsilon)
        low, high = (noise, high) if spent > epsilon else (low, noise)
        if 0.98 * epsilon <= spent <= epsilon:
            return noise
        # Newton's rule in logarithms, where epsilon is nearly a power of the noise.
        # With a large delta hardly any noise is needed, and epsilon may round to 0.
        point = (math.log(noise), math.log(max(spent, 1e-6 * target)))
        if last is not None and point[0] != last[0]:
            slope = min((point[1] - last[1]) / (point[0] - last[0]), -0.3)
        last = point
        noise = math.exp(point[0] + (math.log(target) - point[1]) / slope)
        if not low < noise < high:
            noise = 2 * low if high == math.inf else math.sqrt(max(low, high / 4) * high)
        if noise > MOST_NOISE:
            break
    if high < MOST_NOISE:
        return high
    raise ConfigError(
        f"no amount of noise reaches epsilon={epsilon:g} at delta={delta:g}; ask for a larger "
        "epsilon, a larger delta or fewer steps"
    )


def gaussian_delta(epsilon: float, ratio: float) -> float:
    """Delta of one Gaussian mechanism (Balle & Wang 2018, theorem 8).

    Args:
        epsilon: The epsilon asked about, >= 0.
        ratio: Sensitivity over standard deviation, > 0.

    Example:
        >>> round(gaussian_delta(0.0, 1.0), 4)  # the total variation distance
        0.3829
    """
    first = norm.cdf(ratio / 2 - epsilon / ratio)
    return float(first - math.exp(epsilon + norm.logcdf(-ratio / 2 - epsilon / ratio)))


def gaussian_ratio(epsilon: float, delta: float) -> float:
    """Largest sensitivity over standard deviation of an (epsilon, delta)-private Gaussian.

    Args:
        epsilon: In (0, infinity).
        delta: In (0, 1).

    Raises:
        ConfigError: if no noise is enough.
    """
    least = 1e-9
    if gaussian_delta(epsilon, least) >= delta:
        raise ConfigError(
            f"no amount of noise reaches epsilon={epsilon:g} at delta={delta:g}; ask for a larger "
            "epsilon or a larger delta"
        )
    return float(brentq(lambda ratio: gaussian_delta(epsilon, ratio) - delta, least, 1e3))


def _central_limit(epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """Noise by the limit of many steps, one Gaussian mechanism (Bu et al. 2020, theorem 5)."""
    ratio = gaussian_ratio(epsilon, delta)
    return 1 / math.sqrt(math.log1p((ratio / sample_rate) ** 2 / steps))
