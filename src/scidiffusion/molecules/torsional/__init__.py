"""Torsional diffusion: the angles of turnable bonds, everything else as an embedding left it."""
