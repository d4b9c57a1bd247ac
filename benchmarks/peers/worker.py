"""Fit and sample once, in a process of its own, and say what it cost.

    python -P worker.py JOB.json

The job names an adapter (a file beside this one) with the functions

    fit(train, job) -> model                  counted
    sample(model, rows, job) -> DataFrame     counted
    prepare(train, job) -> None               optional; trial runs that set job.settings
    settings(model, job) -> dict              optional; what was run, for the record

This file and the adapters import nothing of the project but through the adapter that is the
project's own: they run in the environments of the peers. With -P the names of the adapters shadow
no package.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd


@dataclass
class Job:
    """One fit and sample.

    Args:
        method: Name of the method, as the user gave it.
        adapter: Name of the adapter's file.
        train: CSV file of the training rows.
        out: CSV file to write.
        kinds: Column -> "numerical", "categorical" or "datetime", in order.
        integers: The columns of whole numbers.
        target: The column to predict.
        task: "binclass" or "regression".
        rows: Number of rows to sample.
        budget: Seconds of training; a method's own default may be shorter.
        seed: Seed of everything random.
        threads: Threads to use.
        device: "cpu" or "cuda".
        settings: Options of the method, the user's and those that `prepare` chose.
    """

    method: str
    adapter: str
    train: str
    out: str
    kinds: dict[str, str]
    integers: list[str]
    target: str
    task: str
    rows: int
    budget: float
    seed: int
    threads: int
    device: str
    settings: dict[str, Any] = field(default_factory=dict)

    def of_kind(self, *kinds: str) -> list[str]:
        """Names of the columns of some kinds, in order."""
        return [name for name, kind in self.kinds.items() if kind in kinds]


def _living() -> list[Path]:
    """The /proc folders of the processes that this one has started and that still run."""
    children: dict[str, list[Path]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # The name, in brackets, may hold anything; the parent is the second field behind it.
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            children.setdefault(parent, []).append(folder)
    found = list(children.get(str(os.getpid()), ()))
    for folder in found:
        found += children.get(folder.name, ())
    return found


def _cpu_seconds() -> float:
    """CPU time of this process and of all it has started, ended or not."""
    parts = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    total = sum(part.ru_utime + part.ru_stime for part in parts)
    for folder in _living():
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


def _peak_mib() -> float:
    """Peak resident memory of this process or the largest of those that it has started."""
    peaks = [resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]
    # ru_maxrss keeps the size of the process that started this one; VmHWM does not.
    for folder in (Path("/proc/self"), *_living()):
        with contextlib.suppress(OSError):
            lines = dict(
                line.split(":", 1) for line in (folder / "status").read_text().split("\n") if line
            )
            peaks.append(int(lines.get("VmHWM", "0 kB").split()[0]))
    if not Path("/proc/self/status").exists():
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    # Linux counts kibibytes, macOS bytes.
    return max(peaks) / (2**20 if sys.platform == "darwin" else 2**10)


def _load_adapter(name: str) -> Any:
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"adapter_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def run(job: Job) -> dict[str, Any]:
    """Fit, sample, write the rows, and return the costs."""
    adapter = _load_adapter(job.adapter)
    train = pd.read_csv(job.train, low_memory=False)[list(job.kinds)]
    if hasattr(adapter, "prepare"):
        adapter.prepare(train, job)
    base = _peak_mib()
    marks = [(_cpu_seconds(), time.perf_counter())]
    model = adapter.fit(train, job)
    marks.append((_cpu_seconds(), time.perf_counter()))
    rows = adapter.sample(model, job.rows, job)
    marks.append((_cpu_seconds(), time.perf_counter()))
    record: dict[str, Any] = {"peak_mib": _peak_mib(), "imports_mib": base}
    for name, begin, end in (("fit", *marks[:2]), ("sample", *marks[1:])):
        record[f"{name}_cpu_seconds"] = end[0] - begin[0]
        record[f"{name}_seconds"] = end[1] - begin[1]
    record["rows_per_second"] = job.rows / max(record["sample_seconds"], 1e-9)
    if hasattr(adapter, "settings"):
        job.settings |= adapter.settings(model, job)
    record["settings"] = job.settings
    rows[list(job.kinds)].to_csv(job.out, index=False)
    return record


def main() -> None:
    """Run the job of the command line; the record, or why there is none, goes beside its rows."""
    job = Job(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    try:
        record = run(job)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        record = {"failed": reason[:300]}
        # The whole story is for whoever looks into the log.
        import traceback

        traceback.print_exc()
    Path(job.out).with_suffix(".json").write_text(json.dumps(record), encoding="utf-8")


if __name__ == "__main__":
    main()
