# %% [markdown]
# # Images: digits by label
#
# `ImageDiffusion` on scikit-learn's handwritten digits, 8 x 8 pixels: fit, draw by label, see what
# guidance does, complete half an image, and find out with an independent judge whether the digits
# are what was asked for. Training is kept short so that the page builds quickly; the benchmarks have
# the figures of a longer one.

# %%
import matplotlib.pyplot  # noqa: F401 -- what makes a notebook show figures
import numpy as np

from scidiffusion import ImageDiffusion
from scidiffusion.images import (
    ImageJudge,
    copied_share,
    diversity,
    frechet_distance,
    label_precision,
    load_digits,
    plot_guidance,
    plot_images,
)

X, y = load_digits()
train, train_y, held_out, held_out_y = X[:1400], y[:1400], X[1400:], y[1400:]
plot_images(train[:30], columns=10)

# %% [markdown]
# ## Fit
#
# A narrow network for this page. The loss on images that were held out says when to stop.

# %%
model = ImageDiffusion(
    width=16,
    blocks=1,
    max_steps=500,
    lr=3e-3,
    ema_decay=0.99,
    dropout=0.0,
    random_state=0,
    progress=False,
)
model.fit(train, train_y)
for entry in model.training_.history:
    print(
        f"step {entry['step']:4d}: loss {entry['train_loss']:.3f}, held out {entry['val_loss']:.3f}"
    )

# %% [markdown]
# ## Draw
#
# One row a label. The judge is a perceptron that has learned real digits and nothing else.

# %%
labels = np.repeat(np.arange(10), 10)
drawn = model.sample(100, conditions=labels, random_state=0)
plot_images(drawn, columns=10, value_range=(0, 16))

# %%
judge = ImageJudge().fit(train, train_y)
real = label_precision(judge.predict(held_out), held_out_y)
asked = label_precision(judge.predict(drawn), labels)
print(f"judge on real digits: {real:.0%}; samples that show the label asked for: {asked:.0%}")
assert real > 0.9
assert asked > 0.6

# %% [markdown]
# No sample is a copy: three times nearer to one training image than to any other.

# %%
print(
    f"copies: {copied_share(drawn, train):.0%}, among real digits {copied_share(held_out, train):.0%}"
)
assert copied_share(drawn, train) < 0.05

# %% [markdown]
# ## Another network
#
# `network="dit"` is a transformer over patches, here 16 of 2 x 2 cells (Peebles & Xie 2023). How far
# samples are from held-out digits is measured in the judge's features (Frechet distance).

# %%
other = ImageDiffusion(
    network="dit",
    width=16,
    depth=4,
    max_steps=700,
    lr=3e-3,
    ema_decay=0.99,
    dropout=0.0,
    random_state=0,
    progress=False,
)
other.fit(train, train_y)
many = np.repeat(np.arange(10), 20)
reference = judge.features(held_out)
some = np.random.default_rng(0).choice(len(train), 200, replace=False)
floor = frechet_distance(judge.features(train[some]), reference)
print(f"200 real digits: Frechet distance {floor:.2f}")
far = {}
for name, fitted in {"U-Net": model, "transformer": other}.items():
    images = fitted.sample(200, conditions=many, random_state=2)
    far[name] = frechet_distance(judge.features(images), reference)
    shown = label_precision(judge.predict(images), many)
    weights = sum(parameter.numel() for parameter in fitted.denoiser_.parameters())
    print(
        f"{name}: {shown:.0%} show the label asked for, Frechet distance {far[name]:.2f}; "
        f"{weights:,} weights, {fitted.training_.seconds:.0f} s of training"
    )
assert far["transformer"] < 3 * floor

# %% [markdown]
# ## Guidance
#
# The scale exaggerates the condition: clearer digits, fewer kinds of them.

# %%
scales = [0.0, 1.0, 3.0]
asked_for = np.repeat(np.arange(10), 6)
sweep = [
    model.sample(60, conditions=asked_for, guidance_scale=scale, random_state=1)
    for scale in scales
]
precision = [label_precision(judge.predict(images), asked_for) for images in sweep]
spread = [diversity(images, asked_for) for images in sweep]
plot_guidance(scales, precision, spread, [images[::6] for images in sweep])

# %%
print(
    {
        scale: f"{p:.0%}, diversity {d:.1f}"
        for scale, p, d in zip(scales, precision, spread, strict=True)
    }
)
assert precision[0] < precision[1] <= precision[2] + 0.1
assert spread[0] > spread[1] > spread[2]

# %% [markdown]
# ## Complete
#
# The upper half is known. Above the whole image, below the completion given its label.

# %%
mask = np.zeros((8, 8), dtype=bool)
mask[:4] = True
whole = held_out[:10]
completed = model.inpaint(whole, mask, conditions=held_out_y[:10], resamples=3, random_state=0)
assert np.array_equal(completed[:, :, :4], whole[:, :, :4])
plot_images(
    np.concatenate([whole, np.where(mask, whole, 0), completed]), columns=10, value_range=(0, 16)
)
