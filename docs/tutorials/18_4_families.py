# %% [markdown]
# # 18.4 Families of diffusion models
#
# Training (page 18.3) only ever used the diffusion kernel $q(z_t\mid x)$. Any forward process with
# the same kernel is therefore served by the same denoiser, and each has another reverse process:
# with more noise, with less, with none; through all nodes or a few (Prince 2023, section 18.6.1).
#
# This page compares the ways back. It uses the *exact* denoiser of the mixture, so that every error
# it shows is an error of the sampler.

# %%
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import torch

from scidiffusion.core import DiscreteSchedule, GaussianProcess, KeyedNoise, LinearVP
from scidiffusion.samplers import (
    DDIM,
    Ancestral,
    DPMSolverPP,
    Heun,
    ddim_encode,
    sample,
    trajectory,
)
from scidiffusion.testing import GaussianMixtureOracle, empirical_order

F64 = torch.float64
T = 100
process = GaussianProcess(DiscreteSchedule.linear(T), variance="beta")
oracle = GaussianMixtureOracle.prince(process)

n = 1000
levels = (torch.arange(n, dtype=F64) + 0.5) / n
truth = oracle.quantiles(levels)
start = torch.special.ndtri(levels)[:, None]  # the quantiles of N(0, 1): no sampling error
like = torch.empty(n, 1, dtype=F64)


def w1(x: torch.Tensor) -> float:
    return float((x[:, 0].sort().values - truth).abs().mean())


# %% [markdown]
# ## Denoising diffusion implicit models
#
# DDIM (Song, Meng & Ermon 2021, eq. 12) splits the step into the clean data that the denoiser
# believes in, a push in the direction of the noise it believes in, and fresh noise:
#
# $$z_s=\sqrt{\bar\alpha_s}\,\hat x
#   +\sqrt{1-\bar\alpha_s-\sigma^2}\;\hat\epsilon+\sigma\,\epsilon .$$
#
# All $\sigma$ have the same marginals. `DDIM(eta)` takes $\sigma^2=\eta^2$ times the posterior
# variance: $\eta=1$ is as noisy as ancestral sampling, $\eta=0$ is a deterministic map from $z_T$ to
# $x$, monotone in one dimension, so that paths do not cross.

