"""Denoising diffusion GANs: the losses in closed form, the training, the estimator."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import nn

from scidiffusion.adversarial import (
    DenoisingGAN,
    LatentGenerator,
    PairDiscriminator,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    train_adversarially,
)
from scidiffusion.core import GaussianProcess, KeyedNoise, LinearVP
from scidiffusion.errors import (
    ConditionError,
    ConfigError,
    DataError,
    InputError,
    ModelFileError,
    TrainingError,
)
from scidiffusion.images import UNet
from scidiffusion.testing import assert_batch_independent
from scidiffusion.training import TrainConfig

SMALL = {"max_steps": 3, "width": 16, "blocks": 1, "progress": False, "random_state": 0}
ROWS = np.random.default_rng(0).normal([3.0, -1.0], [2.0, 0.1], (50, 2))


# -- losses --------------------------------------------------------------------------------------


def test_the_penalty_of_a_quadratic_discriminator_is_its_closed_form():
    """D(x) = x A x / 2 + b x has the gradient A x + b; the penalty's own gradient follows."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    matrix = (matrix + matrix.T).requires_grad_(True)
    slope = torch.randn(3, generator=generator, dtype=torch.float64, requires_grad=True)
    x = torch.randn(5, 3, generator=generator, dtype=torch.float64)

    def quadratic(z):
        return 0.5 * ((z @ matrix) * z).sum(1) + z @ slope

    penalty, logits = gradient_penalty(quadratic, x)
    gradient = x @ matrix.detach() + slope.detach()
    torch.testing.assert_close(penalty.detach(), 0.5 * gradient.square().sum(1))
    torch.testing.assert_close(logits, quadratic(x))
    penalty.sum().backward()
    torch.testing.assert_close(slope.grad, gradient.sum(0))
    # d/dA of |A x + b|^2 / 2, where autograd sees the two halves of A's symmetry apart.
    outer = gradient.T @ x
    torch.testing.assert_close(matrix.grad, 0.5 * (outer + outer.T))


def test_the_best_discriminator_and_what_the_generator_then_loses():
    """At D = log p - log q the loss is 2 log 2 - 2 JS(p, q); that logit is its minimum."""
    p, q = (torch.tensor(law, dtype=torch.float64) for law in ([0.1, 0.6, 0.3], [0.5, 0.2, 0.3]))
    logits = (p.log() - q.log()).requires_grad_(True)

    def expected(d):
        zero = torch.zeros_like(d)
        real, fake = discriminator_loss(d, zero), discriminator_loss(zero, d)
        return (p * (real - math.log(2)) + q * (fake - math.log(2))).sum()

    middle = 0.5 * (p + q)
    js = 0.5 * ((p * (p / middle).log()).sum() + (q * (q / middle).log()).sum())
    assert float(expected(logits.detach())) == pytest.approx(2 * math.log(2) - 2 * float(js))
    (gradient,) = torch.autograd.grad(expected(logits), logits)
    assert float(gradient.abs().max()) < 1e-12
    torch.testing.assert_close(generator_loss(logits), (1 + (q / p)).log() - (q / p).log() - (
        p / q
    ).log())  # fmt: skip


# -- training ------------------------------------------------------------------------------------


class Fixed(nn.Module):
    """A generator's network that answers with a learned constant."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, z, time, latent):
        return self.value.expand_as(z)


class Shown(nn.Module):
    """A discriminator's network that keeps what it was shown."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen = []

    def forward(self, pair, time):
        self.seen.append((pair.detach().clone(), time.clone()))
        return self.weight * pair


def test_real_and_fake_pairs_have_the_laws_of_the_paper():
    """With data at 2 and a generator at -1 both pairs are Gaussian, of known moments."""
    process, shown = GaussianProcess(LinearVP()), Shown()
    grid = process.schedule.grid(2, "uniform")
    train_adversarially(
        LatentGenerator(Fixed(-1.0), process, 1),
        PairDiscriminator(shown),
        torch.full((20_000, 1), 2.0),
        grid=grid,
        penalty=0.0,
        config=TrainConfig(max_steps=1, batch_size=20_000, progress=False),
    )
    (real, time), (fake, same_time), *_ = shown.seen
    assert torch.equal(time, same_time)
    assert torch.equal(real[:, 1], fake[:, 1])  # both are judged given the same z_t
    for t, s in ((1.0, 0.5), (0.5, 0.0)):
        here = time == t
        assert 0.45 < float(here.float().mean()) < 0.55
        early, late = process.schedule.marginal(s), process.schedule.marginal(t)
        n = int(here.sum())
        for values, level in ((real[here, 0], early), (real[here, 1], late)):
            std = float(level.std)
            assert float(values.mean()) == pytest.approx(
                2 * float(level.scale), abs=4 * std / math.sqrt(n) + 1e-6
            )
            assert float(values.std()) == pytest.approx(std, abs=4 * std / math.sqrt(n) + 1e-6)
        law = process.posterior(
            torch.full((n, 1), -1.0), fake[here, 1:], torch.tensor(t), torch.tensor(s)
        )
        rest = (fake[here, :1] - law.mean) / law.var.sqrt().clamp(min=1e-6)
        assert float(rest.mean().abs()) < 4 / math.sqrt(n)
        if s:
            assert float(rest.std()) == pytest.approx(1.0, abs=4 / math.sqrt(n))


