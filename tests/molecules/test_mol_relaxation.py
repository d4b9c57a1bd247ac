"""Steps towards GFN2-xTB minima: where they end, what stays, and what is said."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rdkit")
pytest.importorskip("tblite")

from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from scidiffusion.errors import ConfigError, InputError, MissingExtraError, ScidiffusionWarning
from scidiffusion.molecules import conformers, figures
from scidiffusion.molecules.chem import energies as energies_module
from scidiffusion.molecules.chem import relaxation as module
from scidiffusion.molecules.chem.energies import (
    ANGSTROM_PER_BOHR,
    KCAL_PER_HARTREE,
    force_field,
    gfn2_energies,
)
from scidiffusion.molecules.chem.ensembles import keep
from scidiffusion.molecules.chem.figures import positions
from scidiffusion.molecules.chem.relaxation import force_field_hessian, relax_gfn2


def embedded(smiles: str, count: int = 1, *, relaxed: bool = True) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMultipleConfs(mol, count, randomSeed=7)
    if relaxed:
        rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol, numThreads=1, maxIters=2000)
    return mol


class TestHessian:
    @pytest.mark.parametrize("smiles", ["CC1OC1CO", "CC[SiH3]"])
    def test_is_the_second_derivative_of_the_energy(self, smiles):
        mol = embedded(smiles, relaxed=False)
        places = positions(mol)[0]
        hessian = force_field_hessian(mol, places)
        field = force_field(mol)
        field.Initialize()
        step = 1e-3
        for index in (0, 7, 20):
            there = step * np.eye(places.size)[index]
            energies = [
                field.CalcEnergy((places.ravel() + k * there).tolist()) for k in (-1, 0, 1)
            ]
            second = (energies[0] - 2 * energies[1] + energies[2]) / step**2
            exact = second / KCAL_PER_HARTREE * ANGSTROM_PER_BOHR**2
            assert hessian[index, index] == pytest.approx(exact, rel=2e-3)

    def test_of_a_minimum_has_six_free_motions_and_no_descent(self):
        mol = embedded("CCO")
        values = np.linalg.eigvalsh(force_field_hessian(mol, positions(mol)[0]))
        assert values[0] > -1e-4
        assert np.sum(np.abs(values) < 1e-4) == 6

    def test_is_a_multiple_of_one_where_no_force_field_knows_the_molecule(self):
        mol = Chem.MolFromSmiles("F[U]F")
        conformer = Chem.Conformer(3)
        conformer.SetPositions(np.array([[-2.0, 0, 0], [0, 0, 0], [2.0, 0, 0]]))
        mol.AddConformer(conformer)
        if force_field(mol) is not None:
            pytest.skip("this version of RDKit has types for it")
        expected = module.STIFF * np.eye(9)
        np.testing.assert_array_equal(force_field_hessian(mol, positions(mol)[0]), expected)


class TestDescent:
    """The method alone, on surfaces whose minima are known."""

    def test_a_quadratic_with_its_own_hessian_takes_one_step(self):
        rng = np.random.default_rng(0)
        root = rng.normal(size=(6, 6))
        hessian = root @ root.T + np.eye(6)
        goal = rng.normal(size=6)

        def slope(places):
            apart = places / ANGSTROM_PER_BOHR - goal
            return float(apart @ hessian @ apart) / 2, hessian @ apart

        start = (goal + 0.05 * rng.normal(size=6)) * ANGSTROM_PER_BOHR
        energy, found, _ = module._descend(slope, start, hessian, 1)
        np.testing.assert_allclose(found / ANGSTROM_PER_BOHR, goal, atol=1e-12)
        assert energy == pytest.approx(0.0, abs=1e-12)

    @pytest.mark.parametrize("curvature", [1.0, -1.0])
    def test_a_curved_valley_is_followed_to_its_end(self, curvature):
        # Rosenbrock's valley; the first Hessian is wrong, and once not even positive.
        def slope(places):
            x, y = places / ANGSTROM_PER_BOHR
            value = (1 - x) ** 2 + 10 * (y - x**2) ** 2
            first = -2 * (1 - x) - 40 * x * (y - x**2)
            return 1e-2 * value, 1e-2 * np.array([first, 20 * (y - x**2)])

        start = np.array([-1.0, 1.0]) * ANGSTROM_PER_BOHR
        energy, found, converged = module._descend(slope, start, curvature * np.eye(2), 200)
        assert converged
        np.testing.assert_allclose(found / ANGSTROM_PER_BOHR, [1.0, 1.0], atol=0.1)
        assert energy < 1e-5 * KCAL_PER_HARTREE

    def test_no_step_leads_upwards(self):
        seen = []

        def slope(places):
            # A wall behind a gentle slope: what the gradient promises is not there.
            at = float(places[0]) / ANGSTROM_PER_BOHR
            seen.append(at)
            return (-0.1 * at, np.array([-0.1])) if at < 0.05 else (1.0, np.array([30.0]))

        energy, found, _ = module._descend(slope, np.zeros(1), np.array([[0.01]]), 4)
        assert max(seen) > 0.05
        assert energy <= 0.0
        assert found[0] / ANGSTROM_PER_BOHR < 0.05


class TestRelaxation:
    def test_ends_where_the_gradient_vanishes(self):
        mol = embedded("C[C@H](N)C(=O)O", 2)
        before = gfn2_energies(mol)
        energies, reached = relax_gfn2(mol)
        assert reached.all()
        after, gradients = gfn2_energies(mol, gradient=True)
        np.testing.assert_allclose(after, energies, atol=1e-3)
        assert (after < before).all()
        slopes = np.linalg.norm(gradients.reshape(2, -1), axis=1)
        limit = module.GRADIENT * KCAL_PER_HARTREE / ANGSTROM_PER_BOHR
        assert (slopes < 1.1 * limit).all()

    def test_a_few_steps_take_most_of_the_energy(self):
        mol = embedded("CC(=O)OC1CC1")
        before = gfn2_energies(mol)[0]
        some, full = Chem.Mol(mol), Chem.Mol(mol)
        (left,), reached = relax_gfn2(some, 2)
        (lowest,), _ = relax_gfn2(full)
        assert not reached[0]
        assert lowest < left < lowest + 0.5 * (before - lowest)

    def test_conformers_do_not_depend_on_each_other(self):
        both = embedded("CCCO", 2)
        alone = keep(both, [1])
        energies, _ = relax_gfn2(both, 3)
        (energy,), _ = relax_gfn2(alone, 3)
        assert energy == energies[1]
        np.testing.assert_array_equal(positions(both)[1], positions(alone)[0])

    def test_fixed_atoms_stay(self):
        mol = embedded("CCCO", relaxed=False)
        before = positions(mol)[0].copy()
        relax_gfn2(mol, 10, fixed=[0, 2])
        moved = np.linalg.norm(positions(mol)[0] - before, axis=1)
        assert moved[[0, 2]].max() == 0.0
        assert moved[[1, 3]].min() > 1e-3

    def test_electrons_that_do_not_converge_leave_a_conformer_as_it_is(self, monkeypatch):
        class Broken(RuntimeError):
            pass

        class Calculator:
            def update(self, places): ...

            def singlepoint(self, result):
                raise Broken

        mol = embedded("CO", 2)
        before = positions(mol)
        monkeypatch.setattr(
            module, "gfn2_calculators", lambda *_: (lambda _: Calculator(), Broken)
        )
        with pytest.warns(ScidiffusionWarning, match="2 of 2 conformers"):
            energies, reached = relax_gfn2(mol)
        assert np.isnan(energies).all()
        assert not reached.any()
        np.testing.assert_array_equal(positions(mol), before)

    @pytest.mark.parametrize("steps", [0, -1, 2.5, True])
    def test_impossible_numbers_of_steps(self, steps):
        with pytest.raises(ConfigError, match="max_steps must be 1 or more"):
            relax_gfn2(embedded("CO"), steps)


class TestConformers:
    def test_steps_lower_the_energy_of_every_conformer(self):
        plain, stepped = (
            conformers("CC(=O)OCC", 3, seed=0, energy=None, gfn2_steps=steps) for steps in (0, 2)
        )
        assert (gfn2_energies(stepped) < gfn2_energies(plain)).all()
        assert all(one.valid for one in figures(stepped))

    def test_a_core_stays(self):
        core = {0: (0.0, 0.0, 0.0), 1: (1.52, 0.0, 0.0), 2: (2.0, 1.43, 0.0)}
        mol = conformers("CCCCO", 2, seed=0, fixed_core=core, gfn2_steps=2)
        for places in positions(mol):
            np.testing.assert_allclose(places[[0, 1, 2]], list(core.values()), atol=1e-6)

    def test_what_fails_the_checks_stays_as_it_was(self, monkeypatch):
        from scidiffusion.molecules.conformer import generate

        def wreck(mol, steps, *, fixed):
            for conformer in mol.GetConformers():
                conformer.SetPositions(conformer.GetPositions() * 3.0)

        plain = conformers("CCO", 2, seed=0)
        monkeypatch.setattr(generate, "relax_gfn2", wreck)
        kept = conformers("CCO", 2, seed=0, gfn2_steps=1)
        np.testing.assert_array_equal(positions(kept), positions(plain))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"gfn2_steps": -1}, "gfn2_steps must be an integer >= 0"),
            ({"gfn2_steps": 1, "target_distances": {(0, 2): 3.0}}, "leave one out"),
        ],
    )
    def test_wrong_options_are_named(self, options, message):
        with pytest.raises(InputError, match=message):
            conformers("CCO", 2, **options)

    @pytest.mark.parametrize("options", [{"gfn2_steps": 1}, {"energy": "gfn2"}])
    def test_without_tblite_nothing_is_begun(self, options, monkeypatch):
        from scidiffusion.molecules.conformer import generate

        def missing(name, extra):
            raise MissingExtraError(f"install the extra {extra}")

        def begun(*_, **__):
            raise AssertionError("work was begun")

        monkeypatch.setattr(energies_module, "require", missing)
        monkeypatch.setattr(generate, "embed", begun)
        with pytest.raises(MissingExtraError, match="gfn2"):
            conformers("CCO", 2, **options)
