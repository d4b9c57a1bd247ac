r"""Denoising score matching on the circle and on SO(3).

    loss = ||score_hat(z_t, t) - grad log q(z_t | x)||^2 / E ||grad log q(z_t | x)||^2

(Jing et al. 2022, section 3.2; Yim et al. 2023, section 4.2), averaged over the points of a row. A
score of zero has an expected loss of 1 at every noise level. Weighting both squares by std_t^2, as
elsewhere, would change nothing: it cancels in the quotient.
"""

from __future__ import annotations

from torch import Tensor

from scidiffusion.core.distributions import sum_rows
from scidiffusion.core.manifold import ManifoldProcess
from scidiffusion.core.objectives import PredictionLoss
from scidiffusion.core.prediction import ScorePrediction
from scidiffusion.core.process import Corrupted, Process
from scidiffusion.errors import ConfigError


class ScoreMatchingLoss(PredictionLoss):
    """Squared error of the score, relative to the score's expected square; see the module.

    Args:
        times: How noise levels are drawn.
    """

    def loss(
        self,
        process: Process,
        x: Tensor,
        corrupted: Corrupted,
        prediction: ScorePrediction,
        t: Tensor,
    ) -> Tensor:
        """See `PredictionLoss.loss`.

        Raises:
            ConfigError: if the process is none of a manifold.
        """
        if not isinstance(process, ManifoldProcess):
            raise ConfigError(
                f"ScoreMatchingLoss needs a TorusProcess or an SO3Process, not {process!r}; "
                "use SimpleLoss for Gaussian data"
            )
        var = process.var(t, x)
        error = (prediction.score - process.score_of(corrupted.eps, var)) ** 2
        expected = process.at_tangents(process.expected_square(var))
        return sum_rows(error / expected) / process.num_points(x)
