"""The network of tensor products: its symmetries, and that an estimator learns with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("rdkit")
pytest.importorskip("e3nn")

from rdkit import Chem
from rdkit.Chem import rdDistGeom

from scidiffusion.errors import ConfigError
from scidiffusion.molecules import ConformerDiffusion
from scidiffusion.molecules.conformer.graph import MolGraph
from scidiffusion.molecules.conformer.pairs import ConformerPairs
from scidiffusion.molecules.conformer.tensor_network import TensorNetwork, TensorSize

SMALL = TensorSize(scalars=8, vectors=4, tensors=2, pair_width=8, layers=2, radial=8)


def molecule(smiles: str, n: int = 3) -> tuple[Chem.Mol, torch.Tensor]:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert len(rdDistGeom.EmbedMultipleConfs(mol, n, randomSeed=1)) == n
    places = torch.stack([torch.from_numpy(one.GetPositions()) for one in mol.GetConformers()])
    return mol, places - places.mean(1, keepdim=True)


@pytest.fixture(scope="module")
def network() -> TensorNetwork:
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    # e3nn makes its constants of the default type.
    torch.set_default_dtype(torch.float64)
    try:
        made = TensorNetwork(SMALL).double()
    finally:
        torch.set_default_dtype(before)
    torch.nn.init.normal_(made.push.weight, std=0.3)
    with torch.no_grad():
        made.answer.weight.mul_(100)
    return made


SIGMA = torch.tensor([0.02, 0.3, 5.0], dtype=torch.float64)
MIRROR = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)


def test_rotations_and_translations_pass_through(network):
    mol, z = molecule("C[C@H](N)C(=O)O")
    graph = MolGraph.of(mol).double()
    turn, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    turn = turn * torch.linalg.det(turn)
    there = network(z, SIGMA, graph)
    assert there.abs().mean() > 1e-3
    torch.testing.assert_close(
        network(z @ turn + 2.0, SIGMA, graph), there @ turn, atol=1e-8, rtol=0
    )


def test_mirror_images_differ_by_their_centres_alone(network):
    flat, z = molecule("CC(=O)NCCO")
    graph = MolGraph.of(flat).double()
    torch.testing.assert_close(
        network(z * MIRROR, SIGMA, graph), network(z, SIGMA, graph) * MIRROR, atol=1e-8, rtol=0
    )
    handed, z = molecule("C[C@H](N)C(=O)O")
    graph = MolGraph.of(handed).double()
    there, mirrored = network(z, SIGMA, graph) * MIRROR, network(z * MIRROR, SIGMA, graph)
    assert (mirrored - there).abs().max() > 1e-4
    # The mirror image of a molecule is the molecule with its centres exchanged.
    other = graph.mirrored(torch.ones(1, dtype=torch.bool))
    torch.testing.assert_close(network(z * MIRROR, SIGMA, other), there, atol=1e-8, rtol=0)


def test_padding_changes_nothing(network):
    (first, a), (second, b) = molecule("CCO", 1), molecule("CC(=O)NCCO", 1)
    both = MolGraph.batch([MolGraph.of(first), MolGraph.of(second)]).double()
    z = torch.zeros(2, both.size, 3, dtype=torch.float64)
    z[0, : a.shape[1]], z[1] = a[0], b[0]
    padded = network(z, SIGMA[:2], both)
    alone = network(a, SIGMA[:1], MolGraph.of(first).double())
    torch.testing.assert_close(padded[0, : a.shape[1]], alone[0], atol=1e-10, rtol=0)
    assert not padded[0, a.shape[1] :].any()


def test_an_estimator_learns_with_it_and_comes_back(tmp_path):
    data = []
    for size in (2, 3, 4):
        for _ in range(4):
            mol, places = molecule("C" * size + "O", 2)
            mol.RemoveAllConformers()
            value = places.numpy().astype(np.float32)
            data.append(ConformerPairs(mol, value * 1.02, value, np.zeros(2)))
    model = ConformerDiffusion(
        network="e3nn",
        width=8,
        pair_width=8,
        vectors=4,
        layers=2,
        max_steps=60,
        lr=1e-2,
        bundle_pairs=800,
        random_state=0,
        progress=False,
    ).fit(data)
    losses = [entry["val_loss"] for entry in model.training_.history]
    assert losses[-1] < 0.95 * losses[0]
    model.save(tmp_path / "model")
    again = ConformerDiffusion.load(tmp_path / "model")
    one, other = (m.sample("CCCO", 2, random_state=0) for m in (model, again))
    for first, second in zip(one.GetConformers(), other.GetConformers(), strict=True):
        np.testing.assert_allclose(first.GetPositions(), second.GetPositions(), atol=1e-5)


def test_an_unknown_network_is_named():
    mol, places = molecule("CCO", 2)
    value = places.numpy().astype(np.float32)
    pairs = ConformerPairs(mol, value, value, np.zeros(2))
    with pytest.raises(ConfigError, match="network must be"):
        ConformerDiffusion(network="gnn", progress=False).fit([pairs] * 12)
