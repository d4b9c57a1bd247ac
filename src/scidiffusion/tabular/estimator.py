"""`TabularDiffusion`: a synthetic copy of a mixed-type table.

The estimator is the front: it checks tables and conditions, trains, draws in blocks, saves and
loads. What is learned and how rows are drawn is a method's (`scidiffusion.tabular.model`):

- "masked" (:mod:`scidiffusion.tabular.masked`), the default: any-order masking diffusion over
  categories, spikes, missing values and numbers;
- "ddpm" (:mod:`scidiffusion.tabular.ddpm`): the manner of TabDDPM.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from scidiffusion.estimator import (
    GenerativeEstimator,
    check_positive,
    check_seed,
    resolve_device,
)
from scidiffusion.persistence import SavedModel
from scidiffusion.progress import progress_bar
from scidiffusion.tabular.conditions import Equal
from scidiffusion.tabular.constraints import Constraint
from scidiffusion.tabular.ddpm import DDPMModel
from scidiffusion.tabular.drawing import Drawer, Request, check_possible, child_seed
from scidiffusion.tabular.fitting import fit_table, look_for_copies
from scidiffusion.tabular.front import TableFront
from scidiffusion.tabular.masked import MaskedModel
from scidiffusion.tabular.model import TableModel
from scidiffusion.tabular.options import check_options
from scidiffusion.tabular.rebalance import spread
from scidiffusion.tabular.validation import validate_count

if TYPE_CHECKING:
    from scidiffusion.training import DPBudget

METHODS: dict[str, type[TableModel]] = {"masked": MaskedModel, "ddpm": DDPMModel}


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
        privacy: `DPBudget(epsilon, delta)`: a differentially private fit, training and encoding
            together (extra `privacy`). All planned steps share the budget, so `max_steps` (1,500
            if None) should be what time allows; nothing is held out.
        public: With `privacy`: what is known of columns without looking: {"age": (0, 120),
            "sex": ["F", "M"]}. Other ranges and levels are learned privately.
        width: Width of the residual MLP; None is the method's default, here and below.
        blocks: Number of its blocks.
        components: Gaussians in the law of a number; method "masked".
        dropout: Dropout rate of the blocks.
        max_steps: Training steps at most; None is 10,000, or what the budget allows.
        batch_size: Rows a training step.
        lr: Peak learning rate.
        ema_decay: Decay of the average of the weights.
        validation_fraction: Share of rows held out for early stopping, in [0, 0.5]; 0 trains on
            all rows for all steps; None is a tenth, 2,000 rows at most.
        patience: Evaluations without improvement of the held-out loss before training stops.
        check_copies: After training, compare a sample with the held-out rows (50 at least) and
            with those trained on: `copy_report_`, and a warning if rows leak.
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
        privacy_spent_: With `privacy`, epsilon and delta that the fit cost; else None.
        copy_report_: `scidiffusion.tabular.privacy.CopyReport` of the fit, or None.

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
        constraints: Sequence[Constraint] | None = None,
        privacy: DPBudget | None = None,
        public: Mapping[str, Any] | None = None,
        width: int | None = None,
        blocks: int | None = None,
        components: int = 20,
        dropout: float | None = None,
        max_steps: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        ema_decay: float | None = None,
        validation_fraction: float | None = None,
        patience: int = 10,
        check_copies: bool = True,
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
        self.privacy = privacy
        self.public = public
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
        self.check_copies = check_copies
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
        kind = self._method()
        seed = check_seed(self.random_state)
        fitted = fit_table(
            X,
            kind,
            self.get_params(deep=False),
            seed=seed,
            limit=budget if budget is not None else self.budget,
            checkpoint_dir=checkpoint_dir,
            resume=resume,
        )
        self._set_fitted(fitted.front, fitted.model)
        self.training_, self.privacy_spent_ = fitted.training, fitted.privacy
        self.n_rows_ = len(X)
        self.seed_, self._calls = seed, 0
        self.copy_report_ = (
            look_for_copies(X, fitted, self._drawer(), seed) if self.check_copies else None
        )
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
            ConditionError: if a condition names an unknown column or a value never seen,
                contradicts another or a constraint, or all together are impossible. A warning
                tells of conditions that the training table hardly has.
        """
        (rows,) = self.sample_chunks(
            n,
            chunk_rows=None,
            conditions=conditions,
            balance=balance,
            steps=steps,
            random_state=random_state,
            batch_size=batch_size,
        )
        return rows

    def sample_chunks(
        self,
        n: int | None = None,
        *,
        chunk_rows: int | None = 65_536,
        conditions: Mapping[str, Any] | None = None,
        balance: str | Mapping[str, Mapping[Any, float]] | None = None,
        steps: int | None = None,
        random_state: int | None = None,
        batch_size: int | None = None,
    ) -> Iterator[pd.DataFrame]:
        """Draw rows part by part, for samples larger than memory.

        Args:
            n: Number of rows in all.
            chunk_rows: Rows of a part, rounded up to whole blocks of 1024; None is one part.
            conditions: As for `sample`.
            balance: As for `sample`.
            steps: As for `sample`.
            random_state: As for `sample`.
            batch_size: As for `sample`.

        Yields:
            Tables whose concatenation is `sample(n, ...)` with the same seed; at least one.

        Raises:
            ConditionError: as `sample`, before the first part; likewise the others.
        """
        self._check_fitted()
        n = validate_count(self.n_rows_ if n is None else n)
        batch_size = check_positive(batch_size, "batch_size")
        steps, chunk_rows = (
            check_positive(steps, "steps"),
            check_positive(chunk_rows, "chunk_rows"),
        )
        front = self.front_
        asked = front.conditions(conditions)
        front.check_count(n, asked)
        fixed = {name: c.value for name, c in asked.items() if isinstance(c, Equal)}
        cuts = {name: c for name, c in asked.items() if not isinstance(c, Equal)}
        self.model_.restrict(cuts)
        seed = self._next_seed(random_state)
        check_possible(self.model_, asked, self.n_rows_, seed)
        levels = {}
        if balance is not None:
            front.check_balance(balance)
            levels = spread(front.model_schema, balance, asked, n, seed)
            for name, values in levels.items():
                for level in values.unique():
                    front.zeros.check({**asked, name: Equal(level)})
        request = Request(fixed, cuts, levels, steps, batch_size)
        return self._parts(n, chunk_rows, seed, request)

    def _parts(
        self, n: int, chunk_rows: int | None, seed: int, request: Request
    ) -> Iterator[pd.DataFrame]:
        with progress_bar(n, enabled=self.progress and n > 0) as report:
            yield from self._drawer().parts(n, chunk_rows, seed, request, report)

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

        Constraints hold in the completed rows, too (see :mod:`scidiffusion.tabular.reconcile`); a
        warning counts those in which the known values leave no way.

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
        draws = check_positive(draws, "draws")
        request = Request(
            steps=check_positive(steps, "steps"),
            batch_size=check_positive(batch_size, "batch_size"),
            present=True,
        )
        seed = self._next_seed(random_state)
        full = self.front_.complete_columns(X)
        drawer, tables = self._drawer(), []
        total = len(full) * (draws or 1)
        with progress_bar(total, enabled=self.progress and total > 0) as report:
            for draw in range(draws or 1):
                own = seed if draws is None else child_seed(seed, draw)
                done = _shifted(report, draw * len(full))
                tables.append(drawer.impute(full, own, request, done))
        return tables[0] if draws is None else tables

    def score_samples(
        self, X: pd.DataFrame, *, steps: int | None = None, orders: int = 1
    ) -> NDArray[np.float64]:
        """Return a lower bound of the log-likelihood of rows, in nats.

        The bound is the ELBO of the encoded row (a density in the normal scores, a probability in
        the categories), with the randomness of a fixed seed: use it to compare rows; the lowest
        are outliers. Identifiers play no part; a row that breaks a constraint has -inf.

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
        steps, orders = check_positive(steps, "steps"), check_positive(orders, "orders") or 1
        result = np.full(len(X), -np.inf)
        valid = ~self.front_.violations(X)
        table = self.front_.modelled(X[valid])
        result[valid] = self.model_.log_prob(table, self.seed_, steps=steps, orders=orders)
        return result

    # ------------------------------------------------------------------ helpers

    def _drawer(self) -> Drawer:
        return Drawer(
            self.front_,
            self.model_,
            blocks=self._blocks,
            block=self.compute_block,
            device=resolve_device(self.device),
            seed=self.seed_,
        )

    def _method(self) -> type[TableModel]:
        """The method's class, after a look at the options."""
        options = self.get_params(deep=False)
        check_options(options)
        # An option that makes no sense is an error, whichever method would look at it.
        for kind in METHODS.values():
            kind.check(options)
        return METHODS["masked" if self.method == "auto" else self.method]

    def _set_fitted(self, front: TableFront, model: TableModel) -> None:
        self.front_, self.model_, self.schema_ = front, model, front.schema
        self.codec_, self.denoiser_ = model.codec, model.denoiser
        self.feature_names_in_ = np.asarray(front.schema.names, dtype=object)
        self.n_features_in_ = len(front.schema)

    # -------------------------------------------------------------- persistence

    def _saved_params(self) -> dict[str, Any]:
        # The constraints are saved with what was learned of them; a key of the noise never is.
        privacy = None if self.privacy is None else self.privacy.to_dict()
        return super()._saved_params() | {"constraints": None, "privacy": privacy}

    def _state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, dict[str, Any]]]:
        codec, arrays = self.model_.state()
        tensors = {f"denoiser.{name}": v for name, v in self.denoiser_.state_dict().items()}
        for name, array in arrays.items():
            tensors[f"codec.{name}"] = torch.from_numpy(np.ascontiguousarray(array))
        config = {"seed": self.seed_, "rows": self.n_rows_, "privacy_spent": self.privacy_spent_}
        extra = {"codec.json": codec, "front.json": self.front_.to_json()}
        if self.copy_report_ is not None:
            extra["copies.json"] = self.copy_report_.to_dict()
        return config, tensors, extra

    def _restore(self, saved: SavedModel) -> None:
        if self.privacy is not None:
            from scidiffusion.training import DPBudget

            self.privacy = DPBudget.from_dict(self.privacy)  # type: ignore[arg-type]
        arrays = {
            name.removeprefix("codec."): value.numpy()
            for name, value in saved.tensors.items()
            if name.startswith("codec.")
        }
        front = TableFront.from_json(saved.extra["front.json"])
        model = self._method()(front.model_schema, self.get_params(deep=False))
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
        self.constraints = list(front.rules.constraints) or None
        from scidiffusion.tabular.privacy import CopyReport

        copies = saved.extra.get("copies.json")
        self.copy_report_ = None if copies is None else CopyReport.from_dict(copies)
        self.privacy_spent_ = saved.config.get("privacy_spent")
        self.n_rows_ = int(saved.config["rows"])
        self.seed_, self._calls = int(saved.config["seed"]), 0


def _shifted(advance: Callable[[int], None] | None, offset: int) -> Callable[[int], None] | None:
    """A report of progress that counts from `offset`."""
    return None if advance is None else lambda done: advance(offset + done)
