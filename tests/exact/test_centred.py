"""Diffusion with zero centre of mass, against a Gaussian in an explicit basis of the subspace."""

from __future__ import annotations

import math

import pytest
import torch

from scidiffusion.core import (
    CentredGaussianProcess,
    DiscreteSchedule,
    EDMSchedule,
    KeyedNoise,
    LinearVP,
    elbo,
    remove_mean,
)
from scidiffusion.errors import ConfigError, DataError

F64 = torch.float64
N, D = 5, 3
MASK = torch.tensor(
    [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 0, 1, 0], [1, 0, 0, 0, 0]], dtype=torch.bool
)


def at(value):
    return torch.tensor(value, dtype=F64)


def basis(items):
    """Orthonormal (items, items - 1) basis of the vectors that sum to zero."""
    ones = torch.ones(items, 1, dtype=F64)
    return torch.linalg.qr(torch.cat([ones, torch.eye(items, dtype=F64)[:, 1:]], 1))[0][:, 1:]


def coordinates(x):
    """(B, N, d) -> (B, (N - 1) d) coordinates on the subspace."""
    return torch.einsum("nk,bnd->bkd", basis(x.shape[1]), x).flatten(1)


def centred(rows=4, mask=None, seed=0):
    return remove_mean(KeyedNoise(seed).normal(torch.empty(rows, N, D, dtype=F64)), mask)


def centre_of_mass(x, mask=None):
    weight = torch.ones(x.shape[:2], dtype=F64) if mask is None else mask.to(F64)
    return ((x * weight[..., None]).sum(1) / weight.sum(1, keepdim=True)).abs().max()


@pytest.mark.parametrize("mask", [None, MASK], ids=["all real", "masked"])
@pytest.mark.parametrize("schedule", [DiscreteSchedule.linear(20), LinearVP(), EDMSchedule()])
def test_every_draw_has_zero_centre_of_mass(mask, schedule):
    process = CentredGaussianProcess(schedule, mask=mask)
    x, noise, t, s = centred(mask=mask), KeyedNoise(1), at(0.75), at(0.5)
    corrupted = process.q_sample(x, t, noise)
    z = corrupted.z
    prediction = process.predict(torch.randn(4, N, D, dtype=F64), z, t)
    draws = {
        "prior": process.prior(x, noise) / schedule.prior_std,
        "kernel": z / schedule.prior_std,
        "eps": corrupted.eps,
        "forward": process.forward_step(z, s, t, noise) / schedule.prior_std,
        "posterior": process.posterior(x, z, t, s).sample(noise),
        "reverse": process.reverse(prediction, t, s).sample(noise) / schedule.prior_std,
        "last": process.reverse(prediction, t, at(0.0)).sample(noise) / schedule.prior_std,
        "kernel object": process.kernel(x, t).sample(noise) / schedule.prior_std,
    }
    for name, value in draws.items():
        assert float(centre_of_mass(value, mask)) < 1e-12, name
        if mask is not None:
            assert bool((value[~mask] == 0).all()), name


@pytest.mark.parametrize("items", [2, 5, 9])
def test_noise_has_n_minus_one_times_d_degrees_of_freedom(items):
    n = 20_000
    process = CentredGaussianProcess(LinearVP())
    eps = process.q_sample(torch.zeros(n, items, D, dtype=F64), at(0.5), KeyedNoise(0)).eps
    freedom = (items - 1) * D
    squares = eps.square().flatten(1).sum(1)
    assert abs(float(squares.mean()) - freedom) < 4 * math.sqrt(2 * freedom / n)
    assert abs(float(squares.var()) / (2 * freedom) - 1) < 0.1
    assert process.dimension(eps).tolist() == [freedom] * n


def test_masked_rows_count_their_real_items():
    process, n = CentredGaussianProcess(LinearVP(), mask=MASK.repeat(5000, 1)), 5000
    eps = process.draw(torch.empty(4 * n, N, D, dtype=F64), KeyedNoise(0))
    squares = eps.square().flatten(1).sum(1).reshape(n, 4)
    for column, items in enumerate([5, 3, 2, 1]):
        freedom = (items - 1) * D
        error = abs(float(squares[:, column].mean()) - freedom)
        assert error <= 4 * math.sqrt(2 * freedom / n)
    assert process.dimension(eps)[:4].tolist() == [12, 6, 3, 0]


@pytest.mark.parametrize("var", [0.3, 2.0])
def test_log_density_is_that_of_a_gaussian_in_an_explicit_basis(var):
    process, x, mean = CentredGaussianProcess(LinearVP()), centred(seed=1), centred(seed=2)
    normal = torch.distributions.Normal(coordinates(mean), math.sqrt(var))
    expected = normal.log_prob(coordinates(x)).sum(1)
    for shape in ((), (4, 1, 1)):
        found = process.gaussian(mean, torch.full(shape, var, dtype=F64)).log_prob(x)
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_kl_is_that_of_gaussians_in_an_explicit_basis():
    process, one, other = CentredGaussianProcess(LinearVP()), centred(seed=1), centred(seed=2)
    p, q = process.gaussian(one, at(0.5)), process.gaussian(other, at(2.0))
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(coordinates(one), math.sqrt(0.5)),
        torch.distributions.Normal(coordinates(other), math.sqrt(2.0)),
    ).sum(1)
    assert torch.allclose(p.kl(q), expected, rtol=1e-12, atol=1e-12)


