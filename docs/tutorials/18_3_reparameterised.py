# %% [markdown]
# # 18.3 The reparameterised model
#
# The decoder of page 18.2 has one table for each $t$. The model that is used in practice has *one*
# network for all $t$, and asks it for the noise instead of the previous state. Nothing is lost by
# that, and training becomes a regression of five lines: algorithms 18.1 and 18.2 of Prince (2023),
# 20.1 and 20.2 of Bishop & Bishop (2024).

# %%

import matplotlib.pyplot as plt
import numpy as np
import torch

from scidiffusion.core import (
    DiscreteSchedule,
    GaussianProcess,
    KeyedNoise,
    NetworkDenoiser,
    SimpleLoss,
    elbo_eps_weight,
)
from scidiffusion.nn import FourierCoordinates, ResidualMLP
from scidiffusion.samplers import Ancestral, sample, trajectory
from scidiffusion.testing import GaussianMixtureOracle
from scidiffusion.training import TrainConfig, train

torch.set_num_threads(1)  # so small a network is quickest on one
F64 = torch.float64
T = 100
schedule = DiscreteSchedule.linear(T)  # forgets the data; the notebooks' constant 0.01511 does not
process = GaussianProcess(schedule, variance="beta")
oracle = GaussianMixtureOracle.prince(process)
nodes = torch.arange(T + 1, dtype=F64) / T

# %% [markdown]
# ## From the previous state to the noise
#
# Solve $z_t=\sqrt{\bar\alpha_t}\,x+\sqrt{1-\bar\alpha_t}\,\epsilon$ for $x$, put it into the mean of
# $q(z_{t-1}\mid z_t,x)$, and it collapses to
#
# $$\frac1{\sqrt{1-\beta_t}}\left(z_t-\frac{\beta_t}{\sqrt{1-\bar\alpha_t}}\,\epsilon\right).$$
#
# So a network $g_t[z_t]$ that predicts $\epsilon$ gives the mean of the reverse step. The bar over
# $\alpha$ matters: with $\sqrt{\beta_t}=\sqrt{1-\alpha_t}$ in the denominator, as some lecture notes
# print it, all samples shrink to the centre (see the errata).
#
# In this library no sampler contains the formula. `Prediction` converts between the noise and the
# clean data, and `process.reverse` uses the posterior; that both are the same is a check.

# %%
x, _ = oracle.sample(1000, KeyedNoise(1))
identity_error, weight_error = 0.0, 0.0
for k in (2, 10, 50, 100):
    t, s = nodes[k], nodes[k - 1]
    corrupted = process.q_sample(x, t, KeyedNoise(2).at(k))
    prediction = oracle(corrupted.z, t)
    beta, alpha_bar = schedule.betas[k - 1], schedule.alpha_bar[k]
    by_algorithm = corrupted.z - beta / (1 - alpha_bar).sqrt() * prediction.eps
    by_algorithm = by_algorithm / (1 - beta).sqrt()
    mean = process.reverse(prediction, t, s).mean
    identity_error = max(identity_error, float((by_algorithm - mean).abs().max()))
    # The same for the loss: the squared error of the means, in units of sigma^2, is a weight times
    # the squared error of the noise.
    target = process.posterior(x, corrupted.z, t, s).mean
    of_means = ((target - mean) ** 2 / (2 * beta)).sum(1)
    weight = elbo_eps_weight(schedule, t, s, variance=beta)
    of_noise = weight * ((corrupted.eps - prediction.eps) ** 2).sum(1)
    weight_error = max(weight_error, float(((of_means - of_noise) / of_means).abs().max()))
print(f"mean of the reverse step: {identity_error:.1e}; loss, relative: {weight_error:.1e}")

# %% [markdown]
# ## The weights that are thrown away
#
# The ELBO weighs the squared error of the noise by (eq. 18.39)
#
# $$w_t=\frac{\beta_t^2}{(1-\bar\alpha_t)(1-\beta_t)\,2\sigma_t^2}.$$
#
# They differ by a factor of 7 here, and the simple loss sets them all to 1 (eq. 18.40). This moves
# no minimum, since every $t$ has its own; it decides which $t$ a network of finite size serves best.

# %%
t, s = nodes[2:], nodes[1:-1]
weights = elbo_eps_weight(schedule, t, s, variance=schedule.betas[1:])
fig, ax = plt.subplots(figsize=(6, 2.2))
ax.semilogy(np.arange(2, T + 1), weights)
ax.set(xlabel="$t$", ylabel="$w_t$")
fig.tight_layout()
print(f"largest weight / smallest: {float(weights.max() / weights.min()):.0f}")

