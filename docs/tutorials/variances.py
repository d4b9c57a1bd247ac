# %% [markdown]
# # How uncertain a step should be
#
# The reverse step is a normal distribution, and its variance is a choice: $\beta_t$, which is right
# for data that are noise; the posterior's $\tilde\beta_t$, right for a single datum; the best one,
# $\tilde\beta_t + c^2\,\mathrm{Var}[x\mid z_t]$, which one cannot know; or a learned one between the
# first two (Nichol & Dhariwal 2021, eqs. 15 and 16). Samples of many steps hardly tell them apart.
# Likelihoods do. The data are the mixture of Prince's notebooks, whose log-density is known.

# %%
import matplotlib.pyplot as plt
import torch

from scidiffusion.core import (
    DiscreteSchedule,
    GaussianProcess,
    HybridLoss,
    KeyedNoise,
    NetworkDenoiser,
    elbo,
)
from scidiffusion.nn import FourierCoordinates, ResidualMLP
from scidiffusion.testing import GaussianMixtureOracle
from scidiffusion.training import TrainConfig, train


def mixture(steps, variance):
    """Return the exact denoiser of a chain."""
    process = GaussianProcess(DiscreteSchedule.linear(steps), variance=variance)
    return GaussianMixtureOracle.prince(process)


x, _ = mixture(20, "beta").sample(4000, KeyedNoise(1))
truth = float(mixture(20, "beta").log_prob(x).mean())

# %% [markdown]
# ## With the exact mean
#
# Even with the best prediction of the mean a bound of few steps is loose, and how loose is decided
# by the variance.

# %%
chains = [10, 20, 50, 200]
bound = {
    kind: [float(elbo(mixture(steps, kind), x).total.mean()) for steps in chains]
    for kind in ("beta", "posterior", "optimal")
}
fig, ax = plt.subplots(figsize=(6, 3))
for kind, values in bound.items():
    print(f"{kind:10s}", "  ".join(f"T={t}: {v:.2f}" for t, v in zip(chains, values, strict=True)))
    ax.plot(chains, values, "o-", label=kind)
ax.axhline(truth, color="grey", lw=1, label="log p(x)")
ax.set(xscale="log", xlabel="steps T", ylabel="bound, nats", ylim=(-6, -0.5))
ax.legend()
print(f"log p(x) {truth:.2f}")

for beta, posterior, best in zip(*bound.values(), strict=True):
    assert posterior < beta <= best + 0.02
    assert best < truth + 0.02

# %% [markdown]
# ## With a network
#
# A network of two outputs, the noise and where between the two fixed variances the step's should
# be, learns by the hybrid objective: the mean by the squared error, the variance by the bound.

# %%
STEPS = 50
process = GaussianProcess(DiscreteSchedule.linear(STEPS), variance="learned")
torch.manual_seed(0)
network = ResidualMLP(1, 2, width=64, blocks=2, embed_dim=32, coordinates=FourierCoordinates())
denoiser = NetworkDenoiser(network, process, learned_variance=True)
data, _ = mixture(20, "beta").sample(20_000, KeyedNoise(2))
train(
    denoiser,
    HybridLoss(weight=0.1),
    data.float(),
    config=TrainConfig(max_steps=800, batch_size=512, lr=3e-3, ema_decay=0.99, progress=False),
)


class Fixed:
    """The trained mean with another variance."""

    def __init__(self, kind):
        self.process = GaussianProcess(process.schedule, variance=kind)

    def __call__(self, z, t, cond=None):
        return denoiser(z, t, cond)


trained = {
    kind: float(elbo(Fixed(kind), x.float()).total.mean()) for kind in ("beta", "posterior")
}
trained["learned"] = float(elbo(denoiser, x.float()).total.mean())
for kind, value in trained.items():
    print(f"trained mean, {kind:10s} {value:.2f} nats")

assert trained["learned"] > max(trained["beta"], trained["posterior"])
assert trained["learned"] < truth + 0.02
