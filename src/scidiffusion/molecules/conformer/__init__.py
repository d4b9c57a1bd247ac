"""Conformers: graph features, the equivariant network, refinement by diffusion, the estimator."""
