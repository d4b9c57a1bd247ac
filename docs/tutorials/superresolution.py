# %% [markdown]
# # Super-resolution, and cascades of it
#
# Large fields are drawn in stages: a coarse one first, then finer ones given the coarse one (Ho et
# al. 2022, "Cascaded diffusion models"). Here the fine field is a Gaussian process at 32 sites, the
# coarse one its means over four sites each. So the law of the fine field given the coarse one is
# known: its mean is kriging, its spread what kriging leaves open.

# %%
import matplotlib.pyplot as plt
import torch

from scidiffusion.core import GaussianProcess, KeyedNoise, LinearVP, NetworkDenoiser, SimpleLoss
from scidiffusion.images.unet import UNet
from scidiffusion.samplers import DPMSolverPP, sample
from scidiffusion.training import TrainConfig, train

SITES, COARSE, BLUR = 32, 8, 0.5
place = torch.linspace(0, 1, SITES)
covariance = torch.exp(-0.5 * ((place[:, None] - place) / 0.06) ** 2) + 1e-3 * torch.eye(SITES)
means = torch.kron(torch.eye(COARSE), torch.full((1, SITES // COARSE), COARSE / SITES))
root = torch.linalg.cholesky(covariance)


def fine(n, seed):
    """Draw fine fields (n, 32)."""
    return torch.randn(n, SITES, generator=torch.Generator().manual_seed(seed)) @ root.T


def kriging(noise):
    """The gain and the covariance of the fine field given its means with noise of some size."""
    seen = means @ covariance @ means.T + noise**2 * torch.eye(COARSE)
    gain = covariance @ means.T @ torch.linalg.inv(seen)
    return gain, covariance - gain @ means @ covariance


# %% [markdown]
# ## One network for the fine field given the coarse one
#
# The coarse field is repeated to the fine grid and shown to a U-Net as a second channel. It is shown
# with noise of a random size, which the network is told as a third channel: *noise-conditioning
# augmentation*. A second network is shown coarse fields without noise only.


# %%
class GivenCoarse(torch.nn.Module):
    """A U-Net that sees the coarse field, (B, 8), and the size of its noise, (B, 1), in `cond`."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet(1, 3, 1, width=24, multipliers=(1, 2))

    def forward(self, z, time, cond):
        shown = cond[:, :COARSE].repeat_interleave(SITES // COARSE, 1)
        noise = cond[:, COARSE:].expand(-1, SITES)
        return self.unet(torch.stack([z[:, 0], shown, noise], 1), time)


def learned(augmented):
    """Train on fine fields and their means."""
    x, generator = fine(6000, 0), torch.Generator().manual_seed(1)
    size = BLUR * torch.rand(len(x), 1, generator=generator) * augmented
    coarse = x @ means.T + size * torch.randn(len(x), COARSE, generator=generator)
    torch.manual_seed(0)
    denoiser = NetworkDenoiser(GivenCoarse(), GaussianProcess(LinearVP()))
    config = TrainConfig(
        max_steps=500, batch_size=128, lr=3e-3, ema_decay=0.99, progress=False, warmup_steps=20
    )
    train(denoiser, SimpleLoss(), x[:, None], cond=torch.cat([coarse, size], 1), config=config)
    return denoiser.eval()


def refined(denoiser, coarse, told):
    """Draw a fine field for each coarse one."""
    cond = torch.cat([coarse, torch.full((len(coarse), 1), told)], 1)
    like = torch.empty(len(coarse), 1, SITES)
    return sample(
        denoiser.process, denoiser, like, sampler=DPMSolverPP(), steps=20,
        noise=KeyedNoise(0), cond=cond,
    )[:, 0]  # fmt: skip


models = {"augmented": learned(True), "plain": learned(False)}

# %% [markdown]
# ## Given one coarse field: against kriging

# %%
truth = fine(1, 9)
coarse = (truth @ means.T).expand(200, -1)
gain, left = kriging(0.0)
drawn = refined(models["augmented"], coarse, 0.0)
off = float((drawn.mean(0) - coarse[0] @ gain.T).square().mean().sqrt())
wide = float(drawn.std(0).mean() / left.diagonal().sqrt().mean())
print(
    f"mean: {off:.2f} off kriging, of a field of size 1; spread: {wide:.2f} times what it should be"
)

fig, ax = plt.subplots(figsize=(7, 3))
ax.plot(place, drawn[:12].T, lw=0.6, color="C1")
ax.plot(place, truth[0], "k", lw=1.2, label="the field")
ax.step(place, coarse[0].repeat_interleave(SITES // COARSE), where="mid", label="its means")
ax.legend()

assert off < 0.15
assert 0.6 < wide < 1.4

# %% [markdown]
# ## In a cascade the coarse field is itself drawn, and not quite right
#
# A stage that has only seen true coarse fields believes whatever it is given. Here the first stage
# errs by noise of size .4. The plain network makes fine fields of it that follow every error; the
# augmented one, told how far to trust, smooths them as kriging from noisy means would. Judged is
# the covariance of what comes out, which should be that of the fields.

# %%
faulty = fine(600, 5) @ means.T
faulty = faulty + 0.4 * torch.randn(faulty.shape, generator=torch.Generator().manual_seed(6))


def error(X):
    """How far the covariance of fields is from the true one, relatively."""
    return float(torch.linalg.norm(torch.cov(X.T) - covariance) / torch.linalg.norm(covariance))


result = {
    "true fields": error(fine(600, 7)),
    "augmented, told .4": error(refined(models["augmented"], faulty, 0.4)),
    "augmented, told 0": error(refined(models["augmented"], faulty, 0.0)),
    "plain": error(refined(models["plain"], faulty, 0.0)),
}
for name, value in result.items():
    print(f"{name:20s} error of the covariance {value:.2f}")

assert result["augmented, told .4"] < 0.8 * result["plain"]
assert result["augmented, told .4"] < result["augmented, told 0"]
