"""What a step is: averages, learning rate, dropped conditions, fixed-noise evaluation."""

from __future__ import annotations

import contextlib
import math
from itertools import islice

import lightning.pytorch as pl
import pytest
import torch
from tiny_problem import Net, config, data, denoiser, objective, weights
from torch import nn

from scidiffusion.core.process import batch_size
from scidiffusion.errors import ConfigError, TrainingError
from scidiffusion.training import Batches, DiffusionModule, EvaluationBatches, TrainConfig
from scidiffusion.training.batches import Batch


def module(**changes) -> DiffusionModule:
    return DiffusionModule(denoiser(), objective(), config(**changes))


class Steps:
    """An optimizer that adds 1 to every weight."""

    param_groups: list = []  # noqa: RUF012

    def __init__(self, weights):
        self.weights = weights

    def step(self, closure=None):
        with torch.no_grad():
            for weight in self.weights:
                weight += 1


def test_average_has_its_closed_form():
    decay, count = 0.5, 12
    trained = module(ema_decay=decay)
    before = weights(trained.denoiser)
    optimizer = Steps(trained.weights)
    for _ in range(count):
        trained.optimizer_step(0, 0, optimizer)
    # With weights w_k = w_0 + k, the average is the sum of k (1 - d_k) prod_{j > k} d_j.
    decays = [min(decay, (1 + step) / (10 + step)) for step in range(count)]
    assert decays[0] == 0.1
    assert decays[-1] == decay
    expected = sum((k + 1) * (1 - decays[k]) * math.prod(decays[k + 1 :]) for k in range(count))
    average = torch.cat([value.reshape(-1) for value in trained.averages])
    torch.testing.assert_close(average - before, torch.full_like(before, expected))
    assert trained.step == count


def test_ema_scope_swaps_and_restores_bits():
    trained = module()
    for average in trained.averages:
        average.mul_(1.1)
    before = weights(trained.denoiser)
    average = torch.cat([value.reshape(-1) for value in trained.averages])
    with contextlib.suppress(KeyError), trained.ema_scope():
        assert torch.equal(weights(trained.denoiser), average)
        raise KeyError
    assert torch.equal(weights(trained.denoiser), before)


def test_averages_are_buffers():
    trained = module()
    assert {name for name in trained.state_dict() if name.startswith("ema_")}
    assert all(value.dtype == torch.float64 for value in trained.to(torch.float64).averages)


@pytest.mark.parametrize("decay", ["cosine", "linear", "none"])
def test_learning_rate(decay):
    trained = module(max_steps=100, warmup_steps=10, decay=decay, decay_start=0.6, lr=2.0)

    def rate(step):
        trained.step = step
        return trained.learning_rate()

    assert [rate(step) for step in range(10)] == pytest.approx(
        [2 * (step + 1) / 10 for step in range(10)]
    )
    assert {rate(step) for step in range(10, 61)} == {2.0}
    left = {"cosine": 0.5, "linear": 0.5, "none": 1.0}[decay]
    assert rate(80) == pytest.approx(2 * left)
    quarter = {"cosine": 0.5 * (1 + math.cos(math.pi / 4)), "linear": 0.75, "none": 1.0}[decay]
    assert rate(70) == pytest.approx(2 * quarter)
    assert rate(100) == pytest.approx(2 if decay == "none" else 0)


def test_learning_rate_follows_the_budget_where_it_is_ahead():
    trained = module(max_steps=100, warmup_steps=0, decay="linear", decay_start=0.5, budget=10.0)
    trained.step = 60
    trained.clock._before = 7.5
    assert trained.progress() == 0.75
    assert trained.learning_rate() == pytest.approx(0.5 * trained.config.lr)
    trained.clock._before = 5.5
    assert trained.progress() == 0.6
    trained.clock._before = 99.0
    assert trained.learning_rate() == 0


def test_fixed_noise_loss_is_constant_for_constant_weights():
    trained = module()
    batches = EvaluationBatches(data(), batch_size=16, draws=80, seed=0)
    first = trained.evaluate(batches)
    torch.rand(7)
    trained.step = 12
    for weight in trained.weights:
        nn.init.normal_(weight)  # the averages count, not the weights
    assert trained.evaluate(batches) == first
    trained.averages[0].add_(0.1)
    assert trained.evaluate(batches) != first


def test_fixed_noise_loss_draws_other_noise_for_a_repeated_row():
    losses = module().fixed_noise_loss(Batch(data(1).repeat(300, 1), None, 0))
    assert len(losses.unique()) > 290


def test_evaluation_switches_dropout_off_and_on_again():
    trained = module()
    batch = Batch(data(), None, 0)
    trained.denoiser.train()
    assert torch.equal(trained.fixed_noise_loss(batch), trained.fixed_noise_loss(batch))
    assert trained.denoiser.training


