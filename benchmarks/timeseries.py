r"""Forecast series and score the forecasts: this project, its peers and the floors in one run.

    python benchmarks/timeseries.py --data-dir DIR --dataset etth1 --budget 280 --seeds 0 1 2 \
        --models ours timegrad deepar patchtst tft floors
    python benchmarks/timeseries.py --data-dir DIR --dataset etth1 --before-test 28
    python benchmarks/timeseries.py --dataset solar_nips           # downloaded by gluonts
    python benchmarks/timeseries.py --task imputation --data-dir DIR --dataset nn5
    python benchmarks/timeseries.py --task cost --budget 20        # ours against TimeGrad
    python benchmarks/timeseries.py --table                        # results/*.json as Markdown

Every fit and forecast has a process of its own, which counts its CPU seconds and peak memory. A
run that fails is recorded with its reason, and the others go on. A file of results keeps the runs
of earlier calls: one model can be run again, or added. `--save-samples x.npz` keeps what was
scored, key `samples`: (windows, samples, H, D), of univariate data (entries, samples, H); when
several runs are asked for, each has a file x_MODEL_SEED.npz. For the data and the scores see
benchmarks/_series_data.py, for the models benchmarks/_series_peers.py.

Imputation hides a share of the observed cells of the held-back windows. Cost forecasts the same
windows by each model, of --dataset where one is given, and then made data of 10 to 2000 series
and of growing horizon. What training reached does not change what a forecast costs: our network
is run even where it would not be trusted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _running import run_worker
from _series_data import BenchmarkData, before_test, load_dataset, score_forecasts
from _series_peers import IMPUTERS, MODELS, Job
from _series_rendering import Runs, render

from scidiffusion._files import write_atomic

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"

FLOORS = ["gaussian_walk", "seasonal_naive_gaussian", "seasonal_block_bootstrap"]
GROUPS = {"floors": FLOORS, "all": list(MODELS)}
DEFAULT_MODELS = {
    "forecast": ["ours", "timegrad", "deepar", "patchtst", "tft", *FLOORS],
    "imputation": list(IMPUTERS),
    "cost": ["ours", "timegrad"],
}
KEYS = {
    "forecast": ("model", "seed"),
    "imputation": ("model", "seed"),
    "cost": ("data", "series", "horizon", "model", "seed"),
}
"""What tells the runs of a file apart."""


# ------------------------------------------------------------------------ running


def run_job(job: Job, options: argparse.Namespace) -> dict[str, Any]:
    """Do a job in a process of its own; return its record, or "failed" with the reason."""
    return run_worker(
        [sys.executable, str(HERE / "_series_peers.py")],
        job,
        threads=options.threads,
        device=options.device,
        timeout=options.timeout or 5 * job.budget + 1800,
    )


def run(
    job: Job, options: argparse.Namespace, data: BenchmarkData | None = None
) -> dict[str, Any]:
    """Do a job; score its forecasts if `data` is given.

    Returns:
        How it was run, its costs and figures, or "failed" with the reason.
    """
    entry: dict[str, Any] = {
        "model": job.model,
        "seed": job.seed,
        "budget": job.budget,
        "num_samples": job.num_samples,
        "threads": options.threads,
        "device": options.device,
    }
    if job.options:
        entry["options"] = job.options
    with tempfile.TemporaryDirectory() as scratch:
        job = dataclasses.replace(job, out=str(Path(scratch) / "samples.npz"))
        entry |= run_job(job, options)
        if "failed" in entry or data is None:
            return entry
        with np.load(job.out) as arrays:
            samples = arrays["samples"]
        if options.save_samples is not None:
            keep(samples_path(options, job), samples[..., 0] if data.univariate else samples)
    try:
        return entry | score_forecasts(data, samples.astype(np.float64))
    except ValueError as error:
        return entry | {"failed": f"not scored: {error}"}


def keep(path: Path, samples: np.ndarray) -> None:
    """Write samples to an npz file, under the name as it was given."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, samples=samples)

    write_atomic(path, write)


