"""An optional cross-check: one step of ours against the same step of diffusers."""

from __future__ import annotations

import pytest
import torch

from scidiffusion.core import DiscreteSchedule, GaussianProcess, KeyedNoise
from scidiffusion.samplers import DDIM, Ancestral, Carry, DPMSolverPP, sample
from scidiffusion.testing import GaussianMixtureOracle

diffusers = pytest.importorskip("diffusers")

F64 = torch.float64
NODES = 100


def ours(prediction="epsilon", **options):
    names = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
    schedule = DiscreteSchedule(torch.linspace(1e-3, 0.2, NODES, dtype=F64))
    process = GaussianProcess(schedule, parameterization=names[prediction], **options)
    return process, GaussianMixtureOracle.prince(process)


def theirs(kind, **options):
    """Their node k is index k - 1: they have none for the data. No clipping, as here."""
    betas = torch.linspace(1e-3, 0.2, NODES, dtype=F64).tolist()
    return kind(num_train_timesteps=NODES, trained_betas=betas, **options)


def output(process, oracle, z, t):
    prediction = oracle(z, t)
    return prediction.target(process.parameterization)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize(
    ("variance", "theirs_variance"), [("posterior", "fixed_small"), ("beta", "fixed_large")]
)
@pytest.mark.parametrize("node", [1, 2, 37, 99, 100])
def test_ancestral_step(node, variance, theirs_variance, prediction):
    process, oracle = ours(prediction, variance=variance)
    scheduler = theirs(
        diffusers.DDPMScheduler,
        variance_type=theirs_variance,
        prediction_type=prediction,
        clip_sample=False,
    )
    scheduler.set_timesteps(NODES)
    z = torch.linspace(-3, 3, 50, dtype=F64)[:, None]
    t = torch.tensor(node / NODES, dtype=F64)
    s = torch.tensor((node - 1) / NODES, dtype=F64)
    model_output = output(process, oracle, z, t)
    their_step = scheduler.step(
        model_output, node - 1, z, generator=torch.Generator().manual_seed(0)
    ).prev_sample
    noise = torch.randn(z.shape, dtype=F64, generator=torch.Generator().manual_seed(0))
    reverse = process.reverse(process.predict(model_output, z, t), t, s)
    torch.testing.assert_close(
        reverse.mean + reverse.var.sqrt() * noise, their_step, rtol=1e-5, atol=1e-5
    )
    if node == 1:
        assert torch.equal(reverse.var, torch.zeros_like(reverse.var))
    # The same through the sampler, and different from a step to another node.
    stepped = Ancestral().step(process, oracle, Carry(z), t, s, KeyedNoise(0)).z
    expected = reverse.mean + reverse.var.sqrt() * KeyedNoise(0).normal(z)
    torch.testing.assert_close(stepped, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("steps", [NODES, 20])
def test_ddim(steps, eta):
    process, oracle = ours()
    scheduler = theirs(
        diffusers.DDIMScheduler,
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(steps)
    z = torch.linspace(-2, 2, 40, dtype=F64)[:, None]
    times = [(int(index) + 1) / NODES for index in scheduler.timesteps]
    grid = torch.tensor([*times, 0.0], dtype=F64)
    torch.testing.assert_close(grid, process.schedule.grid(steps, "uniform"))
    noise = KeyedNoise(1)
    mine = sample(process, oracle, z, sampler=DDIM(eta=eta), grid=grid, noise=noise, z=z)
    for index, timestep in enumerate(scheduler.timesteps, start=1):
        model_output = oracle(z, grid[index - 1]).eps
        # They draw noise in the last step as well, with variance zero.
        z = scheduler.step(
            model_output, timestep, z, eta=eta, variance_noise=noise.at(index).normal(z)
        ).prev_sample
    torch.testing.assert_close(mine, z, rtol=0, atol=2e-4)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
@pytest.mark.parametrize("steps", [10, 40])
def test_dpm_solver(steps):
    process, oracle = ours()
    scheduler = theirs(
        diffusers.DPMSolverMultistepScheduler,
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        timestep_spacing="trailing",
        final_sigmas_type="zero",
        lower_order_final=False,
        euler_at_final=False,
    )
    scheduler.set_timesteps(steps)
    z = torch.linspace(-2, 2, 40, dtype=F64)[:, None]
    grid = torch.tensor([*((int(k) + 1) / NODES for k in scheduler.timesteps), 0.0], dtype=F64)
    mine = sample(process, oracle, z, sampler=DPMSolverPP(), grid=grid, z=z)
    for index, timestep in enumerate(scheduler.timesteps):
        z = scheduler.step(oracle(z, grid[index]).eps, timestep, z).prev_sample
    torch.testing.assert_close(mine, z.to(F64), rtol=0, atol=2e-3)
