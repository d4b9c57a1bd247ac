"""The table's loss: what it is a mean of, what is known, and its two categorical forms."""

from __future__ import annotations

import pytest
import torch

from scidiffusion.core import (
    DiscreteSchedule,
    GaussianProcess,
    GeneratorNoise,
    KeyedNoise,
    MultinomialProcess,
    ProductProcess,
    elbo,
)
from scidiffusion.core.prediction import Parameterization
from scidiffusion.errors import ConfigError
from scidiffusion.tabular.objective import (
    CategoricalLoss,
    ColumnLayout,
    GivenColumns,
    TableLoss,
    multinomial_kl,
)

NODES = 20
LAYOUT = ColumnLayout([0, 2], [1, 2], 3)  # column 2 is a number that can be missing


def process(parameterization: str = "eps") -> ProductProcess:
    schedule = DiscreteSchedule.linear(NODES)
    return ProductProcess(
        {
            "num": GaussianProcess(schedule, parameterization=parameterization),
            "cat": MultinomialProcess(schedule, [3, 2]),
        }
    )


class Constant:
    """A denoiser that always gives the same outputs and remembers what it saw."""

    def __init__(self, product: ProductProcess) -> None:
        self.process = product

    def __call__(self, z, t, cond=None):
        self.z, self.t, self.known = z, t, cond
        rows = len(z["num"])
        logits = torch.tensor([[0.3, -0.2, 0.1], [0.5, 0.0, 0.0]])
        output = {"num": torch.full((rows, 2), 0.25), "cat": logits.expand(rows, 2, 3)}
        return self.process.predict(output, z, t)


def rows(n: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    cat = torch.stack([torch.randint(k, (n,), generator=generator) for k in (3, 2)], 1)
    return {"num": torch.randn(n, 2, generator=generator), "cat": cat}


@pytest.mark.parametrize("target", [None, 1])
def test_shares_of_known_columns(target) -> None:
    loss = TableLoss(LAYOUT, target=target, share=0.3)
    known = loss.draw_known(20_000, GeneratorNoise(torch.Generator().manual_seed(1)), "cpu")
    assert not known.all(1).any()
    others = known[:, [0, 2]]
    # Three columns, 0, 1 or 2 of them known with equal probability: 1/3 each, in 30 % of rows.
    assert others.float().mean() == pytest.approx(0.3 / 3, abs=0.01)
    if target is not None:
        assert known[:, 1].float().mean() == pytest.approx(0.55 + 0.3 / 3, abs=0.015)
        assert (~known).all(1).float().mean() == pytest.approx(0.15 + 0.1, abs=0.015)


def test_flags_follow_the_columns() -> None:
    flags = LAYOUT.flags(torch.tensor([[True, False, False], [False, False, True]]))
    assert flags["num"].tolist() == [[True, False], [False, True]]
    assert flags["cat"].tolist() == [[False, False], [False, True]]


def test_known_columns_are_shown_clean_and_not_scored() -> None:
    denoiser, x = Constant(process()), rows(500)
    loss = TableLoss(LAYOUT, share=0.9)
    noise = GeneratorNoise(torch.Generator().manual_seed(2))
    loss(denoiser, x, noise)
    for name, flags in denoiser.known.items():
        assert flags.any()
        assert torch.equal(denoiser.z[name][flags], x[name][flags])
        assert not torch.equal(denoiser.z[name][~flags], x[name][~flags])


@pytest.mark.parametrize("parameterization", ["eps", "v"])
def test_the_loss_is_the_mean_over_the_unknown(parameterization) -> None:
    """Recomputed by hand for every row from what the denoiser was shown."""
    product = process(parameterization)
    denoiser, x = Constant(product), rows(64)
    loss = TableLoss(LAYOUT, share=0.9, categorical="cross_entropy")
    values = loss(denoiser, x, KeyedNoise(3))
    eps = KeyedNoise(3).child("num").normal(x["num"])
    prediction = denoiser(denoiser.z, denoiser.t, denoiser.known)
    marginal = product.schedule.marginal(denoiser.t)
    scale, std = (c[:, None].float() for c in (marginal.scale, marginal.std))
    # The known entries of z are clean, but these do not enter; elsewhere z = scale x + std eps.
    truth = eps if parameterization == "eps" else scale * eps - std * x["num"]
    log_p = torch.log_softmax(torch.tensor([[0.3, -0.2, 0.1], [0.5, 0.0, -torch.inf]]), -1)
    for row in range(64):
        expected = 0.0
        open_num = ~denoiser.known["num"][row]
        if open_num.any():
            expected += float(((0.25 - truth[row]) ** 2)[open_num].mean())
        open_cat = [j for j in range(2) if not denoiser.known["cat"][row, j]]
        if open_cat:
            expected += sum(-float(log_p[j, x["cat"][row, j]]) for j in open_cat) / len(open_cat)
        assert float(values[row]) == pytest.approx(expected, rel=2e-3, abs=1e-4)
    assert prediction["num"].parameterization is Parameterization(parameterization)


def test_multinomial_kl_averages_to_the_elbo() -> None:
    """The mean over the nodes of T times the term is minus the ELBO without L_T."""
    part = MultinomialProcess(DiscreteSchedule.linear(NODES), [3, 2])
    x = rows(400)["cat"]

    class Fixed:
        process = part

        def __call__(self, z, t, cond=None):
            logits = torch.tensor([[0.3, -0.2, 0.1], [0.5, 0.0, 0.0]]).expand(len(z), 2, 3)
            return part.predict(logits, z, t)

    denoiser, total = Fixed(), torch.zeros(len(x))
    grid = part.schedule.grid(NODES, "uniform")
    for index, t in enumerate(grid[:-1]):
        z = part.q_sample(x, t, KeyedNoise(5).child("elbo0").at(index)).z
        times = t.expand(len(x))
        total += multinomial_kl(part, x, z, denoiser(z, t), times).sum(1) / NODES
    bound = elbo(denoiser, x, noise=KeyedNoise(5))
    torch.testing.assert_close(-total, (bound.total + bound.prior).float(), rtol=1e-4, atol=1e-4)


def test_given_columns_puts_the_known_values_in_place() -> None:
    product, x = process(), rows(6)
    denoiser = Constant(product)
    known = LAYOUT.flags(torch.tensor([[False, True, True]]).expand(6, -1))
    noisy = {"num": torch.full((6, 2), 9.0), "cat": torch.zeros(6, 2, dtype=torch.long)}
    GivenColumns(denoiser, x, known)(noisy, torch.tensor(0.5, dtype=torch.float64))
    assert torch.equal(denoiser.z["num"], torch.stack([noisy["num"][:, 0], x["num"][:, 1]], 1))
    assert torch.equal(denoiser.z["cat"], x["cat"])
    assert denoiser.known is known


def test_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="share"):
        TableLoss(LAYOUT, share=1.0)
    with pytest.raises(ConfigError, match="kl"):
        TableLoss(LAYOUT, categorical="hinge")
    assert TableLoss(LAYOUT).categorical is CategoricalLoss.KL
