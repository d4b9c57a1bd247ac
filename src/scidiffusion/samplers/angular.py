r"""Adams-Bashforth in the angle of noise: exact at any number of steps for standard normal data.

With u = z / sqrt(scale^2 + std^2) and theta = arctan(std / scale), which runs from near pi/2
(noise) to 0 (data), the probability-flow ODE of every linear Gaussian process reads (Salimans & Ho
2022, appendix D; Lu & Song 2025, section 3)

    du / dtheta = v,        v = cos(theta) eps - sin(theta) x0.

For standard normal data v is 0: nothing has to be integrated, whereas solvers that freeze x0 or
eps over a step lose or gain variance. What is integrated is how far the data departs from it, by

    u_s = u_t - h (v_t + h / (2 h_prev) (v_t - v_prev)),       h = theta_t - theta_s,

after a first step of Euler's rule.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scidiffusion.core.gaussian import GaussianProcess
from scidiffusion.core.prediction import Prediction, match
from scidiffusion.core.rng import Noise
from scidiffusion.core.schedules import Spacing
from scidiffusion.samplers.base import Carry, SinglePrediction


@dataclass(frozen=True)
class AngularAB2(SinglePrediction):
    """Second-order Adams-Bashforth in the angle; see the module. One evaluation a step."""

    order = 2
    multistep = True
    spacing = Spacing.UNIFORM

    def update(
        self,
        process: GaussianProcess,
        prediction: Prediction,
        carry: Carry,
        t: Tensor,
        s: Tensor,
        noise: Noise,
    ) -> Carry:
        """See the module, and `SinglePrediction.update`."""
        later, earlier = process.schedule.marginal(t), process.schedule.marginal(s)
        theta_t, theta_s = (torch.atan2(m.std, m.scale) for m in (later, earlier))
        length_t, length_s = (torch.hypot(m.std, m.scale) for m in (later, earlier))
        z = carry.z
        velocity = (
            match(torch.cos(theta_t), z) * prediction.eps
            - match(torch.sin(theta_t), z) * prediction.x0
        )
        h = theta_t - theta_s
        slope = velocity
        if carry.history:
            theta_before, before = carry.history
            weight = match(0.5 * h / (theta_before - theta_t), z)
            slope = (1 + weight) * velocity - weight * before
        z = match(length_s / length_t, z) * z - match(length_s * h, z) * slope
        return Carry(z, (theta_t, velocity))
