"""Batches: every row equally often, the same ones for the same seed, from any step on."""

from __future__ import annotations

from itertools import chain, islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scidiffusion.errors import DataError
from scidiffusion.training import Batches, EvaluationBatches


def indices(batches, count: int) -> list[list[int]]:
    return [batch.x[:, 0].int().tolist() for batch in islice(batches, count)]


def rows(count: int) -> torch.Tensor:
    return torch.arange(count, dtype=torch.float32)[:, None]


@given(count=st.integers(1, 20), size=st.integers(1, 25), epochs=st.integers(1, 3))
def test_every_epoch_shows_every_row_once(count, size, epochs):
    batches = Batches(rows(count), batch_size=size, seed=1)
    size = min(size, count)
    assert batches.batch_size == size
    stream = list(chain(*indices(batches, -(-epochs * count // size))))
    for epoch in range(epochs):
        assert sorted(stream[epoch * count : (epoch + 1) * count]) == list(range(count))


@given(count=st.integers(1, 20), size=st.integers(1, 25), start=st.integers(0, 30))
def test_starting_at_step_k_gives_the_batches_from_k_on(count, size, start):
    whole = indices(Batches(rows(count), batch_size=size, seed=5), start + 8)
    assert indices(Batches(rows(count), batch_size=size, seed=5, start=start), 8) == whole[start:]


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seed):
        torch.rand(3)
        return indices(Batches(rows(50), batch_size=50, seed=seed), 3)

    first, second, third = order(0)
    assert first != second != third
    assert order(0) == [first, second, third]
    assert order(1)[0] != first


def test_parts_and_conditions_stay_together():
    data = {"a": rows(30), "b": {"c": rows(30).int().repeat(1, 2)}}
    cond = {"label": torch.arange(30)}
    for batch in islice(Batches(data, cond, batch_size=7), 10):
        assert torch.equal(batch.x["a"][:, 0].int(), batch.cond["label"].int())
        assert torch.equal(batch.x["b"]["c"][:, 1], batch.cond["label"].int())


def test_evaluation_repeats_few_rows_and_takes_some_of_many():
    few = EvaluationBatches(rows(5), batch_size=4, draws=12, seed=0)
    assert len(few) == 3
    assert [batch.start for batch in few] == [0, 4, 8]
    seen = list(chain(*indices(few, 9)))
    assert sorted(seen[:5]) == sorted(seen[5:10]) == list(range(5))
    assert indices(few, 9) == indices(few, 9)
    many = list(chain(*indices(EvaluationBatches(rows(50), batch_size=4, draws=10), 9)))
    assert len(set(many)) == len(many) == 10


@pytest.mark.parametrize(
    ("data", "cond", "complaint"),
    [
        (torch.empty(0, 2), None, "0 rows"),
        ({}, None, "empty dict"),
        (torch.tensor(1.0), None, "no row dimension"),
        ({"a": rows(3), "b": rows(4)}, None, r"data\['b'\] has 4 rows, but data\['a'\] has 3"),
        (rows(3), torch.arange(2), "cond has 2 rows, but data has 3"),
        (rows(3), {"y": torch.arange(2)}, r"cond\['y'\] has 2 rows"),
        ({"a": torch.tensor([[0.0], [torch.nan], [torch.inf]])}, None, r"data\['a'\].*in row 1"),
        ([[1.0]], None, "data must be a tensor or a dict of tensors, got list"),
        (rows(2), [0, 1], "cond must be a tensor"),
    ],
)
def test_unusable_data_is_named(data, cond, complaint):
    with pytest.raises(DataError, match=complaint):
        Batches(data, cond, batch_size=2)


def test_a_real_condition_may_be_absent():
    batch = next(iter(Batches(rows(2), torch.tensor([torch.nan, 1.0]), batch_size=2)))
    assert sorted(batch.cond.isnan().tolist()) == [False, True]
