r"""Clipped gradients of single rows, without holding any of them.

    sum_i c_i g_i,     c_i = min(1, max_grad_norm / ||g_i||),     g_i the gradient of row i's loss.

A linear layer's gradient of one row is the outer product of what goes in and what comes back, so
its norm is known from the norms of these. Opacus's hooks collect the norms in a first backward
pass; a second one, of the losses weighted by c_i, gives the sum: the memory of ordinary training,
whatever the number of rows ("ghost clipping").

This holds if every row's loss depends on that row alone, and if every layer is one whose norms are
known. `check_rows_apart` looks, with a few rows, whether the norms are those of autograd.

References:
    Abadi et al. 2016, algorithm 1; Li, Tramer, Liang & Hashimoto 2022 (ghost clipping).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from scidiffusion._lazy import require
from scidiffusion.errors import ConfigError

__all__ = ["RowGradients", "check_rows_apart"]

TOLERANCE = 1e-3
ROUNDING = 1e-4


class RowGradients:
    """Sum clipped gradients of single rows over a module's parameters.

    Args:
        module: The module; it must be in training mode where its gradients are asked for.
        max_grad_norm: 2-norm that a row's gradient may have at most.

    Raises:
        MissingExtraError: if Opacus is not installed.
        ConfigError: if Opacus knows no rule for one of the module's layers.
    """

    def __init__(self, module: nn.Module, max_grad_norm: float) -> None:
        self.max_grad_norm = max_grad_norm
        self.weights = [weight for weight in module.parameters() if weight.requires_grad]
        try:
            self._hooks = _hooks_class()(
                module, strict=False, loss_reduction="sum", max_grad_norm=max_grad_norm
            )
        except NotImplementedError as error:
            raise _unfit(module, f"Opacus cannot separate its rows ({error})") from error
        self._hooks.disable_hooks()

    def close(self) -> None:
        """Take the hooks, and whatever they left behind, off the module."""
        self._hooks.remove_hooks()
        marks = ("grad_sample", "_forward_counter", "_current_grad_sample", "_norm_sample")
        for weight in self.weights:
            weight.grad = None
            for mark in marks:
                if hasattr(weight, mark):
                    delattr(weight, mark)
        for part in self._hooks._module.modules():
            for mark in ("activations", "max_batch_len"):
                part.__dict__.pop(mark, None)

    def norms(self, loss: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        """Norm of every row's gradient.

        Args:
            loss: Computes the loss of every row, (B,).

        Returns:
            The losses, still part of their graph, and the norms, (B,).
        """
        self._clear()
        self._hooks.enable_hooks()
        try:
            with _quiet_hooks():
                losses = loss()
                losses.sum().backward(retain_graph=True)
        finally:
            self._hooks.disable_hooks()
        square = torch.zeros(len(losses), device=losses.device)
        for weight in self.weights:
            norm = getattr(weight, "_norm_sample", None)
            if norm is not None and norm.shape == square.shape:
                square = square + norm.detach().to(square.dtype).square()
            elif norm is not None or weight.grad is not None:
                raise _unfit(self._hooks._module, "a layer is not applied once to each row")
        self._clear()
        return losses, square.sqrt()

    def clipped_sum(
        self, loss: Callable[[], Tensor], present: Tensor
    ) -> tuple[list[Tensor | None], Tensor]:
        """Sum of the clipped gradients of some rows.

        Args:
            loss: Computes the loss of every row, (B,).
            present: (B,) bool, the rows that count; the others add exactly nothing.

        Returns:
            The sum for every parameter (None for one that the loss does not depend on), and the
            sum of the losses that count.
        """
        losses, norms = self.norms(lambda: torch.where(present, loss(), 0.0))
        # A little less than the clipping norm, so that no error of a norm exceeds it.
        factors = (self.max_grad_norm / ((1 + TOLERANCE) * norms + 1e-6)).clamp(max=1.0) * present
        with _quiet_hooks():
            (losses * factors).sum().backward()
        total = [weight.grad for weight in self.weights]
        self._clear()
        return total, losses.detach().sum()

    def _clear(self) -> None:
        for weight in self.weights:
            weight.grad = None
            if hasattr(weight, "_norm_sample"):
                del weight._norm_sample


def _hooks_class() -> Any:
    """Opacus's hooks, with the rule for bags of embeddings of fixed size added."""
    require("opacus", "privacy")
    base = require("opacus.grad_sample", "privacy").GradSampleModuleFastGradientClipping

    class Hooks(base):  # type: ignore[misc,valid-type]
        NORM_SAMPLERS = {**base.NORM_SAMPLERS, nn.EmbeddingBag: _bag_norms}  # noqa: RUF012

    return Hooks


