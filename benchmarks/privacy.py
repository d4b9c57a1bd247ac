"""What differential privacy costs: the quality of a table at several budgets, beside no privacy.

    python benchmarks/privacy.py                                    # randhie
    python benchmarks/privacy.py --data-dir DIR --dataset adult --epsilons 1 4 8 --seeds 0 1 2
    python benchmarks/privacy.py --table                            # results as Markdown

Training and encoding share epsilon; delta is 1 / (10 rows). The ranges of the training rows'
numbers and their levels count as public, as the domain of a census would be (`--no-public` learns
them privately, too). All budgets take the same number of steps; without privacy the fit has as
many, and no held-out rows either, so that the noise and the clipping are all that differs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from _scoring import PARTS, score
from _tables import Benchmark, add_data_arguments, load, read_table

from scidiffusion.tabular import TabularDiffusion
from scidiffusion.training import DPBudget

RESULTS = Path(__file__).resolve().parent / "results"
FIGURES = {
    "mle_auc": "AUC",
    "mle_r2": "R2",
    "c2st_xgb": "C2ST-XGB",
    "shape_error": "shape error, %",
    "trend_error": "trend error, %",
    "dcr_all_share": "nearer to train",
    "epsilon_spent": "epsilon spent",
    "fit_cpu_seconds": "fit, CPU s",
}


def domain(benchmark: Benchmark) -> dict[str, Any]:
    """Column -> its range or its levels, as somebody knows them who has not seen the rows."""
    known: dict[str, Any] = {}
    for name, kind in benchmark.kinds.items():
        column = benchmark.train[name].dropna()
        if kind == "categorical":
            known[name] = sorted(set(column.tolist()))
        elif kind == "numerical":
            known[name] = (column.min().item(), column.max().item())
    return known


def run(
    benchmark: Benchmark, epsilon: float | None, seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Fit with a budget (None is no privacy), sample, score."""
    private: dict[str, Any] = {"validation_fraction": 0.0, "check_copies": False}
    if epsilon is not None:
        # A published noise key would undo the noise; here it makes the run repeatable.
        private = {"privacy": DPBudget(epsilon=epsilon, noise_key=seed)}
        if options.public:
            private["public"] = domain(benchmark)
    model = TabularDiffusion(
        target=benchmark.target,
        columns=benchmark.overrides,
        max_steps=options.steps,
        random_state=seed,
        progress=False,
        **private,
    )
    begin = time.process_time()
    model.fit(benchmark.train)
    cost = time.process_time() - begin
    spent = model.privacy_spent_
    with tempfile.TemporaryDirectory() as scratch:
        # Through a file, as all figures of the benchmarks.
        path = Path(scratch) / "synthetic.csv"
        model.sample(len(benchmark.train), random_state=seed).to_csv(path, index=False)
        synthetic = read_table(path, list(benchmark.kinds))
    return {
        "epsilon": epsilon,
        "seed": seed,
        "fit_cpu_seconds": cost,
        "epsilon_spent": None if spent is None else spent["epsilon"],
        "delta": None if spent is None else spent["delta"],
    } | score(benchmark, synthetic, seed=seed, skip=tuple(options.skip))


def render(paths: list[Path]) -> str:
    """Files of results as Markdown, means over the seeds."""
    lines: list[str] = []
    for path in paths:
        record = json.loads(path.read_text(encoding="utf-8"))
        runs = pd.DataFrame(record["runs"])
        names = [name for name in FIGURES if name in runs]
        real = runs.filter(regex="^mle_real_(auc|r2)$").iloc[0, 0]
        public = "public" if record["public"] else "learned privately"
        lines += [
            f"### {record['dataset']}",
            "",
            f"{record['train_rows']:,} rows, {record['steps']:,} steps, ranges and levels "
            f"{public}, {runs['seed'].nunique()} seed(s). Trained on the real rows the judge "
            f"reaches {real:.3f}; the share of rows nearer to train is ideally "
            f"{runs['dcr_all_ideal'].iloc[0]:.3f}.",
            "",
            "| epsilon | " + " | ".join(FIGURES[name] for name in names) + " |",
            "|---" + "|---:" * len(names) + "|",
        ]
        for epsilon, group in runs.groupby(runs["epsilon"].fillna(float("inf"))):
            cells = [f"{group[name].astype(float).mean():.3f}" for name in names]
            label = "no privacy" if epsilon == float("inf") else f"{epsilon:g}"
            lines.append(f"| {label} | " + " | ".join(cells).replace("nan", "-") + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Run all budgets, write the figures after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_arguments(parser)
    parser.add_argument("--epsilons", type=float, nargs="+", default=[1.0, 4.0, 8.0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--no-public", dest="public", action="store_false")
    parser.add_argument("--skip", nargs="*", default=["logistic", "coverage"], choices=PARTS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="default benchmarks/results/privacy_NAME.json")
    parser.add_argument("--table", action="store_true", help="render the results and stop")
    options = parser.parse_args()
    if options.table:
        text = render(sorted(RESULTS.glob("privacy_*.json")))
        (RESULTS / "privacy.md").write_text(text, encoding="utf-8")
        print(text)
        return
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    benchmark = load(options.data_dir, options.dataset)
    record: dict[str, Any] = {
        "dataset": benchmark.name,
        "train_rows": len(benchmark.train),
        "steps": options.steps,
        "public": options.public,
        "runs": [],
    }
    out = options.out or RESULTS / f"privacy_{benchmark.name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for epsilon in [None, *options.epsilons]:
            entry = run(benchmark, epsilon, seed, options)
            record["runs"].append(entry)
            out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            shown = {name: entry[name] for name in FIGURES if entry.get(name) is not None}
            text = ", ".join(f"{name} {value:.3f}" for name, value in shown.items())
            print(f"{benchmark.name}, epsilon {epsilon}, seed {seed}: {text}", flush=True)
    print(f"written to {out}")


if __name__ == "__main__":
    main()
