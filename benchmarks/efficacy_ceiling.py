"""How well can a model learn from labels that were drawn anew? A ceiling for the MLE column.

    python benchmarks/efficacy_ceiling.py --data-dir DIR --dataset shoppers

A generator that knows p(label | row) draws labels from it; the judge that learns from them sees
the noise of that second draw, and the generator's own errors on top. Here the rows stay real and
only their labels are drawn anew, from the probabilities of a classifier that has not seen the row
(out of fold) or has (in sample): what a generator could reach if its rows were perfect and its
labels as good as that classifier's. Of `TEACHERS` the one with the least log loss out of fold is
taken. The judge is the benchmark's (`_scoring.LEARNER`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from _scoring import LEARNER, Judge, require_xgboost
from _tables import Benchmark, add_data_arguments, load
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import cross_val_predict

RESULTS = Path(__file__).resolve().parent / "results"
TEACHERS = (
    LEARNER | {"n_estimators": 80, "max_depth": 4, "learning_rate": 0.07, "min_child_weight": 5},
    LEARNER,
    LEARNER | {"n_estimators": 400, "learning_rate": 0.05, "min_child_weight": 5},
)


def ceiling(benchmark: Benchmark, draws: int) -> dict[str, Any]:
    """AUC on test rows of the judge, by where its labels come from; mean over draws."""
    xgboost, judge = require_xgboost(), Judge(benchmark, benchmark.train)
    target = benchmark.target
    positive = judge.levels[target][-1]
    rows, exam = judge.features(judge.train), judge.features(judge.test)
    labels, truth = judge.train[target] == positive, judge.test[target] == positive
    trials = []
    for settings in TEACHERS:
        candidate = xgboost.XGBClassifier(random_state=0, **settings)
        fresh = cross_val_predict(
            candidate, rows, labels.astype(int), cv=5, method="predict_proba"
        )
        trials.append((log_loss(labels, fresh[:, 1]), candidate, fresh[:, 1]))
    _, teacher, fresh = min(trials, key=lambda trial: trial[0])
    teacher.fit(rows, labels.astype(int))

    def learned(drawn: Any) -> float:
        model = xgboost.XGBClassifier(random_state=0, **LEARNER).fit(rows, drawn.astype(int))
        return float(roc_auc_score(truth, model.predict_proba(exam)[:, 1]))

    figures = {
        "real labels": learned(labels),
        "teacher itself": float(roc_auc_score(truth, teacher.predict_proba(exam)[:, 1])),
    }
    rng = np.random.default_rng(0)
    laws = {"out of fold": fresh, "in sample": teacher.predict_proba(rows)[:, 1]}
    for name, law in laws.items():
        scores = [learned(rng.random(len(law)) < law) for _ in range(draws)]
        figures[f"labels drawn, {name}"] = float(np.mean(scores))
        figures[f"labels drawn, {name}, sd"] = float(np.std(scores, ddof=1))
    return figures


def main() -> None:
    """Print and write the figures of one data set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_arguments(parser)
    parser.add_argument("--draws", type=int, default=6)
    options = parser.parse_args()
    benchmark = load(options.data_dir, options.dataset)
    if benchmark.task != "binclass":
        raise SystemExit(f"{benchmark.name} has no label to draw: its task is {benchmark.task}")
    figures = ceiling(benchmark, options.draws)
    for name, value in figures.items():
        print(f"{benchmark.name}, {name:24s} {value:.4f}")
    out = RESULTS / f"efficacy_ceiling_{benchmark.name}.json"
    out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
