r"""Forecast series and score the forecasts: this project, its peers and the floors in one run.

    python benchmarks/timeseries.py --data-dir DIR --dataset etth1 --budget 280 --seeds 0 1 2 \
        --models ours timegrad deepar patchtst tft floors
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
and of growing horizon; what training reached does not change what a forecast costs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _running import run_worker
from _series_data import BenchmarkData, load_dataset, score_forecasts
from _series_peers import IMPUTERS, MODELS, Job

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

Runs = list[dict[str, Any]]


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


# ---------------------------------------------------------------------- rendering

NOTE = """\
Mean over the seeds ± standard deviation; least CRPS first. CRPS: mean weighted quantile loss of
the levels 0.05..0.95, CRPS-sum of the sum of all series. Energy and variogram score: all series
of a step together, in standard deviations of the training series and of their steps. Coverage:
share of the observations within the central 50 or 90 % of the samples. CPU seconds of fitting,
and of all forecasts together. Evaluations: of a network, one after the other, for one forecast.
"""

JOINT_NOTE = {
    "series": "† samples are paths of each series alone: they do not move together.",
    "none": "‡ no joint paths: the samples of each step are drawn on their own.",
}
_SIGNS = {"all": "", "series": " †", "none": " ‡"}

COLUMNS = {
    "CRPS": ("crps", "{:.4f}"),
    "CRPS (.1-.9)": ("crps_9q", "{:.4f}"),
    "CRPS-sum": ("crps_sum", "{:.4f}"),
    "ND": ("nd", "{:.4f}"),
    "energy": ("energy", "{:.3f}"),
    "variogram": ("variogram", "{:.3f}"),
    "cover 50": ("coverage50", "{:.2f}"),
    "cover 90": ("coverage90", "{:.2f}"),
    "cover 90, sum": ("coverage90_sum", "{:.2f}"),
    "fit, CPU s": ("fit_cpu_seconds", "{:.0f}"),
    "predict, CPU s": ("predict_cpu_seconds", "{:.1f}"),
    "evaluations": ("evaluations", "{:.0f}"),
    "parameters": ("parameters", "{:,.0f}"),
}

GOALS: dict[str, list[tuple[str, str, float, float]]] = {
    "exchange_rate_nips": [
        ("crps", "≤", 0.0, 0.0072),
        ("crps_sum", "≤", 0.0, 0.0055),
        ("energy", "<", 0.0, 0.225),
    ],
    "etth1": [
        ("crps", "<", 0.0, 0.200),
        ("crps_sum", "<", 0.0, 0.160),
        ("energy", "<", 0.0, 0.92),
        ("coverage90_sum", "in", 0.85, 0.95),
    ],
    "gefcom2012_load": [("crps_sum", "<", 0.0, 0.042), ("energy", "<", 0.0, 1.33)],
    "m4_hourly": [("crps_9q", "<", 0.0, 0.036)],
}
"""The project's own goals: figure, sign, least and greatest value of the mean over the seeds."""


