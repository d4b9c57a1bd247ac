# %% [markdown]
# # Inverting, blending, varying
#
# DDIM with no noise is a map: every datum has one latent $z_1$, and walking the equation the other way
# finds it (Song, Meng & Ermon 2021, section 4.3). Latents can be blended, and a datum that is noised
# only part of the way and denoised again comes back as a variation of itself (Meng et al. 2022,
# "SDEdit"). The data are random curves, a Gaussian process and its mirror image, with the exact
# denoiser.

# %%
import matplotlib.pyplot as plt
import torch

from scidiffusion.core import GaussianProcess, KeyedNoise, LinearVP
from scidiffusion.samplers import DDIM, DPMSolverPP, ddim_encode, sample, spherical_blend
from scidiffusion.testing import GaussianMixtureOracle

F64 = torch.float64
SITES = 24
place = torch.linspace(0, 1, SITES, dtype=F64)
covariance = 0.15 * torch.exp(-0.5 * ((place[:, None] - place) / 0.15) ** 2)
covariance = covariance + 1e-3 * torch.eye(SITES)
arch = torch.sin(torch.pi * place)
process = GaussianProcess(LinearVP())
curves = GaussianMixtureOracle(
    [0.5, 0.5], torch.stack([arch, -arch]), covariance.expand(2, -1, -1), process
)
like = torch.empty(64, SITES, dtype=F64)
data = sample(process, curves, like, sampler=DPMSolverPP(), steps=60, noise=KeyedNoise(0))

# %% [markdown]
# ## There and back
#
# Encoding and decoding each make an error of first order in the step. It falls as the number of
# steps grows; what is encoded is a draw of $N(0, I)$.


# %%
def decoded(z, steps):
    return sample(process, curves, z, sampler=DDIM(), steps=steps, noise=KeyedNoise(0), z=z)


error = {}
for steps in (25, 100, 400):
    z = ddim_encode(process, curves, data, steps=steps)
    error[steps] = float((decoded(z, steps) - data).square().mean().sqrt())
    print(f"{steps:4d} steps: root mean square error {error[steps]:.4f}")
print(f"latents: mean {float(z.mean()):.2f}, standard deviation {float(z.std()):.2f}")

assert error[400] < 0.01 < error[25]
assert 2.5 < error[100] / error[400] < 6

# %% [markdown]
# ## Blending
#
# Between an arch and its mirror image, half the sum of the two curves is nearly flat, which no datum
# is. Halfway between their latents (on the sphere, where Gaussian draws of many dimensions lie) is
# again a latent, and decodes to something like a datum.

# %%
up, down = data[(data @ arch) > 0][0], data[(data @ arch) < 0][0]
latents = ddim_encode(process, curves, torch.stack([up, down]), steps=200)
shares = torch.linspace(0, 1, 7, dtype=F64)
blend = [spherical_blend(latents[:1], latents[1:], float(share)) for share in shares]
between = decoded(torch.cat(blend), 200)
plain = (1 - shares[:, None]) * up + shares[:, None] * down

fig, axes = plt.subplots(1, 2, figsize=(8, 3), sharey=True)
for ax, rows, title in zip(
    axes, (plain, between), ("sums of curves", "sums of latents"), strict=True
):
    ax.plot(place, rows.T, lw=1)
    ax.set(title=title, xlabel="place")

size = (data @ arch).abs() / (arch @ arch)  # 1 for an arch, 0 for a flat curve
print(f"size: of data {float(size.quantile(0.05)):.2f} to {float(size.quantile(0.95)):.2f}, halfway "
      f"of curves {abs(float(plain[3] @ arch / (arch @ arch))):.2f}, halfway of latents "
      f"{abs(float(between[3] @ arch / (arch @ arch))):.2f}")  # fmt: skip
assert abs(float(plain[3] @ arch / (arch @ arch))) < float(size.min())
assert abs(float(between[3] @ arch / (arch @ arch))) > 4 * abs(
    float(plain[3] @ arch / (arch @ arch))
)

# %% [markdown]
# ## Varying
#
# Noised to time t and walked back, a curve keeps what noise of that level has not hidden: at first
# its wiggles change, then whether it is an arch or its mirror image.

# %%
kept, moved = {}, {}
for t in (0.1, 0.3, 0.6, 0.9):
    time = torch.tensor(t, dtype=F64)
    z = process.q_sample(up.expand(200, -1), time, KeyedNoise(1)).z
    grid = torch.linspace(t, 0, 41, dtype=F64)
    varied = sample(
        process, curves, z, sampler=DPMSolverPP(), grid=grid, noise=KeyedNoise(2), z=z
    )  # fmt: skip
    kept[t] = float(((varied @ arch) > 0).double().mean())
    moved[t] = float((varied - up).square().mean().sqrt())
    print(f"t = {t}: still an arch {kept[t]:.0%}, distance {moved[t]:.2f}")

assert moved[0.1] < moved[0.3] < moved[0.6] < moved[0.9]
assert kept[0.1] == 1.0
assert kept[0.9] < 0.75
