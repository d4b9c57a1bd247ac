"""Pairs of conformers from minima alone.

The start is what MMFF94 (Halgren, J. Comput. Chem. 17, 490, 1996) makes of each minimum. Where
the force field leaves the basin, the pair is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from rdkit import Chem, rdBase

from scidiffusion.errors import DataError
from scidiffusion.molecules.chem.embedding import relax_mmff
from scidiffusion.molecules.chem.ensembles import with_places
from scidiffusion.molecules.chem.figures import positions
from scidiffusion.molecules.chem.handedness import canonical, stereo_kept
from scidiffusion.molecules.conformer.pairs import ConformerPairs, heavy_rmsd, template
from scidiffusion.molecules.processes import mapper

MAX_RMSD = 0.6
"""Largest RMSD of the heavy atoms between start and minimum, in Angstrom."""
RELAX_STEPS = 2000


def pairs_of(mol: Chem.Mol) -> ConformerPairs | None:
    """Make pairs of the conformers of a molecule, each a minimum, by minimising it with MMFF94.

    Args:
        mol: A molecule with explicit hydrogens and n conformers; its stereo is that of the first.

    Returns:
        The pairs that are left, their energies unknown (NaN); None if MMFF94 does not know the
        molecule, or no pair is left.
    """
    seen = Chem.Mol(mol)
    with rdBase.BlockLogs():
        Chem.AssignStereochemistryFrom3D(seen, mol.GetConformers()[0].GetId())
    model = template(canonical(seen))
    order = seen.GetSubstructMatch(model, useChirality=True)
    if len(order) != model.GetNumAtoms():
        return None
    minima = with_places(model, positions(mol)[:, list(order)])
    starts = Chem.Mol(minima)
    _, converged, method = relax_mmff(starts, RELAX_STEPS)
    kept = converged & stereo_kept(minima) & stereo_kept(starts)
    before, after = positions(starts), positions(minima)
    chosen = [
        index
        for index in np.flatnonzero(kept)
        if heavy_rmsd(model, before[index], after[index]) <= MAX_RMSD
    ]
    if method != "MMFF94" or not chosen:
        return None
    return ConformerPairs(
        template(canonical(seen)),
        before[chosen].astype(np.float32),
        after[chosen].astype(np.float32),
        np.full(len(chosen), np.nan),
    )


def pairs_of_many(molecules: Iterable[Chem.Mol], *, workers: int = 1) -> Iterator[ConformerPairs]:
    """Yield the pairs of the molecules that have any; see `pairs_of`.

    Args:
        molecules: Molecules with conformers.
        workers: Number of processes.
    """
    with mapper(workers) as run:
        for pairs in run(pairs_of, molecules):
            if pairs is not None:
                yield pairs


def usable_pairs(X: Sequence[Chem.Mol | ConformerPairs]) -> list[ConformerPairs]:
    """What `fit` is given as pairs, without molecules that have none; see `pairs_of`.

    Raises:
        DataError: if something is neither a molecule with conformers nor pairs.
    """
    found = []
    for index, one in enumerate(X):
        if isinstance(one, ConformerPairs):
            pairs: ConformerPairs | None = one
        elif isinstance(one, Chem.Mol):
            if not one.GetNumConformers():
                raise DataError(
                    f"molecule {index} has no conformers to learn from; give molecules with 3D "
                    "coordinates, as an SDF file holds them"
                )
            pairs = pairs_of(one)
        else:
            raise DataError(
                f"molecule {index} is a {type(one).__name__}; fit learns from RDKit molecules "
                "with conformers, or from ConformerPairs"
            )
        if pairs is not None and len(pairs):
            found.append(pairs)
    return found
