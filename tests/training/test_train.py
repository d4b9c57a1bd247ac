"""Whole runs: reproducible, silent, stopped for the right reason, keeping the right weights."""

from __future__ import annotations

import random
import threading
import warnings

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from tiny_problem import Net, config, data, denoiser, objective, weights

from scidiffusion.core.denoiser import NetworkDenoiser
from scidiffusion.core.objectives import SimpleLoss
from scidiffusion.errors import ConfigError, DataError, TrainingError
from scidiffusion.training import fit as fit_module
from scidiffusion.training import train
from scidiffusion.training.module import DiffusionModule

HELD_OUT = (data(40, seed=9), None)


def trained(seed: int = 0, *, x=None, **changes):
    """Train; return the denoiser's weights and the result."""
    model = denoiser(seed)
    options = {key: changes.pop(key) for key in ("cond", "validation") if key in changes}
    result = train(
        model, objective(), data() if x is None else x, config=config(**changes), **options
    )
    return weights(model), result


def test_the_loss_falls_and_the_result_tells_what_happened():
    model = denoiser()
    before = weights(model)
    result = train(
        model,
        objective(),
        data(),
        validation=HELD_OUT,
        config=config(max_steps=60, validate_every=20),
    )
    assert not torch.equal(weights(model), before)
    assert not model.training
    assert result.steps == 60
    assert result.stopped_by == "max_steps"
    assert [entry["step"] for entry in result.history] == [20, 40, 60]
    assert result.history[-1]["val_loss"] < 0.9 * result.history[0]["val_loss"]
    assert result.best_val_loss == min(entry["val_loss"] for entry in result.history)
    assert 0 < result.history[0]["seconds"] <= result.seconds
    for entry in result.history:
        assert entry.keys() == {"step", "seconds", "lr", "train_loss", "val_loss"}


def test_a_callback_of_ones_own_sees_every_step_and_changes_nothing():
    class Count(pl.Callback):
        steps = 0

        def on_train_batch_end(self, *args):
            self.steps += 1

    plain, _ = trained(max_steps=12)
    count, given = Count(), {}
    given["callbacks"] = [count]
    model = denoiser()
    train(model, objective(), data(), config=config(max_steps=12), trainer_kwargs=given)
    assert count.steps == 12
    assert given == {"callbacks": [count]}
    assert all(torch.equal(one, two) for one, two in zip(plain, weights(model), strict=True))


def test_what_the_loop_sets_itself_cannot_be_set():
    with pytest.raises(ConfigError, match="trainer_kwargs cannot set 'max_steps'"):
        train(denoiser(), objective(), data(), config=config(), trainer_kwargs={"max_steps": 3})


def test_same_seed_same_bits_whatever_ran_before_and_whatever_is_shown():
    first, one = trained(validation=HELD_OUT)
    torch.manual_seed(77)
    torch.rand(5)
    second, two = trained(validation=HELD_OUT, progress=True)
    assert torch.equal(first, second)
    assert [e["val_loss"] for e in one.history] == [e["val_loss"] for e in two.history]
    assert [e["train_loss"] for e in one.history] == [e["train_loss"] for e in two.history]
    other, _ = trained(validation=HELD_OUT, seed=4)
    assert not torch.equal(first, other)


def test_validation_does_not_change_the_training():
    plain, one = trained()
    validated, two = trained(validation=HELD_OUT)
    assert two.best_step == one.steps  # the loss falls throughout, so the last weights are kept
    assert torch.equal(plain, validated)


def test_global_random_states_are_as_before():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    before = np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    trained()
    assert torch.equal(torch.rand(3), expected)
    assert np.array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert random.getstate() == before[1]


