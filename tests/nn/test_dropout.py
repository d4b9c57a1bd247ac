"""Dropout of random bytes: its law, its scale, its seed."""

from __future__ import annotations

import pytest
import torch

from scidiffusion.errors import ConfigError
from scidiffusion.nn.dropout import Dropout


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.999])
def test_features_are_dropped_independently_and_the_mean_is_kept(p, device) -> None:
    torch.manual_seed(0)
    x = torch.ones(2000, 101, device=device)
    y = Dropout(p)(x)
    share = (y == 0).double().mean()
    assert abs(share - p) < 1 / 256
    # Kept features are scaled by the very probability with which they are kept.
    assert float(y.double().mean()) == pytest.approx(1.0, abs=0.2 if p > 0.9 else 0.01)
    assert y[y > 0].unique().numel() == 1
    zero = (y == 0).double()
    zero = (zero - zero.mean()) / zero.std()
    # Neighbours, and the eight bytes of one draw, know nothing of each other.
    for lag in (1, 3, 7, 8):
        assert abs(float((zero[:, lag:] * zero[:, :-lag]).mean())) < 0.02


def test_a_seed_gives_a_mask() -> None:
    x = torch.randn(7, 3, dtype=torch.bfloat16)
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(Dropout(0.4)(x))
    assert torch.equal(*drawn)
    assert drawn[0].dtype == torch.bfloat16


def test_nothing_is_dropped_outside_training_or_at_zero() -> None:
    x = torch.randn(4, 5)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_gradients_pass_where_features_do() -> None:
    torch.manual_seed(0)
    x = torch.randn(10, 10, requires_grad=True)
    y = Dropout(0.5)(x)
    y.sum().backward()
    assert torch.equal(x.grad == 0, y == 0)


@pytest.mark.parametrize("p", [-0.1, 1.0, 2.0])
def test_impossible_probabilities(p) -> None:
    with pytest.raises(ConfigError, match="dropout"):
        Dropout(p)
