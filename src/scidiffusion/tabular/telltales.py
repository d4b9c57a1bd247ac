"""What gives synthetic rows away: which columns the judge of the two-sample test relies on.

A gradient-boosted judge learns to tell synthetic rows from real ones, and is examined on rows it
has not seen. A column's *importance* is the area under the ROC curve that the judge loses when the
column is shuffled among the rows it is examined on (Breiman, Random Forests, 2001): 0 if the
column told nothing, and also if another column tells the same. Judges of a single column and of a
pair of columns, trained anew, say whether a column gives itself away by its own distribution or
only beside another.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from scidiffusion.tabular.judges import TREES, _features, _one_thread
from scidiffusion.tabular.views import TableView

__all__ = ["PairTell", "Telltale", "Telltales", "find_telltales"]

MIN_ROWS = 30
# Small judges of one or two columns: how many columns get one, and their trees.
LEADERS = 5
SMALL_TREES = 30
# Predictions spent on shuffling: more than one shuffle a column where there are few.
SHUFFLES = 60
PREDICTED_CELLS = 8_000_000
# Beyond so many columns, groups of them are shuffled first, and the worst groups taken apart.
MANY_COLUMNS = 60
GROUP = 10
FINER = 8


@dataclass(frozen=True)
class Telltale:
    """How much one column told the judge.

    Args:
        column: Its name.
        importance: Area under the curve lost without it; noise may make it slightly negative.
        alone: Area of a judge that sees this column only; None where none was asked.
    """

    column: str
    importance: float
    alone: float | None = None


@dataclass(frozen=True)
class PairTell:
    """How much two columns tell together.

    Args:
        columns: Their names.
        area: Area of a judge that sees these two only.
        alone: The areas of the judges of either.
    """

    columns: tuple[str, str]
    area: float
    alone: tuple[float, float]

    @property
    def gain(self) -> float:
        """What the two tell beyond the more telling one."""
        return self.area - max(self.alone)


@dataclass(frozen=True)
class Telltales:
    """What a judge used to tell synthetic rows from real ones.

    Args:
        area: Area under the ROC curve on rows not trained on; 1/2 is chance.
        columns: Every column, the most important first.
        pairs: The most telling pairs of the most important columns, the most telling first.
        surest: Places in the synthetic table of the rows that looked most synthetic.
        rows: Rows of each table the judge has seen or was examined on.
    """

    area: float
    columns: tuple[Telltale, ...]
    pairs: tuple[PairTell, ...]
    surest: tuple[int, ...]
    rows: int


def find_telltales(
    real: TableView,
    synthetic: TableView,
    *,
    rng: np.random.Generator,
    rows: int = 3000,
    surest: int = 5,
) -> Telltales | None:
    """Find what tells a synthetic table from a real one.

    Args:
        real: Real rows.
        synthetic: Synthetic rows.
        rng: Draws rows and shuffles.
        rows: At most this many of each are used, two thirds of them to train on.
        surest: How many of the rows that looked most synthetic to name.

    Returns:
        What was found; None for fewer than 30 rows of either table.
    """
    rows = min(rows, len(real), len(synthetic))
    if rows < MIN_ROWS:
        return None
    places = rng.permutation(len(synthetic))[:rows]
    features, discrete = _features(real.sample(rows, rng), synthetic.take(places))
    columns = [*synthetic.numerical, *synthetic.discrete]
    names = [column.name for column in columns]
    labels = np.repeat([0, 1], rows)
    lesson = np.tile(np.arange(rows) < 2 * rows // 3, 2)
    seed = int(rng.integers(2**31))

    def train(use: list[int], trees: int) -> HistGradientBoostingClassifier:
        options = TREES | {"max_iter": trees}
        judge = HistGradientBoostingClassifier(
            categorical_features=discrete[use], random_state=seed, **options
        )
        return judge.fit(features[lesson][:, use], labels[lesson])

    def area_of(use: list[int]) -> float:
        judge = train(use, SMALL_TREES)
        verdict = judge.predict_proba(features[~lesson][:, use])[:, 1]
        return float(roc_auc_score(labels[~lesson], verdict))

    with _one_thread():
        judge = train(list(range(len(names))), TREES["max_iter"])
        exam = features[~lesson]
        suspicion = judge.predict_proba(exam)[:, 1]
        area = float(roc_auc_score(labels[~lesson], suspicion))
        importance = _importance(judge, exam, labels[~lesson], area, rng)
        order = np.argsort(-importance, kind="stable")
        alone = {int(k): area_of([int(k)]) for k in order[:LEADERS]}
        pairs = [
            PairTell((names[i], names[j]), area_of([i, j]), (alone[i], alone[j]))
            for i, j in itertools.combinations(alone, 2)
        ]
    examined = places[~lesson[rows:]]
    most = np.argsort(-suspicion[labels[~lesson] == 1], kind="stable")[:surest]
    return Telltales(
        area=area,
        columns=tuple(Telltale(names[k], float(importance[k]), alone.get(int(k))) for k in order),
        pairs=tuple(sorted(pairs, key=lambda pair: -pair.area)),
        surest=tuple(int(place) for place in examined[most]),
        rows=rows,
    )


def _importance(
    judge: HistGradientBoostingClassifier,
    exam: NDArray[np.float64],
    labels: NDArray[np.int64],
    area: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Area lost by shuffling each column among the examined rows.

    Many columns are shuffled in groups first, and one by one only in the groups that matter most;
    the members of another group share what it loses.
    """
    width = exam.shape[1]
    repeats = int(np.clip(SHUFFLES // width, 1, 5))
    every = [np.array([column]) for column in range(width)]
    if width <= MANY_COLUMNS:
        return _lost_without(every, judge, exam, labels, area, rng, repeats)
    groups = np.array_split(rng.permutation(width), -(-width // GROUP))
    together = _lost_without(groups, judge, exam, labels, area, rng, repeats)
    lost = np.empty(width)
    for group, loss in zip(groups, together, strict=True):
        lost[group] = max(loss, 0.0) / len(group)
    finer = np.concatenate([groups[k] for k in np.argsort(-together, kind="stable")[:FINER]])
    singles = [every[column] for column in finer]
    lost[finer] = _lost_without(singles, judge, exam, labels, area, rng, repeats)
    return lost


def _lost_without(
    groups: list[NDArray[np.intp]],
    judge: HistGradientBoostingClassifier,
    exam: NDArray[np.float64],
    labels: NDArray[np.int64],
    area: float,
    rng: np.random.Generator,
    repeats: int,
) -> NDArray[np.float64]:
    """Area lost by shuffling the columns of each group together."""
    lost = np.zeros(len(groups))
    jobs = np.repeat(np.arange(len(groups)), repeats)
    # Many shuffles in one prediction: each has a cost of its own that grows with the columns.
    at_once = max(1, PREDICTED_CELLS // exam.size)
    for start in range(0, len(jobs), at_once):
        batch = jobs[start : start + at_once]
        shuffled = np.tile(exam, (len(batch), 1)).reshape(len(batch), *exam.shape)
        for place, job in enumerate(batch):
            rows = rng.permutation(len(exam))
            shuffled[place][:, groups[job]] = exam[np.ix_(rows, groups[job])]
        verdicts = judge.predict_proba(shuffled.reshape(-1, exam.shape[1]))[:, 1]
        for job, verdict in zip(batch, verdicts.reshape(len(batch), -1), strict=True):
            lost[job] += (area - roc_auc_score(labels, verdict)) / repeats
    return lost
