# %% [markdown]
# # Latent diffusion of digits
#
# [Latent diffusion](latent.py) of Gaussian fields is exact, and pays. Handwritten digits are neither
# Gaussian nor large: 8 x 8 pixels. What is gained by learning 16 numbers in place of 64, and what is lost?
# Three models draw digits by label after about the same time of training: two in codes, one in pixels.

# %%
import time

import matplotlib.pyplot  # noqa: F401 -- what makes a notebook show figures
import numpy as np
from torch.utils.flop_counter import FlopCounterMode

from scidiffusion import DensityDiffusion, ImageDiffusion, LatentDiffusion
from scidiffusion.images import (
    ImageJudge,
    frechet_distance,
    label_precision,
    load_digits,
    plot_images,
)
from scidiffusion.latent import AutoEncoder, PCAEncoder

NUMBERS = 16
X, y = load_digits()
train, train_y, held_out, held_out_y = X[:1400], y[:1400], X[1400:], y[1400:]
options = {"random_state": 0, "progress": False}

# %% [markdown]
# ## Three models
#
# `y` goes through `LatentDiffusion` to the estimator of the codes, and so do conditions and guidance
# when digits are drawn. The number of steps is chosen so that each model trains about equally long; the
# learned encoder has to fit in, too.

# %%
models = {
    "components": LatentDiffusion(
        PCAEncoder(NUMBERS), DensityDiffusion(max_steps=1400, batch_size=256, **options)
    ),
    "autoencoder": LatentDiffusion(
        AutoEncoder(NUMBERS, width=128, max_steps=700, **options),
        DensityDiffusion(max_steps=1000, batch_size=256, **options),
    ),
    "pixels": ImageDiffusion(
        width=16, blocks=1, max_steps=250, lr=3e-3, ema_decay=0.99, dropout=0.0, **options
    ),
}
fitting = {}
for name, model in models.items():
    begin = time.process_time()
    model.fit(train, train_y)
    fitting[name] = time.process_time() - begin
    print(f"{name:12s} {fitting[name]:3.0f} s of training")

# %% [markdown]
# What the encoders lose is known before anything is drawn: the squared error of held-out digits after
# encoding and decoding, as a share of their variance.

# %%
lost = {
    name: np.square(models[name].reconstruct(held_out) - held_out).mean() / held_out.var(0).mean()
    for name in ("components", "autoencoder")
}
for name, share in lost.items():
    print(f"{name:12s} {share:.1%} lost by {NUMBERS} numbers")
assert lost["autoencoder"] < lost["components"]

# %% [markdown]
# ## What is drawn
#
# 40 digits of each label at the same number of steps. The judge has seen real digits alone; it is asked for
# the label, and for features in which the Frechet distance to held-out digits is measured. It names 93 % of
# the held-out digits as they are meant. 400 training digits are at some distance from the held-out ones, too:
# those are of other writers.

# %%
STEPS = 25
labels = np.repeat(np.arange(10), 40)
judge = ImageJudge().fit(train, train_y)
real = judge.features(held_out)


def score(images, asked):
    """Share of labels that the judge confirms, and Frechet distance to the held-out digits."""
    precision = label_precision(judge.predict(images), asked)
    return precision, frechet_distance(judge.features(images), real)


drawn = {
    name: model.sample(400, conditions=labels, steps=STEPS, random_state=1)
    for name, model in models.items()
}
scores = {name: score(images, labels) for name, images in drawn.items()}
some = np.random.default_rng(0).permutation(len(train))[:400]
floor = frechet_distance(judge.features(train[some]), real)
for name, (precision, distance) in scores.items():
    print(f"{name:12s} label as asked {precision:.1%}, Frechet distance {distance:.2f}")
print(
    f"of the judge on held-out digits {judge.score(held_out, held_out_y):.1%}; of training digits {floor:.2f}"
)
plot_images(
    np.concatenate([images[::40] for images in drawn.values()]), columns=10, value_range=(0, 16)
)

assert all(precision > 0.9 for precision, _ in scores.values())
assert all(distance < 2 * floor for _, distance in scores.values())
assert scores["pixels"][1] < 0.9 * min(scores["components"][1], scores["autoencoder"][1])

# %% [markdown]
# Labels are obeyed in codes as in pixels. The distance is smallest in pixels: 16 numbers are not all of a
# digit. Guidance passes through `LatentDiffusion` as well: clearer digits, and fewer kinds of them, so that
# the distance grows.

# %%
for name, model in models.items():
    options = {"conditions": labels, "guidance_scale": 3.0, "steps": STEPS, "random_state": 1}
    precision, distance = score(model.sample(400, **options), labels)
    print(f"{name:12s} guided: label as asked {precision:.1%}, Frechet distance {distance:.2f}")
    assert precision >= scores[name][0]
    assert distance > scores[name][1]

# %% [markdown]
# ## What a draw costs
#
# Counted in floating-point operations, which do not depend on what else a machine does. An estimator
# computes whole blocks of rows, so the count is that of a block, divided by its rows. It is without the
# decoding: once a draw, and not at every step.


# %%
def operations(name):
    """Operations a digit of the walk from noise to digit, or to its code."""
    model = getattr(models[name], "estimator_", models[name])
    with FlopCounterMode(display=False) as counter:
        model.sample(model.compute_block, conditions=7, steps=STEPS, random_state=0)
    return counter.get_total_flops() / model.compute_block


cost = {name: operations(name) for name in models}
for name, number in cost.items():
    print(f"{name:12s} {number / 1e6:6.1f} million operations a digit")
ratio = cost["pixels"] / cost["components"]
print(f"a draw in pixels costs {ratio:.0f} times as much")
assert ratio > 15

# %% [markdown]
# At equal time of training, pixels win by quality and codes by the price of a draw. Of 64 pixels the price
# hardly matters; of the 256 cells of [smooth fields](latent.py) codes win by both.
