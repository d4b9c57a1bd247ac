# %% [markdown]
# # A new domain on one page: directions
#
# A wind from 359° and one from 1° are two degrees apart; to a model of plain numbers they are as
# different as can be. This page builds a domain for quantities that go round (directions, hours of
# the day, phases) on the diffusion of angles that the core has. It is a whole one: it reads and
# writes what its users have, refuses what it cannot use, learns, draws, bounds densities, is saved
# and loaded, and is tested against a law that is known.
#
# | what a domain adds | here |
# |---|---|
# | an **encoding**: raw data to what a process of the core diffuses, and back | `CircleCodec` |
# | a **network** that respects the space | `CircleNetwork` |
# | an **estimator**: `fit`, `sample`, what is saved | `CircularDiffusion` |
# | a **metric** that its field believes | `circular_wasserstein` |
#
# What it gets for free: the process and its exact kernels, the loss, the sampler, the evidence
# bound, training (averaged weights, early stopping, time budgets, Ctrl-C), noise keyed by seed, row
# and step, model folders without pickle, `get_params` and `clone`, and an exact denoiser to be
# measured against.

# %%
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.base import clone
from torch import Tensor, nn

from scidiffusion.core import KeyedNoise, NetworkDenoiser, ScoreMatchingLoss, TorusProcess, elbo
from scidiffusion.core.torus import TWO_PI, wrap
from scidiffusion.durations import seconds
from scidiffusion.errors import ConfigError, DataError
from scidiffusion.estimator import (
    GenerativeEstimator,
    check_count,
    check_positive,
    check_seed,
    resolve_device,
    split_rows,
)
from scidiffusion.nn import ResidualMLP
from scidiffusion.persistence import SavedModel
from scidiffusion.samplers import Ancestral, sample
from scidiffusion.testing import WrappedMixtureOracle
from scidiffusion.training import TrainConfig, train

# %% [markdown]
# ## 1. The encoding
#
# Users write degrees from 0 to 360 (north is often 360) or hours from 0 to 24; the process wants
# radians in $[-\pi, \pi)$. The encoding is the place that knows both, and the place for errors:
# each is one sentence that names the spot and the way out.


# %%
@dataclass(frozen=True)
class CircleCodec:
    """Numbers in [0, period] to radians in [-pi, pi), and back to [0, period)."""

    period: float

    def __post_init__(self) -> None:
        if not 0 < self.period < float("inf"):
            raise ConfigError(f"period must be a positive number, got {self.period!r}")

    def encode(self, X: Any, columns: int | None = None) -> Tensor:
        """Return angles (n, d), float32."""
        try:
            values = np.asarray(X, dtype=np.float64)
        except (TypeError, ValueError):
            raise DataError("X must hold numbers only; leave other columns out") from None
        if values.ndim != 2 or 0 in values.shape:
            raise DataError(
                f"X must be a matrix (n, d) with at least one row, got shape {values.shape}; a "
                "single column is X.reshape(-1, 1)"
            )
        if columns is not None and values.shape[1] != columns:
            raise DataError(f"X has {values.shape[1]} columns, the model was fitted on {columns}")
        bad = ~((values >= 0) & (values <= self.period))  # NaN compares as false: it is bad, too
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise DataError(
                f"X[{row}, {column}] is {values[row, column]:g}; all must lie in [0, "
                f"{self.period:g}]: drop what is missing, take the rest modulo the period"
            )
        return wrap(torch.from_numpy(values / self.period * TWO_PI)).to(torch.float32)

    def decode(self, angle: Tensor) -> np.ndarray:
        """Return what `encode` would have made these angles of."""
        values = np.mod(angle.to(torch.float64).numpy() / TWO_PI, 1.0) * self.period
        return np.where(values < self.period, values, 0.0)  # mod may round up to 1


# %% [markdown]
# ## 2. The network
#
# The only thing to get right is that it has no seam: it sees sines and cosines of the angles, so
# that $-\pi$ and $\pi$ are the same place. The rest is a residual perceptron of `scidiffusion.nn`.
# Its output, one number an angle, is read by the process as $\sigma_t$ times the score.


