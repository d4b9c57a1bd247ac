"""Toy backbones: their screw motions, the geometry of C-alpha atoms, the network on frames."""

from __future__ import annotations

import math

import pytest
import torch

from scidiffusion.core import (
    CentredGaussianProcess,
    KeyedNoise,
    LinearVP,
    NetworkDenoiser,
    ProductLoss,
    ProductProcess,
    ScoreMatchingLoss,
    SimpleLoss,
    SO3Process,
    VESchedule,
)
from scidiffusion.core.rotations import exp_so3, log_so3, uniform_rotation
from scidiffusion.errors import ConfigError, DataError
from scidiffusion.samplers import Ancestral, sample
from scidiffusion.testing import assert_equivariant
from scidiffusion.toy.frames import (
    HELIX,
    STRAND,
    FrameNetwork,
    Screw,
    calpha_geometry,
    ideal_backbones,
)

F64 = torch.float64
MIRROR = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=F64))


def closed_form(screw):
    """Distance, angle and dihedral angle of a chain on a screw; see the module."""
    turn = math.radians(screw.turn)
    chord, rise = 2 * screw.radius * math.sin(turn / 2), screw.rise
    distance = math.hypot(chord, rise)
    angle = math.pi - math.acos((chord**2 * math.cos(turn) + rise**2) / distance**2)
    plane, side = (chord * math.sin(turn)) ** 2, 4 * (rise * math.sin(turn / 2)) ** 2
    cosine = (plane + side * math.cos(turn)) / (plane + side)
    return distance, angle, math.copysign(math.acos(cosine), screw.turn)


@pytest.mark.parametrize("screw", [HELIX, STRAND, Screw(1.6, 2.9, -120.0)])
def test_geometry_of_a_screw_is_its_closed_form(screw):
    chains = ideal_backbones(5, 9, screws=(screw,), wobble=0.0)
    geometry = calpha_geometry(chains.place)
    for found, expected in zip(geometry, closed_form(screw), strict=True):
        torch.testing.assert_close(found, torch.full_like(found, expected), rtol=0, atol=1e-9)


def test_the_ideal_structures_have_the_distance_of_a_peptide_unit_and_their_known_shape():
    helix, strand = closed_form(HELIX), closed_form(STRAND)
    for distance, _, _ in (helix, strand):
        assert distance == pytest.approx(3.8, abs=0.05)
    assert math.degrees(helix[1]) == pytest.approx(91, abs=2)
    assert math.degrees(helix[2]) == pytest.approx(50, abs=2)
    assert math.degrees(strand[1]) == pytest.approx(122, abs=3)
    assert math.degrees(strand[2]) == pytest.approx(-170, abs=3)


def test_one_rigid_motion_leads_from_every_frame_to_the_next():
    chains = ideal_backbones(4, 7, wobble=0.0)
    relative = chains.turn[:, :-1].mT @ chains.turn[:, 1:]
    step = (chains.turn[:, :-1].mT @ chains.place.diff(dim=1)[..., None])[..., 0]
    for value in (relative, step):
        torch.testing.assert_close(value, value[:, :1].expand_as(value), rtol=0, atol=1e-12)
    assert set(chains.kind.tolist()) <= {0, 1}


def test_wobble_is_gaussian_and_orientations_are_uniform():
    wobble, n = 0.1, 4000
    still, moved = (ideal_backbones(n, 6, wobble=w, random_state=3) for w in (0.0, wobble))
    turned = log_so3(still.turn.mT @ moved.turn)
    assert float(turned.std()) == pytest.approx(wobble, rel=0.02)
    shift = moved.place - still.place
    # The centre of mass takes one part in six of the variance.
    assert float(shift.std()) == pytest.approx(wobble * math.sqrt(5 / 6), rel=0.02)
    flat = still.turn[:, 0].flatten(1)
    covariance = flat.T @ flat / n
    torch.testing.assert_close(covariance, torch.eye(9, dtype=F64) / 3, rtol=0, atol=0.03)


def test_a_mirror_image_has_the_other_dihedral_angle_alone():
    place = ideal_backbones(6, 8).place
    ours, mirrored = calpha_geometry(place), calpha_geometry(place @ MIRROR)
    torch.testing.assert_close(mirrored.distance, ours.distance)
    torch.testing.assert_close(mirrored.angle, ours.angle)
    torch.testing.assert_close(mirrored.dihedral, -ours.dihedral)


def network():
    torch.manual_seed(0)
    net = FrameNetwork(5, width=24, blocks=1).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net


