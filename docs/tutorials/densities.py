# %% [markdown]
# # Densities of few dimensions
#
# `DensityDiffusion` learns the density of an array with a handful of columns: it draws from it,
# evaluates it and conditions it. Four examples: the 1-D mixture of Prince's notebooks, two moons,
# a swiss roll and a checkerboard. Training is kept short here so that the page builds quickly; the
# defaults train longer.

# %%
import matplotlib.pyplot  # noqa: F401 -- what makes a notebook show figures
import numpy as np
from scipy.stats import wasserstein_distance

from scidiffusion.toy import (
    DensityDiffusion,
    checkerboard,
    plot_density,
    plot_forward,
    plot_trajectories,
    prince_mixture,
    swiss_roll,
    two_moons,
)


def quick(**options):
    """Return an estimator that trains in seconds."""
    defaults = {"max_steps": 600, "width": 96, "blocks": 2, "batch_size": 256}
    return DensityDiffusion(**defaults | options, random_state=0, progress=False)


# %% [markdown]
# ## One dimension
#
# The trajectories of DPM-Solver++ are those of an ordinary differential equation: they do not
# cross. The learned density comes from the same equation, by the change of variables.

# %%
X, component = prince_mixture(4000)
mixture = quick().fit(X)
plot_trajectories(mixture, n=80)

# %%
plot_density(mixture, X)

# %% [markdown]
# The distance of the samples to fresh data is near that of two sets of data:

# %%
fresh, _ = prince_mixture(4000, random_state=1)
distance = wasserstein_distance(mixture.sample(4000, random_state=2)[:, 0], fresh[:, 0])
floor = wasserstein_distance(X[:, 0], fresh[:, 0])
print(f"W1 of samples {distance:.3f}, of data {floor:.3f}")
assert distance < 0.1

# %% [markdown]
# ## Two moons, with a condition
#
# The forward process forgets the moons; the learned reverse process brings them back. Given labels,
# the estimator learns $p(x \mid y)$ and, through condition dropout, $p(x)$ with it.

# %%
X, moon = two_moons(3000)
plot_forward(X)

# %%
moons = quick().fit(X, moon)
plot_density(moons, X)

# %%
plot_trajectories(moons, n=80, conditions=1)

# %%
upper = moons.sample(500, conditions=0, random_state=0)
lower = moons.sample(500, conditions=1, random_state=0)
print(f"mean height of moon 0: {upper[:, 1].mean():.2f}, of moon 1: {lower[:, 1].mean():.2f}")
assert upper[:, 1].mean() > lower[:, 1].mean() + 0.5

# %% [markdown]
# Likely and unlikely points, in nats: on a moon, between the moons, far away.

# %%
points = np.array([[0.0, 1.0], [0.5, 0.25], [3.0, 3.0]])
log_density = moons.score_samples(points)
print(dict(zip(map(tuple, points.tolist()), log_density.round(2), strict=True)))
assert log_density[0] > log_density[1] > log_density[2]

# %% [markdown]
# ## Swiss roll

# %%
roll = swiss_roll(4000)
plot_density(quick().fit(roll), roll)

# %% [markdown]
# ## Checkerboard
#
# Hard edges are the difficult case: the density jumps, and a short training rounds the corners.

# %%
board = checkerboard(6000)
squares = quick(max_steps=1200).fit(board)
plot_density(squares, board)

# %%
x, y = squares.sample(2000, random_state=0).T
dark = (np.floor(x + 2) + np.floor(y + 2)) % 2 == 0
print(f"{dark.mean():.0%} of the samples lie on dark fields; of uniform points 50 % would")
assert dark.mean() > 0.7
