"""`TabularDiffusion` of this project; the options of --options go to it as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from scidiffusion.tabular import TabularDiffusion

if TYPE_CHECKING:
    from worker import Job


def fit(train: pd.DataFrame, job: Job) -> Any:
    """Fit within the budget."""
    torch.set_num_threads(job.threads)
    options: dict[str, Any] = {
        "target": job.target,
        "columns": dict.fromkeys(job.of_kind("categorical"), "categorical"),
        "device": job.device,
        "budget": job.budget,
        **job.settings,
    }
    return TabularDiffusion(random_state=job.seed, progress=False, **options).fit(train)


def sample(model: Any, rows: int, job: Job) -> pd.DataFrame:
    """Draw rows."""
    return model.sample(rows, random_state=job.seed)


def settings(model: Any, job: Job) -> dict[str, Any]:
    """Steps taken and why they ended."""
    done = model.training_
    return {"method": model.method, "steps": done.steps, "stopped_by": done.stopped_by}
