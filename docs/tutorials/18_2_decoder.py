# %% [markdown]
# # 18.2 The decoder
#
# The decoder walks back from noise to data: it starts at $z_T\sim\mathcal N(0,I)$ and draws
#
# $$Pr(z_{t-1}\mid z_t)=\mathcal N\big(f_t[z_t],\;\sigma_t^2 I\big),\qquad t=T,\dots,1,$$
#
# (Prince 2023, eq. 18.16). What has to be learned is the mean $f_t$. This page learns it the plainest
# way there is, one lookup table for each $t$, so that nothing but the method itself is on show; page
# 18.3 puts a network in their place.

# %%
import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch

from scidiffusion.core import DiscreteSchedule, GaussianProcess, KeyedNoise, Prediction, elbo
from scidiffusion.samplers import Ancestral, sample, trajectory
from scidiffusion.testing import GaussianMixtureOracle

F64 = torch.float64
T, BETA = 100, 0.01511

process = GaussianProcess(DiscreteSchedule([BETA] * T), variance="beta")
oracle = GaussianMixtureOracle.prince(process)
x_train, _ = oracle.sample(50_000, KeyedNoise(seed=1))

# %% [markdown]
# ## What the table should hold
#
# Maximising the ELBO means minimising, at every $t$ (eq. 18.29),
#
# $$\frac1{2\sigma_t^2}\big\|\,\mathbb E[z_{t-1}\mid z_t,x]-f_t[z_t]\,\big\|^2 ,$$
#
# where the target is the *mean* of $q(z_{t-1}\mid z_t,x)$. The best $f_t[z_t]$ is its average over
# all $x$ that might hide behind $z_t$. Regressing on *draws* of $z_{t-1}$, as the original notebook
# does, has the same minimum but is noisier. And since the target is affine in $x$,
#
# $$\mathbb E[z_{t-1}\mid z_t,x]=a_t z_t+b_t x ,$$
#
# $f_t$ is known as soon as $\hat x(z_t)=\mathbb E[x\mid z_t]$ is. That is why a denoiser here
# predicts the clean data (or the noise, which is the same thing said differently), and the process
# alone knows how to make $f_t$ of it: `process.reverse(prediction, t, s).mean`.
#
# The table: sort the $z_t$, cut them into 200 bins of 250 draws each, and average $z_t$ and $x$ in
# each; look up by linear interpolation. Bins of equal counts are never empty.


# %%
class TableDenoiser:
    """E[x | z_t] of one-dimensional data, from averages over bins, one table a node."""

    def __init__(self, process: GaussianProcess, x: torch.Tensor, bins: int = 200) -> None:
        self.process = process
        self.tables: list[tuple[np.ndarray, np.ndarray]] = []
        nodes = process.schedule.num_nodes
        for k in range(1, nodes + 1):
            t = torch.tensor(k / nodes, dtype=F64)
            z = process.q_sample(x, t, KeyedNoise(seed=2).at(k)).z
            order = np.argsort(z[:, 0].numpy())
            columns = (v.numpy()[order, 0].reshape(bins, -1).mean(1) for v in (z, x))
            self.tables.append(tuple(columns))

    def __call__(self, z: torch.Tensor, t: torch.Tensor, cond: object = None) -> Prediction:
        table = self.tables[int(self.process.schedule.node(t)) - 1]
        x0 = torch.from_numpy(np.interp(z[:, 0].numpy(), *table))[:, None]
        return self.process.prediction(z, t, x0=x0)


table = TableDenoiser(process, x_train)

axis = torch.linspace(-2.5, 2.5, 501, dtype=F64)[:, None]
fig, axes = plt.subplots(1, 3, figsize=(9, 2.8), sharey=True)
for ax, k in zip(axes, (2, 20, 80), strict=True):
    t, s = (torch.tensor(v / T, dtype=F64) for v in (k, k - 1))
    shift = [(process.reverse(d(axis, t), t, s).mean - axis) for d in (table, oracle)]
    ax.plot(axis, shift[0], label="table")
    ax.plot(axis, shift[1], "k:", label="exact")
    ax.set(xlabel="$z_t$", title=f"$f_{{{k}}}[z]-z$", ylim=(-0.12, 0.12))
axes[0].legend(frameon=False)
fig.tight_layout()

# %% [markdown]
# How much noisier is regression on draws? The scatter of the target within a bin says it: for the
# draws it is the posterior's variance on top of that of the mean.

# %%
t, s = torch.tensor(0.5, dtype=F64), torch.tensor(0.49, dtype=F64)
z = process.q_sample(x_train, t, KeyedNoise(seed=3)).z
target = process.posterior(x_train, z, t, s)
best = process.reverse(oracle(z, t), t, s).mean
scatter_mean = float((target.mean - best).var())
scatter_draw = float((target.sample(KeyedNoise(seed=4)) - best).var())
print(f"variance of the target at t = 50: mean {scatter_mean:.2e}, draw {scatter_draw:.2e}")

# %% [markdown]
# ## Sampling
#
# `Ancestral` is algorithm 18.2's loop: $z_{t-1}=f_t[z_t]+\sigma_t\epsilon$, with
# $\sigma_t^2=\beta_t$ (the 0.12288 of the original notebook is $\sqrt{0.0151}$), and no noise in the
# last step. The original's `if t>0` stands in a loop that ends at $t=1$, so it is always true and
# the data come out blurred by $\sigma_1$; `process.reverse` has variance 0 where $s=0$.

