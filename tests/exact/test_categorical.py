"""Categorical diffusion against explicit transition matrices and Bayes' rule over all classes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from scidiffusion.core import (
    AbsorbingProcess,
    Categorical,
    CategoricalPrediction,
    DiscreteSchedule,
    KeyedNoise,
    LinearVP,
    MultinomialProcess,
    Noise,
    VESchedule,
)
from scidiffusion.errors import ConfigError, DataError

F64 = torch.float64
SCHEDULES = {
    "linear": DiscreteSchedule.linear(20),
    "cosine": DiscreteSchedule.cosine(20),
    "absorbing": DiscreteSchedule.absorbing(20),
    "constant": DiscreteSchedule([0.07] * 20),
}
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
each_process = pytest.mark.parametrize("kind", [MultinomialProcess, AbsorbingProcess])
PAIRS = [(20, 19), (20, 3), (13, 12), (12, 5), (2, 1), (1, 0), (9, 0), (20, 0)]


def at(value):
    return torch.tensor(value, dtype=F64)


def one_step(kind, k, beta):
    """Transition matrix of one step, rows from, columns to, written out entry by entry."""
    if kind is MultinomialProcess:
        return (1 - beta) * np.eye(k) + beta / k * np.ones((k, k))
    matrix = (1 - beta) * np.eye(k + 1)
    matrix[:, k] += beta
    return matrix


def chain(kind, schedule, k, first, last):
    """Product of the one-step matrices from node `first` to node `last`."""
    matrix = np.eye(k if kind is MultinomialProcess else k + 1)
    for beta in schedule.betas[first:last].numpy():
        matrix = matrix @ one_step(kind, k, float(beta))
    return matrix


def bayes(kind, schedule, k, x, z, t, s):
    """q(z_s | z_t = z, x) by Bayes' rule; None where z cannot follow x."""
    joint = chain(kind, schedule, k, 0, s)[x] * chain(kind, schedule, k, s, t)[:, z]
    return joint / joint.sum() if joint.sum() > 0 else None


# Kernels


@each_schedule
@each_process
@pytest.mark.parametrize("k", [2, 5])
def test_kernel_is_a_power_of_the_transition_matrix(schedule, kind, k):
    process, x = kind(schedule, k), torch.arange(k)
    for t in range(21):
        expected = chain(kind, schedule, k, 0, t)[:k]
        found = process.kernel(x, at(t / 20)).probs
        assert np.abs(found.numpy() - expected).max() < 1e-12


@each_process
def test_iterated_chain_has_the_law_of_the_kernel(kind):
    schedule, k, n = DiscreteSchedule.linear(20), 3, 10_000
    process = kind(schedule, k)
    z = torch.ones(n, dtype=torch.long)
    for t in range(1, 21):
        z = process.forward_step(z, at((t - 1) / 20), at(t / 20), KeyedNoise(0).at(t))
        direct = process.q_sample(torch.ones(n, dtype=torch.long), at(t / 20), KeyedNoise(t)).z
        probs = process.kernel(torch.ones(1, dtype=torch.long), at(t / 20)).probs[0]
        for sample in (z, direct):
            share = torch.bincount(sample, minlength=len(probs)) / n
            bound = 4 * (probs * (1 - probs) / n).sqrt() + 1e-12
            assert bool(((share - probs).abs() <= bound).all())


@each_process
def test_a_long_forward_step_is_the_product_of_short_ones(kind):
    schedule, n = SCHEDULES["cosine"], 40_000
    process = kind(schedule, 3)
    z = process.forward_step(torch.zeros(n, dtype=torch.long), at(0.2), at(0.7), KeyedNoise(0))
    probs = chain(kind, schedule, 3, 4, 14)[0]
    share = np.bincount(z, minlength=len(probs)) / n
    assert (np.abs(share - probs) <= 4 * np.sqrt(probs * (1 - probs) / n) + 1e-12).all()


# Posteriors and the reverse step


@each_schedule
@each_process
def test_posterior_is_bayes_rule_for_every_state(schedule, kind):
    k = 4
    process = kind(schedule, k)
    states = k if kind is MultinomialProcess else k + 1
    for t, s in PAIRS:
        for x, z in itertools.product(range(k), range(states)):
            expected = bayes(kind, schedule, k, x, z, t, s)
            if expected is None:
                continue
            row = torch.tensor([x]), torch.tensor([z])
            found = process.posterior(*row, at(t / 20), at(s / 20)).probs[0].numpy()
            assert np.abs(found - expected).max() < 1e-10


