"""The contract of every network: network(z, time, cond), conditional and not, trainable."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from scidiffusion.core.denoiser import drop_condition
from scidiffusion.errors import ConditionError, ConfigError, InputError
from scidiffusion.nn import FourierCoordinates, ResidualMLP, TimeEmbedding, Transformer

CONDITIONS = {"label": ("class", 3), "size": ("vector", 2)}
ROWS = 6


@dataclass(frozen=True)
class Case:
    """A network, the shape of its rows and the condition that it takes."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    cond: str = "none"


CASES = {
    "mlp": Case(lambda: ResidualMLP(3, 3, width=32, blocks=2), (3,)),
    "mlp-cond": Case(lambda: ResidualMLP(3, 3, 32, 2, conditions=CONDITIONS), (3,), "dict"),
    "mlp-vector": Case(lambda: ResidualMLP(3, 3, 32, 2, cond_dim=2), (3,), "vector"),
    "mlp-film": Case(
        lambda: ResidualMLP(3, 3, 32, 2, conditioning="film", conditions=CONDITIONS), (3,), "dict"
    ),
    "mlp-coordinates": Case(
        lambda: ResidualMLP(1, 1, 32, 2, coordinates=FourierCoordinates()), (1,)
    ),
    "mlp-fourier-time": Case(lambda: ResidualMLP(3, 3, 32, 2, "fourier", dropout=0.1), (3,)),
    "mlp-wide-blocks": Case(lambda: ResidualMLP(3, 3, 32, 1, expansion=2), (3,)),
    "mlp-linear": Case(lambda: ResidualMLP(3, 3, 32, blocks=0), (3,)),
    "mlp-image": Case(lambda: ResidualMLP(12, 12, 32, 2), (2, 3, 2)),
    "set": Case(lambda: Transformer(3, dim=16, depth=2, heads=2), (4, 3)),
    "set-cond": Case(
        lambda: Transformer(3, dim=16, depth=2, heads=2, conditions=CONDITIONS), (4, 3), "dict"
    ),
    "set-vector": Case(
        lambda: Transformer(3, dim=16, depth=1, heads=2, cond_dim=2), (4, 3), "vector"
    ),
    "set-context": Case(
        lambda: Transformer(3, dim=16, depth=1, heads=2, context_dim=5), (4, 3), "context"
    ),
    "sequence": Case(
        lambda: Transformer(
            3, dim=16, depth=1, heads=2, positions=True, coordinates=FourierCoordinates((1.0, 2.0))
        ),
        (4, 3),
    ),
}


@pytest.fixture(params=list(CASES))
def case(request) -> Case:
    return CASES[request.param]


@pytest.fixture
def _one_thread():
    """Matrices this small lose more by waiting for a second thread than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def inputs(case, dtype=torch.float32, device="cpu", rows=ROWS):
    generator = torch.Generator().manual_seed(3)
    z = torch.randn((rows, *case.shape), generator=generator, dtype=dtype)
    time = torch.rand(rows, generator=generator)
    label = torch.randint(3, (rows,), generator=generator)
    size = torch.randn((rows, 2), generator=generator, dtype=dtype)
    context = torch.randn((rows, 4, 5), generator=generator, dtype=dtype)
    cond = {
        "none": None,
        "dict": {"label": label.to(device), "size": size.to(device)},
        "vector": size.to(device),
        "context": context.to(device),
    }[case.cond]
    return z.to(device), time.to(device), cond


def awake(network, seed=0):
    """Replace the zeros of a new network by small random numbers."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator) / math.sqrt(
                parameter.shape[-1]
            )
            parameter.add_(noise.to(parameter))
    return network


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_precision(case, dtype, device):
    network = awake(case.build()).to(device, dtype)
    z, time, cond = inputs(case, dtype, device)
    out = network(z, time, cond)
    assert out.shape == z.shape
    assert out.dtype == dtype
    assert out.device == z.device
    assert out.isfinite().all()
    assert network(z[:1], time[:1], None).shape == z[:1].shape
    assert network(z[:0], time[:0], None).shape == z[:0].shape
    # A float64 state under a float32 network, as exact samplers have it.
    assert network(z.double(), time, cond).dtype == dtype


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_agrees_with_the_cpu(case):
    network = awake(case.build()).double().eval()
    expected = network(*inputs(case, torch.float64))
    out = network.cuda()(*inputs(case, torch.float64, "cuda"))
    torch.testing.assert_close(out.cpu(), expected, rtol=0, atol=1e-10)
    rough = network.float()(*inputs(case, torch.float64, "cuda"))
    torch.testing.assert_close(rough.cpu().double(), expected, rtol=0, atol=1e-2)


