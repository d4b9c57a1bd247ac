"""Identifiers: found, never copied, unique, and made up row by row."""

from __future__ import annotations

import json
import random
import re
import string
import uuid

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scidiffusion.errors import ConfigError, DataError, ModelFileError, SchemaError
from scidiffusion.tabular.free_numbers import FreeCells
from scidiffusion.tabular.identifiers import IdentifierGenerator, identifier_reason
from scidiffusion.tabular.inference import infer_column
from scidiffusion.tabular.permutations import permuted, uniform
from scidiffusion.tabular.schema import ColumnKind, ColumnSchema

N = 600


def _word(rng, low, high):
    return "".join(rng.choice("abcdefghijklm") for _ in range(rng.randint(low, high)))


def _uuid(rng):
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


RNG = random.Random(5)
NP = np.random.default_rng(5)
PATTERNS = {
    "sequence": (pd.Series(range(1, N + 1)), r"[1-9]\d{2,4}"),
    "shuffled": (pd.Series(NP.permutation(N) + 70_000), r"\d{5}"),
    "random": (pd.Series(NP.choice(9 * 10**8, N, replace=False) + 10**8), r"[1-9]\d{8}"),
    "negative": (pd.Series(-NP.choice(10**7, N, replace=False)), r"-?\d{1,8}"),
    "Int32": (pd.Series(range(5, N + 5), dtype="Int32").mask(NP.random(N) < 0.2), r"\d{3,5}"),
    "float": (pd.Series(range(5, N + 5)).mask(NP.random(N) < 0.2), r"\d{3,5}\.0"),
    "uint64": (pd.Series(np.uint64(2**63) + np.arange(N, dtype="uint64")), r"\d{19,20}"),
    "object": (pd.Series(range(N), dtype=object), r"\d{3,5}"),
    "padded": (pd.Series([f"C{k:05d}" for k in range(N)]), r"C\d{5}"),
    "plain": (pd.Series([f"user{k}" for k in range(N)]), r"user\d{1,7}"),
    "dense": (pd.Series([f"{k:03d}" for k in NP.choice(1000, N, replace=False)]), r"\d{3,5}"),
    "uuid": (
        pd.Series([_uuid(RNG) for _ in range(N)], dtype="string"),
        r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
    ),
    "hex": (pd.Series([f"{RNG.getrandbits(64):016X}" for _ in range(N)]), r"[0-9A-F]{16}"),
    "email": (
        pd.Series([f"{_word(RNG, 4, 7)}.{k}@mail{k % 3}.org" for k in range(N)]),
        r"[a-z]+\.\d+@mail[012]\.org",
    ),
    "name": (
        pd.Series([f"{_word(RNG, 3, 6)} {_word(RNG, 5, 8)}".title() for _ in range(N)]),
        r"[A-Z][a-z]+ [A-Z][a-z]+\d*",
    ),
    "greek": (
        pd.Series(["".join(RNG.choice("αβγδεζηθικλ") for _ in range(7)) for _ in range(N)]),
        r"[α-ω]{7}\d*",
    ),
    "category": (pd.Series([f"k{k:04d}" for k in range(N)], dtype="category"), r"k\d{4}"),
    "marked": (pd.Series([f"k{k:04d}" if k % 3 else None for k in range(N)]), r"k\d{4}"),
    "arrow": (pd.Series(range(N)).astype("int64[pyarrow]"), r"\d{3,5}"),
    "arrow text": (
        pd.Series([f"k{k:04d}" for k in range(N)]).astype("large_string[pyarrow]"),
        r"k\d{4}",
    ),
    "free text": (
        pd.Series(
            [" ".join(_word(RNG, 1, 9) for _ in range(RNG.randint(9, 30))) for _ in range(N)]
        ),
        r"[a-z]{8,24}",
    ),
}


def fitted(series, seed=0):
    return IdentifierGenerator.fit(
        series, infer_column(series.rename("key"), ColumnKind.IDENTIFIER), seed=seed
    )


@pytest.mark.parametrize("name", PATTERNS)
def test_values_are_new_unique_and_of_the_pattern(name):
    series, pattern = PATTERNS[name]
    made = fitted(series).generate(range(3 * N), seed=3)
    assert made.name == "key"
    if name != "category":
        assert made.dtype == series.dtype
    present = made.dropna()
    assert present.is_unique
    assert not set(present.astype(object)) & set(series.dropna().astype(object))
    wrong = [text for text in present.astype(str) if not re.fullmatch(pattern, text)]
    assert wrong == []
    assert abs(made.isna().mean() - series.isna().mean()) < 0.05


@pytest.mark.parametrize("name", PATTERNS)
def test_a_row_has_its_value_whatever_is_drawn_beside_it(name):
    generator = fitted(PATTERNS[name][0])
    copy = IdentifierGenerator.from_json(json.loads(json.dumps(generator.to_json())))
    whole = generator.generate(range(500), seed=7).astype(object)
    parts = [copy.generate(range(k, k + 125), seed=7).astype(object) for k in (375, 0, 250, 125)]
    joined = pd.concat([parts[1], parts[3], parts[2], parts[0]], ignore_index=True)
    pd.testing.assert_series_equal(joined, whole)
    other = generator.generate(range(500), seed=8).astype(object)
    assert not other.equals(whole)


@pytest.mark.parametrize("name", ["random", "uuid", "email", "name", "hex"])
def test_other_seeds_have_other_values_where_there_are_many(name):
    generator = fitted(PATTERNS[name][0])
    first, second = (set(generator.generate(range(500), seed=k)) for k in (1, 2))
    assert not first & second


