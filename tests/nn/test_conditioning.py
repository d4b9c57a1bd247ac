"""Conditions: what stands for them, what stands for their absence, what they modulate."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scidiffusion.core.denoiser import drop_condition
from scidiffusion.errors import ConditionError, ConfigError
from scidiffusion.nn import (
    AdaLN,
    ClassCondition,
    ConditionEmbedding,
    FiLM,
    Modulator,
    TimeEmbedding,
    VectorCondition,
)

NAN = float("nan")


@pytest.mark.parametrize("shape", [(4, 6), (4, 5, 6), (4, 2, 3, 6)])
def test_film_starts_as_the_identity_and_is_its_formula(shape):
    film, x, cond = FiLM(6, 3).double(), torch.randn(shape).double(), torch.randn(4, 3).double()
    assert torch.equal(film(x, cond), x)
    nn.init.normal_(film.modulation.weight)
    scale, shift = film.modulation(cond).split(6, -1)
    for row in range(4):
        expected = x[row] * (1 + scale[row]) + shift[row]
        torch.testing.assert_close(film(x, cond)[row], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(4, 6), (4, 5, 6)])
def test_adaln_starts_as_the_identity_and_is_its_formula(shape):
    layer, x, cond = AdaLN(6, 3).double(), torch.randn(shape).double(), torch.randn(4, 3).double()
    h, gate = layer(x, cond)
    assert torch.equal(x + gate * h.exp(), x)
    normal = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(h, normal, rtol=0, atol=1e-12)
    nn.init.normal_(layer.modulation.weight)
    scale, shift, gate = layer.modulation(cond).split(6, -1)
    h, returned = layer(x, cond)
    for row in range(4):
        expected = normal[row] * (1 + scale[row]) + shift[row]
        torch.testing.assert_close(h[row], expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(
            returned[row].expand(shape[1:]), gate[row].expand(shape[1:]), rtol=0, atol=0
        )


def test_classes_are_told_apart_and_absence_is_its_own_vector():
    embed = ClassCondition(3, 8)
    out = embed(torch.tensor([0, 1, 2, -1]))
    assert out.shape == (4, 8)
    assert torch.pdist(out).min() > 0.1
    assert torch.equal(embed(None), out[3:])
    assert torch.equal(embed(drop_condition(torch.tensor([2, 0]))), out[3:].expand(2, 8))
    assert torch.equal(embed(torch.tensor([[1], [2]], dtype=torch.int32)), out[1:3])


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (torch.tensor([0, 3]), r"0 \.\. 2"),
        (torch.tensor([-2]), "-1 for absent"),
        (torch.tensor([0.0, 1.0]), "integers"),
        (torch.tensor([True, False]), "integers"),
        (torch.zeros(2, 2, 2, dtype=torch.long), r"\(B,\)"),
    ],
)
def test_a_class_never_seen_is_refused(value, named):
    with pytest.raises(ConditionError, match=named):
        ClassCondition(3, 8)(value)


def test_a_vector_is_absent_as_a_whole_or_in_part():
    embed = VectorCondition(2, 8).double()
    values = torch.tensor([[0.5, -1.0], [NAN, -1.0], [0.5, NAN], [NAN, NAN]]).double()
    out = embed(values)
    assert out.isfinite().all()
    assert torch.pdist(out).min() > 1e-3
    torch.testing.assert_close(embed(None), out[3:], rtol=0, atol=1e-12)
    torch.testing.assert_close(embed(drop_condition(values)), out[3:].expand(4, 8))
    # Missing is not the same as zero.
    assert not torch.allclose(out[1], embed(torch.tensor([[0.0, -1.0]]).double())[0], atol=1e-3)


def test_absent_entries_send_back_no_nan():
    embed = VectorCondition(2, 8)
    value = torch.tensor([[1.0, NAN], [NAN, NAN]], requires_grad=True)
    embed(value).square().sum().backward()
    assert value.grad.isfinite().all()
    assert value.grad[0, 0] != 0
    assert torch.equal(value.grad[1], torch.zeros(2))
    assert all(p.grad.isfinite().all() for p in embed.parameters())


def test_a_single_real_may_come_without_its_last_dimension():
    embed, value = VectorCondition(1, 8), torch.randn(5)
    assert torch.equal(embed(value), embed(value[:, None]))


@pytest.mark.parametrize("value", [torch.zeros(3, 2, dtype=torch.long), torch.zeros(3, 4)])
def test_a_vector_of_another_kind_is_refused(value):
    with pytest.raises(ConditionError, match="vector condition"):
        VectorCondition(2, 8)(value)


@pytest.fixture
def several() -> ConditionEmbedding:
    """Names that a ModuleDict could not hold."""
    specs = {"a.b": ("class", 3), "keys": ("vector", 2), "": ("class", 2)}
    return ConditionEmbedding(specs, 8).double()


def test_several_conditions_add_up(several):
    cond = {
        "a.b": torch.tensor([0, 2]),
        "keys": torch.randn(2, 2).double(),
        "": torch.tensor([1, -1]),
    }
    expected = sum(
        part(cond[name]) for name, part in zip(several.names, several.parts, strict=True)
    )
    torch.testing.assert_close(several(cond), expected, rtol=0, atol=1e-12)


def test_every_way_of_saying_nothing_is_the_same(several):
    cond = {
        "a.b": torch.tensor([0, 2]),
        "keys": torch.randn(2, 2).double(),
        "": torch.tensor([1, 0]),
    }
    nothing = several(None)
    assert nothing.shape == (1, 8)
    for absent in (drop_condition(cond), {}, dict.fromkeys(cond), {"a.b": torch.tensor([-1, -1])}):
        torch.testing.assert_close(
            several(absent).expand(2, 8), nothing.expand(2, 8), rtol=0, atol=1e-12
        )
    kept = several(drop_condition(cond, torch.tensor([True, False])))
    torch.testing.assert_close(kept[0], several(cond)[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(kept[1], nothing[0], rtol=0, atol=1e-12)


def test_the_order_of_the_names_does_not_matter(several):
    cond = {"keys": torch.randn(2, 2).double(), "a.b": torch.tensor([0, 2])}
    assert torch.equal(several(cond), several(dict(reversed(cond.items()))))


def test_one_condition_may_come_bare():
    one = ConditionEmbedding({"label": ("class", 4)}, 8)
    value = torch.tensor([3, -1])
    assert torch.equal(one(value), one({"label": value}))


def test_a_module_of_ones_own_is_a_specification():
    part = VectorCondition(3, 8)
    whole, value = ConditionEmbedding({"x": part}, 8), torch.randn(2, 3)
    assert torch.equal(whole({"x": value}), part(value))


def test_unknown_conditions_are_named(several):
    with pytest.raises(ConditionError, match="'colour'"):
        several({"colour": torch.tensor([0])})
    with pytest.raises(ConditionError, match=r"a\.b"):
        several({"a.b": torch.tensor([9])})
    with pytest.raises(ConditionError, match="dict"):
        several(torch.tensor([0]))


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: ClassCondition(0, 8), "num_classes"),
        (lambda: VectorCondition(0, 8), "vector condition"),
        (lambda: ConditionEmbedding({}, 8), "at least one"),
        (lambda: ConditionEmbedding({"x": ("colour", 3)}, 8), "'x'"),
        (lambda: ConditionEmbedding({"x": 3}, 8), "'x'"),
        (lambda: Modulator(8, TimeEmbedding(9)), "size 9"),
    ],
)
def test_impossible_options_are_refused(build, named):
    with pytest.raises(ConfigError, match=named):
        build()


def test_a_time_shared_by_all_rows_is_embedded_once_and_means_the_same():
    modulator = Modulator(16, conditions={"label": ("class", 3)}).double().eval()
    shared = torch.tensor(0.3).expand(5)
    assert modulator(shared).shape == (1, 16)
    assert modulator(shared.clone()).shape == (5, 16)
    assert modulator(torch.tensor(0.3)).shape == (1, 16)
    label = torch.tensor([0, 1, 2, -1, 0])
    for cond in (None, label):
        torch.testing.assert_close(
            modulator(shared, cond).expand(5, 16),
            modulator(shared.clone(), cond).expand(5, 16),
            rtol=0,
            atol=1e-12,
        )
    assert modulator.train()(shared).shape == (5, 16)


def test_a_condition_for_a_network_without_conditions_is_refused():
    with pytest.raises(ConditionError, match="takes no condition"):
        Modulator(8)(torch.rand(2), torch.tensor([0, 1]))
