r"""Bond orders from distances, with the tables of EDM (Hoogeboom et al. 2022, appendix C).

A pair of atoms is bonded when it is nearer than the length of a single bond plus 10 pm, the bond
is double below the length of a double bond plus 5 pm, and triple below that of a triple bond plus
3 pm. An atom is stable when its orders add up to a valence that its element has, a molecule when
all its atoms are. Pairs without an entry are bonded as their covalent radii say.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from rdkit import Chem
from torch import Tensor

SINGLE, DOUBLE, TRIPLE = 1, 2, 3
MARGINS = {SINGLE: 0.10, DOUBLE: 0.05, TRIPLE: 0.03}
"""What a bond may be longer than its length in the table, in Angstrom."""
ELEMENTS = 87
"""Atomic numbers below this one have a row in the tables."""

_LENGTHS: dict[int, dict[str, dict[str, int]]] = {
    SINGLE: {
        "H": {
            "H": 74,
            "B": 119,
            "C": 109,
            "N": 101,
            "O": 96,
            "F": 92,
            "Si": 148,
            "P": 144,
            "S": 134,
            "Cl": 127,
            "Br": 141,
            "I": 161,
        },
        "C": {
            "C": 154,
            "N": 147,
            "O": 143,
            "F": 135,
            "Si": 185,
            "P": 184,
            "S": 182,
            "Cl": 177,
            "Br": 194,
            "I": 214,
        },
        "N": {"N": 145, "O": 140, "F": 136, "P": 177, "S": 168, "Cl": 175, "Br": 214, "I": 222},
        "O": {
            "O": 148,
            "F": 142,
            "Si": 163,
            "P": 163,
            "S": 151,
            "Cl": 164,
            "Br": 172,
            "I": 194,
        },
        "F": {"F": 142, "Si": 160, "P": 156, "S": 158, "Cl": 166, "Br": 178, "I": 187},
        "Si": {"Si": 233, "S": 200, "Cl": 202, "Br": 215, "I": 243},
        "P": {"P": 221, "S": 210, "Cl": 203, "Br": 222},
        "S": {"S": 204, "Cl": 207, "Br": 225, "I": 234},
        "Cl": {"Cl": 199, "Br": 214, "I": 232},
        "Br": {"Br": 228, "I": 247},
        "I": {"I": 267},
    },
    DOUBLE: {
        "C": {"C": 134, "N": 129, "O": 120, "S": 160},
        "N": {"N": 125, "O": 121},
        "O": {"O": 121, "P": 150},
        "P": {"S": 186},
    },
    TRIPLE: {"C": {"C": 120, "N": 116, "O": 113}, "N": {"N": 110}},
}
VALENCES: dict[int, frozenset[int]] = {
    number: frozenset(valences)
    for number, valences in {
        1: {1},
        5: {3},
        6: {4},
        7: {3},
        8: {2},
        9: {1},
        14: {4},
        15: {3, 5},
        16: {2, 4, 6},
        17: {1},
        35: {1},
        53: {1},
    }.items()
}
"""Valences of a stable atom; elements that are not here count as stable with any."""


@functools.lru_cache(maxsize=1)
def _limits() -> Tensor:
    """(3, ELEMENTS, ELEMENTS) distance in Angstrom below which the order holds; 0 is never."""
    table = Chem.GetPeriodicTable()
    radii = np.array([0.0] + [table.GetRcovalent(number) for number in range(1, ELEMENTS)])
    limits = np.zeros((3, ELEMENTS, ELEMENTS))
    limits[0, 1:, 1:] = radii[1:, None] + radii[None, 1:] + MARGINS[SINGLE]
    for order, rows in _LENGTHS.items():
        for first, row in rows.items():
            for last, length in row.items():
                pair = table.GetAtomicNumber(first), table.GetAtomicNumber(last)
                limits[order - 1, pair[0], pair[1]] = length / 100 + MARGINS[order]
                limits[order - 1, pair[1], pair[0]] = length / 100 + MARGINS[order]
    return torch.from_numpy(limits)


def bond_orders(numbers: Tensor, positions: Tensor) -> Tensor:
    """Return the order of every pair, (..., N, N) long, 0 on the diagonal and where there is none.

    Args:
        numbers: (..., N) long atomic numbers; 0 is padding.
        positions: (..., N, 3) in Angstrom.
    """
    limits = _limits().to(positions.device, positions.dtype)
    within = limits[:, numbers[..., :, None], numbers[..., None, :]].movedim(0, -1)
    difference = positions[..., :, None, :] - positions[..., None, :, :]
    distance = difference.square().sum(-1).sqrt()
    single, double, triple = (distance[..., None] < within).unbind(-1)
    # Shorter bonds count as higher only where they count as bonds at all.
    orders = single.long() + (single & double).long() + (single & double & triple).long()
    return orders * ~torch.eye(orders.shape[-1], dtype=torch.bool, device=orders.device)


def stable_atoms(numbers: Tensor, orders: Tensor) -> Tensor:
    """Whether each atom has a valence of its element, (..., N) bool; padding counts as stable.

    Args:
        numbers: (..., N) long atomic numbers.
        orders: (..., N, N) as of `bond_orders`.
    """
    valence = orders.sum(-1)
    stable = torch.ones_like(numbers, dtype=torch.bool)
    for number, allowed in VALENCES.items():
        good = torch.zeros_like(stable)
        for value in allowed:
            good |= valence == value
        stable = torch.where(numbers == number, good, stable)
    return stable
