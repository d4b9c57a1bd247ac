"""eps, x0, v and score are one quantity: conversions and mixtures agree to rounding."""

from __future__ import annotations

import itertools

import pytest
import torch

from scidiffusion.core import (
    CategoricalPrediction,
    CosineVP,
    DiscreteSchedule,
    EDMSchedule,
    GaussianProcess,
    LinearVP,
    Parameterization,
    Prediction,
    ScorePrediction,
    VESchedule,
)
from scidiffusion.errors import ConfigError

F64 = torch.float64
SCHEDULES = {
    "linear": DiscreteSchedule.linear(100),
    "cosine": DiscreteSchedule.cosine(100),
    "linear vp": LinearVP(),
    "cosine vp": CosineVP(),
    "ve": VESchedule(),
    "edm": EDMSchedule(),
}
KINDS = list(Parameterization)


def times_of(schedule, rows):
    """Rows of times, from the smallest that a grid visits to 1."""
    if schedule.num_nodes is None:
        return torch.linspace(schedule.t_min, 1, rows, dtype=F64)
    nodes = torch.linspace(1, schedule.num_nodes, rows, dtype=F64).round()
    return nodes / schedule.num_nodes


def truth_of(schedule, rows=60, shape=(3, 2)):
    """Noisy states with every quantity written out from its definition."""
    generator = torch.Generator().manual_seed(0)
    t = times_of(schedule, rows)
    x, eps = torch.randn(2, rows, *shape, dtype=F64, generator=generator)
    marginal = schedule.marginal(t)
    scale, std = (c.reshape(-1, 1, 1) for c in (marginal.scale, marginal.std))
    values = {"eps": eps, "x0": x, "v": scale * eps - std * x, "score": -eps / std}
    return t, scale * x + std * eps, values


def error(found, expected):
    """Largest error relative to the size of the quantity in its row."""
    size = expected.abs().flatten(1).amax(1).clamp(min=1).reshape(-1, 1, 1)
    return float(((found - expected) / size).abs().max())


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
@pytest.mark.parametrize("given", KINDS)
def test_every_quantity_from_every_other(schedule, given):
    t, z, values = truth_of(schedule)
    process = GaussianProcess(schedule)
    prediction = process.prediction(z, t, **{given.value: values[given]})
    for wanted in KINDS:
        assert error(prediction.target(wanted), values[wanted]) < 1e-12
        assert torch.equal(prediction.target(wanted), getattr(prediction, wanted.value))
    # ... and back again.
    for middle in KINDS:
        turned = prediction.with_value(prediction.target(middle), middle)
        assert error(turned.target(given), values[given]) < 1e-12


def test_conversion_is_affine_in_the_state_and_the_value():
    schedule = EDMSchedule()
    t, z, values = truth_of(schedule)
    process = GaussianProcess(schedule)
    scalar = process.prediction(z[:1], t[0], eps=values["eps"][:1])
    rows = process.prediction(z, t, eps=values["eps"])
    for wanted in KINDS:
        assert error(scalar.target(wanted), rows.target(wanted)[:1]) < 1e-14


@pytest.mark.parametrize("kind", KINDS)
def test_predict_reads_the_output_in_the_parameterisation_of_the_process(kind):
    t, z, values = truth_of(LinearVP())
    process = GaussianProcess(LinearVP(), parameterization=kind)
    prediction = process.predict(values[kind], z, t)
    assert prediction.parameterization is kind
    assert torch.equal(prediction.value, values[kind])
    assert error(prediction.x0, values["x0"]) < 1e-12


@pytest.mark.parametrize("weight", [-1.0, 0.0, 0.5, 1.0, 3.0])
def test_mixing_is_the_same_in_every_parameterisation(weight):
    for schedule in (LinearVP(), VESchedule(), EDMSchedule()):
        t, z, values = truth_of(schedule)
        process = GaussianProcess(schedule)
        other_eps = values["eps"].flip(0)
        one, other = (process.prediction(z, t, eps=e) for e in (values["eps"], other_eps))
        expected = process.prediction(z, t, eps=(1 - weight) * one.eps + weight * other.eps)
        for first, second in itertools.product(KINDS, KINDS):
            mixed = one.with_value(one.target(first), first).mix(
                other.with_value(other.target(second), second), weight
            )
            for wanted in KINDS:
                assert error(mixed.target(wanted), expected.target(wanted)) < 1e-11


