"""From what is asked for to rows: given cells, blocks, constraints, unique keys.

Rows are drawn in whole blocks whose randomness is keyed by (seed, row), so that neither the batch
size nor the parts in which a sample is written change it. Where keys must be unique, blocks are
drawn one after the other, and a row whose key is taken is drawn again with the seed of the next
round.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from scidiffusion.core.rng import KeyedNoise
from scidiffusion.errors import ConditionError, InputError, ScidiffusionWarning
from scidiffusion.tabular.conditions import Condition
from scidiffusion.tabular.front import TableFront
from scidiffusion.tabular.model import TableModel
from scidiffusion.tabular.reading import overlay

__all__ = ["Drawer", "Request", "check_possible", "child_seed"]

ROUNDS = 100
"""How often rows are drawn again for a unique key."""
REPAIRS = 20
"""How often rows are drawn again to keep a constraint beside known cells."""

IMPOSSIBLE = -30.0
"""Log-probability below which conditions together are refused: one row in 10^13."""
RARE = 0.1
"""Expected number of training rows below which conditions together deserve a warning."""

Report = Callable[[int], None] | None
Blocks = Callable[..., dict[str, Tensor]]


@dataclass(frozen=True)
class Request:
    """What every row of a sample shall be.

    Args:
        fixed: Column -> canonical value.
        cuts: Column -> set or range.
        levels: Column -> its values in the whole sample.
        steps: Number of sampling steps.
        batch_size: Rows at once on a GPU.
        present: Draw no missing values.
    """

    fixed: Mapping[str, Any] = field(default_factory=dict)
    cuts: Mapping[str, Condition] = field(default_factory=dict)
    levels: Mapping[str, pd.Series] = field(default_factory=dict)
    steps: int | None = None
    batch_size: int | None = None
    present: bool = False


class Drawer:
    """Draws rows of one fitted model.

    Args:
        front: Between the user's table and the modelled one.
        model: The fitted method.
        blocks: The estimator's loop over blocks of rows.
        block: Rows of a block.
        device: Where it computes.
        seed: Seed of the encoding of given cells.
    """

    def __init__(
        self,
        front: TableFront,
        model: TableModel,
        *,
        blocks: Blocks,
        block: int,
        device: torch.device,
        seed: int,
    ) -> None:
        self.front, self.model, self.seed = front, model, seed
        self._blocks, self._block, self._device = blocks, block, device

    def parts(
        self, n: int, size: int | None, seed: int, request: Request, report: Report
    ) -> Iterator[pd.DataFrame]:
        """Draw the user's rows, part by part.

        Args:
            n: Number of rows.
            size: Rows of a part, rounded up to whole blocks; None is one part.
            seed: Seed of the sample.
            request: What is asked for.
            report: Called with the number of rows done.

        Raises:
            InputError: if unique keys run out.
        """
        size = max(1, -(-(n if size is None else size) // self._block)) * self._block
        step = self._block if self.front.has_unique else size
        seen = pd.DataFrame()
        for start in range(0, max(n, 1), size):
            stop = min(start + size, n)
            tables = []
            for first in range(start, max(stop, start + 1), step):
                table = self._rows(first, min(step, stop - first), seed, request, report)
                if self.front.has_unique:
                    table, seen = self._unique(table, seen, first, seed, request)
                tables.append(table)
            yield tables[0] if len(tables) == 1 else pd.concat(tables, ignore_index=True)

    def _rows(
        self, start: int, rows: int, seed: int, request: Request, report: Report
    ) -> pd.DataFrame:
        """Rows start, start + 1, ... of a sample."""
        given = self.front.given(request.fixed, rows)
        for name, values in request.levels.items():
            given[name] = values.iloc[start : start + rows].reset_index(drop=True)
        known = np.ones((rows, given.shape[1]), dtype=bool)
        drawn = self.complete(given, known, seed, request, start=start, report=report)
        return self.front.finish(drawn, seed, start=start)

    def _unique(
        self, table: pd.DataFrame, seen: pd.DataFrame, start: int, seed: int, request: Request
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Draw again the rows whose key is taken; return the rows and all keys so far."""
        keys = self.front.unique_columns
        for attempt in range(ROUNDS + 1):
            together = pd.concat([seen, table[keys]], ignore_index=True)
            taken = self.front.duplicates(together)[len(seen) :]
            if not taken.any():
                return table, together
            if attempt < ROUNDS:
                again = self._rows(start, len(table), child_seed(seed, attempt), request, None)
                # A name made up with another seed could be one that this sample has already.
                again = self.front.with_identifiers_of(again, table)
                table = table.where(pd.Series(~taken), again).astype(table.dtypes)
        raise InputError(
            f"no {start + len(table):,} rows with different {', '.join(keys)} were found in "
            f"{ROUNDS} rounds; sample fewer rows, or drop the Unique"
        )

    def impute(
        self, table: pd.DataFrame, seed: int, request: Request, report: Report
    ) -> pd.DataFrame:
        """Fill the missing values of a table of the user's columns.

        A row in which the known cells and the draws together break a constraint, or leave a gap,
        or whose drawn key another row has, is drawn again; a warning counts the rows for which
        that did not help.
        """
        filled = self._filled(table, seed, request, report)
        wrong = self._wrong(table, filled)
        for attempt in range(REPAIRS):
            if not wrong.any():
                return filled
            last = attempt == REPAIRS - 1
            own = child_seed(seed, attempt)
            again = self._filled(table[wrong], own, request, None, last=last)
            again = self.front.with_identifiers_of(again, filled[wrong])
            filled.loc[wrong] = again.to_numpy(object)
            filled = filled.astype(again.dtypes)
            wrong = self._wrong(table, filled)
        if wrong.any():
            warnings.warn(
                f"{int(wrong.sum())} of {len(table)} rows break a constraint together with the "
                "values that were known; look at them",
                ScidiffusionWarning,
                stacklevel=4,
            )
        return filled

    def _wrong(self, table: pd.DataFrame, filled: pd.DataFrame) -> NDArray[np.bool_]:
        """Rows that are not what they should be after `impute`."""
        wrong = self.front.violations(filled) | filled.isna().any(axis=1).to_numpy()
        keys = self.front.unique_columns
        if keys:
            # A key that was known stays with its row, wherever the row stands.
            drawn = table[keys].isna().any(axis=1).to_numpy()
            order = np.argsort(drawn, kind="stable")
            taken = np.zeros(len(table), dtype=bool)
            taken[order] = self.front.duplicates(filled[keys].iloc[order])
            wrong |= taken & drawn
        return wrong

    def _filled(
        self,
        table: pd.DataFrame,
        seed: int,
        request: Request,
        report: Report,
        *,
        last: bool = False,
    ) -> pd.DataFrame:
        given = self.front.modelled(table, gaps=True)
        known = given.notna().to_numpy()
        rows = self.complete(given, known, seed, request, report=report)
        rows = self.front.reconciled(rows, table, last=last, seed=seed)
        return self.front.keep_known(table, self.front.finish(rows, seed, present=True))

    def complete(
        self,
        given: pd.DataFrame,
        known: NDArray[np.bool_],
        seed: int,
        request: Request,
        *,
        start: int = 0,
        report: Report = None,
    ) -> pd.DataFrame:
        """Draw what is not known of rows of modelled columns.

        Args:
            given: Some or all of the modelled columns, n rows.
            known: (n, columns of `given`) which cells are known.
            seed: Seed of the draw.
            request: Its cuts and options; the rest is in `given`.
            start: Number of the first row in the whole sample, in whole blocks.
            report: Called with the number of rows of the sample done so far.
        """
        model, schema, n = self.model, self.front.model_schema, len(given)
        restrictions = model.restrict(request.cuts)
        noise = KeyedNoise(seed, start)
        flags = torch.zeros(n, len(schema), dtype=torch.bool)
        flags[:, [schema.names.index(name) for name in given.columns]] = torch.from_numpy(known)
        # Where nothing is known, one row stands for all.
        source = given if given.shape[1] else given.iloc[:1]
        state = model.encode(source.reindex(columns=schema.names), self.seed, gaps=True)
        if n == 0:
            return model.decode(state, noise, restrictions=restrictions)

        def draw(first: int, rows: int) -> dict[str, Tensor]:
            # The last block is computed whole: its rows beyond n repeat the last one.
            index = torch.arange(first, first + rows).clamp(max=n - 1)
            row = index.clamp(max=len(source) - 1)
            return model.draw(
                {name: value[row] for name, value in state.items()},
                flags[index],
                noise.rows(start + first),
                restrictions=restrictions,
                steps=request.steps,
                present=request.present,
            )

        drawn = self._blocks(
            draw,
            n,
            device=self._device,
            batch_size=request.batch_size,
            progress=None if report is None else lambda done: report(start + done),
        )
        table = model.decode(drawn, noise, restrictions=restrictions)
        for position, name in enumerate(given.columns):
            # What is known comes back as it was, to the last digit.
            table[name] = overlay(table[name], known[:, position], given[name])
        return table


def check_possible(
    model: TableModel, conditions: Mapping[str, Condition], rows: int, seed: int
) -> None:
    """Warn of conditions that hardly any row meets, and refuse those that none does.

    Args:
        model: The fitted method.
        conditions: Conditions on the modelled columns, each possible on its own.
        rows: Rows of the training table.
        seed: Seed of the estimate.

    Raises:
        ConditionError: if together they are impossible.
    """
    if len(conditions) < 2:
        return
    log_prob = model.log_probability(conditions, seed)
    if log_prob is None:
        return
    names = ", ".join(map(repr, conditions))
    if log_prob < IMPOSSIBLE:
        raise ConditionError(
            f"conditions on {names}: each is possible, but the model has never seen anything like "
            f"them together (log-probability {log_prob:.0f}); drop or widen one of them"
        )
    if log_prob < math.log(RARE / max(rows, 1)):
        warnings.warn(
            f"conditions on {names}: about one row in {math.exp(-log_prob):,.0f} is like this, "
            f"and the training table had {rows:,}; what is drawn is a guess beyond the data",
            ScidiffusionWarning,
            stacklevel=4,
        )


def child_seed(seed: int, index: int) -> int:
    """Return the seed of part `index` of what has a seed."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0] >> 1)
