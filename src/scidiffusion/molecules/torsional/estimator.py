"""`TorsionDiffusion`: learn which torsions molecules have, draw those of any molecule.

`conformers(..., method="torsional")` begins with its geometries, by the weights that the package
brings, in place of many embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from rdkit import Chem

from scidiffusion.core.rng import KeyedNoise
from scidiffusion.estimator import check_count
from scidiffusion.molecules.chem.embedding import embed, relax_mmff
from scidiffusion.molecules.chem.ensembles import with_places
from scidiffusion.molecules.chem.figures import positions
from scidiffusion.molecules.chem.smiles import as_molecule
from scidiffusion.molecules.chem.stereo import fix_stereo
from scidiffusion.molecules.conformer.learning import EnsembleEstimator
from scidiffusion.molecules.conformer.network import NetworkSize
from scidiffusion.molecules.conformer.pairs import ConformerPairs
from scidiffusion.molecules.torsional.denoiser import TorsionDenoiser, TorsionNetwork
from scidiffusion.molecules.torsional.starts import STEPS, draw_torsions

RELAX_STEPS = 400
SHARE = 4
"""One embedding is made for so many conformers."""


class TorsionDiffusion(EnsembleEstimator):
    """Learn the law of torsions; see the module.

    Args:
        width: Scalars of an atom in the network.
        pair_width: Scalars of a pair of atoms.
        vectors: Vectors of an atom.
        layers: Layers.
        max_steps: Training steps at most.
        lr: Peak learning rate.
        ema_decay: Decay of the average of the weights.
        bundle_pairs: Pairs of atoms of a training step.
        validation_fraction: Share of the molecules that is held out, in [0, 0.5].
        patience: Evaluations without improvement before training stops; None never stops.
        budget: Training time at most: seconds or a text such as "20min"; None is no limit.
        precision: "auto", "float32" or "bf16", of the training.
        device: "auto", "cpu" or "cuda".
        random_state: Seed of everything random; None takes a fresh one.
        progress: Show progress bars.

    Attributes:
        seed_: The seed that was used.
        denoiser_: The fitted denoiser.
        training_: `scidiffusion.training.TrainResult` of the fit; not saved.
    """

    denoiser_: TorsionDenoiser

    def __init__(
        self,
        *,
        width: int = 96,
        pair_width: int = 48,
        vectors: int = 16,
        layers: int = 4,
        max_steps: int = 20_000,
        lr: float = 1.5e-3,
        ema_decay: float = 0.999,
        bundle_pairs: int = 12_000,
        validation_fraction: float = 0.05,
        patience: int | None = 20,
        budget: float | str | None = None,
        precision: str = "auto",
        device: str = "auto",
        random_state: int | None = None,
        progress: bool = True,
    ) -> None:
        self.width = width
        self.pair_width = pair_width
        self.vectors = vectors
        self.layers = layers
        self.max_steps = max_steps
        self.lr = lr
        self.ema_decay = ema_decay
        self.bundle_pairs = bundle_pairs
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.budget = budget
        self.precision = precision
        self.device = device
        self.random_state = random_state
        self.progress = progress

    def fit(
        self,
        X: Sequence[Chem.Mol | ConformerPairs],
        y: Any = None,
        *,
        checkpoint_dir: str | Path | None = None,
        resume: bool = False,
    ) -> Self:
        """Learn from ensembles of conformers.

        Args:
            X: Molecules with explicit hydrogens and conformers, or pairs of starts and minima, as
                of `ConformerDiffusion.fit`; those without turnable bonds are left out.
            y: Not used.
            checkpoint_dir: Folder for a checkpoint; None writes none.
            resume: Go on from the checkpoint that is there.

        Raises:
            DataError: if there are fewer than 10 molecules that can be used.
            ConfigError: if an option is out of range.
        """
        from scidiffusion.molecules.torsional.objective import TorsionLoss

        return self._learn(
            X,
            TorsionLoss,
            having="conformers and turnable bonds",
            usable=lambda molecule: len(molecule.torsions) > 0,
            checkpoint_dir=checkpoint_dir,
            resume=resume,
        )

    def _build(self, seed: int) -> TorsionDenoiser:
        size = NetworkSize(self.width, self.pair_width, self.vectors, self.layers)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return TorsionDenoiser(TorsionNetwork(size))

    def sample(  # type: ignore[override]  # conformers are of a molecule
        self,
        molecule: str | Chem.Mol,
        n: int = 10,
        *,
        random_state: int | None = None,
        steps: int = STEPS,
        embeddings: int | None = None,
        time_limit: float | None = None,
        allow_fragments: bool = False,
    ) -> Chem.Mol:
        """Draw geometries, as the walk leaves them: no force field has seen the new torsions.

        Args:
            molecule: SMILES, or a molecule; hydrogens are added where they are missing.
            n: Number of conformers, 1 or more.
            random_state: Seed; None takes the next of the estimator's own stream.
            steps: Network evaluations a conformer.
            embeddings: ETKDG geometries, minimised with MMFF94, whose bonds are turned; None is
                one for four conformers.
            time_limit: Seconds for making embeddings; None is no limit.
            allow_fragments: Accept salts and other molecules of several parts.

        Returns:
            A molecule with explicit hydrogens and n conformers.

        Raises:
            DataError: if the SMILES or molecule cannot be used, or no embedding could be made.
            ConfigError: if an option is out of range.
        """
        self._check_fitted()
        check_count(n)
        seed = self._next_seed(random_state)
        mol, _ = fix_stereo(as_molecule(molecule, allow_fragments=allow_fragments), seed)
        return self.starts(
            mol, n, seed=seed, steps=steps, embeddings=embeddings, time_limit=time_limit
        )

    def starts(
        self,
        mol: Chem.Mol,
        n: int,
        *,
        seed: int,
        steps: int = STEPS,
        embeddings: int | None = None,
        time_limit: float | None = None,
    ) -> Chem.Mol:
        """As `sample`, for a molecule with explicit hydrogens whose stereo is all specified."""
        count = -(-n // SHARE) if embeddings is None else check_count(embeddings, "embeddings")
        templates = embed(mol, count, seed=seed, time_limit=time_limit)
        relax_mmff(templates, RELAX_STEPS)
        noise = KeyedNoise(seed).child("torsions")
        drawn = draw_torsions(
            self.denoiser_, mol, positions(templates), n, noise=noise, steps=steps
        )
        return with_places(mol, drawn)
