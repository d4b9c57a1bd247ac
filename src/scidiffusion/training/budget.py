"""The privacy a fit may spend, as an option: (epsilon, delta) and how the noise is made.

A fit is (epsilon, delta)-differentially private if for any two tables that differ by one row and
any set S of models, P(S) <= exp(epsilon) P'(S) + delta (Dwork & Roth 2014, definition 2.4):
whether somebody's row was there can hardly be told from the model, nor from what is made with it.

This module imports neither torch nor Opacus, so that an estimator can hold a budget at no cost.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Self

from scidiffusion.errors import ConfigError, ScidiffusionWarning

__all__ = ["DPBudget"]


@dataclass(frozen=True)
class DPBudget:
    """A budget of differential privacy; neighbouring tables differ by one row added or removed.

    Public, and not protected: the number of rows, the columns' names, kinds and formats, and
    every option of the fit.

    Args:
        epsilon: Privacy loss, > 0. Around 1 is strong, 8 weak but far better than none.
        delta: Probability with which that may fail, in (0, 1); None is 1 / (10 rows).
        max_grad_norm: 2-norm to which each row's gradient is clipped.
        codec_share: Share of the budget, in [0, 1), for what an encoding reads off the data;
            see `split`.
        noise_key: Key of the noise and of the rows drawn. None takes one from the operating
            system: the fit is then not repeatable, as it should be, since whoever knows the key
            can subtract the noise. An integer is for tests.

    Raises:
        ConfigError: if a number is out of its range.
    """

    epsilon: float
    delta: float | None = None
    max_grad_norm: float = 1.0
    codec_share: float = 0.25
    noise_key: int | None = None

    def __post_init__(self) -> None:
        self._number("epsilon", 0.0, math.inf)
        self._number("max_grad_norm", 0.0, math.inf)
        if self.delta is not None:
            self._number("delta", 0.0, 1.0)
        self._number("codec_share", 0.0, 1.0, closed=True)
        key = self.noise_key
        if key is not None and (isinstance(key, bool) or not isinstance(key, Integral)):
            raise ConfigError(f"noise_key must be None or an integer, got {key!r}")

    def _number(self, name: str, low: float, high: float, *, closed: bool = False) -> None:
        value: Any = getattr(self, name)
        good = isinstance(value, Real) and not isinstance(value, bool)
        if not good or not low <= value < high or (value == low and not closed):
            bound = f"{'>=' if closed else '>'} {low:g}"
            bound += f" and < {high:g}" if high < math.inf else " and finite"
            raise ConfigError(f"the privacy budget's {name} must be {bound}, got {value!r}")

    def for_rows(self, rows: int) -> Self:
        """The budget with its delta for a table.

        Args:
            rows: Number of rows.

        Returns:
            The same, delta 1 / (10 rows) where it was None. A delta of 1 / rows or more is warned
            of: publishing one row in full would be allowed.
        """
        if self.delta is None:
            return dataclasses.replace(self, delta=1 / (10 * rows))
        if self.delta >= 1 / rows:
            warnings.warn(
                f"delta={self.delta:g} allows to publish one of {rows:,} rows in full; take "
                f"less than 1 / rows, such as {1 / (10 * rows):.1g}",
                ScidiffusionWarning,
                stacklevel=3,
            )
        return self

    def split(self, rows: int) -> tuple[Self, Self]:
        """Share the budget between an encoding and the training.

        Args:
            rows: Number of rows.

        Returns:
            The encoding's part (``codec_share`` of epsilon and delta) and the training's; together
            they cost this budget (Dwork & Roth 2014, theorem 3.16).

        Raises:
            ConfigError: if ``codec_share`` is 0.
        """
        if self.codec_share == 0:
            raise ConfigError(
                "codec_share=0 leaves nothing for what the encoding reads off the data; "
                "give it a share, such as 0.25"
            )
        whole = self.for_rows(rows)
        assert whole.delta is not None
        parts = [
            dataclasses.replace(
                whole, epsilon=share * whole.epsilon, delta=share * whole.delta, codec_share=0.0
            )
            for share in (self.codec_share, 1 - self.codec_share)
        ]
        return parts[0], parts[1]

    def to_dict(self) -> dict[str, Any]:
        """The budget as a JSON object, without the key: it must not be published."""
        values = dataclasses.asdict(self)
        del values["noise_key"]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The budget of `to_dict`."""
        return cls(**values)
