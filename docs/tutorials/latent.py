# %% [markdown]
# # Latent diffusion: learn less
#
# A network that walks 256 pixels pays for all of them at every step, though what they show may be
# told in a few numbers. `LatentDiffusion` puts an encoder in front (Rombach et al. 2022): the
# estimator behind it learns codes, and draws are decoded. The data here are Gaussian random fields
# of 16 by 16 cells, whose law is known, so that what is gained and what is lost can be measured.

# %%
import time

import matplotlib.pyplot as plt
import numpy as np

from scidiffusion import DensityDiffusion, ImageDiffusion, LatentDiffusion
from scidiffusion.latent import AutoEncoder, PCAEncoder

SIDE, ROWS = 16, 2000
axis = np.linspace(0, 1, SIDE)
line = np.exp(-0.5 * ((axis[:, None] - axis) / 0.25) ** 2)
covariance = np.kron(line, line) + 1e-4 * np.eye(SIDE**2)
root = np.linalg.cholesky(covariance)


def fields(n, seed):
    """Draw fields (n, 16, 16) of smooth Gaussian noise."""
    return (np.random.default_rng(seed).normal(size=(n, SIDE**2)) @ root.T).reshape(n, SIDE, SIDE)


def error(X):
    """How far the covariance of fields is from the true one, relatively."""
    found = np.cov(X.reshape(len(X), -1).T)
    return np.linalg.norm(found - covariance) / np.linalg.norm(covariance)


data = fields(ROWS, 0)

# %% [markdown]
# ## What the encoder keeps
#
# Principal components are the linear encoder of least squares. Of Gaussian data the code is
# Gaussian, and what is lost is the variance of the components left out, no more.

# %%
encoder = PCAEncoder(0.99).fit(data)
lost = np.square(encoder.decode(encoder.encode(data)) - data).mean() / data.var()
print(
    f"{len(encoder.variance_)} of {SIDE**2} numbers hold {encoder.explained_:.1%} of the variance"
)
assert abs(lost - (1 - encoder.explained_)) < 1e-3

# %% [markdown]
# ## The same time, spent on codes or on pixels
#
# Thirteen numbers hold 95 % of the variance. A small perceptron learns them, a U-Net the pixels; steps
# are chosen so that both train about equally long, a few seconds.

# %%
options = {"random_state": 0, "progress": False}
models = {
    "latent": LatentDiffusion(
        PCAEncoder(0.95), DensityDiffusion(max_steps=700, batch_size=256, **options)
    ),
    "pixels": ImageDiffusion(width=16, max_steps=40, **options),
}
drawn, scores, fitting, drawing = {}, {}, {}, {}
for name, model in models.items():
    begin = time.process_time()
    model.fit(data)
    fitted = time.process_time()
    drawn[name] = model.sample(200, random_state=1)
    fitting[name], drawing[name] = fitted - begin, time.process_time() - fitted
    scores[name] = error(drawn[name])
    print(f"{name}: {fitting[name]:.0f} s of training, error of the covariance {scores[name]:.2f}")
print(f"200 true fields: {error(fields(200, 2)):.2f}")
print(f"drawing costs {drawing['pixels'] / drawing['latent']:.0f} times as much in pixels")

fig, axes = plt.subplots(3, 6, figsize=(7, 3.6))
for row, (name, X) in zip(axes, {"true": data, **drawn}.items(), strict=True):
    for ax, field in zip(row, X, strict=False):
        ax.imshow(field, cmap="viridis", vmin=-2.5, vmax=2.5)
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(name)
fig.tight_layout()

assert scores["latent"] < scores["pixels"]
assert drawing["latent"] < 0.2 * drawing["pixels"]

# %% [markdown]
# Trained for longer the U-Net overtakes: it is not held to thirteen numbers. What stays is the price
# of a draw.

# %% [markdown]
# ## A learned encoder
#
# Where data bend, lines do not follow. An `AutoEncoder` of two numbers keeps what two components
# cannot of fields that hold one bump at a place that varies:

# %%
rng = np.random.default_rng(3)
centres = rng.uniform(0.2, 0.8, (1500, 2))
grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1)
bumps = np.exp(-np.square(grid[None] - centres[:, None, None]).sum(-1) / 0.03)
auto = AutoEncoder(2, width=128, max_steps=400, **options).fit(bumps)
line = PCAEncoder(2).fit(bumps)
kept = {
    name: 1 - np.square(one.decode(one.encode(bumps)) - bumps).mean() / bumps.var(0).mean()
    for name, one in {"autoencoder": auto, "two components": line}.items()
}
for name, share in kept.items():
    print(f"{name}: {share:.0%} of the variance kept by two numbers")

assert kept["autoencoder"] > kept["two components"] + 0.2
