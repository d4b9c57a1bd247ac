"""DiffusionAutoEncoder: what its two codes hold, in closed form where there is one; manners."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from scidiffusion import DensityDiffusion, DiffusionAutoEncoder, LatentDiffusion
from scidiffusion.core import CosineVP, GaussianProcess, KeyedNoise, Parameterization
from scidiffusion.errors import ConditionError, ConfigError, DataError, InputError, ModelFileError
from scidiffusion.images.building import LOG_SNR_MIN
from scidiffusion.images.semantic import encoder_of
from scidiffusion.latent import Encoder

QUICK = {
    "code_dim": 3,
    "width": 8,
    "blocks": 1,
    "heads": 2,
    "max_steps": 4,
    "batch_size": 8,
    "progress": False,
    "precision": "float32",
    "device": "cpu",
    "random_state": 0,
    "sample_steps": 4,
}
TRAINED = {
    "code_dim": 1,
    "width": 16,
    "multipliers": (1,),
    "max_steps": 800,
    "batch_size": 64,
    "lr": 3e-3,
    "ema_decay": 0.98,
    "condition_dropout": 0.3,
    "sample_steps": 40,
}
LENGTH, SPREAD = 8, 0.3
RNG = np.random.default_rng(0)


def lines(n: int, seed: int = 0) -> np.ndarray:
    """Gaussian lines (n, 8): one factor times (1, ..., 1) and white noise of SPREAD."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 1)) + SPREAD * rng.normal(size=(n, LENGTH))


def planes(n: int) -> np.ndarray:
    return np.random.default_rng(1).normal(3.0, 2.0, (n, 1, 5, 4))


@pytest.fixture(scope="module")
def model() -> DiffusionAutoEncoder:
    return DiffusionAutoEncoder(**QUICK | TRAINED).fit(lines(1000))


@pytest.fixture(scope="module")
def quick() -> DiffusionAutoEncoder:
    return DiffusionAutoEncoder(**QUICK).fit(planes(40))


@pytest.fixture(scope="module")
def rough(quick) -> DiffusionAutoEncoder:
    """A model of random weights: nothing is zero or without influence."""
    made = clone(quick).fit(planes(40))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in made.denoiser_.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    return made


# -- exact ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameterization", ["v", "x0", "eps"])
def test_a_fresh_network_turns_noise_by_a_known_factor(parameterization, monkeypatch):
    """Its output is zero: v = 0, x0 = 0 or eps = 0, and every step of DDIM is a factor."""
    monkeypatch.setattr("scidiffusion.training.train", lambda *args, **kwargs: None)
    X, steps = planes(12), 7
    fresh = DiffusionAutoEncoder(**QUICK | {"parameterization": parameterization}).fit(X)
    schedule = GaussianProcess(CosineVP(LOG_SNR_MIN)).schedule
    marginal = schedule.marginal(schedule.grid(steps, "uniform").flip(0))
    scale, std = marginal.scale.numpy(), marginal.std.numpy()

    def parts(i: int) -> tuple[float, float]:
        """x0 and eps of z = 1 at node i."""
        return {
            Parameterization.V: (scale[i], std[i]),
            Parameterization.X0: (0.0, 1 / std[i]),
            Parameterization.EPS: (1 / scale[i], 0.0),
        }[Parameterization(parameterization)]

    there = scale[1] + std[1] * parts(1)[1]
    for s in range(1, steps):
        there *= scale[s + 1] * parts(s)[0] + std[s + 1] * parts(s)[1]
    scaled = (X - X.mean()) / X.std()
    noise = fresh.stochastic(X, steps=steps)
    np.testing.assert_allclose(noise, there * scaled, rtol=2e-4, atol=1e-5)
    back = 1.0
    for t in range(steps, 0, -1):
        back *= scale[t - 1] * parts(t)[0] + std[t - 1] * parts(t)[1]
    made = fresh.decode(fresh.encode(X), noise, steps=steps)
    expected = X.mean() + X.std() * back * there * scaled
    np.testing.assert_allclose(made, expected, rtol=2e-4, atol=1e-4)


