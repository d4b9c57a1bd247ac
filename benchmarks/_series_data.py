"""The series of the benchmarks, and the scores of forecasts and of filled gaps.

A folder DIR/NAME is a GluonTS `FileDataset`: train/data.json.gz, test/data.json.gz (a JSON object
a line: `start`, `target` with null for missing, `item_id`, `feat_dynamic_real`) and meta.json:
`freq`, `prediction_length`, `num_series` D, `rolling_windows` W, `protocol`. The test file has
W D entries, all series of the first window first; each holds the past and, as its last
`prediction_length` steps, what is to be forecast. The data sets of the TimeGrad paper (Rasul et
al. 2021, arXiv 2101.12072) that have no folder come from `gluonts.dataset.repository`.

The scores are those of gluonts.evaluation.[Multivariate]Evaluator with the quantiles 0.05..0.95,
which TimeGrad's README uses. NaN targets are left out of every sum.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scidiffusion.errors import DataError
from scidiffusion.timeseries.frequency import normalise_freq, quiet_business_days, split_freq
from scidiffusion.timeseries.scores import (
    NINETEEN_LEVELS,
    sample_quantiles,
    weighted_quantile_loss,
)
from scidiffusion.timeseries.scores import score_forecasts as library_scores
from scidiffusion.timeseries.series import Series, SeriesSet

Array = NDArray[np.float64]

LEVELS = np.array(NINETEEN_LEVELS)

# Name -> greatest number of series: the paper keeps the last 2000 pages of Wikipedia.
REPOSITORY = dict.fromkeys(
    ("exchange_rate_nips", "solar_nips", "electricity_nips", "traffic_nips", "taxi_30min")
) | {"wiki-rolling_nips": 2000}

_SEASONS = {"s": 3600, "min": 1440, "h": 24, "D": 7, "B": 5, "W": 52, "M": 12, "Q": 4, "Y": 1}


@dataclass(frozen=True)
class BenchmarkData:
    """Series with forecasts to make and what came of them.

    Args:
        name: The data set.
        train: What may be learned from: one item of D series, or one item a series.
        test: N forecast windows: the past, with known covariates to the end of the horizon.
        observed: (N, H, D) what came; NaN is missing.
        freq: Frequency, as pandas names a period's.
        horizon: Number of steps H.
        season: Steps of a season; 1 is none.
        univariate: Whether every series is an item of its own (D = 1).
    """

    name: str
    train: SeriesSet
    test: list[Series]
    observed: Array
    freq: str
    horizon: int
    season: int
    univariate: bool

    @property
    def train_rows(self) -> list[Array]:
        """The training series one by one, (T,) each."""
        return [row for item in self.train for row in item.target]

    @property
    def last(self) -> Array:
        """(N, D) the value before each window."""
        return np.stack([series.target[:, -1] for series in self.test])


# ------------------------------------------------------------------------ reading


def load_dataset(folder: Path | None, name: str, setting: str | None = None) -> BenchmarkData:
    """Read a data set from FOLDER/NAME, or from GluonTS's repository.

    Args:
        folder: Folder of data sets, or None.
        name: The data set.
        setting: "univariate" or "multivariate"; default is what the protocol of meta.json says.

    Raises:
        SystemExit: If there is no such data set, it cannot be downloaded, or its test entries do
            not make whole windows.
    """
    path = None if folder is None else folder / name
    if path is not None and (path / "meta.json").exists():
        meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
        freq, horizon = normalise_freq(meta["freq"]), int(meta["prediction_length"])
        train, test = (_read(path / part / "data.json.gz", freq) for part in ("train", "test"))
        univariate = "univariate" in meta.get("protocol", "") or meta["num_series"] == 1
        greatest = None
    elif name in REPOSITORY:
        train, test, freq, horizon = _download(name)
        univariate, greatest = False, REPOSITORY[name]
    else:
        where = "--data-dir is not given" if path is None else f"{path} holds no meta.json"
        raise SystemExit(
            f"there is no data set {name!r}: {where}, and it is none of those that can be "
            f"downloaded ({', '.join(REPOSITORY)})"
        )
    if setting is not None:
        univariate = setting == "univariate"
    if len(test) % len(train):
        raise SystemExit(
            f"{name}: {len(test)} test entries do not make whole windows of {len(train)} series"
        )
    return _assemble(name, train, test, freq, horizon, univariate, greatest)


def season_of(freq: str, length: int) -> int:
    """Steps of a season: a day of hours, a week of days, a year of months.

    Args:
        freq: Frequency.
        length: Steps of the shortest series; a season that it holds less than twice is none.
    """
    count, unit = split_freq(freq)
    season, rest = divmod(_SEASONS.get(unit.partition("-")[0], 1), count)
    return season if not rest and 0 < season <= length // 2 else 1


def _read(path: Path, freq: str) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [_entry(json.loads(line), freq) for line in lines]


def _entry(raw: dict[str, Any], freq: str) -> dict[str, Any]:
    """One series; a None becomes NaN."""
    with quiet_business_days():
        start = raw["start"]
        start = start if isinstance(start, pd.Period) else pd.Period(start, freq=freq)
    return {
        "target": np.asarray(raw["target"], dtype=np.float64),
        "start": start,
        "item_id": str(raw.get("item_id", "")),
        "known": np.asarray(raw.get("feat_dynamic_real", np.empty((0, 0))), dtype=np.float64),
    }


def _download(name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str, int]:
    from scidiffusion._lazy import require

    repository = require("gluonts.dataset.repository", "timeseries")
    try:
        data = repository.get_dataset(name)
    except OSError as error:
        raise SystemExit(
            f"{name} could not be downloaded by gluonts.dataset.repository ({error}); it needs "
            f"the internet once, or a folder {name} in --data-dir"
        ) from error
    freq = normalise_freq(data.metadata.freq)
    train, test = ([_entry(raw, freq) for raw in part] for part in (data.train, data.test))
    return train, test, freq, int(data.metadata.prediction_length)


def _assemble(
    name: str,
    train: list[dict[str, Any]],
    test: list[dict[str, Any]],
    freq: str,
    horizon: int,
    univariate: bool,
    greatest: int | None = None,
) -> BenchmarkData:
    """Make items and windows of entries: one an entry, or D entries at a time."""
    count = len(train)
    if univariate:
        items = [
            _item([entry], entry["item_id"] or str(index), [index])
            for index, entry in enumerate(train)
        ]
        whole = [
            _item([entry], train[index % count]["item_id"] or str(index), [index % count])
            for index, entry in enumerate(test)
        ]
    else:
        kept = slice(-greatest if greatest else None, None)
        items = [_item(train[kept], name)]
        windows = [test[first : first + count][kept] for first in range(0, len(test), count)]
        whole = [_item(window, name, ends=True) for window in windows]
    past = [series.cut(series.length - horizon) for series in whole]
    observed = np.stack([series.target[:, -horizon:].T for series in whole])
    season = season_of(freq, min(item.length for item in items))
    return BenchmarkData(
        name, SeriesSet(items, freq), past, observed, freq, horizon, season, univariate
    )


def _item(
    entries: list[dict[str, Any]],
    item_id: str,
    classes: Sequence[int] = (),
    *,
    ends: bool = False,
) -> Series:
    """Entries as the series of one item, on one time axis; where one is shorter it is NaN."""
    starts = [entry["start"].ordinal for entry in entries]
    stops = [first + len(entry["target"]) for first, entry in zip(starts, entries, strict=True)]
    if ends and len(set(stops)) > 1:
        raise SystemExit(f"{item_id}: the series of a test window end at different times")
    first = min(starts)
    target = np.full((len(entries), max(stops) - first), np.nan)
    for row, begin, stop, entry in zip(target, starts, stops, entries, strict=True):
        row[begin - first : stop - first] = entry["target"]
    known = [entry["known"] for entry in entries if entry["known"].size]
    if known and all(np.array_equal(known[0], other) for other in known):
        known = known[:1]
    names = [entry["item_id"] or str(index) for index, entry in enumerate(entries)]
    # Rolling entries of GluonTS number on: the same series has another name in each window.
    distinct = names if len(set(names)) == len(names) else [str(i) for i in range(len(names))]
    return Series(
        target,
        entries[int(np.argmin(starts))]["start"],
        item_id=item_id,
        names=tuple(distinct),
        known=np.vstack(known) if known else np.empty((0, 0)),
        static_cat=np.asarray(classes, dtype=np.int64),
    )


def before_test(data: BenchmarkData, windows: int) -> BenchmarkData:
    """The data with its last `windows` horizons of training as what is to be forecast.

    Changes of a model are judged here, where the test windows stay unseen.

    Args:
        data: The data set.
        windows: Windows of an item, side by side.

    Raises:
        SystemExit: If an item is too short.
    """
    train, test, observed = [], [], []
    for item in data.train:
        first = item.length - windows * data.horizon
        if first <= data.horizon:
            raise SystemExit(
                f"{data.name}: {item.item_id} has {item.length} steps, too few for {windows} "
                f"windows of {data.horizon} before its test part"
            )
        train.append(item.cut(first))
        for end in range(first, item.length, data.horizon):
            test.append(item.cut(end))
            observed.append(item.target[:, end : end + data.horizon].T)
    return replace(data, train=SeriesSet(train, data.freq), test=test, observed=np.stack(observed))


def made_data(series: int, horizon: int, *, windows: int = 1, seed: int = 0) -> BenchmarkData:
    """Hourly series that share a daily wave and a random walk: to measure costs on.

    Args:
        series: Number of series D of the one item.
        horizon: Steps to forecast.
        windows: Forecast windows N at the end, side by side.
        seed: Seed of the noise.
    """
    rng = np.random.default_rng(seed)
    length = max(480, 12 * horizon)
    total = length + windows * horizon
    wave = np.sin(2 * np.pi * (np.arange(total) / 24 + rng.random((series, 1))))
    walk = np.cumsum(rng.normal(0, 0.05, total))
    level = rng.lognormal(1.0, 0.5, (series, 1))
    values = level * (5 + wave + walk + rng.normal(0, 0.2, (series, total)))
    whole = Series(values, pd.Period("2020-01-01", "h"), item_id="made")
    ends = [length + index * horizon for index in range(windows)]
    return BenchmarkData(
        f"made_{series}x{horizon}",
        SeriesSet([whole.cut(length)], "h"),
        [whole.cut(end) for end in ends],
        np.stack([values[:, end : end + horizon].T for end in ends]),
        "h",
        horizon,
        24,
        series == 1,
    )


# ------------------------------------------------------------------------ scoring


NAMES = {
    "crps": "crps",
    "crps_nine": "crps_9q",
    "nd": "nd",
    "nrmse": "nrmse",
    "coverage_50": "coverage50",
    "coverage_90": "coverage90",
    "mase": "mase",
    "crps_sum": "crps_sum",
    "crps_sum_nine": "crps_sum_9q",
    "nd_sum": "nd_sum",
    "coverage_90_sum": "coverage90_sum",
    "variogram_score": "variogram",
}
"""Scores of the library -> their names in the files of results."""


def score_forecasts(data: BenchmarkData, samples: Array) -> dict[str, float | None]:
    """All scores of sample forecasts; None is one that the data does not allow.

    They are the library's (`scidiffusion.timeseries.scores`), except that the energy score takes
    its pairs of samples as public evaluators do: 24 S of them, where the library takes all.

    Args:
        data: The data set.
        samples: (N, S, H, D).

    Raises:
        ValueError: If the shapes do not fit, or a sample is not finite.
    """
    try:
        scores = library_scores(
            data.observed,
            samples,
            last=data.last,
            train=[item.target for item in data.train],
            season=data.season,
        ).as_dict()
    except DataError as error:
        raise ValueError(f"{data.name}: {error}") from error
    figures = {NAMES[name]: value for name, value in scores.items() if name in NAMES}
    if data.univariate:
        joint = {"crps_sum", "crps_sum_9q", "nd_sum", "coverage90_sum", "variogram"}
        return {name: value for name, value in figures.items() if name not in joint}
    scale = np.array([np.nanstd(row) for row in data.train_rows])
    scale[scale == 0] = 1.0
    figures["energy"] = _mean_over_steps(energy, data.observed / scale, samples / scale)
    return figures


def _mean_over_steps(score: Any, observed: Array, samples: Array) -> float:
    """Mean of a score of the series together, over the windows' steps without missing values."""
    values = [
        score(observed[window, step], samples[window, :, step])
        for window, step in np.ndindex(observed.shape[:2])
        if np.isfinite(observed[window, step]).all()
    ]
    return float(np.mean(values)) if values else float("nan")


