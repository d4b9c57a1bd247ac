"""From a table to a fitted model: schema, constraints, encoding, training, a look for copies.

With a privacy budget nothing but noisy histograms and noisy gradients see the rows: the codec is
fitted to a surrogate table drawn from private marginals, and there are no held-out rows, no losses
and no copy report (see `scidiffusion.tabular.private_marginals` and
`scidiffusion.training.private`).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from scidiffusion.durations import seconds
from scidiffusion.errors import ConfigError, DataError, ScidiffusionWarning
from scidiffusion.estimator import resolve_device, split_rows
from scidiffusion.tabular.drawing import Drawer, Request, child_seed
from scidiffusion.tabular.front import TableFront
from scidiffusion.tabular.model import TableModel
from scidiffusion.tabular.schema import TableSchema, unknown_column
from scidiffusion.tabular.validation import validate_table

if TYPE_CHECKING:
    from scidiffusion.tabular.privacy import CopyReport
    from scidiffusion.training import TrainResult

__all__ = ["Fitted", "fit_table", "look_for_copies"]

CLASS_LEVELS = 20
"""Levels up to which an integer target counts as a class."""
DEFAULT_STEPS, UNLIMITED_STEPS = 10_000, 10_000_000
PRIVATE_STEPS, PRIVATE_BATCH = 1500, 1024
"""Steps and rows of a step with a privacy budget: the noise is set for all of them."""
HELD_OUT = 2000
"""Rows held out at most, where the share is chosen automatically."""
LEAST_HELD_OUT = 50
COPY_ROWS, COPY_TRAIN_ROWS = 4096, 10_000
COPY_STREAM = 0x636F7079


@dataclass(frozen=True)
class Fitted:
    """What a fit gives.

    Args:
        front: Between the user's table and the modelled one.
        model: The trained method.
        training: What the training did.
        kept: Positions in the table of the rows trained on.
        held_out: Positions of those held out; rows that break a constraint are in neither.
        privacy: What was spent: epsilon, delta and their parts; None without a privacy budget.
    """

    front: TableFront
    model: TableModel
    training: TrainResult
    kept: NDArray[np.intp]
    held_out: NDArray[np.intp]
    privacy: dict[str, float] | None


def fit_table(
    table: pd.DataFrame,
    kind: type[TableModel],
    options: Mapping[str, Any],
    *,
    seed: int,
    limit: float | str | None,
    checkpoint_dir: Any = None,
    resume: bool = False,
) -> Fitted:
    """Fit a method to a table.

    Args:
        table: The user's table.
        kind: The method.
        options: The estimator's options, by name.
        seed: Seed of everything random.
        limit: Time budget of the training.
        checkpoint_dir: As for `TabularDiffusion.fit`.
        resume: As for `TabularDiffusion.fit`.

    Raises:
        DataError: if the table cannot be learned.
        ConfigError: if options are impossible or contradict each other.
    """
    from scidiffusion.training import TrainConfig, train

    target, budget = options["target"], options["privacy"]
    schema = validate_table(table, _kinds(table, options))
    if target is not None and target not in schema:
        raise DataError(f"target: {unknown_column(target, schema.names)}")
    privacy: dict[str, Any] = {}
    if budget is None:
        front, modelled = TableFront.fit(table, schema, options["constraints"], seed=seed)
        fitted_to = modelled
    else:
        front, modelled, fitted_to, privacy = _privately(table, schema, options, seed)
    if target is not None and target not in front.model_schema:
        raise ConfigError(
            f"target: column {target!r} follows from others by a constraint or is made up, so it "
            "is not modelled; name another one"
        )
    model = kind(front.model_schema, options)
    rows, share = len(modelled), options["validation_fraction"]
    share = min(0.1, HELD_OUT / rows) if share is None else share
    kept, held_out = split_rows(rows, 0.0 if budget is not None else share, seed)
    config = {
        "max_steps": _max_steps(options, limit),
        "batch_size": _batch_size(options, len(kept)),
        "lr": model.options["lr"],
        "ema_decay": model.options["ema_decay"],
        "patience": options["patience"] if len(held_out) else None,
        "budget": None if limit is None else seconds(limit),
        # Few held-out rows are shown several times, with other noise each time.
        "validation_draws": min(8192, max(1024, 4 * len(held_out))),
        "seed": seed,
        "accelerator": "gpu" if resolve_device(options["device"]).type == "cuda" else "cpu",
        "progress": options["progress"],
        "privacy": privacy.get("training"),
    }
    train_config = TrainConfig(**config | model.training_options(len(kept)))
    data = model.prepare(fitted_to, seed)
    if budget is not None:
        data = model.encode(modelled, seed)
    result = train(
        model.denoiser,
        model.objective(),
        {name: value[kept] for name, value in data.items()},
        validation=({name: value[held_out] for name, value in data.items()}, None)
        if len(held_out)
        else None,
        config=train_config,
        checkpoint_dir=checkpoint_dir,
        resume=resume,
    )
    if result.stopped_by == "budget" and result.steps <= 1:
        raise ConfigError(
            f"the budget of {config['budget']:g} s was over when the first training step was done "
            f"({result.seconds:.2g} s); give a longer one"
        )
    model.denoiser.to(resolve_device(options["device"])).eval()
    spent = None if budget is None else _spent(privacy, result)
    positions = modelled.index.to_numpy()
    return Fitted(
        front, model, result, positions[kept.numpy()], positions[held_out.numpy()], spent
    )


def _privately(
    table: pd.DataFrame, schema: TableSchema, options: Mapping[str, Any], seed: int
) -> tuple[TableFront, pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """The front, the confined rows, the surrogate that a codec may see, and the budgets."""
    from scidiffusion.tabular.private_marginals import PrivateMarginals

    if options["constraints"]:
        raise ConfigError(
            "constraints learn from rows (combinations, ranges of gaps) and are not private; "
            "fit without them, or without privacy"
        )
    if schema.identifiers:
        names = ", ".join(repr(column.name) for column in schema.identifiers)
        raise ConfigError(
            f"column(s) {names} name rows, and their pattern is not private; drop them, and add "
            "made-up ones to the synthetic table"
        )
    ranges, levels = {}, {}
    for name, what in (options["public"] or {}).items():
        if name in schema and schema[name].kind.is_discrete:
            levels[name] = what
        else:
            ranges[name] = what
    codec, training = options["privacy"].split(len(table))
    marginals = PrivateMarginals.fit(table, schema, codec, bounds=ranges, categories=levels)
    surrogate = marginals.surrogate(len(table), seed)
    front, _ = TableFront.fit(surrogate, marginals.schema, None, seed=seed)
    budgets = {
        "training": training,
        "codec_epsilon": marginals.epsilon,
        "codec_delta": marginals.delta,
    }
    return front, marginals.confine(table, seed), surrogate, budgets


def _spent(budgets: Mapping[str, Any], result: TrainResult) -> dict[str, float]:
    epsilon, delta = budgets["codec_epsilon"], budgets["codec_delta"]
    return {
        "epsilon": epsilon + float(result.epsilon_spent or 0.0),
        "delta": delta + float(result.delta or 0.0),
        "codec_epsilon": epsilon,
        "training_epsilon": float(result.epsilon_spent or 0.0),
        "noise_multiplier": float(result.noise_multiplier or 0.0),
    }


def look_for_copies(
    table: pd.DataFrame, fitted: Fitted, drawer: Drawer, seed: int
) -> CopyReport | None:
    """Compare a sample with the rows trained on and those held out, and warn of copies.

    Args:
        table: The training table.
        fitted: What its fit gave.
        drawer: Draws from it.
        seed: Seed of the fit.

    Returns:
        The report; None where fewer than 50 rows were held out.
    """
    from scidiffusion.tabular.privacy import copy_report

    front, kept, held_out = fitted.front, fitted.kept, fitted.held_out
    if min(len(held_out), len(kept)) < LEAST_HELD_OUT:
        return None
    names = [column.name for column in front.schema if column.kind.is_modelled]
    rows = min(len(kept), COPY_ROWS)
    (sample,) = drawer.parts(rows, None, child_seed(seed, COPY_STREAM), Request(), None)
    report = copy_report(
        table.iloc[kept][names],
        sample[names],
        table.iloc[held_out][names],
        columns=TableSchema(tuple(front.schema[name] for name in names)),
        seed=seed,
        attacks=300,
        max_rows=COPY_TRAIN_ROWS,
    )
    if not report.passed:
        warnings.warn(report.verdict, ScidiffusionWarning, stacklevel=4)
    return report


def _kinds(table: Any, options: Mapping[str, Any]) -> dict[str, str]:
    """The overrides, and a target of few integers as classes."""
    kinds, target = dict(options["columns"] or {}), options["target"]
    if isinstance(table, pd.DataFrame) and target in table.columns and target not in kinds:
        values = table[target]
        if pd.api.types.is_integer_dtype(values) and values.nunique() <= CLASS_LEVELS:
            kinds[str(target)] = "categorical"
    return kinds


def _max_steps(options: Mapping[str, Any], limit: float | str | None) -> int:
    if options["max_steps"] is not None:
        return options["max_steps"]
    if options["privacy"] is not None:
        return PRIVATE_STEPS
    return DEFAULT_STEPS if limit is None else UNLIMITED_STEPS


def _batch_size(options: Mapping[str, Any], rows: int) -> int:
    """The option, or one that gives a small table enough steps and a GPU enough work."""
    if options["batch_size"] is not None:
        return options["batch_size"]
    if options["privacy"] is not None:
        return int(np.clip(rows // 8, 1, PRIVATE_BATCH))
    device: torch.device = resolve_device(options["device"])
    largest = 512 if device.type == "cpu" else 4096
    return int(np.clip(1 << (max(rows // 16, 1).bit_length() - 1), 64, largest))
