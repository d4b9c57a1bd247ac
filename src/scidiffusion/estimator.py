"""What every domain's estimator shares: `fit`, `sample`, `score_samples`, `save`, `load`.

An estimator follows scikit-learn: options are constructor arguments that `get_params` and `clone`
know, `fit` returns self, what is learned ends in an underscore. A domain adds its codec, its
network and its conditions.

Sampling runs over fixed blocks of rows. A network's float32 rounding may depend on how many rows
are multiplied at once, so on a CPU every block has the same shape (the last one is computed whole
and
cut): together with noise keyed by (seed, row, step) the same seed gives bit-equal rows whatever
`batch_size` is. On a GPU several blocks go at once, and rows agree to float32.
"""

from __future__ import annotations

import datetime
import secrets
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from torch import Tensor

from scidiffusion.core.process import State, map_state
from scidiffusion.durations import seconds
from scidiffusion.errors import (
    ConfigError,
    DataError,
    InputError,
    ModelFileError,
    ScidiffusionError,
)
from scidiffusion.persistence import SavedModel, load_model, save_model

if TYPE_CHECKING:
    from scidiffusion.training import TrainConfig

SEED_BITS = 63


class GenerativeEstimator(BaseEstimator, ABC):
    """Base class of the domains' estimators; see the module.

    Attributes:
        compute_block: Rows that the network sees at once on a CPU; part of what a seed means.
    """

    compute_block: ClassVar[int] = 1024

    @abstractmethod
    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the distribution of the rows of X."""

    @abstractmethod
    def sample(self, n: Any) -> Any:
        """Draw n new rows."""

    @abstractmethod
    def _state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, dict[str, Any]]]:
        """Return (config, tensors, extra JSON files) of the fitted estimator."""

    @abstractmethod
    def _restore(self, saved: SavedModel) -> None:
        """Set the fitted attributes from what `_state` returned."""

    def save(self, path: str | Path) -> Path:
        """Write the fitted estimator to a folder of safetensors and JSON.

        A model that is already there is replaced whole or, if anything fails, left as it was.

        Args:
            path: Folder; created if need be.

        Returns:
            The folder.

        Raises:
            NotFittedError: before `fit`.
            OutputError: if the folder cannot be written, or holds something else.
        """
        self._check_fitted()
        config, tensors, extra = self._state()
        config = {"params": json_params(self._saved_params()), **config}
        save_model(
            path, estimator=type(self).__name__, config=config, tensors=tensors, extra=extra
        )
        return Path(path)

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto") -> Self:
        """Read an estimator that `save` wrote.

        Args:
            path: Folder.
            device: Where it will run: "auto", "cpu" or "cuda".

        Raises:
            ModelFileError: if the folder is missing, incomplete, altered, of a newer format or of
                another estimator.
        """
        saved = load_model(path, estimator=cls.__name__)
        try:
            params = dict(saved.config["params"])
            if "device" in params:
                params["device"] = device
            estimator = cls(**params)
            estimator._restore(saved)
        except ScidiffusionError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ModelFileError(
                f"the parts of the model at {path} do not fit together ({error!r:.200}); restore "
                "it from a copy, or fit and save it again"
            ) from error
        return estimator

    def _saved_params(self) -> dict[str, Any]:
        """Constructor arguments to be saved; a domain restores others in `_restore`."""
        return dict(self.get_params(deep=False))

    def _check_fitted(self) -> None:
        if not hasattr(self, "seed_"):
            raise NotFittedError(
                f"this {type(self).__name__} is not fitted yet; call fit first, or load a model"
            )

    def _next_seed(self, random_state: int | None) -> int:
        """Seed of a call: the given one, or the next of the estimator's own stream."""
        if random_state is not None:
            return check_seed(random_state)
        with _STREAM_LOCK:
            call = getattr(self, "_calls", 0)
            self._calls = call + 1
        # A stream of its own a call: rows of two calls never repeat, and a script repeats itself.
        return int(np.random.SeedSequence([self.seed_, call]).generate_state(1, np.uint64)[0] >> 1)

    def _blocks(
        self,
        draw: Callable[[int, int], State],
        n: int,
        *,
        device: torch.device,
        batch_size: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> State:
        """Concatenate draw(start, rows) over the rows 0..n - 1 in whole blocks, cut to n.

        Args:
            draw: Returns the state of rows start .. start + rows - 1.
            n: Number of rows.
            device: Where `draw` computes.
            batch_size: Rows at once on a GPU, rounded up to whole blocks; a CPU does one block.
            progress: Called with the number of rows done after every block.
        """
        rows = self.compute_block
        if device.type != "cpu":
            rows *= max(1, -(-(batch_size or 64 * rows) // rows))
        parts = []
        for start in range(0, max(n, 1), rows):
            parts.append(draw(start, rows))
            if progress is not None:
                progress(min(start + rows, n))
        return map_state(lambda *tensors: torch.cat(tensors)[:n], *parts)


_STREAM_LOCK = threading.Lock()


def check_seed(random_state: Any) -> int:
    """Return a seed as a non-negative integer; None gives a fresh one.

    Raises:
        ConfigError: if it is neither an integer in [0, 2^63) nor None.
    """
    if random_state is None:
        return secrets.randbits(SEED_BITS)
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**SEED_BITS))
    if isinstance(random_state, bool) or not isinstance(random_state, int | np.integer):
        raise ConfigError(f"random_state must be an integer or None, got {random_state!r}")
    if not 0 <= random_state < 2**SEED_BITS:
        raise ConfigError(f"random_state must lie in [0, 2^{SEED_BITS}), got {random_state}")
    return int(random_state)


def check_count(n: Any, name: str = "n") -> int:
    """Return a number of rows as an int.

    Raises:
        InputError: if it is not an integer >= 0.
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
        raise InputError(f"{name} must be an integer >= 0, got {n!r}")
    return int(n)


def check_positive(value: Any, name: str) -> int | None:
    """Return a number of rows, steps or the like as an int, or None.

    Raises:
        ConfigError: if it is neither None nor an integer >= 1.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ConfigError(f"{name} must be an integer >= 1, got {value!r}")
    return int(value)


def numeric_rows(X: ArrayLike, least: int = 1) -> NDArray[np.float64]:
    """Return rows of any one shape as float64, (n, ...).

    Args:
        X: Anything array-like.
        least: Number of rows that are needed.

    Raises:
        DataError: if they are no finite numbers, of several shapes or too few.
    """
    try:
        rows = np.asarray(X, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError("X must be an array of numbers whose rows are of one shape") from None
    if rows.ndim < 2 or len(rows) < least or 0 in rows.shape[1:]:
        raise DataError(f"X must hold {least} rows or more, as (n, ...); got shape {rows.shape}")
    if not np.isfinite(rows).all():
        row = int(np.flatnonzero(~np.isfinite(rows).reshape(len(rows), -1).all(1))[0])
        raise DataError(f"X holds NaN or infinity, first in row {row}; leave such rows out")
    return rows


def split_rows(rows: int, validation_fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return the indices of the rows to train on and of those to hold out, both shuffled.

    Raises:
        ConfigError: if `validation_fraction` lies outside [0, 0.5].
    """
    if not 0 <= validation_fraction <= 0.5:
        raise ConfigError(f"validation_fraction must lie in [0, 0.5], got {validation_fraction}")
    order = torch.from_numpy(np.random.default_rng(seed).permutation(rows))
    held_out = round(validation_fraction * rows)
    return order[held_out:], order[:held_out]


def resolve_device(device: str) -> torch.device:
    """Return the torch device of an option "auto", "cpu" or "cuda[:index]".

    Raises:
        ConfigError: if it is unknown, or names a GPU where there is none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError):
        raise ConfigError(f"device must be 'auto', 'cpu' or 'cuda', got {device!r}") from None
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device='cuda' was asked for, but torch sees no GPU; use 'auto' or 'cpu'"
        )
    return resolved


def native_bf16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 have hardware (AMX, AVX512-BF16, tensor cores)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # Elsewhere bfloat16 on a CPU is emulated and slower than float32. Older torch cannot tell.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in ("amx_bf16", "amx_tile", "avx512_bf16"))


_OPTIONS = ("max_steps", "batch_size", "lr", "ema_decay", "patience", "condition_dropout")
PRECISIONS = ("auto", "float32", "bf16")


def training_config(estimator: Any, seed: int, **choices: Any) -> TrainConfig:
    """Options of a training from an estimator's constructor arguments.

    Args:
        estimator: With device, budget and progress; those of max_steps, batch_size, lr, ema_decay,
            patience, condition_dropout and precision that it has.
        seed: Seed of the training.
        choices: What else the estimator chooses, or otherwise; see `TrainConfig`.

    Raises:
        ConfigError: if an option is out of range.
    """
    from scidiffusion.training import TrainConfig

    device = resolve_device(estimator.device)
    precision = getattr(estimator, "precision", "float32")
    if precision not in PRECISIONS:
        listed = ", ".join(map(repr, PRECISIONS))
        raise ConfigError(f"precision must be one of {listed}; got {precision!r}")
    bf16 = precision == "bf16" or (precision == "auto" and native_bf16(device))
    options = {name: getattr(estimator, name) for name in _OPTIONS if hasattr(estimator, name)}
    options |= {
        "precision": "bf16" if bf16 else "float32",
        "budget": None if estimator.budget is None else seconds(estimator.budget),
        "seed": seed,
        "accelerator": "gpu" if device.type == "cuda" else "cpu",
        "progress": estimator.progress,
    }
    return TrainConfig(**options | choices)


def json_params(params: dict[str, Any]) -> dict[str, Any]:
    """Constructor arguments as JSON.

    Numpy scalars become numbers, collections lists, times text, and random generators None.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, np.generic):
            return plain(value.item())
        if isinstance(value, np.random.RandomState | np.random.Generator):
            return None
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple | range | set | frozenset):
            return [plain(item) for item in value]
        if isinstance(value, datetime.date | datetime.timedelta):
            return str(value)
        if hasattr(value, "tolist"):
            return plain(value.tolist())
        return value

    return {name: plain(value) for name, value in params.items()}
