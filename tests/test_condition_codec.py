"""Conditions of rows: what is a label, what a number, what is missing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from scidiffusion.conditions import ConditionCodec, missing_rows
from scidiffusion.errors import ConditionError, DataError


@pytest.mark.parametrize(
    ("y", "labels"),
    [
        ([3, 1, 3, 2], (1, 2, 3)),
        (["b", "a", "b", "a"], ("a", "b")),
        ([True, False, True, True], (False, True)),
        (pd.Series(["x", "y", "x", "x"], dtype="category"), ("x", "y")),
        (np.array([2, "z", 1, 2], dtype=object), (1, 2, "z")),
    ],
)
def test_labels(y, labels):
    codec = ConditionCodec.infer(y, 4)
    assert codec.labels == labels
    codes = codec.encode(y, 4)
    assert [labels[code] for code in codes.tolist()] == list(y)
    assert codec.encode(labels[1], 3).tolist() == [1, 1, 1]
    assert codec.encode(None, 2).tolist() == [-1, -1]
    assert ConditionCodec.from_dict(codec.to_dict()) == codec
    assert all(codec.parse(str(label)) == label for label in labels)


def test_reals():
    y = np.array([[1.0, 10.0], [3.0, 10.0], [5.0, 10.0]])
    codec = ConditionCodec.infer(y, 3)
    assert codec.labels is None
    scores = codec.encode(y, 3)
    assert torch.allclose(scores.mean(0), torch.zeros(2))
    assert codec.encode([3.0, 10.0], 4).tolist() == [[0, 0]] * 4
    assert bool(codec.encode(None, 2).isnan().all())
    assert codec.encode(codec.parse("3, 10"), 2).tolist() == [[0, 0]] * 2
    with pytest.raises(ConditionError, match="with commas"):
        codec.parse("three")
    with pytest.raises(ConditionError, match="2 finite numbers"):
        codec.encode([[1.0, np.nan]], 1)


@pytest.mark.parametrize(
    ("y", "missing"),
    [
        ([1.0, np.nan, np.inf], [1, 2]),
        (["a", None, "b"], [1]),
        (["a", np.nan, "b"], [1]),
        (pd.Series([1, None, 2], dtype="Int64"), [1]),
        (np.array([[1.0, 2.0], [np.nan, 1.0], [1.0, 1.0]]), [1]),
        ([1, 2, 3], []),
    ],
)
def test_what_is_missing_is_found_and_is_no_label(y, missing):
    assert np.flatnonzero(missing_rows(y)).tolist() == missing
    if missing:
        with pytest.raises(DataError, match="first in row 1"):
            ConditionCodec.infer(y, 3)
        codec = ConditionCodec.infer(y, 3, absent=True) if len(missing) < 2 else None
        if codec is not None:
            codes = codec.encode(y, 3, absent=True)
            absent = codes < 0 if codec.labels else codes.isnan().all(1)
            assert absent.tolist() == [index in missing for index in range(3)]


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([1, 2], "one condition a row"),
        (["a", "a", "a"], "single class"),
        ([None, None, None], "no condition in any row"),
        (np.array([(1, 2), 3, 4], dtype=object), "must be integers, strings or booleans"),
        ([["a", "b"], ["a", "c"], ["d", "e"]], "must be real numbers"),
    ],
)
def test_bad_conditions(y, message):
    with pytest.raises(DataError, match=message):
        ConditionCodec.infer(y, 3, absent=True)


def test_an_unknown_label_is_named_and_long_lists_are_cut():
    codec = ConditionCodec.infer(list(range(50)), 50)
    with pytest.raises(ConditionError, match=r"unknown label 99; known are 0, 1, .*, 11, \.\.\.$"):
        codec.encode([99], 1)
    with pytest.raises(ConditionError, match="2 conditions for 3 rows"):
        codec.encode([1, 2], 3)
