r"""Toy backbones: chains of rigid frames, their C-alpha geometry, and a network on frames.

A residue of a protein is nearly rigid, so a backbone is a chain of frames: a place x_i (the
C-alpha atom) and a rotation R_i (RFdiffusion, Watson et al. 2023; FrameDiff, Yim et al. 2023). In
an ideal helix or strand one and the same screw motion leads from each residue to the next: a turn
by w about an axis and a shift by h along it, at the distance r from the axis. With the chord
c = 2 r sin(w / 2), virtual bonds b_k = (c e(k w), h) and d^2 = c^2 + h^2,

    distance of neighbours         d
    angle at a residue             pi - arccos((c^2 cos w + h^2) / d^2)
    cosine of the dihedral angle   (c^2 sin^2 w + 4 h^2 sin^2(w / 2) cos w)
                                   / (c^2 sin^2 w + 4 h^2 sin^2(w / 2)),

and the dihedral angle has the sign of w (the hand of the screw).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from scidiffusion.core import KeyedNoise, remove_mean
from scidiffusion.core.rotations import exp_so3, uniform_rotation
from scidiffusion.errors import ConfigError, DataError
from scidiffusion.estimator import check_seed
from scidiffusion.nn import ResidualMLP

F64 = torch.float64


@dataclass(frozen=True)
class Screw:
    """An ideal secondary structure.

    Args:
        radius: Distance of C-alpha atoms from the axis, in Angstrom.
        rise: Shift along the axis a residue, in Angstrom.
        turn: Turn about the axis a residue, in degrees; positive is right-handed.
    """

    radius: float
    rise: float
    turn: float


HELIX = Screw(radius=2.3, rise=1.5, turn=100.0)
"""The alpha helix: 3.6 residues a turn, 5.4 Angstrom pitch (Pauling, Corey & Branson 1951)."""
STRAND = Screw(radius=0.93, rise=3.32, turn=-170.0)
"""A strand with the usual twist: seen along it, a pair of residues turns by 20 degrees."""


class Backbones(NamedTuple):
    """Chains of frames."""

    place: Tensor
    """(B, N, 3) C-alpha atoms in Angstrom, each chain centred."""
    turn: Tensor
    """(B, N, 3, 3) rotations: columns point away from the axis, along the circle, along it."""
    kind: Tensor
    """(B,) index of the screw of each chain."""


class CalphaGeometry(NamedTuple):
    """What C-alpha atoms alone say about the shape of a backbone."""

    distance: Tensor
    """(B, N - 1) between neighbours, in the units of the places."""
    angle: Tensor
    """(B, N - 2) at a residue, between its neighbours, in radians, in [0, pi]."""
    dihedral: Tensor
    """(B, N - 3) of four residues in a row, in radians, in [-pi, pi] (IUPAC's sign)."""


def ideal_backbones(
    n: int,
    residues: int = 8,
    *,
    screws: tuple[Screw, ...] = (HELIX, STRAND),
    wobble: float = 0.15,
    random_state: int | None = 0,
) -> Backbones:
    """Draw ideal chains in random orientations, every frame with a little thermal motion.

    Args:
        n: Number of chains.
        residues: Residues of a chain, >= 2.
        screws: The structures, equally probable.
        wobble: Standard deviation of every place, in Angstrom, and of every rotation vector, in
            radians (small: a Gaussian of the rotation vector).
        random_state: Seed.

    Returns:
        Chains, float64.

    Raises:
        ConfigError: if a chain has fewer than two residues, there is no screw or `wobble` is
            negative.
    """
    if residues < 2 or not screws or not wobble >= 0:
        raise ConfigError(
            "chains need two or more residues, at least one screw and a wobble >= 0, got "
            f"{residues}, {screws} and {wobble}"
        )
    noise = KeyedNoise(check_seed(random_state))
    kind = (noise.uniform(torch.empty(n, dtype=F64)) * len(screws)).long()
    radius, rise, degrees = torch.tensor(
        [(one.radius, one.rise, one.turn) for one in screws], dtype=F64
    ).T[:, kind]
    step = torch.arange(residues, dtype=F64)
    about = torch.deg2rad(degrees)[:, None] * step
    axis = torch.tensor([0.0, 0.0, 1.0], dtype=F64)
    turn = exp_so3(about[..., None] * axis)
    place = radius[:, None, None] * turn[..., 0] + (rise[:, None] * step)[..., None] * axis
    place = place + wobble * noise.child("place").normal(place)
    turn = turn @ exp_so3(wobble * noise.child("turn").normal(place))
    whole = uniform_rotation(turn[:, 0], noise.child("whole"))
    place = remove_mean(place @ whole.mT)
    return Backbones(place, whole[:, None] @ turn, kind)


def calpha_geometry(place: Tensor) -> CalphaGeometry:
    """Measure chains; see the module for what ideal ones give.

    Args:
        place: (B, N, 3), N >= 4.

    Raises:
        DataError: if the chains have another shape.
    """
    if place.ndim != 3 or place.shape[1] < 4 or place.shape[2] != 3:
        raise DataError(f"places must be (B, N >= 4, 3), got {tuple(place.shape)}")
    bond = place.diff(dim=1)
    before, after = bond[:, :-1], bond[:, 1:]
    normal = torch.linalg.cross(before, after)
    bend = torch.atan2(torch.linalg.vector_norm(normal, dim=-1), (before * after).sum(-1))
    middle = before[:, 1:]
    across = (middle * torch.linalg.cross(normal[:, :-1], normal[:, 1:])).sum(-1)
    along = torch.linalg.vector_norm(middle, dim=-1) * (normal[:, :-1] * normal[:, 1:]).sum(-1)
    return CalphaGeometry(
        torch.linalg.vector_norm(bond, dim=-1), torch.pi - bend, torch.atan2(across, along)
    )


class FrameNetwork(nn.Module):
    """Every residue looks at the whole chain from its own frame.

    What residue i sees of residue i + k, R_i^T (x_{i+k} - x_i) and R_i^T R_{i+k}, does not change
    when the chain is moved. A perceptron that is the same for all residues turns what there is at
    all k into a displacement and a rotation vector *in that frame*. The first is turned back into
    the common frame, the second is a body-frame score as it is (`scidiffusion.core.rotations`). So
    the answer turns with the chain without any training; mirror images, though, look different.

    Args:
        residues: Number N of residues, fixed.
        width: Width of the perceptron.
        blocks: Number of its residual blocks.
    """

    def __init__(self, residues: int, width: int = 128, blocks: int = 2) -> None:
        super().__init__()
        self.mlp = ResidualMLP(13 * (2 * residues - 1), 6, width=width, blocks=blocks)

    def forward(self, z: dict[str, Tensor], time: Tensor, cond: None = None) -> dict[str, Tensor]:
        """Answer for chains {"place": (B, N, 3), "turn": (B, N, 3, 3)} at times (B,).

        Returns:
            {"place": (B, N, 3) in the common frame, "turn": (B, N, 3) in the body frames}.
        """
        place, turn = z["place"], z["turn"]
        rows, residues = place.shape[:2]
        way = (place[:, None] - place[:, :, None]) @ turn
        relative = (turn.mT[:, :, None] @ turn[:, None]).flatten(3)
        view = torch.cat([way, relative, torch.ones_like(way[..., :1])], -1)
        index = torch.arange(residues, device=place.device)
        seen = view.new_zeros(rows, residues, 2 * residues - 1, 13)
        seen[:, index[:, None], index - index[:, None] + residues - 1] = view
        answer = self.mlp(seen.reshape(rows * residues, -1), time.repeat_interleave(residues))
        shift, score = answer.reshape(rows, residues, 6).split(3, -1)
        return {"place": (turn @ shift[..., None])[..., 0], "turn": score}
