"""Private training: the accounting is right, no row moves the sum far, something is learned."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import binom, norm
from tiny_problem import Net, config, data, denoiser, objective, weights
from torch import nn

from scidiffusion.core.denoiser import NetworkDenoiser
from scidiffusion.core.gaussian import GaussianProcess
from scidiffusion.core.objectives import SimpleLoss
from scidiffusion.core.rng import GeneratorNoise
from scidiffusion.core.schedules import CosineVP
from scidiffusion.errors import ConfigError, DataError, MissingExtraError, ScidiffusionWarning
from scidiffusion.nn import ResidualMLP
from scidiffusion.training import DPBudget, TrainConfig, train
from scidiffusion.training.accounting import (
    epsilon_spent,
    gaussian_delta,
    gaussian_ratio,
    noise_multiplier_for,
)
from scidiffusion.training.private import PoissonBatches, PrivacyPlan, PrivateModule
from scidiffusion.training.row_gradients import RowGradients

opacus = pytest.importorskip("opacus", reason="the extra privacy is not installed")

ROWS = 400
BUDGET = DPBudget(epsilon=8, noise_key=1)


def private(**changes):
    return config(**({"batch_size": 64, "max_steps": 4, "privacy": BUDGET} | changes))


# ---------------------------------------------------------------------------- accounting


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 3.0])
def test_the_delta_of_a_gaussian_is_its_hockey_stick_divergence(epsilon):
    ratio = 0.8
    x = np.linspace(-12, 12, 200_001)
    gap = norm.pdf(x, loc=ratio) - math.exp(epsilon) * norm.pdf(x)
    assert gaussian_delta(epsilon, ratio) == pytest.approx(
        np.trapezoid(np.maximum(gap, 0), x), abs=1e-7
    )
    if epsilon:
        assert gaussian_delta(epsilon, gaussian_ratio(epsilon, 1e-4)) == pytest.approx(1e-4)


@pytest.mark.parametrize(("noise", "steps"), [(5.0, 1), (1.0, 1), (20.0, 100)])
def test_full_batches_cost_what_one_gaussian_costs(noise, steps):
    # Balle & Wang 2018: steps of full batches are one Gaussian mechanism of noise / sqrt(steps).
    delta = 1e-5
    exact = brentq(lambda e: gaussian_delta(e, math.sqrt(steps) / noise) - delta, 0, 50)
    found = epsilon_spent(noise, 1.0, steps, delta, scale=exact)
    assert exact <= found <= 1.02 * exact + 1e-3


def test_more_steps_more_rows_and_less_noise_cost_more():
    base = epsilon_spent(1.5, 0.05, 200, 1e-5)
    assert epsilon_spent(1.5, 0.05, 0, 1e-5) == 0
    assert epsilon_spent(1.5, 0.05, 100, 1e-5) < base < epsilon_spent(1.5, 0.05, 400, 1e-5)
    assert epsilon_spent(1.5, 0.02, 200, 1e-5) < base < epsilon_spent(1.2, 0.05, 200, 1e-5)
    assert epsilon_spent(1.5, 0.05, 200, 1e-6) > base


@pytest.mark.parametrize(("epsilon", "rate", "steps"), [(0.5, 0.1, 100), (8.0, 0.02, 500)])
def test_the_noise_asked_for_uses_the_budget_up(epsilon, rate, steps):
    noise = noise_multiplier_for(epsilon, 1e-5, rate, steps)
    assert 0.97 * epsilon <= epsilon_spent(noise, rate, steps, 1e-5, scale=epsilon) <= epsilon


def test_an_impossible_budget_is_refused():
    with pytest.raises(ConfigError, match="no amount of noise"):
        noise_multiplier_for(1e-9, 1e-300, 1.0, 10)
    # A delta so large that next to no noise is needed.
    assert 0 <= epsilon_spent(noise_multiplier_for(0.75, 0.6, 0.1, 5), 0.1, 5, 0.6) <= 0.75
    assert 0 <= epsilon_spent(noise_multiplier_for(0.75, 0.9, 0.1, 5), 0.1, 5, 0.9) <= 0.75


# ---------------------------------------------------------------------------- the option


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epsilon", 0),
        ("epsilon", math.inf),
        ("epsilon", "8"),
        ("delta", 0.0),
        ("delta", 1.0),
        ("max_grad_norm", 0),
        ("codec_share", 1.0),
        ("codec_share", -0.1),
        ("noise_key", 1.5),
    ],
)
def test_a_budget_out_of_range_is_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        DPBudget(**({"epsilon": 1.0} | {name: value}))


def test_a_budget_is_split_without_loss_and_its_key_is_not_written():
    budget = DPBudget(2.0, codec_share=0.25, noise_key=7)
    codec, training = budget.split(1000)
    assert codec.epsilon == 0.5
    assert codec.epsilon + training.epsilon == 2.0
    assert codec.delta + training.delta == pytest.approx(1e-4)
    assert codec.noise_key == training.noise_key == 7
    record = json.loads(json.dumps(budget.to_dict()))
    assert "noise_key" not in record
    assert DPBudget.from_dict(record) == DPBudget(2.0, codec_share=0.25)
    with pytest.raises(ConfigError, match="codec_share"):
        DPBudget(1.0, codec_share=0.0).split(10)


def test_a_large_delta_is_warned_of():
    with pytest.warns(ScidiffusionWarning, match="publish one of 100 rows"):
        DPBudget(1.0, delta=0.02).for_rows(100)


def test_a_config_takes_a_budget_only():
    with pytest.raises(ConfigError, match="DPBudget"):
        TrainConfig(privacy=8.0)


# ---------------------------------------------------------------------------- rows


class Bag(nn.Module):
    """A bag of embeddings (one index may come twice) and a layer norm."""

    def __init__(self, mode="sum"):
        super().__init__()
        self.bag = nn.EmbeddingBag(5, 8, mode=mode)
        self.norm = nn.LayerNorm(8)
        self.out = nn.Linear(8 + 3, 2)

    def forward(self, z, time, cond=None):
        codes = (z.abs() * 2).long().clamp(max=4)
        codes = torch.cat([codes, codes[:, :1]], 1)
        return self.out(torch.cat([self.norm(self.bag(codes)), z, time[:, None]], 1))


NETWORKS = {
    "plain": lambda: Net(dropout=0.0),
    "residual": lambda: ResidualMLP(2, width=16, blocks=2, zero_init_output=False),
    "fourier": lambda: ResidualMLP(2, width=16, blocks=1, time_embedding="fourier"),
    "bag": Bag,
    "mean bag": lambda: Bag("mean"),
}


def problem(name, rows=6):
    torch.manual_seed(0)
    module = NetworkDenoiser(NETWORKS[name](), GaussianProcess(CosineVP())).train()
    for weight in module.parameters():
        nn.init.normal_(weight, std=0.2)
    x = data(rows)

    def loss(x):
        noise = GeneratorNoise(torch.Generator().manual_seed(0))
        return SimpleLoss()(module, x, noise)

    return module, x, loss


def flat(total, module):
    parts = [
        torch.zeros_like(weight) if value is None else value
        for value, weight in zip(total, module.parameters(), strict=True)
    ]
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.parametrize("name", NETWORKS)
def test_the_clipped_sum_is_that_of_rows_taken_one_by_one(name):
    module, x, loss = problem(name)
    present = torch.tensor([True, True, False, True, True, True])
    rows = []
    for row in present.nonzero()[:, 0]:
        grads = torch.autograd.grad(loss(x)[row], list(module.parameters()), allow_unused=True)
        rows.append(flat(grads, module))
    norms = torch.stack(rows).norm(dim=1)
    # Some rows are clipped, and some are not.
    clip = float(norms.median())
    expected = sum(own * min(1.0, clip / float(own.norm())) for own in rows)
    gradients = RowGradients(module, clip)
    total, losses = gradients.clipped_sum(lambda: loss(x), present)
    gradients.close()
    torch.testing.assert_close(flat(total, module), expected, rtol=3e-3, atol=2e-3 * clip)
    assert float(losses) == pytest.approx(float(loss(x)[present].sum().detach()), rel=1e-5)


def test_one_row_more_moves_the_sum_by_at_most_the_clipping_norm():
    module, x, loss = problem("residual")
    x[2] *= 30
    gradients = RowGradients(module, 0.5)
    everyone = torch.ones(6, dtype=torch.bool)
    for row in range(6):
        without = everyone.clone()
        without[row] = False
        sums = [
            flat(gradients.clipped_sum(lambda: loss(x), p)[0], module) for p in (everyone, without)
        ]
        moved = float((sums[0] - sums[1]).norm())
        assert moved <= 0.5 * (1 + 1e-5)
        if row == 2:
            assert moved > 0.49
    gradients.close()


def test_nothing_of_the_hooks_stays():
    model = denoiser()
    attributes = {name: set(vars(part)) for name, part in model.named_modules()}
    train(model, objective(), data(ROWS), config=private())
    for name, part in model.named_modules():
        assert not part._forward_hooks, name
        assert not part._backward_hooks, name
        assert set(vars(part)) == attributes[name], name
    for weight in model.parameters():
        assert not vars(weight)


class Tied(Net):
    """Uses one layer twice."""

    def forward(self, z, time, cond=None):
        return super().forward(super().forward(z, time), time)


class Normed(Net):
    """Mixes the rows of a batch."""

    def forward(self, z, time, cond=None):
        return super().forward(z - z.mean(0), time)


class Half(Net):
    """Multiplies in half precision."""

    def forward(self, z, time, cond=None):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(z, time).float()


class Raw(Net):
    """Has a bare parameter."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(2))

    def forward(self, z, time, cond=None):
        return super().forward(z + self.shift, time)


