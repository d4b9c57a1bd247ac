r"""Pull a walk towards what the user wants: atoms with given places, distances, any energy.

Each is a denoiser around a denoiser that moves the predicted x0. For an energy E in units of kT,
the density wanted is p(x) exp(-E(x)). Given z, the data lie about the prediction with variance

    r^2 = sigma^2 V / (sigma^2 + V),

V that of the data; for a Gaussian of that variance what is wanted is expected near the minimum of

    |x - x0|^2 / 2 r^2 + scale E(x),

exactly so for quadratic E (Song et al. 2023, "pseudoinverse guidance", with r as there). A step
along the gradient of E at x0 alone would overshoot wherever E is stiffer than 1 / r^2.

A fixed core is inpainting: the prediction of its atoms is what they are known to be, laid onto
the prediction by the best rigid motion, since a conformer has no orientation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from scidiffusion.core.denoiser import Condition, Denoiser
from scidiffusion.core.prediction import Parameterization, Prediction, match
from scidiffusion.errors import ConfigError, DataError
from scidiffusion.molecules.superposition import laid_onto

DESCENTS = 15
Energy = Callable[[Tensor], Tensor]
"""Positions (B, N, 3) in Angstrom -> energies (B,) in units of kT, differentiable."""


class Steering(ABC):
    """Something that moves the predicted clean positions."""

    def around(self, denoiser: Denoiser) -> Denoiser:
        """Return the denoiser that is steered."""
        return _Steered(denoiser, self)

    @abstractmethod
    def move(self, x0: Tensor, sigma: Tensor) -> Tensor:
        """Return the moved prediction.

        Args:
            x0: (B, N, 3) predicted positions in Angstrom.
            sigma: (B, 1, 1) noise level in Angstrom.
        """


class _Steered:
    def __init__(self, denoiser: Denoiser, steering: Steering) -> None:
        self.denoiser, self.steering = denoiser, steering
        self.process: Any = denoiser.process

    def __call__(self, z: Tensor, t: Tensor, cond: Condition = None) -> Prediction:
        prediction: Prediction = self.denoiser(z, t, cond)
        sigma = match(prediction.marginal.sigma, z)
        moved = self.steering.move(prediction.x0, sigma)
        return prediction.with_value(moved, Parameterization.X0)


class EnergySteering(Steering):
    """Lower a differentiable energy; see the module.

    Args:
        energy: Positions (B, N, 3) in Angstrom -> (B,) in units of kT.
        scale: Strength; 1 is the density p(x) exp(-E).
        spread: sqrt(V), in Angstrom: how far an atom may be expected to move.

    Raises:
        ConfigError: if the scale is negative, or either is not finite.
    """

    def __init__(self, energy: Energy, scale: float = 1.0, spread: float = 0.5) -> None:
        if not 0 <= scale < float("inf"):
            raise ConfigError(f"guidance_scale must be a finite number >= 0, got {scale}")
        if not 0 < spread < float("inf"):
            raise ConfigError(f"spread must be a positive length in Angstrom, got {spread}")
        self.energy, self.scale, self.spread = energy, scale, spread

    def move(self, x0: Tensor, sigma: Tensor) -> Tensor:
        """See `Steering.move`: descend to the minimum, by steps of Barzilai and Borwein (1988)."""
        variance = sigma.square() * self.spread**2 / (sigma.square() + self.spread**2)
        place, slope = x0, variance * self.scale * self._slope(x0)
        # The first step cannot leave the reach of the noise.
        length = slope.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None]
        rate = (variance.sqrt() / length).clamp(max=1.0)
        for _ in range(DESCENTS):
            following = place - rate * slope
            after = following - x0 + variance * self.scale * self._slope(following)
            step, change = following - place, after - slope
            curvature = (step * change).sum((1, 2))
            better = step.square().sum((1, 2)) / curvature.clamp(min=1e-20)
            # The quadratic alone has curvature 1: no step is longer than to its minimum.
            rate = torch.where(curvature > 0, better.clamp(max=1.0), 1.0)[:, None, None]
            place, slope = following, after
        return place

    def _slope(self, place: Tensor) -> Tensor:
        """Gradient of the energy."""
        with torch.enable_grad():
            place = place.detach().requires_grad_()
            energy = self.energy(place)
            if energy.shape != place.shape[:1]:
                raise DataError(
                    "a guidance energy must return one number a conformer, shape "
                    f"({place.shape[0]},), got {tuple(energy.shape)}"
                )
            if not energy.requires_grad:
                raise DataError(
                    "the guidance energy does not depend on the positions through torch; compute "
                    "it with torch operations"
                )
            (slope,) = torch.autograd.grad(energy.sum(), place)
        if not bool(torch.isfinite(slope).all()):
            raise DataError("the gradient of the guidance energy is not finite")
        return slope


def distance_energy(
    targets: Mapping[tuple[int, int], float], *, stiffness: float = 100.0
) -> Energy:
    """Return the energy sum of stiffness / 2 (d_ij - target)^2 of pairs of atoms, in kT.

    Args:
        targets: (atom, atom) -> distance in Angstrom.
        stiffness: kT per square Angstrom.
    """
    first = torch.tensor([pair[0] for pair in targets])
    second = torch.tensor([pair[1] for pair in targets])
    wanted = torch.tensor(list(targets.values()), dtype=torch.float32)

    def energy(position: Tensor) -> Tensor:
        apart = (position[:, first] - position[:, second]).square().sum(-1).add(1e-12).sqrt()
        return 0.5 * stiffness * (apart - wanted.to(position)).square().sum(-1)

    return energy


def check_targets(targets: Mapping[tuple[int, int], float], atoms: int) -> None:
    """Raise DataError for target distances that a molecule of `atoms` atoms cannot have."""
    for pair, distance in targets.items():
        if len(pair) != 2 or pair[0] == pair[1] or not all(0 <= one < atoms for one in pair):
            raise DataError(
                f"target_distances must name two different atoms between 0 and {atoms - 1}, got "
                f"{pair}"
            )
        if not 0 < distance < float("inf"):
            raise DataError(f"the target distance of atoms {pair} must be positive: {distance}")


class FixedCore(Steering):
    """Hold atoms at given places, up to a rigid motion of the whole; see the module.

    Args:
        atoms: Numbers of the atoms, three or more that are not on a line to fix the orientation.
        places: (C, 3) their places in Angstrom.
    """

    def __init__(self, atoms: Sequence[int], places: Tensor) -> None:
        self.atoms = torch.as_tensor(list(atoms))
        self.places = places.to(torch.float32)

    def move(self, x0: Tensor, sigma: Tensor) -> Tensor:
        """See `Steering.move`; the core is exact at every level."""
        core = x0[:, self.atoms]
        moved = x0.clone()
        moved[:, self.atoms] = laid_onto(self.places.to(x0), core)
        return moved