def energy(observed: Array, draws: Array) -> float:
    """E|X - y| - E|X - X'| / 2 of (D,) and (S, D); the second mean over 24 S pairs at most."""
    count = len(draws)
    shuffled = draws[np.random.default_rng(0).permutation(count)]
    spread = [
        np.linalg.norm(draws - np.roll(shuffled, shift, 0), axis=-1).mean()
        for shift in range(1, min(count, 25))
    ]
    return float(np.linalg.norm(draws - observed, axis=-1).mean() - 0.5 * np.mean(spread))


# --------------------------------------------------------------------------- gaps


def carried(row: Array) -> Array:
    """Missing values on straight lines between their neighbours; the ends go on level."""
    given = np.flatnonzero(np.isfinite(row))
    if not len(given):
        return np.zeros_like(row)
    return np.interp(np.arange(len(row)), given, row[given])


def hide_cells(
    data: BenchmarkData, share: float, *, seed: int, history: int
) -> tuple[list[Series], list[Array]]:
    """Windows with observed cells hidden at random, and what was hidden.

    Args:
        data: The data set; the held-back windows are its forecast windows.
        share: Share of the observed cells of each window to hide, in (0, 1).
        seed: Seed of the choice.
        history: Steps before each window that are handed over with it.

    Returns:
        The N items, of at most `history` + H steps, and (D, T) arrays of the hidden values, NaN
        elsewhere.
    """
    rng = np.random.default_rng([seed, round(1000 * share)])
    items, hidden = [], []
    for past, window in zip(data.test, data.observed, strict=True):
        before = past.tail(history)
        values = np.concatenate([before.target, window.T], axis=1)
        mask = np.isfinite(values) & (rng.random(values.shape) < share)
        mask[:, : before.length] = False
        items.append(
            Series(
                np.where(mask, np.nan, values),
                before.start,
                before.item_id,
                before.names,
                before.known,
                static_real=before.static_real,
                static_cat=before.static_cat,
            )
        )
        hidden.append(np.where(mask, values, np.nan))
    return items, hidden