@pytest.mark.parametrize("network", [Tied, Normed, Half, Raw])
def test_networks_whose_rows_cannot_be_told_apart_are_refused(network):
    model = NetworkDenoiser(network(), GaussianProcess(CosineVP()))
    before = weights(model)
    with pytest.raises(ConfigError, match="NetworkDenoiser cannot be trained with privacy"):
        train(model, objective(), data(ROWS), config=private())
    assert torch.equal(weights(model), before)


# ---------------------------------------------------------------------------- batches and noise


def plan(**changes):
    options = {
        "noise_multiplier": 1.3,
        "sample_rate": 0.1,
        "slots": 40,
        "epsilon": 1.0,
        "delta": 1e-5,
        "max_grad_norm": 0.7,
        "key": 3,
    }
    return PrivacyPlan(**(options | changes))


def test_rows_come_independently_and_land_in_slots_by_lot():
    x = torch.arange(1, 101, dtype=torch.float32)[:, None]
    batches = PoissonBatches({"x": x}, None, plan())
    seen, filled, sizes = torch.zeros(101), torch.zeros(40), []
    for step in range(2000):
        batch = batches.batch(step)
        values = batch.x["x"][:, 0]
        assert torch.equal(values > 0, batch.present)
        seen[values.long().unique()] += 1
        filled += batch.present
        sizes.append(int(batch.present.sum()))
    # Poisson sampling: every row with its own coin, so the size is binomial.
    assert np.mean(sizes) == pytest.approx(10, abs=0.3)
    assert np.var(sizes) == pytest.approx(9, abs=1)
    assert seen[1:].min() > 140
    assert seen[1:].max() < 260
    assert filled.min() > 400
    assert filled.max() < 600