def render(paths: list[Path]) -> str:
    """The Markdown of files that this script wrote."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    by_task: dict[str, list[dict[str, Any]]] = {task: [] for task in DEFAULT_MODELS}
    for record in records:
        by_task[record["task"]].append(record)
    parts = []
    if by_task["forecast"]:
        parts += [NOTE, *map(_render_forecasts, by_task["forecast"])]
        parts.append(render_goals(by_task["forecast"]))
    parts += map(_render_imputation, by_task["imputation"])
    parts += map(_render_cost, by_task["cost"])
    return "\n".join(parts)


def _render_forecasts(record: dict[str, Any]) -> str:
    kind = "univariate" if record["univariate"] else "multivariate"
    groups = _groups(record["runs"], lambda entry: entry["model"])
    groups.sort(key=lambda group: _mean(group, "crps"))
    lines = [
        f"### {record['dataset']}",
        "",
        f"{record['series']} series, {kind}; {record['windows']} windows of {record['horizon']} "
        f"steps ({record['freq']}).{_conditions(groups)}",
        "",
        *_head(["model", *COLUMNS, "seeds"]),
    ]
    for group in groups:
        model = MODELS[group[0]["model"]]
        cells = [model.label + _SIGNS[model.joint]]
        cells += [_cell(group, name, form) for name, form in COLUMNS.values()]
        lines.append(_line([*cells, str(len(group))]))
    present = {MODELS[group[0]["model"]].joint for group in groups}
    notes = [text for joint, text in JOINT_NOTE.items() if joint in present]
    lines += ["", *notes, ""] if notes else [""]
    for group in groups:
        fallbacks = sum(entry.get("notes", {}).get("failures", 0) for entry in group)
        if fallbacks:
            fits = sum(entry["notes"]["fits"] for entry in group)
            label = MODELS[group[0]["model"]].label
            lines += [f"{label}: {fallbacks} of {fits} fits failed, seasonal naive instead.", ""]
    return "\n".join(lines + _failures(record["runs"], lambda name: MODELS[name].label))


def render_goals(records: list[dict[str, Any]]) -> str:
    """Our figures beside the goals, with a sign that says whether each is reached."""
    lines = ["### Goals", "", "Mean of the seeds of scidiffusion.", ""]
    lines += _head(["data", "figure", "goal", "ours", "met", "seeds"])
    labels = {name: label for label, (name, _) in COLUMNS.items()}
    for record in records:
        runs = [entry for entry in _done(record["runs"]) if entry["model"] == "ours"]
        for name, sign, least, greatest in GOALS.get(record["dataset"], []):
            goal = f"{least:g}-{greatest:g}" if sign == "in" else f"{sign} {greatest:g}"
            mean = _mean(runs, name)
            met = least <= mean < greatest or (sign != "<" and mean == greatest)
            mark = "-" if np.isnan(mean) else "✓" if met else "✗"
            found = _cell(runs, name, "{:.4f}")
            cells = [record["dataset"], labels[name], goal, found, mark, str(len(runs))]
            lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def _render_imputation(record: dict[str, Any]) -> str:
    groups = _groups(record["runs"], lambda entry: entry["model"])
    shares = sorted({share for group in groups for share in group[0]["shares"]}, key=float)
    kinds = {"MAE": "mae", "MAE, sd": "mae_scaled", "CRPS": "crps"}
    lines = [
        f"### {record['dataset']}: imputation",
        "",
        "Cells hidden at random among the observed ones of the held-back windows of "
        f"{record['horizon']} steps. MAE of the median, also in standard deviations of the "
        f"training series; CRPS as of forecasts.{_conditions(groups)}",
        "",
        *_head(["", *(f"{kind}, {float(s):.0%}" for s in shares for kind in kinds), "seeds"]),
    ]
    for group in groups:
        cells = [IMPUTERS[group[0]["model"]]]
        for share in shares:
            some = [entry["shares"][share] for entry in group if share in entry["shares"]]
            cells += [_cell(some, name, "{:.4f}") for name in kinds.values()]
        lines.append(_line([*cells, str(len(group))]))
    changed = [f["changed"] for g in groups for entry in g for f in entry["shares"].values()]
    lines += ["", f"Greatest change of an observed cell: {max(changed, default=0.0):.2g}.", ""]
    return "\n".join(lines + _failures(record["runs"], lambda name: IMPUTERS[name]))


def _render_cost(record: dict[str, Any]) -> str:
    groups = _groups(
        record["runs"],
        lambda entry: (entry["data"], entry.get("series"), entry.get("horizon"), entry["model"]),
    )
    ours = {_case(group[0]): group for group in groups if group[0]["model"] == "ours"}
    head = ["data", "series", "horizon", "model", "wall s", "CPU s", "evaluations"]
    head += ["time / ours", "evaluations / ours", "peak MiB", "seeds"]
    lines = [
        f"### {record['dataset']}: cost of forecasts",
        "",
        f"The same forecasts by each model.{_conditions(groups)}",
        "",
        *_head(head),
    ]
    for group in groups:
        entry = group[0]
        size = entry if "series" in entry else record
        base = ours.get(_case(entry), [])
        cells = [entry["data"], str(size["series"]), str(size["horizon"])]
        cells += [
            MODELS[entry["model"]].label,
            _cell(group, "predict_seconds", "{:.2f}"),
            _cell(group, "predict_cpu_seconds", "{:.2f}"),
            _cell(group, "evaluations", "{:.0f}"),
            _ratio(group, base, "predict_seconds"),
            _ratio(group, base, "evaluations"),
            _cell(group, "peak_mib", "{:.0f}"),
            str(len(group)),
        ]
        lines.append(_line(cells))
    failed = _failures(record["runs"], lambda name: MODELS[name].label)
    return "\n".join([*lines, "", *failed])


def _case(entry: dict[str, Any]) -> tuple[Any, ...]:
    return entry["data"], entry.get("series"), entry.get("horizon")


def _ratio(group: Runs, base: Runs, name: str) -> str:
    below = _mean(base, name)
    return f"{_mean(group, name) / below:.1f}" if below > 0 else "-"


def _done(runs: Runs) -> Runs:
    return [entry for entry in runs if "failed" not in entry]


def _groups(runs: Runs, key: Callable[[dict[str, Any]], Any]) -> list[Runs]:
    """The runs that did not fail, those of one key together, in their order."""
    groups: dict[Any, Runs] = {}
    for entry in _done(runs):
        groups.setdefault(key(entry), []).append(entry)
    return list(groups.values())


def _failures(runs: Runs, label: Callable[[str], str]) -> list[str]:
    failed = {f"{label(entry['model'])}: {entry['failed']}" for entry in runs if "failed" in entry}
    return ["Failed:", "", *(f"- {reason}" for reason in sorted(failed)), ""] if failed else []


def _conditions(groups: list[Runs]) -> str:
    """Under what conditions the runs were made."""
    done = [entry for group in groups for entry in group]
    if not done:
        return ""
    budget = " or ".join(f"{value:g} s" for value in sorted({entry["budget"] for entry in done}))
    samples = " or ".join(str(value) for value in sorted({e["num_samples"] for e in done}))
    threads = " or ".join(str(value) for value in sorted({entry["threads"] for entry in done}))
    hardware = sorted({entry["machine"]["gpu"] or entry["machine"]["processor"] for entry in done})
    return (
        f" {samples} samples; budget {budget}, threads {threads}, "
        f"{' and '.join(sorted({entry['device'] for entry in done}))}: {'; '.join(hardware)}."
    )


def _head(names: list[str]) -> list[str]:
    return [_line(names), "|---" + "|---:" * (len(names) - 1) + "|"]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _values(runs: Runs, name: str) -> list[float]:
    return [float(entry[name]) for entry in runs if entry.get(name) is not None]


def _mean(runs: Runs, name: str) -> float:
    values = _values(runs, name)
    return float(np.mean(values)) if values else float("nan")


def _cell(runs: Runs, name: str, form: str) -> str:
    values = _values(runs, name)
    if not values:
        return "-"
    spread = len(values) > 1 and np.std(values, ddof=1) > 0
    return form.format(np.mean(values)) + (
        f" ± {form.format(np.std(values, ddof=1))}" if spread else ""
    )


if __name__ == "__main__":
    main()
