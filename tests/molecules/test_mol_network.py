"""The graph's features and the equivariant network."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("rdkit")

from rdkit import Chem
from rdkit.Chem import rdDistGeom

from scidiffusion.molecules.conformer.denoiser import ConformerDenoiser, conformer_process
from scidiffusion.molecules.conformer.graph import MolGraph, signed_volume
from scidiffusion.molecules.conformer.network import ConformerNetwork, NetworkSize

SMALL = NetworkSize(width=16, pair_width=8, vectors=4, layers=2, radial=8)


def molecule(smiles: str, n: int = 3, seed: int = 1) -> tuple[Chem.Mol, torch.Tensor]:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert len(rdDistGeom.EmbedMultipleConfs(mol, n, randomSeed=seed)) == n
    places = [torch.from_numpy(one.GetPositions()) for one in mol.GetConformers()]
    return mol, torch.stack(places)


def network(seed: int = 0) -> ConformerNetwork:
    torch.manual_seed(seed)
    made = ConformerNetwork(SMALL)
    # The outputs begin at nothing, which would satisfy every symmetry.
    torch.nn.init.normal_(made.push.weight, std=0.3)
    torch.nn.init.normal_(made.pull.weight, std=0.3)
    return made.double()


def rotation(seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    turned, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    return turned * torch.det(turned)


@pytest.mark.parametrize("smiles", ["C[C@H](N)C(=O)O", "F/C=C/CO", "c1ccccc1"])
def test_rotations_and_translations_pass_through(smiles):
    mol, z = molecule(smiles)
    graph, net, turn = MolGraph.of(mol).double(), network(), rotation(3)
    sigma = torch.tensor([0.02, 0.3, 5.0], dtype=torch.float64)
    there = net(z, sigma, graph)
    assert there.abs().mean() > 1e-3
    moved = net(z @ turn.T + torch.tensor([3.0, -1.0, 2.0]), sigma, graph)
    torch.testing.assert_close(moved, there @ turn.T, atol=1e-10, rtol=0)


def test_single_precision_is_equivariant_to_1e_5():
    mol, z = molecule("C[C@H](N)C(=O)O")
    graph, net, turn = MolGraph.of(mol), network().float(), rotation(4).float()
    z = (z - z.mean(1, keepdim=True)).float()
    sigma = torch.full((3,), 0.1)
    there = net(z, sigma, graph)
    scale = there.abs().max()
    moved = net(z @ turn.T, sigma, graph)
    torch.testing.assert_close(moved / scale, there @ turn.T / scale, atol=1e-5, rtol=0)


def test_mirror_images_differ():
    mol, z = molecule("CC(=O)N")
    graph, net = MolGraph.of(mol).double(), network()
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
    sigma = torch.full((3,), 0.1, dtype=torch.float64)
    there = net(z, sigma, graph)
    assert (net(z @ mirror, sigma, graph) - there @ mirror).abs().max() > 1e-4


def test_numbering_does_not_matter():
    mol, z = molecule("C[C@](F)(O)/C=C/N")
    order = torch.randperm(mol.GetNumAtoms(), generator=torch.Generator().manual_seed(0))
    renumbered = Chem.RenumberAtoms(mol, order.tolist())
    net = network()
    sigma = torch.full((3,), 0.1, dtype=torch.float64)
    there = net(z, sigma, MolGraph.of(mol).double())
    other = net(z[:, order], sigma, MolGraph.of(renumbered).double())
    torch.testing.assert_close(other, there[:, order], atol=1e-9, rtol=0)


def test_padding_and_company_change_nothing():
    mols = [molecule("CCO"), molecule("C[C@H](N)C(=O)O")]
    graphs = [MolGraph.of(mol).double() for mol, _ in mols]
    together = MolGraph.batch(graphs)
    size = together.size
    z = torch.zeros(2, size, 3, dtype=torch.float64)
    for row, (_, places) in enumerate(mols):
        z[row, : places.shape[1]] = places[0] - places[0].mean(0)
    net, sigma = network(), torch.tensor([0.1, 0.2], dtype=torch.float64)
    both = net(z, sigma, together)
    for row, graph in enumerate(graphs):
        count = graph.size
        alone = net(z[row : row + 1, :count], sigma[row : row + 1], graph)
        torch.testing.assert_close(both[row, :count], alone[0], atol=1e-10, rtol=0)
        assert not both[row, count:].any()


@pytest.mark.parametrize(
    "smiles",
    ["C[C@H](N)C(=O)O", "C[C@@H](O)[C@H](F)Cl", "C[S@](=O)CC", "O=C1[C@@H]2CC[C@H]1CC2"],
)
def test_signed_volumes_are_positive_as_asked_and_negative_in_the_mirror(smiles):
    mol, z = molecule(smiles)
    graph = MolGraph.of(mol).double()
    assert graph.chiral.any()
    volume = signed_volume(z, graph)[:, graph.chiral[0]]
    assert (volume > 0.3).all()
    mirrored = signed_volume(z * torch.tensor([1.0, 1.0, -1.0]), graph)[:, graph.chiral[0]]
    torch.testing.assert_close(mirrored, -volume)


def test_cis_and_trans_are_told_apart_and_complementary():
    cis, trans = (MolGraph.of(molecule(smiles, 1)[0]) for smiles in ("F/C=C\\F", "F/C=C/F"))
    # Of the 2 x 2 pairs of substituents two are on one side, two on opposite sides; twice each.
    assert trans.pairs[..., -1].sum() == trans.pairs[..., -2].sum() == 4
    torch.testing.assert_close(cis.pairs[..., -1], trans.pairs[..., -2])
    assert trans.pairs[0, 0, 3, -1] == 1  # the two fluorines


def test_the_denoiser_answers_with_the_state_where_there_is_no_noise():
    mol, z = molecule("CCO")
    torch.manual_seed(0)
    denoiser = ConformerDenoiser(network().float())
    z = (z - z.mean(1, keepdim=True)).float()
    time = denoiser.process.schedule.t_of_log_snr(-2 * math.log(1e-4))
    predicted = denoiser(z, time, MolGraph.of(mol)).x0
    torch.testing.assert_close(predicted, z, atol=1e-2, rtol=0)


def test_a_walk_from_a_level_visits_that_level_first():
    process = conformer_process(0.05)
    sigma = process.schedule.marginal(process.schedule.grid(4, "uniform")).sigma
    assert sigma[0] == pytest.approx(0.05)
    assert (sigma[1:] < sigma[:-1]).all()
    assert sigma[-1] == 0
