"""Ancestral sampling of categorical data and of mixed data, with exact denoisers.

For one categorical variable the reverse chain with the exact p(x | z_t) is the exact reversal of
the forward chain, at any number of steps: its law follows by multiplying transition matrices. A
product of spaces has no such luck, because its reverse kernel treats the parts as independent.
"""

from __future__ import annotations

import itertools

import pytest
import torch

from scidiffusion.core import (
    AbsorbingProcess,
    CategoricalPrediction,
    DiscreteSchedule,
    GaussianProcess,
    KeyedNoise,
    LinearVP,
    MultinomialProcess,
    Prediction,
    ProductProcess,
)
from scidiffusion.samplers import DDIM, Ancestral, PartwiseSampler, sample

F64 = torch.float64
FREQUENCIES = torch.tensor([0.05, 0.15, 0.3, 0.5], dtype=F64)


class ClassOracle:
    """The exact p(x | z_t) of independent variables with given class frequencies."""

    def __init__(self, process, frequencies=FREQUENCIES):
        self.process, self.frequencies = process, frequencies

    def __call__(self, z, t, cond=None):
        count = len(self.frequencies)
        alpha_bar = self.process.schedule.log_alpha_bar(t).exp()
        same = (z[..., None] == torch.arange(count, device=z.device)).to(F64)
        if isinstance(self.process, MultinomialProcess):
            likelihood = alpha_bar * same + (1 - alpha_bar) / count
        else:
            masked = (z == self.process.mask)[..., None].to(F64)
            likelihood = alpha_bar * same + (1 - alpha_bar) * masked
        joint = self.frequencies.to(z.device) * likelihood
        return CategoricalPrediction(z, (joint / joint.sum(-1, keepdim=True)).log())


def total_variation(p, q):
    return 0.5 * float((p - q).abs().sum())


SCHEDULES = [DiscreteSchedule.cosine(50), DiscreteSchedule.linear(50), LinearVP()]


@pytest.mark.parametrize("steps", [1, 5, 10, 50])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("kind", [MultinomialProcess, AbsorbingProcess])
def test_the_chain_of_an_exact_classifier_is_exact_at_any_number_of_steps(kind, schedule, steps):
    process = kind(schedule, 4)
    oracle = ClassOracle(process)
    grid = schedule.grid(steps, "uniform")
    states = torch.arange(4 + (kind is AbsorbingProcess))
    law = (FREQUENCIES @ process.kernel(states[:4], grid[0]).probs).to(F64)
    for t, s in itertools.pairwise(grid):
        law = law @ process.reverse(oracle(states, t), t, s).probs
    assert total_variation(law[:4], FREQUENCIES) < 1e-12
    if kind is AbsorbingProcess:
        assert law[4] == 0


def test_a_denoiser_one_node_late_does_not_reach_the_frequencies():
    """The chain above can fail: the exactness is of the right times only."""
    schedule = DiscreteSchedule.cosine(20)
    process = MultinomialProcess(schedule, 4)
    oracle = ClassOracle(process)
    law = FREQUENCIES @ process.kernel(torch.arange(4), torch.ones((), dtype=F64)).probs
    for t, s in itertools.pairwise(schedule.grid(20, "uniform")):
        late = (t + 1 / 20).clamp(max=1.0)
        law = law @ process.reverse(oracle(torch.arange(4), late), t, s).probs
    assert total_variation(law, FREQUENCIES) > 0.01


@pytest.mark.parametrize("steps", [5, 10, 50])
@pytest.mark.parametrize("kind", [MultinomialProcess, AbsorbingProcess])
def test_drawn_classes_have_the_frequencies(kind, steps):
    n = 20000
    process = kind(DiscreteSchedule.cosine(50), 4)
    like = torch.zeros(n, dtype=torch.long)
    drawn = sample(
        process, ClassOracle(process), like, sampler=Ancestral(), steps=steps, noise=KeyedNoise(1)
    )
    assert drawn.dtype == torch.long
    counts = torch.bincount(drawn, minlength=4).to(F64)
    assert len(counts) == 4, "no mask is left"
    # Pearson's statistic has 3 degrees of freedom: 16.3 is its .999 quantile.
    assert float(((counts - n * FREQUENCIES) ** 2 / (n * FREQUENCIES)).sum()) < 16.3
    assert total_variation(counts / n, FREQUENCIES) < 0.01


def test_several_variables_stay_independent():
    """Two columns of unequal numbers of classes, the second padded."""
    schedule = DiscreteSchedule.cosine(20)
    process = MultinomialProcess(schedule, [4, 2])
    frequencies = torch.stack([FREQUENCIES, torch.tensor([0.8, 0.2, 0.0, 0.0], dtype=F64)])

    def oracle(z, t, cond=None):
        likelihood = process.kernel(
            torch.arange(4)[:, None].clamp(max=torch.tensor([3, 1])), t
        ).probs  # (x, column, z)
        at = likelihood[:, torch.arange(2), z].permute(1, 2, 0)
        joint = frequencies * at
        return CategoricalPrediction(z, (joint / joint.sum(-1, keepdim=True)).log())

    n = 20000
    drawn = sample(process, oracle, torch.zeros(n, 2, dtype=torch.long), sampler=Ancestral())
    table = torch.zeros(4, 2, dtype=F64)
    table.index_put_((drawn[:, 0], drawn[:, 1]), torch.ones(n, dtype=F64), accumulate=True)
    assert total_variation(table / n, frequencies[0][:, None] * frequencies[1][:2]) < 0.015


