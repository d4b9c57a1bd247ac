# %% [markdown]
# # Four steps: a denoising diffusion GAN
#
# A sampler replaces what clean data may be by their mean. That is right for small steps: over a large
# one $p(z_s\mid z_t)$ has as many modes as the data, and a Gaussian has one. Xiao, Kreis & Vahdat
# (2022) keep the large steps and *draw* the clean data: a generator makes $x$ of $z_t$ and a latent,
# $z_s$ follows from the exact posterior $q(z_s\mid z_t,x)$, and a discriminator of pairs
# $(z_s,z_t)$ teaches the generator. This page shows first why that can work, on the mixture of
# Prince's notebooks, where everything is known; then what training makes of it, there and on
# digits, beside diffusion models that were trained as long.

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
import torch

from scidiffusion import DensityDiffusion, ImageDiffusion
from scidiffusion.adversarial import DenoisingGAN, PosteriorSteps
from scidiffusion.core import GaussianProcess, KeyedNoise, LinearVP
from scidiffusion.images import (
    ImageJudge,
    copied_share,
    diversity,
    frechet_distance,
    load_digits,
    plot_images,
)
from scidiffusion.samplers import DDIM, Ancestral, DPMSolverPP, sample
from scidiffusion.testing import GaussianMixtureOracle

F64, ROWS = torch.float64, 8000
process = GaussianProcess(LinearVP())
oracle = GaussianMixtureOracle.prince(process)

# %% [markdown]
# ## With the exact law of clean data every step is exact
#
# The oracle knows the mean $E[x\mid z_t]$, which samplers use, and it draws from $p(x\mid z_t)$, which
# `PosteriorSteps` uses. Both are exact; what follows from them is not. W1 is the Wasserstein distance
# of 8000 draws to the mixture; that of true draws is the floor.

# %%
methods = {
    "draws": PosteriorSteps(),
    "DDIM": DDIM(),
    "DPM-Solver++": DPMSolverPP(),
    "ancestral": Ancestral(),
}
floor = oracle.wasserstein_1(oracle.sample(ROWS, KeyedNoise(5))[0])
exact = {}
print(f"{'true draws':14s} W1 {floor:.3f}")
for name, method in methods.items():
    for steps in (1, 2, 4):
        exact[name, steps] = sample(
            process, oracle, torch.empty(ROWS, 1, dtype=F64), sampler=method, steps=steps,
            spacing="uniform", noise=KeyedNoise(0),
        )  # fmt: skip
        print(f"{name:14s} {steps} steps: W1 {oracle.wasserstein_1(exact[name, steps]):.3f}")

distance = {key: oracle.wasserstein_1(drawn) for key, drawn in exact.items()}
assert max(distance["draws", steps] for steps in (1, 2, 4)) < 2 * floor
assert min(distance[name, 4] for name in methods if name != "draws") > 5 * floor

# %% [markdown]
# ## What training makes of it: the mixture
#
# A `DenoisingGAN` of four steps, and a diffusion model (`DensityDiffusion`) whose training takes as
# long, walked in four steps by two samplers, and in fifty by one.

# %%
X = oracle.sample(10_000)[0].numpy()


def timed(model, data):
    """Fit a model and print how long that took."""
    begin = time.process_time()
    model.fit(data)
    print(f"{type(model).__name__}: {time.process_time() - begin:.0f} s of training")
    return model


quiet = {"random_state": 0, "progress": False}
gan = timed(DenoisingGAN(steps=4, latent_dim=2, width=64, max_steps=900, **quiet), X)
diffusion = timed(DensityDiffusion(width=64, max_steps=3600, **quiet), X)
learned = {
    "GAN, 4": gan.sample(ROWS, random_state=1),
    "DDIM, 4": diffusion.sample(ROWS, steps=4, sampler="ddim", random_state=1),
    "DPM-Solver++, 4": diffusion.sample(ROWS, steps=4, sampler="dpmpp_2m", random_state=1),
    "DPM-Solver++, 50": diffusion.sample(ROWS, steps=50, sampler="dpmpp_2m", random_state=1),
}
off = {name: oracle.wasserstein_1(torch.from_numpy(drawn)) for name, drawn in learned.items()}
for name, value in off.items():
    print(f"{name:18s} W1 {value:.3f}")