def test_mixing_takes_one_weight_a_row():
    t, z, values = truth_of(LinearVP(), rows=4)
    process = GaussianProcess(LinearVP())
    one, other = (process.prediction(z, t, eps=e) for e in (values["eps"], -values["eps"]))
    weight = torch.tensor([0.0, 1.0, 0.25, 2.0], dtype=F64).reshape(-1, 1, 1)
    assert error(one.mix(other, weight).eps, (1 - 2 * weight) * values["eps"]) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_device_are_those_of_the_state(dtype, device):
    z = torch.randn(4, 2, dtype=dtype, device=device)
    process = GaussianProcess(DiscreteSchedule.linear(20))
    for t in (torch.tensor(0.5), torch.full((4,), 0.5, device=device)):
        prediction = process.prediction(z, t, eps=torch.zeros_like(z))
        for kind in KINDS:
            assert prediction.target(kind).dtype == dtype
            assert prediction.target(kind).device == z.device


def test_v_is_defined_at_both_ends():
    schedule = DiscreteSchedule.linear(20).with_zero_terminal_snr()
    process = GaussianProcess(schedule, parameterization="v")
    x, eps = torch.randn(2, 5, 3, dtype=F64)
    at_noise = process.prediction(eps, torch.tensor(1.0), v=-x)
    assert error(at_noise.x0[..., None], x[..., None]) < 1e-14
    assert error(at_noise.eps[..., None], eps[..., None]) < 1e-14
    at_data = process.prediction(x, torch.tensor(0.0), v=eps)
    assert error(at_data.x0[..., None], x[..., None]) < 1e-14
    assert error(at_data.eps[..., None], eps[..., None]) < 1e-14


def test_exactly_one_quantity_must_be_given():
    process, z = GaussianProcess(LinearVP()), torch.zeros(2, 1)
    with pytest.raises(ConfigError, match="exactly one"):
        process.prediction(z, torch.tensor(0.5))
    with pytest.raises(ConfigError, match="exactly one"):
        process.prediction(z, torch.tensor(0.5), eps=z, x0=z)
    with pytest.raises(ConfigError, match="'eps', 'x0', 'v', 'score'"):
        process.prediction(z, torch.tensor(0.5), noise=z)


def test_a_prediction_keeps_what_it_was_given():
    marginal = LinearVP().marginal(0.5)
    z, value, var = torch.randn(3, 2, 2)
    prediction = Prediction(z, marginal, value, Parameterization.V, x0_var=var)
    changed = prediction.with_value(z, Parameterization.X0)
    assert changed.x0_var is var
    assert changed.x0 is z
    # Variances do not extrapolate: guidance keeps those of the prediction that it leads to.
    other = Prediction(z, marginal, value, x0_var=2 * var)
    assert prediction.mix(other, 0.5).x0_var is other.x0_var


# Categorical and manifold predictions


def categorical(p0):
    p0 = torch.as_tensor(p0, dtype=F64)
    return CategoricalPrediction(torch.zeros(p0.shape[:-1], dtype=torch.long), p0.log())


@pytest.mark.parametrize("weight", [-1.0, 0.0, 0.5, 1.0, 3.0])
def test_categorical_mixing_is_a_normalised_product_of_powers(weight):
    generator = torch.Generator().manual_seed(0)
    p, q = torch.rand(2, 6, 3, 4, dtype=F64, generator=generator).softmax(-1)
    p[:, 1, 3] = q[:, 1, 3] = 0  # a padded class
    p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
    expected = torch.where(p > 0, p.clamp(min=1e-300) ** (1 - weight) * q**weight, 0.0)
    expected = expected / expected.sum(-1, keepdim=True)
    mixed = categorical(p).mix(categorical(q), weight)
    assert float((mixed.p0 - expected).abs().max()) < 1e-12
    assert bool((mixed.p0[:, 1, 3] == 0).all())


def test_categorical_mixing_with_an_excluded_class():
    both, first = categorical([[0.5, 0.5]]), categorical([[1.0, 0.0]])
    assert torch.equal(both.mix(first, 0.0).p0, both.p0)
    assert torch.equal(both.mix(first, 1.0).p0, first.p0)
    assert torch.equal(both.mix(first, 2.5).p0, first.p0)
    assert torch.equal(first.mix(both, 0.5).p0, first.p0)
    weight = torch.tensor([[0.0], [1.0]], dtype=F64)
    rows = categorical([[0.5, 0.5], [0.5, 0.5]]).mix(categorical([[1.0, 0.0]] * 2), weight)
    assert torch.equal(rows.p0, torch.tensor([[0.5, 0.5], [1.0, 0.0]], dtype=F64))


def test_manifold_scores_mix_linearly():
    z, one, other = torch.randn(3, 5, 2, dtype=F64)
    mixed = ScorePrediction(z, one).mix(ScorePrediction(z, other), 2.0)
    assert torch.allclose(mixed.score, 2 * other - one, rtol=0, atol=1e-14)
    assert torch.equal(mixed.z, z)
