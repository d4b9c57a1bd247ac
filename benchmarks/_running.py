"""Jobs in processes of their own: so many threads, no GPU unless asked for, a record beside."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any


def run_worker(
    command: list[str], job: Any, *, threads: int, device: str, timeout: float
) -> dict[str, Any]:
    """Run a worker on a job; return its record, or "failed" with the reason.

    Args:
        command: The worker; the path of the job, as JSON, is its last argument.
        job: A dataclass with `out`, beside which the worker leaves its record, as .json.
        threads: Threads of its numerical libraries.
        device: "cpu" hides every GPU.
        timeout: Seconds until it is given up.
    """
    folder = Path(job.out).parent
    (folder / "job.json").write_text(json.dumps(dataclasses.asdict(job)), encoding="utf-8")
    # joblib, which several peers use, would start a process for every core.
    limits = ("OMP", "MKL", "OPENBLAS", "NUMBA")
    names = [f"{name}_NUM_THREADS" for name in limits] + ["LOKY_MAX_CPU_COUNT"]
    environment = os.environ | dict.fromkeys(names, str(threads))
    # A worker on the CPU shall not see a GPU, whatever its library prefers.
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with (folder / "log.txt").open("w+", encoding="utf-8") as log:
        try:
            done = subprocess.run(
                [*command, str(folder / "job.json")],
                stdout=log,
                stderr=log,
                env=environment,
                timeout=timeout,
                cwd=folder,
            )
        except subprocess.TimeoutExpired:
            return {"failed": f"stopped after {timeout:g} s"}
        record = Path(job.out).with_suffix(".json")
        if record.exists():
            return json.loads(record.read_text(encoding="utf-8"))
        log.seek(0)
        last = [line.strip() for line in log if line.strip()][-1:] or ["no message"]
    return {"failed": f"ended with status {done.returncode}: {last[0][:200]}"}


def work(job: Callable[..., Any], perform: Callable[[Any], dict[str, Any]]) -> None:
    """Do the job of the command line; its record, or the reason for none, lies beside `out`.

    Args:
        job: The dataclass that the job's JSON is of.
        perform: Does it and returns the record.
    """
    task = job(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    warnings.simplefilter("ignore")
    try:
        record = perform(task)
    except (Exception, SystemExit) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        record = {"failed": reason[:300]}
        # The whole story is for whoever looks into the log.
        traceback.print_exc()
    Path(task.out).with_suffix(".json").write_text(json.dumps(record), encoding="utf-8")
