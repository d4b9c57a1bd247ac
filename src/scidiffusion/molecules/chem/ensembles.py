"""Ensembles of conformers: distances between them, superposition, and a choice of few.

The distance is the root-mean-square deviation (RMSD) after the best rigid motion and the best
renumbering of equivalent atoms. The renumberings depend on the graph alone and are found once; of
the motion only the largest eigenvalue of a 4 x 4 matrix is needed, the root of a quartic that
Newton's method finds for all pairs at once (Theobald 2005, Acta Cryst. A61, 478).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rdkit import Chem, rdBase

from scidiffusion.errors import ConfigError, DataError
from scidiffusion.molecules.chem.figures import figures, heavy_graph, name_of, positions

__all__ = [
    "align",
    "farthest_points",
    "kabsch",
    "keep",
    "prune",
    "rigid_core",
    "rmsd_matrix",
]

Array = NDArray[np.float64]

BLOCK = 16_384
"""Superpositions that are computed at once: their matrices fit into the cache."""
SLOPE = 1e-4
"""Relative slope of the quartic at its root below which Newton's root is not precise enough."""
# Terminal O or N of a conjugated group, such as of a carboxylate: equivalent although one is
# written with a double bond. The pattern is that of RDKit's GetBestRMS.
CONJUGATED_END = "[O,N;D1;$([O,N;D1]-[*]=[O,N;D1]),$([O,N;D1]=[*]-[O,N;D1])]~[*]"


def rmsd_matrix(
    mol: Chem.Mol, other: Chem.Mol | None = None, *, heavy: bool = True, max_matches: int = 1000
) -> Array:
    """RMSD between conformers after the best rigid motion and renumbering of equivalent atoms.

    The same number as RDKit's `rdMolAlign.GetBestRMS` of the molecules without hydrogen:
    reflections are no rigid motions, atoms are equivalent by element, charge and bonds, and the
    ends of conjugated groups such as carboxylates are equivalent as well.

    Args:
        mol: A molecule with n conformers.
        other: The same molecule with m conformers, its atoms in any order; default `mol` itself.
        heavy: Leave hydrogen out. With hydrogen every methyl group multiplies the renumberings
            by six: `max_matches` is soon reached.
        max_matches: Renumberings that are tried at most, 1 or more. With more equivalent ones
            the result is an upper bound.

    Returns:
        (n, m) Angstrom. Without `other` symmetric, with zeros on the diagonal.

    Raises:
        DataError: if one of them has no conformer, or `other` is another molecule.
        ConfigError: if `max_matches` is below 1.
    """
    if max_matches < 1:
        raise ConfigError(f"max_matches must be 1 or more, got {max_matches}")
    mobile = heavy_graph(mol) if heavy else mol
    target = mobile if other is None else heavy_graph(other) if heavy else other
    ours, theirs = positions(mobile), positions(target)
    matches: Sequence[Sequence[int]] = ()
    if mobile.GetNumAtoms() == target.GetNumAtoms():
        with rdBase.BlockLogs():
            matches = target.GetSubstructMatches(
                _without_conjugation(mobile), uniquify=False, maxMatches=max_matches
            )
    if not matches:
        raise DataError(
            f"{name_of(mol)!r} and {name_of(target if other is None else other)!r} are different "
            "molecules; an RMSD needs the same atoms and bonds"
        )
    found = _best(ours, theirs, np.asarray(matches))
    if other is None:
        # With truncated renumberings a match may be listed and its inverse not.
        found = np.minimum(found, found.T)
        np.fill_diagonal(found, 0.0)
    return found


def _without_conjugation(mol: Chem.Mol) -> Chem.Mol:
    """The molecule as a query in which the ends of conjugated groups are equivalent."""
    matches = mol.GetSubstructMatches(Chem.MolFromSmarts(CONJUGATED_END))
    if not matches:
        return mol
    query = Chem.RWMol(mol)
    either = Chem.MolFromSmarts("*-,=*").GetBondWithIdx(0)
    for end, neighbour in matches:
        query.GetAtomWithIdx(end).SetFormalCharge(0)
        query.ReplaceBond(query.GetBondBetweenAtoms(end, neighbour).GetIdx(), either)
    return query.GetMol()


