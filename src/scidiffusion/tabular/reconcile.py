r"""Rows with gaps beside constraints: known values of a derived column, carried back to its parts.

A total is not drawn but computed from its parts, and the end of a stay from its start and its
length. Where the total or the end is known and a part or the start is not, the draw does not know
of it, and the rule would break. So that it holds:

- of x = max_i p_i + g with x known, an unknown p_i moves with x, within its observed range: the
  drawn gap g is kept;
- of a formula, the unknown part that varies most takes what is left over. It is computed as if the
  formula were linear in it, which most are, and stays within its observed range as long as other
  parts are unknown, too;
- of fixed combinations of which parts are known, those drawn that do not fit become the only one
  seen that does, or are drawn again, which is exact, and in the last round become any that does.

The first two keep the rules, and the laws of gaps and parts, but weigh no draw by how well it goes
with what is known: an approximation where parts depend on the total. What does not come right is
left as it was drawn: whoever calls checks all rules again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.tabular.columns import round_numbers, series_from_values
from scidiffusion.tabular.combinations import CombinationStep
from scidiffusion.tabular.computed import FormulaStep
from scidiffusion.tabular.constraints import ConstraintSet
from scidiffusion.tabular.formulas import numbers_of
from scidiffusion.tabular.gaps import GapStep
from scidiffusion.tabular.ranges import ends
from scidiffusion.tabular.reading import overlay
from scidiffusion.tabular.rules import Unique
from scidiffusion.tabular.schema import ColumnKind, ColumnSchema

__all__ = ["modelled_gaps", "reconcile"]

_NO_FLOOR = -(2**62)
_ANY = -3


def modelled_gaps(rules: ConstraintSet, table: pd.DataFrame) -> pd.DataFrame:
    """The modelled columns of rows with gaps, or that break constraints.

    Args:
        rules: The fitted constraints.
        table: Rows of the user's table.

    Returns:
        All of them; what stands for the columns of a broken constraint, or for a combination of
        which a part is missing, is missing.
    """
    made, found = rules.transform(table), rules.check(table)
    for step in rules.steps:
        names = set(step.outputs)
        about = [
            r for r in rules.constraints if names & set(r.names) and not isinstance(r, Unique)
        ]
        broken = found[[str(rule) for rule in about]].any(axis=1)
        if isinstance(step, CombinationStep):
            broken |= table[list(step.outputs)].isna().any(axis=1)
        for column in step.modelled:
            made[column.name] = made[column.name].mask(broken)
    return made


def reconcile(
    rules: ConstraintSet, modelled: pd.DataFrame, table: pd.DataFrame, *, last: bool, seed: int
) -> pd.DataFrame:
    """Change modelled rows such that they agree with what is known of the user's columns.

    Args:
        rules: The fitted constraints.
        modelled: Drawn rows, in which what is known of modelled columns is in place.
        table: The same rows of the user's table, missing where nothing is known.
        last: The last round: choose a combination where several would fit.
        seed: Seed of this choice.

    Returns:
        The rows, changed where columns are derived by a constraint.
    """
    drawn = rules.inverse(modelled)
    known = {name: table[name].notna().to_numpy() for name in drawn.columns}
    if not any(known[name].any() for name in rules.derived):
        return modelled
    target = _Target(
        drawn,
        {
            name: overlay(drawn[name], known[name], table[name].reset_index(drop=True))
            for name in drawn.columns
        },
        known,
    )
    changed: dict[str, pd.Series] = {}
    # Backwards, since a column that moves may itself follow from others.
    for step in reversed(rules.steps):
        if isinstance(step, GapStep):
            _move_bounds(step, target)
        elif isinstance(step, FormulaStep):
            columns = {name: rules.schema_[name] for name in step.inputs}
            _solve(step, columns, target)
        elif isinstance(step, CombinationStep) and step.modelled:
            rng = np.random.default_rng([seed, 0x63]) if last else None
            codes = _choose(step, target, rng)
            changed[step.name] = pd.Series(codes, index=modelled.index).where(
                codes >= 0, modelled[step.name]
            )
    changed |= {name: target.values[name] for name in modelled if name in target.values}
    return modelled.assign(**changed)


@dataclass
class _Target:
    """Rows of the user's table on their way.

    Args:
        drawn: As they were drawn.
        values: As they shall be.
        known: Where a value of `values` is not to be changed any more.
    """

    drawn: pd.DataFrame
    values: dict[str, pd.Series]
    known: dict[str, NDArray[np.bool_]]

    def put(self, name: str, series: pd.Series, rows: NDArray[np.bool_]) -> None:
        """Set a column's values in some rows, which are known from then on."""
        new = series.set_axis(self.values[name].index)
        self.values[name] = self.values[name].where(pd.Series(~rows, index=new.index), new)
        self.known[name] = self.known[name] | rows