def played(ema_decay):
    """Train a constant; return its value at the start of every step and at the end."""
    process, network, judge = GaussianProcess(LinearVP()), Fixed(0.0), Shown()
    config = TrainConfig(max_steps=8, batch_size=16, lr=0.1, ema_decay=ema_decay, progress=False)
    path = []
    network.register_forward_hook(lambda *_: path.append(float(network.value.detach())))
    train_adversarially(
        LatentGenerator(network, process, 1), PairDiscriminator(judge), torch.ones(64, 1),
        grid=process.schedule.grid(4, "uniform"), penalty=0.1, config=config,
    )  # fmt: skip
    # The generator is called twice a step.
    return [*path[::2], float(network.value.detach())]


def test_the_generator_ends_with_its_averaged_weights():
    values, end = played(0.0), played(0.5)[-1]
    assert len(set(values)) > 4
    average = values[0]
    for step, value in enumerate(values[1:]):
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * value
    assert end == pytest.approx(average, rel=1e-5)
    assert end != pytest.approx(values[-1], rel=1e-3)


def test_the_penalty_flattens_the_discriminator():
    slopes = [
        DenoisingGAN(**SMALL | {"max_steps": 60}, penalty=penalty)
        .fit(ROWS)
        .training_.history[-1]["penalty"]
        for penalty in (0.0, 10.0)
    ]
    assert 0 < slopes[1] < 0.3 * slopes[0]


def test_a_diverged_training_is_an_error_with_the_ways_out():
    class Broken(Fixed):
        def forward(self, z, time, latent):
            return super().forward(z, time, latent) / 0.0

    gan = DenoisingGAN(**SMALL, generator=Broken(1.0))
    with pytest.raises(TrainingError, match=r"smaller learning rate \(lr=0.002\)"):
        gan.fit(ROWS)
    assert not hasattr(gan, "seed_")


def test_a_budget_ends_the_training_after_a_step_at_least():
    gan = DenoisingGAN(**SMALL | {"max_steps": 10_000_000}, budget=1e-6).fit(ROWS)
    assert gan.training_.stopped_by == "budget"
    assert gan.training_.steps == 1
    assert [entry["step"] for entry in gan.training_.history] == [1]


def test_two_modes_are_learned_where_their_mean_is_nothing():
    rng = np.random.default_rng(0)
    X = np.where(rng.random(2000) < 0.3, -1.0, 1.0)[:, None] + 0.1 * rng.normal(size=(2000, 1))
    gan = DenoisingGAN(
        width=32, blocks=1, latent_dim=2, max_steps=500, progress=False, random_state=0
    ).fit(X)
    drawn = gan.sample(2000, random_state=0)[:, 0]
    assert (np.abs(drawn) < 0.5).mean() < 0.1
    assert (drawn < 0).mean() == pytest.approx(0.3, abs=0.1)
    assert 0.05 < drawn[drawn > 0].std() < 0.3
    history = gan.training_.history
    assert len(history) == 20
    assert history[-1]["step"] == 500
    # Where nothing can be told apart the loss is 2 log 2.
    assert history[-1]["discriminator_loss"] == pytest.approx(2 * math.log(2), abs=0.15)


# -- the estimator -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    return DenoisingGAN(**SMALL).fit(ROWS)


def test_a_seed_is_a_model_and_a_sample_whatever_the_batch_size(fitted):
    again = DenoisingGAN(**SMALL).fit(ROWS)
    assert np.array_equal(again.sample(4, random_state=1), fitted.sample(4, random_state=1))
    assert not np.array_equal(again.sample(4), again.sample(4))
    assert_batch_independent(
        lambda n, size: fitted.sample(n, random_state=3, batch_size=size), 1500, [1, 700]
    )
    longer = fitted.sample(1500, random_state=1)
    assert np.array_equal(longer[:4], fitted.sample(4, random_state=1))
    assert len(np.unique(longer, axis=0)) == 1500
    assert not np.array_equal(
        DenoisingGAN(**SMALL | {"random_state": 1}).fit(ROWS).sample(4, random_state=1),
        longer[:4],
    )


