"""The diffusion core: schedules, processes, predictions, objectives, the ELBO and likelihoods.

Torch only. Everything a domain needs is here by name; each module's docstring is its mathematics.
"""

from scidiffusion.core.categorical import AbsorbingProcess, CategoricalProcess, MultinomialProcess
from scidiffusion.core.centred import CentredGaussianProcess, remove_mean
from scidiffusion.core.denoiser import (
    Condition,
    Denoiser,
    NetworkDenoiser,
    PreconditionedDenoiser,
    drop_condition,
)
from scidiffusion.core.distributions import Categorical, Distribution, Gaussian, Independent
from scidiffusion.core.elbo import ELBO, check_terminal, elbo
from scidiffusion.core.gaussian import (
    GaussianProcess,
    ReverseVariance,
    discretized_gaussian_log_prob,
)
from scidiffusion.core.likelihood import Trace, ode_log_prob
from scidiffusion.core.manifold import NoClosedFormError, WalkVariance
from scidiffusion.core.manifold_objectives import ScoreMatchingLoss
from scidiffusion.core.masking import (
    AnyOrderLoss,
    MaskingProcess,
    any_order_log_prob,
)
from scidiffusion.core.objectives import (
    EDMLoss,
    ELBOLoss,
    HybridLoss,
    LogNormalSigma,
    MinSNRLoss,
    Objective,
    PredictionLoss,
    ProductLoss,
    SimpleLoss,
    TimeSampler,
    UniformTime,
    elbo_eps_weight,
)
from scidiffusion.core.prediction import (
    CategoricalPrediction,
    Parameterization,
    Prediction,
    ScorePrediction,
)
from scidiffusion.core.process import Corrupted, Process, ProductProcess, State
from scidiffusion.core.rng import ROW_BLOCK, GeneratorNoise, KeyedNoise, Noise
from scidiffusion.core.schedules import (
    CosineVP,
    DiscreteSchedule,
    EDMSchedule,
    LinearVP,
    Marginal,
    NoiseSchedule,
    Spacing,
    Transition,
    VESchedule,
    VPSchedule,
)
from scidiffusion.core.so3 import SO3Process
from scidiffusion.core.torus import TorusProcess
from scidiffusion.core.variance import AnalyticVariance

__all__ = [
    "ELBO",
    "ROW_BLOCK",
    "AbsorbingProcess",
    "AnalyticVariance",
    "AnyOrderLoss",
    "Categorical",
    "CategoricalPrediction",
    "CategoricalProcess",
    "CentredGaussianProcess",
    "Condition",
    "Corrupted",
    "CosineVP",
    "Denoiser",
    "DiscreteSchedule",
    "Distribution",
    "EDMLoss",
    "EDMSchedule",
    "ELBOLoss",
    "Gaussian",
    "GaussianProcess",
    "GeneratorNoise",
    "HybridLoss",
    "Independent",
    "KeyedNoise",
    "LinearVP",
    "LogNormalSigma",
    "Marginal",
    "MaskingProcess",
    "MinSNRLoss",
    "MultinomialProcess",
    "NetworkDenoiser",
    "NoClosedFormError",
    "Noise",
    "NoiseSchedule",
    "Objective",
    "Parameterization",
    "PreconditionedDenoiser",
    "Prediction",
    "PredictionLoss",
    "Process",
    "ProductLoss",
    "ProductProcess",
    "ReverseVariance",
    "SO3Process",
    "ScoreMatchingLoss",
    "ScorePrediction",
    "SimpleLoss",
    "Spacing",
    "State",
    "TimeSampler",
    "TorusProcess",
    "Trace",
    "Transition",
    "UniformTime",
    "VESchedule",
    "VPSchedule",
    "WalkVariance",
    "any_order_log_prob",
    "check_terminal",
    "discretized_gaussian_log_prob",
    "drop_condition",
    "elbo",
    "elbo_eps_weight",
    "ode_log_prob",
    "remove_mean",
]