def test_a_batch_is_a_function_of_key_and_step():
    x = data(100)
    stream = iter(PoissonBatches(x, x[:, 0], plan(), start=5))
    first = next(stream)
    again = PoissonBatches(x, x[:, 0], plan()).batch(5)
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.cond, again.x[:, 0])
    other = PoissonBatches(x, None, plan(key=4)).batch(5)
    assert not torch.equal(first.x, other.x)


def test_slots_are_enough_but_for_a_negligible_chance():
    found = PrivacyPlan.of(DPBudget(2.0), rows=1000, batch_size=100, steps=50)
    overflow = 50 * binom.sf(found.slots, 1000, 0.1) * (1 + math.exp(2.0))
    assert overflow <= 1e-3 * found.delta
    assert 150 < found.slots < 250
    assert found.delta == pytest.approx(1e-4)
    full = PrivacyPlan.of(DPBudget(2.0), rows=50, batch_size=100, steps=50)
    assert (full.sample_rate, full.slots) == (1.0, 50)


class Flat(SimpleLoss):
    """A loss whose gradient is zero."""

    def __call__(self, *args, **kwargs):
        return 0.0 * super().__call__(*args, **kwargs)


def test_the_gradient_has_the_noise_that_the_accountant_counts():
    module = PrivateModule(
        NetworkDenoiser(Net(width=256), GaussianProcess(CosineVP())), Flat(), private(), ROWS
    )
    module.plan = plan(slots=80)
    module.attach(data(ROWS), None)
    batches = PoissonBatches(data(ROWS), None, module.plan)
    module.training_step(batches.batch(0))
    noise = torch.cat([value.flatten() for value in module._gradient if value is not None])
    assert float(noise.std()) == pytest.approx(1.3 * 0.7 / (0.1 * ROWS), rel=0.05)
    assert abs(float(noise.mean())) < 0.1 * float(noise.std())
    module.detach_hooks()


# ---------------------------------------------------------------------------- whole runs


def fresh_loss(model):
    noise = GeneratorNoise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        return float(objective()(model.eval(), data(2000, seed=5), noise).mean())


