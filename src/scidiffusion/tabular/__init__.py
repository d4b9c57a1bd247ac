"""Tables: `TabularDiffusion`, its schema and codec, scores and plots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scidiffusion import _lazy
from scidiffusion.tabular.codec import EncodedTable, TableCodec
from scidiffusion.tabular.conditions import Between, Equal, OneOf
from scidiffusion.tabular.constraints import FixedCombinations, Formula, Inequality, Unique
from scidiffusion.tabular.estimator import TabularDiffusion
from scidiffusion.tabular.inference import infer_schema
from scidiffusion.tabular.schema import ColumnKind, ColumnSchema, TableSchema

if TYPE_CHECKING:
    from scidiffusion.tabular.report import write_report as write_report
else:
    __getattr__, __dir__ = _lazy.attach(
        __name__, names={"write_report": "scidiffusion.tabular.report"}
    )

__all__ = [
    "Between",
    "ColumnKind",
    "ColumnSchema",
    "EncodedTable",
    "Equal",
    "FixedCombinations",
    "Formula",
    "Inequality",
    "OneOf",
    "TableCodec",
    "TableSchema",
    "TabularDiffusion",
    "Unique",
    "infer_schema",
    "write_report",
]
