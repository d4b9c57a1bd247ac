"""Interrupted runs: a checkpoint is left, and the resumed run ends bit-equal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_problem import config, data, denoiser, objective, weights

from scidiffusion.core.objectives import SimpleLoss
from scidiffusion.errors import (
    ConfigError,
    DataError,
    ModelFileError,
    OutputError,
    ScidiffusionWarning,
    TrainingError,
)
from scidiffusion.training import train
from scidiffusion.training.checkpoint import FILE_NAME, fingerprint, load_checkpoint
from scidiffusion.training.module import DiffusionModule

HELD_OUT = (data(40, seed=9), None)


class StopAt(SimpleLoss):
    """Raise an error at call number `at` (training and evaluation alike)."""

    def __init__(self, at: int, error: BaseException) -> None:
        super().__init__()
        self.at, self.error = at, error

    def loss(self, *args):
        self.at -= 1
        if self.at == 0:
            raise self.error
        return super().loss(*args)


def run(folder=None, *, loss=None, model=None, x=None, resume=False, **changes):
    model = denoiser() if model is None else model
    options = {"checkpoint_dir": folder, "resume": resume, "validation": HELD_OUT}
    x = data() if x is None else x
    result = train(model, loss or objective(), x, config=config(**changes), **options)
    return weights(model), result


def histories_agree(one, two) -> bool:
    def plain(history):
        return [{k: v for k, v in entry.items() if k != "seconds"} for entry in history]

    return plain(one.history) == plain(two.history)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError("full")], ids=repr)
@pytest.mark.parametrize("at", [1, 4, 7, 8, 16, 25])
def test_a_run_that_failed_resumes_bit_equal(tmp_path, at, error):
    """An evaluation is 4 calls, after 5 steps: the error strikes in both."""
    expected, whole = run()
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(type(error)):
        run(tmp_path, loss=StopAt(at, error))
    assert signal.getsignal(signal.SIGINT) is handler
    _, numbers = load_checkpoint(tmp_path / FILE_NAME)
    assert numbers["step"] < 20
    final, result = run(tmp_path, resume=True)
    assert torch.equal(final, expected)
    assert histories_agree(result, whole)
    assert (result.steps, result.best_step) == (whole.steps, whole.best_step)
    assert [entry.name for entry in tmp_path.iterdir()] == [FILE_NAME]


def test_a_run_resumes_twice_and_may_go_on_after_its_end(tmp_path):
    expected, whole = run(decay="none", max_steps=20)
    for steps in (7, 13, 20):
        final, result = run(tmp_path, resume=True, decay="none", max_steps=steps)
        assert result.steps == steps
    assert torch.equal(final, expected)
    # A shorter run also evaluates at its end.
    assert [entry["step"] for entry in result.history] == [5, 7, 10, 13, 15, 20]
    assert result.best_val_loss == whole.best_val_loss


def test_a_finished_run_is_not_trained_again(tmp_path, monkeypatch):
    expected, first = run(tmp_path)
    monkeypatch.setattr(DiffusionModule, "training_step", None)
    final, again = run(tmp_path, resume=True)
    assert torch.equal(final, expected)
    assert again.history == first.history
    assert again.stopped_by == "max_steps"


def test_without_a_checkpoint_resume_starts(tmp_path):
    assert torch.equal(run(tmp_path / "new", resume=True)[0], run()[0])


def test_without_resume_a_checkpoint_is_not_read(tmp_path):
    run(tmp_path, max_steps=6)
    _, result = run(tmp_path, max_steps=5)
    assert result.steps == 5


def test_checkpoints_are_written_on_the_way(tmp_path, monkeypatch):
    steps = []
    plain = DiffusionModule.export_state

    def export(self):
        steps.append(self.step)
        return plain(self)

    monkeypatch.setattr(DiffusionModule, "export_state", export)
    run(tmp_path, checkpoint_every=0.0, max_steps=4)
    assert steps == [1, 2, 3, 4, 4]
    steps.clear()
    run(tmp_path, checkpoint_every=1e6, max_steps=4)
    assert steps == [1, 4]


def test_the_budget_counts_across_parts(tmp_path, monkeypatch):
    with pytest.raises(MemoryError):
        run(tmp_path, loss=StopAt(8, MemoryError()), budget=1000.0)
    path = tmp_path / FILE_NAME
    tensors, numbers = load_checkpoint(path)
    assert numbers["elapsed"] > 0
    numbers["elapsed"] = 2000.0
    save_file(tensors, path, metadata={"scidiffusion": json.dumps(numbers)})
    _, result = run(tmp_path, resume=True, budget=1000.0)
    assert result.stopped_by == "budget"
    assert result.steps == numbers["step"]
    assert result.seconds >= 2000.0


def test_an_update_cut_in_half_is_not_saved(tmp_path, monkeypatch):
    calls = []
    plain = torch.optim.AdamW.step

    def step(self, closure=None):
        result = plain(self, closure)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, resume=True)
    _, numbers = load_checkpoint(tmp_path / FILE_NAME)
    assert numbers["step"] == 1  # the one before, whole


def test_a_diverged_run_keeps_the_checkpoint_before(tmp_path):
    run(tmp_path, max_steps=3)
    before = (tmp_path / FILE_NAME).read_bytes()

    class Bad(SimpleLoss):
        def loss(self, *args):
            return super().loss(*args) * torch.nan

    with pytest.raises(TrainingError):
        run(tmp_path, loss=Bad(), resume=True)
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(tmp_path, monkeypatch):
    def full(path, content):
        raise OutputError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr("scidiffusion.training.checkpoint.write_atomic", full)
    with pytest.warns(ScidiffusionWarning, match="No space left"):
        final, _ = run(tmp_path, checkpoint_every=0.0)
    assert torch.equal(final, run()[0])


# -- a real signal -----------------------------------------------------------------------------


SCRIPT = """
    import os, signal, sys
    sys.path.insert(0, sys.argv[1])
    import torch
    torch.set_num_threads(1)
    from tiny_problem import config, data, denoiser, objective
    from scidiffusion.training import train
    from scidiffusion.training.module import DiffusionModule

    # A shell starts its background jobs with SIGINT ignored; a terminal does not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    plain = DiffusionModule.training_step

    def step(self, batch, batch_idx=0):
        if self.step == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(self, batch, batch_idx)

    DiffusionModule.training_step = step
    try:
        train(denoiser(), objective(), data(), validation=(data(40, seed=9), None),
              config=config(), checkpoint_dir=sys.argv[2])
    except KeyboardInterrupt:
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        print("interrupted")
        sys.exit(130)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGINT")
