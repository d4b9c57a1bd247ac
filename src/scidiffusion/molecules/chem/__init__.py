"""Chemistry by RDKit, without learning: SMILES, stereo, geometries, checks, energies, files."""
