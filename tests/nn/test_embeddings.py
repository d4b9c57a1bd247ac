"""Embeddings of the time and of raw coordinates, against their closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from scidiffusion.errors import ConfigError
from scidiffusion.nn import (
    FourierCoordinates,
    RandomFourierFeatures,
    SinusoidalEmbedding,
    TimeEmbedding,
)

NODES = torch.arange(1, 1001, dtype=torch.float32) / 1000


def test_sinusoidal_is_its_closed_form():
    time = torch.tensor([0.0, 0.137, 0.5, 1.0], dtype=torch.float64)
    embedded = SinusoidalEmbedding(8, scale=1000.0, max_period=10000.0)(time)
    assert embedded.shape == (4, 8)
    for row, t in zip(embedded.tolist(), time.tolist(), strict=True):
        phases = [1000 * t * 10000 ** (-i / 4) for i in range(4)]
        expected = [math.sin(p) for p in phases] + [math.cos(p) for p in phases]
        torch.testing.assert_close(row, expected, rtol=0, atol=1e-12)


def test_a_shift_in_time_is_a_rotation_of_the_sinusoidal_embedding():
    embedding = SinusoidalEmbedding(16)
    a, b = torch.tensor([0.2, 0.9], dtype=torch.float64), torch.tensor([0.5, 0.6]).double()
    product = (embedding(a) * embedding(b)).sum(-1)
    expected = (embedding((a - b).abs())[:, 8:]).sum(-1)  # sum of the cosines of the difference
    torch.testing.assert_close(product, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "embedding",
    [
        SinusoidalEmbedding(32),
        SinusoidalEmbedding(128),
        RandomFourierFeatures(32, seed=0),
        RandomFourierFeatures(128, seed=3),
        TimeEmbedding(32),
        TimeEmbedding(32, "fourier"),
    ],
    ids=repr,
)
def test_all_thousand_nodes_are_told_apart(embedding):
    with torch.no_grad():
        embedded = embedding(NODES).double()
    distances = torch.cdist(embedded, embedded) + 1e9 * torch.eye(len(NODES))
    assert distances.min() > 1e-3 * embedded.norm(dim=-1).mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_embeddings_never_compute_in_half_precision(dtype):
    time = torch.tensor([0.25, 0.5, 1.0], dtype=dtype)  # exact in every precision
    for embedding in (SinusoidalEmbedding(16), RandomFourierFeatures(16)):
        expected = embedding(time.double())
        tolerance = 1e-12 if dtype == torch.float64 else 1e-3
        torch.testing.assert_close(embedding(time).double(), expected, rtol=0, atol=tolerance)


def test_random_features_approximate_the_gaussian_kernel():
    # Bochner: the mean of cos(2 pi w (a - b)) over w ~ N(0, s^2) is exp(-2 pi^2 s^2 (a - b)^2).
    features = RandomFourierFeatures(20000, bandwidth=0.5, seed=1)
    a, b = torch.linspace(0, 1, 9).double(), torch.zeros(9).double()
    kernel = 2 * (features(a) * features(b)).mean(-1)
    expected = torch.exp(-2 * math.pi**2 * 0.25 * (a - b) ** 2)
    torch.testing.assert_close(kernel, expected, rtol=0, atol=0.03)


def test_random_features_depend_on_their_seed_alone():
    torch.manual_seed(5)
    first = RandomFourierFeatures(16, seed=7)
    torch.manual_seed(6)
    again, other = RandomFourierFeatures(16, seed=7), RandomFourierFeatures(16, seed=8)
    assert torch.equal(first(NODES), again(NODES))
    assert not torch.allclose(first(NODES), other(NODES))
    assert not list(first.parameters())
    other.load_state_dict(first.state_dict())  # the frequencies travel with the model
    assert torch.equal(first(NODES), other(NODES))


def test_building_random_features_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    RandomFourierFeatures(16, seed=1)
    assert torch.equal(torch.rand(1), expected)


def test_random_features_of_several_inputs():
    features = RandomFourierFeatures(10, bandwidth=1.0, in_dim=3)
    x = torch.randn(4, 3, dtype=torch.float64)
    phase = 2 * math.pi * x @ features.frequencies.double()
    torch.testing.assert_close(features(x), torch.cat((phase.sin(), phase.cos()), -1))


def test_coordinates_are_their_closed_form():
    coordinates = FourierCoordinates((0.5, 2.0))
    z = torch.tensor([[0.3, -1.2], [0.0, 4.0]], dtype=torch.float64)
    expected = torch.cat(
        (z, (0.5 * z).sin(), (2 * z).sin(), (0.5 * z).cos(), (2 * z).cos()), dim=-1
    )
    torch.testing.assert_close(coordinates(z), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("shape", [(5, 1), (5, 3), (5, 4, 2)])
def test_coordinates_keep_leading_dimensions(shape):
    coordinates = FourierCoordinates()
    z = torch.randn(shape)
    out = coordinates(z)
    assert out.shape == (*shape[:-1], shape[-1] * 13)
    assert coordinates.out_dim(shape[-1]) == out.shape[-1]
    assert torch.equal(out[..., : shape[-1]], z)


@pytest.mark.parametrize("kind", ["sinusoidal", "fourier"])
def test_time_embedding_has_its_size_and_the_precision_of_its_parameters(kind):
    time = torch.rand(6)
    assert TimeEmbedding(24, kind, hidden=40)(time).shape == (6, 24)
    assert TimeEmbedding(7, kind)(time).shape == (6, 7)
    assert TimeEmbedding(24, kind).double()(time).dtype == torch.float64
    assert TimeEmbedding(24, kind).bfloat16()(time).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: SinusoidalEmbedding(7), "even"),
        (lambda: SinusoidalEmbedding(0), "even"),
        (lambda: SinusoidalEmbedding(8, scale=0.0), "scale"),
        (lambda: RandomFourierFeatures(9), "even"),
        (lambda: RandomFourierFeatures(8, bandwidth=-1.0), "bandwidth"),
        (lambda: FourierCoordinates(()), "frequencies"),
        (lambda: FourierCoordinates((1.0, -2.0)), "frequencies"),
        (lambda: FourierCoordinates((1.0, math.nan)), "frequencies"),
        (lambda: TimeEmbedding(8, "learned"), "'learned'"),
        (lambda: TimeEmbedding(0), ">= 1"),
    ],
)
def test_impossible_options_are_refused(build, named):
    with pytest.raises(ConfigError, match=named):
        build()
