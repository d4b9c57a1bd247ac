"""A trained window model against processes whose predictive law is known in closed form.

The model does not know level and scale of a process but from what it sees of it: with a look-back
of 40 steps an exact forecaster of that kind would already lose four percent, hence 80 here.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from scidiffusion.timeseries.fitting import fit_series
from scidiffusion.timeseries.scoring_rules import energy_score, fair_crps
from scidiffusion.timeseries.series import Series, SeriesSet

START = pd.Period("2020-01-01", freq="D")
H = 5
OPTIONS = {
    "width": 32,
    "blocks": 2,
    "encoder_blocks": 1,
    "precision": "float32",
    "device": "cpu",
    "seasons": (),
    "context_length": 80,
    "gap_share": 0.0,
    "antithetic": False,
    "dropout": 0.0,
    "lr": 3e-3,
    "ema_decay": 0.99,
    "batch_size": 64,
    "validate_every": 200,
}
pytestmark = pytest.mark.slow


def simulate(matrix, root, steps, seed):
    """(D, T) values of x_t = matrix x_{t-1} + root e_t, stationary."""
    noise = np.random.default_rng(seed).standard_normal((len(matrix), steps + 200))
    value = np.zeros_like(noise)
    for step in range(1, noise.shape[1]):
        value[:, step] = matrix @ value[:, step - 1] + root @ noise[:, step]
    return value[:, 200:]


def predictive_root(matrix, root):
    """Map from the noise of H steps, (H D,), to what follows the mean, (H D,)."""
    dim = len(matrix)
    result = np.zeros((H * dim, H * dim))
    for h in range(H):
        for k in range(h + 1):
            block = np.linalg.matrix_power(matrix, h - k) @ root
            result[h * dim : (h + 1) * dim, k * dim : (k + 1) * dim] = block
    return result


def windows(matrix, root, count, seed):
    """Items that end at `count` origins far apart, their futures (N, H, D) and exact means."""
    gap = 25
    value = simulate(matrix, root, gap * count + 300, seed)
    ends = 200 + gap * np.arange(count)
    items = [Series(value[:, end - 200 : end], START) for end in ends]
    future = np.stack([value[:, end : end + H].T for end in ends])
    powers = np.stack([np.linalg.matrix_power(matrix, h + 1) for h in range(H)])
    mean = np.einsum("hij,jn->nhi", powers, value[:, ends - 1])
    return items, future, mean


def trained(matrix, root, steps, **options):
    data = SeriesSet([Series(simulate(matrix, root, steps, 0), START)], "D")
    return fit_series(data, H, options={**OPTIONS, **options}, seed=0)


def gaussian_crps(truth, mean, sd):
    z = (truth - mean) / sd
    return sd * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))


def test_an_autoregression_is_forecast_within_three_percent_of_its_law():
    matrix, root = np.array([[0.8]]), np.eye(1)
    model = trained(matrix, root, 60_000, max_steps=1200, draws=6)
    items, future, mean = windows(matrix, root, 400, seed=1)
    paths = np.stack(model.forecast(items, num_samples=100, seed=2))
    full = predictive_root(matrix, root)
    sd = np.sqrt(np.diag(full @ full.T))[:, None]
    exact = float(gaussian_crps(future, mean, sd).mean())
    ours = fair_crps(future, paths)
    model.denoiser.shrinkage.fill_(0.0)
    floor = fair_crps(future, np.stack(model.forecast(items, num_samples=100, seed=2)))
    print(f"exact {exact:.4f} ours {ours / exact:.4f} floor {floor / exact:.4f}")
    assert 0.98 < ours / exact < 1.03
    # Joint paths: the steps are as correlated as those of the process.
    deviation = (paths - mean[:, None])[..., 0]
    correlation = np.corrcoef(deviation.reshape(-1, H).T)
    law = full @ full.T / np.outer(sd, sd)
    np.testing.assert_allclose(correlation, law, atol=0.08)


def test_a_vector_autoregression_is_forecast_within_three_percent_of_its_law():
    matrix = np.array([[0.6, 0.4, 0.0], [0.0, 0.5, -0.4], [0.3, 0.0, 0.5]])
    root = np.linalg.cholesky(np.array([[1.0, 0.7, 0.0], [0.7, 1.0, 0.3], [0.0, 0.3, 1.0]]))
    model = trained(matrix, root, 60_000, max_steps=800)
    items, future, mean = windows(matrix, root, 300, seed=1)
    paths = np.stack(model.forecast(items, num_samples=100, seed=2))
    full = predictive_root(matrix, root)
    noise = np.random.default_rng(3).standard_normal((300, 100, 3 * H)) @ full.T
    exact_paths = mean[:, None] + noise.reshape(300, 100, H, 3)
    sd = np.sqrt(np.diag(full @ full.T)).reshape(H, 3)
    exact_crps = float(gaussian_crps(future, mean, sd).mean())
    ours = fair_crps(future, paths) / exact_crps
    energy = energy_score(future, paths) / energy_score(future, exact_paths)
    model.denoiser.shrinkage.fill_(0.0)
    floor_paths = np.stack(model.forecast(items, num_samples=100, seed=2))
    floor = fair_crps(future, floor_paths) / exact_crps
    print(f"crps {ours:.4f} energy {energy:.4f} floor {floor:.4f}")
    assert 0.98 < ours < 1.03
    assert 0.98 < energy < 1.03
    assert floor > 1.05
