"""Saved models and files: what is written comes back, and no failure loses what was there."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scidiffusion import _files, persistence
from scidiffusion.errors import ConfigError, ModelFileError, OutputError
from scidiffusion.persistence import (
    check_writable,
    check_writable_file,
    from_json,
    load_model,
    save_model,
    to_json,
    write_atomic,
)

CONFIG = {"steps": 10, "lr": 0.1, "bounds": [math.nan, math.inf, -math.inf], "name": "ü\n"}


def weights(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {
        "layer.weight": torch.full((3, 2), value),
        "table": torch.arange(4),
        "half": torch.tensor([value], dtype=torch.bfloat16),
        "scalar": torch.tensor(value, dtype=torch.float64),
    }


def save(path: Path, value: float = 1.0, **changes) -> None:
    arguments = {
        "estimator": "Toy",
        "config": CONFIG | {"value": value},
        "tensors": weights(value),
        "extra": {"codec.json": {"levels": ["a", "b"], "value": value}},
    }
    save_model(path, **(arguments | changes))


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def same(one: object, other: object) -> bool:
    return repr(one) == repr(other)  # NaN differs from itself


def test_what_is_saved_comes_back(tmp_path):
    save(tmp_path / "deep" / "model")
    model = load_model(tmp_path / "deep" / "model", estimator="Toy")
    assert same(model.config, CONFIG | {"value": 1.0})
    assert model.extra == {"codec.json": {"levels": ["a", "b"], "value": 1.0}}
    assert model.tensors.keys() == weights().keys()
    for name, tensor in weights().items():
        assert model.tensors[name].dtype == tensor.dtype
        assert torch.equal(model.tensors[name], tensor)
    assert names(tmp_path / "deep") == {"model"}
    assert names(tmp_path / "deep" / "model") == {
        "config.json",
        "weights.safetensors",
        "codec.json",
    }


def test_tensors_that_share_memory_are_saved(tmp_path):
    base = torch.arange(6.0).reshape(2, 3)
    save(tmp_path / "m", tensors={"a": base, "b": base, "c": base.T, "d": base[0]})
    tensors = load_model(tmp_path / "m", estimator="Toy").tensors
    assert torch.equal(tensors["c"], base.T)
    assert torch.equal(tensors["d"], base[0])


def test_a_model_replaces_a_model_and_an_empty_folder(tmp_path):
    (tmp_path / "m").mkdir()
    save(tmp_path / "m", 1.0)
    save(tmp_path / "m", 2.0)
    assert load_model(tmp_path / "m", estimator="Toy").config["value"] == 2.0
    assert names(tmp_path) == {"m"}


def test_the_same_model_gives_the_same_bytes(tmp_path):
    save(tmp_path / "a")
    save(tmp_path / "b")
    for name in names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


# -- JSON ---------------------------------------------------------------------


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_json_round_trip(value):
    text = json.dumps(to_json(value), allow_nan=False)
    assert same(from_json(json.loads(text)), value)


def test_numpy_and_tuples_become_plain():
    value = {"a": np.float32(0.5), "b": np.arange(2), "c": (np.int64(1), np.bool_(True))}
    assert to_json(value) == {"a": 0.5, "b": [0, 1], "c": [1, True]}


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"a": [1, object()]}, r"config\.json\['params'\]\['a'\]\[1\] is a object"),
        ({"a": {1: 2}}, "the key 1"),
        ({"a": {"$float": "nan"}}, r"the key '\$float'"),
        ({"a": torch.ones(1)}, "is a Tensor"),
    ],
)
def test_what_json_cannot_say_is_named_and_nothing_is_written(tmp_path, value, place):
    with pytest.raises(ConfigError, match=place):
        save(tmp_path / "m", config=value)
    assert names(tmp_path) == set()


@pytest.mark.parametrize("name", ["codec.txt", "config.json", "../codec.json"])
def test_an_extra_file_has_a_plain_json_name(tmp_path, name):
    with pytest.raises(ConfigError, match="extra file"):
        save(tmp_path / "m", extra={name: {}})
    assert names(tmp_path) == set()


# -- loading what is not a model --------------------------------------------------


def edit_config(folder: Path, **changes) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (lambda m: (m / "config.json").unlink(), r"config\.json is missing"),
        (lambda m: (m / "weights.safetensors").unlink(), r"weights\.safetensors is missing"),
        (lambda m: (m / "codec.json").unlink(), r"codec\.json is missing"),
        (lambda m: truncate(m / "weights.safetensors"), r"weights\.safetensors has .* truncated"),
        (lambda m: truncate(m / "codec.json"), r"codec\.json has .* truncated"),
        (lambda m: truncate(m / "config.json"), r"config\.json is not JSON"),
        (lambda m: flip(m / "weights.safetensors"), r"weights\.safetensors is altered"),
        (lambda m: (m / "config.json").write_bytes(b"\xff\xfe"), r"config\.json is not JSON"),
        (lambda m: (m / "config.json").write_text("[]"), "not that of a scidiffusion model"),
        (lambda m: (m / "config.json").write_text("{}"), "not that of a scidiffusion model"),
        (lambda m: edit_config(m, format_version=2), "update scidiffusion"),
        (lambda m: edit_config(m, format_version="x"), "no valid 'format_version'"),
        (lambda m: edit_config(m, params=None), "no valid 'params'"),
        (lambda m: edit_config(m, files={}), r"lists no weights\.safetensors"),
        (lambda m: edit_config(m, files={"../x": {}}), "invalid list of files"),
        (lambda m: edit_config(m, estimator="Other"), "a model of Other, not of Toy"),
    ],
)
def test_a_damaged_model_names_the_file_and_the_way_out(tmp_path, harm, complaint):
    save(tmp_path / "m")
    harm(tmp_path / "m")
    with pytest.raises(ModelFileError, match=complaint) as caught:
        load_model(tmp_path / "m", estimator="Toy")
    assert str(tmp_path / "m") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, OSError)


def test_weights_with_the_right_checksum_that_are_not_safetensors(tmp_path):
    save(tmp_path / "m")
    (tmp_path / "m" / "weights.safetensors").write_bytes(b"")
    digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    edit_config(tmp_path / "m", files={"weights.safetensors": {"bytes": 0, "sha256": digest}})
    with pytest.raises(ModelFileError, match="not a safetensors file"):
        load_model(tmp_path / "m", estimator="Toy")


def test_no_model_and_a_file_in_its_place(tmp_path):
    with pytest.raises(ModelFileError, match="there is no model at"):
        load_model(tmp_path / "nothing", estimator="Toy")
    (tmp_path / "file").touch()
    with pytest.raises(ModelFileError, match="is a file"):
        load_model(tmp_path / "file", estimator="Toy")


# -- saving where it cannot be ------------------------------------------------------


def test_a_folder_that_is_not_a_model_is_left_alone(tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.tex").write_text("x")
    with pytest.raises(OutputError, match=r"holds something else \('chapter\.tex'\)"):
        save(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(OutputError, match="holds something else"):
        check_writable(folder)
    assert names(folder) == {"chapter.tex", "config.json"}


def test_a_note_in_a_model_folder_is_not_deleted(tmp_path):
    save(tmp_path / "m")
    (tmp_path / "m" / "notes.txt").write_text("x")
    with pytest.raises(OutputError, match=r"notes\.txt"):
        save(tmp_path / "m", 2.0)
    assert load_model(tmp_path / "m", estimator="Toy").config["value"] == 1.0


def test_a_model_of_a_newer_format_may_be_replaced(tmp_path):
    save(tmp_path / "m")
    edit_config(tmp_path / "m", format_version=99)
    save(tmp_path / "m", 2.0)
    assert load_model(tmp_path / "m", estimator="Toy").config["value"] == 2.0


def test_a_file_is_in_the_way(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "model"):
        with pytest.raises(OutputError, match="cannot"):
            check_writable(path)
        with pytest.raises(OutputError, match="file"):
            save(path)
    with pytest.raises(OutputError, match="not a folder"):
        check_writable_file(tmp_path / "file" / "out.csv")
    assert (tmp_path / "file").read_text() == "x"


def test_a_folder_that_refuses_files_is_named_before_the_work(tmp_path, monkeypatch):
    # Permissions do not stop root, so the refusal is simulated where the system would make it.
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    for check in (check_writable, check_writable_file):
        with pytest.raises(OutputError, match="Permission denied") as caught:
            check(tmp_path / "x" / "out")
        assert str(tmp_path / "x" / "out") in str(caught.value)


def test_checking_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path / "a" / "b")
    check_writable_file(tmp_path / "c" / "d.csv")
    check_writable(tmp_path)
    assert names(tmp_path) == set()


# -- failing in the middle ----------------------------------------------------------


class Failing:
    """Call through to a function, but raise at call number `at`."""

    def __init__(self, function, at: int, error: BaseException) -> None:
        self.function, self.at, self.error, self.calls = function, at, error, 0

    def __get__(self, instance, owner):
        return lambda *args, **options: self(instance, *args, **options)

    def __call__(self, *args, **options):
        self.calls += 1
        if self.calls == self.at:
            raise self.error
        return self.function(*args, **options)


FULL = OSError(28, "No space left on device")


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()], ids=["full", "ctrl-c"])
@pytest.mark.parametrize(
    ("method", "calls"), [("write_bytes", 3), ("rename", 2), ("mkdir", 1)], ids=str
)
def test_a_failed_save_leaves_the_old_model(tmp_path, monkeypatch, method, calls, error):
    save(tmp_path / "m", 1.0)
    for at in range(1, calls + 1):
        with monkeypatch.context() as patch:
            patch.setattr(Path, method, Failing(getattr(Path, method), at, error))
            expected = OutputError if error is FULL else KeyboardInterrupt
            with pytest.raises(expected):
                save(tmp_path / "m", 2.0)
        assert names(tmp_path) == {"m"}
        assert load_model(tmp_path / "m", estimator="Toy").config["value"] == 1.0


def test_a_full_disk_at_the_first_save_leaves_nothing(tmp_path, monkeypatch):
    def full(path):
        raise FULL

    monkeypatch.setattr(persistence, "sync", full)
    with pytest.raises(OutputError, match="No space left on device") as caught:
        save(tmp_path / "m")
    assert str(tmp_path / "m") in str(caught.value)
    assert names(tmp_path) == set()


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import torch
    from scidiffusion.persistence import save_model

    def save(value):
        save_model(sys.argv[1], estimator="Toy", config={"value": value},
                   tensors={"w": torch.full((2,), value)}, extra={"codec.json": {}})

    save(1.0)
    method, at = sys.argv[2], int(sys.argv[3])
    plain, calls = getattr(Path, method), 0

    def kill(self, *args):
        global calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, *args)

    setattr(Path, method, kill)
    save(2.0)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize(("method", "at"), [("write_bytes", 2), ("rename", 2)])
def test_a_killed_save_leaves_the_old_model(tmp_path, method, at):
    code = textwrap.dedent(KILLED)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m"), method, str(at)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert load_model(tmp_path / "m", estimator="Toy").config["value"] == 1.0
    save(tmp_path / "m", 3.0)
    assert names(tmp_path) == {"m"}  # what the dead process left is gone
    assert load_model(tmp_path / "m", estimator="Toy").config["value"] == 3.0


# -- single files -------------------------------------------------------------------


def test_write_atomic_takes_bytes_or_a_function(tmp_path):
    write_atomic(tmp_path / "new" / "a.bin", b"abc")
    write_atomic(tmp_path / "b.csv", lambda path: path.write_text(path.suffix))
    assert (tmp_path / "new" / "a.bin").read_bytes() == b"abc"
    assert (tmp_path / "b.csv").read_text() == ".csv"
    assert names(tmp_path) == {"new", "b.csv"}


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt(), ZeroDivisionError()], ids=repr)
def test_write_atomic_keeps_the_old_file(tmp_path, error):
    (tmp_path / "a.csv").write_text("old")

    def write(path: Path) -> None:
        path.write_text("half of the ne")
        raise error

    expected = OutputError if error is FULL else type(error)
    with pytest.raises(expected):
        write_atomic(tmp_path / "a.csv", write)
    assert (tmp_path / "a.csv").read_text() == "old"
    assert names(tmp_path) == {"a.csv"}


def test_write_atomic_syncs_before_it_renames(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(_files, "sync", lambda path: seen.append((path.name, path.exists())))
    write_atomic(tmp_path / "a.csv", b"x")
    assert len(seen) == 2
    assert seen[0][0].startswith(".a.")
    assert seen[1] == (tmp_path.name, True)


def test_write_atomic_follows_a_link(tmp_path):
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    write_atomic(tmp_path / "link.csv", b"new")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text() == "new"


def test_write_atomic_refuses_a_folder(tmp_path):
    with pytest.raises(OutputError, match="it is a folder"):
        write_atomic(tmp_path, b"")
    with pytest.raises(OutputError, match="it is a folder"):
        check_writable_file(tmp_path)


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="needs devices")
def test_write_atomic_refuses_a_device():
    with pytest.raises(OutputError, match="not a regular file"):
        check_writable_file("/dev/null")
