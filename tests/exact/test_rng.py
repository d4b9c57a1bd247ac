"""Noise is a pure function of (seed, stream, row, step), however the work is cut up."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from scidiffusion.core import ROW_BLOCK, GeneratorNoise, KeyedNoise
from scidiffusion.errors import ConfigError

KINDS = ("normal", "uniform")


def draw(noise, kind, like):
    return getattr(noise, kind)(like)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_do_not_depend_on_the_batch_size(kind, shape, dtype):
    rows = 2 * ROW_BLOCK + 88
    like = torch.empty(rows, *shape, dtype=dtype)
    source = KeyedNoise(5).child("x").at(3)
    whole = draw(source, kind, like)
    for batch in (7, 64, ROW_BLOCK, ROW_BLOCK + 1, rows):
        parts = [
            draw(source.rows(start), kind, like[start : start + batch])
            for start in range(0, rows, batch)
        ]
        assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("start", [0, 1, ROW_BLOCK - 3, ROW_BLOCK, 10 * ROW_BLOCK + 17])
def test_start_is_the_index_of_the_first_row(start):
    like = torch.empty(20, 4)
    full = KeyedNoise(1).normal(torch.empty(start + 20, 4))
    assert torch.equal(KeyedNoise(1, start=start).normal(like), full[start:])
    assert torch.equal(KeyedNoise(1).rows(start).normal(like), full[start:])


def test_a_draw_is_a_function_of_its_key_alone():
    noise, like = KeyedNoise(9, step=4), torch.empty(10, 2)
    first = noise.normal(like)
    noise.uniform(like), noise.child("other").normal(like), torch.randn(5)
    assert torch.equal(noise.normal(like), first)
    assert torch.equal(KeyedNoise(np.int64(9), step=4).normal(like), first)


def test_different_keys_give_independent_numbers():
    base, like = KeyedNoise(0), torch.empty(8192, 4, dtype=torch.float64)
    draws = {
        "base": base.normal(like),
        "uniform": base.uniform(like),
        "seed": KeyedNoise(1).normal(like),
        "negative seed": KeyedNoise(-1).normal(like),
        "large seed": KeyedNoise(2**80).normal(like),
        "step": base.at(1).normal(like),
        "stream": base.child("a").normal(like),
        "stream and step": base.child("a").at(1).normal(like),
        "nested": base.child("a").child("b").normal(like),
        "swapped": base.child("b").child("a").normal(like),
        "joined": base.child("ab").normal(like),
        "other rows": base.rows(8192).normal(like),
        "next block": base.rows(ROW_BLOCK).normal(like),
    }
    for (name, one), (other_name, other) in itertools.combinations(draws.items(), 2):
        correlation = np.corrcoef(one.flatten(), other.flatten())[0, 1]
        assert abs(correlation) < 4.5 / math.sqrt(one.numel()), (name, other_name)


def test_rows_columns_and_blocks_are_uncorrelated():
    columns = KeyedNoise(3).normal(torch.empty(20_000, 6, dtype=torch.float64))
    off_diagonal = np.corrcoef(columns.T) - np.eye(6)
    assert np.abs(off_diagonal).max() < 4.5 / math.sqrt(20_000)
    rows = KeyedNoise(3).normal(torch.empty(4, 20_000, dtype=torch.float64))
    assert np.abs(np.corrcoef(rows) - np.eye(4)).max() < 4.5 / math.sqrt(20_000)
    # The first rows of successive blocks come from different generators.
    heads = torch.stack([columns[i * ROW_BLOCK : i * ROW_BLOCK + 128, 0] for i in range(70)])
    assert abs(np.corrcoef(heads[:-1].flatten(), heads[1:].flatten())[0, 1]) < 4.5 / math.sqrt(
        69 * 128
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "noise", [KeyedNoise(11), GeneratorNoise(torch.Generator().manual_seed(11))]
)
def test_moments_and_distribution(noise, dtype):
    n = 100_000
    like = torch.empty(n, dtype=dtype)
    normal, uniform = noise.normal(like).double(), noise.uniform(like).double()
    for value, mean, var, fourth in ((normal, 0, 1, 3), (uniform, 0.5, 1 / 12, 1 / 80)):
        centred = value - mean
        assert abs(float(centred.mean())) < 4 * math.sqrt(var / n)
        assert abs(float((centred**2).mean()) - var) < 4 * math.sqrt((fourth - var**2) / n)
    assert abs(float((normal**4).mean()) - 3) < 4 * math.sqrt((105 - 9) / n)
    assert stats.kstest(normal, "norm").pvalue > 1e-3
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_dtype_follows_and_uniform_stays_below_one(dtype):
    like = torch.empty(50_000, dtype=dtype)
    normal, uniform = KeyedNoise(0).normal(like), KeyedNoise(0).uniform(like)
    assert normal.dtype == uniform.dtype == dtype
    assert float(uniform.min()) >= 0
    assert float(uniform.max()) < 1


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_integer_like_gives_float32(dtype):
    like = torch.zeros(5, 2, dtype=dtype)
    for noise in (KeyedNoise(0), GeneratorNoise()):
        for kind in KINDS:
            value = draw(noise, kind, like)
            assert value.dtype == torch.float32
            assert value.shape == like.shape
    expected = KeyedNoise(0).uniform(torch.empty(5, 2))
    assert torch.equal(KeyedNoise(0).uniform(like), expected)


def test_empty_batches_are_possible():
    assert KeyedNoise(0).normal(torch.empty(0, 3)).shape == (0, 3)
    assert KeyedNoise(0).uniform(torch.empty(4, 0)).shape == (4, 0)


def test_what_a_seed_means_is_frozen():
    # Philox bits through a fixed hash of the key: these numbers must survive every refactoring.
    value = KeyedNoise(0).child("frozen").at(2).uniform(torch.empty(2, 2, dtype=torch.float64))
    frozen = [
        [0.23668324775162441, 0.19365572854086077],
        [0.7125798977154717, 0.21333621532337832],
    ]
    assert torch.equal(value, torch.tensor(frozen, dtype=torch.float64))


def test_the_device_asked_for_is_kept(device):
    like = torch.empty(300, 2, device=device)
    value = KeyedNoise(0).normal(like)
    assert value.device.type == device.type
    assert torch.equal(value.cpu(), KeyedNoise(0).normal(like.cpu()))


def test_generator_noise_is_sequential_and_reproducible():
    like = torch.empty(4, 3)
    source = GeneratorNoise(torch.Generator().manual_seed(0))
    first, second = source.normal(like), source.child("a").at(7).normal(like)
    assert not torch.equal(first, second)
    again = GeneratorNoise(torch.Generator().manual_seed(0))
    assert torch.equal(again.normal(like), first)
    assert torch.equal(again.normal(like), second)


def test_generator_noise_falls_back_on_the_global_generator():
    torch.manual_seed(4)
    value = GeneratorNoise().uniform(torch.empty(3))
    torch.manual_seed(4)
    assert torch.equal(value, torch.rand(3))


@pytest.mark.parametrize("seed", [True, 1.0, "1", None, np.float64(3)])
def test_a_seed_must_be_an_integer(seed):
    with pytest.raises(ConfigError, match="seed"):
        KeyedNoise(seed)


def test_a_negative_start_is_refused():
    with pytest.raises(ConfigError, match="start"):
        KeyedNoise(0, start=-1)
