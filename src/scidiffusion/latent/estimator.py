"""`LatentDiffusion`: any encoder, and any estimator of arrays on its codes.

Diffusion costs a network evaluation a step and number; a code of 16 numbers in place of 1024
pixels makes each cheap. What the encoder throws away is lost: `reconstruct` shows it, before
anything is drawn (Rombach et al. 2022, section 3; Vahdat et al. 2021). A decoder may itself draw
what the code leaves open (Preechakul et al. 2022); a seed is then that of both draws.
"""

from __future__ import annotations

import importlib
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from torch import Tensor

from scidiffusion.errors import ConfigError, DataError, ModelFileError
from scidiffusion.estimator import GenerativeEstimator, json_params, numeric_rows
from scidiffusion.latent.encoders import Encoder, TransformerEncoder
from scidiffusion.persistence import SavedModel, of_part, prefixed

LEAST_ROWS = 10
MOST_DRAWN = 256
"""Rows at most of which a decoder that draws is measured: each costs it a walk."""
PACKAGE = "scidiffusion."


class LatentDiffusion(GenerativeEstimator):
    """Learn the law of codes, draw codes, decode them; see the module.

    Args:
        encoder: A `PCAEncoder`, `AutoEncoder`, `scidiffusion.DiffusionAutoEncoder` or other
            `Encoder`, or a transformer of scikit-learn with `inverse_transform`.
        estimator: An estimator of arrays (n, k), such as `DensityDiffusion`.
        device: "auto", "cpu" or "cuda", of both; None leaves it to them.

    Attributes:
        encoder_: The fitted encoder.
        estimator_: The fitted estimator of the codes.
        reconstruction_error_: Mean squared error of decoded training rows over their variance.
        seed_: The seed of the estimator.

    Example:
        >>> from scidiffusion import DensityDiffusion
        >>> from scidiffusion.latent import LatentDiffusion, PCAEncoder
        >>> rows = np.random.default_rng(0).normal(size=(200, 3)) @ np.ones((3, 16))
        >>> density = DensityDiffusion(max_steps=20, progress=False, random_state=0)
        >>> LatentDiffusion(PCAEncoder(1), density).fit(rows).sample(4).shape
        (4, 16)
    """

    def __init__(
        self, encoder: Any, estimator: GenerativeEstimator, *, device: str | None = None
    ) -> None:
        self.encoder = encoder
        self.estimator = estimator
        self.device = device

    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Fit the encoder, then the estimator on codes.

        Args:
            X: (n, ...) finite numbers, n >= 10; rows of any shape.
            y: Conditions, as the estimator takes them.

        Raises:
            DataError: if X cannot be used, or decoding does not give rows of the data's shape.
            ConfigError: if the encoder is none.
        """
        rows = _rows(X)
        self.encoder_ = _placed(self._encoder(), self.device).fit(rows)
        codes = self._encoded(rows)
        if self.encoder_.decodes_at_random:
            rows = rows[:MOST_DRAWN]
        made = self._decoded(codes[: len(rows)], rows.shape[1:], 0)
        variance = float(rows.var(0).mean())
        self.reconstruction_error_ = float(np.square(made - rows).mean()) / variance
        self.estimator_ = _placed(clone(self.estimator), self.device).fit(codes, y)
        self.seed_ = self.estimator_.seed_
        return self

    def _encoder(self) -> Encoder:
        if isinstance(self.encoder, Encoder):
            return clone(self.encoder)
        if all(hasattr(self.encoder, name) for name in ("fit", "transform", "inverse_transform")):
            return TransformerEncoder(clone(self.encoder))
        raise ConfigError(
            f"encoder must be an Encoder, such as PCAEncoder, or have fit, transform and "
            f"inverse_transform; got {type(self.encoder).__name__}"
        )

    def _encoded(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        codes = np.asarray(self.encoder_.encode(rows), dtype=np.float64)
        if codes.ndim != 2 or len(codes) != len(rows) or not np.isfinite(codes).all():
            raise DataError(
                f"the encoder must give finite codes (n, k) for {len(rows)} rows; it gave shape "
                f"{codes.shape}{'' if np.isfinite(codes).all() else ' with NaN or infinity'}"
            )
        return codes

    def _decoded(
        self, codes: NDArray[np.float64], shape: tuple[int, ...], random_state: int | None
    ) -> NDArray[np.float64]:
        seed = {"random_state": random_state} if self.encoder_.decodes_at_random else {}
        made = np.asarray(self.encoder_.decode(codes, **seed), dtype=np.float64)
        if made.shape != (len(codes), *shape):
            raise DataError(
                f"the encoder decodes to rows of shape {made.shape[1:]}, and the data have "
                f"{tuple(shape)}; encoder and decoder must fit each other"
            )
        return made

    def encode(self, X: ArrayLike) -> NDArray[np.float64]:
        """Codes (n, k) of rows."""
        self._check_fitted()
        rows = _rows(X, least=1)
        if rows.shape[1:] != tuple(self.encoder_.shape_):
            raise DataError(
                f"rows have shape {rows.shape[1:]}, the model was fitted to rows of shape "
                f"{tuple(self.encoder_.shape_)}"
            )
        return self._encoded(rows)

    def decode(self, Z: ArrayLike, *, random_state: int | None = None) -> NDArray[np.float64]:
        """Rows (n, ...) of codes (n, k).

        Args:
            Z: The codes.
            random_state: Seed of a decoder that draws; None takes another each call.
        """
        self._check_fitted()
        codes = np.asarray(Z, dtype=np.float64)
        return self._decoded(codes, tuple(self.encoder_.shape_), random_state)

    def reconstruct(self, X: ArrayLike, *, random_state: int | None = None) -> NDArray[np.float64]:
        """What is left of rows after encoding and decoding; see `decode`."""
        return self.decode(self.encode(X), random_state=random_state)

    def sample(
        self, n: int, *, random_state: int | None = None, **options: Any
    ) -> NDArray[np.float64]:
        """Draw rows.

        Args:
            n: Number of rows.
            random_state: Seed of codes and decoder; None continues the estimator's own stream.
            **options: As of the estimator's `sample`: conditions, guidance_scale, steps.

        Returns:
            (n, ...) rows of the data's shape.
        """
        self._check_fitted()
        seed = self.estimator_._next_seed(random_state)
        codes = self.estimator_.sample(n, random_state=seed, **options)
        return self.decode(codes, random_state=seed)

    # -- persistence -----------------------------------------------------------------------------

    def _saved_params(self) -> dict[str, Any]:
        # The parts are saved with what they have learned.
        return {"encoder": None, "estimator": None, "device": self.device}

    def _state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, dict[str, Any]]]:
        notes, codes = self.encoder_.state()
        config, tensors, extra = self.estimator_._state()
        parts = {
            "encoder": _named(self.encoder_) | {"notes": notes},
            "estimator": _named(self.estimator_) | {"config": config, "extra": extra},
        }
        merged = prefixed(codes, "encoder") | prefixed(tensors, "estimator")
        return {"error": self.reconstruction_error_}, merged, {"parts.json": parts}

    def _restore(self, saved: SavedModel) -> None:
        parts = saved.extra["parts.json"]
        encoder = _placed(_made(parts["encoder"], Encoder), self.device)
        self.encoder_ = encoder.restore(
            parts["encoder"]["notes"], of_part(saved.tensors, "encoder")
        )
        estimator = _placed(_made(parts["estimator"], GenerativeEstimator), self.device)
        inner = parts["estimator"]
        config = {"params": inner["params"], **inner["config"]}
        estimator._restore(SavedModel(config, of_part(saved.tensors, "estimator"), inner["extra"]))
        self.estimator_ = estimator
        self.encoder, self.estimator = self.encoder_, self.estimator_
        self.seed_, self.reconstruction_error_ = estimator.seed_, saved.config["error"]


def _rows(X: ArrayLike, least: int = LEAST_ROWS) -> NDArray[np.float64]:
    rows = numeric_rows(X, least)
    if least > 1 and not rows.var(0).any():
        raise DataError("all rows of X are the same: there is nothing to learn")
    return rows


def _placed(part: Any, device: str | None) -> Any:
    """A part that runs where it should, if it minds."""
    if device is not None and "device" in part.get_params(deep=False):
        part.set_params(device=device)
    return part


def _named(part: Any) -> dict[str, Any]:
    kind = type(part)
    params = json_params(dict(part.get_params(deep=False)))
    return {"class": f"{kind.__module__}.{kind.__qualname__}", "params": params}


def _made(part: dict[str, Any], base: type) -> Any:
    """An object of a class of this package, by its name."""
    module, _, name = part["class"].rpartition(".")
    kind = None
    # A model file may not make Python import whatever it names.
    if module.startswith(PACKAGE) and name.isidentifier():
        kind = getattr(importlib.import_module(module), name, None)
    if not isinstance(kind, type) or not issubclass(kind, base):
        raise ModelFileError(
            f"the model names {part['class']!r}, which is no {base.__name__} of scidiffusion; "
            "load it with the program that saved it"
        )
    return kind(**part["params"])
