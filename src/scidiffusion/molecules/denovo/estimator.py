"""`MoleculeDiffusion`: learn molecules in 3D, make new ones.

`scidiffusion.molecules.denovo.bundled` is this estimator with the weights that the package brings.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from rdkit import Chem
from torch import Tensor

from scidiffusion.core.schedules import check_option
from scidiffusion.errors import ConfigError, DataError, InputError, ScidiffusionWarning
from scidiffusion.estimator import (
    GenerativeEstimator,
    check_positive,
    check_seed,
    resolve_device,
    split_rows,
)
from scidiffusion.molecules.chem.ensembles import kabsch
from scidiffusion.molecules.denovo.bank import MoleculeBank
from scidiffusion.molecules.denovo.building import STABLE, VALID, to_molecules
from scidiffusion.molecules.denovo.denoiser import MoleculeDenoiser
from scidiffusion.molecules.denovo.generate import (
    STEPS,
    TEMPERATURE,
    Scaffold,
    Walk,
    generate,
)
from scidiffusion.molecules.denovo.network import NetworkSize, PairNetwork
from scidiffusion.molecules.denovo.population import Population, formula
from scidiffusion.molecules.denovo.process import Types
from scidiffusion.molecules.denovo.reading import read_clouds
from scidiffusion.molecules.denovo.scoring import log_bound
from scidiffusion.molecules.fitting import bundle_training, train_bundles
from scidiffusion.persistence import SavedModel, check_version
from scidiffusion.progress import progress_bar

VERSION = 1
"""Version of what `save` writes of the network and of what it is told."""
FEWEST = 10
"""Molecules that a fit needs."""
ROUNDS = 8
"""Draws for each molecule asked for, before it is given as it is."""
STREAM = 2**32
"""Rows of a round have numbers of their own, so that none depends on what became of others."""


class MoleculeDiffusion(GenerativeEstimator):
    """Learn molecules as atoms in space; make new ones. See the package's modules.

    Args:
        labels: Names of the numbers that molecules can be asked for: SD properties, or names of y.
        types: How types are noised: "gaussian" (EDM) or "multinomial".
        type_scale: Of Gaussian types, the scale in Angstrom: types are decided at this noise.
        width: Scalars of an atom in the network.
        pair_width: Scalars of a pair of atoms.
        vectors: Vectors of an atom.
        triangles: Products of a pair summed over its triangles; 0 leaves them out.
        layers: Layers.
        max_steps: Training steps at most.
        lr: Peak learning rate.
        ema_decay: Decay of the average of the weights.
        bundle_pairs: Pairs of atoms of a training step; 7,000 are 30 molecules of 15 atoms.
        condition_dropout: Share of molecules whose composition, and share of those whose labels,
            are hidden from the network in training, in [0, 1); guidance needs some.
        validation_fraction: Share of the molecules that is held out, in [0, 0.5].
        patience: Evaluations without improvement before training stops; None never stops.
        budget: Training time at most: seconds or a text such as "40min"; None is no limit.
        precision: "auto", "float32" or "bf16", of the training.
        compile: Compile the network for training; needs a C++ compiler, takes a minute or two, and
            then saves a tenth to a quarter of the time of a step.
        device: "auto", "cpu" or "cuda".
        random_state: Seed of everything random; None takes a fresh one.
        progress: Show progress bars.

    Attributes:
        seed_: The seed that was used.
        denoiser_: The fitted denoiser.
        population_: Compositions and labels of the training molecules.
        elements_: (K,) atomic numbers that the model knows.
        labels_: Names of the labels.
        training_: `scidiffusion.training.TrainResult` of the fit; not saved.
    """

    def __init__(
        self,
        *,
        labels: Sequence[str] = (),
        types: str = "gaussian",
        type_scale: float = 3.0,
        width: int = 192,
        pair_width: int = 64,
        vectors: int = 16,
        triangles: int = 16,
        layers: int = 6,
        max_steps: int = 30_000,
        lr: float = 1.5e-3,
        ema_decay: float = 0.999,
        bundle_pairs: int = 7_000,
        condition_dropout: float = 0.1,
        validation_fraction: float = 0.02,
        patience: int | None = 20,
        budget: float | str | None = None,
        precision: str = "auto",
        compile: bool = False,
        device: str = "auto",
        random_state: int | None = None,
        progress: bool = True,
    ) -> None:
        self.labels = labels
        self.types = types
        self.type_scale = type_scale
        self.width = width
        self.pair_width = pair_width
        self.vectors = vectors
        self.triangles = triangles
        self.layers = layers
        self.max_steps = max_steps
        self.lr = lr
        self.ema_decay = ema_decay
        self.bundle_pairs = bundle_pairs
        self.condition_dropout = condition_dropout
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.budget = budget
        self.precision = precision
        self.compile = compile
        self.device = device
        self.random_state = random_state
        self.progress = progress

    # -- fitting ---------------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        checkpoint_dir: str | Path | None = None,
        resume: bool = False,
        start: MoleculeDiffusion | None = None,
    ) -> Self:
        """Learn from molecules in 3D.

        Args:
            X: RDKit molecules with explicit hydrogens and conformers, of which each counts as a
                molecule; or a mapping, or an npz file, of `numbers` (A,), `positions` (A, 3) in
                Angstrom and `offsets` (M + 1,).
            y: Labels: None, (M,), (M, L) or a mapping of names to (M,); see `labels`.
            checkpoint_dir: Folder for a checkpoint; None writes none.
            resume: Go on from the checkpoint that is there.
            start: A fitted estimator, of the same sizes, elements and number of labels, whose
                weights are the first ones.

        Raises:
            DataError: if molecules or labels cannot be used; the message names the molecule.
            ConfigError: if an option is out of range, or `start` is of other sizes.
        """
        from scidiffusion.molecules.denovo.objective import MoleculeLoss

        seed = check_seed(self.random_state)
        self._check_options()
        config = bundle_training(
            self,
            seed,
            warmup_steps=200,
            decay_start=0.25,
            validate_every=max(1, min(1000, self.max_steps // 4)),
            validation_draws=60,
            compile=self.compile,
        )
        clouds = read_clouds(X, y, self.labels)
        if len(clouds) < FEWEST:
            raise DataError(
                f"{len(clouds)} molecules are too few to learn from: {FEWEST} are needed, better "
                "thousands"
            )
        elements = clouds.elements()
        population = Population.of(
            elements, clouds.composition(elements), clouds.names, clouds.labels
        )
        bank = MoleculeBank(
            clouds.numbers,
            clouds.positions,
            clouds.offsets,
            elements=elements,
            labels=population.labels,
            pairs=self.bundle_pairs,
        )
        kept, held = split_rows(len(bank), self.validation_fraction, seed)
        denoiser = self._build(seed, len(elements), len(clouds.names))
        if start is not None:
            self._begin_with(start, denoiser, elements)
        objective = MoleculeLoss(bank, kept, held, dropout=self.condition_dropout)
        try:
            self.training_ = train_bundles(
                denoiser,
                objective,
                len(kept),
                len(held),
                config,
                checkpoint_dir=checkpoint_dir,
                resume=resume,
            )
        finally:
            denoiser.network.release()
        self.seed_, self._calls = seed, 0
        self.population_ = population
        self.denoiser_ = denoiser.to(resolve_device(self.device)).eval()
        return self

    def _begin_with(
        self, start: MoleculeDiffusion, denoiser: MoleculeDenoiser, elements: np.ndarray
    ) -> None:
        start._check_fitted()
        network, first = denoiser.network, start.denoiser_.network
        if (network.size, network.labels) != (first.size, first.labels) or not np.array_equal(
            elements, start.elements_
        ):
            raise ConfigError(
                f"start has a network of {first.size}, {first.labels} labels and the elements "
                f"{start.elements_.tolist()}; asked for are {network.size}, {network.labels} and "
                f"{elements.tolist()}"
            )
        denoiser.load_state_dict(start.denoiser_.state_dict())

    def _check_options(self) -> None:
        check_option(Types, self.types, "types")
        if not 0 <= self.condition_dropout < 1:
            raise ConfigError(
                f"condition_dropout must lie in [0, 1), got {self.condition_dropout}"
            )
        for name in ("width", "pair_width", "vectors", "layers", "bundle_pairs"):
            check_positive(getattr(self, name), name)

    def _build(self, seed: int, types: int, labels: int) -> MoleculeDenoiser:
        size = NetworkSize(self.width, self.pair_width, self.vectors, self.triangles, self.layers)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = PairNetwork(types, labels, size)
        return MoleculeDenoiser(network, Types(self.types), self.type_scale)

    @property
    def elements_(self) -> np.ndarray:
        """(K,) atomic numbers that the model knows."""
        return self.population_.elements

    @property
    def labels_(self) -> tuple[str, ...]:
        """Names of the labels."""
        return self.population_.names

    # -- use -------------------------------------------------------------------------------------

    def sample(
        self,
        n: int = 10,
        conditions: Mapping[str, Any] | None = None,
        steps: int | None = None,
        random_state: int | None = None,
        guidance_scale: float = 1.0,
        scaffold: Chem.Mol | None = None,
        valid_only: bool = True,
        *,
        sampler: str = "dpmpp_sde",
        temperature: float = TEMPERATURE,
    ) -> list[Chem.Mol]:
        """Make new molecules.

        Args:
            n: Number of molecules, 1 or more.
            conditions: What they should be: a label, "atoms" (their number) or "formula" -> one
                value, or n of them.
            steps: Network evaluations a molecule; None is 50. Guidance doubles them.
            random_state: Seed; None takes the next of the estimator's own stream.
            guidance_scale: 1 samples under the conditions, more exaggerates the labels at the
                price of diversity; 0 ignores them. The composition stays what was drawn.
            scaffold: Molecule with one conformer whose atoms, without changes among themselves,
                the new ones contain as their first atoms, where they are.
            valid_only: Draw each molecule again, of the same composition, until it is valid and
                stable (see below), 8 times at most; what then still is not comes marked, and a
                warning says how many. False gives what is drawn first, as the network has it.
            sampler: "dpmpp_sde", "dpmpp_2m", "ddim" or "ancestral".
            temperature: Factor of the noise of the stochastic samplers, in [0, 2]. 1 draws from
                what was learned; less gives more regular molecules and fewer kinds of them.

        Returns:
            Molecules with hydrogens, one conformer, and the properties `valid` (bonds were found,
            valences are right, in one piece), `stable` (every atom has a valence of its element
            by the distance tables of EDM) and `fragments`.

        Raises:
            InputError: if n is not 1 or more.
            ConditionError: if a condition is unknown or lies outside what was learned.
            ConfigError: if an option is out of range, guidance is asked for without a label, or
                the scaffold does not fit.
        """
        self._check_fitted()
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
            raise InputError(f"n must be 1 or more molecules, got {n!r}")
        if guidance_scale != 1:
            self._check_guidance(conditions, guidance_scale)
        core = None if scaffold is None else formula(scaffold, self.elements_)
        walk = Walk(
            self._next_seed(random_state),
            check_positive(steps, "steps") or STEPS,
            sampler,
            float(temperature),
            float(guidance_scale),
            None if scaffold is None else Scaffold.of(scaffold, self.elements_),
        )
        plan = self.population_.plan(
            int(n), conditions, np.random.default_rng([walk.seed, 0]), core
        )
        made: dict[int, Chem.Mol] = {}
        open_rows = np.arange(n)
        with progress_bar(int(n), enabled=self.progress) as advance:
            for turn in range(ROUNDS if valid_only else 1):
                part = type(plan)(plan.composition[open_rows], plan.labels[open_rows])
                states = generate(
                    self.denoiser_,
                    part,
                    open_rows + turn * STREAM,
                    walk,
                    None if turn else advance,
                )
                mols = self._molecules(states, scaffold)
                made |= {int(row): mol for row, mol in zip(open_rows, mols, strict=True)}
                sound = [mol.GetBoolProp(VALID) and mol.GetBoolProp(STABLE) for mol in mols]
                open_rows = open_rows[~np.array(sound)]
                if not len(open_rows):
                    break
        if valid_only and len(open_rows):
            warnings.warn(
                f"{len(open_rows)} of {n} molecules were not valid in any of {ROUNDS} draws; they "
                "are marked by their property 'valid' or 'stable'",
                ScidiffusionWarning,
                stacklevel=2,
            )
        return [made[row] for row in range(int(n))]

    def _check_guidance(self, conditions: Mapping[str, Any] | None, scale: float) -> None:
        if not np.isfinite(scale):
            raise ConfigError(f"guidance_scale must be a finite number, got {scale}")
        if not any(name in self.labels_ for name in conditions or {}):
            known = ", ".join(self.labels_) or "none"
            raise ConfigError(
                f"guidance pulls towards labels, and none was asked for; this model knows {known}"
            )
        if not self.condition_dropout:
            raise ConfigError(
                "guidance needs a model fitted with condition_dropout above 0, such as 0.1"
            )

    def _molecules(
        self, states: list[tuple[np.ndarray, np.ndarray]], scaffold: Chem.Mol | None
    ) -> list[Chem.Mol]:
        numbers = [self.elements_[types] for types, _ in states]
        positions = [place for _, place in states]
        if scaffold is not None:
            known = scaffold.GetConformer().GetPositions()
            positions = [_onto(place, known) for place in positions]
        return to_molecules(numbers, positions)

    def score_samples(
        self, X: Any, *, steps: int = 100, draws: int = 1, random_state: int | None = None
    ) -> np.ndarray:
        """Return a lower bound of the log-density of molecules.

        The bound is of log p(positions, types, number of atoms), in nats: a density per
        Angstrom^(3 (N - 1)) of the positions about their centre, a probability of the rest. It is
        an estimate; more steps and draws make it sharper.

        Args:
            X: Molecules as `fit` takes them.
            steps: Noise levels at which the bound is computed.
            draws: Noisy states at each.
            random_state: Seed of the noise; None is 0, so that scores can be compared.

        Returns:
            (M,) float64, one a conformer.

        Raises:
            DataError: if a molecule cannot be used or has an element that was not learned.
        """
        self._check_fitted()
        clouds, seed = read_clouds(X), check_seed(0 if random_state is None else random_state)
        clouds.composition(self.elements_)
        bound = log_bound(self.denoiser_, clouds, self.elements_, seed, steps, draws)
        return self.population_.log_size(clouds.counts) + bound

    # -- persistence -----------------------------------------------------------------------------

    def _state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, dict[str, Any]]]:
        population = self.population_
        codec = {
            "version": VERSION,
            "seed": self.seed_,
            "elements": population.elements.tolist(),
            "labels": list(population.names),
            "mean": population.mean.tolist(),
            "std": population.std.tolist(),
        }
        tensors = {f"denoiser.{k}": v for k, v in self.denoiser_.state_dict().items()}
        tensors["population.composition"] = torch.from_numpy(population.composition).short()
        tensors["population.labels"] = torch.from_numpy(population.labels).float()
        return {}, tensors, {"codec.json": codec}

    def _restore(self, saved: SavedModel) -> None:
        codec = saved.extra["codec.json"]
        check_version(codec, VERSION, "the network")
        self.population_ = Population(
            np.array(codec["elements"], dtype=np.int64),
            saved.tensors["population.composition"].long().numpy(),
            tuple(codec["labels"]),
            saved.tensors["population.labels"].double().numpy(),
            np.array(codec["mean"], dtype=np.float64),
            np.array(codec["std"], dtype=np.float64),
        )
        denoiser = self._build(0, len(codec["elements"]), len(codec["labels"]))
        prefix = "denoiser."
        denoiser.load_state_dict(
            {
                name.removeprefix(prefix): value.float()
                for name, value in saved.tensors.items()
                if name.startswith(prefix)
            }
        )
        self.denoiser_ = denoiser.to(resolve_device(self.device)).eval()
        self.seed_, self._calls = codec["seed"], 0


def _onto(positions: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Move positions by the proper rigid motion that lays their first atoms onto known places."""
    rotation, translation = kabsch(positions[: len(known)], known)
    moved = positions @ rotation.T + translation
    # To the last digit: what was fixed is where it was.
    moved[: len(known)] = known
    return np.asarray(moved)
