"""The two floors: real rows drawn again, and columns without any dependence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from worker import Job


def fit(train: pd.DataFrame, job: Job) -> pd.DataFrame:
    """Nothing is learned."""
    return train


def sample(model: pd.DataFrame, rows: int, job: Job) -> pd.DataFrame:
    """Rows drawn with replacement, together ("bootstrap") or column by column ("independent")."""
    rng = np.random.default_rng(job.seed)
    if job.method == "bootstrap":
        return model.iloc[rng.integers(len(model), size=rows)].reset_index(drop=True)
    columns = {
        name: model[name].iloc[rng.integers(len(model), size=rows)].reset_index(drop=True)
        for name in model.columns
    }
    return pd.DataFrame(columns)