# %%
class CircleNetwork(nn.Module):
    """Sines and cosines of the first harmonics of every angle, then `ResidualMLP`."""

    def __init__(self, angles: int, width: int, blocks: int, harmonics: int = 4) -> None:
        super().__init__()
        self.harmonics = harmonics
        self.body = ResidualMLP(2 * harmonics * angles, angles, width, blocks)

    def forward(self, z: Tensor, time: Tensor, cond: Any = None) -> Tensor:
        orders = torch.arange(1, self.harmonics + 1, device=z.device)
        phase = (z[..., None] * orders).flatten(1)
        return self.body(torch.cat((phase.sin(), phase.cos()), 1), time, cond)


# %% [markdown]
# ## 3. The estimator
#
# Options are constructor arguments and nothing else happens there; `fit` checks, encodes, builds
# and trains; `sample` walks from the prior in blocks of rows. `_state` and `_restore` say what a
# fitted model is made of, and `save` and `load` of the base class do the rest.


# %%
class CircularDiffusion(GenerativeEstimator):
    """Learn the joint density of quantities that go round."""

    compute_block = 512

    def __init__(
        self,
        *,
        period: float = 360.0,
        width: int = 64,
        blocks: int = 2,
        max_steps: int = 800,
        batch_size: int = 128,
        lr: float = 2e-3,
        patience: int | None = 10,
        budget: float | str | None = None,
        sample_steps: int = 50,
        device: str = "auto",
        random_state: int | None = None,
        progress: bool = True,
    ) -> None:
        self.period = period
        self.width = width
        self.blocks = blocks
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.lr = lr
        self.patience = patience
        self.budget = budget
        self.sample_steps = sample_steps
        self.device = device
        self.random_state = random_state
        self.progress = progress

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn from X (n, d), n >= 10, in [0, period]; y is not used."""
        codec, seed = CircleCodec(self.period), check_seed(self.random_state)
        angles = codec.encode(X)
        if len(angles) < 10:
            raise DataError(f"X has {len(angles)} rows; at least 10 are needed")
        config = TrainConfig(
            max_steps=self.max_steps,
            batch_size=self.batch_size,
            lr=self.lr,
            ema_decay=0.995,
            validate_every=max(1, self.max_steps // 10),
            patience=self.patience,
            budget=None if self.budget is None else seconds(self.budget),
            seed=seed,
            accelerator="gpu" if resolve_device(self.device).type == "cuda" else "cpu",
            progress=self.progress,
        )
        kept, held_out = split_rows(len(angles), 0.1, seed)
        denoiser = self._build(angles.shape[1], seed)
        self.training_ = train(
            denoiser,
            ScoreMatchingLoss(),
            angles[kept],
            validation=(angles[held_out], None),
            config=config,
        )
        self.codec_, self.n_features_in_ = codec, angles.shape[1]
        self.seed_, self._calls = seed, 0
        self.denoiser_ = denoiser.to(resolve_device(self.device)).eval()
        return self

    def sample(
        self, n: int, *, steps: int | None = None, random_state: int | None = None
    ) -> np.ndarray:
        """Draw (n, d) values in [0, period)."""
        self._check_fitted()
        n, steps = check_count(n), check_positive(steps, "steps") or self.sample_steps
        device, noise = resolve_device(self.device), KeyedNoise(self._next_seed(random_state))

        def draw(start: int, rows: int) -> Tensor:
            like = torch.empty(rows, self.n_features_in_, device=device)
            return sample(
                self.denoiser_.process,
                self.denoiser_,
                like,
                sampler=Ancestral(),
                steps=steps,
                spacing="log_snr",
                noise=noise.rows(start),
            ).cpu()

        return self.codec_.decode(self._blocks(draw, n, device=device))

    def score_samples(self, X: Any, *, steps: int = 50) -> np.ndarray:
        """Return an estimate of a lower bound of the log-density, in nats per radian^d; (n,)."""
        self._check_fitted()
        angles = self.codec_.encode(X, self.n_features_in_).to(resolve_device(self.device))
        bound = elbo(self.denoiser_, angles, steps=steps, noise=KeyedNoise(self.seed_)).total
        return bound.double().cpu().numpy()

    def _build(self, angles: int, seed: int) -> NetworkDenoiser:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = CircleNetwork(angles, self.width, self.blocks)
        return NetworkDenoiser(network, TorusProcess(variance="beta"))

    def _state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, dict[str, Any]]]:
        codec = {"period": self.codec_.period, "columns": self.n_features_in_}
        return {"seed": self.seed_}, dict(self.denoiser_.state_dict()), {"codec.json": codec}

    def _restore(self, saved: SavedModel) -> None:
        codec = saved.extra["codec.json"]
        self.codec_, self.n_features_in_ = CircleCodec(codec["period"]), int(codec["columns"])
        denoiser = self._build(self.n_features_in_, 0)
        denoiser.load_state_dict(saved.tensors)
        self.denoiser_ = denoiser.to(resolve_device(self.device)).eval()
        self.seed_, self._calls = int(saved.config["seed"]), 0


# %% [markdown]
# ## 4. The metric
#
# How far a histogram must be carried round to become another one: the Wasserstein-1 distance on the
# circle. With the distribution functions $F$ and $G$ it is the smallest
# $\int |F - G - c| \, \mathrm{d}x$ over all $c$, and the best $c$ is the median of $F - G$ (Rabin,
# Delon, Gousseau 2011).


# %%
def circular_wasserstein(a: Any, b: Any, period: float = 360.0, bins: int = 3600) -> float:
    """Return the distance of two samples (n,), in units of the period, to a bin's width."""
    edges = np.linspace(0, period, bins + 1)
    first, second = (np.histogram(np.mod(x, period), edges)[0] / len(x) for x in (a, b))
    gap = np.cumsum(first - second)
    return float(np.abs(gap - np.median(gap)).mean() * period)


