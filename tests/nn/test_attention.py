"""Attention: a set in, a set out; masked tokens do not exist."""

from __future__ import annotations

import math

import pytest
import torch

from scidiffusion.errors import ConfigError, InputError
from scidiffusion.nn import CrossAttention, MultiHeadAttention, Transformer, TransformerBlock

TOLERANCE = {"rtol": 0, "atol": 1e-12}
NAN = float("nan")


def awake(module, seed=0):
    """Replace every parameter by a random one, in float64: nothing is zero any more."""
    generator = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            scale = 1 / math.sqrt(parameter.shape[-1])
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator).double())
    return module.eval()


def tokens(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(layer, x, source):
    key, value = layer.key_value(source).chunk(2, -1)
    size = layer.dim // layer.heads
    parts = []
    for head in range(layer.heads):
        cut = slice(head * size, (head + 1) * size)
        weight = layer.query(x)[..., cut] @ key[..., cut].transpose(-1, -2) / math.sqrt(size)
        parts.append(weight.softmax(-1) @ value[..., cut])
    return layer.output(torch.cat(parts, -1))


def test_self_attention_is_its_formula():
    layer, x = awake(MultiHeadAttention(12, 3)), tokens(2, 5, 12)
    torch.testing.assert_close(layer(x), by_hand(layer, x, x), **TOLERANCE)


def test_cross_attention_is_its_formula():
    layer, x, context = awake(MultiHeadAttention(12, 3, 4)), tokens(2, 5, 12), tokens(2, 7, 4)
    torch.testing.assert_close(layer(x, context), by_hand(layer, x, context), **TOLERANCE)


@pytest.mark.parametrize("count", [1, 7, 64, 65])
def test_in_bfloat16_few_tokens_and_many_agree_with_single_precision(count):
    # Up to 64 tokens take plain products on a CPU, more the fused kernel.
    layer = awake(MultiHeadAttention(32, 4)).float()
    x = tokens(3, count, 32).float()
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x).float()
    error = (half - layer(x)).abs().max() / layer(x).abs().max()
    assert 0 < float(error) < 0.03


def test_the_order_of_the_context_does_not_matter():
    layer, x, context = awake(CrossAttention(12, 3, 4)), tokens(2, 5, 12), tokens(2, 7, 4)
    mask, order = torch.rand(2, 7) < 0.6, torch.randperm(7)
    torch.testing.assert_close(layer(x, context), layer(x, context[:, order]), **TOLERANCE)
    torch.testing.assert_close(
        layer(x, context, mask), layer(x, context[:, order], mask[:, order]), **TOLERANCE
    )


@pytest.mark.parametrize("count", [1, 3, 5])
def test_when_the_last_tokens_ask_they_get_what_they_get_among_all(count):
    layer, x = awake(MultiHeadAttention(8, 2)), tokens(3, 5, 8)
    torch.testing.assert_close(layer(x, last=count), layer(x)[:, -count:])


def test_self_attention_is_equivariant():
    layer, x, order = awake(MultiHeadAttention(12, 3)), tokens(2, 6, 12), torch.randperm(6)
    torch.testing.assert_close(layer(x)[:, order], layer(x[:, order]), **TOLERANCE)


@pytest.mark.parametrize("content", [0.0, 1e6, float("inf"), -float("inf"), NAN])
def test_a_masked_token_does_not_matter_whatever_it_holds(content):
    layer, x, context = awake(MultiHeadAttention(12, 3, 4)), tokens(2, 5, 12), tokens(2, 7, 4)
    mask = torch.tensor([[True] * 4 + [False] * 3, [True] * 7])
    filled = context.masked_fill(~mask[..., None], content)
    assert torch.equal(layer(x, context, mask), layer(x, filled, mask))
    cut = layer(x[:1], context[:1, :4])
    torch.testing.assert_close(layer(x, filled, mask)[:1], cut, **TOLERANCE)


def test_a_row_without_tokens_gives_zero_and_finite_gradients():
    layer = awake(MultiHeadAttention(12, 3, 4)).train()
    x, context = tokens(2, 5, 12).requires_grad_(), tokens(2, 7, 4).requires_grad_()
    mask = torch.tensor([[False] * 7, [True] * 7])
    out = layer(x, context, mask)
    assert torch.equal(out[0], torch.zeros(5, 12).double())
    assert out[1].abs().min() > 0
    out.square().sum().backward()
    gradients = [x.grad, context.grad, *(p.grad for p in layer.parameters())]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert torch.equal(context.grad[0], torch.zeros(7, 4).double())


def test_an_empty_context_gives_zero():
    layer, x = awake(CrossAttention(12, 3, 4)), tokens(2, 5, 12)
    nothing = torch.zeros(2, 5, 12).double()
    assert torch.equal(layer(x, None), nothing)
    assert torch.equal(layer(x, tokens(2, 0, 4)), nothing)
    assert torch.equal(layer(x, torch.full((2, 3, 4), NAN)), nothing)


