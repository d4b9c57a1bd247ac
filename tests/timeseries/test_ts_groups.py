"""Many series in groups: batched or one by one, the network sees the same."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from scidiffusion.timeseries.frequency import calendar_features, normalise_freq
from scidiffusion.timeseries.groups import group_slices, into_batch, out_of_batch
from scidiffusion.timeseries.series import Series, SeriesSet
from scidiffusion.timeseries.window_model import WindowModel


@pytest.mark.parametrize(
    ("series", "largest"), [(1, 8), (8, 8), (9, 8), (20, 8), (370, 8), (7, 3)]
)
def test_groups_are_small_of_one_size_and_hold_every_series_once(series, largest):
    parts = group_slices(series, largest)
    assert [index for part, _ in parts for index in range(part.start, part.stop)] == list(
        range(series)
    )
    assert len(parts) <= 2
    for part, size in parts:
        assert 1 <= size <= largest
        assert (part.stop - part.start) % size == 0


@pytest.mark.parametrize("dim", [1, 2])
def test_groups_come_out_of_the_batch_as_they_went_in(dim):
    value = torch.arange(2 * 6 * 6 * 5).reshape(2, 6, 6, 5)
    batch = into_batch(value, dim, 3)
    assert batch.shape[0] == 4
    assert batch.shape[dim] == 3
    # The second group of the first row is the second row of the batch.
    assert torch.equal(batch[1], value[0].narrow(dim - 1, 3, 3))
    assert torch.equal(out_of_batch(batch, dim, 2), value)


@pytest.mark.parametrize("gaps", [False, True])
def test_an_item_in_groups_is_its_groups_one_by_one(gaps):
    rng = np.random.default_rng(0)
    series = SeriesSet(
        [Series(rng.standard_normal((7, 80)), pd.Period("2020-01-01", freq="D"))], "D"
    )
    options = {"width": 16, "blocks": 1, "encoder_blocks": 1, "max_steps": 6, "validate_every": 3}
    model = WindowModel(4, "D", {**options, "precision": "float32", "max_series": 3})
    model.fit(series, seed=0)
    denoiser, bank = model.denoiser, model.bank_of(series)
    with torch.no_grad():
        for value in denoiser.network.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))
    item, end = torch.zeros(2, dtype=torch.long), torch.tensor([60, 70])

    def velocity(part: torch.Tensor | None) -> torch.Tensor:
        length = model.context if gaps else model.back
        window = bank.windows(item, end, length, model.zone, part)
        if gaps:
            hidden = torch.zeros_like(window.observed)
            hidden[..., ::3] = True
            context = denoiser.gap_context(window, hidden)
        else:
            context = denoiser.forecast_context(window)
        wide = context.frame.base.shape[-1]
        z = torch.randn(2, 5, 7, wide, generator=torch.Generator().manual_seed(2))
        z = z if part is None else z[:, :, part]
        sigma = torch.tensor([[0.1, 0.3, 1.0, 2.0, 5.0], [0.2, 0.4, 0.8, 1.6, 3.2]])
        with torch.no_grad():
            return denoiser.velocity(z, sigma, context)

    together = velocity(None)
    parts = [velocity(torch.arange(first, min(first + 3, 7))) for first in (0, 3, 6)]
    torch.testing.assert_close(together, torch.cat(parts, 2), rtol=1e-4, atol=1e-5)
    assert float(together.abs().max()) > 0.01


@pytest.mark.parametrize("odd", ["24h", "60min", "120min", "48h"])
def test_the_calendar_does_not_depend_on_how_a_frequency_is_spelt(odd):
    plain = pd.period_range("2021-03-05", periods=60, freq=odd)
    same = pd.PeriodIndex(plain.to_timestamp(), freq=normalise_freq(odd))
    np.testing.assert_allclose(calendar_features(plain), calendar_features(same), atol=1e-6)