@pytest.mark.parametrize("shape", [(30, 1), (30, 3), (30, 1, 4, 4), (30, 2, 5)])
def test_rows_of_any_shape_come_back_in_theirs_and_in_their_units(shape):
    X = 100 + np.random.default_rng(0).normal(size=shape)
    gan = DenoisingGAN(**SMALL).fit(X)
    assert gan.sample(7).shape == (7, *shape[1:])
    assert gan.sample(0).shape == (0, *shape[1:])
    assert abs(gan.sample(50).mean() - 100) < 5


def test_networks_of_ones_own_are_copied_and_trained():
    X = np.random.default_rng(0).normal(size=(20, 1, 4, 4))
    network = UNet(2, 1, width=8, multipliers=(1,), conditions={"latent": ("vector", 8)})
    judge = UNet(2, 2, 1, width=8, multipliers=(1,))
    before = [weight.clone() for weight in network.parameters()]
    gan = DenoisingGAN(**SMALL, generator=network, discriminator=judge).fit(X)
    assert gan.sample(3).shape == (3, 1, 4, 4)
    assert all(map(torch.equal, before, network.parameters()))
    trained = list(gan.generator_.network.parameters())
    assert any(not torch.equal(one, other) for one, other in zip(before, trained, strict=True))


def test_a_saved_model_is_the_model(fitted, tmp_path):
    path = fitted.save(tmp_path / "gan")
    loaded = DenoisingGAN.load(path)
    assert loaded.get_params() == fitted.get_params()
    assert np.array_equal(loaded.sample(3, random_state=4), fitted.sample(3, random_state=4))
    image = DenoisingGAN(**SMALL).fit(ROWS.reshape(50, 2, 1))
    image.save(path)
    assert np.array_equal(
        DenoisingGAN.load(path).sample(3, random_state=4), image.sample(3, random_state=4)
    )
    (path / "codec.json").unlink()
    with pytest.raises(ModelFileError, match=r"codec.json is missing"):
        DenoisingGAN.load(path)


def test_code_is_not_saved(tmp_path):
    gan = DenoisingGAN(**SMALL, generator=Fixed(0.0)).fit(ROWS)
    with pytest.raises(ConfigError, match="of one's own cannot be saved"):
        gan.save(tmp_path / "gan")
    assert not list(tmp_path.iterdir())


def test_nothing_works_before_fit_and_parameters_are_cloned(tmp_path):
    for use in (lambda: DenoisingGAN().sample(1), lambda: DenoisingGAN().save(tmp_path / "m")):
        with pytest.raises(NotFittedError):
            use()
    assert clone(DenoisingGAN(steps=2)).get_params() == DenoisingGAN(steps=2).get_params()


def holed():
    X = ROWS.copy()
    X[7, 1] = np.nan
    return X


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (holed(), "first in row 7"),
        (np.full((20, 2), "a"), "numbers"),
        (ROWS[:5], "10 rows or more"),
        (ROWS[:, 0], "10 rows or more"),
        (ROWS * [1.0, 0.0], "column 1 of X is constant"),
        (np.ones((20, 1, 2, 2)), "X is constant"),
    ],
)
def test_bad_data_are_refused(X, message):
    with pytest.raises(DataError, match=message):
        DenoisingGAN(**SMALL).fit(X)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"latent_dim": 0}, "latent_dim"),
        ({"width": 1.5}, "width"),
        ({"penalty": -1.0}, "penalty"),
        ({"penalty": math.nan}, "penalty"),
        ({"lr": 0.0}, "lr"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"generator": "mlp"}, "generator must be a torch module"),
        ({"random_state": "one"}, "random_state"),
        ({"device": "abacus"}, "device"),
        ({"budget": "soon"}, "budget"),
    ],
)
def test_impossible_options_are_refused(option, message):
    with pytest.raises(ConfigError, match=message):
        DenoisingGAN(**SMALL | option).fit(ROWS)


def test_other_input_is_refused(fitted):
    with pytest.raises(ConditionError, match="leave y out"):
        DenoisingGAN(**SMALL).fit(ROWS, np.zeros(50))
    with pytest.raises(InputError, match="n must be"):
        fitted.sample(-1)


def test_a_latent_makes_the_difference():
    network = nn.Linear(1, 1)
    network.forward = lambda z, time, latent: z + latent
    drawer = LatentGenerator(network, GaussianProcess(LinearVP()), 1)
    drawn = drawer.draw_clean(torch.zeros(5000, 1), torch.tensor(0.5), KeyedNoise(0))
    assert float(drawn.std()) == pytest.approx(1.0, abs=0.05)
