# %% [markdown]
# # Forecasts: what comes next, what if, and what is missing
#
# A series goes in as a pandas frame, joint sample paths of its future come out. This page forecasts
# weekly carbon dioxide at Mauna Loa, tests the forecast on years that the model has not seen, fills
# gaps, and asks a joint model of the American economy what would happen *if*. Both data sets ship in
# statsmodels; training is kept short so that the page builds quickly.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import statsmodels.api as sm

from scidiffusion.demo import load_co2
from scidiffusion.timeseries import DiffusionForecaster, Wishes

co2 = load_co2()
co2.tail(3)

# %% [markdown]
# ## Forecast
#
# One column a series, times in the index. The frequency is read off the time stamps; the 59 weeks
# without a value stay missing and are told to the model as such.

# %%
model = DiffusionForecaster(26, budget="20s", random_state=0, progress=False)
model.fit(co2)
model.predict(co2, random_state=0).tail(3)

# %% [markdown]
# `predict` returns quantiles in the layout of the frame that was given; `predict(quantiles=None)` the
# paths themselves, and `forecast` an object that has both. Half a year is drawn in ten network
# evaluations, all weeks at once, so that a path is a plausible course and not a row of independent
# weeks: the probability that the half year's mean exceeds some level is a share of paths.

# %%
forecasts = model.forecast(co2, num_samples=500, random_state=0)
half_year = forecasts[0].samples.mean(axis=(1, 2))
print(
    f"mean of the half year: {half_year.mean():.2f} ppm, 90 % within",
    np.quantile(half_year, [0.05, 0.95]).round(2),
)
model.plot(co2, forecasts)

# %% [markdown]
# ## Is it good?
#
# `backtest` sets the last windows aside, fits a copy on what precedes them, forecasts each window
# from its own origin, and prints the scores beside forecasters that need no training. Read them
# together: a model that does not beat these has learned nothing.

# %%
backtest = model.backtest(co2, windows=3, show=False)
backtest.plot()

# %%
scores = backtest.to_frame()
scores.T

# %% [markdown]
# What does the model add to its own Gaussian floor? On held-out windows it weighs the network's
# correction against the floor, and keeps the share that scores best (1 is all of it).

# %%
print({factor: round(score, 3) for factor, score in model.model_.trust.items()})

# %% [markdown]
# ## Fill gaps
#
# The same network fills what is missing, seeing both sides of a gap. To know how well, hide a tenth
# of the observed weeks and two whole seasons, and compare with a straight line.

# %%
rng = np.random.default_rng(0)
hidden = co2["co2"].notna().to_numpy() & (rng.random(len(co2)) < 0.1)
hidden[1500:1526] = hidden[2000:2026] = True
holes = co2.mask(hidden[:, None])
filled = model.impute(holes, num_samples=50, random_state=0)
line = holes.interpolate()
truth = co2["co2"]
known = hidden & truth.notna().to_numpy()
error_filled = (filled["co2"] - truth)[known].abs().mean()
error_line = (line["co2"] - truth)[known].abs().mean()
print(f"mean absolute error: diffusion {error_filled:.3f} ppm, straight line {error_line:.3f} ppm")

# %%
around = slice(1980, 2060)
axis = truth.iloc[around].plot(style=".", label="hidden or not, what it was")
filled["co2"].iloc[around].plot(ax=axis, label="filled")
line["co2"].iloc[around].plot(ax=axis, style=":", label="straight line")
axis.legend()
plt.show()

# %% [markdown]
# ## What if?
#
# The columns of a wide frame are forecast jointly, so one can be told what another will do. Here:
# quarterly growth of output and consumption, unemployment and the interest rate.

# %%
macro = sm.datasets.macrodata.load_pandas().data
macro.index = pd.period_range("1959Q1", periods=len(macro), freq="Q")
economy = pd.DataFrame(
    {
        "growth": 400 * np.log(macro["realgdp"]).diff(),
        "consumption": 400 * np.log(macro["realcons"]).diff(),
        "unemployment": macro["unemp"],
        "rate": macro["tbilrate"],
    }
).iloc[1:]
joint = DiffusionForecaster(8, budget="20s", random_state=0, progress=False).fit(economy)

# %% [markdown]
# What if unemployment falls to 6 % within two years? Known values are facts that every path obeys;
# what the other series make of it follows from how they moved together. Bounds, totals and target
# quantiles are asked for in the same way.

# %%
known = np.full((8, 4), np.nan)
known[:, 2] = np.linspace(economy["unemployment"].iloc[-1], 6.0, 9)[1:]
plain = joint.forecast(economy, num_samples=400, random_state=0)[0]
what_if = joint.forecast(economy, num_samples=400, guidance=Wishes(known=known), random_state=0)[0]
pd.DataFrame(
    {"forecast": plain.mean.mean(axis=0), "if unemployment falls": what_if.mean.mean(axis=0)},
    index=list(economy),
).round(2)

# %% [markdown]
# A total works alike, over steps, over series or both: here the paths whose growth over the two years
# adds up to 20 points (a year's growth, four times a quarter, is counted four times a year).

# %%
weights = np.zeros((8, 4))
weights[:, 0] = 1.0
total = joint.forecast(
    economy, guidance=Wishes(totals=[(weights, 20.0)], lower=-50.0), random_state=0
)[0]
total.samples[:, :, 0].sum(axis=1).round(6)[:5]

# %% [markdown]
# ## How unusual was it?
#
# The log-density of a window given its past is an anomaly score: low is unusual. The last two years
# of this table are 2008 and 2009.

# %%
calm = joint.score_samples(economy.loc[:"2006Q4"]).iloc[0]
crisis = joint.score_samples(economy).iloc[0]
print(f"2005-2006: {calm:.1f} nats, 2007Q4-2009Q3: {crisis:.1f} nats")

# %%
ours = backtest.scores["diffusion"].crps
assert ours < backtest.scores["gaussian_walk"].crps
assert error_filled < error_line
assert np.allclose(what_if.samples[:, :, 2], known[:, 2])
assert np.allclose(total.samples[:, :, 0].sum(axis=1), 20.0)
assert crisis < calm
