"""Rows drawn by Ray depend on the seed, not on the workers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scidiffusion import DensityDiffusion, TabularDiffusion
from scidiffusion.distributed import Part, draw
from scidiffusion.errors import ConfigError, InputError, ModelFileError
from scidiffusion.training.seeding import key_of

QUICK = {"max_steps": 3, "progress": False, "random_state": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(0)
    DensityDiffusion(**QUICK).fit(rng.normal(size=(40, 2))).save(place / "density")
    table = pd.DataFrame({"x": rng.normal(size=60), "c": np.where(np.arange(60) % 2, "a", "b")})
    TabularDiffusion(**QUICK).fit(table).save(place / "table")
    return place


def test_a_part_is_what_the_model_draws_with_the_seed_of_the_part(folder):
    asked = {"n": 25, "rows": 10, "seed": 7, "options": {"steps": 3}}
    part = Part(str(folder / "density"), "cpu", asked)
    model = DensityDiffusion.load(folder / "density")
    model.progress = False
    drawn = [part({"id": np.array([number])})["rows"] for number in range(3)]
    assert [len(one) for one in drawn] == [10, 10, 5]
    expected = model.sample(5, steps=3, random_state=key_of(7, "part", 2))
    assert np.array_equal(drawn[2], expected)
    assert not np.array_equal(drawn[0], drawn[1])


def test_errors_come_before_a_worker_is_started(folder, tmp_path):
    pytest.importorskip("ray")
    (tmp_path / "config.json").write_text('{"estimator": "ConformerDiffusion"}')
    for call, error, message in (
        (lambda: draw(tmp_path / "none", 3), ModelFileError, "there is no model at"),
        (lambda: draw(tmp_path, 3), ModelFileError, "is a ConformerDiffusion; rows are drawn of"),
        (lambda: draw(folder / "density", -1), InputError, "n must be"),
        (lambda: draw(folder / "density", 3, rows=0), ConfigError, "rows must be"),
        (lambda: draw(folder / "density", 3, n_jobs=1, n=2), TypeError, "multiple values"),
    ):
        with pytest.raises(error, match=message):
            call()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_workers_change_nothing(folder):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:

        def rows(workers):
            found = draw(folder / "density", 25, random_state=3, rows=10, workers=workers, steps=3)
            return np.stack(sorted(map(tuple, (row["rows"] for row in found.take_all()))))

        one = rows(1)
        assert one.shape == (25, 2)
        assert np.array_equal(one, rows(2))
        table = draw(folder / "table", 25, rows=10, conditions={"c": "a"}).to_pandas()
        assert len(table) == 25
        assert set(table["c"]) == {"a"}
    finally:
        ray.shutdown()
