# %% [markdown]
# # Pictures from captions
#
# "a bold seven above a thin two" says three things: how many digits, which ones, and which of them
# is bold. A label for each caption would not do: there are 420 of them here, and most are seen a
# few times. The caption is read word by word, and the picture attends to the words
# (cross-attention; Rombach et al. 2022, section 3.3). Scenes are composed of scikit-learn's digits;
# a perceptron that saw real scenes alone judges what is drawn.

# %%
import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import grey_dilation

from scidiffusion import ImageDiffusion
from scidiffusion.errors import ConditionError
from scidiffusion.images import ImageJudge, load_digits

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
NEVER = ("a bold three above a thin eight", "a thin nine above a bold four")
EMPTY = 20
digits, labels = load_digits()
digits = digits[:, 0].astype(np.float32)
held = np.arange(len(digits)) % 4 == 0


def scenes(n, seed, part):
    """Scenes (n, 16, 8), their captions, and what stands above and below: 2 digit + bold, or 20."""
    rng = np.random.default_rng(seed)
    X, truth, captions = np.zeros((n, 16, 8), np.float32), np.full((n, 2), EMPTY), []
    while len(captions) < n:
        words = []
        for half in range(1 + (rng.random() < 0.75)):
            index, bold = rng.choice(part), rng.integers(2)
            image = grey_dilation(digits[index], (2, 2)) if bold else digits[index]
            X[len(captions), 8 * half : 8 * half + 8] = image
            truth[len(captions), half] = 2 * labels[index] + bold
            words.append(f"a {'bold' if bold else 'thin'} {NAMES[labels[index]]}")
        caption = " above ".join(words)
        if caption in NEVER:
            X[len(captions)], truth[len(captions)] = 0, EMPTY
            continue
        captions.append(caption)
    return X, captions, truth


X, captions, truth = scenes(6000, 0, np.flatnonzero(~held))
print(f"{len(X)} scenes, {len(set(captions))} captions, such as {captions[0]!r}")

# %% [markdown]
# ## The judge
#
# It looks at the upper and the lower half and says digit and weight, or that there is none.


# %%
def halves(scene):
    """The upper halves, then the lower ones."""
    return np.concatenate([scene[:, :8], scene[:, 8:]])


judge = ImageJudge(max_iter=30).fit(halves(X), truth.T.ravel())


def seen(scene):
    """What the judge sees above and below, (n, 2)."""
    return judge.predict(halves(scene)).reshape(2, -1).T


real, _, wanted = scenes(500, 1, np.flatnonzero(held))
right = (seen(real) == wanted).mean()
print(f"of halves of real scenes never seen {right:.1%} are judged right")
assert right > 0.94

# %% [markdown]
# ## Learn from captions
#
# The vocabulary is that of the training captions. A word that is not in it is an error, before
# anything is drawn.

# %%
model = ImageDiffusion(
    width=24, max_steps=800, batch_size=64, lr=3e-3, ema_decay=0.995, dropout=0.0,
    random_state=0, progress=False,
).fit(X, captions=captions)  # fmt: skip
try:
    model.sample(1, captions="a bold sevne above a thin two")
except ConditionError as error:
    print(error)

# %% [markdown]
# ## Is what is drawn what was asked?

# %%
_, asked, wanted = scenes(200, 2, np.flatnonzero(held))
shares = {}
for scale in (1.0, 2.0):
    found = seen(model.sample(200, captions=asked, guidance_scale=scale, random_state=0))
    shares[scale] = {
        "number of digits": ((found == EMPTY) == (wanted == EMPTY)).all(1).mean(),
        "digit": (found // 2 == wanted // 2).mean(),
        "digit and weight": (found == wanted).mean(),
        "whole scene": (found == wanted).all(1).mean(),
    }
    told = ", ".join(f"{name} {share:.0%}" for name, share in shares[scale].items())
    print(f"guidance {scale:.0f}: {told}")
assert shares[1.0]["number of digits"] > 0.95
assert shares[1.0]["digit"] > 0.85
assert shares[1.0]["digit and weight"] > 0.8

# %% [markdown]
# ## Two captions that were never seen
#
# Their words were, apart; their pairs were not. And the order of words matters: the same words the
# other way round give the other scene.

# %%
new = [*NEVER, "a thin eight above a bold three", "a bold four above a thin nine"]
drawn = model.sample(4 * 40, captions=[text for text in new for _ in range(40)], random_state=1)
found = seen(drawn).reshape(4, 40, 2)
meant = np.array([(7, 16), (18, 9), (16, 7), (9, 18)])
for text, one, aim in zip(new, found, meant, strict=True):
    print(f"{text!r}: {(one == aim).all(1).mean():.0%} of the scenes as asked")
share = (found == meant[:, None]).all(2).mean()

fig, axes = plt.subplots(4, 10, figsize=(7, 5.6))
for row, text, images in zip(axes, new, drawn.reshape(4, 40, 16, 8), strict=True):
    for ax, image in zip(row, images, strict=False):
        ax.imshow(image, cmap="gray_r", vmin=0, vmax=16)
        ax.set(xticks=[], yticks=[])
    row[0].set_title(text, loc="left", fontsize=9)
fig.tight_layout()
assert share > 0.5

# %% [markdown]
# ## An encoder of one's own
#
# Anything with `encode(captions)` that returns vectors (n, tokens, dim), NaN where there is no
# token, can take the place of the vocabulary: a frozen language model, or this table of random
# vectors, in which words that were never learned have a vector too.


# %%
class Hashed:
    """A random unit vector for every word there is."""

    def encode(self, captions):
        tokens = np.full((len(captions), 8, 16), np.nan)
        for row, caption in enumerate(captions):
            for place, word in enumerate(caption.split()[:8]):
                seed = int.from_bytes(word.encode()[:8], "little")
                tokens[row, place] = np.random.default_rng(seed).normal(size=16)
        return tokens


own = ImageDiffusion(width=8, max_steps=20, text_encoder=Hashed(), random_state=0, progress=False)
own.fit(X[:500], captions=captions[:500])
assert own.sample(2, captions="a purple elephant").shape == (2, 16, 8)
