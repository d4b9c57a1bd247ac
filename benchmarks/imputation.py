"""Fill in missing cells, and draw rows given some of their columns: ours against simple methods.

    python benchmarks/imputation.py                                  # randhie, 60 s
    python benchmarks/imputation.py --data-dir DIR --dataset adult --budget 280 --seeds 0 1 2
    python benchmarks/imputation.py --table

The two tasks of MTabGen (Villaizan-Vallelado et al. 2024, arXiv 2407.02549):

- imputation: 10, 30 and 50 % of the cells of test rows are blanked completely at random. RMSE of
  the numbers, each in standard deviations of its column; accuracy of the categories. "ours, one
  draw" is a plausible value, and pays for it in RMSE: the draws of a perfect model are wrong by
  sqrt(2) times the least error; "ours, n draws" is their mean or commonest value. "forest" is
  scikit-learn's IterativeImputer with extremely randomised trees on ordinal codes, as missForest,
  fitted on training and test rows together; "mean, mode" know the columns alone.
- conditional synthesis: rows are drawn given a random half of the columns of a test row. CRPS of
  the numbers, in standard deviations, and Brier score of the categories of the other half: proper
  scores, so that only the true conditional law is best. "neighbours" are the training rows nearest
  in the given columns, "marginals" any training rows. `satisfied` is the share of our rows that
  meet their conditions, which must be 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from _tables import MISSING, Benchmark, add_data_arguments, load, plain
from numpy.typing import NDArray

from scidiffusion.durations import seconds
from scidiffusion.errors import ConditionError
from scidiffusion.tabular import TabularDiffusion
from scidiffusion.tabular.conditions import parse, satisfied

RESULTS = Path(__file__).resolve().parent / "results"
Table = pd.DataFrame
Imputer = Callable[[Table], list[Table]]


def blank(table: Table, mask: NDArray[np.bool_]) -> Table:
    """The table without the masked cells, missing ones as they come out of a CSV file."""
    columns = {
        name: table[name].astype(object).where(~mask[:, index], np.nan).infer_objects()
        for index, name in enumerate(table.columns)
    }
    return pd.DataFrame(columns, index=table.index)


def possible(benchmark: Benchmark) -> Table:
    """The test rows without values that the training table never had: no model knows these."""
    train, test = plain(benchmark, benchmark.train), plain(benchmark, benchmark.test)
    kept = np.ones(len(test), dtype=bool)
    for name in benchmark.kinds:
        if name in benchmark.of_kind("categorical"):
            kept &= test[name].isin({*train[name], MISSING}).to_numpy()
        else:
            inside = test[name].between(train[name].min(), train[name].max())
            kept &= (inside | test[name].isna()).to_numpy()
    return benchmark.test[kept].reset_index(drop=True)


# -------------------------------------------------------------------- imputers


def constant(benchmark: Benchmark, holed: Table) -> list[Table]:
    """The mean or the commonest value of the training column."""
    train, filled = plain(benchmark, benchmark.train), plain(benchmark, holed)
    for name in benchmark.kinds:
        if name in benchmark.of_kind("categorical"):
            known = train[name][train[name] != MISSING]
            filled[name] = filled[name].replace(MISSING, known.mode().iloc[0])
        else:
            filled[name] = filled[name].fillna(train[name].mean())
    return [filled]


def forest(benchmark: Benchmark, holed: Table, *, rows: int, seed: int) -> list[Table]:
    """IterativeImputer with trees on ordinal codes."""
    from sklearn.ensemble import ExtraTreesRegressor
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    train = plain(benchmark, benchmark.train)
    train = train.sample(min(rows, len(train)), random_state=seed)
    both = pd.concat([train, plain(benchmark, holed)], ignore_index=True)
    levels = {}
    for name in benchmark.of_kind("categorical"):
        levels[name] = sorted(set(train[name]) - {MISSING})
        codes = pd.Categorical(both[name], categories=levels[name]).codes.astype(float)
        both[name] = np.where(codes < 0, np.nan, codes)
    imputer = IterativeImputer(
        ExtraTreesRegressor(50, min_samples_leaf=3, n_jobs=1, random_state=seed),
        max_iter=4,
        random_state=seed,
        keep_empty_features=True,
    )
    filled = pd.DataFrame(imputer.fit_transform(both), columns=both.columns)[len(train) :]
    for name, known in levels.items():
        codes = filled[name].round().clip(0, len(known) - 1).astype(int)
        filled[name] = np.array(known, dtype=object)[codes]
    return [filled.reset_index(drop=True)]


def ours(
    model: TabularDiffusion, benchmark: Benchmark, holed: Table, *, draws: int, seed: int
) -> list[Table]:
    """Draws of the fitted model."""
    filled = model.impute(holed, draws=draws, random_state=seed)
    tables = filled if isinstance(filled, list) else [filled]
    return [plain(benchmark, table.reset_index(drop=True)) for table in tables]


def pooled(benchmark: Benchmark, tables: list[Table]) -> Table:
    """The mean of several draws, or the commonest value."""
    columns: dict[str, Any] = {}
    for name in benchmark.kinds:
        values = pd.concat([table[name] for table in tables], axis=1)
        discrete = name in benchmark.of_kind("categorical")
        columns[name] = values.mode(axis=1)[0] if discrete else values.mean(axis=1)
    return pd.DataFrame(columns)


def imputation_errors(
    benchmark: Benchmark, filled: Table, mask: NDArray[np.bool_]
) -> dict[str, float]:
    """RMSE and accuracy in the blanked cells whose value is known."""
    truth, scale = plain(benchmark, benchmark.test), plain(benchmark, benchmark.train)
    squares, hits = [], []
    for index, name in enumerate(benchmark.kinds):
        rows = mask[:, index]
        wanted, found = truth[name].to_numpy()[rows], filled[name].to_numpy()[rows]
        if name in benchmark.of_kind("categorical"):
            hits.append((wanted == found)[wanted != MISSING])
        else:
            errors = (found - wanted) / (scale[name].std() or 1.0)
            squares.append(np.square(errors[~np.isnan(wanted)]))
    figures = {}
    if squares:
        figures["rmse"] = float(np.sqrt(np.concatenate(squares).mean()))
    if hits:
        figures["accuracy"] = float(np.concatenate(hits).mean())
    return figures


def run_imputation(
    model: TabularDiffusion, benchmark: Benchmark, seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    """All imputers at all shares of missing cells: share -> method -> figures."""
    test = benchmark.test
    records: dict[str, Any] = {}
    for share in options.shares:
        mask = np.random.default_rng([seed, round(1000 * share)]).random(test.shape) < share
        holed = blank(test, mask)
        imputers: dict[str, Imputer] = {
            "ours, one draw": lambda t: ours(model, benchmark, t, draws=1, seed=seed),
            f"ours, {options.draws} draws": lambda t: ours(
                model, benchmark, t, draws=options.draws, seed=seed
            ),
            "forest": lambda t: forest(benchmark, t, rows=options.baseline_rows, seed=seed),
            "mean, mode": lambda t: constant(benchmark, t),
        }
        for name, impute in imputers.items():
            begin = time.process_time()
            filled = pooled(benchmark, impute(holed))
            cost = time.process_time() - begin
            figures = imputation_errors(benchmark, filled, mask) | {"cpu_seconds": cost}
            records.setdefault(f"{share:g}", {})[name] = figures
            print(f"  {share:4.0%} missing, {name:16s} {shown(figures)}", flush=True)
    return records


# ------------------------------------------------------- conditional synthesis


def crps(draws: NDArray[np.float64], truth: float) -> float:
    """Continuous ranked probability score of draws: E|X - y| - E|X - X'| / 2."""
    ordered = np.sort(draws)
    count = len(ordered)
    weights = 2 * np.arange(1, count + 1) - count - 1
    spread = 2 * float(weights @ ordered) / (count * max(count - 1, 1))
    return float(np.abs(draws - truth).mean()) - spread / 2


