"""Frames and their laws against dense linear algebra, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scidiffusion.timeseries.bank import Window
from scidiffusion.timeseries.frame import Frame, KroneckerLaw, SeriesFactor
from scidiffusion.timeseries.kriging import DenseLaw, KrigingFloor, location

F64 = torch.float64


def covariance(size, seed, strength=1.0):
    root = torch.from_numpy(np.random.default_rng(seed).normal(size=(size, size)))
    return strength * root @ root.T / size + torch.diag(torch.linspace(0.5, 2, size, dtype=F64))


def decaying(size, rho):
    step = torch.arange(size, dtype=F64)
    return rho ** (step[:, None] - step[None]).abs()


def kronecker(dim=5, horizon=4, rank=5):
    law = KroneckerLaw(dim, horizon, rank).double()
    law.series.fit(covariance(dim, 0))
    law.time.copy_(torch.linalg.cholesky(covariance(horizon, 1)))
    return law


def matrix_of(operator, dim, horizon):
    """The matrix of a linear operator on (D, Z) cells."""
    unit = torch.eye(dim * horizon, dtype=F64).reshape(1, -1, dim, horizon)
    return operator(unit)[0].flatten(1).T


@pytest.mark.parametrize("rank", [5, 2])
def test_a_kronecker_law_is_its_dense_covariance(rank):
    law = kronecker(rank=rank)
    root = matrix_of(law.colour, 5, 4)
    full = matrix_of(law.covariance, 5, 4)
    eye = torch.eye(20, dtype=F64)
    torch.testing.assert_close(root @ root.T, full, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(matrix_of(law.whiten, 5, 4) @ root, eye, rtol=1e-8, atol=1e-8)
    factor = matrix_of(lambda w: law.series.colour(w), 5, 1)
    dense = torch.kron(factor @ factor.T, law.time @ law.time.T)
    torch.testing.assert_close(full, dense, rtol=1e-8, atol=1e-8)
    assert float(law.log_det()) == pytest.approx(0.5 * float(torch.logdet(full)), rel=1e-9)
    std = full.diagonal().sqrt().reshape(1, 5, 4)
    torch.testing.assert_close(law.std(), std, rtol=1e-8, atol=1e-8)
    # Rows without a dimension of paths are whitened alike.
    rows = torch.randn(3, 5, 4, dtype=F64)
    torch.testing.assert_close(law.whiten(rows), law.whiten(rows[:, None])[:, 0])


def test_full_rank_keeps_the_covariance_between_series_and_low_rank_its_variances():
    given = covariance(6, 2)
    sd = given.diagonal().sqrt()
    full, low = SeriesFactor(6, 6).double(), SeriesFactor(6, 2).double()
    full.fit(given, shrink=1e-6)
    low.fit(given, shrink=1e-6)
    root = matrix_of(full.colour, 6, 1)
    torch.testing.assert_close(root @ root.T, given, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(low.std, sd, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(full.std, sd, rtol=1e-8, atol=1e-8)


def test_low_rank_recovers_a_factor_model():
    loading = torch.from_numpy(np.random.default_rng(0).normal(size=(30, 2)))
    loading = loading / loading.norm(dim=1, keepdim=True)
    given = 0.7 * loading @ loading.T + 0.3 * torch.eye(30, dtype=F64)
    law = SeriesFactor(30, 2).double()
    law.fit(given, shrink=1e-6)
    root = matrix_of(law.colour, 30, 1)
    torch.testing.assert_close(root @ root.T, given, rtol=0, atol=1e-4)


def test_a_dense_law_has_a_covariance_for_each_window_and_series():
    factor = torch.linalg.cholesky(
        torch.stack([torch.stack([covariance(4, 3 * b + d) for d in range(3)]) for b in range(2)])
    )
    law = DenseLaw(factor)
    white = torch.randn(2, 5, 3, 4, dtype=F64)
    coloured = law.colour(white)
    for b in range(2):
        for d in range(3):
            expected = white[b, :, d] @ factor[b, d].T
            torch.testing.assert_close(coloured[b, :, d], expected)
            full = factor[b, d] @ factor[b, d].T
            torch.testing.assert_close(law.covariance(white)[b, :, d], white[b, :, d] @ full)
    torch.testing.assert_close(law.whiten(coloured), white, rtol=1e-9, atol=1e-9)
    dense = torch.linalg.slogdet(factor).logabsdet.sum(1)
    torch.testing.assert_close(law.log_det(), dense)


def test_values_and_residuals_are_inverse_and_noise_has_the_law_of_the_chosen_series():
    law = kronecker()
    chosen = torch.tensor([3, 0])
    frame = Frame(
        torch.randn(2, 2, 4, dtype=F64),
        torch.rand(2, 2, 1, dtype=F64) + 0.5,
        law.std()[:, chosen],
        law,
        chosen,
    )
    value = torch.randn(2, 2, 4, dtype=F64)
    torch.testing.assert_close(frame.value(frame.residual(value)), value)
    paths = frame.value(torch.zeros(2, 6, 2, 4, dtype=F64))
    torch.testing.assert_close(paths, frame.base[:, None].expand_as(paths))
    assert frame.law_dim == 5
    # The map from white noise of all series to noise of two is those rows of A.
    unit = torch.eye(20, dtype=F64).reshape(1, 20, 5, 4)
    rows = frame.noise(unit)[0].flatten(1).T
    dense = matrix_of(law.covariance, 5, 4).reshape(5, 4, 5, 4)[chosen][:, :, chosen]
    torch.testing.assert_close(rows @ rows.T, dense.reshape(8, 8), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("missing", ["none", "cells", "series"])
def test_fitting_recovers_a_kronecker_covariance(missing):
    rng = np.random.default_rng(0)
    between = np.array([[1.0, 1.2, 0.0], [1.2, 4.0, -0.5], [0.0, -0.5, 0.25 + 0.25]])
    time = decaying(6, 0.7).numpy() * np.outer(np.linspace(0.6, 1.4, 6), np.linspace(0.6, 1.4, 6))
    time /= np.trace(time) / 6
    root = np.kron(np.linalg.cholesky(between), np.linalg.cholesky(time))
    residual = (rng.standard_normal((6000, 18)) @ root.T).reshape(-1, 3, 6)
    observed = np.ones_like(residual, dtype=bool)
    if missing == "cells":
        observed = rng.random(residual.shape) > 0.4
    if missing == "series":
        observed = np.broadcast_to(rng.random((6000, 3, 1)) > 0.3, residual.shape)
    poisoned = np.where(observed, residual, 1e6)
    law = KroneckerLaw(3, 6, 3).double()
    law.fit(torch.from_numpy(poisoned), torch.from_numpy(observed.copy()))
    fitted = matrix_of(law.covariance, 3, 6)
    truth = torch.from_numpy(np.kron(between, time))
    scale = truth.diagonal().sqrt()
    error = (fitted - truth) / (scale[:, None] * scale[None])
    assert float(error.abs().max()) < 0.06
    wrong = (torch.diag(truth.diagonal()) - truth) / (scale[:, None] * scale[None])
    assert float(wrong.abs().max()) > 0.5


def test_a_sum_over_series_has_its_variance_where_only_slow_errors_are_common():
    # No Kronecker product: the level of a window is common to all series, the rest is of a cell.
    rng, dim, horizon = np.random.default_rng(1), 8, 12
    level = rng.standard_normal((4000, 1, 1))
    residual = torch.from_numpy(level + rng.standard_normal((4000, dim, horizon)))
    law = KroneckerLaw(dim, horizon, dim).double()
    law.fit(residual, torch.ones_like(residual, dtype=torch.bool))
    cells = matrix_of(law.covariance, dim, horizon).reshape(dim, horizon, dim, horizon)
    variance = cells.sum((0, 2)).diagonal()
    torch.testing.assert_close(
        variance, torch.full_like(variance, dim**2 + dim), rtol=0.1, atol=0.0
    )
    torch.testing.assert_close(law.std(), torch.full_like(law.std(), 2**0.5), rtol=0.05, atol=0.0)


# --- kriging ---------------------------------------------------------------------------------


def window(value, observed=None):
    value = torch.as_tensor(value)
    batch, dim, length = value.shape
    empty = value.new_zeros(batch, 0, length)
    seen = torch.ones_like(value, dtype=torch.bool) if observed is None else observed
    return Window(
        torch.where(seen, value, 0.0),
        seen,
        empty,
        empty,
        empty.bool(),
        empty,
        value.new_zeros(batch, 0),
        torch.zeros(batch, 0, dtype=torch.long),
        torch.arange(dim),
        length,
    )


def test_kriging_is_gaussian_conditioning():
    length = 9
    floor = KrigingFloor(length).double()
    floor.kernel.copy_(decaying(length, 0.8) + 0.1 * torch.eye(length, dtype=F64))
    floor.prior.copy_(decaying(length, 0.5))
    value = torch.randn(2, 3, length, dtype=F64, generator=torch.Generator().manual_seed(0))
    given = torch.rand(2, 3, length, generator=torch.Generator().manual_seed(1)) < 0.5
    given[0, 0] = True
    given[1, 2] = False
    frame = floor.frame(window(value), given)
    mean, spread = location(value, given)
    for b in range(2):
        for d in range(3):
            g = given[b, d]
            h = ~g
            if not h.any():
                torch.testing.assert_close(frame.base[b, d], value[b, d])
                continue
            unit = (value[b, d] - mean[b, d]) / spread[b, d]
            kernel = floor.kernel if g.any() else floor.prior
            gain = kernel[h][:, g] @ torch.linalg.inv(kernel[g][:, g])
            base = mean[b, d] + spread[b, d] * (gain @ unit[g])
            rest = kernel[h][:, h] - gain @ kernel[g][:, h]
            torch.testing.assert_close(frame.base[b, d, h], base, rtol=1e-8, atol=1e-8)
            law = frame.law.factor[b, d] @ frame.law.factor[b, d].T
            # The jitter of single precision is all that is added.
            torch.testing.assert_close(law[h][:, h], rest, rtol=0, atol=2e-5)
            torch.testing.assert_close(frame.std[b, d], law.diagonal().sqrt())
            torch.testing.assert_close(frame.base[b, d, g], value[b, d, g])
    assert float(spread[1, 2]) == 1
    assert float(mean[1, 2]) == 0


def test_kriging_interpolates_what_repeats():
    length, period = 48, 8
    pattern = torch.randn(4, period, generator=torch.Generator().manual_seed(0))
    value = torch.stack(
        [pattern[:, (torch.arange(length) + shift) % period] for shift in range(60)]
    )
    floor = KrigingFloor(length)
    floor.fit(window(value))
    given = torch.rand(value.shape, generator=torch.Generator().manual_seed(1)) < 0.85
    given[..., 20:26] = False
    frame = floor.frame(window(value), given)
    error = (frame.base - value)[~given]
    assert float(error.pow(2).mean().sqrt()) < 0.1 * float(value.std())
    gap = slice(20, 26)
    line = (
        value[..., 19:20] + (value[..., 26:27] - value[..., 19:20]) * torch.linspace(0, 1, 8)[1:7]
    )
    straight = (line - value[..., gap]).pow(2).mean().sqrt()
    ours = (frame.base - value)[..., gap].pow(2).mean().sqrt()
    assert float(ours) < 0.2 * float(straight)


def test_kriging_of_a_random_walk_is_the_straight_line():
    walk = torch.randn(400, 1, 30, generator=torch.Generator().manual_seed(0)).cumsum(-1)
    floor = KrigingFloor(30)
    floor.fit(window(walk))
    given = torch.ones(400, 1, 30, dtype=torch.bool)
    given[..., 12:17] = False
    frame = floor.frame(window(walk), given)
    share = torch.linspace(0, 1, 7)[1:6]
    line = walk[..., 11:12] + (walk[..., 17:18] - walk[..., 11:12]) * share
    apart = (frame.base[..., 12:17] - line).pow(2).mean().sqrt()
    truth = (walk[..., 12:17] - line).pow(2).mean().sqrt()
    assert float(apart) < 0.2 * float(truth)
    # A Brownian bridge: the variance in the middle of a gap is the largest, and calibrated.
    spread = (frame.std * frame.scale)[..., 12:17]
    assert (spread[:, 0, 2] > spread[:, 0, 0]).all()
    score = ((walk - frame.base)[..., 12:17] / spread).pow(2).mean()
    assert float(score) == pytest.approx(1, abs=0.25)


def test_of_a_window_without_a_given_cell_the_law_is_that_of_the_data():
    """Kriging leaves the level of a window open: drawn from scratch it would be too wide."""
    step = torch.arange(4000 + 20)
    noise = torch.randn(4020, generator=torch.Generator().manual_seed(0))
    series = (2 * torch.pi * step / 7).sin() * 2**0.5 * 0.9 + noise * 0.19**0.5
    value = series.unfold(0, 20, 1)[:, None]
    floor = KrigingFloor(20)
    floor.fit(window(value))
    frame = floor.frame(window(value[:1]), torch.zeros(1, 1, 20, dtype=torch.bool))
    assert (frame.base == 0).all()
    assert float(frame.std.mean()) == pytest.approx(1, abs=0.03)
    law = frame.law.factor[0, 0] @ frame.law.factor[0, 0].T
    assert float(law[0, 7]) == pytest.approx(0.81, abs=0.05)
    assert float(law[0, 3]) == pytest.approx(0.81 * np.cos(6 * np.pi / 7), abs=0.05)
    assert float(floor.kernel.diagonal().mean()) > 1.5


def test_kriging_moves_and_scales_with_the_window():
    walk = torch.randn(20, 2, 24, dtype=F64, generator=torch.Generator().manual_seed(2)).cumsum(-1)
    floor = KrigingFloor(24).double()
    floor.fit(window(walk))
    given = torch.rand(walk.shape, generator=torch.Generator().manual_seed(3)) < 0.6
    base = floor.frame(window(walk), given).base
    moved = floor.frame(window(walk + 50), given).base
    torch.testing.assert_close(moved, base + 50, rtol=1e-8, atol=1e-8)


def test_the_variogram_steps_over_missing_cells():
    walk = torch.randn(600, 1, 20, dtype=F64, generator=torch.Generator().manual_seed(4)).cumsum(
        -1
    )
    seen = torch.rand(walk.shape, generator=torch.Generator().manual_seed(5)) < 0.7
    whole, part = KrigingFloor(20).double(), KrigingFloor(20).double()
    whole.fit(window(walk))
    part.fit(window(torch.where(seen, walk, 1e5), seen))
    difference = (whole.kernel - part.kernel).abs().max() / whole.kernel.diagonal().mean()
    assert float(difference) < 0.1
