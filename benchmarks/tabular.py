"""Fit a table, sample a copy, score it against rows that were held out.

    python benchmarks/tabular.py [--data-dir DIR --dataset NAME] [--budget 280] [--seeds 0 1 2]

DIR/NAME holds train.csv, test.csv and meta.json (with the keys `target` and `columns`, each of the
latter with `name` and `kind`); it may also be named by the environment variable SCIDIFFUSION_DATA.
Without a folder the benchmark runs on `randhie`, which ships in statsmodels. Written are the
figures (mean over the seeds, and every run), and the synthetic tables with --keep.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from scidiffusion.demo import load_randhie
from scidiffusion.tabular import TabularDiffusion
from scidiffusion.tabular.metrics import quality_report, score_table


def load(data_dir: Path | None, name: str) -> tuple[pd.DataFrame, pd.DataFrame, str, dict]:
    """Return train, test, target and the overrides of column kinds."""
    if data_dir is None:
        table = load_randhie().sample(frac=1, random_state=0).reset_index(drop=True)
        cut = len(table) // 5
        return table[cut:].reset_index(drop=True), table[:cut].reset_index(drop=True), "hlthg", {}
    folder = data_dir / name
    meta = json.loads((folder / "meta.json").read_text())
    kinds = {
        column["name"]: "categorical"
        for column in meta["columns"]
        if column["kind"] == "categorical"
    }
    train, test = (
        pd.read_csv(folder / f"{part}.csv", low_memory=False) for part in ("train", "test")
    )
    return train, test, meta["target"], kinds


def run(arguments: argparse.Namespace, seed: int) -> dict[str, float]:
    """Fit, sample and score once."""
    train, test, target, kinds = load(arguments.data_dir, arguments.dataset)
    model = TabularDiffusion(
        target=target, columns=kinds, random_state=seed, budget=arguments.budget, progress=False
    )
    begin = time.process_time()
    model.fit(train)
    fitted = time.process_time()
    synthetic = model.sample(len(train), random_state=seed)
    sampled = time.process_time()
    if arguments.keep is not None:
        arguments.keep.mkdir(parents=True, exist_ok=True)
        synthetic.to_csv(arguments.keep / f"{arguments.dataset}_{seed}.csv", index=False)
    score = score_table(train, test, synthetic, model.schema_, target=target, seed=seed)
    shape, trend = quality_report(train, synthetic, model.schema_)
    figures = {key: value for key, value in vars(score.synthetic).items() if value is not None}
    return {
        **figures,
        "sdmetrics_shape_error": shape,
        "sdmetrics_trend_error": trend,
        "steps": model.training_.steps,
        "fit_cpu_seconds": fitted - begin,
        "sample_cpu_seconds": sampled - fitted,
    }


def main() -> None:
    """Run every seed, write the JSON, print the means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    folder = os.environ.get("SCIDIFFUSION_DATA")
    parser.add_argument("--data-dir", type=Path, default=None if folder is None else Path(folder))
    parser.add_argument("--dataset", default="randhie")
    parser.add_argument("--budget", default="60s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    runs = {str(seed): run(arguments, seed) for seed in arguments.seeds}
    keys = next(iter(runs.values()))
    means = {key: float(np.mean([figures[key] for figures in runs.values()])) for key in keys}
    out = arguments.out or Path(f"benchmarks/results/tabular_{arguments.dataset}.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "dataset": arguments.dataset,
        "budget": arguments.budget,
        "mean": means,
        "runs": runs,
    }
    out.write_text(json.dumps(record, indent=2) + "\n")
    for key, value in means.items():
        print(f"{key:24s} {value:10.3f}")


if __name__ == "__main__":
    main()