def score_filled(
    data: BenchmarkData, items: list[Series], hidden: list[Array], filled: Iterable[Array]
) -> dict[str, float]:
    """Scores of filled cells.

    Args:
        data: The data set.
        items: What was handed over.
        hidden: What was hidden of it, from `hide_cells`.
        filled: (S, T, D) draws an item.

    Returns:
        mae (of the median), mae_scaled (in standard deviations of the training series), crps
        (mean weighted quantile loss, the levels 0.05..0.95), cells (their number) and changed (the
        greatest change of an observed cell, which must be 0).
    """
    scale = np.array([np.nanstd(row) for row in data.train_rows])
    scale[~(scale > 0)] = 1.0
    dim = items[0].dim
    truths, draws, scales, changed = [], [], [], 0.0
    for index, (item, truth, drawn) in enumerate(zip(items, hidden, filled, strict=True)):
        found = np.asarray(drawn, dtype=np.float64).transpose(0, 2, 1)
        asked, given = np.isfinite(truth), np.isfinite(item.target)
        truths.append(truth[asked])
        draws.append(found[:, asked])
        rows = (index * dim + np.arange(dim)) % len(scale)
        scales.append(np.broadcast_to(scale[rows][:, None], truth.shape)[asked])
        changed = max(changed, float(np.abs(found[:, given] - item.target[given]).max(initial=0)))
    observed, samples = np.concatenate(truths), np.concatenate(draws, axis=1)
    quantiles = sample_quantiles(samples[None], NINETEEN_LEVELS)
    errors = np.abs(quantiles[0, len(LEVELS) // 2] - observed)
    return {
        "mae": float(errors.mean()),
        "mae_scaled": float((errors / np.concatenate(scales)).mean()),
        "crps": float(weighted_quantile_loss(observed[None], quantiles, NINETEEN_LEVELS).mean()),
        "cells": float(len(observed)),
        "changed": changed,
    }
