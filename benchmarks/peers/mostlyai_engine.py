"""mostlyai-engine: any-order autoregressive model over column codes, at its defaults."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from mostlyai.engine import TabularARGN

if TYPE_CHECKING:
    from worker import Job

ENCODINGS = {
    "categorical": "TABULAR_CATEGORICAL",
    "numerical": "TABULAR_NUMERIC_AUTO",
    "datetime": "TABULAR_DATETIME",
}


def fit(train: pd.DataFrame, job: Job) -> Any:
    """Fit for the budget; its own early stopping may end sooner."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(job.threads)
    train = train.copy()
    for name in job.of_kind("datetime"):
        train[name] = pd.to_datetime(train[name])
    model = TabularARGN(
        max_training_time=job.budget / 60,
        tgt_encoding_types={name: ENCODINGS[kind] for name, kind in job.kinds.items()},
        device=job.device,
        random_state=job.seed,
        **job.settings,
    )
    return model.fit(train)


def sample(model: Any, rows: int, job: Job) -> pd.DataFrame:
    """Draw rows."""
    return model.sample(n_samples=rows)
