r"""The Gaussian floor of gaps: kriging with the variogram of the training windows.

For windows in which any cells are hidden there is no one-sided forecast to start from. Here each
series of a window, relative to the mean of its given cells and in units of their spread, is a
Gaussian process with covariance K(k) = sill - gamma(k), where the variogram

    gamma(k) = E (z_{t+k} - z_t)^2 / 2                                        (Matheron 1963)

is measured over the training windows, gaps and all. The hidden cells given the others are then

    N(K_hg K_gg^-1 z_g,  K_hh - K_hg K_gg^-1 K_gh).

A season shows as a dip of gamma, so this is both linear and seasonal interpolation, each as far as
the data warrant. A series of which nothing is given has the covariance of the training windows
about the level of their items, in whose units it is drawn: the sill above, which leaves the level
of a window open, would be too wide. Series of an item are taken for independent here; the network
knows better.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scidiffusion.timeseries.bank import Window
from scidiffusion.timeseries.frame import Colour, Frame, nearest_covariance
from scidiffusion.timeseries.lags import masked_mean

SILL = 1.5
"""The sill in units of the largest gamma: also windows' levels vary."""
NUGGET = 1e-3


@dataclass(frozen=True)
class DenseLaw(Colour):
    """A covariance of its own for each series of each window.

    Args:
        factor: (B, D, Z, Z) lower triangular.
    """

    factor: Tensor

    def colour(self, white: Tensor) -> Tensor:
        """See `Colour.colour`; `white` is (B, S, D, Z)."""
        return torch.einsum("bdyz,bsdz->bsdy", self.factor, white)

    def whiten(self, residual: Tensor) -> Tensor:
        """See `Colour.whiten`; `residual` is (B, S, D, Z)."""
        moved = residual.permute(0, 2, 3, 1)
        solved = torch.linalg.solve_triangular(self.factor.to(moved.dtype), moved, upper=False)
        return solved.permute(0, 3, 1, 2)

    def covariance(self, value: Tensor) -> Tensor:
        """See `Colour.covariance`; `value` is (B, S, D, Z)."""
        return self.colour(torch.einsum("bdyz,bsdy->bsdz", self.factor, value))

    def log_det(self) -> Tensor:
        """See `Colour.log_det`."""
        return self.factor.diagonal(dim1=-2, dim2=-1).log().sum((-1, -2))


class KrigingFloor(nn.Module):
    """The floor of windows of `length` steps with any cells hidden; see the module.

    Args:
        length: Steps L of a window.
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.kernel: Tensor
        self.register_buffer("kernel", torch.eye(length))
        self.prior: Tensor
        self.register_buffer("prior", torch.eye(length))

    @torch.no_grad()
    def fit(self, train: Window) -> None:
        """Measure the variogram over windows of `length` steps."""
        given = train.observed
        mean, spread = location(train.value, given)
        unit = torch.where(given, (train.value - mean) / spread, 0.0)
        gamma = [torch.zeros((), device=unit.device)]
        value = torch.where(given, train.value, 0.0)
        products = [(value**2).sum() / given.sum().clamp(min=1)]
        for lag in range(1, self.length):
            both = given[..., lag:] & given[..., :-lag]
            square = ((unit[..., lag:] - unit[..., :-lag]).clamp(-8, 8) ** 2) * both
            count = both.sum()
            # Lags that no window has: as the ones before.
            gamma.append(0.5 * square.sum() / count if int(count) > 0 else gamma[-1])
            product = (value[..., lag:] * value[..., :-lag] * both).sum()
            products.append(product / count if int(count) > 0 else products[-1])
        variogram = torch.stack(gamma).double()
        sill = SILL * variogram.max().clamp(min=1e-6)
        step = torch.arange(self.length, device=unit.device)
        apart = (step[:, None] - step[None]).abs()
        self.kernel.copy_(nearest_covariance(sill - variogram[apart], floor=NUGGET))
        covariance = torch.stack(products).double()[apart]
        self.prior.copy_(nearest_covariance(covariance, floor=NUGGET))

    def frame(self, window: Window, given: Tensor) -> Frame:
        """Return the frame of the cells that are not `given` (B, D, L)."""
        mean, spread = location(window.value, given)
        unit = torch.where(given, (window.value - mean) / spread, 0.0)
        # Without a single given cell the mean and the spread are those of the item.
        nothing = ~given.any(-1)[..., None, None]
        kernel = torch.where(nothing, self.prior, self.kernel)
        eye = torch.eye(self.length, dtype=kernel.dtype, device=kernel.device)
        pair = given.unsqueeze(-1) & given.unsqueeze(-2)
        inner = torch.linalg.cholesky(torch.where(pair, kernel, eye))
        cross = torch.where(given.unsqueeze(-2) & ~given.unsqueeze(-1), kernel, 0.0)
        half = torch.linalg.solve_triangular(inner, cross.transpose(-1, -2), upper=False)
        white = torch.linalg.solve_triangular(inner, unit.unsqueeze(-1), upper=False)
        base = (half.transpose(-1, -2) @ white).squeeze(-1)
        hidden = ~given.unsqueeze(-1) & ~given.unsqueeze(-2)
        rest = torch.where(hidden, kernel - half.transpose(-1, -2) @ half, eye)
        # In single precision the difference may lose its last positive digits.
        jitter = 1e-5 * self.kernel.diagonal().mean()
        factor = torch.linalg.cholesky(rest + jitter * eye)
        std = (factor**2).sum(-1).sqrt()
        base = torch.where(given, unit, base)
        return Frame(mean + spread * base, spread, std, DenseLaw(factor))


def location(value: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread of the given cells of each row, (B, D, 1) each.

    The spread is shrunk towards 1, the series' own, as by one more cell; without any cell the
    mean is 0 and the spread 1.
    """
    mean = masked_mean(value, given)
    square = torch.where(given, (value - mean) ** 2, 0.0).sum(-1, keepdim=True)
    count = given.sum(-1, keepdim=True)
    spread = ((square + 1.0) / (count + 1.0)).sqrt()
    return mean, spread
