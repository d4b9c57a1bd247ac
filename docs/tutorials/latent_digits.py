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
# the label, and for features in which the Frechet distance to held-out digits is measured. Real digits of
# the training set are at some distance, too: the held-out ones are of other writers.

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
scores["real digits"] = score(train[:400], train_y[:400])
for name, (precision, distance) in scores.items():
    print(f"{name:12s} label as asked {precision:.1%}, Frechet distance {distance:.2f}")
plot_images(
    np.concatenate([images[::40] for images in drawn.values()]), columns=10, value_range=(0, 16)
)

# %% [markdown]
# Guidance passes through as well: clearer digits, fewer kinds of them.

# %%
for name, model in models.items():
    guided = model.sample(
        400, conditions=labels, guidance_scale=3.0, steps=STEPS, random_state=1
    )  # fmt: skip
    precision, distance = score(guided, labels)
    print(f"{name:12s} guided: label as asked {precision:.1%}, Frechet distance {distance:.2f}")

# %% [markdown]
# ## What a draw costs
#
# Counted in floating-point operations, which do not depend on what else a machine does. An estimator
# computes whole blocks of rows.


# %%
def operations(name):
    """Operations of a draw: of a block of rows, divided by their number."""
    model = models[name]
    block = getattr(model, "estimator_", model).compute_block
    with FlopCounterMode(display=False) as counter:
        model.sample(block, conditions=7, steps=STEPS, random_state=0)
    return counter.get_total_flops() / block


cost = {name: operations(name) for name in models}
for name, number in cost.items():
    print(f"{name:12s} {number / 1e6:6.1f} million operations a digit")
print(f"ratio: {cost['pixels'] / cost['components']:.1f}")