def _best(ours: Array, theirs: Array, matches: NDArray[np.int64]) -> Array:
    """(n, m) smallest RMSD over (P, N) renumberings of (n, N, 3) against (m, N, 3)."""
    ours = ours - ours.mean(1, keepdims=True)
    theirs = theirs - theirs.mean(1, keepdims=True)
    atoms = ours.shape[1]
    inner = (np.square(ours).sum((1, 2))[:, None] + np.square(theirs).sum((1, 2))[None]) / 2
    flat = np.ascontiguousarray(ours.transpose(2, 0, 1)).reshape(-1, atoms)
    largest = np.zeros_like(inner)
    size = max(1, BLOCK // max(1, inner.size))
    for start in range(0, len(matches), size):
        part = matches[start : start + size]
        moved = theirs[:, part].transpose(3, 2, 0, 1).reshape(3, atoms, -1)
        cross = np.stack([flat @ moved[axis] for axis in range(3)])
        cross = cross.reshape(3, 3, len(ours), len(theirs), len(part))
        np.maximum(largest, _largest_overlap(cross).max(-1), out=largest)
    return np.sqrt(np.maximum(inner - largest, 0.0) * 2 / atoms)


def _largest_overlap(cross: Array) -> Array:
    """Largest sum of scalar products that a rotation can reach, of (3, 3, ...) cross sums.

    It is the sum of the singular values, the least with the sign of the determinant, and the
    largest root of x^4 - 2 a x^2 - 8 det x + 2 tr(K^2) - a^2 with K = C' C and a = tr(K).
    """
    diagonal = [np.square(cross[:, i]).sum(0) for i in range(3)]
    beside = [(cross[:, i] * cross[:, j]).sum(0) for i, j in ((0, 1), (0, 2), (1, 2))]
    trace = sum(diagonal)
    # Scaled to trace 1, so that no threshold depends on the size of the molecule.
    scale = np.where(trace > 0, trace, 1.0)
    det = (
        cross[0, 0] * (cross[1, 1] * cross[2, 2] - cross[1, 2] * cross[2, 1])
        - cross[0, 1] * (cross[1, 0] * cross[2, 2] - cross[1, 2] * cross[2, 0])
        + cross[0, 2] * (cross[1, 0] * cross[2, 1] - cross[1, 1] * cross[2, 0])
    ) / (scale * np.sqrt(scale))
    squares = sum(map(np.square, diagonal)) + 2 * sum(map(np.square, beside))
    constant = 2 * squares / np.square(scale) - 1
    root = np.full_like(trace, np.sqrt(3.0))
    slope = np.empty_like(trace)
    for _ in range(30):
        square = root * root
        slope = 4 * root * (square - 1) - 8 * det
        step = (square * (square - 2) - 8 * det * root + constant) / np.maximum(slope, 1e-12)
        root -= step
        # Quadratic convergence: the next step would be below the rounding.
        if not (np.abs(step) > 1e-8)[slope > SLOPE].any():
            break
    root *= np.sqrt(trace)
    # Two roots that nearly meet (a linear molecule) leave half of the digits: settle by SVD.
    poor = slope < SLOPE
    if poor.any():
        matrices = np.moveaxis(cross[:, :, poor], -1, 0)
        singular = np.linalg.svd(matrices, compute_uv=False)
        singular[:, 2] *= np.where(det[poor] < 0, -1.0, 1.0)
        root[poor] = singular.sum(1)
    return root


def kabsch(
    mobile: ArrayLike, target: ArrayLike, weights: ArrayLike | None = None
) -> tuple[Array, Array]:
    """Rigid motions that bring sets of points closest to others (Kabsch 1976).

    Args:
        mobile: (B, N, 3) or (N, 3).
        target: (B, N, 3), or (N, 3) for all alike.
        weights: (N,) not negative, such as masses, or 1 for the atoms that count and 0 for the
            others; default all alike.

    Returns:
        `(rotation, translation)`, (B, 3, 3) and (B, 3), without B where neither has it:
        `mobile @ rotation.swapaxes(-1, -2) + translation[..., None, :]` lies on `target`. Every
        rotation is proper: mirror images stay mirror images.

    Raises:
        DataError: if the shapes do not fit, or the weights are negative or all zero.
    """
    moving, fixed = np.asarray(mobile, np.float64), np.asarray(target, np.float64)
    if moving.ndim not in (2, 3) or moving.shape[-2:] != fixed.shape[-2:] or moving.shape[-1] != 3:
        raise DataError(
            "superposition needs (B, N, 3) and (B, N, 3) or (N, 3) points, got "
            f"{moving.shape} and {fixed.shape}"
        )
    share = np.ones(moving.shape[-2]) if weights is None else np.asarray(weights, np.float64)
    if share.shape != (moving.shape[-2],) or (share < 0).any() or not share.sum() > 0:
        raise DataError(
            f"weights must be {moving.shape[-2]} numbers that are not negative nor all zero"
        )
    share = share[:, None] / share.sum()
    here = (share * moving).sum(-2, keepdims=True)
    there = (share * fixed).sum(-2, keepdims=True)
    cross = np.swapaxes(fixed - there, -1, -2) @ (share * (moving - here))
    left, _, right = np.linalg.svd(cross)
    proper = np.linalg.det(left) * np.linalg.det(right) > 0
    left[..., :, 2] *= np.where(proper, 1.0, -1.0)[..., None]
    rotation = left @ right
    translation = there - here @ np.swapaxes(rotation, -1, -2)
    return rotation, translation[..., 0, :]


def align(mol: Chem.Mol, core: Iterable[int] | None = None) -> Chem.Mol:
    """A copy whose conformers all lie on the first one, that turned into its principal axes.

    Args:
        mol: A molecule with n conformers.
        core: Numbers of the atoms that are laid on one another; default all but hydrogen.

    Returns:
        A copy; distances within a conformer, and its figures, are as they were.

    Raises:
        DataError: if there is no conformer, or an atom of the core does not exist.
    """
    points = positions(mol)
    atoms = mol.GetNumAtoms()
    if core is None:
        chosen = [a.GetIdx() for a in mol.GetAtoms() if a.GetAtomicNum() > 1] or list(range(atoms))
    else:
        chosen = sorted(set(core))
        if not chosen or chosen[0] < 0 or chosen[-1] >= atoms:
            raise DataError(
                f"the core {chosen} must name atoms of {name_of(mol)!r}, numbered from 0 to "
                f"{atoms - 1}"
            )
    weights = np.zeros(atoms)
    weights[chosen] = 1.0
    first = points[0] - points[0, chosen].mean(0)
    axes = np.linalg.svd(first[chosen], full_matrices=True)[2]
    axes[2] *= np.sign(np.linalg.det(axes))
    rotation, translation = kabsch(points, first @ axes.T, weights)
    moved = points @ rotation.swapaxes(1, 2) + translation[:, None]
    copy = Chem.Mol(mol)
    for conformer, place in zip(copy.GetConformers(), moved, strict=True):
        conformer.SetPositions(np.ascontiguousarray(place))
    return copy


def rigid_core(mol: Chem.Mol) -> list[int] | None:
    """Atoms of the largest system of fused rings, None without one.

    Laid on one another there (`align`), the conformers of an ensemble are easiest to compare.
    """
    systems: list[set[int]] = []
    for ring in map(set, mol.GetRingInfo().AtomRings()):
        apart = [system for system in systems if len(system & ring) < 2]
        systems = [*apart, ring.union(*(system for system in systems if system not in apart))]
    largest = max(systems, key=len, default=set())
    return sorted(largest) if len(largest) >= 3 else None


def farthest_points(rmsd: ArrayLike, n: int, first: int = 0) -> list[int]:
    """Choose few that are far from one another: always the one farthest from those chosen.

    Args:
        rmsd: (m, m) distances.
        n: How many to choose, 1 or more; all where there are no more.
        first: The one to begin with, such as that of the lowest energy.

    Returns:
        Indices in the order of choice; the first of equals is taken.

    Raises:
        DataError: if the distances are no square matrix of finite numbers.
        ConfigError: if `n` is below 1, or `first` is not among them.
    """
    distances = np.asarray(rmsd, np.float64)
    if distances.ndim != 2 or distances.shape[0] != distances.shape[1]:
        raise DataError(f"distances must be a square matrix, got shape {distances.shape}")
    if not np.isfinite(distances).all():
        raise DataError("distances must be finite numbers")
    if n < 1:
        raise ConfigError(f"n must be 1 or more, got {n}")
    if not 0 <= first < len(distances):
        raise ConfigError(f"first must lie between 0 and {len(distances) - 1}, got {first}")
    chosen = [first]
    nearest = distances[first].copy()
    nearest[first] = -np.inf
    while len(chosen) < min(n, len(distances)):
        following = int(nearest.argmax())
        chosen.append(following)
        np.minimum(nearest, distances[following], out=nearest)
        nearest[following] = -np.inf
    return chosen


def prune(
    mol: Chem.Mol,
    threshold: float,
    energies: ArrayLike | None = None,
    *,
    rmsd: ArrayLike | None = None,
) -> list[int]:
    """Ids of conformers that differ from one another, each the lowest in energy of its kind.

    Args:
        mol: A molecule with n conformers.
        threshold: Conformers nearer than this, in Angstrom, count as the same; 0 or more.
        energies: (n,) kcal/mol, NaN last; default those the conformers carry, and their order
            where one carries none.
        rmsd: (n, n) distances, if they are known already.

    Returns:
        Ids, by rising energy: a conformer is kept if none before it is nearer than `threshold`.

    Raises:
        DataError: if there is no conformer, or an array does not fit.
        ConfigError: if the threshold is negative or not a number.
    """
    if not threshold >= 0:
        raise ConfigError(f"the RMSD threshold must be 0 or more, in Angstrom, got {threshold}")
    distances = rmsd_matrix(mol) if rmsd is None else np.asarray(rmsd, np.float64)
    ids = [conformer.GetId() for conformer in mol.GetConformers()]
    carried = [known.energy for known in figures(mol)]
    if energies is not None:
        values = np.asarray(energies, np.float64)
    elif any(energy is None for energy in carried):
        values = np.zeros(len(ids))
    else:
        values = np.asarray(carried, np.float64)
    if values.shape != (len(ids),) or distances.shape != (len(ids), len(ids)):
        raise DataError(
            f"{len(ids)} conformers of {name_of(mol)!r} need as many energies and a square matrix "
            f"of distances, got shapes {values.shape} and {distances.shape}"
        )
    kept: list[int] = []
    for candidate in np.argsort(values, kind="stable"):
        if not (distances[candidate, kept] < threshold).any():
            kept.append(int(candidate))
    return [ids[index] for index in kept]


def with_places(mol: Chem.Mol, places: ArrayLike) -> Chem.Mol:
    """A copy whose conformers have these places alone, (n, N, 3) or (N, 3) in Angstrom."""
    copy = Chem.Mol(mol)
    copy.RemoveAllConformers()
    for place in np.asarray(places, np.float64).reshape(-1, mol.GetNumAtoms(), 3):
        conformer = Chem.Conformer(mol.GetNumAtoms())
        conformer.SetPositions(np.ascontiguousarray(place))
        copy.AddConformer(conformer, assignId=True)
    return copy


def keep(mol: Chem.Mol, ids: Sequence[int]) -> Chem.Mol:
    """A copy with the conformers of these ids alone, in this order, numbered from 0.

    Raises:
        DataError: if there is no conformer of such an id.
    """
    known = {conformer.GetId(): conformer for conformer in mol.GetConformers()}
    for number in ids:
        if number not in known:
            raise DataError(f"{name_of(mol)!r} has no conformer with id {number}")
    copy = Chem.Mol(mol)
    copy.RemoveAllConformers()
    for number in ids:
        copy.AddConformer(Chem.Conformer(known[number]), assignId=True)
    return copy
