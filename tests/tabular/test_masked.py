"""The masked method: codes, mixtures, and revealing columns under conditions, each exactly."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import integrate, stats

from scidiffusion.core.masking import MaskingProcess
from scidiffusion.core.rng import KeyedNoise
from scidiffusion.tabular import masked_sampling
from scidiffusion.tabular.codebook import LevelBook, NumberBook
from scidiffusion.tabular.inference import infer_schema
from scidiffusion.tabular.masked_codec import MaskedCodec, frequencies_for
from scidiffusion.tabular.masked_network import (
    MaskedLayout,
    MaskedTableDenoiser,
    MaskedTableNetwork,
)
from scidiffusion.tabular.masked_sampling import Restriction, reveal
from scidiffusion.tabular.mixtures import Mixture, pick

# ------------------------------------------------------------------------ codes


def test_levels_and_their_buckets() -> None:
    rng = np.random.default_rng(0)
    levels = np.minimum(rng.geometric(0.002, 50_000) - 1, 4999)
    levels[::100] = -1
    book = LevelBook.fit(levels, 5000, max_codes=200)
    assert book.codes <= 200
    codes = book.encode(levels)
    assert (codes[levels < 0] == book.codes).all()
    back = book.decode(codes, rng.random(len(codes)))
    assert ((back < 0) == (levels < 0)).all()
    # A bucket's levels come back by frequency: the marginal law of the levels is kept.
    frequency = np.bincount(levels[levels >= 0], minlength=5000) / (levels >= 0).sum()
    again = np.bincount(back[back >= 0], minlength=5000) / (back >= 0).sum()
    assert np.abs(frequency - again).sum() < 0.2
    own = np.flatnonzero(np.bincount(book.code_of_level)[book.code_of_level] == 1)
    kept = np.isin(levels, own)
    assert (back[kept] == levels[kept]).all()
    assert np.allclose(np.bincount(book.code_of_level, weights=book.frequency), 1)
    rare = int(levels.max())
    chosen = np.array([0, 1, rare, -1])
    shares = book.allowed(chosen)
    assert shares[book.codes] == 1
    assert 0 < shares[book.code_of_level[rare]] < 1
    some = book.restricted(np.array([rare])).decode(
        np.full(100, book.code_of_level[rare]), rng.random(100)
    )
    assert (some == rare).all()


def test_spikes_are_atoms_and_the_rest_is_normal() -> None:
    rng = np.random.default_rng(0)
    numbers = np.where(rng.random(5000) < 0.4, 0.0, rng.gamma(2.0, size=5000))
    numbers[:300] = 9.99
    numbers[300:400] = np.nan
    book = NumberBook.fit(numbers[~np.isnan(numbers)])
    assert book.atoms.tolist() == [0.0, 9.99]
    codes, values = book.encode(numbers)
    assert (codes[numbers == 0.0] == 0).all()
    assert (codes[np.isnan(numbers)] == 3).all()
    rest = codes == book.continuous
    assert stats.kstest(values[rest], "norm").pvalue > 0.1
    np.testing.assert_allclose(book.decode(codes, values), numbers, atol=0.02)
    assert book.atom_scores[0] < -2


def test_few_values_are_all_atoms() -> None:
    numbers = np.repeat([1.0, 2.0, 5.0], 100)
    book = NumberBook.fit(numbers)
    assert book.continuous == -1
    codes, values = book.encode(np.array([1.0, 4.9, 5.0, np.nan]))
    assert codes.tolist() == [0, 2, 2, 3]
    assert np.all(np.diff(book.atom_scores) > 0)
    assert values[3] == 0


def test_intervals_of_numbers_become_intervals_of_scores() -> None:
    rng = np.random.default_rng(0)
    numbers = np.round(rng.normal(size=4000), 2)
    numbers[:400] = 1.0
    book = NumberBook.fit(numbers)
    weights = np.zeros(book.codes)
    scores = book.restrict(np.array([[0.5, 1.0]]), 0.01, weights)
    assert weights.tolist() == [1.0, 1.0]
    low, high = scores[0]
    drawn = np.round(book.decode(np.full(200, 1), np.linspace(low, high, 200)), 2)
    assert drawn.min() >= 0.5
    # The very end of the interval may round to the next number, which decoding moves back.
    assert np.mean(drawn > 1.0) <= 0.005
    weights = np.zeros(book.codes)
    book.restrict(np.array([[2.0, 2.5]]), 0.01, weights)
    assert weights.tolist() == [0.0, 1.0]


def test_the_codec_keeps_tables() -> None:
    table = pd.DataFrame(
        {
            "x": np.random.default_rng(0).normal(size=500).round(3),
            "level": pd.Categorical(["a", "b", None, "c", "a"] * 100),
            "few": [1, 2, 3, 4, 5] * 100,
            "when": pd.date_range("2024-01-01", periods=500, freq="h", tz="Europe/Paris"),
        }
    )
    codec = MaskedCodec(infer_schema(table)).fit(table)
    pd.testing.assert_frame_equal(codec.decode(codec.encode(table)), table)
    config, arrays = codec.state()
    twin = MaskedCodec.from_state(config, arrays)
    pd.testing.assert_frame_equal(twin.decode(twin.encode(table)), table)
    assert twin.layout == codec.layout


# --------------------------------------------------------------------- mixtures


@pytest.fixture
def mixture() -> Mixture:
    generator = torch.Generator().manual_seed(0)
    return Mixture(torch.randn(2, 3, 4, generator=generator) * torch.tensor([[1.0], [1.5], [0.5]]))


def test_mixtures_are_densities(mixture) -> None:
    def density(z: float, row: int) -> float:
        return float(mixture.log_prob(torch.full((2,), z))[row].exp())

    for row in range(2):
        assert integrate.quad(density, -12, 12, (row,), limit=200)[0] == pytest.approx(1, abs=1e-5)
        mass = mixture.mass(torch.tensor([[-0.5, 0.7], [1.0, 1.1]]))[row].sum(-1)
        for value, (low, high) in zip(mass, [(-0.5, 0.7), (1.0, 1.1)], strict=True):
            assert float(value) == pytest.approx(
                integrate.quad(density, low, high, (row,))[0], abs=1e-5
            )


@pytest.mark.parametrize("cut", [None, [[-0.5, 0.7], [1.5, 9.0]], [[4.0, 9.0]]])
def test_mixtures_are_drawn_from_exactly(mixture, cut) -> None:
    rows = 20_000
    many = Mixture.__new__(Mixture)
    for name in ("log_weight", "mean", "log_std"):
        setattr(many, name, getattr(mixture, name)[:1].expand(rows, -1))
    uniform = torch.rand(2, rows, generator=torch.Generator().manual_seed(1))
    intervals = None if cut is None else torch.tensor(cut)
    drawn = many.sample(uniform[0], uniform[1], intervals).double().numpy()

    def cdf(z: float) -> float:
        weight, mean, std = (
            t[0].double().numpy() for t in (many.log_weight.exp(), many.mean, many.log_std.exp())
        )
        return float((weight * stats.norm.cdf((z - mean) / std)).sum())

    pieces = [[-30.0, 30.0]] if cut is None else cut
    total = sum(cdf(high) - cdf(low) for low, high in pieces)
    grid = np.linspace(-6, 9, 400)
    exact = [
        sum(cdf(min(z, high)) - cdf(low) for low, high in pieces if z > low) / total for z in grid
    ]
    empirical = np.searchsorted(np.sort(drawn), grid, side="right") / rows
    assert np.abs(empirical - exact).max() < 0.015


def test_pick_never_takes_what_has_no_weight() -> None:
    weights = torch.tensor([[0.0, 0.2, 0.0, 0.8, 0.0]]).expand(10_001, -1)
    uniform = torch.linspace(0, 1 - 2**-24, 10_001)
    drawn = pick(weights, uniform)
    assert set(drawn.tolist()) == {1, 3}
    assert float((drawn == 1).double().mean()) == pytest.approx(0.2, abs=1e-3)


# ---------------------------------------------------------------------- network


def test_more_rows_let_the_network_see_numbers_more_finely() -> None:
    counts = [frequencies_for(rows) for rows in (10, 700, 3500, 10_000, 16_000, 10**6)]
    assert counts == [2, 2, 4, 5, 6, 6]
    table = pd.DataFrame({"x": np.random.default_rng(0).normal(size=300)})
    codec = MaskedCodec(infer_schema(table)).fit(table)
    assert codec.layout.frequencies == 2
    config, arrays = codec.state()
    assert MaskedCodec.from_state(config, arrays).layout == codec.layout
    # Models that were saved before the number was.
    del config["frequencies"]
    assert MaskedCodec.from_state(config, arrays).layout.frequencies == 6


LAYOUT = MaskedLayout((3, 4, 1, 2), (1, 2), (2, 0), ((-1.0, 1.0, 0.0, 0.0), (0.0,)))


@pytest.fixture
def network() -> MaskedTableNetwork:
    torch.manual_seed(0)
    network = MaskedTableNetwork(LAYOUT, width=16, blocks=2, components=3).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def rows_of(n: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    codes = torch.stack([torch.randint(0, k, (n,), generator=generator) for k in (3, 4, 1, 2)], 1)
    return {"codes": codes, "values": torch.randn(n, 2, generator=generator)}


def test_laws_and_log_probabilities_agree(network) -> None:
    rows = rows_of(50)
    hidden = torch.rand(50, 4, generator=torch.Generator().manual_seed(2)) < 0.5
    with torch.no_grad():
        features = network(rows["codes"], rows["values"], hidden)
        together = network.log_prob(features, rows["codes"], rows["values"])
        for column in range(4):
            probabilities, mixture = network.law(features, column)
            torch.testing.assert_close(probabilities.sum(1), torch.ones(50))
            assert probabilities.shape[1] == LAYOUT.cardinalities[column]
            alone = probabilities.gather(1, rows["codes"][:, [column]])[:, 0].log()
            if mixture is not None:
                place = network.place(column)
                density = mixture.log_prob(rows["values"][:, place])
                dense = rows["codes"][:, column] == LAYOUT.continuous[place]
                alone = alone + torch.where(dense, density, 0.0)
            torch.testing.assert_close(together[:, column], alone, atol=1e-5, rtol=1e-5)


def test_hidden_columns_are_not_looked_at(network) -> None:
    rows, other = rows_of(20), rows_of(21)
    hidden = torch.zeros(20, 4, dtype=torch.bool)
    hidden[:, [1, 3]] = True
    changed = {name: value.clone() for name, value in rows.items()}
    changed["codes"][:, [1, 3]] = other["codes"][:20, [1, 3]]
    changed["values"][:, 0] = 7.0
    with torch.no_grad():
        first, second = (
            network(part["codes"], part["values"], hidden) for part in (rows, changed)
        )
    assert torch.equal(first, second)


def test_showing_a_column_is_entering_with_it_shown(network) -> None:
    rows = rows_of(30)
    hidden = torch.ones(30, 4, dtype=torch.bool)
    with torch.no_grad():
        x = network.enter(rows["codes"], rows["values"], hidden)
        for column in (2, 0, 3, 1):
            place = network.place(column)
            values = torch.zeros(30) if place is None else rows["values"][:, place]
            x = network.show(x, column, rows["codes"][:, column], values)
            hidden[:, column] = False
            torch.testing.assert_close(
                x, network.enter(rows["codes"], rows["values"], hidden), atol=1e-5, rtol=1e-5
            )


def test_the_untrained_network_knows_the_marginals() -> None:
    marginals = [torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.1, 0.2, 0.3, 0.4])]
    marginals += [torch.ones(1), torch.tensor([0.9, 0.1])]
    network = MaskedTableNetwork(LAYOUT, width=8, log_marginals=[m.log() for m in marginals])
    rows = rows_of(5)
    with torch.no_grad():
        features = network(rows["codes"], rows["values"], torch.ones(5, 4, dtype=torch.bool))
        for column, marginal in enumerate(marginals):
            law, _ = network.law(features, column)
            torch.testing.assert_close(law, marginal.expand(5, -1))


def test_bf16_follows_the_weights(network) -> None:
    network.bf16 = True
    rows, hidden = rows_of(10), torch.ones(10, 4, dtype=torch.bool)
    with torch.no_grad():
        before = network(rows["codes"], rows["values"], hidden)
        for parameter in network.blocks.parameters():
            parameter.add_(0.5)
        after = network(rows["codes"], rows["values"], hidden)
    assert not torch.allclose(before, after, atol=0.05)


# --------------------------------------------------------------------- revealing


class OracleNetwork:
    """The exact conditionals of a joint law of levels, with the network's interface."""

    def __init__(self, joint: np.ndarray) -> None:
        self.joint = joint
        codes = tuple(joint.shape)
        self.layout = MaskedLayout(codes, (), (), ())

    def enter(self, codes, values, hidden) -> torch.Tensor:
        return torch.where(hidden, -1, codes).float()

    def show(self, x, column, codes, values) -> torch.Tensor:
        x = x.clone()
        x[:, column] = codes.float()
        return x

    def sampling_blocks(self) -> None:
        return None

    def trunk(self, x, blocks=None) -> torch.Tensor:
        self.rows = getattr(self, "rows", 0) + len(x)
        return x

    def place(self, column) -> None:
        return None

    def law(self, features, column) -> tuple[torch.Tensor, None]:
        laws = {}
        for key in {tuple(row) for row in features.int().tolist()}:
            rest = self.joint[tuple(slice(None) if v < 0 else slice(v, v + 1) for v in key)]
            law = rest.sum(tuple(k for k in range(rest.ndim) if k != column))
            laws[key] = law / law.sum()
        rows = [laws[tuple(row)] for row in features.int().tolist()]
        return torch.tensor(np.array(rows)), None