def test_padding_adds_nothing_to_densities():
    mask = MASK[1:2]
    padded = centred(1, mask)
    small = padded[:, :3]
    masked, plain = (
        CentredGaussianProcess(LinearVP(), mask=mask),
        CentredGaussianProcess(LinearVP()),
    )
    for call in (
        lambda process, x: process.gaussian(0 * x, at(0.7)).log_prob(x),
        lambda process, x: process.gaussian(x, at(0.7)).kl(process.gaussian(0 * x, at(1.3))),
        lambda process, x: process.prior_divergence(x),
        lambda process, x: process.dimension(x),
    ):
        assert torch.allclose(call(masked, padded), call(plain, small), rtol=1e-13, atol=1e-13)


def test_density_integrates_to_one_on_the_subspace():
    # Two items on a line: the subspace is the line (1, -1) y / sqrt(2).
    y = torch.linspace(-12, 12, 4001, dtype=F64)
    x = torch.stack([y, -y], 1)[..., None] / math.sqrt(2)
    process = CentredGaussianProcess(LinearVP())
    density = process.gaussian(torch.zeros_like(x), at(0.8)).log_prob(x).exp()
    assert float(torch.trapezoid(density, y)) == pytest.approx(1, abs=1e-12)


def test_one_item_has_no_freedom():
    process, x = CentredGaussianProcess(LinearVP()), torch.zeros(2, 1, 3, dtype=F64)
    assert process.gaussian(x, at(0.5)).log_prob(x).tolist() == [0, 0]
    assert process.prior_divergence(x).tolist() == [0, 0]


def test_steps_commute_with_rotations_and_ignore_translations():
    process, x, z = CentredGaussianProcess(DiscreteSchedule.linear(20)), centred(), centred(seed=3)
    rotation = torch.linalg.qr(KeyedNoise(5).normal(torch.empty(3, 3, dtype=F64)))[0]
    t, s = at(0.5), at(0.25)
    turned = process.posterior(x @ rotation, z @ rotation, t, s)
    plain = process.posterior(x, z, t, s)
    assert torch.allclose(turned.mean, plain.mean @ rotation, rtol=0, atol=1e-14)
    assert torch.equal(turned.log_prob(turned.mean), plain.log_prob(plain.mean))
    shifted = process.project(x + torch.randn(4, 1, 3, dtype=F64))
    assert torch.allclose(shifted, x, rtol=0, atol=1e-14)
    output = torch.randn(4, N, D, dtype=F64)
    moved = process.predict(output + 7.0, z, t)
    assert torch.allclose(moved.x0, process.predict(output, z, t).x0, rtol=0, atol=1e-12)


class Isotropic:
    """The exact denoiser of x ~ N(0, v I) on the subspace."""

    def __init__(self, process, v):
        self.process, self.v = process, v

    def __call__(self, z, t, cond=None):
        marginal = self.process.schedule.marginal(t)
        total = marginal.scale**2 * self.v + marginal.var
        prediction = self.process.prediction(z, t, x0=marginal.scale * self.v / total * z)
        return type(prediction)(
            z,
            marginal,
            prediction.value,
            prediction.parameterization,
            x0_var=self.v * marginal.var / total,
        )


def test_elbo_of_gaussian_points_is_exact():
    # E over x ~ p of the ELBO is E log p - KL(q(z_1) || prior), with optimal variance.
    v, n = 2.0, 2000
    process = CentredGaussianProcess(DiscreteSchedule.linear(50), variance="optimal")
    denoiser = Isotropic(process, v)
    x = math.sqrt(v) * process.draw(torch.empty(n, N, D, dtype=F64), KeyedNoise(8))
    bound = elbo(denoiser, x)
    exact = process.gaussian(torch.zeros_like(x), at(v)).log_prob(x)
    last = process.schedule.marginal(1.0)
    var = float(last.scale**2 * v + last.var)
    mismatch = 0.5 * (N - 1) * D * (var - 1 - math.log(var))
    gap = bound.total - exact
    assert abs(float(gap.mean()) + mismatch) < 4 * float(gap.std()) / math.sqrt(n)


def test_options_that_would_break_the_symmetry_are_refused():
    with pytest.raises(ConfigError, match="rotations"):
        CentredGaussianProcess(LinearVP(), variance="learned")
    with pytest.raises(ConfigError, match="bin_width"):
        CentredGaussianProcess(LinearVP(), bin_width=0.1)
    with pytest.raises(DataError, match="real item"):
        CentredGaussianProcess(LinearVP(), mask=torch.zeros(2, 3, dtype=torch.bool))


def test_with_mask_keeps_the_options():
    process = CentredGaussianProcess(EDMSchedule(), variance="beta", parameterization="x0")
    bound = process.with_mask(MASK)
    assert bound.mask is MASK
    assert bound.schedule is process.schedule
    assert (bound.variance, bound.parameterization) == ("beta", "x0")
    assert bound.with_mask(None).mask is None


def test_masks_work_on_the_device_of_the_state(device):
    mask = MASK.to(device)
    process = CentredGaussianProcess(DiscreteSchedule.linear(20), mask=mask)
    x = centred(mask=MASK).to(device)
    t, s = at(0.5), at(0.25)
    z = process.q_sample(x, t, KeyedNoise(0)).z
    prediction = process.prediction(z, t, eps=z)
    for value in (
        process.vlb_term(x, z, prediction, t, s),
        process.vlb_term(x, z, prediction, t, at(0.0)),
        process.prior_divergence(x),
    ):
        assert value.device == x.device
        assert bool(value.isfinite().all())
