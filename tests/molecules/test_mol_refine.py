"""Truncated diffusion, its objective, and what steers it, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("rdkit")

from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from scidiffusion.core.centred import remove_mean
from scidiffusion.core.prediction import Parameterization, Prediction
from scidiffusion.core.rng import GeneratorNoise, KeyedNoise
from scidiffusion.core.schedules import as_time
from scidiffusion.errors import ConfigError, DataError
from scidiffusion.molecules.conformer.bank import BankMolecule, ConformerBank, automorphisms
from scidiffusion.molecules.conformer.denoiser import conformer_process
from scidiffusion.molecules.conformer.graph import MolGraph, signed_volume
from scidiffusion.molecules.conformer.objective import ConformerLoss, NoiseLevels, nearest_target
from scidiffusion.molecules.conformer.pairs import ConformerPairs
from scidiffusion.molecules.conformer.refine import refine
from scidiffusion.molecules.conformer.steering import (
    EnergySteering,
    FixedCore,
    check_targets,
    distance_energy,
)
from scidiffusion.molecules.superposition import laid_onto, turned_onto


def butane(n: int = 4) -> tuple[Chem.Mol, np.ndarray]:
    mol = Chem.AddHs(Chem.MolFromSmiles("CCCC"))
    rdDistGeom.EmbedMultipleConfs(mol, n, randomSeed=3)
    rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol)
    return mol, np.stack([one.GetPositions() for one in mol.GetConformers()])


class Known(torch.nn.Module):
    """The exact denoiser of a Gaussian of variance `var` about known positions, (N, 3)."""

    def __init__(self, mean: torch.Tensor, var: float = 0.0, level: float = 20.0) -> None:
        super().__init__()
        self.mean, self.var = mean, var
        self.process = conformer_process(level)

    def at_level(self, level: float) -> Known:
        return Known(self.mean, self.var, level)

    def forward(self, z: torch.Tensor, t: torch.Tensor, cond: object = None) -> Prediction:
        marginal = self.process.schedule.marginal(as_time(t).expand(z.shape[0]))
        sigma = marginal.sigma.to(z)[:, None, None]
        weight = self.var / (self.var + sigma**2)
        x0 = self.mean + weight * (z - self.mean)
        return Prediction(z, marginal, x0, Parameterization.X0)


def test_refinement_ends_at_the_minimum_in_any_number_of_steps():
    mol, places = butane()
    target = torch.from_numpy(places[0] - places[0].mean(0)).float()
    for steps in (1, 3, 10):
        found = refine(
            Known(target), MolGraph.of(mol), places, level=0.1, steps=steps, noise=KeyedNoise(0)
        )
        np.testing.assert_allclose(found, np.broadcast_to(target, found.shape), atol=1e-5)


def test_refinement_draws_from_the_law_of_the_data():
    mol, places = butane(1)
    centre = torch.from_numpy(places[0] - places[0].mean(0)).float()
    spread = 0.04
    starts = np.repeat(places, 4000, axis=0)
    # The start is drawn as the walk expects it: data and noise of the level.
    starts = starts + spread * np.random.default_rng(0).standard_normal(starts.shape)
    found = refine(
        Known(centre, spread**2),
        MolGraph.of(mol),
        starts,
        level=0.2,
        steps=40,
        noise=KeyedNoise(1),
    )
    freedom = 3 * (len(centre) - 1)
    variance = ((found - centre.numpy()) ** 2).sum((1, 2)) / freedom
    assert variance.mean() == pytest.approx(spread**2, rel=0.05)


def test_without_noise_a_walk_that_begins_at_the_mode_stays_there():
    mol, places = butane(1)
    centre = torch.from_numpy(places[0] - places[0].mean(0)).float()
    for noise_scale, away in ((0.0, False), (1.0, True)):
        found = refine(
            Known(centre, 0.01),
            MolGraph.of(mol),
            places,
            level=0.2,
            steps=5,
            noise_scale=noise_scale,
            noise=KeyedNoise(0),
        )
        assert (np.abs(found - centre.numpy()).max() > 0.01) == away


def test_a_shift_shrinks_along_the_walk_as_the_noise_does():
    _, places = butane(2)
    target = torch.from_numpy(places[0] - places[0].mean(0)).float()
    denoiser = Known(target)
    sigma_start = 0.05
    start = torch.from_numpy(places[1] - places[1].mean(0)).float()[None]
    bound = denoiser.at_level(sigma_start)
    from scidiffusion.samplers import make_sampler, trajectory

    _, states, times = trajectory(
        bound.process,
        bound,
        start,
        sampler=make_sampler("ddim"),
        steps=5,
        spacing="uniform",
        z=start,
    )
    for z, t in zip(states, times, strict=True):
        share = float(bound.process.schedule.marginal(t).sigma) / sigma_start
        torch.testing.assert_close(z - target, share * (start - target), atol=1e-5, rtol=0)


def test_the_same_seed_gives_the_same_conformers_however_many():
    mol, places = butane(4)
    target = torch.from_numpy(places[0] - places[0].mean(0)).float()
    graph, denoiser = MolGraph.of(mol), Known(target, 0.1)
    four = refine(denoiser, graph, places, level=0.3, steps=3, noise=KeyedNoise(5))
    two = refine(denoiser, graph, places[:2], level=0.3, steps=3, noise=KeyedNoise(5))
    np.testing.assert_allclose(four[:2], two, atol=1e-6)
    other = refine(denoiser, graph, places[:2], level=0.3, steps=3, noise=KeyedNoise(6))
    assert np.abs(two - other).max() > 0.01


@pytest.mark.parametrize("level", [0.0, -1.0, 30.0])
def test_a_level_out_of_range_is_refused(level):
    mol, places = butane(1)
    with pytest.raises(ConfigError, match="level must be"):
        refine(
            Known(torch.zeros(14, 3)),
            MolGraph.of(mol),
            places,
            level=level,
            steps=1,
            noise=KeyedNoise(0),
        )


def bank(count: int = 12) -> ConformerBank:
    molecules = []
    for index in range(count):
        mol = Chem.AddHs(Chem.MolFromSmiles("C" * (2 + index % 3) + "O"))
        rdDistGeom.EmbedMultipleConfs(mol, 2, randomSeed=index)
        x = torch.stack([torch.from_numpy(one.GetPositions()) for one in mol.GetConformers()])
        x = remove_mean(x.float())
        pairs = ConformerPairs(mol, (x + 0.01).numpy(), x.numpy(), np.zeros(2))
        molecules.append(BankMolecule.of(pairs))
    return ConformerBank(molecules, pairs=1000, most=2)


def test_bundles_hold_the_anchor_and_no_more_pairs_than_allowed():
    made = bank()
    for anchor in range(len(made)):
        noise = GeneratorNoise(torch.Generator().manual_seed(anchor))
        bundle = made.bundle(anchor, noise)
        graph, start, minimum = bundle.graph, bundle.start, bundle.minimum
        rows, size = minimum.shape[:2]
        assert rows * size**2 <= 1000
        assert start.shape == minimum.shape == (*graph.mask.shape, 3)
        assert int(graph.mask[0].sum()) == made.molecules[anchor].graph.size
        assert not minimum[~graph.mask].any()


class Oracle(torch.nn.Module):
    """Knows the answers of a bundle, off by a number of noise scales."""

    def __init__(self, answers: torch.Tensor, off: float) -> None:
        super().__init__()
        self.answers, self.off = answers, off
        self.process = conformer_process()

    def forward(self, z: torch.Tensor, t: torch.Tensor, cond: MolGraph) -> Prediction:
        marginal = self.process.schedule.marginal(as_time(t).expand(z.shape[0]))
        sigma = marginal.sigma.to(z)[:, None, None]
        scale = sigma * 2.0 / (sigma**2 + 4.0).sqrt()
        x0 = turned_onto(self.answers, z, cond.mask) + self.off * scale * cond.mask[..., None]
        return Prediction(z, marginal, x0, Parameterization.X0)


def test_the_loss_is_nothing_for_the_truth_and_the_square_of_an_error_in_its_units():
    made = bank()
    index = torch.arange(len(made))
    loss = ConformerLoss(
        made, index, index[:0], sigma_start=0.05, levels=NoiseLevels(high_share=0.0)
    )
    seed = torch.Generator().manual_seed(7)
    state = seed.get_state()
    answers = loss.parts[0].bundle(4, GeneratorNoise(seed)).minimum
    for off, expected in ((0.0, 0.0), (0.5, 0.25)):
        seed.set_state(state)
        # A common displacement of all atoms changes no distance.
        value = loss(Oracle(answers, off), torch.tensor([[4]]), GeneratorNoise(seed))
        assert value.shape == (1,)
        assert float(value) == pytest.approx(expected, abs=2e-3)


def test_turning_uses_proper_rotations_alone():
    torch.manual_seed(0)
    mask = torch.ones(5, 8, dtype=torch.bool)
    x = remove_mean(torch.randn(5, 8, 3, dtype=torch.float64))
    turn, _ = torch.linalg.qr(torch.randn(5, 3, 3, dtype=torch.float64))
    turn = turn * torch.linalg.det(turn)[:, None, None]
    torch.testing.assert_close(turned_onto(x, x @ turn, mask), x @ turn)
    mirrored = x * torch.tensor([1.0, 1.0, -1.0])
    assert ((turned_onto(mirrored, x, mask) - x).square().sum((1, 2)) > 0.5).all()


def test_an_energy_moves_the_law_as_a_product_of_gaussians_does():
    # Data N(m, v) a coordinate and E = |x - a|^2 / 2w give mean (m w + a v) / (v + w) and
    # variance v w / (v + w).
    mol, places = butane(1)
    centre = torch.from_numpy(places[0] - places[0].mean(0)).float()
    wish = centre * 1.1
    var, width = 0.01, 0.0025
    energy = EnergySteering(
        lambda x: (x - wish).square().sum((1, 2)) / (2 * width), spread=var**0.5
    )
    starts = np.repeat(places, 1000, axis=0)
    found = refine(
        Known(centre, var),
        MolGraph.of(mol),
        starts,
        level=2.0,
        steps=20,
        noise=KeyedNoise(0),
        steering=[energy],
    )
    exact = ((centre * width + wish * var) / (var + width)).numpy()
    # Six standard errors of a mean of 1,000.
    error = 6 * (var * width / (var + width) / 1000) ** 0.5
    np.testing.assert_allclose(found.mean(0), exact, atol=error)
    assert np.abs(exact - centre.numpy()).max() > 10 * error


def test_target_distances_are_reached():
    mol, places = butane(1)
    centre = torch.from_numpy(places[0] - places[0].mean(0)).float()
    pull = EnergySteering(distance_energy({(0, 3): 4.5}, stiffness=2000.0))
    before = np.linalg.norm(places[0, 0] - places[0, 3])
    found = refine(
        Known(centre, 0.02),
        MolGraph.of(mol),
        places,
        level=0.5,
        steps=40,
        noise=KeyedNoise(0),
        steering=[pull],
    )
    after = np.linalg.norm(found[0, 0] - found[0, 3])
    assert abs(after - 4.5) < 0.3 * abs(before - 4.5)


def test_a_core_is_held_up_to_a_rigid_motion():
    mol, places = butane(2)
    centre = torch.from_numpy(places[0] - places[0].mean(0)).float()
    core = torch.from_numpy(places[1][:4] + 5.0)
    found = refine(
        Known(centre, 0.05),
        MolGraph.of(mol),
        places,
        level=0.5,
        steps=5,
        noise=KeyedNoise(0),
        steering=[FixedCore([0, 1, 2, 3], core)],
    )
    for one in found:
        apart = np.linalg.norm(one[:4, None] - one[None, :4], axis=-1)
        wanted = torch.cdist(core, core).numpy()
        np.testing.assert_allclose(apart, wanted, atol=1e-4)


def test_superposition_undoes_a_rigid_motion():
    torch.manual_seed(1)
    x = torch.randn(6, 3, dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    moved = (x @ (turn * torch.det(turn)) + 2.0)[None]
    torch.testing.assert_close(laid_onto(x, moved), moved)


def test_wrong_wishes_are_named():
    with pytest.raises(ConfigError, match="guidance_scale"):
        EnergySteering(lambda x: x.sum((1, 2)), -1.0)
    x = torch.zeros(2, 3, 3)
    with pytest.raises(DataError, match="one number a conformer"):
        EnergySteering(lambda x: x.sum()).move(x, torch.ones(2, 1, 1))
    with pytest.raises(DataError, match="does not depend"):
        EnergySteering(lambda x: torch.zeros(2)).move(x, torch.ones(2, 1, 1))
    with pytest.raises(DataError, match="not finite"):
        EnergySteering(lambda x: (x / 0).sum((1, 2))).move(x, torch.ones(2, 1, 1))
    with pytest.raises(DataError, match="two different atoms"):
        check_targets({(0, 9): 1.0}, 4)
    with pytest.raises(DataError, match="must be positive"):
        check_targets({(0, 1): -1.0}, 4)


def test_half_of_a_bundle_are_mirror_images_of_the_molecule_with_its_centres_exchanged():
    mol = Chem.AddHs(Chem.MolFromSmiles("C[C@H](N)C(=O)O"))
    rdDistGeom.EmbedMultipleConfs(mol, 4, randomSeed=1)
    x = np.stack([one.GetPositions() for one in mol.GetConformers()]).astype(np.float32)
    one = BankMolecule.of(ConformerPairs(mol, x, x, np.zeros(4)))
    made = ConformerBank([one], most=4)
    mirrored, rows = 0, 0
    for seed in range(20):
        bundle = made.bundle(0, GeneratorNoise(torch.Generator().manual_seed(seed)))
        # Whatever was done, each centre has the hand that its graph asks for.
        assert (signed_volume(bundle.minimum, bundle.graph)[bundle.graph.chiral] > 0.3).all()
        changed = bundle.graph.neighbours[:, 1] != one.graph.neighbours[0, 1]
        mirrored += int(changed.any(1).sum())
        rows += len(bundle.minimum)
    assert 0.35 < mirrored / rows < 0.65


def test_renumberings_of_like_atoms_are_those_of_the_molecule():
    mol = Chem.AddHs(Chem.MolFromSmiles("Cc1ccc(C)cc1"))
    images = automorphisms(mol)
    assert images.shape == (8, mol.GetNumAtoms())
    assert images[0].tolist() == list(range(mol.GetNumAtoms()))
    bonds = torch.from_numpy(Chem.GetAdjacencyMatrix(mol))
    for image in images:
        assert torch.equal(bonds[image][:, image], bonds)
    assert len({tuple(image.tolist()) for image in images}) == 8
    # Renumbering may not exchange centres that are told apart.
    assert len(automorphisms(Chem.AddHs(Chem.MolFromSmiles("F")))) == 1


def test_the_target_is_numbered_as_was_predicted_where_noise_has_forgotten_the_numbers():
    mol = Chem.AddHs(Chem.MolFromSmiles("O"))
    images = automorphisms(mol)
    assert len(images) == 2
    x0 = torch.tensor([[[0.0, 0.1, 0.0], [0.9, -0.4, 0.0], [-0.8, -0.6, 0.3]]])
    x0 = remove_mean(x0)
    swapped = x0[:, images[1]]
    mask = torch.ones(1, 3, dtype=torch.bool)
    for level, expected in ((5.0, swapped), (0.1, x0)):
        # z is nearly symmetric, so that it decides the orientation alone.
        z = 0.5 * (x0 + swapped)
        target = nearest_target(x0, z, swapped, mask, torch.tensor([level]), [images])
        wanted = turned_onto(expected, z, mask)
        torch.testing.assert_close(target, wanted, atol=1e-5, rtol=0)
    assert (turned_onto(swapped, z, mask) - turned_onto(x0, z, mask)).abs().max() > 0.1