def test_a_seed_that_drew_the_codes_draws_other_noise_for_the_images(monkeypatch):
    """Of a fresh network images are the noise, scaled: its correlations can be read off."""
    monkeypatch.setattr("scidiffusion.training.train", lambda *args, **kwargs: None)
    fresh = DiffusionAutoEncoder(**QUICK).fit(planes(40))
    drawn = fresh.decode(np.zeros((40, 3)), random_state=5).ravel()
    like, noise = torch.empty(40, 20), KeyedNoise(5)
    for source, low, high in ((noise, -0.1, 0.1), (noise.child("decoder"), 0.999, 1.001)):
        prior = source.child("prior").normal(like).numpy().ravel()
        assert low < np.corrcoef(drawn, prior)[0, 1] < high


def test_an_image_is_the_condition_that_its_code_is(rough):
    data = rough.codec_.encode(planes(6))
    with torch.no_grad():
        codes = encoder_of(rough.denoiser_)(data)
        z, t = torch.randn_like(data), torch.tensor(0.4)
        told = rough.denoiser_(z, t, data).x0
        torch.testing.assert_close(told, rough.denoiser_(z, t, codes).x0)
        nothing = rough.denoiser_(z, t, None).x0
        for absent in (torch.full_like(data, torch.nan), torch.full_like(codes, torch.nan)):
            torch.testing.assert_close(rough.denoiser_(z, t, absent).x0, nothing)
        mixed = data.clone()
        mixed[2] = torch.nan
        part = rough.denoiser_(z, t, mixed).x0
    torch.testing.assert_close(part[2], nothing[2])
    torch.testing.assert_close(part[3], told[3])
    assert not torch.allclose(part[2], told[2])


def test_both_codes_give_an_image_back_the_better_the_more_steps(rough):
    """The error of DDIM is of first order, whatever the network is."""
    z = np.random.default_rng(3).normal(size=(6, 1, 5, 4))
    codes = rough.encode(planes(6))
    X = rough.decode(codes, z, steps=160)
    error = {}
    for steps in (10, 40, 160):
        noise = rough.stochastic(X, steps=steps, codes=codes)
        made = rough.decode(codes, noise, steps=steps)
        error[steps] = np.square(made - X).mean() ** 0.5
    assert 3 < error[10] / error[40] < 6
    assert 3 < error[40] / error[160] < 6
    assert error[160] < 0.02 * X.std()
    np.testing.assert_allclose(noise, z, atol=0.1)
    other = rough.decode(codes[::-1], noise, steps=160)
    assert np.square(other - X).mean() ** 0.5 > 2 * error[160], "the codes are not looked at"


def test_an_absent_image_teaches_the_encoder_nothing(rough):
    data = rough.codec_.encode(planes(4))

    def gradients(cond):
        rough.denoiser_.zero_grad()
        rough.denoiser_(data, torch.tensor(0.5), cond).x0.square().sum().backward()
        return [weight.grad for weight in encoder_of(rough.denoiser_).parameters()]

    assert any(bool(gradient.any()) for gradient in gradients(data))
    for gradient in gradients(torch.full_like(data, torch.nan)):
        assert gradient is None or not bool(gradient.any())


# -- learned: one Gaussian factor ----------------------------------------------------------------


@pytest.mark.slow
def test_the_semantic_code_is_the_factor(model):
    """A code of one number tells most by telling the mean of a line."""
    fresh = lines(300, seed=5)
    codes = model.encode(fresh)
    assert codes.shape == (300, 1)
    assert abs(spearmanr(codes[:, 0], fresh.mean(1)).statistic) > 0.98


@pytest.mark.slow
def test_the_semantic_code_alone_gives_draws_that_share_it(model):
    """Means agree; what is left has the variance of the noise, and so twice it as error."""
    fresh = lines(300, seed=5)
    made = model.decode(model.encode(fresh), random_state=0)
    assert np.corrcoef(made.mean(1), fresh.mean(1))[0, 1] > 0.97
    left = made - made.mean(1, keepdims=True)
    noise = SPREAD**2 * (1 - 1 / LENGTH)
    assert np.square(left).mean() == pytest.approx(noise, rel=0.3)
    assert np.square(made - fresh).mean() == pytest.approx(2 * noise, rel=0.35)