fig, axes = plt.subplots(1, 4, figsize=(11, 2.6), sharey=True)
grid = torch.linspace(-2.5, 2.8, 400, dtype=F64)[:, None]
for panel, (name, drawn) in zip(axes, learned.items(), strict=True):
    panel.hist(drawn[:, 0], bins=100, range=(-2.5, 2.8), density=True, color="C0", alpha=0.6)
    panel.plot(grid[:, 0], oracle.log_prob(grid).exp(), color="k", lw=1)
    panel.set(title=f"{name} steps", ylim=(0, 1.2))
fig.tight_layout()

assert off["GAN, 4"] < 0.4 * min(off["DDIM, 4"], off["DPM-Solver++, 4"])
assert off["GAN, 4"] > floor

# %% [markdown]
# Four steps with a trained generator beat four steps with the *exact* mean by far. They do not reach
# the floor, nor what the same diffusion model gives in fifty steps: where evaluations cost little
# there is no reason for a GAN. Of the options the penalty and the batch mattered most: in single
# trials of 1000 to 1500 steps a weight of 0.1 gave W1 of 0.19 with batches of 256 and 0.10 with
# 1024, weights of 0.3 and 1 gave 0.05 to 0.07. What one state tells of a bias is little where noise
# is most of it, and the game needs many states to feel it.
#
# ## Digits
#
# 1400 handwritten digits of 8 x 8 pixels. The GAN is a pair of perceptrons, the diffusion model the
# library's U-Net. An independent judge, a classifier of real digits, gives the features in which the
# Frechet distance to the training digits is taken; real digits that nobody has learned from set its
# floor. Diversity is the root mean square distance to the mean.

# %%
digits, labels = load_digits()
train, held_out = digits[:1400].astype(float), digits[1400:].astype(float)
judge = ImageJudge().fit(train, labels[:1400])
gan = timed(DenoisingGAN(steps=4, latent_dim=16, max_steps=800, batch_size=256, **quiet), train)
diffusion = timed(
    ImageDiffusion(
        width=16, blocks=1, max_steps=420, lr=3e-3, ema_decay=0.99, dropout=0.0,
        validation_fraction=0.0, **quiet,
    ),
    train,
)  # fmt: skip
images = {
    "real, held out": held_out,
    "GAN, 4": gan.sample(397, random_state=1),
    "DDIM, 4": diffusion.sample(397, steps=4, sampler="ddim", random_state=1),
    "DPM-Solver++, 4": diffusion.sample(397, steps=4, sampler="dpmpp_2m", random_state=1),
    "DPM-Solver++, 25": diffusion.sample(397, steps=25, sampler="dpmpp_2m", random_state=1),
}
frechet = {
    name: frechet_distance(judge.features(these), judge.features(train))
    for name, these in images.items()
}
spread = {name: diversity(these) for name, these in images.items()}
for name, these in images.items():
    print(
        f"{name:18s} Frechet {frechet[name]:.2f}, diversity {spread[name]:.1f}, "
        f"copies {copied_share(these, train):.1%}"
    )
plot_images(
    np.concatenate([these[:12] for these in images.values()]), columns=12, value_range=(0, 16)
)

# %% [markdown]
# One row each, in the order of the figures above. At four steps the diffusion model draws blurred
# digits, too near to the mean, and the GAN does not. It loses to 25 steps of the diffusion model, if
# only a little, and it has no likelihood, no conditions, and no held-out loss to stop by.

# %%
assert frechet["GAN, 4"] < 0.7 * min(frechet["DDIM, 4"], frechet["DPM-Solver++, 4"])
assert frechet["GAN, 4"] < 4 * frechet["real, held out"]
assert spread["GAN, 4"] > 0.93 * spread["real, held out"]
assert max(spread["DDIM, 4"], spread["DPM-Solver++, 4"]) < 0.88 * spread["real, held out"]
assert copied_share(images["GAN, 4"], train) < 0.02