def test_ctrl_c_leaves_a_checkpoint_and_is_a_keyboard_interrupt(tmp_path):
    code = textwrap.dedent(SCRIPT)
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", code, here, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 130, done.stderr
    assert done.stdout == "interrupted\n"
    assert done.stderr == ""
    _, numbers = load_checkpoint(tmp_path / FILE_NAME)
    assert numbers["step"] == 8  # the step was finished
    final, result = run(tmp_path, resume=True)
    expected, whole = run()
    assert torch.equal(final, expected)
    assert histories_agree(result, whole)


@pytest.mark.skipif(os.name != "posix", reason="SIGTERM")
def test_sigterm_leaves_a_checkpoint_and_is_no_success(tmp_path, monkeypatch):
    plain = DiffusionModule.training_step

    def step(self, batch, batch_idx=0):
        if self.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, batch, batch_idx)

    monkeypatch.setattr(DiffusionModule, "training_step", step)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path)
    monkeypatch.undo()
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    _, numbers = load_checkpoint(tmp_path / FILE_NAME)
    assert numbers["step"] == 8
    final, _ = run(tmp_path, resume=True)
    assert torch.equal(final, run()[0])


# -- checkpoints that do not fit -----------------------------------------------------------------


def test_a_checkpoint_is_safetensors_and_json(tmp_path):
    run(tmp_path, max_steps=5)
    tensors = load_file(tmp_path / FILE_NAME)
    assert {name.split(".")[0] for name in tensors} == {"denoiser", "ema", "adamw", "best"}


@pytest.mark.parametrize("content", [b"", b"rubbish" * 10], ids=["empty", "rubbish"])
def test_a_damaged_checkpoint_names_itself(tmp_path, content):
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(ModelFileError, match="not a readable checkpoint") as caught:
        run(tmp_path, resume=True)
    assert FILE_NAME in str(caught.value)


def test_a_truncated_or_newer_or_foreign_file(tmp_path):
    run(tmp_path, max_steps=5)
    path = tmp_path / FILE_NAME
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    with pytest.raises(ModelFileError, match="not a readable checkpoint"):
        run(tmp_path, resume=True)
    save_file({}, path)
    with pytest.raises(ModelFileError, match="not a readable checkpoint"):
        run(tmp_path, resume=True)
    save_file({}, path, metadata={"scidiffusion": '{"format_version": 99}'})
    with pytest.raises(ModelFileError, match="update scidiffusion"):
        run(tmp_path, resume=True)


def test_another_run_is_not_resumed(tmp_path):
    run(tmp_path, max_steps=5)
    with pytest.raises(ConfigError, match=r"seed=3, not 4"):
        run(tmp_path, resume=True, seed=4)
    with pytest.raises(DataError, match="other data"):
        run(tmp_path, resume=True, x=data() + 1e-6)
    with pytest.raises(ModelFileError, match="another network"):
        run(tmp_path, resume=True, model=denoiser(width=8))


def test_a_folder_that_cannot_be_written_is_named_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(DiffusionModule, "training_step", None)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        run(tmp_path / "file")


def test_fingerprints():
    x = data()
    prints = {
        fingerprint(x),
        fingerprint({"a": x}),
        fingerprint({"b": x}),
        fingerprint(x.double()),
        fingerprint(x.T),
        fingerprint(x, None),
        fingerprint(x, x),
        fingerprint(x.long()),
        fingerprint(x > 0),
    }
    assert len(prints) == 9
    assert fingerprint({"a": x, "b": x + 1}) == fingerprint({"b": x + 1, "a": x.clone()})