class OracleDenoiser:
    def __init__(self, joint: np.ndarray) -> None:
        self.network = OracleNetwork(joint)
        self.process = MaskingProcess(joint.ndim)


@pytest.fixture(scope="module")
def joint() -> np.ndarray:
    weights = np.random.default_rng(3).random((3, 4, 2, 3)) ** 4
    return weights / weights.sum()


def empirical(codes: torch.Tensor, shape: tuple[int, ...]) -> np.ndarray:
    index = np.ravel_multi_index(tuple(codes.numpy().T), shape)
    return np.bincount(index, minlength=int(np.prod(shape))).reshape(shape) / len(codes)


def run(joint: np.ndarray, shown: dict[int, int], n: int = 20_000, **options) -> np.ndarray:
    state = {"codes": torch.zeros(n, joint.ndim, dtype=torch.long), "values": torch.zeros(n, 0)}
    hidden = torch.ones(n, joint.ndim, dtype=torch.bool)
    for column, code in shown.items():
        state["codes"][:, column], hidden[:, column] = code, False
    drawn = reveal(OracleDenoiser(joint), state, hidden, KeyedNoise(0), **options)
    return empirical(drawn["codes"], joint.shape)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).sum() / 2)


def test_revealing_is_exact(joint) -> None:
    assert distance(run(joint, {}), joint) < 0.03


