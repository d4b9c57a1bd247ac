# %% [markdown]
# # 18.1 The encoder
#
# The forward half of a diffusion model has nothing to learn: it is a fixed recipe that turns data
# into noise. This page walks through it on the one-dimensional mixture of four Gaussians that the
# notebooks to Prince, *Understanding Deep Learning* (2023), chapter 18 use, because there every
# distribution can be written down and each claim can be checked to the last digit.
#
# | in the book (section 18.2) | here |
# |---|---|
# | forward process, eqs. 18.1-18.2 | `process.forward_step` |
# | diffusion kernel, eqs. 18.7-18.8 | `process.kernel`, `process.q_sample` |
# | marginal distributions, eq. 18.10 | `oracle.log_prob(z, t)` |
# | conditional distribution, eq. 18.11 | Bayes' rule on a grid, below |
# | conditional diffusion distribution, eq. 18.15 | `process.posterior` |
#
# Two habits differ from the book. Time runs over $t\in[0,1]$: node $k$ of a schedule with $T$
# steps is $t=k/T$, and node 0 is the data. And the book's $\alpha_t=\prod_{s\le t}(1-\beta_s)$ is
# called `alpha_bar` here, because half of the literature uses $\alpha_t$ for $1-\beta_t$.

# %%
import math
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import torch

from scidiffusion.core import DiscreteSchedule, GaussianProcess, KeyedNoise
from scidiffusion.testing import GaussianMixtureOracle

F64 = torch.float64
T, BETA = 100, 0.01511

schedule = DiscreteSchedule([BETA] * T)
process = GaussianProcess(schedule)
oracle = GaussianMixtureOracle.prince(process)
nodes = torch.arange(T + 1, dtype=F64) / T  # the times of z_0 = x, z_1, ..., z_T


def density(z: torch.Tensor, t: torch.Tensor | float = 0.0) -> np.ndarray:
    return oracle.log_prob(z[:, None], t).exp().numpy()


axis = torch.linspace(-3, 3, 601, dtype=F64)
fig, ax = plt.subplots(figsize=(7, 2.2))
ax.fill_between(axis, density(axis), alpha=0.3)
ax.set(xlabel="$x$", ylabel="$Pr(x)$", xlim=(-3, 3))
fig.tight_layout()

# %% [markdown]
# ## The forward process
#
# One step shrinks the state a little and adds a little noise,
#
# $$z_t=\sqrt{1-\beta_t}\,z_{t-1}+\sqrt{\beta_t}\,\epsilon_t .$$
#
# The two square roots belong together: a variable of variance 1 keeps variance 1. We push 20,000
# draws through all 100 steps. `KeyedNoise(seed).at(k)` is the noise of step `k`; the same seed
# gives the same numbers whatever else has been drawn.

# %%
n = 20_000
noise = KeyedNoise(seed=1)
x, component = oracle.sample(n, noise.child("data"))

chain = [x]
for step, (s, t) in enumerate(pairwise(nodes), start=1):
    chain.append(process.forward_step(chain[-1], s, t, noise.at(step)))
chain = torch.stack(chain)  # (T + 1, n, 1)

fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), width_ratios=(1, 1.6))
axes[0].plot(chain[:, :5, 0], np.arange(T + 1), lw=0.9)
axes[0].set(xlabel="value", ylabel="$t$", xlim=(-3, 3), ylim=(T, 0), title="five paths")
for k, shade in zip((0, 5, 20, 40, 80), np.linspace(0.9, 0.25, 5), strict=True):
    counts, edges = np.histogram(chain[k, :, 0], bins=90, range=(-3, 3), density=True)
    axes[1].plot(
        0.5 * (edges[1:] + edges[:-1]), counts, color=str(1 - shade), label=f"$z_{{{k}}}$"
    )
axes[1].set(xlabel="value", xlim=(-3, 3), title="histograms on the way")
axes[1].legend(frameon=False)
fig.tight_layout()

# %% [markdown]
# ## The diffusion kernel
#
# Composing Gaussian steps gives a Gaussian, so nobody has to walk through the chain:
#
# $$q(z_t\mid x)=\mathcal N\!\big(\sqrt{\bar\alpha_t}\,x,\;(1-\bar\alpha_t)I\big),\qquad
#   \bar\alpha_t=\prod_{s\le t}(1-\beta_s).$$
#
# Below, the kernel of the single point $x=-2$ is the shading, with its mean $\pm$ two standard
# deviations and five iterated paths on top.

# %%
start = torch.full((5, 1), -2.0, dtype=F64)
paths = [start]
for step, (s, t) in enumerate(pairwise(nodes), start=1):
    paths.append(process.forward_step(paths[-1], s, t, noise.child("paths").at(step)))
paths = torch.stack(paths)[..., 0]

