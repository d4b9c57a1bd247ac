"""Write molecules in the format that a file's name asks for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rdkit import Chem

from scidiffusion._files import check_writable_file
from scidiffusion.errors import OutputError
from scidiffusion.molecules.chem.files import write_sdf
from scidiffusion.molecules.chem.pictures import draw_conformers
from scidiffusion.molecules.chem.viewer import write_html
from scidiffusion.molecules.chem.xyz import write_xyz

FORMATS = (".sdf", ".sdf.gz", ".xyz", ".html", ".png")


def check_format(path: Path) -> None:
    """Raise OutputError unless molecules can be written at `path`, before work is spent."""
    if not path.name.endswith(FORMATS):
        raise OutputError(f"cannot write {path}: the name must end in {', '.join(FORMATS)}")
    check_writable_file(path)


def write_molecules(path: Path, molecules: Iterable[Chem.Mol]) -> None:
    """Write molecules with conformers: SDF as they come, or XYZ, a page, or a picture of one.

    Raises:
        OutputError: if the file cannot be written, its name has another ending, or a picture is
            asked for of more than one molecule.
    """
    check_format(path)
    if path.name.endswith((".sdf", ".sdf.gz")):
        write_sdf(path, molecules)
    elif path.suffix == ".xyz":
        write_xyz(path, molecules)
    elif path.suffix == ".html":
        write_html(path, list(molecules))
    else:
        shown = list(molecules)
        if len(shown) != 1:
            raise OutputError(f"{path.name} can show one molecule, not {len(shown)}; use .html")
        draw_conformers(shown[0], path)
