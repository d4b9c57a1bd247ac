"""Images to tensors and back: shapes, ranges, dtypes, and every kind of bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scidiffusion.errors import ConfigError, DataError
from scidiffusion.images.codec import ImageCodec, as_images

RNG = np.random.default_rng(0)


def floats(*shape):
    return RNG.normal(3.0, 2.0, shape)


@pytest.mark.parametrize(
    ("array_shape", "dims", "shape"),
    [
        ((20, 1, 5, 6), None, (1, 5, 6)),
        ((20, 3, 5, 6), None, (3, 5, 6)),
        ((20, 5, 6), None, (1, 5, 6)),
        ((20, 2, 9), 1, (2, 9)),
        ((20, 9), None, (1, 9)),
        ((20, 2, 3, 4, 5), None, (2, 3, 4, 5)),
        ((20, 3, 4, 5), 3, (1, 3, 4, 5)),
    ],
)
@pytest.mark.parametrize("dtype", ["float64", "float32", "uint8", "int32", "bool"])
def test_there_and_back(array_shape, dims, shape, dtype):
    if dtype == "bool":
        X = RNG.random(array_shape) < 0.5
    elif dtype.startswith("float"):
        X = floats(*array_shape).astype(dtype)
    else:
        X = RNG.integers(0, 200, array_shape).astype(dtype)
    codec, array = ImageCodec.fit(X, dims=dims)
    assert codec.shape == shape
    x = codec.encode(array)
    assert x.shape == (20, *shape)
    assert x.dtype == torch.float32
    back = codec.decode(x)
    assert back.dtype == X.dtype
    assert back.shape == X.shape
    if dtype.startswith("float"):
        assert np.allclose(back, X, atol=1e-5)
    else:
        assert np.array_equal(back, X)
    again = ImageCodec.from_dict(codec.to_dict())
    assert again == codec


def test_floats_are_standardised_by_channel_and_never_clipped():
    X = np.stack([floats(50, 4, 4), 100 * floats(50, 4, 4)], axis=1)
    codec, _ = ImageCodec.fit(X)
    x = codec.encode(X)
    assert torch.allclose(x.mean((0, 2, 3)), torch.zeros(2), atol=1e-4)
    assert torch.allclose(x.std((0, 2, 3)), torch.ones(2), atol=1e-2)
    assert (codec.low, codec.high) == (X.min(), X.max())
    far = torch.full((1, 2, 4, 4), 50.0)
    assert codec.decode(far).max() > codec.high
    assert codec.decode(far, clip=True).max() == codec.high
    expected = 16 * np.log(codec.scale).sum()
    assert codec.log_volume == pytest.approx(expected)


def test_integers_fill_minus_one_to_one_and_stay_in_their_range():
    X = RNG.integers(0, 17, (30, 1, 4, 4)).astype(np.uint8)
    X[0, 0, 0, :2] = 0, 16
    codec, _ = ImageCodec.fit(X)
    x = codec.encode(X)
    assert (float(x.min()), float(x.max())) == (-1.0, 1.0)
    assert codec.bin_width == pytest.approx(2 / 16)
    assert codec.log_volume == 0
    assert codec.decode(torch.tensor([[[[-3.0, 3.0, 0.01, 0.1]] * 4]])).tolist()[0][0][0] == [
        0,
        16,
        8,
        9,
    ]
    wide, _ = ImageCodec.fit(X, value_range=(0, 255))
    assert (wide.low, wide.high) == (0, 255)
    assert float(wide.encode(X).max()) < -0.8


def test_unknown_values_may_be_nan():
    codec, _ = ImageCodec.fit(floats(20, 1, 3, 3))
    X = floats(2, 1, 3, 3)
    known = np.ones(X.shape, dtype=bool)
    X[0, 0, 1, 1], known[0, 0, 1, 1] = np.nan, False
    assert bool(codec.encode(X, known=known).isfinite().all())
    with pytest.raises(DataError, match="NaN"):
        codec.encode(X)


GOOD = floats(20, 1, 6, 6)


def with_value(value):
    X = GOOD.copy()
    X[7, 0, 2, 3] = value
    return X


@pytest.mark.parametrize(
    ("X", "options", "message"),
    [
        ([floats(8, 8), floats(8, 8), floats(9, 8)], {}, "image 2 has shape"),
        (floats(20, 8, 8, 3), {}, r"channels last.*np.moveaxis\(X, -1, 1\)"),
        (floats(20, 8, 8, 1), {}, "channels last"),
        (floats(20, 8, 8, 8, 3), {}, "channels last"),
        (with_value(np.nan), {}, r"image 7 holds NaN or infinity, first at \(0, 2, 3\)"),
        (with_value(np.inf), {}, "image 7 holds NaN or infinity"),
        (np.zeros((0, 1, 6, 6)), {}, "0 images are too few"),
        (np.zeros((20, 1, 0, 6)), {}, "empty"),
        (np.full((20, 1, 6, 6), 2.5), {}, r"constant \(2.5 everywhere\)"),
        (np.concatenate([GOOD, np.ones((20, 1, 6, 6))], 1), {}, "channel 1 of X is constant"),
        (np.full((20, 4, 4), 7, dtype=np.uint8), {}, "constant"),
        (np.full((20, 4, 4), "a"), {}, "numbers"),
        (floats(20), {}, r"\(N, C, H, W\)"),
        (GOOD, {"dims": 1}, "with dims=1"),
        (with_value(99.0), {"value_range": (-10, 20)}, "image 7 holds 99.0, beyond the range"),
        (
            np.tile(np.arange(16, dtype=np.uint8).reshape(1, 4, 4), (20, 1, 1)),
            {"value_range": (0, 12)},
            "image 0 holds 13, beyond the range",
        ),
    ],
)
def test_bad_images_are_named(X, options, message):
    with pytest.raises(DataError, match=message):
        ImageCodec.fit(X, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": 4}, "dims"),
        ({"dims": True}, "dims"),
        ({"value_range": (1, 0)}, "value_range"),
        ({"value_range": (0, np.inf)}, "value_range"),
        ({"value_range": 3}, "value_range"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ConfigError, match=message):
        ImageCodec.fit(GOOD, **options)


def test_saying_the_dimensions_settles_what_looks_like_channels_last():
    array, dims = as_images(floats(20, 8, 8, 3), 2)
    assert (array.shape, dims) == ((20, 8, 8, 3), 2)


def test_later_images_must_fit():
    codec, _ = ImageCodec.fit(RNG.integers(0, 17, (30, 1, 4, 4)).astype(np.uint8))
    with pytest.raises(DataError, match=r"shape \(1, 5, 4\).*\(1, 4, 4\)"):
        codec.encode(np.zeros((2, 1, 5, 4), dtype=np.uint8))
    with pytest.raises(DataError, match="image 1 holds 200, beyond"):
        codec.encode(np.stack([np.zeros((1, 4, 4)), np.full((1, 4, 4), 200)]).astype(np.uint8))
    with pytest.raises(DataError, match="fractions"):
        codec.encode(np.full((1, 1, 4, 4), 0.5))
