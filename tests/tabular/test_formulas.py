"""Formulas: the arithmetic of Python over columns, and nothing else."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scidiffusion.errors import ConfigError
from scidiffusion.tabular.formulas import Expression, numbers_of

VALUES = {"a": np.array([1.0, -7.5, 12.0]), "b": np.array([2.0, 0.5, 5.0])}


@st.composite
def formulas(draw, depth=3):
    """Text that Python reads as the same arithmetic."""
    kind = draw(st.integers(0, 6)) if depth else 0
    if kind == 0:
        return draw(st.sampled_from(["a", "b", "2", "0.5", "3e1"]))
    left, right = draw(formulas(depth=depth - 1)), draw(formulas(depth=depth - 1))
    if kind == 1:
        return f"-{left}" if left[0].isalnum() else f"-({left})"
    if kind == 2:
        return f"{draw(st.sampled_from(['min', 'max']))}({left}, {right})"
    if kind == 3:
        return draw(st.sampled_from([f"abs({left})", f"round({left}, 1)", f"round({left})"]))
    return f"({left} {draw(st.sampled_from(['+', '-', '*', '/', '//', '%']))} {right})"


@given(formulas())
def test_a_formula_is_what_python_computes(text):
    formula = f"a + {text}"
    result = Expression(formula)(VALUES)
    for row in range(3):
        names = {name: float(values[row]) for name, values in VALUES.items()}
        try:
            expected = eval(formula, {}, names)
        except (ZeroDivisionError, OverflowError):
            expected = np.nan
        assert np.isclose(result[row], expected, equal_nan=True)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("b + a * b", ("b", "a")),
        ("`net price` + 'sales tax'", ("net price", "sales tax")),
        ('"a.b" / `c"d`', ("a.b", 'c"d')),
        ("`it's` + été", ("it's", "été")),
        ("abs + max(abs, 1)", ("abs",)),
        (" (a\n) ", ("a",)),
    ],
)
def test_names(text, names):
    formula = Expression(text)
    assert formula.names == names
    assert np.isfinite(formula(dict.fromkeys(names, np.array([2.0])))).all()
    assert Expression(text) == formula
    assert hash(Expression(text)) == hash(formula)


def test_missing_and_infinite_are_missing():
    columns = {"a": np.array([1.0, np.nan, 0.0, 1e308]), "b": np.array([0.0, 1.0, 0.0, 1e308])}
    with np.errstate(all="raise"):
        assert np.isnan(Expression("a / b")(columns)).tolist() == [True, True, True, False]
        assert np.isnan(Expression("max(a, b)")(columns)).tolist() == [False, True, False, False]
        assert np.isnan(Expression("a * b")(columns)).tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "a.real",
        "a[0]",
        "a ** b",
        "a if b else 1",
        "a < b",
        "a and b",
        "not a",
        "~a",
        "a @ b",
        "[a, b]",
        "{'a': b}",
        "lambda: a",
        "(x := a)",
        "f'{a}'",
        "a + 1j",
        "a + True",
        "a + None",
        "a + b'x'",
        "pow(a, 2)",
        "sum(a, b)",
        "abs(a, b)",
        "min(a)",
        "max(*a)",
        "round(a, ndigits=1)",
        "a.min()",
        "eval('a')",
    ],
)
def test_everything_else_is_refused(text):
    with pytest.raises(ConfigError, match=r"in it; a formula has \+ - \* /"):
        Expression(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a +", "cannot be read"),
        ("a = b", "cannot be read"),
        ("net price", "cannot be read.*backticks"),
        ("", "cannot be read"),
        ("a\0", "cannot be read"),
        ("(" * 3000 + "a" + ")" * 3000, "cannot be read|nested"),
        ("+".join(["a"] * 2000), "nested more than 400"),
        ("-" * 900 + "a", "nested|cannot be read"),
        ("a" * 20_000, "longer than 10000"),
        ("1 + 2", "names no column"),
        ("round(a, b)", "rounds to 'b' decimals"),
        ("round(a, 1.5)", "rounds to '1.5'"),
        ("round(a, 99)", "rounds to '99'"),
        (None, "must be text.*NoneType"),
        (abs, "must be text.*not a function"),
        (3, "must be text.*int"),
    ],
)
def test_unreadable_formulas(text, message):
    with pytest.raises(ConfigError, match=message):
        Expression(text)


def test_a_sum_of_many_columns_is_fine():
    names = [f"c{k}" for k in range(300)]
    result = Expression(" + ".join(names))({name: np.ones(2) for name in names})
    assert result.tolist() == [300.0, 300.0]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1, None, 0], "Int8"),
        ([1, None, 0], "float32"),
        ([1, None, 0], object),
        ([True, None, False], object),
        ([True, None, False], "boolean"),
        ([1, None, 0], "category"),
        ([1, None, 0], "double[pyarrow]"),
        ([True, None, False], "bool[pyarrow]"),
    ],
)
def test_columns_as_numbers(values, dtype):
    numbers = numbers_of(pd.Series(values, dtype=dtype))
    assert numbers.dtype == np.float64
    assert np.array_equal(numbers, [1.0, np.nan, 0.0], equal_nan=True)


@pytest.mark.parametrize("dtype", [object, "string", "category", "datetime64[ns]"])
def test_columns_that_are_no_numbers(dtype):
    series = pd.Series(["2020-01-01", "2020-01-02"], dtype=dtype, name="x")
    with pytest.raises(ConfigError, match=r"column 'x' holds .* values that are none"):
        numbers_of(series)