def test_a_new_network_is_the_zero_function(case):
    z, time, cond = inputs(case)
    assert torch.equal(case.build()(z, time, cond), torch.zeros_like(z))


def test_rows_do_not_see_each_other(case):
    network = awake(case.build()).double().eval()
    z, time, cond = inputs(case, torch.float64)
    whole = network(z, time, cond)
    for row in range(ROWS):
        one = slice(row, row + 1)
        part = {k: v[one] for k, v in cond.items()} if isinstance(cond, dict) else cond
        part = part[one] if isinstance(part, torch.Tensor) else part
        alone = network(z[one], time[one], part)
        torch.testing.assert_close(alone, whole[one], rtol=0, atol=1e-12)


def test_time_and_condition_matter(case):
    network = awake(case.build()).double().eval()
    z, time, cond = inputs(case, torch.float64)
    out = network(z, time, cond)
    assert (out - network(z, time.flip(0), cond)).abs().max() > 1e-3
    if cond is not None:
        assert (out - network(z, time, None)).abs().max() > 1e-3


def test_one_time_for_all_rows_may_be_a_scalar_or_expanded(case):
    network = awake(case.build()).double().eval()
    z, _, cond = inputs(case, torch.float64)
    time = torch.tensor(0.37)
    expected = network(z, torch.full((ROWS,), 0.37), cond)
    for shared in (time, time.expand(ROWS)):
        torch.testing.assert_close(network(z, shared, cond), expected, rtol=0, atol=1e-12)


