# %% [markdown]
# # Super-resolution, and cascades of it
#
# What a coarse field says of a fine one is a distribution: many fine fields have the same means.
# `ImageDiffusion.fit(fine, given=coarse)` learns it (Saharia et al. 2021), and a cascade draws
# large fields in stages: a coarse one first, then finer ones given the coarse one (Ho et al. 2022).
# Here fields are Gaussian, so the law of the fine field given the coarse one is known: its mean is
# kriging, its spread what kriging leaves open.

# %%
import matplotlib.pyplot as plt
import numpy as np
from statsmodels.datasets import co2

from scidiffusion import ImageDiffusion
from scidiffusion.images import ImageCascade, coarsened

SITES, COARSE = 32, 8
place = np.linspace(0, 1, SITES)
covariance = np.exp(-0.5 * ((place[:, None] - place) / 0.06) ** 2) + 1e-3 * np.eye(SITES)
means = np.kron(np.eye(COARSE), np.full((1, SITES // COARSE), COARSE / SITES))
root = np.linalg.cholesky(covariance)
quick = {
    "batch_size": 64, "lr": 3e-3, "ema_decay": 0.99, "dropout": 0.0, "sample_steps": 20,
    "progress": False, "random_state": 0,
}  # fmt: skip


def lines(n, seed):
    """Draw fine lines (n, 32)."""
    return np.random.default_rng(seed).normal(size=(n, SITES)) @ root.T


def kriging(noise):
    """The gain and the covariance of the fine line given its means with noise of some size."""
    seen = means @ covariance @ means.T + noise**2 * np.eye(COARSE)
    gain = covariance @ means.T @ np.linalg.inv(seen)
    return gain, covariance - gain @ means @ covariance


# %% [markdown]
# ## One network for the fine line given the coarse one
#
# The coarse line is shown to the network as a second channel, with noise of a random size that the
# network is told: *noise-conditioning augmentation*. A second network is shown coarse lines without
# noise only.

# %%
fine = lines(6000, 0)
coarse = coarsened(fine, SITES // COARSE, 1)
models = {
    name: ImageDiffusion(width=16, multipliers=(1, 2), max_steps=500, given_noise=noise, **quick).fit(
        fine, given=coarse
    )
    for name, noise in {"augmented": 0.6, "plain": 0.0}.items()
}  # fmt: skip

# %% [markdown]
# ## Given one coarse line: against kriging

# %%
truth = lines(1, 9)
drawn = models["augmented"].sample(200, given=truth @ means.T, random_state=0)
gain, left = kriging(0.0)
off = np.sqrt(np.square(drawn.mean(0) - gain @ means @ truth[0]).mean())
wide = drawn.std(0).mean() / np.sqrt(left.diagonal()).mean()
print(
    f"mean: {off:.2f} off kriging, of a field of size 1; spread: {wide:.2f} of what it should be"
)

fig, ax = plt.subplots(figsize=(7, 3))
ax.plot(place, drawn[:12].T, lw=0.6, color="C1")
ax.plot(place, truth[0], "k", lw=1.2, label="the field")
ax.step(place, np.repeat(means @ truth[0], SITES // COARSE), where="mid", label="its means")
ax.legend()

assert off < 0.15
assert 0.6 < wide < 1.4

# %% [markdown]
# ## In a cascade the coarse field is itself drawn, and not quite right
#
# A stage that has only seen true coarse lines believes whatever it is given. Here the first stage
# errs by noise of size .4. The plain network makes fine lines of it that follow every error; the
# augmented one, told how far to trust (`given_noise`), smooths them as kriging from noisy means
# would. Judged is the covariance of what comes out, which should be that of the lines.

# %%
faulty = lines(600, 5) @ means.T
faulty += 0.4 * np.random.default_rng(6).normal(size=faulty.shape)
size = 0.4 / coarse.std()  # in standard deviations of what was given in training


def error(X, target=covariance):
    """How far the covariance of fields is from the true one, relatively."""
    found = np.cov(X.reshape(len(X), -1).T)
    return np.linalg.norm(found - target) / np.linalg.norm(target)


result = {
    "true lines": error(lines(600, 7)),
    "augmented, told .4": error(
        models["augmented"].sample(600, given=faulty, given_noise=size, random_state=0)
    ),
    "augmented, told 0": error(models["augmented"].sample(600, given=faulty, random_state=0)),
    "plain": error(models["plain"].sample(600, given=faulty, random_state=0)),
}
for name, value in result.items():
    print(f"{name:20s} error of the covariance {value:.2f}")

assert result["augmented, told .4"] < 0.8 * result["plain"]
assert result["augmented, told .4"] < result["augmented, told 0"]

# %% [markdown]
# ## Pictures: 8 x 8, then 16 x 16, then 32 x 32
#
# `ImageCascade` fits a stage for every grid and puts a little noise (`given_noise=0.1`) on what
# each stage hands to the next. The fields have long waves, which eight cells carry, and short
# ones, which only the later stages see.

# %%
SIDE = 32
axis = np.arange(SIDE) / SIDE
near = np.exp(-0.5 * ((axis[:, None] - axis) / 0.25) ** 2) + 1e-4 * np.eye(SIDE)
far = np.exp(-0.5 * ((axis[:, None] - axis) / 0.05) ** 2) + 1e-4 * np.eye(SIDE)
full = (np.kron(near, near) + np.kron(far, far) / 9) / (10 / 9)
waves = [np.linalg.cholesky(one) for one in (near, far)]


def fields(n, seed):
    """Draw fields (n, 32, 32): long waves and, a third as high, short ones."""
    rng = np.random.default_rng(seed)
    long, short = (a @ rng.normal(size=(n, SIDE, SIDE)) @ a.T for a in waves)
    return (long + short / 3) / np.sqrt(10 / 9)


rows = fields(1200, 0)
small = quick | {"batch_size": 32, "width": 12, "blocks": 1}
cascade = ImageCascade(
    (2, 2),
    [
        ImageDiffusion(**small, max_steps=600),
        ImageDiffusion(**small, max_steps=250, given_noise=0.5),
        ImageDiffusion(**small, max_steps=120, given_noise=0.5, multipliers=(1, 2, 2)),
    ],
    given_noise=0.1,
).fit(rows)
drawn = cascade.sample(100, random_state=0)

# %% [markdown]
# Do the drawn fields have the right long waves (the covariance of their 8 x 8 means), and the right
# short ones (their power by wave number)?


# %%
def spectrum(X):
    """Mean power of fields by wave number along an axis."""
    power = np.abs(np.fft.rfft2(X)) ** 2
    return power.mean(0)[: SIDE // 2, 0]


pool = np.kron(np.eye(8), np.full((1, 4), 0.25))
coarse_covariance = np.kron(pool, pool) @ full @ np.kron(pool, pool).T
expected = spectrum(fields(3000, 1))
scores = {}
for name, X in {"true fields": fields(100, 2), "cascade": drawn}.items():
    off = np.log(spectrum(X) / expected)[1:12]
    scores[name] = error(coarsened(X, 4, 2), coarse_covariance), np.abs(off).mean()
    print(f"{name:12s} covariance of 8 x 8 means off by {scores[name][0]:.2f}, "
          f"log power by {scores[name][1]:.2f}")  # fmt: skip

fig, axes = plt.subplots(2, 6, figsize=(7, 2.5))
for row, (name, X) in zip(axes, {"true": rows, "cascade": drawn}.items(), strict=True):
    for ax, field in zip(row, X, strict=False):
        ax.imshow(field, cmap="viridis", vmin=-2.5, vmax=2.5)
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(name)
fig.tight_layout()

assert scores["cascade"][0] < 2 * scores["true fields"][0]
assert scores["cascade"][1] < 0.4

# %% [markdown]
# The later stages alone take true coarse fields to fine ones (`refine`). Their mean should be that
# of kriging, and their spread what kriging leaves open. After so short a training the spread is
# half as much again.

# %%
one = fields(1, 4)
gain = full @ np.kron(pool, pool).T @ np.linalg.inv(coarse_covariance)
krige = (gain @ coarsened(one, 4, 2).ravel()).reshape(SIDE, SIDE)
refined = cascade.refine(np.repeat(coarsened(one, 4, 2), 60, 0), random_state=0)
off = np.sqrt(np.square(refined.mean(0) - krige).mean())
open_ = np.sqrt(np.trace(full - gain @ np.kron(pool, pool) @ full) / SIDE**2)
print(f"mean of 60 refined fields: {off:.2f} off kriging, which leaves {open_:.2f} open; "
      f"their spread {refined.std(0).mean():.2f}")  # fmt: skip
assert off < open_

# %% [markdown]
# ## Downscaling a measured series
#
# Weekly carbon dioxide at Mauna Loa (statsmodels' copy), given four-week means: a window is 32
# weeks around its own level. Trained on the years to 1990, tried on those after. A straight line
# between means, shifted so that it keeps them, is what one would use otherwise. What is within a
# month is mostly weather: the line is as good a guess as the median of the paths. What the paths
# add is how far a week may be from it.

# %%
weekly = co2.load_pandas().data["co2"].interpolate()


def windows(series, step):
    """Windows (n, 32) of a series, each less its mean, and their four-week means."""
    starts = range(0, len(series) - 32 + 1, step)
    found = np.stack([series.to_numpy()[start : start + 32] for start in starts])
    found -= found.mean(1, keepdims=True)
    return found, coarsened(found, 4, 1)


past, past_means = windows(weekly[:"1990"], 1)
later, later_means = windows(weekly["1991":], 16)
model = ImageDiffusion(width=12, max_steps=400, **quick).fit(past, given=past_means)
paths = np.stack([model.sample(len(later), given=later_means, random_state=k) for k in range(20)])

middle = np.arange(8) * 4 + 1.5
straight = np.stack([np.interp(np.arange(32), middle, row) for row in later_means])
straight += np.repeat(later_means - coarsened(straight, 4, 1), 4, 1)
low, high = np.quantile(paths, [0.05, 0.95], axis=0)
miss = {
    "straight": np.abs(straight - later).mean(), "median": np.abs(np.median(paths, 0) - later).mean()
}  # fmt: skip
inside = ((later >= low) & (later <= high)).mean()
print(
    f"error of a line {miss['straight']:.3f} ppm, of the median {miss['median']:.3f} ppm; "
    f"{inside:.0%} of the weeks within the central 90 %"
)

fig, ax = plt.subplots(figsize=(7, 3))
ax.fill_between(np.arange(32), low[0], high[0], alpha=0.3, label="90 % of the paths")
ax.plot(later[0], "k", label="measured")
ax.step(np.arange(32), np.repeat(later_means[0], 4), where="mid", label="four-week means")
ax.set(xlabel="week", ylabel="ppm")
ax.legend()

assert miss["median"] < 1.05 * miss["straight"]
assert inside > 0.75