marginal = schedule.marginal(nodes)  # scale = sqrt(alpha_bar), std = sqrt(1 - alpha_bar)
mean, std = -2.0 * marginal.scale, marginal.std
kernels = torch.exp(-0.5 * ((axis - mean[1:, None]) / std[1:, None]) ** 2) / (
    std[1:, None] * math.sqrt(2 * math.pi)
)

fig, ax = plt.subplots(figsize=(6, 3.6))
ax.imshow(kernels, aspect="auto", extent=(-3, 3, T, 0), cmap="Greys", vmax=1.2)
ax.plot(paths, np.arange(T + 1), lw=0.8)
for sign in (-2, 2):
    ax.plot(mean + sign * std, np.arange(T + 1), "C1--", lw=1.2)
ax.set(xlabel="$z_t$", ylabel="$t$", xlim=(-3, 3), title="$q(z_t\\mid x=-2)$")
fig.tight_layout()

# %% [markdown]
# Is the closed form really what the chain does? For every $t$ the mean and the variance of the
# 20,000 iterated draws must agree with the kernel's, averaged over the data, up to sampling error.
# We measure in standard errors.

# %%
expected_mean = marginal.scale * x.mean()
expected_var = marginal.alpha_bar * x.var() + marginal.var
# The noise is what is random given the data: its share of the mean's and the variance's error.
mean_error = (chain.mean(1)[:, 0] - expected_mean).abs()[1:] / (marginal.std[1:] / math.sqrt(n))
cross = (marginal.var * (2 * marginal.var + 4 * marginal.alpha_bar * x.var()))[1:].sqrt()
var_error = (chain.var(1)[:, 0] - expected_var).abs()[1:] / (cross / math.sqrt(n))
print(f"worst of {T} means: {mean_error.max():.2f} s.e.; variances: {var_error.max():.2f} s.e.")

# %% [markdown]
# ## Marginal distributions
#
# The density of $z_t$ over the whole data set is the kernel averaged over the data,
# $q(z_t)=\int q(z_t\mid x)\,Pr(x)\,dx$. For a mixture the integral is again a mixture, with means
# $\sqrt{\bar\alpha_t}\mu_k$ and variances $\bar\alpha_t\sigma_k^2+1-\bar\alpha_t$; that is what the
# oracle evaluates. We check it against the integral done numerically, and draw its evolution.

# %%
fine = torch.linspace(-4, 4, 4001, dtype=F64)
weight = torch.from_numpy(density(fine)) * float(fine[1] - fine[0])
worst = 0.0
for k in (1, 20, 60, 100):
    t = nodes[k]
    q_given_x = process.kernel(fine[:, None], t)
    grid_kernel = torch.exp(
        -0.5 * (axis[:, None] - q_given_x.mean[:, 0]) ** 2 / q_given_x.var
    ) / torch.sqrt(2 * math.pi * q_given_x.var)
    worst = max(worst, float(np.abs((grid_kernel @ weight).numpy() - density(axis, t)).max()))
print(f"numerical integral against the closed form: {worst:.1e}")

heat = np.stack([density(axis, t) for t in nodes])
fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), width_ratios=(1.2, 1))
axes[0].imshow(heat, aspect="auto", extent=(-3, 3, T, 0), cmap="Greys", vmax=0.8)
axes[0].set(xlabel="$z_t$", ylabel="$t$", title="$q(z_t)$")
for k in (0, 20, 60, 100):
    axes[1].plot(axis, density(axis, nodes[k]), label=f"$t={k}$")
axes[1].plot(axis, torch.exp(-0.5 * axis**2) / math.sqrt(2 * math.pi), "k:", label="N(0, 1)")
axes[1].set(xlabel="$z_t$", xlim=(-3, 3))
axes[1].legend(frameon=False)
fig.tight_layout()

# %% [markdown]
# ## Does this chain end in noise?
#
# Look at the last curve: it is *not* the dotted one. The constant $\beta=0.01511$ of the notebooks
# leaves $\bar\alpha_{100}=0.218$ of the signal's power. What the prior $\mathcal N(0,1)$ misses is
#
# $$L_T=\mathbb E_x\,\mathrm{KL}\big(q(z_T\mid x)\,\|\,\mathcal N(0,I)\big),$$
#
# the first term of the evidence lower bound, which derivations like to drop. Here it is 0.143 nats,
# and a sampler that starts from $\mathcal N(0,1)$ starts from the wrong distribution. The linear
# schedule of Ho et al. (2020), rescaled to the same $T=100$, forgets the data.

# %%
quantiles = oracle.quantiles((torch.arange(2000, dtype=F64) + 0.5) / 2000)[:, None]
forgetful = GaussianProcess(DiscreteSchedule.linear(T))
terminal = {}
for name, candidate in (("constant 0.01511", process), ("linear, rescaled", forgetful)):
    terminal[name] = (
        candidate.schedule.terminal_snr,
        float(candidate.prior_divergence(quantiles).mean()),
    )
    print(f"{name:18s} alpha_bar_T = {terminal[name][0]:.2e}   L_T = {terminal[name][1]:.2e} nats")