@each_schedule
@each_process
def test_posterior_of_ragged_variables_is_that_of_each_alone(schedule, kind):
    counts = (2, 3, 5)
    process = kind(schedule, counts)
    generator = np.random.default_rng(0)
    for t, s in PAIRS:
        x = np.stack([generator.integers(k, size=40) for k in counts], 1)
        z = process.q_sample(torch.from_numpy(x), at(t / 20), KeyedNoise(t)).z
        found = process.posterior(torch.from_numpy(x), z, at(t / 20), at(s / 20)).probs.numpy()
        assert np.abs(found.sum(-1) - 1).max() < 1e-12
        for column, k in enumerate(counts):
            assert (found[:, column, k:5] == 0).all()
            real = [*range(k), 5] if kind is AbsorbingProcess else list(range(k))
            for row in range(40):
                state = int(z[row, column])
                state = k if state == 5 else state
                expected = bayes(kind, schedule, k, x[row, column], state, t, s)
                assert np.abs(found[row, column, real] - expected).max() < 1e-10


@each_schedule
@each_process
def test_reverse_is_the_explicit_mixture_over_the_clean_class(schedule, kind):
    k = 4
    process = kind(schedule, k)
    p0 = np.array([0.5, 0.3, 0.2, 0.0])
    for t, s in PAIRS:
        for z in range(k if kind is MultinomialProcess else k + 1):
            posteriors = [bayes(kind, schedule, k, x, z, t, s) for x in range(k)]
            if kind is AbsorbingProcess and z < k:
                expected = np.eye(k + 1)[z]  # a class that survived is known, whatever p0 says
            else:
                expected = sum(p * q for p, q in zip(p0, posteriors, strict=True) if q is not None)
            if expected.sum() == 0:
                continue
            prediction = CategoricalPrediction(torch.tensor([z]), torch.from_numpy(p0).log()[None])
            found = process.reverse(prediction, at(t / 20), at(s / 20)).probs[0].numpy()
            assert np.abs(found - expected / expected.sum()).max() < 1e-10


@each_schedule
@each_process
def test_divergence_is_the_explicit_sum(schedule, kind):
    process, generator = kind(schedule, 4), np.random.default_rng(1)
    for t, s in PAIRS:
        x = torch.from_numpy(generator.integers(4, size=(6, 2)))
        z = process.q_sample(x, at(t / 20), KeyedNoise(t)).z
        prediction = process.predict(torch.randn(6, 2, 4, dtype=F64), z, at(t / 20))
        q = process.posterior(x, z, at(t / 20), at(s / 20)).probs.numpy()
        p = process.reverse(prediction, at(t / 20), at(s / 20)).probs.numpy()
        ratio = np.log(np.where(q > 0, q, 1) / np.where(q > 0, p, 1))
        expected = (q * ratio).sum((1, 2))
        found = process.divergence(x, z, prediction, at(t / 20), at(s / 20)).numpy()
        assert np.abs(found - expected).max() < 1e-10
        if s == 0:
            likelihood = process.reconstruction(x, prediction, at(t / 20)).numpy()
            assert np.abs(found + likelihood).max() < 1e-10
            nll = -process.reverse(prediction, at(t / 20), at(0.0)).log_prob(x).numpy()
            assert np.abs(found - nll).max() < 1e-10


@each_process
def test_mixed_rows_are_the_terms_they_stand_for(kind):
    process = kind(SCHEDULES["linear"], (2, 3))
    x = torch.tensor([[0, 2], [1, 0], [1, 1]])
    t, s = at([0.05, 0.5, 0.05]), at([0.0, 0.25, 0.0])
    z = process.q_sample(x, t, KeyedNoise(1)).z
    logits = torch.randn(3, 2, 3, dtype=F64, requires_grad=True)
    term = process.vlb_term(x, z, process.predict(logits, z, t), t, s)
    (gradient,) = torch.autograd.grad(term.sum(), logits)
    assert bool(gradient.isfinite().all())
    for i in range(3):
        row = slice(i, i + 1)
        prediction = process.predict(logits.detach()[row], z[row], t[i])
        single = process.vlb_term(x[row], z[row], prediction, t[i], s[i])
        assert float(term[i].detach()) == pytest.approx(float(single), rel=1e-10, abs=1e-12)


