"""Pictures in and out: folders, MNIST's format, arrays, plots."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from PIL import Image

from scidiffusion.errors import DataError, OutputError
from scidiffusion.images import (
    plot_guidance,
    plot_images,
    read_folder,
    read_idx,
    read_images,
    write_images,
)
from scidiffusion.images.pictures import as_pixels, tile
from scidiffusion.images.writing import check_output

RNG = np.random.default_rng(0)


def grey(n=3, height=4, width=5):
    return RNG.integers(0, 256, (n, 1, height, width)).astype(np.uint8)


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(int(size).to_bytes(4, "big") for size in array.shape)
    codes = {"u1": 0x08, "i2": 0x0B, "f4": 0x0D}
    code = codes[array.dtype.str[1:]]
    big = array.astype(array.dtype.newbyteorder(">"))
    return bytes([0, 0, code, array.ndim]) + sizes + big.tobytes()


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_mnists_format(tmp_path, compress, dtype):
    array = RNG.integers(0, 200, (6, 3, 4)).astype(dtype)
    content = idx(array)
    file = tmp_path / ("x-idx3-ubyte.gz" if compress else "x-idx3-ubyte")
    file.write_bytes(gzip.compress(content) if compress else content)
    read = read_idx(file)
    assert read.shape == (6, 1, 3, 4)
    assert read.dtype == np.dtype(dtype)
    assert np.array_equal(read[:, 0], array)
    labels = tmp_path / "y"
    labels.write_bytes(idx(np.arange(6, dtype=np.uint8)))
    X, y = read_images(file, labels)
    assert np.array_equal(X, read)
    assert y.tolist() == list(range(6))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a file of MNIST's format"),
        (b"\x89PNG....", "not a file of MNIST's format"),
        (idx(np.zeros((2, 3), np.uint8))[:7], "within its header"),
        (idx(np.zeros((2, 3), np.uint8))[:-1], "truncated"),
        (gzip.compress(idx(np.zeros((2, 3), np.uint8)), mtime=0)[:-4], "cannot read"),
    ],
    ids=["empty", "picture", "header", "values", "packed"],
)
def test_files_that_are_not_mnists(tmp_path, content, message):
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_idx(file)
    with pytest.raises(DataError, match="no file at"):
        read_idx(tmp_path / "missing")


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_folder_of_pictures_comes_back(tmp_path, channels):
    images = RNG.integers(0, 256, (12, channels, 4, 5)).astype(np.uint8)
    images[0, :, 0, :2] = 0, 255
    write_images(tmp_path / "out", images, value_range=(0, 255))
    read, labels = read_folder(tmp_path / "out")
    assert labels is None
    assert np.array_equal(read, images)
    assert read_folder(tmp_path / "out", channels=1)[0].shape == (12, 1, 4, 5)


def test_subfolders_are_labels(tmp_path):
    images, labels = grey(6), np.array(["b", "a", "b", "a", "a", "b"])
    write_images(tmp_path / "out", images, labels, value_range=(0, 255))
    (tmp_path / "out" / "a" / "notes.txt").write_text("not a picture")
    (tmp_path / "out" / ".hidden").mkdir()
    X, y = read_images(tmp_path / "out")
    order = np.argsort(labels, kind="stable")
    assert y.tolist() == labels[order].tolist()
    assert np.array_equal(X, images[order])


def test_bad_folders(tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        read_folder(tmp_path / "none")
    with pytest.raises(DataError, match="holds no pictures"):
        read_folder(tmp_path)
    write_images(tmp_path / "out", grey(2))
    Image.new("L", (7, 4)).save(tmp_path / "out" / "z.png")
    with pytest.raises(DataError, match=r"z.png is 7 x 4 pixels, 0.png is 5 x 4"):
        read_folder(tmp_path / "out")
    (tmp_path / "out" / "z.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match=r"cannot read the picture .*z.png"):
        read_folder(tmp_path / "out")
    (tmp_path / "out" / "z.png").unlink()
    write_images(tmp_path / "out" / "label", grey(2))
    with pytest.raises(DataError, match=r"holds pictures .* and folders of pictures"):
        read_folder(tmp_path / "out")
    with pytest.raises(DataError, match="channels must be"):
        read_folder(tmp_path / "out", channels=2)


def test_arrays_come_back(tmp_path):
    images, labels = RNG.normal(size=(4, 2, 3, 4, 5)), np.array(["a", "b", "a", "b"])
    write_images(tmp_path / "x.npz", images, labels)
    X, y = read_images(tmp_path / "x.npz")
    assert np.array_equal(X, images)
    assert y.tolist() == labels.tolist()
    write_images(tmp_path / "x.npy", images)
    np.save(tmp_path / "y.npy", labels)
    X, y = read_images(tmp_path / "x.npy", tmp_path / "y.npy")
    assert np.array_equal(X, images)
    assert y.tolist() == labels.tolist()
    np.savez(tmp_path / "two.npz", a=images, b=images)
    with pytest.raises(DataError, match="must hold an array 'images'"):
        read_images(tmp_path / "two.npz")
    np.save(tmp_path / "few.npy", labels[:2])
    with pytest.raises(DataError, match="4 images, but there are 2 labels"):
        read_images(tmp_path / "x.npy", tmp_path / "few.npy")
    (tmp_path / "x.npy").write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot read"):
        read_images(tmp_path / "x.npy")


def test_pixels_and_tiles():
    images = np.array([[[0.0, 1.0]], [[2.0, 4.0]], [[1.0, 3.0]]])
    assert as_pixels(images)[..., 0].tolist() == [[[0, 64]], [[128, 255]], [[64, 191]]]
    assert as_pixels(images, (0, 2))[1, 0, :, 0].tolist() == [255, 255]
    grid = tile(images, columns=2)[..., 0]
    assert grid.tolist() == [
        [0, 64, 128, 128, 255],
        [128, 128, 128, 128, 128],
        [64, 191, 128, 128, 128],
    ]


@pytest.mark.parametrize("shape", [(3, 2, 4, 4), (3, 1, 4), (3, 1, 4, 4, 4), (0, 1, 4, 4)])
def test_what_is_no_picture(shape, tmp_path):
    images = np.zeros(shape)
    if len(shape) == 3:
        images = images[..., None].reshape(3, 4)
    with pytest.raises(DataError, match=r"no pictures|no images"):
        plot_images(images)
    with pytest.raises(DataError, match=r"no pictures|no images"):
        write_images(tmp_path / "x.png", images)
    assert not list(tmp_path.iterdir())


def test_outputs_are_checked_first(tmp_path):
    check_output(tmp_path / "new")
    check_output(tmp_path / "x.npz")
    with pytest.raises(OutputError, match=r"must end in .npz, .npy or .png"):
        check_output(tmp_path / "x.pdf")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(OutputError, match="no empty folder"):
        check_output(tmp_path / "full")
    with pytest.raises(DataError, match="3 images need as many labels"):
        write_images(tmp_path / "x.npz", grey(3), ["a"])


def test_plots_are_written_and_check_their_input(tmp_path):
    figure = plot_images(grey(7), columns=4, title="some", path=tmp_path / "x.png")
    (axis,) = figure.axes
    assert axis.get_title() == "some"
    assert axis.images[0].get_array().shape == (9, 23)
    assert (tmp_path / "x.png").stat().st_size > 1000
    colour = plot_images(RNG.random((2, 3, 4, 4)))
    assert colour.axes[0].images[0].get_array().shape == (4, 9, 3)
    sweep = plot_guidance(
        [0, 1, 2],
        [0.1, 0.8, 0.9],
        [3, 2, 1],
        [grey(5)] * 3,
        real=(0.9, 2),
        path=tmp_path / "g.png",
    )
    precision, diversity, pictures = sweep.axes
    assert precision.lines[0].get_ydata().tolist() == [0.1, 0.8, 0.9]
    assert diversity.lines[0].get_ydata().tolist() == [3, 2, 1]
    assert pictures.images[0].get_array().shape == (14, 29)
    assert len(plot_guidance([1], [1.0], [2.0]).axes) == 2
    with pytest.raises(DataError, match="one length"):
        plot_guidance([0, 1], [0.5], [1.0])
