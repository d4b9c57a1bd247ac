"""The tables of the benchmarks: a fixed split with the kind of every column.

A folder DIR/NAME holds train.csv, test.csv and meta.json: `target`, `task_type` ("binclass" or
"regression") and `columns`, each with `name`, `kind` ("numerical", "categorical" or "datetime")
and, of whole numbers, `integer`. Without a folder there is one table, `randhie` of statsmodels.
"""

from __future__ import annotations

import json
import os
from argparse import ArgumentParser
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

EPOCH = pd.Timestamp("2000-01-01")
MISSING = "__missing__"


@dataclass(frozen=True)
class Benchmark:
    """A table, split.

    Args:
        name: The table's name.
        train: Rows to learn.
        test: Rows held out.
        target: The column to predict.
        task: "binclass" or "regression".
        kinds: Column -> "numerical", "categorical" or "datetime".
        integers: Names of the numerical columns of whole numbers.
    """

    name: str
    train: pd.DataFrame
    test: pd.DataFrame
    target: str
    task: str
    kinds: dict[str, str]
    integers: frozenset[str] = field(default_factory=frozenset)

    def of_kind(self, *kinds: str) -> list[str]:
        """Names of the columns of some kinds, in order."""
        return [name for name, kind in self.kinds.items() if kind in kinds]

    @property
    def overrides(self) -> dict[str, str]:
        """The categorical columns, as estimators take them."""
        return dict.fromkeys(self.of_kind("categorical"), "categorical")


def add_data_arguments(parser: ArgumentParser) -> None:
    """Add --data-dir and --dataset."""
    folder = os.environ.get("SCIDIFFUSION_DATA")
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=None if folder is None else Path(folder),
        help="folder of tables; default is the environment variable SCIDIFFUSION_DATA",
    )
    parser.add_argument("--dataset", default="randhie", help="subfolder of --data-dir")


def load(data_dir: Path | None, name: str) -> Benchmark:
    """Read a table.

    Raises:
        SystemExit: If there is no such table.
    """
    if name == "randhie":
        return _randhie()
    if data_dir is None:
        raise SystemExit(f"--dataset {name} needs --data-dir, or SCIDIFFUSION_DATA")
    folder = data_dir / name
    if not (folder / "meta.json").exists():
        raise SystemExit(f"{folder} holds no meta.json; it needs train.csv, test.csv, meta.json")
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    columns = meta["columns"]
    kinds = {column["name"]: column["kind"] for column in columns}
    train, test = (read_table(folder / f"{part}.csv", list(kinds)) for part in ("train", "test"))
    return Benchmark(
        name=name,
        train=train,
        test=test,
        target=meta["target"],
        task=meta["task_type"],
        kinds=kinds,
        integers=frozenset(c["name"] for c in columns if c.get("integer")),
    )


def read_table(path: Path, names: list[str]) -> pd.DataFrame:
    """Read the named columns of a CSV file, in this order."""
    return pd.read_csv(path, low_memory=False)[names]


def plain(benchmark: Benchmark, table: pd.DataFrame) -> pd.DataFrame:
    """A table as the judges read it: numbers, dates as days, categories as text.

    Args:
        benchmark: Gives the kinds.
        table: Rows as read from a CSV file.

    Returns:
        Floats, with NaN where missing, and text, with `MISSING` as a category of its own.
    """
    read = {}
    for name, kind in benchmark.kinds.items():
        series = table[name]
        if kind == "categorical":
            present = series.notna()
            if pd.api.types.is_float_dtype(series) and (series[present] % 1 == 0).all():
                # Missing values make a CSV column of codes one of floats.
                series = series.astype("Int64")
            read[name] = series.astype(object).where(present, MISSING).astype(str)
        elif kind == "datetime":
            days = (pd.to_datetime(series, errors="coerce") - EPOCH).dt.days
            read[name] = days.astype(float)
        else:
            read[name] = pd.to_numeric(series, errors="coerce").astype(float)
    return pd.DataFrame(read)


def _randhie() -> Benchmark:
    from scidiffusion.demo import CATEGORIES, TARGET, load_randhie

    table = load_randhie().sample(frac=1, random_state=0).reset_index(drop=True)
    cut = len(table) // 5
    categorical = {*CATEGORIES, *table.select_dtypes(bool).columns}
    return Benchmark(
        name="randhie",
        train=table[cut:].reset_index(drop=True),
        test=table[:cut].reset_index(drop=True),
        target=TARGET,
        task="binclass",
        kinds={c: "categorical" if c in categorical else "numerical" for c in table.columns},
        integers=frozenset({"mdvis"}),
    )