# --- numbers and classes together ------------------------------------------------------------

WEIGHTS = torch.tensor([0.2, 0.3, 0.5], dtype=F64)
MEANS = torch.tensor([-2.0, 0.0, 1.5], dtype=F64)
VARS = torch.tensor([0.09, 0.25, 0.04], dtype=F64)


class JointOracle:
    """Exact for x = (class k, number ~ N(MEANS[k], VARS[k]))."""

    def __init__(self, process):
        self.process = process

    def __call__(self, z, t, cond=None):
        marginal = self.process.schedule.marginal(t)
        variance = marginal.alpha_bar * VARS + marginal.var
        centred = z["number"] - marginal.scale * MEANS
        same = (z["class"][:, None] == torch.arange(3)).to(F64)
        likelihood = marginal.alpha_bar * same + (1 - marginal.alpha_bar) / 3
        log_joint = (
            WEIGHTS.log() + likelihood.log() - 0.5 * (centred**2 / variance + variance.log())
        )
        share = torch.softmax(log_joint, 1)
        eps = marginal.std * (share * centred / variance).sum(1, keepdim=True)
        return {
            "number": Prediction(z["number"], marginal, eps),
            "class": CategoricalPrediction(z["class"], share.log()),
        }


def mixed_process(steps):
    """The schedule on which the figures below were found."""
    betas = torch.linspace(min(0.1 / steps, 0.1), min(20 / steps, 0.9), steps, dtype=F64)
    schedule = DiscreteSchedule(betas)
    return ProductProcess(
        {
            "number": GaussianProcess(schedule, variance="beta"),
            "class": MultinomialProcess(schedule, 3),
        }
    )


def disagreement(state):
    """Share of rows whose number belongs to another class than theirs."""
    nearest = ((state["number"] - MEANS).abs() / VARS.sqrt()).argmin(1)
    return float((nearest != state["class"]).to(F64).mean())


def draw_mixed(steps, n, sampler=None, noise=None):
    process = mixed_process(steps)
    like = {"number": torch.empty(n, 1, dtype=F64), "class": torch.zeros(n, dtype=torch.long)}
    return sample(
        process,
        JointOracle(process),
        like,
        sampler=sampler or Ancestral(),
        noise=noise or KeyedNoise(2),
    )


def test_the_disagreement_of_true_draws():
    generator = torch.Generator().manual_seed(0)
    k = torch.multinomial(WEIGHTS, 40000, replacement=True, generator=generator)
    x = MEANS[k] + VARS[k].sqrt() * torch.randn(40000, dtype=F64, generator=generator)
    assert disagreement({"number": x[:, None], "class": k}) == pytest.approx(0.016, abs=0.002)


@pytest.mark.parametrize(("steps", "expected"), [(10, 0.069), (50, 0.025), (200, 0.018)])
def test_a_factorised_reverse_kernel_loses_dependence_at_few_steps(steps, expected):
    """Even with the exact denoiser; the loss is known, and it is gone at two hundred steps."""
    n = 10000
    state = draw_mixed(steps, n)
    error = (expected * (1 - expected) / n) ** 0.5
    assert disagreement(state) == pytest.approx(expected, abs=3.5 * error)
    counts = torch.bincount(state["class"], minlength=3).to(F64)
    assert total_variation(counts / n, WEIGHTS) < (0.1 if steps == 10 else 0.02)
    if steps == 200:
        for k in range(3):
            numbers = state["number"][state["class"] == k]
            assert float(numbers.median()) == pytest.approx(float(MEANS[k]), abs=0.04)


def test_classes_need_the_numbers_they_are_drawn_with():
    """A denoiser that looks at each part alone loses the dependence altogether."""
    process = mixed_process(50)
    joint = JointOracle(process)

    def alone(z, t, cond=None):
        marginal = process.schedule.marginal(t)
        same = (z["class"][:, None] == torch.arange(3)).to(F64)
        likelihood = marginal.alpha_bar * same + (1 - marginal.alpha_bar) / 3
        share = WEIGHTS * likelihood
        share = share / share.sum(1, keepdim=True)
        return {**joint(z, t), "class": CategoricalPrediction(z["class"], share.log())}

    like = {
        "number": torch.empty(3000, 1, dtype=F64),
        "class": torch.zeros(3000, dtype=torch.long),
    }
    assert disagreement(sample(process, alone, like, sampler=Ancestral())) > 0.1


def test_partwise_sampling_of_mixed_data():
    n = 6000
    ancestral = draw_mixed(50, n)
    default = draw_mixed(50, n, PartwiseSampler())
    assert all(torch.equal(ancestral[name], default[name]) for name in ancestral)
    partwise = draw_mixed(50, n, PartwiseSampler({"number": DDIM()}))
    assert disagreement(partwise) < 0.05
    counts = torch.bincount(partwise["class"], minlength=3).to(F64)
    assert total_variation(counts / n, WEIGHTS) < 0.02