def test_the_network_turns_with_the_chain_but_tells_hands_apart():
    chains, time = ideal_backbones(3, 5), torch.full((3,), 0.4, dtype=F64)
    net = network()
    state = {"place": chains.place, "turn": chains.turn}
    turn = uniform_rotation(torch.empty(1, 3, 3, dtype=F64), KeyedNoise(5))[0]

    def moved(x):
        return {"place": x["place"] @ turn.mT + 3.0, "turn": turn @ x["turn"]}

    def answered(y):
        return {"place": y["place"] @ turn.mT, "turn": y["turn"]}

    assert_equivariant(lambda x: net(x, time), moved, state, output_transform=answered, atol=1e-9)
    reflected = {"place": chains.place @ MIRROR, "turn": MIRROR @ chains.turn @ MIRROR}
    there, here = net(reflected, time), net(state, time)
    difference = (there["place"] @ MIRROR - here["place"]).detach()
    assert float(difference.abs().max()) > 0.1


def test_every_residue_is_seen_by_every_other():
    chains, net = ideal_backbones(1, 5), network()
    place = chains.place.clone().requires_grad_(True)
    answer = net({"place": place, "turn": chains.turn}, torch.full((1,), 0.4, dtype=F64))
    for residue in range(5):
        total = answer["turn"][0, residue].sum()
        (gradient,) = torch.autograd.grad(total, place, retain_graph=True)
        assert bool((gradient[0].norm(dim=-1) > 1e-6).all())


class OneChain:
    """The exact denoiser of a single ideal structure, all of it by its own closed forms."""

    def __init__(self, process, chain):
        self.process, self.chain = process, chain

    def __call__(self, z, t, cond=None):
        place, turn = self.process.parts["place"], self.process.parts["turn"]
        return {
            "place": place.prediction(z["place"], t, x0=self.chain["place"].expand_as(z["place"])),
            "turn": turn.predict(
                turn.schedule.marginal(t).std
                * turn.kernel_score(self.chain["turn"].expand_as(z["turn"]), z["turn"], t),
                z["turn"],
                t,
            ),
        }


def product():
    place = CentredGaussianProcess(LinearVP())
    return ProductProcess({"place": place, "turn": SO3Process(VESchedule(0.03, 2.0))})


def test_the_product_process_ends_in_the_chain_that_its_scores_point_to():
    chains, process = ideal_backbones(1, 6, wobble=0.0, random_state=2), product()
    chain = {"place": chains.place, "turn": chains.turn}
    like = {name: part.expand(40, *part.shape[1:]) for name, part in chain.items()}
    noisy = process.prior(like, KeyedNoise(1))
    assert float(calpha_geometry(noisy["place"]).distance.std()) > 0.3
    drawn = sample(
        process, OneChain(process, chain), like, sampler=Ancestral(), steps=50, noise=KeyedNoise(1)
    )
    torch.testing.assert_close(drawn["place"], like["place"], rtol=0, atol=1e-6)
    away = log_so3(like["turn"].mT @ drawn["turn"])
    assert float(away.norm(dim=-1).mean()) < 0.05


def test_losses_do_not_depend_on_how_chains_are_turned():
    chains = ideal_backbones(6, 5)
    process = product()
    denoiser = NetworkDenoiser(network().double(), process)
    loss = ProductLoss({"place": SimpleLoss(), "turn": ScoreMatchingLoss()})
    t = torch.full((6,), 0.5, dtype=F64)
    turn = exp_so3(torch.tensor([0.4, -1.0, 2.0], dtype=F64))

    def value(turn, seed):
        x = {"place": chains.place @ turn.mT, "turn": turn @ chains.turn}
        corrupted = process.q_sample(chains._asdict() | {}, t, KeyedNoise(seed))
        z = {"place": corrupted.z["place"] @ turn.mT, "turn": turn @ corrupted.z["turn"]}
        eps = {"place": corrupted.eps["place"] @ turn.mT, "turn": corrupted.eps["turn"]}
        moved = type(corrupted)(z, eps)
        return loss.loss(process, x, moved, denoiser(z, t), t)

    torch.testing.assert_close(value(turn, 0), value(torch.eye(3, dtype=F64), 0))


def test_bad_input():
    with pytest.raises(ConfigError, match="two or more residues"):
        ideal_backbones(3, 1)
    with pytest.raises(ConfigError, match="wobble"):
        ideal_backbones(3, wobble=-0.1)
    with pytest.raises(DataError, match="N >= 4"):
        calpha_geometry(torch.zeros(2, 3, 3))