@each_process
def test_single_precision_agrees_with_double(kind):
    process = kind(DiscreteSchedule.cosine(1000), (3, 7))
    x = torch.stack([torch.arange(300) % 3, torch.arange(300) % 7], 1)
    for node in (2, 100, 700, 1000):
        t, s = at(node / 1000), at((node - 1) / 1000)
        z = process.q_sample(x, t, KeyedNoise(node)).z
        logits = torch.randn(300, 2, 7, dtype=F64)
        wide, narrow = (
            process.divergence(x, z, process.predict(o, z, t), t, s)
            for o in (logits, logits.float())
        )
        assert narrow.dtype == torch.float32
        assert float((wide - narrow).abs().max()) < 1e-4 * max(1.0, float(wide.max()))


@each_schedule
@each_process
def test_prior_divergence_is_the_explicit_kl(schedule, kind):
    process, x = kind(schedule, (2, 5)), torch.tensor([[0, 4], [1, 0]])
    last = schedule.terminal_snr
    expected = 0.0
    for k in (2, 5):
        if kind is MultinomialProcess:
            q = np.full(k, (1 - last) / k)
            q[0] += last
            expected += float((q * np.log(q * k)).sum())
        else:
            expected += last * math.log(k)
    found = process.prior_divergence(x)
    assert found.tolist() == pytest.approx([expected] * 2, abs=1e-12)


# Drawing


class Constant(Noise):
    """Uniform numbers that are all the same, to reach the edges."""

    def __init__(self, value):
        self.value = value

    def normal(self, like):
        return torch.zeros_like(like)

    def uniform(self, like):
        return torch.full_like(like, self.value)

    def child(self, name):
        return self

    def at(self, step):
        return self


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sample_frequencies(dtype):
    probs = torch.tensor([0.0, 0.1, 0.0, 0.25, 0.65, 0.0], dtype=dtype)
    n = 50_000
    sample = Categorical(probs.expand(n, 6)).sample(KeyedNoise(2))
    counts = torch.bincount(sample, minlength=6).double().numpy()
    positive = probs.numpy() > 0
    assert (counts[~positive] == 0).all()
    expected = probs.double().numpy()[positive]
    chi_square = stats.chisquare(counts[positive], n * expected / expected.sum())
    assert chi_square.pvalue > 1e-3