# %% [markdown]
# It is the angle for single directions, the short way round, and does not care where 0 is:

# %%
for a, b, expected in ((350.0, 10.0, 20.0), (90.0, 270.0, 180.0), (10.0, 350.0, 20.0)):
    assert abs(circular_wasserstein([a], [b]) - expected) <= 0.11
turned = np.random.default_rng(0).uniform(0, 90, (2, 500))
assert abs(circular_wasserstein(*turned) - circular_wasserstein(*(turned + 300))) < 0.2

# %% [markdown]
# ## A law that is known
#
# Wind at a mast in a valley, at six in the morning and at three in the afternoon. On fair days it
# comes down the valley, from about north, and turns to blow up the valley in the afternoon; on
# windy days the weather decides, and it stays in the west. The law is a mixture of wrapped normals,
# so `scidiffusion.testing` has its density and its exact score.

# %%
DEGREE = np.pi / 180
process = TorusProcess(variance="beta")
truth = WrappedMixtureOracle(
    weights=[0.6, 0.4],
    means=np.array([[2.0, 175.0], [255.0, 265.0]]) * DEGREE,
    stds=np.array([[18.0, 25.0], [35.0, 30.0]]) * DEGREE,
    process=process,
)
codec = CircleCodec(360.0)
winds = codec.decode(truth.sample(4000, KeyedNoise(1)))
fresh = codec.decode(truth.sample(4000, KeyedNoise(2)))
model = CircularDiffusion(random_state=0, progress=False).fit(winds)
drawn = model.sample(4000, random_state=0)
print(model.training_)

# %%
figure = plt.figure(figsize=(8, 4))
for place, (name, column) in enumerate((("six in the morning", 0), ("three, afternoon", 1)), 1):
    axis = figure.add_subplot(1, 2, place, projection="polar")
    axis.set_theta_zero_location("N")
    axis.set_theta_direction(-1)
    edges = np.linspace(0, 2 * np.pi, 37)
    counts = np.histogram(drawn[:, column] * DEGREE, edges, density=True)[0]
    axis.bar(edges[:-1], counts, width=np.diff(edges), align="edge", alpha=0.5, label="drawn")
    marginal = WrappedMixtureOracle(
        truth.weights, truth.means[:, column], truth.stds[:, column], process
    )
    around = torch.linspace(0, TWO_PI, 361, dtype=torch.float64)
    axis.plot(around, marginal.log_prob(around).exp(), color="#d1495b", label="law")
    axis.set_yticks([])
    axis.set_title(name)
figure.legend(*axis.get_legend_handles_labels(), loc="lower center", ncols=2)

# %% [markdown]
# The peak across north has no seam. In degrees, beside what two sets of real data give: the
# distance of each column, and of the turn from morning to afternoon, which only the joint law gets
# right: shuffled columns do not.


