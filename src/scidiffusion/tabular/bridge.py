"""Between the codec's arrays and the tensors of the diffusion: states, layout, known values.

A state is {"num": (B, d_num) float, "cat": (B, d_cat) long}, without the part that a table lacks.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from scidiffusion.core.distributions import Categorical
from scidiffusion.core.rng import KeyedNoise
from scidiffusion.tabular.codec import EncodedTable, TableCodec
from scidiffusion.tabular.objective import ColumnLayout

PARTS = {"numerical": "num", "categorical": "cat"}


def layout_of(codec: TableCodec) -> ColumnLayout:
    """Return which encoded variables belong to which column."""
    position = {name: index for index, name in enumerate(codec.schema.names)}
    return ColumnLayout(
        [position[name] for name in codec.numerical_names],
        [position[name] for name in codec.categorical_names],
        len(codec.schema),
    )


def to_state(encoded: EncodedTable) -> dict[str, Tensor]:
    """Return encoded rows as a state."""
    state = {}
    if encoded.numerical.shape[1]:
        state["num"] = torch.from_numpy(encoded.numerical)
    if encoded.categorical.shape[1]:
        state["cat"] = torch.from_numpy(encoded.categorical)
    return state


def blank(codec: TableCodec, rows: int) -> EncodedTable:
    """Return rows of zeros."""
    return EncodedTable(
        np.zeros((rows, len(codec.numerical_names)), dtype=np.float32),
        np.zeros((rows, len(codec.cardinalities)), dtype=np.int64),
    )


def to_encoded(state: Mapping[str, Tensor], codec: TableCodec, rows: int) -> EncodedTable:
    """Return a state as encoded rows."""
    empty = blank(codec, rows)
    return EncodedTable(
        state["num"].numpy() if "num" in state else empty.numerical,
        state["cat"].numpy() if "cat" in state else empty.categorical,
    )


def draw_column(
    codec: TableCodec,
    column: str,
    clean: dict[str, Tensor],
    flags: dict[str, Tensor],
    noise: KeyedNoise,
) -> None:
    """Draw a categorical column of every row from its training frequencies, in place, as known."""
    index = codec.categorical_names.index(column)
    frequencies = torch.from_numpy(codec.marginals[index]).to(clean["cat"].device)
    law = Categorical(frequencies.expand(len(clean["cat"]), -1))
    clean["cat"][:, index] = law.sample(noise.child("target"))
    flags["cat"][:, index] = True
