# %% [markdown]
# # Orientations: diffusion of rotations
#
# How is a molecule turned, a crystal grain, a particle in a cryo-EM image? An orientation is a
# rotation matrix, and rotations cannot be added: noise must *turn*. The part of the Gaussian is
# played by IGSO(3), the law of Brownian motion on rotations. Everything here has an exact
# counterpart, so that every figure is a measurement against the truth.

# %%
import math

import matplotlib.pyplot as plt
import torch

from scidiffusion.core import (
    KeyedNoise,
    NetworkDenoiser,
    ScoreMatchingLoss,
    SO3Process,
    VESchedule,
)
from scidiffusion.core.rotations import exp_so3, geodesic_distance
from scidiffusion.core.so3 import igso3_angle_density
from scidiffusion.nn import ResidualMLP
from scidiffusion.samplers import Ancestral, sample
from scidiffusion.testing import IGSO3MixtureOracle, wasserstein_1
from scidiffusion.training import TrainConfig, train

process = SO3Process(VESchedule(0.03, 2.0))
axes = torch.tensor([[0.5, 0.0, 0.0], [0.0, 2.2, 0.0], [0.0, 0.0, -2.6]], dtype=torch.float64)
weights, widths = [0.5, 0.3, 0.2], [0.25, 0.2, 0.3]
law = IGSO3MixtureOracle(weights, exp_so3(axes), widths, process)
centre = law.means[0]
x = law.sample(8000, KeyedNoise(0))

# %% [markdown]
# ## Noise
#
# The data are three clouds of orientations, with half, three and two tenths of the mass. Noising
# turns each by a random rotation whose angle grows with $\sigma_t$; at $t=1$ nothing of the data is
# left and the angle to any fixed rotation has the density $(1-\cos\omega)/\pi$ of *uniform*
# rotations. In between, the density of the angle is a sum over the characters of the group
# (`IGSO3MixtureOracle.angle_density`). Histograms are draws, lines the formula.
#
# The schedule ends at 2 radians, .0015 nats from uniform. More would cost: scores fall as
# $e^{-\sigma^2}$, and at the default end of $\pi$ a loss relative to them weighs nothing else.

# %%
angle = torch.linspace(0, math.pi, 400, dtype=torch.float64)
fig, panels = plt.subplots(1, 4, figsize=(10, 2.4), sharey=True)
for panel, t in zip(panels, (0.0, 0.4, 0.6, 1.0), strict=True):
    z = process.q_sample(x, torch.tensor(max(t, 1e-6)), KeyedNoise(1)).z
    panel.hist(geodesic_distance(centre, z), 60, range=(0, math.pi), density=True, color="#c7d5e0")
    panel.plot(angle, law.angle_density(angle, centre, t), color="#d1495b")
    panel.set(title=f"t = {t:g}", xlabel="angle to the first centre")
fig.tight_layout()

# %% [markdown]
# ## A learned score
#
# To go back one needs the score: at a noisy orientation, the rotation vector along which the density
# rises. `ScoreMatchingLoss` compares the network's answer with the score of the known kernel
# $q(z_t\mid x)$, relative to its mean square. A perceptron on the nine entries of the matrix does.

# %%
torch.manual_seed(0)
denoiser = NetworkDenoiser(ResidualMLP(9, 3, width=64, blocks=2), process)
train(
    denoiser,
    ScoreMatchingLoss(),
    x.float(),
    config=TrainConfig(max_steps=400, batch_size=64, lr=4e-3, ema_decay=0.99, progress=False),
)

# %% [markdown]
# The loss itself proves little, as most of it is noise that nobody can predict. The exact score
# tells what is missing: the share of its mean square that the network gets wrong.

# %%
fresh = law.sample(1000, KeyedNoise(2)).float()
missing = {}
for t in (0.3, 0.5, 0.7, 0.9):
    time = torch.tensor(t)
    z = process.q_sample(fresh, time, KeyedNoise(3)).z
    truth = law(z, time).score
    with torch.no_grad():
        missing[t] = float(((denoiser(z, time).score - truth) ** 2).sum() / (truth**2).sum())
print("share of the score missed:", {t: round(share, 3) for t, share in missing.items()})

# %% [markdown]
# ## Back to orientations
#
# Sampling is a walk: turn along the score, then by a little noise. We do it with the exact and with
# the learned score, and look at the angle to the first centre and at how many orientations end in
# each cloud.


# %%
def draw(score):
    like = torch.empty(2000, 3, 3)
    return sample(
        process, score, like, sampler=Ancestral(), steps=50, spacing="log_snr", noise=KeyedNoise(4)
    )


def shares(rotations):
    near = torch.stack([geodesic_distance(mean.to(rotations), rotations) for mean in law.means])
    return near.argmin(0).bincount(minlength=3) / len(rotations)


def distance(rotations):
    reference = law.sample(4000, KeyedNoise(5))
    found = geodesic_distance(centre.to(rotations), rotations)
    return wasserstein_1(found, geodesic_distance(centre, reference))


ways = {"data": x[:2000], "exact score": draw(law), "learned score": draw(denoiser)}
fig, panels = plt.subplots(1, 3, figsize=(9, 2.6), sharey=True)
for panel, (name, rotations) in zip(panels, ways.items(), strict=True):
    print(
        f"{name:14s} shares {shares(rotations).numpy().round(2)}, W1 {distance(rotations):.3f} rad"
    )
    found = geodesic_distance(centre.to(rotations), rotations)
    panel.hist(found, 60, range=(0, math.pi), density=True, color="#c7d5e0")
    panel.plot(angle, law.angle_density(angle, centre), color="#d1495b")
    panel.set(title=name, xlabel="angle to the first centre")
fig.tight_layout()

# %% [markdown]
# With the exact score the walk is as near to the law as other draws from it are; what the learned
# score adds to the distance is the few percent that it misses. The same process turns a whole ligand
# on the page on docking and every residue on the page on rigid frames.

# %%
clean = igso3_angle_density(angle, widths[0])
single = IGSO3MixtureOracle([1.0], centre[None], widths[:1], process)
assert torch.allclose(single.angle_density(angle, centre), clean, atol=1e-10)
assert max(missing.values()) < 0.15
assert float(process.prior_divergence(x[:1])) < 0.002
for name, rotations in ways.items():
    tolerance = 0.07 if name == "learned score" else 0.04
    assert float((shares(rotations) - torch.tensor(weights)).abs().max()) < tolerance, name
    assert distance(rotations) < 2 * tolerance, name