# %% [markdown]
# ## The conditional distribution $q(z_{t-1}\mid z_t)$
#
# Going backwards, Bayes' rule gives $q(z_{t-1}\mid z_t)\propto q(z_t\mid z_{t-1})\,q(z_{t-1})$. With
# a known data density it can be computed on a grid. For one small step the narrow first factor wins
# and the result is nearly Gaussian; over a long jump it is not, which is why a Gaussian decoder
# needs many steps.


# %%
def backward(z_star: float, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """q(z_s | z_t = z_star) on the axis, by Bayes' rule."""
    step = schedule.transition(t, s)
    likelihood = torch.exp(-0.5 * (z_star - step.scale * axis) ** 2 / step.var)
    joint = likelihood * torch.from_numpy(density(axis, s))
    return joint / (joint.sum() * (axis[1] - axis[0]))


def excess_kurtosis(p: torch.Tensor) -> float:
    p = p / p.sum()
    centred = axis - (p * axis).sum()
    return float((p * centred**4).sum() / (p * centred**2).sum() ** 2 - 3)


fig, axes = plt.subplots(1, 2, figsize=(9, 2.8), sharex=True)
kurtosis = {}
for ax, (later, earlier) in zip(axes, ((20, 19), (60, 5)), strict=True):
    for z_star in (-1.2, 0.0, 1.0):
        p = backward(z_star, nodes[later], nodes[earlier])
        kurtosis[later, z_star] = excess_kurtosis(p)
        ax.plot(axis, p, label=f"$z^*={z_star}$")
    print(f"from {later} to {earlier}: excess kurtosis", end=" ")
    print(*(f"{value:+.3f}" for (k, _), value in kurtosis.items() if k == later))
    ax.set(title=f"$q(z_{{{earlier}}}\\mid z_{{{later}}}=z^*)$", xlabel=f"$z_{{{earlier}}}$")
axes[0].legend(frameon=False)
fig.tight_layout()

# %% [markdown]
# ## The conditional diffusion distribution $q(z_{t-1}\mid z_t,x)$
#
# If $x$ is known as well, both factors are Gaussian and so is the product:
#
# $$q(z_{t-1}\mid z_t,x)=\mathcal N\!\left(
#   \frac{(1-\bar\alpha_{t-1})\sqrt{1-\beta_t}}{1-\bar\alpha_t}z_t
#   +\frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t}x,\;
#   \frac{\beta_t(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}I\right).$$
#
# `process.posterior(x, z, t, s)` is that formula, and holds for *any* pair $s<t$, not for
# neighbours only. It equals Bayes' rule on a grid.

# %%
x_star = torch.tensor([[-2.1]], dtype=F64)
wide = torch.linspace(-9, 9, 18001, dtype=F64)
spacing = float(wide[1] - wide[0])
bayes_error, book_error = 0.0, 0.0
for later, earlier in ((2, 1), (20, 19), (80, 79), (80, 30)):
    t, s = nodes[later], nodes[earlier]
    z = torch.tensor([[-0.4]], dtype=F64)
    closed = process.posterior(x_star, z, t, s)
    step, before = schedule.transition(t, s), process.kernel(x_star, s)
    log_joint = -0.5 * (z - step.scale * wide) ** 2 / step.var
    log_joint = log_joint - 0.5 * (wide - before.mean) ** 2 / before.var
    p = torch.softmax(log_joint, -1)
    mean = (p * wide).sum()
    var = (p * (wide - mean) ** 2).sum()
    bayes_error = max(
        bayes_error, float((mean - closed.mean).abs()), float((var - closed.var).abs())
    )
    if later - earlier == 1:
        ab_t, ab_s = schedule.alpha_bar[later], schedule.alpha_bar[earlier]
        by_book = (1 - ab_s) / (1 - ab_t) * math.sqrt(1 - BETA) * z
        by_book = by_book + ab_s.sqrt() * BETA / (1 - ab_t) * x_star
        book_error = max(book_error, float((by_book - closed.mean).abs()))
print(f"against Bayes on a grid: {bayes_error:.1e}; against the book's formula: {book_error:.1e}")

# %% [markdown]
# Everything this page claims, asserted.

# %%
assert mean_error.max() < 5
assert var_error.max() < 5
assert worst < 1e-6
assert abs(terminal["constant 0.01511"][0] - 0.218) < 5e-4
assert abs(terminal["constant 0.01511"][1] - 0.143) < 5e-4
assert terminal["linear, rescaled"][1] < 1e-4
assert max(abs(kurtosis[20, z]) for z in (-1.2, 0.0, 1.0)) < 0.05
assert min(abs(kurtosis[60, z]) for z in (-1.2, 0.0, 1.0)) > 0.4
assert bayes_error < 1e-9
assert book_error < 1e-12
