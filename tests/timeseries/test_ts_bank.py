"""The bank: windows are the right cells of the right item, in units that lose no digits."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from scidiffusion.errors import DataError
from scidiffusion.timeseries.bank import SeriesBank, Standards
from scidiffusion.timeseries.series import Series, SeriesSet
from scidiffusion.timeseries.splits import latest_windows, split_windows

START = pd.Period("2020-01-01 00:00", freq="h")


def ordinals(index):
    """A calendar that names the step."""
    return np.asarray(index.asi8, dtype=np.float32)[None] - START.ordinal


def item(length, dim=2, offset=0.0, start=START, **options):
    steps, series = np.arange(length), np.arange(dim)[:, None]
    target = offset + 100.0 * series + steps + series * steps**2
    return Series(target, start, **options)


def bank_of(*items, horizon=3):
    series = SeriesSet(list(items), "h")
    return SeriesBank(series, Standards.of(series), ordinals, horizon)


def test_windows_are_the_right_cells_and_flag_those_outside():
    items = [item(10), item(6, offset=1000.0, start=START + 50), item(12, offset=-7.0)]
    bank = bank_of(*items)
    index, end = torch.tensor([0, 1, 2, 1, 0]), torch.tensor([4, 6, 12, 1, 10])
    window = bank.windows(index, end, 5, 3)
    assert (window.back, window.ahead) == (5, 3)
    restored = bank.restore(index, window.value)
    for row in range(5):
        source, origin = items[int(index[row])], int(end[row])
        for column, step in enumerate(range(origin - 5, origin + 3)):
            inside = 0 <= step < source.length
            assert window.observed[row, :, column].tolist() == [inside] * 2
            if inside:
                np.testing.assert_allclose(
                    restored[row, :, column], source.target[:, step], rtol=1e-6, atol=1e-5
                )
            else:
                assert (window.value[row, :, column] == 0).all()
            if 0 <= step < source.length + 3:
                stamp = float(window.calendar[row, 0, column])
                assert stamp == source.start.ordinal - START.ordinal + step
            else:
                assert float(window.calendar[row, 0, column]) == 0


def test_every_item_has_room_for_one_horizon_and_not_for_more():
    bank = bank_of(item(4), item(5), horizon=3)
    window = bank.windows(torch.tensor([0]), torch.tensor([4]), 2, 5)
    assert (window.calendar[0, 0, 1:5] != 0).all()
    assert (window.calendar[0, 0, 5:] == 0).all()
    # The next item's first cells, which come next in memory, do not leak in.
    assert not window.observed[0, :, 2:].any()


def test_a_part_of_the_series_is_those_rows():
    bank = bank_of(item(8, dim=4))
    whole = bank.windows(torch.tensor([0]), torch.tensor([5]), 4, 2)
    part = bank.windows(torch.tensor([0]), torch.tensor([5]), 4, 2, torch.tensor([3, 1]))
    assert torch.equal(part.value, whole.value[:, [3, 1]])
    assert torch.equal(part.observed, whole.observed[:, [3, 1]])
    assert part.series.tolist() == [3, 1]
    assert not torch.equal(part.value[:, 0], whole.value[:, 0])


def test_restore_and_standardise_are_inverse_with_and_without_paths():
    rng = np.random.default_rng(0)
    items = [Series(rng.normal(5, scale, (3, 20)), START) for scale in (1e-6, 3.0, 1e8)]
    bank = bank_of(*items)
    index = torch.tensor([2, 0, 1, 0])
    for shape in ((4, 3, 6), (4, 7, 3, 6)):
        value = torch.from_numpy(rng.normal(size=shape))
        data = bank.restore(index, value)
        assert data.dtype == torch.float64
        np.testing.assert_allclose(bank.standardise(index, data), value, rtol=1e-6, atol=1e-9)
    unit = bank.standardise(torch.tensor([1]), torch.from_numpy(items[1].target)[None])
    np.testing.assert_allclose(unit.mean(-1), 0, atol=1e-12)
    np.testing.assert_allclose(unit.std(-1, correction=0), 1, rtol=1e-12)


@pytest.mark.parametrize(
    ("level", "noise"), [(1e9, 1.0), (-1e9, 0.01), (1e12, 1.0), (1e-9, 1e-12)]
)
def test_a_small_signal_on_a_large_level_keeps_its_digits(level, noise):
    signal = np.random.default_rng(0).normal(size=(1, 200)) * noise
    series = Series(level + signal, START)
    bank = bank_of(series)
    window = bank.windows(torch.tensor([0]), torch.tensor([200]), 200, 3)
    restored = bank.restore(torch.tensor([0]), window.value)[0, 0, :200].numpy()
    # Single precision of the signal, and what float64 has left beside the level.
    tolerance = 1e-6 * noise + 4 * np.finfo(float).eps * abs(level)
    np.testing.assert_allclose(restored, series.target[0], rtol=0, atol=tolerance)
    assert float(window.value[0, 0, :200].std()) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("level", [0.0, 0.1, -3.7e11, 1e-7])
def test_a_constant_series_stays_constant_and_finite(level):
    series = Series(np.full((1, 37), level), START)
    bank = bank_of(series)
    window = bank.windows(torch.tensor([0]), torch.tensor([37]), 37, 3)
    assert float(window.value.abs().max()) < 1e-6
    assert float(bank.spread[0, 0]) == pytest.approx(max(abs(level), 1.0))
    restored = bank.restore(torch.tensor([0]), window.value)[0, 0, :37]
    np.testing.assert_allclose(restored, level, rtol=1e-12, atol=1e-300)


def test_gaps_do_not_count_and_are_flagged():
    target = np.array([[1.0, np.nan, 3.0, np.nan, 5.0], [np.nan] * 5])
    bank = bank_of(Series(target, START))
    assert float(bank.level[0, 0]) == pytest.approx(3.0)
    assert float(bank.spread[0, 0]) == pytest.approx(np.std([1.0, 3.0, 5.0]))
    assert (float(bank.level[0, 1]), float(bank.spread[0, 1])) == (0.0, 1.0)
    window = bank.windows(torch.tensor([0]), torch.tensor([5]), 5, 1)
    assert window.observed[0, 0].tolist() == [True, False, True, False, True, False]
    assert not window.observed[0, 1].any()
    assert (window.value[~window.observed] == 0).all()


def test_covariates_are_standardised_over_the_training_series_and_known_over_the_horizon():
    rng = np.random.default_rng(1)
    known, past = rng.normal(7, 3, (2, 23)), rng.normal(-2, 0.1, (1, 20))
    past[0, 4] = np.nan
    train = Series(rng.normal(size=(1, 20)), START, known=known, past=past, static_real=[4.0])
    bank = bank_of(train, horizon=3)
    window = bank.windows(torch.tensor([0]), torch.tensor([20]), 20, 3)
    mean, std = known[:, :20].mean(1), known[:, :20].std(1)
    expected = (known - mean[:, None]) / std[:, None]
    np.testing.assert_allclose(window.known[0], expected, rtol=1e-4, atol=1e-5)
    assert not window.past_observed[0, 0, [4, 20, 21, 22]].any()
    assert int(window.past_observed.sum()) == 19
    assert (window.past[~window.past_observed] == 0).all()
    expected = (past[0, 5] - np.nanmean(past)) / np.nanstd(past)
    assert float(window.past[0, 0, 5]) == pytest.approx(expected, rel=1e-4)
    # A constant covariate or property does not divide by zero.
    assert float(window.static_real[0, 0]) == 0


def test_past_covariates_that_reach_beyond_the_target_do_not_move_what_follows():
    longer = Series(np.arange(6.0)[None], START, past=np.arange(10.0)[None])
    other = Series(np.arange(6.0)[None], START, past=50 + np.arange(6.0)[None])
    bank = bank_of(longer, other, horizon=2)
    alone = SeriesBank(
        SeriesSet([other], "h"), Standards.of(SeriesSet([longer, other], "h")), ordinals, 2
    )
    end = torch.tensor([6])
    ours = bank.windows(torch.tensor([1]), end, 6, 2)
    theirs = alone.windows(torch.tensor([0]), end, 6, 2)
    assert torch.equal(ours.past, theirs.past)
    assert torch.equal(ours.past_observed, theirs.past_observed)
    first = bank.windows(torch.tensor([0]), end, 6, 2)
    assert first.past_observed[0, 0].tolist() == [True] * 6 + [False] * 2


# --- which windows ---------------------------------------------------------------------------


def test_no_training_target_reaches_into_the_held_out_part_of_few_series():
    length = torch.tensor([100, 60, 9])
    train, held = split_windows(length, 8, 10, 0.2, seed=0)
    for index, size in enumerate(length.tolist()):
        ours, theirs = train.end[train.item == index], held.end[held.item == index]
        assert len(ours)
        assert len(theirs)
        assert int(theirs.max()) + 8 == size
        assert int(ours.min()) >= 1
        if size > 30:
            assert int(ours.max()) + 8 <= int(theirs.min())


def test_whole_items_are_held_out_where_there_are_many():
    length = torch.full((40,), 50)
    train, held = split_windows(length, 5, 10, 0.1, seed=3)
    ours, theirs = set(train.item.tolist()), set(held.item.tolist())
    assert len(theirs) == 4
    assert not ours & theirs
    assert ours | theirs == set(range(40))
    assert int(train.end.max()) == 45


def test_series_too_short_for_a_window_are_left_out_or_refused():
    train, _ = split_windows(torch.tensor([5, 30]), 5, 10, 0.1, seed=0)
    assert set(train.item.tolist()) == {1}
    with pytest.raises(DataError, match=r"too short.*5 steps.*at least 6"):
        split_windows(torch.tensor([5, 3]), 5, 10, 0.1, seed=0)
    with pytest.raises(DataError, match="prediction_length = 5"):
        latest_windows(torch.tensor([5]), [0], 5)
    assert latest_windows(torch.tensor([20]), [0], 5).end.tolist() == [10, 11, 12, 13, 14, 15]


def test_a_choice_of_windows_is_seeded_and_without_repetition():
    rows, _ = split_windows(torch.tensor([500]), 5, 10, 0.0, seed=0)
    picked = rows.pick(50, 1)
    assert len(picked) == 50 == len(set(picked.end.tolist()))
    assert torch.equal(picked.end, rows.pick(50, 1).end)
    assert not torch.equal(picked.end, rows.pick(50, 2).end)
    assert rows.pick(10_000, 0) is rows