class Recorder(nn.Module):
    """A network that remembers the conditions it is given."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen = []

    def forward(self, z, time, cond=None):
        self.seen.append(cond)
        return z * self.weight


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5])
def test_conditions_are_dropped_at_their_rate_and_only_in_training(probability):
    network = Recorder()
    model = denoiser()
    model.network = network
    trained = DiffusionModule(model, objective(), config(condition_dropout=probability))
    count = 200
    x = torch.zeros(count, 2)
    cond = {"label": torch.ones(count, dtype=torch.long), "value": torch.ones(count, 3)}
    for step in range(20):
        trained.step = step + 1  # no logging without a trainer
        trained.training_step(Batch(x, cond, 0))
    labels = torch.cat([seen["label"] for seen in network.seen])
    values = torch.cat([seen["value"] for seen in network.seen])
    assert set(labels.tolist()) <= {1, -1}
    assert torch.equal(labels == -1, values.isnan().all(1))  # a row keeps all or none
    spread = math.sqrt(probability * (1 - probability) / len(labels))
    assert float((labels == -1).double().mean()) == pytest.approx(probability, abs=4 * spread)
    trained.fixed_noise_loss(Batch(x, cond, 0))
    assert bool((network.seen[-1]["label"] == 1).all())


def test_a_step_is_a_function_of_seed_and_step():
    trained = module()
    batch = next(iter(Batches(data(), batch_size=16)))
    trained.step = 4
    first = trained.training_step(batch)
    torch.rand(3)
    assert torch.equal(trained.training_step(batch), first)
    trained.step = 5
    assert not torch.equal(trained.training_step(batch), first)


def test_a_loss_that_is_not_finite_is_one_clear_error():
    trained = module()
    trained.loss_sum.fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"loss became nan.*smaller learning rate"):
        trained.take_train_loss()
    for average in trained.averages:
        average.fill_(torch.inf)
    with pytest.raises(TrainingError, match="held-out loss is"):
        trained.evaluate(EvaluationBatches(data(), batch_size=16, draws=32))


def test_bf16_concerns_the_network_alone():
    seen = {}

    class Probe(Net):
        def forward(self, z, time, cond=None):
            output = super().forward(z, time, cond)
            seen["network"] = output.dtype
            return output

    model = denoiser()
    model.network = Probe(dropout=0.0)
    batch = Batch(data(), None, 0)
    low = DiffusionModule(model, objective(), config(precision="bf16")).fixed_noise_loss(batch)
    assert seen["network"] is torch.bfloat16
    assert low.dtype is torch.float32
    full = DiffusionModule(model, objective(), config()).fixed_noise_loss(batch)
    assert seen["network"] is torch.float32
    torch.testing.assert_close(low, full, rtol=0.1, atol=0.02)
    assert "forward" not in vars(model.network)


def test_weight_decay_spares_vectors():
    decays = {}
    trained = module(weight_decay=0.1)
    for group in trained.configure_optimizers().param_groups:
        for weight in group["params"]:
            decays[weight] = group["weight_decay"]
    assert {weight.ndim: decay for weight, decay in decays.items()} == {1: 0.0, 2: 0.1}
    assert len(decays) == len(trained.weights)


@pytest.mark.filterwarnings("ignore:.*treespec.*")
def test_a_lightning_trainer_takes_it(tmp_path):
    trained = module()
    trainer = pl.Trainer(
        max_steps=4,
        limit_val_batches=2,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
    )
    held_out = EvaluationBatches(data(seed=1), batch_size=16, draws=32)
    trainer.fit(trained, Batches(data(), batch_size=16), held_out)
    assert trained.step == 4
    assert float(trainer.callback_metrics["val_loss"]) == pytest.approx(
        trained.evaluate(held_out), rel=1e-5
    )
    assert "train_loss" in trainer.callback_metrics


def test_what_cannot_be_trained():
    from scidiffusion.core.denoiser import NetworkDenoiser

    with pytest.raises(ConfigError, match="only a denoiser with a network"):
        DiffusionModule(Net(), objective())
    with pytest.raises(ConfigError, match="no parameters"):
        DiffusionModule(NetworkDenoiser(nn.Identity(), denoiser().process), objective())
    bare = Net()
    bare.process = denoiser().process
    with pytest.raises(ConfigError, match=r"denoiser\.network"):
        DiffusionModule(bare, objective(), config(precision="bf16"))


@pytest.mark.parametrize(
    "options",
    [
        {"max_steps": 0},
        {"max_steps": 1.5},
        {"batch_size": True},
        {"lr": 0.0},
        {"lr": math.nan},
        {"lr": "fast"},
        {"weight_decay": -1},
        {"betas": (0.9, 1.0)},
        {"betas": (0.9,)},
        {"warmup_steps": -1},
        {"decay": "step"},
        {"decay_start": 1.5},
        {"ema_decay": 1.0},
        {"gradient_clip": 0.0},
        {"precision": "fp16"},
        {"condition_dropout": 1.0},
        {"validate_every": 0},
        {"validation_draws": 0},
        {"patience": 0},
        {"min_delta": -0.1},
        {"budget": 0},
        {"budget": math.inf},
        {"checkpoint_every": -1},
        {"seed": -1},
        {"accelerator": "tpu"},
    ],
    ids=repr,
)
def test_an_impossible_option_is_named(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        TrainConfig(**options)


def test_a_batch_counts_its_rows():
    sizes = [batch_size(batch.x) for batch in islice(Batches(data(), batch_size=30), 5)]
    assert sizes == [30] * 5
