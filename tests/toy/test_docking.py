"""Toy docking: the energy, its Boltzmann law by quadrature, exact draws from it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from scidiffusion.core import KeyedNoise
from scidiffusion.core.rotations import geodesic_distance, uniform_rotation
from scidiffusion.errors import ConfigError
from scidiffusion.toy.docking import POCKETS, SpringDocking, ligand_atoms, rotation_grid

F64 = torch.float64


def uniform_poses(n, seed=0):
    noise = KeyedNoise(seed)
    return {
        "place": 3 * noise.normal(torch.empty(n, 3, dtype=F64)),
        "turn": uniform_rotation(torch.empty(n, 3, 3, dtype=F64), noise.child("turn")),
        "torsion": math.pi * (2 * noise.uniform(torch.empty(n, 1, dtype=F64)) - 1),
    }


@pytest.mark.parametrize("strength", [0.5, 2.0, 6.0])
def test_the_grid_integrates_the_matrix_fisher_law(strength):
    turn, weight = rotation_grid(28)
    trace = turn.diagonal(dim1=1, dim2=2).sum(1)
    assert float(weight.sum()) == pytest.approx(1, abs=1e-13)
    # The integral of exp(s tr R) over the Haar measure is e^s (I_0(2 s) - I_1(2 s)).
    expected = math.exp(strength) * (special.iv(0, 2 * strength) - special.iv(1, 2 * strength))
    assert float(weight @ torch.exp(strength * trace)) == pytest.approx(expected, rel=1e-6)
    flat = turn.flatten(1)
    covariance = (weight[:, None] * flat).T @ flat
    torch.testing.assert_close(covariance, torch.eye(9, dtype=F64) / 3, rtol=0, atol=1e-12)


def test_the_torsion_turns_one_atom_about_a_bond():
    angle = torch.tensor([0.0, 1.0, 4.0], dtype=F64)
    atoms = ligand_atoms(angle)
    assert float(atoms.mean(1).abs().max()) < 1e-12
    distances = torch.cdist(atoms, atoms)
    torch.testing.assert_close(distances[:, :4, :4], distances[:1, :4, :4].expand(3, 4, 4))
    torch.testing.assert_close(distances[:, 4, 1], distances[:1, 4, 1].expand(3))
    assert float(distances[:, 4, 2].std()) > 0.1
    # The dihedral angle C-A-B-tip is the torsion itself.
    a, b, c, tip = atoms[:, 0], atoms[:, 1], atoms[:, 2], atoms[:, 4]
    axis = torch.nn.functional.normalize(b - a, dim=-1)
    u, v = (w - (w * axis).sum(-1, keepdim=True) * axis for w in (c - a, tip - b))
    found = torch.atan2((torch.linalg.cross(u, v) * axis).sum(-1), (u * v).sum(-1))
    torch.testing.assert_close(torch.cos(found - angle), torch.ones_like(angle))


def test_energy_is_the_offset_at_the_best_pose_and_invariant_under_common_motions():
    docking = SpringDocking()
    best = docking.best_poses
    inside = docking.pocket_energies(best).diagonal()
    expected = torch.tensor([pocket.offset for pocket in POCKETS], dtype=F64)
    torch.testing.assert_close(inside, expected, rtol=0, atol=1e-12)
    assert bool((docking.energy(best) <= inside).all())
    poses = uniform_poses(200)
    assert float(docking.pocket_energies(poses).sub(expected).min()) > 0
    torch.testing.assert_close(
        docking.energy(poses), -torch.logsumexp(-docking.pocket_energies(poses), 1)
    )


def test_the_square_splits_as_the_module_says():
    docking, poses = SpringDocking(stiffness=0.7), uniform_poses(300)
    best = docking.best_poses
    for k, pocket in enumerate(docking.pockets):
        shift = poses["place"] - best["place"][k]
        inner = docking._internal(best["turn"][k].mT @ poses["turn"], poses["torsion"][:, 0], k)
        expected = pocket.offset + 2.5 * docking.stiffness * (shift**2).sum(1) + inner
        torch.testing.assert_close(docking.pocket_energies(poses)[:, k], expected)


def test_populations_are_the_shares_of_the_partition_function():
    docking = SpringDocking(stiffness=1.0)
    # Importance sampling of the whole pose space with no use of the split.
    n, std = 300_000, 0.5
    poses, best = uniform_poses(n), docking.best_poses
    sums = []
    for k in range(2):
        moved = {**poses, "place": best["place"][k] + std / 3 * poses["place"]}
        log_weight = 0.5 * (poses["place"] ** 2).sum(1) / 9
        sums.append(torch.exp(log_weight - docking.pocket_energies(moved)[:, k]))
    means = [float(part.mean()) for part in sums]
    errors = [float(part.std()) / math.sqrt(n) / float(part.mean()) for part in sums]
    ratio = float(docking.populations[1] / docking.populations[0])
    assert means[1] / means[0] == pytest.approx(ratio, rel=4 * math.hypot(*errors))
    assert 4 * math.hypot(*errors) < 0.1
    assert float(docking.populations.sum()) == pytest.approx(1)
    # Shape alone: without the offset the pockets are not equally probable.
    assert ratio != pytest.approx(math.exp(-POCKETS[1].offset), rel=1e-3)


def test_draws_have_the_law_of_the_grid():
    docking, n = SpringDocking(stiffness=1.0), 3000
    poses = docking.sample(n, random_state=1)
    pocket = docking.pocket_energies(poses).argmin(1)
    share = float(docking.populations[0])
    error = 4 * math.sqrt(share * (1 - share) / n)
    assert float((pocket == 0).double().mean()) == pytest.approx(share, abs=error)
    nodes = torch.linspace(-math.pi, math.pi, 2001, dtype=F64)
    density = docking.torsion_density(nodes)
    assert float(density.min()) > 0
    cumulative = torch.cumulative_trapezoid(density, nodes)
    assert float(cumulative[-1]) == pytest.approx(1, abs=1e-10)

    def cdf(a):
        return np.interp(a, nodes, torch.cat([torch.zeros(1, dtype=F64), cumulative]))

    assert stats.kstest(poses["torsion"][:, 0].numpy(), cdf).pvalue > 1e-3
    assert stats.kstest(-poses["torsion"][:, 0].numpy(), cdf).pvalue < 1e-6
    # Equipartition: three directions of the centroid with 5 springs each.
    best = docking.best_poses
    shift = (poses["place"] - best["place"][pocket])[pocket == 0]
    assert float(shift.var()) == pytest.approx(0.2, rel=0.08)
    # Rotations, against the grid: the mean angle to the best pose of the first pocket.
    turn, weight = rotation_grid()
    angles = 2 * math.pi * torch.arange(48, dtype=F64) / 48
    mass = torch.stack([weight * torch.exp(-docking._internal(turn, a, 0)) for a in angles]).sum(0)
    away = geodesic_distance(torch.eye(3, dtype=F64), turn)
    expected = float((mass @ away) / mass.sum())
    found = geodesic_distance(best["turn"][0], poses["turn"][pocket == 0])
    error = 4 * float(found.std()) / math.sqrt(len(found))
    assert float(found.mean()) == pytest.approx(expected, abs=error + 0.005)


def test_a_seed_gives_the_same_poses():
    docking = SpringDocking()
    for one, other in zip(
        docking.sample(50, 3).values(), docking.sample(50, 3).values(), strict=True
    ):
        assert torch.equal(one, other)
    assert docking.sample(0)["turn"].shape == (0, 3, 3)


def test_bad_input():
    with pytest.raises(ConfigError, match="stiffness"):
        SpringDocking(stiffness=0.0)
    with pytest.raises(ConfigError, match="pocket"):
        SpringDocking(pockets=())
