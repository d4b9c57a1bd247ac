# %% [markdown]
# # Steering: by a classifier, and without one
#
# A model of $p(z)$ and a model of $p(y\mid z_t)$ make one of $p(z\mid y)$: the score is the sum of
# theirs (Dhariwal & Nichol 2021). Or one network learns both scores, and steering is their
# difference (Ho & Salimans 2022). This page steers towards one component of the mixture of Prince's
# notebooks, where everything is known: what the target is, what the score is, and what the perfect
# classifier says.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.stats import norm, wasserstein_distance

from scidiffusion.core import GaussianProcess, KeyedNoise, LinearVP
from scidiffusion.guidance import ClassifierFreeGuidance, ClassifierGuidance
from scidiffusion.samplers import DPMSolverPP, sample
from scidiffusion.testing import GaussianMixtureOracle

F64 = torch.float64
process = GaussianProcess(LinearVP())
oracle = GaussianMixtureOracle.prince(process)
LABEL, MEAN, STD = 2, 0.45, 0.525  # the broadest component; 65 % of the data are others


def exact(z, t, label):
    """log p(label | z_t), by Bayes' rule."""
    return oracle.log_class(z, t, label)


# %% [markdown]
# ## With the exact classifier, guidance of scale 1 is the conditional score

# %%
z = torch.linspace(-3, 3, 200, dtype=F64)[:, None]
label = torch.full((200,), LABEL)
guided = ClassifierGuidance(oracle, exact, 1.0)
apart = max(
    float((guided(z, t, label).eps - oracle(z, t, label).eps).abs().max())
    for t in (torch.tensor(value, dtype=F64) for value in (0.05, 0.3, 0.6, 0.95))
)
print(f"largest difference of eps: {apart:.1e}")
assert apart < 1e-10

# %% [markdown]
# ## A classifier must know noise
#
# Two small networks learn to tell the components apart: one from clean data, as classifiers
# usually do, one from noisy states and their time. On clean data they are equally good.


# %%
class Classifier(torch.nn.Module):
    """Logits of the four components from a state and its time."""

    def __init__(self, noisy: bool) -> None:
        super().__init__()
        self.noisy = noisy
        self.net = torch.nn.Sequential(
            torch.nn.Linear(13, 64), torch.nn.SiLU(), torch.nn.Linear(64, 64), torch.nn.SiLU(),
            torch.nn.Linear(64, 4),
        )  # fmt: skip

    def forward(self, z, t):
        t = t.reshape(-1, 1).expand(len(z), 1).to(z) if self.noisy else torch.zeros_like(z)
        waves = [f(k * z) for k in (1.0, 2.0, 4.0) for f in (torch.sin, torch.cos)]
        times = [f(k * t) for k in (1.0, 3.0) for f in (torch.sin, torch.cos)]
        return self.net(torch.cat([z, t, *waves, *times, t * z], 1))


def trained(noisy):
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = Classifier(noisy)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    clean = torch.tensor([1.5, -0.216, 0.45, -1.875])
    width = torch.tensor([0.3, 0.15, 0.525, 0.075])
    for _ in range(600):
        kind = torch.multinomial(oracle.weights.float(), 512, True, generator=generator)
        x = clean[kind] + width[kind] * torch.randn(512, generator=generator)
        t = torch.rand(512, generator=generator) if noisy else torch.zeros(512)
        marginal = process.schedule.marginal(t.double())
        noise = torch.randn(512, generator=generator)
        state = marginal.scale.float() * x + marginal.std.float() * noise if noisy else x
        loss = torch.nn.functional.cross_entropy(model(state[:, None], t), kind)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return lambda z, t, y: model(z.float(), t.float()).log_softmax(1).gather(1, y[:, None])[:, 0]


def drawn(denoiser, n=4000, steps=40):
    return sample(
        process, denoiser, torch.empty(n, 1, dtype=F64), sampler=DPMSolverPP(), steps=steps,
        noise=KeyedNoise(0), cond=torch.full((n,), LABEL),
    )[:, 0].numpy()  # fmt: skip


target = norm(MEAN, STD).ppf((np.arange(4000) + 0.5) / 4000)
rules = {
    "exact classifier": ClassifierGuidance(oracle, exact, 1.0),
    "classifier of noisy states": ClassifierGuidance(oracle, trained(True), 1.0),
    "classifier of clean data": ClassifierGuidance(oracle, trained(False), 1.0),
    "classifier-free, scale 1": ClassifierFreeGuidance(oracle, 1.0),
    "no guidance": ClassifierFreeGuidance(oracle, 0.0),
}
distance = {}
for name, rule in rules.items():
    distance[name] = wasserstein_distance(drawn(rule), target)
    print(f"{name:28s} W1 to the component {distance[name]:.3f}")
assert distance["exact classifier"] < 0.03
assert distance["classifier of noisy states"] < 0.1
assert distance["classifier of clean data"] > 2 * distance["classifier of noisy states"]

# %% [markdown]
# The classifier of clean data is sure of itself where it has never been: at high noise its gradients
# push everything one way, and the shape is lost.
#
# ## More guidance: more faithful, less diverse
#
# A scale above 1 draws from no conditional law: density is multiplied by $p(y\mid z_t)^{s-1}$ once
# more at every noise level. What is drawn looks ever more like the class, and ever more alike.

# %%
scales = [0, 1, 2, 4, 8]
certain, spread = [], []
for scale in scales:
    x = drawn(ClassifierFreeGuidance(oracle, float(scale)))
    state = torch.from_numpy(x)[:, None]
    certain.append(float(exact(state, torch.tensor(0.0), torch.tensor(LABEL)).exp().mean()))
    spread.append(x.std())
    print(
        f"scale {scale}: mean p(class | x) {certain[-1]:.2f}, standard deviation {spread[-1]:.3f}"
    )

fig, axes = plt.subplots(1, 2, figsize=(8, 3))
axes[0].plot(scales, certain, "o-")
axes[0].set(xlabel="guidance scale", ylabel="mean p(class | x)")
axes[1].plot(scales, spread, "o-")
axes[1].axhline(STD, color="grey", lw=1)
axes[1].set(xlabel="guidance scale", ylabel="standard deviation")
fig.tight_layout()

assert certain[0] < certain[1] < certain[2] < certain[-1]
assert spread[1] > spread[2] > spread[3] > spread[-1]
