"""The network and denoiser of new molecules: symmetries, padding, Bayes' rule for types."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

pytest.importorskip("rdkit")

from scidiffusion.core.denoiser import edm_scales
from scidiffusion.core.rng import GeneratorNoise
from scidiffusion.molecules.denovo.denoiser import MoleculeDenoiser, balanced
from scidiffusion.molecules.denovo.network import NetworkSize, PairNetwork
from scidiffusion.molecules.denovo.process import SIGMA_DATA, Types

SIZE = NetworkSize(width=24, pair_width=12, vectors=5, triangles=4, layers=3, radial=12)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
DTYPES = [torch.float32, torch.float64]
KINDS = [Types.GAUSSIAN, Types.MULTINOMIAL]


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def denoiser(kind: Types, dtype: torch.dtype) -> MoleculeDenoiser:
    """A denoiser of which no part is at rest, with random weights of a sensible size."""
    torch.manual_seed(1)
    network = PairNetwork(4, 2, SIZE)
    for weight in network.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    return MoleculeDenoiser(network, kind, 2.0).to(dtype)


def batch(kind: Types, dtype: torch.dtype) -> tuple[dict[str, Tensor], Tensor, dict, Tensor]:
    """A state of three molecules of 7, 5 and 4 atoms, times, conditions and mask."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(7) < torch.tensor([7, 5, 4])[:, None]
    bound = denoiser(kind, dtype).bound(mask)
    x = torch.randn(3, 7, 3, generator=generator, dtype=torch.float64).to(dtype)
    x = bound.process.parts["positions"].project(1.5 * x)
    types = torch.randint(4, (3, 7), generator=generator) * mask
    clean = bound.clean(x, types)
    t = torch.tensor([0.45, 0.55, 0.65], dtype=torch.float64)
    z = bound.process.q_sample(clean, t, GeneratorNoise(generator)).z
    cond = {
        "composition": torch.tensor([[3.0, 2, 1, 1], [1, 1, 2, 1], [torch.nan] * 4]).to(dtype),
        "labels": torch.tensor([[0.3, torch.nan], [-1.0, 2.0], [0.0, 0.0]]).to(dtype),
    }
    return z, t, cond, mask


def rotation(dtype: torch.dtype) -> Tensor:
    """A proper rotation."""
    generator = torch.Generator().manual_seed(3)
    q = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    return (q * torch.linalg.det(q).sign()).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mirror", [False, True])
def test_rotations_and_reflections_of_the_input_are_those_of_the_output(
    dtype: torch.dtype, kind: Types, mirror: bool
) -> None:
    z, t, cond, mask = batch(kind, dtype)
    turn = rotation(dtype) @ torch.diag(torch.tensor([1.0, 1.0, -1.0 if mirror else 1.0])).to(
        dtype
    )
    bound = denoiser(kind, dtype).bound(mask)
    plain = bound.answer(z, t, cond)
    turned = bound.answer({**z, "positions": z["positions"] @ turn}, t, cond)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(
        turned.positions, plain.positions @ turn, atol=tolerance, rtol=tolerance
    )
    torch.testing.assert_close(
        turned.log_p0.exp(), plain.log_p0.exp(), atol=tolerance, rtol=tolerance
    )
    torch.testing.assert_close(turned.bonds, plain.bonds, atol=10 * tolerance, rtol=tolerance)
    # It would not do for the network to answer nothing, or only along the input.
    network_share = plain.positions - _skip(bound, z, t)
    assert float(network_share[mask].norm(dim=-1).min()) > 1e-3
    assert float((turned.positions - plain.positions).abs().max()) > 0.1


