"""What a method of `TabularDiffusion` is: a codec, a denoiser and a way to draw rows.

The estimator knows tables, conditions and files; a method knows states (tensors, rows first) and
which columns of which rows are given. A new method is one subclass and one entry in
`scidiffusion.tabular.estimator.METHODS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scidiffusion.core.objectives import Objective
from scidiffusion.core.rng import KeyedNoise
from scidiffusion.estimator import native_bf16, resolve_device
from scidiffusion.tabular.conditions import Condition
from scidiffusion.tabular.schema import TableSchema


class TableModel(ABC):
    """A method over the modelled columns of one schema.

    Args:
        schema: The modelled columns.
        options: The estimator's options, by name.

    Attributes:
        denoiser: What is trained.
        codec: Table <-> states.
    """

    defaults: ClassVar[dict[str, Any]]
    """Values of the options that are None."""

    def __init__(self, schema: TableSchema, options: Mapping[str, Any]) -> None:
        self.schema = schema
        self.options: dict[str, Any] = {
            name: self.defaults.get(name, value) if value is None else value
            for name, value in options.items()
        }
        self.codec: Any = None
        self.denoiser: Any = None

    # -- fitting ---------------------------------------------------------------------------------

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        """Raise ConfigError for an impossible option of this method, before work is spent."""
        return

    @abstractmethod
    def prepare(self, table: pd.DataFrame, seed: int) -> dict[str, Tensor]:
        """Fit the codec, build the denoiser and return the encoded rows to train on."""

    @abstractmethod
    def objective(self) -> Objective:
        """Return what is minimised."""

    @abstractmethod
    def training_options(self, rows: int) -> dict[str, Any]:
        """Return the method's entries of `TrainConfig`, for a table of `rows` training rows."""

    # -- drawing ---------------------------------------------------------------------------------

    @abstractmethod
    def encode(self, table: pd.DataFrame, seed: int, *, gaps: bool = False) -> dict[str, Tensor]:
        """Encode rows; with `gaps`, values may be missing that never were in training."""

    @abstractmethod
    def restrict(self, conditions: Mapping[str, Condition]) -> Any:
        """Return sets and ranges in the form that `draw` takes.

        Raises:
            ConfigError: if the method draws under single values only.
        """

    def log_probability(self, conditions: Mapping[str, Condition], seed: int) -> float | None:
        """Estimate the log-probability of conditions; None if the method cannot tell."""
        return None

    @abstractmethod
    def draw(
        self,
        state: Mapping[str, Tensor],
        given: Tensor,
        noise: KeyedNoise,
        *,
        restrictions: Any = None,
        steps: int | None = None,
        present: bool = False,
    ) -> dict[str, Tensor]:
        """Draw the columns that are not given.

        Args:
            state: Encoded rows; entries of columns that are not given have no meaning.
            given: (B, columns) bool.
            noise: Randomness, keyed by row.
            restrictions: What `restrict` returned.
            steps: Number of sampling steps; None is the option's.
            present: Draw no missing values.
        """

    @abstractmethod
    def decode(
        self, state: Mapping[str, Tensor], noise: KeyedNoise, *, restrictions: Any = None
    ) -> pd.DataFrame:
        """Turn drawn rows into a table of the modelled columns."""

    @abstractmethod
    def log_prob(
        self, table: pd.DataFrame, seed: int, *, steps: int | None, orders: int
    ) -> NDArray[np.float64]:
        """Return a lower bound of the log-likelihood of rows, nats."""

    # -- persistence -----------------------------------------------------------------------------

    @abstractmethod
    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return the codec as a JSON object and arrays."""

    @abstractmethod
    def restore(self, config: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `state` returned and build the denoiser, untrained."""

    # -- shared ----------------------------------------------------------------------------------

    @property
    def bf16(self) -> bool:
        """Whether matrices are multiplied in bfloat16; gradients of single rows need float32."""
        if self.options["privacy"] is not None:
            return False
        if self.options["precision"] == "auto":
            return native_bf16(resolve_device(self.options["device"]))
        return self.options["precision"] == "bf16"

    def seeded(self, build: Any, seed: int) -> nn.Module:
        """Return what `build` makes under a seed, with torch's own state as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build()