@pytest.mark.parametrize("shown", [{0: 1}, {1: 2, 3: 0}, {0: 0, 1: 1, 2: 1}])
def test_given_values_are_conditioned_on_exactly(joint, shown) -> None:
    exact = np.zeros_like(joint)
    index = tuple(shown.get(j, slice(None)) for j in range(4))
    exact[index] = joint[index]
    assert distance(run(joint, shown), exact / exact.sum()) < 0.03


def test_sets_are_conditioned_on_exactly(joint) -> None:
    """One set by cutting its law, several by importance resampling, beside a given value."""
    for allowed in ({1: [0, 3]}, {1: [0, 3], 0: [2, 1]}, {0: [0, 1], 1: [1, 2], 3: [2]}):
        exact = joint.copy()
        cuts = {}
        for column, codes in allowed.items():
            weights = np.zeros(joint.shape[column])
            weights[codes] = 1
            cuts[column] = Restriction(torch.from_numpy(weights))
            exact *= weights.reshape([-1 if k == column else 1 for k in range(4)])
        exact[:, :, 1] = 0
        drawn = run(joint, {2: 0}, restrictions=cuts, candidates=64)
        assert distance(drawn, exact / exact.sum()) < 0.035
        for column, codes in allowed.items():
            law = drawn.sum(tuple(k for k in range(4) if k != column))
            assert set(np.flatnonzero(law)) <= set(codes)