def test_a_token_with_a_nan_is_absent():
    layer, x, context = awake(CrossAttention(12, 3, 4)), tokens(2, 5, 12), tokens(2, 7, 4)
    mask = torch.tensor([True, False, True, True, False, True, True]).expand(2, 7)
    holes = context.clone()
    holes[:, 1, 2], holes[:, 4, 0] = NAN, NAN
    assert torch.equal(layer(x, holes), layer(x, context, mask))


@pytest.mark.parametrize("context_dim", [None, 4])
def test_a_block_starts_as_the_identity(context_dim):
    block = TransformerBlock(12, 3, 6, context_dim).double()
    x, vector = tokens(2, 5, 12), tokens(2, 6)
    context = None if context_dim is None else tokens(2, 7, 4)
    assert torch.equal(block(x, vector, context), x)
    assert not torch.allclose(awake(block)(x, vector, context), x, atol=1e-2)


def test_a_set_transformer_is_equivariant_and_a_sequence_transformer_is_not():
    order, z, time = torch.tensor([3, 0, 4, 1, 2]), tokens(2, 5, 3), torch.rand(2)
    of_sets = awake(Transformer(3, dim=12, depth=2, heads=3))
    torch.testing.assert_close(of_sets(z, time)[:, order], of_sets(z[:, order], time), **TOLERANCE)
    ordered = awake(Transformer(3, dim=12, depth=2, heads=3, positions=True))
    change = (ordered(z, time)[:, order] - ordered(z[:, order], time)).abs().max()
    assert change > 1e-3


def test_masked_tokens_of_a_transformer_are_as_if_cut_off():
    network = awake(Transformer(3, dim=12, depth=2, heads=3))
    z, time = tokens(2, 5, 3), torch.rand(2)
    mask = torch.tensor([[True] * 3 + [False] * 2, [False] * 5])
    out = network(z.masked_fill(~mask[..., None], NAN), time, mask=mask)
    torch.testing.assert_close(out[:1, :3], network(z[:1, :3], time[:1]), **TOLERANCE)
    assert torch.equal(out[~mask], torch.zeros(7, 3).double())


def test_a_transformer_takes_a_context_beside_other_conditions():
    network = awake(
        Transformer(3, dim=12, depth=1, heads=3, context_dim=4, conditions={"label": ("class", 2)})
    )
    z, time, context, label = tokens(2, 5, 3), torch.rand(2), tokens(2, 7, 4), torch.tensor([0, 1])
    both = network(z, time, {"context": context, "label": label})
    for less in ({"label": label}, {"context": context}):
        assert (both - network(z, time, less)).abs().max() > 1e-3
    absent = {"context": torch.full_like(context, NAN), "label": label}
    torch.testing.assert_close(
        network(z, time, absent), network(z, time, {"label": label}), **TOLERANCE
    )
    shuffled = {"context": context.flip(1), "label": label}
    torch.testing.assert_close(network(z, time, shuffled), both, **TOLERANCE)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: MultiHeadAttention(12, 5), "heads must divide"),
        (lambda: MultiHeadAttention(12, 3, 0), "context_dim"),
        (lambda: TransformerBlock(12, 3, 6, mlp_ratio=0.0), "mlp_ratio"),
        (lambda: Transformer(3, dim=12, heads=5), "heads must divide"),
        (lambda: Transformer(3, depth=-1), "depth"),
        (lambda: Transformer(0), "in_dim"),
        (lambda: Transformer(3, cond_dim=2, conditions={"a": ("class", 2)}), "not both"),
        (lambda: Transformer(3, conditions={"context": ("class", 2)}), "'context'"),
    ],
)
def test_impossible_options_are_refused(build, named):
    with pytest.raises(ConfigError, match=named):
        build()


@pytest.mark.parametrize(
    "call",
    [
        lambda x: MultiHeadAttention(12, 3)(x, x),
        lambda x: MultiHeadAttention(12, 3, 4)(x),
        lambda x: MultiHeadAttention(12, 3)(x, mask=torch.ones(2, 4, dtype=torch.bool)),
        lambda x: MultiHeadAttention(12, 3)(x, mask=torch.ones(2, 5)),
        lambda x: CrossAttention(12, 3)(x, x, torch.ones(2, 4, dtype=torch.bool)),
        lambda x: Transformer(12, dim=12, heads=3)(x, torch.rand(2), mask=torch.ones(2, 5)),
        lambda x: Transformer(4, dim=12, heads=3)(x, torch.rand(2)),
        lambda x: Transformer(12, dim=12, heads=3, context_dim=4)(x, torch.rand(2), x),
        lambda x: Transformer(12, dim=12, heads=3, context_dim=12, cond_dim=2)(
            x, torch.rand(2), x
        ),
    ],
)
def test_what_does_not_fit_is_refused(call):
    with pytest.raises(InputError):
        call(torch.randn(2, 5, 12))
