"""On CUDA: every network trains and samples, and agrees with the CPU to float32.

The exact and contract suites run on CUDA too, through the `device` fixture: `make test-gpu`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from scidiffusion import DensityDiffusion, DiffusionForecaster, TabularDiffusion
from scidiffusion.core import (
    EDMLoss,
    EDMSchedule,
    GaussianProcess,
    GeneratorNoise,
    KeyedNoise,
    LinearVP,
    NetworkDenoiser,
    PreconditionedDenoiser,
    SimpleLoss,
)
from scidiffusion.nn import ResidualMLP, Transformer
from scidiffusion.samplers import DDIM, DPMSolverPP, Heun, sample
from scidiffusion.toy import two_moons

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def network(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if kind == "mlp":
        return ResidualMLP(6, width=64, blocks=2)
    return Transformer(3, 3, dim=32, depth=2, heads=2)


SHAPES = {"mlp": (64, 6), "transformer": (64, 5, 3)}


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
@pytest.mark.parametrize("preconditioned", [False, True])
def test_every_network_trains_and_samples(kind: str, preconditioned: bool) -> None:
    if preconditioned:
        process = GaussianProcess(EDMSchedule())
        denoiser = PreconditionedDenoiser(network(kind), process).cuda()
        objective = EDMLoss()
    else:
        process = GaussianProcess(LinearVP())
        denoiser = NetworkDenoiser(network(kind), process).cuda()
        objective = SimpleLoss()
    x = KeyedNoise(1).normal(torch.empty(SHAPES[kind], device="cuda")) * 0.3
    optimizer = torch.optim.Adam(denoiser.parameters(), 1e-3)
    losses = []
    for _ in range(30):
        noise = GeneratorNoise(torch.Generator("cuda").manual_seed(0))
        loss = objective(denoiser, x, noise).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    drawn = sample(
        process, denoiser.eval(), x, sampler=Heun() if preconditioned else DDIM(), steps=5
    )
    assert drawn.is_cuda
    assert torch.isfinite(drawn).all()


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
def test_samples_agree_with_the_cpu(kind: str) -> None:
    process = GaussianProcess(LinearVP())
    denoiser = NetworkDenoiser(network(kind), process).eval()
    like = torch.empty(SHAPES[kind])
    options = {"sampler": DPMSolverPP(), "steps": 10, "noise": KeyedNoise(3)}
    expected = sample(process, denoiser, like, **options)
    found = sample(process, denoiser.cuda(), like.cuda(), **options)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-4)


def test_density_estimator_on_cuda(tmp_path) -> None:
    X, y = two_moons(500)
    options = {"width": 32, "blocks": 1, "max_steps": 60, "progress": False, "random_state": 0}
    model = DensityDiffusion(**options, device="cuda").fit(X, y)
    path = model.save(tmp_path / "model")
    on_cpu = DensityDiffusion.load(path, device="cpu")
    expected = on_cpu.sample(100, conditions=1, random_state=1)
    np.testing.assert_allclose(
        model.sample(100, conditions=1, random_state=1), expected, rtol=1e-3, atol=1e-3
    )
    np.testing.assert_allclose(
        model.score_samples(X[:20], steps=20), on_cpu.score_samples(X[:20], steps=20), atol=1e-2
    )


def test_table_estimator_on_cuda(tmp_path) -> None:
    rng = np.random.default_rng(0)
    label = rng.choice(["a", "b"], 400)
    table = pd.DataFrame({"label": label, "x": (label == "b") * 3 + rng.standard_normal(400)})
    options = {"width": 32, "blocks": 1, "max_steps": 60, "progress": False, "random_state": 0}
    model = TabularDiffusion(**options, device="cuda", sample_steps=10).fit(table)
    path = model.save(tmp_path / "model")
    on_cpu = TabularDiffusion.load(path, device="cpu").sample(200, random_state=1)
    on_gpu = model.sample(200, random_state=1, batch_size=100)
    # A category may flip where two probabilities meet to float32; hardly any does.
    assert (on_cpu["label"] == on_gpu["label"]).mean() > 0.98
    same = on_cpu["label"] == on_gpu["label"]
    assert (on_cpu["x"] - on_gpu["x"])[same].abs().median() < 1e-3


def test_a_forecaster_fitted_on_cuda_forecasts_alike_on_both():
    index = pd.date_range("2024-01-01", periods=400, freq="h")
    rng = np.random.default_rng(0)
    wave = np.sin(2 * np.pi * np.arange(400) / 24)
    frame = pd.DataFrame({name: wave + 0.2 * rng.standard_normal(400) for name in "abc"}, index)
    frame.iloc[50:60, 1] = np.nan
    options = {"width": 32, "blocks": 1, "max_steps": 40, "precision": "float32"}
    model = DiffusionForecaster(12, options=options, device="cuda", random_state=0, progress=False)
    model.fit(frame)
    there = model.forecast(frame, num_samples=50, random_state=1)[0].samples
    filled = model.impute(frame, num_samples=10, random_state=1)
    model.model_.to("cpu")
    here = model.forecast(frame, num_samples=50, random_state=1)[0].samples
    np.testing.assert_allclose(there, here, atol=2e-3)
    np.testing.assert_allclose(
        filled, model.impute(frame, num_samples=10, random_state=1), atol=2e-3
    )
