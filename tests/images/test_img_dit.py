"""The transformer over patches: patches, places, zero at the start, use in the estimator."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scidiffusion import ImageDiffusion
from scidiffusion.errors import ConditionError, ConfigError, InputError
from scidiffusion.images import GridTransformer
from scidiffusion.images.dit import from_patches, to_patches


@pytest.mark.parametrize("grid", [(6,), (6, 4), (4, 6, 2)])
@pytest.mark.parametrize("size", [1, 2])
def test_patches_can_be_laid_back(grid, size):
    x = torch.arange(2 * 3 * int(np.prod(grid)), dtype=torch.float32).reshape(2, 3, *grid)
    tokens = to_patches(x, size)
    counts = [one // size for one in grid]
    assert tokens.shape == (2, int(np.prod(counts)), 3 * size ** len(grid))
    assert torch.equal(from_patches(tokens, counts, size), x)


def test_a_patch_holds_neighbouring_cells():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert to_patches(x, 2)[0].tolist() == [
        [0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]
    ]  # fmt: skip


def network(dims: int = 2, **options) -> GridTransformer:
    torch.manual_seed(0)
    made = GridTransformer(dims, 2, dim=16, depth=2, heads=2, **options)
    for parameter in made.parameters():  # away from the identity of the start
        torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


@pytest.mark.parametrize(("dims", "grid"), [(1, (7,)), (2, (5, 4)), (3, (3, 4, 5))])
def test_any_size_goes_and_rows_do_not_meet(dims, grid):
    made = network(dims)
    z = torch.randn(3, 2, *grid)
    out = made(z, torch.full((3,), 0.4))
    assert out.shape == z.shape
    other = torch.cat((z[:1], torch.randn(2, 2, *grid)))
    torch.testing.assert_close(made(other, torch.full((3,), 0.4))[0], out[0])


def test_zero_at_the_start():
    made = GridTransformer(2, 1, 3, dim=16, depth=2, heads=2)
    assert not bool(made(torch.randn(2, 1, 4, 4), torch.tensor(0.3)).any())


def test_every_cell_sees_every_other_and_knows_its_place():
    made = network()
    z = torch.randn(1, 2, 6, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(made(z, torch.tensor(0.5))[0, 0, 0, 0], z)
    assert bool((gradient[0].abs().sum(0) > 0).all())
    even = made(torch.ones(1, 2, 4, 4), torch.tensor(0.5))
    patches = to_patches(even, 2)[0]
    assert float((patches[0] - patches[3]).detach().abs().max()) > 1e-3, (
        "equal patches at other places"
    )


def test_context_and_conditions():
    made = network(conditions={"labels": ("class", 3)}, context_dim=5)
    z, t = torch.randn(2, 2, 4, 4), torch.tensor(0.5)
    context = torch.randn(2, 3, 5)
    plain = made(z, t, {"labels": torch.tensor([0, 1])})
    told = made(z, t, {"labels": torch.tensor([0, 1]), "context": context})
    none = made(z, t, {"labels": torch.tensor([0, 1]), "context": context * torch.nan})
    assert float((told - plain).detach().abs().max()) > 1e-4
    # Without a token there is nothing to see; a gate times nothing is nothing.
    torch.testing.assert_close(none, plain)
    with pytest.raises(ConditionError, match="context must be real"):
        made(z, t, {"labels": torch.tensor([0, 1]), "context": torch.randn(2, 3, 4)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 0}, "patch_size"),
        ({"dim": 16, "heads": 3}, "heads"),
        ({"depth": -1}, "depth"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ConfigError, match=message):
        GridTransformer(2, 1, **{"dim": 16, "heads": 2} | options)
    with pytest.raises(InputError, match=r"z must be \(B, 1\)"):
        GridTransformer(2, 1, dim=16)(torch.zeros(1, 2, 4, 4), torch.tensor(0.5))


def test_it_learns_in_the_place_of_the_u_net(tmp_path):
    """Images of one bright row, the number of which is the label: drawn as asked."""
    rng = np.random.default_rng(0)
    y = rng.integers(4, size=200)
    X = 0.1 * rng.standard_normal((200, 4, 4))
    X[np.arange(200), y] += 2
    model = ImageDiffusion(
        network="dit", width=8, depth=2, patch_size=2, heads=2, max_steps=250, batch_size=32,
        lr=3e-3, ema_decay=0.98, dropout=0.0, sample_steps=10, precision="float32",
        progress=False, random_state=0,
    ).fit(X, y)  # fmt: skip
    asked = np.arange(40) % 4
    drawn = model.sample(40, conditions=asked, guidance_scale=2.0, random_state=1)
    assert (drawn.mean(2).argmax(1) == asked).mean() > 0.9
    model.save(tmp_path / "m")
    again = ImageDiffusion.load(tmp_path / "m")
    assert np.array_equal(again.sample(2, random_state=3), model.sample(2, random_state=3))
    with pytest.raises(ConfigError, match="network must be 'unet' or 'dit'"):
        ImageDiffusion(network="mlp", max_steps=2, progress=False).fit(X)
