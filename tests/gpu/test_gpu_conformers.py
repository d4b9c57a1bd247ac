"""Conformers on a GPU agree with those of the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("rdkit")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_refinement_on_a_gpu_agrees_with_the_cpu():
    from scidiffusion.molecules import conformers
    from scidiffusion.molecules.chem.figures import positions

    here, there = (conformers("CCCO", n=8, seed=0, device=name) for name in ("cpu", "cuda"))
    # Orders by energy may differ where energies are equal: lengths of bonds do not.
    bonds = [(one.GetBeginAtomIdx(), one.GetEndAtomIdx()) for one in here.GetBonds()]
    first, last = np.array(bonds).T

    def lengths(mol: object) -> np.ndarray:
        places = positions(mol)
        return np.sort(np.linalg.norm(places[:, first] - places[:, last], axis=-1), axis=0)

    np.testing.assert_allclose(lengths(here), lengths(there), atol=1e-3)
