"""Arithmetic over columns, written as text: parsed, checked and computed without running code.

A formula is the arithmetic of Python and no more: ``+ - * / // %``, signs, parentheses, numbers,
``abs``, ``round``, ``min``, ``max`` and column names; a name that is no Python name stands in
quotes or backticks. The text is read by `ast`, and every node that is not on the list is refused,
so that a saved model holds text and never code.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.errors import ConfigError
from scidiffusion.tabular.arrow import without_arrow

__all__ = ["Expression", "numbers_of"]

_OPERATORS: dict[type[ast.operator], Callable[..., Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.mod,
}
_SIGNS: dict[type[ast.unaryop], Callable[..., Any]] = {
    ast.UAdd: np.positive,
    ast.USub: np.negative,
}
# How many arguments a function takes.
_FUNCTIONS = {"abs": (1, 1), "round": (1, 2), "min": (2, 99), "max": (2, 99)}
_HINT = "a formula has + - * / // %, parentheses, numbers, abs, round, min, max and column names"
_LONGEST = 10_000
# Well below Python's own limit, which also counts the caller's frames.
_DEEPEST = 400
_BACKTICKS = re.compile(r"`([^`]*)`")


@dataclass(frozen=True)
class Expression:
    """A formula over columns.

    Args:
        text: What was written, e.g. ``"(price + `sales tax`) * 1.2"``.

    Raises:
        ConfigError: If it is no text, or holds more than the arithmetic of this module.

    Example:
        >>> formula = Expression("max(a, b) + 1")
        >>> formula.names
        ('a', 'b')
        >>> formula({"a": np.array([1.0, 5.0]), "b": np.array([2.0, 2.0])}).tolist()
        [3.0, 6.0]
    """

    text: str
    names: tuple[str, ...] = field(init=False, compare=False)
    _tree: ast.expr = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise ConfigError(
                "a formula must be text, such as 'a + b', and not a "
                f"{'function' if callable(self.text) else type(self.text).__name__}: a model is "
                "saved without running code; " + _HINT
            )
        if len(self.text) > _LONGEST:
            raise ConfigError(f"the formula {self.text:.40}... is longer than {_LONGEST} letters")
        found: dict[str, None] = {}
        try:
            # A name in backticks is read as one in quotes.
            text = _BACKTICKS.sub(lambda match: repr(match[1]), self.text).strip()
            tree = ast.parse(text, mode="eval").body
            self._check(tree, found, _DEEPEST)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(
                f"the formula {self.text!r:.80} cannot be read; {_HINT}; names that are no Python "
                "names stand in backticks"
            ) from error
        if not found:
            raise ConfigError(f"the formula {self.text!r:.80} names no column")
        object.__setattr__(self, "names", tuple(found))
        object.__setattr__(self, "_tree", tree)

    def _check(self, node: ast.expr, found: dict[str, None], depth: int) -> None:
        """Refuse what is not on the list; collect the names."""
        if depth == 0:
            raise ConfigError(
                f"the formula {self.text!r:.80} is nested more than {_DEEPEST} deep; shorten it"
            )
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            self._check(node.left, found, depth - 1)
            self._check(node.right, found, depth - 1)
        elif isinstance(node, ast.UnaryOp) and type(node.op) in _SIGNS:
            self._check(node.operand, found, depth - 1)
        elif isinstance(node, ast.Call):
            self._check_call(node, found, depth - 1)
        elif isinstance(node, ast.Name):
            found[node.id] = None
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found[node.value] = None
        elif not (isinstance(node, ast.Constant) and type(node.value) in (int, float)):
            part = ast.unparse(node)
            raise ConfigError(f"the formula {self.text!r:.80} has {part!r:.40} in it; {_HINT}")

    def _check_call(self, node: ast.Call, found: dict[str, None], depth: int) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else None
        low, high = _FUNCTIONS.get(str(name), (1, 0))
        count = len(node.args)
        plain = not node.keywords and not any(isinstance(a, ast.Starred) for a in node.args)
        if not (plain and low <= count <= high):
            part = ast.unparse(node)
            raise ConfigError(f"the formula {self.text!r:.80} has {part!r:.40} in it; {_HINT}")
        arguments = node.args
        if name == "round" and count == 2:
            arguments, digits = node.args[:1], node.args[1]
            try:
                places = ast.literal_eval(digits)
            except ValueError:
                places = None
            if type(places) is not int or abs(places) > 15:
                raise ConfigError(
                    f"the formula {self.text!r:.80} rounds to {ast.unparse(digits)!r:.40} "
                    "decimals; give a whole number from -15 to 15"
                )
        for argument in arguments:
            self._check(argument, found, depth)

    def __call__(self, columns: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """Compute the formula.

        Args:
            columns: Column -> numbers of shape (n,), NaN where missing.

        Returns:
            Shape (n,); NaN where a number is missing, or the result is not finite.
        """
        with np.errstate(all="ignore"):
            values = np.asarray(self._value(self._tree, columns), dtype=np.float64)
        return np.where(np.isfinite(values), values, np.nan)

    def _value(self, node: ast.expr, columns: Mapping[str, NDArray[np.float64]]) -> Any:
        if isinstance(node, ast.BinOp):
            left, right = self._value(node.left, columns), self._value(node.right, columns)
            return _OPERATORS[type(node.op)](left, right)
        if isinstance(node, ast.UnaryOp):
            return _SIGNS[type(node.op)](self._value(node.operand, columns))
        if isinstance(node, ast.Name):
            return columns[node.id]
        if isinstance(node, ast.Constant):
            value: Any = node.value
            return columns[value] if isinstance(value, str) else float(value)
        assert isinstance(node, ast.Call)
        assert isinstance(node.func, ast.Name)
        if node.func.id == "round":
            places = ast.literal_eval(node.args[1]) if len(node.args) > 1 else 0
            return np.round(self._value(node.args[0], columns), places)
        values = [self._value(argument, columns) for argument in node.args]
        if node.func.id == "abs":
            return np.abs(values[0])
        smaller = node.func.id == "min"
        result = values[0]
        for value in values[1:]:
            result = np.minimum(result, value) if smaller else np.maximum(result, value)
        return result


def numbers_of(series: pd.Series) -> NDArray[np.float64]:
    """A column of numbers or booleans as numbers.

    Args:
        series: The column; of a pandas categorical, the levels are numbers.

    Returns:
        Shape (n,), NaN where missing.

    Raises:
        ConfigError: If it holds something else.
    """
    plain: Any = without_arrow(series)
    try:
        if pd.api.types.is_bool_dtype(plain) or pd.api.types.infer_dtype(plain) == "boolean":
            return plain.astype("boolean").to_numpy(dtype=np.float64, na_value=np.nan)
        dates = plain.dtype.kind in "mM" if isinstance(plain.dtype, np.dtype) else False
        if dates or isinstance(plain.dtype, pd.DatetimeTZDtype | pd.StringDtype):
            raise ValueError
        if isinstance(plain.dtype, pd.CategoricalDtype) or plain.dtype == object:
            plain = plain.astype(object)
            if pd.api.types.infer_dtype(plain, skipna=True) == "string":
                raise ValueError
        return pd.to_numeric(plain).to_numpy(dtype=np.float64, na_value=np.nan)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"a formula computes with numbers, and column {series.name!r} holds {series.dtype} "
            "values that are none"
        ) from error