@pytest.mark.parametrize("name", PATTERNS)
def test_no_training_value_is_stored(name):
    series = PATTERNS[name][0].dropna()
    text = json.dumps(fitted(series).to_json(), ensure_ascii=False)
    if series.dtype.kind in "iu" or name in ("float", "object", "arrow", "Int32"):
        record = fitted(series).to_json()["pattern"]
        values = set(series.astype(int))
        assert record["above"] not in values
        # A power of ten would be stored whether it is among them or not.
        assert record["low"] not in values or str(record["low"]).strip("0") in ("", "1")
        return
    found = [value for value in series if len(value) > 3 and f'"{value}"' in text]
    assert found == []


@given(
    st.sets(st.text(string.ascii_uppercase[:3] + "01-", min_size=1, max_size=4), min_size=1),
    st.integers(0, 99),
)
def test_small_and_odd_texts_are_never_copied(texts, seed):
    series = pd.Series(sorted(texts))
    made = fitted(series, seed).generate(range(300), seed=seed)
    assert made.is_unique
    assert not set(made) & texts


@given(st.sets(st.integers(-50, 300), min_size=1), st.integers(0, 99))
def test_small_and_odd_numbers_are_never_copied(numbers, seed):
    series = pd.Series(sorted(numbers))
    made = fitted(series, seed).generate(range(300), seed=seed)
    assert made.is_unique
    assert not set(made) & numbers


def test_a_dtype_without_numbers_left_says_so():
    series = pd.Series(np.arange(-20, 120), dtype="int8")
    generator = fitted(series)
    assert generator.generate(range(7), seed=0).is_unique
    with pytest.raises(DataError, match="'key': int8 has no 20 numbers left"):
        generator.generate(range(20), seed=0)


@pytest.mark.parametrize(
    ("values", "name", "found"),
    [
        ([f"a{k}" for k in range(200)], "x", True),
        ([f"a{k % 195}" for k in range(200)], "x", True),
        ([f"a{k % 150}" for k in range(200)], "x", False),
        (range(1, 201), "x", True),
        (np.random.default_rng(0).permutation(200) + 5000, "x", True),
        (range(1900, 2020), "year", False),
        (range(1, 50), "x", False),
        (np.arange(200) * 37, "income", False),
        (np.arange(200) * 37, "customer_id", True),
        (np.arange(200) * 37, "customerId", True),
        (np.arange(200) * 37, "humidity", False),
        (np.arange(200) % 150 * 37, "customer_id", False),
        (10**6 + np.arange(200) * 44_000, "x", True),
        (10**6 + np.arange(200) ** 2, "x", False),
        (np.arange(200) / 7, "id", False),
    ],
)
def test_what_is_taken_for_an_identifier(values, name, found):
    series = pd.Series(list(values), name=name)
    reason = identifier_reason(series, infer_column(series), series.nunique())
    assert (reason is not None) == found


def test_the_kind_must_fit():
    column = ColumnSchema(name="x", kind="categorical", dtype="object", categories=("a",))
    with pytest.raises(SchemaError, match="'x' is categorical, not an identifier"):
        IdentifierGenerator.fit(pd.Series(["a"]), column)
    with pytest.raises(DataError, match="only missing"):
        fitted(pd.Series(["a"])).fit(
            pd.Series([None]), ColumnSchema(name="x", kind="identifier", dtype="object")
        )
    with pytest.raises(ConfigError, match="row numbers"):
        fitted(pd.Series(["a", "b"])).generate([-1], seed=0)
    for values, dtype in (([0.5, 1.5], None), ([True, False], None), ([1.5, 2.5], "category")):
        series = pd.Series(values, dtype=dtype, name="x")
        with pytest.raises(SchemaError, match="cannot be an identifier"):
            infer_column(series, ColumnKind.IDENTIFIER)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(version=7), "version 7.*upgrade"),
        (lambda r: r.pop("pattern"), "cannot be read"),
        (lambda r: r["pattern"].pop("shapes"), "cannot be read"),
        (lambda r: r["column"].update(kind="odd"), "cannot be read"),
    ],
)
def test_a_broken_file_is_refused(change, message):
    record = fitted(pd.Series([f"k{k}" for k in range(50)])).to_json()
    change(record)
    with pytest.raises(ModelFileError, match=message):
        IdentifierGenerator.from_json(record)


# ------------------------------------------------------------------- machinery


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_permutations_are_permutations(size, key):
    places = permuted(np.arange(size, dtype=np.uint64), size, key)
    assert np.array_equal(np.sort(places), np.arange(size))


def test_permutations_of_huge_ranges_and_hashes_look_random():
    numbers = np.arange(20_000, dtype=np.uint64)
    places = permuted(numbers, 2**62, 5)
    assert len(np.unique(places)) == len(numbers)
    assert int(places.max()) < 2**62
    for values in (places / 2.0**62, uniform(numbers, 5)):
        counts = np.bincount((values * 20).astype(int), minlength=20)
        assert abs(counts - 1000).max() < 150
        assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.03


@given(
    st.integers(1, 5000),
    st.sets(st.integers(0, 4999), max_size=60),
    st.integers(1, 4000),
    st.integers(0, 9),
)
def test_free_cells_hold_no_taken_number(size, taken, wanted, key):
    taken = {number for number in taken if number < size}
    cells = FreeCells.find(np.array(sorted(taken), dtype=np.uint64), size, wanted, key)
    places = np.arange(cells.capacity, dtype=np.uint64)
    numbers = cells.numbers(places).tolist() if cells.capacity else []
    assert len(set(numbers)) == len(numbers)
    assert not set(numbers) & taken
    assert max(numbers, default=0) < size
    if taken:
        assert cells.capacity <= size / 4
