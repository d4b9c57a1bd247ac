"""Masking diffusion against a joint law that is known: every identity in closed form."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from scidiffusion.core.masking import (
    AnyOrderLoss,
    MaskingProcess,
    any_order_log_prob,
    reveal_steps,
)
from scidiffusion.core.rng import KeyedNoise
from scidiffusion.errors import ConfigError

SHAPE = (2, 3, 2, 2)


@pytest.fixture(scope="module")
def joint() -> torch.Tensor:
    weights = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return weights**3 / (weights**3).sum()


class Oracle:
    """The exact conditionals of a joint law, or tilted ones."""

    def __init__(self, joint: torch.Tensor, tilt: float = 0.0) -> None:
        self.joint, self.tilt = joint, tilt
        self.process = MaskingProcess(joint.ndim)

    def __call__(self, x: torch.Tensor, hidden: torch.Tensor) -> Oracle:
        self.hidden = hidden
        return self

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """log p(x_j | shown), row by row."""
        result = torch.zeros(x.shape, dtype=torch.float64)
        for row, (values, hidden) in enumerate(zip(x.tolist(), self.hidden.tolist(), strict=True)):
            shown = tuple(
                slice(None) if gone else slice(v, v + 1)
                for v, gone in zip(values, hidden, strict=True)
            )
            rest = self.joint[shown]
            for j, (value, gone) in enumerate(zip(values, hidden, strict=True)):
                if gone:
                    law = rest.sum([k for k in range(rest.ndim) if k != j])
                    law = (law / law.sum()) ** (1 + self.tilt)
                    result[row, j] = (law / law.sum())[value].log()
        return result


def everything() -> torch.Tensor:
    return torch.tensor(list(itertools.product(*map(range, SHAPE))))


def test_exact_conditionals_give_the_likelihood_in_every_order(joint) -> None:
    rows = everything()
    for seed in range(3):
        value = any_order_log_prob(Oracle(joint), rows, KeyedNoise(seed))
        torch.testing.assert_close(value, joint.flatten().log())


def test_the_loss_is_an_unbiased_estimate_of_the_elbo(joint) -> None:
    """Its mean over hidden sets is the mean over orders, for conditionals that do not cohere."""
    denoiser = Oracle(joint, tilt=0.5)
    row = torch.tensor([[1, 2, 0, 1]])
    orders = []
    for order in itertools.permutations(range(4)):
        total = 0.0
        for step, j in enumerate(order):
            hidden = torch.ones(1, 4, dtype=torch.bool)
            hidden[0, list(order[:step])] = False
            total += float(denoiser(row, hidden).log_prob(row)[0, j])
        orders.append(total)
    elbo = np.mean(orders)
    sets = 0.0
    for m in range(1, 5):
        for chosen in itertools.combinations(range(4), m):
            hidden = torch.zeros(1, 4, dtype=torch.bool)
            hidden[0, list(chosen)] = True
            lost = denoiser(row, hidden).log_prob(row).masked_fill(~hidden, 0.0).sum()
            sets += float(lost * denoiser.process.weight(hidden)[0, 0]) / math.comb(4, m) / 4
    assert sets == pytest.approx(elbo, rel=1e-6)
    many = row.expand(5000, 4)
    loss = -AnyOrderLoss()(denoiser, many, KeyedNoise(0))
    assert abs(float(loss.mean()) - elbo) < 4 * float(loss.std()) / 70


def test_the_loss_is_the_continuous_time_elbo_of_absorbing_diffusion(joint) -> None:
    """int_0^1 E[sum of hidden -log p] / t dt, with each variable hidden with probability t."""
    denoiser = Oracle(joint, tilt=0.5)
    row = torch.tensor([[0, 1, 1, 1]])
    losses = {}
    for bits in itertools.product([False, True], repeat=4):
        hidden = torch.tensor([bits])
        losses[bits] = -float(denoiser(row, hidden).log_prob(row).masked_fill(~hidden, 0).sum())
    nodes, weights = np.polynomial.legendre.leggauss(20)
    integral = 0.0
    for t, w in zip((nodes + 1) / 2, weights / 2, strict=True):
        expected = sum(loss * t ** sum(b) * (1 - t) ** (4 - sum(b)) for b, loss in losses.items())
        integral += w * expected / t
    by_sets = 0.0
    for bits, loss in losses.items():
        if m := sum(bits):
            by_sets += loss * 4 / m / math.comb(4, m) / 4
    assert integral == pytest.approx(by_sets, rel=1e-10)


def test_hidden_sets_are_uniform_given_their_number() -> None:
    hidden = MaskingProcess(4).hide(torch.zeros(60_000, 4), KeyedNoise(1))
    number = hidden.sum(1)
    assert int(number.min()) == 1
    for m in range(1, 5):
        rows = hidden[number == m]
        assert abs(len(rows) / 60_000 - 0.25) < 0.01
        codes = (rows * torch.tensor([1, 2, 4, 8])).sum(1)
        shares = torch.bincount(codes, minlength=16)[torch.bincount(codes, minlength=16) > 0]
        assert len(shares) == math.comb(4, m)
        assert float((shares / len(rows) - 1 / len(shares)).abs().max()) < 0.02


def test_the_numbers_of_hidden_variables_are_spread_evenly_over_a_batch() -> None:
    for rows, seed in itertools.product((7, 100, 512), range(5)):
        x = torch.zeros(rows, 15)
        number = MaskingProcess(15).hide(x, KeyedNoise(seed), spread=True).sum(1)
        counts = torch.bincount(number, minlength=16)[1:]
        assert int(counts.max() - counts.min()) <= 1


def test_what_is_hidden_in_a_row_does_not_depend_on_the_others() -> None:
    """What differential privacy needs: one row more changes nothing in the rows before."""
    process, noise = MaskingProcess(15), KeyedNoise(3)
    many, few = (process.hide(torch.zeros(rows, 15), noise) for rows in (101, 100))
    assert torch.equal(many[:100], few)


def test_orders_visit_every_hidden_variable_once() -> None:
    noise, leader = KeyedNoise(2), torch.arange(500) // 64 * 64
    hidden = torch.rand(500, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    position = MaskingProcess(6).order(hidden, noise, leader=leader)
    for row in range(500):
        number = int(hidden[row].sum())
        assert sorted(position[row][hidden[row]].tolist()) == list(range(number))
        assert (position[row][~hidden[row]] == 6).all()
    whole = torch.ones(128, 6, dtype=torch.bool)
    everything = MaskingProcess(6).order(whole, noise, leader=leader[:128])
    assert len(MaskingProcess(6).order(whole, noise).unique(dim=0)) > 100
    assert len(everything[:64].unique(dim=0)) == 1
    assert not torch.equal(everything[0], everything[64])


def test_fewer_steps_reveal_several_at_once(joint) -> None:
    position = torch.tensor([[0, 3, 1, 2], [4, 1, 4, 0]])
    when = reveal_steps(position, 4, 2)
    assert when.tolist() == [[0, 1, 0, 1], [2, 0, 2, 0]]
    assert torch.equal(reveal_steps(position, 4, None), position)
    rows = everything()
    # Independent draws of dependent variables: a worse model of the data, by a KL divergence.
    exact = any_order_log_prob(Oracle(joint), rows, KeyedNoise(0))
    rough = any_order_log_prob(Oracle(joint), rows, KeyedNoise(0), steps=1)
    p = joint.flatten()
    assert float((p * (exact - rough)).sum()) > 0.05
    product = torch.ones(())
    for j in range(4):
        law = joint.sum([k for k in range(4) if k != j])
        product = product * law.view([-1 if k == j else 1 for k in range(4)])
    torch.testing.assert_close(rough, product.flatten().log())


def test_impossible_options() -> None:
    with pytest.raises(ConfigError, match="variables"):
        MaskingProcess(0)
    with pytest.raises(ConfigError, match="orders"):
        any_order_log_prob(
            Oracle(torch.full((2,), 0.5)), torch.zeros(1, 1), KeyedNoise(0), orders=0
        )
    with pytest.raises(ConfigError, match="steps"):
        reveal_steps(torch.zeros(1, 3), 3, 0)
    with pytest.raises(ConfigError, match="condition"):
        AnyOrderLoss()(Oracle(torch.full((2,), 0.5)), torch.zeros(1, 1), KeyedNoise(0), cond=1)