@pytest.mark.parametrize("uniform", [0.0, 1e-12, 0.5, 1 - 2**-24, 1 - 2**-53, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_class_of_probability_zero_is_never_drawn(uniform, dtype):
    generator = torch.Generator().manual_seed(0)
    probs = torch.rand(2000, 9, dtype=dtype, generator=generator)
    probs = torch.where(torch.rand(2000, 9, generator=generator) < 0.6, 0.0, probs)
    probs[:, 4] += 1e-7
    probs = probs / probs.sum(-1, keepdim=True)
    sample = Categorical(probs).sample(Constant(uniform))
    assert bool((probs.gather(-1, sample[:, None]) > 0).all())


@each_process
def test_padded_classes_never_occur(kind, device):
    counts = torch.tensor([1, 2, 6])
    process, noise = kind(SCHEDULES["cosine"], counts.tolist()), KeyedNoise(0)
    n = 1000
    x = (torch.arange(n)[:, None] % counts).to(device)
    states = {"prior": process.prior(x, noise)}
    for node in (1, 7, 20):
        t = at(node / 20)
        z = process.q_sample(x, t, noise.at(node)).z
        logits = torch.zeros(n, 3, 6, device=device)
        logits[..., 1:] = 50.0  # a network that loves the padding
        prediction = process.predict(logits, z, t)
        assert bool((prediction.p0.sum(-1) - 1).abs().max() < 1e-5)
        states |= {
            f"q {node}": z,
            f"forward {node}": process.forward_step(x, at(0.0), t, noise),
            f"reverse {node}": process.reverse(prediction, t, at((node - 1) / 20)).sample(noise),
            f"posterior {node}": process.posterior(x, z, t, at(0.0)).sample(noise),
        }
    for name, z in states.items():
        real = z.cpu() < counts
        if kind is AbsorbingProcess:
            real |= z.cpu() == process.mask
        assert bool(real.all()), name
        assert z.dtype == torch.long


@each_process
def test_the_last_step_gives_the_data(kind):
    process = kind(SCHEDULES["cosine"], 5)
    t, x = at(1 / 20), torch.arange(5)
    z = process.q_sample(x, t, KeyedNoise(0)).z
    prediction = process.predict(torch.randn(5, 5, dtype=F64), z, t)
    last = process.reverse(prediction, t, at(0.0))
    if kind is AbsorbingProcess:
        assert bool((last.probs[..., process.mask] == 0).all())
    else:
        assert torch.allclose(last.probs, prediction.p0, rtol=1e-12, atol=1e-15)


def test_multinomial_prior_is_uniform_over_the_classes_that_exist():
    n = 30_000
    prior = MultinomialProcess(SCHEDULES["linear"], (2, 5)).prior(
        torch.zeros(n, 2, dtype=torch.long), KeyedNoise(0)
    )
    for column, k in enumerate((2, 5)):
        counts = torch.bincount(prior[:, column], minlength=k).numpy()
        assert stats.chisquare(counts).pvalue > 1e-3


def test_absorbing_prior_is_all_masks_where_nothing_is_left():
    process = AbsorbingProcess(SCHEDULES["absorbing"], 4)
    assert process.mask == 4
    assert bool((process.prior(torch.zeros(500, 2, dtype=torch.long), KeyedNoise(0)) == 4).all())


def test_masks_fall_evenly_under_the_absorbing_schedule():
    process, n = AbsorbingProcess(SCHEDULES["absorbing"], 4), 20_000
    for node in (1, 5, 10, 19):
        z = process.q_sample(torch.zeros(n, dtype=torch.long), at(node / 20), KeyedNoise(node)).z
        share = float((z == process.mask).double().mean())
        assert abs(share - node / 20) < 4 * math.sqrt(node / 20 * (1 - node / 20) / n)


def test_an_unmasked_class_costs_no_reconstruction():
    process = AbsorbingProcess(SCHEDULES["absorbing"], 3)
    x, t = torch.tensor([[0, 1], [2, 2]]), at(0.05)
    z = torch.tensor([[0, 3], [2, 2]])
    prediction = process.predict(torch.randn(2, 2, 3, dtype=F64), z, t)
    expected = [float(prediction.log_p0[0, 1, 1]), 0.0]
    assert process.reconstruction(x, prediction, t).tolist() == pytest.approx(expected)


@each_process
def test_continuous_time_works_as_well(kind):
    process, x = kind(LinearVP(), 4), torch.arange(4)
    z = process.q_sample(x, at(0.37), KeyedNoise(0)).z
    posterior = process.posterior(x, z, at(0.37), at(0.111)).probs
    ratio = float((LinearVP().log_alpha_bar(0.37) - LinearVP().log_alpha_bar(0.111)).exp())
    first = float(LinearVP().log_alpha_bar(0.111).exp())
    before = one_step(kind, 4, 1 - first)
    after = one_step(kind, 4, 1 - ratio)
    for i in range(4):
        joint = before[i] * after[:, int(z[i])]
        assert np.abs(posterior[i].numpy() - joint / joint.sum()).max() < 1e-10


# Options


@each_process
@pytest.mark.parametrize("classes", [0, 1, -2, True, [], [2, 0], [2.5, 3], "ab", 2.0])
def test_impossible_class_counts_are_refused(kind, classes):
    with pytest.raises(ConfigError, match="num_classes"):
        kind(SCHEDULES["linear"], classes)


def test_numpy_class_counts_are_integers():
    process = MultinomialProcess(SCHEDULES["linear"], np.int64(3))
    assert process.num_classes == 3
    assert MultinomialProcess(SCHEDULES["linear"], [np.int64(3), 1]).num_classes == (3, 1)


def test_a_schedule_that_is_not_variance_preserving_is_refused():
    with pytest.raises(ConfigError, match="alpha_bar"):
        MultinomialProcess(VESchedule(), 3)


def test_data_are_checked():
    process = MultinomialProcess(SCHEDULES["linear"], (2, 5))
    process.check(torch.tensor([[1, 4], [0, 0]]))
    for bad in (torch.tensor([[2, 0]]), torch.tensor([[0, -1]]), torch.tensor([[0.0, 1.0]])):
        with pytest.raises(DataError, match="classes"):
            process.check(bad)
