"""`TabularDiffusion`: a synthetic copy of a mixed-type table.

The method is that of TabDDPM (Kotelnikov et al. 2023): numbers are mapped to normal scores and
noised by a Gaussian process, categories by a multinomial one, one residual MLP denoises both.
Beyond it, part of the training rows have known columns (see `scidiffusion.tabular.objective`), so
that the fitted model conditions on any columns exactly; and the numbers may be sampled by a
few-step solver.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from scidiffusion.core import (
    DiscreteSchedule,
    GaussianProcess,
    KeyedNoise,
    MultinomialProcess,
    NetworkDenoiser,
    Process,
    ProductProcess,
    elbo,
)
from scidiffusion.core.prediction import Parameterization
from scidiffusion.core.schedules import check_steps
from scidiffusion.durations import seconds
from scidiffusion.errors import ConfigError, DataError
from scidiffusion.estimator import (
    GenerativeEstimator,
    check_batch_size,
    check_seed,
    native_bf16,
    resolve_device,
    split_rows,
)
from scidiffusion.persistence import SavedModel
from scidiffusion.progress import sampling_progress
from scidiffusion.samplers import (
    PartwiseSampler,
    SinglePrediction,
    make_sampler,
    sample,
)
from scidiffusion.tabular.bridge import (
    blank,
    draw_column,
    known_row,
    layout_of,
    to_encoded,
    to_state,
)
from scidiffusion.tabular.codec import TableCodec
from scidiffusion.tabular.network import TableNetwork
from scidiffusion.tabular.objective import (
    CategoricalLoss,
    GivenColumns,
    TableLoss,
    reveal,
)
from scidiffusion.tabular.schema import TableSchema, unknown_column
from scidiffusion.tabular.validation import validate_conditions, validate_count, validate_table

OBJECTIVES = {
    "tabddpm": (Parameterization.EPS, CategoricalLoss.KL),
    "balanced": (Parameterization.V, CategoricalLoss.CROSS_ENTROPY),
}
"""Name -> what the network predicts of a number, and the loss of a category."""
CHOICES = {
    "method": ("ddpm",),
    "objective": tuple(OBJECTIVES),
    "precision": ("auto", "float32", "bf16"),
}
"""Options that are one of a few words."""
CLASS_LEVELS = 20
"""Levels up to which an integer target counts as a class."""


class TabularDiffusion(GenerativeEstimator):
    """Learn the joint distribution of a table's columns and draw new rows.

    Args:
        method: "ddpm", in the manner of TabDDPM.
        objective: "tabddpm" is the loss of the paper: eps-prediction of the numbers and the
            multinomial KL of the categories. "balanced" trains the same model on v-prediction
            and the cross-entropy of the clean class, whose gradients vary less: it takes fewer
            steps to be as good, above all under conditions.
        target: Name of the column to predict, if there is one. As in TabDDPM a class is drawn from
            its frequencies and the other columns given it (integers of at most 20 levels count
            as classes); a numerical target is learned jointly, like every other column.
        columns: Overrides of the inferred kinds: {"zip": "categorical", "rooms": "numerical"}.
        num_nodes: Steps T of the forward process.
        width: Width of the residual MLP.
        blocks: Number of its blocks.
        dropout: Dropout rate of its blocks.
        max_steps: Training steps at most.
        batch_size: Rows a training step.
        lr: Peak learning rate.
        ema_decay: Decay of the average of the weights.
        validation_fraction: Share of rows held out for early stopping, in [0, 0.5]; 0 trains on
            all rows for all steps.
        patience: Evaluations without improvement of the held-out loss before training stops.
        budget: Training time at most: seconds or a text such as "2min"; None is no limit.
        known_share: Share of training rows with a random set of known columns: what conditions
            need. 0 gives them up.
        sample_steps: Number of sampling steps, at most `num_nodes`.
        sampler: Rule for the numbers: "ancestral", "ddim", "dpmpp_2m" or "dpmpp_sde";
            categories are always sampled ancestrally.
        precision: Of the network's matrix products, in training and sampling: "float32", "bf16",
            or "auto", which is bf16 where the hardware multiplies it natively (AMX, tensor cores).
        device: "auto", "cpu" or "cuda".
        random_state: Seed of everything random; None takes a fresh one.
        progress: Show progress bars.

    Attributes:
        seed_: The seed that was used.
        schema_: `TableSchema` of the training table.
        codec_: The fitted `TableCodec`.
        feature_names_in_, n_features_in_: Names and number of the columns.
        denoiser_: The fitted denoiser over encoded rows.
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
        method: str = "ddpm",
        objective: str = "balanced",
        target: str | None = None,
        columns: Mapping[str, str] | None = None,
        num_nodes: int = 1000,
        width: int = 256,
        blocks: int = 4,
        dropout: float = 0.0,
        max_steps: int = 10_000,
        batch_size: int = 512,
        lr: float = 2e-3,
        ema_decay: float = 0.999,
        validation_fraction: float = 0.1,
        patience: int = 10,
        budget: float | str | None = None,
        known_share: float = 0.2,
        sample_steps: int = 50,
        sampler: str = "ancestral",
        precision: str = "auto",
        device: str = "auto",
        random_state: int | None = None,
        progress: bool = True,
    ) -> None:
        self.method = method
        self.objective = objective
        self.target = target
        self.columns = columns
        self.num_nodes = num_nodes
        self.width = width
        self.blocks = blocks
        self.dropout = dropout
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.lr = lr
        self.ema_decay = ema_decay
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.budget = budget
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
            X: The table; every column is learned.
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

        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"{name} must be one of {', '.join(choices)}; got {getattr(self, name)!r}"
                )
        schema = validate_table(X, self._kinds(X))
        seed = check_seed(self.random_state)
        kept, held_out = split_rows(len(X), self.validation_fraction, seed)
        limit = budget if budget is not None else self.budget
        device = resolve_device(self.device)
        config = TrainConfig(
            max_steps=self.max_steps,
            batch_size=self.batch_size,
            lr=self.lr,
            ema_decay=self.ema_decay,
            patience=self.patience,
            budget=None if limit is None else seconds(limit),
            validate_every=max(1, min(250, self.max_steps // 5)),
            # Few held-out rows are shown several times, with other noise each time.
            validation_draws=min(8192, max(1024, 4 * len(held_out))),
            seed=seed,
            accelerator="gpu" if device.type == "cuda" else "cpu",
            progress=self.progress,
        )
        self._rule()
        self._set_schema(schema, TableCodec(schema).fit(X))
        objective = TableLoss(
            layout_of(self.codec_),
            categorical=OBJECTIVES[self.objective][1],
            target=self._target_index(),
            share=self.known_share,
        )
        denoiser = self._build(seed)
        data = to_state(self.codec_.encode(X, seed=seed))
        self.training_ = train(
            denoiser,
            objective,
            {name: value[kept] for name, value in data.items()},
            validation=({name: value[held_out] for name, value in data.items()}, None)
            if len(held_out)
            else None,
            config=config,
            checkpoint_dir=checkpoint_dir,
            resume=resume,
        )
        self.denoiser_ = denoiser.to(device).eval()
        self.n_rows_ = len(X)
        self.seed_, self._calls = seed, 0
        return self

    # ----------------------------------------------------------------- sampling

    def sample(
        self,
        n: int | None = None,
        *,
        conditions: Mapping[str, Any] | None = None,
        steps: int | None = None,
        random_state: int | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        """Draw rows: columns, dtypes and formats as in the training table.

        Args:
            n: Number of rows, >= 0; None is the size of the training table.
            conditions: Column -> value that every row has; the other columns are drawn given
                these. None as a value asks for it to be missing.
            steps: Number of sampling steps; default `sample_steps`.
            random_state: Seed; None continues the estimator's own stream, with new rows each call.
            batch_size: Rows at once on a GPU; changes nothing but memory and speed.

        Raises:
            NotFittedError: before `fit`.
            InputError: if n is negative.
            ConditionError: if a condition names an unknown column or a value never seen.
        """
        self._check_fitted()
        n = validate_count(self.n_rows_ if n is None else n)
        batch_size = check_batch_size(batch_size)
        steps = check_steps(self.sample_steps if steps is None else steps)
        fixed = validate_conditions(self.schema_, conditions or {})
        if fixed and not self.known_share and set(fixed) != {self.target}:
            raise ConfigError("the model was fitted with known_share=0 and takes no conditions")
        device = resolve_device(self.device)
        observed, known = (
            {name: value.to(device) for name, value in part.items()}
            for part in known_row(self.codec_, fixed)
        )
        sampler = PartwiseSampler({"num": self._rule()} if self.codec_.numerical_names else {})
        noise = KeyedNoise(self._next_seed(random_state))

        def draw(start: int, rows: int) -> dict[str, Tensor]:
            source = noise.rows(start)
            clean = {name: value.expand(rows, -1).clone() for name, value in observed.items()}
            flags = {name: value.expand(rows, -1).clone() for name, value in known.items()}
            if self._draws_target(fixed):
                draw_column(self.codec_, str(self.target), clean, flags, source)
            denoiser: Any = self.denoiser_
            if any(bool(value.any()) for value in flags.values()):
                denoiser = GivenColumns(denoiser, clean, flags)
            state = sample(
                denoiser.process,
                denoiser,
                clean,
                sampler=sampler,
                steps=steps,
                noise=source,
            )
            return {name: value.cpu() for name, value in reveal(state, clean, flags).items()}

        if n == 0:
            return self.codec_.decode(blank(self.codec_, 0), conditions=fixed)
        with sampling_progress(n, enabled=self.progress) as advance:
            state = self._blocks(draw, n, device=device, batch_size=batch_size, progress=advance)
        return self.codec_.decode(to_encoded(state, self.codec_, n), conditions=fixed)

    def score_samples(
        self,
        X: pd.DataFrame,
        *,
        steps: int = 100,
    ) -> NDArray[np.float64]:
        """Return a lower bound of the log-likelihood of rows, in nats.

        The bound is the ELBO of the encoded row (a density in the normal scores, a probability in
        the categories), estimated with one draw a step and the noise of a fixed seed: use it to
        compare rows.

        Args:
            X: Rows of the training table's columns.
            steps: Steps of the bound's chain, at most `num_nodes`.

        Raises:
            DataError: if a row holds what the codec cannot encode.
        """
        self._check_fitted()
        device = resolve_device(self.device)
        data = to_state(self.codec_.encode(X, seed=self.seed_))
        parts = []
        for start in range(0, len(X), self.compute_block):
            rows = {
                name: value[start : start + self.compute_block].to(device)
                for name, value in data.items()
            }
            bound = elbo(self.denoiser_, rows, steps=steps, noise=KeyedNoise(self.seed_, start))
            parts.append(bound.total.double().cpu().numpy())
        return np.concatenate(parts) if parts else np.empty(0)

    # ------------------------------------------------------------------ helpers

    def _rule(self) -> SinglePrediction:
        rule = make_sampler(self.sampler)
        if not isinstance(rule, SinglePrediction):
            raise ConfigError(
                f"sampler={self.sampler!r} evaluates the network between steps and cannot share "
                "them with categories; use 'ancestral', 'ddim', 'dpmpp_2m' or 'dpmpp_sde'"
            )
        return rule

    def _kinds(self, table: Any) -> dict[str, str]:
        """The overrides, and a target of few integers as classes."""
        kinds = dict(self.columns or {})
        if isinstance(table, pd.DataFrame) and self.target in table.columns:
            values = table[self.target]
            few = pd.api.types.is_integer_dtype(values) and values.nunique() <= CLASS_LEVELS
            if few and self.target not in kinds:
                kinds[str(self.target)] = "categorical"
        return kinds

    def _set_schema(self, schema: TableSchema, codec: TableCodec) -> None:
        self.schema_, self.codec_ = schema, codec
        self.feature_names_in_ = np.asarray(schema.names, dtype=object)
        self.n_features_in_ = len(schema)
        if self.target is not None and self.target not in schema:
            raise DataError(f"target: {unknown_column(self.target, schema.names)}")

    def _target_index(self) -> int | None:
        """Index of the column that is conditioned on, or None."""
        if self.target is None or not self.schema_[self.target].kind.is_discrete:
            return None
        return self.schema_.names.index(self.target)

    def _build(self, seed: int) -> NetworkDenoiser:
        codec = self.codec_
        schedule = DiscreteSchedule.linear(self.num_nodes)
        parts: dict[str, Process] = {}
        if codec.numerical_names:
            parts["num"] = GaussianProcess(
                schedule, parameterization=OBJECTIVES[self.objective][0]
            )
        if codec.cardinalities:
            parts["cat"] = MultinomialProcess(schedule, codec.cardinalities)
        marginals = np.concatenate([*codec.marginals, np.empty(0)])
        bf16 = self.precision == "bf16"
        if self.precision == "auto":
            bf16 = native_bf16(resolve_device(self.device))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = TableNetwork(
                len(codec.numerical_names),
                codec.cardinalities,
                width=self.width,
                blocks=self.blocks,
                dropout=self.dropout,
                log_marginals=torch.from_numpy(np.log(np.maximum(marginals, 1e-6))),
                bf16=bf16,
            )
        return NetworkDenoiser(network, ProductProcess(parts))

    def _draws_target(self, fixed: Mapping[str, Any]) -> bool:
        # With other columns given, the target's own frequencies are no longer the right law.
        return self._target_index() is not None and not fixed

    # -------------------------------------------------------------- persistence

    def _state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, dict[str, Any]]]:
        codec, arrays = self.codec_.state()
        tensors = {f"denoiser.{name}": v for name, v in self.denoiser_.state_dict().items()}
        for name, array in arrays.items():
            tensors[f"codec.{name}"] = torch.from_numpy(np.ascontiguousarray(array))
        config = {"seed": self.seed_, "rows": self.n_rows_}
        return config, tensors, {"codec.json": codec}

    def _restore(self, saved: SavedModel) -> None:
        arrays = {
            name.removeprefix("codec."): value.numpy()
            for name, value in saved.tensors.items()
            if name.startswith("codec.")
        }
        codec = TableCodec.from_state(saved.extra["codec.json"], arrays)
        self._set_schema(codec.schema, codec)
        denoiser = self._build(0)
        denoiser.load_state_dict(
            {
                name.removeprefix("denoiser."): value
                for name, value in saved.tensors.items()
                if name.startswith("denoiser.")
            }
        )
        self.denoiser_ = denoiser.to(resolve_device(self.device)).eval()
        self.n_rows_ = int(saved.config["rows"])
        self.seed_, self._calls = int(saved.config["seed"]), 0
