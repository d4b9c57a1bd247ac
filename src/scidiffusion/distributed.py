"""Draw more rows than one machine should, with Ray Data.

A saved model is loaded once a worker; part k of a sample is drawn with a seed that is a function
of (random_state, k). So the rows depend on the seed and the size of a part, not on how many
workers there are or which of them drew what.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from scidiffusion import _lazy
from scidiffusion.errors import ConfigError, ModelFileError
from scidiffusion.estimator import GenerativeEstimator, check_count, check_positive, check_seed
from scidiffusion.training.seeding import key_of

PART = 65_536
"""Rows that are drawn at once."""
ESTIMATORS = {
    "TabularDiffusion": "scidiffusion.tabular",
    "DensityDiffusion": "scidiffusion.toy",
    "ImageDiffusion": "scidiffusion.images",
    "LatentDiffusion": "scidiffusion.latent",
}
"""Estimators of rows, by the names that model folders hold -> where they are."""


def draw(
    path: str | Path,
    n: int,
    *,
    random_state: int = 0,
    rows: int = PART,
    workers: int | None = None,
    device: str = "cpu",
    num_gpus: float = 0,
    **options: Any,
) -> Any:
    """Draw rows of a saved model on every machine of a Ray cluster.

    Nothing is drawn before the dataset is read, as always with Ray Data: write it
    (`draw(...).write_parquet(folder)`), or iterate over it.

    Args:
        path: Folder of the model, which every machine sees.
        n: Number of rows.
        random_state: Seed.
        rows: Rows of a part; another number is another sample.
        workers: Processes that draw; None is one a CPU of the cluster.
        device: Where a worker runs its model: "cpu" or "cuda".
        num_gpus: GPUs that each worker is given.
        **options: As of the estimator's `sample`, the same for every part.

    Returns:
        A `ray.data.Dataset` of n rows: the columns of a table, or a column "rows" of arrays.

    Raises:
        MissingExtraError: without Ray.
        ModelFileError: if there is no model of rows at `path`.
        ConfigError: if an option is out of range.
        InputError: if n is negative.
    """
    ray = _lazy.require("ray", "distributed")
    _lazy.require("ray.data", "distributed")
    n, seed, rows = check_count(n), check_seed(random_state), check_positive(rows, "rows") or PART
    workers = check_positive(workers, "workers")
    if "random_state" in options or "n" in options:
        raise ConfigError("n and random_state are arguments of draw, not of a part")
    _estimator_of(path)  # before a worker is started
    parts = -(-n // rows)
    if workers is None:
        if not ray.is_initialized():
            ray.init(log_to_driver=False)
        workers = max(1, min(int(ray.cluster_resources().get("CPU", 1)), parts))
    asked = {"n": n, "rows": rows, "seed": seed, "options": options}
    return ray.data.range(parts).map_batches(
        Part,
        fn_constructor_args=(str(path), device, asked),
        batch_size=1,
        # From one worker up: a pool that took every CPU at once would leave none to number parts.
        concurrency=(1, workers),
        num_gpus=num_gpus,
    )


class Part:
    """What a worker does: load once, draw the parts it is told.

    Args:
        path: Folder of the model.
        device: Where it runs.
        asked: n, rows, seed and the options of `sample`.
    """

    def __init__(self, path: str, device: str, asked: dict[str, Any]) -> None:
        self.model = _estimator_of(path).load(path, device=device)
        if hasattr(self.model, "progress"):
            self.model.progress = False
        self.asked = asked

    def __call__(self, batch: dict[str, Any]) -> Any:
        """Draw the part whose number is `batch["id"]`."""
        number, rows = int(batch["id"][0]), self.asked["rows"]
        count = min(rows, self.asked["n"] - number * rows)
        seed = key_of(self.asked["seed"], "part", number)
        model: Any = self.model
        drawn = model.sample(count, random_state=seed, **self.asked["options"])
        return {"rows": drawn} if isinstance(drawn, np.ndarray) else drawn


def _estimator_of(path: str | Path) -> type[GenerativeEstimator]:
    """The class whose model a folder holds."""
    file = Path(path) / "config.json"
    try:
        name = json.loads(file.read_text(encoding="utf-8"))["estimator"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"there is no model at {path}: {error}") from error
    if name not in ESTIMATORS:
        raise ModelFileError(
            f"the model at {path} is a {name}; rows are drawn of {', '.join(ESTIMATORS)}"
        )
    found: type[GenerativeEstimator] = getattr(importlib.import_module(ESTIMATORS[name]), name)
    return found
