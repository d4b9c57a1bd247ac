"""What every test gets: fixed seeds, few threads, a device."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

# The networks of the tests are too small to gain from threads, and threads that wait spin: beside
# anything else on the machine a second one makes the suite many times slower.
# The environment variables must stand before the libraries that read them are imported.
THREADS = 1
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, str(THREADS))
os.environ.setdefault("MPLBACKEND", "Agg")

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(THREADS)

# The same examples in every run: a failure can be repeated, and no run fails by its luck.
hypothesis.settings.register_profile(
    "reproducible", deadline=None, derandomize=True, database=None, max_examples=50
)
hypothesis.settings.load_profile("reproducible")


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Start every test from the same global random state, whatever ran before."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - third-party code draws from the global state
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _default_dtype() -> Iterator[None]:
    """Undo a change of torch's default dtype."""
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


@pytest.fixture(
    scope="session",
    params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)],
)
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device under test: the CPU always, CUDA under the marker ``gpu``."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)