def test_one_candidate_is_not_enough(joint) -> None:
    """What importance resampling repairs: without it, later cuts do not reach earlier draws."""
    cuts = {
        0: Restriction(torch.tensor([1.0, 1, 0])),
        1: Restriction(torch.tensor([1.0, 0, 0, 0])),
    }
    exact = joint.copy()
    exact[2], exact[:, 1:] = 0, 0
    exact /= exact.sum()
    many = distance(run(joint, {}, restrictions=cuts, candidates=64), exact)
    one = distance(run(joint, {}, restrictions=cuts, candidates=1), exact)
    assert many < 0.03 < one


def test_rows_are_their_own(joint) -> None:
    """A row's draw depends on its number alone, not on what else is in the batch or given."""
    denoiser = OracleDenoiser(joint)
    state = {"codes": torch.zeros(512, 4, dtype=torch.long), "values": torch.zeros(512, 0)}
    hidden = torch.rand(512, 4, generator=torch.Generator().manual_seed(0)) < 0.7
    whole = reveal(denoiser, state, hidden, KeyedNoise(5))["codes"]
    second = {name: value[256:] for name, value in state.items()}
    part = reveal(denoiser, second, hidden[256:], KeyedNoise(5, start=256))["codes"]
    assert torch.equal(whole[256:], part)
    assert torch.equal(whole[~hidden], state["codes"][~hidden])


