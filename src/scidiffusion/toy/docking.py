r"""Docking of a toy ligand with one torsion into a receptor whose energy is known.

A pose is what DiffDock diffuses (Corso et al. 2023): where the ligand's centroid is, how the
ligand is turned, its torsion. With the atoms p_a = place + R l_a(torsion), l_a centred, every atom
is tied to its site in a pocket k by a spring, and the pockets by a smooth minimum; in kT,

    E = -log sum_k exp(-E_k),     E_k = offset_k + kappa / 2 sum_a |p_a - s_ka|^2.

The Boltzmann law exp(-E) is therefore a mixture over pockets, and in each the square splits,

    E_k = offset_k + A kappa / 2 |place - mean_a s_ka|^2
          + kappa / 2 sum_a |R l_a - (s_ka - mean_a s_ka)|^2,

so that the place is Gaussian and independent of rotation and torsion, which are left with a
density on a compact space of four dimensions: small enough for a grid, and for exact draws by
rejection from the uniform distribution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from scidiffusion.core import KeyedNoise
from scidiffusion.core.rotations import exp_so3, uniform_rotation
from scidiffusion.errors import ConfigError
from scidiffusion.estimator import check_seed

F64 = torch.float64
Pose = Mapping[str, Tensor]
"""{"place": (B, 3) centroid in Angstrom, "turn": (B, 3, 3), "torsion": (B, 1) in radians}."""

_BRANCH = 1.2
_CORE = ((0.0, 0.0, 0.0), (1.5, 0.0, 0.0), (-0.7, 1.2, 0.0), (-0.7, -0.6, 1.0))
_TORSIONS = 48
_BLOCK = 65_536


def ligand_atoms(torsion: Tensor) -> Tensor:
    """Atoms of the ligand, centred, in its own frame.

    Four atoms are rigid; a fifth turns about the bond from the first to the second.

    Args:
        torsion: (...) radians.

    Returns:
        (..., 5, 3) in Angstrom.
    """
    core = torch.tensor(_CORE, dtype=torsion.dtype, device=torsion.device)
    ahead = torch.full_like(torsion, 2.2)
    tip = torch.stack([ahead, _BRANCH * torsion.cos(), _BRANCH * torsion.sin()], -1)
    atoms = torch.cat([core.expand(*torsion.shape, 4, 3), tip[..., None, :]], -2)
    return atoms - atoms.mean(-2, keepdim=True)


def rotation_grid(nodes: int = 24) -> tuple[Tensor, Tensor]:
    """Rotations and weights that integrate over the normalised Haar measure.

    Trapezoidal in two Euler angles, Gauss-Legendre in the cosine of the third: exact for matrix
    elements of every degree below `nodes` (about half as many in the third).

    Args:
        nodes: Number of nodes of an angle.

    Returns:
        (G, 3, 3) and (G,), float64; the weights sum to 1.
    """
    around = 2 * math.pi * torch.arange(nodes, dtype=F64) / nodes
    cosine, weight = np.polynomial.legendre.leggauss(nodes // 2 + 2)
    tilt = torch.from_numpy(np.arccos(cosine))
    x, z = torch.eye(3, dtype=F64)[[0, 2]]
    first, second = exp_so3(around[:, None] * z), exp_so3(tilt[:, None] * x)
    grid = first[:, None, None] @ (second[:, None] @ first)
    weights = torch.from_numpy(weight)[None, :, None].expand(nodes, -1, nodes) / (2 * nodes**2)
    return grid.reshape(-1, 3, 3), weights.reshape(-1)


@dataclass(frozen=True)
class Pocket:
    """Where a ligand binds.

    Args:
        place: Centroid of the best pose, in Angstrom.
        turn: Its rotation vector, in radians.
        torsion: Its torsion, in radians.
        offset: Energy of the best pose, in kT.
    """

    place: tuple[float, float, float]
    turn: tuple[float, float, float]
    torsion: float
    offset: float = 0.0


POCKETS = (
    Pocket((-2.0, 0.0, 0.5), (0.3, 0.5, -0.2), 1.0),
    Pocket((2.0, 0.5, -0.5), (0.0, -1.2, 1.6), -2.0, offset=0.8),
)


@dataclass(frozen=True)
class SpringDocking:
    """A receptor with pockets; see the module.

    Args:
        pockets: The pockets.
        stiffness: Spring constant kappa, in kT per square Angstrom.

    Raises:
        ConfigError: if there is no pocket or `stiffness` is not positive.
    """

    pockets: tuple[Pocket, ...] = POCKETS
    stiffness: float = 2.0

    def __post_init__(self) -> None:
        if not self.pockets or not self.stiffness > 0:
            raise ConfigError(
                "docking needs a pocket and a positive stiffness, got "
                f"{self.pockets} and {self.stiffness}"
            )

    @property
    def best_poses(self) -> dict[str, Tensor]:
        """The pose of lowest E_k of every pocket, K rows, float64."""
        place, turn, torsion = (
            torch.tensor([getattr(pocket, name) for pocket in self.pockets], dtype=F64)
            for name in ("place", "turn", "torsion")
        )
        return {"place": place, "turn": exp_so3(turn), "torsion": torsion[:, None]}

    @property
    def _offsets(self) -> Tensor:
        return torch.tensor([pocket.offset for pocket in self.pockets], dtype=F64)

    def atoms(self, pose: Pose) -> Tensor:
        """Positions of the atoms, (B, 5, 3) in Angstrom."""
        own = ligand_atoms(pose["torsion"][..., 0])
        return pose["place"][..., None, :] + own @ pose["turn"].mT

    def pocket_energies(self, pose: Pose) -> Tensor:
        """E_k of every pocket, (B, K) in kT."""
        sites = self.atoms(self.best_poses).to(pose["place"])
        square = ((self.atoms(pose)[:, None] - sites) ** 2).sum((-1, -2))
        return self._offsets.to(square) + 0.5 * self.stiffness * square

    def energy(self, pose: Pose) -> Tensor:
        """E of the module, (B,) in kT."""
        return -torch.logsumexp(-self.pocket_energies(pose), -1)

    def _internal(self, turn: Tensor, torsion: Tensor, pocket: int) -> Tensor:
        """The part of E_k that rotation and torsion make, with the best pose unturned."""
        best = torch.tensor(self.pockets[pocket].torsion, dtype=F64)
        way = ligand_atoms(torsion) @ turn.mT - ligand_atoms(best)
        return 0.5 * self.stiffness * (way**2).sum((-1, -2))

    @cached_property
    def _torsion_integrals(self) -> Tensor:
        """Integral of exp(-internal energy) over rotations, (K, 48) at evenly spaced torsions."""
        turn, weight = rotation_grid()
        torsions = 2 * math.pi * torch.arange(_TORSIONS, dtype=F64) / _TORSIONS
        return torch.stack(
            [
                torch.stack([weight @ torch.exp(-self._internal(turn, a, k)) for a in torsions])
                for k in range(len(self.pockets))
            ]
        )

    @property
    def populations(self) -> Tensor:
        """Probability of every pocket under the Boltzmann law, (K,), by quadrature."""
        mass = torch.exp(-self._offsets) * self._torsion_integrals.mean(1)
        return mass / mass.sum()

    def torsion_density(self, angle: Tensor) -> Tensor:
        """Marginal Boltzmann density of the torsion, per radian.

        Args:
            angle: (G,) radians.

        Returns:
            (G,), the trigonometric interpolation of 48 exact values.
        """
        mass = torch.exp(-self._offsets) @ self._torsion_integrals
        series = torch.fft.rfft(mass / mass.mean() / (2 * math.pi)) / _TORSIONS
        order = torch.arange(len(series), dtype=F64)
        double = torch.where((order == 0) | (order == _TORSIONS // 2), 1.0, 2.0)
        phase = order * angle.to(F64)[:, None]
        return phase.cos() @ (double * series.real) - phase.sin() @ (double * series.imag)

    def sample(self, n: int, random_state: int | None = 0) -> dict[str, Tensor]:
        """Draw independent poses from the Boltzmann law, exactly: by rejection.

        Args:
            n: Number of poses.
            random_state: Seed.

        Returns:
            A pose of `n` rows, float64.
        """
        noise = KeyedNoise(check_seed(random_state))
        share = noise.child("pocket").uniform(torch.empty(n, dtype=F64))
        pocket = torch.searchsorted(self.populations.cumsum(0)[:-1].contiguous(), share)
        best = self.best_poses
        std = 1 / math.sqrt(5 * self.stiffness)
        place = best["place"][pocket]
        place = place + std * noise.child("place").normal(place)
        turns = torch.empty(n, 3, 3, dtype=F64)
        torsions = torch.empty(n, dtype=F64)
        for k in range(len(self.pockets)):
            rows = (pocket == k).nonzero()[:, 0]
            inner, angle = self._internal_draws(len(rows), k, noise.child(f"pocket {k}"))
            turns[rows], torsions[rows] = best["turn"][k] @ inner, angle
        return {"place": place, "turn": turns, "torsion": torsions[:, None]}

    def _internal_draws(self, n: int, pocket: int, noise: KeyedNoise) -> tuple[Tensor, Tensor]:
        turns, angles, found, block = [], [], 0, 0
        while found < n:
            block += 1
            own = noise.at(block)
            turn = uniform_rotation(torch.empty(_BLOCK, 3, 3, dtype=F64), own.child("turn"))
            uniform = own.uniform(torch.empty(_BLOCK, 2, dtype=F64))
            angle = math.pi * (2 * uniform[:, 0] - 1)
            # The energy is 0 at best, so that exp(-E) is a probability.
            keep = uniform[:, 1] < torch.exp(-self._internal(turn, angle, pocket))
            turns.append(turn[keep])
            angles.append(angle[keep])
            found += int(keep.sum())
        if not n:
            return torch.empty(0, 3, 3, dtype=F64), torch.empty(0, dtype=F64)
        return torch.cat(turns)[:n], torch.cat(angles)[:n]
