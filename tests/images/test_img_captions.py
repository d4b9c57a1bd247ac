"""Captions: tokens, the network over them, cross-attention, an encoder of one's own, errors."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from scidiffusion import ImageDiffusion
from scidiffusion.errors import ConditionError, ConfigError, DataError
from scidiffusion.images import UNet
from scidiffusion.images.captions import CaptionCodec, CaptionNetwork, tokens_of

QUICK = {
    "width": 8, "blocks": 1, "heads": 2, "max_steps": 3, "batch_size": 8, "progress": False,
    "precision": "float32", "random_state": 0, "sample_steps": 4,
}  # fmt: skip
PLACES = ("left", "right")
SIZES = ("thin", "bold")


def scenes(n: int) -> tuple[np.ndarray, list[str]]:
    """Images of a bar; 'bold left' or 'a left bar, thin' says where it is and how bright."""
    rng = np.random.default_rng(0)
    X, texts = 0.1 * rng.standard_normal((n, 4, 6)), []
    for image in X:
        place, size = rng.integers(2, size=2)
        image[:, 1 + 3 * place] += 1 + 2 * size
        words = (SIZES[size], PLACES[place])
        texts.append(
            "{} {}".format(*words) if rng.random() < 0.5 else "a {1} bar, {0}".format(*words)
        )
    return X, texts


def seen(images: np.ndarray) -> np.ndarray:
    """Where the bar of images is and whether it is bold, (n, 2)."""
    bars = images.mean(1)[:, [1, 4]]
    return np.stack((bars.argmax(1), bars.max(1) > 2), 1).astype(int)


def wanted(texts: list[str]) -> np.ndarray:
    """What captions say of that, (n, 2)."""
    return np.array([["right" in text, "bold" in text] for text in texts]).astype(int)


def test_words():
    assert tokens_of("A bold seven,above 2") == ["a", "bold", "seven", ",", "above", "2"]
    codec = CaptionCodec.fit(["one two", "Two three four"], 2, None)
    assert codec.words == ("four", "one", "three", "two")
    assert codec.encode("two one", 3).tolist() == [[3, 1, -1]] * 3
    assert codec.encode(None, 2).tolist() == [[-1] * 3] * 2
    assert codec.encode(["one", "two two two two"], 2).tolist() == [[1, -1, -1, -1], [3] * 4]
    assert CaptionCodec.from_dict(codec.to_dict()) == codec


@pytest.mark.parametrize(
    ("captions", "n", "message"),
    [
        ("one twoo", 1, "unknown word 'twoo' in 'one twoo'; did you mean 'two'?"),
        ("zebra", 1, "unknown word 'zebra' in 'zebra'; known are one, two"),
        ("", 1, "a caption is empty"),
        (["one", "two"], 3, "2 captions for 3 images"),
        ([3], 1, "caption 0 is no text: 3"),
    ],
)
def test_captions_that_cannot_be_used(captions, n, message):
    codec = CaptionCodec.fit(["one", "two"], 2, None)
    with pytest.raises(ConditionError, match=re.escape(message)):
        codec.encode(captions, n)


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        (["a"], "1 captions for 2 images"),
        (["a", " "], "the caption of image 1 is empty"),
        (["a", None], "caption 1 is no text"),
        ("ab", "captions must be one text an image"),
    ],
)
def test_training_captions_that_cannot_be_used(captions, message):
    with pytest.raises(DataError, match=message):
        CaptionCodec.fit(captions, 2, None)


@pytest.mark.parametrize("kind", ["words", "features"])
def test_tokens_that_are_not_there_change_nothing(kind):
    torch.manual_seed(0)
    network = CaptionNetwork(8, 2, **{kind: 5}).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    if kind == "words":
        short, padded = torch.tensor([[1, 4]]), torch.tensor([[1, 4, -1, -1]])
    else:
        short = torch.randn(1, 2, 5)
        padded = torch.cat((short, torch.full((1, 2, 5), torch.nan)), 1)
    tokens, mean = network(short)
    longer, same = network(padded)
    torch.testing.assert_close(longer[:, :2], tokens)
    torch.testing.assert_close(same, mean)
    assert bool(longer[:, 2:].isnan().all())
    none, zero = network(padded[:, 2:])
    assert bool(none.isnan().all())
    assert not bool(zero.any())


def test_the_order_of_words_matters():
    torch.manual_seed(0)
    network = CaptionNetwork(8, 2, words=5).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokens = network(torch.tensor([[0, 1], [1, 0]]))[0]
    assert float((tokens[0] - tokens[1].flip(0)).detach().abs().max()) > 1e-3


def test_a_u_net_attends_to_a_context_where_it_attends_at_all():
    torch.manual_seed(0)
    made = UNet(2, 1, width=8, multipliers=(1, 2), attention=(1,), heads=2, context_dim=6).eval()
    plain = UNet(2, 1, width=8, multipliers=(1, 2), attention=(1,), heads=2)
    added = sum(p.numel() for p in made.parameters()) - sum(p.numel() for p in plain.parameters())
    c, d, levels = 16, 6, 2 + 2 + 3  # down, middle and up of the lower level
    assert added == levels * (2 * c**2 + 2 * c * d + 4 * c + 2 * c)  # with biases and the norm
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    z, t, context = torch.randn(2, 1, 6, 6), torch.tensor(0.5), torch.randn(2, 3, 6)
    told = made(z, t, context)
    assert float((told - made(z, t)).detach().abs().max()) > 1e-4
    torch.testing.assert_close(made(z, t, context * torch.nan), made(z, t))
    torch.testing.assert_close(made(z, t, context.flip(1)), told)  # tokens are a set
    with pytest.raises(ConfigError, match="a context needs a level with attention"):
        UNet(2, 1, context_dim=6)


@pytest.fixture(scope="module")
def model() -> ImageDiffusion:
    X, texts = scenes(400)
    options = QUICK | {
        "max_steps": 300, "batch_size": 32, "lr": 5e-3, "ema_decay": 0.98, "dropout": 0.0,
        "sample_steps": 10,
    }  # fmt: skip
    return ImageDiffusion(**options).fit(X, captions=texts)


def test_what_a_caption_says_is_drawn(model):
    """Bound words are the claim of the tutorial on captions; here they only have to be heard."""
    texts = [f"{size} {place}" for size in SIZES for place in PLACES] + ["a left bar, bold"]
    drawn = model.sample(40, captions=texts * 8, guidance_scale=2.0, random_state=1)
    assert (seen(drawn) == wanted(texts * 8)).all(1).mean() > 0.9
    free = seen(model.sample(60, random_state=2))
    assert len(np.unique(free, axis=0)) == 4, "without a caption all kinds come"


def test_seeds_and_files(model, tmp_path):
    draw = {"captions": "bold left", "random_state": 5}
    whole = model.sample(40, **draw)
    assert np.array_equal(model.sample(33, **draw), whole[:33])
    model.save(tmp_path / "m")
    assert np.array_equal(ImageDiffusion.load(tmp_path / "m").sample(3, **draw), whole[:3])


class Vectors:
    """An encoder of one's own: two numbers a word."""

    def __init__(self, dim: int = 2) -> None:
        self.dim = dim

    def encode(self, captions):
        split = [tokens_of(text) for text in captions]
        tokens = np.full((len(split), 8, self.dim), np.nan)
        for row, words in enumerate(split):
            for place, word in enumerate(words):
                tokens[row, place] = len(word), ord(word[0]) - 100
        return tokens