# %%
fig, axes = plt.subplots(1, 3, figsize=(9, 3.2), sharey=True)
five = start[n // 10 :: n // 5]
for ax, eta in zip(axes, (1.0, 0.5, 0.0), strict=True):
    _, states, times = trajectory(
        process, oracle, five, sampler=DDIM(eta=eta), z=five, noise=KeyedNoise(2)
    )
    states = torch.stack(states)[..., 0]
    ax.plot(states, T * times, lw=0.9)
    ax.set(xlim=(-3, 3), ylim=(T, 0), xlabel="value", title=f"$\\eta={eta:g}$")
axes[0].set_ylabel("$t$")
fig.tight_layout()

eta_distance = {
    eta: w1(sample(process, oracle, like, sampler=DDIM(eta=eta), z=start, noise=KeyedNoise(3)))
    for eta in (0.0, 0.5, 1.0)
}
print("W1 with all 100 nodes:", {eta: round(value, 4) for eta, value in eta_distance.items()})
monotone = bool((states[-1].diff() > 0).all())

# %% [markdown]
# ### One step, two ways
#
# With $\eta=1$ a DDIM step and a draw from the posterior at $\hat x$ are the same distribution. We
# compare them with the same noise.

# %%
posterior = GaussianProcess(DiscreteSchedule.linear(T), variance="posterior")
t, s = torch.tensor(0.6, dtype=F64), torch.tensor(0.4, dtype=F64)
ddim_step = DDIM(eta=1.0).step(posterior, oracle, DDIM().init(start), t, s, KeyedNoise(4)).z
draw = Ancestral().step(posterior, oracle, Ancestral().init(start), t, s, KeyedNoise(4)).z
same_step = float((ddim_step - draw).abs().max())
print(f"largest difference: {same_step:.1e}")

# %% [markdown]
# ## Accelerated sampling
#
# Nothing ties the sampler to neighbouring nodes: a grid of 20 of the 100 nodes is another forward
# process with the same kernel. `sample(..., steps=20)` chooses them; the step from $t$ to $s$ uses
# $\bar\alpha_t$ and $\bar\alpha_s$ wherever they are.

# %%
steps_tried = (5, 10, 20, 50, 100)
accelerated = {
    "DDIM": {
        k: w1(sample(process, oracle, like, sampler=DDIM(), z=start, steps=k)) for k in steps_tried
    },
    "ancestral": {
        k: w1(
            sample(
                process, oracle, like, sampler=Ancestral(), z=start, steps=k, noise=KeyedNoise(5)
            )
        )
        for k in steps_tried
    },
}
for name, row in accelerated.items():
    print(f"{name:10s}", "  ".join(f"{k:3d}: {value:.4f}" for k, value in row.items()))

# %% [markdown]
# ## A step further: higher order
#
# Deterministic DDIM is Euler's rule for an ordinary differential equation, and its error halves when
# the number of steps doubles. Better rules for the same equation need far fewer evaluations of the
# network; Heun's spends two a step, DPM-Solver++(2M) remembers the last one instead.

# %%
continuous = GaussianMixtureOracle.prince(GaussianProcess(LinearVP()))
solvers = {"DDIM": (DDIM(), 1), "Heun": (Heun(), 2), "DPM-Solver++(2M)": (DPMSolverPP(), 1)}
evaluations = (20, 40, 80, 160)
reference = sample(
    continuous.process, continuous, like, sampler=Heun(), spacing="log_snr", z=start, steps=400
)
by_solver = {}
for name, (solver, cost) in solvers.items():
    by_solver[name] = {
        nfe: float(
            (
                sample(
                    continuous.process,
                    continuous,
                    like,
                    sampler=solver,
                    spacing="log_snr",
                    z=start,
                    steps=nfe // cost,
                )
                - reference
            )
            .abs()
            .mean()
        )
        for nfe in evaluations
    }
orders = {name: empirical_order(row) for name, row in by_solver.items()}

fig, ax = plt.subplots(figsize=(6, 3))
for name, row in by_solver.items():
    ax.loglog(list(row), list(row.values()), "o-", label=f"{name}, order {orders[name]:.2f}")
ax.set(xlabel="evaluations of the denoiser", ylabel="distance from the exact flow")
ax.legend(frameon=False)
fig.tight_layout()

# %% [markdown]
# ## Backwards through the deterministic map
#
# Without noise the map can be inverted: `ddim_encode` takes data to the latent $z_T$ that produces
# it.

# %%
x, _ = oracle.sample(n, KeyedNoise(6))
round_trip = {}
for k in (50, 100, 200):
    z = ddim_encode(continuous.process, continuous, x, steps=k, spacing="log_snr")
    back = sample(
        continuous.process, continuous, x, sampler=DDIM(), z=z, steps=k, spacing="log_snr"
    )
    round_trip[k] = float((back - x).abs().mean())
print("mean error of the round trip:", {k: round(v, 4) for k, v in round_trip.items()})

# %% [markdown]
# ## A slip that looks like an improvement
#
# The original notebook fits its model number $t$ on $z_t$, counting from 0, uses model $t-1$ for the
# step from $t$, and takes the coefficients of that step from the nodes $t+1$ and $t$: model and
# coefficients are two nodes apart. What does it cost?


# %%
def slipped_ddim(num_nodes: int, steps: int, slip: bool) -> torch.Tensor:
    schedule = DiscreteSchedule.linear(num_nodes)
    exact = GaussianMixtureOracle.prince(GaussianProcess(schedule))
    # One more node than there are, as the notebook's formula for alpha happily provides.
    alpha_bar = torch.cat([schedule.alpha_bar, schedule.alpha_bar[-1:] * (1 - schedule.betas[-1])])
    z = start
    for later, earlier in pairwise(
        (schedule.grid(steps, "uniform") * num_nodes).round().int().tolist()
    ):
        model = max(later - 1, 1) if slip else later
        eps = exact(z, torch.tensor(model / num_nodes, dtype=F64)).eps
        a_t, a_s = alpha_bar[later + slip], alpha_bar[earlier + slip]
        z = a_s.sqrt() * (z - (1 - a_t).sqrt() * eps) / a_t.sqrt() + (1 - a_s).sqrt() * eps
    return z


slips = {}
for num_nodes, steps in ((20, 20), (100, 100), (100, 20), (1000, 20)):
    right, wrong = (slipped_ddim(num_nodes, steps, slip) for slip in (False, True))
    slips[num_nodes, steps] = (w1(right), w1(wrong), float(right.std()), float(wrong.std()))
    print(
        "T = {:4d}, {:3d} steps: W1 {:.3f} -> {:.3f}, sd {:.3f} -> {:.3f}".format(
            num_nodes, steps, *slips[num_nodes, steps]
        )
    )
sd_truth = float(truth.std())
print(f"true sd {sd_truth:.3f}")

# %% [markdown]
# With $T=20$ the error more than triples. With $T=1000$ nothing is to be seen. And in between the
# slip can even *lower* the distance, because DDIM with few steps makes the samples too narrow and
# the slip makes them too wide. A score of samples therefore does not find such an error; a test of
# an exact identity, such as the one of "One step, two ways" above, does. Nor can it happen here: a
# discrete schedule rejects times that are no node, and a step is told both its ends.

# %%
assert monotone
assert eta_distance[0.0] < 0.02
assert same_step < 1e-12
ours = sample(process, oracle, like, sampler=DDIM(), z=start)
assert float((slipped_ddim(T, T, slip=False) - ours).abs().max()) < 1e-9
assert accelerated["DDIM"][100] < accelerated["DDIM"][20] < accelerated["DDIM"][5]
assert abs(orders["DDIM"] - 1) < 0.15
assert orders["Heun"] > 1.6
assert orders["DPM-Solver++(2M)"] > 1.6
assert by_solver["DPM-Solver++(2M)"][40] < 0.2 * by_solver["DDIM"][40]
assert round_trip[200] < 0.6 * round_trip[100] < 0.4 * round_trip[50]
assert slips[20, 20][1] > 3 * slips[20, 20][0]
assert abs(slips[1000, 20][1] - slips[1000, 20][0]) < 0.01
assert slips[100, 20][1] < slips[100, 20][0]
assert np.isclose(sd_truth, 1.083, atol=0.002)