def brier(draws: NDArray[Any], truth: str) -> float:
    """Squared error of the categories' probabilities, without bias from their number of draws."""
    levels, counts = np.unique(draws.astype(str), return_counts=True)
    total = len(draws)
    hit = float(counts[levels == truth].sum()) / total
    squares = float((counts * (counts - 1)).sum()) / (total * max(total - 1, 1))
    return 1 - 2 * hit + squares


def neighbours(benchmark: Benchmark, row: Table, given: list[str], count: int) -> Table:
    """The training rows that differ least from a row in the given columns."""
    train = plain(benchmark, benchmark.train)
    distance = np.zeros(len(train))
    for name in given:
        if name in benchmark.of_kind("categorical"):
            distance += (train[name] != row[name].iloc[0]).to_numpy()
        else:
            gap = np.abs(train[name] - row[name].iloc[0]) / (train[name].std() or 1.0)
            distance += gap.fillna(1.0).to_numpy()
    return train.iloc[np.argsort(distance, kind="stable")[:count]]


def run_conditional(
    model: TabularDiffusion, benchmark: Benchmark, seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Method -> scores, and the share of our rows that meet their conditions."""
    rng = np.random.default_rng([seed, 1])
    train, test = plain(benchmark, benchmark.train), plain(benchmark, benchmark.test)
    names = list(benchmark.kinds)
    scores: dict[str, dict[str, list[float]]] = {}
    met: list[float] = []
    asked, cost = 0, 0.0
    for index in rng.permutation(len(test)):
        if asked == options.rows:
            break
        given = [names[i] for i in np.sort(rng.permutation(len(names))[: len(names) // 2])]
        conditions = {name: benchmark.test[name].iloc[index] for name in given}
        try:
            parse(model.schema_, conditions)
        except ConditionError:
            # A test row may hold what no training row does.
            continue
        asked += 1
        begin = time.process_time()
        raw = model.sample(
            options.samples, conditions=conditions, random_state=int(rng.integers(2**31))
        )
        cost += time.process_time() - begin
        met.append(float(satisfied(model.schema_, raw, conditions).mean()))
        row = test.iloc[[index]]
        drawn = {
            "ours": plain(benchmark, raw),
            "neighbours": neighbours(benchmark, row, given, options.neighbours),
            "marginals": train.sample(options.samples, replace=True, random_state=seed),
        }
        for method, table in drawn.items():
            for name in names:
                if name in given:
                    continue
                entry = scores.setdefault(method, {"crps": [], "brier": []})
                truth, values = row[name].iloc[0], table[name].to_numpy()
                if name in benchmark.of_kind("categorical"):
                    entry["brier"].append(brier(values, truth))
                elif not np.isnan(truth) and not np.isnan(values).all():
                    scale = train[name].std() or 1.0
                    entry["crps"].append(crps(values[~np.isnan(values)], truth) / scale)
    figures: dict[str, Any] = {
        method: {key: float(np.mean(values)) for key, values in entry.items() if values}
        for method, entry in scores.items()
    }
    figures["ours"] |= {"satisfied": float(np.mean(met)), "cpu_seconds": cost}
    for method, entry in figures.items():
        print(f"  given half the columns, {method:12s} {shown(entry)}", flush=True)
    return figures


# ------------------------------------------------------------------ the command


def shown(figures: dict[str, float]) -> str:
    """Figures on one line."""
    return ", ".join(f"{name} {value:.3f}" for name, value in figures.items())


def render(paths: list[Path]) -> str:
    """Files of results as Markdown, means over the seeds."""
    lines = []
    for path in paths:
        record = json.loads(path.read_text(encoding="utf-8"))
        runs = list(record["runs"].values())
        lines += [
            f"### {record['dataset']}",
            "",
            f"Budget {record['budget']:g} s, {len(runs)} seed(s), "
            f"{record['test_rows']:,} test rows.",
            "",
        ]
        shares = list(runs[0]["imputation"])
        head = [f"{kind}, {float(share):.0%}" for share in shares for kind in ("RMSE", "accuracy")]
        lines += ["| | " + " | ".join(head) + " |", "|---" + "|---:" * len(head) + "|"]
        for method in runs[0]["imputation"][shares[0]]:
            cells = [
                _mean([run["imputation"][share][method].get(key) for run in runs])
                for share in shares
                for key in ("rmse", "accuracy")
            ]
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
        lines += [
            "",
            "| given half the columns | CRPS | Brier | satisfied |",
            "|---|---:|---:|---:|",
        ]
        for method in runs[0]["conditional"]:
            cells = [
                _mean([run["conditional"][method].get(key) for run in runs])
                for key in ("crps", "brier", "satisfied")
            ]
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _mean(values: list[float | None]) -> str:
    present = [value for value in values if value is not None]
    return f"{np.mean(present):.3f}" if present else "-"


def main() -> None:
    """Fit once a seed, run both tasks, write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_arguments(parser)
    parser.add_argument("--budget", type=seconds, default=60.0, help="of fitting: 280, 5min, ...")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.3, 0.5])
    parser.add_argument("--draws", type=int, default=10, help="of the multiple imputation")
    parser.add_argument("--test-rows", type=int, default=2000, help="test rows at most")
    parser.add_argument("--baseline-rows", type=int, default=4000, help="training rows of forest")
    parser.add_argument("--rows", type=int, default=25, help="test rows to condition on")
    parser.add_argument("--samples", type=int, default=200, help="rows drawn for each")
    parser.add_argument("--neighbours", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--options", type=json.loads, default={}, help="of the model, as JSON")
    parser.add_argument("--out", type=Path, help="default benchmarks/results/imputation_NAME.json")
    parser.add_argument("--table", action="store_true", help="render the results and stop")
    options = parser.parse_args()
    if options.table:
        text = render(sorted(RESULTS.glob("imputation_*.json")))
        (RESULTS / "imputation.md").write_text(text, encoding="utf-8")
        print(text)
        return
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    benchmark = load(options.data_dir, options.dataset)
    test = possible(benchmark).head(options.test_rows)
    benchmark = dataclasses.replace(benchmark, test=test)
    record: dict[str, Any] = {
        "dataset": benchmark.name,
        "budget": options.budget,
        "test_rows": len(test),
        "runs": {},
    }
    for seed in options.seeds:
        settings = {"target": benchmark.target, "columns": benchmark.overrides} | options.options
        model = TabularDiffusion(
            random_state=seed, budget=options.budget, progress=False, **settings
        )
        begin = time.process_time()
        model.fit(benchmark.train)
        fitted = time.process_time() - begin
        print(f"{benchmark.name}, seed {seed}: fitted in {fitted:.0f} CPU-s", flush=True)
        record["runs"][str(seed)] = {
            "fit_cpu_seconds": fitted,
            "imputation": run_imputation(model, benchmark, seed, options),
            "conditional": run_conditional(model, benchmark, seed, options),
        }
    out = options.out or RESULTS / f"imputation_{benchmark.name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written to {out}")


if __name__ == "__main__":
    main()
