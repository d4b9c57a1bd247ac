"""`scidiffusion images fit|sample|inpaint`."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from scidiffusion import ImageDiffusion
from scidiffusion.cli.main import app
from scidiffusion.images import read_folder, write_images

RUN = CliRunner()


def run(*arguments) -> str:
    result = RUN.invoke(app, ["images", *map(str, arguments), "--quiet"])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures in subfolders, and a model of them."""
    place = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (24, 1, 5, 6)).astype(np.uint8)
    y = np.where(np.arange(24) % 2, "cat", "dog")
    write_images(place / "pictures", X, y, value_range=(0, 255))
    read, labels = read_folder(place / "pictures")
    options = {"width": 8, "blocks": 1, "heads": 2, "max_steps": 2, "sample_steps": 3}
    model = ImageDiffusion(**options, progress=False, random_state=0, device="cpu")
    model.fit(read, labels).save(place / "model")
    return place


def test_fit_writes_a_model_and_leaves_no_checkpoint(folder, tmp_path):
    out = run("fit", folder / "pictures", "-m", tmp_path / "m", "--width", 8, "--budget", "0.01s")
    assert "24 images" in out
    assert [entry.name for entry in tmp_path.iterdir()] == ["m"]
    fitted = ImageDiffusion.load(tmp_path / "m")
    assert fitted.conditions_.labels.labels == ("cat", "dog")
    assert fitted.codec_.shape == (1, 5, 6)


def test_samples_are_those_of_python(folder, tmp_path):
    arguments = ["-m", folder / "model", "--condition", "cat", "--guidance-scale", 2, "-n", 4]
    run("sample", *arguments, "-o", tmp_path / "x.npz", "--seed", 3)
    model = ImageDiffusion.load(folder / "model")
    model.progress = False
    expected = model.sample(4, conditions="cat", guidance_scale=2.0, random_state=3)
    with np.load(tmp_path / "x.npz") as arrays:
        assert np.array_equal(arrays["images"], expected)
    run("sample", *arguments, "-o", tmp_path / "grid.png")
    assert (tmp_path / "grid.png").read_bytes()[:4] == b"\x89PNG"
    run("sample", *arguments, "-o", tmp_path / "many")
    assert len(list((tmp_path / "many").glob("*.png"))) == 4


def test_inpaint_keeps_what_is_known(folder, tmp_path):
    X, _ = read_folder(folder / "pictures")
    np.save(tmp_path / "x.npy", X[:3])
    mask = np.zeros((5, 6), dtype=bool)
    mask[:3] = True
    np.save(tmp_path / "mask.npy", mask)
    arguments = ["-m", folder / "model", "-o", tmp_path / "out.npz", "--steps", 2]
    run("inpaint", tmp_path / "x.npy", *arguments, "--mask", tmp_path / "mask.npy")
    with np.load(tmp_path / "out.npz") as arrays:
        assert np.array_equal(arrays["images"][..., :3, :], X[:3, :, :3])
    gaps = X[:3].astype(float)
    gaps[..., 3:, :] = np.nan
    np.save(tmp_path / "gaps.npy", gaps)
    run("inpaint", tmp_path / "gaps.npy", *arguments)
    with np.load(tmp_path / "out.npz") as arrays:
        assert np.array_equal(arrays["images"][..., :3, :], X[:3, :, :3])


def test_captions_and_given_images(folder, tmp_path):
    X, _ = read_folder(folder / "pictures")
    np.save(tmp_path / "coarse.npy", X[:, :, :, ::2])
    texts = ["a big cat" if row % 2 else "a dog" for row in range(len(X))]
    (tmp_path / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
    out = run(
        "fit", folder / "pictures", "-m", tmp_path / "m", "--width", 8, "--budget", "0.01s",
        "--captions", tmp_path / "texts.txt", "--given", tmp_path / "coarse.npy",
        "--given-noise", 0.5, "--network", "dit",
    )  # fmt: skip
    assert "24 images" in out
    ask = ["-m", tmp_path / "m", "--caption", "a cat", "--given", tmp_path / "coarse.npy"]
    run("sample", *ask, "-o", tmp_path / "x.npz", "--steps", 2, "--seed", 1)
    model = ImageDiffusion.load(tmp_path / "m")
    model.progress = False
    given = X[:, :, :, ::2]
    expected = model.sample(24, captions="a cat", given=given, steps=2, random_state=1)
    with np.load(tmp_path / "x.npz") as arrays:
        assert np.array_equal(arrays["images"], expected)
    result = RUN.invoke(
        app, ["images", "sample", *map(str, ask), "--caption", "a cow", "-o", "y.npz", "--quiet"]
    )
    assert result.exit_code == 2
    assert "unknown word 'cow'" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "missing", "-m", "m"], "no file at missing"),
        (["sample", "-m", "missing", "-o", "x.npz"], "there is no model at missing"),
        (["sample", "-m", "MODEL", "-o", "x.pdf"], "must end in .npz"),
        (["sample", "-m", "MODEL", "-o", "x.npz", "--condition", "cow"], "known are 'cat', 'dog'"),
        (["sample", "-m", "MODEL", "-o", "x.npz", "--guidance-scale", "2"], "guide towards"),
        (["inpaint", "PICTURES", "-m", "MODEL", "-o", "x.npz"], "a mask must say"),
        (["inpaint", "PICTURES", "-m", "MODEL", "-o", "x.npz", "--mask", "no"], "no mask at no"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(folder, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    places = {"MODEL": str(folder / "model"), "PICTURES": str(folder / "pictures")}
    arguments = [places.get(part, part) for part in arguments]
    result = RUN.invoke(app, ["images", *arguments, "--quiet"])
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())
