"""What is drawn before the diffusion: how many atoms of each element a new molecule has.

EDM draws the number of atoms from the training molecules. Here the composition is drawn, which
says the number of atoms too: a model that knows how many hydrogens there are need not find out on
the way. Where a label is asked for, training molecules count the more the nearer their own label
is, so that size and composition fit what is asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rdkit import Chem

from scidiffusion.errors import ConditionError, ConfigError
from scidiffusion.molecules.denovo.reading import symbol

ATOMS, FORMULA = "atoms", "formula"
"""Conditions that every model knows; the others are its labels."""
WIDTH = 0.1
"""Width, in standard deviations, of the window of labels that compositions are drawn from."""
MARGIN = 0.25
"""How far beyond the training labels, in standard deviations, may be asked for."""


@dataclass(frozen=True)
class Plan:
    """What is asked for of n molecules.

    Args:
        composition: (n, K) atoms of each element.
        labels: (n, L) standardised labels, NaN where not asked for.
    """

    composition: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Population:
    """The compositions and labels of the training molecules.

    Args:
        elements: (K,) rising atomic numbers.
        composition: (M, K) atoms of each element.
        names: Names of the labels.
        labels: (M, L) standardised.
        mean: (L,) mean of each label.
        std: (L,) standard deviation of each label.
    """

    elements: np.ndarray
    composition: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(
        cls,
        elements: np.ndarray,
        composition: np.ndarray,
        names: Sequence[str],
        labels: np.ndarray,
    ) -> Population:
        """Learn from compositions (M, K) and labels (M, L) in their own units."""
        mean, std = labels.mean(0), labels.std(0)
        # A label that never varies says nothing; it must not divide by zero.
        std = np.where(std > 1e-12 * (1 + np.abs(mean)), std, 1.0)
        return cls(elements, composition, tuple(names), (labels - mean) / std, mean, std)

    @property
    def counts(self) -> np.ndarray:
        """(M,) numbers of atoms."""
        return np.asarray(self.composition.sum(1))

    def log_size(self, counts: np.ndarray) -> np.ndarray:
        """Log-probability of numbers of atoms, each seen once more than it was, in nats."""
        most = max(int(self.counts.max()), int(counts.max()))
        seen = np.bincount(self.counts, minlength=most + 1)[1:] + 1.0
        return np.asarray(np.log(seen / seen.sum())[counts - 1])

    def plan(
        self,
        n: int,
        conditions: Mapping[str, Any] | None,
        rng: np.random.Generator,
        core: np.ndarray | None = None,
    ) -> Plan:
        """Draw what n molecules are to be.

        Args:
            n: Number of molecules.
            conditions: "atoms", "formula" or a label -> one value or n of them.
            rng: Source of the draw.
            core: (K,) atoms of each element of a scaffold, which the molecules contain.

        Raises:
            ConditionError: if a condition is unknown, or nothing that was learned fits it.
            ConfigError: if the scaffold is too big.
        """
        conditions = dict(conditions or {})
        self._check_names(conditions)
        labels = np.full((n, len(self.names)), np.nan)
        for place, name in enumerate(self.names):
            if name in conditions:
                labels[:, place] = self._label(place, conditions[name], n)
        if FORMULA in conditions:
            if ATOMS in conditions:
                raise ConditionError("give the formula or the number of atoms, not both")
            composition = self._formulas(conditions[FORMULA], n)
            if core is not None and (composition < core).any():
                raise ConfigError("the scaffold has atoms that the formula asked for lacks")
            return Plan(composition, labels)
        allowed = np.ones(len(self.composition), dtype=bool)
        if core is not None:
            allowed = (self.composition >= core).all(1) & (self.counts > core.sum())
            if not allowed.any():
                raise ConfigError(
                    f"the scaffold of {int(core.sum())} atoms is too big: no molecule that was "
                    "learned from has its atoms and others beside"
                )
        asked = _repeated(conditions.get(ATOMS), n, ATOMS)
        rows = np.empty(n, dtype=np.int64)
        for index in range(n):
            weight = allowed.astype(float)
            if asked is not None:
                weight = weight * self._of_size(asked[index])
            weight = self._near(weight, labels[index])
            if not weight.sum():
                raise ConfigError(
                    "no molecule that was learned from has the number of atoms asked for and "
                    "contains the scaffold; ask for another number"
                )
            rows[index] = np.searchsorted(np.cumsum(weight), rng.random() * weight.sum(), "right")
        return Plan(self.composition[rows.clip(max=len(self.composition) - 1)], labels)

    def _check_names(self, conditions: Mapping[str, Any]) -> None:
        known = (ATOMS, FORMULA, *self.names)
        for name in conditions:
            if name not in known:
                raise ConditionError(
                    f"there is no condition {name!r}; this model knows {', '.join(known)}"
                )

    def _label(self, place: int, value: Any, n: int) -> np.ndarray:
        name = self.names[place]
        given = _repeated(value, n, name)
        assert given is not None
        scaled = (given - self.mean[place]) / self.std[place]
        low, high = self.labels[:, place].min(), self.labels[:, place].max()
        beyond = (scaled < low - MARGIN) | (scaled > high + MARGIN)
        if beyond.any():
            ends = self.mean[place] + self.std[place] * np.array([low, high])
            raise ConditionError(
                f"{name!r} of {given[beyond][0]:g} lies outside what was learned, from "
                f"{ends[0]:g} to {ends[1]:g}"
            )
        return np.asarray(scaled)

    def _of_size(self, asked: float) -> np.ndarray:
        fits = self.counts == asked
        if not fits.any():
            raise ConditionError(
                f"no molecule of {asked:g} atoms was learned from; they have from "
                f"{self.counts.min()} to {self.counts.max()}"
            )
        return fits

    def _near(self, weight: np.ndarray, labels: np.ndarray) -> np.ndarray:
        wanted = ~np.isnan(labels)
        if not wanted.any() or not weight.any():
            return weight
        distance = np.square(self.labels[:, wanted] - labels[wanted]).sum(1)
        # Measured from the nearest: where labels are sparse, it alone counts.
        distance = distance - distance[weight > 0].min()
        return np.asarray(weight * np.exp(-0.5 * np.maximum(distance, 0) / WIDTH**2))

    def _formulas(self, value: Any, n: int) -> np.ndarray:
        texts = [value] * n if isinstance(value, str) else list(value)
        if len(texts) != n:
            raise ConditionError(f"{len(texts)} formulas for {n} molecules; give one, or {n}")
        table = np.array([parse_formula(text, self.elements) for text in texts])
        for text, size in zip(texts, table.sum(1), strict=True):
            if size < 2 or size > 2 * self.counts.max():
                raise ConditionError(
                    f"{text} has {size} atoms; the model learned from molecules of "
                    f"{self.counts.min()} to {self.counts.max()} atoms"
                )
        return table


def parse_formula(text: str, elements: np.ndarray) -> np.ndarray:
    """Return the atoms of each element of a formula such as "C6H6O", (K,).

    Raises:
        ConditionError: if it is no formula, or has an element that is not among them.
    """
    if not isinstance(text, str) or not re.fullmatch(r"([A-Z][a-z]?\d*)+", text.strip()):
        raise ConditionError(f"{text!r} is no formula; write it as C6H6O")
    counts = np.zeros(len(elements), dtype=np.int64)
    symbols = [symbol(number) for number in elements]
    for name, digits in re.findall(r"([A-Z][a-z]?)(\d*)", text):
        if name not in symbols:
            raise ConditionError(
                f"the formula {text} has {name}, which the model has not seen; it knows "
                f"{', '.join(symbols)}"
            )
        counts[symbols.index(name)] += int(digits or 1)
    return counts


def formula(mol: Chem.Mol, elements: np.ndarray) -> np.ndarray:
    """Return the atoms of each element of a molecule, (K,); all must be among the elements.

    Raises:
        ConfigError: if one is not.
    """
    counts = np.zeros(len(elements), dtype=np.int64)
    for atom in mol.GetAtoms():
        place = np.flatnonzero(elements == atom.GetAtomicNum())
        if not len(place):
            raise ConfigError(
                f"the scaffold has an atom of {atom.GetSymbol()}, an element that the model has "
                f"not seen; it knows {', '.join(map(symbol, elements))}"
            )
        counts[place[0]] += 1
    return counts


def _repeated(value: Any, n: int, name: str) -> np.ndarray | None:
    """A condition as n numbers."""
    if value is None:
        return None
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ConditionError(f"{name!r} must be a number or {n} of them, got {value!r}") from None
    if numbers.ndim > 1 or (numbers.ndim == 1 and len(numbers) != n):
        raise ConditionError(f"{name!r} has shape {numbers.shape}; give one number, or {n}")
    if not np.isfinite(numbers).all():
        raise ConditionError(f"{name!r} is NaN or infinite; leave out what is not asked for")
    return np.broadcast_to(numbers, (n,)).copy()