def test_an_encoder_of_ones_own(tmp_path):
    X, texts = scenes(40)
    model = ImageDiffusion(**QUICK, text_encoder=Vectors()).fit(X, captions=texts)
    drawn = model.sample(3, captions="any zebra at all", random_state=0)
    assert np.isfinite(drawn).all()
    model.save(tmp_path / "m")
    again = ImageDiffusion.load(tmp_path / "m")
    assert np.isfinite(again.sample(2)).all()
    with pytest.raises(ConditionError, match=r"set model\.text_encoder"):
        again.sample(2, captions="a zebra")
    again.text_encoder = Vectors()
    assert np.array_equal(again.sample(3, captions="any zebra at all", random_state=0), drawn)


def test_encoders_that_do_not_fit():
    X, texts = scenes(40)

    class Flat:
        def encode(self, captions):
            return np.zeros((len(captions), 3))

    with pytest.raises(ConfigError, match=r"must give \(n, M, dim\).*gave \(1, 3\)"):
        ImageDiffusion(**QUICK, text_encoder=Flat()).fit(X, captions=texts)
    with pytest.raises(ConfigError, match="must have encode"):
        ImageDiffusion(**QUICK, text_encoder=len).fit(X, captions=texts)
    with pytest.raises(ConditionError, match="text_encoder needs captions"):
        ImageDiffusion(**QUICK, text_encoder=Vectors()).fit(X)


def test_captions_and_guidance_that_are_not_there(model):
    X, texts = scenes(40)
    with pytest.raises(ConditionError, match="fitted without captions"):
        ImageDiffusion(**QUICK).fit(X).sample(2, captions="bold left")
    with pytest.raises(ConditionError, match="guidance_scale needs conditions"):
        model.sample(2, guidance_scale=2.0)
    bare = ImageDiffusion(**QUICK, condition_dropout=0.0).fit(X, captions=texts)
    with pytest.raises(ConditionError, match="conditions are needed"):
        bare.sample(2)