@pytest.mark.slow
def test_both_codes_give_the_line_back_the_better_the_more_steps(model):
    fresh = lines(100, seed=6)
    error = {steps: np.square(model.reconstruct(fresh, steps=steps) - fresh).mean() ** 0.5
             for steps in (10, 40, 160)}  # fmt: skip
    assert error[10] > 2 * error[40] > 4 * error[160]
    alone = np.square(model.decode(model.encode(fresh), random_state=0) - fresh).mean() ** 0.5
    assert error[160] < 0.05 * alone
    noise = model.stochastic(fresh, steps=160)
    assert noise.shape == fresh.shape
    assert noise.std() == pytest.approx(1.0, abs=0.15)
    # The wrong code, the right noise: not the line.
    other = model.decode(model.encode(fresh)[::-1], noise, steps=160)
    assert np.square(other - fresh).mean() ** 0.5 > alone


@pytest.mark.slow
def test_between_two_lines_lie_lines(model):
    ends = lines(40, seed=7)
    first, second = ends[:20], ends[20:]
    between = model.interpolate(first, second, [0.0, 0.5, 1.0], steps=160)
    assert between.shape == (3, 20, LENGTH)
    np.testing.assert_allclose(between[0], first, atol=0.1)
    np.testing.assert_allclose(between[2], second, atol=0.1)
    middle = (first.mean(1) + second.mean(1)) / 2
    assert np.corrcoef(between[1].mean(1), middle)[0, 1] > 0.95


@pytest.mark.slow
def test_without_a_code_it_draws_the_data(model):
    drawn = model.sample(600, random_state=0)
    assert drawn.mean(1).std() == pytest.approx((1 + SPREAD**2 / LENGTH) ** 0.5, rel=0.15)
    assert (drawn - drawn.mean(1, keepdims=True)).std() == pytest.approx(SPREAD, rel=0.2)


@pytest.mark.slow
def test_behind_latent_diffusion_codes_are_drawn_too(model, tmp_path):
    rows = lines(600)
    label = rows.mean(1) > 0
    density = DensityDiffusion(
        width=32, blocks=2, max_steps=300, random_state=0, progress=False, device="cpu"
    )
    encoder = clone(model)
    assert isinstance(encoder, Encoder)
    latent = LatentDiffusion(encoder, density).fit(rows, label)
    drawn = latent.sample(400, random_state=3)
    assert drawn.shape == (400, LENGTH)
    assert drawn.mean(1).std() == pytest.approx(1.0, rel=0.15)
    assert np.array_equal(latent.sample(50, random_state=3), drawn[:50])
    assert not np.array_equal(latent.sample(5), latent.sample(5))
    for side in (False, True):
        asked = latent.sample(100, conditions=side, random_state=0)
        assert ((asked.mean(1) > 0) == side).mean() > 0.9
    assert latent.reconstruction_error_ < 0.3
    one, two = (latent.reconstruct(rows[:20], random_state=seed) for seed in (0, 1))
    assert np.corrcoef(one.mean(1), two.mean(1))[0, 1] > 0.95
    assert not np.allclose(one, two, atol=0.1)
    latent.save(tmp_path / "model")
    again = LatentDiffusion.load(tmp_path / "model", device="cpu")
    assert np.array_equal(again.sample(5, random_state=3), drawn[:5])
    np.testing.assert_array_equal(again.encode(rows[:5]), latent.encode(rows[:5]))


# -- manners -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "dims", "dtype"),
    [
        ((30, 41), None, "uint8"),
        ((30, 2, 7), 1, "float32"),
        ((30, 2, 9, 5), None, "float64"),
        ((30, 2, 3, 4, 3), 3, "uint8"),
    ],
)
def test_every_kind_of_grid(shape, dims, dtype):
    X = RNG.integers(0, 9, shape).astype(dtype)
    fitted = DiffusionAutoEncoder(**QUICK, dims=dims).fit(X)
    codes, noise = fitted.encode(X[:3]), fitted.stochastic(X[:3])
    assert (codes.shape, codes.dtype) == ((3, 3), np.float64)
    assert noise.shape == (3, *shape[1:])
    for made in (fitted.decode(codes), fitted.decode(codes, noise), fitted.sample(3)):
        assert (made.shape, made.dtype) == ((3, *shape[1:]), X.dtype)
    assert fitted.encode(X[:0]).shape == (0, 3)
    assert fitted.decode(codes[:0]).shape == (0, *shape[1:])
    assert fitted.stochastic(X[:0]).shape == (0, *shape[1:])
    assert fitted.sample(0).shape == (0, *shape[1:])