def _bag_norms(layer: nn.EmbeddingBag, inputs: list[Tensor], back: Tensor) -> dict[Any, Tensor]:
    """Norms of the gradient of a sum or a mean of embeddings: one vector, as often as indexed."""
    index = inputs[0]
    if len(inputs) > 1 or index.ndim != 2 or layer.mode not in ("sum", "mean"):
        # What Opacus raises for a layer without a rule; the caller makes a ConfigError of it.
        raise NotImplementedError("a bag of embeddings must be of fixed size, summed or averaged")
    # An index that comes k times gets k times the vector: the lengths of runs of equal ones.
    ordered = index.sort(1).values
    starts = torch.ones_like(ordered)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    ones = back.new_ones(ordered.shape)
    times = torch.zeros_like(ones).scatter_add(1, starts.cumsum(1) - 1, ones)
    norm = back.norm(dim=1) * times.square().sum(1).sqrt()
    return {layer.weight: norm / index.shape[1] if layer.mode == "mean" else norm}


def check_rows_apart(
    gradients: RowGradients, loss: Callable[[Any], Tensor], batch: Any, swapped: Any
) -> None:
    """Check the norms against autograd, and that no row's loss depends on another row.

    Args:
        gradients: What is to be checked.
        loss: Computes the losses (B,) of a batch; the same numbers each time.
        batch: A few rows, B >= 3.
        swapped: The same with another row in the second place.

    Raises:
        ConfigError: if a norm is wrong, or the loss of another row changes.
    """
    module, weights = gradients._hooks._module, gradients.weights
    with torch.no_grad():
        backup = [weight.detach().clone() for weight in weights]
        for weight in weights:
            # Networks start with outputs of zero, where most gradients vanish: look elsewhere.
            weight.add_(0.1 * torch.randn_like(weight))
    try:
        losses, norms = gradients.norms(lambda: loss(batch))
        rows = range(len(losses))
        with _quiet_hooks():
            parts = [
                torch.autograd.grad(losses[row], weights, retain_graph=True, allow_unused=True)
                for row in rows
            ]
            whole = torch.autograd.grad(losses.sum(), weights, allow_unused=True)
        exact = torch.stack(
            [
                torch.stack([part.square().sum() for part in row if part is not None]).sum().sqrt()
                for row in parts
            ]
        )
        with torch.no_grad():
            other = loss(swapped)
    except (NotImplementedError, RuntimeError, AttributeError) as error:
        raise _unfit(module, f"Opacus cannot separate its rows ({error})") from error
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, backup, strict=True):
                weight.copy_(value)
        gradients._clear()
    if not bool(torch.isfinite(exact).all()):
        raise _unfit(module, "the gradient of a row of zeros or of data is not finite")
    # Rounding a sum is a change that is not clipped: in half precision it exceeds a row's share.
    wrong, size = torch.zeros(()), torch.zeros(())
    for total, *terms in zip(whole, *parts, strict=True):
        if total is not None:
            gap = total - torch.stack([term for term in terms if term is not None]).sum(0)
            wrong, size = wrong + gap.square().sum().cpu(), size + total.square().sum().cpu()
    rounded = bool(wrong.sqrt() > ROUNDING * size.sqrt())
    if rounded or not torch.allclose(norms, exact, rtol=TOLERANCE, atol=1e-6):
        raise _unfit(
            module,
            "the gradients of single rows are not exact: a layer is used more than once, mixes "
            "rows, or multiplies in half precision",
        )
    keep = torch.tensor([row for row in rows if row != 1], device=losses.device)
    if not torch.allclose(losses[keep].detach(), other[keep], rtol=TOLERANCE, atol=1e-6):
        raise _unfit(module, "the loss of a row depends on the other rows of its batch")


@contextmanager
def _quiet_hooks() -> Iterator[None]:
    """Keep torch from telling that the data need no gradient."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        yield


def _unfit(module: nn.Module, reason: str) -> ConfigError:
    return ConfigError(
        f"{type(module).__name__} cannot be trained with privacy: {reason}; use a network of "
        "linear, embedding and layer-norm layers in float32"
    )
