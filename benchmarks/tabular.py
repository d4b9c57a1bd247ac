r"""Fit tables, sample copies, score them: this project and its peers on the same split.

    python benchmarks/tabular.py                                  # randhie, 60 s, and the floors
    python benchmarks/tabular.py --data-dir DIR --dataset adult --budget 280 --seeds 0 1 2 \
        --method scidiffusion ctgan tvae gaussian-copula forest-diffusion mostlyai-engine
    python benchmarks/tabular.py --table                          # results/*.json as Markdown

Every fit and sample has a process of its own, which counts its CPU seconds and peak memory; peers
run in environments of their own (benchmarks/peers/install.py). A run that fails is recorded with
its reason, and the others go on. A file of results keeps the runs of earlier calls: one method can
be run again, or added. For the format of DIR/NAME see benchmarks/_tables.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from _running import run_worker
from _tables import Benchmark, add_data_arguments, load, read_table
from peers.registry import METHODS
from peers.worker import Job

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
DEFAULT_METHODS = ["scidiffusion", "bootstrap", "independent"]


def run(
    benchmark: Benchmark, method: str, seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Fit, sample and score once.

    Args:
        benchmark: The table.
        method: One of `METHODS`.
        seed: Seed of the fit, the sample and the judges.
        options: The command line.

    Returns:
        The costs and figures, or "failed" with the reason.
    """
    base = {"method": method, "seed": seed, "budget": options.budget, "threads": options.threads}
    base["device"] = options.device
    with tempfile.TemporaryDirectory() as scratch:
        train, out = Path(scratch) / "train.csv", Path(scratch) / "synthetic.csv"
        benchmark.train.to_csv(train, index=False)
        job = Job(
            method=method,
            adapter=METHODS[method].adapter,
            train=str(train),
            out=str(out),
            kinds=benchmark.kinds,
            integers=sorted(benchmark.integers),
            target=benchmark.target,
            task=benchmark.task,
            rows=len(benchmark.train),
            budget=options.budget,
            seed=seed,
            threads=options.threads,
            device=options.device,
            settings=options.options if method == "scidiffusion" else {},
        )
        costs = run_job(job, timeout=options.timeout or 5 * options.budget + 1800)
        if "failed" in costs:
            return base | costs
        if options.keep is not None:
            options.keep.mkdir(parents=True, exist_ok=True)
            name = f"{benchmark.name}_{method}_{seed}.csv"
            (options.keep / name).write_bytes(out.read_bytes())
        synthetic = read_table(out, list(benchmark.kinds))
    return base | costs | judge(benchmark, synthetic, seed, options)


def run_job(job: Job, *, timeout: float) -> dict[str, Any]:
    """Run a job in a process of its own; return its record, or "failed" with the reason."""
    method = METHODS[job.method]
    python = method.python()
    if not python.exists():
        command = f"python benchmarks/peers/install.py {method.environment}"
        return {"failed": f"its environment is missing: {command}"}
    command = [str(python), "-P", str(HERE / "peers" / "worker.py")]
    return run_worker(command, job, threads=job.threads, device=job.device, timeout=timeout)


