"""Tables: `TabularDiffusion`, its schema and codec, scores and plots."""

from __future__ import annotations

from scidiffusion.tabular.codec import EncodedTable, TableCodec
from scidiffusion.tabular.estimator import TabularDiffusion
from scidiffusion.tabular.inference import infer_schema
from scidiffusion.tabular.schema import ColumnKind, ColumnSchema, TableSchema

__all__ = [
    "ColumnKind",
    "ColumnSchema",
    "EncodedTable",
    "TableCodec",
    "TableSchema",
    "TabularDiffusion",
    "infer_schema",
]