def _skip(bound: MoleculeDenoiser, z: dict[str, Tensor], t: Tensor) -> Tensor:
    sigma = bound.process.parts["positions"].schedule.marginal(t).sigma.to(z["positions"].dtype)
    return z["positions"] * (SIGMA_DATA**2 / (sigma**2 + SIGMA_DATA**2))[:, None, None]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_renumbering_the_atoms_renumbers_the_answer(dtype: torch.dtype, kind: Types) -> None:
    z, t, cond, mask = batch(kind, dtype)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    plain = denoiser(kind, dtype).bound(mask).answer(z, t, cond)
    renumbered = (
        denoiser(kind, dtype)
        .bound(mask[:, order])
        .answer({name: value[:, order] for name, value in z.items()}, t, cond)
    )
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(
        renumbered.positions, plain.positions[:, order], atol=tolerance, rtol=tolerance
    )
    torch.testing.assert_close(
        renumbered.log_p0.exp(), plain.log_p0.exp()[:, order], atol=tolerance, rtol=tolerance
    )
    assert float((plain.positions[:, order] - plain.positions).abs().max()) > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind: Types) -> None:
    z, t, cond, mask = batch(kind, torch.float64)
    padded = denoiser(kind, torch.float64).bound(mask).answer(z, t, cond)
    alone = (
        denoiser(kind, torch.float64)
        .bound(mask[1:2, :5])
        .answer(
            {name: value[1:2, :5] for name, value in z.items()},
            t[1:2],
            {name: value[1:2] for name, value in cond.items()},
        )
    )
    torch.testing.assert_close(padded.positions[1:2, :5], alone.positions, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(padded.log_p0[1:2, :5], alone.log_p0, atol=1e-9, rtol=1e-9)


def test_translations_leave_the_answer_alone() -> None:
    torch.manual_seed(0)
    network = denoiser(Types.GAUSSIAN, torch.float64).network
    x, mask = torch.randn(2, 6, 3).double(), torch.ones(2, 6, dtype=torch.bool)
    types, known = torch.rand(2, 6, 4).double(), torch.randn(2, 17).double()
    sigma = torch.tensor([0.3, 1.0]).double()
    first = network(x, types, sigma, known, mask)
    moved = network(x + torch.tensor([5.0, -3.0, 2.0]), types, sigma, known, mask)
    for name, value in first.items():
        torch.testing.assert_close(moved[name], value, atol=1e-9, rtol=1e-9)


def test_positions_are_centred_and_bonds_symmetric() -> None:
    z, t, cond, mask = batch(Types.GAUSSIAN, torch.float64)
    answer = denoiser(Types.GAUSSIAN, torch.float64).bound(mask).answer(z, t, cond)
    assert float(answer.positions.sum(1).abs().max()) < 1e-10
    assert bool((answer.positions[~mask] == 0).all())
    torch.testing.assert_close(answer.bonds, answer.bonds.transpose(1, 2))


def test_what_is_known_of_a_molecule_reaches_the_answer() -> None:
    z, t, cond, mask = batch(Types.GAUSSIAN, torch.float64)
    bound = denoiser(Types.GAUSSIAN, torch.float64).bound(mask)
    plain = bound.answer(z, t, cond)
    for name in cond:
        other = bound.answer(z, t, {**cond, name: cond[name] + 1.0})
        hidden = bound.answer(z, t, {**cond, name: torch.full_like(cond[name], torch.nan)})
        assert float((other.positions - plain.positions).abs().max()) > 1e-4
        assert float((hidden.positions - other.positions).abs().max()) > 1e-4
    # Hidden altogether or not given is the same.
    none = bound.answer(z, t, None)
    absent = {name: torch.full_like(value, torch.nan) for name, value in cond.items()}
    torch.testing.assert_close(bound.answer(z, t, absent).positions, none.positions)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_that_says_nothing_leaves_bayes_rule(kind: Types) -> None:
    """With equal logits the posterior of a type is its likelihood, normalised."""
    z, t, _, mask = batch(kind, torch.float64)
    silent = denoiser(kind, torch.float64)
    for weight in silent.network.types.parameters():
        torch.nn.init.zeros_(weight)
    bound = silent.bound(mask)
    log_p0 = bound.answer(z, t).log_p0
    if kind is Types.GAUSSIAN:
        sigma = bound.process.parts["types"].schedule.marginal(t).sigma[:, None, None]
        hot = 2.0 * torch.eye(4, dtype=torch.float64)
        square = (z["types"][:, :, None] - hot).square().sum(-1)
        expected = torch.softmax(-0.5 * square / sigma**2, -1)
    else:
        process = bound.process.parts["types"]
        every = [process.kernel(torch.full_like(z["types"], k), t).probs for k in range(4)]
        likelihood = torch.stack(
            [probs.gather(-1, z["types"][..., None])[..., 0] for probs in every], -1
        )
        expected = likelihood / likelihood.sum(-1, keepdim=True)
    torch.testing.assert_close(log_p0.exp()[mask], expected[mask], atol=1e-9, rtol=1e-7)


def test_the_output_scale_is_the_noise_where_there_is_little_and_the_data_elsewhere() -> None:
    sigma = torch.tensor([1e-3, SIGMA_DATA, 1e3])
    scale = edm_scales(sigma, SIGMA_DATA)[1] / torch.tensor(
        [1e-3, SIGMA_DATA / 2**0.5, SIGMA_DATA]
    )
    torch.testing.assert_close(scale, torch.ones(3), atol=1e-5, rtol=1e-5)


def test_types_add_up_to_a_known_composition_and_to_none_that_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    log_p0 = torch.log_softmax(torch.randn(2, 9, 4, generator=generator).double(), -1)
    composition = torch.tensor([[4.0, 2, 3, 0], [torch.nan] * 4]).double()
    mask = torch.ones(2, 9, dtype=torch.bool)
    made = balanced(log_p0, composition, mask)
    torch.testing.assert_close(made[0].exp().sum(0), composition[0], atol=0.02, rtol=0.0)
    assert float((log_p0[0].exp().sum(0) - composition[0]).abs().max()) > 0.5
    torch.testing.assert_close(made.exp().sum(-1), torch.ones(2, 9).double())
    assert torch.equal(made[1], log_p0[1])
    # Balance changes a type's odds for all atoms alike: odds ratios of two atoms stay.
    odds = [value[0, :, 0] - value[0, :, 1] for value in (log_p0, made)]
    torch.testing.assert_close(odds[0] - odds[0][0], odds[1] - odds[1][0])
