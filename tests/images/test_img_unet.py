"""The U-Net: any grid, rows apart, attention where asked, the sizes its module states."""

from __future__ import annotations

import pytest
import torch

from scidiffusion.core import CosineVP, GaussianProcess, NetworkDenoiser
from scidiffusion.errors import ConditionError, ConfigError, InputError
from scidiffusion.images import UNet
from scidiffusion.images.building import default_attention, default_multipliers, grid_sizes
from scidiffusion.images.unet import GridAttention

SMALL = {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (1,), "heads": 2}
GRIDS = [(7,), (1,), (5, 9), (8, 8), (3, 4, 5), (6, 1, 3)]


def awake(network: UNet) -> UNet:
    """The network with random numbers in place of the zeros that it starts with."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if not bool(parameter.any()):
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def images(rows: int, channels: int, grid: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, channels, *grid, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("grid", GRIDS)
def test_any_grid_keeps_its_shape(grid, channels):
    network = awake(UNet(len(grid), channels, 2 * channels, **SMALL))
    output = network(images(2, channels, grid), torch.rand(2))
    assert output.shape == (2, 2 * channels, *grid)
    assert bool(output.isfinite().all())


def test_deep_levels_of_a_small_grid():
    network = awake(UNet(2, 1, width=8, multipliers=(1, 1, 2, 2), blocks=2, attention=(0, 3)))
    assert network(images(2, 1, (5, 3)), torch.rand(2)).shape == (2, 1, 5, 3)


@pytest.mark.parametrize("grid", [(7,), (5, 6), (3, 4, 3)])
def test_rows_do_not_see_each_other(grid):
    network = awake(UNet(len(grid), 1, **SMALL))
    z, time = images(3, 1, grid), torch.tensor([0.1, 0.5, 0.9])
    whole = network(z, time)
    other = z.clone()
    other[1] = 7.0
    changed = network(other, time)
    assert torch.allclose(changed[[0, 2]], whole[[0, 2]], atol=1e-6)
    assert not torch.allclose(changed[1], whole[1], atol=1e-2)
    alone = torch.cat([network(z[i : i + 1], time[i : i + 1]) for i in range(3)])
    assert torch.allclose(alone, whole, atol=1e-5)


def test_time_and_condition_reach_the_output():
    network = awake(UNet(2, 1, **SMALL, conditions={"label": ("class", 3)}))
    z = images(2, 1, (6, 6))
    label = torch.tensor([0, 2])
    base = network(z, torch.tensor([0.2, 0.2]), label)
    assert not torch.allclose(base, network(z, torch.tensor([0.8, 0.8]), label), atol=1e-3)
    assert not torch.allclose(base, network(z, torch.tensor([0.2, 0.2]), label.flip(0)), atol=1e-3)
    absent = network(z, torch.tensor([0.2, 0.2]), torch.full((2,), -1))
    assert torch.equal(absent, network(z, torch.tensor([0.2, 0.2]), None))


def test_a_fresh_network_is_the_gaussian_prior():
    """With v = 0 the flow only turns signal into noise: z_t stays N(0, I)."""
    network = UNet(2, 1, **SMALL).eval()
    assert not bool(network(images(4, 1, (8, 8)), torch.rand(4)).any())
    process = GaussianProcess(CosineVP(-10.0), parameterization="v")
    denoiser = NetworkDenoiser(network, process)
    z, t = images(4, 1, (8, 8)), torch.tensor(0.3)
    prediction = denoiser(z, t)
    scale, std = (float(x) for x in (process.schedule.marginal(t).scale, prediction.std))
    assert torch.allclose(prediction.x0, scale * z, atol=1e-6)
    assert torch.allclose(prediction.eps, std * z, atol=1e-6)
    from scidiffusion.samplers import AngularAB2, sample

    drawn = sample(process, denoiser, torch.empty(64, 1, 8, 8), sampler=AngularAB2(), steps=10)
    assert float(drawn.std()) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("attention", [(), (0,), (1,), (0, 2)])
def test_attention_only_where_asked(attention):
    blocks = 2
    network = UNet(2, 1, width=8, multipliers=(1, 1, 2), blocks=blocks, attention=attention)
    expected = {
        *(f"down.{level}.attentions.{i}" for level in attention for i in range(blocks)),
        *(f"up.{2 - level}.attentions.{i}" for level in attention for i in range(blocks + 1)),
        *(f"middle.attentions.{i}" for i in range(2) if 2 in attention),
    }
    found = {name for name, module in network.named_modules() if isinstance(module, GridAttention)}
    assert found == expected


def test_without_attention_far_cells_do_not_see_each_other():
    z = images(1, 1, (64,)).requires_grad_()

    def reach(**options):
        network = awake(UNet(1, 1, width=8, multipliers=(1,), blocks=1, **options))
        # The norms see the whole line; what is asked is the path of convolutions alone.
        for module in network.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.forward = lambda x: x
        (gradient,) = torch.autograd.grad(network(z, torch.tensor([0.5]))[0, 0, 0], z)
        return int(gradient[0, 0].nonzero().max())

    # Input and output, and two convolutions in each of the 1 + 2 + 2 blocks.
    assert reach() == 2 + 2 * 5
    assert reach(attention=(0,)) == 63


def block_size(k: int, inputs: int, outputs: int, embed: int) -> int:
    weights = k * inputs * outputs + k * outputs**2 + embed * outputs
    biases = 2 * (inputs + outputs) + 3 * outputs  # norms; convolutions and embedding
    return weights + biases + (inputs * outputs + outputs if inputs != outputs else 0)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_the_number_of_parameters_is_the_stated_one(dims):
    k, w, e = 3**dims, 8, 16
    network = UNet(dims, 2, 3, width=w, multipliers=(1, 2), blocks=1, attention=(1,), embed_dim=e)
    wide = 2 * w
    attention = 4 * wide**2 + 4 * wide + 2 * wide
    expected = k * 2 * w + w  # input
    expected += block_size(k, w, w, e) + block_size(k, w, wide, e) + attention  # down
    expected += k * w * w + w  # shrink
    expected += 2 * (block_size(k, wide, wide, e) + attention)  # middle
    # Skips, last first: down 1's block (2w) and the shrunk level (w); down 0's and the input (w).
    expected += block_size(k, 2 * wide, wide, e) + block_size(k, wide + w, wide, e) + 2 * attention
    expected += k * wide * wide + wide  # enlarge
    expected += block_size(k, wide + w, w, e) + block_size(k, 2 * w, w, e)
    expected += 2 * w + k * w * 3 + 3  # output
    expected += (e * e + e) * 2  # time
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


def test_levels_are_chosen_by_the_size_of_the_grid():
    assert default_multipliers((4, 4)) == (1,)
    assert default_multipliers((8, 8)) == (1, 2)
    assert default_multipliers((28, 28)) == (1, 2, 2, 2)
    assert default_multipliers((512,)) == (1, 2, 2, 2)
    assert grid_sizes((5, 9), 3) == [(5, 9), (3, 5), (2, 3)]
    assert default_attention((8, 8), 2) == (1,)
    assert default_attention((512, 512), 4) == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"multipliers": ()}, "multipliers"),
        ({"multipliers": (1, 0)}, "multipliers"),
        ({"attention": (2,)}, "level 2"),
        ({"width": 0}, "width"),
        ({"blocks": 0}, "blocks"),
        ({"heads": 3}, "heads"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_impossible_options(change, message):
    with pytest.raises(ConfigError, match=message):
        UNet(2, 1, **SMALL | change)


def test_wrong_input():
    network = UNet(2, 3, **SMALL)
    with pytest.raises(ConfigError, match="1, 2 or 3 dimensions"):
        UNet(4, 1, **SMALL)
    with pytest.raises(InputError, match=r"\(B, 3\)"):
        network(images(2, 1, (8, 8)), torch.rand(2))
    with pytest.raises(InputError, match="2 sizes"):
        network(images(2, 3, (8,)), torch.rand(2))
    with pytest.raises(ConditionError, match="no condition"):
        network(images(2, 3, (8, 8)), torch.rand(2), torch.zeros(2))