def _move_bounds(step: GapStep, target: _Target) -> None:
    name, ruler = step.column.name, step.ruler
    wanted, gone = ruler.read(target.values[name], step.column)
    before, lost = ruler.read(target.drawn[name], step.column)
    for bound, column in zip(step.bounds, step.others, strict=True):
        old, missing = ruler.read(target.drawn[bound.name], column)
        rows = target.known[name] & ~target.known[bound.name] & ~gone & ~lost & ~missing
        if not rows.any():
            continue
        low, high = np.sort(ruler.read_numbers(np.array(ends(column)), column))
        moved = np.where(rows, np.clip(old + wanted - before, low, high), old)
        floor = np.full(len(moved), _NO_FLOOR).astype(moved.dtype)
        strict = np.zeros(len(moved), dtype=bool)
        target.put(bound.name, ruler.write(moved, floor, strict, missing, column)[0], rows)


def _solve(step: FormulaStep, columns: dict[str, ColumnSchema], target: _Target) -> None:
    name = step.column.name
    numbers = {other: numbers_of(target.values[other]) for other in step.inputs}
    wanted = numbers_of(target.values[name])
    computed = step.expression(numbers)
    parts = [other for other in step.inputs if columns[other].kind is ColumnKind.NUMERICAL]
    slopes = {
        part: step.expression(numbers | {part: numbers[part] + 1}) - computed for part in parts
    }
    unknown = np.sum([~target.known[other] for other in step.inputs], axis=0)

    def spread(part: str) -> float:
        change = (numbers[part] * slopes[part])[np.isfinite(slopes[part])]
        return float(np.nanstd(change)) if len(change) else 0.0

    open_rows = target.known[name] & step.violations(pd.DataFrame(target.values))
    for part in sorted(parts, key=spread, reverse=True):
        with np.errstate(all="ignore"):
            values = numbers[part] + (wanted - computed) / slopes[part]
        column = columns[part]
        assert column.minimum is not None
        assert column.maximum is not None
        inside = (column.minimum <= values) & (values <= column.maximum)
        rows = open_rows & ~target.known[part] & np.isfinite(values)
        rows &= inside | (unknown == 1)
        series, fits = _written(np.where(rows, values, column.minimum), column)
        rows &= fits
        if rows.any():
            target.put(part, series, rows)
            open_rows &= ~rows


def _written(values: NDArray[np.float64], column: ColumnSchema) -> tuple[pd.Series, NDArray[Any]]:
    """Numbers in a column's format, and which of them its dtype can hold."""
    none = np.zeros(len(values), dtype=bool)
    if not isinstance(column.minimum, int):
        return series_from_values(round_numbers(values, column), none, column), ~none
    name = column.dtype.lower()
    limits = np.iinfo("int64" if name == "object" else name)
    whole = np.rint(values)
    fits = (whole >= limits.min) & (whole <= limits.max)
    kind = np.uint64 if limits.max >= 2**63 else np.int64
    return series_from_values(
        np.where(fits, whole, column.minimum).astype(kind), none, column
    ), fits


def _choose(
    step: CombinationStep, target: _Target, rng: np.random.Generator | None
) -> NDArray[np.int64]:
    """A combination with the known parts for rows that have none, -1 for the other rows.

    Without a generator only where a single one fits.
    """
    table = pd.DataFrame(target.values)
    codes = np.full(len(table), -1)
    known = np.stack([target.known[name] for name in step.outputs], axis=1)
    whole = (step.places >= 0).all(1)
    wrong = known.any(1) & ((step.codes(table) < 0) | table[list(step.outputs)].isna().any(axis=1))
    # Rows in which the same is known have the same choice.
    parts = np.where(known, step.places_of(table), _ANY)[wrong]
    kinds, kind_of = np.unique(parts, axis=0, return_inverse=True)
    chosen = codes[wrong]
    for kind, wanted in enumerate(kinds):
        fits = np.flatnonzero(((step.places == wanted) | (wanted == _ANY)).all(1) & whole)
        rows = np.flatnonzero(kind_of.ravel() == kind)
        if len(fits) == 1:
            chosen[rows] = fits[0]
        elif len(fits) and rng is not None:
            chosen[rows] = rng.choice(fits, len(rows))
    codes[wrong] = chosen
    return codes
