"""A real and a synthetic table made comparable, whatever files they came from.

Two tables are compared through one schema, that of the real one. Real rows that the generator has
not seen give every figure its floor; where there are none, a seeded part of the real rows is held
aside to stand in. The generator may have seen that part, so it can be the floor of a distance
between tables but not the witness of copying: figures that need unseen rows are left out then.
Columns about which no distribution can be compared (all missing; identifiers, whose every value is
new) are set aside and named.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from scidiffusion.errors import ConfigError, DataError, SchemaError
from scidiffusion.tabular.identifiers import identifier_reason
from scidiffusion.tabular.inference import check_overrides, infer_schema
from scidiffusion.tabular.judges import copy_share
from scidiffusion.tabular.metrics import TableScore, score_table
from scidiffusion.tabular.schema import ColumnKind, ColumnSchema, TableSchema, unknown_column
from scidiffusion.tabular.views import TableView

__all__ = ["ComparedTables", "align_tables", "check_target", "score_aligned", "score_synthetic"]

MIN_ROWS = 10
HELD_ASIDE = 0.2
# Cells a judge is trained on: a table of many columns is judged by fewer rows.
JUDGE_CELLS = 400_000


@dataclass(frozen=True)
class ComparedTables:
    """Tables under one schema.

    Args:
        schema: The columns that are compared, as the real table has them.
        real: Every row of the real table.
        train: Those to compare with: all, or those not held aside.
        test: Real rows for the floors.
        synthetic: The synthetic rows.
        unseen: Whether the test rows are a table of their own, which the generator has not seen,
            and not a part of the real one.
        left_out: Columns that are not compared -> why.
        seed: The seed of the split and of everything drawn later.
    """

    schema: TableSchema
    real: pd.DataFrame
    train: pd.DataFrame
    test: pd.DataFrame
    synthetic: pd.DataFrame
    unseen: bool
    left_out: dict[str, str]
    seed: int

    @property
    def judge_rows(self) -> int:
        """Rows a gradient-boosted judge is given."""
        return int(np.clip(JUDGE_CELLS // len(self.schema), 1000, 5000))

    def view(self, table: str) -> TableView:
        """One of the tables through the schema.

        Args:
            table: ``"real"``, ``"train"``, ``"test"`` or ``"synthetic"``.
        """
        return TableView.of(getattr(self, table), self.schema, f"{table} table")


def align_tables(
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    *,
    holdout: pd.DataFrame | None = None,
    columns: Mapping[str, ColumnKind | str] | None = None,
    seed: int = 0,
) -> ComparedTables:
    """Make tables comparable.

    Args:
        real: The table the generator was trained on.
        synthetic: The table to judge, with the same columns in any order.
        holdout: Real rows the generator has not seen. Without them a fifth of the real rows is
            drawn and held aside.
        columns: Column -> kind, where the inferred kind of the real column is not meant.
        seed: Seed of that draw.

    Returns:
        The tables under one schema.

    Raises:
        DataError: If a table is empty, has other columns than the real one, or a column that
            cannot be read as one of a table, such as a nested one.
        SchemaError: If ``columns`` names no column, or a kind a column cannot have.
        ConfigError: If the seed is not a number from 0.
    """
    tables = {"real table": real, "synthetic table": synthetic}
    if holdout is not None:
        tables["holdout table"] = holdout
    for name, table in tables.items():
        _check_frame(table, name)
    for name, table in list(tables.items())[1:]:
        _check_same_columns(real, table, name)
    if len(real) < MIN_ROWS:
        raise DataError(
            f"the real table has {len(real)} row(s); at least {MIN_ROWS} are needed to compare"
        )
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ConfigError(f"seed must be a whole number and not negative, got {seed!r}")
    kinds = check_overrides(list(real.columns), columns)
    if holdout is None:
        order = np.random.default_rng(seed).permutation(len(real))
        cut = math.ceil(HELD_ASIDE * len(real))
        # In their old order, so that a table sorted by date stays so.
        train, test = real.iloc[np.sort(order[cut:])], real.iloc[np.sort(order[:cut])]
    else:
        train, test = real, holdout

    empty = [str(name) for name in real.columns if train[name].isna().all()]
    left_out = dict.fromkeys(empty, "only missing values")
    if len(left_out) == real.shape[1]:
        raise DataError("every column of the real table has only missing values")
    wanted = {name: kind for name, kind in kinds.items() if name not in left_out}
    schema = infer_schema(real.drop(columns=list(left_out)), wanted)
    for column in schema:
        _check_finite(column)
    unique = {}
    for column in schema:
        if not column.kind.is_modelled:
            unique[column.name] = "identifier"
        elif column.name not in kinds:
            values = real[column.name]
            reason = identifier_reason(values, column, int(values.nunique()))
            if reason is not None:
                unique[column.name] = f"identifier or free text ({reason})"
    if len(unique) == len(schema):
        name = next(iter(unique))
        raise DataError(
            f"no column of the real table can be compared: {name!r} is taken for an "
            f"{unique[name]}; to compare its values, override its kind: "
            f"{{{name!r}: 'categorical'}}"
        )
    left_out |= unique
    schema = TableSchema(tuple(column for column in schema if column.name not in unique))
    return ComparedTables(
        schema=schema,
        real=real,
        train=train,
        test=_retyped(test, schema),
        synthetic=_retyped(synthetic, schema),
        unseen=holdout is not None,
        left_out={name: left_out[name] for name in real.columns if name in left_out},
        seed=seed,
    )


def score_synthetic(
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    *,
    holdout: pd.DataFrame | None = None,
    target: str | None = None,
    columns: Mapping[str, ColumnKind | str] | None = None,
    seed: int = 0,
) -> TableScore:
    """Score a synthetic table, with no schema at hand.

    Args:
        real: The table the generator was trained on.
        synthetic: The table to judge.
        holdout: Real rows it has not seen, see :func:`align_tables`.
        target: The column to predict for ``ml_efficacy``; None leaves it out.
        columns: Column -> kind, where the inferred kind is not meant.
        seed: Seed of every draw and judge.

    Returns:
        The figures beside their floors; without ``holdout`` none of ``dcr_share``, and copies
        counted among all rows of ``real``.

    Raises:
        DataError: As for :func:`align_tables`.
        SchemaError: As there, or if the target is not a column that is compared.
    """
    check_target(target, list(real.columns) if isinstance(real, pd.DataFrame) else [])
    tables = align_tables(real, synthetic, holdout=holdout, columns=columns, seed=seed)
    return score_aligned(tables, target)


def score_aligned(tables: ComparedTables, target: str | None = None) -> TableScore:
    """Score tables that were made comparable.

    Args:
        tables: The tables.
        target: The column to predict for ``ml_efficacy``; None leaves it out.

    Returns:
        As for :func:`score_synthetic`.

    Raises:
        SchemaError: If the target is not a column that is compared.
    """
    if target in tables.left_out:
        raise SchemaError(
            f"target: column {target!r} cannot be predicted ({tables.left_out[target]}); "
            "name another one"
        )
    score = score_table(
        tables.train,
        tables.test,
        tables.synthetic,
        tables.schema,
        target=target,
        seed=tables.seed,
        judge_rows=tables.judge_rows,
    )
    if tables.unseen:
        return score
    # The generator may have seen the rows held aside: being near to them proves nothing, and
    # copies of them are copies.
    copies = 100 * copy_share(tables.view("real"), tables.view("synthetic"))
    return dataclasses.replace(
        score,
        synthetic=dataclasses.replace(score.synthetic, dcr_share=None, copies=copies),
        real=dataclasses.replace(score.real, dcr_share=None),
        independent=dataclasses.replace(score.independent, dcr_share=None),
    )


def check_target(target: str | None, names: list[str]) -> None:
    """Check that a target is a column, before anything is computed.

    Args:
        target: A name, or None.
        names: The columns there are.

    Raises:
        SchemaError: If it is not one of them.
    """
    if target is not None and names and target not in names:
        raise SchemaError(f"target: {unknown_column(target, names)}")


def _check_frame(table: object, name: str) -> None:
    if not isinstance(table, pd.DataFrame):
        raise DataError(
            f"the {name} must be a pandas DataFrame, not {type(table).__name__}; "
            "make one with pd.DataFrame(...) or pd.read_csv(...)"
        )
    if table.shape[1] == 0:
        raise DataError(f"the {name} has no columns")
    if len(table) == 0:
        raise DataError(f"the {name} has no rows")
    odd = next((column for column in table.columns if not isinstance(column, str)), None)
    if odd is not None:
        raise DataError(
            f"column name {odd!r} of the {name} is {type(odd).__name__}, not text; rename the "
            "columns: df.columns = df.columns.astype(str)"
        )
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise DataError(f"column name {twice[0]!r} occurs more than once in the {name}")
    for column in table.select_dtypes(object).columns:
        kinds = list | dict | set | np.ndarray
        nested = next((value for value in table[column] if isinstance(value, kinds)), None)
        if nested is not None:
            raise DataError(
                f"column {column!r} of the {name} is nested: it holds {type(nested).__name__} "
                "values; unfold it into plain columns, or drop it"
            )


def _check_same_columns(real: pd.DataFrame, other: pd.DataFrame, name: str) -> None:
    lacking = [column for column in real.columns if column not in other.columns]
    extra = [column for column in other.columns if column not in real.columns]
    if not lacking and not extra:
        return
    found = [
        f"{verb} {', '.join(map(repr, names[:5]))}{', ...' if len(names) > 5 else ''}"
        for verb, names in (("lacks", lacking), ("has also", extra))
        if names
    ]
    raise DataError(
        f"the columns of the {name} are not those of the real one: it {' and '.join(found)}; "
        "rename or drop columns until both have the same"
    )


def _check_finite(column: ColumnSchema) -> None:
    ends = (column.minimum, column.maximum)
    if any(isinstance(value, float) and math.isinf(value) for value in ends):
        raise DataError(
            f"column {column.name!r} of the real table holds infinite values; make them missing: "
            f"df[{column.name!r}] = df[{column.name!r}].replace([np.inf, -np.inf], np.nan)"
        )


def _retyped(table: pd.DataFrame, schema: TableSchema) -> pd.DataFrame:
    """Text that a reader of files took for numbers is text again.

    A real column of codes such as ``"12", "3B"`` is text; a sample of it may hold digits only.
    """
    changed = {}
    for column in schema:
        series = table[column.name]
        texts = column.kind is ColumnKind.CATEGORICAL and isinstance(column.categories[0], str)
        if texts and series.dtype.kind in "if":
            changed[column.name] = series.map(_digits, na_action="ignore").astype(object)
    return table.assign(**changed) if changed else table


def _digits(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)