def test_nothing_is_printed_or_written(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(validation=HELD_OUT)
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""
    assert list(tmp_path.iterdir()) == []


def test_the_progress_bar_shows_step_loss_and_time(capfd, monkeypatch):
    from scidiffusion.training import progress

    monkeypatch.setattr(progress, "REFRESH_SECONDS", 0.0)
    monkeypatch.setenv("COLUMNS", "160")
    _, result = trained(validation=HELD_OUT, progress=True)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "step 20/20" in shown.err
    assert f"held-out loss {result.history[-1]['val_loss']:.4g}" in shown.err
    assert "0:00 left" in shown.err


def test_time_left_knows_the_budget(monkeypatch):
    from scidiffusion.training.monitor import Monitor
    from scidiffusion.training.progress import ProgressBar

    module = DiffusionModule(denoiser(), objective(), config(max_steps=100, budget=12.0))
    bar = ProgressBar(Monitor(module, None))
    assert bar.seconds_left() is None
    module.step, module.clock._before = 10, 2.0
    assert bar.seconds_left() == pytest.approx(10.0)  # 18 by the steps, 10 by the budget
    module.step = 50
    assert bar.seconds_left() == pytest.approx(2.0)


class FakeClock:
    """A clock that every optimizer step moves on by one second."""

    def __init__(self, before: float = 0.0) -> None:
        self.elapsed = before

    def start(self) -> None:
        pass


@pytest.fixture
def seconds(monkeypatch):
    """Make a step take one second of `module.clock`."""
    from scidiffusion.training import module as module_file

    plain = DiffusionModule.optimizer_step

    def step(self, *args, **options):
        plain(self, *args, **options)
        self.clock.elapsed += 1.0

    monkeypatch.setattr(module_file, "Clock", FakeClock)
    monkeypatch.setattr(DiffusionModule, "optimizer_step", step)


@pytest.mark.usefixtures("seconds")
def test_the_budget_stops_the_run_and_the_last_weights_compete():
    _, result = trained(validation=HELD_OUT, budget=7.0, max_steps=10_000)
    assert result.stopped_by == "budget"
    assert result.steps == 7
    assert result.seconds == 7.0
    assert [entry["step"] for entry in result.history] == [5, 7]
    assert result.history[-1]["lr"] == 0


def test_a_tiny_budget_still_does_one_step():
    _, result = trained(budget=1e-9)
    assert result.steps == 1
    assert result.stopped_by == "budget"


def test_a_budget_that_does_not_bite_changes_nothing():
    assert torch.equal(trained(decay_start=1.0)[0], trained(decay_start=1.0, budget=1e6)[0])


def test_patience_stops_and_the_best_weights_are_restored(monkeypatch):
    losses = iter([1.0, 0.5, 0.7, 0.49, 0.6, 0.3])
    kept = {}

    def evaluate(self, batches):
        value = next(losses)
        kept[value] = torch.cat([average.reshape(-1).clone() for average in self.averages])
        return value

    monkeypatch.setattr(DiffusionModule, "evaluate", evaluate)
    final, result = trained(
        validation=HELD_OUT, max_steps=1000, validate_every=2, patience=3, min_delta=0.1
    )
    # 0.49 is the best, but no improvement on 0.5 by min_delta: 0.7, 0.49, 0.6 are three in vain.
    assert result.stopped_by == "patience"
    assert result.steps == 10
    assert result.best_step == 8
    assert result.best_val_loss == 0.49
    assert torch.equal(final, kept[0.49])


def test_out_of_patience_a_run_anneals_from_its_best_weights(monkeypatch):
    losses = iter([1.0, 0.5, 0.7, 0.8, 0.45, 0.6])
    seen = []

    def evaluate(self, batches):
        seen.append((self.step, self.annealing, self.learning_rate()))
        return next(losses)

    monkeypatch.setattr(DiffusionModule, "evaluate", evaluate)
    options = {"validate_every": 2, "patience": 2, "anneal": 1.0, "decay": "none"}
    _, result = trained(validation=HELD_OUT, max_steps=1000, warmup_steps=1, **options)
    # The best of step 4 is not beaten at 6 and 8: four more steps, of falling learning rate.
    assert [step for step, _, _ in seen] == [2, 4, 6, 8, 10, 12]
    assert result.steps == 12
    assert result.stopped_by == "patience"
    assert result.best_step == 10
    rates = [rate for _, _, rate in seen]
    assert rates[4] == pytest.approx(rates[0] / 2)
    assert rates[5] == pytest.approx(0.0, abs=1e-12)
    assert [annealing is None for _, annealing, _ in seen] == [True] * 4 + [False] * 2


def test_annealing_starts_where_the_best_evaluation_was(monkeypatch):
    losses = iter([1.0, 2.0, 2.0])
    kept = []

    def evaluate(self, batches):
        kept.append([average.clone() for average in self.averages])
        return next(losses)

    begun = []
    plain = DiffusionModule.anneal

    def anneal(self, weights, steps):
        plain(self, weights, steps)
        begun.append(([weight.detach().clone() for weight in self.weights], steps))

    monkeypatch.setattr(DiffusionModule, "evaluate", evaluate)
    monkeypatch.setattr(DiffusionModule, "anneal", anneal)
    trained(validation=HELD_OUT, max_steps=5, validate_every=2, patience=1, anneal=0.5)
    ((weights, steps),) = begun
    assert steps == 1
    for weight, best in zip(weights, kept[0], strict=True):
        assert torch.equal(weight, best)


def test_without_validation_the_last_averages_are_kept(monkeypatch):
    modules = []
    plain = DiffusionModule.__init__

    def remember(self, *args, **options):
        plain(self, *args, **options)
        modules.append(self)

    monkeypatch.setattr(DiffusionModule, "__init__", remember)
    final, result = trained(max_steps=7)
    averages = torch.cat([average.reshape(-1) for average in modules[0].averages])
    assert torch.equal(final, averages)
    assert result.best_step == 7
    assert result.best_val_loss is None
    assert [entry["step"] for entry in result.history] == [5, 7]


def test_conditions_are_learned():
    cond = torch.arange(100) % 3
    x = data() * 0.2 + 2 * cond[:, None]
    held_out = (x, cond)
    _, result = trained(x=x, cond=cond, validation=held_out, condition_dropout=0.2, max_steps=30)
    assert result.history[-1]["val_loss"] < result.history[0]["val_loss"]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_data_that_are_not_finite_are_refused_before_training(bad):
    x = data()
    x[17, 1] = bad
    with pytest.raises(DataError, match="row 17"):
        trained(x=x)
    with pytest.raises(DataError, match="row 17"):
        trained(validation=(x, None))


class Diverging(SimpleLoss):
    """A loss that is NaN from some call on."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls

    def loss(self, *args):
        self.calls -= 1
        return super().loss(*args) * (torch.nan if self.calls < 0 else 1.0)


def test_divergence_is_one_clear_error():
    with pytest.raises(TrainingError, match="smaller learning rate"):
        train(denoiser(), Diverging(8), data(), config=config())


def test_bf16_runs_and_learns():
    _, result = trained(validation=HELD_OUT, precision="bf16", max_steps=40)
    assert result.history[-1]["val_loss"] < result.history[0]["val_loss"]


def test_a_run_in_a_thread():
    expected, _ = trained()
    results = []
    worker = threading.Thread(target=lambda: results.append(trained()[0]))
    worker.start()
    worker.join()
    assert torch.equal(results[0], expected)


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no CUDA device"):
        trained(accelerator="gpu")
    assert fit_module._device(config(accelerator="auto")).type == "cpu"


def test_arguments_that_do_not_fit():
    with pytest.raises(ConfigError, match="pair"):
        trained(validation=data())
    with pytest.raises(DataError, match="both have a condition"):
        trained(validation=HELD_OUT, cond=torch.zeros(100, dtype=torch.long))
    with pytest.raises(ConfigError, match="checkpoint_dir"):
        train(denoiser(), objective(), data(), config=config(), resume=True)


@pytest.mark.slow
def test_a_compiled_network_learns_the_same():
    plain, _ = trained(max_steps=5)
    model = NetworkDenoiser(Net(dropout=0.0), denoiser().process)
    train(model, objective(), data(), config=config(max_steps=5, compile=True))
    assert model.network._compiled_call_impl is None
    assert weights(model).shape == plain.shape


@pytest.mark.gpu
def test_a_gpu_learns_what_the_cpu_learns():
    _, cpu = trained(validation=HELD_OUT, max_steps=200, validate_every=200)
    _, gpu = trained(validation=HELD_OUT, max_steps=200, validate_every=200, accelerator="gpu")
    assert gpu.best_val_loss == pytest.approx(cpu.best_val_loss, rel=0.1)
