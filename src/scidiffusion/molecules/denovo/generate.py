r"""The walk from noise to molecules, and scaffolds that stay where they are.

Molecules of like size walk together. The noise of a molecule is keyed by the seed and its number,
never by who else is in its batch.

A scaffold is inpainting: what is predicted of its atoms is replaced by what they are known to be,
laid onto the prediction by the best rigid motion, since a molecule made of noise has no
orientation (compare Lugmayr et al. 2022, where the noisy state is replaced).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from rdkit import Chem
from torch import Tensor

from scidiffusion.core.denoiser import Denoiser
from scidiffusion.core.prediction import CategoricalPrediction, Parameterization, Prediction
from scidiffusion.core.process import ProductProcess
from scidiffusion.core.rng import Noise
from scidiffusion.core.schedules import EDMSchedule
from scidiffusion.errors import ConfigError
from scidiffusion.guidance.classifier_free import ClassifierFreeGuidance
from scidiffusion.molecules.denovo.denoiser import MoleculeDenoiser
from scidiffusion.molecules.denovo.population import Plan
from scidiffusion.molecules.denovo.process import RHO, SIGMA_MAX, Types
from scidiffusion.molecules.superposition import laid_onto
from scidiffusion.samplers.ancestral import Ancestral
from scidiffusion.samplers.base import SinglePrediction, sample
from scidiffusion.samplers.ddim import DDIM
from scidiffusion.samplers.dpm_solver import DPMSolverPP
from scidiffusion.samplers.partwise import PartwiseSampler

STEPS = 50
TEMPERATURE = 1.0
"""Less gives more stable molecules at the first draw, and more repeats: at .6 a tenth of them."""
ROWS = 64
"""Molecules that walk together on a CPU."""
TOP, BOTTOM = 6.0, 0.02
"""Noise levels, in Angstrom, between which the steps are spread; above there is little to do."""
RULES: dict[str, Callable[[], SinglePrediction]] = {
    "ancestral": Ancestral,
    "ddim": DDIM,
    "dpmpp_2m": DPMSolverPP,
    "dpmpp_sde": lambda: DPMSolverPP(sde=True),
}
"""Samplers of one evaluation a step."""


@dataclass(frozen=True)
class RowNoise(Noise):
    """Noise of single rows, each a function of (seed, row, stream, step) and its number of atoms.

    Args:
        seed: Seed.
        rows: Number of each row of the batch in the whole run.
        counts: Atoms of each; padding gets no numbers.
        temperature: Factor of normal numbers, but for those of the prior.
        step: Step of the walk.
        stream: Names of what the numbers are for.
    """

    seed: int
    rows: tuple[int, ...]
    counts: tuple[int, ...]
    temperature: float = 1.0
    step: int = 0
    stream: tuple[str, ...] = ()

    def normal(self, like: Tensor) -> Tensor:
        """Draw N(0, 1) numbers; see `Noise.normal`."""
        factor = 1.0 if "prior" in self.stream else self.temperature
        return factor * self._draw("normal", like)

    def uniform(self, like: Tensor) -> Tensor:
        """Draw U[0, 1) numbers; see `Noise.uniform`."""
        return self._draw("uniform", like)

    def child(self, name: str) -> RowNoise:
        """Return the independent stream `name`."""
        return replace(self, stream=(*self.stream, name))

    def at(self, step: int) -> RowNoise:
        """Return the source of a step."""
        return replace(self, step=step)

    def _draw(self, kind: str, like: Tensor) -> Tensor:
        drawn = np.zeros(like.shape, dtype=np.float32)
        for index, (row, count) in enumerate(zip(self.rows, self.counts, strict=True)):
            key = repr((self.seed, row, kind, self.stream, self.step)).encode()
            digest = hashlib.blake2b(key, digest_size=16).digest()
            rng = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
            shape = (count, *like.shape[2:])
            numbers = rng.standard_normal(shape) if kind == "normal" else rng.random(shape)
            drawn[index, :count] = numbers
        dtype = like.dtype if like.is_floating_point() else torch.float32
        return torch.from_numpy(drawn).to(like.device, dtype).clamp(max=_below_one(kind, dtype))


def _below_one(kind: str, dtype: torch.dtype) -> float:
    return torch.inf if kind == "normal" else 1 - torch.finfo(dtype).eps / 2


@dataclass(frozen=True)
class Scaffold:
    """Atoms that a molecule must contain, the first of each new molecule.

    Args:
        types: (S,) long.
        positions: (S, 3) in Angstrom.
    """

    types: Tensor
    positions: Tensor

    @classmethod
    def of(cls, mol: Chem.Mol, elements: np.ndarray) -> Self:
        """Read a molecule with one conformer; `elements` are the rising numbers of the types.

        Raises:
            ConfigError: if it has no usable coordinates.
        """
        if not mol.GetNumConformers():
            raise ConfigError("the scaffold has no coordinates; give a molecule with a conformer")
        places = mol.GetConformer().GetPositions()
        if len(places) < 1 or not np.isfinite(places).all():
            raise ConfigError("the scaffold has no atoms, or a position that is not finite")
        numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
        types = torch.from_numpy(np.searchsorted(elements, numbers))
        return cls(types, torch.from_numpy(places).float())

    def to(self, device: torch.device) -> Self:
        """Move to a device."""
        return type(self)(self.types.to(device), self.positions.to(device))

    def lay(self, x0: Tensor) -> Tensor:
        """Return its positions laid onto those of the first atoms of x0, (B, S, 3)."""
        return laid_onto(self.positions.to(x0), x0[:, : len(self.types)])


class Scaffolded:
    """A denoiser whose predictions contain a scaffold.

    Args:
        denoiser: What predicts.
        scaffold: What is known.
        bare: The denoiser itself where `denoiser` is guidance around one.
    """

    def __init__(self, denoiser: Denoiser, scaffold: Scaffold, bare: MoleculeDenoiser) -> None:
        self.denoiser, self.scaffold, self.bare = denoiser, scaffold, bare
        self.process = denoiser.process

    def __call__(self, z: Mapping[str, Tensor], t: Tensor, cond: Any = None) -> dict[str, Any]:
        """Predict, then put the scaffold in place."""
        said = dict(self.denoiser(z, t, cond))
        count = len(self.scaffold.types)
        x0 = said["positions"].x0
        x0 = torch.cat([self.scaffold.lay(x0), x0[:, count:]], 1)
        x0 = self.process.parts["positions"].project(x0)  # type: ignore[attr-defined]
        said["positions"] = said["positions"].with_value(x0, Parameterization.X0)
        hot = torch.nn.functional.one_hot(self.scaffold.types, self.bare.network.types_count)
        said["types"] = self._typed(said["types"], hot.to(x0).expand(len(x0), -1, -1))
        return said

    def _typed(
        self, types: Prediction | CategoricalPrediction, hot: Tensor
    ) -> Prediction | CategoricalPrediction:
        count = hot.shape[1]
        if isinstance(types, CategoricalPrediction):
            return replace(types, log_p0=torch.cat([hot.log(), types.log_p0[:, count:]], 1))
        x0 = torch.cat([self.bare.scale * hot, types.x0[:, count:]], 1)
        return types.with_value(x0, Parameterization.X0)


@dataclass(frozen=True)
class Walk:
    """How molecules are made.

    Args:
        seed: Seed.
        steps: Network evaluations a molecule (twice that with guidance).
        sampler: Name in `RULES`.
        temperature: Factor of the noise of stochastic samplers.
        guidance_scale: Scale of classifier-free guidance; 1 is none.
        scaffold: Atoms that stay.
    """

    seed: int
    steps: int = STEPS
    sampler: str = "dpmpp_sde"
    temperature: float = TEMPERATURE
    guidance_scale: float = 1.0
    scaffold: Scaffold | None = None

    def __post_init__(self) -> None:
        if self.sampler not in RULES:
            raise ConfigError(f"sampler must be one of {', '.join(RULES)}; got {self.sampler!r}")
        if not 0 <= self.temperature <= 2:
            raise ConfigError(f"temperature must lie in [0, 2], got {self.temperature}")


def walk_grid(steps: int) -> Tensor:
    """Times of a walk of a number of steps: one step to `TOP`, the others below it."""
    if steps < 3:
        return EDMSchedule(BOTTOM, SIGMA_MAX, RHO).grid(steps)
    power = 1 / 4.0
    inner = torch.linspace(TOP**power, BOTTOM**power, steps - 1, dtype=torch.float64) ** 4
    sigma = torch.cat([inner.new_tensor([SIGMA_MAX]), inner])
    return torch.cat([(sigma / SIGMA_MAX) ** (1 / RHO), sigma.new_zeros(1)])


@torch.no_grad()
def generate(
    denoiser: MoleculeDenoiser,
    plan: Plan,
    rows: np.ndarray,
    walk: Walk,
    progress: Callable[[int], None] | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Make molecules.

    Args:
        denoiser: The fitted denoiser.
        plan: What they are to be, n of them.
        rows: (n,) number of each in the whole run, which its noise is keyed by.
        walk: How they are made.
        progress: Called with the number of molecules done.

    Returns:
        Types (N,) and positions (N, 3) float64 in Angstrom of each, in the order of the plan.
    """
    counts = plan.composition.sum(1)
    device = next(denoiser.parameters()).device
    order = np.argsort(counts, kind="stable")
    block = ROWS if device.type == "cpu" else 8 * ROWS
    made: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for start in range(0, len(order), block):
        batch = order[start : start + block]
        states = _batch(denoiser, plan, rows, batch, walk, device)
        for index, state in zip(batch, states, strict=True):
            made[int(index)] = state
        if progress is not None:
            progress(min(start + block, len(order)))
    return [made[index] for index in range(len(order))]


