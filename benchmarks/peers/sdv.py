"""SDV's synthesizers, with their default networks.

CTGAN and TVAE train 300 epochs by default and know no time limit: here the epochs end where the
budget does. The Gaussian copula has nothing to stop.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import ctgan.synthesizers.ctgan as ctgan_module
import ctgan.synthesizers.tvae as tvae_module
import numpy as np
import pandas as pd
import torch
from sdv.metadata import Metadata
from sdv.single_table import (
    CTGANSynthesizer,
    GaussianCopulaSynthesizer,
    TVAESynthesizer,
)

if TYPE_CHECKING:
    from worker import Job

TABLE = "table"
_epochs: list[int] = []


class _TimedEpochs:
    """Stands in for the progress bar that the training loops iterate over."""

    deadline = float("inf")

    def __init__(self, epochs: range, **options: Any) -> None:
        self.epochs = epochs

    def __iter__(self) -> Iterator[int]:
        _epochs.clear()
        for epoch in self.epochs:
            if _epochs and time.perf_counter() > self.deadline:
                return
            yield epoch
            _epochs.append(epoch)


def fit(train: pd.DataFrame, job: Job) -> Any:
    """Fit at the library's defaults, for as many epochs as the budget allows."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    np.random.seed(job.seed)  # noqa: NPY002
    train = train.copy()
    for name in job.of_kind("datetime"):
        train[name] = pd.to_datetime(train[name])
    columns = {name: {"sdtype": kind} for name, kind in job.kinds.items()}
    metadata = Metadata.load_from_dict({"tables": {TABLE: {"columns": columns}}})
    if job.method == "gaussian-copula":
        synthesizer: Any = GaussianCopulaSynthesizer(metadata, **job.settings)
    else:
        kind = CTGANSynthesizer if job.method == "ctgan" else TVAESynthesizer
        synthesizer = kind(metadata, enable_gpu=job.device == "cuda", **job.settings)
        _TimedEpochs.deadline = time.perf_counter() + job.budget
        ctgan_module.tqdm = tvae_module.tqdm = _TimedEpochs
    synthesizer.fit({TABLE: train})
    return synthesizer


def sample(model: Any, rows: int, job: Job) -> pd.DataFrame:
    """Draw rows; without a seed of ours every run would draw SDV's own fixed ones."""
    model._set_random_state(job.seed)
    return model.sample(rows)[TABLE]


def settings(model: Any, job: Job) -> dict[str, Any]:
    """Epochs finished."""
    return {} if job.method == "gaussian-copula" else {"epochs": len(_epochs)}
