"""A table as two arrays a network can learn, and back.

Numbers, dates and durations become normal scores (:mod:`scidiffusion.tabular.quantiles`); levels
become codes. A number that can be missing brings a second, two-level code column (present,
missing), and its score is filled with a normal draw where it is missing, so that the scores keep
one distribution and carry no second copy of that information. A level that can be missing has one
more code, the last. Decoding is deterministic and always valid: observed levels, the observed
range, the column's own decimals and dtype.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.errors import ConfigError, DataError, ModelFileError, SchemaError
from scidiffusion.persistence import check_version
from scidiffusion.tabular.columns import series_from_codes
from scidiffusion.tabular.quantiles import NormalScores
from scidiffusion.tabular.reading import (
    check_columns,
    read_levels,
    read_numbers,
    write_numbers,
)
from scidiffusion.tabular.schema import ColumnSchema, TableSchema

__all__ = ["ColumnSlot", "EncodedTable", "TableCodec"]

CODEC_VERSION = 1


@dataclass(frozen=True)
class EncodedTable:
    """Rows as a network sees them.

    Args:
        numerical: Normal scores, float32 of shape (n, d_num).
        categorical: Codes, int64 of shape (n, d_cat).

    Raises:
        DataError: If the arrays are not two-dimensional or differ in their number of rows.
    """

    numerical: NDArray[np.float32]
    categorical: NDArray[np.int64]

    def __post_init__(self) -> None:
        object.__setattr__(self, "numerical", np.asarray(self.numerical, dtype=np.float32))
        object.__setattr__(self, "categorical", np.asarray(self.categorical, dtype=np.int64))
        shapes = self.numerical.shape, self.categorical.shape
        if any(len(shape) != 2 for shape in shapes) or shapes[0][0] != shapes[1][0]:
            raise DataError(f"an encoded table needs two matrices of equal length, got {shapes}")

    def __len__(self) -> int:
        return len(self.numerical)


@dataclass(frozen=True)
class ColumnSlot:
    """Where a table's column sits in the encoded arrays.

    Args:
        numerical: Its column of ``numerical``, if it is a number, a date or a duration.
        categorical: Its column of ``categorical``: the levels, or present (0) and missing (1).
    """

    numerical: int | None = None
    categorical: int | None = None


class TableCodec:
    """Encodes the rows of one schema and decodes them again.

    Args:
        schema: The table's schema.
        max_knots: Resolution of a continuous column's distribution function.
        dequantize: Spread the rows of an atom evenly over its interval of probability, which
            makes every column of scores exactly normal, instead of putting them on its middle.

    Raises:
        ConfigError: If ``max_knots`` is below 2.

    Attributes:
        schema: The schema.
        numerical_names: Column behind each column of ``numerical``.
        categorical_names: Column behind each column of ``categorical``.
        cardinalities: Number of codes of each column of ``categorical``.
        slots: Column name -> :class:`ColumnSlot`.
        marginals: Once fitted, the training frequencies of each column's codes, all positive
            on the table the schema was inferred from.

    Example:
        >>> import pandas as pd
        >>> from scidiffusion.tabular.inference import infer_schema
        >>> table = pd.DataFrame({"dose": [0.5, 1.25, 3.0], "arm": ["a", "b", "a"]})
        >>> codec = TableCodec(infer_schema(table)).fit(table)
        >>> codec.decode(codec.encode(table)).equals(table)
        True
    """

    def __init__(
        self, schema: TableSchema, *, max_knots: int = 1000, dequantize: bool = False
    ) -> None:
        if max_knots < 2:
            raise ConfigError(f"max_knots must be at least 2, got {max_knots}")
        self.schema = schema
        self.max_knots = int(max_knots)
        self.dequantize = bool(dequantize)
        self.numerical_names: list[str] = []
        self.categorical_names: list[str] = []
        self.cardinalities: list[int] = []
        self.slots: dict[str, ColumnSlot] = {}
        self.marginals: list[NDArray[np.float64]] = []
        self._scores: list[NormalScores] = []
        for column in schema:
            numerical = categorical = None
            if not column.kind.is_discrete:
                numerical = len(self.numerical_names)
                self.numerical_names.append(column.name)
            if column.kind.is_discrete or column.missing:
                categorical = len(self.categorical_names)
                self.categorical_names.append(column.name)
                levels = len(column.categories) if column.kind.is_discrete else 1
                self.cardinalities.append(levels + column.missing)
            self.slots[column.name] = ColumnSlot(numerical, categorical)

    @property
    def is_fitted(self) -> bool:
        """Whether the codec has seen a table."""
        return len(self._scores) == len(self.numerical_names) and len(self.marginals) == len(
            self.cardinalities
        )

    def __repr__(self) -> str:
        return (
            f"TableCodec({len(self.schema)} columns -> {len(self.numerical_names)} scores, "
            f"{len(self.cardinalities)} codes of {sum(self.cardinalities)} levels)"
        )

    @property
    def category_names(self) -> list[list[str]]:
        """What each code of each column of ``categorical`` stands for, as text."""
        names: list[list[str]] = []
        for name in self.categorical_names:
            column = self.schema[name]
            discrete = column.kind.is_discrete
            levels = [str(level) for level in column.categories] if discrete else ["present"]
            names.append(levels + ["missing"] * column.missing)
        return names

    def fit(self, table: pd.DataFrame) -> Self:
        """Learn the distribution functions and the marginals.

        Args:
            table: The training table, of the codec's schema.

        Returns:
            The codec itself.

        Raises:
            DataError: If the table does not fit the schema.
        """
        check_columns(table, self.schema)
        if len(table) == 0:
            raise DataError("the table has no rows; a codec needs at least one to fit")
        scores: list[NormalScores] = []
        marginals: list[NDArray[np.float64]] = []
        for column in self.schema:
            numbers, codes = self._read(table, column)
            if numbers is not None:
                scores.append(NormalScores.fit(numbers[np.isfinite(numbers)], self.max_knots))
            if codes is not None:
                cardinality = self.cardinalities[len(marginals)]
                marginals.append(np.bincount(codes, minlength=cardinality) / len(codes))
        self._scores, self.marginals = scores, marginals
        return self

    def encode(self, table: pd.DataFrame, *, seed: int = 0, gaps: bool = False) -> EncodedTable:
        """Encode rows.

        Args:
            table: Rows of the codec's schema, columns in any order.
            seed: Seed of the fill of missing numbers and of ``dequantize``.
            gaps: Accept missing values in any column; where training had none the code is 0.

        Returns:
            The encoded rows.

        Raises:
            DataError: If a column is missing or unknown, holds another kind of values, a level the
                schema does not know, or a missing value where training had none.
        """
        self._check_fitted()
        check_columns(table, self.schema)
        rng = np.random.default_rng(seed)
        numerical = np.empty((len(table), len(self.numerical_names)), dtype=np.float32)
        categorical = np.empty((len(table), len(self.cardinalities)), dtype=np.int64)
        for column in self.schema:
            slot = self.slots[column.name]
            numbers, codes = self._read(table, column, gaps=gaps)
            if codes is not None and slot.categorical is not None:
                limit = self.cardinalities[slot.categorical]
                categorical[:, slot.categorical] = np.where(codes < limit, codes, 0)
            if numbers is None or slot.numerical is None:
                continue
            present = ~np.isnan(numbers)
            scores = rng.standard_normal(len(numbers))
            within = rng.random(int(present.sum())) if self.dequantize else 0.5
            scores[present] = self._scores[slot.numerical].encode(numbers[present], within)
            numerical[:, slot.numerical] = scores
        return EncodedTable(numerical, categorical)

    def decode(self, encoded: EncodedTable) -> pd.DataFrame:
        """Turn encoded rows, sampled ones above all, into a table of the schema.

        Args:
            encoded: The rows; scores may be any finite numbers.

        Returns:
            The table: columns, order and dtypes of the training table, a fresh index.

        Raises:
            DataError: If the arrays have another width, scores that are not finite (a sampling
                that diverged) or codes outside their column's range.
        """
        self._check_fitted()
        self._check_encoded(encoded)
        series: dict[str, pd.Series] = {}
        for column in self.schema:
            slot = self.slots[column.name]
            codes = numbers = None
            if slot.categorical is not None:
                codes = encoded.categorical[:, slot.categorical]
            if slot.numerical is not None:
                scores = encoded.numerical[:, slot.numerical].astype(np.float64)
                numbers = self._scores[slot.numerical].decode(scores)
            series[column.name] = self._write(column, numbers, codes)
        return pd.DataFrame(series, columns=self.schema.names)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Everything learned, as a JSON object and named arrays.

        Returns:
            ``(config, arrays)`` for :meth:`from_state`.
        """
        self._check_fitted()
        config = {
            "version": CODEC_VERSION,
            "max_knots": self.max_knots,
            "dequantize": self.dequantize,
            "schema": self.schema.to_dict(),
        }
        arrays: dict[str, NDArray[Any]] = {}
        for index, scores in enumerate(self._scores):
            for key, array in scores.arrays().items():
                arrays[f"numerical.{index}.{key}"] = array
        for index, marginal in enumerate(self.marginals):
            arrays[f"categorical.{index}.marginal"] = marginal
        return config, arrays

    @classmethod
    def from_state(cls, config: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild a codec from :meth:`state`.

        Args:
            config: The JSON object.
            arrays: The arrays by name; others may lie among them.

        Returns:
            A codec that encodes and decodes as the saved one.

        Raises:
            ModelFileError: If parts are missing, contradictory or of a newer version.
        """
        check_version(config, CODEC_VERSION, "the codec")
        try:
            schema = TableSchema.from_dict(config["schema"])
            codec = cls(schema, max_knots=config["max_knots"], dequantize=config["dequantize"])
        except (KeyError, AttributeError, SchemaError, ConfigError) as error:
            raise ModelFileError(
                f"the codec of the saved model cannot be read: {error}"
            ) from error
        for index in range(len(codec.numerical_names)):
            prefix = f"numerical.{index}."
            part = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
            codec._scores.append(NormalScores.from_arrays(part))
        for index, cardinality in enumerate(codec.cardinalities):
            marginal = np.asarray(arrays.get(f"categorical.{index}.marginal", ()), np.float64)
            if marginal.shape != (cardinality,):
                raise ModelFileError(
                    f"the marginal of column {codec.categorical_names[index]!r} is missing or "
                    "does not fit the schema"
                )
            codec.marginals.append(marginal)
        return codec

    def _read(
        self, table: pd.DataFrame, column: ColumnSchema, *, gaps: bool = False
    ) -> tuple[NDArray[np.float64] | None, NDArray[np.int64] | None]:
        """Numbers (NaN if missing) and codes of one column of a table, None where it has none."""
        values = table[column.name]
        if column.kind.is_discrete:
            codes = read_levels(values, column, missing=gaps or None)
            return None, np.where(codes < 0, len(column.categories), codes)
        numbers = read_numbers(values, column, missing=gaps or None)
        return numbers, np.isnan(numbers).astype(np.int64) if column.missing else None

    @staticmethod
    def _write(
        column: ColumnSchema,
        numbers: NDArray[np.float64] | None,
        codes: NDArray[np.int64] | None,
    ) -> pd.Series:
        """One column of the table from its numbers and codes."""
        if numbers is None:
            assert codes is not None
            levels = np.where(codes == len(column.categories), -1, codes)
            return series_from_codes(levels, column)
        if codes is not None:
            numbers = np.where(codes == 1, np.nan, numbers)
        return write_numbers(numbers, column)

    def _check_fitted(self) -> None:
        if not self.is_fitted:
            raise DataError("the codec is not fitted; call fit(table) first")

    def _check_encoded(self, encoded: EncodedTable) -> None:
        widths = encoded.numerical.shape[1], encoded.categorical.shape[1]
        expected = len(self.numerical_names), len(self.cardinalities)
        if widths != expected:
            raise DataError(f"encoded rows are {widths} wide, the codec's are {expected}")
        finite = np.isfinite(encoded.numerical).all(axis=0)
        if not finite.all():
            name = self.numerical_names[int(np.argmin(finite))]
            raise DataError(f"the scores of column {name!r} are not finite: sampling diverged")
        codes, limits = encoded.categorical, np.array(self.cardinalities, dtype=np.int64)
        valid = ((codes >= 0) & (codes < limits)).all(axis=0)
        if not valid.all():
            name = self.categorical_names[int(np.argmin(valid))]
            raise DataError(f"codes of column {name!r} are outside [0, its number of levels)")