# %%
n = 4000
like = torch.empty(n, 1, dtype=F64)
samples, states, times = trajectory(process, table, like, sampler=Ancestral(), noise=KeyedNoise(5))

fig, axes = plt.subplots(1, 2, figsize=(9, 3.2), width_ratios=(1, 1.4))
axes[0].plot(torch.stack(states)[:, :5, 0], T * times, lw=0.9)
axes[0].set(xlabel="value", ylabel="$t$", xlim=(-3, 3), ylim=(T, 0), title="five paths, upwards")
axes[1].hist(samples[:, 0], bins=90, range=(-3, 3), density=True, alpha=0.4, label="samples")
axes[1].plot(axis, oracle.log_prob(axis).exp(), "k", lw=1, label="truth")
axes[1].set(xlabel="$x$", xlim=(-3, 3))
axes[1].legend(frameon=False)
fig.tight_layout()


# %% [markdown]
# What the noise at the last step would do, on the narrowest component (sd 0.075 at $-1.875$): its
# samples come out nearly twice as wide.


# %%
def narrow_sd(x: torch.Tensor) -> float:
    return float(x[x < -1.4].std())


blurred = samples + BETA**0.5 * KeyedNoise(6).normal(samples)
narrow = {"ours": narrow_sd(samples), "noise at the last step": narrow_sd(blurred)}
print("sd of the narrow component (0.075):", {k: round(v, 3) for k, v in narrow.items()})

# %% [markdown]
# ## Two errors, one of which learning cannot mend
#
# The Wasserstein-1 distance to the true mixture has a floor of about 0.02 at 4000 draws. With the
# schedule of the notebooks the samples stay above it, and so do those of the *exact* denoiser: page
# 18.1 showed that $q(z_T)$ is not $\mathcal N(0,1)$. Starting from a true $z_T$, or choosing a
# schedule that forgets the data, helps; better tables would not.

# %%
truth = oracle.quantiles((torch.arange(n, dtype=F64) + 0.5) / n)


def w1(x: torch.Tensor) -> float:
    return float((x[:, 0].sort().values - truth).abs().mean())


forgetful = GaussianProcess(DiscreteSchedule.linear(T), variance="beta")
tables = {"notebook schedule": table, "linear schedule": TableDenoiser(forgetful, x_train)}
distance: dict[str, float] = {}
for name, denoiser in tables.items():
    exact = GaussianMixtureOracle.prince(denoiser.process)
    for who, d in (("table", denoiser), ("exact", exact)):
        runs = [
            w1(sample(d.process, d, like, sampler=Ancestral(), noise=KeyedNoise(seed)))
            for seed in (10, 11)
        ]
        distance[f"{name}, {who}"] = float(np.mean(runs))
z_T = process.q_sample(
    oracle.sample(n, KeyedNoise(7))[0], torch.ones((), dtype=F64), KeyedNoise(8)
).z
distance["notebook schedule, table, true z_T"] = w1(
    sample(process, table, like, sampler=Ancestral(), z=z_T)
)
distance["fresh draws of the data"] = float(
    np.mean([w1(oracle.sample(n, KeyedNoise(s))[0]) for s in range(20, 26)])
)
for name, value in distance.items():
    print(f"W1 {value:.4f}  {name}")

# %% [markdown]
# ## The bound, with all its terms
#
# The ELBO has three parts: $L_0$ for the last step, the KL terms of the steps between (eq. 18.25),
# and $L_T$, which the derivation drops with an "$\approx$" (eq. 18.24). `elbo` keeps it, and warns
# where it is not small.

# %%
x_test, _ = oracle.sample(1000, KeyedNoise(9))
bounds = {}
for name, denoiser in tables.items():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bounds[name] = elbo(denoiser, x_test)
    print(f"{name}: {bounds[name]}")
    for warning in caught:
        print("   warned:", str(warning.message).split(". ")[0])
log_p = float(oracle.log_prob(x_test).mean())
print(f"log p(x) = {log_p:.4f}")

fig, ax = plt.subplots(figsize=(7, 2.4))
for name, bound in bounds.items():
    ax.semilogy(np.arange(T, 1, -1), bound.divergences.mean(0), label=name)
ax.set(xlabel="$t$", ylabel="KL term, nats")
ax.legend(frameon=False)
fig.tight_layout()

# %%
assert scatter_draw > 10 * scatter_mean
assert narrow["ours"] < 0.095 < 0.13 < narrow["noise at the last step"]
assert distance["linear schedule, table"] < 0.035
assert abs(distance["linear schedule, table"] - distance["linear schedule, exact"]) < 0.015
assert distance["notebook schedule, table"] > 1.4 * distance["linear schedule, table"]
assert distance["notebook schedule, exact"] > 1.4 * distance["linear schedule, exact"]
for name, bound in bounds.items():
    assert float(bound.total.mean()) < log_p, name
assert abs(float(bounds["notebook schedule"].prior.mean()) - 0.143) < 0.01
assert float(bounds["linear schedule"].prior.mean()) < 1e-4
