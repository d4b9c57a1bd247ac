"""What an encoding reads off a table, with differential privacy: every column's law on its own.

A codec looks at ranges, quantiles, levels and spikes. Here these are learned from noisy histograms
alone (:mod:`scidiffusion.tabular.private_statistics`), and told as a *surrogate*: a table of as
many rows, drawn column by column from the noisy laws. Whatever is fitted to the surrogate, a codec
or a schema, is private without knowing of it. Before real rows are encoded they are confined to
what the surrogate may hold, each row by itself.

Public, and so not protected: number of rows; names, kinds, dtypes and formats of the columns
(decimals, units, time zones, date formats), and which of them may have missing values; ranges and
lists of levels that the caller gives.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.errors import ConfigError, DataError
from scidiffusion.tabular.columns import (
    look_up,
    numbers_from_series,
    series_from_codes,
    series_from_numbers,
    snap_numbers,
)
from scidiffusion.tabular.private_statistics import (
    DEPTH,
    CountNoise,
    masses_quantiles,
    private_categories,
    private_frequencies,
    private_masses,
    private_range,
)
from scidiffusion.tabular.public import public_levels, public_range, representable
from scidiffusion.tabular.schema import (
    ColumnKind,
    ColumnSchema,
    Level,
    TableSchema,
    unknown_column,
)
from scidiffusion.training import DPBudget
from scidiffusion.training.seeding import key_of

__all__ = ["PrivateMarginals"]

LEAST_ATOM = 0.002
"""A number is a spike from this share of the rows on."""


@dataclass(frozen=True)
class _Levels:
    """Law of a column of levels: frequencies of the levels, then of missing."""

    frequencies: NDArray[np.float64]


@dataclass(frozen=True)
class _Numbers:
    """Law of a column of numbers.

    Args:
        shares: Of missing, of every spike and of the rest; of sum 1.
        atoms: The spikes, in the units of the column.
        low: Low end of the rest.
        high: High end.
        masses: Shares of equal parts of that range.
    """

    shares: NDArray[np.float64]
    atoms: NDArray[np.float64]
    low: float
    high: float
    masses: NDArray[np.float64]


class PrivateMarginals:
    """Noisy laws of the columns of a table.

    Args:
        schema: Schema of the columns with private ranges and levels.
        laws: The laws.
        budget: What they cost together.

    Attributes:
        schema: What the surrogate, and confined rows, may hold.
        epsilon: What all of it cost.
        delta: At this delta.
    """

    def __init__(
        self, schema: TableSchema, laws: Sequence[_Levels | _Numbers], budget: DPBudget
    ) -> None:
        assert budget.delta is not None
        self.schema, self.laws = schema, list(laws)
        self.epsilon, self.delta = budget.epsilon, budget.delta

    @classmethod
    def fit(
        cls,
        table: pd.DataFrame,
        schema: TableSchema,
        budget: DPBudget,
        *,
        bounds: Mapping[str, tuple[Any, Any]] | None = None,
        categories: Mapping[str, Sequence[Level]] | None = None,
    ) -> PrivateMarginals:
        """Learn the laws.

        Args:
            table: The table.
            schema: Its schema, as inferred; its ranges and levels are not used.
            budget: What may be spent: all of its epsilon and delta, ``codec_share`` aside; see
                `DPBudget.split`.
            bounds: Public ranges: column of numbers -> (low, high), in the column's own values.
                Without them a range is found to a factor of two, and costs a little.
            categories: Public levels: column of levels -> levels. Without them levels of few rows
                are not named.

        Raises:
            ConfigError: if bounds or categories do not fit the schema.
            DataError: if the budget is too small to see a column at all.
        """
        budget = budget.for_rows(len(table))
        assert budget.delta is not None
        bounds, categories = dict(bounds or {}), dict(categories or {})
        for name in (*bounds, *categories):
            if name not in schema:
                raise ConfigError(f"privacy: {unknown_column(name, schema.names)}")
        key = secrets.randbits(62) if budget.noise_key is None else int(budget.noise_key)
        rng = np.random.default_rng(key_of(key, "statistics"))
        named = [_names_values(column, categories) for column in schema]
        coarse = sum(_coarse_histograms(column, column.name in bounds) for column in schema)
        # Half of delta for the noise, half for levels and spikes that are named.
        noise = CountNoise.share(len(schema), budget.epsilon, budget.delta / 2, coarse=coarse)
        chance = budget.delta / 2 / max(sum(named), 1)
        columns: list[ColumnSchema] = []
        laws: list[_Levels | _Numbers] = []
        for column in schema:
            name = column.name
            learned: tuple[ColumnSchema, _Levels | _Numbers]
            if column.kind.is_discrete:
                learned = _learn_levels(
                    table[name], column, categories.get(name), noise, chance, rng
                )
            elif column.kind.is_modelled:
                if name in categories:
                    raise ConfigError(f"privacy: column {name!r} holds no levels, but numbers")
                learned = _learn_numbers(table[name], column, bounds.get(name), noise, chance, rng)
            else:
                raise ConfigError(f"privacy: column {name!r} is {column.kind}; leave it out")
            columns.append(learned[0])
            laws.append(learned[1])
        return cls(TableSchema(tuple(columns)), laws, budget)

    def surrogate(self, rows: int, seed: int = 0) -> pd.DataFrame:
        """Draw a table of independent columns with the noisy laws.

        Args:
            rows: Number of rows.
            seed: Seed; it need not be secret.
        """
        rng = np.random.default_rng([seed, 1])
        return pd.DataFrame(
            {
                column.name: _draw(column, law, rows, rng)
                for column, law in zip(self.schema, self.laws, strict=True)
            }
        )

    def confine(self, table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
        """Make rows such that they fit `schema`, each by itself.

        Numbers outside the range become its ends; levels that are not named become one that is, by
        lot.

        Args:
            table: Rows.
            seed: Seed of the lots.
        """
        rng = np.random.default_rng([seed, 2])
        columns: dict[str, pd.Series] = {}
        for column, law in zip(self.schema, self.laws, strict=True):
            series = table[column.name].reset_index(drop=True)
            if isinstance(law, _Levels):
                codes = look_up(series, column)
                weights = law.frequencies[:-1]
                total = weights.sum()
                even = np.full(len(weights), 1 / len(weights))
                lots = rng.choice(
                    len(weights), len(series), p=weights / total if total > 0 else even
                )
                codes = np.where(codes < 0, lots, codes)
                codes[series.isna().to_numpy()] = -1
                columns[column.name] = series_from_codes(codes, column)
            else:
                numbers = numbers_from_series(series, column)
                columns[column.name] = series_from_numbers(snap_numbers(numbers, column), column)
        return pd.DataFrame(columns)


def _names_values(column: ColumnSchema, categories: Mapping[str, Any]) -> bool:
    """Whether a histogram over unknown values is asked of a column."""
    if column.kind is ColumnKind.BOOLEAN:
        return False
    return not column.kind.is_discrete or column.name not in categories


def _coarse_histograms(column: ColumnSchema, bounded: bool) -> int:
    """Histograms of a column beside its levels, or spikes and missing: range, halvings."""
    return 0 if column.kind.is_discrete else DEPTH + (not bounded)


def _learn_levels(
    series: pd.Series,
    column: ColumnSchema,
    public: Iterable[Level] | None,
    noise: CountNoise,
    chance: float,
    rng: np.random.Generator,
) -> tuple[ColumnSchema, _Levels]:
    if column.kind is ColumnKind.BOOLEAN:
        public = (False, True)
    if public is not None:
        levels = public_levels(public, column)
    else:
        # Missing is counted like a level that everybody knows.
        found = private_categories(series, noise, chance, rng)
        levels = tuple(level for level in column.categories if level in found)
        if not levels:
            raise DataError(
                f"no level of column {column.name!r} has enough rows to be named at this epsilon "
                f"({len(series)} rows); give its levels as public, {{{column.name!r}: [...]}}, "
                "spend more, take more rows, or drop it"
            )
    held: dict[str, Any] = {"levels": levels} if column.dtype == "category" else {}
    changed = dataclasses.replace(column, categories=levels, **held)
    missing = series.isna().to_numpy()
    if public is not None:
        codes = np.where(missing, len(levels), look_up(series, changed))
        frequencies = private_frequencies(codes, len(levels) + 1, noise, rng)
    else:
        counts = [found[level] for level in levels]
        lost = float(noise.add(missing.sum(), rng))
        frequencies = np.maximum(np.array([*counts, lost]), 0.0)
    if not column.missing:
        frequencies[-1] = 0.0
    total = frequencies.sum()
    even = np.append(np.ones(len(levels)), 0.0)
    return changed, _Levels(frequencies / total if total > 0 else even / even.sum())


def _learn_numbers(
    series: pd.Series,
    column: ColumnSchema,
    public: Any,
    noise: CountNoise,
    chance: float,
    rng: np.random.Generator,
) -> tuple[ColumnSchema, _Numbers]:
    origin = 0 if not _counted(column) else int(column.minimum or 0)
    numbers = numbers_from_series(series, column)
    missing = np.isnan(numbers)
    values = numbers[~missing] + origin
    try:
        if public is None:
            low, high = private_range(values, noise.coarser, rng)
        else:
            low, high = public_range(public, column)
    except DataError as error:
        raise DataError(
            f"column {column.name!r}: {error} ({len(series)} rows); give its range as public, "
            f"{{{column.name!r}: (low, high)}}, spend more, take more rows, or drop it"
        ) from error
    low, high = representable(low, high, column)
    values = np.clip(values, low, high)
    found = private_categories(pd.Series(values), noise, chance, rng)
    lost = max(float(noise.add(missing.sum(), rng)), 0.0) if column.missing else 0.0
    heavy = {v: c for v, c in found.items() if c >= LEAST_ATOM * len(series)}
    atoms = np.sort(np.array([float(value) for value in heavy]))  # type: ignore[arg-type]
    rest = values[~np.isin(values, atoms)]
    if high > low:
        masses = private_masses(rest, low, high, noise.coarser, rng)
    else:
        masses = np.ones(1)
    # Of the rest no count was asked: it is what the public number of rows leaves.
    spikes = np.array([heavy[value] for value in atoms])
    left = max(len(series) - lost - spikes.sum(), 0.0)
    if left < 2 * noise.std * np.sqrt(1 + len(spikes)) and len(spikes):
        left = 0.0
    shares = np.array([lost, *spikes, left])
    law = _Numbers(shares / shares.sum(), atoms, low, high, masses)
    ends: list[float] = [low, high]
    if public is None:
        # Tighter than powers of two: the parts that hold rows, and the spikes.
        part = np.flatnonzero(masses > 0.1 / len(masses))
        ends = [low + (high - low) * edge / len(masses) for edge in (part[0], part[-1] + 1)]
        if left == 0:
            ends = [atoms[0], atoms[-1]]
        elif len(atoms):
            ends = [min(ends[0], atoms[0]), max(ends[1], atoms[-1])]
    if _counted(column):
        changed = dataclasses.replace(
            column, minimum=int(np.floor(ends[0])), maximum=int(np.ceil(ends[1]))
        )
    else:
        changed = dataclasses.replace(column, minimum=float(ends[0]), maximum=float(ends[1]))
    return changed, law


def _counted(column: ColumnSchema) -> bool:
    """Whether numbers are counted from the schema's minimum: integers, dates, durations."""
    return column.kind is not ColumnKind.NUMERICAL or isinstance(column.minimum, int)


def _draw(
    column: ColumnSchema, law: _Levels | _Numbers, rows: int, rng: np.random.Generator
) -> pd.Series:
    if isinstance(law, _Levels):
        codes = rng.choice(len(law.frequencies), rows, p=law.frequencies)
        codes[codes == len(law.frequencies) - 1] = -1
        return series_from_codes(codes, column)
    which = rng.choice(len(law.shares), rows, p=law.shares)
    numbers = masses_quantiles(law.masses, law.low, law.high, rng.random(rows))
    spike = (which > 0) & (which <= len(law.atoms))
    numbers[spike] = law.atoms[which[spike] - 1]
    if _counted(column):
        numbers = numbers - int(column.minimum or 0)
    numbers = snap_numbers(numbers, column)
    numbers[which == 0] = np.nan
    return series_from_numbers(numbers, column)