def test_codes_do_not_depend_on_the_images_beside_them(quick):
    X = planes(70)
    codes, noise = quick.encode(X), quick.stochastic(X)
    np.testing.assert_allclose(quick.encode(X[40:45]), codes[40:45], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(quick.stochastic(X[40:45]), noise[40:45], rtol=1e-4, atol=1e-5)
    assert np.array_equal(quick.encode(X[:9]), codes[:9])
    assert np.array_equal(quick.encode(X, batch_size=3), codes)


def test_a_seed_is_a_model_and_its_images(quick):
    X = planes(40)
    again = DiffusionAutoEncoder(**QUICK).fit(X)
    codes = quick.encode(X)
    assert np.array_equal(again.encode(X), codes)
    drawn = quick.decode(codes, random_state=1)
    assert np.array_equal(again.decode(codes, random_state=1), drawn)
    assert np.array_equal(quick.decode(codes[:7], random_state=1, batch_size=2), drawn[:7])
    assert np.array_equal(quick.sample(5, random_state=2), again.sample(5, random_state=2))
    third = DiffusionAutoEncoder(**QUICK).fit(X)
    first, second = third.decode(codes), third.decode(codes)
    assert not np.array_equal(first, second)
    assert np.array_equal(again.decode(codes), first)
    again.reconstruct(X[:2])  # draws nothing: the stream goes on as without it
    assert np.array_equal(again.decode(codes), second)
    other = DiffusionAutoEncoder(**QUICK | {"random_state": 1}).fit(X)
    assert not np.allclose(other.encode(X), codes)


def test_encoder_and_denoiser_are_trained_together():
    X = planes(40)
    short, long = (
        DiffusionAutoEncoder(**QUICK | {"max_steps": steps}).fit(X) for steps in (1, 20)
    )
    before, after = short.denoiser_.state_dict(), long.denoiser_.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    for part in ("modulator.cond.encoder.input", "modulator.cond.code", "network.up"):
        assert any(part in name for name in moved), part


class FailsAfter:
    """An objective that fails at a call."""

    def __init__(self, objective, calls):
        self.objective, self.calls = objective, calls

    def __call__(self, *args, **kwargs):
        self.calls -= 1
        if self.calls < 0:
            raise MemoryError("full")
        return self.objective(*args, **kwargs)


def test_an_interrupted_fit_resumes_bit_equal(tmp_path, monkeypatch):
    from scidiffusion.core import SimpleLoss

    X = planes(40)
    whole = DiffusionAutoEncoder(**QUICK).fit(X)
    monkeypatch.setattr(
        "scidiffusion.images.autoencoder.SimpleLoss",
        lambda target: FailsAfter(SimpleLoss(target), 5),
    )
    with pytest.raises(MemoryError):
        DiffusionAutoEncoder(**QUICK).fit(X, checkpoint_dir=tmp_path)
    monkeypatch.undo()
    assert list(tmp_path.iterdir())
    rest = DiffusionAutoEncoder(**QUICK).fit(X, checkpoint_dir=tmp_path, resume=True)
    assert np.array_equal(rest.encode(X), whole.encode(X))


def test_a_saved_model_is_the_model(quick, tmp_path):
    X = planes(40)
    path = quick.save(tmp_path / "model")
    loaded = DiffusionAutoEncoder.load(path)
    assert loaded.get_params() == quick.get_params() | {"device": "auto"}
    codes = quick.encode(X)
    assert np.array_equal(loaded.encode(X), codes)
    assert np.array_equal(
        loaded.decode(codes, random_state=1), quick.decode(codes, random_state=1)
    )
    assert np.array_equal(loaded.reconstruct(X[:3]), quick.reconstruct(X[:3]))
    assert json.loads((path / "config.json").read_text())["estimator"] == "DiffusionAutoEncoder"
    (path / "codec.json").unlink()
    with pytest.raises(ModelFileError, match=r"codec.json is missing"):
        DiffusionAutoEncoder.load(path)


def test_a_newer_model_is_refused(quick, tmp_path, monkeypatch):
    monkeypatch.setattr("scidiffusion.images.autoencoder.VERSION", 2)
    path = quick.save(tmp_path / "model")
    monkeypatch.undo()
    with pytest.raises(ModelFileError, match="upgrade scidiffusion"):
        DiffusionAutoEncoder.load(path)


def test_it_is_an_estimator_like_others(tmp_path):
    made = DiffusionAutoEncoder(5, width=7, attention=(0, 1), random_state=3)
    assert clone(made).get_params() == made.get_params()
    X = planes(3)
    for use in (
        lambda: made.encode(X),
        lambda: made.stochastic(X),
        lambda: made.decode(np.zeros((1, 5))),
        lambda: made.sample(1),
        lambda: made.save(tmp_path / "model"),
    ):
        with pytest.raises(NotFittedError):
            use()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"code_dim": 0}, "code_dim"),
        ({"code_dim": None}, "code_dim must be"),
        ({"width": -1}, "width"),
        ({"width": None}, "width must be"),
        ({"blocks": 0}, "blocks"),
        ({"multipliers": ()}, "multipliers"),
        ({"attention": (9,)}, "attention"),
        ({"parameterization": "score"}, "parameterization"),
        ({"condition_dropout": 1.0}, "condition_dropout"),
        ({"validation_fraction": 0.9}, "validation_fraction"),
        ({"precision": "float8"}, "precision"),
        ({"budget": "soon"}, "budget"),
        ({"device": "abacus"}, "device"),
        ({"random_state": -1}, "random_state"),
    ],
)
def test_bad_options_are_named_before_work_is_spent(options, message, monkeypatch):
    monkeypatch.setattr("scidiffusion.training.fit.train", None)
    with pytest.raises(ConfigError, match=message):
        DiffusionAutoEncoder(**QUICK | options).fit(planes(40))


