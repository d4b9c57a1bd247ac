"""What a user says of a table: the constraints, and the order in which they are met.

Every constraint makes some columns from others. `plan` puts them in an order in which nothing is
needed before it is made, or says which constraints contradict each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, TypeAlias

from scidiffusion.errors import ConfigError, ModelFileError
from scidiffusion.tabular.formulas import Expression
from scidiffusion.tabular.gaps import Bound

__all__ = [
    "Constraint",
    "FixedCombinations",
    "Formula",
    "Inequality",
    "Planned",
    "PlannedGap",
    "Unique",
    "plan",
    "rule_from_json",
    "rule_to_json",
]


@dataclass(frozen=True)
class Inequality:
    """One column is never below another: numbers, dates or durations.

    It holds in every sampled row in which both are present, after rounding. The model learns one
    of the two and the gap between them; that one keeps its distribution, its conditions and its
    observed range in any case. The other keeps its observed range too; in a row in which the first
    lies beyond that range, it is missing, as it was in training.

    Args:
        low: The column that is not above.
        high: The column that is not below.
        strict: Whether equal values are forbidden too.
        keep: Which of them is learned as it is, "low" or "high": conditions on it alone are
            possible, conditions on the other one need a value of both.

    Raises:
        ConfigError: If the two are the same column, or `keep` is another word.
    """

    low: str
    high: str
    strict: bool = False
    keep: str = "low"

    def __post_init__(self) -> None:
        for name in (self.low, self.high):
            _check_name(name, "an Inequality")
        if self.low == self.high:
            raise ConfigError(f"an Inequality needs two columns, got {self.low!r} twice")
        if self.keep not in ("low", "high"):
            raise ConfigError(f"keep must be 'low' or 'high', got {self.keep!r}")

    @property
    def names(self) -> tuple[str, ...]:
        """The columns it speaks of."""
        return (self.low, self.high)

    @property
    def derived(self) -> str:
        """The column that is learned as a gap."""
        return self.high if self.keep == "low" else self.low

    def __str__(self) -> str:
        return f"{self.low} {'<' if self.strict else '<='} {self.high}"


@dataclass(frozen=True)
class FixedCombinations:
    """Of some columns only the combinations occur that the training table has.

    Args:
        columns: Two columns or more.

    Raises:
        ConfigError: If there are fewer, or one comes twice.
    """

    columns: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", _names(self.columns, "FixedCombinations", least=2))

    @property
    def names(self) -> tuple[str, ...]:
        """The columns it speaks of."""
        return self.columns

    def __str__(self) -> str:
        return f"combinations of {', '.join(self.columns)}"


@dataclass(frozen=True)
class Formula:
    """One column is computed from others.

    It is not learned, but computed from the finished columns and rounded to its own format; its
    observed range is what gives. It is missing where an input is.

    Args:
        column: The column.
        expression: Its formula, see :mod:`scidiffusion.tabular.formulas`:
            ``"sqft_above + sqft_basement"``.

    Raises:
        ConfigError: If the formula cannot be read, is a function, or needs the column itself.

    Example:
        >>> str(Formula("sqft_living", "sqft_above + sqft_basement"))
        'sqft_living = sqft_above + sqft_basement'
    """

    column: str
    expression: str
    parsed: Expression = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_name(self.column, "a Formula")
        object.__setattr__(self, "parsed", Expression(self.expression))
        if self.column in self.parsed.names:
            raise ConfigError(
                f"the formula of column {self.column!r} needs the column itself: "
                f"{self.expression!r}"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The columns it speaks of."""
        return (self.column, *self.parsed.names)

    def __str__(self) -> str:
        return f"{self.column} = {self.expression}"


@dataclass(frozen=True)
class Unique:
    """No two sampled rows have the same values of some columns; a row with a missing one may.

    Args:
        columns: One column or more.

    Raises:
        ConfigError: If there is none, or one comes twice.
    """

    columns: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", _names(self.columns, "Unique", least=1))

    @property
    def names(self) -> tuple[str, ...]:
        """The columns it speaks of."""
        return self.columns

    def __str__(self) -> str:
        return f"{', '.join(self.columns)} unique"


Constraint: TypeAlias = Inequality | FixedCombinations | Formula | Unique

_KINDS = {
    "inequality": Inequality,
    "combinations": FixedCombinations,
    "formula": Formula,
    "unique": Unique,
}


def _check_name(name: object, what: str) -> None:
    if not isinstance(name, str):
        raise ConfigError(f"{what} takes column names, which are text; got {name!r:.60}")


