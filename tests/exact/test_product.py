"""A product of spaces is its parts side by side: same time, independent noise, sums of terms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scidiffusion.core import (
    AbsorbingProcess,
    CentredGaussianProcess,
    DiscreteSchedule,
    GaussianProcess,
    KeyedNoise,
    LinearVP,
    MultinomialProcess,
    ProductProcess,
    remove_mean,
)
from scidiffusion.core.process import batch_size, device_of, map_state
from scidiffusion.errors import ConfigError

F64 = torch.float64
ROWS = 6


def at(value):
    return torch.tensor(value, dtype=F64)


def product():
    schedule = DiscreteSchedule.cosine(20)
    return ProductProcess(
        {
            "num": GaussianProcess(DiscreteSchedule.linear(20)),
            "cat": MultinomialProcess(schedule, (2, 4)),
            "mask": AbsorbingProcess(schedule, 3),
            "xyz": CentredGaussianProcess(schedule, variance="beta"),
        }
    )


def state(rows=ROWS, device="cpu"):
    x = {
        "num": torch.randn(rows, 3, dtype=F64),
        "cat": torch.stack([torch.arange(rows) % 2, torch.arange(rows) % 4], 1),
        "mask": torch.arange(rows)[:, None] % 3,
        "xyz": remove_mean(torch.randn(rows, 4, 3, dtype=F64)),
    }
    return {name: value.to(device) for name, value in x.items()}


def outputs(device="cpu"):
    shapes = {"num": (3,), "cat": (2, 4), "mask": (1, 3), "xyz": (4, 3)}
    return {n: torch.randn(ROWS, *s, dtype=F64, device=device) for n, s in shapes.items()}


def same(one, other):
    return all(
        torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True)
    ) and list(one) == list(other)


def test_every_draw_is_that_of_each_part_with_its_own_stream(device):
    process, noise = product(), KeyedNoise(3).at(2)
    x, t, s = state(device=device), at(0.5), at(0.25)
    z = process.q_sample(x, t, noise)
    output = outputs(device)
    prediction = process.predict(output, z.z, t)
    for found, call in (
        (z.z, lambda n, p: p.q_sample(x[n], t, noise.child(n)).z),
        (z.eps, lambda n, p: p.q_sample(x[n], t, noise.child(n)).eps),
        (process.prior(x, noise), lambda n, p: p.prior(x[n], noise.child(n))),
        (
            process.forward_step(x, s, t, noise),
            lambda n, p: p.forward_step(x[n], s, t, noise.child(n)),
        ),
        (
            process.posterior(x, z.z, t, s).sample(noise),
            lambda n, p: p.posterior(x[n], z.z[n], t, s).sample(noise.child(n)),
        ),
        (
            process.reverse(prediction, t, s).sample(noise),
            lambda n, p: p.reverse(p.predict(output[n], z.z[n], t), t, s).sample(noise.child(n)),
        ),
        (
            process.reverse(prediction, t, s).mode,
            lambda n, p: p.reverse(p.predict(output[n], z.z[n], t), t, s).mode,
        ),
    ):
        for name, part in process.parts.items():
            expected = call(name, part)
            if expected is None:
                assert found[name] is None
            else:
                assert torch.equal(found[name], expected)


def test_parts_have_independent_noise():
    schedule, n = LinearVP(), 20_000
    process = ProductProcess({name: GaussianProcess(schedule) for name in ("a", "b")})
    x = {name: torch.zeros(n, 1, dtype=F64) for name in ("a", "b")}
    eps = process.q_sample(x, at(0.5), KeyedNoise(0)).eps
    correlation = np.corrcoef(eps["a"][:, 0], eps["b"][:, 0])[0, 1]
    assert abs(correlation) < 4 / np.sqrt(n)


@pytest.mark.parametrize("s", [0.0, 0.25, [0.0, 0.25, 0.0, 0.25, 0.05, 0.0]])
def test_terms_are_sums_over_the_parts(s):
    process, x = product(), state()
    s = at(s)
    t = torch.where(s > 0, 0.5, 0.05).to(F64)
    z = process.q_sample(x, t, KeyedNoise(0)).z
    prediction = process.predict(outputs(), z, t)
    parts = process.parts.items()
    expected = {
        "vlb": sum(p.vlb_term(x[n], z[n], prediction[n], t, s) for n, p in parts),
        "prior": sum(p.prior_divergence(x[n]) for n, p in parts),
        "reconstruction": sum(p.reconstruction(x[n], prediction[n], t) for n, p in parts),
    }
    found = {
        "vlb": process.vlb_term(x, z, prediction, t, s),
        "prior": process.prior_divergence(x),
        "reconstruction": process.reconstruction(x, prediction, t),
    }
    for name, value in expected.items():
        assert found[name].shape == (ROWS,)
        assert torch.allclose(found[name], value, rtol=1e-10, atol=1e-12), name
    if bool((s > 0).all()):
        total = process.divergence(x, z, prediction, t, s)
        assert torch.allclose(total, expected["vlb"], rtol=1e-10, atol=1e-12)
        reverse = process.reverse(prediction, t, s)
        log_prob = sum(reverse.parts[n].log_prob(z[n]) for n in ("num", "cat", "xyz"))
        assert torch.allclose(
            reverse.log_prob(z), log_prob + reverse.parts["mask"].log_prob(z["mask"])
        )


def test_batches_of_a_product_are_bit_equal():
    process, x, t = product(), state(64), at(0.5)
    whole = process.q_sample(x, t, KeyedNoise(1)).z
    pieces = [
        process.q_sample(map_state(lambda v, i=i: v[i : i + 7], x), t, KeyedNoise(1, start=i)).z
        for i in range(0, 64, 7)
    ]
    assert same(whole, map_state(lambda *v: torch.cat(v), *pieces))


def test_parts_must_share_their_nodes():
    with pytest.raises(ConfigError, match="same number of steps"):
        ProductProcess(
            {
                "a": GaussianProcess(DiscreteSchedule.linear(20)),
                "b": GaussianProcess(DiscreteSchedule.linear(30)),
            }
        )
    with pytest.raises(ConfigError, match="same number of steps"):
        ProductProcess(
            {"a": GaussianProcess(DiscreteSchedule.linear(20)), "b": GaussianProcess(LinearVP())}
        )
    with pytest.raises(ConfigError, match="at least one"):
        ProductProcess({})


def test_a_product_is_linear_where_all_its_parts_are():
    gaussian = GaussianProcess(DiscreteSchedule.linear(20))
    assert ProductProcess({"a": gaussian, "b": gaussian}).linear
    assert not product().linear


def test_products_nest():
    inner = ProductProcess({"a": GaussianProcess(LinearVP()), "b": GaussianProcess(LinearVP())})
    process = ProductProcess({"inner": inner, "c": GaussianProcess(LinearVP())})
    x = {"inner": {"a": torch.zeros(3, 1), "b": torch.zeros(3, 2)}, "c": torch.zeros(3, 4)}
    z = process.q_sample(x, at(0.5), KeyedNoise(0)).z
    assert torch.equal(
        z["inner"]["b"],
        inner.parts["b"]
        .q_sample(x["inner"]["b"], at(0.5), KeyedNoise(0).child("inner").child("b"))
        .z,
    )
    assert process.prior_divergence(x).shape == (3,)
    assert batch_size(x) == 3
    assert device_of(x).type == "cpu"