def test_every_absent_condition_is_the_same_unconditional_network(case):
    network = awake(case.build()).double().eval()
    z, time, cond = inputs(case, torch.float64)
    expected = network(z, time, None)
    for absent in ({}, drop_condition(cond)) if case.cond == "dict" else (drop_condition(cond),):
        torch.testing.assert_close(network(z, time, absent), expected, rtol=0, atol=1e-12)
    if cond is not None:
        keep = torch.arange(ROWS) % 2 == 0
        mixed = network(z, time, drop_condition(cond, keep))
        torch.testing.assert_close(mixed[keep], network(z, time, cond)[keep], rtol=0, atol=1e-12)
        torch.testing.assert_close(mixed[~keep], expected[~keep], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kept", ["all", "half", "none"])
def test_gradients_are_finite_and_reach_every_parameter(case, kept):
    network = awake(case.build())
    z, time, cond = inputs(case)
    keep = {"all": None, "half": torch.arange(ROWS) % 2 == 0, "none": torch.zeros(ROWS) > 0}[kept]
    cond = cond if keep is None else drop_condition(cond, keep)
    z.requires_grad_()
    network(z, time, cond).square().sum().backward()
    assert z.grad.isfinite().all()
    assert z.grad.abs().max() > 0
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # Where every condition is absent, what reads their values sees only zeros.
        reads = "cross" in name or ("modulator.cond" in name and name.endswith("inner.weight"))
        if kept != "none" or not reads:
            assert parameter.grad.abs().max() > 0, name


def test_state_dict_round_trip(case):
    network = awake(case.build()).eval()
    other = awake(case.build(), seed=1).eval()
    z, time, cond = inputs(case)
    assert not torch.allclose(network(z, time, cond), other(z, time, cond))
    missing = other.load_state_dict(network.state_dict(), strict=True)
    assert not missing.missing_keys
    assert not missing.unexpected_keys
    assert torch.equal(network(z, time, cond), other(z, time, cond))
    assert all(isinstance(value, torch.Tensor) for value in network.state_dict().values())


def test_a_copy_is_independent_and_the_name_is_readable(case):
    network = case.build()
    awake(copy.deepcopy(network))
    z, time, cond = inputs(case)
    assert torch.equal(network(z, time, cond), torch.zeros_like(z))
    assert type(network).__name__ in repr(network)


def test_a_seed_gives_one_network(case):
    states = []
    for seed in (4, 4, 5):
        torch.manual_seed(seed)
        states.append(torch.cat([p.flatten() for p in case.build().parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_it_runs_under_autocast_and_functional_transforms(case):
    network = awake(case.build()).eval()
    z, time, cond = inputs(case)
    exact = network(z, time, cond)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = network(z, time, cond)
    assert (rough.float() - exact).abs().max() < 0.1 * exact.abs().max()
    # A directional derivative by vmap over tangents equals the one by autograd.
    _, pull = torch.func.vjp(lambda x: network(x, time, cond), z)
    rows = torch.randn(2, *z.shape)
    (both,) = torch.func.vmap(pull)(rows)
    (first,) = pull(rows[0])
    torch.testing.assert_close(both[0], first, rtol=1e-4, atol=1e-5)


def test_evaluation_leaves_the_input_alone(case):
    network = awake(case.build()).eval()
    z, time, cond = inputs(case)
    before = z.clone()
    with torch.no_grad():
        out = network(z, time, cond)
    assert torch.equal(z, before)
    torch.testing.assert_close(out, network(z, time, cond))


def target(z, time, cond):
    """Something that needs z, the time and, where there is one, the condition."""
    wave = (2 * z).sin() * (1 + time.reshape(-1, *([1] * (z.ndim - 1))))
    if isinstance(cond, dict):
        return wave + (cond["label"] - 1).reshape(-1, *([1] * (z.ndim - 1)))
    if cond is None:
        return wave
    return wave + cond.flatten(1).mean(1).reshape(-1, *([1] * (z.ndim - 1)))


@pytest.mark.parametrize(
    "name",
    ["mlp", "mlp-cond", "mlp-vector", "mlp-film", "mlp-coordinates", "set-cond", "set-context"],
)
@pytest.mark.usefixtures("_one_thread")
def test_it_learns_a_small_regression(name, device):
    case, steps = CASES[name], 200
    torch.manual_seed(1)
    network = case.build().to(device)
    z, time, cond = inputs(case, device=device, rows=64)
    y = target(z, time, cond)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / steps)
        loss = (network(z, time, cond) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05 * y.var()


def test_a_perceptron_restores_other_shapes():
    z, time = torch.randn(ROWS, 2, 3), torch.rand(ROWS)
    same, double = awake(ResidualMLP(6, 6, 16, 1)), awake(ResidualMLP(6, 12, 16, 1))
    assert torch.equal(same(z, time), same(z.flatten(1), time).reshape(z.shape))
    # Twice as many outputs, as for a learned variance: the last dimension is doubled.
    assert double(z, time).shape == (ROWS, 2, 6)
    assert awake(ResidualMLP(6, 4, 16, 1))(z, time).shape == (ROWS, 4)
    assert awake(ResidualMLP(1, 1, 16, 1))(z[:, 0, 0], time).shape == (ROWS,)
    assert awake(ResidualMLP(6, width=16, blocks=1))(z, time).shape == z.shape


def test_a_perceptron_is_linear_far_away():
    # The trunk reaches the output without a norm: what a denoiser must do far from the data.
    network = awake(ResidualMLP(2, 2, 16, 2)).double().eval()
    z, time = torch.randn(1, 2).double(), torch.tensor([0.4])
    far = [network(scale * z, time) for scale in (1e6, 2e6, 3e6)]
    torch.testing.assert_close(far[2] - far[1], far[1] - far[0], rtol=1e-3, atol=0)
    assert (far[1] - far[0]).abs().min() > 1e3


def test_dropout_is_random_in_training_only():
    network = awake(ResidualMLP(3, 3, 32, 2, dropout=0.5))
    z, time = torch.randn(ROWS, 3), torch.rand(ROWS)
    assert not torch.equal(network(z, time), network(z, time))
    assert torch.equal(network.eval()(z, time), network(z, time))


def test_a_time_embedding_of_ones_own():
    network = ResidualMLP(3, 3, 32, 1, TimeEmbedding(20, scale=100.0), embed_dim=20)
    assert network(torch.randn(2, 3), torch.rand(2)).shape == (2, 3)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"in_dim": 0}, "in_dim"),
        ({"out_dim": 0}, "out_dim"),
        ({"width": 0}, "width"),
        ({"blocks": -1}, "blocks"),
        ({"dropout": 1.0}, "dropout"),
        ({"expansion": 0}, "expansion"),
        ({"conditioning": "concat"}, "'concat'"),
        ({"time_embedding": "learned"}, "'learned'"),
        ({"cond_dim": 2, "conditions": CONDITIONS}, "not both"),
        ({"time_embedding": TimeEmbedding(7)}, "size 7"),
    ],
)
def test_impossible_options_are_refused(options, named):
    with pytest.raises(ConfigError, match=named):
        ResidualMLP(**{"in_dim": 3, "width": 16, **options})


def test_what_does_not_fit_is_refused():
    network = ResidualMLP(3, 3, 16, 1)
    with pytest.raises(InputError, match="3 entries"):
        network(torch.randn(2, 4), torch.rand(2))
    with pytest.raises(ConditionError, match="takes no condition"):
        network(torch.randn(2, 3), torch.rand(2), torch.tensor([0, 1]))
