"""Samplers: how to walk from noise to data, one method a file, one loop for all."""

from scidiffusion.samplers.ancestral import Ancestral
from scidiffusion.samplers.angular import AngularAB2
from scidiffusion.samplers.base import (
    Carry,
    Sampler,
    SinglePrediction,
    count_evaluations,
    sample,
    trajectory,
)
from scidiffusion.samplers.ddim import DDIM, ddim_encode, spherical_blend
from scidiffusion.samplers.dpm_solver import DPMSolverPP
from scidiffusion.samplers.heun import Heun
from scidiffusion.samplers.partwise import PartwiseSampler
from scidiffusion.samplers.predictor_corrector import PredictorCorrector
from scidiffusion.samplers.registry import SAMPLERS, make_sampler
from scidiffusion.samplers.reverse_sde import EulerMaruyama

__all__ = [
    "DDIM",
    "SAMPLERS",
    "Ancestral",
    "AngularAB2",
    "Carry",
    "DPMSolverPP",
    "EulerMaruyama",
    "Heun",
    "PartwiseSampler",
    "PredictorCorrector",
    "Sampler",
    "SinglePrediction",
    "count_evaluations",
    "ddim_encode",
    "make_sampler",
    "sample",
    "spherical_blend",
    "trajectory",
]
