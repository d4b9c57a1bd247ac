"""`TabularDiffusion`: a synthetic copy of a mixed-type table.

The estimator is the front: it checks tables and conditions, trains, draws in blocks, saves and
loads. What is learned and how rows are drawn is a method's (`scidiffusion.tabular.model`):

- "masked" (:mod:`scidiffusion.tabular.masked`), the default: any-order masking diffusion over
  categories, spikes, missing values and numbers;
- "ddpm" (:mod:`scidiffusion.tabular.ddpm`): the manner of TabDDPM.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from scidiffusion.core.rng import KeyedNoise
from scidiffusion.durations import seconds
from scidiffusion.errors import ConfigError, DataError
from scidiffusion.estimator import (
    GenerativeEstimator,
    check_batch_size,
    check_seed,
    resolve_device,
    split_rows,
)
from scidiffusion.persistence import SavedModel
from scidiffusion.progress import sampling_progress
from scidiffusion.tabular.conditions import Condition, Equal, parse
from scidiffusion.tabular.ddpm import DDPMModel
from scidiffusion.tabular.front import TableFront
from scidiffusion.tabular.masked import MaskedModel
from scidiffusion.tabular.model import TableModel
from scidiffusion.tabular.rebalance import spread
from scidiffusion.tabular.schema import unknown_column
from scidiffusion.tabular.validation import validate_count, validate_table

METHODS: dict[str, type[TableModel]] = {"masked": MaskedModel, "ddpm": DDPMModel}
CHOICES = {
    "method": ("auto", *METHODS),
    "precision": ("auto", "float32", "bf16"),
}
"""Options that are one of a few words."""
CLASS_LEVELS = 20
"""Levels up to which an integer target counts as a class."""
HELD_OUT = 2000
"""Rows held out at most, where the share is chosen automatically."""


class TabularDiffusion(GenerativeEstimator):
    """Learn the joint distribution of a table's columns and draw new rows.

    Args:
        method: "masked", any-order masking diffusion; "ddpm", in the manner of TabDDPM; "auto" is
            "masked".
        target: Name of the column to predict, if there is one: integers of at most 20 levels then
            count as classes. With method "ddpm" a class is drawn from its frequencies and the
            other columns given it, as in TabDDPM.
        columns: Overrides of the inferred kinds: {"zip": "categorical", "rooms": "numerical"}.
        constraints: Rules that every sampled row keeps; see `scidiffusion.tabular.constraints`.
        width: Width of the residual MLP; None is the method's default, here and below.
        blocks: Number of its blocks.
        components: Gaussians in the law of a number; method "masked".
        dropout: Dropout rate of the blocks.
        max_steps: Training steps at most.
        batch_size: Rows a training step.
        lr: Peak learning rate.
        ema_decay: Decay of the average of the weights.
        validation_fraction: Share of rows held out for early stopping, in [0, 0.5]; 0 trains on
            all rows for all steps; None is a tenth, 2,000 rows at most.
        patience: Evaluations without improvement of the held-out loss before training stops.
        budget: Training time at most: seconds or a text such as "2min"; None is no limit.
        objective: Method "ddpm": "tabddpm" is the loss of the paper: eps-prediction of the numbers
            and the multinomial KL of the categories. "balanced" trains the same model on
            v-prediction and the cross-entropy of the clean class, whose gradients vary less.
        num_nodes: Method "ddpm": steps T of the forward process.
        known_share: Method "ddpm": share of training rows with a random set of known columns: what
            conditions need. 0 gives them up.
        sample_steps: Number of sampling steps. Method "masked": None is one a column, which is
            exact; fewer draw several columns at once. Method "ddpm": at most `num_nodes`.
        sampler: Method "ddpm": rule for the numbers: "ancestral", "ddim", "dpmpp_2m" or
            "dpmpp_sde".
        precision: Of the network's matrix products, in training and sampling: "float32", "bf16",
            or "auto", which is bf16 where the hardware multiplies it natively (AMX, tensor cores).
        device: "auto", "cpu" or "cuda".
        random_state: Seed of everything random; None takes a fresh one.
        progress: Show progress bars.

    Attributes:
        seed_: The seed that was used.
        schema_: `TableSchema` of the training table.
        feature_names_in_, n_features_in_: Names and number of the columns.
        model_: The fitted method: its codec and its denoiser.
        training_: `scidiffusion.training.TrainResult` of the fit.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"dose": [0.5, 1.5, 2.5, 3.5] * 25, "arm": list("abab") * 25})
        >>> model = TabularDiffusion(max_steps=20, progress=False, random_state=0).fit(table)
        >>> model.sample(3, conditions={"arm": "b"})["arm"].tolist()
        ['b', 'b', 'b']
    """

    def __init__(
        self,
        *,
        method: str = "auto",
        target: str | None = None,
        columns: Mapping[str, str] | None = None,
        constraints: Sequence[Any] | None = None,
        width: int | None = None,
        blocks: int | None = None,
        components: int = 20,
        dropout: float | None = None,
        max_steps: int = 10_000,
        batch_size: int | None = None,
        lr: float | None = None,
        ema_decay: float | None = None,
        validation_fraction: float | None = None,
        patience: int = 10,
        budget: float | str | None = None,
        objective: str = "balanced",
        num_nodes: int = 1000,
        known_share: float = 0.2,
        sample_steps: int | None = None,
        sampler: str = "ancestral",
        precision: str = "auto",
        device: str = "auto",
        random_state: int | None = None,
        progress: bool = True,
    ) -> None:
        self.method = method
        self.target = target
        self.columns = columns
        self.constraints = constraints
        self.width = width
        self.blocks = blocks
        self.components = components
        self.dropout = dropout
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.lr = lr
        self.ema_decay = ema_decay
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.budget = budget
        self.objective = objective
        self.num_nodes = num_nodes
        self.known_share = known_share
        self.sample_steps = sample_steps
        self.sampler = sampler
        self.precision = precision
        self.device = device
        self.random_state = random_state
        self.progress = progress

    # ------------------------------------------------------------------ fitting

    def fit(
        self,
        X: pd.DataFrame,
        y: None = None,
        *,
        budget: float | str | None = None,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> Self:
        """Learn from a table.

        Args:
            X: The table; every column is learned, identifiers excepted.
            y: Ignored, as scikit-learn's unsupervised estimators do.
            budget: Overrides the option of that name.
            checkpoint_dir: Folder for a checkpoint, written now and then and when training is
                interrupted. None writes none.
            resume: Go on from the checkpoint in `checkpoint_dir`, if there is one.

        Raises:
            DataError: if a column cannot be learned; the message names it and the way out.
            ConfigError: if an option is out of range.
            KeyboardInterrupt: after Ctrl-C; the checkpoint has been written.
        """
        from scidiffusion.training import TrainConfig, train

        kind = self._method()
        schema = validate_table(X, self._kinds(X))
        if self.target is not None and self.target not in schema:
            raise DataError(f"target: {unknown_column(self.target, schema.names)}")
        seed = check_seed(self.random_state)
        front = TableFront.fit(X, schema, self.constraints, kinds=self._kinds(X), seed=seed)
        table = front.modelled(X)
        model = kind(front.model_schema, self._options())
        rows = len(table)
        share = self.validation_fraction
        kept, held_out = split_rows(rows, min(0.1, HELD_OUT / rows) if share is None else share, seed)
        limit = budget if budget is not None else self.budget
        device = resolve_device(self.device)
        options: dict[str, Any] = {
            "max_steps": self.max_steps,
            "batch_size": self._batch_size(len(kept), device),
            "lr": model.options["lr"],
            "ema_decay": model.options["ema_decay"],
            "patience": self.patience,
            "budget": None if limit is None else seconds(limit),
            # Few held-out rows are shown several times, with other noise each time.
            "validation_draws": min(8192, max(1024, 4 * len(held_out))),
            "seed": seed,
            "accelerator": "gpu" if device.type == "cuda" else "cpu",
            "progress": self.progress,
        }
        config = TrainConfig(**options | model.training_options(len(kept)))
        data = model.prepare(table, seed)
        self.training_ = train(
            model.denoiser,
            model.objective(),
            {name: value[kept] for name, value in data.items()},
            validation=({name: value[held_out] for name, value in data.items()}, None)
            if len(held_out)
            else None,
            config=config,
            checkpoint_dir=checkpoint_dir,
            resume=resume,
        )
        model.denoiser.to(device).eval()
        self._set_fitted(front, model)
        self.n_rows_ = len(X)
        self.seed_, self._calls = seed, 0
        return self

    # ----------------------------------------------------------------- sampling

    def sample(
        self,
        n: int | None = None,
        *,
        conditions: Mapping[str, Any] | None = None,
        balance: str | Mapping[str, Mapping[Any, float]] | None = None,
        steps: int | None = None,
        random_state: int | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        """Draw rows: columns, dtypes and formats as in the training table.

        Args:
            n: Number of rows, >= 0; None is the size of the training table.
            conditions: Column -> what every row has there; the other columns are drawn given
                these. A value; None for missing; a list or set of values; `slice(low, high)` or
                `Between(low, high)` for a range (see `scidiffusion.tabular.conditions`).
            balance: A column of levels to have equally often, or {column: {level: weight}}.
            steps: Number of sampling steps; default `sample_steps`.
            random_state: Seed; None continues the estimator's own stream, with new rows each call.
            batch_size: Rows at once on a GPU; changes nothing but memory and speed.

        Raises:
            NotFittedError: before `fit`.
            InputError: if n is negative.
            ConditionError: if a condition names an unknown column or a value never seen, or
                contradicts another or a constraint.
        """
        self._check_fitted()
        n = validate_count(self.n_rows_ if n is None else n)
        check_batch_size(batch_size)
        seed = self._next_seed(random_state)
        asked = self.front_.conditions(parse(self.schema_, conditions))
        fixed = {name: c.value for name, c in asked.items() if isinstance(c, Equal)}
        cuts = {name: c for name, c in asked.items() if not isinstance(c, Equal)}
        given = self.front_.given(fixed, n)
        if balance is not None:
            given = given.assign(**spread(self.front_.model_schema, balance, asked, n, seed))
        rows = self._complete(
            given,
            np.ones((n, given.shape[1]), dtype=bool),
            seed,
            cuts=cuts,
            steps=steps,
            batch_size=batch_size,
        )
        return self.front_.finish(rows, seed)

    def impute(
        self,
        X: pd.DataFrame,
        *,
        draws: int | None = None,
        steps: int | None = None,
        random_state: int | None = None,
        batch_size: int | None = None,
    ) -> Any:
        """Fill missing values with draws from their law given the rest of their row.

        Args:
            X: Rows of the training table's columns; columns may be left out, and count as missing.
            draws: None returns one completed table; an integer a list of that many, for multiple
                imputation (Rubin 1987).
            steps: Number of sampling steps; default `sample_steps`.
            random_state: Seed; None continues the estimator's own stream.
            batch_size: Rows at once on a GPU.

        Returns:
            The table, or the tables, with the index of `X` and every known value as it was;
            identifiers that are missing are made up.

        Raises:
            NotFittedError: before `fit`.
            DataError: if a value is none that the training table could hold.
        """
        self._check_fitted()
        check_batch_size(batch_size)
        if draws is not None and (isinstance(draws, bool) or draws < 1):
            raise ConfigError(f"draws must be an integer >= 1 or None, got {draws!r}")
        seed = self._next_seed(random_state)
        full = self.front_.complete_columns(X)
        given = self.front_.modelled(full, gaps=True)
        known = given.notna().to_numpy()
        tables = []
        for draw in range(draws or 1):
            own = seed if draws is None else _child(seed, draw)
            rows = self._complete(
                given, known, own, steps=steps, present=True, batch_size=batch_size
            )
            filled = self.front_.finish(rows, own)
            tables.append(self.front_.keep_known(full, filled))
        return tables[0] if draws is None else tables

    def score_samples(
        self, X: pd.DataFrame, *, steps: int | None = None, orders: int = 1
    ) -> NDArray[np.float64]:
        """Return a lower bound of the log-likelihood of rows, in nats.

        The bound is the ELBO of the encoded row (a density in the normal scores, a probability in
        the categories), with the randomness of a fixed seed: use it to compare rows; the lowest
        are outliers. Identifiers play no part.

        Args:
            X: Rows of the training table's columns.
            steps: Steps of the bound's chain. Method "masked": None is one a column. Method
                "ddpm": None is 100, at most `num_nodes`.
            orders: Method "masked": random orders of the columns that the bound averages over.

        Raises:
            NotFittedError: before `fit`.
            DataError: if a row holds what the codec cannot encode.
        """
        self._check_fitted()
        table = self.front_.modelled(X)
        return self.model_.log_prob(table, self.seed_, steps=steps, orders=orders)

    # ------------------------------------------------------------------ helpers

    def _complete(
        self,
        given: pd.DataFrame,
        known: NDArray[np.bool_],
        seed: int,
        *,
        cuts: Mapping[str, Condition] | None = None,
        steps: int | None = None,
        present: bool = False,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        """Draw what is not known of rows of modelled columns.

        Args:
            given: Some or all of the modelled columns, n rows.
            known: (n, columns of `given`) which cells are known.
            seed: Seed of the draw.
            cuts: Sets and ranges of other columns.
            steps: Number of sampling steps.
            present: Draw no missing values.
            batch_size: Rows at once on a GPU.
        """
        model, schema, n = self.model_, self.front_.model_schema, len(given)
        restrictions = model.restrict(cuts or {})
        noise = KeyedNoise(seed)
        device = resolve_device(self.device)
        places = [schema.names.index(name) for name in given.columns]
        flags = torch.zeros(n, len(schema), dtype=torch.bool)
        flags[:, places] = torch.from_numpy(known)
        state = model.encode(given.reindex(columns=schema.names), self.seed_, gaps=True)
        if n == 0:
            return model.decode(state, noise, restrictions=restrictions)

        def draw(start: int, rows: int) -> dict[str, Tensor]:
            # The last block is computed whole: its rows beyond n repeat the last one.
            index = torch.arange(start, start + rows).clamp(max=n - 1)
            return model.draw(
                {name: value[index] for name, value in state.items()},
                flags[index],
                noise.rows(start),
                restrictions=restrictions,
                steps=steps,
                present=present,
            )

        with sampling_progress(n, enabled=self.progress) as advance:
            drawn = self._blocks(draw, n, device=device, batch_size=batch_size, progress=advance)
        table = model.decode(drawn, noise, restrictions=restrictions)
        for position, name in enumerate(given.columns):
            # What is known comes back as it was, to the last digit.
            table[name] = table[name].where(~known[:, position], given[name].to_numpy())
        return table

    def _method(self) -> type[TableModel]:
        """The method's class, after a look at the options."""
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"{name} must be one of {', '.join(choices)}; got {getattr(self, name)!r}"
                )
        kind = METHODS["masked" if self.method == "auto" else self.method]
        kind.check(self.get_params(deep=False))
        return kind

    def _options(self) -> dict[str, Any]:
        return self.get_params(deep=False)

    def _batch_size(self, rows: int, device: torch.device) -> int:
        """The option, or one that gives a small table enough steps and a GPU enough work."""
        if self.batch_size is not None:
            return self.batch_size
        largest = 512 if device.type == "cpu" else 4096
        return int(np.clip(1 << (max(rows // 16, 1).bit_length() - 1), 64, largest))

    def _kinds(self, table: Any) -> dict[str, str]:
        """The overrides, and a target of few integers as classes."""
        kinds = dict(self.columns or {})
        if isinstance(table, pd.DataFrame) and self.target in table.columns:
            values = table[self.target]
            few = pd.api.types.is_integer_dtype(values) and values.nunique() <= CLASS_LEVELS
            if few and self.target not in kinds:
                kinds[str(self.target)] = "categorical"
        return kinds

    def _set_fitted(self, front: TableFront, model: TableModel) -> None:
        self.front_, self.model_, self.schema_ = front, model, front.schema
        self.codec_, self.denoiser_ = model.codec, model.denoiser
        self.feature_names_in_ = np.asarray(front.schema.names, dtype=object)
        self.n_features_in_ = len(front.schema)

    # -------------------------------------------------------------- persistence

    def _state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, dict[str, Any]]]:
        codec, arrays = self.model_.state()
        tensors = {f"denoiser.{name}": v for name, v in self.denoiser_.state_dict().items()}
        for name, array in arrays.items():
            tensors[f"codec.{name}"] = torch.from_numpy(np.ascontiguousarray(array))
        config = {"seed": self.seed_, "rows": self.n_rows_}
        return config, tensors, {"codec.json": codec, "front.json": self.front_.to_json()}

    def _restore(self, saved: SavedModel) -> None:
        arrays = {
            name.removeprefix("codec."): value.numpy()
            for name, value in saved.tensors.items()
            if name.startswith("codec.")
        }
        front = TableFront.from_json(saved.extra["front.json"])
        model = self._method()(front.model_schema, self._options())
        model.restore(saved.extra["codec.json"], arrays)
        model.denoiser.load_state_dict(
            {
                name.removeprefix("denoiser."): value
                for name, value in saved.tensors.items()
                if name.startswith("denoiser.")
            }
        )
        model.denoiser.to(resolve_device(self.device)).eval()
        self._set_fitted(front, model)
        self.n_rows_ = int(saved.config["rows"])
        self.seed_, self._calls = int(saved.config["seed"]), 0


def _child(seed: int, index: int) -> int:
    """The seed of draw `index` of a call."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0] >> 1)


