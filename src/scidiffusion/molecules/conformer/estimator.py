"""`ConformerDiffusion`: learn conformers from ensembles, make those of any molecule.

`scidiffusion.molecules.conformers` is this estimator with the weights that the package brings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from rdkit import Chem
from torch import Tensor

from scidiffusion.core.rng import KeyedNoise
from scidiffusion.errors import ConfigError, DataError
from scidiffusion.estimator import resolve_device, split_rows
from scidiffusion.molecules.conformer.bank import BankMolecule, ConformerBank
from scidiffusion.molecules.conformer.denoiser import ConformerDenoiser
from scidiffusion.molecules.conformer.generate import Request, generate
from scidiffusion.molecules.conformer.graph import MolGraph
from scidiffusion.molecules.conformer.learning import LEAST, EnsembleEstimator
from scidiffusion.molecules.conformer.network import ConformerNetwork, NetworkSize
from scidiffusion.molecules.conformer.pairs import ConformerPairs
from scidiffusion.molecules.conformer.refine import STEPS, refine

if TYPE_CHECKING:
    from scidiffusion.molecules.torsional.estimator import TorsionDiffusion


class ConformerDiffusion(EnsembleEstimator):
    """Learn to make conformers; see the module.

    Args:
        width: Scalars of an atom in the network.
        pair_width: Scalars of a pair of atoms.
        vectors: Vectors of an atom.
        layers: Layers.
        network: "pairs", see `scidiffusion.molecules.conformer.network`, or "e3nn", tensor
            products (`scidiffusion.molecules.conformer.tensor_network`; the extra e3nn).
        sigma_start: Noise level, in Angstrom, at which refinement begins.
        max_steps: Training steps at most.
        lr: Peak learning rate.
        ema_decay: Decay of the average of the weights.
        bundle_pairs: Pairs of atoms of a training step; 12,000 are 30 molecules of 20 atoms.
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

    denoiser_: ConformerDenoiser

    def __init__(
        self,
        *,
        width: int = 128,
        pair_width: int = 64,
        vectors: int = 16,
        layers: int = 5,
        network: str = "pairs",
        sigma_start: float = 0.05,
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
        self.network = network
        self.sigma_start = sigma_start
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

    # -- fitting ---------------------------------------------------------------------------------

    def fit(
        self,
        X: Sequence[Chem.Mol | ConformerPairs],
        y: Any = None,
        *,
        checkpoint_dir: str | Path | None = None,
        resume: bool = False,
        start: ConformerDiffusion | None = None,
        walks: Sequence[ConformerPairs] = (),
    ) -> Self:
        """Learn from ensembles of conformers.

        Args:
            X: Molecules with explicit hydrogens whose conformers are what is to be made, such as
                minima of a quantum-chemical method; their starts are made by MMFF94. Or pairs of
                starts and minima.
            y: Not used.
            checkpoint_dir: Folder for a checkpoint; None writes none.
            resume: Go on from the checkpoint that is there.
            start: A fitted estimator of the same sizes whose weights are the first ones.
            walks: Pairs of starts and of what walks from these should have ended at, as
                `tools/make_ensembles.py --model` makes them. The energy of where walks end is
                then lowered too, see `scidiffusion.molecules.conformer.walk_objective`.

        Raises:
            DataError: if there are fewer than 10 molecules, or walks, that can be used.
            ConfigError: if an option is out of range, or `start` is of other sizes.
        """
        from scidiffusion.molecules.conformer.objective import ConformerLoss
        from scidiffusion.molecules.conformer.walk_objective import WalkLoss

        if walks and len(walks) < LEAST:
            raise DataError(f"{len(walks)} walks were given; learning from them needs {LEAST}")

        def loss(bank: ConformerBank, kept: Tensor, held: Tensor) -> ConformerLoss | WalkLoss:
            ensembles = ConformerLoss(bank, kept, held, sigma_start=self.sigma_start)
            if not walks:
                return ensembles
            ends = [BankMolecule.of(one, hessians=True) for one in walks]
            own = ConformerBank(ends, pairs=self.bundle_pairs)
            # The same walks are held out whatever the seed, which need not be given.
            rows = split_rows(len(own), self.validation_fraction, 0)
            return WalkLoss(own, *rows, ensembles=ensembles)

        return self._learn(
            X,
            loss,
            having="conformers to learn from",
            checkpoint_dir=checkpoint_dir,
            resume=resume,
            start=start,
        )

    def _build(self, seed: int) -> ConformerDenoiser:
        if self.network not in ("pairs", "e3nn"):
            raise ConfigError(f"network must be 'pairs' or 'e3nn', got {self.network!r}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.network == "e3nn":
                from scidiffusion.molecules.conformer.tensor_network import (
                    TensorNetwork,
                    TensorSize,
                )

                sizes = TensorSize(
                    scalars=self.width,
                    vectors=self.vectors,
                    tensors=self.vectors // 2,
                    pair_width=self.pair_width,
                    layers=self.layers,
                )
                return ConformerDenoiser(TensorNetwork(sizes))
            size = NetworkSize(self.width, self.pair_width, self.vectors, self.layers)
            return ConformerDenoiser(ConformerNetwork(size))

    # -- use -------------------------------------------------------------------------------------

    def walk(self, mol: Chem.Mol, starts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Walk starts to where their minima would be, with nothing made, chosen or checked.

        Args:
            mol: A molecule with explicit hydrogens.
            starts: (n, N, 3) positions in Angstrom, such as minima of a force field.

        Returns:
            (n, N, 3) positions in Angstrom, centred, each turned as its start.
        """
        self._check_fitted()
        return refine(
            self.denoiser_,
            MolGraph.of(mol),
            starts,
            level=self.sigma_start,
            steps=STEPS,
            noise=KeyedNoise(0),
            noise_scale=0.0,
            device=resolve_device(self.device),
        )

    def sample(  # type: ignore[override]  # conformers are of a molecule
        self,
        molecule: str | Chem.Mol,
        n: int = 10,
        *,
        random_state: int | None = None,
        start: str = "etkdg",
        method: str = "cartesian",
        torsions: TorsionDiffusion | None = None,
        steps: int | None = None,
        level: float | None = None,
        sampler: str = "dpmpp_2m",
        noise_scale: float = 0.0,
        gfn2_steps: int = 0,
        oversample: int | None = None,
        energy: str | None = "mmff",
        temperature: float = 298.15,
        prune: float | None = None,
        time_limit: float | None = None,
        fixed_core: Mapping[int, Sequence[float]] | None = None,
        guidance: Callable[[Tensor], Tensor] | None = None,
        guidance_scale: float = 1.0,
        target_distances: Mapping[tuple[int, int], float] | None = None,
        allow_fragments: bool = False,
    ) -> Chem.Mol:
        """Make conformers of a molecule.

        Stereocentres and double bonds that are specified come as asked; those that are not are
        fixed once for the ensemble, and named in a warning and in the property `stereo_chosen`.

        Args:
            molecule: SMILES, or a molecule; hydrogens are added where they are missing.
            n: Number of conformers, 1 or more.
            random_state: Seed; None takes the next of the estimator's own stream.
            start: "etkdg" refines geometries of RDKit's ETKDG and MMFF94; "noise" begins with
                nothing but the graph.
            method: "cartesian" starts from an embedding for each conformer; "torsional" from a
                few whose torsions are drawn by diffusion (Jing et al. 2022). Both are refined.
            torsions: The model that draws them; None is the one that comes with the package.
            steps: Network evaluations a conformer; None is 4 for refinement, 20 from noise and
                with guidance.
            level: Noise level, in Angstrom, at which the walk begins; None is `sigma_start` of
                the fit, .5 with guidance, 20 from noise.
            sampler: Name of the sampler; see `scidiffusion.samplers.SAMPLERS`.
            noise_scale: Share of the level's noise that a start gets: 1 draws from the learned
                law around it, 0 finds where most of that lies, which is nearer to the minimum.
            gfn2_steps: Steps towards the minimum of GFN2-xTB after refinement, 0 or more; needs
                the extra gfn2. One or two take about half of the energy that is left, 200 reach
                the minimum. See `scidiffusion.molecules.chem.relaxation`.
            oversample: Starts made for each conformer; None is 8 for molecules of up to 15 heavy
                atoms, else 4. The distinct and most different ones are refined.
            energy: "mmff", "gfn2" (needs the extra gfn2) or None.
            temperature: Of the Boltzmann weights, in K.
            prune: Remove conformers nearer than this to one of lower energy, in Angstrom of heavy
                atoms; None keeps n.
            time_limit: Seconds for making starts; None is no limit.
            fixed_core: Atom number -> place in Angstrom, of three or more atoms that stay there.
            guidance: Energy in units of kT to be lowered, a differentiable function of positions
                (B, N, 3) in Angstrom to (B,).
            guidance_scale: Its strength.
            target_distances: (atom, atom) -> distance in Angstrom that is pulled at.
            allow_fragments: Accept salts and other molecules of several parts.

        Returns:
            A molecule with explicit hydrogens and n conformers, by rising energy; each carries
            its energy in kcal/mol, Boltzmann weight and validity, see
            `scidiffusion.molecules.figures`.

        Raises:
            DataError: if the SMILES or molecule cannot be used, or no geometry could be made.
            ConfigError: if an option is out of range.
        """
        self._check_fitted()
        if method not in ("cartesian", "torsional"):
            raise ConfigError(f"method must be 'cartesian' or 'torsional', got {method!r}")
        if method == "torsional" and torsions is None:
            from scidiffusion.molecules.torsional.front import bundled

            torsions = bundled(self.device)
        request = Request(
            n=n,
            seed=self._next_seed(random_state),
            start=start,
            torsions=torsions if method == "torsional" else None,
            steps=steps,
            level=level,
            sampler=sampler,
            noise_scale=noise_scale,
            gfn2_steps=gfn2_steps,
            oversample=oversample,
            energy=energy,
            temperature=temperature,
            prune=prune,
            time_limit=time_limit,
            fixed_core=dict(fixed_core or {}),
            guidance=guidance,
            guidance_scale=guidance_scale,
            target_distances=dict(target_distances or {}),
            allow_fragments=allow_fragments,
        )
        return generate(self.denoiser_, molecule, request, sigma_start=self.sigma_start)
