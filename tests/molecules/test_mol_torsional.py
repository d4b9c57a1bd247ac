"""Torsional diffusion: bonds that turn, their angles, scores of angles, and what is learned."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

pytest.importorskip("rdkit")

from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdMolTransforms
from sklearn.exceptions import NotFittedError

from scidiffusion.core.prediction import ScorePrediction
from scidiffusion.core.rng import GeneratorNoise, KeyedNoise
from scidiffusion.core.torus import TorusProcess, wrap
from scidiffusion.errors import ConfigError, DataError
from scidiffusion.molecules import TorsionDiffusion, conformers
from scidiffusion.molecules.chem.ensembles import with_places
from scidiffusion.molecules.conformer.bank import BankMolecule, ConformerBank
from scidiffusion.molecules.conformer.graph import MolGraph
from scidiffusion.molecules.conformer.network import NetworkSize
from scidiffusion.molecules.conformer.pairs import ConformerPairs
from scidiffusion.molecules.torsional.denoiser import (
    Template,
    TorsionDenoiser,
    TorsionNetwork,
)
from scidiffusion.molecules.torsional.objective import TorsionLoss
from scidiffusion.molecules.torsional.starts import draw_torsions
from scidiffusion.molecules.torsional.turning import Torsions
from scidiffusion.testing import WrappedMixtureOracle

SMALL = NetworkSize(width=16, pair_width=8, vectors=4, layers=2, radial=8)
DRUG = "COc1ccc(C[C@H](N)C(=O)NCC#N)cc1"


def molecule(smiles: str, n: int = 3, seed: int = 1) -> tuple[Chem.Mol, torch.Tensor]:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert len(rdDistGeom.EmbedMultipleConfs(mol, n, randomSeed=seed)) == n
    return mol, torch.stack([torch.from_numpy(one.GetPositions()) for one in mol.GetConformers()])


@pytest.mark.parametrize(
    ("smiles", "bonds"),
    [
        ("CCCC", [(1, 2)]),  # not the methyl groups
        ("CCO", [(1, 2)]),  # a hydroxyl group turns
        ("C1CCCCC1", []),
        ("CC#N", []),  # nothing turns about a straight line
        ("C/C=C/C", []),  # nor about a double bond
        ("c1ccccc1C(=O)N", [(5, 6), (6, 8)]),
    ],
)
def test_the_bonds_that_turn(smiles, bonds):
    found = Torsions.of(Chem.AddHs(Chem.MolFromSmiles(smiles)))
    assert [tuple(row) for row in found.ends[0].tolist()] == bonds
    assert len(found) == len(bonds)


def test_angles_are_those_of_rdkit():
    mol, places = molecule(DRUG)
    torsions = Torsions.of(mol)
    assert len(torsions) >= 6
    angles, around = torsions.angles(places), torsions.around(places)
    for row, conformer in enumerate(mol.GetConformers()):
        for bond, (begin, end) in enumerate(torsions.ends[0].tolist()):
            before, after = torsions.sides[0, bond].tolist()
            for one, first in enumerate(before):
                for two, last in enumerate(after):
                    if torsions.there[0, bond, 0, one] and torsions.there[0, bond, 1, two]:
                        known = rdMolTransforms.GetDihedralRad(conformer, first, begin, end, last)
                        difference = wrap(around[row, bond, one, two] - known)
                        assert float(difference) == pytest.approx(0, abs=1e-9)
    torch.testing.assert_close(angles, around[:, :, 0, 0])


def test_turning_adds_to_every_angle_and_changes_no_bond_or_bond_angle():
    mol, places = molecule(DRUG)
    torsions = Torsions.of(mol)
    by = 4 * torch.rand(len(places), len(torsions), dtype=torch.float64) - 2
    turned = torsions.turned(places, by)
    torch.testing.assert_close(
        wrap(torsions.angles(turned) - torsions.angles(places) - by), torch.zeros_like(by)
    )
    near = torch.from_numpy(Chem.GetDistanceMatrix(mol) <= 2)
    before, after = torch.cdist(places, places), torch.cdist(turned, turned)
    torch.testing.assert_close(after[:, near], before[:, near])
    assert (after - before).abs().max() > 1


def test_padding_is_not_turned():
    (butanol, a), (other, b) = molecule("CCCCO", 1), molecule("COC", 1)
    both = Torsions.batch([Torsions.of(butanol), Torsions.of(other)])
    assert both.real.sum(1).tolist() == [3, 0]
    places = torch.zeros(2, butanol.GetNumAtoms(), 3, dtype=torch.float64)
    places[0], places[1, : other.GetNumAtoms()] = a[0], b[0]
    turned = both.turned(places, torch.ones(2, 3, dtype=torch.float64))
    torch.testing.assert_close(turned[1], places[1])
    assert (turned[0] - places[0]).abs().max() > 0.5
    assert not both.angles(places)[1].any()


def network() -> TorsionNetwork:
    torch.manual_seed(0)
    made = TorsionNetwork(SMALL)
    # Scores begin at nothing, which would satisfy every symmetry.
    torch.nn.init.normal_(made.series[-1].weight, std=0.5)
    return made.double()


def test_scores_stay_the_same_when_the_molecule_is_turned():
    mol, places = molecule(DRUG)
    torsions, graph, net = Torsions.of(mol), MolGraph.of(mol).double(), network()
    std = torch.tensor([0.1, 0.7, 3.0], dtype=torch.float64)
    there = net(places, std, graph, torsions)
    assert there.abs().mean() > 1e-2
    turn, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    turn = turn * torch.linalg.det(turn)
    moved = net(places @ turn + 3.0, std, graph, torsions)
    torch.testing.assert_close(moved, there, atol=1e-10, rtol=0)
    mirrored = net(places * torch.tensor([1.0, 1.0, -1.0]), std, graph, torsions)
    assert (mirrored - there).abs().max() > 1e-3


def test_it_does_not_matter_from_which_end_a_bond_is_looked_at():
    mol, places = molecule(DRUG)
    torsions, graph, net = Torsions.of(mol), MolGraph.of(mol).double(), network()
    reverse = Torsions(
        torsions.ends.flip(-1), torsions.sides.flip(2), torsions.there.flip(2), torsions.moved
    )
    std = torch.full((3,), 0.5, dtype=torch.float64)
    torch.testing.assert_close(torsions.angles(places), reverse.angles(places))
    torch.testing.assert_close(
        net(places, std, graph, torsions), net(places, std, graph, reverse), atol=1e-12, rtol=0
    )


def test_a_template_takes_the_angles_it_is_given():
    mol, places = molecule(DRUG)
    torsions = Torsions.of(mol)
    angles = wrap(6 * torch.rand(3, len(torsions), dtype=torch.float64))
    made = Template(MolGraph.of(mol).double(), torsions, places).at(angles)
    torch.testing.assert_close(wrap(torsions.angles(made) - angles), torch.zeros_like(angles))
    torch.testing.assert_close(made.mean(1), torch.zeros(3, 3, dtype=torch.float64))


class Known(torch.nn.Module):
    """The score of independent angles, each of the same mixture of wrapped normals."""

    def __init__(self, means: list[float]) -> None:
        super().__init__()
        self.process = TorusProcess()
        self.anything = torch.nn.Parameter(torch.ones(()))
        share = torch.full((len(means),), 1 / len(means))
        widths = torch.full((len(means),), 0.15)
        self.exact = WrappedMixtureOracle(share, torch.tensor(means), widths, self.process)

    def forward(self, z, t, cond=None):
        columns = [self.exact(column, t).score for column in z.unbind(1)]
        return ScorePrediction(z, torch.stack(columns, 1))


def test_walks_by_the_exact_score_end_in_its_law():
    # Each bond is trans with one half, gauche with a quarter either way.
    mol, places = molecule("CCCCCC", 2)
    means = [math.pi, math.pi / 3, -math.pi / 3, math.pi]
    drawn = draw_torsions(Known(means), mol, places.numpy(), 400, noise=KeyedNoise(0), steps=20)
    angles = Torsions.of(mol).angles(torch.from_numpy(drawn))
    trans = (angles.abs() > 2).double().mean(0)
    gauche = ((angles - math.pi / 3).abs() < 0.7).double().mean(0)
    torch.testing.assert_close(trans, torch.full_like(trans, 0.5), atol=0.08, rtol=0)
    torch.testing.assert_close(gauche, torch.full_like(gauche, 0.25), atol=0.08, rtol=0)


def test_conformers_do_not_depend_on_how_many_are_drawn():
    mol, places = molecule(DRUG, 2)
    denoiser = TorsionDenoiser(network().float())
    many = draw_torsions(denoiser, mol, places.numpy(), 7, noise=KeyedNoise(3), steps=4)
    few = draw_torsions(denoiser, mol, places.numpy(), 3, noise=KeyedNoise(3), steps=4)
    np.testing.assert_allclose(many[:3], few, atol=5e-3)


def pairs(smiles: str, n: int = 3) -> ConformerPairs:
    mol, places = molecule(smiles, n)
    mol.RemoveAllConformers()
    value = places.numpy().astype(np.float32)
    return ConformerPairs(mol, value, value, np.zeros(n))


def test_the_loss_of_knowing_nothing_is_one():
    bank = ConformerBank(
        [BankMolecule.of(pairs("C" * size + "O")) for size in (3, 4, 5, 6)], pairs=2000
    )
    loss = TorsionLoss(bank, torch.arange(4), torch.arange(0))
    denoiser = TorsionDenoiser(TorsionNetwork(SMALL))
    noise = GeneratorNoise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        values = loss(denoiser, torch.arange(4).repeat(30)[:, None], noise)
    assert float(values.mean()) == pytest.approx(1.0, abs=0.06)


def test_it_learns_what_torsions_there_are(tmp_path):
    # Of butanols' bonds all are trans, whatever a force field says: the law is known.
    data = []
    for size in (4, 5, 6):
        mol = Chem.AddHs(Chem.MolFromSmiles("C" * size + "O"))
        rdDistGeom.EmbedMultipleConfs(mol, 3, randomSeed=1)
        torsions = Torsions.of(mol)
        places = torch.stack([torch.from_numpy(c.GetPositions()) for c in mol.GetConformers()])
        minimum = torsions.turned(places, math.pi - torsions.angles(places)).numpy()
        mol.RemoveAllConformers()
        one = ConformerPairs(mol, places.float().numpy(), minimum.astype(np.float32), np.zeros(3))
        data += [one] * 4
    model = TorsionDiffusion(
        width=24,
        pair_width=12,
        vectors=4,
        layers=2,
        max_steps=150,
        lr=5e-3,
        bundle_pairs=4000,
        validation_fraction=0,
        random_state=0,
        progress=False,
    ).fit(data)
    mol = model.sample("CCCCCO", 20, random_state=1)
    places = torch.stack([torch.from_numpy(c.GetPositions()) for c in mol.GetConformers()])
    trans = Torsions.of(mol).angles(places).abs() > 2.5
    assert trans.double().mean() > 0.9  # 20 % by chance
    model.save(tmp_path / "model")
    again = TorsionDiffusion.load(tmp_path / "model").sample("CCCCCO", 20, random_state=1)
    for one, other in zip(mol.GetConformers(), again.GetConformers(), strict=True):
        np.testing.assert_allclose(one.GetPositions(), other.GetPositions(), atol=1e-5)


def test_rings_alone_are_left_as_embedded():
    model = TorsionDiffusion(progress=False)
    model.denoiser_, model.seed_, model._calls = TorsionDenoiser(network().float()), 0, 0
    mol = model.sample("C1CCCCC1", 3, random_state=0, embeddings=3)
    assert mol.GetNumConformers() == 3


def test_molecules_without_turnable_bonds_are_no_data():
    with pytest.raises(DataError, match="turnable bonds"):
        TorsionDiffusion(progress=False).fit([pairs("C1CCCCC1")] * 12)
    with pytest.raises(NotFittedError, match="call fit first"):
        TorsionDiffusion().sample("CCO")


def test_the_method_makes_checked_conformers_from_the_bundled_weights():
    mol = conformers(DRUG, n=4, seed=0, method="torsional")
    assert mol.GetNumConformers() == 4
    again = conformers(DRUG, n=4, seed=0, method="torsional")
    other = conformers(DRUG, n=4, seed=0)
    for one, two in zip(mol.GetConformers(), again.GetConformers(), strict=True):
        np.testing.assert_array_equal(one.GetPositions(), two.GetPositions())
    assert np.abs(mol.GetConformer(0).GetPositions() - other.GetConformer(0).GetPositions()).max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "monte carlo"}, "method must be"),
        ({"method": "torsional", "start": "noise"}, "start='noise'"),
        (
            {"method": "torsional", "fixed_core": {0: (0, 0, 0), 1: (1.5, 0, 0), 2: (2, 1, 0)}},
            "fixed core",
        ),
    ],
)
def test_what_does_not_go_with_the_method_is_said(options, message):
    with pytest.raises(ConfigError, match=message):
        conformers("CCCO", n=1, **options)


def test_turned_geometries_keep_their_stereo():
    mol, places = molecule(DRUG, 4)
    drawn = draw_torsions(
        TorsionDenoiser(network().float()), mol, places.numpy(), 4, noise=KeyedNoise(0), steps=3
    )
    made = with_places(mol, drawn)
    for conformer in made.GetConformers():
        seen = Chem.Mol(made, confId=conformer.GetId())
        Chem.AssignStereochemistryFrom3D(seen)
        assert Chem.MolToSmiles(Chem.RemoveHs(seen)) == Chem.CanonSmiles(DRUG)
