"""What training reaches, measured against the exact answer and not against the loss."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from scidiffusion.core import (
    DiscreteSchedule,
    GaussianProcess,
    HybridLoss,
    KeyedNoise,
    LinearVP,
    NetworkDenoiser,
    elbo,
)
from scidiffusion.nn import ResidualMLP
from scidiffusion.testing import GaussianMixtureOracle
from scidiffusion.toy import DensityDiffusion, prince_mixture
from scidiffusion.training import TrainConfig, train

F64 = torch.float64


@pytest.fixture(scope="module")
def model() -> DensityDiffusion:
    """The 1-D mixture of Prince's notebooks, learned with the default options."""
    X, _ = prince_mixture(20_000, random_state=0)
    return DensityDiffusion(random_state=0, progress=False).fit(X)


def standardised_oracle(model: DensityDiffusion) -> GaussianMixtureOracle:
    """The exact denoiser in the coordinates that the model was trained in."""
    data = GaussianMixtureOracle.prince(GaussianProcess(LinearVP()))
    mean, scale = float(model.mean_[0]), float(model.scale_[0])
    variances = data.covariances[:, 0, 0] / scale**2
    return GaussianMixtureOracle(
        data.weights, (data.means[:, 0] - mean) / scale, variances, model.denoiser_.process
    )


def test_samples_are_near_the_mixture(model: DensityDiffusion) -> None:
    """Wasserstein-1 distance at most .03; 4,000 exact draws are .013 away."""
    oracle = GaussianMixtureOracle.prince(GaussianProcess(LinearVP()))
    samples = torch.from_numpy(model.sample(4000, random_state=1))
    assert oracle.wasserstein_1(samples) <= 0.03


def test_excess_eps_error_is_small(model: DensityDiffusion) -> None:
    """The loss has a floor that no network passes; what counts is the excess over it."""
    oracle = standardised_oracle(model)
    excess = []
    with torch.no_grad():
        for node in range(1, 101):
            t = torch.tensor(node / 100, dtype=F64)
            x, _ = oracle.sample(2000, KeyedNoise(node))
            z = oracle.process.q_sample(x, t, KeyedNoise(7).at(node)).z
            exact, learned = oracle(z, t).eps, model.denoiser_(z.float(), t).eps
            excess.append(float(((learned - exact) ** 2).mean()))
    assert np.mean(excess) <= 0.003


def test_log_density_is_near_the_exact_one(model: DensityDiffusion) -> None:
    """On fresh rows the mean ODE likelihood is within .03 nats of the truth, the ELBO below."""
    X, _ = prince_mixture(1000, random_state=5)
    oracle = GaussianMixtureOracle.prince(GaussianProcess(LinearVP()))
    exact = float(oracle.log_prob(torch.from_numpy(X)).mean())
    assert abs(model.score(X) - exact) < 0.03
    bound = model.score_samples(X, method="elbo", steps=200).mean()
    assert exact - 0.15 < bound < exact + 0.03


def test_learned_variance_matches_the_closed_form() -> None:
    """On Gaussian data the best reverse variance is known at every node: within 2 % there.

    The optimum is beta tilde + (weight of x)^2 Var[x | z]; the hybrid objective trains only the
    variance by the ELBO. The data's variance is chosen so that it lies well inside the range
    [beta tilde, beta], where an error of the network would show.
    """
    mean, var, nodes = 0.0, 0.25, 20
    process = GaussianProcess(DiscreteSchedule.linear(nodes), variance="learned")
    exact = GaussianMixtureOracle([1.0], [mean], [var], process)
    x, _ = exact.sample(20_000, KeyedNoise(3))
    torch.manual_seed(0)
    network = ResidualMLP(1, 2, width=64, blocks=2, embed_dim=64)
    denoiser = NetworkDenoiser(network, process, learned_variance=True)
    train(
        denoiser,
        HybridLoss(weight=0.1),
        x.float(),
        config=TrainConfig(
            max_steps=1500, batch_size=1024, lr=3e-3, ema_decay=0.995, progress=False
        ),
    )
    optimal = GaussianProcess(process.schedule, variance="optimal")
    grid = process.schedule.grid(nodes)
    errors = []
    with torch.no_grad():
        for t, s in pairwise(grid[:-1]):
            z = process.q_sample(x[:2000], t, KeyedNoise(4)).z
            learned = process.reverse_variance(denoiser(z.float(), t), t, s).mean()
            errors.append(float(learned / optimal.reverse_variance(exact(z, t), t, s).mean()) - 1)
    assert np.abs(errors).max() < 0.02

    def nll(variance: str) -> float:
        fixed = GaussianProcess(process.schedule, variance=variance)
        oracle = GaussianMixtureOracle([1.0], [mean], [var], fixed)
        return -float(elbo(oracle, x[:4000]).divergences.sum(1).mul(-1).mean())

    class Learned:
        process = denoiser.process

        def __call__(self, z, t, cond=None):
            return denoiser(z.float(), t, cond)

    learned_nll = float(elbo(Learned(), x[:4000].float()).divergences.sum(1).mean())
    assert learned_nll <= min(nll("beta"), nll("posterior")) + 1e-3