# %%
def distances(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Return the circular distance of both columns and of the turn between them."""
    columns = {"morning": 0, "afternoon": 1}
    found = {name: circular_wasserstein(one[:, i], other[:, i]) for name, i in columns.items()}
    turns = ((rows[:, 1] - rows[:, 0]) % 360 for rows in (one, other))
    return found | {"turn": circular_wasserstein(*turns)}


rng = np.random.default_rng(0)
shuffled = np.column_stack([rng.permutation(fresh[:, 0]), fresh[:, 1]])
learned, floor, apart = (distances(x, winds) for x in (drawn, fresh, shuffled))
for name, found in (("drawn", learned), ("real", floor), ("shuffled", apart)):
    print(f"{name:9s}", {key: round(value, 1) for key, value in found.items()})

# %% [markdown]
# ## What was learned against the law
#
# The loss, on fresh rows and the same noise, of the network and of the exact score. Even the exact
# score has a loss, since noise cannot be guessed; what the network has above it is its squared
# error, as a share of the mean square of the target.

# %%
angles = codec.encode(fresh)
with torch.no_grad():
    loss, least = (
        float(ScoreMatchingLoss()(denoiser, angles, KeyedNoise(3)).mean())
        for denoiser in (model.denoiser_, truth)
    )
print(f"loss {loss:.3f}, of the exact score {least:.3f}: an error of {loss - least:.3f}")

# %% [markdown]
# The bound of the log-density comes from the same two, term by term. A chain of 50 steps is coarse
# and each row gets one draw of the noise, so what counts is the difference of the two:

# %%
rows = fresh[:50]
bound = model.score_samples(rows)
ideal = elbo(truth, codec.encode(rows), steps=50, noise=KeyedNoise(model.seed_)).total.numpy()
lost = ideal.mean() - bound.mean()
print(f"bound {bound.mean():.2f}, with the exact score {ideal.mean():.2f}: {lost:.3f} nats lost")
days = np.repeat([[2.0, 175.0], [2.0, 265.0]], 10, axis=0)
fair, odd = model.score_samples(days).reshape(2, 10).mean(1)
print(f"a fair day {fair:.1f}, a north wind that turns west {odd:.1f}")

# %% [markdown]
# ## What came for free
#
# The same seed gives the same rows, however many are drawn; a model comes back from its folder bit
# for bit; scikit-learn clones it; a broken folder, a wrong option and unusable data are one clear
# error each.

# %%
assert np.array_equal(model.sample(600, random_state=5)[:100], model.sample(100, random_state=5))
with TemporaryDirectory() as folder:
    model.save(Path(folder) / "model")
    again = CircularDiffusion.load(Path(folder) / "model")
assert np.array_equal(again.sample(50, random_state=7), model.sample(50, random_state=7))
assert clone(model).get_params() == model.get_params()


def complaint(action: Any, *arguments: Any) -> str:
    """Return the message of the error that a call raises."""
    try:
        action(*arguments)
    except (DataError, ConfigError) as error:
        return str(error)
    raise AssertionError("no error")


unfitted = CircularDiffusion(period=24.0, progress=False)
for action, X, words in (
    (unfitted.fit, [[3.0], [25.0]], "X[1, 0] is 25"),
    (unfitted.fit, [[3.0], [np.nan]], "drop what is missing"),
    (unfitted.fit, [3.0, 4.0], "reshape(-1, 1)"),
    (unfitted.fit, [["north"]], "numbers only"),
    (unfitted.fit, [[3.0]] * 9, "at least 10"),
    (model.score_samples, [[3.0]], "fitted on 2"),
    (CircleCodec, 0, "period must be a positive number"),
):
    said = complaint(action, X)
    assert words in said, said
    print(said)

# %% [markdown]
# ## From a page to the package
#
# A domain that is to stay becomes a folder `src/scidiffusion/circular/` with one module for each of
# the four things and a folder of tests (the law above is one of them). `CONTRIBUTING.md` lists the
# few entries elsewhere under "Adding things"; `tests/test_architecture.py` keeps it from importing
# other domains.
#
# The figures that this page claims:

# %%
assert max(learned[name] - floor[name] for name in learned) < 6
assert apart["turn"] > 5 * learned["turn"]
assert 0 < loss - least < 0.03
assert abs(lost) < 0.2
assert fair > odd + 2
