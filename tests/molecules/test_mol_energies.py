"""Energies against RDKit's own and their derivatives; weights against the closed form."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

pytest.importorskip("rdkit")

from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from scidiffusion.errors import (
    ConfigError,
    DataError,
    MissingExtraError,
    ScidiffusionWarning,
)
from scidiffusion.molecules.chem import energies as module
from scidiffusion.molecules.chem.energies import (
    GAS_CONSTANT,
    KCAL_PER_HARTREE,
    boltzmann_weights,
    force_field_energies,
    gfn2_energies,
    mmff_energies,
    uff_energies,
)
from scidiffusion.molecules.chem.figures import positions


def embedded(smiles: str, count: int = 3) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    mol.SetProp("smiles", smiles)
    assert len(rdDistGeom.EmbedMultipleConfs(mol, count, randomSeed=11)) == count
    return mol


def placed(smiles: str, points: list[list[float]]) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    conformer = Chem.Conformer(mol.GetNumAtoms())
    conformer.SetPositions(np.array(points, dtype=float))
    mol.AddConformer(conformer)
    return mol


def test_constants():
    assert pytest.approx(1.987204e-3, rel=1e-6) == GAS_CONSTANT
    assert pytest.approx(627.509474, rel=1e-8) == KCAL_PER_HARTREE


def test_mmff_is_that_of_rdkit():
    mol = embedded("CC(=O)Nc1ccc(O)cc1")
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
    expected = [
        rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties, confId=i).CalcEnergy()
        for i in range(3)
    ]
    np.testing.assert_allclose(mmff_energies(mol), expected, rtol=1e-10)
    energies, method = force_field_energies(mol)
    np.testing.assert_array_equal(energies, mmff_energies(mol))
    assert method == "MMFF94"


def test_uff_is_that_of_rdkit():
    mol = embedded("CCO")
    expected = [
        rdForceFieldHelpers.UFFGetMoleculeForceField(mol, vdwThresh=1e6, confId=i).CalcEnergy()
        for i in range(3)
    ]
    np.testing.assert_allclose(uff_energies(mol), expected, rtol=1e-10)


def test_energies_do_not_depend_on_the_other_conformers():
    mol = embedded("OCC(F)CN")
    alone = Chem.Mol(mol, confId=2)
    for function in (mmff_energies, uff_energies):
        assert function(alone)[0] == function(mol)[2]


def test_fragments_feel_each_other():
    def pair(gap: float) -> Chem.Mol:
        return placed("[Na+].[Cl-]", [[0, 0, 0], [gap, 0, 0]])

    assert mmff_energies(pair(3.0))[0] < mmff_energies(pair(6.0))[0] - 20


def test_without_parameters_nothing_is_made_up():
    boron = embedded("OB(O)c1ccccc1", 2)
    with pytest.warns(ScidiffusionWarning, match=r"MMFF94 has no parameters for 'OB\(O\)") as seen:
        assert np.isnan(mmff_energies(boron)).all()
    assert len(seen) == 1
    energies, method = force_field_energies(boron)
    assert method == "UFF"
    np.testing.assert_array_equal(energies, uff_energies(boron))
    helium = placed("[He]", [[0, 0, 0]])
    with pytest.raises(DataError, match="neither MMFF94 nor UFF"):
        force_field_energies(helium)
    with pytest.warns(ScidiffusionWarning, match="UFF has no parameters"):
        assert np.isnan(uff_energies(helium)).all()


@pytest.mark.parametrize("function", [mmff_energies, uff_energies, force_field_energies])
def test_what_has_no_energy_is_refused(function):
    with pytest.raises(DataError, match="no conformer"):
        function(Chem.MolFromSmiles("CCO"))
    with pytest.raises(DataError, match="implicit hydrogen"):
        function(Chem.RemoveHs(embedded("CCO", 1)))


def test_gfn2_of_hydrogen_and_water():
    pytest.importorskip("tblite")
    # `xtb h.xyz --gfn 2` and `xtb w.xyz --gfn 2`, version 6.5.1, in hartree.
    hydrogen = placed("[H][H]", [[0, 0, 0], [0.7764, 0, 0]])
    assert gfn2_energies(hydrogen)[0] / KCAL_PER_HARTREE == pytest.approx(-0.982686132, abs=1e-6)
    water = placed("O", [[0, 0, 0.1136], [0, 0.7720, -0.4544], [0, -0.7720, -0.4544]])
    assert gfn2_energies(water)[0] / KCAL_PER_HARTREE == pytest.approx(-5.070543364, abs=1e-6)


@pytest.mark.parametrize("smiles", ["NC=O", "C[NH3+]", "[CH3]"])
def test_gfn2_gradient_is_the_derivative(smiles):
    pytest.importorskip("tblite")
    mol = embedded(smiles, 1)
    energies, gradients = gfn2_energies(mol, gradient=True, accuracy=0.01)
    assert energies.shape == (1,)
    assert gradients.shape == (1, mol.GetNumAtoms(), 3)
    np.testing.assert_allclose(gradients.sum(1), 0.0, atol=1e-3)
    points, step = positions(mol)[0], 2e-3
    for atom, axis in ((0, 0), (1, 2)):
        sides = []
        for sign in (1, -1):
            moved = points.copy()
            moved[atom, axis] += sign * step
            mol.GetConformer().SetPositions(moved)
            sides.append(gfn2_energies(mol, accuracy=0.01)[0])
        slope = (sides[0] - sides[1]) / (2 * step)
        assert gradients[0, atom, axis] == pytest.approx(slope, abs=0.02)


def test_a_failed_iteration_is_nan_and_named(monkeypatch):
    interface = pytest.importorskip("tblite.interface")
    exceptions = pytest.importorskip("tblite.exceptions")
    mol = embedded("CCO")
    expected = gfn2_energies(mol)
    original, calls = interface.Calculator.singlepoint, []

    def singlepoint(self, *args, **options):
        calls.append(self)
        if len(calls) == 2:
            raise exceptions.TBLiteRuntimeError("SCF not converged")
        return original(self, *args, **options)

    monkeypatch.setattr(interface.Calculator, "singlepoint", singlepoint)
    with pytest.warns(ScidiffusionWarning, match=r"1 of 3 conformers of 'CCO' \(indices 1\)"):
        energies, gradients = gfn2_energies(mol, gradient=True)
    np.testing.assert_array_equal(np.isnan(energies), [False, True, False])
    np.testing.assert_array_equal(np.isnan(gradients).all((1, 2)), [False, True, False])
    np.testing.assert_array_equal(energies[[0, 2]], expected[[0, 2]])


def test_gfn2_refuses_before_it_computes():
    pytest.importorskip("tblite")
    uranium = placed("[U]", [[0, 0, 0]])
    with pytest.raises(DataError, match=r"atom 0 \(U\)"):
        gfn2_energies(uranium)
    with pytest.raises(ConfigError, match="accuracy"):
        gfn2_energies(embedded("C", 1), accuracy=0.0)


def test_without_tblite_the_extra_is_named(monkeypatch):
    def require(name: str, extra: str) -> None:
        assert name.startswith("tblite")
        raise MissingExtraError(f'pip install "scidiffusion[{extra}]"')

    monkeypatch.setattr(module, "require", require)
    with pytest.raises(MissingExtraError, match=r"scidiffusion\[gfn2\]"):
        gfn2_energies(embedded("C", 1))


def test_weights_of_two_states():
    gap = GAS_CONSTANT * 300.0 * np.log(3.0)
    np.testing.assert_allclose(boltzmann_weights([0.0, gap], 300.0), [0.75, 0.25])
    # Degenerate states share, whatever the temperature.
    np.testing.assert_allclose(boltzmann_weights([1.0, 1.0, 1.0], 5.0), 1 / 3)


def test_weights_are_stable():
    energies = np.array([0.3, 0.0, 2.0])
    expected = boltzmann_weights(energies)
    np.testing.assert_allclose(boltzmann_weights(energies - 25_000.0), expected, rtol=1e-8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(boltzmann_weights([0.0, 1e9]), [1.0, 0.0])
        np.testing.assert_array_equal(boltzmann_weights([0.0, 5.0], 1e-6), [1.0, 0.0])
        np.testing.assert_allclose(boltzmann_weights(energies, 1e12), 1 / 3)
    assert boltzmann_weights(energies).sum() == pytest.approx(1.0, abs=1e-14)


def test_unknown_energies_weigh_nothing():
    weights = boltzmann_weights([np.nan, 1.0, 1.5, np.nan])
    np.testing.assert_array_equal(weights[[0, 3]], 0.0)
    np.testing.assert_allclose(weights[1:3], boltzmann_weights([1.0, 1.5]))


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan, np.inf])
def test_impossible_temperatures(temperature):
    with pytest.raises(ConfigError, match="temperature"):
        boltzmann_weights([0.0], temperature)


@pytest.mark.parametrize("energies", [[], [np.nan], [np.nan, np.nan], [[0.0]], [0.0, np.inf]])
def test_impossible_energies(energies):
    with pytest.raises(DataError, match="energ"):
        boltzmann_weights(energies)
