"""What the estimators that learn from ensembles of conformers share: fitting, and model files."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from rdkit import Chem
from torch import Tensor

from scidiffusion.errors import ConfigError, DataError
from scidiffusion.estimator import (
    GenerativeEstimator,
    check_seed,
    resolve_device,
    split_rows,
)
from scidiffusion.molecules.conformer.bank import BankMolecule, ConformerBank
from scidiffusion.molecules.conformer.bundle_loss import BundleLoss
from scidiffusion.molecules.conformer.conversion import usable_pairs
from scidiffusion.molecules.conformer.pairs import ConformerPairs
from scidiffusion.molecules.fitting import bundle_training, train_bundles
from scidiffusion.persistence import SavedModel, check_version

VERSION = 1
"""Version of what `save` writes of the network and its features."""
LEAST = 10
"""Molecules that fitting needs."""


class EnsembleEstimator(GenerativeEstimator):
    """See the module. Constructor arguments: those of `bundle_training`, and of the bank.

    Attributes:
        denoiser_: The fitted denoiser.
    """

    denoiser_: Any
    bundle_pairs: int
    validation_fraction: float
    max_steps: int
    device: str
    random_state: int | None

    @abstractmethod
    def _build(self, seed: int) -> Any:
        """Return the untrained denoiser."""

    def _learn(
        self,
        X: Sequence[Chem.Mol | ConformerPairs],
        loss: Callable[[ConformerBank, Tensor, Tensor], BundleLoss],
        *,
        having: str,
        usable: Callable[[BankMolecule], bool] = lambda _: True,
        checkpoint_dir: str | Path | None,
        resume: bool,
        start: EnsembleEstimator | None = None,
    ) -> Self:
        """Train; see `fit` of the estimators.

        Args:
            X: Molecules with conformers, or pairs.
            loss: Makes the objective of the bank and the numbers of molecules kept and held out.
            having: What usable molecules have; for the error.
            usable: Which molecules can be used.
            checkpoint_dir: Folder for a checkpoint; None writes none.
            resume: Go on from the checkpoint that is there.
            start: A fitted estimator whose weights are the first ones.
        """
        seed = check_seed(self.random_state)
        config = bundle_training(
            self,
            seed,
            decay_start=0.3,
            validate_every=max(1, min(500, self.max_steps // 4)),
            validation_draws=50,
        )
        molecules = [one for one in map(BankMolecule.of, usable_pairs(X)) if usable(one)]
        if len(molecules) < LEAST:
            raise DataError(
                f"{len(molecules)} of {len(X)} molecules have {having}; fitting needs {LEAST}, "
                "better hundreds"
            )
        bank = ConformerBank(molecules, pairs=self.bundle_pairs)
        kept, held = split_rows(len(bank), self.validation_fraction, seed)
        denoiser = self._build(seed)
        if start is not None:
            start._check_fitted()
            if denoiser.network.size != start.denoiser_.network.size:
                raise ConfigError(
                    f"start has a network of {start.denoiser_.network.size}, which is not that "
                    f"of this estimator, {denoiser.network.size}"
                )
            denoiser.load_state_dict(start.denoiser_.state_dict())
        objective = loss(bank, kept, held)
        self.training_ = train_bundles(
            denoiser,
            objective,
            len(objective.parts[0]),
            len(objective.parts[1]),
            config,
            checkpoint_dir=checkpoint_dir,
            resume=resume,
        )
        self.seed_, self._calls = seed, 0
        self.denoiser_ = denoiser.to(resolve_device(self.device)).eval()
        return self

    def _state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, dict[str, Any]]]:
        codec = {"version": VERSION, "seed": self.seed_}
        return {}, dict(self.denoiser_.state_dict()), {"codec.json": codec}

    def _restore(self, saved: SavedModel) -> None:
        codec = saved.extra["codec.json"]
        check_version(codec, VERSION, "the network")
        denoiser = self._build(0)
        denoiser.load_state_dict({name: value.float() for name, value in saved.tensors.items()})
        self.denoiser_ = denoiser.to(resolve_device(self.device)).eval()
        self.seed_, self._calls = codec["seed"], 0