def _batch(
    denoiser: MoleculeDenoiser,
    plan: Plan,
    rows: np.ndarray,
    batch: np.ndarray,
    walk: Walk,
    device: torch.device,
) -> list[tuple[np.ndarray, np.ndarray]]:
    counts = plan.composition[batch].sum(1)
    size = int(counts.max())
    mask = torch.arange(size, device=device) < torch.from_numpy(counts).to(device)[:, None]
    bound = denoiser.bound(mask)
    cond = {
        name: torch.from_numpy(getattr(plan, name)[batch]).to(device, torch.float32)
        for name in ("composition", "labels")
    }
    guided: Any = bound
    if walk.guidance_scale != 1:
        guided = ClassifierFreeGuidance(bound, walk.guidance_scale, kept=("composition",))
    if walk.scaffold is not None:
        guided = Scaffolded(guided, walk.scaffold.to(device), bound)
    process: Any = bound.process
    like = bound.clean(
        torch.zeros(len(batch), size, 3, device=device),
        torch.zeros(len(batch), size, dtype=torch.long, device=device),
    )
    noise = RowNoise(
        walk.seed,
        tuple(int(row) for row in rows[batch]),
        tuple(int(count) for count in counts),
        walk.temperature,
    )
    state = sample(
        process,
        guided,
        like,
        sampler=_sampler(process, denoiser.kind, walk),
        grid=walk_grid(walk.steps),
        noise=noise,
        cond=cond,
    )
    types = state["types"]
    types = types if denoiser.kind is Types.MULTINOMIAL else types.argmax(-1)
    return [
        (kinds[:count].cpu().numpy(), place[:count].double().cpu().numpy())
        for kinds, place, count in zip(types, state["positions"], counts, strict=True)
    ]


def _sampler(process: ProductProcess, kind: Types, walk: Walk) -> PartwiseSampler:
    rule = RULES[walk.sampler]()
    parts = {"positions": rule}
    if kind is Types.GAUSSIAN:
        parts["types"] = rule
    return PartwiseSampler(parts)