def test_bad_steps_are_named_before_work_is_spent():
    with pytest.raises(InputError, match="steps"):
        DiffusionAutoEncoder(**QUICK | {"sample_steps": 0}).fit(planes(40))


def test_bad_input_is_named(quick):
    X = planes(5)
    codes, noise = quick.encode(X), quick.stochastic(X)
    gaps = X.copy()
    gaps[3, 0, 1, 1] = np.nan
    for bad, message in (
        (X[:, :, :4], r"images have shape \(1, 4, 4\), the model was fitted on \(1, 5, 4\)"),
        (gaps, "image 3 holds NaN"),
    ):
        for use in (quick.encode, quick.stochastic, quick.reconstruct):
            with pytest.raises(DataError, match=message):
                use(bad)
    for use, message in (
        (lambda: quick.decode(codes[:, :2]), r"codes must be \(N, 3\) finite numbers"),
        (lambda: quick.decode(codes[0]), r"codes must be \(N, 3\)"),
        (lambda: quick.decode(codes * np.nan), "with NaN or infinity"),
        (lambda: quick.decode([["a"] * 3]), "codes must be an array of numbers"),
        (lambda: quick.decode(codes, noise[:2]), "2 stochastic codes for 5 semantic ones"),
        (lambda: quick.decode(codes, noise[:, :, 0]), r"the images' shape \(1, 5, 4\)"),
        (lambda: quick.decode(codes, noise * np.inf), "noise must be"),
        (lambda: quick.stochastic(X, codes=codes[:4]), "4 codes for 5 images"),
        (lambda: quick.interpolate(X, X[:2], [0.5]), "2 second images for 5 first ones"),
    ):
        with pytest.raises(DataError, match=message):
            use()
    with pytest.raises(InputError, match="n must be"):
        quick.sample(-1)
    with pytest.raises(InputError, match="steps"):
        quick.decode(codes, steps=0)
    with pytest.raises(ConfigError, match="random_state"):
        quick.decode(codes, random_state="one")
    with pytest.raises(ConfigError, match="batch_size"):
        quick.encode(X, batch_size=0)


def test_without_hidden_codes_there_is_no_drawing_without_one():
    fitted = DiffusionAutoEncoder(**QUICK, condition_dropout=0.0).fit(planes(40))
    assert fitted.decode(fitted.encode(planes(2))).shape == (2, 1, 5, 4)
    with pytest.raises(ConditionError, match="condition_dropout=0"):
        fitted.sample(2)
