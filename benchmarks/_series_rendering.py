"""Results of the forecast benchmark as Markdown, with goals and signs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _series_peers import IMPUTERS, MODELS

Runs = list[dict[str, Any]]


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
    by_task: dict[str, Runs] = {"forecast": [], "imputation": [], "cost": []}
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
    head += ["CPU s / ours", "evaluations / ours", "fit, CPU s", "peak MiB"]
    head += ["seeds"]
    lines = [
        f"### {record['dataset']}: cost of forecasts",
        "",
        "The same forecasts by each model. Fitting is a few steps of training, what is done in "
        f"closed form, and what is chosen on held-out windows.{_conditions(groups)}",
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
            _ratio(group, base, "predict_cpu_seconds"),
            _ratio(group, base, "evaluations"),
            _cell(group, "fit_cpu_seconds", "{:.0f}"),
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
    steps = sorted(
        {e["options"]["max_steps"] for e in done if "max_steps" in e.get("options", {})}
    )
    limit = f" (of ours at most {' or '.join(map(str, steps))} steps)" if steps else ""
    hardware = sorted({entry["machine"]["gpu"] or entry["machine"]["processor"] for entry in done})
    return (
        f" {samples} samples; budget {budget}{limit}, threads {threads}, "
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
