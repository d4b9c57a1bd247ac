"""Durations as people write them: 90, "90s", "2min", "1h30m"."""

from __future__ import annotations

import math
import re
from numbers import Real

from scidiffusion.errors import ConfigError

_UNITS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(h|min|m|sec|s)?\s*")


def seconds(duration: float | str, name: str = "budget") -> float:
    """Return a duration in seconds.

    Args:
        duration: Seconds, or a text such as "90s", "2min", "1h30m".
        name: What the error calls it.

    Raises:
        ConfigError: if it is not a positive duration.

    Example:
        >>> seconds("2min"), seconds("1h30m"), seconds(5)
        (120.0, 5400.0, 5.0)
    """
    total = math.nan
    if isinstance(duration, Real) and not isinstance(duration, bool):
        total = float(duration)
    elif isinstance(duration, str):
        text = duration.strip().lower()
        parts = list(_PART.finditer(text))
        if parts and "".join(part.group(0) for part in parts) == text:
            total = sum(float(part.group(1)) * _UNITS[part.group(2) or "s"] for part in parts)
    if not 0 < total < math.inf:
        raise ConfigError(
            f"{name} must be a positive duration such as 90, '90s', '2min' or '1h30m'; "
            f"got {duration!r}"
        )
    return total
