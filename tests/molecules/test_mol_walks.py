"""The energy of where walks end: its value and derivative against closed forms, and learning."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("rdkit")

from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers
from scipy.spatial.transform import Rotation

from scidiffusion.core.prediction import Parameterization, Prediction
from scidiffusion.core.rng import GeneratorNoise
from scidiffusion.core.schedules import as_time
from scidiffusion.errors import DataError
from scidiffusion.molecules import ConformerDiffusion
from scidiffusion.molecules.chem.energies import ANGSTROM_PER_BOHR, KCAL_PER_HARTREE
from scidiffusion.molecules.chem.relaxation import positive_hessian
from scidiffusion.molecules.conformer.bank import BankMolecule, Bundle, ConformerBank
from scidiffusion.molecules.conformer.denoiser import conformer_process
from scidiffusion.molecules.conformer.graph import MolGraph
from scidiffusion.molecules.conformer.objective import ConformerLoss
from scidiffusion.molecules.conformer.pairs import ConformerPairs
from scidiffusion.molecules.conformer.walk_objective import SOFTENED, WalkLoss

SMILES = ["CCO", "CCN", "CC=O", "COC", "CCF", "CC#N", "C1CO1", "NC=O", "CCl", "CS", "CC", "CO"]


def pairs_of(smiles: str, n: int = 2, by: float = 0.02) -> ConformerPairs:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMultipleConfs(mol, n, randomSeed=5)
    rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol)
    places = np.stack([one.GetPositions() for one in mol.GetConformers()])
    places -= places.mean(1, keepdims=True)
    moved = places + by * np.random.default_rng(0).standard_normal(places.shape)
    # Pairs that were read from a shard have no conformers of their own.
    mol.RemoveAllConformers()
    return ConformerPairs(
        mol, places.astype(np.float32), moved.astype(np.float32), np.zeros(len(places))
    )


class Fixed(torch.nn.Module):
    """A denoiser that always finds the places it is given plus a multiple of a direction."""

    def __init__(self, places: torch.Tensor, direction: torch.Tensor | None = None) -> None:
        super().__init__()
        self.places = places
        self.direction = torch.zeros_like(places) if direction is None else direction
        self.far = torch.nn.Parameter(torch.tensor(1.0))
        self.process = conformer_process()

    def at_level(self, level: float, mask: torch.Tensor | None = None) -> Fixed:
        self.process = conformer_process(level, mask)
        return self

    def forward(self, z: torch.Tensor, t: torch.Tensor, cond: object = None) -> Prediction:
        marginal = self.process.schedule.marginal(as_time(t).expand(z.shape[0]))
        x0 = self.places + self.far * self.direction
        return Prediction(z, marginal, x0.to(z), Parameterization.X0)


def loss_of(molecules: list[BankMolecule]) -> WalkLoss:
    bank = ConformerBank(molecules, pairs=400)
    rows, none = torch.arange(len(bank)), torch.arange(0)
    ensembles = ConformerLoss(bank, rows, none, sigma_start=0.05)
    return WalkLoss(bank, rows, none, ensembles=ensembles)


def bundle_of(molecule: BankMolecule, mirrored: bool = False) -> Bundle:
    flip = torch.tensor([1.0, 1.0, -1.0 if mirrored else 1.0])
    n = len(molecule.start)
    marks = torch.full((n,), mirrored)
    return Bundle(
        MolGraph.batch([molecule.graph] * n).mirrored(marks),
        molecule.start * flip,
        molecule.minimum * flip,
        [molecule] * n,
        list(range(n)),
        marks,
    )


@pytest.fixture
def molecule() -> BankMolecule:
    return BankMolecule.of(pairs_of("C[C@H](F)O"), hessians=True)


def apart(molecule: BankMolecule, by: float = 0.01) -> torch.Tensor:
    """Displacements that neither shift nor, to first order, turn."""
    rng = np.random.default_rng(1)
    found = []
    for places in molecule.minimum.double().numpy():
        step = by * rng.standard_normal(places.shape)
        step -= step.mean(0)
        turning = np.stack([np.cross(axis, places) for axis in np.eye(3)]).reshape(3, -1)
        basis = np.linalg.qr(turning.T)[0]
        step = step.ravel() - basis @ (basis.T @ step.ravel())
        found.append(step.reshape(-1, 3))
    return torch.tensor(np.stack(found), dtype=torch.float32)


def expected(molecule: BankMolecule, step: torch.Tensor) -> np.ndarray:
    flat = step.double().flatten(1)
    hessians = molecule.hessians.double()
    return (torch.einsum("bi,bij,bj->b", flat, hessians, flat) / 2).numpy()


def test_hessians_are_those_of_mmff_about_the_ends_in_kcal_per_square_angstrom():
    pairs = pairs_of("CCO")
    molecule = BankMolecule.of(pairs, hessians=True)
    places = molecule.minimum[1].double().numpy()
    exact = positive_hessian(pairs.mol, places) * KCAL_PER_HARTREE / ANGSTROM_PER_BOHR**2
    np.testing.assert_allclose(molecule.hessians[1].double(), exact, rtol=1e-3, atol=0.05)
    assert molecule.hessians.dtype == torch.float16
    assert BankMolecule.of(pairs).hessians is None


def test_a_walk_that_ends_at_its_goal_costs_nothing(molecule):
    found = loss_of([molecule]).energies(Fixed(molecule.minimum), bundle_of(molecule))
    np.testing.assert_allclose(found.detach(), 0.0, atol=1e-5)


def test_a_displacement_costs_its_quadratic_energy(molecule):
    step = apart(molecule)
    walker = Fixed(molecule.minimum, step)
    found = loss_of([molecule]).energies(walker, bundle_of(molecule))
    np.testing.assert_allclose(found.detach(), expected(molecule, step), rtol=2e-2)
    assert found.min() > 0.1


def test_the_derivative_goes_through_the_whole_walk(molecule):
    step = apart(molecule)
    walker = Fixed(molecule.minimum, step)
    loss_of([molecule]).energies(walker, bundle_of(molecule)).sum().backward()
    # q is quadratic in the size of the displacement, which is 1.
    assert walker.far.grad.item() == pytest.approx(2 * expected(molecule, step).sum(), rel=2e-2)


def test_turning_a_whole_molecule_costs_nothing(molecule):
    turn = torch.tensor(Rotation.from_rotvec([0.3, -0.2, 0.5]).as_matrix(), dtype=torch.float32)
    found = loss_of([molecule]).energies(Fixed(molecule.minimum @ turn), bundle_of(molecule))
    np.testing.assert_allclose(found.detach(), 0.0, atol=1e-4)


def test_mirror_images_cost_the_same(molecule):
    step, flip = apart(molecule), torch.tensor([1.0, 1.0, -1.0])
    loss = loss_of([molecule])
    plain = loss.energies(Fixed(molecule.minimum, step), bundle_of(molecule))
    walker = Fixed(molecule.minimum * flip, step * flip)
    mirrored = loss.energies(walker, bundle_of(molecule, mirrored=True))
    np.testing.assert_allclose(mirrored.detach(), plain.detach(), rtol=1e-3)


def test_the_loss_adds_the_softened_energy_and_that_of_ensembles(molecule, monkeypatch):
    loss = loss_of([molecule])
    monkeypatch.setattr(loss, "energies", lambda *_: torch.tensor([SOFTENED, 0.0]))
    monkeypatch.setattr(loss.ensembles, "bundle", lambda *_: torch.tensor(0.25))
    noise = GeneratorNoise(torch.Generator().manual_seed(0))
    found = loss.bundle(Fixed(molecule.minimum), 0, noise)
    assert found.item() == pytest.approx(loss.energy_weight * SOFTENED * np.log(2) / 2 + 0.25)


def small(**options: object) -> ConformerDiffusion:
    settings = {
        "width": 16,
        "pair_width": 8,
        "vectors": 4,
        "layers": 1,
        "bundle_pairs": 500,
        "max_steps": 150,
        "lr": 1e-2,
        "validation_fraction": 0.0,
        "random_state": 0,
        "progress": False,
        "precision": "float32",
    }
    return ConformerDiffusion(**settings | options)


def test_walks_end_lower_after_they_were_learned():
    ensembles = [pairs_of(smiles) for smiles in SMILES]
    # A goal that starts can be told: every bond to hydrogen is a little longer.
    walks = []
    for pairs in ensembles:
        far = pairs.start.copy()
        for bond in pairs.mol.GetBonds():
            a, b = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            if pairs.mol.GetAtomWithIdx(b).GetAtomicNum() == 1:
                away = pairs.start[:, b] - pairs.start[:, a]
                far[:, b] += 0.05 * away / np.linalg.norm(away, axis=-1, keepdims=True)
        walks.append(ConformerPairs(pairs.mol, pairs.start, far, pairs.energies))
    first = small(max_steps=2).fit(ensembles)
    plain = small().fit(ensembles, start=first)
    taught = small().fit(ensembles, start=first, walks=walks)
    loss = loss_of([BankMolecule.of(one, hessians=True) for one in walks])
    bundle = loss.parts[0].bundle(3, GeneratorNoise(torch.Generator().manual_seed(0)))
    with torch.no_grad():
        before, after = (loss.energies(m.denoiser_, bundle).mean() for m in (plain, taught))
    assert after < 0.5 * before


def test_few_walks_are_refused():
    ensembles = [pairs_of(smiles) for smiles in SMILES]
    with pytest.raises(DataError, match="3 walks were given"):
        small().fit(ensembles, walks=ensembles[:3])


def test_held_out_walks_need_no_held_out_ensembles(molecule):
    bank = ConformerBank([molecule, molecule], pairs=400)
    ensembles = ConformerLoss(bank, torch.arange(2), torch.arange(0), sigma_start=0.05)
    loss = WalkLoss(bank, torch.arange(1), torch.tensor([1]), ensembles=ensembles)
    noise = GeneratorNoise(torch.Generator().manual_seed(0))
    walker = small(max_steps=1).fit([pairs_of(smiles) for smiles in SMILES]).denoiser_
    assert torch.isfinite(loss.bundle(walker, 1, noise))