def _names(columns: object, what: str, *, least: int) -> tuple[str, ...]:
    if isinstance(columns, str):
        columns = (columns,)
    if not isinstance(columns, Iterable):
        raise ConfigError(f"{what} takes a list of column names, got {columns!r:.60}")
    names = tuple(columns)
    for name in names:
        _check_name(name, what)
    if len(names) < least:
        raise ConfigError(f"{what} needs at least {least} column(s), got {list(names)}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"{what} names column {twice!r} twice")
    return names


def rule_to_json(rule: Constraint) -> dict[str, Any]:
    """A constraint as a JSON object.

    Args:
        rule: The constraint.
    """
    kind = next(name for name, cls in _KINDS.items() if isinstance(rule, cls))
    record: dict[str, Any] = {"constraint": kind}
    if isinstance(rule, Inequality):
        return record | {
            "low": rule.low,
            "high": rule.high,
            "strict": rule.strict,
            "keep": rule.keep,
        }
    if isinstance(rule, Formula):
        return record | {"column": rule.column, "expression": rule.expression}
    return record | {"columns": list(rule.columns)}


def rule_from_json(record: Mapping[str, Any]) -> Constraint:
    """Read what :func:`rule_to_json` wrote.

    Args:
        record: The JSON object.

    Raises:
        ModelFileError: If it is no constraint.
    """
    try:
        fields = dict(record)
        return _KINDS[fields.pop("constraint")](**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"a constraint of a model cannot be read: {error}") from error


@dataclass(frozen=True)
class PlannedGap:
    """The inequalities that make one column.

    Args:
        column: The column.
        sign: 1 if it must not be below others, -1 if not above.
        bounds: The others.
    """

    column: str
    sign: int
    bounds: tuple[Bound, ...]


Planned: TypeAlias = PlannedGap | FixedCombinations | Formula


def plan(rules: Sequence[Constraint]) -> list[Planned]:
    """The order in which columns are made.

    Args:
        rules: The constraints.

    Returns:
        What makes columns, every one after those that make its inputs. An inequality within fixed
        combinations makes none: it holds of all combinations that are kept.

    Raises:
        ConfigError: If two constraints make the same column, or they need each other in a circle.
    """
    makers: dict[str, Constraint] = {}
    for rule in rules:
        if isinstance(rule, FixedCombinations):
            for name in rule.columns:
                if name in makers:
                    raise ConfigError(
                        f"column {name!r} is in two FixedCombinations; give one with the columns "
                        "of both"
                    )
                makers[name] = rule
    for rule in rules:
        if isinstance(rule, Formula):
            _claim(makers, rule.column, rule)
    gaps: dict[str, list[Inequality]] = {}
    for rule in rules:
        if isinstance(rule, Inequality) and not _is_fixed(makers, rule):
            if rule.derived not in gaps:
                _claim(makers, rule.derived, rule)
            gaps.setdefault(rule.derived, []).append(rule)
    needs: dict[str, set[str]] = {}
    for name, rule in makers.items():
        needs[name] = set()
        if isinstance(rule, Formula):
            needs[name] = set(rule.parsed.names)
        elif isinstance(rule, Inequality):
            needs[name] = {one.low if one.derived == one.high else one.high for one in gaps[name]}
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        raise ConfigError(_circle(makers, error.args[1])) from error
    planned: list[Planned] = []
    for name in order:
        maker = makers.get(name)
        if isinstance(maker, Inequality):
            planned.append(_gap(name, gaps[name]))
        elif isinstance(maker, FixedCombinations | Formula) and maker not in planned:
            planned.append(maker)
    return planned


def _is_fixed(makers: Mapping[str, Constraint], rule: Inequality) -> bool:
    maker = makers.get(rule.low)
    return isinstance(maker, FixedCombinations) and maker is makers.get(rule.high)


def _claim(makers: dict[str, Constraint], name: str, rule: Constraint) -> None:
    if name not in makers:
        makers[name] = rule
        return
    other = makers[name]
    text = f"column {name!r} cannot follow from two constraints: '{other}' and '{rule}'; drop one"
    if isinstance(rule, Inequality):
        keep = "high" if rule.keep == "low" else "low"
        text += f", or give the second with keep={keep!r}"
    raise ConfigError(text)


def _circle(makers: Mapping[str, Constraint], nodes: Sequence[str]) -> str:
    rules = dict.fromkeys(str(makers[node]) for node in nodes if node in makers)
    listed = ", ".join(f"'{rule}'" for rule in rules)
    return (
        f"the constraints {listed} need each other in a circle ({' <- '.join(nodes)}): each makes "
        "a column from the next; drop one of them"
    )


def _gap(name: str, rules: Sequence[Inequality]) -> PlannedGap:
    signs = {rule.keep: 1 if rule.keep == "low" else -1 for rule in rules}
    if len(signs) > 1:
        listed = " and ".join(f"'{rule}' (keep={rule.keep!r})" for rule in rules)
        raise ConfigError(
            f"column {name!r} cannot follow from {listed}: one makes it from below and one from "
            "above; give both the same keep"
        )
    bounds: dict[str, bool] = {}
    for rule in rules:
        other = rule.low if rule.keep == "low" else rule.high
        bounds[other] = bounds.get(other, False) or rule.strict
    sign = next(iter(signs.values()))
    return PlannedGap(name, sign, tuple(Bound(*item) for item in bounds.items()))
