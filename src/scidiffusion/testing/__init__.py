"""Exact oracles and assertion helpers: what this library is proven with, for your tests too."""

from __future__ import annotations

from scidiffusion.testing.assertions import (
    assert_batch_independent,
    assert_density_integrates_to_one,
    assert_equivariant,
    assert_invariant,
    assert_order,
    assert_round_trip,
    assert_same_distribution,
    empirical_order,
    wasserstein_1,
)
from scidiffusion.testing.manifold_oracles import IGSO3MixtureOracle, WrappedMixtureOracle
from scidiffusion.testing.mixtures import GaussianMixtureOracle

__all__ = [
    "GaussianMixtureOracle",
    "IGSO3MixtureOracle",
    "WrappedMixtureOracle",
    "assert_batch_independent",
    "assert_density_integrates_to_one",
    "assert_equivariant",
    "assert_invariant",
    "assert_order",
    "assert_round_trip",
    "assert_same_distribution",
    "empirical_order",
    "wasserstein_1",
]