def samples_path(options: argparse.Namespace, job: Job) -> Path:
    """The file of a run's samples."""
    path = options.save_samples
    if len(options.models) * len(options.seeds) == 1:
        return path
    return path.with_name(f"{path.stem}_{job.model}_{job.seed}{path.suffix}")


def save(path: Path, record: dict[str, Any], new: Runs) -> None:
    """Write runs to a file of results, replacing earlier ones of the same model and seed.

    Args:
        path: The file.
        record: What all runs share: "task", "dataset", ...
        new: The runs.
    """

    def key(entry: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(entry.get(name) for name in KEYS[record["task"]])

    old = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []
    fresh = {key(entry) for entry in new}
    runs = [entry for entry in old if key(entry) not in fresh] + new
    order = [*MODELS, *IMPUTERS]
    runs.sort(
        key=lambda entry: (
            *(entry.get(name) or 0 for name in ("series", "horizon")),
            order.index(entry["model"]),
            entry["seed"],
        )
    )
    text = json.dumps(record | {"runs": runs}, indent=1) + "\n"
    write_atomic(path, text.encode())


def jobs(options: argparse.Namespace) -> Iterator[tuple[Job, dict[str, Any]]]:
    """The jobs of the command line, with what tells each apart from the others."""
    named = {
        "name": options.dataset,
        "folder": None if options.data_dir is None else str(options.data_dir.resolve()),
        "setting": options.setting,
        "before": options.before_test,
    }
    sources: list[tuple[dict[str, Any], dict[str, Any]]] = []
    if options.dataset is not None:
        sources.append((named, {"data": options.dataset} if options.task == "cost" else {}))
    if options.task == "cost":
        sizes = [(count, options.horizons[0]) for count in options.series]
        sizes += [(options.series[0], horizon) for horizon in options.horizons[1:]]
        for count, horizon in sizes:
            size = {"series": count, "horizon": horizon}
            sources.append(({"made": True} | size, {"data": "made"} | size))
    for seed in options.seeds:
        for source, apart in sources:
            for model in options.models:
                own = model in ("ours", "timegrad")
                settings = dict(options.options) if own else {}
                if own and options.task != "imputation" and options.num_steps is not None:
                    settings["num_steps"] = options.num_steps
                if options.task == "cost" and model == "ours":
                    # A network that is not trusted is not run, and would cost nothing.
                    settings["trust"] = 1.0
                job = Job(
                    "imputation" if options.task == "imputation" else "forecast",
                    model,
                    source,
                    out="",
                    seed=seed,
                    budget=options.budget,
                    num_samples=options.num_samples,
                    options=settings,
                    shares=options.shares,
                    history=options.history,
                )
                yield job, apart


def main() -> None:
    """Run what was asked for, or render the results."""
    options = parse()
    if options.table:
        text = render(sorted(RESULTS.glob("timeseries_*.json")))
        write_atomic(RESULTS / "timeseries.md", text.encode())
        print(text)
        return
    data: BenchmarkData | None = None
    record: dict[str, Any] = {"task": options.task, "dataset": options.dataset or "made"}
    if options.dataset is not None:
        data = load_dataset(options.data_dir, options.dataset, options.setting)
        if options.before_test:
            data = before_test(data, options.before_test)
            record["dataset"] += "_before_test"
        windows, horizon, dim = data.observed.shape
        record |= {
            "freq": data.freq,
            "horizon": horizon,
            "season": data.season,
            "windows": windows,
            "series": dim if not data.univariate else len(data.train),
            "univariate": data.univariate,
        }
        if not options.history:
            options.history = 3 * horizon
    elif options.task != "cost":
        raise SystemExit("--dataset is missing: the name of a data set in --data-dir")
    infix = "" if options.task == "forecast" else f"{options.task}_"
    out = options.out or RESULTS / f"timeseries_{infix}{record['dataset']}.json"
    here = machine()
    for job, apart in jobs(options):
        size = [f"{name} {value}" for name, value in apart.items() if name != "data"]
        name = apart.get("data", record["dataset"])
        label = ", ".join([name, *size, job.model, f"seed {job.seed}"])
        print(f"{label}: ", end="", flush=True)
        entry = run(job, options, data if options.task == "forecast" else None)
        save(out, record, [apart | entry | {"machine": here}])
        print(summary(entry), flush=True)
    print(f"written to {out}")


def summary(entry: dict[str, Any]) -> str:
    """One line about a run."""
    if "failed" in entry:
        return f"failed: {entry['failed']}"
    parts = [f"fit {entry['fit_cpu_seconds']:.1f} CPU-s"]
    parts.append(f"predict {entry['predict_cpu_seconds']:.1f} CPU-s")
    for name in ("crps", "crps_sum", "energy", "coverage90", "evaluations"):
        if entry.get(name) is not None:
            parts.append(f"{name} {entry[name]:.4g}")
    for share, figures in entry.get("shares", {}).items():
        parts.append(f"{float(share):.0%} hidden: crps {figures['crps']:.4g}")
    return ", ".join(parts)


def machine() -> dict[str, Any]:
    """What a run's costs depend on."""
    from tabular import machine

    return machine()


def parse() -> argparse.Namespace:
    """Read the command line."""
    from scidiffusion.durations import seconds

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    folder = Path(os.environ["SCIDIFFUSION_DATA"]) if "SCIDIFFUSION_DATA" in os.environ else None
    if folder is not None and (folder / "timeseries").is_dir():
        folder /= "timeseries"
    parser.add_argument("--task", default="forecast", choices=list(DEFAULT_MODELS))
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=folder,
        help="folder of data sets; default is the environment variable SCIDIFFUSION_DATA, or "
        "timeseries in it",
    )
    parser.add_argument("--dataset", help="subfolder of --data-dir, or a name of gluonts")
    parser.add_argument("--setting", choices=["univariate", "multivariate"])
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="M",
        choices=[*MODELS, *IMPUTERS, *GROUPS],
        help=f"one or more of {', '.join([*MODELS, *GROUPS])}; of imputation {[*IMPUTERS]}",
    )
    parser.add_argument("--budget", type=seconds, default=60.0, help="of fitting: 280, 5min, ...")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--before-test",
        type=int,
        metavar="WINDOWS",
        help="forecast so many windows at the end of the training part, not the test windows",
    )
    parser.add_argument("--num-samples", type=int, default=100)
    parser.add_argument("--num-steps", type=int, help="of our sampler")
    parser.add_argument("--options", type=json.loads, default={}, help="of our models, as JSON")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.5, 0.9])
    parser.add_argument("--history", type=int, default=0, help="steps before a window with gaps")
    parser.add_argument("--series", type=int, nargs="+", default=[10, 100, 500, 2000])
    parser.add_argument("--horizons", type=int, nargs="+", default=[24, 96, 192])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--timeout", type=float, help="seconds until a run is given up")
    parser.add_argument("--save-samples", type=Path, help="npz file of the samples")
    parser.add_argument("--out", type=Path, help="default benchmarks/results/timeseries_NAME.json")
    parser.add_argument("--table", action="store_true", help="render the results and stop")
    options = parser.parse_args()
    asked = options.models or DEFAULT_MODELS[options.task]
    options.models = [name for given in asked for name in GROUPS.get(given, [given])]
    allowed = IMPUTERS if options.task == "imputation" else MODELS
    wrong = [name for name in options.models if name not in allowed]
    if wrong:
        parser.error(f"{wrong[0]} is no model of --task {options.task}: {', '.join(allowed)}")
    return options


if __name__ == "__main__":
    main()
