"""Guidance against exact conditionals: classifier-free, classifier, and two ways of inpainting."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from scidiffusion.core import (
    AbsorbingProcess,
    CategoricalPrediction,
    Denoiser,
    DiscreteSchedule,
    GaussianProcess,
    LinearVP,
    MultinomialProcess,
    Parameterization,
    ProductProcess,
    VESchedule,
)
from scidiffusion.errors import ConfigError, DataError
from scidiffusion.guidance import (
    ClassifierFreeGuidance,
    ClassifierGuidance,
    ReconstructionGuidance,
    RePaint,
)
from scidiffusion.samplers import DDIM, Ancestral, DPMSolverPP, EulerMaruyama, Heun, sample
from scidiffusion.testing import GaussianMixtureOracle, assert_same_distribution

F64 = torch.float64
TIMES = [0.02, 0.1, 0.4, 0.7, 1.0]


def prince(schedule=None, **options):
    process = GaussianProcess(schedule or LinearVP(), **options)
    return process, GaussianMixtureOracle.prince(process)


def points(n=101, reach=3.0):
    return torch.linspace(-reach, reach, n, dtype=F64)[:, None]


def quantile_points(n):
    return torch.special.ndtri((torch.arange(n, dtype=F64) + 0.5) / n)[:, None]


def label(n, k=2):
    return torch.full((n,), k)


def close(a, b, atol=1e-12):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


# --- classifier-free -------------------------------------------------------------------------


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("schedule", [LinearVP(), VESchedule(0.01, 20.0)], ids=repr)
def test_classifier_free_scales_zero_and_one_and_between(schedule, t):
    _process, oracle = prince(schedule)
    z, t, cond = points(), torch.tensor(t, dtype=F64), label(101)
    conditional, unconditional = oracle(z, t, cond), oracle(z, t)
    assert torch.equal(ClassifierFreeGuidance(oracle, 0)(z, t, cond).eps, unconditional.eps)
    assert torch.equal(ClassifierFreeGuidance(oracle, 1)(z, t, cond).eps, conditional.eps)
    for scale in (-0.5, 0.3, 1 - 1e-12, 2.0, 7.5):
        guided = ClassifierFreeGuidance(oracle, scale)(z, t, cond)
        expected = unconditional.eps + scale * (conditional.eps - unconditional.eps)
        close(guided.eps, expected)
        # One prediction, whatever it is read as.
        close(
            guided.score,
            unconditional.score + scale * (conditional.score - unconditional.score),
            1e-9,
        )


def test_kept_conditions_are_told_to_the_unconditional_model_too():
    seen = []

    class Recorder:
        process = prince(LinearVP())[0]

        def __call__(self, z, t, cond=None):
            seen.append(cond)
            return prince(LinearVP())[1](z, t)

    cond = {"kept": torch.ones(101, 1), "pulled": torch.ones(101, 1)}
    guided = ClassifierFreeGuidance(Recorder(), 2.0, kept=("kept",))
    guided(points(), torch.tensor(0.5, dtype=F64), cond)
    unconditional, conditional = seen
    assert torch.equal(unconditional["kept"], cond["kept"])
    assert torch.isnan(unconditional["pulled"]).all()
    assert conditional is cond


@pytest.mark.parametrize("parameterization", Parameterization)
def test_mixing_in_any_parameterisation_is_the_same(parameterization):
    _process, oracle = prince()
    z, t = points(), torch.tensor(0.5, dtype=F64)
    a, b = oracle(z, t), oracle(z, t, label(101))
    reference = a.mix(b, 3.0)
    a, b = (p.with_value(p.target(parameterization), parameterization) for p in (a, b))
    close(a.mix(b, 3.0).eps, reference.eps, 1e-11)
    close(a.mix(b, 3.0).x0, reference.x0, 1e-11)


def test_scale_is_one_more_than_the_w_of_ho_and_salimans():
    _process, oracle = prince()
    z, t, cond = points(), torch.tensor(0.4, dtype=F64), label(101)
    w = 1.5
    guided = ClassifierFreeGuidance.from_ho_salimans(oracle, w)
    assert guided.scale == 2.5
    close(guided(z, t, cond).eps, (1 + w) * oracle(z, t, cond).eps - w * oracle(z, t).eps)


def test_guidance_is_continuous_in_the_scale_also_in_its_variance():
    """The variance of a guided step is the conditional one, as it is at scale 1."""
    process, oracle = prince(variance="optimal")
    z, cond = points(), label(101)
    t, s = torch.tensor(0.3, dtype=F64), torch.tensor(0.2, dtype=F64)
    at_one, near = (
        process.reverse(ClassifierFreeGuidance(oracle, scale)(z, t, cond), t, s)
        for scale in (1.0, 1.0 + 1e-9)
    )
    close(near.mean, at_one.mean, 1e-7)
    close(near.var, at_one.var, 1e-7)


@pytest.mark.parametrize("scale", [1.0, 2.0, 4.0])
def test_rows_without_a_condition_stay_unconditional(scale):
    _process, oracle = prince()
    z, t = points(6), torch.tensor(0.4, dtype=F64)
    cond = torch.tensor([2, -1, 0, -1, 3, -1])
    guided = ClassifierFreeGuidance(oracle, scale)(z, t, cond)
    absent = cond < 0
    close(guided.eps[absent], oracle(z, t).eps[absent])
    assert not torch.allclose(guided.eps[~absent], oracle(z, t).eps[~absent])


class Spy:
    """A denoiser that records the conditions it is called with."""

    def __init__(self, process):
        self.process, self.seen = process, []

    def __call__(self, z, t, cond=None):
        self.seen.append(cond)
        return self.process.prediction(z, t, eps=torch.zeros_like(z))


def test_the_unconditional_model_is_named_by_absent_conditions():
    spy = Spy(GaussianProcess(LinearVP()))
    cond = {"k": torch.tensor([1, 2]), "x": torch.tensor([[0.5, 1.0], [2.0, 3.0]])}
    z, t = torch.zeros(2, 1, dtype=F64), torch.tensor(0.4, dtype=F64)
    ClassifierFreeGuidance(spy, 2.0)(z, t, cond)
    absent, present = spy.seen
    assert present is cond
    assert absent["k"].tolist() == [-1, -1]
    assert bool(absent["x"].isnan().all())
    assert cond["k"].tolist() == [1, 2], "the caller's condition is left alone"
    # The end points cost one evaluation.
    for scale in (0.0, 1.0):
        spy.seen.clear()
        ClassifierFreeGuidance(spy, scale)(z, t, cond)
        assert len(spy.seen) == 1


def test_guidance_of_classes_is_a_tilted_distribution():
    process = MultinomialProcess(DiscreteSchedule.linear(20), 3)
    free = torch.tensor([0.2, 0.3, 0.5], dtype=F64)
    bound = torch.tensor([0.6, 0.4, 0.0], dtype=F64)

    def denoiser(z, t, cond=None):
        absent = cond is None or bool((cond < 0).all())
        probs = free if absent else bound
        return CategoricalPrediction(z, probs.log().expand(*z.shape, 3))

    denoiser.process = process
    z, t = torch.tensor([0, 1, 2]), torch.tensor(0.5, dtype=F64)
    guided = ClassifierFreeGuidance(denoiser, 2.0)(z, t, torch.tensor([0, 0, 0])).p0
    expected = bound**2 / free
    close(guided, (expected / expected.sum()).expand(3, 3))
    for scale, probs in ((0.0, free), (1.0, bound)):
        guided = ClassifierFreeGuidance(denoiser, scale)(z, t, torch.tensor([0, 0, 0])).p0
        close(guided, probs.expand(3, 3))


def test_guidance_of_a_product_guides_every_part():
    process, oracle = prince()
    both = ProductProcess({"a": process, "b": process})

    def denoiser(z, t, cond=None):
        return {name: oracle(z[name], t, cond) for name in z}

    denoiser.process = both
    z, t, cond = {"a": points(), "b": -points()}, torch.tensor(0.4, dtype=F64), label(101)
    guided = ClassifierFreeGuidance(denoiser, 3.0)(z, t, cond)
    for name in z:
        close(guided[name].eps, ClassifierFreeGuidance(oracle, 3.0)(z[name], t, cond).eps)


def conditional_samples(denoiser, process, n=1000, steps=60):
    start = quantile_points(n)
    return sample(
        process, denoiser, start, sampler=DPMSolverPP(), steps=steps, z=start, cond=label(n)
    )[:, 0]


def test_guided_samples_follow_the_exact_conditional_at_scale_one():
    process, oracle = prince()
    for guided in (
        ClassifierFreeGuidance(oracle, 1.0),
        ClassifierGuidance(oracle, oracle.log_class, 1.0),
    ):
        x = conditional_samples(guided, process)
        assert float(x.mean()) == pytest.approx(0.45, abs=5e-3)
        assert float(x.std()) == pytest.approx(0.525, abs=5e-3)
        assert_same_distribution(x, stats.norm(0.45, 0.525).cdf)


def test_more_guidance_is_less_diversity():
    process, oracle = prince()
    spread = [
        float(conditional_samples(ClassifierFreeGuidance(oracle, scale), process).std())
        for scale in (1.0, 2.0, 4.0)
    ]
    assert spread[0] > 1.5 * spread[1] > 1.5**2 * spread[2]
    same = conditional_samples(ClassifierGuidance(oracle, oracle.log_class, 2.0), process)
    assert float(same.std()) == pytest.approx(spread[1], abs=1e-6)


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf])
def test_scales_must_be_finite(scale):
    _process, oracle = prince()
    observed, mask = torch.zeros(2, 1), torch.ones(2, 1, dtype=torch.bool)
    for make in (
        lambda: ClassifierFreeGuidance(oracle, scale),
        lambda: ClassifierGuidance(oracle, oracle.log_class, scale),
        lambda: ReconstructionGuidance(oracle, observed, mask, scale=scale),
    ):
        with pytest.raises(ConfigError, match="finite"):
            make()


def test_classifier_free_guidance_needs_a_condition():
    _process, oracle = prince()
    with pytest.raises(ConfigError, match="needs a condition"):
        ClassifierFreeGuidance(oracle, 2.0)(points(), torch.tensor(0.5, dtype=F64))


# --- classifier ------------------------------------------------------------------------------


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("k", range(4))
def test_the_exact_classifier_gives_the_exact_conditional_score(k, t):
    process, oracle = prince()
    z, t, cond = points(), torch.tensor(t, dtype=F64), label(101, k)
    guided = ClassifierGuidance(oracle, oracle.log_class, 1.0)(z, t, cond)
    close(guided.eps, oracle(z, t, cond).eps)
    marginal = process.schedule.marginal(t)
    mean, var = oracle.means[k, 0], oracle.covariances[k, 0, 0]
    exact = -(z - marginal.scale * mean) / (marginal.alpha_bar * var + marginal.var)
    close(guided.score, exact, 1e-10)
    assert torch.equal(
        ClassifierGuidance(oracle, oracle.log_class, 0.0)(z, t, cond).eps, oracle(z, t).eps
    )
    # In the exact case both rules are one, at any scale.
    for scale in (0.5, 3.0):
        close(
            ClassifierGuidance(oracle, oracle.log_class, scale)(z, t, cond).eps,
            ClassifierFreeGuidance(oracle, scale)(z, t, cond).eps,
            1e-11,
        )


def test_classifier_guidance_in_several_dimensions_and_with_per_row_times():
    process = GaussianProcess(LinearVP())
    oracle = GaussianMixtureOracle(
        [0.4, 0.6], [[1.0, 0.0], [-1.0, 0.5]], [[0.5, 0.2], [0.3, 0.9]], process
    )
    z = torch.randn(20, 2, dtype=F64)
    t = torch.linspace(0.05, 1, 20, dtype=F64)
    cond = torch.arange(20) % 2
    close(
        ClassifierGuidance(oracle, oracle.log_class, 1.0)(z, t, cond).eps, oracle(z, t, cond).eps
    )


def test_a_classifier_without_finite_gradient_is_reported():
    _process, oracle = prince()
    broken = ClassifierGuidance(oracle, lambda z, t, cond: (z * math.nan).sum(1), 1.0)
    with pytest.raises(ConfigError, match="not finite at t ="):
        broken(points(), torch.tensor(0.5, dtype=F64))


@pytest.mark.parametrize("kind", [MultinomialProcess, AbsorbingProcess])
def test_gradient_guidance_is_for_gaussian_processes(kind):
    spy = Spy(kind(DiscreteSchedule.linear(20), 3))
    with pytest.raises(ConfigError, match="needs a Gaussian process"):
        ClassifierGuidance(spy, lambda z, t, c: z.sum(1))
    with pytest.raises(ConfigError, match="needs a Gaussian process"):
        ReconstructionGuidance(spy, torch.zeros(2, 1), torch.ones(2, 1, dtype=torch.bool))


def test_gradient_guidance_needs_a_terminal_signal():
    schedule = DiscreteSchedule.linear(20).with_zero_terminal_snr()
    process, oracle = prince(schedule, parameterization="v")
    with pytest.raises(ConfigError, match="some signal at t = 1"):
        ClassifierGuidance(oracle, oracle.log_class)
    with pytest.raises(ConfigError, match="some signal at t = 1"):
        ReconstructionGuidance(oracle, torch.zeros(2, 1), torch.ones(2, 1, dtype=torch.bool))
    # Classifier-free guidance does not mind.
    start = quantile_points(200)
    guided = ClassifierFreeGuidance(oracle, 1.5)
    z = sample(process, guided, start, sampler=DDIM(), z=start, cond=label(200))
    assert bool(z.isfinite().all())
    assert float(z.std()) < 0.525


# --- inpainting ------------------------------------------------------------------------------

CORRELATION, SEEN = 0.8, 1.5


def correlated(schedule=None, n=3000, **options):
    """x ~ N(0, [[1, r], [r, 1]]) with x_0 seen: then x_1 ~ N(r SEEN, 1 - r^2)."""
    process = GaussianProcess(schedule or LinearVP(), **options)
    covariance = [[[1.0, CORRELATION], [CORRELATION, 1.0]]]
    oracle = GaussianMixtureOracle(
        [1.0], [[0.0, 0.0]], torch.tensor(covariance, dtype=F64), process
    )
    observed = torch.tensor([SEEN, math.nan], dtype=F64).repeat(n, 1)
    mask = torch.tensor([True, False]).repeat(n, 1)
    return process, oracle, observed, mask


def unknown_moments(z):
    return float(z[:, 1].mean()), float(z[:, 1].var())


def test_replacement_is_biased_and_resampling_repairs_it():
    process, oracle, observed, mask = correlated(variance="beta")
    mean, var = CORRELATION * SEEN, 1 - CORRELATION**2
    errors = {}
    for steps, resamples in ((30, 1), (30, 4), (60, 12)):
        sampler = RePaint(observed, mask, resamples=resamples)
        z = sample(process, oracle, observed, sampler=sampler, steps=steps)
        assert torch.equal(z[:, 0], observed[:, 0]), "what is known is kept to the bit"
        found = unknown_moments(z)
        errors[resamples] = (abs(found[0] - mean), abs(found[1] - var))
        assert found[0] < mean, "all lean towards the unconditional mean 0"
    # Replacement alone forgets nearly half of what the seen entry says.
    assert errors[1][0] > 0.4
    assert errors[4][0] < 0.5 * errors[1][0]
    assert errors[12][0] < 0.1
    assert errors[1][1] > 0.15 > 2 * errors[12][1]


@pytest.mark.parametrize(
    "sampler", [DDIM(), EulerMaruyama(), Heun(), DPMSolverPP(solver_order=1)], ids=repr
)
def test_repaint_wraps_any_one_step_sampler(sampler):
    process, oracle, observed, mask = correlated(n=800)
    errors = []
    for resamples in (1, 8):
        repaint = RePaint(observed, mask, sampler, resamples)
        assert repaint.spacing is sampler.spacing
        z = sample(process, oracle, observed, sampler=repaint, steps=15)
        assert torch.equal(z[:, 0], observed[:, 0])
        errors.append(abs(unknown_moments(z)[0] - CORRELATION * SEEN))
    assert errors[1] < 0.6 * errors[0]


def test_repaint_with_nothing_known_is_sampling_and_with_all_known_is_copying():
    process, oracle, observed, mask = correlated(n=50)
    nothing = RePaint(observed, torch.zeros_like(mask), resamples=1)
    assert bool(sample(process, oracle, observed, sampler=nothing, steps=5).isfinite().all())
    x = torch.randn(50, 2, dtype=F64)
    everything = RePaint(x, torch.ones_like(mask), resamples=3)
    assert torch.equal(sample(process, oracle, x, sampler=everything, steps=5), x)


def test_the_known_entries_are_noised_to_the_level_of_the_step():
    """On the way z_s agrees with q(z_s | x_known): neither earlier nor later."""
    process, oracle, observed, mask = correlated(n=4000)
    states = []
    grid = process.schedule.grid(8, "uniform")
    sample(
        process,
        oracle,
        observed,
        sampler=RePaint(observed, mask, resamples=2),
        grid=grid,
        callback=lambda index, t, z: states.append(z[:, 0]),
    )
    for s, known in zip(grid[1:-1], states[1:-1], strict=True):
        kernel = process.schedule.marginal(s)
        law = stats.norm(float(kernel.scale) * SEEN, float(kernel.std))
        assert_same_distribution(known, law.cdf)


@pytest.mark.parametrize("kind", [MultinomialProcess, AbsorbingProcess])
def test_repaint_of_classes(kind):
    """Two binary variables that agree with probability .9; the first is seen."""
    schedule = DiscreteSchedule.linear(40)
    process = kind(schedule, 2)
    joint = torch.tensor([[0.45, 0.05], [0.05, 0.45]], dtype=F64)
    every = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])

    class Oracle:
        def __init__(self):
            self.process = process

        def __call__(self, z, t, cond=None):
            kernel = process.kernel(every, t).probs  # (4, 2, K or K + 1)
            each = kernel[:, torch.arange(2), z]  # (4, B, 2)
            weight = each.prod(-1).T * joint.flatten()
            first = weight[:, :2].sum(1), weight[:, 2:].sum(1)
            second = weight[:, ::2].sum(1), weight[:, 1::2].sum(1)
            p0 = torch.stack([torch.stack(first, 1), torch.stack(second, 1)], 1)
            return CategoricalPrediction(z, (p0 / p0.sum(-1, keepdim=True)).log())

    n = 2000
    observed = torch.tensor([1, -1]).repeat(n, 1)
    mask = torch.tensor([True, False]).repeat(n, 1)
    share = {}
    for resamples in (1, 8):
        sampler = RePaint(observed, mask, resamples=resamples)
        z = sample(process, Oracle(), torch.zeros(n, 2, dtype=torch.long), sampler=sampler)
        assert bool((z[:, 0] == 1).all())
        share[resamples] = float((z[:, 1] == 1).to(F64).mean())
    # Independent of what is seen it would be .5.
    assert share[1] < 0.75
    assert 0.82 < share[8] < 0.92


def test_repaint_of_a_product():
    process, oracle, observed, mask = correlated(n=20)
    both = ProductProcess({"a": process, "b": process})

    def denoiser(z, t, cond=None):
        return {name: oracle(z[name], t) for name in z}

    denoiser.process = both
    state = {"a": observed, "b": torch.randn(20, 2, dtype=F64)}
    known = {"a": mask, "b": torch.zeros_like(mask)}
    z = sample(both, denoiser, state, sampler=RePaint(state, known, resamples=2), steps=5)
    assert torch.equal(z["a"][:, 0], observed[:, 0])
    assert not bool((z["b"] == state["b"]).any())


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("schedule", [LinearVP(), VESchedule(0.01, 20.0)], ids=repr)
def test_reconstruction_guidance_is_exact_for_isotropic_gaussian_data(schedule, t):
    process = GaussianProcess(schedule)
    variances = torch.tensor([0.5, 2.0], dtype=F64)
    oracle = GaussianMixtureOracle([1.0], [[1.0, -1.0]], variances[None], process)
    z = torch.randn(30, 2, dtype=F64)
    observed = torch.tensor([SEEN, math.nan], dtype=F64).repeat(30, 1)
    mask = torch.tensor([True, False]).repeat(30, 1)
    t = torch.tensor(t, dtype=F64)
    guided = ReconstructionGuidance(oracle, observed, mask, data_var=variances)(z, t)
    marginal = schedule.marginal(t)
    # Given x_0, z_0 is its kernel alone, and z_1 knows nothing of it.
    close(guided.eps[:, 0], (z[:, 0] - marginal.scale * SEEN) / marginal.std, 1e-10)
    close(guided.eps[:, 1], oracle(z, t).eps[:, 1])
    assert not guided.eps.requires_grad
    plain = ReconstructionGuidance(oracle, observed, mask, data_var=variances, scale=0.0)(z, t)
    close(plain.eps, oracle(z, t).eps)


def test_reconstruction_guidance_of_correlated_data():
    process, oracle, observed, mask = correlated(n=1500)
    guided = ReconstructionGuidance(oracle, observed, mask, data_var=1.0)
    z = sample(process, guided, observed, sampler=DDIM(eta=1.0), steps=100)
    assert float((z[:, 0] - SEEN).abs().max()) < 0.05
    mean, var = unknown_moments(z)
    assert mean == pytest.approx(CORRELATION * SEEN, abs=0.1)
    assert var == pytest.approx(1 - CORRELATION**2, abs=0.12)
    # Far better than replacement of the same cost.
    replaced = sample(
        process, oracle, observed, sampler=RePaint(observed, mask, resamples=1), steps=100
    )
    assert abs(mean - CORRELATION * SEEN) < 0.5 * abs(
        unknown_moments(replaced)[0] - CORRELATION * SEEN
    )


def good(n=4):
    return torch.zeros(n, 2, dtype=F64), torch.ones(n, 2, dtype=torch.bool)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, m: (x, m.to(F64)), "bool tensor"),
        (lambda x, m: (x, m[:2]), "shape"),
        (lambda x, m: (x + math.nan, m), "finite where the mask is true"),
    ],
)
def test_known_entries_that_cannot_be_used(change, message):
    _process, oracle, _, _ = correlated(n=4)
    observed, mask = change(*good())
    with pytest.raises(DataError, match=message):
        RePaint(observed, mask)
    with pytest.raises(DataError, match=message):
        ReconstructionGuidance(oracle, observed, mask)


def test_impossible_options_of_inpainting():
    process, oracle, _, _ = correlated(n=4)
    with pytest.raises(ConfigError, match=">= 1"):
        RePaint(*good(), resamples=0)
    with pytest.raises(ConfigError, match="without memory"):
        RePaint(*good(), sampler=DPMSolverPP())
    with pytest.raises(ConfigError, match="data_var"):
        ReconstructionGuidance(oracle, *good(), data_var=0.0)
    mixed = ProductProcess({"a": process})
    with pytest.raises(ConfigError, match="DDIM is not defined"):
        RePaint(*good(), sampler=DDIM()).check(mixed)


def test_every_rule_is_a_denoiser():
    process, oracle, _, _ = correlated(n=4)
    rules = [
        oracle,
        ClassifierFreeGuidance(oracle, 2.0),
        ClassifierGuidance(oracle, oracle.log_class),
        ReconstructionGuidance(oracle, *good()),
    ]
    for rule in rules:
        assert isinstance(rule, Denoiser)
        assert rule.process is process
    # And so they nest.
    nested = ReconstructionGuidance(ClassifierFreeGuidance(oracle, 1.0), *good())
    z = sample(
        process,
        nested,
        good()[0],
        sampler=Ancestral(),
        steps=3,
        cond=torch.zeros(4, dtype=torch.long),
    )
    assert bool(z.isfinite().all())
