"""The loss of new molecules: its noise levels, what is hidden, what a perfect answer costs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("rdkit")

from rdkit import Chem
from rdkit.Chem import rdDistGeom

from scidiffusion.core.rng import GeneratorNoise
from scidiffusion.molecules.denovo.bank import Bundle, MoleculeBank
from scidiffusion.molecules.denovo.denoiser import Answer, MoleculeDenoiser
from scidiffusion.molecules.denovo.network import NetworkSize, PairNetwork
from scidiffusion.molecules.denovo.objective import MoleculeLoss, NoiseLevels
from scidiffusion.molecules.denovo.process import SIGMA_MAX, SIGMA_MIN, Types
from scidiffusion.molecules.denovo.reading import read_clouds

SIZE = NetworkSize(width=12, pair_width=6, vectors=2, triangles=2, layers=1, radial=8)


@pytest.fixture(scope="module")
def bank() -> MoleculeBank:
    mols = [Chem.AddHs(Chem.MolFromSmiles(smiles)) for smiles in ("CCO", "CC=O", "CO", "CCC")]
    for mol in mols:
        assert rdDistGeom.EmbedMolecule(mol, randomSeed=3) == 0
    clouds = read_clouds(mols)
    return MoleculeBank(
        clouds.numbers,
        clouds.positions,
        clouds.offsets,
        elements=clouds.elements(),
        labels=np.zeros((4, 1)),
        pairs=1000,
    )


def noise(seed: int = 0) -> GeneratorNoise:
    return GeneratorNoise(torch.Generator().manual_seed(seed))


def loss(bank: MoleculeBank, **options: Any) -> MoleculeLoss:
    return MoleculeLoss(bank, torch.arange(3), torch.tensor([3]), **{"dropout": 0.1, **options})


def test_noise_levels_are_log_normal_with_a_share_over_everything() -> None:
    levels = NoiseLevels(mean=-1.0, std=0.5, wide_share=0.0).draw(torch.zeros(4000), noise())
    logs = levels.log()
    assert float(logs.mean()) == pytest.approx(-1.0, abs=0.01)
    assert float(logs.std()) == pytest.approx(0.5, abs=0.01)
    wide = NoiseLevels(mean=-1.0, std=0.01, wide_share=0.5).draw(torch.zeros(4000), noise())
    outside = wide[(wide.log() + 1.0).abs() > 0.05].log()
    assert len(outside) / 4000 == pytest.approx(0.5, abs=0.02)
    middle = 0.5 * (math.log(SIGMA_MIN) + math.log(SIGMA_MAX))
    assert float(outside.mean()) == pytest.approx(middle, abs=0.1)


def test_one_bundle_covers_all_levels() -> None:
    levels = NoiseLevels(wide_share=0.0).draw(torch.zeros(10), noise()).sort().values
    edges = torch.exp(-0.8 + 0.85 * torch.special.ndtri(torch.arange(1, 10) / 10))
    assert bool((levels[:-1] <= edges + 1e-6).all())
    assert bool((levels[1:] >= edges - 1e-6).all())


def test_composition_and_labels_are_hidden_as_often_as_asked(bank: MoleculeBank) -> None:
    bundle = bank.take(torch.zeros(4000, dtype=torch.long))
    cond = loss(bank, dropout=0.3)._conditions(bundle, noise())
    hidden = {name: torch.isnan(value).all(1) for name, value in cond.items()}
    for name, rows in hidden.items():
        assert float(rows.float().mean()) == pytest.approx(0.3, abs=0.03)
        assert torch.equal(cond[name][~rows], getattr(bundle, name)[~rows])
    both = (hidden["composition"] & hidden["labels"]).float().mean()
    assert float(both) == pytest.approx(0.09, abs=0.02)
    assert not torch.isnan(loss(bank, dropout=0.0)._conditions(bundle, noise())["labels"]).any()


class Oracle(MoleculeDenoiser):
    """Answers what it was told, whatever it is shown."""

    told: Bundle
    shift = 0.0

    def bound(self, mask: torch.Tensor) -> Oracle:
        made = Oracle(self.network, self.kind, self.scale, mask)
        made.told, made.shift = self.told, self.shift
        return made

    def answer(self, z: Any, t: Any, cond: Any = None) -> Answer:
        hot = torch.nn.functional.one_hot(self.told.types, self.network.types_count)
        orders = torch.nn.functional.one_hot(self.told.orders, 4)
        moved = self.told.positions + self.shift * self.told.mask[..., None]
        return Answer(moved, (hot + 1e-30).log(), 1e3 * orders)


def test_the_right_answer_costs_nothing_and_others_do(bank: MoleculeBank) -> None:
    bundle = bank.take(torch.arange(4))
    oracle = Oracle(PairNetwork(len(bank.elements), 1, SIZE), Types.GAUSSIAN, 1.0)
    oracle.told = bundle
    objective, device = loss(bank), torch.device("cpu")
    assert float(objective.bundle_loss(oracle, bundle, noise(), device)) < 1e-6
    oracle.shift = 0.1
    shifted = objective.bundle_loss(oracle, bundle, noise(), device)
    assert float(shifted) > 0.01
    # A shift keeps all distances: with positions alone the loss is the same.
    alone = loss(bank, distance_weight=0.0, bond_weight=0.0, type_weight=0.0)
    torch.testing.assert_close(alone.bundle_loss(oracle, bundle, noise(), device), shifted)


@pytest.mark.parametrize("kind", list(Types))
def test_every_weight_gets_a_gradient(bank: MoleculeBank, kind: Types) -> None:
    torch.manual_seed(0)
    denoiser = MoleculeDenoiser(PairNetwork(len(bank.elements), 1, SIZE), kind, 1.0)
    for weight in denoiser.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3)
    rows = torch.tensor([[0], [2], [3]])
    values = loss(bank, dropout=0.0)(denoiser, rows, noise())
    assert values.shape == (3,)
    values.mean().backward()
    silent = [n for n, w in denoiser.named_parameters() if w.grad is None or not w.grad.any()]
    # Vectors begin as nothing: in the first layer there are no angles to see yet.
    assert silent == ["network.layers.0.angles.weight"]