# %% [markdown]
# ## Algorithm 18.1: training
#
# Draw a row $x$, a $t$ and a noise $\epsilon$; mix; predict; compare. `SimpleLoss` is that sentence,
# `train` repeats it. The network sees the Fourier features of its coordinate: a plain perceptron on
# one raw number cannot resolve a component of width 0.075.

# %%
data = oracle.sample(20_000, KeyedNoise(3))[0].to(torch.float32)
torch.manual_seed(0)
network = ResidualMLP(1, 1, width=96, blocks=2, coordinates=FourierCoordinates(), embed_dim=64)
denoiser = NetworkDenoiser(network, process)
result = train(
    denoiser,
    SimpleLoss(),
    data,
    config=TrainConfig(
        max_steps=1500,
        batch_size=256,
        lr=3e-3,
        ema_decay=0.99,
        validate_every=50,
        accelerator="cpu",
        progress=False,
    ),
)
print(result)

# %% [markdown]
# ## What the loss does not say
#
# The loss stops at about 0.25, which sounds bad and is nearly perfect: most of it is the noise that
# no predictor can know, $\mathbb E\|\epsilon-\mathbb E[\epsilon\mid z_t]\|^2$. With the exact
# predictor at hand we can measure the floor, and what the network adds to it.

# %%
rows = 20_000
x_test = oracle.sample(rows, KeyedNoise(4))[0]
k_test = torch.arange(rows) % T + 1
corrupted = process.q_sample(x_test, k_test / T, KeyedNoise(5))
exact = oracle(corrupted.z, k_test.to(F64) / T).eps
with torch.no_grad():
    learned = denoiser(corrupted.z.float(), k_test.to(F64) / T).eps.to(F64)
floor = float(((exact - corrupted.eps) ** 2).mean())
excess = float(((learned - exact) ** 2).mean())
print(f"floor of the loss {floor:.3f}; the network adds {excess:.4f}")

by_t = [((v - corrupted.eps) ** 2)[:, 0].reshape(-1, T).mean(0) for v in (exact, learned)]
axis = torch.linspace(-3, 3, 301, dtype=F64)[:, None]
fig, axes = plt.subplots(1, 2, figsize=(9, 3), width_ratios=(1, 1.3))
axes[0].plot(np.arange(1, T + 1), by_t[0], label="floor")
axes[0].plot(np.arange(1, T + 1), by_t[1], "--", label="network")
axes[0].set(xlabel="$t$", ylabel="squared error of the noise")
axes[0].legend(frameon=False)
for k, color in ((3, "C0"), (15, "C1"), (50, "C2")):
    with torch.no_grad():
        axes[1].plot(axis, denoiser(axis.float(), nodes[k]).eps, color, label=f"$t={k}$")
    axes[1].plot(axis, oracle(axis, nodes[k]).eps, "k:", lw=1)
axes[1].set(xlabel="$z_t$", ylabel="$g_t[z_t]$ (dotted: exact)")
axes[1].legend(frameon=False)
fig.tight_layout()

# %% [markdown]
# ## Algorithm 18.2: sampling
#
# The same loop as on page 18.2, with the network in place of the tables.

# %%
n = 4000
like = torch.empty(n, 1)
samples, states, times = trajectory(
    process, denoiser, like, sampler=Ancestral(), noise=KeyedNoise(6)
)
with_exact = sample(process, oracle, like.to(F64), sampler=Ancestral(), noise=KeyedNoise(6))
distance = {"network": oracle.wasserstein_1(samples), "exact": oracle.wasserstein_1(with_exact)}
print("W1 to the mixture:", {name: round(value, 4) for name, value in distance.items()})

fig, axes = plt.subplots(1, 2, figsize=(9, 3.2), width_ratios=(1, 1.4))
axes[0].plot(torch.stack(states)[:, :5, 0], T * times, lw=0.9)
axes[0].set(xlabel="value", ylabel="$t$", xlim=(-3, 3), ylim=(T, 0), title="five paths, upwards")
axes[1].hist(samples[:, 0], bins=90, range=(-3, 3), density=True, alpha=0.4, label="samples")
axes[1].plot(axis, oracle.log_prob(axis).exp(), "k", lw=1, label="truth")
axes[1].set(xlabel="$x$", xlim=(-3, 3))
axes[1].legend(frameon=False)
fig.tight_layout()

# %% [markdown]
# Most of what is left is the Monte-Carlo error of 4000 draws, and not the network's.

# %%
assert identity_error < 1e-12
assert weight_error < 1e-8
assert float(weights.max() / weights.min()) > 5
assert 0.2 < floor < 0.35
assert excess < 0.005
assert distance["network"] < 0.05
