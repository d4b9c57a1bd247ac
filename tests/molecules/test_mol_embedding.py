"""Starting geometries, and the checks of conformers."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rdkit")

from rdkit import Chem

from scidiffusion.errors import DataError, ScidiffusionWarning
from scidiffusion.molecules.chem.embedding import embed, lay_on, relax_mmff
from scidiffusion.molecules.chem.figures import positions
from scidiffusion.molecules.chem.handedness import stereo_kept
from scidiffusion.molecules.chem.smiles import read_smiles


def relaxed(smiles: str, n: int = 2, seed: int = 0) -> Chem.Mol:
    mol = embed(read_smiles(smiles), n, seed=seed)
    relax_mmff(mol)
    return mol


@pytest.mark.parametrize("seed", [0, 1])
def test_geometries_differ_among_themselves_and_repeat_with_the_seed(seed):
    mol = read_smiles("CCCCO")
    first, again = (positions(embed(mol, 3, seed=seed)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first[0] - first[1]).max() > 0.1


@pytest.mark.parametrize("smiles", ["C[C@H](N)C(=O)O", "C/C=C\\CCl", "C1CC[C@@H]2CCCC[C@H]2C1"])
def test_embedding_keeps_stereo(smiles):
    mol = embed(read_smiles(smiles), 5, seed=2)
    assert mol.GetNumConformers() == 5
    assert stereo_kept(mol).all()


def test_a_macrocycle_and_a_cage_can_be_embedded():
    for smiles in ("C1CCCCCCCCCCCCCC1", "C12C3C4C1C5C2C3C45"):
        assert embed(read_smiles(smiles), 2, seed=0).GetNumConformers() == 2


def test_what_cannot_exist_is_an_error():
    # A trans double bond in a ring of six.
    mol = read_smiles("C1CC/C=C/C1")
    if not any(bond.GetStereo() > Chem.BondStereo.STEREOANY for bond in mol.GetBonds()):
        bond = next(b for b in mol.GetBonds() if b.GetBondType() == Chem.BondType.DOUBLE)
        first = min(
            a.GetIdx()
            for a in bond.GetBeginAtom().GetNeighbors()
            if a.IsInRing() and a.GetIdx() != bond.GetEndAtomIdx()
        )
        last = min(
            a.GetIdx()
            for a in bond.GetEndAtom().GetNeighbors()
            if a.IsInRing() and a.GetIdx() != bond.GetBeginAtomIdx()
        )
        bond.SetStereoAtoms(first, last)
        bond.SetStereo(Chem.BondStereo.STEREOTRANS)
    with pytest.raises(DataError, match="no 3D geometry"):
        embed(mol, 1, seed=0)


def test_no_time_is_said():
    with pytest.raises(DataError, match="time_limit"):
        embed(read_smiles("CCO"), 1, seed=0, time_limit=1e-9)


def test_a_core_is_laid_where_it_was_asked_for():
    mol = relaxed("CCCCO", 1)
    core = {atom: tuple(positions(mol)[0, atom] + 7.0) for atom in (0, 1, 2, 3)}
    made = embed(read_smiles("CCCCO"), 3, seed=4, fixed_core=core)
    for atom, place in core.items():
        np.testing.assert_allclose(positions(made)[:, atom], np.broadcast_to(place, (3, 3)))
    before = positions(made)[:, 0].copy()
    relax_mmff(made, fixed=sorted(core))
    np.testing.assert_allclose(positions(made)[:, 0], before, atol=1e-6)


def test_laying_on_is_a_rigid_motion():
    mol = relaxed("CCCCO", 1)
    target = positions(mol)[0] @ np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]) + 2.0
    copy = Chem.Mol(mol)
    lay_on(copy, {atom: target[atom] for atom in (0, 1, 2)})
    np.testing.assert_allclose(positions(copy)[0], target, atol=1e-6)


def test_relaxation_lowers_the_energy_to_a_minimum():
    mol = embed(read_smiles("CCCO"), 3, seed=1)
    before, _, _ = relax_mmff(Chem.Mol(mol), 0)
    energies, converged, method = relax_mmff(mol, 2000)
    assert method == "MMFF94"
    assert converged.all()
    assert (energies < before).all()


def test_fewer_than_asked_is_said(monkeypatch):
    from scidiffusion.molecules.chem import embedding

    monkeypatch.setattr(embedding, "ROUNDS", 1)
    monkeypatch.setattr(embedding, "WAYS", ("etkdg",))
    monkeypatch.setattr(
        embedding, "stereo_kept", lambda mol: np.arange(mol.GetNumConformers()) == 0
    )
    with pytest.warns(ScidiffusionWarning, match="1 of 4 starting geometries"):
        embed(read_smiles("CCO"), 4, seed=0)
