# %% [markdown]
# # From a CSV to a synthetic file one can share
#
# A table of people that must not leave the house, and a copy of it that may: what is fitted, how
# one asks for rows under conditions, fills gaps and looks for outliers, and how one finds out
# whether the copy is good and whether it copies anybody. The table is `randhie` of statsmodels, a
# health insurance experiment; training is kept short so that the page builds quickly.

# %%
from pathlib import Path
from tempfile import mkdtemp

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from scidiffusion.demo import CATEGORIES, load_randhie
from scidiffusion.tabular import TabularDiffusion, write_report
from scidiffusion.tabular.conditions import Between
from scidiffusion.tabular.metrics import score_table
from scidiffusion.tabular.plots import plot_comparison

folder = Path(mkdtemp())
load_randhie().to_csv(folder / "people.csv", index=False)

# %% [markdown]
# ## Fit
#
# Some rows are set aside before anything else: the model never sees them, and every judgement below
# needs them. Kinds are inferred; two numbers with a handful of levels are better learned as
# categories, which one line says.

# %%
people = pd.read_csv(folder / "people.csv").sample(frac=1, random_state=0, ignore_index=True)
held_out, train = people[:4000], people[4000:].reset_index(drop=True)
model = TabularDiffusion(
    columns=dict.fromkeys(CATEGORIES, "categorical"), random_state=0, progress=False
)
model.fit(train, budget="30s")
history = pd.DataFrame(model.training_.history)
history.plot(x="step", y=["train_loss", "val_loss"], ylabel="negative ELBO (nats a row)")
plt.show()

# %% [markdown]
# Training stops when the loss of held-out rows stops falling, or with the budget. The loss is an
# upper bound of $-\log p$ of a row, up to the scale on which numbers are measured.
#
# ## Sample
#
# Columns, dtypes, decimals and missing values come back as they were. The same seed gives the same
# rows, whatever the batch size.

# %%
synthetic = model.sample(len(train), random_state=0)
synthetic.head()

# %% [markdown]
# ## Is it good?
#
# Every figure stands between two floors: what *real* held-out rows get, the best there is, and what
# the real columns get when they are shuffled separately.

# %%
score = score_table(train, held_out, synthetic, model.schema_, target="hlthg", seed=0)
assert score.synthetic.trend_error < score.independent.trend_error
assert score.synthetic.invalid == 0
score.to_frame().round(3)

# %%
plot_comparison(train, synthetic, model.schema_)
plt.show()

# %% [markdown]
# ## Conditions
#
# Any columns may be fixed to a value, a set or a range. Nothing is rejected: what is known is shown
# to the network from the start, so that a rare combination costs no more than a common one.

# %%
asked = {"physlm": 1.0, "disea": Between(10, 20), "hlthg": [False]}
given = model.sample(2000, conditions=asked, random_state=0)
assert (given["physlm"] == 1.0).all()
assert given["disea"].between(10, 20).all()
real = train[(train["physlm"] == 1.0) & train["disea"].between(10, 20) & ~train["hlthg"]]
pd.DataFrame({"synthetic": given["mdvis"].describe(), "real": real["mdvis"].describe()}).round(2)

# %% [markdown]
# A class that is rare in the data can be as frequent as the others:

# %%
counts = model.sample(3000, balance="physlm", random_state=0)["physlm"].value_counts()
assert counts.max() - counts.min() <= 1
counts

# %% [markdown]
# ## Gaps and outliers
#
# `impute` draws missing values given the rest of the row. Several draws show how sure it is.

# %%
gaps = held_out.head(1000).copy()
gaps["lpi"] = np.nan
draws = model.impute(gaps, draws=20, random_state=0)
values = np.stack([draw["lpi"].to_numpy() for draw in draws])
truth = held_out["lpi"].head(1000).to_numpy()
inside = (truth >= np.quantile(values, 0.05, axis=0)) & (
    truth <= np.quantile(values, 0.95, axis=0)
)
print(
    f"correlation of the mean draw with the truth: {np.corrcoef(values.mean(0), truth)[0, 1]:.2f}"
)
assert 0.8 < inside.mean() < 0.97
print(f"true values within the central 90 % of 20 draws: {inside.mean():.0%}")

# %% [markdown]
# `score_samples` bounds the log-likelihood of rows; the lowest are the strangest.

# %%
likely = model.score_samples(held_out)
held_out.assign(log_likelihood=likely.round(1)).nsmallest(5, "log_likelihood")

# %% [markdown]
# ## Share it
#
# The report is one file without any outside reference: scores with their floors, marginals, pairs,
# what a judge used to tell the tables apart, and what is known of copying.

# %%
synthetic.to_csv(folder / "synthetic.csv", index=False)
write_report(train, synthetic, folder / "report.html", holdout=held_out, target="hlthg", seed=0)
model.save(folder / "model")
sorted(path.name for path in folder.iterdir())

# %% [markdown]
# The same from the command line:
#
#     scidiffusion tabular fit people.csv model --budget 2min --seed 0
#     scidiffusion tabular sample model synthetic.csv --seed 0
#     scidiffusion tabular sample model some.csv -n 2000 --condition physlm=1 --condition disea=10..20
#     scidiffusion tabular impute model gaps.csv filled.csv --seed 0
#     scidiffusion tabular report people.csv synthetic.csv -o report.html