def test_small_samples_have_many_orders_and_orders_depend_on_the_row_alone() -> None:
    own, shared = masked_sampling.OWN_ORDERS, masked_sampling.SHARED_ORDER
    first = masked_sampling._leaders(0, own + 2 * shared)
    assert torch.equal(first[:own], torch.arange(own))
    assert first[own:].tolist() == [own] * shared + [own + shared] * shared
    for start in (0, 1024, own - shared, own):
        rows = 2 * shared
        part = masked_sampling._leaders(start, rows)
        assert torch.equal(part + start, first[start : start + rows])


def test_rows_that_look_alike_are_evaluated_once(joint, network) -> None:
    """With nothing shown, all rows are one; after a code of K of one column, they are K."""
    denoiser = OracleDenoiser(joint)
    state = {"codes": torch.zeros(1000, 4, dtype=torch.long), "values": torch.zeros(1000, 0)}
    reveal(denoiser, state, torch.ones(1000, 4, dtype=torch.bool), KeyedNoise(0))
    # 1, then 3 + 4 + 2 + 3, then at most 12 pairs of each two columns, then all rows.
    assert denoiser.network.rows < 1 + 12 + 6 * 12 + 1000
    # The numbers of the last rows are given, so that no row counts as alike: the others' draws
    # are the same.
    hidden = torch.ones(512, 4, dtype=torch.bool)
    alike = reveal(MaskedTableDenoiser(network), rows_of(512), hidden, KeyedNoise(0))
    hidden[256:, 1:3] = False
    apart = reveal(MaskedTableDenoiser(network), rows_of(512), hidden, KeyedNoise(0))
    assert torch.equal(alike["codes"][:256], apart["codes"][:256])
    torch.testing.assert_close(alike["values"][:256], apart["values"][:256])


def test_forbidden_codes_are_not_drawn(joint) -> None:
    drawn = run(joint, {}, n=2000, forbidden={3: 2})
    assert drawn[..., 2].sum() == 0


def test_numbers_stay_in_their_intervals(network) -> None:
    denoiser = MaskedTableDenoiser(network)
    rows = rows_of(300)
    hidden = torch.ones(300, 4, dtype=torch.bool)
    intervals = torch.tensor([[-0.3, 0.1], [2.0, 2.5]])
    cuts = {
        2: Restriction(torch.ones(1, dtype=torch.float64), intervals),
        1: Restriction(torch.tensor([0.0, 1, 1, 0], dtype=torch.float64), intervals[:1]),
    }
    drawn = reveal(denoiser, rows, hidden, KeyedNoise(0), restrictions=cuts)
    z = drawn["values"][:, 1]
    assert bool((((z >= -0.3) & (z <= 0.1)) | ((z >= 2.0) & (z <= 2.5))).all())
    codes, first = drawn["codes"][:, 1], drawn["values"][:, 0]
    assert set(codes.tolist()) <= {1, 2}
    assert bool(((first >= -0.3) & (first <= 0.1))[codes == 2].all())
    assert bool((first[codes == 1] == 1.0).all())


def test_all_orders_reach_all_columns() -> None:
    """Every column is drawn exactly once whatever is shown, in one step or in many."""
    joint = np.full((2, 2, 2), 1 / 8)
    for shown, steps in itertools.product(({}, {0: 1}), (None, 1, 2)):
        drawn = run(joint, shown, n=4000, steps=steps)
        given = drawn[1] if shown else drawn
        assert np.abs(given - given.mean()).max() < 0.03