def test_a_private_run_learns_and_tells_what_it_cost():
    options = {"max_steps": 150, "batch_size": 200, "validate_every": 50, "lr": 2e-2}
    losses = []
    for settings in (private(**options), config(**options)):
        model = denoiser(width=32, dropout=0.0)
        before = fresh_loss(model)
        outcome = train(model, objective(), data(2000), config=settings)
        losses.append(fresh_loss(model))
        if settings.privacy is not None:
            result = outcome
    assert losses[0] < 0.7 * before
    assert losses[0] < 1.15 * losses[1]
    assert 7.5 < result.epsilon_spent <= 8
    assert result.delta == pytest.approx(1 / 20_000)
    assert result.noise_multiplier > 0.3
    # Losses of training rows are not private.
    assert [set(entry) for entry in result.history] == [{"step", "seconds", "lr"}] * 3


def test_less_privacy_loss_more_noise():
    noise = [
        train(denoiser(), objective(), data(ROWS), config=private(privacy=budget))
        for budget in (DPBudget(1.0), DPBudget(8.0))
    ]
    assert noise[0].noise_multiplier > 2 * noise[1].noise_multiplier


def test_the_key_alone_decides_the_noise():
    runs = []
    for key in (1, 1, 2, None, None):
        model = denoiser()
        budget = DPBudget(8.0, noise_key=key)
        train(model, objective(), data(ROWS), config=private(privacy=budget))
        runs.append(weights(model))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    # Without a key the operating system draws one: no seed gives the noise away.
    assert not torch.equal(runs[3], runs[4])


class Interrupted(SimpleLoss):
    """Is interrupted at a certain call."""

    def __init__(self, last):
        super().__init__()
        self.left = last

    def __call__(self, *args, **kwargs):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().__call__(*args, **kwargs)


@pytest.mark.parametrize("key", [1, None])
def test_a_resumed_run_is_the_uninterrupted_one_and_keeps_counting(tmp_path, key):
    options = private(privacy=DPBudget(8.0, noise_key=key))
    model, x = denoiser(), data(ROWS)
    with pytest.raises(KeyboardInterrupt):
        train(model, Interrupted(4), x, config=options, checkpoint_dir=tmp_path)
    resumed = denoiser(seed=5)
    result = train(resumed, objective(), x, config=options, checkpoint_dir=tmp_path, resume=True)
    assert result.steps == 4
    assert 7.5 < result.epsilon_spent <= 8
    if key is not None:
        whole = denoiser()
        other = train(whole, objective(), x, config=options)
        assert torch.equal(weights(resumed), weights(whole))
        assert other.epsilon_spent == result.epsilon_spent


def test_a_run_cannot_be_resumed_into_a_larger_cost(tmp_path):
    x = data(ROWS)
    train(denoiser(), objective(), x, config=private(), checkpoint_dir=tmp_path)
    more = private(max_steps=30)
    with pytest.raises(ConfigError, match="30 steps cost more than epsilon=8"):
        train(denoiser(), objective(), x, config=more, checkpoint_dir=tmp_path, resume=True)
    other = private(privacy=DPBudget(1.0))
    with pytest.raises(ConfigError, match="privacy"):
        train(denoiser(), objective(), x, config=other, checkpoint_dir=tmp_path, resume=True)


def test_a_run_that_time_cuts_short_costs_less():
    result = train(denoiser(), objective(), data(ROWS), config=private(max_steps=500, budget=1e-9))
    assert result.stopped_by == "budget"
    assert result.steps == 1
    assert 0 < result.epsilon_spent < 8


def test_conditions_and_their_dropout_go_along():
    labels = torch.randint(0, 3, (ROWS,))
    changes = {"condition_dropout": 0.3}
    result = train(denoiser(), objective(), data(ROWS), cond=labels, config=private(**changes))
    assert result.steps == 4


def test_what_contradicts_privacy_is_refused():
    x = data(ROWS)
    with pytest.raises(ConfigError, match="validation=None"):
        train(denoiser(), objective(), x, validation=(x[:9], None), config=private())
    for option in ({"precision": "bf16"}, {"compile": True}):
        with pytest.raises(ConfigError, match="float32"):
            train(denoiser(), objective(), x, config=private(**option))
    with pytest.raises(DataError, match="too few"):
        train(denoiser(), objective(), x[:5], config=private())
    tight = private(privacy=DPBudget(0.01))
    with pytest.raises(DataError, match=r"noise of privacy is \d+.* times"):
        train(denoiser(), objective(), x[:30], config=tight)


def test_without_opacus_the_error_says_what_to_install(monkeypatch):
    for name in [n for n in sys.modules if n.partition(".")[0] == "opacus"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opacus", None)
    with pytest.raises(MissingExtraError, match=r"scidiffusion\[privacy\]"):
        train(denoiser(), objective(), data(ROWS), config=private(max_steps=7, batch_size=60))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_private_run_on_a_gpu():
    model = denoiser()
    result = train(model, objective(), data(ROWS), config=private(accelerator="gpu"))
    assert result.steps == 4
    assert torch.isfinite(weights(model)).all()
