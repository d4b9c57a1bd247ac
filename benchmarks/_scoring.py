"""The field's figures of a synthetic table, with the settings of the published ones.

Every figure sees the same reading of the three tables (train, test, synthetic): categories are
text and a missing one is a category; dates are days; numbers stay as they are, a missing one is
the median in distances. Percent where the name says error, shares otherwise.

- shape_error, trend_error: 100 (1 - score) of SDMetrics' QualityReport against the training rows.
- c2st_logistic, c2st_xgb: SDMetrics' detection score with a logistic regression, and with XGBoost
  at its default settings, as in TabPC (arXiv 2603.23016): 1 is indistinguishable.
- mle_*: XGBoost trained on the synthetic rows, scored on test rows; mle_real_* on training rows.
- dcr_share: share of synthetic rows nearer (L1; numbers over their range, categories one-hot) to
  one of |test| random training rows than to the test rows, ideally one half; dcr_all_share: to
  all the training rows, ideally dcr_all_ideal = train / (train + test).
- alpha_precision, beta_recall: Alaa et al. 2022, around the mean of the encoded rows.
- copies: share of exact copies of training rows; copies_test, the same of the test rows.
- invalid_*: share of unknown categories; shares of rows with a number out of range, or broken
  where the column is whole.

    python benchmarks/_scoring.py --data-dir DIR --dataset NAME SYNTHETIC.csv
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from _tables import MISSING, Benchmark, add_data_arguments, load, plain, read_table
from numpy.typing import NDArray
from sklearn.metrics import f1_score, mean_squared_error, r2_score, roc_auc_score
from sklearn.neighbors import NearestNeighbors

LEARNER: dict[str, Any] = {
    "n_estimators": 200,
    "max_depth": 6,
    "learning_rate": 0.1,
    "subsample": 0.9,
    "colsample_bytree": 0.9,
    "tree_method": "hist",
    "enable_categorical": True,
    "n_jobs": 1,
}
# Rows that take part in distances at most.
REFERENCE_ROWS, QUERY_ROWS, SHARP_ROWS = 8000, 4000, 1500


def require_xgboost() -> Any:
    """Import XGBoost, or end with the command that installs it."""
    try:
        import xgboost
    except ImportError as error:
        raise SystemExit(
            "the benchmark's judges need XGBoost: pip install xgboost sdmetrics"
        ) from error
    return xgboost


class Judge:
    """The three tables as every figure sees them.

    Args:
        benchmark: The real rows.
        synthetic: The rows to judge, as read from a CSV file.
        seed: Seed of every draw and judge.
    """

    def __init__(self, benchmark: Benchmark, synthetic: pd.DataFrame, seed: int = 0) -> None:
        self.benchmark, self.seed = benchmark, seed
        self.names = list(benchmark.kinds)
        self.categorical = benchmark.of_kind("categorical")
        self.numerical = benchmark.of_kind("numerical", "datetime")
        self.train, self.test, self.synthetic = (
            plain(benchmark, table) for table in (benchmark.train, benchmark.test, synthetic)
        )
        self.levels = {name: sorted(set(self.train[name])) for name in self.categorical}
        numbers = self.train[self.numerical]
        self.low, self.high, self.median = numbers.min(), numbers.max(), numbers.median()
        sdtypes = {n: "categorical" if n in self.categorical else "numerical" for n in self.names}
        self.metadata = {"columns": {name: {"sdtype": kind} for name, kind in sdtypes.items()}}

    # ------------------------------------------------------- SDMetrics' figures

    def quality(self) -> dict[str, float]:
        """Errors of the marginals and of the pairwise dependences, percent."""
        from sdmetrics.reports.single_table import QualityReport

        report = QualityReport()
        report.generate(self.train, self.synthetic, self.metadata, verbose=False)
        scores = report.get_properties().set_index("Property")["Score"]
        return {
            "shape_error": 100 * (1 - float(scores["Column Shapes"])),
            "trend_error": 100 * (1 - float(scores["Column Pair Trends"])),
        }

    def logistic(self) -> dict[str, float]:
        """The two-sample test with a linear judge."""
        from sdmetrics.single_table import LogisticDetection

        # SDMetrics draws its folds from numpy's global generator.
        np.random.seed(self.seed)  # noqa: NPY002
        score = LogisticDetection.compute(self.train, self.synthetic, self.metadata)
        return {"c2st_logistic": float(score)}

    def boosted(self) -> dict[str, float]:
        """The two-sample test with XGBoost."""
        from sdmetrics.single_table.detection.sklearn import ScikitLearnClassifierDetectionMetric

        xgboost = require_xgboost()

        class Detection(ScikitLearnClassifierDetectionMetric):
            @staticmethod
            def _get_classifier() -> Any:
                return xgboost.XGBClassifier(
                    eval_metric="logloss", enable_categorical=True, random_state=0, n_jobs=1
                )

        np.random.seed(self.seed)  # noqa: NPY002
        return {"c2st_xgb": float(Detection.compute(self.train, self.synthetic, self.metadata))}

    # --------------------------------------------------------------- efficacy

    def efficacy(self) -> dict[str, float]:
        """Scores on test rows of a model of the synthetic rows, and of the training rows."""
        figures = {f"mle_{key}": v for key, v in self._learn(self.synthetic).items()}
        return figures | {f"mle_real_{key}": v for key, v in self._learn(self.train).items()}

    def _learn(self, table: pd.DataFrame) -> dict[str, float]:
        xgboost, target = require_xgboost(), self.benchmark.target
        exam, truth = self.features(self.test), self.test[target]
        if self.benchmark.task == "binclass":
            positive = self.levels[target][-1]
            labels, wanted = table[target] == positive, truth == positive
            if labels.nunique() < 2:
                return {"auc": 0.5, "f1": 0.0}
            model = xgboost.XGBClassifier(random_state=self.seed, **LEARNER)
            model.fit(self.features(table), labels.astype(int))
            scores = model.predict_proba(exam)[:, 1]
            return {
                "auc": float(roc_auc_score(wanted, scores)),
                "f1": float(f1_score(wanted, scores > 0.5, average="macro")),
            }
        table = table[table[target].notna()]
        model = xgboost.XGBRegressor(random_state=self.seed, **LEARNER)
        predicted = model.fit(self.features(table), table[target]).predict(exam)
        return {
            "r2": float(r2_score(truth, predicted)),
            "rmse": float(np.sqrt(mean_squared_error(truth, predicted))),
        }

    def features(self, table: pd.DataFrame) -> pd.DataFrame:
        """What the learner sees of a table: all columns but the target."""
        features = table.drop(columns=self.benchmark.target)
        for name in set(features.columns) & set(self.categorical):
            features[name] = pd.Categorical(features[name], categories=self.levels[name])
        return features

    # --------------------------------------------------------------- distances

    def _vectors(self, table: pd.DataFrame) -> NDArray[np.float32]:
        """Numbers over their range beside one-hot categories, shape (n, d)."""
        span = (self.high - self.low).replace(0, 1)
        numbers = (table[self.numerical].fillna(self.median) - self.low) / span
        parts = [numbers.to_numpy(np.float32)]
        for name in self.categorical:
            levels = np.array(self.levels[name], dtype=object)
            parts.append((table[name].to_numpy()[:, None] == levels).astype(np.float32))
        return np.concatenate(parts, axis=1)

    def privacy(self) -> dict[str, float]:
        """Whether synthetic rows lie nearer to training rows than to unseen ones."""
        rows = min(len(self.test), REFERENCE_ROWS)
        queries = min(len(self.synthetic), QUERY_ROWS)
        asked = self._vectors(self.synthetic.sample(queries, random_state=self.seed))
        train, test = (t.sample(rows, random_state=self.seed) for t in (self.train, self.test))
        near = _nearest(asked, self._vectors(train)), _nearest(asked, self._vectors(test))
        sharp = asked[:SHARP_ROWS]
        everything = (_nearest(sharp, self._vectors(table)) for table in (self.train, self.test))
        return {
            "dcr_share": _share_nearer(*near),
            "dcr_all_share": _share_nearer(*everything),
            "dcr_all_ideal": len(self.train) / (len(self.train) + len(self.test)),
        }

    def coverage(self) -> dict[str, float]:
        """Alpha-precision and beta-recall: are rows typical, and are all kinds of rows there?"""
        rows = min(len(self.train), len(self.synthetic), REFERENCE_ROWS)
        real = self._vectors(self.train.sample(rows, random_state=self.seed))
        fake = self._vectors(self.synthetic.sample(rows, random_state=self.seed))
        levels = np.linspace(0, 1, 30)
        spread = np.linalg.norm(real - real.mean(0), axis=1)
        radii = np.quantile(spread, levels)
        inside = np.linalg.norm(fake - real.mean(0), axis=1)
        precision = np.array([(inside <= radius).mean() for radius in radii])

        search = {"algorithm": "brute"}
        among_real = NearestNeighbors(n_neighbors=2, **search).fit(real).kneighbors(real)[0][:, 1]
        distance, index = NearestNeighbors(n_neighbors=1, **search).fit(fake).kneighbors(real)
        covered = distance[:, 0] <= among_real
        central = np.linalg.norm(fake[index[:, 0]] - fake.mean(0), axis=1)
        recall = np.array(
            [(covered & (central <= r)).mean() for r in np.quantile(central, levels)]
        )

        def agreement(curve: NDArray[np.float64]) -> float:
            return float(1 - np.abs(levels - curve).sum() / levels.sum())

        return {"alpha_precision": agreement(precision), "beta_recall": agreement(recall)}

    # ---------------------------------------------------------------- validity

    def validity(self) -> dict[str, float]:
        """Copies of training rows, and values that no real row could have."""
        decimals = {n: 0 if n in self.benchmark.integers else 6 for n in self.numerical}

        def fingerprints(table: pd.DataFrame) -> pd.Series:
            return pd.util.hash_pandas_object(table.round(decimals), index=False)

        known = set(fingerprints(self.train))
        fake = self.synthetic
        numbers = fake[self.numerical]
        outside = (numbers < self.low - 1e-9) | (numbers > self.high + 1e-9)
        whole = numbers[[name for name in self.numerical if name in self.benchmark.integers]]
        broken = whole.notna() & (whole != whole.round())
        strange = [~fake[name].isin(self.levels[name]) for name in self.categorical]
        return {
            "copies": float(fingerprints(fake).isin(known).mean()),
            "copies_test": float(fingerprints(self.test).isin(known).mean()),
            "invalid_category": float(np.mean(strange)) if strange else 0.0,
            "invalid_range": float(outside.any(axis=1).mean()),
            "invalid_integer": float(broken.any(axis=1).mean()),
            "missing_real": self._missing(self.train),
            "missing_synthetic": self._missing(fake),
        }

    def _missing(self, table: pd.DataFrame) -> float:
        numbers, categories = table[self.numerical].isna(), table[self.categorical]
        return float(pd.concat([numbers, categories == MISSING], axis=1).to_numpy().mean())


def _nearest(queries: NDArray[np.float32], rows: NDArray[np.float32]) -> torch.Tensor:
    """L1 distance of every query to its nearest row."""
    reference = torch.from_numpy(rows)
    chunks = torch.from_numpy(queries).split(100)
    return torch.cat([torch.cdist(chunk, reference, p=1).amin(1) for chunk in chunks])


def _share_nearer(train: torch.Tensor, test: torch.Tensor) -> float:
    return float(((train < test).float() + 0.5 * (train == test).float()).mean())


PARTS: dict[str, Callable[[Judge], dict[str, float]]] = {
    "quality": Judge.quality,
    "logistic": Judge.logistic,
    "boosted": Judge.boosted,
    "efficacy": Judge.efficacy,
    "privacy": Judge.privacy,
    "coverage": Judge.coverage,
    "validity": Judge.validity,
}


def score(
    benchmark: Benchmark, synthetic: pd.DataFrame, *, seed: int = 0, skip: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Compute all figures.

    Args:
        benchmark: The real rows.
        synthetic: The synthetic rows, as read from a CSV file.
        seed: Seed of every draw and judge.
        skip: Names of `PARTS` to leave out.

    Returns:
        Figure -> value; under "failed" what could not be computed, with the reason: some judges
        cannot take, say, missing values where the real column has none.
    """
    judge = Judge(benchmark, synthetic, seed)
    figures: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for name, part in PARTS.items():
        if name in skip:
            continue
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            try:
                figures |= part(judge)
            except Exception as error:
                failed[name] = one_line(error)
    return figures | ({"failed": failed} if failed else {})


def one_line(error: BaseException) -> str:
    """The error as one short line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def main() -> None:
    """Score one CSV file and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_data_arguments(parser)
    parser.add_argument("synthetic", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip", nargs="*", default=[], choices=PARTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    benchmark = load(arguments.data_dir, arguments.dataset)
    synthetic = read_table(arguments.synthetic, list(benchmark.kinds))
    begin = time.perf_counter()
    figures = score(benchmark, synthetic, seed=arguments.seed, skip=tuple(arguments.skip))
    print(json.dumps(figures | {"seconds": round(time.perf_counter() - begin, 1)}, indent=2))


if __name__ == "__main__":
    main()
