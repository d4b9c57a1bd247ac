# %% [markdown]
# # Docking: diffusion of poses
#
# DiffDock finds how a ligand sits in a receptor by diffusing the *pose*: where the centroid is
# (Gaussian), how the ligand is turned (SO(3)), its torsions (circles). On proteins the right answer
# is one crystal structure. Here the receptor is a toy with a known smooth energy, so the right
# answer is a whole law, Boltzmann's, with every pocket's share and every width.
#
# The ligand has five atoms and one torsion. Two pockets hold its atoms by springs; the second one
# costs .8 kT more. Given the pocket, the place is Gaussian; rotation and torsion depend on each
# other, and their law is known by quadrature.

# %%
import math

import matplotlib.pyplot as plt
import torch
from torch import nn

from scidiffusion.core import (
    GaussianProcess,
    KeyedNoise,
    LinearVP,
    NetworkDenoiser,
    ProductLoss,
    ProductProcess,
    ScoreMatchingLoss,
    SimpleLoss,
    SO3Process,
    TorusProcess,
    VESchedule,
)
from scidiffusion.core.rotations import geodesic_distance
from scidiffusion.nn import ResidualMLP
from scidiffusion.samplers import Ancestral, sample
from scidiffusion.toy import SpringDocking
from scidiffusion.training import TrainConfig, train

docking = SpringDocking()
poses = docking.sample(4000)
print("populations of the pockets:", docking.populations.numpy().round(3))
print("mean energy of Boltzmann's poses:", round(float(docking.energy(poses).mean()), 2), "kT")

# %% [markdown]
# ## One process for three spaces
#
# `ProductProcess` noises place, turn and torsion at a common time, each by the rule of its own
# space. The network sees the whole noisy pose and answers for the three parts: noise of the place,
# a rotation vector, the slope of the torsion. The receptor stands still, so nothing has to be
# equivariant here.


# %%
class PoseNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = ResidualMLP(14, 7, width=96, blocks=2)

    def forward(self, z, time, cond=None):
        angle = z["torsion"]
        seen = torch.cat([z["place"], z["turn"].flatten(1), angle.sin(), angle.cos()], 1)
        place, turn, torsion = self.mlp(seen, time).split([3, 3, 1], 1)
        return {"place": place, "turn": turn, "torsion": torsion}


process = ProductProcess(
    {
        "place": GaussianProcess(LinearVP()),
        "turn": SO3Process(VESchedule(0.03, 2.0)),
        "torsion": TorusProcess(VESchedule(0.03, 3.0)),
    }
)
torch.manual_seed(0)
denoiser = NetworkDenoiser(PoseNetwork(), process)
train(
    denoiser,
    ProductLoss(
        {"place": SimpleLoss(), "turn": ScoreMatchingLoss(), "torsion": ScoreMatchingLoss()}
    ),
    {name: part.float() for name, part in poses.items()},
    config=TrainConfig(
        max_steps=450, batch_size=96, lr=6e-3, warmup_steps=30, ema_decay=0.98, progress=False
    ),
)

# %% [markdown]
# ## Poses from noise
#
# Every start is a random place, a uniform orientation, a uniform torsion. Compared with exact draws
# from the law: the population of the first pocket; the mean angle between the ligand and the best
# pose of its pocket, in radians; the mean cosine of the torsion, counted from that pose; the energy.

# %%
n = 1500
like = {name: part[:n].float() for name, part in poses.items()}
drawn = sample(process, denoiser, like, sampler=Ancestral(), steps=60, noise=KeyedNoise(1))
start = process.prior(like, KeyedNoise(1).child("prior"))
truth = docking.sample(n, random_state=1)


def from_best(pose):
    pocket = docking.pocket_energies(pose).argmin(1)
    best = {name: part[pocket] for name, part in docking.best_poses.items()}
    tilt = geodesic_distance(best["turn"], pose["turn"].double())
    return tilt, torch.cos(pose["torsion"] - best["torsion"])


sets = {"Boltzmann": truth, "diffusion": drawn, "prior": start}
figures = {}
for name, pose in sets.items():
    energy = docking.energy(pose).double()
    tilt, cosine = from_best(pose)
    figures[name] = {
        "first pocket": float((docking.pocket_energies(pose).argmin(1) == 0).double().mean()),
        "mean tilt": float(tilt.mean()),
        "mean cosine": float(cosine.mean()),
        "mean energy": float(energy.mean()),
        "below 10 kT": float((energy < 10).double().mean()),
    }
    print(f"{name:10s}", {key: round(value, 3) for key, value in figures[name].items()})

# %%
fig, panels = plt.subplots(1, 3, figsize=(10, 2.8))
for axis, panel in zip((0, 2), panels, strict=False):
    panel.plot(*truth["place"][:, [0, axis or 1]].T, ".", ms=2, color="#c7d5e0")
    panel.plot(*drawn["place"][:, [0, axis or 1]].T, ".", ms=1, color="#d1495b")
    panel.set(xlabel="x / Å", ylabel="yz"[axis // 2] + " / Å")
angle = torch.linspace(-math.pi, math.pi, 300, dtype=torch.float64)
panels[2].hist(drawn["torsion"][:, 0], 50, density=True, color="#c7d5e0")
panels[2].plot(angle, docking.torsion_density(angle), color="#d1495b")
panels[2].set(xlabel="torsion / radians")
fig.tight_layout()

# %% [markdown]
# Populations, tilts and torsions come out nearly right, although the network has seen poses only and
# never the energy. The mean energy is the strictest figure: each of seven degrees of freedom that is
# blurred adds to it, and the excess of a kT or so, of the thirty-seven that the walk takes away, is
# what a few seconds of training leave. On real receptors nobody knows the law; that is why such a
# check belongs to a toy.

# %%
law, ours, prior = (figures[name] for name in sets)
density = docking.torsion_density(angle)
assert abs(float(torch.trapezoid(density, angle)) - 1) < 1e-6
assert abs(law["first pocket"] - float(docking.populations[0])) < 0.05
assert abs(ours["first pocket"] - float(docking.populations[0])) < 0.08
assert abs(ours["mean tilt"] - law["mean tilt"]) < 0.15 < prior["mean tilt"] - law["mean tilt"]
assert abs(ours["mean cosine"] - law["mean cosine"]) < 0.12
assert abs(prior["mean cosine"]) < 0.1 < 0.25 < ours["mean cosine"]
assert ours["mean energy"] - law["mean energy"] < 2.5 < prior["mean energy"] - law["mean energy"]
assert ours["below 10 kT"] > 0.8 > 0.2 > prior["below 10 kT"]
