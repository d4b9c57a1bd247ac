# %% [markdown]
# # Conformers: from a SMILES to structures with energies
#
# A molecule in solution is not one structure but an ensemble. `conformers` makes one from a SMILES:
# nothing is downloaded, nothing trained.

# %%
from scidiffusion import conformers
from scidiffusion.molecules import draw_conformers, draw_overlay, figures, rmsd_matrix, validity

ibuprofen = conformers("CC(C)Cc1ccc(cc1)[C@@H](C)C(=O)O", n=12, seed=0, prune=0.3)
for known in figures(ibuprofen)[:4]:
    print(f"{known.energy:7.2f} kcal/mol ({known.method}), weight {known.weight:.2f}")

# %% [markdown]
# The molecule is RDKit's: hydrogens are explicit, conformers come by rising energy, and each
# carries its figures. Those nearer than .3 Å to a lower one were left out (`prune`).

# %%
draw_conformers(ibuprofen, columns=4)

# %%
draw_overlay(ibuprofen)

# %% [markdown]
# ## What has been checked
#
# Every conformer passed these checks; what fails one is made again from another start.

# %%
checks = validity(ibuprofen)
for name in ("intact", "bonds", "angles", "clash", "rings", "double", "stereo"):
    print(f"{name:8s} {getattr(checks, name).mean():.0%}")

assert checks.ok.all()

# %% [markdown]
# ## Holding a core
#
# Atoms with given places stay there: a fragment from a crystal structure, say. Here the ring of the
# lowest conformer is held, and the rest is made anew around it.

# %%
import numpy as np
from rdkit import Chem

ring = ibuprofen.GetSubstructMatch(Chem.MolFromSmarts("c1ccccc1"))
places = ibuprofen.GetConformer(0).GetPositions()
held = conformers(
    "CC(C)Cc1ccc(cc1)[C@@H](C)C(=O)O",
    n=4,
    seed=1,
    fixed_core={atom: places[atom] for atom in ring},
)
moved = [np.abs(one.GetPositions() - places)[list(ring)].max() for one in held.GetConformers()]
print("the ring has moved by", max(moved), "Å")

assert max(moved) < 1e-6

# %% [markdown]
# ## Pulling at a distance
#
# Guidance lowers an energy while the walk goes on. The ends of 7-aminoheptan-1-ol are far apart on
# their own:

# %%
free = conformers("OCCCCCCN", n=6, seed=0)
pulled = conformers("OCCCCCCN", n=6, seed=0, target_distances={(0, 7): 4.0}, guidance_scale=2.0)


def apart(molecule):
    return [
        round(float((one.GetAtomPosition(0) - one.GetAtomPosition(7)).Length()), 2)
        for one in molecule.GetConformers()
    ]


print("free  ", apart(free))
print("pulled", apart(pulled))

assert abs(np.mean(apart(pulled)) - 4.0) < 0.7 * abs(np.mean(apart(free)) - 4.0)

# %% [markdown]
# How different the members of an ensemble are, in Å of heavy atoms after the best superposition,
# symmetry taken care of:

# %%
distances = rmsd_matrix(ibuprofen)
print(distances.round(2))

assert distances[np.triu_indices(len(distances), 1)].min() >= 0.3
