"""A web page that shows conformers in three dimensions, complete in one file.

The page holds the data and a copy of 3Dmol.js (Rego and Koes 2015,
doi:10.1093/bioinformatics/btu829; BSD-3, its licence is in the page). It loads nothing: its
content security policy forbids every connection. Texts of the user reach it as JSON in which `<`
is escaped, and are put in place as plain text, so that no SMILES or name can become a script.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable
from importlib import resources
from os import PathLike
from typing import Any

from rdkit import Chem, rdBase

from scidiffusion._files import write_atomic
from scidiffusion.errors import DataError
from scidiffusion.molecules.chem.ensembles import align, rigid_core
from scidiffusion.molecules.chem.figures import figures, finite_positions, name_of

__all__ = ["write_html"]

PACKAGE = "scidiffusion.molecules.chem"


def write_html(
    path: str | PathLike[str],
    molecules: Chem.Mol | Iterable[Chem.Mol],
    *,
    title: str | None = None,
) -> int:
    """Write a page with all conformers of molecules, for any browser, without a network.

    A slider and a list with energies, weights and checks choose the conformer; all can be shown
    at once, laid on the largest system of rings, or on all heavy atoms where there is none.

    Args:
        path: The HTML file.
        molecules: A molecule or several, each with conformers; energies, weights and flags are
            taken from them (`scidiffusion.molecules.chem.figures`).
        title: Title of the page before its script runs; default the SMILES of the first
            molecule.

    Returns:
        How many molecules the page shows.

    Raises:
        DataError: if there is no molecule, one has no conformer, or a coordinate is not finite.
        OutputError: if the file cannot be written; an older one is as it was.
    """
    several = [molecules] if isinstance(molecules, Chem.Mol) else list(molecules)
    if not several:
        raise DataError(f"there is no molecule to show in {path}")
    shown = [_entry(mol) for mol in several]
    heading = title or (shown[0]["name"] if len(shown) == 1 else f"{len(shown)} molecules")
    data = json.dumps({"molecules": shown}, separators=(",", ":"), allow_nan=False)
    parts = {
        "TITLE": html.escape(heading),
        "LICENSE": _asset("3Dmol-LICENSE.txt"),
        "LIBRARY": _asset("3Dmol-min.js"),
        "DATA": data.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026"),
    }
    # In one pass: what is put in is not searched again.
    page = re.sub("@(TITLE|LICENSE|LIBRARY|DATA)@", lambda m: parts[m[1]], _asset("viewer.html"))
    write_atomic(path, page.encode())
    return len(shown)


def _asset(name: str) -> str:
    return (resources.files(PACKAGE) / "assets" / name).read_text(encoding="utf-8")


def _entry(mol: Chem.Mol) -> dict[str, Any]:
    """One molecule as JSON holds it: elements, bonds, and for each conformer its figures."""
    finite_positions(mol)
    places = finite_positions(align(mol, rigid_core(mol)))
    drawn = Chem.Mol(mol)
    with rdBase.BlockLogs():
        Chem.Kekulize(drawn)
    return {
        "name": name_of(mol),
        "elements": [atom.GetSymbol() for atom in mol.GetAtoms()],
        "bonds": [
            [bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), max(1, int(bond.GetBondTypeAsDouble()))]
            for bond in drawn.GetBonds()
        ],
        "conformers": [
            {
                "coordinates": [round(float(value), 4) for value in place.ravel()],
                "energy": _number(known.energy),
                "method": known.method,
                "weight": _number(known.weight),
                "valid": known.valid,
            }
            for place, known in zip(places, figures(mol), strict=True)
        ],
    }


def _number(value: float | None) -> float | None:
    """JSON knows no NaN."""
    return value if value is not None and math.isfinite(value) else None
