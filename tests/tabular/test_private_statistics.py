"""Private statistics: the law of the noise, what a row may change, how near the truth it is."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chisquare

from scidiffusion.errors import ConfigError, DataError
from scidiffusion.tabular.inference import infer_schema
from scidiffusion.tabular.private_marginals import PrivateMarginals
from scidiffusion.tabular.private_statistics import (
    DEPTH,
    CountNoise,
    masses_quantiles,
    private_categories,
    private_frequencies,
    private_masses,
    private_quantiles,
    private_range,
)
from scidiffusion.tabular.views import TableView
from scidiffusion.training import DPBudget
from scidiffusion.training.accounting import gaussian_delta

NOISE = CountNoise.share(1, 1.0)
TINY = CountNoise(50.0, gaussian=False)
"""Noise that is zero but for chances of e**-50: what is left is the method."""


def rng(seed=0):
    return np.random.default_rng(seed)


# ---------------------------------------------------------------------------- noise


def test_geometric_noise_has_the_law_that_makes_one_row_cost_epsilon():
    epsilon = 0.7
    noise = CountNoise.share(1, epsilon)
    draws = noise.add(np.zeros(100_000), rng())
    values = np.arange(-8, 9)
    observed = np.array([(draws == value).sum() for value in values])
    law = np.exp(-epsilon * np.abs(values)) * math.tanh(epsilon / 2)
    expected = law * len(draws)
    inside = observed.sum(), expected.sum()
    assert chisquare(observed, expected * inside[0] / inside[1]).pvalue > 0.01
    assert draws.std() == pytest.approx(noise.std, rel=0.02)
    # A count of one more has the shifted law: the ratio is at most exp(epsilon), everywhere.
    assert np.abs(np.diff(np.log(law))).max() == pytest.approx(epsilon)


@pytest.mark.parametrize("histograms", [40, 200])
def test_the_noise_of_many_histograms_keeps_the_budget(histograms):
    epsilon, delta = 0.5, 1e-6
    noise = CountNoise.share(histograms, epsilon, delta)
    assert noise.gaussian
    # One row moves each count by one: the sensitivity is sqrt(histograms).
    assert gaussian_delta(epsilon, math.sqrt(histograms) / noise.scale) == pytest.approx(delta)
    assert noise.add(np.zeros(50_000), rng()).std() == pytest.approx(noise.std, rel=0.02)
    plain = CountNoise.share(histograms, epsilon)
    assert plain == CountNoise(epsilon / histograms, gaussian=False)
    assert noise.std < plain.std


@pytest.mark.parametrize("delta", [0.0, 1e-6])
def test_coarse_histograms_share_the_budget(delta):
    noise = CountNoise.share(10, 0.5, delta, coarse=40)
    if noise.gaussian:
        # Costs of Gaussians add up as squares of sensitivity over standard deviation.
        ratio = math.sqrt(10 / noise.scale**2 + 40 / noise.coarser.scale**2)
        assert gaussian_delta(0.5, ratio) == pytest.approx(delta)
    else:
        assert 10 * noise.scale + 40 * noise.coarser.scale == pytest.approx(0.5)
    assert noise.coarser.std > 1.9 * noise.std


def test_few_histograms_take_the_smaller_noise():
    assert not CountNoise.share(1, 1.0, 1e-9).gaussian


@pytest.mark.parametrize("noise", [NOISE, CountNoise(30.0, gaussian=True)])
def test_what_noise_exceeds_is_a_tail_bound(noise):
    draws = noise.add(np.zeros(200_000), rng(3))
    bound = noise.exceeded(0.01)
    assert (draws >= bound).mean() <= 0.0115
    assert (draws >= 0.7 * bound).mean() > 0.01


def test_impossible_noise_is_refused():
    for arguments in ((0, 1.0), (1, 0.0), (1, 1.0, 1.0)):
        with pytest.raises(ConfigError, match="noise of counts needs"):
            CountNoise.share(*arguments)


# ---------------------------------------------------------------------------- statistics


def test_frequencies_are_near_and_add_up():
    codes = rng().choice(4, 20_000, p=[0.5, 0.3, 0.2, 0.0])
    found = private_frequencies(codes, 4, CountNoise.share(3, 1.0), rng(1))
    assert found.sum() == pytest.approx(1)
    assert found == pytest.approx([0.5, 0.3, 0.2, 0.0], abs=0.02)
    assert (found >= 0).all()
    exact = private_frequencies(np.array([-1, 0, 1, 1, 9]), 2, TINY, rng())
    assert exact.tolist() == [1 / 3, 2 / 3]
    nobody = private_frequencies(np.empty(0, dtype=np.int64), 3, TINY, rng())
    assert nobody.tolist() == [1 / 3] * 3


@pytest.mark.parametrize("noise", [NOISE, CountNoise(4.0, gaussian=True)])
def test_a_level_of_one_row_is_named_with_at_most_the_probability_given(noise):
    delta = 0.02
    values = ["common"] * 300 + ["secret"]
    generator = rng(5)
    found = [private_categories(values, noise, delta, generator) for _ in range(4000)]
    named = np.mean(["secret" in levels for levels in found])
    assert 0.002 < named <= delta + 0.005
    assert all("common" in levels for levels in found)
    assert np.mean([levels["common"] for levels in found]) == pytest.approx(300, abs=1)


def test_levels_are_named_whatever_the_order_of_rows_and_missing_ones_are_not():
    values = pd.Series(["a", "b", None, "a"] * 50)
    first = private_categories(values, NOISE, 1e-6, rng(2))
    assert private_categories(values[::-1], NOISE, 1e-6, rng(2)) == first
    assert list(first) == ["a", "b"]


def test_a_range_holds_the_numbers_to_a_factor_of_two():
    x = rng().normal(300, 20, 5000)
    assert private_range(x, TINY, rng()) == (128, 512)
    assert private_range(-x, TINY, rng()) == (-512, -128)
    assert private_range(np.array([0.0, 3.0, -0.3] * 40), TINY, rng()) == (-0.5, 4.0)
    assert private_range(np.zeros(50), TINY, rng()) == (0, 0)
    low, high = private_range(x, CountNoise.share(50, 0.2, 1e-6), rng(1))
    assert low <= 256
    assert high >= 350
    assert high < 1e4
    # A single row does not stretch it.
    far = np.append(x, 1e9)
    assert private_range(far, CountNoise.share(50, 0.2, 1e-6), rng(1))[1] < 1e4
    with pytest.raises(DataError, match="stands out"):
        private_range(x[:3], CountNoise.share(50, 0.2, 1e-6), rng(1))


def test_masses_without_noise_are_the_histogram():
    x = rng().uniform(0, 1, 4000) ** 2
    masses = private_masses(x, 0.0, 1.0, TINY, rng(), depth=5)
    assert masses == pytest.approx(np.histogram(x, 32, (0, 1))[0] / 4000)
    noisy = private_masses(x, 0.0, 1.0, CountNoise.share(5, 0.5), rng(), depth=5)
    assert noisy.sum() == pytest.approx(1)
    assert (noisy >= 0).all()
    outside = private_masses(np.array([-9.0, 9.0]), 0.0, 1.0, TINY, rng(), depth=2)
    assert outside.tolist() == [0.5, 0, 0, 0.5]
    with pytest.raises(ConfigError, match="low < high"):
        private_masses(x, 1.0, 1.0, TINY, rng())


def test_quantiles_of_a_law_of_parts():
    masses = np.array([0.0, 0.0, 0.5, 0.0, 0.5, 0.0])
    found = masses_quantiles(masses, 0.0, 6.0, np.array([0, 0.25, 0.5, 0.75, 1]))
    assert found.tolist() == [2, 2.5, 3, 4.5, 5]


def test_private_quantiles_are_near_and_ordered():
    x = rng().lognormal(0, 1, 20_000)
    p = np.linspace(0.02, 0.98, 25)
    noise = CountNoise.share(2 * DEPTH, 0.5, 1e-7)
    found = private_quantiles(x, 0.0, 64.0, p, noise, rng(1))
    assert (np.diff(found) >= 0).all()
    ranks = np.searchsorted(np.sort(x), found) / len(x)
    assert np.abs(ranks - p).max() < 0.05
    exact = private_quantiles(x, 0.0, 64.0, p, TINY, rng(1))
    assert exact == pytest.approx(np.quantile(x, p), abs=64 / 2**DEPTH)


# ---------------------------------------------------------------------------- marginals


def people(n=6000, seed=0):
    generator = rng(seed)
    income = generator.lognormal(7, 1, n).round(2)
    table = pd.DataFrame(
        {
            "age": generator.integers(18, 70, n).astype("int8"),
            "income": np.where(generator.random(n) < 0.3, 0.0, income),
            "town": generator.choice(["Bonn", "Bath", "Brno"], n, p=[0.6, 0.3, 0.1]),
            "size": pd.Categorical(
                generator.choice(["s", "m", "l"], n), ["s", "m", "l"], ordered=True
            ),
            "day": pd.Timestamp("2021-03-01")
            + pd.to_timedelta(generator.integers(0, 400, n), unit="D"),
            "wait": pd.to_timedelta(generator.integers(0, 90, n), unit="s"),
            "ok": pd.array(generator.random(n) < 0.2, dtype="boolean"),
            "score": generator.normal(size=n),
        }
    )
    table.loc[generator.random(n) < 0.2, "score"] = np.nan
    table["day"] = table["day"].dt.tz_localize("Europe/Prague")
    table.loc[0, ["town", "income"]] = ["Atlantis", 123456789.0]
    return table


PEOPLE = people()
SCHEMA = infer_schema(PEOPLE)


@pytest.fixture(scope="module")
def marginals():
    return PrivateMarginals.fit(PEOPLE, SCHEMA, DPBudget(1.0, noise_key=1))


def test_the_surrogate_looks_like_the_table(marginals):
    surrogate = marginals.surrogate(6000)
    assert surrogate.dtypes.drop("size").equals(PEOPLE.dtypes.drop("size"))
    assert surrogate["size"].cat.ordered
    assert not TableView.of(surrogate, marginals.schema).invalid.any()
    assert surrogate["score"].isna().mean() == pytest.approx(0.2, abs=0.03)
    assert (surrogate["income"] == 0).mean() == pytest.approx(0.3, abs=0.03)
    assert surrogate["age"].mean() == pytest.approx(PEOPLE["age"].mean(), abs=1.5)
    assert surrogate["score"].std() == pytest.approx(1, abs=0.15)
    shares = surrogate["town"].value_counts(normalize=True)
    assert shares["Bonn"] == pytest.approx(0.6, abs=0.03)
    middle = surrogate["day"].median() - PEOPLE["day"].median()
    assert abs(middle.days) < 25
    assert infer_schema(surrogate).names == SCHEMA.names
    again = PrivateMarginals.fit(PEOPLE, SCHEMA, DPBudget(1.0, noise_key=1))
    assert again.surrogate(50).equals(marginals.surrogate(50))
    assert marginals.surrogate(50, seed=1).equals(marginals.surrogate(50)) is False


def test_one_persons_values_are_not_told(marginals):
    assert "Atlantis" in SCHEMA["town"].categories
    assert marginals.schema["town"].categories == ("Bath", "Bonn", "Brno")
    assert marginals.schema["income"].maximum < 1e6
    text = repr(marginals.schema.to_dict())
    assert "Atlantis" not in text
    assert "123456789" not in text


def test_confined_rows_fit_and_keep_what_fits(marginals):
    confined = marginals.confine(PEOPLE)
    assert not TableView.of(confined, marginals.schema).invalid.any()
    assert confined.loc[0, "town"] in ("Bath", "Bonn", "Brno")
    assert confined.loc[0, "income"] == marginals.schema["income"].maximum
    assert confined["town"][1:].equals(PEOPLE["town"][1:])
    assert confined["score"].isna().equals(PEOPLE["score"].isna())
    assert (confined["age"] == PEOPLE["age"]).mean() > 0.97
    # Each row by itself: the first rows alone come out the same, lots aside.
    assert marginals.confine(PEOPLE[1:100])["age"].tolist() == confined["age"][1:100].tolist()


def test_public_bounds_and_levels_are_kept():
    found = PrivateMarginals.fit(
        PEOPLE,
        SCHEMA,
        DPBudget(0.5, noise_key=2),
        bounds={
            "age": (0, 120),
            "day": (pd.Timestamp("2021-01-01", tz="Europe/Prague"), "2022-12-31"),
        },
        categories={"town": ["Bonn", "Oslo", "Atlantis"]},
    )
    age, day = found.schema["age"], found.schema["day"]
    assert (age.minimum, age.maximum) == (0, 120)
    days = (pd.Timestamp("2021-01-01") - pd.Timestamp(0)).days
    assert day.minimum == days
    assert found.schema["town"].categories == ("Bonn", "Oslo", "Atlantis")
    assert not TableView.of(found.surrogate(300), found.schema).invalid.any()


def test_a_missing_value_appears_only_where_it_may(marginals):
    surrogate = marginals.surrogate(4000)
    assert surrogate.drop(columns="score").notna().all().all()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"bounds": {"agee": (0, 1)}}, "agee"),
        ({"bounds": {"age": (5, 1)}}, "wrong order"),
        ({"bounds": {"age": (0, math.inf)}}, "finite"),
        ({"categories": {"age": ["a"]}}, "no levels"),
        ({"categories": {"town": []}}, "as a list"),
        ({"categories": {"town": "Bonn"}}, "as a list"),
        ({"categories": {"town": [1, 2]}}, "holds text"),
        ({"bounds": {"age": 5}}, "as (low, high)"),
        ({"bounds": {"age": ("young", "old")}}, "as (low, high)"),
    ],
)
def test_bounds_and_levels_that_do_not_fit_are_refused(options, complaint):
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        PrivateMarginals.fit(PEOPLE, SCHEMA, DPBudget(1.0), **options)


def test_too_few_rows_say_what_would_help():
    few = PEOPLE[["town"]][:40]
    with pytest.raises(DataError, match=r"as public, \{'town'"):
        PrivateMarginals.fit(few, infer_schema(few), DPBudget(0.05, noise_key=1))
    few = PEOPLE[["score"]][:40]
    with pytest.raises(DataError, match=r"as public, \{'score'"):
        PrivateMarginals.fit(few, infer_schema(few), DPBudget(0.05, noise_key=1))


def test_neighbouring_tables_are_hardly_told_apart():
    """An audit: no event is exp(epsilon) times as likely, up to delta and the draws' error."""
    epsilon, runs = 1.0, 300
    table = pd.DataFrame({"level": ["a"] * 30 + ["b"] * 12, "x": [1.0] * 30 + [5.0] * 12})
    other = pd.concat([table, pd.DataFrame({"level": ["c"], "x": [900.0]})], ignore_index=True)
    told = []
    for data in (table, other):
        schema = infer_schema(other)
        counts = {"c": 0, "wide": 0}
        for key in range(runs):
            budget = DPBudget(epsilon, delta=0.01, noise_key=key)
            try:
                found = PrivateMarginals.fit(
                    data,
                    schema,
                    budget,
                    bounds={"x": (0, 1000)},
                    categories={"level": list("abc")},
                )
            except DataError:
                continue
            law = found.laws[0].frequencies
            counts["c"] += law[2] > 0
            counts["wide"] += found.laws[1].masses[-200:].sum() > 0.02
        told.append(counts)
    for event in ("c", "wide"):
        shares = [counts[event] / runs for counts in told]
        error = 3 * math.sqrt(max(shares) / runs)
        assert shares[1] <= math.exp(epsilon) * shares[0] + 0.01 + 3 * error
