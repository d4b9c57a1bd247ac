"""Molecules: 3D conformers from SMILES, and new molecules in 3D.

`conformers("CC(=O)Oc1ccccc1C(=O)O")` needs no training: the weights are in the package.
`ConformerDiffusion` learns from ensembles of one's own, `MoleculeDiffusion` generates molecules.
Names load at first use: importing this package imports neither RDKit nor torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scidiffusion import _lazy

if TYPE_CHECKING:
    from scidiffusion.molecules.chem.ase import from_ase as from_ase
    from scidiffusion.molecules.chem.ase import to_ase as to_ase
    from scidiffusion.molecules.chem.checks import validity as validity
    from scidiffusion.molecules.chem.energies import boltzmann_weights as boltzmann_weights
    from scidiffusion.molecules.chem.energies import gfn2_energies as gfn2_energies
    from scidiffusion.molecules.chem.energies import mmff_energies as mmff_energies
    from scidiffusion.molecules.chem.ensembles import align as align
    from scidiffusion.molecules.chem.ensembles import prune as prune
    from scidiffusion.molecules.chem.ensembles import rmsd_matrix as rmsd_matrix
    from scidiffusion.molecules.chem.figures import figures as figures
    from scidiffusion.molecules.chem.files import read_ensembles as read_ensembles
    from scidiffusion.molecules.chem.files import read_molecules as read_molecules
    from scidiffusion.molecules.chem.files import write_sdf as write_sdf
    from scidiffusion.molecules.chem.pictures import draw_conformers as draw_conformers
    from scidiffusion.molecules.chem.pictures import draw_overlay as draw_overlay
    from scidiffusion.molecules.chem.smiles import read_smiles as read_smiles
    from scidiffusion.molecules.chem.stereo import enumerate_stereo as enumerate_stereo
    from scidiffusion.molecules.chem.viewer import write_html as write_html
    from scidiffusion.molecules.chem.xyz import read_xyz as read_xyz
    from scidiffusion.molecules.chem.xyz import write_xyz as write_xyz
    from scidiffusion.molecules.conformer.estimator import ConformerDiffusion as ConformerDiffusion
    from scidiffusion.molecules.conformer.front import conformers as conformers
    from scidiffusion.molecules.denovo import MoleculeDiffusion as MoleculeDiffusion
    from scidiffusion.molecules.torsional.estimator import TorsionDiffusion as TorsionDiffusion
else:
    _CHEM = "scidiffusion.molecules.chem."
    _get, __dir__ = _lazy.attach(
        __name__,
        names={
            "ConformerDiffusion": "scidiffusion.molecules.conformer.estimator",
            "MoleculeDiffusion": "scidiffusion.molecules.denovo",
            "TorsionDiffusion": "scidiffusion.molecules.torsional.estimator",
            "align": _CHEM + "ensembles",
            "boltzmann_weights": _CHEM + "energies",
            "conformers": "scidiffusion.molecules.conformer.front",
            "draw_conformers": _CHEM + "pictures",
            "draw_overlay": _CHEM + "pictures",
            "enumerate_stereo": _CHEM + "stereo",
            "figures": _CHEM + "figures",
            "from_ase": _CHEM + "ase",
            "gfn2_energies": _CHEM + "energies",
            "mmff_energies": _CHEM + "energies",
            "prune": _CHEM + "ensembles",
            "read_ensembles": _CHEM + "files",
            "read_molecules": _CHEM + "files",
            "read_smiles": _CHEM + "smiles",
            "read_xyz": _CHEM + "xyz",
            "rmsd_matrix": _CHEM + "ensembles",
            "to_ase": _CHEM + "ase",
            "validity": _CHEM + "checks",
            "write_html": _CHEM + "viewer",
            "write_sdf": _CHEM + "files",
            "write_xyz": _CHEM + "xyz",
        },
    )

    def __getattr__(name: str) -> Any:
        # A module of Python's own asking for a dunder needs no chemistry.
        if name in __all__:
            _lazy.require("rdkit", "molecules")
        return _get(name)


__all__ = [
    "ConformerDiffusion",
    "MoleculeDiffusion",
    "TorsionDiffusion",
    "align",
    "boltzmann_weights",
    "conformers",
    "draw_conformers",
    "draw_overlay",
    "enumerate_stereo",
    "figures",
    "from_ase",
    "gfn2_energies",
    "mmff_energies",
    "prune",
    "read_ensembles",
    "read_molecules",
    "read_smiles",
    "read_xyz",
    "rmsd_matrix",
    "to_ase",
    "validity",
    "write_html",
    "write_sdf",
    "write_xyz",
]