def judge(
    benchmark: Benchmark, synthetic: Any, seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    """The field's figures and, with the prefix own_, those of the project's own score table."""
    import torch
    from _scoring import one_line, score

    from scidiffusion.tabular.inference import infer_schema
    from scidiffusion.tabular.metrics import score_table

    torch.set_num_threads(1)
    figures = score(benchmark, synthetic, seed=seed, skip=tuple(options.skip))
    if "own" in options.skip:
        return figures
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            schema = infer_schema(benchmark.train, benchmark.overrides)
            table = score_table(
                benchmark.train,
                benchmark.test,
                synthetic,
                schema,
                target=benchmark.target,
                seed=seed,
            )
        own = {f"own_{name}": value for name, value in vars(table.synthetic).items()}
        return figures | own
    except Exception as error:
        return figures | {"failed": figures.get("failed", {}) | {"own": one_line(error)}}


def save(path: Path, benchmark: Benchmark, new: list[dict[str, Any]]) -> None:
    """Write runs, replacing earlier ones of the same method and seed."""
    record = {
        "dataset": benchmark.name,
        "train_rows": len(benchmark.train),
        "test_rows": len(benchmark.test),
        "columns": len(benchmark.kinds),
        "target": benchmark.target,
        "task": benchmark.task,
    }
    old = json.loads(path.read_text(encoding="utf-8")).get("runs", []) if path.exists() else []
    if not isinstance(old, list):
        old = []
    fresh = {(entry["method"], entry["seed"]) for entry in new}
    runs = [entry for entry in old if (entry["method"], entry["seed"]) not in fresh] + new
    order = list(METHODS)
    runs.sort(key=lambda entry: (order.index(entry["method"]), entry["seed"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(json.dumps(record | {"runs": runs}, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def machine() -> dict[str, Any]:
    """What a run's costs depend on."""
    import torch

    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        models = [
            line.partition(":")[2].strip() for line in lines if line.startswith("model name")
        ]
        processor = models[0] if models else processor
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def main() -> None:
    """Run what was asked for, or render the results."""
    options = parse()
    if options.table:
        from _rendering import render, render_goals

        paths = sorted(RESULTS.glob("tabular_*.json"))
        for name, draw in {"tabular": render, "tabular_goals": render_goals}.items():
            text = draw(paths)
            (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
            print(text)
        return
    benchmark = load(options.data_dir, options.dataset)
    out = options.out or RESULTS / f"tabular_{benchmark.name}.json"
    here = machine()
    for seed in options.seeds:
        for method in options.method:
            print(f"{benchmark.name}, {method}, seed {seed}: ", end="", flush=True)
            entry = run(benchmark, method, seed, options) | {"machine": here}
            save(out, benchmark, [entry])
            print(summary(entry), flush=True)
    print(f"written to {out}")


def summary(entry: dict[str, Any]) -> str:
    """One line about a run."""
    failed = entry.get("failed")
    if isinstance(failed, str):
        return f"failed: {failed}"
    shown = {
        "fit": f"{entry['fit_cpu_seconds']:.0f} CPU-s",
        "sample": f"{entry['sample_cpu_seconds']:.1f} CPU-s",
        "peak": f"{entry['peak_mib']:.0f} MiB",
    }
    for name in ("c2st_xgb", "trend_error", "shape_error", "mle_auc", "mle_r2", "dcr_all_share"):
        if name in entry:
            shown[name] = f"{entry[name]:.3f}"
    text = ", ".join(f"{name} {value}" for name, value in shown.items())
    return text + (f"; not scored: {failed}" if failed else "")


def parse() -> argparse.Namespace:
    """Read the command line."""
    from _scoring import PARTS

    from scidiffusion.durations import seconds

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_arguments(parser)
    parser.add_argument(
        "--method",
        nargs="+",
        default=DEFAULT_METHODS,
        choices=[*METHODS, "all"],
        metavar="M",
        help=f"one or more of {', '.join(METHODS)}, or all",
    )
    parser.add_argument("--budget", type=seconds, default=60.0, help="of fitting: 280, 5min, ...")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--options", type=json.loads, default={}, help="of scidiffusion, as JSON")
    parser.add_argument("--timeout", type=float, help="seconds until a run is given up")
    parser.add_argument("--skip", nargs="*", default=[], choices=[*PARTS, "own"])
    parser.add_argument("--keep", type=Path, help="folder for the synthetic tables")
    parser.add_argument("--out", type=Path, help="default benchmarks/results/tabular_NAME.json")
    parser.add_argument("--table", action="store_true", help="render the results and stop")
    options = parser.parse_args()
    if "all" in options.method:
        options.method = list(METHODS)
    return options


if __name__ == "__main__":
    sys.exit(main())
